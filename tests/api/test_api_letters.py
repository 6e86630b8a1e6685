"""Letters over the API: which there are, how one reads, and a test of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette

from admin.api import Limiter, admin_api
from admin.office import Office
from integrations.store.database import Database
from integrations.store.tokens import Role
from tests.api.test_api_tokens import Desk, a_desk
from tests.console.visiting import connect
from tests.house import SITE, Clock, House, a_house
from tests.test_admin_api import TOKEN, Counter, problem

DRAFT = {"site": SITE, "purpose": "onboarding", "group": "Trail Runners"}


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    with database.begin() as tx:
        connect(tx, SITE)
    return found


@pytest.fixture
def sent() -> list[tuple[Any, ...]]:
    return []


@pytest.fixture
def desk(database: Database, house: House, sent: list[tuple[Any, ...]]) -> Desk:
    def trial(to: str, template: str, context: Any, *, language: str, purpose: Any) -> str:
        sent.append((to, template, context["group_name"], language, str(purpose)))
        return "250 taken"

    office = replace(Office.of_services(house.services, database), trial=trial)
    app = Starlette(routes=[admin_api(TOKEN, office, Limiter())])
    return replace(a_desk(database), counter=Counter(app))


def test_letters_are_listed_with_their_languages_and_places(desk: Desk):
    letters = {one["name"]: one for one in desk.get(TOKEN, "/api/v1/letters")["items"]}

    assert letters["welcome"]["languages"] == ["en", "de", "es", "fr", "he"]
    assert letters["welcome"]["values"] == []
    assert letters["yoga-offer"]["subject"] == "Come and try a class with us"


def test_a_preview_is_the_letter_as_the_console_shows_it(desk: Desk):
    answer = desk.ask(
        TOKEN, "POST", "/api/v1/letters/welcome/preview", json={**DRAFT, "language": "de"}
    ).json()

    assert answer["language"] == "de"
    assert "Trail Runners" in answer["subject"]
    assert answer["preheader"]
    assert answer["preheader"] in answer["html"]
    assert "Seaside Club" in answer["text"]


def test_a_test_goes_to_one_address(desk: Desk, sent: list[tuple[Any, ...]]):
    answer = desk.ask(TOKEN, "POST", "/api/v1/letters/welcome/test", json={**DRAFT, "to": "ada@example.com"})

    assert answer.json() == {"answer": "250 taken"}
    assert sent == [("ada@example.com", "welcome", "Trail Runners", "en", "onboarding")]


def test_tests_are_counted_for_each_holder(desk: Desk):
    manager = desk.token(Role.MANAGER, "one", sites=[SITE])
    body = {**DRAFT, "to": "ada@example.com"}
    path = "/api/v1/letters/welcome/test"

    answers = [desk.ask(manager, "POST", path, json=body) for _ in range(11)]

    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].headers["retry-after"]
    assert desk.ask(TOKEN, "POST", path, json=body).status_code == 200


@pytest.mark.parametrize("what", ["preview", "test"])
def test_a_letter_or_site_that_is_not_ones_own_is_not_there(desk: Desk, what: str):
    manager = desk.token(Role.MANAGER, "one", sites=["another-site"])
    to = {"to": "ada@example.com"} if what == "test" else {}
    path = f"/api/v1/letters/welcome/{what}"

    problem(desk.ask(manager, "POST", path, json=DRAFT | to), 404)
    problem(desk.ask(TOKEN, "POST", path, json=DRAFT | to | {"site": "unknown"}), 404)
    problem(desk.ask(TOKEN, "POST", f"/api/v1/letters/_layout/{what}", json=DRAFT | to), 404)


def test_an_address_that_is_none_is_named(desk: Desk, sent: list[tuple[Any, ...]]):
    answer = desk.ask(TOKEN, "POST", "/api/v1/letters/welcome/test", json={**DRAFT, "to": "ada"})

    assert [error["field"] for error in problem(answer, 422)["errors"]] == ["to"]
    assert sent == []
