"""`python3 dev.py chaos --jobs`: the admin's bigger jobs, in a large community, while what runs them is killed.

A group with people of every kind is written to, rules go to 300 groups, a list of 500 becomes a group, and a report is
made, all through the admin API. What everybody is, and so what must come of them, is written in their address. The
rows, what the API says, the mail server, and what Wix has in the end and was asked on the way are held against it. The
judge asks in plain SQL and shares no code with what it judges.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import signal
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos.runs import _open_rows
from chaos.smtp import Accepted
from chaos.stage import PostgresStore, SqliteStore, Stage, StageError, _children_of, set_up

MEMBERS = 25_000
QUIET = 2_500
"""Members of a group that is written to before anything is killed, its owner included."""
CIRCLES, LISTED = 300, 500
LARGE = 10_000
"""With fewer members a third of the kills has to do."""
SCALE = 10
"""Wix's limit, and what Usher keeps to, are so many times what they are, so that the run takes minutes."""
WIX_LIMIT, OUR_CALLS = 200 * SCALE, 180 * SCALE
WORKERS = 2
"""Of two processes each."""
JOIN_EVERY_S = 0.5
CALM_JOINS = 20
"""So many people join before there is any job, for the comparison."""
STUCK_S = 240.0
SETTLE_S = 150.0
PAUSED_S = 5.0
MOST_EXTRA = 0.05
"""Of the floor: what a job may cost more when nothing is killed."""
EXTRA_A_KILL, EXTRA_A_PROCESS = 12, 200
"""Calls: pages that are read again, and the hundred letters of a killed process, which are then taken one by one, lest
one of them was the reason."""
MOST_GROWTH = 0.25
SHORTEST_LIFE_S = 40.0
"""Who lived shorter says nothing about memory."""
MB = 1024 * 1024
OWNER = "owner@example.com"
OPEN, EVERYBODY, CALM, HANDBOOK, NEW = "Open House", "Everybody", "Calm Corner", "Handbook", "Spring Course"
LETTER, LETTERS_SUBJECT, WELCOMES_SUBJECT = "yoga-offer", b"try a class with us", b"Welcome to"

AUTOMATIONS = f"""
[[automation]]
name = "welcome"
on = ["member_added"]
groups = ["{OPEN}", "{EVERYBODY}"]
purpose = "onboarding"
email = "welcome"
"""

# The people


@dataclass(frozen=True, slots=True)
class Sort:
    """People of one kind: what Wix says of them, and what comes of a promotional letter to them.

    `share` is of a thousand; `reason` a pattern of the reason in the end, "" for who gets the letter. `changes`: what
    they do between preview and yes, until when they are like any other reader.
    """

    share: int
    consent: tuple[str, str] | None = ("SUBSCRIBED", "NOT_SET")
    reason: str = ""
    status: str = "APPROVED"
    changes: str = ""
    inside: bool = True
    """In the group that is written to, from the beginning."""


TAKEN = "has its letter of this job already"
SORTS: dict[str, Sort] = {
    "subscribed": Sort(490),
    "valid": Sort(100, ("SUBSCRIBED", "VALID")),
    "inactive": Sort(30, ("SUBSCRIBED", "INACTIVE")),
    "offline": Sort(20, status="OFFLINE"),
    "twin": Sort(10, reason=TAKEN),
    "unsubscribed": Sort(80, ("UNSUBSCRIBED", "VALID"), r"^unsubscribed \(Wix"),
    "notset": Sort(80, ("NOT_SET", "VALID"), r"Wix: NOT_SET.*need SUBSCRIBED"),
    "pending": Sort(40, ("PENDING", "NOT_SET"), r"Wix: PENDING"),
    "norecord": Sort(50, None, "no record"),
    "unknown": Sort(10, ("UNKNOWN", "NOT_SET"), "consent unclear"),
    "newstatus": Sort(10, ("SOMETHING_NEW", "VALID"), "consent unclear"),
    "bounced": Sort(20, ("SUBSCRIBED", "BOUNCED"), "BOUNCED"),
    "complained": Sort(10, ("SUBSCRIBED", "SPAM_COMPLAINT"), "SPAM_COMPLAINT"),
    "newdelivery": Sort(10, ("SUBSCRIBED", "SOMETHING_NEW"), "deliverability unclear"),
    "blocked": Sort(10, status="BLOCKED", reason="is blocked"),
    "nowhere": Sort(10, None, "has no address"),
    "oneclick": Sort(4, reason=r"^(?!.*Wix).*unsubscribed"),
    "unsubscribes": Sort(8, reason=r"^unsubscribed \(Wix", changes="unsubscribe"),
    "leaves": Sort(8, reason="left the group", changes="leave"),
    "joins": Sort(8, changes="join", inside=False),
}
"""By the local part of the address, without its number. Twins share one address, and only the first to be looked at has
a letter."""


@dataclass(frozen=True, slots=True)
class Person:
    """`email` as Wix spells it, "" for none."""

    id: str
    email: str
    sort: str


def people(members: int, random: Random) -> list[Person]:
    """So many in the group, in an order of their own, and a few outside; at least two of each sort."""
    found = []
    for name, sort in SORTS.items():
        if name != "subscribed":
            number = 2 * max(1, round(members * sort.share / 2000))
            found += [_person(name, place) for place in range(number)]
    inside = 1 + sum(SORTS[person.sort].inside for person in found)
    found += [_person("subscribed", place) for place in range(max(2, members - inside))]
    random.shuffle(found)
    return [*found, Person(_id("owner"), OWNER, "norecord")]  # who runs a group is in it


def _person(sort: str, number: int) -> Person:
    email = f"{sort}-{number}@example.org"
    if sort == "twin":
        email = f"twin-{number // 2}@example.org"
        email = email.upper() if number % 2 else email
    if sort == "nowhere":
        email = ""
    return Person(_id(f"{sort}-{number}"), email, sort)


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"chaos:{name}"))


def _extra(name: str, number: int) -> list[Person]:
    return [Person(_id(f"{name}-{place}"), f"{name}-{place}@example.net", name) for place in range(number)]


def _member(person: Person) -> dict[str, Any]:
    """Of twins the second has no login, and the address, spelt otherwise, as a contact."""
    there = {"email": person.email}
    if person.email.isupper():
        there = {"email": "", "other_emails": [person.email]}  # type: ignore[dict-item]
    status = SORTS[person.sort].status if person.sort in SORTS else "APPROVED"
    return {"id": person.id, "first": "P", "last": person.id[:8], "status": status, **there}


