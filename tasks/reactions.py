"""What Usher does about an event: read the present state from Wix, and say what follows. Nothing is written here.

An event is a hint that something changed. It may be late, doubled or overtaken, so the truth is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from core import events
from core.automations import TRIGGERS, Automation, Outcome, applicable, weigh
from core.community import Answer, Group, MemberId, Membership
from core.consent import Purpose
from core.errors import ForbiddenError, PermanentError, RetryableError
from core.events import Details, Event
from core.letters import (
    MAILINGS,
    Effects,
    PlannedLetter,
    StopLetters,
    WixCall,
    decision_key,
    letter_key,
    lost_ground,
)
from tasks.batch import Batch
from tasks.jobs.mailing import later_joiners
from tasks.services import Services

Reaction = Callable[[Event, Details, Batch], Effects]


class NotYetError(RetryableError):
    """Wix does not show yet what the event told: its read side may lag some seconds behind.

    Asked again soon at first, then less often. Waiting uses no attempts up.
    """

    def __init__(self, message: str, age_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s=max(2.0, age_s / 2), counts=False)


_ENDS: Mapping[str, tuple[str, ...]] = {
    events.MEMBER_REMOVED: ("member_added", "join_approved", "role_assigned", "join_requested", *MAILINGS),
    events.MEMBER_LEFT: ("member_added", "join_approved", "role_assigned", "join_requested", *MAILINGS),
    events.JOIN_REJECTED: ("join_requested",),
    events.JOIN_CANCELED: ("join_requested",),
}
"""Event type -> the triggers whose waiting letters may lose their ground with it."""


def see_off(event: Event, details: Details, batch: Batch) -> Effects:
    """Stop what waits for somebody who is out, or whose request is over, at once; then as apply_automations.

    Nothing is stopped when Wix shows that they came back. Raises NotYetError while Wix may still lag.
    """
    standing = _standing_if_any_waits(event, details, batch)
    stop: dict[str, set[str]] = defaultdict(set)
    if standing is not None:
        for trigger in _ENDS[event.type]:
            if reason := lost_ground(trigger, standing):
                stop[reason].add(trigger)
        if not stop:
            _wait_for_wix(event, f"Wix does not show it yet ({standing.status})", batch.services)
    effects = Effects(ignored="nothing waits for them")
    if event.type in TRIGGERS:
        effects = apply_automations(event, details, batch, standing)
    return replace(
        effects,
        stop=tuple(
            StopLetters(reason, details.group, details.member, frozenset(triggers))
            for reason, triggers in stop.items()
        ),
        ignored=None if stop else effects.ignored,
    )


def _standing_if_any_waits(event: Event, details: Details, batch: Batch) -> Membership | None:
    """Wix is asked only when there is something to stop."""
    if details.group is None or details.member is None:
        return None
    if batch.waiting(event.site, details.group, details.member).isdisjoint(_ENDS[event.type]):
        return None
    return batch.services.wix.get_membership(event.site, details.group, details.member)


def _wait_for_wix(event: Event, what: str, services: Services) -> None:
    """Raises NotYetError as long as Wix's read side may still lag behind the event."""
    age_s = (services.now() - event.occurred_at).total_seconds()
    if age_s < services.settle_s:
        raise NotYetError(what, age_s)


