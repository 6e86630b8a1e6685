"""Redis as far as budgets and paces need it: helpful when it is there, never an error when it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

log = logging.getLogger(__name__)

T = TypeVar("T")

AWAY_S = 2.0  # after a failure nobody tries again for so long: a dead Redis costs one timeout, not one a call


def open_redis(url: str) -> Redis:
    """A client that gives up quickly. Opens no connection yet; build it after the fork."""
    return Redis.from_url(
        url,
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
        retry=Retry(NoBackoff(), 0),
    )


class SharedRedis:
    """One Redis behind a breaker. `redis` None means that there is none: every question gets its default."""

    def __init__(self, redis: Redis | None, now: Callable[[], float]) -> None:
        self._redis = redis
        self._now = now
        self._away_until = float("-inf")

    def ask(self, question: Callable[[Redis], T], default: T) -> T:
        """What Redis answers, or `default` while it is away."""
        if self._redis is None or self._now() < self._away_until:
            return default
        try:
            return question(self._redis)
        except RedisError as exc:
            self._away_until = self._now() + AWAY_S
            log.warning("redis.away", extra={"error": type(exc).__name__})
            return default
