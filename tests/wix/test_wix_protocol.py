from __future__ import annotations

import contextlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wix_stand_in import CHLOE, EXAMPLES, GROUP, SITE, example

from core.community import Answer, GroupId, MemberId, Membership, SiteId, Subscription
from core.errors import ForbiddenError, IntegrationError, NotFoundError, PermanentError, RetryableError
from integrations.wix import protocol
from integrations.wix.protocol import ConflictError, UnauthorizedError, decode

METADATA = {"metadata": {"count": 1}}


def failure(status: int, body: object = None, **headers: str) -> IntegrationError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(IntegrationError) as caught:
        decode(
            status, {name.replace("_", "-"): value for name, value in headers.items()}, content, "getGroup"
        )
    return caught.value


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("application_error.403", ForbiddenError, "PERMISSION_DENIED"),
        ("application_error.404", NotFoundError, "NOT_FOUND"),
        ("contacts_illegal_limit.400", PermanentError, "ILLEGAL_LIMIT"),
        ("duplicate_contact.409", ConflictError, "DUPLICATE_CONTACT_EXISTS"),
        ("oauth_invalid_client", UnauthorizedError, "invalid_client"),
        ("rate_limited.429", RetryableError, "RESOURCE_EXHAUSTED"),
        ("system_error.500", RetryableError, ""),
        ("unauthorized.401", UnauthorizedError, "UNAUTHENTICATED"),
        ("validation_error.400", PermanentError, ""),
    ],
)
def test_every_documented_error_has_its_type_code_and_request_id(name: str, kind: type, code: str):
    error = example("errors", name)

    exc = failure(error["status"], error["body"], x_wix_request_id="1777807201.12")

    assert type(exc) is kind
    assert exc.code == code
    assert exc.request_id == "1777807201.12"
    assert "1777807201.12" in str(exc)
    assert code in str(exc)
    assert str(error["status"]) in str(exc)
    assert "getGroup" in str(exc)


def test_every_error_example_is_tested():
    assert len(list((EXAMPLES / "errors").iterdir())) == 9


def test_a_validation_error_names_the_fields_and_their_rules():
    error = example("errors", "validation_error.400")

    assert "memberIds MAX_SIZE" in str(failure(400, error["body"]))


def test_a_custom_rule_is_named_by_its_own_name():
    violation = {"field": "group.name", "violatedRule": "CUSTOM", "ruleName": "TOO_SHORT"}

    exc = failure(400, {"details": {"validationError": {"fieldViolations": [violation]}}})

    assert "group.name TOO_SHORT" in str(exc)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (201, RetryableError),
        (204, RetryableError),
        (302, RetryableError),
        (400, PermanentError),
        (408, RetryableError),
        (418, PermanentError),
        (428, ConflictError),
        (429, RetryableError),
        (501, PermanentError),
        (502, RetryableError),
        (503, RetryableError),
        (504, RetryableError),
    ],
)
def test_only_200_is_success_and_each_other_status_says_whether_to_try_again(status: int, kind: type):
    assert type(failure(status, {"fine": True})) is kind
    assert type(failure(status, b"<html>proxy</html>")) is kind


@pytest.mark.parametrize(
    "body",
    [b"", b"<html></html>", b'{"group": {"id"', b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "html", "truncated", "list", "null", "text", "no utf-8", "deep"],
)
def test_a_200_without_a_json_object_is_tried_again(body: bytes):
    assert type(failure(200, body)) is RetryableError


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        (" 30 ", 30.0),
        ("86400", 900.0),
        ("99999999999999999999", 900.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Fri, 02 Jan 2026 00:00:00 GMT", 900.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", None),
        ("0", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("1e3", None),
        ("optional, not documented", None),
    ],
)
def test_retry_after_is_honoured_as_seconds_or_date_within_bounds(said: str, wait_s: float | None):
    exc = failure(429, {}, retry_after=said, date="Thu, 01 Jan 2026 00:00:00 GMT")

    assert isinstance(exc, RetryableError)
    assert exc.retry_after_s == wait_s
    assert exc.counts


def test_a_date_without_the_answers_own_date_is_ignored():
    exc = failure(503, {}, retry_after="Thu, 01 Jan 2026 00:01:00 GMT")

    assert isinstance(exc, RetryableError)
    assert exc.retry_after_s is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
