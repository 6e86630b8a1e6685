"""The next letter is written while the mark of one is committed: it is only a draft until its turn comes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa

import tasks.letters
from core.consent import Purpose
from core.errors import PermanentError
from core.gate import Facts
from integrations.email.unsubscribe import UnsubscribeClaim
from integrations.store.database import Database
from integrations.store.ledger import ClaimedLetter, Ledger
from integrations.store.tables import messages
from tasks.letters import _facts_of
from tasks.writing import Reader, write_letter
from tests.house import SITE, Clock, House, a_house
from tests.test_sending import a_crowd, states

ONE_BY_ONE = [f"{what} {who}" for who in (1, 2, 3) for what in ("write", "send")]
READERS = ("a@example.com", "b@example.com", "c@example.com")


@pytest.fixture
def house(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Three letters are due; marks are committed aside, and however slow the machine, writing one is quick."""
    monkeypatch.setattr(tasks.letters, "QUICK_S", math.inf)
    database.use_writer()
    assert database._writer is not None
    ends_at = time.monotonic() + 20
    while not database._writer.is_ready():
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    house = a_house(database, clock)
    a_crowd(house, clock, *READERS)
    yield house
    database._writer.close()


@dataclass
class Order:
    """Who is written (1 is who comes first), and whose letter goes. `instead` is done when the second is written."""

    told: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    instead: Callable[[UnsubscribeClaim], object] = lambda _: None

    def note(self, what: str, reader: str) -> int:
        if reader not in self.readers:
            self.readers.append(reader)
        number = self.readers.index(reader) + 1
        self.told.append(f"{what} {number}")
        return number


@pytest.fixture
def order(house: House, monkeypatch: pytest.MonkeyPatch) -> Order:
    order = Order()
    send = house.mail.send

    def write(*arguments: Any, reader: Reader, **named: Any) -> tuple[str, bytes]:
        if order.note("write", reader.email) == 2:
            order.instead(reader.claim)
        return write_letter(*arguments, reader=reader, **named)

    def note_send(
        clearance: Any, sender: str, message: bytes, about_to_commit: Callable[[], None], *waits: Any
    ) -> str:
        said = send(clearance, sender, message, about_to_commit, *waits)
        order.note("send", clearance.to)
        return said

    monkeypatch.setattr("tasks.letters.write_letter", write)
    monkeypatch.setattr(house.mail, "send", note_send)
    return order


def test_each_letter_is_written_once_while_the_one_before_is_marked(house: House, order: Order) -> None:
    house.work()
    assert order.told == ["write 1", "write 2", "send 1", "write 3", "send 2", "send 3"]
    for _, to, message in house.mail.letters:
        assert [reader for reader in READERS if f"To: {reader}".encode() in message] == [to]
    with house.database.read() as tx:
        known = tx.connection.scalars(sa.select(messages.c.message_id)).all()
    written = [message for _, _, message in house.mail.letters]
    assert all(any(f"Message-ID: {id_}".encode() in each for each in written) for id_ in known)
    assert states(house) == ["sent"] * 3


def test_a_reader_whose_address_is_found_dead_after_their_letter_was_drafted_gets_none(
    house: House, order: Order
) -> None:
    suppressions = house.services.suppressions
    order.instead = lambda claim: suppressions.dead(SITE, claim.member, claim.address_hash, "it is dead")
    house.work()
    assert order.told == ["write 1", "write 2", "send 1", "write 3", "send 3"]
    assert states(house) == ["sent", "sent", "skipped"]


def test_a_draft_that_fails_disturbs_nobody_else(house: House, order: Order) -> None:
    def fail(_claim: UnsubscribeClaim) -> None:
        raise PermanentError("nobody can write this")

    order.instead = fail
    house.work()
    assert order.told == ["write 1", "write 2", "send 1", "write 2", "write 3", "send 3"]
    assert states(house) == ["failed", "sent", "sent"]


def test_a_draft_for_another_purpose_is_thrown_away(
    house: House, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between draft and turn the automations may have been edited."""
    asked: list[str] = []

    def at_first_promotional(letter: ClaimedLetter, *others: Any) -> Facts:
        asked.append(letter.member)
        facts = _facts_of(letter, *others)
        return replace(facts, purpose=Purpose.PROMOTIONAL) if len(asked) == 2 else facts

    monkeypatch.setattr("tasks.letters._facts_of", at_first_promotional)
    house.work()
    assert order.told == ["write 1", "write 2", "send 1", "write 2", "write 3", "send 2", "send 3"]
    assert states(house) == ["sent"] * 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nothing_is_drafted_that_would_hold_up_a_dot(
    house: House, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.letters, "QUICK_S", 0.0)  # all of these take too long
    house.work()
    assert order.told == ONE_BY_ONE


def test_what_was_said_of_one_is_heard_of_before_the_dot_of_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    begin, send = Ledger.begin_sent, house.mail.send

    def begin_to_note(self: Ledger, letter: ClaimedLetter, reply: str) -> Callable[[], None]:
        wait = begin(self, letter, reply)

        def heard() -> None:
            wait()
            told.append("recorded")

        return heard

    def note_send(
        clearance: Any, sender: str, message: bytes, about_to_commit: Callable[[], None], *waits: Any
    ) -> str:
        def dot() -> None:
            about_to_commit()
            told.append("dot")

        return send(clearance, sender, message, dot, *waits)

    monkeypatch.setattr(Ledger, "begin_sent", begin_to_note)
    monkeypatch.setattr(house.mail, "send", note_send)
    house.work()
    assert told == ["dot", "recorded"] * 3
    assert states(house) == ["sent"] * 3
