"""The database: an engine for each use, short transactions, and the clock that decides.

SQLite runs in WAL mode with `synchronous=FULL`, because an acknowledged webhook must be on disk, with one writing
connection for each Database and others that only read; PostgreSQL with timeouts on every statement. A database that is
away, locked or full leaves as JournalUnavailableError: the transaction did not commit, or nobody knows.

A way to the server and back costs as much as a small statement, so PostgreSQL's time comes with BEGIN, and a
connection that was just in use is not asked whether it lives.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    InvalidatePoolError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import ConfigError, JournalUnavailableError
from integrations.aside import Aside, Asked, GoneError, Later

if TYPE_CHECKING:
    from integrations.store.line import Line

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x7573686572  # "usher": whose advisory lock it is on a PostgreSQL that others use too
_LIVES_FOR_S = 1.0
_BEGUN_AT = "usher_begun_at"
_USED_AT = "usher_used_at"
# A plan that is kept is of the day it was made: of a young table it reads all, and goes on reading all.
PLAN_EACH = "-c plan_cache_mode=force_custom_plan"
# Planning a statement takes as long as what goes by a key. For connections that send nothing else.
PLAN_ONCE = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
# By itself SQLite copies its log into the file at every 4 MB, while whoever committed waits; here it may at 64 MB.
_RARELY, _CHECKPOINT = "PRAGMA wal_autocheckpoint=16000", "PRAGMA wal_checkpoint(PASSIVE)"
_SPARE_S = 3.0
_SQLITE_FIRST = ("PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")


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
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        plans: str = PLAN_EACH,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.url = parse_database_url(url)
        self._clock = clock
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        if self.url.get_backend_name() == "sqlite":
            # Taking the write lock at once waits its turn; upgrading a read lock later fails instead.
            self.engine = _sqlite_engine(self.url, timeout_s, connections=1, begin="BEGIN IMMEDIATE")
            self._reading = _sqlite_engine(self.url, timeout_s, connections=2, begin="BEGIN")
        else:
            self.engine = _postgresql_engine(self.url, timeout_s, plans)
            self._reading = self.engine
        self._driver: Any = self.engine.dialect.loaded_dbapi
        self._writer: Aside | Line | None = None

    def begin(self) -> contextlib.AbstractContextManager[Transaction]:
        """One transaction, committed at the end of the block. Raises JournalUnavailableError."""
        return self._transaction(self.engine)

    def read(self) -> contextlib.AbstractContextManager[Transaction]:
        """One transaction that only looks: on SQLite nobody waits for it, and it waits for nobody who writes."""
        return self._transaction(self._reading)

    def use_writer(self) -> None:
        """Let what goes alone be run while this process goes on, as soon as there is somebody to run it. Call it after
        the fork, and use `alone` and `begin_alone` from one thread."""
        self._writer = self.writer()

    def alone(
        self,
        statement: str,
        parameters: tuple[object, ...],
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Sequence[Sequence[Any]]:
        """One statement in the driver's own words, committed by itself; returns the rows it returns. On PostgreSQL that
        is one way to the server and back, where a transaction takes three. Raises JournalUnavailableError, and what
        SQLAlchemy raises. Where a writer is lost on the way the statement may run twice. `meanwhile` is called while a
        writer runs it, or before.
        """
        asked = self._ask_writer(statement, parameters)
        meanwhile()
        return self._hear(asked, statement, parameters)

    def begin_alone(self, statement: str, parameters: tuple[object, ...]) -> Later:
        """As alone, but without waiting where there is a writer. They are run in the order in which they were begun."""
        asked = self._ask_writer(statement, parameters)
        if asked is None:
            rows = self._alone(statement, parameters)
            return Later(lambda: rows)
        hear = functools.partial(self._hear, asked, statement, parameters)
        if self._writer is None or isinstance(self._writer, Aside):
            return Later(hear)
        return replace(self._writer.later(asked), hear=hear)

    def _ask_writer(self, statement: str, parameters: tuple[object, ...]) -> Asked | None:
        if self._writer is not None and self._writer.is_ready():
            with contextlib.suppress(GoneError):
                return self._writer.begin(statement, parameters)
        return None

    def _hear(
        self, asked: Asked | None, statement: str, parameters: tuple[object, ...]
    ) -> Sequence[Sequence[Any]]:
        if self._writer is not None and asked is not None:
            with contextlib.suppress(GoneError):
                return self._writer.hear(asked)  # type: ignore[no-any-return] # as runs_statements says
        return self._alone(statement, parameters)

    def _alone(self, statement: str, parameters: tuple[object, ...]) -> Sequence[Sequence[Any]]:
        """Past SQLAlchemy's own connection, which takes longer over it than the driver does."""
        with self._errors():
            try:
                connection = self.engine.raw_connection()
            except self._driver.Error as exc:
                raise self._of_the_driver(exc, statement) from exc
            try:
                cursor = connection.driver_connection.execute(statement, parameters)  # type: ignore[union-attr]
                return cursor.fetchall() if cursor.description else []
            except self._driver.Error as exc:
                is_gone = self.engine.dialect.is_disconnect(exc, connection.dbapi_connection, None)
                if is_gone:
                    connection.invalidate(exc)
                    self.engine.dispose()  # the others that were just in use are as dead
                raise self._of_the_driver(exc, statement, is_gone=is_gone) from exc
            except BaseException as exc:
                connection.invalidate(exc)  # whatever it is in the middle of
                raise
            finally:
                connection.close()

    def _of_the_driver(self, exc: Exception, statement: str, *, is_gone: bool = False) -> Exception:
        """As SQLAlchemy raises it."""
        return DBAPIError.instance(
            statement,
            None,
            exc,
            self._driver.Error,
            hide_parameters=True,
            connection_invalidated=is_gone,
            dialect=self.engine.dialect,
        )

    def writer(self) -> Aside | Line:
        """Runs what it is asked on a connection of its own, while whoever asks goes on. SQLite's own calls wait, so a
        process waits for them."""
        if self.url.get_backend_name() == "sqlite":
            file = Path(self.url.database or "").absolute().as_uri()  # mode: a missing file stays missing
            runs = "integrations.store.statements:runs_statements"
            said = (*_SQLITE_FIRST, _RARELY), _CHECKPOINT
            return Aside(
                runs, f"{file}?mode=rw", self._timeout_s, *said, patience_s=self._timeout_s + _SPARE_S
            )
        from integrations.store.line import Line  # noqa: PLC0415 (its driver takes a while to load)

        args, kept = self.engine.dialect.create_connect_args(self.url)
        how = {**kept, **_postgresql_limits(self.url, self._timeout_s, PLAN_ONCE), "autocommit": True}
        del how["context"]  # SQLAlchemy's own adapters
        how["client_encoding"] = (
            "utf8"  # which a Line writes, whatever the database or the URL would rather have
        )
        return Line(functools.partial(self._driver.connect, *args, **how), self._timeout_s + _SPARE_S)

    def time_alone(self) -> datetime | None:
        """What a statement that goes alone takes for now; None where it asks the server in its own words."""
        if self._clock is not None:
            return self._clock()
        return datetime.now(UTC) if self.engine.dialect.name == "sqlite" else None

    @contextlib.contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[Transaction]:
        with self._errors(), engine.begin() as connection:
            yield Transaction(connection, self._now(connection))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        if os.getpid() != self._pid:  # a connection must not be shared with the parent it was opened in
            self.engine.dispose(close=False)
            self._reading.dispose(close=False)
            self._pid = os.getpid()
        try:
            yield
        except (OperationalError, InterfaceError, InternalError, PoolTimeoutError) as exc:
            raise JournalUnavailableError(_without_details(exc)) from exc
        except DatabaseError as exc:
            if type(exc) is not DatabaseError:  # of a statement, not of the database
                raise
            raise JournalUnavailableError(_without_details(exc)) from exc

    def _now(self, connection: sa.Connection) -> datetime:
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return datetime.now(UTC)  # its own clock is this machine's
        begun_at: datetime = connection.info[_BEGUN_AT]
        return begun_at.astimezone(UTC)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()
        self._reading.dispose()

    def migrate(self) -> str:
        """Bring the tables to this release; returns the revision. Raises ConfigError when it cannot."""
        try:
            with self.engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    # One at a time, and a large table may take its time.
                    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                    connection.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                config = _alembic()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except (SQLAlchemyError, CommandError) as exc:
            raise ConfigError(
                "The database cannot be prepared", [f"DATABASE_URL: {_without_details(exc)}"]
            ) from exc
        return _head()

    def require_reachable(self) -> None:
        """Raise ConfigError when there is a database that cannot be opened; one that migrating would make is fine."""
        try:
            if not self._is_missing():
                with self.read():
                    pass
        except (JournalUnavailableError, SQLAlchemyError) as exc:
            raise _unfit(exc) from exc

    def require_current(self) -> None:
        """Raise ConfigError when the tables are not those of this release, or no waiting can help;
        JournalUnavailableError when the database cannot say now."""
        try:
            found = None
            if not self._is_missing():
                with self.read() as tx:
                    found = MigrationContext.configure(tx.connection).get_current_revision()
        except JournalUnavailableError as exc:
            if _is_hopeless(exc.__cause__):
                raise _unfit(exc) from exc
            raise
        except SQLAlchemyError as exc:
            raise _unfit(exc) from exc
        if found != _head():
            what = "has no tables of Usher yet" if found is None else f"is at revision {found}, not {_head()}"
            raise ConfigError("Not fit to start", [f"DATABASE_URL: the database {what}; run `usher migrate`"])

    def _is_missing(self) -> bool:
        """A SQLite file that is not there: connecting would make an empty one."""
        return self.url.get_backend_name() == "sqlite" and not Path(self.url.database or "").exists()


