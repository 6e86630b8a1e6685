from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import events
from core.community import SiteId
from core.errors import MalformedEventError
from core.events import Details, Event, EventId, open_delivery, parse_object, parse_time, read_details

NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)
ADDED = "wix.social_groups.v2.group_member_added"


def claims(data: object, event_type: str = ADDED, *, site: str = "site-1", **more: object) -> dict[str, Any]:
    inner = data if isinstance(data, str) else json.dumps(data)
    return {"data": json.dumps({"eventType": event_type, "instanceId": site, "data": inner}), **more}


def opened(data: object, event_type: str = ADDED, **more: Any) -> Event:
    return open_delivery(claims(data, event_type, **more), NOW)


def details(payload: object, event_type: str = events.MEMBER_ADDED) -> Details:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return read_details(Event(EventId("e"), SiteId("s"), event_type, NOW, text))


def test_an_event_is_known_by_wixs_own_id() -> None:
    assert opened({"id": "e-1"}, iat=1).id == opened({"id": "e-1", "x": 2}, iat=2).id == "e-1"


def test_without_an_id_the_same_words_from_the_same_site_are_the_same_event() -> None:
    first = opened({"x": 1}, "PaidPlanChanged", iat=1)
    again = opened({"x": 1}, "PaidPlanChanged", iat=2)  # signed anew for another attempt
    others = [
        opened({"x": 2}, "PaidPlanChanged"),
        opened({"x": 1}, "PlanReactivated"),
        opened({"x": 1}, "PaidPlanChanged", site="site-2"),
    ]
    assert first.id == again.id
    assert len({first.id, *(other.id for other in others)}) == 4


@pytest.mark.parametrize("event_type", ["AppInstalled", "AppRemoved"])
def test_a_site_that_removes_the_app_again_is_heard_again(event_type: str) -> None:
    """Both times the payload is the app's id and nothing else."""
    spring, autumn = (opened({"appId": "a"}, event_type, iat=iat) for iat in (1_700_000_000, 1_710_000_000))
    assert spring.id != autumn.id
    assert spring.id == opened({"appId": "a"}, event_type, iat=1_700_000_000).id


@pytest.mark.parametrize("bad_id", [None, 5, "", "a b", "a\nb", "é", "x" * 201, {"a": 1}, "\ud800"])
def test_an_id_that_cannot_be_a_key_is_replaced_by_a_hash(bad_id: object) -> None:
    assert opened({"id": bad_id}).id.startswith("sha256-")


@pytest.mark.parametrize(
    "iat", ["\ud800", {"a": []}, True, float("nan"), float("inf"), 10**300, -(10**30), None]
)
@pytest.mark.parametrize("event_type", ["AppRemoved", ADDED])
def test_a_nonsense_iat_is_as_good_as_none(iat: object, event_type: str) -> None:
    event = opened({}, event_type, iat=iat)
    assert (event.occurred_at, event.id) == (NOW, opened({}, event_type).id)


def test_the_time_is_the_events_own_then_the_tokens_then_the_arrival() -> None:
    own = opened({"eventTime": "2026-05-03T11:20:01.926855Z"}, iat=0)
    assert own.occurred_at == datetime(2026, 5, 3, 11, 20, 1, 926855, tzinfo=UTC)
    assert opened({"eventTime": "soon"}, iat=1_777_807_201).occurred_at.year == 2026
    assert opened({}).occurred_at == NOW


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "0999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"])
def test_a_year_that_no_event_can_be_of_is_no_time(time: str) -> None:
    """One such row made every later claim on SQLite fail: strftime writes the year 1 as "1"."""
    assert opened({"eventTime": time}).occurred_at == NOW


def test_a_clock_that_is_ahead_of_ours_does_not_plan_into_the_future() -> None:
    assert opened({"eventTime": "9998-01-01T00:00:00Z"}, iat=4_000_000_000).occurred_at == NOW
    assert opened({"eventTime": (NOW + timedelta(days=30)).isoformat()}).occurred_at == NOW


def test_of_an_erasure_only_the_ids_are_kept() -> None:
    event = opened(
        {
            "entityId": "c1",
            "triggeredByAnonymizeRequest": True,
            "actionEvent": {
                "body": {
                    "groupId": "g1",
                    "groupMember": {"memberId": "m1", "email": "ann@example.com"},
                    "note": "Ann",
                }
            },
        }
    )
    assert json.loads(event.payload) == {
        "entityId": "c1",
        "actionEvent": {"body": {"groupId": "g1", "memberId": "m1"}},
    }


