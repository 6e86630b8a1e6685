"""The judge finds what it is there to find: each way in which a run can have gone wrong, and no other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from chaos.crowd import Person
from chaos.judge import Evidence, Verdict, judge
from chaos.smtp import Accepted

ANN = Person("ann@example.org", "added", "a fault", 100.0)


def a_letter(**changes: Any) -> Mapping[str, Any]:
    return {
        "id": "l1",
        "member": "m1",
        "automation": "welcome",
        "state": "sent",
        "reason": None,
        "message_id": "<1@x>",
        "sent_at": "1970-01-01 00:01:50.000000",
    } | changes


def an_event(**changes: Any) -> Mapping[str, Any]:
    return {"id": "e1", "type": "member_added", "state": "done", "error": None} | changes


def taken(message_id: str = "<1@x>") -> Accepted:
    return Accepted(message_id, "ann@example.org", 105.0, True, 1000)


FINE = Evidence(
    acknowledged=frozenset({"e1"}),
    poisoned=frozenset(),
    events=[an_event()],
    messages=[a_letter()],
    accepted=[taken()],
    undecidable={},
    killed_workers=0,
    emails={"m1": "ann@example.org"},
)


def verdict_on(**changes: Any) -> Verdict:
    return judge(replace(FINE, **changes), [ANN], {"a fault": [102.0]})


def test_a_run_in_which_everybody_has_their_letter_once_is_fine():
    verdict = verdict_on()

    assert verdict.problems == []
    tally = verdict.tallies["a fault"]
    assert (tally.people, tally.lost, tally.twice, tally.in_doubt, tally.recovered_s) == (1, 0, 0, 0, 8.0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"events": []}, "lost: event e1 was acknowledged"),
        ({"events": [an_event(state="received")]}, "never came to its end"),
        ({"events": [an_event(state="dead", error="boom")]}, "is dead"),
        ({"messages": [], "accepted": []}, "no row in the ledger"),
        ({"messages": [a_letter(state="planned")], "accepted": []}, "lost: .* planned"),
        ({"messages": [a_letter(state="skipped", reason="x")], "accepted": []}, "lost: .* skipped"),
        ({"messages": [a_letter(state="failed", reason="wrong")], "accepted": []}, "lost: .* failed"),
        ({"accepted": []}, "sent, but the mail server has it 0 times"),
        ({"accepted": [taken(), taken()]}, "twice: .* has it 2 times"),
        ({"messages": [a_letter(), a_letter(id="l2", message_id="<2@x>")]}, "twice: .* 2 rows"),
        ({"accepted": [taken(), taken("<9@x>")]}, "twice: .* in no row"),
        (
            {"messages": [a_letter(), a_letter(id="l2", automation="other", message_id="<2@x>")]},
            "a letter nobody was to get",
        ),
        ({"messages": [a_letter(state="in_doubt")], "accepted": []}, "in doubt without a reason"),
        (
            {
                "messages": [a_letter(state="in_doubt")],
                "accepted": [taken(), taken()],
                "undecidable": {"<1@x>": {"unanswered"}},
            },
            "twice: .* has it 2 times",
        ),
    ],
)
def test_whatever_must_not_be_is_found(changes: dict[str, Any], complaint: str):
    found = verdict_on(**changes)

    assert any(re.search(complaint, problem) for problem in found.problems), found.problems


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [a_letter(state="in_doubt")], "accepted": [], "undecidable": {"<1@x>": {"unanswered"}}},
        {"messages": [a_letter(state="in_doubt")], "killed_workers": 1},
        {
            "messages": [
                a_letter(state="failed", reason="the mail server answered 554 to the letter: 5.6.0 no")
            ],
            "accepted": [],
        },
        {"events": [an_event(), an_event(id="p1", state="dead")], "poisoned": frozenset({"p1"})},
    ],
)
def test_what_the_fault_itself_explains_is_no_problem(changes: dict[str, Any]):
    assert verdict_on(**changes).problems == []
