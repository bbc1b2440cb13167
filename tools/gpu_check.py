"""Find out in five minutes what this GPU does, before a run that takes hours. No data, no weights.

    python tools/gpu_check.py

prints a line for each of twelve items: ok, slow, skipped, or FAIL with what to do. The last is the bill of
the published recipe on UCF-101 and the command to start it with. All figures go to gpu_check.json. The exit
code is 1 if an item fails. `--quick` looks at the first three items, a quarter of a minute.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time

from run.arguments import Parser
from run.console import UserError, run_script, working
from run.files import atomic_write
from run.kinds import Kind


def check_options(argv=None):
    """Parse the command line."""
    parser = Parser(
        "Check a GPU before a run: versions, libraries, numbers, speed, readers, and what a run will cost.",
        "  python tools/gpu_check.py\n  python tools/gpu_check.py --quick",
    )
    parser.option("quick", False, Kind(bool, help="the first three items only"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a task as JSON, for the check itself
    parser.path("out", "gpu_check.json", "file for all figures")
    return parser.parse(argv)


if __name__ == "__main__":
    os.environ.setdefault("GLOG_minloglevel", "1")  # what Paddle says of the card is wanted here
    OPTIONS = check_options()
    with working("loading Paddle"):
        import model.device  # noqa: F401

import numpy as np
import paddle
import simplejpeg

from datasets.annotation import annotation_json
from datasets.clips import TrainingClips
from datasets.loader import ClipLoader
from datasets.samples import Samples
from datasets.stores import open_store
from datasets.stores.jpg_folders import frame_name
from model.gpu_check import Finding
from model.gpu_check.items import Measurements, Size, apart_by
from model.gpu_check.machine import environment, libraries, numbers
from model.gpu_check.speed import measured
from model.training.distributed import Ranks
from run.machine import default_readers, nvidia_smi
from run.spec import ClipSpec, Recipe

# UCF-101 split 1: training clips of an epoch, validation clips (three of each video). Recipe: 200 epochs.
N_TRAINING, N_VALIDATION, N_EPOCHS = 9_537, 3 * 3_783, 200
# What a card's use may grow by, in MB, while readers run: a process on it would take 200 and more.
MOST_HELD = 50
# Bytes that a step of ResNet3D-50 exchanges, all of it trained, and seconds to notice a lost rank.
N_GRADIENT_BYTES, LOST_RANK_S = 186_000_000, 10
LAUNCH = [sys.executable, "-m", "paddle.distributed.launch"]


class Check(Measurements):
    """All items: also those that read frames, start several processes, or sum up."""

    def readers(self):
        """Item 8: the readers on frames like UCF-101's, with the GPU in use beside them."""
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
            clips = small_videos(Path(folder), self.size)
            counts = sorted({1, max(1, default_readers() // 2), default_readers()})
            before = card_memory()
            found = {n: rate_of(clips, n) for n in counts}
        rates = {n: rate for n, (rate, _, _) in found.items()}
        best = max(rates, key=rates.get)
        _, start_s, held = found[best]
        needed = self.figures["step"]["clips_per_second"]
        figures = {"rates": rates, "n_threads": best, "clips_per_second": rates[best], "start_s": start_s}
        text = (
            f"{rates[best]:.0f} clips/s with --n_threads {best}, which start in {1e3 * start_s:.0f} ms; the "
            f"GPU takes {needed:.0f}"
        )
        left = children(os.getpid())
        if left or held > before + MOST_HELD:
            what = f"{len(left)} readers outlive their loader" if left else "readers take memory of the card"
            return Finding("FAIL", f"{text}; {what}: train with --n_threads 0, and report it", figures)
        if best != default_readers():
            self.options.append(f"--n_threads {best}")
        if rates[best] < 0.95 * needed:
            return Finding(
                "slow", f"{text}: the readers are too slow, take a machine with more cores", figures
            )
        return Finding("ok", text, figures)

    def several(self):
        """Item 11: two of several GPUs: same losses, speed of Paddle's SyncBatchNorm, the end of one rank."""
        if self.n_cards < 2:
            return Finding("skipped", "one GPU")
        with tempfile.TemporaryDirectory(prefix="gpu_check_log_") as logs:
            return self._two_of_several([*LAUNCH, *two_ranks(), "--log_dir", logs])

    def _two_of_several(self, launcher):
        found = {
            "alone": self.steps(2),
            "two": self.steps(launcher=launcher),
            "batchnorm_sync": self.steps(launcher=launcher, recipe={"batchnorm_sync": True}),
            "paddle_sync_batchnorm": self.steps(
                launcher=launcher, recipe={"batchnorm_sync": True}, speedups=["paddle_sync_batchnorm"]
            ),
        }
        found["exchange"] = self.measured("exchange", launcher=launcher, n_bytes=N_GRADIENT_BYTES)
        needed = [name for name in ("alone", "two", "batchnorm_sync", "exchange") if "error" in found[name]]
        if needed:
            texts = [f"{name}: {found[name]['error']}" for name in needed]
            return Finding("FAIL", "; ".join(texts), found)
        apart = apart_by(found["alone"]["losses"][0], found["batchnorm_sync"]["losses"][0])
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
            found["stop"] = stopped_run(Path(folder), self.size)
        text = ", ".join(
            f"{name} {each['clips_per_second']:.0f} clips/s"
            for name, each in found.items()
            if "step_s" in each
        )
        text += f", gradients {found['exchange']['gb_per_second']:.1f} GB/s"
        if apart > 5e-3:
            return Finding("FAIL", f"{text}; the first loss of two ranks is {apart:.1e} off one's", found)
        if found["stop"]:
            return Finding("FAIL", f"{text}; {found['stop']}", found)
        return Finding("ok", f"{text}; SIGTERM to the launcher saves, a lost rank ends the others", found)

    def bill(self):
        """Item 12: what the published recipe costs, and how to start it."""
        step, readers, scores = (self.figures[name] for name in ("step", "readers", "scores"))
        rate = min(step["clips_per_second"], readers["clips_per_second"])
        validation = min(scores["clips_per_second"], readers["clips_per_second"])
        train_s, validate_s = N_TRAINING / rate, N_VALIDATION / validation
        hours = N_EPOCHS * (train_s + validate_s) / 3600
        bound = "GPU" if step["clips_per_second"] <= readers["clips_per_second"] else "readers"
        command = " ".join([*self.environment, "python train.py", *self.options])
        text = (
            f"an epoch of UCF-101 takes {train_s:.0f} s of training and {validate_s:.0f} s of validation, "
            f"{N_EPOCHS} epochs {hours:.1f} h, bound by the {bound}; start with: {command}"
        )
        if self.faster:
            text += f"; faster, with other numbers: {command} {self.faster[0]}"
        figures = {"epoch_s": train_s + validate_s, "hours": hours, "bound_by": bound, "command": command}
        return Finding("ok", text, figures)


def small_videos(folder, size):
    """Write frames of UCF-101's size and their annotation; return the clips of a training on them."""
    rng, clip = np.random.default_rng(4), ClipSpec.of(size.clip)
    samples = {"training": Samples(), "validation": Samples(), "testing": Samples()}
    n_frames = 2 * clip.sample_duration
    for number in range(size.n_videos):
        key = f"v{number:04d}"
        place = folder / "jpg" / "A" / key
        place.mkdir(parents=True)
        coarse = rng.integers(0, 256, (30, 40, 3), np.uint8)
        frame = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1))
        content = simplejpeg.encode_jpeg(frame, quality=80)
        for i in range(1, n_frames + 1):
            (place / frame_name(i)).write_bytes(content)
        subset = "validation" if number % 4 == 3 else "training"
        samples[subset].append(key, f"A/{key}", 0, 1, n_frames + 1)
    (folder / "a.json").write_text(annotation_json(["A"], samples))
    return TrainingClips(open_store(folder / "jpg"), samples["training"], clip, Recipe())


def rate_of(clips, n_threads):
    """Return a loader's clips a second, the seconds to its first batch, and the MB in use on the card."""
    batches = clips.batches(0, 16) * max(1, 320 // len(clips))
    begin = time.perf_counter()
    loader = iter(ClipLoader(clips, batches, n_threads))
    next(loader)
    start_s, held = time.perf_counter() - begin, card_memory()
    begin, n = time.perf_counter(), 0
    for pixels, *_ in loader:
        n += len(pixels)
    return n / (time.perf_counter() - begin), start_s, held


def card_memory():
    """Return the MB in use on all cards together, 0 where nvidia-smi does not tell."""
    rows = nvidia_smi("--query-gpu=memory.used") or []
    return sum(int(row[0].split()[0]) for row in rows if row[0].split()[0].isdecimal())


def two_ranks():
    """Return the launcher's options for two ranks: two GPUs, else two processes on the CPU."""
    return ["--gpus", "0,1"] if paddle.device.cuda.device_count() > 1 else ["--nproc_per_node", "2"]


def stopped_run(folder, size):
    """Train on two ranks and stop by SIGTERM, then continue and kill one; return what went wrong or ""."""
    small_videos(folder, size)
    network = [f"--{name}={value}" for name, value in size.network.items() if name != "n_classes"]
    clip = [f"--{name}={value}" for name, value in size.clip.items()]
    data = "--video_path jpg --annotation_path a.json --pretrain_path none --n_epochs 10000 --batch_size 8"
    launcher = [*LAUNCH, *two_ranks(), "--log_dir", str(folder / "log")]
    options = ["--root_path", str(folder), *data.split(), "--checkpoint", "10000", "--n_threads", "1"]
    command = [*launcher, str(ROOT / "train.py"), *options, *network, *clip]
    log = folder / "results/train.jsonl"
    begun = lambda: log.exists() and log.read_text().count("\n") > 1
    # A group of its own, so that no rank outlives the check.
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, **silent)
    try:
        if not wait_until(begun, 120, process):
            return "a training on two ranks does not finish an epoch; see docs/distributed.md"
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: False, 60, process)
        if not list((folder / "results").glob("save_*.pdparams")):
            return "SIGTERM to the launcher saves nothing; use --checkpoint_steps"
        end_group(process)
        n_lines = log.read_text().count("\n")
        process = subprocess.Popen([*command, "--resume_path", "results"], **silent)
        if not wait_until(lambda: log.read_text().count("\n") > n_lines + 1, 120, process):
            return "a training on two ranks does not continue; see docs/distributed.md"
        os.kill(max(children(process.pid)), signal.SIGKILL)
        wait_until(lambda: False, LOST_RANK_S, process)
        if process.poll() is None:
            return f"a rank was killed and the others do not end in {LOST_RANK_S} s; watch such runs yourself"
    finally:
        end_group(process)
    return ""


