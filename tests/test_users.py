"""People who log in: over the API, from the command line, and in the pages that owners have for them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admin.cli import main
from admin.console.pages import account
from admin.processes import ROOT
from core.community import Group, GroupId
from core.errors import WrongStateError
from integrations.store.database import Database
from integrations.store.tables import audit
from integrations.store.tokens import Role
from integrations.store.users import Users
from tests.api.test_api_tokens import Desk, a_desk
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import RUNNERS, SITE, Clock, a_house
from tests.test_admin_api import TOKEN, problem

NEW = {"login": "Anna@Example.com", "name": "anna", "role": "manager", "sites": [SITE]}
YOGA = GroupId("g-yoga")


@pytest.fixture
def desk(database: Database) -> Desk:
    return a_desk(database)


# Over the API.


def test_an_invitation_is_shown_once_with_the_address_it_opens(desk: Desk):
    made = desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW)
    assert made.status_code == 201, made.text
    found = made.json()
    assert re.fullmatch(r"/admin/invitation/[\w-]{43}", found.pop("invitation"))
    assert (found["login"], found["state"]) == ("anna@example.com", "invited")
    assert desk.get(TOKEN, "/api/v1/users")["items"] == [found]


def test_a_login_and_a_name_are_given_once_for_good(desk: Desk):
    made = desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW).json()
    desk.ask(TOKEN, "POST", f"/api/v1/users/{made['id']}/disable")
    for again in ({**NEW, "name": "other"}, {**NEW, "login": "other@example.com"}):
        problem(desk.ask(TOKEN, "POST", "/api/v1/users", json=again), 409)
    assert (
        desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW | {"login": "b@c", "name": "b"}).status_code == 201
    )


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"login": "no address"}, "login"),
        ({"name": "anna b"}, "name"),
        ({"role": "king"}, "role"),
        ({"sites": []}, "sites"),
        ({"role": "group_admin"}, "groups"),
        ({"role": "owner"}, "sites"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_user_that_cannot_be_meant_is_refused_by_field(desk: Desk, wrong: dict[str, Any], field: str):
    errors = problem(desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW | wrong), 422)["errors"]
    assert [error["field"] for error in errors] == [field]


def test_only_owners_may_do_anything_about_users(desk: Desk):
    user = desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW).json()["id"]
    asked = [
        ("GET", "/api/v1/users", None),
        ("POST", "/api/v1/users", NEW),
        ("PUT", f"/api/v1/users/{user}/rights", {"role": "owner"}),
        ("POST", f"/api/v1/users/{user}/reset", None),
        ("POST", f"/api/v1/users/{user}/disable", None),
    ]
    for role in (Role.MANAGER, Role.GROUP_ADMIN, Role.READER):
        token = desk.token(role)
        for method, path, body in asked:
            problem(desk.ask(token, method, path, **({"json": body} if body else {})), 403)
    assert [item["state"] for item in desk.get(TOKEN, "/api/v1/users")["items"]] == ["invited"]


def test_rights_are_changed_as_a_whole(desk: Desk):
    user = desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW).json()["id"]
    rights = {"role": "group_admin", "sites": [SITE], "groups": [YOGA, RUNNERS]}
    changed = desk.ask(TOKEN, "PUT", f"/api/v1/users/{user}/rights", json=rights).json()
    assert (changed["role"], changed["sites"], changed["groups"]) == ("group_admin", [SITE], [RUNNERS, YOGA])
    owner = desk.ask(TOKEN, "PUT", f"/api/v1/users/{user}/rights", json={"role": "owner"}).json()
    assert (owner["sites"], owner["groups"]) == (["*"], [])
    roles = [(line.before, line.after) for line in desk.lines() if line.action == "user.change"]
    told = {(before["role"], after["role"]) for before, after in roles}
    assert told == {("manager", "group_admin"), ("group_admin", "owner")}


def test_a_reset_of_somebody_disabled_invites_them_again(desk: Desk):
    user = desk.ask(TOKEN, "POST", "/api/v1/users", json=NEW).json()["id"]
    assert desk.ask(TOKEN, "POST", f"/api/v1/users/{user}/disable").json()["state"] == "disabled"
    problem(desk.ask(TOKEN, "POST", f"/api/v1/users/{user}/disable"), 409)
    again = desk.ask(TOKEN, "POST", f"/api/v1/users/{user}/reset").json()
    assert (again["state"], "disabled_at" in again) == ("invited", False)
    for method, path in (("PUT", "rights"), ("POST", "reset"), ("POST", "disable")):
        more = {"json": {"role": "owner"}} if method == "PUT" else {}
        problem(desk.ask(TOKEN, method, f"/api/v1/users/unknown/{path}", **more), 404)


def test_of_many_who_invite_the_same_person_at_once_one_does(database: Database):
    new = {"role": Role.READER, "sites": [SITE], "groups": [], "who": "a test"}

    def invite(number: int) -> str:
        try:
            Users(database).create("a@example.com", f"a{number}", **new)
        except WrongStateError as exc:
            return str(exc)
        return ""

    with ThreadPoolExecutor(4) as pool:
        told = sorted(pool.map(invite, range(4)))
    assert told[0] == ""
    assert all("somebody has this login" in one for one in told[1:])


# From the command line.


@pytest.fixture
def usher(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("PUBLIC_URL", "https://usher.example")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["usher", *words])
        try:
            main()
        except SystemExit as exc:
            if exc.code:
                raise
        return capsys.readouterr().out

    return run


def test_the_command_line_invites_lists_disables_and_resets(usher: Any, database: Database):
    made = usher("users", "create", "Anna@Example.com", "--name", "anna", "--role", "owner", "--yes")
    link = made.strip()
    assert re.fullmatch(r"https://usher\.example/admin/invitation/[\w-]{43}", link)
    token = link.rpartition("/")[2]
    store = Users(database)
    invited = store.invited(token)
    assert invited is not None
    assert (invited.login, invited.sites) == ("anna@example.com", ["*"])

    assert token not in usher("users", "list")
    [listed] = json.loads(usher("users", "list", "--json"))
    assert (listed["login"], listed["role"], listed["state"]) == ("anna@example.com", "owner", "invited")
    assert usher("users", "disable", "ANNA@example.com", "--yes") == "anna: disabled\n"
    assert store.invited(token) is None
    again = json.loads(usher("users", "reset", "anna@example.com", "--yes", "--json"))
    assert again["state"] == "invited"
    assert store.invited(again["invitation"].rpartition("/")[2]) is not None
    with database.read() as tx:
        lines = tx.execute(sa.select(audit.c.who, audit.c.action).order_by(audit.c.at)).all()
    assert [tuple(line) for line in lines] == [
        ("command line", "user.create"),
        ("command line", "user.disable"),
        ("command line", "user.reset"),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_list_is_shown_by_a_process_that_has_loaded_nothing_else(database_url: str, tmp_path: Path):
    env = {**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "admin", "users", "list"]
    ended = subprocess.run(
        command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "None.\n"), ended.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_line_names_what_is_wrong(usher: Any, capsys: pytest.CaptureFixture[str]):
    for words, said, code in (
        (("create", "anna", "--name", "a b", "--role", "reader"), "name: ", 2),
        (("create", "anna@example.com", "--name", "anna", "--role", "king"), "role: is none of", 2),
        (("create", "anna@example.com", "--name", "anna", "--role", "reader"), "sites: ", 2),
        (("disable", "nobody@example.com", "--yes"), "there is no user of this login", 1),
        (("reset", "nobody@example.com"), "there is no user of this login", 1),
    ):
        with pytest.raises(SystemExit) as ended:
            usher("users", *words)
        assert ended.value.code == code, words
        assert said in capsys.readouterr().err
    made = ("users", "create", "anna@example.com", "--name", "anna", "--role", "owner")
    with pytest.raises(SystemExit) as ended:  # nobody can be asked
        usher(*made)
    assert ended.value.code == 2
    assert "--yes" in capsys.readouterr().err


# The pages.


@pytest.fixture
def house(database: Database, clock: Clock) -> Any:
    found = a_house(database, clock)
    found.wix.groups[YOGA] = Group(YOGA, "Sunrise Yoga")
    return found


def owner(house: Any, **more: Any) -> Visitor:
    visitor = a_visitor(house, *account.PAGES, who="user ada", **more)

    class Public:
        """What the entrance puts beside the visitor."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = {
                **scope.get("state", {}),
                "public_url": "https://usher.example",
                "limiter": None,
            }
            await self.app(scope, receive, send)

    visitor.app.add_middleware(Public)
    return visitor


