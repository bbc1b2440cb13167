"""A training at work: what it is, how far it has come, and what it keeps."""
import signal
from dataclasses import dataclass, field, replace

from model.checkpoint import Best, TrainingState
from model.weights import weights_of
from run.console import Stopped, UserError, note


@dataclass
class Progress:
    """`epoch` finished epochs, and `step` steps of the next one, whose figures so far add up to `sums`."""

    epoch: int = 0
    step: int = 0
    sums: dict = field(default_factory=dict)

    def end_step(self, **figures):
        """Count a step and add its figures to the epoch's sums."""
        self.step += 1
        self.sums = {name: self.sums.get(name, 0) + value for name, value in figures.items()}

    def means(self):
        """Return the epoch's means as a dictionary for the log."""
        sums = self.sums
        skipped = {"skipped_steps": sums["skipped"]} if sums.get("skipped") else {}
        return {
            "train_loss": sums["loss"] / sums["clips"],
            "train_clip_accuracy": sums["correct"] / sums["clips"],
            "train_seconds": round(sums["seconds"], 3),
            "data_seconds": round(sums["waited"], 3),
            "clips_per_second": round(sums["clips"] / sums["seconds"], 3),
            **skipped,
        }

    def end_epoch(self):
        """Count an epoch; the next one begins without steps."""
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}


class TrainingRun:
    """A training at work: what it is (`metadata`), how far it is (`progress`), and who does what."""

    def __init__(self, metadata, trainer, folder, ranks, n_videos, data):
        """`n_videos` are the training videos, `data` is the checksum of the annotation."""
        self.metadata, self.trainer, self.folder, self.ranks = metadata, trainer, folder, ranks
        self.n_videos, self.data = n_videos, data
        self.progress, self.best = Progress(), None

    def resume(self, path, checkpoint):
        """Take over the state of a checkpoint, and the best epoch so far into the run's folder."""
        state = checkpoint.metadata.training
        self.folder.require_nothing_later(path, state)
        if state.n_ranks != self.ranks.n and not self.metadata.recipe.batchnorm_sync:
            note(
                f"the run was started with {state.n_ranks} processes and continues with {self.ranks.n}: "
                "the BatchNorms see batches of another size"
            )
        try:
            self.trainer.load(checkpoint.groups, state.scheduler, state.scaler)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        self.progress = Progress(state.epoch, state.step, dict(state.sums))
        self.best = checkpoint.metadata.best
        if self.ranks.is_first:
            self.best = self.folder.take_best(path, self.best)

    def save(self):
        """Write the checkpoint of this moment and delete those it replaces; return its path."""
        progress, states = self.progress, self.trainer.states()
        state = TrainingState(
            progress.epoch,
            progress.step,
            progress.sums,
            self.ranks.n,
            self.n_videos,
            self.data,
            **states,
        )
        metadata = replace(self.metadata, best=self.best, training=state)
        return self.folder.save(self.trainer.groups(), metadata, self.trainer.learning_rate)

    def stop(self, signum):
        """Write the checkpoint of this moment and raise Stopped."""
        path = self.save()
        self.ranks.gather_objects("saved")  # nobody leaves while the first rank still writes
        raise Stopped(
            signum or signal.SIGTERM,  # a rank that heard nothing leaves with the others
            f"saved {path or 'by rank 0'}; continue with --resume_path {self.folder.path}",
        )

    def end_epoch(self, loss, accuracy, n_epochs_between):
        """Move the schedule, keep the best and the epoch's checkpoint; return whether it is the best.

        `loss` and `accuracy` are the validation's, None after an epoch without one, which is never the best.
        `n_epochs_between` checkpoints there is none; the last epoch always has one.
        """
        self.progress.end_epoch()
        self.trainer.end_epoch(loss)
        epoch = self.progress.epoch
        is_best = loss is not None and Best(epoch, accuracy, loss).is_better_than(self.best)
        if is_best:
            self.best = this = Best(epoch, accuracy, loss)
            weights = {"weights": weights_of(self.trainer.net)}
            self.folder.save_best(weights, replace(self.metadata, best=this))
        if epoch % n_epochs_between == 0 or epoch == self.metadata.recipe.n_epochs:
            self.save()
        return is_best
