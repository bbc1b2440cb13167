"""What `tools/gpu_check.py` looks at with Paddle: the machine, its numbers, its speed."""
from typing import NamedTuple

# A loss scale at which the gradients of any network overflow float16.
LARGE_SCALE = 2.0**126


class Finding(NamedTuple):
    """What an item of the check found: `status` is "ok", "slow", "skipped" or "FAIL", `text` one line.

    The text of a FAIL says what to do. `figures` is what gpu_check.json keeps.
    """

    status: str
    text: str
    figures: dict = {}
