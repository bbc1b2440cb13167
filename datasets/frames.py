"""Frames on disk: their names, their check against the annotation, and their decoding."""
import os

import simplejpeg

from opts import UserError


def frame_name(number):
    """Return the file name of a frame, numbered from 1."""
    return f"image_{number:05d}.jpg"


def count_frames(video_path):
    """Return how many frames a video's folder holds.

    Raises UserError where they are not numbered from 1 without a gap.
    """
    names = {name for name in os.listdir(video_path) if name.endswith(".jpg")}
    missing = next((n for n in range(1, len(names) + 1) if frame_name(n) not in names), None)
    if missing or not names:
        raise UserError(
            f"{video_path}: {frame_name(missing or 1)} is missing; "
            "delete the folder and run generate_video_jpgs.py again"
        )
    return len(names)


def check_frames(frames_path, videos):
    """Raise UserError unless every annotated frame of every video has a file.

    Only names are looked at; a file that does not decode is found when it is read.
    """
    if not frames_path.is_dir():
        raise UserError(f"{frames_path}: no such folder of frames; run generate_video_jpgs.py first")
    longest = max(video.end for video in videos)
    names_in_order = [frame_name(number) for number in range(longest)]
    incomplete = []
    for video in videos:
        try:
            found = set(os.listdir(frames_path / video.class_name / video.name))
        except (FileNotFoundError, NotADirectoryError):
            incomplete.append(f"{video.name} (no folder)")
            continue
        expected = names_in_order[video.begin : video.end]
        if not found.issuperset(expected):
            n_found = len(found.intersection(expected))
            incomplete.append(f"{video.name} ({n_found} of {len(expected)} frames)")
    if incomplete:
        raise UserError(
            f"{frames_path}: frames missing for {len(incomplete)} of {len(videos)} annotated videos: "
            f"{', '.join(incomplete[:3])}{', ...' if len(incomplete) > 3 else ''}; "
            "delete their folders and run generate_video_jpgs.py again"
        )


def read_frame(path):
    """Decode a jpg file to `[H, W, 3] uint8 RGB`, the same pixels as Pillow's.

    Raises UserError, naming the file, for one that is missing or does not decode to its last byte.
    """
    try:
        with open(path, "rb") as file:
            return simplejpeg.decode_jpeg(file.read(), fastdct=False, fastupsample=False)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(
            f"{path}: does not decode as jpg ({str(error).strip()}); "
            "delete the video's folder and run generate_video_jpgs.py again"
        ) from None
