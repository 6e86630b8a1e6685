"""The stage: sandbox, embedded Redis and our own processes on free ports, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from admin.embedded import EmbeddedRedis
from admin.processes import ROOT
from admin.supervisor import Child, Household
from config.settings import Settings, socket_path
from core.errors import AppError, ConfigError
from integrations.store.database import Database

START_WITHIN_S = 60.0


class DemoError(AppError):
    """The day cannot go on."""


@dataclass
class Stage:
    sandbox: httpx.Client
    usher: httpx.Client
    database: Database
    redis: EmbeddedRedis
    household: Household
    folder: Path
    admin_token: str = field(repr=False)

    @property
    def site(self) -> str:
        return str(self.state()["site"]["instance_id"])

    def act(self, act: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "/sandbox/acts", act)

    def switch(self, **switches: Any) -> None:
        self._ask("PATCH", "/sandbox/switches", switches)

    def send_webhook(self, webhook: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "/sandbox/webhooks", webhook)

    def deliveries(self) -> dict[str, Any]:
        return self._ask("GET", "/sandbox/deliveries")

    def state(self) -> dict[str, Any]:
        return self._ask("GET", "/sandbox/state")

    def mail(self) -> list[dict[str, Any]]:
        answer = self.sandbox.get("/mail.json")
        letters: list[dict[str, Any]] = answer.json()
        return letters

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.sandbox.request(method, path, json=body)
        found: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            raise DemoError(f"The sandbox refuses {path}: {found.get('error', answer.status_code)}")
        return found

    def kill_web(self) -> None:
        """As the kernel would: no chance to say goodbye. The household starts it again."""
        web = next(child for child in self.household.children if child.name == "web")
        if web.process is not None:
            os.kill(web.process.pid, signal.SIGKILL)
            web.process.wait()


@contextlib.contextmanager
def set_up() -> Iterator[Stage]:
    """Start everything and take it down at the end, its folder too unless something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="usher-demo-"))
    try:
        with _set_up_in(folder) as stage:
            yield stage
    except DemoError as exc:
        raise DemoError(f"{exc}\nThe logs are in {folder}") from exc
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _set_up_in(folder: Path) -> Iterator[Stage]:
    with contextlib.ExitStack() as cleanup:
        sandbox_url, theirs = cleanup.enter_context(run_sandbox(folder, retry_scale=0.1))
        port = free_port()
        env = settings_for(folder, theirs, port)
        cleanup.enter_context(_database(env))
        data = Path(env["DATA_DIR"])
        data.mkdir()
        database = Database(env.get("DATABASE_URL", f"sqlite:///{data / 'usher.db'}"))
        cleanup.callback(database.close)
        database.migrate()
        redis = EmbeddedRedis(socket_path(data))
        redis.start()
        cleanup.callback(redis.stop)
        children = [
            Child(name, ("admin", name), env, log_to=folder / f"{name}.log", cwd=folder)
            for name in ("web", "worker", "beat")
        ]
        household = cleanup.enter_context(Household(children))
        stop = threading.Event()
        watch = threading.Thread(target=_look_after, args=(household, stop), daemon=True)
        watch.start()
        cleanup.callback(watch.join, 5.0)
        cleanup.callback(stop.set)
        usher = cleanup.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10))
        sandbox = cleanup.enter_context(httpx.Client(base_url=sandbox_url, timeout=10))
        stage = Stage(sandbox, usher, database, redis, household, folder, env["ADMIN_TOKEN"])
        _wait_until_ready(stage)
        sandbox.put("/sandbox/webhook-url", json={"url": f"http://127.0.0.1:{port}/webhooks/wix"})
        yield stage


@contextlib.contextmanager
def run_sandbox(folder: Path, *, retry_scale: float) -> Iterator[tuple[str, dict[str, str]]]:
    """Its address, and the settings that connect Usher to it. `retry_scale` times Wix's waits between deliveries."""
    command = [sys.executable, "-m", "sandbox", "--port", "0", "--smtp-port", "0"]
    command += ["--rate-limit", "0", "--retry-scale", str(retry_scale)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "sandbox.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 (our own module, no shell)
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    try:
        line = b""
        if process.stdout is not None and select.select([process.stdout], [], [], START_WITHIN_S)[0]:
            line = process.stdout.readline()
        if not line:
            raise DemoError("The sandbox did not start")
        ready: dict[str, Any] = json.loads(line)
        yield ready["url"], {name: str(value) for name, value in ready.items() if name.isupper()}
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()


def settings_for(folder: Path, theirs: dict[str, str], port: int) -> dict[str, str]:
    """The environment of processes that live in `folder` alone: nothing of a real installation but DATABASE_URL."""
    known = {name.upper() for name in Settings.model_fields}
    env = {name: value for name, value in os.environ.items() if name.upper() not in known}
    env |= theirs
    env |= {
        "EMAIL_FROM": "Seaside Community <hello@seaside.example.com>",
        "EMAIL_POSTAL_ADDRESS": "Seaside Community, 1 Harbour Road, Port Example",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SECRET_KEY": os.urandom(24).hex(),
        "ADMIN_TOKEN": secrets.token_urlsafe(24),
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "AUTOMATIONS_FILE": str(ROOT / "config" / "automations.toml"),
        # A day is played in a minute: Wix's 200 calls a minute would make it three.
        "WIX_CALLS_PER_MINUTE": "6000",
    }
    return env | {name: os.environ[name] for name in ("DATABASE_URL", "BROKER_URL") if os.environ.get(name)}


@contextlib.contextmanager
def _database(env: dict[str, str]) -> Iterator[None]:
    """On PostgreSQL the demo lives in a schema of its own, gone afterwards; a SQLite file is the demo's anyway."""
    url = env.get("DATABASE_URL", "")
    if not url.startswith("postgres"):
        env.pop("DATABASE_URL", None)
        yield
        return
    schema = f"usher_demo_{os.getpid()}_{int(time.time())}"
    database = Database(url)
    with database.begin() as tx:
        tx.execute(sa.text(f"CREATE SCHEMA {schema}"))
    inside = database.url.update_query_dict({"options": f"-csearch_path={schema}"})
    env["DATABASE_URL"] = inside.render_as_string(hide_password=False)
    try:
        yield
    finally:
        with database.begin() as tx:
            tx.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
        database.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _look_after(household: Household, stop: threading.Event) -> None:
    with contextlib.suppress(ConfigError):
        while not stop.wait(0.2):
            household.look_after()


def _wait_until_ready(stage: Stage) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if stage.usher.get("/health/ready").json()["status"] == "ok":
                return
        time.sleep(0.1)
    raise DemoError("Usher did not get ready")
