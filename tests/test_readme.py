"""The README's commands: they parse as they stand, and its five stages run letter by letter."""
import re
import shlex

import pytest
from conftest import ROOT
from test_opts import SCRIPTS

pytest.importorskip("cv2")
pytest.importorskip("torch")
from moving_shapes import make_checkpoint, make_videos, narrow_resnet10_shapes

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python ")
]


def test_every_command_parses():
    assert len(COMMANDS) >= 8
    for _, script, *arguments in COMMANDS:
        if script == "-m":  # Paddle's launcher: its own options come before the script
            at = next(i for i, argument in enumerate(arguments) if argument in SCRIPTS)
            script, arguments = arguments[at], arguments[at + 1 :]
        if script in SCRIPTS:
            SCRIPTS[script](arguments)
        else:
            assert (ROOT / script).exists(), script


def test_the_five_stages_run_letter_by_letter(tmp_path, run_script):
    stages = COMMANDS[:5]
    assert [command[1] for command in stages] == list(SCRIPTS)
    make_videos(tmp_path / "dataset/UCF-101", n_groups=9, n_clips=1)  # 8 train, 28 test in split 1
    make_checkpoint(tmp_path / "weights/r3d50_KM_200ep.pth", narrow_resnet10_shapes())
    small = ["--n_epochs", 1, "--batch_size", 8, "--sample_size", 32]  # for the two cores of a test
    for _, script, *arguments in stages:
        extra = small if script == "train.py" else []
        code, out, err = run_script(script, *arguments, *extra, cwd=tmp_path)
        assert code == 0, err
    assert out.splitlines()[:5] == [
        "load ground truth",
        "number of ground truth: 28",
        "load result",
        "number of result: 28",
        "calculate top-1 accuracy",
    ]
    assert re.fullmatch(r"top-1 accuracy: [01]\.\d+", out.splitlines()[5])


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
