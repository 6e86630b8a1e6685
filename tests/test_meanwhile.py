"""What others do in the middle of one's work: erase somebody, plan a letter, end a server. And what fails after the
mail server has taken a letter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa

from core import events
from core.community import Answer, GroupId, Member, MemberId, Membership, SiteId, Subscription
from core.errors import JournalUnavailableError, LostLeaseError
from integrations.store.database import Database
from integrations.store.journal import Journal
from integrations.store.ledger import ClaimedLetter, Ledger
from integrations.store.suppressions import forget_member
from integrations.store.tables import messages, metadata, outbox
from tasks.batch import Batch
from tasks.events import react, run_events
from tasks.letters import deliver_letters
from tasks.recorder import Recorder
from tasks.routes import ROUTES
from tests.house import RUNNERS, SITE, WELCOME, YOGA, Clock, FakeWix, House, a_house, an_event
from tests.test_sending import a_crowd, states

TEACHERS = """
[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["certified teacher"]
"""


def empty(database: Database) -> None:
    database.migrate()
    with database.begin() as tx:
        for table in reversed(metadata.sorted_tables):
            tx.execute(sa.delete(table))


@dataclass
class Interrupted(FakeWix):
    """Something else happens while Wix is asked about a member."""

    meanwhile: dict[MemberId, Callable[[], None]] = field(default_factory=dict)

    def get_membership(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        self.meanwhile.pop(member, lambda: None)()
        return super().get_membership(site, group, member)


def interrupted(database: Database, clock: Clock, rules: str, status: str) -> tuple[House, Interrupted]:
    house, wix = a_house(database, clock, rules), Interrupted()
    for member in (MemberId("m0"), MemberId("m1")):
        email = f"{member}@example.com"
        wix.members[member] = Member(member, "APPROVED", email, "Ann")
        wix.memberships[RUNNERS, member] = Membership(status)
        wix.subscriptions[email] = Subscription("SUBSCRIBED", "VALID")
        wix.answers[RUNNERS, member] = (Answer("Who are you?", "A certified teacher of yoga"),)
    house.services, house.wix = replace(house.services, wix=wix), wix
    return house, wix


@pytest.mark.parametrize(("asked", "erased"), [("m1", "m0"), ("m0", "m1")])
def test_somebody_who_is_erased_while_their_batch_is_worked_off_leaves_no_word_and_no_decision(
    database: Database, clock: Clock, asked: str, erased: str
) -> None:
    house, wix = interrupted(database, clock, YOGA + TEACHERS, "pending")
    for number in (0, 1):
        house.hear(
            an_event(
                clock, type=events.JOIN_REQUESTED, id=f"e{number}", member=f"m{number}", seconds=10 - number
            )
        )

    def erase() -> None:
        with database.begin() as tx:
            forget_member(tx, SITE, MemberId(erased))

    wix.meanwhile[MemberId(asked)] = erase
    run_events(house.services)
    house.work()
    with database.read() as tx:
        letters = tx.execute(sa.select(messages).where(messages.c.member == erased)).all()
        calls = tx.execute(sa.select(outbox).where(outbox.c.member == erased)).all()
    assert [letter.context for letter in letters] == [{}] * len(letters)
    assert {letter.state for letter in letters} == {"skipped"}
    assert not [call.kind for call in calls if call.state != "void"]
    assert house.mail.readers == [f"{'m1' if erased == 'm0' else 'm0'}@example.com"]


def test_a_greeting_that_another_worker_planned_meanwhile_is_stopped_when_they_left(
    database: Database, clock: Clock
) -> None:
    house, wix = interrupted(database, clock, WELCOME, "joined")
    house.hear(an_event(clock, id="j0", member="m0", seconds=30))
    run_events(house.services)
    house.hear(an_event(clock, id="j1", member="m1", seconds=20))
    other = Journal(database, listened=ROUTES)
    [claimed] = other.claim(1)
    effects = react(claimed, Batch([claimed.event], house.services))
    wix.memberships[RUNNERS, MemberId("m1")] = Membership("none")
    for number in (0, 1):
        house.hear(
            an_event(
                clock,
                id=f"l{number}",
                type=events.MEMBER_LEFT,
                member=f"m{number}",
                seconds=10 - number,
            )
        )
    wix.meanwhile[MemberId("m0")] = lambda: other.finish((claimed, effects))
    run_events(house.services)
    deliver_letters(house.services)
    assert "m1@example.com" not in house.mail.readers


def test_a_letter_goes_once_though_the_database_fails_when_it_is_to_be_recorded(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com")
    begin, failures = Ledger.begin_sent, [ZeroDivisionError(), JournalUnavailableError("away")]

    def fail_first(self: Ledger, letter: ClaimedLetter, reply: str) -> Callable[[], None]:
        if failures:
            raise failures.pop(0)
        return begin(self, letter, reply)

    monkeypatch.setattr(Ledger, "begin_sent", fail_first)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    house.work()
    clock.move(hours=1)
    house.work()
    assert house.mail.readers == ["a@example.com"]
    assert states(house) == ["sent"]


def test_a_letter_goes_once_though_something_fails_after_it_was_taken(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com")

    def fail(_domain: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(house.services.senders, "worked", fail)
    house.work()
    clock.move(hours=1)
    house.work()
    assert house.mail.readers == ["a@example.com"]
    assert states(house) == ["sent"]


def test_a_letter_is_marked_only_when_what_was_said_of_the_one_before_is_written(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com", "b@example.com")
    begin, mark, order = Ledger.begin_sent, Ledger.mark, list[str]()

    def begin_late(self: Ledger, letter: ClaimedLetter, reply: str) -> Callable[[], None]:
        order.append("begun")

        def wait() -> None:
            begin(self, letter, reply)()
            order.append("written")

        return wait

    def marked(self: Ledger, letter: ClaimedLetter, **values: Any) -> None:
        mark(self, letter, **values)
        order.append("marked")

    monkeypatch.setattr(Ledger, "begin_sent", begin_late)
    monkeypatch.setattr(Ledger, "mark", marked)
    house.work()
    assert order == ["marked", "begun", "written"] * 2
    assert states(house) == ["sent", "sent"]


def test_a_record_that_is_written_twice_is_written(database: Database, clock: Clock) -> None:
    """As when the process that wrote it ended before it could tell."""
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com")
    run_events(house.services)
    ledger = house.services.ledger
    [letter] = ledger.claim(1)
    ledger.mark(letter, purpose=letter.purpose, message_id="<x@y>", address_hashes=["h"], evidence="")
    ledger.sent(letter, "250 taken")
    ledger.sent(letter, "250 taken")
    with pytest.raises(LostLeaseError):
        ledger.sent(letter, "250 something else")
    assert states(house) == ["sent"]


def test_what_is_followed_next_waits_for_what_was_followed_before() -> None:
    recorder, order = Recorder(), list[str]()
    recorder.follow(lambda: order.append("first"))
    recorder.follow(lambda: order.append("second"))
    assert order == ["first"]
    recorder.settle()
    recorder.settle()
    assert order == ["first", "second"]


def test_a_database_server_that_was_started_anew_a_moment_after_use_costs_no_delivery(
    postgres_url: str, clock: Clock
) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    empty(database)
    together = threading.Barrier(4)

    def use() -> None:
        with database.read() as tx:
            together.wait(10)
            tx.connection.scalar(sa.text("SELECT 1"))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with other.begin() as tx:
        tx.connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
                " AND backend_type = 'client backend'"
            )
        )
    assert Journal(database, listened=ROUTES).insert([an_event(clock, id="first")]) == [True]
    database.close()
    other.close()
