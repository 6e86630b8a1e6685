"""`usher senders`: how the address we send from fares at the mail servers, and going on by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from integrations.store.database import Database
    from integrations.store.senders import Senders

app = typer.Typer(help="Pauses of our sender: look at them, end them.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Who is not written to for a while, until when and why."""
    from admin.recovery import open_desk, show_table, spell_time

    with open_desk() as desk:
        rows = _open_senders(desk.database).all()
        with desk.database.read() as tx:
            now = tx.now

    def state(row: Any) -> str:
        if row.paused_until is None:
            return f"{row.failures} failures in a row" if row.failures else "ok"
        return (
            f"paused until {spell_time(row.paused_until)}" if row.paused_until > now else "about to try again"
        )

    show_table(
        rows,
        {
            "Readers at": lambda row: row.domain or "(everywhere)",
            "State": state,
            "Why": lambda row: row.reason or "",
            "First letter": lambda row: spell_time(row.first_sent_at) if row.first_sent_at else "",
        },
    )


@app.command()
def resume(
    domain: Annotated[str, typer.Argument(help="As `list` shows it; without one the whole sender.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on at once, because the cause is mended."""
    from admin.recovery import COMMAND_LINE, agree, open_desk

    with open_desk() as desk:
        senders = _open_senders(desk.database)
        agree(f"Write to {domain or 'everybody'} again at once?", [domain], yes=yes)
        print("Letters go again." if senders.resume(domain, who=COMMAND_LINE) else "Nothing was paused.")


def _open_senders(database: Database) -> Senders:
    from admin.processes import check_to_migrate, letterhead
    from core.errors import ConfigError
    from integrations.store.senders import Senders

    settings = check_to_migrate()
    if not settings.email_from:
        raise ConfigError("Nobody sends", ["EMAIL_FROM: is required"])
    return Senders(database, letterhead(settings).address)
