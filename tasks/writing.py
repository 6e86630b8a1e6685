"""From what is known to the bytes of one letter: the same way for every reader, and for the trial at the start."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.consent import Purpose, Sender
from integrations.email.message import (
    build_message,
    feedback_id,
    message_id_for,
    parse_sender,
    wire_address,
)
from integrations.email.render import Renderer
from integrations.email.return_path import ReturnPaths
from integrations.email.unsubscribe import UnsubscribeClaim, UnsubscribeTokens


@dataclass(frozen=True, slots=True)
class Letterhead:
    """What the operator puts on every letter."""

    email_from: str
    postal_address: str
    public_url: str
    tokens: UnsubscribeTokens = field(repr=False)
    paths: ReturnPaths | None = field(default=None, repr=False)
    """None: the mail server takes no other sender than EMAIL_FROM, so what comes back names no letter."""

    @property
    def sender(self) -> Sender:
        return Sender(has_postal_address=bool(self.postal_address))

    @property
    def address(self) -> str:
        return wire_address(parse_sender(self.email_from)[1])

    def envelope_from(self, letter: str) -> str:
        """The address that bounces of this letter come back to."""
        return self.paths.bounces(letter) if self.paths else self.address


@dataclass(frozen=True, slots=True)
class Reader:
    """Whom a letter is for. `group` is the list it belongs to, `letter` the ledger's id."""

    claim: UnsubscribeClaim
    letter: str
    group: str
    email: str = field(repr=False)
    languages: Sequence[str] = ()


def write_letter(
    head: Letterhead,
    renderer: Renderer,
    template: str,
    context: Mapping[str, Any],
    *,
    purpose: Purpose,
    key: str,
    reader: Reader,
    date: datetime,
) -> tuple[str, bytes]:
    """Its Message-ID, which is the same for the same `key`, and its bytes.

    Raises PermanentError when the template fails or nobody can write such a letter.
    """
    unsubscribe_url = f"{head.public_url}/unsubscribe/{head.tokens.issue(reader.claim)}"
    domain = head.address.rpartition("@")[2]
    message_id = message_id_for(key, domain)
    content = renderer.render(
        template,
        {**context, "unsubscribe_url": unsubscribe_url, "postal_address": head.postal_address},
        purpose=purpose,
        language=reader.languages,
    )
    message = build_message(
        content,
        sender=head.email_from,
        to=reader.email,
        message_id=message_id,
        date=date,
        purpose=purpose,
        list_id=f"{_list_label(reader.group)}.{domain}",
        unsubscribe_url=unsubscribe_url,
        unsubscribe_address=head.paths.unsubscribe(reader.letter) if head.paths else "",
        feedback_id=feedback_id(template, reader.claim.site, purpose, domain),
        postal_address=head.postal_address,
    )
    return message_id, message


def _list_label(group: str) -> str:
    """A group's id as a List-Id has it (RFC 2919); an odd id by its hash."""
    if re.fullmatch(r"[A-Za-z0-9-]{1,63}", group):
        return group
    return hashlib.sha256(group.encode()).hexdigest()[:32]
