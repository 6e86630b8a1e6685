"""Log lines are written by a short way; it writes what structlog would."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from config.logging import Lines, set_up_logging

ROOT = Path(__file__).parent.parent
VALUES = (
    st.text()
    | st.text(st.characters(max_codepoint=127))
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.integers(), max_size=2)
    | st.binary(max_size=3)
    | st.sampled_from([Path("/x"), {"a": {1}}, OSError("gone"), "\ud800", "a\nb\x7f</", 2**64, -(2**63) - 1])
)
NAMES = st.sampled_from(["event_id", "level", "event", "logger", "timestamp", "color_message", "é", "a b"])


@pytest.fixture(autouse=True, scope="module")
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
            patch.setattr(logging, name, getattr(logging, name))
        yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of_a_web_process() -> Lines:
    set_up_logging("web")
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, Lines)
    return handler


def both(record: logging.LogRecord) -> tuple[str, str]:
    lines = lines_of_a_web_process()
    assert isinstance(lines.formatter, structlog.stdlib.ProcessorFormatter)
    texts = []
    for text in (lines.format(record), lines.formatter.format(record)):
        at = json.loads(text)["timestamp"]
        assert at.endswith("Z")
        texts.append(text.replace(at, "now"))
    return texts[0], texts[1]


@given(
    fields=st.dictionaries(NAMES, VALUES, max_size=4),
    level=st.sampled_from(
        [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 25]
    ),
    said=st.sampled_from(
        [("webhook.accepted", ()), ("%s of %d", ("é", 5)), ("100 %", ()), ("", ()), ("\ud800", ())]
    ),
    wrong=st.booleans(),
)
@example(
    {"event_id": "e-1", "site": "s", "event_type": "member_added", "outcome": "new"}, 20, ("x", ()), False
)
def test_a_line_is_the_one_structlog_writes(
    fields: dict[str, Any], level: int, said: tuple[str, tuple[object, ...]], wrong: bool
) -> None:
    error = None
    if wrong:
        try:
            raise RuntimeError("first\nsecond")
        except RuntimeError:
            error = sys.exc_info()
    record = logging.getLogger("webhooks.x").makeRecord(
        "webhooks.x", level, "", 0, *said, error, extra=fields
    )
    ours, theirs = both(record)
    # A letter may be spelled in two ways: \x7f as it is, or as \u007f.
    assert ours == theirs or list(json.loads(ours).items()) == list(json.loads(theirs).items())


def test_the_line_of_a_delivery_is_the_same_to_the_letter() -> None:
    about = {"event_id": "e-1", "site": "s", "event_type": "member_added", "outcome": "new"}
    ours, theirs = both(logging.makeLogRecord({"name": "webhooks.endpoint", "msg": "x", **about}))
    assert ours == theirs


def test_the_lines_of_one_turn_of_a_loop_are_written_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    lines_of_a_web_process()
    log = logging.getLogger("webhooks.x")

    async def work() -> tuple[str, str]:
        log.info("first")
        log.info("second")
        meanwhile = capsys.readouterr().out
        await asyncio.sleep(0)
        return meanwhile, capsys.readouterr().out

    meanwhile, afterwards = asyncio.run(work())
    assert not meanwhile
    assert [json.loads(line)["event"] for line in afterwards.splitlines()] == ["first", "second"]


def test_a_thread_without_a_loop_writes_at_once_and_overtakes_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines_of_a_web_process()
    log = logging.getLogger("webhooks.x")

    async def work() -> str:
        log.info("of the loop")
        await asyncio.to_thread(log.info, "of a thread")
        return capsys.readouterr().out

    assert [json.loads(line)["event"] for line in asyncio.run(work()).splitlines()] == [
        "of the loop",
        "of a thread",
    ]
    log.info("of no loop")
    assert json.loads(capsys.readouterr().out)["event"] == "of no loop"


def test_a_line_of_the_last_turn_is_not_lost_when_the_process_ends() -> None:
    program = """
import asyncio, logging
from config.logging import set_up_logging
set_up_logging("web")
async def work():
    logging.getLogger("x").info("last")
    raise SystemExit(3)
asyncio.run(work())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["event"] == "last"
