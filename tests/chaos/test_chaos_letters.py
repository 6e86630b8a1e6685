"""The run of letters: its judge finds each way in which one can have gone wrong, and its mail servers do what their
fates say. The run itself takes minutes, and is `python3 dev.py chaos --letters`."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_string
from random import Random
from typing import Any

import pytest

from chaos.letters import (
    FATES,
    RETURNS,
    Evidence,
    Person,
    Verdict,
    busiest,
    community,
    judge,
    people,
    script,
)
from chaos.smtp import DROP, Accepted, Attempt, MailServer
from core.errors import MailDeferredError, MailRefusedError
from integrations.email.inbound import Ignored, Replied, Returned, read_mail
from integrations.email.return_path import ReturnPaths
from integrations.email.transport import SmtpMail
from integrations.email.unsubscribe import AddressHashes
from integrations.email.url import parse_email_url
from tests.house import cleared

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECRET = "a secret key"
HASHES = AddressHashes(SECRET)
STATES = {
    "taken-0@example.com": "sent",
    "unsubscribed-0@example.org": "skipped",
    "full-0@example.org": "deferred",
    "dead-511-0@example.org": "failed",
    "ours-571-0@p571-0.example.net": "failed",
    "ours-571-3@p571-0.example.net": "deferred",
    "dropped-0@example.org": "in_doubt",
    "dsn-full-0@example.org": "bounced",
    "reported-0@example.org": "sent",
    "replied-0@example.org": "sent",
}
TAKEN, UNSUBSCRIBED, FULL, DEAD, OURS, HELD, DROPPED, DSN_FULL, REPORTED, REPLIED = STATES
REASONS = {
    UNSUBSCRIBED: "unsubscribed (Wix: UNSUBSCRIBED)",
    FULL: "the mail server answered 452 to RCPT: 4.2.2",
    DEAD: "the mail server answered 550 to RCPT: 5.1.1",
    OURS: "the mail server answered 550 to RCPT: 5.7.1 Message",
    HELD: "letters to this domain are paused: 550 to RCPT: 5.7.1",
    DROPPED: "no answer after the final dot",
    DSN_FULL: "the mailbox is full (552 5.2.2)",
}
OUR_DOMAIN = HASHES.domain_of("anybody@p571-0.example.net")


def fate_of(email: str) -> str:
    return email.partition("@")[0].rpartition("-")[0]


def a_row(email: str, **changes: Any) -> Mapping[str, Any]:
    return {
        "member": f"m-{email}",
        "state": STATES[email],
        "reason": REASONS.get(email),
        "message_id": f"<{email}>",
        "next_at": NOW + timedelta(minutes=1),
        "bounced_at": NOW if email == DSN_FULL else None,
        "complained_at": NOW if email == REPORTED else None,
        "replied_at": NOW if email == REPLIED else None,
    } | changes


def a_stop(email: str, scope: str = "all", cause: str = "dead", days: float | None = 180) -> dict[str, Any]:
    expires_at = None if days is None else NOW + timedelta(days=days)
    return {
        "subject": f"address:{HASHES.of(email)[0]}",
        "scope": scope,
        "cause": cause,
        "expires_at": expires_at,
    }


COMPLAINT = a_stop(REPORTED, cause="complaint", days=None)
STOPS = [
    a_stop(DEAD),
    a_stop(DSN_FULL, cause="full", days=3),
    COMPLAINT,
    COMPLAINT | {"subject": f"member:m-{REPORTED}"},
    a_stop(REPORTED, "promotional", "unsubscribed", 2),  # what Wix was told, told by Wix
]
ROWS = {email: a_row(email) for email in STATES}
COPIES = [
    Accepted(f"<{email}>", email, 100.0, True, 1000)
    for email, state in STATES.items()
    if state in ("sent", "bounced")
]
TRIES = [
    Attempt(email, 100.0 + number, FATES[fate_of(email)].says)
    for number, email in enumerate(STATES)
    if email not in (UNSUBSCRIBED, HELD)
]
PAUSE = {"domain": OUR_DOMAIN, "paused_until": NOW + timedelta(minutes=5), "reason": "5.7.1"}
AT_WIX = {
    **dict.fromkeys(STATES, ("SUBSCRIBED", "NOT_SET")),
    UNSUBSCRIBED: ("UNSUBSCRIBED", "VALID"),
    DEAD: ("SUBSCRIBED", "BOUNCED"),
    REPORTED: ("UNSUBSCRIBED", "SPAM_COMPLAINT"),
}
FINE = Evidence(
    now=NOW,
    messages=list(ROWS.values()),
    suppressions=STOPS,
    senders=[{"domain": "", "paused_until": None, "reason": None}, PAUSE],
    unfinished=[],
    accepted=COPIES,
    attempts=TRIES,
    undecidable={f"<{DROPPED}>": {DROP}},
    most_connections=4,
    refused_at_mail=2,
    emails={f"m-{email}": email for email in STATES},
    wix=AT_WIX,
    secret=SECRET,
    per_second=5,
    connections=4,
)


def verdict_on(**changes: Any) -> Verdict:
    return judge(replace(FINE, **changes), [Person(email, fate_of(email)) for email in STATES])


def with_row(email: str, **changes: Any) -> dict[str, Any]:
    return {"messages": [*(ROWS | {email: a_row(email, **changes)}).values()]}


def with_stops(*more: dict[str, Any], but: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"suppressions": [*(stop for stop in STOPS if stop not in but), *more]}


def test_a_run_in_which_every_letter_met_its_fate_is_fine():
    verdict = verdict_on()

    assert verdict.problems == []
    assert {name: tally.wrong for name, tally in verdict.tallies.items()} == dict.fromkeys(
        map(fate_of, STATES), 0
    )
    ours = verdict.tallies["ours-571"]
    assert (ours.letters, ours.tries, ours.states) == (2, 1, {"failed": 1, "deferred": 1})


@pytest.mark.parametrize(("message_id", "is_wrong"), [(None, False), ("<marked>", True)])
def test_an_envelope_may_be_taken_back_but_only_before_its_letter_is_marked(message_id, is_wrong):
    email = "ours-515-1@p515-0.example.net"
    row = a_row(HELD, member=f"m-{email}", reason="paused: 5.7.515", message_id=message_id)
    verdict = judge(
        replace(
            FINE,
            messages=[*FINE.messages, row],
            attempts=[*TRIES, Attempt(email, 120.0, FATES["ours-515"].says)],
            emails=FINE.emails | {f"m-{email}": email},
        ),
        [*(Person(each, fate_of(each)) for each in STATES), Person(email, "ours-515")],
    )

    assert (f"{email}: is deferred after 1 tries" in verdict.problems) == is_wrong


def test_times_of_sqlite_are_read_too():
    assert verdict_on(now=NOW, **with_row(FULL, next_at="2026-05-01 12:01:00.000000")).problems == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"messages": [*FINE.messages, a_row(TAKEN)]}, f"{TAKEN}: 2 rows in the ledger"),
        ({"messages": FINE.messages[1:]}, f"{TAKEN}: 0 rows in the ledger"),
        ({"messages": [*FINE.messages, a_row(TAKEN, member="m-x")]}, "a row of nobody's: m-x"),
        (with_row(TAKEN, state="planned"), f"{TAKEN}: is planned .*, not sent"),
        (with_row(TAKEN, state="sending"), f"{TAKEN}: is sending .*, not sent"),
        (with_row(TAKEN, state="in_doubt"), f"{TAKEN}: is in_doubt .*, not sent"),
        (with_row(TAKEN, reason="x"), f"{TAKEN}: is sent, with a reason"),
        (with_row(TAKEN, message_id="<x>"), f"{TAKEN}: has another Message-ID"),
        (with_row(TAKEN, replied_at=NOW), f"{TAKEN}: replied_at is"),
        (with_row(TAKEN, bounced_at=NOW), f"{TAKEN}: is sent, and bounced_at is"),
        (with_row(DEAD, state="deferred"), f"{DEAD}: is deferred .*, not failed"),
        (with_row(DEAD, reason=None), f"{DEAD}: .* a reason that does not fit: none"),
        (with_row(DEAD, reason="it rained"), f"{DEAD}: .* a reason that does not fit: it rained"),
        (with_row(UNSUBSCRIBED, reason="no record"), f"{UNSUBSCRIBED}: .* does not fit"),
        (with_row(UNSUBSCRIBED, state="sent"), f"{UNSUBSCRIBED}: is sent .* not skipped"),
        (with_row(FULL, next_at=NOW - timedelta(minutes=1)), f"{FULL}: .* with no time to come"),
        (with_row(FULL, next_at=None), f"{FULL}: .* with no time to come"),
        (with_row(FULL, state="failed"), f"{FULL}: is failed .*, not deferred"),
        (with_row(DSN_FULL, state="sent", bounced_at=None), f"{DSN_FULL}: is sent .*, not bounced"),
        (with_row(DSN_FULL, bounced_at=None), f"{DSN_FULL}: is bounced, and bounced_at is None"),
        (with_row(REPORTED, complained_at=None), f"{REPORTED}: complained_at is None"),
        (with_row(REPLIED, replied_at=None), f"{REPLIED}: replied_at is None"),
        (with_row(HELD, state="failed"), f"{HELD}: is failed after 0 tries"),
        ({"undecidable": {}}, f"{DROPPED}: is in doubt, and the mail server does not know why"),
        ({"accepted": COPIES[1:]}, f"{TAKEN}: is sent, and the mail server has it 0 times"),
        ({"accepted": [*COPIES, COPIES[0]]}, f"{TAKEN}: is sent, and the mail server has it 2 times"),
        ({"accepted": [*COPIES, replace(COPIES[0], to=DEAD)]}, f"{DEAD}: is failed, .* has it 1 times"),
        ({"accepted": [*COPIES, replace(COPIES[0], to=DROPPED)]}, f"{DROPPED}: is in_doubt, .* 1 times"),
        ({"accepted": [*COPIES, replace(COPIES[0], to="x@example.org")]}, "a letter to x@example.org, whom"),
        ({"attempts": [*TRIES, Attempt(UNSUBSCRIBED, 120.0, "")]}, f"{UNSUBSCRIBED}: .* was asked"),
        ({"attempts": [*TRIES, Attempt(HELD, 120.0, "")]}, f"{HELD}: is deferred after 1 tries"),
        (with_stops(but=[STOPS[0]]), f"{DEAD}: not suppressed: address, all, dead"),
        (with_stops(a_stop(DEAD, days=3), but=[STOPS[0]]), f"{DEAD}: suppressed .*, not for 180 days"),
        (with_stops(a_stop(DEAD, days=None), but=[STOPS[0]]), f"{DEAD}: .* for ever, not for 180 days"),
        (with_stops(a_stop(DEAD, cause="full"), but=[STOPS[0]]), f"{DEAD}: not suppressed"),
        (with_stops(but=[STOPS[3]]), f"{REPORTED}: not suppressed: member, all, complaint"),
        (
            with_stops(COMPLAINT | {"expires_at": NOW}, but=[COMPLAINT]),
            f"{REPORTED}: .*, not for ever days",
        ),
        (with_stops(a_stop(TAKEN)), f"{TAKEN}: suppressed: address, all, dead"),
        (with_stops(a_stop(OURS)), f"{OURS}: suppressed: address, all, dead"),
        (with_stops(a_stop("x@example.org")), "nobody's suppression: address:"),
        ({"wix": AT_WIX | {DEAD: ("SUBSCRIBED", "NOT_SET")}}, f"{DEAD}: Wix has .*NOT_SET.*, not .*BOUNCED"),
        ({"wix": AT_WIX | {TAKEN: ("UNSUBSCRIBED", "NOT_SET")}}, f"{TAKEN}: Wix has"),
        (
            {"wix": {email: said for email, said in AT_WIX.items() if email != TAKEN}},
            f"{TAKEN}: Wix has None",
        ),
        ({"unfinished": ["event e1 is received"]}, "event e1 is received"),
        ({"senders": []}, "letters to p571-0.example.net go on"),
        ({"senders": [PAUSE, PAUSE | {"domain": ""}]}, "letters to everybody rest: 5.7.1"),
        ({"senders": [PAUSE, PAUSE | {"domain": "#1"}]}, "letters to #1 rest"),
        ({"senders": [PAUSE | {"paused_until": NOW}]}, "letters to p571-0.example.net go on"),
        (
            {"attempts": [*TRIES, *(Attempt(OURS, 200.0 + at, "550 5.7.1 no") for at in range(4))]},
            "p571-0.example.net had to refuse 5 letters",
        ),
        ({"refused_at_mail": 0}, "the sender was refused 0 times"),
        ({"refused_at_mail": 5}, "the sender was refused 5 times"),
        ({"most_connections": 5}, "5 connections at a time; 4 are allowed"),
        ({"attempts": [*TRIES, *[Attempt(TAKEN, 100.5, "")] * 9]}, "10 letters in 1 s; 9 are allowed"),
        (
            {"attempts": [*TRIES, *(Attempt(TAKEN, 300.0 + at / 8, "") for at in range(40))]},
            "40 letters in 5 s; 29 are allowed",
        ),
    ],
)
def test_whatever_went_wrong_is_found(changes: dict[str, Any], complaint: str):
    assert any(re.search(complaint, problem) for problem in verdict_on(**changes).problems)


def test_as_much_as_the_pace_allows_is_fine():
    attempts = [*TRIES, *[Attempt(TAKEN, 300.0, "")] * 9, *[Attempt(TAKEN, 301.0, "")] * 9]

    assert verdict_on(attempts=attempts).problems == []


def test_the_busiest_second_is_found_wherever_it_begins():
    assert busiest([], 1) == 0
    assert busiest([1.0, 1.9, 2.0, 2.5, 9.0], 1) == 3
    assert busiest([0.0, 1.0, 2.0], 1) == 1


def test_there_are_as_many_people_as_were_asked_for_and_some_of_each_fate():
    everybody = people(2000, Random(1))

    assert len(everybody) == len({person.email for person in everybody}) == 2000
    assert {person.fate for person in everybody} == FATES.keys()
    assert all(fate_of(person.email) == person.fate for person in everybody)
    assert all(re.search(r"[@.]example\.(com|net|org)$", person.email) for person in everybody)
    assert everybody == people(2000, Random(1)) != people(2000, Random(2))
    subscriptions = community(everybody)["subscriptions"]
    assert sorted(subscriptions) == sorted(
        person.email for person in everybody if person.fate != "offer-no-record"
    )


def test_the_mail_servers_answer_by_the_fate_of_an_address():
    answer = script()
    greylisted, not_now = FATES["greylisted"], FATES["not-now"]

    assert answer("taken-1@example.org", [0.0]) is None
    assert answer("x@example.org", [0.0]) is None
    assert [answer("greylisted-1@example.org", times) for times in ([0.0], [0.0, 2.9], [0.0, 2.9, 3.0])] == [
        ("RCPT", greylisted.says),
        ("RCPT", greylisted.says),
        None,
    ]
    assert [answer("not-now-1@example.org", times) for times in ([0.0], [0.0, 90.0], [0.0, 90.0, 91.0])] == [
        ("RCPT", not_now.says)
    ] * 2 + [None]
    assert [answer(f"busy-454-{number}@example.org", [at]) for number, at in enumerate((5.0, 7.9, 8.0))] == [
        ("DATA", FATES["busy-454"].says)
    ] * 2 + [None]
    assert answer("dead-511-at-dot-1@example.org", [0.0] * 50) == (".", FATES["dead-511-at-dot"].says)
    assert [answer("dropped-1@example.org", times) for times in ([0.0], [0.0, 0.0])] == [(DROP, ""), None]


# What comes back, as the door reads it

PATHS = ReturnPaths("hello@seaside.example.com", [SECRET])
LETTER = "0123456789abcdef0123456789abcdef"
HEAD = f"""\
From: hello@seaside.example.com\r
To: ann@example.org\r
Message-ID: <{LETTER}@seaside.example.com>\r
List-Unsubscribe: <https://example.com/unsubscribe/u1>,\r
 <mailto:{PATHS.unsubscribe(LETTER)}?subject=unsubscribe>"""
CAME_BACK = Accepted(
    f"<{LETTER}@seaside.example.com>",
    "ann@example.org",
    100.0,
    True,
    1000,
    PATHS.bounces(LETTER),
    HEAD.encode(),
)


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("dead", "bounced 5.1.1"),
        ("full", "bounced 5.2.2"),
        ("policy", "bounced 5.7.1"),
        ("other", "bounced 5.0.0"),
        ("delayed", "delayed 4.4.1"),
        ("delivered", "Ignored"),
        ("complaint", "complaint "),
        ("unsubscribe", "unsubscribe "),
        ("away", "Ignored"),
        ("reply", "Replied"),
        ("forged", "Ignored"),
    ],
)
def test_what_comes_back_is_what_it_says(kind: str, read: str):
    for mail in RETURNS[kind](CAME_BACK):
        assert message_from_string(mail.raw).defects == []
        raw = f"Return-Path: <{mail.sender}>\n{mail.raw}".replace("\n", "\r\n").encode()
        found = read_mail(raw, [mail.to], PATHS)
        if isinstance(found, Returned):
            enhanced = found.reply.enhanced if found.reply else ""
            assert f"{found.kind} {enhanced}".startswith(read.replace("5.0.0", "")), mail
            assert found.letter == LETTER
        else:
            assert isinstance(found, Ignored | Replied)
            assert type(found).__name__ == read, mail


def test_every_fate_that_brings_something_back_has_a_mail_of_it():
    assert {fate.back for fate in FATES.values()} - {""} == RETURNS.keys()
    assert [mail.taken for mail in RETURNS["forged"](CAME_BACK)] == [False, True, True]


# The witness, told by a script


@pytest.fixture
def scripted() -> Iterator[MailServer]:
    answers = {
        "rcpt@example.org": ("RCPT", "550 5.1.1 nobody"),
        "data@example.org": ("DATA", "454 4.7.0 busy"),
        "dot@example.org": (".", "554 5.6.0 no"),
        "bye@example.org": ("RCPT", "421 4.7.0 closing"),
        "drop@example.org": (DROP, ""),
    }
    with MailServer(script=lambda to, tries: answers.get(to) if len(tries) == 1 else None) as server:
        yield server


def test_a_scripted_letter_is_refused_where_the_script_says_and_taken_later(scripted: MailServer):
    mail = SmtpMail(parse_email_url(f"smtp://127.0.0.1:{scripted.port}?timeout_s=5&reply_timeout_s=5"))
    letter = b"Subject: hello\r\nMessage-ID: <1@example.org>\r\n\r\nHello\r\n"

    def send(to: str) -> str:
        try:
            return mail.send(cleared(to), f"from+{to}", letter, lambda: None)
        except (MailDeferredError, MailRefusedError) as exc:
            return str(exc)

    addresses = [f"{name}@example.org" for name in ("rcpt", "data", "dot", "bye")]
    first = [send(to) for to in addresses]
    second = [send(to) for to in addresses]
    mail.close()

    assert [re.search(r"answered (.*)", said)[1] for said in first] == [  # type: ignore[index]
        "550 to RCPT: 5.1.1 nobody",
        "454 to DATA: 4.7.0 busy",
        "554 to the letter: 5.6.0 no",
        "421 to RCPT: 4.7.0 closing",
    ]
    assert all(said.startswith("250") for said in second)
    assert [(letter.to, letter.sender) for letter in scripted.accepted] == [
        (to, f"from+{to}") for to in addresses
    ]
    assert {letter.head for letter in scripted.accepted} == {b"Subject: hello\r\nMessage-ID: <1@example.org>"}
    assert [(attempt.to, bool(attempt.refused)) for attempt in scripted.attempts] == [
        *((to, True) for to in addresses),
        *((to, False) for to in addresses),
    ]


def test_a_letter_that_is_dropped_is_told_apart(scripted: MailServer):
    letter = b"Message-ID: <1@x>\r\n\r\nHello\r\n"
    gone = pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError))
    with smtplib.SMTP("127.0.0.1", scripted.port, timeout=5) as client, gone:
        client.sendmail("a@example.org", ["drop@example.org"], letter)

    assert scripted.accepted == []
    assert scripted.undecidable == {"<1@x>": {DROP}}
    assert [attempt.refused for attempt in scripted.attempts] == [DROP]


def test_a_sender_is_refused_as_long_as_it_is_said(scripted: MailServer):
    with smtplib.SMTP("127.0.0.1", scripted.port, timeout=5) as client:
        client.ehlo()
        scripted.refuse_mail = "550 5.7.1 not you"
        assert client.mail("a@example.org") == (550, b"5.7.1 not you")
        scripted.refuse_mail = ""
        assert client.mail("a@example.org")[0] == 250

    assert (scripted.mails_refused, scripted.attempts) == (1, [])


def test_the_most_connections_at_a_time_are_counted(scripted: MailServer):
    def connect() -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", scripted.port, timeout=5)
        client.ehlo()
        return client

    with connect(), connect():
        assert scripted.most_connections == 2
    with connect():
        pass

    assert scripted.most_connections == 2
