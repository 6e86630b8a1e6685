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
from sqlalchemy.dialects import postgresql

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
    in_state,
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
                in_state(outbox, _WAITING),
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
    owe_all_calls(tx, [(site, event, call) for call in calls], again=again)


def owe_all_calls(
    tx: Transaction, owed: Sequence[tuple[SiteId, str | None, WixCall]], *, again: bool = False
) -> None:
    """As owe_calls, of several events: each call with its site and its event."""
    places = {
        (site, call.group, call.member)
        for site, _, call in owed
        if call.kind in DECISIONS and call.group is not None
    }
    decided: dict[tuple[SiteId, GroupId, MemberId], list[sa.Row[Any]]] = {}
    if places:
        _lock(tx, places)
        for row in _decisions(tx, places):
            decided.setdefault((row.site, row.group_id, row.member), []).append(row)
    rows = [
        {
            "id": uuid.uuid4().hex,
            "site": site,
            "key": call.key,
            "created_at": tx.now,
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
        for site, event, call in owed
        if call.group is None
        or deciding(decided.get((site, call.group, call.member), ()), {call.key}, call.asked_at) is None
    ]
    if not rows:
        return
    insert = tx.insert(outbox)
    key = [outbox.c.site, outbox.c.key]
    once = ("id", "site", "key", "created_at")
    tx.connection.execute(
        insert.on_conflict_do_update(
            index_elements=key,
            set_={name: insert.excluded[name] for name in rows[0] if name not in once},
            where=outbox.c.state != "planned",
        )
        if again
        else insert.on_conflict_do_nothing(index_elements=key),
        sorted(rows, key=lambda row: (row["site"], row["key"])),
    )


def lock_requests(tx: Transaction, site: SiteId, places: Iterable[tuple[GroupId, MemberId]]) -> None:
    """Nobody else decides the requests of these people until this transaction ends."""
    _lock(tx, ((site, *place) for place in places))


def _lock(tx: Transaction, places: Iterable[tuple[SiteId, GroupId, MemberId]]) -> None:
    if tx.connection.dialect.name != "postgresql":
        return  # one transaction writes at a time
    digests = [
        hashlib.sha256("\0".join(("decide", *place)).encode()).digest() for place in sorted(set(places))
    ]
    numbers = [int.from_bytes(digest[:8], "big", signed=True) for digest in digests]
    each = sa.func.unnest(sa.cast(numbers, postgresql.ARRAY(sa.BigInteger))).column_valued("number")
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(each))).all()


def decisions_of(tx: Transaction, site: SiteId, group: GroupId, member: MemberId) -> list[sa.Row[Any]]:
    """Every decision there is about requests of this person to this group, locked, oldest first."""
    return _decisions(tx, {(site, group, member)})


def _decisions(tx: Transaction, places: Collection[tuple[SiteId, GroupId, MemberId]]) -> list[sa.Row[Any]]:
    # After it comes a year. A bound that is no digit would sort before it where PostgreSQL does not sort by bytes.
    about = [
        sa.and_(
            outbox.c.site == site,
            outbox.c.key >= f"{decision_key_prefix(group, member)}0",
            outbox.c.key < f"{decision_key_prefix(group, member)}9",
            outbox.c.group_id == group,
            outbox.c.member == member,
        )
        for site, group, member in sorted(places)
    ]
    query = sa.select(outbox).where(sa.or_(*about)).order_by(outbox.c.site, outbox.c.key)
    return list(tx.execute(query.with_for_update()))


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
