"""Stage 1: videos to jpg frames, and the annotation files of the splits of UCF-101, HMDB-51 or your own.

    python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101

writes dataset/UCF-101-jpg/<Class>/<video>/image_00001.jpg, ... and dataset/ucf101_01.json, _02, _03,
and prints the number of videos, classes and frames and the size of each split. For HMDB-51 the files are
called hmdb51_01.json, ...; for a folder of your own there is one, of the name of the frames' folder. A
second run decodes what is missing. `--check` reads all frames of a finished folder, `--repair` decodes
again what is damaged. `--flow` writes optical flow instead of pixels, as `datasets/flow.py` says.
"""
import contextlib
import os

from opts import generate_options
from run.console import UserError, first_names, note, progress_bar, run_script

if __name__ == "__main__":
    OPTIONS = generate_options()  # before PyAV, so that --help answers at once

import csv
import io
import statistics

from datasets.annotation import SUBSETS, annotation_json, note_only_class, read_annotation
from datasets.extraction import (
    FramesFolder,
    extract,
    require_apart,
    require_frames_folder,
    sample_size,
)
from datasets.flow import require_opencv
from datasets.samples import Samples
from datasets.sources import load_source, samples_of
from datasets.workers import TaskFailed, in_processes
from run.files import DiskFull, atomic_write, check_free_space, run_lock
from run.spec import is_near


def main(options):
    source = load_source(options.dataset)
    if options.check and not options.repair:
        check(source, options)
        return
    require_apart(options.dst_path, options.dir_path)
    if options.frame_spec.modality == "flow":
        require_opencv()
    if options.repair:
        repair(source, options)
    else:
        generate(source, options)


def generate(source, options):
    """Decode the videos that are not done yet and write the annotations."""
    videos, splits = find(source, options)
    require_frames_folder(options.dst_path, may_be_new=True)
    with run_lock(options.dst_path / ".lock"):
        frames = FramesFolder(options.dst_path, options.frame_spec)
        extract_all(videos, frames, options)
        write_annotations(source, videos, splits, frames, options)


def check(source, options):
    """Print what is wrong with the frames of a finished folder; raise UserError if anything is."""
    require_frames_folder(options.dst_path, may_be_new=False)
    # Nobody is at work in a folder that is read-only; it can be checked all the same.
    is_writable = os.access(options.dst_path, os.W_OK)
    with run_lock(options.dst_path / ".lock") if is_writable else contextlib.nullcontext():
        frames = FramesFolder(options.dst_path)
        damaged = print_damage(source, frames, options)
        if damaged:
            raise UserError(
                f"{described(frames)}: {len(damaged)} damaged; decode these again from the videos with "
                "--repair"
            )
        print(f"{described(frames)}: all whole")


def repair(source, options):
    """Check, decode what is damaged again, and write the annotations."""
    videos, splits = find(source, options)
    require_frames_folder(options.dst_path, may_be_new=False)
    with run_lock(options.dst_path / ".lock"):
        frames = FramesFolder(options.dst_path, options.frame_spec)
        damaged = print_damage(source, frames, options)
        if not damaged:
            print(f"{described(frames)}: all whole")
        require_videos(damaged, videos)
        frames.forget(damaged)
        extract_all(videos, frames, options)
        for folder in damaged:
            print(f"{folder}: decoded again, {frames.entries[folder]['n_frames']} frames")
        write_annotations(source, videos, splits, frames, options)


def find(source, options):
    """Return the videos and the splits, `{key: subset}`; found before hours of decoding, as they may fail."""
    videos = source.find_videos(options.dir_path, options.source_options)
    splits = source.splits(videos, options.source_options)
    if hasattr(source, "missing_videos"):
        write_missing(source, videos, options)
    return videos, splits


def write_missing(source, videos, options):
    """Note the videos that are listed and not here, and write them to a file beside the annotation."""
    missing = source.missing_videos(videos, options.source_options)
    (annotation_path,) = source.annotation_paths(options.dst_path)
    path = annotation_path.with_name(f"{annotation_path.stem}_missing.csv")
    if not missing:
        path.unlink(missing_ok=True)  # of an earlier run
        return
    text = io.StringIO()
    csv.writer(text).writerows([("video", "label", "subset"), *missing])
    atomic_write(path, text.getvalue())
    names, n = first_names([entry.video for entry in missing]), len(missing)
    note(f"{n} of {n + len(videos)} listed videos are not in {options.dir_path}: {names}; all in {path}")


def described(frames):
    n_frames = sum(entry["n_frames"] for entry in frames.entries.values())
    return f"{frames.path}: {len(frames.entries)} videos, {n_frames} frames"