def open_database(url: str, *, timeout_s: float = 5.0) -> Database:
    """The database, its tables known to be those of this release, or not reachable right now.

    Raises ConfigError for tables of another release. A database that is away may come back: a process that
    starts meanwhile waits for it.
    """
    database = Database(url, timeout_s=timeout_s)
    try:
        database.require_current()
    except JournalUnavailableError as exc:
        log.warning("database.away", extra={"error": str(exc)})
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
        return parsed
    if "@" in (parsed.host or ""):  # the rest of a password: not to be shown
        raise ConfigError("Not fit to start", ["DATABASE_URL: write an @ in user or password as %40"])
    if not parsed.database:
        raise ConfigError("Not fit to start", ["DATABASE_URL: names no database"])
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ConfigError("Not fit to start", ["DATABASE_URL: has a port that is no number from 1 to 65535"])
    return parsed


def _sqlite_engine(url: sa.URL, timeout_s: float, *, connections: int, begin: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout_s,
        connect_args={"timeout": timeout_s, "check_same_thread": False},
        hide_parameters=True,
    )
    sa.event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, timeout_s))
    sa.event.listen(engine, "begin", functools.partial(_begin, begin))
    return engine


def _postgresql_limits(url: sa.URL, timeout_s: float, plans: str) -> dict[str, Any]:
    milliseconds = int(timeout_s * 1000)
    return {
        "connect_timeout": max(1, int(timeout_s)),
        "options": f"{url.query.get('options', '')}"
        f" -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        f" -c idle_in_transaction_session_timeout={4 * milliseconds} -c synchronous_commit=on"
        f" -c timezone=UTC {plans}",
    }


