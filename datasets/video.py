"""Decode a video file to the frames that ffmpeg would write.

The published annotations count frames as `ffmpeg -i video image_%05d.jpg` writes them: at a
constant rate, repeating or dropping frames as the time stamps ask. PyAV, which is
ffmpeg's own libraries, is used because OpenCV hides what that needs: it reports the time stamp of
the wrong frame behind a B-frame, 0 for the last one, and ends a broken file as if it were whole.

What the libraries leave to ffmpeg's program is in `timing.py` (when a frame is shown), `pixels.py` (how it
stands) and here (which stream). The other way is that program itself, as a pipe of raw frames (PyPI's
imageio-ffmpeg). It takes 150 ms of CPU a UCF-101 video, this way 138, the reference's way 419; it spares
some 220 lines of rules, and not `wholeness.py`, the rate, the damaged packets and PyAV, and its version
decides the frames: two whole files of docs/torture.txt are a frame longer. With the rules all are right.
"""
import contextlib
import re
from fractions import Fraction

import av
from av.format import Flags

from datasets.pixels import upright_sides
from datasets.timing import FrameTimes, PacketTimes, at_new_rate, at_own_rate
from datasets.wholeness import wholeness
from run.console import UserError

# Titles in another encoding than UTF-8 are no reason to refuse a video; PyAV 19 knows that itself.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_ERRORS = (av.FFmpegError, UnicodeDecodeError)
_DEFAULT, _COVER = 1, 1024  # ffmpeg's AV_DISPOSITION_DEFAULT and ATTACHED_PIC
_DEFAULT_RATE = Fraction(25)  # ffmpeg's, for a stream that states none
_LEAST_BYTES = 8  # of a frame that repeats the one before: the head of an empty chunk of an AVI
_GRACE = 10  # seconds that a video may be longer than its header says


@contextlib.contextmanager
def open_video(path):
    """Open a video file and give its `Video`. Raises UserError for a file that is no video."""
    whole = wholeness(path)
    try:
        container = av.open(f"file:{path}", **_LENIENT)  # else the 12 of "12:30.mp4" would be a protocol
    except _ERRORS as error:
        raise UserError(_unreadable(path, whole, error)) from error
    with container:
        yield Video(path, container, whole)


