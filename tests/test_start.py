"""What a start does not load. Each import costs every start, and most are for what happens later or never."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Mount

from admin.processes import ROOT
from asgi import create_app
from tests.test_web_app import rows, running, settings_for
from tests.webhooks.wix_signing import delivery

FOR_PEOPLE = {"admin.api", "admin.console", "admin.office", "integrations.reports", "pygal"}
FOR_THEIR_PAGES = {"argon2", "babel", "email_validator", "limits", "phonenumbers", "tomlkit", "typst"}


def loaded_after(code: str) -> set[str]:
    """The modules of a fresh process, and the packages they are in."""
    code += "\nimport json, sys\nprint('\\n' + json.dumps(list(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return {name for module in modules for name in (module, module.partition(".")[0])}


def test_the_help_of_the_command_line_loads_no_server_no_database_and_no_client():
    loaded = loaded_after(
        "import contextlib\nfrom admin.cli import app\nwith contextlib.suppress(SystemExit): app(['--help'])"
    )
    servers = {"asyncio", "celery", "kombu", "starlette", "uvicorn"}
    clients = {"alembic", "cryptography", "httpx", "jinja2", "mjml", "psycopg", "redis", "sqlalchemy"}
    assert not loaded & {*servers, *clients, "pydantic", "prometheus_client", *FOR_THEIR_PAGES}


@pytest.mark.parametrize("command", ["web", "worker", "beat", "run", "demo"])
def test_the_help_of_a_process_does_not_load_the_process(command: str):
    loaded = loaded_after(
        "import contextlib\nfrom admin.cli import app\n"
        f"with contextlib.suppress(SystemExit): app(['{command}', '--help'])"
    )
    assert not loaded & {"celery", "starlette", "sqlalchemy", "redis", "httpx"}


def test_the_web_process_loads_what_people_come_in_by_after_it_can_take_deliveries():
    loaded = loaded_after("import admin.serve, asgi")
    assert not loaded & {*FOR_PEOPLE, *FOR_THEIR_PAGES, "celery.bin"}


@pytest.mark.parametrize("tasks", ["tasks.watch", "tasks.sweep, tasks.schedule"])
def test_worker_and_beat_load_nothing_of_the_web(tasks: str):
    loaded = loaded_after(f"import admin.serve, {tasks}")
    assert not loaded & {*FOR_PEOPLE, "uvicorn", "asgi", "argon2", "limits", "tomlkit"}


def test_deliveries_are_taken_although_the_rooms_cannot_be_opened_and_whoever_comes_later_finds_them_open(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from admin.api import admin_api

    def fail(*_: Any) -> Mount:
        raise RuntimeError("no room")

    async def come() -> list[int]:
        monkeypatch.setattr("admin.api.admin_api", fail)
        app = create_app(settings_for(database_url, tmp_path))
        outside = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            running(app) as client,
            httpx.AsyncClient(transport=outside, base_url="http://usher.example") as visitor,
        ):
            answers = [
                await client.post("/webhooks/wix", content=delivery()),
                await visitor.get("/api/v1/jobs"),
            ]
            monkeypatch.setattr("admin.api.admin_api", admin_api)
            answers += await asyncio.gather(visitor.get("/api/v1/jobs"), visitor.get("/api/v1/openapi.json"))
        return [answer.status_code for answer in answers]

    assert asyncio.run(come()) == [200, 500, 403, 200]
    assert len(rows(database_url)) == 1
