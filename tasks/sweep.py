"""Find what is due and unclaimed, and wake a worker; with the broker away, do it here, slowly.

The same look serves the first wake-up that was lost, the retry, the letter planned for in three days, and the rows
of a worker that died. Any number of sweepers may run: rows are claimed, not handed out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from core.errors import JournalUnavailableError
from tasks.services import Services
from tasks.turn import anything_due, take_turn

log = logging.getLogger(__name__)


def sweep(services: Services, ring: Callable[[], None]) -> str:
    """One look: "nothing due", "rung", or "done here". `ring` raises when the broker is away."""
    if not anything_due(services):
        return "nothing due"
    try:
        ring()
    except Exception as exc:  # noqa: BLE001 (kombu lets every client's own errors through)
        log.warning("sweep.broker_away", extra={"error": type(exc).__name__})
        take_turn(services)
        return "done here"
    return "rung"


def sweep_until(
    stop: threading.Event, services: Services, ring: Callable[[], None], every_s: float = 1.0
) -> None:
    """Sweep until `stop` is set; a database that is away is waited for."""
    while not stop.is_set():
        try:
            sweep(services, ring)
        except JournalUnavailableError as exc:
            log.warning("sweep.database_away", extra={"error": str(exc)})
        except Exception:
            log.exception("sweep.failed")
        stop.wait(every_s)
