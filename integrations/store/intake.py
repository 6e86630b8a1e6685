"""Many events in one statement, whose cost hardly grows with their number.

The driver of SQLite gives Python's lock away at each row it is handed or hands back, and at each statement, and waits
for it again: beside a busy event loop that is what takes the time. So all rows go in as one JSON text, in a statement
that commits by itself and returns nothing; only when some are known already is it done again with care. PostgreSQL
takes the same text and answers in the one way there and back that also commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.exc import IntegrityError

from core.errors import JournalUnavailableError
from core.events import Event
from integrations.store.database import Database, Transaction

Key = tuple[str, str]

_INSERT = """
INSERT INTO events (site, id, type, occurred_at, payload, erasure, found, state, error,
    attempts, crashes, received_at, next_at, finished_at)
"""
_SQLITE = f"""{_INSERT}
SELECT value ->> 'site', value ->> 'id', value ->> 'type', value ->> 'occurred_at', value ->> 'payload',
    value ->> 'erasure', value ->> 'found', value ->> 'state', value ->> 'error',
    0, 0, ?1, ?1, CASE value ->> 'state' WHEN 'ignored' THEN ?1 END
FROM json_each(?2)
"""  # noqa: S608 (constants)
_SQLITE_NEW = f"{_SQLITE} WHERE true ON CONFLICT DO NOTHING"
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


def commit_events(database: Database, events: Sequence[Event], is_heard: Callable[[Event], bool]) -> set[Key]:
    """Write them in a transaction of their own; returns those that are new. Of what nobody listens to only the head is
    kept. No two may have the same site and id. Raises JournalUnavailableError."""
    now = database.time_alone()
    rows = _rows(events, is_heard)
    if database.url.get_backend_name() == "sqlite":
        try:
            database.alone(_SQLITE, (_text(now or datetime.now(UTC)), rows))
        except IntegrityError:  # some are known: nothing was written
            with database.begin() as tx:
                return add_events(tx, events, is_heard)
        return _keys_of(events)
    parameters = (rows, now and _text(now))
    try:
        return _keys(database.alone(_POSTGRESQL, parameters))
    except JournalUnavailableError as exc:
        # The server may have been started anew. If it did commit, they are known by now, and nothing is lost.
        if not getattr(exc.__cause__, "connection_invalidated", False):
            raise
        return _keys(database.alone(_POSTGRESQL, parameters))


def add_events(
    tx: Transaction, events: Sequence[Event], is_heard: Callable[[Event], bool] = lambda _: True
) -> set[Key]:
    """As commit_events, as a part of a transaction."""
    rows, now = _rows(events, is_heard), _text(tx.now)
    if tx.connection.dialect.name != "sqlite":
        return _keys(tx.connection.exec_driver_sql(_POSTGRESQL, (rows, now)))
    keys = _keys_of(events)
    known = _keys(tx.connection.exec_driver_sql(_SQLITE_KNOWN, (_json(keys),)))
    tx.connection.exec_driver_sql(_SQLITE_NEW, (now, rows))
    return keys - known


def _keys_of(events: Sequence[Event]) -> set[Key]:
    return {(event.site, event.id) for event in events}


def _keys(rows: Iterable[Sequence[Any]]) -> set[Key]:
    return {(site, id_) for site, id_ in rows}


def _rows(events: Sequence[Event], is_heard: Callable[[Event], bool]) -> str:
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
    return _json(rows)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(time: datetime) -> str:
    """As integrations.store.tables.UtcDateTime writes it to SQLite."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
