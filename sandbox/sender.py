"""Sends events to the registered webhook URL the way Wix does, and remembers every attempt.

Wix posts one RS256 JWT, waits 1250 ms, takes only a 200 for an answer and comes again up to 12 times.
Deliveries do not wait for each other.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.community import Event, Json, Site
from sandbox.switches import Switches

RETRY_DELAYS_S = tuple(60 * minutes for minutes in (1, 10, 60, 120, 120, 120, 240, 240, 240, 480, 480, 720))
LIFETIME_S = 300_000  # exp - iat in the documented sample
KEPT_DELIVERIES = 100_000
LANES = 64  # attempts at the same time; many more would run into their own timeout
OVERSIZED_BYTES = 2 * 1024 * 1024

# Attacks and oddities of `POST /sandbox/webhooks`. Attackers do not come again: one attempt each.
HOSTILE = (
    "expired",
    "tampered_payload",
    "tampered_signature",
    "alg_none",
    "hs256",
    "wrong_key",
    "not_a_jwt",
    "oversized",
    "data_object",
    "future_nbf",
)
HARMLESS = ("no_exp", "future_iat", "other_audience", "trailing_newline")
VARIANTS = HOSTILE + HARMLESS


@dataclass(frozen=True)
class Attempt:
    at: str
    status: int | None  # None: no answer
    error: str
    duration_ms: int


@dataclass
class Delivery:
    number: int
    event_id: str
    event_type: str
    variant: str
    created_at: str
    body: bytes = field(repr=False)
    state: str = "queued"  # held, queued, delivered, given_up
    next_attempt_at: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def wire(self) -> Json:
        return {
            "n": self.number,
            "event_id": self.event_id,
            "eventType": self.event_type,
            "variant": self.variant,
            "created_at": self.created_at,
            "state": self.state,
            "next_attempt_at": self.next_attempt_at,
            "attempts": [vars(attempt) for attempt in self.attempts],
        }


class Keys:
    """The app's webhook key pair."""

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        self.private = private
        self.public_pem = (
            private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    @classmethod
    def generate(cls) -> "Keys":
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))

    @classmethod
    def from_file(cls, path: Path) -> "Keys":
        """The key in a PEM file, which is made when it is missing. `ValueError`: not an RSA private key."""
        if not path.exists():
            keys = cls.generate()
            path.touch(mode=0o600)
            path.write_bytes(
                keys.private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            return keys
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(private, rsa.RSAPrivateKey):
            raise ValueError(f"{path} holds no RSA private key")
        return cls(private)


class WebhookSender:
    """`switches` is asked at every step, so that changes at run time count at once."""

    def __init__(self, keys: Keys, switches: Callable[[], Switches]) -> None:
        self.keys = keys
        self.deliveries: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)
        self._switches = switches
        self._url = ""
        self._url_known = asyncio.Event()
        self._lanes: asyncio.Queue[httpx.AsyncClient] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[httpx.AsyncClient] = []
        self._count = 0
        self._tls = ssl.create_default_context()

    @property
    def url(self) -> str:
        return self._url

    def register(self, url: str) -> None:
        """Send to this URL from now on; with an empty one, deliveries wait."""
        self._url = url
        self._url_known.set() if url else self._url_known.clear()

    def send_event(self, event: Event, site: Site, **options: Any) -> list[Delivery]:
        """Deliver what happened in the community. Options: those of `send`."""
        data = in_older_words(event.data, self._switches())
        body = self.sign(envelope(event.type, data, site.instance_id, event.identity, site))
        return self.send(body, event.type, event.data.get("id", ""), **options)

    def send(
        self,
        body: bytes,
        event_type: str,
        event_id: str,
        *,
        copies: int | None = None,
        delay_s: float = 0.0,
        hold: bool = False,
        variant: str = "",
    ) -> list[Delivery]:
        made = []
        for _ in range(self._switches().webhook_copies if copies is None else copies):
            self._count += 1
            delivery = Delivery(self._count, event_id, event_type, variant, _now(), body)
            if hold:
                delivery.state = "held"
            else:
                delivery.released.set()
            self.deliveries.append(delivery)
            task = asyncio.create_task(self._deliver(delivery, delay_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            made.append(delivery)
        return made

    def release(self, numbers: set[int] | None = None) -> int:
        """Let held deliveries go (all, or these); how many there were."""
        held = [d for d in self.deliveries if d.state == "held" and (numbers is None or d.number in numbers)]
        for delivery in held:
            delivery.state = "queued"
            delivery.released.set()
        return len(held)

    def sign(self, text: str, variant: str = "") -> bytes:
        """The webhook body for the middle layer `text`: a JWT, or what an attacker would make of it."""
        now = int(time.time())
        claims: Json = {"data": text, "iat": now, "exp": now + LIFETIME_S}
        match variant:
            case "expired":
                claims |= {"iat": now - LIFETIME_S - 7200, "exp": now - 7200}
            case "no_exp":
                del claims["exp"], claims["iat"]
            case "future_iat":
                claims["iat"] = now + 3600
            case "future_nbf":
                claims["nbf"] = now + 3600
            case "other_audience":
                claims |= {"aud": "somebody", "iss": "elsewhere"}
            case "data_object":
                claims["data"] = json.loads(text)
            case "oversized":
                claims["padding"] = "x" * OVERSIZED_BYTES
            case "not_a_jwt":
                return text.encode()
        if variant == "alg_none":
            head = _base64url(b'{"alg":"none","typ":"JWT"}')
            return f"{head}.{_base64url(json.dumps(claims).encode())}.".encode()
        if variant == "hs256":
            return self._signed_with_public_key(claims)
        key = Keys.generate().private if variant == "wrong_key" else self.keys.private
        headers = {"kid": "sandbox-key", "typ": None}
        token = jwt.encode(claims, key, algorithm="RS256", headers=headers)
        head, payload, signature = token.split(".")
        if variant == "tampered_payload":
            payload = _base64url(json.dumps(claims | {"tampered": True}).encode())
        if variant == "tampered_signature":
            signature = ("B" if signature[0] == "A" else "A") + signature[1:]
        end = "\n" if variant == "trailing_newline" else ""
        return f"{head}.{payload}.{signature}{end}".encode()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.aclose()

    async def _deliver(self, delivery: Delivery, delay_s: float) -> None:
        await delivery.released.wait()
        await asyncio.sleep(delay_s + random.uniform(0, self._switches().webhook_jitter_s))
        for retry_delay_s in (*(() if delivery.variant in HOSTILE else RETRY_DELAYS_S), None):
            await self._url_known.wait()
            attempt = await self._attempt(delivery.body)
            delivery.attempts.append(attempt)
            if attempt.status == 200:
                delivery.state = "delivered"
                break
            if retry_delay_s is not None:
                wait_s = retry_delay_s * self._switches().retry_scale
                delivery.next_attempt_at = _now(wait_s)
                await asyncio.sleep(wait_s)
        else:
            delivery.state = "given_up"
        delivery.next_attempt_at, delivery.body = "", b""

    async def _attempt(self, body: bytes) -> Attempt:
        client = await self._free_lane()
        at, start, status, error = _now(), time.perf_counter(), None, ""
        try:
            async with asyncio.timeout(self._switches().webhook_timeout_s):
                answer = await client.post(self._url, content=body, headers={"content-type": "text/plain"})
                status = answer.status_code
        except TimeoutError:
            error = "timeout"
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            error = type(exc).__name__
        finally:
            self._lanes.put_nowait(client)
        return Attempt(at, status, error, round((time.perf_counter() - start) * 1000))

    async def _free_lane(self) -> httpx.AsyncClient:
        """A client for one attempt. Each has one connection: a shared pool is slow with many waiting."""
        if self._lanes.empty() and len(self._clients) < LANES:
            timeout = httpx.Timeout(None)  # each attempt has one for all of it
            client = httpx.AsyncClient(verify=self._tls, timeout=timeout, trust_env=False)
            self._clients.append(client)
            return client
        return await self._lanes.get()

    def _signed_with_public_key(self, claims: Json) -> bytes:
        """HS256 with the public key as the secret, which PyJWT refuses to do."""
        head = _base64url(b'{"alg":"HS256","typ":"JWT"}')
        signed = f"{head}.{_base64url(json.dumps(claims).encode())}"
        digest = hmac.new(self.keys.public_pem.encode(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_base64url(digest)}".encode()


def envelope(event_type: str, data: Any, instance_id: str, identity: Json | None, site: Site) -> str:
    """The middle layer: `data` and `identity` are JSON texts in it. Data given as text stays as it is."""
    layer: Json = {
        "eventType": event_type,
        "instanceId": instance_id,
        "data": data if isinstance(data, str) else _compact(data),
    }
    if identity is not None:
        layer["identity"] = _compact(identity)
        layer["accountInfo"] = {"accountId": site.account_id, "siteId": site.site_id}
    return _compact(layer)


def in_older_words(data: Json, switches: Switches) -> Json:
    """The event in the spellings the switches ask for: `siteMemberId`, `bodyAsJson` and the like."""
    if switches.member_id_key == "siteMemberId":
        data = json.loads(json.dumps(data).replace('"memberId":', '"siteMemberId":'))
    if switches.event_bodies == "json":
        stringified = {"entity", "currentEntity", "body"}
        return {
            key: {f"{k}AsJson" if k in stringified else k: _compact(v) for k, v in value.items()}
            if key.endswith("Event") and value
            else value
            for key, value in data.items()
        }
    return data


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _now(later_s: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() + later_s, UTC).isoformat(timespec="milliseconds")