class Video:
    """A video file that is open.

    `rate` is the frame rate that ffmpeg gives it, a Fraction of frames a second; `average_rate` that of its
    frames over its duration, which is less if the rate varies. `is_told` says whether the file promises
    its length, so that one that is cut short is known, and `is_cover` whether it is the picture of a sound
    file. `pixel_aspect` is the width of a pixel over its height. `sides` are width and height of the first
    frame, upright, once that is decoded.
    """

    def __init__(self, path, container, whole):
        self.path = path
        self.is_told = whole.is_told
        self.sides = None
        self._container = container
        self._whole = whole
        self._stream = _stream_of(container)
        if self._stream is None:
            raise UserError(_without_frames(path, whole, "no video stream"))
        self._stream.thread_type = "NONE"  # the processes are the parallelism
        for stream in container.streams:
            if stream is not self._stream and hasattr(stream, "discard"):  # since PyAV 17
                stream.discard = 48  # all: a cut in the sound is none in the frames
        rate = self._stream.guessed_rate or self._stream.base_rate
        self.rate = Fraction(rate) if rate else _DEFAULT_RATE
        self.average_rate = Fraction(self._stream.average_rate or self.rate)
        self.is_cover = bool(_disposition(self._stream) & _COVER)
        self.pixel_aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        self._n_packets = self._n_decoded = 0
        self._end = 0  # seconds, as the file counts
        self._damage = None  # (frames before it, what) of the first packet that does not decode

    def n_claimed(self, fps=None):
        """Return how many frames the header claims, at the own rate or at `fps`; 0 if it claims none."""
        if self.is_cover:
            return 1
        if self._stream.frames and not fps:
            return self._stream.frames
        n_frames = round(self._duration() * (fps or self.rate))
        if self._container.format.flags & Flags.ts_discont.value:  # a guess, from stamps that may jump
            n_frames = min(n_frames, self._container.size // _LEAST_BYTES)
        return n_frames

    def frames(self, fps=None):
        """Yield `(frame, n_copies)` at a constant frame rate, once; `frame` is an `av.VideoFrame`.

        `fps` is the rate in frames a second; None keeps the stream's own, and then the sum of all
        `n_copies` is the number of frames that ffmpeg writes.

        Raises UserError for a video that is cut short or does not decode to its end, after the last frame
        that does, and for one whose time stamps ask for more frames than it can hold.
        """
        rate = self.rate if fps is None else Fraction(fps)
        n_most = max(self._container.size // _LEAST_BYTES, (self._duration() + _GRACE) * rate)
        is_alone = len(self._container.streams) == 1  # then ffmpeg does not repeat a first frame that is late
        if fps is None:
            copies = at_own_rate(self._timed(), rate, is_alone)
        else:
            copies = at_new_rate(self._timed(), rate, is_alone, 1 / self.rate)
        n_frames = 0
        try:
            for frame, n_copies in copies:
                n_frames += n_copies
                if n_frames > n_most:
                    raise UserError(
                        f"{self.path}: damaged: its time stamps jump at frame {n_frames - n_copies + 1} and "
                        f"ask for {n_frames:,} frames, more than the file can hold; write it again (ffmpeg)"
                    )
                yield frame, n_copies
        except _ERRORS as error:  # of the file, not of a packet
            self._damage = self._damage or (self._n_decoded, _words(error))
        self._require_whole()

    def _duration(self):
        """Return the duration in seconds that the container states, 0 if it states none."""
        return Fraction(self._container.duration or 0, av.time_base)

    def _require_whole(self):
        if self._whole.shortfall:
            raise UserError(f"{self.path}: cut short: {self._whole.shortfall}")
        if self._whole.is_encrypted:
            raise UserError(f"{self.path}: encrypted; it needs a key to be decoded")
        if self._damage:
            n_before, what = self._damage
            raise UserError(f"{self.path}: {what}, after {n_before} decoded frames")
        if self._n_decoded == 0:
            raise UserError(f"{self.path}: no frame decodes")
        n_indexed = self._whole.n_packets.get(self._stream.index, 0)
        if self._n_packets < n_indexed:
            raise UserError(f"{self.path}: damaged: {self._n_packets} of {n_indexed} packets can be read")
        stated = self._stated_end()
        if stated - self._end > max(1, stated / 20):
            raise UserError(
                f"{self.path}: damaged or cut short: frames of {float(self._end):.2f} s, its header says "
                f"{float(stated):.2f}"
            )

    def _stated_end(self):
        """Return when the video ends by the header of a Matroska file, in seconds; 0 if that is not known."""
        if self._whole.kind != "matroska":
            return 0
        match = re.match(r"(\d+):(\d\d):(\d\d(?:\.\d{1,9})?)", self._stream.metadata.get("DURATION", ""))
        if match:
            hours, minutes, seconds = map(Fraction, match.groups())
            return min(self._duration(), 3600 * hours + 60 * minutes + seconds)
        return self._duration() if len(self._container.streams) == 1 else 0

    def _timed(self):
        """Yield `(frame, time)` for every frame that decodes, in display order; time is in seconds."""
        times, stamps = PacketTimes(self._container, self._stream, 1 / self.rate), FrameTimes()
        base = self._stream.time_base
        for packet in self._container.demux(self._stream):
            if packet.size == 0 and packet.dts is None:
                break  # PyAV's own, at the end
            if packet.pts is not None:
                self._end = max(self._end, (packet.pts + (packet.duration or 0)) * base)
            times.correct(packet)
            if packet.size == 0:  # "the same frame again", which the time stamps say as well
                continue
            for frame in self._decoded(packet):
                stamp = stamps.stamp(frame)
                time = (frame.dts or 0) * base if stamp is None else stamp * base
                times.shown(time, (frame.duration or 0) * base)
                yield frame, time
        for frame in self._decoded(None):
            stamp = stamps.stamp(frame)
            yield frame, times.after_the_last() if stamp is None else stamp * base

    def _decoded(self, packet):
        """Return the frames that come with a packet, or at the end; note the first that does not decode."""
        self._n_packets += packet is not None
        try:
            frames = self._stream.decode(packet)
        except _ERRORS as error:
            # A recording may begin between two key frames: what comes before the first is not damage.
            if self._n_decoded or packet is None or packet.is_keyframe:
                self._damage = self._damage or (self._n_decoded, _words(error))
            return []
        if packet is not None and packet.is_corrupt and "mpegts" not in self._container.format.name:
            self._damage = self._damage or (self._n_decoded, "cut short: a packet is not whole")
        self._n_decoded += len(frames)
        if frames and self.sides is None:
            self.sides = upright_sides(frames[0])
        return frames


def read_frames(path, fps=None):
    """Open a video and yield its `Video.frames`."""
    with open_video(path) as video:
        yield from video.frames(fps)


def frame_rate(path):
    """Return the own rate of a video that `read_frames` reads, a Fraction of frames a second."""
    with open_video(path) as video:
        return video.rate


def _stream_of(container):
    """Return the video stream that ffmpeg takes: the largest, one that is marked as default before others;
    None if there is none.

    Cover pictures come last. Differs: so do single pictures, where there is a film (motion photos).
    """

    def preference(stream):
        disposition = _disposition(stream)
        n_pixels = (stream.codec_context.width or 0) * (stream.codec_context.height or 0)
        is_film = stream.frames != 1
        return not disposition & _COVER, is_film, n_pixels + 5_000_000 * bool(disposition & _DEFAULT)

    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    return max(streams, key=preference, default=None)


def _disposition(stream):
    return getattr(stream.disposition, "value", stream.disposition)  # PyAV 15 has a flag, 18 a number


def _without_frames(path, whole, what):
    return f"{path}: cut short: {whole.shortfall}" if whole.shortfall else f"{path}: {what}"


def _unreadable(path, whole, error):
    """Return the message for a file that ffmpeg does not open."""
    if whole.shortfall:
        return _without_frames(path, whole, "")
    if isinstance(error, av.InvalidDataError):
        if whole.kind is None:
            return f"{path}: not a video, or of a kind that ffmpeg does not know"
        return f"{path}: damaged: begins as a file of the kind {whole.kind}, and ffmpeg cannot read on"
    return f"{path}: {_words(error)}"


def _words(error):
    """Return what is wrong with a video, in words, for an error of ffmpeg's."""
    if isinstance(error, av.InvalidDataError):
        return "damaged: a packet does not decode"
    if isinstance(error, PermissionError):
        return "encrypted (DRM)"
    return f"damaged, or not to be decoded here: {getattr(error, 'strerror', None) or error}"
