"""The report on a results file: its numbers counted again, its page in a real browser, strangers' names."""
import base64
import html.parser
import io
import json
import re
import zlib
from collections import Counter

import pytest
from browser import CHROMIUM, Browser
from conftest import ROOT, make_frames
from PIL import Image

from report import wilson_interval

# Names from strangers: markup in a class and in a video, a quote, words that sort unlike their bytes.
EVIL = "<img src=x onerror=document.title='evil'>"
LONG = 'a "quoted" & long name of a class that no column is wide enough for'
LABELS = ["Archery", EVIL, LONG, "run", "empty"]


class Page(html.parser.HTMLParser):
    """The text, the tags and the table's rows of a page."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.rows, self.is_in_cell = "", [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")

    def handle_data(self, text):
        self.text += text
        if self.is_in_cell:
            self.rows[-1][-1] += text


@pytest.fixture
def evaluate(tmp_path, run_script):
    """Return a function that runs `eval_accuracy.py` where Paddle cannot be imported, and the page's path."""
    (tmp_path / "no_paddle").mkdir()
    (tmp_path / "no_paddle/paddle.py").write_text("raise ImportError('Paddle is not to be imported')\n")

    def run(*arguments):
        env = {"PYTHONPATH": str(tmp_path / "no_paddle"), "SECRET_OF_THE_SHELL": "hunter2"}
        return run_script("eval_accuracy.py", *arguments, cwd=tmp_path, env=env)

    return run


