"""The JSON files: read as written, and refused with the file's name if malformed."""
import copy
import json
import math
import subprocess
import sys
import zlib

import pytest
from conftest import ROOT

from datasets.annotation import (
    Annotation,
    annotation_json,
    read_annotation,
    read_results,
    read_run,
)
from datasets.samples import Sample, Samples
from run.console import UserError

LABELS = ["ApplyEyeMakeup", "Archery"]
SUBSETS = {
    "training": Samples(
        [
            Sample("v_b_g08_c01", "Archery/v_b_g08_c01", 1, 1, 132),
            Sample("v_é (1)!", "Archery/v_é (1)!", 1, 5, 6),
            Sample("of_b", "Archery/v_b_g08_c01", 0, 20, 40),  # a second one of the same video
        ]
    ),
    "validation": Samples([Sample("v_a_g01_c01", "ApplyEyeMakeup/v_a_g01_c01", 0, 1, 166)]),
    "testing": Samples([Sample("v_t", "test/v_t", -1, 1, 9), Sample("v_u", "more/of/u", -1, 1, 9)]),
}
ANNOTATION = json.loads(annotation_json(LABELS, SUBSETS))
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
    path.write_text(annotation_json(LABELS, SUBSETS))
    annotation = read_annotation(path)
    assert annotation.class_names == LABELS and annotation.subsets == SUBSETS
    assert list(annotation.subsets["training"])[2] == Sample("of_b", "Archery/v_b_g08_c01", 0, 20, 40)
    assert annotation.subsets["validation"][0].folder == "ApplyEyeMakeup/v_a_g01_c01"


def test_a_key_may_have_its_class_before_the_name(tmp_path):
    samples = Samples([Sample("Archery/1", "Archery/1", 1, 1, 9), Sample("Run/1", "Run/1", 0, 1, 9)])
    text = annotation_json(LABELS, {"training": samples})
    assert json.loads(text)["database"]["Run/1"]["video_path"] == "Run/1"
    (tmp_path / "a.json").write_text(text)
    assert read_annotation(tmp_path / "a.json").subsets["training"] == samples


def test_an_annotation_is_written_in_the_references_format():
    assert ANNOTATION["labels"] == LABELS
    assert ANNOTATION["database"]["v_a_g01_c01"] == {
        "subset": "validation",
        "annotations": {"label": "ApplyEyeMakeup", "segment": [1, 166]},
    }
    assert ANNOTATION["database"]["of_b"] == {
        "subset": "training",
        "video_path": "Archery/v_b_g08_c01",
        "annotations": {"label": "ApplyEyeMakeup", "segment": [20, 40]},
    }
    assert ANNOTATION["database"]["v_t"] == {"subset": "testing", "annotations": {"segment": [1, 9]}}
    assert ANNOTATION["database"]["v_u"]["video_path"] == "more/of/u"


def test_samples_are_columns_that_add_up():
    training, testing = SUBSETS["training"], SUBSETS["testing"]
    assert training.class_indices.tolist() == [1, 1, 0] and training.ends.tolist() == [132, 6, 40]
    both = training + testing
    assert len(both) == 5 and list(both) == [*training, *testing] and len(training) == 3
    assert both[-1] == testing[1] and Samples(both) == both and both != training
    with pytest.raises(IndexError):
        training[3]


def test_a_checksum_tells_every_part_of_a_data_set(tmp_path):
    annotation = Annotation(LABELS, SUBSETS)
    before = annotation.checksum()
    # Fixed, since checkpoints hold it.
    assert SUBSETS["validation"].checksum() == zlib.crc32(
        b"v_a_g01_c01\nApplyEyeMakeup/v_a_g01_c01\n0\n1\n166\n"
    )
    (tmp_path / "a.json").write_text(annotation_json(*annotation))
    assert read_annotation(tmp_path / "a.json").checksum() == before
    changed = [Annotation(LABELS[::-1], SUBSETS)]
    for field, value in {"key": "x", "folder": "A/x", "class_index": 0, "begin": 2, "end": 9}.items():
        first, *rest = SUBSETS["training"]
        samples = Samples([first._replace(**{field: value}), *rest])
        changed.append(Annotation(LABELS, {**SUBSETS, "training": samples}))
    first, second, third = SUBSETS["training"]
    for samples in ([second, first, third], [first, second]):
        changed.append(Annotation(LABELS, {**SUBSETS, "training": Samples(samples)}))
    moved = {"training": SUBSETS["validation"], "validation": SUBSETS["training"]}
    changed.append(Annotation(LABELS, {**SUBSETS, **moved}))
    assert len({before, *(each.checksum() for each in changed)}) == 1 + len(changed)


def test_the_published_annotation_of_split_1_is_read(reference_path):
    annotation = read_annotation(reference_path / "ucf101_01.json")
    assert len(annotation.class_names) == 101
    n_videos = {subset: len(samples) for subset, samples in annotation.subsets.items()}
    assert n_videos == {"training": 9537, "validation": 3783, "testing": 0}
    n_frames = [s.end - s.begin for samples in annotation.subsets.values() for s in samples]
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


LEADING_OUT = ["a/../b", "/a", "a//b", "a/", "../a", "a/./b", "a/b\\c"]


@pytest.mark.parametrize("name", [*(n for n in UNSAFE if isinstance(n, str) and n != "a/b"), *LEADING_OUT])
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
        ([*VIDEO, "annotations"], {"segment": [1, 5]}, "label"),
        (["database", "v_t", "annotations", "label"], None, "label"),
        (["database", "v_t", "annotations", "label"], "Running", "label"),
        *(([*VIDEO, "video_path"], path, "video_path") for path in (None, 3, ["a"], "", "a/b\0", "a//b")),
        *(([*VIDEO, "video_path"], path, "video_path") for path in ("/etc/a", "../a", "a/../b", "a/", "a/.")),
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


def test_annotations_need_no_numpy():
    code = "import sys, datasets.annotation; print({'numpy', 'paddle', 'av'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("version", [{}, {"version": 1}, {"version": 2, "published": None}])
def test_a_run_of_any_version_is_read(tmp_path, version):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(RESULTS))
    content = {**version, "results_crc32": zlib.crc32(path.read_bytes()), "videos": {"v": [1, 2]}}

    def read(**changes):
        (tmp_path / "val_run.json").write_text(json.dumps({**content, **changes}))
        return read_run(path, read_results(path))

    run, why_not = read()
    assert run["videos"] == {"v": [1, 2]} and why_not == ""
    for changes, message in (
        ({"version": 3}, "of version 3, this program reads up to 2"),
        ({"videos": {"v": [3, 2]}}, "malformed"),
        ({"videos": {"w": [1, 2]}}, "of other results than val.json"),
        ({"results_crc32": 1}, "of other results than val.json"),
    ):
        run, why_not = read(**changes)
        assert run is None and why_not.startswith(f"{tmp_path / 'val_run.json'}: {message}")


def test_a_network_with_its_own_order_of_classes_is_tested_by_names():
    annotation = Annotation(LABELS, SUBSETS)
    turned = annotation.in_order(LABELS[::-1])
    assert turned.class_names == LABELS[::-1] and annotation.class_names == LABELS
    assert [s.class_index for s in turned.subsets["training"]] == [0, 0, 1]
    assert [s.class_index for s in turned.subsets["testing"]] == [-1, -1]
    assert list(turned.subsets["training"].keys) == list(SUBSETS["training"].keys)
    assert annotation.in_order(["Archery", "Run"]) == annotation  # other classes: refused later, by name
