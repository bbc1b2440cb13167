"""What the machine gives this process: how many cores, how many readers they are good for, which GPUs."""
import math
import os
import re
import subprocess
from pathlib import Path

# More cost more to start than they read, unless they are asked for.
MOST_READERS = 16


def n_cores(cgroup=Path("/sys/fs/cgroup")):
    """Return how many cores this process may use: those it is bound to, at most the share of its container.

    `cgroup` is where Linux says what that share is, in a file of version 2 or two files of version 1.
    """
    n_bound = len(os.sched_getaffinity(0))
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            share = math.ceil(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no limit
            continue
        if share > 0:  # version 1 says -1 for no limit
            return min(n_bound, share)
    return n_bound


def default_readers():
    """Return how many processes read frames for this one: its part of the cores, one left for itself.

    The ranks that Paddle's launcher has started on this machine share its cores.
    """
    n_ranks = os.environ.get("PADDLE_LOCAL_SIZE", "") if _is_launched() else ""
    n_sharing = max(1, int(n_ranks)) if n_ranks.isdecimal() else 1  # one that makes no sense is named later
    return max(1, min(MOST_READERS, n_cores() // n_sharing - 1))


def _is_launched():
    return os.environ.get("PADDLE_TRAINERS_NUM", "1") != "1"


def nvidia_smi(query):
    """Return a list of values for each line that nvidia-smi answers to a query, such as `--query-gpu=name`.

    None if there is no nvidia-smi, it fails, or does not know what is asked for.
    """
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def version_numbers(version):
    """Return a version as numbers: (2, 6, 2) for "2.6.2.post118"."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]|\.post", version)[0]))
