from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError as RedisAwayError
from wix_stand_in import SITE, Clock

from core.community import SiteId
from core.errors import RetryableError
from integrations.cache import ExpiringCache
from integrations.shared import SharedRedis, open_redis
from integrations.wix.budget import Budget

OTHER_SITE = SiteId("other-site")


def a_budget(
    redis: Redis | None, calls_per_minute: int = 45, now: Callable[[], float] | None = None
) -> Budget:
    """45 a minute: a burst of 5, of which bulk work may use 3, and one call more every 1.33 s."""
    now = now or Clock()
    return Budget(calls_per_minute, SharedRedis(redis, now), now)


def taken(budget: Budget, tries: int = 30, *, bulk: bool = False) -> int:
    return sum(refusal(budget, bulk=bulk) is None for _ in range(tries))


def refusal(budget: Budget, site: SiteId = SITE, *, bulk: bool = False) -> RetryableError | None:
    try:
        budget.take(site, bulk=bulk)
    except RetryableError as exc:
        return exc
    return None


def wait_of(exc: RetryableError | None) -> float:
    assert exc is not None
    assert exc.retry_after_s is not None
    return exc.retry_after_s


def let_time_pass(redis: Redis, seconds: float) -> None:
    """As the budget sees it: it was full that much earlier."""
    key = f"usher:wix:{{{SITE}}}:budget"
    redis.set(key, int(redis.get(key)) - round(seconds * 1e6))


def test_a_burst_is_allowed_and_then_one_call_at_a_time(redis_client: Redis):
    budget = a_budget(redis_client, 9)  # a burst of one, then one every 6.7 s

    assert taken(budget) == 1
    let_time_pass(redis_client, 6.7)
    assert taken(budget) == 1


def test_a_refusal_says_when_to_come_again_and_is_no_attempt(redis_client: Redis):
    budget = a_budget(redis_client, 9)
    taken(budget)

    exc = refusal(budget)

    assert exc is not None
    assert not exc.counts
    assert 0 < wait_of(exc) <= 60 / 9 + 0.001


def test_every_site_has_its_own_budget(redis_client: Redis):
    budget = a_budget(redis_client, 9)
    taken(budget)

    assert refusal(budget, OTHER_SITE) is None


def test_bulk_work_leaves_room_for_live_events(redis_client: Redis):
    budget = a_budget(redis_client)
    started = time.monotonic()

    bulk, live = taken(budget, bulk=True), taken(budget)

    refilled = (time.monotonic() - started) / (60 / 45)
    assert 3 <= bulk <= 3 + refilled
    assert 5 <= bulk + live <= 5 + refilled


def test_bulk_work_is_not_shut_out_by_the_smallest_budget(redis_client: Redis):
    assert taken(a_budget(redis_client, 1), bulk=True) == 1


def test_a_refused_call_costs_nothing(redis_client: Redis):
    budget = a_budget(redis_client, 9)
    taken(budget, tries=500)

    assert wait_of(refusal(budget)) <= 60 / 9 + 0.001


def test_what_an_older_rate_or_a_wrong_clock_left_behind_is_bounded(redis_client: Redis):
    budget = a_budget(redis_client, 9)
    taken(budget)
    let_time_pass(redis_client, -1_000_000)

    assert wait_of(refusal(budget)) <= 2 * 60 / 9


def test_an_idle_budget_leaves_nothing_in_redis(redis_client: Redis):
    taken(a_budget(redis_client))

    assert 0 < redis_client.pttl(f"usher:wix:{{{SITE}}}:budget") <= 60_000 / 9 + 1_400


