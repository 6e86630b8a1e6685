"""The automations over the API: what is shown, edited and refused, and what is never repeated."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.store.database import Database
from integrations.store.sites import note_site
from integrations.store.tokens import Role
from tests.api.test_api_tokens import OTHER_SITE, Desk, a_desk
from tests.house import SITE, WELCOME, Clock, a_house, an_event
from tests.test_admin_api import TOKEN, problem

PATH = "/api/v1/automations"


@pytest.fixture
def desk(database: Database, clock: Clock) -> Desk:
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    with database.begin() as tx:
        note_site(tx, SITE, tx.now, "active")
    return a_desk(database)


def save(desk: Desk, token: str = TOKEN, path: str = "/edit", **body: Any) -> Any:
    return desk.ask(token, "POST", PATH + path, json={"base": 1, **body})


def switch_off(name: str = "welcome") -> dict[str, Any]:
    return {"do": "change", "name": name, "fields": {"enabled": False}}


def test_each_automation_is_a_sentence_with_what_became_of_its_letters(desk: Desk):
    found = desk.get(TOKEN, PATH, site=SITE)
    assert (found["version"], found["newest"], found["locked"]) == (1, 1, False)
    [one] = found["items"]
    assert one["sentence"] == 'When somebody becomes a member of any group, write them "welcome".'
    assert (one["enabled"], one["counts"], one["steps"]) == (True, {"sent": 1}, [])
    assert "counts" not in desk.get(TOKEN, PATH)["items"][0]


def test_an_edit_is_a_version_that_says_who_when_and_why(desk: Desk):
    token = desk.token("manager", "anna")
    saved = save(desk, token, edits=[switch_off()], note=" a quiet  week ")
    assert saved.status_code == 200, saved.text
    assert {name: saved.json()[name] for name in ("number", "source", "who", "note")} == {
        "number": 2,
        "source": "edit",
        "who": "token anna",
        "note": "a quiet week",
    }
    versions = desk.get(TOKEN, f"{PATH}/versions")["items"]
    assert [(row["number"], row["source"]) for row in versions] == [(2, "edit"), (1, "file")]
    assert "enabled = false" in desk.get(TOKEN, f"{PATH}/versions/2")["text"]
    assert desk.ask(TOKEN, "GET", f"{PATH}/export").text == desk.get(TOKEN, f"{PATH}/versions/2")["text"]
    back = desk.ask(TOKEN, "POST", f"{PATH}/versions/1/roll-back", json={"base": 2})
    assert (back.json()["number"], back.json()["source"]) == (3, "rollback")
    assert desk.ask(TOKEN, "GET", f"{PATH}/export").text == WELCOME


def test_versions_come_page_by_page(desk: Desk):
    for base in range(1, 4):
        assert save(desk, path="", text=f"{WELCOME}# {base}\n", base=base).status_code == 200
    first = desk.get(TOKEN, f"{PATH}/versions", limit=3)
    rest = desk.get(TOKEN, f"{PATH}/versions", limit=3, cursor=first["next"])
    assert [row["number"] for row in first["items"] + rest["items"]] == [4, 3, 2, 1]
    assert rest["next"] is None


def test_whoever_saves_upon_an_old_version_is_told_and_nothing_is_saved(desk: Desk):
    assert save(desk, edits=[switch_off()]).status_code == 200
    problem(save(desk, edits=[{"do": "remove", "name": "welcome"}]), 409)
    problem(save(desk, path="", text="# nothing\n"), 409)
    assert desk.get(TOKEN, PATH)["newest"] == 2


def test_mistakes_are_named_by_field_and_line_and_values_are_not_repeated(desk: Desk):
    edit = {"do": "change", "name": "welcome", "fields": {"after": "xanthippe", "email": "no-such"}}
    found = problem(save(desk, edits=[edit]), 422)
    assert [error["field"] for error in found["errors"]] == ["automation.email", "automation.after"]
    assert all(error["detail"].startswith("line ") for error in found["errors"])
    assert "xanthippe" not in str(found)
    problem(save(desk, path="", text="[[automation"), 422)
    problem(save(desk, edits=[{"do": "change", "name": "welcome", "fields": {"on": [None]}}]), 422)
    problem(save(desk, edits=[switch_off("gone")]), 404)
    problem(save(desk, edits=[]), 422)
    assert desk.get(TOKEN, PATH)["newest"] == 1


def test_every_kind_of_edit_is_done_in_its_order(desk: Desk):
    fields = {"name": "bye", "on": ["member_removed"], "email": "welcome", "purpose": "onboarding"}
    saved = save(
        desk,
        edits=[
            {"do": "add", "fields": fields},
            {"do": "move", "name": "bye", "by": -1},
            {"do": "policy", "fields": {"time_zone": "Europe/Rome"}},
            {"do": "policy", "site": SITE, "fields": {"send": False}},
            {"do": "add", "kind": "follow", "fields": {"rules_of": "Trail Runners"}},
            {"do": "change", "kind": "follow", "name": "Trail Runners", "fields": {"enabled": False}},
        ],
    )
    assert saved.status_code == 200, saved.text
    assert [one["name"] for one in desk.get(TOKEN, PATH)["items"]] == ["bye", "welcome"]
    text = desk.ask(TOKEN, "GET", f"{PATH}/export").text
    assert f'[policy.site."{SITE}"]\nsend = false' in text
    assert '[[follow]]\nenabled = false\nrules_of = "Trail Runners"' in text


def test_only_who_manages_every_site_changes_them(desk: Desk):
    with desk.database.begin() as tx:
        note_site(tx, OTHER_SITE, tx.now, "active")
    of_one_site = desk.token("manager")
    reader = desk.token(Role.READER)
    assert desk.get(of_one_site, PATH)["items"]
    problem(save(desk, of_one_site, edits=[switch_off()]), 403)
    problem(desk.ask(of_one_site, "POST", f"{PATH}/versions/1/roll-back", json={"base": 1}), 403)
    for token in (of_one_site, reader):
        for path in ("/export", "/versions", "/versions/1"):
            problem(desk.ask(token, "GET", PATH + path), 403)
    everywhere = desk.token("manager", "everywhere", sites=["*"])
    assert save(desk, everywhere, edits=[switch_off()]).status_code == 200


def test_a_site_that_removed_the_app_still_has_its_say(desk: Desk):
    of_one_site = desk.token("manager")
    assert save(desk, of_one_site, edits=[switch_off()]).status_code == 200
    with desk.database.begin() as tx:
        note_site(tx, OTHER_SITE, tx.now, "active")
        note_site(tx, OTHER_SITE, tx.now, "removed")
    problem(save(desk, of_one_site, base=2, edits=[{"do": "remove", "name": "welcome"}]), 403)
    problem(desk.ask(of_one_site, "GET", f"{PATH}/export"), 403)


@pytest.mark.parametrize("number", ["0", "77", "x", "-1", "9" * 30])
def test_a_version_that_is_not_there_is_not_found(desk: Desk, number: str):
    problem(desk.ask(TOKEN, "GET", f"{PATH}/versions/{number}"), 404)


def test_an_automation_with_letters_gets_another_name_only_when_it_is_said(desk: Desk):
    edit = {"do": "change", "name": "welcome", "fields": {"name": "hello"}}
    found = problem(save(desk, edits=[edit]), 409)
    assert [error["field"] for error in found["errors"]] == ["names_go"]
    assert "welcome" in found["errors"][0]["detail"]
    text = WELCOME.replace('name = "welcome"', 'name = "hello"')
    problem(save(desk, path="", text=text), 409)
    assert desk.get(TOKEN, PATH)["newest"] == 1
    assert save(desk, edits=[edit], names_go=True).status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "# " + "x" * 128 * 1024,
        "a" + ".a" * 9 + " = 1",
        "[" + "a . " * 5000 + "a]",
        'x = {"a"' + ".'a'" * 9 + " = 1}",
    ],
)
def test_a_text_that_would_hold_up_its_reader_is_refused_unread(
    desk: Desk, text: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("core.automations.tomllib", None)
    found = problem(save(desk, path="", text=f"{text}\n"), 422)
    assert [error["field"] for error in found["errors"]] == ["text"]


def test_edits_that_would_hold_up_their_reader_are_refused(desk: Desk):
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    for value in (deep, ["x" * 1000] * 300):
        edit = {"do": "change", "name": "welcome", "fields": {"groups": value}}
        problem(save(desk, edits=[edit]), 422)
    assert desk.get(TOKEN, PATH)["newest"] == 1
