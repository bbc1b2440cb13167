"""What a run learned, to look at: the curves of its training, and the page on its results.

Takes plain data from the scripts. What only one of the two needs (matplotlib, Pillow, visualdl) is
imported where it is used.
"""
import base64
import collections
import hashlib
import io
import json
import logging
import os
import re
import tempfile
from html import escape

from disk import write_file
from opts import UserError, note

PUBLISHED = 0.929  # paper 2: UCF-101 split 1 (3,783 videos, 101 classes), R3D-50 pretrained on K+M
N_MISTAKES, N_FRAMES, FRAME_HEIGHT = 20, 5, 96


# The curves ----------------------------------------------------------------------------------


def require_visualdl():
    """Return VisualDL's writer; raise UserError where the package is missing or broken."""
    try:
        from visualdl import LogWriter
    except Exception as error:  # its own imports fail in their own ways
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UserError(
            f"--visualdl needs the package visualdl ({reason:.200}); pip install visualdl, "
            "or leave the option out"
        ) from None
    return LogWriter


class Curves:
    """The picture of a training log, `<folder>/curves.png`, and with VisualDL its log.

    A failure to draw is told once and ends no training.
    """

    def __init__(self, folder, with_visualdl=False):
        self.folder = folder
        self._failed = set()
        self._writer, self._n_written = None, 0
        if with_visualdl:
            # Written anew from the first epoch: it reads one file, and a resume may redo an epoch.
            path = folder / "visualdl" / "vdlrecords.train.log"
            path.unlink(missing_ok=True)
            self._writer = require_visualdl()(str(path.parent), file_name=path.name)

    def draw(self, entries):
        """Draw the curves of all epochs among a log's entries."""
        epochs = [entry for entry in entries if "epoch" in entry]
        path = self.folder / "curves.png"
        self._attempt(path, lambda: write_file(path, curves_png(epochs)))
        if self._writer is not None:
            self._attempt(self.folder / "visualdl", lambda: self._log(epochs))

    def _attempt(self, path, draw):
        try:
            draw()
        except Exception as error:  # the checkpoints are worth more than their picture
            if path not in self._failed:
                reason = f"{type(error).__name__}: {error}".split("\n")[0]
                note(f"{path}: not drawn ({reason:.200}); the training goes on without it")
            self._failed.add(path)

    def _log(self, epochs):
        for entry in epochs[self._n_written :]:
            for tag, key in (
                ("loss/train", "train_loss"),
                ("loss/validation", "val_loss"),
                ("clip_accuracy/train", "train_clip_accuracy"),
                ("clip_accuracy/validation", "val_clip_accuracy"),
                ("learning_rate", "learning_rate"),
            ):
                self._writer.add_scalar(tag=tag, step=entry["epoch"], value=entry[key])
        self._writer._get_file_writer().flush()  # it has no public way to
        self._n_written = len(epochs)


