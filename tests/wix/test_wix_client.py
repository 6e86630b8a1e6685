from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pytest
from wix_stand_in import (
    ANSWERS,
    CHLOE,
    GROUP,
    GROUP_MEMBERS,
    INSTANCE,
    JOIN_REQUESTS,
    MEMBERSHIPS,
    SITE,
    TOKEN,
    WIX_SITE_ID,
    Clock,
    WixStandIn,
    a_client,
    body_of,
    example,
    example_answer,
    example_error,
    listed,
)

from core.community import (
    Answer,
    GroupId,
    Member,
    MemberId,
    Membership,
    Question,
    Rule,
    Site,
    SiteId,
    Subscription,
)
from core.errors import ForbiddenError, IntegrationError, NotFoundError, PermanentError, RetryableError
from integrations.wix.client import MAX_BODY_BYTES, WixClient

YOGA = GroupId("5d0c3f0a-8f0e-4e0a-9b53-1f7a3a1e2c41")
ADA = MemberId("11e6d5a2-3b7c-4d8e-9f01-a2b3c4d5e6f1")
BEN = MemberId("22f7e6b3-4c8d-4e9f-8a12-b3c4d5e6f7a2")
DMITRI = MemberId("441908d5-6eaf-40b1-8c34-d5e6f7a8b9c4")
NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)
GET_GROUP = "/groups/[^/]+$"
MEMBERS = "/members/query$"
SUBSCRIPTIONS = "/email-subscriptions"
APPROVE = "/approve$"
REJECT = "/reject$"
EVERYTHING = "^(?!/oauth2/)"
FORBIDDEN = example_error("application_error.403")
NOT_FOUND = example_error("application_error.404")
CONFLICT = httpx.Response(409, json={"message": "not pending"})

RULES = (Rule("Be kind", "No personal attacks."), Rule("No spam", "Promotions need admin consent."))
QUESTIONS = (
    Question("Which class are you most interested in?", required=True),
    Question("Anything we should know?"),
)

BY_EXAMPLE: list[tuple[str, Callable[[WixClient], object], object]] = [
    (
        "getAppInstance",
        lambda wix: wix.get_site(SITE),
        Site(SITE, "Example Studio", "https://www.example.com", "en"),
    ),
    (
        "listGroupMembers",
        lambda wix: wix.get_joined_at(SITE, YOGA, CHLOE),
        Membership("joined", "MEMBER", NOON),
    ),
    ("listMemberships", lambda wix: wix.get_membership(SITE, YOGA, CHLOE), Membership("joined", "MEMBER")),
    ("listMemberships", lambda wix: wix.get_membership(SITE, GROUP, CHLOE), Membership("pending")),
    ("queryJoinGroupRequests", lambda wix: list(wix.list_join_requests(SITE, GROUP)), [(CHLOE, None)]),
    (
        "listGroups",
        lambda wix: [(group.name, group.privacy, group.members) for group in wix.list_groups(SITE)],
        [("Coaches", "SECRET", 3), ("Trail Runners", "PRIVATE", 17), ("Sunrise Yoga", "PUBLIC", 42)],
    ),
    (
        "listAnswers",
        lambda wix: wix.list_answers(SITE, GROUP, [CHLOE]),
        {
            CHLOE: (
                Answer("Which class are you most interested in?", "Trail marathons and nutrition workshops"),
                Answer("Anything we should know?", "I travel in June"),
            )
        },
    ),
    (
        "queryMembers",
        lambda wix: wix.get_members(SITE, [BEN, CHLOE]),
        {
            BEN: Member(
                BEN,
                "APPROVED",
                "ben@example.com",
                "Ben",
                "Ben Okafor",
                last_name="Okafor",
                contact="a1b2c3d4-0002-4aaa-8bbb-000000000002",
                private=False,
                since=datetime(2025, 2, 1, 10, tzinfo=UTC),
            ),
            CHLOE: Member(
                CHLOE,
                "APPROVED",
                "chloe@example.com",
                "Chloe",
                "Chloe Martin",
                last_name="Martin",
                contact="a1b2c3d4-0003-4aaa-8bbb-000000000003",
                private=True,
                since=datetime(2025, 3, 1, 10, tzinfo=UTC),
            ),
        },
    ),
    (
        "queryEmailSubscriptions",
        lambda wix: wix.get_subscriptions(SITE, ["ben@example.com", "chloe@example.com"]),
        {
            "ben@example.com": Subscription("SUBSCRIBED", "VALID"),
            "chloe@example.com": Subscription("NOT_SET", "NOT_SET"),
        },
    ),
    ("approveJoinGroupRequests", lambda wix: wix.approve_requests(SITE, GROUP, [CHLOE]), None),
    (
        "rejectJoinGroupRequests",
        lambda wix: wix.reject_requests(SITE, GROUP, [DMITRI], "Please complete your profile first."),
        None,
    ),
    ("addGroupMembers", lambda wix: wix.add_group_members(SITE, YOGA, [BEN, CHLOE]), None),
    ("listRules", lambda wix: wix.list_rules(SITE, YOGA), RULES),
    ("createOrReplaceAllRules", lambda wix: wix.replace_rules(SITE, YOGA, RULES), None),
    ("listMembershipQuestions", lambda wix: wix.list_questions(SITE, GROUP), QUESTIONS),
    (
        "createOrReplaceAllMembershipQuestions",
        lambda wix: wix.replace_questions(SITE, GROUP, QUESTIONS),
        None,
    ),
]


