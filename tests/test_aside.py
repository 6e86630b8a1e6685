"""A process aside runs statements, or takes deliveries in; whoever asks it may do without it at any time, and loses
nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

import integrations.aside
from core.errors import JournalUnavailableError
from integrations.aside import Aside, GoneError
from integrations.deadlines import Deadlines
from integrations.email.unsubscribe import AddressHashes
from integrations.store.database import Database
from integrations.store.inbox import Delivery, Inbox, Taken
from integrations.store.journal import Journal
from integrations.store.line import Line
from integrations.store.tables import events
from tasks.routes import ROUTES
from tests.webhooks.wix_signing import EXAMPLES, b64, claims, segment
from webhooks.intake import Intake, intake_aside
from webhooks.opening import Opener

ADD = "INSERT INTO sites (site, state, changed_at) VALUES (?, ?, ?)"
THEN = "2026-11-22 10:00:00.000000"


def ready(writer: Aside | Line) -> Aside:
    assert isinstance(writer, Aside)
    ends_at = time.monotonic() + 20
    while not writer.is_ready():
        assert time.monotonic() < ends_at, "no writer came"
        time.sleep(0.01)
    return writer


def pid_of(writer: Aside | Line | None) -> int:
    assert isinstance(writer, Aside)
    assert writer._process is not None
    return writer._process.pid


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrations.aside, "_START_AGAIN_AFTER_S", 0.0)


@pytest.fixture
def writer(database: Database, at_once: None) -> Iterator[Aside]:
    writer = database.writer()
    assert isinstance(writer, Aside)
    yield writer
    writer.close()


def a_site(name: str) -> tuple[str, str, str]:
    return name, "active", THEN


def sites(database: Database) -> list[str]:
    with database.read() as tx:
        return sorted(tx.connection.scalars(sa.text("SELECT site FROM sites")))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_statements_are_committed_one_after_the_other_and_their_rows_come_back(
    database: Database, writer: Aside
) -> None:
    ready(writer)
    asked = [writer.begin(ADD + " RETURNING site", a_site(f"s-{number}")) for number in range(3)]
    assert [writer.hear(each) for each in reversed(asked)] == [[["s-2"]], [["s-1"]], [["s-0"]]]
    assert sites(database) == ["s-0", "s-1", "s-2"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_statement_that_fails_leaves_nothing_and_the_next_goes_on(
    database: Database, writer: Aside
) -> None:
    ready(writer)
    for statement, parameters in (
        ("SELECT * FROM nowhere", ()),
        (ADD, a_site("x")),
        (ADD, a_site("x")),
    ):
        with contextlib.suppress(GoneError, JournalUnavailableError):
            writer.hear(writer.begin(statement, parameters))
    with pytest.raises(GoneError):
        writer.begin("SELECT 1", (object(),))
    with pytest.raises(GoneError):
        writer.hear(writer.begin(ADD, a_site("x")))
    assert writer.hear(writer.begin(ADD, a_site("y"))) == []
    assert sites(database) == ["x", "y"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_writer_that_died_is_gone_for_all_who_asked_and_another_is_begun(
    database: Database, writer: Aside
) -> None:
    os.kill(pid_of(ready(writer)), signal.SIGSTOP)
    asked = [writer.begin(ADD, a_site(f"s-{number}")) for number in range(2)]
    first = pid_of(writer)
    os.kill(first, signal.SIGKILL)
    for each in asked:
        with pytest.raises(GoneError):
            writer.hear(each)
    assert pid_of(ready(writer)) != first
    assert not Path(f"/proc/{first}").exists(), "it is buried too"
    assert writer.hear(writer.begin(ADD, a_site("again"))) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_writer_that_was_stopped_is_not_waited_for_for_ever(database: Database, writer: Aside) -> None:
    writer.patience_s = 0.2
    os.kill(pid_of(ready(writer)), signal.SIGSTOP)
    with pytest.raises(GoneError):
        writer.hear(writer.begin(ADD, a_site("x")))
    os.kill(pid_of(ready(writer)), signal.SIGSTOP)
    with pytest.raises(GoneError):
        writer.begin(ADD, ("y" * 5_000_000, "active", THEN))  # more than lies between the two
    assert sites(database) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_cannot_be_held_in_one_piece_arrives_whole(database: Database, writer: Aside) -> None:
    ready(writer)
    large = "y" * 5_000_000
    [[length, text]] = writer.hear(writer.begin("SELECT length(?), ?", (large, large)))
    assert (length, text) == (len(large), large)


def test_it_ends_with_the_process_it_works_for(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}")
    database.migrate()
    database.close()
    program = f"""