@pytest.fixture
def scored(tmp_path):
    """Write annotation, results, their run and some frames of 40 videos; return `{video: (class, pairs)}`."""
    videos, database = {}, {}
    for i in range(40):
        label = LABELS[i % 4]
        name = f"v_{i}_<b>&amp;"
        wrong = LABELS[(i % 4 + 1 + i // 20) % 4]
        first, second = (wrong, label) if i % 3 == 0 else (label, wrong)
        rest = [other for other in LABELS if other not in (first, second)]
        scores = [0.5 + i / 100, 0.02, 0.01, 0.005, 0.001]
        videos[name] = (label, list(zip([first, second, *rest], scores)))
        annotations = {"label": label, "segment": [1, 21]}
        database[name] = {"subset": "validation", "annotations": annotations}
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/ucf101_01.json").write_text(json.dumps({"labels": LABELS, "database": database}))
    results = {
        name: [{"label": label, "score": score} for label, score in pairs]
        for name, (_, pairs) in videos.items()
    }
    text = json.dumps({"results": results})
    (tmp_path / "results").mkdir()
    (tmp_path / "results/val.json").write_text(text)
    run = {
        "checkpoint": "results/best.pdparams",
        "device": "cpu",
        "versions": {"python": "3.11", "paddle": "3.3.1"},
        "options": {"n_threads": 4, "note": EVIL},
        "results_crc32": zlib.crc32(text.encode()),
        "videos": {name: [i % 4, 5] for i, name in enumerate(videos)},
    }
    (tmp_path / "results/val_run.json").write_text(json.dumps(run))
    header = {"paddle": "2.6.2", "command": ["train.py", EVIL], "environment": {"KEY": "of the log"}}
    log = [{"paddle": "earlier"}, {"epoch": 1}, header, {"epoch": 2}]
    (tmp_path / "results/train.jsonl").write_text("\n".join(map(json.dumps, log)) + '\n{"torn')
    for i in (39, 36):  # 36 and 39 are the surest mistakes
        make_frames(tmp_path / "dataset/UCF-101-jpg" / LABELS[i % 4] / f"v_{i}_<b>&amp;", 20, seed=i)
    return videos


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
    low, high = wilson_interval(n_right, 40)
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in text
    assert "published 92.9 % lies above it." in text and "UCF-101 split 1" in text
    assert "These are other data (40 videos, 5 classes" in text
    for label in LABELS[:4]:
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
    # The first is frame 3 of 1 to 20, as it is on disk but for its size.
    frame = Image.open(tmp_path / f"dataset/UCF-101-jpg/run/{wrong[0]}/image_00003.jpg").resize((128, 96))
    first = image.crop((0, 0, 128, 96))
    errors = [abs(a - b) for a, b in zip(first.tobytes(), frame.tobytes())]
    assert sum(errors) / len(errors) < 6  # of 255, by the second jpg; another frame of noise has 60
    assert page.text.count("No frames: ") == len(wrong) - 2
    assert "dataset/UCF-101-jpg: frames missing for 1 of 1 annotated videos" in page.text


def test_what_is_not_there_is_told(scored, evaluate, tmp_path):
    (tmp_path / "results/train.jsonl").unlink()
    run_path = tmp_path / "results/val_run.json"
    for spoil, told in (
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
        assert f"Clip accuracynot known{told}" in text and f"Not known: {told}" in text
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
    for tag, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:") and "href" not in attributes
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)


@pytest.mark.parametrize(
    "n_right, n, low, high",
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(n_right, n, low, high):
    assert wilson_interval(n_right, n) == pytest.approx((low, high), abs=5e-5)  # four digits are printed
    mirrored = wilson_interval(n - n_right, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here; the page is not looked at")
    browser = Browser()
    try:
        browser.__enter__()
    except (AssertionError, OSError) as error:
        pytest.skip(f"Chromium does not start here ({error}); the page is not looked at")
    yield browser
    browser.__exit__()


def column(browser, number):
    rows = "[...document.querySelectorAll('#classes tbody tr')]"
    return browser.run(f"{rows}.map(row => row.cells[{number}].innerText)")


def sorts(browser):
    return browser.run("[...document.querySelectorAll('#classes thead th')].map(h => h.ariaSort)")


def test_a_browser_sorts_the_table_by_click_and_key_without_complaint(browser, scored, evaluate, tmp_path):
    assert evaluate("--report")[0] == 0
    browser.open(tmp_path / "results/report.html")
    assert browser.run("document.title") == "What it learned: 40 videos"  # no stranger's script ran
    assert sorts(browser) == ["none", "none", "none", "ascending", "none"]
    click = "document.querySelectorAll('#classes thead button')[{}].click()"
    browser.run(click.format(0))
    assert sorts(browser) == ["ascending", "none", "none", "none", "none"]
    upwards = column(browser, 0)
    assert sorted(upwards) == sorted(LABELS) and upwards != LABELS
    assert [name for name in upwards if name.isalpha()] == ["Archery", "empty", "run"]
    browser.run(click.format(0))
    assert column(browser, 0) == upwards[::-1] and sorts(browser)[0] == "descending"
    # By keyboard: the fourth heading has the focus, Enter presses it.
    browser.run("document.querySelectorAll('#classes thead button')[3].focus()")
    for order in ("ascending", "descending"):
        browser.press("Enter", 13)
        assert sorts(browser) == ["none", "none", "none", order, "none"]
        numbers = [float(text.split()[0]) for text in column(browser, 3)[:4]]
        assert numbers == sorted(numbers, reverse=order == "descending") and numbers[0] != numbers[-1]
        assert column(browser, 0)[-1] == "empty"  # what has no accuracy stays below
    assert (browser.complaints, browser.requests) == ([], [])


@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_is_wider_than_its_window(browser, scored, evaluate, tmp_path, width):
    # 101 classes as UCF-101 has; the matrix scrolls in a box of its own.
    path = tmp_path / "dataset/ucf101_01.json"
    content = json.loads(path.read_text())
    content["labels"] += [f"ClassWithANameNumber{i}" for i in range(96)]
    path.write_text(json.dumps(content))
    (tmp_path / "results/curves.png").write_bytes((ROOT / "docs/curves.png").read_bytes())
    assert evaluate("--report")[0] == 0
    browser.open(tmp_path / "results/report.html", width)
    assert browser.run("innerWidth") == width
    too_much = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.run(too_much) <= 0
    assert browser.run("document.querySelectorAll('#classes tbody tr').length") == 101
    boxes = browser.run("[...document.querySelectorAll('.scroll')].map(b => b.scrollWidth - b.clientWidth)")
    assert len(boxes) == 2 and boxes[1] > 0  # the matrix is drawn large enough to be read
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert (browser.complaints, browser.requests) == ([], [])


def test_the_browser_would_hear_a_complaint_and_see_a_page_too_wide(browser, tmp_path):
    path = tmp_path / "bad.html"
    address = "http://127.0.0.1:9/a.png"
    path.write_text(f'<div style="width: 2000px">x</div><script>gone()</script><img src="{address}">')
    browser.open(path, 400)
    assert browser.run("document.documentElement.scrollWidth - innerWidth") >= 1600
    assert any("gone is not defined" in text for text in browser.complaints)
    assert browser.requests == [address]
    browser.complaints.clear()
    browser.requests.clear()
