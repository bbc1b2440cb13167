"""Videos in processes of their own: crashes, hangs and errors end one video, not the run."""
import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT

from datasets.extraction import extract
from datasets.stores import new_store
from datasets.workers import TaskFailed, in_processes
from run.console import UserError
from run.files import DiskFull, check_free_space
from run.spec import FrameSpec


def work(kind):
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang":
        time.sleep(60)
    if kind == "leave":
        os._exit(3)
    if kind == "refuse":
        raise UserError("refused")
    if kind == "full":
        raise DiskFull("a.jpg", 1234, "No space left on device")
    return kind


def test_a_crash_or_a_hang_or_an_error_is_the_result_of_its_own_task_alone():
    kinds = ["a", "crash", "b", "hang", "leave", "refuse", "full", "c"]
    begin = time.monotonic()
    # Long enough for a crash, with the dump that pytest has it write, on cores that others share.
    results = {kind: result for (kind,), result in in_processes(work, [(k,) for k in kinds], 2, 3.0)}
    assert time.monotonic() - begin < 20
    assert results.keys() == set(kinds) and [results[k] for k in "abc"] == ["a", "b", "c"]
    texts = {kind: str(results[kind]) for kind in kinds if kind not in "abc"}
    assert texts == {
        "crash": "the process that read it died (signal 11)",
        "hang": "not done after 3 s (--time_limit)",
        "leave": "the process that read it died (exit code 3)",
        "refuse": "refused",
        "full": "a.jpg: No space left on device; 1,234 bytes are needed, nothing was replaced; "
        "free some space and run the same command again",
    }
    assert isinstance(results["full"], DiskFull)


def test_a_process_takes_one_task_after_another_until_one_goes_wrong():
    def pid(kind):
        return work(kind) and os.getpid()

    tasks = [("a",), ("b",), ("refuse",), ("c",), ("d",)]
    a, b, _, c, d = (result for _, result in in_processes(pid, tasks, 1, 10))
    assert a == b != c == d


def test_a_task_that_dies_in_a_used_process_is_tried_in_a_new_one(tmp_path):
    def work_here(kind):
        if kind != "harmed":
            return work(kind)
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            work("crash")
        return "done"

    results = list(in_processes(work_here, [("a",), ("harmed",), ("b",), ("crash",)], 1, 10))
    assert results[:3] == [(("a",), "a"), (("harmed",), "done"), (("b",), "b")]
    assert str(results[3][1]) == "the process that read it died (signal 11)"


def divide(a, b):
    return a / b


def test_a_bug_is_the_result_of_its_own_task_and_says_where_it_is():
    results = dict(in_processes(divide, [(4, 2), (1, 0), (6, 2)], 1, 10))
    assert results[4, 2] == 2 and results[6, 2] == 3
    assert isinstance(results[1, 0], TaskFailed) and re.fullmatch(
        r"ZeroDivisionError: division by zero \(test_extraction.py, line \d+\); a fault of this program, "
        "please report it",
        str(results[1, 0]),
    )


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "/jpg/a"), "/jpg/a: Permission denied"),
        (MemoryError(), "not enough memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8' codec"),
    ],
)
def test_whatever_one_task_raises_the_next_is_done(error, text):
    failed, done = (result for _, result in in_processes(fail_or_not, [(error,), (None,)], 1, 10))
    assert isinstance(failed, TaskFailed) and str(failed).startswith(text) and done == "done"


def fail_or_not(error):
    if error is not None:
        raise error
    return "done"


def test_leaving_early_kills_what_still_runs():
    results = in_processes(work, [("a",), ("hang",)], 2, 60)
    next(results)
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 5


def test_a_disk_without_room_is_told_before(tmp_path, monkeypatch):
    disk = SimpleNamespace(f_bavail=1000, f_frsize=4096, f_files=1000, f_favail=50)
    monkeypatch.setattr("run.files.os.statvfs", lambda path: disk)
    check_free_space(tmp_path / "new", 4_096_000, 50, "the frames")
    with pytest.raises(UserError, match="the frames will take about 5 MB, its disk has 4 MB free"):
        check_free_space(tmp_path / "new", 5_000_000, 50, "the frames")
    with pytest.raises(UserError, match="about 51 files, its disk has room for 50"):
        check_free_space(tmp_path / "new", 1, 51, "the frames")


def test_who_is_done_while_the_caller_is_busy_is_not_late():
    results = in_processes(time.sleep, [(0.05,), (0.3,)], 2, 1.0)
    assert next(results) == ((0.05,), None)
    time.sleep(1.3)  # as long as a slow disk takes for the journal
    assert list(results) == [((0.3,), None)]


def test_ctrl_c_in_the_middle_of_a_start_leaves_no_process(monkeypatch):
    start = multiprocessing.context.ForkProcess.start

    def interrupted(process):
        start(process)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(time.sleep, [(60,)], 1, 60))
    assert not multiprocessing.active_children()


def test_a_process_that_hangs_ends_with_its_killed_parent(tmp_path):
    program = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from datasets.workers import in_processes\n"
        "def hang(path):\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        f"list(in_processes(hang, [({str(tmp_path / 'pid')!r},)], 1, 1e10))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    worker = f"/proc/{(tmp_path / 'pid').read_text()}/stat"

    def is_running():
        try:
            return open(worker).read().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    while is_running():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_without_room_for_a_folder_is_full(tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("os.mkdir", full)
    with pytest.raises(DiskFull, match="No space left on device; 4,096 bytes are needed"):
        extract(tmp_path / "a.avi", new_store(tmp_path / "jpg", FrameSpec()), "A/a")
