"""What one process remembers for a while: bounded, and safe to use from many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringCache(Generic[K, V]):
    """A dict whose entries end by themselves. When it is full, the entry that was put first makes room."""

    def __init__(self, now: Callable[[], float], max_entries: int = 10_000) -> None:
        self._now = now
        self._max_entries = max_entries
        self._entries: dict[K, tuple[V, float]] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            value, until = self._entries.get(key, (None, 0.0))
            if value is not None and until <= self._now():
                del self._entries[key]
                return None
            return value

    def put(self, key: K, value: V, ttl_s: float) -> None:
        with self._lock:
            self._entries.pop(key, None)
            if len(self._entries) >= self._max_entries:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = (value, self._now() + ttl_s)
