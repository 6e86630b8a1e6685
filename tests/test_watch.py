"""A worker watches itself: it rings, helps itself, and ends when nothing reaches it any more."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from admin.demo.stage import Stage, set_up
from admin.serve import CUT_SHORT_AFTER_S, LET_GO_WITHIN_S
from admin.supervisor import STOP_WITHIN_S, Child
from config.settings import socket_path
from core.community import MemberId
from core.errors import JournalUnavailableError, LostLeaseError
from core.letters import Effects
from integrations.shared import open_redis
from integrations.store.database import Database
from integrations.store.ledger import ClaimedLetter
from integrations.store.tables import events
from tasks.app import QUEUE, TASK_TIME_LIMIT_S, create_app
from tasks.doorbell import Doorbell
from tasks.events import run_events
from tasks.letters import RECORDING_S
from tasks.services import Services
from tasks.watch import Board, Shift, Watch
from tests.house import Clock, a_house, an_event
from tests.test_processes import OPEN, is_at_rest, join, letters_to, sign_up, the_child
from tests.test_supervisor import is_gone, pid_of, until

AWAY = None


@dataclass
class World:
    """What a free child of a worker sees, at a time that moves when told to."""

    due: bool = True
    unread: int | None = 0
    heard_at: float = 0.0
    now_s: float = 0.0
    rings: int = 0
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(lambda: self.due, self.ring, lambda: self.now_s)

    def ring(self) -> int | None:
        self.rings += 1
        return self.unread

    def look_for(self, seconds: int, every_s: int = 5) -> list[str]:
        """What is seen by looking now and then for so long."""
        seen = []
        for _ in range(seconds // every_s):
            seen.append(self.watch.look(self.heard_at))
            self.now_s += every_s
        return seen


def test_nobody_rings_while_nothing_is_due():
    world = World(due=False, unread=50)

    assert set(world.look_for(600)) == {"nothing due"}
    assert world.rings == 0


def test_what_became_due_a_moment_ago_is_left_to_the_bell():
    world = World(due=False)
    world.look_for(3600)
    world.due = True

    assert set(world.look_for(20)) == {"waiting"}
    assert world.rings == 0


def test_a_worker_that_hears_the_bell_is_at_ease_though_rows_are_always_due():
    world = World(unread=90)
    seen = []
    for _ in range(100):
        seen += world.look_for(15)
        world.heard_at = world.now_s

    assert set(seen) == {"waiting"}


def test_a_worker_that_hears_nothing_rings_itself():
    world = World()

    assert world.look_for(30) == ["waiting"] * 4 + ["rung", "rung"]


def test_with_the_broker_away_a_worker_helps_itself_for_as_long_as_that_lasts():
    world = World(unread=AWAY)

    assert world.look_for(600) == ["waiting"] * 4 + ["broker away"] * 116


def test_rings_that_stay_unread_while_hands_are_free_mean_a_dead_connection():
    world = World()
    world.look_for(25)
    world.unread = 1

    assert world.look_for(10) == ["rung", "deaf"]


def test_rings_that_others_take_are_no_reason_to_end():
    """Another worker works it off, however long that takes; or the rings get lost, and then help is welcome."""
    world = World(unread=0)

    assert world.look_for(600) == ["waiting"] * 4 + ["rung"] * 2 + ["unheard"] * 114


def test_a_queue_that_is_emptied_now_and_then_has_a_reader():
    world = World()
    seen = []
    for unread in (3, 0, 12, 0, 0) * 10:
        world.unread = unread
        seen += world.look_for(5)

    assert "deaf" not in seen


def test_a_broker_that_comes_back_is_given_time_to_be_found():
    world = World(unread=AWAY)
    world.look_for(600)
    world.unread = 40

    assert world.look_for(10) == ["rung", "rung"]


def test_who_hears_again_starts_anew():
    world = World(unread=1)
    assert world.look_for(30) == ["waiting"] * 4 + ["rung", "rung"]
    world.heard_at = world.now_s

    assert world.look_for(30) == ["waiting"] * 4 + ["rung", "rung"]


def test_a_restarted_count_follows_a_database_that_was_away():
    world = World(unread=1)
    world.look_for(30)
    world.watch.begin_again()

    assert world.look_for(30) == ["waiting"] * 4 + ["rung", "rung"]


class SeesAtOnce(Watch):
    """A watch that sees what it is told."""

    begun = 0

    def begin_again(self) -> None:
        self.begun += 1

    def __init__(self, *seen: str) -> None:
        super().__init__(lambda: True, lambda: 0)
        self.seen = list(seen)

    def look(self, heard_at: float) -> str:
        return self.seen.pop(0)


@pytest.fixture
def doorbell() -> Iterator[Doorbell]:
    found = Doorbell(lambda: 0)
    yield found
    found.close()


def looked(shift: Shift, *seen: str) -> int:
    """Look as often as there is something to see; returns how often the watch had to begin again."""
    watch = shift._watch = SeesAtOnce(*seen)
    stop = threading.Event()
    thread = threading.Thread(target=shift.watch_until, args=(stop, 0.001))
    thread.start()
    until(lambda: not watch.seen, "everything to be seen")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    return watch.begun - 1


@pytest.mark.parametrize("seen", ["broker away", "unheard", "deaf"])
def test_who_is_not_reached_does_the_work_letters_too(
    database: Database, clock: Clock, doorbell: Doorbell, seen: str
):
    house = a_house(database, clock)
    house.hear(an_event(clock))

    looked(Shift(house.services, doorbell, Board(1), 0, lambda: None), seen)

    assert house.mail.readers == ["ann@example.com"]


@pytest.mark.parametrize("seen", ["nothing due", "waiting", "rung"])
def test_who_may_still_be_reached_leaves_the_work_alone(
    database: Database, clock: Clock, doorbell: Doorbell, seen: str
):
    house = a_house(database, clock)
    house.hear(an_event(clock))

    looked(Shift(house.services, doorbell, Board(1), 0, lambda: None), seen)

    assert house.services.journal.counts() == {"received": 1}


def test_only_a_deaf_worker_ends(database: Database, clock: Clock, doorbell: Doorbell):
    ended: list[int] = []
    shift = Shift(a_house(database, clock).services, doorbell, Board(2), 1, lambda: ended.append(1))

    looked(shift, "nothing due", "waiting", "rung", "broker away", "unheard")
    assert ended == []
    looked(shift, "deaf")
    assert ended == [1]


def test_a_deaf_worker_does_not_end_while_a_sibling_waits_for_a_mail_server(
    database: Database, clock: Clock, doorbell: Doorbell
):
    house = a_house(database, clock)
    ended: list[int] = []
    board = Board(2)
    shift = Shift(house.services, doorbell, board, 0, lambda: ended.append(1))
    Shift(house.services, doorbell, board, 1, lambda: None)
    board.set_busy(1, True)

    looked(shift, "deaf", "deaf")
    assert ended == []

    Shift(house.services, doorbell, board, 1, lambda: None)  # the sibling was killed; this one has its place
    looked(shift, "deaf")
    assert ended == [1]


def test_all_children_of_a_worker_have_heard_what_one_has_heard(
    database: Database, clock: Clock, doorbell: Doorbell
):
    board = Board(8)
    before = board.heard_at
    Shift(a_house(database, clock).services, doorbell, board, 3, lambda: None).answer()

    assert board.heard_at > before


def test_a_child_takes_one_turn_at_a_time(database: Database, clock: Clock, doorbell: Doorbell):
    """Its leases carry one name: two turns at once could not tell each other's rows apart."""
    house = a_house(database, clock)
    board = Board(1)
    shift = Shift(house.services, doorbell, board, 0, lambda: None)
    inside, go_on = threading.Event(), threading.Event()
    claim = house.services.journal.claim
    claims: list[int] = []

    def slow_claim(limit: int) -> Any:
        claims.append(1)
        inside.set()
        assert go_on.wait(10)
        return claim(limit)

    house.services.journal.claim = slow_claim  # type: ignore[method-assign]
    turn = threading.Thread(target=shift.answer)
    turn.start()
    assert inside.wait(10)
    assert board.anybody_busy
    shift.answer()
    assert claims == [1]
    go_on.set()
    turn.join(10)
    assert not board.anybody_busy


