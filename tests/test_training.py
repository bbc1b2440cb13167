"""Fine-tuning against the reference's own runs: losses, norms, final logits."""
import numpy as np
import paddle
import pytest
import seeded
from conftest import golden, network

from model.training.optimization import (
    DampedMomentum,
    build_scheduler,
    load_velocity,
    mixup,
    train_from,
    training_loss,
    velocity_of,
)
from model.weights import from_torch, load_weights, weights_of
from run.console import UserError
from run.spec import Recipe

RUNS = golden("training.json")


class TorchVariance:
    """Keep running variances by torch's convention: of the unbiased batch variance, n / (n - 1).

    Paddle keeps the biased one. At these batches of a few clips that moves the evaluation logits by
    up to 2 %; at the batch of 128 of a real run by less than 0.05 %.
    """

    def __init__(self, net):
        self.layers = [m for m in net.sublayers() if isinstance(m, paddle.nn.BatchNorm3D)]
        for layer in self.layers:
            layer.register_forward_pre_hook(self.before)
            layer.register_forward_post_hook(self.after)

    def before(self, layer, inputs):
        self.old = layer._variance.numpy().astype(np.float64)
        shape = inputs[0].shape
        self.n = shape[0] * shape[2] * shape[3] * shape[4]

    def after(self, layer, inputs, output):
        if layer.training:
            increase = layer._variance.numpy().astype(np.float64) - 0.9 * self.old
            value = 0.9 * self.old + increase * self.n / (self.n - 1)
            layer._variance.set_value(value.astype(np.float32))


