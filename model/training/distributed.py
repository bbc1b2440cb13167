"""The processes that share a run: one, or those that `python -m paddle.distributed.launch` started.

Every process is called a rank, as in Paddle. One exchange a step carries the gradients, BatchNorm's running
statistics, the figures of the step and a signal to stop. `paddle.DataParallel` would carry the gradients
alone: statistics, figures and signals would need exchanges of their own.
"""
import os
import time

import paddle
import paddle.distributed as dist

from model.device import explained, failure
from run.console import UserError


def _variable(name, default, least=0, most=None):
    """Return a whole number from the environment, `default` if it is not there."""
    text = os.environ.get(name)
    if text is None:
        return default
    value = int(text) if text.strip().isdecimal() else -1
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" + ("" if most is None else f", at most {most}")
        raise UserError(
            f"the environment variable {name} is {text!r}, expected a whole number, {bounds}; unset it, or "
            "start the script with python -m paddle.distributed.launch"
        )
    return value


class RankLost(Exception):
    """Another rank did not answer: it failed, was killed, or its machine is gone."""


class Ranks:
    """The number of this process among `n`, and what the processes exchange.

    A context: if one rank fails, the others end too, with the message of the one that failed.
    """

    def __init__(self):
        """Read the launcher's variables. Raises UserError, which names it, for one that makes no sense."""
        self.n = _variable("PADDLE_TRAINERS_NUM", 1, least=1)
        # One process is the first, whatever an earlier run has left in the environment.
        self.rank = _variable("PADDLE_TRAINER_ID", 0, most=self.n - 1) if self.n > 1 else 0
        on_this_machine = _variable("PADDLE_LOCAL_SIZE", self.n, least=1, most=self.n) if self.n > 1 else 1
        self.n_on_this_machine = on_this_machine
        self.is_first = self.rank == 0
        if self.n > 1 and not os.environ.get("PADDLE_TRAINER_ENDPOINTS"):
            raise UserError(
                f"PADDLE_TRAINERS_NUM is {self.n}, but the launcher's PADDLE_TRAINER_ENDPOINTS is missing; "
                "start the script with python -m paddle.distributed.launch, or unset PADDLE_TRAINERS_NUM"
            )

    def __enter__(self):
        if self.n > 1:
            with explained("nvidia-smi shows what is on the card"):
                dist.init_parallel_env()
            self._store = paddle.base.core.create_or_get_global_tcp_store()
        return self

    def __deepcopy__(self, _):
        return self  # there is one set of processes, whatever is copied

    def __exit__(self, kind, error, traceback):
        if error is None or self.n == 1:
            return
        try:
            if isinstance(error, RankLost):
                raise UserError(self._message_of_the_failed(error)) from None
            self._store.set("failure", f"rank {self.rank}: {str(error) or kind.__name__}")
            self._store.add("n_failures", 1)
        except RuntimeError:  # the first rank, which keeps the store, is gone
            if isinstance(error, RankLost):
                raise UserError("rank 0 is gone; its own message says why") from None
        if self.is_first:
            time.sleep(1)  # for the others to read the store, which ends with this process

    def _message_of_the_failed(self, error):
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            if self._store.add("n_failures", 0) > 0:
                return self._store.get("failure").decode()
            time.sleep(0.1)
        if "NCCL" in str(error):
            return failure(error, "")
        return (
            "another rank is gone without a word (killed, or out of memory?); the last checkpoint is "
            "whole: start all ranks again with --resume_path"
        )

    def _exchange(self, function, *arguments, **keywords):
        try:
            return function(*arguments, **keywords)
        except (RuntimeError, OSError) as error:  # gloo's, NCCL's
            raise RankLost(str(error)) from None

    def shard(self, keys):
        """Return every n-th key from this rank's number on; together the ranks have each key once."""
        return keys[self.rank :: self.n]

    def sum(self, tensor):
        """Return the sum of the ranks' tensors, the same bits on every rank."""
        if self.n > 1:
            self._exchange(dist.all_reduce, tensor)
        return tensor

    def gather(self, tensor):
        """Return the ranks' tensors, which are of one shape, as a list in their order."""
        if self.n == 1:
            return [tensor]
        gathered = []
        self._exchange(dist.all_gather, gathered, tensor)
        return gathered

    def gather_objects(self, value):
        """Return the ranks' values as a list in their order."""
        if self.n == 1:
            return [value]
        gathered = []
        self._exchange(dist.all_gather_object, gathered, value)
        return gathered

    def broadcast(self, tensors):
        """Overwrite every rank's tensors with the first rank's."""
        if self.n > 1:
            for tensor in tensors:
                self._exchange(dist.broadcast, tensor, src=0)

    def require_same(self, what, value):
        """Raise UserError on every rank unless all have the same value."""
        values = self.gather_objects(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise UserError(f"{what}: rank {rank} has {other}, rank 0 has {values[0]}")


def sum_step(ranks, trained, statistics, figures):
    """Sum gradients and figures over the ranks and average BatchNorm's statistics, in one exchange.

    `trained` is a list of parameters with gradients, `statistics` one of running means and variances; both
    are written in place. `figures` is a list of numbers, whose sums are returned.
    """
    if ranks.n == 1:
        return figures
    with paddle.no_grad():
        tensors = [parameter.grad for parameter in trained]
        parts = tensors + [statistic / ranks.n for statistic in statistics]
        parts.append(paddle.to_tensor(figures, "float32"))
        flat = ranks.sum(paddle.concat([part.flatten() for part in parts]))
        sizes = [part.size for part in parts]
        *sums, figures = paddle.split(flat, sizes)
        for tensor, total in zip(tensors + statistics, sums):
            paddle.assign(total.reshape(tensor.shape), tensor)
    return figures.tolist()
