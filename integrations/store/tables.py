"""The tables, and the two column types whose behaviour differs between SQLite and PostgreSQL.

Every row is keyed by site first, so that a table can be partitioned by site one day. People are ids here, and
addresses only appear as keyed hashes; an event's payload is kept for the types that somebody listens to.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite has no such type: there it is text that sorts like the time it means."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(
            sa.String(26) if dialect.name == "sqlite" else sa.DateTime(timezone=True)
        )

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times in the database are aware")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None).isoformat(" ", "microseconds") if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (SQLAlchemy's)
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value.astimezone(UTC)  # type: ignore[no-any-return] # the driver's aware datetime


def _work_columns() -> list[sa.Column[Any]]:
    """What makes a row a job: who holds it (`lease`), until when or when next (`next_at`), and how it went.

    A claim moves `next_at` to the end of the lease, so a row whose worker died becomes due by itself.
    """
    return [
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
        sa.Column("crashes", sa.Integer, nullable=False, default=0),
        sa.Column("next_at", UtcDateTime, nullable=False),
        sa.Column("lease", sa.String(32)),
    ]


events = sa.Table(
    "events",
    metadata,
    sa.Column("site", sa.String(200), primary_key=True),
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("type", sa.String(200), nullable=False),
    sa.Column("occurred_at", UtcDateTime, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("erasure", sa.Boolean, nullable=False),
    sa.Column("found", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("member", sa.String(200)),
    *_work_columns(),
    sa.Column("error", sa.Text),
    sa.Column("finished_at", UtcDateTime),
    sa.Index(
        "ix_events_person",
        "site",
        "member",
        sqlite_where=sa.text("member IS NOT NULL"),
        postgresql_where=sa.text("member IS NOT NULL"),
    ),
    sa.Index("ix_events_received", "site", "received_at"),
    sa.Index("ix_events_page", "received_at", "site", "id"),
    sa.Index(
        "ix_events_asked",
        "site",
        "received_at",
        "id",
        sqlite_where=sa.text("type = 'join_requested'"),
        postgresql_where=sa.text("type = 'join_requested'"),
    ),
    sa.Index(
        "ix_events_set_aside",
        "site",
        "received_at",
        "id",
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    ),
    sa.Index(
        "ix_events_due",
        "next_at",
        sqlite_where=sa.text("state = 'received'"),
        postgresql_where=sa.text("state = 'received'"),
    ),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("site", sa.String(200), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("group_id", sa.String(200), nullable=False),
    sa.Column("member", sa.String(200), nullable=False),
    sa.Column("automation", sa.String(200)),
    sa.Column("job", sa.String(32)),
    sa.Column("event", sa.String(200)),
    sa.Column("trigger", sa.String(32), nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),
    sa.Column("email_template", sa.String(200), nullable=False),
    sa.Column("context", sa.JSON, nullable=False),
    sa.Column("look_again", sa.Boolean, nullable=False),
    *_work_columns(),
    sa.Column("marked", sa.Boolean, nullable=False, default=False),
    sa.Column("reason", sa.Text),
    sa.Column("reply", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.Column("address_hash", sa.String(64)),
    sa.Column("domain", sa.String(255)),  # AddressHashes.domain_of the reader, known once it was about to go
    sa.Column("message_id", sa.String(200)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("bounced_at", UtcDateTime),
    sa.Column("complained_at", UtcDateTime),
    sa.Column("replied_at", UtcDateTime),
    sa.UniqueConstraint("site", "key"),
    sa.Index(
        "ix_messages_mail",
        "message_id",
        sqlite_where=sa.text("message_id IS NOT NULL"),
        postgresql_where=sa.text("message_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_messages_reader",
        "site",
        "address_hash",
        sqlite_where=sa.text("address_hash IS NOT NULL"),
        postgresql_where=sa.text("address_hash IS NOT NULL"),
    ),
    sa.Index(
        "ix_messages_sent",
        "sent_at",
        "domain",
        sqlite_where=sa.text("sent_at IS NOT NULL"),
        postgresql_where=sa.text("sent_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_messages_site_sent",
        "site",
        "sent_at",
        sqlite_where=sa.text("sent_at IS NOT NULL"),
        postgresql_where=sa.text("sent_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_messages_automation",
        "automation",
        sqlite_where=sa.text("automation IS NOT NULL"),
        postgresql_where=sa.text("automation IS NOT NULL"),
    ),
    sa.Index("ix_messages_member", "site", "member"),
    sa.Index("ix_messages_page", "created_at", "id"),
    sa.Index("ix_messages_site", "site", "created_at", "id"),
    sa.Index("ix_messages_group", "site", "group_id", "created_at", "id"),
    sa.Index(
        "ix_messages_trouble",
        "site",
        "state",
        "created_at",
        "id",
        sqlite_where=sa.text("state IN ('in_doubt', 'failed', 'bounced')"),
        postgresql_where=sa.text("state IN ('in_doubt', 'failed', 'bounced')"),
    ),
    sa.Index(
        "ix_messages_in_hand",
        "next_at",
        # Whoever asks for what is in hand says the second half as well. Else PostgreSQL, which counts few such rows,
        # would look through all of them for the one whose id is given.
        sqlite_where=sa.text("state = 'sending' AND crashes >= 0"),
        postgresql_where=sa.text("state = 'sending' AND crashes >= 0"),
    ),
    sa.Index(
        "ix_messages_due",
        "next_at",
        sqlite_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NULL"),
        postgresql_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NULL"),
    ),
    sa.Index(
        "ix_messages_job_due",
        "job",
        "next_at",
        sqlite_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NOT NULL"),
        postgresql_where=sa.text("state IN ('planned', 'deferred', 'sending') AND job IS NOT NULL"),
    ),
    sa.Index(
        "ix_messages_job",
        "job",
        "state",
        "id",
        sqlite_where=sa.text("job IS NOT NULL"),
        postgresql_where=sa.text("job IS NOT NULL"),
    ),
    # One person in two groups, or with two member ids, gets one letter of a job: whoever is marked first.
    sa.Index(
        "uq_messages_job_address",
        "site",
        "job",
        "address_hash",
        unique=True,
        sqlite_where=sa.text("job IS NOT NULL AND marked"),
        postgresql_where=sa.text("job IS NOT NULL AND marked"),
    ),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("site", sa.String(200), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("group_id", sa.String(200), nullable=False),
    sa.Column("member", sa.String(200), nullable=False),
    sa.Column("automation", sa.String(200)),
    sa.Column("event", sa.String(200)),
    sa.Column("text", sa.Text, nullable=False),
    *_work_columns(),
    sa.Column("reason", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("who", sa.String(200)),  # who decided it, when a person did
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("site", "key"),
    sa.Index("ix_outbox_page", "site", "created_at", "id"),
    sa.Index("ix_outbox_member", "site", "member"),
    sa.Index(
        "ix_outbox_flagged",
        "site",
        "created_at",
        "id",
        sqlite_where=sa.text("state = 'flagged'"),
        postgresql_where=sa.text("state = 'flagged'"),
    ),
    sa.Index(
        "ix_outbox_due",
        "next_at",
        sqlite_where=sa.text("state = 'planned'"),
        postgresql_where=sa.text("state = 'planned'"),
    ),
)

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column("site", sa.String(200), primary_key=True),
    sa.Column("subject", sa.String(220), primary_key=True),
    sa.Column("scope", sa.String(220), primary_key=True),
    sa.Column("cause", sa.String(16), nullable=False, server_default=""),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("letter", sa.String(32)),  # what came back, or was answered
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime),
)

senders = sa.Table(
    "senders",
    metadata,
    sa.Column("sender", sa.String(320), primary_key=True),
    sa.Column("domain", sa.String(255), primary_key=True),  # of readers; "" is all of them
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("pauses", sa.Integer, nullable=False, default=0),
    sa.Column("paused_until", UtcDateTime),
    sa.Column("reason", sa.Text),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("first_sent_at", UtcDateTime),
)

sites = sa.Table(
    "sites",
    metadata,
    sa.Column("site", sa.String(200), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("rests_until", UtcDateTime),
)

watches = sa.Table(
    "watches",
    metadata,
    sa.Column("site", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("group_id", sa.String(200), primary_key=True),
    *_work_columns(),
    sa.Column("since", UtcDateTime),
    sa.Column("pending", sa.JSON, nullable=False),
    sa.Column("members", sa.Integer),
    sa.Column("privacy", sa.Text, nullable=False, default=""),
    sa.Column("looked_at", UtcDateTime),
    sa.Column("rests_until", UtcDateTime),
    sa.Column("quiet_at", UtcDateTime),
    sa.Column("error", sa.Text),
    sa.Index("ix_watches_due", "next_at"),
)

heartbeats = sa.Table(
    "heartbeats",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("site", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("request_hash", sa.String(64)),
    *_work_columns(),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("cursor", sa.JSON, nullable=False),  # where in its phase it is
    sa.Column("plan", sa.JSON, nullable=False),  # what its preview found out
    sa.Column("cost", sa.JSON),
    sa.Column("confirm_token", sa.String(64)),
    sa.Column("later_group", sa.String(200)),  # whoever joins it later is written to as well
    sa.Column("wix_calls", sa.Integer, nullable=False, default=0),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("confirmed_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("who", "idempotency_key"),
    sa.Index("ix_jobs_page", "created_at", "id"),
    sa.Index("ix_jobs_state", "state", "site", "created_at", "id"),
    sa.Index(
        "ix_jobs_later",
        "site",
        "later_group",
        sqlite_where=sa.text("later_group IS NOT NULL"),
        postgresql_where=sa.text("later_group IS NOT NULL"),
    ),
    sa.Index("ix_jobs_due", "next_at"),
)

job_items = sa.Table(
    "job_items",
    metadata,
    sa.Column("job", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("site", sa.String(200), nullable=False),
    sa.Column("group_id", sa.String(200)),
    sa.Column("member", sa.String(200)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("next_at", UtcDateTime),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Index("ix_job_items_state", "job", "state", "number"),
    sa.Index("ix_job_items_member", "site", "member", "group_id"),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),  # SHA-256 of what the holder shows
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("sites", sa.JSON, nullable=False),  # ["*"]: all
    sa.Column("groups", sa.JSON, nullable=False),  # of a group's admin
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column("last_used_at", UtcDateTime),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("site", sa.String(200)),
    sa.Column("object", sa.String(250), nullable=False),
    sa.Column("before", sa.JSON),
    sa.Column("after", sa.JSON),
    sa.Index("ix_audit_page", "at", "id"),
    sa.Index("ix_audit_object", "object"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("login", sa.String(320), nullable=False, unique=True),  # an address, in lower case
    sa.Column("name", sa.String(64), nullable=False, unique=True),  # stands in the audit log
    sa.Column("password", sa.Text),  # argon2id; None until they chose one
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("sites", sa.JSON, nullable=False),  # ["*"]: all
    sa.Column("groups", sa.JSON, nullable=False),  # of a group's admin
    sa.Column("language", sa.String(16), nullable=False, default=""),
    sa.Column("invitation", sa.String(64), unique=True),  # SHA-256 of what lets them choose a password
    sa.Column("invited_until", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("disabled_at", UtcDateTime),
    sa.Column("last_seen_at", UtcDateTime),
)

console_sessions = sa.Table(
    "console_sessions",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),  # SHA-256 of the cookie
    sa.Column("kind", sa.String(16), nullable=False),  # of who is in: "admin", "user", "wix"
    sa.Column("subject", sa.String(200), nullable=False),  # id of a user, or what Wix calls who looks
    sa.Column("site", sa.String(200)),  # of a session that Wix's dashboard began
    sa.Column("language", sa.String(16), nullable=False, default=""),
    sa.Column("proof", sa.String(64)),  # of what began it, so that it begins no second one by itself
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Index("ix_console_sessions_subject", "kind", "subject"),
    sa.Index("ix_console_sessions_expires", "expires_at"),
)

automation_versions = sa.Table(
    "automation_versions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),  # "file", "edit" or "rollback"
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("note", sa.String(500), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

group_days = sa.Table(
    "group_days",
    metadata,
    sa.Column("site", sa.String(200), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("group_id", sa.String(200), primary_key=True),
    sa.Column("members", sa.Integer),
    sa.Column("read_at", UtcDateTime, nullable=False),
)
