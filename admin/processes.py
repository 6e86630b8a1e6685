"""Put a process together: check everything it needs, build it, and say all that is wrong in one message."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from config.settings import NOT_FIT, TO_RUN, TO_SEND, Settings, load_settings
from core.automations import Automations, parse_automations
from core.errors import ConfigError, JournalUnavailableError
from integrations.email.render import Renderer
from integrations.email.transport import mail_from_url, parse_email_url
from integrations.email.unsubscribe import UnsubscribeTokens, hash_address
from integrations.store.database import Database, parse_database_url
from integrations.store.heartbeats import Heartbeats
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.outbox import Outbox
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.wix.client import WixClient
from integrations.wix.shared import open_redis
from tasks.routes import ROUTES
from tasks.services import Letterhead, Services
from webhooks.verify import load_public_key

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "templates" / "email"

T = TypeVar("T")


@dataclass
class Findings:
    """Collects what is wrong, so that one start shows all of it."""

    problems: list[str] = field(default_factory=list)

    def take(self, build: Callable[[], T]) -> T | None:
        try:
            return build()
        except ConfigError as exc:
            self.problems += exc.problems or [exc.message]
        except ValueError as exc:
            self.problems.append(str(exc))
        return None


@dataclass(frozen=True)
class Checked:
    """Settings and files without a mistake."""

    settings: Settings
    automations: Automations
    renderer: Renderer


def check_settings(*, sends: bool) -> Checked:
    """Read settings, keys, automations and templates; raise one ConfigError with every mistake in them."""
    findings = Findings()
    required = TO_RUN + (TO_SEND if sends else ())
    settings = findings.take(lambda: load_settings(required=required))
    if settings is None:
        settings = _what_can_be_read()
    for name, text in (
        ("WIX_PUBLIC_KEY", settings.wix_public_key),
        ("WIX_PUBLIC_KEY_NEXT", settings.wix_public_key_next),
    ):
        if text:
            findings.take(lambda name=name, text=text: _named(name, lambda: load_public_key(text)))  # type: ignore[misc]
    findings.take(lambda: _named("EMAIL_URL", lambda: parse_email_url(settings.email_url.get_secret_value())))
    findings.take(lambda: make_data_dir(settings))
    findings.take(lambda: parse_database_url(settings.database))
    renderer = findings.take(lambda: Renderer(TEMPLATES))
    automations = findings.take(
        lambda: read_automations(settings.automations_file, renderer.names() if renderer else None)
    )
    if findings.problems or automations is None or renderer is None:
        raise ConfigError(NOT_FIT, findings.problems)
    return Checked(settings, automations, renderer)


def _what_can_be_read() -> Settings:
    """Settings without the mistakes already named, so that the rest can be checked too."""
    try:
        return load_settings(lenient=True)
    except ConfigError:
        return load_settings(env_file=None, lenient=True)


def _named(name: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except ValueError as exc:
        raise ConfigError(NOT_FIT, [f"{name}: {exc}"]) from exc


def read_automations(path: Path, templates: frozenset[str] | None) -> Automations:
    """Raises ConfigError naming every mistake by file, line and field."""
    if not path.is_absolute() and not path.exists():
        path = ROOT / path
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        line = path.read_bytes()[: exc.start].count(b"\n") + 1
        raise ConfigError(NOT_FIT, [f"{path}:{line}: not UTF-8 text"]) from exc
    except OSError as exc:
        raise ConfigError(NOT_FIT, [f"AUTOMATIONS_FILE: {path} cannot be read ({exc.strerror})"]) from exc
    return parse_automations(text, templates=templates, file=str(path))


def make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            NOT_FIT, [f"DATA_DIR: {settings.data_dir} cannot be made ({exc.strerror})"]
        ) from exc


@contextlib.contextmanager
def open_services(checked: Checked) -> Iterator[tuple[Services, Heartbeats]]:
    """Everything a worker works with, closed at the end of the block. Build it after the fork."""
    settings = checked.settings
    database = Database(settings.database)
    redis = open_redis(settings.redis)
    wix = WixClient(
        settings.wix_api_url,
        settings.wix_app_id,
        settings.wix_app_secret.get_secret_value(),
        redis=redis,
        calls_per_minute=settings.wix_calls_per_minute,
        api_key=settings.wix_api_key.get_secret_value(),
        api_key_site_id=settings.wix_site_id,
    )
    mail = mail_from_url(settings.email_url.get_secret_value())
    secret = settings.secret_key.get_secret_value()
    services = Services(
        journal=Journal(database, listened=ROUTES),
        ledger=Ledger(database),
        outbox=Outbox(database),
        suppressions=Suppressions(database),
        sites=Sites(database),
        wix=wix,
        mail=mail,
        renderer=checked.renderer,
        automations=checked.automations,
        letterhead=Letterhead(settings.email_from, settings.email_postal_address, settings.public_url),
        tokens=UnsubscribeTokens(secret),
        hash_address=lambda address: hash_address(secret, address),
        chance=random.random,
        now=lambda: datetime.now(UTC),
    )
    try:
        yield services, Heartbeats(database)
    finally:
        mail.close()
        wix.close()
        redis.close()
        database.close()


def keep_beating(heartbeats: Heartbeats, process: str, stop: threading.Event, every_s: float = 5.0) -> None:
    """Tell the database now and then that this process lives, until `stop` is set."""
    name = f"{process}:{socket.gethostname()}:{os.getpid()}"
    while not stop.is_set():
        with contextlib.suppress(JournalUnavailableError):
            heartbeats.beat(name)
        stop.wait(every_s)
