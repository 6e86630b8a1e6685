"""Put a process together: check everything it needs, build it, and say all that is wrong in one message."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parseaddr
from pathlib import Path
from typing import TypeVar

from redis import Redis

from config.settings import NOT_FIT, TO_RUN, TO_SEND, Settings, load_settings
from core.automations import Automations, parse_automations
from core.community import MemberId, SiteId
from core.consent import Purpose
from core.errors import ConfigError, JournalUnavailableError, PermanentError
from integrations.email.pacing import Pacer, Slots
from integrations.email.render import Renderer
from integrations.email.return_path import ReturnPaths
from integrations.email.transport import mail_from_url
from integrations.email.unsubscribe import AddressHashes, UnsubscribeClaim, UnsubscribeTokens, hash_address
from integrations.email.url import parse_email_url
from integrations.shared import SharedRedis, open_redis
from integrations.store.book import Book, File
from integrations.store.database import Database, parse_database_url
from integrations.store.group_days import GroupDays
from integrations.store.heartbeats import Heartbeats
from integrations.store.jobs import Jobs
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.mailings import Mailings
from integrations.store.outbox import Outbox
from integrations.store.senders import Senders
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.store.watches import Watches
from integrations.wix.client import WixClient
from tasks.routes import ROUTES
from tasks.services import Services
from tasks.writing import Letterhead, Reader, write_letter
from webhooks.verify import load_public_key

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "templates" / "email"
PARENT = "USHER_PARENT"
"""The variable in which a supervisor tells its children its process id."""

log = logging.getLogger(__name__)

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
    """Of the file; what counts says the Book."""
    renderer: Renderer
    file: File


def check_settings(*, sends: bool, templates: Path = TEMPLATES) -> Checked:
    """Read settings, keys, automations and templates; raise one ConfigError with every mistake in them.

    Makes nothing and connects to nothing.
    """
    findings = Findings()
    settings = _read_settings(findings, TO_RUN + (TO_SEND if sends else ()))
    for name, text in (
        ("WIX_PUBLIC_KEY", settings.wix_public_key),
        ("WIX_PUBLIC_KEY_NEXT", settings.wix_public_key_next),
    ):
        if text:
            findings.take(lambda name=name, text=text: _named(name, lambda: load_public_key(text)))  # type: ignore[misc]
    findings.take(lambda: _named("EMAIL_URL", lambda: parse_email_url(settings.email_url.get_secret_value())))
    if settings.email_bounces:
        findings.take(
            lambda: _named(
                "EMAIL_BOUNCES",
                lambda: ReturnPaths(parseaddr(settings.email_bounces)[1], settings.secret_keys),
            )
        )
    _check_places(settings, findings)
    renderer = findings.take(lambda: Renderer(templates))
    if sends and renderer is not None:
        findings.problems += _what_no_letter_can_carry(settings, renderer)
    file = findings.take(lambda: read_file(settings))
    names = renderer.names() if renderer else None
    automations = None
    if file is not None:
        text, name = file.text, file.name
        automations = findings.take(lambda: parse_automations(text, templates=names, file=name))
    if findings.problems or file is None or automations is None or renderer is None:
        raise ConfigError(NOT_FIT, findings.problems)
    return Checked(settings, automations, renderer, file)


def check_to_migrate() -> Settings:
    """As check_settings, for who needs nothing but the database."""
    findings = Findings()
    settings = _read_settings(findings)
    _check_places(settings, findings)
    if findings.problems:
        raise ConfigError(NOT_FIT, findings.problems)
    return settings


def _read_settings(findings: Findings, required: tuple[str, ...] = ()) -> Settings:
    """The settings; after a finding without the mistakes already named, so that the rest can be checked too."""
    settings = findings.take(lambda: load_settings(required=required))
    if settings is not None:
        return settings
    try:
        return load_settings(lenient=True)
    except ConfigError:
        return load_settings(env_file=None, lenient=True)


def _check_places(settings: Settings, findings: Findings) -> None:
    """The database's URL, and whether the files of the embedded parts can be where they should."""
    data_dir = settings.data_dir.resolve()
    url = findings.take(lambda: parse_database_url(settings.database))
    if url is not None and url.get_backend_name() == "sqlite":
        file = Path(url.database or "").resolve()
        if file.parent != data_dir:
            if file.parent.is_dir():
                findings.take(lambda: _require_writable("DATABASE_URL", file.parent))
            else:
                findings.problems.append(f"DATABASE_URL: the folder {file.parent} does not exist")
        if file.exists() and not os.access(file, os.W_OK):
            findings.problems.append(f"DATABASE_URL: {file} cannot be written to")
    if not (settings.database_url.get_secret_value() and settings.redis_url.get_secret_value()):
        findings.take(lambda: _require_writable("DATA_DIR", settings.data_dir))


