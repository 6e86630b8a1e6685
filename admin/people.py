"""`usher people`: find somebody, see what Usher knows of them, and decide about them.

`find` alone asks Wix; the others work on the tables, and know those of a person's addresses that letters went to.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.community import MemberId, SiteId
from core.consent import ADMINS_REASONS, Suppression

if TYPE_CHECKING:
    import sqlalchemy as sa

    from admin.office import Office
    from admin.recovery import Desk

app = typer.Typer(help="One person: what they got, what waits, what stands against it.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="MEMBER", help="Id of a member.")]
Site = Annotated[str, typer.Option(help="App instance id of the site.")]
Scope = Annotated[
    str, typer.Option(help='"promotional", "all", or "group:" and the id of a group: which letters.')
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@dataclass(frozen=True)
class Person:
    """One member of one site. `flows`: the letters by group and flow (an automation with its steps, or a job), the
    oldest flow first, each in the order in which its letters are due."""

    site: SiteId
    member: MemberId
    flows: tuple[tuple[sa.Row[Any], ...], ...]
    suppressions: tuple[Suppression, ...]


@app.command("show")
def show(
    member: Id,
    site: Annotated[str | None, typer.Option(help="App instance id of one site.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array, with one object for each site.")
    ] = False,
) -> None:
    """One person's letters by group and flow, what comes next, and what stands against it."""
    import json

    from admin.recovery import check_filters, open_desk

    check_filters({"member": member, "site": site})
    with open_desk() as desk:
        found = find_person(desk, MemberId(member), SiteId(site) if site else None)
    if as_json:
        print(json.dumps([_describe(person) for person in found], indent=2))
        return
    if not found:
        print("Nothing is known of them.")
    for person in found:
        _show(person)


def find_person(desk: Desk, member: MemberId, site: SiteId | None) -> list[Person]:
    """One for each site that knows something of this member."""
    import sqlalchemy as sa

    from integrations.store.ledger import all_subjects
    from integrations.store.suppressions import Suppressions
    from integrations.store.tables import suppressions as table

    rows = desk.ledger.page(member=member, site=site, limit=None)
    subjects = all_subjects(member, ())
    with desk.database.read() as tx:
        named = tx.execute(sa.select(table.c.site).where(table.c.subject.in_(subjects)).distinct())
        sites = {SiteId(row.site) for row in [*rows, *named] if site in (None, row.site)}
    suppressions = Suppressions(desk.database)
    people = []
    for where in sorted(sites):
        mine = sorted(
            (row for row in rows if row.site == where), key=lambda row: (row.due_at, row.created_at)
        )
        hashes = {row.address_hash for row in mine if row.address_hash}
        flows: dict[tuple[str, str], list[sa.Row[Any]]] = defaultdict(list)
        for row in mine:
            flows[row.group_id, _flow(row)].append(row)
        people.append(
            Person(
                where,
                member,
                tuple(map(tuple, flows.values())),
                suppressions.standing(where, {member: sorted(hashes)}).get(member, ()),
            )
        )
    return people


def _flow(row: sa.Row[Any]) -> str:
    name: str = (row.automation or row.job or "").partition(".")[0]
    return name


def _describe(person: Person) -> dict[str, Any]:
    from admin.recovery import describe_message

    return {
        "site": person.site,
        "member": person.member,
        "flows": [
            {
                "group": letters[0].group_id,
                "flow": _flow(letters[0]),
                "letters": [
                    describe_message(row)
                    | {name: _iso(at) for name in _WHEN if (at := getattr(row, name)) is not None}
                    for row in letters
                ],
            }
            for letters in person.flows
        ],
        "suppressions": [
            {"scope": found.scope, "cause": found.cause, "reason": found.reason}
            | ({"expires_at": _iso(found.expires_at)} if found.expires_at else {})
            for found in person.suppressions
        ],
    }


_WHEN = ("due_at", "bounced_at", "complained_at", "replied_at")


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


