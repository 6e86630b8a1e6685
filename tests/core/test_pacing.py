from __future__ import annotations

from datetime import timedelta

import pytest

from core.pacing import FIRST_REST, Limits, Window, pause_length, warm_up_limit, window


def test_a_ramp_grows_by_half_each_day():
    assert [warm_up_limit(50, day) for day in range(8)] == [50, 75, 112, 168, 253, 379, 569, 854]


def test_a_ramp_ends_where_it_reaches_the_days_limit():
    ramp = [warm_up_limit(50, day, per_day=250) for day in range(6)]
    assert ramp == [50, 75, 112, 168, None, None]
    assert warm_up_limit(100, 1, per_day=150) is None


def test_a_ramp_ends_after_thirty_days():
    assert warm_up_limit(1, 29) == 127_834
    assert warm_up_limit(1, 30) is None


def test_a_ramp_of_a_single_letter_never_stops_the_sender():
    assert [warm_up_limit(1, day) for day in range(5)] == [1, 1, 2, 3, 5]


def test_a_clock_that_is_behind_the_first_letter_is_still_on_the_first_day():
    assert warm_up_limit(50, -1) == 50


@pytest.mark.parametrize(
    ("limits", "day", "letters"),
    [
        (Limits(), 0, None),
        (Limits(per_day=200), 0, 200),
        (Limits(warm_up=50), 1, 75),
        (Limits(warm_up=50), 30, None),
        (Limits(warm_up=50, per_day=200), 1, 75),
        (Limits(warm_up=50, per_day=200), 4, 200),
    ],
)
def test_a_days_limit_is_the_ramps_while_it_lasts(limits: Limits, day: int, letters: int | None):
    assert limits.of_day(day) == letters


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [
        (14, 1, Window(14, 1)),
        (0.5, 1, Window(1, 2)),
        (0.2, 60, Window(1, 300)),
        (14.5, 1, Window(15, 15 / 14.5)),
    ],
)
def test_a_rate_is_a_whole_number_of_letters_in_a_window_of_the_same_rate(
    rate: float, seconds: float, expected: Window
):
    assert window(rate, seconds) == expected


@pytest.mark.parametrize(
    ("whole", "quarter"),
    [
        (Window(100, 60), Window(25, 60)),
        (Window(14, 1), Window(3, 1)),
        (Window(4, 1), Window(1, 1)),
        (Window(2, 1), Window(1, 2)),
        (Window(1, 2), Window(1, 8)),
    ],
)
def test_a_share_is_never_more_than_its_part_and_never_nothing(whole: Window, quarter: Window):
    assert whole.share(1 / 4) == quarter


def test_pauses_grow_from_seconds_to_hours_and_faster_where_a_person_has_to_mend_something():
    minutes = [pause_length(pauses) / timedelta(minutes=1) for pauses in range(12)]
    assert minutes == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 240, 240]
    minutes = [pause_length(pauses, FIRST_REST) / timedelta(minutes=1) for pauses in range(8)]
    assert minutes == [5, 10, 20, 40, 80, 160, 240, 240]
    assert pause_length(10_000) == timedelta(hours=4)
