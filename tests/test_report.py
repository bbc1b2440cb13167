"""The report on a results file: its numbers counted again, what is missing, strangers' names."""
import base64
import hashlib
import io
import json
import re
from collections import Counter

import pytest
from PIL import Image
from report_data import CLASSES, EVIL, PUBLISHED, Page, evaluator, write_scored_videos

from report.accuracy import wilson_interval
from report.curves import panels
from run.spec import ClipSpec, NetworkSpec, Protocol, Recipe


@pytest.fixture
def scored(tmp_path):
    return write_scored_videos(tmp_path)


@pytest.fixture
def evaluate(run_script, tmp_path):
    return evaluator(run_script, tmp_path)


def page_text(tmp_path):
    return (tmp_path / "results/report.html").read_text(encoding="utf-8")


def change(path, **changes):
    """Give keys of a JSON file other values, `...` to take one out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def test_the_page_says_what_an_independent_count_says(scored, evaluate, tmp_path):
    code, out, err = evaluate("--report")
    assert code == 0 and err == "note: results/report.html: report on 40 videos\n"
    n_right = sum(pairs[0][0] == label for label, pairs in scored.values())
    assert 20 < n_right < 40
    # Scripts that parse the six lines find them as ever, the accuracy on the last one.
    assert out.count("\n") == 6 and out.endswith(f"\ntop-1 accuracy: {n_right / 40}\n")
    page = Page(tmp_path / "results/report.html")
    text = page.text.replace("\xa0", " ")
    assert f"{100 * n_right / 40:.1f} %{n_right} of 40 videos" in text
    assert "100.0 %40 of 40 videos; of 5 classes it misses none" in text
    assert "30.0 %60 of 200 clips" in text
    right = {name: [pairs[0][0] == own for own, pairs in scored.values() if own == name] for name in CLASSES}
    mean = sum(sum(right[name]) / len(right[name]) for name in CLASSES[:4]) / 4
    assert f"Mean class accuracy{100 * mean:.1f} %" in text
    low, high = wilson_interval(n_right, 40)
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in text
    assert "published 92.9 % lies above it." in text and "UCF-101 split 1" in text
    assert "These are other data (40 videos, 5 classes" in text
    for label in CLASSES[:4]:
        mine = [pairs[0][0] for own, pairs in scored.values() if own == label]
        (name, count), = Counter(other for other in mine if other != label).most_common(1)
        part, row = mine.count(label) / 10, next(row for row in page.rows if row[0] == label)
        assert row[1:3] == ["10", str(mine.count(label))]
        assert row[3].replace("\xa0", " ").endswith(f"{100 * part:.1f} %")
        assert row[4] == f"{name} {count}×"
    assert page.rows[-1] == ["empty", "0", "0", "–", ""]  # below the others, the lowest first
    cells = [a for tag, a in page.tags if tag == "rect" and a["class"] in ("right", "wrong")]
    assert len(cells) == len({(label, pairs[0][0]) for label, pairs in scored.values()})


def test_the_mistakes_come_surest_first_with_their_frames(scored, evaluate, tmp_path):
    assert evaluate("--report")[0] == 0
    page = Page(tmp_path / "results/report.html")
    wrong = [name for name, (label, pairs) in reversed(scored.items()) if pairs[0][0] != label]
    found = re.findall(r"v_\d+_<b>&amp;", page.text.split("Most confident")[1])
    assert list(dict.fromkeys(found)) == wrong and f"{len(wrong)} of {len(wrong)} mistakes" in page.text
    strips = [a for tag, a in page.tags if tag == "img" and a.get("src", "").startswith("data:image/jpeg")]
    assert [a["alt"] for a in strips] == ["5 frames of v_39_<b>&amp;", "5 frames of v_36_<b>&amp;"]
    image = Image.open(io.BytesIO(base64.b64decode(strips[0]["src"].partition(",")[2])))
    assert image.size == (5 * 128 + 4 * 2, 96)  # frames of 80 x 60, and gaps
    # The first is frame 3 of 1 to 20, as it is on disk except for its size.
    frame = Image.open(tmp_path / f"dataset/UCF-101-jpg/run/{wrong[0]}/image_00003.jpg").resize((128, 96))
    first = image.crop((0, 0, 128, 96))
    errors = [abs(a - b) for a, b in zip(first.tobytes(), frame.tobytes())]
    assert sum(errors) / len(errors) < 6  # of 255, by the second jpg; another frame of noise has 60
    assert page.text.count("No frames: ") == len(wrong) - 2
    assert "dataset/UCF-101-jpg: frames missing for 1 of 1 annotated videos" in page.text


def test_what_is_missing_is_reported(scored, evaluate, tmp_path):
    (tmp_path / "results/train.jsonl").unlink()
    run_path = tmp_path / "results/val_run.json"
    for spoil, reported in (
        (lambda: run_path.write_text(run_path.read_text().replace('"results_crc32": ', '"results_crc32": 1')),
         "results/val_run.json: of other results than val.json"),
        (lambda: run_path.write_text('{"videos": {"v": [3, 2]}}'), "results/val_run.json: malformed"),
        (lambda: run_path.write_text("{"), "results/val_run.json: not a JSON"),
        (run_path.unlink, "results/val_run.json: no such"),
    ):  # fmt: skip
        spoil()
        code, _, err = evaluate("--report", "--video_path", "nowhere")
        assert code == 0, err
        text = Page(tmp_path / "results/report.html").text
        assert f"Clip accuracynot known{reported}" in text and f"Not known: {reported}" in text
    assert "there is no folder nowhere (--video_path)" in text and "no train.jsonl" in text
    assert "No curves.png beside the results" in text


def test_a_video_without_a_result_is_wrong_or_left_out(scored, evaluate, tmp_path):
    path = tmp_path / "results/val.json"
    results = json.loads(path.read_text())["results"]
    del results["v_1_<b>&amp;"]
    path.write_text(json.dumps({"results": results}))
    assert evaluate("--report")[0] == 0
    page = Page(tmp_path / "results/report.html")
    assert "of 40 videos" in page.text and f"{EVIL} taken for no result: 1 of 10" in page.text
    assert evaluate("--report", "--ignore", "--quiet")[2].count("note") == 1  # that one is left out
    page = Page(tmp_path / "results/report.html")
    assert "of 39 videos" in page.text and "no result" not in page.text


def test_the_page_holds_nothing_of_the_environment_and_fetches_nothing(scored, evaluate, tmp_path):
    assert evaluate("--report")[0] == 0
    page = Page(tmp_path / "results/report.html")
    assert "hunter2" not in page.text and "of the log" not in page.text
    assert "2.6.2" in page.text and "earlier" not in page.text  # the log's last header
    assert "train.py <img src=x" in page.text
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search("<script>(.*?)</script>", page_text(tmp_path), re.DOTALL)[1]
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{script_hash}';" in policy
    for tag, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:") and "href" not in attributes
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)


@pytest.mark.parametrize(
    "n_videos, n_classes, remark",
    [
        (40, 5, "The comparison holds if these are the results of those data and that network."),
        (41, 5, "These are other data (40 videos, 5 classes; the published figure is of 41 and 5)"),
        (40, 101, "These are other data (40 videos, 5 classes; the published figure is of 40 and 101)"),
    ],
)
def test_a_published_figure_is_compared_by_its_data(scored, evaluate, tmp_path, n_videos, n_classes, remark):
    figure = {**PUBLISHED, "accuracy": 0.5, "n_videos": n_videos, "n_classes": n_classes, "what": EVIL}
    change(tmp_path / "results/val_run.json", published=figure)
    assert evaluate("--report")[0] == 0
    text = " ".join(Page(tmp_path / "results/report.html").text.split())
    assert "The published 50.0 % lies inside it." in text and "published 50.0" in text
    assert f"That is the {EVIL} (source: a paper)" in text and remark in text
    assert ("The comparison holds" in text) != ("other data" in text)


def test_the_published_figure_of_the_log_stands_in_for_that_of_an_old_test(scored, evaluate, tmp_path):
    run, log = tmp_path / "results/val_run.json", tmp_path / "results/train.jsonl"
    log.write_text(json.dumps({"version": 2, "published": {**PUBLISHED, "accuracy": 0.123}}) + "\n")
    change(run, published=...)
    assert evaluate("--report")[0] == 0
    page = Page(tmp_path / "results/report.html")
    assert "The published 12.3\xa0% lies below it." in page.text.replace("\n", " ")
    # A test that knows of none decides: its checkpoint can be of another training.
    change(run, published=None)
    assert evaluate("--report")[0] == 0
    assert "ublished" not in Page(tmp_path / "results/report.html").text


# What the scripts wrote before there were specs.
OLD_RUN = {"checkpoint": "old.pdparams", "device": "cpu", "versions": {"paddle": "2.6.2"},
           "options": {"inference_stride": 16, "resume_path": "old.pdparams", "fps": None}}  # fmt: skip
OLD_HEADER = {"command": ["train.py", "--n_epochs", "3"], "git": "7c3cfd9", "paddle": "2.6.1",
              "options": {"batch_size": 4, "multistep_milestones": [50, 100, 150]}, "n_ranks": 1}  # fmt: skip


def test_old_runs_have_no_published_figure_and_their_options_are_listed(scored, evaluate, tmp_path):
    run = json.loads((tmp_path / "results/val_run.json").read_text())
    old = {**OLD_RUN, **{name: run[name] for name in ("results_crc32", "videos")}}
    (tmp_path / "results/val_run.json").write_text(json.dumps(old))
    (tmp_path / "results/train.jsonl").write_text(json.dumps(OLD_HEADER) + "\n")
    assert evaluate("--report") == (0, evaluate()[1], "note: results/report.html: report on 40 videos\n")
    page = Page(tmp_path / "results/report.html")
    assert "95\xa0% interval" in page.text and "60 of 200 clips" in page.text
    assert "ublished" not in page_text(tmp_path) and "these are other data" not in page.text.lower()
    assert page.lists == {
        "Test": {"checkpoint": "old.pdparams", "device": "cpu", "paddle": "2.6.2"},
        "Test, Options": {"inference_stride": "16", "resume_path": "old.pdparams", "fps": "null"},
        "Training": {"command": "train.py --n_epochs 3", "git": "7c3cfd9", "paddle": "2.6.1", "n_ranks": "1"},
        "Training, Options": {"batch_size": "4", "multistep_milestones": "[50, 100, 150]"},
    }


def test_how_it_was_made_lists_the_specs(scored, evaluate, tmp_path):
    header = {
        "version": 2,
        "device": "gpu",
        "network": NetworkSpec("resnet", {"model_depth": 50}).to_json(),
        "clip": ClipSpec(sample_duration=32).to_json(),
        "recipe": Recipe(batch_size=16).to_json(),
        "recipe_name": EVIL,
        "published": None,
        "options": {"n_threads": 2},
    }
    (tmp_path / "results/train.jsonl").write_text(json.dumps(header) + "\n")
    assert evaluate("--report")[0] == 0
    lists = Page(tmp_path / "results/report.html").lists
    assert list(lists) == [
        "Test", "Test, Network", "Test, Clip", "Test, Protocol", "Test, Options",
        "Training", "Training, Network", "Training, Clip", "Training, Recipe", "Training, Options",
    ]  # fmt: skip
    assert lists["Test, Network"] == {"name": "resnet", "model_depth": "18", "n_classes": "5"}
    assert lists["Test, Clip"]["sample_size"] == "96" and lists["Test, Clip"]["frame_rates"] == "null"
    assert lists["Test, Clip"]["mean"] == "[0.4345, 0.4051, 0.3775]"
    assert set(lists["Test, Protocol"]) == set(Protocol.kinds())
    assert lists["Test, Protocol"]["inference_stride"] == "8"
    assert lists["Test, Options"] == {"n_threads": "4", "note": EVIL}
    assert lists["Training"] == {"device": "gpu", "recipe_name": EVIL}
    assert lists["Training, Network"] == {"name": "resnet", "model_depth": "50"}
    assert lists["Training, Clip"]["sample_duration"] == "32"
    assert set(lists["Training, Recipe"]) == set(Recipe.kinds())
    assert lists["Training, Recipe"]["batch_size"] == "16"
    assert lists["Training, Options"] == {"n_threads": "2"}


@pytest.mark.parametrize(
    "figure, reported",
    [
        ({**PUBLISHED, "accuracy": 92.9}, "published: accuracy is 92.9, expected a number, at least 0"),
        ({**PUBLISHED, "n_videos": "all"}, "published: n_videos is 'all', expected"),
        ("92.9", "published: expected an object, found '92.9'"),
    ],
)
def test_a_damaged_published_figure_is_not_compared(scored, evaluate, tmp_path, figure, reported):
    change(tmp_path / "results/val_run.json", published=figure)
    assert evaluate("--report")[0] == 0
    text = Page(tmp_path / "results/report.html").text
    assert f"Not compared with a published figure: val_run.json: {reported}" in text and " lies " not in text


@pytest.mark.parametrize(
    "field, reported",
    [
        ({"device": 5}, "device is 5, expected text"),
        ({"n_ranks": 0, "n_clips": 0}, "expected a whole number, at least 1"),
        (
            {"clip": {"version": 1, "sample_size": "big"}},
            "clip: sample_size is 'big', expected a whole number",
        ),
        ({"version": 9}, "of version 9, this program reads up to 2"),
    ],
)
def test_a_damaged_record_is_not_shown(scored, evaluate, tmp_path, field, reported):
    change(tmp_path / "results/val_run.json", **field)
    (tmp_path / "results/train.jsonl").write_text(json.dumps({"version": 2, **field}) + "\n")
    assert evaluate("--report")[0] == 0
    page = Page(tmp_path / "results/report.html")
    assert page.lists == {} and page.text.count(reported) >= 2


def test_without_jinja2_one_line_names_the_package(scored, evaluate, tmp_path):
    (tmp_path / "no_paddle/jinja2.py").write_text("raise ImportError('Jinja2 is not to be had')\n")
    code, out, err = evaluate("--report")
    assert (code, out.count("\n")) == (1, 6)
    assert err == (
        "error: --report needs the package Jinja2 (ImportError: Jinja2 is not to be had); "
        "pip install Jinja2, or leave the option out\n"
    )
    assert not (tmp_path / "results/report.html").exists()
    assert evaluate()[::2] == (0, "")


@pytest.mark.parametrize(
    "n_right, n, low, high",
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(n_right, n, low, high):
    assert wilson_interval(n_right, n) == pytest.approx((low, high), abs=5e-5)  # four digits are printed
    mirrored = wilson_interval(n - n_right, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_curves_of_a_log_have_their_data_apart_from_the_drawing():
    epochs = [
        {"epoch": 2, "train_loss": 4.0, "train_clip_accuracy": 0.2, "learning_rate": 0.1,
         "val_loss": 3.0, "val_clip_accuracy": 0.4},
        {"epoch": 3, "train_loss": 0.1, "train_clip_accuracy": 0.3, "learning_rate": 0.1},
        {"epoch": 4, "train_loss": 0.5, "train_clip_accuracy": 0.9, "learning_rate": 0.01,
         "val_loss": 2.0, "val_clip_accuracy": 0.4},
    ]  # fmt: skip
    loss, accuracy, learning_rate = panels(epochs)
    assert loss.curves == {"training": {2: 4.0, 3: 0.1, 4: 0.5}, "validation": {2: 3.0, 4: 2.0}}
    assert (loss.title, loss.scale, loss.marked_epoch) == ("Loss", "log", None)  # 40 times the least
    assert accuracy.curves["validation"] == {2: 0.4, 4: 0.4} and accuracy.scale == "part"
    assert (accuracy.marked_epoch, accuracy.remark) == (4, "best, epoch 4: 0.400")  # the lower loss
    assert learning_rate.curves == {"training": {2: 0.1, 3: 0.1, 4: 0.01}}
    assert (learning_rate.scale, learning_rate.remark) == ("log", "log scale")
    loss, accuracy, learning_rate = panels(epochs[1:2])
    assert loss.scale == learning_rate.scale == "linear"
    assert (accuracy.remark, accuracy.marked_epoch) == ("", None)
