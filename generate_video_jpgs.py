"""Stage 1: videos to jpg frames, and the annotation files of UCF-101's three splits.

    python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101

writes dataset/UCF-101-jpg/<Class>/<video>/image_00001.jpg, ... and dataset/ucf101_01.json, _02, _03,
and prints the number of videos, classes and frames and the size of each split. A second run decodes
what is missing.
"""
import json
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from opts import DISK_FULL, UserError, generate_options, progress_bar, run, write_file

if __name__ == "__main__":
    OPTIONS = generate_options()  # before PyAV, so that --help answers at once

from datasets.annotation import Video, annotation_json
from datasets.frames import count_frames, frame_name
from datasets.ucf101 import SPLITS, class_labels, find_videos, read_split_lists, subset_by_group
from datasets.video import encode_frame, read_frames


def extract(path, folder, size, quality, fps=None):
    """Decode one video to a folder of frames, which appears only when complete; return their number.

    Raises UserError for a video that does not decode as a whole.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
    temporary.mkdir(parents=True)
    n_frames = 0
    try:
        for frame, n_copies in read_frames(path, fps):
            content = encode_frame(frame, size, quality) if n_copies else None
            for _ in range(n_copies):
                n_frames += 1
                (temporary / frame_name(n_frames)).write_bytes(content)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return n_frames


def check_settings(dst_path, settings):
    """Write the settings of the frames beside them; refuse to mix them with other settings."""
    path = dst_path / "settings.json"
    if not path.exists():
        write_file(path, json.dumps(settings))
        return
    try:
        existing = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path}: broken; delete the folder {dst_path} and run again") from None
    if existing != settings:
        raise UserError(
            f"{dst_path}: holds frames made with {existing}, this run has {settings}; "
            "use the same settings or another folder"
        )


def extract_all(paths, dst_path, n_jobs, **settings):
    """Extract the videos that have no folder yet; return the number of frames of each, in order.

    Raises UserError with the list of videos that failed, after all others are done.
    """
    folders = [dst_path / path.parent.name / path.stem for path in paths]
    n_frames = {folder: count_frames(folder) for folder in folders if folder.is_dir()}
    missing = [(path, folder) for path, folder in zip(paths, folders) if folder not in n_frames]
    failures = []
    # Ctrl-C reaches the workers too; they ignore it and finish the video that they are at.
    ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with progress_bar(
        total=len(paths), initial=len(n_frames), unit="video", desc="decoding"
    ) as bar, ProcessPoolExecutor(n_jobs, initializer=ignore_interrupts) as pool:
        futures = {pool.submit(extract, path, folder, **settings): folder for path, folder in missing}
        try:
            for future in as_completed(futures):
                try:
                    n_frames[futures[future]] = future.result()
                except UserError as error:
                    failures.append(str(error))
                bar.update()
        except BrokenProcessPool:
            raise UserError(
                "a decoding process died (out of memory?); finished videos are kept: "
                "run the same command again, with a smaller --n_jobs"
            ) from None
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(
                f"{dst_path}: disk full after {len(n_frames)} of {len(paths)} videos, which are kept; "
                "free some space and run the same command again"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} videos do not decode, the others are done; no annotation "
            "was written. Replace or delete these and run the same command again:\n  "
            + "\n  ".join(sorted(failures))
        )
    return [n_frames[folder] for folder in folders]


def write_annotations(paths, n_frames, dst_path, lists_path=None):
    """Write the annotation files of the three splits next to the frames' folder; yield a line each."""
    labels = class_labels(path.parent.name for path in paths)
    label_of = {name: label for label, name in enumerate(labels)}
    for split in SPLITS:
        lists = read_split_lists(lists_path, split) if lists_path else None
        videos = {"training": [], "validation": []}
        for path, n in zip(paths, n_frames):
            if lists is None:
                subset = subset_by_group(path.stem, split)
            elif path.stem in lists:
                subset = lists[path.stem]
            else:
                raise UserError(f"{path.stem}: in no list of split {split} in {lists_path}")
            class_name = path.parent.name
            videos[subset].append(Video(path.stem, class_name, label_of[class_name], 1, n + 1))
        annotation_path = dst_path.parent / f"ucf101_{split:02d}.json"
        write_file(annotation_path, annotation_json(labels, videos))
        n_training, n_validation = len(videos["training"]), len(videos["validation"])
        yield f"{annotation_path}: {n_training} training, {n_validation} validation videos"


def main(options):
    paths = find_videos(options.dir_path)
    settings = {"size": options.size, "quality": options.quality, "fps": options.fps}
    check_settings(options.dst_path, settings)
    n_frames = extract_all(paths, options.dst_path, options.n_jobs, **settings)
    n_classes = len({path.parent.name for path in paths})
    print(f"{options.dst_path}: {len(paths)} videos, {n_classes} classes, {sum(n_frames)} frames")
    for line in write_annotations(paths, n_frames, options.dst_path, options.annotation_dir_path):
        print(line)


if __name__ == "__main__":
    run(main, OPTIONS)
