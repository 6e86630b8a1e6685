"""The automations file: its text read into values with every mistake named, and which automation applies to what.

Knows words, not people: whether somebody may be written to is decided in core.consent when the letter goes out.
"""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import time
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, TypeVar
from zoneinfo import available_timezones

from core import events
from core.community import LONGEST_ID, Answer, Group, SiteId, is_plain
from core.consent import Cap, Policy, Purpose, QuietHours
from core.errors import ConfigError
from core.matching import AnswerRule, Match, fold, problem_with_term
from core.toml_lines import Path, find_lines

TRIGGERS: Mapping[str, str] = {
    events.MEMBER_ADDED: "member_added",
    events.MEMBER_JOINED: "member_added",
    events.MEMBER_REMOVED: "member_removed",
    events.MEMBER_LEFT: "member_removed",
    events.JOIN_REQUESTED: "join_requested",
    events.JOIN_APPROVED: "join_approved",
    events.JOIN_REJECTED: "join_rejected",
    events.ROLE_ASSIGNED: "role_assigned",
}
"""Event type -> the word that stands for it in `on`."""

WITH_ANSWERS = ("member_added", "join_requested", "join_approved")
"""Triggers after which the group still holds the person's answers."""

DECISIONS = ("approve", "reject", "flag")
ONCE_PER = ("member", "join")
EVERY = ("day", "week", "month")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOST_TOP, MOST_IDLE_DAYS, MOST_REPORT_READERS = 100, 3650, 20

LONGEST_REASON = 1000
"""Characters of a rejection reason that Wix takes (wix/groups.md, section 3)."""
LONGEST_WAIT_S = 365 * 24 * 3600
LONGEST_GROUP_NAME = 100
"""Characters that Wix takes (wix/groups.md, section 3)."""
MOST_PATTERNS = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Automation:
    """One `[[automation]]`. It sends `email`, or takes the decision `decide` on a join request, or both.

    A step below it, `[[automation.then]]`, is one too: a letter set off by the same, and later.
    """

    name: str
    """Of a step the automation's, a dot, and its own."""
    on: frozenset[str]
    purpose: Purpose | None = None
    """Never None with an `email`."""
    email: str | None = None
    decide: str | None = None
    """One of DECISIONS."""
    reason: str = ""
    """What a rejected person is told."""
    groups: tuple[str, ...] = ("*",)
    sites: tuple[str, ...] = ("*",)
    after_s: float = 0.0
    once_per: str = "member"
    """One of ONCE_PER."""
    answers: AnswerRule | None = None
    max_age_s: float | None = None
    """None: the policy's."""
    not_after_s: float | None = None
    """None: the policy's."""
    flow: str | None = None
    """Name of the automation that this is a step of, or that has steps itself."""
    unless_replied: bool = False
    """Not to somebody who answered an earlier letter of the flow."""
    enabled: bool = True
    """Off: it listens to nothing, and what waits of it does not go. Its steps with it."""

    @property
    def is_step(self) -> bool:
        return self.flow is not None and self.flow != self.name


@dataclass(frozen=True, slots=True)
class ReportSchedule:
    """One `[[report]]`: a report on a site's groups that goes by mail to these addresses, again and again."""

    name: str
    every: str
    """One of EVERY; a month's report comes on its first day."""
    to: tuple[str, ...] = field(repr=False)
    weekday: int = 0
    """Of a weekly one; Monday is 0."""
    at: time = time(8)
    """By the clock of the policy's `time_zone`."""
    sites: tuple[str, ...] = ("*",)
    top: int = 10
    idle_days: int = 90
    enabled: bool = True

    def is_for(self, site: SiteId) -> bool:
        return self.enabled and any(_fits(pattern, site) for pattern in self.sites)


@dataclass(frozen=True, slots=True)
class Follow:
    """One `[[follow]]`: when the rules of this group change, the others get them."""

    rules_of: str
    """The group's id or name."""
    to_groups: tuple[str, ...] = ("*",)
    sites: tuple[str, ...] = ("*",)
    name: str = ""
    enabled: bool = True

    def is_for(self, site: SiteId) -> bool:
        return self.enabled and any(_fits(pattern, site) for pattern in self.sites)

    def names(self, group: Group) -> bool:
        """Letter for letter but for upper and lower case: one group is followed, not a pattern of them."""
        return self.rules_of == group.id or _plain(self.rules_of) == _plain(group.name)


