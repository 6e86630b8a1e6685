"""The automations as sentences: what they do, who is on which step, and changing them, version by version."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from babel.units import format_unit
from markupsafe import Markup
from starlette.responses import Response

from admin.api.automations import toml
from admin.console.page import Page, Visit
from admin.console.pages.jobs import as_letter, language_name
from admin.console.words import Words
from admin.office import MANAGERS, READERS, write
from admin.office import automations as room
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.automations import (
    TRIGGERS,
    WITH_ANSWERS,
    Automation,
    Automations,
    applicable,
    group_fits,
)
from core.community import Answer, Group, GroupId, MemberId
from core.consent import Purpose
from core.edits import Add, Change, ChangePolicy, Edit, Kind, Move, Remove
from core.errors import NotThereError, PermanentError, WrongStateError
from core.sentences import Tongue, describe, describe_follow, describe_report, describe_times, name_triggers

TEXT_BYTES = 1024 * 1024
AT_ONCE = 50
MOST_STEPS = 20
LONGEST_TRIAL = 5000
"""Characters of an answer that is tried; Wix takes 300."""

SINGLE = ("decide", "reason", "email", "purpose", "after", "once_per", "max_age", "not_after")
LISTS = ("groups", "sites")
WORDS = ("any", "all", "none")
DEFAULTS = {"after": "0s", "once_per": "member", "groups": "*", "sites": "*"}
SAVED = N_("Saved. It counts from now on.")
POLICY = ("max_age", "not_after", "promotional_cap", "quiet_hours", "time_zone")
STEP = ("name", "email", "after", "purpose")


def tongue_of(words: Words) -> Tongue:
    """Sentences as HTML: what is a name or a word of theirs is set apart."""

    def say(phrase: str, **values: object) -> str:
        return Markup(words.gettext(phrase)) % values if values else Markup(words.gettext(phrase))  # noqa: S704 (ours)

    def span(seconds: float) -> str:
        minutes, rest = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        parts = (("day", days), ("hour", hours), ("minute", minutes), ("second", rest))
        spelt = [
            format_unit(count, f"duration-{unit}", locale=words.language) for unit, count in parts if count
        ]
        return " ".join(spelt) or format_unit(0, "duration-minute", locale=words.language)

    return Tongue(say, lambda text: Markup("<strong><bdi>{}</bdi></strong>").format(text), span, words.number)


# Looking.


def show_list(visit: Visit) -> Response:
    standing = room.standing(visit.office, visit.holder)
    found, names, tongue = standing.automations, _group_names(visit), tongue_of(visit.words)
    counts = room.counts(visit.office, visit.holder, visit.site)
    groups = visit.directory.groups().values()
    lines = []
    for one in found.automations:
        if not one.is_step:
            flow = found.flow_of(one)
            lines.append(
                {
                    "automation": one,
                    "sentence": describe(one, tongue, names),
                    "times": describe_times(one, tongue),
                    "steps": [(step, describe(step, tongue, names)) for step in flow[1:]],
                    "counts": _added_up(counts, flow),
                    "here": _is_here(one, visit, groups),
                }
            )
    return visit.page(
        "automations/list.html",
        standing=standing,
        lines=lines,
        reports=[(one, describe_report(one, tongue)) for one in found.reports],
        follows=[(one, describe_follow(one, tongue, names)) for one in found.follows],
        policy=found.policy_of(visit.site),
        tongue=tongue,
        sees_text=_sees_text(visit),
    )


def show_one(visit: Visit) -> Response:
    return _show_one(visit)


def show_flow(visit: Visit) -> Response:
    """The part of that page which changes by itself."""
    standing = room.standing(visit.office, visit.holder)
    automation = room.named(standing.automations, visit.ids["name"])
    return visit.part("automations/_flow.html", **_flow(visit, standing.automations, automation))


def try_one(visit: Visit) -> Response:
    return _show_one(visit, tried=True)


def _show_one(visit: Visit, *, tried: bool = False) -> Response:
    standing = room.standing(visit.office, visit.holder)
    found, names, tongue = standing.automations, _group_names(visit), tongue_of(visit.words)
    automation = room.named(found, visit.ids["name"])
    whole = [one for one in found.automations if not one.is_step]
    letters = [one for one in found.flow_of(automation) if one.email]
    context = {
        "standing": standing,
        "automation": automation,
        "sentence": describe(automation, tongue, names),
        "times": describe_times(automation, tongue),
        "place": whole.index(automation),
        "last": len(whole) - 1,
        "letters": letters,
        "group_choices": [(group.id, group.name) for group in _groups(visit)],
        "triggers": [(on, text) for on, text in name_triggers(tongue).items() if on in automation.on],
        "with_answers": bool(automation.on & set(WITH_ANSWERS)),
        "trial": _trial(visit, found, automation) if tried else None,
        "tongue": tongue,
        **_flow(visit, found, automation),
        **_letter(visit, letters),
    }
    return visit.page("automations/one.html", **context)


def _flow(visit: Visit, found: Automations, automation: Automation) -> dict[str, Any]:
    """Who is on which step."""
    flow = found.flow_of(automation)
    tongue = tongue_of(visit.words)
    counts = room.counts(visit.office, visit.holder, visit.site)
    rows = room.waiting(
        visit.office,
        visit.holder,
        visit.site,
        automation,
        limit=AT_ONCE + 1,
        after=_seen(visit.query.get("after", "")),
    )
    following = (
        f"{rows[AT_ONCE - 1].next_at.isoformat()} {rows[AT_ONCE - 1].id}" if len(rows) > AT_ONCE else ""
    )
    path = f"/automations/named/{automation.name}"
    rows = rows[:AT_ONCE]
    return {
        "automation": automation,
        "steps": [
            (one, describe(one, tongue) if one.is_step else "", counts.get(one.name, {}))
            for one in flow
            if one.email
        ],
        "waiting": rows,
        "members": visit.directory.members({MemberId(row.member) for row in rows}),
        "group_of": visit.directory.groups(),
        "next_url": visit.url(path, after=following) if following else "",
        "first_url": visit.url(path) if visit.query.get("after") else "",
    }


def _letter(visit: Visit, letters: Sequence[Automation]) -> dict[str, Any]:
    """The letter of the step that was chosen, in the language that was chosen."""
    chosen = next(
        (one for one in letters if one.name == visit.query.get("step")), letters[0] if letters else None
    )
    if chosen is None or chosen.email is None or chosen.email not in visit.office.letters:
        return {"shown": None, "drawn": None, "languages": (), "frame_src": ""}
    languages = list(visit.office.renderer.places(chosen.email))
    language = visit.query.get("language", "")
    site = visit.directory.site()
    draft = write.Draft(
        chosen.email,
        chosen.purpose or Purpose.ONBOARDING,
        site,
        language if language in languages else "",
        matched=chosen.answers.any[:3] if chosen.answers else (),
    )
    try:
        drawn = write.draw(visit.office, draft)
    except PermanentError:
        return {"shown": chosen, "drawn": None, "languages": (), "frame_src": ""}
    src = visit.url(
        f"/automations/letter/{chosen.email}", language=drawn.language, purpose=str(chosen.purpose or "")
    )
    named = [(tag, language_name(tag)) for tag in languages]
    return {"shown": chosen, "drawn": drawn, "languages": named, "frame_src": src}


def show_letter(visit: Visit) -> Response:
    """For a frame: a letter by itself, filled with samples."""
    given = visit.query.get("purpose", "")
    purpose = Purpose(given) if given in tuple(Purpose) else Purpose.ONBOARDING
    draft = write.Draft(
        visit.ids["letter"], purpose, visit.directory.site(), visit.query.get("language", "")[:35]
    )
    return as_letter(write.draw(visit.office, draft).html)


def _trial(visit: Visit, found: Automations, automation: Automation) -> dict[str, Any]:
    """What would come of an answer. It was posted, and is kept nowhere."""
    form = visit.form
    answer = Answer(form.get("question")[:LONGEST_TRIAL], form.get("answer")[:LONGEST_TRIAL])
    known = visit.directory.groups().get(GroupId(form.get("group")))
    group = known or Group(GroupId("-"), visit.words.gettext("Any group"))
    on = form.get("on") or next(iter(automation.on))
    outcomes = room.try_out(found, visit.site, group, on, [answer] if answer.text.strip() else [])
    return {
        "on": on,
        "group": known,
        "question": answer.question,
        "answer": answer.text,
        "pieces": _marked(answer, automation),
        "own": next((one for one in outcomes if one.automation.name == automation.name), None),
        "others": [one for one in outcomes if one.automation.name != automation.name],
    }


def _marked(answer: Answer, automation: Automation) -> list[tuple[str, str]]:
    """The answer cut into pieces, each with "for", "against" or "" for what no term stands in."""
    marks = [""] * len(answer.text)
    for place in automation.answers.places(answer) if automation.answers else ():
        against = place.hit.kind == "none"
        for at in range(place.start, place.end):
            marks[at] = "against" if against or marks[at] == "against" else "for"
    pieces: list[tuple[str, str]] = []
    for letter, mark in zip(answer.text, marks, strict=True):
        if pieces and pieces[-1][1] == mark:
            pieces[-1] = (pieces[-1][0] + letter, mark)
        else:
            pieces.append((letter, mark))
    return pieces


# Small changes: one button each.


def switch(visit: Visit) -> Response:
    """An automation, a report or a follow, on or off."""
    kind, name, on = _kind(visit), visit.form.get("name"), visit.form.get("on") == "1"
    _save(visit, Change(name, {"enabled": None if on else False}, kind))
    _ = visit.words.gettext
    told = _("Switched on.") if on else _("Switched off. Letters of it that wait do not go out.")
    back = visit.form.get("back") == "1" and kind == "automation"
    return visit.to(f"/automations/named/{name}" if back else "/automations", said=told)


def move(visit: Visit) -> Response:
    _save(visit, Move(visit.ids["name"], -1 if visit.form.get("by") == "-1" else 1))
    return visit.to("/automations", said=visit.words.gettext("Moved."))


def remove(visit: Visit) -> Response:
    _save(visit, Remove(visit.ids["name"]))
    told = visit.words.gettext("Removed. The history still has it.")
    return visit.to("/automations", said=told)


def _save(visit: Visit, *edits: Edit) -> int:
    seen = _number(visit.form.get("seen"))
    base = _base(visit) if seen is None else seen
    text, _ = room.edited(visit.office, visit.holder, base, edits)
    return _save_text(visit, text, base)


def _save_text(visit: Visit, text: str, base: int) -> int:
    note, names_go = visit.form.get("note"), visit.form.get("names_go") == "1"
    saved = room.save(visit.office, visit.holder, text, base, note, names_go=names_go)
    return int(saved.number)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a form was not saved, for its page."""

    status: int = 200
    errors: Mapping[str, str] = field(default_factory=dict)
    """By field; "" is the whole."""
    gone: tuple[str, ...] = ()
    """As NamesGoError has them."""
    theirs: Sequence[room.Line] = ()
    """What others changed since the form was opened."""
    seen: int | None = None
    """The version that `theirs` leads to."""


