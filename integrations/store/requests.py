"""Requests to join, as far as the database knows of them: what was heard, and what persons decide.

A decision is a row of the outbox, as a rule's is, and whoever comes first decides. `who` is the person; they may take
it back until a worker has it in hand.
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
from core.letters import decision_key
from core.reconciliation import ENDS_OF_REQUEST, Heard, noticed_request, times_of_request
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.outbox import DECISIONS, deciding, decisions_of, lock_requests
from integrations.store.reach import Reach
from integrations.store.tables import events, messages, outbox
from integrations.store.work import in_state

Row = sa.Row[Any]
Place = tuple[GroupId, MemberId]

UNDO_S = 15.0
_AT_ONCE = 500
_MOST_LETTERS = 5000


@dataclass(frozen=True, slots=True)
class Decision:
    """`kind`: approve or reject. `text` is what a rejected person is told; `asked_at` when the request was made, if Wix
    says so."""

    kind: str
    group: GroupId
    member: MemberId
    asked_at: datetime | None
    text: str = field(default="", repr=False)


class Requests:
    def __init__(self, database: Database) -> None:
        self._database = database

    def heard(self, site: SiteId, members: Collection[MemberId]) -> Mapping[Place, list[Heard]]:
        """What the journal holds of these people's requests, and of how they ended. An event that was not worked off
        yet does not say whom it is about, and is not found."""
        with self._database.read() as tx:
            return _heard(tx, site, members)

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
            lock_requests(tx, site, [(one.group, one.member) for one in wanted])
            heard = _heard(tx, site, {one.member for one in wanted})
            for decision in wanted:
                theirs = heard.get((decision.group, decision.member), [])
                row, why = _decide(tx, site, decision, theirs, who)
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


def _heard(tx: Transaction, site: SiteId, members: Collection[MemberId]) -> Mapping[Place, list[Heard]]:
    found: dict[Place, list[Heard]] = defaultdict(list)
    of_type = sa.and_(events.c.site == site, events.c.type.in_((JOIN_REQUESTED, *ENDS_OF_REQUEST)))
    for some in _parts(sorted(set(members))):
        for row in tx.execute(sa.select(events).where(of_type, events.c.member.in_(some))):
            if one := _open(row):
                found[one.details.group, one.details.member].append(one)  # type: ignore[index] # known by _open
    return found


def _decide(
    tx: Transaction, site: SiteId, decision: Decision, heard: Sequence[Heard], who: str
) -> tuple[Row | None, str]:
    """`heard`: what the journal holds of this person and group; nobody else decides about them meanwhile."""
    group, member = decision.group, decision.member
    times = times_of_request(decision.asked_at, heard)
    keys = [decision_key(group, member, at) for at in times]
    rows = decisions_of(tx, site, group, member)
    if known := deciding(rows, keys, decision.asked_at or min(times, default=None)):
        if (
            known.state == "planned"
            and known.who == who
            and (known.kind, known.text) == (decision.kind, decision.text)
        ):
            return known, ""
        by = f'"{known.automation}"' if known.who is None else known.who
        what = {"approve": "approved", "reject": "declined"}.get(known.kind, "decided")
        return None, f"{'is being' if known.state == 'planned' else 'was'} {what} already, by {by}"
    if not times:
        noticed = noticed_request(site, group, member, decision.asked_at, heard, tx.now)
        _notice(tx, noticed, member)
        keys = [decision_key(group, member, noticed.occurred_at)]
    by_key = {row.key: row for row in rows}
    before = next((by_key[key] for key in keys if key in by_key), None)
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
    if before is None:
        new = {"id": uuid.uuid4().hex, "site": site, "key": keys[0], "group_id": group, "member": member}
        row = tx.execute(tx.insert(outbox).values(**new, **values).returning(outbox)).one()
    else:
        row = tx.execute(
            sa.update(outbox).where(outbox.c.id == before.id).values(**values).returning(outbox)
        ).one()
    _note(tx, who, f"request.{decision.kind}", before, values, row)
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
