"""Training from the outside: what it writes, that it resumes bit for bit, and what it refuses."""
import json
import math
import shutil

import numpy as np
import pytest
from conftest import SMALL_TRAINING

from model.checkpoint import load_checkpoint, save_checkpoint
from model.weights import weights_of


def log(root, results="results"):
    lines = [json.loads(line) for line in (root / results / "train.jsonl").read_text().splitlines()]
    return [x for x in lines if "epoch" not in x], [x for x in lines if "epoch" in x]


def without_times(entries):
    return [{k: v for k, v in e.items() if "second" not in k} for e in entries]


def assert_same_file(a, b):
    a, b = load_checkpoint(a), load_checkpoint(b)
    assert a.facts == b.facts
    for part in ("weights", "velocity"):
        mine, other = getattr(a, part) or {}, getattr(b, part) or {}
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)


def test_two_epochs_are_one_and_a_resume_and_one_bit_for_bit(small_set, run_script):
    def train(*options):
        code, out, err = run_script("train.py", *SMALL_TRAINING, *options, cwd=small_set)
        assert code == 0, err
        return out

    common = ["--checkpoint", 1, "--mixup_alpha", 0.2, "--label_smoothing", 0.1]
    out = train(*common, "--n_epochs", 2)
    assert "6 training videos" in out and "2 classes" in out and "epoch 2:" in out
    train(*common, "--n_epochs", 1, "--result_path", "again", "--n_threads", 2)
    train(*common, "--n_epochs", 2, "--result_path", "again", "--resume_path", "again")
    for name in ("save_1.pdparams", "save_2.pdparams", "best.pdparams"):
        assert_same_file(small_set / "results" / name, small_set / "again" / name)

    headers, epochs = log(small_set)
    assert [e["epoch"] for e in epochs] == [1, 2]
    assert headers[0]["n_training_videos"] == 6 and headers[0]["options"]["batch_size"] == 4
    assert set(epochs[0]) >= {"learning_rate", "train_loss", "val_loss", "val_clip_accuracy"}
    assert without_times(log(small_set, "again")[1]) == without_times(epochs)
    facts = load_checkpoint(small_set / "results/best.pdparams").facts
    assert facts["class_names"] == ["Jump", "run"] and facts["input"]["sample_size"] == 32

    # Going on in another folder takes the best along; going back behind a checkpoint is refused.
    train(*common, "--n_epochs", 2, "--result_path", "copy", "--resume_path", "again/save_1.pdparams")
    for name in ("save_2.pdparams", "best.pdparams"):
        assert_same_file(small_set / "results" / name, small_set / "copy" / name)
    code, _, err = run_script(
        "train.py", *SMALL_TRAINING, *common, "--resume_path", "results/save_1.pdparams", cwd=small_set
    )
    assert code == 1 and "holds save_2.pdparams, which is later than save_1.pdparams" in err

    # A third epoch after the end, with an epoch in the log that no checkpoint holds.
    with open(small_set / "again/train.jsonl", "a") as file:
        file.write('{"epoch": 3}\n')
    train(*common, "--n_epochs", 3, "--result_path", "again", "--resume_path", "again/save_2.pdparams")
    assert [e["epoch"] for e in log(small_set, "again")[1]] == [1, 2, 3]
    assert "train_loss" in log(small_set, "again")[1][-1]


def test_fine_tuning_starts_from_the_weights_and_moves_layer4_and_fc_only(small_set, run_script):
    arguments = [a for a in SMALL_TRAINING if a not in ("--pretrain_path", "none")]
    arguments = [str(a) for a in arguments]
    for name in ("--model_depth", "--resnet_widen_factor", "--conv1_t_size"):  # the weights decide
        at = arguments.index(name)
        del arguments[at : at + 2]
    from model.resnet3d import ResNet3D

    net = ResNet3D(10, 39, resnet_widen_factor=0.125, conv1_t_size=3)
    before = weights_of(net)
    save_checkpoint(small_set / "weights/r3d50_KM_200ep.pdparams", before, {})
    code, out, err = run_script("train.py", *arguments, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    assert "training layer4 on" in out
    after = load_checkpoint(small_set / "results/best.pdparams").weights
    # And a resumed fine-tuning, over a fall of the rate, needs the checkpoint alone.
    more = ["--lr_scheduler", "multistep", "--multistep_milestones", 3]
    for name, epochs in (("whole", [4]), ("parts", [2, 4])):
        for n_epochs in epochs:
            resume = ["--resume_path", "parts"] if n_epochs != epochs[0] else []
            code, out, err = run_script(
                "train.py", *arguments, *more, "--n_epochs", n_epochs, "--result_path", name, *resume,
                cwd=small_set,
            )
            assert code == 0, err
            if resume == [] and name == "parts":
                (small_set / "weights/r3d50_KM_200ep.pdparams").unlink()
    assert log(small_set, "whole")[1][-1]["learning_rate"] == pytest.approx(0.001)
    assert_same_file(small_set / "whole/save_4.pdparams", small_set / "parts/save_4.pdparams")

    moved = {name.split(".")[0] for name in after if name.endswith(("weight", "bias"))
             and not np.array_equal(after[name], before[name])}
    assert moved == {"layer4", "fc"}
    assert after["fc.bias"].shape == (2,)
    assert not np.array_equal(after["layer1.0.bn1._mean"], before["layer1.0.bn1._mean"])


def spoil_frame(root):
    folder = root / "dataset/UCF-101-jpg/Jump/v_Jump_g02_c01"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:300])