def _require_writable(name: str, folder: Path) -> None:
    """Raises ConfigError for a folder that cannot be made or written to. Leaves nothing behind."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as exc:
        cannot = "written to" if nearest is folder else "made"
        raise ConfigError(NOT_FIT, [f"{name}: {folder} cannot be {cannot} ({exc.strerror})"]) from exc


def _what_no_letter_can_carry(settings: Settings, renderer: Renderer) -> list[str]:
    """Each of the operator's own values is tried in the shipped letters, with good ones in the others' places."""
    good = Letterhead(
        "Usher <usher@example.com>", "1 Example Road", "https://example.com", UnsubscribeTokens("a trial")
    )
    problems = []
    for name, head, value in (
        ("EMAIL_FROM", replace(good, email_from=settings.email_from), settings.email_from),
        ("PUBLIC_URL", replace(good, public_url=settings.public_url), settings.public_url),
        (
            "EMAIL_POSTAL_ADDRESS",
            replace(good, postal_address=settings.email_postal_address),
            settings.email_postal_address,
        ),
    ):
        if value:
            try:
                for template, purpose in (
                    ("welcome", Purpose.ONBOARDING),
                    ("yoga-offer", Purpose.PROMOTIONAL),
                ):
                    if template in renderer.names():
                        _try_letter(renderer, template, purpose, head)
            except PermanentError as exc:
                problems.append(f"{name}: no letter can carry it as it stands ({exc})")
    return problems


def _try_letter(renderer: Renderer, template: str, purpose: Purpose, head: Letterhead) -> None:
    """Write a letter to nobody. Raises PermanentError."""
    stranger = "00000000-0000-0000-0000-000000000000"
    claim = UnsubscribeClaim(SiteId(stranger), MemberId(stranger), hash_address("", ""))
    write_letter(
        head,
        renderer,
        template,
        {},
        purpose=purpose,
        key=template,
        reader=Reader(claim, letter="0" * 32, group=stranger, email="somebody@example.com"),
        date=datetime.now(UTC),
    )


def _named(name: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except ValueError as exc:
        raise ConfigError(NOT_FIT, [f"{name}: {exc}"]) from exc


def read_automations(path: Path, templates: frozenset[str] | None) -> Automations:
    """Raises ConfigError naming every mistake by file, line and field."""
    path, text = _read_text(path)
    return parse_automations(text, templates=templates, file=str(path))


def read_file(settings: Settings) -> File:
    """AUTOMATIONS_FILE as it is now. Raises ConfigError when it cannot be read."""
    path, text = _read_text(settings.automations_file)
    return File(text, _now(), str(path), locked=settings.automations_locked)


def _read_text(path: Path) -> tuple[Path, str]:
    """With where it was found. Raises ConfigError."""
    if not path.is_absolute() and not path.exists():
        path = ROOT / path
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        line = path.read_bytes()[: exc.start].count(b"\n") + 1
        raise ConfigError(NOT_FIT, [f"{path}:{line}: not UTF-8 text"]) from exc
    except OSError as exc:
        raise ConfigError(NOT_FIT, [f"AUTOMATIONS_FILE: {path} cannot be read ({exc.strerror})"]) from exc
    return path, text


def make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            NOT_FIT, [f"DATA_DIR: {settings.data_dir} cannot be made ({exc.strerror})"]
        ) from exc


def _now() -> datetime:
    return datetime.now(UTC)


def letterhead(settings: Settings) -> Letterhead:
    """What stands on every letter, for settings that were checked."""
    secret, *previous = settings.secret_keys
    return Letterhead(
        settings.email_from,
        settings.email_postal_address,
        settings.public_url,
        UnsubscribeTokens(secret, previous),
        return_paths(settings),
    )


def return_paths(settings: Settings) -> ReturnPaths | None:
    """None when the mail server wants the plain sender, or EMAIL_FROM is too long to be extended.

    Raises ValueError for an EMAIL_BOUNCES that cannot be used.
    """
    if not parse_email_url(settings.email_url.get_secret_value()).verp:
        return None
    if settings.email_bounces:
        return ReturnPaths(parseaddr(settings.email_bounces)[1], settings.secret_keys)
    try:
        return ReturnPaths.from_sender(settings.email_from, settings.secret_keys)
    except ValueError as exc:
        log.warning("email.no_return_path", extra={"setting": "EMAIL_FROM", "reason": str(exc)})
        return None


def open_wix(settings: Settings, redis: Redis, **more: float) -> WixClient:
    """`more`: as WixClient has it, such as `call_s`."""
    return WixClient(
        settings.wix_api_url,
        settings.wix_app_id,
        settings.wix_app_secret.get_secret_value(),
        redis=redis,
        calls_per_minute=settings.wix_calls_per_minute,
        api_key=settings.wix_api_key.get_secret_value(),
        api_key_site_id=settings.wix_site_id,
        **more,  # type: ignore[arg-type] # numbers, all of them
    )


@contextlib.contextmanager
def open_services(checked: Checked, *, with_writer: bool = False) -> Iterator[tuple[Services, Heartbeats]]:
    """Everything a worker works with, closed at the end of the block. Build it after the fork. `with_writer`: letters
    are marked and recorded while the worker goes on."""
    settings = checked.settings
    database = Database(settings.database)
    if with_writer:
        database.use_writer()
    redis = open_redis(settings.redis)
    wix = open_wix(settings, redis)
    mail = mail_from_url(settings.email_url.get_secret_value())
    way = parse_email_url(settings.email_url.get_secret_value())
    head = letterhead(settings)
    shared = SharedRedis(redis, time.monotonic)
    senders = Senders(database, head.address)
    ledger = Ledger(database, head.address)
    secret, *previous = settings.secret_keys
    services = Services(
        journal=Journal(database, listened=ROUTES),
        ledger=ledger,
        bulk=Ledger(database, head.address),
        jobs=Jobs(database, head.address),
        mailings=Mailings(database),
        outbox=Outbox(database),
        suppressions=Suppressions(database),
        sites=Sites(database),
        watches=Watches(database),
        group_days=GroupDays(database),
        wix=wix,
        mail=mail,
        senders=senders,
        pacer=Pacer(
            head.address,
            way.limits,
            shared,
            sent_since=lambda domain, since: ledger.sent_since(since, domain),
            first_sent_at=senders.first_sent_at,
            now=_now,
        ),
        slots=Slots(head.address, way.connections, shared, _now),
        renderer=checked.renderer,
        book=Book(database, checked.file, checked.renderer.names()),
        letterhead=head,
        hashes=AddressHashes(secret, previous),
        chance=random.random,
        now=_now,
        calls_per_minute=settings.wix_calls_per_minute,
        limits=way.limits,
    )
    try:
        yield services, Heartbeats(database)
    finally:
        mail.close()
        wix.close()
        redis.close()
        database.close()


def keep_beating(
    services: Services, heartbeats: Heartbeats, process: str, stop: threading.Event, every_s: float = 5.0
) -> None:
    """Tell the database now and then that this process lives and works on what it claimed, until `stop` is set."""
    name = f"{process}:{socket.gethostname()}:{os.getpid()}"
    while not stop.is_set():
        try:
            heartbeats.beat(name)
            services.renew_leases()
        except JournalUnavailableError as exc:
            log.warning("heartbeat.missed", extra={"error": str(exc)})
        except Exception:
            log.exception("heartbeat.missed")
        stop.wait(every_s)


def find_port(port: int, within_s: float = 3.0) -> int:
    """The port, free to be listened on; any free one for 0. Raises ConfigError when somebody has it.

    Waits a little: what a killed run left behind is about to let go of it.
    """
    deadline = time.monotonic() + within_s
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 (where the web process listens)
                probe.listen()
                found: int = probe.getsockname()[1]
                return found
            except OSError as exc:
                if time.monotonic() >= deadline:
                    why = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be had ({exc.strerror})"
                    raise ConfigError(NOT_FIT, [f"PORT: {port} {why}"]) from exc
        time.sleep(0.1)


def end_with_parent() -> None:
    """End in order, as on SIGTERM, when the supervisor that started this process is gone."""
    parent = os.environ.pop(PARENT, "")

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        log.warning("process.orphaned")
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
