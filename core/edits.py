"""Edits of the automations' text that leave the rest of it as its writers wrote it: comments, order, spelling.

What is free to stand between two tables stays where it is; a comment directly above or below a table goes with it.
A text is edited table by table, each parsed alone, because TOML's own readers count a comment above a table to the
one before it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import tomlkit
from tomlkit.items import AoT, Array, Table

from core.errors import NotThereError, WrongStateError
from core.toml_lines import Path, find_excess, find_headers

Kind = Literal["automation", "report", "follow"]


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of one table: its keys with their values as in TOML, None takes a key away. What is not named stays."""

    name: str
    fields: Mapping[str, Any] = field(repr=False)
    kind: Kind = "automation"


@dataclass(frozen=True, slots=True)
class Add:
    """A new table, after the last of its kind."""

    fields: Mapping[str, Any] = field(repr=False)
    kind: Kind = "automation"


@dataclass(frozen=True, slots=True)
class Remove:
    name: str
    kind: Kind = "automation"


@dataclass(frozen=True, slots=True)
class Move:
    """`by` -1 is one place up, towards the beginning."""

    name: str
    by: int
    kind: Kind = "automation"


@dataclass(frozen=True, slots=True)
class ChangePolicy:
    """As Change, of `[policy]`, or of the table of one site."""

    fields: Mapping[str, Any]
    site: str = ""


Edit = Change | Add | Remove | Move | ChangePolicy

MOST_KEPT = 500
"""Elements of a list whose comments are kept; a longer one is written anew, which takes no quadratic time."""