speech = st.text() | st.just("ana@example.com") | st.just("no such member ana@example.com") | json_values
errors = st.fixed_dictionaries(
    {
        "message": speech,
        "error": speech,
        "details": st.fixed_dictionaries(
            {
                "applicationError": st.fixed_dictionaries({"code": speech, "description": speech}) | speech,
                "validationError": st.fixed_dictionaries(
                    {
                        "fieldViolations": st.lists(
                            st.fixed_dictionaries(
                                {"field": speech, "violatedRule": speech, "ruleName": speech}
                            )
                            | speech
                        )
                    }
                )
                | speech,
            }
        )
        | speech,
    }
)


@given(
    status=st.integers(100, 999) | st.sampled_from([200, 400, 401, 403, 404, 409, 429, 500]),
    headers=st.dictionaries(
        st.sampled_from(["x-wix-request-id", "retry-after", "date"]), st.text() | st.just("ana@example.com")
    ),
    body=st.binary() | json_values.map(json.dumps).map(str.encode) | errors.map(json.dumps).map(str.encode),
)
def test_whatever_comes_is_an_object_or_a_documented_error_without_an_address(
    status: int, headers: dict[str, str], body: bytes
):
    try:
        outcome: object = decode(status, headers, body)
    except IntegrationError as exc:
        outcome = exc

    assert isinstance(outcome, dict | RetryableError | PermanentError)
    assert status == 200 or not isinstance(outcome, dict)
    if isinstance(outcome, IntegrationError):
        assert len(str(outcome)) < 1500
        assert "@" not in str(outcome) + outcome.code + outcome.request_id
    if isinstance(outcome, RetryableError) and outcome.retry_after_s is not None:
        assert 0 < outcome.retry_after_s <= 900


READERS = [
    lambda body: protocol.read_group(body, GROUP),
    lambda body: protocol.read_site(body, SITE),
    protocol.read_token,
    protocol.read_memberships,
    protocol.read_group_members,
    protocol.read_join_requests,
    protocol.read_groups,
    protocol.read_answers,
    protocol.read_members,
    protocol.read_subscriptions,
    protocol.read_new_group,
    protocol.read_rules,
    protocol.read_questions,
    protocol.read_people_of_members,
    protocol.read_people_of_contacts,
    protocol.read_people_of_search,
]
wix_names = st.sampled_from(
    [
        "group",
        "site",
        "instance",
        "memberships",
        "members",
        "joinGroupRequests",
        "memberAnswers",
        "questions",
        "answers",
        "subscriptions",
        "metadata",
        "total",
        "groupId",
        "memberId",
        "siteMemberId",
        "id",
        "role",
        "value",
        "status",
        "joinedDate",
        "contact",
        "emails",
        "loginEmail",
        "profile",
        "nickname",
        "email",
        "text",
        "name",
        "title",
        "locale",
        "url",
        "access_token",
        "expires_in",
        "rules",
        "contacts",
        "pagingMetadata",
        "cursors",
        "next",
        "info",
        "phones",
        "items",
        "e164",
        "phone",
        "memberInfo",
        "profileInfo",
        "privacyStatus",
        "ownerId",
        "createdBy",
    ]
)
wix_like = st.dictionaries(
    wix_names,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(wix_names, inner, max_size=5),
        max_leaves=15,
    ),
)


@given(body=wix_like, reader=st.sampled_from(READERS))
def test_an_answer_of_any_shape_is_read_or_tried_again(body: dict[str, Any], reader: Any):
    with contextlib.suppress(RetryableError):
        repr(reader(body))


def test_errors_travel_between_processes_with_type_and_fields():
    exc = failure(404, example("errors", "application_error.404")["body"], x_wix_request_id="r1")

    copied = pickle.loads(pickle.dumps(exc))

    assert (type(copied), str(copied), copied.code, copied.request_id) == (
        NotFoundError,
        str(exc),
        "NOT_FOUND",
        "r1",
    )


def test_a_group_is_read_by_its_old_names_too():
    group = protocol.read_group({"group": {"title": "Yoga", "privacyLevel": "SECRET"}}, GROUP)

    assert (group.name, group.privacy) == ("Yoga", "SECRET")


def test_a_groups_owner_and_last_activity_are_read_by_their_old_names_too():
    old = {"name": "x", "createdBy": {"id": "m1"}, "recentActivityDate": "2026-05-01T10:00:00Z"}
    new = old | {"ownerId": "m2", "lastActivityDate": "2026-05-02T10:00:00Z"}

    read = [protocol.read_group({"group": row}, GROUP) for row in (old, new, {"name": "x", "ownerId": 7})]

    assert [group.owner for group in read] == ["m1", "m2", None]
    assert [group.last_activity and group.last_activity.day for group in read] == [1, 2, None]