def _import_matplotlib():
    """Import what draws, without the folders that matplotlib makes in the home and its notes on them."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        is_set = "MPLCONFIGDIR" in os.environ
        os.environ.setdefault("MPLCONFIGDIR", folder)
        try:
            import matplotlib.backends.backend_agg
            import matplotlib.figure
            import matplotlib.ticker
        finally:
            if not is_set:
                del os.environ["MPLCONFIGDIR"]
    return matplotlib


def curves_png(epochs):
    """Return a png file: loss, clip accuracy and learning rate by epoch, from the log's lines."""
    matplotlib = _import_matplotlib()
    figure = matplotlib.figure.Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    numbers = [entry["epoch"] for entry in epochs]
    best = max(epochs, key=lambda entry: (entry["val_clip_accuracy"], -entry["val_loss"]))
    panels = (
        ("Loss", "train_loss", "val_loss"),
        ("Clip accuracy", "train_clip_accuracy", "val_clip_accuracy"),
        ("Learning rate", "learning_rate", None),
    )
    for axes, (title, first, second) in zip(figure.subplots(1, 3), panels):
        # Okabe and Ito's colours, told apart by their markers too.
        styles = (("training", first, "#0072B2", "o"), ("validation", second, "#D55E00", "s"))
        style = {"linewidth": 1.8, "markersize": 5, "markevery": max(1, len(epochs) // 20)}
        if second is None:
            style["drawstyle"] = "steps-mid"
        values = []
        for label, key, colour, marker in styles:
            if key is not None:
                curve = [entry[key] for entry in epochs]
                values += curve
                axes.plot(numbers, curve, label=label, color=colour, marker=marker, **style)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if title == "Clip accuracy":
            axes.set_ylim(-0.03, 1.03)
            axes.axvline(best["epoch"], color="#555555", linewidth=1, linestyle=":", zorder=0)
            text = f"best, epoch {best['epoch']}: {best['val_clip_accuracy']:.3f}"
            axes.set_title(text, loc="right", fontsize="small", color="#555555")
        elif min(values) > 0 and max(values) > (20 if second else 1) * min(values):
            axes.set_yscale("log")
            if second is None:
                axes.set_yticks(sorted(set(values))[:8])
            else:
                axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.set_title("log scale", loc="right", fontsize="small", color="#555555")
        else:
            axes.set_ylim(0, 1.08 * max(values) or 1)
        if second is not None:
            axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


# The page ------------------------------------------------------------------------------------


def wilson_interval(n_right, n, z=1.959963984540054):
    """Return Wilson's interval for a proportion, of 95 % by default."""
    p = n_right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def last_header(path):
    """Return the last header of a training log, None where there is none; a run may be at work on it."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and "epoch" not in entry:
            return entry
    return None


def report_html(labels, videos, results, *, source, run, training, curves_path, frames_path):
    """Return the page on the results of some videos: one HTML text that needs no other file.

    `videos` are those that count, as `Video`s; `results` maps their names to `(label, score)` pairs,
    best first; one without a result counts as wrong. `run` is what `read_run` returns, `training` what
    `last_header` does. Frames and curves that are not there are told of.
    """
    taken_for = {label: collections.Counter() for label in labels}  # class -> label -> videos
    for video in videos:
        pairs = results.get(video.name)
        taken_for[video.class_name][pairs[0][0] if pairs else None] += 1
    body = [
        f"<header><h1>What it learned</h1><p>{len(videos):,} videos of {len(labels):,} classes. "
        f"<span class=path>{escape(source)}</span></p></header>",
        _accuracies(labels, videos, results, run),
        _curves(curves_path),
        _class_table(labels, taken_for),
        _matrix(labels, taken_for),
        _mistakes(videos, results, run[0], frames_path),
        _facts(run, training),
    ]
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # Names come from strangers: escaped, and should that fail, no other script runs, nothing is fetched.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>What it learned: {len(videos)} videos</title>\n<style>{STYLE}</style></head>\n"
    )
    return f"{head}<body><main>\n{chr(10).join(body)}\n</main>\n<script>{SCRIPT}</script></body></html>\n"


def _section(title, *parts):
    return f"<section><h2>{title}</h2>\n" + "\n".join(parts) + "\n</section>"


def _percent(part):
    return f"{100 * part:.1f}&nbsp;%"


def _accuracies(labels, videos, results, run):
    n = len(videos)
    top = [[label for label, _ in results.get(video.name, [])[:5]] for video in videos]
    n_first = sum(video.class_name in names[:1] for video, names in zip(videos, top))
    n_five = sum(video.class_name in names for video, names in zip(videos, top))
    low, high = wilson_interval(n_first, n)
    figures = [("Video accuracy (top-1)", _percent(n_first / n), f"{n_first:,} of {n:,} videos")]
    n_wanted = min(5, len(labels))
    if any(len(pairs) < n_wanted for pairs in results.values()):
        figures.append(("Top-5", "not known", f"the results hold fewer than {n_wanted} labels a video"))
    else:
        never = f"; of {len(labels)} classes it misses none" if len(labels) <= 5 else ""
        figures.append(("Top-5", _percent(n_five / n), f"{n_five:,} of {n:,} videos{never}"))
    facts, why_not = run
    if facts is None:
        figures.append(("Clip accuracy", "not known", why_not))
    else:
        n_right, n_clips = (sum(pair[i] for pair in facts["videos"].values()) for i in (0, 1))
        text = f"{n_right:,} of {n_clips:,} clips"
        figures.append(("Clip accuracy", _percent(n_right / n_clips), text))
    tiles = "".join(
        f"<div><dt>{name}</dt><dd><strong>{value}</strong><span>{escape(text)}</span></dd></div>"
        for name, value, text in figures
    )
    where = "below" if PUBLISHED < low else "above" if PUBLISHED > high else "inside"
    may_be = (n, len(labels)) == (3783, 101)
    remark = (
        "The comparison holds if these are the results of that split and network."
        if may_be
        else f"These are other data ({n:,} videos, {len(labels):,} classes; that split has 3,783 and 101), "
        "so here it says nothing."
    )
    return _section(
        "Accuracy",
        f'<dl class="tiles">{tiles}</dl>',
        f"<p>95&nbsp;% interval of the video accuracy (Wilson): <b>{_percent(low)} to {_percent(high)}</b>. "
        f"The published {_percent(PUBLISHED)} lies <b>{where}</b> it. That is the figure for UCF-101 "
        f"split&nbsp;1 with ResNet3D-50 pretrained on K+M, and means something for that alone. {remark}</p>",
        _interval(n_first / n, low, high),
    )


def _interval(value, low, high):
    """Draw the accuracy, its interval and the published figure on a line of per cent."""
    start = max(0, int(10 * min(low, PUBLISHED) - 0.5)) / 10
    x = lambda part: f"{20 + 560 * (part - start) / (1 - start):.1f}"
    ticks = "".join(
        f'<path d="M{x(i / 10)} 40v5"/><text x="{x(i / 10)}" y="60">{10 * i}</text>'
        for i in range(round(10 * start), 11)
    )
    return (
        '<svg class="interval" viewBox="0 0 600 66" role="img" aria-label="The video accuracy with its '
        f'interval, and the published figure, on a line of per cent"><path d="M20 40H580"/>{ticks}'
        f'<path class="range" d="M{x(low)} 28H{x(high)}"/><circle cx="{x(value)}" cy="28" r="6"/>'
        f'<path class="mark" d="M{x(PUBLISHED)} 16V40"/>'
        f'<text x="{x(PUBLISHED)}" y="11">published 92.9</text></svg>'
    )


def _curves(path):
    try:
        content = path.read_bytes()
    except OSError:
        return _section("Training", f'<p class="missing">No {escape(path.name)} beside the results.</p>')
    return _section(
        "Training",
        '<div class="scroll" role="region" aria-label="Curves of the training" tabindex="0">'
        '<img class="curves" alt="Loss, clip accuracy and learning rate by epoch" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}"></div>',
    )


def _class_table(labels, taken_for):
    rows = []
    for label in labels:
        counts = taken_for[label]
        n, n_right = sum(counts.values()), counts[label]
        wrong = [(count, name) for name, count in counts.items() if name != label]
        count, name = max(wrong, key=lambda pair: pair[0], default=(0, ""))
        name = "no result" if name is None else name
        part = n_right / n if n else -1
        shown = f'<meter value="{part:.4f}">{part:.4f}</meter> {_percent(part)}' if n else "&ndash;"
        confusion = f"{_breakable(name)} <small>{count}&times;</small>" if count else ""
        cells = (
            f'<th scope="row">{_breakable(label)}</th>'
            f'<td data-v="{n}">{n}</td><td data-v="{n_right}">{n_right}</td>'
            f'<td data-v="{part if n else ""}">{shown}</td><td>{confusion}</td>'
        )
        rows.append((part if n else 2, f"<tr>{cells}</tr>"))
    rows.sort(key=lambda row: row[0])
    titles = ("Class", "Videos", "Right", "Accuracy", "Mostly taken for")
    heads = "".join(
        f'<th scope="col" aria-sort="{"ascending" if title == "Accuracy" else "none"}">'
        f'<button type="button">{title}</button></th>'
        for title in titles
    )
    return _section(
        "Classes",
        "<p>A click on a heading sorts by it, a second one the other way round.</p>",
        f'<table id="classes"><thead><tr>{heads}</tr></thead>',
        *["<tbody>", *(row for _, row in rows), "</tbody></table>"],
    )


def _breakable(name):
    """Return a name that a narrow column breaks between its words, WalkingWithDog as Walking With Dog."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=_)", "<wbr>", escape(name))


def _matrix(labels, taken_for):
    """Draw a row for each class, a column for each label; only cells with videos are in the file."""
    columns = [*labels, *[None] * any(None in counts for counts in taken_for.values())]
    size, font = (44, 13) if len(labels) <= 12 else (22, 11) if len(labels) <= 40 else (11, 9)
    short = lambda name: name if len(name) <= 24 else f"{name[:23]}…"
    margin = round(0.62 * font * max(len(short(label)) for label in labels)) + 16
    parts = []
    for i, label in enumerate(columns):
        name, at = escape(short("no result" if label is None else label)), margin + (i + 0.5) * size
        turned = f'transform="translate({at + font / 3:.1f} {margin - 6}) rotate(-90)"'
        parts.append(f"<text {turned}>{name}</text>")
        if label is not None:
            parts.append(f'<text class="row" x="{margin - 6}" y="{at + font / 3:.1f}">{name}</text>')
    for i, label in enumerate(labels):
        n = sum(taken_for[label].values())
        for j, name in enumerate(columns):
            count = taken_for[label][name]
            if not count:
                continue
            kind = "right" if i == j else "wrong"
            opacity = 0.25 + 0.75 * (count / n) ** 0.5  # so that a single video among forty is seen
            told = escape(f"{label} taken for {'no result' if name is None else name}: {count} of {n}")
            x, y = margin + j * size, margin + i * size
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{size}" height="{size}" '
                f'fill-opacity="{opacity:.2f}"><title>{told}</title></rect>'
            )
            if size == 44:
                at = f'x="{x + size / 2}" y="{y + size / 2 + 5}"'
                strong = " strong" if opacity > 0.7 else ""
                parts.append(f'<text class="count{strong}" {at}>{count}</text>')
    width, height = len(columns) * size, len(labels) * size
    frame = f'<rect class="frame" x="{margin}" y="{margin}" width="{width}" height="{height}"/>'
    w, h = margin + width + 2, margin + height + 2
    return _section(
        "Confusion matrix",
        "<p>A row for each class, a column for what its videos were taken for: "
        '<span class="key right"></span> right, <span class="key wrong"></span> wrong. '
        "The stronger the colour, the larger the part of the row. Point at a cell for its numbers.</p>",
        '<div class="scroll" role="region" aria-label="Confusion matrix" tabindex="0">'
        f'<svg class="matrix" viewBox="0 0 {w} {h}" width="{w}" height="{h}" font-size="{font}" role="img" '
        'aria-label="Confusion matrix; the table above has its numbers">'
        f"{frame}{''.join(parts)}</svg></div>",
    )


