"""Stage 3: fine-tune a network on frames; the defaults are the published recipe for UCF-101.

    python train.py

starts from weights/r3d50_KM_200ep.pdparams and writes to results/: best.pdparams (the epoch with
the highest validation clip accuracy), save_<epoch>.pdparams (to resume from), train.jsonl (a
header, then a line an epoch) and curves.png (its picture). Each step shows loss, clip accuracy, step
time, data wait and clips/s.

    python train.py --resume_path results

continues where a run was ended, by whatever; options that are not given are the run's own. SIGTERM and
Ctrl-C save save_<epoch>_<step>.pdparams first.
On several GPUs: `python -m paddle.distributed.launch --gpus 0,1,2,3 train.py`.
"""
import contextlib
import functools
import subprocess
import sys
import time
from pathlib import Path

from opts import train_options
from run.arguments import plain_options
from run.console import StopSignals, UserError, note, progress_bar, run_script, working

if __name__ == "__main__":
    OPTIONS = train_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import model.device  # noqa: F401

import numpy as np
import paddle

from datasets.annotation import note_classes, read_annotation
from datasets.clips import TrainingClips, WindowClips
from datasets.loader import ClipLoader
from datasets.stores import open_store
from model import networks
from model.checkpoint import load_checkpoint
from model.device import explained, prepare_device, require_amp
from model.training.distributed import Ranks
from model.training.plan import new_run, resumed_run, trained_on
from model.training.run import TrainingRun
from model.training.run_folder import RunFolder, newest_checkpoint, remedy, require_finite
from model.training.trainer import NotFinite, Trainer
from model.weights import count_parameters, weights_of
from prediction.checks import check_modality
from report.curves import Curves, require_visualdl
from run.files import Journal


def require_same_data(options, path, metadata, annotation, data):
    """Raise UserError if a run that continues would see other videos than it was started on."""
    state = metadata.training
    training = annotation.subsets["training"]
    was_counted = state.n_videos == len(training) and metadata.class_names == annotation.class_names
    if not was_counted:
        raise UserError(
            f"{path}: the run was started on {state.n_videos} training videos of "
            f"{len(metadata.class_names)} classes, not on those of {options.annotation_path}"
        )
    if state.data is not None and state.data != data:
        raise UserError(
            f"{path}: the run was started on other videos, subsets or segments than those of "
            f"{options.annotation_path}, although their number is the same"
        )


def require_trainable(options, recipe, annotation, store, ranks):
    """Raise UserError if the data do not serve: a missing subset, missing frames, too large a batch."""
    training, validation = annotation.subsets["training"], annotation.subsets["validation"]
    for subset, samples in (("training", training), ("validation", validation)):
        if not len(samples):
            raise UserError(f"{options.annotation_path}: no video of the subset {subset}")
    if len(training) < recipe.batch_size:
        raise UserError(
            f"{options.annotation_path}: {len(training)} training videos are fewer than a batch; "
            f"use --batch_size {len(training)} or less"
        )
    n_last = len(training) % recipe.batch_size or recipe.batch_size
    if n_last < ranks.n:
        raise UserError(
            f"the last batch of an epoch has {n_last} of {len(training)} clips, fewer than the {ranks.n} "
            "processes; choose another --batch_size"
        )
    store.check(training + validation, ranks.is_first)
    if ranks.is_first:
        note_classes(options.annotation_path, annotation)


def train_epoch(run, loader, class_indices, options, stop):
    """Take the epoch's remaining steps; save and raise Stopped when a signal asks for it.

    Each rank computes its part of every batch; the gradients are those of the whole batch.
    """
    progress, recipe, trainer = run.progress, run.metadata.recipe, run.trainer
    epoch, n_steps = progress.epoch + 1, progress.step + len(loader)
    trainer.train_mode()
    fits_80_columns = "{desc} {n_fmt}/{total_fmt} {remaining}{postfix}"
    bar = progress_bar(
        total=n_steps,
        initial=progress.step,
        desc=f"epoch {epoch}",
        bar_format=fits_80_columns,
        disable=not run.ranks.is_first,
    )
    before = time.perf_counter()
    with bar, contextlib.closing(iter(loader)) as batches:
        for clips_thwc, indices in batches:
            waited, step = time.perf_counter() - before, progress.step + 1
            n = min(recipe.batch_size, run.n_videos - (step - 1) * recipe.batch_size)
            draw = [recipe.manual_seed, epoch, step]
            try:
                sums = trainer.step(clips_thwc, class_indices[indices], n, draw, stop.signum)
            except NotFinite as error:
                names = [loader.clips.samples.keys[index] for index in indices.tolist()]
                raise UserError(
                    f"the loss is {error.loss} in epoch {epoch}, step {step}, at learning rate "
                    f"{trainer.learning_rate:g}; the last checkpoint is untouched. {remedy(recipe)}. "
                    f"Videos of the batch: {', '.join(names)}"
                ) from None
            seconds = time.perf_counter() - before
            progress.end_step(
                loss=sums.loss,
                correct=sums.n_correct,
                clips=n,
                seconds=seconds,
                waited=waited,
                skipped=sums.n_skipped,
            )
            bar.set_postfix_str(
                f"loss {sums.loss / n:.3f} clip acc {sums.n_correct / n:.3f} step {seconds:.2g}s "
                f"data {waited:.2g}s {n / seconds:.3g} clips/s",
                refresh=False,
            )
            bar.update()
            if sums.signals:
                run.stop(stop.signum)
            if options.checkpoint_steps and step % options.checkpoint_steps == 0 and step < n_steps:
                run.save()
            before = time.perf_counter()


