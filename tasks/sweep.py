"""Find what is due and unclaimed, and wake a worker; when nobody comes, do it here, slowly.

The same look serves the first wake-up that was lost, the retry, the letter planned for in three days, and the rows
of a worker that died. Any number of sweepers may run: rows are claimed, not handed out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from core.errors import JournalUnavailableError
from tasks.events import run_events
from tasks.outbox import pay_outbox
from tasks.services import Services
from tasks.turn import live_due, take_turn

log = logging.getLogger(__name__)

RING_EVERY_S = 5.0
PATIENCE_S = 10.0
"""Events and opt-outs that are still due after this long are worked off here: every worker may be waiting for a
silent mail server, or have lost its broker without noticing."""


class Sweeper:
    """`ring` returns None when the broker is away, and soon. `now` counts seconds from anywhere."""

    def __init__(
        self, services: Services, ring: Callable[[], int | None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._services = services
        self._ring = ring
        self._now = now
        self._due_since: float | None = None
        self._rung_at = float("-inf")

    def look(self, ending: Callable[[], bool] = lambda: False) -> str:
        """One look: "nothing due", "waiting", "rung", "helped" or "done here". `ending`: this process ends soon."""
        live = live_due(self._services)
        if not live and not self._services.jobs.any_due():
            self._due_since = None
            self._rung_at = float("-inf")
            return "nothing due"
        now = self._now()
        if not live:
            self._due_since = None  # a job may take hours: that is no reason to help
        elif self._due_since is None:
            self._due_since = now
            self._rung_at = float("-inf")
        waits = self._due_since is not None and now - self._due_since >= PATIENCE_S
        if now - self._rung_at >= RING_EVERY_S:
            if self._ring() is None:
                take_turn(self._services, ending)
                return "done here"
            self._rung_at = now
            if not waits:
                return "rung"
        if waits and self._due_since is not None:
            # Never letters: a silent mail server would hold this process up as well.
            log.warning("sweep.helps", extra={"due_for_s": round(now - self._due_since, 1)})
            run_events(self._services)
            pay_outbox(self._services)
            return "helped"
        return "waiting"

    def look_until(self, stop: threading.Event, every_s: float = 1.0) -> None:
        """Look again and again until `stop` is set; a database that is away is waited for."""
        while not stop.is_set():
            try:
                self.look(stop.is_set)
            except JournalUnavailableError as exc:
                log.warning("sweep.database_away", extra={"error": str(exc)})
            except Exception:
                log.exception("sweep.failed")
            stop.wait(every_s)
