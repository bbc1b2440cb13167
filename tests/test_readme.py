"""The README's commands, in English and in Chinese: they parse, and its five stages run letter by letter."""
import re
import shlex

import pytest
from conftest import ROOT
from test_opts import SCRIPTS

pytest.importorskip("cv2")
pytest.importorskip("torch")
from moving_shapes import make_checkpoint, make_videos, narrow_resnet10_shapes

READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_zh.md")}


def commands_of(name):
    blocks = re.findall(r"```bash\n(.*?)```", READMES[name], re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    # Up to where a shell would send the output elsewhere.
    return [shlex.split(line.split(" > ")[0], comments=True) for line in lines if line.startswith("python ")]


COMMANDS = commands_of("README.md")


@pytest.mark.parametrize("name", READMES)
def test_every_command_parses(name):
    commands = commands_of(name)
    assert len(commands) >= 8
    for _, script, *arguments in commands:
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


@pytest.mark.parametrize("name", READMES)
def test_links_to_files_lead_somewhere(name):
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", READMES[name])
    assert len(targets) > 5
    for target in targets:
        assert (ROOT / target).exists(), target


def code_and_numbers(text):
    """Return what does not depend on the language: commands, outputs, and figures outside of them."""
    text = re.sub(r"#[^\n]*", "", text)  # comments in commands are translated
    blocks = [block.split() for block in re.findall(r"```(?:bash|python)\n(.*?)```", text, re.S)]
    outputs = re.findall(r"```text\n(\$.*?)```", text, re.S)
    figures = re.findall(r"\d+\.\d+(?:e-?\d+)?", re.sub(r"```.*?```", "", text, flags=re.S))
    return blocks, outputs, sorted(figures)


def test_the_chinese_readme_has_the_same_commands_outputs_and_figures():
    assert code_and_numbers(READMES["README_zh.md"]) == code_and_numbers(READMES["README.md"])


def test_headings_that_are_linked_to_exist():
    for name, text in READMES.items():
        headings = re.findall(r"^#+ (.*)$", text, re.M)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            assert anchor in anchors, (name, anchor)