@pytest.mark.parametrize(("name", "ask", "expected"), BY_EXAMPLE, ids=[name for name, _, _ in BY_EXAMPLE])
def test_every_call_is_made_and_read_as_in_its_example(
    name: str, ask: Callable[[WixClient], object], expected: object
):
    wix = WixStandIn().on(EVERYTHING, example_answer(name))

    assert ask(a_client(wix)) == expected

    _, asked = wix.asked
    documented = example("endpoints", name)["request"]
    assert asked.method == documented["method"]
    assert str(asked.url.copy_with(query=None)) == documented["url"]
    assert dict(asked.url.params) == documented.get("query", {})
    assert asked.headers.get("content-type") == documented["headers"].get("Content-Type")
    assert (body_of(asked) if asked.content else None) == documented.get("body")


def test_a_group_is_read_as_in_its_example():
    wix = WixStandIn().on(GET_GROUP, example_answer("getGroup"))

    group = a_client(wix).get_group(SITE, YOGA)

    assert group is not None
    assert (group.id, group.name, group.privacy) == (YOGA, "Sunrise Yoga", "PUBLIC")
    documented = example("endpoints", "getGroup")["request"]
    assert str(wix.asked[-1].url.copy_with(query=None)) == documented["url"]
    assert dict(wix.asked[-1].url.params) == documented["query"]


def test_an_opt_out_is_an_upsert_as_documented():
    wix = WixStandIn().on(SUBSCRIPTIONS, example_answer("upsertEmailSubscription"))

    a_client(wix).set_subscription(SITE, "chloe@example.com", status="UNSUBSCRIBED")

    documented = example("endpoints", "upsertEmailSubscription")["request"]
    assert (wix.asked[-1].method, str(wix.asked[-1].url)) == (documented["method"], documented["url"])
    assert body_of(wix.asked[-1]) == {
        "subscription": {"email": "chloe@example.com", "subscriptionStatus": "UNSUBSCRIBED"}
    }


def test_a_group_that_wix_does_not_know_is_none_and_asked_for_again():
    wix = WixStandIn().on(GET_GROUP, NOT_FOUND, example_answer("getGroup"))
    client = a_client(wix)

    assert client.get_group(SITE, YOGA) is None
    assert client.get_group(SITE, YOGA) is not None


def test_a_group_is_remembered_for_a_minute_for_its_site_only():
    clock = Clock()
    wix = WixStandIn().on(GET_GROUP, example_answer("getGroup"))
    client = a_client(wix, now=clock)

    client.get_group(SITE, YOGA)
    clock.now_s += 59
    client.get_group(SITE, YOGA)
    assert len(wix.asked_for(GET_GROUP)) == 1
    clock.now_s += 1
    client.get_group(SITE, YOGA)
    assert len(wix.asked_for(GET_GROUP)) == 2
    client.get_group(SiteId("other"), YOGA)
    assert len(wix.asked_for(GET_GROUP)) == 3


def test_a_site_is_remembered_for_ten_minutes():
    clock = Clock()
    wix = WixStandIn().on(INSTANCE, example_answer("getAppInstance"))
    client = a_client(wix, now=clock)

    client.get_site(SITE)
    clock.now_s += 599
    client.get_site(SITE)
    assert len(wix.asked_for(INSTANCE)) == 1
    clock.now_s += 1
    client.get_site(SITE)
    assert len(wix.asked_for(INSTANCE)) == 2


# Where a member stands


def memberships(*rows: tuple[str, str]) -> httpx.Response:
    return listed("memberships", [{"groupId": group, "status": status} for group, status in rows])


def group_members(*members: str) -> httpx.Response:
    return listed("members", [{"memberId": member, "role": {"value": "MEMBER"}} for member in members])


def join_requests(*members: str, status: str = "PENDING") -> httpx.Response:
    return listed("joinGroupRequests", [{"siteMemberId": member, "status": status} for member in members])


def test_a_member_of_other_groups_is_not_in_this_one():
    wix = (
        WixStandIn()
        .on(MEMBERSHIPS, memberships(("other", "JOINED")))
        .on(GROUP_MEMBERS, group_members(BEN))
        .on(JOIN_REQUESTS, join_requests())
    )

    assert a_client(wix).get_membership(SITE, GROUP, CHLOE) == Membership("none")


@pytest.mark.parametrize(
    ("members", "asking", "status"), [([CHLOE], [], "joined"), ([BEN], [CHLOE], "pending")]
)
def test_an_app_that_is_shown_no_memberships_sees_newcomers_in_the_groups_own_lists(
    members: list[str], asking: list[str], status: str
):
    wix = (
        WixStandIn()
        .on(MEMBERSHIPS, memberships())
        .on(GROUP_MEMBERS, group_members(*members))
        .on(JOIN_REQUESTS, join_requests(*asking))
        .on(INSTANCE, example_answer("getAppInstance"))
    )

    assert a_client(wix).get_membership(SITE, GROUP, CHLOE).status == status


def test_the_second_look_costs_one_page_however_large_the_group_is():
    wix = (
        WixStandIn()
        .on(MEMBERSHIPS, memberships())
        .on(GROUP_MEMBERS, group_members(*(f"m{number}" for number in range(100))))
        .on(JOIN_REQUESTS, join_requests())
    )

    assert a_client(wix).get_membership(SITE, GROUP, CHLOE) == Membership("none")
    assert len(wix.asked_for(GROUP_MEMBERS)) == 1


def test_memberships_are_read_page_by_page_until_found():
    first = memberships(*((f"g{i}", "JOINED") for i in range(100)))
    wix = WixStandIn().on(MEMBERSHIPS, first, memberships((GROUP, "PENDING")))

    assert a_client(wix).get_membership(SITE, GROUP, CHLOE) == Membership("pending")
    assert [request.url.params["offset"] for request in wix.asked_for(MEMBERSHIPS)] == ["0", "100"]


