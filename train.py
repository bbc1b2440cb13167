"""Stage 3: fine-tune a ResNet3D on frames; the defaults are the published recipe for UCF-101.

    python train.py

starts from weights/r3d50_KM_200ep.pdparams and writes to results/: best.pdparams (the epoch with
the highest validation clip accuracy), save_<epoch>.pdparams (to resume from), train.jsonl (a
header, then a line an epoch) and curves.png (its picture). Each step shows loss, clip accuracy, step
time, data wait and clips/s.

    python train.py --resume_path results

goes on where a run was ended, by whatever. SIGTERM and Ctrl-C save save_<epoch>_<step>.pdparams first.
On several GPUs: `python -m paddle.distributed.launch --gpus 0,1,2,3 train.py`.
"""
import contextlib
import functools
import math
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

from opts import Stopped, StopSignals, UserError, note, progress_bar, run, train_options, working

if __name__ == "__main__":
    OPTIONS = train_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import paddle

import numpy as np
import paddle
import paddle.nn.functional as F

from datasets.annotation import read_annotation
from datasets.clips import TrainingClips, WindowClips, normalise
from datasets.frames import check_frames
from datasets.loader import ClipLoader
from disk import Journal, only_run, remove_temporaries, require_space, write_file
from model.checkpoint import (
    DEFAULT_INPUT,
    load_checkpoint,
    newest_checkpoint,
    position_of,
    prune_checkpoints,
    save_checkpoint,
    saved_checkpoints,
)
from model.engine import evaluator, prepare_device
from model.ranks import Ranks, sum_step
from model.resnet3d import ResNet3D
from model.sync_batchnorm import synchronise_batchnorms
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
from report import Curves, require_visualdl

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
    "checkpoint_steps",
    "keep",
    "quiet",
    "visualdl",
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


def train_epoch(state, loader, labels, stop):
    """Take the epoch's remaining steps; save and raise Stopped where a signal asks for it.

    Each rank computes its part of every batch; the gradients are those of the whole batch.
    """
    options, ranks, epoch = state.options, state.ranks, state.epoch + 1
    optimizer, scaler = state.optimizer, state.scaler
    state.train_mode()
    fits_80_columns = "{desc} {n_fmt}/{total_fmt} {remaining}{postfix}"
    n_steps = state.step + len(loader)
    bar = progress_bar(
        total=n_steps,
        initial=state.step,
        desc=f"epoch {epoch}",
        bar_format=fits_80_columns,
        disable=not ranks.is_first,
    )
    before_data = time.perf_counter()
    with bar, contextlib.closing(iter(loader)) as batches:
        for step, (clips_thwc, indices) in enumerate(batches, start=state.step + 1):
            waited = time.perf_counter() - before_data
            clips = normalise(clips_thwc, options.mean_dataset)
            targets = paddle.to_tensor(labels[indices])
            mix = None
            if options.mixup_alpha > 0:
                clips, mix = mixup(clips, options.mixup_alpha, [options.manual_seed, epoch, step, ranks.rank])
            with paddle.amp.auto_cast(options.amp == "O1", custom_white_list={"conv3d"}, level="O1"):
                logits = state.logits(clips)
            loss = training_loss(logits.astype("float32"), targets, options.label_smoothing, mix)
            if not math.isfinite(float(loss)):
                raise not_finite(float(loss), epoch, step, optimizer.get_lr(), loader.clips, indices)
            # This rank's clips count for their part of the batch.
            n = state.n_clips_of_step(step)
            scaler.scale(loss * (len(targets) / n)).backward()
            n_correct = int((logits.argmax(axis=1) == targets).sum())
            total_loss, n_correct, signals = sum_step(
                ranks,
                list(state.trained.values()),
                state.statistics,
                [float(loss) * len(targets), n_correct, stop.signum],
            )
            scaler.step(optimizer)
            scaler.update()
            optimizer.clear_grad()

            seconds = time.perf_counter() - before_data
            state.end_step(step, loss=total_loss, correct=n_correct, clips=n, seconds=seconds, waited=waited)
            bar.set_postfix_str(
                f"loss {total_loss / n:.3f} clip acc {n_correct / n:.3f} step {seconds:.2g}s "
                f"data {waited:.2g}s {n / seconds:.3g} clips/s",
                refresh=False,
            )
            bar.update()
            if signals:
                state.save_and_stop(stop)
            if options.checkpoint_steps and step % options.checkpoint_steps == 0 and step < n_steps:
                state.save()
            before_data = time.perf_counter()


