"""A folder for each video, a jpg file for each frame, as the reference has: `<video>/image_00001.jpg`."""
import contextlib
import functools
import os
import shutil
import struct

import simplejpeg

from datasets.flow import flow_size
from datasets.stores import FrameReader, FrameStore
from run.console import UserError
from run.files import disk_full_named

_FOLDER_BYTES = 4096  # what an empty folder takes on most disks


def frame_name(number):
    """Return the file name of a frame, numbered from 1."""
    return f"image_{number:05d}.jpg"


def _frame_number(name):
    """Return the number in a frame's file name, -1 for any other name."""
    digits = name[len("image_") : -len(".jpg")]
    is_frame = digits.isdecimal() and len(digits) < 12 and frame_name(int(digits)) == name
    return int(digits) if is_frame else -1


@functools.cache
def _first_frame_names():
    """Return the names of the frames by number, as many as most videos have: UCF-101's longest has 1,776."""
    return [frame_name(number) for number in range(10_000)]


def recognises(path):
    """Tell whether a folder without a journal holds frames of this kind."""
    return next(path.glob("*/*/image_*.jpg"), None) is not None


class Store(FrameStore):
    """Frames as jpg files in a folder for each video."""

    one_file_a_frame = True

    def place(self, folder):
        """Return the path of a video's folder."""
        return os.path.join(self.path, folder)

    def videos(self):
        """Return the folders of all videos that are there, finished or not."""
        places = (path for path in self.path.glob("[!.]*/[!.]*") if path.is_dir())
        return [f"{place.parent.name}/{place.name}" for place in places]

    def count(self, folder, begin, end):
        """Return how many of its frames `begin` to `end - 1` a video has, None if it has no folder."""
        try:
            found = set(os.listdir(self.place(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if end - begin > len(found):  # an annotation can speak of 10**8 frames: no list of them
            return sum(begin <= _frame_number(name) < end for name in found)
        names = _first_frame_names()
        is_short = end <= len(names)
        return len(found.intersection(names[begin:end] if is_short else map(frame_name, range(begin, end))))

    def reader(self, folder):
        """Return a `Reader` of a video's frames."""
        return Reader(self.place(folder))

    @contextlib.contextmanager
    def writer(self, folder):
        """Give `write(jpg_bytes)`, to call with each frame in order; the folder appears at the end."""
        place, temporary = self.place(folder), self.temporary_path(folder)
        n_frames = 0

        def write(content):
            nonlocal n_frames
            n_frames += 1
            path = temporary / frame_name(n_frames)
            with disk_full_named(path, len(content)):
                path.write_bytes(content)

        try:
            with disk_full_named(place, _FOLDER_BYTES):
                temporary.mkdir(parents=True)
                yield write
                shutil.rmtree(place, ignore_errors=True)  # one that no journal names
                os.rename(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def verify(self, folder, n_frames):
        """Read every frame of a finished video; return what is wrong as a list of texts."""
        place = self.place(folder)
        try:
            names = set(os.listdir(place))
        except (FileNotFoundError, NotADirectoryError):
            return ["no folder"]
        except OSError as error:
            return [f"the folder cannot be read: {error.strerror}"]
        expected = {frame_name(number) for number in range(1, n_frames + 1)}
        findings = [f"{name} is missing" for name in sorted(expected - names)]
        findings += [f"{name} does not belong there" for name in sorted(names - expected)]
        first, is_flow = None, self.modality == "flow"
        for name in sorted(expected & names):
            try:
                content = _content(f"{place}/{name}")
                *shape, colours, _ = simplejpeg.decode_jpeg_header(content)
                _decoded(content, _size(content), "RGB", 1)
            except OSError as error:
                findings.append(f"{name} cannot be read: {error.strerror}")
                continue
            except ValueError:
                findings.append(f"{name} does not decode as jpg")
                continue
            shape = list(flow_size(shape)) if is_flow else shape
            first = first or shape
            if colours != ("Gray" if is_flow else "YCbCr"):
                kind = "grey" if is_flow else "colour"
                findings.append(f"{name} is {colours}, not a {kind} jpg as stage 1 writes it")
            elif min(shape) != self.spec.size or shape != first:
                size = f"{shape[1]} x {shape[0]}"
                findings.append(f"{name} is {size}, not of short side {self.spec.size} as the others")
        return findings


class Reader(FrameReader):
    """The jpg files of one folder. A file whose size was asked is held in memory until it is decoded."""

    def __init__(self, folder):
        self._folder = folder
        self._held = {}

    def size(self, number):
        """Return height and width of a frame, without decoding it."""
        return self._read(number)[1]

    def decode(self, number, colorspace="RGB", reduction=1):
        """Return a frame as `[H, W, 1, 3 or 4] uint8`, Pillow's own pixels if it is not reduced."""
        content, size = self._read(number)
        del self._held[number]
        with _errors_of(self._path(number)):
            return _decoded(content, size, colorspace, reduction)

    def _path(self, number):
        return f"{self._folder}/{frame_name(number)}"

    def _read(self, number):
        if number not in self._held:
            with _errors_of(self._path(number)):
                content = _content(self._path(number))
                self._held[number] = content, _size(content)
        return self._held[number]


def _content(path):
    with open(path, "rb") as file:
        return file.read()


def _size(content):
    """Return height and width of a jpg. Raises ValueError for one that does not decode, or of four colours.

    Walks over the segments to the start of a baseline frame; if there is none, the decoder is asked,
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


def _decoded(content, size, colorspace, reduction):
    """Decode a jpg of the size that its header gives. Raises ValueError if that is not to its last byte."""
    if reduction == 1:
        pixels = simplejpeg.decode_jpeg(content, colorspace, fastdct=False, fastupsample=False)
    else:
        size = height, width = tuple(-(-side // reduction) for side in size)
        pixels = simplejpeg.decode_jpeg(
            content, colorspace, True, True, min_height=height, min_width=width, min_factor=reduction
        )
    if pixels.shape[:2] != size:
        raise ValueError("its first header is of another size")
    return pixels


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
