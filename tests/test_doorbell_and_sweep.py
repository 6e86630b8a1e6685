"""Waking a worker: never waiting, never relied upon."""

from __future__ import annotations

import threading

from core.errors import JournalUnavailableError
from integrations.store.database import Database
from tasks.doorbell import Doorbell
from tasks.sweep import Sweeper
from tests.house import WELCOME, Clock, a_house, an_event


def test_a_ring_returns_at_once_while_the_broker_hangs():
    hanging, reached = threading.Event(), threading.Event()

    def publish() -> None:
        reached.set()
        assert hanging.wait(10)

    doorbell = Doorbell(publish)
    doorbell.ring()
    assert reached.wait(10)
    for _ in range(1000):
        doorbell.ring()  # would not return if it waited
    hanging.set()
    doorbell.close()


def test_many_rings_while_one_is_under_way_are_one_more():
    rings: list[int] = []
    go, first = threading.Event(), threading.Event()
    second = threading.Event()

    def publish() -> None:
        rings.append(1)
        (second if len(rings) == 2 else first).set()
        assert go.wait(10)

    doorbell = Doorbell(publish)
    doorbell.ring()
    assert first.wait(10)
    for _ in range(50):
        doorbell.ring()
    go.set()
    assert second.wait(10)
    doorbell.close()
    assert len(rings) == 2


def test_a_broken_bell_is_left_alone_for_a_while():
    tried: list[int] = []
    failed = threading.Event()

    def publish() -> None:
        tried.append(1)
        failed.set()
        raise ConnectionError

    doorbell = Doorbell(publish)
    doorbell.ring()
    assert failed.wait(10)
    doorbell.ring()
    doorbell.ring()
    doorbell.close()
    assert (len(tried), doorbell.failures) == (1, 1)


class Watch:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_sweep_rings_for_what_is_due_and_for_nothing_else(database: Database, clock: Clock):
    house = a_house(database, clock)
    rings: list[int] = []
    sweeper = Sweeper(house.services, lambda: rings.append(1), Watch())
    assert sweeper.look() == "nothing due"
    house.hear(an_event(clock))
    assert sweeper.look() == "rung"
    [claimed] = house.services.journal.claim(10)
    assert sweeper.look() == "nothing due", "somebody works on it"
    clock.move(minutes=5)
    assert sweeper.look() == "rung", "and died over it"
    assert len(rings) == 2
    assert claimed.event.id == "e1"


def test_the_sweep_does_not_fill_a_queue_that_nobody_reads(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "1s"'))
    house.hear(an_event(clock))
    house.work()
    clock.move(minutes=5)
    rings: list[int] = []
    watch = Watch()
    sweeper = Sweeper(house.services, lambda: rings.append(1), watch)
    for _ in range(60):
        sweeper.look()
        watch.now_s += 1
    assert len(rings) == 12
    assert house.mail.readers == [], "letters are never sent by a sweeper whose broker is there"


def test_events_that_no_worker_comes_for_are_worked_off_by_the_sweeper(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    watch = Watch()
    sweeper = Sweeper(house.services, lambda: None, watch)
    assert sweeper.look() == "rung"
    watch.now_s += 9
    assert sweeper.look() == "rung"
    watch.now_s += 2
    assert sweeper.look() == "helped"
    assert house.services.journal.counts() == {"done": 1}


def test_with_the_broker_away_the_sweep_does_the_work_itself(database: Database, clock: Clock):
    def away() -> None:
        raise ConnectionError

    house = a_house(database, clock)
    house.hear(an_event(clock))
    assert Sweeper(house.services, away).look() == "done here"
    assert house.mail.readers == ["ann@example.com"]


def test_the_sweeper_outlives_a_database_that_is_away_and_defects_of_ours(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    stop, looks = threading.Event(), []
    troubles = [JournalUnavailableError("away"), ZeroDivisionError()]
    any_due = house.services.journal.any_due

    def troubled() -> bool:
        looks.append(1)
        if len(looks) == 3:
            stop.set()
        if troubles:
            raise troubles.pop()
        return any_due()

    house.services.journal.any_due = troubled  # type: ignore[method-assign]
    Sweeper(house.services, lambda: None).look_until(stop, every_s=0.001)
    assert len(looks) == 3
    assert troubles == []


def test_claimed_rows_that_were_not_begun_are_given_back(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), an_event(clock, id="e2"))
    first = house.services.journal.claim(10)
    house.services.journal.give_back(first)
    again = house.services.journal.claim(10)
    assert {event.event.id for event in again} == {"e1", "e2"}
    assert [event.row.crashes for event in again] == [0, 0], "giving back is no crash"