def apply_automations(
    event: Event, details: Details, batch: Batch, standing: Membership | None = None
) -> Effects:
    """Plan the letters and decisions that the automations file wants for this event.

    Refusals are planned too, as rows with their reason. `standing`: what Wix just said of the person, if it was
    asked. Raises NotYetError while Wix may still lag.
    """
    trigger, services = TRIGGERS[event.type], batch.services
    rules = services.automations
    limits = [
        rules.max_age_s(automation, event.site)
        for automation in rules.automations
        if automation.enabled and trigger in automation.on
    ]
    if not limits:
        return Effects(ignored=f"no automation listens to {trigger}")
    if batch.is_removed(event.site):
        return Effects(ignored="the app was removed from this site")
    age_s = (services.now() - event.occurred_at).total_seconds()
    if age_s > max(limits):
        return Effects(ignored=_too_old(age_s))
    if details.group is None or details.member is None:
        raise PermanentError(f"the event names no {'group' if details.group is None else 'member'}")

    group = services.wix.get_group(event.site, details.group)
    if group is None:
        _wait_for_wix(event, "Wix does not know the group yet", services)
        return Effects(ignored="Wix does not know the group")
    listening = applicable(rules, trigger, event.site, group)
    if not listening:
        return Effects(ignored=f"no automation listens to {trigger} in this group")

    gone = _never_again(event, details.member, batch)
    if gone is None:
        standing = standing or services.wix.get_membership(event.site, details.group, details.member)
        gone = lost_ground(trigger, standing)
        if gone and (standing.status == "none" or trigger == "member_removed"):
            _wait_for_wix(event, f"Wix does not show it yet ({gone})", services)
    asked_at = event.occurred_at
    if trigger == "join_requested":
        asked_at = batch.when_asked(event, group.id, details.member)
    place = _Place(group, details.member, asked_at, details.joined_at, details.reason)
    answers: tuple[Answer, ...] | None = ()
    unread = ""
    if gone is None and any(automation.answers for automation in listening):
        try:
            answers = batch.answers(event, group.id, place.member)
        except ForbiddenError as exc:
            answers, unread = None, f": {exc}"
    outcomes = [
        replace(outcome, reason=outcome.reason + unread) if not outcome.applies else outcome
        for outcome in weigh(listening, answers)
    ]
    outcomes = [
        replace(outcome, applies=False, reason=_too_old(age_s))
        if outcome.applies and age_s > rules.max_age_s(outcome.automation, event.site)
        else outcome
        for outcome in outcomes
    ]
    calls = tuple(
        _decision(place, outcome)
        for outcome in outcomes
        if outcome.applies
        and outcome.automation.decide
        and gone is None
        and standing
        and standing.status == "pending"
    )
    # Nobody is thanked for a request, or offered a class, in the moment a rule turns them away.
    decliner = next((call.automation for call in calls if call.kind == "reject"), None)

    def reason(outcome: Outcome) -> str | None:
        if gone or not outcome.applies:
            return gone or outcome.reason
        declined = decliner and decliner not in (outcome.automation.name, outcome.automation.flow)
        return f'"{decliner}" declines the request' if declined else None

    return Effects(
        letters=tuple(
            _letter(event, place, outcome, reason(outcome), services)
            for outcome in outcomes
            if outcome.automation.email
        ),
        calls=calls,
    )


def greet(event: Event, details: Details, batch: Batch) -> Effects:
    """Somebody is in: as apply_automations, and a letter of each job that also writes to whoever joins later."""
    effects = apply_automations(event, details, batch)
    if details.group is None or details.member is None:
        return effects
    heeding, services = batch.heeding(event.site, details.group), batch.services
    if not heeding:
        return effects
    age_s = (services.now() - event.occurred_at).total_seconds()
    group = services.wix.get_group(event.site, details.group)
    if (
        group is None
        or age_s > services.automations.policy_of(event.site).max_age_s
        or services.wix.get_membership(event.site, group.id, details.member).status != "joined"
    ):
        return effects
    letters = later_joiners(heeding, group, details.member, services.now())
    return replace(effects, letters=(*effects.letters, *letters), ignored=None)


def forget_person(event: Event, details: Details, batch: Batch) -> Effects:
    """A privacy request: stop everything, erase what is kept, never write again."""
    del event, batch
    if details.member is None:
        return Effects(ignored="an erasure that names no member")
    return Effects(forget=details.member)


def stop_letters_of_member(event: Event, details: Details, batch: Batch) -> Effects:
    del event, batch
    if details.member is None:
        raise PermanentError("the event names no member")
    return Effects(stop=(StopLetters("the member was deleted at Wix", member=details.member),))


def stop_letters_of_group(event: Event, details: Details, batch: Batch) -> Effects:
    del event, batch
    if details.group is None:
        raise PermanentError("the event names no group")
    return Effects(stop=(StopLetters("the group was deleted", group=details.group),))


def connect_site(event: Event, details: Details, batch: Batch) -> Effects:
    del event, details, batch
    return Effects(site_state="active")


def disconnect_site(event: Event, details: Details, batch: Batch) -> Effects:
    del event, details, batch
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
        due_at=_due_at(event, automation, services),
        context={
            "group_name": place.group.name,
            "reason": place.reason,
            "matched": [hit.term for hit in outcome.match.hits] if outcome.match else [],
        },
        look_again=automation.after_s > 0,
        reason=reason,
    )


def _due_at(event: Event, automation: Automation, services: Services) -> datetime:
    """When the first letter of a flow is late, because Wix told late, its steps keep their distance to it."""
    first = services.automations.named(automation.flow) or automation
    first_due = max(services.now(), event.occurred_at + timedelta(seconds=first.after_s))
    return first_due + timedelta(seconds=automation.after_s - first.after_s)


def _never_again(event: Event, member: MemberId, batch: Batch) -> str | None:
    """A person who was forgotten is not even asked about."""
    standing = batch.standing(event.site, member)
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
    return WixCall(
        key=decision_key(place.group.id, place.member, place.at),
        kind=automation.decide or "flag",
        group=place.group.id,
        member=place.member,
        automation=automation.name,
        text=automation.reason,
        reason=outcome.reason,
        asked_at=place.at,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Who, where and when, known to be there."""

    group: Group
    member: MemberId
    at: datetime
    joined_at: datetime | None
    reason: str = field(repr=False)
