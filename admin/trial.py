"""One letter to one address, to see it as its readers will: `usher templates send`, and a test from the console."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from admin.processes import letterhead
from config.settings import Settings
from core.community import MemberId, SiteId
from core.consent import Purpose
from core.errors import WithdrawnError
from core.gate import Skip, decide_trial
from integrations.email.message import wire_address
from integrations.email.render import Renderer
from integrations.email.transport import TRANSPORTS
from integrations.email.unsubscribe import AddressHashes, UnsubscribeClaim, hash_address
from integrations.email.url import EmailUrl, parse_email_url
from integrations.store.suppressions import Suppressions
from tasks.writing import Letterhead, Reader, write_letter

MARK = b"[Test] "
NOBODY = "00000000-0000-0000-0000-000000000000"
PATIENCE_S = 60.0
"""A person waits for the mail server's answer, so not for as long as a worker would."""


@dataclass(frozen=True)
class Trials:
    """The Trial of an Office. The link to unsubscribe in its letters is a real one, and nobody's."""

    head: Letterhead
    renderer: Renderer
    way: EmailUrl = field(repr=False)
    is_suppressed: Callable[[str], bool]

    def __call__(
        self, to: str, template: str, context: Mapping[str, Any], *, language: str, purpose: Purpose
    ) -> str:
        """As admin.office.Trial says; JournalUnavailableError when nobody knows whether the address is suppressed."""
        address = wire_address(to)
        verdict = decide_trial(address, suppressed=self.is_suppressed(address))
        if isinstance(verdict, Skip):
            raise WithdrawnError(verdict.reason)
        letter = uuid4().hex
        claim = UnsubscribeClaim(SiteId(NOBODY), MemberId(NOBODY), hash_address("", ""))
        reader = Reader(claim, letter, group=NOBODY, email=verdict.clearance.to, languages=(language,))
        _, message = write_letter(
            self.head,
            self.renderer,
            template,
            context,
            purpose=purpose,
            key=f"trial/{letter}",
            reader=reader,
            date=datetime.now(UTC),
        )
        message = message.replace(b"\r\nSubject: ", b"\r\nSubject: " + MARK, 1)
        mail = TRANSPORTS[self.way.scheme](self.way)
        try:
            return mail.send(verdict.clearance, self.head.envelope_from(letter), message, lambda: None)
        finally:
            mail.close()


def open_trials(settings: Settings, renderer: Renderer, suppressions: Suppressions) -> Trials | None:
    """For settings that were checked; None where they name no sender, mail server or public address. Connects to
    nothing yet."""
    url = settings.email_url.get_secret_value()
    if not (settings.email_from and url and settings.public_url):
        return None
    secret, *previous = settings.secret_keys
    hashes = AddressHashes(secret, previous)
    way = parse_email_url(url)
    return Trials(
        letterhead(settings),
        renderer,
        replace(way, reply_timeout_s=min(way.reply_timeout_s, PATIENCE_S)),
        lambda address: suppressions.anywhere(hashes.of(address)),
    )