def replay(run, n_steps):
    """Repeat a golden run; return its losses and the network in eval mode."""
    net = network(run["depth"], run["n_classes"])
    shapes = dict(golden("state_dict_shapes.json")[f"resnet{run['depth']}"])
    shapes["fc.weight"] = [run["n_classes"], shapes["fc.weight"][1]]
    shapes["fc.bias"] = [run["n_classes"]]
    # The head that replaces the pretrained one was drawn with the next seed.
    state_dict = {
        name: seeded.tensor(name, shape, run["seed"] + name.startswith("fc."))
        for name, shape in shapes.items()
    }
    load_weights(net, from_torch(state_dict))
    TorchVariance(net)
    trained = train_from(net, run["ft_begin_module"])
    drop = run["lr_divided_by_10_at_step"]
    recipe = Recipe(
        lr_scheduler="multistep",
        learning_rate=run["lr"],
        multistep_milestones=(drop or 10**6,),
        momentum=run["momentum"],
        weight_decay=run["weight_decay"],
    )
    scheduler = build_scheduler(recipe)
    optimizer = DampedMomentum(trained, scheduler, recipe)
    net.train()
    losses = []
    for step in range(n_steps):
        seed = run["seed"] * 100 + step
        clips = paddle.to_tensor(seeded.clips(seed, run["batch"], *run["clip"][:3]))
        labels = np.random.RandomState(seed).randint(0, run["n_classes"], run["batch"])
        loss = training_loss(net(clips), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
        losses.append(float(loss))
    net.eval()
    return losses, net


def relative_differences(found, expected):
    return np.abs(np.array(found) / np.array(expected[: len(found)]) - 1)


def fine_tuning_differences(run):
    """Return how far a golden run's losses, norms and final logits are, relative to the reference's."""
    losses, net = replay(run, run["steps"])
    weights = weights_of(net)
    renamed = {
        name.replace("running_mean", "_mean").replace("running_var", "_variance"): norm
        for name, norm in run["norms"].items()
        if not name.endswith("num_batches_tracked")
    }
    assert set(renamed) == set(weights)
    norms = [np.linalg.norm(weights[name].astype(np.float64)) for name in renamed]
    with paddle.no_grad():
        clips = paddle.to_tensor(seeded.clips(run["seed"] * 100 + 999, 2, *run["clip"][:3]))
        logits = net(clips).numpy()
    expected = np.array(run["eval_logits"])
    return {
        "losses": relative_differences(losses, run["losses"]).max(),
        "norms": relative_differences(norms, list(renamed.values())).max(),
        "logits": np.abs(logits - expected).max() / np.abs(expected).max(),
    }


def all_layers_difference():
    """Return how far the first two losses of the run that trains all layers are from the reference's."""
    # Float32 makes this run chaotic from its third step on, in any implementation.
    losses, _ = replay(RUNS[2], 2)
    return relative_differences(losses, RUNS[2]["losses"]).max()


# About three times what was seen on Paddle 2.6.2 and 3.3.1 (`make parity`). The second run amplifies the
# rounding of its first steps. Each run with its bounds.
FINE_TUNING = [
    (RUNS[0], {"losses": 3e-6, "norms": 1e-6, "logits": 1e-5}),
    (RUNS[1], {"losses": 1e-4, "norms": 2e-4, "logits": 3e-3}),
]
ALL_LAYERS_BOUND = 1e-4


@pytest.mark.parametrize("run, bounds", FINE_TUNING)
def test_fine_tuning_follows_the_reference(run, bounds):
    found = fine_tuning_differences(run)
    assert found.keys() == bounds.keys()
    for what, bound in bounds.items():
        assert found[what] < bound, what


def test_training_all_layers_starts_as_the_reference_does():
    assert all_layers_difference() < ALL_LAYERS_BOUND


def optimizer_of(trained):
    recipe = Recipe(learning_rate=0.1)
    return DampedMomentum(trained, build_scheduler(recipe), recipe)


def small_network():
    return network(10, 3, resnet_widen_factor=0.125, conv1_t_size=3)


def test_the_frozen_part_keeps_its_weights_but_its_statistics_move():
    net = small_network()
    trained = train_from(net, "layer4")
    assert {name.split(".")[0] for name in trained} == {"layer4", "fc"}
    optimizer = optimizer_of(trained)
    before = weights_of(net)
    net.train()
    net(paddle.randn([2, 3, 8, 32, 32])).mean().backward()
    optimizer.step()
    changed = {name for name, array in weights_of(net).items() if (array != before[name]).any()}
    assert changed & set(trained)
    frozen = {name for name in changed if name not in trained}
    assert frozen and all(name.endswith(("_mean", "_variance")) for name in frozen)
    assert any(name.startswith("layer1") for name in frozen)


@pytest.mark.parametrize("begin, first", [("fc", "fc.weight"), ("", "conv1.weight"), ("bn1", "bn1.weight")])
def test_training_begins_at_the_named_module(begin, first):
    assert next(iter(train_from(small_network(), begin))) == first


@pytest.mark.parametrize("kind", ["plateau", "multistep"])
def test_the_learning_rate_falls_when_torchs_does(kind):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=0.003)
    if kind == "plateau":
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, "min", patience=2)
    else:
        theirs = torch.optim.lr_scheduler.MultiStepLR(sgd, [3, 7])
    ours = build_scheduler(Recipe(lr_scheduler=kind, plateau_patience=2, multistep_milestones=(7, 3)))
    for loss in [3.0, 2.0, 2.1, 1.99995, 2.0, 2.0, 1.0, 1.0, 1.5, 1.0, 0.99999, 1.0, 0.5, 0.5]:
        arguments = [loss] if kind == "plateau" else []
        sgd.step()
        theirs.step(*arguments)
        ours.step(*arguments)
        assert ours() == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_optimiser_steps_as_torchs_sgd(nesterov):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((3, 2)), rng.standard_normal((5, 3, 2))
    theirs = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    sgd = torch.optim.SGD([theirs], 0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    layer = paddle.nn.Linear(3, 2, bias_attr=False)
    layer.weight.set_value(start.astype(np.float32))
    recipe = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    ours = DampedMomentum({"w": layer.weight}, build_scheduler(recipe), recipe)
    for gradient in gradients.astype(np.float32):
        theirs.grad = torch.from_numpy(gradient)
        sgd.step()
        (layer.weight * paddle.to_tensor(gradient)).sum().backward()
        ours.step()
        ours.clear_grad()
    np.testing.assert_allclose(layer.weight.numpy(), theirs.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("resumed_at", [None, 0, 1, 4])
def test_dampening_steps_as_torchs_over_rates_and_a_resume(resumed_at):
    run = golden("dampening.json")
    names = ("momentum", "dampening", "weight_decay")
    recipe = Recipe(lr_scheduler="multistep", learning_rate=0.1, multistep_milestones=(3,)).to_json()
    recipe = Recipe.from_json({**recipe, **{name: run[name] for name in names}}, "here")
    layer = paddle.nn.Linear(3, 2, bias_attr=False)
    layer.weight.set_value(np.float32(run["start"]).T)
    trained, scheduler = {"w": layer.weight}, build_scheduler(recipe)
    ours = DampedMomentum(trained, scheduler, recipe)
    for step, (gradient, expected) in enumerate(zip(run["gradients"], run["weights"])):
        if step == resumed_at:
            velocity, weight = velocity_of(ours, trained), layer.weight.numpy()
            layer = paddle.nn.Linear(3, 2, bias_attr=False)  # as another process has it
            layer.weight.set_value(weight)
            trained = {"w": layer.weight}
            ours = DampedMomentum(trained, scheduler, recipe)
            load_velocity(ours, trained, velocity)
        assert scheduler() == pytest.approx(run["rates"][step])
        (layer.weight * paddle.to_tensor(np.float32(gradient).T)).sum().backward()
        ours.step()
        ours.clear_grad()
        scheduler.step()
        np.testing.assert_allclose(layer.weight.numpy().T, expected, rtol=1e-5, atol=1e-6)  # float32


def test_momentum_of_other_parameters_is_refused():
    net = small_network()
    trained = train_from(net, "layer4")
    optimizer = optimizer_of(trained)
    net(paddle.randn([2, 3, 8, 32, 32])).mean().backward()
    optimizer.step()
    velocity = velocity_of(optimizer, trained)
    assert set(velocity) == set(trained)
    fresh = train_from(small_network(), "fc")
    with pytest.raises(UserError, match="left over"):
        load_velocity(optimizer_of(fresh), fresh, velocity)


def test_smoothing_and_mixup_are_soft_targets():
    rng = np.random.default_rng(4)
    logits, labels = rng.standard_normal((4, 3)).astype(np.float32), np.array([0, 1, 2, 1])
    clips = paddle.to_tensor(rng.standard_normal((4, 2)).astype(np.float32))
    mixed, (order, weight) = mixup(clips, 0.2, [1, 2, 3])
    other = order.numpy()
    np.testing.assert_allclose(
        mixed.numpy(), weight * clips.numpy() + (1 - weight) * clips.numpy()[other], rtol=1e-5
    )
    one_hot = np.eye(3)[labels]
    targets = weight * one_hot + (1 - weight) * one_hot[other]
    targets = 0.9 * targets + 0.1 / 3
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = training_loss(paddle.to_tensor(logits), paddle.to_tensor(labels), 0.1, (order, weight))
    assert float(loss) == pytest.approx(-(targets * log_softmax).sum(axis=1).mean(), rel=1e-5)
