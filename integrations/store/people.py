"""One person on one site: all that is kept of them, and what an admin does about it.

An act and its line of the audit log, which names the member by id, are one transaction.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.consent import ADMINS_REASONS, why_it_stays
from core.errors import MalformedEventError, NotThereError, WrongStateError
from core.events import Event, EventId, read_details
from core.reconciliation import MEMBERS
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.ledger import admins_subjects, all_subjects, stands
from integrations.store.suppressions import FORGOTTEN, forget_member, suppress
from integrations.store.tables import (
    audit,
    events,
    job_items,
    jobs,
    messages,
    outbox,
    suppressions,
    watches,
)

MOST_ROWS = 2000
"""Of one kind, the newest; nobody has nearly as many."""
_AT_ONCE = 500

Row = sa.Row[Any]


@dataclass(frozen=True, slots=True)
class Told:
    """An event about a person; `group` None when it names none, or was blanked when they were forgotten."""

    row: Row = field(repr=False)
    group: GroupId | None


@dataclass(frozen=True, slots=True)
class Records:
    """All rows of one member on one site, each kind oldest first. `jobs`: those of their letters and items, by id.

    `suppressions` are those that stand. `asked`: groups in whose list of requests they were seen last.
    """

    told: tuple[Told, ...] = ()
    letters: tuple[Row, ...] = ()
    calls: tuple[Row, ...] = ()
    items: tuple[Row, ...] = ()
    suppressions: tuple[Row, ...] = ()
    audit: tuple[Row, ...] = ()
    jobs: Mapping[str, Row] = field(default_factory=dict)
    asked: frozenset[GroupId] = frozenset()
    hashes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def groups(self) -> list[GroupId]:
        """Those that anything here is about, the ones that were last in a letter or an event first."""
        places = [(row.created_at, row.group_id) for row in (*self.letters, *self.calls)]
        places += [(told.row.occurred_at, told.group or "") for told in self.told]
        places += [(row.changed_at, row.group_id or "") for row in self.items]
        found = [GroupId(group) for _, group in sorted(places, reverse=True) if group]
        return list(dict.fromkeys([*found, *sorted(self.asked)]))

    @property
    def is_forgotten(self) -> bool:
        return any(row.cause == "forgotten" for row in self.suppressions)

    def __bool__(self) -> bool:
        return bool(self.told or self.letters or self.calls or self.items or self.suppressions or self.asked)


class People:
    """`address_hashes` are those of somebody's address at Wix, if it is known; those under which letters went to them
    are known here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def records(self, site: SiteId, member: MemberId, address_hashes: Iterable[str] = ()) -> Records:
        with self._database.read() as tx:
            return _records(tx, site, member, address_hashes)

    def groups_of(self, site: SiteId, members: Collection[MemberId]) -> dict[MemberId, frozenset[GroupId]]:
        """Where these people are, were, or asked to be, as far as rows tell; up to some hundreds. Who is in no row is
        absent."""
        found: dict[MemberId, set[GroupId]] = defaultdict(set)
        wanted = sorted(set(members))
        with self._database.read() as tx:
            for table in (messages, outbox, job_items):
                query = sa.select(table.c.member, table.c.group_id).distinct()
                for row in tx.execute(query.where(table.c.site == site, table.c.member.in_(wanted))):
                    found[MemberId(row.member)].update([GroupId(row.group_id)] if row.group_id else ())
            query = sa.select(events).where(events.c.site == site, events.c.member.in_(wanted))
            for row in tx.execute(query.order_by(events.c.received_at.desc()).limit(MOST_ROWS)):
                group = _group_of(row)
                found[MemberId(row.member)].update([group] if group else ())
            for member in wanted:
                asked = _asked(tx, site, member)
                if asked or _any_suppression(tx, site, member):
                    found[member].update(asked)
        return {member: frozenset(groups) for member, groups in found.items()}

    def watched_since(self, site: SiteId, groups: Collection[GroupId]) -> dict[GroupId, datetime | None]:
        """Since when joins of these groups are told apart from who was in before; None: a list not looked at yet. A
        group whose list is not compared is absent."""
        query = sa.select(watches.c.group_id, watches.c.since).where(
            watches.c.site == site, watches.c.kind == MEMBERS, watches.c.group_id.in_(list(groups))
        )
        with self._database.read() as tx:
            return {GroupId(row.group_id): row.since for row in tx.execute(query)}

    def suppress(
        self,
        site: SiteId,
        member: MemberId,
        scope: str,
        reason: str,
        *,
        address_hashes: Iterable[str] = (),
        who: str,
    ) -> None:
        """An admin ends their letters: `scope` as of core.consent.Suppression, `reason` one of ADMINS_REASONS.

        Raises WrongStateError when an admin has done so before.
        """
        words = f"an admin ended these letters: {ADMINS_REASONS[reason]}"
        with self._database.begin() as tx:
            subjects = admins_subjects(member, _hashes(tx, site, member, address_hashes))
            if _standing(tx, site, subjects[:1], suppressions.c.scope == scope):
                raise WrongStateError("an admin has ended these letters already")
            for subject in subjects:
                suppress(tx, site, subject, scope, cause="admin", reason=words)
            said = {"scope": scope, "reason": reason}
            note(tx, who, "people.suppress", f"member {member}", site=site, after=said)

    def release(
        self,
        site: SiteId,
        member: MemberId,
        scope: str,
        cause: str,
        *,
        address_hashes: Iterable[str] = (),
        who: str,
    ) -> None:
        """Lift what stands under this scope and cause. Raises WrongStateError with the reason for what no admin may
        lift, NotThereError when nothing of the kind stands."""
        if stays := why_it_stays(cause):
            raise WrongStateError(stays)
        with self._database.begin() as tx:
            subjects = all_subjects(member, _hashes(tx, site, member, address_hashes))
            such = sa.and_(suppressions.c.scope == scope, suppressions.c.cause == cause)
            lifted = _standing(tx, site, subjects, such)
            if not lifted:
                raise NotThereError("nothing of this kind stands against letters to them")
            tx.execute(
                sa.delete(suppressions).where(
                    suppressions.c.site == site,
                    suppressions.c.subject.in_([row.subject for row in lifted]),
                    such,
                )
            )
            said = {"scope": scope, "cause": cause}
            note(tx, who, "people.release", f"member {member}", site=site, before=said)

    def export(
        self, site: SiteId, member: MemberId, address_hashes: Iterable[str] = (), *, who: str
    ) -> Records:
        """As `records`, noted in the audit log. Raises NotThereError when nothing is kept of them."""
        with self._database.begin() as tx:
            found = _records(tx, site, member, address_hashes)
            if not found:
                raise NotThereError("nothing is known of this member here")
            counts = {"events": len(found.told), "letters": len(found.letters)}
            note(tx, who, "people.export", f"member {member}", site=site, after=counts)
            return found

    def erase(self, site: SiteId, member: MemberId, address_hashes: Iterable[str] = (), *, who: str) -> None:
        """Forget a person as a privacy request at Wix has them forgotten; again is harmless.

        Their id and the hashes of their addresses stay, so that nobody writes to them again.
        """
        with self._database.begin() as tx:
            hashes = _hashes(tx, site, member, address_hashes)
            forget_member(tx, site, member)
            for known in hashes:
                suppress(tx, site, f"address:{known}", "all", cause="forgotten", reason=FORGOTTEN)
            note(tx, who, "people.erase", f"member {member}", site=site)