@dataclass(frozen=True, slots=True)
class Automations:
    """A file without a mistake; the automations in its order, the steps of each right after it."""

    policy: Policy = field(default_factory=Policy)
    automations: tuple[Automation, ...] = ()
    site_policies: Mapping[SiteId, Policy] = field(default_factory=dict)
    """Of sites that have one of their own."""
    reports: tuple[ReportSchedule, ...] = ()
    follows: tuple[Follow, ...] = ()

    def policy_of(self, site: SiteId) -> Policy:
        return self.site_policies.get(site, self.policy)

    def max_age_s(self, automation: Automation, site: SiteId) -> float:
        """How old an event may be for this automation to act on it."""
        return self.policy_of(site).max_age_s if automation.max_age_s is None else automation.max_age_s

    def named(self, name: str | None) -> Automation | None:
        return next((automation for automation in self.automations if automation.name == name), None)

    def flow_of(self, automation: Automation) -> tuple[Automation, ...]:
        """All letters of its flow, in their order; without steps it is alone."""
        if automation.flow is None:
            return (automation,)
        return tuple(other for other in self.automations if other.flow == automation.flow)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one automation makes of one person: whether it applies, and why or why not, for people to read."""

    automation: Automation
    applies: bool
    reason: str
    match: Match | None = None
    """Set when answers were asked for and could be read."""


def applicable(automations: Automations, trigger: str, site: SiteId, group: Group) -> list[Automation]:
    """The automations that listen to this trigger in this group, in the order of the file.

    `trigger` is a value of TRIGGERS.
    """
    return [
        automation
        for automation in automations.automations
        if automation.enabled
        and trigger in automation.on
        and any(_fits(pattern, site) for pattern in automation.sites)
        and any(group_fits(pattern, group) for pattern in automation.groups)
    ]


def group_fits(pattern: str, group: Group) -> bool:
    """`pattern` is an id, or a name with `*` and `?`; upper and lower case are the same."""
    return pattern == group.id or _fits(pattern, group.name)


def plan(
    automations: Automations,
    trigger: str,
    site: SiteId,
    group: Group,
    answers: Sequence[Answer] | None,
) -> tuple[Outcome, ...]:
    """Weigh every automation that listens to this trigger in this group."""
    return weigh(applicable(automations, trigger, site, group), answers)


def weigh(automations: Iterable[Automation], answers: Sequence[Answer] | None) -> tuple[Outcome, ...]:
    """What each automation makes of these answers. `answers` None means that they could not be read.

    A request is decided once: by the first automation with a `decide` whose answers match. A later one
    does not apply at all, its letter included, because that letter speaks of a decision that was not
    taken. When answers could not be read nobody knows whether an earlier rule would have decided, so the
    later ones leave the request to a person. A step applies when its automation does.
    """
    outcomes: list[Outcome] = []
    decided = ""
    for automation in automations:
        match = None
        first = next(
            (one for one in outcomes if automation.is_step and one.automation.name == automation.flow), None
        )
        if first is not None:
            outcome = replace(first, automation=automation)
        elif automation.decide and decided:
            outcome = Outcome(automation, False, decided)
        elif automation.answers is None:
            outcome = Outcome(automation, True, "applies to everybody")
        elif answers is None:
            outcome = Outcome(automation, False, "the answers could not be read")
        else:
            match = automation.answers.match(answers)
            outcome = Outcome(automation, match.matched, match.reason, match)
        outcomes.append(outcome)
        if automation.decide and not decided:
            if outcome.applies:
                decided = f'"{automation.name}" decides: it stands before this one'
            elif automation.answers and answers is None:
                decided = f'undecided: "{automation.name}" stands before this one, and {outcome.reason}'
    return tuple(outcomes)


def _fits(pattern: str, text: str) -> bool:
    """Case-insensitive, as a glob; or letter for letter, for names that hold `[` or `*` themselves."""
    pattern, text = _plain(pattern), _plain(text)
    return pattern == text or fnmatchcase(text, pattern)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def parse_automations(
    text: str, *, templates: Collection[str] | None = None, file: str = "automations.toml"
) -> Automations:
    """Read the file. `templates` are the letters there are; None leaves that unchecked.

    Raises ConfigError with every mistake as `FILE:LINE: field: what is wrong (got VALUE)`, by line.
    """
    text = text.removeprefix("\ufeff")  # some editors write one
    mistakes = _Mistakes()
    automations = Automations()
    try:
        data = tomllib.loads(text)
        text.encode()
        mistakes.lines = find_lines(text)
        automations = _read_file(data, templates, mistakes)
    except RecursionError:
        mistakes.add((), "is nested too deeply")
    except UnicodeEncodeError as exc:
        mistakes.add_at(text.count("\n", 0, exc.start) + 1, "TOML", "holds half a character")
    except ValueError as exc:  # TOMLDecodeError, and plain ones for numbers of thousands of digits
        _add_syntax_error(text, exc, mistakes)
    if mistakes.found:
        problems = [
            f"{file}:{line}: {problem}" for line, problem in sorted(mistakes.found, key=lambda at: at[0])
        ]
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise ConfigError(f"{file} has {count}", problems)
    return automations


def parse_duration(text: str) -> float:
    """Seconds of "0s", "90m", "2h", "3d", "1w" or "1d12h". Raises ValueError saying what is wrong."""
    if text.lstrip().startswith("-"):
        raise ValueError("cannot be negative")
    match = re.fullmatch(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text, re.ASCII)
    if not match or not text:
        raise ValueError(_A_DURATION)
    seconds = sum(
        int(number[:12]) * unit  # twelve digits are past every bound below
        for number, unit in zip(match.groups("0"), (7 * 86400, 86400, 3600, 60, 1), strict=True)
    )
    if seconds > LONGEST_WAIT_S:
        raise ValueError("must be at most 365d")
    return float(seconds)


def spell_duration(seconds: float) -> str:
    """As the file would say it: "3d", "1d12h"; whole seconds, and no weeks."""
    spelled, left = "", int(seconds)
    for letter, unit in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, unit)
        spelled += f"{number}{letter}" if number else ""
    return spelled or "0s"


_NOTHING = object()
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_AN_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[^\s@<>,;:\"()\[\]\\]{1,253}")

_POLICY_KEYS: Mapping[str, type] = {
    "onboarding_without_consent": bool, "max_age": str, "not_after": str, "promotional_cap": str,
    "quiet_hours": str, "time_zone": str, "send": bool,
}  # fmt: skip
KEYS: Mapping[str, Mapping[str, type]] = {
    "": {"policy": dict, "automation": list, "report": list, "follow": list},
    "policy": {**_POLICY_KEYS, "site": dict},
    "policy.site": _POLICY_KEYS,
    "automation": {
        "name": str, "enabled": bool, "on": list, "purpose": str, "email": str, "decide": str, "reason": str,
        "groups": list, "sites": list, "after": str, "once_per": str, "max_age": str, "not_after": str,
        "answers": dict, "then": list,
    },
    "automation.answers": {"any": list, "all": list, "none": list, "question": str},
    "automation.then": {
        "name": str, "email": str, "after": str, "purpose": str, "unless_replied": bool, "not_after": str,
    },
    "report": {
        "name": str, "enabled": bool, "every": str, "on": str, "at": str, "to": list, "sites": list, "top": int,
        "idle_days": int,
    },
    "follow": {"rules_of": str, "to_groups": list, "sites": list, "name": str, "enabled": bool},
}  # fmt: skip
"""All keys of the file by table, with the type of their values; "policy.site" stands for the table of any site."""
_LISTS_OF_TABLES = ("automation", "automation.then", "report", "follow")

_KINDS: Mapping[type, str] = {
    str: 'must be a text in "quotes"',
    bool: "must be true or false",
    int: "must be a whole number",
    list: "must be a list of texts in [brackets]",
    dict: "must be a table",
}
_A_DURATION = 'must be a length of time in quotes, such as "90m", "2h", "3d", "1w" or "1d12h"'
_A_CAP = 'must be a number of letters and a length of time in quotes, such as "4 per 30d", or "none"'
_HOURS = 'must be two times of day in quotes, such as "21:00-08:00", or "none"'
_AN_HOUR = 'must be a time of day in quotes, such as "08:00"'
_A_ZONE = 'must be the name of a time zone in quotes, such as "Europe/Berlin"'
_SITE = 'must be a table for each site: write [policy.site."<app instance id>"]'
_HINTS: Mapping[str, str] = {
    "policy": "must be one table: write [policy], with single brackets",
    "policy.site": _SITE,
    "automation": "must be a list of tables: write [[automation]], with double brackets",
    "automation.answers": "must be a table: write [automation.answers] below its [[automation]]",
    "automation.then": "must be a list of tables: write [[automation.then]] below its [[automation]], with "
    "double brackets",
    "report": "must be a list of tables: write [[report]], with double brackets",
    "follow": "must be a list of tables: write [[follow]], with double brackets",
}
_FORMS: Mapping[str, str] = {
    "after": _A_DURATION, "max_age": _A_DURATION, "not_after": _A_DURATION,
    "promotional_cap": _A_CAP, "quiet_hours": _HOURS, "time_zone": _A_ZONE, "at": _AN_HOUR,
}  # fmt: skip
"""What is said of a key whose text follows rules of its own, in whatever table."""


class _Mistakes:
    def __init__(self) -> None:
        self.lines: Mapping[Path, int] = {}
        self.found: list[tuple[int, str]] = []

    def add(self, path: Path, what: str, got: object = _NOTHING) -> None:
        name = ".".join(_one_line(key) for key in path if isinstance(key, str)) or "TOML"
        self.add_at(self.line(path), name, what, got)

    def add_at(self, line: int, name: str, what: str, got: object = _NOTHING) -> None:
        self.found.append((line, f"{name}: {what} (got {_shown(got)})"))

    def line(self, path: Path) -> int:
        """Where this stands; what is missing stands where its table begins."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def _add_syntax_error(text: str, error: ValueError, mistakes: _Mistakes) -> None:
    """tomllib says where in the words of its message: "Invalid value (at line 3, column 8)"."""
    lines = text.rstrip().split("\n")
    message = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
    if message is None:  # a number of thousands of digits is refused by int() instead
        mistakes.add((), _one_line(str(error)))
    elif message[2] is None:
        mistakes.add_at(len(lines), "TOML", f"{_one_line(message[1])} at the end", lines[-1].strip())
    else:
        line = min(int(message[2]), len(lines))
        what = f"{_one_line(message[1])} at column {message[3]}"
        mistakes.add_at(line, "TOML", what, lines[line - 1].strip())


