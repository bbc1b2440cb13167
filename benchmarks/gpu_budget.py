"""A GPU budget on paper: what a fine-tuning step of ResNet3D-50 needs at least. Nothing here is measured.

    python benchmarks/gpu_budget.py --ms_per_clip 8

counts FLOPs and bytes from the shapes of the layers, for a step of 128 clips of 16 x 112 x 112 and 101
classes, and divides by the peaks that NVIDIA publishes (dense, without sparsity). Each layer takes the
longer of its arithmetic and its memory traffic; every tensor is read and written once for each use, as
by kernels that are not fused. `--ms_per_clip` is the CPU time in which one process reads a clip. The memory
that a step keeps is counted, too.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import paddle
from paddle import nn

from model import networks
from run.spec import NetworkSpec

CLIP = (3, 16, 112, 112)
# NVIDIA's data sheets: V100 SXM2 32 GB; A100 SXM 80 GB; H200 SXM, whose tensor-core figures are given
# with sparsity, twice the dense ones. TFLOPS and GB/s. V100 has neither TF32 nor bf16; fp16, which
# `--amp O1` computes in, has bf16's peak on the others.
GPUS = {
    "V100": {"fp32": 15.7, "fp16": 125, "GB/s": 900},
    "A100": {"fp32": 19.5, "TF32": 156, "bf16": 312, "GB/s": 2039},
    "H200": {"fp32": 67, "TF32": 989 / 2, "bf16": 1979 / 2, "GB/s": 4800},
}
BYTES = {"fp32": 4, "TF32": 4, "bf16": 2, "fp16": 2}
STEPS = ("frozen part in train mode (default)", "--freeze_bn", "everything trained")


def layers_of(net):
    """Return `(name, layer, input shape, output shape)` of each layer that computes, for one clip."""
    found = []
    names = {id(layer): name for name, layer in net.named_sublayers()}

    def note(layer, inputs, output):
        found.append((names[id(layer)], layer, inputs[0].shape, output.shape))

    kinds = (nn.Conv3D, nn.BatchNorm3D, nn.Linear, nn.MaxPool3D)
    hooks = [x.register_forward_post_hook(note) for x in net.sublayers() if isinstance(x, kinds)]
    net.eval()
    with paddle.no_grad():
        net(paddle.zeros([1, *CLIP]))
    for hook in hooks:
        hook.remove()
    return found


def product(shape):
    result = 1
    for size in shape:
        result *= size
    return result


def forward_flops(layer, output_shape):
    """Return the FLOPs of a convolution or a linear layer, two for each multiply-add; 0 for others."""
    if isinstance(layer, nn.Conv3D):
        return 2 * product(output_shape) * product(layer.weight.shape[1:])
    if isinstance(layer, nn.Linear):
        return 2 * product(layer.weight.shape)
    return 0


def operations(layers, step, n_clips, begin="layer4"):
    """Yield `(FLOPs, values moved, weight values)` of each operation of a step.

    Values of activations have the precision's bytes, those of weights four.
    """
    begun = all_trained = step == "everything trained"
    for name, layer, inputs, outputs in layers:
        begun = begun or name.startswith(begin)
        x, y = n_clips * product(inputs), n_clips * product(outputs)
        w = sum(product(parameter.shape) for parameter in layer.parameters())
        flops = n_clips * forward_flops(layer, outputs)
        is_norm = isinstance(layer, nn.BatchNorm3D)
        has_relu = is_norm and "downsample" not in name
        # The statistics of a batch take a pass of their own; a relu reads and writes; a block's sum reads
        # two and writes one.
        n_passes = 2 if is_norm and (begun or step != "--freeze_bn") else 1
        yield flops, n_passes * x + y + 2 * y * has_relu + 3 * y * name.endswith("bn3"), w
        if not begun:
            continue
        if flops:
            yield flops, x + y, w  # gradient of the weights
            is_first = name == "conv1" or name in (f"{begin}.0.conv1", f"{begin}.0.downsample.0")
            if not is_first or (all_trained and name != "conv1"):
                yield flops, y + x, w  # gradient of the input
        else:
            yield 0, (5 if is_norm else 3) * x + 3 * y * has_relu, w
        yield 0, 0, 5 * w  # SGD reads weight, gradient and momentum, writes weight and momentum


def kept_values(layers, step, begin="layer4"):
    """Return how many values of a clip wait in memory for the backward pass, the clip itself included.

    Of each convolution what it takes and what it gives, once where two layers take the same, and the end of
    the last block. What lies before the trained part is not kept.
    """
    begun, n_values, last = step == "everything trained", product(CLIP), 0
    for name, layer, inputs, outputs in layers:
        begun = begun or name.startswith(begin)
        if begun and "downsample" not in name and name != "conv1" and not isinstance(layer, nn.BatchNorm3D):
            n_values += product(inputs)
        if begun and isinstance(layer, nn.BatchNorm3D):
            n_values += product(inputs)
            last = product(outputs)
    return n_values + last


def budget(layers, step, n_clips, gpu, precision):
    """Return TFLOP, GB and the three floors in seconds: arithmetic, memory, and layer by layer."""
    peak, bandwidth = GPUS[gpu][precision] * 1e12, GPUS[gpu]["GB/s"] * 1e9
    flops = n_bytes = seconds = 0
    for f, values, weights in operations(layers, step, n_clips):
        b = values * BYTES[precision] + weights * 4
        flops, n_bytes, seconds = flops + f, n_bytes + b, seconds + max(f / peak, b / bandwidth)
    return flops / 1e12, n_bytes / 1e9, flops / peak, n_bytes / bandwidth, seconds


def main(n_clips, ms_per_clip):
    layers = layers_of(networks.build(NetworkSpec()))
    forward = sum(forward_flops(layer, outputs) for _, layer, _, outputs in layers)
    print(f"forward pass of one clip: {forward / 1e9:.2f} GFLOP")
    size = n_clips * product(CLIP)
    print(f"host to device, a step of {n_clips} clips: {size / 1e6:.1f} MB of uint8")
    print()
    print("| step | GB kept for the backward pass, float32 | GB of weights, gradients, momentum |")
    print("| --- | ---: | ---: |")
    for step in STEPS:
        trained = [x for name, x, *_ in layers if step == STEPS[-1] or name.startswith(("layer4", "fc"))]
        n_weights, n_trained = (
            sum(parameter.size for layer in of for parameter in layer.parameters())
            for of in ([layer for _, layer, *_ in layers], trained)
        )
        kept = 4 * n_clips * kept_values(layers, step)
        print(f"| {step} | {kept / 1e9:.2f} | {4 * (n_weights + 2 * n_trained) / 1e9:.2f} |")
    print()
    print(
        "| step | GPU | precision | TFLOP | GB moved | arithmetic ms | memory ms | floor ms | clips/s "
        f"| loader clips/s for 95 % | CPU cores at {ms_per_clip:g} ms |"
    )
    print("| --- | --- | --- |" + " ---: |" * 8)
    for step in STEPS:
        for gpu, facts in GPUS.items():
            for precision in (name for name in facts if name != "GB/s"):
                tflop, gb, arithmetic, memory, floor = budget(layers, step, n_clips, gpu, precision)
                rate = n_clips / floor
                print(
                    f"| {step} | {gpu} | {precision} | {tflop:.2f} | {gb:.0f} | {1000 * arithmetic:.0f} "
                    f"| {1000 * memory:.0f} | {1000 * floor:.0f} | {rate:.0f} | {0.95 * rate:.0f} "
                    f"| {0.95 * rate * ms_per_clip / 1000:.1f} |"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n_clips", type=int, default=128, help="clips in a step")
    parser.add_argument("--ms_per_clip", type=float, default=8.0, help="CPU ms to read a clip")
    options = parser.parse_args()
    main(options.n_clips, options.ms_per_clip)
