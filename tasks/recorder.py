"""What the mail server said of a letter is written while the next one is made ready: the commit takes about as long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Recorder:
    """One for the process, whatever it delivers: a letter is marked only when what was said of the one before is
    written, so a death leaves one letter in doubt at most. Make it after the fork."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._last: Future[None] | None = None

    def write(self, write: Callable[[], None]) -> None:
        """Begin to write; at once and here where no thread is to be had. Raises what kept the one before from it."""
        self.settle()
        try:
            self._last = self._thread.submit(write)
        except RuntimeError:  # too many threads, or the process ends
            write()

    def settle(self) -> None:
        """Wait until it is written. Raises what kept it from that."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
