"""What admins set off: jobs and their rows, who may ask for them, who did what, and the size of groups by day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from integrations.store.tables import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("sites", sa.JSON(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_tokens_hash")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=200), nullable=True),
        sa.Column("object", sa.String(length=250), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_object", "audit", ["object"], unique=False)
    op.create_index("ix_audit_page", "audit", ["at", "id"], unique=False)
    op.create_table(
        "group_days",
        sa.Column("site", sa.String(length=200), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("group_id", sa.String(length=200), nullable=False),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("read_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("site", "day", "group_id", name=op.f("pk_group_days")),
    )
    op.create_table(
        "job_items",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("site", sa.String(length=200), nullable=False),
        sa.Column("group_id", sa.String(length=200), nullable=True),
        sa.Column("member", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_job_items")),
    )
    op.create_index("ix_job_items_member", "job_items", ["site", "member", "group_id"], unique=False)
    op.create_index("ix_job_items_state", "job_items", ["job", "state", "number"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("request_hash", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=False),
        sa.Column("lease", sa.String(length=32), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("cursor", sa.JSON(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("cost", sa.JSON(), nullable=True),
        sa.Column("confirm_token", sa.String(length=64), nullable=True),
        sa.Column("later_group", sa.String(length=200), nullable=True),
        sa.Column("wix_calls", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("confirmed_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("who", "idempotency_key", name=op.f("uq_jobs_who_idempotency_key")),
    )
    op.create_index("ix_jobs_due", "jobs", ["next_at"], unique=False)
    op.create_index(
        "ix_jobs_later",
        "jobs",
        ["site", "later_group"],
        unique=False,
        sqlite_where=sa.text("later_group IS NOT NULL"),
        postgresql_where=sa.text("later_group IS NOT NULL"),
    )
    op.create_index("ix_jobs_page", "jobs", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_messages_job",
        "messages",
        ["job", "state", "id"],
        unique=False,
        sqlite_where=sa.text("job IS NOT NULL"),
        postgresql_where=sa.text("job IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_job_due",
        "messages",
        ["job", "next_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NOT NULL"),
        postgresql_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NOT NULL"),
    )
    op.drop_index("ix_messages_due", "messages")
    op.create_index(
        "ix_messages_due",
        "messages",
        ["next_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NULL"),
        postgresql_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NULL"),
    )
