"""Wix as these tests need it: the documented examples, scripted answers, a clock that stands still."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from core.community import GroupId, MemberId, SiteId
from integrations.wix.client import WixClient

EXAMPLES = Path(__file__).parent.parent / "wix_examples"
SITE = SiteId("7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11")
WIX_SITE_ID = "c0a5d1f4-9a7a-4c86-8d3e-5c1b2a7e6f31"
GROUP = GroupId("9e2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a52")
CHLOE = MemberId("3308f7c4-5d9e-4fa0-9b23-c4d5e6f7a8b3")

MEMBERSHIPS = "/memberships$"
GROUP_MEMBERS = "/groups/[^/]+/members$"
JOIN_REQUESTS = "/join-requests/query$"
ANSWERS = "/answers$"
INSTANCE = "/apps/v1/instance$"
TOKEN = "/oauth2/token$"

Answer = httpx.Response | Callable[[httpx.Request], httpx.Response] | Exception


def example(kind: str, name: str) -> dict[str, Any]:
    loaded = json.loads((EXAMPLES / kind / f"{name}.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def example_answer(name: str) -> httpx.Response:
    response = example("endpoints", name)["response"]
    return httpx.Response(response["status"], headers=response["headers"], json=response["body"])


def example_error(name: str) -> httpx.Response:
    error = example("errors", name)
    return httpx.Response(error["status"], json=error["body"], headers={"x-wix-request-id": "1777.42"})


def listed(name: str, rows: list[dict[str, Any]], **metadata: Any) -> httpx.Response:
    return httpx.Response(200, json={name: rows, "metadata": {"count": len(rows), **metadata}})


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class WixStandIn:
    """Answers in the order they were given, the last one for ever; hands out tokens T1, T2, …"""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.tokens = 0
        self._routes: list[tuple[str, list[Answer]]] = [(TOKEN, [self._new_token])]
        self._lock = threading.Lock()

    def on(self, path: str, *answers: Answer) -> WixStandIn:
        """`path` is a regular expression; what was said last is looked at first."""
        self._routes.insert(0, (path, list(answers)))
        return self

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.asked.append(request)
            answers = next(
                (answers for path, answers in self._routes if re.search(path, request.url.path)), None
            )
            assert answers, f"nobody expected {request.method} {request.url}"
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            # A fresh one each time, because a response is read once.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer(request)

    def asked_for(self, path: str) -> list[httpx.Request]:
        return [request for request in self.asked if re.search(path, request.url.path)]

    def _new_token(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.tokens += 1
            return httpx.Response(200, json={"access_token": f"T{self.tokens}", "expires_in": 14400})


def a_client(wix: WixStandIn, **options: Any) -> WixClient:
    """Room for as many calls as a test likes, unless it says otherwise."""
    settings: dict[str, Any] = {"now": Clock(), "calls_per_minute": 60_000, **options}
    return WixClient(
        "https://www.wixapis.com", "app-id", "app-secret", transport=httpx.MockTransport(wix), **settings
    )


def body_of(request: httpx.Request) -> Any:
    return json.loads(request.content)
