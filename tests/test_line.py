"""Statements begun on a connection of their own to PostgreSQL, and heard of later; whoever asks can do without it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa

import integrations.store.line
from core.errors import JournalUnavailableError
from integrations.aside import Asked, GoneError
from integrations.store.database import Database
from integrations.store.line import Line
from integrations.store.tables import sites as sites_table

ADD = "INSERT INTO sites (site, state, changed_at) VALUES (%s, %s, %s)"
THEN = datetime(2026, 11, 22, 10, tzinfo=UTC)

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def a_line(database: Database) -> Line:
    line = database.writer()
    assert isinstance(line, Line)
    assert line.is_ready()
    return line


@pytest.fixture
def line(database: Database) -> Iterator[Line]:
    line = a_line(database)
    yield line
    line.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrations.store.line, "_CONNECTS_AGAIN_AFTER_S", -1.0)


def a_site(name: str) -> tuple[str, str, datetime]:
    return name, "active", THEN


def sites(database: Database) -> list[str]:
    with database.read() as tx:
        return sorted(tx.connection.scalars(sa.select(sites_table.c.site)))


def backend(line: Line) -> int:
    [[pid]] = line.hear(line.begin("SELECT pg_backend_pid()", ()))
    return int(pid)


def end(database: Database, pid: int) -> None:
    with database.begin() as tx:
        tx.connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def test_statements_are_committed_one_after_the_other_and_their_rows_come_back(
    database: Database, line: Line
) -> None:
    asked = [line.begin(f"{ADD} RETURNING site", a_site(f"s-{number}")) for number in range(3)]
    assert [line.hear(each) for each in reversed(asked)] == [[["s-2"]], [["s-1"]], [["s-0"]]]
    assert line.hear(line.begin("SELECT site FROM sites WHERE site LIKE %s || '%%'", ("s-",))) == [
        ["s-0"],
        ["s-1"],
        ["s-2"],
    ]
    assert sites(database) == ["s-0", "s-1", "s-2"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", "Zoë 😀 'quoted' %s $1"),
        ("text", ""),
        ("text", None),
        ("integer", -7),
        ("boolean", True),
        ("boolean", False),
        ("timestamptz", THEN),
        ("interval", timedelta(seconds=45.5)),
    ],
)
def test_a_value_arrives_as_it_does_by_the_driver(
    database: Database, line: Line, kind: str, value: object
) -> None:
    [[ours]] = line.hear(line.begin(f"SELECT %s::{kind}::text", (value,)))
    [[theirs]] = database.alone(f"SELECT %s::{kind}::text", (value,))
    assert ours == theirs


@pytest.mark.parametrize("value", [object(), b"bytes", "half \ud83d", 1.5])
def test_what_cannot_be_said_is_not_begun_and_the_next_goes_on(
    database: Database, line: Line, value: object
) -> None:
    with pytest.raises(GoneError):
        line.begin("SELECT %s", (value,))
    assert line.hear(line.begin(ADD, a_site("y"))) == []
    assert sites(database) == ["y"]


def test_a_nul_is_refused_and_never_ends_a_text(database: Database, line: Line) -> None:
    with pytest.raises(GoneError):
        line.hear(line.begin(ADD, ("s-1\0and more", "active", THEN)))
    assert sites(database) == []


def test_a_statement_that_fails_leaves_nothing_and_takes_nobody_along(database: Database, line: Line) -> None:
    asked = [
        line.begin("SELECT * FROM nowhere", ()),
        line.begin(ADD, a_site("x")),
        line.begin(ADD, a_site("x")),
        line.begin("SELECT * FROM nowhere", ()),
        line.begin(ADD, a_site("y")),
    ]
    told = []
    for each in asked:
        with contextlib.suppress(GoneError):
            told.append(line.hear(each))
    assert told == [[], []]
    assert sites(database) == ["x", "y"]


def test_what_failed_leaves_nothing_behind_at_the_server(line: Line) -> None:
    for _ in range(20):
        with pytest.raises(GoneError):
            line.hear(line.begin("SELECT 1 / %s::integer", (0,)))
    assert line.hear(line.begin("SELECT 2 / %s::integer", (1,))) == [["2"]]
    [[left]] = line.hear(line.begin("SELECT count(*) FROM pg_prepared_statements", ()))
    assert int(left) <= 2


def test_whatever_the_url_asks_for_it_speaks_utf_8(database: Database) -> None:
    other = Database(
        database.url.update_query_dict({"client_encoding": "latin1"}).render_as_string(hide_password=False)
    )
    line = a_line(other)
    line.hear(line.begin(ADD, a_site("Zoë")))
    assert sites(database) == ["Zoë"]
    line.close()
    other.close()


def test_what_does_not_fit_into_one_packet_arrives_whole(line: Line) -> None:
    large = "y" * 5_000_000
    [[length, text]] = line.hear(line.begin("SELECT length(%s), %s::text", (large, large)))
    assert (length, text) == (str(len(large)), large)


def test_a_connection_that_was_ended_is_gone_for_all_who_asked_and_another_is_made(
    database: Database, line: Line, at_once: None
) -> None:
    blocked = threading.Event()

    def in_the_way(then: Callable[[], None]) -> None:
        with database.begin() as tx:
            tx.connection.execute(sa.text("LOCK TABLE sites"))
            then()
            assert blocked.wait(10)

    pid, asked = backend(line), list[Asked]()

    def ask_and_end() -> None:
        asked.extend(line.begin(ADD, a_site(f"s-{number}")) for number in range(2))
        other = Database(str(database.url.render_as_string(hide_password=False)))
        end(other, pid)
        other.close()
        blocked.set()

    in_the_way(ask_and_end)
    for each in asked:
        with pytest.raises(GoneError):
            line.hear(each)
    with pytest.raises(GoneError):
        line.begin(ADD, a_site("too soon"))
    assert line.is_ready()
    assert backend(line) != pid
    assert line.hear(line.begin(ADD, a_site("again"))) == []
    assert sites(database) == ["again"]


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(database: Database) -> None:
    line = a_line(database)
    line._patience_s = 0.2
    pid = backend(line)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(GoneError):
            line.hear(line.begin(ADD, a_site("x")))
        assert not line.is_ready(), "it is not tried again at once"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_locked_table_is_one_that_cannot_now(database_url: str) -> None:
    database = Database(database_url, timeout_s=0.2)
    line = a_line(database)
    before = backend(line)
    with database.begin() as tx:
        tx.connection.execute(sa.text("LOCK TABLE sites"))
        with pytest.raises(JournalUnavailableError, match="timeout"):
            line.hear(line.begin(ADD, a_site("x")))
    assert line.hear(line.begin(ADD, a_site("y"))) == []
    assert backend(line) == before, "it is the same connection"
    assert sites(database) == ["y"]
    line.close()
    database.close()


def test_its_connection_keeps_the_limits_of_the_others(database: Database, line: Line) -> None:
    asks = "SELECT current_setting('statement_timeout'), current_setting('synchronous_commit')"
    with database.begin() as tx:
        wanted = [list(tx.connection.execute(sa.text(asks)).one())]
    assert line.hear(line.begin(asks, ())) == wanted


def test_a_plan_is_made_anew_once_a_second(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = "SELECT count(*) FROM sites WHERE site = %s"
    made = (
        "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
        " WHERE statement LIKE 'SELECT count(*) FROM sites%%'"
    )
    said: list[bytes] = []
    send = line._server.send_query_params

    class Server:
        def __getattr__(self, name: str) -> object:
            return getattr(server, name)

        def send_query_params(self, statement: bytes, values: None) -> None:
            said.append(statement)
            send(statement, values)

    server = line._server
    line._server = Server()  # type: ignore[assignment]
    line.hear(line.begin(asks, ("a",)))
    line.hear(line.begin(asks, ("b",)))
    assert line.hear(line.begin(made, ())) == [["2"]], "prepared once"
    assert said == []
    later = time.monotonic() + 1.5
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert line.hear(line.begin(asks, ("c",))) == [["0"]]
    line.hear(line.begin(asks, ("d",)))
    assert said == [b"DISCARD PLANS"]


def test_what_was_begun_is_committed_though_who_began_it_dies_at_once(
    database: Database, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = backend(line)
    later = time.monotonic() + 1.5
    monkeypatch.setattr(time, "monotonic", lambda: later)  # when plans are discarded too
    os.kill(pid, signal.SIGSTOP)
    line.begin(ADD, a_site("begun"))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, line._server.socket)  # as a process that is killed hangs up
    os.close(nowhere)
    os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    ends_at = time.monotonic() + 10
    while pid in _backends(database):
        assert time.monotonic() < ends_at, "the server has not noticed"
    assert sites(database) == ["begun"]


def test_what_goes_alone_goes_by_the_line_and_without_it_when_it_is_gone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[object] = []
    alone = database._alone

    def note(statement: str, parameters: tuple[object, ...]) -> Sequence[Sequence[object]]:
        here.append(parameters[0])
        return alone(statement, parameters)

    monkeypatch.setattr(database, "_alone", note)
    database.use_writer()
    line, order = database._writer, list[str]()
    assert isinstance(line, Line)
    first = database.begin_alone(ADD, a_site("begun"))
    database.alone(ADD, a_site("after"), meanwhile=lambda: order.append("meanwhile"))
    first.hear()
    pid = backend(line)
    os.kill(pid, signal.SIGSTOP)
    lost = database.begin_alone(ADD, a_site("lost"))
    other = Database(database.url.render_as_string(hide_password=False))
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    with contextlib.closing(other):
        ends_at = time.monotonic() + 10
        while pid in _backends(other):
            assert time.monotonic() < ends_at
    with contextlib.suppress(sa.exc.IntegrityError):  # it may have been done before it was ended
        lost.hear()
    database.alone(ADD, a_site("without"), meanwhile=lambda: order.append("before"))
    assert here == ["lost", "without"]
    assert order == ["meanwhile", "before"]
    assert sites(database) == ["after", "begun", "lost", "without"]
    with pytest.raises(sa.exc.IntegrityError):
        database.alone(ADD, a_site("lost"))


def _backends(database: Database) -> list[int]:
    with database.read() as tx:
        return list(tx.connection.scalars(sa.text("SELECT pid FROM pg_stat_activity")))


def test_a_server_that_is_away_is_asked_for_again_only_after_a_while(database_url: str) -> None:
    tried: list[float] = []

    def connect() -> object:
        tried.append(time.monotonic())
        raise psycopg.OperationalError("away")

    line = Line(connect, 1.0)  # type: ignore[arg-type]
    assert not line.is_ready()
    assert not line.is_ready()
    assert len(tried) == 1
    with pytest.raises(GoneError):
        line.begin(ADD, a_site("x"))
    line.close()


def test_after_a_time_limit_in_the_middle_no_answer_goes_to_another_question(
    database: Database, line: Line, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TimeIsUp(BaseException):
        pass

    def interrupt() -> None:
        raise TimeIsUp

    with monkeypatch.context() as patched:
        patched.setattr(integrations.store.line, "Asked", interrupt)
        with pytest.raises(TimeIsUp):
            line.begin("SELECT 1", ())
    assert line.is_ready()
    assert line.hear(line.begin("SELECT 2", ())) == [["2"]]
    asked = line.begin("SELECT 3", ())
    with monkeypatch.context() as patched:
        patched.setattr(line, "_sort", interrupt)
        with pytest.raises(TimeIsUp):
            line.hear(asked)
    assert line.is_ready()
    assert line.hear(line.begin("SELECT 4", ())) == [["4"]]


def test_a_line_that_broke_has_no_descriptor(line: Line) -> None:
    later = line.later(line.begin("SELECT 1", ()))
    assert later.fileno() >= 0
    line.close()
    assert (later.fileno(), later.is_there()) == (-1, True)
    with pytest.raises(GoneError):
        later.hear()