def test_many_threads_share_one_budget(redis_client: Redis):
    started = time.monotonic()
    counts: list[int] = []
    budget = a_budget(redis_client)
    threads = [threading.Thread(target=lambda: counts.append(taken(budget))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(counts) == 8
    assert 5 <= sum(counts) <= 5 + (time.monotonic() - started) / (60 / 45)


def _take_in_process(redis_url: str, ready: Any, counts: Any) -> None:
    budget = a_budget(open_redis(redis_url))
    ready.wait(60)
    counts.put(taken(budget))


def test_many_processes_share_one_budget(redis_client: Redis, redis_url: str):
    spawn = multiprocessing.get_context("spawn")
    ready, counts = spawn.Barrier(4), spawn.Queue()
    processes = [spawn.Process(target=_take_in_process, args=(redis_url, ready, counts)) for _ in range(3)]
    for process in processes:
        process.start()
    ready.wait(60)
    started = time.monotonic()
    total = sum(counts.get(timeout=60) for _ in processes)
    refilled = (time.monotonic() - started) / (60 / 45)
    for process in processes:
        process.join(30)

    assert 5 <= total <= 5 + refilled + 1


def test_a_pause_holds_for_every_worker_and_only_its_site(redis_client: Redis):
    one, other = a_budget(redis_client), a_budget(redis_client)

    assert one.pause(SITE, 30) == 30

    assert 29 < wait_of(refusal(other)) <= 30
    assert refusal(other, OTHER_SITE) is None


def test_a_longer_pause_is_not_cut_short_by_a_shorter_one(redis_client: Redis):
    one, other = a_budget(redis_client), a_budget(redis_client)
    one.pause(SITE, 30)

    assert other.pause(SITE, 1) > 29
    assert other.pause(SITE, None) > 29
    assert wait_of(refusal(other)) > 29


def test_a_paused_process_stays_paused_when_redis_forgets(redis_client: Redis):
    budget = a_budget(redis_client)
    budget.pause(SITE, 30)
    redis_client.flushall()

    assert wait_of(refusal(budget)) == 30


def test_pauses_without_a_time_from_wix_grow_to_a_minute(redis_client: Redis):
    budget = a_budget(redis_client)
    waits = []
    for _ in range(9):
        waits.append(budget.pause(SITE, None))
        redis_client.delete(f"usher:wix:{{{SITE}}}:pause")

    for wait_s, most in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert most / 2 <= wait_s <= most + 0.001


def test_workers_that_meet_the_same_wall_climb_one_step(redis_client: Redis):
    waits = [a_budget(redis_client).pause(SITE, None) for _ in range(10)]

    assert max(waits) <= 1.001


@pytest.fixture
def silent_redis() -> Iterator[tuple[str, list[socket.socket]]]:
    """Accepts connections and says nothing."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}", accepted
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in accepted:
            connection.close()


def test_a_silent_redis_is_asked_once_and_a_quarter_of_the_budget_goes_on(
    silent_redis: tuple[str, list[socket.socket]],
):
    url, accepted = silent_redis

    assert taken(a_budget(open_redis(url), 180)) == 5
    assert len(accepted) == 1


def test_a_question_to_redis_may_cost_half_a_second_and_is_asked_once():
    redis = open_redis("redis://127.0.0.1:1")

    settings = redis.get_connection_kwargs()
    assert settings["socket_timeout"] == settings["socket_connect_timeout"] == 0.5
    assert redis.get_retry().get_retries() == 0


def test_what_a_process_remembers_is_bounded():
    remembered: ExpiringCache[int, int] = ExpiringCache(Clock(), max_entries=3)

    for number in range(5):
        remembered.put(number, number, 60)

    assert [remembered.get(number) for number in range(5)] == [None, None, 2, 3, 4]


def test_a_redis_that_is_not_there_is_not_an_error(tmp_path):
    redis = open_redis(f"unix://{tmp_path / 'nobody'}")
    budget = a_budget(redis, 180)

    assert taken(budget) == 5
    assert budget.pause(SITE, 30) == 30


def test_redis_is_asked_again_two_seconds_after_it_failed():
    clock = Clock()
    shared = SharedRedis(open_redis("redis://127.0.0.1:1"), clock)
    asked = 0

    def fail(redis: Redis) -> str:
        nonlocal asked
        asked += 1
        raise RedisAwayError

    for _ in range(10):
        assert shared.ask(fail, "default") == "default"
    assert asked == 1
    clock.now_s += 2
    assert shared.ask(lambda redis: "back", "default") == "back"


def test_without_redis_time_gives_calls_back():
    clock = Clock()
    budget = a_budget(None, 180, clock)  # a quarter: 45 a minute

    assert taken(budget) == 5
    assert wait_of(refusal(budget)) == pytest.approx(60 / 45)
    clock.now_s += 60 / 45
    assert taken(budget) == 1
    clock.now_s += 3600
    assert taken(budget, bulk=True) == 3
    assert taken(budget) == 2


def test_without_redis_threads_share_the_process_budget():
    budget = a_budget(None, 180)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(taken(budget))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sum(counts) == 5


def test_without_redis_pauses_hold_and_grow():
    clock = Clock()
    budget = a_budget(None, 180, clock)

    first = budget.pause(SITE, None)
    assert 0.5 <= first <= 1
    assert budget.pause(SITE, None) == pytest.approx(first)
    assert wait_of(refusal(budget)) == pytest.approx(first)
    clock.now_s += first + 0.001
    assert refusal(budget) is None
    assert 1 <= budget.pause(SITE, None) <= 2
    assert budget.pause(SITE, 100) == 100
    assert budget.pause(SITE, 1) == pytest.approx(100)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=400), st.sampled_from([4, 45, 180, 600]))
def test_no_minute_holds_more_than_the_rate_and_its_burst(steps: list[float], calls_per_minute: int):
    """The same rule as in Redis, run against a clock: for 180 no window holds more than Wix's 200 (a quarter)."""
    clock = Clock()
    budget = a_budget(None, calls_per_minute, clock)
    times = []
    for step in steps:
        clock.now_s += step
        if refusal(budget) is None:
            times.append(clock.now_s)

    most = calls_per_minute / 4 + max(1, calls_per_minute / 9 / 4) + 0.01
    for start in times:
        assert sum(start <= moment < start + 60 for moment in times) <= most