# The list of people


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list as it is given, whom it means ("": nobody can say) and what comes of it: "in", "invited", or
    a pattern of the reason why not."""

    given: Mapping[str, str]
    member: str
    comes: str


def listed(random: Random) -> tuple[list[Row], dict[str, Any]]:
    """LISTED rows with every kind of trouble, and the members and contacts that the sandbox needs for them."""
    members: list[dict[str, Any]] = []
    contacts: list[dict[str, Any]] = []

    def member(name: str, **more: Any) -> dict[str, Any]:
        found = {
            "id": _id(f"listed {name}"),
            "contact_id": _id(f"contact {name}"),
            "email": f"{name}@example.com",
        }
        members.append({**found, "first": "L", "last": name, "nickname": name, **more})
        return members[-1]

    rows = []
    for place in range(200):
        one = member(f"mail{place}")
        rows.append(Row({"email": one["email"].upper() if place % 7 == 0 else one["email"]}, one["id"], "in"))
    for place in range(60):
        one = member(f"contact{place}")
        rows.append(Row({"contactId": one["contact_id"]}, one["id"], "in"))
    for place in range(40):
        one = member(f"phone{place}", phone=f"+493012345{place:03}")
        spelled = f"+49 30 12345 {place:03}" if place % 2 else one["phone"]
        rows.append(Row({"phone": spelled}, one["id"], "in"))
    for place in range(40):
        one = member(f"name{place}", first="Nora", last=f"Lake{place}", nickname="")
        rows.append(Row({"name": f"Nora Lake{place}"}, one["id"], "in"))
    for place in range(60):
        one = member(f"shy{place}", privacyStatus="PRIVATE")
        rows.append(Row({"email": one["email"]}, one["id"], "invited"))
    rows += [Row({"email": f"nobody{place}@example.com"}, "", "^nobody on the site") for place in range(30)]
    for place in range(20):
        for namesake in ("a", "b"):
            member(
                f"same{place}{namesake}", first="Sam", last=f"Hill{place}", nickname=f"sam{place}{namesake}"
            )
        rows.append(Row({"name": f"Sam Hill{place}"}, "", "people have this name"))
    for place in range(20):
        contacts.append({"first": "V", "last": f"Visitor{place}", "email": f"visitor{place}@example.com"})
        rows.append(Row({"email": f"visitor{place}@example.com"}, "", "without an account"))
    for place in range(10):
        one = member(f"barred{place}", status="BLOCKED")
        rows.append(Row({"email": one["email"]}, "", "is blocked"))
    rows += [
        replace(row, given={"contactId": _id(f"contact mail{place}")}) for place, row in enumerate(rows[:20])
    ]
    random.shuffle(rows)
    seen: set[str] = set()
    for place, row in enumerate(rows):  # whoever is listed twice is taken at the first time
        if row.member and row.member in seen:
            rows[place] = replace(row, comes="is the same person")
        seen.add(row.member)
    assert len(rows) == LISTED
    return rows, {"members": members, "contacts": contacts}


# The community


def circle(number: int) -> str:
    return f"Circle {number:03}"


RULES = [
    {"title": f"Rule {number}", "description": f"What is meant by rule {number}."} for number in range(3)
]


def community(everybody: Sequence[Person], live: Sequence[Person], more: Mapping[str, Any]) -> dict[str, Any]:
    """A body for the sandbox's PUT /sandbox/community. Every tenth circle has the rules of the handbook already; many
    have as many members as others, a few were never used, and some not for long."""
    quiet = _extra("calm", QUIET - 1)
    now = datetime.now(UTC)
    circles = []
    for number in range(CIRCLES):
        own = [
            {"title": f"House rule {place} of {number}", "description": "Old."} for place in range(number % 5)
        ]
        idle = (now - timedelta(days=number, hours=1)).isoformat() if number % 50 else "never"
        circles.append(
            {
                "name": circle(number),
                "privacy": ("PUBLIC", "PRIVATE", "SECRET")[number % 3],
                "owner": OWNER,
                "rules": RULES if number % 10 == 0 else own,
                "created": "2024-01-01T00:00:00Z",
                "last_activity": idle,
            }
        )
    big = [{"name": name, "privacy": "PUBLIC", "owner": OWNER} for name in (OPEN, EVERYBODY, CALM)]
    spellings = {
        person.email.casefold(): SORTS[person.sort].consent
        for person in everybody
        if person.email and SORTS[person.sort].consent
    }
    return {
        "site": {"name": "Seaside", "url": "https://seaside.example.com", "language": "en"},
        "groups": [*big, {"name": HANDBOOK, "privacy": "PUBLIC", "owner": OWNER, "rules": RULES}, *circles],
        "members": [
            *map(_member, [*everybody, *quiet, *live]),
            *more["members"],
        ],
        "contacts": more["contacts"],
        "subscriptions": {
            **dict.fromkeys((person.email for person in [*quiet, *live]), "SUBSCRIBED"),
            **{
                email: {"status": consent[0], "deliverability": consent[1]}
                for email, consent in spellings.items()
                if consent
            },
        },
        "memberships": [
            {
                "group": EVERYBODY,
                "members": [one.id for one in everybody if SORTS[one.sort].inside and one.email != OWNER],
            },
            {"group": CALM, "members": [person.id for person in quiet]},
            *(
                {"group": circle(number), "members": [person.id for person in quiet[: number % 7]]}
                for number in range(CIRCLES)
                if number % 7
            ),
        ],
    }


# The judge of letters


@dataclass(frozen=True, slots=True)
class Evidence:
    """One mailing. `rows` are plain mappings, `said` is the job as the API tells it. `accepted`: what the mail server
    took of this job's letters. `maybe`: ids of those who came while it looked who is there."""

    rows: Sequence[Mapping[str, Any]]
    said: Mapping[str, Any]
    accepted: Sequence[Accepted]
    undecidable: Mapping[str, set[str]]
    killed: int = 0
    """Processes that may have had a letter under way."""
    maybe: Mapping[str, str] = field(default_factory=dict)
    """Their addresses."""


@dataclass
class Tally:
    people: int = 0
    wrong: int = 0
    states: Counter[str] = field(default_factory=Counter)


@dataclass
class Verdict:
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    problems: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    """Letters of which nobody can say whether they arrived, each with what is known."""


STATE_OF = {"sent": "done", "bounced": "done"}
COUNTED = ("done", "skipped", "failed", "in_doubt")


