"""What a check finds, whom it looks at, and how it says so."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parseaddr
from enum import StrEnum

from admin.processes import Checked
from config.settings import Settings
from core.automations import Automations
from core.community import SiteId
from core.errors import ConfigError, JournalUnavailableError, PermanentError
from integrations.dns import Resolver
from integrations.email.message import wire_address
from integrations.store.book import Book
from integrations.store.database import Database

DATABASE_TIMEOUT_S = 3.0


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


class Line(StrEnum):
    """Every line there can be: the name of its check, then what it looks at. docs/doctor.md has each."""

    SETTINGS = "settings"
    SETTINGS_LETTERS = "settings.letters"
    DATABASE = "database"
    DATABASE_WRITABLE = "database.writable"
    DATABASE_DURABLE = "database.durable"
    DATABASE_DISK = "database.disk"
    DATABASE_CLOCK = "database.clock"
    REDIS = "redis"
    REDIS_KEPT = "redis.kept"
    REDIS_EVICTION = "redis.eviction"
    REDIS_MEMORY = "redis.memory"
    BROKER = "broker"
    BROKER_QUEUE = "broker.queue"
    PROCESSES = "processes"
    WORK = "work"
    WORK_OVERDUE = "work.overdue"
    WORK_DEAD = "work.dead"
    WORK_DOUBT = "work.doubt"
    WORK_PAUSED = "work.paused"
    WORK_AUTOMATIONS = "work.automations"
    VOLUME = "volume"
    VOLUME_GMAIL = "volume.gmail"
    VOLUME_COMPLAINTS = "volume.complaints"
    WIX = "wix"
    WIX_CLOCK = "wix.clock"
    WIX_TOKEN = "wix.token"  # noqa: S105 (the name of a line)
    WIX_CALLS = "wix.calls"
    PUBLIC = "public"
    PUBLIC_TLS = "public.tls"
    PUBLIC_WEBHOOKS = "public.webhooks"
    PUBLIC_UNSUBSCRIBE = "public.unsubscribe"
    PUBLIC_ONE_CLICK = "public.one_click"
    PUBLIC_CLOSED = "public.closed"
    RELAY = "relay"
    RELAY_TLS = "relay.tls"
    RELAY_LOGIN = "relay.login"
    RELAY_SENDER = "relay.sender"
    RELAY_OFFERS = "relay.offers"
    DNS = "dns"
    DNS_SPF = "dns.spf"
    DNS_DMARC = "dns.dmarc"
    DNS_ALIGNMENT = "dns.alignment"
    DNS_DKIM = "dns.dkim"
    DNS_BOUNCES = "dns.bounces"
    DNS_HOST = "dns.host"
    RECEIVED = "received"
    RECEIVED_SPF = "received.spf"
    RECEIVED_DKIM = "received.dkim"
    RECEIVED_DMARC = "received.dmarc"
    RECEIVED_SIGNED = "received.signed"
    RECEIVED_HEADERS = "received.headers"
    RECEIVED_ONE_CLICK = "received.one_click"
    RECEIVED_TLS = "received.tls"

    @property
    def check(self) -> str:
        return self.value.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `fix` says what to do; a failure always has one (`failed`)."""

    line: Line
    verdict: Verdict
    seen: str
    fix: str = ""


def ok(line: Line, seen: str) -> Finding:
    return Finding(line, Verdict.OK, _plain(seen))


def warning(line: Line, seen: str, fix: str) -> Finding:
    return Finding(line, Verdict.WARNING, _plain(seen), _plain(fix))


def failed(line: Line, seen: str, fix: str) -> Finding:
    return Finding(line, Verdict.FAILED, _plain(seen), _plain(fix))


def not_checked(line: Line, why: str, fix: str = "") -> Finding:
    return Finding(line, Verdict.NOT_CHECKED, _plain(why), _plain(fix))


def _plain(text: str) -> str:
    """One line. What comes from elsewhere may quote addresses and passwords of URLs: they are not shown."""
    text = re.sub(r"://\S*@", "://***@", text)
    text = re.sub(r"[^\s<>\"'`@/]+@[\w.-]+\.\w+", "<address>", text)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:600]


@dataclass(frozen=True)
class Subject:
    """Whom the checks look at, and with what.

    `settings` have their defaults in the place of what is wrong; `checked` is None when something is, and `problems`
    says what. `trust` None: the certificates this machine trusts.
    """

    settings: Settings = field(repr=False)
    checked: Checked | None
    problems: tuple[str, ...]
    dns: Resolver
    now: Callable[[], datetime]
    site: SiteId | None = None
    selectors: tuple[str, ...] = ()
    received: bytes | None = field(default=None, repr=False)
    trust: ssl.SSLContext | None = None

    @property
    def from_domain(self) -> str:
        """Of EMAIL_FROM, with A-labels; "" without one."""
        return _domain(self.settings.email_from)

    @property
    def bounce_domain(self) -> str:
        """Of the envelope sender, to which answers of mail servers come back."""
        return _domain(self.settings.email_bounces or self.settings.email_from)

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """Raises ConfigError for tables of another release, JournalUnavailableError for one that is away."""
        database = Database(self.settings.database, timeout_s=DATABASE_TIMEOUT_S)
        try:
            database.require_current()
            yield database
        finally:
            database.close()

    def book(self, database: Database) -> Book | None:
        """None while the settings or the file have mistakes."""
        if self.checked is None:
            return None
        return Book(database, self.checked.file.only_to_look(), self.checked.renderer.names())

    def automations(self) -> Automations:
        """What counts; while the database cannot say, what the file says. Not without `checked`."""
        assert self.checked is not None  # noqa: S101 (whoever asks has looked)
        with contextlib.suppress(ConfigError, JournalUnavailableError), self.database() as database:
            if book := self.book(database):
                return book.current()
        return self.checked.automations


def _domain(sender: str) -> str:
    try:
        return wire_address(parseaddr(sender)[1]).rpartition("@")[2] if sender else ""
    except PermanentError:
        return ""
