"""Do the harm and count what was lost: kills, faults and bad files, on generated videos.

    python benchmarks/faults.py --seed 0 --n_kills 60 --out docs/faults.txt

Kills every stage at random moments, many in a row, continues with the same command and holds what comes
out against an undisturbed run, bit for bit; then breaks one thing at a time, which has to end in one
line that says what to do, with all earlier files whole; then feeds the readers thousands of bad files.
Prints a summary, which it also writes; exit code 1 where anything was lost.
"""
import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from moving_shapes import make_checkpoint, make_videos, narrow_resnet10_shapes

from datasets.annotation import read_annotation
from model.checkpoint import load_checkpoint, save_checkpoint
from run.console import UserError, progress_bar
from run.files import atomic_write

SHARES = {"generate": 0.3, "convert": 0.08, "train": 0.4, "test": 0.12, "eval": 0.1}  # of all kills
TIMEOUT = 120
N_EPOCHS = 4
N_FAULTS = 27  # for the progress bar
N_BAD_FILES = {"annotations": 5000, "results": 4000, "weights": 3000}
DATA = "--video_path jpg --annotation_path ucf101_01.json".split()
SMALL = (
    "--pretrain_path none --model_depth 10 --resnet_widen_factor 0.125 --conv1_t_size 3 --sample_size 32 "
    "--sample_duration 8 --batch_size 4 --learning_rate 0.01 --n_val_samples 1 --keep 99"
).split()


class Bench:
    """The temporary folder, the processes started in it, and what was counted."""

    def __init__(self, folder, rng, bar):
        self.folder, self.rng, self.bar = folder, rng, bar
        self.processes = []
        self.kills = collections.Counter()  # (stage, signal name)
        self.outcomes = collections.Counter()  # (stage, what came of a run)
        self.lost, self.wrong, self.broken, self.faults = [], [], [], []

    def start(self, command, max_file_bytes=None):
        """Start a script in the folder as the leader of a process group of its own."""
        limit = None
        if max_file_bytes is not None:
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
        script, *arguments = map(str, command)
        # Files and not pipes: an orphan that holds a pipe open would make this script wait for it.
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=self.folder, stdout=out, stderr=err, start_new_session=True, preexec_fn=limit,
        )
        process.out, process.err = out, err
        self.processes.append(process)
        return process

    def finish(self, process, timeout=TIMEOUT):
        """Wait for a process and its group; return `(exit code, stdout, stderr)`."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.broken.append(f"{Path(process.args[1]).name} did not end within {timeout} s")
            end_group(process)
        if not wait_until(lambda: not members(process.pid), 15):
            self.broken.append(f"{Path(process.args[1]).name} left processes behind")
            end_group(process)
        self.processes.remove(process)
        texts = []
        for file in (process.out, process.err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return process.returncode, *texts

    def run(self, command, **limits):
        """Run a script to its end; return `(exit code, stdout, stderr)`."""
        return self.finish(self.start(command, **limits))

    def must(self, command):
        """Run a script that has to succeed; return its stdout."""
        code, out, err = self.run(command)
        if code != 0:
            raise SystemExit(f"error: the undisturbed {command[0]} ended with {code}: {err[-1000:]}")
        return out


def members(group):
    """Return the ids of a process group's living processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # gone meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def end_group(process):
    """Kill what is left of a process group that this script started, what it still forks included."""
    while left := members(process.pid):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait_until(condition, seconds):
    """Poll a condition; return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# The stages: a command, what it makes, what must hold after a kill ---------------------------------


def arrays_digest(path):
    """Return a short text for all that a checkpoint holds: its groups of tensors and its metadata.

    Except for how many epochs were asked for, which differs between the runs that are compared.
    """
    groups, metadata = load_checkpoint(path)
    content = metadata.to_json()
    if content["recipe"]:
        del content["recipe"]["n_epochs"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for group in sorted(groups):
        for name in sorted(groups[group]):
            array = np.ascontiguousarray(groups[group][name])
            digest.update(f"{group} {name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def train_products(folder):
    """Return what a training leaves, by name: its checkpoints, and its log without times."""
    products = {path.name: arrays_digest(path) for path in sorted(folder.glob("*.pdparams"))}
    entries = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    epochs = [{k: v for k, v in e.items() if "second" not in k} for e in entries if "epoch" in e]
    return {**products, "epochs of train.jsonl": epochs}


def tree_products(folder):
    """Return the content of all frames and annotations, and of temporary folders left behind."""
    names = [p for p in folder.rglob("*") if p.suffix == ".jpg" or p.name.startswith("ucf101_")]
    left = [p.name for p in folder.rglob(".*.tmp")]
    return {**{str(p.relative_to(folder)): p.read_bytes() for p in names}, "left behind": left}


def file_products(folder):
    """Return the content of every file of `test.py` and `eval_accuracy.py` but locks and journals."""
    products = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}
    if "val_run.json" in products:  # its options name the folder, and the rate is this run's
        run = json.loads(products["val_run.json"])
        products["val_run.json"] = {**run, "options": None, "clips_per_second": None}
    return products


def whole_checkpoints(folder, _):
    """Check that every checkpoint under its final name loads."""
    for path in folder.glob("*.pdparams"):
        load_checkpoint(path)


def whole_frames(folder, expected):
    """Check that every video that counts as done has all its frames, byte for byte."""
    journal = folder / "jpg/frames.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    for video in [e["video"] for e in map(json.loads, lines) if "video" in e]:
        for name, content in expected.items():
            if name.startswith(f"jpg/{video}/") and (folder / name).read_bytes() != content:
                raise UserError(f"{name} is broken")
    for path in folder.glob("ucf101_*.json"):
        read_annotation(path)


def whole_results(folder, _):
    """Check that a results file is whole where there is one."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


