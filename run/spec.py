"""What a run is: its network, its clips, its frames, its recipe and how a video is scored.

Options, checkpoint metadata, log headers, model cards, `val_run.json`, the check of a resume and the journal
of a test are derived from the fields of these specs, and know none of them by name. Defaults stand here and
nowhere else.
"""
import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from run.console import UserError
from run.kinds import Kind, Spec, field, require_object, versioned


class Normalisation(NamedTuple):
    """What clips are normalised with, `(pixel / scale - mean) / std`: mean and std of R, G and B."""

    mean: tuple
    std: tuple
    scale: float = 255.0

    def of(self, n_channels):
        """Return that of the first channels: flow has two, and the reference takes the first two values."""
        return self._replace(mean=self.mean[:n_channels], std=self.std[:n_channels])


# Reference: `mean.py`.
MEANS = {
    "kinetics": Normalisation((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
    "activitynet": Normalisation((0.4477, 0.4209, 0.3906), (0.2767, 0.2695, 0.2714)),
    "0.5": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # The code and the files of 2018; the reference of 2020 has no option for it.
    "2018": Normalisation((114.7748, 107.7354, 99.475), (1.0, 1.0, 1.0), 1.0),
}
MEANS_OF_THE_REFERENCE = ("kinetics", "activitynet", "0.5")
FLOW_MEAN = "0.5"  # of flow, of which 128 means no motion

# What a clip shows, and the number of its channels.
CHANNELS = {"rgb": 3, "flow": 2}

# What may be faster on a GPU and was never timed on one; tools/gpu_check.py times each.
SPEEDUPS = ("pinned_copies", "multi_tensor", "paddle_sync_batchnorm")

# How much lower than the least, and higher than the most, a frame rate may be and still count as near.
FRAME_RATE_MARGINS = (0.8, 1.25)


def is_near(frame_rate, least, most):
    """Tell whether a frame rate lies in a range or a little outside of it."""
    return FRAME_RATE_MARGINS[0] * least <= frame_rate <= FRAME_RATE_MARGINS[1] * most


@dataclass(frozen=True)
class NetworkSpec:
    """Which network: the name of its family (`--model`) and the arguments that its class is built with.

    What arguments there are, and which values they may have, says the network's own file in
    `model/networks/`.
    """

    name: str = "resnet"
    arguments: dict = dataclasses.field(default_factory=dict)

    def to_json(self):
        """Return what JSON can hold; `from_json` reads it."""
        return {"version": 1, "name": self.name, "arguments": self.arguments}

    @classmethod
    def from_json(cls, content, where):
        """Return the spec that `to_json` described; a network's own file checks the arguments."""
        content = versioned(require_object(content, where), 1, where)
        if set(content) != {"name", "arguments"} or type(content["name"]) is not str:
            raise UserError(f"{where}: expected the name and the arguments of a network")
        arguments = require_object(content["arguments"], f"{where}: arguments")
        if not all(type(value) in (int, float, bool, str, type(None)) for value in arguments.values()):
            raise UserError(f"{where}: arguments are numbers or text")
        return cls(content["name"], arguments)

    def replace(self, **arguments):
        """Return the network with some other arguments."""
        return NetworkSpec(self.name, {**self.arguments, **arguments})


@dataclass(frozen=True)
class ClipSpec(Spec):
    """What a clip is: for training, validation, test, prediction and export alike.

    A network takes `(pixel / scale - mean) / std`. `frame_rates` are the median, the least and the most
    frames a second of the videos that it was trained on; None if that is unknown.
    """

    sample_size: int = field(
        112, "height and width of a clip in pixels", low=1, high=10_000, group="network"
    )
    sample_duration: int = field(16, "frames in a clip", low=1, high=10_000, group="network")
    sample_t_stride: int = field(1, "take every n-th frame of a video", low=1, high=10_000, group="network")
    modality: str = field("rgb", choices=tuple(CHANNELS))
    mean: tuple = field(MEANS["kinetics"].mean, low=-1e6, high=1e6)
    std: tuple = field(MEANS["kinetics"].std, low=0, above=True, high=1e6)
    scale: float = field(MEANS["kinetics"].scale, low=0, above=True, high=1e6)
    frame_rates: tuple = dataclasses.field(
        default=None, metadata={"kind": Kind(float, 0, 1e6, above=True, optional=True, many=True, length=3)}
    )

    def __post_init__(self):
        if not len(self.mean) == len(self.std) == self.n_channels:
            raise UserError(
                f"{self.modality} clips have {self.n_channels} channels, not a mean of {len(self.mean)} "
                f"and a std of {len(self.std)} values"
            )

    @property
    def n_channels(self):
        """The number of channels of a clip."""
        return CHANNELS[self.modality]

    def target_fps(self, own_fps):
        """Return the frame rate to resample a video to, None to leave its own.

        A network knows motion at the frame rates that it was trained on. A video that is a little outside of
        these keeps its own; one that is far from them gets the median.
        """
        if self.frame_rates is None or own_fps is None:
            return None
        median, least, most = self.frame_rates
        return None if is_near(own_fps, least, most) else median

    @property
    def mean_dataset(self):
        """The name in `MEANS` of mean, std and scale, None for others."""
        own = (self.mean, self.std, self.scale)
        return next((n for n, values in MEANS.items() if values.of(self.n_channels) == own), None)

    def pixels(self):
        """Return in words what a network gets of a pixel."""
        numbers = lambda values: ", ".join(f"{value:g}" for value in values)
        divided = "" if set(self.std) == {1.0} else f", divided by ({numbers(self.std)})"
        return f"pixels 0 to {255 / self.scale:g}, less ({numbers(self.mean)}){divided}"


@dataclass(frozen=True)
class FrameSpec(Spec):
    """How the frames on disk were made: the first line of the frames' journal."""

    size: int = field(240, "short side of a frame in pixels", low=1, high=100_000)
    quality: int = field(80, "jpg quality", low=1, high=100)
    fps: float = field(
        None, "frames a second; default: the video's own", type=float, low=0, above=True, optional=True
    )
    store: str = field("jpg_folders", "how frames are kept")
    modality: str = field("rgb", choices=tuple(CHANNELS))


def _fast_decode():
    """Return the field that a training and a test have in common."""
    text = "decode jpgs at 1/2, 1/4 or 1/8 if the clip is as much smaller; not the same pixels"
    return field(False, text, group="data")


@dataclass(frozen=True)
class Recipe(Spec):
    """Everything else that decides the numbers of a training run.

    Only `n_epochs` and `accumulate` may change on a resume: the latter is what the memory of a card asks for.
    """

    ft_begin_module: str = field(
        None,
        "first module to train, such as layer4 or fc, or '' for everything; default: what the recipe says, "
        "from scratch everything",
        type=str,
        optional=True,
        group="run",
    )
    freeze_bn: bool = field(
        False,
        "the part before ft_begin_module keeps its BatchNorm statistics, which move otherwise",
        group="run",
    )
    n_val_samples: int = field(
        3, "evenly spaced clips a video in validation; 1 is the centre clip", low=1, group="run"
    )
    val_every: int = field(
        1, "epochs from one validation to the next; the last epoch always has one", low=1, group="run"
    )
    manual_seed: int = field(1, "seed of weights, clips and order", low=0, group="run")
    train_crop: str = field(
        "random",
        "random: area and aspect ratio drawn; corner: 4 corners and centre, 5 scales",
        choices=("random", "corner", "center"),
        group="augmentation",
    )
    train_crop_min_scale: float = field(
        0.25,
        "smallest part of the frame's area that a random crop takes",
        low=0,
        high=1,
        above=True,
        group="augmentation",
    )
    train_crop_min_ratio: float = field(
        0.75,
        "smallest aspect ratio of a random crop; the largest is its inverse",
        low=0,
        high=1,
        above=True,
        group="augmentation",
    )
    train_t_crop: str = field(
        "random", "start of the clip", choices=("random", "center"), group="augmentation"
    )
    no_hflip: bool = field(False, "do not mirror half of the clips", group="augmentation")
    label_smoothing: float = field(
        0.0, "probability that the target spreads over all classes", low=0, high=1, group="augmentation"
    )
    mixup_alpha: float = field(
        0.0,
        "mix pairs of clips with a Beta(alpha, alpha) weight, 0 for off; Paddle-3D-ResNets offers 0.2",
        low=0,
        group="augmentation",
    )
    fast_decode: bool = _fast_decode()
    learning_rate: float = field(
        0.003, "initial learning rate of SGD", low=0, above=True, group="optimisation"
    )
    momentum: float = field(0.9, "momentum of SGD", low=0, high=1, group="optimisation")
    dampening: float = field(
        0.0,
        "each gradient but the first counts 1 - dampening times in the momentum; paper 1's code: 0.9",
        low=0,
        high=0.999,
        group="optimisation",
    )
    weight_decay: float = field(1e-3, "on every trained parameter", low=0, group="optimisation")
    nesterov: bool = field(False, "Nesterov momentum", group="optimisation")
    lr_scheduler: str = field(
        "plateau",
        "divide the learning rate by 10 when the validation loss stalls, or at milestones",
        choices=("plateau", "multistep"),
        group="optimisation",
    )
    plateau_patience: int = field(
        10,
        "epochs without a better validation loss before the learning rate falls",
        low=0,
        group="optimisation",
    )
    multistep_milestones: tuple = field(
        (50, 100, 150),
        "epochs after which the learning rate falls",
        low=1,
        metavar="EPOCH",
        group="optimisation",
    )
    batch_size: int = field(
        128,
        "clips in a step, those of all processes together; an epoch's last may be short. Without --recipe, a "
        "set of fewer than 1,024 videos gets the largest power of two up to an eighth of them",
        low=1,
        group="optimisation",
    )
    batchnorm_sync: bool = field(
        False,
        "with several processes: BatchNorm over the clips of all, as one process would",
        group="optimisation",
    )
    n_epochs: int = field(200, "epochs in all, those before a resume included", low=1, group="optimisation")
    amp: str = field(
        "off",
        "on a GPU only; O1: everything but the loss in float16; bf16: in bfloat16, on cards from A100 on",
        choices=("off", "O1", "bf16"),
        group="optimisation",
    )
    accumulate: int = field(
        1,
        "parts that each batch is computed in, one after the other, to save memory; the gradients are those "
        "of the whole batch, a BatchNorm sees a part",
        low=1,
        group="optimisation",
    )

    def __post_init__(self):
        if self.dampening and (self.nesterov or not self.momentum):
            other = "--nesterov" if self.nesterov else "--momentum 0"
            raise UserError(f"{other} and dampening {self.dampening:g} exclude each other: --dampening 0")


@dataclass(frozen=True)
class Protocol(Spec):
    """How a video is scored: its windows, their crop, and what is made of the scores of its clips.

    The batch size is a part of it because the last bit of a score depends on it.
    """

    inference_stride: int = field(16, "frames between the starts of two clips", low=1, group="inference")
    inference_crop: str = field(
        "center",
        "center: the central square; nocrop: the whole frame, its short side at the clip size; three: three "
        "squares along the long side",
        choices=("center", "nocrop", "three"),
        group="inference",
    )
    n_clips: int = field(
        0,
        "evenly spaced clips a video, 0 for one every inference_stride frames; with --inference_crop three, "
        "10 are the 10 x 3 views of many papers; a short video may have fewer",
        low=0,
        group="inference",
    )
    inference_no_average: bool = field(
        False, "write the scores of each clip, not of each video", group="inference"
    )
    output_topk: int = field(5, "labels written for each video", low=1, group="inference")
    inference_batch_size: int = field(32, "clips in a batch, of several videos", low=1, group="inference")
    fast_decode: bool = _fast_decode()

    def __post_init__(self):
        if self.inference_no_average and self.inference_crop == "three":
            raise UserError("--inference_no_average has a result a window: no --inference_crop three with it")

    @property
    def windows(self):
        """The windows of a video, as `WindowClips` takes them."""
        return ("spread", self.n_clips) if self.n_clips else ("sliding", self.inference_stride)

    @property
    def views(self):
        """The views in words, "10 x 3 views"; "" for the reference's, a central clip every few frames."""
        n_crops = 3 if self.inference_crop == "three" else 1
        if not self.n_clips and n_crops == 1:
            return ""
        return f"{self.n_clips or f'every {self.inference_stride} frames'} x {n_crops} views"


@dataclass(frozen=True)
class Published(Spec):
    """An accuracy that others published, and of what: with how many videos and classes it was measured."""

    accuracy: float = field(0.0, low=0, high=1)
    what: str = field("")
    n_videos: int = field(0, low=0)
    n_classes: int = field(0, low=0)
    source: str = field("")


@dataclass(frozen=True)
class Given:
    """What the user gave of a training's settings; everything else is the recipe's or the checkpoint's.

    `network`, `clip` and `recipe` map the names of arguments or fields to values.
    """

    recipe_name: str = None
    model: str = None
    network: dict = dataclasses.field(default_factory=dict)
    clip: dict = dataclasses.field(default_factory=dict)
    recipe: dict = dataclasses.field(default_factory=dict)


def differences(before, now, but=()):
    """Return what differs between two specs as a phrase, "" for nothing.

        differences(Recipe(batch_size=8), Recipe())  ->  "batch_size was 8 and is 128"

    `but` names fields that may differ. Two networks differ in their name or in any argument.
    """
    if isinstance(before, NetworkSpec):
        old, new = ({"model": spec.name, **spec.arguments} for spec in (before, now))
    else:
        old, new = ({name: getattr(spec, name) for name in type(spec).kinds()} for spec in (before, now))
    changed = [name for name in {**old, **new} if name not in but and old.get(name) != new.get(name)]
    pairs = ((name, *(value_text(spec.get(name)) for spec in (old, new))) for name in changed)
    return ", ".join(f"{name} was {before} and is {now}" for name, before, now in pairs)


def value_text(value):
    """Return a setting as it is given on a command line."""
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    return repr(value) if value == "" else str(value)


# What a record of a training or of a test says besides its specs, where it says it.
RECORD_KINDS = {
    **{name: Kind(str) for name in ("checkpoint", "device", "amp", "python", "paddle", "numpy")},
    **{name: Kind(str, optional=True) for name in ("git", "recipe_name")},
    "command": Kind(str, many=True),
    "versions": Kind(dict),
    "clips_per_second": Kind(float, 0, optional=True),
    "clip_accuracy": Kind(float, 0, 1, optional=True),
    "results_crc32": Kind(int, 0),
    **{
        name: Kind(int, 1)
        for name in ("n_ranks", "n_training_videos", "n_validation_clips", "n_parameters", "n_clips")
    },
}
RECORD_SPECS = {"network": NetworkSpec, "clip": ClipSpec, "recipe": Recipe, "protocol": Protocol}


def checked_record(record, where):
    """Return a record, a header of `train.jsonl` or the content of `val_run.json`, with its fields checked.

    Version 1 has no specs. `published` is left to who compares with it. Raises UserError: `where`, the field.
    """
    record = versioned(require_object(record, where), 2, where)
    for name, kind in RECORD_KINDS.items():
        try:
            kind.parsed(record[name]) if name in record else None
        except ValueError as error:
            raise UserError(f"{where}: {name} is {record[name]!r:.80}, expected {error}") from None
    for name, spec in RECORD_SPECS.items():
        if name in record:
            spec.from_json(record[name], f"{where}: {name}")
    return record
