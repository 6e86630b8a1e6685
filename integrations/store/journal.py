"""The journal of events: what Wix told us, once each, and how far we are with it.

An event is `received` until it is `done`, `ignored` or `dead`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.errors import MalformedEventError, NotThereError, WrongStateError
from core.events import ABOUT_ADDRESSES, Event, EventId, read_details
from core.letters import Effects
from core.reconciliation import Heard
from integrations.aside import Later
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.intake import Key, add_events, begin_events
from integrations.store.ledger import plan_all_letters, stop_letters
from integrations.store.outbox import owe_all_calls
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.sites import note_site, note_sites
from integrations.store.suppressions import FORGOTTEN, blank, forget_member, forgotten_of, heed_address
from integrations.store.tables import events
from integrations.store.work import (
    LEASE_S,
    MOST_CRASHES,
    Hand,
    any_due,
    claim,
    count_by_state,
    equals,
    give_back,
    in_state,
    let_go,
    page,
    renew,
    settle,
    settle_all,
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


Outcome = tuple[ClaimedEvent, Effects]


class Journal:
    """`listened`: the types that set something off; of others only the head is kept, as ignored."""

    def __init__(self, database: Database, *, listened: Collection[str]) -> None:
        self._database = database
        self._listened = frozenset(listened)
        self._hand = Hand()
        self.hands_free = self._hand.free

    def insert(self, batch: Sequence[Event]) -> list[bool]:
        """Commit all of them at once; says for each whether it was new. Raises JournalUnavailableError."""
        return self.begin_insert(batch).hear()  # type: ignore[no-any-return] # as it says

    def begin_insert(self, batch: Sequence[Event]) -> Later:
        """As insert, but begun only, where the database has a writer."""
        rows: dict[tuple[str, str], Event] = {}
        for event in batch:
            rows.setdefault((event.site, event.id), event)

        def answers(new: set[Key]) -> list[bool]:
            are_new = []
            for event in batch:
                key = (str(event.site), str(event.id))
                are_new.append(key in new)
                new.discard(key)  # a twin in the same batch is a duplicate
            return are_new

        return begin_events(self._database, list(rows.values()), self._is_heard).then(answers)

    def _is_heard(self, event: Event) -> bool:
        return event.erasure or event.type in self._listened

    def claim(self, limit: int) -> list[ClaimedEvent]:
        """Take up to `limit` due events. Those whose workers kept dying become dead instead."""
        with self._database.begin() as tx:
            rows = claim(tx, events, _WAITING, lease=self._hand.take(), limit=limit, lease_s=LEASE_S)
            found = [
                ClaimedEvent(_event(row), attempts=row.attempts, row=row)
                for row in sorted(rows, key=lambda row: row.occurred_at)
            ]
            for event in found:
                if event.row.crashes >= MOST_CRASHES:
                    _settle(tx, event, "dead", f"its worker died {event.row.crashes} times over it")
        return [event for event in found if event.row.crashes < MOST_CRASHES]

    def finish(self, *outcomes: Outcome) -> None:
        """Write all effects of these events and "done" in one transaction. Raises LostLeaseError when one of them is
        somebody else's by now, then nothing is written.

        Of several, none may change what is there already (`changes_what_is_there`): what they add has no order.
        """
        if len(outcomes) > 1 and any(changes_what_is_there(effects) for _, effects in outcomes):
            raise ValueError("what changes what is there is written by itself")
        with self._database.begin() as tx:
            for is_about_addresses in (False, True):
                settle_all(
                    tx,
                    events,
                    [
                        (claimed.row, _ended(tx, effects, is_about_addresses))
                        for claimed, effects in outcomes
                        if (claimed.event.type in ABOUT_ADDRESSES) == is_about_addresses
                    ],
                )
            note_sites(tx, {claimed.site for claimed, _ in outcomes})
            for claimed, effects in outcomes:
                _change(tx, claimed.event, effects)
            # Somebody may have been forgotten since their event was looked at.
            forgotten = forgotten_of(
                tx, {(claimed.site, member) for claimed, effects in outcomes for member in _people(effects)}
            )
            blank(
                tx,
                [
                    (claimed.site, claimed.event.id)
                    for claimed, effects in outcomes
                    if (claimed.site, effects.member) in forgotten
                ],
            )
            plan_all_letters(
                tx,
                [
                    (
                        claimed.site,
                        claimed.event.id,
                        replace(letter, reason=FORGOTTEN, context={})
                        if (claimed.site, letter.member) in forgotten
                        else letter,
                    )
                    for claimed, effects in outcomes
                    for letter in effects.letters
                ],
            )
            owe_all_calls(
                tx,
                [
                    (claimed.site, claimed.event.id, call)
                    for claimed, effects in outcomes
                    for call in effects.calls
                    if call.group is None or (claimed.site, call.member) not in forgotten
                ],
            )

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
            _settle(tx, claimed, "dead", error, claimed.row.member)

    def give_back(self, claimed: Sequence[ClaimedEvent]) -> None:
        with self._database.begin() as tx:
            give_back(tx, events, [item.row for item in claimed])

    def let_go(self) -> None:
        """This process ends in the middle of its work."""
        with self._database.begin() as tx:
            let_go(tx, events, in_state(events, _WAITING), lease=self._hand.lease)

    def renew(self) -> None:
        """Keep what this process holds."""
        with self._database.begin() as tx:
            renew(tx, events, _WAITING, lease=self._hand.lease, lease_s=LEASE_S)

    def replay(
        self,
        id: EventId,  # noqa: A002 (the event's own word)
        site: SiteId | None = None,
        *,
        who: str,
    ) -> sa.Row[Any]:
        """Have an event that came to its end worked off once more, and return its row as it is now. Its letters keep
        their keys: nobody gets a second.

        Raises NotThereError; WrongStateError for one that waits anyway, or an id that several sites have.
        """
        where = [events.c.id == id, *([] if site is None else [events.c.site == site])]
        with self._database.begin() as tx:
            found = list(
                tx.execute(
                    sa.select(events.c.site, events.c.state, events.c.erasure, events.c.attempts)
                    .where(*where)
                    .with_for_update()
                    .limit(2)
                )
            )
            if not found:
                raise NotThereError(f"there is no event {id}")
            if len(found) > 1:
                raise WrongStateError("several sites have an event of this id: name the site")
            if found[0].erasure:
                raise WrongStateError("an erasure keeps nothing that could be worked off again")
            if found[0].state == "received":
                raise WrongStateError("the event is received, so it is worked off anyway")
            note(
                tx,
                who,
                "event.replay",
                f"event {id}",
                site=found[0].site,
                before={"state": found[0].state, "attempts": found[0].attempts},
                after={"state": "received", "attempts": 0},
            )
            return tx.execute(
                sa.update(events)
                .where(*where)
                .values(
                    state="received",
                    attempts=0,
                    crashes=0,
                    lease=None,
                    next_at=tx.now,
                    error=None,
                    finished_at=None,
                )
                .returning(events)
            ).one()

    def page(
        self,
        *,
        id: EventId | None = None,  # noqa: A002 (the event's own word)
        site: SiteId | None = None,
        type: str | None = None,  # noqa: A002
        state: str | None = None,
        reach: Reach = EVERYTHING,
        limit: int | None = 100,
        after: tuple[datetime, str, str] | None = None,
    ) -> list[sa.Row[Any]]:
        """Newest first, without payloads; `after` is `received_at`, `site` and `id` of the last row seen."""
        wanted = {"id": id, "site": site, "type": type, "state": state}
        where = [*equals(events, wanted), *reach.within(events.c.site)]
        with self._database.read() as tx:
            return page(tx, events, events.c.received_at, where, limit=limit, after=after)

    def heard(
        self,
        site: SiteId,
        group: GroupId,
        members: Collection[MemberId],
        types: Collection[str],
        since: datetime,
    ) -> list[Heard]:
        """What the journal holds of these people in this group, whether it was worked off or not.

        An event that was not, or failed, does not say yet whom it is about: the newest thousand of those received
        after `since` are opened.
        """
        heard = self._heard(site, members, types, since)
        return [one for one in heard if one.details.group == group]

    def found(
        self, site: SiteId, members: Collection[MemberId], types: Collection[str], since: datetime
    ) -> list[Heard]:
        """As heard, in any group, of what the comparison with Wix's lists found: the one thing to know of a request
        that was told late (core.reconciliation.when_asked)."""
        return self._heard(site, members, types, since, only_found=True)

    def _heard(
        self,
        site: SiteId,
        members: Collection[MemberId],
        types: Collection[str],
        since: datetime,
        *,
        only_found: bool = False,
    ) -> list[Heard]:
        of_type = sa.and_(events.c.site == site, events.c.type.in_(types))
        asked = sorted(set(members))
        rows: list[sa.Row[Any]] = []
        with self._database.read() as tx:
            for start in range(0, len(asked), 500):
                some = events.c.member.in_(asked[start : start + 500])
                rows += tx.execute(
                    sa.select(events).where(of_type, some, events.c.found if only_found else sa.true())
                ).all()
            newest = (
                sa.select(events)
                .where(of_type, events.c.member.is_(None), events.c.received_at >= since)
                .order_by(events.c.received_at.desc())
                .limit(1000)
                .subquery()
            )
            rows += tx.execute(sa.select(newest).where(newest.c.found if only_found else sa.true())).all()
        wanted, heard = set(asked), []
        for row in rows:
            with contextlib.suppress(MalformedEventError):
                event = _event(row)
                details = read_details(event)
                if details.member in wanted:
                    heard.append(Heard(event, details))
        return heard

    def received_times(self, site: SiteId, *, at_most: int) -> list[datetime]:
        """When webhooks of this site came, newest first, each at least an hour before the one above it."""
        times: list[datetime] = []
        told = sa.and_(events.c.site == site, ~events.c.found)
        query = sa.select(events.c.received_at).where(told).order_by(events.c.received_at.desc()).limit(1)
        with self._database.read() as tx:
            while len(times) < at_most:
                before = [events.c.received_at <= times[-1] - timedelta(hours=1)] if times else []
                found = tx.connection.scalar(query.where(*before))
                if found is None:
                    break
                times.append(found)
        return times

    def any_due(self) -> bool:
        with self._database.read() as tx:
            return any_due(tx, events, _WAITING)

    def counts(self) -> dict[str, int]:
        """How many events by state."""
        with self._database.read() as tx:
            return count_by_state(tx, events)


def _people(effects: Effects) -> set[MemberId]:
    """Whom it is about, and to whom or of whom something is to be written."""
    named = [effects.member, *(letter.member for letter in effects.letters)]
    named += [call.member for call in effects.calls]
    return {member for member in named if member is not None}


def _event(row: sa.Row[Any]) -> Event:
    return Event(
        id=EventId(row.id),
        site=SiteId(row.site),
        type=row.type,
        occurred_at=row.occurred_at,
        payload=row.payload,
        erasure=row.erasure,
        found=row.found,
    )


def changes_what_is_there(effects: Effects) -> bool:
    """It stops, lifts or erases, where other effects only add rows: what it does depends on what was written before."""
    return bool(effects.stop or effects.forget or effects.address or effects.site_state)


def _change(tx: Transaction, event: Event, effects: Effects) -> None:
    if effects.site_state is not None and not note_site(
        tx, event.site, event.occurred_at, effects.site_state
    ):
        return
    for stop in effects.stop:
        stop_letters(tx, event.site, stop)
    if effects.forget:
        forget_member(tx, event.site, effects.forget)
    if effects.address:
        heed_address(tx, event.site, effects.address)


def _ended(tx: Transaction, effects: Effects, is_about_addresses: bool) -> dict[str, Any]:
    return {
        "state": "ignored" if effects.ignored else "done",
        "error": effects.ignored,
        "member": effects.member,
        "finished_at": tx.now,
        **({"payload": "{}"} if is_about_addresses else {}),
    }


def _settle(
    tx: Transaction,
    claimed: ClaimedEvent,
    state: str,
    error: str | None,
    member: MemberId | None = None,
    **more: Any,
) -> None:
    settle(tx, events, claimed.row, state=state, error=error, member=member, finished_at=tx.now, **more)


def insert_found(tx: Transaction, found: Sequence[Event]) -> set[EventId]:
    """Write events that the sweep found, as part of its own transaction; returns the new ones."""
    if not found:
        return set()
    return {EventId(id_) for _, id_ in add_events(tx, found)}
