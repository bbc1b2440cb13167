"""The steps of a training: forward, loss, backward, exchange between ranks, update; and validation."""
import math
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from model.device import autocast, normalise
from model.inference import evaluator
from model.training.distributed import sum_step
from model.training.optimization import (
    DampedMomentum,
    LossScaler,
    build_scheduler,
    load_velocity,
    mixup,
    train_from,
    training_loss,
    velocity_of,
)
from model.training.sync_batchnorm import (
    SyncBatchNorm3D,
    batchnorms_of_one_value,
    synchronise_batchnorms,
)
from model.weights import load_weights, weights_of
from run.console import UserError


class NotFinite(Exception):
    """The loss of a step is not finite."""

    def __init__(self, loss):
        super().__init__(loss)
        self.loss = loss


class Sums(NamedTuple):
    """Figures of some clips, all ranks together; `signals` is above 0 if a rank was asked to stop.

    `n_skipped` is 1 if the gradients overflowed float16, so that the weights are as before the step.
    """

    loss: float
    n_correct: int
    n_clips: int
    signals: int
    n_skipped: int = 0


class Trainer:
    """A network with its optimiser, schedule and scaler, on one rank of several.

    `trained` holds the trained parameters by name, `net` the network.
    """

    def __init__(self, net, recipe, clip, ranks, speedups=()):
        """The network is changed in place. `recipe.ft_begin_module` is a stage or "", `speedups` are some of
        `run.spec.SPEEDUPS`.
        """
        self.net, self.recipe, self.clip, self.ranks = net, recipe, clip, ranks
        self._is_pinned = "pinned_copies" in speedups
        if recipe.freeze_bn and recipe.ft_begin_module in ("", next(iter(net.stages()))):
            raise UserError(
                "--freeze_bn: all modules are trained, so none is frozen; leave it out, or give the first "
                f"module to train: --ft_begin_module {net.fine_tune_from}"
            )
        self.trained = train_from(net, recipe.ft_begin_module)
        if recipe.batchnorm_sync and ranks.n > 1:
            synchronise_batchnorms(net, ranks, "paddle_sync_batchnorm" in speedups)
        self._synchronised = [layer for layer in net.sublayers() if isinstance(layer, SyncBatchNorm3D)]
        self.trained_stages = {net.stage_of(name) for name in self.trained}
        self.statistics = [
            tensor
            for name, tensor in net.state_dict().items()
            if name.endswith(("._mean", "._variance"))
            and (not recipe.freeze_bn or net.stage_of(name) in self.trained_stages)
        ]
        self.scheduler = build_scheduler(recipe)
        self.optimizer = DampedMomentum(self.trained, self.scheduler, recipe, "multi_tensor" in speedups)
        self.scaler = LossScaler(enable=recipe.amp == "O1")
        self._resumed_velocity = None
        self._trunk = self._head = self._trunk_features = None

    def load(self, groups, scheduler, scaler):
        """Take over the tensors and states of a checkpoint."""
        load_weights(self.net, groups["weights"])
        load_velocity(self.optimizer, self.trained, groups.get("velocity"))
        self._resumed_velocity = groups.get("velocity")
        self.scheduler.set_state_dict(scheduler)
        if scaler:
            self.scaler.load_state_dict(scaler)

    def n_parts(self, n_clips):
        """Return in how many parts every rank computes its share of a batch of `n_clips`."""
        return min(self.recipe.accumulate, n_clips // self.ranks.n)

    def require_batchnorms(self, n_videos):
        """Raise UserError if a part of a batch of an epoch leaves a BatchNorm one value a channel.

        Such a one has no variance: torch refuses it, Paddle hands its input on as it is.
        """
        sizes = {self.recipe.batch_size, n_videos % self.recipe.batch_size or self.recipe.batch_size}
        n_clips = min(size // self.ranks.n // self.n_parts(size) for size in sizes)
        if n_clips > 1 or (self.recipe.batchnorm_sync and self.ranks.n > 1):
            return
        sizes = [self.clip.sample_duration, self.clip.sample_size, self.clip.sample_size]
        names = batchnorms_of_one_value(self.net, [1, self.clip.n_channels, *sizes])
        if self.recipe.freeze_bn:  # the frozen ones compute with their statistics
            names = [name for name in names if self.net.stage_of(f"{name}.weight") in self.trained_stages]
        if names:
            less = f", fewer parts (--accumulate {self.recipe.accumulate})" * (self.recipe.accumulate > 1)
            raise UserError(
                f"a process gets one clip of an epoch's last batch, and {names[0]} sees one value a channel "
                f"of it, which BatchNorm cannot normalise; choose another --batch_size{less} or larger clips"
            )

    def begin(self):
        """Give all ranks the first one's weights, and freeze what `--freeze_bn` freezes as it is now."""
        self.ranks.broadcast(self.net.state_dict().values())
        if self.recipe.freeze_bn:
            self._trunk, self._head = self.net.split(self.recipe.ft_begin_module)
            self._trunk_features = evaluator(self._trunk, self.ranks.n_on_this_machine)

    def groups(self):
        """Return the groups of tensors that a checkpoint holds."""
        velocity = velocity_of(self.optimizer, self.trained, self._resumed_velocity)
        return {"weights": weights_of(self.net), "velocity": velocity}

    def states(self):
        """Return the states of scheduler and scaler as JSON can hold them."""
        scaler = {key: np.asarray(value).tolist() for key, value in self.scaler.state_dict().items()}
        return {"scheduler": self.scheduler.state_dict(), "scaler": scaler}

    @property
    def learning_rate(self):
        """The learning rate of the next step."""
        return self.optimizer.get_lr()

    def train_mode(self):
        """Put the network in train mode, with `--freeze_bn` only the trained part."""
        self.net.train()
        if self.recipe.freeze_bn:
            self._trunk.eval()

    def logits(self, clips):
        """Run normalised clips through the network in its present mode."""
        return self.net(clips) if self._head is None else self._head(self._trunk_features(clips))

    def step(self, clips_thwc, class_indices, n_clips, draw, signum=0):
        """Take one step on this rank's share of a batch of `n_clips`; return the `Sums` of all ranks.

        `clips_thwc [N, T, H, W, C] uint8` and `class_indices [N]` are computed in `recipe.accumulate` parts,
        whose gradients add up to those of the whole batch. `draw` is a list of numbers that seeds mixup.
        Raises NotFinite before a weight is changed.
        """
        n_parts, n_skipped = self.n_parts(n_clips), self.scaler.n_skipped
        for layer in self._synchronised:
            layer.is_even = n_clips % (n_parts * self.ranks.n) == 0
        loss_sum, n_correct = 0.0, 0
        parts = zip(np.array_split(clips_thwc, n_parts), np.array_split(class_indices, n_parts))
        for number, part in enumerate(parts):
            loss, n = self._backward(*part, n_clips, [*draw, self.ranks.rank, *[number] * (number > 0)])
            loss_sum, n_correct = loss_sum + loss * len(part[0]), n_correct + int(n)
        trained, figures = list(self.trained.values()), [loss_sum, n_correct, signum]
        loss_sum, n_correct, signals = sum_step(self.ranks, trained, self.statistics, figures)
        self.scaler.take_step(self.optimizer)
        return Sums(loss_sum, n_correct, n_clips, signals, self.scaler.n_skipped - n_skipped)

    def _backward(self, clips_thwc, class_indices, n_clips, draw):
        """Add the gradients of some of a batch's `n_clips`; return their mean loss and how many are right."""
        targets, mix = paddle.to_tensor(class_indices), None
        clips = normalise(clips_thwc, self.clip, self._is_pinned)
        if self.recipe.mixup_alpha > 0:
            clips, mix = mixup(clips, self.recipe.mixup_alpha, draw)
        with autocast(self.recipe.amp):
            logits = self.logits(clips)
        loss = training_loss(logits.astype("float32"), targets, self.recipe.label_smoothing, mix)
        # These clips count for their part of the whole batch.
        self.scaler.scale(loss * (len(targets) / n_clips)).backward()
        # Read at once, and only now: a read waits until the device has done all that it was given.
        loss, n_correct = _read(loss, _n_correct(logits, targets))
        if not math.isfinite(loss):
            raise NotFinite(loss)
        return loss, n_correct

    @paddle.no_grad()
    def validate(self, batch, signum=0):
        """Score one batch a rank in eval mode, None for a rank that has none left; return `Sums`."""
        self.net.eval()
        figures = [0.0, 0, 0, signum]
        if batch is not None:
            clips_thwc, class_indices = batch
            targets = paddle.to_tensor(class_indices)
            with autocast(self.recipe.amp):
                logits = self.logits(normalise(clips_thwc, self.clip, self._is_pinned)).astype("float32")
            loss = F.cross_entropy(logits, targets, reduction="sum")
            figures[:3] = *_read(loss, _n_correct(logits, targets)), len(targets)
        if self.ranks.n > 1:
            figures = self.ranks.sum(paddle.to_tensor(figures, "float64")).tolist()
        return Sums(*figures)

    def end_epoch(self, val_loss):
        """Move the schedule; `val_loss` is None after an epoch without validation."""
        if self.recipe.lr_scheduler == "multistep":
            self.scheduler.step()
        elif val_loss is not None:
            self.scheduler.step(val_loss)


def _n_correct(logits, targets):
    """Return a 0-D Tensor, the number of clips whose best class is the target."""
    return (logits.argmax(axis=1) == targets).sum()


def _read(*numbers):
    """Return some 0-D Tensors as numbers, in one crossing from the device; whole ones up to 2 ** 24."""
    return paddle.stack([number.detach().astype("float32") for number in numbers]).tolist()
