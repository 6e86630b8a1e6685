"""The sandbox put together: the community, how it behaves, and what came in and went out."""

import copy
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sandbox.community import Community, Event, Json
from sandbox.mail import MailCatcher
from sandbox.sender import Delivery, Keys, WebhookSender
from sandbox.switches import Switches

APP_SECRET = "sandbox-app-secret"  # noqa: S105 - stands for a secret, guards nothing
API_KEY = "IST.sandbox-api-key"
KEPT_CALLS = 10_000


@dataclass(frozen=True)
class Identity:
    """Who calls the API: the app on the site, or the holder of an API key (a Wix user)."""

    kind: str  # APP, USER
    actor: Json


@dataclass(frozen=True)
class Token:
    expires_at: float
    issued_at: float


@dataclass
class Changed:
    """What one change led to, known after it."""

    events: list[Event] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)


class Sandbox:
    """All state. `now_s` is the clock of tokens, rate limits and consistency."""

    def __init__(
        self,
        community: Community,
        *,
        switches: Switches | None = None,
        keys: Keys | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.community = community
        self.switches = switches or Switches()
        self.sender = WebhookSender(keys or Keys.generate(), lambda: self.switches)
        self.mail = MailCatcher()
        self.url = ""  # set when the ports are known
        self.smtp_url = ""
        self.now_s = now_s
        self.tokens: dict[str, Token] = {}
        self.refresh_tokens: set[str] = set()
        self.unsubscribe_tokens: dict[str, str] = {}  # token -> address
        self.calls: deque[Json] = deque(maxlen=KEPT_CALLS)
        self.call_counts: Counter[str] = Counter()
        self._past: deque[tuple[float, Community]] = deque()  # the community until that time
        self._rate: dict[str, deque[float]] = {}

    @contextmanager
    def change(self, actor: Json | None = None, *, silent: bool = False, **options: Any) -> Iterator[Changed]:
        """Change the community; what happened is sent afterwards. Options: those of `WebhookSender.send`."""
        if self.switches.consistency_delay_s:
            self.lagging()  # forgets what is too long ago
            self._past.append((self.now_s(), copy.deepcopy(self.community)))
        community, changed = self.community, Changed()
        community.actor = actor or community.site.owner()
        community.self_service_events = self.switches.self_service_events
        try:
            yield changed
        except BaseException:
            community.take_events()
            raise
        events = community.take_events()
        changed.events = [] if silent else events
        for event in changed.events:
            changed.deliveries += self.sender.send_event(event, community.site, **options)

    def lagging(self) -> Community:
        """The community as query and search see it: some time ago, by the switch."""
        horizon = self.now_s() - self.switches.consistency_delay_s
        while self._past and self._past[0][0] <= horizon:
            self._past.popleft()
        return self._past[0][1] if self._past else self.community

    def replace_community(self, community: Community) -> None:
        self._past.clear()
        self.tokens.clear()
        self.community = community

    # Identities

    def new_token(self, lifetime_s: float | None = None) -> str:
        now = self.now_s()
        lifetime = self.switches.token_lifetime_s if lifetime_s is None else lifetime_s
        token = f"OauthNG.JWS.{secrets.token_urlsafe(32)}"
        self.tokens[token] = Token(now + lifetime, now)
        return token

    def active_token(self, token: str) -> Token | None:
        found = self.tokens.get(token)
        if found is None or found.expires_at <= self.now_s() or not self.community.site.installed:
            return None
        return found

    def identify(self, authorization: str, site_id: str) -> Identity | None:
        credential = authorization.removeprefix("Bearer ").strip()
        site = self.community.site
        if secrets.compare_digest(credential.encode(), API_KEY.encode()):
            return Identity("USER", site.owner()) if site_id == site.site_id else None
        if self.active_token(credential):
            return Identity("APP", {"identityType": "APP", "appId": site.app_id})
        return None

    def over_rate_limit(self, identity: Identity) -> float:
        """0 when the call may go on, else the seconds until the next one may."""
        limit = self.switches.rate_limit_per_minute
        if not limit:
            return 0.0
        now, calls = self.now_s(), self._rate.setdefault(identity.kind, deque())
        while calls and calls[0] <= now - 60:
            calls.popleft()
        if len(calls) >= limit:
            return calls[0] + 60 - now
        calls.append(now)
        return 0.0

    def unlucky(self) -> int | str:
        """0, or how a call fails by the switches: its status, or the kind of broken answer."""
        if self.switches.failure_rate and random.random() < self.switches.failure_rate:
            ways: list[int | str] = [*self.switches.failure_statuses, *self.switches.broken_answers]
            return random.choice(ways or [500])
        return 0

    def record_call(
        self,
        endpoint: str,
        method: str,
        path: str,
        status: int,
        identity: str,
        broken: str = "",
        about: str = "",
    ) -> None:
        """`status` 0: none was sent. `about`: the first id or address of the body."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.call_counts[endpoint] += 1
        self.calls.append(
            {
                "n": self.call_counts.total(),
                "at": at,
                "endpoint": endpoint,
                "method": method,
                "path": path,
                "status": status,
                "identity": identity,
                "broken": broken,
                "about": about,
            }
        )

    def settings(self) -> dict[str, str]:
        """The environment of a client."""
        return {
            "WIX_APP_ID": self.community.site.app_id,
            "WIX_APP_SECRET": APP_SECRET,
            "WIX_PUBLIC_KEY": self.sender.keys.public_pem,
            "WIX_API_URL": self.url,
            "WIX_API_KEY": API_KEY,
            "WIX_SITE_ID": self.community.site.site_id,
            "EMAIL_URL": self.smtp_url,
            "DASHBOARD_URL": self.dashboard_url,
        }

    @property
    def dashboard_url(self) -> str:
        """By a name of its own: to browsers it is another site than the app, as Wix's is, though on one machine."""
        return f"{self.url.replace('//127.0.0.1:', '//localhost:')}/dashboard"

    async def close(self) -> None:
        self.mail.close()
        await self.sender.close()