@pytest.mark.parametrize("refusal", [FORBIDDEN, NOT_FOUND, example_error("unauthorized.401")])
@pytest.mark.parametrize(
    ("members", "asking", "status"),
    [([BEN, CHLOE], [], "joined"), ([BEN], [CHLOE], "pending"), ([BEN], [DMITRI], "none")],
)
def test_without_memberships_the_groups_own_lists_say_where_a_member_stands(
    refusal: httpx.Response, members: list[str], asking: list[str], status: str
):
    wix = (
        WixStandIn()
        .on(MEMBERSHIPS, refusal)
        .on(GROUP_MEMBERS, group_members(*members))
        .on(JOIN_REQUESTS, join_requests(*asking))
        .on(INSTANCE, example_answer("getAppInstance"))
    )

    assert a_client(wix).get_membership(SITE, GROUP, CHLOE).status == status


def test_nobody_stands_anywhere_in_a_group_that_wix_does_not_know():
    wix = WixStandIn().on(EVERYTHING, NOT_FOUND)

    assert a_client(wix).get_membership(SITE, GROUP, CHLOE) == Membership("none")
    assert a_client(wix).get_joined_at(SITE, GROUP, CHLOE) == Membership("none")


def test_an_outage_is_not_taken_for_an_answer_about_a_member():
    wix = WixStandIn().on(MEMBERSHIPS, example_error("system_error.500"))

    with pytest.raises(RetryableError):
        a_client(wix).get_membership(SITE, GROUP, CHLOE)


def test_requests_in_another_state_do_not_count_though_wix_sent_them():
    wix = WixStandIn().on(JOIN_REQUESTS, join_requests(CHLOE, status="REJECTED"))

    assert list(a_client(wix).list_join_requests(SITE, GROUP)) == []


# Lists


def ids(start: int, stop: int) -> list[str]:
    return [f"m{i}" for i in range(start, stop)]


def test_a_list_is_read_until_a_short_page():
    wix = WixStandIn().on(
        GROUP_MEMBERS,
        group_members(*ids(0, 100)),
        group_members(*ids(100, 200)),
        group_members(*ids(200, 203)),
    )

    found = [member for member, _ in a_client(wix).list_group_members(SITE, GROUP)]

    assert found == ids(0, 203)
    assert [dict(request.url.params) for request in wix.asked_for(GROUP_MEMBERS)] == [
        {"limit": "100", "offset": "0"},
        {"limit": "100", "offset": "100"},
        {"limit": "100", "offset": "200"},
    ]


def test_a_full_last_page_is_followed_by_an_empty_one():
    wix = WixStandIn().on(GROUP_MEMBERS, group_members(*ids(0, 100)), group_members())

    assert len(list(a_client(wix).list_group_members(SITE, GROUP))) == 100


def test_a_total_that_is_too_small_ends_nothing():
    full = listed("members", [{"memberId": member} for member in ids(0, 100)], total=3)
    wix = WixStandIn().on(GROUP_MEMBERS, full, group_members("m100"))

    assert len(list(a_client(wix).list_group_members(SITE, GROUP))) == 101


def test_a_server_with_smaller_pages_than_asked_for_is_read_to_its_end_when_it_says_so():
    pages = [
        listed("members", [{"memberId": member} for member in ids(start, start + 50)], total=150)
        for start in (0, 50, 100)
    ]
    wix = WixStandIn().on(GROUP_MEMBERS, *pages)

    assert len(list(a_client(wix).list_group_members(SITE, GROUP))) == 150
    assert len(wix.asked_for(GROUP_MEMBERS)) == 3


def test_somebody_who_moved_to_the_next_page_is_seen_once():
    wix = WixStandIn().on(GROUP_MEMBERS, group_members(*ids(0, 100)), group_members("m98", "m99", "m100"))

    found = [member for member, _ in a_client(wix).list_group_members(SITE, GROUP)]

    assert found == ids(0, 101)


def test_a_server_that_repeats_one_page_for_ever_is_left():
    wix = WixStandIn().on(
        GROUP_MEMBERS, listed("members", [{"memberId": m} for m in ids(0, 100)], total=10**9)
    )

    assert len(list(a_client(wix).list_group_members(SITE, GROUP))) == 100
    assert len(wix.asked_for(GROUP_MEMBERS)) == 2


def test_a_page_with_unreadable_rows_is_not_taken_for_a_short_one():
    rows: list[Any] = [{"memberId": member} for member in ids(0, 98)]
    wix = WixStandIn().on(
        GROUP_MEMBERS, listed("members", [*rows, {"memberId": 7}, None]), group_members("m98")
    )

    assert len(list(a_client(wix).list_group_members(SITE, GROUP))) == 99


def test_pages_are_asked_for_when_they_are_needed():
    wix = WixStandIn().on(GROUP_MEMBERS, group_members(*ids(0, 100)))

    next(a_client(wix).list_group_members(SITE, GROUP))

    assert len(wix.asked_for(GROUP_MEMBERS)) == 1


# Batches


def answer_members(request: httpx.Request) -> httpx.Response:
    asked = body_of(request)
    assert asked["query"]["paging"]["offset"] == 0
    return listed("members", [{"id": member} for member in asked["query"]["filter"]["id"]["$in"]])


def test_members_cost_one_call_for_each_hundred_different_ones():
    wix = WixStandIn().on(MEMBERS, answer_members)
    wanted = [MemberId(member) for member in ids(0, 250)]

    found = a_client(wix).get_members(SITE, [*wanted, *wanted])

    assert list(found) == wanted
    sizes = [len(body_of(request)["query"]["filter"]["id"]["$in"]) for request in wix.asked_for(MEMBERS)]
    assert sizes == [100, 100, 50]


def test_nobody_wanted_is_no_call():
    wix = WixStandIn()
    client = a_client(wix)

    assert client.get_members(SITE, []) == {}
    assert client.get_subscriptions(SITE, []) == {}
    assert client.list_answers(SITE, GROUP, []) == {}
    client.approve_requests(SITE, GROUP, [])
    client.reject_requests(SITE, GROUP, [], "")
    client.add_group_members(SITE, GROUP, [])
    assert client.find_people(SITE) == ()

    assert wix.asked == []


