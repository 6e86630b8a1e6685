"""How fast letters may go, in the provider's terms, and when a sender has to rest. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

WARM_UP_DAYS = 30
WARM_UP_GROWTH = 1.5
"""Mailbox providers ask a new sender to begin small and to grow slowly, and name no number; this one is ours."""
TRIP_AFTER = 5
"""So many failures in a row, none of them about one person's address, are about the sender."""
FIRST_PAUSE = timedelta(seconds=15)
"""After a run of failures: a mail server that is restarted is back by then."""
FIRST_REST = timedelta(minutes=5)
"""After a no that is about us: that is for a person to mend."""
LONGEST_PAUSE = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the way out takes from one sender, all told and for each domain of readers; None: no limit.

    `warm_up`: letters on the first day of a new sender.
    """

    per_second: float | None = None
    per_minute: float | None = None
    per_day: int | None = None
    domain_per_second: float | None = None
    domain_per_minute: float | None = None
    domain_per_day: int | None = None
    warm_up: int | None = None

    def of_day(self, day: int) -> int | None:
        """Letters of one sender in 24 hours, on the given day after its first letter (0 is the first)."""
        ramp = None if self.warm_up is None else warm_up_limit(self.warm_up, day, self.per_day)
        return self.per_day if ramp is None else ramp


@dataclass(frozen=True, slots=True)
class Window:
    """At most so many letters in any stretch of so many seconds."""

    letters: int
    seconds: float

    def share(self, part: float) -> Window:
        """What a caller who may use up `part` of it has; never more, and never nothing."""
        fair = self.letters * part
        return Window(math.floor(fair), self.seconds) if fair >= 1 else Window(1, self.seconds / fair)


@dataclass(frozen=True, slots=True)
class Pause:
    """Nobody writes to this domain ("": to anybody) until then; `reason` is what went wrong."""

    domain: str
    until: datetime
    reason: str


def window(rate: float, seconds: float) -> Window:
    """`rate` letters in any `seconds`. For half a letter a second one in any two; for 1.5 two in any 1.33, which
    keeps the rate and never lets a whole letter more than the next whole number go at once."""
    letters = math.ceil(rate)
    return Window(letters, seconds * letters / rate)


def warm_up_limit(first_day: int, day: int, per_day: int | None = None) -> int | None:
    """How many letters the ramp of a new sender allows on this day (0 is the first): half as many again each day.

    None when the ramp is over: it reached `per_day`, or lasted 30 days.
    """
    if day >= WARM_UP_DAYS:
        return None
    most = int(first_day * WARM_UP_GROWTH ** max(0, day))
    return None if per_day is not None and most >= per_day else most


def pause_length(pauses: int, first: timedelta = FIRST_PAUSE) -> timedelta:
    """How long to rest after so many pauses that did not help: twice as long each time, up to 4 hours."""
    return min(LONGEST_PAUSE, first * (1 << min(pauses, 10)))
