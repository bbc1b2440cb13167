"""The documents: their commands parse and run, their links lead somewhere, their examples are read."""
import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_opts import SCRIPTS

import opts
from datasets import annotation, stores
from model.checkpoint import Metadata
from report.maps import read_maps
from run import files
from run.console import UserError

pytest.importorskip("cv2")
pytest.importorskip("torch")
from moving_shapes import draw_video, make_checkpoint, make_videos, narrow_resnet10_shapes, write_video

STAGES = ["generate_video_jpgs.py", "convert_to_paddle.py", "train.py", "test.py", "eval_accuracy.py"]
PATHS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(PATHS)}
READMES = ("README.md", "README_zh.md")
# As they are called, with no argument added to make them parse.
PARSERS = {
    **SCRIPTS,
    "tools/predict.py": opts.predict_options,
    "tools/export_model.py": opts.export_options,
    "tools/summarise_runs.py": opts.summarise_options,
}
MOVED = {"--video"}  # options that end with a line which names the new command


def programs():
    """Return the paths of all Python files; hidden folders are not looked into: other tests change them."""
    tops = [path for path in ROOT.glob("[!.]*") if path.is_dir()]
    return [*ROOT.glob("*.py"), *(path for top in tops for path in top.rglob("*.py"))]


def blocks_of(text, language):
    """Return the content of the fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def spans_of(text):
    """Return the inline code of a text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def commands_of(text):
    """Return the python commands of a text as lists of words: in blocks, behind a prompt and inline."""
    lines = [line for block in blocks_of(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    shown = [line for block in blocks_of(text, "text") for line in block.splitlines()]
    lines += [line[2:] for line in shown if line.startswith("$ ")]
    lines += spans_of(text)
    # From behind a pipe, up to where a shell would send the output elsewhere.
    lines = [line.split(" | ")[-1].split(" > ")[0] for line in lines]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]


def script_of(command):
    """Return the script of a command and its arguments; Paddle's launcher has options of its own before."""
    _, script, *arguments = command
    if script == "-m":
        at = next(i for i, argument in enumerate(arguments) if argument in PARSERS)
        script, arguments = arguments[at], arguments[at + 1 :]
    return script, arguments


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_parses(name):
    commands = commands_of(DOCUMENTS[name])
    assert len(commands) >= (16 if name in READMES else 0)
    for script, arguments in map(script_of, commands):
        if script in PARSERS and not {"--list", "--recipes"}.intersection(arguments):  # these print and end
            PARSERS[script](arguments)
        else:
            assert (ROOT / script).exists(), script


def test_every_script_is_in_the_documents():
    scripts = {script_of(command)[0] for text in DOCUMENTS.values() for command in commands_of(text)}
    assert {*STAGES, "tools/predict.py", "tools/export_model.py"} <= scripts


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_exists(name):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    code = "\n".join(blocks_of(DOCUMENTS[name], "bash") + spans_of(DOCUMENTS[name]))
    # weights/<name>.pdparams is a rule of a pattern.
    assert set(re.findall(r"^make ([a-z][\w-]*)(?![\w/.-])", code, re.M)) <= targets


def test_every_option_in_the_documents_is_one(capsys):
    known = set(MOVED)
    for parse in PARSERS.values():
        with pytest.raises(SystemExit):
            parse(["--help"])
    known.update(re.findall(r"(?<![\w-])--?\w+", capsys.readouterr().out))
    for path in (ROOT / "benchmarks").glob("*.py"):
        known.update(re.findall(r'"(--\w+)"', path.read_text()))
    for name, text in DOCUMENTS.items():
        for span in spans_of(text):
            # An option at the beginning, or of one of the scripts; others belong to other programs.
            is_ours = span.startswith("--") or any(span.startswith((s, f"python {s}")) for s in PARSERS)
            options = re.findall(r"(?<=\s)--\w+|^--\w+", span) if is_ours else []
            outside = {"--shm-size"} if "Docker" in text else set()
            for option in options:
                assert option in known or span.split()[0] in outside, (name, span)


def test_the_readmes_are_short():
    for name in READMES:
        assert len(DOCUMENTS[name].splitlines()) <= 160


def test_the_five_stages_run_letter_by_letter(tmp_path, run_script):
    stages = commands_of(DOCUMENTS["README.md"])[:5]
    assert [command[1] for command in stages] == STAGES
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


# Links ---------------------------------------------------------------------------------------


def anchors_of(text):
    """Return the anchors that GitHub gives to the headings of a text."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_to_files_and_headings_lead_somewhere(name):
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", DOCUMENTS[name])
    assert len(targets) > (12 if name in READMES else 0)
    for target in targets:
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(DOCUMENTS[str(path.resolve().relative_to(ROOT))]), target


@pytest.mark.parametrize("name", READMES)
def test_every_page_is_linked_from_the_readme(name):
    pages = set(DOCUMENTS) - set(READMES)
    assert pages <= set(re.findall(r"^- .*?\]\(([^)#]+)\).*", DOCUMENTS[name], re.M)) | {"CHANGELOG.md"}
    assert "](CHANGELOG.md)" in DOCUMENTS[name]


@pytest.mark.parametrize("name", sorted(set(DOCUMENTS) - {"CHANGELOG.md"}))
def test_every_file_of_the_code_that_is_named_exists(name):
    names = {path.name for path in programs()}
    rooms = "run|datasets|model|prediction|report|tests|benchmarks|tools|recipes"
    for span in spans_of(DOCUMENTS[name]):
        if re.fullmatch(rf"(?:{rooms})/[\w/.]*", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"\w+\.py", span) and span != "main.py":  # the reference's
            assert span in names, span


# Two languages -------------------------------------------------------------------------------


def code_and_numbers(text):
    """Return what does not depend on the language: commands, outputs, and figures outside of them."""
    text = re.sub(r"#[^\n]*", "", text)  # comments in commands are translated
    blocks = [block.split() for block in re.findall(r"```(?:bash|python)\n(.*?)```", text, re.S)]
    outputs = re.findall(r"```text\n(\$.*?)```", text, re.S)
    figures = re.findall(r"\d+\.\d+(?:e-?\d+)?", re.sub(r"```.*?```", "", text, flags=re.S))
    return blocks, outputs, sorted(figures), sorted(re.findall(r"\]\(([^)]+)\)", text))


def test_the_chinese_readme_has_the_same_commands_outputs_figures_and_links():
    english, chinese = (code_and_numbers(DOCUMENTS[name].replace(other, "")) for name, other in (
        ("README.md", "README_zh.md"), ("README_zh.md", "README.md")
    ))
    assert chinese == english


def test_what_the_readme_shows_of_the_embedded_run_is_in_its_output():
    (shown,) = [block for block in blocks_of(DOCUMENTS["README.md"], "text") if "demo/" in block]
    lines = (ROOT / "docs/embedded_run.txt").read_text().splitlines()
    for line in shown.splitlines():
        if line.startswith("$ python "):
            assert any(f" {line[9:]}" in command for command in lines), line
        elif line != "...":
            assert line in lines, line


@pytest.mark.parametrize("name, n", [("README.md", 3), ("docs/parity.md", 11)])
def test_the_differences_to_the_reference_are_those_that_make_parity_printed(name, n):
    printed = re.findall(r"\d[\d.]*e-\d+|\b\d\.\d+\b", (ROOT / "docs/parity.txt").read_text().split("{")[0])
    cells = re.findall(r"^\|[^|\n]*\|([^|\n]*e-\d[^|\n]*)\|", DOCUMENTS[name], re.M)
    shown = [figure for cell in cells for figure in re.findall(r"\d\.\d+e-\d+", cell)]
    assert len(shown) >= n and {float(each) for each in shown} <= {float(each) for each in printed}


# What the pages say of the code --------------------------------------------------------------


def texts_of_the_code():
    """Return every text of the programs, what is put in between given as a null."""
    texts = []
    for path in programs():
        if path.relative_to(ROOT).parts[0] in ("tests", "benchmarks"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(getattr(each, "value", "\0") if isinstance(each, ast.Constant) else "\0"
                                     for each in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_that_troubleshooting_explains_can_come():
    code = texts_of_the_code()
    own = DOCUMENTS["docs/troubleshooting.md"].split("## Messages of other programs")[0]
    cells = re.findall(r"^\| (`.*?`) \|", own, re.M)
    assert len(cells) > 40
    unknown = []
    for message in re.findall(r"`([^`]+)`", "\n".join(cells)):
        pattern = r"[^\n]*".join(re.escape(part.strip()) for part in message.split("..."))
        if not re.search(pattern, code):
            unknown.append(message)
    assert not unknown


def json_after(heading):
    """Return the example under a heading of docs/files.md as text."""
    section = DOCUMENTS["docs/files.md"].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return blocks_of(section, "json")


def test_the_examples_of_the_files_are_read_by_their_readers(tmp_path):
    (text,) = json_after("Annotation: `ucf101_01.json`")
    (tmp_path / "a.json").write_text(text)
    read = annotation.read_annotation(tmp_path / "a.json")
    assert [len(read.subsets[subset]) for subset in annotation.SUBSETS] == [1, 1, 0]

    (text,) = json_after("`frames.jsonl`")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/frames.jsonl").write_text(text)
    store = stores.open_store(tmp_path / "frames")
    assert store.spec.quality == 80
    assert store.frame_rates(read.subsets["training"]) == (25.0, 25.0, 25.0)

    (text,) = json_after("Checkpoints: `*.pdparams`")
    metadata = Metadata.from_json(json.loads(text), "docs/files.md")
    assert metadata.to_json() == json.loads(text)

    (text,) = json_after("`train.jsonl`")
    (tmp_path / "train.jsonl").write_text(text)
    entries, n_torn = files.read_journal(tmp_path / "train.jsonl")
    assert [entries[0]["version"], entries[1]["epoch"], n_torn] == [2, 1, 0]

    (text,) = json_after("`val.json`")
    (tmp_path / "val.json").write_text(text.rstrip("\n"))
    (run,) = json_after("`val_run.json`")
    (tmp_path / "val_run.json").write_text(run)
    results = annotation.read_results(tmp_path / "val.json")
    found, why_not = annotation.read_run(tmp_path / "val.json", results)
    assert found, why_not

    (text,) = json_after("`val_cam.json`")
    (tmp_path / "val_cam.json").write_text(text)
    found, why_not = read_maps(tmp_path / "val_cam.json", {"v_Archery_g01_c01": "Bowling"})
    assert found and not why_not


def test_an_example_with_a_mistake_is_refused(tmp_path):
    (text,) = json_after("Checkpoints: `*.pdparams`")
    with pytest.raises(UserError, match="unknown field"):
        Metadata.from_json({**json.loads(text), "facts": {}}, "docs/files.md")


def test_the_python_of_the_pages_runs(tmp_path):
    (tmp_path / "results").mkdir()
    source = ROOT / "tests/legacy/save_3.pdparams"
    (tmp_path / "results/best.pdparams").write_bytes(source.read_bytes())
    rng = np.random.default_rng(0)
    write_video(tmp_path / "video.avi", draw_video("MoveUp", 40, rng))
    (tmp_path / "video.avi").rename(tmp_path / "video.mp4")
    _, hub = blocks_of(DOCUMENTS["docs/export.md"], "python")  # the other: tests/test_exported.py
    network, video = blocks_of(DOCUMENTS["docs/prediction.md"], "python")
    clips = "import paddle\nclips = paddle.rand([2, 3, 8, 32, 32])\nlogits = net(clips)"
    network = network.replace("logits = net(clips)", clips)
    outputs = []
    for text in (network + video, hub.replace('"Paddle-ResNet3D"', repr(str(ROOT)))):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert len(outputs[0].splitlines()) == 3  # 40 frames are three windows


def tree_with(tmp_path, examples):
    """Copy the programs without tests, and add files to them, `{path: text}`."""
    tree = tmp_path / "tree"
    not_programs = ("tests", "benchmarks", "docs", "demo")
    tree.mkdir()
    for path in ROOT.glob("[!.]*"):  # hidden folders change while other tests run
        if path.is_dir() and path.name not in not_programs:
            shutil.copytree(path, tree / path.name)
        elif path.suffix == ".py":
            shutil.copy(path, tree)
    for name, text in examples.items():
        assert not (tree / name).exists()
        (tree / name).write_text(text)
    return tree


def test_a_network_a_data_set_a_recipe_and_a_store_are_one_file_each(tmp_path):
    import torch

    page = DOCUMENTS["docs/architecture.md"]
    network, forward, source, store = blocks_of(page, "python")
    (recipe,) = blocks_of(page, "json")
    tree = tree_with(tmp_path, {
        "model/networks/plain.py": network,
        "model/torch_forward/plain.py": forward,
        "datasets/sources/flat.py": source,
        "datasets/stores/zip_files.py": store,
        "recipes/plain.json": recipe,
    })
    rng = np.random.default_rng(0)
    for i in range(16):
        name = ("MoveUp", "ShapeGrows")[i % 2]
        write_video(tmp_path / f"videos/{name}-{i}.avi", draw_video(name, 24, rng))
    shapes = {"conv1": (4, 3, 3, 3, 3), "conv2": (8, 4, 3, 3, 3), "fc": (5, 8)}
    generator = torch.Generator().manual_seed(0)
    state = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state.update({f"{name}.bias": torch.ones(shape[0]) for name, shape in shapes.items()})
    torch.save(state, tmp_path / "plain.pth")

    def run(script, *arguments):
        done = subprocess.run(
            [sys.executable, str(tree / script), *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    frames = ["--video_path", "jpg", "--annotation_path", "jpg.json"]
    store_option = ["--store", "zip_files"]
    assert "12 training, 4 validation" in run(
        "generate_video_jpgs.py", "videos", "jpg", "flat", "--every", "4", "--size", "32", *store_option
    )
    assert "Plain3D, width 4, 5 classes" in run("convert_to_paddle.py", "plain.pth")
    run("train.py", *frames, "--recipe", "plain", "--pretrain_path", "none", "--n_threads", "0")
    run("train.py", *frames, "--pretrain_path", "plain.pdparams", "--batch_size", "8", "--n_epochs", "1",
        "--result_path", "fine", "--sample_size", "32")
    assert "results/val.json: 4 videos" in run("test.py", *frames)
    assert "number of result: 4" in run("eval_accuracy.py", "jpg.json")
    header = json.loads((tmp_path / "results/train.jsonl").read_text().splitlines()[0])
    assert header["network"]["arguments"]["plain_width"] == 4 and header["recipe_name"] == "plain"
    assert header["recipe"]["n_epochs"] == 2 and header["clip"]["sample_duration"] == 8
