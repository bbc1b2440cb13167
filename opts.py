"""The options of the five scripts, and how a script meets its user: errors, signals, progress.

Options bear the names of 3D-ResNets-PyTorch wherever it has the option. Relative paths are taken
from `--root_path`. Nothing heavy is imported here, so that `--help` answers at once.
"""
import argparse
import functools
import os
import re
import signal
import sys
import textwrap
import warnings
import zlib  # noqa: F401  before Paddle 2.6, whose own copy of it crashes Python's if it comes first
from pathlib import Path

# Read before Paddle is imported, which sets this variable to 1 itself.
_OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")
os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ notes on its own working
for _noise in (
    "No ccache found",
    "When training, we now always track global mean",
    "This process .* is multi-threaded, use of fork",  # the readers use none of its threads
):
    warnings.filterwarnings("ignore", message=_noise)


# Files with these endings count as the videos of a folder.
VIDEO_SUFFIXES = tuple(".avi .mp4 .m4v .mov .mkv .webm .mpg .mpeg .wmv .flv .3gp .ts .mts .ogv".split())


class UserError(Exception):
    """A mistake that the user can mend: one line that says what, where and how. Takes one string."""


def run(main, *args):
    """Run a script; end it with one line on stderr where the user can mend the cause.

    Exit codes: 0 done, 1 an error that is told in one line, 2 bad options, 128 + n ended by signal
    n (130 for Ctrl-C).
    """
    try:
        main(*args)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except BrokenPipeError:  # who read the results has enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def one_line(error):
    """Return what a UserError or an OSError tells the user; raise an OSError that is of no file."""
    if isinstance(error, UserError):
        return str(error)
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}"


class Stopped(Exception):
    """A run that ends early because a signal asked for it, its work saved."""

    def __init__(self, signum, message):
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.signum = signum


class StopSignals:
    """While this context lasts, SIGTERM and Ctrl-C set `signum` instead of ending the process.

    So the run can finish its step and save first. A second signal ends it at once.
    """

    def __init__(self):
        self.signum = 0

    def __enter__(self):
        self._before = {s: signal.signal(s, self._hear) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _hear(self, signum, _frame):
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        print(f"{signal.Signals(signum).name}: saving after this step", file=sys.stderr)


_quiet = False  # --quiet, set by the parser


@functools.cache
def note(text, of_success=False):
    """Tell the user on stderr, once for each text, what the script does on its own.

    A note `of_success` asks for nothing; `--quiet` leaves it out.
    """
    if of_success and _quiet:
        return
    if "tqdm" in sys.modules:  # a bar may be live: above it
        sys.modules["tqdm"].tqdm.write(f"note: {text}", file=sys.stderr)
    else:
        print(f"note: {text}", file=sys.stderr)


def shown(text):
    """Return a name as one line that every terminal can show, whatever bytes it is of."""
    return text if text.isprintable() else repr(text)


def progress_bar(**options):
    """Return a `tqdm` bar on stderr: live on a terminal, a line every 30 seconds in a log file.

    With `--quiet` it shows nothing.
    """
    from tqdm import tqdm

    options["disable"] = _quiet or options.get("disable", False)
    line = "{desc} {n_fmt}/{total_fmt} {unit}s, {elapsed}<{remaining}, {rate_fmt}{postfix}"
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **options)
    return tqdm(
        **{"file": _Lines(), "mininterval": 30, "maxinterval": 30, "delay": 30, "bar_format": line, **options}
    )


def working(what, is_shown=True):
    """Return a context that shows what goes on, on a terminal alone, where there is nothing to count."""
    return progress_bar(desc=what, bar_format="{desc} ...", leave=False, disable=not is_shown)


class _Lines:
    """A file for tqdm that ends its lines instead of overwriting them."""

    def write(self, text):
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self):
        sys.stderr.flush()


def n_cpu_threads():
    """Return how many threads to compute with on a CPU: OMP_NUM_THREADS, else all cores allowed."""
    if _OMP_NUM_THREADS.isdigit() and int(_OMP_NUM_THREADS) > 0:
        return int(_OMP_NUM_THREADS)
    return len(os.sched_getaffinity(0))


# Values --------------------------------------------------------------------------------------


def _number(kind, low, high=None, above=False):
    """Return an argparse type: a number of at least `low` (above it, if `above`), at most `high`."""
    bounds = f"{'above' if above else 'at least'} {low}" + ("" if high is None else f", at most {high}")

    def parse(text):
        value = kind(text)
        inside = (value > low if above else value >= low) and (high is None or value <= high)
        if not inside:
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


