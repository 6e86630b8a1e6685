"""The first tables: journal, ledger, outbox, suppressions, sites, heartbeats."""

from __future__ import annotations

from alembic import op

from integrations.store.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    # Nothing has been released yet, so the first revision is the tables as they are; later ones spell out changes.
    metadata.create_all(op.get_bind())