ELSEWHERE = "this text is arranged in a way that only the editor of the whole text can change"


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text with each of these done, one after the other. `text` is one that parse_automations takes; whether the
    outcome is, has to be asked of it.

    Raises NotThereError for a name that is not there, WrongStateError for a text that is arranged too oddly, ValueError
    for a value that TOML has no words for, or that makes the text one that find_excess has a word about.
    """
    sheet = _Sheet.read(text)
    for edit in edits:
        text = _apply(sheet, edit).text
        sheet = replace(_Sheet.read(text), known=sheet.known)
    if excess := find_excess(text):
        raise ValueError(f"the text {excess}")
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:  # a policy of dotted keys, say, was given a table too
        raise WrongStateError(ELSEWHERE) from exc
    return text


def _apply(sheet: _Sheet, edit: Edit) -> _Sheet:
    match edit:
        case Change():
            place = sheet.find(edit.kind, edit.name)
            return sheet.with_table(place, _changed(sheet.tables[place].text, (edit.kind, 0), edit.fields))
        case Add():
            table = tomlkit.table()
            _set(table, edit.fields)
            array = tomlkit.aot()
            array.append(table)
            document = tomlkit.document()
            document.append(edit.kind, array)
            return sheet.with_new(edit.kind, tomlkit.dumps(document).strip("\n") + "\n")
        case Remove():
            return sheet.without(sheet.find(edit.kind, edit.name))
        case Move():
            return sheet.moved(sheet.find(edit.kind, edit.name), edit.by)
    path: tuple[str | int, ...] = ("policy", "site", edit.site) if edit.site else ("policy",)
    found = [place for place, table in enumerate(sheet.tables) if table.paths[0] == path]
    if found:
        return sheet.with_table(found[0], _changed(sheet.tables[found[0]].text, path, edit.fields))
    header = f"[policy.site.{_quoted(edit.site)}]\n" if edit.site else "[policy]\n"
    return sheet.with_policy(path, _changed(header, path, edit.fields))


@dataclass(frozen=True, slots=True)
class _Block:
    """One table with those below it, and the comments that cling to it. `gap` is what stands free before it."""

    paths: tuple[Path, ...]
    gap: str
    text: str

    def is_of(self, kind: str) -> bool:
        return self.paths[0][:1] == (kind,)


@dataclass(frozen=True, slots=True)
class _Sheet:
    tables: tuple[_Block, ...]
    rest: str
    """What follows the last table."""
    known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Text of a table -> its name, of those that were read once: a list of edits asks for many."""

    @property
    def text(self) -> str:
        return "".join(table.gap + table.text for table in self.tables) + self.rest

    @classmethod
    def read(cls, text: str) -> _Sheet:
        lines = [line + "\n" for line in text.split("\n")]
        lines[-1] = lines[-1].removesuffix("\n")
        starts: list[tuple[list[Path], int]] = []
        for path, line in find_headers(text):
            if starts and _belongs(path, starts[-1][0][0]):
                starts[-1][0].append(path)
            else:
                starts.append(([path], line - 1))
        tables, end = [], 0
        for number, (paths, header) in enumerate(starts):
            following = starts[number + 1][1] if number + 1 < len(starts) else len(lines)
            begin = header
            while begin > end and _is_comment(lines[begin - 1]):
                begin -= 1
            stop = following
            while stop > header + 1 and _is_free(lines[stop - 1]):
                stop -= 1
            above = following
            while above > stop and number + 1 < len(starts) and _is_comment(lines[above - 1]):
                above -= 1
            while stop < above and _is_comment(lines[stop]):
                stop += 1
            tables.append(_Block(tuple(paths), "".join(lines[end:begin]), "".join(lines[begin:stop])))
            end = stop
        return cls(tuple(tables), "".join(lines[end:]))

    def find(self, kind: Kind, name: str) -> int:
        for place in self._places(kind):
            text = self.tables[place].text
            if text not in self.known:
                [values] = tomllib.loads(text)[kind]
                self.known[text] = values.get("name", values.get("rules_of" if kind == "follow" else "name"))
            if self.known[text] == name:
                return place
        if kind in tomllib.loads(self.text) and not self._places(kind):  # a list without tables of its own
            raise WrongStateError(ELSEWHERE)
        raise NotThereError(f"there is no {kind} of this name")

    def _places(self, kind: str) -> list[int]:
        found = [place for place, table in enumerate(self.tables) if table.is_of(kind)]
        if any(len(self.tables[place].paths[0]) != 2 for place in found):  # a part of one stands away from it
            raise WrongStateError(ELSEWHERE)
        return found

    def with_table(self, place: int, text: str) -> _Sheet:
        changed = replace(self.tables[place], text=text)
        return replace(self, tables=(*self.tables[:place], changed, *self.tables[place + 1 :]))

    def with_new(self, kind: Kind, text: str) -> _Sheet:
        last = max(self._places(kind), default=None)
        if last is None:
            rest = self.rest and self.rest.rstrip("\n") + "\n\n"
            if not rest and self.tables:
                rest = "\n" if self.text.endswith("\n") else "\n\n"
            return replace(self, rest=rest + text)
        before = "\n" if self.tables[last].text.endswith("\n") else "\n\n"
        new = _Block(((kind, 0),), before, text)
        return replace(self, tables=(*self.tables[: last + 1], new, *self.tables[last + 1 :]))

    def with_policy(self, path: Path, text: str) -> _Sheet:
        """After what there is of the policy, else before every table."""
        last = max((place for place, table in enumerate(self.tables) if table.is_of("policy")), default=-1)
        if last >= 0:
            before = "\n" if self.tables[last].text.endswith("\n") else "\n\n"
            new = _Block((path,), before, text)
            return replace(self, tables=(*self.tables[: last + 1], new, *self.tables[last + 1 :]))
        if not self.tables:
            rest = self.rest and self.rest.rstrip("\n") + "\n\n"
            return replace(self, rest=rest + text)
        first = self.tables[0]
        new = _Block((path,), first.gap, text)
        return replace(self, tables=(new, replace(first, gap="\n"), *self.tables[1:]))

    def without(self, place: int) -> _Sheet:
        gap = self.tables[place].gap
        after = self.tables[place + 1 :]
        if after:
            joined = _join(gap, after[0].gap)
            return replace(self, tables=(*self.tables[:place], replace(after[0], gap=joined), *after[1:]))
        return replace(self, tables=self.tables[:place], rest=_join(gap, self.rest))

    def moved(self, place: int, by: int) -> _Sheet:
        """Past the next ones of its kind; the gaps stay where they are."""
        places = self._places(str(self.tables[place].paths[0][0]))
        at = places.index(place)
        to = min(max(at + by, 0), len(places) - 1)
        order = places.copy()
        order.insert(to, order.pop(at))
        tables = list(self.tables)
        for number, source in zip(places, order, strict=True):
            text = self.tables[source].text
            if number + 1 < len(tables) or self.rest:
                text = text if text.endswith("\n") else text + "\n"
            tables[number] = replace(self.tables[source], gap=self.tables[number].gap, text=text)
        return replace(self, tables=tuple(tables))


