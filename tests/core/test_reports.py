"""The report's numbers: from groups, readings and letters as they are, to what people are told."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.automations import ReportSchedule
from core.community import Group, GroupId, SiteId
from core.reports import SPANS, Day, Facts, Past, Report, base_days, due_on, make_report

NOW = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)
TODAY = NOW.date()


def a_group(key: str, name: str = "", members: int | None = 1, idle_for: float | None = 1.0, **more) -> Group:
    active = None if idle_for is None else NOW - timedelta(days=idle_for)
    return Group(GroupId(key), name or key, members=members, last_activity=active, **more)


def a_report(*groups: Group, top: int = 10, idle_days: int = 90, **facts) -> Report:
    given_ = {"site": SiteId("site"), "groups": groups, "read_from": NOW, "read_until": NOW, **facts}
    return make_report(Facts(**given_), top=top, idle_days=idle_days)


def days_ago(number: int) -> date:
    return TODAY - timedelta(days=number)


def test_the_largest_groups_come_first_and_equal_ones_by_name_then_id():
    report = a_report(
        a_group("3", "Chess", 5), a_group("2", "Chess", 5), a_group("1", "Yoga", 9), a_group("4", "Art", 5)
    )
    assert [(group.id, group.members) for group in report.most_popular] == [
        ("1", 9),
        ("4", 5),
        ("2", 5),
        ("3", 5),
    ]


def test_how_many_more_tie_with_the_last_one_told_is_said():
    groups = [a_group(name, members=4) for name in "abcde"]
    assert a_report(*groups, a_group("f", members=3), top=2).more_tied == 3
    assert a_report(*groups, top=5).more_tied == 0
    assert a_report(*groups, top=10).more_tied == 0


def test_idle_is_longer_ago_than_the_limit_or_never_and_never_comes_first():
    report = a_report(
        a_group("fresh", idle_for=1),
        a_group("at the limit", idle_for=90),
        a_group("past it", idle_for=90.001),
        a_group("long ago", idle_for=400),
        a_group("b never", idle_for=None),
        a_group("a never", idle_for=None),
    )
    assert [group.name for group in report.idle] == ["a never", "b never", "long ago", "past it"]
    assert [group.last_activity for group in report.idle[:2]] == [None, None]
    assert [group.name for group in report.never_active] == ["a never", "b never"]


def test_secret_groups_count_and_the_kinds_are_told_apart():
    report = a_report(
        a_group("1", privacy="SECRET", members=7),
        a_group("2", privacy="PUBLIC"),
        a_group("3", privacy="SECRET"),
    )
    assert (report.total, dict(report.privacy)) == (3, {"PUBLIC": 1, "SECRET": 2})
    assert report.most_popular[0].id == "1"


def test_a_deleted_group_that_wix_still_lists_is_counted_nowhere_and_said_aloud():
    report = a_report(
        a_group("kept", members=2),
        a_group("gone", "Old", members=99, idle_for=None),
        deleted={GroupId("gone"), GroupId("long gone")},
        wix_total=2,
    )
    assert (report.total, report.members) == (1, 2)
    assert [group.id for group in (*report.most_popular, *report.idle, *report.groups)] == ["kept", "kept"]
    assert [group.name for group in report.excluded] == ["Old"]
    assert "Wix still lists 1 group that is deleted: of 2 listed, 1 is counted." in report.notes


def test_a_total_of_wix_that_its_list_does_not_bear_out_is_said_aloud():
    assert any(
        "there are 3 groups, and its list held 1" in note
        for note in a_report(a_group("1"), wix_total=3).notes
    )
    assert not any("its list held" in note for note in a_report(a_group("1"), wix_total=1).notes)
    assert not any("its list held" in note for note in a_report(a_group("1"), wix_total=None).notes)


def test_a_group_of_unknown_size_counts_as_a_group_and_in_no_sum():
    report = a_report(a_group("1", members=None), a_group("2", members=5))
    assert (report.total, report.members, [group.id for group in report.most_popular]) == (2, 5, ["2"])
    assert any("1 group Wix does not say" in note for note in report.notes)


def test_growth_compares_with_the_reading_of_then_and_counts_who_left():
    past = Past(
        days_ago(7), {GroupId("1"): 10, GroupId("closed"): 4}, {GroupId("1"): 3, GroupId("closed"): 1}
    )
    week, month, _ = a_report(a_group("1", members=12), a_group("new", members=5), past={7: past}).growth
    assert (week.since, week.members_then, week.change, week.left) == (days_ago(7), 14, 3, 4)
    assert (week.new_groups, week.gone_groups) == (1, 1)
    assert (month.days, month.since, month.change) == (30, None, None)


def test_the_change_of_a_new_group_is_all_its_members_and_of_an_unknown_past_nothing():
    past = Past(days_ago(7), {GroupId("1"): 10}, {})
    report = a_report(a_group("1", members=8), a_group("new", members=5), past={7: past})
    assert {line.id: dict(line.change) for line in report.groups} == {
        "1": {"7": -2, "30": None, "90": None},
        "new": {"7": 5, "30": None, "90": None},
    }


def test_a_group_whose_size_wix_stopped_saying_is_no_loss():
    past = Past(days_ago(7), {GroupId("1"): 10, GroupId("2"): 50}, {})
    report = a_report(a_group("1", members=11), a_group("2", members=None), past={7: past})
    assert report.growth[0].change == 1


def test_a_span_begins_with_the_first_reading_within_it():
    days = [days_ago(number) for number in (40, 20, 3, 0)]
    assert base_days(days, TODAY) == {7: days_ago(3), 30: days_ago(20), 90: days_ago(40)}
    assert base_days([TODAY], TODAY) == {}
    assert base_days([days_ago(91), TODAY], TODAY) == {}


def test_a_span_that_begins_late_and_days_without_a_reading_are_said_aloud():
    days = [Day(days_ago(number), 1, 1) for number in (5, 4, 1, 0)]
    report = a_report(a_group("1"), days=days, past={7: Past(days_ago(5), {GroupId("1"): 1}, {})})
    assert report.missing_days == (days_ago(3), days_ago(2))
    assert any(note.startswith("For 7 days ago there is no count") for note in report.notes)
    assert any("No count was taken on 2026-04-30 and 2026-05-01" in note for note in report.notes)


def test_without_any_earlier_reading_nothing_is_said_of_growth():
    report = a_report(a_group("1"), days=[Day(TODAY, 1, 1)])
    assert all(growth.change is None for growth in report.growth)
    assert any("Nothing can be said of growth yet" in note for note in report.notes)


def test_a_site_without_groups_has_a_report_too():
    report = a_report()
    assert (report.total, report.members, report.most_popular, report.idle) == (0, 0, (), ())


def test_the_result_is_plain_json_with_the_promised_keys():
    result = a_report(a_group("1", "Runners", 3, idle_for=100), wix_total=1).as_json()
    assert json.loads(json.dumps(result)) == result
    assert result["total"] == 1
    assert result["most_popular"] == [{"id": "1", "name": "Runners", "members": 3}]
    assert result["idle"] == [{"id": "1", "name": "Runners", "last_activity": "2026-01-23T12:00:00+00:00"}]
    assert result["as_of"] == "2026-05-03T12:00:00+00:00"
    assert result["source"]["site"] == "site"


groups_strategy = st.lists(
    st.builds(
        a_group,
        key=st.text("abc123", min_size=1, max_size=3),
        name=st.sampled_from(["Yoga", "yoga", "Art", "קבוצה", "=1+1"]),
        members=st.none() | st.integers(0, 5),
        idle_for=st.none() | st.floats(0, 200),
    ),
    unique_by=lambda group: group.id,
    max_size=30,
)


@given(
    groups_strategy,
    st.integers(1, 12),
    st.integers(1, 150),
    st.sets(st.text("abc123", min_size=1, max_size=3)),
)
def test_whatever_the_groups_are_the_numbers_hold_together(groups, top, idle_days, deleted):
    report = a_report(*groups, top=top, idle_days=idle_days, deleted=deleted)
    counted = [group for group in groups if group.id not in deleted]
    sized = [group for group in counted if group.members is not None]
    assert report.total == len(counted) == sum(report.privacy.values()) == len(report.groups)
    assert report.total + len(report.excluded) == report.source.listed
    assert len(report.most_popular) == min(top, len(sized))
    smallest = report.most_popular[-1].members if report.most_popular else 0
    assert report.more_tied == sum(group.members == smallest for group in sized) - sum(
        group.members == smallest for group in report.most_popular
    )
    assert {group.id for group in report.idle} == {line.id for line in report.groups if line.idle}
    assert a_report(*reversed(groups), top=top, idle_days=idle_days, deleted=deleted) == report
    assert {growth.days for growth in report.growth} == set(SPANS)


def a_schedule(every: str = "week", **more) -> ReportSchedule:
    return ReportSchedule("board", every, ("board@example.com",), **more)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


MONDAY = date(2026, 5, 4)


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        (a_schedule(), "2026-05-04T07:59:59", None),
        (a_schedule(), "2026-05-04T08:00:00", MONDAY),
        (a_schedule(), "2026-05-05T07:59:59", MONDAY),
        (a_schedule(), "2026-05-05T08:00:00", None),
        (a_schedule(weekday=1), "2026-05-05T08:00:00", date(2026, 5, 5)),
        (a_schedule("day", at=time(23, 30)), "2026-05-04T23:29:00", date(2026, 5, 3)),
        (a_schedule("day", at=time(23, 30)), "2026-05-04T23:30:00", MONDAY),
        (a_schedule("month"), "2026-06-01T08:00:00", date(2026, 6, 1)),
        (a_schedule("month"), "2026-06-02T08:00:00", None),
    ],
)
def test_a_report_is_due_from_its_hour_on_for_a_day(schedule, now, due):
    assert due_on(schedule, "UTC", at(now)) == due


def test_the_hour_is_by_the_clock_of_the_site():
    assert due_on(a_schedule(), "Europe/Berlin", at("2026-05-04T06:00:00")) == MONDAY
    assert due_on(a_schedule(), "Europe/Berlin", at("2026-05-04T05:59:00")) is None
    # It is still Sunday in New York when Monday has begun in London.
    assert due_on(a_schedule(), "America/New_York", at("2026-05-04T08:30:00")) is None


def test_a_day_whose_hour_the_clocks_pass_over_has_its_report_once():
    schedule = a_schedule("day", at=time(2, 30))
    seen = {
        due_on(schedule, "Europe/Berlin", at("2026-03-28T12:00:00") + timedelta(minutes=10 * step))
        for step in range(6 * 48)
    }
    assert seen == {date(2026, 3, 28), date(2026, 3, 29), date(2026, 3, 30)}