def _show(person: Person) -> None:
    from admin.recovery import show_table

    print(f"Member {person.member} of site {person.site}\n")
    rows = [row for letters in person.flows for row in letters]
    show_table(
        rows,
        {
            "Group": lambda row: row.group_id,
            "Flow": _flow,
            "Step": lambda row: (row.automation or "").partition(".")[2],
            "Email": lambda row: row.email_template,
            "State": lambda row: row.state,
            "When": _when,
            "Reason": lambda row: row.reason,
        },
        most=len(rows),
    )
    show_table(
        person.suppressions,
        {
            "Not to get": lambda found: _SCOPES.get(found.scope, f"letters of {found.scope}"),
            "Cause": lambda found: found.cause,
            "Reason": lambda found: found.reason,
            "Until": _until,
        },
        most=len(person.suppressions),
    )
    if not person.suppressions:
        print("Nothing stands against letters to them here. What they told Wix is asked when a letter goes.")


_SCOPES = {"all": "any letter", "promotional": "promotional letters"}


def _until(found: Suppression) -> str:
    from admin.recovery import spell_time

    return spell_time(found.expires_at) if found.expires_at else "for good"


def _when(row: sa.Row[Any]) -> str:
    from admin.recovery import spell_time

    if row.sent_at:
        answered = f", answered {spell_time(row.replied_at)}" if row.replied_at else ""
        return f"sent {spell_time(row.sent_at)}{answered}"
    return f"due {spell_time(row.next_at if row.state in ('planned', 'deferred') else row.due_at)}"