_count = _number(int, 1)
_count_or_none = _number(int, 0)


def _pattern(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None


def _ft_begin_module(text):
    known = ("", "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known[1:])} or ''")
    return text


def _video(text):
    return text if text == "-" else Path(text)


def _file(suffix):
    def parse(text):
        if not text.endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text} does not end in {suffix}")
        return Path(text)

    return parse


# Groups --------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser that shows defaults, keeps the example as it is and joins paths to --root_path."""

    def __init__(self, description, example):
        super().__init__(
            description=textwrap.fill(description, 78),
            epilog=f"example:\n{example}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--quiet", action="store_true", help="no progress and no notes of success on stderr"
        )

    def parse(self, argv=None):
        global _quiet
        options = self.parse_args(argv)
        _quiet = options.quiet
        for name, value in vars(options).items():
            if isinstance(value, Path) and name != "root_path":
                setattr(options, name, options.root_path / value)
            elif isinstance(value, list):
                setattr(options, name, [options.root_path / v if isinstance(v, Path) else v for v in value])
        return options


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        hidden = action.default in (None, False, True) or "%(default)" in action.help
        return action.help if hidden else super()._get_help_string(action)


def _root(parser):
    parser.add_argument(
        "--root_path", type=Path, default=Path("."), help="folder that relative paths start from"
    )


def _data(parser):
    add = parser.add_argument_group("data").add_argument
    add(
        "--video_path",
        type=Path,
        default=Path("dataset/UCF-101-jpg"),
        help="folder of frames, <Class>/<video>/image_00001.jpg",
    )
    add(
        "--annotation_path",
        type=Path,
        default=Path("dataset/ucf101_01.json"),
        help="annotation file of the split",
    )
    add(
        "--result_path",
        type=Path,
        default=Path("results"),
        help="folder for all that the script writes",
    )
    add(
        "--n_threads",
        type=_count_or_none,
        default=4,
        help="processes that read frames; 0 reads in the main one",
    )
    add(
        "--fast_decode",
        action="store_true",
        help="decode jpgs at 1/2, 1/4 or 1/8 where the clip is as much smaller; not the same pixels",
    )


def _model(parser):
    add = parser.add_argument_group(
        "network", "what the pretrained weights do not decide; for training from scratch"
    ).add_argument
    depths = (10, 18, 34, 50, 101, 152, 200)
    add("--model_depth", type=int, choices=depths, help="default: the weights', from scratch 50")
    add("--resnet_shortcut", choices=("A", "B"), help="default: the weights', from scratch B")
    add(
        "--resnet_widen_factor",
        type=_number(float, 0, above=True),
        help="factor on all channel counts; default: the weights', from scratch 1.0",
    )
    add("--conv1_t_size", type=_count, help="frames in conv1's kernel; default: the weights', or 7")
    add("--conv1_t_stride", type=_count, help="stride of conv1 in time; default: the weights', or 1")
    add("--no_max_pool", action="store_true", help="leave out the max pool after conv1")
    add("--sample_size", type=_count, default=112, help="height and width of a clip in pixels")
    add("--sample_duration", type=_count, default=16, help="frames in a clip")
    add("--sample_t_stride", type=_count, default=1, help="take every n-th frame of a video")
    add(
        "--mean_dataset",
        choices=("kinetics", "activitynet", "0.5"),
        default="kinetics",
        help="mean and std that pixels are normalised with; kept in the checkpoint for test.py",
    )


def _augmentation(parser):
    add = parser.add_argument_group("augmentation").add_argument
    add(
        "--train_crop",
        choices=("random", "corner", "center"),
        default="random",
        help="random: area and aspect ratio drawn; corner: 4 corners and centre, 5 scales",
    )
    add(
        "--train_crop_min_scale",
        type=_number(float, 0, 1, above=True),
        default=0.25,
        help="smallest part of the frame's area that a random crop takes",
    )
    add(
        "--train_crop_min_ratio",
        type=_number(float, 0, 1, above=True),
        default=0.75,
        help="smallest aspect ratio of a random crop; the largest is its inverse",
    )
    add("--train_t_crop", choices=("random", "center"), default="random", help="start of the clip")
    add("--no_hflip", action="store_true", help="do not mirror half of the clips")
    add(
        "--label_smoothing",
        type=_number(float, 0, 1),
        default=0.0,
        help="probability that the target spreads over all classes",
    )
    add(
        "--mixup_alpha",
        type=_number(float, 0),
        default=0.0,
        help="mix pairs of clips with a Beta(alpha, alpha) weight, 0 for off; "
        "Paddle-3D-ResNets offers 0.2",
    )


