"""Waiting for what is nearly there.

Who sleeps until an answer comes is woken up later than it came, on a virtual machine by as long as the answer took, and
finds the processor's caches cold. Where an answer usually takes less than that, looking for a moment is cheaper.
"""

from __future__ import annotations

import os
import select
import time

_MOMENT_S = 0.0003


def look(poll: select.poll) -> bool:
    """Whether something came within a moment. Others who want this processor have it meanwhile."""
    ends_at = time.perf_counter() + _MOMENT_S
    while not poll.poll(0):
        if time.perf_counter() > ends_at:
            return False
        os.sched_yield()
    return True


def wait(poll: select.poll, timeout_s: float | None) -> bool:
    """Whether something came in time; None waits for ever."""
    return look(poll) or bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