def extract_all(videos, frames, options):
    """Extract the videos that are not done yet.

    Raises UserError with the list of videos that failed, after all others are done.
    """
    missing = missing_videos(videos, frames, options.allow_partial)
    frames.check_links([video.folder for video in missing])
    check_space([video.path for video in missing], frames.store, options)
    # Before any is redone: a line left from before would count for frames that are not on disk yet.
    frames.forget({video.folder for video in missing})
    tasks = [(video.path, frames.store, video.folder, options.allow_partial) for video in missing]
    failures, untold = [], []
    bar = progress_bar(
        total=len(videos), initial=len(videos) - len(missing), unit="video", desc="decoding"
    )
    results = in_processes(extract, tasks, options.n_jobs, options.time_limit)
    with bar, contextlib.closing(results):
        try:
            for (path, _, folder, _), result in results:
                if isinstance(result, DiskFull):
                    raise result
                if isinstance(result, UserError):
                    is_unnamed = isinstance(result, TaskFailed)
                    failures.append(f"{path}: {result}" if is_unnamed else str(result))
                else:
                    frames.add(folder, result)
                    untold += [] if result.is_told else [folder]
                bar.update()
        finally:
            results.close()  # ends the processes first: what they leave is deleted here
            frames.store.remove_temporaries()
            frames.journal.flush()
    if failures:
        raise UserError(
            f"{len(failures)} of {len(videos)} videos do not decode, the others are done; no annotation "
            "was written. Replace or delete these (--allow_partial keeps what decodes of some) and run the "
            "same command again:\n  " + "\n  ".join(sorted(failures))
        )
    if untold:
        note(
            f"{len(untold)} videos are of a kind that does not say how long it should be, so a cut one would "
            f"not be known: {first_names(sorted(untold))}"
        )
    entries = [frames.entries[video.folder] for video in videos]
    note_rates(entries, frames.store.spec)
    partial = [f"{entry['video']} ({entry['partial']})" for entry in entries if "partial" in entry]
    if partial:
        note(f"{len(partial)} videos are there in part only:\n  " + "\n  ".join(partial))


def note_rates(entries, spec):
    """Note the videos whose frame rate is unusual for the set: a clip of them spans another time."""
    rates = {entry["video"]: entry["fps"] for entry in entries if "fps" in entry}
    if spec.fps or not rates:
        return
    median = statistics.median_low(rates.values())
    unusual = [name for name, rate in sorted(rates.items()) if not is_near(rate, median, median)]
    if unusual:
        shown = [f"{name} ({rates[name]:g})" for name in unusual]
        note(
            f"{len(unusual)} of {len(rates)} videos have a frame rate far from the median of {median:g} "
            f"frames a second, so their clips span another time: {first_names(shown)}; --fps {median:g}, "
            "into another folder, resamples all to one rate"
        )


def missing_videos(videos, frames, allow_partial):
    """Return the videos that are not done yet, and those whose file is another one since; note these."""
    replaced = [video.folder for video in videos if frames.is_replaced(video.folder, video.path)]
    if replaced:
        note(
            "decoded again, because the file is another one than that which the frames were made of: "
            f"{len(replaced)} of {len(videos)} videos, {first_names(replaced)}"
        )
    redone = set(replaced)
    return [v for v in videos if v.folder in redone or not frames.is_done(v.folder, allow_partial)]


