"""Tokens of the API over real databases: whom they let in, what their roles and reach allow, what is written down."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette

from admin.api import OPERATIONS, Limiter, admin_api
from admin.cli import main
from core.community import GroupId, MemberId, SiteId
from core.errors import MailInDoubtError
from integrations.store.database import Database
from integrations.store.tables import api_tokens, audit
from integrations.store.tokens import Role, Tokens
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house, an_event
from tests.test_admin_api import TOKEN, Counter, an_office, problem

OTHER_SITE = SiteId("another-site")
OTHER_GROUP = GroupId("another-group")


@dataclass
class Desk:
    """An API in front of a database, and short ways to ask it as somebody."""

    database: Database
    counter: Counter

    def token(self, role: Role | str, name: str = "", **more: Any) -> str:
        role = Role(role)
        more.setdefault("sites", ["*"] if role is Role.OWNER else [SITE])
        if role is Role.GROUP_ADMIN:
            more.setdefault("groups", [RUNNERS])
        token, _ = Tokens(self.database).create(name or f"a-{role}", role, who="a test", **more)
        return token

    def ask(self, token: str, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        return self.counter.ask(method, path, headers=headers, **more)

    def get(self, token: str, path: str, **query: Any) -> Any:
        answer = self.ask(token, "GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def lines(self) -> list[Any]:
        with self.database.read() as tx:
            return list(tx.execute(sa.select(audit).order_by(audit.c.at, audit.c.id)))


def a_desk(database: Database, **limits: int) -> Desk:
    rings: list[None] = []
    api = admin_api(TOKEN, an_office(database, lambda: rings.append(None)), Limiter(**limits))
    return Desk(database, Counter(Starlette(routes=[api]), rings))


@pytest.fixture
def desk(database: Database) -> Desk:
    return a_desk(database)


def letters_of_two_sites(house: House) -> dict[tuple[str, str], str]:
    """One letter in doubt for each of two groups of two sites; their ids by site and group."""
    house.wix.groups[OTHER_GROUP] = replace(house.wix.groups[RUNNERS], id=OTHER_GROUP)
    house.wix.memberships[OTHER_GROUP, MemberId(ANN)] = house.wix.memberships[RUNNERS, ANN]
    house.mail.dies_after_dot = [MailInDoubtError("closed")] * 4
    for number, (site, group) in enumerate(
        [(s, g) for s in (SITE, OTHER_SITE) for g in (RUNNERS, OTHER_GROUP)]
    ):
        house.hear(replace(an_event(house.clock, id=f"e{number}", group=group), site=site))
    house.work()
    rows = house.services.ledger.letters()
    assert [row.state for row in rows] == ["in_doubt"] * 4
    return {(row.site, row.group_id): row.id for row in rows}


# What a token is.


def test_a_token_is_shown_once_and_the_database_has_its_hash_alone(desk: Desk):
    made = desk.ask(TOKEN, "POST", "/api/v1/tokens", json={"name": "ci", "role": "reader", "sites": [SITE]})
    token = made.json()["token"]

    assert made.status_code == 201
    assert token.startswith("usher_")
    assert len(token) == 6 + 43
    listed = desk.ask(TOKEN, "GET", "/api/v1/tokens")
    assert [item["name"] for item in listed.json()["items"]] == ["ci"]
    assert token not in listed.text
    with desk.database.read() as tx:
        assert token not in str(list(tx.execute(sa.select(api_tokens)))) + str(
            list(tx.execute(sa.select(audit)))
        )
    assert desk.get(token, "/api/v1/whoami") == {"who": "token ci", "role": "reader", "sites": [SITE]}


def test_the_admin_token_is_the_owner_of_everything(desk: Desk):
    assert desk.get(TOKEN, "/api/v1/whoami") == {"who": "admin", "role": "owner", "sites": ["*"]}


def test_a_revoked_token_lets_nobody_in_from_that_moment_on(desk: Desk):
    token = desk.token("manager")
    [row] = desk.get(TOKEN, "/api/v1/tokens")["items"]

    assert desk.ask(token, "GET", "/api/v1/events").status_code == 200
    revoked = desk.ask(TOKEN, "DELETE", f"/api/v1/tokens/{row['id']}")
    answer = desk.ask(token, "GET", "/api/v1/events")

    assert (revoked.status_code, bool(revoked.json()["revoked_at"])) == (200, True)
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    problem(desk.ask(TOKEN, "DELETE", f"/api/v1/tokens/{row['id']}"), 409)
    problem(desk.ask(TOKEN, "DELETE", "/api/v1/tokens/unknown"), 404)


def test_a_token_ends_when_its_days_are_over(desk: Desk, clock: Clock):
    token = desk.token("reader", lasts=timedelta(days=7))

    clock.move(days=7, seconds=-1)
    before = desk.ask(token, "GET", "/api/v1/whoami")
    clock.move(seconds=1)
    after = desk.ask(token, "GET", "/api/v1/whoami")

    assert before.json()["expires_at"] == "2026-05-10T12:00:00.000000Z"
    assert (before.status_code, after.status_code) == (200, 401)


def test_its_use_is_noted_at_most_once_a_minute(desk: Desk, clock: Clock):
    token = desk.token("reader")

    def used() -> str | None:
        found: str | None = desk.get(TOKEN, "/api/v1/tokens")["items"][0].get("last_used_at")
        return found

    seen = [used()]
    for _ in range(3):
        desk.get(token, "/api/v1/whoami")
        seen.append(used())
        clock.move(seconds=31)

    assert seen == [None, *["2026-05-03T12:00:00.000000Z"] * 2, "2026-05-03T12:01:02.000000Z"]


def test_a_database_that_cannot_be_written_to_refuses_no_reader(tmp_path: Path, clock: Clock):
    path = tmp_path / "usher.db"
    database = Database(f"sqlite:///{path}", timeout_s=0.1, clock=clock)
    database.migrate()
    desk = a_desk(database)
    token = desk.token("reader")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        answer = desk.ask(token, "GET", "/api/v1/whoami")
        writer.execute("ROLLBACK")

    assert answer.status_code == 200
    database.close()


def test_without_a_database_nobody_knows_a_token_and_the_admin_is_still_known():
    database = Database("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/usher", timeout_s=1.0)
    desk = a_desk(database)

    assert "whose token" in problem(desk.ask("usher_x", "GET", "/api/v1/whoami"), 503)["detail"]
    assert desk.ask(TOKEN, "GET", "/api/v1/whoami").status_code == 200
    database.close()


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"name": "x", "role": "king"}, ["role"]),
        ({"name": "x"}, ["role"]),
        ({"name": "two words", "role": "owner"}, ["name"]),
        ({"name": "kirill-а", "role": "owner"}, ["name"]),
        ({"name": "x", "role": "owner", "sites": ["s"]}, ["sites"]),
        ({"name": "x", "role": "manager"}, ["sites"]),
        ({"name": "x", "role": "manager", "sites": []}, ["sites"]),
        ({"name": "x", "role": "reader", "sites": ["a b"]}, ["sites.0"]),
        ({"name": "x", "role": "reader", "sites": ["s"], "groups": ["g"]}, ["groups"]),
        ({"name": "x", "role": "group_admin", "sites": ["s"]}, ["groups"]),
        ({"name": "x", "role": "group_admin", "sites": ["s"], "groups": []}, ["groups"]),
        ({"name": "x", "role": "owner", "expires_in_days": 0}, ["expires_in_days"]),
        ({"name": "x", "role": "owner", "expires_in_days": "7"}, ["expires_in_days"]),
        ({"name": 5, "role": "owner", "more": 1}, ["more", "name"]),
        ([], [""]),
    ],
)
def test_a_token_that_cannot_be_meant_is_refused_and_its_fields_are_named(
    desk: Desk, body: Any, wrong: list[str]
):
    found = problem(desk.ask(TOKEN, "POST", "/api/v1/tokens", json=body), 422)

    assert sorted(error["field"] for error in found["errors"]) == wrong
    assert desk.get(TOKEN, "/api/v1/tokens")["items"] == []


def test_no_two_tokens_ever_have_the_same_name(desk: Desk):
    """Their names stand in the audit log, and a job's Idempotency-Key is theirs."""
    new = {"name": "ci", "role": "owner"}
    id_ = desk.ask(TOKEN, "POST", "/api/v1/tokens", json=new).json()["id"]
    problem(desk.ask(TOKEN, "POST", "/api/v1/tokens", json=new), 409)
    desk.ask(TOKEN, "DELETE", f"/api/v1/tokens/{id_}")
    problem(desk.ask(TOKEN, "POST", "/api/v1/tokens", json=new), 409)

    ask = ("POST", "/api/v1/tokens")
    answers = desk.counter.all_at_once(ask, ask, ask, json=new | {"name": "other"})
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]


