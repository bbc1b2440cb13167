"""Make the golden files again by running the reference itself on a CPU, and compare them with those here.

    python tests/golden/make_golden.py ../master ../CVPR2018 ../work --reference_path ../reference

There is one checkout for each branch of the reference; `reference_code.py` sees by its files which it is.
`--reference_path` holds `ucf101_01.json` and `frames/<video>/image_00001.jpg`..., made by ffmpeg at its
default quality. Needs torch and, for the files from frames, torchvision; neither our code nor Paddle.
Files whose checkout or frames are not given are left as they are. For each file a line says how far it is
from the one beside this script; without `--out_path` it takes that one's place.
"""
import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import seeded
import torch_sgd
from cases import (
    COUNTS,
    FAMILY,
    FAMILY_SHAPES,
    FIXED_OPTIONS,
    LENGTHS,
    LOGITS,
    SHAPES,
    TRAINING,
    VIDEOS,
)
from reference_code import Checkout


class Inputs:
    """The checkouts by their code, and the folder of frames; what is not there raises `Missing`."""

    def __init__(self, paths, reference_path):
        self.checkouts = {checkout.code: checkout for checkout in map(Checkout, paths)}
        self._reference_path = reference_path

    def checkout(self, code):
        if code not in self.checkouts:
            raise Missing(f"no checkout of {code}")
        return self.checkouts[code]

    def reference_path(self):
        if self._reference_path is None:
            raise Missing("no --reference_path with frames")
        return self._reference_path

    def transforms(self):
        try:
            return self.checkout("2020").module("spatial_transforms")
        except ImportError as error:
            raise Missing(f"{error.name} is not installed") from None


class Missing(Exception):
    """A file cannot be made without something that was not given."""


# Each function makes the files of its name: {file name: content}.


def logits(inputs):
    facts, arrays = {}, {}
    for kind, depth, n_classes, seed, clips, options in LOGITS:
        net = inputs.checkout("2020").network(kind, depth, n_classes, **options)
        key = f"{kind}{depth}_c{n_classes}_seed{seed}"
        facts[key], arrays[key], _ = evaluated(net, kind, depth, n_classes, seed, clips, options)
    return {"logits.json": json.dumps(facts, indent=1), "logits.npz": arrays}


def family_logits(inputs):
    facts, arrays = {}, {}
    for kind, depth, code, n_classes, seed, clips, options, scale in FAMILY:
        checkout = inputs.checkout(code)
        net = checkout.network(kind, depth, n_classes, clips[3], clips[2], **options)
        key = f"{kind}{depth}_{code}_c{n_classes}_seed{seed}"
        found, result, clip = evaluated(net, kind, depth, n_classes, seed, clips, options, scale)
        more = {"code": code, "conv_scale": scale, "patches": checkout.patches_of(kind)}
        facts[key], arrays[key] = {**found, **more, **spread(net, clip, result)}, result
    return {"family_logits.json": json.dumps(facts, indent=1), "family_logits.npz": arrays}


def evaluated(net, kind, depth, n_classes, seed, clips, options, scale=1.0):
    """Return the facts, the logits of seeded clips, and these clips, of a network with seeded weights."""
    load_seeded(net, seed, scale)
    net.eval()
    shape = [*clips, clips[3]]
    clip = torch.from_numpy(seeded.clips(1000 + seed, *clips))
    with torch.no_grad():
        result = net(clip).numpy()
    facts = {
        "kind": kind, "depth": depth, "n_classes": n_classes, "seed": seed, "clips": shape,
        "input_seed": 1000 + seed, "options": options, "n_params": n_parameters(net),
    }  # fmt: skip
    return facts, result, clip


def spread(net, clip, result):
    """Return by what a comparison with logits can be judged, to three digits."""
    with torch.no_grad():
        exact = net.double()(clip.double()).numpy()
    largest = np.abs(result).max()
    apart = np.abs(result[0] - result[1]).max() / largest if len(result) > 1 else None
    facts = {
        "max_abs": largest,
        "std": result.std(),
        "clip_difference": apart,
        "top_probability": torch.from_numpy(result).softmax(1).max(),
        "float64_rel_err": np.abs(result - exact).max() / np.abs(exact).max(),
    }
    return {name: value if value is None else float(f"{value:.3g}") for name, value in facts.items()}


def training(inputs):
    runs = [training_run(inputs.checkout("2020"), *run) for run in TRAINING]
    return {"training.json": json.dumps(runs)}