def test_the_time_is_always_utc() -> None:
    arrival = NOW.astimezone(timezone(timedelta(hours=9)))
    assert open_delivery(claims({}), arrival).occurred_at.tzinfo is UTC
    assert opened({"eventTime": "2026-05-03T11:20:00+02:00"}).occurred_at.hour == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-03T11:20:00Z", datetime(2026, 5, 3, 11, 20, tzinfo=UTC)),
        ("2026-05-03T11:20:00.123Z", datetime(2026, 5, 3, 11, 20, 0, 123000, tzinfo=UTC)),
        ("2026-05-03T11:20:00.123456789Z", datetime(2026, 5, 3, 11, 20, 0, 123456, tzinfo=UTC)),
        ("2026-05-03T13:20:00+02:00", datetime(2026, 5, 3, 11, 20, tzinfo=UTC)),
        ("2026-05-03T11:20:00", datetime(2026, 5, 3, 11, 20, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("", None),
        ("yesterday", None),
        ("2" * 65, None),
        (1_777_807_201, None),
        (None, None),
    ],
)
def test_a_time_is_read_as_wix_writes_it_or_not_at_all(text: object, expected: datetime | None) -> None:
    assert parse_time(text) == expected


def test_only_a_plain_true_is_a_privacy_request() -> None:
    assert opened({"triggeredByAnonymizeRequest": True}).erasure
    for value in (False, None, "false", 0):
        assert not opened({"triggeredByAnonymizeRequest": value}).erasure


def test_an_event_given_as_an_object_is_read_like_its_text() -> None:
    data = json.dumps({"eventType": ADDED, "instanceId": "s", "data": {"id": "e-1", "x": "é"}})
    event = open_delivery({"data": data}, NOW)
    assert (event.id, json.loads(event.payload)["x"]) == ("e-1", "é")


def test_a_payload_does_not_show_in_the_events_text() -> None:
    assert "secret" not in repr(opened({"id": "e", "answer": "secret"}))


@pytest.mark.parametrize(
    "text", ["NaN", '{"a": NaN}', '{"a": [Infinity]}', '{"a": -Infinity}', "[]", "", "{", "1"]
)
def test_what_is_no_json_object_is_malformed(text: str) -> None:
    with pytest.raises(MalformedEventError):
        parse_object(text, "x")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_made_to_hurt_is_malformed(text: str) -> None:
    with pytest.raises(MalformedEventError):
        parse_object(text, "x")


def as_python_reads(text: str) -> str | None:
    try:
        read = events._STRICT_JSON.decode(text)
    except (ValueError, RecursionError):
        return None
    return repr(read) if isinstance(read, dict) else None


def as_we_read(text: str) -> str | None:
    try:
        return repr(parse_object(text, "x"))
    except MalformedEventError:
        return None


NUMBERS = st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
STRINGS = st.lists(
    st.sampled_from(
        [
            "a",
            "é",
            "\U0001f600",
            "\x7f",
            "\u2028",
            '\\"',
            "\\\\",
            "\\/",
            "\\n",
            "\\u00e9",
            "\\u0000",
            "\\ud800",
        ]
    )
    | st.sampled_from(["\\ud83d\\ude00", "\\udc00", "\ud800", "\t", "\0", "\\x", "\\u12", "\\"]),
    max_size=6,
).map(lambda letters: f'"{"".join(letters)}"')
BITS = (
    NUMBERS
    | STRINGS
    | st.sampled_from(["null", "true", "false", "NaN", "-Infinity", "tru", "01", "-", ".5", ""])
)
TEXTS = st.recursive(
    BITS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda some: "[" + ",".join(some) + "]")
        | st.lists(st.tuples(STRINGS, inner), max_size=4).map(
            lambda some: "{" + ", ".join(f"{name}: {value}" for name, value in some) + "}"
        )
    ),
    max_leaves=12,
)


