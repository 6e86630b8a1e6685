"""A mail server that takes everything, as a process of its own: `python -m benchmarks.sink PORT LOG`.

For each letter it writes a line: when it said 250 (monotonic seconds, one clock for the whole machine) and to whom.
With one kept connection and 5,000 bytes it takes a tenth more letters than Postfix's smtp-sink beside it, so that what
is compared with its limit is compared with more; by smtplib as many.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import sys
import time
from pathlib import Path
from typing import IO, cast

import uvloop

_REPLIES = {
    b"EHLO": b"250-sink\r\n250-8BITMIME\r\n250 SIZE 20000000\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}


class _Session(asyncio.Protocol):
    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._buffer = b""
        self._in_letter = False
        self._to = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n.\r\n" if self._in_letter else b"\r\n")
            if end < 0:
                return
            taken, self._buffer = self._buffer[:end], self._buffer[end + (5 if self._in_letter else 2) :]
            if self._in_letter:
                self._in_letter = False
                self._transport.write(b"250 2.0.0 taken\r\n")
                self._log.write(f"{time.monotonic():.6f} ".encode() + self._to + b"\n")
                continue
            verb = taken[:4].upper()
            if verb == b"RCPT":
                self._to = taken[9:].partition(b">")[0]
            self._in_letter = verb == b"DATA"
            self._transport.write(_REPLIES.get(verb, b"250 2.1.0 fine\r\n"))


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


def send_by_hand(port: int, letter: bytes, count: int) -> float:
    """Letters per second on one kept connection, with nothing done but sending ready bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def hear() -> None:
            if not sock.recv(4096).endswith(b"\r\n"):
                raise ConnectionError("the sink hung up")

        hear()
        sock.sendall(b"EHLO bench\r\n")
        hear()
        started_s = time.perf_counter()
        for _ in range(count):
            for said in (
                b"MAIL FROM:<a@example.com>\r\n",
                b"RCPT TO:<by-hand>\r\n",
                b"DATA\r\n",
                letter + b".\r\n",
            ):
                sock.sendall(said)
                hear()
        return count / (time.perf_counter() - started_s)


def send_by_smtplib(port: int, letter: bytes, count: int) -> float:
    """The same through the library, which is what Usher speaks with."""
    with smtplib.SMTP("127.0.0.1", port, "bench", timeout=10) as smtp:
        smtp.ehlo()
        if smtp.sock is not None:
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = time.perf_counter()
        for _ in range(count):
            smtp.mail("a@example.com")
            smtp.rcpt("by-smtplib")
            smtp.data(letter)
        return count / (time.perf_counter() - started_s)


async def serve(port: int, log: Path) -> None:
    with log.open("ab", buffering=0) as file:
        server = await asyncio.get_running_loop().create_server(lambda: _Session(file), "127.0.0.1", port)
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
