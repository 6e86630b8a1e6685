"""A job from the command line: made, previewed, agreed to, followed to its end. A worker does the work; here it is
waited for, so that whoever goes away loses nothing."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import typer

from admin.jobs.described import describe_job
from admin.jobs.given import choose_site, find_job
from admin.jobs.printed import ask_for, changes_nothing, show_end, show_preview
from admin.recovery import COMMAND_LINE, Desk, open_desk, require_somebody
from core.errors import AppError, WrongStateError
from core.jobs import CALL_OFF, FINAL, Counts
from integrations.store.heartbeats import Heartbeats
from integrations.store.jobs import Jobs

if TYPE_CHECKING:
    import sqlalchemy as sa

    Row = sa.Row[Any]

HEARD_WITHIN_S = 30.0
"""A worker says every five seconds that it is alive."""
_POLL_S, _LONGEST_POLL_S = 0.1, 2.0
LEFT = 130
"""Exit code of who goes away with Ctrl-C, as a shell gives it."""


@dataclass(frozen=True)
class Manner:
    """How a job is run: asked about, waited for, shown.

    `aside`: standard output is for programs, so people are told on standard error. `brief`: what it brought goes
    elsewhere. `timeout_s`: given up when no worker is alive for so long.
    """

    yes: bool
    wait: bool
    as_json: bool
    aside: bool
    brief: bool
    timeout_s: float


class _NoWorkerError(AppError):
    """Nobody is there who could do it."""


def run_job(
    kind: str,
    params: Mapping[str, Any],
    *,
    site: str | None,
    manner: Manner,
    ended: Callable[[Desk, Row], None] | None = None,
) -> None:
    """Make a job and see it through; ends with SystemExit. `ended` gets the row of a job that is over, or was declined:
    then its result is the preview's."""
    from tasks.jobs.kinds import KINDS

    previews = KINDS[kind].previews
    if previews and not manner.yes:
        require_somebody()
    with open_desk() as desk:
        where = choose_site(desk.database, site)
        line = Line(desk, manner)
        row, _ = line.jobs.create(
            where,
            kind,
            params,
            who=COMMAND_LINE,
            state="previewing" if previews else "running",
            key=uuid4().hex,
        )
        with line.may_leave(row.id):
            if not sys.stderr.isatty():
                print(f"Job {row.id} is made; usher jobs show {row.id} says how far it is.", file=sys.stderr)
            if previews:
                row = line.follow(row.id, "previewed")
                if row.state == "previewed":
                    row = line.decide(row, drop=True)
            if row.state not in FINAL and manner.wait:
                row = line.follow(row.id)
        if ended is not None and row.state in FINAL:
            ended(desk, row)
        line.finish(row)


def confirm_job(id: str, manner: Manner) -> None:  # noqa: A002 (the row's own word)
    """Show a preview that is there, ask, and see the job through; ends with SystemExit."""
    if not manner.yes:
        require_somebody()
    with open_desk() as desk:
        line = Line(desk, manner)
        row = find_job(line.jobs, id)
        if row.state not in ("previewing", "previewed"):
            raise WrongStateError(f"the job is {row.state}, not previewed")
        with line.may_leave(id):
            if row.state == "previewing":
                row = line.follow(id, "previewed")
            if row.state not in FINAL:
                row = line.decide(row, drop=False)
            if manner.wait and not line.declined:
                row = line.follow(id)
        line.finish(row)


def follow_job(id: str, manner: Manner) -> None:  # noqa: A002
    """See a job through that somebody began; ends with SystemExit."""
    with open_desk() as desk:
        line = Line(desk, manner)
        find_job(line.jobs, id)
        with line.may_leave(id):
            row = line.follow(id, "previewed")
        if row.state == "previewed":
            show_preview(desk, row, line.counts(row), line.out)
        line.finish(row)


