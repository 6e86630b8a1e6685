"""Watches over Wix's own lists, events found there, and one letter of a job for each address."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from integrations.store.tables import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("events", sa.Column("found", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_events_received", "events", ["site", "received_at"], unique=False)
    op.create_index("ix_events_page", "events", ["received_at", "site", "id"], unique=False)
    op.create_index("ix_messages_page", "messages", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_events_dead",
        "events",
        ["received_at", "site", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "ix_messages_doubt",
        "messages",
        ["created_at", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'in_doubt'"),
        postgresql_where=sa.text("state = 'in_doubt'"),
    )
    op.create_index(
        "uq_messages_job_address",
        "messages",
        ["site", "job", "address_hash"],
        unique=True,
        sqlite_where=sa.text("job IS NOT NULL AND marked"),
        postgresql_where=sa.text("job IS NOT NULL AND marked"),
    )
    op.create_table(
        "watches",
        sa.Column("site", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("group_id", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=True),
        sa.Column("since", UtcDateTime(), nullable=True),
        sa.Column("pending", sa.JSON(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("privacy", sa.Text(), nullable=False),
        sa.Column("looked_at", UtcDateTime(), nullable=True),
        sa.Column("rests_until", UtcDateTime(), nullable=True),
        sa.Column("quiet_at", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("site", "kind", "group_id", name=op.f("pk_watches")),
    )
    op.create_index("ix_watches_due", "watches", ["next_at"], unique=False)
