"""The door: one delivery from Wix becomes one committed event, or an answer that says why not.

Wix waits 1.25 s and takes a 200 only; anything else makes it send the same bytes again, up to 12 times over
about 47 hours. Answers carry no body, log lines no token and no payload.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from core.errors import (
    BodyTooLargeError,
    ExpiredTokenError,
    InvalidSignatureError,
    JournalUnavailableError,
    WebhookError,
)
from core.events import Event
from webhooks.verify import Verifier

log = logging.getLogger(__name__)

PATH = "/webhooks/wix"
MAX_BODY_BYTES = 1024 * 1024


def _start(status: int, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-length", b"0"), *headers],
    }


_OUTCOMES = {
    "new": _start(200),
    "duplicate": _start(200),
    "unavailable": _start(503),
    "bad_signature": _start(401),
    "expired": _start(401),
    "malformed": _start(400),
    # The connection stays: closing in the middle of what a client sends would destroy the answer before it is read.
    "too_large": _start(413),
    # The rest of a slow body is not worth a connection.
    "too_slow": _start(408, (b"connection", b"close")),
    "disconnected": _start(400),  # nobody is there to read it
}
_END = {"type": "http.response.body", "body": b""}
_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.25, 2.5)


class Journal(Protocol):
    async def accept(self, event: Event) -> bool:
        """Commit the event, in bounded time; True when it was not known yet. Raises JournalUnavailableError."""


class BodyTooSlowError(WebhookError):
    status_code = 408


class Door:
    """An ASGI application for POST to PATH.

    200: committed, already known, or of a type nobody listens to. 400, 401, 408, 413: not acceptable as
    sent. 503: the journal cannot commit now; Wix delivers again.
    """

    def __init__(
        self, verifier: Verifier, journal: Journal, registry: CollectorRegistry, *, body_timeout_s: float = 10
    ) -> None:
        self._verifier = verifier
        self._journal = journal
        self._body_timeout_s = body_timeout_s
        self._accepted: list[dict[str, str]] = []
        deliveries = Counter(
            "usher_webhook_deliveries", "Deliveries from Wix by outcome", ["outcome"], registry=registry
        )
        self._deliveries = {outcome: deliveries.labels(outcome) for outcome in _OUTCOMES}
        self._latency = Histogram(
            "usher_webhook_delivery_seconds",
            "From the head of a delivery to its answer",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        try:
            outcome = await self._answer(scope, receive)
        except Exception:
            await PlainTextResponse("Internal Server Error", status_code=500)(scope, receive, send)
            raise  # the server logs it
        self._deliveries[outcome].inc()
        self._latency.observe(time.perf_counter() - started_s)
        await send(_OUTCOMES[outcome])
        await send(_END)

    async def _answer(self, scope: Scope, receive: Receive) -> str:
        try:
            body = await _read(scope, receive, MAX_BODY_BYTES, self._body_timeout_s)
            event = self._verifier.verify(body, datetime.now(UTC))
        except WebhookError as exc:
            outcome = _outcome_of(exc)
            log.warning("webhook.rejected", extra={"reason": outcome})
            return outcome
        except ClientDisconnect:
            log.info("webhook.disconnected")
            return "disconnected"
        about = {"event_id": event.id, "site": event.site, "event_type": event.type}
        try:
            is_new = await self._journal.accept(event)
        except JournalUnavailableError as exc:
            # No traceback: a driver's error repeats the row, and the row holds the payload.
            about["reason"] = type(exc.__cause__ or exc).__name__
            log.error("webhook.not_committed", extra=about)
            return "unavailable"
        about["outcome"] = outcome = "new" if is_new else "duplicate"
        if not self._accepted:
            asyncio.get_running_loop().call_soon(self._log_accepted)
        self._accepted.append(about)
        return outcome

    def _log_accepted(self) -> None:
        """After the answers of one commit were sent: together their lines take a third of the time."""
        accepted, self._accepted = self._accepted, []
        for about in accepted:
            log.info("webhook.accepted", extra=about)


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Read the raw body, whatever its type; stops as soon as it is known to be too large.

    Raises BodyTooLargeError, BodyTooSlowError, ClientDisconnect.
    """
    return await _read(request.scope, request.receive, max_bytes, timeout_s)


async def _read(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise BodyTooLargeError
    pieces: list[bytes] = []
    size = 0
    task = asyncio.current_task()
    is_late = False

    def give_up() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()  # type: ignore[union-attr] # within a coroutine there is one

    # By hand: asyncio.timeout costs a delivery as much as reading its JSON.
    timer = asyncio.get_running_loop().call_later(timeout_s, give_up)
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece = message.get("body", b"")
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLargeError
            pieces.append(piece)
            if not message.get("more_body"):
                return b"".join(pieces)
    except asyncio.CancelledError as exc:
        if is_late and not task.uncancel():  # type: ignore[union-attr]
            raise BodyTooSlowError from exc
        raise
    finally:
        timer.cancel()


def _outcome_of(error: WebhookError) -> str:
    match error:
        case ExpiredTokenError():
            return "expired"
        case InvalidSignatureError():
            return "bad_signature"
        case BodyTooLargeError():
            return "too_large"
        case BodyTooSlowError():
            return "too_slow"
        case _:
            return "malformed"