def training_run(checkout, depth, n_before, n_classes, seed, n_steps, batch, clip, begin, rate, fall):
    model, steps = checkout.module("model"), checkout.module("training")
    net = checkout.network("resnet", depth, n_before)
    load_seeded(net, seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "pretrained.pth"
        torch.save({"state_dict": net.state_dict()}, path)
        net = model.load_pretrained_model(net, path, "resnet", n_classes)
    load_seeded(net.fc, seed + 1, prefix="fc.")
    parameters = model.get_fine_tuning_parameters(net, begin)
    sgd = torch.optim.SGD(parameters, lr=rate, momentum=0.9, dampening=0, weight_decay=1e-3, nesterov=False)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(sgd, [fall or n_steps + 1])
    losses = []
    log = types.SimpleNamespace(log=lambda values: losses.append(values["loss"]))
    for step in range(n_steps):
        number = seed * 100 + step
        targets = torch.from_numpy(np.random.RandomState(number).randint(0, n_classes, batch))
        data = [(torch.from_numpy(seeded.clips(number, batch, *clip[:3])), targets)]
        loss = torch.nn.CrossEntropyLoss()
        with contextlib.redirect_stdout(io.StringIO()):
            steps.train_epoch(1, data, net, loss, sgd, torch.device("cpu"), rate, log, None)
        scheduler.step()
    net.eval()
    with torch.no_grad():
        result = net(torch.from_numpy(seeded.clips(seed * 100 + 999, 2, *clip[:3])))
    norms = {n: float(t.double().norm()) for n, t in net.state_dict().items() if not n.endswith("tracked")}
    return {
        "depth": depth, "n_pretrain_classes": n_before, "n_classes": n_classes, "seed": seed,
        "steps": n_steps, "batch": batch, "clip": clip, "ft_begin_module": begin, "lr": rate,
        "momentum": 0.9, "weight_decay": 1e-3, "lr_divided_by_10_at_step": fall, "losses": losses,
        "eval_logits": result.tolist(), "norms": norms,
    }  # fmt: skip


def dampening(inputs):
    return {"dampening.json": json.dumps(torch_sgd.content())}


def temporal_windows(inputs):
    module = inputs.checkout("2020").module("temporal_transforms")
    kinds = {
        "even_16x3": module.TemporalEvenCrop(16, 3),
        "sliding_16_16": module.SlidingWindow(16, 16),
        "sliding_16_8": module.SlidingWindow(16, 8),
        "center_16": lambda frames: [module.TemporalCenterCrop(16)(frames)],
    }
    content = {}
    for length in LENGTHS:
        windows = {kind: of(list(range(1, length + 1))) for kind, of in kinds.items()}
        if length > 100:  # first and last frames tell enough
            windows = {kind: [[w[0], w[-1]] for w in listed] for kind, listed in windows.items()}
        bounds = []
        module.random = types.SimpleNamespace(randint=lambda *both, bounds=bounds: bounds.append(both) or 0)
        module.TemporalRandomCrop(16)(list(range(1, length + 1)))
        (least, most), *_ = bounds
        content[str(length)] = {**windows, "random_16_starts": [least + 1, most + 1, most - least + 1]}
    return {"temporal_windows.json": json.dumps(content)}


def center_crop(inputs):
    transforms = inputs.transforms()
    image = frame(inputs, "v_Archery_g01_c01", 50)
    crop = transforms.Compose([transforms.Resize(112), transforms.CenterCrop(112)])(image)
    return {"center_crop.npz": {"frame50": np.asarray(crop)}}


def inference(inputs):
    checkout, transforms = inputs.checkout("2020"), inputs.transforms()
    classes = json.loads((inputs.reference_path() / "ucf101_01.json").read_text())["labels"]
    mean, std = checkout.module("mean").get_mean_std(1, dataset="kinetics")
    steps = [transforms.Resize(112), transforms.CenterCrop(112), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.ScaleValue(1), transforms.Normalize(mean, std)])
    windows = checkout.module("temporal_transforms").SlidingWindow(16, 16)
    net = checkout.network("resnet", 18, len(classes))
    load_seeded(net, 41)
    batches, n_clips = [], {}
    for video, n_frames in VIDEOS.items():
        frames = [transform(frame(inputs, video, number)) for number in range(1, n_frames + 1)]
        clips = [torch.stack([frames[n] for n in window], 1) for window in windows(list(range(n_frames)))]
        batches.append((torch.stack(clips), [(video, None)] * len(clips)))
        n_clips[video] = len(clips)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "val.json"
        checkout.module("inference").inference(batches, net, path, classes, False, len(classes))
        results = json.loads(path.read_text())["results"]
    videos = {}
    for video, listed in results.items():
        scores = {item["label"]: item["score"] for item in listed}
        videos[video] = {
            "n_frames": VIDEOS[video], "n_clips": n_clips[video],
            "average_scores": [scores[name] for name in classes], "top5": listed[:5],
        }  # fmt: skip
    facts = {"depth": 18, "n_classes": len(classes), "seed": 41, "fc_weight_scale": 1.0}
    facts.update(mean=torch.tensor(mean).tolist(), std=torch.tensor(std).tolist(), videos=videos)
    return {"inference.json": json.dumps(facts)}