def _read_file(data: dict[str, Any], templates: Collection[str] | None, mistakes: _Mistakes) -> Automations:
    top = _known(data, (), mistakes)
    policies = top.get("policy", {})
    policy = _read_policy(policies, ("policy",), Policy(), mistakes)
    automations: list[Automation] = []
    first: dict[str, Path] = {}
    for index, table in enumerate(top.get("automation", ())):
        if isinstance(table, dict):
            path: Path = ("automation", index)
            automations += _read_automation(table, path, templates, mistakes)
            _check_unique(table.get("name"), path, first, mistakes)
    return Automations(
        policy,
        tuple(automations),
        _read_site_policies(policies, policy, mistakes),
        _read_reports(top.get("report", ()), mistakes),
        _read_follows(top.get("follow", ()), mistakes),
    )


def _read_reports(tables: Sequence[object], mistakes: _Mistakes) -> tuple[ReportSchedule, ...]:
    reports: list[ReportSchedule] = []
    first: dict[str, Path] = {}
    for index, table in enumerate(tables):
        if isinstance(table, dict):
            path: Path = ("report", index)
            reports.append(_read_report(table, path, mistakes))
            _check_unique(table.get("name"), path, first, mistakes)
    return tuple(reports)


def _read_report(table: dict[str, Any], path: Path, mistakes: _Mistakes) -> ReportSchedule:
    values = _known(table, path, mistakes)

    def wrong(key: str, what: str) -> None:
        mistakes.add((*path, key), what, table.get(key, _NOTHING))

    _check_name(table, values, wrong)
    for key, allowed in (("every", EVERY), ("on", WEEKDAYS)):
        _check_choice(values, key, allowed, wrong)
    if "every" not in table:
        wrong("every", f"is missing: it must be {_or(EVERY)}")
    elif "on" in table and values.get("every") in ("day", "month"):
        wrong("on", 'has no effect without every = "week"')
    if not table.get("to"):
        wrong("to", "is missing: it lists the addresses that the report goes to")
    if len(values.get("to", ())) > MOST_REPORT_READERS:
        wrong("to", f"must be at most {MOST_REPORT_READERS} addresses")
    for index, address in _texts(values, "to"):
        if not _AN_ADDRESS.fullmatch(address):
            mistakes.add((*path, "to", index), "must be one address, such as board@example.com", address)
    for key, most in (("top", MOST_TOP), ("idle_days", MOST_IDLE_DAYS)):
        if key in values and not 1 <= values[key] <= most:
            wrong(key, f"must be from 1 to {most}")
    _check_patterns(values, "sites", path, mistakes)
    return ReportSchedule(
        name=values.get("name", ""),
        every=values.get("every", ""),
        to=tuple(dict.fromkeys(address for _, address in _texts(values, "to"))),
        weekday=WEEKDAYS.index(values["on"]) if values.get("on") in WEEKDAYS else 0,
        at=_read(values, "at", _time_of_day, time(8), path, mistakes),
        sites=tuple(values.get("sites", "*")),
        top=values.get("top", 10),
        idle_days=values.get("idle_days", 90),
        enabled=values.get("enabled", True),
    )