def judge(evidence: Evidence, everybody: Iterable[Person]) -> Verdict:
    """Each who may get it has it once, nobody else has it, and the numbers add up."""
    verdict = Verdict()
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in evidence.rows:
        rows[row["member"]].append(row)
    copies = Counter(letter.to.casefold() for letter in evidence.accepted)
    unexplained = 0
    twins: dict[str, list[str]] = defaultdict(list)
    for person in everybody:
        tally = verdict.tallies[person.sort]
        tally.people += 1
        found = rows.pop(person.id, [])
        tally.states.update(row["state"] for row in found)
        number = copies[person.email.casefold()] if person.email else 0
        if person.sort == "twin":
            twins[person.email.casefold()] += [row["state"] for row in found]
        for row in found:
            if row["state"] == "in_doubt":
                why = evidence.undecidable.get(row["message_id"], set())
                unexplained += not why
                said = ", ".join(sorted(why)) or "its process was killed"
                verdict.in_doubt.append(f"{person.email}: {number} at the mail server ({said})")
        wrong = list(_wrong(person, found, number))
        tally.wrong += bool(wrong)
        verdict.problems += [f"{person.email or person.id}: {what}" for what in wrong]
    for email, states in twins.items():
        if sorted(states) not in (["sent", "skipped"], ["in_doubt", "skipped"]):
            verdict.problems.append(
                f"{email}: two members, and their letters are {', '.join(states) or 'none'}"
            )
    known = {person.email.casefold() for person in everybody}
    for member, email in evidence.maybe.items():
        states = [row["state"] for row in rows.pop(member, [])]
        if len(states) > 1 or copies[email] > 1 or (states == ["sent"]) != (copies[email] == 1):
            verdict.problems.append(f"{email}: came meanwhile, {states}, {copies[email]} at the mail server")
    verdict.problems += [f"a row of nobody's: {member}" for member, found in rows.items() if found]
    strangers = copies.keys() - known - set(evidence.maybe.values())
    verdict.problems += [f"a letter to {email}, whom nobody was to write to" for email in sorted(strangers)]
    if unexplained > evidence.killed:
        verdict.problems.append(
            f"{unexplained} in doubt without a reason, {evidence.killed} processes were killed"
        )
    verdict.problems += _wrong_numbers(evidence)
    return verdict


def _wrong(person: Person, rows: Sequence[Mapping[str, Any]], copies: int) -> Iterator[str]:
    sort = SORTS[person.sort]
    if copies > 1:
        yield f"the mail server has the letter {copies} times"
    if not sort.inside:
        if rows or copies:
            yield f"joined after the preview, and has {len(rows)} rows and {copies} letters"
        return
    if len(rows) != 1:
        yield f"{len(rows)} rows in the ledger"
        return
    [row] = rows
    state, reason = row["state"], row["reason"] or ""
    twin = person.sort == "twin"
    if state == "skipped":
        if not sort.reason or not re.search(sort.reason, reason):
            yield f"is skipped ({reason or 'no reason'})"
        if copies and not twin:
            yield "is skipped, and the mail server has the letter"
        return
    if sort.reason and not twin:
        yield f"is {state} ({reason}), not skipped"
        if copies:
            yield "has a letter they must not have"
        return
    if state not in ("sent", "in_doubt"):
        yield f"is {state} ({reason}), not sent"
    if state == "sent" and copies != 1:
        yield f"is sent, and the mail server has the letter {copies} times"


def _wrong_numbers(evidence: Evidence) -> Iterator[str]:
    counts = evidence.said["counts"]
    found = Counter(STATE_OF.get(row["state"], row["state"]) for row in evidence.rows)
    if counts["total"] != sum(counts[name] for name in COUNTED):
        yield f"the total does not add up: {counts}"
    for name in COUNTED:
        if counts[name] != found[name]:
            yield f"the API counts {counts[name]} {name}, and {found[name]} rows are"
    if counts["total"] != len(evidence.rows):
        yield f"the API counts {counts['total']} in all, and there are {len(evidence.rows)} rows"
    reasons = Counter(row["reason"] or "" for row in evidence.rows if row["state"] == "skipped")
    if "" in reasons:
        yield f"{reasons['']} are skipped without a reason"
    if dict(evidence.said["skipped_by_reason"]) != dict(reasons):
        yield "the API's reasons are not those of the rows"


def judge_preview(
    rows: Sequence[Mapping[str, Any]],
    said: Mapping[str, Any],
    everybody: Iterable[Person],
    maybe: Iterable[str],
) -> list[str]:
    """Exactly who may get the letter is planned, everybody else is there with the reason, and the cost is the floor."""
    problems = []
    by_member = {row["member"]: row for row in rows}
    if len(by_member) != len(rows):
        problems.append(f"the preview has {len(rows)} rows for {len(by_member)} members")
    maybe = set(maybe)
    twins: Counter[str] = Counter()
    for person in everybody:
        row, sort = by_member.pop(person.id, None), SORTS[person.sort]
        name = person.email or person.id
        if row is None:
            if sort.inside:
                problems.append(f"{name}: the preview did not look at them")
            continue
        if not sort.inside:
            problems.append(f"{name}: the preview looked at them, and they are not in the group")
        if person.sort == "twin":
            twins[person.email.casefold()] += row["state"] == "planned"
            continue
        may = not sort.reason or bool(sort.changes)
        if may != (row["state"] == "planned"):
            problems.append(f"{name}: {row['state']} ({row['reason']}) in the preview")
        elif not may and not re.search(sort.reason, row["reason"] or ""):
            problems.append(f"{name}: {row['reason'] or 'no reason'} in the preview")
    problems += [f"{email}: {number} letters for two" for email, number in twins.items() if number != 1]
    problems += [f"a row of nobody's in the preview: {member}" for member in by_member.keys() - maybe]
    planned = sum(row["state"] == "planned" for row in rows)
    if said["result"]["letters"] != planned or said["counts"]["total"] != len(rows):
        problems.append(
            f"the preview says {said['result']['letters']} letters, {said['counts']}; {planned} are planned"
        )
    least, most = (run_floor(number, planned) for number in (len(rows) - len(maybe), len(rows)))
    if not least <= said["cost"]["wix_calls"] <= most:
        problems.append(f"the preview says {said['cost']['wix_calls']} calls to Wix; {most} is right")
    return problems


def run_floor(members: int, letters: int) -> int:
    """Calls: a list of the members, and for each hundred letters one for the members and one for their consent."""
    return math.ceil(members / 100) + 2 * math.ceil(letters / 100)


def preview_floor(members: int) -> int:
    return 3 * math.ceil(members / 100)


# The judge of calls


@dataclass(frozen=True, slots=True)
class Spent:
    """What a phase of a job cost: calls to Wix, the floor, and how often something was killed meanwhile."""

    job: str
    calls: int
    floor: int
    kills: int
    cut: int
    """Processes that may have had a hundred letters in hand."""
    seconds: float

    def problem(self) -> str | None:
        most = self.floor * (1 + MOST_EXTRA) + self.kills * EXTRA_A_KILL + self.cut * EXTRA_A_PROCESS
        return f"{self.job}: {self.calls} calls, and the floor is {self.floor}" if self.calls > most else None


SWEEPS = ("listGroups", "listJoinRequests", "createAccessToken")