def _belongs(path: Path, first: Path) -> bool:
    """Whether this header is of a table below `first`. A site's policy stands for itself."""
    return len(path) > len(first) and path[: len(first)] == first and first[0] != "policy"


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _is_free(line: str) -> bool:
    return not line.strip() or _is_comment(line)


def _join(before: str, after: str) -> str:
    """Two gaps, where what stood between them is gone: with one empty line between what they say."""
    if not before.strip() or not after.strip():
        return before if before.strip() else after or before
    return before.rstrip("\n") + "\n\n" + after.lstrip("\n")


def _quoted(key: str) -> str:
    return tomlkit.string(key).as_string()


def _changed(text: str, path: Path, fields: Mapping[str, Any]) -> str:
    """One block of a sheet with these fields of its table set."""
    document = tomlkit.parse(text)
    table: Any = document
    for step in path:
        table = table[step]
    is_new_switch = fields.get("enabled") is not None and "enabled" not in table
    _set(table, {key: value for key, value in fields.items() if key != "enabled" or not is_new_switch})
    text = tomlkit.dumps(document)
    if not is_new_switch:
        return text
    # Where nobody overlooks it, and no comment on the line above goes on below it.
    [(_, header), *_] = find_headers(text)
    lines = text.split("\n")
    lines.insert(header, f"enabled = {str(fields['enabled']).lower()}")
    return "\n".join(lines)


def _set(table: Any, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if value is None:
            if key in table:
                del table[key]
        elif key not in table:
            table[key] = _item(value)
        elif table[key] != value:
            _replace(table, key, value)


def _replace(table: Any, key: str, value: Any) -> None:
    known = table[key]
    if isinstance(known, Table) and isinstance(value, Mapping):
        _set(known, {old: None for old in known if old not in value} | dict(value))
    elif isinstance(known, AoT) and _is_tables(value):
        _replace_tables(known, value)
    elif not (isinstance(known, Array) and isinstance(value, list) and _replace_some(known, value)):
        table[key] = _item(value)


def _replace_tables(known: AoT, values: Sequence[Mapping[str, Any]]) -> None:
    """Steps of the same name keep their comments."""
    by_name = {str(table.get("name")): table for table in known}
    if [str(value.get("name")) for value in values] != list(by_name):
        while len(known):
            del known[0]
        for value in values:
            table = by_name.get(str(value.get("name")), tomlkit.table())
            known.append(table)
    for table, value in zip(known, values, strict=True):
        _set(table, {old: None for old in table if old not in value} | dict(value))


def _replace_some(known: Array, values: list[Any]) -> bool:
    """Take out and add at the end, so that comments within the list stay. False: it cannot be said like that."""
    if max(len(known), len(values)) > MOST_KEPT:
        return False
    kept = [value for value in known.unwrap() if value in values]
    if values[: len(kept)] != kept or len(set(map(str, known))) != len(known):
        return False
    for value in [value for value in known.unwrap() if value not in values]:
        known.remove(value)
    for value in values[len(kept) :]:
        known.append(value)
    return True


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _item(value: Any) -> Any:
    if isinstance(value, Mapping):
        table = tomlkit.table()
        _set(table, value)
        return table
    if value and _is_tables(value):
        array = tomlkit.aot()
        for inner in value:
            array.append(_item(inner))
        return array
    if isinstance(value, str) and "\n" in value:
        return tomlkit.string(value, multiline=True)
    return tomlkit.item(value)
