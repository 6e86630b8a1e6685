"""Take in what comes back by mail: each mail has its effect once, however often and by whichever door it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from integrations.email.inbound import Ignored, Replied, Returned, ReturnKind, read_mail
from integrations.email.replies import Cause, Reply
from integrations.email.return_path import ReturnPaths
from integrations.store.returns import Known, Returns
from integrations.store.senders import Senders

log = logging.getLogger(__name__)


LATELY = timedelta(hours=1)
ENOUGH_PEOPLE = 5
"""Anybody has two accounts somewhere."""


@dataclass(frozen=True, slots=True)
class Mailroom:
    """`senders` are the rows of EMAIL_FROM's address. `ring` wakes a worker and returns at once."""

    paths: ReturnPaths
    returns: Returns
    senders: Senders
    ring: Callable[[], None] = lambda: None

    def take_in(self, raw: bytes, recipients: Sequence[str] = ()) -> str:
        """Read one mail and commit what follows from it; returns what that was, for the log of whoever brought it.

        `recipients` are those of the envelope, as far as they are known. Raises JournalUnavailableError: nothing is
        lost when the mail comes again.
        """
        found = read_mail(raw, recipients, self.paths)
        match found:
            case Ignored(reason):
                log.info("mail.ignored", extra={"reason": reason})
                return f"ignored: {reason}"
            case Replied(message_ids):
                answered = self.returns.replied(message_ids)
                log.info("mail.answered", extra={"letters": answered})
                return "answered" if answered else "known already, or about no letter that is known"
        return self._take_back(found)

    def _take_back(self, found: Returned) -> str:
        outcome: str = found.kind
        known: Known | None = None
        match found.kind:
            case ReturnKind.DELAYED:
                log.info("mail.delayed", extra={"letter_id": found.letter, "said": found.said})
                return outcome
            case ReturnKind.BOUNCED:
                what = what_bounced(found.reply)
                outcome = f"{outcome}: {what}"
                effect = EFFECTS[what]
                reason = f"{what} ({found.said})" if found.said else what
                known = self.returns.bounced(found.letter, reason, address=effect.address)
                # The domain of somebody who was forgotten is not known any more, and "" would be everybody's. Whoever
                # has a letter could make a bounce of it up, so a few people's are not enough to hold up a domain.
                if (
                    effect.pauses
                    and known is not None
                    and known.news
                    and known.domain
                    and self.returns.came_back(known.domain, what, LATELY) >= ENOUGH_PEOPLE
                ):
                    self.senders.pause(known.domain, f"letters came back: {reason}")
            case ReturnKind.COMPLAINT:
                known = self.returns.complained(
                    found.letter, f"the reader reported a letter as spam ({found.said})"
                )
            case ReturnKind.UNSUBSCRIBE:
                known = self.returns.unsubscribed(found.letter, "mail", mail=found.mail)
        if known is None or not known.news:
            log.info("mail.no_news", extra={"letter_id": found.letter, "kind": str(found.kind)})
            return "known already, or about no letter that is known"
        self.ring()  # Wix is owed the news
        fields = {"letter_id": found.letter, "site": known.site, "group": known.group, "member": known.member}
        log.info("mail.returned", extra=fields | {"outcome": outcome, "said": found.said})
        return outcome


@dataclass(frozen=True, slots=True)
class Effect:
    """Of a bounce, beside the letter's own state. `address`: what becomes of the reader's; see Returns.bounced."""

    address: str = ""
    pauses: bool = False
    """Letters of this sender to this domain rest for a while."""


EFFECTS = {
    "the address is dead": Effect(address="dead"),
    "the mailbox is full": Effect(address="full"),
    "refused because of the sender": Effect(pauses=True),
    "refused because of too many letters": Effect(pauses=True),
    "the mail server had a problem": Effect(),
    "it bounced": Effect(),
}


def what_bounced(reply: Reply | None) -> str:
    """The key of EFFECTS for what a mail server said."""
    if reply is None:
        return "it bounced"
    if reply.address_is_dead:
        return "the address is dead"
    if reply.mailbox_is_full:
        return "the mailbox is full"
    by_cause = {
        Cause.SENDER: "refused because of the sender",
        Cause.THROTTLE: "refused because of too many letters",
        Cause.SERVER: "the mail server had a problem",
    }
    return by_cause.get(reply.cause, "it bounced")
