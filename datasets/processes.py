"""Processes that work for this one, each at the end of a pipe, and end with it however it ends."""
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

from opts import UserError

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class WorkerDied(UserError):
    """A process ended without an answer; `how` says by what."""

    def __init__(self, how):
        super().__init__(f"the process that read it died ({how})")
        self.how = how


class Worker:
    """A forked process that calls `function(question, *arguments)` for every question that it is sent.

    It leaves Ctrl-C to this process, goes on for 20 s after a SIGTERM, so that this one can finish its step,
    and ends when this one does, even inside a decoder that hangs. A UserError or an OSError that the
    function raises is the answer; so is a RuntimeError, with the traceback, for anything else.
    """

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        arguments = os.getpid(), theirs, function, arguments
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # else its end would not be seen
        self.n_done = 0

    def ask(self, question):
        """Send a question; that the process has died is found when its answer is waited for."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(question)

    def answer(self):
        """Wait for the answer to the oldest question; `WorkerDied` where there will be none."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return WorkerDied(how)
        self.n_done += 1
        return answer


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
            question = connection.recv()
            try:
                answer = function(question, *arguments)
            except (UserError, OSError) as error:
                answer = error
            except BaseException:
                answer = RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
            connection.send(answer)
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

    A UserError that the function raises is its result. A process that crashes or takes more than
    `time_limit` seconds for a task ends alone, with a UserError as the result. A process takes one task
    after another until one goes wrong: what bad data did to it must not reach the next. Closing the
    generator kills all.
    """
    tasks = list(tasks)
    waiting, workers, idle, running = deque(range(len(tasks))), set(), [], {}

    def start(number):
        with interrupts_held():
            worker = Worker(lambda n: function(*tasks[n]))
            workers.add(worker)
        give(worker, number)

    def give(worker, number):
        running[worker.connection] = worker, number, time.monotonic() + time_limit
        worker.ask(number)

    def end(worker):
        kill_all([worker])
        workers.discard(worker)

    def give_waiting():
        while waiting and len(running) < n_jobs:
            if idle:
                give(idle.pop(), waiting.popleft())
            else:
                start(waiting.popleft())

    try:
        give_waiting()
        while running:
            nearest = min(deadline for _, _, deadline in running.values())
            # An hour at most: what a system takes for a timeout is not without end.
            for connection in wait(list(running), timeout=min(3600, max(0, nearest - time.monotonic()))):
                worker, number, _ = running.pop(connection)
                result = worker.answer()
                if isinstance(result, Exception):
                    end(worker)
                    if isinstance(result, WorkerDied) and worker.n_done:
                        start(number)  # was it this task or an earlier one? a new process tells
                        continue
                else:
                    idle.append(worker)
                if isinstance(result, (RuntimeError, OSError)):
                    raise result
                give_waiting()  # so that they are at work while the caller is busy with the result
                yield tasks[number], result
            # Who was done while the caller was busy with another result is not late.
            now = time.monotonic()
            late = [c for c, (_, _, deadline) in running.items() if deadline <= now and not c.poll()]
            for connection in late:
                worker, number, _ = running.pop(connection)
                end(worker)
                give_waiting()
                yield tasks[number], UserError(f"not done after {time_limit:g} s (--time_limit)")
    finally:
        kill_all(workers)
