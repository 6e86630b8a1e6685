"""Wake a worker without waiting: a thread rings, many requests make one ring, and a broken bell rests a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

BREAK_S = 2.0
RING_AT_MOST_EVERY_S = 0.1
"""The first ring goes at once; under load one wakes a worker for many commits."""
ANSWER_WITHIN_S = 0.5
"""In all: a client's own timeouts are for each step, and there is none for looking up a name."""


class Doorbell:
    """`publish` sends one message and returns how many were waiting unread before it; it may fail, or hang.

    `ring` returns at once, always; `ring_and_hear` within half a second.
    """

    def __init__(self, publish: Callable[[], int]) -> None:
        self._publish = publish
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._answer = threading.Condition()
        self._asked = self._answered = 0
        self._unread: int | None = None
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        self._wanted.set()

    def ring_and_hear(self, within_s: float = ANSWER_WITHIN_S) -> int | None:
        """How many rings were waiting unread before this one; None when the broker is away, silent or slower."""
        with self._answer:
            self._asked += 1
            asked = self._asked
            self._wanted.set()
            heard = self._answer.wait_for(lambda: self._answered >= asked, within_s)
            return self._unread if heard else None

    def close(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        quiet_until = 0.0
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._ended.is_set():
                return
            asked, unread = self._asked, None
            if time.monotonic() >= quiet_until:  # or else the sweeper finds what is due
                try:
                    unread = self._publish()
                except Exception as exc:  # noqa: BLE001 (kombu lets every client's own errors through)
                    self.failures += 1
                    quiet_until = time.monotonic() + BREAK_S
                    log.warning("doorbell.broken", extra={"error": type(exc).__name__})
            with self._answer:
                self._answered, self._unread = asked, unread
                self._answer.notify_all()
            if unread is not None:
                self._ended.wait(RING_AT_MOST_EVERY_S)
