"""The database: one engine for each process, short transactions, and the clock that decides.

SQLite runs in WAL mode with `synchronous=FULL`, because an acknowledged webhook must be on disk, and with one
writing connection for each process; PostgreSQL with timeouts on every statement. A database that is away, locked or
full leaves as JournalUnavailableError: the transaction did not commit, or nobody knows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from core.errors import ConfigError, JournalUnavailableError

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction and the database's time at its start."""

    connection: sa.Connection
    now: datetime

    def execute(self, statement: sa.Executable) -> sa.CursorResult[Any]:
        return self.connection.execute(statement)

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT: both dialects spell it alike, SQLAlchemy keeps them apart."""
        if self.connection.dialect.name == "sqlite":
            return sqlite.insert(table)
        return postgresql.insert(table)


class Database:
    """`clock` replaces the database's own clock, for tests."""

    def __init__(
        self, url: str, *, timeout_s: float = 5.0, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.url = parse_database_url(url)
        self._clock = clock
        self._pid = os.getpid()
        if self.url.get_backend_name() == "sqlite":
            self.engine = sa.create_engine(
                self.url,
                poolclass=sa.QueuePool,
                pool_size=1,
                max_overflow=0,
                pool_timeout=timeout_s,
                connect_args={"timeout": timeout_s, "check_same_thread": False},
                hide_parameters=True,
            )
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_immediate)
        else:
            milliseconds = int(timeout_s * 1000)
            self.engine = sa.create_engine(
                self.url,
                pool_size=4,
                pool_timeout=timeout_s,
                pool_pre_ping=True,
                connect_args={
                    "connect_timeout": max(1, int(timeout_s)),
                    "options": f"{self.url.query.get('options', '')}"
                    f" -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
                    f" -c idle_in_transaction_session_timeout={4 * milliseconds} -c synchronous_commit=on",
                },
                hide_parameters=True,
            )

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        """One transaction, committed at the end of the block. Raises JournalUnavailableError."""
        if os.getpid() != self._pid:  # a connection must not be shared with the parent it was opened in
            self.engine.dispose(close=False)
            self._pid = os.getpid()
        try:
            with self.engine.begin() as connection:
                yield Transaction(connection, self._now(connection))
        except (OperationalError, InterfaceError, InternalError, PoolTimeoutError) as exc:
            raise JournalUnavailableError(_without_details(exc)) from exc

    def _now(self, connection: sa.Connection) -> datetime:
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            text = connection.scalar(sa.text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"))
            return datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
        now: datetime = connection.scalar(sa.text("SELECT clock_timestamp()"))
        return now.astimezone(UTC)

    def close(self) -> None:
        self.engine.dispose()

    def migrate(self) -> str:
        """Bring the tables to this release; returns the revision. Raises ConfigError when it cannot."""
        try:
            with self.engine.begin() as connection:
                config = _alembic()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except SQLAlchemyError as exc:
            raise ConfigError(
                "The database cannot be prepared", [f"DATABASE_URL: {_without_details(exc)}"]
            ) from exc
        return _head()

    def require_current(self) -> None:
        """Raise ConfigError when the tables are not those of this release; JournalUnavailableError when
        the database cannot say."""
        with self.begin() as tx:
            found = MigrationContext.configure(tx.connection).get_current_revision()
        if found != _head():
            what = "has no tables of Usher yet" if found is None else f"is at revision {found}, not {_head()}"
            raise ConfigError("Not fit to start", [f"DATABASE_URL: the database {what}; run `usher migrate`"])


def open_database(url: str, *, timeout_s: float = 5.0) -> Database:
    """The database, its tables known to be those of this release, or not reachable right now.

    Raises ConfigError for tables of another release. A database that is away may come back: a process that
    starts meanwhile waits for it.
    """
    database = Database(url, timeout_s=timeout_s)
    with contextlib.suppress(JournalUnavailableError):
        database.require_current()
    return database


def parse_database_url(url: str) -> sa.URL:
    """Raises ConfigError, with a text that holds no password, for what is no URL of a database we know."""
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise ConfigError(
            "Not fit to start", ["DATABASE_URL: not a URL such as sqlite:///data/usher.db"]
        ) from exc
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigError(
            "Not fit to start",
            [
                f"DATABASE_URL: {parsed.drivername}: is not supported; use sqlite:///… or postgresql+psycopg://…"
            ],
        )
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError(
                "Not fit to start", ["DATABASE_URL: SQLite needs a file; memory is forgotten at the end"]
            )
        if not Path(parsed.database).parent.is_dir():
            raise ConfigError(
                "Not fit to start",
                [f"DATABASE_URL: the folder {Path(parsed.database).parent} does not exist"],
            )
    elif not parsed.database:
        raise ConfigError("Not fit to start", ["DATABASE_URL: names no database"])
    return parsed


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _head() -> str:
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    return head or ""


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver's guess
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    # Taking the write lock at once waits its turn; upgrading a read lock later fails instead.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _without_details(exc: SQLAlchemyError) -> str:
    """The driver's own words without statement and parameters; its first line only."""
    origin = getattr(exc, "orig", None)
    text = str(origin or type(exc).__name__).strip().splitlines()
    return (text[0] if text else type(exc).__name__)[:300]
