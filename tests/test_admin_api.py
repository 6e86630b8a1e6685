"""The admin API over real databases: who gets in, what is shown, and what a decision brings about."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from admin.api import Limiter, admin_api
from admin.office import Office
from asgi import create_app
from core.community import MemberId, Membership, SiteId, Subscription
from core.errors import MailDeferredError, MailInDoubtError
from integrations.store.database import Database
from integrations.store.journal import Journal
from tasks.routes import ROUTES
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house, an_event
from tests.test_web_app import running, settings_for

TOKEN = "the admin's token"
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
OTHER_SITE = SiteId("another-site")


@dataclass
class Counter:
    """Somebody at the API's counter; `rings` counts the wake-ups of workers."""

    app: Starlette
    rings: list[None] = field(default_factory=list)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.all_at_once((method, path), **more)[0]

    def get(self, path: str, **query: str) -> httpx.Response:
        return self.ask("GET", path, params=query)

    def post(self, path: str, **query: str) -> httpx.Response:
        return self.ask("POST", path, params=query)

    def all_at_once(self, *asked: tuple[str, str], **more: Any) -> list[httpx.Response]:
        async def ask() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://usher.example") as client:
                calls: list[Coroutine[Any, Any, httpx.Response]] = [
                    client.request(method, path, **{"headers": ALLOWED, **more}) for method, path in asked
                ]
                return list(await asyncio.gather(*calls))

        return asyncio.run(ask())


def a_counter(database: Database, token: str = TOKEN) -> Counter:
    rings: list[None] = []
    api = admin_api(token, an_office(database, lambda: rings.append(None)), Limiter())
    return Counter(Starlette(routes=[api]), rings)


def an_office(database: Database, ring: Callable[[], None] = lambda: None) -> Office:
    return Office.of_services(a_house(database, Clock()).services, database, ring)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of this status, found to be one."""
    found: dict[str, Any] = answer.json()
    assert answer.status_code == status == found["status"], answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert (found["type"], bool(found["title"]), bool(found["detail"])) == ("about:blank", True, True)
    return found


def a_letter_in_doubt(house: House) -> str:
    """The mail server took it and hung up before it said so; returns the letter's id."""
    house.mail.dies_after_dot = [MailInDoubtError("closed after the final dot")]
    house.hear(an_event(house.clock))
    house.work()
    [row] = house.services.ledger.letters()
    assert row.state == "in_doubt"
    return str(row.id)


def a_letter_of_a_dead_worker(house: House) -> str:
    """Its process was gone after the final dot; returns the letter's id."""
    house.mail.dies_after_dot = [KeyboardInterrupt()]
    house.hear(an_event(house.clock))
    with pytest.raises(KeyboardInterrupt):
        house.work()
    house.clock.move(minutes=1)
    house.work()
    [row] = house.services.ledger.letters()
    assert row.state == "in_doubt"
    return str(row.id)


def message_ids(house: House) -> list[bytes]:
    return [
        re.findall(rb"^Message-ID: (\S+)", letter, re.MULTILINE)[0] for _, _, letter in house.mail.letters
    ]


# What is shown.


def test_events_have_the_shape_that_is_promised(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock, id="broken", payload="{}"))
    house.work()
    clock.move(seconds=1)
    house.hear(an_event(clock, id="waits"))

    answer = a_counter(database).get("/api/v1/events")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "items": [
            {
                "id": "waits",
                "site": SITE,
                "type": "member_added",
                "state": "received",
                "received_at": "2026-05-03T12:00:01.000000Z",
                "attempts": 0,
            },
            {
                "id": "broken",
                "site": SITE,
                "type": "member_added",
                "state": "dead",
                "received_at": "2026-05-03T12:00:00.000000Z",
                "attempts": 0,
                "error": "the event names no group",
            },
        ],
        "next": None,
    }


