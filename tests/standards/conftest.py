from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integrations.store.database import Database
from tests.email.smtp_servers import MailServer, mail_server
from tests.house import Clock
from tests.standards.letterbox import Letter, Office
from tests.standards.scenes import everybody


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of the suite in one process, which receives the letters once."""
    for item in items:
        if "post" in getattr(item, "fixturenames", ()) and "standards" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("standards"))


@pytest.fixture
def files(empty_sqlite: Path, tmp_path: Path) -> Path:
    shutil.copy(empty_sqlite, tmp_path / "usher.db")
    return tmp_path / "usher.db"


@pytest.fixture
def records(files: Path, clock: Clock) -> Iterator[Database]:
    """A database of the test's own, whose clock is the test's."""
    database = Database(f"sqlite:///{files}", clock=clock)
    yield database
    database.close()


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as found:
        yield found


@dataclass(frozen=True)
class Post:
    """Every shipped letter for every purpose to every awkward reader, received once and only looked at."""

    office: Office
    letters: tuple[Letter, ...]


@pytest.fixture(scope="session")
def post(empty_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    path = tmp_path_factory.mktemp("post") / "usher.db"
    shutil.copy(empty_sqlite, path)
    clock = Clock()
    database = Database(f"sqlite:///{path}", clock=clock)
    with mail_server() as found:
        office = Office(database, found, clock)
        office.play(*everybody(office.services.renderer))
        yield Post(office, tuple(office.letters()))
        office.services.mail.close()
    database.close()
