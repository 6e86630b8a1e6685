"""The automations file: its text read into values with every mistake named, and which automation applies to what.

Knows words, not people: whether somebody may be written to is decided in core.consent when the letter goes out.
"""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from core import events
from core.community import Answer, Group, SiteId
from core.consent import Policy, Purpose
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

LONGEST_REASON = 1000
"""Characters of a rejection reason that Wix takes (wix/groups.md, section 3)."""
LONGEST_WAIT_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Automation:
    """One `[[automation]]`. It sends `email`, or takes the decision `decide` on a join request, or both."""

    name: str
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


@dataclass(frozen=True, slots=True)
class Automations:
    """A file without a mistake; the automations in its order."""

    policy: Policy = field(default_factory=Policy)
    automations: tuple[Automation, ...] = ()
    site_policies: Mapping[SiteId, Policy] = field(default_factory=dict)
    """Of sites that have one of their own."""

    def policy_of(self, site: SiteId) -> Policy:
        return self.site_policies.get(site, self.policy)

    def max_age_s(self, automation: Automation) -> float:
        """How old an event may be for this automation to act on it."""
        return self.policy.max_age_s if automation.max_age_s is None else automation.max_age_s

    def named(self, name: str | None) -> Automation | None:
        return next((automation for automation in self.automations if automation.name == name), None)


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
        if trigger in automation.on
        and any(_fits(pattern, site) for pattern in automation.sites)
        and any(pattern == group.id or _fits(pattern, group.name) for pattern in automation.groups)
    ]


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
    later ones leave the request to a person.
    """
    outcomes = []
    decided = ""
    for automation in automations:
        match = None
        if automation.decide and decided:
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


_NOTHING = object()
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

_FILE_KEYS: Mapping[str, type] = {"policy": dict, "automation": list}
_POLICY_KEYS: Mapping[str, type] = {"onboarding_without_consent": bool, "max_age": str}
_AUTOMATION_KEYS: Mapping[str, type] = {
    "name": str, "on": list, "purpose": str, "email": str, "decide": str, "reason": str,
    "groups": list, "sites": list, "after": str, "once_per": str, "max_age": str, "answers": dict,
}  # fmt: skip
_ANSWER_KEYS: Mapping[str, type] = {"any": list, "all": list, "none": list, "question": str}

_KINDS: Mapping[type, str] = {
    str: 'must be a text in "quotes"',
    bool: "must be true or false",
    list: "must be a list of texts in [brackets]",
    dict: "must be a table",
}
_A_DURATION = 'must be a length of time in quotes, such as "90m", "2h", "3d", "1w" or "1d12h"'
_HINTS: Mapping[tuple[str, ...], str] = {
    ("policy",): "must be one table: write [policy], with single brackets",
    ("automation",): "must be a list of tables: write [[automation]], with double brackets",
    ("policy", "max_age"): _A_DURATION,
    ("automation", "after"): _A_DURATION,
    ("automation", "max_age"): _A_DURATION,
    ("automation", "answers"): "must be a table: write [automation.answers] below its [[automation]]",
}


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
    top = _known(data, (), _FILE_KEYS, mistakes)
    automations = []
    first: dict[str, Path] = {}
    for index, table in enumerate(top.get("automation", ())):
        if not isinstance(table, dict):
            continue
        path: Path = ("automation", index)
        automation = _read_automation(table, path, templates, mistakes)
        automations.append(automation)
        same = first.setdefault(automation.name, path)
        if automation.name and same != path:
            what = f"must be unique, and is taken on line {mistakes.line((*same, 'name'))}"
            mistakes.add((*path, "name"), what, automation.name)
    return Automations(_read_policy(top.get("policy", {}), mistakes), tuple(automations))


def _read_policy(table: dict[str, Any], mistakes: _Mistakes) -> Policy:
    path: Path = ("policy",)
    values = _known(table, path, _POLICY_KEYS, mistakes)
    max_age_s = _max_age(values, path, mistakes)
    return Policy(
        values.get("onboarding_without_consent", False),
        Policy().max_age_s if max_age_s is None else max_age_s,
    )


def _max_age(values: dict[str, Any], path: Path, mistakes: _Mistakes) -> float | None:
    if "max_age" not in values:
        return None
    max_age_s = _duration(values, "max_age", 1.0, path, mistakes)
    if max_age_s == 0:
        mistakes.add((*path, "max_age"), "must be longer: no event would ever be acted on", values["max_age"])
    return max_age_s


def _read_automation(
    table: dict[str, Any], path: Path, templates: Collection[str] | None, mistakes: _Mistakes
) -> Automation:
    values = _known(table, path, _AUTOMATION_KEYS, mistakes)

    def wrong(key: str, what: str) -> None:
        mistakes.add((*path, key), what, table.get(key, _NOTHING))

    _check_name(table, values, wrong)
    on = _read_triggers(table, values, path, mistakes)
    for key, allowed in (("purpose", tuple(Purpose)), ("decide", DECISIONS), ("once_per", ONCE_PER)):
        if key in values and values[key] not in allowed:
            wrong(key, f"must be {_or(allowed)}{_did_you_mean(values[key], allowed)}")
    if "email" in values and (problem := _problem_with_email(values["email"], templates)):
        wrong("email", problem)
    if "email" in table and "purpose" not in table:
        wrong("purpose", f"is missing: with `email` it must be {_or(tuple(Purpose))}")
    if "email" not in table and "decide" not in table:
        mistakes.add(path, "does nothing: `email` and `decide` are both missing")
    _check_reason(table, values, wrong)
    for key in ("groups", "sites"):
        if values.get(key) == []:
            wrong(key, 'is empty, so that this never applies: leave it out, or write ["*"]')
        for index, pattern in _texts(values, key):
            if not pattern.strip():
                mistakes.add((*path, key, index), "fits nothing", pattern)
    after_s = _duration(values, "after", 0.0, path, mistakes)
    if after_s and "email" not in table:
        wrong("after", "has no effect without `email`: only letters wait, decisions are taken at once")
    return Automation(
        name=values.get("name", ""),
        on=on,
        purpose=Purpose(values["purpose"]) if values.get("purpose") in tuple(Purpose) else None,
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
        max_age_s=_max_age(values, path, mistakes),
    )


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
    values = _known(table, path, _ANSWER_KEYS, mistakes)
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


def _known(
    table: dict[str, Any], path: Path, kinds: Mapping[str, type], mistakes: _Mistakes
) -> dict[str, Any]:
    """The values with a known key and of the right kind; everything else is a mistake."""
    known: dict[str, Any] = {}
    for key, value in table.items():
        place = (*path, key)
        kind = kinds.get(key)
        hint = _HINTS.get(tuple(part for part in place if isinstance(part, str)))
        if kind is None:
            mistakes.add(place, f"is not known here{_where_it_belongs(key, path, kinds)}", value)
            continue
        if not isinstance(value, kind):
            mistakes.add(place, hint or _KINDS[kind], value)
            continue
        known[key] = value
        if isinstance(value, list):
            element = dict if kinds is _FILE_KEYS else str
            for index, item in enumerate(value):
                if not isinstance(item, element):
                    mistakes.add((*place, index), hint or _KINDS[element], item)
    return known


def _texts(values: dict[str, Any], key: str) -> list[tuple[int, str]]:
    """The texts of a list with their places, without elements of another kind, which are mistakes already."""
    return [(index, text) for index, text in enumerate(values.get(key, ())) if isinstance(text, str)]


def _where_it_belongs(key: str, path: Path, kinds: Mapping[str, type]) -> str:
    if path[-1:] == ("answers",) and key in _AUTOMATION_KEYS:
        return ": move it up, above [automation.answers], where [[automation]] is"
    if path[:1] == ("automation",) and key in _ANSWER_KEYS:
        return ": it belongs below [automation.answers]"
    if not path and key in _AUTOMATION_KEYS:
        return ": it belongs below an [[automation]]"
    if key in _POLICY_KEYS:
        return ": it belongs below [policy]"
    return _did_you_mean(key, kinds)


def _duration(values: dict[str, Any], key: str, default_s: float, path: Path, mistakes: _Mistakes) -> float:
    if key not in values:
        return default_s
    try:
        return parse_duration(values[key])
    except ValueError as exc:
        mistakes.add((*path, key), str(exc), values[key])
        return default_s


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
