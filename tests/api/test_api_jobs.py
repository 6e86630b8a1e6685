"""Jobs over the API, on real databases: begun, previewed, confirmed, held, ended, and shown to whom they belong."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

import admin.api
from admin.api import OPERATIONS, problems
from admin.jobs import described
from admin.jobs.described import rows_of
from core.community import Group, GroupId, MemberId, Membership, SiteId
from integrations.store.database import Database
from integrations.store.jobs import Item, Jobs, write_items
from integrations.store.ledger import Ledger
from integrations.store.tables import messages
from tests.api.test_api_tokens import Desk, a_desk
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house
from tests.test_admin_api import TOKEN, problem

OTHER_SITE = SiteId("another-site")
CHESS = GroupId("c0ffee00-1c5d-4f7a-a1c8-7d4b0e6f3a52")
LETTER = {"group": RUNNERS, "email": "welcome", "purpose": "onboarding"}
SHAPES = {operation.act.__name__: operation.answers for operation in OPERATIONS}


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    found.wix.groups[CHESS] = Group(CHESS, "Chess")
    found.wix.memberships[CHESS, MemberId(ANN)] = Membership("joined")
    return found


@pytest.fixture
def desk(database: Database, house: House) -> Desk:
    return a_desk(database)


def begin(
    desk: Desk, kind: str, params: Any, *, token: str = TOKEN, key: str = "key-1", site: str = SITE
) -> httpx.Response:
    body = {"kind": kind, "site": site, "params": params}
    return desk.ask(token, "POST", "/api/v1/jobs", json=body, headers={"Idempotency-Key": key})


def act(desk: Desk, id_: str, what: str, token: str = TOKEN, **more: Any) -> httpx.Response:
    return desk.ask(token, "POST", f"/api/v1/jobs/{id_}/{what}", **more)


def shaped(answer: httpx.Response, act: str, status: int = 200) -> dict[str, Any]:
    """What was answered, found to be of the shape that is described."""
    assert answer.status_code == status, answer.text
    adapter = SHAPES[act]
    assert isinstance(adapter, TypeAdapter)
    adapter.validate_json(answer.content)
    found: dict[str, Any] = answer.json()
    return found


# From the preview to the end.


def test_a_job_is_previewed_confirmed_and_done(desk: Desk, house: House):
    begun = begin(desk, "group_email", LETTER)
    job = shaped(begun, "create_job", 202)
    assert begun.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["site"], job["params"]) == (
        "previewing",
        "group_email",
        SITE,
        LETTER,
    )
    assert "confirm_token" not in job

    house.turn()
    previewed = shaped(desk.ask(TOKEN, "GET", begun.headers["location"]), "show_job")
    assert previewed["state"] == "previewed"
    assert previewed["counts"]["total"] == 1
    assert previewed["cost"]["wix_calls"] > 0
    assert house.mail.readers == []

    confirmed = act(desk, job["id"], "confirm", json={"confirm_token": previewed["confirm_token"]})
    running = shaped(confirmed, "confirm_job")
    assert running["state"] == "running"
    assert "confirm_token" not in running
    assert running["eta"] >= "2026-05-03T12:00:00"
    house.turn()

    done = shaped(desk.ask(TOKEN, "GET", begun.headers["location"]), "show_job")
    assert (done["state"], done["counts"]) == (
        "done",
        {"total": 1, "done": 1, "skipped": 0, "failed": 0, "in_doubt": 0},
    )
    assert house.mail.readers == ["ann@example.com"]
    assert "eta" not in done
    [message] = desk.get(TOKEN, "/api/v1/messages", job=job["id"])["items"]
    assert (message["member"], message["state"]) == (ANN, "sent")
    assert desk.counter.rings == [None, None]


def test_what_its_state_forbids_is_409_and_changes_nothing(desk: Desk, house: House):
    id_ = begin(desk, "group_email", LETTER).json()["id"]
    problem(act(desk, id_, "confirm", json={"confirm_token": "x"}), 409)
    house.turn()
    problem(act(desk, id_, "confirm", json={"confirm_token": "x"}), 409)
    for what in ("pause", "resume", "retry-failed"):
        assert "previewed" in problem(act(desk, id_, what), 409)["detail"]
    problem(act(desk, id_, "rollback", headers={"Idempotency-Key": "k"}), 409)
    problem(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/report"), 404)

    assert shaped(act(desk, id_, "cancel"), "cancel_job")["state"] == "cancelled"
    problem(act(desk, id_, "cancel"), 409)
    house.turn()
    assert house.mail.readers == []


def test_a_running_job_is_paused_resumed_and_cancelled(desk: Desk, house: House):
    id_ = begin(desk, "group_email", LETTER).json()["id"]
    house.turn()
    token = house.job(id_).confirm_token
    act(desk, id_, "confirm", json={"confirm_token": token})

    assert shaped(act(desk, id_, "pause"), "pause_job")["state"] == "paused"
    house.turn()
    assert house.mail.readers == []
    assert shaped(act(desk, id_, "resume"), "resume_job")["state"] == "running"
    assert shaped(act(desk, id_, "cancel"), "cancel_job")["state"] == "cancelled"
    house.turn()

    job = desk.get(TOKEN, f"/api/v1/jobs/{id_}")
    assert (job["counts"]["skipped"], house.mail.readers) == (1, [])
    actions = [line["action"] for line in desk.get(TOKEN, "/api/v1/audit", object=f"job {id_}")["items"]]
    assert sorted(actions) == ["job.cancel", "job.confirm", "job.create", "job.pause", "job.resume"]


def test_a_report_runs_at_once_and_comes_as_a_file(desk: Desk, house: House):
    id_ = begin(desk, "groups_report", {"top": 1}).json()["id"]
    problem(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/report"), 409)
    house.turn()
    job = shaped(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}"), "show_job")

    assert (job["state"], job["result"]["total"], len(job["result"]["most_popular"])) == ("done", 2, 1)
    for query, media_type in (
        ({}, "application/json"),
        ({"format": "html"}, "text/html"),
        ({"format": "csv"}, "text/csv"),
    ):
        answer = desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/report", params=query)
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, media_type)
        assert answer.headers["content-disposition"].startswith("attachment; ")
    problem(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/report", params={"format": "exe"}), 422)


# Once for a key.


def test_the_same_key_and_body_is_the_same_job_and_another_body_is_422(desk: Desk, house: House):
    first = begin(desk, "group_email", LETTER)
    again = begin(desk, "group_email", dict(reversed(LETTER.items())))
    other = begin(desk, "group_email", LETTER | {"purpose": "promotional"})

    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert problem(other, 422)["errors"][0]["field"] == "Idempotency-Key"
    assert len(desk.get(TOKEN, "/api/v1/jobs")["items"]) == 1
    assert desk.counter.rings == [None]


def test_a_key_is_one_s_own(desk: Desk):
    """Somebody else's job is neither shown nor stood in for by who guesses its key."""
    one, two = desk.token("manager", "one"), desk.token("manager", "two", sites=[OTHER_SITE])
    ours = begin(desk, "groups_report", {}, token=one).json()["id"]
    theirs = begin(desk, "groups_report", {}, token=two, site=OTHER_SITE)

    assert theirs.status_code == 202
    assert theirs.json()["id"] != ours
    problem(begin(desk, "groups_report", {}, token=two, site=SITE), 403)


