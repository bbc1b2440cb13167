"""Tell whether a video file is whole, by what the file itself promises about its length.

ffmpeg plays half a file as if it were whole. What tells the two apart is in the container: the length of an
AVI's RIFF chunk, of Matroska's Segment, of an ASF file, the place of an MP4's last sample, FLV's closing
length, Ogg's last page, the end code of an MPEG program stream. A transport stream, a raw stream and a file
that was written live promise nothing.
"""
import struct
from typing import NamedTuple

from run.console import UserError

_ASF_HEADER = bytes.fromhex("3026B2758E66CF11A6D900AA0062CE6C")
_ASF_FILE_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
_MP4_BOXES = b"ftyp moov mdat moof free skip wide pnot sidx styp uuid emsg prft mfra meta".split()
_MP4_PARENTS = b"moov trak mdia minf stbl".split()


class Wholeness(NamedTuple):
    """What a file promises: `kind` of container or None, `shortfall` a text if it is cut short, `is_told`
    whether it promises anything, `is_encrypted` whether it says that a key is needed, `n_packets` how many
    packets that are not empty each stream has by the file's index, `{}` if that does not say.
    """

    kind: str = None
    shortfall: str = None
    is_told: bool = False
    is_encrypted: bool = False
    n_packets: dict = {}


def wholeness(path):
    """Return the `Wholeness` of a file. Raises UserError for an empty one."""
    with open(path, "rb") as file:
        head = file.read(1024)
        n_bytes = file.seek(0, 2)
        if n_bytes == 0:
            raise UserError(f"{path}: empty file")
        for starts, read in (
            (head[:4] == b"RIFF", _riff),
            (head[:4] == b"\x1a\x45\xdf\xa3", _matroska),
            (head[:16] == _ASF_HEADER, _asf),
            (head[:4] == b"FLV\x01", _flv),
            (head[:4] == b"OggS", _ogg),
            (head[:4] == b"\0\0\1\xba", _program_stream),
            (head[4:8] in _MP4_BOXES, _mp4),
        ):
            if starts:
                try:
                    return read(file, n_bytes)
                except (struct.error, IndexError):  # damaged, or of a kind that is new: the decoder will tell
                    return Wholeness(read.__name__.strip("_"))
    return Wholeness()


def _at(file, position, n):
    file.seek(position)
    return file.read(n)


def _by_length(kind, n_bytes, n_expected):
    text = f"{n_bytes:,} bytes, its header says {n_expected:,}" if n_bytes < n_expected else None
    return Wholeness(kind, text, True)


def _riff(file, n_bytes):
    """AVI: a RIFF chunk after the other (OpenDML), each with its length; 0 in one that was never finished."""
    position, n_riffs = 0, 0
    while position + 12 <= n_bytes and _at(file, position, 4) == b"RIFF":
        n_riffs += 1
        (length,) = struct.unpack("<I", file.read(4))
        if length in (0, 0xFFFFFFFF):
            return Wholeness("avi")
        position += 8 + length + length % 2
    whole = _by_length("avi", n_bytes + n_bytes % 2, position)
    return whole if whole.shortfall or n_riffs > 1 else whole._replace(n_packets=_indexed(file, n_bytes))


