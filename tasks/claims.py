"""Claim a batch, see each row through, and stop in time.

Work is done in short turns, so that a worker that is asked to stop ends within seconds and leaves nothing claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from core.community import SiteId
from core.errors import RetryableError
from tasks.services import Services

LONGEST_REST_S = 60.0
TROUBLED_REST_S = 3.0
"""How long a site rests after Wix failed for it: one row looks again then, and the others wait behind it."""

QUICK_S = 0.25
MOST_AT_ONCE = 100
"""So many rows at most are claimed in one go, of those that take QUICK_S together."""

SLICE_S = 0.03
"""How long bulk work waits without a look at the live work."""


@dataclass(frozen=True, slots=True)
class Break:
    """What bulk work asks between its steps: `serve` does what live work is due, `ending` says to stop soon."""

    serve: Callable[[], None]
    ending: Callable[[], bool]

    def wait(self, seconds: float) -> None:
        """Wait so long, and serve meanwhile; less when the process is about to end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.ending():
            time.sleep(min(SLICE_S, left))
            self.serve()

    def patience(self, ends_at: float) -> Callable[[float], bool]:
        """For WixPort.for_bulk: wait for room in the budget, as long as it comes before `ends_at`."""

        def wait(seconds: float) -> bool:
            self.serve()
            if time.monotonic() + seconds > ends_at or self.ending():
                return False
            self.wait(seconds)
            return not self.ending()

        return wait


class Claimed(Protocol):
    @property
    def site(self) -> SiteId: ...


T = TypeVar("T", bound=Claimed)


class Store(Protocol[T]):
    """Where rows are claimed. Whoever claimed says when they have nothing in hand any more, however it ended."""

    def claim(self, limit: int) -> Sequence[T]: ...
    def give_back(self, claimed: Sequence[T]) -> None: ...
    def hands_free(self) -> None: ...


def work_off(
    store: Store[T],
    begin: Callable[[Sequence[T]], AbstractContextManager[Callable[[T], bool]]],
    batch: int,
    for_s: float,
) -> bool:
    """Claim and work until nothing is due or the time is up; True when there may be more. `batch` rows at a time, and
    more while they go quickly: what is in hand here, others cannot help with. `begin` gives what sees each
    row of a batch through, and is left when the batch is."""
    ends_at = time.monotonic() + for_s
    size = batch
    try:
        while (began_at := time.monotonic()) < ends_at:
            claimed = store.claim(size)
            if not claimed:
                return False
            with begin(claimed) as see_through:
                work_through(claimed, see_through, store.give_back, ends_at)
            took_s = time.monotonic() - began_at
            size = max(batch, min(MOST_AT_ONCE, int(len(claimed) * QUICK_S / max(took_s, 0.001))))
    finally:
        store.hands_free()
    return True


def work_through(
    claimed: Sequence[T],
    see_through: Callable[[T], bool],
    give_back: Callable[[Sequence[T]], None],
    ends_at: float,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """See each row through. `see_through` says whether the row's site can go on; `stop` is asked before each.

    Given back untouched, at the end: rows of a site that cannot, and what is left when it is time to stop or something
    unforeseen is raised.
    """
    resting: set[SiteId] = set()
    left = list(claimed)
    untouched: list[T] = []
    try:
        while left and time.monotonic() < ends_at and not stop():
            item = left.pop(0)
            if item.site in resting:
                untouched.append(item)
            elif not see_through(item):
                resting.add(item.site)
    finally:
        if untouched or left:
            give_back([*untouched, *left])


def let_rest(site: SiteId, exc: RetryableError, services: Services) -> None:
    """Wix refuses or fails for this site: nobody tries again for it, with whatever row, until it may answer.

    Without this every waiting row of a busy site would find out for itself, before those of other sites.
    """
    asked_s = TROUBLED_REST_S if exc.retry_after_s is None else exc.retry_after_s
    services.sites.rest(site, min(LONGEST_REST_S, max(1.0, asked_s)))
