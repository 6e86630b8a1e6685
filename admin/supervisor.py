"""All processes of one machine under one parent: started together, restarted when they die, ended together."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx

from admin.embedded import EmbeddedRedis
from admin.processes import PARENT, ROOT, check_settings, find_port, make_data_dir
from config.logging import set_up_logging
from config.settings import NOT_FIT, socket_path
from core.errors import ConfigError
from integrations.store.database import Database

log = logging.getLogger(__name__)

BAD_INPUT = 2
RESTART_AFTER_S = 1.0
STOP_WITHIN_S = 17.0
"""Longer than a child takes that cuts its work short, shorter than the 20 s a platform gives."""


@dataclass
class Child:
    """One process. `log_to` gets what it prints; None leaves it on our own output."""

    name: str
    arguments: Sequence[str]
    env: Mapping[str, str]
    log_to: Path | None = None
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        output: IO[bytes] | None = self.log_to.open("ab") if self.log_to else None
        try:
            # A session of its own: Ctrl-C reaches the parent alone, which ends the children in order.
            self.process = subprocess.Popen(  # noqa: S603 (our own modules, no shell)
                [sys.executable, "-m", *self.arguments],
                cwd=self.cwd,
                env={**self.env, "PYTHONPATH": str(ROOT), PARENT: str(os.getpid())},
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()

    def exit_code(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def ask_to_end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def end_by(self, deadline: float) -> None:
        """Afterwards nobody of its process group is left."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process.killed", extra={"child": self.name})
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=5)


class Household:
    """Children kept alive until the end of the block. One that finds its settings unfit ends them all."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = list(children)
        self._restart_at: dict[str, float] = {}

    def __enter__(self) -> Household:
        for child in self.children:
            child.start()
        return self

    def look_after(self) -> None:
        """Restart who died, a second after. Raises ConfigError when a child says that it cannot start."""
        now = time.monotonic()
        for child in self.children:
            code = child.exit_code()
            if code is None:
                continue
            if code == BAD_INPUT:
                raise ConfigError(f"{child.name} cannot start; its message stands above")
            due = self._restart_at.setdefault(child.name, now + RESTART_AFTER_S)
            if now >= due:
                log.warning("process.restarted", extra={"child": child.name, "exit_code": code})
                del self._restart_at[child.name]
                child.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline = time.monotonic() + STOP_WITHIN_S
        for child in self.children:
            child.ask_to_end()
        for child in self.children:
            child.end_by(deadline)


def run_everything() -> None:
    """`usher run`: migrate, then web, worker and beat, with an embedded Redis unless one is named."""
    settings = check_settings(sends=True).settings
    port = find_port(settings.port)
    set_up_logging("run")
    database = Database(settings.database)
    database.require_reachable()
    make_data_dir(settings)
    redis = None if settings.redis_url.get_secret_value() else EmbeddedRedis(socket_path(settings.data_dir))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    env = {**os.environ, "PORT": str(port)}
    children = [Child(name, ("admin", name), env) for name in ("web", "worker", "beat")]
    with _alone_in(settings.data_dir):
        database.migrate()
        database.close()
        try:
            if redis is not None:
                redis.start()
            with Household(children) as household:
                log.info("run.started", extra={"port": port})
                ready = False
                while not stop.wait(0.5):
                    household.look_after()
                    if redis is not None:
                        redis.look_after()
                    if not ready and (ready := _is_ready(port)):
                        print(f"Usher is ready at http://127.0.0.1:{port}", flush=True)
        finally:
            if redis is not None:
                redis.stop()


@contextlib.contextmanager
def _alone_in(data_dir: Path) -> Iterator[None]:
    """Two runs on one folder would end each other's Redis. The system lets go of the lock, however we end."""
    with (data_dir / "usher.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(NOT_FIT, [f"DATA_DIR: another `usher run` works in {data_dir}"]) from exc
        yield


def _is_ready(port: int) -> bool:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and '"status":"ok"' in answer.text
