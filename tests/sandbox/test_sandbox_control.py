"""The control API and the overview page."""

import json
import re
import shlex
from typing import Any

import httpx
import pytest

from sandbox.acts import ACTS
from sandbox.house import Sandbox
from sandbox.switches import SwitchError, Switches, patched
from tests.sandbox.seaside import ADA, CHLOE, DMITRI, RUNNERS, YOGA

pytestmark = pytest.mark.anyio

NUMBER_AS_ANSWER = {"act": "request_join", "group": RUNNERS, "member": DMITRI, "answers": {"x": 1}}


@pytest.mark.parametrize(
    ("method", "path", "body", "complaint"),
    [
        ("PATCH", "/sandbox/switches", {"outages": True, "colour": 1}, "unknown switch: colour, outages"),
        ("PATCH", "/sandbox/switches", {"outage": "yes"}, "outage: expected true or false"),
        ("PATCH", "/sandbox/switches", {"failure_rate": 2}, "failure_rate: expected a number from 0 to 1"),
        ("PATCH", "/sandbox/switches", {"webhook_copies": 1.5}, "webhook_copies: expected a whole number"),
        ("PATCH", "/sandbox/switches", {"totals": "some"}, "totals: expected one of always, documented, never"),
        ("PATCH", "/sandbox/switches", {"refuse_app_tokens": ["all"]}, "refuse_app_tokens: expected a list of"),
        ("PATCH", "/sandbox/switches", {"failure_statuses": [200]}, "failure_statuses: expected a list of"),
        ("PATCH", "/sandbox/switches", {"broken_answers": ["xml"]}, "broken_answers: expected a list of hang, html"),
        ("PATCH", "/sandbox/switches", {"failing_groups": {"Yoga": 400}}, "failing_groups: expected an object"),
        ("PATCH", "/sandbox/switches", {"failing_groups": {YOGA: 200}}, "failing_groups: expected an object"),
        ("PATCH", "/sandbox/switches", {"failing_groups": {YOGA: True}}, "failing_groups: expected an object"),
        ("PATCH", "/sandbox/switches", {"failing_groups": [YOGA]}, "failing_groups: expected an object"),
        ("PATCH", "/sandbox/switches", [], "body: expected an object"),
        ("POST", "/sandbox/acts", {}, "act is missing"),
        ("POST", "/sandbox/acts", {"act": "dance"}, "unknown 'dance'; there are sign_up"),
        ("POST", "/sandbox/acts", {"act": "leave", "group": "Yoga", "member": ADA}, "leave: no group 'Yoga'"),
        ("POST", "/sandbox/acts", {"act": "leave", "group": YOGA, "member": "Bo"}, "leave: no member 'Bo'"),
        ("POST", "/sandbox/acts", {"act": "leave", "group": YOGA, "member": DMITRI}, "is not in the group"),
        ("POST", "/sandbox/acts", {"act": "request_join", "group": RUNNERS, "member": DMITRI}, "Which class"),
        ("POST", "/sandbox/acts", NUMBER_AS_ANSWER, "answers must be strings"),
        ("POST", "/sandbox/acts", {"act": "remove_app", "webhook": {"copies": 0}}, "copies must be a whole number"),
        ("POST", "/sandbox/acts", {"act": "remove_app", "webhook": {"copy": 1}}, "webhook: unknown copy"),
        ("POST", "/sandbox/acts", {"act": "sign_up", "first": "A", "email": "ADA@example.com"}, "exists already"),
        ("POST", "/sandbox/webhooks", {"eventType": "AppInstalled"}, "data is missing"),
        ("POST", "/sandbox/webhooks", {"eventType": "A", "data": {}, "variant": "evil"}, "variant must be one of"),
        ("PUT", "/sandbox/webhook-url", {"url": "ftp://example.com"}, "is not an http or https address"),
        ("PUT", "/sandbox/webhook-url", {"url": "http://127.0.0.1:99999"}, "is not an http or https address"),
        ("PUT", "/sandbox/community", {"members": [{}]}, "email is missing"),
        ("GET", "/mail.json?after=x", None, "after: expected a number"),
        ("GET", "/sandbox/calls?after=-1", None, "after: expected a number"),
    ],
)  # fmt: skip
async def test_bad_input_is_a_400_that_says_what_and_changes_nothing(
    browser: httpx.AsyncClient, sandbox: Sandbox, method: str, path: str, body: Any, complaint: str
) -> None:
    before = (await browser.get("/sandbox/state")).json(), sandbox.switches, sandbox.sender.url

    answer = await browser.request(method, path, json=body)

    assert answer.status_code == 400, answer.text
    assert complaint in answer.json()["error"]
    assert ((await browser.get("/sandbox/state")).json(), sandbox.switches, sandbox.sender.url) == before
    assert list(sandbox.sender.deliveries) == []


