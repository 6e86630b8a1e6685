"""The migrations lead to the tables that the code knows, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from core.errors import ConfigError
from integrations.store import database as database_module
from integrations.store.database import Database
from integrations.store.ledger import Ledger
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


@pytest.fixture(params=["sqlite", "postgresql"])
def of_the_release_before(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database at revision 0005, with a letter and an event in it."""
    url = f"sqlite:///{tmp_path / 'before.db'}"
    server = None
    if request.param == "postgresql":
        given = sa.make_url(request.getfixturevalue("postgres_url"))
        server = sa.create_engine(given, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE before")
        url = given.set(database="before").render_as_string(hide_password=False)
    database = Database(url)
    with database.engine.begin() as connection:
        config = database_module._alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        connection.exec_driver_sql(
            "INSERT INTO messages (id, site, key, group_id, member, trigger, purpose, email_template, context,"
            " look_again, state, attempts, crashes, next_at, marked, created_at, due_at)"
            " VALUES ('m', 's', 'k', 'g', 'p', 't', 'onboarding', 'welcome', '{}', true, 'in_doubt', 0, 0,"
            " '2026-05-03 12:00:00.000000', true, '2026-05-03 12:00:00.000000', '2026-05-03 12:00:00.000000')"
        )
    yield database
    database.close()
    if server is not None:
        with server.connect() as connection:
            connection.exec_driver_sql("DROP DATABASE before WITH (FORCE)")
        server.dispose()


def test_a_database_of_the_release_before_is_brought_to_this_one_with_its_rows(
    of_the_release_before: Database,
) -> None:
    of_the_release_before.migrate()
    of_the_release_before.require_current()
    with of_the_release_before.begin() as tx:
        assert compare_metadata(MigrationContext.configure(tx.connection), metadata) == []
    assert [row.id for row in Ledger(of_the_release_before).page(site="s", state="in_doubt")] == ["m"]


def test_an_index_that_was_made_beforehand_is_taken_as_it_is(of_the_release_before: Database) -> None:
    with of_the_release_before.begin() as tx:
        tx.execute(sa.text("CREATE INDEX ix_outbox_member ON outbox (site, member)"))
    of_the_release_before.migrate()
    of_the_release_before.require_current()


def test_a_migration_that_fails_leaves_the_release_before(of_the_release_before: Database) -> None:
    """Somebody dropped an index that the last steps want to drop: nothing of the steps before stays."""
    with of_the_release_before.begin() as tx:
        tx.execute(sa.text("DROP INDEX ix_messages_address"))
    with pytest.raises(ConfigError):
        of_the_release_before.migrate()
    with of_the_release_before.begin() as tx:
        assert MigrationContext.configure(tx.connection).get_current_revision() == "0005"
        names = {index["name"] for index in sa.inspect(tx.connection).get_indexes("messages")}
    assert "ix_messages_doubt" in names
    assert "ix_messages_trouble" not in names


def test_sqlite_has_figures_for_every_index(empty_sqlite: Path) -> None:
    """Without them it takes a site's index where one person's is meant. Whoever adds an index, or makes a table anew,
    writes them in their migration."""
    database = Database(f"sqlite:///{empty_sqlite}")
    with database.read() as tx:
        rows = tx.connection.exec_driver_sql(
            "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND tbl_name <> 'alembic_version'"
        )
        indices = {tuple(row) for row in rows}
        rows = tx.connection.exec_driver_sql("SELECT tbl, idx FROM sqlite_stat1")
        figures = {tuple(row) for row in rows}
    database.close()
    assert figures == indices
