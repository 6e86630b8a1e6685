"""Many requests, one commit: whoever arrives while a commit is in flight rides in the next one.

A process aside or, while there is none, a thread commits, so a slow disk never holds up the event loop,
and a lone request is written at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from core.errors import JournalUnavailableError
from integrations.aside import Aside, Asked, GoneError
from integrations.deadlines import Deadlines

log = logging.getLogger(__name__)

_LARGEST_BATCH = 200
_LARGEST_BATCH_BYTES = 4_000_000
_LARGEST_FLIGHT_BYTES = 150_000
"""Two of them fit into the socket, so asking never waits for what is being committed."""
_ANSWERS_WITHIN_S = 2.0
"""The database's own limit there is a second: who takes longer has been stopped, or its disk hangs."""

Delivery = tuple[bytes, float]
Taken = Sequence[str]
_Waiting = tuple[Delivery, asyncio.Future[Taken]]
_Said = Taken | JournalUnavailableError


class Inbox:
    """`take` commits a batch of deliveries and says what became of each, on this object's thread; the first word is
    "new" where something was. `committed` is called after each commit with something new. `aside` does what `take`
    does; then all is asked from one event loop.

    `timeout_s` is how long a request waits at most: Wix waits 1.25 s, and what commits later is met by its next
    delivery as a duplicate.
    """

    def __init__(
        self,
        take: Callable[[Sequence[Delivery]], Sequence[Taken]],
        committed: Callable[[], None],
        *,
        aside: Aside | None = None,
        timeout_s: float = 1.0,
        most_waiting: int = 5000,
    ) -> None:
        self._take = take
        self._committed = committed
        self._aside = aside
        self._most_waiting = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._left: deque[list[_Waiting]] = deque()
        """What was not seen through aside."""
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_rung = False
        self._flights: deque[tuple[list[_Waiting], Asked, float]] = deque()
        """What is asked aside, and since when."""
        self._is_thread_busy = False
        self._is_closed = False
        self._taking = threading.Lock()
        self._unanswered = Deadlines(timeout_s, self._refuse_late)
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    async def accept(self, claims: bytes, came_at: float) -> Taken:
        """What became of it. Raises JournalUnavailableError when it is not committed in time."""
        if len(self._waiting) >= self._most_waiting:
            raise JournalUnavailableError("too many deliveries wait for the database")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Taken] = loop.create_future()
        self._unanswered.add(answer, loop)
        if not self._is_rung:
            self._is_rung = True
            loop.call_soon(self._ring)
        self._waiting.append(((claims, came_at), answer))
        try:
            return await answer
        finally:
            self._unanswered.remove(answer)

    def _ring(self) -> None:
        """At the end of the loop's turn: who came in the same turn rides together, and a commit waits for nobody."""
        self._is_rung = False
        if self._flights and self._flights[0][-1] < time.monotonic() - _ANSWERS_WITHIN_S:
            self._give_up_aside()
            self._hear()
        if not self._has_enough_aside() and (self._is_thread_busy or not self._ask_aside()):
            self._wake_thread()

    def _has_enough_aside(self) -> bool:
        """A second batch follows the first at once, however long this turn of the loop takes, if it is half as
        large. Others are thought of when there is an answer."""
        return len(self._flights) > 1 or (
            bool(self._flights) and 2 * len(self._waiting) < len(self._flights[0][0])
        )

    def _ask_aside(self) -> bool:
        aside = self._aside
        if aside is None or self._is_closed or not aside.is_ready():
            return False
        batch = self._next_batch(_LARGEST_FLIGHT_BYTES)
        if not batch:
            return not self._waiting  # or else the first is too large to fly
        if aside.before_closing is None:
            loop = asyncio.get_running_loop()
            loop.add_reader(aside.fileno(), self._hear)
            aside.before_closing = loop.remove_reader
        try:
            asked = aside.begin([delivery for delivery, _ in batch])
        except GoneError:
            if self._flights:
                self._hear()  # what was asked before is as gone
            self._left.append(batch)
            return False
        self._flights.append((batch, asked, time.monotonic()))
        return True

    def _hear(self) -> None:
        """There is an answer, or nobody to give one any more."""
        if self._aside is None or not self._flights:
            self._give_up_aside()
            return
        while True:
            batch, asked, _ = self._flights.popleft()
            try:
                said = self._aside.hear(asked)
            except JournalUnavailableError as exc:
                _tell(batch, [exc] * len(batch))
            except GoneError:
                self._left.append(batch)
                self._wake_thread()
            else:
                _tell(batch, said)
                self._ring_for(said)
            if not self._flights or self._flights[0][1].answer is None:
                break
        if self._waiting and not self._is_rung:
            self._is_rung = True
            asyncio.get_running_loop().call_soon(self._ring)

    def _refuse_late(self, answer: asyncio.Future[Taken]) -> None:
        if not answer.done():
            answer.set_exception(JournalUnavailableError("the database did not commit in time"))
        if self._flights and self._flights[0][-1] < time.monotonic() - _ANSWERS_WITHIN_S:
            self._give_up_aside()
            self._hear()

    def _give_up_aside(self) -> None:
        if self._aside is not None:
            self._aside.kill()

    def _wake_thread(self) -> None:
        self._is_thread_busy = True
        self._bell.put(True)

    def close(self) -> None:
        """Commit what waits, then end the thread, and what is aside."""
        self._is_closed = True
        while self._flights:
            self._hear()
        self._bell.put(False)
        self._thread.join(timeout=10.0)
        if self._aside is not None:
            self._aside.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            is_open = self._bell.get()
            while self._left or self._waiting:
                if self._left:
                    # The process aside may have committed it, and told nobody.
                    self._commit(self._left.popleft(), may_be_known=True)
                else:
                    self._commit(self._next_batch(_LARGEST_BATCH_BYTES))
            self._is_thread_busy = False

    def _next_batch(self, most_bytes: int) -> list[_Waiting]:
        """The first of those who wait, as many as fit."""
        batch: list[_Waiting] = []
        left = most_bytes
        with self._taking:  # the loop and the thread
            while self._waiting and len(batch) < _LARGEST_BATCH and len(self._waiting[0][0][0]) <= left:
                delivery, answer = self._waiting.popleft()
                # Nobody waits for it any more: Wix has been told 503 and comes again.
                if not answer.done():
                    batch.append((delivery, answer))
                    left -= len(delivery[0])
        return batch

    def _commit(self, batch: list[_Waiting], *, may_be_known: bool = False) -> None:
        batch = [item for item in batch if not item[1].done()]
        if not batch:
            return
        try:
            said: Sequence[_Said] = self._take([delivery for delivery, _ in batch])
        except JournalUnavailableError as exc:
            said = [exc] * len(batch)
        except Exception as exc:  # noqa: BLE001 (whatever a driver raises)
            # One event that the database cannot take must not refuse the others that rode with it.
            if len(batch) > 1:
                for item in batch:
                    self._commit([item], may_be_known=may_be_known)
                return
            # No traceback: a driver's error repeats the row, and the row holds the payload.
            log.error("journal.refused", extra={"error": type(getattr(exc, "orig", None) or exc).__name__})
            said = [JournalUnavailableError("the database cannot take this event")]
        for loop in {answer.get_loop() for _, answer in batch}:
            mine = [at for at, (_, answer) in enumerate(batch) if answer.get_loop() is loop]
            with contextlib.suppress(RuntimeError):  # the loop is closed: its requests are gone
                loop.call_soon_threadsafe(_tell, [batch[at] for at in mine], [said[at] for at in mine])
        self._ring_for(said, may_be_known=may_be_known)

    def _ring_for(self, said: Sequence[_Said], *, may_be_known: bool = False) -> None:
        committed = (word[0] for word in said if not isinstance(word, JournalUnavailableError))
        if may_be_known or "new" in committed:
            self._committed()


def _tell(batch: Sequence[_Waiting], said: Sequence[_Said]) -> None:
    for (_, answer), word in zip(batch, said, strict=True):
        if answer.done():
            continue
        if isinstance(word, JournalUnavailableError):
            answer.set_exception(word)
        else:
            answer.set_result(word)
