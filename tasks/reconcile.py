"""Compare Wix's lists with the journal, one list at a time, and hand what is missing to the journal.

Nothing here is in a hurry: all calls leave room for live events, and a site's lists together take no more than a
fifth of its budget. Any number of these loops may run: lists are claimed, and what is found has the same id for all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from core.community import MemberId, Membership
from core.errors import (
    AppError,
    JournalUnavailableError,
    LostLeaseError,
    NotFoundError,
    PermanentError,
    RetryableError,
)
from core.events import JOIN_APPROVED, JOIN_REQUESTED, MEMBER_JOINED, Event, EventId
from core.letters import retry_delay_s
from core.ports import WixPort
from core.reconciliation import (
    GRACE,
    GROUPS,
    JOIN_TYPES,
    MEMBERS,
    QUIET_S,
    REQUESTS,
    SITE_S,
    Rearranged,
    Watch,
    found_join,
    found_request,
    interval_s,
    is_quiet,
    needs_more,
    next_since,
    pause_s,
    rearrange,
    see_requests,
    unknown_joins,
    unknown_requests,
)
from integrations.store.watches import ClaimedWatch
from integrations.store.work import MOST_CRASHES
from tasks.services import Services

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 100
PATIENCE_S = 120.0
"""How long one look waits for room in the budget, all in all, so that a long list is read to its end."""
REFUSED_S = 900.0
"""What Wix refuses is for a person to mend, which takes a while."""
CRASHED_S = 3600.0
COMPLAINS_EVERY = timedelta(hours=1)
_REFUSED = "refused: "


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look came to. `next_s`: a reason to look again that soon. `counts` are for the log."""

    watch: Watch
    counts: Mapping[str, int]
    found: list[Event] = field(default_factory=list)
    next_s: float | None = None
    rearranged: Rearranged | None = None
    quiet_at: datetime | None = None


def reconcile_until(services: Services, calls_per_minute: float, stop: threading.Event) -> None:
    """Look at what is due, about every second, until `stop` is set; a database that is away is waited for."""
    while not stop.is_set():
        try:
            reconcile(services, calls_per_minute, stop)
        except JournalUnavailableError as exc:
            log.warning("reconcile.database_away", extra={"error": str(exc)})
        except Exception:
            log.exception("reconcile.failed")
        stop.wait(1.0)


def reconcile(services: Services, calls_per_minute: float, stop: threading.Event) -> None:
    """Look at every list that is due. `calls_per_minute` is the whole budget of a site."""
    try:
        while not stop.is_set():
            claimed = services.watches.claim()
            if claimed is None:
                return
            _see_through(claimed, services, calls_per_minute, stop)
    finally:
        services.watches.hands_free()


def _see_through(
    claimed: ClaimedWatch, services: Services, calls_per_minute: float, stop: threading.Event
) -> None:
    wix = services.wix.for_bulk(_patience(stop))
    settle = partial(_settle, claimed, wix, services, calls_per_minute)
    fields: dict[str, object] = {
        "site": claimed.watch.site,
        "list": claimed.watch.kind,
        "group": claimed.watch.group,
    }
    try:
        _look(claimed, wix, services, settle, fields)
    except LostLeaseError:
        log.warning("reconcile.lease_lost", extra=fields)