def _optim(parser):
    add = parser.add_argument_group("optimisation").add_argument
    add(
        "--learning_rate", type=_number(float, 0, above=True), default=0.003, help="initial rate of SGD"
    )
    add("--momentum", type=_number(float, 0, 1), default=0.9, help="momentum of SGD")
    add("--weight_decay", type=_number(float, 0), default=1e-3, help="on every trained parameter")
    add("--nesterov", action="store_true", help="Nesterov momentum")
    add(
        "--lr_scheduler",
        choices=("plateau", "multistep"),
        default="plateau",
        help="divide the rate by 10 when the validation loss stalls, or at milestones",
    )
    add(
        "--plateau_patience",
        type=_count_or_none,
        default=10,
        help="epochs without a better validation loss before the rate falls",
    )
    add(
        "--multistep_milestones",
        type=_count,
        nargs="+",
        default=[50, 100, 150],
        metavar="EPOCH",
        help="epochs after which the rate falls",
    )
    add(
        "--batch_size",
        type=_count,
        default=128,
        help="clips in a step, those of all processes together; an epoch's last may be short",
    )
    add(
        "--batchnorm_sync",
        action="store_true",
        help="with several processes: BatchNorm over the clips of all, as one process would",
    )
    add("--n_epochs", type=_count, default=200, help="epochs in all, those before a resume included")
    add(
        "--amp",
        choices=("off", "O1"),
        default="off",
        help="O1: convolutions and fc in float16, on a GPU only",
    )


# Parsers -------------------------------------------------------------------------------------


def generate_options(argv=None):
    """Parse the command line of `generate_video_jpgs.py`."""
    parser = _Parser(
        "Decode every video to jpg frames and write the annotation files of the splits beside their "
        "folder. A second run does what is missing.",
        "  python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101\n"
        "  python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101 --check\n"
        "  python generate_video_jpgs.py my_videos my_jpg folder --val_fraction 0.2",
    )
    add = parser.add_argument
    add(
        "dir_path",
        type=Path,
        nargs="?",
        default=Path("dataset/UCF-101"),
        help="folder of videos, <Class>/<video>.avi; for folder also mp4, mkv, webm, mov, ...",
    )
    add(
        "dst_path",
        type=Path,
        nargs="?",
        default=Path("dataset/UCF-101-jpg"),
        help="folder to make, <Class>/<video>/image_00001.jpg",
    )
    add(
        "dataset",
        nargs="?",
        choices=("ucf101", "hmdb51", "folder"),
        default="ucf101",
        help="what dir_path holds; folder: classes of your own, split here",
    )
    add("--n_jobs", type=_count, default=len(os.sched_getaffinity(0)), help="processes that decode")
    add("--size", type=_count, default=240, help="short side of a frame in pixels")
    add("--quality", type=_number(int, 1, 100), default=80, help="jpg quality")
    add("--fps", type=_number(float, 0, above=True), help="frames a second; default: the video's own")
    add(
        "--time_limit",
        type=_number(float, 0, above=True),
        default=600.0,
        help="seconds that one video may take",
    )
    add(
        "--allow_partial",
        action="store_true",
        help="keep what decodes of a video that breaks off, instead of refusing it",
    )
    add(
        "--check",
        action="store_true",
        help="read all frames of dst_path and report what is damaged; needs no videos",
    )
    add("--repair", action="store_true", help="check, and decode what is damaged again")
    add(
        "--annotation_dir_path",
        type=Path,
        help="folder of the official split files: UCF-101's trainlist01.txt, testlist01.txt, ... "
        "(default: its splits follow from the group numbers), HMDB-51's <Class>_test_split1.txt, ...",
    )
    add = parser.add_argument_group("split", "for the dataset folder only").add_argument
    add(
        "--val_fraction",
        type=_number(float, 0, 0.9, above=True),
        default=0.2,
        help="part of each class's videos to validate on, as near as the groups allow",
    )
    add(
        "--split_by",
        type=_pattern,
        metavar="REGEX",
        help="what videos that belong together share in their names (without suffix), the first group or "
        "the whole match; default: UCF-101's _g<group>_c<clip> if all have it, else each is its own",
    )
    add("--manual_seed", type=_count_or_none, default=1, help="seed of the split")
    _root(parser)
    options = parser.parse(argv)
    if options.split_by and options.dataset != "folder":
        parser.error("--split_by is for the dataset folder")
    if options.annotation_dir_path and options.dataset == "folder":
        parser.error("--annotation_dir_path is for the datasets ucf101 and hmdb51")
    return options


