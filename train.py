"""Stage 3: fine-tune a ResNet3D on frames; the defaults are the published recipe for UCF-101.

    python train.py

starts from weights/r3d50_KM_200ep.pdparams and writes to results/: best.pdparams (the epoch with
the highest validation clip accuracy), save_<epoch>.pdparams (to resume from) and train.jsonl (a
header, then a line an epoch). Each step shows loss, clip accuracy, step time, data wait and clips/s.
"""
import json
import math
import subprocess
import sys
import time
from pathlib import Path

from opts import UserError, note, progress_bar, run, train_options, write_file

if __name__ == "__main__":
    OPTIONS = train_options()  # before Paddle, so that --help answers at once

import numpy as np
import paddle
import paddle.nn.functional as F

from datasets.annotation import read_annotation
from datasets.clips import ClipLoader, TrainingClips, WindowClips, normalise
from datasets.frames import check_frames
from model.checkpoint import (
    DEFAULT_INPUT,
    epoch_of,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    saved_checkpoints,
)
from model.engine import prepare_device
from model.resnet3d import ResNet3D
from model.training import (
    build_optimizer,
    build_scheduler,
    load_velocity,
    mixup,
    train_from,
    training_loss,
    velocity_of,
)
from model.weights import count_parameters, load_weights, weights_of

# What a resumed run may change; everything else has to be as the run was started with.
MAY_CHANGE = {
    "root_path",
    "video_path",
    "annotation_path",
    "result_path",
    "pretrain_path",
    "resume_path",
    "n_threads",
    "n_epochs",
    "checkpoint",
    "keep",
}


