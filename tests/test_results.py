"""The journal and the files of a test, without a network: when it continues, and what it writes."""
import json
import shutil
import types

import numpy as np
import pytest
from conftest import ROOT

from datasets.annotation import read_results, read_run
from prediction.results import Conditions, journal_entry, n_done, open_journal, write_results
from prediction.subset import clips_per_second, evaluate_clips, open_batches, score_videos
from run.console import UserError
from run.spec import ClipSpec, FrameSpec, NetworkSpec, Protocol

CONDITIONS = Conditions(
    checkpoint=1,
    annotation=2,
    frames_path="jpg",
    n_clips=5,
    device="cpu",
    paddle="3.3.1",
    network=NetworkSpec("resnet", {"model_depth": 10, "n_classes": 2}),
    clip=ClipSpec(frame_rates=(25.0, 25.0, 30.0)),
    protocol=Protocol(),
    frames=FrameSpec(),
)
ENTRY = {"video": "a", "n_correct_clips": 1, "is_correct": True, "result": []}


class Sample(types.SimpleNamespace):
    """A sample as far as results look at it."""


class Clips:
    """Windows of three videos, 2, 1 and 2 of them; a clip's pixel is its position."""

    def __init__(self, class_indices=(0, 1, 1)):
        keys = ["a", "b", "c"]
        members = [Sample(key=key, class_index=i) for key, i in zip(keys, class_indices)]
        self.samples = _Samples(members)
        self.video_of = np.array([0, 0, 1, 2, 2])
        self.windows = np.array([[1, 2], [3, 3], [1, 1], [1, 2], [2, 3]])

    def __len__(self):
        return 5

    def index_of(self, key):
        return int(self.video_of[key])

    def shape_of(self, key):
        return 2, 1, 1, 3

    def request(self, key):
        return key

    def read(self, request, out):
        out[:] = request

    def batches(self, size):
        return [list(range(i, min(i + size, 5))) for i in range(0, 5, size)]


class _Samples(list):
    @property
    def keys(self):
        return [sample.key for sample in self]


class OneRank:
    n, is_first = 1, True

    def shard(self, keys):
        return keys

    def gather_objects(self, value):
        return [value]


def score(clips_nthwc):
    """Class 1 gets a tenth for each position of a clip."""
    second = clips_nthwc[:, 0, 0, 0, 0] / 10
    return np.stack([1 - second, second], axis=1).astype(np.float32)


def entries_of(clips, n_ready=0):
    protocol = Protocol(inference_batch_size=2)
    batches = open_batches(clips, n_ready, protocol.inference_batch_size)
    evaluated = evaluate_clips(score, clips, batches, 0, OneRank())
    return list(score_videos(evaluated, clips, batches, ["Jump", "run"], protocol))


def test_a_journal_continues_under_the_same_conditions_only(tmp_path, capsys):
    path = tmp_path / ".val.jsonl"
    journal = open_journal(path, CONDITIONS)
    journal.add(ENTRY)
    journal.flush()
    assert capsys.readouterr().err == ""
    # Written and read again, and compared with conditions that were built again.
    same = CONDITIONS._replace(network=NetworkSpec("resnet", {"n_classes": 2, "model_depth": 10}))
    assert n_done(open_journal(path, same)) == 1
    assert capsys.readouterr().err == f"note: {path}: 1 videos are done already, continuing after them\n"
    whole = path.read_bytes()
    for changed, why in [
        ({"checkpoint": 7}, "another checkpoint"),
        ({"annotation": 7}, "another annotation"),
        ({"frames_path": "png"}, "another frames_path"),
        ({"paddle": "2.6.2", "device": "gpu"}, "another device, another paddle"),
        ({"protocol": Protocol(output_topk=1)}, "output_topk was 5 and is 1"),
        ({"protocol": Protocol(fast_decode=True)}, "fast_decode was False and is True"),
        ({"clip": ClipSpec()}, "frame_rates was 25.0 25.0 30.0 and is None"),
        ({"frames": FrameSpec(quality=95)}, "quality was 80 and is 95"),
        ({"frames": None}, "another frames"),
        (
            {"network": NetworkSpec("resnet", {"model_depth": 18, "n_classes": 2})},
            "model_depth was 10 and is 18",
        ),
    ]:
        path.write_bytes(whole)
        journal = open_journal(path, CONDITIONS._replace(**changed))
        assert n_done(journal) == 0
        assert capsys.readouterr().err == f"note: {path}: of another run ({why}); starting again\n"
        journal.flush()
        assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"{}\n",
        b"[1]\n",
        b'{"checkpoint": 1, "protocol": {"inference_stride": 0}}\n',
        # As the version before this one wrote it.
        b'{"checkpoint": 1, "annotation": 2, "video_path": "jpg", "options": {"output_topk": 5}, '
        b'"n_clips": 5, "versions": ["cpu", "3.3.1"]}\n{"video": "a"}\n',
    ],
)
def test_a_journal_that_is_damaged_or_of_another_version_starts_again(tmp_path, capsys, content):
    path = tmp_path / ".val.jsonl"
    path.write_bytes(content)
    assert n_done(open_journal(path, CONDITIONS)) == 0
    assert "of another run (" in capsys.readouterr().err


