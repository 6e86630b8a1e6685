"""What came of it: Usher's tables held against what Wix was told, what people did, and what the mail server took.

Asks in plain SQL and shares no code with what it judges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chaos.crowd import STORIES, Person
from chaos.smtp import Accepted
from chaos.stage import Stage

REFUSAL = "answered 554 to the letter: 5.6.0"
"""What the mail server says when it refuses for good, in the fault that does so."""


@dataclass
class Tally:
    """What one fault did. `recovered_s`: from its end until the last of its people had their letters."""

    times: int = 0
    people: int = 0
    lost: int = 0
    twice: int = 0
    in_doubt: int = 0
    recovered_s: float = 0.0


@dataclass
class Verdict:
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    problems: list[str] = field(default_factory=list)
    """One line for each thing that must not be; empty when the run is fine."""
    events: int = 0
    deliveries: int = 0
    letters: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows as plain mappings; `acknowledged` are the ids of events that were answered with 200."""

    acknowledged: frozenset[str]
    poisoned: frozenset[str]
    events: Sequence[Mapping[str, Any]]
    messages: Sequence[Mapping[str, Any]]
    accepted: Sequence[Accepted]
    undecidable: Mapping[str, set[str]]
    killed_workers: int
    emails: Mapping[str, str]
    """Member id → address."""


def gather(stage: Stage) -> tuple[Evidence, int]:
    """Everything the judge looks at, and how many deliveries there were."""
    deliveries = stage.ask_sandbox("/sandbox/deliveries")["deliveries"]
    state = stage.ask_sandbox("/sandbox/state")
    evidence = Evidence(
        acknowledged=frozenset(
            delivery["event_id"]
            for delivery in deliveries
            if any(attempt["status"] == 200 for attempt in delivery["attempts"])
        ),
        poisoned=frozenset(stage.poisoned),
        events=stage.query("SELECT id, type, state, error, member, finished_at FROM events"),
        messages=stage.query(
            "SELECT id, member, automation, state, reason, message_id, sent_at, attempts, crashes FROM messages"
        ),
        accepted=stage.mail.accepted,
        undecidable=stage.mail.undecidable,
        killed_workers=sum(1 for _, name in stage.killed if name.startswith(("worker", "beat"))),
        emails={
            member["id"]: member["loginEmail"] for member in state["members"] if member.get("loginEmail")
        },
    )
    return evidence, sum(len(delivery["attempts"]) for delivery in deliveries)


def judge(evidence: Evidence, people: Iterable[Person], ended_at: Mapping[str, Sequence[float]]) -> Verdict:
    """`ended_at`: when each fault ended, by its name (time.time())."""
    verdict = Verdict(events=len(evidence.events), letters=len(evidence.accepted))
    _judge_events(evidence, verdict)
    taken = Counter(letter.message_id for letter in evidence.accepted)
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in evidence.messages:
        rows[evidence.emails.get(row["member"], row["member"]), row["automation"]].append(row)
    expected = set()
    unexplained = 0
    for person in people:
        tally = verdict.tallies[person.fault]
        tally.people += 1
        for automation in STORIES[person.story]:
            expected.add((person.email, automation))
            about = f"{person.email}, {automation} ({person.story}; during: {person.fault})"
            found = rows.get((person.email, automation), [])
            if not found:
                tally.lost += 1
                verdict.problems.append(f"lost: {about}: no row in the ledger")
                continue
            if len(found) > 1:
                tally.twice += 1
                verdict.problems.append(f"twice: {about}: {len(found)} rows in the ledger")
            for row in found:
                unexplained += _judge_letter(row, taken, about, tally, verdict, evidence)
                if row["state"] == "sent":
                    end = next(
                        (at for at in ended_at[person.fault] if at >= person.acted_at), person.acted_at
                    )
                    tally.recovered_s = max(tally.recovered_s, _seconds(row["sent_at"]) - end)
    if unexplained > evidence.killed_workers:
        verdict.problems.append(
            f"in doubt without a reason: {unexplained} letters, {evidence.killed_workers} workers were killed"
        )
    known = {row["message_id"] for row in evidence.messages}
    for message_id in sorted(taken.keys() - known):
        verdict.problems.append(f"twice: the mail server has {message_id}, which is in no row")
    for key in sorted(rows.keys() - expected, key=str):
        if any(row["state"] != "skipped" for row in rows[key]):
            verdict.problems.append(f"twice: a letter nobody was to get: {key[0]}, {key[1]}")
    return verdict


def _judge_events(evidence: Evidence, verdict: Verdict) -> None:
    states = {row["id"]: row for row in evidence.events}
    for event_id in sorted(evidence.acknowledged - states.keys()):
        verdict.problems.append(f"lost: event {event_id} was acknowledged and is in no row")
    for row in evidence.events:
        about = f"event {row['id']} ({row['type']})"
        if row["state"] == "received":
            verdict.problems.append(f"lost: {about} never came to its end ({row['error']})")
        elif row["state"] == "dead" and row["id"] not in evidence.poisoned:
            verdict.problems.append(f"lost: {about} is dead ({row['error']})")
        elif row["state"] != "dead" and row["id"] in evidence.poisoned:
            verdict.problems.append(f"{about} is poison and {row['state']}")


def _judge_letter(
    row: Mapping[str, Any],
    taken: Counter[str],
    about: str,
    tally: Tally,
    verdict: Verdict,
    evidence: Evidence,
) -> int:
    """Counts one row; 1 when it is in doubt and the mail server does not say why."""
    copies = taken[row["message_id"]] if row["message_id"] else 0
    if copies > 1:
        tally.twice += 1
        verdict.problems.append(f"twice: {about}: the mail server has it {copies} times")
    if row["state"] == "in_doubt":
        tally.in_doubt += 1
        return 0 if row["message_id"] in evidence.undecidable else 1
    if row["state"] == "failed" and REFUSAL in (row["reason"] or ""):
        verdict.refused += 1
    elif row["state"] != "sent":
        tally.lost += 1
        verdict.problems.append(f"lost: {about}: {row['state']} ({row['reason']})")
    if (row["state"] == "sent") != (copies > 0):
        tally.lost += 1
        verdict.problems.append(f"{about}: {row['state']}, but the mail server has it {copies} times")
    return 0


def _seconds(value: object) -> float:
    """SQLite keeps times as text without a zone, in UTC."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(time, datetime):
        raise TypeError(f"not a time: {value!r}")
    return (time.replace(tzinfo=UTC) if time.tzinfo is None else time).timestamp()
