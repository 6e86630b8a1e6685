from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from tests.webhooks.wix_signing import ask, ask_while_pages_hold_every_thread
from webhooks.health import health_routes

Checks = Mapping[str, Callable[[], str]]


def fine() -> str:
    return "ok"


ALL_FINE: Checks = {"database": fine, "redis": fine, "broker": fine, "worker": fine}


def an_app(checks: Checks = ALL_FINE, *, timeout_s: float = 2) -> Starlette:
    return Starlette(routes=health_routes(checks, CollectorRegistry(), timeout_s=timeout_s))


def broken(error: Exception) -> Callable[[], str]:
    def check() -> str:
        raise error

    return check


def test_alive_means_alive_whatever_else_is_broken() -> None:
    answer = ask(an_app({"database": broken(OSError())}), "GET", "/health/live")
    assert answer.status_code == 200


def test_ready_lists_every_part() -> None:
    answer = ask(an_app(), "GET", "/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "checks": dict.fromkeys(ALL_FINE, "ok")}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("part", ["redis", "broker", "worker"])
def test_without_another_part_deliveries_are_taken_all_the_same(part: str) -> None:
    answer = ask(an_app({**ALL_FINE, part: lambda: "no heartbeat for 90 s"}), "GET", "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"][part] == "no heartbeat for 90 s"


def test_without_the_database_the_service_is_not_ready() -> None:
    answer = ask(an_app({**ALL_FINE, "database": lambda: "read only"}), "GET", "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")


def test_a_check_that_raises_is_told_by_its_type_alone() -> None:
    error = ConnectionError("could not reach redis://user:hunter2@cache.example:6379")
    answer = ask(an_app({**ALL_FINE, "redis": broken(error)}), "GET", "/health/ready")
    assert answer.json()["checks"]["redis"] == "ConnectionError"


@pytest.mark.parametrize("password", ["hunter2", "hunter2@home", "hunter2/x:y"])
def test_a_password_in_a_reason_is_struck_out(password: str) -> None:
    reason = f"no route to postgresql+psycopg://usher:{password}@db.example/usher today"
    answer = ask(an_app({**ALL_FINE, "redis": lambda: reason}), "GET", "/health/ready")
    expected = "no route to postgresql+psycopg://***@db.example/usher today"
    assert answer.json()["checks"]["redis"] == expected


def test_checks_run_side_by_side() -> None:
    """Each waits for the other: one after the other they would never come to an end."""
    meeting = threading.Barrier(2, timeout=10)

    def meet() -> str:
        meeting.wait()
        return "ok"

    answer = ask(an_app({"database": meet, "redis": meet}, timeout_s=10), "GET", "/health/ready")
    assert answer.json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_who_watches_waits_for_no_page(path: str) -> None:
    assert ask_while_pages_hold_every_thread(an_app(), "GET", path).status_code == 200


def test_a_check_that_hangs_costs_one_thread_however_often_it_is_asked() -> None:
    release, started = threading.Event(), []

    def hang() -> str:
        started.append(threading.current_thread())
        release.wait(timeout=30)
        return "ok"

    app = an_app({**ALL_FINE, "broker": hang}, timeout_s=0.02)

    async def ask_often() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://usher.example") as client:
            impatient = [await client.get("/health/ready") for _ in range(3)]
            release.set()
            await asyncio.to_thread(started[0].join, 10)
            return [*impatient, await client.get("/health/ready")]

    *impatient, last = asyncio.run(ask_often())
    assert {answer.json()["checks"]["broker"] for answer in impatient} == {"no answer within 0.02 s"}
    assert {answer.status_code for answer in impatient} == {200}
    assert last.json()["checks"]["broker"] == "ok"
    assert len(started) <= 2
    assert all(thread.daemon for thread in started)


def test_what_is_counted_can_be_read_by_prometheus() -> None:
    registry = CollectorRegistry()
    Counter("usher_letters_sent", "Letters sent", registry=registry).inc(3)
    app = Starlette(routes=health_routes(ALL_FINE, registry))
    answer = ask(app, "GET", "/metrics")
    samples = [s for family in text_string_to_metric_families(answer.text) for s in family.samples]
    assert ("usher_letters_sent_total", 3.0) in [(sample.name, sample.value) for sample in samples]
    assert answer.headers["content-type"].startswith("text/plain; version=")
