"""`usher automations show|history|export|rollback`: what counts, by the database and not by the file alone."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import ConfigError

if TYPE_CHECKING:
    from integrations.store.book import Book

Number = Annotated[int | None, typer.Argument(metavar="[VERSION]", help="A version; by default the newest.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON array, as the API shows them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def add_to(app: typer.Typer) -> None:
    app.command("show")(show)
    app.command("history")(history)
    app.command("export")(export)
    app.command("rollback")(rollback)


def show(number: Number = None) -> None:
    """What counts, as sentences; or what a version said."""
    from core.sentences import PLAIN, describe, describe_follow, describe_report, describe_times

    with _open_book() as book:
        found = book.current() if number is None else book.parse(book.get(number).text)
        used, trouble = book.number(), book.trouble()
    for one in found.automations:
        if one.is_step:
            print(f"    {one.name}: {describe(one, PLAIN)}")
        else:
            off = "" if one.enabled else " (switched off)"
            print(f"{one.name}{off}: {describe(one, PLAIN)} {describe_times(one, PLAIN)}".rstrip())
    for report in found.reports:
        print(f"{report.name}{'' if report.enabled else ' (switched off)'}: {describe_report(report, PLAIN)}")
    for follow in found.follows:
        print(f"{follow.name}{'' if follow.enabled else ' (switched off)'}: {describe_follow(follow, PLAIN)}")
    shown = used if number is None else number
    print(f"Version {shown}." if shown else "The file; no version is written down yet.")
    if trouble:
        print(trouble, file=sys.stderr)


def history(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Who changed the automations when, newest first."""
    from admin.api.automations import describe_version

    with _open_book() as book:
        rows = book.page(limit=limit)
        used = book.number()
    if as_json:
        print(json.dumps([describe_version(row) for row in rows], indent=2, ensure_ascii=False))
        return
    for row in rows:
        counts = "*" if row.number == used else " "
        print(
            f"{counts}{row.number:>5}  {row.created_at:%Y-%m-%d %H:%M}  {row.source:8}  {row.who}  {row.note}".rstrip()
        )


def export(
    number: Number = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Write it there.")] = None,
) -> None:
    """The text of a version, as it was written."""
    with _open_book() as book:
        text: str = (book.newest() if number is None else book.get(number)).text
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError("Nothing exported", [f"--out: {out} cannot be written ({exc.strerror})"]) from exc
    print(f"{out}: {len(text.splitlines())} lines.")


def rollback(
    number: Annotated[int, typer.Argument(metavar="VERSION", help="The version that is to count again.")],
    yes: Yes = False,
) -> None:
    """Have the text of an earlier version count again, after showing what that changes."""
    from admin.office.automations import difference
    from admin.recovery import COMMAND_LINE, agree
    from integrations.store.book import ROLLBACK

    with _open_book() as book:
        newest, earlier = book.newest(), book.get(number)
        book.parse(earlier.text)
        changed = _lines(difference(newest.text, earlier.text))
        if not changed:
            print(f"Version {number} says what the newest one, {newest.number}, says.")
            return
        print("\n".join(changed))
        agree(f"Let version {number} count again?", [f"version {number}"], yes=yes)
        row = book.add(
            earlier.text, base=newest.number, who=COMMAND_LINE, source=ROLLBACK, note=f"version {number}"
        )
        print(f"Version {row.number} counts from now on, with the text of version {number}.")


def _lines(found: Sequence[Any]) -> list[str]:
    return [f"{line.sign}{line.text}" for line in found]


@contextlib.contextmanager
def _open_book() -> Iterator[Book]:
    """A command only looks: a file that was changed counts when Usher starts. Raises ConfigError."""
    from admin.processes import TEMPLATES, check_to_migrate, read_file
    from integrations.email.render import Renderer
    from integrations.store.book import Book
    from integrations.store.database import Database

    settings = check_to_migrate()
    with contextlib.closing(Database(settings.database)) as database:
        database.require_current()
        yield Book(database, read_file(settings).only_to_look(), Renderer(TEMPLATES).names())
