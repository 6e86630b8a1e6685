"""Where the web parts meet: door, unsubscribe, health, admin API, console, on one journal."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from admin.processes import letterhead, return_paths
from admin.rooms import Rooms
from config.settings import Settings
from core.community import GroupId
from core.errors import JournalUnavailableError
from integrations.email.render import Renderer
from integrations.email.unsubscribe import TRIAL, AddressHashes, UnsubscribeClaim, UnsubscribeTokens
from integrations.shared import open_redis
from integrations.store.database import Database, open_database
from integrations.store.heartbeats import Heartbeats
from integrations.store.inbox import Inbox
from integrations.store.journal import Journal
from integrations.store.returns import Returns
from integrations.store.senders import Senders
from integrations.store.suppressions import Suppressions
from integrations.store.tables import senders, watches
from integrations.store.tally import Tally
from tasks.app import create_app as create_celery_app
from tasks.app import ring
from tasks.doorbell import Doorbell
from tasks.inbound import Mailroom
from tasks.routes import ROUTES
from webhooks.endpoint import PATH, Door
from webhooks.health import health_routes
from webhooks.inbound import inbound_routes
from webhooks.intake import COMMIT_WITHIN_S, Intake, intake_aside
from webhooks.opening import Opener
from webhooks.unsubscribe import unsubscribe_routes
from webhooks.verify import Verifier, load_public_key

WORKER_SILENT_AFTER_S = 30.0
COUNTED_EVERY_S = 15.0
DESK_WAITS_S = 5.0


class _Web(Starlette):
    """A delivery goes past routing and middleware, which cost as much as checking its signature."""

    def __init__(self, door: Door, **parts: Any) -> None:
        super().__init__(**parts)
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await self._door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings, renderer: Renderer | None = None, *, with_aside: bool = False
) -> Starlette:
    """The web process for settings that were checked; `renderer` as the check has left it. Looks at the database once,
    and raises ConfigError when its tables are not those of this release; every other connection is opened when it is
    needed. `with_aside`: deliveries are opened and committed in a process of its own, which is much faster."""
    database = open_database(settings.database, timeout_s=COMMIT_WITHIN_S)
    # People wait longer, and however many do, they take no connection from the door.
    desk = Database(settings.database, timeout_s=DESK_WAITS_S)
    journal = Journal(database, listened=ROUTES)
    suppressions = Suppressions(database)
    celery = create_celery_app(settings.broker, publisher=True)
    doorbell = Doorbell(functools.partial(ring, celery))
    registry = CollectorRegistry()
    registry.register(_Rows(database, doorbell))
    keys = [load_public_key(text) for text in (settings.wix_public_key, settings.wix_public_key_next) if text]
    tokens = UnsubscribeTokens(settings.secret_keys[0], settings.secret_keys[1:])
    hashes = AddressHashes(settings.secret_keys[0], settings.secret_keys[1:])
    opener = Opener(hashes.of)
    inbox = Inbox(
        Intake(journal, opener).take,
        doorbell.ring,
        aside=intake_aside(settings.database, settings.secret_keys, ROUTES) if with_aside else None,
    )

    def unsubscribe(claim: UnsubscribeClaim, group: GroupId | None) -> None:
        if claim == TRIAL:
            return
        suppressions.unsubscribe(claim.site, claim.member, claim.address_hash, "one click", group=group)
        if group is None:
            doorbell.ring()  # Wix is owed the news

    # Without a sender, or where it has to stand alone in the envelope, no mail that comes back names a letter.
    paths = return_paths(settings) if settings.email_from or settings.email_bounces else None
    inbound = []
    if paths is not None:
        sender = letterhead(settings).address if settings.email_from else paths.address
        mailroom = Mailroom(paths, Returns(database), Senders(database, sender), doorbell.ring)
        inbound = inbound_routes(settings.admin_token.get_secret_value(), mailroom.take_in)

    redis = open_redis(settings.redis)
    rooms = Rooms(settings, desk, redis, hashes, doorbell.ring, renderer)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        rooms.open_soon()
        yield
        inbox.close()
        doorbell.close()
        rooms.close()
        redis.close()
        database.close()
        desk.close()

    door = Door(Verifier(keys), opener, inbox, registry)
    app = _Web(
        door,
        routes=[
            Route(PATH, door, methods=["POST"]),
            *unsubscribe_routes(tokens.read, unsubscribe),
            *inbound,
            *health_routes(_checks(settings, database, celery.connection_for_write), registry),
            Mount("/api", rooms.behind("api")),
            Route("/admin", lambda _request: RedirectResponse("/admin/", 308), methods=["GET"]),
            Mount("/admin", rooms.behind("console")),
        ],
        lifespan=lifespan,
    )
    # Starlette would send the caller of "…/" to whatever the Host header names.
    app.router.redirect_slashes = False
    return app


def _checks(
    settings: Settings, database: Database, connect_broker: Callable[[], object]
) -> dict[str, Callable[[], str]]:
    heartbeats = Heartbeats(database)

    def check_database() -> str:
        try:
            with database.begin():  # as a delivery would: a locked database is none to commit to
                return "ok"
        except JournalUnavailableError as exc:
            return str(exc)

    def check_redis() -> str:
        try:
            with contextlib.closing(open_redis(settings.redis)) as redis:
                redis.ping()
            return "ok"
        except RedisError as exc:
            return f"not reachable ({type(exc).__name__})"

    def check_broker() -> str:
        with connect_broker() as connection:  # type: ignore[attr-defined] # a kombu connection
            connection.ensure_connection(max_retries=1, timeout=1)
        return "ok"

    def check_worker() -> str:
        try:
            alive = heartbeats.heard_within("worker:", WORKER_SILENT_AFTER_S)
        except JournalUnavailableError:
            return "unknown: the database is away"
        return "ok" if alive else f"no worker was heard of for {WORKER_SILENT_AFTER_S:.0f} s"

    return {
        "database": check_database,
        "redis": check_redis,
        "broker": check_broker,
        "worker": check_worker,
    }


_NUMBERS = (
    ("usher_quiet_sites", "Sites whose webhooks used to come and do not", watches.c.quiet_at.is_not(None)),
    (
        "usher_paused_senders",
        "Senders, or domains of readers, that are paused",
        senders.c.paused_until.is_not(None),
    ),
)


_FOUND = ("usher_events_found", "Events that the sweep over Wix's lists found")


class _Rows(Collector):
    """Totals counted from the rows: they cannot drift, whoever did the work. Anybody may ask, so not at each ask."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell
        self._tally = Tally(database)
        self._lock = threading.Lock()
        self._counted: dict[str, dict[str, int]] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._count_again_at = 0.0

    def collect(self) -> Iterable[Metric]:
        for name, counts in self._counts().items():
            metric = GaugeMetricFamily(f"usher_{name}", f"Rows of {name} by state", labels=["state"])
            for state, number in counts.items():
                metric.add_metric([state], number)
            yield metric
        for (name, what), number in self._numbers.items():
            gauge = GaugeMetricFamily(name, what)
            gauge.add_metric([], number)
            yield gauge
        broken = GaugeMetricFamily("usher_doorbell_failures", "Wake-ups the broker did not take")
        broken.add_metric([], self._doorbell.failures)
        yield broken

    def _counts(self) -> dict[str, dict[str, int]]:
        with self._lock:
            if time.monotonic() >= self._count_again_at:
                self._counted, self._numbers = {}, {}
                with contextlib.suppress(JournalUnavailableError):
                    self._counted = self._tally.ask()
                    with self._database.read() as tx:
                        self._numbers = {
                            (name, what): tx.connection.scalar(sa.select(sa.func.count()).where(condition))
                            or 0
                            for name, what, condition in _NUMBERS
                        }
                    if self._tally.found is not None:
                        self._numbers[_FOUND] = self._tally.found
                self._count_again_at = time.monotonic() + COUNTED_EVERY_S
            return self._counted

    def describe(self) -> Iterable[Metric]:
        return ()
