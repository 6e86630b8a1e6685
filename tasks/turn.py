"""One turn of a worker: the events that are due, then what they left to ask of Wix, then the letters."""

from __future__ import annotations

from tasks.events import run_events
from tasks.letters import deliver_letters
from tasks.outbox import pay_outbox
from tasks.services import Services


def take_turn(services: Services) -> bool:
    """Work for some seconds at most; True when more is left, which is then for whoever hears the next doorbell."""
    return any([run_events(services), pay_outbox(services), deliver_letters(services)])


def anything_due(services: Services) -> bool:
    return services.journal.any_due() or services.outbox.any_due() or services.ledger.any_due()