async def test_what_is_no_json_is_a_400_and_what_is_nowhere_a_404(browser: httpx.AsyncClient) -> None:
    assert (await browser.post("/sandbox/acts", content=b"{")).status_code == 400
    nowhere = await browser.get("/sandbox/nowhere")
    assert (nowhere.status_code, "PUT /sandbox/community" in nowhere.json()["error"]) == (404, True)


async def test_switches_are_changed_one_by_one(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await browser.patch("/sandbox/switches", json={"outage": True})
    answer = await browser.patch("/sandbox/switches", json={"latency_s": 1})

    assert (sandbox.switches.outage, answer.json()["latency_s"]) == (True, 1.0)
    assert (await browser.get("/sandbox/switches")).json() == answer.json()


def test_nothing_is_switched_when_one_of_two_values_is_bad() -> None:
    with pytest.raises(SwitchError):
        patched(Switches(), {"outage": True, "latency_s": -1})


async def test_another_community_takes_the_place_of_the_first(
    browser: httpx.AsyncClient, sandbox: Sandbox, wix: httpx.AsyncClient
) -> None:
    community = {
        "site": {"name": "Tiny"},
        "groups": [
            {"name": "Chess", "privacy": "PRIVATE", "questions": [{"text": "Why?", "required": True}]}
        ],
        "members": [{"first": "Eve", "email": "eve@example.com"}, {"first": "Kim", "email": ""}],
        "subscriptions": {"eve@example.com": {"status": "SUBSCRIBED", "deliverability": "BOUNCED"}},
        "memberships": [{"group": "Chess", "member": "Kim", "answers": {"Why?": "fun"}}],
        "join_requests": [{"group": "Chess", "member": "eve@example.com", "answers": {"Why?": "openings"}}],
    }
    ids = (await browser.put("/sandbox/community", json=community)).json()

    state = (await browser.get("/sandbox/state")).json()
    (group,) = state["groups"]
    assert (state["site"]["name"], ids["groups"]) == ("Tiny", {"Chess": group["id"]})
    assert (len(state["members"]), group["membersCount"]) == (2, 1)
    assert state["subscriptions"][0]["deliverabilityStatus"] == "BOUNCED"
    assert {tuple(answers.values()) for answers in group["answers"].values()} == {("fun",), ("openings",)}
    assert list(sandbox.sender.deliveries) == []
    assert (await wix.get("/members/v1/members")).status_code == 401


async def test_the_whole_life_of_a_member_can_be_acted(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    async def act(act_name: str, /, **arguments: Any) -> Any:
        answer = await browser.post("/sandbox/acts", json={"act": act_name, **arguments})
        assert answer.status_code == 200, answer.text
        return answer.json()

    eve = await act("sign_up", first="Eve", email="eve@example.com")
    who = {"group": "Trail Runners", "member": "eve@example.com"}
    answers = {"Which class are you most interested in?": "yoga"}
    await act("request_join", **who, answers=answers)
    await act("cancel_request", **who)
    await act("request_join", **who, answers=answers)
    await act("reject", **who, reason="full")
    await act("request_join", **who, answers=answers)
    approved = await act("approve", **who)
    await act("assign_role", **who)
    await act("unassign_role", **who)
    await act("leave", **who)
    await act("add_member", **who)
    await act("remove_member", **who)
    await act("self_join", group="Sunrise Yoga", member="Eve")
    await act("set_subscription", member="Eve", status="SUBSCRIBED")
    await act("update_member", member="Eve", status="BLOCKED")
    group = (await act("create_group", member="Eve", name="Kites"))["group"]
    await act("rename_group", group=group, name="Dragons")
    await act("set_privacy", group="Dragons", privacy="PRIVATE")
    await act("set_questions", group="Dragons", questions=[{"text": "Why?"}])
    await act("set_rules", group="Dragons", rules=[{"title": "Be kind"}])
    await act("request_group", member="Eve", name="Boats")
    await act("delete_group", group="Dragons")
    await act("erase_member", member="Eve")
    await act("delete_member", member="dmitri@example.com")
    await act("remove_app")
    await act("install_app")

    assert [event["eventType"].rsplit(".")[-1] for event in approved["events"]] == [
        "join_group_request_approved",
        "group_member_added",
    ]
    assert eve["member"] not in sandbox.community.members
    state = (await browser.get("/sandbox/deliveries?state=queued")).json()
    assert state["counts"]["queued"] == len(state["deliveries"])
    types = {delivery["eventType"] for delivery in state["deliveries"]}
    assert {"AppRemoved", "AppInstalled", "wix.members.v1.member_deleted"} <= types


async def test_tokens_can_be_ended_at_once(browser: httpx.AsyncClient, wix: httpx.AsyncClient) -> None:
    answer = await browser.post("/sandbox/acts", json={"act": "expire_tokens"})

    assert answer.json() == {"expired": 1}
    assert (await wix.get("/members/v1/members")).status_code == 401


async def test_settings_are_what_a_client_needs(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    settings = (await browser.get("/sandbox/settings")).json()

    assert list(settings) == [
        "WIX_APP_ID", "WIX_APP_SECRET", "WIX_PUBLIC_KEY", "WIX_API_URL", "WIX_API_KEY", "WIX_SITE_ID", "EMAIL_URL",
        "DASHBOARD_URL",
    ]  # fmt: skip
    assert settings["WIX_PUBLIC_KEY"].startswith("-----BEGIN PUBLIC KEY-----")


async def test_every_curl_line_of_the_overview_works(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    page = (await browser.get("/")).text
    lines = re.findall(r'<pre class="copy">(.*?)</pre>', page, re.DOTALL)
    acts = []
    for line in lines:
        words = shlex.split(line.replace("&#34;", '"').replace("&#39;", "'").replace("&amp;", "&"))
        answer = await browser.post(words[2].removeprefix("http://sandbox"), content=words[4].encode())
        acts.append(json.loads(words[4])["act"])
        if acts[-1] not in {"reject", "assign_role"}:  # these need a request or a membership of their own
            assert answer.status_code == 200, (line, answer.text)

    assert len(acts) >= 8
    assert set(acts) <= ACTS.keys()


async def test_the_overview_shows_groups_people_and_their_consent(
    browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    sandbox.community.update_group(YOGA, {"name": "<b>Yoga</b>"})

    page = (await browser.get("/")).text
    for text in (
        "Trail Runners",
        "Émilie Rousseau",
        "美咲 佐藤",
        "never asked",
        "spam complaint",
        "no address",
    ):
        assert text in page
    assert "<b>Yoga</b>" not in page
    assert "<script" not in page


async def test_looking_at_an_unsubscribe_page_changes_nothing_and_its_button_does(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    body = {"emailAddress": "ben@example.com"}
    answer = await wix.post("/email-marketing/v1/email-subscriptions/unsubscribe-link", json=body)
    link = answer.json()["link"]

    page = await browser.get(link)
    before = sandbox.community.subscriptions["ben@example.com"].status
    await browser.post(link)
    after = sandbox.community.subscriptions["ben@example.com"].status

    assert ("ben@example.com" in page.text, before, after) == (True, "SUBSCRIBED", "UNSUBSCRIBED")
    assert [d.event_type.rsplit(".")[-1] for d in sandbox.sender.deliveries] == ["EmailSubscriptionChanged"]
    assert (await browser.get(link + "x")).status_code == 404


async def test_a_member_chosen_by_a_name_two_people_have_is_refused(
    browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    sandbox.community.update_member(CHLOE, nickname="Ada Lindqvist")

    body = {"act": "erase_member", "member": "Ada Lindqvist"}
    answer = await browser.post("/sandbox/acts", json=body)
    assert (answer.status_code, "more than one member" in answer.text) == (400, True)


async def test_calls_are_read_on_from_a_number_and_tell_whom_they_ask_about(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    await wix.post("/members/v1/members/query", json={"query": {"filter": {"id": {"$in": [ADA, DMITRI]}}}})
    asked = {"filter": {"email": {"$in": ["ada@example.com"]}}}
    await wix.post("/email-marketing/v1/email-subscriptions/query", json=asked)

    calls = (await browser.get("/sandbox/calls")).json()["calls"]
    assert [(call["n"], call["about"]) for call in calls[-2:]] == [
        (calls[-1]["n"] - 1, ADA),
        (calls[-1]["n"], "ada@example.com"),
    ]
    newest = (await browser.get(f"/sandbox/calls?after={calls[-2]['n']}")).json()["calls"]
    assert newest == calls[-1:]
