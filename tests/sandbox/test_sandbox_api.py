"""The API over HTTP: identities, limits, errors, what each endpoint can filter, sort and page."""

from typing import Any

import httpx
import pytest

from sandbox.house import API_KEY, Sandbox
from sandbox.switches import patched
from tests.sandbox.seaside import (
    ADA,
    BEN,
    CHLOE,
    DMITRI,
    GROUPS_URL,
    JOIN_URL,
    MEMBERS_URL,
    NOBODY,
    RUNNERS,
    YOGA,
    Clock,
)

pytestmark = pytest.mark.anyio

QUESTIONS_URL = "/social-groups-proxy/questions/v2/membership-questions"
RULES_URL = "/social-groups/v2/rules"
REQUESTS_URL = "/_api/social-groups-proxy/group-requests/v2/group-requests"
SITE_MEMBERS_URL = "/members/v1/members"
SUBSCRIPTIONS_URL = "/email-marketing/v1/email-subscriptions"

LONG_REASON = {"rejections": [{"memberId": CHLOE, "reason": "x" * 1001}]}


def switch(sandbox: Sandbox, **changes: Any) -> None:
    sandbox.switches = patched(sandbox.switches, changes)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["details"]["applicationError"]["code"]


def violation_of(answer: httpx.Response) -> str:
    assert answer.status_code == 400, answer.text
    (violation,) = answer.json()["details"]["validationError"]["fieldViolations"]
    return str(violation["field"])


