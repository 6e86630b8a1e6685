"""What a person sees at one glance: what came in, went out, was refused and waits, counted from the rows of one site.

Everything here is asked again and again by open pages, so each question is bounded: by time, by an index of what
waits, or by a number of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import SiteId
from core.errors import MalformedEventError
from core.events import Event, EventId, read_details
from core.pacing import Pause
from core.reconciliation import REQUESTS
from integrations.store.database import Database, Transaction
from integrations.store.ledger import TROUBLE
from integrations.store.reach import Reach
from integrations.store.tables import (
    events,
    heartbeats,
    messages,
    outbox,
    senders,
    sites,
    watches,
)
from integrations.store.work import in_state, is_due

MOST_COUNTED = 10_000
"""A number that is reached means: so many or more."""
MOST_READ = 1000
"""Events whose group has to be read out of what Wix sent."""
REFUSED_WITHIN = timedelta(days=7)
MOST_REFUSED = 5000
"""Of the newest so many letters the refused ones are counted."""
FLAGGED_WITHIN = timedelta(days=60)
_LIVE = ("planned", "deferred", "sending")


@dataclass(frozen=True, slots=True)
class Pair:
    """Of something that is counted: since midnight, and in the last 24 hours."""

    today: int = 0
    day: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    state: str
    reason: str
    number: int

    @property
    def key(self) -> str:
        """Stands for it in addresses, which are no place for what a mail server said."""
        return hashlib.sha256(f"{self.state} {self.reason}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Waiting:
    """`due_since`: the oldest that is due for anybody to take up; `since` the oldest at all."""

    number: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SiteFacts:
    told_at: datetime | None
    compared_at: datetime | None
    is_quiet: bool
    is_removed: bool
    rests_until: datetime | None
    unread_lists: int
    worker_at: datetime | None
    beat_at: datetime | None
    pauses: tuple[Pause, ...]


class Glance:
    def __init__(self, database: Database) -> None:
        self._database = database

    def came(
        self, site: SiteId, reach: Reach, kinds: Mapping[str, Sequence[str]], midnight: datetime
    ) -> dict[str, Pair]:
        """How many people the events of each kind (by its types) were about.

        Whose reach ends at groups has their events counted, among the newest MOST_READ.
        """
        of_type = {type_: kind for kind, types in kinds.items() for type_ in types}
        with self._database.read() as tx:
            yesterday = tx.now - timedelta(days=1)
            columns = [] if reach.groups is None else [events]
            newest = (
                sa.select(events.c.type, events.c.received_at, _who(), *columns)
                .where(
                    events.c.site == site,
                    events.c.received_at >= min(midnight, yesterday),
                    events.c.type.in_(list(of_type)),
                )
                .order_by(events.c.received_at.desc())
                .limit(MOST_COUNTED if reach.groups is None else MOST_READ)
            )
            rows = tx.execute(newest).all()
        found: dict[str, tuple[set[str], set[str]]] = {kind: (set(), set()) for kind in kinds}
        for row in rows:
            if reach.groups is None or _is_in(row, reach.groups):
                for people, since in zip(found[of_type[row.type]], (midnight, yesterday), strict=True):
                    if row.received_at >= since:
                        people.add(row.who)
        return {kind: Pair(len(today), len(day)) for kind, (today, day) in found.items()}

    def sent(self, site: SiteId, reach: Reach, midnight: datetime) -> Pair:
        with self._database.read() as tx:
            yesterday = tx.now - timedelta(days=1)
            mine = [messages.c.site == site, *reach.within(messages.c.site, messages.c.group_id)]
            return Pair(
                _count(tx, messages, messages.c.sent_at >= midnight, *mine),
                _count(tx, messages, messages.c.sent_at >= yesterday, *mine),
            )

    def waiting_letters(self, site: SiteId, reach: Reach) -> tuple[int, int]:
        """Letters of no job that have not gone out yet, and how many of them were put off."""
        mine = [_found_otherwise(messages, site), *reach.within(messages.c.site, messages.c.group_id)]
        live = sa.and_(in_state(messages, _LIVE), messages.c.job.is_(None), *mine)
        with self._database.read() as tx:
            return _count(tx, messages, live), _count(tx, messages, live, messages.c.state == "deferred")

    def refused(self, site: SiteId, reach: Reach) -> tuple[list[Refusal], bool]:
        """Why letters of the last days were not sent or failed, the most frequent first, among the newest
        MOST_REFUSED; and whether those were all."""
        with self._database.read() as tx:
            newest = (
                sa.select(messages.c.state, messages.c.reason)
                .where(
                    messages.c.site == site,
                    messages.c.created_at >= tx.now - REFUSED_WITHIN,
                    *reach.within(messages.c.site, messages.c.group_id),
                )
                .order_by(messages.c.created_at.desc(), messages.c.id.desc())
                .limit(MOST_REFUSED)
                .subquery()
            )
            number = sa.func.count().label("number")
            rows = tx.execute(
                sa.select(newest.c.state, newest.c.reason, number)
                .group_by(newest.c.state, newest.c.reason)
                .order_by(number.desc(), newest.c.reason)
            ).all()
        found = [
            Refusal(row.state, row.reason or "", row.number)
            for row in rows
            if row.state in ("skipped", "failed")
        ]
        return found, sum(row.number for row in rows) < MOST_REFUSED

    def in_doubt(self, site: SiteId, reach: Reach) -> Waiting:
        mine = [messages.c.site == site, *reach.within(messages.c.site, messages.c.group_id)]
        doubt = (in_state(messages, ["in_doubt"]), in_state(messages, TROUBLE))  # as the index has it
        return self._waiting(messages, messages.c.next_at, *doubt, *mine)

    def dead(self, site: SiteId) -> Waiting:
        return self._waiting(events, events.c.received_at, in_state(events, ["dead"]), events.c.site == site)

    def requests(self, site: SiteId, reach: Reach) -> tuple[int, int]:
        """Join requests that wait, as the last comparison with Wix's lists saw them, without those that were decided
        since; and how many of them a rule left for a person."""
        with self._database.read() as tx:
            lists = tx.execute(
                sa.select(watches.c.group_id, watches.c.pending, watches.c.looked_at).where(
                    watches.c.site == site,
                    watches.c.kind == REQUESTS,
                    *reach.within(watches.c.site, watches.c.group_id),
                )
            ).all()
            since = tx.now - FLAGGED_WITHIN
            # A decision from before the last look at its list says nothing that the list does not.
            looked = min((row.looked_at or since for row in lists), default=since)
            calls = (
                sa.select(outbox.c.group_id, outbox.c.member, outbox.c.created_at, outbox.c.state)
                .where(outbox.c.site == site, *reach.within(outbox.c.site, outbox.c.group_id))
                .order_by(outbox.c.created_at.desc())
                .limit(MOST_COUNTED)
            )
            rows = [
                *tx.execute(calls.where(in_state(outbox, ["flagged"]), outbox.c.created_at >= since)),
                *tx.execute(
                    calls.where(
                        outbox.c.kind.in_(("approve", "reject")),
                        outbox.c.state.in_(("planned", "done")),
                        outbox.c.created_at >= max(since, looked),
                    )
                ),
            ]
        listed = {
            (row.group_id, member)
            for row in lists
            for member, (_after, _seen, missing) in row.pending.items()
            if missing is None
        }
        looked_at = {row.group_id: row.looked_at for row in lists}
        # What is newer than the last look cannot be in it.
        newer = [row for row in rows if (at := looked_at.get(row.group_id)) is None or row.created_at > at]
        pending = listed - {(row.group_id, row.member) for row in newer if row.state != "flagged"}
        flagged = {(row.group_id, row.member) for row in rows if row.state == "flagged"}
        flagged &= pending | {(row.group_id, row.member) for row in newer}
        return len(pending | flagged), len(flagged)

    def refused_calls(self, site: SiteId, reach: Reach) -> int:
        """Decisions and opt-outs of the last days that Wix did not take: failed, or put off more than once."""
        with self._database.read() as tx:
            mine = [outbox.c.site == site, *reach.within(outbox.c.site, outbox.c.group_id)]
            put_off = sa.and_(outbox.c.state == "planned", outbox.c.attempts > 1)
            return _count(
                tx,
                outbox,
                outbox.c.created_at >= tx.now - REFUSED_WITHIN,
                sa.or_(outbox.c.state == "failed", put_off),
                *mine,
            )

    def due_since(self, site: SiteId, reach: Reach) -> dict[str, datetime]:
        """Since when the oldest event, letter and call is due that nobody took up."""
        asked: tuple[tuple[str, sa.Table, Sequence[str], list[sa.ColumnElement[bool]]], ...] = (
            ("events", events, ("received",), []),
            (
                "letters",
                messages,
                _LIVE,
                [messages.c.job.is_(None), *reach.within(messages.c.site, messages.c.group_id)],
            ),
            ("calls", outbox, ("planned",), reach.within(outbox.c.site, outbox.c.group_id)),
        )
        found = {}
        with self._database.read() as tx:
            for name, table, states, more in asked:
                oldest = (
                    sa.select(table.c.next_at)
                    .where(is_due(tx, table, states), _found_otherwise(table, site), *more)
                    .order_by(table.c.next_at)
                    .limit(1)
                )
                if (since := tx.connection.scalar(oldest)) is not None:
                    found[name] = since
        return found

    def site(self, site: SiteId) -> SiteFacts:
        with self._database.read() as tx:
            told = sa.select(events.c.received_at).where(events.c.site == site, ~events.c.found)
            row = tx.execute(sa.select(sites).where(sites.c.site == site)).first()
            lists = tx.execute(
                sa.select(
                    sa.func.max(watches.c.looked_at).label("looked_at"),
                    sa.func.max(watches.c.quiet_at).label("quiet_at"),
                    sa.func.count(sa.case((watches.c.error.startswith("refused: "), 1))).label("unread"),
                ).where(watches.c.site == site)
            ).one()
            alive = {
                name: tx.connection.scalar(
                    sa.select(sa.func.max(heartbeats.c.seen_at)).where(
                        heartbeats.c.name.startswith(f"{name}:")
                    )
                )
                for name in ("worker", "beat")
            }
            paused = tx.execute(
                sa.select(senders).where(senders.c.paused_until > tx.now).order_by(senders.c.domain).limit(20)
            ).all()
            return SiteFacts(
                tx.connection.scalar(told.order_by(events.c.received_at.desc()).limit(1)),
                lists.looked_at,
                lists.quiet_at is not None,
                row is not None and row.state == "removed",
                row.rests_until if row is not None else None,
                lists.unread,
                alive["worker"],
                alive["beat"],
                tuple(Pause(pause.domain, pause.paused_until, pause.reason or "") for pause in paused),
            )

    def people_by_day(
        self,
        site: SiteId,
        kinds: Mapping[str, Sequence[str]],
        midnights: Sequence[datetime],
        until: datetime | None = None,
    ) -> dict[str, list[int]]:
        """How many people the events of each kind were about, for each day that begins at one of `midnights`; `until`
        is the end of the last of them, unless it goes on."""
        of_type = sa.case(
            *((events.c.type.in_(types), sa.literal(kind)) for kind, types in kinds.items()), else_=""
        ).label("kind")
        rows = (
            sa.select(of_type, _day(events.c.received_at, midnights), _who())
            .where(
                events.c.site == site,
                *_between(events.c.received_at, midnights[0], until),
                events.c.type.in_([type_ for types in kinds.values() for type_ in types]),
            )
            .subquery()
        )
        query = sa.select(rows.c.kind, rows.c.day, sa.func.count(rows.c.who.distinct()).label("number"))
        found = {kind: [0] * len(midnights) for kind in kinds}
        with self._database.read() as tx:
            for row in tx.execute(query.group_by(rows.c.kind, rows.c.day)):
                found[row.kind][row.day] = row.number
        return found

    def letters_by_day(
        self, site: SiteId, reach: Reach, midnights: Sequence[datetime], until: datetime | None = None
    ) -> list[int]:
        """How many letters were sent on each of these days."""
        rows = (
            sa.select(_day(messages.c.sent_at, midnights))
            .where(
                messages.c.site == site,
                *_between(messages.c.sent_at, midnights[0], until),
                *reach.within(messages.c.site, messages.c.group_id),
            )
            .subquery()
        )
        found = [0] * len(midnights)
        with self._database.read() as tx:
            query = sa.select(rows.c.day, sa.func.count().label("number")).group_by(rows.c.day)
            for row in tx.execute(query):
                found[row.day] = row.number
        return found

    def _waiting(self, table: sa.Table, time: sa.Column[Any], *where: sa.ColumnElement[bool]) -> Waiting:
        with self._database.read() as tx:
            number = _count(tx, table, *where)
            since = tx.connection.scalar(sa.select(sa.func.min(time)).where(*where)) if number else None
            return Waiting(number, since)


def _found_otherwise(table: sa.Table, site: SiteId) -> sa.ColumnElement[bool]:
    """Rows of this site, by another index than the site's: SQLite, which does not know how many rows there are of what,
    takes the one with an equal sign, and reads all that a site ever had."""
    return sa.func.coalesce(table.c.site, "") == site


def _count(tx: Transaction, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    some = sa.select(sa.literal(1)).select_from(table).where(*where).limit(MOST_COUNTED).subquery()
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def _who() -> sa.Label[str]:
    """Whom an event is about; an event that was not worked off yet stands for somebody."""
    return sa.func.coalesce(events.c.member, events.c.id).label("who")


def _between(time: sa.Column[Any], since: datetime, until: datetime | None) -> list[sa.ColumnElement[bool]]:
    return [time >= since, *([] if until is None else [time < until])]


def _day(time: sa.Column[Any], midnights: Sequence[datetime]) -> sa.Label[int]:
    """The place in `midnights` of the day that a time is in."""
    newest_first = reversed(list(enumerate(midnights)))
    return sa.case(*((time >= begins, place) for place, begins in newest_first), else_=0).label("day")


def _is_in(row: sa.Row[Any], groups: frozenset[str]) -> bool:
    event = Event(EventId(row.id), SiteId(row.site), row.type, row.occurred_at, row.payload)
    try:
        return read_details(event).group in groups
    except MalformedEventError:
        return False
