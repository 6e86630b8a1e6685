"""Many requests, one commit: whoever arrives while a commit is in flight rides in the next one.

A thread owns the writing, so a slow disk never holds up the event loop, and a lone request is written at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from core.errors import JournalUnavailableError
from core.events import Event

log = logging.getLogger(__name__)

_LARGEST_BATCH = 200
_LARGEST_BATCH_CHARS = 4_000_000


_Waiting = tuple[Event, asyncio.Future[bool]]


class Inbox:
    """`insert` commits a batch and says which were new; `committed` is called after each commit with something new.

    Both run on this object's thread. `timeout_s` is how long a request waits at most: Wix waits 1.25 s, and
    what commits later is met by its next delivery as a duplicate.
    """

    def __init__(
        self,
        insert: Callable[[Sequence[Event]], Sequence[bool]],
        committed: Callable[[], None],
        *,
        timeout_s: float = 1.0,
        most_waiting: int = 5000,
    ) -> None:
        self._insert = insert
        self._committed = committed
        self._timeout_s = timeout_s
        self._most_waiting = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_rung = False
        self._unanswered: dict[asyncio.Future[bool], float] = {}
        self._watched_by: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    async def accept(self, event: Event) -> bool:
        """True when new, False when known already. Raises JournalUnavailableError when it is not committed in time."""
        if len(self._waiting) >= self._most_waiting:
            raise JournalUnavailableError("too many deliveries wait for the database")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()
        self._unanswered[answer] = loop.time() + self._timeout_s
        if self._watched_by is not loop:
            self._watched_by = loop
            loop.call_at(self._unanswered[answer], self._refuse_late, loop)
        if not self._is_rung:
            self._is_rung = True
            loop.call_soon(self._ring)
        self._waiting.append((event, answer))
        try:
            return await answer
        finally:
            self._unanswered.pop(answer, None)

    def _ring(self) -> None:
        """At the end of the loop's turn: who came in the same turn rides together, and a commit waits for nobody."""
        self._is_rung = False
        self._bell.put(True)

    def _refuse_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all, who wait equally long: set for the first of them."""
        for answer, ends_at in list(self._unanswered.items()):
            if ends_at > loop.time():
                loop.call_at(ends_at, self._refuse_late, loop)
                return
            if not answer.done():
                answer.set_exception(JournalUnavailableError("the database did not commit in time"))
        self._watched_by = None

    def close(self) -> None:
        """Commit what waits, then end the thread."""
        self._bell.put(False)
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        is_open = True
        while is_open:
            is_open = self._bell.get()
            while batch := self._next_batch():
                self._commit(batch)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _LARGEST_BATCH and size < _LARGEST_BATCH_CHARS:
            event, answer = self._waiting.popleft()
            # Nobody waits for it any more: Wix has been told 503 and comes again.
            if not answer.done():
                batch.append((event, answer))
                size += len(event.payload)
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            said: Sequence[bool | JournalUnavailableError] = self._insert([event for event, _ in batch])
        except JournalUnavailableError as exc:
            said = [exc] * len(batch)
        except Exception as exc:  # noqa: BLE001 (whatever a driver raises)
            # One event that the database cannot take must not refuse the others that rode with it.
            if len(batch) > 1:
                for item in batch:
                    self._commit([item])
                return
            # No traceback: a driver's error repeats the row, and the row holds the payload.
            about = {"event_id": batch[0][0].id, "error": type(getattr(exc, "orig", None) or exc).__name__}
            log.error("journal.refused", extra=about)
            said = [JournalUnavailableError("the database cannot take this event")]
        answers = [(answer, word) for (_, answer), word in zip(batch, said, strict=True)]
        for loop in {answer.get_loop() for answer, _ in answers}:
            mine = [pair for pair in answers if pair[0].get_loop() is loop]
            with contextlib.suppress(RuntimeError):  # the loop is closed: its requests are gone
                loop.call_soon_threadsafe(_tell, mine)
        if any(word is True for word in said):
            self._committed()


def _tell(answers: list[tuple[asyncio.Future[bool], bool | JournalUnavailableError]]) -> None:
    for future, said in answers:
        if future.done():
            continue
        if isinstance(said, bool):
            future.set_result(said)
        else:
            future.set_exception(said)