def _trouble(visit: Visit, exc: RefusedError | WrongStateError) -> _Trouble:
    """Of a form that was opened at version `base`, and goes on being that one's. Raises what no form mends."""
    if isinstance(exc, room.NamesGoError):
        return _Trouble(409, gone=exc.names, seen=_number(visit.form.get("seen")))
    if isinstance(exc, RefusedError):
        if exc.status != 422:
            raise exc
        return _Trouble(422, _by_field(exc), seen=_number(visit.form.get("seen")))
    newest, base = room.text_of(visit.office, visit.holder), _base(visit)
    theirs = room.difference(room.text_of(visit.office, visit.holder, base).text, newest.text)
    return _Trouble(409, {"": visit.words.gettext(str(exc))}, theirs=theirs, seen=newest.number)


# Forms.


@dataclass(frozen=True, slots=True)
class _Filled:
    """A form as it is shown: every field as the text that stands in it."""

    values: Mapping[str, str]
    on: tuple[str, ...]
    steps: tuple[Mapping[str, str], ...]


def _as_form(table: Mapping[str, Any]) -> _Filled:
    """An `[[automation]]` as its form shows it."""
    answers = table.get("answers", {})
    values = {key: str(table.get(key, DEFAULTS.get(key, ""))).strip() for key in ("name", *SINGLE)}
    values |= {key: "\n".join(table[key]) if key in table else DEFAULTS[key] for key in LISTS}
    values |= {key: "\n".join(answers.get(key, ())) for key in WORDS}
    values["question"] = answers.get("question", "")
    steps = tuple(
        {key: str(step.get(key, "")) for key in STEP}
        | {"unless_replied": "1" if step.get("unless_replied", True) else ""}
        for step in table.get("then", ())
    )
    return _Filled(values, tuple(table.get("on", ())), steps)


