"""The pace of letters and the number of connections, shared by every worker, as core.pacing.Limits asks for.

Seconds and minutes are counted to the letter: the moments of the latest ones are kept, so no stretch of that length
ever holds more. A day is counted by the hour and forgets an hour when all of it is older than 24; what Redis does
not know of a day, because it is new or was wiped, is read from the ledger.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from core.pacing import Limits, Window, window
from integrations.cache import ExpiringCache
from integrations.shared import SharedRedis

log = logging.getLogger(__name__)

LOCAL_SHARE = 1 / 4  # what one process takes while Redis is away and it cannot see the others
DAY = timedelta(hours=24)
DAY_KNOWN_S = 10.0  # how long one look at the ledger serves, while Redis is away or before the first letter
DAY_AGAIN_S = 60.0  # when to ask again for a day that is full, while only its sum is known
LEASE_S = 60.0
WITHOUT_REDIS_AFTER_S = 10.0
"""A restart of Redis is over by then; what goes on longer must not keep letters from going."""

_NO_END = 10**15  # letters a day that nobody sends

# Times are whole microseconds of the server's clock, which a Lua number holds exactly.
_CLOCK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
"""

_COUNTS = (
    _CLOCK
    + """
local HOUR = 3600000000
local hour = math.floor(now / HOUR)

-- How many more may go in this window, and else the time until one may. A list of moments, oldest first.
local function of_window(key, count, length)
  local newest = tonumber(redis.call('LINDEX', key, -1) or 0)
  if newest > now + length then redis.call('DEL', key) end -- the clock was set back
  local oldest = redis.call('LINDEX', key, 0)
  while oldest and tonumber(oldest) <= now - length do
    redis.call('LPOP', key)
    oldest = redis.call('LINDEX', key, 0)
  end
  local over = redis.call('LLEN', key) - count
  if over < 0 then return -over, 0 end
  return 0, tonumber(redis.call('LINDEX', key, over)) + length - now
end

-- The same for a day: letters by the hour they went in. The hour 24 ago may hold some of the last 24 hours.
local function of_day(key, count)
  local sum, by_hour, fields = 0, {}, redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local at = tonumber(fields[i])
    if at and at < hour - 24 then
      redis.call('HDEL', key, fields[i])
    elseif at then
      at = math.min(at, hour)
      by_hour[at] = (by_hour[at] or 0) + tonumber(fields[i + 1])
      sum = sum + tonumber(fields[i + 1])
    end
  end
  if sum < count then return count - sum, 0 end
  for at = hour - 24, hour do
    sum = sum - (by_hour[at] or 0)
    if sum < count then return 0, (at + 25) * HOUR - now end
  end
end
"""
)

# What is unknown of the day is answered with -1 (the sender's) or -2 (the domain's). A domain without a count is one
# that got no letters, as soon as the sender's own count goes back for more than a day.
#
# Who has to wait for a domain is given a turn behind those who were told to wait before, in bunches that fit into the
# window, for at most an hour: or else all letters of a big domain would come back at once, each time.
_TAKE = (
    _COUNTS
    + """
local function count_of(i) return tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i]) end

if count_of(3) > 0 and redis.call('EXISTS', KEYS[3]) == 0 then return -1 end
if count_of(6) > 0 and redis.call('EXISTS', KEYS[6]) == 0
  and tonumber(redis.call('HGET', KEYS[3], 'since')) > now - 25 * HOUR then return -2 end

local whole, part, tightest = 0, 0, nil
for i = 1, 6 do
  local count, length = count_of(i)
  if count > 0 then
    local _, wait
    if i % 3 == 0 then _, wait = of_day(KEYS[i], count) else _, wait = of_window(KEYS[i], count, length) end
    if i <= 3 then
      whole = math.max(whole, wait)
    elseif wait > part then
      part, tightest = wait, i
    end
  end
end

if part > whole then
  local count, length = count_of(tightest)
  local free = now + part
  local turn = math.min(math.max(free, tonumber(redis.call('GET', KEYS[7]) or 0)), free + HOUR)
  local next_turn = turn + length / count
  redis.call('SET', KEYS[7], string.format('%.0f', next_turn), 'PX', math.ceil((next_turn - now) / 1000))
  return math.ceil(part + math.floor((turn - free) / length) * length)
end
if whole > 0 then return math.ceil(whole) end

for i = 1, 6 do
  local count, length = count_of(i)
  if count > 0 and i % 3 == 0 then
    redis.call('HSETNX', KEYS[i], 'since', string.format('%.0f', now))
    redis.call('HINCRBY', KEYS[i], string.format('%.0f', hour), 1)
    redis.call('PEXPIRE', KEYS[i], 26 * HOUR / 1000)
  elseif count > 0 then
    redis.call('RPUSH', KEYS[i], string.format('%.0f', now))
    redis.call('PEXPIRE', KEYS[i], math.ceil(length / 1000) + 1)
  end
end
return 0
"""
)