def filled(answer: Any) -> set[tuple[str, str]]:
    """What is checked, or stands in fields, of the form that is shown."""
    fields = re.findall(r"<input[^>]+>", answer.text)
    found = set()
    for field in fields:
        known = dict(re.findall(r'(\w+)="([^"]*)"', field))
        if known.get("type") not in ("checkbox", "radio") or " checked" in field:
            found.add((known["name"], unescape(known["value"])))
    return {pair for pair in found if pair[0] != "csrf"}


def test_a_form_filled_in_wrongly_comes_back_as_it_was_with_what_is_wrong(house: Any):
    somebody = owner(house)
    typed = {"login": "anna", "name": "an na", "sites": [SITE], "groups": [YOGA]}
    answer = somebody.post("/users", typed)
    assert answer.status_code == 422
    assert filled(answer) == {("login", "anna"), ("name", "an na"), ("sites", SITE), ("groups", YOGA)}
    assert "Choose one." in text_of(answer)
    said = text_of(somebody.post("/users", {**typed, "role": "group_admin", "groups": []}))
    for why in ("Write an address", "Letters, digits, dots and dashes, at most", "Choose at least one."):
        assert why in said
    assert Users(house.database).page() == []


def test_a_login_that_is_taken_is_said_so(house: Any):
    somebody = owner(house)
    new = {"login": "anna@example.com", "name": "anna", "role": "reader", "sites": SITE}
    assert "https://usher.example/admin/invitation/" in somebody.post("/users", new).text
    again = somebody.post("/users", new)
    assert again.status_code == 409
    assert "Take another one." in text_of(again)


