"""Which of Wix's lists are compared with the journal, and how far each was: one row for each list.

A row is claimed, looked at, and due again later; `missing` ones wait until their group is listed again. What a look
finds is written to the journal in the transaction that settles the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.events import Event, EventId, parse_time
from core.reconciliation import GROUPS, MEMBERS, Rearranged, Request, Watch
from integrations.store.database import Database, Transaction
from integrations.store.journal import insert_found
from integrations.store.tables import sites, watches
from integrations.store.work import LEASE_S, Hand, claim, is_due, let_go, renew, settle

_WAITING = ("watched",)


@dataclass(frozen=True, slots=True)
class ClaimedWatch:
    """`now` is the database's time before the look, `beside` how many lists of the site are watched."""

    watch: Watch
    now: datetime
    beside: int
    attempts: int
    crashes: int
    error: str | None
    row: sa.Row[Any] = field(repr=False)


class Watches:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._hand = Hand()
        self.hands_free = self._hand.free

    def claim(self) -> ClaimedWatch | None:
        """The list that has been due for longest. A site whose app is installed is watched from now on."""
        with self._database.read() as tx:
            unwatched = tx.execute(_unwatched_sites()).first() is not None
            if (
                not unwatched
                and tx.execute(sa.select(watches.c.site).where(_is_due(tx)).limit(1)).first() is None
            ):
                return None
        with self._database.begin() as tx:
            if unwatched:
                for row in tx.execute(_unwatched_sites()).all():
                    _insert(tx, Watch(SiteId(row.site), GROUPS, GroupId("")))
            rows = claim(
                tx, watches, _WAITING, lease=self._hand.take(), limit=1, lease_s=LEASE_S, where=~_rests(tx)
            )
            if not rows:
                return None
            row = rows[0]
            beside = tx.connection.scalar(
                sa.select(sa.func.count()).where(watches.c.site == row.site, watches.c.kind != GROUPS)
            )
        return ClaimedWatch(_watch(row), tx.now, beside or 0, row.attempts, row.crashes, row.error, row)

    def of_site(self, site: SiteId) -> list[Watch]:
        """The lists of the site's groups that are watched."""
        query = sa.select(watches).where(watches.c.site == site, watches.c.kind != GROUPS)
        with self._database.read() as tx:
            return [_watch(row) for row in tx.execute(query)]

    def settle(
        self,
        claimed: ClaimedWatch,
        watch: Watch,
        *,
        next_s: float,
        pause_s: float,
        found: Sequence[Event] = (),
        rearranged: Rearranged | None = None,
        **values: Any,
    ) -> set[EventId]:
        """Write how far the list is now, what was found, and what to watch; returns the events that are new.

        The site's lists rest for `pause_s`, after whatever rest is under way. Raises LostLeaseError, then nothing
        is written: somebody else looks, or the site removed the app.
        """
        with self._database.begin() as tx:
            rests = sa.select(sa.func.max(watches.c.rests_until)).where(watches.c.site == watch.site)
            rest_from = max(tx.now, tx.execute(rests).scalar() or tx.now)
            settle(
                tx,
                watches,
                claimed.row,
                state="missing" if watch.missing else "watched",
                since=watch.since,
                pending=_as_json(watch.pending),
                looked_at=watch.looked_at,
                next_at=tx.now + timedelta(seconds=next_s),
                rests_until=rest_from + timedelta(seconds=pause_s),
                **{"attempts": 0, "error": None} | values,
            )
            if rearranged is not None:
                _rearrange(tx, rearranged)
            return insert_found(tx, found)

    def let_go(self) -> None:
        """This process ends in the middle of its work."""
        with self._database.begin() as tx:
            let_go(tx, watches, lease=self._hand.lease)

    def renew(self) -> None:
        """Keep what this process holds."""
        with self._database.begin() as tx:
            renew(tx, watches, _WAITING, lease=self._hand.lease, lease_s=LEASE_S)


def _unwatched_sites() -> sa.Select[Any]:
    watched = sa.exists().where(watches.c.site == sites.c.site, watches.c.kind == GROUPS)
    return sa.select(sites.c.site).where(sites.c.state == "active", ~watched)


def _is_due(tx: Transaction) -> sa.ColumnElement[bool]:
    return sa.and_(is_due(tx, watches, _WAITING), ~_rests(tx))


def _rests(tx: Transaction) -> sa.ColumnElement[bool]:
    """The site's lists have had their share of its calls for now."""
    other = watches.alias("other")
    return sa.exists().where(other.c.site == watches.c.site, other.c.rests_until > tx.now)


def _rearrange(tx: Transaction, rearranged: Rearranged) -> None:
    """Rows that are being looked at stay as they are: the next list of groups says the same of them."""
    for watch in rearranged.new:
        _insert(tx, watch)
    for watch in rearranged.changed:
        soon = {"next_at": tx.now} if watch.kind == MEMBERS and watch.group in rearranged.urgent else {}
        tx.execute(
            sa.update(watches)
            .where(*_same(watch), watches.c.lease.is_(None))
            .values(
                state="missing" if watch.missing else "watched",
                members=watch.members,
                privacy=watch.privacy,
                **soon,
            )
        )
    for watch in rearranged.dropped:
        tx.execute(sa.delete(watches).where(*_same(watch)))


def _insert(tx: Transaction, watch: Watch) -> None:
    tx.execute(
        tx.insert(watches)
        .values(
            site=watch.site,
            kind=watch.kind,
            group_id=watch.group,
            state="watched",
            attempts=0,
            crashes=0,
            next_at=tx.now,
            since=watch.since,
            pending=_as_json(watch.pending),
            members=watch.members,
            privacy=watch.privacy,
            looked_at=watch.looked_at,
        )
        .on_conflict_do_nothing()
    )


def _same(watch: Watch) -> list[sa.ColumnElement[bool]]:
    return [
        watches.c.site == watch.site,
        watches.c.kind == watch.kind,
        watches.c.group_id == watch.group,
    ]


def _watch(row: sa.Row[Any]) -> Watch:
    return Watch(
        site=SiteId(row.site),
        kind=row.kind,
        group=GroupId(row.group_id),
        since=row.since,
        pending={
            MemberId(member): Request(*(parse_time(time) for time in times))
            for member, times in row.pending.items()
        },
        members=row.members,
        privacy=row.privacy,
        looked_at=row.looked_at,
        missing=row.state == "missing",
    )


def _as_json(pending: Mapping[MemberId, Request]) -> dict[str, list[str | None]]:
    return {
        member: [
            None if time is None else time.isoformat()
            for time in (request.after, request.seen, request.missing)
        ]
        for member, request in pending.items()
    }
