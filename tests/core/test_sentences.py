"""Automations as sentences: what they say in English, and that nothing is left to English grammar."""

from __future__ import annotations

import re

import pytest

from core.automations import EVERY, TRIGGERS, parse_automations
from core.sentences import (
    PLAIN,
    Tongue,
    describe,
    describe_follow,
    describe_report,
    describe_times,
    name_triggers,
)

ANSWERS = "[automation.answers]\n"


def said(*lines: str, tongue: Tongue = PLAIN, names: dict[str, str] | None = None) -> str:
    automations = parse_automations("\n".join(["[[automation]]", 'name = "a"', *lines]), templates=None)
    return describe(automations.automations[-1], tongue, names)


LETTER = ('email = "welcome"', 'purpose = "onboarding"')
OFFER = ('email = "yoga-offer"', 'purpose = "promotional"')
ASKED = 'on = ["join_requested"]'


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            ('on = ["member_added", "join_approved"]', *LETTER),
            'When somebody becomes a member of any group, write them "welcome".',
        ),
        (
            (
                ASKED,
                *OFFER,
                'after = "1d12h"',
                'groups = ["Trail Runners", "Yoga*"]',
                ANSWERS,
                'any = ["yoga", "pilates"]',
            ),
            (
                'When somebody asks to join "Trail Runners" or "Yoga*" and mentions "yoga" or "pilates", offer them'
                ' "yoga-offer" after 1d12h.'
            ),
        ),
        (
            (
                ASKED,
                'decide = "approve"',
                ANSWERS,
                'all = ["a", "b"]',
                'none = ["c", "d"]',
                'question = "Why?"',
            ),
            (
                'When somebody asks to join any group and mentions each of "a", "b", but not "c" or "d", when asked'
                ' about "Why?", let them in.'
            ),
        ),
        (
            (ASKED, 'decide = "reject"', ANSWERS, 'none = ["c"]'),
            'When somebody asks to join any group and answers without a word of "c", decline the request.',
        ),
        (
            (ASKED, 'decide = "flag"', *LETTER, ANSWERS, 'any = ["x"]', 'all = ["y"]'),
            (
                'When somebody asks to join any group and mentions "x", and with it each of "y", leave the decision to'
                ' a person and write them "welcome".'
            ),
        ),
        (
            ('on = ["member_removed", "role_assigned"]', *LETTER, 'groups = ["Chess"]'),
            (
                'When one of these happens in "Chess" (somebody leaves or is removed; somebody is given a role), write'
                ' them "welcome".'
            ),
        ),
        (
            (ASKED, *OFFER, ANSWERS, f"any = {[f'w{n}' for n in range(10)]}"),
            (
                'When somebody asks to join any group and mentions "w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7" or'
                ' one of 2 more, offer them "yoga-offer".'
            ),
        ),
        (
            (
                'on = ["member_added"]',
                *LETTER,
                "[[automation.then]]",
                'name = "s"',
                'email = "x"',
                'after = "3d"',
            ),
            'After 3d, write them "x", unless they have replied.',
        ),
        (
            (
                'on = ["member_added"]',
                *OFFER,
                "[[automation.then]]",
                'name = "s"',
                'email = "x"',
                'after = "3d"',
                "unless_replied = false",
            ),
            'After 3d, offer them "x".',
        ),
    ],
)
def test_an_automation_says_what_it_does(lines: tuple[str, ...], sentence: str):
    assert said(*lines) == sentence


def test_a_group_that_is_given_by_its_id_is_called_by_its_name():
    assert '"Trail Runners"' in said(ASKED, *LETTER, 'groups = ["g-1"]', names={"g-1": "Trail Runners"})


def test_every_trigger_has_words_of_its_own_for_one_group_and_for_all():
    seen = set()
    for trigger in set(TRIGGERS.values()):
        seen |= {said(f'on = ["{trigger}"]', *LETTER), said(f'on = ["{trigger}"]', *LETTER, 'groups = ["G"]')}
    assert len(seen) == 2 * len(set(TRIGGERS.values()))
    assert set(name_triggers(PLAIN)) == set(TRIGGERS.values())


def test_how_often_is_a_sentence_of_its_own():
    text = '[[automation]]\nname = "a"\non = ["join_requested"]\n'
    one = parse_automations(text + "\n".join(LETTER)).automations[0]
    again = parse_automations(text + "\n".join([*LETTER, 'once_per = "join"'])).automations[0]
    decides = parse_automations(text + 'decide = "flag"').automations[0]
    assert [describe_times(found, PLAIN) for found in (one, again, decides)] == [
        "Once for each person and group.",
        "Each time somebody joins.",
        "",
    ]


def test_reports_and_followed_groups_have_their_sentences():
    reports = [
        parse_automations(f'[[report]]\nname = "r"\nevery = "{every}"\nto = ["a@example.com"]\n').reports[0]
        for every in EVERY
    ]
    assert [describe_report(report, PLAIN).partition(" at ")[0] for report in reports] == [
        "Every day",
        "Every Monday",
        "On the first of the month",
    ]
    assert "example.com" not in "".join(describe_report(report, PLAIN) for report in reports)
    follow = '[[follow]]\nrules_of = "A"\nto_groups = ["B", "C"]\n'
    assert describe_follow(parse_automations(follow).follows[0], PLAIN) == (
        'When the rules of "A" change, these groups get them: "B" or "C".'
    )


def test_every_word_passes_through_the_translation():
    """What is left of a sentence without its phrases and names is nothing."""

    def say(phrase: str, **values: object) -> str:
        part = re.compile(r"%\((\w+)\)s|[A-Za-z']+")
        return part.sub(lambda found: str(values[found[1]]) if found[1] else "", phrase)

    quiet = Tongue(say, lambda text: "<>", lambda seconds: "<>", lambda number: "<>")
    for lines in (
        (
            ASKED,
            *OFFER,
            'groups = ["G", "H"]',
            'after = "2d"',
            ANSWERS,
            'any = ["yoga", "b"]',
            'none = ["c"]',
        ),
        ('on = ["member_removed", "role_assigned"]', *LETTER),
    ):
        assert not re.search(r"[A-Za-z]", said(*lines, tongue=quiet)), said(*lines, tongue=quiet)