def not_finite(loss, epoch, step, rate, dataset, indices):
    """Return the error that stops a run whose loss is no longer finite."""
    names = [dataset.videos[index].name for index in indices.tolist()]
    return UserError(
        f"the loss is {loss} in epoch {epoch}, step {step}, at learning rate {rate:g}; the last "
        f"checkpoint is untouched. Try a lower --learning_rate. Videos of the batch: {', '.join(names)}"
    )


@paddle.no_grad()
def validate(state, loader, n_rounds, labels, stop):
    """Return the mean loss and the clip accuracy over all clips, in eval mode.

    The ranks take whole batches in turn; each clip is counted once.
    """
    ranks, mean_dataset = state.ranks, state.options.mean_dataset
    state.net.eval()
    totals = np.zeros(3)
    bar = progress_bar(
        total=n_rounds, unit="batch", desc="validation", leave=False, disable=not ranks.is_first
    )
    with bar, contextlib.closing(iter(loader)) as batches:
        for _ in range(n_rounds):
            figures = [0.0, 0, 0, stop.signum]
            batch = next(batches, None)  # in the last round, some ranks may have none
            if batch is not None:
                clips_thwc, indices = batch
                logits = state.logits(normalise(clips_thwc, mean_dataset))
                targets = paddle.to_tensor(labels[indices])
                loss = float(F.cross_entropy(logits, targets, reduction="sum"))
                n_correct = int((logits.argmax(axis=1) == targets).sum())
                figures[:3] = loss, n_correct, len(targets)
            *figures, signals = ranks.sum(paddle.to_tensor(figures, "float64")).tolist()
            totals += figures
            if signals:
                state.save_and_stop(stop)
            bar.update()
    loss, n_correct, n_clips = totals.tolist()
    return loss / n_clips, n_correct / n_clips


def check_finite(numbers, when, rate):
    """Raise UserError where training has left numbers, `{name: array}`, that no checkpoint should hold."""
    for name, array in numbers.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{name} is not finite {when} at learning rate {rate:g}; the last checkpoint is untouched. "
                "Try a lower --learning_rate"
            )


def comparable(options):
    """Return the options that decide the result, as JSON holds them."""
    return {name: value for name, value in vars(options).items() if name not in MAY_CHANGE}


