"""The picture of a training log, and its log for VisualDL.

matplotlib and visualdl are imported when they are used.
"""
import io
import logging
import os
import tempfile
from typing import NamedTuple

from report.packages import first_line, missing_package
from run.console import note
from run.files import atomic_write

# What a picture shows: title, the log's key of each curve, and by how much the largest value exceeds the
# smallest before the scale is logarithmic (None: never, the values are parts of 1).
PANELS = (
    ("Loss", {"training": "train_loss", "validation": "val_loss"}, 20),
    ("Clip accuracy", {"training": "train_clip_accuracy", "validation": "val_clip_accuracy"}, None),
    ("Learning rate", {"training": "learning_rate"}, 1),
)
# Colours of Okabe and Ito; the markers tell the curves apart as well.
STYLES = {"training": ("#0072B2", "o"), "validation": ("#D55E00", "s")}
VISUALDL_TAGS = {
    "loss/train": "train_loss",
    "loss/validation": "val_loss",
    "clip_accuracy/train": "train_clip_accuracy",
    "clip_accuracy/validation": "val_clip_accuracy",
    "learning_rate": "learning_rate",
}


def require_visualdl():
    """Return VisualDL's writer. Raises UserError if the package is missing or broken."""
    try:
        from visualdl import LogWriter
    except Exception as error:  # its own imports fail in their own ways
        raise missing_package("--visualdl", "visualdl", error) from None
    return LogWriter


class Curves:
    """The picture of a training log, `<folder>/curves.png`, and with VisualDL its log.

    If drawing fails, one note says so and training continues.
    """

    def __init__(self, folder, with_visualdl=False):
        self.folder = folder
        self._failed = set()
        self._writer, self._n_written = None, 0
        if with_visualdl:
            # Written again from the first epoch: it reads one file, and a resume may repeat an epoch.
            path = folder / "visualdl" / "vdlrecords.train.log"
            path.unlink(missing_ok=True)
            self._writer = require_visualdl()(str(path.parent), file_name=path.name)

    def draw(self, entries):
        """Draw the curves of all epochs among a log's entries."""
        epochs = [entry for entry in entries if "epoch" in entry]
        path = self.folder / "curves.png"
        self._attempt(path, lambda: atomic_write(path, curves_png(epochs)))
        if self._writer is not None:
            self._attempt(self.folder / "visualdl", lambda: self._log(epochs))

    def _attempt(self, path, draw):
        try:
            draw()
        except Exception as error:  # the checkpoints are worth more than their picture
            if path not in self._failed:
                note(f"{path}: not drawn ({first_line(error)}); training continues without it")
            self._failed.add(path)

    def _log(self, epochs):
        for entry in epochs[self._n_written :]:
            for tag, key in VISUALDL_TAGS.items():
                if entry.get(key) is not None:
                    self._writer.add_scalar(tag=tag, step=entry["epoch"], value=entry[key])
        self._writer._get_file_writer().flush()  # there is no public way
        self._n_written = len(epochs)


class Panel(NamedTuple):
    """One of the plots of a picture: `curves` maps "training" and "validation" to `{epoch: value}`."""

    title: str
    curves: dict
    scale: str  # "log"; "part" from 0 to 1; "linear" from 0
    remark: str = ""
    marked_epoch: int = None

    def values(self):
        """Return the values of all curves."""
        return [value for curve in self.curves.values() for value in curve.values()]


def panels(epochs):
    """Return the three `Panel`s of a log's epochs. An epoch without validation has no point there."""
    validated = [entry for entry in epochs if entry.get("val_clip_accuracy") is not None]
    best = max(validated, key=lambda e: (e["val_clip_accuracy"], -e["val_loss"]), default=None)
    found = []
    for title, keys, log_from in PANELS:
        curves = {
            name: {entry["epoch"]: entry[key] for entry in epochs if entry.get(key) is not None}
            for name, key in keys.items()
        }
        panel = Panel(title, curves, "part" if log_from is None else "linear")
        values = panel.values()
        if log_from is None and best is not None:
            remark = f"best, epoch {best['epoch']}: {best['val_clip_accuracy']:.3f}"
            panel = panel._replace(remark=remark, marked_epoch=best["epoch"])
        elif log_from is not None and min(values) > 0 and max(values) > log_from * min(values):
            panel = panel._replace(remark="log scale", scale="log")
        found.append(panel)
    return found


def curves_png(epochs):
    """Return a png file: loss, clip accuracy and learning rate by epoch, from the log's lines."""
    matplotlib = _import_matplotlib()
    figure = matplotlib.figure.Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, 3), panels(epochs)):
        _draw_curves(axes, panel, len(epochs))
        _draw_scale(axes, panel, matplotlib.ticker)
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0]["epoch"] - 0.5, epochs[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


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


def _draw_curves(axes, panel, n_epochs):
    """Draw the curves of a panel, its titles and its grid; a single curve as steps, without a legend."""
    is_single = len(panel.curves) == 1
    style = {"linewidth": 1.8, "markersize": 5, "markevery": max(1, n_epochs // 20)}
    if is_single:
        style["drawstyle"] = "steps-mid"
    for name, curve in panel.curves.items():
        colour, marker = STYLES[name]
        axes.plot(list(curve), list(curve.values()), label=name, color=colour, marker=marker, **style)
    if panel.marked_epoch is not None:
        axes.axvline(panel.marked_epoch, color="#555555", linewidth=1, linestyle=":", zorder=0)
    axes.set_title(panel.title, loc="left", fontweight="bold")
    axes.set_title(panel.remark, loc="right", fontsize="small", color="#555555")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not is_single:
        axes.legend(frameon=False)


def _draw_scale(axes, panel, ticker):
    """Set the vertical scale of a panel; for a single curve the ticks are its values."""
    values = panel.values()
    if panel.scale == "part":
        axes.set_ylim(-0.03, 1.03)
    elif panel.scale == "linear":
        axes.set_ylim(0, 1.08 * max(values) or 1)
    else:
        axes.set_yscale("log")
        if len(panel.curves) == 1:
            axes.set_yticks(sorted(set(values))[:8])
        else:
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
