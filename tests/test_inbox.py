"""Many requests, one commit; and what a request is told when the commit does not come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from core.errors import JournalUnavailableError
from core.events import EventId
from integrations.store.database import Database
from integrations.store.inbox import Delivery, Inbox, Taken
from integrations.store.journal import Journal
from tasks.routes import ROUTES
from tests.house import Clock, an_event
from tests.webhooks.wix_signing import segment
from webhooks.intake import Intake
from webhooks.opening import Opener

NEW = ("new", "an-id", "a-site", "a-type")


class SlowDisk:
    """Commits when allowed to; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.allowed = threading.Event()
        self.reached = threading.Event()

    def take(self, batch: Sequence[Delivery]) -> list[Taken]:
        self.batches.append([claims.decode() for claims, _ in batch])
        self.reached.set()
        assert self.allowed.wait(10)
        return [NEW] * len(batch)


def test_whoever_arrives_during_a_commit_rides_in_the_next_one(clock: Clock):
    disk, rings = SlowDisk(), []
    inbox = Inbox(disk.take, lambda: rings.append(1), timeout_s=10)

    async def deliver() -> list[bool]:
        first = asyncio.create_task(inbox.accept(b"first", 0.0))
        await asyncio.to_thread(disk.reached.wait, 10)
        others = [asyncio.create_task(inbox.accept(f"e{n}".encode(), 0.0)) for n in range(20)]
        await asyncio.sleep(0)
        disk.allowed.set()
        return list(await asyncio.gather(first, *others))

    assert asyncio.run(deliver()) == [NEW] * 21
    inbox.close()
    assert [len(batch) for batch in disk.batches] == [1, 20]
    assert len(rings) == 2


def test_a_disk_that_takes_too_long_is_told_to_wix_as_503(clock: Clock):
    disk = SlowDisk()
    inbox = Inbox(disk.take, lambda: None, timeout_s=0.05)
    with pytest.raises(JournalUnavailableError, match="in time"):
        asyncio.run(inbox.accept(b"one", 0.0))
    disk.allowed.set()
    inbox.close()


def test_more_waiting_requests_than_there_is_room_for_are_refused_at_once(clock: Clock):
    disk = SlowDisk()
    inbox = Inbox(disk.take, lambda: None, timeout_s=5, most_waiting=2)

    async def deliver() -> list[object]:
        first = asyncio.create_task(inbox.accept(b"first", 0.0))
        await asyncio.to_thread(disk.reached.wait, 10)
        crowd = [asyncio.create_task(inbox.accept(f"e{n}".encode(), 0.0)) for n in range(5)]
        await asyncio.sleep(0)
        disk.allowed.set()
        return list(await asyncio.gather(first, *crowd, return_exceptions=True))

    answers = asyncio.run(deliver())
    inbox.close()
    assert answers[:3] == [NEW] * 3
    assert all(isinstance(answer, JournalUnavailableError) for answer in answers[3:])
    assert len(answers[3:]) == 3


def test_who_comes_in_the_same_turn_of_the_loop_rides_together_and_waits_for_nobody(clock: Clock):
    disk = SlowDisk()
    disk.allowed.set()
    inbox = Inbox(disk.take, lambda: None, timeout_s=10)

    async def deliver() -> None:
        await asyncio.gather(*(inbox.accept(f"e{n}".encode(), 0.0) for n in range(20)))
        await inbox.accept(b"alone", 0.0)

    asyncio.run(deliver())
    inbox.close()
    assert [len(batch) for batch in disk.batches] == [20, 1]


