"""Jobs, page by page: claim one, do one page of its phase, write it with where it leads, and take the next.

A worker does this after its live work, and looks after live work between any two calls to Wix: a job never holds up a
join. What Wix refuses for now postpones the page; what it refuses for good ends the job with the reason, or, where a
phase says so itself, only one row of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.errors import AppError, ForbiddenError, IntegrationError, LostLeaseError, RetryableError
from core.jobs import CALL_OFF, RETRY, TIDY, Job
from core.letters import retry_delay_s
from core.ports import WixPort
from integrations.store.jobs import ClaimedJob, Step, crashed_too_often, plan_again
from tasks.claims import Break
from tasks.services import Services

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job: its phases by name, each doing one page. A job begins in "begin"; `previews` says whether
    somebody has to confirm it; what failed is done again from `again` on."""

    phases: Mapping[str, Callable[[Job, WixPort, Services], Step]]
    again: str
    previews: bool = True


class JobError(AppError):
    """The job cannot be done as it was asked for; the text says why, to the admin."""


def run_jobs(kinds: Mapping[str, Kind], services: Services, pause: Break, *, for_s: float = 20.0) -> bool:
    """Do pages of due jobs for about `for_s`; True when more may be due."""
    ends_at = time.monotonic() + for_s
    try:
        while time.monotonic() < ends_at and not pause.ending():
            pause.serve()
            claimed = services.jobs.claim()
            if claimed is None:
                return False
            run_page(kinds, claimed, services, pause)
    finally:
        services.jobs.hands_free()
    return True


def run_page(kinds: Mapping[str, Kind], claimed: ClaimedJob, services: Services, pause: Break) -> None:
    """See one page through: written, postponed, or the end of its job."""
    job = claimed.job
    fields: dict[str, object] = {"job": job.id, "site": job.site, "kind": job.kind, "phase": job.phase}
    wix = services.wix.for_bulk(pause.patience(time.monotonic() + PAGE_PATIENCE_S))
    try:
        try:
            if job.state == "previewed":
                services.jobs.expire(claimed)
                return
            if job.phase == CALL_OFF:
                services.jobs.call_off(claimed)
                return
            if job.phase == TIDY:
                services.jobs.tidy(claimed)
                return
            services.jobs.settle(claimed, _do_page(kinds, claimed, wix, services), wix_calls=wix.calls)
            log.info("job.page", extra=fields | {"calls": wix.calls})
        except RetryableError as exc:
            _postpone(claimed, exc, wix.calls, services, fields)
        except (IntegrationError, JobError) as exc:
            if isinstance(exc, ForbiddenError) and job.state == "running":
                # Permissions are for a person to mend, and what was confirmed is not given up for them.
                later = RetryableError(str(exc), retry_after_s=REFUSED_DELAY_S)
                _postpone(claimed, later, wix.calls, services, fields)
                return
            services.jobs.fail(claimed, str(exc), wix_calls=wix.calls)
            # What an admin typed is for the row alone.
            error = str(exc) if isinstance(exc, IntegrationError) else type(exc).__name__
            log.error("job.failed", extra=fields | {"error": error})
        except AppError:
            raise
        except Exception as exc:
            log.exception("job.defect", extra=fields)
            defect = RetryableError(f"a defect of Usher: {type(exc).__name__}")
            _postpone(claimed, defect, wix.calls, services, fields)
    except LostLeaseError:
        log.warning("job.lease_lost", extra=fields)


def _do_page(kinds: Mapping[str, Kind], claimed: ClaimedJob, wix: WixPort, services: Services) -> Step:
    job = claimed.job
    if crashed_too_often(claimed):
        raise JobError(f"its worker died {claimed.crashes} times over it")
    if services.sites.removed([job.site]):
        raise JobError("the app was removed from this site")
    kind = kinds.get(job.kind)
    if job.phase == RETRY and kind is not None:
        ids = services.jobs.failed_letters(job.id, after=job.cursor.get("after", ""))
        more = {"after": ids[-1]} if ids else {}
        return Step(RETRY if ids else kind.again, more or AGAIN, write=lambda tx: plan_again(tx, job.id, ids))
    if kind is None or job.phase not in kind.phases:
        raise JobError(f"this release of Usher knows no {job.kind} in {job.phase!r}")
    return kind.phases[job.phase](job, wix, services)


MOST_FAILURES = 50
"""Of one page in a row, that Wix or we are the reason of: some hours."""
WORTH_TELLING_S = 30.0
REFUSED_DELAY_S = 900.0
PAGE_PATIENCE_S = 120.0
"""How long one page waits for room in the budget, all in all: a list of all groups of a large site is one page."""
AGAIN = {"again": True}
"""The cursor with which a kind begins anew after retry-failed."""


def _postpone(
    claimed: ClaimedJob, exc: RetryableError, calls: int, services: Services, fields: dict[str, object]
) -> None:
    if exc.counts and claimed.attempts >= MOST_FAILURES:
        services.jobs.fail(claimed, str(exc), wix_calls=calls)
        log.error("job.failed", extra=fields | {"error": str(exc)})
        return
    delay_s = retry_delay_s(
        claimed.attempts, services.chance(), base_s=2.0, longest_s=REFUSED_DELAY_S, asked_s=exc.retry_after_s
    )
    # Waiting for room in the budget is no trouble; a token that Wix does not give is, though it uses up no attempts.
    error = str(exc) if exc.counts or delay_s > WORTH_TELLING_S else None
    services.jobs.postpone(claimed, delay_s=delay_s, error=error, counts=exc.counts, wix_calls=calls)
    log.log(
        logging.WARNING if exc.counts else logging.INFO,
        "job.postponed",
        extra=fields | {"error": str(exc), "delay_s": round(delay_s, 1)},
    )
