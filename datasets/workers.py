"""Processes that work for this one, each at the end of a pipe, and end with it however it ends.

The loader's readers are `Worker`s; `in_processes` gives tasks to a pool of them. pebble's pool was tried in
its place: it keeps a time limit for each task and loses only the task of a crashed process, but it gives
a process that refused one bad video the next one, it forks from a thread beside others, whose locks the
child would hold for ever, and its children outlive a killed parent while a decoder hangs.
"""
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from multiprocessing.connection import wait

from run.console import UserError, fault_of, one_line

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class TaskFailed(UserError):
    """A task without a result. Its text does not name the task, as its function's UserErrors do."""


class WorkerDied(TaskFailed):
    """A process ended without a result; `how` says by what."""

    def __init__(self, how):
        super().__init__(f"the process that read it died ({how})")
        self.how = how


class Worker:
    """A forked process that calls `function(task, *arguments)` for every task that is submitted.

    It leaves Ctrl-C to this process, continues for 20 s after a SIGTERM, so that this one can finish its
    step, and ends when this one does, even inside a decoder that hangs. A UserError or an OSError that the
    function raises is the result; so is a RuntimeError, with the traceback, for anything else.
    """

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        arguments = os.getpid(), theirs, function, arguments
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # else its end would not be seen
        self.n_done = 0

    def submit(self, task):
        """Send a task; if the process has died, that is found when its result is waited for."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def result(self):
        """Wait for the result of the oldest task; `WorkerDied` if there will be none."""
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            return WorkerDied(f"signal {-code}" if code < 0 else f"exit code {code}")
        self.n_done += 1
        return result


def kill_all(workers):
    """End the workers at once."""
    with interrupts_held():
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _serve(parent, connection, function, arguments):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(20))
    # By the kernel, so that it also ends one that hangs inside a decoder.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
    gc.freeze()  # what came from the parent stays in pages that both share
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            task = connection.recv()
            try:
                result = function(task, *arguments)
            except (UserError, OSError) as error:
                result = error
            except BaseException:
                result = RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
            connection.send(result)
    os._exit(0)


@contextlib.contextmanager
def interrupts_held():
    """Hold Ctrl-C back while a worker is started and noted: Python drops a KeyboardInterrupt in the middle
    of a fork, and one before the process is noted would leave it behind.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main one hears Ctrl-C
        yield
        return
    held = []
    before = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        os.kill(os.getpid(), signal.SIGINT)


def in_processes(function, tasks, n_jobs, time_limit):
    """Call `function(*task)` for every task, in worker processes; yield `(task, result)` as they end.

    One task's fault is its own: a UserError that the function raises is the result; a `TaskFailed` is, if it
    raises anything else, crashes its process or takes more than `time_limit` seconds. A process takes one
    task after another until one goes wrong: what bad data did to it must not reach the next. Closing the
    generator kills all.
    """
    pool = _Pool(function, list(tasks), n_jobs, time_limit)
    try:
        yield from pool.results()
    finally:
        kill_all(pool.workers)


def _attempt(function, task):
    try:
        return function(*task)
    except UserError:
        raise
    except Exception as error:
        raise TaskFailed(fault_of(error)) from None


class _Pool:
    """The workers of `in_processes`; tasks are known by their numbers."""

    def __init__(self, function, tasks, n_jobs, time_limit):
        self.function = function
        self.tasks = tasks
        self.n_jobs = n_jobs
        self.time_limit = time_limit
        self.waiting = deque(range(len(tasks)))
        self.workers, self.idle = set(), []
        self.running = {}  # connection -> worker, number of its task, deadline

    def results(self):
        """Yield `(task, result)` as they end."""
        self._submit_waiting()
        while self.running:
            nearest = min(deadline for _, _, deadline in self.running.values())
            # An hour at most: what a system takes for a timeout is not without end.
            timeout = min(3600, max(0, nearest - time.monotonic()))
            for connection in wait(list(self.running), timeout=timeout):
                yield from self._result_at(connection)
            # A task that was done while the caller was busy with another result is not late.
            now = time.monotonic()
            late = [c for c, (*_, deadline) in self.running.items() if deadline <= now and not c.poll()]
            for connection in late:
                worker, number, _ = self.running.pop(connection)
                self._end(worker)
                self._submit_waiting()
                yield self.tasks[number], TaskFailed(f"not done after {self.time_limit:g} s (--time_limit)")

    def _result_at(self, connection):
        """Yield the task that has ended and its result; nothing if the task is tried again."""
        worker, number, _ = self.running.pop(connection)
        result = worker.result()
        if isinstance(result, Exception):
            self._end(worker)
            if isinstance(result, WorkerDied) and worker.n_done:
                self._start(number)  # was it this task or an earlier one? a new process tells
                return
        else:
            self.idle.append(worker)
        if isinstance(result, RuntimeError):  # nothing of the function's, such as a signal's
            raise result
        self._submit_waiting()  # so that they are at work while the caller is busy with the result
        yield self.tasks[number], result

    def _submit_waiting(self):
        while self.waiting and len(self.running) < self.n_jobs:
            if self.idle:
                self._submit(self.idle.pop(), self.waiting.popleft())
            else:
                self._start(self.waiting.popleft())

    def _start(self, number):
        try:
            with interrupts_held():
                worker = Worker(lambda n: _attempt(self.function, self.tasks[n]))
                self.workers.add(worker)
        except OSError as error:  # of the machine: its limit of files, processes or memory
            n = len(self.workers) + 1
            raise UserError(f"process {n} does not start: {one_line(error)}; use fewer --n_jobs") from None
        self._submit(worker, number)

    def _submit(self, worker, number):
        self.running[worker.connection] = worker, number, time.monotonic() + self.time_limit
        worker.submit(number)

    def _end(self, worker):
        kill_all([worker])
        self.workers.discard(worker)
