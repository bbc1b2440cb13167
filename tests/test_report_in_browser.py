"""The report in a real browser: it sorts, it fits its window, no stranger's script runs."""
import json
import re

import pytest
from browser import CHROMIUM, Browser
from conftest import ROOT
from report_data import CLASSES, evaluator, write_scored_videos


@pytest.fixture
def scored(tmp_path):
    return write_scored_videos(tmp_path)


@pytest.fixture
def evaluate(run_script, tmp_path):
    return evaluator(run_script, tmp_path)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed here; the page is not opened")
    browser = Browser()
    try:
        browser.__enter__()
    except (AssertionError, OSError) as error:
        pytest.skip(f"Chromium does not start here ({error}); the page is not opened")
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
    assert sorted(upwards) == sorted(CLASSES) and upwards != CLASSES
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


def brightness(browser, property):
    colour = browser.run(f"getComputedStyle(document.body).{property}")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_the_page_is_dark_if_the_reader_wants_it_and_white_on_paper(browser, scored, evaluate, tmp_path):
    (tmp_path / "results/curves.png").write_bytes((ROOT / "docs/curves.png").read_bytes())
    assert evaluate("--report")[0] == 0
    path = tmp_path / "results/report.html"
    for dark, media, is_dark in ((False, "screen", False), (True, "screen", True), (True, "print", False)):
        browser.open(path, 700, dark, media)
        ground, ink = brightness(browser, "backgroundColor"), brightness(browser, "color")
        assert (ground < 40 and ink > 200) if is_dark else (ground > 240 and ink < 40)
    # Paper does not scroll: the curves and the matrix are as wide as it at most.
    boxes = browser.run("[...document.querySelectorAll('.scroll')].map(b => b.scrollWidth - b.clientWidth)")
    assert boxes == [0, 0]
    assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_the_browser_would_report_a_complaint_and_a_page_too_wide(browser, tmp_path):
    path = tmp_path / "bad.html"
    address = "http://127.0.0.1:9/a.png"
    path.write_text(f'<div style="width: 2000px">x</div><script>gone()</script><img src="{address}">')
    browser.open(path, 400)
    assert browser.run("document.documentElement.scrollWidth - innerWidth") >= 1600
    assert any("gone is not defined" in text for text in browser.complaints)
    assert browser.requests == [address]
    browser.complaints.clear()
    browser.requests.clear()
