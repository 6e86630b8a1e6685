"""Claim a batch, see each row through, and stop in time.

Work is done in short turns, so that a worker that is asked to stop ends within seconds and leaves nothing claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def work_off(
    claim: Callable[[int], Sequence[T]],
    see_through: Callable[[T], None],
    give_back: Callable[[Sequence[T]], None],
    batch: int,
    for_s: float,
) -> bool:
    """Claim and work until nothing is due or the time is up; True when there may be more."""
    ends_at = time.monotonic() + for_s
    while time.monotonic() < ends_at:
        claimed = claim(batch)
        if not claimed:
            return False
        work_through(claimed, see_through, give_back, ends_at)
    return True


def work_through(
    claimed: Sequence[T],
    see_through: Callable[[T], None],
    give_back: Callable[[Sequence[T]], None],
    ends_at: float,
) -> None:
    """See each row through; when the time is up, or something unforeseen is raised, give back the rest."""
    for number, item in enumerate(claimed):
        if time.monotonic() >= ends_at:
            give_back(claimed[number:])
            return
        try:
            see_through(item)
        except BaseException:
            give_back(claimed[number + 1 :])
            raise
