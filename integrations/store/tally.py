"""How many rows there are in each state, for a question that comes again and again, however many rows there are.

What waits or went wrong is counted by its indices at each ask. What is over is counted piece by piece: a table of up to
AT_ONCE rows is counted whole each time, of a larger one the next piece, and the last whole count is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from integrations.store.database import Database, Transaction
from integrations.store.ledger import TROUBLE
from integrations.store.tables import events, messages, outbox
from integrations.store.work import in_state

AT_ONCE = 50_000
_LIVE = in_state(messages, ("planned", "deferred", "sending"))


@dataclass
class _Pass:
    """`order` leads through the table in the order of an index; `now` are conditions, each as a partial index has it,
    and `states` all that these find."""

    table: sa.Table
    order: sa.Column[Any]
    states: frozenset[str]
    now: Sequence[sa.ColumnElement[bool]]
    known: Mapping[str, int] | None = None
    found: int | None = None
    so_far: Counter[str] = field(default_factory=Counter)
    found_so_far: int = 0
    at: Any = None


class Tally:
    """Not safe for threads."""

    def __init__(self, database: Database, *, at_once: int = AT_ONCE) -> None:
        self._database = database
        self._at_once = at_once
        self._passes = (
            _Pass(
                events,
                events.c.received_at,
                frozenset(("received", "dead")),
                [in_state(events, ("received",)), in_state(events, ("dead",))],
            ),
            _Pass(
                messages,
                messages.c.created_at,
                frozenset(("planned", "deferred", "sending", "in_doubt")),
                [
                    sa.and_(_LIVE, messages.c.job.is_(None)),
                    sa.and_(_LIVE, messages.c.job.is_not(None)),
                    sa.and_(in_state(messages, ("in_doubt",)), in_state(messages, TROUBLE)),
                ],
            ),
            _Pass(
                outbox,
                outbox.c.id,
                frozenset(("planned", "flagged")),
                [in_state(outbox, ("planned",)), in_state(outbox, ("flagged",))],
            ),
        )

    @property
    def found(self) -> int | None:
        """Events that no webhook told of, as of the last whole count; None before it."""
        return self._passes[0].found

    def ask(self) -> dict[str, dict[str, int]]:
        """Table -> state -> rows. What is over in a large table is missing until it was counted once. Raises
        JournalUnavailableError."""
        found: dict[str, dict[str, int]] = {}
        for one in self._passes:
            with self._database.read() as tx:
                self._go_on(tx, one)
                now = self._now(tx, one)
            counted = one.known or {}
            over = {state: number for state, number in counted.items() if state not in one.states}
            found[one.table.name] = over | (now if now is not None else _of(counted, one.states))
        return found

    def _go_on(self, tx: Transaction, one: _Pass) -> None:
        left = self._at_once
        behind = [] if one.at is None else [one.order > one.at]
        end = tx.connection.scalar(
            sa.select(one.order).where(*behind).order_by(one.order).offset(left - 1).limit(1)
        )
        within = behind if end is None else [*behind, one.order <= end]
        number = sa.func.count().label("number")
        was_found = sa.case((one.table.c.found, 1), else_=0) if one.table is events else sa.literal(0)
        columns = (one.table.c.state, number, sa.func.sum(was_found).label("found"))
        for row in tx.execute(sa.select(*columns).where(*within).group_by(one.table.c.state)):
            one.so_far[row.state] += row.number
            one.found_so_far += row.found
        one.at = end
        if end is None:  # that was the last piece
            one.known, one.so_far = dict(one.so_far), Counter()
            one.found, one.found_so_far = one.found_so_far, 0

    def _now(self, tx: Transaction, one: _Pass) -> dict[str, int] | None:
        """None when there are too many to count each time."""
        found: Counter[str] = Counter()
        for condition in one.now:
            some = sa.select(one.table.c.state).where(condition).limit(self._at_once).subquery()
            rows = tx.execute(
                sa.select(some.c.state, sa.func.count().label("number")).group_by(some.c.state)
            ).all()
            if sum(row.number for row in rows) == self._at_once:
                return None
            found.update({row.state: row.number for row in rows})
        return dict(found)


def _of(counted: Mapping[str, int], states: frozenset[str]) -> dict[str, int]:
    return {state: number for state, number in counted.items() if state in states}