def _filled_in(visit: Visit) -> _Filled:
    form = visit.form
    values = {key: form.get(key).strip() for key in ("name", *SINGLE, "question")}
    values |= {key: "\n".join(_lines(form.get(key))) for key in (*LISTS, *WORDS)}
    values |= {key: values[key] or default for key, default in DEFAULTS.items()}
    steps = []
    for number in range(MOST_STEPS):
        step = {key: form.get(f"step-{number}-{key}").strip() for key in STEP}
        if step["name"] or step["email"]:
            steps.append(step | {"unless_replied": "1" if form.get(f"step-{number}-unless_replied") else ""})
    on = tuple(on for on in dict.fromkeys(TRIGGERS.values()) if on in form.getlist("on"))
    return _Filled(values, on, tuple(steps))


def _changes(table: Mapping[str, Any], before: _Filled, after: _Filled) -> dict[str, Any]:
    """Keys with their new values: those whose text in the form is another one than it was when it was opened. `table`
    is what they are written upon, which others may have changed since."""

    def is_new(key: str) -> bool:
        return before.values.get(key) != after.values.get(key)

    fields: dict[str, Any] = {}
    if is_new("name"):
        fields["name"] = after.values["name"]
    if set(before.on) != set(after.on):
        fields["on"] = list(after.on)
    for key in SINGLE:
        if is_new(key):
            given = after.values[key]
            fields[key] = None if given == DEFAULTS.get(key, "") else given
    for key in LISTS:
        if is_new(key):
            fields[key] = None if after.values[key] == "*" else after.values[key].split("\n")
    if any(map(is_new, (*WORDS, "question"))):
        answers = dict(table.get("answers", {}))
        for key in filter(is_new, WORDS):
            answers[key] = after.values[key].split("\n") if after.values[key] else None
        if is_new("question"):
            answers["question"] = after.values["question"] or None
        kept = {key: value for key, value in answers.items() if value}
        fields["answers"] = kept or None
    if before.steps != after.steps:
        fields["then"] = _steps(table.get("then", ()), before.steps, after.steps) or None
    return fields


