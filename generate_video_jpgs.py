"""Stage 1: videos to jpg frames, and the annotation files of the splits of UCF-101, HMDB-51 or your own.

    python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101

writes dataset/UCF-101-jpg/<Class>/<video>/image_00001.jpg, ... and dataset/ucf101_01.json, _02, _03,
and prints the number of videos, classes and frames and the size of each split. For HMDB-51 the files are
called hmdb51_01.json, ...; for a folder of your own there is one, of the name of the frames' folder. A
second run decodes what is missing. `--check` reads all frames of a finished folder, `--repair` redoes
what is damaged.
"""
import contextlib
import os

from opts import UserError, generate_options, note, progress_bar, run

if __name__ == "__main__":
    OPTIONS = generate_options()  # before PyAV, so that --help answers at once

from datasets import folder, hmdb51, ucf101
from datasets.annotation import Video, annotation_json, read_annotation
from datasets.extraction import (
    FramesFolder,
    check_video,
    extract,
    in_processes,
    require_frames_folder,
    sample_size,
)
from disk import DiskFull, only_run, require_space, write_file

# How a dataset's videos are found and split, and what its annotation files are called.
DATASETS = {"ucf101": ucf101, "hmdb51": hmdb51, "folder": folder}


def name_of(path):
    """Return `<Class>/<video>` of a video file."""
    return f"{path.parent.name}/{path.stem}"


def extract_all(paths, frames, options):
    """Extract the videos that are not done yet; return the number of frames of each, in order.

    Raises UserError with the list of videos that failed, after all others are done.
    """
    missing = [path for path in paths if not frames.is_done(name_of(path), options.allow_partial)]
    frames.check_links([name_of(path) for path in missing])
    check_space(missing, frames, options)
    # Before any is redone: a line left from before would count for frames that are not on disk yet.
    frames.forget({name_of(path) for path in missing})
    arguments = (*frames.settings.values(), options.allow_partial)
    tasks = [(path, frames.path / name_of(path), *arguments) for path in missing]
    failures = []
    bar = progress_bar(
        total=len(paths), initial=len(paths) - len(missing), unit="video", desc="decoding"
    )
    results = in_processes(extract, tasks, options.n_jobs, options.time_limit)
    with bar, contextlib.closing(results):
        try:
            for (path, *_), result in results:
                if isinstance(result, DiskFull):
                    raise result
                if isinstance(result, UserError):
                    text = str(result)
                    failures.append(text if text.startswith(str(path)) else f"{path}: {text}")
                else:
                    frames.add(name_of(path), *result)
                bar.update()
        finally:
            results.close()  # ends the processes first: what they leave is deleted here
            frames.remove_temporaries()
            frames.journal.flush()
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} videos do not decode, the others are done; no annotation "
            "was written. Replace or delete these (--allow_partial keeps what decodes of some) and run the "
            "same command again:\n  " + "\n  ".join(sorted(failures))
        )
    entries = [frames.entries[name_of(path)] for path in paths]
    partial = [f"{entry['video']} ({entry['partial']})" for entry in entries if "partial" in entry]
    if partial:
        note(f"{len(partial)} videos are there in part only:\n  " + "\n  ".join(partial))
    return [entry["n_frames"] for entry in entries]


def check_space(missing, frames, options, n_samples=8):
    """Raise UserError where the disk is too small for the frames, estimated from a few videos."""
    samples = missing[:: max(1, len(missing) // n_samples)]
    tasks = [(path, *frames.settings.values()) for path in samples]
    n_bytes = n_frames = n_sampled = 0
    # A video that takes long here is left to the extraction, which tells of it.
    results = in_processes(sample_size, tasks, options.n_jobs, min(20, options.time_limit))
    with contextlib.closing(results):
        for (path, *_), result in results:
            if not isinstance(result, UserError) and result[1]:
                n_sampled += path.stat().st_size
                n_bytes, n_frames = n_bytes + result[0], n_frames + result[1]
    if n_sampled:
        scale = sum(path.stat().st_size for path in missing) / n_sampled
        what = f"the frames of {len(missing)} videos"
        require_space(frames.path, n_bytes * scale, round(n_frames * scale), what)


def check_all(frames, annotation_paths, options):
    """Read all frames of a finished folder and print what is wrong; return the damaged videos' names."""
    size = frames.settings["size"]
    tasks = [(frames.path / name, entry["n_frames"], size) for name, entry in frames.entries.items()]
    names = {frames.path / name: name for name in frames.entries}
    findings = {name: ["not in the journal"] for name in frames.unknown()}
    bar = progress_bar(total=len(tasks), unit="video", desc="checking")
    results = in_processes(check_video, tasks, options.n_jobs, options.time_limit)
    with bar, contextlib.closing(results):
        for (path, *_), result in results:
            if result:
                findings[names[path]] = [str(result)] if isinstance(result, UserError) else result
            bar.update()
    n_frames_of = {name.split("/")[1]: entry["n_frames"] for name, entry in frames.entries.items()}
    for path in annotation_paths:
        if path.exists():
            for video in sum(read_annotation(path).videos.values(), []):
                if n_frames_of.get(video.name) != video.end - 1:
                    name, n = f"{video.class_name}/{video.name}", n_frames_of.get(video.name, "no")
                    text = f"{path.name} says {video.end - 1} frames, there are {n}"
                    findings.setdefault(name, []).append(text)
    for name in sorted(findings):
        texts = findings[name]
        more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
        print(f"{name}: {'; '.join(texts[:3])}{more}")
    return sorted(findings)


def require_videos(damaged, paths):
    """Raise UserError unless every damaged video can be decoded again; nothing is dropped before."""
    lost = sorted(set(damaged).difference(map(name_of, paths)))
    if lost:
        raise UserError(
            f"{len(lost)} of {len(damaged)} damaged videos are not among the videos given "
            f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}); nothing was changed, "
            "give the folder that has them as dir_path"
        )