@pytest.mark.parametrize(("said", "private"), [("PRIVATE", True), ("PUBLIC", False), ("UNKNOWN", None)])
def test_a_profile_is_private_public_or_wix_does_not_say(said: str, private: bool | None):
    page = protocol.read_members({"members": [{"id": "m1", "contactId": "c1", "privacyStatus": said}]})

    assert (page.items[0][1].private, page.items[0][1].contact) == (private, "c1")


@pytest.mark.parametrize("count", [None, "17", -1, True, 1.5, 10**12])
def test_a_count_of_members_that_is_none_is_not_known(count: object):
    row = {"id": GROUP, "name": "Yoga", "membersCount": count, "createdDate": "yesterday"}
    [(_, group)] = protocol.read_groups({"groups": [row]}).items

    assert (group.members, group.created_at) == (None, None)


def test_a_privacy_that_nobody_knows_yet_is_kept_and_none_is_unknown():
    assert protocol.read_group({"group": {"privacyStatus": "HIDDEN", "name": "x"}}, GROUP).privacy == "HIDDEN"
    assert protocol.read_group({"group": {"privacyStatus": None, "name": "x"}}, GROUP).privacy == "UNKNOWN"


@pytest.mark.parametrize("key", ["memberId", "siteMemberId"])
def test_a_members_id_is_read_under_both_names(key: str):
    page = protocol.read_group_members({"members": [{key: CHLOE}]})

    assert page.items == ((CHLOE, Membership("joined")),)


def test_the_new_name_of_a_members_id_wins_and_an_empty_one_does_not():
    rows = [{"memberId": "new", "siteMemberId": "old"}, {"memberId": None, "siteMemberId": "only"}]

    page = protocol.read_group_members({"members": rows})

    assert [member for member, _ in page.items] == ["new", "only"]


@pytest.mark.parametrize("bad", [None, 7, "", " ", "a b", "x" * 201, "naïve", "a\nb", ["m1"], {"id": "m1"}])
def test_rows_without_a_usable_id_are_dropped_but_counted(bad: object):
    page = protocol.read_group_members({"members": [{"memberId": bad}, {"memberId": "m1"}, "row"]})

    assert [member for member, _ in page.items] == ["m1"]
    assert page.rows == 3


def test_membership_statuses_are_joined_pending_or_none():
    rows = [{"groupId": f"g{i}", "status": s} for i, s in enumerate(("JOINED", "PENDING", "BANNED", None))]

    page = protocol.read_memberships({"memberships": rows})

    assert [found.status for _, found in page.items] == ["joined", "pending", "none", "none"]


@pytest.mark.parametrize("key", ["subscriptions", "email_subscriptions", "emailSubscriptions"])
def test_subscriptions_are_read_under_three_names(key: str):
    row = {"email": "Ana@Example.com", "subscriptionStatus": "SUBSCRIBED", "deliverabilityStatus": "VALID"}

    page = protocol.read_subscriptions({key: [row]})

    assert page.items == (("Ana@Example.com", Subscription("SUBSCRIBED", "VALID")),)


def test_statuses_that_nobody_knows_yet_are_kept_and_missing_ones_are_not_set():
    rows = [{"email": "a@example.com", "subscriptionStatus": "MAYBE"}, {"email": "b@example.com"}]

    page = protocol.read_subscriptions({"subscriptions": rows})

    assert [found for _, found in page.items] == [Subscription("MAYBE", "NOT_SET"), Subscription()]


def test_of_two_records_of_one_address_the_no_holds():
    yes, no = Subscription("SUBSCRIBED", "VALID"), Subscription("UNSUBSCRIBED", "NOT_SET")
    dead, pending = Subscription("SUBSCRIBED", "BOUNCED"), Subscription("PENDING", "VALID")

    assert protocol.stricter(yes, no).status == protocol.stricter(no, yes).status == "UNSUBSCRIBED"
    assert protocol.stricter(pending, no).status == protocol.stricter(no, pending).status == "UNSUBSCRIBED"
    assert protocol.stricter(yes, pending).status == protocol.stricter(pending, yes).status == "PENDING"
    assert protocol.stricter(yes, dead).deliverability == protocol.stricter(dead, yes).deliverability
    assert protocol.stricter(yes, dead).deliverability == "BOUNCED"