def test_messages_have_the_shape_that_is_promised(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    clock.move(seconds=1)
    house.wix.members[MemberId("m-bob")] = replace(
        house.wix.members[ANN], id="m-bob", email="bob@example.com"
    )
    house.wix.memberships[RUNNERS, MemberId("m-bob")] = house.wix.memberships[RUNNERS, ANN]
    house.wix.subscriptions["bob@example.com"] = Subscription("UNSUBSCRIBED")
    house.hear(an_event(clock, id="e2", member="m-bob"))
    house.work()

    found = a_counter(database).get("/api/v1/messages").json()

    of_bob, of_ann = found["items"]
    assert found["next"] is None
    assert of_ann == {
        "id": of_ann["id"],
        "site": SITE,
        "member": ANN,
        "group": RUNNERS,
        "purpose": "onboarding",
        "automation": "welcome",
        "email_template": "welcome",
        "state": "sent",
        "attempts": 1,
        "created_at": "2026-05-03T12:00:00.000000Z",
        "sent_at": "2026-05-03T12:00:00.000000Z",
    }
    assert set(of_bob) == set(of_ann) - {"sent_at"} | {"reason"}
    assert (of_bob["state"], of_bob["reason"]) == ("skipped", "unsubscribed (Wix: UNSUBSCRIBED)")


def test_lists_are_narrowed_down_by_every_filter(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), replace(an_event(clock, id="e2", type="member_removed"), site=OTHER_SITE))
    house.work()
    counter = a_counter(database)

    def ids(**query: str) -> list[str]:
        return [item["id"] for item in counter.get("/api/v1/events", **query).json()["items"]]

    def letters(**query: str) -> int:
        return len(counter.get("/api/v1/messages", **query).json()["items"])

    assert (ids(site=SITE), ids(site=OTHER_SITE), ids(site="third")) == (["e1"], ["e2"], [])
    assert (ids(type="member_removed"), ids(type="member_removed", site=SITE)) == (["e2"], [])
    assert (ids(state="done"), ids(state="dead"), sorted(ids(state=""))) == (["e1"], [], ["e1", "e2"])
    for name, value in {
        "site": SITE,
        "member": ANN,
        "group": RUNNERS,
        "automation": "welcome",
        "state": "sent",
    }.items():
        assert (letters(**{name: value}), letters(**{name: "failed"})) == (1, 0), name
    assert letters(job="j1") == 0


@pytest.mark.parametrize("what", ["events", "messages"])
def test_pages_hold_every_row_once_whatever_arrives_meanwhile(database: Database, clock: Clock, what: str):
    """All of one moment, and two sites with an event of the same id: only the whole key tells them apart."""
    house = a_house(database, clock)
    people = [f"m{number}" for number in range(15)]
    house.wix.memberships = {(RUNNERS, MemberId(person)): Membership("joined") for person in people}
    ours = [an_event(clock, id=f"e{number}", member=people[number]) for number in range(5)]
    house.hear(*ours, *(replace(event, site=OTHER_SITE) for event in ours))
    house.work()
    counter = a_counter(database)
    wanted = [(item["site"], item["id"]) for item in counter.get(f"/api/v1/{what}").json()["items"]]
    assert len(set(wanted)) == 10

    found: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = counter.get(f"/api/v1/{what}", limit="3", cursor=cursor).json()
        found += [(item["site"], item["id"]) for item in page["items"]]
        cursor = page["next"]
        clock.move(seconds=1)
        house.hear(an_event(clock, id=f"new-{len(found)}", member=people[4 + len(found)]))
        house.work()

    assert found == wanted


def test_a_full_last_page_says_that_it_is_the_last(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), an_event(clock, id="e2"))

    assert a_counter(database).get("/api/v1/events", limit="2").json()["next"] is None


# Replaying.


