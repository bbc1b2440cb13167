"""The budget on paper counts what can be counted by hand."""
import gc
import sys

import paddle
import pytest
from conftest import ROOT, network

sys.path.insert(0, str(ROOT / "benchmarks"))
from gpu_budget import CLIP, STEPS, forward_flops, kept_values, layers_of, operations, product

from model.training.optimization import train_from


def conv(n_in, n_out, kernel, n_positions):
    return 2 * n_in * n_out * kernel * n_positions


def bottlenecks(n_in, n, n_blocks, n_before, n_positions):
    """Count a stage: its first block gets `n_before` positions, halves them in its 3x3x3 and projects."""
    first = conv(n_in, n, 1, n_before) + conv(n_in, 4 * n, 1, n_positions)
    rest = conv(4 * n, n, 1, n_positions) * (n_blocks - 1)
    return first + rest + n_blocks * (conv(n, n, 27, n_positions) + conv(n, 4 * n, 1, n_positions))


def test_flops_are_those_counted_by_hand():
    layers = layers_of(network(50, 101))
    flops = {name: forward_flops(layer, outputs) for name, layer, _, outputs in layers}
    positions = [8 * 28 * 28, 4 * 14 * 14, 2 * 7 * 7, 1 * 4 * 4]
    stages = [
        bottlenecks(64, 64, 3, positions[0], positions[0]),
        bottlenecks(256, 128, 4, positions[0], positions[1]),
        bottlenecks(512, 256, 6, positions[1], positions[2]),
        bottlenecks(1024, 512, 3, positions[2], positions[3]),
    ]
    for number, expected in enumerate(stages, start=1):
        assert sum(n for name, n in flops.items() if name.startswith(f"layer{number}.")) == expected
    forward = conv(3, 64, 7**3, 16 * 56 * 56) + sum(stages) + 2 * 2048 * 101
    assert sum(flops.values()) == forward

    def step(kind):
        return sum(n for n, _, _ in operations(layers, kind, 128))

    # Two more passes for what is trained, without the gradients of inputs that nothing needs.
    first = conv(1024, 512, 1, positions[2]) + conv(1024, 2048, 1, positions[3])
    head = stages[3] + 2 * 2048 * 101
    assert step("--freeze_bn") == step("frozen part in train mode (default)")
    assert step("--freeze_bn") == 128 * (forward + 2 * head - first)
    assert step("everything trained") == 128 * (3 * forward - flops["conv1"])
    assert forward == pytest.approx(20.14e9, rel=1e-3)  # what docs/performance.md says


@pytest.mark.parametrize("step, begin", [(STEPS[0], "layer4"), (STEPS[2], "")])
def test_what_a_step_keeps_is_what_paddle_allocates(step, begin):
    def allocated():
        gc.collect()
        return paddle.base.core.host_memory_stat_current_value("Allocated", 0)

    net = network(10, 5, resnet_widen_factor=0.25)
    counted = 4 * (kept_values(layers_of(net), step) - product(CLIP))
    train_from(net, begin)
    net.train()
    taken = []
    for n in (1, 2):
        clips = paddle.zeros([n, *CLIP])
        before = allocated()
        loss = net(clips).sum()
        taken.append(allocated() - before)
        del loss
    assert taken[1] - taken[0] == pytest.approx(counted, rel=0.01)  # and some small change of the loss
