"""What a worker works with: built once per process, after the fork, and handed to every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from core.automations import Automations
from core.consent import Sender
from core.pacing import Limits
from core.ports import MailPort, WixPort
from integrations.email.pacing import Pacer, Slots
from integrations.email.render import Renderer
from integrations.email.unsubscribe import AddressHashes
from integrations.store.book import Book
from integrations.store.group_days import GroupDays
from integrations.store.jobs import Jobs
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.mailings import Mailings
from integrations.store.outbox import Outbox
from integrations.store.senders import Senders
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.store.watches import Watches
from tasks.recorder import Recorder
from tasks.writing import Letterhead


@dataclass(frozen=True, slots=True)
class Services:
    """`chance` is uniform in [0, 1); `now` is aware UTC.

    `settle_s`: for so long after an event Wix's read side may still lag behind it (wix/limits-errors.md, 5).
    """

    journal: Journal
    ledger: Ledger
    bulk: Ledger
    """The same ledger with a hand of its own: for letters of jobs, held while live ones go out between them."""
    jobs: Jobs
    mailings: Mailings
    outbox: Outbox
    suppressions: Suppressions
    sites: Sites
    watches: Watches
    group_days: GroupDays
    wix: WixPort
    mail: MailPort
    senders: Senders
    pacer: Pacer
    slots: Slots
    renderer: Renderer
    book: Book
    letterhead: Letterhead
    hashes: AddressHashes = field(repr=False)
    chance: Callable[[], float]
    now: Callable[[], datetime]
    settle_s: float = 30.0
    calls_per_minute: float = 180.0
    limits: Limits = field(default_factory=Limits)
    """Of EMAIL_URL."""
    recorder: Recorder = field(default_factory=Recorder)
    held: Automations | None = None
    """Those that one piece of work goes by from its beginning to its end (`for_one_piece`)."""

    @property
    def automations(self) -> Automations:
        """As they are now; in one piece of work, as they were when it was begun."""
        return self.book.current() if self.held is None else self.held

    def for_one_piece(self) -> Services:
        """For one event, one batch of letters, one look: nothing in it sees two versions of the automations."""
        return self if self.held is not None else replace(self, held=self.book.current())

    @property
    def sender(self) -> Sender:
        return self.letterhead.sender

    def let_go(self) -> None:
        """This process ends in the middle of its work: others may go on with it at once."""
        self.journal.let_go()
        self.ledger.let_go()
        self.bulk.let_go()
        self.jobs.let_go()
        self.outbox.let_go()
        self.watches.let_go()

    def renew_leases(self) -> None:
        """This process lives and works on what it claimed. Called every few seconds beside the work."""
        self.journal.renew()
        self.ledger.renew()
        self.bulk.renew()
        self.jobs.renew()
        self.outbox.renew()
        self.watches.renew()
        self.slots.keep()