class TrainingState:
    """What changes while a network trains, and how it is kept: the network, its optimiser, the best.

    `epoch` counts the finished epochs, `step` the steps taken in the next one, whose sums so far are
    in `sums`.
    """

    def __init__(self, options, annotation, ranks):
        self.options, self.ranks = options, ranks
        self.class_names = annotation.labels
        self.n_videos = len(annotation.videos["training"])
        self.epoch, self.step, self.sums = 0, 0, {}
        self.resumed_velocity = None
        self.best = {"epoch": 0, "val_clip_accuracy": -1.0, "val_loss": math.inf}
        if options.resume_path is None:
            checkpoint = None
            self.net, self.model = build_network(options, len(annotation.labels))
            whole = "" if options.pretrain_path is None else "layer4"
            self.begin = whole if options.ft_begin_module is None else options.ft_begin_module
        else:
            path = newest_checkpoint(options.resume_path)
            checkpoint = load_checkpoint(path)
            self._check_same_run(path, checkpoint.facts)
            self.model, self.begin = checkpoint.facts["model"], checkpoint.facts["run"]["ft_begin_module"]
            self.net = ResNet3D(**self.model)
        if options.freeze_bn and self.begin in ("", "conv1"):
            raise UserError(
                "--freeze_bn: all modules are trained, so none is frozen; leave it out, or give the first "
                "module to train: --ft_begin_module layer4"
            )
        self.trained = train_from(self.net, self.begin)
        if options.batchnorm_sync and ranks.n > 1:
            synchronise_batchnorms(self.net, ranks)
        tensors = self.net.state_dict()
        moving = {name.split(".")[0] for name in (self.trained if options.freeze_bn else tensors)}
        self.statistics = [
            tensor
            for name, tensor in tensors.items()
            if name.endswith(("._mean", "._variance")) and name.split(".")[0] in moving
        ]
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
        if checkpoint is not None:
            try:
                self._resume(path, checkpoint)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
        ranks.require_same("the checkpoint that is resumed", [self.epoch, self.step])
        ranks.spread(tensors.values())
        self._check_space()
        if options.freeze_bn:
            self.trunk, self.head = self.net.split(self.begin)
            self.trunk_features = evaluator(self.trunk, ranks.n_on_this_machine)

    def _check_same_run(self, path, facts):
        """Raise UserError where going on from a checkpoint would not be the run it belongs to."""
        kept, options = facts.get("run"), self.options
        if kept is None:
            raise UserError(
                f"{path}: weights only, nothing to resume; start from them: --pretrain_path {path}"
            )
        now = comparable(options)
        for name in {**kept["options"], **now}:
            was = kept["options"].get(name, False)  # an option that came later was off
            if now.get(name) != was:
                raise UserError(f"{path}: the run was started with --{name} {was}, not {now.get(name)}")
        if kept["n_videos"] != self.n_videos or facts["class_names"] != self.class_names:
            raise UserError(
                f"{path}: the run was started on {kept['n_videos']} training videos of "
                f"{len(facts['class_names'])} classes, not on those of {options.annotation_path}"
            )
        if kept["n_ranks"] != self.ranks.n and not options.batchnorm_sync:
            note(
                f"the run was started with {kept['n_ranks']} processes and goes on with {self.ranks.n}: "
                "the BatchNorms see batches of another size"
            )
        position = (kept["epoch"], math.inf) if kept["step"] == 0 else (kept["epoch"] + 1, kept["step"])
        later = [p.name for p in saved_checkpoints(options.result_path) if position_of(p) > position]
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
        self.resumed_velocity = checkpoint.velocity
        self.scheduler.set_state_dict(kept["scheduler"])
        if kept["scaler"]:
            self.scaler.load_state_dict(kept["scaler"])
        self.epoch, self.step, self.sums = kept["epoch"], kept["step"], kept["sums"]
        self.best = kept["best"]
        if not self.ranks.is_first:
            return
        best_path = self.options.result_path / "best.pdparams"
        source = path.parent / best_path.name
        if not best_path.exists() and source.exists():  # the run goes on in another folder
            write_file(best_path, source.read_bytes())
        if not best_path.exists():
            if self.best["epoch"] == 0:  # stopped inside the first epoch
                return
            raise UserError(f"{source.name} is missing beside it; it holds the best epoch so far")
        # A run killed between the two files has a best that is newer than its checkpoint.
        newer = load_checkpoint(best_path).facts.get("best", self.best)
        if newer["val_clip_accuracy"] > self.best["val_clip_accuracy"]:
            self.best = newer

    def _check_space(self):
        """Raise UserError where the disk cannot hold the checkpoints that the run keeps."""
        if not self.ranks.is_first:
            return
        folder = self.options.result_path
        weights = sum(4 * tensor.size for tensor in self.net.state_dict().values())
        whole = weights + sum(4 * parameter.size for parameter in self.trained.values())
        # Those kept, one inside an epoch, one being written; the best, and a new one being written.
        n_bytes = (self.options.keep + 2) * whole + 2 * weights
        n_there = sum(path.stat().st_size for path in folder.glob("*.pdparams"))
        require_space(folder, n_bytes - n_there, self.options.keep + 4, "the checkpoints")

    def train_mode(self):
        """Put the network in train mode, with `--freeze_bn` the trained part alone."""
        self.net.train()
        if self.options.freeze_bn:
            self.trunk.eval()

    def logits(self, clips):
        """Run clips through the network in its present mode."""
        return self.head(self.trunk_features(clips)) if self.options.freeze_bn else self.net(clips)

    def n_clips_of_step(self, step):
        """Return the clips of a step, all ranks together; the epoch's last may have fewer."""
        return min(self.options.batch_size, self.n_videos - (step - 1) * self.options.batch_size)

    def end_step(self, step, **figures):
        """Count a step and add its figures to the epoch's sums."""
        self.step = step
        self.sums = {name: self.sums.get(name, 0) + value for name, value in figures.items()}

    def means(self):
        """Return the epoch's means as a dictionary for the log."""
        sums = self.sums
        return {
            "train_loss": sums["loss"] / sums["clips"],
            "train_clip_accuracy": sums["correct"] / sums["clips"],
            "train_seconds": round(sums["seconds"], 3),
            "data_seconds": round(sums["waited"], 3),
            "clips_per_second": round(sums["clips"] / sums["seconds"], 3),
        }

    def end_epoch(self, val_loss, val_clip_accuracy):
        """Move the schedule, keep the best and the epoch's checkpoint; return whether it is the best."""
        options = self.options
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.scheduler.step(*[val_loss] if options.lr_scheduler == "plateau" else [])
        best = (self.best["val_clip_accuracy"], -self.best["val_loss"])
        is_best = (val_clip_accuracy, -val_loss) > best
        if is_best:
            self.best = {
                "epoch": self.epoch,
                "val_clip_accuracy": val_clip_accuracy,
                "val_loss": val_loss,
            }
            if self.ranks.is_first:
                path = options.result_path / "best.pdparams"
                with working(f"writing {path.name}"):
                    save_checkpoint(path, weights_of(self.net), self._facts())
        if self.epoch % options.checkpoint == 0 or self.epoch == options.n_epochs:
            self.save()
        return is_best

    def save(self):
        """Write the checkpoint of this moment, the first rank alone, and delete those it replaces."""
        if not self.ranks.is_first:
            return
        facts = self._facts()
        facts["run"] = {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "best": self.best,
            "ft_begin_module": self.begin,
            "options": comparable(self.options),
            "n_videos": self.n_videos,
            "n_ranks": self.ranks.n,
            "scheduler": self.scheduler.state_dict(),
            "scaler": {k: np.asarray(v).tolist() for k, v in self.scaler.state_dict().items()},
        }
        name = f"save_{self.epoch + 1}_{self.step}" if self.step else f"save_{self.epoch}"
        path = self.options.result_path / f"{name}.pdparams"
        weights = weights_of(self.net)
        velocity = velocity_of(self.optimizer, self.trained, self.resumed_velocity)
        check_finite(weights, f"for {path.name}", self.optimizer.get_lr())
        check_finite(velocity, f"in the momentum for {path.name}", self.optimizer.get_lr())
        with working(f"writing {path.name}"):
            save_checkpoint(path, weights, facts, velocity)
        prune_checkpoints(self.options.result_path, self.options.keep)
        return path

    def save_and_stop(self, stop):
        """Write the checkpoint of this moment and raise Stopped."""
        path = self.save()
        self.ranks.gather_objects("saved")  # nobody leaves while the first rank still writes
        raise Stopped(
            stop.signum or signal.SIGTERM,  # a rank that heard nothing leaves with the others
            f"saved {path or 'by rank 0'}; go on with --resume_path {self.options.result_path}",
        )

    def _facts(self):
        return {
            "model": self.model,
            "input": {name: getattr(self.options, name) for name in DEFAULT_INPUT},
            "class_names": self.class_names,
            "fast_decode": self.options.fast_decode,
            "best": self.best,
        }


