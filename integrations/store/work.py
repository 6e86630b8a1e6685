"""Rows as work: claim them with a lease, settle them with the same lease, or lose them to whoever came later.

A claim moves `next_at` to the end of the lease. So one column says when a row is due, whether it waits, is being
retried, or was left behind. A process renews what it holds while it lives; a lease still standing on a row that is
due again was left by one that died.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from core.errors import LostLeaseError
from integrations.store.database import Transaction
from integrations.store.tables import sites

LEASE_S = 45.0
"""Short, so that work goes on within a minute after a kill of anything; renewed every few seconds."""
MOST_CRASHES = 5
"""A row that took its worker down this often is set aside, so that the others go on."""


class Hand:
    """The lease of what this process works on: a new one for each claim, none while its hands are free.

    Only what is in hand is renewed. A claim whose commit was never confirmed, or a row whose outcome could not be
    written, is in nobody's hand: its lease ends, though the process lives.
    """

    def __init__(self) -> None:
        self.lease: str | None = None

    def take(self) -> str:
        self.lease = uuid.uuid4().hex
        return self.lease

    def free(self) -> None:
        self.lease = None


def is_due(tx: Transaction, table: sa.Table, waiting: Sequence[str]) -> sa.ColumnElement[bool]:
    """Rows of a site that rests wait with it, so they neither burn attempts nor stand before other sites' rows."""
    return sa.and_(in_state(table, waiting), table.c.next_at <= tx.now, ~site_rests(tx, table))


def in_state(table: sa.Table, states: Sequence[str]) -> sa.ColumnElement[bool]:
    """The states stand in the statement itself, as a partial index spells them: SQLite sees only of the very same
    words that it fits."""
    spelt = [sa.literal(state, table.c.state.type, literal_execute=True) for state in states]
    return table.c.state == spelt[0] if len(spelt) == 1 else table.c.state.in_(spelt)


def in_hand(table: sa.Table, working: Sequence[str]) -> sa.ColumnElement[bool]:
    """As the index of letters in hand has it."""
    return sa.and_(in_state(table, working), table.c.crashes >= sa.literal_column("0"))


def site_rests(tx: Transaction, table: sa.Table) -> sa.ColumnElement[bool]:
    # PostgreSQL would make a join of EXISTS, and read and sort all that is due to take twenty of it.
    return table.c.site.in_(sa.select(sites.c.site).where(sites.c.rests_until > tx.now))


