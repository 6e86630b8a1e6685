"""Wake a worker without waiting: a thread rings, many requests make one ring, and a broken bell rests a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

BREAK_S = 2.0
RING_AT_MOST_EVERY_S = 0.05
"""The first ring goes at once; under load one wakes a worker for many commits."""


class Doorbell:
    """`publish` sends one message and may fail or take half a second. `ring` returns at once, always."""

    def __init__(self, publish: Callable[[], None]) -> None:
        self._publish = publish
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        self._wanted.set()

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
            if time.monotonic() < quiet_until:
                continue  # the sweeper finds what is due
            try:
                self._publish()
            except Exception as exc:  # noqa: BLE001 (kombu lets every client's own errors through)
                self.failures += 1
                quiet_until = time.monotonic() + BREAK_S
                log.warning("doorbell.broken", extra={"error": type(exc).__name__})
            self._ended.wait(RING_AT_MOST_EVERY_S)
