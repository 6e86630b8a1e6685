"""Logs on standard output: one line per step, constant event names, ids and counts in fields.

Our modules log through the standard library; structlog only writes the lines, as JSON when
nobody is watching and for people on a terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

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
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
