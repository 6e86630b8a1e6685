"""The program itself: one line when ready, a clean end, clear refusals."""

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox import __main__ as sandbox_main

ROOT = Path(__file__).parent.parent.parent
ANY_PORTS = ["--port", "0", "--smtp-port", "0"]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *ANY_PORTS, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready_line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.env"


@pytest.fixture
def running(env_file: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(
        "--env-file", str(env_file), "--rate-limit", "7", "--retry-scale", "0.5", "--switch", "totals=never"
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_works_there_and_ends_when_told(
    running: subprocess.Popen[str], env_file: Path, number: signal.Signals
) -> None:
    ready = ready_line(running)
    switches = httpx.get(f"{ready['url']}/sandbox/switches", trust_env=False).json()
    host, _, port = ready["smtp"].removeprefix("smtp://").partition(":")
    with smtplib.SMTP(host, int(port), timeout=10) as client:
        assert client.noop()[0] == 250

    running.send_signal(number)
    rest, logs = running.communicate(timeout=20)

    assert (ready["ready"], ready["EMAIL_URL"], ready["WIX_API_URL"]) == (True, ready["smtp"], ready["url"])
    chosen = ("rate_limit_per_minute", "retry_scale", "totals")
    assert [switches[name] for name in chosen] == [7, 0.5, "never"]
    assert (running.returncode, rest) == (0, "")
    assert "Traceback" not in logs
    lines = env_file.read_text(encoding="utf-8").splitlines()
    written = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert written["WIX_API_URL"] == f'"{ready["url"]}"'
    assert written["WIX_PUBLIC_KEY"].strip('"').replace("\\n", "\n") == ready["WIX_PUBLIC_KEY"]
    assert env_file.stat().st_mode & 0o077 == 0


def refusal(*arguments: str) -> str:
    process = start(*arguments)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, ""), err
    assert "Traceback" not in err
    return err


def test_a_taken_port_is_told_and_nothing_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in refusal("--smtp-port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--switch", "colour=red"], "unknown switch: colour"),
        (["--retry-scale", "-1"], "retry_scale: expected a number"),
        (["--webhook-url", "localhost"], "is not an http or https address"),
        (["--community", "/nowhere.json"], "/nowhere.json"),
        (["--community", __file__], "test_sandbox_process.py"),
        (["--key-file", __file__], "sandbox: "),
    ],
)
def test_a_bad_option_is_told_and_nothing_is_started(arguments: list[str], complaint: str) -> None:
    assert complaint in refusal(*arguments)


def test_lines_that_somebody_added_to_its_file_outlive_a_restart(env_file: Path) -> None:
    first = sandbox_main._write_env_file
    first(env_file, {"WIX_APP_ID": "1"})
    with env_file.open("a", encoding="utf-8") as file:
        file.write("ADMIN_TOKEN=mine\n")

    first(env_file, {"WIX_APP_ID": "2"})

    lines = env_file.read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "ADMIN_TOKEN=mine"
    assert 'WIX_APP_ID="2"' in lines
    assert 'WIX_APP_ID="1"' not in lines


def test_settings_somebody_else_wrote_are_left_alone(env_file: Path) -> None:
    env_file.write_text("SECRET_KEY=mine\n", encoding="utf-8")

    assert "left alone" in refusal("--env-file", str(env_file))
    assert env_file.read_text(encoding="utf-8") == "SECRET_KEY=mine\n"


def test_a_key_file_is_made_once_and_keeps_the_key(tmp_path: Path) -> None:
    path, found = tmp_path / "key.pem", set()
    for _ in range(2):
        process = start("--key-file", str(path))
        found.add(ready_line(process)["WIX_PUBLIC_KEY"])
        process.terminate()
        process.communicate(timeout=20)

    assert len(found) == 1
    assert os.stat(path).st_mode & 0o077 == 0


def test_it_knows_nothing_of_the_service_it_is_there_for() -> None:
    code = "import sys, sandbox.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    ours = {"admin", "asgi", "config", "core", "integrations", "tasks", "webhooks"}
    assert not ours & set(done.stdout.split())
