"""The automations: what they say, what became of their letters, and editing them version by version.

They are one text for all sites, so whoever changes them has to be trusted with all sites that there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from admin.office import MANAGERS, READERS, Office
from admin.office.refusals import MOST_ERRORS, RefusedError, wrong_fields
from admin.office.words import N_
from core.automations import (
    TRIGGERS,
    WITH_ANSWERS,
    Automation,
    Automations,
    Outcome,
    parse_automations,
    plan,
)
from core.community import Answer, Group, SiteId
from core.edits import Edit, apply_edits
from core.errors import ConfigError, NotThereError, WrongStateError
from core.toml_lines import LONGEST_TEXT, find_excess
from integrations.store.book import EDIT, LONGEST_NOTE, ROLLBACK
from integrations.store.flows import Flows
from integrations.store.tokens import Holder

SHARED = N_(
    "The automations are shared by all sites of this Usher; only who manages all of them may do this."
)
LOCKED = N_("Editing is locked here: the file of this installation alone counts (AUTOMATIONS_LOCKED).")
MEANWHILE = N_(
    "Somebody else changed the automations meanwhile. Nothing was saved: look at them as they are now, and make your"
    " change once more."
)
_PROBLEM = re.compile(r"[^\n]*?:(?P<line>\d+): (?P<field>[^:]+): (?P<what>.*)")
_GOT = re.compile(r" \(got .*\)$")


class NamesGoError(RefusedError):
    """`names` have letters and would be gone, while others come: a new name would let these letters go once more."""

    def __init__(self, names: Sequence[str]) -> None:
        detail = (
            f"would be gone, and have letters: {', '.join(names)}; under another name those can go once more"
        )
        errors = [{"field": "names_go", "detail": detail}]
        super().__init__("names that have letters would be gone; nothing was saved", 409, errors)
        self.names = tuple(names)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the automations stand. `number` is the version that counts, `newest` the one an edit is made upon."""

    number: int
    newest: int
    automations: Automations
    locked: bool
    trouble: str
    """Why the newest version is not the one that counts; "" when it is."""
    editable: bool
    """By this holder, now."""


@dataclass(frozen=True, slots=True)
class Line:
    """Of a difference: `sign` is "+", "-", " ", or "…" for what was left out."""

    sign: str
    text: str = field(repr=False)


def standing(office: Office, holder: Holder) -> Standing:
    """Raises RefusedError."""
    _require(holder.role in READERS, "Your role does not see the automations.")
    newest = office.book.newest().number
    editable = not office.book.locked and may_edit(office, holder)
    return Standing(
        office.book.number(),
        newest,
        office.automations(),
        office.book.locked,
        office.book.trouble(),
        editable,
    )


def may_edit(office: Office, holder: Holder) -> bool:
    """Apart from AUTOMATIONS_LOCKED."""
    return holder.role in MANAGERS and _sees_all(office, holder)


def text_of(office: Office, holder: Holder, number: int | None = None) -> sa.Row[Any]:
    """A version with its whole text, the newest by default. Raises RefusedError, NotThereError."""
    _require(holder.role in READERS and _sees_all(office, holder), SHARED)
    return office.book.newest() if number is None else office.book.get(number)


def history(
    office: Office, holder: Holder, *, limit: int = 50, before: int | None = None
) -> list[sa.Row[Any]]:
    """Versions without their texts, newest first. Raises RefusedError."""
    _require(holder.role in READERS and _sees_all(office, holder), SHARED)
    return office.book.page(limit=limit, before=before)


def edited(office: Office, holder: Holder, base: int, edits: Sequence[Edit]) -> tuple[str, Automations]:
    """The text as it would be, and what it says. Nothing is saved.

    Raises RefusedError naming each field that is wrong, NotThereError, and WrongStateError when `base` is not the
    newest version any more.
    """
    row = text_of(office, holder)
    if row.number != base:
        raise WrongStateError(MEANWHILE)
    _guard(row.text)
    try:
        if (
            len(str([getattr(edit, "fields", None) for edit in edits])) > 2 * LONGEST_TEXT
        ):  # with all that surrounds their values
            raise wrong_fields("the edit", ("edits", f"are longer than {LONGEST_TEXT // 1024} KB"))
        text = apply_edits(row.text, edits)
    except (ValueError, RecursionError) as exc:
        raise RefusedError("a value is none that a TOML file can hold", 422) from exc
    return text, parsed(office, text)


def parsed(office: Office, text: str) -> Automations:
    """Raises RefusedError naming each field that is wrong."""
    _guard(text)
    try:
        return office.book.parse(text)
    except ConfigError as exc:
        raise refused(exc) from exc


def _guard(text: str) -> None:
    if excess := find_excess(text):
        raise wrong_fields("the text of the automations", ("text", excess))


