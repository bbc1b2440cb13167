"""Decode the files that people bring, by this project and by others, and compare with ffmpeg's frames.

    python benchmarks/torture.py --out docs/torture.txt

makes the files of `torture_files.py` with the ffmpeg that is installed, decodes each in a process of its own
with a time limit, and prints a row a file: `ok` if frames and their number are ffmpeg's, or if a file that
is not whole is refused. Else the row says what is wrong: `25 frames`, `pixels` with their mean error in
levels of 255, `refused` for a whole file, `hangs`, `crashes`. OpenCV, decord, torchcodec and imageio are
compared if they are installed. The exit code is 1 if this project has a wrong row.
"""
import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from torture_files import FILES, make

from datasets.pixels import jpg_planes
from datasets.video import open_video
from datasets.workers import in_processes
from run.console import UserError, run_script
from run.files import atomic_write

SIZE = 120  # short side of the frames that this project is asked for
OUR_BOUND = 3  # levels, mean of a frame
# What the others do on the way to RGB, in levels: other chroma filters. A wrong matrix or range is more.
THEIR_BOUND = 8
TIME_LIMIT = 20
N_MOST = 5000  # frames; nothing here has as many


def ffmpeg(path, *arguments):
    """Return what ffmpeg writes to its stdout."""
    stream = ["-map", "0:v:1"] if path.name == "motion_photo.mp4" else []
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{path}", *stream, *arguments, "-"]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60).stdout


def ffmpeg_planes(path):
    """Yield ffmpeg's frames as `[samples] uint8` of Y, Cb and Cr, scaled, in jpg's range and matrix."""
    scale = f"scale='if(gt(iw,ih),-1,{SIZE})':'if(gt(iw,ih),{SIZE},-1)':out_color_matrix=bt601:out_range=full"
    content = ffmpeg(path, "-vf", f"{scale},format=yuvj420p", "-strict", "-1", "-f", "yuv4mpegpipe")
    head, _, frames = content.partition(b"\n")
    if not frames:
        return
    width, height = (int(re.search(rb" %c(\d+)" % letter, head)[1]) for letter in b"WH")
    n = width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    for begin in range(len(b"FRAME\n"), len(frames), n + len(b"FRAME\n")):
        yield np.frombuffer(frames, np.uint8, n, begin)


def ffmpeg_rgb(path):
    """Yield ffmpeg's frames as `[H, W, 3] uint8 RGB`, as large as they are."""
    content, at = ffmpeg(path, "-pix_fmt", "rgb24", "-vf", "null", "-c:v", "ppm", "-f", "image2pipe"), 0
    while at < len(content):
        head = re.compile(rb"P6\s(\d+)\s(\d+)\s255\s").match(content, at)
        width, height = int(head[1]), int(head[2])
        yield np.frombuffer(content, np.uint8, width * height * 3, head.end()).reshape(height, width, 3)
        at = head.end() + width * height * 3


def our_planes(path):
    reformatters = {}
    with open_video(path) as video:
        for frame, n_copies in video.frames():
            if n_copies:
                planes = jpg_planes(frame, SIZE, reformatters, video.sides)
                samples = np.concatenate([plane.ravel() for plane in planes])
            for _ in range(n_copies):
                yield samples


def opencv(path):
    import cv2

    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError("not opened")
    while True:
        is_read, frame = capture.read()
        if not is_read:
            return
        yield frame[..., ::-1]


def decord(path):
    import decord

    reader = decord.VideoReader(str(path))
    for i in range(len(reader)):
        yield reader[i].asnumpy()


def torchcodec(path):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path))
    for i in range(len(decoder)):
        yield decoder[i].permute(1, 2, 0).numpy()


def imageio(path):
    import imageio.v3

    yield from imageio.v3.imiter(path, plugin="FFMPEG")


OTHERS = {"OpenCV": ("cv2", opencv), "decord": ("decord", decord)}
OTHERS |= {"torchcodec": ("torchcodec", torchcodec), "imageio": ("imageio_ffmpeg", imageio)}


def compared(decode, path, expected):
    """Return `(number of frames, error, words)`: the largest mean error of a frame, why it was refused."""
    n, error = 0, 0.0
    expected = iter(expected)
    try:
        for n, frame in enumerate(decode(path), start=1):
            other = next(expected, None)
            if other is not None and other.shape != frame.shape:
                error = 255.0
            elif other is not None:
                error = max(error, float(np.abs(frame.astype(np.int16) - other).mean()))
            if n >= N_MOST:
                break
    except UserError as refusal:
        return n, error, str(refusal)
    except Exception as failure:
        if decode is our_planes:
            raise
        return n, error, f"{type(failure).__name__}: {failure}"
    return n, error, None


def measure(name, path, decoder):
    """Return what a decoder makes of a file; in a process of its own."""
    is_refused = isinstance(FILES[name][0], str)  # ffmpeg may make millions of frames of it
    if decoder is None:
        return compared(our_planes, path, () if is_refused else ffmpeg_planes(path))
    return compared(OTHERS[decoder][1], path, () if is_refused else ffmpeg_rgb(path))