import time
from integrations.store.database import Database
writer = Database({str(database.url)!r}).writer()
while not writer.is_ready(): time.sleep(0.01)
print(writer._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        for number in (signal.SIGTERM, signal.SIGINT):  # as a terminal or a platform sends to all of them
            os.kill(child, number)
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    ends_at = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < ends_at, "it lives on"
        time.sleep(0.01)


def test_a_missing_file_stays_missing(tmp_path: Path, at_once: None) -> None:
    writer = Database(f"sqlite:///{tmp_path / 'nothing.db'}").writer()
    ready(writer)
    with pytest.raises(JournalUnavailableError, match="unable to open"):
        writer.hear(writer.begin("SELECT 1", ()))
    writer.close()
    assert not (tmp_path / "nothing.db").exists()


def test_a_locked_database_is_one_that_cannot_now(tmp_path: Path, at_once: None) -> None:
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}", timeout_s=0.05)
    database.migrate()
    writer = ready(database.writer())
    with sqlite3.connect(tmp_path / "usher.db", isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailableError, match="locked"):
            writer.hear(writer.begin(ADD, a_site("x")))
        blocker.execute("ROLLBACK")
    assert writer.hear(writer.begin(ADD, a_site("y"))) == []
    assert sites(database) == ["y"]
    writer.close()
    database.close()


