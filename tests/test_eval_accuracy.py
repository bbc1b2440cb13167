"""Stage 5 as a user runs it, on a Python that can import neither Paddle nor numpy."""
import json
import math
import random

import pytest

from report.accuracy import mcnemar_p

CLASSES = [f"class{i}" for i in range(6)]


@pytest.fixture
def scored(tmp_path, run_script):
    """Return a function that writes both files and runs the script, and the files' content."""
    rng = random.Random(0)
    truth = {f"v_{i}": rng.choice(CLASSES) for i in range(40)}
    annotations = {name: {"label": label, "segment": [1, 30]} for name, label in truth.items()}
    database = {name: {"subset": "validation", "annotations": a} for name, a in annotations.items()}
    database["v_train"] = {"subset": "training", "annotations": annotations["v_0"]}
    results = {
        name: [
            {"label": label, "score": 0.5 - 0.1 * rank}
            for rank, label in enumerate(rng.sample(CLASSES, 5))
        ]
        for name in truth
    }
    (tmp_path / "no_paddle").mkdir()
    for package in ("paddle", "numpy"):
        text = f"raise ImportError('{package} is not to be imported')\n"
        (tmp_path / f"no_paddle/{package}.py").write_text(text)

    class Scored:
        labels, path, note = CLASSES, tmp_path, ""

        def run(self, *arguments):
            annotation = {"labels": self.labels, "database": self.database}
            (tmp_path / "truth.json").write_text(json.dumps(annotation))
            (tmp_path / "val.json").write_text(json.dumps({"results": self.results}))
            return self.run_on("truth.json", "val.json", *arguments)

        def run_on(self, *arguments):
            env = {"PYTHONPATH": str(tmp_path / "no_paddle")}
            return run_script("eval_accuracy.py", "--root_path", tmp_path, *arguments, env=env)

        def accuracy(self, *arguments):
            code, out, err = self.run(*arguments)
            assert (code, err) == (0, self.note)
            return float(out.split()[-1])

    scored = Scored()
    scored.truth, scored.database, scored.results = truth, database, results
    return scored


def n_correct(truth, results, k):
    """Count again, another way: by the rank of the right class."""
    count = 0
    for name, result in results.items():
        ranks = {item["label"]: rank for rank, item in enumerate(result)}
        count += ranks.get(truth[name], k) < k
    return count


def test_it_prints_six_lines(scored):
    expected = n_correct(scored.truth, scored.results, 1) / 40
    assert 0 < expected < 1
    assert scored.run() == (
        0,
        "load ground truth\nnumber of ground truth: 40\nload result\nnumber of result: 40\n"
        f"calculate top-1 accuracy\ntop-1 accuracy: {expected}\n",
        "",
    )
    assert not (scored.path / "top1.txt").exists()


@pytest.mark.parametrize("package", ["paddle", "numpy"])
def test_paddle_and_numpy_cannot_be_imported_in_these_tests(scored, run_script, package):
    (scored.path / "import_it.py").write_text(f"import {package}\n")
    env = {"PYTHONPATH": str(scored.path / "no_paddle")}
    code, _, err = run_script(scored.path / "import_it.py", env=env)
    assert code == 1 and f"{package} is not to be imported" in err


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_accuracy_equals_an_independent_count(scored, k):
    assert scored.accuracy("-k", k) == n_correct(scored.truth, scored.results, k) / 40


def test_top_k_of_more_classes_than_there_are_is_whole(scored):
    for result in scored.results.values():
        missing = set(CLASSES) - {item["label"] for item in result}
        result.append({"label": missing.pop(), "score": 0.0})
    assert scored.accuracy("-k", 100) == 1.0


def test_a_video_without_a_result_is_wrong_unless_ignored(scored):
    right = next(n for n, result in scored.results.items() if result[0]["label"] == scored.truth[n])
    del scored.results[right]
    left = n_correct(scored.truth, scored.results, 1)
    scored.note = f"note: 1 of 40 videos have no result and count as wrong: {right}\n"
    assert scored.accuracy() == left / 40
    scored.note = f"note: 1 of 40 videos have no result and are left out: {right}\n"
    assert scored.accuracy("--ignore") == left / 39


def test_the_note_on_videos_without_a_result_names_the_first_three(scored):
    for name in ("v_3", "v_7", "v_20", "v_30"):
        del scored.results[name]
    code, out, err = scored.run()
    assert (code, out.count("\n")) == (0, 6)
    assert err == "note: 4 of 40 videos have no result and count as wrong: v_3, v_7, v_20, ...\n"