@settings(max_examples=1500)
@given(TEXTS, st.sampled_from(["", " ", "\n\t\r", "\ufeff", "\x0b", "\xa0", "x", ","]))
@example('{"a": 1, "a": 2}', "")
@example('{"a": 1e400, "b": -0, "c": -0.0, "d": 1E5, "e": 0.1, "f": 1e-400}', "")
@example('{"a": 9223372036854775808, "b": 18446744073709551616, "c": -9223372036854775809}', "")
@example('{"a": ' + "9" * 4300 + "}", "")
@example('{"a": ' + "9" * 4301 + "}", "")
@example('{"a": ' + "[" * 400 + "]" * 400 + "}", "")
@example('{"\\ud800": "\ud800"}', "")
@example('{"a": 1,}', "")
def test_the_quick_reader_reads_what_pythons_reads_and_refuses_what_it_refuses(
    text: str, around: str
) -> None:
    for whole in (text, f'{{"x": {text}}}', around + text + around):
        assert as_we_read(whole) == as_python_reads(whole)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_text_is_read_by_both_or_by_neither(data: st.DataObject) -> None:
    text = json.dumps({"id": "e-1", "n": [1, -2.5e3, None, True], "ö": {"a": "\u2028\\", "b": "x" * 40}})
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.text(max_size=2)) + text[place + data.draw(st.integers(0, 2)) :]
    assert as_we_read(changed) == as_python_reads(changed)


PERSON = {"groupId": "g1", "groupMember": {"memberId": "m1", "role": {"value": "ADMIN"}}}
OLD_PERSON = {"groupId": "g1", "groupMember": {"siteMemberId": "m1", "role": {"value": "ADMIN"}}}


@pytest.mark.parametrize("body", [PERSON, OLD_PERSON], ids=["memberId", "siteMemberId"])
@pytest.mark.parametrize("as_text", [False, True], ids=["object", "text"])
@pytest.mark.parametrize("suffix", ["", "AsJson"])
@pytest.mark.parametrize(
    ("container", "key"),
    [("actionEvent", "body"), ("createdEvent", "entity"), ("updatedEvent", "currentEntity")],
)
def test_every_generation_of_names_tells_the_same(
    container: str, key: str, suffix: str, as_text: bool, body: dict[str, Any]
) -> None:
    value = json.dumps(body) if as_text else body
    assert details({container: {key + suffix: value}}) == Details(group="g1", member="m1", role="ADMIN")  # type: ignore[arg-type]


def test_the_group_of_a_new_request_is_its_entity_id() -> None:
    payload = {"entityId": "g1", "createdEvent": {"entity": {"siteMemberId": "m1"}}}
    found = details(payload, events.JOIN_REQUESTED)
    assert (found.group, found.member) == ("g1", "m1")


def test_the_entity_id_of_a_member_event_is_no_group() -> None:
    payload = {"entityId": "m1", "actionEvent": {"body": {"groupMember": {"memberId": "m1"}}}}
    assert details(payload).group is None


def test_the_new_role_wins_over_the_one_inside_the_member() -> None:
    body = {**PERSON, "role": {"value": "MEMBER"}}
    assert details({"actionEvent": {"body": body}}, events.ROLE_ASSIGNED).role == "MEMBER"


@pytest.mark.parametrize("name", ["memberId", "siteMemberId"])
@pytest.mark.parametrize("value", [5, None, {}, [], "", "a b", "a\0b", "é", "x" * 201, True])
def test_an_id_that_is_none_is_left_out(name: str, value: object) -> None:
    assert details({"actionEvent": {"body": {"groupMember": {name: value}, "groupId": value}}}) == Details()


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"actionEvent": None},
        {"actionEvent": {"body": None}},
        {"actionEvent": {"body": "no JSON"}},
        {"actionEvent": {"body": "[" * 100_000}},
        {"actionEvent": {"body": {"groupMember": "x", "role": "ADMIN"}}},
        {"actionEvent": {"body": {"role": {"value": {"deep": 1}}, "requestDetails": []}}},
        {"createdEvent": []},
        {"entityId": {"x": 1}},
    ],
)
@pytest.mark.parametrize("event_type", [events.MEMBER_ADDED, events.JOIN_REQUESTED, events.MEMBER_DELETED])
def test_a_payload_without_names_names_nobody(payload: object, event_type: str) -> None:
    assert details(payload, event_type) == Details()


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_a_payload_that_is_no_object_is_malformed(text: str) -> None:
    with pytest.raises(MalformedEventError):
        details(text)


def test_a_reason_can_be_stored_and_sent_whatever_it_held() -> None:
    body = {"joinGroupRequest": {"requestDetails": {"rejectionReason": "no\0pe \ud800 \U0001f600"}}}
    reason = details({"actionEvent": {"body": body}}, events.JOIN_REJECTED).reason
    assert reason == "nope ? \U0001f600"
