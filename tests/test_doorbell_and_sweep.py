"""Waking a worker: never waiting, never relied upon."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from admin.embedded import EmbeddedRedis
from core.community import Member, MemberId, Membership, Subscription
from core.errors import JournalUnavailableError
from integrations.shared import open_redis
from integrations.store.database import Database
from tasks.app import ENOUGH_UNREAD, QUEUE, create_app, ring
from tasks.doorbell import BREAK_S, Doorbell
from tasks.sweep import Sweeper
from tests.email.smtp_servers import self_signed
from tests.house import RUNNERS, WELCOME, Clock, House, a_house, an_event
from tests.test_supervisor import until


def test_a_ring_returns_at_once_while_the_broker_hangs():
    hanging, reached = threading.Event(), threading.Event()

    def publish() -> int:
        if not rings:
            rings.append(1)
            return 0
        reached.set()
        assert hanging.wait(10)
        return 0

    rings: list[int] = []
    doorbell = Doorbell(publish)
    assert doorbell.ring_and_hear(within_s=10) == 0
    doorbell.ring()
    assert reached.wait(10)
    for _ in range(1000):
        doorbell.ring()  # would not return if it waited
    assert doorbell.ring_and_hear(within_s=0.01) is None, "who wants to know does not wait for ever either"
    hanging.set()
    doorbell.close()


def test_many_rings_while_one_is_under_way_are_one_more():
    rings: list[int] = []
    go, first = threading.Event(), threading.Event()
    second = threading.Event()

    def publish() -> int:
        rings.append(1)
        (second if len(rings) == 2 else first).set()
        assert go.wait(10)
        return 0

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

    def publish() -> int:
        tried.append(1)
        failed.set()
        raise ConnectionError

    doorbell = Doorbell(publish)
    doorbell.ring()
    assert failed.wait(10)
    doorbell.ring()
    assert doorbell.ring_and_hear(within_s=10) is None
    doorbell.close()
    assert (len(tried), doorbell.failures) == (1, 1)


def test_who_rings_hears_how_many_rings_lie_unread():
    unread = iter((0, 7))
    doorbell = Doorbell(lambda: next(unread))
    assert [doorbell.ring_and_hear(within_s=10) for _ in range(2)] == [0, 7]
    doorbell.close()


def counted(rings: list[int]) -> int:
    rings.append(1)
    return 0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Path]:
    """The socket of a Valkey of this test alone."""
    server = EmbeddedRedis(tmp_path / "redis.sock")
    server.start()
    yield tmp_path / "redis.sock"
    server.stop()


def test_a_queue_that_nobody_reads_is_not_filled(valkey: Path):
    app = create_app(f"redis+socket://{valkey}", publisher=True)
    unread = [ring(app) for _ in range(ENOUGH_UNREAD + 20)]
    assert unread == [*range(ENOUGH_UNREAD), *[ENOUGH_UNREAD] * 20]
    with open_redis(f"unix://{valkey}") as asking:
        assert asking.llen(QUEUE) == ENOUGH_UNREAD
        asking.flushall()
    assert ring(app) == 0, "and a queue that was lost is made anew"


@pytest.mark.parametrize(("host", "trusted"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_a_broker_with_the_certificate_of_another_host_is_not_spoken_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool
):
    server_side, _ = self_signed(tmp_path)  # for 127.0.0.1
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    heard: list[bytes] = []

    def take_one() -> None:
        talk, _ = listener.accept()
        with talk, contextlib.suppress(ssl.SSLError):
            heard.append(server_side.wrap_socket(talk, server_side=True).recv(4))

    with socket.create_server((host, 0)) as listener:
        thread = threading.Thread(target=take_one)
        thread.start()
        url = f"amqps://guest:guest@{host}:{listener.getsockname()[1]}//"
        with pytest.raises((OSError, OperationalError)):  # it is no broker
            ring(create_app(url, publisher=True))
        thread.join(10)
    assert heard == ([b"AMQP"] if trusted else [])


def test_a_silent_broker_counts_as_away_and_is_found_again(valkey: Path):
    with open_redis(f"unix://{valkey}") as asking:
        server = int(asking.info()["process_id"])
    doorbell = Doorbell(functools.partial(ring, create_app(f"redis+socket://{valkey}", publisher=True)))
    until(lambda: doorbell.ring_and_hear() is not None, "the first ring")
    os.kill(server, signal.SIGSTOP)
    try:
        assert doorbell.ring_and_hear() is None
    finally:
        os.kill(server, signal.SIGCONT)
    until(lambda: doorbell.ring_and_hear() is not None, "the broker to be found again", BREAK_S + 10)
    doorbell.close()


class Watch:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_sweep_rings_for_what_is_due_and_for_nothing_else(database: Database, clock: Clock):
    house = a_house(database, clock)
    rings: list[int] = []
    sweeper = Sweeper(house.services, lambda: counted(rings), Watch())
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
    sweeper = Sweeper(house.services, lambda: counted(rings), watch)
    for _ in range(60):
        sweeper.look()
        watch.now_s += 1
    assert len(rings) == 12
    assert house.mail.readers == [], "letters are never sent by a sweeper whose broker is there"


def test_events_that_no_worker_comes_for_are_worked_off_by_the_sweeper(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    watch = Watch()
    sweeper = Sweeper(house.services, lambda: 0, watch)
    assert sweeper.look() == "rung"
    watch.now_s += 9
    assert sweeper.look() == "rung"
    watch.now_s += 2
    assert sweeper.look() == "helped"
    assert house.services.journal.counts() == {"done": 1}


def test_with_the_broker_away_the_sweep_does_the_work_itself(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    assert Sweeper(house.services, lambda: None).look() == "done here"
    assert house.mail.readers == ["ann@example.com"]


def test_two_sweepers_write_to_nobody_twice(database: Database, clock: Clock):
    houses = a_house(database, clock), a_house(database, clock)
    members = [MemberId(f"m-{number}") for number in range(60)]
    for house in houses:
        house.wix.members = {one: Member(one, "APPROVED", f"{one}@example.com", "A") for one in members}
        house.wix.memberships = {(RUNNERS, one): Membership("joined") for one in members}
        said_yes = Subscription("SUBSCRIBED", "VALID")
        house.wix.subscriptions = {f"{one}@example.com": said_yes for one in members}
    houses[0].hear(*(an_event(clock, id=one, member=one) for one in members))
    begin = threading.Barrier(2)
    looks: list[str] = []

    def sweep(house: House) -> None:
        sweeper = Sweeper(house.services, lambda: None)
        begin.wait(10)
        while (seen := sweeper.look()) != "nothing due":
            looks.append(seen)

    threads = [threading.Thread(target=sweep, args=(house,)) for house in houses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert set(looks) == {"done here"}
    written_to = [reader for house in houses for reader in house.mail.readers]
    assert sorted(written_to) == sorted(f"{one}@example.com" for one in members)
    assert houses[0].services.journal.counts() == {"done": 60}


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