def verdict(result, right, bound):
    """Return "ok", or what is wrong in a few words."""
    if isinstance(result, Exception):
        return "hangs" if "--time_limit" in str(result) else "crashes"
    n, error, refusal = result
    if isinstance(right, str):
        return "ok" if refusal else f"{n} frames"
    if refusal:
        return "refused"
    if n != right:
        return f"{n} frames" if n < N_MOST else f"{n}+ frames"
    return "ok" if error < bound else f"pixels {error:.0f}"


def ours_is_right(name, result):
    """Return "" if this project's result is the one that is stated, else what is wrong."""
    right = FILES[name][0]
    if isinstance(result, Exception):
        return str(result)
    n, error, refusal = result
    if isinstance(right, str):
        return "" if refusal and right in refusal else f"{right!r} expected, got {refusal or f'{n} frames'}"
    if refusal:
        return refusal
    if right is not None and n != right:
        return f"{n} frames, not {right}"
    return "" if error < OUR_BOUND else f"{error:.1f} levels from ffmpeg's"


def n_of_ffmpeg(path):
    return sum(1 for _ in ffmpeg_planes(path))


def is_told(path):
    with open_video(path) as video:
        return video.is_told


def ours(folder, names):
    """Return `{name: what is wrong or ""}` for this project, ffmpeg's own number being checked as well."""
    wrong = {}
    tasks = [(name, folder / name, None) for name in names]
    for (name, path, _), result in in_processes(measure, tasks, 2, TIME_LIMIT):
        right = FILES[name][0]
        wrong[name] = ours_is_right(name, result)
        if not isinstance(right, str) and not wrong[name]:
            n = n_of_ffmpeg(path)
            if n != result[0]:
                wrong[name] = f"{result[0]} frames, ffmpeg has {n}"
            elif is_told(path) == ("note" in FILES[name][1:-1]):
                wrong[name] = "a note that nothing tells its length is " + (
                    "missing" if is_told(path) else "not due"
                )
    return wrong


def installed():
    """Return the other decoders that are here, and the versions of all."""
    import av

    found, versions = [], [f"PyAV {av.__version__}"]
    for name, (module, _) in OTHERS.items():
        try:
            version = subprocess.run(
                [sys.executable, "-c", f"import {module}; print({module}.__version__)"],
                capture_output=True, text=True, check=True,
            ).stdout.split()[-1]  # fmt: skip
        except (subprocess.CalledProcessError, IndexError):
            continue
        found.append(name)
        versions.append(f"{name} {version}")
    return found, versions


def table(folder, names, decoders):
    """Return the rows `{name: {decoder: verdict}}` of the other decoders."""
    rows = {name: {} for name in names}
    for decoder in decoders:
        importlib.import_module(OTHERS[decoder][0])  # before the processes: torch takes seconds to load
        tasks = [(name, folder / name, decoder) for name in names]
        for (name, path, _), result in in_processes(measure, tasks, 2, TIME_LIMIT):
            right = FILES[name][0]
            right = n_of_ffmpeg(path) if right is None else right
            rows[name][decoder] = verdict(result, right, THEIR_BOUND)
    return rows


def summary(rows, decoder):
    """Count what a decoder does with all files."""
    verdicts = [row[decoder] for row in rows.values()]
    counts = {
        "right": verdicts.count("ok"),
        "silently wrong": sum("frames" in v or "pixels" in v for v in verdicts),
        "whole and refused": verdicts.count("refused"),
        "hangs or crashes": verdicts.count("hangs") + verdicts.count("crashes"),
    }
    return counts


def main(options):
    version = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()[2]
    with tempfile.TemporaryDirectory(prefix="torture_") as made:
        folder = options.folder or Path(made)
        failed = make(folder) if not options.folder else {}
        names = [name for name in FILES if name not in failed]
        wrong = ours(folder, names)
        others, versions = installed()
        rows = table(folder, names, others)
    lines = [
        f"{len(names)} files against the frames of ffmpeg {version}: benchmarks/torture.py",
        ", ".join(versions),
        "",
        f"{'':22}{'right':>12} {'this project':>14}" + "".join(f"{name:>14}" for name in others),
    ]
    for name in names:
        right = FILES[name][0]
        right = "refused" if isinstance(right, str) else "as ffmpeg" if right is None else f"{right} frames"
        row = "".join(f"{rows[name][other]:>14}" for other in others)
        lines.append(f"{name:22}{right:>12} {'WRONG' if wrong[name] else 'ok':>14}{row}")
    lines.append("")
    for key in ("right", "silently wrong", "whole and refused", "hangs or crashes"):
        counts = "".join(f"{summary(rows, other)[key]:>14}" for other in others)
        n = {"right": list(wrong.values()).count("")}.get(key, 0)
        lines.append(f"{key:34} {n:>14}{counts}")
    lines += ["", *(f"{name}: {text}" for name, text in wrong.items() if text)]
    lines += [f"{name}: not made by this ffmpeg: {text}" for name, text in failed.items()]
    text = "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
    print(text, end="")
    if options.out:
        atomic_write(options.out, text)
    if any(wrong.values()):
        raise UserError(f"{sum(map(bool, wrong.values()))} of {len(names)} rows are wrong")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--folder", type=Path, help="files that are made already")
    run_script(main, parser.parse_args())
