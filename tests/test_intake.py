"""Many events in one statement: the rows are those that one insert each would have written."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.community import SiteId
from core.errors import JournalUnavailableError
from core.events import ABOUT_ADDRESSES, Event, EventId
from integrations.aside import Later
from integrations.store.database import Database
from integrations.store.intake import add_events, begin_events
from integrations.store.journal import Journal, insert_found
from integrations.store.tables import events, metadata
from tasks.routes import ROUTES
from tests.house import Clock, an_event

PLAIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
ANY_EVENT = st.builds(
    Event,
    id=PLAIN.map(EventId),
    site=st.sampled_from([SiteId("site-a"), SiteId('quo"te'), SiteId("back\\slash"), SiteId("$[0]")]),
    type=st.sampled_from(["member_added", "wix.unheard.of", *sorted(ABOUT_ADDRESSES)]),
    occurred_at=st.datetimes(
        datetime(2000, 1, 1),
        datetime(2199, 12, 31),
        timezones=st.just(timezone(timedelta(hours=5, minutes=30))),
    ),
    payload=st.dictionaries(
        st.text(max_size=5),
        st.text(max_size=10) | st.integers() | st.none() | st.just("\ud83d\ude00 \x7f \u2028"),
        max_size=3,
    ).map(json.dumps)
    | st.sampled_from(
        ['{"a": "\U0001f600 é \\u0000 \\" \\\\"}', "{}", '{"a": "' + "x" * 9000 + '"}', "[null]"]
    ),
    erasure=st.booleans(),
    found=st.booleans(),
)


def rows(database: Database) -> list[dict[str, Any]]:
    with database.begin() as tx:
        found = [
            dict(row._mapping) for row in tx.execute(sa.select(events).order_by(events.c.site, events.c.id))
        ]
        tx.execute(sa.delete(events))
    return sorted(found, key=lambda row: (row["site"], row["id"]))


def raw(database: Database) -> list[tuple[Any, ...]]:
    """As the file holds them, kinds and all."""
    with sqlite3.connect(database.url.database or "") as connection:
        kinds = ", ".join(f"{column.name}, typeof({column.name})" for column in events.c)
        return connection.execute(f"SELECT {kinds} FROM events ORDER BY site, id").fetchall()


def insert_one_by_one(database: Database, some: list[Event]) -> None:
    with database.begin() as tx:
        for event in some:
            heard = event.erasure or event.type in ROUTES
            row = {
                "site": event.site,
                "id": event.id,
                "type": event.type,
                "occurred_at": event.occurred_at,
                "received_at": tx.now,
                "payload": event.payload if heard else "{}",
                "erasure": event.erasure,
                "found": event.found,
                "state": "received" if heard else "ignored",
                "attempts": 0,
                "crashes": 0,
                "next_at": tx.now,
                "error": None if heard else "nobody listens to this type",
                "finished_at": None if heard else tx.now,
            }
            tx.execute(tx.insert(events).on_conflict_do_nothing().values(**row))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=st.lists(ANY_EVENT, max_size=8))
def test_the_rows_are_the_same_in_every_column(database: Database, some: list[Event]) -> None:
    written = []
    for write in (Journal(database, listened=ROUTES).insert, lambda some: insert_one_by_one(database, some)):
        write(some)
        kept = raw(database) if database.url.get_backend_name() == "sqlite" else []
        written.append((kept, rows(database)))
    assert written[0] == written[1]


def test_every_column_is_thought_of(database: Database, clock: Clock) -> None:
    """Who adds a column decides here what a new event has in it."""
    Journal(database, listened=ROUTES).insert([an_event(clock)])
    [row] = rows(database)
    empty = {name for name, value in row.items() if value is None}
    assert empty == {"member", "lease", "error", "finished_at"}
    assert set(row) == {column.name for column in metadata.tables["events"].c}


def test_of_twins_the_first_counts_whatever_its_type(database: Database, clock: Clock) -> None:
    journal, heard = Journal(database, listened=ROUTES), an_event(clock)
    unheard = replace(heard, type="wix.unheard.of")
    assert journal.insert([unheard, heard]) == [True, False]
    assert [row["state"] for row in rows(database)] == ["ignored"]
    assert journal.insert([heard, unheard]) == [True, False]
    assert [row["state"] for row in rows(database)] == ["received"]


def test_new_and_known_ones_are_told_apart_in_one_batch(database: Database, clock: Clock) -> None:
    journal = Journal(database, listened=ROUTES)
    some = [an_event(clock, id=f"e{number}") for number in range(200)]
    assert journal.insert(some[::3]) == [True] * 67
    assert journal.insert(some) == [number % 3 != 0 for number in range(200)]
    assert journal.insert(some) == [False] * 200


def test_what_the_sweep_found_is_part_of_its_own_transaction(database: Database, clock: Clock) -> None:
    found = [replace(an_event(clock, id=name), found=True) for name in ("f1", "f2")]
    with contextlib.suppress(ZeroDivisionError), database.begin() as tx:
        assert insert_found(tx, found) == {"f1", "f2"}
        raise ZeroDivisionError
    assert rows(database) == []
    with database.begin() as tx:
        assert insert_found(tx, found[:1]) == {"f1"}
        assert insert_found(tx, found) == {"f2"}
        assert add_events(tx, []) == set()


def test_a_commit_is_one_way_there_and_back_on_postgresql(
    postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url)
    database.migrate()
    begin_events(database, [an_event(clock, id="warm")], lambda _: True).hear()
    sent: list[str] = []
    real = psycopg.Cursor.execute

    def execute(self: psycopg.Cursor[Any], query: str, *arguments: Any, **named: Any) -> object:
        sent.append(query)
        return real(self, query, *arguments, **named)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    begin_events(
        database, [an_event(clock, id=f"way-{number}") for number in range(50)], lambda _: True
    ).hear()
    assert len(sent) == 1
    database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_was_started_anew_refuses_no_delivery(database_url: str, clock: Clock) -> None:
    """The connection was in use a moment ago, so nobody asked whether it lives."""
    database, other = Database(database_url), Database(database_url)
    journal = Journal(database, listened=ROUTES)
    journal.insert([an_event(clock, id="before")])
    with database.begin() as tx:
        its_process = tx.connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with other.begin() as tx:
        tx.connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": its_process})
    assert journal.insert([an_event(clock, id="after")]) == [True]
    assert [row["id"] for row in rows(database)] == ["after", "before"]
    database.close()
    other.close()


def test_a_locked_database_is_asked_once(tmp_path: Any, clock: Clock) -> None:
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}", timeout_s=0.05)
    database.migrate()
    with sqlite3.connect(tmp_path / "usher.db", isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailableError, match="locked"):
            Journal(database, listened=ROUTES).insert([an_event(clock)])
        blocker.execute("ROLLBACK")
    assert rows(database) == []
    database.close()


def test_the_same_events_are_written_in_the_same_order_whoever_has_them(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with the same deliveries in other orders would wait for each other's rows."""
    batch = [an_event(clock, id=f"e{number}") for number in (2, 0, 1)]
    given: list[list[str]] = []

    def note(_: str, parameters: tuple[object, ...]) -> Later:
        given.append(re.findall(r"\be\d\b", str(parameters)))
        return Later(list)

    monkeypatch.setattr(database, "alone", note)
    monkeypatch.setattr(database, "begin_alone", note)
    for events_of_one in (batch, batch[::-1]):
        begin_events(database, events_of_one, lambda _: True).hear()
    first, second = given
    assert first == second
    assert set(first) == {"e0", "e1", "e2"}


def test_none_and_more_than_one_statement_takes_are_written(database: Database, clock: Clock) -> None:
    journal = Journal(database, listened=ROUTES)
    assert journal.insert([]) == []
    assert journal.insert([an_event(clock, id="e7")]) == [True]
    many = [an_event(clock, id=f"e{number}") for number in range(1203)]
    assert journal.insert(many) == [number != 7 for number in range(1203)]
    assert journal.insert(many) == [False] * 1203
    assert len(rows(database)) == 1203
