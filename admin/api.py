"""The admin API, /api/v1/: look at events and letters, and decide about those that got stuck.

Whoever shows the token is the role "admin". Everything below /api/ that is not an answer is a problem document
(RFC 9457), also what this API does not know.
"""

from __future__ import annotations

import base64
import hmac
import logging
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from admin.recovery import EVENT_STATES, MESSAGE_STATES, describe_event, describe_message
from core.community import LONGEST_ID, SiteId, is_plain
from core.errors import AppError, JournalUnavailableError, NotThereError, WrongStateError
from core.events import EventId
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 1000

Row = sa.Row[Any]


def admin_api(token: str, journal: Journal, ledger: Ledger, ring: Callable[[], None]) -> Mount:
    """`ring` wakes a worker and returns at once. Without a token nobody gets in."""

    async def list_events(request: Request) -> Response:
        query = _Query(request, ("site", "type", "state", "limit", "cursor"), EVENT_STATES)
        after = query.cursor(keys=2)
        rows = await run_in_threadpool(journal.page, **query.filters, limit=query.limit + 1, after=after)
        return _list(rows, query.limit, describe_event, lambda row: (row.received_at, row.site, row.id))

    async def replay_event(request: Request) -> Response:
        site = _Query(request, ("site",)).filters.get("site")
        event = EventId(_id(request))
        row = await run_in_threadpool(journal.replay, event, SiteId(site) if site else None)
        ring()
        _note("event.replayed", request, event_id=row.id, site=row.site)
        return _answer(describe_event(row))

    async def list_messages(request: Request) -> Response:
        names = ("site", "job", "member", "group", "automation", "state", "limit", "cursor")
        query = _Query(request, names, MESSAGE_STATES)
        after = query.cursor(keys=1)
        rows = await run_in_threadpool(ledger.page, **query.filters, limit=query.limit + 1, after=after)
        return _list(rows, query.limit, describe_message, lambda row: (row.created_at, row.id))

    async def release_message(request: Request) -> Response:
        _Query(request, ())
        row = await run_in_threadpool(ledger.release, _id(request))
        ring()
        _note("letter.released", request, letter_id=row.id, site=row.site)
        return _answer(describe_message(row))

    async def give_message_up(request: Request) -> Response:
        _Query(request, ())
        row = await run_in_threadpool(ledger.give_up, _id(request))
        _note("letter.given_up", request, letter_id=row.id, site=row.site)
        return _answer(describe_message(row))

    api = Starlette(
        routes=[
            Route("/v1/events", list_events, methods=["GET"]),
            # An event's id may hold a slash, which arrives like any other one.
            Route("/v1/events/{id:path}/replay", replay_event, methods=["POST"]),
            Route("/v1/messages", list_messages, methods=["GET"]),
            Route("/v1/messages/{id}/release", release_message, methods=["POST"]),
            Route("/v1/messages/{id}/give-up", give_message_up, methods=["POST"]),
        ],
        middleware=[Middleware(_TokenOnly, token=token)],
        exception_handlers={
            HTTPException: _http_problem,
            AppError: _problem_of,
            Exception: lambda _request, _exc: problem(500, "Usher failed over this; its log says how"),
        },
    )
    api.router.redirect_slashes = False
    return Mount("/api", app=api)


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: object) -> Response:
    """A problem document (RFC 9457); `more` are its extension members."""
    title = HTTPStatus(status).phrase
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more},
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/problem+json",
    )