def save(
    office: Office, holder: Holder, text: str, base: int, note: str = "", *, names_go: bool = False
) -> sa.Row[Any]:
    """Have this text count from now on; its version. `names_go`: names that have letters may be gone while others come.

    Raises RefusedError, NamesGoError, WrongStateError.
    """
    if len(note) > LONGEST_NOTE:
        raise wrong_fields("the note", ("note", f"must be at most {LONGEST_NOTE} characters"))
    return _add(office, holder, text, base, EDIT, " ".join(note.split()), names_go)


def roll_back(
    office: Office, holder: Holder, number: int, base: int, *, names_go: bool = False
) -> sa.Row[Any]:
    """Have the text of an earlier version count again. Raises as `save`, and NotThereError."""
    text = text_of(office, holder, number).text
    return _add(office, holder, text, base, ROLLBACK, f"version {number}", names_go)


def _add(
    office: Office, holder: Holder, text: str, base: int, source: str, note: str, names_go: bool
) -> sa.Row[Any]:
    _require(may_edit(office, holder), SHARED)
    if office.book.locked:
        raise WrongStateError(LOCKED)
    after = parsed(office, text)
    before = office.book.newest()
    if before.number == base and not names_go:  # else it is refused for that
        _require_names(office, before.text, after)
    try:
        return office.book.add(text, base=base, who=holder.who, source=source, note=note)
    except WrongStateError as exc:
        raise WrongStateError(MEANWHILE) from exc


def _require_names(office: Office, text: str, after: Automations) -> None:
    """A name is part of what makes a letter go once. Raises NamesGoError."""
    try:
        before = parse_automations(text)
    except ConfigError:
        before = office.automations()
    there, to_be = ({one.name for one in of.automations} for of in (before, after))
    if not (there - to_be and to_be - there):
        return
    if names := office.ledger.named_by(there - to_be):
        raise NamesGoError(names)


def compare(office: Office, holder: Holder, older: int, newer: int, around: int = 3) -> list[Line]:
    """What is different between two versions, with some lines around. Raises RefusedError, NotThereError."""
    before, after = (text_of(office, holder, number).text for number in (older, newer))
    return difference(before, after, around)


def difference(before: str, after: str, around: int = 3) -> list[Line]:
    lines: list[Line] = []
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=around)
    for line in list(found)[2:]:  # after the names of two files
        if not line.startswith("@@"):
            lines.append(Line(line[:1], line[1:]))
        elif lines or not line.startswith("@@ -1,"):
            lines.append(Line("…", ""))
    return lines


def counts(office: Office, holder: Holder, site: SiteId) -> Mapping[str, Mapping[str, int]]:
    """As Flows.counts, within the holder's reach."""
    return office.flows.counts(site, holder.reach)


def waiting(
    office: Office,
    holder: Holder,
    site: SiteId,
    automation: Automation,
    *,
    limit: int = 50,
    after: tuple[datetime, str] | None = None,
) -> list[sa.Row[Any]]:
    """Letters of this automation and its steps that wait, the next one first."""
    names = [one.name for one in office.automations().flow_of(automation)]
    return Flows(office.database).waiting(site, names, reach=holder.reach, limit=limit, after=after)


def try_out(
    automations: Automations, site: SiteId, group: Group, trigger: str, answers: Sequence[Answer]
) -> tuple[Outcome, ...]:
    """What would come of it if this happened now, without the steps that follow. Raises RefusedError."""
    if trigger not in TRIGGERS.values():
        raise wrong_fields("the form", ("on", f"is none of {', '.join(dict.fromkeys(TRIGGERS.values()))}"))
    given = answers if trigger in WITH_ANSWERS else None
    return tuple(one for one in plan(automations, trigger, site, group, given) if not one.automation.is_step)


def named(automations: Automations, name: str) -> Automation:
    """Raises NotThereError."""
    found = automations.named(name)
    if found is None or found.is_step:
        raise NotThereError("There is no automation of this name any more.")
    return found


def refused(exc: ConfigError) -> RefusedError:
    """Fields are named as in the file, such as "automation.answers.any". Values are left out."""
    errors = []
    for problem in exc.problems:
        found = _PROBLEM.fullmatch(_GOT.sub("", problem))
        field_, what = (
            (found["field"], f"line {found['line']}: {found['what']}") if found else ("text", problem)
        )
        errors.append((field_, what))
    named = [{"field": name, "detail": what} for name, what in errors[:MOST_ERRORS]]
    return RefusedError("the automations would have mistakes; nothing was saved", 422, named)


def _sees_all(office: Office, holder: Holder) -> bool:
    """Whether all sites there are lie within their reach. One that removed the app may be back tomorrow."""
    reach = holder.reach
    return reach.groups is None and (reach.sites is None or set(office.sites.all()) <= reach.sites)


def _require(allowed: bool, why: str) -> None:
    if not allowed:
        raise RefusedError(why, 403)