def test_a_done_event_is_worked_off_once_more_and_nobody_is_written_to_twice(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    counter = a_counter(database)

    answer = counter.post("/api/v1/events/e1/replay")
    again = counter.post("/api/v1/events/e1/replay")
    asked_before = len(house.wix.asked)
    house.work()

    assert (answer.status_code, answer.json()["state"], counter.rings) == (200, "received", [None])
    assert "received" in problem(again, 409)["detail"]
    assert len(house.wix.asked) > asked_before, "it was worked off"
    assert house.mail.readers == ["ann@example.com"]
    assert counter.get("/api/v1/events").json()["items"][0]["state"] == "done"


def test_a_dead_event_is_replayed_when_its_cause_is_mended(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [ZeroDivisionError()] * 25
    house.hear(an_event(clock))
    for _ in range(25):
        house.work()
        clock.move(minutes=31)
    counter = a_counter(database)
    [dead] = counter.get("/api/v1/events", state="dead").json()["items"]
    assert dead["attempts"] == 24

    replayed = counter.post("/api/v1/events/e1/replay").json()
    house.work()

    assert replayed == {name: dead[name] for name in ("id", "site", "type", "received_at")} | {
        "state": "received",
        "attempts": 0,
    }
    assert house.mail.readers == ["ann@example.com"]


@pytest.mark.parametrize("id_", ["a/b", "/", "x/replay", "?a=b#c", "100%25", "a+b&c", "..."])
def test_an_event_is_found_by_any_id_that_it_may_have(database: Database, clock: Clock, id_: str):
    house = a_house(database, clock)
    house.hear(an_event(clock, id=id_), an_event(clock, id="x"))
    house.work()

    path = "/api/v1/events/" + "".join(f"%{ord(char):02X}" for char in id_) + "/replay"
    answer = a_counter(database).post(path)

    assert (answer.status_code, answer.json()["id"]) == (200, id_)


def test_an_id_that_two_sites_have_needs_the_site(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), replace(an_event(clock), site=OTHER_SITE))
    house.work()
    counter = a_counter(database)

    assert "name the site" in problem(counter.post("/api/v1/events/e1/replay"), 409)["detail"]
    assert counter.post("/api/v1/events/e1/replay", site=OTHER_SITE).json()["site"] == OTHER_SITE
    problem(counter.post("/api/v1/events/e1/replay", site="third"), 404)
    states = {item["site"]: item["state"] for item in counter.get("/api/v1/events").json()["items"]}
    assert states == {SITE: "done", OTHER_SITE: "received"}


# Letters in doubt.


def test_a_released_letter_goes_out_again_under_the_same_message_id(database: Database, clock: Clock):
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    clock.move(days=2)
    counter = a_counter(database)

    answer = counter.post(f"/api/v1/messages/{letter}/release")
    house.work()

    assert (answer.status_code, answer.json()["state"], counter.rings) == (200, "planned", [None])
    assert "reason" not in answer.json()
    first, second = message_ids(house)
    assert first == second
    assert house.rows() == [("welcome", "sent", None)]


def test_a_released_letter_whose_process_never_said_how_it_ended_waits_and_says_so(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    letter = a_letter_of_a_dead_worker(house)

    released = a_counter(database).post(f"/api/v1/messages/{letter}/release").json()
    clock.move(minutes=14)
    house.work()
    waiting = len(house.mail.letters)
    clock.move(minutes=1)
    house.work()

    # 12:00:00, then 45 s of lease and 15 minutes.
    assert released["reason"].startswith("released; waits until 2026-05-03 12:15:45 UTC")
    assert (waiting, len(house.mail.letters)) == (1, 2)
    assert house.rows() == [("welcome", "sent", None)]


@pytest.mark.parametrize("in_doubt", [a_letter_in_doubt, a_letter_of_a_dead_worker])
@pytest.mark.parametrize("change", ["unsubscribed", "left"])
def test_a_released_letter_is_decided_about_anew(
    database: Database, clock: Clock, in_doubt: Callable[[House], str], change: str
):
    house = a_house(database, clock)
    letter = in_doubt(house)
    if change == "left":
        house.wix.memberships.clear()
    else:
        house.wix.subscriptions["ann@example.com"] = Subscription("UNSUBSCRIBED")

    assert a_counter(database).post(f"/api/v1/messages/{letter}/release").status_code == 200
    clock.move(minutes=15)  # so long a dead worker's letter waits
    house.work()

    assert [state for _, state, _ in house.rows()] == ["skipped"]
    assert len(house.mail.letters) == 1


def test_a_letter_released_after_a_week_still_has_its_days_with_the_mail_server(
    database: Database, clock: Clock
):
    """Counted from its first day, the first 450 once was the end of it."""
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    clock.move(days=7)
    a_counter(database).post(f"/api/v1/messages/{letter}/release")
    house.mail.fails = [MailDeferredError("450 greylisted")]
    house.work()
    clock.move(hours=5)
    house.work()

    assert house.rows() == [("welcome", "sent", None)]


def test_a_letter_given_up_ends_as_failed_with_a_reason_and_is_never_sent(database: Database, clock: Clock):
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    counter = a_counter(database)

    given_up = counter.post(f"/api/v1/messages/{letter}/give-up")
    released = counter.post(f"/api/v1/messages/{letter}/release")
    clock.move(days=1)
    house.work()

    assert (given_up.status_code, given_up.json()["state"]) == (200, "failed")
    assert given_up.json()["reason"].startswith("given up: ")
    assert problem(released, 409)["detail"] == "the letter is failed, not in doubt"
    assert len(house.mail.letters) == 1


@pytest.mark.parametrize("action", ["release", "give-up"])
def test_only_a_letter_in_doubt_is_decided_about(database: Database, clock: Clock, action: str):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    [row] = house.services.ledger.letters()
    counter = a_counter(database)

    assert "the letter is sent" in problem(counter.post(f"/api/v1/messages/{row.id}/{action}"), 409)["detail"]
    problem(counter.post(f"/api/v1/messages/unknown/{action}"), 404)
    assert (house.rows(), counter.rings) == ([("welcome", "sent", None)], [])


def test_of_two_who_decide_at_once_one_is_told_that_it_is_decided(database: Database, clock: Clock):
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    counter = a_counter(database)

    release = ("POST", f"/api/v1/messages/{letter}/release")
    replay = ("POST", "/api/v1/events/e1/replay")
    letters = counter.all_at_once(release, release, release)
    events = counter.all_at_once(replay, replay, replay)

    for answers in (letters, events):
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    refused = next(answer for answer in events if answer.status_code == 409)
    assert problem(refused, 409)["detail"] == "the event is received, so it is worked off anyway"
    house.work()
    assert len(house.mail.letters) == 2


# Who gets in, and what is refused.

EVERYTHING = [
    ("GET", "/api/v1/events"),
    ("POST", "/api/v1/events/e1/replay"),
    ("GET", "/api/v1/messages"),
    ("POST", "/api/v1/messages/LETTER/release"),
    ("POST", "/api/v1/messages/LETTER/give-up"),
    ("GET", "/api/v1/nothing"),
    ("DELETE", "/api/v1/events"),
]


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ä",
    ],
)
def test_nobody_gets_in_without_the_token(database: Database, clock: Clock, shown: str | None):
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    before = house.services.ledger.letters(), house.services.journal.counts()
    headers = {} if shown is None else {"Authorization": shown.encode()}
    counter = a_counter(database)

    for method, path in EVERYTHING:
        answer = counter.ask(method, path.replace("LETTER", letter), headers=headers)
        assert "items" not in problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")

    assert (house.services.ledger.letters(), house.services.journal.counts()) == before
    assert counter.rings == []


