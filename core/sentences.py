"""An automation in sentences, in whatever language its reader speaks.

Every piece is a whole phrase with places for names, and how phrases join is a phrase too, so that a translation may
order them as its language does. Nothing here knows markup or a catalogue: a Tongue is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.automations import TRIGGERS, Automation, Follow, ReportSchedule, spell_duration
from core.consent import Purpose
from core.matching import AnswerRule

MOST_WORDS = 8
"""Of a list that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Tongue:
    """`say` translates a phrase and puts the values in its places, `mark` sets a name or word of theirs apart, `span`
    spells seconds, `number` a number."""

    say: Callable[..., str]
    mark: Callable[[str], str]
    span: Callable[[float], str]
    number: Callable[[float], str] = str


def _plain(phrase: str, **values: object) -> str:
    return phrase % values if values else phrase


PLAIN = Tongue(_plain, lambda text: f'"{text}"', spell_duration)
"""English without markup, for a terminal or a program."""


def describe(automation: Automation, tongue: Tongue, names: Mapping[str, str] | None = None) -> str:
    """One sentence: when it applies, and what it does. `names`: of groups by their ids."""
    _ = tongue.say
    if automation.is_step:
        return _step(automation, tongue)
    when = _when(automation, tongue, names or {})
    if automation.answers is not None:
        when = _("%(when)s %(condition)s", when=when, condition=_condition(automation.answers, tongue))
    return _("%(when)s, %(then)s.", when=when, then=_then(automation, tongue))


def describe_times(automation: Automation, tongue: Tongue) -> str:
    """How often it writes to one person; "" when it writes no letter."""
    _ = tongue.say
    if automation.email is None:
        return ""
    if automation.once_per == "join":
        return _("Each time somebody joins.")
    return _("Once for each person and group.")


def describe_report(report: ReportSchedule, tongue: Tongue) -> str:
    _ = tongue.say
    at, count = tongue.mark(f"{report.at:%H:%M}"), tongue.number(len(report.to))
    if report.every == "day":
        return _(
            "Every day at %(at)s, send a report on the groups to %(count)s addresses.", at=at, count=count
        )
    if report.every == "month":
        return _(
            "On the first of the month at %(at)s, send a report on the groups to %(count)s addresses.",
            at=at,
            count=count,
        )
    days = (
        _("Every Monday at %(at)s, send a report on the groups to %(count)s addresses.", at=at, count=count),
        _("Every Tuesday at %(at)s, send a report on the groups to %(count)s addresses.", at=at, count=count),
        _(
            "Every Wednesday at %(at)s, send a report on the groups to %(count)s addresses.",
            at=at,
            count=count,
        ),
        _(
            "Every Thursday at %(at)s, send a report on the groups to %(count)s addresses.",
            at=at,
            count=count,
        ),
        _("Every Friday at %(at)s, send a report on the groups to %(count)s addresses.", at=at, count=count),
        _(
            "Every Saturday at %(at)s, send a report on the groups to %(count)s addresses.",
            at=at,
            count=count,
        ),
        _("Every Sunday at %(at)s, send a report on the groups to %(count)s addresses.", at=at, count=count),
    )
    return days[report.weekday]


def describe_follow(follow: Follow, tongue: Tongue, names: Mapping[str, str] | None = None) -> str:
    _ = tongue.say
    known = names or {}
    group = tongue.mark(known.get(follow.rules_of, follow.rules_of))
    if follow.to_groups == ("*",):
        return _("When the rules of %(group)s change, all other groups get them.", group=group)
    others = _either([known.get(pattern, pattern) for pattern in follow.to_groups], tongue)
    return _(
        "When the rules of %(group)s change, these groups get them: %(others)s.", group=group, others=others
    )


def name_triggers(tongue: Tongue) -> dict[str, str]:
    """What happens, word by word of `on`, for a list to choose from."""
    _ = tongue.say
    names = {
        "member_added": _("somebody becomes a member"),
        "member_removed": _("somebody leaves or is removed"),
        "join_requested": _("somebody asks to join"),
        "join_approved": _("somebody's request to join is granted"),
        "join_rejected": _("somebody's request to join is declined"),
        "role_assigned": _("somebody is given a role"),
    }
    return {trigger: names[trigger] for trigger in dict.fromkeys(TRIGGERS.values())}


def _when(automation: Automation, tongue: Tongue, names: Mapping[str, str]) -> str:
    _ = tongue.say
    on = set(automation.on)
    if on >= {"member_added", "join_approved"}:  # whose request was granted is a member
        on.remove("join_approved")
    everywhere = "*" in automation.groups
    groups = "" if everywhere else _either([names.get(one, one) for one in automation.groups], tongue)
    if len(on) == 1:
        return _happens(on.pop(), groups, tongue)
    events = "; ".join(name for trigger, name in name_triggers(tongue).items() if trigger in on)
    if groups:
        return _("When one of these happens in %(groups)s (%(events)s)", groups=groups, events=events)
    return _("When one of these happens in any group (%(events)s)", events=events)


