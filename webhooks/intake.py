"""Deliveries that are from Wix become committed events, many at a time, in this process or aside of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol

from core.errors import ExpiredTokenError, InvalidSignatureError, WebhookError
from core.events import Event
from integrations.aside import Aside, Later
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
    def begin_insert(self, batch: Sequence[Event]) -> Later: ...


class Intake:
    def __init__(self, journal: Inserting, opener: Opener) -> None:
        self._journal = journal
        self._opener = opener

    def take(self, deliveries: Sequence[Delivery]) -> list[Taken]:
        """Commit all of them at once; what cannot be opened keeps none of the others from it. Raises
        JournalUnavailableError."""
        opened, events = self._open_all(deliveries)
        return _taken(opened, self._journal.insert(events) if events else ())

    def begin(self, deliveries: Sequence[Delivery]) -> Later:
        """As take, but begun only, where the database has a writer."""
        opened, events = self._open_all(deliveries)
        begun = self._journal.begin_insert(events) if events else Later(lambda: ())
        return begun.then(functools.partial(_taken, opened))

    def _open_all(self, deliveries: Sequence[Delivery]) -> tuple[list[Event | str], list[Event]]:
        opened = [self._open(claims, datetime.fromtimestamp(came_at, UTC)) for claims, came_at in deliveries]
        return opened, [event for event in opened if isinstance(event, Event)]

    def _open(self, claims: bytes, came_at: datetime) -> Event | str:
        try:
            return self._opener.open(claims, came_at)
        except WebhookError as exc:
            return reason_of(exc)


def _taken(opened: Sequence[Event | str], are_new: Sequence[bool]) -> list[Taken]:
    answers = iter(are_new)
    return [
        (event,)
        if isinstance(event, str)
        else ("new" if next(answers) else "duplicate", event.id, event.site, event.type)
        for event in opened
    ]


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
) -> Callable[[Sequence[Delivery]], Later]:
    hashes = AddressHashes(secrets[0], secrets[1:])
    database = Database(url, timeout_s=COMMIT_WITHIN_S, plans=PLAN_ONCE)
    if database.url.get_backend_name() != "sqlite":  # which is waited for here as well as in one more process
        database.use_writer()
    return Intake(Journal(database, listened=listened), Opener(hashes.of)).begin