def _steps(
    tables: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, str]],
    after: Sequence[Mapping[str, str]],
) -> list[dict[str, Any]]:
    """`tables` with what was changed in the form. What it does not show of a step stays, and so do steps that came
    since; a step that is gone since comes back if it was changed."""
    known = {str(table.get("name")): table for table in tables}
    opened = {step["name"]: step for step in before}
    found = []
    for step in after:
        old = opened.get(step["name"], {})
        if step["name"] not in known:
            if step == old:
                continue
            old = {}
        table: dict[str, Any] = dict(known.get(step["name"], {}))
        table |= {key: step[key] for key in STEP if step[key] and step[key] != old.get(key)}
        if not step["purpose"] and old.get("purpose"):
            table.pop("purpose", None)
        is_new = step["unless_replied"] != old.get("unless_replied")
        if is_new and bool(step["unless_replied"]) != table.get("unless_replied", True):
            table["unless_replied"] = bool(step["unless_replied"])
        found.append(table)
    shown = {step["name"] for step in (*before, *after)}
    return found + [dict(table) for name, table in known.items() if name not in shown]


def new_one(visit: Visit) -> Response:
    started = {"on": ["join_requested"], "purpose": "onboarding"} if visit.request.method == "GET" else {}
    return _form(visit, {}, _as_form(started), "", "/automations/new")


