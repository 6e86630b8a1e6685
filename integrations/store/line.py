"""A connection to PostgreSQL on which a statement is begun now and heard of later, by libpq's own calls.

Whoever waits for one commit after the other waits as long for processes to wake up as for the disk. In between there
is time for other work here, and the driver's own cursor would take more of it than the statement.
"""

from __future__ import annotations

import contextlib
import functools
import re
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, ExecStatus

from integrations import soon
from integrations.aside import Asked, GoneError, Later

_CONNECTS_AGAIN_AFTER_S = 10.0
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_BYTES = 1
"""Parameters have their length with them: as text a NUL would end one."""


class Line:
    """As Aside, for statements: each is committed by itself, in the order in which they were begun, and nothing is
    ever worse than GoneError for who can run it another way. Values of rows come back as the server's texts. Not for
    two threads at once, nor beyond a fork."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], patience_s: float) -> None:
        """`patience_s`, for an answer, is longer than the server's own limit for a statement."""
        self._connect = connect
        self._patience_s = patience_s
        self._connection: psycopg.Connection[Any] | None = None
        self._tried_at = -_CONNECTS_AGAIN_AFTER_S
        self._asked: deque[Asked] = deque()

    def is_ready(self) -> bool:
        """Whether it is connected; else, now and then, connects."""
        if self._connection is None and time.monotonic() - self._tried_at > _CONNECTS_AGAIN_AFTER_S:
            self._tried_at = self._planned_at = time.monotonic()
            with contextlib.suppress(psycopg.Error):
                self._connection = self._connect()
                self._server = self._connection.pgconn
                self._server.enter_pipeline_mode()
                self._poll = select.poll()
                self._poll.register(self._server.socket, select.POLLIN)
                self._names: dict[str, bytes] = {}
                self._has_failed = False
                self._found: tuple[str, Any] | None = None
        return self._connection is not None

    def begin(self, statement: str, parameters: Sequence[object]) -> Asked:
        """Raises GoneError."""
        if self._connection is None:
            raise GoneError("not connected")
        try:
            values = [_wire(value) for value in parameters]
            if self._has_failed:
                self._tidy(b"DEALLOCATE ALL")  # what failed may not have been prepared
                self._names.clear()
                self._has_failed = False
            name = self._names.get(statement)
            if name is None:
                name = self._names[statement] = b"usher_%d" % len(self._names)
                self._server.send_prepare(name, _numbered(statement))
            formats = [_BYTES if isinstance(value, str) else 0 for value in parameters]
            self._server.send_query_prepared(name, values, formats)
            asked = self._end_of_statement()
            if time.monotonic() - self._planned_at > 1.0:
                # A plan made of a young table may take the wrong index for ever. Behind the statement: the server
                # gives up a client who died when it answers the first thing, before it has read the second.
                self._tidy(b"DISCARD PLANS")
            while self._server.flush():
                self._wait(select.POLLOUT)
        except (TypeError, UnicodeError) as exc:  # nothing was said yet
            raise GoneError(type(exc).__name__) from exc
        except psycopg.Error as exc:
            self._part()
            raise GoneError(type(exc).__name__) from exc
        except BaseException:
            self._part()  # a time limit: half of it may have been said
            raise
        return asked

    def hear(self, asked: Asked) -> Any:
        """Wait for its rows. Raises JournalUnavailableError when the server cannot now, GoneError for whatever else
        kept it from being done, or from being known."""
        while asked.answer is None:
            if self._connection is None:
                raise GoneError("it broke")
            try:
                self._sort()
                if asked.answer is None:
                    self._wait(select.POLLIN)
                    self._server.consume_input()
            except psycopg.Error as exc:
                self._part()
                raise GoneError(type(exc).__name__) from exc
            except BaseException:
                self._part()  # a time limit: answers might go to the wrong questions from here
                raise
        return asked.told()

    def later(self, asked: Asked) -> Later:
        return Later(
            functools.partial(self.hear, asked), functools.partial(self._is_there, asked), self._fileno
        )

    def _is_there(self, asked: Asked) -> bool:
        if asked.answer is None:
            try:
                self._server.consume_input()
                self._sort()
            except psycopg.Error:
                self._part()
        return asked.answer is not None

    def _fileno(self) -> int:
        return self._server.socket if self._connection is not None else -1

    def close(self) -> None:
        self._part()
        self._tried_at = time.monotonic()

    def _tidy(self, statement: bytes) -> None:
        self._server.send_query_params(statement, None)
        self._end_of_statement()
        self._planned_at = time.monotonic()

    def _end_of_statement(self) -> Asked:
        """It is a transaction by itself, whatever comes before and after."""
        self._server.pipeline_sync()
        asked = Asked()
        self._asked.append(asked)
        return asked

    def _sort(self) -> None:
        """See whose is what has come."""
        is_end = False  # of a command
        while self._asked and not self._server.is_busy():
            result = self._server.get_result()
            was_end, is_end = is_end, result is None
            if result is None:
                if was_end:
                    raise psycopg.OperationalError  # nothing is under way
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                self._asked.popleft().answer = self._found
                self._found = None
            elif self._found is None or self._found[0] == "done":
                self._found = self._told(result)
        if self._server.status != ConnStatus.OK:
            raise psycopg.OperationalError

    def _told(self, result: Any) -> tuple[str, Any]:
        if result.status in _DONE:
            rows = range(result.ntuples)
            return "done", [
                [_text(result.get_value(row, at)) for at in range(result.nfields)] for row in rows
            ]
        self._has_failed = True
        state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
        why = (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(
            "utf-8", "replace"
        )
        with contextlib.suppress(KeyError):
            kind = psycopg.errors.lookup(state)
            if issubclass(kind, psycopg.OperationalError) and self._server.status == ConnStatus.OK:
                return "away", [why, kind.__name__]
        return "gone", state

    def _wait(self, what: int) -> None:
        self._poll.modify(self._server.socket, what)
        if not soon.wait(self._poll, self._patience_s):
            raise psycopg.OperationalError

    def _part(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for asked in self._asked:
            asked.answer = "gone", "it broke"
        self._asked.clear()


def _numbered(statement: str) -> bytes:
    """The server counts parameters; the driver writes each as %s."""
    first, *others = re.split("%s", statement)
    numbered = "".join(f"${number}{text}" for number, text in enumerate(others, 1))
    return (first + numbered).replace("%%", "%").encode()


def _wire(value: object) -> bytes | None:
    match value:
        case None:
            return None
        case str():
            return value.encode()
        case bool():
            return b"t" if value else b"f"
        case int():
            return b"%d" % value
        case datetime():
            return value.isoformat().encode()
        case timedelta():
            return b"%d microseconds" % (value // timedelta(microseconds=1))
        case _:
            raise TypeError(type(value).__name__)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
