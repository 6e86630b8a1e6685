"""Indices for a long past, and figures by which SQLite chooses among them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    _create("ix_events_person", "events", ["site", "member"], "member IS NOT NULL")
    _create("ix_events_set_aside", "events", ["site", "received_at", "id"], "state = 'dead'")
    _create("ix_messages_mail", "messages", ["message_id"], "message_id IS NOT NULL")
    _create("ix_messages_reader", "messages", ["site", "address_hash"], "address_hash IS NOT NULL")
    _create("ix_messages_site_sent", "messages", ["site", "sent_at"], "sent_at IS NOT NULL")
    _create("ix_messages_automation", "messages", ["automation"], "automation IS NOT NULL")
    _create(
        "ix_messages_trouble",
        "messages",
        ["site", "state", "created_at", "id"],
        "state IN ('in_doubt', 'failed', 'bounced')",
    )
    _create("ix_messages_in_hand", "messages", ["next_at"], "state = 'sending' AND crashes >= 0")
    _create("ix_outbox_member", "outbox", ["site", "member"])
    _create("ix_outbox_flagged", "outbox", ["site", "created_at", "id"], "state = 'flagged'")
    _create("ix_jobs_state", "jobs", ["state", "site", "created_at", "id"])
    op.drop_index("ix_events_member", "events")
    op.drop_index("ix_events_dead", "events")
    op.drop_index("ix_messages_message_id", "messages")
    op.drop_index("ix_messages_address", "messages")
    op.drop_index("ix_messages_doubt", "messages")
    if op.get_bind().dialect.name == "sqlite":
        _tell_sqlite()


def _create(name: str, table: str, columns: list[str], where: str = "") -> None:
    """Unless somebody made it beforehand, without locking the table (docs/scaling.md)."""
    condition = sa.text(where) if where else None
    op.create_index(
        name,
        table,
        columns,
        unique=False,
        if_not_exists=True,
        sqlite_where=condition,
        postgresql_where=condition,
    )


def _tell_sqlite() -> None:
    """SQLite counts no rows by itself, and takes two indices that fit for equally good: it would read all that a site
    ever had where one person's rows are asked for. What it would have counted in a database of ten million letters is
    written down instead, so its plans are the same in every database."""
    op.execute("ANALYZE heartbeats")  # makes the table of figures
    table = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
    op.execute(sa.delete(table).where(table.c.tbl.in_([*_FIGURES, "heartbeats"])))  # nobody else's
    rows = [
        {"tbl": name, "idx": index, "stat": stat}
        for name, figures in _FIGURES.items()
        for index, stat in figures.items()
    ]
    op.bulk_insert(table, rows)
    op.execute("ANALYZE sqlite_schema")  # reads them


_FIGURES = {
    "events": {
        "sqlite_autoindex_events_1": "2000000 500000 1",
        "ix_events_person": "1600000 400000 5",
        "ix_events_received": "2000000 500000 2",
        "ix_events_page": "2000000 2 2 1",
        "ix_events_asked": "400000 100000 2 1",
        "ix_events_set_aside": "200 50 2 1",
        "ix_events_due": "1000 2",
    },
    "messages": {
        "sqlite_autoindex_messages_1": "10000000 1",
        "sqlite_autoindex_messages_2": "10000000 2500000 1",
        "ix_messages_mail": "8500000 1",
        "ix_messages_reader": "8500000 2500000 20",
        "ix_messages_sent": "8500000 3 1",
        "ix_messages_site_sent": "8500000 2500000 3",
        "ix_messages_automation": "6000000 500000",
        "ix_messages_member": "10000000 2500000 20",
        "ix_messages_page": "10000000 3 1",
        "ix_messages_site": "10000000 2500000 3 1",
        "ix_messages_group": "10000000 2500000 50000 3 1",
        "ix_messages_trouble": "500000 125000 40000 2 1",
        "ix_messages_in_hand": "100 5",
        "ix_messages_due": "10000 3",
        "ix_messages_job_due": "100000 20000 100",
        "ix_messages_job": "4000000 1000 400 1",
        "uq_messages_job_address": "3500000 900000 1000 1",
    },
    "outbox": {
        "sqlite_autoindex_outbox_1": "500000 1",
        "sqlite_autoindex_outbox_2": "500000 125000 1",
        "ix_outbox_page": "500000 125000 2 1",
        "ix_outbox_member": "500000 125000 3",
        "ix_outbox_flagged": "5000 1250 2 1",
        "ix_outbox_due": "1000 2",
    },
    "suppressions": {"sqlite_autoindex_suppressions_1": "100000 25000 2 1"},
    "senders": {"sqlite_autoindex_senders_1": "100 100 1"},
    "sites": {"sqlite_autoindex_sites_1": "4 1"},
    "watches": {
        "sqlite_autoindex_watches_1": "400 100 50 1",
        "ix_watches_due": "400 1",
    },
    "heartbeats": {"sqlite_autoindex_heartbeats_1": "10 1"},
    "jobs": {
        "sqlite_autoindex_jobs_1": "5000 1",
        "sqlite_autoindex_jobs_2": "5000 500 1",
        "ix_jobs_page": "5000 1 1",
        "ix_jobs_state": "5000 1000 250 1 1",
        "ix_jobs_later": "50 12 2",
        "ix_jobs_due": "5000 10",
    },
    "job_items": {
        "sqlite_autoindex_job_items_1": "200000 200 1",
        "ix_job_items_state": "200000 200 50 1",
        "ix_job_items_member": "200000 50000 4 2",
    },
    "api_tokens": {
        "sqlite_autoindex_api_tokens_1": "100 1",
        "sqlite_autoindex_api_tokens_2": "100 1",
    },
    "audit": {
        "sqlite_autoindex_audit_1": "100000 1",
        "ix_audit_page": "100000 1 1",
        "ix_audit_object": "100000 2",
    },
    "users": {
        "sqlite_autoindex_users_1": "100 1",
        "sqlite_autoindex_users_2": "100 1",
        "sqlite_autoindex_users_3": "100 1",
        "sqlite_autoindex_users_4": "100 1",
    },
    "console_sessions": {
        "sqlite_autoindex_console_sessions_1": "1000 1",
        "ix_console_sessions_subject": "1000 500 10",
        "ix_console_sessions_expires": "1000 1",
    },
    "automation_versions": {},
    "group_days": {"sqlite_autoindex_group_days_1": "200000 50000 50 1"},
}
"""Table -> index -> its rows, and how many of them share its first column, its first two, and so on."""
