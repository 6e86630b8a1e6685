"""The automations and how they came to be: every version is a whole text, and the newest one counts.

A version comes from the file that a process was started with, from an edit, or from going back to an earlier one.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from core.automations import Automation, Automations, parse_automations
from core.community import SiteId
from core.consent import Policy
from core.errors import ConfigError, JournalUnavailableError, NotThereError, WrongStateError
from integrations.store.audit import note as note_down
from integrations.store.database import Database, Transaction
from integrations.store.tables import automation_versions as versions

log = logging.getLogger(__name__)

FILE, EDIT, ROLLBACK = "file", "edit", "rollback"
LOOK_EVERY_S = 1.0
MOST_TRIED = 50
"""So many versions are tried until one can be used."""
LONGEST_NOTE = 500
_LOCK = 0x626F6F6B  # "book"


@dataclass(frozen=True, slots=True)
class File:
    """The file of this process, as it was when it was read. It can be used: whoever starts a process checked it."""

    text: str = field(repr=False)
    read_at: datetime | None
    """None: by somebody who only looks, and does not take it in."""
    name: str = "automations.toml"
    locked: bool = False
    """It alone counts, and nothing can be edited."""

    def only_to_look(self) -> File:
        """For a command, which is no start of Usher: a file that was changed meanwhile waits for that."""
        return replace(self, read_at=None)


@dataclass(frozen=True, slots=True)
class _Known:
    automations: Automations
    newest: int = 0
    """Number of the newest version that was seen; 0: none yet."""
    used: int = 0
    """Number of the version that `automations` are of; 0: the file of this process."""
    trouble: str = ""


class Book:
    """One for a process; safe for threads. `now` counts seconds from anywhere."""

    def __init__(
        self,
        database: Database,
        file: File,
        templates: Collection[str] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._file = file
        self._templates = templates
        self._now = now
        self._lock = threading.Lock()
        self._look_at = float("-inf")
        self._looks = 0
        self._has_settled = False
        self._known = _Known(self.parse(file.text))

    @property
    def locked(self) -> bool:
        return self._file.locked

    def current(self) -> Automations:
        """What counts now, as the database said a second ago; while it is away, what it said last."""
        return self._look().automations

    def number(self) -> int:
        """Of the version that counts; 0 while nobody knows."""
        return self._look().used

    def trouble(self) -> str:
        """Why the newest version is not the one that is used, for people to read; "" when it is."""
        return self._look().trouble

    def parse(self, text: str) -> Automations:
        """Raises ConfigError with every mistake."""
        return parse_automations(text, templates=self._templates, file="automations")

    def newest(self) -> sa.Row[Any]:
        """The newest version, whether it can be used or not. Raises NotThereError before the first one is written."""
        self._look()
        with self._database.read() as tx:
            row = _newest(tx)
        if row is None:
            raise NotThereError(
                "no version of the automations is written down yet: Usher writes the first one when it starts"
            )
        return row

    def get(self, number: int) -> sa.Row[Any]:
        """Raises NotThereError."""
        with self._database.read() as tx:
            row = tx.execute(sa.select(versions).where(versions.c.number == number)).first()
        if row is None:
            raise NotThereError(f"there is no version {number} of the automations")
        return row

    def page(self, *, limit: int = 100, before: int | None = None) -> list[sa.Row[Any]]:
        """Newest first, without their texts; `before`: the number of the last row seen."""
        columns = [column for column in versions.c if column.name != "text"]
        query = sa.select(*columns).order_by(versions.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(versions.c.number < before)
        self._look()
        with self._database.read() as tx:
            return list(tx.execute(query))

    def add(self, text: str, *, base: int, who: str, source: str = EDIT, note: str = "") -> sa.Row[Any]:
        """Write a new version upon version `base`, which counts from now on in this process, and within about a second
        in every other. The text of the newest one is that one, and no second.

        Raises ConfigError for a text with mistakes, WrongStateError when the automations are locked or `base` is not
        the newest any more.
        """
        if self.locked:
            raise WrongStateError("the automations are locked: their file alone counts (AUTOMATIONS_LOCKED)")
        self.parse(text)
        with self._database.begin() as tx:
            _one_writer(tx)
            newest = _newest(tx)
            if newest is not None and newest.text == text:
                return newest
            number = newest.number if newest is not None else 0
            if number != base:
                raise WrongStateError(f"the newest version of the automations is {number}, not {base}")
            row = _write(tx, number + 1, text, source=source, who=who, note=note)
            before, after = {"version": number}, {"version": row.number, "source": source}
            note_down(tx, who, "automation.edit", "automations", before=before, after=after)
        with self._lock:
            self._look_at = float("-inf")
        return row

    def _look(self) -> _Known:
        # Whoever comes while another looks has the answer of before; the first ones wait for it. Until the database has
        # said something once, every ask is a look: the file of this process may have been edited long ago.
        looks = self._looks
        if self._now() >= self._look_at and self._lock.acquire(blocking=not self._has_settled):
            try:
                if looks == self._looks:
                    self._look_again()
                    self._looks += 1
                    if self._has_settled:
                        self._look_at = self._now() + LOOK_EVERY_S
            finally:
                self._lock.release()
        return self._known

    def _look_again(self) -> None:
        try:
            if not self._has_settled:
                self._settle()
            with self._database.read() as tx:
                newest = tx.connection.scalar(sa.select(sa.func.max(versions.c.number))) or 0
                is_news = newest != self._known.newest
                if is_news:
                    self._known = self._read(tx, newest)
            self._has_settled = True
        except (JournalUnavailableError, SQLAlchemyError) as exc:
            log.warning("automations.not_looked_up", extra={"error": type(exc).__name__})
            return
        if not is_news:
            return
        fields = {"version": self._known.used, "newest": newest}
        if self._known.trouble:
            log.error("automations.unusable", extra=fields)
        else:
            log.info("automations.read", extra=fields)

    def _settle(self) -> None:
        """Take the file in when it is another one than before.

        A process that read its file before the newest one was taken in is of an earlier deployment, and has nothing new
        to say: a child of its pool may start at any time. Nor has one whose file was taken in once and edited since,
        even though another file came in between: of two machines with different files, each may start at any time.
        """
        digest, read_at = _digest(self._file.text), self._file.read_at
        if read_at is None:
            return
        with self._database.read() as tx:
            if self._is_taken_in(tx, digest, read_at):
                return
        with self._database.begin() as tx:
            _one_writer(tx)
            if self._is_taken_in(tx, digest, read_at):
                return
            newest = _newest(tx)
            number = newest.number + 1 if newest is not None else 1
            _write(tx, number, self._file.text, source=FILE, who=FILE)
        if newest is not None and newest.source != FILE and newest.hash != digest:
            fields = {"version": number, "replaced": newest.number}
            log.warning("automations.file_replaces_edit", extra=fields)

    def _is_taken_in(self, tx: Transaction, digest: str, read_at: datetime) -> bool:
        query = sa.select(versions.c.hash, versions.c.created_at).order_by(versions.c.number.desc()).limit(1)
        if not self.locked:  # or else it is to be the newest of all
            query = query.where(versions.c.source == FILE)
        last = tx.execute(query).first()
        if last is not None and (last.hash == digest or last.created_at > read_at):
            return True
        return not self.locked and self._is_edited_since(tx, digest)

    def _is_edited_since(self, tx: Transaction, digest: str) -> bool:
        """Whether this file was taken in before, and the console has had its say after that."""
        of_file = sa.select(sa.func.max(versions.c.number)).where(
            versions.c.source == FILE, versions.c.hash == digest
        )
        query = sa.select(sa.func.max(versions.c.number)).where(versions.c.source != FILE)
        before, edited = tx.connection.scalar(of_file), tx.connection.scalar(query)
        if before is None or edited is None or edited < before:
            return False
        newest = _newest(tx)
        if newest is not None and newest.hash != digest:
            fields = {"version": before, "edited": edited, "newest": newest.number}
            log.warning("automations.file_not_taken_in", extra=fields)
        return True

    def _read(self, tx: Transaction, newest: int) -> _Known:
        """The newest version that can be used. Where letters are gone or words are not known, none may be.

        Whoever stopped something in a newer one is obeyed all the same.
        """
        if self.locked:
            return _Known(self._known.automations, newest, self._number_of_file(tx))
        found = tx.execute(
            sa.select(versions.c.number, versions.c.text).order_by(versions.c.number.desc()).limit(MOST_TRIED)
        ).all()
        automations, used, trouble = self._known.automations, self._known.used, ""
        unusable: list[str] = []
        for row in found:
            try:
                automations, used = self.parse(row.text), row.number
                break
            except ConfigError as exc:
                trouble = trouble or _in_words(row.number, exc)
                unusable.append(row.text)
        return _Known(_without_what_is_off(automations, unusable), newest, used, trouble)

    def _number_of_file(self, tx: Transaction) -> int:
        query = sa.select(sa.func.max(versions.c.number)).where(versions.c.hash == _digest(self._file.text))
        return tx.connection.scalar(query) or 0


def _newest(tx: Transaction) -> sa.Row[Any] | None:
    return tx.execute(sa.select(versions).order_by(versions.c.number.desc()).limit(1)).first()


def _one_writer(tx: Transaction) -> None:
    if tx.connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _write(tx: Transaction, number: int, text: str, *, source: str, who: str, note: str = "") -> sa.Row[Any]:
    values = {"number": number, "text": text, "hash": _digest(text), "source": source, "who": who}
    inserted = sa.insert(versions).values(**values, note=note[:LONGEST_NOTE], created_at=tx.now)
    return tx.execute(inserted.returning(versions)).one()


def _without_what_is_off(automations: Automations, texts: Sequence[str]) -> Automations:
    """What of these may go on by the first of the texts that is TOML at all; nothing else of it is heard.

    Off is what it switches off or does not name, and every deciding rule from the first on that is another one there:
    nobody is let in because the rule that would have turned them away is not known.
    """
    for text in texts:
        try:
            newer = tomllib.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            continue
        return _within(automations, newer)
    return automations


def _within(automations: Automations, newer: Mapping[str, Any]) -> Automations:
    tables = _tables(newer.get("automation"))
    named = _switched_on(tables)
    steps = {
        f"{table.get('name')}.{step}" for table in tables for step in _switched_on(_tables(table.get("then")))
    }
    decides = [name for table in tables if "decide" in table and (name := str(table.get("name"))) in named]
    decided = [
        one.name for one in automations.automations if one.decide and one.enabled and one.name in named
    ]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(decided, decides, strict=False))
    undecided = set(decided[len(list(same)) :])

    def is_on(one: Automation) -> bool:
        first = one.flow or one.name
        return one.enabled and first in named - undecided and (not one.is_step or one.name in steps)

    reports, follows = (_switched_on(_tables(newer.get(kind))) for kind in ("report", "follow"))
    policy = _table(newer.get("policy"))
    of_sites = _table(policy.get("site"))
    sends = policy.get("send", True)

    def no_more_than(policy: Policy, may_send: object) -> Policy:
        return replace(policy, send=policy.send and may_send is True)

    return Automations(
        no_more_than(automations.policy, sends),
        tuple(replace(one, enabled=is_on(one)) for one in automations.automations),
        {
            site: no_more_than(automations.policy_of(site), _table(of_sites.get(site)).get("send", sends))
            for site in {*automations.site_policies, *map(SiteId, of_sites)}
        },
        tuple(replace(one, enabled=one.enabled and one.name in reports) for one in automations.reports),
        tuple(replace(one, enabled=one.enabled and one.name in follows) for one in automations.follows),
    )


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, Any]]:
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def _switched_on(tables: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of tables that are there and not off; a follow without a name goes by its group."""
    names = [str(table.get("name", table.get("rules_of"))) for table in tables]
    off = {name for name, table in zip(names, tables, strict=True) if table.get("enabled", True) is not True}
    return set(names) - off


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _in_words(number: int, exc: ConfigError) -> str:
    more = f" (and {len(exc.problems) - 1} more)" if len(exc.problems) > 1 else ""
    return f"version {number} cannot be used: {exc.problems[0]}{more}"
