"""A mail server that takes everything, as a process of its own: `python -m benchmarks.sink PORT LOG`.

For each letter it writes a line: when it said 250 (monotonic seconds, one clock for the whole machine) and to whom.
The first letters it keeps as they came, beside the log. It takes commands in one go (RFC 2920), as smtp-sink does.
With one kept connection and 5,000 bytes it takes a tenth more letters than Postfix's smtp-sink beside it, so that what
is compared with its limit is compared with more; by smtplib as many.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import IO, cast

import uvloop

KEPT = 2
_REPLIES = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 20000000\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}


class _Session(asyncio.Protocol):
    def __init__(self, log: IO[bytes], keep: list[Path]) -> None:
        self._log = log
        self._keep = keep
        self._buffer = b""
        self._in_letter = False
        self._to = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        replies = []
        while (end := self._buffer.find(b"\r\n.\r\n" if self._in_letter else b"\r\n")) >= 0:
            taken, self._buffer = self._buffer[:end], self._buffer[end + (5 if self._in_letter else 2) :]
            replies.append(self._letter(taken) if self._in_letter else self._command(taken))
        if replies:  # all in one go, or a client would wake up for each
            self._transport.write(b"".join(replies))

    def _command(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"RCPT":
            self._to = line[9:].partition(b">")[0]
        self._in_letter = verb == b"DATA"
        return _REPLIES.get(verb, b"250 2.1.0 fine\r\n")

    def _letter(self, body: bytes) -> bytes:
        self._in_letter = False
        if self._keep:
            self._keep.pop(0).write_bytes(body + b"\r\n")
        self._log.write(f"{time.monotonic():.6f} ".encode() + self._to + b"\n")
        return b"250 2.0.0 taken\r\n"


class Taken:
    """The sink's log, read as it grows."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file = log.open("rb")
        self._rest = b""

    def new(self) -> list[tuple[float, str]]:
        """Time and recipient of each letter since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [(float(at), to.decode()) for at, _, to in (line.partition(b" ") for line in lines)]

    def first(self) -> list[bytes]:
        """The first letters that came, as they went over the wire, without the final dot."""
        return [path.read_bytes() for path in _kept(self._log)]


def _kept(log: Path) -> list[Path]:
    return [log.with_name(f"{log.name}-{number}.eml") for number in range(KEPT)]


def send_by_hand(port: int, letters: Sequence[bytes], count: int, *, at_once: bool = False) -> float:
    """Letters per second on one kept connection, with nothing done but sending these ready bytes in turn: command by
    command, or those before the body `at_once`."""
    envelope = [b"MAIL FROM:<a@example.com>\r\n", b"RCPT TO:<by-hand>\r\n", b"DATA\r\n"]
    said_before = [b"".join(envelope)] if at_once else envelope
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def hear(lines: int = 1) -> None:
            heard = b""
            while heard.count(b"\n") < lines:
                if not (more := sock.recv(4096)):
                    raise ConnectionError("the sink hung up")
                heard += more

        hear()
        sock.sendall(b"EHLO bench\r\n")
        hear(_REPLIES[b"EHLO"].count(b"\n"))
        started_s = time.perf_counter()
        for letter in islice(cycle([letter + b".\r\n" for letter in letters]), count):
            for said in said_before:
                sock.sendall(said)
                hear(said.count(b"\n"))
            sock.sendall(letter)
            hear()
        return count / (time.perf_counter() - started_s)


def send_by_smtplib(port: int, letters: Sequence[bytes], count: int) -> float:
    """The same through the library, which is what Usher speaks with, command by command."""
    with smtplib.SMTP("127.0.0.1", port, "bench", timeout=10) as smtp:
        smtp.ehlo()
        if smtp.sock is not None:
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = time.perf_counter()
        for letter in islice(cycle(letters), count):
            smtp.mail("a@example.com")
            smtp.rcpt("by-smtplib")
            smtp.data(letter)
        return count / (time.perf_counter() - started_s)


async def serve(port: int, log: Path) -> None:
    keep = _kept(log)
    with log.open("ab", buffering=0) as file:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Session(file, keep), "127.0.0.1", port
        )
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
