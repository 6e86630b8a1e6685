"""What is asked again and again finds its rows by an index: a job of a million is no burden to others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from integrations.store.database import Database
from integrations.store.flows import Flows
from integrations.store.glance import Glance
from integrations.store.jobs import Jobs
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.mailings import Mailings
from integrations.store.outbox import Outbox, decisions_of
from integrations.store.reach import EVERYTHING
from integrations.store.requests import Requests

SITE = SiteId("x")
NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)


def _decisions(database: Database) -> None:
    with database.begin() as tx:
        decisions_of(tx, SITE, GroupId("g"), MemberId("1"))


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
    "who waits for letters of automations": (
        lambda database: Flows(database).waiting(SITE, ["welcome"]), "messages", "ix_messages_due",
    ),
    "what became of letters of automations": (
        lambda database: Flows(database).counts(SITE), "messages", "ix_messages_",
    ),
    "claim events": (lambda database: Journal(database, listened=()).claim(10), "events", "ix_events_due"),
    "is an event due": (lambda database: Journal(database, listened=()).any_due(), "events", "ix_events_due"),
    "claim calls": (lambda database: Outbox(database).claim(10), "outbox", "ix_outbox_due"),
    "is a call due": (lambda database: Outbox(database).any_due(), "outbox", "ix_outbox_due"),
    "requests that were heard of": (
        lambda database: Requests(database).past(SITE, limit=50, after=(NOON, "x")), "events", "ix_events_asked",
    ),
    "requests of some people": (
        lambda database: Requests(database).heard(SITE, [MemberId("1")]), "events", "ix_events_member",
    ),
    "decisions by their keys": (
        lambda database: Requests(database).decisions(SITE, ["1"]), "outbox", "_outbox_",
    ),
    "what decided a person's requests": (_decisions, "outbox", "_outbox_"),
    "what persons decided lately": (
        lambda database: Requests(database).under_way(SITE, EVERYTHING, since=timedelta(hours=1), limit=500),
        "outbox",
        "ix_outbox_",
    ),
    "letters of some people": (
        lambda database: Requests(database).letters(SITE, [MemberId("1")]), "messages", "ix_messages_member",
    ),
    "which job is due": (lambda database: Jobs(database).claim(), "jobs", "ix_jobs_due"),
    "who came today": (
        lambda database: Glance(database).came(SITE, EVERYTHING, {"joined": ["x"]}, NOON),
        "events",
        "ix_events_received",
    ),
    "events set aside": (lambda database: Glance(database).dead(SITE), "events", "ix_events_dead"),
    "letters sent today": (
        lambda database: Glance(database).sent(SITE, EVERYTHING, NOON),
        "messages",
        "ix_messages_sent",
    ),
    "letters that wait": (
        lambda database: Glance(database).waiting_letters(SITE, EVERYTHING), "messages", "ix_messages_due",
    ),
    "letters in doubt": (
        lambda database: Glance(database).in_doubt(SITE, EVERYTHING),
        "messages",
        "ix_messages_doubt",
    ),
    "letters refused of late": (
        lambda database: Glance(database).refused(SITE, EVERYTHING),
        "messages",
        "ix_messages_",
    ),
    "requests left to a person": (
        lambda database: Glance(database).requests(SITE, EVERYTHING),
        "outbox",
        "_outbox_",
    ),
    "calls that wait for long": (
        lambda database: Glance(database).due_since(SITE, EVERYTHING),
        "outbox",
        "ix_outbox_due",
    ),
    "events that wait for long": (
        lambda database: Glance(database).due_since(SITE, EVERYTHING), "events", "ix_events_due",
    ),
}  # fmt: skip


def test_what_is_asked_again_and_again_is_found_by_an_index(database: Database):
    if database.url.get_backend_name() == "postgresql":
        _fill(database)  # of empty tables PostgreSQL takes any index
    for question, (ask, table, index) in ASKED.items():
        plans = _plans_of(database, functools.partial(ask, database), table)
        assert plans, question
        for statement, plan in plans:
            assert index in plan, f"{question}\n{statement}\n{plan}"


def _fill(database: Database) -> None:
    """Thousands of rows that are over, some hundreds that wait, a few that are due."""
    filled = {
        "events": "id, site, type, occurred_at, received_at, payload, erasure, state, next_at, attempts, crashes",
        "outbox": "id, site, key, kind, group_id, member, text, state, next_at, attempts, crashes, created_at",
        "messages": "id, site, key, group_id, member, trigger, purpose, email_template, context, look_again, marked,"
        " state, next_at, attempts, crashes, created_at, due_at, job, address_hash",
        "jobs": "id, site, kind, params, who, phase, cursor, plan, wix_calls, state, next_at, attempts, crashes,"
        " created_at, updated_at",
    }  # fmt: skip
    values = {
        "erasure": "false", "look_again": "false", "marked": "n % 20 <> 0", "address_hash": "md5(n::text)",
        "wix_calls": "0", "attempts": "0",
        "crashes": "0", "id": "md5(n::text)", "key": "n::text", "member": "(n % 900)::text",
        "job": "CASE WHEN n % 2 = 0 THEN md5((n % 40)::text) END",
        "params": "'{}'", "cursor": "'{}'", "plan": "'{}'", "context": "'{}'",
        "next_at": "timestamptz '2026-05-03' + n * interval '1 minute'",
    }  # fmt: skip
    over = {"events": "done", "outbox": "done", "messages": "sent", "jobs": "done"}
    waits = {"events": "received", "outbox": "planned", "messages": "planned", "jobs": "running"}
    with database.begin() as tx:
        for table, names in filled.items():
            columns = [name.strip() for name in names.split(",")]
            states = f"CASE WHEN n % 20 = 0 THEN '{waits[table]}' ELSE '{over[table]}' END"
            given = {"state": states} | values
            picked = ", ".join(
                given.get(name, "timestamptz '2026-05-03'" if name.endswith("_at") else "'x'")
                for name in columns
            )
            tx.execute(
                sa.text(f"INSERT INTO {table} ({names}) SELECT {picked} FROM generate_series(1, 4000) AS n")
            )
    with database.engine.connect() as connection:
        for table in filled:
            connection.exec_driver_sql(f"ANALYZE {table}")
        connection.commit()


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
        for statement, parameters in seen:
            explain = ("EXPLAIN QUERY PLAN " if on_sqlite else "EXPLAIN ") + statement
            rows = connection.exec_driver_sql(explain, parameters)
            found.append((statement, "\n".join(str(row[-1]) for row in rows)))
    return found
