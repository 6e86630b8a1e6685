"""A process of its own that answers one caller.

What needs Python's lock many times for a short while, as the drivers of databases do, costs a busy loop, or a loop
costs it, more than the work takes. Here it costs the process that asks one write and one read. It is there for speed
alone: whoever asks can do the same without it, so it may be late, broken or dead at any time.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from core.errors import JournalUnavailableError
from integrations import soon

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
_START_AGAIN_AFTER_S = 10.0
_STARTS_WITHIN_S = 30.0
_HEAD_BYTES = 8
_PIECE_BYTES = 256 * 1024


class GoneError(Exception):
    """It may have been done or not: do it here."""


class Asked:
    """A question on its way."""

    def __init__(self) -> None:
        self.answer: tuple[str, Any] | None = None

    def told(self) -> Any:
        """What was done. Raises JournalUnavailableError, GoneError."""
        kind, said = self.answer or ("gone", "no answer yet")
        if kind == "away":
            raise JournalUnavailableError(said[0], cause=said[1])
        if kind == "done":
            return said
        raise GoneError(said)


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that is under way: `hear` waits for it, `is_there` looks without waiting, and until it is there the
    descriptor becomes readable when there is more of it."""

    hear: Callable[[], Any]
    is_there: Callable[[], bool] = lambda: True
    fileno: Callable[[], int] = lambda: -1

    def then(self, change: Callable[[Any], Any]) -> Later:
        return replace(self, hear=lambda: change(self.hear()))


class Aside:
    """`factory`, as in "package.module:name", makes of `of` the function that is asked there, and all that goes either
    way is plain: texts, numbers, bytes, lists. Questions are answered in their order; where the function gives a Later,
    the next one is begun meanwhile. Not for two threads at once, nor beyond a fork."""

    def __init__(self, factory: str, *of: object, patience_s: float = PATIENCE_S) -> None:
        """`patience_s`, for an answer, is longer than what is asked may take: who takes longer has been stopped."""
        self._made_by = [factory, *of]
        self.patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._dying: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._asked: deque[Asked] = deque()
        self._hello: Asked | None = None
        self._started_at = -_START_AGAIN_AFTER_S
        self.before_closing: Callable[[int], object] | None = None
        """Told the descriptor while it is still this one's, once."""

    def is_ready(self) -> bool:
        """Whether it is connected; begins to make it so otherwise."""
        if self._hello is None:
            self._start()
        elif self._hello.answer is None and self.has_spoken():
            with contextlib.suppress(GoneError):
                self._hear_some()
        elif self._hello.answer is None and time.monotonic() - self._started_at > _STARTS_WITHIN_S:
            self.kill()
        return self._hello is not None and self._hello.answer is not None

    def has_spoken(self) -> bool:
        if self._socket is None:
            return False
        poll = select.poll()  # select knows no descriptor beyond 1,023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def begin(self, *question: object) -> Asked:
        """Raises GoneError."""
        return self._send(question)

    def hear(self, asked: Asked) -> Any:
        """Wait for the answer. Raises JournalUnavailableError if that is what was raised there, GoneError for whatever
        else kept it from being done, or from being known."""
        while asked.answer is None:
            self._hear_some()
        return asked.told()

    def fileno(self) -> int:
        """Readable when an answer is there; -1 while there is no process."""
        return self._socket.fileno() if self._socket is not None else -1

    def close(self) -> None:
        """It ends by itself when nobody can ask it any more; wait for that."""
        self._part()
        process = self._process or self._dying
        self._process = self._dying = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.patience_s)
                return
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)

    def kill(self) -> None:
        """At once, and without waiting for its end, which a disk that hangs may put off."""
        if self._process is not None:
            log.warning("aside.gone", extra={"aside": str(self._made_by[0])})
            self._process.kill()
            self._process, self._dying = None, self._process
        self._part()

    def _part(self) -> None:
        before_closing, self.before_closing = self.before_closing, None
        if self._socket is not None:
            if before_closing is not None:
                before_closing(self._socket.fileno())
            self._socket.close()
        self._socket = self._hello = None
        for asked in self._asked:
            asked.answer = asked.answer or ("gone", "it ended")
        self._asked.clear()

    def _start(self) -> None:
        if time.monotonic() - self._started_at < _START_AGAIN_AFTER_S:
            return
        if self._dying is not None and self._dying.poll() is None:
            return
        self._dying = None
        self._started_at = time.monotonic()
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # no descriptor is to be had
            return
        ours.setblocking(False)
        self._frames = _Frames()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)
        with theirs, contextlib.suppress(OSError):  # no process is to be had: the next may be
            self._process = subprocess.Popen(  # noqa: S603 (ourselves)
                [sys.executable, "-P", "-m", "integrations.aside", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },  # it finds our modules where we did
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what a terminal sends to all is not for it: it ends with this one
            )
        self._socket = ours
        with contextlib.suppress(GoneError):
            self._hello = self._send(self._made_by)

    def _send(self, asks: Sequence[object]) -> Asked:
        if self._socket is None:
            raise GoneError("not started")
        asked = Asked()
        try:
            _send(self._socket, asks, self.patience_s)
        except (OSError, TypeError, ValueError, OverflowError) as exc:
            if isinstance(exc, OSError):
                self.kill()
            raise GoneError(type(exc).__name__) from exc
        except BaseException:  # a time limit: half of it may have been said
            self.kill()
            raise
        self._asked.append(asked)
        return asked

    def _hear_some(self) -> None:
        try:
            if self._socket is None:
                raise EOFError
            answers = self._frames.read(self._socket, self.patience_s)
        except (OSError, EOFError, msgspec.DecodeError) as exc:
            self.kill()
            raise GoneError(type(exc).__name__) from exc
        except BaseException:  # a time limit: answers might go to the wrong questions from here
            self.kill()
            raise
        for answer in answers:
            self._asked.popleft().answer = tuple(answer)


