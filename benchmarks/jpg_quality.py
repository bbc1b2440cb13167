"""Which jpg quality? Size, decode time and error against the video, for one frame in ten.

    python benchmarks/jpg_quality.py FOLDER_OF_VIDEOS > docs/jpg_quality.txt

The last row is what `ffmpeg -i video image_%05d.jpg` writes, the reference's way, where ffmpeg is
installed. The error is the mean absolute difference of 8-bit RGB samples between the decoded jpg and
the decoded video: at full size, and after the short side is scaled to 112 as for the network.
"""
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from datasets.pixels import encode_frame
from datasets.resize import bilinear
from datasets.spatial import short_side_crop
from datasets.video import read_frames

N_FRAMES_UCF101 = 2_486_290


def at_112(rgb):
    """Return a frame with its short side at 112 pixels, as the network takes it."""
    crop = short_side_crop(rgb.shape[1], rgb.shape[0], 112)
    small = np.empty((*crop.shape, 3), np.uint8)
    bilinear(*crop)(rgb, small)
    return small.astype(int)


def ffmpeg_jpgs(path):
    """Return the jpgs, as bytes, that ffmpeg writes at its default quality."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-vf", "scale=-1:240"]
        subprocess.run([*command, "-threads", "1", f"{folder}/%05d.jpg"], check=True)
        return [jpg.read_bytes() for jpg in sorted(Path(folder).iterdir())]


def measure(jpgs, originals, small):
    """Return kB a frame, GB for UCF-101, decode time in ms and the two errors."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        decoded = [simplejpeg.decode_jpeg(jpg) for jpg in jpgs]
        times.append((time.perf_counter() - start) / len(jpgs) * 1000)
    error = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, originals)])
    error_112 = np.mean([np.abs(at_112(a) - b).mean() for a, b in zip(decoded, small)])
    kilobytes = np.mean([len(jpg) for jpg in jpgs]) / 1000
    return kilobytes, kilobytes * N_FRAMES_UCF101 / 1e6, np.median(times), error, error_112


def main(folder):
    frames, reference_jpgs = [], []
    for path in sorted(Path(folder).rglob("*.avi")):
        copies = [frame for frame, n in read_frames(path) for _ in range(n)]
        frames += copies[::10]
        if shutil.which("ffmpeg"):
            reference_jpgs += ffmpeg_jpgs(path)[::10]
    originals = [frame.to_ndarray(format="rgb24") for frame in frames]
    small = [at_112(rgb) for rgb in originals]
    print(f"{len(frames)} frames of {folder}")
    print("quality  kB/frame  UCF-101 GB  decode ms  error  error at 112")
    rows = {}
    for quality in (20, 30, 40, 50, 60, 70, 80, 90, 95):
        jpgs = [encode_frame(frame, 240, quality) for frame in frames]
        rows[quality] = measure(jpgs, originals, small)
    if reference_jpgs:
        rows["ffmpeg"] = measure(reference_jpgs, originals, small)
    for name, row in rows.items():
        print("{:>7}{:10.2f}{:12.1f}{:11.3f}{:7.2f}{:14.2f}".format(name, *row))
    versions = {"machine": platform.platform(), "simplejpeg": simplejpeg.__version__}
    rounded = {name: [round(float(value), 3) for value in row] for name, row in rows.items()}
    print(json.dumps({**versions, "rows": rounded}))


if __name__ == "__main__":
    main(sys.argv[1])