# What a role may.

MAY = {  # operation: who is let in; everybody else is told 403
    "say_who": "owner manager group_admin reader",
    "list_events": "owner manager reader",
    "replay_event": "owner manager",
    "list_messages": "owner manager group_admin reader",
    "release_message": "owner manager group_admin",
    "give_message_up": "owner manager group_admin",
    "list_tokens": "owner",
    "create_token": "owner",
    "revoke_token": "owner",
    "list_audit": "owner manager reader",
    "list_jobs": "owner manager group_admin reader",
    "create_job": "owner manager group_admin",
    "show_job": "owner manager group_admin reader",
    "confirm_job": "owner manager group_admin",
    "pause_job": "owner manager group_admin",
    "resume_job": "owner manager group_admin",
    "cancel_job": "owner manager group_admin",
    "retry_failed": "owner manager group_admin",
    "roll_back": "owner manager",
    "list_items": "owner manager group_admin reader",
    "stream_rows": "owner manager group_admin reader",
    "show_report": "owner manager group_admin reader",
    "list_letters": "owner manager group_admin reader",
    "preview_letter": "owner manager group_admin",
    "try_letter": "owner manager group_admin",
    "show_today": "owner manager group_admin reader",
    "list_automations": "owner manager reader",
    "save_automations": "owner manager",
    "edit_automations": "owner manager",
    "export_automations": "owner manager reader",
    "list_automation_versions": "owner manager reader",
    "show_automation_version": "owner manager reader",
    "roll_back_automations": "owner manager",
    "list_requests": "owner manager group_admin reader",
    "decide_requests": "owner manager group_admin",
    "undo_decision": "owner manager group_admin",
    "list_past_requests": "owner manager group_admin reader",
    "back_test_rule": "owner manager group_admin reader",
    "find_people": "owner manager group_admin reader",
    "show_person": "owner manager group_admin reader",
    "explain_letter": "owner manager group_admin reader",
    "export_person": "owner manager",
    "suppress_person": "owner manager group_admin",
    "release_person": "owner manager group_admin",
    "erase_person": "owner manager",
    "list_groups": "owner manager group_admin reader",
    "list_users": "owner",
    "invite_user": "owner",
    "change_user": "owner",
    "reset_user": "owner",
    "disable_user": "owner",
}


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_do_what_the_table_says_and_nothing_else(desk: Desk, role: Role):
    """What it may ends in something else than 403, here mostly 404 and 415: there is nothing and nothing was sent."""
    token = desk.token(role)
    allowed, told = set(), {}
    for operation in OPERATIONS:
        path = operation.path.replace("{id:path}", "x").replace("{id}", "x")
        answer = desk.ask(token, operation.method, f"/api{path}", headers={"Idempotency-Key": "k"})
        if answer.status_code == 403:
            told[operation.act.__name__] = problem(answer, 403)["detail"]
        else:
            assert answer.status_code in (200, 404, 415, 422), (operation.path, answer.text)
            allowed.add(operation.act.__name__)

    assert {operation.act.__name__ for operation in OPERATIONS} == set(MAY)
    assert allowed == {name for name, roles in MAY.items() if role in roles.split()}
    assert all(f"yours is {role}" in detail for detail in told.values())