def edit_one(visit: Visit) -> Response:
    name = visit.ids["name"]
    opened, table = (
        next((one for one in read.get("automation", ()) if one.get("name") == name), None)
        for read in _opened_and_newest(visit)
    )
    if opened is None or table is None:
        raise NotThereError("There is no automation of this name any more.")
    return _form(visit, table, _as_form(opened), name, f"/automations/named/{name}/edit")


def _opened_and_newest(visit: Visit) -> tuple[dict[str, Any], dict[str, Any]]:
    """The version that the form was opened with, and the newest one. What somebody changed is what they sent against
    the first; so what others changed meanwhile is none of it."""
    newest = room.text_of(visit.office, visit.holder)
    opened = newest
    if visit.request.method == "POST" and _base(visit) != newest.number:
        opened = room.text_of(visit.office, visit.holder, _base(visit))
    return tomllib.loads(opened.text), tomllib.loads(newest.text)


def _form(visit: Visit, table: Mapping[str, Any], before: _Filled, name: str, path: str) -> Response:
    standing = room.standing(visit.office, visit.holder)
    if not standing.editable:
        raise RefusedError(_why_not(visit, standing), 403)
    _ = visit.words.gettext
    shown, base, trouble = before, standing.newest, _Trouble()
    if visit.request.method == "POST":
        shown, base = _filled_in(visit), _base(visit)
        fields = _changes(table, before, shown)
        try:
            if not fields and name:
                return visit.to(f"/automations/named/{name}", said=_("Nothing was changed."), mood="plain")
            _save(visit, Change(name, fields) if name else Add(fields))
            return visit.to(f"/automations/named/{shown.values['name'] or name}", said=_(SAVED))
        except (RefusedError, WrongStateError) as exc:
            trouble = _trouble(visit, exc)
    tongue = tongue_of(visit.words)
    more = [{**dict.fromkeys(STEP, ""), "unless_replied": "1"}] if len(shown.steps) < MOST_STEPS else []
    written = write.letters(visit.office, visit.directory.site())
    return visit.page(
        "automations/form.html",
        status=trouble.status,
        trouble=trouble,
        standing=standing,
        name=name,
        path=path,
        base=base,
        filled=shown,
        steps=[*shown.steps, *more],
        errors=trouble.errors,
        triggers=list(name_triggers(tongue).items()),
        letters=[(one.name, f"{one.subject} ({one.name})") for one in written],
        groups=_groups(visit),
        many_sites=len(visit.office.sites.active()) > 1 or shown.values["sites"] != "*",
        note=visit.form.get("note"),
    )


def edit_policy(visit: Visit) -> Response:
    standing = room.standing(visit.office, visit.holder)
    if not standing.editable:
        raise RefusedError(_why_not(visit, standing), 403)
    opened, _newest = _opened_and_newest(visit)
    policy = opened.get("policy", {})
    before = {key: str(policy.get(key, "")) for key in POLICY}
    before |= {"send": "1" if policy.get("send", True) else ""}
    before |= {"onboarding_without_consent": "1" if policy.get("onboarding_without_consent", False) else ""}
    _ = visit.words.gettext
    shown, base, trouble = before, standing.newest, _Trouble()
    if visit.request.method == "POST":
        shown = {key: visit.form.get(key).strip() for key in before}
        base = _base(visit)
        fields: dict[str, Any] = {key: shown[key] or None for key in POLICY if shown[key] != before[key]}
        for key in ("send", "onboarding_without_consent"):
            if shown[key] != before[key]:
                fields[key] = bool(shown[key])
        try:
            if fields:
                _save(visit, ChangePolicy(fields))
            return visit.to("/automations", said=_(SAVED) if fields else _("Nothing was changed."))
        except (RefusedError, WrongStateError) as exc:
            trouble = _trouble(visit, exc)
    own = visit.site in standing.automations.site_policies
    return visit.page(
        "automations/policy.html",
        status=trouble.status,
        trouble=trouble,
        filled=shown,
        errors=trouble.errors,
        base=base,
        own=own,
        note=visit.form.get("note"),
    )