def write_annotation(path, paths, n_frames, subset_of):
    """Write the annotation file of a split, `{video: subset}`; return its `{subset: [Video]}`.

    Notes videos that were in another subset before.
    """
    labels = folder.class_labels(path.parent.name for path in paths)
    label_of = {name: label for label, name in enumerate(labels)}
    videos = {"training": [], "validation": []}
    for video_path, n in zip(paths, n_frames):
        name, class_name = video_path.stem, video_path.parent.name
        if name in subset_of:
            videos[subset_of[name]].append(Video(name, class_name, label_of[class_name], 1, n + 1))
    moved = []
    with contextlib.suppress(UserError):  # none there yet, or a broken one
        for subset, members in read_annotation(path).videos.items():
            moved += [video.name for video in members if subset_of.get(video.name, subset) != subset]
    if moved:
        text = "videos change their subset, and networks trained before may know them"
        note(f"{path}: {len(moved)} {text}: {folder.listed(moved)}")
    write_file(path, annotation_json(labels, videos))
    return videos


def main(options):
    checks = options.check or options.repair
    dataset = DATASETS[options.dataset]
    annotation_paths = dataset.annotation_paths(options.dst_path)
    paths = [] if checks and not options.repair else dataset.find_videos(options.dir_path)
    # Before hours of decoding: the split of these names may be impossible.
    splits = paths and dataset.subsets(
        paths,
        lists_path=options.annotation_dir_path,
        val_fraction=options.val_fraction,
        split_by=options.split_by,
        seed=options.manual_seed,
    )
    require_frames_folder(options.dst_path, may_be_new=not checks)
    # Nobody is at work in a folder that is read-only; it can be checked all the same.
    is_locked = options.repair or not checks or os.access(options.dst_path, os.W_OK)
    settings = {"size": options.size, "quality": options.quality, "fps": options.fps}
    with only_run(options.dst_path / ".lock") if is_locked else contextlib.nullcontext():
        frames = FramesFolder(options.dst_path, settings if paths else None)
        if checks:
            damaged = check_all(frames, annotation_paths, options)
            n_frames = sum(entry["n_frames"] for entry in frames.entries.values())
            summary = f"{options.dst_path}: {len(frames.entries)} videos, {n_frames} frames"
            if not damaged:
                print(f"{summary}: all whole")
            elif not options.repair:
                raise UserError(
                    f"{summary}: {len(damaged)} damaged; decode these again from the videos with --repair"
                )
            if not options.repair:
                return
            require_videos(damaged, paths)
            frames.forget(damaged)
        n_frames = extract_all(paths, frames, options)
        for name in damaged if checks else ():
            print(f"{name}: decoded again, {frames.entries[name]['n_frames']} frames")
        n_classes = len({path.parent.name for path in paths})
        print(f"{options.dst_path}: {len(paths)} videos, {n_classes} classes, {sum(n_frames)} frames")
        for path, subset_of in zip(annotation_paths, splits):
            videos = write_annotation(path, paths, n_frames, subset_of)
            n_unused = len(paths) - len(subset_of)
            print(
                f"{path}: {len(videos['training'])} training, {len(videos['validation'])} validation videos"
                + (f", {n_unused} unused" if n_unused else "")
            )
            if dataset is folder:
                print(*folder.counts_by_class(videos), sep="\n")


if __name__ == "__main__":
    run(main, OPTIONS)
