"""A worker watches itself: rows are due, its hands are free, and no doorbell reaches it.

A connection to a broker can be dead while everybody takes it for alive. The rows know better: whoever waits while
rows are due rings; if the broker does not take it, the work is done here, and if the rings stay in the queue though
hands are free, nobody reads them at the other end of this worker's connection: it ends, to be started again.
"""

from __future__ import annotations

import logging
import mmap
import threading
import time
from collections.abc import Callable
from ctypes import c_bool, c_double

from core.errors import JournalUnavailableError
from tasks.doorbell import Doorbell
from tasks.services import Services
from tasks.turn import anything_due, take_turn

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
UNHEARD_AFTER_S = 20.0
"""Longer than the sweeper takes to ring again, several times over."""
DEAF_AFTER_S = 10.0
"""Celery may rest for 32 s before it looks for a broker that came back: then the restart comes before it, and does
no harm."""


class Board:
    """What the children of one worker see of each other. Made before the fork: it is shared memory."""

    def __init__(self, children: int) -> None:
        memory = mmap.mmap(-1, 9 + children)  # without a file
        self._heard_at = c_double.from_buffer(memory)
        self._ending = c_bool.from_buffer(memory, 8)
        self._busy = (c_bool * children).from_buffer(memory, 9)
        self.hear()

    @property
    def ending(self) -> bool:
        """The worker was asked to end: nothing long is begun any more."""
        return self._ending.value

    def end(self) -> None:
        self._ending.value = True

    @property
    def heard_at(self) -> float:
        """When a doorbell last came or was seen through, on the monotonic clock."""
        return self._heard_at.value

    def hear(self) -> None:
        self._heard_at.value = time.monotonic()

    def set_busy(self, child: int, busy: bool) -> None:
        self._busy[child] = busy

    @property
    def anybody_busy(self) -> bool:
        return any(self._busy)


class Watch:
    """One free child's look at the world. `ring` gives the rings unread before it, or None when the broker is away."""

    def __init__(
        self,
        due: Callable[[], bool],
        ring: Callable[[], int | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._due = due
        self._ring = ring
        self._now = now
        self.begin_again()

    def begin_again(self) -> None:
        self._due_since: float | None = None
        self._rung_since: float | None = None
        self._unread_since = 0.0

    def look(self, heard_at: float) -> str:
        """ "nothing due", "waiting", "rung", "broker away", "unheard" or "deaf".

        Unheard: others take the rings, or they get lost, and still rows are due. Deaf: rings lie there unread.
        """
        if not self._due():
            self.begin_again()
            return "nothing due"
        now = self._now()
        if self._due_since is None:
            self._due_since = now
        if now - max(self._due_since, heard_at) < UNHEARD_AFTER_S:
            self._rung_since = None
            return "waiting"
        unread = self._ring()
        if unread is None:
            self._rung_since = None
            return "broker away"
        if self._rung_since is None:
            self._rung_since = self._unread_since = now
        elif not unread:
            self._unread_since = now
        if now - self._unread_since >= DEAF_AFTER_S:
            return "deaf"
        return "unheard" if now - self._rung_since >= DEAF_AFTER_S else "rung"


class Shift:
    """The turns of one child, one at a time: its leases carry the name of the process, not of a thread."""

    def __init__(
        self, services: Services, doorbell: Doorbell, board: Board, child: int, end_worker: Callable[[], None]
    ) -> None:
        self._services = services
        self._doorbell = doorbell
        self._board = board
        self._child = child
        self._end_worker = end_worker
        self._turn = threading.Lock()
        self._watch = Watch(lambda: anything_due(services), doorbell.ring_and_hear)
        board.set_busy(child, False)  # whoever was here before may have been killed in a turn

    def answer(self) -> None:
        """A doorbell came."""
        self._board.hear()
        self._take_turn()
        self._board.hear()

    def watch_until(self, stop: threading.Event, every_s: float = LOOK_EVERY_S) -> None:
        """Look again and again until `stop` is set; a database that is away is waited for."""
        while not stop.wait(every_s):
            try:
                self._look()
            except JournalUnavailableError as exc:
                self._watch.begin_again()
                log.warning("watch.database_away", extra={"error": str(exc)})
            except Exception:
                log.exception("watch.failed")

    def _look(self) -> None:
        if self._turn.locked():
            self._watch.begin_again()
            return
        seen = self._watch.look(self._board.heard_at)
        if seen in ("broker away", "unheard", "deaf"):
            log.warning("watch.helps", extra={"because": seen})
            self._take_turn()
        # Whoever waits for a mail server's answer is not cut short for this: it would be a letter in doubt.
        if seen == "deaf" and not self._board.anybody_busy:
            log.error("worker.deaf")
            self._board.hear()  # once is enough
            self._end_worker()

    def _take_turn(self) -> None:
        if not self._turn.acquire(blocking=False):
            return  # somebody is at it, and rings when more is left
        try:
            self._board.set_busy(self._child, True)
            if take_turn(self._services, lambda: self._board.ending):
                self._doorbell.ring()
        finally:
            self._board.set_busy(self._child, False)
            self._turn.release()