_ROOM = (
    _COUNTS
    + """
local most, within, wait = tonumber(ARGV[7]), tonumber(ARGV[8]), 0
if tonumber(ARGV[5]) > 0 and redis.call('EXISTS', KEYS[3]) == 0 then return {-1, 0} end
for i = 1, 3 do
  local count, length = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if count > 0 then
    local free, blocked
    if i == 3 then
      free, blocked = of_day(KEYS[i], count)
    else
      free, blocked = of_window(KEYS[i], count, length)
      local rounds = math.floor(within / length)
      local until_then = now + within - rounds * length
      free = free + rounds * count
      for _, moment in ipairs(redis.call('LRANGE', KEYS[i], 0, most - 1)) do
        if tonumber(moment) + length > until_then then break end
        free = free + 1
      end
    end
    most = math.min(most, free)
    wait = math.max(wait, blocked)
  end
end
if most > 0 then wait = 0 end
return {most, math.ceil(wait)}
"""
)

# ARGV: letters by their age in hours, youngest first. Whoever was quicker knew the same.
_SEED = (
    _COUNTS
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'since', string.format('%.0f', now))
for age = 1, #ARGV do
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', hour - age + 1), ARGV[age])
end
redis.call('PEXPIRE', KEYS[1], 26 * HOUR / 1000)
return 1
"""
)

_HOLD = (
    _CLOCK
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3] * 1000), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)

_Scope = tuple[Window | None, Window | None, Window | None]  # a second, a minute, a day
_NAMES = ("second", "minute", "day")


class Pacer:
    """Asked how many letters to claim, and before each one is handed over.

    `sent_since` counts the letters that went to a domain (None: to all) lately; `first_sent_at` is when this sender's
    first letter went. Domains are lower case, as in the ledger. Nothing is asked of anybody where there is no limit.
    Raises JournalUnavailableError when the ledger is needed and cannot say.
    """

    def __init__(
        self,
        sender: str,
        limits: Limits,
        shared: SharedRedis,
        *,
        sent_since: Callable[[str | None, timedelta], int],
        first_sent_at: Callable[[], datetime | None],
        now: Callable[[], datetime],
    ) -> None:
        self._limits = limits
        self._shared = shared
        self._sent_since = sent_since
        self._first_sent_at = first_sent_at
        self._now = now
        self._key = _sender_key(sender)
        self._domain: _Scope = (
            _window(limits.domain_per_second, 1),
            _window(limits.domain_per_minute, 60),
            _day(limits.domain_per_day),
        )
        self._lock = threading.Lock()
        self._first: datetime | None = None
        self._first_asked: float = -math.inf
        self._moments: ExpiringCache[str, deque[float]] = ExpiringCache(self._seconds)
        self._day_sums: ExpiringCache[str, list[float]] = ExpiringCache(self._seconds)

    def room(self, most: int, within_s: float = 0.0, *, share: float = 1.0) -> tuple[int, float]:
        """How many letters of this sender may go now, or within so many seconds, `most` at most (above 0); when none
        may, the seconds until one may. Reserves nothing, and knows nothing of domains. `share`: of a minute's and a
        day's letters, what is not left to others."""
        a_second, *longer = self._sender()
        a_minute, a_day = (limit and limit.share(share) for limit in longer)
        sender = (a_second, a_minute, a_day)
        if not any(sender):
            return most, 0.0
        keys = _keys(self._key)
        for _ in range(2):
            found = self._shared.ask(
                lambda redis: [
                    int(number)
                    for number in redis.register_script(_ROOM)(
                        keys=keys, args=[*_numbers(sender), most, round(within_s * 1e6)]
                    )
                ],
                None,
            )
            if found is None:
                break
            if found[0] >= 0:
                return found[0], found[1] / 1e6
            self._seed(keys[2], None)
        return self._room_locally(sender, most, within_s)

    def take(self, domain: str) -> float:
        """0.0: one letter to this domain may go now, and is counted. Else the seconds to wait, and nothing is.

        A letter that waits for its domain is told its turn behind those that wait already.
        """
        sender = self._sender()
        if not any(sender) and not any(self._domain):
            return 0.0
        keys = [*_keys(self._key), *_keys(f"{self._key}:{domain}"), f"{self._key}:{domain}:turn"]
        wait_s = None
        for _ in range(3):
            found = self._shared.ask(
                lambda redis: int(
                    redis.register_script(_TAKE)(keys=keys, args=_numbers((*sender, *self._domain)))
                ),
                None,
            )
            if found is None or found >= 0:
                wait_s = None if found is None else found / 1e6
                break
            self._seed(*((keys[2], None) if found == -1 else (keys[5], domain)))
        if wait_s is None:
            return self._take_locally(sender, domain)
        if wait_s == 0:
            with self._lock:
                self._note(
                    self._places(sender, domain)
                )  # or Redis, when it goes away, would leave a clean sheet
        return wait_s

    def _sender(self) -> _Scope:
        limits = self._limits
        of_day = limits.per_day if limits.warm_up is None else limits.of_day(self._day())
        if of_day is None and limits.domain_per_day is not None:
            of_day = _NO_END  # its count says how far back Redis knows
        return _window(limits.per_second, 1), _window(limits.per_minute, 60), _day(of_day)

    def _day(self) -> int:
        """Days since the first letter."""
        now = self._now()
        if self._first is None and now.timestamp() - self._first_asked >= DAY_KNOWN_S:
            self._first = self._first_sent_at()
            self._first_asked = now.timestamp()
        return 0 if self._first is None else (now - self._first) // DAY

    def _seed(self, key: str, domain: str | None) -> None:
        total, seen = self._sent_since(domain, DAY), 0
        by_age: list[int] = []
        while seen < total and len(by_age) < 24:
            so_far = self._sent_since(domain, timedelta(hours=len(by_age) + 1))
            by_age.append(max(0, so_far - seen))
            seen = max(seen, so_far)
        log.info("pacing.seeded", extra={"domain": domain or "", "letters": total})
        self._shared.ask(lambda redis: redis.register_script(_SEED)(keys=[key], args=by_age), None)

    # While Redis is away

    def _room_locally(self, sender: _Scope, most: int, within_s: float) -> tuple[int, float]:
        left, wait_s = float(most), 0.0
        with self._lock:
            for key, limit in self._places(sender, None):
                moments = self._moments_of(key, limit)
                left = min(left, limit.letters * (1 + math.floor(within_s / limit.seconds)) - len(moments))
                wait_s = max(wait_s, self._wait(moments, limit))
        if sender[2] is not None:
            left = min(left, (sender[2].letters - self._day_sum(None)[0]) * LOCAL_SHARE)
            wait_s = wait_s if left > 0 else max(wait_s, DAY_AGAIN_S)
        return (math.ceil(left), 0.0) if left > 0 else (0, wait_s)

    def _take_locally(self, sender: _Scope, domain: str) -> float:
        days = [
            (self._day_sum(whose), limit.letters)
            for whose, limit in ((None, sender[2]), (domain, self._domain[2]))
            if limit is not None
        ]
        places = self._places(sender, domain)
        with self._lock:
            waits = [self._wait(self._moments_of(key, limit), limit) for key, limit in places]
            waits += [DAY_AGAIN_S for day, letters in days if day[0] >= letters]
            if (wait_s := max(waits, default=0.0)) > 0:
                return wait_s
            self._note(places)
            for day, _ in days:
                day[0] += 1 / LOCAL_SHARE  # as if the others did the same
        return 0.0

    def _day_sum(self, domain: str | None) -> list[float]:
        known = self._day_sums.get(domain or "")
        if known is None:
            known = [self._sent_since(domain, DAY)]
            self._day_sums.put(domain or "", known, DAY_KNOWN_S)
        return known

    def _places(self, sender: _Scope, domain: str | None) -> list[tuple[str, Window]]:
        """Where this process counts for itself, and its share of what may go there."""
        scopes = [(self._key, sender)]
        if domain is not None:
            scopes.append((f"{self._key}:{domain}", self._domain))
        return [
            (key, limit.share(LOCAL_SHARE))
            for prefix, scope in scopes
            for key, limit in zip(_keys(prefix)[:2], scope[:2], strict=True)
            if limit is not None
        ]

    def _moments_of(self, key: str, limit: Window) -> deque[float]:
        """The latest, as many as the window takes, which is all that matters."""
        now = self._seconds()
        moments = self._moments.get(key) or deque(maxlen=limit.letters)
        while moments and not moments[0] <= now < moments[0] + limit.seconds:
            moments.popleft()
        return moments

    def _wait(self, moments: deque[float], limit: Window) -> float:
        return moments[0] + limit.seconds - self._seconds() if len(moments) >= limit.letters else 0.0

    def _note(self, places: Iterable[tuple[str, Window]]) -> None:
        for key, limit in places:
            moments = self._moments_of(key, limit)
            moments.append(self._seconds())
            self._moments.put(key, moments, limit.seconds)

    def _seconds(self) -> float:
        return self._now().timestamp()


