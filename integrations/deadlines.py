"""Many who wait equally long, and one timer for all: a timer of its own costs a request as much as reading its JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """`late` is called once for each that was added and not removed within `wait_s`. Used from one event loop at a
    time; what still waits when that one is closed waits on in the next."""

    def __init__(self, wait_s: float, late: Callable[[T], None]) -> None:
        self._wait_s = wait_s
        self._late = late
        self._ends: dict[T, float] = {}  # in the order they were added, which is that of their ends
        self._watched_by: asyncio.AbstractEventLoop | None = None

    def add(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """`loop`: the running one, for which asyncio asks the system each time."""
        ends_at = self._ends[item] = loop.time() + self._wait_s
        if self._watched_by is not loop:
            self._watched_by = loop
            loop.call_at(ends_at, self._look, loop)

    def remove(self, item: T) -> None:
        self._ends.pop(item, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, late = loop.time(), []
        self._watched_by = None
        for item, ends_at in self._ends.items():
            if ends_at > now:
                self._watched_by = loop
                loop.call_at(ends_at, self._look, loop)
                break
            late.append(item)
        for item in late:
            self._ends.pop(item, None)
            self._late(item)
