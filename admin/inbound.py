"""`usher mail`: doors for mails that come back, for a mail server on this machine or one that speaks SMTP to it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import AppError, ConfigError

if TYPE_CHECKING:
    from tasks.inbound import Mailroom

COME_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: the one code over which a mail server keeps a mail for later."""

app = typer.Typer(help="Mails that come back: bounces, complaints, opt-outs, answers.", no_args_is_help=True)


@app.command("take")
def take(
    recipient: Annotated[
        list[str] | None, typer.Option(help="An address of the envelope; without it the headers are asked.")
    ] = None,
) -> None:
    """Take one mail from standard input, as a mail server pipes it.

    Exit code 0: taken, whether something follows or not. 75: not now, bring it again. There is no mail that cannot be
    taken.
    """
    try:
        raw = _read_mail()
        with open_mailroom() as mailroom:
            print(mailroom.take_in(raw, recipient or []))
    except AppError as exc:
        _come_again(str(exc))
    except Exception as exc:  # noqa: BLE001 (any other code would have the mail server throw the mail away)
        _come_again(type(exc).__name__)


@app.command("listen")
def listen(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8025,
) -> None:
    """Listen for mails by SMTP, until SIGTERM. Takes mail for its own addresses, and passes none on."""
    from admin.listener import serve
    from config.logging import set_up_logging

    set_up_logging("mail")
    with open_mailroom() as mailroom:
        serve(mailroom, host, port)


@contextlib.contextmanager
def open_mailroom() -> Iterator[Mailroom]:
    """Raises ConfigError. Needs the database and no broker: the sweeper finds what is owed to Wix."""
    from admin.processes import return_paths
    from config.settings import NOT_FIT, load_settings
    from integrations.email.message import parse_sender
    from integrations.store.database import open_database
    from integrations.store.returns import Returns
    from integrations.store.senders import Senders
    from tasks.inbound import Mailroom

    settings = load_settings(required=("secret_key", "email_from"))
    try:
        paths = return_paths(settings)
    except ValueError as exc:
        raise ConfigError(NOT_FIT, [str(exc)]) from exc
    if paths is None:
        problem = (
            "EMAIL_FROM or EMAIL_URL: letters have no addresses for answers, so nothing that comes back can be told"
            " apart"
        )
        raise ConfigError(NOT_FIT, [problem])
    database = open_database(settings.database)
    try:
        yield Mailroom(paths, Returns(database), Senders(database, parse_sender(settings.email_from)[1]))
    finally:
        database.close()


def _read_mail() -> bytes:
    """As much as is looked at. The rest is read too, or the mail server would take a closed pipe for a failure."""
    from integrations.email.inbound import READ_BYTES

    raw = sys.stdin.buffer.read(READ_BYTES)
    while sys.stdin.buffer.read(64 * 1024):
        pass
    return raw


def _come_again(problem: str) -> None:
    print(f"usher: {problem}", file=sys.stderr)
    sys.exit(COME_AGAIN)