def of_job(calls: Iterable[dict[str, Any]], others: frozenset[str]) -> list[dict[str, Any]]:
    """The calls that a job made: all but looks at what is new on the site, and those about other groups and people."""
    return [
        call
        for call in calls
        if call["endpoint"] not in SWEEPS
        and call["about"].casefold() not in others
        and not others.intersection(call["path"].split("/"))
    ]


def refused(calls: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each 429."""
    return [f"429 from Wix: {call['endpoint']} at {call['at']}" for call in calls if call["status"] == 429]


# The judge of memory


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a worker while a job ran: MB at its first tenth and at its end."""

    pid: int
    seconds: float
    first_mb: float
    last_mb: float

    @property
    def growth(self) -> float:
        return self.last_mb / self.first_mb - 1


def lives(samples: Iterable[tuple[float, int, int]], began: float, ended: float) -> list[Life]:
    """`samples`: when, whose (pid), bytes. Of whoever was born or killed meanwhile, what was seen of them."""
    by_pid: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for at, pid, size in samples:
        if began <= at <= ended:
            by_pid[pid].append((at, size))
    found = []
    for pid, seen in by_pid.items():
        first, last = seen[0][0], seen[-1][0]
        if last - first >= SHORTEST_LIFE_S:
            tenth = first + (last - first) / 10
            early = max(size for at, size in seen if at <= tenth)
            late = max(size for at, size in seen if at >= last - (last - first) / 10)
            found.append(Life(pid, last - first, early / MB, late / MB))
    return found


def grown(found: Iterable[Life]) -> list[str]:
    return [
        f"process {life.pid} grew from {life.first_mb:.0f} to {life.last_mb:.0f} MB in {life.seconds:.0f} s"
        for life in found
        if life.growth > MOST_GROWTH
    ]


# The judges of groups


def judge_rules(
    rules: Mapping[str, Sequence[Mapping[str, Any]]],
    wanted: Mapping[str, Sequence[Mapping[str, Any]]],
    when: str,
) -> list[str]:
    """Rules by group, as Wix has them and as they should be."""
    return [
        f"{when}: the rules of {name} are not what they should be"
        for name in sorted(wanted)
        if list(rules.get(name, ())) != list(wanted[name])
    ]


def judge_list(
    rows: Sequence[Row],
    items: Sequence[Mapping[str, Any]],
    said: Mapping[str, Any],
    inside: frozenset[str],
    invited: frozenset[str],
    *,
    again: bool = False,
) -> list[str]:
    """Who is in the group and who is invited to it, against whom the list means; and what is given back to mend."""
    problems = []
    owner = _id("owner")
    by_number = {item["number"]: item for item in items}
    doubt = {rows[number - 1].member for number, item in by_number.items() if item["state"] == "in_doubt"}
    meant = {row.member for row in rows if row.comes == "in"}
    shy = {row.member for row in rows if row.comes == "invited"}
    if inside != meant | {owner}:
        problems.append(
            f"the list: {len(meant - inside)} are missing, {len(inside - meant - {owner})} are not meant"
        )
    if not (shy - doubt <= invited <= shy):
        problems.append(
            f"the list: {len(shy - doubt - invited)} are not invited, {len(invited - shy)} too many are"
        )
    fix = {entry["row"]: entry["reason"] or "" for entry in (said["result"] or {}).get("to_fix", ())}
    for number, row in enumerate(rows, start=1):
        item = by_number.get(number, {"state": "nowhere"})
        state = item["state"]
        fine = ("done",) if row.comes == "in" else ("skipped",)
        if state not in fine and not (row.comes == "invited" and state == "in_doubt"):
            problems.append(f"row {number} ({row.comes}) is {state} ({item.get('reason')})")
        if (row.comes != "in") != (number in fix):
            problems.append(f"row {number} ({row.comes}) is {'not ' * (number not in fix)}to be mended")
        elif row.comes not in ("in", "invited") and not re.search(row.comes, fix[number]):
            problems.append(f"row {number} ({row.comes}) is to be mended because it {fix[number]}")
    counts = said["counts"]
    if not counts["total"] == len(rows) == sum(counts[name] for name in COUNTED):
        problems.append(f"the list: the total does not add up: {counts}")
    if again and said["result"]["added"]:
        problems.append(f"the second time {said['result']['added']} were added")
    return problems


def judge_report(result: Mapping[str, Any], state: Mapping[str, Any], top: int, idle_days: int) -> list[str]:
    """What was reported against what there is. `state` is the sandbox's; deleted groups are in none of its groups."""
    problems = []
    groups = state["groups"]
    if result["total"] != len(groups):
        problems.append(f"the report counts {result['total']} groups, and there are {len(groups)}")
    ranked = sorted(groups, key=lambda group: (-len(group["members"]), group["name"], group["id"]))
    popular = [[group["id"], group["name"], len(group["members"])] for group in ranked[:top]]
    if [[one["id"], one["name"], one["members"]] for one in result["most_popular"]] != popular:
        problems.append("the report's most popular groups are others")
    since = datetime.fromisoformat(result["as_of"]) - timedelta(days=idle_days)
    never = {group["id"] for group in groups if not group.get("lastActivityDate")}
    idle = never | {
        group["id"]
        for group in groups
        if group.get("lastActivityDate") and datetime.fromisoformat(group["lastActivityDate"]) < since
    }
    told = [one["id"] for one in result["idle"]]
    if len(told) != len(idle) or set(told) != idle:
        problems.append(f"the report names {len(told)} idle groups, and {len(idle)} are")
    if set(told[: len(never)]) != never:
        problems.append("the report does not name first who was never active")
    by_age = sorted(one["last_activity"] for one in result["idle"] if one["last_activity"])
    if [one["last_activity"] for one in result["idle"] if one["last_activity"]] != by_age:
        problems.append("the report does not name the longest idle first")
    return problems


# The stage, as the run sees it


class Api:
    """The admin API, as a client that tries again while the web process is away."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._head = {"Authorization": f"Bearer {stage.env['ADMIN_TOKEN']}"}

    def once(self, method: str, path: str, body: object = None, *, key: str = "") -> tuple[int, Any]:
        head = self._head | ({"Idempotency-Key": key} if key else {})
        answer = self._stage.usher.request(method, f"/api/v1{path}", json=body, headers=head, timeout=30)
        return answer.status_code, answer.json()

    def ask(self, method: str, path: str, body: object = None, *, key: str = "") -> Any:
        deadline = time.monotonic() + SETTLE_S
        while True:
            with contextlib.suppress(httpx.TransportError, ValueError):
                status, found = self.once(method, path, body, key=key)
                if status < 300:
                    return found
                if status not in (429, 500, 502, 503):
                    raise StageError(f"{method} {path} answers {status}: {found}")
            if time.monotonic() > deadline:
                raise StageError(f"{method} {path} finds nobody")
            time.sleep(0.3)

    def begin(self, kind: str, params: Mapping[str, Any], site: str) -> str:
        """The id of a new job."""
        body = {"kind": kind, "site": site, "params": params}
        found: str = self.ask("POST", "/jobs", body, key=uuid.uuid4().hex)["id"]
        return found

    def job(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/jobs/{id_}")
        return found

    def items(self, id_: str, state: str = "") -> list[dict[str, Any]]:
        found, cursor = [], ""
        while True:
            page = self.ask("GET", f"/jobs/{id_}/items?limit=100&state={state}&cursor={cursor}")
            found += page["items"]
            if not page["next"]:
                return found
            cursor = page["next"]


class CallBook:
    """Every call to Wix, read from the sandbox before it forgets."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.calls: list[dict[str, Any]] = []

    def read(self) -> None:
        after = self.calls[-1]["n"] if self.calls else 0
        found = self._stage.ask_sandbox(f"/sandbox/calls?after={after}")["calls"]
        if found and found[0]["n"] != after + 1:
            raise StageError(f"calls {after + 1} to {found[0]['n'] - 1} were forgotten before they were read")
        self.calls += found

    def since(self, place: int) -> list[dict[str, Any]]:
        self.read()
        return self.calls[place:]


Hurt = tuple[str, int, Callable[[Stage, Random], None]]
"""Its name, how many processes it may cut off in the middle of a letter, and how it is done."""


def _kill(name: str, *, pool: bool = False) -> Callable[[Stage, Random], None]:
    return lambda stage, _random: stage.signal(name, signal.SIGKILL, pool=pool)


def _kill_child(stage: Stage, random: Random) -> None:
    pid = stage.one_child(random.choice(_workers(stage)), random.randrange(8))
    if pid is not None:
        stage.note_kill("worker")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _restart_valkey(stage: Stage, _random: Random) -> None:
    stage.note_kill("valkey")
    stage.valkey.signal(signal.SIGKILL)
    time.sleep(0.5)
    stage.valkey.start()


def _workers(stage: Stage) -> list[str]:
    return [child.name for child in stage.household.children if child.name.startswith("worker")]


HURTS: tuple[Hurt, ...] = (
    ("a worker's child", 1, _kill_child),
    ("a worker's parent", 2, _kill("worker")),
    ("a whole worker", 2, _kill("worker2", pool=True)),
    ("beat", 0, _kill("beat")),
    ("web", 0, _kill("web")),
    ("Valkey", 0, _restart_valkey),
)


class Killer:
    """Does so many of HURTS, evenly over the progress of a job, in an order of its own."""

    def __init__(self, stage: Stage, random: Random, times: int) -> None:
        self._stage, self._random = stage, random
        some = [
            hurt for _ in range(math.ceil(times / len(HURTS))) for hurt in random.sample(HURTS, len(HURTS))
        ]
        self._left = some[:times]
        self._times = times
        self.done: list[str] = []
        self.cut = 0
        """Processes that may have had a letter under way."""

    def see(self, share: float) -> None:
        """`share` of the job is done."""
        if self._left and share * (self._times + 1) > len(self.done) + 1:
            name, cut, do = self._left.pop(0)
            do(self._stage, self._random)
            self.done.append(name)
            self.cut += cut


class Joiners:
    """People who join all the time, in a thread of its own: every fourth the group that is written to, the others
    another one."""

    def __init__(self, stage: Stage, people: Sequence[Person]) -> None:
        self._stage, self._left, self.everybody = stage, list(people), people
        self.joined: list[tuple[Person, str, float]] = []
        """Who, which group, and when."""
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="joiners", daemon=True)

    def __enter__(self) -> Joiners:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        sandbox = httpx.Client(base_url=self._stage.sandbox.base_url, timeout=60)
        with sandbox:
            while self._left and not self._stop.wait(JOIN_EVERY_S):
                person = self._left.pop()
                group = EVERYBODY if len(self.joined) % 4 == 3 else OPEN
                self.joined.append((person, group, time.time()))
                act = {"act": "add_member", "group": group, "member": person.id}
                answer = sandbox.post("/sandbox/acts", json=act)
                if answer.status_code != 200:
                    self.problems.append(f"{person.email} could not join: {answer.text[:200]}")


