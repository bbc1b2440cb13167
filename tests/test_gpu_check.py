"""tools/gpu_check.py on a CPU: every item in small, with the branches that a GPU would take forced."""
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from model.gpu_check import machine
from model.gpu_check.items import Measurements, Size
from model.gpu_check.machine import libraries, numbers, problem_of, running_variance
from tools import gpu_check

SMALL = Size(
    network={"model_depth": 10, "n_classes": 101, "resnet_widen_factor": 0.125, "conv1_t_size": 3},
    clip={"sample_size": 32, "sample_duration": 8},
    batch_sizes=(8, 4),
    score_sizes=(2, 4),
    n_steps=2,
    n_videos=16,
)
PROGRAM = ROOT / "tools/gpu_check.py"
STEP = {
    "batch_size": 8, "step_s": 0.1, "clips_per_second": 80.0, "first_step_s": 1.0, "copy_s": 0.01,
    "copy_gb_per_second": 3.0, "normalise_s": 0.01, "forward_s": 0.05, "conv3d_dtype": "float32",
    "backward_s": 0.02, "update_s": 0.001, "batch_norm_dtype": "float32", "scale": 1.0,
    "losses": [3.0, 2.0], "n_skipped": 0, "digest": 7, "peak_mb": 100, "reserved_mb": 200,
    "gb_per_second": 5.0,
}  # fmt: skip


def check(n_cards=1, amps=("O1", "bf16"), size=SMALL, kind=gpu_check.Check):
    found = kind(PROGRAM, size, n_cards, amps)
    found.figures["step"] = dict(STEP)
    return found


def answering(monkeypatch, answer):
    """Let the processes of a check answer as a function of their task says; return a check."""
    monkeypatch.setattr(
        Measurements, "measured", lambda self, what, environment=(), launcher=(), **task:
        answer({"what": what, "environment": dict(environment), "recipe": {}, **task}),
    )  # fmt: skip
    return check()


def test_without_a_gpu_the_check_says_so_in_one_line():
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "error: no GPU to check" in done.stderr


def test_help_shows_an_example_and_no_inner_option():
    done = subprocess.run([sys.executable, str(PROGRAM), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--quick" in done.stdout and "example:" in done.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("3.3.1", "2.4.6", (9, 0), (70, 80, 90), []), ""),
        (("2.6.2", "1.26.4", (8, 9), machine.CARDS_OF_2_6, []), ""),
        (("2.6.1", "1.26.4", (8, 0), machine.CARDS_OF_2_6, []), "Paddle 2.6.2 or newer"),
        (("2.6.2", "2.1.0", (8, 0), machine.CARDS_OF_2_6, []), "pip install 'numpy<2'"),
        (("2.6.2", "1.26.4", (9, 0), machine.CARDS_OF_2_6, []), "code for 6.1 7.0 7.5 8.0 8.6 only"),
        (("3.3.1", "2.0", (7, 0), (75, 80, 90), []), "has code for this card"),
        (("3.3.1", "2.0", (8, 0), (80,), ["12 python"]), "in use by 12 python"),
    ],
)
def test_versions_cards_and_neighbours_that_do_not_go_are_named(arguments, said):
    found = problem_of(*arguments)
    assert said in found and bool(said) == bool(found)


def test_the_libraries_and_the_numbers_of_this_machine_are_right():
    assert libraries().status == "ok"
    found = numbers(n_bytes=100_000)
    assert found.status == "ok" and found.figures["fp32"] < 1e-5 and running_variance() == "biased"


def test_a_library_that_is_missing_is_named(monkeypatch):
    def refuse(*_):
        raise RuntimeError("The third-party dynamic library (libcudnn.so) of Paddle is not there.")

    monkeypatch.setattr(machine.F, "conv3d", refuse)
    finding = libraries()
    assert finding.status == "FAIL" and "libcudnn.so" in finding.text and "docs/gpu.md" in finding.text


