"""What `tools/gpu_check.py` looks at with Paddle: the machine, its numbers, its speed."""
from typing import NamedTuple


class Finding(NamedTuple):
    """What an item of the check found: `status` is "ok", "slow", "skipped" or "FAIL", `text` one line.

    The text of a FAIL says what to do. `figures` is what gpu_check.json keeps.
    """

    status: str
    text: str
    figures: dict = {}
