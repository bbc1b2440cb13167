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

from opts import UserError, progress_bar, run, train_options, write_file

if __name__ == "__main__":
    OPTIONS = train_options()  # before Paddle, so that --help answers at once

import numpy as np
import paddle
import paddle.nn.functional as F

from datasets.annotation import read_annotation
from datasets.clips import ClipLoader, TrainingClips, WindowClips, normalise
from datasets.frames import check_frames
from model.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint, saved_checkpoints
from model.engine import prepare_device
from model.resnet3d import ResNet3D
from model.training import (
    build_optimizer,
    build_scheduler,
    load_velocity,
    train_from,
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


def training_loss(logits, labels, options, mix=None):
    """Return the mean cross entropy of a batch, a 0-D Tensor; `mix` is `mixup`'s `(order, weight)`."""
    loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    if mix is None:
        return loss
    order, weight = mix
    other = F.cross_entropy(
        logits, paddle.gather(labels, order), label_smoothing=options.label_smoothing
    )
    return weight * loss + (1 - weight) * other


def mixup(clips, alpha, seed):
    """Blend each clip with another one of the batch; return the clips and `(order, weight)`.

    Paper: Zhang et al., "mixup", arXiv:1710.09412. One weight a batch.
    """
    rng = np.random.default_rng(seed)
    weight = rng.beta(alpha, alpha)
    order = paddle.to_tensor(rng.permutation(clips.shape[0]))
    return weight * clips + (1 - weight) * paddle.gather(clips, order), (order, weight)


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
        with paddle.amp.auto_cast(enable=options.amp == "O1", level="O1"):
            logits = net(clips)
        loss = training_loss(logits.astype("float32"), targets, options, mix)
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
            f"loss {float(loss):.3f} clip acc {correct / n:.3f} step {seconds:.2f}s "
            f"data {waited:.2f}s {n / seconds:.1f} clips/s",
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
    """Return the error that stops a run whose loss is no number any more."""
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


def check_same_run(path, run_facts, options, n_videos):
    """Raise UserError where a resumed run would not go on as it was started."""
    if "options" not in run_facts:
        raise UserError(f"{path}: weights only, nothing to resume; start from them: --pretrain_path {path}")
    now = comparable(options)
    for name, was in run_facts["options"].items():
        if now.get(name) != was:
            raise UserError(f"{path}: the run was started with --{name} {was}, not {now.get(name)}")
    if run_facts["n_videos"] != n_videos:
        raise UserError(
            f"{path}: the run was started on {run_facts['n_videos']} training videos, "
            f"{options.annotation_path} has {n_videos}"
        )


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


def main(options):
    device = prepare_device()
    if options.amp == "O1" and device == "cpu":
        raise UserError("--amp O1 computes in float16, which needs a GPU; leave it off on a CPU")
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

    log_path = options.result_path / "train.jsonl"
    if options.resume_path is None and list(options.result_path.glob("*.pdparams")):
        raise UserError(
            f"{options.result_path}: holds a run already; go on with it by --resume_path "
            f"{options.result_path}, or give another --result_path"
        )
    net, model = build_network(options, len(annotation.labels))
    n_epochs_done, best = 0, {"epoch": 0, "val_clip_accuracy": -1.0, "val_loss": math.inf}
    scheduler = build_scheduler(
        options.lr_scheduler,
        options.learning_rate,
        plateau_patience=options.plateau_patience,
        milestones=options.multistep_milestones,
    )
    begin = options.ft_begin_module
    if begin is None:
        begin = "" if options.pretrain_path is None else "layer4"
    trained = train_from(net, begin)
    optimizer = build_optimizer(
        trained, scheduler, options.momentum, options.weight_decay, options.nesterov
    )
    scaler = paddle.amp.GradScaler(enable=options.amp == "O1")
    if options.resume_path is not None:
        resume_path = newest_checkpoint(options.resume_path)
        checkpoint = load_checkpoint(resume_path)
        run_facts = checkpoint.facts.get("run", {})
        check_same_run(resume_path, run_facts, options, len(training))
        load_weights(net, checkpoint.weights)
        load_velocity(optimizer, trained, checkpoint.velocity)
        scheduler.set_state_dict(run_facts["scheduler"])
        if run_facts["scaler"]:
            scaler.load_state_dict({k: np.array(v, "float32") for k, v in run_facts["scaler"].items()})
        n_epochs_done, best = run_facts["epoch"], run_facts["best"]

    clip_arguments = (options.sample_size, options.sample_duration, options.sample_t_stride)
    training_clips = TrainingClips(
        options.video_path,
        training,
        *clip_arguments,
        manual_seed=options.manual_seed,
        train_crop=options.train_crop,
        train_crop_min_scale=options.train_crop_min_scale,
        train_crop_min_ratio=options.train_crop_min_ratio,
        hflip=not options.no_hflip,
        train_t_crop=options.train_t_crop,
    )
    validation_clips = WindowClips(
        options.video_path, validation, *clip_arguments, windows=("even", options.n_val_samples)
    )
    training_labels = paddle.to_tensor([video.label for video in training])
    validation_labels = paddle.to_tensor([video.label for video in validation])

    header = run_header(options, net, len(training), len(validation_clips), device)
    append_log(log_path, header, until_epoch=n_epochs_done)  # a run that saved nothing starts anew
    print(
        f"{len(training)} training videos, {len(validation_clips)} validation clips, "
        f"{len(annotation.labels)} classes; ResNet3D-{model.get('model_depth', 50)} with "
        f"{count_parameters(net):,} parameters, training {begin or 'everything'} on; {device}"
    )
    input_facts = {
        "sample_size": options.sample_size,
        "sample_duration": options.sample_duration,
        "sample_t_stride": options.sample_t_stride,
        "mean_dataset": options.mean_dataset,
    }
    notice = lambda text: print(f"note: {text}", file=sys.stderr)
    for epoch in range(n_epochs_done + 1, options.n_epochs + 1):
        batches = training_clips.batches(epoch, options.batch_size)
        loader = ClipLoader(training_clips, batches, options.n_threads, notice)
        entry = {"epoch": epoch, "learning_rate": optimizer.get_lr()}
        entry.update(train_epoch(net, optimizer, scaler, loader, training_labels, epoch, options))
        batches = validation_clips.batches(options.batch_size)
        loader = ClipLoader(validation_clips, batches, options.n_threads, notice)
        loss, accuracy = validate(net, loader, validation_labels, options.mean_dataset)
        check_finite(net, loss, epoch, entry["learning_rate"])
        entry.update(val_loss=loss, val_clip_accuracy=accuracy)
        scheduler.step(loss) if options.lr_scheduler == "plateau" else scheduler.step()

        is_best = (accuracy, -loss) > (best["val_clip_accuracy"], -best["val_loss"])
        if is_best:
            best = {"epoch": epoch, "val_clip_accuracy": accuracy, "val_loss": loss}
        facts = {"model": model, "input": input_facts, "class_names": annotation.labels, "best": best}
        if is_best:
            save_checkpoint(options.result_path / "best.pdparams", weights_of(net), facts)
        if epoch % options.checkpoint == 0 or epoch == options.n_epochs:
            facts["run"] = {
                "epoch": epoch,
                "best": best,
                "options": comparable(options),
                "n_videos": len(training),
                "scheduler": scheduler.state_dict(),
                "scaler": {k: np.asarray(v).tolist() for k, v in scaler.state_dict().items()},
            }
            velocity = velocity_of(optimizer, trained)
            path = options.result_path / f"save_{epoch}.pdparams"
            save_checkpoint(path, weights_of(net), facts, velocity)
            for old in saved_checkpoints(options.result_path)[: -options.keep]:
                old.unlink()
        append_log(log_path, entry)
        print(
            f"epoch {epoch}: train loss {entry['train_loss']:.4f} clip accuracy "
            f"{entry['train_clip_accuracy']:.4f}, validation loss {loss:.4f} clip accuracy "
            f"{accuracy:.4f}{' (best)' if is_best else ''}",
            flush=True,
        )
    print(
        f"best validation clip accuracy {best['val_clip_accuracy']:.4f} in epoch {best['epoch']}: "
        f"{options.result_path / 'best.pdparams'}"
    )


if __name__ == "__main__":
    run(main, OPTIONS)