def build_network(options, n_classes):
    """Return the network to train and the facts that its checkpoints carry.

    Pretrained weights decide the architecture; an option that contradicts them is an error.
    """
    asked = {
        "model_depth": options.model_depth,
        "resnet_shortcut": options.resnet_shortcut,
        "resnet_widen_factor": options.resnet_widen_factor,
        "conv1_t_size": options.conv1_t_size,
        "conv1_t_stride": options.conv1_t_stride,
        "no_max_pool": options.no_max_pool or None,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    weights = None
    if options.pretrain_path is None:
        model = {**asked, "n_classes": n_classes}
    else:
        weights, facts, _ = load_checkpoint(options.pretrain_path)
        model = {**facts["model"], "n_classes": n_classes}
        for name, value in asked.items():
            if model[name] != value:
                raise UserError(
                    f"{options.pretrain_path}: weights with {name} {model[name]}, "
                    f"--{name} asks for {value}; leave the option out or give other weights"
                )
    paddle.seed(options.manual_seed)
    net = ResNet3D(**model)
    if weights is not None:
        try:
            load_weights(net, weights, except_fc=True)
        except UserError as error:
            raise UserError(f"{options.pretrain_path}: {error}") from None
    return net, model


def train_epoch(net, optimizer, scaler, loader, labels, epoch, options):
    """Take one step for each batch; return the epoch's means as a dictionary for the log."""
    net.train()
    total_loss, n_correct, n_clips, data_seconds = 0.0, 0, 0, 0.0
    start = before_data = time.perf_counter()
    fits_80_columns = "{desc} {n_fmt}/{total_fmt} {remaining}{postfix}"
    bar = progress_bar(total=len(loader), desc=f"epoch {epoch}", bar_format=fits_80_columns)
    for step, (clips_thwc, indices) in enumerate(loader, start=1):
        waited = time.perf_counter() - before_data
        clips = normalise(clips_thwc, options.mean_dataset)
        targets = paddle.gather(labels, indices)
        mix = None
        if options.mixup_alpha > 0:
            clips, mix = mixup(clips, options.mixup_alpha, [options.manual_seed, epoch, step])
        with paddle.amp.auto_cast(options.amp == "O1", custom_white_list={"conv3d"}, level="O1"):
            logits = net(clips)
        loss = training_loss(logits.astype("float32"), targets, options.label_smoothing, mix)
        if not math.isfinite(float(loss)):
            raise not_finite(float(loss), epoch, step, optimizer.get_lr(), loader.dataset, indices)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad()

        correct = int((logits.argmax(axis=1) == targets).sum())
        n = len(targets)
        total_loss, n_correct, n_clips = total_loss + float(loss) * n, n_correct + correct, n_clips + n
        data_seconds += waited
        seconds = time.perf_counter() - before_data
        bar.set_postfix_str(
            f"loss {float(loss):.3f} clip acc {correct / n:.3f} step {seconds:.2g}s "
            f"data {waited:.2g}s {n / seconds:.3g} clips/s",
            refresh=False,
        )
        bar.update()
        before_data = time.perf_counter()
    bar.close()
    seconds = time.perf_counter() - start
    return {
        "train_loss": total_loss / n_clips,
        "train_clip_accuracy": n_correct / n_clips,
        "train_seconds": round(seconds, 3),
        "data_seconds": round(data_seconds, 3),
        "clips_per_second": round(n_clips / seconds, 3),
    }


def not_finite(loss, epoch, step, rate, dataset, indices):
    """Return the error that stops a run whose loss is no longer finite."""
    names = [dataset.videos[index].name for index in indices.numpy().tolist()]
    return UserError(
        f"the loss is {loss} in epoch {epoch}, step {step}, at learning rate {rate:g}; the last "
        f"checkpoint is untouched. Try a lower --learning_rate. Videos of the batch: {', '.join(names)}"
    )


@paddle.no_grad()
def validate(net, loader, labels, mean_dataset):
    """Return the mean loss and the clip accuracy over all clips, in eval mode."""
    net.eval()
    total_loss, n_correct, n_clips = 0.0, 0, 0
    with progress_bar(total=len(loader), unit="batch", desc="validation", leave=False) as bar:
        for clips_thwc, indices in loader:
            logits = net(normalise(clips_thwc, mean_dataset))
            targets = paddle.gather(labels, indices)
            total_loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            n_correct += int((logits.argmax(axis=1) == targets).sum())
            n_clips += len(targets)
            bar.update()
    return total_loss / n_clips, n_correct / n_clips


def check_finite(net, val_loss, epoch, rate):
    """Raise UserError where an epoch left numbers that no checkpoint should hold."""
    names = [name for name, array in weights_of(net).items() if not np.isfinite(array).all()]
    if names or not math.isfinite(val_loss):
        what = f"{names[0]} is not finite" if names else f"the validation loss is {val_loss}"
        raise UserError(
            f"{what} after epoch {epoch} at learning rate {rate:g}; the last checkpoint is untouched. "
            "Try a lower --learning_rate"
        )


def comparable(options):
    """Return the options that decide the result, as JSON holds them."""
    return {name: value for name, value in vars(options).items() if name not in MAY_CHANGE}


class TrainingState:
    """What changes while a network trains, and how it is kept: the network, its optimiser, the best."""

    def __init__(self, options, annotation):
        self.options = options
        self.class_names = annotation.labels
        self.n_videos = len(annotation.videos["training"])
        resumed = None
        if options.resume_path is not None:
            path = newest_checkpoint(options.resume_path)
            resumed = load_checkpoint(path)
            self._check_same_run(path, resumed.facts)
            self.model = resumed.facts["model"]
            self.net = ResNet3D(**self.model)
        else:
            self.net, self.model = build_network(options, len(annotation.labels))
        self.begin = options.ft_begin_module
        if resumed is not None:
            self.begin = resumed.facts["run"]["ft_begin_module"]
        elif self.begin is None:
            self.begin = "" if options.pretrain_path is None else "layer4"
        self.trained = train_from(self.net, self.begin)
        self.scheduler = build_scheduler(
            options.lr_scheduler,
            options.learning_rate,
            plateau_patience=options.plateau_patience,
            milestones=options.multistep_milestones,
        )
        self.optimizer = build_optimizer(
            self.trained, self.scheduler, options.momentum, options.weight_decay, options.nesterov
        )
        self.scaler = paddle.amp.GradScaler(enable=options.amp == "O1")
        self.epoch = 0
        self.best = {"epoch": 0, "val_clip_accuracy": -1.0, "val_loss": math.inf}
        if resumed is not None:
            try:
                self._resume(path, resumed)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None

    def _check_same_run(self, path, facts):
        """Raise UserError where going on from a checkpoint would not be the run it belongs to."""
        kept, options = facts.get("run"), self.options
        if kept is None:
            raise UserError(
                f"{path}: weights only, nothing to resume; start from them: --pretrain_path {path}"
            )
        now = comparable(options)
        for name, was in kept["options"].items():
            if now.get(name) != was:
                raise UserError(f"{path}: the run was started with --{name} {was}, not {now.get(name)}")
        if kept["n_videos"] != self.n_videos or facts["class_names"] != self.class_names:
            raise UserError(
                f"{path}: the run was started on {kept['n_videos']} training videos of "
                f"{len(facts['class_names'])} classes, not on those of {options.annotation_path}"
            )
        later = [p.name for p in saved_checkpoints(options.result_path) if epoch_of(p) > kept["epoch"]]
        if later:
            raise UserError(
                f"{options.result_path}: holds {later[-1]}, which is later than {path.name}; delete what "
                "is later to go on from there, or give another --result_path"
            )

    def _resume(self, path, checkpoint):
        """Take over the checkpoint's state, and the best so far into the run's folder."""
        kept = checkpoint.facts["run"]
        load_weights(self.net, checkpoint.weights)
        load_velocity(self.optimizer, self.trained, checkpoint.velocity)
        self.scheduler.set_state_dict(kept["scheduler"])
        if kept["scaler"]:
            self.scaler.load_state_dict(kept["scaler"])
        self.epoch, self.best = kept["epoch"], kept["best"]
        best_path = self.options.result_path / "best.pdparams"
        if not best_path.exists():  # the run goes on in another folder
            write_file(best_path, (path.parent / best_path.name).read_bytes())
        # A run killed between the two files has a best that is newer than its checkpoint.
        newer = load_checkpoint(best_path).facts.get("best", self.best)
        if newer["val_clip_accuracy"] > self.best["val_clip_accuracy"]:
            self.best = newer

    def end_epoch(self, val_loss, val_clip_accuracy):
        """Move the schedule, keep the best and the epoch's checkpoint; return whether it is the best."""
        options = self.options
        self.epoch += 1
        self.scheduler.step(*[val_loss] if options.lr_scheduler == "plateau" else [])
        best = (self.best["val_clip_accuracy"], -self.best["val_loss"])
        is_best = (val_clip_accuracy, -val_loss) > best
        if is_best:
            self.best = {
                "epoch": self.epoch,
                "val_clip_accuracy": val_clip_accuracy,
                "val_loss": val_loss,
            }
        weights = weights_of(self.net)
        facts = {
            "model": self.model,
            "input": {name: getattr(options, name) for name in DEFAULT_INPUT},
            "class_names": self.class_names,
            "best": self.best,
        }
        if is_best:
            save_checkpoint(options.result_path / "best.pdparams", weights, facts)
        if self.epoch % options.checkpoint == 0 or self.epoch == options.n_epochs:
            facts["run"] = {
                "epoch": self.epoch,
                "best": self.best,
                "ft_begin_module": self.begin,
                "options": comparable(options),
                "n_videos": self.n_videos,
                "scheduler": self.scheduler.state_dict(),
                "scaler": {k: np.asarray(v).tolist() for k, v in self.scaler.state_dict().items()},
            }
            path = options.result_path / f"save_{self.epoch}.pdparams"
            save_checkpoint(path, weights, facts, velocity_of(self.optimizer, self.trained))
            for old in saved_checkpoints(options.result_path)[: -options.keep]:
                old.unlink()
        return is_best


def run_header(options, net, n_videos, n_val_clips, device):
    """Return what a reader of the log needs to run the same again; nothing of the environment."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "command": sys.argv,
        "git": git.stdout.strip() or None,
        "python": sys.version.split()[0],
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "device": device,
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
        "n_training_videos": n_videos,
        "n_validation_clips": n_val_clips,
        "n_parameters": count_parameters(net),
    }


def append_log(path, entry, until_epoch=None):
    """Append a JSON line; with `until_epoch`, first drop the epochs that a resumed run redoes."""
    lines = path.read_text().splitlines() if path.exists() else []
    if until_epoch is not None:
        lines = [line for line in lines if json.loads(line).get("epoch", 0) <= until_epoch]
    write_file(path, "\n".join([*lines, json.dumps(entry)]) + "\n")


def read_data(options):
    """Read the annotation and check it against the frames and the batch size."""
    annotation = read_annotation(options.annotation_path)
    training, validation = annotation.videos["training"], annotation.videos["validation"]
    for subset, videos in (("training", training), ("validation", validation)):
        if not videos:
            raise UserError(f"{options.annotation_path}: no video of the subset {subset}")
    if len(training) < options.batch_size:
        raise UserError(
            f"{options.annotation_path}: {len(training)} training videos are fewer than a batch; "
            f"use --batch_size {len(training)} or less"
        )
    check_frames(options.video_path, training + validation)
    return annotation


def make_clips(options, annotation):
    """Return the datasets of training and of validation clips."""
    arguments = (options.sample_size, options.sample_duration, options.sample_t_stride)
    training = TrainingClips(
        options.video_path,
        annotation.videos["training"],
        *arguments,
        manual_seed=options.manual_seed,
        train_crop=options.train_crop,
        train_crop_min_scale=options.train_crop_min_scale,
        train_crop_min_ratio=options.train_crop_min_ratio,
        hflip=not options.no_hflip,
        train_t_crop=options.train_t_crop,
    )
    windows = ("even", options.n_val_samples)
    videos = annotation.videos["validation"]
    return training, WindowClips(options.video_path, videos, *arguments, windows=windows)


def main(options):
    device = prepare_device()
    if options.amp == "O1" and device == "cpu":
        raise UserError("--amp O1 computes in float16, which needs a GPU; leave it off on a CPU")
    annotation = read_data(options)
    if options.resume_path is None and list(options.result_path.glob("*.pdparams")):
        raise UserError(
            f"{options.result_path}: holds a run already; go on with it by --resume_path "
            f"{options.result_path}, or give another --result_path"
        )
    training_clips, validation_clips = make_clips(options, annotation)
    training_labels = paddle.to_tensor([video.label for video in training_clips.videos])
    validation_labels = paddle.to_tensor([video.label for video in validation_clips.videos])
    state = TrainingState(options, annotation)

    log_path = options.result_path / "train.jsonl"
    header = run_header(options, state.net, len(training_clips), len(validation_clips), device)
    append_log(log_path, header, until_epoch=state.epoch)  # a run that saved nothing starts anew
    print(
        f"{len(training_clips)} training videos, {len(validation_clips)} validation clips, "
        f"{len(annotation.labels)} classes; ResNet3D-{state.net.model_depth} with "
        f"{count_parameters(state.net):,} parameters, training {state.begin or 'everything'} on; {device}"
    )
    for epoch in range(state.epoch + 1, options.n_epochs + 1):
        entry = {"epoch": epoch, "learning_rate": state.optimizer.get_lr()}
        batches = training_clips.batches(epoch, options.batch_size)
        loader = ClipLoader(training_clips, batches, options.n_threads, note)
        entry.update(
            train_epoch(state.net, state.optimizer, state.scaler, loader, training_labels, epoch, options)
        )
        batches = validation_clips.batches(options.batch_size)
        loader = ClipLoader(validation_clips, batches, options.n_threads, note)
        loss, accuracy = validate(state.net, loader, validation_labels, options.mean_dataset)
        check_finite(state.net, loss, epoch, entry["learning_rate"])
        entry.update(val_loss=loss, val_clip_accuracy=accuracy)
        append_log(log_path, entry)
        is_best = state.end_epoch(loss, accuracy)
        print(
            f"epoch {epoch}: train loss {entry['train_loss']:.4f} clip accuracy "
            f"{entry['train_clip_accuracy']:.4f}, validation loss {loss:.4f} clip accuracy "
            f"{accuracy:.4f}{' (best)' if is_best else ''}",
            flush=True,
        )
    print(
        f"best validation clip accuracy {state.best['val_clip_accuracy']:.4f} in epoch "
        f"{state.best['epoch']}: {options.result_path / 'best.pdparams'}"
    )


if __name__ == "__main__":
    run(main, OPTIONS)
