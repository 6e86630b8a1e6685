"""What is asked again and again finds its rows by an index: a job of a million is no burden to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from integrations.store.database import Database
from integrations.store.jobs import Jobs
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.mailings import Mailings
from integrations.store.outbox import Outbox
from tests.house import Clock

ASKED: dict[str, tuple[Callable[[Database], object], str, str]] = {
    "is a live letter due": (lambda database: Ledger(database).any_due(), "messages", "ix_messages_due"),
    "claim live letters": (lambda database: Ledger(database).claim(100), "messages", "ix_messages_due"),
    "claim letters of a job": (
        lambda database: Ledger(database).claim(100, job="a" * 32), "messages", "ix_messages_job_due",
    ),
    "which jobs have letters due": (
        lambda database: Jobs(database).with_due_letters(0.5), "messages", "ix_messages_job_due",
    ),
    "does a job wait for letters": (
        lambda database: Jobs(database).unfinished("a" * 32), "messages", "ix_messages_job_due",
    ),
    "the held letters of a job": (
        lambda database: Mailings(database).held("a" * 32, after="", limit=100), "messages", "ix_messages_job",
    ),
    "claim events": (lambda database: Journal(database, listened=()).claim(10), "events", "ix_events_due"),
    "is an event due": (lambda database: Journal(database, listened=()).any_due(), "events", "ix_events_due"),
    "claim calls": (lambda database: Outbox(database).claim(10), "outbox", "ix_outbox_due"),
    "is a call due": (lambda database: Outbox(database).any_due(), "outbox", "ix_outbox_due"),
    "which job is due": (lambda database: Jobs(database).claim(), "jobs", "ix_jobs_due"),
}  # fmt: skip


@pytest.mark.parametrize("question", ASKED)
def test_it_is_found_by_an_index(question: str, database: Database, clock: Clock):
    ask, table, index = ASKED[question]
    plans = _plans_of(database, lambda: ask(database), table)
    assert plans
    for statement, plan in plans:
        assert index in plan, f"{statement}\n{plan}"


def _plans_of(database: Database, ask: Callable[[], object], table: str) -> list[tuple[str, str]]:
    """Statement and plan of whatever of it reads this table."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if f"{table}." in statement and "strftime" not in statement:
            seen.append((statement, parameters))

    engines = {database.engine, database._reading}
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", note)
    found = []
    with database.engine.begin() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        if not on_sqlite:  # or it would read such small tables whole
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_sort = off")
        for statement, parameters in seen:
            explain = ("EXPLAIN QUERY PLAN " if on_sqlite else "EXPLAIN ") + statement
            rows = connection.exec_driver_sql(explain, parameters)
            found.append((statement, "\n".join(str(row[-1]) for row in rows)))
    return found
