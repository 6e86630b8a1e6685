"""One budget of calls for each site, shared by every worker, with room kept for live events.

Wix allows 200 calls a minute for each app instance (wix/limits-errors.md, 1) and does not say how the minute
is counted, so no window of a minute may hold more: the default rate of 180 and its burst of 20 are 200.
The count is a GCRA: one time per site, the one at which the budget will be full again.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable

from core.community import SiteId
from core.errors import RetryableError
from integrations.cache import ExpiringCache
from integrations.shared import SharedRedis

log = logging.getLogger(__name__)

BURST_SHARE = 1 / 9  # of the calls of a minute: 180 + 20 = 200
RESERVE_SHARE = 0.4  # of the burst, for live events alone
LOCAL_SHARE = 1 / 4  # what one process takes while Redis is away and it cannot see the others
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0  # when Wix names no time itself
PAUSE_MEMORY_S = 120.0  # how long the next pause remembers that there was one

# Times are whole microseconds of the server's clock, which a Lua number holds exactly. The first line bounds
# what is left of an older rate, or of a server clock that was set back.
_TAKE = """
local pause_ms = redis.call('PTTL', KEYS[2])
if pause_ms > 0 then return pause_ms end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst, usable = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = tonumber(redis.call('GET', KEYS[1]) or 0)
full_at = math.max(now, math.min(full_at, now + interval * burst)) + interval
local early = full_at - interval * usable - now
if early > 0 then return math.ceil(early / 1000) end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return 0
"""

# Whoever meets the wall while a pause is already running met the same wall: no step up the ladder.
_PAUSE = """
local left_ms = redis.call('PTTL', KEYS[1])
local wait_ms = tonumber(ARGV[1])
if wait_ms == 0 then
  if left_ms > 0 then return left_ms end
  local step = redis.call('INCR', KEYS[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  wait_ms = math.ceil(math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ (step - 1)) * tonumber(ARGV[5]))
end
if wait_ms > left_ms then redis.call('SET', KEYS[1], 1, 'PX', wait_ms) end
return math.max(wait_ms, left_ms)
"""


class Budget:
    """Asked before every call to Wix; told when Wix says that it was too much."""

    def __init__(self, calls_per_minute: int, shared: SharedRedis, now: Callable[[], float]) -> None:
        self._interval_s = 60 / calls_per_minute
        self._burst = max(1.0, calls_per_minute * BURST_SHARE)
        self._shared = shared
        self._now = now
        self._lock = threading.Lock()
        self._full_at: ExpiringCache[SiteId, float] = ExpiringCache(now)
        self._paused_until: ExpiringCache[SiteId, float] = ExpiringCache(now)
        self._steps: ExpiringCache[SiteId, int] = ExpiringCache(now)

    def take(self, site: SiteId, *, bulk: bool = False) -> None:
        """Take one call. Raises RetryableError (counts=False) when there is no room, or none for bulk work."""
        if (paused_until := self._paused_until.get(site)) is not None:
            raise _no_room(paused_until - self._now())
        wait_ms = self._shared.ask(
            lambda redis: int(
                redis.register_script(_TAKE)(
                    keys=[_key(site, "budget"), _key(site, "pause")],
                    args=[round(self._interval_s * 1e6), self._burst, _usable(self._burst, bulk)],
                )
            ),
            None,
        )
        wait_s = self._take_locally(site, bulk) if wait_ms is None else wait_ms / 1000
        if wait_s > 0:
            raise _no_room(wait_s)

    def pause(self, site: SiteId, retry_after_s: float | None) -> float:
        """Nobody calls Wix for this site for `retry_after_s`, or 1 to 60 s, longer each time; returns seconds."""
        jitter = random.uniform(0.5, 1)
        wait_ms = self._shared.ask(
            lambda redis: int(
                redis.register_script(_PAUSE)(
                    keys=[_key(site, "pause"), _key(site, "pauses")],
                    args=[
                        math.ceil((retry_after_s or 0) * 1000),
                        round(PAUSE_MEMORY_S * 1000),
                        FIRST_PAUSE_S * 1000,
                        LONGEST_PAUSE_S * 1000,
                        jitter,
                    ],
                )
            ),
            None,
        )
        with self._lock:
            wait_s = self._pause_locally(site, retry_after_s, jitter) if wait_ms is None else wait_ms / 1000
            self._paused_until.put(site, self._now() + wait_s, wait_s)
        log.warning("wix.paused", extra={"site": site, "pause_s": round(wait_s, 3)})
        return wait_s

    def _take_locally(self, site: SiteId, bulk: bool) -> float:
        interval_s = self._interval_s / LOCAL_SHARE
        burst = max(1.0, self._burst * LOCAL_SHARE)
        now = self._now()
        with self._lock:
            full_at = max(now, self._full_at.get(site) or now) + interval_s
            early_s = full_at - interval_s * _usable(burst, bulk) - now
            # What two float sums may differ by is no reason to wait.
            if early_s > 1e-6:
                return early_s
            self._full_at.put(site, full_at, full_at - now)
            return 0.0

    def _pause_locally(self, site: SiteId, retry_after_s: float | None, jitter: float) -> float:
        left_s = (self._paused_until.get(site) or self._now()) - self._now()
        if retry_after_s is None:
            if left_s > 0:
                return left_s
            step = (self._steps.get(site) or 0) + 1
            self._steps.put(site, step, PAUSE_MEMORY_S)
            retry_after_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(step - 1, 60)) * jitter
        return max(retry_after_s, left_s)


def _usable(burst: float, bulk: bool) -> float:
    """How much of the burst this caller may use up; never less than one call, or bulk work would never run."""
    return max(1.0, burst * (1 - RESERVE_SHARE)) if bulk else burst


def _no_room(wait_s: float) -> RetryableError:
    return RetryableError(
        "no call to Wix is left for this site just now", retry_after_s=max(0.0, wait_s), counts=False
    )


def _key(site: SiteId, name: str) -> str:
    # The braces keep all keys of a site on one node of a cluster: a script may only touch one.
    return f"usher:wix:{{{site}}}:{name}"
