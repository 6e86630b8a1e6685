"""`usher users`: who logs in to the console. It needs the database alone, so it also works when everybody is locked
out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from integrations.store.database import Database

app = typer.Typer(help="People who log in to the console.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="As the API shows them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Login = Annotated[str, typer.Argument(metavar="LOGIN", help="Their address, as `list` shows it.")]


@app.command()
def create(
    login: Annotated[str, typer.Argument(help="Their address: they log in with it.")],
    name: Annotated[str, typer.Option(help="Stands in the audit log: letters, digits, dots, dashes.")],
    role: Annotated[str, typer.Option(help="owner, manager, group_admin or reader.")],
    site: Annotated[
        list[str] | None, typer.Option(help='App instance id of a site, or "*" for all; repeatable.')
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Id of a group, for a group_admin; repeatable.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Invite somebody. The link to choose a password with is shown this once."""
    from pydantic import ValidationError

    from admin.api.problems import fields_of
    from admin.api.users import NEW_USER
    from admin.recovery import COMMAND_LINE, agree, open_desk
    from core.errors import ConfigError
    from integrations.store.users import Users

    asked = {"login": login, "name": name, "role": role, "sites": site, "groups": group}
    try:
        new = NEW_USER.validate_python({field: value for field, value in asked.items() if value is not None})
    except ValidationError as exc:
        problems = [f"{field}: {what}" for field, what in fields_of(exc, tagged=True)]
        raise ConfigError("Nobody was invited", problems) from exc
    rights = new.rights
    with open_desk() as desk:
        scope = f"sites {', '.join(rights.sites)}"
        scope += f", groups {', '.join(rights.groups)}" if rights.groups else ""
        agree(f"Invite {name!r} ({role}; {scope})?", [name], yes=yes)
        invitation, row = Users(desk.database).create(
            new.login.lower(),
            new.name,
            rights.role,
            sites=rights.sites,
            groups=rights.groups,
            who=COMMAND_LINE,
        )
    _show(invitation, row, as_json=as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """All users there are or were, newest first."""
    import json

    from admin.office.users import describe_user, state_of
    from admin.recovery import open_desk, show_table, spell_time
    from integrations.store.users import Users

    with open_desk() as desk:
        rows = Users(desk.database).page(limit=None)
    if as_json:
        print(json.dumps([describe_user(row) for row in rows], indent=2))
        return
    show_table(
        rows,
        {
            "Login": lambda row: row.login,
            "Name": lambda row: row.name,
            "Role": lambda row: row.role,
            "Sites": lambda row: ", ".join(row.sites),
            "Groups": lambda row: ", ".join(row.groups),
            "State": state_of,
            "Last seen": lambda row: spell_time(row.last_seen_at) if row.last_seen_at else "never",
        },
        most=len(rows),
    )
    if not rows:
        print("None.")


@app.command()
def disable(login: Login, yes: Yes = False) -> None:
    """Let somebody in no more, from this moment on."""
    from admin.recovery import COMMAND_LINE, agree, open_desk
    from integrations.store.users import Users

    with open_desk() as desk:
        id_ = _id_of(desk.database, login)
        agree(f"Disable {login}?", [login], yes=yes)
        print(f"{Users(desk.database).disable(id_, who=COMMAND_LINE).name}: disabled")


@app.command()
def reset(login: Login, yes: Yes = False, as_json: Json = False) -> None:
    """End somebody's password and sessions, and show a new invitation; somebody disabled may come in again."""
    from admin.recovery import COMMAND_LINE, agree, open_desk
    from integrations.store.users import Users

    with open_desk() as desk:
        id_ = _id_of(desk.database, login)
        agree(f"End the password and the sessions of {login}?", [login], yes=yes)
        invitation, row = Users(desk.database).invite(id_, who=COMMAND_LINE)
    _show(invitation, row, as_json=as_json)


def _id_of(database: Database, login: str) -> str:
    from core.errors import NotThereError
    from integrations.store.users import Users

    row = Users(database).find(login.lower())
    if row is None:
        raise NotThereError("there is no user of this login")
    return str(row.id)


def _show(invitation: str, row: Any, *, as_json: bool) -> None:
    import json

    from admin.office.users import describe_user, invitation_path
    from config.settings import load_settings

    path = invitation_path(invitation)
    if as_json:
        print(json.dumps(describe_user(row) | {"invitation": path}, indent=2))
    else:
        print(f"{load_settings(lenient=True).public_url or '(the console’s address)'}{path}")