def train_command(bench, name, *options, n_epochs=N_EPOCHS, n_threads=0):
    """Return the command that starts a training, or continues where its folder has a checkpoint."""
    resume = ["--resume_path", name] if list((bench.folder / name).glob("save_*.pdparams")) else []
    run = ["--result_path", name, "--n_epochs", n_epochs, "--n_threads", n_threads, *resume]
    return ["train.py", *DATA, *SMALL, *run, *options]


def stages(bench):
    """Return for each stage `(command of a folder, products of a folder, check after a kill)`."""

    def train(name):
        # No checkpoint inside the epoch in every third run; the readers may change at any time.
        often = [] if name[-1] in "369" else ["--checkpoint_steps", 2]
        return train_command(bench, name, *often, n_threads=bench.rng.choice([0, 2]))

    def test(name):
        options = "--inference_stride 3 --inference_batch_size 4 --n_threads".split()
        inputs = ["--resume_path", "train/best.pdparams", "--result_path", name]
        return ["test.py", *DATA, *inputs, *options, bench.rng.choice([0, 2])]

    def evaluate(name):
        shutil.copytree(bench.folder / "test", bench.folder / name, dirs_exist_ok=True)
        return ["eval_accuracy.py", "ucf101_01.json", f"{name}/val.json", "--save"]

    generate = lambda name: ["generate_video_jpgs.py", "videos", f"{name}/jpg", "--size", 60]
    convert = lambda name: ["convert_to_paddle.py", "weights.pth", f"{name}/weights.pdparams"]
    checkpoints = lambda folder: {p.name: arrays_digest(p) for p in folder.glob("*.pdparams")}
    return {
        "generate": (generate, tree_products, whole_frames),
        "convert": (convert, checkpoints, whole_checkpoints),
        "train": (train, train_products, whole_checkpoints),
        "test": (test, file_products, whole_results),
        "eval": (evaluate, file_products, whole_results),
    }


def undisturbed(bench, stage, command):
    """Run a stage without harm; return the seconds that it takes and its stdout."""
    start = time.monotonic()
    out = bench.must(command(stage))
    seconds = time.monotonic() - start
    if stage == "generate":  # what the later stages read
        shutil.copytree(bench.folder / "generate", bench.folder, dirs_exist_ok=True)
    return seconds, out


