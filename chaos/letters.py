"""`python3 dev.py chaos --letters`: what becomes of letters when mail servers are as they are.

Each address has a fate, written in its local part: taken, greylisted, throttled, refused in one of the ways there are,
bounced afterwards, reported as spam. The real processes write to all of them at once, through a witness that knows the
fates, and what comes back is brought to the real door for it. Then every row, every suppression and all that Wix was
told is held against the fate. The judge asks in plain SQL and shares no code with what it judges.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.demo.stage import free_port
from admin.processes import ROOT
from admin.supervisor import Child, Household
from chaos.smtp import DROP, Accepted, Attempt, MailServer
from chaos.stage import PostgresStore, SqliteStore, Stage, StageError, set_up

LETTERS = 2000
CONNECTIONS, WORKERS = 4, 3
"""A worker has two processes, so there are more of them than connections."""
RUN_S = 40.0
"""The pace is such that nothing but the pace would make the letters take this long."""
REFUSED_SHARE = 0.02
WEATHER_AT, WEATHER_S = 0.3, 1.5
"""When so large a part of the letters is taken, the whole mail server says 421 for so long."""
SETTLE_S = 150.0
PAUSED_WITHIN_S = 30.0
DAY_S = 24 * 3600.0
ALMOST = 0.01
OWNER = "owner@example.com"
OPEN, OFFERS = "Open House", "Offers"
SENDER = "hello@seaside.example.com"
SENDER_REFUSED = "550 5.7.1 this sender is not wanted here"
BAD_WEATHER = "421 4.3.2 system is not accepting network messages"

AUTOMATIONS = f"""
[[automation]]
name = "welcome"
on = ["member_added"]
groups = ["{OPEN}"]
purpose = "onboarding"
email = "welcome"

[[automation]]
name = "offer"
on = ["member_added"]
groups = ["{OFFERS}"]
purpose = "promotional"
email = "yoga-offer"
"""

# The fates


@dataclass(frozen=True, slots=True)
class Fate:
    """What letters to some addresses meet, and what must come of it.

    The mail server refuses at `at` with `says`: the first `times` tries, every one until `until_s` after the first, and
    whatever comes within `burst_s` of the first letter to anybody of this fate. `{}` in `domain` is one of `domains`.
    `suppressed`: subject, scope, cause, and for how many days (0: for good). `wix`: status and deliverability in the
    end, None for those in the beginning.
    """

    share: int
    says: str = ""
    at: str = "RCPT"
    times: float = 0
    until_s: float = 0.0
    burst_s: float = 0.0
    domain: str = "example.org"
    domains: int = 1
    ends: tuple[str, ...] = ("sent",)
    reason: str = ""
    """A pattern that the row's reason must fit."""
    group: str = OPEN
    consent: tuple[str, str] | None = ("SUBSCRIBED", "NOT_SET")
    back: str = ""
    """What comes back, a key of RETURNS."""
    suppressed: tuple[tuple[str, str, str, int], ...] = ()
    wix: tuple[str, str] | None = None
    stamped: tuple[str, ...] = ()
    """Which of STAMPS must hold a time; the others may not."""
    pauses: bool = False
    """Letters to its domain rest, and nobody is to blame but us."""
    least: int = 1
    most: int = 10**6
    """So many letters, whatever its share."""


ALWAYS = float("inf")
_DEAD = (("address", "all", "dead", 180),)
_STOPPED = tuple((subject, "promotional", "unsubscribed", 0) for subject in ("address", "member"))
_NEVER = tuple((subject, "all", "complaint", 0) for subject in ("address", "member"))
STAMPS = ("complained_at", "replied_at")


def _not_asked(share: int, consent: tuple[str, str] | None, reason: str, group: str = OPEN) -> Fate:
    return Fate(share, consent=consent, ends=("skipped",), reason=reason, group=group)


def _dead(share: int, says: str, at: str = "RCPT") -> Fate:
    return Fate(
        share,
        says,
        at,
        ALWAYS,
        ends=("failed",),
        reason=re.escape(says.split(maxsplit=1)[0]),
        suppressed=_DEAD,
        wix=("SUBSCRIBED", "BOUNCED"),
    )


def _refused(share: int, says: str, at: str = ".") -> Fate:
    return Fate(share, says, at, ALWAYS, ends=("failed",), reason=re.escape(says.split(maxsplit=1)[1]))


def _ours(share: int, says: str, domain: str, at: str = "RCPT") -> Fate:
    ends = ("failed", "deferred")
    reason = re.escape(says.split()[1])
    return Fate(share, says, at, ALWAYS, domain=domain, domains=3, ends=ends, reason=reason, pauses=True)