def test_sqlite_s_log_is_copied_into_the_file_while_the_writer_goes_on(tmp_path: Path, at_once: None) -> None:
    file = tmp_path / "usher.db"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    before = file.read_bytes()
    writer = ready(database.writer())
    ends_at, number = time.monotonic() + 20, 0
    while file.read_bytes() == before:
        assert time.monotonic() < ends_at
        writer.hear(writer.begin(ADD, a_site(f"s-{number}")))
        number += 1
    assert number < 1000, "no sooner than SQLite does it itself"
    writer.close()
    database.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_goes_alone_goes_by_the_writer_and_without_it_when_it_is_gone(
    database: Database, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[object] = []
    alone = database._alone
    monkeypatch.setattr(database, "_alone", lambda *asked: here.append(asked[1][0]) or alone(*asked))
    database.use_writer()
    assert database._writer is not None
    database.alone(ADD, a_site("before"))
    ready(database._writer)
    first = database.begin_alone(ADD, a_site("begun"))
    database.alone(ADD, a_site("after"))
    first.hear()
    os.kill(pid_of(database._writer), signal.SIGSTOP)
    lost = database.begin_alone(ADD, a_site("lost"))
    os.kill(pid_of(database._writer), signal.SIGKILL)
    lost.hear()
    assert here == ["before", "lost"]
    assert sites(database) == ["after", "before", "begun", "lost"]
    with pytest.raises(sa.exc.IntegrityError):
        database.alone(ADD, a_site("lost"))


class Gate:
    """The inbox of a web process, with the process aside; `by_hand` counts what its thread had to take in."""

    def __init__(self, database: Database, **options: float) -> None:
        self.journal = Journal(database, listened=ROUTES)
        self.intake = Intake(self.journal, Opener())
        url = database.url.render_as_string(hide_password=False)
        self.aside = intake_aside(url, ["secret"], ROUTES)
        self.by_hand = 0
        self.rings = 0
        self.inbox = Inbox(self._take, self._ring, aside=self.aside, **options)  # type: ignore[arg-type]

    async def accept(self, name: str) -> str:
        outcome, *named = await self.inbox.accept(segment(name), time.time())
        assert named[0] == name
        return outcome

    async def ready(self) -> None:
        while not self.aside.is_ready():
            await asyncio.sleep(0.01)

    def _take(self, batch: Sequence[Delivery]) -> Sequence[Taken]:
        self.by_hand += len(batch)
        return self.intake.take(batch)

    def _ring(self) -> None:
        self.rings += 1


def kept(database: Database) -> list[str]:
    with database.read() as tx:
        return sorted(tx.connection.scalars(sa.select(events.c.id)))


def test_deliveries_are_committed_aside_twins_and_known_and_wrong_ones_told_apart(
    database: Database, at_once: None
) -> None:
    gate = Gate(database)

    async def deliver() -> None:
        assert await gate.accept("early") == "new"
        await gate.ready()
        assert await asyncio.gather(*map(gate.accept, "abac")) == ["new", "new", "duplicate", "new"]
        assert await gate.accept("lone") == "new"
        assert await asyncio.gather(*map(gate.accept, "bd")) == ["duplicate", "new"]
        old = b64(json.dumps({"exp": 1}).encode())
        told = await asyncio.gather(*(gate.inbox.accept(wrong, time.time()) for wrong in (old, b"e30", b"!")))
        assert [list(each) for each in told] == [["expired"], ["malformed"], ["bad_signature"]]
        assert gate.by_hand == 1

    asyncio.run(deliver())
    gate.inbox.close()
    assert kept(database) == ["a", "b", "c", "d", "early", "lone"]
    assert gate.rings == 4


def test_addresses_are_hashed_aside_with_the_keys_of_this_installation(
    database: Database, at_once: None
) -> None:
    example = json.loads((EXAMPLES / "wix.contacts.v4.contact_updated.json").read_text())
    said = b64(json.dumps(claims(example, "wix.contacts.v4.contact_updated")).encode())
    kept = []

    async def deliver() -> None:
        for is_ready in (False, True):
            gate = Gate(database)
            gate.intake = Intake(gate.journal, Opener(AddressHashes("secret").of))
            if is_ready:
                await gate.ready()
            await gate.inbox.accept(said, time.time())
            assert gate.by_hand == (not is_ready)
            await asyncio.to_thread(gate.inbox.close)
            with database.begin() as tx:
                kept.append(tx.connection.scalar(sa.select(events.c.payload)))
                tx.execute(sa.delete(events))

    asyncio.run(deliver())
    assert kept[0] == kept[1]
    assert json.loads(kept[0])["addressHashes"]


def test_a_process_that_dies_over_a_batch_costs_no_delivery(database: Database, at_once: None) -> None:
    gate = Gate(database, timeout_s=20)

    async def deliver() -> None:
        await gate.ready()
        os.kill(pid_of(gate.aside), signal.SIGSTOP)
        waiting = [asyncio.create_task(gate.accept(name)) for name in "abcde"]
        while len(gate.inbox._flights) < 1:
            await asyncio.sleep(0)
        late = [asyncio.create_task(gate.accept("late"))]
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(gate.inbox._flights) == 1, "one beside five waits for the answer"
        late += [asyncio.create_task(gate.accept(name)) for name in ("as", "many")]
        while len(gate.inbox._flights) < 2:
            await asyncio.sleep(0)
        os.kill(pid_of(gate.aside), signal.SIGKILL)
        assert await asyncio.gather(*waiting, *late) == ["new"] * 8

    asyncio.run(deliver())
    gate.inbox.close()
    assert kept(database) == ["a", "as", "b", "c", "d", "e", "late", "many"]
    assert gate.by_hand >= 8


def test_a_process_that_dies_while_nobody_asks_is_noticed_and_replaced(
    database: Database, at_once: None
) -> None:
    gate = Gate(database)

    async def deliver() -> None:
        await gate.accept("early")
        await gate.ready()
        await gate.accept("by-the-first")
        first = pid_of(gate.aside)
        os.kill(first, signal.SIGKILL)
        while gate.aside.fileno() != -1:  # the loop hears that its end is closed, once
            await asyncio.sleep(0.01)
        await gate.accept("meanwhile")
        await gate.ready()
        assert pid_of(gate.aside) != first
        await gate.accept("by-the-second")

    asyncio.run(deliver())
    gate.inbox.close()
    assert gate.by_hand == 2
    assert kept(database) == ["by-the-first", "by-the-second", "early", "meanwhile"]


def test_a_process_that_hangs_is_given_up_and_what_it_had_is_told_as_503(
    database: Database, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.store.inbox._ANSWERS_WITHIN_S", 0.3)
    gate = Gate(database, timeout_s=0.2)

    async def deliver() -> None:
        await gate.ready()
        os.kill(pid_of(gate.aside), signal.SIGSTOP)
        while gate.aside.fileno() != -1:
            with pytest.raises(JournalUnavailableError, match="in time"):
                await gate.accept("a")
        assert await gate.accept("after") == "new"

    asyncio.run(deliver())
    gate.inbox.close()
    assert kept(database) == ["after"]


def test_a_database_that_is_away_is_told_as_503_and_not_asked_twice(tmp_path: Path, at_once: None) -> None:
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}")
    database.migrate()
    gate = Gate(database, timeout_s=20)

    async def deliver() -> None:
        await gate.ready()
        with sqlite3.connect(tmp_path / "usher.db", isolation_level=None) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalUnavailableError, match="locked"):
                await gate.accept("a")
            blocker.execute("ROLLBACK")

    asyncio.run(deliver())
    gate.inbox.close()
    assert gate.by_hand == 0
    database.close()


