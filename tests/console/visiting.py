"""Somebody in the console, past its entrance and without a browser: pages over a real database, a role, a reach."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import httpx
from itsdangerous import URLSafeTimedSerializer
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from admin.console.entrance import Session
from admin.console.page import PREFIX, Drawing, Page, routes_of
from admin.office import Office
from admin.office.directory import Names
from core.community import SiteId
from integrations.store.database import Transaction
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.sites import note_site
from integrations.store.tokens import Holder, Role
from tests.house import SITE, House

CSRF = "what a form shows"


@dataclass
class Visitor:
    """`cookies` are kept from answer to answer, so that what an act said is on the next page."""

    app: Starlette
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, data: Mapping[str, Any] | None = None, **more: Any) -> httpx.Response:
        """As the form of a page sends it."""
        return self.ask("POST", path, data={"csrf": CSRF, **(data or {})}, **more)

    def follow(self, answer: httpx.Response) -> httpx.Response:
        """The page that a form leads to."""
        assert answer.status_code == 303, (answer.status_code, text_of(answer))
        return self.ask("GET", answer.headers["location"])

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        if not path.startswith(PREFIX):
            path = f"{PREFIX}/s/{SITE}{path}"

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://usher.example", cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())


def a_visitor(
    house: House,
    *pages: Page,
    role: Role = Role.OWNER,
    reach: Reach = EVERYTHING,
    office: Office | None = None,
    who: str = "user ada",
    language: str = "en",
) -> Visitor:
    """`pages` are those of the room that is tried."""
    office = office or Office.of_services(house.services, house.database)
    with house.database.begin() as tx:
        connect(tx, SITE)
    drawing = Drawing(office, Names(office.wix), URLSafeTimedSerializer("a secret", salt="said"))
    app = Starlette(routes=[Mount(PREFIX, app=Starlette(routes=list(routes_of(pages, drawing))))])
    session = Session(hash="0" * 64, kind="user", csrf=CSRF, language=language, in_frame=False)
    holder = Holder("u1", who, role, reach)

    def middle(inner: ASGIApp) -> ASGIApp:
        async def ask(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                scope["state"] = {
                    **scope.get("state", {}),
                    "holder": holder,
                    "session": session,
                    "secure": False,
                }
            await inner(scope, receive, send)

        return ask

    app.add_middleware(middle)  # type: ignore[arg-type] # a function that wraps, as a class would
    return Visitor(app)


def connect(tx: Transaction, site: SiteId) -> None:
    note_site(tx, site, tx.now, "active")


def text_of(answer: httpx.Response) -> str:
    """What a reader sees, in one line."""
    plain = re.sub(r"<(script|style|head)\b.*?</\1>", " ", answer.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", plain)).split())