def test_wrong_logits_and_a_copy_that_is_not_whole_fail(monkeypatch):
    monkeypatch.setattr(machine, "_logit_difference", lambda *_: 0.5)
    monkeypatch.setattr(machine.paddle, "to_tensor", lambda array: _Alias(array))
    monkeypatch.setattr(machine, "_normalise_difference", lambda _: 0.0)
    monkeypatch.setattr(machine, "running_variance", lambda: "biased")
    finding = numbers(n_bytes=1000)
    assert finding.status == "FAIL"
    assert "fp32 is 5.0e-01 off" in finding.text and "changed with its source" in finding.text


class _Alias:
    """What `to_tensor` must not give: the caller's own memory."""

    def __init__(self, array):
        self.array = array

    def astype(self, _):
        return self

    def sum(self):
        return self.array.sum()


def test_a_step_is_measured_in_a_process_of_its_own():
    small = check()
    found = small.step()
    assert found.status == "ok" and "clips/s at batch 8" in found.text, found
    assert found.figures["losses"][-1] < found.figures["losses"][0]


def test_a_batch_that_does_not_fit_is_halved_and_accumulate_recommended(monkeypatch):
    small = answering(
        monkeypatch, lambda t: {"error": "out of memory"} if t["recipe"]["batch_size"] == 8 else dict(STEP)
    )
    found = small.step()
    assert found.status == "slow" and small.options == ["--accumulate 2"]


def test_a_loss_that_does_not_fall_fails(monkeypatch):
    small = answering(monkeypatch, lambda _: {**STEP, "losses": [2.0, 2.5]})
    assert small.step().status == "FAIL"


def test_switches_that_are_faster_are_recommended(monkeypatch):
    def answer(task):
        fast = task.get("speedups") == ["multi_tensor"] or task["environment"]
        return {**STEP, "step_s": 0.08 if fast else 0.1}

    small = answering(monkeypatch, answer)
    assert small.flags().status == "ok"
    assert small.options == ["--speedups multi_tensor"]
    assert small.environment == ["FLAGS_conv_workspace_size_limit=4096"]


def test_half_precision_is_judged_by_its_speed_and_an_overflow_has_to_skip_the_step(monkeypatch):
    def answer(task):
        skipped = int(task.get("overflow", False))
        return {**STEP, **half, "step_s": 0.05, "n_skipped": skipped}

    half = {"conv3d_dtype": "float16", "batch_norm_dtype": "float16"}
    small = answering(monkeypatch, answer)
    found = small.amp()
    assert found.status == "ok" and "2.00 times as fast" in found.text and small.faster == ["--amp O1"]
    small = answering(monkeypatch, lambda _: {**STEP, **half})
    assert "was not skipped" in small.amp().text
    small = answering(monkeypatch, lambda _: {**STEP, **half, "n_skipped": 1, "scale": 2.0**126})
    assert "scale stays" in small.amp().text
    for layer in ("conv3d", "batch_norm"):
        half[f"{layer}_dtype"] = "float32"
        small = answering(monkeypatch, answer)
        assert small.amp().status == "FAIL" and f"leaves {layer} in float32" in small.amp().text
        half[f"{layer}_dtype"] = "float16"


def test_a_card_without_half_precision_skips_the_item():
    assert check(amps=()).amp().status == "skipped"


def test_readers_slower_than_the_gpu_are_slow():
    small = check()
    assert small.readers().status == "ok"
    small.figures["step"]["clips_per_second"] = 1e9
    assert "more cores" in small.readers().text


def test_readers_that_stay_or_take_memory_of_the_card_fail(monkeypatch):
    monkeypatch.setattr(gpu_check, "small_videos", lambda *_: None)
    monkeypatch.setattr(gpu_check, "rate_of", lambda *_: (100.0, 0.1, 500))
    monkeypatch.setattr(gpu_check, "card_memory", lambda: 500)
    monkeypatch.setattr(gpu_check, "children", lambda _: [])
    assert check().readers().status == "ok"
    monkeypatch.setattr(gpu_check, "card_memory", lambda: 200)
    assert "take memory of the card" in check().readers().text
    monkeypatch.setattr(gpu_check, "children", lambda _: [4711])
    assert check().readers().status == "FAIL" and "outlive" in check().readers().text


