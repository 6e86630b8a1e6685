"""A furnished sandbox whose clock stands still until a test moves it, and clients for it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from sandbox.app import create_app
from sandbox.community import Community
from sandbox.house import APP_SECRET, Sandbox
from sandbox.loading import DEFAULT_COMMUNITY, read_community
from sandbox.sender import Keys
from tests.sandbox.seaside import Clock


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys.generate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def community(clock: Clock) -> Community:
    return read_community(DEFAULT_COMMUNITY, now=clock.moment)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sandbox(community: Community, clock: Clock, keys: Keys) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(community, keys=keys, now_s=clock)
    sandbox.url = "http://sandbox"
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def browser(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """Without credentials."""
    transport = httpx.ASGITransport(create_app(sandbox))
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        yield client


@pytest.fixture
async def wix(sandbox: Sandbox, browser: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """With an app token, fetched over HTTP."""
    answer = await browser.post("/oauth2/token", json=token_request(sandbox))
    headers = {"authorization": answer.json()["access_token"]}
    async with httpx.AsyncClient(
        transport=browser._transport, base_url="http://sandbox", headers=headers
    ) as client:
        yield client


def token_request(sandbox: Sandbox) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_id": sandbox.community.site.app_id,
        "client_secret": APP_SECRET,
        "instance_id": sandbox.community.site.instance_id,
    }


@pytest.fixture
def token_body(sandbox: Sandbox) -> dict[str, str]:
    return token_request(sandbox)
