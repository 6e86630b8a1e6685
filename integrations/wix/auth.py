"""Who we are to Wix: a token for each site, had once for all workers (wix/auth.md, 1).

No `httpx.Auth`: its flow would read the answer to the first try without a bound, and send the second one
past the budget. The client asks here for a token, and once more when Wix refused it.
"""

from __future__ import annotations

import base64
import hmac
import threading
from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken
from redis import Redis
from redis.lock import Lock

from core.community import SiteId
from integrations.cache import ExpiringCache
from integrations.shared import SharedRedis

EARLY_S = 300.0  # a token is replaced so long before its end
WAIT_S = 3.0  # for another worker that is getting the token; then we get one ourselves
LOCK_S = 5.0  # longer than WAIT_S; a worker that died with the lock holds nobody up for longer


class Tokens:
    """The access tokens of all sites: in this process, else in Redis, else from Wix.

    `fetch` asks Wix for a token and gives it with its lifetime in seconds. In Redis it lies encrypted under a
    key made of the app's secret and the site, so that a dump of Redis opens nothing, and no site's token can
    stand in for another's.
    """

    def __init__(
        self,
        app_id: str,
        app_secret: str,
        fetch: Callable[[SiteId], tuple[str, float]],
        shared: SharedRedis,
        now: Callable[[], float],
        wait_s: float = WAIT_S,
    ) -> None:
        self._app_id = app_id
        self._app_secret = app_secret
        self._fetch = fetch
        self._shared = shared
        self._now = now
        self._wait_s = wait_s
        self._local: ExpiringCache[SiteId, str] = ExpiringCache(now)
        # Some sites share a lock, so that their number does not grow with the number of sites.
        self._locks = tuple(threading.Lock() for _ in range(64))

    def current(self, site: SiteId) -> str:
        return self._local.get(site) or self._get(site, refused="")

    def renewed(self, site: SiteId, refused: str) -> str:
        """Another token than the `refused` one: a newer one that somebody already has, else a new one."""
        return self._get(site, refused)

    def _get(self, site: SiteId, refused: str) -> str:
        give_up_at = self._now() + self._wait_s
        in_process = self._locks[hash(site) % len(self._locks)]
        held = in_process.acquire(timeout=self._wait_s)
        lock: Lock | None = None
        try:
            if known := self._known(site, refused):
                return known
            left_s = max(0.0, give_up_at - self._now())
            lock = self._shared.ask(lambda redis: self._lock_for_all(redis, site, left_s), None)
            # Whoever had the lock before us may have left a token.
            if known := self._known(site, refused):
                return known
            token, lifetime_s = self._fetch(site)
            usable_s = lifetime_s - min(EARLY_S, lifetime_s / 10)
            self._local.put(site, token, usable_s)
            sealed = self._cipher(site).encrypt(token.encode())
            self._shared.ask(
                lambda redis: redis.set(self._key(site, "token"), sealed, px=max(1, round(usable_s * 1000))),
                None,
            )
            return token
        finally:
            if lock is not None:
                _release(self._shared, lock)
            if held:
                in_process.release()

    def _known(self, site: SiteId, refused: str) -> str | None:
        token = self._local.get(site)
        if token and token != refused:
            return token
        found = self._shared.ask(lambda redis: self._read(redis, site), None)
        if found is None or found[0] == refused:
            return None
        self._local.put(site, *found)
        return found[0]

    def _read(self, redis: Redis, site: SiteId) -> tuple[str, float] | None:
        """The shared token and the seconds that it may still be used."""
        key = self._key(site, "token")
        both = redis.pipeline(transaction=False)
        both.get(key)
        both.pttl(key)
        sealed, left_ms = both.execute()
        if not sealed or left_ms <= 0:
            return None
        try:
            return self._cipher(site).decrypt(sealed).decode(), left_ms / 1000
        except InvalidToken:  # written with another app secret
            return None

    def _lock_for_all(self, redis: Redis, site: SiteId, left_s: float) -> Lock | None:
        lock: Lock = redis.lock(
            self._key(site, "token-lock"),
            timeout=LOCK_S,
            sleep=0.05,
            blocking_timeout=left_s,
            thread_local=False,
            raise_on_release_error=False,
        )
        return lock if lock.acquire() else None

    def _cipher(self, site: SiteId) -> Fernet:
        digest = hmac.digest(self._app_secret.encode(), b"usher wix token\0" + site.encode(), "sha256")
        return Fernet(base64.urlsafe_b64encode(digest))

    def _key(self, site: SiteId, name: str) -> str:
        return f"usher:wix:{{{site}}}:{name}:{self._app_id}"


def _release(shared: SharedRedis, lock: Lock) -> None:
    shared.ask(lambda _: lock.release(), None)