def test_the_scheme_may_be_written_in_any_case(database: Database):
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert a_counter(database).ask("GET", "/api/v1/events", headers=headers).status_code == 200


@pytest.mark.parametrize("shown", ["Bearer ", "Bearer", f"Bearer {TOKEN}"])
def test_without_a_token_of_its_own_the_api_is_closed_and_says_why(
    database: Database, clock: Clock, shown: str
):
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    counter = a_counter(database, token="")

    for method, path in EVERYTHING:
        answer = counter.ask(method, path.replace("LETTER", letter), headers={"Authorization": shown})
        assert "ADMIN_TOKEN" in problem(answer, 403)["detail"]

    assert [state for _, state, _ in house.rows()] == ["in_doubt"]


@pytest.mark.parametrize(
    ("path", "query", "wrong"),
    [
        ("events", "limit=0", ["limit"]),
        ("events", "limit=-1", ["limit"]),
        ("events", "limit=1001", ["limit"]),
        ("events", "limit=1.5", ["limit"]),
        ("events", "limit=ten", ["limit"]),
        ("events", "limit=٣", ["limit"]),
        ("events", "limit=" + "9" * 5000, ["limit"]),
        ("events", "limit=2&limit=3", ["limit"]),
        ("events", "state=sent", ["state"]),
        ("events", "state=Dead", ["state"]),
        ("events", "member=m1", ["member"]),
        ("events", "site=%00", ["site"]),
        ("events", "type=" + "x" * 201, ["type"]),
        ("events", "cursor=x", ["cursor"]),
        ("events", "cursor=%C3%A4", ["cursor"]),
        ("messages", "state=received", ["state"]),
        ("messages", "type=member_added", ["type"]),
        ("messages", "limit=x&state=x&colour=red", ["colour", "limit", "state"]),
        ("events/e1/replay", "colour=red", ["colour"]),
        ("messages/m1/release", "site=s", ["site"]),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_and_its_fields_are_named(
    database: Database, path: str, query: str, wrong: list[str]
):
    method = "POST" if path.endswith(("replay", "release")) else "GET"
    found = problem(a_counter(database).ask(method, f"/api/v1/{path}?{query}"), 422)

    assert sorted(error["field"] for error in found["errors"]) == wrong
    assert all(error["detail"] for error in found["errors"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "2026-05-03T12:00:00+00:00",
        "2026-05-03T12:00:00+00:00 s",
        "2026-05-03T12:00:00+00:00 s i more",
        "2026-05-03T12:00:00+00:00 s \x00",
        "yesterday s i",
        "0001-01-01T00:00:00+23:59 s i",
        "9999-12-31T23:59:59-23:59 s i",
    ],
)
def test_a_forged_cursor_is_refused(database: Database, text: str):
    counter = a_counter(database)
    cursor = base64.urlsafe_b64encode(text.encode()).decode() or "="
    found = problem(counter.get("/api/v1/events", cursor=cursor), 422)
    assert [error["field"] for error in found["errors"]] == ["cursor"]


def test_a_cursor_of_one_list_is_none_of_the_other(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), an_event(clock, id="e2"))
    counter = a_counter(database)
    cursor = counter.get("/api/v1/events", limit="1").json()["next"]

    assert problem(counter.get("/api/v1/messages", cursor=cursor), 422)["errors"][0]["field"] == "cursor"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/api/v1/nothing", 404, None),
        ("GET", "/api/", 404, None),
        ("GET", "/api/v1/events/", 404, None),
        ("GET", "/api/v2/events", 404, None),
        ("POST", "/api/v1/events//replay", 404, None),
        ("POST", "/api/v1/events/%00/replay", 404, None),
        ("POST", "/api/v1/messages/%FF/release", 404, None),
        ("POST", "/api/v1/events", 405, "GET, HEAD"),
        ("GET", "/api/v1/events/e1/replay", 405, "POST"),
        ("PUT", "/api/v1/messages/m1/release", 405, "POST"),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    database: Database, method: str, path: str, status: int, allow: str | None
):
    answer = a_counter(database).ask(method, path)
    problem(answer, status)
    assert (", ".join(sorted(answer.headers.get("allow", "").split(", "))) or None) == allow