def _mistakes(videos, results, facts, frames_path):
    wrong = [v for v in videos if v.name in results and results[v.name][0][0] != v.class_name]
    wrong.sort(key=lambda video: -results[video.name][0][1])
    if not wrong:
        return _section("Most confident mistakes", "<p>None: no video was taken for another class.</p>")
    cards = []
    shown = wrong[:N_MISTAKES]
    has_frames = frames_path.is_dir()
    for video in shown:
        (label, score), scores = results[video.name][0], dict(results[video.name])
        strip, why_not = _strip(frames_path, video) if has_frames else (None, "")
        if strip is None:
            picture = f'<p class="missing">{escape(why_not)}</p>' if why_not else ""
        else:
            picture = (
                f'<img alt="{N_FRAMES} frames of {escape(video.name)}" '
                f'src="data:image/jpeg;base64,{base64.b64encode(strip).decode()}">'
            )
        own = f"{scores[video.class_name]:.3f}" if video.class_name in scores else "not among its labels"
        clips = ""
        if facts is not None:
            n_right, n = facts["videos"][video.name]
            clips = f", {n_right} of {n} clips right"
        cards.append(
            f"<figure>{picture}<figcaption><b>{escape(video.class_name)}</b> taken for "
            f"<b>{escape(label)}</b> with {score:.3f} <small>(right class: {own}{clips})</small>"
            f"<span class=path>{escape(video.name)}</span></figcaption></figure>"
        )
    lead = f"{len(shown)} of {len(wrong):,} mistakes, the highest scores first."
    if not has_frames:
        lead += f" Without frames: there is no folder {escape(str(frames_path))} (--video_path)."
    return _section(
        "Most confident mistakes",
        f"<p>{lead}</p>",
        f'<div class="cards">{"".join(cards)}</div>',
    )


