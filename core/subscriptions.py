"""What follows here from what Wix says of an address. Pure.

Wix is asked before every letter (core.gate), so what it says is kept here only as long as its answers may still be
older. What a person said here is kept for good, until they say yes anew at Wix.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.community import MemberId, Subscription

UNSUBSCRIBED_AT_WIX = "unsubscribed at Wix"
BOUNCED_AT_WIX = "letters to this address bounced, says Wix"
COMPLAINED_AT_WIX = "the reader reported a letter as spam, says Wix"

AT_WIX_FOR = timedelta(days=2)
"""As long as Wix keeps delivering (about 47 h): a statement that came too late is forgotten by itself."""


@dataclass(frozen=True, slots=True)
class Stop:
    """As core.consent.Suppression; `lasts` None: for good."""

    scope: str
    cause: str
    reason: str
    lasts: timedelta | None = None


@dataclass(frozen=True, slots=True)
class AddressNews:
    """What Wix said of one address at one time, known here by its hashes: the one to keep, then former ones.

    `subscribed`: it said yes. `members`: those who said stop here and whose address, asked again, it is at Wix, with
    that yes. `deliverable`: letters arrive. `forget`: a privacy request; whoever was written to there is forgotten,
    and nobody is written to there.
    """

    address_hashes: tuple[str, ...]
    at: datetime
    stops: tuple[Stop, ...] = ()
    subscribed: bool = False
    members: frozenset[MemberId] = frozenset()
    deliverable: bool = False
    forget: bool = False


def stops_of(said: Subscription) -> tuple[Stop, ...]:
    """What may not be sent any more. Wix knows it, so nothing is owed to it."""
    stops = []
    if said.status == "UNSUBSCRIBED":
        stops.append(Stop("promotional", "unsubscribed", UNSUBSCRIBED_AT_WIX, AT_WIX_FOR))
    if said.deliverability == "BOUNCED":
        stops.append(Stop("all", "dead", BOUNCED_AT_WIX, AT_WIX_FOR))
    if said.deliverability == "SPAM_COMPLAINT":
        stops.append(Stop("all", "complaint", COMPLAINED_AT_WIX))
    return tuple(stops)


def says_yes(said: Subscription | None) -> bool:
    return said is not None and said.status == "SUBSCRIBED" and not stops_of(said)


def is_answered(opt_outs: Collection[tuple[str, datetime | None]], at: datetime) -> bool:
    """Whether a yes of this time answers all of these opt-outs, each given as state and end of the call that is owed
    to Wix for it: Wix must have had every one before. One that it never took, or was told later, still stands."""
    return bool(opt_outs) and all(
        state == "done" and finished_at is not None and finished_at < at for state, finished_at in opt_outs
    )
