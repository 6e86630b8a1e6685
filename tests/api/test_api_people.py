"""People over the API, on real databases: found, shown, explained, kept from letters, taken out, and forgotten."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from admin.api import OPERATIONS
from core.community import GroupId
from core.errors import RetryableError
from integrations.store.database import Database
from tests.api.test_api_tokens import Desk, a_desk
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house, an_event
from tests.test_admin_api import TOKEN, problem

TRADERS = GroupId("g-traders")
SHAPES = {operation.act.__name__: operation.answers for operation in OPERATIONS}


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    found.hear(an_event(clock))
    found.work()
    return found


@pytest.fixture
def desk(database: Database, house: House) -> Desk:
    return a_desk(database)


def act(desk: Desk, what: str, token: str = TOKEN, member: str = ANN, **body: Any) -> httpx.Response:
    return desk.ask(token, "POST", f"/api/v1/people/{member}/{what}", json={"site": SITE, **body})


def get(desk: Desk, path: str = "", token: str = TOKEN, member: str = ANN, **query: str) -> httpx.Response:
    return desk.ask(token, "GET", f"/api/v1/people/{member}{path}", params={"site": SITE, **query})


def shaped(answer: httpx.Response, name: str) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    adapter = SHAPES[name]
    assert isinstance(adapter, TypeAdapter)
    adapter.validate_json(answer.content)
    found: dict[str, Any] = answer.json()
    return found


def test_a_person_is_found_and_the_words_stand_in_no_log(desk: Desk, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        answer = desk.ask(
            TOKEN, "POST", "/api/v1/people/find", json={"site": SITE, "term": "ann@example.com"}
        )

    [hit] = shaped(answer, "find_people")["items"]
    assert hit == {"member": ANN, "name": "Ann", "address": "a…@example.com", "groups": [RUNNERS]}
    assert "ann@example.com" not in caplog.text + str([record.__dict__ for record in caplog.records])


def test_what_cannot_be_looked_for_names_the_field(desk: Desk):
    found = problem(
        desk.ask(TOKEN, "POST", "/api/v1/people/find", json={"site": SITE, "term": "0301234567"}), 422
    )

    assert [error["field"] for error in found["errors"]] == ["term"]


def test_a_person_is_shown_whole(desk: Desk):
    found = shaped(get(desk), "show_person")

    assert (found["name"], found["address"], found["consent"]) == (
        "Ann",
        "a…@example.com",
        {"status": "SUBSCRIBED", "deliverability": "VALID"},
    )
    assert [letter["state"] for letter in found["letters"]] == ["sent"]
    assert [group["standing"] for group in found["groups"]] == ["joined"]
    assert {ruling["verdict"] for ruling in found["rulings"]} == {"send"}
    problem(get(desk, member="m-nobody"), 404)


def test_the_question_why_is_answered_in_sentences(desk: Desk):
    found = shaped(get(desk, "/why", about="automation:welcome"), "explain_letter")

    assert (found["answer"], len(found["letters"])) == ("yes", 1)
    assert found["because"] == ["Trail Runners: the mail server took it on 2026-05-03 12:00 UTC."]
    problem(get(desk, "/why", about="job:nobody-knows"), 404)


def test_letters_are_ended_and_that_is_lifted(desk: Desk):
    found = shaped(act(desk, "suppress", scope="all", reason="asked"), "suppress_person")
    assert [(stop["scope"], stop["cause"], "stays" in stop) for stop in found["suppressions"]] == [
        ("all", "admin", False)
    ]
    assert {ruling["verdict"] for ruling in found["rulings"]} == {"skip"}
    problem(act(desk, "suppress", scope="all", reason="asked"), 409)

    found = shaped(act(desk, "release", scope="all", cause="admin"), "release_person")
    assert found["suppressions"] == []
    problem(act(desk, "release", scope="all", cause="admin"), 404)
    assert "only they" in problem(act(desk, "release", scope="all", cause="unsubscribed"), 409)["detail"]


def test_what_is_kept_comes_as_json_and_as_a_page(desk: Desk):
    found = shaped(get(desk, "/export"), "export_person")
    assert [letter["automation"] for letter in found["letters"]] == ["welcome"]

    page = get(desk, "/export", format="html")
    assert (page.status_code, page.headers["content-security-policy"]) == (200, "sandbox")
    assert page.headers["content-disposition"].startswith("attachment")
    assert f"Member {ANN}" in page.text


def test_somebody_is_forgotten_who_was_named_twice(desk: Desk):
    problem(act(desk, "erase", confirm="m-somebody-else"), 422)
    assert shaped(get(desk), "show_person")["suppressions"] == []

    found = shaped(act(desk, "erase", confirm=ANN), "erase_person")
    assert {stop["cause"] for stop in found["suppressions"]} == {"forgotten"}
    assert "stays" in found["suppressions"][0]


def test_a_group_s_admin_keeps_to_their_groups(desk: Desk):
    theirs, others = desk.token("group_admin"), desk.token("group_admin", "other", groups=[TRADERS])

    assert shaped(get(desk, token=theirs), "show_person")["letters"]
    problem(get(desk, token=others), 404)
    problem(get(desk, "/why", token=others, about="automation:welcome"), 404)
    problem(get(desk, "/export", token=theirs), 403)
    problem(act(desk, "erase", theirs, confirm=ANN), 403)
    problem(act(desk, "suppress", theirs, scope="all", reason="asked"), 403)
    problem(act(desk, "suppress", others, scope=f"group:{TRADERS}", reason="asked"), 404)
    shaped(act(desk, "suppress", theirs, scope=f"group:{RUNNERS}", reason="asked"), "suppress_person")
    shaped(act(desk, "release", theirs, scope=f"group:{RUNNERS}", cause="admin"), "release_person")


def test_wix_that_is_away_is_said_so(database: Database, desk: Desk, monkeypatch: pytest.MonkeyPatch):
    from tests.house import FakeWix

    def away(*_: object, **__: object) -> Any:
        raise RetryableError("Wix is away")

    for name in ("get_members", "get_membership", "find_people"):
        monkeypatch.setattr(FakeWix, name, away)

    found = shaped(get(desk), "show_person")
    assert (found["consent"], found["rulings"]) == (None, [])
    assert found["trouble"]
    problem(get(desk, member="m-nobody"), 503)
    json.dumps(found)
