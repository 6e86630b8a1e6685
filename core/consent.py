"""Consent: whether a person may get a letter of this purpose at all, or why not.

Pure. The table is Wix's own (wix/email.md): promotional letters need SUBSCRIBED; onboarding letters are
refused to people who said no, and to people who never said anything unless the site allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum

from core.community import Member, Subscription


class Purpose(StrEnum):
    ONBOARDING = "onboarding"
    PROMOTIONAL = "promotional"


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so many letters to one person in any stretch of `days`."""

    letters: int
    days: float


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `start` to `end` by the site's clock, over midnight when `end` is the earlier one."""

    start: time
    end: time

    def __str__(self) -> str:
        return f"{self.start:%H:%M} to {self.end:%H:%M}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the site's people decided for all automations; see `[policy]` in the automations file.

    `time_zone` is an IANA name: Wix does not tell a site's. `not_after_s`: how long after it was due a letter is still
    worth sending.
    """

    onboarding_without_consent: bool = False
    max_age_s: float = 3 * 24 * 3600
    not_after_s: float = 7 * 24 * 3600
    promotional_cap: Cap | None = None
    quiet_hours: QuietHours | None = None
    time_zone: str = "UTC"
    send: bool = True


@dataclass(frozen=True, slots=True)
class Suppression:
    """Somebody is not to be written to. `scope`: "all", "promotional" or "group:<group id>". `cause`: "unsubscribed",
    "dead", "full", "complaint", "forgotten" or "admin". `expires_at` None: for good."""

    scope: str
    cause: str
    reason: str
    expires_at: datetime | None = None


ADMINS_REASONS: Mapping[str, str] = {
    "asked": "they asked us to",
    "not-theirs": "the address is somebody else's",
    "conduct": "by the rules of the community",
    "test": "no person, but an account for tests",
    "other": "for another reason",
}
"""Why an admin ends letters to somebody."""


def why_it_stays(cause: str) -> str | None:
    """Why nobody but the person may lift a suppression of this cause; None where an admin may."""
    match cause:
        case "admin" | "dead" | "full":
            return None
        case "unsubscribed":
            return "they said stop themselves, and only they can take that back: by subscribing again at Wix"
        case "complaint":
            return "they reported a letter as spam, and whoever does is not written to again"
        case "forgotten":
            return "they asked to be forgotten, and that cannot be undone"
    return "Usher does not know what may lift it"


@dataclass(frozen=True, slots=True)
class Sender:
    """What the operator set up, as far as the law asks for it. A postal address belongs in promotional mail."""

    has_postal_address: bool


def reason_to_skip(
    purpose: Purpose,
    member: Member | None,
    subscription: Subscription | None,
    *,
    suppressed: str | None,
    policy: Policy,
    sender: Sender,
) -> str | None:
    """Why this person must not get a letter of this purpose now; None means: send.

    `suppressed` is the reason of a local suppression, None without one. `subscription` None means that
    Wix has no record of the address. Every doubt is a no, and a no that a setting could turn into a yes
    names the setting.
    """
    if member is None:
        return "no such member at Wix any more"
    if member.status == "BLOCKED":
        return "the member is blocked on the site"
    if not member.email:
        return "the member has no address"
    if suppressed:
        return suppressed
    said = subscription or Subscription()
    if said.deliverability == "BOUNCED":
        return "letters to this address bounced (Wix: BOUNCED)"
    if said.deliverability == "SPAM_COMPLAINT":
        return "the reader reported a letter as spam (Wix: SPAM_COMPLAINT)"
    if said.status == "UNSUBSCRIBED":
        return "unsubscribed (Wix: UNSUBSCRIBED)"
    if said.deliverability not in _DELIVERABLE:
        return "deliverability unclear (Wix sent a value that Usher does not know)"
    if said.status != "SUBSCRIBED":
        never = _NEVER_SAID_YES.get(said.status, "consent unclear (Wix: UNKNOWN, or a status new to Usher)")
        if subscription is None:
            never = "never subscribed (Wix has no record of the address)"
        if purpose is Purpose.PROMOTIONAL:
            return f"{never}; promotional letters need SUBSCRIBED"
        if said.status not in _NEVER_SAID_YES:
            return never
        if not policy.onboarding_without_consent:
            return f"{never}; `onboarding_without_consent` would allow it"
    if purpose is Purpose.PROMOTIONAL and not sender.has_postal_address:
        return "no postal address in the footer; `EMAIL_POSTAL_ADDRESS` would allow it"
    return None


_DELIVERABLE = ("NOT_SET", "VALID", "INACTIVE")
_NEVER_SAID_YES = {
    "NOT_SET": "never subscribed (Wix: NOT_SET)",
    "PENDING": "asked to confirm and has not answered (Wix: PENDING)",
}