def _happens(trigger: str, groups: str, tongue: Tongue) -> str:
    _ = tongue.say
    if groups:
        return {
            "member_added": _("When somebody becomes a member of %(groups)s", groups=groups),
            "member_removed": _("When somebody leaves %(groups)s or is removed", groups=groups),
            "join_requested": _("When somebody asks to join %(groups)s", groups=groups),
            "join_approved": _("When a request to join %(groups)s is granted", groups=groups),
            "join_rejected": _("When a request to join %(groups)s is declined", groups=groups),
            "role_assigned": _("When somebody is given a role in %(groups)s", groups=groups),
        }[trigger]
    return {
        "member_added": _("When somebody becomes a member of any group"),
        "member_removed": _("When somebody leaves any group or is removed"),
        "join_requested": _("When somebody asks to join any group"),
        "join_approved": _("When a request to join any group is granted"),
        "join_rejected": _("When a request to join any group is declined"),
        "role_assigned": _("When somebody is given a role in any group"),
    }[trigger]


def _condition(rule: AnswerRule, tongue: Tongue) -> str:
    _ = tongue.say
    any_, none = _either(rule.any, tongue), _either(rule.none, tongue)
    if rule.any and rule.all:
        said = _("and mentions %(any)s, and with it each of %(all)s", any=any_, all=_list(rule.all, tongue))
    elif rule.any:
        said = _("and mentions %(words)s", words=any_)
    elif rule.all:
        said = _("and mentions each of %(words)s", words=_list(rule.all, tongue))
    else:
        said = _("and answers without a word of %(words)s", words=none)
    if rule.none and (rule.any or rule.all):
        said = _("%(condition)s, but not %(words)s", condition=said, words=none)
    if rule.question:
        question = tongue.mark(rule.question)
        said = _("%(condition)s, when asked about %(question)s", condition=said, question=question)
    return said


def _then(automation: Automation, tongue: Tongue) -> str:
    _ = tongue.say
    decision = ""
    if automation.decide is not None:
        decision = {
            "approve": _("let them in"),
            "reject": _("decline the request"),
            "flag": _("leave the decision to a person"),
        }[automation.decide]
    if automation.email is None:
        return decision
    letter = _letter(automation, tongue)
    return _("%(decision)s and %(letter)s", decision=decision, letter=letter) if decision else letter


def _letter(automation: Automation, tongue: Tongue) -> str:
    _ = tongue.say
    letter, span = tongue.mark(automation.email or ""), tongue.span(automation.after_s)
    promotes = automation.purpose is Purpose.PROMOTIONAL
    if promotes and automation.after_s:
        return _("offer them %(letter)s after %(span)s", letter=letter, span=span)
    if promotes:
        return _("offer them %(letter)s", letter=letter)
    if automation.after_s:
        return _("write them %(letter)s after %(span)s", letter=letter, span=span)
    return _("write them %(letter)s", letter=letter)


def _step(step: Automation, tongue: Tongue) -> str:
    _ = tongue.say
    letter, span = tongue.mark(step.email or ""), tongue.span(step.after_s)
    promotes = step.purpose is Purpose.PROMOTIONAL
    if promotes and step.unless_replied:
        return _("After %(span)s, offer them %(letter)s, unless they have replied.", letter=letter, span=span)
    if promotes:
        return _("After %(span)s, offer them %(letter)s.", letter=letter, span=span)
    if step.unless_replied:
        return _("After %(span)s, write them %(letter)s, unless they have replied.", letter=letter, span=span)
    return _("After %(span)s, write them %(letter)s.", letter=letter, span=span)


def _either(words: Sequence[str], tongue: Tongue) -> str:
    """One or the other of them, each set apart."""
    _ = tongue.say
    if len(words) > MOST_WORDS:
        some, more = _list(words[:MOST_WORDS], tongue), tongue.number(len(words) - MOST_WORDS)
        return _("%(some)s or one of %(more)s more", some=some, more=more)
    if len(words) < 2:
        return _list(words, tongue)
    return _("%(some)s or %(last)s", some=_list(words[:-1], tongue), last=tongue.mark(words[-1]))


def _list(words: Sequence[str], tongue: Tongue) -> str:
    _ = tongue.say
    said = tongue.mark(words[0]) if words else ""
    for word in words[1:]:
        said = _("%(some)s, %(next)s", some=said, next=tongue.mark(word))
    return said
