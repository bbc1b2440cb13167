"""The options of the scripts, one parser a script; imported by scripts only.

Options bear the names of 3D-ResNets-PyTorch wherever it has the option. Those that decide a result are the
fields of a spec (`run/spec.py`) or stand in the file of a network or a data set; their defaults, ranges and
help come from there. Of these the parsers return only what was given, so that a recipe and a checkpoint
come before a default. Relative paths are taken from `--root_path`.
"""
import argparse
from pathlib import Path

from run import registry, released
from run.arguments import Parser, PrintAndExit, file_ending, take_given, with_default
from run.files import VIDEO_SUFFIXES
from run.kinds import Kind
from run.machine import n_cores
from run.option_groups import frames, given, network, normalisation, of_sources, time_limit, untraced
from run.recipes import DEFAULT_RECIPE, described, recipe_names
from run.spec import SPEEDUPS, ClipSpec, FrameSpec, Protocol, Recipe

SOURCES, STORES = "datasets/sources", "datasets/stores"
EXPORTS = ("torch", "onnx", "inference")
LAUNCH = "python -m paddle.distributed.launch --gpus 0,1,2,3"


def generate_options(argv=None):
    """Parse the command line of `generate_video_jpgs.py`; `frame_spec` and `source_options` are typed."""
    parser = Parser(
        "Decode every video to jpg frames and write the annotation files of the splits beside their "
        "folder. A second run does what is missing.",
        "  python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101\n"
        "  python generate_video_jpgs.py dataset/UCF-101 dataset/UCF-101-jpg ucf101 --check\n"
        "  python generate_video_jpgs.py my_videos my_jpg folder --val_fraction 0.2",
    )
    sources = registry.modules(SOURCES)
    for name, default, text in (
        ("dir_path", "dataset/UCF-101", "folder of videos, <Class>/<video>.avi; folder: mp4, mkv, ... too"),
        ("dst_path", "dataset/UCF-101-jpg", "folder to make, <Class>/<video>/image_00001.jpg"),
    ):
        text = with_default(text, default)
        parser.add_argument(name, type=Path, nargs="?", default=Path(default), help=text)
    text = "what dir_path holds; folder: classes of your own, split here (default: ucf101)"
    parser.add_argument("dataset", nargs="?", choices=tuple(sources), default="ucf101", help=text)
    jobs = Kind(int, 1, help="processes that decode")
    parser.option("n_jobs", n_cores(), jobs)
    parser.spec(FrameSpec, ("size", "quality", "fps"))
    text = FrameSpec.kinds()["store"].help
    stores = Kind(str, choices=tuple(registry.modules(STORES)), help=text)
    parser.option("store", FrameSpec().store, stores, is_given=True)
    time_limit(parser, "seconds that one video may take")
    for name, text in (
        ("flow", "write optical flow instead of pixels; needs OpenCV"),
        ("allow_partial", "keep what decodes of a video that breaks off, instead of refusing it"),
        ("check", "read all frames of dst_path and report what is damaged; needs no videos"),
        ("repair", "check, and decode what is damaged again"),
    ):
        parser.option(name, False, Kind(bool, help=text))
    users_of = of_sources(parser, sources)
    options = parser.parse(argv)
    own = registry.option_kinds(sources[options.dataset])
    for name, users in users_of.items():
        if getattr(options, name, None) is not None and name not in own:
            parser.error(f"--{name} is for the data set {' or '.join(users)}, not for {options.dataset}")
    own_options = {name: getattr(options, name, default) for name, (default, _) in own.items()}
    options.source_options = {**own_options, "dir_path": options.dir_path}
    modality = {"modality": "flow"} if vars(options).pop("flow") else {}
    options.frame_spec = FrameSpec.of({**take_given(options, FrameSpec.kinds()), **modality})
    return options


def convert_options(argv=None):
    """Parse the command line of `convert_to_paddle.py`."""
    parser = Parser(
        "Convert a checkpoint of 3D-ResNets-PyTorch to Paddle and compare the two networks.",
        "  python convert_to_paddle.py weights/r3d50_KM_200ep.pth\n"
        "  python convert_to_paddle.py --list",
    )
    text = "checkpoint to read (default: weights/r3d50_KM_200ep.pth)"
    parser.add_argument(
        "source_path", type=Path, nargs="?", default=Path("weights/r3d50_KM_200ep.pth"), help=text
    )
    text = "file to write; default: beside source_path, with the ending .pdparams"
    parser.add_argument("target_path", type=Path, nargs="?", help=text)
    text = "list the released files: network, clips, classes, where each is to be had, published accuracy"
    parser.add_argument("--list", action=PrintAndExit, const=released.described, help=text)
    parser.option("no_verify", False, Kind(bool, help="do not run clips through both networks"))
    text = "the state dict's name in a file that holds several, such as state_dict or state_dict_ema"
    parser.add_argument("--key", help=text)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    untraced(parser)
    parser.spec(ClipSpec)
    normalisation(parser)
    options = parser.parse(argv)
    options.given = given(options)
    if options.to not in (None, "paddle"):
        parser.error(f"--to is now a tool of its own: python tools/export_model.py --to {options.to}")
    return options