def _records(tx: Transaction, site: SiteId, member: MemberId, address_hashes: Iterable[str]) -> Records:
    hashes = _hashes(tx, site, member, address_hashes)
    letters = _newest(tx, messages, site, member, messages.c.created_at)
    items = _newest(tx, job_items, site, member, job_items.c.changed_at)
    told = _newest(tx, events, site, member, events.c.occurred_at)
    ids = sorted({row.job for row in (*letters, *items) if row.job})
    lines = _chunks(
        tx, audit, audit.c.object, [f"member {member}", *(f"message {row.id}" for row in letters)]
    )
    return Records(
        told=tuple(Told(row, _group_of(row)) for row in told),
        letters=letters,
        calls=_newest(tx, outbox, site, member, outbox.c.created_at),
        items=items,
        suppressions=tuple(_standing(tx, site, all_subjects(member, hashes), sa.true())),
        audit=tuple(sorted((row for row in lines if row.site == site), key=lambda row: (row.at, row.id))),
        jobs={row.id: row for row in _chunks(tx, jobs, jobs.c.id, ids)},
        asked=frozenset(_asked(tx, site, member)),
        hashes=tuple(hashes),
    )


def _newest(
    tx: Transaction, table: sa.Table, site: SiteId, member: MemberId, at: sa.Column[Any]
) -> tuple[Row, ...]:
    order = [column.desc() for column in (at, *table.primary_key.columns)]
    query = sa.select(table).where(table.c.site == site, table.c.member == member)
    return tuple(reversed(tx.execute(query.order_by(*order).limit(MOST_ROWS)).all()))


def _chunks(tx: Transaction, table: sa.Table, column: sa.Column[Any], wanted: list[str]) -> list[Row]:
    found: list[Row] = []
    for start in range(0, len(wanted), _AT_ONCE):
        found += tx.execute(sa.select(table).where(column.in_(wanted[start : start + _AT_ONCE]))).all()
    return found


def _group_of(row: Row) -> GroupId | None:
    event = Event(
        EventId(row.id), SiteId(row.site), row.type, row.occurred_at, row.payload, row.erasure, row.found
    )
    with contextlib.suppress(MalformedEventError):
        return read_details(event).group
    return None


def _hashes(tx: Transaction, site: SiteId, member: MemberId, given: Iterable[str]) -> list[str]:
    """Those given first."""
    mine = (messages.c.site == site, messages.c.member == member, messages.c.address_hash.is_not(None))
    known = tx.execute(sa.select(messages.c.address_hash).where(*mine).distinct()).scalars()
    return list(dict.fromkeys([*given, *sorted(known)]))


def _standing(
    tx: Transaction, site: SiteId, subjects: Collection[str], such: sa.ColumnElement[bool]
) -> list[Row]:
    these = (suppressions.c.site == site, suppressions.c.subject.in_(list(subjects)), stands(tx), such)
    order = (suppressions.c.created_at, suppressions.c.scope, suppressions.c.subject)
    return list(tx.execute(sa.select(suppressions).where(*these).order_by(*order)))


def _any_suppression(tx: Transaction, site: SiteId, member: MemberId) -> bool:
    return bool(_standing(tx, site, all_subjects(member, ()), sa.true()))


def _asked(tx: Transaction, site: SiteId, member: MemberId) -> list[GroupId]:
    named = sa.cast(watches.c.pending, sa.Text).contains(json.dumps(member), autoescape=True)
    return [
        GroupId(group)
        for group in tx.execute(
            sa.select(watches.c.group_id).where(watches.c.site == site, named, watches.c.group_id != "")
        ).scalars()
    ]
