"""Deliveries that are from Wix become committed events, many at a time, in this process or aside of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol

from core.errors import ExpiredTokenError, InvalidSignatureError, WebhookError
from core.events import Event
from integrations.aside import Aside
from integrations.email.unsubscribe import AddressHashes
from integrations.store.database import PLAN_ONCE, Database
from integrations.store.journal import Journal
from webhooks.opening import Opener

Delivery = tuple[bytes, float]
"""Its claims as they were signed, and when it came, in seconds since 1970."""
Taken = Sequence[str]
"""What became of it: "new", "duplicate", or why not ("expired", "bad_signature", "malformed"); of an event also its id,
site and type."""

COMMIT_WITHIN_S = 1.0
"""Wix waits 1.25 s: a lock that is held longer is answered with 503."""


class Inserting(Protocol):
    def insert(self, batch: Sequence[Event]) -> list[bool]: ...


class Intake:
    def __init__(self, journal: Inserting, opener: Opener) -> None:
        self._journal = journal
        self._opener = opener

    def take(self, deliveries: Sequence[Delivery]) -> list[Taken]:
        """Commit all of them at once; what cannot be opened keeps none of the others from it. Raises
        JournalUnavailableError."""
        opened = [self._open(claims, datetime.fromtimestamp(came_at, UTC)) for claims, came_at in deliveries]
        events = [event for event in opened if isinstance(event, Event)]
        are_new = iter(self._journal.insert(events) if events else ())
        return [
            (event,)
            if isinstance(event, str)
            else ("new" if next(are_new) else "duplicate", event.id, event.site, event.type)
            for event in opened
        ]

    def _open(self, claims: bytes, came_at: datetime) -> Event | str:
        try:
            return self._opener.open(claims, came_at)
        except WebhookError as exc:
            return reason_of(exc)


def reason_of(error: WebhookError) -> str:
    match error:
        case ExpiredTokenError():
            return "expired"
        case InvalidSignatureError():
            return "bad_signature"
        case _:
            return "malformed"


def intake_aside(url: str, secrets: Sequence[str], listened: Collection[str]) -> Aside:
    """An Intake in a process of its own, for a database whose tables are known to be those of this release."""
    return Aside("webhooks.intake:takes_in", url, list(secrets), sorted(listened))


def takes_in(
    url: str, secrets: Sequence[str], listened: Collection[str]
) -> Callable[[Sequence[Delivery]], list[Taken]]:
    hashes = AddressHashes(secrets[0], secrets[1:])
    return Intake(
        Journal(Database(url, timeout_s=COMMIT_WITHIN_S, plans=PLAN_ONCE), listened=listened),
        Opener(hashes.of),
    ).take
