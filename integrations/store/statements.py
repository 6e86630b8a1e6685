"""Single statements, each committed by itself, on a connection of their own: what an Aside runs for
Database.begin_alone. Without SQLAlchemy, which would take three times the memory and more time than the driver."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import JournalUnavailableError

_BESIDE_EVERY = 64  # statements

Run = Callable[[str, Sequence[Any]], list[Sequence[Any]]]


def runs_statements(
    driver_name: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    first: Sequence[str],
    each_second: str,
    beside: str,
) -> Run:
    """`first` is said to each new connection, `each_second` once in a while between two statements, `beside` now and
    then on another connection, while the statements go on."""
    driver: Any = importlib.import_module(driver_name)

    def connect() -> Any:
        made = driver.connect(*args, **kwargs)
        for statement in first:
            made.execute(statement)
        return made

    turns = threading.Semaphore(0)
    if beside:
        threading.Thread(target=_say_beside, args=(beside, connect, turns), daemon=True).start()
    connection: Any = None
    said_at = time.monotonic()

    def run(statement: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        nonlocal connection, said_at
        turns.release()
        try:
            connection = connection or connect()
            if each_second and time.monotonic() - said_at > 1.0:
                connection.execute(each_second)
                said_at = time.monotonic()
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
        except driver.IntegrityError:
            raise
        except Exception as exc:
            was_lost = connection is not None and getattr(connection, "closed", False)
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()
                connection = None
            if isinstance(exc, driver.OperationalError) and not was_lost:
                raise JournalUnavailableError(_first_line(exc)) from exc
            raise

    return run


def _say_beside(statement: str, connect: Callable[[], Any], turns: threading.Semaphore) -> None:
    while True:
        for _ in range(_BESIDE_EVERY):
            turns.acquire()
        with contextlib.suppress(Exception), contextlib.closing(connect()) as connection:
            connection.execute(statement).fetchall()


def _first_line(exc: Exception) -> str:
    """A driver's further lines repeat the row."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
