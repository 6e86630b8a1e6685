"""What a mail server's reply means for the letter and for the address. Pure.

RFC 5321 section 4.2 has the basic codes, RFC 3463 and 5248 the enhanced ones. When both are there the enhanced
code says why; the words beside them count only when there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    DONE = "done"
    DEFERRED = "deferred"
    """Not now: again later."""
    REFUSED = "refused"
    """Not at all."""


class Cause(StrEnum):
    """Where the reason for not taking a letter lies. Only `ADDRESS` speaks against the person's address."""

    ADDRESS = "address"
    MAILBOX = "mailbox"
    SENDER = "sender"
    SERVER = "server"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Reply:
    kind: Kind
    cause: Cause
    enhanced: str = ""

    @property
    def address_is_dead(self) -> bool:
        return self.kind is Kind.REFUSED and self.cause is Cause.ADDRESS


# Longest match first: a whole code, then a subject ("1.x").
_CAUSES = {
    "1.7": Cause.SENDER,  # bad sender's mailbox address syntax
    "1.8": Cause.SENDER,  # bad sender's system address
    "2.1": Cause.ADDRESS,  # mailbox disabled
    "1": Cause.ADDRESS,
    "2": Cause.MAILBOX,
    "3": Cause.SERVER,
    "4": Cause.SERVER,
    "7": Cause.SENDER,  # policy and authentication: 5.7.515 and its kin are about us
}
_TEMPORARY = frozenset({"2.2"})  # a full mailbox is emptied one day, whatever class the server gives it
_ENHANCED = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})(?=\s|$|[:;,.)-])")
_NO_SUCH_USER = re.compile(
    r"\b(user|recipient|mailbox|address|account) (is )?(unknown|not found|does not exist|doesn't exist)"
    r"|\b(unknown|no such|invalid) (local )?(user|recipient|mailbox|address|account)\b",
    re.IGNORECASE,
)


def classify(code: int, text: str) -> Reply:
    """`text` is the reply without its basic code; of several lines the first one with an enhanced code counts.

    Whatever is neither 2yz nor clearly final is deferred: a doubt about a reply costs a retry, not a letter.
    """
    match = next(filter(None, (_ENHANCED.match(line) for line in text.splitlines())), None)
    if match is None:
        named = code in (550, 551, 553) and _NO_SUCH_USER.search(text)
        return Reply(_kind(code // 100), Cause.ADDRESS if named else Cause.OTHER)
    status, subject, detail = match.groups()
    exact = f"{subject}.{detail}"
    kind = _kind(code // 100)
    cause = Cause.OTHER if kind is Kind.DONE else _CAUSES.get(exact) or _CAUSES.get(subject, Cause.OTHER)
    if kind is Kind.REFUSED and (status == "4" or exact in _TEMPORARY):
        kind = Kind.DEFERRED
    return Reply(kind, cause, f"{status}.{exact}")


def _kind(status: int) -> Kind:
    return {2: Kind.DONE, 5: Kind.REFUSED}.get(status, Kind.DEFERRED)