def test_another_subset_is_counted_on_its_own(scored):
    scored.results = {"v_train": [{"label": scored.truth["v_0"], "score": 1}]}
    assert scored.accuracy("--subset", "training") == 1.0


def test_the_accuracy_is_saved_beside_the_results(scored):
    accuracy = scored.accuracy("--save")
    assert float((scored.path / "top1.txt").read_text()) == accuracy
    accuracy = scored.accuracy("--save", "-k", "5")
    assert float((scored.path / "top5.txt").read_text()) == accuracy


def test_the_mean_class_accuracy_counts_a_rare_class_as_much_as_a_frequent_one(scored):
    for i, name in enumerate(scored.truth):  # 36 of the first class, 4 of the second, of which 1 is right
        scored.truth[name] = CLASSES[i % 10 == 0]
        scored.database[name]["annotations"]["label"] = scored.truth[name]
        put_first(scored, scored.results, name, CLASSES[i == 0])
    code, out, err = scored.run("--mean_class", "--save")
    assert (code, err) == (0, "")
    assert out.splitlines()[5:] == [f"top-1 accuracy: {37 / 40}", f"mean class accuracy: {(1 + 1 / 4) / 2}"]
    assert float((scored.path / "top1_mean_class.txt").read_text()) == 0.625
    del scored.results["v_0"]  # counts as wrong, or not at all
    assert "mean class accuracy: 0.5\n" in scored.run("--mean_class")[1]
    assert "mean class accuracy: 0.5\n" in scored.run("--mean_class", "--ignore")[1]


@pytest.mark.parametrize("n_labelled", [0, 2])
def test_no_accuracy_of_videos_without_a_label(scored, n_labelled):
    scored.results = {}
    for i in range(5):
        label = {"label": CLASSES[i]} if i < n_labelled else {}
        scored.database[f"v_test{i}"] = {"subset": "testing", "annotations": {**label, "segment": [1, 30]}}
        scored.results[f"v_test{i}"] = PAIRS
    done = scored.run("--subset", "testing", "--save", "--report")
    reported = f"{5 - n_labelled} of 5 videos of the subset testing have no label"
    assert_one_line_error(done, f"truth.json: {reported}: no accuracy can be computed\n")
    assert "accuracy" not in done[1] and not list(scored.path.glob("*.txt"))


def set_result(value):
    return lambda scored: scored.results.update(v_3=value)


PAIRS = [{"label": CLASSES[i], "score": 0.5 - 0.1 * i} for i in range(5)]
MISTAKES = {
    "unknown label": (set_result([{"label": "Juggling", "score": 1}]), [], "v_3: label 'Juggling'"),
    "unknown video": (lambda s: s.results.update(v_stranger=PAIRS), [], "1 of 41 videos are not of"),
    "video of another subset": (lambda s: s.results.update(v_train=PAIRS), [], "v_train"),
    "empty subset": (lambda s: None, ["--subset", "testing"], "no video of the subset testing"),
    "no results": (lambda s: s.results.clear(), [], "no results in it"),
    "scores of clips": (
        set_result([{"segment": [1, 17], "result": PAIRS}]), [], "without --inference_no_average",
    ),
    "too few labels for k": (set_result(PAIRS[:2]), ["-k", 5], "v_3 has 2 labels, top-5 needs 5"),
    "more than was written": (lambda s: None, ["-k", 6], "run test.py with --output_topk 6"),
    "a name of two lines": (lambda s: s.results.update({"a\nb": PAIRS}), [], "of the subset"),
    "infinite score": (set_result([{"label": CLASSES[0], "score": math.inf}]), [], "v_3"),
    "unsorted": (set_result(PAIRS[::-1]), [], "not in order"),
    "malformed result": (set_result({"label": "class0"}), [], "val.json: video 'v_3'"),
    "malformed annotation": (lambda s: s.database.update(v_3=None), [], "truth.json: video 'v_3'"),
    "unsafe class": (lambda s: setattr(s, "labels", [*CLASSES, "../up"]), [], "truth.json: label"),
}  # fmt: skip


def assert_one_line_error(done, text):
    code, _, err = done
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert text in err


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_one_line(scored, mistake):
    make, arguments, text = MISTAKES[mistake]
    make(scored)
    assert_one_line_error(scored.run(*arguments), text)
    assert not (scored.path / "top1.txt").exists()


@pytest.mark.parametrize("text", ["", "not JSON", '{"results": {', "[]", "\0"])
def test_a_file_that_is_no_json_ends_with_one_line(scored, text):
    assert scored.run()[0] == 0
    (scored.path / "bad.json").write_text(text)
    assert_one_line_error(scored.run_on("truth.json", "bad.json"), "bad.json")
    assert_one_line_error(scored.run_on("bad.json", "val.json"), "bad.json")


