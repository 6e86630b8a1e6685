"""Deliveries as Wix signs them, and a door to bring them to. The keys are real, and so are the signatures."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from core.events import Event, EventId
from webhooks.endpoint import PATH, Door
from webhooks.intake import Intake, Taken
from webhooks.opening import Opener
from webhooks.verify import Verifier

WIX_KEY = generate_private_key(65537, 2048)
NEXT_KEY = generate_private_key(65537, 2048)
STRANGERS_KEY = generate_private_key(65537, 2048)

SITE = "7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11"
EXAMPLES = Path(__file__).parent.parent.parent / "sandbox" / "samples"
MEMBER_ADDED = json.loads((EXAMPLES / "wix.social_groups.v2.group_member_added.json").read_text())


def pem(key: RSAPrivateKey, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> str:
    return key.public_key().public_bytes(Encoding.PEM, form).decode()


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(
    payload: bytes, header: object = None, *, key: RSAPrivateKey = WIX_KEY, is_encoded: bool = False
) -> bytes:
    """A compact token over any payload and header; `header` bytes go in as they are."""
    if header is None:
        header = {"alg": "RS256", "kid": "example-key-id"}
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signed = b64(head) + b"." + (payload if is_encoded else b64(payload))
    return signed + b"." + b64(key.sign(signed, PKCS1v15(), SHA256()))


def claims(
    event: object = MEMBER_ADDED,
    event_type: str = "wix.social_groups.v2.group_member_added",
    **more: Any,
) -> dict[str, Any]:
    inner = event if isinstance(event, str) else json.dumps(event)
    outer = {"eventType": event_type, "instanceId": SITE, "data": inner}
    now_s = int(time.time())
    return {"data": json.dumps(outer), "iat": now_s, "exp": now_s + 300_000, **more}


def segment(name: str) -> bytes:
    """The claims of a delivery with this event id, as they stand in a token."""
    return b64(json.dumps(claims({"id": name})).encode())


def delivery(*args: Any, key: RSAPrivateKey = WIX_KEY, header: object = None, **more: Any) -> bytes:
    """A whole body as Wix sends it."""
    return sign(json.dumps(claims(*args, **more)).encode(), header, key=key)


class FakeJournal:
    """Remembers what it accepted; refuses with `error` when that is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.accepted: list[Event] = []
        self.error = error
        self._known: set[tuple[str, EventId]] = set()

    async def accept(self, claims: bytes, came_at: float) -> Taken:
        [taken] = Intake(self, Opener()).take([(claims, came_at)])
        return taken

    def insert(self, batch: Sequence[Event]) -> list[bool]:
        if self.error:
            raise self.error
        self.accepted += batch
        are_new = [(event.site, event.id) not in self._known for event in batch]
        self._known |= {(event.site, event.id) for event in batch}
        return are_new


def a_door(
    journal: FakeJournal, registry: CollectorRegistry | None = None, *, body_timeout_s: float = 10
) -> Starlette:
    verifier = Verifier([WIX_KEY.public_key(), NEXT_KEY.public_key()])
    door = Door(verifier, Opener(), journal, registry or CollectorRegistry(), body_timeout_s=body_timeout_s)
    return Starlette(routes=[Route(PATH, door, methods=["POST"])])


def ask(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    return asyncio.run(_ask(app, method, path, **request))


def ask_while_pages_hold_every_thread(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    """Every thread that Starlette lends. Raises TimeoutError when the answer needs one."""

    async def call() -> httpx.Response:
        lent = to_thread.current_default_thread_limiter()
        for _ in range(int(lent.total_tokens)):
            lent.acquire_on_behalf_of_nowait(object())
        async with asyncio.timeout(10):
            return await _ask(app, method, path, **request)

    return asyncio.run(call())


async def _ask(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://usher.example") as client:
        return await client.request(method, path, **request)


def deliver(app: ASGIApp, body: bytes, **headers: str) -> httpx.Response:
    return ask(app, "POST", "/webhooks/wix", content=body, headers=headers)
