"""`usher people`: what Usher knows of one person, from its own tables. Wix is not asked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.community import MemberId, SiteId
from core.consent import Suppression

if TYPE_CHECKING:
    import sqlalchemy as sa

    from admin.recovery import Desk

app = typer.Typer(help="One person: what they got, what waits, what stands against it.", no_args_is_help=True)


@app.callback()
def _people() -> None:
    """A group of commands, also while there is one."""


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
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="Id of a member.")],
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

    from integrations.store.ledger import suppression_subjects
    from integrations.store.suppressions import Suppressions
    from integrations.store.tables import suppressions as table

    rows = desk.ledger.page(member=member, site=site, limit=None)
    subjects = suppression_subjects(member, ())
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
