"""The first thing somebody looks at: what came in, went out, was refused and waits, and whether anything is wrong."""

from __future__ import annotations

import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from admin.office import READERS, Office
from admin.office.jobs import described
from core.community import SiteId
from core.consent import Purpose
from core.errors import ConfigError, NotThereError
from core.events import (
    JOIN_APPROVED,
    JOIN_REQUESTED,
    MEMBER_ADDED,
    MEMBER_JOINED,
    MEMBER_LEFT,
    MEMBER_REMOVED,
)
from core.health import Facts
from integrations.cache import ExpiringCache
from integrations.store.database import Database
from integrations.store.glance import Glance, Pair, Refusal
from integrations.store.tokens import Holder

JOINED, ASKED, LEFT, SENT = "joined", "asked", "left", "sent"
KINDS: Mapping[str, Sequence[str]] = {
    JOINED: (MEMBER_ADDED, MEMBER_JOINED, JOIN_APPROVED),
    ASKED: (JOIN_REQUESTED,),
    LEFT: (MEMBER_REMOVED, MEMBER_LEFT),
}
CHART_DAYS = 42
DAY_S = 24 * 3600.0
MOST_REMEMBERED = 1000
MOST_REASONS = 6
MOST_JOBS = 10
UNDER_WAY = ("running", "previewing", "paused")


@dataclass(frozen=True, slots=True)
class Today:
    """One site at `at`, within a holder's reach; `midnight` is where the day began on the site's clock.

    `came` by KINDS; `refused` the most frequent reasons of the last 7 days, all of them counted in `refused_letters`
    (so many or more, when not `counted_all`). `told_at`: when Wix last told of something, `compared_at` when its lists
    were last read.
    """

    at: datetime
    midnight: datetime
    came: Mapping[str, Pair]
    sent: Pair
    waiting: int
    put_off: int
    refused: tuple[Refusal, ...]
    refused_letters: int
    counted_all: bool
    requests: int
    flagged: int
    doubts: int
    dead: int
    to_confirm: tuple[Mapping[str, Any], ...]
    under_way: tuple[Mapping[str, Any], ...]
    told_at: datetime | None
    compared_at: datetime | None
    facts: Facts


@dataclass(frozen=True, slots=True)
class Days:
    """One number for each of `days`, in their order. `joined` and `asked` are None for whose reach ends at groups: the
    journal is not kept by group."""

    days: tuple[date, ...]
    joined: tuple[int, ...] | None
    asked: tuple[int, ...] | None
    sent: tuple[int, ...]


def look(office: Office, holder: Holder, site: SiteId) -> Today:
    """Raises NotThereError for a site out of reach."""
    reach, glance = _require(holder, site).reach, Glance(office.database)
    now = office.now()
    midnight = _midnights(office, site, now, 1)[0]
    refused, counted_all = glance.refused(site, reach)
    requests, flagged = glance.requests(site, reach)
    seen, doubt = glance.site(site), glance.in_doubt(site, reach)
    dead = glance.dead(site) if holder.role in READERS else None
    waiting, put_off = glance.waiting_letters(site, reach)
    return Today(
        at=now,
        midnight=midnight,
        came=glance.came(site, reach, KINDS, midnight),
        sent=glance.sent(site, reach, midnight),
        waiting=waiting,
        put_off=put_off,
        refused=tuple(refused[:MOST_REASONS]),
        refused_letters=sum(refusal.number for refusal in refused),
        counted_all=counted_all,
        requests=requests,
        flagged=flagged,
        doubts=doubt.number,
        dead=dead.number if dead else 0,
        to_confirm=_jobs(office, holder, site, "previewed"),
        under_way=tuple(job for state in UNDER_WAY for job in _jobs(office, holder, site, state)),
        told_at=seen.told_at,
        compared_at=seen.compared_at,
        facts=Facts(
            now=now,
            told_at=seen.told_at,
            is_quiet=seen.is_quiet,
            is_removed=seen.is_removed,
            worker_at=seen.worker_at,
            beat_at=seen.beat_at,
            due_since=glance.due_since(site, reach),
            pauses=seen.pauses,
            rests_until=seen.rests_until,
            unread_lists=seen.unread_lists,
            failing_calls=glance.refused_calls(site, reach),
            dead_events=dead.number if dead else 0,
            dead_since=dead.since if dead else None,
            doubts=doubt.number,
            doubt_since=doubt.since,
            lacks_address=not office.sender.has_postal_address
            and any(
                one.email and one.purpose is Purpose.PROMOTIONAL for one in office.automations().automations
            ),
            tables=_trouble_with_tables(office),
            automations=office.book.trouble(),
        ),
    )


def days(office: Office, holder: Holder, site: SiteId) -> Days:
    """The last CHART_DAYS by the site's clock; those before today are counted once a day. Raises NotThereError."""
    reach = _require(holder, site).reach
    *before, today = _midnights(office, site, office.now(), CHART_DAYS)
    glance, kinds = Glance(office.database), {kind: KINDS[kind] for kind in (JOINED, ASKED)}

    def count(midnights: Sequence[datetime], until: datetime | None) -> dict[str, list[int]]:
        people = glance.people_by_day(site, kinds, midnights, until) if reach.groups is None else {}
        return people | {SENT: glance.letters_by_day(site, reach, midnights, until)}

    remembered = _BEFORE.setdefault(office.database, ExpiringCache(clock.monotonic, MOST_REMEMBERED))
    key = (site, reach.groups, today)
    if (past := remembered.get(key)) is None:
        past = count(before, today)
        remembered.put(key, past, DAY_S)
    now, zone = count([today], None), _zone(office, site)
    numbers = {name: (*past[name], *now[name]) for name in past}
    return Days(
        tuple(midnight.astimezone(zone).date() for midnight in (*before, today)),
        numbers.get(JOINED),
        numbers.get(ASKED),
        numbers[SENT],
    )


_Key = tuple[SiteId, frozenset[str] | None, datetime]
_BEFORE: WeakKeyDictionary[Database, ExpiringCache[_Key, dict[str, list[int]]]] = WeakKeyDictionary()


def _require(holder: Holder, site: SiteId) -> Holder:
    if holder.reach.sites is not None and site not in holder.reach.sites:
        raise NotThereError("there is no such site, or it is not yours to see")
    return holder


def _jobs(office: Office, holder: Holder, site: SiteId, state: str) -> tuple[Mapping[str, Any], ...]:
    rows = office.jobs.page(site=site, state=state, reach=holder.reach, limit=MOST_JOBS)
    return tuple(described(office, rows)) if rows else ()


def _zone(office: Office, site: SiteId) -> ZoneInfo:
    return ZoneInfo(office.automations().policy_of(site).time_zone)


def _midnights(office: Office, site: SiteId, now: datetime, number: int) -> list[datetime]:
    """When each of the last days began, the oldest first, today's last; UTC."""
    zone = _zone(office, site)
    today = now.astimezone(zone).date()
    return [
        datetime.combine(today - timedelta(days=back), time.min, zone).astimezone(UTC)
        for back in reversed(range(number))
    ]


def _trouble_with_tables(office: Office) -> str:
    try:
        office.database.require_current()
    except ConfigError as exc:
        return "; ".join(exc.problems)
    return ""
