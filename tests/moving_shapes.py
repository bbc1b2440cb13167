"""Make the small data of `make reproduce`: videos whose classes differ by motion, and a checkpoint.

    python tests/moving_shapes.py demo/videos demo/r3d10.pth

writes avi files in UCF-101's layout and a PyTorch checkpoint in the reference's. In every class a
bright shape of any size may be anywhere on a textured ground, in any frame: only its motion tells
the class. The classes keep their meaning under a mirror, as UCF-101's do.
"""
import argparse
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("MoveDown", "MoveUp", "ShapeGrows", "ShapeShrinks")
N_GROUPS = 25  # as in UCF-101; split 1 tests groups 1 to 7
WIDTH, HEIGHT = 80, 60


def draw_video(class_name, n_frames, rng):
    """Return the frames of one video, `[T, H, W, 3] uint8 BGR`."""
    ground = cv2.resize(rng.integers(0, 100, (8, 10, 3)).astype(np.uint8), (WIDTH, HEIGHT))
    colour = rng.integers(150, 256, 3).tolist()
    is_square = rng.random() < 0.5
    x, y = rng.uniform(10, WIDTH - 10), rng.uniform(0, HEIGHT)
    radius = rng.uniform(4, 16)
    step = rng.uniform(1.5, 3.0)
    frames = []
    for t in range(n_frames):
        frame, cy, r = ground.copy(), y, radius
        if class_name in ("MoveDown", "MoveUp"):
            cy = (y + step * t * (1 if class_name == "MoveDown" else -1)) % HEIGHT
        else:
            growth = step * t / 2 * (1 if class_name == "ShapeGrows" else -1)
            r = 4 + (radius - 4 + growth) % 12
        for wrapped in (cy - HEIGHT, cy, cy + HEIGHT):  # what leaves below comes back above
            center = (round(x), round(wrapped))
            if is_square:
                corners = [(round(c - s * r)) for s in (1, -1) for c in (x, wrapped)]
                cv2.rectangle(frame, tuple(corners[:2]), tuple(corners[2:]), colour, -1)
            else:
                cv2.circle(frame, center, round(r), colour, -1)
        frames.append(frame)
    return np.stack(frames)


def write_video(path, frames_bgr):
    """Write an avi file as UCF-101 has them: XviD (MPEG-4), 25 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"XVID"), 25, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise RuntimeError(f"{path}: this OpenCV cannot write avi files")
    for frame in frames_bgr:
        writer.write(frame)
    writer.release()


def make_videos(videos_path, n_groups=N_GROUPS, n_clips=2, seed=0):
    """Write `n_clips` videos for each class and group, of 24 to 48 frames."""
    rng = np.random.default_rng(seed)
    for class_name in CLASSES:
        for group in range(1, n_groups + 1):
            for clip in range(1, n_clips + 1):
                name = f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"
                frames = draw_video(class_name, int(rng.integers(24, 49)), rng)
                write_video(videos_path / class_name / name, frames)


def make_checkpoint(path, shapes, n_classes=39, seed=0):
    """Write a `.pth` as the reference does, of random weights: `shapes` maps names to shapes."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    state_dict = {}
    for name, shape in shapes.items():
        shape = [n_classes, *shape[1:]] if name.startswith(("fc.", "classifier.")) else shape
        if name.endswith("num_batches_tracked"):
            state_dict[name] = torch.tensor(0)
        elif name.endswith(("running_var", "weight")) and len(shape) == 1:
            state_dict[name] = torch.ones(shape)
        elif len(shape) == 1:
            state_dict[name] = torch.zeros(shape)
        else:
            n_out = shape[0] * int(np.prod(shape[2:]))
            state_dict[name] = torch.randn(shape, generator=generator) * (2 / n_out) ** 0.5
    path.parent.mkdir(parents=True, exist_ok=True)
    # What else the reference saves: the state of its optimiser and of its schedule.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [50, 100, 150])
    rest = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({"epoch": 200, "arch": "resnet-10", "state_dict": state_dict, **rest}, path)


def narrow_resnet10_shapes(widen_factor=0.25, conv1_t_size=3):
    """Return the names and shapes of a ResNet3D-10 that a CPU can train in a minute or two."""
    channels = [int(c * widen_factor) for c in (64, 128, 256, 512)]
    shapes = {"conv1.weight": [channels[0], 3, conv1_t_size, 7, 7]}

    def add_norm(name, n):
        shapes.update({f"{name}.{v}": [n] for v in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = []

    add_norm("bn1", channels[0])
    for stage, (n_in, n) in enumerate(zip([channels[0], *channels], channels), start=1):
        shapes[f"layer{stage}.0.conv1.weight"] = [n, n_in, 3, 3, 3]
        add_norm(f"layer{stage}.0.bn1", n)
        shapes[f"layer{stage}.0.conv2.weight"] = [n, n, 3, 3, 3]
        add_norm(f"layer{stage}.0.bn2", n)
        if stage > 1:
            shapes[f"layer{stage}.0.downsample.0.weight"] = [n, n_in, 1, 1, 1]
            add_norm(f"layer{stage}.0.downsample.1", n)
    return {**shapes, "fc.weight": [0, channels[-1]], "fc.bias": [0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("videos_path", type=Path)
    parser.add_argument("checkpoint_path", type=Path)
    options = parser.parse_args()
    make_videos(options.videos_path)
    make_checkpoint(options.checkpoint_path, narrow_resnet10_shapes())
