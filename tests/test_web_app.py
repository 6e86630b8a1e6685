"""The web process as it is put together: real signatures, a real journal, and a broker that is not there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.routing import Mount

from admin.api import Limiter, admin_api
from admin.office import Office
from asgi import create_app
from config.settings import Settings, load_settings
from core.community import MemberId, SiteId
from core.consent import Suppression
from integrations.email.unsubscribe import UnsubscribeClaim, UnsubscribeTokens
from integrations.store.database import Database
from integrations.store.suppressions import Suppressions
from integrations.store.tables import events
from tests.webhooks.wix_signing import NEXT_KEY, STRANGERS_KEY, WIX_KEY, delivery

SECRET = "a secret of at least sixteen characters"


def settings_for(database_url: str, folder: Path, **more: Any) -> Settings:
    def pem(key: Any) -> str:
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    return load_settings(
        env_file=None,
        wix_app_id="app",
        wix_app_secret="app-secret",
        wix_public_key=pem(WIX_KEY),
        wix_public_key_next=pem(NEXT_KEY),
        secret_key=SECRET,
        database_url=database_url,
        # Nobody listens there: the broker's absence must not fail a delivery.
        redis_url=f"unix://{folder}/nobody.sock",
        data_dir=str(folder),
        **more,
    )


@contextlib.asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://usher.example") as client,
    ):
        yield client


def rows(url: str) -> list[Any]:
    database = Database(url)
    try:
        with database.begin() as tx:
            return list(tx.execute(sa.select(events)))
    finally:
        database.close()


def test_a_delivery_is_in_the_database_when_200_is_answered_though_the_broker_is_away(
    database_url: str, tmp_path: Path
):
    async def deliver() -> tuple[list[int], int]:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            body = delivery()
            answers = [(await client.post("/webhooks/wix", content=body)).status_code for _ in range(3)]
            return answers, len(rows(database_url))

    assert asyncio.run(deliver()) == ([200, 200, 200], 1)


def test_both_keys_are_accepted_during_a_rotation_and_no_third(database_url: str, tmp_path: Path):
    async def deliver() -> list[int]:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            return [
                (await client.post("/webhooks/wix", content=delivery(key=key))).status_code
                for key in (WIX_KEY, NEXT_KEY, STRANGERS_KEY)
            ]

    assert asyncio.run(deliver()) == [200, 200, 401]


def test_a_hundred_deliveries_at_once_are_all_committed(database_url: str, tmp_path: Path):
    def one(number: int) -> bytes:
        event = {"id": f"e{number}", "actionEvent": {"body": {}}, "eventTime": "2026-05-03T11:20:01Z"}
        return delivery(event)

    async def deliver() -> list[int]:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            answers = await asyncio.gather(
                *(client.post("/webhooks/wix", content=one(number)) for number in range(100))
            )
            return [answer.status_code for answer in answers]

    assert asyncio.run(deliver()) == [200] * 100
    assert len(rows(database_url)) == 100


def test_a_locked_database_is_answered_with_503_and_the_next_delivery_with_200(tmp_path: Path):
    path = tmp_path / "usher.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()

    async def deliver() -> list[int]:
        async with running(create_app(settings_for(f"sqlite:///{path}", tmp_path))) as client:
            blocker = sqlite3.connect(path, isolation_level=None)
            blocker.execute("BEGIN IMMEDIATE")
            refused = await client.post("/webhooks/wix", content=delivery())
            blocker.execute("ROLLBACK")
            blocker.close()
            accepted = await client.post("/webhooks/wix", content=delivery())
            return [refused.status_code, accepted.status_code]

    assert asyncio.run(deliver()) == [503, 200]
    assert len(rows(f"sqlite:///{path}")) == 1


def test_a_database_that_was_never_migrated_stops_the_start(tmp_path: Path):
    from core.errors import ConfigError

    with pytest.raises(ConfigError, match="run `usher migrate`"):
        create_app(settings_for(f"sqlite:///{tmp_path / 'empty.db'}", tmp_path))


def test_one_click_is_effective_before_the_answer(database_url: str, tmp_path: Path):
    claim = UnsubscribeClaim(SiteId("site"), MemberId("m-ann"), "hash-of-ann")
    token = UnsubscribeTokens(SECRET).issue(claim)

    def suppressed() -> dict[MemberId, tuple[Suppression, ...]]:
        database = Database(database_url)
        try:
            return Suppressions(database).standing(claim.site, {MemberId("someone-else"): ("hash-of-ann",)})
        finally:
            database.close()

    async def click() -> None:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            for _ in range(3):
                assert (await client.get(f"/unsubscribe/{token}")).status_code == 200
            assert suppressed() == {}, "looking changes nothing"
            forged = token[:-1] + ("A" if token[-1] != "A" else "B")
            assert (await client.post(f"/unsubscribe/{forged}")).status_code == 404
            assert suppressed() == {}
            answer = await client.post(
                f"/unsubscribe/{token}", content="List-Unsubscribe=One-Click", headers={"Cookie": "a=b"}
            )
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
            assert suppressed() == {
                MemberId("someone-else"): (
                    Suppression("promotional", "unsubscribed", "unsubscribed here (one click)"),
                )
            }

    asyncio.run(click())


def test_readiness_says_what_is_wrong_and_stays_200_while_deliveries_can_be_committed(
    database_url: str, tmp_path: Path
):
    async def look() -> httpx.Response:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            return await client.get("/health/ready")

    answer = asyncio.run(look())
    found = answer.json()
    assert answer.status_code == 200
    assert found["status"] == "degraded"
    assert found["checks"]["database"] == "ok"
    assert found["checks"]["worker"].startswith("no worker")
    assert "not reachable" in found["checks"]["redis"]
    assert found["checks"]["broker"] != "ok"


def test_the_metrics_count_rows_and_deliveries(database_url: str, tmp_path: Path):
    async def look() -> str:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            await client.post("/webhooks/wix", content=delivery())
            await client.post("/webhooks/wix", content=delivery(key=STRANGERS_KEY))
            return (await client.get("/metrics")).text

    text = asyncio.run(look())
    assert 'usher_events{state="received"} 1.0' in text
    assert 'usher_webhook_deliveries_total{outcome="new"} 1.0' in text
    assert 'usher_webhook_deliveries_total{outcome="bad_signature"} 1.0' in text


def test_refusing_ten_hostile_deliveries_leaves_no_row(database_url: str, tmp_path: Path):
    async def attack() -> list[int]:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            bodies = [
                delivery(key=STRANGERS_KEY),
                delivery(exp=1),
                delivery(header={"alg": "none"}),
                delivery(header={"alg": "HS256"}),
                delivery()[:-5],
                b"x" * (1024 * 1024 + 1),
                json.dumps({"eventType": "AppRemoved"}).encode(),
                delivery(event="not json"),
                b"",
                b"..",
            ]
            return [(await client.post("/webhooks/wix", content=body)).status_code for body in bodies]

    assert asyncio.run(attack()) == [401, 401, 401, 401, 401, 413, 401, 400, 401, 401]
    assert rows(database_url) == []


@pytest.fixture
def offices(monkeypatch: pytest.MonkeyPatch) -> list[Office]:
    """Of the apps that are made."""
    made: list[Office] = []

    def api_of(token: str, office: Office, limiter: Limiter) -> Mount:
        made.append(office)
        return admin_api(token, office, limiter)

    monkeypatch.setattr("admin.api.admin_api", api_of)
    return made


def test_pages_that_hold_all_their_connections_take_none_from_the_door(
    database_url: str, tmp_path: Path, offices: list[Office]
):
    token = UnsubscribeTokens(SECRET).issue(UnsubscribeClaim(SiteId("site"), MemberId("m-ann"), "a-hash"))

    async def knock() -> list[int]:
        app = create_app(settings_for(database_url, tmp_path))
        async with running(app) as client:
            await client.get("/api/v1/jobs")  # whoever comes finds them open
            [office] = offices
            with contextlib.ExitStack() as pages:
                for engine in {office.database.engine, office.database._reading}:
                    for _ in range(14 if engine.dialect.name == "postgresql" else engine.pool.size()):  # type: ignore[attr-defined]
                        pages.enter_context(contextlib.closing(engine.raw_connection()))
                answers = [
                    await client.post("/webhooks/wix", content=delivery()),
                    await client.post(f"/unsubscribe/{token}"),
                    await client.get("/health/ready"),
                ]
            return [answer.status_code for answer in answers]

    assert asyncio.run(knock()) == [200, 200, 200]


def test_people_wait_for_a_lock_that_is_too_long_for_the_door(tmp_path: Path):
    path = tmp_path / "usher.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    admin = "an admin token that is long enough"

    async def ask() -> list[int]:
        settings = settings_for(f"sqlite:///{path}", tmp_path, admin_token=admin)
        async with running(create_app(settings)) as client:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
                writer.execute("BEGIN IMMEDIATE")
                asked = asyncio.create_task(
                    client.post(
                        "/api/v1/tokens",
                        json={"name": "ada", "role": "manager", "sites": ["*"]},
                        headers={"Authorization": f"Bearer {admin}"},
                    )
                )
                # Together they take longer than either: what was asked first has waited the door's second by then.
                refused = [await client.post("/webhooks/wix", content=delivery()) for _ in range(2)]
                writer.execute("ROLLBACK")
                return [*(answer.status_code for answer in refused), (await asked).status_code]

    assert asyncio.run(ask()) == [503, 503, 201]


def test_a_scrape_holds_up_no_delivery_and_none_holds_it_up(tmp_path: Path):
    path = tmp_path / "usher.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()

    async def look() -> tuple[str, str]:
        async with running(create_app(settings_for(f"sqlite:///{path}", tmp_path))) as client:
            await client.post("/webhooks/wix", content=delivery())
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
                writer.execute("BEGIN IMMEDIATE")
                metrics = (await client.get("/metrics")).text
                checks = (await client.get("/health/ready")).json()["checks"]
                writer.execute("ROLLBACK")
            return metrics, checks["worker"]

    metrics, worker = asyncio.run(look())
    assert 'usher_events{state="received"} 1.0' in metrics
    assert worker.startswith("no worker was heard of")


def test_who_scrapes_again_and_again_does_not_have_the_rows_counted_each_time(
    database_url: str, tmp_path: Path
):
    async def look() -> str:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            await client.get("/metrics")
            await client.post("/webhooks/wix", content=delivery())
            return (await client.get("/metrics")).text

    text = asyncio.run(look())
    assert "usher_events{" not in text
    assert 'usher_webhook_deliveries_total{outcome="new"} 1.0' in text


@pytest.mark.parametrize("path", ["/webhooks/wix/", "/unsubscribe/x/", "/health/live/"])
def test_nobody_is_sent_to_what_the_host_header_says(database_url: str, tmp_path: Path, path: str):
    async def look() -> httpx.Response:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            return await client.post(path, headers={"Host": "evil.example"})

    answer = asyncio.run(look())
    assert (answer.status_code, "location" in answer.headers) == (404, False)