def edit_text(visit: Visit) -> Response:
    """The whole text at once, for those who like it, and for what no form can say."""
    standing = room.standing(visit.office, visit.holder)
    row = room.text_of(visit.office, visit.holder)
    errors: list[dict[str, str]] = []
    text, base, trouble = row.text, row.number, _Trouble()
    if visit.request.method == "POST":
        text, base = visit.form.get("text"), _base(visit)
        if not text.endswith("\n"):
            text += "\n"
        try:
            if not standing.editable:
                raise RefusedError(_why_not(visit, standing), 403)
            _save_text(visit, text, base)
            return visit.to("/automations", said=visit.words.gettext(SAVED))
        except RefusedError as exc:
            trouble = _trouble(visit, exc)
            errors = exc.errors if trouble.status == 422 else []
        except WrongStateError as exc:
            trouble = _trouble(visit, exc)
            base = trouble.seen or base
    return visit.page(
        "automations/text.html",
        status=trouble.status,
        standing=standing,
        text=text,
        base=base,
        errors=errors,
        trouble=trouble,
        note=visit.form.get("note"),
    )


# History.


def show_history(visit: Visit) -> Response:
    standing = room.standing(visit.office, visit.holder)
    before = _number(visit.query.get("before", ""))
    rows = room.history(visit.office, visit.holder, limit=AT_ONCE + 1, before=before)
    more = len(rows) > AT_ONCE
    return visit.page(
        "automations/history.html",
        standing=standing,
        rows=rows[:AT_ONCE],
        next_url=visit.url("/automations/history", before=rows[AT_ONCE - 1].number) if more else "",
        first_url=visit.url("/automations/history") if before else "",
    )


def show_version(visit: Visit) -> Response:
    return _show_version(visit)


def _show_version(visit: Visit, gone: Sequence[str] = ()) -> Response:
    """One version beside another: the one before it, or the one that was asked for. `gone`: as NamesGoError has it."""
    standing = room.standing(visit.office, visit.holder)
    number = _number(visit.ids["number"]) or 0
    row = room.text_of(visit.office, visit.holder, number)
    beside = _number(visit.query.get("beside", "")) or number - 1
    lines = None
    if beside and beside != number:
        older, newer = sorted((beside, number))
        lines = room.compare(visit.office, visit.holder, older, newer)
    words = visit.words
    others = [
        (one.number, f"{words.number(one.number)} · {words.spell_time(one.created_at)}")
        for one in room.history(visit.office, visit.holder, limit=200)
        if one.number != number
    ]
    return visit.page(
        "automations/version.html",
        status=409 if gone else 200,
        gone=gone,
        standing=standing,
        row=row,
        beside=beside,
        lines=lines,
        other_choices=others,
    )


def go_back(visit: Visit) -> Response:
    number = _number(visit.ids["number"]) or 0
    names_go = visit.form.get("names_go") == "1"
    try:
        room.roll_back(visit.office, visit.holder, number, _base(visit), names_go=names_go)
    except room.NamesGoError as exc:
        return _show_version(visit, exc.names)
    told = visit.words.gettext("Version %(number)s counts again.", number=visit.words.number(number))
    return visit.to("/automations/history", said=told)


def export(visit: Visit) -> Response:
    return toml(room.text_of(visit.office, visit.holder).text)


# Small parts.


def _groups(visit: Visit) -> list[Group]:
    return sorted(visit.directory.groups().values(), key=lambda group: group.name.casefold())


def _group_names(visit: Visit) -> dict[str, str]:
    return {str(id_): group.name for id_, group in visit.directory.groups().items()}