def _full(share: int, says: str) -> Fate:
    return Fate(share, says, times=ALWAYS, ends=("deferred",), reason=r"\b452|\b552")


def _bounced(share: int, back: str, reason: str, **more: Any) -> Fate:
    return Fate(share, back=back, reason=reason, **{"ends": ("bounced",), **more})


FATES: dict[str, Fate] = {
    "taken": Fate(330),
    "offer": Fate(100, group=OFFERS),
    "offer-no-record": _not_asked(15, None, "no record", OFFERS),
    "offer-not-asked": _not_asked(15, ("NOT_SET", "VALID"), "NOT_SET", OFFERS),
    "offer-unsubscribed": _not_asked(20, ("UNSUBSCRIBED", "VALID"), "UNSUBSCRIBED", OFFERS),
    "unsubscribed": _not_asked(15, ("UNSUBSCRIBED", "VALID"), "UNSUBSCRIBED"),
    "bounced-at-wix": _not_asked(10, ("SUBSCRIBED", "BOUNCED"), "BOUNCED"),
    "spam-at-wix": _not_asked(10, ("SUBSCRIBED", "SPAM_COMPLAINT"), "SPAM_COMPLAINT"),
    "greylisted": Fate(90, "451 4.7.1 Greylisting in action, please come back later", times=1, until_s=3.0),
    "busy-421": Fate(20, "421 4.7.0 Try again later, closing connection", burst_s=2.0),
    "busy-454": Fate(
        30, "454 4.7.0 Throttling failure: rate exceeded", "DATA", burst_s=3.0, domain="t454.example.com"
    ),
    "busy-452": Fate(30, "452 4.5.3 Too many recipients", burst_s=3.0, domain="t452.example.com"),
    "not-now": Fate(30, "450 4.2.0 Mailbox is being moved", times=2),
    "full-for-a-while": Fate(20, "452 4.2.2 The mailbox is over its quota", times=2),
    "full": _full(15, "452 4.2.2 The mailbox is over its quota"),
    "full-552": _full(10, "552 5.2.2 Mailbox full"),
    "dead-511": _dead(30, "550 5.1.1 The account that you tried to reach does not exist"),
    "dead-511-at-dot": _dead(10, "550 5.1.1 User unknown", "."),
    "dead-512": _dead(5, "550 5.1.2 Bad destination system"),
    "dead-5110": _dead(5, "550 5.1.10 Recipient not found by SMTP address lookup"),
    "dead-553": _dead(5, "553 sorry, no mailbox here by that name. (#5.1.1)"),
    "dead-words": _dead(5, "550 No such user here"),
    "disabled-521": _dead(10, "550 5.2.1 The account is disabled"),
    "ours-571": _ours(12, "550 5.7.1 Message blocked by our policy", "p571-{}.example.net"),
    "ours-515": _ours(
        12, "550 5.7.515 Access denied, sending domain does not pass", "p515-{}.example.net", "."
    ),
    "too-big-552": _refused(5, "552 5.3.4 Message size exceeds limit"),
    "plain-554": _refused(5, "554 Transaction failed"),
    "content-561": _refused(5, "550 5.6.1 Media type not supported"),
    "dropped": Fate(15, at=DROP, times=1, ends=("sent", "in_doubt")),
    "dsn-dead": _bounced(20, "dead", "dead", suppressed=_DEAD, wix=("SUBSCRIBED", "BOUNCED")),
    "dsn-full": _bounced(15, "full", "full", suppressed=(("address", "all", "full", 3),)),
    "dsn-policy": _bounced(
        10,
        "policy",
        "because of the sender",
        ends=("bounced", "deferred"),
        domain="b571.example.net",
        pauses=True,
        least=4,
    ),
    "dsn-policy-alone": _bounced(1, "policy", "because of the sender", domain="alone.example.net", most=1),
    "dsn-other": _bounced(10, "other", "it bounced"),
    "dsn-delayed": Fate(10, back="delayed"),
    "dsn-delivered": Fate(10, back="delivered"),
    "reported": Fate(
        15,
        back="complaint",
        suppressed=_NEVER,
        wix=("UNSUBSCRIBED", "SPAM_COMPLAINT"),
        stamped=("complained_at",),
    ),
    "mailto": Fate(15, back="unsubscribe", suppressed=_STOPPED, wix=("UNSUBSCRIBED", "NOT_SET")),
    "out-of-office": Fate(10, back="away"),
    "forged": Fate(10, back="forged"),
    "replied": Fate(10, back="reply", stamped=("replied_at",)),
}
"""By the local part of the address, without its number. Shares are of about a thousand."""

