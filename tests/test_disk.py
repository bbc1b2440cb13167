"""Files that outlive full disks and kills, and folders that one run holds at a time."""
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from run import files
from run.console import UserError
from run.files import Journal, atomic_folder, atomic_write, check_free_space, remove_temporaries, run_lock


def python(code, *arguments):
    """Start Python on some code that can import the checkout's modules."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# A disk that is full after 1,000 bytes of any file.
FULL = """
import resource, signal, sys
from pathlib import Path
from run.files import Journal, atomic_write
from run.console import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path(sys.argv[1])
"""


def test_a_file_is_written_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    atomic_write(path, "é")
    atomic_write(path, b"bytes")
    assert path.read_bytes() == b"bytes" and os.listdir(path.parent) == ["a.txt"]


def test_a_full_disk_leaves_the_previous_content_and_names_file_and_bytes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"previous")
    code = FULL + "try: atomic_write(path, bytes(12345))\nexcept UserError as error: print(error)"
    out, err = python(code, path).communicate(timeout=60)
    assert err == "" and out.startswith(f"{path}: ") and "12,345 bytes" in out and out.count("\n") == 1
    assert path.read_bytes() == b"previous" and os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_is_written_whole_and_takes_the_place_of_an_earlier_one_alone(tmp_path):
    path = tmp_path / "new" / "model"
    atomic_folder(path, {"a.txt": "é", "b.bin": b"old"})
    atomic_folder(path, {"a.txt": "new", "b.bin": b"new"})
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {"a.txt": b"new", "b.bin": b"new"}
    (path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="model: holds mine.txt, which this script did not write"):
        atomic_folder(path, {"a.txt": "newer", "b.bin": b"newer"})
    assert (path / "a.txt").read_text() == "new" and os.listdir(path.parent) == ["model"]


def test_a_full_disk_leaves_the_previous_folder(tmp_path):
    atomic_folder(tmp_path / "model", {"a.bin": b"previous"})
    code = FULL + "from run.files import atomic_folder\n"
    code += "try: atomic_folder(path, {'a.bin': b'', 'b.bin': bytes(12345)})\n"
    code += "except UserError as error: print(error)"
    out, err = python(code, tmp_path / "model").communicate(timeout=60)
    assert err == "" and "12,345 bytes" in out and out.count("\n") == 1
    assert os.listdir(tmp_path) == ["model"] and (tmp_path / "model/a.bin").read_bytes() == b"previous"


def test_what_killed_runs_left_of_files_and_folders_is_removed(tmp_path):
    (tmp_path / ".a.json.7.tmp").touch()
    (tmp_path / ".model.7.tmp").mkdir()
    (tmp_path / ".model.7.tmp/a.bin").touch()
    (tmp_path / "a.tmp").touch()
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["a.tmp"]


def test_another_error_of_the_disk_keeps_its_kind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_journal_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    journal = Journal(path)
    journal.add({"epoch": 1, "name": "é\n"})
    journal.add({"epoch": 2})
    assert Journal(path).entries == journal.entries == [{"epoch": 1, "name": "é\n"}, {"epoch": 2}]
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize("n_bytes", range(1, 14))
def test_a_torn_last_line_counts_as_not_written_and_is_cut_off(tmp_path, n_bytes):
    path = tmp_path / "log.jsonl"
    first, second = b'{"epoch": 1}\n', b'{"epoch": 2}\n'
    path.write_bytes((first + second)[:-n_bytes])
    journal = Journal(path)
    assert journal.entries == [{"epoch": 1}][: 1 if n_bytes < 14 else 0]
    journal.add({"epoch": 3})
    assert Journal(path).entries == [{"epoch": 1}, {"epoch": 3}]


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[1]", b"3", b"\xff", b"[" * 100_000, b'{"a": 1} {}'],
    ids=["empty", "cut", "list", "number", "not UTF-8", "deep", "two"],
)  # fmt: skip
def test_a_broken_line_in_the_middle_is_one_error_with_its_number(tmp_path, line):
    path = tmp_path / "log.jsonl"
    content = b'{"epoch": 1}\n' + line + b'\n{"epoch": 3}\n'
    path.write_bytes(content)
    with pytest.raises(UserError, match="log.jsonl: line 2 ") as error:
        Journal(path)
    assert "\n" not in str(error.value) and path.read_bytes() == content


def test_entries_wait_for_their_flush(tmp_path, monkeypatch):
    now, flushes = [100.0], []
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    path = tmp_path / "log.jsonl"
    journal = Journal(path, flush_seconds=5, before_flush=lambda: flushes.append(now[0]))
    journal.add({"n": 1})
    now[0] += 4
    journal.add({"n": 2})
    assert not path.exists() and len(journal.entries) == 2 and flushes == []
    now[0] += 1
    journal.add({"n": 3})
    assert Journal(path).entries == journal.entries and flushes == [105.0]
    journal.add({"n": 4})
    journal.flush()
    journal.flush()
    assert Journal(path).entries == journal.entries and flushes == [105.0, 105.0]


def test_entries_can_be_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    journal = Journal(path, flush_seconds=1000)
    for n in range(5):
        journal.add({"n": n})
    journal.keep(lambda entry: entry["n"] % 2 == 0)
    assert journal.entries == Journal(path).entries == [{"n": 0}, {"n": 2}, {"n": 4}]
    journal.add({"n": 6})
    journal.flush()
    assert [entry["n"] for entry in Journal(path).entries] == [0, 2, 4, 6]


def test_a_full_disk_leaves_a_journal_readable(tmp_path):
    path = tmp_path / "log.jsonl"
    code = FULL + (
        "journal = Journal(path)\n"
        "try:\n"
        "    for n in range(1000): journal.add({'n': n, 'text': 'x' * 50})\n"
        "except UserError as error: print(error)\n"
    )
    out, err = python(code, path).communicate(timeout=60)
    assert err == "" and str(path) in out and "bytes are needed" in out and out.count("\n") == 1
    entries = Journal(path).entries
    assert 5 < len(entries) < 20 and [entry["n"] for entry in entries] == list(range(len(entries)))


OWNER = """
import os, sys, time
from pathlib import Path
from run.files import run_lock
with run_lock(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2] == "fork" else 1
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from run.files import run_lock
from run.console import UserError
try:
    with run_lock(Path(sys.argv[1])): print("free")
