"""Text that users bring: lists and JSON from editors and shells of any system."""
import codecs
import json
from pathlib import Path

import pytest

from datasets.annotation import read_annotation
from datasets.sources import SourceVideo, hmdb51, ucf101
from prediction.finding import named_videos
from run.console import UserError
from run.text import decoded

READABLE = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
MARKED = [
    codecs.BOM_UTF16_LE + "é\n".encode("utf-16-le"),
    codecs.BOM_UTF16_BE + "é\n".encode("utf-16-be"),
    codecs.BOM_UTF32_BE + "é\n".encode("utf-32-be"),
]


@pytest.mark.parametrize("content", MARKED)
def test_a_mark_tells_the_encoding(content):
    assert decoded(content, "list.txt") == "é\n"


@pytest.mark.parametrize("encoding", READABLE)
def test_split_lists_in_any_unicode_are_read(tmp_path, encoding):
    keys = ["v_Jonglieren_é_g01", "v_Jonglieren_g02"]
    video = lambda key: SourceVideo(Path(f"videos/Up/{key}.avi"), f"Up/{key}", key, "Up")
    for split in (1, 2, 3):
        lines = "".join(f"{key}.avi {code}\r\n" for key, code in zip(keys, "12"))
        (tmp_path / f"Up_test_split{split}.txt").write_bytes(lines.encode(encoding))
        (tmp_path / f"trainlist{split:02d}.txt").write_bytes(f"{keys[0]}.avi 1\r\n".encode(encoding))
        (tmp_path / f"testlist{split:02d}.txt").write_bytes(f"Up/{keys[1]}.avi\r\n".encode(encoding))
    expected = [{keys[0]: "training", keys[1]: "validation"}] * 3
    options = {"annotation_dir_path": tmp_path}
    assert hmdb51.splits(list(map(video, keys)), options) == expected
    assert ucf101.splits(list(map(video, keys)), options) == expected


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "utf-16-le"])
def test_a_list_in_another_encoding_is_one_line_with_the_way_out(tmp_path, encoding):
    text = {"gbk": "射箭.avi 1\n", "latin-1": "é.avi 1\n", "utf-16-le": "a.avi 1\n"}[encoding]
    path = tmp_path / "trainlist01.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError) as error:
        ucf101.read_split_lists(tmp_path, 1)
    assert str(error.value).startswith(f"{path}: not UTF-8 text (") and "\n" not in str(error.value)
    assert f"iconv -f GBK -t UTF-8 {path} > converted" in str(error.value)


@pytest.mark.parametrize("encoding", READABLE)
def test_an_annotation_that_notepad_saved_is_read(tmp_path, encoding):
    entry = {"subset": "training", "annotations": {"label": "é", "segment": [1, 9]}}
    content = json.dumps({"labels": ["é"], "database": {"v": entry}}, ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(content.encode(encoding))
    assert read_annotation(tmp_path / "a.json").class_names == ["é"]


@pytest.mark.parametrize("encoding", READABLE)
def test_a_list_on_stdin_may_begin_with_a_mark(tmp_path, encoding):
    names = ["é.avi", "b.avi"]
    for name in names:
        (tmp_path / name).touch()
    lines = "".join(f"{name}\r\n" for name in names).encode(encoding).splitlines(keepends=True)
    assert list(named_videos(["-"], tmp_path, lines)) == [tmp_path / name for name in names]


def test_a_name_of_other_bytes_is_found_and_one_that_is_not_there_says_why(tmp_path):
    lines = ["é.avi\n".encode("latin-1"), b"gone.avi\n", b"a\0b\n", b"b.avi"]
    error, *others = named_videos(["-"], tmp_path, lines)
    assert "no such file, and its line on stdin is not UTF-8; convert the list" in str(error)
    assert others[0] == tmp_path / "gone.avi" and others[2] == tmp_path / "b.avi"
    assert str(others[1]) == "stdin: holds NUL bytes; expected a path a line"
    found = bytes(tmp_path) + "/é.avi".encode("latin-1")
    open(found, "w").close()
    assert bytes(next(named_videos(["-"], tmp_path, lines))) == found
    (error,) = named_videos(["-"], tmp_path, [codecs.BOM_UTF16_LE + b"a"])
    assert str(error).startswith("stdin: not UTF-16 text (")
