"""Senders on both databases, with a clock that moves when told to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

import pytest
import sqlalchemy as sa

from core.errors import JournalUnavailableError
from core.pacing import Pause
from integrations.store.database import Database
from integrations.store.senders import Senders, whole_sender_paused
from tests.house import Clock

SENDER = "letters@example.com"
MAIL = "example.org"


@pytest.fixture
def senders(database: Database) -> Senders:
    return Senders(database, SENDER)


@pytest.fixture
def other(database: Database) -> Senders:
    """Another worker."""
    return Senders(database, SENDER)


@pytest.fixture
def writes(database: Database) -> Iterator[list[str]]:
    """Every statement that changes something."""
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            seen.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(database.engine, "before_cursor_execute", note)


def trip(senders: Senders, domain: str = "") -> Pause:
    pauses = [senders.failed(domain, "451 4.3.2 try later") for _ in range(5)]
    assert pauses[:-1] == [None] * 4
    assert pauses[-1] is not None
    return pauses[-1]


def is_paused(database: Database) -> bool:
    with database.read() as tx:
        return bool(tx.connection.scalar(sa.select(whole_sender_paused(tx, SENDER))))


def test_five_failures_in_a_row_pause_the_sender_and_say_why(senders: Senders, other: Senders, clock: Clock):
    pause = trip(senders)

    assert pause == Pause("", clock.now + timedelta(seconds=15), "451 4.3.2 try later")
    assert other.paused() == other.paused(MAIL) == pause
    assert other.pauses() == {"": pause}


def test_failures_of_several_workers_are_one_run(senders: Senders, other: Senders):
    assert [worker.failed("", "no answer") for worker in (senders, other, senders, other)] == [None] * 4
    assert senders.failed("", "no answer") is not None


def test_a_letter_that_was_taken_ends_the_run(senders: Senders, other: Senders):
    for _ in range(4):
        senders.failed("", "no answer")
    assert other.paused(MAIL) is None
    other.worked(MAIL)

    assert [senders.failed("", "no answer") for _ in range(4)] == [None] * 4


def test_a_run_ends_though_another_domain_was_asked_about_meanwhile(senders: Senders):
    for _ in range(4):
        senders.failed(MAIL, "no answer")
    senders.paused("example.net")
    senders.worked(MAIL)

    assert senders.failed(MAIL, "no answer") is None


def test_a_domain_is_paused_alone(senders: Senders, other: Senders, database: Database):
    pause = trip(senders, MAIL)

    assert not is_paused(database)
    assert other.paused(MAIL) == pause
    assert other.paused("example.net") is None
    assert other.paused() is None
    assert other.pauses() == {MAIL: pause}


def test_success_at_one_domain_does_not_end_the_run_of_another(senders: Senders):
    for _ in range(4):
        senders.failed(MAIL, "421 4.7.0 slow down")
    senders.paused("example.net")
    senders.worked("example.net")

    assert senders.failed(MAIL, "421 4.7.0 slow down") is not None


def test_the_breaker_walks_from_trip_to_trial_to_a_longer_pause_to_success(
    senders: Senders, other: Senders, clock: Clock, database: Database
):
    trip(senders)
    assert is_paused(database)
    clock.move(seconds=14)
    assert senders.paused() is not None
    clock.move(seconds=1)
    assert not is_paused(database)  # letters are due: somebody has to try

    assert senders.paused() is None
    assert is_paused(database)
    assert (other.paused() or senders.paused()) == Pause(
        "", clock.now + timedelta(minutes=1), "451 4.3.2 try later"
    )
    again = senders.failed("", "535 wrong password")
    assert again == Pause("", clock.now + timedelta(seconds=30), "535 wrong password")
    assert other.paused() == again

    clock.move(seconds=30)
    assert other.paused(MAIL) is None
    other.worked(MAIL)

    assert senders.paused() is None
    assert not is_paused(database)
    assert trip(senders).until == clock.now + timedelta(seconds=15)  # from the start


def test_pauses_that_do_not_help_grow_to_four_hours(senders: Senders, clock: Clock):
    pause: Pause | None = trip(senders)
    lengths = []
    for _ in range(12):
        assert pause is not None
        lengths.append((pause.until - clock.now) / timedelta(minutes=1))
        clock.now = pause.until
        assert senders.paused() is None
        pause = senders.failed("", "no answer")

    assert lengths == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 240, 240]


def test_exactly_one_of_many_workers_gets_through_to_try(database_url: str, clock: Clock):
    databases = [Database(database_url, clock=clock) for _ in range(4)]
    workers = [Senders(database, SENDER) for database in databases]
    trip(workers[0])
    trip(workers[1], MAIL)
    clock.move(seconds=15)
    answers: list[Pause | None] = []
    together = threading.Barrier(len(workers))

    def ask(worker: Senders) -> None:
        together.wait(30)
        answers.append(worker.paused(MAIL))

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in databases:
        database.close()

    assert len(answers) == 4
    assert answers.count(None) == 1


def test_who_tries_and_is_never_heard_of_again_holds_up_the_next_for_a_minute(
    senders: Senders, other: Senders, clock: Clock
):
    trip(senders)
    clock.move(seconds=15)
    assert senders.paused() is None
    clock.move(seconds=59)
    assert other.paused() is not None
    clock.move(seconds=1)

    assert other.paused() is None
    other.worked(MAIL)
    assert senders.paused() is None


def test_who_tried_and_learned_nothing_lets_the_next_one_try_at_once(
    senders: Senders, other: Senders, clock: Clock, writes: list[str]
):
    trip(senders)
    other.pass_on()
    assert senders.paused() is not None, "only who tries may pass it on"
    clock.move(seconds=15)
    assert senders.paused() is None
    assert other.paused() is not None

    senders.pass_on()

    assert other.paused() is None
    assert senders.paused() is not None
    again = other.failed("", "no answer")
    assert again is not None
    assert again.until == clock.now + timedelta(seconds=30), "the pauses are counted on"
    del writes[:]
    senders.pass_on()
    other.pass_on()
    assert writes == []


def test_who_tried_once_and_heard_nothing_lifts_no_later_pause(
    senders: Senders, other: Senders, clock: Clock
):
    trip(senders)
    clock.move(seconds=15)
    assert senders.paused() is None
    clock.move(minutes=1)
    assert other.paused() is None
    other.worked(MAIL)
    pause = trip(other)

    assert senders.paused(MAIL) == pause
    senders.worked(MAIL)

    assert other.paused() == pause


def test_a_trial_is_over_though_it_could_not_be_passed_on(
    senders: Senders, other: Senders, clock: Clock, monkeypatch: pytest.MonkeyPatch, database: Database
):
    trip(senders)
    clock.move(seconds=15)
    assert senders.paused() is None
    with monkeypatch.context() as away:
        away.setattr(database, "begin", _away)
        with pytest.raises(JournalUnavailableError):
            senders.pass_on()
    clock.move(minutes=1)
    assert other.paused() is None
    other.worked(MAIL)
    pause = trip(other)

    senders.worked(MAIL)

    assert other.paused() == pause


def _away() -> NoReturn:
    raise JournalUnavailableError("away")


def test_who_tried_before_and_answers_late_is_heard_too(senders: Senders, other: Senders, clock: Clock):
    trip(senders)
    clock.move(seconds=15)
    assert senders.paused() is None
    clock.move(minutes=1)
    assert other.paused() is None
    senders.worked(MAIL)

    assert other.paused() is None
    assert other.pauses() == {}


def test_two_who_tried_and_failed_met_the_same_wall(senders: Senders, other: Senders, clock: Clock):
    trip(senders)
    clock.move(seconds=15)
    assert senders.paused() is None
    clock.move(minutes=1)
    assert other.paused() is None

    pause = other.failed("", "no answer")
    assert pause == Pause("", clock.now + timedelta(seconds=30), "no answer")
    assert senders.failed("", "no answer") is None
    assert senders.pauses() == {"": pause}


def test_what_was_under_way_when_the_pause_began_changes_nothing(senders: Senders, other: Senders):
    other.failed("", "no answer")
    pause = [senders.failed("", "no answer") for _ in range(4)][-1]
    assert pause is not None

    assert [other.failed("", "no answer") for _ in range(7)] == [None] * 7
    other.worked(MAIL)

    assert senders.paused() == pause


def test_a_domain_whose_trial_would_be_in_vain_is_not_tried(senders: Senders, clock: Clock):
    trip(senders, MAIL)
    clock.move(seconds=5)
    whole = trip(senders)
    clock.move(seconds=11)  # the domain's is over, the sender's is not

    assert senders.paused(MAIL) == whole
    clock.move(seconds=5)
    assert senders.paused(MAIL) is None
    senders.worked(MAIL)
    assert senders.pauses() == {}


def test_a_pause_at_once_needs_no_run(senders: Senders, other: Senders, clock: Clock):
    pause = senders.pause("", "550 5.7.515 access denied")

    assert pause == Pause("", clock.now + timedelta(minutes=5), "550 5.7.515 access denied")
    assert other.pause("", "550 5.7.515 access denied") == pause
    assert other.paused(MAIL) == pause


def test_a_trial_that_is_refused_makes_the_pause_longer(senders: Senders, clock: Clock):
    senders.pause("", "550 5.7.515 access denied")
    clock.move(minutes=5)
    assert senders.paused() is None

    assert senders.pause("", "550 5.7.515 access denied").until == clock.now + timedelta(minutes=10)


def test_a_pause_by_hand_lasts_as_long_as_was_said_and_is_not_cut_short(senders: Senders, clock: Clock):
    pause = senders.pause(MAIL, "by hand", for_s=86_400)

    assert pause.until == clock.now + timedelta(days=1)
    assert senders.pause(MAIL, "by hand", for_s=60) == pause
    assert senders.pause(MAIL, "550 5.7.1 denied") == pause
    assert senders.pause(MAIL, "longer", for_s=90_000).until == clock.now + timedelta(hours=25)


def test_resuming_by_hand_lifts_pause_and_failures(senders: Senders, other: Senders):
    trip(senders)
    for _ in range(4):
        senders.failed(MAIL, "no answer")

    assert other.resume()
    assert other.resume(MAIL)
    assert not other.resume()
    assert not other.resume(MAIL)
    assert senders.paused(MAIL) is None
    assert senders.failed(MAIL, "no answer") is None
    assert senders.failed("", "no answer") is None


def test_senders_do_not_pause_each_other(senders: Senders, database: Database):
    trip(senders)

    assert Senders(database, "others@example.com").paused() is None
    assert Senders(database, "others@example.com").all() == []


def test_success_asks_nothing_of_the_database_where_all_is_well(
    senders: Senders, other: Senders, database: Database
):
    begun: list[object] = []
    sa.event.listen(database.engine, "begin", begun.append)
    senders.worked(MAIL)
    assert len(begun) == 1  # the first letter

    for domain in (MAIL, "example.net", MAIL):
        for worker in (senders, other):
            worker.paused(domain)
            begun.clear()
            worker.worked(domain)
            assert begun == []


def test_success_after_failures_writes_once(senders: Senders, writes: list[str]):
    senders.worked(MAIL)
    senders.failed(MAIL, "no answer")
    writes.clear()

    senders.worked(MAIL)
    senders.worked(MAIL)

    assert len(writes) == 1


def test_the_first_letter_is_remembered(senders: Senders, other: Senders, clock: Clock, database: Database):
    assert senders.first_sent_at() is None
    trip(senders)
    assert senders.first_sent_at() is None
    first = clock.now
    senders.worked(MAIL)
    clock.move(days=3)
    other.worked(MAIL)
    senders.resume()

    assert senders.first_sent_at() == first
    assert Senders(database, SENDER).first_sent_at() == first


def test_a_first_letter_that_could_not_be_noted_is_noted_with_the_next(senders: Senders, database: Database):
    def refuse(*rest: object) -> None:
        raise sa.exc.OperationalError("", {}, Exception("away"))

    sa.event.listen(database.engine, "commit", refuse)
    with pytest.raises(Exception, match="away"):
        senders.worked(MAIL)
    sa.event.remove(database.engine, "commit", refuse)
    senders.worked(MAIL)

    assert Senders(database, SENDER).first_sent_at() is not None


def test_a_domain_that_fares_well_leaves_no_row(senders: Senders, clock: Clock):
    senders.worked(MAIL)
    trip(senders, MAIL)
    assert [row.domain for row in senders.all()] == ["", MAIL]
    clock.move(seconds=15)
    senders.paused(MAIL)
    senders.worked(MAIL)

    assert [row.domain for row in senders.all()] == [""]


def test_pauses_and_their_ends_are_logged_once(
    senders: Senders, other: Senders, clock: Clock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    pause = trip(senders, MAIL)
    for _ in range(5):
        other.failed(MAIL, "no answer")
    clock.move(seconds=15)
    for worker in (senders, other, other):
        worker.paused(MAIL)
    senders.worked(MAIL)
    senders.worked(MAIL)

    found = [record for record in caplog.records if record.message.startswith("sender.")]
    assert [record.message for record in found] == ["sender.paused", "sender.tried", "sender.resumed"]
    said = vars(found[0])
    assert (said["domain"], said["reason"]) == (MAIL, "451 4.3.2 try later")
    assert said["until"] == pause.until.isoformat()
    assert SENDER not in str([vars(record) for record in found])
