"""UCF-101's splits, label order, folders and lists."""
import json

import pytest

from datasets.class_folders import sorted_names
from datasets.sources.ucf101 import find_videos, read_split_lists, subset_by_group
from run.console import UserError


@pytest.mark.parametrize("split, test_groups", [(1, range(1, 8)), (2, range(8, 15)), (3, range(15, 22))])
def test_seven_groups_of_each_split_are_for_validation(split, test_groups):
    for group in range(1, 26):
        expected = "validation" if group in test_groups else "training"
        assert subset_by_group(f"v_HandStandPushups_g{group:02d}_c07", split) == expected


@pytest.mark.parametrize("name", ["video", "v_Run_g01", "v_Run_c01", "v_Run_g01_c01_copy", "v_Run_gx_c01"])
def test_a_name_without_a_group_is_refused(name):
    with pytest.raises(UserError, match=f"{name}: no group"):
        subset_by_group(name, 1)


def test_labels_are_ordered_without_regard_to_case():
    names = ["JumpRope", "YoYo", "JumpingJack", "HandstandWalking", "HandstandPushups", "JumpRope"]
    assert sorted_names(names) == ["HandstandPushups", "HandstandWalking", "JumpingJack", "JumpRope", "YoYo"]


def test_the_rules_give_the_published_annotation_of_split_1(reference_path):
    content = json.loads((reference_path / "ucf101_01.json").read_text())
    assert len(content["database"]) == 13320
    for name, video in content["database"].items():
        assert subset_by_group(name, 1) == video["subset"], name
    class_names = [video["annotations"]["label"] for video in content["database"].values()]
    assert sorted_names(class_names) == content["labels"]


@pytest.mark.parametrize("split, n_training, n_validation", [(2, 9586, 3734), (3, 9624, 3696)])
def test_the_group_rule_gives_the_sizes_of_the_other_splits(
    reference_path, split, n_training, n_validation
):
    names = json.loads((reference_path / "ucf101_01.json").read_text())["database"]
    subsets = [subset_by_group(name, split) for name in names]
    assert (subsets.count("training"), subsets.count("validation")) == (n_training, n_validation)


def write_lists(folder, training, validation, split="01"):
    (folder / f"trainlist{split}.txt").write_bytes(training)
    (folder / f"testlist{split}.txt").write_bytes(validation)


def test_the_official_lists_are_read(tmp_path):
    training = b"Archery/v_Archery_g08_c01.avi 3\r\nArchery/v_Archery_g09_c01.avi 3\r\n\r\n"
    write_lists(tmp_path, training, b"Archery/v_Archery_g01_c01.avi\n")
    assert read_split_lists(tmp_path, 1) == {
        "v_Archery_g08_c01": "training",
        "v_Archery_g09_c01": "training",
        "v_Archery_g01_c01": "validation",
    }


@pytest.mark.parametrize("lost", ["trainlist01.txt", "testlist01.txt"])
def test_a_missing_list_is_named(tmp_path, lost):
    write_lists(tmp_path, b"A/v_A_g08_c01.avi 1\n", b"A/v_A_g01_c01.avi\n")
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=f"{lost}: no such list"):
        read_split_lists(tmp_path, 1)


def test_a_video_in_both_lists_is_refused(tmp_path):
    write_lists(tmp_path, b"A/v_A_g08_c01.avi 1\n", b"A/v_A_g08_c01.avi\n", split="02")
    with pytest.raises(UserError, match="testlist02.txt: v_A_g08_c01 is in both lists of split 2"):
        read_split_lists(tmp_path, 2)


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_videos_are_found_in_order(tmp_path):
    make_files(tmp_path, "b/2.avi", "b/1.AVI", "a/3 [x]!.avi", "a/notes.txt", "top.avi", "a/deep/4.avi")
    found = [str(video.path.relative_to(tmp_path)) for video in find_videos(tmp_path)]
    assert found == ["a/3 [x]!.avi", "b/1.AVI", "b/2.avi"]


@pytest.mark.parametrize("names", [("a/1.avi", "b/1.avi"), ("a/1.avi", "a/1.AVI")])
def test_a_video_name_that_occurs_twice_is_refused(tmp_path, names):
    make_files(tmp_path, *names)
    with pytest.raises(UserError, match="the same video name as"):
        find_videos(tmp_path)


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UserError, match="no avi file"):
        find_videos(tmp_path)
    with pytest.raises(UserError, match="gone: no such folder"):
        find_videos(tmp_path / "gone")
