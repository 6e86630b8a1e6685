"""`usher people` at the command line: found, taken out, kept from letters, and forgotten. On both databases."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import admin.people
from admin.cli import main
from admin.office import Office
from core.errors import RetryableError
from integrations.store.audit import Audit
from integrations.store.database import Database
from integrations.store.people import People
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house, an_event

Usher = Callable[..., tuple[int, str, str]]


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    found.hear(an_event(clock))
    found.work()
    return found


@pytest.fixture
def usher(
    database_url: str,
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Usher:
    """Run a command in this process: its exit code, and what it said on both outputs. `stdin`: what is piped in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    @contextlib.contextmanager
    def an_office() -> Iterator[Office]:
        yield Office.of_services(house.services, house.database)

    monkeypatch.setattr(admin.people, "open_office", an_office)

    def usher(*arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["usher", "people", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return usher


def stops(house: House) -> set[tuple[str, str]]:
    return {(row.scope, row.cause) for row in People(house.database).records(SITE, ANN).suppressions}


def test_somebody_is_found_by_what_is_piped_in(usher: Usher, house: House):
    code, out, _ = usher("find", "--site", SITE, "--json", stdin="ann@example.com\n")

    assert (code, json.loads(out)) == (
        0,
        [{"member": ANN, "name": "Ann", "address": "a…@example.com", "groups": [RUNNERS]}],
    )
    assert ANN in usher("find", "--site", SITE, ANN)[1]
    assert usher("find", "--site", SITE, "Nobody Here")[1] == "Nobody is found.\n"
    house.wix.fails["get_members"] = [RetryableError("away")]
    code, out, err = usher("find", "--site", SITE, ANN)
    assert ANN in out
    assert "Wix does not answer now" in err


def test_what_cannot_be_looked_for_is_named(usher: Usher):
    code, _, err = usher("find", "--site", SITE, "030 1234567")

    assert code == 2
    assert "country code" in err


def test_an_export_is_json_or_a_page(usher: Usher, house: House, tmp_path: Path):
    code, out, _ = usher("export", ANN, "--site", SITE)
    assert (code, json.loads(out)["letters"][0]["automation"]) == (0, "welcome")

    assert usher("export", ANN, "--site", SITE, "--out", tmp_path / "ann.html")[0] == 0
    assert "What Usher keeps of one member" in (tmp_path / "ann.html").read_text(encoding="utf-8")
    assert {(row.who, row.action, row.object) for row in Audit(house.database).page()} == {
        ("command line", "people.export", f"member {ANN}")
    }
    assert usher("export", "m-nobody", "--site", SITE)[0] != 0


def test_letters_are_ended_and_that_is_lifted(usher: Usher, house: House):
    about = (ANN, "--site", SITE, "--scope", "promotional")

    assert usher("suppress", *about, "--reason", "asked")[0] == 2, "nobody can be asked without --yes"
    assert stops(house) == set()
    assert usher("suppress", *about, "--reason", "asked", "--yes")[:2] == (0, "Ended.\n")
    assert stops(house) == {("promotional", "admin")}
    assert "an admin ended these letters" in usher("show", ANN)[1]
    assert usher("release", *about, "--cause", "admin", "--yes")[:2] == (0, "Lifted.\n")
    assert stops(house) == set()


def test_what_the_person_said_stays(usher: Usher, house: House):
    house.services.suppressions.unsubscribe(SITE, ANN, "a hash", "one click")

    code, _, err = usher(
        "release", ANN, "--site", SITE, "--scope", "promotional", "--cause", "unsubscribed", "--yes"
    )

    assert code == 1
    assert "only they can take that back" in err
    assert stops(house) == {("promotional", "unsubscribed")}


def test_a_stop_that_nobody_can_mean_names_each_mistake(usher: Usher, house: House):
    code, _, err = usher("suppress", ANN, "--site", SITE, "--scope", "some", "--reason", "a mood", "--yes")

    assert code == 2
    assert "--scope" in err
    assert "--reason" in err
    assert stops(house) == set()


def test_somebody_is_forgotten(usher: Usher, house: House):
    assert usher("erase", ANN, "--site", SITE)[0] == 2, "nobody can be asked without --yes"
    code, out, _ = usher("erase", ANN, "--site", SITE, "--yes")

    assert (code, out) == (0, "Forgotten. Nobody writes to them again.\n")
    assert stops(house) == {("all", "forgotten")}
    assert usher("erase", "m-nobody", "--site", SITE, "--yes")[0] != 0