MAY_STAND_TOO = {
    "BOUNCED": ("address", "all", "dead"),
    "SPAM_COMPLAINT": ("address", "all", "complaint"),
    "UNSUBSCRIBED": ("address", "promotional", "unsubscribed"),
}
"""What Wix was told comes back as an event, and may be noted once more."""


@dataclass(frozen=True, slots=True)
class Person:
    email: str
    fate: str


def people(letters: int, random: Random) -> list[Person]:
    """So many, in an order of their own; at least one of each fate."""
    whole = sum(fate.share for fate in FATES.values())
    found = []
    for name, fate in FATES.items():
        if name != "taken":
            for number in range(min(fate.most, max(fate.least, round(letters * fate.share / whole)))):
                domain = fate.domain.format(number % fate.domains)
                found.append(Person(f"{name}-{number}@{domain}", name))
    found += [
        Person(f"taken-{number}@example.{('com', 'net', 'org')[number % 3]}", "taken")
        for number in range(max(1, letters - len(found)))
    ]
    random.shuffle(found)
    return found


def community(everybody: Iterable[Person]) -> dict[str, Any]:
    """A body for the sandbox's PUT /sandbox/community: nobody in a group yet."""
    everybody = list(everybody)
    return {
        "site": {"name": "Seaside", "url": "https://seaside.example.com", "language": "en"},
        "groups": [{"name": name, "privacy": "PUBLIC", "owner": OWNER} for name in (OPEN, OFFERS)],
        "members": [
            {"first": "Olga", "email": OWNER, "privacyStatus": "PUBLIC"},
            *({"first": "P", "email": person.email, "privacyStatus": "PUBLIC"} for person in everybody),
        ],
        "subscriptions": {
            person.email: {"status": consent[0], "deliverability": consent[1]}
            for person in everybody
            if (consent := FATES[person.fate].consent)
        },
        "memberships": [{"group": name, "members": [OWNER], "role": "ADMIN"} for name in (OPEN, OFFERS)],
    }


def script() -> Callable[[str, Sequence[float]], tuple[str, str] | None]:
    """What the witness says, by the fates."""
    began: dict[str, float] = {}

    def answer(to: str, tries: Sequence[float]) -> tuple[str, str] | None:
        name = to.rpartition("@")[0].rpartition("-")[0]
        fate = FATES.get(name)
        if fate is None:
            return None
        now = tries[-1]
        refuses = (
            len(tries) <= fate.times
            or now - tries[0] < fate.until_s
            or now - began.setdefault(name, now) < fate.burst_s
        )
        return (fate.at, fate.says) if refuses else None

    return answer


# What comes back


@dataclass(frozen=True, slots=True)
class Mail:
    """`taken`: the door has to take it; it refuses every other one."""

    sender: str
    to: str
    raw: str = field(repr=False)
    taken: bool = True


def _report(letter: Accepted, action: str, status: str, said: str, to: str = "") -> Mail:
    """RFC 3464, as Postfix writes it."""
    raw = f"""\
From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: {to or letter.sender}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="report"

--report
Content-Type: text/plain; charset=utf-8

This is the mail system. Your message to <{letter.to}>: {said}

--report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; {letter.to}
Original-Recipient: rfc822;{letter.to}
Action: {action}
Status: {status}
Diagnostic-Code: smtp; {said}

--report
Content-Type: text/rfc822-headers

{_head(letter)}

--report--
"""
    return Mail("", to or letter.sender, raw)


def _complaint(letter: Accepted) -> Mail:
    """RFC 5965; who complained is left out, as most providers do."""
    head = _head(letter).replace(letter.to, "redacted@example.org")
    raw = f"""\
From: feedback@fbl.example.net
To: abuse@seaside.example.com
Subject: FW: a letter
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="report"

--report
Content-Type: text/plain

A reader called this letter spam.

--report
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: SomeGenerator/1.0
Version: 1

--report
Content-Type: message/rfc822

{head}

Hello
--report--
"""
    return Mail("bounces@fbl.example.net", "abuse@seaside.example.com", raw)


def _unsubscribe(letter: Accepted) -> Mail:
    found = re.search(r"<mailto:([^?>]+)", _head(letter))
    to = found[1] if found else ""
    return Mail(letter.to, to, f"From: {letter.to}\nTo: {to}\nSubject: unsubscribe\n\nNo more, please.\n")


