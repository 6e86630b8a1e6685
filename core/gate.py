"""The gate: the one decision between a letter and its reader. Pure.

Send now, defer until a time, or skip with a reason. Only this module makes a Clearance, and a transport writes to
nobody without one (core.ports.MailPort), so no path leads round it.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from core.community import GroupId, Member, Subscription
from core.consent import Cap, Policy, Purpose, QuietHours, Sender, Suppression, reason_to_skip

FRESH = timedelta(minutes=5)
"""What Wix said of somebody's consent is never older than this when the final dot of their letter goes out."""

_SEAL = object()


@dataclass(frozen=True, slots=True)
class Clearance:
    """One person may be written to, now. Made by this module alone: anybody else's raises TypeError."""

    to: str = field(repr=False)
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only core.gate clears a letter")


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the decision rests on, read for one letter at one time.

    `suppressions` are those that stand now. `recent`: when promotional letters went to this person within the cap's
    period, from whatever group or automation. `asked_at`: when Wix was asked about member and subscription.
    `ground`: why the letter has no ground any more, None when it has, or was not looked at again.
    """

    purpose: Purpose
    group: GroupId
    member: Member | None
    subscription: Subscription | None
    asked_at: datetime
    now: datetime
    due_at: datetime
    sender: Sender
    policy: Policy = field(default_factory=Policy)
    not_after_s: float | None = None
    """Of the letter's automation; None: the policy's."""
    suppressions: tuple[Suppression, ...] = ()
    recent: tuple[datetime, ...] = ()
    site_removed: bool = False
    ground: str | None = None


@dataclass(frozen=True, slots=True)
class Send:
    clearance: Clearance
    evidence: str


@dataclass(frozen=True, slots=True)
class Defer:
    until: datetime
    reason: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Skip:
    reason: str
    evidence: str


Verdict = Send | Defer | Skip


def decide(facts: Facts) -> Verdict:
    """Every doubt is a no. What only has to wait is deferred, unless it would then be too late to be of use."""
    evidence, against = _evidence(facts), _against(facts, facts.now)
    if against is None:
        assert facts.member is not None  # noqa: S101 (reason_to_skip: no such member)
        return Send(Clearance(facts.member.email, _SEAL), evidence)
    reason, until = against
    return Skip(reason, evidence) if until is None else Defer(until, reason, evidence)


def objection(facts: Facts, now: datetime) -> str | None:
    """For a letter that was cleared on these facts: why it may not go after all, now that it is so late."""
    against = _against(facts, now)
    return None if against is None else against[0]


def decide_trial(to: str, *, suppressed: bool) -> Send | Skip:
    """A letter that an operator sends to themselves to look at. An address that was suppressed gets not even that."""
    if suppressed:
        return Skip("this address is suppressed", "")
    return Send(Clearance(to, _SEAL), "a trial")


def _against(facts: Facts, now: datetime) -> tuple[str, datetime | None] | None:
    """Why it may not go now, and when it may: None for never."""
    if (reason := _never(facts)) is not None:
        return reason, None
    wait = _not_now(facts, now)
    not_after_s = facts.policy.not_after_s if facts.not_after_s is None else facts.not_after_s
    last_moment = facts.due_at + timedelta(seconds=not_after_s)
    if (now if wait is None else wait[0]) > last_moment:
        late = (
            f"too late: it was due on {facts.due_at:%Y-%m-%d %H:%M} UTC; a longer `not_after` would allow it"
        )
        return late if wait is None else f"{wait[1]}, and then it is {late}", None
    return None if wait is None else (wait[1], wait[0])


def _never(facts: Facts) -> str | None:
    if facts.site_removed:
        return "the app was removed from this site"
    if not facts.policy.send:
        return "letters of this site are switched off; `send` would allow it"
    return (
        reason_to_skip(
            facts.purpose,
            facts.member,
            facts.subscription,
            suppressed=_suppressed(facts) if facts.suppressions else None,
            policy=facts.policy,
            sender=facts.sender,
        )
        or facts.ground
    )


def _suppressed(facts: Facts) -> str | None:
    wanted = {"all", f"group:{facts.group}"} | (
        {"promotional"} if facts.purpose is Purpose.PROMOTIONAL else set()
    )
    # "Full" passes by itself, so it only defers.
    return next(
        (found.reason for found in facts.suppressions if found.scope in wanted and found.cause != "full"),
        None,
    )


def _not_now(facts: Facts, now: datetime) -> tuple[datetime, str] | None:
    """Until when it has to wait, and why; the longest wait of all."""
    waits: list[tuple[datetime, str]] = []
    if now - facts.asked_at > FRESH:
        waits.append((now, "what Wix said of it is too old by now"))
    waits += [
        (found.expires_at, found.reason)
        for found in facts.suppressions
        if found.cause == "full" and found.expires_at is not None and found.expires_at > now
    ]
    if facts.purpose is Purpose.PROMOTIONAL:
        cap = facts.policy.promotional_cap
        if cap is not None and (until := _room_again(cap, facts, now)) is not None:
            waits.append((until, f"has had {cap.letters} promotional letters in {cap.days:g} days"))
        quiet = facts.policy.quiet_hours
        if quiet is not None:
            at = max([now, *(until for until, _ in waits)])
            if (until := quiet_until(quiet, facts.policy.time_zone, at)) is not None:
                waits.append((until, f"quiet hours ({quiet}, {facts.policy.time_zone})"))
    return max(waits, key=lambda wait: wait[0], default=None)


def _room_again(cap: Cap, facts: Facts, now: datetime) -> datetime | None:
    period = timedelta(days=cap.days)
    counted = sorted(at for at in facts.recent if at > now - period)
    return counted[-cap.letters] + period if len(counted) >= cap.letters else None


def quiet_until(quiet: QuietHours, time_zone: str, at: datetime) -> datetime | None:
    """When the quiet hours end that `at` falls into, in UTC; None outside of them. On a day on which clocks are
    put forward over the end they end with the hour that follows; where the end comes twice, after `at`."""
    zone = ZoneInfo(time_zone)
    local = at.astimezone(zone)
    here = local.time().replace(tzinfo=None)
    if quiet.start < quiet.end:
        if not quiet.start <= here < quiet.end:
            return None
        day = local.date()
    else:
        if quiet.end <= here < quiet.start:
            return None
        day = local.date() + timedelta(days=int(here >= quiet.start))
    return datetime.combine(day, quiet.end, zone).replace(fold=local.fold).astimezone(UTC)


def _evidence(facts: Facts) -> str:
    """What was known at the moment of the decision (GDPR, article 7(1)). No names, no addresses."""
    said = facts.subscription
    known = f"{said.status}, {said.deliverability}" if said else "no record"
    parts = [f"Wix at {facts.asked_at.isoformat(timespec='seconds')}: {known}"]
    cap = facts.policy.promotional_cap
    if facts.purpose is Purpose.PROMOTIONAL and cap is not None:
        parts.append(f"promotional letters in {cap.days:g} days: {len(facts.recent)} of {cap.letters}")
    parts += [f"suppressed ({found.scope}): {found.reason}" for found in facts.suppressions]
    return "; ".join(parts)