@app.command()
def find(
    site: Site,
    term: Annotated[
        str,
        typer.Argument(help="A name, an address, a phone number or an id; - reads it from standard input."),
    ] = "-",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Who has this name, address, phone number or id, by Wix and by the tables here.

    What stands in a command is seen by everybody on the machine: leave it out, and type or pipe it.
    """
    import json

    from admin.office.people import find as find_people
    from admin.office.refusals import RefusedError
    from admin.recovery import COMMAND_LINE, check_filters, show_table
    from core.errors import ConfigError
    from integrations.store.reach import EVERYTHING
    from integrations.store.tokens import Holder, Role

    check_filters({"site": site})
    if term == "-":
        term = sys.stdin.readline()
    holder = Holder("", COMMAND_LINE, Role.OWNER, EVERYTHING)
    with open_office() as office:
        try:
            found = find_people(office, holder, SiteId(site), term)
        except RefusedError as exc:
            raise ConfigError("Nothing to look for", [error["detail"] for error in exc.errors]) from exc
    if as_json:
        hits = [
            {
                "member": hit.member,
                "name": hit.name or hit.nickname,
                "address": hit.address,
                "groups": hit.groups,
            }
            for hit in found.hits
        ]
        print(json.dumps(hits, indent=2))
    else:
        show_table(
            found.hits,
            {
                "Member": lambda hit: hit.member or "(no account)",
                "Name": lambda hit: hit.name or hit.nickname,
                "Address": lambda hit: hit.address,
                "Groups": lambda hit: ", ".join(hit.groups),
            },
            most=len(found.hits),
        )
        if not found.hits:
            print("Nobody is found.")
        if found.more:
            print("There are more: say more of the name.")
    if found.trouble:
        print(f"usher: {found.trouble}", file=sys.stderr)


@app.command()
def export(
    member: Id,
    site: Site,
    out: Annotated[Path | None, typer.Option(help="A file to write; .html is a page to read.")] = None,
) -> None:
    """Everything that is kept of one person on one site, as JSON or as a page to read."""
    import json

    from admin.office.people import describe_records
    from admin.office.people_file import render_export
    from admin.recovery import COMMAND_LINE, check_filters, open_desk
    from integrations.store.people import People

    check_filters({"member": member, "site": site})
    where, who = SiteId(site), MemberId(member)
    with open_desk() as desk:
        records = People(desk.database).export(where, who, who=COMMAND_LINE)
        found = describe_records(where, who, records, desk.now())
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    out.write_text(render_export(found) if out.suffix == ".html" else text, encoding="utf-8")
    print(f"Written to {out}.")


@app.command()
def erase(member: Id, site: Site, yes: Yes = False) -> None:
    """Forget somebody for good, as a privacy request at Wix does. Their id and the keyed hashes of their addresses
    stay, so that nobody writes to them again."""
    from admin.recovery import COMMAND_LINE, agree, check_filters, open_desk
    from core.errors import NotThereError
    from integrations.store.people import People

    check_filters({"member": member, "site": site})
    with open_desk() as desk:
        people = People(desk.database)
        if not people.records(SiteId(site), MemberId(member)):
            raise NotThereError("nothing is known of this member here")
        agree(f"Forget the member {member} for good?", [member], yes=yes)
        people.erase(SiteId(site), MemberId(member), who=COMMAND_LINE)
    print("Forgotten. Nobody writes to them again.")


@app.command("suppress")
def suppress_(
    member: Id,
    site: Site,
    scope: Scope,
    reason: Annotated[str, typer.Option(help=f"One of {', '.join(ADMINS_REASONS)}.")],
    yes: Yes = False,
) -> None:
    """End letters to somebody, until an admin lifts it. Wix is not told."""
    from admin.office.people import check_suppression
    from admin.office.refusals import RefusedError
    from admin.recovery import COMMAND_LINE, agree, check_filters, open_desk
    from core.errors import ConfigError
    from integrations.store.people import People

    check_filters({"member": member, "site": site, "scope": scope})
    try:
        check_suppression(scope, reason)
    except RefusedError as exc:
        problems = [f"--{error['field']}: {error['detail']}" for error in exc.errors]
        raise ConfigError("Nothing was changed", problems) from exc
    with open_desk() as desk:
        agree(f"End {_SCOPES.get(scope, f'letters of {scope}')} to the member {member}?", [member], yes=yes)
        People(desk.database).suppress(SiteId(site), MemberId(member), scope, reason, who=COMMAND_LINE)
    print("Ended.")


@app.command()
def release(
    member: Id,
    site: Site,
    scope: Scope,
    cause: Annotated[str, typer.Option(help='As `show` has it: "admin", "dead" or "full".')],
    yes: Yes = False,
) -> None:
    """Lift what an admin or a mailbox had ended; never what the person said themselves."""
    from admin.recovery import COMMAND_LINE, agree, check_filters, open_desk
    from integrations.store.people import People

    check_filters({"member": member, "site": site, "scope": scope, "cause": cause})
    with open_desk() as desk:
        agree(f"Let the member {member} get letters again ({scope}, {cause})?", [member], yes=yes)
        People(desk.database).release(SiteId(site), MemberId(member), scope, cause, who=COMMAND_LINE)
    print("Lifted.")


@contextlib.contextmanager
def open_office() -> Iterator[Office]:
    """With a way to Wix; sends nothing. Raises ConfigError."""
    from admin.office import Office
    from admin.processes import check_settings, open_wix
    from integrations.email.unsubscribe import AddressHashes
    from integrations.shared import open_redis
    from integrations.store.book import Book
    from integrations.store.database import open_database
    from integrations.store.journal import Journal
    from tasks.routes import ROUTES

    checked = check_settings(sends=False)
    settings = checked.settings
    with (
        contextlib.closing(open_database(settings.database)) as database,
        contextlib.closing(open_redis(settings.redis)) as redis,
        contextlib.closing(open_wix(settings, redis)) as wix,
    ):
        yield Office.over(
            database,
            Journal(database, listened=ROUTES),
            lambda: None,
            wix=wix.for_bulk(),
            book=Book(database, checked.file.only_to_look(), checked.renderer.names()),
            renderer=checked.renderer,
            hashes=AddressHashes(settings.secret_keys[0], settings.secret_keys[1:]),
        )
