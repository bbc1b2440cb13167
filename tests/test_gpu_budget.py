"""The budget on paper counts what can be counted by hand."""
import sys

import pytest
from conftest import ROOT

from model.resnet3d import ResNet3D

sys.path.insert(0, str(ROOT / "benchmarks"))
from gpu_budget import forward_flops, layers_of, operations


def conv(n_in, n_out, kernel, n_positions):
    return 2 * n_in * n_out * kernel * n_positions


def bottlenecks(n_in, n, n_blocks, n_before, n_positions):
    """Count a stage: its first block gets `n_before` positions, halves them in its 3x3x3 and projects."""
    first = conv(n_in, n, 1, n_before) + conv(n_in, 4 * n, 1, n_positions)
    rest = conv(4 * n, n, 1, n_positions) * (n_blocks - 1)
    return first + rest + n_blocks * (conv(n, n, 27, n_positions) + conv(n, 4 * n, 1, n_positions))


def test_flops_are_those_counted_by_hand():
    layers = layers_of(ResNet3D(50, 101))
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
