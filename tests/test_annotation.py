"""The two JSON files: read as written, and refused with the file's name where malformed."""
import copy
import json
import math

import pytest

from datasets.annotation import Video, annotation_json, read_annotation, read_results
from opts import UserError

LABELS = ["ApplyEyeMakeup", "Archery"]
VIDEOS = {
    "training": [Video("v_b_g08_c01", "Archery", 1, 1, 132), Video("v_é (1)!", "Archery", 1, 5, 6)],
    "validation": [Video("v_a_g01_c01", "ApplyEyeMakeup", 0, 1, 166)],
    "testing": [],
}
ANNOTATION = json.loads(annotation_json(LABELS, VIDEOS))
RESULTS = {"results": {"v": [{"label": "Archery", "score": 0.7}, {"label": "Run", "score": 0.3}]}}


def set_in(content, keys, value):
    """Return a copy of nested dictionaries and lists with one value replaced."""
    if not keys:
        return value
    content = copy.deepcopy(content)
    parent = content
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    return content


def refused(read, path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_an_annotation_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(annotation_json(LABELS, VIDEOS))
    annotation = read_annotation(path)
    assert annotation.labels == LABELS and annotation.videos == VIDEOS


def test_an_annotation_is_written_in_the_references_format():
    assert ANNOTATION["labels"] == LABELS
    assert ANNOTATION["database"]["v_a_g01_c01"] == {
        "subset": "validation",
        "annotations": {"label": "ApplyEyeMakeup", "segment": [1, 166]},
    }


def test_the_published_annotation_of_split_1_is_read(reference_path):
    annotation = read_annotation(reference_path / "ucf101_01.json")
    assert len(annotation.labels) == 101
    n_videos = {subset: len(videos) for subset, videos in annotation.videos.items()}
    assert n_videos == {"training": 9537, "validation": 3783, "testing": 0}
    n_frames = [v.end - v.begin for videos in annotation.videos.values() for v in videos]
    assert (sum(n_frames), min(n_frames), max(n_frames)) == (2486290, 29, 1776)


@pytest.mark.parametrize("read", [read_annotation, read_results])
@pytest.mark.parametrize(
    "text",
    ["", "labels", '{"labels": [', "[" * 200_000, b"\xff\xfe\x00", "1" * 5000, "[]", "null", "3", "{}"],
    ids=["empty", "text", "cut", "deep", "not UTF-8", "long number", "list", "null", "number", "object"],
)
def test_a_file_that_is_no_json_object_of_its_kind_is_refused(tmp_path, read, text):
    refused(read, tmp_path / "broken.json", text)


@pytest.mark.parametrize("read", [read_annotation, read_results])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UserError, match="gone.json: no such"):
        read(tmp_path / "gone.json")


def test_a_file_larger_than_any_annotation_is_refused_unread(tmp_path):
    path = tmp_path / "large.json"
    with open(path, "wb") as file:
        file.truncate(10**9 + 1)  # takes no room on the disk
    for read in (read_annotation, read_results):
        with pytest.raises(UserError, match="large.json: 1,000,000,001 bytes"):
            read(path)


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 3000, 100_000])
def test_a_deeply_nested_score_is_refused(tmp_path, depth):
    for left, right in ("[]", ('{"a": ', "}")):
        nested = left * depth + "1" + right * depth
        refused(read_results, tmp_path / "deep.json", f'{{"results": {{"v": [{nested}]}}}}')


UNSAFE = ["\ud800", "é" * 128, "", ".", "..", "../up", "/root", "a/b", "a\\b", "a\0b", "a\nb", "a" * 256, 7,
          None, ["a"]]  # fmt: skip
VIDEO = ["database", "v_a_g01_c01"]
SEGMENT = [*VIDEO, "annotations", "segment"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_class_name_that_is_no_plain_folder_name_is_refused(tmp_path, name):
    content = set_in(ANNOTATION, ["labels", 0], name)
    content = set_in(content, [*VIDEO, "annotations", "label"], name)
    assert "plain folder name" in refused(read_annotation, tmp_path / "a.json", json.dumps(content))


@pytest.mark.parametrize("name", [name for name in UNSAFE if isinstance(name, str)])
def test_a_video_name_that_is_no_plain_folder_name_is_refused(tmp_path, name):
    content = set_in(ANNOTATION, ["database", name], ANNOTATION["database"]["v_a_g01_c01"])
    assert "plain folder name" in refused(read_annotation, tmp_path / "a.json", json.dumps(content))


@pytest.mark.parametrize(
    "keys, value, told",
    [
        (["labels"], None, "labels"),
        (["labels"], [], "labels"),
        (["labels"], "Archery", "labels"),
        (["labels"], [*LABELS, "Archery"], "every class once"),
        (["database"], None, "database"),
        (["database"], {}, "database"),
        (["database"], [], "database"),
        (VIDEO, None, "v_a_g01_c01"),
        ([*VIDEO, "subset"], "val", "subset"),
        ([*VIDEO, "subset"], None, "subset"),
        ([*VIDEO, "subset"], ["training"], "subset"),
        ([*VIDEO, "annotations"], None, "annotations"),
        ([*VIDEO, "annotations"], [], "annotations"),
        ([*VIDEO, "annotations", "label"], "Running", "label"),
        ([*VIDEO, "annotations", "label"], None, "label"),
        ([*VIDEO, "annotations", "label"], [], "label"),
        *((SEGMENT, segment, "segment") for segment in (None, [], [1], [1, 2, 3], "12", [1, 2.0])),
        *((SEGMENT, segment, "segment") for segment in ([True, 5], [0, 5], [-3, 5], [5, 5], [6, 5])),
        *((SEGMENT, segment, "segment") for segment in (["1", "5"], [1, 10**9], {"0": 1, "1": 5})),
    ],
)
def test_a_malformed_annotation_is_refused(tmp_path, keys, value, told):
    text = json.dumps(set_in(ANNOTATION, keys, value))
    assert told in refused(read_annotation, tmp_path / "bad.json", text).split("bad.json")[1]


def test_results_are_read_in_their_order(tmp_path):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(RESULTS))
    assert read_results(path) == {"v": [("Archery", 0.7), ("Run", 0.3)]}


PAIRS = ["results", "v"]


@pytest.mark.parametrize(
    "keys, value, told",
    [
        (["results"], [], "results"),
        (PAIRS, None, "list of labels"),
        (PAIRS, [], "list of labels"),
        (PAIRS, {"Archery": 0.7}, "list of labels"),
        ([*PAIRS, 0], None, "score"),
        ([*PAIRS, 0], ["Archery", 0.7], "score"),
        ([*PAIRS, 0], {"label": "Archery"}, "score"),
        ([*PAIRS, 0, "label"], 3, "score"),
        ([*PAIRS, 0, "score"], "0.7", "score"),
        ([*PAIRS, 0, "score"], True, "score"),
        ([*PAIRS, 0, "score"], math.nan, "score"),
        ([*PAIRS, 0, "score"], -math.inf, "score"),
        ([*PAIRS, 0, "score"], None, "score"),
        ([*PAIRS, 1, "score"], 0.8, "not in order"),
        ([*PAIRS, 1, "label"], "Archery", "twice"),
        (PAIRS, [{"segment": [1, 17], "result": RESULTS["results"]["v"]}], "--inference_no_average"),
    ],
)
def test_malformed_results_are_refused(tmp_path, keys, value, told):
    text = json.dumps(set_in(RESULTS, keys, value))
    assert told in refused(read_results, tmp_path / "bad.json", text).split("bad.json")[1]
