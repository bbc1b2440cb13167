"""The weights that the author of 3D-ResNets-PyTorch released, as `model/released.json` lists them.

Sources: the READMEs of 2018 and of 2020, the issues named there, and the abstracts of both papers. No
file was at hand; the network of each follows from its name and the reference's code.
"""
import json
import textwrap
from typing import NamedTuple, Optional

from run.registry import ROOT
from run.spec import MEANS, ClipSpec, value_text

KINETICS_400 = ROOT / "model" / "kinetics400.txt"


class Released(NamedTuple):
    """A released file: its network (`model`, `arguments`, `n_classes`), its clips, and what was published.

    `is_counted`: it holds the `num_batches_tracked` that PyTorch writes since its version 0.4.1.
    """

    file: str
    model: str
    arguments: dict
    n_classes: int
    trained_on: str
    mean_dataset: str
    is_counted: bool
    sample_duration: int = 16
    published: Optional[str] = None

    @property
    def clip(self):
        """The `ClipSpec` that it was trained with."""
        return ClipSpec(sample_duration=self.sample_duration, **MEANS[self.mean_dataset]._asdict())

    def class_names(self):
        """Return the class names in the order of the outputs, None if that order was never published."""
        if self.trained_on != "Kinetics-400":
            return None
        return KINETICS_400.read_text(encoding="utf-8").splitlines()

    def classes(self):
        """Return in words what is known of the order of its classes."""
        not_in_it = "class names: not in the file"
        known = {
            "Kinetics-400": "class names: known, sorted",
            "Kinetics-700": f"{not_in_it}; their order stands in issue 211 of the reference's repository and "
            "is not the alphabet's",
            "Kinetics-400, then UCF-101 split 1": f"{not_in_it}; in the order of classInd.txt",
            "Kinetics-400, then HMDB-51 split 1": f"{not_in_it}; sorted",
        }
        return known.get(self.trained_on, f"{not_in_it}; their order was not published")


def _releases():
    content = json.loads((ROOT / "model" / "released.json").read_text(encoding="utf-8"))
    for release in content["releases"]:
        common = {name: release[name] for name in ("mean_dataset", "is_counted")}
        yield release["title"], release["folder"], [Released(**common, **row) for row in release["files"]]


def released_files():
    """Return all `Released`."""
    return [row for _, _, rows in _releases() for row in rows]


def choose(candidates, is_counted, file_name):
    """Return the `Released` that weights of one network may be, the likeliest first.

    `candidates` are those of that network. What its tensors leave open the file's name decides: a file of 64
    frames, and whether a network of few classes is a released one at all.
    """
    named = [row for row in candidates if file_name.startswith(row.file[: -len(".pth")])]
    if named:
        return [max(named, key=lambda row: len(row.file))]
    return [row for row in candidates if row.is_counted == is_counted and row.n_classes >= 400]


def described():
    """Return what `convert_to_paddle.py --list` prints: each released file, by its release."""
    texts = []
    for title, folder, rows in _releases():
        texts.append(f"{title}: {folder or 'to be had of users only'}")
        texts.append(_wrapped(f"clips: 16 frames if not said otherwise; {rows[0].clip.pixels()}", 2))
        sets = {}
        for row in rows:
            sets.setdefault(row.classes(), {})[row.trained_on] = True
        texts += [_wrapped(f"{' / '.join(names)}: {text}", 2) for text, names in sets.items()]
        texts += [*map(_entry, rows), ""]
    texts.append(
        "No checksum was published. A whole download converts: every tensor of the network is\nthere, and "
        "PyTorch and Paddle agree on it. One that broke off does not open."
    )
    return "\n".join(texts)


def _entry(row):
    """Return a file's name, and below it what it is, to 80 columns."""
    arguments = "".join(f", {name} {value_text(value)}" for name, value in row.arguments.items())
    text = f"{row.trained_on}, {row.n_classes:,} classes; {row.model}{arguments}"
    text += f"; {row.sample_duration} frames" if row.sample_duration != 16 else ""
    text += f"; published: {row.published}" if row.published else ""
    return f"    {row.file}\n{_wrapped(text, 8)}"


def _wrapped(text, indent):
    return textwrap.fill(text, 80, initial_indent=" " * indent, subsequent_indent=" " * indent)
