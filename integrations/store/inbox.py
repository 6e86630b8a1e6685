"""Many requests, one commit: whoever arrives while a commit is in flight rides in the next one.

A thread owns the writing, so a slow disk never holds up the event loop, and a lone request is written at once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.errors import JournalUnavailableError
from core.events import Event

log = logging.getLogger(__name__)

_LARGEST_BATCH = 200


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: Event
    answer: asyncio.Future[bool]
    loop: asyncio.AbstractEventLoop


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
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(maxsize=most_waiting)
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    async def accept(self, event: Event) -> bool:
        """True when new, False when known already. Raises JournalUnavailableError when it is not committed in time."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(event, loop.create_future(), loop)
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise JournalUnavailableError("too many deliveries wait for the database") from None
        try:
            return await asyncio.wait_for(waiting.answer, self._timeout_s)
        except TimeoutError:
            raise JournalUnavailableError("the database did not commit in time") from None

    def close(self) -> None:
        """Commit what waits, then end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while True:
            batch: list[_Waiting] = []
            item = self._queue.get()
            while item is not None:
                # Nobody waits for it any more: Wix has been told 503 and comes again.
                if not item.answer.done():
                    batch.append(item)
                if len(batch) >= _LARGEST_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)
            if item is None:
                return

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            answers: Sequence[bool | JournalUnavailableError] = self._insert([item.event for item in batch])
        except JournalUnavailableError as exc:
            answers = [exc] * len(batch)
        except Exception:
            # One event that the database cannot take must not refuse the others that rode with it.
            if len(batch) > 1:
                for item in batch:
                    self._commit([item])
                return
            log.exception("journal.refused", extra={"event_id": batch[0].event.id})
            answers = [JournalUnavailableError("the database cannot take this event")]
        for loop in {item.loop for item in batch}:
            mine = [
                (item.answer, said) for item, said in zip(batch, answers, strict=True) if item.loop is loop
            ]
            try:
                loop.call_soon_threadsafe(_tell, mine)
            except RuntimeError:  # the loop is closed: its requests are gone
                continue
        if any(answer is True for answer in answers):
            self._committed()


def _tell(answers: list[tuple[asyncio.Future[bool], bool | JournalUnavailableError]]) -> None:
    for future, said in answers:
        if future.done():
            continue
        if isinstance(said, bool):
            future.set_result(said)
        else:
            future.set_exception(said)