def test_everybody_waits_equally_long_though_one_timer_serves_all(clock: Clock):
    disk = SlowDisk()
    inbox = Inbox(disk.take, lambda: None, timeout_s=0.2)

    async def wait(name: str) -> float:
        loop = asyncio.get_running_loop()
        came_at = loop.time()
        with pytest.raises(JournalUnavailableError, match="in time"):
            await inbox.accept(name.encode(), 0.0)
        return loop.time() - came_at

    async def deliver() -> list[float]:
        first = asyncio.create_task(wait("first"))
        await asyncio.sleep(0.1)
        return await asyncio.gather(first, wait("second"))

    for _ in range(2):  # the second loop has its own timer
        assert all(waited >= 0.19 for waited in asyncio.run(deliver()))
    disk.allowed.set()
    inbox.close()
    assert len(disk.batches) == 1, "nobody waited any more for the others"


def test_large_deliveries_are_not_held_in_memory_twice_by_the_hundred(clock: Clock):
    disk = SlowDisk()
    inbox = Inbox(disk.take, lambda: None, timeout_s=10)

    async def deliver() -> None:
        first = asyncio.create_task(inbox.accept(b"first", 0.0))
        await asyncio.to_thread(disk.reached.wait, 10)
        large = b"y" * 1_000_000
        others = [asyncio.create_task(inbox.accept(large, 0.0)) for _ in range(9)]
        await asyncio.sleep(0)
        disk.allowed.set()
        await asyncio.gather(first, *others)

    asyncio.run(deliver())
    inbox.close()
    assert [len(batch) for batch in disk.batches] == [1, 4, 4, 1]


def test_a_refused_commit_refuses_everybody_who_rode_in_it(clock: Clock):
    def away(batch: Sequence[Delivery]) -> list[Taken]:
        raise JournalUnavailableError("the database is away")

    inbox = Inbox(away, lambda: pytest.fail("nothing was committed"))
    with pytest.raises(JournalUnavailableError, match="away"):
        asyncio.run(inbox.accept(b"one", 0.0))
    inbox.close()


def test_one_event_the_database_cannot_take_does_not_refuse_the_others(database: Database, clock: Clock):
    intake = Intake(Journal(database, listened=ROUTES), Opener())
    started, go = threading.Event(), threading.Event()

    def take(batch: Sequence[Delivery]) -> list[Taken]:
        started.set()
        assert go.wait(10)
        if any(claims == segment("poison") for claims, _ in batch):
            raise ValueError("no database can take this")
        return intake.take(batch)

    inbox = Inbox(take, lambda: None, timeout_s=10)

    async def deliver() -> list[object]:
        tasks = [asyncio.create_task(inbox.accept(segment("e0"), 0.0))]
        await asyncio.to_thread(started.wait, 10)
        tasks += [asyncio.create_task(inbox.accept(segment(name), 0.0)) for name in ("e1", "poison", "e2")]
        await asyncio.sleep(0)
        go.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    answers = asyncio.run(deliver())
    inbox.close()
    assert [told[0] for told in answers[:2]] == ["new", "new"]
    assert isinstance(answers[2], JournalUnavailableError)
    assert answers[3][0] == "new"


def test_closing_commits_what_still_waits(database: Database, clock: Clock):
    journal = Journal(database, listened=ROUTES)
    inbox = Inbox(Intake(journal, Opener()).take, lambda: None)

    async def deliver() -> Taken:
        task = asyncio.create_task(inbox.accept(segment("one"), 0.0))
        await asyncio.sleep(0)
        await asyncio.to_thread(inbox.close)
        return await task

    assert asyncio.run(deliver())[0] == "new"
    assert journal.counts() == {"received": 1}


def test_twins_in_one_batch_are_one_new_and_one_known(database: Database, clock: Clock):
    journal = Journal(database, listened=ROUTES)
    other = an_event(clock, id="e2")
    assert journal.insert([an_event(clock), other, an_event(clock)]) == [True, True, False]
    assert journal.insert([other]) == [False]


def test_the_same_id_on_another_site_is_another_event(database: Database, clock: Clock):
    from dataclasses import replace

    journal = Journal(database, listened=ROUTES)
    ours = an_event(clock)
    theirs = replace(ours, site="another-site", id=EventId(ours.id))  # type: ignore[arg-type]
    assert journal.insert([ours, theirs]) == [True, True]