except UserError as error: print(error)
"""


def test_a_second_run_is_refused_and_told_the_owner(tmp_path):
    lock = tmp_path / "results" / ".lock"
    owner = python(OWNER, lock, "alone")
    assert owner.stdout.readline() == "1\n"
    try:
        for _ in range(2):  # a refusal leaves the owner's name
            out, err = python(TRY, lock).communicate(timeout=60)
            assert err == "" and f"process {owner.pid} on " in out and out.count("\n") == 1
            assert out.startswith(f"{lock.parent}: another run is at work here")
        with pytest.raises(UserError, match=f"process {owner.pid} on "), run_lock(lock):
            pass
        out, _ = python(TRY, tmp_path / "other" / ".lock").communicate(timeout=60)
        assert out == "free\n"
    finally:
        owner.communicate(timeout=60)
    assert python(TRY, lock).communicate(timeout=60) == ("free\n", "")


def test_a_folder_is_free_when_its_owner_was_killed_even_while_a_worker_lives(tmp_path):
    lock = tmp_path / ".lock"
    owner = python(OWNER, lock, "fork")
    child = int(owner.stdout.readline())
    try:
        assert "another run" in python(TRY, lock).communicate(timeout=60)[0]
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait(60)
        os.kill(child, 0)  # it lives
        assert python(TRY, lock).communicate(timeout=60) == ("free\n", "")
    finally:
        os.kill(child, signal.SIGKILL)
        for pipe in (owner.stdin, owner.stdout, owner.stderr):
            pipe.close()


def test_the_same_folder_is_usable_again(tmp_path):
    lock = tmp_path / "results" / ".lock"
    for _ in range(3):
        with run_lock(lock):
            assert lock.read_text().startswith(f"process {os.getpid()} on ")
    with pytest.raises(RuntimeError), run_lock(lock):
        raise RuntimeError
    with run_lock(lock):
        pass


def stat(n_bytes, n_files, n_all_files=1000):
    return lambda path: SimpleNamespace(
        f_bavail=n_bytes // 512, f_frsize=512, f_files=n_all_files, f_favail=n_files
    )


def test_a_disk_with_room_is_taken(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(files.os, "statvfs", lambda path: seen.append(Path(path)) or stat(1024, 10)(path))
    check_free_space(tmp_path / "not" / "yet", 1024, 10, "the frames")
    assert seen == [tmp_path]


@pytest.mark.parametrize(
    "disk_stat, told",
    [
        (stat(10**6 // 512 * 512, 10**6), "about 2 MB, its disk has 1 MB free"),
        (stat(10**9, 99), "about 100 files, its disk has room for 99"),
    ],
)
def test_a_disk_without_room_is_told_in_one_line(tmp_path, monkeypatch, disk_stat, told):
    monkeypatch.setattr(files.os, "statvfs", disk_stat)
    with pytest.raises(UserError) as error:
        check_free_space(tmp_path / "frames", 2 * 10**6, 100, "the frames")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'frames'}: the frames") and told in message
    assert "\n" not in message


def test_a_disk_that_does_not_count_its_files_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "statvfs", stat(10**9, 0, n_all_files=0))
    check_free_space(tmp_path, 10**6, 100, "the frames")