def convert_options(argv=None):
    """Parse the command line of `convert_to_paddle.py`."""
    parser = _Parser(
        "Convert a checkpoint of 3D-ResNets-PyTorch to Paddle, or Paddle weights to another format, and "
        "compare the two networks.",
        "  python convert_to_paddle.py weights/r3d50_KM_200ep.pth\n"
        "  python convert_to_paddle.py results/best.pdparams --to onnx",
    )
    add = parser.add_argument
    add(
        "source_path",
        type=Path,
        nargs="?",
        help="checkpoint to read; default: weights/r3d50_KM_200ep.pth, or results/best.pdparams where "
        "--to is another than paddle",
    )
    add(
        "target_path",
        type=Path,
        nargs="?",
        help="file to write, a folder for inference; default: beside source_path, with the ending "
        ".pdparams, .pth, .onnx or _inference",
    )
    add(
        "--to",
        choices=("paddle", "torch", "onnx", "inference"),
        default="paddle",
        help="paddle: read a .pth; the others read a .pdparams; torch: a .pth for 3D-ResNets-PyTorch; "
        "onnx: needs paddle2onnx; inference: a model of Paddle Inference",
    )
    add("--no_verify", action="store_true", help="do not run clips through both networks")
    _root(parser)
    return parser.parse(argv)


def train_options(argv=None):
    """Parse the command line of `train.py`."""
    parser = _Parser(
        "Fine-tune a ResNet3D on the training subset; the defaults are the published recipe.",
        "  python train.py\n"
        "  python train.py --resume_path results\n"
        "  python train.py --pretrain_path none --model_depth 18 --learning_rate 0.1\n"
        "  python -m paddle.distributed.launch --gpus 0,1,2,3 train.py",
    )
    _root(parser)
    _data(parser)
    add = parser.add_argument_group("run").add_argument
    add(
        "--pretrain_path",
        type=lambda text: None if text == "none" else Path(text),
        default=Path("weights/r3d50_KM_200ep.pdparams"),
        help="converted weights to start from, or none",
    )
    add(
        "--ft_begin_module",
        type=_ft_begin_module,
        help="first module to train: conv1, bn1, layer1 ... layer4, fc, or '' for everything; "
        "default: layer4, from scratch everything",
    )
    add(
        "--freeze_bn",
        action="store_true",
        help="the part before ft_begin_module keeps its BatchNorm statistics, which move otherwise",
    )
    add(
        "--resume_path",
        type=Path,
        help="a run to go on with: its folder, for the newest checkpoint, or results/save_<epoch>.pdparams",
    )
    add("--checkpoint", type=_count, default=1, help="epochs between two checkpoints")
    add(
        "--checkpoint_steps",
        type=_count_or_none,
        default=0,
        help="steps between two checkpoints inside an epoch, 0 for none",
    )
    add("--keep", type=_count, default=3, help="checkpoints to keep; older ones are deleted, the best never")
    add(
        "--n_val_samples",
        type=_count,
        default=3,
        help="evenly spaced clips a video in validation; 1 is the centre clip",
    )
    add("--manual_seed", type=_count_or_none, default=1, help="seed of weights, clips and order")
    add(
        "--visualdl",
        action="store_true",
        help="also log the curves to <result_path>/visualdl; needs the package visualdl",
    )
    _model(parser)
    _augmentation(parser)
    _optim(parser)
    return parser.parse(argv)


