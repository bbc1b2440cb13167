"""`eval_accuracy.py --fuse` by numbers that were computed by hand."""
import json

import pytest
from conftest import run_program

TRUTH = {"v1": "a", "v2": "b", "v3": "c", "v4": "a"}
RGB = {"v1": (0.5, 0.4, 0.1), "v2": (0.6, 0.3, 0.1), "v3": (0.4, 0.3, 0.3), "v4": (0.2, 0.7, 0.1)}
FLOW = {"v1": (0.1, 0.15, 0.75), "v2": (0.1, 0.8, 0.1), "v3": (0.2, 0.1, 0.7), "v4": (0.6, 0.3, 0.1)}
# The means: v1 (0.3, 0.275, 0.425) is c, wrong; v2 (0.35, 0.55, 0.1) is b; v3 (0.3, 0.2, 0.5) is c;
# v4 (0.4, 0.5, 0.1) is b, wrong. RGB alone has v1, flow alone v2, v3 and v4.


def write(path, table, k=3):
    results = {}
    for key, scores in table.items():
        pairs = sorted(zip("abc", scores), key=lambda pair: -pair[1])[:k]
        results[key] = [{"label": label, "score": score} for label, score in pairs]
    path.write_text(json.dumps({"results": results}))


@pytest.fixture
def folder(tmp_path):
    annotations = {key: {"label": label, "segment": [1, 9]} for key, label in TRUTH.items()}
    database = {key: {"subset": "validation", "annotations": a} for key, a in annotations.items()}
    (tmp_path / "truth.json").write_text(json.dumps({"labels": ["a", "b", "c"], "database": database}))
    write(tmp_path / "rgb.json", RGB)
    write(tmp_path / "flow.json", FLOW)
    (tmp_path / "none").mkdir()
    for package in ("paddle", "numpy"):
        (tmp_path / f"none/{package}.py").write_text("raise ImportError\n")
    return tmp_path


def fuse(folder):
    arguments = "--root_path", folder, "truth.json", "rgb.json", "--fuse", "flow.json"
    return run_program("eval_accuracy.py", *arguments, env={"PYTHONPATH": str(folder / "none")})


def test_the_mean_of_both_scores_is_evaluated_and_compared_with_each(folder):
    code, out, err = fuse(folder)
    assert (code, err) == (0, "")
    lines = out.replace(f"{folder}/", "").splitlines()
    assert "top-1 accuracy: 0.25" in lines
    assert lines[lines.index("top-1 accuracy of flow.json: 0.75") :] == [
        "top-1 accuracy of flow.json: 0.75",
        "top-1 accuracy of both, fused: 0.5",
        "against rgb.json, 4 videos, top-1:",
        "gained: 2 (v2, v3)",
        "lost: 1 (v1)",
        "mean class accuracy: 0.6667, was 0.1667",
        "McNemar's exact p, two-sided: 1",
        "a: -1 of 2 videos",
        "b: +1 of 1 videos",
        "c: +1 of 1 videos",
        "against flow.json, 4 videos, top-1:",
        "gained: 0",
        "lost: 1 (v4)",
        "mean class accuracy: 0.6667, was 0.8333",
        "McNemar's exact p, two-sided: 1",
        "a: -1 of 2 videos",
    ]


@pytest.mark.parametrize("name, table", [("rgb", RGB), ("flow", FLOW)])
def test_results_without_the_scores_of_all_classes_are_one_line(folder, name, table):
    write(folder / f"{name}.json", table, k=2)
    code, _, err = fuse(folder)
    assert code == 1 and err == (
        f"error: {folder}/{name}.json: holds the 2 best of 3 scores of a video, and fusing takes all; run "
        "test.py with --output_topk 3\n"
    )


def test_results_of_other_videos_are_one_line(folder):
    write(folder / "flow.json", {key: FLOW[key] for key in ("v1", "v2")})
    code, _, err = fuse(folder)
    assert code == 1 and "not of the same videos" in err