def test_a_database_that_is_away_is_503():
    database = Database("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/usher", timeout_s=1.0)
    counter = a_counter(database)
    for method, path in EVERYTHING[:5]:
        answer = counter.ask(method, path)
        assert "database" in problem(answer, 503)["detail"]
        assert "hunter2" not in answer.text
    assert counter.rings == []
    database.close()


def test_a_locked_database_is_503_and_nothing_was_changed(tmp_path: Path, clock: Clock):
    path = tmp_path / "usher.db"
    database = Database(f"sqlite:///{path}", timeout_s=0.1, clock=clock)
    database.migrate()
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    counter = a_counter(database)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        problem(counter.post(f"/api/v1/messages/{letter}/release"), 503)
        shown = counter.get("/api/v1/messages", state="in_doubt")
        writer.execute("ROLLBACK")
    assert [item["id"] for item in shown.json()["items"]] == [letter]
    database.close()


def test_a_defect_is_a_problem_without_its_details(database: Database):
    api = admin_api(TOKEN, replace(an_office(database), ledger=None), Limiter())  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app=Starlette(routes=[api]), raise_app_exceptions=False)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://usher.example") as client:
            return await client.get("/api/v1/messages", headers=ALLOWED)

    assert "NoneType" not in problem(asyncio.run(ask()), 500)["detail"]