def add_best(root):
    (root / "results").mkdir()
    (root / "results/best.pdparams").touch()


@pytest.mark.parametrize(
    "spoil, options, message",
    [
        (lambda r: None, ["--annotation_path", "no.json"], "no.json: no such annotation"),
        (lambda r: None, ["--video_path", "nowhere"], "nowhere: no such folder of frames"),
        (lambda r: None, ["--batch_size", 7], "6 training videos are fewer than a batch"),
        (lambda r: None, ["--amp", "O1"], "needs a GPU"),
        (lambda r: None, ["--pretrain_path", "no.pdparams"], "no.pdparams: no such weights"),
        (lambda r: None, ["--resume_path", "no.pdparams"], "no.pdparams: no such weights"),
        (
            lambda r: [p.unlink() for p in (r / "dataset/UCF-101-jpg").rglob("image_00018.jpg")],
            [],
            "frames missing for 10 of 10 annotated videos: v_Jump_g00_c01 (17 of 18 frames), "
            "v_run_g01_c01 (18 of 19 frames), v_Jump_g02_c01 (19 of 20 frames), ...",
        ),
        (
            lambda r: shutil.rmtree(r / "dataset/UCF-101-jpg/run/v_run_g09_c01"),
            [],
            "frames missing for 1 of 10 annotated videos: v_run_g09_c01 (no folder)",
        ),
        (spoil_frame, ["--n_threads", 2], "v_Jump_g02_c01/image_"),
        (spoil_frame, ["--n_threads", 0], "v_Jump_g02_c01/image_"),
        (lambda r: None, ["--learning_rate", "1e30", "--batch_size", 1], "Videos of the batch: v_"),
        (add_best, [], "holds a run already"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_and_where(small_set, run_script, spoil, options, message):
    spoil(small_set)
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 3, *options, cwd=small_set, timeout=120
    )
    assert code == 1, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert "Traceback" not in err


def test_a_run_that_diverges_stops_and_leaves_its_checkpoints_as_they_were(small_set, run_script):
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    path = small_set / "results/save_1.pdparams"
    weights, facts, velocity = load_checkpoint(path)
    save_checkpoint(path, weights, facts, {n: np.full_like(v, 3e38) for n, v in velocity.items()})
    before = {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")}
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 2, "--resume_path", "results", cwd=small_set
    )
    assert code == 1 and "epoch 2" in err and "Try a lower --learning_rate" in err
    assert {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")} == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model_depth", 18], "weights with model_depth 10, --model_depth asks for 18"),
        (["--resnet_shortcut", "A"], "--resnet_shortcut asks for A"),
        (["--no_max_pool"], "--no_max_pool asks for True"),
    ],
)
def test_weights_of_another_architecture_are_refused(small_set, run_script, options, message):
    from model.resnet3d import ResNet3D

    weights = weights_of(ResNet3D(10, 39, resnet_widen_factor=0.125))
    save_checkpoint(small_set / "weights/r3d50_KM_200ep.pdparams", weights, {})
    code, out, err = run_script("train.py", "--batch_size", 4, *options, cwd=small_set)
    assert code == 1 and message in err


def test_a_resume_with_other_options_is_refused(small_set, run_script):
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--momentum", 0.8, "--resume_path", "results", cwd=small_set
    )
    assert code == 1 and "started with --momentum 0.9, not 0.8" in err
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--resume_path", "results/best.pdparams", cwd=small_set
    )
    assert code == 1 and "weights only, nothing to resume" in err


def test_the_rate_falls_by_the_schedule(small_set, run_script):
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 3, "--lr_scheduler", "multistep",
        "--multistep_milestones", 1, 2, "--n_val_samples", 1, "--train_crop", "corner", "--nesterov",
        "--sample_t_stride", 2, "--train_t_crop", "center", "--mean_dataset", "0.5", cwd=small_set,
    )
    assert code == 0, err
    _, epochs = log(small_set)
    rates = [e["learning_rate"] for e in epochs]
    assert all(math.isclose(a, b) for a, b in zip(rates, (0.01, 0.001, 0.0001)))
    facts = load_checkpoint(small_set / "results/best.pdparams").facts
    assert facts["input"]["mean_dataset"] == "0.5" and facts["input"]["sample_t_stride"] == 2