def _look(
    claimed: ClaimedWatch,
    wix: WixPort,
    services: Services,
    settle: Callable[..., set[EventId]],
    fields: dict[str, object],
) -> None:
    """See one list through: compared, or later. A site's live work never rests for what Wix says here."""
    watch = claimed.watch
    if claimed.crashes >= MOST_CRASHES:
        error = f"its process died {claimed.crashes} times over it"
        settle(watch, next_s=CRASHED_S, error=error)
        log.error("reconcile.crashed", extra=fields | {"error": error})
        return
    try:
        look = _LOOKS[watch.kind](claimed, wix, services)
        new = settle(
            look.watch,
            next_s=look.next_s,
            found=look.found,
            rearranged=look.rearranged,
            quiet_at=look.quiet_at,
        )
        _report(look, [event for event in look.found if event.id in new], fields | {"calls": wix.calls})
    except NotFoundError as exc:
        # The list of groups says whether the group is there after all.
        settle(replace(watch, missing=watch.kind != GROUPS), next_s=REFUSED_S, error=str(exc))
        log.warning("reconcile.gone", extra=fields | {"error": str(exc)})
    except RetryableError as exc:
        delay_s = retry_delay_s(
            claimed.attempts, services.chance(), base_s=5.0, longest_s=REFUSED_S, asked_s=exc.retry_after_s
        )
        settle(watch, next_s=delay_s, error=str(exc), attempts=claimed.attempts + int(exc.counts))
        log.log(
            logging.WARNING if exc.counts else logging.INFO,
            "reconcile.postponed",
            extra=fields | {"error": str(exc), "delay_s": round(delay_s, 1)},
        )
    except PermanentError as exc:
        # When requests may be read again, nobody can tell who waits since then: it begins anew.
        looked_at = None if watch.kind == REQUESTS else watch.looked_at
        settle(replace(watch, looked_at=looked_at), next_s=REFUSED_S, error=f"{_REFUSED}{exc}")
        if not (claimed.error or "").startswith(_REFUSED):  # once, not at each look
            log.error("reconcile.refused", extra=fields | {"error": str(exc)})
    except AppError:
        raise
    except Exception as exc:
        settle(watch, next_s=REFUSED_S, error=type(exc).__name__)
        log.exception("reconcile.defect", extra=fields)


def _settle(
    claimed: ClaimedWatch,
    wix: WixPort,
    services: Services,
    calls_per_minute: float,
    watch: Watch,
    *,
    next_s: float | None,
    **values: Any,
) -> set[EventId]:
    """Write the look down; without a reason to look again soon, the list's turn is by what a look costs."""
    pause = pause_s(wix.calls, calls_per_minute)
    if next_s is None:
        next_s = interval_s(
            watch, before=claimed.watch.looked_at, now=claimed.now, watches=claimed.beside, pause=pause
        )
    return services.watches.settle(claimed, watch, next_s=next_s, pause_s=pause, **values)


def _report(look: _Look, new: list[Event], fields: dict[str, object]) -> None:
    log.info("reconcile.looked", extra=fields | dict(look.counts) | {"found": len(new)})
    for event in new:
        log.info("event.found", extra={"site": event.site, "event_id": event.id, "event_type": event.type})
    if new and look.watch.privacy in ("PRIVATE", "SECRET"):
        # Of these Wix does tell, so what it tells does not arrive.
        ids = [event.id for event in new[:20]]
        log.error("webhook.missed", extra=fields | {"found": len(new), "event_ids": ids})


def _look_at_groups(claimed: ClaimedWatch, wix: WixPort, services: Services) -> _Look:
    now = claimed.now
    watch = replace(claimed.watch, since=claimed.watch.since or now)
    groups = list(wix.list_groups(watch.site))
    services.group_days.note(watch.site, groups)
    rearranged = rearrange(watch, services.watches.of_site(watch.site), groups, services.automations, now)
    watched = claimed.beside + len(rearranged.new) - len(rearranged.dropped)
    return _Look(
        replace(watch, looked_at=now),
        {"groups": len(groups), "watched": watched},
        next_s=SITE_S if rearranged.new or rearranged.changed or rearranged.dropped else None,
        rearranged=rearranged,
        quiet_at=_complain_of_silence(claimed, services),
    )


def _complain_of_silence(claimed: ClaimedWatch, services: Services) -> datetime | None:
    """When it was last said that no webhooks come any more; None while they do."""
    site, now = claimed.watch.site, claimed.now
    newest = services.journal.received_times(site, at_most=1)
    if not newest or now - newest[0] < timedelta(hours=24):
        return None
    if not is_quiet(services.journal.received_times(site, at_most=50), now):
        return None
    if claimed.row.quiet_at is not None and now - claimed.row.quiet_at < COMPLAINS_EVERY:
        return claimed.row.quiet_at  # type: ignore[no-any-return] # a column
    silent_h = (now - newest[0]).total_seconds() / 3600
    log.error("webhook.quiet", extra={"site": site, "silent_h": round(silent_h, 1)})
    return now