def test_this_process_is_not_called_another_also_in_a_container(monkeypatch):
    rows = [["4711", "python3"], ["4712", "python"]]
    monkeypatch.setattr(machine, "nvidia_smi", lambda _: rows)
    monkeypatch.setattr(machine.os, "getpid", lambda: 4712)
    assert machine._others_on_the_card() == ["4711 python3"]
    monkeypatch.setattr(machine.os, "getpid", lambda: 1)  # as a container counts
    assert machine._others_on_the_card() == ["4712 python"]
    rows = rows[:1]
    assert machine._others_on_the_card() == []


def test_runs_that_differ_although_asked_not_to_are_slow(monkeypatch):
    digests = iter([1, 2, 3, 4])
    small = answering(monkeypatch, lambda _: {**STEP, "digest": next(digests)})
    assert small.determinism().status == "slow"


def test_scores_are_measured_and_the_bill_adds_up(monkeypatch):
    small = check()
    found = small.scores()
    assert found.status == "ok", found
    rates = {"32": {"clips_per_second": 100.0}, "128": {"clips_per_second": 150.0}}
    monkeypatch.setattr(Measurements, "measured", lambda *_, **__: rates)
    assert small.scores().text.endswith("; faster: test.py --inference_batch_size 128")
    small.figures["scores"] = {"clips_per_second": 100.0}
    small.figures["readers"] = {"clips_per_second": 50.0}
    small.options, small.faster = ["--n_threads 2"], ["--amp bf16"]
    bill = small.bill()
    seconds = 9537 / 50 + 11349 / 50
    assert bill.figures["hours"] == pytest.approx(200 * seconds / 3600)
    assert "bound by the readers; start with: python train.py --n_threads 2" in bill.text
    assert bill.text.endswith("python train.py --n_threads 2 --amp bf16")


def test_two_ranks_are_measured_and_a_run_on_them_stops_well(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1,-1")
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "gloo")
    launcher = [*gpu_check.LAUNCH, *gpu_check.two_ranks(), "--log_dir", str(tmp_path / "log")]
    found = check().steps(1, launcher=launcher, recipe={"batchnorm_sync": True})
    assert "error" not in found, found
    alone = check().steps(1)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert check().measured("exchange", launcher=launcher, n_bytes=4_000_000)["gb_per_second"] > 0
    (tmp_path / "run").mkdir()
    assert gpu_check.stopped_run(tmp_path / "run", SMALL) == ""


def test_ranks_that_differ_from_one_or_do_not_stop_fail(monkeypatch):
    stopped = {"text": ""}
    monkeypatch.setattr(gpu_check, "stopped_run", lambda *_: stopped["text"])
    several = lambda answer: gpu_check.Check.several(two_cards(answering(monkeypatch, answer)))
    assert several(lambda _: dict(STEP)).status == "ok"
    assert check(n_cards=1).several().status == "skipped"
    off = several(lambda t: {**STEP, "losses": [9.0] if t["recipe"].get("batchnorm_sync") else [3.0]})
    assert off.status == "FAIL" and "6.7e-01 off one's" in off.text
    failed = several(lambda t: {"error": "NCCL"} if t["recipe"].get("batchnorm_sync") else dict(STEP))
    assert failed.status == "FAIL" and "batchnorm_sync: NCCL" in failed.text
    stopped["text"] = "SIGTERM to the launcher saves nothing"
    assert several(lambda _: dict(STEP)).status == "FAIL"


def two_cards(small):
    small.n_cards = 2
    return small


def test_a_fault_of_one_item_is_its_own_and_the_exit_code_tells(monkeypatch, capsys):
    small = answering(monkeypatch, lambda _: dict(STEP))
    monkeypatch.setattr(gpu_check.Check, "amp", lambda self: 1 / 0)
    assert not gpu_check.run_items(small, ("amp", "flags"))
    out = capsys.readouterr().out
    assert "1 amp: FAIL: ZeroDivisionError" in out and "2 flags: ok" in out
    assert json.dumps(small.figures)


def test_items_that_need_a_failed_one_are_left_out(monkeypatch, capsys):
    small = answering(monkeypatch, lambda _: {"error": "out of memory"})
    assert not gpu_check.run_items(small, ("step", "flags"))
    assert "the other items need step" in capsys.readouterr().out
