"""A step of fine-tuning on a CPU against PyTorch's: time and memory, ResNet3D-50, clips of 16 x 112 x 112.

    python benchmarks/bench_step.py

layer4 and fc are trained: forward, loss, backward and SGD with momentum, on a ready-made batch. Two pairs:
the default, where the frozen part's BatchNorms are in train mode, as in the reference; and --freeze_bn,
where they are in eval mode, in PyTorch under no_grad. Each way has a process of its own with all cores;
PyTorch gets channels_last_3d where that is faster for it. The floor of --freeze_bn is its frozen part
alone: one forward pass through oneDNN. The CPU time is that of all threads, spinning included; it tells
more than the clock where others use the machine.
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from paired import paired_runs, report, row

N_CLASSES, CLIP = 101, (3, 16, 112, 112)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.003, 0.9, 1e-3


def torch_net():
    """Return the reference's ResNet3D-50 in PyTorch, written apart from `model/`."""
    import torch
    from torch import nn

    def conv(n_in, n_out, size, stride=1):
        return nn.Conv3d(n_in, n_out, size, stride, padding=size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, n_in, n, stride):
            super().__init__()
            self.conv1, self.bn1 = conv(n_in, n, 1), nn.BatchNorm3d(n)
            self.conv2, self.bn2 = conv(n, n, 3, stride), nn.BatchNorm3d(n)
            self.conv3, self.bn3 = conv(n, 4 * n, 1), nn.BatchNorm3d(4 * n)
            self.downsample = nn.Identity()
            if stride != 1 or n_in != 4 * n:
                self.downsample = nn.Sequential(conv(n_in, 4 * n, 1, stride), nn.BatchNorm3d(4 * n))

        def forward(self, x):
            out = torch.relu_(self.bn1(self.conv1(x)))
            out = torch.relu_(self.bn2(self.conv2(out)))
            return torch.relu_(self.bn3(self.conv3(out)) + self.downsample(x))

    stem = [nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False), nn.BatchNorm3d(64), nn.ReLU(inplace=True)]
    stages, n_in = [nn.Sequential(*stem, nn.MaxPool3d(3, 2, 1))], 64
    for n, n_blocks, stride in zip((64, 128, 256, 512), (3, 4, 6, 3), (1, 2, 2, 2)):
        blocks = [Block(n_in if i == 0 else 4 * n, n, stride if i == 0 else 1) for i in range(n_blocks)]
        stages.append(nn.Sequential(*blocks))
        n_in = 4 * n
    head = nn.Sequential(stages.pop(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(n_in, N_CLASSES))
    return nn.Sequential(*stages), head


def torch_step(n_clips, is_frozen_bn, channels_last):
    """Return a function that takes one step in PyTorch."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    trunk, head = torch_net()
    clips = torch.randn(n_clips, *CLIP)
    if channels_last:
        layout = torch.channels_last_3d
        trunk, head, clips = (x.to(memory_format=layout) for x in (trunk, head, clips))
    labels = torch.arange(n_clips)
    trunk.requires_grad_(False)
    trunk.train(not is_frozen_bn)
    optimizer = torch.optim.SGD(head.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step():
        with torch.set_grad_enabled(not is_frozen_bn):
            features = trunk(clips)
        loss = torch.nn.functional.cross_entropy(head(features), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def paddle_step(n_clips, is_frozen_bn, trunk_alone):
    """Return a function that takes one step as train.py does, or runs the frozen part alone."""
    import paddle

    from model import networks
    from model.device import prepare_device
    from model.inference import evaluator
    from model.training.optimization import DampedMomentum, build_scheduler, train_from, training_loss
    from run.spec import NetworkSpec, Recipe

    paddle.set_device("cpu")
    prepare_device()
    paddle.seed(0)
    net = networks.build(NetworkSpec("resnet", {"n_classes": N_CLASSES}))
    trained = train_from(net, "layer4")
    recipe = Recipe(learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    optimizer = DampedMomentum(trained, build_scheduler(recipe), recipe)
    clips, labels = paddle.randn([n_clips, *CLIP]), paddle.arange(n_clips)
    trunk, head = net.split("layer4")
    net.train()
    features = evaluator(trunk) if is_frozen_bn else trunk
    if trunk_alone:
        return lambda: features(clips)

    def step():
        loss = training_loss(head(features(clips)), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


# Each way: who computes, --freeze_bn, and channels last or the frozen part alone.
WAYS = {
    "PyTorch": (torch_step, False, False),
    "PyTorch, channels last": (torch_step, False, True),
    "PyTorch, frozen BN": (torch_step, True, False),
    "PyTorch, frozen BN, channels last": (torch_step, True, True),
    "ours": (paddle_step, False, False),
    "ours, --freeze_bn": (paddle_step, True, False),
    "frozen part alone": (paddle_step, True, True),
}


def serve(name, n_clips):
    """Take a step for each line of stdin; print its seconds, its CPU seconds and the peak MB so far."""
    make, *arguments = WAYS[name]
    step = make(n_clips, *arguments)
    for _ in sys.stdin:
        clock, cpu = time.perf_counter(), time.process_time()
        step()
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        print(clock, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


class Stepper:
    """A process that takes steps in one way."""

    def __init__(self, name, n_clips):
        self.name, self.cpu_seconds = name, []
        command = [sys.executable, __file__, "--way", name, "--n_clips", str(n_clips)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        self()  # the first step sets up

    @property
    def __name__(self):
        return self.name

    def __call__(self):
        self.process.stdin.write("\n")
        seconds, cpu_seconds, self.peak_mb = map(float, self.process.stdout.readline().split())
        self.cpu_seconds.append(cpu_seconds)
        return seconds

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def faster(steppers):
    """Return the faster of two ways by three steps of each, and end the other."""
    seconds = paired_runs(*steppers, n=3)
    best = min(range(len(steppers)), key=lambda i: statistics.median(seconds[i]))
    for i, stepper in enumerate(steppers):
        if i != best:
            stepper.end()
    return steppers[best]


def main(n, n_clips):
    rows, facts = [], {}
    for what, *names in (
        ("fine-tuning step", "PyTorch", "ours"),
        ("fine-tuning step, --freeze_bn", "PyTorch, frozen BN", "ours, --freeze_bn", "frozen part alone"),
    ):
        layouts = [Stepper(name, n_clips) for name in (names[0], f"{names[0]}, channels last")]
        ways = [faster(layouts), *(Stepper(name, n_clips) for name in names[1:])]
        seconds = paired_runs(*ways, n=n)
        cpu_seconds = [way.cpu_seconds[-n:] for way in ways]
        for unit, (theirs, ours, *floor) in (("s", seconds), ("s of CPU time", cpu_seconds)):
            cells = (ours, theirs, *floor)
            rows.append(row(f"{what} of {n_clips} clips, {unit}", *cells, more_is_better=False))
        rows.append(row(f"{what}, peak MB", ways[1].peak_mb, ways[0].peak_mb, more_is_better=False))
        facts[what] = f"against {ways[0].name}"
        for way in ways:
            way.end()
    report(rows, n_clips=n_clips, **facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=5, help="paired runs")
    parser.add_argument("--n_clips", type=int, default=4, help="clips in a step")
    parser.add_argument("--way", choices=WAYS, help="for the benchmark's own processes")
    options = parser.parse_args()
    if options.way:
        serve(options.way, options.n_clips)
    else:
        main(options.n, options.n_clips)
