"""Clips whose evidence has a known place and time, and a small network that has learnt them.

A disc of stripes is somewhere on a textured ground, in some frames of a clip only. The class is where its
stripes drift: left, right, up or down. Nothing outside of the disc, and no single frame, tells it.

    python tests/drifting_stripes.py

trains the network (five minutes) and writes tests/golden/drifting_stripes.npz, its weights in float16.
"""
import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from conftest import GOLDEN, network

from model.device import normalise
from run.spec import ClipSpec

CLASSES = ("DriftRight", "DriftLeft", "DriftDown", "DriftUp")
CLIP = ClipSpec(sample_size=48, sample_duration=16)
STEPS, BATCH = 500, 16
WEIGHTS = GOLDEN / "drifting_stripes.npz"


def draw_clip(class_index, rng, n_frames=16, height=48, width=48):
    """Return frames `[T, H, W, 3] uint8` and where the disc is, `[T, H, W] bool`."""
    ground = cv2.resize(rng.integers(0, 110, (6, 6, 3)).astype(np.uint8), (width, height)).astype(float)
    colour, phase = rng.integers(140, 256, 3), rng.uniform(0, 6)
    radius = min(height, width) * rng.uniform(0.15, 0.23)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    n_shown = int(rng.integers(n_frames * 3 // 8, n_frames * 5 // 8 + 1))
    begin = int(rng.integers(0, n_frames - n_shown + 1))
    rows, columns = np.mgrid[:height, :width]
    disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    along = (columns - x if class_index < 2 else rows - y) * 43 / min(height, width)
    frames, is_disc = [], np.zeros((n_frames, height, width), bool)
    for t in range(n_frames):
        frame = ground.copy()
        if begin <= t < begin + n_shown:
            wave = np.sin(0.9 * along + phase + (t if class_index % 2 else -t))
            frame[disc] = (colour * (0.55 + 0.45 * wave[..., None]))[disc]
            is_disc[t] = disc
        frames.append((frame + rng.normal(0, 4, frame.shape)).clip(0, 255))
    return np.stack(frames).astype(np.uint8), is_disc


def draw_clips(n, seed):
    """Return class indices `[n]`, clips `[n, T, H, W, 3] uint8` and their discs `[n, T, H, W] bool`."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(CLASSES), n)
    clips, discs = zip(*(draw_clip(each, rng) for each in classes))
    return classes, np.stack(clips), np.stack(discs)


def random_network(seed=0):
    """Return the network before its training."""
    paddle.seed(seed)
    return network(n_classes=len(CLASSES), resnet_widen_factor=0.09375, conv1_t_size=3)


def trained_network():
    """Return the network with the weights of the file."""
    net = random_network()
    with np.load(WEIGHTS) as file:
        net.set_state_dict({name: file[name].astype(np.float32) for name in file.files})
    net.eval()
    return net


def train():
    """Train the network and write its weights."""
    net = random_network()
    schedule = paddle.optimizer.lr.OneCycleLR(0.05, STEPS)
    optimizer = paddle.optimizer.Momentum(schedule, 0.9, net.parameters(), weight_decay=1e-3)
    for step in range(STEPS):
        classes, clips, _ = draw_clips(BATCH, 1000 + step)
        loss = F.cross_entropy(net(normalise(clips, CLIP)), paddle.to_tensor(classes))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {float(loss):.3f}")
    np.savez_compressed(WEIGHTS, **{n: v.numpy().astype(np.float16) for n, v in net.state_dict().items()})


if __name__ == "__main__":
    train()