def run_header(options, state, n_val_clips, device):
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
        "n_ranks": state.ranks.n,
        "n_training_videos": state.n_videos,
        "n_validation_clips": n_val_clips,
        "n_parameters": count_parameters(state.net),
    }


def read_data(options, ranks):
    """Read the annotation and check it against the frames, the batch size and the number of ranks."""
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
    n_last = len(training) % options.batch_size or options.batch_size
    if n_last < ranks.n:
        raise UserError(
            f"the last batch of an epoch has {n_last} of {len(training)} clips, fewer than the {ranks.n} "
            "processes; choose another --batch_size"
        )
    check_frames(options.video_path, training + validation, ranks.is_first)
    return annotation


def holds_a_run(options):
    """Tell whether the results folder has a run that a new one would overwrite.

    A best epoch from before the first checkpoint is what a run leaves that was killed between the two:
    nothing to go on from.
    """
    best_path = options.result_path / "best.pdparams"
    if saved_checkpoints(options.result_path) or not best_path.exists():
        return bool(saved_checkpoints(options.result_path))
    try:
        return load_checkpoint(best_path).facts["best"]["epoch"] > options.checkpoint
    except (UserError, KeyError, TypeError):
        return True


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
        fast_decode=options.fast_decode,
    )
    validation = WindowClips(
        options.video_path,
        annotation.videos["validation"],
        *arguments,
        windows=("even", options.n_val_samples),
        fast_decode=options.fast_decode,
    )
    return training, validation


