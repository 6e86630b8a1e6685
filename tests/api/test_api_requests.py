"""Requests to join over the API: as the console, in JSON."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette

from admin.api import Limiter, admin_api
from admin.office import Office
from core.community import Group, GroupId, MemberId
from core.errors import RetryableError
from integrations.store.database import Database
from integrations.store.sites import note_site
from integrations.store.tokens import Role
from tests.api.test_api_tokens import Desk
from tests.house import RUNNERS, SITE, Clock, House, a_house
from tests.test_admin_api import TOKEN, Counter, problem
from tests.test_requests import CHOIR, OF_OTHERS, RULES, asks, told

BO, CY = MemberId("m-bo"), MemberId("m-cy")

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock, RULES + OF_OTHERS)
    found.wix.groups = {id_: Group(id_, id_, "PRIVATE") for id_ in (RUNNERS, CHOIR)}
    with database.begin() as tx:
        note_site(tx, SITE, tx.now, "active")
    return found


@pytest.fixture
def desk(house: House) -> Desk:
    api = admin_api(TOKEN, Office.of_services(house.services, house.database), Limiter())
    return Desk(house.database, Counter(Starlette(routes=[api])))


def decide(
    desk: Desk, token: str, *asked: tuple[GroupId, MemberId], decision: str = "approve", **more: Any
) -> Any:
    body = {
        "site": SITE,
        "decision": decision,
        "requests": [{"group": group, "member": member} for group, member in asked],
    }
    return desk.ask(token, "POST", "/api/v1/requests/decide", json=body | more)


def test_a_request_is_listed_with_its_answers_and_what_the_rules_say(desk: Desk, house: House, clock: Clock):
    asks(house, BO, "I am a teacher", hours=1)
    asks(house, CY, "press", hours=2)
    house.hear(told(clock, CY, "e1", hours=2))
    house.work()

    items = desk.get(TOKEN, "/api/v1/requests", site=SITE)["items"]

    assert items[0] == {
        "group": RUNNERS,
        "member": BO,
        "asked_at": "2026-05-03T11:00:00.000000Z",
        "answers": [{"question": "Why?", "text": "I am a teacher", "marks": [[7, 14, "for"]]}],
        "would": {
            "decision": "approve",
            "automation": "let-teachers-in",
            "reason": '"teacher" in the answer to "Why?"',
            "letters": [],
        },
    }
    assert items[1]["decision"]["state"] == "flagged"
    assert items[1]["decision"]["automation"] == "ask-a-person"
    flagged = desk.get(TOKEN, "/api/v1/requests", site=SITE, waits="flagged")
    assert [item["member"] for item in flagged["items"]] == [CY]
    first = desk.get(TOKEN, "/api/v1/requests", site=SITE, limit=1)
    rest = desk.get(TOKEN, "/api/v1/requests", site=SITE, limit=1, cursor=first["next"])
    assert [item["member"] for item in rest["items"]] == [CY]
    assert rest["next"] is None


def test_a_decision_is_made_and_undone(desk: Desk, house: House):
    asks(house, BO, hours=1)
    token = desk.token("manager")

    made = decide(desk, token, (RUNNERS, BO), (RUNNERS, CY), decision="reject", reason="Full.").json()

    [row], [refused] = made["decided"], made["refused"]
    assert (row["state"], row["who"], row["told"]) == ("planned", "token a-manager", "Full.")
    assert row["undo_until"] == "2026-05-03T12:00:15.000000Z"
    assert refused == {"group": RUNNERS, "member": CY, "detail": "the request is not pending at Wix any more"}
    undone = desk.ask(token, "POST", f"/api/v1/requests/{row['id']}/undo")
    assert (undone.status_code, undone.json()["state"]) == (200, "undone")
    assert "undo_until" not in undone.json()
    problem(desk.ask(token, "POST", f"/api/v1/requests/{row['id']}/undo"), 409)
    problem(decide(desk, token, (RUNNERS, CY)), 409)
    problem(decide(desk, token, (RUNNERS, BO), reason="hello"), 422)


def test_a_group_admin_s_token_reaches_its_groups_alone(desk: Desk, house: House, clock: Clock):
    asks(house, BO, hours=1)
    asks(house, CY, group=CHOIR, hours=1)
    house.hear(told(clock, BO, "e1", hours=1), told(clock, CY, "e2", group=CHOIR, hours=1))
    house.work()
    token = desk.token(Role.GROUP_ADMIN)
    [row] = decide(desk, TOKEN, (CHOIR, CY)).json()["decided"]

    for path in ("requests", "requests/history"):
        found = desk.get(token, f"/api/v1/{path}", site=SITE)
        assert [item["member"] for item in found["items"]] == [BO]
    problem(decide(desk, token, (CHOIR, CY)), 404)
    problem(desk.ask(token, "POST", f"/api/v1/requests/{row['id']}/undo"), 404)
    problem(desk.ask(token, "GET", "/api/v1/requests", params={"site": SITE, "group": CHOIR}), 404)
    problem(desk.ask(token, "GET", "/api/v1/requests", params={"site": "another-site"}), 404)
    problem(decide(desk, desk.token(Role.READER), (RUNNERS, BO)), 403)


def test_the_history_says_what_became_of_a_request(desk: Desk, house: House, clock: Clock):
    asks(house, BO, "a teacher", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()

    [item] = desk.get(TOKEN, "/api/v1/requests/history", site=SITE)["items"]

    assert (item["outcome"], item["ours"], item["decision"]["automation"]) == (
        "approved",
        True,
        "let-teachers-in",
    )


def test_a_rule_is_tried_on_past_requests(desk: Desk, house: House, clock: Clock):
    asks(house, BO, "I coach", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()

    def tried(**body: Any) -> Any:
        return desk.ask(TOKEN, "POST", "/api/v1/requests/back-test", json={"site": SITE, **body})

    found = tried(automation="let-teachers-in", answers={"any": ["coach"]}).json()
    assert (found["total"], found["before"], found["after"]) == (1, {"none": 1}, {"approve": 1})
    assert [(item["member"], item["after"]["decision"]) for item in found["changed"]] == [(BO, "approve")]
    new = tried(answers={"any": ["coach"]}, decide="reject").json()
    assert [item["after"]["automation"] for item in new["changed"]] == ["new-rule"]
    problem(tried(automation="nobody"), 404)
    assert house.services.automations.named("of-another-site") is not None
    problem(tried(automation="of-another-site"), 404)
    wrong = problem(tried(automation="let-teachers-in", answers={"any": ["!"]}), 422)
    assert [error["field"] for error in wrong["errors"]] == ["any"]


def test_while_wix_is_away_there_is_no_list_rather_than_an_empty_one(desk: Desk, house: House):
    asks(house, BO, hours=1)
    house.wix.fails["list_join_requests"] = [RetryableError("away")] * 5

    problem(desk.ask(TOKEN, "GET", "/api/v1/requests", params={"site": SITE}), 503)