def test_options(argv=None):
    """Parse the command line of `test.py`."""
    parser = _Parser(
        "Score every video of a subset: softmax of each clip, averaged over the video.",
        "  python test.py\n"
        "  python test.py --resume_path results/save_20.pdparams\n"
        "  python test.py --video clip.mp4 --timeline --render labelled.mp4\n"
        "  python test.py --features features.npz\n"
        "  python -m paddle.distributed.launch --gpus 0,1,2,3 test.py",
    )
    _root(parser)
    _data(parser)
    add = parser.add_argument_group("inference").add_argument
    add(
        "--resume_path",
        type=Path,
        default=Path("results/best.pdparams"),
        help="checkpoint, or converted weights; it decides network, clip size and normalisation",
    )
    add("--inference_batch_size", type=_count, default=32, help="clips in a batch, of several videos")
    add("--inference_stride", type=_count, default=16, help="frames between the starts of two clips")
    add(
        "--inference_crop",
        choices=("center", "nocrop"),
        default="center",
        help="center: the central square; nocrop: the whole frame, its short side at the clip size",
    )
    add(
        "--inference_no_average",
        action="store_true",
        help="write the scores of each clip, not of each video",
    )
    add(
        "--inference_subset",
        choices=("train", "val", "test"),
        default="val",
        help="subset to score; names the file written, <result_path>/val.json",
    )
    add("--output_topk", type=_count, default=5, help="labels written for each video")
    add(
        "--features",
        type=_file(".npz"),
        metavar="OUT.npz",
        help="write the vector before fc of each clip and each video to this file, and nothing else",
    )
    _own_videos(parser)
    options = parser.parse(argv)
    for_videos = ("timeline", "json", "render", "fps")
    if options.video is None:
        without = [f"--{name}" for name in for_videos if getattr(options, name)]
        if without:
            parser.error(f"{without[0]} is for --video")
    elif options.fast_decode:
        parser.error("--fast_decode is for frames on disk; --video decodes no jpg")
    elif options.inference_no_average:
        parser.error("--inference_no_average is not for --video; --timeline gives the course of a video")
    elif options.render and (len(options.video) > 1 or "-" in options.video):
        parser.error("--render writes one file: give it exactly one video")
    elif options.features and (options.timeline or options.json or options.render):
        parser.error("--features writes features only: no --timeline, --json or --render with it")
    if options.features and options.inference_no_average:
        parser.error("--features writes the vectors of clips and videos: no --inference_no_average with it")
    return options


def _own_videos(parser):
    add = parser.add_argument_group(
        "your own videos", "labelled straight from the files: no frames on disk, no annotation"
    ).add_argument
    add(
        "--video",
        type=_video,
        nargs="+",
        metavar="PATH",
        help="print the best labels of these: video files; folders, with all files in them and below that "
        f"end in {' '.join(VIDEO_SUFFIXES)} and are not hidden; - for a list on stdin, a path a line. "
        "A name that begins with a dash is ./-name",
    )
    add("--timeline", action="store_true", help="also the best label of each second")
    add("--json", action="store_true", help="print a line of JSON for each video")
    add(
        "--render",
        type=_file(".mp4"),
        metavar="OUT.mp4",
        help="also write the video, one alone, with its best label at each time drawn in; without sound",
    )
    add(
        "--fps",
        type=_number(float, 0, above=True),
        help="frames a second, as in stage 1; default: the video's own",
    )


def eval_options(argv=None):
    """Parse the command line of `eval_accuracy.py`."""
    parser = _Parser(
        "Compute the top-k accuracy of a results file, report on it, compare it with another. Needs no "
        "Paddle.",
        "  python eval_accuracy.py dataset/ucf101_01.json results/val.json -k 1 --subset validation\n"
        "  python eval_accuracy.py --report\n"
        "  python eval_accuracy.py --compare earlier/val.json",
    )
    add = parser.add_argument
    add(
        "ground_truth_path",
        type=Path,
        nargs="?",
        default=Path("dataset/ucf101_01.json"),
        help="annotation file",
    )
    add(
        "result_path",
        type=Path,
        nargs="?",
        default=Path("results/val.json"),
        help="results file of test.py",
    )
    add("-k", type=_count, default=1, help="labels of a video that may hold the right one")
    add(
        "--subset",
        choices=("training", "validation", "testing"),
        default="validation",
        help="subset of the annotation",
    )
    add(
        "--ignore",
        action="store_true",
        help="leave videos without a result out of the count, instead of counting them as wrong",
    )
    add("--save", action="store_true", help="also write the accuracy to top<k>.txt beside the results")
    add("--report", action="store_true", help="also write the page report.html beside the results")
    add(
        "--video_path",
        type=Path,
        default=Path("dataset/UCF-101-jpg"),
        help="folder of frames, for the pictures in the report",
    )
    add(
        "--compare",
        type=Path,
        metavar="RESULT_PATH",
        help="another results file of the same videos: print what is gained and lost against it",
    )
    _root(parser)
    return parser.parse(argv)
