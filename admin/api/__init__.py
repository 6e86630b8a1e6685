"""The admin API, /api/v1/: look at events, letters and jobs, set jobs off, and decide about what got stuck.

Whoever shows a token is its holder, with a role and a reach; ADMIN_TOKEN is the owner of everything. Everything below
/api/ that is not an answer is a problem document (RFC 9457), also what this API does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from admin.api.automations import AUTOMATIONS
from admin.api.description import PATH, describe_api
from admin.api.entrance import Entrance, Limiter
from admin.api.groups import GROUPS
from admin.api.jobs import JOBS
from admin.api.operations import BASICS, SMALL_BODY, Call, Operation
from admin.api.people import PEOPLE
from admin.api.problems import problem, problem_of, problem_of_defect, problem_of_http
from admin.api.reading import parse_json, read_id, read_json, read_key, read_query
from admin.api.requests import REQUESTS
from admin.api.today import TODAY
from admin.api.users import USERS
from admin.api.write import LETTERS
from admin.office import Office
from admin.office.refusals import RefusedError
from core.errors import AppError

OPERATIONS = BASICS + TODAY + AUTOMATIONS + JOBS + USERS + PEOPLE + GROUPS + REQUESTS + LETTERS
"""Everything the API does, as one table: the routes and the OpenAPI document are both made of it."""

BIG_BODY_WAITS_S = 5

__all__ = ["OPERATIONS", "Limiter", "Office", "admin_api"]


def admin_api(token: str, office: Office, limiter: Limiter) -> Mount:
    """`token` is ADMIN_TOKEN: without one nobody gets in."""
    by_path: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in OPERATIONS:
        by_path[operation.path][operation.method] = operation
    turn = asyncio.Semaphore()
    described = json.dumps(describe_api(OPERATIONS)).encode()

    async def describe(_request: Request) -> Response:
        return Response(described, media_type="application/json", headers={"Cache-Control": "no-cache"})

    api = Starlette(
        routes=[
            Route(PATH, describe, methods=["GET"]),
            *(
                Route(path, _endpoint(by_method, office, turn), methods=list(by_method))
                for path, by_method in by_path.items()
            ),
        ],
        middleware=[
            Middleware(
                Entrance,
                admin_token=token,
                tokens=office.tokens,
                limiter=limiter,
                open_to_all=f"/api{PATH}",
            )
        ],
        exception_handlers={
            HTTPException: problem_of_http,
            AppError: problem_of,
            Exception: problem_of_defect,
        },
    )
    api.router.redirect_slashes = False
    return Mount("/api", app=api)


def _endpoint(
    by_method: Mapping[str, Operation], office: Office, turn: asyncio.Semaphore
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        operation = by_method["GET" if request.method == "HEAD" else request.method]
        holder = request.state.holder
        if holder.role not in operation.roles:
            allowed = ", ".join(sorted(operation.roles))
            return problem(403, f"this is for tokens of the role {allowed}; yours is {holder.role}")
        id_ = read_id(request) if "{id" in operation.path else ""
        query = read_query(request, operation.query)
        key = read_key(request) if operation.needs_key else ""
        most_bytes = SMALL_BODY if _is_small(request) else operation.body_bytes

        async def answer() -> Response:
            raw = await read_json(request, most_bytes) if operation.body else b""

            def act() -> Response:
                body = parse_json(raw, operation.body, operation.excess) if operation.body else None
                return operation.act(office, Call(holder, id_, query, body, key))

            return await run_in_threadpool(act)

        if most_bytes <= SMALL_BODY:
            return await answer()
        async with _one_at_a_time(turn):
            return await answer()

    return endpoint


def _is_small(request: Request) -> bool:
    declared = request.headers.get("content-length", "")
    return declared.isdecimal() and len(declared) <= len(str(SMALL_BODY)) and int(declared) <= SMALL_BODY


@contextlib.asynccontextmanager
async def _one_at_a_time(turn: asyncio.Semaphore) -> AsyncIterator[None]:
    """A big body costs ten times its size of memory, in the process that also answers Wix."""
    try:
        async with asyncio.timeout(BIG_BODY_WAITS_S):
            await turn.acquire()
    except TimeoutError:
        again = {"Retry-After": str(BIG_BODY_WAITS_S)}
        raise RefusedError("another large body is being read", 503, headers=again) from None
    try:
        yield
    finally:
        turn.release()
