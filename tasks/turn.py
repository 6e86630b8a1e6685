"""One turn of a worker: the events that are due, then what they left to ask of Wix, then the letters; then the jobs.

Live work comes first, and comes again between any two steps of a job.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks.claims import SLICE_S, Break
from tasks.events import run_events
from tasks.jobs.engine import run_jobs
from tasks.jobs.kinds import KINDS
from tasks.letters import deliver_for_jobs, deliver_letters, leave_the_line
from tasks.outbox import pay_outbox
from tasks.services import Services


def take_turn(services: Services, ending: Callable[[], bool] = lambda: False) -> bool:
    """Work for some seconds, with jobs for some minutes at most; True when more is left, which is then for whoever
    hears the next doorbell. `ending`: this process is to end soon, so nothing long is begun."""
    more = _work_live(services)
    pause = Break(_Watch(services).serve, ending)
    more |= run_jobs(KINDS, services, pause)
    more |= deliver_for_jobs(services, pause)
    more |= run_jobs(KINDS, services, pause, for_s=1.0)  # those whose last letter has just gone
    if not more:
        leave_the_line(services)
    return more


def anything_due(services: Services) -> bool:
    return live_due(services) or services.jobs.any_due()


def _work_live(services: Services) -> bool:
    return any([run_events(services), pay_outbox(services), deliver_letters(services, leave_line=False)])


def live_due(services: Services) -> bool:
    return services.journal.any_due() or services.outbox.any_due() or services.ledger.any_due()


class _Watch:
    """Looks at the live work now and then, while a job has this worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._looked_at = time.monotonic()

    def serve(self) -> None:
        if time.monotonic() - self._looked_at < SLICE_S:
            return
        if live_due(self._services):
            _work_live(self._services)
        self._looked_at = time.monotonic()