def export_options(argv=None):
    """Parse the command line of `tools/export_model.py`."""
    parser = Parser(
        "Write a checkpoint, or converted weights, in another format, and compare the two networks.",
        "  python tools/export_model.py --to torch\n"
        "  python tools/export_model.py results/best.pdparams model.onnx --to onnx",
    )
    text = "checkpoint to read (default: results/best.pdparams)"
    best = Path("results/best.pdparams")
    parser.add_argument("source_path", type=Path, nargs="?", default=best, help=text)
    text = "file to write, a folder for inference; default: beside source_path, with the ending .pth, .onnx "
    text += "or _inference"
    parser.add_argument("target_path", type=Path, nargs="?", help=text)
    text = "torch: a .pth for 3D-ResNets-PyTorch; onnx: needs paddle2onnx; inference: for Paddle Inference"
    parser.add_argument("--to", choices=EXPORTS, required=True, help=text)
    parser.option("no_verify", False, Kind(bool, help="do not run clips through both networks"))
    return parser.parse(argv)


def train_options(argv=None):
    """Parse the command line of `train.py`.

    `given` holds what decides the result, a `Given`; the other options are plain.
    """
    parser = Parser(
        "Train or fine-tune a network on the training subset; the defaults are the published recipe.",
        "  python train.py\n"
        "  python train.py --resume_path results\n"
        "  python train.py --pretrain_path none --model_depth 18 --learning_rate 0.1\n"
        f"  {LAUNCH} train.py",
    )
    frames(parser)
    parser.begin("run")
    text = f"settings of a published training; an option beside it counts more; default: {DEFAULT_RECIPE}"
    recipe = Kind(str, choices=tuple(recipe_names()), help=text, metavar="NAME")
    parser.option("recipe", None, recipe, is_given=True)
    text = "list the recipes: what each sets, where it is written, the published accuracy"
    parser.group.add_argument("--recipes", action=PrintAndExit, const=described, help=text)
    parser.group.add_argument(
        "--pretrain_path",
        type=lambda text: None if text == "none" else Path(text),
        default=Path("weights/r3d50_KM_200ep.pdparams"),
        help="converted weights to start from, or none (default: weights/r3d50_KM_200ep.pdparams)",
    )
    text = "a run to continue: its folder, for the newest checkpoint, or results/save_<epoch>.pdparams"
    parser.path("resume_path", None, text)
    for name, default, low, text in (
        ("checkpoint", 1, 1, "epochs between two checkpoints"),
        ("checkpoint_steps", 0, 0, "steps between two checkpoints inside an epoch, 0 for none"),
        ("keep", 3, 1, "checkpoints to keep; older ones are deleted, the best never"),
    ):
        parser.option(name, default, Kind(int, low, help=text))
    text = f"what may be faster on a GPU (python tools/gpu_check.py times each), of {', '.join(SPEEDUPS)}"
    parser.option("speedups", (), Kind(str, choices=SPEEDUPS, many=True, metavar="WORD", help=text))
    text = "also log the curves to <result_path>/visualdl; needs the package visualdl"
    parser.option("visualdl", False, Kind(bool, help=text))
    network(parser)
    parser.spec(ClipSpec)
    normalisation(parser)
    parser.spec(Recipe)
    options = parser.parse(argv)
    options.given = given(options)
    return options


def _scored(parser, protocol_names=None, networks="checkpoint, or converted weights"):
    parser.begin("inference")
    text = f"{networks}; it decides network, clip size and normalisation"
    parser.path("resume_path", "results/best.pdparams", text)
    parser.spec(Protocol, protocol_names)


