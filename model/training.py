"""What is trained and by which rule: the frozen part, loss, optimiser with its state, schedule."""
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.optimizer import Momentum
from paddle.optimizer.lr import MultiStepDecay, ReduceOnPlateau

from model.weights import learnable
from opts import UserError


def train_from(net, ft_begin_module):
    """Freeze all parameters before a module; return the trained ones by name. "" trains everything.

    The frozen part keeps no gradients and no activations, but its BatchNorms stay in train mode and
    their statistics move, as in the reference (`get_fine_tuning_parameters`).
    """
    trained = {}
    for name, parameter in learnable(net).items():
        begun = trained or name.split(".")[0] == ft_begin_module or not ft_begin_module
        parameter.stop_gradient = not begun
        if begun:
            trained[name] = parameter
    if not trained:
        raise UserError(f"the network has no module {ft_begin_module!r} with parameters")
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
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if mix is None:
        return loss
    order, weight = mix
    other = F.cross_entropy(logits, paddle.gather(labels, order), label_smoothing=label_smoothing)
    return weight * loss + (1 - weight) * other


def build_scheduler(lr_scheduler, learning_rate, plateau_patience=10, milestones=(50, 100, 150)):
    """Return the schedule of the rate; both kinds divide it by 10, as torch's do by default."""
    if lr_scheduler == "plateau":
        return ReduceOnPlateau(learning_rate, factor=0.1, patience=plateau_patience)
    return MultiStepDecay(learning_rate, milestones=sorted(milestones), gamma=0.1)


def build_optimizer(trained, scheduler, momentum=0.9, weight_decay=1e-3, nesterov=False):
    """Return SGD over the trained parameters; the decay is on all of them, BatchNorm's too."""
    return Momentum(
        scheduler,
        momentum,
        parameters=list(trained.values()),
        use_nesterov=nesterov,
        weight_decay=weight_decay,
    )


def _velocity_key(parameter):
    return f"{parameter.name}_velocity_0"


def velocity_of(optimizer, trained, resumed=None):
    """Return the momentum buffers by the parameters' structured names, as arrays.

    Paddle keys them by names that count the layers made so far in the process, which are others in
    the next process. Until an optimiser steps, Paddle 2.6 hides the buffers that it was given: these
    are `resumed`.
    """
    state, resumed = optimizer.state_dict(), resumed or {}
    return {
        name: np.asarray(state.get(_velocity_key(parameter), resumed.get(name)))
        for name, parameter in trained.items()
    }


def load_velocity(optimizer, trained, velocity):
    """Give an optimiser that has not stepped yet the buffers that `velocity_of` returned.

    Raises UserError where they are not those of the trained parameters.
    """
    velocity = velocity or {}
    different = sorted(set(trained) ^ set(velocity))
    if different:
        raise UserError(f"momentum of {len(different)} parameters missing or left over: {different[:3]}")
    # Paddle asks for the schedule's state too; its own is given back to it.
    state = {"LR_Scheduler": optimizer.state_dict()["LR_Scheduler"]}
    for name, parameter in trained.items():
        if list(velocity[name].shape) != list(parameter.shape):
            raise UserError(f"momentum of {name} has shape {list(velocity[name].shape)}")
        state[_velocity_key(parameter)] = np.asarray(velocity[name], np.float32)
    optimizer.set_state_dict(state)
