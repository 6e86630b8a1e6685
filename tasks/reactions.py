"""What Usher does about an event: read the present state from Wix, and say what follows. Nothing is written here.

An event is a hint that something changed. It may be late, doubled or overtaken, so the truth is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from core.automations import TRIGGERS, Outcome, applicable, weigh
from core.community import Answer, Group, MemberId, Membership
from core.consent import Purpose
from core.errors import ForbiddenError, PermanentError, RetryableError
from core.events import Details, Event
from core.letters import Effects, PlannedLetter, StopLetters, WixCall, letter_key, lost_ground
from core.reconciliation import when_asked
from tasks.services import Services

Reaction = Callable[[Event, Details, Services], Effects]


class NotYetError(RetryableError):
    """Wix does not show yet what the event told: its read side may lag some seconds behind.

    Asked again soon at first, then less often. Waiting uses no attempts up.
    """

    def __init__(self, message: str, age_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s=max(2.0, age_s / 2), counts=False)


def apply_automations(event: Event, details: Details, services: Services) -> Effects:
    """Plan the letters and decisions that the automations file wants for this event.

    Refusals are planned too, as rows with their reason. Raises NotYetError while Wix may still lag.
    """
    trigger = TRIGGERS[event.type]
    rules = services.automations
    limits = [rules.max_age_s(automation) for automation in rules.automations if trigger in automation.on]
    if not limits:
        return Effects(ignored=f"no automation listens to {trigger}")
    if event.site in services.sites.removed([event.site]):
        return Effects(ignored="the app was removed from this site")
    age_s = (services.now() - event.occurred_at).total_seconds()
    if age_s > max(limits):
        return Effects(ignored=_too_old(age_s))
    if details.group is None or details.member is None:
        raise PermanentError(f"the event names no {'group' if details.group is None else 'member'}")

    group = services.wix.get_group(event.site, details.group)
    if group is None:
        if age_s < services.settle_s:
            raise NotYetError("Wix does not know the group yet", age_s)
        return Effects(ignored="Wix does not know the group")
    listening = applicable(rules, trigger, event.site, group)
    if not listening:
        return Effects(ignored=f"no automation listens to {trigger} in this group")

    standing, gone = Membership("none"), _never_again(event, details.member, services)
    if gone is None:
        standing = services.wix.get_membership(event.site, details.group, details.member)
        gone = lost_ground(trigger, standing)
        if gone and standing.status == "none" and age_s < services.settle_s:
            raise NotYetError(f"Wix does not show it yet ({gone})", age_s)
    asked_at = event.occurred_at
    if trigger == "join_requested":
        since = asked_at - timedelta(hours=1)
        asked_at = when_asked(
            event, services.journal.heard(event.site, group.id, [details.member], [event.type], since)
        )
    place = _Place(group, details.member, asked_at, details.joined_at, details.reason)
    answers: tuple[Answer, ...] | None = ()
    unread = ""
    if gone is None and any(automation.answers for automation in listening):
        try:
            answers = services.wix.list_answers(event.site, group.id, [place.member]).get(place.member, ())
        except ForbiddenError as exc:
            answers, unread = None, f": {exc}"
    outcomes = [
        replace(outcome, reason=outcome.reason + unread) if not outcome.applies else outcome
        for outcome in weigh(listening, answers)
    ]
    outcomes = [
        replace(outcome, applies=False, reason=_too_old(age_s))
        if outcome.applies and age_s > rules.max_age_s(outcome.automation)
        else outcome
        for outcome in outcomes
    ]
    calls = tuple(
        _decision(place, outcome)
        for outcome in outcomes
        if outcome.applies and outcome.automation.decide and gone is None and standing.status == "pending"
    )
    # Nobody is thanked for a request, or offered a class, in the moment a rule turns them away.
    decliner = next((call.automation for call in calls if call.kind == "reject"), None)

    def reason(outcome: Outcome) -> str | None:
        if gone or not outcome.applies:
            return gone or outcome.reason
        declined = decliner and outcome.automation.name != decliner
        return f'"{decliner}" declines the request' if declined else None

    return Effects(
        letters=tuple(
            _letter(event, place, outcome, reason(outcome), services)
            for outcome in outcomes
            if outcome.automation.email
        ),
        calls=calls,
    )


def forget_person(event: Event, details: Details, services: Services) -> Effects:
    """A privacy request: stop everything, erase what is kept, never write again."""
    del event, services
    if details.member is None:
        return Effects(ignored="an erasure that names no member")
    return Effects(forget=details.member)


def stop_letters_of_member(event: Event, details: Details, services: Services) -> Effects:
    del event, services
    if details.member is None:
        raise PermanentError("the event names no member")
    return Effects(stop=(StopLetters("the member was deleted at Wix", member=details.member),))


def stop_letters_of_group(event: Event, details: Details, services: Services) -> Effects:
    del event, services
    if details.group is None:
        raise PermanentError("the event names no group")
    return Effects(stop=(StopLetters("the group was deleted", group=details.group),))


def connect_site(event: Event, details: Details, services: Services) -> Effects:
    del event, details, services
    return Effects(site_state="active")


def disconnect_site(event: Event, details: Details, services: Services) -> Effects:
    del event, details, services
    return Effects(site_state="removed", stop=(StopLetters("the app was removed from this site"),))


def _letter(
    event: Event,
    place: _Place,
    outcome: Outcome,
    reason: str | None,
    services: Services,
) -> PlannedLetter:
    automation = outcome.automation
    once = _which_join(event, place, services) if automation.once_per == "join" and reason is None else None
    return PlannedLetter(
        key=letter_key(place.group.id, place.member, automation.name, once),
        group=place.group.id,
        member=place.member,
        automation=automation.name,
        trigger=TRIGGERS[event.type],
        purpose=automation.purpose or Purpose.PROMOTIONAL,
        template=automation.email or "",
        due_at=max(services.now(), event.occurred_at + timedelta(seconds=automation.after_s)),
        context={
            "group_name": place.group.name,
            "reason": place.reason,
            "matched": [hit.term for hit in outcome.match.hits] if outcome.match else [],
        },
        look_again=automation.after_s > 0,
        reason=reason,
    )


def _never_again(event: Event, member: MemberId, services: Services) -> str | None:
    """A person who was forgotten is not even asked about."""
    standing = services.suppressions.standing(event.site, {member: ()}).get(member, ())
    return next((found.reason for found in standing if found.scope == "all"), None)


def _which_join(event: Event, place: _Place, services: Services) -> datetime:
    """Tells one joining from the next. The date in the group's list is the same whichever event told of it."""
    if place.joined_at is not None:
        return place.joined_at
    if TRIGGERS[event.type] in ("member_added", "join_approved"):
        listed = services.wix.get_joined_at(event.site, place.group.id, place.member)
        if listed.joined_at is not None:
            return listed.joined_at
        age_s = (services.now() - event.occurred_at).total_seconds()
        if listed.status != "joined" and age_s < services.settle_s:
            raise NotYetError("Wix does not show yet when they joined", age_s)
    return place.at


def _too_old(age_s: float) -> str:
    age = f"{age_s / 86400:.1f} days" if age_s >= 86400 else f"{age_s / 3600:.1f} hours"
    return f"{age} old; `max_age` would allow it"


def _decision(place: _Place, outcome: Outcome) -> WixCall:
    automation = outcome.automation
    # One decision for one request: a later request of the same person has another time, and is decided anew.
    return WixCall(
        key=f"decide:{place.group.id}:{place.member}:{place.at.replace(microsecond=0).isoformat()}",
        kind=automation.decide or "flag",
        group=place.group.id,
        member=place.member,
        automation=automation.name,
        text=automation.reason,
        reason=outcome.reason,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Who, where and when, known to be there."""

    group: Group
    member: MemberId
    at: datetime
    joined_at: datetime | None
    reason: str = field(repr=False)
