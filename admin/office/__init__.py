"""What an admin can do, without HTTP: the API, the console and the command line call the functions of this room.

Each takes the Office and the Holder who asks, keeps to the holder's role and reach, and writes a line of the audit log
with what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from admin.office.directory import Names
from admin.office.pending import PendingRequests
from core.automations import Automations
from core.consent import Purpose, Sender
from core.ports import WixPort
from integrations.email.render import Renderer
from integrations.email.unsubscribe import AddressHashes
from integrations.store.audit import Audit
from integrations.store.book import Book
from integrations.store.database import Database
from integrations.store.flows import Flows
from integrations.store.jobs import Jobs
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.outbox import Outbox
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.store.tokens import Role, Tokens
from integrations.store.users import Users
from tasks.services import Services

OWNERS = frozenset({Role.OWNER})
MANAGERS = OWNERS | {Role.MANAGER}
DECIDERS = MANAGERS | {Role.GROUP_ADMIN}
READERS = MANAGERS | {Role.READER}
ALL = frozenset(Role)


class Trial(Protocol):
    """Sends one letter to one address, filled with these values and marked as a test; what the server answered.

    Raises PermanentError, WithdrawnError, and what MailPort.send raises.
    """

    def __call__(
        self, to: str, template: str, context: Mapping[str, Any], *, language: str, purpose: Purpose
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class Office:
    """What acts work with. `ring` wakes a worker and returns at once; `wix` is asked while a person waits, so it
    neither waits itself nor takes the room of live events."""

    database: Database
    journal: Journal
    ledger: Ledger
    outbox: Outbox
    flows: Flows
    jobs: Jobs
    suppressions: Suppressions
    sites: Sites
    tokens: Tokens
    users: Users
    audit: Audit
    ring: Callable[[], None]
    wix: WixPort
    names: Names
    pending: PendingRequests
    book: Book
    renderer: Renderer
    hashes: AddressHashes = field(repr=False)
    trial: Trial | None
    """None: nothing can be sent from here."""
    calls_per_minute: float = 180.0
    sender: Sender = field(default_factory=lambda: Sender(has_postal_address=False))

    @property
    def letters(self) -> frozenset[str]:
        """Names of the templates there are."""
        return self.renderer.names()

    def automations(self) -> Automations:
        """As they are now."""
        return self.book.current()

    def now(self) -> datetime:
        """The database's time."""
        with self.database.read() as tx:
            return tx.now

    @classmethod
    def over(
        cls,
        database: Database,
        journal: Journal,
        ring: Callable[[], None],
        *,
        wix: WixPort,
        book: Book,
        renderer: Renderer,
        hashes: AddressHashes,
        trial: Trial | None = None,
        calls_per_minute: float = 180.0,
        sender: Sender = Sender(has_postal_address=False),  # noqa: B008 (a value)
    ) -> Office:
        return cls(
            database=database,
            journal=journal,
            ledger=Ledger(database),
            outbox=Outbox(database),
            flows=Flows(database),
            jobs=Jobs(database),
            suppressions=Suppressions(database),
            sites=Sites(database),
            tokens=Tokens(database),
            users=Users(database),
            audit=Audit(database),
            ring=ring,
            wix=wix,
            names=Names(wix),
            pending=PendingRequests(wix),
            book=book,
            renderer=renderer,
            hashes=hashes,
            trial=trial,
            calls_per_minute=calls_per_minute,
            sender=sender,
        )

    @classmethod
    def of_services(
        cls, services: Services, database: Database, ring: Callable[[], None] = lambda: None
    ) -> Office:
        """Over what a worker works with."""
        return cls.over(
            database,
            services.journal,
            ring,
            wix=services.wix,
            book=services.book,
            renderer=services.renderer,
            hashes=services.hashes,
            calls_per_minute=services.calls_per_minute,
            sender=services.sender,
        )