class Line:
    """The connection to a job, as long as somebody is on it; `out` is for people."""

    def __init__(self, desk: Desk, manner: Manner) -> None:
        self.jobs = Jobs(desk.database)
        self.out = sys.stderr if manner.aside else sys.stdout
        self.declined = False
        self._desk = desk
        self._manner = manner
        self._heartbeats = Heartbeats(desk.database)
        self._silent_since: float | None = None
        self._error: str | None = None
        self._seen: Row | None = None

    def counts(self, row: Row) -> Counts:
        return self.jobs.counts([row])[row.id]

    def follow(self, id: str, *until: str) -> Row:  # noqa: A002
        """Wait until the job is in one of these states, or all of it is over."""
        poll_s = _POLL_S
        with _progress() as show:
            while True:
                looked_at = time.monotonic()
                row = self._seen = self.jobs.get(id)
                show(row, self.counts(row))
                if row.state in until or (row.state in FINAL and row.phase != CALL_OFF):
                    return row
                self._tell_trouble(row)
                # Counting 100,000 letters takes SQLite 0.4 s: the database is mostly left to those who work.
                time.sleep(max(poll_s, 4 * (time.monotonic() - looked_at)))
                poll_s = min(_LONGEST_POLL_S, poll_s * 1.2)

    def decide(self, row: Row, *, drop: bool) -> Row:
        """Ask about a preview; after a no the job is as it was, or cancelled: `drop`."""
        self._seen, counts = row, self.counts(row)
        show_preview(self._desk, row, counts, self.out)
        if (
            self._manner.yes
            or changes_nothing(row, counts)
            or typer.confirm(ask_for(row, counts), err=self._manner.aside)
        ):
            self._seen = self.jobs.confirm(row.id, row.confirm_token or "", who=COMMAND_LINE)
            return self._seen
        self.declined = True
        print("Nothing was changed.", file=self.out)
        return self.jobs.cancel(row.id, who=COMMAND_LINE) if drop else row

    def finish(self, row: Row) -> None:
        """Say what it came to, and end: 0 when nothing failed so far."""
        counts = self.counts(row)
        if row.state != "previewed" and not self.declined:
            show_end(row, counts, self.out, brief=self._manner.brief)
        self._print_json(row)
        failed = row.state in ("failed", "cancelled") or counts.failed or counts.in_doubt
        sys.exit(1 if failed or self.declined else 0)

    @contextlib.contextmanager
    def may_leave(self, id: str) -> Iterator[None]:  # noqa: A002
        """Whoever goes away is told how to come back. The job does not notice."""
        try:
            yield
        except (KeyboardInterrupt, typer.Abort):
            if self._seen is not None and self._seen.state == "previewed":
                told = f"Nothing happens until it is confirmed: usher jobs confirm {id}, or cancel {id}."
            else:
                told = f"The job goes on. Come back to it with: usher jobs show {id}"
            print(f"\n{told}", file=sys.stderr)
            sys.exit(LEFT)
        except _NoWorkerError as exc:
            print(f"usher: {exc}", file=sys.stderr)
            self._print_json(self.jobs.get(id))
            sys.exit(1)
        except AppError:
            print(f"The job is kept: usher jobs show {id}", file=sys.stderr)
            raise

    def _print_json(self, row: Row) -> None:
        if self._manner.as_json:
            print(json.dumps(describe_job(row, self.counts(row), self._desk.now()), indent=2))

    def _tell_trouble(self, row: Row) -> None:
        """What keeps the job from getting on, each once. Raises _NoWorkerError."""
        if row.error and row.error != self._error and row.state not in FINAL:
            print(f"It is tried again: {row.error}", file=sys.stderr)
        self._error = row.error
        if self._heartbeats.heard_within("worker:", HEARD_WITHIN_S):
            self._silent_since = None
            return
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            print("No worker is alive: start one with `usher run` or `usher worker`.", file=sys.stderr)
        if now - self._silent_since >= self._manner.timeout_s:
            raise _NoWorkerError(
                f"given up after {self._manner.timeout_s:g} s without a worker; the job waits for one:"
                f" usher jobs show {row.id}"
            )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Row, Counts], None]]:
    """A bar, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _row, _counts: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting", total=None)

        def show(row: Row, counts: Counts) -> None:
            failed = f", {counts.failed} failed" if counts.failed else ""
            looked = row.state in ("previewing", "previewed")
            progress.update(
                task,
                description=f"{row.state}{failed}",
                completed=counts.total if looked else counts.total - counts.waiting,
                total=None if looked or not counts.total else counts.total,
            )

        yield show
