"""Requests to join, as far as the database knows of them: what was heard, and what persons decide.

A decision is a row of the outbox with the key that a rule's has, so whoever comes first decides. `who` is the person;
they may take it back until a worker has it in hand.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.errors import MalformedEventError
from core.events import JOIN_REQUESTED, Event, EventId, read_details
from core.reconciliation import ENDS_OF_REQUEST, Heard
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.reach import Reach
from integrations.store.tables import events, messages, outbox
from integrations.store.work import in_state

Row = sa.Row[Any]
Place = tuple[GroupId, MemberId]

UNDO_S = 15.0
DECISIONS = ("approve", "reject", "flag")
TO_BE_DECIDED = ("flagged", "undone", "failed", "void")
"""States of a decision that leave the request open."""
_AT_ONCE = 500
_MOST_LETTERS = 5000


@dataclass(frozen=True, slots=True)
class Decision:
    """`kind`: approve or reject. `text` is what a rejected person is told; `noticed` an event for the journal when none
    speaks of the request yet."""

    key: str
    kind: str
    group: GroupId
    member: MemberId
    text: str = field(default="", repr=False)
    noticed: Event | None = None


class Requests:
    def __init__(self, database: Database) -> None:
        self._database = database

    def heard(self, site: SiteId, members: Collection[MemberId]) -> Mapping[Place, list[Heard]]:
        """What the journal holds of these people's requests, and of how they ended. An event that was not worked off
        yet does not say whom it is about, and is not found."""
        found: dict[Place, list[Heard]] = defaultdict(list)
        of_type = sa.and_(events.c.site == site, events.c.type.in_((JOIN_REQUESTED, *ENDS_OF_REQUEST)))
        with self._database.read() as tx:
            for some in _parts(sorted(set(members))):
                for row in tx.execute(sa.select(events).where(of_type, events.c.member.in_(some))):
                    if one := _open(row):
                        found[one.details.group, one.details.member].append(one)  # type: ignore[index] # known by _open
        return found

    def decisions(self, site: SiteId, keys: Collection[str]) -> Mapping[str, Row]:
        """By their keys (core.letters.decision_key)."""
        with self._database.read() as tx:
            return {
                row.key: row
                for some in _parts(sorted(set(keys)))
                for row in tx.execute(sa.select(outbox).where(outbox.c.site == site, outbox.c.key.in_(some)))
            }

    def letters(self, site: SiteId, members: Collection[MemberId]) -> list[Row]:
        """Letters and refusals of these people, oldest first: member, group, automation, trigger, state, created_at."""
        names = ("member", "group_id", "automation", "trigger", "state", "created_at")
        theirs = sa.and_(messages.c.site == site, messages.c.member.in_(sorted(set(members))))
        query = sa.select(*(messages.c[name] for name in names)).where(theirs).limit(_MOST_LETTERS)
        with self._database.read() as tx:  # sorted by the database it would read all of the site's
            return sorted(tx.execute(query), key=lambda row: row.created_at)

    def past(
        self, site: SiteId, *, limit: int, after: tuple[datetime, str] | None = None
    ) -> list[tuple[Heard | None, tuple[datetime, str]]]:
        """Requests that were heard of, newest first, each with its place in this list; `after` is the last one seen.
        None stands for one that says nothing any more, because its person was forgotten."""
        order = (events.c.received_at, events.c.id)
        # As the partial index spells it: SQLite sees only of the very same words that it fits.
        asked = sa.literal(JOIN_REQUESTED, events.c.type.type, literal_execute=True)
        where = [events.c.site == site, events.c.type == asked]
        if after is not None:
            seen = [sa.literal(value, column.type) for column, value in zip(order, after, strict=True)]
            where += [events.c.received_at <= after[0], sa.tuple_(*order) < sa.tuple_(*seen)]
        query = sa.select(events).where(*where).order_by(*(column.desc() for column in order)).limit(limit)
        with self._database.read() as tx:
            return [(_open(row), (row.received_at, row.id)) for row in tx.execute(query)]

    def decide(
        self, site: SiteId, wanted: Sequence[Decision], *, who: str
    ) -> tuple[list[Row], list[tuple[Decision, str]]]:
        """Write down what a person decided, to be done in some seconds; all of it at once. Beside the rows: what could
        not be decided any more, and why. The same decision again changes nothing."""
        rows: list[Row] = []
        refused: list[tuple[Decision, str]] = []
        with self._database.begin() as tx:
            for decision in wanted:
                row, why = _decide(tx, site, decision, who)
                if row is not None:
                    rows.append(row)
                else:
                    refused.append((decision, why))
        return rows, refused

    def undo(
        self, site: SiteId | None, ids: Sequence[str], *, reach: Reach, who: str
    ) -> tuple[list[Row], list[tuple[str, str]]]:
        """Take decisions back, those of rules too, as long as no worker has them in hand. Beside the rows: what could
        not be taken back, and why; an id that is nobody's within `reach` is in neither."""
        rows: list[Row] = []
        refused: list[tuple[str, str]] = []
        where = [outbox.c.kind.in_(DECISIONS), *reach.within(outbox.c.site, outbox.c.group_id)]
        if site is not None:
            where.append(outbox.c.site == site)
        with self._database.begin() as tx:
            for id_ in dict.fromkeys(ids):
                found = tx.execute(
                    sa.select(outbox).where(outbox.c.id == id_, *where).with_for_update()
                ).first()
                if found is None:
                    continue
                if found.state != "planned" or found.lease is not None or found.attempts:
                    refused.append((id_, why_not_undone(found)))
                    continue
                # What a rule had decided or left to a person is for a person now.
                left = {"kind": "flag", "state": "flagged"} if found.automation else {"state": "undone"}
                values = left | {"who": who, "text": "", "error": None, "finished_at": tx.now}
                _note(tx, who, "request.undo", found, values)
                rows.append(
                    tx.execute(
                        sa.update(outbox).where(outbox.c.id == id_).values(**values).returning(outbox)
                    ).one()
                )
        return rows, refused

    def under_way(self, site: SiteId, reach: Reach, *, since: timedelta, limit: int) -> list[Row]:
        """What persons decided or took back in the last time and is not done, or only just; newest first."""
        with self._database.read() as tx:
            open_or_new = sa.or_(
                in_state(outbox, ("planned",)), outbox.c.finished_at >= tx.now - timedelta(minutes=2)
            )
            return list(
                tx.execute(
                    sa.select(outbox)
                    .where(
                        outbox.c.site == site,
                        outbox.c.created_at >= tx.now - since,
                        outbox.c.who.is_not(None),
                        outbox.c.state.not_in(("undone", "flagged")),
                        open_or_new,
                        *reach.within(outbox.c.site, outbox.c.group_id),
                    )
                    .order_by(outbox.c.created_at.desc(), outbox.c.id.desc())
                    .limit(limit)
                )
            )


