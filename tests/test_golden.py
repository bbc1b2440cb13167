"""The golden files are those of the cases in code, and the reference's code is loaded as it has to be."""
import sys

import cases
import pytest
from conftest import golden, run_program
from reference_code import Checkout


def keys_of(table):
    return [f"{kind}{depth}{ending}" for kind, _, depths, ending in table for depth in depths]


def test_the_golden_files_hold_the_cases():
    logits = [f"{kind}{depth}_c{n}_seed{seed}" for kind, depth, n, seed, *_ in cases.LOGITS]
    assert list(golden("logits.json")) == logits
    family = [f"{kind}{depth}_{code}_c{n}_seed{seed}" for kind, depth, code, n, seed, *_ in cases.FAMILY]
    assert list(golden("family_logits.json")) == family
    assert [run["seed"] for run in golden("training.json")] == [run[3] for run in cases.TRAINING]
    assert list(golden("temporal_windows.json")) == list(map(str, cases.LENGTHS))
    found = {name: video["n_frames"] for name, video in golden("inference.json")["videos"].items()}
    assert found == cases.VIDEOS
    assert list(golden("state_dict_shapes.json")) == keys_of(cases.SHAPES)
    assert golden("family_state_dict_shapes.json").keys() == set(keys_of(cases.FAMILY_SHAPES))
    assert golden("parameter_counts.json").keys() == set(keys_of(cases.COUNTS))


@pytest.fixture
def checkouts(tmp_path):
    """Folders that look like checkouts of 2020 and 2018, each with modules of the same names."""
    importing = "from models import tools\nCODE = tools.CODE"
    for name, files in {
        "new": {
            "models/__init__.py": "",
            "models/resnet.py": importing,
            "models/resnet2p1d.py": "",
            "models/tools.py": "CODE = 'new'",
            "models/resnext.py": "def build(inplanes):\n    return ResNeXt(\nshortcut_type, n_classes)",
            "utils.py": "from sklearn.metrics import x\nONE = 1",
        },
        "old": {"models/resnet.py": importing, "models/tools.py": "CODE = 'old'"},
        "none": {"readme": ""},
    }.items():
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return tmp_path


def test_two_checkouts_with_modules_of_the_same_names_are_kept_apart(checkouts):
    new, old = Checkout(checkouts / "new"), Checkout(checkouts / "old")
    assert (new.code, old.code) == ("2020", "2018")
    for _ in range(2):
        assert (new.module("models.resnet").CODE, old.module("models.resnet").CODE) == ("new", "old")
    assert not {"models", "models.resnet", "models.tools"} & set(sys.modules)
    assert not list(checkouts.rglob("__pycache__"))


def test_a_module_is_patched_when_it_is_loaded_and_stays_as_it_is_on_the_disk(checkouts):
    checkout = Checkout(checkouts / "new")
    text = (checkouts / "new/models/resnext.py").read_text()
    assert checkout.module("models.resnext").build.__code__.co_varnames == ("in_planes",)
    assert checkout.module("utils").ONE == 1
    assert (checkouts / "new/models/resnext.py").read_text() == text
    assert len(checkout.patches_of("resnext")) == 2 and checkout.patches_of("resnet") == []


def test_what_is_no_checkout_of_the_reference_is_refused(checkouts):
    with pytest.raises(SystemExit, match="none: holds no models/resnet.py"):
        Checkout(checkouts / "none")
    (checkouts / "new/utils.py").write_text("ONE = 1")
    with pytest.raises(SystemExit, match="utils.py: .*sklearn.* is not there; another version of the code"):
        Checkout(checkouts / "new").module("utils")


def test_a_file_that_cannot_be_made_is_named_and_left(checkouts):
    pytest.importorskip("torch")
    script, out_path = "tests/golden/make_golden.py", checkouts / "out"
    only = ("--only", "training", "inference")
    code, out, err = run_program(script, checkouts / "old", "--out_path", out_path, *only)
    assert code == 0, err
    assert out == "".join(f"{name}: not made, no checkout of 2020\n" for name in only[1:])
    assert not list(out_path.iterdir())


def test_the_difference_of_two_contents_is_that_of_their_numbers():
    pytest.importorskip("torch")
    from make_golden import difference

    stored = {"a": [1.0, -4.0], "b": {"c": "x", "float64_rel_err": 1e-7}, "d": [[1, 2], [3]], "e": None}
    made = {"a": [1.0, -4.2], "b": {"c": "y", "float64_rel_err": 2e-7}, "d": [[1, 2], [3]], "e": None}
    number, places = difference(made, stored)
    assert number == pytest.approx(0.05) and places == ["/b/c"]
    assert sorted(difference({"a": 1}, {"b": 1})[1]) == ["/a", "/b"]


def test_parity_prints_what_is_measured_and_what_is_not_here():
    nothing = {"CLIPS_PATH": "", "REFERENCE_PATH": ""}
    code, out, err = run_program("benchmarks/parity.py", "windows", "crop", "scores", env=nothing)
    assert code == 0, err
    *table, line = out.splitlines()
    assert table == [
        "| what | largest difference | bound |",
        "| --- | --- | --- |",
        "| windows: even, sliding, centre, random starts, 22 lengths | none | equal |",
        "| the validation crop | not here | |",
        "| scores of real videos | not here | |",
    ]
    assert line.startswith('{"benchmark": "parity", "rows": [{"what": "windows')
    code, out, err = run_program("benchmarks/parity.py", "wimdows")
    assert code == 2 and "no measure is called wimdows" in err
