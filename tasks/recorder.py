"""What the mail server said of a letter is written while the next one is made ready: the commit takes about as long."""

from __future__ import annotations

from collections.abc import Callable


class Recorder:
    """One for the process, whatever it delivers: a letter is marked behind what was said of the one before, and its
    dot goes when that is known to be written, so a death leaves one letter in doubt at most."""

    def __init__(self) -> None:
        self._last: Callable[[], None] | None = None

    def follow(self, wait: Callable[[], None]) -> None:
        """Something is being written; `wait` returns when it is. Raises what kept the one before from it."""
        self.settle()
        self._last = wait

    def settle(self) -> None:
        """Wait until it is written. Raises what kept it from that."""
        last, self._last = self._last, None
        if last is not None:
            last()
