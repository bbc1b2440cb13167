"""Items 4 to 7, 9 and 10 of the check: steps and scores, each measured by a process of its own."""
import json
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np

from model.gpu_check import LARGE_SCALE, Finding
from run.spec import Protocol


class Size(NamedTuple):
    """How large the check is: the published network, or a small one to try the check itself."""

    network: dict = {"model_depth": 50, "n_classes": 101}
    clip: dict = {}
    batch_sizes: tuple = (128, 64, 32, 16)
    score_sizes: tuple = (32, 128, 256)
    n_steps: int = 8
    n_videos: int = 120


class Measurements:
    """The items that need a network alone, and what all items found so far, by item in `figures`."""

    def __init__(self, program, size, n_cards, amps):
        """`program` is the path of gpu_check.py, `amps` the words of `--amp` that the card can compute."""
        self.program, self.size, self.n_cards, self.amps = program, size, n_cards, amps
        self.figures = {}
        self.environment, self.options, self.faster = [], [], []

    # Measurements in processes of their own

    def measured(self, what, environment=(), launcher=(), **task):
        """Return what a process measures, `{"error": ...}` if it fails."""
        task = {"what": what, "network": self.size.network, "clip": self.size.clip, **task}
        command = [*(launcher or [sys.executable]), str(self.program), "--measure", json.dumps(task)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, env={**os.environ, **dict(environment)}
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {"error": " ".join(done.stderr.split())[-300:]}

    def steps(self, n_steps=None, environment=(), launcher=(), batch_size=None, **task):
        """Return the measured training steps, at the batch size of the first ones unless another is given."""
        recipe = {"batch_size": batch_size or self.figures["step"]["batch_size"], **task.pop("recipe", {})}
        n_steps = n_steps or self.size.n_steps
        return self.measured("training", environment, launcher, recipe=recipe, n_steps=n_steps, **task)

    def against_step(self, found):
        """Return by how much steps are faster than those of item 4, as a factor."""
        return self.figures["step"]["step_s"] / found["step_s"]

    # Items

    def step(self):
        """Item 4: the published step, at the largest batch that fits."""
        for batch_size in self.size.batch_sizes:
            found = self.steps(batch_size=batch_size)
            if "error" not in found:
                break
        else:
            return Finding("FAIL", f"no step: {found['error']}", found)
        names = ("copy", "normalise", "forward", "backward", "update")
        parts = ", ".join(f"{name} {1e3 * found[f'{name}_s']:.0f}" for name in names)
        text = (
            f"{found['clips_per_second']:.0f} clips/s at batch {batch_size}: step {1e3 * found['step_s']:.0f}"
            f" ms ({parts}; the copy {found['copy_gb_per_second']:.1f} GB/s), the first "
            f"{found['first_step_s']:.1f} s; peak {found['peak_mb'] or 0:,} MB"
        )
        if not np.isfinite(found["losses"]).all() or found["losses"][-1] >= found["losses"][0]:
            return Finding("FAIL", f"{text}; the loss on one batch does not fall: {found['losses']}", found)
        if batch_size != self.size.batch_sizes[0]:
            n_parts = self.size.batch_sizes[0] // batch_size
            self.options.append(f"--accumulate {n_parts}")
            return Finding("slow", f"{text}; a larger batch does not fit: --accumulate {n_parts}", found)
        return Finding("ok", text, found)

    def flags(self):
        """Item 5: Paddle's switches, and the speedups of `train.py`, one at a time."""
        tried = {
            "without the search of algorithms": self.steps(exhaustive=False),
            "workspace of 4096 MB": self.steps(environment={"FLAGS_conv_workspace_size_limit": "4096"}),
            "pinned_copies": self.steps(speedups=["pinned_copies"]),
            "multi_tensor": self.steps(speedups=["multi_tensor"]),
        }
        factors = {name: self.against_step(each) for name, each in tried.items() if "error" not in each}
        if factors.get("workspace of 4096 MB", 0) > 1.03:
            self.environment.append("FLAGS_conv_workspace_size_limit=4096")
        speedups = [word for word in ("pinned_copies", "multi_tensor") if factors.get(word, 0) > 1.02]
        if speedups:
            self.options.append(f"--speedups {' '.join(speedups)}")
        texts = [f"{name} {factors[name]:.2f}" if name in factors else f"{name} fails" for name in tried]
        status = "slow" if factors.get("without the search of algorithms", 0) > 1.05 else "ok"
        return Finding(status, f"times as fast: {', '.join(texts)}", {"tried": tried, "factors": factors})

    def amp(self):
        """Item 6: float16 and bfloat16, and an overflow on purpose."""
        if not self.amps:
            return Finding("skipped", "this card computes in float32 only")
        found = {amp: self.steps(recipe={"amp": amp}) for amp in self.amps}
        texts = []
        for amp, each in found.items():
            if "error" in each:
                return Finding("FAIL", f"--amp {amp}: {each['error']}; leave --amp off", found)
            for layer in ("conv3d", "batch_norm"):
                if each[f"{layer}_dtype"] == "float32":
                    return Finding("FAIL", f"--amp {amp} leaves {layer} in float32; leave it off", found)
            factor = self.against_step(each)
            use = "use it if other numbers are welcome" if factor > 1.2 else "not worth it here"
            texts.append(f"--amp {amp} {factor:.2f} times as fast, peak {each['peak_mb'] or 0:,} MB: {use}")
            if factor > 1.2 and not self.faster:
                self.faster.append(f"--amp {amp}")
        if "O1" in self.amps:
            found["overflow"] = self.steps(n_steps=1, recipe={"amp": "O1"}, overflow=True)
            if found["overflow"].get("n_skipped", 0) < 1:
                reason = found["overflow"].get("error", "the step was not skipped")
                return Finding("FAIL", f"--amp O1 and an overflow: {reason}; leave --amp O1 off", found)
            if not found["overflow"]["scale"] < LARGE_SCALE:
                reason = f"the loss scale stays at {found['overflow']['scale']:.3g}"
                return Finding("FAIL", f"--amp O1 and an overflow: {reason}; leave --amp O1 off", found)
            texts.append("an overflow skips the step and halves the scale")
        return Finding("ok", "; ".join(texts), found)

    def everything(self):
        """Item 7: training all layers, at the largest batch that fits."""
        for batch_size in self.size.batch_sizes:
            found = self.steps(2, batch_size=batch_size, recipe={"ft_begin_module": ""})
            if "error" not in found:
                text = f"{found['clips_per_second']:.0f} clips/s at batch {batch_size}"
                return Finding("ok", f"all layers: {text}, peak {found['peak_mb'] or 0:,} MB", found)
        return Finding("slow", f"all layers do not train at batch {batch_size}: {found['error']}", found)

    def determinism(self):
        """Item 9: whether two runs are equal, with cuDNN asked for it and without."""
        batch_size = self.size.batch_sizes[-1]
        asked = {"FLAGS_cudnn_deterministic": "1"}
        pairs = {
            name: [self.steps(2, environment, batch_size=batch_size) for _ in range(2)]
            for name, environment in (("asked", asked), ("free", {}))
        }
        for pair in pairs.values():
            if any("error" in each for each in pair):
                return Finding("FAIL", f"two short runs: {[each.get('error') for each in pair]}", pairs)
        equal = {name: pair[0]["digest"] == pair[1]["digest"] for name, pair in pairs.items()}
        apart = {name: max(map(apart_by, *(each["losses"] for each in pair))) for name, pair in pairs.items()}
        words = {name: "equal" if equal[name] else f"apart by {apart[name]:.1e} in a loss" for name in pairs}
        text = f"two runs are {words['free']}; with FLAGS_cudnn_deterministic=1 {words['asked']}"
        return Finding("ok" if equal["asked"] else "slow", text, {"equal": equal, "apart": apart})

    def scores(self):
        """Item 10: the rate of test.py and of validation."""
        found = self.measured("scores", batch_sizes=list(self.size.score_sizes))
        rates = {n: f["clips_per_second"] for n, f in found.items() if n != "error" and "error" not in f}
        if not rates:
            return Finding("FAIL", f"no batch is scored: {found}", found)
        best = max(rates, key=rates.get)
        text = ", ".join(f"{rate:.0f} clips/s at {n}" for n, rate in rates.items())
        if rates[best] > 1.05 * rates.get(str(Protocol().inference_batch_size), 0):
            text += f"; faster: test.py --inference_batch_size {best}"
        return Finding(
            "ok", f"test.py: {text}", {**found, "clips_per_second": rates[best], "best": int(best)}
        )


def apart_by(a, b):
    """Return by which part of the larger two numbers differ."""
    return abs(a - b) / max(abs(a), abs(b), 1e-30)