def _read_follows(tables: Sequence[object], mistakes: _Mistakes) -> tuple[Follow, ...]:
    follows: list[Follow] = []
    first: dict[str, Path] = {}
    for index, table in enumerate(tables):
        if isinstance(table, dict):
            path: Path = ("follow", index)
            follows.append(_read_follow(table, path, mistakes))
            _check_unique(table.get("name", follows[-1].name), path, first, mistakes)
    return tuple(follows)


def _read_follow(table: dict[str, Any], path: Path, mistakes: _Mistakes) -> Follow:
    values = _known(table, path, mistakes)

    def wrong(key: str, what: str) -> None:
        mistakes.add((*path, key), what, table.get(key, _NOTHING))

    rules_of = values.get("rules_of", "")
    if "rules_of" not in table:
        wrong("rules_of", "is missing: it is the id or the name of the group whose rules are followed")
    elif "rules_of" in values and not rules_of.strip():
        wrong("rules_of", "names no group")
    elif "*" in rules_of:
        wrong("rules_of", "must be one group, not a pattern; one with * in its name goes by its id")
    elif len(rules_of) > LONGEST_GROUP_NAME:
        wrong("rules_of", f"must be at most {LONGEST_GROUP_NAME} characters, as a group's name is")
    if "name" in table:
        _check_name(table, values, wrong)
    for key in ("to_groups", "sites"):
        _check_patterns(values, key, path, mistakes)
    if len(values.get("to_groups", ())) > MOST_PATTERNS:
        wrong("to_groups", f"must be at most {MOST_PATTERNS} groups or patterns")
    for index, pattern in _texts(values, "to_groups"):
        if len(pattern) > LONGEST_GROUP_NAME:
            what = f"must be at most {LONGEST_GROUP_NAME} characters, as a group's name is"
            mistakes.add((*path, "to_groups", index), what, pattern)
    return Follow(
        rules_of,
        to_groups=tuple(values.get("to_groups", "*")),
        sites=tuple(values.get("sites", "*")),
        name=values.get("name", rules_of),
        enabled=values.get("enabled", True),
    )