def test_the_watch_outlives_a_database_that_is_away_and_defects_of_ours(
    database: Database, clock: Clock, doorbell: Doorbell
):
    house = a_house(database, clock)
    troubles = [JournalUnavailableError("away"), ZeroDivisionError()]

    def troubled(limit: int) -> Any:
        raise troubles.pop()

    house.services.journal.claim = troubled  # type: ignore[method-assign]
    shift = Shift(house.services, doorbell, Board(1), 0, lambda: None)
    assert looked(shift, "unheard", "unheard", "nothing due") == 1, "nobody saw what was due meanwhile"
    assert troubles == []


def test_what_a_process_lets_go_is_due_at_once_and_not_its_own_any_more(database: Database, clock: Clock):
    one, other = a_house(database, clock).services, a_house(database, clock).services
    one.journal.insert([an_event(clock)])
    [event] = one.journal.claim(10)
    other.let_go()
    assert other.journal.claim(10) == [], "nobody lets go of what another holds"
    one.let_go()
    [again] = other.journal.claim(10)
    assert again.row.crashes == 0, "nobody died of it"
    with pytest.raises(LostLeaseError):
        one.journal.finish((event, Effects(ignored="too late")))


def test_a_process_that_lets_go_keeps_a_letter_whose_final_dot_may_be_out(database: Database, clock: Clock):
    one, other = a_house(database, clock).services, a_house(database, clock).services
    one.journal.insert([an_event(clock)])
    run_events(one)
    [letter] = one.ledger.claim(10)
    one.let_go()
    [again] = other.ledger.claim(10)
    assert again.row.crashes == 0
    with pytest.raises(LostLeaseError):
        mark(one, letter)
    mark(other, again)
    other.let_go()
    assert one.ledger.claim(10) == []
    other.ledger.sent(again, "250 taken")


