"""The files of a run: its checkpoints, the best, the newest, those that are no longer kept."""
import contextlib
import math
import re
from pathlib import Path

from model.checkpoint import load_checkpoint, not_finite, save_checkpoint
from run.console import UserError, working
from run.files import atomic_write, check_free_space, remove_temporaries, run_lock

BEST = "best.pdparams"


def position_of(path):
    """Return `(epoch, step)` of a checkpoint's name, None for any other name.

    `save_3.pdparams` is the end of epoch 3, `save_3_20.pdparams` came before it, after 20 steps.
    """
    match = re.fullmatch(r"save_(\d+)(?:_(\d+))?\.pdparams", Path(path).name)
    return match and (int(match[1]), int(match[2]) if match[2] else math.inf)


def saved_checkpoints(result_path):
    """Return the checkpoints of a folder that a training can be resumed from, oldest first."""
    return sorted(filter(position_of, Path(result_path).glob("save_*.pdparams")), key=position_of)


def newest_checkpoint(path):
    """Return the path itself, or if it is a folder the newest checkpoint in it."""
    path = Path(path)
    if not path.is_dir():
        return path
    saved = saved_checkpoints(path)
    if not saved:
        raise UserError(f"{path}: no save_<epoch>.pdparams to resume from")
    return saved[-1]


class RunFolder:
    """The results folder of a run; `is_writer` is true on the one rank that writes."""

    def __init__(self, path, keep, is_writer):
        self.path, self.keep, self.is_writer = Path(path), keep, is_writer
        self.best_path = self.path / BEST

    @contextlib.contextmanager
    def held(self):
        """Hold the folder for this run only, without what killed runs left in the middle of writing."""
        if not self.is_writer:
            yield
            return
        with run_lock(self.path / ".train.lock"):
            remove_temporaries(self.path)
            yield

    def require_no_run(self, n_epochs_between):
        """Raise UserError if the folder has a run that a new one would overwrite.

        A best epoch from before the first checkpoint, due after `n_epochs_between`, is what a run leaves
        that was killed between the two: nothing to resume from.
        """
        holds_a_run = bool(saved_checkpoints(self.path))
        if not holds_a_run and self.best_path.exists():
            try:
                best = load_checkpoint(self.best_path).metadata.best
                holds_a_run = best is None or best.epoch > n_epochs_between
            except UserError:
                holds_a_run = True
        if holds_a_run:
            raise UserError(
                f"{self.path}: holds a run already; continue it with --resume_path {self.path}, or give "
                "another --result_path"
            )

    def require_nothing_later(self, path, state):
        """Raise UserError if the folder has checkpoints later than the one that is resumed."""
        position = (state.epoch, math.inf) if state.step == 0 else (state.epoch + 1, state.step)
        later = [p.name for p in saved_checkpoints(self.path) if position_of(p) > position]
        if later:
            raise UserError(
                f"{self.path}: holds {later[-1]}, which is later than {path.name}; delete what is later to "
                "continue from there, or give another --result_path"
            )

    def take_best(self, path, best):
        """Return the best epoch of a run that is resumed from `path`; its file comes along.

        Raises UserError if the file of the best epoch is missing.
        """
        source = path.parent / BEST
        if not self.best_path.exists():
            if source.exists():  # the run continues in another folder
                atomic_write(self.best_path, source.read_bytes())
            elif best is None:  # stopped inside the first epoch
                return None
            else:
                raise UserError(f"{path}: {BEST} is missing beside it; it holds the best epoch so far")
        # A run killed between the two files has a best that is newer than its checkpoint.
        newer = load_checkpoint(self.best_path).metadata.best
        return newer if newer is not None and newer.is_better_than(best) else best

    def check_space(self, n_weights, n_velocity):
        """Raise UserError if the disk cannot hold the checkpoints that the run keeps.

        Both are counts of float32 values.
        """
        if not self.is_writer:
            return
        weights, whole = 4 * n_weights, 4 * (n_weights + n_velocity)
        # Those kept, one inside an epoch, one being written; the best, and a new one being written.
        n_bytes = (self.keep + 2) * whole + 2 * weights
        n_there = sum(path.stat().st_size for path in self.path.glob("*.pdparams"))
        check_free_space(self.path, n_bytes - n_there, self.keep + 4, "the checkpoints")

    def save_best(self, groups, metadata):
        """Write the weights of the best epoch so far."""
        if self.is_writer:
            with working(f"writing {BEST}"):
                save_checkpoint(self.best_path, {"weights": groups["weights"]}, metadata)

    def save(self, groups, metadata, learning_rate):
        """Write a checkpoint to resume from and delete those it replaces; return its path.

        Raises UserError if a number is not finite: no checkpoint holds such a one.
        """
        if not self.is_writer:
            return None
        state = metadata.training
        name = f"save_{state.epoch + 1}_{state.step}" if state.step else f"save_{state.epoch}"
        path = self.path / f"{name}.pdparams"
        for what, group in groups.items():
            where = f"for {path.name}" if what == "weights" else f"in the {what} for {path.name}"
            require_finite(group, where, learning_rate, metadata.recipe)
        with working(f"writing {path.name}"):
            save_checkpoint(path, groups, metadata)
        self.prune()
        return path

    def prune(self):
        """Delete all but the last ends of epochs, and what was saved inside an epoch before the newest."""
        saved = saved_checkpoints(self.path)
        ends = [path for path in saved if position_of(path)[1] == math.inf]
        inside = [path for path in saved[:-1] if path not in ends]
        for path in ends[: -self.keep] + inside:
            path.unlink()


def remedy(recipe):
    """Return what to try if training leaves numbers that are not finite."""
    is_float16 = recipe.amp == "O1"
    return f"Try a lower --learning_rate{', --amp bf16 or no --amp (float16 ends at 65,504)' * is_float16}"


def require_finite(numbers, where, learning_rate, recipe):
    """Raise UserError if training has left numbers, `{name: array}`, that no checkpoint should hold."""
    names = not_finite(numbers)
    if names:
        raise UserError(
            f"{names[0]} is not finite {where} at learning rate {learning_rate:g}; the last checkpoint is "
            f"untouched. {remedy(recipe)}"
        )
