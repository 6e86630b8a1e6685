"""A RabbitMQ of one's own: a node on free loopback ports with all its files in a folder, gone afterwards.

`python -m tests.rabbit_node COMMAND …` runs a command with TEST_AMQP_URL naming such a node. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_WITHIN_S = 60.0


def server_binary() -> Path | None:
    """Debian's own script runs as anybody; the one it puts on the path wants root and its own folders."""
    found = str(_DEBIAN) if _DEBIAN.exists() else shutil.which("rabbitmq-server")
    return Path(found) if found and shutil.which("epmd") else None


class RabbitNode:
    """Keeps its ports and its files over a kill, so that it can be started again as the same node."""

    def __init__(self, folder: Path, config: str = "") -> None:
        server = server_binary()
        if server is None:
            raise FileNotFoundError("rabbitmq-server and epmd are not installed")
        self._server = server
        self._folder = folder
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self.port, distribution, self._epmd_port = _free_ports(3)
        (folder / "rabbitmq.conf").write_text(config)
        (folder / "enabled_plugins").write_text("[].\n")
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(folder),  # of the cookie
            "RABBITMQ_NODENAME": f"usher-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(folder / "node.log"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # It shares the machine with what is tested.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Returns when it takes connections."""
        if self._epmd is None:  # in our hands: the one a node starts by itself would stay for ever
            command = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(
                command, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        with (self._folder / "start.log").open("ab") as log:
            self._node = subprocess.Popen(
                [self._server],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_WITHIN_S
        while not self._greets():
            if self._node.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"RabbitMQ did not start; its logs are in {self._folder}")
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """To the node and whatever it started. A killed one is buried."""
        if self._node is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._node.pid, number)
        if number == signal.SIGKILL:
            self._node.wait(timeout=10)

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says."""
        command = [self._server.with_name("rabbitmqctl"), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=True
        )
        return done.stdout

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(timeout=10)

    def _greets(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as talk:
            talk.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(talk.recv(1))
        return False


@contextlib.contextmanager
def a_rabbit(config: str = "") -> Iterator[RabbitNode]:
    folder = Path(tempfile.mkdtemp(prefix="usher-rabbit-"))
    node = RabbitNode(folder, config)
    try:
        node.start()
        yield node
    finally:
        node.end()
    shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of the end of the block
    with a_rabbit() as node:
        return subprocess.run(command, env={**os.environ, "TEST_AMQP_URL": node.url}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
