"""Which members of a site a list of people means. Pure: what Wix knows of them is handed in.

In a group nobody should be who was not meant, so that whatever leaves a doubt is given back with a reason
instead of being guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.community import MemberId, Person
from core.matching import fold

_MOST_CANDIDATES = 10
_MOST_SPLITS = 5  # of a name into first and last; each is one more name to ask Wix for


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a list; what is "" was not given, and at least one is. `row` counts from 1.

    `email` is in lower case, `phone` in E.164, `name` is "first last" or a nickname.
    """

    row: int
    contact: str = ""
    email: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    name: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Questions:
    """What `find_people` of core.ports.WixPort is to be asked for, each once."""

    contacts: tuple[str, ...]
    emails: tuple[str, ...] = field(repr=False)
    phones: tuple[str, ...] = field(repr=False)
    names: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of those whom a row may mean. `member` "": without an account. `address` is masked, "" when there is none.
    `since` tells namesakes apart: how long Wix has known the member."""

    member: str
    contact: str
    address: str = field(repr=False)
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row came to: a `member`, or a `reason` why not, which is the rest of a sentence about whom it names."""

    row: int
    member: MemberId | None = None
    how: str = ""
    """ "by address": which of what was given decided."""
    reason: str = ""
    candidates: tuple[Candidate, ...] = ()
    private: bool | None = None
    """True: whoever adds them only invites them. None: Wix does not say."""