def _away(letter: Accepted) -> Mail:
    """RFC 3834: to the sender of the envelope, from nobody."""
    head = f"From: {letter.to}\nTo: {letter.sender}\nSubject: Away\nAuto-Submitted: auto-replied (vacation)\n"
    return Mail("", letter.sender, head + f"In-Reply-To: {letter.message_id}\n\nI am away. 550 5.1.1\n")


def _reply(letter: Accepted) -> Mail:
    head = f"From: {letter.to}\nTo: {SENDER}\nSubject: Re: Welcome\nIn-Reply-To: {letter.message_id}\n"
    return Mail(letter.to, SENDER, head + "\nThank you.\n")


def _forgeries(letter: Accepted) -> list[Mail]:
    """By somebody who knows the letter's reader, its Message-ID and how our addresses look, and has no key."""
    other = "q" if letter.sender.partition("@")[0][-5] != "q" else "r"
    local, _, domain = letter.sender.partition("@")
    flipped = f"{local[:-5]}{other}{local[-4:]}@{domain}"
    unsubscribe = _unsubscribe(letter).to
    dead = partial(_report, letter, "failed", "5.1.1", "550 5.1.1 User unknown")
    plain = dead(SENDER)
    return [
        Mail("", flipped, dead(flipped).raw, taken=False),
        Mail("", SENDER, plain.raw.replace(letter.sender, flipped).replace(unsubscribe, flipped)),
        dead(unsubscribe),  # signed for another purpose
    ]


def _head(letter: Accepted) -> str:
    return letter.head.decode("utf-8", "replace").replace("\r\n", "\n")


RETURNS: dict[str, Callable[[Accepted], list[Mail]]] = {
    # Twice, as mail does come: the second one is no news.
    "dead": lambda letter: [_report(letter, "failed", "5.1.1", "550 5.1.1 User unknown")] * 2,
    "full": lambda letter: [_report(letter, "failed", "5.2.2", "552 5.2.2 Mailbox full")],
    "policy": lambda letter: [_report(letter, "failed", "5.7.1", "550 5.7.1 Blocked by our policy")],
    "other": lambda letter: [_report(letter, "failed", "5.0.0", "554 the letter could not be handled")],
    "delayed": lambda letter: [_report(letter, "delayed", "4.4.1", "connection timed out")],
    "delivered": lambda letter: [_report(letter, "delivered", "2.0.0", "250 2.0.0 delivered")],
    "complaint": lambda letter: [_complaint(letter)],
    "unsubscribe": lambda letter: [_unsubscribe(letter)],
    "away": lambda letter: [_away(letter)],
    "reply": lambda letter: [_reply(letter)],
    "forged": _forgeries,
}