async def test_every_answer_carries_a_request_id_of_its_own(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    answers = [await wix.get(GROUPS_URL), await browser.get(GROUPS_URL), await wix.get("/no/such/path")]

    assert [a.status_code for a in answers] == [200, 401, 404]
    assert len({a.headers["x-wix-request-id"] for a in answers}) == 3


@pytest.mark.parametrize("authorization", ["", "nonsense", "Bearer nonsense", "Basic YTpi"])
async def test_without_a_token_there_is_a_401_in_the_documented_shape(
    browser: httpx.AsyncClient, authorization: str
) -> None:
    answer = await browser.get(GROUPS_URL, headers={"authorization": authorization})

    assert error_of(answer) == (401, "UNAUTHENTICATED")


async def test_a_token_is_taken_bare_and_as_bearer(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    bearer = {"authorization": f"Bearer {wix.headers['authorization']}"}

    assert (await browser.get(GROUPS_URL, headers=bearer)).status_code == 200


async def test_a_token_ends_after_four_hours(wix: httpx.AsyncClient, clock: Clock) -> None:
    clock.seconds += 14399
    assert (await wix.get(GROUPS_URL)).status_code == 200
    clock.seconds += 1
    assert (await wix.get(GROUPS_URL)).status_code == 401


async def test_removing_the_app_ends_its_tokens_and_gives_no_new_ones(
    wix: httpx.AsyncClient, sandbox: Sandbox, token_body: dict[str, str]
) -> None:
    sandbox.community.remove_app()

    assert (await wix.get(GROUPS_URL)).status_code == 401
    refused = await wix.post("/oauth2/token", json=token_body)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": NOBODY}, 401, "invalid_client"),
        ({"instance_id": NOBODY}, 400, "invalid_grant"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
async def test_a_wrong_token_request_is_refused_as_oauth_says(
    browser: httpx.AsyncClient, token_body: dict[str, str], change: dict[str, str], status: int, error: Any
) -> None:
    answer = await browser.post("/oauth2/token", json=token_body | change)

    assert (answer.status_code, answer.json()["error"]) == (status, error)


async def test_an_api_key_needs_the_site_id(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    right = {"authorization": API_KEY, "wix-site-id": sandbox.community.site.site_id}

    assert (await browser.get(GROUPS_URL, headers=right)).status_code == 200
    for wrong in ({"authorization": API_KEY}, right | {"wix-site-id": NOBODY}):
        assert (await browser.get(GROUPS_URL, headers=wrong)).status_code == 401


async def test_services_can_refuse_the_app_and_still_serve_the_api_key(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    switch(sandbox, refuse_app_tokens=["questions", "answers", "rules", "group_requests"])
    key = {"authorization": API_KEY, "wix-site-id": sandbox.community.site.site_id}
    calls = [
        ("GET", f"{QUESTIONS_URL}/{RUNNERS}"),
        ("POST", f"{QUESTIONS_URL}/{RUNNERS}/answers"),
        ("GET", f"{RULES_URL}/{YOGA}"),
        ("GET", REQUESTS_URL),
    ]
    for method, path in calls:
        assert error_of(await wix.request(method, path)) == (403, "PERMISSION_DENIED")
        assert (await browser.request(method, path, headers=key)).status_code == 200
    assert (await wix.get(GROUPS_URL)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/social-groups/v2/groups",
        f"/social-groups/v2/groups/{YOGA}/members",
        f"/social-groups/v2/groups/{RUNNERS}/join-requests",
        f"/social-groups/v2/membership-questions/{RUNNERS}",
        f"/social-groups/v2/rules/{YOGA}",
        "/social-groups/v2/group-requests",
        "/social-groups-proxy/group-requests/v2/group-requests",
    ],
)
async def test_the_addresses_of_2022_still_work(wix: httpx.AsyncClient, path: str) -> None:
    assert (await wix.get(path)).status_code == 200


async def test_members_have_no_address_and_no_status_unless_asked_for(wix: httpx.AsyncClient) -> None:
    url = f"{SITE_MEMBERS_URL}/{BEN}"
    plain = (await wix.get(url)).json()["member"]
    extended = (await wix.get(url, params={"fieldsets": "EXTENDED"})).json()["member"]
    full = (await wix.get(url, params={"fieldsets": ["PUBLIC", "FULL"]})).json()["member"]

    assert "loginEmail" not in plain
    assert {plain["status"], plain["privacyStatus"], plain["activityStatus"]} == {"UNKNOWN"}
    assert (extended["loginEmail"], "contact" in extended) == ("ben@example.com", False)
    assert full["contact"]["firstName"] == "Ben"


async def test_unknown_ids_are_absent_from_a_query_and_404_on_their_own(wix: httpx.AsyncClient) -> None:
    query = {"query": {"filter": {"id": {"$in": [BEN, NOBODY]}}}}
    answer = await wix.post(f"{SITE_MEMBERS_URL}/query", json=query)

    assert [member["id"] for member in answer.json()["members"]] == [BEN]
    assert error_of(await wix.get(f"{SITE_MEMBERS_URL}/{NOBODY}")) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", f"{GROUPS_URL}?limit=101", None, "paging.limit"),
        ("GET", f"{GROUPS_URL}?offset=-1", None, "paging.offset"),
        ("GET", f"{GROUPS_URL}?limit=many", None, "paging.limit"),
        ("GET", f"{GROUPS_URL}/yoga", None, "groupId"),
        ("GET", f"{GROUPS_URL}/{YOGA}?contentType=HTML", None, "contentType"),
        ("POST", f"{GROUPS_URL}/query", {"query": {"paging": {"limit": 101}}}, "paging.limit"),
        ("POST", f"{GROUPS_URL}/query", {"query": {"filter": {"ownerId": ADA}}}, "filter.ownerId"),
        ("POST", f"{GROUPS_URL}/query", {"query": {"filter": {"title": {"$regex": "x"}}}}, "filter.title"),
        ("POST", f"{GROUPS_URL}/query", {"query": {"sort": [{"fieldName": "slug"}]}}, "sort.fieldName"),
        ("POST", GROUPS_URL, {"group": {"name": "x" * 101}}, "group.name"),
        ("POST", GROUPS_URL, {"group": {"privacyStatus": "PUBLIC"}}, "group.name"),
        ("POST", GROUPS_URL, {"group": {"name": "G", "teaser": "x" * 1001}}, "group.teaser"),
        ("POST", GROUPS_URL, {}, "group"),
        ("POST", f"{MEMBERS_URL}/{YOGA}/members", {"memberIds": []}, "memberIds"),
        ("POST", f"{MEMBERS_URL}/{YOGA}/members", {"memberIds": ["ben"]}, "memberIds"),
        ("POST", f"{MEMBERS_URL}/{YOGA}/members", {"memberIds": [NOBODY] * 101}, "memberIds"),
        ("PUT", f"{QUESTIONS_URL}/{RUNNERS}", {"questions": [{"text": "?"}] * 51}, "questions"),
        ("PUT", f"{QUESTIONS_URL}/{RUNNERS}", {"questions": [{"text": "x" * 301}]}, "questions.text"),
        ("PUT", f"{QUESTIONS_URL}/{RUNNERS}", {"questions": [{"text": ""}]}, "questions.text"),
        ("POST", f"{QUESTIONS_URL}/{RUNNERS}/answers", {"memberIds": [NOBODY] * 501}, "memberIds"),
        ("PUT", f"{RULES_URL}/{YOGA}", {"rules": [{"title": "t"}] * 101}, "rules"),
        ("POST", f"{JOIN_URL}/{RUNNERS}/join-requests/reject", LONG_REASON, "rejections.reason"),
        ("POST", f"{SUBSCRIPTIONS_URL}/query", {}, "filter"),
        ("POST", f"{SUBSCRIPTIONS_URL}/query", {"filter": {"email": {"$eq": "a@example.com"}}}, "filter.email"),
        ("POST", SUBSCRIPTIONS_URL, {"subscription": {"email": "nobody"}}, "subscription.email"),
        ("POST", f"{SITE_MEMBERS_URL}/query", {"fieldsets": ["ALL"]}, "fieldsets"),
        ("POST", f"{GROUPS_URL}/query", [], "body"),
    ],
)  # fmt: skip
async def test_what_breaks_a_rule_is_a_400_that_names_the_field(
    wix: httpx.AsyncClient, method: str, path: str, body: Any, field: str
) -> None:
    assert violation_of(await wix.request(method, path, json=body)) == field


async def test_a_body_that_is_no_json_is_a_400(wix: httpx.AsyncClient) -> None:
    assert violation_of(await wix.post(GROUPS_URL, content=b"{")) == "body"


async def test_unsupported_filters_and_sorts_can_be_passed_over(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    switch(sandbox, unsupported_filter="ignore")
    query = {"query": {"filter": {"ownerId": ADA}, "sort": [{"fieldName": "slug"}]}}

    assert len((await wix.post(f"{GROUPS_URL}/query", json=query)).json()["groups"]) == 8


async def test_unknown_members_of_a_body_are_passed_over(wix: httpx.AsyncClient) -> None:
    body = {"groupId": YOGA, "memberIds": [BEN], "colour": "red"}

    assert (await wix.post(f"{MEMBERS_URL}/{YOGA}/members", json=body)).status_code == 200


async def test_contacts_may_come_by_the_thousand_and_not_more(wix: httpx.AsyncClient) -> None:
    url = "/contacts/v4/contacts/query"
    fine = await wix.post(url, json={"query": {"paging": {"limit": 1000}}})
    over = await wix.post(url, json={"query": {"paging": {"limit": 1001}}})
    unknown = await wix.post(url, json={"query": {"filter": {"shoeSize": 43}}})

    assert fine.json()["pagingMetadata"] == {"count": 67, "offset": 0, "total": 67}
    assert error_of(over) == (400, "ILLEGAL_LIMIT")
    assert error_of(unknown) == (400, "UNSUPPORTED_FILTER_FIELD_UNKNOWN")


async def test_groups_can_be_asked_for_by_size_and_by_idleness(wix: httpx.AsyncClient) -> None:
    def query(field: str, order: str) -> dict[str, Any]:
        return {"query": {"sort": [{"fieldName": field, "order": order}], "paging": {"limit": 1}}}

    largest = await wix.post(f"{GROUPS_URL}/query", json=query("membersCount", "DESC"))
    idlest = await wix.post(f"{GROUPS_URL}/query", json=query("recentActivityDate", "ASC"))

    assert largest.json()["groups"][0]["name"] == "Sunrise Yoga"
    assert idlest.json()["groups"][0]["name"] == "Coaches"
    assert largest.json()["metadata"] == {"count": 1, "offset": 0, "total": 8}


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("Sunrise Yoga", {"Sunrise Yoga"}),
        ({"$startsWith": "sun"}, {"Sunrise Yoga"}),
        ({"$contains": "RUN"}, {"Trail Runners"}),
        ({"$in": ["Coaches", "Board", "none"]}, {"Coaches", "Board"}),
        ({"$ne": "Board", "$gt": "S"}, {"Sunrise Yoga", "Trail Runners"}),
    ],
)
async def test_groups_are_found_by_title(wix: httpx.AsyncClient, condition: Any, names: set[str]) -> None:
    answer = await wix.post(f"{GROUPS_URL}/query", json={"query": {"filter": {"title": condition}}})

    assert {group["name"] for group in answer.json()["groups"]} == names


async def test_filters_combine(wix: httpx.AsyncClient) -> None:
    condition = {
        "$or": [
            {"title": "Board"},
            {"$and": [{"title": {"$startsWith": "c"}}, {"$not": {"title": "Coaches"}}]},
        ]
    }
    answer = await wix.post(f"{GROUPS_URL}/query", json={"query": {"filter": condition}})

    assert {group["name"] for group in answer.json()["groups"]} == {"Board", "Community Garden"}


async def test_pages_of_members_are_newest_first_and_meet_without_gap_or_overlap(
    wix: httpx.AsyncClient,
) -> None:
    url, seen = f"{MEMBERS_URL}/{YOGA}/members", []
    for offset in (0, 20, 40):
        page = (await wix.get(url, params={"limit": 20, "offset": offset})).json()
        assert page["metadata"]["total"] == 42
        seen += page["members"]

    assert len({member["memberId"] for member in seen}) == len(seen) == 42
    joined = [member["joinedDate"] for member in seen]
    assert joined == sorted(joined, reverse=True)


async def test_lists_of_join_requests_have_no_total_unless_switched_on(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    url = f"{JOIN_URL}/{RUNNERS}/join-requests"
    plain = (await wix.get(url)).json()["metadata"]
    switch(sandbox, totals="always", too_many_to_count=True)
    full = (await wix.get(url)).json()["metadata"]

    assert plain == {"count": 2, "offset": 0}
    assert full == {"count": 2, "offset": 0, "total": 2, "tooManyToCount": True}


async def test_totals_can_be_missing_everywhere(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    switch(sandbox, totals="never")

    assert "total" not in (await wix.get(GROUPS_URL)).json()["metadata"]


async def test_addresses_without_a_record_are_left_out_of_subscriptions(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    body = {"filter": {"email": {"$in": ["BEN@example.com", "omar.mansour@example.com"]}}}
    plain = (await wix.post(f"{SUBSCRIPTIONS_URL}/query", json=body)).json()
    switch(sandbox, subscriptions_key="email_subscriptions")
    old = (await wix.post(f"{SUBSCRIPTIONS_URL}/query", json=body)).json()

    assert [row["email"] for row in plain["subscriptions"]] == ["ben@example.com"]
    assert old["email_subscriptions"] == plain["subscriptions"]


async def test_ids_to_remove_are_read_from_the_query_and_from_the_body(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    url = f"{MEMBERS_URL}/{YOGA}/members"
    await wix.delete(url, params={"memberIds": [BEN, DMITRI]})
    await wix.request("DELETE", url, json={"memberIds": [CHLOE]})

    assert not {BEN, CHLOE} & set(sandbox.community.group(YOGA).members)


async def test_the_map_of_questions_holds_only_those_that_were_answered(wix: httpx.AsyncClient) -> None:
    body = {"memberIds": [CHLOE], "paging": {"limit": 10}}
    answer = (await wix.post(f"{QUESTIONS_URL}/{RUNNERS}/answers", json=body)).json()
    everybody = (await wix.post(f"{QUESTIONS_URL}/{RUNNERS}/answers", json={})).json()
    await wix.put(f"{QUESTIONS_URL}/{RUNNERS}", json={"questions": [{"text": "New?"}]})
    replaced = (await wix.post(f"{QUESTIONS_URL}/{RUNNERS}/answers", json=body)).json()

    assert len(answer["questions"]) == len(answer["memberAnswers"][0]["answers"]) == 2
    assert everybody["metadata"]["total"] == 9
    assert (len(replaced["memberAnswers"]), replaced["questions"]) == (1, {})


async def test_people_are_found_by_phone_with_their_membership_in_one_call(wix: httpx.AsyncClient) -> None:
    body = {"search": {"filter": {"phone.e164": {"$in": ["+12025550103"]}}}}
    (contact,) = (await wix.post("/contacts/v5/contacts/search", json=body)).json()["contacts"]

    assert contact["memberInfo"]["memberId"] == CHLOE
    assert contact["memberInfo"]["profileInfo"]["privacyStatus"] == "PRIVATE"


async def test_a_cursor_leads_through_a_whole_search(wix: httpx.AsyncClient) -> None:
    url, paging, seen = "/contacts/v5/contacts/search", {"limit": 30}, []
    body: Any = {"search": {"filter": {"email.email": {"$exists": True}}, "cursorPaging": paging}}
    while body:
        page = (await wix.post(url, json=body)).json()
        seen += [contact["id"] for contact in page["contacts"]]
        metadata = page["pagingMetadata"]
        following = {"cursorPaging": {**paging, "cursor": metadata["cursors"].get("next")}}
        body = {"search": following} if metadata["hasNext"] else None

    assert len(seen) == len(set(seen)) == 66
    assert violation_of(await wix.post(url, json={"search": {"cursorPaging": {"cursor": "bm8="}}})).endswith(
        "cursor"
    )


@pytest.mark.parametrize(("mode", "count"), [("AND", 2), ("OR", 2)])
async def test_free_text_finds_namesakes(wix: httpx.AsyncClient, mode: str, count: int) -> None:
    body = {"search": {"search": {"expression": "Okafor Ben", "mode": mode}}}

    assert len((await wix.post("/contacts/v5/contacts/search", json=body)).json()["contacts"]) == count


async def test_descriptions_are_draftjs_unless_plain_text_is_asked_for(wix: httpx.AsyncClient) -> None:
    url, text = f"{GROUPS_URL}/{YOGA}", "Weekly sessions and schedule updates."
    draft = (await wix.get(url)).json()["group"]["description"]
    plain = (await wix.get(url, params={"contentType": "PLAIN_TEXT"})).json()["group"]["description"]
    await wix.patch(url, json={"group": {"description": draft.replace("Weekly", "Daily")}})
    again = (await wix.get(url, params={"contentType": "PLAIN_TEXT"})).json()["group"]["description"]

    assert (draft[0], plain, again) == ("{", text, text.replace("Weekly", "Daily"))


async def test_a_deleted_group_is_gone_unless_switched_to_stay(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    await wix.delete(f"{GROUPS_URL}/{YOGA}")
    assert (await wix.get(f"{GROUPS_URL}/{YOGA}")).status_code == 404
    switch(sandbox, deleted_groups_stay=True)

    assert (await wix.get(f"{GROUPS_URL}/{YOGA}")).status_code == 200
    assert (await wix.get(GROUPS_URL)).json()["metadata"]["total"] == 8


async def test_deciding_twice_is_a_conflict(wix: httpx.AsyncClient) -> None:
    url, body = f"{JOIN_URL}/{RUNNERS}/join-requests/approve", {"memberIds": [CHLOE]}

    assert (await wix.post(url, json=body)).status_code == 200
    assert error_of(await wix.post(url, json=body)) == (409, "ALREADY_EXISTS")
    assert error_of(await wix.post(url, json={"memberIds": [NOBODY]})) == (404, "NOT_FOUND")


async def test_decided_group_requests_come_as_array_or_object(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    body = {"groupRequestIds": ["a7e1f2d3-4c5b-4a69-9788-6f5e4d3c2b74"]}
    switch(sandbox, group_request_shape="object")

    decided = (await wix.post(f"{REQUESTS_URL}/approve", json=body)).json()["groupRequest"]
    assert decided["status"] == "APPROVED"


async def test_the_two_hundred_and_first_call_of_a_minute_waits(wix: httpx.AsyncClient, clock: Clock) -> None:
    clock.seconds += 100
    statuses = {(await wix.get(f"{RULES_URL}/{YOGA}")).status_code for _ in range(200)}
    over = await wix.get(f"{RULES_URL}/{YOGA}")
    clock.seconds += int(over.headers["retry-after"])
    after = await wix.get(f"{RULES_URL}/{YOGA}")

    assert (statuses, after.status_code) == ({200}, 200)
    assert (error_of(over), over.headers["retry-after"]) == ((429, "RESOURCE_EXHAUSTED"), "60")


async def test_a_429_may_come_without_a_hint(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    switch(sandbox, rate_limit_per_minute=1, retry_after=False)
    answers = [await wix.get(GROUPS_URL) for _ in range(2)]

    assert [a.status_code for a in answers] == [200, 429]
    assert "retry-after" not in answers[1].headers


@pytest.mark.parametrize(
    ("status", "code"), [(400, "INVALID_ARGUMENT"), (403, "PERMISSION_DENIED"), (429, "RESOURCE_EXHAUSTED")]
)
async def test_every_call_about_a_failing_group_fails_and_the_others_do_not(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient, sandbox: Sandbox, status: int, code: str
) -> None:
    patch = {"failing_groups": {YOGA.upper(): status}}
    assert (await browser.patch("/sandbox/switches", json=patch)).json()["failing_groups"] == {YOGA: status}
    rules = {"rules": [{"title": "Be kind"}]}

    refused = [
        await wix.get(f"{GROUPS_URL}/{YOGA}"),
        await wix.get(f"{MEMBERS_URL}/{YOGA}/members"),
        await wix.put(f"{RULES_URL}/{YOGA}", json=rules),
        await wix.get(f"{QUESTIONS_URL}/{YOGA}"),
    ]

    assert [error_of(answer) for answer in refused] == [(status, code)] * 4
    assert sandbox.community.groups[YOGA].rules != rules["rules"]
    assert (await wix.put(f"{RULES_URL}/{RUNNERS}", json=rules)).status_code == 200
    listed = (await wix.get(GROUPS_URL)).json()["groups"]
    assert YOGA in {group["id"] for group in listed}


async def test_a_group_can_fail_as_a_broken_system_does(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    switch(sandbox, failing_groups={YOGA: 503})

    answer = await wix.get(f"{RULES_URL}/{YOGA}")

    assert (answer.status_code, answer.json()) == (503, {"message": "", "details": {}})


async def test_the_newer_contacts_can_be_refused_while_the_older_ones_answer(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    switch(sandbox, refuse_app_tokens=["contacts_v5"])

    newer = await wix.post("/contacts/v5/contacts/search", json={"search": {}})
    older = await wix.post("/contacts/v4/contacts/query", json={"query": {}})

    assert error_of(newer) == (403, "PERMISSION_DENIED")
    assert older.status_code == 200


@pytest.mark.parametrize(
    ("path", "wrapper", "field", "operator", "value"),
    [
        ("/contacts/v5/contacts/search", "search", "additionalPhones.e164", "$hasSome", "+12025550177"),
        (
            "/contacts/v5/contacts/search",
            "search",
            "additionalEmails.email",
            "$hasSome",
            "second@example.com",
        ),
        ("/contacts/v4/contacts/query", "query", "info.phones.e164Phone", "$in", "+12025550177"),
        ("/contacts/v4/contacts/query", "query", "info.phones.phone", "$in", "2025550177"),
        ("/contacts/v4/contacts/query", "query", "info.emails.email", "$in", "second@example.com"),
    ],
)
async def test_a_second_address_or_phone_leads_to_its_contact(
    wix: httpx.AsyncClient, sandbox: Sandbox, path: str, wrapper: str, field: str, operator: str, value: str
) -> None:
    with sandbox.change(silent=True):
        sandbox.community.add_contact(
            "Kit",
            "Lee",
            email="kit@example.com",
            phone="+12025550176",
            other_emails=["second@example.com"],
            other_phones=["+12025550177"],
        )

    answer = await wix.post(path, json={wrapper: {"filter": {field: {operator: [value]}}}})

    (contact,) = answer.json()["contacts"]
    if wrapper == "search":
        assert contact["additionalPhones"][0]["e164"] == "+12025550177"
        assert contact["phone"]["e164"] == "+12025550176"
    else:
        phones = contact["info"]["phones"]["items"]
        assert [(item["e164Phone"], item["primary"]) for item in phones] == [
            ("+12025550176", True),
            ("+12025550177", False),
        ]


async def test_failures_are_empty_and_have_no_effect(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    switch(sandbox, failure_rate=1.0, failure_statuses=[504])
    answer = await wix.post(GROUPS_URL, json={"group": {"name": "Kites"}, "creatorId": ADA})

    assert (answer.status_code, answer.json()) == (504, {"message": "", "details": {}})
    assert len(sandbox.community.groups) == 8


async def test_a_failure_can_hide_a_call_that_took_effect(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    switch(sandbox, failure_rate=1.0, failures_after_effect=True)
    answer = await wix.post(GROUPS_URL, json={"group": {"name": "Kites"}, "creatorId": ADA})

    assert answer.status_code >= 500
    assert len(sandbox.community.groups) == 9


async def test_in_an_outage_nothing_answers_not_even_for_tokens(
    wix: httpx.AsyncClient, sandbox: Sandbox, token_body: dict[str, str]
) -> None:
    switch(sandbox, outage=True)

    assert (await wix.get(GROUPS_URL)).status_code == 503
    assert (await wix.post("/oauth2/token", json=token_body)).status_code == 503


async def test_queries_lag_behind_while_lists_do_not(
    wix: httpx.AsyncClient, sandbox: Sandbox, clock: Clock
) -> None:
    switch(sandbox, consistency_delay_s=5)

    async def names(method: str, path: str) -> int:
        return len((await wix.request(method, path, json={} if method == "POST" else None)).json()["groups"])

    await wix.post(GROUPS_URL, json={"group": {"name": "Kites"}, "creatorId": ADA})
    clock.seconds += 4
    await wix.post(GROUPS_URL, json={"group": {"name": "Boats"}, "creatorId": ADA})
    early = [await names("GET", GROUPS_URL), await names("POST", f"{GROUPS_URL}/query")]
    clock.seconds += 1
    middle = await names("POST", f"{GROUPS_URL}/query")
    clock.seconds += 4
    late = await names("POST", f"{GROUPS_URL}/query")

    assert (early, middle, late) == ([10, 8], 9, 10)


async def test_every_call_is_remembered_with_who_made_it(
    wix: httpx.AsyncClient, browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    await wix.get(GROUPS_URL)
    await browser.get("/nowhere")

    rows = [(c["endpoint"], c["method"], c["status"], c["identity"]) for c in sandbox.calls]
    assert rows == [
        ("createAccessToken", "POST", 200, ""),
        ("listGroups", "GET", 200, "APP"),
        ("unknown", "GET", 401, ""),
    ]
    assert sandbox.call_counts["listGroups"] == 1
