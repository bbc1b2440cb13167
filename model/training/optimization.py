"""What is trained and by which rule: the frozen part, the loss, the optimiser, the schedule."""
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.amp import GradScaler
from paddle.optimizer import Momentum
from paddle.optimizer.lr import MultiStepDecay, ReduceOnPlateau

from model.weights import learnable
from run.console import UserError, first_names, note


def train_from(net, ft_begin_module):
    """Freeze all parameters before a module; return the trained ones by name. "" trains everything.

    The frozen part keeps no gradients and no activations, but its BatchNorms stay in train mode and
    their statistics move, as in the reference (`get_fine_tuning_parameters`).
    """
    stages = list(net.stages())
    if ft_begin_module and ft_begin_module not in stages:
        raise UserError(
            f"--ft_begin_module {ft_begin_module}: the network has {', '.join(stages)}; '' trains everything"
        )
    frozen = stages[: stages.index(ft_begin_module)] if ft_begin_module else []
    trained = {}
    for name, parameter in learnable(net).items():
        parameter.stop_gradient = net.stage_of(name) in frozen
        if not parameter.stop_gradient:
            trained[name] = parameter
    return trained


def mixup(clips, alpha, seed):
    """Blend each clip with another one of the batch; return the clips and `(order, weight)`.

    Paper: Zhang et al., "mixup", arXiv:1710.09412. One weight a batch.
    """
    rng = np.random.default_rng(seed)
    weight = rng.beta(alpha, alpha)
    order = paddle.to_tensor(rng.permutation(clips.shape[0]))
    return weight * clips + (1 - weight) * paddle.gather(clips, order), (order, weight)


def training_loss(logits, labels, label_smoothing=0.0, mix=None):
    """Return the mean cross entropy of a batch, a 0-D Tensor; `mix` is `mixup`'s `(order, weight)`."""
    loss = _cross_entropy(logits, labels, label_smoothing)
    if mix is None:
        return loss
    order, weight = mix
    other = _cross_entropy(logits, paddle.gather(labels, order), label_smoothing)
    return weight * loss + (1 - weight) * other


def _cross_entropy(logits, labels, label_smoothing):
    # For its own mean, Paddle 2.6 waits until a GPU has counted the labels that are to be ignored.
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing).mean()


def build_scheduler(recipe):
    """Return the schedule of the learning rate; both kinds divide it by 10, as torch's do by default."""
    if recipe.lr_scheduler == "plateau":
        return ReduceOnPlateau(recipe.learning_rate, factor=0.1, patience=recipe.plateau_patience)
    return MultiStepDecay(recipe.learning_rate, milestones=sorted(recipe.multistep_milestones), gamma=0.1)


class DampedMomentum(Momentum):
    """SGD over the trained parameters, `{name: parameter}`, as torch's: Paddle's Momentum has no dampening.

    The decay is on all of them, BatchNorm's too. `multi_tensor` updates many by one kernel of a GPU.

    With h = gradient + decay x weight, momentum m, dampening d, and the rate r of the step:

        torch    v = h in the first step, m v + (1 - d) h in each later one    weight -= r v
        Paddle   v = m v + (s gradient + c weight), from v = 0                 weight -= r v

    A factor s = 1 - d on the gradient and a decay c = s x decay make the later steps the same. In the first,
    gradient + d decay x weight instead of s gradient gives h. So the velocity is torch's buffer: no rate is
    in it, the schedule may change that, and a resume needs the velocity alone. A velocity of zeros has not
    stepped, and a step that Paddle skips, as gradients overflowed float16, is none. Gradients come here
    unscaled, of the whole batch and of all ranks. `Recipe` refuses Nesterov with dampening, as torch does.

    Momentum's own `rescale_grad` does nothing in eager mode, on Paddle 2.6.2 and 3.3.1.
    """

    has_stepped = False

    def __init__(self, trained, scheduler, recipe, multi_tensor=False):
        super().__init__(
            scheduler,
            recipe.momentum,
            parameters=list(trained.values()),
            use_nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay * (1 - recipe.dampening),
            use_multi_tensor=multi_tensor,
        )
        self._trained, self._dampening, self._decay = trained, recipe.dampening, recipe.weight_decay

    @paddle.no_grad()
    def step(self):
        """Take a step on the gradients of all parameters."""
        d = self._dampening
        for each in self._trained.values() if d else ():
            if self.has_stepped:
                each.grad.set_value((1 - d) * each.grad)
            else:
                each.grad.set_value(each.grad + d * self._decay * each)
        super().step()
        if self._get_auxiliary_var("found_inf") is not True:  # else the step was skipped
            self.has_stepped = True


class LossScaler(GradScaler):
    """Paddle's scaler of the loss for float16, which skips a step whose gradients overflow.

    `n_skipped` counts them. Differs: Paddle's own way to halve the scale fails with numpy 2.4 and later, and
    prints on stdout on every rank.
    """

    n_skipped = 0

    def take_step(self, optimizer):
        """Change the weights by the gradients, unless these overflowed, and forget the gradients."""
        self.step(optimizer)
        self.update()
        optimizer.clear_grad()

    def _update(self):
        # The name in Paddle 3, and the misspelt one in 2.6.
        if not (getattr(self, "_cache_found_inf", None) or getattr(self, "_cache_founf_inf", None)):
            super()._update()
            return
        note(
            "--amp O1: gradients overflowed float16, so this step is skipped and the loss scale halved; a "
            "start often needs some. train.jsonl counts them (skipped_steps)"
        )
        self.n_skipped += 1
        self._scale, self._incr_count = self._scale * self._decr_ratio, 0
        if self._scale.item() < 1:
            raise UserError(
                "the gradients overflow float16 even if the loss is not scaled, so that no step is taken; "
                "the last checkpoint is untouched. Start again with --amp bf16, without --amp, or with a "
                "lower --learning_rate"
            )


def _velocity_key(parameter):
    return f"{parameter.name}_velocity_0"


def velocity_of(optimizer, trained, resumed=None):
    """Return the momentum buffers by the parameters' structured names, as arrays.

    Paddle keys them by names that count the layers made so far in the process; the next process has other
    names. Until an optimiser steps, Paddle 2.6 hides the buffers that it was given: these are `resumed`.
    Buffers that there are not yet, as all steps so far were skipped, are zeros.
    """
    state, resumed = optimizer.state_dict(), resumed or {}
    velocity = {name: state.get(_velocity_key(each), resumed.get(name)) for name, each in trained.items()}
    return {
        name: np.zeros(trained[name].shape, np.float32) if array is None else np.asarray(array)
        for name, array in velocity.items()
    }


def load_velocity(optimizer, trained, velocity):
    """Give an optimiser that has not stepped yet the buffers that `velocity_of` returned.

    Raises UserError if they are not those of the trained parameters.
    """
    velocity = velocity or {}
    different = sorted(set(trained) ^ set(velocity))
    if different:
        names = first_names(different)
        raise UserError(f"momentum of {len(different)} parameters missing or left over: {names}")
    # Paddle asks for the schedule's state too; its own is given back to it.
    state = {"LR_Scheduler": optimizer.state_dict()["LR_Scheduler"]}
    for name, parameter in trained.items():
        if list(velocity[name].shape) != list(parameter.shape):
            raise UserError(f"momentum of {name} has shape {list(velocity[name].shape)}")
        state[_velocity_key(parameter)] = np.asarray(velocity[name], np.float32)
    optimizer.set_state_dict(state)
    optimizer.has_stepped = any(np.any(array) for array in velocity.values())
