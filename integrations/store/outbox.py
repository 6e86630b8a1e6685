"""What we owe Wix: decisions on requests and opt-outs, kept until Wix has them.

`planned → done | failed | void`; a `flagged` row waits for a person and asks nothing of Wix. What a person decided
(integrations.store.requests) may also be `undone`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.letters import WixCall, decision_key_prefix
from integrations.store.database import Database, Transaction
from integrations.store.tables import outbox
from integrations.store.work import (
    LEASE_S,
    MOST_CRASHES,
    Hand,
    any_due,
    claim,
    give_back,
    let_go,
    renew,
    settle,
)

_WAITING = ("planned",)
DECISIONS = ("approve", "reject", "flag")


@dataclass(frozen=True, slots=True)
class OwedCall:
    site: SiteId
    kind: str
    group: GroupId
    member: MemberId
    attempts: int
    who: str | None
    """The person who decided it, if one did."""
    text: str = field(repr=False)
    row: sa.Row[Any] = field(repr=False)


class Outbox:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._hand = Hand()
        self.hands_free = self._hand.free

    def claim(self, limit: int) -> list[OwedCall]:
        with self._database.begin() as tx:
            rows = claim(tx, outbox, _WAITING, lease=self._hand.take(), limit=limit, lease_s=LEASE_S)
            for row in rows:
                if row.crashes >= MOST_CRASHES:
                    _end(tx, row, "failed", f"its worker died {row.crashes} times over it")
        return [
            OwedCall(
                site=SiteId(row.site),
                kind=row.kind,
                group=GroupId(row.group_id),
                member=MemberId(row.member),
                attempts=row.attempts,
                who=row.who,
                text=row.text,
                row=row,
            )
            for row in rows
            if row.crashes < MOST_CRASHES
        ]

    def end(self, call: OwedCall, state: str, reason: str | None = None) -> None:
        """`done`, `failed` or `void`; without a new reason the one it was owed for stays."""
        with self._database.begin() as tx:
            _end(tx, call.row, state, reason or call.row.reason)

    def postpone(self, call: OwedCall, *, delay_s: float, reason: str, counts: bool = True) -> None:
        with self._database.begin() as tx:
            settle(
                tx,
                outbox,
                call.row,
                error=reason,
                attempts=call.attempts + int(counts),
                next_at=tx.now + timedelta(seconds=delay_s),
            )

    def give_back(self, claimed: Sequence[OwedCall]) -> None:
        with self._database.begin() as tx:
            give_back(tx, outbox, [item.row for item in claimed])

    def let_go(self) -> None:
        """This process ends in the middle of its work. Wix may have been asked, so the attempt counts."""
        with self._database.begin() as tx:
            let_go(
                tx,
                outbox,
                outbox.c.state.in_(_WAITING),
                lease=self._hand.lease,
                attempts=outbox.c.attempts + 1,
            )

    def renew(self) -> None:
        """Keep what this process holds."""
        with self._database.begin() as tx:
            renew(tx, outbox, _WAITING, lease=self._hand.lease, lease_s=LEASE_S)

    def any_due(self) -> bool:
        with self._database.read() as tx:
            return any_due(tx, outbox, _WAITING)

    def calls(self, site: SiteId | None = None) -> list[sa.Row[Any]]:
        """All rows, oldest first, optionally of one site."""
        query = sa.select(outbox).order_by(outbox.c.created_at, outbox.c.id)
        if site is not None:
            query = query.where(outbox.c.site == site)
        with self._database.read() as tx:
            return list(tx.execute(query))


def owe_calls(
    tx: Transaction, site: SiteId, event: str | None, calls: Sequence[WixCall], *, again: bool = False
) -> None:
    """Write each call once for its key; with `again` one that ended is owed anew. A decision about a request that is
    decided already is left out."""
    for call in calls:
        if call.kind in DECISIONS and call.group is not None:
            lock_requests(tx, site, [(call.group, call.member)])
            rows = decisions_of(tx, site, call.group, call.member)
            if deciding(rows, {call.key}, call.asked_at) is not None:
                continue
        values = {
            "kind": call.kind,
            "group_id": call.group or "",
            "member": call.member,
            "automation": call.automation,
            "event": event,
            "text": call.text,
            "reason": call.reason or None,
            "error": None,
            "state": "flagged" if call.kind == "flag" else "planned",
            "next_at": tx.now,
            "attempts": 0,
            "crashes": 0,
            "lease": None,
            "who": None,
            "finished_at": None,
        }
        insert = tx.insert(outbox).values(
            id=uuid.uuid4().hex, site=site, key=call.key, created_at=tx.now, **values
        )
        if again:
            insert = insert.on_conflict_do_update(
                index_elements=[outbox.c.site, outbox.c.key],
                set_=values,
                where=outbox.c.state != "planned",
            )
        else:
            insert = insert.on_conflict_do_nothing(index_elements=[outbox.c.site, outbox.c.key])
        tx.execute(insert)


def lock_requests(tx: Transaction, site: SiteId, places: Iterable[tuple[GroupId, MemberId]]) -> None:
    """Nobody else decides the requests of these people until this transaction ends."""
    if tx.connection.dialect.name != "postgresql":
        return  # one transaction writes at a time
    for place in sorted(set(places)):
        digest = hashlib.sha256("\0".join(("decide", site, *place)).encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def decisions_of(tx: Transaction, site: SiteId, group: GroupId, member: MemberId) -> list[sa.Row[Any]]:
    """Every decision there is about requests of this person to this group, locked, oldest first."""
    # After it comes a year. A bound that is no digit would sort before it where PostgreSQL does not sort by bytes.
    key = decision_key_prefix(group, member)
    return list(
        tx.execute(
            sa.select(outbox)
            .where(
                outbox.c.site == site,
                outbox.c.key >= f"{key}0",
                outbox.c.key < f"{key}9",
                outbox.c.group_id == group,
                outbox.c.member == member,
            )
            .order_by(outbox.c.key)
            .with_for_update()
        )
    )


def deciding(
    rows: Sequence[sa.Row[Any]], keys: Collection[str], asked_at: datetime | None
) -> sa.Row[Any] | None:
    """The one of a person's decisions that decides the request made at `asked_at`, which may have one of `keys`.

    What is still to be told to Wix strikes whatever request is pending then; what was told decides this request when
    it was written after the request was made.
    """
    for row in rows:
        if row.state == "planned" or (
            row.state == "done" and (row.key in keys or (asked_at is not None and row.created_at >= asked_at))
        ):
            return row
    return None


def _end(tx: Transaction, row: sa.Row[Any], state: str, reason: str | None) -> None:
    settle(tx, outbox, row, state=state, reason=reason, finished_at=tx.now)