def _postgresql_engine(url: sa.URL, timeout_s: float, plans: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=4,
        pool_timeout=timeout_s,
        connect_args=_postgresql_limits(url, timeout_s, plans),
        isolation_level="AUTOCOMMIT",  # the driver would send its BEGIN as a message of its own
        hide_parameters=True,
    )
    # What stands before BEGIN in the same message is within the transaction too; the driver returns its rows.
    sa.event.listen(engine, "begin", functools.partial(_begin, "SELECT clock_timestamp(); BEGIN"))
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", functools.partial(_see_that_it_lives, engine.dialect))
    return engine


def _begin(statement: str, connection: sa.Connection) -> None:
    began = connection.exec_driver_sql(statement)
    if began.returns_rows:
        connection.info[_BEGUN_AT] = began.scalar_one()


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _see_that_it_lives(
    dialect: sa.Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """The pool connects anew, and drops all that are as old, when this one died while nobody used it."""
    if time.monotonic() - record.info.get(_USED_AT, math.inf) < _LIVES_FOR_S:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as exc:
        raise InvalidatePoolError from exc


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _head() -> str:
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    return head or ""


def _prepare_sqlite(connection: sqlite3.Connection, timeout_s: float) -> None:
    connection.isolation_level = None  # transactions are begun elsewhere, not by the driver's guess
    ends_at = time.monotonic() + timeout_s
    with contextlib.closing(connection.cursor()) as cursor:
        while True:
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as exc:
                # One connection alone switches a new file over, and SQLite does not let the others wait for it.
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_at:
                    raise
                time.sleep(0.02)
        for statement in _SQLITE_FIRST:
            cursor.execute(statement)


def _is_hopeless(exc: BaseException | None) -> bool:
    """The file is no database (sqlite3's DatabaseError), or the URL asks for what cannot be (libpq's words)."""
    return type(exc) is DatabaseError or "connection is bad: invalid " in str(exc)


def _unfit(exc: Exception) -> ConfigError:
    text = str(exc) if isinstance(exc, JournalUnavailableError) else _without_details(exc)
    return ConfigError("Not fit to start", [f"DATABASE_URL: {text}"])


def _without_details(exc: Exception) -> str:
    """The driver's own words without statement and parameters; its first line only."""
    origin = exc if isinstance(exc, CommandError) else getattr(exc, "orig", None)
    text = str(origin or type(exc).__name__).strip().splitlines()
    return (text[0] if text else type(exc).__name__)[:300]