def test_a_reader_only_looks():
    """What somebody is called, and words of a rule, belong into no URL, so they are looked for by POST."""
    looks = [operation for operation in OPERATIONS if Role.READER in operation.roles]
    assert {operation.path for operation in looks if operation.method != "GET"} == {
        "/v1/people/find",
        "/v1/requests/back-test",
    }


# Whose rows.


def test_a_site_s_token_sees_and_touches_nothing_of_another_site(
    desk: Desk, database: Database, clock: Clock
):
    letters = letters_of_two_sites(a_house(database, clock))
    token = desk.token("manager")
    theirs = letters[OTHER_SITE, RUNNERS]

    assert {item["site"] for item in desk.get(token, "/api/v1/events")["items"]} == {SITE}
    assert {item["site"] for item in desk.get(token, "/api/v1/messages")["items"]} == {SITE}
    assert desk.get(token, "/api/v1/messages", site=OTHER_SITE)["items"] == []
    problem(desk.ask(token, "POST", f"/api/v1/messages/{theirs}/release"), 404)
    problem(desk.ask(token, "POST", f"/api/v1/messages/{theirs}/give-up"), 404)
    problem(desk.ask(token, "POST", "/api/v1/events/e2/replay"), 404)
    problem(desk.ask(token, "POST", "/api/v1/events/e2/replay", params={"site": OTHER_SITE}), 404)
    assert desk.ask(token, "POST", f"/api/v1/messages/{letters[SITE, RUNNERS]}/release").status_code == 200
    assert desk.ask(token, "POST", "/api/v1/events/e0/replay").status_code == 200


