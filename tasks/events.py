"""Work off the journal: claim events, ask Wix how things stand, write what follows.

The row decides, not the message: losing a doorbell, or getting it twice, changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from core import events
from core.community import GroupId, MemberId, SiteId
from core.errors import (
    AppError,
    JournalUnavailableError,
    LostLeaseError,
    MalformedEventError,
    PermanentError,
    RetryableError,
)
from core.events import Event, read_details
from core.letters import Effects, retry_delay_s
from integrations.store.journal import ClaimedEvent, Outcome, changes_what_is_there
from tasks.batch import Batch
from tasks.claims import let_rest, work_off
from tasks.reactions import NotYetError, forget_person
from tasks.routes import ROUTES
from tasks.services import Services
from tasks.subscriptions import forget_address

log = logging.getLogger(__name__)

MOST_FAILURES = 25
"""Of ours, for one event. What is Wix's fault is tried until the event is older than `max_age`."""
SETTLE_WITHIN_S = 0.05
"""So long outcomes may wait to be written together, counted from the beginning of the first; while Wix takes longer
than this to answer, each is written at once."""
_LOOKING_AHEAD = (
    *(events.MEMBER_ADDED, events.MEMBER_JOINED, events.JOIN_APPROVED, events.ROLE_ASSIGNED),
    *(events.CONTACT_CREATED, events.CONTACT_UPDATED, events.CONTACT_MERGED, events.CONTACT_DELETED),
)
_DELAYS = {"base_s": 2.0, "longest_s": 1800.0}


def run_events(
    services: Services,
    *,
    batch: int = 20,
    for_s: float = 5.0,
    now: Callable[[], float] = time.monotonic,
) -> bool:
    """Run due events for about `for_s`; True when more are left. What was claimed and not begun is given back. `now`
    counts seconds from anywhere."""
    return work_off(services.journal, lambda claimed: _Together(claimed, services, now), batch, for_s)


def run_event(claimed: ClaimedEvent, services: Services) -> bool:
    """See one event through: done, ignored, later, or dead. Safe to run twice. False: its site has to rest."""
    with _Together([claimed], services, time.monotonic) as see_through:
        return see_through(claimed)