def _strip(frames_path, video):
    """Return a jpg of a video's frames side by side, or None and why there is none."""
    try:
        from PIL import Image

        from datasets.frames import check_frames, frame_name, read_frame
    except ImportError as error:
        return None, f"No picture: {error}"
    n = video.end - video.begin
    numbers = [video.begin + (2 * i + 1) * n // (2 * N_FRAMES) for i in range(N_FRAMES)]
    try:
        check_frames(frames_path, [video], is_shown=False)
        folder = frames_path / video.class_name / video.name
        images = [Image.fromarray(read_frame(folder / frame_name(number))) for number in numbers]
    except (UserError, OSError) as error:
        return None, f"No frames: {error}"
    width = max(1, min(3 * FRAME_HEIGHT, round(images[0].width * FRAME_HEIGHT / images[0].height)))
    strip = Image.new("RGB", ((width + 2) * N_FRAMES - 2, FRAME_HEIGHT))
    for i, image in enumerate(images):
        strip.paste(image.convert("RGB").resize((width, FRAME_HEIGHT)), (i * (width + 2), 0))
    content = io.BytesIO()
    strip.save(content, "JPEG", quality=75)
    return content.getvalue(), ""


def _facts(run, training):
    """Tell how the results and the weights were made, from what the runs noted of themselves."""
    facts, why_not = run
    parts = ["<h3>Test</h3>"]
    if facts is None:
        parts.append(f'<p class="missing">Not known: {escape(why_not)}</p>')
    else:
        versions = facts.get("versions")
        known = {name: facts.get(name) for name in ("checkpoint", "device")}
        parts.append(_pairs({**known, **(versions if isinstance(versions, dict) else {})}))
        parts.append(_pairs(facts.get("options")))
    parts.append("<h3>Training</h3>")
    if training is None:
        parts.append('<p class="missing">Not known: no train.jsonl with a header beside the results.</p>')
    else:
        names = "command git python paddle numpy device n_ranks n_training_videos n_validation_clips "
        names += "n_parameters"
        command = training.get("command")
        if isinstance(command, list):
            training = {**training, "command": " ".join(map(str, command))}
        parts.append("<p>The last run that was started in the folder of the results.</p>")
        parts.append(_pairs({name: training[name] for name in names.split() if name in training}))
        parts.append(_pairs(training.get("options")))
    return _section("How it was made", *parts)


def _pairs(content):
    """Return names and values as a list; nothing for what is no dictionary."""
    content = content if isinstance(content, dict) else {}
    show = lambda value: value if isinstance(value, str) and value else json.dumps(value)
    rows = (
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(show(value)[:400])}</dd></div>"
        for name, value in content.items()
    )
    return f'<dl class="pairs">{"".join(rows)}</dl>'