def test_options(argv=None):
    """Parse the command line of `test.py`; `protocol` is typed."""
    parser = Parser(
        "Score every video of a subset: softmax of each clip, averaged over the video.",
        "  python test.py\n"
        "  python test.py --resume_path results/save_20.pdparams\n"
        "  python test.py --features features.npz\n"
        f"  {LAUNCH} test.py",
    )
    frames(parser)
    _scored(parser)
    parser.begin("inference")
    subset = "subset to score; names the file written, <result_path>/val.json"
    parser.option("inference_subset", "val", Kind(str, choices=("train", "val", "test"), help=subset))
    text = "write the vector before the last layer of each clip and each video to this file, and nothing else"
    parser.group.add_argument("--features", type=file_ending(".npz"), metavar="OUT.npz", help=text)
    text = "also write what the network looks at in the N surest mistakes, for the report; 0 for none"
    parser.option("cam", 0, Kind(int, 0, metavar="N", help=text))
    parser.group.add_argument("--video", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse(argv)
    if options.video is not None:
        named = " ".join(map(str, options.video)) or "video.mp4"
        parser.error(f"--video is now a tool of its own: python tools/predict.py {named}")
    options.protocol = Protocol.of(take_given(options, Protocol.kinds()))
    if options.cam and (options.features or options.protocol.inference_no_average):
        parser.error("--cam needs the labels of videos: no --features or --inference_no_average with it")
    if options.cam and options.protocol.inference_crop == "three":
        parser.error("--cam is of one crop of a video: no --inference_crop three with it")
    if options.features and options.protocol.inference_no_average:
        parser.error("--features writes the vectors of clips and videos: no --inference_no_average with it")
    return options


def predict_options(argv=None):
    """Parse the command line of `tools/predict.py`; `protocol` is typed."""
    parser = Parser(
        "Label videos of your own straight from their files: no frames on disk, no annotation.",
        "  python tools/predict.py video.mp4\n"
        "  python tools/predict.py video.mp4 --timeline --render labelled.mp4\n"
        "  python tools/predict.py video.mp4 --render labelled.mp4 --cam\n"
        "  python tools/predict.py holiday --json\n"
        "  python tools/predict.py holiday --features features.npz",
    )
    parser.add_argument(
        "videos",
        type=lambda text: text if text == "-" else Path(text),
        nargs="+",
        metavar="PATH",
        help="video files; folders, with all files in them and below that end in "
        f"{' '.join(VIDEO_SUFFIXES)} and are not hidden; - for a list on stdin, a path a line. A name that "
        "begins with a dash is ./-name",
    )
    names = ("inference_stride", "inference_crop", "output_topk", "inference_batch_size")
    _scored(parser, names, "checkpoint, converted weights, or a model of tools/export_model.py")
    parser.begin("output")
    for name, text in (
        ("timeline", "also the best label of each second"),
        ("json", "print a line of JSON for each video"),
        ("cam", "with --render: draw in what the network looks at"),
    ):
        parser.option(name, False, Kind(bool, help=text))
    for name, suffix, text in (
        ("render", ".mp4", "also write the one video with its best label at each time drawn in; no sound"),
        ("cam_maps", ".npz", "also write what the network looks at in the clips of the one video"),
        ("features", ".npz", "write the vector before the last layer of each clip and video, and no labels"),
    ):
        parser.group.add_argument(f"--{name}", type=file_ending(suffix), metavar=f"OUT{suffix}", help=text)
    text = "frames a second to resample to; default: the video's own, unless it is far from the training's"
    parser.option("fps", None, Kind(float, 0, above=True, help=text))
    time_limit(parser, "seconds that the decoding of one video may take")
    options = parser.parse(argv)
    for name in ("render", "cam_maps"):
        if getattr(options, name) and (len(options.videos) > 1 or "-" in options.videos):
            parser.error(f"--{name} writes one file: give it exactly one video")
    if options.cam and not options.render:
        parser.error("--cam draws into a video: --render OUT.mp4 with it; for numbers --cam_maps OUT.npz")
    if options.features and (options.timeline or options.json or options.render or options.cam_maps):
        parser.error("--features writes features only: no --timeline, --json, --render or --cam_maps with it")
    options.protocol = Protocol.of(take_given(options, Protocol.kinds()))
    if (options.cam or options.cam_maps) and options.protocol.inference_crop == "three":
        parser.error("--cam is of one crop of a video: no --inference_crop three with it")
    return options


def eval_options(argv=None):
    """Parse the command line of `eval_accuracy.py`."""
    parser = Parser(
        "Compute the top-k accuracy of a results file, report on it, compare it with another. Needs no "
        "Paddle.",
        "  python eval_accuracy.py dataset/ucf101_01.json results/val.json -k 1 --subset validation\n"
        "  python eval_accuracy.py --report\n"
        "  python eval_accuracy.py --compare earlier/val.json\n"
        "  python eval_accuracy.py --fuse flow/val.json",
    )
    for name, default, text in (
        ("ground_truth_path", "dataset/ucf101_01.json", "annotation file"),
        ("result_path", "results/val.json", "results file of test.py"),
    ):
        text = with_default(text, default)
        parser.add_argument(name, type=Path, nargs="?", default=Path(default), help=text)
    parser.option("k", 1, Kind(int, 1, help="labels of a video that may hold the right one"))
    subsets = Kind(str, choices=("training", "validation", "testing"), help="subset of the annotation")
    parser.option("subset", "validation", subsets)
    for name, text in (
        ("ignore", "leave videos without a result out of the count, instead of counting them as wrong"),
        ("mean_class", "also print the mean of the classes' accuracies: each class counts alike"),
        ("save", "also write top<k>.txt and top<k>_mean_class.txt beside the results"),
        ("report", "also write the page report.html beside the results"),
    ):
        parser.option(name, False, Kind(bool, help=text))
    parser.path("video_path", "dataset/UCF-101-jpg", "folder of frames, for the pictures in the report")
    text = "another results file of the same videos: print what is gained and lost against it"
    parser.path("compare", None, text, metavar="RESULT_PATH")
    text = "another results file of the same videos: also print the accuracy of the mean of both scores"
    parser.path("fuse", None, text, metavar="RESULT_PATH")
    return parser.parse(argv)


def summarise_options(argv=None):
    """Parse the command line of `tools/summarise_runs.py`."""
    parser = Parser(
        "Print the accuracies of several runs, of other splits or seeds, and their mean. Needs no Paddle.",
        "  python tools/summarise_runs.py results/split1_seed1 results/split2_seed1",
    )
    text = "folders that test.py wrote val.json to"
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=text)
    return parser.parse(argv)
