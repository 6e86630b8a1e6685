"""The door: one delivery from Wix becomes one committed event, or an answer that says why not.

Wix waits 1.25 s and takes a 200 only; anything else makes it send the same bytes again, up to 12 times over
about 47 hours. Answers carry no body, log lines no token and no payload.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from core.errors import BodyTooLargeError, JournalUnavailableError, WebhookError
from integrations.deadlines import Deadlines
from webhooks.intake import Taken, reason_of
from webhooks.opening import Opener
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
    async def accept(self, claims: bytes, came_at: float) -> Taken:
        """Commit what they say as an event, in bounded time. Raises JournalUnavailableError."""


class BodyTooSlowError(WebhookError):
    status_code = 408


class Door:
    """An ASGI application for POST to PATH.

    200: committed, already known, or of a type nobody listens to. 400, 401, 408, 413: not acceptable as
    sent. 503: the journal cannot commit now; Wix delivers again.
    """

    def __init__(
        self,
        verifier: Verifier,
        opener: Opener,
        journal: Journal,
        registry: CollectorRegistry,
        *,
        body_timeout_s: float = 10,
    ) -> None:
        self._verifier = verifier
        self._opener = opener
        self._journal = journal
        self._patience = _patience(body_timeout_s)
        self._accepted: list[dict[str, str]] = []
        self._measures = _Measures()
        registry.register(self._measures)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        try:
            outcome = await self._answer(scope, receive)
        except Exception:
            await PlainTextResponse("Internal Server Error", status_code=500)(scope, receive, send)
            raise  # the server logs it
        self._measures.note(outcome, time.perf_counter() - started_s)
        await send(_OUTCOMES[outcome])
        await send(_END)

    async def _answer(self, scope: Scope, receive: Receive) -> str:
        try:
            body = await _read(scope, receive, MAX_BODY_BYTES, self._patience)
            claims = self._verifier.verify(body)
        except WebhookError as exc:
            return _refused(_outcome_of(exc))
        except ClientDisconnect:
            log.info("webhook.disconnected")
            return "disconnected"
        came_at = time.time()
        try:
            outcome, *named = await self._journal.accept(claims, came_at)
        except JournalUnavailableError as exc:
            return self._not_committed(claims, came_at, exc)
        if not named:
            return _refused(outcome)
        event_id, site, event_type = named
        if not self._accepted:
            asyncio.get_running_loop().call_soon(self._log_accepted)
        self._accepted.append(
            {"event_id": event_id, "site": site, "event_type": event_type, "outcome": outcome}
        )
        return outcome

    def _not_committed(self, claims: bytes, came_at: float, exc: JournalUnavailableError) -> str:
        try:
            event = self._opener.open(claims, datetime.fromtimestamp(came_at, UTC))
        except WebhookError as wrong:
            return _refused(_outcome_of(wrong))
        about = {"event_id": event.id, "site": event.site, "event_type": event.type}
        # No traceback: a driver's error repeats the row, and the row holds the payload.
        log.error(
            "webhook.not_committed",
            extra={**about, "reason": exc.cause or type(exc.__cause__ or exc).__name__},
        )
        return "unavailable"

    def _log_accepted(self) -> None:
        """After the answers of one commit were sent: together their lines take a fourth of the time."""
        accepted, self._accepted = self._accepted, []
        log.info("webhook.accepted", extra={"each": accepted} if len(accepted) > 1 else accepted[0])


class _Measures(Collector):
    """What prometheus_client's own Counter and Histogram show; they take as long for a delivery as reading its JSON."""

    def __init__(self) -> None:
        self._created_at = time.time()
        self._outcomes = dict.fromkeys(_OUTCOMES, 0)
        self._within = [0] * (len(_LATENCY_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def note(self, outcome: str, seconds: float) -> None:
        self._outcomes[outcome] += 1
        self._within[bisect.bisect_left(_LATENCY_BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def collect(self) -> Iterable[Metric]:
        deliveries = CounterMetricFamily(
            "usher_webhook_deliveries", "Deliveries from Wix by outcome", labels=["outcome"]
        )
        for outcome, count in self._outcomes.items():
            deliveries.add_metric([outcome], count, created=self._created_at)
        yield deliveries
        latency = HistogramMetricFamily(
            "usher_webhook_delivery_seconds", "From the head of a delivery to its answer"
        )
        names = [*map(floatToGoString, _LATENCY_BUCKETS_S), "+Inf"]
        latency.add_metric([], list(zip(names, itertools.accumulate(self._within), strict=True)), self._sum_s)
        latency.add_sample(f"{latency.name}_created", {}, self._created_at)
        yield latency

    def describe(self) -> Iterable[Metric]:
        return ()


_Patience = Deadlines["asyncio.Task[Any]"]
"""How long each who reads may wait for the rest of a body."""


def _patience(timeout_s: float) -> _Patience:
    return Deadlines(timeout_s, lambda task: task.cancel(_TOO_SLOW))


_TOO_SLOW = "the body came too slowly"


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Read the raw body, whatever its type; stops as soon as it is known to be too large.

    Raises BodyTooLargeError, BodyTooSlowError, ClientDisconnect.
    """
    return await _read(request.scope, request.receive, max_bytes, _patience(timeout_s))


async def _read(scope: Scope, receive: Receive, max_bytes: int, patience: _Patience) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > max_bytes):
            raise BodyTooLargeError
    pieces: list[bytes] = []
    size = 0
    # By hand: asyncio.timeout costs a delivery as much as reading its JSON.
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Any] = asyncio.current_task(loop)  # type: ignore[assignment] # within a coroutine there is one
    patience.add(task, loop)
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece = message.get("body", b"")
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLargeError
            if not message.get("more_body"):
                return b"".join((*pieces, piece)) if pieces else piece
            pieces.append(piece)
    except asyncio.CancelledError as exc:
        if exc.args == (_TOO_SLOW,) and not task.uncancel():
            raise BodyTooSlowError from exc
        raise
    finally:
        patience.remove(task)


def _refused(outcome: str) -> str:
    log.warning("webhook.rejected", extra={"reason": outcome})
    return outcome


def _outcome_of(error: WebhookError) -> str:
    match error:
        case BodyTooLargeError():
            return "too_large"
        case BodyTooSlowError():
            return "too_slow"
        case _:
            return reason_of(error)
