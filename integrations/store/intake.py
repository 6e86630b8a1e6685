"""Many events in one statement, whose cost hardly grows with their number.

The driver of SQLite gives Python's lock away at each row it is handed or hands back, and at each statement, and waits
for it again: beside a busy event loop that is what takes the time. So all rows go in with one statement that commits by
itself and returns nothing; only when some are known already is it done again with care. PostgreSQL takes the rows as
one JSON text and answers in the one way there and back that also commits.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.exc import IntegrityError

from core.errors import JournalUnavailableError
from core.events import Event
from integrations.aside import Later
from integrations.store.database import Database, Transaction

Key = tuple[str, str]

_INSERT = """
INSERT INTO events (site, id, type, occurred_at, payload, erasure, found, state, error,
    attempts, crashes, received_at, next_at, finished_at)
"""
_SQLITE_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?)"
_SQLITE_AT_ONCE = 500
"""Rows of one statement: SQLite takes 32,766 parameters."""
_SQLITE_KNOWN = """
SELECT events.site, events.id FROM json_each(?) JOIN events ON events.site = value ->> 0 AND events.id = value ->> 1
"""
_POSTGRESQL = f"""{_INSERT}
SELECT site, id, type, occurred_at AT TIME ZONE 'UTC', payload, erasure, found, state, error,
    0, 0, now, now, CASE state WHEN 'ignored' THEN now END
FROM json_to_recordset(%s::json) AS e (site text, id text, type text, occurred_at timestamp, payload text,
    erasure boolean, found boolean, state text, error text),
    (SELECT coalesce(%s::timestamp AT TIME ZONE 'UTC', now())) AS clock (now)
ON CONFLICT DO NOTHING RETURNING site, id
"""  # noqa: S608 (constants)


def begin_events(database: Database, events: Sequence[Event], is_heard: Callable[[Event], bool]) -> Later:
    """Begin to write them in a transaction of their own; what is to be heard of are those that are new, as a set of
    Key. Of what nobody listens to only the head is kept. No two may have the same site and id. Either raises
    JournalUnavailableError."""
    now = database.time_alone()
    rows = _rows(events, is_heard)
    if database.url.get_backend_name() == "sqlite":
        with contextlib.suppress(IntegrityError):  # some are known: nothing was written
            if 0 < len(rows) <= _SQLITE_AT_ONCE:
                database.alone(_sqlite(len(rows)), _values(rows, _text(now or datetime.now(UTC))))
                return Later(lambda: _keys_of(events))
        with database.begin() as tx:
            new = add_events(tx, events, is_heard)
        return Later(lambda: new)
    parameters = (_json(rows), now and _text(now))
    begun: Later = _twice(lambda: database.begin_alone(_POSTGRESQL, parameters))
    return replace(begun, hear=lambda: _keys(_twice(begun.hear)))


def _twice(do: Callable[[], Any]) -> Any:
    """The server may have been started anew. If it did commit, they are known by now, and nothing is lost."""
    try:
        return do()
    except JournalUnavailableError as exc:
        if not getattr(exc.__cause__, "connection_invalidated", False):
            raise
        return do()


def add_events(
    tx: Transaction, events: Sequence[Event], is_heard: Callable[[Event], bool] = lambda _: True
) -> set[Key]:
    """As begin_events, as a part of a transaction."""
    rows, now = _rows(events, is_heard), _text(tx.now)
    if tx.connection.dialect.name != "sqlite":
        return _keys(tx.connection.exec_driver_sql(_POSTGRESQL, (_json(rows), now)))
    keys = _keys_of(events)
    known = _keys(tx.connection.exec_driver_sql(_SQLITE_KNOWN, (_json(keys),)))
    for start in range(0, len(rows), _SQLITE_AT_ONCE):
        some = rows[start : start + _SQLITE_AT_ONCE]
        tx.connection.exec_driver_sql(f"{_sqlite(len(some))} ON CONFLICT DO NOTHING", _values(some, now))
    return keys - known


def _keys_of(events: Sequence[Event]) -> set[Key]:
    return {(event.site, event.id) for event in events}


def _keys(rows: Iterable[Sequence[Any]]) -> set[Key]:
    return {(site, id_) for site, id_ in rows}


def _rows(events: Sequence[Event], is_heard: Callable[[Event], bool]) -> list[dict[str, Any]]:
    rows = []
    # In one order everywhere: two processes that are handed the same events would wait for each other.
    for event in sorted(events, key=lambda event: (event.site, event.id)):
        heard = is_heard(event)
        rows.append(
            {
                "site": event.site,
                "id": event.id,
                "type": event.type,
                "occurred_at": _text(event.occurred_at),
                "payload": event.payload if heard else "{}",
                "erasure": event.erasure,
                "found": event.found,
                "state": "received" if heard else "ignored",
                "error": None if heard else "nobody listens to this type",
            }
        )
    return rows


@functools.lru_cache(maxsize=512)
def _sqlite(rows: int) -> str:
    return f"{_INSERT} VALUES {', '.join([_SQLITE_ROW] * rows)}"


def _values(rows: Sequence[dict[str, Any]], now: str) -> tuple[Any, ...]:
    values: list[Any] = []
    for row in rows:
        values += row.values()
        values += now, now, now if row["state"] == "ignored" else None
    return tuple(values)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(time: datetime) -> str:
    """As integrations.store.tables.UtcDateTime writes it to SQLite."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
