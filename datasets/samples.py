"""Samples, what a data set is made of, in columns, and which names they may have."""
import zlib
from array import array
from typing import NamedTuple


class Sample(NamedTuple):
    """What a clip is cut from: the frames `begin` to `end - 1` of a video.

    `folder` is where the video's frames lie below the frames' root, mostly "<Class>/<video>"; an absolute one
    lies under another root. `class_index` is -1 without a label.
    """

    key: str
    folder: str
    class_index: int
    begin: int
    end: int


class Texts:
    """A column of texts, one after the other in one piece of memory, which readers share after a fork.

    Python's own texts take three times as much, and each look at one writes its count of references.
    """

    def __init__(self):
        self._bytes, self._ends = bytearray(), array("Q")

    def append(self, text):
        """Add a text at the end."""
        self.append_utf8(text.encode())

    def append_utf8(self, text):
        """Add the UTF-8 bytes of a text at the end."""
        self._bytes += text
        self._ends.append(len(self._bytes))

    def extend(self, texts):
        """Add texts at the end."""
        for text in texts:
            self.append(text)

    def __len__(self):
        return len(self._ends)

    def __getitem__(self, index):
        index = range(len(self._ends))[index]
        return self._bytes[self._ends[index - 1] if index else 0 : self._ends[index]].decode()

    def __iter__(self):
        begin = 0
        for end in self._ends:
            yield self._bytes[begin:end].decode()
            begin = end

    def __eq__(self, other):
        return isinstance(other, Texts) and (self._ends, self._bytes) == (other._ends, other._bytes)


class Samples:
    """The samples of a subset, `Sample`s kept in columns, since Kinetics has 650,000 of them."""

    def __init__(self, samples=()):
        self.keys, self.folders = Texts(), Texts()
        self.class_indices, self.begins, self.ends = array("i"), array("i"), array("i")
        for sample in samples:
            self.append(*sample)

    def append(self, key, folder, class_index, begin, end):
        """Add a sample at the end."""
        self.append_utf8(key.encode(), folder.encode(), class_index, begin, end)

    def append_utf8(self, key, folder, class_index, begin, end):
        """Add a sample whose texts are UTF-8 bytes."""
        self.keys.append_utf8(key)
        self.folders.append_utf8(folder)
        self.class_indices.append(class_index)
        self.begins.append(begin)
        self.ends.append(end)

    def with_classes(self, indices):
        """Return the same samples with class index `indices[i]` in place of i, -1 too."""
        other = self + Samples()
        other.class_indices = array("i", [indices[index] for index in self.class_indices])
        return other

    def _columns(self):
        return self.keys, self.folders, self.class_indices, self.begins, self.ends

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return Sample(*(column[index] for column in self._columns()))

    def __iter__(self):
        return map(Sample, *self._columns())

    def __eq__(self, other):
        return isinstance(other, Samples) and self._columns() == other._columns()

    def __add__(self, other):
        total = Samples()
        for column, *parts in zip(total._columns(), self._columns(), other._columns()):
            for part in parts:
                column.extend(part)
        return total

    def checksum(self):
        """Return the CRC-32 of all columns, the same on every machine."""
        crc = 0
        for column in self._columns():
            crc = zlib.crc32("".join(f"{value}\n" for value in column).encode(), crc)
        return crc


def is_safe_name(name):
    """Tell whether a name from a file can only be a folder's entry, and not lead out of the folder."""
    is_text = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= 255
    return is_text and "/" not in name and "\\" not in name and name not in (".", "..")


def is_safe_path(path):
    """Tell whether a path from a file is one of plain names, and cannot lead out of a folder."""
    return isinstance(path, str) and all(map(is_safe_name, path.split("/")))


def default_folder(key, class_name):
    """Return where an entry without `video_path` has its frames; `class_name` is None without a label."""
    return f"{'test' if class_name is None else class_name}/{key}"