def test_members_that_wix_does_not_know_are_absent():
    wix = WixStandIn().on(MEMBERS, listed("members", [{"id": BEN}]))

    assert set(a_client(wix).get_members(SITE, [BEN, CHLOE])) == {BEN}


def test_answers_of_many_members_are_put_together():
    def answer(request: httpx.Request) -> httpx.Response:
        rows = [{"memberId": member, "answers": []} for member in body_of(request)["memberIds"]]
        return httpx.Response(200, json={"memberAnswers": rows, "questions": None})

    wix = WixStandIn().on(ANSWERS, answer)

    assert len(a_client(wix).list_answers(SITE, GROUP, [MemberId(m) for m in ids(0, 150)])) == 150
    assert len(wix.asked_for(ANSWERS)) == 2


def test_an_address_is_asked_for_in_lower_case_and_as_it_came():
    row = {"email": "Ana@Example.com", "subscriptionStatus": "SUBSCRIBED", "deliverabilityStatus": "VALID"}
    wix = WixStandIn().on(SUBSCRIPTIONS, listed("subscriptions", [row]))

    found = a_client(wix).get_subscriptions(SITE, ["Ana@Example.com", "ben@example.com"])

    assert found == {"ana@example.com": Subscription("SUBSCRIBED", "VALID")}
    assert body_of(wix.asked[-1]) == {
        "filter": {"email": {"$in": ["ana@example.com", "Ana@Example.com", "ben@example.com"]}},
        "paging": {"limit": 100, "offset": 0},
    }


def test_a_no_under_any_spelling_of_an_address_holds():
    rows = [
        {"email": "ana@example.com", "subscriptionStatus": "UNSUBSCRIBED"},
        {"email": "Ana@Example.com", "subscriptionStatus": "SUBSCRIBED", "deliverabilityStatus": "BOUNCED"},
    ]
    for order in (rows, rows[::-1]):
        wix = WixStandIn().on(SUBSCRIPTIONS, listed("subscriptions", order))

        found = a_client(wix).get_subscriptions(SITE, ["Ana@Example.com"])

        assert found == {"ana@example.com": Subscription("UNSUBSCRIBED", "BOUNCED")}


def test_subscriptions_cost_one_call_for_each_hundred():
    def answer(request: httpx.Request) -> httpx.Response:
        return listed("subscriptions", [{"email": e} for e in body_of(request)["filter"]["email"]["$in"]])

    wix = WixStandIn().on(SUBSCRIPTIONS, answer)

    assert len(a_client(wix).get_subscriptions(SITE, [f"p{i}@example.com" for i in range(200)])) == 200
    assert len(wix.asked_for(SUBSCRIPTIONS)) == 2


# Decisions


@pytest.mark.parametrize("refusal", [NOT_FOUND, CONFLICT, httpx.Response(428, json={})])
def test_approving_somebody_who_is_in_already_is_a_success(refusal: httpx.Response):
    wix = WixStandIn().on(APPROVE, refusal).on(MEMBERSHIPS, memberships((GROUP, "JOINED")))

    a_client(wix).approve_requests(SITE, GROUP, [CHLOE])


@pytest.mark.parametrize("status", ["JOINED", "UNKNOWN_STATUS"])
def test_rejecting_somebody_who_asks_no_longer_is_a_success(status: str):
    wix = WixStandIn().on(REJECT, CONFLICT).on(MEMBERSHIPS, memberships((GROUP, status)))

    a_client(wix).reject_requests(SITE, GROUP, [CHLOE], "no")


@pytest.mark.parametrize("path", [APPROVE, REJECT])
def test_a_decision_that_wix_refuses_while_it_lists_the_request_is_tried_again(path: str):
    wix = WixStandIn().on(path, CONFLICT).on(MEMBERSHIPS, memberships((GROUP, "PENDING")))
    client = a_client(wix)
    decide = client.approve_requests if path == APPROVE else partial(client.reject_requests, reason="no")

    with pytest.raises(RetryableError):
        decide(SITE, GROUP, [CHLOE])


def test_approving_a_request_that_was_taken_back_is_not_found():
    wix = WixStandIn().on(APPROVE, NOT_FOUND).on(MEMBERSHIPS, memberships(("other", "JOINED")))
    wix.on(GROUP_MEMBERS, group_members(BEN)).on(JOIN_REQUESTS, join_requests())

    with pytest.raises(NotFoundError):
        a_client(wix).approve_requests(SITE, GROUP, [CHLOE])


def test_one_settled_request_does_not_hold_up_the_others():
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(409 if "m0" in body_of(request)["memberIds"] else 200, json={})

    def standing(request: httpx.Request) -> httpx.Response:
        return memberships((GROUP, "JOINED" if "/m0/" in request.url.path else "PENDING"))

    wix = WixStandIn().on(APPROVE, answer).on(MEMBERSHIPS, standing)

    a_client(wix).approve_requests(SITE, GROUP, [MemberId("m0"), MemberId("m1"), MemberId("m2")])

    assert [body_of(request)["memberIds"] for request in wix.asked_for(APPROVE)] == [
        ["m0", "m1", "m2"],
        ["m1"],
        ["m2"],
    ]


def test_other_refusals_of_a_decision_are_told():
    wix = WixStandIn().on(APPROVE, example_error("validation_error.400"))

    with pytest.raises(PermanentError, match="memberIds MAX_SIZE"):
        a_client(wix).approve_requests(SITE, GROUP, [CHLOE])


