"""What comes back of letters, how long somebody is not written to, and how senders fare."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from integrations.store.tables import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("messages", sa.Column("domain", sa.String(length=255), nullable=True))
    op.add_column("messages", sa.Column("bounced_at", UtcDateTime(), nullable=True))
    op.add_column("messages", sa.Column("complained_at", UtcDateTime(), nullable=True))
    op.add_column("messages", sa.Column("replied_at", UtcDateTime(), nullable=True))
    op.create_index("ix_messages_message_id", "messages", ["message_id"], unique=False)
    op.create_index("ix_messages_address", "messages", ["site", "address_hash"], unique=False)
    op.create_index(
        "ix_messages_sent",
        "messages",
        ["sent_at", "domain"],
        unique=False,
        sqlite_where=sa.text("sent_at IS NOT NULL"),
        postgresql_where=sa.text("sent_at IS NOT NULL"),
    )
    with op.batch_alter_table("suppressions") as table:
        table.alter_column(
            "scope", existing_type=sa.String(length=16), type_=sa.String(length=220), existing_nullable=False
        )
        table.add_column(sa.Column("cause", sa.String(length=16), server_default="", nullable=False))
        table.add_column(sa.Column("letter", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("expires_at", UtcDateTime(), nullable=True))
    op.execute(
        "UPDATE suppressions SET cause = CASE"
        " WHEN scope = 'promotional' THEN 'unsubscribed'"
        " WHEN reason LIKE 'the address is dead%' THEN 'dead' ELSE 'forgotten' END"
    )
    op.create_table(
        "senders",
        sa.Column("sender", sa.String(length=320), nullable=False),
        sa.Column("domain", sa.String(length=255), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("pauses", sa.Integer(), nullable=False),
        sa.Column("paused_until", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("first_sent_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("sender", "domain", name=op.f("pk_senders")),
    )
