"""`python -m benchmarks [names]`: measure, print, judge nothing by exit code.

Every figure stands beside its reference, taken in turn with it in the same run: on a shared machine the ratio says
more than the figure.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

from benchmarks.table import Row, describe_machine, print_table, stolen_s
from benchmarks.tools import Size

MEASUREMENTS = {
    "door": ("door.measure_door", "deliveries per second, beside verify-only and the naive version"),
    "latency": ("door.measure_latency", "delay at an offered rate, broker well, away and silent"),
    "refusal": ("door.measure_refusal", "CPU for an unsigned body of 1 MiB (Linux)"),
    "worker": ("work.measure_worker", "events per second of one worker process"),
    "letters": ("work.measure_letters", "letters per second of one worker process"),
    "join": ("work.measure_join", "from the webhook to the letter, idle system"),
    "calls": ("mailing.measure_calls", "calls to Wix for a mailing to 1, 100, 250 and 1,000 people"),
    "million": (
        "mailing.measure_million",
        "a mailing to a million people: memory and cost to its end (Linux)",
    ),
    "matching": ("alone.measure_matching", "answers per second, 1,000 terms"),
    "start": ("alone.measure_start", "until the command line and the web process are there"),
    "demo": ("alone.measure_demo", "until the demo's first letter is there"),
    "rows": (
        "rows.measure_rows",
        "what ten million letters in the ledger make dearer; 45 GB of disk, when named",
    ),
}
WHEN_NAMED = {"rows"}
"""What nobody expects of a run of everything."""
AMONG_ALL = 200_000
"""Letters of `million` in a run of everything, which is to take a quarter of an hour."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"any of {', '.join(MEASUREMENTS)}; default: all but {', '.join(WHEN_NAMED)}",
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, once: see that it works; the figures mean nothing"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument(
        "--letters",
        type=int,
        metavar="N",
        help=f"of `million` (default: 1,000,000 when it is named, {AMONG_ALL:,} among all others)",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in MEASUREMENTS]:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    if not 1 <= options.repeats <= 100:
        parser.error("--repeats must be from 1 to 100")
    letters = options.letters or (1_000_000 if options.names else AMONG_ALL)
    if not 1000 <= letters <= 10_000_000:
        parser.error("--letters must be from 1000 to 10000000")
    if options.list:
        for name, (_, about) in MEASUREMENTS.items():
            print(f"{name:10} {about}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever was started is ended
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs would not hear it
    logging.disable(logging.WARNING)  # here the stores are only means
    # With it each start compiles all that it imports, as no user's does.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    size = Size(1 if options.quick else options.repeats, options.quick, 200 if options.quick else letters)
    machine = describe_machine()
    print(machine)
    rows: list[Row] = []
    took: list[str] = []
    began_s, stolen_before_s = time.monotonic(), stolen_s()
    for name in options.names or [name for name in MEASUREMENTS if name not in WHEN_NAMED]:
        started_s = time.monotonic()
        rows += _measurement(name)(size)
        took.append(f"{name} {time.monotonic() - started_s:.0f} s")
        print(f"  {took[-1]}")
    if rows:
        print(f"\n{machine}")
        print_table(rows)
    stolen = (stolen_s() - stolen_before_s) / (time.monotonic() - began_s)
    print(f"Rounds: {size.repeats}. Took: {', '.join(took)}. Taken away by the host: {stolen:.2f} cores.")


def _measurement(name: str) -> Callable[[Size], list[Row]]:
    module, _, function = MEASUREMENTS[name][0].partition(".")
    found: Callable[[Size], list[Row]] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return found


if __name__ == "__main__":
    main()
