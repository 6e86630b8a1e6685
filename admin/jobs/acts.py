"""`usher jobs`: what is there, what became of each, and the acts that need no waiting."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from admin.jobs.described import COLUMNS, describe_job, in_brief, rows_of
from admin.jobs.given import find_job
from admin.jobs.printed import ROLLOUTS, print_jobs, show_job_page
from admin.recovery import COMMAND_LINE, agree, check_filters, open_desk, show_table
from core.cells import defuse
from core.errors import ConfigError
from integrations.store.jobs import Jobs

if TYPE_CHECKING:
    import sqlalchemy as sa

    from core.community import SiteId

    Row = sa.Row[Any]


def list_jobs(*, site: str | None, kind: str | None, state: str | None, limit: int, as_json: bool) -> None:
    check_filters({"site": site})
    with open_desk() as desk:
        jobs = Jobs(desk.database)
        rows = jobs.page(site=site, kind=kind, state=state, limit=limit + 1)
        counts = jobs.counts(rows[:limit])
        now = desk.now()
    if as_json:
        print(
            json.dumps([in_brief(describe_job(row, counts[row.id], now)) for row in rows[:limit]], indent=2)
        )
        return
    print_jobs(rows[:limit], counts, most=limit)
    if len(rows) > limit:
        print(f"There are more: this is --limit {limit}.")
    elif not rows:
        print("None.")


def show_job(id: str, *, as_json: bool) -> None:  # noqa: A002 (the row's own word)
    with open_desk() as desk:
        jobs = Jobs(desk.database)
        row = find_job(jobs, id)
        counts = jobs.counts([row])[id]
        if as_json:
            print(json.dumps(describe_job(row, counts, desk.now()), indent=2))
        else:
            show_job_page(desk, row, counts, sys.stdout)


def show_rows(id: str, *, state: str | None, limit: int, csv_file: str | None, as_json: bool) -> None:  # noqa: A002
    """A table, JSON, or with `csv_file` ("-": standard output) all rows as CSV."""
    with open_desk() as desk:
        jobs = Jobs(desk.database)
        find_job(jobs, id)
        place = COLUMNS.index("state")
        found = (
            row
            for rows in rows_of(id, desk.ledger, jobs)
            for row in rows
            if state is None or row[place] == state
        )
        if csv_file is not None:
            _write_csv(found, csv_file)
            return
        rows = list(itertools.islice(found, limit + 1))
    if as_json:
        described = [dict(zip(COLUMNS, row, strict=True)) for row in rows[:limit]]
        given = [{name: value for name, value in row.items() if value not in ("", None)} for row in described]
        print(json.dumps(given, indent=2))
        return
    columns = {name.capitalize().replace("_", " "): _cell(place) for place, name in enumerate(COLUMNS)}
    show_table(rows[:limit], columns, most=limit)
    if len(rows) > limit:
        print(f"There are more: this is --limit {limit}.")
    elif not rows:
        print("None.")


def _cell(place: int) -> Callable[[Sequence[object]], object]:
    return lambda row: row[place]


def _write_csv(rows: Iterator[Sequence[object]], file: str) -> None:
    written = 0
    try:
        with contextlib.ExitStack() as stack:
            out: TextIO = sys.stdout
            if file != "-":  # the mark at the beginning has spreadsheets read it as UTF-8
                out = stack.enter_context(Path(file).open("w", encoding="utf-8-sig", newline=""))
            writer = csv.writer(out)
            writer.writerow(COLUMNS)
            for row in rows:
                writer.writerow([defuse(cell) if isinstance(cell, str) else cell for cell in row])
                written += 1
    except OSError as exc:
        raise ConfigError("Not written", [f"--csv: {file} cannot be written ({exc.strerror})"]) from exc
    if file != "-":
        print(f"{written} rows are in {file}.")


def act_on(id: str, verb: str, *, yes: bool, as_json: bool) -> None:  # noqa: A002
    act, question = _ACTS[verb]
    with open_desk() as desk:
        jobs = Jobs(desk.database)
        row = find_job(jobs, id)
        counts = jobs.counts([row])
        out = sys.stderr if as_json else sys.stdout
        print_jobs([row], counts, most=1, out=out)
        found = counts[id]
        told = question.format(waiting=found.waiting, failed=found.failed)
        agree(told, [row], yes=yes, aside=as_json)
        row = act(jobs, id)
        print(f"{id}: {row.state}", file=out)
        if as_json:
            print(json.dumps(describe_job(row, jobs.counts([row])[id], desk.now()), indent=2))
        elif row.state == "running":
            print(f"To see it through: usher jobs show {id} --follow")


_ACTS: Mapping[str, tuple[Callable[[Jobs, str], Row], str]] = {
    "pause": (
        lambda jobs, id_: jobs.pause(id_, who=COMMAND_LINE),
        "Pause it? What is under way is finished, and the rest ({waiting}) waits.",
    ),
    "resume": (
        lambda jobs, id_: jobs.resume(id_, who=COMMAND_LINE),
        "Let it go on with the rest ({waiting})?",
    ),
    "cancel": (
        lambda jobs, id_: jobs.cancel(id_, who=COMMAND_LINE),
        "Cancel it for good? What it did stays, and the rest ({waiting}) is skipped.",
    ),
    "retry": (
        lambda jobs, id_: jobs.retry_failed(id_, who=COMMAND_LINE),
        "Try again what failed ({failed})?",
    ),
}


def find_rollout(id: str) -> tuple[str, SiteId]:  # noqa: A002
    """Kind and site of a rollout. Raises ConfigError for any other job."""
    with open_desk() as desk:
        row = find_job(Jobs(desk.database), id)
    if row.kind not in ROLLOUTS:
        raise ConfigError(
            "Nothing to put back", [f"ID: this job is a {row.kind}, not one of {', '.join(ROLLOUTS)}"]
        )
    return row.kind, row.site
