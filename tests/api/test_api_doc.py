"""docs/api.md against the API: its examples are sent as they stand, and its tables are the code's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from string import Template

import httpx
import pytest

from admin.api import OPERATIONS, Limiter
from admin.processes import ROOT
from core.community import SiteId
from integrations.store.database import Database
from integrations.store.sites import note_site
from integrations.store.tokens import Role
from tests.api.test_api_tokens import Desk, a_desk
from tests.house import Clock, a_house
from tests.test_admin_api import TOKEN

DOCUMENT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def examples() -> Iterator[tuple[str, int]]:
    for line in DOCUMENT.splitlines():
        if found := re.fullmatch(r"(curl .*\S)\s+# (\d{3})", line):
            yield found[1], int(found[2])


def send(desk: Desk, command: str, values: dict[str, str]) -> httpx.Response:
    """What curl would send."""
    words = iter(shlex.split(Template(command).substitute(values))[1:])
    method, headers, more, url = "", {}, {}, ""
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "--json":
                more["content"] = next(words).encode()
                headers["Content-Type"] = "application/json"
            case _:
                assert not word.startswith("-"), word
                url = word
    method = method or ("POST" if more else "GET")
    return desk.counter.ask(method, url.removeprefix("http://usher.example"), headers=headers, **more)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_example_is_answered_as_the_document_says(database: Database, clock: Clock):
    house, desk = a_house(database, clock), a_desk(database)
    _ = desk.token("reader", "another")
    with database.begin() as tx:
        note_site(tx, SiteId("7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11"), tx.now, "active")
    values = {"TOKEN": TOKEN, "USHER": "http://usher.example", "ID": "", "JOB": "", "CONFIRM": ""}
    asked = 0

    for command, status in examples():
        answer = send(desk, command, values)
        assert answer.status_code == status, (command, answer.text)
        asked += 1
        if answer.status_code == 201:
            values["ID"] = answer.json()["id"]
        if answer.status_code == 202:
            values["JOB"] = answer.json()["id"]
            house.turn()
            values["CONFIRM"] = house.job(values["JOB"]).confirm_token

    assert asked == DOCUMENT.count("\ncurl ") > 10


def test_the_roles_and_limits_of_the_document_are_the_code_s():
    assert re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", DOCUMENT, re.MULTILINE) == [str(role) for role in Role]
    limiter = Limiter()
    assert f"may ask {limiter.requests.amount} times a minute" in DOCUMENT
    assert f"shows {limiter.failures.amount} wrong tokens a minute" in DOCUMENT
    lists = re.findall(r"^\| `([a-z/{}]+)` \| ((?:`\w+`(?:, )?)*)", DOCUMENT, re.MULTILINE)
    filters = {
        operation.path.removeprefix("/v1/"): set(operation.query.model_fields) - {"limit", "cursor"}
        for operation in OPERATIONS
        if "cursor" in operation.query.model_fields
    }
    assert {name: set(re.findall(r"\w+", fields)) for name, fields in lists if name in filters} == filters
