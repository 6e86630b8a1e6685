"""What a person sees of events and letters, and does after something went wrong.

The shapes are the API's and the command line's alike; below them are the commands, which need the database and nothing
else: no broker, no mail server, no secrets. The sweeper finds what they changed within a second.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sa

from core.community import LONGEST_ID, SiteId, is_plain
from core.errors import ConfigError, NotThereError, WrongStateError
from core.events import EventId
from integrations.store.database import Database
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger, may_go_at

EVENT_STATES = ("received", "done", "ignored", "dead")
COMMAND_LINE = "command line"
"""Who did it, in the audit log."""
MESSAGE_STATES = ("planned", "sending", "sent", "deferred", "skipped", "failed", "in_doubt", "bounced")

Row = sa.Row[Any]


def describe_event(row: Row) -> dict[str, Any]:
    """`{"id", "site", "type", "state", "received_at", "attempts", "error"?}`"""
    return shape(row, ("id", "site", "type", "state", "received_at", "attempts"), ("error",))


def describe_message(row: Row) -> dict[str, Any]:
    """`{"id", "site", "member", "group", "purpose", "automation"?, "job"?, "email_template", "state", "reason"?,
    "attempts", "created_at", "sent_at"?}`"""
    always = (
        "id",
        "site",
        "member",
        "group_id",
        "purpose",
        "email_template",
        "state",
        "attempts",
        "created_at",
    )
    found = shape(row, always, ("automation", "job", "reason", "sent_at"))
    found["group"] = found.pop("group_id")
    return found


def shape(row: Row, always: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """These fields of a row as JSON has them; the optional ones only when there is something in them."""
    found = {name: getattr(row, name) for name in always}
    found |= {name: value for name in optional if (value := getattr(row, name))}
    return {
        name: f"{value:%Y-%m-%dT%H:%M:%S.%fZ}" if isinstance(value, datetime) else value
        for name, value in found.items()
    }


@dataclass(frozen=True)
class Desk:
    """The tables in front of a person."""

    database: Database
    journal: Journal
    ledger: Ledger

    def now(self) -> datetime:
        """The database's time."""
        with self.database.read() as tx:
            return tx.now


@contextlib.contextmanager
def open_desk() -> Iterator[Desk]:
    """Raises ConfigError for tables of another release, JournalUnavailableError for a database that is away."""
    from admin.processes import check_to_migrate
    from tasks.routes import ROUTES

    database = Database(check_to_migrate().database)
    try:
        database.require_current()
        yield Desk(database, Journal(database, listened=ROUTES), Ledger(database))
    finally:
        database.close()


def list_events(filters: Mapping[str, Any], *, limit: int, as_json: bool) -> None:
    check_filters(filters, EVENT_STATES)
    with open_desk() as desk:
        rows = desk.journal.page(**filters, limit=limit + 1)
    _print_list(rows, limit, describe_event, _EVENT_COLUMNS, as_json=as_json)


def list_messages(filters: Mapping[str, Any], *, limit: int, as_json: bool) -> None:
    check_filters(filters, MESSAGE_STATES)
    with open_desk() as desk:
        rows = desk.ledger.page(**filters, limit=limit + 1)
    _print_list(rows, limit, describe_message, _MESSAGE_COLUMNS, as_json=as_json)


def replay_events(ids: Sequence[str], *, dead: bool, filters: Mapping[str, Any], yes: bool) -> None:
    """`filters` are site and type, which only narrows down all dead ones. Raises SystemExit(1) when one of them could
    not be replayed."""
    if bool(ids) == dead or (filters["type"] and not dead):
        raise ConfigError(
            "Nothing to replay", ["name events by id, or all dead ones with --dead (and --type)"]
        )
    check_filters(filters)
    with open_desk() as desk:
        choice = _Choice()
        if dead:
            choice.rows = desk.journal.page(**filters, state="dead", limit=None)
        choice.pick(
            ids,
            lambda id_: desk.journal.page(id=EventId(id_), site=filters["site"]),
            lambda row: "is received, so it is worked off anyway" if row.state == "received" else None,
        )
        show_table(choice.rows, _EVENT_COLUMNS)
        choice.carry_out(
            "Work off once more what is listed above? Who has a letter gets no second one.",
            lambda row: desk.journal.replay(EventId(row.id), SiteId(row.site), who=COMMAND_LINE),
            yes=yes,
        )