def test_one_object_in_the_place_of_a_list_is_a_list_of_one():
    page = protocol.read_join_requests({"joinGroupRequests": {"memberId": "m1", "status": "CANCELLED"}})

    assert page.items == ((MemberId("m1"), ("CANCELED", None)),)


def test_an_absent_list_is_empty_beside_metadata_and_else_a_wrong_answer():
    assert protocol.read_members(METADATA).rows == 0
    assert protocol.read_members({"members": None, **METADATA}).rows == 0
    for wrong in ({}, {"groups": []}, {"members": "m1", **METADATA}):
        with pytest.raises(RetryableError):
            protocol.read_members(wrong)


def test_answers_carry_their_questions_text_and_a_replaced_question_is_empty():
    body = {
        "memberAnswers": [
            {"memberId": "m1", "answers": [{"id": "q1", "text": "yes"}, {"id": "q9", "text": "old"}]}
        ],
        "questions": {"q1": {"id": "q1", "text": "Yoga?"}},
    }

    assert protocol.read_answers(body).items == (
        (MemberId("m1"), (Answer("Yoga?", "yes"), Answer("", "old"))),
    )


def test_a_member_without_login_address_is_written_to_at_the_first_contact_address():
    rows = [
        {"id": "m1", "loginEmail": None, "contact": {"emails": [None, "", "second@example.com", "third@x"]}},
        {"id": "m2", "loginEmail": "login@example.com", "contact": {"emails": ["other@example.com"]}},
        {"id": "m3", "contact": None},
    ]

    members = dict(protocol.read_members({"members": rows}).items)

    assert [member.email for member in members.values()] == ["second@example.com", "login@example.com", ""]


def test_texts_that_no_database_takes_are_cleaned():
    page = protocol.read_members({"members": [{"id": "m1", "profile": {"nickname": "A\x00n\ud800a"}}]})

    assert page.items[0][1].nickname == "An?a"


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("en", "en"),
        ("pt_BR", "pt-br"),
        ("zh-Hant-TW", "zh-hant-tw"),
        ("", ""),
        ("../x", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_a_sites_locale_becomes_a_language_tag(locale: object, language: str):
    site, _ = protocol.read_site({"site": {"locale": locale}}, SITE)

    assert site.language == language


def test_a_sites_address_is_a_web_address_or_nothing():
    assert protocol.read_site({"site": {"url": "https://a.example"}}, SITE)[0].url == "https://a.example"
    assert protocol.read_site({"site": {"url": "javascript:alert(1)"}}, SITE)[0].url == ""


@pytest.mark.parametrize("lifetime", [None, 0, -1, "14400", True, float("nan"), float("inf"), 10**12])
def test_a_token_without_a_believable_lifetime_lives_four_hours(lifetime: object):
    assert protocol.read_token({"access_token": "t", "expires_in": lifetime}) == ("t", 14400.0)


@pytest.mark.parametrize("token", [None, "", "a\r\nx-evil: 1", "a b", 7])
def test_a_token_that_is_none_is_tried_again(token: object):
    with pytest.raises(RetryableError):
        protocol.read_token({"access_token": token})


@given(
    st.text(alphabet=st.characters(codec="utf-8") | st.just("\ud800")) | st.sampled_from(["a/../b", "%2e%2e"])
)
def test_no_id_leads_to_another_path(wild: str):
    try:
        path = protocol.list_group_members(GroupId(wild), 0).path
    except NotFoundError:
        assert not wild.strip(".")
    else:
        assert path.count("/") == 3
        assert path.startswith("/groups/")
        assert path.endswith("/members")
        assert not set(path) & set("?#\\ ")


def test_values_in_requests_and_pages_do_not_show_up_in_their_representation():
    call = protocol.query_subscriptions(["ana@example.com"], 0)
    token = protocol.create_token("app", "s3cr3t", SiteId("s1"))
    page = protocol.read_subscriptions({"subscriptions": [{"email": "ana@example.com"}]})

    assert "ana@" not in repr(call) + repr(page)
    assert "s3cr3t" not in repr(token)


def test_a_reason_is_cut_to_what_wix_takes():
    call = protocol.reject_requests(GROUP, "x" * 3000, [CHLOE])

    assert call.body == {"rejections": [{"memberId": CHLOE, "reason": "x" * 1000}]}
