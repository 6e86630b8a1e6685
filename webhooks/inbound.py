"""The door for mails that come back: whoever receives them posts them here as they are (message/rfc822).

A mail server keeps what is not answered with 200 and comes again, so 200 is only said after the commit.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.errors import JournalUnavailableError, WebhookError
from integrations.email.inbound import MOST_BYTES
from webhooks.endpoint import read_body

log = logging.getLogger(__name__)

BODY_WITHIN_S = 30.0
_AT_ONCE = 4


def inbound_routes(token: str, take_in: Callable[[bytes, Sequence[str]], str]) -> list[Route]:
    """`POST /mail/inbound` for who shows the token; without one nobody gets in.

    200: taken, whether something follows or not. 401, 408, 413: not acceptable as sent. 503: cannot be committed
    now, so send it again. The envelope's recipients are fields `recipient` of the query, or a header of that name.
    `take_in` may block, has committed when it returns, is harmless when done again, and raises
    JournalUnavailableError.
    """
    room = CapacityLimiter(_AT_ONCE)  # of its own, for the reason in webhooks/unsubscribe.py

    async def receive_mail(request: Request) -> Response:
        if not _may_enter(request, token):
            log.warning("mail.refused", extra={"reason": "token"})
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            raw = await read_body(request, MOST_BYTES, BODY_WITHIN_S)
        except WebhookError as exc:
            log.warning("mail.refused", extra={"reason": type(exc).__name__})
            return Response(status_code=exc.status_code)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        try:
            await to_thread.run_sync(take_in, raw, _recipients(request), limiter=room)
        except JournalUnavailableError as exc:
            reason = type(exc.__cause__ or exc).__name__
            log.error("mail.not_committed", extra={"reason": reason})
            return Response(status_code=503)
        return PlainTextResponse("taken\n")

    return [Route("/mail/inbound", receive_mail, methods=["POST"])]


def _may_enter(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip(" \t").encode("latin-1"), token.encode())
    return scheme.lower() == "bearer" and right and bool(token)


def _recipients(request: Request) -> list[str]:
    # A plus that was not escaped arrives as a space, and addresses hold no spaces.
    query = [address.replace(" ", "+") for address in request.query_params.getlist("recipient")]
    return [*query, *request.headers.getlist("recipient")]
