"""Videos to frames: ffmpeg's frames in ffmpeg's number, and broken files refused."""
import json
import shutil
import subprocess

import av
import numpy as np
import pytest
import simplejpeg
from moving_shapes import draw_video, write_video
from PIL import Image

from datasets.pixels import encode_frame, rgb_frame, scaled_size
from datasets.video import frame_rate, read_frames
from run.console import UserError

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
REFUSED = ("decord__corrupted", "no_timescale", "result.webm", "bipbop", "invalid_userdata")


def frames_of(path, fps=None):
    return [frame for frame, n_copies in read_frames(path, fps) for _ in range(n_copies)]


def jpg_of(frame, size=240):
    return simplejpeg.decode_jpeg(encode_frame(frame, size, 95))


def ffmpeg(path, *arguments):
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, timeout=120)


def ffmpeg_pngs(path, folder, *arguments):
    """Return the paths of ffmpeg's frames, in order."""
    folder.mkdir()
    ffmpeg(path, *arguments, "-compression_level", 0, folder / "%05d.png")
    return sorted(folder.iterdir())


def rgb_of(png_path):
    return np.asarray(Image.open(png_path).convert("RGB"))


def difference(a, b):
    return np.abs(a.astype(np.int16) - b).mean()


def whole_clips(clips_path):
    return sorted(path for data in ("ucf101", "hmdb51") for path in clips_path.glob(f"{data}/*/*.avi"))


@pytest.fixture
def video(tmp_path):
    """A video of 50 frames of a moving shape, at 25 frames a second."""
    path = tmp_path / "made/v.avi"
    write_video(path, draw_video("MoveDown", 50, np.random.default_rng(0)))
    return path


def other_frame_counts(clips_path, reference_path):
    """Return the UCF-101 videos whose number of frames is not the published one, and how many there are."""
    database = json.loads((reference_path / "ucf101_01.json").read_text())["database"]
    paths = sorted(clips_path.glob("ucf101/*/*.avi"))
    ours = {path.stem: sum(n for _, n in read_frames(path)) for path in paths}
    published = {name: database[name]["annotations"]["segment"][1] - 1 for name in ours}
    return [name for name in ours if ours[name] != published[name]], len(ours)


def test_frame_counts_of_ucf101_equal_the_published_annotation(clips_path, reference_path):
    others, n_videos = other_frame_counts(clips_path, reference_path)
    assert others == [] and n_videos > 0


