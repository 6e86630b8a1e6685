"""What comes of a letter by what the mail server says: lines 16, 20, 23 and 26 to 28 of docs/standards.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.consent import Purpose
from integrations.store.database import Database
from tests.email.smtp_servers import MailServer, mail_server, self_signed
from tests.house import Clock
from tests.standards.letterbox import Office, Scene, every_letter

A_WELCOME = every_letter(["welcome"], Purpose.ONBOARDING)
ANN = Scene("ann", email="ann.lee@people.example")
DEAD = {"all": {"dead"}}


@pytest.fixture
def office(records: Database, server: MailServer, clock: Clock) -> Iterator[Office]:
    found = Office(records, server, clock, automations=A_WELCOME)
    yield found
    found.services.mail.close()


def rests(office: Office) -> str:
    """For whom the sender has been paused."""
    domains = list(office.services.senders.pauses())
    return {0: "nobody", 1: "everybody" if "" in domains else "the domain"}[len(domains)]


@pytest.mark.parametrize(
    ("command", "reply", "state", "suppressed", "paused"),
    [
        ("DATA", "250 2.0.0 queued", "sent", {}, "nobody"),
        ("RCPT", "450 4.2.0 <ann.lee@people.example> greylisted", "deferred", {}, "nobody"),
        ("RCPT", "450 mailbox unavailable", "deferred", {}, "nobody"),
        ("MAIL", "451 4.3.0 try again later", "deferred", {}, "nobody"),
        ("RCPT", "452 4.2.2 over quota", "deferred", {}, "nobody"),
        ("RCPT", "452 4.5.3 too many recipients", "deferred", {}, "nobody"),
        ("DATA", "452 4.3.1 insufficient system storage", "deferred", {}, "nobody"),
        ("DATA", "454 4.7.0 Throttling failure: Maximum sending rate exceeded.", "deferred", {}, "nobody"),
        ("MAIL", "421 4.3.2 shutting down", "deferred", {}, "nobody"),
        ("RCPT", "421 4.7.0 too many messages, slow down", "deferred", {}, "nobody"),
        ("DATA", "421 4.3.2 shutting down", "in_doubt", {}, "nobody"),
        ("RCPT", "550 5.1.1 <ann.lee@people.example>: no such user", "failed", DEAD, "nobody"),
        ("DATA", "550 5.1.1 <ann.lee@people.example>: no such user", "failed", DEAD, "nobody"),
        ("RCPT", "550 5.1.10 recipient not found", "failed", DEAD, "nobody"),
        ("RCPT", "550 5.2.1 mailbox disabled", "failed", DEAD, "nobody"),
        ("RCPT", "550 5.1.8 bad sender's system address", "failed", {}, "the domain"),
        ("RCPT", "550 5.7.1 blocked, see our postmaster page", "failed", {}, "the domain"),
        (
            "DATA",
            "550 5.7.515 Access denied, sending domain does not authenticate",
            "failed",
            {},
            "the domain",
        ),
        ("DATA", "550 5.7.1 user unknown to our policy", "failed", {}, "the domain"),
        ("RCPT", "552 5.2.2 mailbox full", "deferred", {}, "nobody"),
        ("DATA", "552 5.3.4 message too big", "failed", {}, "nobody"),
        ("DATA", "554 5.3.0 other mail system problem", "failed", {}, "nobody"),
        ("DATA", "554 transaction failed", "failed", {}, "nobody"),
        ("DATA", "554 no such user", "failed", {}, "nobody"),
        ("MAIL", "550 5.7.1 sender not allowed", "deferred", {}, "everybody"),
        ("MAIL", "530 5.7.0 authentication required", "deferred", {}, "everybody"),
    ],
)
def test_a_reply_has_the_effect_of_its_class(
    office: Office, command: str, reply: str, state: str, suppressed: dict[str, set[str]], paused: str
):
    """Lines 20, 26 and 28: who is suppressed has a dead address; what lies with us or a server rests the sender."""
    office.server.replies[command] = [reply]

    office.play(ANN)

    [row] = office.rows()
    assert (row.state, office.suppressed(), rests(office)) == (state, suppressed, paused)
    assert "ann.lee" not in f"{row.reason} {row.reply} {row.evidence}"
    assert (row.reason is None) == (state == "sent")


@pytest.mark.parametrize(
    ("reply", "comes"), [("451 4.2.0 later", True), ("550 5.1.1 no such user", False), ("554 failed", False)]
)
def test_what_was_put_off_comes_and_what_was_refused_does_not(office: Office, reply: str, comes: bool):
    """Line 26."""
    office.server.replies["RCPT"] = [reply]
    office.play(ANN)

    office.clock.move(hours=5)
    office.work()

    assert len(office.server.letters) == int(comes)


def test_a_letter_is_tried_ever_less_often_and_given_up_after_four_days(office: Office):
    """Line 27: RFC 5321, 4.5.4.1 asks for gaps of 30 minutes or more and for four to five days in all."""
    began = office.clock.now
    office.server.replies["RCPT"] = ["450 4.2.0 greylisted"] * 200
    office.play(ANN)
    tried: list[datetime] = [began]
    while (row := office.rows()[0]).state == "deferred":
        office.clock.now = row.next_at
        office.work()
        tried.append(office.clock.now)

    gaps = [after - before for before, after in itertools.pairwise(tried)]
    assert (row.state, office.server.letters, office.suppressed()) == ("failed", [], {})
    assert gaps == sorted(gaps)
    assert gaps[0] < timedelta(minutes=1), "greylisting and busy servers want a quick second try"
    assert gaps[-1] >= timedelta(minutes=30)
    assert sum(gap < timedelta(minutes=30) for gap in gaps) <= 12
    assert timedelta(days=4) <= tried[-1] - began <= timedelta(days=5)
    assert "greylisted" in row.reason


@pytest.mark.parametrize("kind", ["starttls", "smtps", "no tls at all"])
def test_without_tls_that_can_be_trusted_nothing_is_said(
    records: Database, clock: Clock, tmp_path: Path, kind: str
):
    """Line 23: the letter waits; neither sender, reader nor password was named."""
    theirs, _ = self_signed(tmp_path)
    options: dict[str, Any] = {
        "starttls": {"tls_context": theirs},
        "smtps": {"implicit_tls": theirs},
        "no tls at all": {},
    }[kind]
    scheme = "smtps" if kind == "smtps" else "smtp"
    with mail_server(**options) as server:
        office = Office(
            records, server, clock, automations=A_WELCOME, url=f"{scheme}://me:secret@127.0.0.1:{{port}}"
        )
        office.play(ANN)
        office.services.mail.close()

    [row] = office.rows()
    assert row.state == "deferred"
    assert "certificate cannot be trusted" in row.reason or "STARTTLS" in row.reason
    assert server.letters == []
    for word in (b"MAIL", b"AUTH", b"RCPT", b"secret", b"ann.lee"):
        assert word not in bytes(server.heard).upper() + bytes(server.heard)
