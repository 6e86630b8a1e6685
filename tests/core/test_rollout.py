"""What a rollout changes in one group, in numbers and in lines."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from core.community import Question, Rule
from core.rollout import diff, same

KIND = Rule("Be kind", "No personal attacks.")
SPAM = Rule("No spam")
LATE = Rule("Be on time", "We start at seven.")


def test_the_same_rules_change_nothing():
    found = diff([KIND, SPAM], [KIND, SPAM])

    assert not found
    assert str(found) == "changes nothing"
    assert found.lines == ()


def test_what_comes_goes_and_reads_otherwise_is_counted_and_named():
    kinder = Rule("Be kind", "No attacks at all.")
    found = diff([KIND, SPAM], [LATE, kinder, Rule("No dogs")])

    assert str(found) == "adds 2, removes 1, changes 1"
    assert found.lines == (
        "+ Be on time: We start at seven.",
        "~ Be kind: No personal attacks. → No attacks at all.",
        "+ No dogs",
        "- No spam",
    )


def test_a_rule_in_another_place_is_moved_and_the_others_are_not():
    found = diff([KIND, SPAM, LATE], [SPAM, LATE, KIND])

    assert (str(found), found.lines) == ("moves 1", ("> Be kind",))


def test_a_rule_that_is_moved_and_changed_is_both_in_one_line():
    found = diff([KIND, SPAM, LATE], [SPAM, LATE, Rule("Be kind")])

    assert str(found) == "changes 1, moves 1"
    assert found.lines == ("~ Be kind: No personal attacks. → nothing",)


def test_removing_all_is_said_loudly():
    found = diff([KIND, SPAM], [])

    assert found.clears
    assert str(found) == "REMOVES ALL: 2 now, none after"
    assert found.lines == ("- Be kind: No personal attacks.", "- No spam")
    assert not diff([], []).clears


def test_two_rules_of_one_title_are_told_apart_by_what_they_say():
    first, second = Rule("Note", "a"), Rule("Note", "b")
    assert str(diff([first, second], [second])) == "removes 1"
    assert diff([first, second], [second]).lines == ("- Note: a",)


def test_a_question_that_becomes_required_is_changed():
    found = diff(
        [Question("Why?"), Question("Whence?", required=True)],
        [Question("Why?", required=True), Question("Whither?")],
    )

    assert str(found) == "adds 1, removes 1, changes 1"
    assert found.lines == (
        "~ Why?: optional → required",
        "+ Whither? (optional)",
        "- Whence? (required)",
    )


def test_a_text_of_several_lines_is_one_line_of_the_diff():
    assert diff([], [Rule("Be kind", "Always.\n\nEverywhere.")]).lines == ("+ Be kind: Always. Everywhere.",)


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        (Rule("Be kind", "One.\r\nTwo."), Rule(" Be kind\n", "One.\nTwo. "), True),
        (Rule("Be kind", "One.\rTwo."), Rule("Be kind", "One.\nTwo."), True),
        (Question(" Why? "), Question("Why?"), True),
        (Rule("Be kind"), Rule("Be  kind"), False),
        (Rule("Be kind"), Rule("be kind"), False),
        (Rule("Be kind", "One.\n\nTwo."), Rule("Be kind", "One.\nTwo."), False),
        (Question("Why?"), Question("Why?", required=True), False),
    ],
)
def test_only_outer_spaces_and_line_ends_do_not_count(before, after, equal):
    assert same([before], [after]) is equal
    assert bool(diff([before], [after])) is not equal


def test_the_order_counts():
    assert not same([KIND, SPAM], [SPAM, KIND])


words = st.sampled_from(["a", "b", " a", "a\r\nb", "a\nb", ""])
lists = st.lists(st.builds(Rule, words, words), max_size=6) | st.lists(
    st.builds(Question, words, st.booleans()), max_size=6
)


@given(lists, lists)
def test_a_diff_is_empty_exactly_when_both_are_the_same_and_its_numbers_add_up(before, after):
    found = diff(before, after)

    assert bool(found) is not same(before, after)
    assert len(before) - found.removed == len(after) - found.added >= found.moved
    assert max(found.added + found.removed, found.changed, found.moved) <= len(found.lines)
    assert len(found.lines) <= found.added + found.removed + found.changed + found.moved
    assert [line[0] for line in found.lines].count("+") == found.added


@given(lists)
def test_nothing_changes_when_nothing_changes(entries):
    assert not diff(entries, entries)
