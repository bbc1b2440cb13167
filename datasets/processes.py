"""Processes that work for this one, each at the end of a pipe, and end with it however it ends."""
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def start_worker(function, *arguments):
    """Fork a process that calls `function(connection, *arguments)`; return `(process, connection)`.

    `connection` is its end of a pipe, the returned one this process's. The worker leaves Ctrl-C and
    SIGTERM to this process and ends when that does, even inside a decoder that hangs.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(os.getpid(), function, theirs, arguments))
    with _interrupts_held():
        process.start()
    theirs.close()  # else its end would not be seen
    return process, ours


@contextlib.contextmanager
def _interrupts_held():
    """Hold Ctrl-C back while a process starts: Python drops a KeyboardInterrupt in the middle of a fork,
    and one before the process is noted would leave it behind.
    """
    held = []
    before = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        os.kill(os.getpid(), signal.SIGINT)


def _work(parent, function, connection, arguments):
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
    gc.freeze()  # what came from the parent stays in pages that both share
    with contextlib.suppress(EOFError, BrokenPipeError):
        function(connection, *arguments)
    os._exit(0)


def how_it_ended(process):
    """Wait for a worker that has closed its pipe; return how it ended, as text."""
    process.join()
    code = process.exitcode
    return f"signal {-code}" if code < 0 else f"exit code {code}"
