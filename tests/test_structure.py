"""Who imports whom: opts <- disk <- datasets | model <- report, the five scripts <- tests, benchmarks."""
import ast

import pytest
from conftest import ROOT

SCRIPTS = ["generate_video_jpgs", "convert_to_paddle", "train", "test", "eval_accuracy"]
OWN = {"opts", "disk", "datasets", "model", "report", *SCRIPTS}
ALLOWED = {
    "opts": set(),
    "disk": {"opts"},
    "datasets": {"opts", "disk", "datasets"},
    "model": {"opts", "disk", "model"},
    "report": {"opts", "disk", "datasets"},
}


def imported(path):
    """Return the first part of the name of each module that a file imports, and the whole names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return {name.split(".")[0] for name in names}, names


SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("model/*.py"), *ROOT.glob("datasets/*.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    part = path.parent.name if path.parent != ROOT else path.stem
    allowed = ALLOWED.get(part, {"opts", "disk", "datasets", "model", "report"})
    assert imported(path)[0] & OWN <= allowed


def test_the_accuracy_needs_no_paddle():
    needed, seen = ["eval_accuracy.py"], set()
    while needed:
        path = needed.pop()
        seen.add(path)
        tops, names = imported(ROOT / path)
        assert not tops & {"paddle", "numpy", "torch"}, path
        for name in names:
            module = name.replace(".", "/")
            for candidate in (f"{module}.py", f"{module}/__init__.py"):
                if (ROOT / candidate).exists() and candidate not in seen:
                    needed.append(candidate)
    assert {"datasets/annotation.py", "report.py"} <= seen


def test_options_do_not_reach_the_libraries():
    for path in [*ROOT.glob("model/*.py"), *ROOT.glob("datasets/*.py")]:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"options", "args", "opt"}, path


def test_the_root_holds_the_stages_and_nothing_vague():
    assert {path.stem for path in ROOT.glob("*.py")} == {"opts", "disk", "report", "hubconf", *SCRIPTS}
