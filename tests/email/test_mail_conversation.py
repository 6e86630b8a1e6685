"""Replies as servers write them: in one piece, in many, in several lines, too long, cut off."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from smtp_servers import self_signed

from integrations.email import conversation
from integrations.email.conversation import Conversation


@dataclass
class Line:
    """Both ends of a connection; what `server` says is there when it is listened to."""

    smtp: smtplib.SMTP
    server: socket.socket

    def talk(self, timeout_s: float = 10.0) -> Conversation:
        return Conversation(self.smtp, timeout_s)


@pytest.fixture
def line() -> Iterator[Line]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    with ours, server:
        yield Line(an_smtp(ours), server)


def an_smtp(sock: socket.socket) -> smtplib.SMTP:
    smtp = smtplib.SMTP()
    smtp.sock, smtp.file = sock, sock.makefile("rb")
    return smtp


REPLIES = [
    (b"250 fine\r\n", (250, "fine")),
    (b"250\r\n", (250, "")),
    (b"250-first\r\n250-second\r\n250 third\r\n", (250, "first\nsecond\nthird")),
    (b"250-first\r\n550 but\r\n", (550, "but")),
    (b"550 5.1.1 \xff?\n", (550, "5.1.1 \ufffd?")),
    (b"hello\r\n", (-1, "o")),
    (b"\r\n", (-1, "")),
]


@pytest.mark.parametrize("at_once", [1, 3, 8192])
@pytest.mark.parametrize(("said", "heard"), REPLIES)
def test_a_reply_is_heard_in_however_many_pieces_it_comes_and_the_next_one_after_it(
    line: Line, monkeypatch: pytest.MonkeyPatch, said: bytes, heard: tuple[int, str], at_once: int
) -> None:
    monkeypatch.setattr(conversation, "_AT_ONCE", at_once)
    talk = line.talk()
    line.server.sendall(said + b"354 go on\r\n")
    assert (talk.hear()[0], talk.hear()) == (heard[0], (354, "go on"))
    line.server.sendall(said)
    assert heard[1] in talk.hear()[1]
    assert talk.said_early() is None


@pytest.mark.parametrize("said", [b"", b"25", b"250 taken", b"250-taken\r\n", b"250-taken\r\n250 bu"])
def test_a_reply_that_is_cut_off_is_none(line: Line, said: bytes) -> None:
    talk = line.talk()
    line.server.sendall(said)
    line.server.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        talk.hear()


@pytest.mark.parametrize(
    "said", [b"250 " + b"x" * 70_000, b"250-x\r\n" * 10_000, b"250-" + b"x" * 70_000 + b"\r\n"]
)
def test_a_reply_without_an_end_is_not_listened_to_for_ever(line: Line, said: bytes) -> None:
    talk = line.talk()
    line.server.sendall(said)
    with pytest.raises(ConnectionAbortedError):
        talk.hear()


def test_silence_has_an_end(line: Line) -> None:
    with pytest.raises(TimeoutError):
        line.talk().hear(0.01)


def test_a_word_now_and_then_does_not_put_the_end_off(line: Line) -> None:
    stop = threading.Event()

    def dribble() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.02):
                line.server.sendall(b"2")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(dribble)
        began_at = time.monotonic()
        try:
            with pytest.raises(TimeoutError):
                line.talk().hear(0.2)
            assert time.monotonic() - began_at < 20, "64 KiB would take longer"
        finally:
            stop.set()


def test_what_was_said_in_one_piece_with_the_last_reply_to_smtplib_is_heard(line: Line) -> None:
    line.server.sendall(b"235 welcome\r\n421 not now\r\n")
    assert line.smtp.getreply()[0] == 235
    talk = line.talk()
    assert talk.said_early() == (421, "not now")
    assert talk.hear() == (421, "not now")


@pytest.mark.parametrize("more", [b"250 taken\r\n", b"35", b"\r\n", b"x"])
def test_more_than_was_asked_is_not_believed(line: Line, more: bytes) -> None:
    talk = line.talk()
    line.server.sendall(b"354 go on\r\n" + more)
    assert talk.hear() == (354, "go on")
    with pytest.raises(ConnectionResetError):
        talk.said_early()


def test_what_tls_has_read_already_is_seen(
    line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers, clients = self_signed(tmp_path)
    with ThreadPoolExecutor(1) as other:
        wrapping = other.submit(servers.wrap_socket, line.server, server_side=True)
        ours = clients.wrap_socket(line.smtp.sock, server_hostname="127.0.0.1")  # type: ignore[arg-type]
        server = wrapping.result(10)
    with ours, server:
        talk = Conversation(an_smtp(ours), 10.0)
        assert talk.said_early() is None
        monkeypatch.setattr(conversation, "_AT_ONCE", len(b"354 go on\r\n"))
        server.sendall(b"354 go on\r\n421 bye\r\n")  # in one record
        assert talk.hear() == (354, "go on")
        assert talk.said_early() == (421, "bye")