def test_a_video_is_scored_from_its_own_clips_wherever_a_test_continues():
    clips = Clips()
    whole = entries_of(clips)
    assert [(index, entry["video"]) for index, entry in whole] == [(0, "a"), (1, "b"), (2, "c")]
    assert [entry["n_correct_clips"] for _, entry in whole] == [2, 0, 0]
    assert [entry["result"][0] for _, entry in whole] == [
        {"label": "Jump", "score": pytest.approx(0.95)},
        {"label": "Jump", "score": pytest.approx(0.8)},
        {"label": "Jump", "score": pytest.approx(0.65)},
    ]
    # The batch of the third video's first clip begins with the second video.
    assert entries_of(clips, n_ready=2) == whole[1:]
    assert entries_of(clips, n_ready=3) == []


def test_results_without_averaging_hold_each_clip():
    sample = Sample(key="a", class_index=1)
    scores = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    entry = journal_entry(sample, scores, [[1, 2], [3, 3]], ["x", "y"], Protocol(inference_no_average=True))
    assert entry["result"][0]["segment"] == [1, 3] and entry["result"][1]["segment"] == [3, 4]
    assert entry["result"][0]["result"][0] == {"label": "y", "score": 0.75}
    assert (entry["n_correct_clips"], entry["is_correct"]) == (1, True)


def written(tmp_path, clips):
    journal = open_journal(tmp_path / ".val.jsonl", CONDITIONS)
    for _, entry in entries_of(clips):
        journal.add(entry)
    accuracy = write_results(tmp_path / "val.json", journal, clips, {"checkpoint": "best.pdparams"})
    assert not (tmp_path / ".val.jsonl").exists()
    return accuracy, *(json.loads((tmp_path / name).read_text()) for name in ("val.json", "val_run.json"))


def test_the_accuracy_is_that_of_the_clips_and_of_the_videos(tmp_path):
    accuracy, results, run = written(tmp_path, Clips())
    assert accuracy == (2 / 5, 1 / 3, 1 / 2) and list(results["results"]) == ["a", "b", "c"]
    assert run["version"] == 2 and run["clip_accuracy"] == 2 / 5 and run["n_clips"] == 5
    assert run["videos"] == {"a": [2, 2], "b": [0, 1], "c": [0, 2]} and run["checkpoint"] == "best.pdparams"


def test_a_subset_without_classes_has_results_and_no_accuracy(tmp_path):
    labelled = written(tmp_path, Clips())[1]
    accuracy, results, run = written(tmp_path, Clips((-1, -1, -1)))
    assert accuracy == (None, None, None) and results == labelled
    assert run["clip_accuracy"] is None and run["videos"]["a"] == [None, 2]
    path = tmp_path / "val.json"
    run, why_not = read_run(path, read_results(path))
    assert run is None and "val_run.json: test.py scored these videos without their classes" in why_not


def test_results_of_version_1_are_still_read(tmp_path, run_script):
    # Written by the version before specs: tests/legacy/val_run.json has options only.
    for name in ("val.json", "val_run.json", "ucf101_02.json"):
        shutil.copy(ROOT / "tests/legacy" / name, tmp_path)
    path = tmp_path / "val.json"
    run, why_not = read_run(path, read_results(path))
    assert why_not == "" and run["options"]["inference_stride"] == 16
    assert [sum(column) for column in zip(*run["videos"].values())] == [7, 22]
    arguments = [tmp_path / "ucf101_02.json", path, "--report"]
    code, out, err = run_script("eval_accuracy.py", *arguments)
    assert code == 0 and out.endswith("top-1 accuracy: 0.375\n"), err
    assert "7 of 22 clips" in (tmp_path / "report.html").read_text()


def test_a_journal_that_lacks_a_video_is_not_made_results(tmp_path):
    journal = open_journal(tmp_path / ".val.jsonl", CONDITIONS)
    journal.add(entries_of(Clips())[0][1])
    with pytest.raises(UserError, match="does not hold every video once"):
        write_results(tmp_path / "val.json", journal, Clips(), {})
    assert not (tmp_path / "val.json").exists()


def test_the_rate_is_that_behind_the_first_round():
    assert clips_per_second([]) is clips_per_second([(1.0, 4)]) is None
    assert clips_per_second([(1.0, 4), (2.0, 8), (3.0, 10)]) == 3.0