def main(options):
    with Ranks() as ranks, contextlib.ExitStack() as held:
        device = prepare_device(ranks.n_on_this_machine)
        if options.amp == "O1" and device == "cpu":
            raise UserError("--amp O1 computes in float16, which needs a GPU; leave it off on a CPU")
        if options.visualdl:
            require_visualdl()
        annotation = read_data(options, ranks)
        ranks.require_same(str(options.annotation_path), zlib.crc32(repr(annotation).encode()))
        if ranks.is_first:
            held.enter_context(only_run(options.result_path / ".train.lock"))
            remove_temporaries(options.result_path)
            if options.resume_path is None and holds_a_run(options):
                raise UserError(
                    f"{options.result_path}: holds a run already; go on with it by --resume_path "
                    f"{options.result_path}, or give another --result_path"
                )
        train(options, annotation, ranks, device)


def train(options, annotation, ranks, device):
    """Train from the start or the resumed checkpoint to the last epoch, with a log line for each."""
    training_clips, validation_clips = make_clips(options, annotation)
    training_labels = np.array([video.label for video in training_clips.videos])
    validation_labels = np.array([video.label for video in validation_clips.videos])
    with working("loading the network", ranks.is_first):
        state = TrainingState(options, annotation, ranks)
    say = functools.partial(print, flush=True) if ranks.is_first else lambda text: None
    log = None
    if ranks.is_first:
        log = Journal(options.result_path / "train.jsonl")
        log.keep(lambda entry: entry.get("epoch", 0) <= state.epoch)  # what is not kept is done again
        log.add(run_header(options, state, len(validation_clips), device))
        curves = Curves(options.result_path, options.visualdl)
    say(
        f"{len(training_clips)} training videos, {len(validation_clips)} validation clips, "
        f"{len(annotation.labels)} classes; ResNet3D-{state.net.model_depth} with "
        f"{count_parameters(state.net):,} parameters, training {state.begin or 'everything'} on; "
        f"{f'{ranks.n} x ' if ranks.n > 1 else ''}{device}"
    )
    validation_batches = validation_clips.batches(options.batch_size)
    with StopSignals() as stop:
        while state.epoch < options.n_epochs:
            entry = {"epoch": state.epoch + 1, "learning_rate": state.optimizer.get_lr()}
            batches = training_clips.batches(entry["epoch"], options.batch_size)
            parts = [ranks.part(keys) for keys in batches[state.step :]]
            loader = ClipLoader(training_clips, parts, options.n_threads)
            train_epoch(state, loader, training_labels, stop)
            entry.update(state.means())
            loader = ClipLoader(validation_clips, ranks.part(validation_batches), options.n_threads)
            n_rounds = -(-len(validation_batches) // ranks.n)
            loss, accuracy = validate(state, loader, n_rounds, validation_labels, stop)
            numbers = {"the validation loss": loss, **weights_of(state.net)}
            check_finite(numbers, f"after epoch {entry['epoch']}", entry["learning_rate"])
            entry.update(val_loss=loss, val_clip_accuracy=accuracy)
            if log is not None:
                log.add(entry)
            is_best = state.end_epoch(loss, accuracy)
            if log is not None:
                curves.draw(log.entries)
            say(
                f"epoch {state.epoch}: train loss {entry['train_loss']:.4f} clip accuracy "
                f"{entry['train_clip_accuracy']:.4f}, validation loss {loss:.4f} clip accuracy "
                f"{accuracy:.4f}{' (best)' if is_best else ''}"
            )
    say(
        f"best validation clip accuracy {state.best['val_clip_accuracy']:.4f} in epoch "
        f"{state.best['epoch']}: {options.result_path / 'best.pdparams'}"
    )


if __name__ == "__main__":
    run(main, OPTIONS)