# The log, and the process.


def test_each_action_is_one_line_with_who_and_ids(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = a_house(database, clock)
    letter = a_letter_in_doubt(house)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    counter = a_counter(database)

    counter.get("/api/v1/messages")
    counter.post("/api/v1/events/e1/replay")
    counter.post(f"/api/v1/messages/{letter}/release")
    house.mail.dies_after_dot = [MailInDoubtError("closed")]
    house.work()
    counter.post(f"/api/v1/messages/{letter}/give-up")
    counter.post(f"/api/v1/messages/{letter}/give-up")
    counter.ask("GET", "/api/v1/events", headers={"Authorization": "Bearer a-wrong-one"})

    ours = [
        vars(record) for record in caplog.records if record.name.startswith(("admin.api", "admin.office"))
    ]
    assert [(line["msg"], line.get("who")) for line in ours] == [
        ("event.replayed", "admin"),
        ("letter.released", "admin"),
        ("letter.given_up", "admin"),
        ("api.refused", None),
    ]
    assert (ours[0]["event_id"], ours[0]["site"]) == ("e1", SITE)
    assert (ours[1]["letter_id"], ours[1]["site"]) == (letter, SITE)
    everything = str(ours)
    assert not any(word in everything for word in (TOKEN, "a-wrong-one", "ann@example.com"))


@pytest.mark.parametrize(
    ("token", "status"), [({"admin_token": TOKEN}, 200), ({}, 403)], ids=["token", "no token"]
)
def test_the_web_process_serves_the_api_to_who_has_the_token(
    database_url: str, tmp_path: Path, token: dict[str, str], status: int
):
    async def look() -> list[httpx.Response]:
        async with running(create_app(settings_for(database_url, tmp_path, **token))) as client:
            return [
                await client.get("/api/v1/events", headers=ALLOWED),
                await client.get("/api/v1/events"),
            ]

    answers = asyncio.run(look())
    assert [answer.status_code for answer in answers] == [status, 401 if token else 403]


def test_a_replay_rings_for_a_worker_and_a_broker_that_is_away_holds_nothing_up(
    database_url: str, tmp_path: Path, clock: Clock
):
    database = Database(database_url)
    Journal(database, listened=ROUTES).insert([an_event(clock, type="unheard_of")])
    database.close()

    async def replay() -> httpx.Response:
        async with running(create_app(settings_for(database_url, tmp_path, admin_token=TOKEN))) as client:
            answer = await client.post("/api/v1/events/e1/replay", headers=ALLOWED)
            async with asyncio.timeout(30):
                while "usher_doorbell_failures 1.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.02)
            return answer

    answer = asyncio.run(replay())
    assert (answer.status_code, answer.json()["state"]) == (200, "received")
