"""The automations and how they came to be: every version is a whole text, and the newest one counts.

A version comes from the file that a process was started with, from an edit, or from going back to an earlier one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from core.automations import Automations, parse_automations
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
        # Whoever comes while another looks has the answer of before; the first ones wait for it.
        if self._now() >= self._look_at and self._lock.acquire(blocking=not self._has_settled):
            try:
                if self._now() >= self._look_at:
                    self._look_again()
                    self._look_at = self._now() + LOOK_EVERY_S
            finally:
                self._lock.release()
        return self._known

    def _look_again(self) -> None:
        try:
            if not self._has_settled:
                self._settle()
                self._has_settled = True
            with self._database.read() as tx:
                newest = tx.connection.scalar(sa.select(sa.func.max(versions.c.number))) or 0
                if newest == self._known.newest:
                    return
                self._known = self._read(tx, newest)
        except (JournalUnavailableError, SQLAlchemyError) as exc:
            log.warning("automations.not_looked_up", extra={"error": type(exc).__name__})
            return
        fields = {"version": self._known.used, "newest": newest}
        if self._known.trouble:
            log.error("automations.unusable", extra=fields)
        else:
            log.info("automations.read", extra=fields)

    def _settle(self) -> None:
        """Take the file in when it is another one than before.

        A process that read its file before the newest one was taken in is of an earlier deployment, and has nothing new
        to say: a child of its pool may start at any time.
        """
        digest, read_at = _digest(self._file.text), self._file.read_at
        if read_at is None:
            return
        with self._database.read() as tx:
            if self._is_taken_in(tx, digest, read_at):
                return
        with self._database.begin() as tx:
            _one_writer(tx)
            if not self._is_taken_in(tx, digest, read_at):
                newest = _newest(tx)
                number = newest.number + 1 if newest is not None else 1
                _write(tx, number, self._file.text, source=FILE, who=FILE)

    def _is_taken_in(self, tx: Transaction, digest: str, read_at: datetime) -> bool:
        query = sa.select(versions.c.hash, versions.c.created_at).order_by(versions.c.number.desc()).limit(1)
        if not self.locked:  # or else it is to be the newest of all
            query = query.where(versions.c.source == FILE)
        last = tx.execute(query).first()
        return last is not None and (last.hash == digest or last.created_at > read_at)

    def _read(self, tx: Transaction, newest: int) -> _Known:
        """The newest version that can be used. Where letters are gone or words are not known, none may be."""
        if self.locked:
            return _Known(self._known.automations, newest, self._number_of_file(tx))
        found = tx.execute(
            sa.select(versions.c.number, versions.c.text).order_by(versions.c.number.desc()).limit(MOST_TRIED)
        ).all()
        trouble = ""
        for row in found:
            try:
                return _Known(self.parse(row.text), newest, row.number, trouble)
            except ConfigError as exc:
                trouble = trouble or _in_words(row.number, exc)
        return _Known(self._known.automations, newest, self._known.used, trouble)

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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _in_words(number: int, exc: ConfigError) -> str:
    more = f" (and {len(exc.problems) - 1} more)" if len(exc.problems) > 1 else ""
    return f"version {number} cannot be used: {exc.problems[0]}{more}"
