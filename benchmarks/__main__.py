"""`python -m benchmarks [names]`: measure, print, judge nothing by exit code.

Every figure stands beside its reference, taken in turn with it in the same run: on a shared machine the ratio says
more than the figure.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from benchmarks.alone import measure_matching, measure_start
from benchmarks.door import measure_door, measure_latency, measure_refusal
from benchmarks.tools import Size, describe_machine
from benchmarks.work import measure_join, measure_letters, measure_worker

MEASUREMENTS = {
    "door": (measure_door, "deliveries per second, beside verify-only and the naive version"),
    "latency": (measure_latency, "delay at an offered rate, broker well, away and silent"),
    "refusal": (measure_refusal, "CPU for an unsigned body of 1 MiB (Linux)"),
    "worker": (measure_worker, "events per second of one worker process"),
    "letters": (measure_letters, "letters per second of one worker process"),
    "join": (measure_join, "from the webhook to the letter, idle system"),
    "matching": (measure_matching, "answers per second, 1,000 terms"),
    "start": (measure_start, "until the command line and the web process are there"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}; default: all"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, once: see that it works; the figures mean nothing"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in MEASUREMENTS]:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    if not 1 <= options.repeats <= 100:
        parser.error("--repeats must be from 1 to 100")
    if options.list:
        for name, (_, about) in MEASUREMENTS.items():
            print(f"{name:10} {about}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever was started is ended
    size = Size(repeats=1 if options.quick else options.repeats, quick=options.quick)
    print(describe_machine())
    for name in options.names or MEASUREMENTS:
        started_s = time.monotonic()
        MEASUREMENTS[name][0](size)
        print(f"  {size.repeats} rounds, {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