def mark(services: Services, letter: ClaimedLetter) -> None:
    services.ledger.mark(
        letter, purpose=letter.purpose, message_id="<1@x>", address_hashes=["h"], evidence=""
    )


def test_the_numbers_that_depend_on_each_other_agree():
    assert RECORDING_S < TASK_TIME_LIMIT_S < 1800, "RabbitMQ waits half an hour for an acknowledgement"
    assert CUT_SHORT_AFTER_S + LET_GO_WITHIN_S < STOP_WITHIN_S < 20
    for broker, steps in (
        ("redis://h", ("socket_connect_timeout", "socket_timeout")),
        ("amqp://h", ("read_timeout", "write_timeout")),
    ):
        worker, publisher = (create_app(broker, publisher=who).conf for who in (False, True))
        assert sum(publisher.broker_transport_options[step] for step in steps) <= 0.6
        assert all(worker.broker_transport_options[step] <= 5 for step in steps)
        assert publisher.broker_transport_options["max_retries"] == 0
    assert not {"socket_timeout", "ack_emulation"} & set(
        create_app("amqp://h", publisher=False).conf.broker_transport_options
    )


@pytest.fixture
def stage() -> Iterator[Stage]:
    with set_up() as found:
        yield found


def somebody(stage: Stage) -> str:
    """The address of a member who may be written to."""
    address = f"{uuid.uuid4().hex}@people.example.org"
    sign_up(stage, address, "Somebody")
    return address


