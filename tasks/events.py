"""Work off the journal: claim events, ask Wix how things stand, write what follows.

The row decides, not the message: losing a doorbell, or getting it twice, changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from core.errors import (
    AppError,
    LostLeaseError,
    MalformedEventError,
    PermanentError,
    RetryableError,
)
from core.events import read_details
from core.letters import Effects, retry_delay_s
from integrations.store.journal import ClaimedEvent
from tasks.claims import let_rest, work_off
from tasks.reactions import NotYetError, forget_person
from tasks.routes import ROUTES
from tasks.services import Services
from tasks.subscriptions import forget_address

log = logging.getLogger(__name__)

MOST_FAILURES = 25
"""Of ours, for one event. What is Wix's fault is tried until the event is older than `max_age`."""
_DELAYS = {"base_s": 2.0, "longest_s": 1800.0}


def run_events(services: Services, *, batch: int = 20, for_s: float = 5.0) -> bool:
    """Run due events for about `for_s`; True when more are left. What was claimed and not begun is given back."""
    return work_off(services.journal, lambda event: run_event(event, services), batch, for_s)


def run_event(claimed: ClaimedEvent, services: Services) -> bool:
    """See one event through: done, ignored, later, or dead. Safe to run twice. False: its site has to rest."""
    event = claimed.event
    fields: dict[str, object] = {"event_id": event.id, "site": event.site, "event_type": event.type}
    try:
        try:
            effects = react(claimed, services.for_one_piece())
            services.journal.finish(claimed, effects)
            _report(effects, fields)
        except RetryableError as exc:
            delay_s = retry_delay_s(claimed.attempts, services.chance(), asked_s=exc.retry_after_s, **_DELAYS)
            services.journal.postpone(claimed, delay_s=delay_s, error=str(exc), counts=exc.counts)
            expected = isinstance(exc, NotYetError) or not exc.counts
            log.log(
                logging.INFO if expected else logging.WARNING,
                "event.postponed",
                extra=fields | {"error": str(exc), "delay_s": round(delay_s, 1)},
            )
            if not isinstance(exc, NotYetError):
                let_rest(event.site, exc, services)
                return False
        except (PermanentError, MalformedEventError) as exc:
            services.journal.bury(claimed, str(exc))
            log.error("event.dead", extra=fields | {"error": str(exc)})
        except AppError:
            raise
        except Exception as exc:
            # A defect of ours: later with growing delays, then aside, never in the way of the others.
            log.exception("event.failed", extra=fields)
            if claimed.attempts + 1 >= MOST_FAILURES:
                services.journal.bury(claimed, f"failed {MOST_FAILURES} times: {type(exc).__name__}")
            else:
                delay_s = retry_delay_s(claimed.attempts, services.chance(), **_DELAYS)
                services.journal.postpone(claimed, delay_s=delay_s, error=type(exc).__name__)
    except LostLeaseError:
        log.warning("event.lease_lost", extra=fields)
    return True


def _report(effects: Effects, fields: dict[str, object]) -> None:
    """One line for the event, and one for each refusal: every refusal has a reason that can be read."""
    if effects.ignored:
        log.info("event.ignored", extra=fields | {"reason": effects.ignored})
        return
    for letter in effects.letters:
        if letter.reason:
            about = {"group": letter.group, "member": letter.member, "automation": letter.automation}
            log.info("letter.skipped", extra=fields | about | {"reason": letter.reason})
    planned = sum(1 for letter in effects.letters if not letter.reason)
    log.info("event.done", extra=fields | {"letters": planned, "calls": len(effects.calls)})


def react(claimed: ClaimedEvent, services: Services) -> Effects:
    """What this event sets off, without writing anything."""
    event = claimed.event
    details = read_details(event)
    if event.erasure:
        forget = forget_address if details.address_hashes else forget_person
        return replace(forget(event, details, services), member=details.member)
    reaction = ROUTES.get(event.type)
    if reaction is None:
        return Effects(ignored="nobody listens to this type")
    return replace(reaction(event, details, services), member=details.member)
