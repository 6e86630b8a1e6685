"""Who comes in, and how often. Everybody shows a token (RFC 6750, section 2.1), except for the API's description."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from ipaddress import IPv6Address, ip_address

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import Redis
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from admin.api.problems import problem
from core.errors import JournalUnavailableError
from integrations.shared import SharedRedis
from integrations.store.reach import EVERYTHING
from integrations.store.tokens import Holder, Role, Tokens

log = logging.getLogger(__name__)

LONGEST_TOKEN = 1000
ADMIN = Holder("admin", "admin", Role.OWNER, EVERYTHING)


class Limiter:
    """Counts in Redis for all processes; while that is away, or where there is none, in this process.

    `requests` a minute of one token; `failures` a minute of one address, to show a token that is none.
    """

    def __init__(self, redis: Redis | None = None, *, requests: int = 600, failures: int = 30) -> None:
        self.requests = RateLimitItemPerMinute(requests)
        self.failures = RateLimitItemPerMinute(failures)
        self._redis = SharedRedis(redis, time.monotonic)
        self._here = MovingWindowRateLimiter(MemoryStorage())
        self._shared = self._here
        if redis is not None:
            pool = redis.connection_pool
            storage = RedisStorage("redis://", connection_pool=pool, key_prefix="usher:api")
            self._shared = MovingWindowRateLimiter(storage)

    def take(self, limit: RateLimitItemPerMinute, name: str) -> int:
        """Count one more of this name; 0, or how many seconds to wait when there was none left."""
        return self._ask(limit, name, take=True)

    def spent(self, limit: RateLimitItemPerMinute, name: str) -> int:
        """The same without counting."""
        return self._ask(limit, name, take=False)

    def _ask(self, limit: RateLimitItemPerMinute, name: str, *, take: bool) -> int:
        def ask(limiter: MovingWindowRateLimiter) -> int:
            if (limiter.hit if take else limiter.test)(limit, name):
                return 0
            return max(1, math.ceil(limiter.get_window_stats(limit, name).reset_time - time.time()))

        found = self._redis.ask(lambda _redis: ask(self._shared), None)
        return ask(self._here) if found is None else found


class Entrance:
    """Lets holders of tokens in, and puts a Holder into the request's state."""

    def __init__(
        self, app: ASGIApp, admin_token: str, tokens: Tokens, limiter: Limiter, open_to_all: str
    ) -> None:
        self._app = app
        self._admin = hashlib.sha256(admin_token.encode()).digest() if admin_token else b""
        self._tokens = tokens
        self._limiter = limiter
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != self._open_to_all:
            found = await run_in_threadpool(self._look, Request(scope))
            if isinstance(found, Response):
                await found(scope, receive, send)
                return
            scope["state"] = {**scope.get("state", {}), "holder": found}
        await self._app(scope, receive, send)

    def _look(self, request: Request) -> Holder | Response:
        if not self._admin:
            return problem(403, "ADMIN_TOKEN is not set, so nobody may use the admin API")
        address = client_address(request)
        if wait_s := self._limiter.spent(self._limiter.failures, address):
            return _slow_down("too many tokens that are none came from this address", wait_s)
        given = request.headers.getlist("authorization")
        scheme, _, shown = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            return _refuse("Bearer")
        try:
            holder = self._holder(shown.strip(" \t"))
        except JournalUnavailableError as exc:
            log.error("api.database_away", extra={"error": str(exc)})
            return problem(503, "the database does not answer now, so nobody knows whose token this is")
        if holder is None:
            self._limiter.take(self._limiter.failures, address)
            log.warning("api.refused")
            return _refuse('Bearer error="invalid_token"')
        if wait_s := self._limiter.take(self._limiter.requests, holder.id):
            return _slow_down(f"a token may ask {self._limiter.requests.amount} times a minute", wait_s)
        return holder

    def _holder(self, shown: str) -> Holder | None:
        if not shown or len(shown) > LONGEST_TOKEN:
            return None
        if hmac.compare_digest(hashlib.sha256(shown.encode("latin-1")).digest(), self._admin):
            return ADMIN
        return self._tokens.find(shown)


def client_address(request: Request) -> str:
    """Where a request came from. A peer without a public address is a proxy: it says who asked it in the last
    entry of X-Forwarded-For. Of IPv6 the network, since one customer has all of it."""
    found = request.client.host if request.client else "127.0.0.1"  # a proxy on a Unix socket
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    try:
        if forwarded and not ip_address(found).is_global:
            found = str(ip_address(forwarded))
    except ValueError:
        pass
    try:
        address = ip_address(found)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return found


def _refuse(challenge: str) -> Response:
    detail = "send a token: Authorization: Bearer …"
    return problem(401, detail, {"WWW-Authenticate": challenge})


def _slow_down(detail: str, wait_s: int) -> Response:
    return problem(429, detail, {"Retry-After": str(wait_s)})
