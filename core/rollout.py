"""Rules or questions of a group as they are, against how they are to be: what changes, for people to read. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from core.community import Question, Rule

Entry = Rule | Question


@dataclass(frozen=True, slots=True)
class Diff:
    """How many entries come, go, read otherwise (or are required otherwise) and change their place. Falsy when all
    stays as it is."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    moved: int = 0
    clears: bool = False
    """There were some, and none is left."""
    lines: tuple[str, ...] = ()
    """One for each of them, in the order to be, then those that go: `+` added, `~` changed, `>` moved, `-` removed."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.moved)

    def __str__(self) -> str:
        if self.clears:
            return f"REMOVES ALL: {self.removed} now, none after"
        counts = {"adds": self.added, "removes": self.removed, "changes": self.changed, "moves": self.moved}
        return ", ".join(f"{does} {count}" for does, count in counts.items() if count) or "changes nothing"


def same(before: Sequence[Entry], after: Sequence[Entry]) -> bool:
    """Whether both say the same in the same order. Spaces around a text and the kind of its line ends do not count:
    Wix may change them on its own."""
    return [_tidy(entry) for entry in before] == [_tidy(entry) for entry in after]


def diff(before: Sequence[Entry], after: Sequence[Entry]) -> Diff:
    """A rule is known by its title, a question by its text; under another one it is another."""
    old, new = [_tidy(entry) for entry in before], [_tidy(entry) for entry in after]
    pairs = _pairs(old, new)
    order = [pairs[place] for place in sorted(pairs)]
    steady = {
        order[block.b + step]
        for block in SequenceMatcher(None, sorted(order), order, autojunk=False).get_matching_blocks()
        for step in range(block.size)
    }
    lines = []
    changed = moved = 0
    for place, entry in enumerate(new):
        if place not in pairs:
            lines.append(f"+ {_whole(entry)}")
            continue
        was = old[pairs[place]]
        if was != entry:
            changed += 1
            lines.append(f"~ {_name(entry)}: {_rest(was) or 'nothing'} → {_rest(entry) or 'nothing'}")
        if pairs[place] not in steady:
            moved += 1
            if was == entry:
                lines.append(f"> {_name(entry)}")
    gone = [entry for place, entry in enumerate(old) if place not in pairs.values()]
    lines += [f"- {_whole(entry)}" for entry in gone]
    return Diff(
        added=len(new) - len(pairs),
        removed=len(gone),
        changed=changed,
        moved=moved,
        clears=bool(old) and not new,
        lines=tuple(" ".join(line.split()) for line in lines),
    )


def alike(diffs: Iterable[tuple[str, Diff]]) -> list[tuple[Diff, list[str]]]:
    """Groups in which the same would change stand together: each diff once, with the names it was given with."""
    found: dict[Diff, list[str]] = {}
    for name, each in diffs:
        found.setdefault(each, []).append(name)
    return list(found.items())


def _pairs(old: Sequence[Entry], new: Sequence[Entry]) -> Mapping[int, int]:
    """Place in `new` -> place in `old` of the same entry: letter for letter where that can be, else by its name."""
    pairs: dict[int, int] = {}
    keys: tuple[Callable[[Entry], Hashable], ...] = (lambda entry: entry, _name)
    for key in keys:
        free: defaultdict[Hashable, deque[int]] = defaultdict(deque)
        for place, entry in enumerate(old):
            if place not in pairs.values():
                free[key(entry)].append(place)
        for place, entry in enumerate(new):
            if place not in pairs and free[key(entry)]:
                pairs[place] = free[key(entry)].popleft()
    return pairs


def _tidy(entry: Entry) -> Entry:
    if isinstance(entry, Rule):
        return Rule(_tidy_text(entry.title), _tidy_text(entry.description))
    return replace(entry, text=_tidy_text(entry.text))


def _tidy_text(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _name(entry: Entry) -> str:
    return entry.title if isinstance(entry, Rule) else entry.text


def _rest(entry: Entry) -> str:
    if isinstance(entry, Rule):
        return entry.description
    return "required" if entry.required else "optional"


def _whole(entry: Entry) -> str:
    if isinstance(entry, Rule):
        return f"{entry.title}: {entry.description}" if entry.description else entry.title
    return f"{entry.text} ({_rest(entry)})"
