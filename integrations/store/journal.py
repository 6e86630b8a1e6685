"""The journal of events: what Wix told us, once each, and how far we are with it.

An event is `received` until it is `done`, `ignored` or `dead`.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import MemberId, SiteId
from core.errors import NotThereError, WrongStateError
from core.events import Event, EventId
from core.letters import Effects
from integrations.store.database import Database, Transaction
from integrations.store.ledger import plan_letters, stop_letters
from integrations.store.outbox import owe_calls
from integrations.store.sites import note_site
from integrations.store.suppressions import forget_member
from integrations.store.tables import events
from integrations.store.work import (
    LEASE_S,
    MOST_CRASHES,
    any_due,
    claim,
    count_by_state,
    give_back,
    page,
    renew,
    settle,
)

_WAITING = ("received",)


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    event: Event
    attempts: int
    row: sa.Row[Any] = field(repr=False)

    @property
    def site(self) -> SiteId:
        return self.event.site


class Journal:
    """`listened`: the types that set something off; of others only the head is kept, as ignored."""

    def __init__(self, database: Database, *, listened: Collection[str]) -> None:
        self._database = database
        self._listened = frozenset(listened)
        self._holder = uuid.uuid4().hex

    def insert(self, batch: Sequence[Event]) -> list[bool]:
        """Commit all of them at once; says for each whether it was new. Raises JournalUnavailableError."""
        rows: dict[tuple[str, str], Event] = {}
        for event in batch:
            rows.setdefault((event.site, event.id), event)
        with self._database.begin() as tx:
            # Many parameter sets rather than one long VALUES: that statement is built once, not for each size.
            returned = tx.connection.execute(
                tx.insert(events).on_conflict_do_nothing().returning(events.c.site, events.c.id),
                [self._row(event, tx.now) for event in rows.values()],
            )
            new = {(row.site, row.id) for row in returned}
        answers = []
        for event in batch:
            key = (str(event.site), str(event.id))
            answers.append(key in new)
            new.discard(key)  # a twin in the same batch is a duplicate
        return answers

    def _row(self, event: Event, now: datetime) -> dict[str, object]:
        heard = event.erasure or event.type in self._listened
        return {
            "site": event.site,
            "id": event.id,
            "type": event.type,
            "occurred_at": event.occurred_at,
            "received_at": now,
            "payload": event.payload if heard else "{}",
            "erasure": event.erasure,
            "state": "received" if heard else "ignored",
            "attempts": 0,
            "crashes": 0,
            "next_at": now,
            "error": None if heard else "nobody listens to this type",
            "finished_at": None if heard else now,
        }

    def claim(self, limit: int) -> list[ClaimedEvent]:
        """Take up to `limit` due events. Those whose workers kept dying become dead instead."""
        with self._database.begin() as tx:
            rows = claim(tx, events, _WAITING, holder=self._holder, limit=limit, lease_s=LEASE_S)
            found = [_claimed(row) for row in sorted(rows, key=lambda row: row.occurred_at)]
            for event in found:
                if event.row.crashes >= MOST_CRASHES:
                    _settle(tx, event, "dead", f"its worker died {event.row.crashes} times over it")
        return [event for event in found if event.row.crashes < MOST_CRASHES]

    def finish(self, claimed: ClaimedEvent, effects: Effects) -> None:
        """Write all effects and "done" in one transaction. Raises LostLeaseError, then nothing is written."""
        event = claimed.event
        with self._database.begin() as tx:
            _settle(tx, claimed, "ignored" if effects.ignored else "done", effects.ignored, effects.member)
            note_site(tx, event.site, event.occurred_at, effects.site_state)
            for stop in effects.stop:
                stop_letters(tx, event.site, stop)
            if effects.forget:
                forget_member(tx, event.site, effects.forget)
            plan_letters(tx, event.site, event.id, effects.letters)
            owe_calls(tx, event.site, event.id, effects.calls)

    def postpone(self, claimed: ClaimedEvent, *, delay_s: float, error: str, counts: bool = True) -> None:
        with self._database.begin() as tx:
            settle(
                tx,
                events,
                claimed.row,
                error=error,
                attempts=claimed.attempts + int(counts),
                next_at=tx.now + timedelta(seconds=delay_s),
            )

    def bury(self, claimed: ClaimedEvent, error: str) -> None:
        """Set aside as dead: again cannot help."""
        with self._database.begin() as tx:
            _settle(tx, claimed, "dead", error)

    def give_back(self, claimed: Sequence[ClaimedEvent]) -> None:
        with self._database.begin() as tx:
            give_back(tx, events, [item.row for item in claimed])

    def renew(self) -> None:
        """Keep what this process holds."""
        with self._database.begin() as tx:
            renew(tx, events, _WAITING, holder=self._holder, lease_s=LEASE_S)

    def replay(self, id: EventId, site: SiteId | None = None) -> None:  # noqa: A002 (the event's own word)
        """Have an event that came to its end worked off once more. Its letters keep their keys: nobody gets a second.

        Raises NotThereError; WrongStateError for one that waits anyway, or an id that several sites have.
        """
        where = [events.c.id == id, *([] if site is None else [events.c.site == site])]
        with self._database.begin() as tx:
            found = list(tx.execute(sa.select(events.c.site, events.c.state).where(*where).limit(2)))
            if not found:
                raise NotThereError(f"there is no event {id}")
            if len(found) > 1:
                raise WrongStateError("several sites have an event of this id: name the site")
            replayed = tx.execute(
                sa.update(events)
                .where(*where, events.c.state.in_(("done", "ignored", "dead")))
                .values(
                    state="received",
                    attempts=0,
                    crashes=0,
                    lease=None,
                    next_at=tx.now,
                    error=None,
                    finished_at=None,
                )
            )
            if replayed.rowcount != 1:
                raise WrongStateError(f"the event is {found[0].state}, so it is worked off anyway")

    def page(
        self,
        *,
        site: SiteId | None = None,
        type: str | None = None,  # noqa: A002 (the event's own word)
        state: str | None = None,
        limit: int = 100,
        after: tuple[datetime, str] | None = None,
    ) -> list[sa.Row[Any]]:
        """Newest first; `after` is `received_at` and `id` of the last row seen."""
        wanted = {"site": site, "type": type, "state": state}
        where = [events.c[name] == value for name, value in wanted.items() if value is not None]
        with self._database.read() as tx:
            return page(tx, events, events.c.received_at, where, limit=limit, after=after)

    def any_due(self) -> bool:
        with self._database.read() as tx:
            return any_due(tx, events, _WAITING)

    def counts(self) -> dict[str, int]:
        """How many events by state."""
        with self._database.read() as tx:
            return count_by_state(tx, events)


def _claimed(row: sa.Row[Any]) -> ClaimedEvent:
    event = Event(
        id=EventId(row.id),
        site=SiteId(row.site),
        type=row.type,
        occurred_at=row.occurred_at,
        payload=row.payload,
        erasure=row.erasure,
    )
    return ClaimedEvent(event, attempts=row.attempts, row=row)


def _settle(
    tx: Transaction, claimed: ClaimedEvent, state: str, error: str | None, member: MemberId | None = None
) -> None:
    settle(tx, events, claimed.row, state=state, error=error, member=member, finished_at=tx.now)