def test_what_cannot_be_seen_from_a_site_stays_as_it_is(house: Any, database: Database):
    """A group of another site, and a site that removed the app, are in no box that could be left empty."""
    _, row = Users(database).create(
        "anna@example.com",
        "anna",
        Role.GROUP_ADMIN,
        sites=[SITE, "gone"],
        groups=[RUNNERS, "elsewhere"],
        who="a test",
    )
    somebody = owner(house)
    shown = filled(somebody.get(f"/users/{row.id}"))
    assert shown == {("role", "group_admin"), ("sites", SITE), ("groups", RUNNERS)}
    rights = {"role": "group_admin", "sites": [SITE], "groups": [YOGA]}
    assert "holds from their next click on" in text_of(
        somebody.follow(somebody.post(f"/users/{row.id}", rights))
    )
    after = Users(database).get(row.id)
    assert (after.sites, after.groups) == (sorted([SITE, "gone"]), sorted(["elsewhere", YOGA]))


def test_nobody_changes_or_disables_themselves(house: Any, database: Database):
    Users(database).create("ada@example.com", "ada", Role.OWNER, sites=["*"], groups=[], who="a test")
    somebody = owner(house)
    with database.begin() as tx:  # whom the visitor stands for
        tx.execute(sa.text("UPDATE users SET id = 'u1'"))
    page = somebody.get("/users/u1")
    assert "This is you." in text_of(page)
    assert "/disable" not in page.text
    for path, data in (("/users/u1", {"role": "reader", "sites": SITE}), ("/users/u1/disable", {})):
        answer = somebody.post(path, data)
        assert answer.status_code == 409
        assert "Another owner has to do this for you" in text_of(answer)
    assert Users(database).get("u1").role == "owner"


def test_a_list_of_users_says_how_things_stand_and_goes_on(house: Any, database: Database, clock: Clock):
    somebody = owner(house)
    assert "Nobody has a login yet" in text_of(somebody.get("/users"))
    for number in range(account.ROWS + 1):
        clock.move(seconds=1)
        Users(database).create(
            f"u{number}@example.com", f"u{number}", Role.READER, sites=[SITE], groups=[], who="a test"
        )
    first = somebody.get("/users")
    assert first.text.count("invited</span>") == account.ROWS
    assert "Seaside Club" in text_of(first)
    following = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert following is not None
    rest = somebody.get(unescape(following[1]))
    assert re.findall(r"<bdi>(u\d+@example.com)</bdi>", rest.text) == ["u0@example.com"]


@pytest.mark.parametrize("role", [Role.MANAGER, Role.GROUP_ADMIN, Role.READER])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whoever_is_no_owner_finds_no_page_about_users(house: Any, role: Role, database: Database):
    _, row = Users(database).create("a@example.com", "a", Role.READER, sites=[SITE], groups=[], who="a test")
    visitor = owner(house, role=role)
    for path in ("/users", "/users/new", f"/users/{row.id}"):
        assert visitor.get(path).status_code == 403
    for path in ("/users", f"/users/{row.id}", f"/users/{row.id}/reset", f"/users/{row.id}/disable"):
        assert visitor.post(path, {"role": "owner"}).status_code == 403
    assert Users(database).get(row.id).role == "reader"
