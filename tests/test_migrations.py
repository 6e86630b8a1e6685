"""The migrations lead to the tables that the code knows, on both databases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from integrations.store.database import Database
from integrations.store.tables import metadata


def test_after_the_migrations_nothing_is_left_to_change(database_url: str):
    database = Database(database_url)
    with database.begin() as tx:
        assert compare_metadata(MigrationContext.configure(tx.connection), metadata) == []
    database.close()


def test_migrating_again_changes_nothing(database_url: str):
    database = Database(database_url)
    assert database.migrate() == database.migrate()
    database.require_current()
    database.close()


def test_every_statement_of_the_sweeper_has_an_index_to_use(database_url: str):
    database = Database(database_url)
    with database.begin() as tx:
        names = {
            index["name"]
            for table in ("events", "messages", "outbox")
            for index in sa.inspect(tx.connection).get_indexes(table)
        }
    database.close()
    assert {"ix_events_due", "ix_messages_due", "ix_outbox_due", "ix_messages_member"} <= names
