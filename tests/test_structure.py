"""Who imports whom: run <- datasets | model <- prediction, report <- stages, tools <- tests, benchmarks."""
import ast

import pytest
from conftest import ROOT

STAGES = ["generate_video_jpgs", "convert_to_paddle", "train", "test", "eval_accuracy"]
ROOMS = {"run", "datasets", "model", "prediction", "report"}
ALLOWED = {
    "run": {"run"},
    "datasets": {"run", "datasets"},
    "model": {"run", "model"},
    "prediction": {"run", "datasets", "prediction"},
    "report": {"run", "datasets", "report"},
    "opts": {"run"},
}
SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for room in (*ROOMS, "tools") for path in (ROOT / room).rglob("*.py"))]
)
LINES_OF_A_FILE, LINES_OF_A_CLASS, LINES_OF_A_FUNCTION = 360, 160, 55


def imported(path):
    """Return the first part of the name of each module that a file imports, and the whole names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[0] for name in names}, names


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    tops, _ = imported(path)
    room = room_of(path)
    own = tops & (ROOMS | {"opts", "tools", *STAGES})
    # Options are parsed for the stages and the tools alone, and nothing imports these.
    assert own <= ALLOWED.get(room, {*ROOMS, "opts"})
    if room not in ("model", "tools", "hubconf", *STAGES):
        assert not tops & {"paddle", "torch"}, "Paddle is imported in model/, stages and tools alone"
    if room == "run":
        assert "numpy" not in tops


def test_the_accuracy_needs_no_paddle_and_no_numpy():
    needed, seen = ["eval_accuracy.py"], set()
    while needed:
        path = needed.pop()
        seen.add(path)
        tops, names = imported(ROOT / path)
        if path != "report/mistakes.py" and not path.startswith("datasets/stores"):
            assert not tops & {"paddle", "numpy", "torch"}, path
        for name in names:
            module = name.replace(".", "/")
            for candidate in (f"{module}.py", f"{module}/__init__.py"):
                if (ROOT / candidate).exists() and candidate not in seen:
                    needed.append(candidate)
    assert "datasets/annotation.py" in seen


def test_options_do_not_reach_the_libraries():
    for path in SOURCES:
        if room_of(path) in ROOMS and path.name != "arguments.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert node.value.id not in ("options", "args", "opt"), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_a_class_and_a_function_can_be_read_at_once(path):
    text = path.read_text()
    assert text.count("\n") <= LINES_OF_A_FILE or path.name == "spec.py"
    for node in ast.walk(ast.parse(text)):
        n = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
        if isinstance(node, ast.ClassDef):
            assert n <= LINES_OF_A_CLASS, node.name
        elif isinstance(node, ast.FunctionDef):
            assert n <= LINES_OF_A_FUNCTION, node.name