class Scales:
    """The memory of every process of every worker, each second, in a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.samples: list[tuple[float, int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scales", daemon=True)

    def __enter__(self) -> Scales:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._stop.wait(1.0):
            for worker in self._stage.household.children:
                if worker.name.startswith("worker") and worker.process is not None:
                    for pid in _children_of(worker.process.pid):
                        with contextlib.suppress(OSError, IndexError):
                            size = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
                            self.samples.append((time.time(), pid, size))


# The run


@dataclass
class Outcome:
    title: str
    seed: int
    folder: Path
    verdict: Verdict
    spent: list[Spent] = field(default_factory=list)
    delays: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from a join to its welcome at the mail server, in their order, by what went on."""
    memory: list[Life] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(kind: type[SqliteStore] | type[PostgresStore], seed: int, members: int) -> Outcome:
    began = time.monotonic()
    chance = Random(seed)
    everybody = people(members, chance)
    live = _extra("live", 4000)
    rows, more = listed(chance)
    extra = {"WIX_CALLS_PER_MINUTE": str(OUR_CALLS), "ADMIN_TOKEN": secrets.token_hex(16)}
    with set_up(
        kind,
        seed=seed,
        extra=extra,
        workers=WORKERS,
        community=community(everybody, live, more),
        automations=AUTOMATIONS,
    ) as stage:
        outcome = Outcome(
            f"the admin's jobs, {members:,} members, {kind.kind}", seed, stage.folder, Verdict()
        )
        stage.switch(rate_limit_per_minute=WIX_LIMIT)
        with Scales(stage) as scales, Joiners(stage, live) as joiners:
            play = _Play(stage, chance, outcome, everybody, joiners, scales)
            try:
                play.click_once()
                joiners.start()
                play.write_in_peace()
                play.write_to_everybody()
                play.roll_out()
                play.make_a_group(rows)
                play.report()
                play.end()
            except (StageError, httpx.HTTPError) as exc:
                outcome.verdict.problems.append(str(exc))
        if outcome.verdict.problems:
            _keep(stage, outcome.verdict)
        outcome.seconds = time.monotonic() - began
        return outcome