def _read_policy(table: dict[str, Any], path: Path, default: Policy, mistakes: _Mistakes) -> Policy:
    values = _known(table, path, mistakes)

    def read(key: str, how: Callable[[str], T], otherwise: T) -> T:
        return _read(values, key, how, otherwise, path, mistakes)

    return Policy(
        onboarding_without_consent=values.get(
            "onboarding_without_consent", default.onboarding_without_consent
        ),
        max_age_s=read("max_age", _max_age, default.max_age_s),
        not_after_s=read("not_after", _not_after, default.not_after_s),
        promotional_cap=read("promotional_cap", _cap, default.promotional_cap),
        quiet_hours=read("quiet_hours", _quiet_hours, default.quiet_hours),
        time_zone=read("time_zone", _time_zone, default.time_zone),
        send=values.get("send", default.send),
    )


def _read_site_policies(
    policies: dict[str, Any], policy: Policy, mistakes: _Mistakes
) -> dict[SiteId, Policy]:
    """What a site's table leaves out is as for all sites."""
    tables = policies.get("site", {})
    found = {}
    for site, table in tables.items() if isinstance(tables, dict) else ():
        path: Path = ("policy", "site", site)
        if not isinstance(table, dict):
            mistakes.add(path, _SITE, table)
            continue
        if not is_plain(site, LONGEST_ID) or set(site) & set("*?["):
            mistakes.add(path, "must be named by the app instance id of one site, letter for letter", site)
        found[SiteId(site)] = _read_policy(table, path, policy, mistakes)
    return found


def _max_age(text: str) -> float:
    return _longer_than_nothing(text, "no event would ever be acted on")


def _not_after(text: str) -> float:
    return _longer_than_nothing(text, "no letter would ever go out")


