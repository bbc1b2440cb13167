"""A scored data set with names from strangers, and what a test reads from the report on it."""
import html.parser
import json
import zlib

from conftest import make_frames

from run.spec import ClipSpec, NetworkSpec, Protocol

# Names from strangers: markup in a class and in a video, a quote, words that sort unlike their bytes.
EVIL = "<img src=x onerror=document.title='evil'>"
LONG = 'a "quoted" & long name of a class that no column is wide enough for'
CLASSES = ["Archery", EVIL, LONG, "run", "empty"]
PUBLISHED = {
    "accuracy": 0.929,
    "what": "video top-1 of ResNet3D-50, UCF-101 split 1",
    "n_videos": 3783,
    "n_classes": 101,
    "source": "a paper",
}


class Page(html.parser.HTMLParser):
    """The text and the tags of a page, the rows of its table, its lists of names and values by title."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags = "", []
        self.pieces, self.is_open = [], False  # [tag, text] of what can be a part of a row or a list
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("tr", "td", "th", "h3", "h4", "dt", "dd"):
            self.pieces.append([tag, ""])
            self.is_open = tag != "tr"

    def handle_endtag(self, tag):
        self.is_open = self.is_open and tag != self.pieces[-1][0]

    def handle_data(self, text):
        self.text += text
        if self.is_open:
            self.pieces[-1][1] += text

    @property
    def rows(self):
        rows = []
        for tag, text in self.pieces:
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append(text)
        return rows

    @property
    def lists(self):
        """`{"Training": {"device": "cpu"}, "Training, Options": {...}}`"""
        lists = {}
        for tag, text in self.pieces[[tag for tag, _ in self.pieces].index("h3") :]:
            if tag == "h3":
                title, part = text, text
            elif tag == "h4":
                part = f"{title}, {text}"
            elif tag == "dt":
                name = text
            elif tag == "dd":
                lists.setdefault(part, {})[name] = text
        return lists


def write_scored_videos(folder):
    """Write annotation, results, their runs and some frames of 40 videos; return `{key: (class, pairs)}`."""
    videos, database = {}, {}
    for i in range(40):
        label = CLASSES[i % 4]
        name = f"v_{i}_<b>&amp;"
        wrong = CLASSES[(i % 4 + 1 + i // 20) % 4]
        first, second = (wrong, label) if i % 3 == 0 else (label, wrong)
        rest = [other for other in CLASSES if other not in (first, second)]
        scores = [0.5 + i / 100, 0.02, 0.01, 0.005, 0.001]
        videos[name] = (label, list(zip([first, second, *rest], scores)))
        annotations = {"label": label, "segment": [1, 21]}
        database[name] = {"subset": "validation", "annotations": annotations}
    (folder / "dataset").mkdir()
    (folder / "dataset/ucf101_01.json").write_text(json.dumps({"labels": CLASSES, "database": database}))
    results = {
        name: [{"label": label, "score": score} for label, score in pairs]
        for name, (_, pairs) in videos.items()
    }
    text = json.dumps({"results": results})
    (folder / "results").mkdir()
    (folder / "results/val.json").write_text(text)
    run = {
        "version": 2,
        "checkpoint": "results/best.pdparams",
        "device": "cpu",
        "versions": {"python": "3.11", "paddle": "3.3.1"},
        "network": NetworkSpec("resnet", {"model_depth": 18, "n_classes": 5}).to_json(),
        "clip": ClipSpec(sample_size=96).to_json(),
        "protocol": Protocol(inference_stride=8).to_json(),
        "options": {"n_threads": 4, "note": EVIL},
        "published": PUBLISHED,
        "results_crc32": zlib.crc32(text.encode()),
        "videos": {name: [i % 4, 5] for i, name in enumerate(videos)},
    }
    (folder / "results/val_run.json").write_text(json.dumps(run))
    header = {"paddle": "2.6.2", "command": ["train.py", EVIL], "environment": {"KEY": "of the log"}}
    log = [{"paddle": "earlier"}, {"epoch": 1}, header, {"epoch": 2}]
    (folder / "results/train.jsonl").write_text("\n".join(map(json.dumps, log)) + '\n{"torn')
    for i in (39, 36):  # 36 and 39 are the surest mistakes
        make_frames(folder / "dataset/UCF-101-jpg" / CLASSES[i % 4] / f"v_{i}_<b>&amp;", 20, seed=i)
    return videos


def evaluator(run_script, folder):
    """Return a function that runs `eval_accuracy.py` in a folder while Paddle cannot be imported."""
    (folder / "no_paddle").mkdir()
    (folder / "no_paddle/paddle.py").write_text("raise ImportError('Paddle is not to be imported')\n")

    def evaluate(*arguments):
        env = {"PYTHONPATH": str(folder / "no_paddle"), "SECRET_OF_THE_SHELL": "hunter2"}
        return run_script("eval_accuracy.py", *arguments, cwd=folder, env=env)

    return evaluate