def _look_at_members(claimed: ClaimedWatch, wix: WixPort, services: Services) -> _Look:
    watch, now = claimed.watch, claimed.now
    since = watch.since or now
    rows: list[tuple[MemberId, Membership]] = []
    for page in _pages(wix.list_group_members(watch.site, watch.group)):
        rows += page
        if not needs_more([membership.joined_at for _, membership in page], since):
            break
    dated = {member: membership.joined_at for member, membership in rows if membership.joined_at}
    joins = {member: joined_at for member, joined_at in dated.items() if joined_at > since}
    counts = {"members": len(rows), "new": len(joins), "undated": len(rows) - len(dated)}
    if not joins:
        moved = next_since(since, now, paged=False, found=())
        return _Look(replace(watch, since=moved, looked_at=now), counts)
    asked_since = min(joins.values()) - timedelta(hours=1)
    heard = services.journal.heard(watch.site, watch.group, joins, JOIN_TYPES, asked_since)
    unknown = unknown_joins(joins, heard, since, now)
    moved = next_since(since, now, paged=len(rows) > PAGE, found=unknown.values())
    # Who is too young to be missed is looked for again as soon as their webhook has had its time.
    again = [(at + GRACE - now).total_seconds() + 1.0 for at in joins.values() if at > now - GRACE]
    if unknown:
        again.append(SITE_S)
    return _Look(
        replace(watch, since=moved, looked_at=now),
        counts,
        found=_events_of(watch, unknown, services),
        next_s=max(SITE_S, min(again)) if again and min(again) < QUIET_S else None,
    )


def _events_of(watch: Watch, joins: Mapping[MemberId, datetime], services: Services) -> list[Event]:
    """Somebody who waited to be let in and is in now was approved, which some automations wait for."""
    waited: set[MemberId] = set()
    if joins and watch.privacy == "PRIVATE":
        beside = services.watches.of_site(watch.site)
        waited = {
            member
            for other in beside
            if other.kind == REQUESTS and other.group == watch.group
            for member in other.pending
        }
    found = [found_join(watch, member, at, MEMBER_JOINED) for member, at in joins.items()]
    return found + [
        found_join(watch, member, at, JOIN_APPROVED) for member, at in joins.items() if member in waited
    ]


def _look_at_requests(claimed: ClaimedWatch, wix: WixPort, services: Services) -> _Look:
    watch, now = claimed.watch, claimed.now
    listed = dict(wix.list_join_requests(watch.site, watch.group))
    seen = see_requests(watch, listed, now)
    open_ = {member: request for member, request in seen.items() if request.seen is not None}
    since = min((request.after for request in open_.values() if request.after), default=now) - timedelta(
        hours=1
    )
    heard = services.journal.heard(watch.site, watch.group, open_, [JOIN_REQUESTED], since) if open_ else []
    unknown, pending = unknown_requests(seen, heard, now)
    waiting = any(request.seen is not None and request.missing is None for request in pending.values())
    # The first look may pass over somebody in a long list; then the second takes note as well.
    unsure = watch.looked_at is None and len(listed) > PAGE and not listed.keys() <= watch.pending.keys()
    return _Look(
        replace(watch, pending=pending, looked_at=None if unsure else now),
        {"requests": len(listed)},
        found=[found_request(watch, member, request) for member, request in unknown.items()],
        next_s=GRACE.total_seconds() if waiting or unsure else None,
    )


_LOOKS = {GROUPS: _look_at_groups, MEMBERS: _look_at_members, REQUESTS: _look_at_requests}


def _pages(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while page := list(islice(iterator, PAGE)):
        yield page


def _patience(stop: threading.Event) -> Callable[[float], bool]:
    """Waits for room in the budget, PATIENCE_S in all, and not beyond the end of the process."""
    left_s = PATIENCE_S

    def wait(seconds: float) -> bool:
        nonlocal left_s
        if seconds <= 0:  # there is room: only asked whether to go on
            return not stop.is_set()
        left_s -= max(seconds, 0.05)
        return left_s > 0 and not stop.wait(max(seconds, 0.05))

    return wait
