"""The console, /admin/: what community managers look at. Drawn on the server; it works without script, and htmx keeps
it live. Its pages call the functions of admin/office, as the API does, and have no powers of their own.
"""

from __future__ import annotations

import asyncio

from itsdangerous import URLSafeTimedSerializer
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from admin.api.entrance import Limiter
from admin.console.entrance import HEADERS, POLICY, Entrance, Keys
from admin.console.login import entrance_routes
from admin.console.page import (
    DEFECT,
    PREFIX,
    Drawing,
    Page,
    bare,
    routes_of,
    serve_static,
)
from admin.console.pages import account, automations, groups, jobs, people, requests, today, workshop, write
from admin.office import Office
from admin.office.words import N_
from core.community import Site, SiteId

PAGES: tuple[Page, ...] = (
    *today.PAGES,
    *requests.PAGES,
    *automations.PAGES,
    *write.PAGES,
    *jobs.PAGES,
    *people.PAGES,
    *groups.PAGES,
    *workshop.PAGES,
    *account.PAGES,
)
"""Every page of a site, as one table."""

MOST_NAMED_SITES = 20
"""For more of them nobody asks Wix for their names."""


def console(keys: Keys, office: Office, limiter: Limiter) -> Mount:
    names = office.names
    drawing = Drawing(office, names, URLSafeTimedSerializer(keys.secret_keys[0], salt="said"))

    def choose_site(request: Request) -> Response:
        reach = request.state.holder.reach
        sites = [site for site in office.sites.active() if reach.sites is None or site in reach.sites]
        if len(sites) == 1:
            return RedirectResponse(f"{PREFIX}/s/{sites[0]}/", 303)
        named = [
            names.of(site, reach).site() if len(sites) <= MOST_NAMED_SITES else Site(SiteId(site))
            for site in sites
        ]
        return bare(
            request,
            "sites.html",
            language=request.state.session.language,
            sites=named,
            csrf=request.state.session.csrf,
            public_url=keys.public_url,
        )

    async def start(request: Request) -> Response:
        return await run_in_threadpool(choose_site, request)

    app = Starlette(
        routes=[
            Route("/", start, methods=["GET"]),
            Route("/static/{tag}/{name}", serve_static, methods=["GET"]),
            *entrance_routes(keys, office, limiter, bare),
            *routes_of(PAGES, drawing),
        ],
        middleware=[Middleware(Entrance, keys=keys, office=office, limiter=limiter)],
        exception_handlers={404: _not_here, 405: _not_here, 413: _too_much, Exception: _defect},
    )
    app.router.redirect_slashes = False
    return Mount(PREFIX, app=app)


async def _not_here(request: Request, _exc: Exception) -> Response:
    return await asyncio.to_thread(
        _bare_trouble, request, 404, N_("Nothing is here"), N_("This address leads nowhere.")
    )


async def _too_much(request: Request, _exc: Exception) -> Response:
    return await asyncio.to_thread(
        _bare_trouble,
        request,
        413,
        N_("That is too much"),
        N_("What was sent is larger than this page takes."),
    )


async def _defect(request: Request, _exc: Exception) -> Response:
    """Of what failed around the pages, the entrance too: so nobody has dressed the answer."""
    answer = await asyncio.to_thread(_bare_trouble, request, 500, N_("Something went wrong"), DEFECT)
    answer.headers.update(HEADERS)
    answer.headers["cache-control"] = "no-store"
    answer.headers["content-security-policy"] = f"{POLICY}; frame-ancestors 'none'"
    return answer


def _bare_trouble(request: Request, status: int, heading: str, sentence: str) -> Response:
    from admin.console.words import choose_language, translations

    session = getattr(request.state, "session", None)
    language = choose_language(
        session.language if session else "", request.headers.get("accept-language", "")
    )
    text = translations(language).gettext
    return bare(
        request,
        "trouble_bare.html",
        status,
        language=language,
        heading=text(heading),
        sentence=text(sentence),
    )
