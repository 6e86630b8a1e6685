"""Finding people: what is asked of Wix, in which order, and how often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from wix_stand_in import (
    CHLOE,
    INSTANCE,
    SITE,
    Clock,
    WixStandIn,
    a_client,
    body_of,
    example,
    example_answer,
    example_error,
    listed,
)

from core.community import Member, MemberId, Person
from core.errors import PermanentError, RetryableError
from integrations.wix import protocol

SEARCH = "/contacts/v5/contacts/search$"
CONTACTS = "/contacts/v4/contacts/query$"
MEMBERS = "/members/v1/members/query$"
BEN = MemberId("22f7e6b3-4c8d-4e9f-8a12-b3c4d5e6f7a2")
BENS_CONTACT = "a1b2c3d4-0002-4aaa-8bbb-000000000002"
BENS_PHONE = "+12025550102"
REFUSED = example_error("application_error.403")


def contact_id(number: int) -> str:
    return f"a1b2c3d4-0000-4aaa-8bbb-{number:012d}"


def searched(*rows: dict[str, Any], after: str = "") -> httpx.Response:
    paging = {"count": len(rows), "cursors": {"next": after} if after else {}, "hasNext": bool(after)}
    return httpx.Response(200, json={"contacts": list(rows), "pagingMetadata": paging})


def queried(*rows: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"contacts": list(rows), "pagingMetadata": {"count": len(rows)}})


def search_by(field: str, *keys: str) -> dict[str, Any]:
    return {"search": {"filter": {field: {"$in": list(keys)}}, "cursorPaging": {"limit": 100}}}


def test_a_phone_is_searched_for_as_in_its_example_and_names_the_member_at_once():
    wix = WixStandIn().on(SEARCH, example_answer("searchContactsV5"))

    (ben,) = a_client(wix).find_people(SITE, phones=[BENS_PHONE])

    assert body_of(wix.asked_for(SEARCH)[0]) == example("endpoints", "searchContactsV5")["request"]["body"]
    member = Member(
        BEN, "APPROVED", "ben@example.com", "Ben", "Ben Okafor", "", "Okafor", BENS_CONTACT, False,
        datetime(2025, 2, 1, 10, tzinfo=UTC),
    )  # fmt: skip
    emails, phones = frozenset({"ben@example.com"}), frozenset({BENS_PHONE})
    assert ben == Person(BENS_CONTACT, member, emails, phones, "Ben", "Okafor")


def test_without_the_search_a_phone_is_asked_of_contacts_and_then_of_members():
    wix = (
        WixStandIn()
        .on(SEARCH, REFUSED)
        .on(CONTACTS, example_answer("queryContacts"))
        .on(MEMBERS, example_answer("queryMembers"))
    )

    (ben, *_) = a_client(wix).find_people(SITE, phones=[BENS_PHONE])

    documented = example("endpoints", "queryContacts")["request"]["body"]
    documented["query"]["paging"]["limit"] = 1000
    (asked,) = wix.asked_for(CONTACTS)
    assert body_of(asked) == documented
    (asked,) = wix.asked_for(MEMBERS)
    assert body_of(asked)["query"]["filter"] == {"contactId": {"$in": [BENS_CONTACT]}}
    assert (ben.contact, ben.member and ben.member.id, ben.phones) == (BENS_CONTACT, BEN, {BENS_PHONE})


def test_whoever_is_found_by_login_is_not_asked_for_again():
    wix = WixStandIn().on(SEARCH, example_answer("searchContactsV5"))

    assert len(a_client(wix).find_people(SITE, emails=["Ben@Example.com"])) == 1

    (asked,) = wix.asked_for(SEARCH)
    assert body_of(asked) == search_by("memberInfo.email", "ben@example.com", "Ben@Example.com")


def test_an_address_that_no_member_has_is_asked_of_all_addresses_of_contacts():
    nobodys = {"id": contact_id(1), "email": {"email": "paula@example.com"}, "name": {"first": "Paula"}}
    wix = WixStandIn().on(SEARCH, searched(), searched(), searched(nobodys))

    found = a_client(wix).find_people(SITE, emails=["paula@example.com"])

    assert [(person.contact, person.member) for person in found] == [(contact_id(1), None)]
    filters = [body_of(request)["search"]["filter"] for request in wix.asked_for(SEARCH)]
    assert filters == [
        {"memberInfo.email": {"$in": ["paula@example.com"]}},
        {"email.email": {"$in": ["paula@example.com"]}},
        {"additionalEmails.email": {"$hasSome": ["paula@example.com"]}},
    ]


def test_a_phone_that_two_people_share_finds_both():
    ben = example("endpoints", "searchContactsV5")["response"]["body"]["contacts"][0]
    child = {"id": contact_id(1), "additionalPhones": [{"e164": BENS_PHONE}], "name": {"first": "Kit"}}
    wix = WixStandIn().on(SEARCH, searched(ben), searched(child))

    found = a_client(wix).find_people(SITE, phones=[BENS_PHONE])

    assert [person.first_name for person in found] == ["Ben", "Kit"]


def test_names_are_asked_for_together_and_compared_here():
    rows = [
        {"id": contact_id(number), "name": {"first": first, "last": last}}
        for number, (first, last) in enumerate(
            [("Zoë", "O’Brien"), ("ANN", "lee"), ("Ann", "O'Brien"), ("Zoe", "Lee")]
        )
    ]
    wix = WixStandIn().on(SEARCH, searched(*rows))

    found = a_client(wix).find_people(SITE, names=[("zoe", "o'brien"), ("Ann", "Lee")])

    assert {person.contact for person in found} == {contact_id(0), contact_id(1)}
    asked = wix.asked_for(SEARCH)[0]
    assert body_of(asked)["search"]["filter"] == {
        "name.first": {"$in": ["zoe", "Zoe", "Ann"]},
        "name.last": {"$in": ["o'brien", "O'Brien", "Lee"]},
    }


def test_a_name_may_be_somebody_elses_nickname():
    ray = {"id": contact_id(1), "name": {"first": "Sunny", "last": "Ray"}}
    row = {"id": contact_id(2), "memberInfo": {"memberId": CHLOE, "profileInfo": {"nickname": "sunny  ray"}}}
    wix = WixStandIn().on(SEARCH, searched(ray), searched(row))

    found = a_client(wix).find_people(SITE, names=[("Sunny", "Ray")])

    assert [person.member and person.member.id for person in found] == [None, CHLOE]
    asked = wix.asked_for(SEARCH)[-1]
    assert body_of(asked) == search_by("memberInfo.profileInfo.nickname", "Sunny Ray")


def test_a_name_of_one_word_is_a_nickname_alone():
    wix = WixStandIn().on(SEARCH, searched())

    assert a_client(wix).find_people(SITE, names=[("Sunny", "")]) == ()

    (asked,) = wix.asked_for(SEARCH)
    assert body_of(asked) == search_by("memberInfo.profileInfo.nickname", "Sunny")


def test_somebody_found_twice_is_one_person():
    wix = WixStandIn().on(SEARCH, example_answer("searchContactsV5"))

    found = a_client(wix).find_people(
        SITE, contacts=[BENS_CONTACT], emails=["ben@example.com"], names=[("Ben", "Okafor")]
    )

    assert [person.contact for person in found] == [BENS_CONTACT]


def test_pages_of_a_search_follow_its_cursor():
    first = [{"id": contact_id(number), "phone": {"e164": BENS_PHONE}} for number in range(100)]
    last = {"id": contact_id(100), "phone": {"e164": BENS_PHONE}}
    wix = WixStandIn().on(SEARCH, searched(*first, after="c1"), searched(last), searched())

    assert len(a_client(wix).find_people(SITE, phones=[BENS_PHONE])) == 101

    second = body_of(wix.asked_for(SEARCH)[1])
    assert second == {"search": {"cursorPaging": {"limit": 100, "cursor": "c1"}}}


def test_a_cursor_that_leads_in_a_circle_is_left():
    row = {"id": contact_id(1), "phone": {"e164": BENS_PHONE}}
    wix = WixStandIn().on(SEARCH, searched(row, after="c1"))

    assert len(a_client(wix).find_people(SITE, phones=[BENS_PHONE])) == 1
    assert len(wix.asked_for(SEARCH)) == 4, "two fields, each until nothing new came"


def test_contacts_share_one_page_of_a_thousand():
    rows = [
        {"id": contact_id(n), "info": {"phones": {"items": [{"e164Phone": BENS_PHONE}]}}} for n in range(101)
    ]
    wix = WixStandIn().on(SEARCH, REFUSED).on(CONTACTS, queried(*rows)).on(MEMBERS, listed("members", []))

    assert len(a_client(wix).find_people(SITE, phones=[BENS_PHONE])) == 101
    assert len(wix.asked_for(CONTACTS)) == 1
    assert len(wix.asked_for(MEMBERS)) == 2, "101 contacts in hundreds"


@pytest.mark.parametrize(
    "answer",
    [
        REFUSED,
        example_error("application_error.404"),
        example_error("unauthorized.401"),
        httpx.Response(400, json={}),
        httpx.Response(501, json={}),
    ],
)
def test_a_search_that_is_not_to_be_had_is_left_alone_for_some_minutes(answer: httpx.Response):
    clock = Clock()
    wix = (
        WixStandIn()
        .on(SEARCH, answer)
        .on(MEMBERS, example_answer("queryMembers"))
        .on(INSTANCE, example_answer("getAppInstance"))
    )
    client = a_client(wix, now=clock)

    for _ in range(2):
        found = client.find_people(SITE, emails=["ben@example.com"])
        assert [person.member and person.member.id for person in found] == [BEN]
    searches = len(wix.asked_for(SEARCH))
    assert searches == (2 if answer.status_code == 401 else 1)  # a 401 is asked again with a new token
    clock.now_s += 300
    client.find_people(SITE, emails=["ben@example.com"])
    assert len(wix.asked_for(SEARCH)) == 2 * searches


def test_an_outage_of_the_search_is_no_reason_for_the_other_way():
    wix = WixStandIn().on(SEARCH, example_error("system_error.500"))

    with pytest.raises(RetryableError):
        a_client(wix).find_people(SITE, emails=["ben@example.com"])


def test_what_was_found_before_the_search_was_refused_is_not_asked_for_again():
    wix = (
        WixStandIn()
        .on(SEARCH, example_answer("searchContactsV5"), REFUSED)
        .on(MEMBERS, example_answer("queryMembers"))
    )

    found = a_client(wix).find_people(SITE, emails=["ben@example.com"], names=[("Chloe", "Martin")])

    assert {person.member and person.member.id for person in found} == {BEN, CHLOE}
    filters = [set(body_of(request)["query"]["filter"]) for request in wix.asked_for(MEMBERS)]
    assert filters == [{"contact.firstName", "contact.lastName"}, {"profile.nickname"}]


def test_people_whom_neither_way_may_look_for_are_an_error():
    wix = WixStandIn().on("/contacts/", REFUSED).on(MEMBERS, REFUSED)

    with pytest.raises(PermanentError, match="queryMembers"):
        a_client(wix).find_people(SITE, emails=["ben@example.com"])


def test_an_id_that_cannot_be_wixs_does_not_spoil_the_call_for_the_others():
    wix = WixStandIn().on(SEARCH, searched())

    a_client(wix).find_people(SITE, contacts=["no id", BENS_CONTACT, "x' or 1=1"])

    (asked,) = wix.asked_for(SEARCH)
    assert body_of(asked) == search_by("id", BENS_CONTACT)


def test_rows_that_answer_nothing_that_was_asked_are_left_out():
    """A server may ignore a filter that it does not know, and answer with everybody."""
    stranger = {"id": contact_id(1), "phone": {"e164": "+12025550199"}, "email": {"email": "x@example.com"}}
    wix = WixStandIn().on(SEARCH, searched(stranger))

    assert a_client(wix).find_people(SITE, phones=[BENS_PHONE], emails=["y@example.com"]) == ()


def test_a_hundred_members_by_login_are_one_call_without_the_search():
    def answer(request: httpx.Request) -> httpx.Response:
        wanted = body_of(request)["query"]["filter"]["loginEmail"]["$in"]
        return listed("members", [{"id": f"m-{email}", "loginEmail": email} for email in wanted])

    wix = WixStandIn().on(SEARCH, REFUSED).on(MEMBERS, answer)

    emails = [f"p{number}@example.com" for number in range(100)]
    assert len(a_client(wix).find_people(SITE, emails=emails)) == 100

    assert len(wix.asked_for(MEMBERS)) == 1


@pytest.mark.parametrize("refused", [False, True])
def test_hundreds_of_people_whom_nobody_knows_cost_a_few_calls_for_each_hundred(refused: bool):
    wix = (
        WixStandIn()
        .on(SEARCH, REFUSED if refused else searched())
        .on(CONTACTS, queried())
        .on(MEMBERS, listed("members", []))
    )
    client = a_client(wix)

    client.find_people(
        SITE,
        contacts=[contact_id(number) for number in range(100)],
        emails=[f"p{number}@example.com" for number in range(200)],
        phones=[f"+1202555{number:04d}" for number in range(100)],
        names=[(f"First{number}", f"Last{number}") for number in range(100)],
    )

    # A token and: ids 1, addresses 2 x 3, phones 3, names 2 + 1. Or a refusal, and 2, 2 x 2, 3 and 2 + 1.
    assert client.calls == 14
    for request in wix.asked_for("/(search|query)$"):
        (condition,) = (part["filter"] for part in body_of(request).values() if isinstance(part, dict))
        assert all(len(values) <= 100 for by in condition.values() for values in by.values())


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("+1 202-555-0102", {"+12025550102"}),
        ("+1 (202) 555.0102", {"+12025550102"}),
        ("202-555-0102", set()),
        ("call me", set()),
        (None, set()),
    ],
)
def test_a_phone_is_known_by_its_country_or_not_at_all(written: object, phones: set[str]):
    row = {"id": contact_id(1), "phone": {"phone": written}}

    page, cursor = protocol.read_people_of_search({"contacts": [row]})

    assert (page.items[0][1].phones, cursor) == (phones, "")


def test_a_member_of_the_search_has_the_words_of_the_members_api():
    info = {"memberId": CHLOE, "status": "BLOCKED", "profileInfo": {"privacyStatus": "PRIVATE"}}
    rows = [
        {"id": contact_id(1), "memberInfo": info},
        {"id": contact_id(2), "memberInfo": {"memberId": BEN, "status": "ACTIVE"}},
        {"id": contact_id(3), "memberInfo": {"memberId": ""}},
    ]

    page, _ = protocol.read_people_of_search({"contacts": rows})

    members = [person.member for _, person in page.items]
    assert [member and (member.status, member.private) for member in members] == [
        ("BLOCKED", True),
        ("APPROVED", None),
        None,
    ]


def test_two_answers_about_one_person_are_put_together():
    contact = Person("c1", None, frozenset({"a@x"}), frozenset({"+12025550101"}), "Ann", "")
    member = Person("c1", Member(BEN), frozenset({"b@x"}), frozenset({"+12025550102"}), "", "Lee")

    emails, phones = frozenset({"a@x", "b@x"}), frozenset({"+12025550101", "+12025550102"})
    whole = Person("c1", Member(BEN), emails, phones, "Ann", "Lee")
    assert protocol.merged(contact, member) == protocol.merged(member, contact) == whole


def test_people_do_not_show_up_in_representations():
    page, _ = protocol.read_people_of_search(example("endpoints", "searchContactsV5")["response"]["body"])

    for told in (
        repr(page),
        repr(page.items[0][1]),
        repr(protocol.search_contacts({"x": "ben@example"}, "")),
    ):
        assert "ben@example" not in told
        assert "Okafor" not in told
