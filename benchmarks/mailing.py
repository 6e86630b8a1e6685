"""Letters to many: what a mailing asks of Wix, and a million of them, planned and sent."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import httpx

from benchmarks.sink import Taken
from benchmarks.table import Bar, Row, report
from benchmarks.tools import (
    SITE,
    Installation,
    Size,
    alternate,
    family,
    family_cpu_s,
    helper,
    install,
    postgres,
    resident_mb,
    server_of,
    wait_for,
    workshop,
)
from benchmarks.work import deliver, ring_bell
from core.community import SiteId
from integrations.store.jobs import Jobs
from integrations.store.senders import Senders

SENDER = "hello@seaside.example.com"
SIZES = (1, 100, 250, 1000)
WHO = "benchmark"
GIVE_UP_S = 3600.0
EVERY_S = 0.5
SHARE = 50
"""SQLite, which has one writer, gets this part of the million."""


def measure_calls(size: Size) -> list[Row]:
    """The run of a mailing, which reads everything anew, and, beside it, the preview before it."""
    with workshop() as folder, contextlib.ExitStack() as stack:
        house = _house("SQLite", folder, stack, 60.0)
        worker = stack.enter_context(house.home.process("worker", "--concurrency", "1"))
        house.mail(1)  # Wix's token, and what it says of the site: once for all
        previews: dict[int, list[float]] = {people: [] for people in SIZES}

        def run(people: int) -> float:
            job, asked = house.preview(people)
            previews[people].append(asked)
            return house.send(job, people)

        measures: dict[str, Callable[[], float]] = {
            f"mailing to {people:,}": partial(run, people) for people in SIZES
        }
        measures["100 letters of automations"] = lambda: house.calls_of(
            lambda: deliver(house.home, 100, house.taken)
        )
        values = alternate(size.repeats, measures)
        if worker.poll() is not None:
            raise RuntimeError("the worker ended")
    values |= {f"its preview, {people:,}": found for people, found in previews.items()}
    bars = [
        Bar(f"mailing to {people:,}", most=_wanted_calls(people), beside=f"its preview, {people:,}")
        for people in SIZES
    ]
    bars.append(Bar("100 letters of automations", most=_wanted_calls(100)))
    return report("calls: calls to Wix, by their number of people", values, bars)


def _wanted_calls(people: int) -> float:
    return 1.05 * 3 * math.ceil(people / 100)


@dataclass
class _House:
    """An installation that writes to groups of people nobody has met before."""

    home: Installation
    wix: int
    taken: Taken
    patience_s: float
    met: int = 0

    def preview(self, people: int) -> tuple[str, int]:
        """A previewed job, and what it asked of Wix."""
        began = self.asked()
        job = self.begin(people)
        self.wait_for_state([job], "previewed")
        return job, self.asked() - began

    def begin(self, people: int) -> str:
        params = {
            "group": f"people-{self.met}-{people}",
            "email": "yoga-offer",
            "purpose": "promotional",
            "context": {"matched": ["yoga"], "reason": ""},
        }
        self.met += people
        row, _ = Jobs(self.home.database).create(SiteId(SITE), "group_email", params, who=WHO)
        ring_bell(self.home)
        return str(row.id)

    def send(self, job: str, people: int) -> int:
        """Say yes and wait for the letters; what they asked of Wix."""

        def run() -> None:
            self.confirm(job)
            self.wait_for_state([job], "done")

        self.taken.new()
        asked = self.calls_of(run)
        if len(got := {to for _, to in self.taken.new()}) != people:
            raise RuntimeError(f"{len(got)} of {people} were written to")
        return asked

    def mail(self, people: int) -> None:
        self.send(self.preview(people)[0], people)

    def confirm(self, job: str) -> None:
        jobs = Jobs(self.home.database)
        [row] = jobs.page(id=job, limit=1)
        jobs.confirm(job, row.confirm_token, who=WHO)
        ring_bell(self.home)

    def wait_for_state(self, jobs: Sequence[str], state: str) -> None:
        def there() -> bool:
            return self.count(jobs, f"state = '{state}'") == len(jobs)

        wait_for(there, f"jobs {state}", self.patience_s, every_s=0.2)

    def count(self, jobs: Sequence[str], condition: str) -> int:
        ids = ", ".join(f"'{job}'" for job in jobs)
        failed = self.home.ask(f"SELECT count(*) FROM jobs WHERE id IN ({ids}) AND state = 'failed'")
        if failed:
            raise RuntimeError("a job failed")
        return self.home.ask(f"SELECT count(*) FROM jobs WHERE id IN ({ids}) AND {condition}")

    def calls_of(self, run: Callable[[], object]) -> int:
        before = self.asked()
        run()
        return self.asked() - before

    def asked(self) -> int:
        return int(httpx.get(f"http://127.0.0.1:{self.wix}/calls").json()["calls"])


def _house(name: str, folder: Path, stack: contextlib.ExitStack, patience_s: float) -> _House:
    wix = stack.enter_context(helper("wix", folder / "wix.log")).port
    log = folder / "taken"
    sink = stack.enter_context(helper("sink", folder / "sink.log", log)).port
    url = stack.enter_context(postgres(folder / "pg", "mailing"))[0] if name == "PostgreSQL" else ""
    to = {"WIX_API_URL": f"http://127.0.0.1:{wix}", "EMAIL_URL": f"smtp://127.0.0.1:{sink}"}
    home = stack.enter_context(install(folder / "home", url, **to))
    return _House(home, wix, Taken(log), patience_s)


def measure_million(size: Size) -> list[Row]:
    """Four mailings at once, previewed, confirmed and sent; Linux only. Sending is paused while the run looks for its
    readers once more, so that every tenth of the letters is nothing but sending. SQLite gets a part of them."""
    workers = max(2, (os.cpu_count() or 1) - 1)
    rows = _many("PostgreSQL", size.letters, workers, 4)
    return rows + _many("SQLite", max(100, size.letters // SHARE), 1, 1)


def _many(name: str, letters: int, workers: int, mailings: int) -> list[Row]:
    with workshop() as folder, contextlib.ExitStack() as stack:
        house = _house(name, folder, stack, GIVE_UP_S)
        worker = stack.enter_context(house.home.process("worker", "--concurrency", str(workers)))
        stack.enter_context(house.home.process("beat"))
        house.mail(1)
        took: dict[str, float] = {}
        families = [worker.pid, *server_of(folder / "pg")]
        people = letters // mailings
        senders = Senders(house.home.database, SENDER)

        planned = _Watching(
            families, lambda: house.home.ask("SELECT sum(wix_calls) FROM jobs WHERE id <> ''")
        )
        with planned, _timed(took, "previewed"):
            jobs = [house.begin(people) for _ in range(mailings)]
            house.wait_for_state(jobs, "previewed")
        senders.pause("", "the benchmark looks on", for_s=GIVE_UP_S)
        with _timed(took, "looked for again"):
            for job in jobs:
                house.confirm(job)
            wait_for(lambda: house.count(jobs, "phase = 'wait'") == mailings, "all let go", GIVE_UP_S)
        received = _Received(house.taken, house.met)
        sent = _Watching(families, received.take_in)
        with sent, _timed(took, "sent"):
            senders.resume("")
            for _ in range(workers):
                ring_bell(house.home)
            house.wait_for_state(jobs, "done")
        received.take_in()
        if (once := received.times.count(1)) != people * mailings:
            raise RuntimeError(f"{once} of {people * mailings} were written to exactly once")
        recorded = house.home.ask("SELECT count(*) FROM messages WHERE state = 'sent'")
        if recorded != people * mailings + 1:
            raise RuntimeError(f"{recorded} letters are recorded as sent")
        if worker.poll() is not None:
            raise RuntimeError("the worker ended")
    return _tell(name, people * mailings, workers, took, planned, sent)


class _Received:
    """How often each person was written to."""

    def __init__(self, taken: Taken, people: int) -> None:
        self._taken = taken
        self._all = 0
        self.times = bytearray(people)

    def take_in(self) -> int:
        """All letters so far."""
        for _, to in self._taken.new():
            person = int(to.partition("@")[0].removeprefix("member-"))
            self.times[person] = min(255, self.times[person] + 1)
            self._all += 1
        return self._all


class Sample(NamedTuple):
    at_s: float
    cpu_s: float
    progress: int


class _Watching:
    """Looks at the worker's processes, which are those of the first family, and at what all of them used, until the
    end of the block."""

    def __init__(self, families: Sequence[int], progress: Callable[[], int]) -> None:
        self._families = families
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.samples: list[Sample] = []
        self.largest_mb: list[float] = []
        """Resident, of the worker's largest process at each look; what it shares with the others is counted whole."""

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _look_on(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        cpu_s = sum(family_cpu_s(pid) for pid in self._families)
        self.samples.append(Sample(time.monotonic(), cpu_s, self._progress()))
        self.largest_mb.append(max(resident_mb(pid) for pid in family(self._families[0])))


def cost_between(samples: Sequence[Sample], begin: float, end: float) -> tuple[float, float]:
    """Seconds of processors and of time between two shares of all progress."""
    first, last = samples[0].progress, samples[-1].progress
    cpu_from_s, at_from_s = _at(samples, first + begin * (last - first))
    cpu_to_s, at_to_s = _at(samples, first + end * (last - first))
    return cpu_to_s - cpu_from_s, at_to_s - at_from_s


def _at(samples: Sequence[Sample], progress: float) -> tuple[float, float]:
    """Processor time and time when so much was done, between the two looks around it."""
    for before, after in itertools.pairwise(samples):
        if before.progress < after.progress and before.progress <= progress <= after.progress + 1e-6:
            part = (progress - before.progress) / (after.progress - before.progress)
            return (
                before.cpu_s + part * (after.cpu_s - before.cpu_s),
                before.at_s + part * (after.at_s - before.at_s),
            )
    raise RuntimeError("nothing was done")


_LISTED = 1 / 3
"""Of the calls of a preview: one for each hundred members lists them, then two ask who they are and what they want."""


def _tenths(watching: _Watching, begin: float, end: float, letters: int) -> list[tuple[float, float]]:
    """What a letter costs in each tenth of a stretch: ms of processors, ms of time."""
    step = (end - begin) / 10
    costs_s = [cost_between(watching.samples, begin + step * at, begin + step * (at + 1)) for at in range(10)]
    return [(cpu_s / (letters / 10) * 1000, time_s / (letters / 10) * 1000) for cpu_s, time_s in costs_s]


def _tell(
    name: str, letters: int, workers: int, took: dict[str, float], planned: _Watching, sent: _Watching
) -> list[Row]:
    listed, looked_up = (_tenths(planned, *part, letters) for part in ((0.0, _LISTED), (_LISTED, 1.0)))
    costs_ms = {
        "planned": [(one[0] + two[0], one[1] + two[1]) for one, two in zip(listed, looked_up, strict=True)],
        "sent": _tenths(sent, 0.0, 1.0, letters),
    }
    values: dict[str, list[float]] = {}
    bars: list[Bar] = []
    for what, tenths_ms in costs_ms.items():
        for kind, each_ms in zip(("CPU", "time"), zip(*tenths_ms, strict=True), strict=True):
            first, last = f"{kind} {what}, first tenth", f"{kind} {what}, last tenth"
            values |= {f"{kind} {what}": list(each_ms), first: [each_ms[0]], last: [each_ms[-1]]}
            bars.append(Bar(last, most=1.2, against=first))
    who = f"million, {name}, {letters:,} letters"
    spent = ", ".join(f"{what} in {seconds:,.0f} s" for what, seconds in took.items())
    pace = f"{letters / took['sent']:,.0f} letters/s"
    by = f"{workers} worker{'s' if workers > 1 else ''}"
    rows = report(f"{who}: ms of a letter, by tenths; {by}, {spent}: {pace}", values, bars, unit="ms")
    memory = {
        "largest process": planned.largest_mb + sent.largest_mb,
        "before": planned.largest_mb[:1],
        "afterwards": sent.largest_mb[-1:],
    }
    bar = Bar("largest process", most=250, beside="before", overall=max(memory["largest process"]))
    return [*rows, *report(f"{who}: MB resident", memory, [bar], unit="MB")]


@contextlib.contextmanager
def _timed(took: dict[str, float], what: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    took[what] = time.monotonic() - started_s
