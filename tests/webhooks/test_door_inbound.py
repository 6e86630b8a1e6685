from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette

from core.errors import JournalUnavailableError
from integrations.email.inbound import MOST_BYTES
from tests.webhooks.wix_signing import ask, ask_while_pages_hold_every_thread
from webhooks.inbound import inbound_routes

TOKEN = "the token of the tests"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
MAIL = b"From: MAILER-DAEMON@example.org\r\nTo: bounces@example.com\r\n\r\nA private line.\r\n"


@dataclass
class House:
    """Remembers what was brought; `refuse` stands for a database that is away."""

    taken: list[tuple[bytes, list[str]]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    refuse: Exception | None = None
    token: str = TOKEN

    def take_in(self, raw: bytes, recipients: Sequence[str]) -> str:
        if self.refuse:
            raise self.refuse
        self.threads.add(threading.get_ident())
        self.taken.append((raw, list(recipients)))
        return "bounced"

    @property
    def app(self) -> Starlette:
        return Starlette(routes=inbound_routes(self.token, self.take_in))


def test_a_mail_is_taken_as_it_is_and_beside_the_loop() -> None:
    house = House()
    answer = ask(house.app, "POST", "/mail/inbound", headers=RIGHT, content=MAIL)

    assert (answer.status_code, answer.text) == (200, "taken\n")
    assert house.taken == [(MAIL, [])]
    assert threading.get_ident() not in house.threads


def test_a_mail_waits_for_no_page() -> None:
    house = House()
    answer = ask_while_pages_hold_every_thread(
        house.app, "POST", "/mail/inbound", headers=RIGHT, content=MAIL
    )

    assert answer.status_code == 200
    assert house.taken == [(MAIL, [])]


@pytest.mark.parametrize("kind", ["message/rfc822", "text/plain", "application/octet-stream", ""])
def test_the_type_that_a_mail_is_sent_with_does_not_matter(kind: str) -> None:
    house = House()

    assert ask(
        house.app, "POST", "/mail/inbound", headers=RIGHT | {"Content-Type": kind}, content=MAIL
    ).is_success
    assert house.taken == [(MAIL, [])]


@pytest.mark.parametrize(
    ("query", "headers", "recipients"),
    [
        ("?recipient=a%2Bb@example.com", {}, ["a+b@example.com"]),
        ("?recipient=a+b@example.com", {}, ["a+b@example.com"]),
        ("?recipient=a@example.com&recipient=b@example.com", {}, ["a@example.com", "b@example.com"]),
        ("", {"Recipient": "a+b@example.com"}, ["a+b@example.com"]),
        ("?recipient=a@example.com", {"Recipient": "b@example.com"}, ["a@example.com", "b@example.com"]),
    ],
)
def test_the_envelopes_recipient_may_stand_in_the_query_or_a_header(
    query: str, headers: dict[str, str], recipients: list[str]
) -> None:
    house = House()
    ask(house.app, "POST", f"/mail/inbound{query}", headers=RIGHT | headers, content=MAIL)

    assert house.taken == [(MAIL, recipients)]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer ü".encode()},
    ],
)
def test_nobody_gets_in_without_the_token(headers: dict[str, str | bytes]) -> None:
    house = House()
    answer = ask(house.app, "POST", "/mail/inbound", headers=headers, content=MAIL)

    assert (answer.status_code, answer.text) == (401, "")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert house.taken == []


@pytest.mark.parametrize("given", ["Bearer", "Bearer ", ""])
def test_nobody_gets_in_where_no_token_is_set(given: str) -> None:
    house = House(token="")

    assert (
        ask(house.app, "POST", "/mail/inbound", headers={"Authorization": given}, content=MAIL).status_code
        == 401
    )
    assert house.taken == []


def test_a_mail_may_have_a_mebibyte_and_no_more() -> None:
    house = House()

    assert (
        ask(house.app, "POST", "/mail/inbound", headers=RIGHT, content=b"x" * MOST_BYTES).status_code == 200
    )
    assert (
        ask(house.app, "POST", "/mail/inbound", headers=RIGHT, content=b"x" * (MOST_BYTES + 1)).status_code
        == 413
    )
    assert len(house.taken) == 1


def test_what_cannot_be_committed_is_to_be_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    house = House(refuse=JournalUnavailableError("a private line"))
    with caplog.at_level(logging.INFO):
        answer = ask(house.app, "POST", "/mail/inbound", headers=RIGHT, content=MAIL)

    assert (answer.status_code, answer.text) == (503, "")
    assert [record.message for record in caplog.records if record.name == "webhooks.inbound"] == [
        "mail.not_committed"
    ]
    assert "private" not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_mails_are_posted(method: str) -> None:
    house = House()

    assert ask(house.app, method, "/mail/inbound", headers=RIGHT).status_code == 405
    assert house.taken == []