class Slots:
    """At most `connections` processes speak to the mail server at a time (None: any number). Build it after the fork.

    A slot is a lease: a process that was killed loses it within a minute, one that waits long for an answer keeps it
    by `keep`.
    """

    def __init__(
        self, sender: str, connections: int | None, shared: SharedRedis, now: Callable[[], datetime]
    ) -> None:
        self._connections = connections
        self._shared = shared
        self._now = now
        self._key = f"{_sender_key(sender)}:connections"
        self._name = uuid.uuid4().hex
        self._lock = threading.Lock()  # the work and the renewing beside it
        self._held = False
        self._heard_at = now()

    def hold(self) -> bool:
        """True: this process may have its connection; its slot is taken or renewed. False: close it, if there is one.

        While Redis is away, whoever has a slot keeps it. After some seconds everybody may connect: a mail server
        refuses a connection too many and the letter waits, but without a connection no letter would go at all.
        """
        with self._lock:
            return self._hold()

    @property
    def held(self) -> bool:
        return self._held

    def keep(self) -> None:
        """Renew the slot, if this process has one. Called every few seconds beside the work."""
        with self._lock:
            if self._held:
                self._hold()

    def free(self) -> None:
        """The connection is closed: somebody else may have the slot."""
        with self._lock:
            if self._held:
                self._held = False
                self._shared.ask(lambda redis: redis.zrem(self._key, self._name), 0)

    def _hold(self) -> bool:
        connections = self._connections
        if connections is None:
            return True
        answer = self._shared.ask(
            lambda redis: int(
                redis.register_script(_HOLD)(
                    keys=[self._key], args=[self._name, connections, round(LEASE_S * 1000)]
                )
            ),
            None,
        )
        if answer is None:
            return self._held or self._now() - self._heard_at >= timedelta(seconds=WITHOUT_REDIS_AFTER_S)
        self._heard_at = self._now()
        self._held = answer == 1
        return self._held


def _window(rate: float | None, seconds: float) -> Window | None:
    return None if rate is None else window(rate, seconds)


def _day(letters: int | None) -> Window | None:
    return None if letters is None else Window(letters, DAY.total_seconds())


def _numbers(scopes: Sequence[Window | None]) -> list[int]:
    """Letters and microseconds of each, as the scripts read them; 0 letters: no limit."""
    return [
        number
        for limit in scopes
        for number in ((limit.letters, math.ceil(limit.seconds * 1e6)) if limit else (0, 0))
    ]


def _keys(prefix: str) -> list[str]:
    return [f"{prefix}:{name}" for name in _NAMES]


def _sender_key(sender: str) -> str:
    # The braces keep all keys of a sender on one node of a cluster: a script may only touch one.
    return f"usher:mail:{{{hashlib.sha256(sender.lower().encode()).hexdigest()[:16]}}}"
