"""What is asked costs the same however long the past is: each question is asked of a short and of a long one.

The work of a question is counted, not timed: blocks that PostgreSQL touches (EXPLAIN of each statement as it is sent),
steps that SQLite takes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

import integrations.store
from benchmarks.filling import NOW, fill
from benchmarks.questions import QUESTIONS, Stores
from integrations.store.database import Database
from integrations.store.tables import metadata

SHORT, LONG = 2_000, 16_000
LARGE = ("events", "messages", "outbox")
"""No statement may read all of these."""
PIECE = 50
"""Of rows that the metrics count at once: less than the short past has of any that they count."""
SLACK = {"sqlite": (1.2, 500), "postgresql": (3, 150)}
"""How many times as dear, and how much dearer, a statement may be: blocks say less than steps, of rows that lie more
scattered, one more level of a tree, and what earlier questions left behind."""
GROWS = {
    "report: letters": "looks through all who ever said stop here",
    "automations: has a name letters": "of a name that many letters have, any row is the answer",
}
"""Questions that may read more, and why."""


@dataclass
class Work:
    """Of one statement."""

    amount: int = 0
    plan: str = ""


Measure = Callable[[Database, Callable[[], object]], Mapping[str, Work]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def pasts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Database]]:
    """A database with a short past, and one with a long one."""
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("pasts")
        urls = [f"sqlite:///{folder / name}.db" for name in ("short", "long")]
        yield from _filled(urls)
        return
    url = sa.make_url(request.getfixturevalue("postgres_url"))
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    names = ("short_past", "long_past")
    with server.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield from _filled([url.set(database=name).render_as_string(hide_password=False) for name in names])
    finally:
        with server.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()


def _filled(urls: list[str]) -> Iterator[tuple[Database, Database]]:
    databases = [Database(url, clock=lambda: NOW) for url in urls]
    for database, past in zip(databases, (SHORT, LONG), strict=True):
        database.migrate()
        if database.engine.dialect.name == "postgresql":
            # A server that tidies up in between plans as it happens to find things.
            with database.begin() as tx:
                for table in metadata.tables:
                    tx.connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        fill(database, past, beside=8)
    yield databases[0], databases[1]
    for database in databases:
        database.close()


def test_what_is_asked_costs_the_same_however_long_the_past_is(pasts: tuple[Database, Database]) -> None:
    dialect, measure = _measure_of(pasts[0])
    times, more = SLACK[dialect]
    short, long = (Stores(database, tally_at_once=PIECE) for database in pasts)
    dearer = []
    for question, ask in QUESTIONS.items():
        before, after = (measure(of.database, functools.partial(ask, of)) for of in (short, long))
        dearer += [
            f"{question}: {before[statement].amount} -> {work.amount}\n{statement}\n{work.plan}"
            for statement, work in after.items()
            if statement in before
            and work.amount > times * before[statement].amount + more
            and question not in GROWS
        ]
    assert not dearer, "\n\n".join(dearer)


def test_no_statement_reads_a_whole_table(pasts: tuple[Database, Database]) -> None:
    _, measure = _measure_of(pasts[1])
    stores = Stores(pasts[1], tally_at_once=PIECE)
    whole = [
        f"{question}\n{statement}\n{work.plan}"
        for question, ask in QUESTIONS.items()
        for statement, work in measure(stores.database, functools.partial(ask, stores)).items()
        if any(
            line in f"{work.plan}\n"
            for table in LARGE
            for line in (f"SCAN {table}\n", f"Seq Scan on {table}")
        )
        and question not in GROWS
    ]
    assert not whole, "\n\n".join(whole)


def _measure_of(database: Database) -> tuple[str, Measure]:
    dialect = database.url.get_backend_name()
    return dialect, _steps if dialect == "sqlite" else _blocks


def _steps(database: Database, ask: Callable[[], object]) -> Mapping[str, Work]:
    """Steps of SQLite's machine, by tens, of each statement."""
    found: dict[str, Work] = defaultdict(Work)
    known: set[sqlite3.Connection] = set()
    now = Work()

    def count() -> int:
        now.amount += 10
        return 0

    def watch(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        nonlocal now
        raw = connection.connection.dbapi_connection
        raw.set_progress_handler(None, 0)
        now = found[statement]
        if statement.split(maxsplit=1)[0] in _VERBS:
            plan = raw.execute(f"EXPLAIN QUERY PLAN {statement}", _sets(parameters, many)[0]).fetchall()
            now.plan = "\n".join(str(row[-1]) for row in plan)
        raw.set_progress_handler(count, 10)
        known.add(raw)

    with _listening(database, watch):
        ask()
    for raw in known:
        raw.set_progress_handler(None, 0)
    return found


def _blocks(database: Database, ask: Callable[[], object]) -> Mapping[str, Work]:
    """Blocks of 8 KiB that PostgreSQL touches for each statement, planning aside."""
    found: dict[str, Work] = defaultdict(Work)

    def watch(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement.split(maxsplit=1)[0] not in _VERBS or "pg_advisory" in statement:
            return
        raw = connection.connection.dbapi_connection
        alone = raw.info.transaction_status == TransactionStatus.IDLE
        with raw.cursor() as beside:
            beside.execute("BEGIN" if alone else "SAVEPOINT before")
            for one in _sets(parameters, many):
                beside.execute(
                    "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) " + statement, one
                )
                plan = [str(row[0]) for row in beside.fetchall()]
                found[statement].amount += _touched(plan)
                found[statement].plan = "\n".join(plan)
            beside.execute("ROLLBACK" if alone else "ROLLBACK TO SAVEPOINT before")

    with _listening(database, watch):
        ask()
    return found


_VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


def _touched(plan: list[str]) -> int:
    """Those of the outermost node, which has those of the others in it."""
    line = next((line for line in plan if "Buffers: shared" in line), "")
    return sum(int(word.partition("=")[2]) for word in line.split() if word.startswith(("hit=", "read=")))


def _sets(parameters: Any, many: bool) -> list[Any]:
    """Sets of parameters; several that SQLAlchemy made one statement of are one."""
    is_one = isinstance(parameters, dict) or not many or isinstance(parameters[0], str)
    return [parameters] if is_one else list(parameters)


class _listening:
    def __init__(self, database: Database, watch: Callable[..., None]) -> None:
        self._engines = {database.engine, database._reading}
        self._watch = watch

    def __enter__(self) -> None:
        for engine in self._engines:
            sa.event.listen(engine, "before_cursor_execute", self._watch)

    def __exit__(self, *_: object) -> None:
        for engine in self._engines:
            sa.event.remove(engine, "before_cursor_execute", self._watch)


def test_every_function_that_asks_something_is_among_the_questions(pasts: tuple[Database, Database]) -> None:
    stores = Stores(pasts[0])
    ran: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            ran.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for ask in QUESTIONS.values():
            ask(stores)
    finally:
        sys.setprofile(before)
    missing = sorted(name for name, code in _asking() if code not in ran and name not in UNASKED)
    assert not missing, "\n".join(missing)


SMALL = ("book", "heartbeats", "senders", "sites", "tokens", "users")
"""Stores whose tables stay small."""
UNASKED = {
    "group_days._forget_old": "once a day, by the key",
    "ledger.Ledger._is_recorded": "by the key, when a record was asked twice",
    "ledger.Ledger.letters": "everything, for tests",
    "outbox.Outbox.calls": "everything, for tests",
    "work.count_by_state": "everything, for tests: the metrics ask the tally",
}
"""Functions that are not among the questions, and why."""


def _asking() -> Iterator[tuple[str, CodeType]]:
    """Functions of the stores that send a statement."""
    for found in pkgutil.iter_modules(integrations.store.__path__):
        if found.ispkg or found.name in ("database", "statements", *SMALL):
            continue
        module = importlib.import_module(f"integrations.store.{found.name}")
        for name, code in _codes(module):
            if {"execute", "scalar", "scalars", "exec_driver_sql"} & set(code.co_names):
                yield f"{found.name}.{name}", code


def _codes(module: Any) -> Iterator[tuple[str, CodeType]]:
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type):
            for inner, method in vars(value).items():
                if isinstance(method := inspect.unwrap(getattr(method, "fget", method)), FunctionType):
                    yield f"{name}.{inner}", method.__code__
        elif isinstance(value := inspect.unwrap(value), FunctionType):
            yield name, value.__code__
