"""`python3 dev.py chaos`: hurt everything at once and count what was lost, what went out twice, what is in doubt.

Two kinds of runs, each on SQLite and on PostgreSQL, side by side: a storm of faults at random moments, and named points
at which processes die or freeze. The judge (chaos/judge.py) decides; exit code 1 for anything lost or twice.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos import jobs, letters, points
from chaos.runs import CLOSED_PORT, Kind, Outcome, storm, strike
from chaos.stage import PostgresStore, SqliteStore

STRIKE_AT = {
    "doubt-is-retried": ("letter: after the dot",),
    "no-fence": ("letter: after its body",),
    "200-before-the-commit": ("web: before the commit",),
    "no-sweeper": ("event: after the claim", "letter: after the claim"),
}
"""Where each way of breaking Usher shows."""


def show(console: Console, outcome: Outcome) -> None:
    table = Table(title=f"{outcome.title} (seed {outcome.seed})", title_justify="left")
    for column in ("fault", "times", "people", "lost", "twice", "in doubt", "seconds to recover"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for name in sorted(outcome.verdict.tallies):
        tally = outcome.verdict.tallies[name]
        bad = "[red]" if tally.lost or tally.twice else ""
        table.add_row(
            bad + escape(name),
            *(
                str(value or "·")
                for value in (tally.times, tally.people, tally.lost, tally.twice, tally.in_doubt)
            ),
            f"{tally.recovered_s:.1f}",
        )
    console.print(table)
    verdict = outcome.verdict
    console.print(
        f"{verdict.events} events in {verdict.deliveries} deliveries, {verdict.letters} letters taken by the mail"
        f" server, {verdict.refused} refused by it; {outcome.seconds:.0f} s"
    )
    for reason in outcome.left_out:
        console.print(f"[yellow]not injected:[/yellow] {escape(reason)}")
    for problem in verdict.problems[:40]:
        console.print(f"[red]✗[/red] {escape(problem)}")
    if len(verdict.problems) > 40:
        console.print(f"[red]… and {len(verdict.problems) - 40} more[/red]")
    if verdict.problems:
        console.print(f"The logs and the rows are in {outcome.folder}")


def run_side_by_side(console: Console, runs: Mapping[str, Callable[[], Outcome]]) -> dict[str, bool]:
    """Show each when it is over; by name, whether nothing was lost or went out twice."""
    well = {}
    with ProcessPoolExecutor(len(runs), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run): name for name, run in runs.items()}
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except Exception as exc:  # noqa: BLE001 - whatever ended one run, the others are worth seeing
                console.print(f"[red]✗ {futures[future]} came to nothing: {escape(repr(exc))}[/red]")
                continue
            show(console, outcome)
            well[futures[future]] = not outcome.verdict.problems
    return well


def prove(console: Console, ways: Sequence[str], seed: int) -> bool:
    """Break Usher in each of these ways; True when the judge finds out every one, as it must."""
    runs = {
        way: partial(strike, SqliteStore, seed, way, STRIKE_AT[way], 4, "", freeze=way == "no-fence")
        for way in ways
    }
    well = run_side_by_side(console, runs)
    for way in ways:
        found = well.get(way) is False
        console.print(f"{way}: {'found out, as it must be' if found else '[red]not found out[/red]'}")
    return all(well.get(way) is False for way in ways)


def send_letters(console: Console, kinds: Sequence[Kind], seed: int, number: int) -> bool:
    """True when every letter on every database ended as it must."""
    with ProcessPoolExecutor(len(kinds), mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = [pool.submit(letters.run, kind, seed, number) for kind in kinds]
        well = [letters.show(console, outcome.result()) for outcome in outcomes]  # every one is worth seeing
    return all(well)


def do_jobs(console: Console, kinds: Sequence[Kind], seed: int, members: int) -> bool:
    """True when every job on every database came to what it must."""
    with ProcessPoolExecutor(len(kinds), mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = [pool.submit(jobs.run, kind, seed, members) for kind in kinds]
        well = [jobs.show(console, outcome.result()) for outcome in outcomes]
    return all(well)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 dev.py chaos", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, help="repeat a run; a new one is printed otherwise")
    add("--soak", type=float, default=0.0, metavar="MINUTES", help="go on with new seeds and longer faults")
    add("--events", type=int, default=1000, help="at least so many in each storm")
    add("--faults", default="*", metavar="GLOB", help="only the faults of the storm whose names match")
    add("--database", choices=("sqlite", "postgresql", "both"), default="both")
    add("--runs", choices=("storm", "points", "both"), default="both")
    add("--broker", default="", help="a BROKER_URL instead of Valkey's")
    add(
        "--letters",
        type=int,
        nargs="?",
        const=letters.LETTERS,
        metavar="N",
        help=f"instead: so many letters ({letters.LETTERS}) meet mail servers as they are",
    )
    add(
        "--jobs", action="store_true", help="instead: the admin's bigger jobs, while what runs them is killed"
    )
    add("--members", type=int, default=jobs.MEMBERS, help="of the group that --jobs writes to")
    add("--broken", choices=(*points.BROKEN_WAYS, "all"), help="break Usher, to see that this finds it out")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    console.print(f"seed {seed}")
    if options.broken:
        ways = list(points.BROKEN_WAYS) if options.broken == "all" else [options.broken]
        return 0 if prove(console, ways, seed) else 1
    kinds: list[Kind] = []
    kinds += [SqliteStore] if options.database != "postgresql" else []
    kinds += [PostgresStore] if options.database != "sqlite" else []
    if options.letters is not None:
        return 0 if send_letters(console, kinds, seed, options.letters) else 1
    if options.jobs:
        return 0 if do_jobs(console, kinds, seed, options.members) else 1
    ends_at = time.monotonic() + options.soak * 60
    stretch = 5.0 if options.soak else 1.0
    while True:
        runs: dict[str, Callable[[], Outcome]] = {}
        for kind in kinds:
            if options.runs != "points":
                runs[f"storm, {kind.kind}"] = partial(
                    storm, kind, seed, options.faults, options.events, stretch, options.broker
                )
            if options.runs != "storm":
                runs[f"points, {kind.kind}"] = partial(strike, kind, seed, "", (), 2, options.broker)
        if options.runs != "storm" and SqliteStore in kinds and not options.broker:
            runs["points without a broker"] = partial(
                strike, SqliteStore, seed, "", (), 1, CLOSED_PORT, freeze=False
            )
        well = run_side_by_side(console, runs)
        if not all(well.get(name) for name in runs):
            return 1
        if time.monotonic() >= ends_at:
            console.print("[green]✓[/green] nothing lost, nothing twice")
            return 0
        seed += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