def test_a_missing_file_ends_with_one_line(scored):
    assert_one_line_error(scored.run_on("gone.json", "val.json"), "gone.json")
    assert scored.run()[0] == 0
    assert_one_line_error(scored.run_on("truth.json", "gone.json"), "gone.json: no such results file")
    assert_one_line_error(scored.run_on("truth.json", "no_paddle"), "no_paddle: Is a directory")


@pytest.mark.parametrize("arguments", [["-k", "0"], ["--subset", "val"], ["--unknown"]])
def test_a_bad_option_exits_with_2(scored, arguments):
    code, out, err = scored.run(*arguments)
    assert code == 2 and out == "" and "Traceback" not in err


def against(scored, change, *arguments):
    """Run with the results as they are against a changed copy of them, `earlier.json`."""
    earlier = {name: list(result) for name, result in scored.results.items()}
    change(earlier)
    (scored.path / "earlier.json").write_text(json.dumps({"results": earlier}))
    return scored.run("--compare", "earlier.json", *arguments)


def put_first(scored, results, name, label):
    """Give a video's best score to a class, whatever its result had."""
    others = [item["label"] for item in scored.results[name] if item["label"] != label][:4]
    results[name] = [{"label": text, "score": 0.5 - 0.1 * i} for i, text in enumerate([label, *others])]


def test_a_comparison_says_what_is_gained_and_lost(scored):
    truth = scored.truth
    for name in truth:
        put_first(scored, scored.results, name, truth[name])
    wrong = {name: CLASSES[CLASSES.index(truth[name]) - 1] for name in truth}
    of = {label: [name for name in truth if truth[name] == label] for label in CLASSES}
    lost, gained = of["class1"][:1], of["class0"][:4] + of["class2"][:1]
    put_first(scored, scored.results, lost[0], wrong[lost[0]])

    def change(earlier):
        put_first(scored, earlier, lost[0], truth[lost[0]])
        for name in gained:
            put_first(scored, earlier, name, wrong[name])

    code, out, err = against(scored, change)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[5] == f"top-1 accuracy: {39 / 40}" and lines[6] == (
        f"against {scored.path}/earlier.json, 40 videos, top-1:"
    )
    in_order = [name for name in truth if name in gained]
    assert lines[7:9] == [f"gained: 5 ({', '.join(in_order[:3])}, ...)", f"lost: 1 ({lost[0]})"]
    parts = [(len(of[c]) - n) / len(of[c]) for c, n in (("class0", 4), ("class2", 1))]
    now, was = (5 + (len(of["class1"]) - 1) / len(of["class1"])) / 6, (sum(parts) + 4) / 6
    assert lines[9] == f"mean class accuracy: {now:.4f}, was {was:.4f}"
    assert lines[10] == "McNemar's exact p, two-sided: 0.2188"  # 2 (1 + 6) / 2^6
    assert lines[11:] == [
        f"class0: +4 of {len(of['class0'])} videos",
        f"class1: -1 of {len(of['class1'])} videos",
        f"class2: +1 of {len(of['class2'])} videos",
    ]
    same = against(scored, lambda e: None)[1]
    assert "gained: 0\nlost: 0\nmean class" in same and "McNemar's exact p, two-sided: 1\n" in same


def test_results_of_other_videos_are_not_compared(scored):
    def drop(earlier):
        for name in ("v_3", "v_7"):
            del earlier[name]

    done = against(scored, drop)
    assert_one_line_error(done, "not of the same videos as")
    assert "2 are only in that, 0 only in this (v_3, ...)" in done[2]
    assert_one_line_error(against(scored, lambda e: e.update(v_train=PAIRS)), "not of the subset validation")
    assert_one_line_error(scored.run("--compare", "gone.json"), "gone.json: no such results file")


@pytest.mark.parametrize(
    "n_gained, n_lost, p",
    [
        (0, 0, 1),
        (5, 5, 1),
        (0, 6, 2 / 64),
        (10, 1, 2 * 12 / 2048),
        (40, 68, 0.009057983337532568),  # scipy.stats.binomtest(40, 108).pvalue, of scipy 1
        (1800, 1983, 0.0030807650265506498),  # all of UCF-101's split 1 differ
        (3783, 0, 0),  # 2^-3782 is below the smallest float
    ],
)
def test_mcnemars_p_is_exact(n_gained, n_lost, p):
    # 1e-12: scipy's own sum is of floats.
    assert mcnemar_p(n_gained, n_lost) == mcnemar_p(n_lost, n_gained) == pytest.approx(p, rel=1e-12)