@pytest.mark.parametrize(
    "ask",
    [
        lambda wix: wix.approve_requests(SITE, GROUP, [CHLOE]),
        lambda wix: wix.reject_requests(SITE, GROUP, [CHLOE], "no"),
        lambda wix: wix.set_subscription(SITE, "chloe@example.com", status="UNSUBSCRIBED"),
        lambda wix: wix.add_group_members(SITE, GROUP, [CHLOE]),
        lambda wix: wix.replace_rules(SITE, GROUP, RULES),
        lambda wix: wix.replace_questions(SITE, GROUP, QUESTIONS),
        lambda wix: wix.list_rules(SITE, GROUP),
        lambda wix: wix.list_questions(SITE, GROUP),
    ],
)
def test_an_object_that_answers_something_else_is_no_sign_that_wix_did_it(ask: Callable[[WixClient], object]):
    with pytest.raises(RetryableError, match="another object"):
        ask(a_client(WixStandIn().on(EVERYTHING, httpx.Response(200, json={"items": "x"}))))

    ask(a_client(WixStandIn().on(EVERYTHING, httpx.Response(200, json={}))))


def test_a_group_says_who_owns_it_and_when_something_happened_in_it_last():
    wix = WixStandIn().on(EVERYTHING, example_answer("listGroups"))

    page = a_client(wix).groups_page(SITE, 0)

    assert page.next_offset is None
    assert {group.owner for group in page.items} == {"11e6d5a2-3b7c-4d8e-9f01-a2b3c4d5e6f1"}
    assert page.items[1].last_activity == datetime(2026, 1, 15, 6, 5, tzinfo=UTC)


def test_one_page_is_one_call_and_says_where_the_next_one_begins():
    wix = WixStandIn().on(
        GROUP_MEMBERS, group_members(*ids(0, 100)), listed("members", [{"memberId": "m100"}], total=150)
    )
    client = a_client(wix)

    assert client.group_members_page(SITE, GROUP, 0).next_offset == 100
    assert client.group_members_page(SITE, GROUP, 100).next_offset == 101, "Wix says that there are more"
    assert [request.url.params["offset"] for request in wix.asked_for(GROUP_MEMBERS)] == ["0", "100"]


def test_a_page_with_nothing_on_it_is_the_last_whatever_the_total():
    wix = WixStandIn().on(GROUP_MEMBERS, listed("members", [], total=10**9))

    assert a_client(wix).group_members_page(SITE, GROUP, 100).next_offset is None


def test_a_new_group_is_asked_for_as_in_its_example():
    wix = WixStandIn().on(EVERYTHING, example_answer("createGroup"))

    group = a_client(wix).create_group(
        SITE,
        "Sunrise Yoga",
        privacy="PUBLIC",
        creator=ADA,
        description="Weekly sessions and schedule updates.",
    )

    assert (group.id, group.name, group.privacy, group.owner) == (YOGA, "Sunrise Yoga", "PUBLIC", ADA)
    documented = example("endpoints", "createGroup")["request"]
    documented["body"]["group"].pop("settings")
    assert (wix.asked[-1].method, str(wix.asked[-1].url)) == (documented["method"], documented["url"])
    assert body_of(wix.asked[-1]) == documented["body"]


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ReadTimeout("silent"),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"group": {"name": "Sunrise Yoga"}}),
        httpx.Response(200, content=b'{"group": {"id"'),
        example_error("system_error.500"),
    ],
)
def test_a_new_group_whose_answer_is_lost_may_be_there_already(lost: httpx.Response | Exception):
    wix = WixStandIn().on(EVERYTHING, lost)

    with pytest.raises(RetryableError):
        a_client(wix).create_group(SITE, "Sunrise Yoga", privacy="PUBLIC", creator=ADA)

    assert len(wix.asked_for("/groups$")) == 1


def test_whoever_is_in_already_does_not_keep_the_others_out():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return group_members("m0", "m7")
        return (
            CONFLICT if "m0" in body_of(request)["memberIds"] else httpx.Response(200, json={"members": []})
        )

    wix = WixStandIn().on(GROUP_MEMBERS, answer)

    a_client(wix).add_group_members(SITE, GROUP, [MemberId(member) for member in ids(0, 3)])

    added = [body_of(request)["memberIds"] for request in wix.asked_for(GROUP_MEMBERS) if request.content]
    assert added == [["m0", "m1", "m2"], ["m1", "m2"]]


def test_a_refusal_to_add_members_that_their_presence_does_not_explain_is_told():
    def answer(request: httpx.Request) -> httpx.Response:
        return group_members("m7") if request.method == "GET" else CONFLICT

    wix = WixStandIn().on(GROUP_MEMBERS, answer)

    with pytest.raises(PermanentError, match="addGroupMembers: Wix answered 409"):
        a_client(wix).add_group_members(SITE, GROUP, [CHLOE])


@pytest.mark.parametrize("rows", [[0], [{"title": "Be kind"}, {}], [{"title": 7}], {"title": "Be kind"}])
def test_rules_are_read_whole_or_not_at_all(rows: object):
    """They are copied to other groups: a rule that is lost on the way would be lost everywhere."""
    wix = WixStandIn().on(EVERYTHING, httpx.Response(200, json={"rules": rows}))

    with pytest.raises(RetryableError, match="another object"):
        a_client(wix).list_rules(SITE, GROUP)


@pytest.mark.parametrize("body", [{}, {"rules": []}, {"rules": None}])
def test_no_rules_are_none_however_wix_says_it(body: dict[str, Any]):
    assert a_client(WixStandIn().on(EVERYTHING, httpx.Response(200, json=body))).list_rules(SITE, GROUP) == ()


@pytest.mark.parametrize("rows", [[0, None], [{"memberId": 7}], [{"groupId": ""}]])
def test_a_list_in_which_no_row_can_be_read_is_not_an_empty_list(rows: list[object]):
    wix = WixStandIn().on(MEMBERSHIPS, httpx.Response(200, json={"memberships": rows, "metadata": {}}))

    with pytest.raises(RetryableError, match="another object"):
        a_client(wix).get_membership(SITE, GROUP, CHLOE)