def end_group(process):
    """End a process that leads a group, and all that is left of the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(pid):
    """Return the ids of a process's own children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found


def wait_until(condition, seconds, process):
    """Wait for a condition; return whether it came true before the process ended and the time was over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.1)
    return False


ITEMS = (
    "environment",
    "libraries",
    "numbers",
    "step",
    "flags",
    "amp",
    "everything",
    "readers",
    "determinism",
)
ITEMS += ("scores", "several", "bill")
# Without these the items behind them make no sense.
NEEDED = {"environment", "libraries", "step"}


def run_items(check, names, first=None):
    """Run items and print a line for each as it ends; return whether none failed."""
    first = first or {"environment": environment, "libraries": libraries, "numbers": numbers}
    is_good = True
    for number, name in enumerate(names, start=1):
        with working(name):
            try:
                finding = first[name]() if name in first else getattr(check, name)()
            except Exception as error:  # an item's fault is its own; the bill needs what others found
                finding = Finding("FAIL", f"{type(error).__name__}: {' '.join(str(error).split()):.300}")
        print(f"{number:2d} {name}: {finding.status}: {finding.text}", flush=True)
        check.figures[name] = {"status": finding.status, "text": finding.text, **finding.figures}
        if finding.status == "FAIL":
            is_good = False
            if name in NEEDED:
                print(f"   the other items need {name}, and are left out")
                break
    return is_good


def main(options):
    if options.measure:
        found = measured(json.loads(options.measure))
        if Ranks().is_first:
            print(json.dumps(found))
        return
    if not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
        kind = "sees no GPU; nvidia-smi shows whether the driver does"
        if not paddle.is_compiled_with_cuda():
            kind = "is for CPUs"
        raise UserError(
            f"no GPU to check: this Paddle ({paddle.__version__}) {kind}. docs/gpu.md says what to do"
        )
    capability = tuple(paddle.device.cuda.get_device_capability())
    amps = [amp for amp, least in model.device.CAPABILITIES.items() if capability >= least]
    check = Check(__file__, Size(), paddle.device.cuda.device_count(), amps)
    is_good = run_items(check, ITEMS[:3] if options.quick else ITEMS)
    atomic_write(options.out, json.dumps(check.figures, indent=1))
    if not is_good:
        raise UserError(f"the check found faults, see the FAIL lines above and {options.out}")


if __name__ == "__main__":
    run_script(main, OPTIONS)