def release_letters(ids: Sequence[str], older_than: float | None, *, yes: bool) -> None:
    """`older_than` is in seconds. Raises SystemExit(1) when one of them could not be released."""
    with open_desk() as desk:
        choice, now = _in_doubt(desk, ids, older_than)

        def goes(row: Row) -> str:
            at = may_go_at(row, now)
            return f"from {spell_time(at)} on: its process may only be frozen" if at > now else "at once"

        show_table(choice.rows, {**_MESSAGE_COLUMNS, "Goes out again": goes})
        choice.carry_out(
            "Send again what is listed above? Who has the letter already gets it twice.",
            lambda row: desk.ledger.release(row.id, who=COMMAND_LINE),
            yes=yes,
        )


def give_letters_up(ids: Sequence[str], older_than: float | None, *, yes: bool) -> None:
    """`older_than` is in seconds. Raises SystemExit(1) when one of them could not be given up."""
    with open_desk() as desk:
        choice, _ = _in_doubt(desk, ids, older_than)
        show_table(choice.rows, _MESSAGE_COLUMNS)
        choice.carry_out(
            "Never send what is listed above?",
            lambda row: desk.ledger.give_up(row.id, who=COMMAND_LINE),
            yes=yes,
        )


def settle_found(file: str, *, yes: bool) -> None:
    """Letters in doubt whose Message-ID is in the file ("-": standard input) become sent. Raises ConfigError."""
    wanted = _read_message_ids(file)
    with open_desk() as desk:
        rows = [row for row in desk.ledger.page(state="in_doubt", limit=None) if row.message_id in wanted]
        show_table(rows, _MESSAGE_COLUMNS)
        print(f"{len(wanted)} Message-IDs read; {_count(rows)} in doubt among them.")
        agree("Note as sent what is listed above?", rows, yes=yes)
        found = [row.message_id for row in rows]
        settled = sum(
            desk.ledger.found_accepted(found[start : start + 500], who=COMMAND_LINE)
            for start in range(0, len(found), 500)
        )
        print(f"{settled} noted as sent.")


def _read_message_ids(file: str) -> set[str]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise ConfigError("Nothing was changed", [f"{file} cannot be read ({exc.strerror})"]) from exc
    found, wrong = set(), []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        # Other programs' ids are of any kind; a line of a log is none.
        if match := re.fullmatch(r"<([^<>]+)>|([^<>\s]+)", line.strip()):
            found.add(f"<{match[1] or match[2]}>")
        elif line.strip():
            wrong.append(
                f"{file}:{number}: {line.strip()[:60]!r} is no Message-ID; there has to be one a line"
            )
    if wrong:
        raise ConfigError("Nothing was changed", [*wrong[:10], *(["and more"] if len(wrong) > 10 else [])])
    return found


def _in_doubt(desk: Desk, ids: Sequence[str], older_than: float | None) -> tuple[_Choice, datetime]:
    """What was asked for, and the database's time. A letter is in doubt since its lease ended, to within 45 s."""
    if bool(ids) == (older_than is not None):
        raise ConfigError("Nothing to decide", ["name letters by id, or all older ones with --older-than 7d"])
    choice, now = _Choice(), desk.now()
    if older_than is not None:
        since = now - timedelta(seconds=older_than)
        choice.rows = [row for row in desk.ledger.page(state="in_doubt", limit=None) if row.next_at <= since]
    choice.pick(
        ids,
        lambda id_: desk.ledger.page(id=id_),
        lambda row: None if row.state == "in_doubt" else f"is {row.state}, not in doubt",
    )
    return choice, now


class _Choice:
    """The rows that somebody chose, and what of it cannot be done."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._refused = False

    def pick(
        self, ids: Sequence[str], find: Callable[[str], list[Row]], why_not: Callable[[Row], str | None]
    ) -> None:
        for id_ in dict.fromkeys(ids):
            found = find(id_) if is_plain(id_, LONGEST_ID) else []
            if not found:
                self.refuse(id_, "there is nothing of this id")
            elif len(found) > 1:
                self.refuse(id_, f"{len(found)} sites have one of this id: name the site with --site")
            elif reason := why_not(found[0]):
                self.refuse(id_, reason)
            else:
                self.rows += found

    def refuse(self, id: str, reason: str) -> None:  # noqa: A002 (the row's own word)
        self._refused = True
        print(f"usher: {id}: {reason}", file=sys.stderr)

    def carry_out(self, question: str, act: Callable[[Row], Row], *, yes: bool) -> None:
        if not self.rows and not self._refused:
            print("Nothing to do.")
        agree(question, self.rows, yes=yes)
        for row in self.rows:
            try:
                now = act(row)
            except (NotThereError, WrongStateError) as exc:  # somebody else was faster
                self.refuse(row.id, str(exc))
            else:
                print(f"{now.id}: {now.state}" + (f" ({now.reason})" if getattr(now, "reason", None) else ""))
        if self._refused:
            sys.exit(1)


def agree(question: str, rows: Sequence[object], *, yes: bool, aside: bool = False) -> None:
    """Go on only with a yes; `aside` leaves standard output alone. Raises ConfigError when nobody can be asked,
    SystemExit(1) for a no."""
    import typer

    if yes:
        return
    require_somebody()
    if rows and not typer.confirm(question, err=aside):
        print("Nothing was changed.", file=sys.stderr if aside else sys.stdout)
        sys.exit(1)


def require_somebody() -> None:
    """Raises ConfigError when nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(
            "Nothing was changed", ["standard input is no terminal, so nobody can be asked: add --yes"]
        )


