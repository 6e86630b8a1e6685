"""Logs on standard output: one line per step, constant event names, ids and counts in fields.

Our modules log through the standard library; structlog only writes the lines, as JSON when
nobody is watching and for people on a terminal. A line of plain fields, which nearly all are, is written
without it: the door has a line for each delivery, and structlog takes as long for it as the signature.

A record's `each`, a list of fields, is as many lines, each with its fields: the library takes as long to make one
record as a line takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TextIO

import msgspec
import structlog

_QUIET = (
    "alembic",
    "amqp",
    "asyncio",
    "celery.app.trace",  # two lines for each doorbell; what came of it is logged where it happens
    "celery.utils.functional",
    "celery.worker.strategy",
    "flufl.bounce",
    "httpcore",
    "httpx",
    "kombu",
    "mail.log",  # aiosmtpd's, which names senders and recipients
)


_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_NOT_BEFORE = len(vars(logging.makeLogRecord({})))  # what was logged with `extra` stands behind it
_PLAIN = frozenset({str, int, bool, type(None)})
_SERVER = "uvicorn.error"


def set_up_logging(process: str, level: int = logging.INFO) -> None:
    """Call once per process, before anything is logged."""

    def name_process(_logger: Any, _method: str, event: Any) -> Any:
        event["process"] = process
        event.pop("color_message", None)  # uvicorn's second copy, for terminals
        return event

    on_terminal = sys.stdout.isatty()
    chain: list[Any] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
    ]
    ending: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if on_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = Screen(sys.stdout) if on_terminal else Lines(sys.stdout, process)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    # What no line of ours shows, and what costs more to find out than the line: where in the code it was logged.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


@functools.lru_cache(maxsize=4)
def _second_of(whole_s: int) -> str:
    return datetime.fromtimestamp(whole_s, UTC).isoformat()[:-6]


def _time_of(created_s: float) -> str:
    whole_s, microseconds = divmod(int(created_s * 1_000_000), 1_000_000)
    return f"{_second_of(whole_s)}.{microseconds:06}Z"


def _one_by_one(record: logging.LogRecord) -> Iterable[logging.LogRecord]:
    shared = dict(vars(record))
    for fields in shared.pop("each", ({},)):
        yield logging.makeLogRecord(shared | fields)


class Screen(logging.StreamHandler[TextIO]):
    """For people."""

    def emit(self, record: logging.LogRecord) -> None:
        for one in _one_by_one(record) if hasattr(record, "each") else (record,):
            super().emit(one)


def _as_json(fields: dict[str, Any]) -> str:
    """Raises ValueError or OverflowError for what structlog would write otherwise."""
    fields.pop("color_message", None)
    return msgspec.json.format(msgspec.json.encode(fields), indent=0).decode("ascii")


class Lines(logging.StreamHandler[TextIO]):
    """Writes what is logged within an event loop once per turn of it, at the turn's end, and everything else at once.
    What still waits when the process ends is written by logging.shutdown; a server that was told to end by a signal
    ends by it, without that, so its own lines wait for nothing."""

    def __init__(self, stream: TextIO, process: str) -> None:
        super().__init__(stream)
        self._process = process
        self._waiting: list[str] = []
        self._written_by: asyncio.AbstractEventLoop | None = None

    def format(self, record: logging.LogRecord) -> str:
        """The same JSON as the formatter's, for a record of plain fields without asking it."""
        if not (record.exc_info or record.exc_text or record.stack_info):
            fields = {"event": record.getMessage()}
            for name, value in islice(record.__dict__.items(), _NOT_BEFORE, None):
                if name not in _OF_EVERY_RECORD:
                    if type(value) not in _PLAIN:
                        break
                    fields[name] = value
            else:
                # Not a letter that is not ASCII, half a character, a huge number.
                with contextlib.suppress(ValueError, OverflowError):
                    return _as_json(fields | self._end_of(record))
        return super().format(record)

    def _format_each(self, record: logging.LogRecord, each: Sequence[dict[str, Any]]) -> Iterable[str]:
        """The same for the records of _one_by_one."""
        start, end = {"event": record.getMessage()}, self._end_of(record)
        shares_nothing = len(vars(record)) == _NOT_BEFORE + 1
        try:
            if shares_nothing and all(_PLAIN.issuperset(map(type, fields.values())) for fields in each):
                return [_as_json({**start, **fields, **end}) for fields in each]
        except (ValueError, OverflowError):
            pass
        return map(self.format, _one_by_one(record))

    def _end_of(self, record: logging.LogRecord) -> dict[str, str]:
        return {
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": _time_of(record.created),
            "process": self._process,
        }

    def emit(self, record: logging.LogRecord) -> None:
        try:
            each = record.__dict__.get("each")
            lines = (self.format(record),) if each is None else self._format_each(record, each)
            self._waiting.extend(lines)
        except Exception:  # noqa: BLE001 (as the standard library's handlers do)
            self.handleError(record)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or record.name == _SERVER:
            self._write(record)
        elif self._written_by is not loop:
            self._written_by = loop
            loop.call_soon(self._write, record)

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self.flush()
        except Exception:  # noqa: BLE001
            self.handleError(record)

    def flush(self) -> None:
        with self.lock:  # type: ignore[union-attr] # only a handler that was not made yet has none
            lines, self._waiting, self._written_by = self._waiting, [], None
            if lines:
                self.stream.write(self.terminator.join([*lines, ""]))
            super().flush()