class _Play:
    def __init__(
        self,
        stage: Stage,
        chance: Random,
        outcome: Outcome,
        everybody: Sequence[Person],
        joiners: Joiners,
        scales: Scales,
    ) -> None:
        self.stage, self.chance, self.outcome = stage, chance, outcome
        self.everybody, self.joiners, self.scales = everybody, joiners, scales
        self.problems = outcome.verdict.problems
        self.api, self.book = Api(stage), CallBook(stage)
        state = self._state()
        self.site = state["site"]["instance_id"]
        self.groups = {group["name"]: group["id"] for group in state["groups"]}
        self.strangers = [*joiners.everybody, *(one for one in everybody if not SORTS[one.sort].inside)]
        """No job asks about them, or next to none."""
        self.is_large = len(everybody) >= LARGE
        self.calm_letters = self.cut = self.place = 0
        self.stretches: list[tuple[str, float, float]] = []

    # What happens

    def click_once(self) -> None:
        """Some join and unsubscribe with one click. Then Wix forgets it: what we noted has to hold by itself."""
        clicking = [person for person in self.everybody if person.sort == "oneclick"]
        for person in clicking:
            self.stage.act({"act": "add_member", "group": OPEN, "member": person.id})
        heads: dict[str, str] = {}

        def all_there() -> bool:
            heads.update((letter.to, letter.head.decode()) for letter in self.stage.mail.accepted)
            return all(person.email in heads for person in clicking)

        self._until(all_there, "the welcome letters do not come")
        for person in clicking:
            found = re.search(
                r"<(http://[^>\s]+/unsubscribe/[^>]+)>", re.sub(r"\r\n\s+", "", heads[person.email])
            )
            path = urlsplit(found[1]).path if found else ""
            answer = self.stage.usher.post(path, data={"List-Unsubscribe": "One-Click"})
            if answer.status_code != 200:
                raise StageError(f"one click answers {answer.status_code}")
        owed = "SELECT 1 FROM outbox WHERE state = 'planned' LIMIT 1"
        self._until(lambda: not self.stage.query(owed), "Wix is not told of opt-outs")
        for person in clicking:
            self._silently({"act": "set_subscription", "email": person.email, "status": "SUBSCRIBED"})

    def write_in_peace(self) -> None:
        """A mailing without kills, to see what it costs, and whether it holds up who joins meanwhile."""
        group, readers = self.groups[CALM], [person.email for person in _extra("calm", QUIET - 1)]
        self._until(lambda: len(self.joiners.joined) >= CALM_JOINS, "nobody joins")
        began = time.time()
        job = self._begin_mailing(group)
        self._phase("written in peace, preview", job, ("previewed",), preview_floor(QUIET), 0)
        self._confirm(job)
        said = self._phase("written in peace, run", job, ("done",), run_floor(QUIET, QUIET - 1), 0)
        self.stretches.append(("while a job runs", began, time.time()))
        self._check_counts("written in peace", said, done=QUIET - 1, skipped=1, failed=0, in_doubt=0)
        if Counter(letter.to for letter in self._letters()) != Counter(readers):
            self.problems.append("written in peace: not everybody has the letter once")
        self.calm_letters = len(self._letters())

    def write_to_everybody(self) -> None:
        group = self.groups[EVERYBODY]
        inside = sum(SORTS[person.sort].inside for person in self.everybody)
        began = time.time()
        job = self._begin_mailing(group)
        preview = self._phase("preview", job, ("previewed",), preview_floor(inside), 6)
        looked = time.time()
        maybe = {
            person.id: person.email
            for person, where, at in self.joiners.joined
            if where == EVERYBODY and at < looked
        }
        self.problems += judge_preview(self._rows(job), preview, self.everybody, maybe)
        self._change_minds()
        self._confirm(job)
        floor = run_floor(inside, preview["result"]["letters"])
        self._phase("run", job, ("done",), floor, 12, pause_at=0.5)
        ended = time.time()
        self.stretches.append(("while a job runs, and what runs it is killed", began, ended))
        self.joiners.stop()
        self.problems += self.joiners.problems
        self._settle()
        evidence = Evidence(
            self._rows(job),
            self.api.job(job),
            self._letters()[self.calm_letters :],
            self.stage.mail.undecidable,
            self.cut,
            maybe,
        )
        verdict = judge(evidence, self.everybody)
        self.outcome.verdict.tallies = verdict.tallies
        self.outcome.verdict.in_doubt = verdict.in_doubt
        self.problems += verdict.problems
        self.outcome.memory = lives(self.scales.samples, began, ended)
        self.problems += grown(self.outcome.memory)
        self._judge_welcomes()

    def roll_out(self) -> None:
        """Rules for all circles: one in ten fails, half of them from the preview on; then mended; then put back."""
        before = self._rules()
        circles = [circle(number) for number in range(CIRCLES)]
        unequal = [name for name in circles if before[name] != RULES]
        chosen = self.chance.sample(unequal, CIRCLES // 10 + 3)
        failing, meddled = chosen[:-3], chosen[-3:]
        early = len(failing) // 2
        self.stage.switch(failing_groups={self.groups[name]: 400 for name in failing[:early]})
        job = self._begin("rules_rollout", {"from_group": HANDBOOK, "to_groups": ["Circle *"]})
        said = self._phase("rules, preview", job, ("previewed",), CIRCLES, 3)
        equal = CIRCLES - len(unequal)
        told = said["result"]
        if (told["groups"], told["equal"], told["to_change"]) != (CIRCLES, equal, CIRCLES - equal - early):
            self.problems.append(f"rules: the preview says {told}")
        self.stage.switch(failing_groups={self.groups[name]: 400 for name in failing})
        theirs = [{"title": "By somebody else", "description": ""}]
        for name in meddled:
            self.stage.act({"act": "set_rules", "group": name, "rules": theirs})
        self._confirm(job)
        done = CIRCLES - equal - len(failing) - len(meddled)
        said = self._phase("rules, run", job, ("done",), 2 * done + len(failing) - early + len(meddled), 3)
        wanted = {name: before[name] if name in failing else RULES for name in circles}
        wanted |= dict.fromkeys(meddled, theirs)
        self.problems += judge_rules(self._rules(), wanted, "after the rollout")
        self._check_counts("rules", said, done=done, skipped=equal + len(meddled), failed=len(failing))
        named = {item["group"] for item in self.api.items(job, "failed")}
        if named != {self.groups[name] for name in failing}:
            self.problems.append("rules: the list of failures names other groups")
        self.stage.switch(failing_groups={})
        place = len(self.book.since(0))
        self._act(job, "retry-failed")
        said = self._phase("rules, retry", job, ("done",), 2 * len(failing) + early, 1)
        self._check_counts(
            "rules, retry", said, done=done + len(failing), skipped=equal + len(meddled), failed=0
        )
        touched = {
            call["path"].rpartition("/")[2]
            for call in self.book.since(place)
            if call["endpoint"] == "createOrReplaceAllRules"
        }
        if touched != named:
            self.problems.append(
                f"rules: the retry touched {len(touched)} groups, and {len(named)} had failed"
            )
        wanted |= dict.fromkeys(failing, RULES)
        self.problems += judge_rules(self._rules(), wanted, "after the retry")
        back = self.api.ask("POST", f"/jobs/{job}/rollback", key=uuid.uuid4().hex)["id"]
        self._phase("rollback, preview", back, ("previewed",), done + len(failing), 1)
        self._confirm(back)
        said = self._phase("rollback, run", back, ("done",), 2 * (done + len(failing)), 2)
        self._check_counts("rollback", said, done=done + len(failing), skipped=0, failed=0)
        self.problems += judge_rules(
            self._rules(), before | dict.fromkeys(meddled, theirs), "after the rollback"
        )

    def make_a_group(self, rows: Sequence[Row]) -> None:
        """The list twice: the second time nothing is left to do."""
        params = {
            "group": {"name": NEW, "privacyStatus": "PRIVATE", "creatorId": _id("owner")},
            "people": [dict(row.given) for row in rows],
        }
        broken = {**params, "people": [*params["people"], {"email": "not an address"}]}
        body = {"kind": "create_group", "site": self.site, "params": broken}
        self._be_ready()
        status, said = self.api.once("POST", "/jobs", body, key=uuid.uuid4().hex)
        if status != 422 or f"people.{len(rows)}.email" not in json.dumps(said):
            self.problems.append(f"a list with a row that is no address answers {status}")
        doubted: set[str] = set()
        for again in (False, True):
            name = f"a list, {'second' if again else 'first'} time"
            job = self._begin("create_group", params)
            self._phase(f"{name}, preview", job, ("previewed",), 0, 0 if again else 1)
            place = len(self.book.since(0))
            self._confirm(job)
            said = self._phase(f"{name}, run", job, ("done",), 0, 1 if again else 3)
            found = [group for group in self._state()["groups"] if group["name"] == NEW]
            if len(found) != 1:
                self.problems.append(f"{name}: {len(found)} groups of this name")
                return
            inside = frozenset(member["memberId"] for member in found[0]["members"])
            invited = frozenset(found[0]["invited"])
            items = self.api.items(job)
            wrong = judge_list(rows, items, said, inside, invited, again=again)
            self.problems += [f"{name}: {what}" for what in wrong]
            asked = {
                call["about"] for call in self.book.since(place) if call["endpoint"] == "addGroupMembers"
            }
            if again and asked - doubted:
                self.problems.append(f"{name}: {len(asked - doubted)} calls add somebody")
            doubted = {item["member"] for item in items if item["state"] == "in_doubt"}
            if doubted:
                self.outcome.lines.append(f"{name}: {len(doubted)} invitations are in doubt")

    def report(self) -> None:
        """Groups that are gone, which Wix lists all the same, do not count."""
        self.stage.switch(deleted_groups_stay=True)
        for number in range(5):
            self.stage.act({"act": "delete_group", "group": circle(40 * number + 6)})
        self._settle()
        job = self._begin("groups_report", {"top": 10, "idle_days": 90})
        said = self._phase("report", job, ("done",), 0, 2)
        self.problems += judge_report(said["result"], self._state(), 10, 90)
        again = self.api.ask("GET", f"/jobs/{job}/report?format=json")
        if again["total"] != said["result"]["total"]:
            self.problems.append("the report as a file says something else")

    def end(self) -> None:
        self._settle()
        events = self.stage.query(
            "SELECT type, state, error FROM events WHERE state NOT IN ('done', 'ignored')"
        )
        self.problems += [f"an event {row['type']} is {row['state']}: {row['error']}" for row in events]
        self.problems += refused(self.book.since(0))
        self.outcome.lines.append(
            f"{len(self.book.calls):,} calls to Wix in all, none of them refused with 429"
        )

    # How

    def _begin(self, kind: str, params: Mapping[str, Any]) -> str:
        self.place = len(self.book.since(0))
        return self.api.begin(kind, params, self.site)

    def _begin_mailing(self, group: str) -> str:
        return self._begin("group_email", {"group": group, "email": LETTER, "purpose": "promotional"})

    def _phase(
        self,
        name: str,
        job: str,
        until: Sequence[str],
        floor: int,
        kills: int,
        *,
        pause_at: float = math.inf,
    ) -> dict[str, Any]:
        """See a job through to one of these states, with so many kills on the way; fewer where the group is small.
        `floor` 0: what it costs is not judged, and it is so short that the kills come at once."""
        killer = Killer(self.stage, self.chance, kills if self.is_large else kills // 3)
        at = time.monotonic()
        said = self._see(job, until, floor, killer, pause_at)
        self.cut += killer.cut
        calls = self._calls_of(said)
        self.place = len(self.book.calls)
        spent = Spent(name, len(calls), floor, len(killer.done), killer.cut, time.monotonic() - at)
        self.outcome.spent.append(spent)
        self.problems += [problem] if floor and (problem := spent.problem()) else []
        return said

    def _calls_of(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Since the phase before."""
        group = str(said["params"].get("group")) if said["kind"] == "group_email" else ""
        others = {id_ for id_ in self.groups.values() if id_ != group} if group else set()
        for person in self.strangers:
            others |= {person.id, person.email}
        return of_job(self.book.since(self.place), frozenset(others))

    def _see(
        self, job: str, until: Sequence[str], floor: int, killer: Killer, pause_at: float
    ) -> dict[str, Any]:
        seen: object = None
        moved_at = time.monotonic()
        said: dict[str, Any] = {}
        while True:
            share = len(self._calls_of(said)) / floor if said and floor else float(not floor)
            killer.see(share)
            said = self.api.job(job)
            now = (said["state"], said["counts"], share, len(self.stage.mail.accepted))
            if now != seen:
                seen, moved_at = now, time.monotonic()
            if said["state"] in until:
                return said
            if said["state"] in ("failed", "cancelled", "done") or time.monotonic() > moved_at + STUCK_S:
                raise StageError(f"job {job} ({said['kind']}) is {said['state']}: {said.get('error')}")
            if share > pause_at:
                pause_at = math.inf
                self._pause_and_resume(job)
            time.sleep(0.3)

    def _confirm(self, job: str) -> None:
        """A double click: of two at once one is right and the other harmless."""
        self._be_ready()
        token = self.api.job(job)["confirm_token"]
        with ThreadPoolExecutor(2) as pool:
            clicks = [
                pool.submit(self.api.once, "POST", f"/jobs/{job}/confirm", {"confirm_token": token})
                for _ in range(2)
            ]
            answers = sorted(click.result()[0] for click in clicks)
        if answers != [200, 409]:
            self.problems.append(f"of two who confirm at once one hears {answers[0]} and one {answers[1]}")

    def _pause_and_resume(self, job: str) -> None:
        self._act(job, "pause")
        time.sleep(PAUSED_S)  # what is in hand is finished
        before = len(self._letters())
        time.sleep(PAUSED_S)
        if len(self._letters()) != before:
            self.problems.append("a paused job sends letters")
        if (state := self.api.job(job)["state"]) != "paused":
            self.problems.append(f"a paused job is {state}")
        self._act(job, "resume")

    def _act(self, job: str, verb: str) -> None:
        self._be_ready()
        status, said = self.api.once("POST", f"/jobs/{job}/{verb}")
        if status != 200:
            raise StageError(f"{verb} answers {status}: {said}")

    def _be_ready(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.stage.usher.get("/health/ready").status_code == 200
            return False

        self._until(ready, "the web process does not come back")

    def _change_minds(self) -> None:
        acts = {
            "unsubscribe": lambda person: {
                "act": "set_subscription", "email": person.email, "status": "UNSUBSCRIBED"
            },
            "leave": lambda person: {"act": "leave", "group": EVERYBODY, "member": person.id},
            "join": lambda person: {"act": "self_join", "group": EVERYBODY, "member": person.id},
        }  # fmt: skip
        for person in self.everybody:
            if changes := SORTS[person.sort].changes:
                self._silently(acts[changes](person))

    def _silently(self, act: dict[str, Any]) -> None:
        self.stage.act({**act, "webhook": {"silent": True}})

    def _judge_welcomes(self) -> None:
        at: dict[str, float] = {}
        copies: Counter[str] = Counter()
        for letter in self.stage.mail.accepted:
            if WELCOMES_SUBJECT in letter.head:
                at.setdefault(letter.to, letter.at)
                copies[letter.to] += 1
        delays: dict[str, list[float]] = defaultdict(list)
        for person, _, joined_at in self.joiners.joined:
            if copies[person.email] != 1:
                rows = self.stage.query(
                    f"SELECT state FROM messages WHERE member = '{person.id}' AND job IS NULL"
                )
                if copies[person.email] or [row["state"] for row in rows] != ["in_doubt"]:
                    self.problems.append(f"{person.email} has {copies[person.email]} welcome letters")
                continue
            within = next(
                (name for name, began, ended in self.stretches if began <= joined_at <= ended),
                "without a job",
            )
            delays[within].append(at[person.email] - joined_at)
        self.outcome.delays = {name: sorted(found) for name, found in delays.items()}

    def _rows(self, job: str) -> list[dict[str, Any]]:
        return self.stage.query(f"SELECT member, state, reason, message_id FROM messages WHERE job = '{job}'")

    def _letters(self) -> list[Accepted]:
        """Those of jobs, by their subject."""
        return [letter for letter in self.stage.mail.accepted if LETTERS_SUBJECT in letter.head]

    def _rules(self) -> dict[str, list[dict[str, Any]]]:
        return {group["name"]: group["rules"] for group in self._state()["groups"]}

    def _state(self) -> dict[str, Any]:
        return self.stage.ask_sandbox("/sandbox/state")

    def _check_counts(self, name: str, said: Mapping[str, Any], **wanted: int) -> None:
        counts = said["counts"]
        if any(counts[key] != number for key, number in wanted.items()) or counts["total"] != sum(
            counts[key] for key in COUNTED
        ):
            self.problems.append(f"{name}: {counts}, not {wanted}")

    def _settle(self) -> None:
        self._until(lambda: not self._open(), "what is under way does not come to its end")

    def _open(self) -> int:
        queued = self.stage.ask_sandbox("/sandbox/deliveries?state=queued")["deliveries"]
        return _open_rows(self.stage) + len(queued)

    def _until(self, there: Callable[[], object], else_: str, within_s: float = SETTLE_S) -> None:
        deadline = time.monotonic() + within_s
        while not there():
            if time.monotonic() > deadline:
                raise StageError(else_)
            time.sleep(0.3)


def _keep(stage: Stage, verdict: Verdict) -> None:
    stage.keep = True
    for table in ("messages", "jobs", "job_items", "suppressions", "events"):
        rows = stage.query(f"SELECT * FROM {table}")
        (stage.folder / f"{table}.json").write_text(json.dumps(rows, default=str, indent=1))
    (stage.folder / "problems.txt").write_text("\n".join(verdict.problems))


# What is shown


def show(console: Console, outcome: Outcome) -> bool:
    """True when all is well."""
    verdict = outcome.verdict
    table = Table(title=f"{outcome.title} (seed {outcome.seed})", title_justify="left")
    for column in ("who", "people", "in the end", "wrong"):
        table.add_column(column, justify="left" if column in ("who", "in the end") else "right")
    for name, tally in ((name, verdict.tallies[name]) for name in SORTS):
        states = ", ".join(f"{count} {state}" for state, count in sorted(tally.states.items()))
        marked = ("[red]" if tally.wrong else "") + name
        table.add_row(marked, str(tally.people), states, str(tally.wrong or "·"))
    console.print(table)
    costs = Table(title=f"Calls to Wix; its limit is taken for {WIX_LIMIT} a minute", title_justify="left")
    for column in ("job", "calls", "floor", "ratio", "more", "kills", "seconds"):
        costs.add_column(column, justify="left" if column == "job" else "right")
    for spent in outcome.spent:
        more = str(spent.calls - spent.floor)
        numbers = (str(spent.calls), "·", "·", "·", str(spent.kills or "·"))
        if spent.floor:
            numbers = (numbers[0], str(spent.floor), f"{spent.calls / spent.floor:.3f}", more, numbers[-1])
        costs.add_row(spent.job, *numbers, f"{spent.seconds:.0f}")
    console.print(costs)
    for name, delays in outcome.delays.items():
        p50, p99 = (delays[min(len(delays) - 1, int(len(delays) * part))] for part in (0.5, 0.99))
        console.print(
            f"from a join to its letter {name}: p50 {p50:.2f} s, p99 {p99:.2f} s, longest {delays[-1]:.1f} s"
            f" ({len(delays)} people)"
        )
    for life in sorted(outcome.memory, key=lambda life: -life.seconds)[:8]:
        console.print(
            f"memory of process {life.pid}: {life.first_mb:.0f} MB at 10 %, {life.last_mb:.0f} MB at the end"
            f" ({life.growth:+.0%} in {life.seconds:.0f} s)"
        )
    for line in outcome.lines:
        console.print(escape(line))
    for doubt in verdict.in_doubt:
        console.print(f"[yellow]in doubt:[/yellow] {escape(doubt)}")
    for problem in verdict.problems[:40]:
        console.print(f"[red]✗[/red] {escape(problem)}")
    if verdict.problems:
        console.print(
            f"{len(verdict.problems)} things are wrong. The logs and the rows are in {outcome.folder}"
        )
    else:
        console.print(f"[green]✓[/green] all as it must be; {outcome.seconds:.0f} s in all")
    return not verdict.problems


if __name__ == "__main__":
    from chaos.__main__ import main

    sys.exit(main(["--jobs", *sys.argv[1:]]))
