"""When each frame of a video is shown, by the rules of ffmpeg's own program.

The libraries give the time stamps as they stand in the file. The program corrects them before it decodes
(`PacketTimes`), chooses between two stamps of a decoded frame (`FrameTimes`), and repeats or drops frames
for a constant rate (`at_own_rate`). Reference: `fftools/ffmpeg.c` of FFmpeg 5.1, the functions
`process_input`, `decode_video` and `do_video_out`, and `guess_correct_pts` of libavcodec.
"""
import math
from collections import deque
from fractions import Fraction

from av.format import Flags

_JUMP = 10  # seconds: what a format whose time may jump does not do by itself
_NONSENSE = 30 * 3600  # seconds: what no other format does
_BACK = Fraction(1, 10)  # seconds
_TOO_MANY_COPIES = 30 * _NONSENSE
_MICROSECOND = Fraction(1, 1_000_000)
_A_LITTLE, _LATE, _EARLY = Fraction(1, 10), Fraction(11, 10), Fraction(-21, 10)  # slots
_TIE = Fraction(1, 1 << 17)  # of a slot, away from 0: no time stands in the middle of two slots


class PacketTimes:
    """Corrects the time stamps of a video's packets, so that the first is near 0 and none jumps.

    In formats that may be joined or cut anywhere (MPEG-TS, MPEG-PS, Ogg, ...) a jump is taken out; there
    the video's own start counts, elsewhere the container's.
    """

    def __init__(self, container, stream, period):
        """`period` is the time between two frames in seconds, for packets that state none."""
        self._base = stream.time_base
        self._period = period
        # It stores no times of presentation, and what libavformat makes up swaps neighbours around B-frames.
        self._has_pts = container.format.name != "avi"
        self._may_jump = bool(container.format.flags & Flags.ts_discont.value)
        start = Fraction(container.start_time or 0) * _MICROSECOND
        if self._may_jump and stream.start_time is not None:
            start = max(start, stream.start_time * self._base)
        self._offset = -start
        self._next = None  # where the next packet is expected, in decoding order
        self._shown = Fraction(0)  # the end of the last frame that was decoded

    def correct(self, packet):
        """Change the stamps of the next packet. All times here are in seconds."""
        dts = self._seconds(packet.dts)
        pts = self._seconds(packet.pts) if self._has_pts else None
        if dts is not None and self._next is not None:
            jump = dts - self._next
            if self._may_jump:
                if abs(jump) > _JUMP or dts + _BACK < max(self._shown, self._next - self._period):
                    self._offset -= jump
                    dts, pts = dts - jump, None if pts is None else pts - jump
            elif abs(jump) > _NONSENSE:
                dts = None
        if pts is not None and self._next is not None and not self._may_jump:
            pts = None if abs(pts - self._next) > _NONSENSE else pts
        if dts is None:
            dts = self._next if self._next is not None else -self._period * bool(self._n_delayed(packet))
        packet.dts = round(dts / self._base)
        packet.pts = None if pts is None else round(pts / self._base)
        self._next = dts + (packet.duration * self._base if packet.duration else self._period)

    def shown(self, time, duration):
        """Take in when a decoded frame is shown."""
        self._shown = time + (duration or self._period)

    def after_the_last(self):
        """Return the time of a frame that comes out of the decoder at the end, without a stamp."""
        time = self._next or Fraction(0)
        self._next = time + self._period
        return time

    def _seconds(self, stamp):
        return None if stamp is None else stamp * self._base + self._offset

    def _n_delayed(self, packet):
        return packet.stream.codec_context.has_b_frames


class FrameTimes:
    """Chooses between the stamp of presentation and that of decoding, whichever went back less often."""

    def __init__(self):
        self._n_faulty = {"pts": 0, "dts": 0}
        self._last = {"pts": None, "dts": None}

    def stamp(self, frame):
        """Return the stamp of the next frame, in its stream's time base; None if it has neither."""
        pts, dts = frame.pts, frame.dts
        for name, own, other in (("dts", dts, pts), ("pts", pts, dts)):
            if own is not None:
                last = self._last[name]
                self._n_faulty[name] += last is not None and own <= last
            self._last[name] = own if own is not None else other if other is not None else self._last[name]
        if pts is not None and (dts is None or self._n_faulty["pts"] <= self._n_faulty["dts"]):
            return pts
        return dts


def at_own_rate(timed_frames, rate, is_alone):
    """Yield `(frame, n_copies)`: repeat and drop frames as ffmpeg does by default, for a constant rate.

    Small deviations pass; a frame more than 1.1 slots late is preceded by copies of the one before, one more
    than 2.1 slots early is dropped. The first frame is repeated from the file's start on, unless the video
    is the only stream. After the last one come as many copies as before most of the last three.
    """
    previous, slot, is_first = None, 0, True
    n_before = deque((0, 0, 0), 3)  # copies of the frame before, for the last three frames
    for frame, time in timed_frames:
        place = time * rate
        place += _TIE if place > 0 else -_TIE if place < 0 else 0
        if is_alone and is_first and place - slot >= Fraction(1, 2):
            slot = round(place)
            late = Fraction(0)
        else:
            late = place - slot
        n = 0 if late < _EARLY else max(1, round(late + 1)) if late > _A_LITTLE else 1
        n_previous = min(n, round(late - Fraction(6, 10))) if late > _LATE else 0
        n_before.append(n_previous)
        if n > _TOO_MANY_COPIES:  # ffmpeg: "frame duplication too large, skipping"
            continue
        if n_previous and previous is not None:
            yield previous, n_previous
            n -= n_previous
            slot += n_previous
        yield frame, n
        previous, slot, is_first = frame, slot + n, is_first and n == 0
    if previous is not None and sorted(n_before)[1]:
        yield previous, sorted(n_before)[1]


def at_new_rate(timed_frames, rate, is_alone, period):
    """Yield `(frame, n_copies)`: repeat and drop frames to reach another rate, as ffmpeg's `fps` filter does.

    A frame fills the slots from its time to the next one's, the last those of its `period`. The first fills
    those from the file's start on, unless the video is the only stream.
    """
    current, slot, start = None, 0, None if is_alone else Fraction(0)
    for frame, time in timed_frames:
        start = time if start is None else start
        next_slot = math.floor((time - start) * rate + Fraction(1, 2))
        if current is not None:
            yield current, max(0, next_slot - slot)
            slot = max(slot, next_slot)
        current, end = frame, time + period - start
    if current is not None:
        yield current, max(0, math.floor(end * rate + Fraction(1, 2)) - slot)