def test_the_same_request_many_times_at_once_is_one_job(desk: Desk):
    body = {"kind": "groups_report", "site": SITE, "params": {}}
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "k"}
    answers = desk.counter.all_at_once(*[("POST", "/api/v1/jobs")] * 8, json=body, headers=headers)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


@pytest.mark.parametrize("keys", [[], [""], ["a b"], ["ä".encode()], ["x" * 201], ["one", "two"]])
def test_without_one_key_nothing_is_begun(desk: Desk, keys: list[Any]):
    headers = [("Authorization", f"Bearer {TOKEN}"), *(("Idempotency-Key", key) for key in keys)]
    body = {"kind": "groups_report", "site": SITE, "params": {}}
    answer = desk.counter.ask("POST", "/api/v1/jobs", json=body, headers=headers)
    assert problem(answer, 422)["errors"][0]["field"] == "Idempotency-Key"
    assert desk.get(TOKEN, "/api/v1/jobs")["items"] == []


# What cannot be meant.


@pytest.mark.parametrize(
    ("kind", "params", "wrong"),
    [
        ("group_email", {}, ["params.email", "params.group", "params.purpose"]),
        ("group_email", LETTER | {"email": "no-such-letter"}, ["params.email"]),
        ("group_email", LETTER | {"purpose": "spam"}, ["params.purpose"]),
        ("group_email", LETTER | {"also_later_joiners": 1}, ["params.also_later_joiners"]),
        ("group_email", LETTER | {"colour": "red"}, ["params.colour"]),
        ("group_email", LETTER | {"context": {"a": "x" * 20_001}}, ["params.context"]),
        ("group_email", LETTER | {"context": {"a": ["x\x00"]}}, [""]),  # PostgreSQL keeps no such character
        ("interest_email", {"email": "yoga-offer", "answers": {}}, ["params.answers"]),
        ("create_group", {"group": {"name": "Yoga", "creatorId": "m1"}, "people": []}, ["params.people"]),
        (
            "create_group",
            {
                "group": {"name": "Yoga", "creatorId": "m1"},
                "people": [{"email": "ann@example.com"}, {"email": "nobody"}, {"phone": "abc"}],
            },
            ["params.people.1.email", "params.people.2.phone"],
        ),
        ("rules_rollout", {}, ["params"]),
        ("rules_rollout", {"rollback": "unknown"}, ["params.rollback"]),
        ("questions_rollout", {"questions": [{"text": ""}]}, ["params.questions.0.text"]),
        ("groups_report", {"top": "10"}, ["params.top"]),
        ("groups_report", [], ["params"]),
        ("nonsense", {}, ["kind"]),
    ],
)
def test_bad_params_are_refused_at_once_and_each_field_is_named(
    desk: Desk, kind: str, params: Any, wrong: list[str]
):
    answer = begin(desk, kind, params)
    assert sorted(error["field"] for error in problem(answer, 422)["errors"]) == wrong
    assert "nobody" not in answer.text
    assert desk.get(TOKEN, "/api/v1/jobs")["items"] == []