def _added_up(counts: Mapping[str, Mapping[str, int]], flow: Sequence[Automation]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in flow:
        for state, number in counts.get(one.name, {}).items():
            found[state] = found.get(state, 0) + number
    return found


def _is_here(one: Automation, visit: Visit, groups: Any) -> bool:
    """Whether it can apply on this site at all; while no group is known, it is taken to."""
    known = list(groups)
    if not known or not one.enabled:
        return True
    anywhere = Automations(automations=(replace(one, groups=("*",)),))
    if not any(applicable(anywhere, on, visit.site, known[0]) for on in one.on):
        return False
    return any(group_fits(pattern, group) for pattern in one.groups for group in known)


def _sees_text(visit: Visit) -> bool:
    try:
        room.text_of(visit.office, visit.holder)
    except RefusedError:
        return False
    return True


def _why_not(visit: Visit, standing: room.Standing) -> str:
    return visit.words.gettext(room.LOCKED if standing.locked else room.SHARED)


def _by_field(exc: RefusedError) -> dict[str, str]:
    """Of one automation's form: what is wrong with which field; "" for the whole."""
    found: dict[str, str] = {}
    for error in exc.errors:
        key = error["field"].rpartition(".")[2]
        if error["field"].startswith("automation.then"):
            key = "then"
        elif error["field"] in ("automation", "policy", "text"):
            key = ""
        elif error["field"] == "automation.answers":
            key = "any"
        what = error["detail"].partition(": ")[2] or error["detail"]
        what = what.replace(" in quotes", "").replace(" in [brackets]", "")
        found[key] = f"{found[key]}; {what}" if key in found else what
    return found


def _kind(visit: Visit) -> Kind:
    kinds: dict[str, Kind] = {"automation": "automation", "report": "report", "follow": "follow"}
    found = kinds.get(visit.form.get("kind"))
    if found is None:
        raise RefusedError("This is neither an automation nor a report nor a group that is followed.", 422)
    return found


def _base(visit: Visit) -> int:
    found = _number(visit.form.get("base"))
    if found is None:
        raise RefusedError("The form does not say which version it changes.", 422)
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _seen(text: str) -> tuple[datetime, str] | None:
    at, _, id_ = text.partition(" ")
    try:
        return (datetime.fromisoformat(at).astimezone(UTC), id_[:32]) if id_ else None
    except (ValueError, OverflowError):
        return None


def _lines(text: str) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))


def _both(path: str, act: Callable[[Visit], Response], form_bytes: int | None = None) -> tuple[Page, Page]:
    get = Page("GET", path, act, MANAGERS)
    return get, Page("POST", path, act, MANAGERS, **({"form_bytes": form_bytes} if form_bytes else {}))


ONE = "/automations/named/{name}"

PAGES: tuple[Page, ...] = (
    Page("GET", "/automations", show_list, READERS),
    *_both("/automations/new", new_one),
    *_both("/automations/policy", edit_policy),
    Page("GET", "/automations/text", edit_text, READERS),
    Page("POST", "/automations/text", edit_text, MANAGERS, form_bytes=TEXT_BYTES),
    Page("GET", "/automations/export", export, READERS),
    Page("GET", "/automations/history", show_history, READERS),
    Page("GET", "/automations/history/{number}", show_version, READERS),
    Page("POST", "/automations/history/{number}/back", go_back, MANAGERS),
    Page("POST", "/automations/switch", switch, MANAGERS),
    Page("GET", "/automations/letter/{letter}", show_letter, READERS),
    Page("GET", ONE, show_one, READERS),
    Page("GET", f"{ONE}/flow", show_flow, READERS),
    Page("GET", f"{ONE}/try", show_one, READERS),
    Page("POST", f"{ONE}/try", try_one, READERS),
    *_both(f"{ONE}/edit", edit_one),
    Page("POST", f"{ONE}/move", move, MANAGERS),
    Page("POST", f"{ONE}/remove", remove, MANAGERS),
)