def assert_same_samples(path):
    raw = ffmpeg(path, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-").stdout
    frames = frames_of(path)
    theirs = np.frombuffer(raw, np.uint8).reshape(len(frames), -1)
    for number, (frame, expected) in enumerate(zip(frames, theirs), start=1):
        error = np.abs(frame.to_ndarray(format="yuv420p").ravel().astype(np.int16) - expected)
        # Two versions of ffmpeg's MPEG-4 decoder round single samples differently, by 1; in the
        # clips at hand less than one sample in a hundred. The frame before or after is far off.
        assert error.max() <= 1 and error.mean() < 0.01, f"{path.name}, frame {number}"


@needs_ffmpeg
def test_every_decoded_frame_is_ffmpegs_in_its_place(clips_path):
    for path in whole_clips(clips_path):
        assert_same_samples(path)


@needs_ffmpeg
def test_every_frame_of_a_variable_rate_video_is_ffmpegs_in_its_place(clips_path):
    assert_same_samples(clips_path / "odd/PySceneDetect__goldeneye-vfr-drop3.mp4")


@needs_ffmpeg
def test_every_jpg_shows_ffmpegs_frame_and_not_its_neighbour(clips_path, tmp_path):
    for path in whole_clips(clips_path):
        pngs = list(map(rgb_of, ffmpeg_pngs(path, tmp_path / path.stem, "-vf", "scale=-1:240")))
        jpgs = [jpg_of(frame) for frame in frames_of(path)]
        assert len(jpgs) == len(pngs), path.name
        own = [difference(*pair) for pair in zip(jpgs, pngs)]
        before = [difference(*pair) for pair in zip(jpgs[1:], pngs)]
        # What jpg at quality 95 and its halved chroma lose: 0.9 to 2.1 grey levels in these clips.
        assert max(own) < 2.5, path.name
        assert np.median(before) > np.median(own), path.name
        # Repeated and still frames are as near to the one before; 0.1 is for their noise.
        assert all(b > a - 0.1 for a, b in zip(own[1:], before)), path.name
        shutil.rmtree(tmp_path / path.stem)


@needs_ffmpeg
def test_every_odd_file_has_ffmpegs_frame_count_or_is_refused(clips_path, tmp_path):
    paths = sorted(clips_path.glob("odd/*"))
    assert len(paths) >= len(REFUSED)
    for path in paths:
        if any(name in path.name for name in REFUSED):
            continue
        assert len(frames_of(path)) == len(ffmpeg_pngs(path, tmp_path / path.name)) > 0, path.name


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_odd_file_is_refused(clips_path, name):
    (path,) = clips_path.glob(f"odd/*{name}*")
    with pytest.raises(UserError) as error:
        frames_of(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@needs_ffmpeg
def test_a_rotated_video_comes_out_upright(clips_path, tmp_path):
    path = clips_path / "odd/decord__video_90.mov"
    pngs = ffmpeg_pngs(path, tmp_path / "pngs", "-vf", "scale=240:-1")
    for frame, png in zip(frames_of(path), map(rgb_of, pngs)):
        jpg = jpg_of(frame)
        assert (frame.height, frame.width) == (320, 568) and jpg.shape == (426, 240, 3)
        assert difference(jpg, png) < 2.5  # jpg's loss, as above
        assert difference(jpg[::-1, ::-1], png) > 10


def error_without_jpg(path):
    """Return how far the frames of `predict.py` are from jpgs of quality 100, in levels of 255: `(largest
    mean, largest mean with its sign)`.
    """
    errors = []
    for frame in frames_of(path)[::40]:
        jpg = simplejpeg.decode_jpeg(encode_frame(frame, 240, 100))
        rgb = rgb_frame(frame, 240)
        assert rgb.shape == jpg.shape and rgb.dtype == np.uint8
        errors.append(rgb.astype(np.int16) - jpg)
    return max(np.abs(error).mean() for error in errors), max(abs(error.mean()) for error in errors)


def videos_without_jpg(clips_path):
    return [*whole_clips(clips_path), *clips_path.glob("odd/decord__video_90.mov")]


# Quality 100 still rounds (`make parity`), with a mean of up to 0.1; swscale's RGB is 0.7 darker.
WITHOUT_JPG_BOUND = 0.5


def test_pixels_without_jpg_are_those_of_a_jpg_that_loses_nothing(clips_path):
    for path in videos_without_jpg(clips_path):
        error, mean = error_without_jpg(path)
        assert error < WITHOUT_JPG_BOUND and mean < 0.2, path.name


def test_pixels_without_jpg_are_those_of_odd_sides_too(video):
    for sides in ((81, 61), (33, 60), (60, 33)):
        frame = frames_of(video)[0].reformat(*sides)
        jpg = simplejpeg.decode_jpeg(encode_frame(frame, min(sides), 100))
        error = rgb_frame(frame, min(sides)).astype(np.int16) - jpg
        assert np.abs(error).mean() < 0.5


def test_a_video_whose_name_means_something_to_ffmpeg_is_read_by_its_name(video):
    for name in ("12:30.avi", "%03d.avi", "a|b,c.avi", "-x.avi", "file:v.avi"):
        path = video.rename(video.with_name(name))
        assert len(frames_of(path)) == 50 and frame_rate(path) == 25
        video = path


def test_a_made_video_gives_its_frames_back(video):
    drawn = draw_video("MoveDown", 50, np.random.default_rng(0))[..., ::-1]
    decoded = [jpg_of(frame, size=60) for frame in frames_of(video)]
    assert len(decoded) == 50 and decoded[0].shape == (60, 80, 3)
    for number, frame in enumerate(decoded):
        near = range(max(0, number - 3), min(50, number + 4))  # further off the motion comes round
        assert min(near, key=lambda other: difference(frame, drawn[other])) == number


@pytest.mark.parametrize("part", [0.1, 0.6, 0.99])
def test_a_video_that_is_cut_short_is_refused(video, part):
    content = video.read_bytes()
    video.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError, match="v.avi: cut short"):
        frames_of(video)


@pytest.mark.parametrize("content, told", [(b"", "empty file"), (b"no video\n" * 100, "not a video, or")])
def test_a_file_that_is_no_video_is_refused(video, content, told):
    video.write_bytes(content)
    with pytest.raises(UserError, match=f"v.avi: {told}"):
        frames_of(video)


@pytest.mark.parametrize("fps", [10, 12.5, 24, 50])
def test_another_frame_rate_keeps_the_duration(video, fps):
    # 50 frames at 25 a second are 2 seconds; ffmpeg's filter `fps` gives the same counts.
    assert len(frames_of(video, fps)) == 2 * fps


@pytest.mark.parametrize(
    "width, height, size, scaled",
    [
        (320, 240, 240, (320, 240)),
        (240, 320, 240, (240, 320)),
        (424, 240, 240, (424, 240)),
        (640, 360, 240, (427, 240)),
        (360, 640, 240, (240, 427)),
        (176, 144, 240, (293, 240)),
        (321, 240, 120, (161, 120)),  # 160.5: halves go up, as in ffmpeg
        (100, 100, 240, (240, 240)),
        (1, 1, 240, (240, 240)),
    ],
)
def test_the_short_side_is_scaled_as_ffmpeg_rounds(width, height, size, scaled):
    assert scaled_size(width, height, size) == scaled


def test_a_portrait_video_has_its_width_scaled(video):
    frame = frames_of(video)[0].reformat(60, 80)
    assert jpg_of(frame, size=30).shape == (40, 30, 3)
    assert jpg_of(frame, size=31).shape == (41, 31, 3)


def frame_of(height, width, seed=0, format="yuv420p"):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=format)


def test_frames_that_share_a_reformatter_are_those_that_do_not():
    kinds = [(48, 64, "yuv420p"), (48, 64, "yuv444p"), (64, 48, "yuv420p"), (60, 48, "gray")]
    kinds.append((48, 64, "yuvj420p"))  # its range is the jpg's already
    frames = [frame_of(h, w, seed, kind) for seed in range(3) for h, w, kind in kinds]
    reformatters = {}
    for frame in frames:
        assert encode_frame(frame, 32, 80, reformatters) == encode_frame(frame, 32, 80)
    assert len(reformatters) == len(kinds)


@pytest.mark.parametrize("width, height", [(81, 60), (80, 61), (81, 61)])
def test_the_last_column_and_row_of_an_odd_size_are_the_frames_own(width, height):
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2], rgb[: height // 2] = 255, 255  # what libjpeg-turbo would read after a row's end
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
    decoded = simplejpeg.decode_jpeg(encode_frame(frame, min(width, height), 30))
    assert decoded.shape == rgb.shape
    # A flat block comes back flat, to a level of rounding: black next to white would not.
    assert decoded[-4:, -4:].max() <= 3
