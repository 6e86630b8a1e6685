"""The one decision that stands between a letter and its reader: send it, or skip it with a reason.

Pure. The table is Wix's own (wix/email.md): promotional letters need SUBSCRIBED; onboarding letters are
refused to people who said no, and to people who never said anything unless the site allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.community import Member, Subscription


class Purpose(StrEnum):
    ONBOARDING = "onboarding"
    PROMOTIONAL = "promotional"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the site's people decided for all automations; see `[policy]` in the automations file."""

    onboarding_without_consent: bool = False
    max_age_s: float = 3 * 24 * 3600


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
