"""The way out: the page behind the link in a letter, and the one click that mail programs make (RFC 8058).

Looking changes nothing, because scanners and previews look. Posting is enough: no cookie, no login, no redirect.
Pages are constant, so nothing that a link holds can come back in one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from core.community import GroupId
from core.errors import JournalUnavailableError, WebhookError
from integrations.email.unsubscribe import InvalidTokenError, UnsubscribeClaim
from webhooks.endpoint import read_body
from webhooks.unsubscribe_pages import HEADERS, PAGES, preferred_language

log = logging.getLogger(__name__)

_LONGEST_FORM_BYTES = 4096
_AT_ONCE = 4


def unsubscribe_routes(
    read_token: Callable[[str], UnsubscribeClaim],
    unsubscribe: Callable[[UnsubscribeClaim, GroupId | None], None],
    *,
    body_timeout_s: float = 5.0,
) -> list[Route]:
    """`read_token` raises InvalidTokenError. `unsubscribe` ends the letters of the group, or with None all promotional
    ones; it may block, has committed when it returns, is harmless when done again, and raises
    JournalUnavailableError."""
    # Starlette's threads may all be held by pages that wait for Wix.
    room = CapacityLimiter(_AT_ONCE)

    async def ask(request: Request) -> Response:
        try:
            claim = read_token(request.path_params["token"])
        except InvalidTokenError:
            return _page(request, "unknown", 404)
        return _page(request, "choose" if claim.group else "ask")

    async def stop(request: Request) -> Response:
        """Unsubscribe before answering. The token says it all, unless the form of our own page asks for less."""
        try:
            claim = read_token(request.path_params["token"])
        except InvalidTokenError:
            log.warning("unsubscribe.rejected")
            return _page(request, "unknown", 404)
        group = claim.group
        if group and not await _asks_for_the_group_alone(request, body_timeout_s):
            group = None
        about = {"site": claim.site, "member": claim.member, "group": group}
        try:
            await to_thread.run_sync(unsubscribe, claim, group, limiter=room)
        except JournalUnavailableError as exc:
            # No traceback: a driver's error repeats the row.
            reason = type(exc.__cause__ or exc).__name__
            log.error("unsubscribe.not_committed", extra={**about, "reason": reason})
            return _page(request, "try_group_again" if group else "try_again", 503)
        log.info("unsubscribe.done", extra=about)
        return _page(request, "done_with_group" if group else "done")

    return [
        Route("/unsubscribe/{token}", ask, methods=["GET"]),
        Route("/unsubscribe/{token}", stop, methods=["POST"]),
    ]


async def _asks_for_the_group_alone(request: Request, body_timeout_s: float) -> bool:
    """Whether this is the form of our page with that choice. Whatever else a body holds, or fails to hold, is a mail
    program's click: everything stops."""
    if not request.headers.get("content-type", "").lower().startswith("application/x-www-form-urlencoded"):
        return False
    try:
        body = await read_body(request, _LONGEST_FORM_BYTES, body_timeout_s)
    except (WebhookError, ClientDisconnect):
        return False
    return parse_qs(body.decode("latin-1")).get("scope") == ["group"]


def _page(request: Request, name: str, status_code: int = 200) -> Response:
    language = preferred_language(request.headers.get("accept-language", ""))
    return HTMLResponse(PAGES[language, name], status_code=status_code, headers=HEADERS)