STYLE = """
:root { --ground: #fcfcfa; --raised: #f2f2ee; --ink: #1c2126; --faint: #5a626b; --line: #d5d6d1;
  --right: #0a63a6; --wrong: #c24e00; --on: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15181c; --raised: #1f2429; --ink: #e6e8ea; --faint: #a3acb5; --line: #3a4149;
    --right: #6db3f2; --wrong: #f29a5b; --on: #10151a } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; overflow-wrap: anywhere }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem }
p { max-width: 46rem; margin: .5rem 0 1rem }
small, .path, .missing { color: var(--faint); font-size: .875rem }
.path { display: block }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr));
  gap: 1rem; margin: 0 0 1.25rem }
.tiles div { background: var(--raised); border-radius: 10px; padding: 1rem 1.25rem }
.tiles dt { color: var(--faint); font-size: .9rem }
.tiles dd { margin: 0 }
.tiles strong { display: block; font-size: 2rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.tiles span { font-size: .875rem; color: var(--faint) }
svg text { fill: var(--ink) }
.interval { display: block; width: 100%; max-width: 640px; font-size: 13px; text-anchor: middle }
.interval path { stroke: var(--faint); fill: none }
.interval .range { stroke: var(--right); stroke-width: 4; stroke-linecap: round }
.interval circle { fill: var(--right) }
.interval .mark { stroke: var(--wrong); stroke-width: 2; stroke-dasharray: 4 3 }
.curves { display: block; width: 100%; min-width: 640px; background: #fff; border-radius: 10px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line);
  font-weight: normal; vertical-align: baseline }
tbody th { font-weight: 600; min-width: 5.25rem }
td { overflow-wrap: break-word }
td:last-child { overflow-wrap: anywhere; min-width: 5.5rem }
thead th { vertical-align: bottom; background: var(--ground); position: sticky; top: 0;
  overflow-wrap: normal }
button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: .25rem 0;
  cursor: pointer; text-align: left }
button:hover { color: var(--right) }
:focus-visible { outline: 3px solid var(--right); outline-offset: 2px; border-radius: 3px }
th[aria-sort=ascending] button::after { content: "\\00a0\\25b2"; font-size: .7em }
th[aria-sort=descending] button::after { content: "\\00a0\\25bc"; font-size: .7em }
meter { width: 7rem; height: .8rem; vertical-align: -.05rem; margin-right: .5rem }
meter::-webkit-meter-optimum-value { background: var(--right) }
meter::-moz-meter-bar { background: var(--right) }
.scroll { overflow-x: auto }
.matrix { display: block }
.matrix text { text-anchor: start }
.matrix .row { text-anchor: end }
.matrix .count { text-anchor: middle; font-size: 14px }
.matrix .strong { fill: var(--on) }
.matrix .frame { fill: var(--raised); stroke: var(--line) }
.right { fill: var(--right); background: var(--right) }
.wrong { fill: var(--wrong); background: var(--wrong) }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
  gap: 1.25rem }
figure { margin: 0; background: var(--raised); border-radius: 10px; padding: .75rem; break-inside: avoid }
figure img { display: block; width: 100%; border-radius: 4px }
figcaption { margin-top: .5rem }
.pairs { columns: 20rem; column-gap: 2rem; margin: 0 0 1rem; font-size: .875rem }
.pairs div { display: flex; gap: .75rem; justify-content: space-between; break-inside: avoid;
  border-bottom: 1px solid var(--line); padding: .2rem 0 }
.pairs dt { color: var(--faint); flex: none }
.pairs dd { margin: 0; text-align: right }
@media (max-width: 640px) {
  main { padding: 1.25rem 1rem 3rem }
  h1 { font-size: 1.6rem }
  h2 { margin-top: 2rem }
  meter { display: none }
  tbody th, td:last-child { min-width: 4.5rem }
  th, td { padding-right: .5rem; font-size: .875rem } }
@media print {
  :root { --ground: #fff; --raised: #fff; --ink: #000; --faint: #444; --line: #bbb; --right: #0a63a6;
    --wrong: #c24e00; --on: #fff }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact }
  main { max-width: none; padding: 0 }
  thead th { position: static }
  .scroll { overflow: visible }
  .curves { min-width: 0 }
  .matrix { max-width: 100%; height: auto }
  tr, .tiles div { break-inside: avoid } }
"""

SCRIPT = """
"use strict";
const body = document.getElementById("classes").tBodies[0];
const heads = [...document.querySelectorAll("#classes thead th")];
const valueOf = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [valueOf(one, column), valueOf(other, column)];
    if (a === "" || b === "") return (a === "") - (b === "");  // what has no value stays below
    return sign * ("v" in one.cells[column].dataset ? a - b : a.localeCompare(b));
  });
  body.append(...rows);
  heads.forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
}));
"""
