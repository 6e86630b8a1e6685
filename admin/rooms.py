"""What people come in by, the API and the console, over one office. The web process is there for deliveries before it
has put these together: they are two thirds of its start."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable

from redis import Redis
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from admin.processes import TEMPLATES, open_wix, read_file
from config.settings import Settings
from core.consent import Sender
from integrations.email.render import Renderer
from integrations.email.unsubscribe import AddressHashes
from integrations.store.book import Book
from integrations.store.database import Database
from integrations.store.journal import Journal
from integrations.store.suppressions import Suppressions
from tasks.routes import ROUTES

log = logging.getLogger(__name__)

PAGE_WAITS_S = 4.0
"""For one answer of Wix: somebody looks at an empty window meanwhile."""


class Rooms:
    """Put together once: by `open`, or when somebody comes before that."""

    def __init__(
        self,
        settings: Settings,
        desk: Database,
        redis: Redis,
        hashes: AddressHashes,
        ring: Callable[[], None],
        renderer: Renderer | None = None,
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._redis = redis
        self._hashes = hashes
        self._ring = ring
        self._renderer = renderer
        self._lock = threading.Lock()
        self._open: dict[str, ASGIApp] = {}
        self._close: Callable[[], None] = lambda: None

    def behind(self, name: str) -> ASGIApp:
        """The application of "api" or of "console", to be mounted."""

        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            if name not in self._open:
                await run_in_threadpool(self.open)
            await self._open[name](scope, receive, send)

        return enter

    def open(self) -> None:
        with self._lock:
            if not self._open:
                self._open = self._put_together()

    def open_soon(self) -> None:
        """In the background: nobody waits for it, and a failure is told to whoever comes."""

        def run() -> None:
            try:
                self.open()
                gc.freeze()  # as admin.serve does with the rest
            except Exception:
                log.exception("rooms.not_open")

        threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        self._close()

    def _put_together(self) -> dict[str, ASGIApp]:
        from admin.api import Limiter, admin_api
        from admin.console.app import console
        from admin.console.entrance import Keys
        from admin.office import Office
        from admin.trial import open_trials

        settings, desk = self._settings, self._desk
        renderer = self._renderer or Renderer(TEMPLATES)
        wix = open_wix(settings, self._redis, call_s=PAGE_WAITS_S)
        self._close = wix.close
        office = Office.over(
            desk,
            Journal(desk, listened=ROUTES),
            self._ring,
            wix=wix.for_bulk(),  # a page that waits for Wix takes no live event's room
            book=Book(desk, read_file(settings), renderer.names()),
            renderer=renderer,
            hashes=self._hashes,
            trial=open_trials(settings, renderer, Suppressions(desk)),
            calls_per_minute=settings.wix_calls_per_minute,
            sender=Sender(has_postal_address=bool(settings.email_postal_address)),
        )
        limiter = Limiter(self._redis)
        keys = Keys(
            settings.admin_token.get_secret_value(),
            settings.wix_app_secret.get_secret_value(),
            tuple(settings.secret_keys),
            settings.public_url,
            settings.wix_api_url,
        )
        return {
            "api": admin_api(settings.admin_token.get_secret_value(), office, limiter).app,
            "console": console(keys, office, limiter).app,
        }
