"""The worker: events and letters per second of one process, and how long a whole joining takes."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx

from benchmarks.door import a_delivery, private_pem, sign
from benchmarks.sink import KEPT, Taken, send_by_hand, send_by_smtplib
from benchmarks.table import Bar, Row, report
from benchmarks.tools import (
    GROUP,
    SITE,
    Installation,
    Size,
    alternate,
    helper,
    install,
    percentile,
    postgres,
    wait_for,
    workshop,
)
from core import events
from core.community import GroupId, MemberId, SiteId
from core.consent import Purpose
from core.events import Event, EventId
from core.letters import PlannedLetter
from integrations.store.journal import Journal
from integrations.store.ledger import plan_letters
from tasks.app import create_app, ring
from tasks.routes import ROUTES

DONE_WITHIN_S = 120.0
LATER = """
[[automation]]
name = "welcome"
on = ["member_added", "join_approved"]
purpose = "onboarding"
email = "welcome"
after = "30d"

[[automation]]
name = "yoga-offer"
on = ["join_requested"]
purpose = "promotional"
email = "yoga-offer"
after = "30d"
[automation.answers]
any = ["yoga", "pilates", "running"]

[[automation]]
name = "keep-advertisers-out"
on = ["join_requested"]
decide = "reject"
[automation.answers]
any = ["promo code*", "buy followers"]
"""


@contextlib.contextmanager
def _workers(folder: Path, *processes: tuple[str, ...], **settings: str) -> Iterator[dict[str, Installation]]:
    """An installation on each database, with its processes."""
    with contextlib.ExitStack() as stack:
        [url] = stack.enter_context(postgres(folder / "pg", "work"))
        homes = {
            "SQLite": stack.enter_context(install(folder / "lite", **settings)),
            "PostgreSQL": stack.enter_context(install(folder / "post", url, **settings)),
        }
        for home in homes.values():
            for process in processes:
                stack.enter_context(home.web() if process[0] == "web" else home.process(*process))
        yield homes


def ring_bell(home: Installation) -> None:
    with create_app(home.broker, publisher=True) as celery:
        ring(celery)


def measure_worker(size: Size) -> list[Row]:
    with workshop() as folder, contextlib.ExitStack() as stack:
        wix = stack.enter_context(helper("wix", folder / "wix.log")).port
        automations = folder / "automations.toml"
        automations.write_text(LATER, encoding="utf-8")
        homes = stack.enter_context(
            _workers(
                folder,
                ("worker", "--concurrency", "1"),
                WIX_API_URL=f"http://127.0.0.1:{wix}",
                AUTOMATIONS_FILE=str(automations),
            )
        )
        measures: dict[str, Callable[[], float]] = {
            "its Wix calls alone": partial(_only_the_calls, wix, size.of(1000, 20))
        }
        for name, home in homes.items():
            _work_off(home, 1)  # until the worker is there
            warm = _work_off(home, size.of(100, 1))
            measures[name] = partial(_work_off, home, size.for_seconds(warm, 3000))
        values = alternate(size.repeats, measures)
    return report(
        "worker: events/s, one process, half joined, half asking with answers; letters planned",
        values,
        [Bar(name, least=300) for name in homes],
        reference="its Wix calls alone",
        unit="/s",
    )


def _work_off(home: Installation, count: int) -> float:
    home.clear("events", "messages", "outbox")
    run = time.monotonic_ns()
    Journal(home.database, listened=ROUTES).insert(
        [_event(f"{run}-{number}", number % 2 == 1) for number in range(count)]
    )
    started_s = time.perf_counter()
    ring_bell(home)
    left = partial(home.ask, "SELECT count(*) FROM events WHERE state = 'received'")
    wait_for(lambda: left() == 0, "all events worked off", DONE_WITHIN_S, every_s=0.01)
    seconds = time.perf_counter() - started_s
    planned = home.ask("SELECT count(*) FROM messages WHERE state = 'planned'")
    if planned != count:
        raise RuntimeError(f"{count} events should have left as many planned letters, not {planned}")
    return count / seconds


def _event(number: str, asks: bool) -> Event:
    member = f"{'asks' if asks else 'joined'}-{number}"
    person = {"memberId": member}
    payload = (
        {"entityId": GROUP, "createdEvent": {"entity": person}}
        if asks
        else {
            "entityId": GROUP,
            "actionEvent": {"body": {"groupId": GROUP, "groupMember": person}},
        }
    )
    return Event(
        id=EventId(f"event-{number}"),
        site=SiteId(SITE),
        type=events.JOIN_REQUESTED if asks else events.MEMBER_ADDED,
        occurred_at=datetime.now(UTC),
        payload=json.dumps(payload),
    )


def _only_the_calls(port: int, count: int) -> float:
    """What there is to ask Wix about each of these events, by a kept client, one call after another."""
    questions = f"/social-groups-proxy/questions/v2/membership-questions/{GROUP}/answers"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        started_s = time.perf_counter()
        for number in range(count):
            member = f"{'asks' if number % 2 else 'joined'}-{number}"
            client.get(f"/social-groups-proxy/members/v2/members/{member}/memberships").json()
            if number % 2:
                client.post(
                    questions, json={"memberIds": [member], "paging": {"limit": 100, "offset": 0}}
                ).json()
        return count / (time.perf_counter() - started_s)


def measure_letters(size: Size) -> list[Row]:
    with workshop() as folder, contextlib.ExitStack() as stack:
        wix = stack.enter_context(helper("wix", folder / "wix.log")).port
        log = folder / "taken"
        sink = stack.enter_context(helper("sink", folder / "sink.log", log)).port
        taken = Taken(log)
        homes = stack.enter_context(
            _workers(
                folder,
                ("worker", "--concurrency", "1"),
                WIX_API_URL=f"http://127.0.0.1:{wix}",
                EMAIL_URL=f"smtp://127.0.0.1:{sink}",
            )
        )
        for home in homes.values():
            deliver(home, KEPT, taken)  # until the worker is there
        ours = taken.first()  # one of each kind
        long = f"{sum(map(len, ours)) // len(ours):,}"
        count = size.of(5000, 20)
        limit = f"sink, our letters ({long} bytes)"
        measures: dict[str, Callable[[], float]] = {
            limit: partial(_by_hand, send_by_hand, sink, ours, count, taken),
            "the same, commands in one go": partial(
                _by_hand, partial(send_by_hand, at_once=True), sink, ours, count, taken
            ),
            "the same by smtplib": partial(_by_hand, send_by_smtplib, sink, ours, count, taken),
            "sink, 5,000 bytes": partial(
                _by_hand, send_by_hand, sink, [_bytes_of_a_letter(5000)], count, taken
            ),
        }
        for name, home in homes.items():
            warm = deliver(home, size.of(100, 2), taken)
            measures[name] = partial(deliver, home, size.for_seconds(warm, 6000), taken)
        values = alternate(size.repeats, measures)
    bars = [Bar(name, least=600) for name in homes]
    bars += [Bar(name, least=0.25, against=limit) for name in homes]
    return report(
        "letters: letters/s, one process and one connection, half of them promotional; ready bytes by hand",
        values,
        bars,
        reference=limit,
        unit="/s",
    )


def _by_hand(
    send_all: Callable[[int, Sequence[bytes], int], float],
    port: int,
    letters: Sequence[bytes],
    count: int,
    taken: Taken,
) -> float:
    found = send_all(port, letters, count)
    taken.new()
    return found


def deliver(home: Installation, count: int, taken: Taken) -> float:
    home.clear("messages")
    taken.new()
    now = datetime.now(UTC)
    run = time.monotonic_ns()
    with home.database.begin() as tx:
        plan_letters(
            tx,
            SiteId(SITE),
            None,
            [_planned(f"{run}-{number}", number % 2 == 1, now) for number in range(count)],
        )
    started_s = time.monotonic()
    ring_bell(home)
    found: list[tuple[float, str]] = []

    def all_taken() -> bool:
        found.extend(taken.new())
        return len(found) >= count

    wait_for(all_taken, "all letters taken", DONE_WITHIN_S)
    sent = partial(home.ask, "SELECT count(*) FROM messages WHERE state = 'sent'")
    wait_for(lambda: sent() == count, "all letters recorded", 10)
    if len({to for _, to in found}) != count:
        raise RuntimeError("somebody was written to twice")
    return count / (found[-1][0] - started_s)


def _planned(number: str, promotional: bool, now: datetime) -> PlannedLetter:
    return PlannedLetter(
        key=f"{GROUP}:{number}",
        group=GroupId(GROUP),
        member=MemberId(f"member-{number}"),
        automation="yoga-offer" if promotional else "welcome",
        trigger="member_added",
        purpose=Purpose.PROMOTIONAL if promotional else Purpose.ONBOARDING,
        template="yoga-offer" if promotional else "welcome",
        due_at=now,
        context={"group_name": "Trail Runners", "reason": "", "matched": ["yoga"] if promotional else []},
    )


def _bytes_of_a_letter(length: int) -> bytes:
    return (b"Subject: a letter\r\n\r\n" + b"It says so much in every line, and no more.\r\n" * length)[
        : length - 2
    ] + b"\r\n"


def measure_join(size: Size) -> list[Row]:
    """Each joining waits until the one before is through: the system is idle when it comes."""
    count = size.of(40, 2)
    with workshop() as folder, contextlib.ExitStack() as stack:
        wix = stack.enter_context(helper("wix", folder / "wix.log")).port
        log = folder / "taken"
        sink = stack.enter_context(helper("sink", folder / "sink.log", log)).port
        taken = Taken(log)
        homes = stack.enter_context(
            _workers(
                folder,
                ("web",),
                ("worker",),
                ("beat",),
                WIX_API_URL=f"http://127.0.0.1:{wix}",
                EMAIL_URL=f"smtp://127.0.0.1:{sink}",
            )
        )
        joins = {name: _Joins(home, taken, count) for name, home in homes.items()}
        for found in joins.values():
            found.one_round()  # to warm up
            found.forget()
        values = alternate(size.repeats, {f"p50 {name}": found.one_round for name, found in joins.items()})
    bars = [Bar(f"p50 {name}", most=150, beside=f"p50 of the door's answer, {name}") for name in joins]
    for name, found in joins.items():
        p99 = f"p99 {name}, all {len(found.delays_ms)}"
        values[p99] = found.p99s_ms
        values[f"p50 of the door's answer, {name}"] = found.answers_ms
        overall = percentile(found.delays_ms, 0.99)
        bars.append(Bar(p99, most=500, beside=f"p50 of the door's answer, {name}", overall=overall))
    return report(
        "join: ms from the first byte of the webhook to the letter taken, idle system",
        values,
        bars,
        unit="ms",
    )


class _Joins:
    def __init__(self, home: Installation, taken: Taken, count: int) -> None:
        self._home = home
        self._taken = taken
        self._count = count
        self._connection = http.client.HTTPConnection("127.0.0.1", home.port, timeout=10)
        self.forget()

    def forget(self) -> None:
        self.delays_ms: list[float] = []
        self.p99s_ms: list[float] = []
        self.answers_ms: list[float] = []

    def one_round(self) -> float:
        """The median; the door's own answer is noted beside it."""
        delays_ms, answers_ms = zip(*(self._join() for _ in range(self._count)), strict=True)
        self.delays_ms += delays_ms
        self.p99s_ms.append(percentile(delays_ms, 0.99))
        self.answers_ms.append(percentile(answers_ms, 0.5))
        return percentile(delays_ms, 0.5)

    def _join(self) -> tuple[float, float]:
        member = f"member-{time.monotonic_ns()}"
        body = sign(a_delivery(f"event-{member}", member, pad=600), private_pem())
        self._connection.close()  # Wix comes on a new connection
        started_s = time.monotonic()
        self._connection.request("POST", "/webhooks/wix", body)
        answer = self._connection.getresponse()
        answer.read()
        answered_s = time.monotonic()
        if answer.status != 200:
            raise RuntimeError(f"the door answered {answer.status}")
        found: list[tuple[float, str]] = []

        def is_taken() -> bool:
            found.extend(self._taken.new())
            return bool(found)

        wait_for(is_taken, "the letter", within_s=20)
        [(at, to)] = found
        if to != f"{member}@example.com":
            raise RuntimeError("a letter to somebody else")
        sent = partial(self._home.ask, "SELECT count(*) FROM messages WHERE state = 'sending'")
        wait_for(lambda: sent() == 0, "the letter recorded", 10)
        return (at - started_s) * 1000, (answered_s - started_s) * 1000
