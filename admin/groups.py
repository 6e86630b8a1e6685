"""`usher groups`: the groups of a site as Wix has them now, beside what Usher counted of them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from admin.office import Office
    from admin.office.groups import Standing
    from core.community import SiteId

app = typer.Typer(help="How the groups of a site fare.", no_args_is_help=True)


@app.callback()
def _groups() -> None:
    """A group of commands, also while there is one."""


class Order(StrEnum):
    NAME = "name"
    MEMBERS = "members"
    ACTIVITY = "activity"
    GROWTH = "growth"
    LETTERS = "letters"


@app.command("list")
def list_them(
    order: Annotated[Order, typer.Option(help="What comes first.")] = Order.NAME,
    site: Annotated[
        str | None, typer.Option(help="App instance id of the site; needless when there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, as the API shows them.")] = False,
) -> None:
    """All groups, with growth and letters of the last 30 days, and which are idle or popular. Asks Wix."""
    from admin.jobs.given import choose_site
    from admin.people import open_office

    with open_office() as office:
        print_groups(office, choose_site(office.database, site), str(order), as_json=as_json)


def print_groups(office: Office, site: SiteId, order: str, *, as_json: bool) -> None:
    import json

    from admin.api.groups import describe_standing
    from admin.office.groups import list_groups
    from admin.recovery import COMMAND_LINE, show_table
    from integrations.store.reach import EVERYTHING
    from integrations.store.tokens import Holder, Role

    found = list_groups(office, Holder("", COMMAND_LINE, Role.OWNER, EVERYTHING), site, order=order)
    if as_json:
        print(json.dumps([describe_standing(one) for one in found], indent=2))
        return
    show_table(
        found,
        {
            "Group": lambda one: one.group.name,
            "Id": lambda one: one.group.id,
            "Privacy": lambda one: one.group.privacy,
            "Members": lambda one: one.group.members,
            "Growth": lambda one: one.change and f"{one.change:+}",
            "Last activity": lambda one: one.group.last_activity and f"{one.group.last_activity:%Y-%m-%d}",
            "Letters": lambda one: one.letters,
            "": _words_for,
        },
        most=len(found),
    )
    if not found:
        print("None.")


def _words_for(one: Standing) -> str:
    return ", ".join(word for word, said in (("popular", one.popular), ("idle", one.idle)) if said)