def test_a_list_of_people_may_be_long_and_anything_else_may_not(desk: Desk):
    people = [{"email": f"{'x' * 40}{number}@example.com", "name": "y" * 200} for number in range(10_000)]
    group = {"name": "Yoga", "creatorId": "m1"}
    assert begin(desk, "create_group", {"group": group, "people": people}).status_code == 202
    answer = begin(desk, "create_group", {"group": group, "people": [{"name": "y" * 13_000_000}]}, key="k2")
    problem(answer, 413)
    problem(act(desk, "x", "confirm", json={"confirm_token": "x" * 70_000}), 413)


WRONG_KEYS = {f"key{number}": 1 for number in range(140)}
PERSON = {"email": "ann@example.com"}


@pytest.mark.parametrize(
    ("kind", "params", "first"),
    [
        ("create_group", {"people": [PERSON] * 250 + [WRONG_KEYS] * 1000}, "params.people.250"),
        ("create_group", {"people": [PERSON] * 250 + [{"a": 1, "b": 1}] * 9000}, "params.people.250.email"),
        ("create_group", {"people": [1] * 10_000}, "params.people.0"),
        ("create_group", {"people": [PERSON] * 10_000} | WRONG_KEYS, "params.group"),
        ("create_group", {"group": [WRONG_KEYS] * 100, "people": [PERSON]}, ""),
        ("rules_rollout", {"rules": [WRONG_KEYS] * 90}, ""),
        ("interest_email", {"answers": {"any": [1] * 10_000}}, ""),
        ("groups_report", {str(number): 1 for number in range(10_000)}, ""),
    ],
)
def test_of_a_body_that_is_wrong_everywhere_the_first_mistakes_alone_are_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, kind: str, params: Any, first: str
):
    made = [0]
    real = problems.fields_of

    def count(exc: ValidationError, **more: bool) -> list[tuple[str, str]]:
        made.append(exc.error_count())
        return real(exc, **more)

    for reader in (admin.api.reading, admin.api.jobs):
        monkeypatch.setattr(reader, "fields_of", count)

    errors = problem(begin(desk, kind, params), 422)["errors"]

    if first.endswith(".email"):  # of one person pydantic begins where it likes
        assert errors[0]["field"].startswith(first.removesuffix("email"))
    else:
        assert errors[0]["field"] == first
    assert len(errors) <= 100
    assert max(made) <= 600


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_that_no_database_keeps_is_refused(desk: Desk, number: str):
    begin(desk, "groups_report", {})
    body = {"kind": "group_email", "site": SITE, "params": LETTER | {"context": {"a": [{"b": "NUMBER"}]}}}
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    content = json.dumps(body).replace('"NUMBER"', number)
    answer = desk.ask(TOKEN, "POST", "/api/v1/jobs", content=content, headers=headers)
    [error] = problem(answer, 422)["errors"]
    assert (error["field"], error["detail"]) == (
        "params.context",
        "Value error, holds a number that is too large, or is none",
    )
    assert len(desk.get(TOKEN, "/api/v1/jobs")["items"]) == 1


