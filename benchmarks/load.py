"""The sender, a process of its own: `python -m benchmarks.load PORT BODIES COUNT CONNECTIONS [RATE]`.

Without a rate each connection sends its next request when it has its answer. With one, requests are due at fixed
times whether or not earlier ones were answered, and an answer's delay counts from the time it was due.
Prints JSON: `seconds`, `statuses`, `delays_ms`.
"""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from admin.processes import ROOT

GIVE_UP_S = 60.0
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Sent:
    per_second: float
    delays_ms: list[float]
    accepted: int


def write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    with path.open("wb") as file:
        for body in bodies:
            file.write(len(body).to_bytes(4) + body)


def send(port: int, bodies: Path, count: int, *, connections: int = 32, rate: float = 0) -> Sent:
    """Run the sender to its end. Raises RuntimeError unless every answer was a 200, or at a rate also a 503."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *map(str, (port, bodies, count, connections, rate))],
        cwd=ROOT,
        capture_output=True,
        timeout=GIVE_UP_S + 30,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the sender failed: {done.stderr.decode()[-1000:]}")
    told = json.loads(done.stdout)
    accepted = told["statuses"].get("200", 0)
    if accepted + (told["statuses"].get("503", 0) if rate else 0) != count:
        raise RuntimeError(f"not every delivery was accepted: {told['statuses']}")
    return Sent(count / told["seconds"], told["delays_ms"], accepted)


class _Run:
    """By hand and not by asyncio, which takes three times the processor's time: what the sender takes is missing to
    what it measures."""

    def __init__(self, port: int, requests: list[bytes], connections: int, rate: float) -> None:
        self._requests = requests
        self._rate = rate
        self._sent = 0
        self._poll = select.poll()
        self._open = [socket.create_connection(("127.0.0.1", port), GIVE_UP_S) for _ in range(connections)]
        self._by_number = {opened.fileno(): opened for opened in self._open}
        self._idle = deque(self._open)
        self._due: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}
        self.statuses: Counter[str] = Counter()
        self.delays_ms: list[float] = []
        for opened in self._open:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(opened, select.POLLIN)

    def drive(self) -> float:
        """How many seconds it took. Raises TimeoutError."""
        started_s = time.perf_counter()
        while len(self.delays_ms) < len(self._requests):
            now_s = time.perf_counter()
            if now_s - started_s > GIVE_UP_S:
                raise TimeoutError
            wait_s = self._offer(started_s, now_s)
            for number, _ in self._poll.poll(wait_s * 1000):
                self._hear(number)
        return time.perf_counter() - started_s

    def _offer(self, started_s: float, now_s: float) -> float:
        """Send what is due, as far as there are connections for it; returns the seconds until the next is."""
        while self._sent < len(self._requests):
            due_s = started_s + self._sent / self._rate if self._rate else now_s
            if due_s > now_s:
                return due_s - now_s
            if not self._idle:
                break
            self._send(self._idle.popleft(), due_s)
        return GIVE_UP_S

    def _send(self, connection: socket.socket, due_s: float) -> None:
        request = self._requests[self._sent]
        self._sent += 1
        self._due[connection.fileno()] = due_s
        connection.sendall(request)

    def _hear(self, number: int) -> None:
        try:
            piece = self._by_number[number].recv(65536)
        except OSError:
            piece = b""
        answer = self._answers.pop(number, b"") + piece
        head_end = answer.find(b"\r\n\r\n")
        length = _LENGTH.search(answer, 0, head_end) if head_end >= 0 else None
        if piece and (head_end < 0 or len(answer) < head_end + 4 + (int(length[1]) if length else 0)):
            self._answers[number] = answer
            return
        due_s = self._due.pop(number, None)
        connection = self._by_number[number]
        if due_s is not None:
            now_s = time.perf_counter()
            self.statuses[answer[9:12].decode() if piece else "lost"] += 1
            self.delays_ms.append((now_s - due_s) * 1000)
        else:  # nobody asked: it is hung up on
            piece = b""
            self._idle.remove(connection)
        if not piece:
            self._poll.unregister(number)
        elif not self._rate and self._sent < len(self._requests):
            self._send(connection, now_s)
        else:
            self._idle.append(connection)


def main(port: str, bodies: str, count: str, connections: str, rate: str = "0") -> None:
    head = f"POST /webhooks/wix HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: %d\r\n\r\n"
    requests: list[bytes] = []
    with Path(bodies).open("rb") as file:
        while len(requests) < int(count) and (size := int.from_bytes(file.read(4))):
            requests.append((head % size).encode() + file.read(size))
    run = _Run(int(port), requests, int(connections), float(rate))
    seconds = run.drive()
    print(json.dumps({"seconds": seconds, "statuses": run.statuses, "delays_ms": run.delays_ms}))


if __name__ == "__main__":
    main(*sys.argv[1:])