def why_not_undone(row: Row) -> str:
    """Of a decision that nobody can take back any more, what became of it; for people to read."""
    done = {"approve": "Wix has let them in", "reject": "Wix has declined the request"}
    match row.state:
        case "done":
            return f"{done.get(row.kind, 'Wix has it')} already"
        case "planned":
            return "a worker is telling Wix right now, or Wix was asked and may have heard it"
        case "undone" | "flagged":
            return "it was taken back already"
    return "it had no effect, so there is nothing to take back"


def _decide(tx: Transaction, site: SiteId, decision: Decision, who: str) -> tuple[Row | None, str]:
    if decision.noticed is not None:
        _notice(tx, decision.noticed, decision.member)
    values = {
        "kind": decision.kind,
        "text": decision.text,
        "state": "planned",
        "who": who,
        "next_at": tx.now + timedelta(seconds=UNDO_S),
        "attempts": 0,
        "crashes": 0,
        "lease": None,
        "error": None,
        "created_at": tx.now,
        "finished_at": None,
    }
    new = tx.execute(
        tx.insert(outbox)
        .values(
            id=uuid.uuid4().hex,
            site=site,
            key=decision.key,
            group_id=decision.group,
            member=decision.member,
            **values,
        )
        .on_conflict_do_nothing(index_elements=[outbox.c.site, outbox.c.key])
        .returning(outbox)
    ).first()
    if new is not None:
        _note(tx, who, f"request.{decision.kind}", None, values, new)
        return new, ""
    same = sa.and_(outbox.c.site == site, outbox.c.key == decision.key)
    found = tx.execute(sa.select(outbox).where(same).with_for_update()).one()
    if found.state not in TO_BE_DECIDED:
        if (
            found.state == "planned"
            and found.who == who
            and (found.kind, found.text) == (decision.kind, decision.text)
        ):
            return found, ""
        by = f'"{found.automation}"' if found.who is None else found.who
        what = {"approve": "approved", "reject": "declined"}.get(found.kind, "decided")
        return None, f"{'is being' if found.state == 'planned' else 'was'} {what} already, by {by}"
    row = tx.execute(sa.update(outbox).where(same).values(**values).returning(outbox)).one()
    _note(tx, who, f"request.{decision.kind}", found, values)
    return row, ""


def _note(
    tx: Transaction,
    who: str,
    action: str,
    before: Row | None,
    values: Mapping[str, Any],
    row: Row | None = None,
) -> None:
    row = before or row
    assert row is not None  # noqa: S101 (one of the two is given)
    about = {"group": row.group_id, "member": row.member}
    note(
        tx,
        who,
        action,
        f"request {row.id}",
        site=row.site,
        before={"kind": before.kind, "state": before.state, "automation": before.automation}
        if before
        else None,
        after={"kind": values.get("kind", row.kind), "state": values["state"], **about},
    )


def _notice(tx: Transaction, event: Event, member: MemberId) -> None:
    """Nothing follows from it: it is there so that what is heard later is known to be about the same request."""
    tx.execute(
        tx.insert(events)
        .values(
            site=event.site,
            id=event.id,
            type=event.type,
            occurred_at=event.occurred_at,
            received_at=tx.now,
            payload=event.payload,
            erasure=False,
            found=True,
            member=member,
            state="ignored",
            attempts=0,
            crashes=0,
            next_at=tx.now,
            error="a person decided the request before anybody told of it",
            finished_at=tx.now,
        )
        .on_conflict_do_nothing()
    )


def _open(row: Row) -> Heard | None:
    event = Event(
        EventId(row.id), SiteId(row.site), row.type, row.occurred_at, row.payload, row.erasure, row.found
    )
    with contextlib.suppress(MalformedEventError):
        details = read_details(event)
        if details.group is not None and details.member is not None:
            return Heard(event, details)
    return None


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
