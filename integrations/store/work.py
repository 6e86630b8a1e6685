"""Rows as work: claim them with a lease, settle them with the same lease, or lose them to whoever came later.

A claim moves `next_at` to the end of the lease. So one column says when a row is due, whether it waits, is being
retried, or was left behind by a worker that died; a lease still standing on a row that is due again is a crash.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from core.errors import LostLeaseError
from integrations.store.database import Transaction
from integrations.store.tables import sites

MOST_CRASHES = 5
"""A row that took its worker down this often is set aside, so that the others go on."""


def is_due(tx: Transaction, table: sa.Table, waiting: Sequence[str]) -> sa.ColumnElement[bool]:
    """Rows of a site that rests wait with it, so they neither burn attempts nor stand before other sites' rows."""
    resting = sa.exists().where(sites.c.site == table.c.site, sites.c.rests_until > tx.now)
    return sa.and_(table.c.state.in_(waiting), table.c.next_at <= tx.now, ~resting)


def claim(
    tx: Transaction, table: sa.Table, waiting: Sequence[str], *, limit: int, lease_s: float, **values: Any
) -> list[sa.Row[Any]]:
    """Take up to `limit` due rows, longest due first; `values` are set on them as well.

    The rows come back with their new lease and with `crashes` counted; what to do with one that crashed
    MOST_CRASHES times is the caller's.
    """
    key = sa.tuple_(*table.primary_key.columns)
    due = (
        sa.select(*table.primary_key.columns)
        .where(is_due(tx, table, waiting))
        .order_by(table.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return list(
        tx.execute(
            sa.update(table)
            .where(key.in_(sa.select(due)))
            .values(
                crashes=table.c.crashes + sa.case((table.c.lease.is_not(None), 1), else_=0),
                lease=uuid.uuid4().hex,
                next_at=tx.now + timedelta(seconds=lease_s),
                **values,
            )
            .returning(table)
        )
    )


def settle(
    tx: Transaction, table: sa.Table, row: sa.Row[Any], *, keep_lease: bool = False, **values: Any
) -> None:
    """Write the outcome of one claimed row and give the lease back. Raises LostLeaseError."""
    if not keep_lease:
        values["lease"] = None
    same_row = [column == getattr(row, column.name) for column in table.primary_key.columns]
    result = tx.execute(sa.update(table).where(*same_row, table.c.lease == row.lease).values(**values))
    if result.rowcount != 1:
        raise LostLeaseError(f"somebody else has this row of {table.name} now")


def any_due(tx: Transaction, table: sa.Table, waiting: Sequence[str]) -> bool:
    return tx.connection.scalar(sa.select(sa.literal(1)).where(is_due(tx, table, waiting)).limit(1)) == 1


def count_by_state(tx: Transaction, table: sa.Table) -> dict[str, int]:
    number = sa.func.count().label("number")
    rows = tx.execute(sa.select(table.c.state, number).group_by(table.c.state))
    return {row.state: row.number for row in rows}