def test_closing_hears_what_is_still_committed_aside(database: Database, at_once: None) -> None:
    gate = Gate(database)

    async def deliver() -> str:
        await gate.ready()
        task = asyncio.create_task(gate.accept("last"))
        while not gate.inbox._flights:
            await asyncio.sleep(0)
        gate.inbox.close()
        return await task

    assert asyncio.run(deliver()) == "new"
    assert gate.by_hand == 0
    assert gate.journal.counts() == {"received": 1}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_descriptor_beyond_a_thousand_is_as_good_as_any(database: Database, at_once: None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    held = [os.dup(0) for _ in range(1100)]
    try:
        writer = ready(database.writer())
        assert writer.fileno() > 1023
        writer.close()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_descriptor_the_deliveries_are_taken_in_here(
    database: Database, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> None:
        raise OSError(24, "too many open files")

    gate = Gate(database)

    async def deliver() -> str:
        monkeypatch.setattr(socket, "socketpair", none_left)
        return await gate.accept("a")

    assert asyncio.run(deliver()) == "new"
    gate.inbox.close()


def test_a_process_found_dead_when_it_is_asked_more_keeps_nobody_waiting(
    database: Database, at_once: None
) -> None:
    gate = Gate(database, timeout_s=20)

    async def deliver() -> None:
        await gate.ready()
        os.kill(pid_of(gate.aside), signal.SIGSTOP)
        first = asyncio.create_task(gate.accept("a"))
        while not gate.inbox._flights:
            await asyncio.sleep(0)
        os.kill(pid_of(gate.aside), signal.SIGKILL)
        assert gate.aside._process is not None
        gate.aside._process.wait()
        # The loop has not looked at its sockets since.
        second = asyncio.create_task(gate.accept("b"))
        assert await asyncio.gather(first, second) == ["new", "new"]
        assert await gate.accept("c") == "new"

    asyncio.run(deliver())
    gate.inbox.close()
    assert kept(database) == ["a", "b", "c"]


def test_what_was_committed_by_a_process_that_told_nobody_rings_all_the_same(
    database: Database, at_once: None
) -> None:
    gate = Gate(database, timeout_s=20)

    async def deliver() -> None:
        await gate.ready()
        answer = asyncio.create_task(gate.accept("a"))
        while not gate.inbox._flights:
            await asyncio.sleep(0)
        while not gate.aside.has_spoken():  # without a turn of the loop
            pass
        gate.aside.kill()
        gate.inbox._hear()
        assert await answer == "duplicate"

    asyncio.run(deliver())
    gate.inbox.close()
    assert (kept(database), gate.rings) == (["a"], 1)


def test_a_delivery_too_large_to_fly_is_taken_in_here(database: Database, at_once: None) -> None:
    gate = Gate(database)
    large = b64(json.dumps(claims({"id": "large", "more": "y" * 300_000})).encode())

    async def deliver() -> None:
        await gate.ready()
        told = await asyncio.gather(gate.accept("a"), gate.inbox.accept(large, time.time()), gate.accept("b"))
        assert [each if isinstance(each, str) else each[0] for each in told] == ["new"] * 3

    asyncio.run(deliver())
    gate.inbox.close()
    assert kept(database) == ["a", "b", "large"]


def test_why_the_database_is_away_is_told_by_its_driver_s_name(tmp_path: Path, at_once: None) -> None:
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}")
    database.migrate()
    aside = ready(intake_aside(str(database.url), ["secret"], ROUTES))
    with sqlite3.connect(tmp_path / "usher.db", isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalUnavailableError) as caught:
            aside.hear(aside.begin([(segment("a"), 0.0)]))
        blocker.execute("ROLLBACK")
    assert caught.value.cause == "OperationalError"
    aside.close()
    database.close()


def test_many_who_are_late_are_told_in_one_look_and_the_next_are_watched() -> None:
    late: list[int] = []

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(0.05, late.append)
        for number in range(100):
            deadlines.add(number, loop)
        deadlines.remove(50)
        await asyncio.sleep(0.02)
        deadlines.add(100, loop)
        while len(late) < 100:
            await asyncio.sleep(0.01)

    asyncio.run(wait())
    assert late == [number for number in range(101) if number != 50]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_second_batch_is_opened_and_asked_while_the_first_is_committed(database: Database) -> None:
    """Until the lock goes neither is answered; and both are on their way to the server by then."""
    aside = ready(intake_aside(str(database.url.render_as_string(hide_password=False)), ["secret"], ROUTES))
    aside.hear(aside.begin([(segment("early"), time.time())]))
    with database.begin() as tx:
        tx.connection.execute(sa.text("LOCK TABLE events IN SHARE MODE"))
        asked = [aside.begin([(segment("a"), time.time())])]
        ends_at = time.monotonic() + 10
        while not tx.connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            assert time.monotonic() < ends_at, "the first is not committed"
        asked.append(aside.begin([(segment("b"), time.time())]))
        malformed = aside.begin([(b"e30", time.time())])
        while not is_read(aside):
            assert time.monotonic() < ends_at, "the others lie there unread"
        assert not aside.has_spoken()
    assert [aside.hear(each)[0][0] for each in asked] == ["new", "new"]
    assert aside.hear(malformed) == [["malformed"]]
    assert kept(database) == ["a", "b", "early"]
    aside.close()


def is_read(aside: Aside) -> bool:
    """Whether the other end has taken all that was said."""
    assert aside._socket is not None
    unread = fcntl.ioctl(aside._socket, termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(unread, sys.byteorder) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_after_a_time_limit_in_the_middle_no_answer_goes_to_another_question(
    writer: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TimeIsUp(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise TimeIsUp

    asked = ready(writer).begin("SELECT 1", ())
    with monkeypatch.context() as patched:
        patched.setattr(integrations.aside._Frames, "read", interrupt)
        with pytest.raises(TimeIsUp):
            writer.hear(asked)
    assert ready(writer).hear(writer.begin("SELECT 2", ())) == [[2]]
    with monkeypatch.context() as patched:
        patched.setattr(integrations.aside, "_send", interrupt)
        with pytest.raises(TimeIsUp):
            writer.begin("SELECT 3", ())
    assert ready(writer).hear(writer.begin("SELECT 4", ())) == [[4]]
