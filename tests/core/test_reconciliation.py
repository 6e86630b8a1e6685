"""What the lists say and the journal does not: plain values, no Wix."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from core import events
from core.automations import Automation, Automations
from core.community import Group, GroupId, MemberId, SiteId
from core.events import Event, EventId, read_details
from core.reconciliation import (
    GROUPS,
    MEMBERS,
    REQUESTS,
    Heard,
    Request,
    Watch,
    found_join,
    found_request,
    interval_s,
    is_quiet,
    kinds_wanted,
    needs_more,
    next_since,
    noticed_request,
    pause_s,
    rearrange,
    see_requests,
    times_of_request,
    unknown_joins,
    unknown_requests,
    when_asked,
)

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)
SITE, CHOIR = SiteId("site"), GroupId("choir")
ANN, BOB = MemberId("ann"), MemberId("bob")
HOME = Watch(SITE, GROUPS, GroupId(""), since=NOON - timedelta(days=9), looked_at=NOON - timedelta(minutes=1))
SINGERS = Watch(SITE, MEMBERS, CHOIR, since=NOON - timedelta(hours=1), members=3, privacy="PRIVATE")
WAITING = replace(SINGERS, kind=REQUESTS, since=NOON - timedelta(days=1), looked_at=NOON)


def ago(**by: float) -> datetime:
    return NOON - timedelta(**by)


def later(**by: float) -> datetime:
    return NOON + timedelta(**by)


def listening(*triggers: str, groups: str = "*") -> Automations:
    return Automations(automations=(Automation("a", frozenset(triggers), email="welcome", groups=(groups,)),))


def told(at: datetime, joined_at: datetime | None = None, *, kind: str = events.MEMBER_ADDED) -> Heard:
    person = {"memberId": ANN} | ({"joinedDate": joined_at.isoformat()} if joined_at else {})
    body = {"groupId": CHOIR, "groupMember": person}
    event = Event(EventId("e"), SITE, kind, at, json.dumps({"actionEvent": {"body": body}}))
    return Heard(event, read_details(event))


# Joins


@pytest.mark.parametrize(
    ("joined_at", "heard", "is_unknown"),
    [
        (ago(minutes=30), [], True),
        (ago(minutes=61), [], False),
        (ago(seconds=119), [], False),
        (ago(minutes=30), [told(ago(minutes=29))], False),
        (ago(minutes=30), [told(ago(minutes=45))], True),
        (ago(minutes=30), [told(ago(minutes=5), ago(minutes=30))], False),
        (ago(minutes=30), [told(ago(minutes=33), ago(minutes=33))], True),
        (ago(minutes=30), [told(ago(minutes=30), kind=events.JOIN_APPROVED)], False),
    ],
    ids=[
        "nobody told of it",
        "before the list was watched",
        "its webhook may be on its way",
        "told of at that time",
        "told of another time",
        "told of late, with its date",
        "told of an earlier joining, minutes before",
        "told of as approved",
    ],
)
def test_a_join_is_unknown_when_no_event_speaks_of_it(
    joined_at: datetime, heard: list[Heard], is_unknown: bool
):
    unknown = unknown_joins({ANN: joined_at, BOB: joined_at}, heard, ago(hours=1), NOON)

    assert (ANN in unknown) == is_unknown
    assert (BOB in unknown) == (ago(hours=1) < joined_at < ago(minutes=2)), (
        "what speaks of Ann is not for Bob"
    )


@pytest.mark.parametrize(
    ("minutes", "more"),
    [
        ([1, 2, 3], True),
        ([1, 2, 61], False),
        ([2, 2, 2], True),
        ([61, 2, 1], True),
        ([61, 70, 65], True),
        ([61, None, 62], False),
        ([None, None], True),
        ([], True),
    ],
)
def test_only_a_page_in_order_that_reaches_back_far_enough_is_the_last(minutes: list[int | None], more: bool):
    page = [None if age is None else ago(minutes=age) for age in minutes]

    assert needs_more(page, ago(hours=1)) == more


def test_what_was_compared_is_never_beyond_what_is_compared_again():
    assert next_since(ago(days=1), NOON, paged=False, found=[ago(hours=3)]) == ago(minutes=17)
    assert next_since(ago(minutes=5), NOON, paged=False, found=[]) == ago(minutes=5)


def test_several_pages_are_read_again_until_they_hold_nothing_old_and_new():
    assert next_since(ago(days=1), NOON, paged=True, found=[ago(hours=3)]) == ago(days=1)
    assert next_since(ago(days=1), NOON, paged=True, found=[ago(minutes=3)]) == ago(minutes=17)
    assert next_since(ago(days=1), NOON, paged=True, found=[]) == ago(minutes=17)


@pytest.mark.parametrize("kind", [events.MEMBER_JOINED, events.JOIN_APPROVED])
def test_a_found_join_reads_like_any_other_and_is_the_same_with_and_without_fractions(kind: str):
    event = found_join(SINGERS, ANN, NOON, kind)
    details = read_details(event)

    assert (details.group, details.member, details.joined_at) == (CHOIR, ANN, NOON)
    assert (event.occurred_at, event.found, event.type) == (NOON, True, kind)
    assert found_join(SINGERS, ANN, NOON.replace(microsecond=7), kind).id == event.id
    others = [
        found_join(SINGERS, BOB, NOON, kind),
        found_join(SINGERS, ANN, later(seconds=1), kind),
        found_join(replace(SINGERS, group=GroupId("other")), ANN, NOON, kind),
    ]
    assert event.id not in {other.id for other in others}


# Requests


def test_who_waits_at_the_first_look_is_known():
    first = replace(WAITING, looked_at=None)

    assert see_requests(first, {ANN: None, BOB: ago(days=2)}, NOON) == {ANN: Request(), BOB: Request()}


def test_a_request_is_found_when_nobody_told_of_it_for_two_minutes():
    seen = see_requests(WAITING, {ANN: None}, later(minutes=5))
    assert seen == {ANN: Request(NOON, later(minutes=5))}
    assert unknown_requests(seen, [], later(minutes=5)) == ({}, seen)
    found, left = unknown_requests(seen, [], later(minutes=7))
    assert found == seen
    assert left == {ANN: Request()}


@pytest.mark.parametrize(("told_at", "is_found"), [(later(minutes=3), False), (ago(minutes=3), True)])
def test_a_request_that_was_told_of_since_it_was_not_there_is_not_found(told_at: datetime, is_found: bool):
    seen = {ANN: Request(NOON, later(minutes=5))}

    found, left = unknown_requests(seen, [told(told_at)], later(minutes=9))

    assert (ANN in found) == is_found
    assert left == {ANN: Request()}


def test_a_request_with_a_date_needs_no_second_look():
    seen = see_requests(WAITING, {ANN: later(minutes=1), BOB: ago(days=2)}, later(minutes=5))

    found, _ = unknown_requests(seen, [], later(minutes=5))

    assert found == {ANN: Request(later(minutes=1), later(minutes=1))}, "Bob waited before anybody watched"


def test_a_request_that_is_passed_over_once_is_not_forgotten_and_one_that_is_gone_is():
    open_ = Request(NOON, later(minutes=1))
    watch = replace(WAITING, pending={ANN: open_})
    gone = see_requests(watch, {}, later(minutes=5))
    assert unknown_requests(gone, [], later(minutes=5))[0] == {}, "who does not wait any more is not found"
    back = see_requests(replace(watch, pending=gone), {ANN: None}, later(minutes=6))
    assert back == {ANN: open_}
    assert see_requests(replace(watch, pending=gone), {}, later(minutes=15)) == {}


def test_a_found_request_reads_like_any_other():
    event = found_request(WAITING, ANN, Request(NOON, later(minutes=5)))
    details = read_details(event)

    assert (details.group, details.member, details.asked_after) == (CHOIR, ANN, NOON)
    assert (event.type, event.occurred_at, event.found) == (events.JOIN_REQUESTED, later(minutes=5), True)


@pytest.mark.parametrize(
    ("told_at", "asked_at"),
    [
        (later(minutes=3), later(minutes=5)),
        (ago(minutes=1), later(minutes=5)),
        (later(minutes=9), later(minutes=9)),
        (ago(minutes=9), ago(minutes=9)),
    ],
    ids=["between the two looks", "while the list lagged", "asked again", "an earlier request"],
)
def test_a_webhook_that_comes_after_the_request_was_found_speaks_of_the_same_request(
    told_at: datetime, asked_at: datetime
):
    found = found_request(WAITING, ANN, Request(NOON, later(minutes=5)))

    assert when_asked(told(told_at).event, [Heard(found, read_details(found))]) == asked_at
    assert when_asked(found, [Heard(found, read_details(found)), told(told_at)]) == found.occurred_at


def request_at(at: datetime) -> Heard:
    return told(at, kind=events.JOIN_REQUESTED)


@pytest.mark.parametrize(
    ("asked_at", "heard", "times"),
    [
        (NOON, [], []),
        (NOON, [request_at(later(seconds=3))], [later(seconds=3)]),
        (NOON, [request_at(ago(seconds=100))], [ago(seconds=100)]),
        (NOON, [request_at(ago(days=3))], []),
        (NOON, [request_at(ago(days=3)), request_at(NOON)], [NOON]),
        (None, [request_at(ago(days=3)), request_at(NOON)], [NOON]),
        (None, [request_at(ago(days=3)), told(ago(days=2), kind=events.JOIN_REJECTED)], []),
        (None, [told(ago(days=2), kind=events.JOIN_CANCELED), request_at(NOON)], [NOON]),
    ],
)
def test_a_pending_request_is_known_by_the_time_of_the_event_that_is_about_it(
    asked_at: datetime | None, heard: list[Heard], times: list[datetime]
):
    assert list(times_of_request(asked_at, heard)) == times


def test_of_a_request_that_was_found_and_told_of_both_times_are_known():
    found = found_request(WAITING, ANN, Request(NOON, later(minutes=5)))

    times = times_of_request(NOON, [request_at(later(minutes=2)), Heard(found, read_details(found))])

    assert times == (later(minutes=5), later(minutes=2))


@pytest.mark.parametrize(
    ("asked_at", "told_at", "is_same"),
    [
        (ago(minutes=5), ago(minutes=5), True),
        (ago(minutes=5), ago(minutes=9), False),
        (ago(minutes=5), NOON, False),
        (None, ago(minutes=5), True),
        (None, ago(hours=47), True),
        (None, ago(hours=49), False),
        (None, later(minutes=2), False),
    ],
)
def test_an_event_that_comes_after_a_person_decided_is_known_to_be_about_that_request(
    asked_at: datetime | None, told_at: datetime, is_same: bool
):
    noticed = noticed_request(SITE, CHOIR, ANN, asked_at, [], NOON)
    late = request_at(told_at).event

    stands = when_asked(late, [Heard(noticed, read_details(noticed))])

    assert (stands == noticed.occurred_at) is is_same


def test_a_request_after_one_that_was_declined_is_not_taken_for_it():
    declined = told(ago(hours=1), kind=events.JOIN_REJECTED)
    noticed = noticed_request(SITE, CHOIR, ANN, None, [declined], NOON)

    assert when_asked(request_at(ago(hours=2)).event, [Heard(noticed, read_details(noticed))]) == ago(hours=2)


# Groups


@pytest.mark.parametrize(
    ("triggers", "privacy", "wanted"),
    [
        (["member_added"], "PUBLIC", {MEMBERS}),
        (["member_added"], "PRIVATE", {MEMBERS}),
        (["join_approved"], "PRIVATE", {MEMBERS, REQUESTS}),
        (["join_requested"], "PRIVATE", {REQUESTS}),
        (["join_requested"], "PUBLIC", set()),
        (["member_removed", "role_assigned", "join_rejected"], "PRIVATE", set()),
    ],
)
def test_only_lists_that_an_automation_cares_about_are_watched(
    triggers: list[str], privacy: str, wanted: set[str]
):
    group = Group(CHOIR, "Harbour Choir", privacy)

    assert kinds_wanted(listening(*triggers), SITE, group) == wanted
    assert kinds_wanted(listening(*triggers, groups="Yoga*"), SITE, group) == set()


def test_a_group_is_watched_from_now_on():
    group = Group(CHOIR, "Choir", "PRIVATE", 3, ago(days=400))

    result = rearrange(HOME, [], [group], listening("member_added", "join_requested"), NOON)

    assert result.new == [replace(SINGERS, since=NOON), replace(WAITING, since=NOON, looked_at=None)]


@pytest.mark.parametrize(
    ("created_at", "home", "from_its_beginning"),
    [
        (ago(minutes=5), HOME, True),
        (ago(hours=2), HOME, False),
        (None, HOME, False),
        (ago(hours=2), replace(HOME, looked_at=ago(hours=3)), True),
        (ago(minutes=5), replace(HOME, since=ago(minutes=4)), False),
        (ago(minutes=5), replace(HOME, looked_at=None), False),
    ],
    ids=[
        "new",
        "there for long, cared for from now",
        "without a date",
        "new while nobody looked",
        "before the site was connected",
        "at the first look",
    ],
)
def test_a_group_made_while_the_site_was_connected_is_watched_from_its_beginning(
    created_at: datetime | None, home: Watch, from_its_beginning: bool
):
    group = Group(CHOIR, "Choir", "PUBLIC", 1, created_at)

    [watch] = rearrange(home, [], [group], listening("member_added"), NOON).new

    assert (watch.since != NOON) == from_its_beginning
    assert watch.since is not None
    assert created_at is None or watch.since > created_at, "its founder is not greeted"


@pytest.mark.parametrize(("count", "urgent"), [(4, {CHOIR}), (2, {CHOIR}), (3, set()), (None, set())])
def test_a_group_whose_members_changed_in_number_is_looked_at_first(count: int | None, urgent: set[str]):
    result = rearrange(
        HOME, [SINGERS], [Group(CHOIR, "Choir", "PRIVATE", count)], listening("member_added"), NOON
    )

    assert result.urgent == urgent
    assert (result.changed == []) == (urgent == set())


def test_a_group_that_is_not_listed_is_kept_for_a_day_and_goes_on_where_it_was():
    watch = replace(SINGERS, looked_at=ago(hours=2))
    [missing] = rearrange(HOME, [watch], [], listening("member_added"), NOON).changed
    assert missing == replace(watch, missing=True)
    for now, dropped in ((later(hours=21), []), (later(hours=23), [missing])):
        assert rearrange(HOME, [missing], [], listening("member_added"), now).dropped == dropped
    group = Group(CHOIR, "Choir", "PRIVATE", 3)
    assert rearrange(HOME, [missing], [group], listening("member_added"), NOON).changed == [watch]


def test_a_list_that_nobody_cares_about_any_more_is_dropped_at_once():
    group = Group(CHOIR, "Choir", "PUBLIC", 3)

    result = rearrange(HOME, [SINGERS, WAITING], [group], listening("member_added", "join_requested"), NOON)

    assert result.dropped == [WAITING], "a public group has no requests"


# How often


def test_the_looks_at_a_site_cost_a_fifth_of_its_budget():
    assert pause_s(36, 180) == 60
    assert pause_s(1, 180) * 36 == pytest.approx(60)


def test_a_quiet_sites_groups_are_listed_less_and_less_often():
    def next_s(seconds_before: float | None, pause: float = 2.0) -> float:
        before = None if seconds_before is None else ago(seconds=seconds_before)
        return interval_s(HOME, before=before, now=NOON, watches=8, pause=pause)

    assert [next_s(before) for before in (None, 10, 60, 120, 9999)] == [60, 60, 120, 240, 300]
    assert next_s(60, pause=500) == 1000, "a site of thousands of groups"


@pytest.mark.parametrize(
    ("members", "watches", "expected_s"), [(3, 10, 300), (None, 10, 60), (3, 1000, 4000), (None, 1000, 4000)]
)
def test_a_group_is_looked_at_by_itself_now_and_then(members: int | None, watches: int, expected_s: float):
    watch = replace(SINGERS, members=members)

    assert interval_s(watch, before=ago(hours=1), now=NOON, watches=watches, pause=2.0) == expected_s


@pytest.mark.parametrize(
    ("hours_ago", "quiet"),
    [
        ([], False),
        ([25, 26], False),
        ([23, *range(24, 40)], False),
        ([25, *range(26, 40)], True),
        ([49, *range(59, 159, 10)], False),
        ([51, *range(61, 161, 10)], True),
        ([30 * 24 + 168 * week for week in range(10)], False),
        ([36 * 24 + 168 * week for week in range(10)], True),
    ],
    ids=[
        "no webhook ever",
        "too few to call it a habit",
        "silent for less than a day",
        "hourly until yesterday",
        "silent for five nights of ten hours, not quite",
        "silent for more",
        "once a week, silent for a month",
        "once a week, silent for more than five",
    ],
)
def test_a_site_is_quiet_when_webhooks_used_to_come_and_do_not(hours_ago: list[int], quiet: bool):
    assert is_quiet([ago(hours=hours) for hours in hours_ago], NOON) == quiet