def _indexed(file, n_bytes):
    """Return `{stream: packets that are not empty}` by an AVI's index, {} if it has none."""
    position, n_packets = 12, {}
    while position + 8 <= n_bytes:
        name, length = struct.unpack("<4sI", _at(file, position, 8))
        if name == b"idx1":
            index = file.read(length // 16 * 16)
            for chunk, _, _, size in struct.iter_unpack("<4sIII", index):
                if chunk[2:] in (b"dc", b"db") and chunk[:2].isdigit() and size:
                    n_packets[int(chunk[:2])] = n_packets.get(int(chunk[:2]), 0) + 1
        position += 8 + length + length % 2
    return n_packets


def _matroska(file, n_bytes):
    """Matroska, WebM: an EBML header and a Segment, whose length is all ones if it was written live."""
    position = 4
    position += sum(_vint(file, position))
    if _at(file, position, 4) != b"\x18\x53\x80\x67":
        return Wholeness("matroska")
    length, n = _vint(file, position + 4)
    if length == (1 << 7 * n) - 1:
        return Wholeness("matroska")
    return _by_length("matroska", n_bytes, position + 4 + n + length)


def _vint(file, position):
    """Return an EBML number and how many bytes it takes."""
    first = _at(file, position, 1)[0]
    n = 9 - first.bit_length()
    rest = file.read(n - 1)
    if first == 0 or len(rest) < n - 1:
        raise IndexError
    return int.from_bytes(bytes([first - (1 << 8 - n)]) + rest, "big"), n


def _asf(file, n_bytes):
    """WMV: the file's length in the file properties, unless it was broadcast."""
    (length,) = struct.unpack("<Q", _at(file, 16, 8))
    header = _at(file, 0, min(length, 1 << 20))
    at = header.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(header) < at + 92:
        return Wholeness("asf")
    (length,), (flags,) = struct.unpack_from("<Q", header, at + 40), struct.unpack_from("<I", header, at + 88)
    return Wholeness("asf") if flags & 1 or length == 0 else _by_length("asf", n_bytes, length)


def _flv(file, n_bytes):
    """FLV: every tag is followed by its length, the last one too."""
    (length,) = struct.unpack(">I", _at(file, n_bytes - 4, 4))
    tag = _at(file, n_bytes - 4 - length, 4) if 11 <= length < n_bytes - 4 else b""
    if len(tag) == 4 and tag[0] & 31 in (8, 9, 18) and int.from_bytes(tag[1:], "big") == length - 11:
        return Wholeness("flv", None, True)
    return Wholeness("flv", "it ends inside a packet", True)


def _ogg(file, n_bytes):
    """Ogg: the last page has a mark; the end of a file that was cut does not."""
    end = _at(file, max(0, n_bytes - 70_000), 70_000)
    last = end.rfind(b"OggS")
    return Wholeness("ogg", None, last >= 0 and bool(end[last + 5] & 4))


def _program_stream(file, n_bytes):
    """MPEG, VOB: an end code, which many do not write."""
    return Wholeness("mpeg", None, _at(file, n_bytes - 4, 4) == b"\0\0\1\xb9")


def _mp4(file, n_bytes):
    """MP4, MOV: the place of the last video sample; in fragments, the length of the last box."""
    boxes, moov, n_expected = set(), b"", 0
    for name, begin, end in _top_boxes(file, n_bytes):
        boxes.add(name)
        if name == b"moov":
            moov = _at(file, begin, end - begin)
        if name == b"moof" or name == (b"mdat" if b"moof" in boxes else b"moov"):
            n_expected = max(n_expected, end)
    is_encrypted = b"encv" in moov
    if n_expected > n_bytes:
        return _by_length("mp4", n_bytes, n_expected)._replace(is_encrypted=is_encrypted)
    if b"moof" in boxes:
        return Wholeness("mp4", None, True, is_encrypted)
    if not moov:
        is_cut = b"mdat" in boxes and b"meta" not in boxes  # a picture (HEIC) has no moov
        return Wholeness("mp4", "its index (the moov box) is missing" if is_cut else None)
    ends = _sample_ends(moov)
    is_short = bool(ends) and max(ends) > n_bytes
    text = f"{n_bytes:,} bytes, its frames need {max(ends):,}" if is_short else None
    return Wholeness("mp4", text, bool(ends), is_encrypted)


def _top_boxes(file, n_bytes):
    """Yield `(name, begin, end)` of the content of each box of the file itself."""
    position = 0
    while position + 8 <= n_bytes:
        length, name = struct.unpack(">I4s", _at(file, position, 8))
        n_head = 8
        if length == 1:
            (length,), n_head = struct.unpack(">Q", file.read(8)), 16
        if length == 0:
            length = n_bytes - position
        if length < n_head:
            return
        yield name, position + n_head, position + length
        position += length


def _inner_boxes(content):
    """Yield `(name, content)` of the boxes in a box, those that only hold others being opened."""
    position = 0
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if length < 8:
            return
        inner = content[position + 8 : position + length]
        yield name, inner
        if name in _MP4_PARENTS:
            yield from _inner_boxes(inner)
        position += length


def _sample_ends(moov):
    """Return where the last chunk of each video track ends, [] if the index names no sample."""
    ends, is_video, tables = [], False, {}
    for name, content in _inner_boxes(moov):
        if name == b"trak":
            is_video, tables = False, {}
        elif name == b"hdlr" and content[4:8] != b"dhlr":  # MOV has a second one, of the data
            is_video = content[8:12] == b"vide"
        elif name in (b"stsc", b"stsz", b"stco", b"co64"):
            tables[name] = content
            if is_video and {b"stsc", b"stsz"} < tables.keys():
                ends += _last_chunk_end(tables)
                tables = {}
    return ends


def _last_chunk_end(tables):
    wide = b"co64" in tables
    chunks = tables[b"co64" if wide else b"stco"]
    size, n_samples = struct.unpack_from(">II", tables[b"stsz"], 4)
    (n_runs,), (n_chunks,) = (struct.unpack_from(">I", table, 4) for table in (tables[b"stsc"], chunks))
    if not (n_runs and n_chunks and n_samples):
        return []
    _, n_last, _ = struct.unpack_from(">III", tables[b"stsc"], 8 + 12 * (n_runs - 1))
    (begin,) = struct.unpack_from(">Q" if wide else ">I", chunks, 8 + (8 if wide else 4) * (n_chunks - 1))
    n_last = min(n_last, n_samples)
    if size:
        return [begin + n_last * size]
    sizes = struct.unpack_from(f">{n_last}I", tables[b"stsz"], 12 + 4 * (n_samples - n_last))
    return [begin + sum(sizes)]
