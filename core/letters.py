"""What a reaction to an event wants done: letters to plan, calls to owe Wix, people to leave alone.

Only values and keys live here. A key says "once for what"; it is made of ids, never of addresses, and stays the
same over attempts, replays and sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from core.community import GroupId, MemberId, Membership
from core.consent import Purpose
from core.subscriptions import AddressNews


@dataclass(frozen=True, slots=True)
class PlannedLetter:
    """One row of the ledger to be. With a `reason` it is a refusal, recorded and never sent.

    `look_again`: it waits long enough that the person's standing is asked for once more before it goes.
    """

    key: str
    group: GroupId
    member: MemberId
    automation: str | None
    trigger: str
    purpose: Purpose
    template: str
    due_at: datetime
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    look_again: bool = False
    reason: str | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class WixCall:
    """One thing to ask of Wix, kept until Wix has done it. `kind`: approve, reject, flag, unsubscribe, bounced or
    complaint.

    A flag is for a person to decide: it is kept, shown, and asks nothing of Wix. `text` is the reason told to somebody
    who is rejected; of a bounce or complaint the hash of the address that it is about.
    """

    key: str
    kind: str
    group: GroupId | None
    member: MemberId
    automation: str | None = None
    text: str = ""
    reason: str = ""
    asked_at: datetime | None = None
    """When the request was made that this decides."""


@dataclass(frozen=True, slots=True)
class Effects:
    """All that one event sets off, written in the transaction that marks it done."""

    letters: tuple[PlannedLetter, ...] = ()
    calls: tuple[WixCall, ...] = ()
    stop: tuple[StopLetters, ...] = ()
    forget: MemberId | None = None
    site_state: str | None = None
    ignored: str | None = None
    """Why nothing was done at all."""
    member: MemberId | None = None
    """Whom the event was about, so that it can be found when they ask to be forgotten."""
    address: AddressNews | None = None


@dataclass(frozen=True, slots=True)
class StopLetters:
    """Letters not yet sent that lost their ground; None matches any. `triggers`: what set them off."""

    reason: str
    group: GroupId | None = None
    member: MemberId | None = None
    triggers: frozenset[str] | None = None


def letter_key(group: GroupId, member: MemberId, automation: str, joined_at: datetime | None = None) -> str:
    """Once for each member, group and automation; with `joined_at` once for each time they join."""
    key = f"{automation}:{group}:{member}"
    if joined_at is None:
        return key
    # Wix writes the same moment with and without fractions of a second.
    return f"{key}:{joined_at.replace(microsecond=0).isoformat()}"


def decision_key(group: GroupId, member: MemberId, asked_at: datetime) -> str:
    """One decision for one request, whoever takes it: a later request of the same person has another time."""
    return decision_key_prefix(group, member) + asked_at.replace(microsecond=0).isoformat()


def decision_key_prefix(group: GroupId, member: MemberId) -> str:
    return f"decide:{group}:{member}:"


def job_letter_key(job: str, member: MemberId) -> str:
    """Once for each member and job, in however many of its groups they are."""
    return f"job:{job}:{member}"


MAILINGS = ("group_email", "interest_email")
"""Jobs that write to members of groups; as triggers, what set such a letter off."""


def lost_ground(trigger: str, standing: Membership) -> str | None:
    """Why a letter set off by this trigger has no ground as the person stands now; None when it has."""
    if trigger in ("member_added", "join_approved", "role_assigned", *MAILINGS):
        return None if standing.status == "joined" else "not a member of the group any more"
    if trigger == "join_requested":
        return None if standing.status in ("pending", "joined") else "the request is no longer pending"
    if standing.status == "joined":
        return "a member again" if trigger == "member_removed" else "was let in meanwhile"
    return None


def retry_delay_s(
    attempt: int, chance: float, *, base_s: float, longest_s: float, asked_s: float | None = None
) -> float:
    """When to try again. `asked_s` is what the other side asked for; then a little more, so that not everybody
    comes at once. Else full jitter up to base·2^attempt, capped. `chance` is uniform in [0, 1)."""
    if asked_s is not None:
        return min(longest_s, asked_s) * (1.0 + 0.25 * chance)
    return 0.5 + chance * min(longest_s, base_s * 2.0 ** min(attempt, 30))


MAIL_GIVES_UP_AFTER = timedelta(days=4)
"""RFC 5321, 4.5.4.1 asks for at least four to five days in general; a greeting is stale by then."""
