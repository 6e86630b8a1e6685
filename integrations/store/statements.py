"""Single statements on a SQLite file, each committed by itself, on a connection of their own: what an Aside runs for
Database.writer. Without SQLAlchemy, which would take three times the memory and more time than the driver."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import JournalUnavailableError

_BESIDE_EVERY = 64  # statements

Run = Callable[[str, Sequence[Any]], list[Sequence[Any]]]


def runs_statements(file: str, timeout_s: float, first: Sequence[str], beside: str) -> Run:
    """`file` as a URI. `first` is said to each new connection, `beside` now and then on another connection, while the
    statements go on."""

    def connect() -> sqlite3.Connection:
        made = sqlite3.connect(file, timeout=timeout_s, isolation_level=None, uri=True)
        for statement in first:
            made.execute(statement)
        return made

    turns = threading.Semaphore(0)
    threading.Thread(target=_say_beside, args=(beside, connect, turns), daemon=True).start()
    connection: sqlite3.Connection | None = None

    def run(statement: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        nonlocal connection
        turns.release()
        try:
            connection = connection or connect()
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
        except sqlite3.IntegrityError:
            raise
        except Exception as exc:
            # Whatever it is in the middle of.
            if connection is not None:
                connection.close()
                connection = None
            if isinstance(exc, sqlite3.OperationalError):
                raise JournalUnavailableError(str(exc)) from exc
            raise

    return run


def _say_beside(
    statement: str, connect: Callable[[], sqlite3.Connection], turns: threading.Semaphore
) -> None:
    while True:
        for _ in range(_BESIDE_EVERY):
            turns.acquire()
        with contextlib.suppress(sqlite3.Error), contextlib.closing(connect()) as connection:
            connection.execute(statement).fetchall()