def validate(run, loader, n_rounds, class_indices, stop):
    """Return the mean loss and the clip accuracy over all clips, in eval mode.

    The ranks take whole batches in turn; each clip is counted once.
    """
    totals = np.zeros(3)
    bar = progress_bar(
        total=n_rounds, unit="batch", desc="validation", leave=False, disable=not run.ranks.is_first
    )
    with bar, contextlib.closing(iter(loader)) as batches:
        for _ in range(n_rounds):
            batch = next(batches, None)  # in the last round, some ranks may have none
            if batch is not None:
                batch = batch[0], class_indices[batch[1]]
            sums = run.trainer.validate(batch, stop.signum)
            totals += sums.loss, sums.n_correct, sums.n_clips
            if sums.signals:
                run.stop(stop.signum)
            bar.update()
    loss, n_correct, n_clips = totals.tolist()
    return loss / n_clips, n_correct / n_clips


def git_commit():
    """Return the short hash of this checkout's commit; None without git, or unpacked somewhere else."""
    root = Path(__file__).resolve().parent
    command = ["git", "rev-parse", "--show-toplevel", "--short", "HEAD"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return None
    top, _, commit = done.stdout.strip().partition("\n")
    return commit if done.returncode == 0 and Path(top) == root else None


def run_header(options, run, n_val_clips, device):
    """Return what a reader of the log needs to run the same again; nothing of the environment."""
    metadata = run.metadata
    return {
        "version": 2,
        "command": sys.argv,
        "git": git_commit(),
        "python": sys.version.split()[0],
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "device": device,
        "network": metadata.network.to_json(),
        "clip": metadata.clip.to_json(),
        "recipe": metadata.recipe.to_json(),
        "recipe_name": metadata.recipe_name,
        "published": metadata.published and metadata.published.to_json(),
        "options": plain_options(options),
        "n_ranks": run.ranks.n,
        "n_training_videos": run.n_videos,
        "n_validation_clips": n_val_clips,
        "n_parameters": count_parameters(run.trainer.net),
    }


def summary(run, n_val_clips, device):
    """Return in one line what is trained, on what."""
    metadata, n = run.metadata, run.ranks.n
    return (
        f"{run.n_videos} training videos, {n_val_clips} validation clips, {len(metadata.class_names)} "
        f"classes; {networks.title(metadata.network)} with {count_parameters(run.trainer.net):,} parameters, "
        f"training {metadata.recipe.ft_begin_module or 'everything'} on; {f'{n} x ' if n > 1 else ''}{device}"
    )


def main(options):
    less_memory = "use --accumulate 2 or more, which computes each batch in parts, or a smaller --batch_size"
    with Ranks() as ranks, explained(less_memory), contextlib.ExitStack() as held:
        device = prepare_device(ranks.n_on_this_machine)
        if options.speedups and device == "cpu":
            raise UserError("--speedups are for a GPU; leave it off on a CPU")
        if options.visualdl:
            require_visualdl()
        annotation, store = read_annotation(options.annotation_path), open_store(options.video_path)
        run = open_run(options, annotation, store, ranks, held)
        train(options, run, store, annotation.subsets, device)


def open_run(options, annotation, store, ranks, held):
    """Return the `TrainingRun` that starts or goes on; every reason not to train is found here.

    `held` is an ExitStack, which keeps other runs out of the folder.
    """
    checksum, training = annotation.checksum(), annotation.subsets["training"]
    folder = RunFolder(options.result_path, options.keep, ranks.is_first)
    checkpoint_path = options.resume_path and newest_checkpoint(options.resume_path)
    checkpoint = checkpoint_path and load_checkpoint(checkpoint_path)
    with working("loading the network", ranks.is_first):
        if checkpoint is None:
            of_frames = store.frame_rates(training), store.modality
            net, metadata = new_run(
                options.given, options.pretrain_path, annotation.class_names, len(training), *of_frames
            )
        else:
            net, metadata = resumed_run(options.given, checkpoint_path, checkpoint.metadata)
            check_modality(checkpoint_path, metadata, store)
            require_same_data(options, checkpoint_path, checkpoint.metadata, annotation, checksum)
    metadata = trained_on(metadata, training)
    require_amp(metadata.recipe.amp)
    require_trainable(options, metadata.recipe, annotation, store, ranks)
    ranks.require_same(str(options.annotation_path), checksum)
    held.enter_context(folder.held())
    if checkpoint is None and ranks.is_first:
        folder.require_no_run(options.checkpoint)
    trainer = Trainer(net, metadata.recipe, metadata.clip, ranks, options.speedups)
    run = TrainingRun(metadata, trainer, folder, ranks, len(training), checksum)
    if checkpoint is not None:
        run.resume(checkpoint_path, checkpoint)
    ranks.require_same("the checkpoint that is resumed", [run.progress.epoch, run.progress.step])
    trainer.require_batchnorms(len(training))
    trainer.begin()
    n_weights = sum(tensor.size for tensor in net.state_dict().values())
    folder.check_space(n_weights, sum(parameter.size for parameter in trainer.trained.values()))
    return run


def epoch_line(entry, is_best):
    """Return what is printed of an epoch, from its line in the log."""
    text = "epoch {epoch}: train loss {train_loss:.4f} clip accuracy {train_clip_accuracy:.4f}"
    if "val_loss" in entry:
        text += ", validation loss {val_loss:.4f} clip accuracy {val_clip_accuracy:.4f}"
    return text.format(**entry) + (" (best)" if is_best else "")


def train(options, run, store, subsets, device):
    """Train to the last epoch, with a log line for each."""
    metadata, ranks, progress = run.metadata, run.ranks, run.progress
    recipe = metadata.recipe
    clips = TrainingClips(store, subsets["training"], metadata.clip, recipe)
    windows = ("even", recipe.n_val_samples)
    val_clips = WindowClips(
        store, subsets["validation"], metadata.clip, windows, fast_decode=recipe.fast_decode
    )
    class_indices, val_class_indices = (
        np.array(each.samples.class_indices, np.int64) for each in (clips, val_clips)
    )
    say = functools.partial(print, flush=True) if ranks.is_first else lambda text: None
    log = None
    if ranks.is_first:
        log = Journal(options.result_path / "train.jsonl")
        log.keep(lambda entry: entry.get("epoch", 0) <= progress.epoch)  # what is not kept is done again
        log.add(run_header(options, run, len(val_clips), device))
        curves = Curves(options.result_path, options.visualdl)
    say(summary(run, len(val_clips), device))
    if progress.epoch >= recipe.n_epochs:
        note(f"{progress.epoch} epochs are done; --n_epochs {recipe.n_epochs} asks for no more")
    val_batches = val_clips.batches(-(-recipe.batch_size // recipe.accumulate))
    with StopSignals() as stop:
        while progress.epoch < recipe.n_epochs:
            epoch, learning_rate = progress.epoch + 1, run.trainer.learning_rate
            batches = clips.batches(epoch, recipe.batch_size)[progress.step :]
            loader = ClipLoader(clips, [ranks.shard(keys) for keys in batches], options.n_threads)
            train_epoch(run, loader, class_indices, options, stop)
            entry = {"epoch": epoch, "learning_rate": learning_rate, **progress.means()}
            loss = accuracy = None
            if epoch % recipe.val_every == 0 or epoch == recipe.n_epochs:
                loader = ClipLoader(val_clips, ranks.shard(val_batches), options.n_threads)
                n_rounds = -(-len(val_batches) // ranks.n)
                loss, accuracy = validate(run, loader, n_rounds, val_class_indices, stop)
                entry.update(val_loss=loss, val_clip_accuracy=accuracy)
            numbers = {"the validation loss": loss or 0.0, **weights_of(run.trainer.net)}
            require_finite(numbers, f"after epoch {epoch}", learning_rate, recipe)
            if log is not None:
                log.add(entry)
            is_best = run.end_epoch(loss, accuracy, options.checkpoint)
            if log is not None:
                curves.draw(log.entries)
            say(epoch_line(entry, is_best))
    if run.best is not None:
        say(
            f"best validation clip accuracy {run.best.val_clip_accuracy:.4f} in epoch {run.best.epoch}: "
            f"{options.result_path / 'best.pdparams'}"
        )


if __name__ == "__main__":
    run_script(main, OPTIONS)