def compare(bench, name, products, expected):
    """Count a run whose products are not those of the undisturbed run; return whether they are."""
    if products == expected:
        return True
    what = [k for k in {**expected, **products} if products.get(k) != expected.get(k)]
    bench.wrong.append(f"{name}: {len(what)} products differ: {', '.join(sorted(what)[:4])}")
    bench.lost.append(bench.wrong[-1])
    return False


# Kills ---------------------------------------------------------------------------------------------


def kill_stage(bench, stage, definition, n_kills, seconds, expected, expected_out):
    """Kill runs of a stage, one to four times each, until `n_kills` hit; finish and compare each run."""
    command, products, check = definition
    n_hit, number = 0, 0
    while n_hit < n_kills:
        number += 1
        name = f"{stage}_{number}"
        for _ in range(int(bench.rng.integers(1, 5))):
            n_hit += kill_once(bench, stage, command(name), seconds)
            try:
                check(bench.folder / name, expected)
            except (UserError, OSError, ValueError) as error:
                bench.broken.append(f"{name}: after a kill: {error}")
            if n_hit >= n_kills:
                break
        code, out, err = bench.run(command(name))
        if code != 0:
            bench.lost.append(f"{name}: ends with {code}: {err.strip()[-300:]}")
            bench.outcomes[stage, "lost"] += 1
            continue
        found = products(bench.folder / name)
        if stage == "eval":
            found, expected = {**found, "stdout": out}, {**expected, "stdout": expected_out}
        same = compare(bench, name, found, expected)
        bench.outcomes[stage, "the same" if same else "different"] += 1
        shutil.rmtree(bench.folder / name)


def kill_once(bench, stage, command, seconds):
    """Start a command and end it by a signal at a random moment; return whether it was still running."""
    terminate = stage == "train" and bench.rng.random() < 0.4
    signum = signal.SIGTERM if terminate else signal.SIGKILL
    process = bench.start(command)
    try:
        process.wait(bench.rng.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signum)
    code, _, err = bench.finish(process)
    # A run that SIGTERM finds before its first step ends at once, later ones save first.
    hit = code in ((-signal.SIGTERM, 128 + signal.SIGTERM) if terminate else (-signal.SIGKILL,))
    if hit:
        bench.kills[stage, signum.name] += 1
        bench.bar.update()
    elif code != 0:
        bench.lost.append(f"{command[0]} after a kill ends with {code}: {err.strip()[-300:]}")
    return hit


# Faults --------------------------------------------------------------------------------------------


def one_line(bench, what, ended):
    """Count a fault that did not end in exit code 1 and exactly one line that tells it."""
    code, _, err = ended
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    if code != 1 or len(lines) != 1 or "Traceback" in err:
        bench.broken.append(f"{what}: exit code {code}, {len(lines)} error lines: {err.strip()[-600:]}")
    bench.faults.append((what, lines[0] if lines else f"NO MESSAGE, exit code {code}"))
    bench.bar.update()


def harm_training(bench, what, harm, undo, *options, meanwhile=False, **more):
    """Continue a copy of the two finished epochs under some harm; then undo it and continue to three."""
    name = f"fault_{len(bench.faults)}"
    folder = bench.folder / name
    shutil.copytree(bench.folder / "half", folder)
    before = {p: p.read_bytes() for p in folder.glob("*.pdparams")}
    n_threads, limits = more.pop("n_threads", 0), more
    if not meanwhile:
        harm(None)
    n_epochs = 10_000 if meanwhile else N_EPOCHS
    command = train_command(bench, name, *options, n_epochs=n_epochs, n_threads=n_threads)
    process = bench.start(command, **limits)
    if meanwhile:
        wait_until(lambda: (folder / "save_3.pdparams").exists() or process.poll() is not None, 60)
        harm(process)
    one_line(bench, what, bench.finish(process, timeout=60))
    undo()
    for path, content in before.items():
        if path.name != "best.pdparams" and path.read_bytes() != content:
            bench.broken.append(f"{what}: {path.name} was changed")
    if (folder / "save_3.pdparams").exists():
        whole_checkpoints(folder, None)
    else:
        code, _, err = bench.run(train_command(bench, name, n_epochs=3))
        if code != 0:
            bench.lost.append(f"{what}: fixed, ends with {code}: {err.strip()[-300:]}")
            return
    mine, other = (arrays_digest(bench.folder / run / "save_3.pdparams") for run in (name, "train"))
    compare(bench, what, {"save_3.pdparams": mine}, {"save_3.pdparams": other})