def test_decisions_go_out_in_hundreds():
    wix = WixStandIn().on(APPROVE, example_answer("approveJoinGroupRequests"))

    a_client(wix).approve_requests(SITE, GROUP, [MemberId(member) for member in ids(0, 101)])

    assert [len(body_of(request)["memberIds"]) for request in wix.asked_for(APPROVE)] == [100, 1]


# The second identity

KEY = {"api_key": "IST.secret-key", "api_key_site_id": WIX_SITE_ID}


def only_for_the_key(request: httpx.Request) -> httpx.Response:
    if request.headers["authorization"] == KEY["api_key"]:
        assert request.headers["wix-site-id"] == WIX_SITE_ID
        return example_answer("listAnswers")
    assert "wix-site-id" not in request.headers
    return FORBIDDEN


@pytest.mark.parametrize("refusal", [FORBIDDEN, example_error("unauthorized.401")])
def test_what_the_app_may_not_ask_the_second_identity_asks(refusal: httpx.Response):
    def answer(request: httpx.Request) -> httpx.Response:
        answered = only_for_the_key(request)
        return answered if answered.status_code == 200 else httpx.Response(refusal.status_code, json={})

    wix = WixStandIn().on(ANSWERS, answer).on(INSTANCE, example_answer("getAppInstance"))

    assert CHLOE in a_client(wix, **KEY).list_answers(SITE, GROUP, [CHLOE])


@pytest.mark.parametrize("refusal", [403, 401])
@pytest.mark.parametrize(
    ("ask", "path", "answer"),
    [
        (lambda wix: wix.list_rules(SITE, GROUP), "/rules/", {"rules": []}),
        (lambda wix: wix.replace_rules(SITE, GROUP, RULES), "/rules/", {"rules": []}),
        (lambda wix: wix.list_questions(SITE, GROUP), "/membership-questions/", {"questions": []}),
        (lambda wix: wix.replace_questions(SITE, GROUP, QUESTIONS), "/membership-questions/", {"questions": []}),
    ],
)  # fmt: skip
def test_rules_and_questions_may_need_the_second_identity(
    ask: Callable[[WixClient], object], path: str, answer: dict[str, Any], refusal: int
):
    def for_the_key(request: httpx.Request) -> httpx.Response:
        allowed = request.headers["authorization"] == KEY["api_key"]
        return httpx.Response(200, json=answer) if allowed else httpx.Response(refusal, json={})

    wix = WixStandIn().on(path, for_the_key).on(INSTANCE, example_answer("getAppInstance"))

    ask(a_client(wix, **KEY))
    with pytest.raises(ForbiddenError, match="WIX_API_KEY and WIX_SITE_ID would allow it"):
        ask(a_client(wix))


def test_a_refused_call_is_not_tried_in_vain_again_for_some_minutes():
    clock = Clock()
    wix = WixStandIn().on(ANSWERS, only_for_the_key).on(INSTANCE, example_answer("getAppInstance"))
    client = a_client(wix, now=clock, **KEY)

    client.list_answers(SITE, GROUP, [CHLOE])
    client.list_answers(SITE, GROUP, [CHLOE])
    assert len(wix.asked_for(ANSWERS)) == 3
    assert len(wix.asked_for(INSTANCE)) == 1
    clock.now_s += 300
    client.list_answers(SITE, GROUP, [CHLOE])
    assert len(wix.asked_for(ANSWERS)) == 5


def test_only_the_refused_call_goes_to_the_second_identity():
    wix = (
        WixStandIn()
        .on(ANSWERS, only_for_the_key)
        .on(INSTANCE, example_answer("getAppInstance"))
        .on(GET_GROUP, example_answer("getGroup"))
    )
    client = a_client(wix, **KEY)
    client.list_answers(SITE, GROUP, [CHLOE])

    client.get_group(SITE, YOGA)

    assert wix.asked[-1].headers["authorization"] == "T1"


def test_the_second_identity_never_speaks_for_another_site():
    """The key reads the site that it names, whatever instance asked: elsewhere that is the wrong community."""
    other = example("endpoints", "getAppInstance")["response"]["body"]
    other["site"]["siteId"] = "another-site"
    wix = WixStandIn().on(ANSWERS, only_for_the_key).on(INSTANCE, httpx.Response(200, json=other))

    with pytest.raises(ForbiddenError, match="another site"):
        a_client(wix, **KEY).list_answers(SITE, GROUP, [CHLOE])

    assert all(request.headers.get("authorization") != KEY["api_key"] for request in wix.asked)


@pytest.mark.parametrize("answer", [FORBIDDEN, NOT_FOUND, httpx.Response(200, json={"instance": {}})])
def test_the_second_identity_is_not_used_when_wix_does_not_say_whose_site_it_is(answer: httpx.Response):
    wix = WixStandIn().on(ANSWERS, only_for_the_key).on(INSTANCE, answer)

    with pytest.raises(ForbiddenError, match="does not say"):
        a_client(wix, **KEY).list_answers(SITE, GROUP, [CHLOE])

    assert all(request.headers.get("authorization") != KEY["api_key"] for request in wix.asked)


def test_whose_site_it_is_is_asked_again_later_when_wix_cannot_answer_now():
    wix = WixStandIn().on(ANSWERS, only_for_the_key).on(INSTANCE, example_error("system_error.500"))

    with pytest.raises(RetryableError):
        a_client(wix, **KEY).list_answers(SITE, GROUP, [CHLOE])


def test_a_refusal_without_a_second_identity_names_the_call_and_the_settings():
    wix = WixStandIn().on(ANSWERS, FORBIDDEN)

    with pytest.raises(ForbiddenError, match=r"listAnswers.*1777\.42.*WIX_API_KEY and WIX_SITE_ID") as caught:
        a_client(wix).list_answers(SITE, GROUP, [CHLOE])

    assert caught.value.code == "PERMISSION_DENIED"
    assert len(wix.asked_for(INSTANCE)) == 0


