"""Whether a long past makes anything dearer: every question asked of ten thousand letters and of ten million."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.filling import NOW, PRESENT, fill
from benchmarks.questions import METRICS, PAGES, SWEEPS, WORKERS, Ask, Stores
from benchmarks.table import Bar, Row, report
from benchmarks.tools import Size, postgres, workshop
from integrations.store.database import Database

SAME_MS = 1.0
"""So much dearer is the same, whatever the ratio: one more level of each index, and pages that are not in memory.
Judged is the lowest of all rounds: a shared machine only ever adds."""
ROOMS: Mapping[str, Mapping[str, Ask]] = {
    "workers": WORKERS,
    "sweeps": SWEEPS,
    "pages": PAGES,
    "metrics": METRICS,
}


def measure_rows(size: Size) -> list[Row]:
    """At full size some ten minutes, nearly all of them for filling, and 45 GB of disk meanwhile."""
    short, long = 10_000, size.of(10_000_000, 30_000)
    with workshop() as folder, postgres(folder / "pg", "short", "long") as urls:
        pasts = {
            "SQLite": [f"sqlite:///{folder / name}.db" for name in ("short", "long")],
            "PostgreSQL": urls,
        }
        for url in (url for both in pasts.values() for url in both):
            _prepare(url)
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(_fill, letters=short), [both[0] for both in pasts.values()]))
            list(pool.map(partial(_fill, letters=long), [both[1] for both in pasts.values()]))
        rows: list[Row] = []
        for dialect, both in pasts.items():
            rows += compare(dialect, both, (short, long), size.repeats)
    return rows


def _prepare(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.close()


def _fill(url: str, letters: int) -> None:
    started_s = time.monotonic()
    database = Database(url, clock=lambda: NOW)
    fill(database, letters - PRESENT)
    database.close()
    print(f"  {letters:,} letters in {database.url.get_backend_name()}: {time.monotonic() - started_s:.0f} s")
    sys.stdout.flush()


def compare(dialect: str, urls: Sequence[str], letters: tuple[int, int], repeats: int) -> list[Row]:
    """Each question in turn of the one and of the other, `repeats` times after a first that is not counted."""
    databases = [Database(url, clock=lambda: NOW) for url in urls]
    short, long = (Stores(database) for database in databases)
    values: dict[str, list[float]] = {}
    dearer: list[str] = []
    print(f"\nrows: ms on {dialect}, {letters[0]:,} letters beside {letters[1]:,}")
    print(f"  {'':40}{'short':>9}{'long':>9}{'lowest':>9}{'highest':>9}{'ratio':>8}")
    for room, questions in ROOMS.items():
        sums: list[tuple[float, float]] = [(0.0, 0.0)] * repeats
        for question, ask in questions.items():
            of_short, of_long = _in_turn(partial(ask, short), partial(ask, long), repeats)
            before, after = statistics.median(of_short), statistics.median(of_long)
            least = min(of_short)
            same = min(of_long) <= 1.2 * least or min(of_long) - least <= SAME_MS
            if not same:
                dearer.append(question)
            print(
                f"  {question:40}{before:9.2f}{after:9.2f}{min(of_long):9.2f}{max(of_long):9.2f}"
                f"{after / before:8.2f}{'' if same else '  dearer'}"
            )
            sums = [(a + b, c + d) for (a, c), b, d in zip(sums, of_short, of_long, strict=True)]
        values[f"{room}, {letters[0]:,} letters"] = [one for one, _ in sums]
        values[f"{room}, {letters[1]:,} letters"] = [other for _, other in sums]
    for database in databases:
        database.close()
    print(f"  dearer: {', '.join(dearer) or 'nothing'}")
    bars = [
        Bar(f"{room}, {letters[1]:,} letters", most=1.2, against=f"{room}, {letters[0]:,} letters")
        for room in ROOMS
        if room != "metrics"  # whose pieces are as large as they may be
    ]
    return report(f"rows, {dialect}: ms for all questions of a room", values, bars, unit="ms")


def _in_turn(
    one: Callable[[], object], other: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for place, ask in sorted(enumerate((one, other)), reverse=bool(number % 2)):
            started_s = time.perf_counter()
            ask()
            if number:
                found[place].append((time.perf_counter() - started_s) * 1000)
    return found