def check_space(paths, store, options, n_samples=8):
    """Raise UserError if the disk is too small for the frames of videos, estimated from a few of them."""
    tasks = [(path, store) for path in paths[:: max(1, len(paths) // n_samples)]]
    n_bytes = n_frames = n_sampled = 0
    # A video that takes long here is left to the extraction, which reports it.
    results = in_processes(sample_size, tasks, options.n_jobs, min(20, options.time_limit))
    bar = progress_bar(total=len(tasks), unit="video", desc="estimating the space", leave=False, delay=1)
    with bar, contextlib.closing(results):
        for (path, _), result in results:
            bar.update()
            if not isinstance(result, UserError) and result[1]:
                n_sampled += n_bytes_of(path)
                n_bytes, n_frames = n_bytes + result[0], n_frames + result[1]
    if n_sampled:
        scale = sum(map(n_bytes_of, paths)) / n_sampled
        n_files = round(n_frames * scale) if store.one_file_a_frame else len(paths)
        check_free_space(store.path, n_bytes * scale, n_files, f"the frames of {len(paths)} videos")


def n_bytes_of(path):
    """Return the size of a file, 0 for one that cannot be read: extraction reports it."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def print_damage(source, frames, options):
    """Read all frames of a finished folder and print what is wrong; return the damaged videos' folders."""
    tasks = [(folder, entry["n_frames"]) for folder, entry in frames.entries.items()]
    findings = {folder: ["not in the journal"] for folder in frames.unknown()}
    bar = progress_bar(total=len(tasks), unit="video", desc="checking")
    results = in_processes(frames.store.verify, tasks, options.n_jobs, options.time_limit)
    with bar, contextlib.closing(results):
        for (folder, _), result in results:
            if result:
                findings[folder] = [str(result)] if isinstance(result, UserError) else result
            bar.update()
    for path in source.annotation_paths(options.dst_path):
        for folder, text in wrong_lengths(path, source, frames):
            findings.setdefault(folder, []).append(text)
    for folder in sorted(findings):
        texts = findings[folder]
        more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
        print(f"{folder}: {'; '.join(texts[:3])}{more}")
    return sorted(findings)


def wrong_lengths(annotation_path, source, frames):
    """Yield the folder of each sample for which an annotation file has another length, and what it says."""
    if not annotation_path.exists():
        return
    may_be_shorter = hasattr(source, "samples")
    for samples in read_annotation(annotation_path).subsets.values():
        for sample in samples:
            n_said = sample.end - 1
            n_frames = frames.entries.get(sample.folder, {}).get("n_frames", 0)
            if n_said > n_frames or (n_said < n_frames and not may_be_shorter):
                text = f"{annotation_path.name} says {n_said} frames, there are {n_frames or 'no'}"
                yield sample.folder, text


def require_videos(damaged, videos):
    """Raise UserError unless every damaged video can be decoded again; nothing is dropped before."""
    lost = sorted(set(damaged).difference(video.folder for video in videos))
    if lost:
        raise UserError(
            f"{len(lost)} of {len(damaged)} damaged videos are not among the videos given "
            f"({first_names(lost)}); nothing was changed, give the folder that has them as dir_path"
        )


def write_annotations(source, videos, splits, frames, options):
    """Write the annotation file of each split and print how many videos there are."""
    names = source.class_names(videos, options.source_options)
    n_frames = sum(frames.entries[video.folder]["n_frames"] for video in videos)
    print(f"{options.dst_path}: {len(videos)} videos, {len(names)} classes, {n_frames} frames")
    note_only_class(options.dst_path, names)
    unit = "samples" if hasattr(source, "samples") else "videos"
    for path, subset_of in zip(source.annotation_paths(options.dst_path), splits):
        subsets = subsets_of(source, videos, subset_of, names, frames, options)
        note_moved(path, subsets)
        atomic_write(path, annotation_json(names, subsets))
        sizes = [f"{len(samples)} {subset}" for subset, samples in subsets.items()]
        sizes = sizes if len(subsets["testing"]) else sizes[:2]
        n_unused = len(videos) - len(subset_of)
        print(f"{path}: {', '.join(sizes)} {unit}" + (f", {n_unused} unused" if n_unused else ""))
        if hasattr(source, "summary"):
            print(*source.summary(names, subsets), sep="\n")


def subsets_of(source, videos, subset_of, names, frames, options):
    """Return the `Samples` of each subset of a split."""
    index_of = {name: index for index, name in enumerate(names)}
    subsets = {subset: Samples() for subset in SUBSETS}
    for video in videos:
        if video.key in subset_of:
            entry = frames.entries[video.folder]
            length = entry["n_frames"], entry.get("fps", frames.store.spec.fps)
            for key, class_name, begin, end in samples_of(source, video, *length, options.source_options):
                index = -1 if class_name is None else index_of[class_name]
                subsets[subset_of[video.key]].append(key, video.folder, index, begin, end)
    return subsets


def note_moved(path, subsets):
    """Note how many samples were in another subset, in the annotation that is there already.

    A sample is known by its key, or by its folder, since keys get their class when names repeat.
    """
    now = {}
    for subset, samples in subsets.items():
        now.update(dict.fromkeys([*samples.folders, *samples.keys], subset))
    moved = []
    with contextlib.suppress(UserError):  # none there yet, or a broken one
        for subset, samples in read_annotation(path).subsets.items():
            pairs = zip(samples.keys, samples.folders)
            moved += [key for key, folder in pairs if now.get(key, now.get(folder, subset)) != subset]
    if moved:
        text = "videos change their subset, and networks trained before may know them"
        note(f"{path}: {len(moved)} {text}: {first_names(moved)}")


if __name__ == "__main__":
    run_script(main, OPTIONS)