def test_one_large_body_is_read_at_a_time_and_small_ones_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(admin.api, "BIG_BODY_WAITS_S", 0.2)
    people = [{"name": "y" * 200, "row": number} for number in range(1, 1000)]
    group = {"name": "Yoga", "creatorId": "m1"}
    params = {"group": group, "people": people}
    large = json.dumps({"kind": "create_group", "site": SITE, "params": params}).encode()
    small = json.dumps({"kind": "groups_report", "site": SITE, "params": {}}).encode()

    async def ask() -> tuple[list[httpx.Response], httpx.Response]:
        is_read, goes_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield large[:100]
            is_read.set()
            await goes_on.wait()
            yield large[100:]

        transport = httpx.ASGITransport(app=desk.counter.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://usher.example") as client:

            async def post(content: Any, key: str) -> httpx.Response:
                headers = {
                    "Authorization": f"Bearer {TOKEN}",
                    "Content-Type": "application/json",
                    "Idempotency-Key": key,
                }
                return await client.post("/api/v1/jobs", content=content, headers=headers)

            first = asyncio.create_task(post(slowly(), "k1"))
            await is_read.wait()
            meanwhile = [await post(large, "k2"), await post(small, "k3")]
            goes_on.set()
            return [await first, meanwhile[1], await post(large, "k2")], meanwhile[0]

    served, refused = asyncio.run(asyncio.wait_for(ask(), 30))
    assert [answer.status_code for answer in served] == [202] * 3
    problem(refused, 503)
    assert "retry-after" in refused.headers


# Whose jobs.


def test_jobs_of_another_site_are_not_there(desk: Desk, house: House):
    theirs = begin(desk, "groups_report", {}, site=OTHER_SITE).json()["id"]
    ours = begin(desk, "groups_report", {}, key="key-2").json()["id"]
    token = desk.token("manager")

    assert [job["id"] for job in desk.get(token, "/api/v1/jobs")["items"]] == [ours]
    for operation in OPERATIONS:
        if operation.path.startswith("/v1/jobs/{id}"):
            path = f"/api{operation.path}"
            more: dict[str, Any] = {"json": {"confirm_token": "x"}} if operation.body else {}
            headers = {"Idempotency-Key": "k"}
            answer = desk.ask(token, operation.method, path.format(id=theirs), headers=headers, **more)
            problem(answer, 404)
    assert len(desk.get(TOKEN, "/api/v1/jobs")["items"]) == 2


def test_a_group_s_admin_writes_to_their_group_and_sees_nothing_else(desk: Desk, house: House):
    token = desk.token("group_admin")
    by_name = begin(desk, "group_email", LETTER | {"group": "Trail Runners"}, key="key-2").json()["id"]
    chess = begin(desk, "group_email", LETTER | {"group": CHESS}, key="key-3").json()["id"]
    report = begin(desk, "groups_report", {}, key="key-4").json()["id"]
    everywhere = {"groups": [RUNNERS], "answers": {"any": ["x"]}, "email": "welcome"}

    mine = begin(desk, "group_email", LETTER, token=token)
    assert mine.status_code == 202
    for kind, params in (
        ("groups_report", {}),
        ("interest_email", everywhere),
        ("group_email", LETTER | {"group": CHESS}),
        ("group_email", LETTER | {"group": "Trail Runners"}),
    ):
        problem(begin(desk, kind, params, token=token, key="key-5"), 403)
    problem(begin(desk, "group_email", LETTER, token=token, key="key-5", site=OTHER_SITE), 403)

    def seen() -> set[str]:
        return {job["id"] for job in desk.get(token, "/api/v1/jobs")["items"]}

    assert seen() == {mine.json()["id"]}, "nobody has looked yet which group the name means"
    house.turn()
    assert seen() == {mine.json()["id"], by_name}
    for hidden in (chess, report):
        problem(desk.ask(token, "GET", f"/api/v1/jobs/{hidden}"), 404)
        problem(act(desk, hidden, "cancel", token=token), 404)
    assert {item["group"] for item in desk.get(token, "/api/v1/messages")["items"]} == {RUNNERS}


def test_a_reader_begins_and_decides_nothing(desk: Desk, house: House):
    id_ = begin(desk, "groups_report", {}).json()["id"]
    token = desk.token("reader")
    problem(begin(desk, "groups_report", {}, token=token), 403)
    problem(act(desk, id_, "cancel", token=token), 403)
    assert desk.get(token, f"/api/v1/jobs/{id_}")["id"] == id_


# Lists and files.


def test_jobs_are_listed_newest_first_and_narrowed_down(desk: Desk, house: House, clock: Clock):
    ids = []
    for number in range(5):
        site = SITE if number % 2 else OTHER_SITE
        ids.append(begin(desk, "groups_report", {}, key=f"key-{number}", site=site).json()["id"])
        clock.move(seconds=1)
    mail = begin(desk, "group_email", LETTER, key="mail").json()["id"]

    first = shaped(desk.ask(TOKEN, "GET", "/api/v1/jobs", params={"limit": "4"}), "list_jobs")
    rest = desk.get(TOKEN, "/api/v1/jobs", limit=4, cursor=first["next"])
    assert [job["id"] for job in first["items"] + rest["items"]] == [mail, *reversed(ids)]

    def narrowed(**query: str) -> list[str]:
        return [job["id"] for job in desk.get(TOKEN, "/api/v1/jobs", **query)["items"]]

    assert narrowed(kind="group_email") == narrowed(state="previewing") == [mail]
    assert narrowed(site=SITE, kind="groups_report") == [ids[3], ids[1]]
    problem(desk.ask(TOKEN, "GET", "/api/v1/jobs", params={"kind": "x", "state": "y"}), 422)


def test_rows_of_a_job_come_in_pages_and_as_csv_without_formulas(
    desk: Desk, database: Database, house: House
):
    id_ = begin(desk, "rules_rollout", {"rules": [], "to_groups": ["*"]}).json()["id"]
    job = replace_job(database, id_)
    reasons = [
        "=HYPERLINK(1)",
        "+1",
        "-1",
        "@x",
        "\tx",
        "\u200b \ufeff=1+1",
        "\x01=1",
        'fine, and "quoted"\nlines',
        None,
    ]
    with database.begin() as tx:
        write_items(
            tx,
            job,
            [
                Item(number, "skipped" if reason else "done", reason, group=GroupId(f"g{number}"))
                for number, reason in enumerate(reasons)
            ],
        )

    first = shaped(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/items", params={"limit": "3"}), "list_items")
    rest = desk.get(TOKEN, f"/api/v1/jobs/{id_}/items", cursor=first["next"])
    items = first["items"] + rest["items"]
    assert [item["number"] for item in items] == list(range(9))
    assert items[-1] == {"number": 8, "state": "done", "group": "g8", "attempts": 0}
    assert len(desk.get(TOKEN, f"/api/v1/jobs/{id_}/items", state="done")["items"]) == 1
    for forged in ("x", "LTE", "MTIzNDU2Nzg5MDEyMw"):
        problem(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/items", params={"cursor": forged}), 422)

    answer = desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/rows.csv")
    header, *rows = csv.reader(io.StringIO(answer.text))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert header == ["row", "member", "group", "state", "reason", "sent_at", "group_name"]
    assert [row[4] for row in rows] == [f"'{reason}" for reason in reasons[:7]] + [reasons[7], ""]


def test_everybody_a_letter_was_meant_for_is_in_the_csv_once(desk: Desk, house: House):
    people = [MemberId(f"m{number:04}") for number in range(1500)]
    for person in people:
        house.wix.members[person] = replace(house.wix.members[ANN], id=person, email=f"{person}@example.com")
        house.wix.memberships[RUNNERS, person] = Membership("joined")
    id_ = begin(desk, "group_email", LETTER).json()["id"]
    house.turn()

    rows = list(csv.DictReader(io.StringIO(desk.ask(TOKEN, "GET", f"/api/v1/jobs/{id_}/rows.csv").text)))
    assert sorted(row["member"] for row in rows) == sorted([ANN, *people])
    assert {row["group"] for row in rows} == {RUNNERS}
    assert {row["state"] for row in rows} == {"planned", "skipped"}


def test_a_letter_that_changes_its_state_while_rows_are_read_is_among_them_once(
    desk: Desk, database: Database, house: House, monkeypatch: pytest.MonkeyPatch
):
    other = MemberId("m-other")
    house.wix.members[other] = replace(house.wix.members[ANN], id=other, email="other@example.com")
    house.wix.memberships[RUNNERS, other] = Membership("joined")
    id_ = begin(desk, "group_email", LETTER).json()["id"]
    house.turn()
    ledger = Ledger(database)
    first, second = sorted(ledger.page(job=id_), key=lambda row: str(row.id))

    def turn(letter: Any, state: str) -> None:
        with database.begin() as tx:
            tx.execute(sa.update(messages).where(messages.c.id == letter.id).values(state=state))

    turn(first, "skipped")
    turn(second, "planned")
    monkeypatch.setattr(described, "ROWS_AT_ONCE", 1)
    pages = rows_of(id_, ledger, Jobs(database))
    found = list(next(pages))
    turn(first, "planned")
    found += [row for page in pages for row in page]

    assert sorted(str(row[1]) for row in found) == sorted([first.member, second.member])


def replace_job(database: Database, id_: str) -> Any:
    claimed = Jobs(database).claim()
    assert claimed is not None
    assert claimed.job.id == id_
    return claimed.job


def test_a_rollout_that_is_over_is_rolled_back_by_a_job_of_its_own(desk: Desk, house: House):
    rules = [{"title": "Be kind", "description": ""}]
    id_ = begin(desk, "rules_rollout", {"rules": rules, "to_groups": ["*"]}).json()["id"]
    problem(act(desk, id_, "rollback", headers={"Idempotency-Key": "k"}), 409)
    house.turn()
    house.confirm(id_)

    back = act(desk, id_, "rollback", headers={"Idempotency-Key": "k"})
    again = act(desk, id_, "rollback", headers={"Idempotency-Key": "k"})
    job = shaped(back, "roll_back", 202)
    assert (job["kind"], job["params"], job["state"]) == ("rules_rollout", {"rollback": id_}, "previewing")
    assert again.json()["id"] == job["id"]
    problem(act(desk, id_, "rollback"), 422)
    house.turn()
    house.confirm(job["id"])
    assert house.wix.list_rules(SITE, RUNNERS) == ()


def test_what_somebody_typed_is_in_no_log(desk: Desk, house: House, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    typed = "secret@example.com"
    group = {"name": typed, "creatorId": ANN}
    id_ = begin(desk, "create_group", {"group": group, "people": [{"email": typed}]}, site=typed).json()["id"]
    begin(desk, "create_group", {"group": group, "people": [{"email": typed, typed: typed}]}, key="k2")
    begin(desk, typed, {typed: typed}, key="k3")
    begin(desk, "group_email", LETTER | {"email": typed, "context": {typed: typed}}, key="k4")
    desk.ask(TOKEN, "GET", "/api/v1/jobs", params={"site": typed, "kind": typed, typed: typed})
    act(desk, typed, "cancel")
    act(desk, id_, "confirm", json={"confirm_token": typed})
    act(desk, id_, "cancel")

    everything = [str(vars(record)) for record in caplog.records if not record.name.startswith("httpx")]
    assert "job.created" in str(everything)
    assert "job.decided" in str(everything)
    assert not [line for line in everything if "secret@" in line]


def test_what_was_sent_is_in_no_answer_about_another_job(desk: Desk, house: House):
    group = {"name": "Yoga", "creatorId": ANN}
    begin(desk, "create_group", {"group": group, "people": [{"email": "secret@example.com"}]})
    answer = begin(desk, "create_group", {"group": group, "people": [{"email": "other@example.com"}]})
    assert "secret@" not in json.dumps(problem(answer, 422))