class _Together:
    """Events that are seen through one after the other, and written together as long as it keeps nobody waiting.

    They end as they would one by one: what an event would read of those before it is written first, and read anew. A
    process that dies leaves those unwritten to be worked off again; a row that was in hand when one died is not begun
    before the others are written, so that it takes none of them along.
    """

    def __init__(self, claimed: Sequence[ClaimedEvent], services: Services, now: Callable[[], float]) -> None:
        self._services = services
        self._now = now
        self._left = [each.event for each in claimed]
        self._batch: Batch | None = None
        self._touched: set[tuple[SiteId, MemberId]] = set()
        self._outcomes: list[Outcome] = []
        self._quiet: set[tuple[SiteId, GroupId, MemberId]] = set()
        self._since_s = 0.0

    def __enter__(self) -> Callable[[ClaimedEvent], bool]:
        return self._see_through

    def __exit__(self, *_: object) -> None:
        self._settle()

    def _see_through(self, claimed: ClaimedEvent) -> bool:
        batch = self._batch_for(claimed)
        self._left.remove(claimed.event)
        began_s = self._now()
        try:
            effects = react(claimed, batch)
        except Exception as exc:  # noqa: BLE001 (each kind has its own end)
            return self._fail(claimed, exc)
        if changes_what_is_there(effects):
            self._settle()
            self._batch = None
        elif effects.member is not None:
            self._touched.add((claimed.site, effects.member))
        if not self._outcomes:
            self._since_s = began_s
        self._outcomes.append((claimed, effects))
        self._quiet |= batch.quiet
        if self._batch is None or self._now() - self._since_s >= SETTLE_WITHIN_S:
            self._settle()
        return True

    def _batch_for(self, claimed: ClaimedEvent) -> Batch:
        """What this event goes by, with everything written that it would see."""
        if claimed.row.crashes:
            self._settle()
        batch = self._batch
        if batch is not None and self._touched and _looks_back(claimed.event):
            with contextlib.suppress(MalformedEventError):
                member = batch.details(claimed.event).member
                # Whom an event is about that names nobody is not known here.
                if member is None or (claimed.site, member) in self._touched:
                    self._settle()
                    batch = None
        if batch is None or not batch.is_fresh:
            batch = self._batch = Batch(self._left.copy(), self._services, self._now)
            self._touched = {
                (each.site, effects.member) for each, effects in self._outcomes if effects.member
            }
        return batch

    def _settle(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        overtaken = self._overtaken(outcomes)
        if settled := [outcome for outcome in outcomes if outcome[0] not in overtaken]:
            self._finish(settled)
        for claimed in overtaken:
            try:
                effects = react(claimed, Batch([claimed.event], self._services, self._now))
            except Exception as exc:  # noqa: BLE001 (as above)
                self._fail(claimed, exc)
            else:
                self._finish([(claimed, effects)])

    def _overtaken(self, outcomes: Sequence[Outcome]) -> list[ClaimedEvent]:
        """Those that found nothing waiting for their person, for whom another worker has planned something since."""
        quiet, self._quiet = self._quiet, set()
        waiting = {
            (site, *place)
            for site in {site for site, _, _ in quiet}
            for place in self._services.ledger.waiting(
                site, {who for where, _, who in quiet if where == site}
            )
        }
        found = []
        for claimed, _ in outcomes if waiting & quiet else ():
            with contextlib.suppress(MalformedEventError):
                details = read_details(claimed.event)
                if (claimed.site, details.group, details.member) in waiting & quiet:
                    found.append(claimed)
        return found

    def _finish(self, outcomes: Sequence[Outcome]) -> None:
        """Together, or one by one when somebody has one of them now, or one cannot be written: it takes none along."""
        try:
            self._services.journal.finish(*outcomes)
        except JournalUnavailableError:
            raise
        except Exception as exc:  # noqa: BLE001 (as above)
            if len(outcomes) == 1:
                self._fail(outcomes[0][0], exc)
                return
            log.info("events.one_by_one", extra={"events": len(outcomes), "error": type(exc).__name__})
            for outcome in outcomes:
                self._finish([outcome])
        else:
            for claimed, effects in outcomes:
                _report(effects, _fields(claimed.event))

    def _fail(self, claimed: ClaimedEvent, exc: Exception) -> bool:
        """Later, or dead, by the kind of the error. False: its site has to rest."""
        fields, journal = _fields(claimed.event), self._services.journal
        try:
            if isinstance(exc, RetryableError):
                delay_s = retry_delay_s(
                    claimed.attempts, self._services.chance(), asked_s=exc.retry_after_s, **_DELAYS
                )
                journal.postpone(claimed, delay_s=delay_s, error=str(exc), counts=exc.counts)
                expected = isinstance(exc, NotYetError) or not exc.counts
                log.log(
                    logging.INFO if expected else logging.WARNING,
                    "event.postponed",
                    extra=fields | {"error": str(exc), "delay_s": round(delay_s, 1)},
                )
                if not isinstance(exc, NotYetError):
                    let_rest(claimed.site, exc, self._services)
                    return False
            elif isinstance(exc, PermanentError | MalformedEventError):
                journal.bury(claimed, str(exc))
                log.error("event.dead", extra=fields | {"error": str(exc)})
            elif isinstance(exc, AppError):
                raise exc
            else:
                # A defect of ours: later with growing delays, then aside, never in the way of the others.
                log.error("event.failed", extra=fields, exc_info=exc)
                if claimed.attempts + 1 >= MOST_FAILURES:
                    journal.bury(claimed, f"failed {MOST_FAILURES} times: {type(exc).__name__}")
                else:
                    delay_s = retry_delay_s(claimed.attempts, self._services.chance(), **_DELAYS)
                    journal.postpone(claimed, delay_s=delay_s, error=type(exc).__name__)
        except LostLeaseError:
            log.warning("event.lease_lost", extra=fields)
        return True


def _looks_back(event: Event) -> bool:
    """Whether it reads what others have planned or decided: a greeting only adds to it, a contact has no part in it."""
    return event.erasure or event.type not in _LOOKING_AHEAD


def _fields(event: Event) -> dict[str, object]:
    return {"event_id": event.id, "site": event.site, "event_type": event.type}


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


def react(claimed: ClaimedEvent, batch: Batch) -> Effects:
    """What this event sets off, without writing anything."""
    event = claimed.event
    details = batch.details(event)
    if event.erasure:
        forget = forget_address if details.address_hashes else forget_person
        return replace(forget(event, details, batch), member=details.member)
    reaction = ROUTES.get(event.type)
    if reaction is None:
        return Effects(ignored="nobody listens to this type")
    return replace(reaction(event, details, batch), member=details.member)