class _TokenOnly:
    """Lets in who shows the token (RFC 6750, section 2.1), and says in the request's state who that is."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        scope["state"] = {**scope.get("state", {}), "who": "admin"}
        await self._app(scope, receive, send)

    def _refuse(self, request: Request) -> Response | None:
        if not self._token:
            return problem(403, "ADMIN_TOKEN is not set, so nobody may use the admin API")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            challenge = "Bearer"
        elif hmac.compare_digest(given.strip(" \t").encode("latin-1"), self._token):
            return None
        else:
            challenge = 'Bearer error="invalid_token"'
            log.warning("api.refused")
        return problem(
            401, "send the admin token: Authorization: Bearer …", headers={"WWW-Authenticate": challenge}
        )


class BadQueryError(AppError):
    """`errors` names each wrong field of the query."""

    def __init__(self, errors: Sequence[dict[str, str]] = ()) -> None:
        super().__init__("the query is not one that this address understands")
        self.errors = list(errors)


class _Query:
    """The fields behind the question mark, of which an empty one is not given. Raises BadQueryError."""

    def __init__(self, request: Request, names: Sequence[str], states: Sequence[str] = ()) -> None:
        self.filters: dict[str, Any] = {}
        errors = []
        for name, value in request.query_params.multi_items():
            if name not in names:
                errors.append((name, f"is not known here; known: {', '.join(names) or 'nothing'}"))
            elif name in self.filters:
                errors.append((name, "is there twice"))
            elif value:
                self.filters[name] = value
        self._cursor = self.filters.pop("cursor", None)
        limit = self.filters.pop("limit", str(DEFAULT_LIMIT))
        self.limit = int(limit) if re.fullmatch("[0-9]{1,9}", limit) else 0
        if not 1 <= self.limit <= HIGHEST_LIMIT:
            errors.append(("limit", f"must be a whole number from 1 to {HIGHEST_LIMIT}"))
        for name, value in self.filters.items():
            if name == "state" and value not in states:
                errors.append((name, f"must be one of {', '.join(states)}"))
            elif not is_plain(value, LONGEST_ID):
                errors.append(
                    (name, f"must be printable ASCII without spaces, at most {LONGEST_ID} characters")
                )
        if errors:
            raise BadQueryError([{"field": name, "detail": detail} for name, detail in errors])

    def cursor(self, keys: int) -> tuple[Any, ...] | None:
        """Time and keys of the last row seen."""
        if self._cursor is None:
            return None
        try:
            padded = self._cursor + "=" * (-len(self._cursor) % 4)
            text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
            time, *found = text.split(" ")
            at = datetime.fromisoformat(time).astimezone(UTC)
            if len(found) != keys or not all(is_plain(key, LONGEST_ID) for key in found):
                raise ValueError
        except (ValueError, OverflowError) as exc:
            raise BadQueryError([{"field": "cursor", "detail": "must be a `next` of this list"}]) from exc
        return (at, *found)


def _list(
    rows: Sequence[Row],
    limit: int,
    describe: Callable[[Row], dict[str, Any]],
    place: Callable[[Row], tuple[Any, ...]],
) -> Response:
    """`rows` are up to one more than `limit`: then there is a next page."""
    following = None
    if len(rows) > limit:
        time, *keys = place(rows[limit - 1])
        text = " ".join((time.isoformat(), *keys))  # ids hold no spaces
        following = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return _answer({"items": [describe(row) for row in rows[:limit]], "next": following})


def _answer(found: dict[str, Any]) -> Response:
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


def _id(request: Request) -> str:
    found = request.path_params["id"]
    if not is_plain(found, LONGEST_ID):
        raise NotThereError("there is nothing of this id")
    return found


def _note(event: str, request: Request, **ids: str) -> None:
    log.info(event, extra={"who": request.state.who, **ids})


def _http_problem(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 (Starlette calls it for nothing else)
    details = {404: "there is nothing at this address", 405: "this address does not know this method"}
    return problem(exc.status_code, details.get(exc.status_code, exc.detail), dict(exc.headers or {}))


def _problem_of(_request: Request, exc: Exception) -> Response:
    match exc:
        case NotThereError():
            return problem(404, str(exc))
        case WrongStateError():
            return problem(409, str(exc))
        case BadQueryError():
            return problem(422, str(exc), errors=exc.errors)
        case JournalUnavailableError():
            log.error("api.database_away", extra={"error": str(exc)})
            return problem(503, "the database does not answer now; nothing was changed, or nobody knows")
    raise exc
