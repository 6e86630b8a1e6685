"""What the database promises: reads that hold nobody up, one migration at a time, and clear words at the start."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from admin.processes import keep_beating
from core.errors import ConfigError, JournalUnavailableError
from integrations.store.database import Database, open_database
from integrations.store.heartbeats import Heartbeats
from integrations.store.tables import heartbeats, sites
from tests.house import Clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "usher.db"
    with contextlib.closing(Database(f"sqlite:///{path}")) as database:
        database.migrate()
    return path


@contextlib.contextmanager
def somebody_writing(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        yield
        writer.execute("ROLLBACK")


def test_a_read_does_not_wait_for_who_writes(file: Path) -> None:
    with contextlib.closing(Database(f"sqlite:///{file}", timeout_s=0.1)) as database:
        with somebody_writing(file), database.read() as tx:
            assert tx.execute(sa.select(heartbeats)).all() == []
        with somebody_writing(file), pytest.raises(JournalUnavailableError), database.begin():
            pass


def test_who_writes_does_not_wait_for_a_read(database: Database) -> None:
    with database.read() as reading:
        assert reading.execute(sa.select(heartbeats)).all() == []
        Heartbeats(database).beat("beat:here:1")

    with database.read() as reading:
        assert [row.name for row in reading.execute(sa.select(heartbeats))] == ["beat:here:1"]


def test_three_releases_at_once_make_the_tables_once(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> None:
    url = sa.make_url(database_url)
    schema = f"three_{uuid.uuid4().hex}"
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(tmp_path / "fresh.db"))
    else:
        with contextlib.closing(Database(database_url)) as database, database.begin() as tx:
            tx.execute(sa.text(f"CREATE SCHEMA {schema}"))
        url = url.update_query_dict({"options": f"-csearch_path={schema}"})
    said: list[str] = []
    together = threading.Barrier(3)

    def release() -> None:
        with contextlib.closing(Database(url.render_as_string(hide_password=False))) as database:
            together.wait()
            try:
                said.append(database.migrate())
            except ConfigError as exc:
                said.append(str(exc))

    threads = [threading.Thread(target=release) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(said) == 3
    assert len(set(said)) == 1, said
    assert "cannot be prepared" not in said[0]


def test_a_new_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    """SQLite answers "locked" at once, whatever the timeout, to whoever would switch such a file to WAL."""
    path = tmp_path / "new.db"
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
        contextlib.closing(Database(f"sqlite:///{path}", timeout_s=30.0)) as database,
    ):
        other.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.3, other.execute, ["COMMIT"])
        ending.start()
        try:
            assert database.migrate()
        finally:
            ending.join()


def test_postgresql_speaks_utc_whatever_its_own_time_zone(postgres_url: str) -> None:
    url = sa.make_url(postgres_url).update_query_dict({"options": "-c timezone=Asia/Tokyo"})

    with (
        contextlib.closing(Database(url.render_as_string(hide_password=False))) as database,
        database.read() as tx,
    ):
        assert tx.connection.scalar(sa.text("SHOW timezone")) == "UTC"


def test_asking_for_the_tables_of_a_missing_file_does_not_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no tables of Usher yet; run `usher migrate`"):
        open_database(f"sqlite:///{tmp_path / 'nowhere.db'}")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/usher?sslmode=bogus", 'invalid sslmode value: "bogus"'),
        ("postgresql://u:hunter2@127.0.0.1:1/usher?colour=red", "colour"),
    ],
)
def test_a_database_that_no_waiting_can_help_stops_the_start(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_database(url)

    [problem] = caught.value.problems
    assert problem.startswith("DATABASE_URL: ")
    assert complaint in problem
    assert "hunter2" not in problem


def test_a_database_that_is_merely_away_is_waited_for_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        open_database("postgresql://u:hunter2@127.0.0.1:1/usher", timeout_s=1.0).close()

    [line] = [record for record in caplog.records if record.message == "database.away"]
    assert "refused" in line.__dict__["error"]
    assert "hunter2" not in str(line.__dict__)


def test_a_file_that_becomes_unreadable_leaves_as_the_error_everybody_waits_on(file: Path) -> None:
    with contextlib.closing(Database(f"sqlite:///{file}")) as database:
        file.write_bytes(b"no database any more " * 1000)
        with pytest.raises(JournalUnavailableError), database.begin():
            pass


def test_migrating_a_database_of_a_later_release_is_one_clear_line(file: Path) -> None:
    with contextlib.closing(Database(f"sqlite:///{file}")) as database:
        with database.begin() as tx:
            tx.execute(sa.text("UPDATE alembic_version SET version_num = 'from-the-future'"))

        with pytest.raises(ConfigError, match="from-the-future"):
            database.migrate()


def test_who_has_been_silent_for_a_day_is_forgotten(database: Database, clock: Clock) -> None:
    beats = Heartbeats(database)
    beats.beat("worker:here:1")
    clock.move(hours=23)
    beats.beat("worker:here:2")
    clock.move(hours=2)
    beats.beat("worker:here:3")

    with database.read() as tx:
        names = {row.name for row in tx.execute(sa.select(heartbeats))}
    assert names == {"worker:here:2", "worker:here:3"}
    clock.move(seconds=timedelta(days=1).total_seconds())
    assert not beats.heard_within("worker:", 30)


def test_the_heart_goes_on_beating_after_any_error() -> None:
    stop = threading.Event()
    beaten: list[str] = []
    renewed: list[int] = []

    class Trembling:
        def renew_leases(self) -> None:
            renewed.append(1)

        def beat(self, name: str) -> None:
            beaten.append(name)
            if len(beaten) == 1:
                raise JournalUnavailableError("away")
            if len(beaten) == 2:
                raise RuntimeError("anything")
            stop.set()

    trembling = Trembling()
    keep_beating(trembling, trembling, "worker", stop, every_s=0.0)  # type: ignore[arg-type]

    assert (len(beaten), len(renewed)) == (3, 1)


def test_a_statement_alone_is_committed_with_it_and_returns_its_rows(database: Database) -> None:
    marks = "?" if database.url.get_backend_name() == "sqlite" else "%s"
    written = "INSERT INTO sites (site, state, changed_at) VALUES ({0}, {0}, {0}) RETURNING site"
    rows = database.alone(written.format(marks), ("s-1", "active", "2026-11-22 10:00:00.000000+00:00"))
    assert [tuple(row) for row in rows] == [("s-1",)]
    with database.read() as tx:
        assert tx.connection.scalar(sa.select(sa.func.count()).select_from(sites)) == 1


def test_a_statement_alone_that_fails_leaves_nothing_and_no_open_transaction(database: Database) -> None:
    with pytest.raises((JournalUnavailableError, sa.exc.DBAPIError), match="nowhere"):
        database.alone("SELECT * FROM nowhere", ())
    with database.begin() as tx:
        assert tx.connection.scalar(sa.text("SELECT 1")) == 1


def test_what_goes_alone_to_a_server_that_is_away_says_that_it_is_away(tmp_path: Path) -> None:
    database = Database(f"postgresql+psycopg://postgres@/usher?host={tmp_path}")
    with pytest.raises(JournalUnavailableError, match="connection"):
        database.alone("SELECT 1", ())
    database.close()


def test_the_time_of_a_transaction_is_the_server_s_when_it_began(postgres_url: str) -> None:
    database = Database(postgres_url)
    server_says = sa.select(sa.literal_column("now()"), sa.literal_column("clock_timestamp()"))
    with database.begin() as tx:
        began, now = tx.execute(server_says).one()
        assert tx.now.tzinfo is UTC
        assert began <= tx.now <= now
    with database.begin() as later:
        assert now < later.now
    database.close()


def test_what_failed_on_the_way_is_undone(database: Database) -> None:
    beat = heartbeats.insert().values(name="worker:1", seen_at=sa.func.now())
    with contextlib.suppress(ZeroDivisionError), database.begin() as tx:
        tx.execute(beat)
        raise ZeroDivisionError
    with database.begin() as tx:
        assert tx.connection.scalar(sa.select(sa.func.count()).select_from(heartbeats)) == 0


def test_postgresql_is_not_asked_whether_it_lives_between_two_transactions(postgres_url: str) -> None:
    sent: list[str] = []
    database = Database(postgres_url)
    sa.event.listen(database.engine, "before_cursor_execute", lambda *about: sent.append(about[2]))
    for _ in range(3):
        with database.begin():
            pass
    assert len(sent) == 3
    database.close()


def test_a_connection_that_died_in_its_sleep_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    with database.begin() as tx:
        its_process = tx.connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with other.begin() as tx:
        tx.connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": its_process})
    monkeypatch.setattr("integrations.store.database._LIVES_FOR_S", -1.0)
    with database.begin() as tx:
        assert tx.connection.scalar(sa.text("SELECT pg_backend_pid()")) != its_process
    database.close()
    other.close()
