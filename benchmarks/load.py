"""The sender, a process of its own: `python -m benchmarks.load PORT BODIES COUNT CONNECTIONS [RATE]`.

Without a rate each connection sends its next request when it has its answer. With one, requests are due at fixed
times whether or not earlier ones were answered, and an answer's delay counts from the time it was due.
Prints JSON: `seconds`, `statuses`, `delays_ms`.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

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
    def __init__(self, requests: Iterator[bytes], *, paced: bool) -> None:
        self.requests = requests
        self.paced = paced
        self.idle: deque[_Connection] = deque()
        self.overdue: deque[tuple[float, bytes]] = deque()
        self.statuses: Counter[str] = Counter()
        self.delays_ms: list[float] = []
        self.ended = asyncio.Event()
        self.expected = 0

    def note(self, status: str, due_s: float) -> None:
        self.statuses[status] += 1
        self.delays_ms.append((time.perf_counter() - due_s) * 1000)
        if len(self.delays_ms) == self.expected:
            self.ended.set()

    def next_for(self, connection: _Connection) -> None:
        if self.overdue:
            connection.send(*self.overdue.popleft())
        elif self.paced:
            self.idle.append(connection)
        elif request := next(self.requests, None):
            connection.send(time.perf_counter(), request)

    def offer(self, due_s: float, request: bytes) -> None:
        if self.idle:
            self.idle.popleft().send(due_s, request)
        else:
            self.overdue.append((due_s, request))


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._waits_since: float | None = None
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, due_s: float, request: bytes) -> None:
        self._waits_since = due_s
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head_end = self._answer.find(b"\r\n\r\n")
        if head_end < 0 or self._waits_since is None:
            return
        length = _LENGTH.search(self._answer, 0, head_end)
        if len(self._answer) < head_end + 4 + (int(length[1]) if length else 0):
            return
        status, self._answer = self._answer[9:12].decode(), b""
        due_s, self._waits_since = self._waits_since, None
        self._run.note(status, due_s)
        self._run.next_for(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._waits_since is not None:
            self._run.note("lost", self._waits_since)
        if self in self._run.idle:
            self._run.idle.remove(self)


async def _drive(port: int, requests: list[bytes], connections: int, rate: float) -> None:
    loop = asyncio.get_running_loop()
    run = _Run(iter(requests), paced=rate > 0)
    run.expected = len(requests)
    opened = [
        (await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    started_s = time.perf_counter()
    for connection in opened:
        run.next_for(connection)
    async with asyncio.timeout(GIVE_UP_S):
        if rate:
            for number, request in enumerate(requests):
                due_s = started_s + number / rate
                if (wait_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                run.offer(due_s, request)
        await run.ended.wait()
    seconds = time.perf_counter() - started_s
    print(json.dumps({"seconds": seconds, "statuses": run.statuses, "delays_ms": run.delays_ms}))


def main(port: str, bodies: str, count: str, connections: str, rate: str = "0") -> None:
    head = f"POST /webhooks/wix HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: %d\r\n\r\n"
    requests: list[bytes] = []
    with Path(bodies).open("rb") as file:
        while len(requests) < int(count) and (size := int.from_bytes(file.read(4))):
            requests.append((head % size).encode() + file.read(size))
    uvloop.run(_drive(int(port), requests, int(connections), float(rate)))


if __name__ == "__main__":
    main(*sys.argv[1:])