def check_filters(filters: Mapping[str, Any], states: Sequence[str] = ()) -> None:
    """Raises ConfigError for what no row can have."""
    wrong = [
        f"--{name}: {value!r} is not printable ASCII without spaces"
        for name, value in filters.items()
        if value is not None and not is_plain(value, LONGEST_ID)
    ]
    if wrong:
        raise ConfigError("Nothing to look for", wrong)
    if filters.get("state") not in (None, *states):
        raise ConfigError(
            "Nothing to list", [f"--state: {filters['state']!r} is not one of {', '.join(states)}"]
        )


Columns = Mapping[str, Callable[[Any], object]]

_EVENT_COLUMNS: Columns = {
    "Event": lambda row: row.id,
    "Site": lambda row: row.site,
    "Type": lambda row: row.type,
    "State": lambda row: row.state,
    "Received": lambda row: spell_time(row.received_at),
    "Attempts": lambda row: row.attempts,
    "Error": lambda row: row.error,
}
_MESSAGE_COLUMNS: Columns = {
    "Letter": lambda row: row.id,
    "Site": lambda row: row.site,
    "Member": lambda row: row.member,
    "Group": lambda row: row.group_id,
    "Automation": lambda row: row.automation,
    "Job": lambda row: row.job,
    "Email": lambda row: row.email_template,
    "State": lambda row: row.state,
    "Reason": lambda row: row.reason,
    "Created": lambda row: spell_time(row.created_at),
    "In doubt since": lambda row: spell_time(row.next_at) if row.state == "in_doubt" else None,
    "Message-ID": lambda row: row.message_id if row.state == "in_doubt" else None,
}
_MOST_SHOWN = 20


def _print_list(
    rows: Sequence[Row],
    limit: int,
    describe: Callable[[Row], dict[str, Any]],
    columns: Columns,
    *,
    as_json: bool,
) -> None:
    if as_json:
        print(json.dumps([describe(row) for row in rows[:limit]], indent=2))
        return
    show_table(rows[:limit], columns, most=limit)
    if len(rows) > limit:
        print(f"There are more: this is --limit {limit}.")
    elif not rows:
        print("None.")


def show_table(
    rows: Sequence[object], columns: Columns, most: int = _MOST_SHOWN, out: TextIO | None = None
) -> None:
    """A table without its empty columns; where it is too wide for the terminal, one line for each field instead, as
    psql's `\\x auto` does: somebody will copy the ids. `out` is standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if not rows:
        return
    out = out or sys.stdout
    cells = {name: [one_line(read(row)) for row in rows[:most]] for name, read in columns.items()}
    shown = {name: values for name, values in cells.items() if any(values)}
    lines = list(zip(*shown.values(), strict=True))
    table = Table(*shown, box=box.SIMPLE_HEAD, pad_edge=False)
    for values in lines:
        table.add_row(*map(Text, values))
    wide = Console(file=out, width=10_000)
    console = Console(file=out) if out.isatty() else wide  # elsewhere a line may be as long as it is
    if wide.measure(table).maximum <= console.width:
        console.print(table)
    else:
        for values in lines:
            block = Table.grid("", Column(overflow="fold"), padding=(0, 2))
            for name, value in zip(shown, values, strict=True):
                if value:
                    block.add_row(name, Text(value))
            console.print(block, "")
    if len(rows) > most:
        print(f"… and {len(rows) - most} more.", file=out)


def one_line(value: object) -> str:
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else " " for char in text)


def spell_time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _count(rows: Sequence[Row]) -> str:
    return "1 letter is" if len(rows) == 1 else f"{len(rows)} letters are"
