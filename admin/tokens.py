"""`usher tokens` and `usher audit`: who may use the admin API, and who did what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import sqlalchemy as sa

app = typer.Typer(help="Tokens of the admin API.", no_args_is_help=True)
audit_app = typer.Typer(help="Who did what, and how things were before and after.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="As the API shows them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Stands in the audit log: letters, digits, dots, dashes.")],
    role: Annotated[str, typer.Option(help="owner, manager, group_admin or reader.")],
    site: Annotated[
        list[str] | None, typer.Option(help='App instance id of a site, or "*" for all; repeatable.')
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Id of a group, for a group_admin; repeatable.")
    ] = None,
    expires: Annotated[int | None, typer.Option(metavar="DAYS", help="Ends after so many days.")] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a token. It is shown this once: nobody can read it again."""
    import json
    from datetime import timedelta

    from pydantic import TypeAdapter, ValidationError

    from admin.api.problems import fields_of
    from admin.api.shapes import NewToken
    from admin.recovery import COMMAND_LINE, agree, open_desk
    from core.errors import ConfigError
    from integrations.store.tokens import Role, Tokens

    asked = {"name": name, "role": role, "sites": site, "groups": group, "expires_in_days": expires}
    try:
        new = TypeAdapter(NewToken).validate_python(
            {field: value for field, value in asked.items() if value is not None}
        )
    except ValidationError as exc:
        raise ConfigError(
            "No token was made", [f"{field}: {what}" for field, what in fields_of(exc)]
        ) from exc
    sites, groups = new.reach
    with open_desk() as desk:
        scope = f"sites {', '.join(sites)}" + (f", groups {', '.join(groups)}" if groups else "")
        ends = f"for {expires} days" if expires else "until it is revoked"
        agree(f"Make a token {name!r} ({role}; {scope}; {ends})?", [name], yes=yes)
        token, row = Tokens(desk.database).create(
            name,
            Role(role),
            sites=sites,
            groups=groups,
            lasts=timedelta(days=expires) if expires else None,
            who=COMMAND_LINE,
        )
    print(json.dumps(describe_token(row) | {"token": token}, indent=2) if as_json else token)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """All tokens there are or were, newest first; never what their holders show."""
    import json

    from admin.recovery import open_desk, show_table, spell_time
    from integrations.store.tokens import Tokens

    with open_desk() as desk:
        rows = Tokens(desk.database).page(limit=None)
        with desk.database.read() as tx:
            now = tx.now
    if as_json:
        print(json.dumps([describe_token(row) for row in rows], indent=2))
        return

    def state(row: sa.Row[Any]) -> str:
        if row.revoked_at:
            return f"revoked {spell_time(row.revoked_at)}"
        if row.expires_at and row.expires_at <= now:
            return f"expired {spell_time(row.expires_at)}"
        return f"until {spell_time(row.expires_at)}" if row.expires_at else "until revoked"

    show_table(
        rows,
        {
            "Token": lambda row: row.id,
            "Name": lambda row: row.name,
            "Role": lambda row: row.role,
            "Sites": lambda row: ", ".join(row.sites),
            "Groups": lambda row: ", ".join(row.groups),
            "State": state,
            "Last used": lambda row: spell_time(row.last_used_at) if row.last_used_at else "never",
        },
        most=len(rows),
    )
    if not rows:
        print("None.")


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],  # noqa: A002
    yes: Yes = False,
) -> None:
    """From now on nobody comes in with it."""
    from admin.recovery import COMMAND_LINE, agree, open_desk
    from integrations.store.tokens import Tokens

    with open_desk() as desk:
        agree(f"Revoke the token {id}?", [id], yes=yes)
        print(f"{Tokens(desk.database).revoke(id, who=COMMAND_LINE).name}: revoked")


@audit_app.command("list")
def list_audit(
    site: Annotated[str | None, typer.Option(help="App instance id of one site.")] = None,
    who: Annotated[str | None, typer.Option(help='"admin", "command line", "token <name>".')] = None,
    action: Annotated[str | None, typer.Option(help='For example "event.replay".')] = None,
    about: Annotated[str | None, typer.Option("--object", help='Kind and id, for example "job 3f…".')] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The newest so many.")] = 100,
    as_json: Json = False,
) -> None:
    """Acts of people and schedules, newest first."""
    import json

    from admin.recovery import open_desk, show_table, spell_time
    from integrations.store.audit import Audit

    with open_desk() as desk:
        rows = Audit(desk.database).page(site=site, who=who, action=action, object=about, limit=limit + 1)
    if as_json:
        print(json.dumps([describe_line(row) for row in rows[:limit]], indent=2))
        return
    show_table(
        rows[:limit],
        {
            "At": lambda row: spell_time(row.at),
            "Who": lambda row: row.who,
            "Action": lambda row: row.action,
            "Object": lambda row: row.object,
            "Site": lambda row: row.site,
            "Before": lambda row: json.dumps(row.before) if row.before else None,
            "After": lambda row: json.dumps(row.after) if row.after else None,
        },
        most=limit,
    )
    if len(rows) > limit:
        print(f"There are more: this is --limit {limit}.")
    elif not rows:
        print("None.")


def describe_token(row: sa.Row[Any]) -> dict[str, Any]:
    """`{"id", "name", "role", "sites", "groups", "created_at", "expires_at"?, "revoked_at"?, "last_used_at"?}`"""
    from admin.recovery import shape

    always = ("id", "name", "role", "sites", "groups", "created_at")
    return shape(row, always, ("expires_at", "revoked_at", "last_used_at"))


def describe_line(row: sa.Row[Any]) -> dict[str, Any]:
    """`{"id", "at", "who", "action", "object", "site"?, "before"?, "after"?}`"""
    from admin.recovery import shape

    return shape(row, ("id", "at", "who", "action", "object"), ("site", "before", "after"))
