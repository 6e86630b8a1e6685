"""One machine under one parent: children restarted and ended together, and the Redis that lives beside them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from kombu import Connection
from redis import Redis
from redis.exceptions import RedisError

from admin.embedded import EmbeddedRedis
from admin.processes import ROOT
from admin.supervisor import Child, Household
from config.settings import Settings, load_settings, socket_path
from core.errors import ConfigError
from integrations.shared import open_redis
from integrations.store.database import Database
from integrations.store.tables import heartbeats
from tests.webhooks.wix_signing import WIX_KEY, pem

WAITS = "import signal; signal.pause()"
IGNORES_SIGTERM = (
    "import signal, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path('deaf').touch(); signal.pause()"
)


def until(condition: Callable[[], object], what: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}, in vain"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Ended; one that nobody has buried yet counts as gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def a_child(folder: Path, name: str, code: str, log_to: Path | None = None) -> Child:
    (folder / f"{name}.py").write_text(code)
    return Child(name, (name,), os.environ, log_to=log_to, cwd=folder)


def pid_of(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def looked_after(household: Household, child: Child) -> int:
    household.look_after()
    return pid_of(child)


def test_a_child_that_dies_is_started_again_and_the_others_are_left_alone(tmp_path: Path) -> None:
    dies, lives = a_child(tmp_path, "dies", WAITS), a_child(tmp_path, "lives", WAITS)
    with Household([dies, lives]) as household:
        first, other = pid_of(dies), pid_of(lives)
        os.kill(first, signal.SIGKILL)
        until(lambda: dies.exit_code() is not None, "the child to die")

        household.look_after()
        assert pid_of(dies) == first, "not at once: it would be a loop"
        until(lambda: looked_after(household, dies) != first, "the child to be there again")

        assert dies.exit_code() is None
        assert pid_of(lives) == other

        second = pid_of(dies)
        os.kill(second, signal.SIGKILL)
        until(lambda: looked_after(household, dies) != second, "the child to be there a third time")
        third = pid_of(dies)

    assert [is_gone(pid) for pid in (first, second, third, other)] == [True] * 4


def test_a_child_that_is_told_that_its_settings_are_unfit_ends_all(tmp_path: Path) -> None:
    unfit, lives = a_child(tmp_path, "unfit", "raise SystemExit(2)"), a_child(tmp_path, "lives", WAITS)

    def keep_house() -> None:
        with Household([lives, unfit]) as household:
            until(lambda: looked_after(household, unfit) == 0, "the house to be given up")

    with pytest.raises(ConfigError, match="unfit cannot start; its message stands above"):
        keep_house()

    assert is_gone(pid_of(lives))


def test_an_error_in_the_house_leaves_no_child_behind(tmp_path: Path) -> None:
    child = a_child(tmp_path, "lives", WAITS)

    with pytest.raises(RuntimeError), Household([child]):
        raise RuntimeError

    assert is_gone(pid_of(child))


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    child = a_child(tmp_path, "deaf_child", IGNORES_SIGTERM)
    child.start()
    until((tmp_path / "deaf").exists, "the child to be deaf")

    child.ask_to_end()
    child.end_by(time.monotonic())

    assert child.exit_code() == -signal.SIGKILL


def test_whom_a_child_started_does_not_stay_behind(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
        "pathlib.Path('pid.new').write_text(str(p.pid)); pathlib.Path('pid.new').rename('pid'); signal.pause()"
    )
    child = a_child(tmp_path, "has_children", code)
    child.start()
    until((tmp_path / "pid").exists, "the child's own child")

    child.ask_to_end()
    child.end_by(time.monotonic() + 20)

    until(lambda: is_gone(int((tmp_path / "pid").read_text())), "the child's own child to end")


def test_a_child_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    (tmp_path / "lives.py").write_text(
        "import os, pathlib, signal; from admin.processes import end_with_parent; end_with_parent();"
        "pathlib.Path('pid.new').write_text(str(os.getpid())); pathlib.Path('pid.new').rename('pid');"
        "signal.pause()"
    )
    (tmp_path / "parent.py").write_text(
        "import os, pathlib, signal; from admin.supervisor import Child;"
        "Child('lives', ('lives',), os.environ, cwd=pathlib.Path.cwd()).start(); signal.pause()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=env) as parent:
        until((tmp_path / "pid").exists, "the child")
        pid = int((tmp_path / "pid").read_text())
        assert not is_gone(pid)
        parent.kill()

    until(lambda: is_gone(pid), "the child to end")


def test_what_a_child_says_is_added_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    log.write_text("before\n")
    child = a_child(tmp_path, "talks", "import sys; print('said'); sys.stderr.write('complained')", log)

    child.start()
    child.end_by(time.monotonic() + 20)

    assert (child.exit_code(), sorted(log.read_text().splitlines())) == (0, ["before", "complained", "said"])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    found = EmbeddedRedis(socket_path(tmp_path))
    yield found
    found.stop()


def client(folder: Path) -> Redis:
    return open_redis(f"unix://{socket_path(folder)}")


def test_the_embedded_redis_starts_answers_and_stops(redis: EmbeddedRedis, tmp_path: Path) -> None:
    assert not redis.answers()

    redis.start()
    redis.start()
    with client(tmp_path) as asking:
        pid = asking.info()["process_id"]
        assert (redis.answers(), asking.set("a", "b")) == (True, True)
    redis.stop()

    assert not redis.answers()
    assert is_gone(pid)
    redis.stop()


def test_the_embedded_redis_keeps_what_it_took_and_evicts_nothing(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    redis.start()

    with client(tmp_path) as asking:
        found = {name: asking.config_get(name)[name] for name in ("appendonly", "maxmemory-policy", "port")}

    assert found == {"appendonly": "yes", "maxmemory-policy": "noeviction", "port": "0"}


def test_nobody_else_on_the_machine_can_open_it(redis: EmbeddedRedis, tmp_path: Path) -> None:
    redis.start()

    socket = socket_path(tmp_path)
    assert [path.stat().st_mode & 0o077 for path in (socket, socket.parent)] == [0, 0]


def test_what_redis_was_given_is_there_after_a_kill(redis: EmbeddedRedis, tmp_path: Path) -> None:
    redis.start()
    with client(tmp_path) as asking:
        pid = asking.info()["process_id"]
        asking.set("kept", "yes")
        asking.config_set("appendfsync", "always")
        asking.set("kept too", "yes")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not redis.answers(), "the server to be gone")

    redis.look_after()

    with client(tmp_path) as asking:
        assert (asking.get("kept"), asking.get("kept too")) == (b"yes", b"yes")
        assert asking.info()["process_id"] != pid


def test_a_server_left_behind_by_a_killed_parent_is_taken_over_and_stopped(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    code = (
        "import sys, signal, pathlib; from admin.embedded import EmbeddedRedis;"
        "EmbeddedRedis(pathlib.Path(sys.argv[1])).start(); signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, socket_path(tmp_path)], cwd=ROOT)
    until(redis.answers, "the first parent's server")
    with client(tmp_path) as asking:
        pid = asking.info()["process_id"]
    parent.kill()
    parent.wait()
    assert redis.answers(), "it outlives its parent"

    redis.start()
    with client(tmp_path) as asking:
        assert asking.info()["process_id"] == pid, "no second server beside it"
    redis.stop()

    until(lambda: is_gone(pid), "the server to end")
    assert not redis.answers()


def test_one_look_at_a_server_that_hangs_up_is_one_connection(redis: EmbeddedRedis, tmp_path: Path) -> None:
    """Who looks after the house looks every half second: retries with pauses would keep SIGTERM waiting."""
    socket_path(tmp_path).parent.mkdir(parents=True)
    accepted = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(tmp_path)))
        listener.listen()

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    accepted.append(True)
                    connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        answers = redis.answers()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)

    assert (answers, len(accepted)) == (False, 1)


def test_a_folder_that_cannot_be_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")

    with pytest.raises(ConfigError, match="The embedded Redis cannot start"):
        EmbeddedRedis(tmp_path / "taken" / "redis" / "redis.sock").start()


@pytest.mark.parametrize("name", ["data", "my data", "Büro 100%#", "d" * 100])
def test_redis_and_celery_find_the_server_of_any_data_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    settings = load_settings(env_file=None, data_dir=folder, redis_url="", broker_url="")
    redis = EmbeddedRedis(socket_path(folder))
    redis.start()
    try:
        with open_redis(settings.redis) as asking, Connection(settings.broker) as broker:
            assert asking.ping()
            broker.ensure_connection(max_retries=1, timeout=5)
    finally:
        redis.stop()
        if not socket_path(folder).is_relative_to(folder):
            for leftover in sorted(socket_path(folder).parent.rglob("*"), reverse=True):
                leftover.rmdir() if leftover.is_dir() else leftover.unlink()
            socket_path(folder).parent.rmdir()


class Running:
    """A real `usher run` in a folder of its own; what all its processes print is one stream."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.log = folder / "run.log"
        plain = {
            name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields
        }
        settings = {
            "WIX_APP_ID": "app-1",
            "WIX_APP_SECRET": "an app secret",
            "WIX_PUBLIC_KEY": pem(WIX_KEY),
            "WIX_API_URL": "http://127.0.0.1:1",
            "SECRET_KEY": "a secret of the tests",
            "EMAIL_URL": "console:",
            "EMAIL_FROM": "Usher <usher@club.example.com>",
            "PUBLIC_URL": "https://usher.example.com",
            "PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "admin", "run"],
                cwd=folder,
                env=plain | settings,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, event: str) -> list[dict[str, object]]:
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # half a line
                found.append(json.loads(line))
        return [line for line in found if str(line["event"]).startswith(event)]

    def port(self) -> int | None:
        up = self.said("Uvicorn running on")
        return int(str(up[-1]["event"]).split(":")[2].split()[0]) if up else None

    def health(self) -> dict[str, str]:
        try:
            checks = httpx.get(f"http://127.0.0.1:{self.port()}/health/ready", trust_env=False).json()[
                "checks"
            ]
        except httpx.TransportError:
            return {}
        return {str(name): str(state) for name, state in checks.items()}

    def is_well(self) -> bool:
        return bool(self.port()) and set(self.health().values()) == {"ok"}

    def pids(self) -> dict[str, set[int]]:
        """Of web, beat and the processes of the worker's pool, as each of them tells."""
        database = Database(f"sqlite:///{self.folder / 'data' / 'usher.db'}")
        with database.begin() as tx:
            names = [row.name.split(":") for row in tx.execute(sa.select(heartbeats.c.name))]
        database.close()
        found = {kind: {int(name[2]) for name in names if name[0] == kind} for kind in ("worker", "beat")}
        started = self.said("Started server process")
        return found | {"web": {int(str(line["event"]).split("[")[1].rstrip("]")) for line in started}}

    def valkey(self) -> int:
        with client(self.folder / "data") as asking:
            return int(asking.info()["process_id"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path)
    try:
        until(found.is_well, "everything to be well", 60)
        until(lambda: all(found.pids().values()), "every process to be heard of")
        yield found
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            found.process.terminate()
            found.process.wait(timeout=30)
        with contextlib.suppress(RedisError), client(tmp_path / "data") as asking:
            asking.shutdown(nosave=True)


def test_run_brings_back_what_died_and_at_the_end_leaves_nothing(running: Running) -> None:
    """Killed: the embedded Redis, web and beat. Then SIGTERM, as a platform sends it."""
    before, valkey = running.pids(), running.valkey()
    for pid in (valkey, *before["web"], *before["beat"]):
        os.kill(pid, signal.SIGKILL)

    until(lambda: len(running.pids()["web"]) == 2, "web to be there again")
    until(lambda: len(running.pids()["beat"]) == 2, "beat to be there again")
    until(running.is_well, "everything to be well again", 60)
    after, second_valkey = running.pids(), running.valkey()
    assert second_valkey != valkey
    assert {str(line["child"]) for line in running.said("process.restarted")} == {"web", "beat"}

    running.process.send_signal(signal.SIGTERM)
    code = running.process.wait(timeout=20)

    assert code == 0, running.log.read_text()
    everybody = {pid for pids in after.values() for pid in pids} | {valkey, second_valkey}
    assert {pid: is_gone(pid) for pid in everybody} == dict.fromkeys(everybody, True)
    assert "Traceback" not in running.log.read_text()
    with pytest.raises(RedisError):
        running.valkey()


def test_run_says_once_where_it_is_ready(running: Running) -> None:
    def lines() -> list[str]:
        return [line for line in running.log.read_text().splitlines() if line.startswith("Usher is ready")]

    until(lines, "the line")

    assert lines() == [f"Usher is ready at http://127.0.0.1:{running.port()}"]


def test_run_takes_over_the_redis_and_the_port_of_a_killed_run(running: Running) -> None:
    """kill -9 of the parent alone: its children end by themselves, and the next run is not hindered by them."""
    valkey = running.valkey()
    pids = {pid for pids in running.pids().values() for pid in pids}
    orphans = {os.getpgid(pid) for pid in pids}  # each child leads a session of its own
    running.process.kill()
    running.process.wait()

    again = Running(running.folder, running.port() or 0)
    try:
        until(again.is_well, "the second run to be well", 60)
        assert running.valkey() == valkey
    finally:
        again.process.terminate()
        code = again.process.wait(timeout=20)
    assert code == 0
    until(lambda: is_gone(valkey), "the server that was taken over to end")
    until(lambda: all(map(is_gone, orphans | pids)), "the orphans to end")
