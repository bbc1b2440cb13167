"""Frames on disk: their names, their check against the annotation, and their decoding."""
import contextlib
import os
import struct

import simplejpeg

from opts import UserError, progress_bar


def frame_name(number):
    """Return the file name of a frame, numbered from 1."""
    return f"image_{number:05d}.jpg"


def _frame_number(name):
    """Return the number in a frame's file name, -1 for any other name."""
    digits = name[len("image_") : -len(".jpg")]
    is_frame = digits.isdecimal() and len(digits) < 12 and frame_name(int(digits)) == name
    return int(digits) if is_frame else -1


def _refuse_link_out(real_path, folder):
    if os.path.islink(folder):
        target = os.path.realpath(folder)
        if os.path.commonpath([real_path, target]) != real_path:
            raise UserError(
                f"{folder}: a link out of the frames' folder, to {target}; put the frames in its place, "
                "or link the whole folder of frames"
            )


def check_frames(frames_path, videos, is_shown=True):
    """Raise UserError unless every annotated frame of every video has a file.

    Only names are looked at; a file that does not decode is found when it is read. Folders that are
    links out of `frames_path` are refused: names from a file do not choose what is read elsewhere.
    """
    if not frames_path.is_dir():
        raise UserError(f"{frames_path}: no such folder of frames; run generate_video_jpgs.py first")
    real_path = os.path.realpath(frames_path)
    for class_name in {video.class_name for video in videos}:
        _refuse_link_out(real_path, os.path.join(frames_path, class_name))
    # Made once for all videos; UCF-101's longest has 1,776 frames.
    names_in_order = [frame_name(number) for number in range(10_000)]
    incomplete = []
    bar = {"unit": "video", "desc": "looking for frames", "leave": False, "delay": 1}
    for video in progress_bar(iterable=videos, disable=not is_shown, **bar):
        folder = os.path.join(frames_path, video.class_name, video.name)
        _refuse_link_out(real_path, folder)
        try:
            found = set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            incomplete.append(f"{video.name} (no folder)")
            continue
        n_expected = video.end - video.begin
        if n_expected > len(found):  # an annotation can speak of 10**8 frames: no list of them
            n_found = sum(video.begin <= _frame_number(name) < video.end for name in found)
        elif video.end <= len(names_in_order):
            n_found = len(found.intersection(names_in_order[video.begin : video.end]))
        else:
            n_found = len(found.intersection(map(frame_name, range(video.begin, video.end))))
        if n_found < n_expected:
            incomplete.append(f"{video.name} ({n_found} of {n_expected} frames)")
    if incomplete:
        raise UserError(
            f"{frames_path}: frames missing for {len(incomplete)} of {len(videos)} annotated videos: "
            f"{', '.join(incomplete[:3])}{', ...' if len(incomplete) > 3 else ''}; "
            "run generate_video_jpgs.py, with --repair if it has been run"
        )


def _size(content):
    """Return height and width of a jpg. Raises ValueError for one that does not decode, or of four colours.

    Walks over the segments to the start of a baseline frame; where there is none, the decoder is asked,
    which takes a fifth of the decoding.
    """
    at = 2
    while content[at : at + 1] == b"\xff" and len(content) >= at + 10:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xC0 and content[at + 9] in (1, 3):
            return struct.unpack(">HH", content[at + 5 : at + 9])
        if not (0xE0 <= marker <= 0xEF or marker in (0xDB, 0xC4, 0xDD, 0xFE)):
            break
        at += 2 + length
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    if "K" in colours:
        raise ValueError("four colours; video frames have three")
    return height, width


def frame_size(path):
    """Return `(height, width)` of a jpg file. Raises UserError as `read_frame` does."""
    with _errors_of(path):
        return _size(_content(path))


def read_frame(path, colorspace="RGB", n_reduced=None):
    """Decode a jpg file to `[H, W, 3] uint8 RGB`, the same pixels as Pillow's.

    `colorspace` "RGBX" adds a fourth byte to each pixel. `n_reduced`, a function of height and width,
    returns 1, 2, 4 or 8: by how much the frame is decoded smaller, which is quicker and not exact.

    Raises UserError, naming the file, for one that is missing or does not decode to its last byte.
    """
    with _errors_of(path):
        content = _content(path)
        height, width = _size(content)
    n = 1 if n_reduced is None else n_reduced(height, width)
    with _errors_of(path):
        if n == 1:
            pixels = simplejpeg.decode_jpeg(content, colorspace, fastdct=False, fastupsample=False)
        else:
            height, width = -(-height // n), -(-width // n)
            pixels = simplejpeg.decode_jpeg(
                content, colorspace, True, True, min_height=height, min_width=width, min_factor=n
            )
        if pixels.shape[:2] != (height, width):
            raise ValueError("its first header is of another size")
        return pixels


def _content(path):
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def _errors_of(path):
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(
            f"{path}: does not decode as jpg ({str(error).strip()}); "
            "generate_video_jpgs.py --repair decodes its video again"
        ) from None