def test_an_id_that_two_sites_have_is_their_own_one_to_who_sees_one_site(
    desk: Desk, database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.hear(an_event(clock), replace(an_event(clock), site=OTHER_SITE))
    house.work()

    assert desk.ask(desk.token("manager"), "POST", "/api/v1/events/e1/replay").json()["site"] == SITE
    problem(desk.ask(TOKEN, "POST", "/api/v1/events/e1/replay"), 409)


def test_a_group_s_admin_sees_and_touches_the_letters_of_their_group_alone(
    desk: Desk, database: Database, clock: Clock
):
    letters = letters_of_two_sites(a_house(database, clock))
    token = desk.token("group_admin")

    found = desk.get(token, "/api/v1/messages")["items"]
    assert [(item["site"], item["group"]) for item in found] == [(SITE, RUNNERS)]
    for place in [(SITE, OTHER_GROUP), (OTHER_SITE, RUNNERS)]:
        problem(desk.ask(token, "POST", f"/api/v1/messages/{letters[place]}/release"), 404)
    assert desk.ask(token, "POST", f"/api/v1/messages/{letters[SITE, RUNNERS]}/give-up").status_code == 200


def test_pages_of_a_narrow_token_are_as_full_as_any(desk: Desk, database: Database, clock: Clock):
    """Filtered in the database: the rows of others make no gaps, and a cursor of one token widens no other."""
    house = a_house(database, clock)
    for number in range(12):
        site = SITE if number % 3 == 0 else OTHER_SITE
        house.hear(replace(an_event(clock, id=f"e{number:02}"), site=site))
        clock.move(seconds=1)
    token = desk.token("reader")

    first = desk.get(token, "/api/v1/events", limit=3)
    rest = desk.get(token, "/api/v1/events", limit=3, cursor=first["next"])
    assert [item["id"] for item in first["items"]] == ["e09", "e06", "e03"]
    assert ([item["id"] for item in rest["items"]], rest["next"]) == (["e00"], None)

    owners = desk.get(TOKEN, "/api/v1/events", limit=2)
    taken = desk.get(token, "/api/v1/events", limit=9, cursor=owners["next"])
    assert {item["site"] for item in taken["items"]} == {SITE}


# The audit log.


def test_each_act_is_a_line_with_who_did_it_and_how_it_was_before_and_after(
    desk: Desk, database: Database, clock: Clock
):
    letters = letters_of_two_sites(a_house(database, clock))
    release, give_up = letters[SITE, RUNNERS], letters[SITE, OTHER_GROUP]
    manager = desk.token("manager", "mia")
    desk.ask(TOKEN, "POST", "/api/v1/tokens", json={"name": "ci", "role": "reader", "sites": [SITE]})
    desk.ask(manager, "POST", "/api/v1/events/e0/replay")
    desk.ask(manager, "POST", f"/api/v1/messages/{release}/release")
    desk.ask(TOKEN, "POST", f"/api/v1/messages/{give_up}/give-up")
    desk.ask(TOKEN, "POST", f"/api/v1/messages/{give_up}/give-up")  # refused, so no line

    found = desk.get(TOKEN, "/api/v1/audit")["items"]
    by_action = {item["action"]: item for item in found if item["who"] != "a test"}
    assert {name: (item["who"], item["object"], item.get("site")) for name, item in by_action.items()} == {
        "token.create": ("admin", by_action["token.create"]["object"], None),
        "event.replay": ("token mia", "event e0", SITE),
        "message.release": ("token mia", f"message {release}", SITE),
        "message.give-up": ("admin", f"message {give_up}", SITE),
    }
    assert by_action["token.create"]["after"]["role"] == "reader"
    assert by_action["event.replay"]["before"] == {"state": "done", "attempts": 0}
    assert by_action["event.replay"]["after"] == {"state": "received", "attempts": 0}
    assert by_action["message.release"]["before"] == {"state": "in_doubt"}
    assert by_action["message.release"]["after"] == {"state": "planned"}
    assert len(found) == 5

    assert [item["who"] for item in desk.get(TOKEN, "/api/v1/audit", who="token mia")["items"]] == [
        "token mia"
    ] * 2
    assert len(desk.get(TOKEN, "/api/v1/audit", object="event e0")["items"]) == 1
    page = desk.get(TOKEN, "/api/v1/audit", limit=2)
    rest = desk.get(TOKEN, "/api/v1/audit", limit=9, cursor=page["next"])
    assert page["items"] + rest["items"] == found


@pytest.mark.parametrize("sites", [[SITE], ["*"]])
def test_a_manager_reads_the_lines_of_their_sites_and_none_of_tokens(
    desk: Desk, database: Database, clock: Clock, sites: list[str]
):
    letters_of_two_sites(a_house(database, clock))
    manager = desk.token("manager", sites=sites)
    for event in ("e0", "e2"):
        desk.ask(TOKEN, "POST", f"/api/v1/events/{event}/replay")

    found = {item["object"] for item in desk.get(manager, "/api/v1/audit")["items"]}
    assert found == ({"event e0"} if sites == [SITE] else {"event e0", "event e2"})


def test_what_is_refused_leaves_no_line_and_what_is_not_committed_neither(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
):
    real = sa.Connection.execute

    def fail_at_the_end(connection: Any, statement: Any, *more: Any, **options: Any) -> Any:
        if getattr(statement, "is_update", False) and statement.table.name == "api_tokens":
            raise RuntimeError("broken after the line was written")
        return real(connection, statement, *more, **options)

    desk.token("reader", "ci")
    [row] = desk.get(TOKEN, "/api/v1/tokens")["items"]
    before = len(desk.lines())
    monkeypatch.setattr(sa.Connection, "execute", fail_at_the_end)
    with pytest.raises(RuntimeError):
        Tokens(database).revoke(row["id"], who="a test")
    monkeypatch.undo()

    assert len(desk.lines()) == before


# Attacks.


@pytest.mark.parametrize(
    "shown",
    [
        b"Bearer \xff\xfe",
        "Bearer пароль".encode(),
        b"Bearer " + b"x" * 60_000,
        b"Bearer usher_" + b"A" * 43,
        b"Bearer " + TOKEN.encode() + b"\x00",
        b"Bearer \xe2\x80\x8b" + TOKEN.encode(),
        b"bearer",
        b"Bearer,",
        b"Bearer null",
    ],
)
def test_strange_tokens_are_none(desk: Desk, shown: bytes):
    problem(desk.counter.ask("GET", "/api/v1/events", headers={"Authorization": shown}), 401)


def test_two_tokens_at_once_are_none(desk: Desk):
    both = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")]
    problem(desk.counter.ask("GET", "/api/v1/events", headers=both), 401)
    problem(desk.counter.ask("GET", "/api/v1/events", headers=both[::-1]), 401)


def test_unknown_revoked_and_expired_tokens_are_told_the_same(desk: Desk, clock: Clock):
    expired = desk.token("reader", "one", lasts=timedelta(days=1))
    revoked = desk.token("reader", "two")
    ids = {item["name"]: item["id"] for item in desk.get(TOKEN, "/api/v1/tokens")["items"]}
    desk.ask(TOKEN, "DELETE", f"/api/v1/tokens/{ids['two']}")
    clock.move(days=2)

    answers = [desk.ask(token, "GET", "/api/v1/events") for token in (expired, revoked, f"usher_{'x' * 43}")]
    assert {answer.status_code for answer in answers} == {401}
    assert len({(answer.text, str(answer.headers)) for answer in answers}) == 1


def test_a_hash_that_leaked_is_no_token(desk: Desk):
    desk.token("owner")
    with desk.database.read() as tx:
        [row] = tx.execute(sa.select(api_tokens))
    problem(desk.ask(row.hash, "GET", "/api/v1/events"), 401)
    problem(desk.ask(row.id, "GET", "/api/v1/events"), 401)


@pytest.mark.parametrize(
    "id_", ["..", "%2e%2e", "%2e%2e%2fevents", "..%5c", "%00", "x%0a", "x" * 300, "%F0%9F%92%A9"]
)
def test_an_id_that_leads_elsewhere_leads_nowhere(desk: Desk, id_: str):
    answer = desk.ask(TOKEN, "DELETE", f"/api/v1/tokens/{id_}")
    assert answer.status_code in (404, 405), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_tokens_and_what_was_sent_are_in_no_log(desk: Desk, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    token = desk.token("manager")
    desk.ask(token, "GET", "/api/v1/events")
    desk.ask("usher_wrong", "GET", "/api/v1/events")
    desk.ask(TOKEN, "POST", "/api/v1/tokens", json={"name": "ann@example.com", "role": "owner"})
    made = desk.ask(TOKEN, "POST", "/api/v1/tokens", json={"name": "ci", "role": "owner"}).json()["token"]

    everything = str([vars(record) for record in caplog.records])
    assert "token.created" in everything
    assert not any(word in everything for word in (token, made, TOKEN, "usher_wrong", "ann@example.com"))


# Bodies.


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("Application/JSON", 201),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/merge-patch+json", 415),
        ("", 415),
    ],
)
def test_a_body_is_json_in_utf_8_or_none(desk: Desk, kind: str, status: int):
    content = json.dumps({"name": "ci", "role": "owner"}).encode()
    answer = desk.ask(TOKEN, "POST", "/api/v1/tokens", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"{'name': 1}", 400),
        (b'{"name": NaN}', 400),
        (b'{"name": "\\ud800"}', 400),
        (b'"\xff"', 400),
        (b"[" * 30_000 + b"]" * 30_000, 400),
        (b"null", 422),
        (b"[]", 422),
        (b'{"name": "a\\u0000", "role": "owner"}', 422),
        (b'{"role": "owner", "name": "' + b"x" * 65_536 + b'"}', 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(desk: Desk, content: bytes, status: int):
    headers = {"Content-Type": "application/json"}
    problem(desk.ask(TOKEN, "POST", "/api/v1/tokens", content=content, headers=headers), status)


def test_what_is_wrong_is_named_and_what_was_sent_is_not_repeated(desk: Desk):
    sent = {"name": "ann@example.com", "role": "ann@example.com", "sites": ["ann@example.com ä"]}
    for body in (sent, sent | {"role": "reader"}, "ann@example.com"):
        answer = desk.ask(TOKEN, "POST", "/api/v1/tokens", json=body)
        assert problem(answer, 422)["errors"]
        assert "ann@" not in answer.text


# From the command line.


def usher(
    *arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["usher", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code if isinstance(ended.value.code, int) else 0, said.out, said.err


@pytest.fixture
def command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *arguments: usher(*arguments, capsys=capsys, monkeypatch=monkeypatch)


def test_a_token_made_at_the_command_line_lets_somebody_in_until_it_is_revoked(
    command: Callable[..., tuple[int, str, str]], database_url: str
):
    database = Database(database_url)
    desk = a_desk(database)

    code, out, _ = command(
        "tokens", "create", "ci", "--role", "reader", "--site", SITE, "--expires", "30", "--yes"
    )
    token = out.strip()
    assert code == 0
    assert desk.get(token, "/api/v1/whoami")["who"] == "token ci"

    [listed] = json.loads(command("tokens", "list", "--json")[1])
    assert listed == desk.get(TOKEN, "/api/v1/tokens")["items"][0]
    assert "ci" in command("tokens", "list")[1]
    assert command("tokens", "revoke", listed["id"], "--yes")[0] == 0
    problem(desk.ask(token, "GET", "/api/v1/whoami"), 401)
    assert command("tokens", "revoke", listed["id"], "--yes")[2] == "usher: the token is revoked already\n"

    lines = json.loads(command("audit", "list", "--json")[1])
    assert [(line["action"], line["who"]) for line in lines] == [
        ("token.revoke", "command line"),
        ("token.create", "command line"),
    ]
    assert lines == desk.get(TOKEN, "/api/v1/audit")["items"]
    assert "token.revoke" in command("audit", "list", "--who", "command line")[1]
    database.close()


def test_the_command_line_asks_first_and_says_what_is_wrong(command: Callable[..., tuple[int, str, str]]):
    code, out, err = command("tokens", "create", "ci", "--role", "owner")
    assert (code, out) == (2, "")
    assert "add --yes" in err

    code, out, err = command("tokens", "create", "a b", "--role", "group_admin", "--site", "s", "--yes")
    assert (code, out) == (2, "")
    assert "name: " in err
    assert "groups: " in err


def test_the_document_is_open_and_everything_else_is_not(desk: Desk):
    answer = desk.counter.ask("GET", "/api/v1/openapi.json", headers={})
    assert answer.status_code == 200
    assert answer.json()["openapi"] == "3.1.0"
    problem(desk.counter.ask("POST", "/api/v1/openapi.json", headers={}), 405)
    for path in ("/api/v1/openapi.json/", "/api//v1/openapi.json", "/api/v1/whoami?/api/v1/openapi.json"):
        problem(desk.counter.ask("GET", path, headers={}), 401)