@pytest.mark.parametrize("refusal", [FORBIDDEN, example_error("unauthorized.401")])
def test_a_second_identity_that_is_refused_too_is_forbidden(refusal: httpx.Response):
    wix = WixStandIn().on(ANSWERS, FORBIDDEN, refusal).on(INSTANCE, example_answer("getAppInstance"))

    with pytest.raises(ForbiddenError, match=r"listAnswers.*WIX_API_KEY") as caught:
        a_client(wix, **KEY).list_answers(SITE, GROUP, [CHLOE])

    assert KEY["api_key"] not in str(caught.value)


def test_a_401_on_a_call_that_apps_may_make_is_no_reason_for_the_second_identity_nor_to_give_up():
    wix = WixStandIn().on(GET_GROUP, example_error("unauthorized.401"))

    with pytest.raises(RetryableError, match="does not accept the tokens") as caught:
        a_client(wix, **KEY).get_group(SITE, YOGA)

    assert not caught.value.counts


def test_tokens_that_expire_at_once_do_not_make_answers_unreadable():
    """Asked as the app alone, a 401 could mean "not for apps"; while no token is accepted anywhere it does not."""
    refused = example_error("unauthorized.401")
    wix = WixStandIn().on(ANSWERS, refused).on(INSTANCE, refused)

    with pytest.raises(RetryableError, match="does not accept the tokens"):
        a_client(wix).list_answers(SITE, GROUP, [CHLOE])


# Budget and pauses


def test_calls_stop_when_the_budget_is_used_up():
    wix = WixStandIn().on(MEMBERS, answer_members)
    client = a_client(wix, calls_per_minute=180)  # without Redis a burst of five, one of them for the token

    with pytest.raises(RetryableError) as caught:
        client.get_members(SITE, [MemberId(member) for member in ids(0, 1000)])

    assert not caught.value.counts
    assert caught.value.retry_after_s
    assert len(wix.asked) == 5


def test_bulk_calls_leave_room_for_live_ones_of_the_same_client():
    wix = WixStandIn().on(MEMBERS, answer_members)
    client = a_client(wix, calls_per_minute=180)

    with pytest.raises(RetryableError):
        client.for_bulk().get_members(SITE, [MemberId(member) for member in ids(0, 1000)])

    assert len(client.get_members(SITE, [BEN])) == 1


def test_bulk_work_that_can_wait_for_room_gets_through_and_knows_what_it_cost():
    clock = Clock()

    def wait(seconds: float) -> bool:
        clock.now_s += seconds
        return True

    wix = WixStandIn().on(MEMBERS, answer_members)
    client = a_client(wix, calls_per_minute=180, now=clock)
    view = client.for_bulk(wait)

    assert len(view.get_members(SITE, [MemberId(member) for member in ids(0, 1000)])) == 1000
    assert (view.calls, client.for_bulk().calls) == (10, 0)
    assert clock.now_s - Clock().now_s > 5, "without Redis a quarter of 180 a minute, after a burst of three"


def test_work_that_may_wait_looks_up_before_each_call_and_can_be_stopped_there():
    asked: list[float] = []

    def wait(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) < 2

    wix = WixStandIn().on(MEMBERS, answer_members)
    view = a_client(wix).for_bulk(wait)
    view.get_members(SITE, [MemberId("m-1")])
    before = len(wix.asked)
    with pytest.raises(RetryableError, match="asked to stop"):
        view.get_members(SITE, [MemberId("m-2")])
    assert len(wix.asked) == before
    assert asked == [0.0, 0.0]


def test_bulk_work_that_may_not_wait_any_longer_is_told_so():
    wix = WixStandIn().on(MEMBERS, answer_members)
    view = a_client(wix, calls_per_minute=180).for_bulk(lambda seconds: seconds < 0.1)

    with pytest.raises(RetryableError):
        view.get_members(SITE, [MemberId(member) for member in ids(0, 1000)])


@pytest.mark.parametrize(("headers", "least_s", "most_s"), [({"retry-after": "17"}, 17, 17), ({}, 0.5, 1)])
def test_after_a_429_nobody_calls_for_this_site_until_the_pause_is_over(
    headers: dict[str, str], least_s: float, most_s: float
):
    clock = Clock()
    too_many = httpx.Response(429, headers=headers, json={})
    wix = WixStandIn().on(GET_GROUP, too_many, example_answer("getGroup"))
    client = a_client(wix, now=clock)

    with pytest.raises(RetryableError) as caught:
        client.get_group(SITE, YOGA)
    assert caught.value.counts
    assert least_s <= (caught.value.retry_after_s or 0) <= most_s
    asked = len(wix.asked)
    with pytest.raises(RetryableError) as caught:
        client.get_group(SITE, YOGA)
    assert not caught.value.counts
    assert len(wix.asked) == asked
    clock.now_s += most_s + 0.01
    assert client.get_group(SITE, YOGA) is not None


def test_an_outage_with_a_time_pauses_too_and_one_without_does_not():
    wix = WixStandIn().on(
        GET_GROUP, httpx.Response(503, json={}), httpx.Response(503, headers={"retry-after": "9"})
    )
    client = a_client(wix)
    for counts in (True, True, False):
        with pytest.raises(RetryableError) as caught:
            client.get_group(SITE, YOGA)
        assert caught.value.counts is counts


# The wire


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("silent"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("garbage"),
        httpx.PoolTimeout("busy"),
    ],
)
def test_trouble_on_the_way_is_tried_again(trouble: Exception):
    wix = WixStandIn().on(GET_GROUP, trouble)

    with pytest.raises(RetryableError, match=type(trouble).__name__) as caught:
        a_client(wix).get_group(SITE, YOGA)

    assert caught.value.__cause__ is trouble
    assert caught.value.counts


