"""Waiting for an answer, first without sleeping."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from integrations import soon


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def a_poll(sock: socket.socket) -> select.poll:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return poll


def test_what_is_there_is_seen_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.send(b"x")
    assert soon.look(a_poll(ours))
    assert soon.wait(a_poll(ours), 0.0)


def test_who_looks_lets_others_have_the_processor_and_then_gives_up(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, yielded = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def give_way() -> None:
        yielded.append(clock[0])
        clock[0] += 0.0002

    monkeypatch.setattr(os, "sched_yield", give_way)
    assert not soon.look(a_poll(ends[0]))
    assert len(yielded) == 2, "no longer than three tenths of a millisecond"


@pytest.mark.parametrize("timeout_s", [30.0, None])
def test_what_comes_later_than_that_is_waited_for(
    ends: tuple[socket.socket, socket.socket], timeout_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    gave_up = threading.Event()
    look = soon.look

    def look_and_tell(poll: select.poll) -> bool:
        seen = look(poll)
        gave_up.set()
        return seen

    monkeypatch.setattr(soon, "look", look_and_tell)

    def speak() -> None:
        gave_up.wait()
        theirs.send(b"x")

    speaker = threading.Thread(target=speak)
    speaker.start()
    assert soon.wait(a_poll(ours), timeout_s)
    speaker.join()


def test_a_wait_ends_though_nothing_came(ends: tuple[socket.socket, socket.socket]) -> None:
    assert not soon.wait(a_poll(ends[0]), 0.001)