def numbered(people: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """The people of a job's parameters, each with its row: the line it came from if all say so, each another one, else
    its place."""
    lines = [person.get("row") for person in people]
    by_line = None not in lines and len(set(lines)) == len(lines)
    return [
        (line if by_line and line else place, person)
        for place, (line, person) in enumerate(zip(lines, people, strict=True), start=1)
    ]


def questions(rows: Sequence[Listed], people: Sequence[Person] = ()) -> Questions:
    """Everything that the rows give.

    With the `people` found so far by all else, `names` are only those that still can change an outcome: names
    cost most to look for. Each is asked for in every way to part it into first and last, and as a nickname.
    """
    crowd = _Crowd(people)
    names = (name for row in rows if row.name and crowd.waits_for_name(row) for name in _partings(row.name))
    return Questions(
        contacts=_once(row.contact for row in rows),
        emails=_once(row.email.lower() for row in rows),
        phones=_once(row.phone for row in rows),
        names=tuple(dict.fromkeys(names)),
    )


def resolve(
    rows: Sequence[Listed], people: Sequence[Person], taken: Mapping[MemberId, int] | None = None
) -> list[Outcome]:
    """One outcome for each row, in their order. Contact id, address, phone and name are tried in this order: the first
    that anybody answers to decides, and none of the others may speak for somebody else.

    `taken` are members whom earlier rows chose, and which row it was.
    """
    crowd = _Crowd(people)
    chosen = dict(taken or {})
    outcomes = []
    for row in rows:
        outcome = crowd.outcome(row)
        if outcome.member in chosen:
            outcome = Outcome(row.row, reason=f"is the same person as row {chosen[outcome.member]}")
        elif outcome.member is not None:
            chosen[outcome.member] = row.row
        outcomes.append(outcome)
    return outcomes


class _Crowd:
    """People by everything they answer to, each under one key however often they were found."""

    def __init__(self, people: Iterable[Person]) -> None:
        people = tuple(people)
        accounts = {person.contact: person.member.id for person in people if person.member and person.contact}
        self._people: dict[str, Person] = {}
        self._contacts, self._logins, self._emails, self._phones, self._names = (
            defaultdict[str, dict[str, None]](dict) for _ in range(5)
        )
        for person in sorted(people, key=lambda person: person.member is None):
            member = person.member
            account = member.id if member else accounts.get(person.contact)
            key = f"member {account}" if account else f"contact {person.contact}"
            self._people.setdefault(key, person)
            self._contacts[person.contact.lower()][key] = None
            if member:
                self._logins[member.email.lower()][key] = None
            for email in person.emails:
                self._emails[email.lower()][key] = None
            for phone in person.phones:
                self._phones[phone][key] = None
            for name in _names(person):
                self._names[fold(name)][key] = None

    def outcome(self, row: Listed) -> Outcome:
        """As if it were the only row."""
        answers = self._answers(row)
        if not answers:
            return Outcome(row.row, reason=f"nobody on the site has {_given(row)}")
        (how, found), *others = answers
        if len(found) > 1:
            return self._doubt(row, found, f"{len(found)} people have this {how}")
        (key,) = found
        if against := [(other, keys) for other, keys in others if key not in keys]:
            pointed = {key: None} | {each: None for _, keys in against for each in keys}
            others_said = " and the ".join(other for other, _ in against)
            return self._doubt(row, pointed, f"the {how} and the {others_said} belong to different people")
        member = self._people[key].member
        if member is None:
            reason = "is a contact without an account on the site, so no group can take them"
            return Outcome(row.row, reason=reason)
        if member.status == "BLOCKED":
            return Outcome(row.row, reason="is blocked on the site")
        return Outcome(row.row, member.id, f"by {how}", private=member.private)

    def waits_for_name(self, row: Listed) -> bool:
        """Whether it matters who else bears the name."""
        answers = self._answers(row)
        if not answers or answers[0][0] == "name":
            return True
        found, named = answers[0][1], answers[-1][1]
        return len(found) == 1 and (answers[-1][0] != "name" or not found.keys() <= named.keys())

    def _answers(self, row: Listed) -> list[tuple[str, dict[str, None]]]:
        """What of the row anybody answers to, in the order in which it decides, and the keys of who does."""
        email = row.email.lower()
        found: list[tuple[str, dict[str, None] | None]] = [
            ("contact id", self._contacts.get(row.contact.lower()) if row.contact else None),
            ("address", (self._logins.get(email) or self._emails.get(email)) if email else None),
            ("phone", self._phones.get(row.phone) if row.phone else None),
            ("name", self._named(row.name) if fold(row.name).strip() else None),
        ]
        return [(how, keys) for how, keys in found if keys]

    def _named(self, name: str) -> dict[str, None]:
        """Of namesakes those with an account, if there are any: a site has many contacts that nobody will list."""
        keys = self._names.get(fold(name), {})
        return {key: None for key in keys if self._people[key].member} or keys

    def _doubt(self, row: Listed, keys: Iterable[str], reason: str) -> Outcome:
        candidates = [_candidate(self._people[key]) for key in keys]
        return Outcome(row.row, reason=reason, candidates=tuple(candidates[:_MOST_CANDIDATES]))


def _names(person: Person) -> Iterator[str]:
    yield f"{person.first_name} {person.last_name}"
    if person.member:
        yield f"{person.member.first_name} {person.member.last_name}"
        yield person.member.nickname


def mask_address(address: str) -> str:
    """Enough to tell namesakes apart, and too little to write to; "" for none."""
    local, at, domain = address.lower().rpartition("@")
    return f"{local[:1]}…@{domain}" if at else ""


def _candidate(person: Person) -> Candidate:
    address = (person.member.email if person.member else "") or min(person.emails, default="")
    return Candidate(
        person.member.id if person.member else "",
        person.contact,
        mask_address(address),
        person.member.since if person.member else None,
    )


def _given(row: Listed) -> str:
    """ "this address or this name"."""
    given = [("contact id", row.contact), ("address", row.email), ("phone", row.phone), ("name", row.name)]
    return " or ".join(f"this {what}" for what, value in given if value) or "nothing to be found by"


def _partings(name: str) -> Iterator[tuple[str, str]]:
    words = name.split()
    for place in range(1, min(len(words), _MOST_SPLITS + 1)):
        yield " ".join(words[:place]), " ".join(words[place:])
    yield " ".join(words), ""


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