def _longer_than_nothing(text: str, why: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise ValueError(f"must be longer: {why}")
    return seconds


def _cap(text: str) -> Cap | None:
    if text == "none":
        return None
    match = re.fullmatch(r"(\d{1,6}) per (\S+)", text, re.ASCII)
    if not match:
        raise ValueError(_A_CAP)
    letters = int(match[1])
    if not letters:
        raise ValueError("must let at least 1 letter through; `send = false` switches letters off")
    return Cap(letters, _longer_than_nothing(match[2], "letters are counted over this time") / 86400)


def _quiet_hours(text: str) -> QuietHours | None:
    if text == "none":
        return None
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if not match:
        raise ValueError(_HOURS)
    start, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if start == end:
        raise ValueError("must end at another time than they begin")
    return QuietHours(start, end)


def _time_of_day(text: str) -> time:
    if not (match := re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", text, re.ASCII)):
        raise ValueError(_AN_HOUR)
    return time(int(match[1]), int(match[2]))


def _time_zone(text: str) -> str:
    zones = _time_zones()
    if text not in zones:
        city = text.strip().replace(" ", "_").lower()
        meant = next((zone for zone in sorted(zones) if city == zone.rpartition("/")[2].lower()), None)
        raise ValueError(_A_ZONE + (f'; did you mean "{meant}"?' if meant else _did_you_mean(text, zones)))
    return text


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _read_automation(
    table: dict[str, Any], path: Path, templates: Collection[str] | None, mistakes: _Mistakes
) -> list[Automation]:
    """It, and its steps."""
    values = _known(table, path, mistakes)

    def wrong(key: str, what: str) -> None:
        mistakes.add((*path, key), what, table.get(key, _NOTHING))

    _check_name(table, values, wrong)
    on = _read_triggers(table, values, path, mistakes)
    for key, allowed in (("decide", DECISIONS), ("once_per", ONCE_PER)):
        _check_choice(values, key, allowed, wrong)
    purpose = _read_purpose(values, None, wrong)
    _check_email(values, templates, wrong)
    if "email" in table and "purpose" not in table:
        wrong("purpose", f"is missing: with `email` it must be {_or(tuple(Purpose))}")
    if "email" not in table and "decide" not in table:
        mistakes.add(path, "does nothing: `email` and `decide` are both missing")
    _check_reason(table, values, wrong)
    for key in ("groups", "sites"):
        _check_patterns(values, key, path, mistakes)
    after_s = _read(values, "after", parse_duration, 0.0, path, mistakes)
    if after_s and "email" not in table:
        wrong("after", "has no effect without `email`: only letters wait, decisions are taken at once")
    for key, why in (
        ("not_after", "it says how late a letter may go"),
        ("then", "a letter follows upon a letter"),
    ):
        if key in values and "email" not in table:
            wrong(key, f"has no effect without `email`: {why}")
    automation = Automation(
        name=values.get("name", ""),
        on=on,
        purpose=purpose,
        email=values.get("email"),
        decide=values.get("decide"),
        reason=values.get("reason", ""),
        groups=tuple(values.get("groups", "*")),
        sites=tuple(values.get("sites", "*")),
        after_s=after_s,
        once_per=values.get("once_per", "member"),
        answers=_read_answers(values["answers"], (*path, "answers"), mistakes)
        if "answers" in values
        else None,
        max_age_s=_read(values, "max_age", _max_age, None, path, mistakes),
        not_after_s=_read(values, "not_after", _not_after, None, path, mistakes),
        enabled=values.get("enabled", True),
    )
    if not values.get("then"):
        return [automation]
    automation = replace(automation, flow=automation.name)
    return [automation, *_read_steps(values["then"], automation, (*path, "then"), templates, mistakes)]


def _read_steps(
    tables: list[Any],
    automation: Automation,
    path: Path,
    templates: Collection[str] | None,
    mistakes: _Mistakes,
) -> list[Automation]:
    steps: list[Automation] = []
    first: dict[str, Path] = {}
    before_s = automation.after_s
    for index, table in enumerate(tables):
        if isinstance(table, dict):
            place = (*path, index)
            steps.append(_read_step(table, automation, before_s, place, templates, mistakes))
            before_s = steps[-1].after_s
            _check_unique(table.get("name"), place, first, mistakes)
    return steps


def _read_step(
    table: dict[str, Any],
    automation: Automation,
    before_s: float,
    path: Path,
    templates: Collection[str] | None,
    mistakes: _Mistakes,
) -> Automation:
    """`before_s`: when the letter before it goes, from the event."""
    values = _known(table, path, mistakes)

    def wrong(key: str, what: str) -> None:
        mistakes.add((*path, key), what, table.get(key, _NOTHING))

    _check_name(table, values, wrong)
    if "email" not in table:
        wrong("email", "is missing: a step is a letter")
    _check_email(values, templates, wrong)
    after_s = _read(values, "after", parse_duration, None, path, mistakes)
    if "after" not in table:
        wrong("after", 'is missing: it says how long after the event this letter goes, such as "3d"')
    elif after_s is not None and after_s <= before_s:
        wrong(
            "after",
            f"must be more than the {spell_duration(before_s)} of the letter before it: "
            "every step counts from the event",
        )
    return replace(
        automation,
        name=f"{automation.name}.{values.get('name', '')}",
        purpose=_read_purpose(values, automation.purpose, wrong),
        email=values.get("email"),
        decide=None,
        reason="",
        after_s=before_s if after_s is None else after_s,
        not_after_s=_read(values, "not_after", _not_after, automation.not_after_s, path, mistakes),
        unless_replied=values.get("unless_replied", True),
    )


def _check_patterns(values: dict[str, Any], key: str, path: Path, mistakes: _Mistakes) -> None:
    if values.get(key) == []:
        what = 'is empty, so that this never applies: leave it out, or write ["*"]'
        mistakes.add((*path, key), what, [])
    for index, pattern in _texts(values, key):
        if not pattern.strip():
            mistakes.add((*path, key, index), "fits nothing", pattern)


def _check_unique(name: object, path: Path, first: dict[str, Path], mistakes: _Mistakes) -> None:
    if name and isinstance(name, str) and first.setdefault(name, path) != path:
        line = mistakes.line((*first[name], "name"))
        mistakes.add((*path, "name"), f"must be unique, and is taken on line {line}", name)


def _check_choice(
    values: dict[str, Any], key: str, allowed: Sequence[str], wrong: Callable[[str, str], None]
) -> None:
    if key in values and values[key] not in allowed:
        wrong(key, f"must be {_or(allowed)}{_did_you_mean(values[key], allowed)}")


def _read_purpose(
    values: dict[str, Any], default: Purpose | None, wrong: Callable[[str, str], None]
) -> Purpose | None:
    _check_choice(values, "purpose", tuple(Purpose), wrong)
    return Purpose(values["purpose"]) if values.get("purpose") in tuple(Purpose) else default


def _check_email(
    values: dict[str, Any], templates: Collection[str] | None, wrong: Callable[[str, str], None]
) -> None:
    if "email" in values and (problem := _problem_with_email(values["email"], templates)):
        wrong("email", problem)


def _check_name(table: dict[str, Any], values: dict[str, Any], wrong: Callable[[str, str], None]) -> None:
    if "name" not in table:
        wrong("name", "is missing")
    elif "name" in values and not _NAME.fullmatch(values["name"]):
        fitting = "-".join(re.findall("[a-z0-9]+", fold(values["name"])))[:64]
        wrong(
            "name",
            "must be 1 to 64 of a-z, 0-9, - and _, the first a letter or digit, because keys are made of it"
            + (f'; "{fitting}" would do' if fitting else ""),
        )


def _read_triggers(
    table: dict[str, Any], values: dict[str, Any], path: Path, mistakes: _Mistakes
) -> frozenset[str]:
    triggers = tuple(dict.fromkeys(TRIGGERS.values()))
    if "on" not in table:
        mistakes.add((*path, "on"), f"is missing: it lists {_or(triggers)}")
    elif table["on"] == []:
        mistakes.add((*path, "on"), f"is empty, so that this never applies: it lists {_or(triggers)}", [])
    for index, trigger in _texts(values, "on"):
        place = (*path, "on", index)
        if trigger not in triggers:
            mistakes.add(place, f"must be {_or(triggers)}{_did_you_mean(trigger, triggers)}", trigger)
            continue
        if "decide" in table and trigger != "join_requested":
            mistakes.add(place, "leaves nothing to decide: `decide` goes with join_requested only", trigger)
        if "answers" in table and trigger not in WITH_ANSWERS:
            mistakes.add(place, f"comes without answers: `answers` goes with {_or(WITH_ANSWERS)}", trigger)
    return frozenset(trigger for _, trigger in _texts(values, "on"))


def _problem_with_email(email: str, templates: Collection[str] | None) -> str | None:
    if templates is None:
        return None if _NAME.fullmatch(email.lower()) else "must be the name of a folder in templates/email/"
    if email in templates:
        return None
    return f"there is no such letter in templates/email/{_did_you_mean(email, templates)}"


def _check_reason(table: dict[str, Any], values: dict[str, Any], wrong: Callable[[str, str], None]) -> None:
    reason = values.get("reason", "")
    if "reason" in table and table.get("decide") in (None, "approve", "flag"):
        wrong("reason", 'has no effect without decide = "reject"')
    if len(reason) > LONGEST_REASON:
        wrong("reason", f"must be at most {LONGEST_REASON} characters, and has {len(reason)}")
    if any(letter < " " and letter != "\n" for letter in reason):
        wrong("reason", "must not hold control characters")


def _read_answers(table: dict[str, Any], path: Path, mistakes: _Mistakes) -> AnswerRule:
    values = _known(table, path, mistakes)
    terms = {kind: _texts(values, kind) for kind in ("any", "all", "none")}
    for kind, placed in terms.items():
        for index, term in placed:
            if problem := problem_with_term(term):
                mistakes.add((*path, kind, index), problem, term)
    if not any(table.get(kind) for kind in terms):
        mistakes.add(path, "can never match: `any`, `all` and `none` are all empty")
    question = values.get("question", "")
    if question and not fold(question).strip():
        mistakes.add((*path, "question"), "must hold words of the question's text", question)
    any_, all_, none = (tuple(term for _, term in placed) for placed in terms.values())
    rule = AnswerRule(any_, all_, none, question)
    for kind, term, blocker in dict.fromkeys(rule.contradictions()):
        what = f"can never match: where it is met, {_shown(blocker)} of `none` is met too, and wins"
        for index, text in terms[kind]:
            if text == term:
                mistakes.add((*path, kind, index), what, term)
    return rule


def _known(table: dict[str, Any], path: Path, mistakes: _Mistakes) -> dict[str, Any]:
    """The values with a known key and of the right kind; everything else is a mistake."""
    known: dict[str, Any] = {}
    name = _table(path)
    kinds = KEYS[name]
    for key, value in table.items():
        place = (*path, key)
        kind = kinds.get(key)
        hint = _HINTS.get(_table(place)) or _FORMS.get(key)
        if kind is None:
            mistakes.add(place, f"is not known here{_where_it_belongs(key, name)}", value)
            continue
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            mistakes.add(place, hint or _KINDS[kind], value)
            continue
        known[key] = value
        if isinstance(value, list):
            element = dict if _table(place) in _LISTS_OF_TABLES else str
            for index, item in enumerate(value):
                if not isinstance(item, element):
                    mistakes.add((*place, index), hint or _KINDS[element], item)
    return known


def _table(path: Path) -> str:
    """A key of KEYS."""
    words = [word for word in path if isinstance(word, str)]
    return "policy.site" if words[:2] == ["policy", "site"] and len(words) == 3 else ".".join(words)


def _texts(values: dict[str, Any], key: str) -> list[tuple[int, str]]:
    """The texts of a list with their places, without elements of another kind, which are mistakes already."""
    return [(index, text) for index, text in enumerate(values.get(key, ())) if isinstance(text, str)]


def _where_it_belongs(key: str, table: str) -> str:
    if table == "automation.then" and key in KEYS["automation"]:
        return ": its [[automation]] says it for all steps; move it up, above [[automation.then]]"
    if table == "automation.answers" and key in KEYS["automation"]:
        return ": move it up, above [automation.answers], where [[automation]] is"
    if table.startswith("automation") and key in KEYS["automation.answers"]:
        return ": it belongs below [automation.answers]"
    if table == "automation" and key in KEYS["automation.then"]:
        return ": it belongs below an [[automation.then]]"
    if table in ("report", "follow"):
        return _did_you_mean(key, KEYS[table])
    if not table and key in KEYS["automation"]:
        return ": it belongs below an [[automation]]"
    if key in KEYS["policy.site"]:
        return ": it belongs below [policy]"
    return _did_you_mean(key, KEYS[table])


def _read(
    values: dict[str, Any], key: str, how: Callable[[str], T], default: T, path: Path, mistakes: _Mistakes
) -> T:
    """`how` raises ValueError saying what is wrong."""
    if key not in values:
        return default
    try:
        return how(values[key])
    except ValueError as exc:
        mistakes.add((*path, key), str(exc), values[key])
        return default


def _or(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    near = get_close_matches(word[:100].lower(), choices, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _shown(value: object) -> str:
    """A value as the file might spell it, on one line and of bounded length."""
    if value is _NOTHING:
        return "nothing"
    try:
        return _one_line(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:
        return "a number of thousands of digits"


def _one_line(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text[:200])
    return text if len(text) <= 80 else f"{text[:79]}…"
