"""What a worker works with: built once per process, after the fork, and handed to every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from core.automations import Automations
from core.consent import Sender
from core.ports import MailPort, WixPort
from integrations.email.render import Renderer
from integrations.email.unsubscribe import UnsubscribeTokens
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.outbox import Outbox
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions


@dataclass(frozen=True, slots=True)
class Letterhead:
    """What the operator puts on every letter."""

    email_from: str
    postal_address: str
    public_url: str

    @property
    def sender(self) -> Sender:
        return Sender(has_postal_address=bool(self.postal_address))


@dataclass(frozen=True, slots=True)
class Services:
    """`hash_address` is the keyed hash under which the store knows addresses. `chance` is uniform in
    [0, 1); `now` is aware UTC.

    `settle_s`: for so long after an event Wix's read side may still lag behind it (wix/limits-errors.md, 5).
    """

    journal: Journal
    ledger: Ledger
    outbox: Outbox
    suppressions: Suppressions
    sites: Sites
    wix: WixPort
    mail: MailPort
    renderer: Renderer
    automations: Automations
    letterhead: Letterhead
    tokens: UnsubscribeTokens = field(repr=False)
    hash_address: Callable[[str], str] = field(repr=False)
    chance: Callable[[], float]
    now: Callable[[], datetime]
    settle_s: float = 30.0

    def renew_leases(self) -> None:
        """This process lives and works on what it claimed. Called every few seconds beside the work."""
        self.journal.renew()
        self.ledger.renew()
        self.outbox.renew()
