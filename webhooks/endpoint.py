"""The door: one delivery from Wix becomes one committed event, or an answer that says why not.

Wix waits 1.25 s and takes a 200 only; anything else makes it send the same bytes again, up to 12 times over
about 47 hours. Answers carry no body, log lines no token and no payload.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

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

MAX_BODY_BYTES = 1024 * 1024
_OUTCOMES = (
    "new",
    "duplicate",
    "unavailable",
    "bad_signature",
    "expired",
    "malformed",
    "too_large",
    "too_slow",
    "disconnected",
)
_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.25, 2.5)


class Journal(Protocol):
    async def accept(self, event: Event) -> bool:
        """Commit the event, in bounded time; True when it was not known yet. Raises JournalUnavailableError."""


class BodyTooSlowError(WebhookError):
    status_code = 408


def webhook_routes(
    verifier: Verifier, journal: Journal, registry: CollectorRegistry, *, body_timeout_s: float = 10
) -> list[Route]:
    door = Door(verifier, journal, registry, body_timeout_s=body_timeout_s)
    return [Route("/webhooks/wix", door.receive_event, methods=["POST"])]


class Door:
    def __init__(
        self, verifier: Verifier, journal: Journal, registry: CollectorRegistry, *, body_timeout_s: float
    ) -> None:
        self._verifier = verifier
        self._journal = journal
        self._body_timeout_s = body_timeout_s
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

    async def receive_event(self, request: Request) -> Response:
        """Accept one delivery.

        200: committed, already known, or of a type nobody listens to. 400, 401, 408, 413: not acceptable as
        sent. 503: the journal cannot commit now; Wix delivers again.
        """
        started_s = time.perf_counter()
        outcome, response = await self._answer(request)
        self._deliveries[outcome].inc()
        self._latency.observe(time.perf_counter() - started_s)
        return response

    async def _answer(self, request: Request) -> tuple[str, Response]:
        try:
            body = await read_body(request, MAX_BODY_BYTES, self._body_timeout_s)
            event = self._verifier.verify(body, datetime.now(UTC))
        except WebhookError as exc:
            log.warning("webhook.rejected", extra={"reason": _outcome_of(exc)})
            return _outcome_of(exc), _refusal(exc)
        except ClientDisconnect:
            log.info("webhook.disconnected")
            return "disconnected", Response(status_code=400)  # nobody is there to read it
        about = {"event_id": event.id, "site": event.site, "event_type": event.type}
        try:
            is_new = await self._journal.accept(event)
        except JournalUnavailableError as exc:
            # No traceback: a driver's error repeats the row, and the row holds the payload.
            reason = type(exc.__cause__ or exc).__name__
            log.error("webhook.not_committed", extra={**about, "reason": reason})
            return "unavailable", Response(status_code=503)
        outcome = "new" if is_new else "duplicate"
        log.info("webhook.accepted", extra={**about, "outcome": outcome})
        return outcome, Response(status_code=200)


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Read the raw body, whatever its type; stops as soon as it is known to be too large.

    Raises BodyTooLargeError, BodyTooSlowError, ClientDisconnect.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise BodyTooLargeError
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise BodyTooLargeError
                if not message.get("more_body"):
                    break
    except TimeoutError as exc:
        raise BodyTooSlowError from exc
    return bytes(body)


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


def _refusal(error: WebhookError) -> Response:
    # The rest of a slow body is not worth a connection. After a large one it stays: closing in the middle of
    # what a client sends would destroy the answer before it is read.
    headers = {"Connection": "close"} if isinstance(error, BodyTooSlowError) else None
    return Response(status_code=error.status_code, headers=headers)
