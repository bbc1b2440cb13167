"""The five scripts in order on real videos of people: they learn actions of people never seen.

`CLIPS_PATH=... python -m pytest -s tests/test_learning.py` prints the run that docs/learning.md shows.
"""
import json
import shutil

import pytest

pytest.importorskip("torch")

from moving_shapes import make_checkpoint, narrow_resnet10_shapes

# 72 videos, 4 actions, 9 people; split 1 tests three people.
OPTIONS = (
    "--ft_begin_module= --n_epochs 32 --lr_scheduler multistep --multistep_milestones 24 "
    "--batch_size 8 --n_threads 2 --learning_rate 0.02 --sample_size 56 --train_crop_min_scale 0.5 "
    "--n_val_samples 2"
).split()


def test_the_five_scripts_learn_weizmann4(tmp_path, clips_path, run_script):
    shutil.copytree(clips_path / "weizmann4", tmp_path / "dataset/UCF-101")
    # Untrained weights: all five scripts run, and the training is from scratch.
    make_checkpoint(tmp_path / "weights/r3d50_KM_200ep.pth", narrow_resnet10_shapes())
    for script, options in [
        ("generate_video_jpgs.py", []),
        ("convert_to_paddle.py", []),
        ("train.py", OPTIONS),
        ("test.py", []),
        ("eval_accuracy.py", []),
    ]:
        code, out, err = run_script(script, *options, cwd=tmp_path, timeout=900)
        assert code == 0, err
        print(f"$ {' '.join(['python', script, *options])}\n{out}", end="")
    accuracy = float(out.splitlines()[-1].split()[-1])
    results = json.loads((tmp_path / "results/val.json").read_text())["results"]
    assert len(results) == 24
    assert accuracy >= 0.85
