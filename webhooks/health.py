"""Is the service alive, is it ready, and what does it count?"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from anyio import CapacityLimiter, to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Check = Callable[[], str]
"""Says "ok" or what is wrong. May block; an error counts as wrong."""

_NO_STORE = {"Cache-Control": "no-store"}


def health_routes(
    checks: Mapping[str, Check], registry: CollectorRegistry, *, timeout_s: float = 2
) -> list[Route]:
    """`checks` by name; deliveries can be committed as long as the one named "database" says "ok"."""
    probes = {name: _Probe(check, timeout_s) for name, check in checks.items()}
    room = CapacityLimiter(1)  # a collector may ask the database: beside the loop, and beside pages that wait

    async def live(_request: Request) -> Response:
        return PlainTextResponse("ok", headers=_NO_STORE)

    async def ready(_request: Request) -> Response:
        verdicts = await asyncio.gather(*(probe.ask() for probe in probes.values()))
        states = dict(zip(probes, verdicts, strict=True))
        status = "ok" if all(state == "ok" for state in verdicts) else "degraded"
        return JSONResponse(
            {"status": status, "checks": states},
            status_code=200 if states["database"] == "ok" else 503,
            headers=_NO_STORE,
        )

    async def metrics(_request: Request) -> Response:
        text = await to_thread.run_sync(generate_latest, registry, limiter=room)
        return Response(text, headers={**_NO_STORE, "Content-Type": CONTENT_TYPE_LATEST})

    return [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
    ]


class _Probe:
    """Asks one check at a time, each in a thread of its own.

    A check that hangs holds this one thread, however often it is asked for. The thread is a daemon and
    not from a pool, so that it neither starves real work nor holds up the end of the process.
    """

    def __init__(self, check: Check, timeout_s: float) -> None:
        self._check = check
        self._timeout_s = timeout_s
        self._running: asyncio.Future[str] | None = None

    async def ask(self) -> str:
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_future()
            threading.Thread(target=self._run, args=(self._running,), daemon=True).start()
        await asyncio.wait([self._running], timeout=self._timeout_s)
        return self._running.result() if self._running.done() else f"no answer within {self._timeout_s:g} s"

    def _run(self, future: asyncio.Future[str]) -> None:
        try:
            verdict = _without_passwords(self._check())
        except Exception as exc:  # noqa: BLE001 - whatever breaks a check is the answer; texts of drivers hold URLs
            verdict = type(exc).__name__
        with suppress(RuntimeError):  # the loop has ended meanwhile
            future.get_loop().call_soon_threadsafe(future.set_result, verdict)


def _without_passwords(reason: str) -> str:
    return re.sub(r"://\S*@", "://***@", reason)[:200]
