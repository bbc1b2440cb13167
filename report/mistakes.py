"""The videos that were taken for another class, with pictures of their frames."""
import base64
import io

from report.maps import heated
from run.console import UserError

N_MISTAKES, N_FRAMES, FRAME_HEIGHT = 20, 5, 96


def frame_numbers(sample):
    """Return the numbers of the frames that are shown of a video."""
    n = sample.end - sample.begin
    return [sample.begin + (2 * i + 1) * n // (2 * N_FRAMES) for i in range(N_FRAMES)]


def mistakes(videos, run, frames_path, maps_of):
    """Return the videos that were taken for another class, the highest score first, with their frames.

    `maps_of` are the maps of `report.maps.read_maps`.
    """
    wrong = [video for video in videos if video.taken_for not in (None, video.class_name)]
    wrong.sort(key=lambda video: -video.result[0][1])
    store, why_not = _open_frames(frames_path) if wrong else (None, "")
    cards = []
    for video in wrong[:N_MISTAKES]:
        maps = maps_of.get(video.sample.key)
        strip, why_no_strip = (None, "") if store is None else _strip(store, video.sample, maps)
        cards.append(
            {
                "key": video.sample.key,
                "class_name": video.class_name,
                "taken_for": video.taken_for,
                "score": video.result[0][1],
                "own_score": dict(video.result).get(video.class_name),
                "clips": None if run is None else run["videos"][video.sample.key],
                "has_maps": strip is not None and maps is not None,
                "strip": None if strip is None else base64.b64encode(strip).decode(),
                "why_not": why_no_strip,
            }
        )
    return {"n": len(wrong), "cards": cards, "n_frames": N_FRAMES, "why_not": why_not}


def _open_frames(path):
    """Return the store of the frames and "", or None and why there is none."""
    if not path.exists():
        return None, f"there is no folder {path} (--video_path)"
    try:
        import PIL.Image  # noqa: F401  (for `_strip`)

        from datasets.stores import open_store

        return open_store(path), ""
    except (UserError, OSError, ImportError) as error:
        return None, str(error)


def _strip(store, sample, maps):
    """Return a jpg of a video's frames side by side and "", or None and why there is none.

    With maps, a second row has the frames with them.
    """
    from PIL import Image

    from datasets.samples import Samples

    try:
        store.check(Samples([sample]), is_shown=False)
        with store.reader(sample.folder) as reader:
            images = [Image.fromarray(reader.decode(number)) for number in frame_numbers(sample)]
    except (UserError, OSError) as error:
        return None, str(error)
    width = max(1, min(3 * FRAME_HEIGHT, round(images[0].width * FRAME_HEIGHT / images[0].height)))
    images = [image.convert("RGB").resize((width, FRAME_HEIGHT)) for image in images]
    rows = [images] if maps is None else [images, heated(images, maps)]
    strip = Image.new("RGB", ((width + 2) * N_FRAMES - 2, (FRAME_HEIGHT + 2) * len(rows) - 2))
    for j, row in enumerate(rows):
        for i, image in enumerate(row):
            strip.paste(image, (i * (width + 2), j * (FRAME_HEIGHT + 2)))
    content = io.BytesIO()
    strip.save(content, "JPEG", quality=75)
    return content.getvalue(), ""
