"""Is anything wrong, in words: one row for each thing that can be."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from core.health import Facts, Finding, Severity, examine
from core.pacing import Pause

NOW = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)
WELL = Facts(now=NOW, told_at=NOW, worker_at=NOW, beat_at=NOW)
SOON = NOW + timedelta(minutes=5)


class English:
    def gettext(self, text: str, **values: object) -> str:
        return text % values if values else text

    def ngettext(self, one: str, many: str, n: int, **values: object) -> str:
        return (one if n == 1 else many) % {"num": n, **values}

    def spell_time(self, value: datetime) -> str:
        return f"{value:%H:%M}"


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def findings(**facts: object) -> tuple[Finding, ...]:
    return examine(replace(WELL, **facts), English())  # type: ignore[arg-type] # fields of Facts


def test_nothing_is_said_when_all_is_well():
    assert findings() == ()


@pytest.mark.parametrize(
    ("facts", "name", "severity", "says"),
    [
        ({"worker_at": None}, "worker", "bad", "No worker is running"),
        ({"worker_at": ago(seconds=61)}, "worker", "bad", "No worker is running"),
        ({"beat_at": ago(minutes=5)}, "beat", "bad", "clock of Usher"),
        ({"tables": "at revision 0004"}, "tables", "bad", "another release"),
        ({"automations": "line 3"}, "automations", "bad", "cannot be read"),
        ({"is_removed": True}, "removed", "bad", "was removed"),
        ({"is_quiet": True}, "quiet", "bad", "unusually long"),
        ({"pauses": (Pause("", SOON, "550 no"),)}, "paused", "bad", "No letters go out until 12:05"),
        (
            {"pauses": (Pause("mail.example", SOON, "4.7.1"),)},
            "paused.domain",
            "warning",
            "Nobody at mail.example",
        ),
        ({"due_since": {"events": ago(minutes=3)}}, "late.events", "warning", "waits longer"),
        ({"due_since": {"events": ago(minutes=16)}}, "late.events", "bad", "waits longer"),
        ({"due_since": {"letters": ago(minutes=3)}}, "late.letters", "warning", "have not gone out"),
        ({"due_since": {"calls": ago(hours=1)}}, "late.calls", "bad", "have not reached Wix"),
        ({"rests_until": SOON}, "resting", "warning", "rests until 12:05"),
        ({"unread_lists": 1}, "unread", "warning", "read 1 list of"),
        ({"unread_lists": 2}, "unread", "warning", "read 2 lists of"),
        ({"failing_calls": 2}, "refused", "bad", "did not take 2 decisions"),
        ({"dead_events": 1, "dead_since": ago(days=1)}, "dead", "bad", "1 event could not"),
        ({"doubts": 3, "doubt_since": ago(hours=2)}, "doubt", "warning", "Of 3 letters nobody knows"),
        ({"lacks_address": True}, "no_address", "bad", "no postal address"),
    ],
)
def test_each_thing_that_is_wrong_is_said_with_what_to_do(
    facts: dict[str, object], name: str, severity: str, says: str
):
    [finding] = findings(**facts)
    assert (finding.name, finding.severity) == (name, Severity(severity))
    assert says in finding.says
    assert finding.do.endswith(".")


@pytest.mark.parametrize(
    "facts",
    [
        {"worker_at": ago(seconds=59)},
        {"due_since": {"events": ago(seconds=119)}},
        {"doubts": 1, "doubt_since": ago(minutes=59)},
        {"rests_until": ago(seconds=1)},
        {"due_since": {"letters": ago(minutes=30)}, "rests_until": SOON},
    ],
)
def test_what_passes_by_itself_within_its_time_is_not_called_late_or_wrong(facts: dict[str, object]):
    assert not [finding for finding in findings(**facts) if finding.name != "resting"]


def test_one_cause_is_said_once():
    late = {"events": ago(hours=1), "letters": ago(hours=1)}
    without_worker = findings(worker_at=None, due_since=late)
    while_paused = findings(pauses=(Pause("", SOON, "no"),), due_since={"letters": ago(hours=1)})
    removed = findings(is_removed=True, is_quiet=True)
    assert [[finding.name for finding in found] for found in (without_worker, while_paused, removed)] == [
        ["worker"],
        ["paused"],
        ["removed"],
    ]


def test_what_is_bad_comes_before_what_is_only_worth_knowing():
    found = findings(rests_until=SOON, doubts=1, doubt_since=ago(hours=2), dead_events=1)
    assert [finding.severity for finding in found] == ["bad", "warning", "warning"]