def test_a_worker_that_became_deaf_goes_on_by_itself(stage: Stage) -> None:
    """Connected, alive, and reading nothing any more, as after an acknowledgement that failed."""
    worker = the_child(stage, "worker")
    deaf = pid_of(worker)
    celery = create_app(f"redis+socket://{socket_path(stage.folder / 'data')}", publisher=False)
    log = stage.folder / "worker.log"
    until(lambda: "ready." in log.read_text(), "the worker to listen")
    [told] = celery.control.cancel_consumer(QUEUE, reply=True, timeout=10, limit=1)
    assert all("ok" in answer for answer in told.values())

    address = somebody(stage)
    join(stage, address)

    until(lambda: letters_to(stage, address), "the letter", 60)
    until(lambda: pid_of(worker) != deaf, "a new worker", 60)
    assert log.read_text().count("worker.deaf") == 1
    again = somebody(stage)
    join(stage, again)
    until(lambda: letters_to(stage, again), "the next letter", 15)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    assert [len(letters_to(stage, one)) for one in (address, again)] == [1, 1]
    assert log.read_text().count("worker.deaf") == 1


def kill_redis(stage: Stage) -> None:
    with open_redis(f"unix://{socket_path(stage.folder / 'data')}") as asking:
        killed = int(asking.info()["process_id"])
    os.kill(killed, signal.SIGKILL)
    until(lambda: is_gone(killed), "Redis to be gone")


def take_away(stage: Stage, name: str) -> Child:
    child = the_child(stage, name)
    stage.household.children.remove(child)
    child.ask_to_end()
    until(lambda: child.exit_code() is not None, f"{name} to end")
    return child


def test_without_broker_and_beat_the_workers_deliver_alone(stage: Stage) -> None:
    kill_redis(stage)
    take_away(stage, "beat")
    address = somebody(stage)
    join(stage, address)

    until(lambda: letters_to(stage, address), "the letter", 60)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    assert len(letters_to(stage, address)) == 1
    assert "broker away" in (stage.folder / "worker.log").read_text()


DEADLY = """
import os, signal
from core.events import MEMBER_ADDED
from tasks import routes

usual = routes.ROUTES[MEMBER_ADDED]

def deadly(event, details, services):
    if details.member == os.environ["DEADLY"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(event, details, services)

routes.ROUTES[MEMBER_ADDED] = deadly
from admin.serve import serve_beat
serve_beat()
"""


def test_a_row_that_kills_its_process_is_set_aside_and_the_others_go_on(stage: Stage) -> None:
    """With the broker away and no worker, beat alone has it, dies of it, and is started again each time."""
    usual = take_away(stage, "beat")
    take_away(stage, "worker")
    kill_redis(stage)
    address = f"{uuid.uuid4().hex}@people.example.org"
    member = MemberId(sign_up(stage, address, "Poison"))
    others = [somebody(stage) for _ in range(5)]
    for one in (others[0], address, *others[1:]):
        join(stage, one)
    until(lambda: stage.deliveries()["counts"]["queued"] == 0, "Wix to have told everything")

    (stage.folder / "deadly.py").write_text(DEADLY)
    beat = Child(
        "beat",
        ("deadly",),
        {**usual.env, "DEADLY": member},
        log_to=stage.folder / "deadly.log",
        cwd=stage.folder,
    )
    beat.start()
    stage.household.children.append(beat)
    seen: set[int] = set()

    def outlived() -> bool:
        seen.add(pid_of(beat))
        if beat.exit_code() is not None:
            let_leases_run_out(stage)
        return is_at_rest(stage)

    until(outlived, "the row to be set aside", 90)
    with stage.database.begin() as tx:
        dead = tx.execute(sa.select(events.c.error).where(events.c.state == "dead")).all()
    assert dead == [("its worker died 5 times over it",)]
    assert len(seen) == 6, "it died five times, and lives"
    assert Counter(len(letters_to(stage, one)) for one in others) == {1: 5}
    assert letters_to(stage, address) == []


def let_leases_run_out(stage: Stage) -> None:
    with stage.database.begin() as tx:
        for table in OPEN:
            tx.execute(sa.update(table).where(table.c.lease.is_not(None)).values(next_at=tx.now))
