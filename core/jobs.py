"""What an admin asked for, as it stands: the states of a job, what its rows came to, and what it will cost. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.community import SiteId
from core.pacing import Limits

STATES = ("previewing", "previewed", "running", "paused", "cancelled", "done", "failed")
ITEM_STATES = ("planned", "done", "skipped", "failed", "in_doubt")
FINAL = frozenset({"cancelled", "done", "failed"})

CALL_OFF = "call off"
"""The phase in which what has not begun of an ended job gets its reason, page by page."""
RETRY = "retry"
"""The phase in which failed rows become planned again."""
TIDY = "tidy"
"""The phase of an ended job, in which nothing happens for some weeks, and then personal data goes."""
WAIT = "wait"
"""The phase of a mailing in which all its letters have been let go and not all have arrived."""
CANCELLED = "the job was cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its worker sees it. `phase` and `cursor` say where it is, `plan` what its preview found out; these are
    the kind's own words (tasks/jobs/)."""

    id: str
    site: SiteId
    kind: str
    params: Mapping[str, Any] = field(repr=False)
    who: str
    state: str
    phase: str
    cursor: Mapping[str, Any]
    plan: Mapping[str, Any] = field(repr=False)
    wix_calls: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the rows of a job came to; `waiting` are those that are in no final state."""

    total: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    in_doubt: int = 0
    skipped_by_reason: Mapping[str, int] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        return self.total - self.done - self.skipped - self.failed - self.in_doubt


BULK_SHARE = 0.6
"""Of a burst of calls; the rest is kept for live events (integrations/wix/budget.py)."""


def least_seconds(wix_calls: int, letters: int, calls_per_minute: float, limits: Limits) -> int:
    """No job of this size is over sooner, by the budget of calls and by the pace of EMAIL_URL; whole seconds."""
    burst = calls_per_minute / 9 * BULK_SHARE
    asking = max(0.0, wix_calls - burst) * 60 / calls_per_minute
    writing = 0.0
    for count, length_s in (
        (limits.per_second, 1),
        (limits.per_minute, 60),
        (limits.per_day, 86400),
    ):
        if count:
            writing = max(writing, (letters - count) / count * length_s)
    return math.ceil(max(asking, writing))