def bad_images():
    """Return the bytes of files that are named .jpg and cannot be a frame, by kind."""
    from PIL import Image

    def encode(mode, kind):
        file = io.BytesIO()
        Image.new(mode, (160, 120)).save(file, kind)
        return file.getvalue()

    truncated = encode("RGB", "JPEG")
    return {
        "truncated": truncated[: len(truncated) // 2], "empty": b"",
        "png": encode("RGB", "PNG"), "CMYK": encode("CMYK", "JPEG"),
    }


def training_faults(bench):
    """Break frames, disk, rate and readers under a training."""
    from PIL import Image

    sample = read_annotation(bench.folder / "ucf101_01.json").subsets["training"][0]
    paths = sorted((bench.folder / "jpg" / sample.folder).glob("*.jpg"))
    kept = {path: path.read_bytes() for path in paths}

    def restore():
        for path, content in kept.items():
            path.write_bytes(content)

    def spoil(content):
        return lambda _: [path.write_bytes(content) for path in paths]

    def resize_half(_):
        for path in paths[::2]:
            Image.new("RGB", (90, 70)).save(path.with_suffix(".new"), "JPEG")
            os.replace(path.with_suffix(".new"), path)

    nothing = lambda *_: None
    kill_before_first_checkpoint(bench)
    for kind, content in bad_images().items():
        for n in (0, 2):
            harm_training(bench, f"{kind} jpg, {n} readers", spoil(content), restore, n_threads=n)
    harm_training(bench, "jpgs of another size meanwhile", resize_half, restore, meanwhile=True)
    harm_training(bench, "a frame is missing", lambda _: paths[3].unlink(), restore)
    harm_training(bench, "disk full in train", nothing, nothing, max_file_bytes=200_000)
    harm_training(bench, "a reader is killed", kill_reader, nothing, meanwhile=True, n_threads=2)
    command = train_command(bench, "diverges")
    one_line(bench, "a rate far too high", bench.run([*command, "--learning_rate", "1e30"]))
    first = bench.start(train_command(bench, "shared", n_epochs=10_000))
    wait_until(lambda: (bench.folder / "shared/save_1.pdparams").exists(), 60)
    one_line(bench, "a second run in the folder", bench.run(train_command(bench, "shared", n_epochs=10_000)))
    end_group(first)
    bench.processes.remove(first)


def kill_reader(process):
    """Kill readers of a training until it ends: one that has read its last clip is no longer missed."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        for pid in members(process.pid):
            if pid != process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def kill_before_first_checkpoint(bench):
    """Kill a training that has a best epoch and no checkpoint yet; the same command has to start again."""
    rarely = ["--checkpoint", 50]
    folder = bench.folder / "early"
    process = bench.start(train_command(bench, "early", *rarely, n_epochs=100))
    wait_until(lambda: (folder / "best.pdparams").exists() or process.poll() is not None, 60)
    process.kill()
    bench.finish(process)
    bench.kills["train", "SIGKILL"] += 1
    code, _, err = bench.run(train_command(bench, "early", *rarely))
    if code != 0:
        bench.lost.append(f"killed between best.pdparams and the first checkpoint: {err.strip()[-300:]}")
        return
    names = (f"save_{N_EPOCHS}.pdparams", "best.pdparams", "epochs of train.jsonl")
    found, expected = (train_products(bench.folder / run) for run in ("early", "train"))
    compare(bench, "early", {n: found.get(n) for n in names}, {n: expected[n] for n in names})


def disk_faults(bench, definitions, expected):
    """Let the other writers' disk be full; then let them continue."""
    for stage, n_bytes in (("convert", 100_000), ("test", 2000), ("generate", 2000)):
        command, products, _ = definitions[stage]
        name = f"full_{stage}"
        if stage == "convert":  # an earlier file, which has to stay
            shutil.copytree(bench.folder / stage, bench.folder / name)
        one_line(bench, f"disk full in {stage}", bench.run(command(name), max_file_bytes=n_bytes))
        if stage == "convert":
            compare(bench, f"{name}, before it is fixed", products(bench.folder / name), expected[stage])
        code, _, err = bench.run(command(name))
        if code != 0:
            bench.lost.append(f"{name}: fixed, ends with {code}: {err.strip()[-300:]}")
            continue
        compare(bench, name, products(bench.folder / name), expected[stage])


class Malice:
    """Opens a marker file for writing where a reader runs what a pickle asks for."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def weight_faults(bench):
    """Give the scripts weights with NaN, weights that are code, and names that lead elsewhere."""
    import torch

    folder = bench.folder
    groups, metadata = load_checkpoint(folder / "train/best.pdparams")
    groups["weights"]["conv1.weight"][:] = np.nan
    save_checkpoint(folder / "nan.pdparams", groups, metadata)
    content = torch.load(folder / "weights.pth", weights_only=True)
    content["state_dict"]["conv1.weight"][:] = float("nan")
    torch.save(content, folder / "nan.pth")
    for suffix in ("pdparams", "pth"):
        with open(folder / f"malice.{suffix}", "wb") as file:
            pickle.dump({"state_dict": Malice(folder / "marker")}, file)
    text = (folder / "ucf101_01.json").read_text().replace('"MoveUp"', '".."')
    (folder / "dots.json").write_text(text)

    fresh = ["--result_path", "fresh"]
    small = [*DATA, "--batch_size", 4, "--sample_size", 32, "--sample_duration", 8, *fresh]
    for bad in ("nan", "malice"):
        tried = {
            "train --pretrain_path": ["train.py", *small, "--pretrain_path", f"{bad}.pdparams"],
            "test": ["test.py", *DATA, *fresh, "--resume_path", f"{bad}.pdparams"],
            "convert": ["convert_to_paddle.py", f"{bad}.pth", "fresh/weights.pdparams"],
        }
        if bad == "malice":
            tried["train --resume_path"] = ["train.py", *small, "--resume_path", f"{bad}.pdparams"]
        for what, command in tried.items():
            one_line(bench, f"{bad}, {what}", bench.run(command))
    dots = ["--annotation_path", "dots.json"]
    checkpoint = ["--resume_path", "train/best.pdparams"]
    one_line(bench, "'..' in names, train", bench.run(["train.py", *small, *dots, "--pretrain_path", "none"]))
    one_line(bench, "'..' in names, test", bench.run(["test.py", *DATA, *dots, *fresh, *checkpoint]))
    one_line(bench, "'..' in names, eval", bench.run(["eval_accuracy.py", "dots.json", "test/val.json"]))
    if (folder / "marker").exists():
        bench.broken.append("code in a pickle was run")
    if list((folder / "fresh").glob("[!.]*.pdparams")) or list((folder / "fresh").glob("val.json")):
        bench.broken.append("a refused file left a product")


# Bad files -----------------------------------------------------------------------------------------


def bad_files(bench, seed):
    """Feed the readers bad files by the thousand; return for each kind what came of them.

    A process judges each kind (`tests/bad_files.py`) and ends at the first file that is read wrong.
    """
    tried = {}
    for kind, n in N_BAD_FILES.items():
        code, out, err = bench.run(["tests/bad_files.py", kind, n, "--seed", seed])
        if code == 0:
            tried[kind] = json.loads(out)
        else:
            bench.wrong.append(f"bad {kind}: {err.strip()[-300:]}")
    return tried


# The summary ---------------------------------------------------------------------------------------


def cpu_model():
    """Return the name of the CPU, or its architecture where the system does not tell."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def shortened(bench, text):
    """Return a message without the machine: no absolute paths, no host name."""
    text = text.replace(f"{bench.folder}/", "").replace(f"{ROOT}/", "").replace(f"{sys.prefix}/", "")
    text = re.sub(rf"{tempfile.gettempdir()}/(paddle_inference)_\w+", r"<TMPDIR>/\1", text)
    return text.replace(f" on {platform.node()})", " on this machine)")


def summary(bench, options, tried, seconds):
    """Yield the lines of the summary, 80 columns wide; without names of hosts or absolute paths."""
    import paddle

    yield "Harm done to the five scripts, and what was lost: benchmarks/faults.py"
    yield ""
    yield f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()},"
    yield f"Paddle {paddle.__version__}; seed {options.seed}; {seconds:.0f} s"
    yield ""
    yield f"{'stage':<10}{'SIGKILL':>8}{'SIGTERM':>8}   runs that were killed, then finished"
    for stage in SHARES:
        n_kill, n_term = bench.kills[stage, "SIGKILL"], bench.kills[stage, "SIGTERM"]
        came = ", ".join(f"{n} {what}" for (of, what), n in sorted(bench.outcomes.items()) if of == stage)
        yield f"{stage:<10}{n_kill:>8}{n_term:>8}   {came}"
    yield f"{'in all':<10}{sum(bench.kills.values()):>8} kills"
    yield ""
    yield f"{len(bench.faults)} faults, and the line that each ended in"
    for what, message in bench.faults:
        message = textwrap.shorten(shortened(bench, message), 200)
        yield f"  {what}"
        yield textwrap.indent(textwrap.fill(message, 76), "    ")
    yield ""
    yield f"{'bad files':<14}{'tried':>8}{'refused':>9}{'read right':>12}"
    for kind, counts in tried.items():
        yield f"{kind:<14}{counts['n']:>8}{counts.get('refused', 0):>9}{counts.get('right', 0):>12}"
    yield f"{'in all':<14}{sum(counts['n'] for counts in tried.values()):>8}"
    for title, found in (("lost", bench.lost), ("wrong", bench.wrong), ("broken promise", bench.broken)):
        for text, n in collections.Counter(found).items():
            text = f"{n} times: {text}" if n > 1 else text
            yield textwrap.fill(f"{title}: {shortened(bench, text)}", 80, subsequent_indent="    ")
    yield ""
    yield f"broken promises: {len(bench.broken)}"
    yield f"runs lost: {len(bench.lost)}"
    yield f"wrong numbers: {len(bench.wrong)}"