def frame(inputs, video, number):
    """Return a frame of a video as the reference's loader opens it."""
    with Image.open(inputs.reference_path() / "frames" / video / f"image_{number:05d}.jpg") as image:
        return image.convert("RGB")


def state_dict_shapes(inputs):
    content = {key: shapes_of(net) for key, net in empty_networks(inputs, SHAPES, 400)}
    return {"state_dict_shapes.json": json.dumps(content)}


def family_state_dict_shapes(inputs):
    lines = []
    for key, net in empty_networks(inputs, FAMILY_SHAPES, 400):
        lines.append(f'"{key}": {json.dumps(shapes_of(net), separators=(",", ":"))}')
    return {"family_state_dict_shapes.json": "{\n" + ",\n".join(lines) + "\n}\n"}


def parameter_counts(inputs):
    counts = {}
    for n_classes in (400, 700, 101):
        for key, net in empty_networks(inputs, COUNTS, n_classes):
            counts.setdefault(key, {})[str(n_classes)] = n_parameters(net)
    lines = [f'"{key}": {json.dumps(content)}' for key, content in counts.items()]
    return {"parameter_counts.json": "{\n" + ",\n".join(lines) + "\n}\n"}


def empty_networks(inputs, table, n_classes):
    """Yield `(key, network)` for a table of networks; their tensors have shapes and no memory."""
    for kind, code, depths, ending in table:
        options = {**FIXED_OPTIONS.get(kind, {}), **({"shortcut_type": "A"} if ending == "_A" else {})}
        for depth in depths:
            with torch.device("meta"):
                net = inputs.checkout(code).network(kind, depth, n_classes, **options)
            yield f"{kind}{depth}{ending}", net


def shapes_of(net):
    return {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def n_parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def load_seeded(net, seed, scale=1.0, prefix=""):
    """Fill a network with the tensors of `seeded.py`, the weights of convolutions times `scale`."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            drawn = seeded.tensor(prefix + name, tuple(tensor.shape), seed)
            tensor.copy_(torch.from_numpy(drawn * np.float32(scale) if drawn.ndim == 5 else drawn))


# Comparison -----------------------------------------------------------------------------------


def difference(made, stored, place=""):
    """Return the largest difference of two contents' numbers, of the largest number of each list, and the
    places that differ otherwise.
    """
    if isinstance(stored, dict) and isinstance(made, dict):
        places = [f"{place}/{key}" for key in stored.keys() ^ made.keys()]
        pairs = [(made[key], stored[key], f"{place}/{key}") for key in stored if key in made]
    elif is_numbers(stored) and is_numbers(made) and np.shape(stored) == np.shape(made):
        largest = np.abs(np.asarray(stored, np.float64)).max(initial=0)
        return np.abs(np.subtract(made, stored, dtype=np.float64)).max(initial=0) / (largest or 1), []
    elif isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        places = []
        pairs = [(*both, f"{place}/{i}") for i, both in enumerate(zip(made, stored))]
    else:
        return 0.0, [] if made == stored else [place]
    found = [difference(*pair) for pair in pairs if not pair[2].endswith("float64_rel_err")]  # noise itself
    return max([0.0, *(n for n, _ in found)]), places + [p for _, listed in found for p in listed]


def is_numbers(value):
    try:
        return np.asarray(value).dtype.kind in "fiu" and not isinstance(value, bool)
    except ValueError:  # lists of different lengths
        return False


def stored_content(path):
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    return json.loads(path.read_text())


FILES = [
    logits, family_logits, training, dampening, temporal_windows, center_crop, inference, state_dict_shapes,
    family_state_dict_shapes, parameter_counts,
]  # fmt: skip


def main():
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("checkouts", nargs="+", type=Path, help="folders with the reference's code")
    parser.add_argument("--reference_path", type=Path, default=os.environ.get("REFERENCE_PATH"))
    parser.add_argument("--out_path", type=Path, default=HERE)
    parser.add_argument("--only", nargs="+", choices=[make.__name__ for make in FILES])
    options = parser.parse_args()
    inputs = Inputs(options.checkouts, options.reference_path and Path(options.reference_path))
    options.out_path.mkdir(parents=True, exist_ok=True)
    for make in FILES:
        if options.only and make.__name__ not in options.only:
            continue
        try:
            files = make(inputs)
        except Missing as missing:
            print(f"{make.__name__}: not made, {missing}")
            continue
        for name, content in files.items():
            made = json.loads(content) if isinstance(content, str) else content
            stored = stored_content(HERE / name) if (HERE / name).exists() else {}
            number, places = difference(made, stored)
            others = f"; {len(places)} other differences: {', '.join(places[:5])}" if places else ""
            print(f"{name}: largest difference {number:.1e}{others}", flush=True)
            if isinstance(content, str):
                (options.out_path / name).write_text(content)
            else:
                np.savez(options.out_path / name, **content)


if __name__ == "__main__":
    main()
