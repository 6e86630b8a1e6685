"""All processes of one machine under one parent: started together, restarted when they die, ended together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from admin.embedded import EmbeddedRedis
from admin.processes import ROOT, check_settings
from config.logging import set_up_logging
from config.settings import socket_path
from core.errors import ConfigError
from integrations.store.database import Database

log = logging.getLogger(__name__)

BAD_INPUT = 2
RESTART_AFTER_S = 1.0
STOP_WITHIN_S = 15.0


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
                env={**self.env, "PYTHONPATH": str(ROOT)},
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
        if self.process is None:
            return
        try:
            self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process.killed", extra={"child": self.name})
            self.process.kill()
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
    checked = check_settings(sends=True)
    settings = checked.settings
    set_up_logging("run")
    database = Database(settings.database)
    database.migrate()
    database.close()
    redis = None if settings.redis_url.get_secret_value() else EmbeddedRedis(socket_path(settings.data_dir))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = [Child(name, ("admin", name), os.environ) for name in ("web", "worker", "beat")]
    if redis is not None:
        redis.start()
    try:
        with Household(children) as household:
            log.info("run.started", extra={"port": settings.port})
            while not stop.wait(0.5):
                household.look_after()
                if redis is not None:
                    redis.look_after()
    finally:
        if redis is not None:
            redis.stop()