class Postman:
    """Brings what comes back of letters that the witness took, some at once and some later, in a thread of its own."""

    MOST_LATE_S = 3.0
    A_CONNECTION = 50
    """The door hears so many commands of a kind in one connection, and more."""

    def __init__(self, witness: MailServer, port: int, random: Random) -> None:
        self._witness = witness
        self._port = port
        self._random = random
        self._seen = 0
        self._waiting: list[tuple[float, Mail]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postman", daemon=True)
        self.brought = 0
        self.problems: list[str] = []

    def __enter__(self) -> Postman:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_done(self) -> bool:
        return not self._waiting and self._seen == len(self._witness.accepted)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            letters = self._witness.accepted
            for letter in letters[self._seen :]:
                fate = FATES.get(letter.to.rpartition("@")[0].rpartition("-")[0])
                for mail in RETURNS[fate.back](letter) if fate and fate.back else ():
                    late_s = self._random.choice((0.0, self._random.uniform(0, self.MOST_LATE_S)))
                    self._waiting.append((time.monotonic() + late_s, mail))
            self._seen = len(letters)
            now = time.monotonic()
            due = [waiting for waiting in self._waiting if waiting[0] <= now][: self.A_CONNECTION]
            if due:
                self._bring(due)

    def _bring(self, due: list[tuple[float, Mail]]) -> None:
        """What the door cannot take now is brought again, as mail servers do."""
        try:
            with smtplib.SMTP("127.0.0.1", self._port, "mx.example.net", timeout=20) as door:
                for waiting in due:
                    mail = waiting[1]
                    code = 250
                    try:
                        door.sendmail(mail.sender, [mail.to], mail.raw.replace("\n", "\r\n").encode())
                    except smtplib.SMTPRecipientsRefused as exc:
                        code = exc.recipients[mail.to][0]
                    except smtplib.SMTPResponseException as exc:
                        code = int(exc.smtp_code)
                    if code // 100 != 4:
                        self._waiting.remove(waiting)
                        self.brought += 1
                        if (code == 250) != mail.taken:
                            self.problems.append(f"the door says {code} to a mail for {mail.to}")
        except (OSError, smtplib.SMTPServerDisconnected):
            self._stop.wait(0.5)


# The judge


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows as plain mappings, read in one moment: `now`. `secret` is SECRET_KEY, without which nobody could tell whose
    a suppression is. `emails`: member id → address; `wix`: address → status and deliverability."""

    now: datetime
    messages: Sequence[Mapping[str, Any]]
    suppressions: Sequence[Mapping[str, Any]]
    senders: Sequence[Mapping[str, Any]]
    unfinished: Sequence[str]
    """Events and calls to Wix that have no end, or a bad one."""
    accepted: Sequence[Accepted]
    attempts: Sequence[Attempt]
    undecidable: Mapping[str, set[str]]
    most_connections: int
    refused_at_mail: int
    """How often our sender was refused before it rested."""
    emails: Mapping[str, str]
    wix: Mapping[str, tuple[str, str]]
    secret: str
    per_second: int
    connections: int


@dataclass
class Tally:
    letters: int = 0
    wrong: int = 0
    tries: int = 0
    states: Counter[str] = field(default_factory=Counter)


@dataclass
class Verdict:
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    problems: list[str] = field(default_factory=list)


def judge(evidence: Evidence, everybody: Sequence[Person]) -> Verdict:
    verdict = Verdict()
    verdict.problems += [*_wrong_pace(evidence), *_wrong_pauses(evidence, everybody), *evidence.unfinished]
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in evidence.messages:
        rows[evidence.emails.get(row["member"], row["member"])].append(row)
    copies: dict[str, list[Accepted]] = defaultdict(list)
    for letter in evidence.accepted:
        copies[letter.to].append(letter)
    tries: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in evidence.attempts:
        tries[attempt.to].append(attempt)
    members = {email: member for member, email in evidence.emails.items()}
    stops: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in evidence.suppressions:
        stops[row["subject"]].append(row)
    for person in everybody:
        email, tally = person.email, verdict.tallies[person.fate]
        tally.letters += 1
        tally.tries += len(tries[email])
        tally.states.update(row["state"] for row in rows[email])
        theirs = {
            "member": stops.pop(f"member:{members.get(email, email)}", []),
            "address": stops.pop(f"address:{_hash(evidence.secret, email)}", []),
        }
        wrong = [
            *_wrong_letter(person, rows.pop(email, []), copies.pop(email, []), tries[email], evidence),
            *_wrong_stops(FATES[person.fate], theirs, evidence.now),
            *_wrong_at_wix(FATES[person.fate], evidence.wix.get(email)),
        ]
        tally.wrong += bool(wrong)
        verdict.problems += [f"{email}: {what}" for what in wrong]
    verdict.problems += [f"a row of nobody's: {email}" for email, found in rows.items() if found]
    verdict.problems += [f"a letter to {email}, whom nobody was to write to" for email in copies]
    verdict.problems += [f"nobody's suppression: {subject}" for subject in stops]
    return verdict


def _wrong_letter(
    person: Person,
    rows: Sequence[Mapping[str, Any]],
    copies: Sequence[Accepted],
    tries: Sequence[Attempt],
    evidence: Evidence,
) -> Iterator[str]:
    fate = FATES[person.fate]
    if len(rows) != 1:
        yield f"{len(rows)} rows in the ledger"
        return
    [row] = rows
    state, reason = row["state"], row["reason"] or ""
    if state not in fate.ends:
        yield f"is {state} ({reason}), not {' or '.join(fate.ends)}"
    if state == "sent" and reason:
        yield f"is sent, with a reason: {reason}"
    if state != "sent" and not re.search(fate.reason or ".", reason):
        yield f"is {state} for a reason that does not fit: {reason or 'none'}"
    if state == "in_doubt" and row["message_id"] not in evidence.undecidable:
        yield "is in doubt, and the mail server does not know why"
    if state == "deferred" and not (
        row["next_at"] and _time(row["next_at"]) > evidence.now - timedelta(seconds=5)
    ):
        yield "is deferred with no time to come"
    has_it = state in ("sent", "bounced")
    if len(copies) > 1 or (len(copies) == 1) != has_it:
        yield f"is {state}, and the mail server has it {len(copies)} times"
    if has_it and copies and copies[0].message_id != row["message_id"]:
        yield "has another Message-ID at the mail server"
    if state == "skipped" and tries:
        yield "is skipped, and the mail server was asked"
    # One worker has said the envelope when another hears what pauses its domain: the mark, without which there is no
    # body, finds the pause. Only a mark gives a row its Message-ID, and nothing takes it away.
    is_envelope_alone = state == "deferred" and fate.at == "." and not row["message_id"] and len(tries) == 1
    if fate.pauses and not fate.back and not is_envelope_alone and (state == "failed") != (len(tries) == 1):
        yield f"is {state} after {len(tries)} tries"
    if bool(row["bounced_at"]) != (state == "bounced"):
        yield f"is {state}, and bounced_at is {row['bounced_at']}"
    for stamp in STAMPS:
        if bool(row[stamp]) != (stamp in fate.stamped):
            yield f"{stamp} is {row[stamp]}"


def _wrong_stops(
    fate: Fate, found: Mapping[str, Sequence[Mapping[str, Any]]], now: datetime
) -> Iterator[str]:
    wanted = {(subject, scope, cause): days for subject, scope, cause, days in fate.suppressed}
    echoes = {MAY_STAND_TOO[word] for word in fate.wix or () if word in MAY_STAND_TOO}
    there = {
        (subject, row["scope"], row["cause"]): row["expires_at"]
        for subject, rows in found.items()
        for row in rows
    }
    for key, days in wanted.items():
        if key not in there:
            yield f"not suppressed: {', '.join(key)}"
        elif bool(there[key]) != bool(days) or (
            days and abs((_time(there[key]) - now).total_seconds() / DAY_S - days) > ALMOST
        ):
            yield f"suppressed ({', '.join(key)}) until {there[key] or 'for ever'}, not for {days or 'ever'} days"
    for key in there.keys() - wanted.keys() - echoes:
        yield f"suppressed: {', '.join(key)}"


def _wrong_at_wix(fate: Fate, found: tuple[str, str] | None) -> Iterator[str]:
    wanted = fate.wix or fate.consent
    if found != wanted:
        yield f"Wix has {found}, not {wanted}"


def _wrong_pauses(evidence: Evidence, everybody: Iterable[Person]) -> Iterator[str]:
    """Exactly the domains that blame us rest. Each had one letter for each connection at most, and so had the sender
    that was refused as such."""
    if not 1 <= evidence.refused_at_mail <= evidence.connections:
        yield f"the sender was refused {evidence.refused_at_mail} times before it rested"
    resting = {
        f"#{_hash(evidence.secret, f'domain@{domain}')[:16]}": domain
        for person in everybody
        if FATES[person.fate].pauses
        for domain in [person.email.rpartition("@")[2]]
    }
    paused = {
        row["domain"]: row
        for row in evidence.senders
        if row["paused_until"] and _time(row["paused_until"]) > evidence.now
    }
    for name in sorted(resting.keys() - paused.keys()):
        yield f"letters to {resting[name]} go on"
    for name in sorted(paused.keys() - resting.keys()):
        yield f"letters to {name or 'everybody'} rest: {paused[name]['reason']}"
    refused = Counter(
        attempt.to.rpartition("@")[2]
        for attempt in evidence.attempts
        if attempt.refused.startswith("550 5.7.")
    )
    for domain in sorted(set(resting.values())):
        if refused[domain] > evidence.connections:
            yield f"{domain} had to refuse {refused[domain]} letters before they rested"


def _wrong_pace(evidence: Evidence) -> Iterator[str]:
    """A letter counts when it is about to be handed over, and each connection may have one on its way from there to
    here: so many more than the limit may arrive in any stretch of time, and not one more."""
    times = sorted(attempt.at for attempt in evidence.attempts)
    for seconds in (1, 5):
        most = evidence.per_second * seconds + evidence.connections
        if (found := busiest(times, seconds)) > most:
            yield f"{found} letters in {seconds} s; {most} are allowed"
    if evidence.most_connections > evidence.connections:
        yield f"{evidence.most_connections} connections at a time; {evidence.connections} are allowed"


def busiest(times: Sequence[float], seconds: float) -> int:
    """The most of these times, in order, that lie in any stretch so long."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def _hash(secret: str, address: str) -> str:
    """The name under which the store knows an address: written down here once more, so that a change is noticed."""
    key = hmac.digest(secret.encode(), b"usher.address-hash", "sha256")
    return hmac.new(key, address.encode(), hashlib.sha256).hexdigest()[:32]


def _time(value: object) -> datetime:
    """SQLite keeps times as text without a zone, in UTC."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(time, datetime):
        raise TypeError(f"not a time: {value!r}")
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


# The run


@dataclass(frozen=True)
class Outcome:
    title: str
    seed: int
    verdict: Verdict
    folder: Path
    seconds: float
    sending_s: float
    letters: int
    tries: int
    busiest: int
    per_second: int
    most_connections: int
    brought: int


def run(kind: type[SqliteStore] | type[PostgresStore], seed: int, letters: int) -> Outcome:
    """All of it once: a sender that is refused and goes on by hand, the fates, and bad weather in their middle."""
    began = time.monotonic()
    chance = Random(seed)
    everybody = people(letters, chance)
    per_second = max(5, round(letters / RUN_S))
    with MailServer(seed=seed, script=script()) as witness:
        limits = f"per_second={per_second}&connections={CONNECTIONS}&timeout_s=10&reply_timeout_s=10"
        with (
            set_up(
                kind,
                seed=seed,
                extra={"EMAIL_URL": f"smtp://127.0.0.1:{witness.port}?{limits}"},
                workers=WORKERS,
                community=community(everybody),
                automations=AUTOMATIONS,
            ) as stage,
            _door(stage) as port,
            Postman(witness, port, chance) as postman,
        ):
            emails = _emails(stage)
            _refuse_the_sender(stage, witness, everybody)
            _go_on_by_hand(stage, witness)
            refused_at_mail = witness.mails_refused
            sending_from = time.monotonic()
            _bring_bad_weather(witness, letters)
            _come_to_rest(stage, postman, everybody, emails)
            sending_s = time.monotonic() - sending_from
            evidence = _gather(stage, witness, emails, per_second, refused_at_mail)
            verdict = judge(evidence, everybody)
            verdict.problems += postman.problems
            if verdict.problems:
                _keep(stage, verdict)
            times = sorted(attempt.at for attempt in evidence.attempts)
            return Outcome(
                f"{letters:,} letters, {kind.kind}",
                seed,
                verdict,
                stage.folder,
                time.monotonic() - began,
                sending_s,
                len(evidence.accepted),
                len(times),
                busiest(times, 1),
                per_second,
                witness.most_connections,
                postman.brought,
            )


@contextlib.contextmanager
def _door(stage: Stage) -> Iterator[int]:
    """`usher mail listen`, as a process; where it listens."""
    port = free_port()
    arguments = ("admin", "mail", "listen", "--port", str(port))
    with Household([Child("mail", arguments, stage.env, stage.folder / "mail.log", stage.folder)]):
        deadline = time.monotonic() + PAUSED_WITHIN_S
        while True:
            try:
                with smtplib.SMTP("127.0.0.1", port, timeout=5):
                    break
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise StageError("nobody listens for what comes back; see mail.log") from exc
                time.sleep(0.2)
        yield port


def _refuse_the_sender(stage: Stage, witness: MailServer, everybody: Sequence[Person]) -> None:
    """The first to join find a mail server that does not want us at all; the others join while the sender rests."""
    witness.refuse_mail = SENDER_REFUSED
    first = max(1, round(len(everybody) * REFUSED_SHARE))
    _join(stage, everybody[:first])
    deadline = time.monotonic() + PAUSED_WITHIN_S
    while not stage.query("SELECT 1 FROM senders WHERE domain = '' AND paused_until IS NOT NULL"):
        if time.monotonic() > deadline:
            raise StageError("the sender was refused and does not rest")
        time.sleep(0.1)
    _join(stage, everybody[first:])


def _join(stage: Stage, joining: Sequence[Person]) -> None:
    def join(person: Person) -> None:
        stage.act({"act": "add_member", "group": FATES[person.fate].group, "member": person.email})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(join, joining))


def _go_on_by_hand(stage: Stage, witness: MailServer) -> None:
    """When all letters are written down: they go at once, and nothing but the pace holds them up."""
    deadline = time.monotonic() + SETTLE_S
    while stage.query("SELECT 1 FROM events WHERE state = 'received' LIMIT 1"):
        if time.monotonic() > deadline:
            raise StageError("the events do not come to their end")
        time.sleep(0.2)
    witness.refuse_mail = ""
    command = [sys.executable, "-m", "admin", "senders", "resume", "--yes"]
    env = {**stage.env, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=stage.folder, env=env, check=True, capture_output=True, timeout=60)


def _bring_bad_weather(witness: MailServer, letters: int) -> None:
    deadline = time.monotonic() + SETTLE_S
    while len(witness.accepted) < letters * WEATHER_AT and time.monotonic() < deadline:
        time.sleep(0.1)
    witness.refuse_mail = BAD_WEATHER
    time.sleep(WEATHER_S)
    witness.refuse_mail = ""


def _come_to_rest(
    stage: Stage, postman: Postman, everybody: Sequence[Person], emails: Mapping[str, str]
) -> None:
    """Wait until only those wait who have to, or for so long that the others are wrong."""
    waiting = {person.email for person in everybody if "deferred" in FATES[person.fate].ends}
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        done = postman.is_done  # asked before the rows that follow from it
        rows = stage.query(
            "SELECT member, state FROM messages WHERE state IN ('planned', 'sending', 'deferred')"
        )
        if (
            done
            and all(row["state"] == "deferred" and emails.get(row["member"]) in waiting for row in rows)
            and not stage.query(
                "SELECT 1 FROM events WHERE state = 'received' UNION SELECT 1 FROM outbox WHERE state = 'planned'"
            )
            and not stage.ask_sandbox("/sandbox/deliveries?state=queued")["deliveries"]
        ):
            return
        time.sleep(0.5)


def _emails(stage: Stage) -> dict[str, str]:
    members = stage.ask_sandbox("/sandbox/state")["members"]
    return {member["id"]: member["loginEmail"] for member in members}


def _gather(
    stage: Stage, witness: MailServer, emails: Mapping[str, str], per_second: int, refused_at_mail: int
) -> Evidence:
    found = stage.query(
        "SELECT member, automation, state, reason, message_id, next_at, attempts, sent_at, bounced_at,"
        " complained_at, replied_at FROM messages"
    )
    events = stage.query("SELECT id, type, state, error FROM events WHERE state NOT IN ('done', 'ignored')")
    calls = stage.query("SELECT kind, member, state, error FROM outbox WHERE state <> 'done'")
    state = stage.ask_sandbox("/sandbox/state")
    return Evidence(
        now=datetime.now(UTC),
        messages=found,
        suppressions=stage.query("SELECT subject, scope, cause, expires_at, letter FROM suppressions"),
        senders=stage.query("SELECT domain, paused_until, reason FROM senders"),
        unfinished=[
            *(f"event {row['id']} ({row['type']}) is {row['state']}: {row['error']}" for row in events),
            *(
                f"the call {row['kind']} about {row['member']} is {row['state']}: {row['error']}"
                for row in calls
            ),
        ],
        accepted=witness.accepted,
        attempts=witness.attempts,
        undecidable=witness.undecidable,
        most_connections=witness.most_connections,
        refused_at_mail=refused_at_mail,
        emails=emails,
        wix={
            said["email"]: (said["subscriptionStatus"], said["deliverabilityStatus"])
            for said in state["subscriptions"]
        },
        secret=stage.env["SECRET_KEY"],
        per_second=per_second,
        connections=CONNECTIONS,
    )


def _keep(stage: Stage, verdict: Verdict) -> None:
    stage.keep = True
    for table in ("messages", "suppressions", "senders", "outbox"):
        rows = stage.query(f"SELECT * FROM {table}")
        (stage.folder / f"{table}.json").write_text(json.dumps(rows, default=str, indent=1))
    (stage.folder / "problems.txt").write_text("\n".join(verdict.problems))


def show(console: Console, outcome: Outcome) -> bool:
    """True when all is well."""
    table = Table(title=f"{outcome.title} (seed {outcome.seed})", title_justify="left")
    for column in ("fate", "letters", "tries", "in the end", "right", "wrong"):
        table.add_column(column, justify="left" if column in ("fate", "in the end") else "right")
    for name, tally in ((name, outcome.verdict.tallies[name]) for name in FATES):
        states = ", ".join(f"{count} {state}" for state, count in sorted(tally.states.items()))
        numbers = [str(number or "·") for number in (tally.letters - tally.wrong, tally.wrong)]
        table.add_row(
            ("[red]" if tally.wrong else "") + name, str(tally.letters), str(tally.tries), states, *numbers
        )
    console.print(table)
    console.print(
        f"{outcome.letters} letters taken in {outcome.tries} tries, {outcome.brought} mails came back;"
        f" {outcome.sending_s:.0f} s of sending ({outcome.letters / outcome.sending_s:.0f} letters/s), at most"
        f" {outcome.busiest} tries in a second (limit {outcome.per_second}, and {CONNECTIONS} on their way) over"
        f" {outcome.most_connections} connections (limit {CONNECTIONS}); {outcome.seconds:.0f} s in all"
    )
    problems = outcome.verdict.problems
    for problem in problems[:40]:
        console.print(f"[red]✗[/red] {escape(problem)}")
    if problems:
        console.print(f"{len(problems)} things are wrong. The logs and the rows are in {outcome.folder}")
    return not problems


if __name__ == "__main__":
    from chaos.__main__ import main

    sys.exit(main(["--letters", *sys.argv[1:]]))