def test_an_answer_that_breaks_its_own_encoding_is_tried_again():
    broken = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))
    wix = WixStandIn().on(GET_GROUP, lambda request: broken)

    with pytest.raises(RetryableError):
        a_client(wix).get_group(SITE, YOGA)


def test_an_answer_that_unpacks_beyond_all_bounds_is_not_read_to_its_end():
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    wix = WixStandIn().on(
        GET_GROUP,
        lambda request: httpx.Response(
            200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(bomb)
        ),
    )

    with pytest.raises(RetryableError, match="larger"):
        a_client(wix).get_group(SITE, YOGA)


def test_an_answer_that_drips_in_for_ever_is_left():
    clock = Clock()

    class Drip(httpx.SyncByteStream):
        def __iter__(self):
            while True:
                clock.now_s += 14
                yield b" "

    wix = WixStandIn().on(GET_GROUP, lambda request: httpx.Response(200, stream=Drip()))

    with pytest.raises(RetryableError, match="longer"):
        a_client(wix, now=clock).get_group(SITE, YOGA)


def test_redirects_are_not_followed():
    wix = WixStandIn().on(GET_GROUP, httpx.Response(302, headers={"location": "https://evil.example/"}))

    with pytest.raises(RetryableError):
        a_client(wix).get_group(SITE, YOGA)

    assert {request.url.host for request in wix.asked} == {"www.wixapis.com"}


def test_cookies_of_one_site_are_not_sent_for_another():
    cookie = {"set-cookie": "session=one; Path=/"}
    wix = WixStandIn().on(GET_GROUP, httpx.Response(200, headers=cookie, json={"group": {"name": "Yoga"}}))
    client = a_client(wix)

    client.get_group(SITE, YOGA)
    client.get_group(SiteId("other"), YOGA)

    assert all("cookie" not in request.headers for request in wix.asked)


@pytest.mark.parametrize("wild", ["../../members/v1/members", "a/b", "a?b=c", "a#b", "%2e%2e", "ü", "a b"])
def test_an_id_stays_one_segment_of_the_path(wild: str):
    wix = WixStandIn().on(EVERYTHING, NOT_FOUND)

    assert a_client(wix).get_group(SITE, GroupId(wild)) is None

    raw = wix.asked[-1].url.raw_path.split(b"?")[0]
    assert raw.startswith(b"/social-groups-proxy/groups/v2/groups/")
    assert raw.count(b"/") == 5


@pytest.mark.parametrize("nothing", ["", ".", ".."])
def test_an_id_that_is_no_segment_is_never_sent(nothing: str):
    wix = WixStandIn()

    assert a_client(wix).get_group(SITE, GroupId(nothing)) is None
    assert wix.asked == []


def test_prefixes_and_base_address_can_be_others():
    wix = WixStandIn().on(GET_GROUP, example_answer("getGroup"))
    client = WixClient(
        "http://127.0.0.1:9/wix",
        "app-id",
        "app-secret",
        prefixes={"groups": "/social-groups/v2"},
        transport=httpx.MockTransport(wix),
    )

    client.get_group(SITE, YOGA)

    assert str(wix.asked[0].url) == "http://127.0.0.1:9/wix/oauth2/token"
    assert str(wix.asked[1].url).startswith(f"http://127.0.0.1:9/wix/social-groups/v2/groups/{YOGA}")


def test_the_proxy_of_the_environment_is_not_used_on_this_machine(monkeypatch: pytest.MonkeyPatch):
    """Asked of a closed port: through the proxy, which does not exist either, the name would be another."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    client = WixClient("http://127.0.0.1:1", "app-id", "app-secret")

    with pytest.raises(RetryableError) as caught:
        client.get_group(SITE, YOGA)

    assert "refused" in str(caught.value.__cause__)
    client.close()


# What must not be said

ADDRESS = "ana.perez@example.com"
LEAKS = {
    "message": f"no consent of {ADDRESS}",
    "error": ADDRESS,
    "error_description": ADDRESS,
    "details": {
        "applicationError": {"code": ADDRESS, "description": ADDRESS, "data": {"email": ADDRESS}},
        "validationError": {
            "fieldViolations": [
                {"field": f"filter.{ADDRESS}", "description": ADDRESS, "violatedRule": ADDRESS}
            ]
        },
    },
}


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 409, 428, 429, 500, 503])
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_subscriptions(SITE, [ADDRESS]),
        lambda client: client.set_subscription(SITE, ADDRESS, status="UNSUBSCRIBED"),
        lambda client: client.get_members(SITE, [MemberId(ADDRESS)]),
        lambda client: client.list_answers(SITE, GROUP, [MemberId(ADDRESS)]),
        lambda client: client.reject_requests(SITE, GROUP, [CHLOE], f"we know {ADDRESS}"),
        lambda client: client.get_site(SITE),
        lambda client: client.find_people(SITE, emails=[ADDRESS], names=[(ADDRESS, ADDRESS)]),
        lambda client: client.create_group(SITE, ADDRESS, privacy="PUBLIC", creator=CHLOE),
        lambda client: client.replace_rules(SITE, GROUP, [Rule(ADDRESS, ADDRESS)]),
    ],
    ids=["subscriptions", "unsubscribe", "members", "answers", "reject", "site", "people", "create", "rules"],
)
def test_no_error_and_no_log_line_holds_an_address(
    status: int, ask: Callable[[WixClient], object], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    wix = (
        WixStandIn()
        .on(TOKEN, httpx.Response(200, json={"access_token": "bearer-token"}))
        .on(EVERYTHING, httpx.Response(status, headers={"x-wix-request-id": ADDRESS}, json=LEAKS))
    )
    told = ""

    try:
        ask(a_client(wix))
    except IntegrationError as exc:
        told = f"{exc} {exc!r} {exc.code} {exc.request_id}"

    logged = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert told or status in (200, 404)
    for secret in (ADDRESS, "bearer-token", "app-secret"):
        assert secret not in told + logged