def claim(
    tx: Transaction,
    table: sa.Table,
    waiting: Sequence[str],
    *,
    lease: str,
    limit: int,
    lease_s: float,
    where: sa.ColumnElement[bool] | None = None,
    **values: Any,
) -> list[sa.Row[Any]]:
    """Take up to `limit` due rows, longest due first, of those that also fit `where`; `values` are set on them as well.

    The rows come back with `crashes` counted; what to do
    with one that crashed MOST_CRASHES times is the caller's. A row that was left behind twice is taken alone: should
    it be the reason, it takes nobody along again.
    """
    key = sa.tuple_(*table.primary_key.columns)
    due = is_due(tx, table, waiting)
    if where is not None:
        due = sa.and_(due, where)
    columns = (table.c.lease, table.c.crashes)
    oldest = tx.execute(sa.select(*columns).where(due).order_by(table.c.next_at).limit(1)).first()
    if oldest is None:
        return []
    if oldest.lease is not None and oldest.crashes:
        limit = 1
    else:
        due = sa.and_(due, sa.or_(table.c.lease.is_(None), table.c.crashes == 0))
    chosen = (
        sa.select(*table.primary_key.columns)
        .where(due)
        .order_by(table.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return list(
        tx.execute(
            sa.update(table)
            .where(key.in_(sa.select(chosen)))
            .values(
                crashes=table.c.crashes + sa.case((table.c.lease.is_not(None), 1), else_=0),
                lease=lease,
                next_at=tx.now + timedelta(seconds=lease_s),
                **values,
            )
            .returning(table)
        )
    )


def settle(tx: Transaction, table: sa.Table, row: sa.Row[Any], **values: Any) -> None:
    """Write the outcome of one claimed row and give the lease back. Raises LostLeaseError."""
    settle_all(tx, table, [(row, values)])


def settle_all(
    tx: Transaction, table: sa.Table, outcomes: Sequence[tuple[sa.Row[Any], Mapping[str, Any]]]
) -> None:
    """As settle, of several rows that all have the same columns written. Raises LostLeaseError when somebody else has
    one of them, and then none of it may be committed."""
    if not outcomes:
        return
    written = [{"lease": None, "crashes": 0, **values} for _, values in outcomes]
    statement = _write_held(table, tuple(written[0]))
    result = tx.connection.execute(
        statement,
        [
            _held(table, row) | {_NEW + name: value for name, value in values.items()}
            for (row, _), values in zip(outcomes, written, strict=True)
        ],
    )
    if result.rowcount != len(outcomes):
        raise LostLeaseError(f"somebody else has this row of {table.name} now")


def give_back(tx: Transaction, table: sa.Table, rows: Sequence[sa.Row[Any]], **values: Any) -> None:
    """What was claimed and not begun is due again at once, for anybody; rows that were lost meanwhile stay so."""
    if not rows:
        return
    written = {_NEW + name: value for name, value in {"lease": None, "next_at": tx.now, **values}.items()}
    statement = _write_held(table, ("lease", "next_at", *values))
    tx.connection.execute(statement, [_held(table, row) | written for row in rows])


_HELD, _NEW = "held_", "new_"


@functools.cache
def _write_held(table: sa.Table, columns: tuple[str, ...]) -> sa.Update:
    """Many parameter sets rather than one list of keys: each finds its row by the primary key (SQLite would read the
    whole table for a list of pairs), and the statement is built once."""
    return (
        sa.update(table)
        .where(*(table.c[name] == sa.bindparam(_HELD + name) for name in (*_key(table), "lease")))
        .values({name: sa.bindparam(_NEW + name, type_=table.c[name].type) for name in columns})
    )


def _held(table: sa.Table, row: sa.Row[Any]) -> dict[str, Any]:
    return {_HELD + name: getattr(row, name) for name in (*_key(table), "lease")}


def _key(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


def let_go(
    tx: Transaction, table: sa.Table, *held: sa.ColumnElement[bool], lease: str | None, **values: Any
) -> None:
    """What this process has in hand is due at once, for others; its own writes meet no row any more."""
    if lease is None:
        return
    tx.execute(
        sa.update(table).where(table.c.lease == lease, *held).values(lease=None, next_at=tx.now, **values)
    )


def renew(
    tx: Transaction, table: sa.Table, working: Sequence[str], *, lease: str | None, lease_s: float
) -> None:
    """A process that lives keeps what it has in hand; never shortens a longer lease."""
    if lease is None:
        return
    until = tx.now + timedelta(seconds=lease_s)
    tx.execute(
        sa.update(table)
        .where(
            in_hand(table, working),
            table.c.lease == lease,
            table.c.next_at > tx.now,
            table.c.next_at < until,
        )
        .values(next_at=until)
    )


def equals(table: sa.Table, wanted: Mapping[str, object]) -> list[sa.ColumnElement[bool]]:
    """A condition for each value that is not None; the state as in_state has it."""
    return [
        table.c[name] == sa.literal(value, table.c[name].type, literal_execute=name == "state")
        for name, value in wanted.items()
        if value is not None
    ]


def page(
    tx: Transaction,
    table: sa.Table,
    time: sa.Column[Any],
    where: Sequence[sa.ColumnElement[bool]],
    *,
    limit: int | None,
    after: tuple[Any, ...] | None,
) -> list[sa.Row[Any]]:
    """Up to `limit` rows, newest first by `time`; `after` is the time and the primary key of the last row seen.

    Without what is long and nobody's business in a list: payload and context.
    """
    order = (time, *table.primary_key.columns)
    conditions = list(where)
    if after is not None:
        seen = [sa.literal(value, column.type) for column, value in zip(order, after, strict=True)]
        conditions.append(sa.tuple_(*order) < sa.tuple_(*seen))
    columns = [column for column in table.columns if column.name not in ("payload", "context")]
    newest_first = [column.desc() for column in order]
    return list(tx.execute(sa.select(*columns).where(*conditions).order_by(*newest_first).limit(limit)))


def any_due(
    tx: Transaction, table: sa.Table, waiting: Sequence[str], where: sa.ColumnElement[bool] | None = None
) -> bool:
    due = is_due(tx, table, waiting)
    if where is not None:
        due = sa.and_(due, where)
    return tx.connection.scalar(sa.select(sa.literal(1)).where(due).limit(1)) == 1


def count_by_state(tx: Transaction, table: sa.Table) -> dict[str, int]:
    number = sa.func.count().label("number")
    rows = tx.execute(sa.select(table.c.state, number).group_by(table.c.state))
    return {row.state: row.number for row in rows}