def do_harm(bench, options):
    """Run everything undisturbed once, then do all the harm; return the counts of the bad files."""
    make_videos(bench.folder / "videos", n_groups=12, n_clips=1, seed=options.seed)
    make_checkpoint(bench.folder / "weights.pth", narrow_resnet10_shapes(0.125), seed=options.seed)
    definitions, expected = stages(bench), {}
    for stage, (command, products, _) in definitions.items():
        seconds, out = undisturbed(bench, stage, command)
        expected[stage] = products(bench.folder / stage)
        n_kills = round(SHARES[stage] * options.n_kills)
        kill_stage(bench, stage, definitions[stage], n_kills, seconds, expected[stage], out)
    bench.must(train_command(bench, "half", n_epochs=2))
    training_faults(bench)
    disk_faults(bench, definitions, expected)
    weight_faults(bench)
    return bad_files(bench, options.seed)


def main(options):
    """Do all the harm in a temporary folder; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    start = time.monotonic()
    bar = progress_bar(total=options.n_kills + N_FAULTS, desc="harm", unit="time")
    with bar, tempfile.TemporaryDirectory(prefix="faults_") as folder:
        bench = Bench(Path(folder), np.random.default_rng(options.seed), bar)
        try:
            tried = do_harm(bench, options)
        finally:
            for process in bench.processes:
                end_group(process)
        text = "\n".join(summary(bench, options, tried, time.monotonic() - start)) + "\n"
    print(text, end="")
    atomic_write(options.out, text)
    return 1 if bench.lost or bench.wrong or bench.broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the data, the moments and the bad files")
    parser.add_argument("--n_kills", type=int, default=60, help="kills in all, spread over the stages")
    parser.add_argument("--out", type=Path, default=Path("docs/faults.txt"), help="file for the summary")
    sys.exit(main(parser.parse_args()))
