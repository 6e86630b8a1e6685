"""The two kinds of runs: a storm of faults at random moments, and named points at which processes die or freeze.

Each is a process of its own, since it starts servers whose libraries keep to one at a time.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from random import Random

from chaos import crowd, points
from chaos.crowd import Person
from chaos.faults import FAULTS, Fault
from chaos.judge import Verdict, gather, judge
from chaos.stage import PostgresStore, SqliteStore, Stage, set_up

PAUSE_S = 0.3
REST_WITHIN_S = 120.0
FREEZE_S = 55.0
"""Longer than a lease (45 s), so that somebody else has the row when the frozen one wakes up."""
AWAKE_S = 2.0
"""For what somebody does who has just woken up."""
PEOPLE_A_POINT, LATE_ROUNDS = 6, 10
RULED = "asked, let in by a rule"
CLOSED_PORT = "redis://127.0.0.1:1/0"

Kind = type[SqliteStore] | type[PostgresStore]


@dataclass
class Crowd:
    """People who act, a few a second, in the middle of whatever happens."""

    stage: Stage
    random: Random
    people: list[Person] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stories = crowd.stories(self.random)

    def act(self, count: int, fault: str, within_s: float, story: str = "") -> None:
        """So many people act, evenly within so many seconds; takes at least that long."""
        started = time.monotonic()
        for number in range(count):
            email, usual = next(self._stories)
            story = story or usual
            self.people.append(Person(email, story, fault, time.time()))
            for act in crowd.acts(email, story):
                self.stage.act(act)
            _sleep_until(started + within_s * (number + 1) / count)
        _sleep_until(started + within_s)


@dataclass(frozen=True)
class Outcome:
    title: str
    seed: int
    verdict: Verdict
    folder: Path
    seconds: float
    left_out: tuple[str, ...] = ()


def storm(kind: Kind, seed: int, pattern: str, events: int, stretch: float, broker: str) -> Outcome:
    """Every fault once, in an order of its own, `stretch` times as long as usual, while people go on."""
    began = time.monotonic()
    chance = Random(seed)
    faults = [fault for fault in FAULTS if fnmatch(fault.name, pattern) and fault.only in (None, kind)]
    chance.shuffle(faults)
    each = max(4, round(events / len(faults)))
    with set_up(
        kind,
        seed=seed,
        broker=broker,
        community=crowd.community(each * len(faults) + 1),
        automations=crowd.AUTOMATIONS,
    ) as stage:
        stage.switch(webhook_copies=2, webhook_jitter_s=0.5)
        people = Crowd(stage, chance)
        ended: dict[str, list[float]] = defaultdict(list)
        times: Counter[str] = Counter()
        left_out = []
        for fault in faults:
            if fault.needs_disk and not stage.disk.real:
                left_out.append(f"{fault.name}: a small file system could not be mounted here")
                continue
            _inject(fault, stage, people, each, stretch, times)
            ended[fault.name].append(time.time())
            time.sleep(PAUSE_S)
        _come_to_rest(stage)
        verdict = _verdict(stage, people, ended, times)
    return Outcome(
        f"storm, {kind.kind}", seed, verdict, stage.folder, time.monotonic() - began, tuple(left_out)
    )


def _inject(
    fault: Fault, stage: Stage, people: Crowd, count: int, stretch: float, times: Counter[str]
) -> None:
    lasts_s = fault.lasts_s * stretch
    met = stage.mail.injected
    try:
        for number in range(fault.times):
            fault.begin(stage, people.random)
            times[fault.name] += 1
            share = count // fault.times + (number < count % fault.times)
            people.act(share, fault.name, lasts_s / fault.times)
    finally:
        fault.end(stage, people.random)
    if stage.mail.injected != met:  # the mail server knows better how often it was met
        times[fault.name] = (stage.mail.injected - met).total()


def strike(
    kind: Kind, seed: int, broken: str, only: Sequence[str], rounds: int, broker: str, *, freeze: bool = True
) -> Outcome:
    """Every named point, or `only` these: processes freeze there at first, then die there, `rounds` times each."""
    began = time.monotonic()
    chance = Random(seed)
    chosen = [point.name for point in points.POINTS if not only or point.name in only]
    folder = Path(tempfile.mkdtemp(prefix="usher-points-"))
    with set_up(
        kind,
        seed=seed,
        entry="chaos.points",
        extra={points.FOLDER: str(folder), points.BROKEN: broken},
        workers=2,
        broker=broker,
        community=crowd.community(PEOPLE_A_POINT * (len(chosen) * rounds + LATE_ROUNDS + 5)),
        automations=crowd.AUTOMATIONS,
    ) as stage:
        stage.switch(webhook_copies=2, webhook_jitter_s=0.3)
        people = Crowd(stage, chance)
        ended: dict[str, list[float]] = defaultdict(list)
        times: Counter[str] = Counter()
        laid: list[tuple[str, Path]] = []
        frozen_at = time.monotonic()
        frozen = [name for name in points.FREEZING if freeze and name in chosen]
        for name in frozen:
            laid.append((f"{name}: frozen", points.lay(folder, name, freeze=True)))
            people.act(PEOPLE_A_POINT, f"{name}: frozen", 1.0)
        for _ in range(rounds):
            for name in chance.sample(chosen, len(chosen)):
                laid.append((name, points.lay(folder, name)))
                people.act(PEOPLE_A_POINT, name, 1.0, RULED if name.startswith("decision") else "")
                ended[name].append(time.time())
        while frozen and (points.wake(folder, FREEZE_S) or time.monotonic() < frozen_at + FREEZE_S):
            time.sleep(0.5)
        for name in frozen:
            ended[f"{name}: frozen"].append(time.time())
        for _ in range(LATE_ROUNDS):
            if missed := [name for name, file in laid if file.exists()]:
                people.act(PEOPLE_A_POINT, "afterwards", 1.0, RULED if "decision" in missed[0] else "")
                ended["afterwards"].append(time.time())
        for name, file in laid:
            times[name] += not file.exists()
            file.unlink(missing_ok=True)
        while points.wake(folder, FREEZE_S):  # a token that was taken late
            time.sleep(0.5)
        time.sleep(AWAKE_S)
        for name in (*points.UNDECIDABLE, "letter: after the dot: frozen"):
            stage.killed += [(time.time(), "worker")] * times[name]
        _come_to_rest(stage)
        verdict = _verdict(stage, people, ended, times)
    title = f"named points{' without a broker' if broker == CLOSED_PORT else ''}, {kind.kind}"
    return Outcome(title, seed, verdict, stage.folder, time.monotonic() - began)


def _come_to_rest(stage: Stage) -> None:
    """Wait until nothing is under way, or for so long that what is left is lost."""
    deadline = time.monotonic() + REST_WITHIN_S
    while time.monotonic() < deadline:
        if not stage.ask_sandbox("/sandbox/deliveries?state=queued")["deliveries"] and not _open_rows(stage):
            return
        time.sleep(0.5)


def _open_rows(stage: Stage) -> int:
    [row] = stage.query(
        "SELECT (SELECT count(*) FROM events WHERE state = 'received')"
        " + (SELECT count(*) FROM messages WHERE state IN ('planned', 'sending', 'deferred'))"
        " + (SELECT count(*) FROM outbox WHERE state = 'planned') AS number"
    )
    return int(row["number"])


def _verdict(stage: Stage, people: Crowd, ended: dict[str, list[float]], times: Counter[str]) -> Verdict:
    evidence, deliveries = gather(stage)
    verdict = judge(evidence, people.people, ended)
    verdict.deliveries = deliveries
    for name, number in times.items():
        verdict.tallies[name].times = number
    if verdict.problems:
        stage.keep = True
        for table in ("events", "messages", "outbox"):
            rows = stage.query(f"SELECT * FROM {table}")
            (stage.folder / f"{table}.json").write_text(json.dumps(rows, default=str, indent=1))
    return verdict


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