class _Frames:
    """Messages of one end of the socket, each behind its length."""

    def __init__(self) -> None:
        self._read = b""

    def read(self, sock: socket.socket, patience_s: float | None = None) -> list[Any]:
        """Wait for one; returns all that have come. Raises EOFError at the end, OSError, msgspec.DecodeError."""
        while not (found := self._take()):
            try:
                piece = sock.recv(_PIECE_BYTES)
            except BlockingIOError:
                _wait(sock, select.POLLIN, patience_s)
                continue
            if not piece:
                raise EOFError
            self._read += piece
        return found

    def _take(self) -> list[Any]:
        found = []
        start = 0
        while start + _HEAD_BYTES <= len(self._read):
            end = start + _HEAD_BYTES + int.from_bytes(self._read[start : start + _HEAD_BYTES])
            if end > len(self._read):
                break
            found.append(msgspec.msgpack.decode(self._read[start + _HEAD_BYTES : end]))
            start = end
        self._read = self._read[start:]
        return found


def _send(sock: socket.socket, message: object, patience_s: float | None = None) -> None:
    """Raises OSError, and for what cannot be said TypeError, ValueError, OverflowError."""
    text = msgspec.msgpack.encode(message)
    left = memoryview(len(text).to_bytes(_HEAD_BYTES) + text)
    while left:
        try:
            left = left[sock.send(left) :]
        except BlockingIOError:
            _wait(sock, select.POLLOUT, patience_s)


def _wait(sock: socket.socket, what: int, patience_s: float | None) -> None:
    """Only when there is something to wait for: asking costs as much as reading."""
    poll = select.poll()
    poll.register(sock, what)
    if not soon.wait(poll, patience_s):
        raise TimeoutError


def _serve(sock: socket.socket) -> None:
    frames = _Frames()
    waiting = deque(frames.read(sock))
    factory, *of = waiting.popleft()
    module, _, name = factory.partition(":")
    answer = getattr(importlib.import_module(module), name)(*of)
    _send(sock, ("done", None))
    under_way: deque[tuple[str, Any]] = deque()
    while True:
        while under_way and not (waiting or _is_there(under_way[0]) or _has_spoken_first(sock, under_way[0])):
            pass  # more of the answer has come
        if under_way and _is_there(under_way[0]):
            said = under_way.popleft()
            _send(sock, _tried(said[1].hear) if isinstance(said[1], Later) else said)
            continue
        waiting.extend(() if waiting else frames.read(sock))
        under_way.append(_tried(functools.partial(answer, *waiting.popleft())))


def _tried(do: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "done", do()
    except JournalUnavailableError as exc:
        return "away", [str(exc), type(exc.__cause__ or exc).__name__]
    except Exception as exc:  # noqa: BLE001 (who asked does it again, and hears what is wrong)
        return "gone", type(exc).__name__


def _is_there(said: tuple[str, Any]) -> bool:
    return not isinstance(said[1], Later) or said[1].is_there()


def _has_spoken_first(sock: socket.socket, said: tuple[str, Any]) -> bool:
    """Wait for a question, or for more of this answer."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(said[1].fileno(), select.POLLIN)
    return any(descriptor == sock.fileno() for descriptor, _ in poll.poll())


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends after those it works for
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as sock, contextlib.suppress(EOFError, OSError):
        _serve(sock)
    os._exit(0)


if __name__ == "__main__":
    importlib.import_module("integrations.aside").main()  # whose classes are those that others import
