"""`usher webhook send`: a sample event, signed as Wix signs, delivered to a running Usher."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from admin.processes import ROOT
from core.errors import AppError, ConfigError

SAMPLES = ROOT / "sandbox" / "samples"
ANSWER_WITHIN_S = 10.0


class SendError(AppError):
    """The event did not get through."""


def names() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.json") if not path.stem.startswith("ENVELOPE"))


def find(event: str) -> tuple[str, dict[str, Any]]:
    """The event type and data of one sample, by its type or the end of it ("group_member_added")."""
    found = [name for name in names() if name == event] or [
        name for name in names() if name.endswith((f".{event}", f"_{event}"))
    ]
    if len(found) != 1:
        problem = "fits several samples" if found else "is no sample event"
        raise ConfigError(f"{event!r} {problem}; there are:", found or names())
    data: dict[str, Any] = json.loads((SAMPLES / f"{found[0]}.json").read_text(encoding="utf-8"))
    # The folder marks what Wix does not publish, and its older spelling, in the file's name.
    wire_type = found[0].removeprefix("UNVERIFIED.").removeprefix("HISTORICAL.").removesuffix(".asJson")
    return wire_type, data


def as_of_now(data: dict[str, Any]) -> dict[str, Any]:
    """The same event as if it had just happened: a new id, and the present time."""
    if "id" not in data:
        return data
    return data | {"id": str(uuid.uuid4()), "eventTime": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def send_through_sandbox(event: str, url: str, *, as_it_is: bool, copies: int) -> list[str]:
    """Have the sandbox sign and deliver it; returns what was answered to each copy."""
    event_type, data = find(event)
    body = {"eventType": event_type, "data": data if as_it_is else as_of_now(data), "copies": copies}
    try:
        with httpx.Client(base_url=url, timeout=ANSWER_WITHIN_S) as sandbox:
            sent = sandbox.post("/sandbox/webhooks", json=body)
            if sent.status_code != 200:
                raise SendError(f"the sandbox refuses it: {sent.text[:300]}")
            numbers = set(sent.json()["deliveries"])
            deadline = time.monotonic() + ANSWER_WITHIN_S
            while True:
                deliveries = sandbox.get("/sandbox/deliveries").json()["deliveries"]
                mine = [delivery for delivery in deliveries if delivery["n"] in numbers]
                if all(delivery["attempts"] for delivery in mine) or time.monotonic() > deadline:
                    return [_said(delivery) for delivery in mine]
                time.sleep(0.1)
    except (httpx.TransportError, httpx.InvalidURL) as exc:
        raise SendError(f"no sandbox answers at {url} ({type(exc).__name__}); start `usher sandbox`") from exc


def _said(delivery: dict[str, Any]) -> str:
    if not delivery["attempts"]:
        return "not delivered yet"
    attempt = delivery["attempts"][-1]
    return f"{attempt['status'] or attempt.get('error') or 'no answer'}"


def send_signed(event: str, to: str, key_file: Path, site: str, *, as_it_is: bool, copies: int) -> list[str]:
    """Sign it here with a private key (PEM) and post it; for a Usher that knows the public half."""
    event_type, data = find(event)
    now = int(time.time())
    middle = {
        "eventType": event_type,
        "instanceId": site,
        "data": json.dumps(data if as_it_is else as_of_now(data)),
    }
    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise ValueError("not an RSA key")
        token = jwt.encode(
            {"data": json.dumps(middle), "iat": now, "exp": now + 300_000}, key, algorithm="RS256"
        )
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(
            "Cannot sign", [f"--key: {key_file}: not a readable RSA private key (PEM)"]
        ) from exc
    try:
        with httpx.Client(timeout=ANSWER_WITHIN_S) as client:
            posts = [
                client.post(to, content=token, headers={"Content-Type": "text/plain"}) for _ in range(copies)
            ]
    except (httpx.TransportError, httpx.InvalidURL) as exc:
        raise SendError(f"nobody answers at {to} ({type(exc).__name__})") from exc
    return [str(post.status_code) for post in posts]
