"""Requests to join as Wix lists them now, with their answers: read group by group, and remembered for a while.

A page waits some seconds at most. What was not read by then is read for the next one; of a site with many private
groups the lists are remembered longer, so that looking at them leaves most of the budget alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from admin.office.directory import in_words
from admin.office.words import N_
from core.community import Answer, Group, GroupId, MemberId, SiteId
from core.errors import ForbiddenError, IntegrationError, NotFoundError, RetryableError
from core.ports import WixPort
from integrations.cache import ExpiringCache

FRESH_S = 30.0
KEPT_S = 3600.0
WITHIN_S = 4.0
MOST_GROUPS_AT_ONCE = 24
MOST_OF_A_GROUP = 500


@dataclass(frozen=True, slots=True)
class Pending:
    """Of one group: who asks and since when, if Wix says so. `trouble` is a sentence; `more`: there are others, older
    ones."""

    at: float
    asked: Mapping[MemberId, datetime | None] = field(default_factory=dict)
    answers: Mapping[MemberId, tuple[Answer, ...]] | None = field(default_factory=dict, repr=False)
    """None: nobody knows."""
    trouble: str = ""
    more: bool = False


@dataclass(frozen=True, slots=True)
class PendingOfGroups:
    """`missing`: how many of the groups nobody has looked at yet."""

    by_group: Mapping[GroupId, Pending]
    missing: int = 0
    trouble: str = ""


class PendingRequests:
    """One for a process. `now` counts seconds from anywhere."""

    def __init__(self, wix: WixPort, now: Callable[[], float] = time.monotonic) -> None:
        self._wix = wix
        self._now = now
        self._known: ExpiringCache[tuple[SiteId, GroupId], Pending] = ExpiringCache(now, 20_000)
        self._locks = [threading.Lock() for _ in range(16)]

    def of(self, site: SiteId, groups: Sequence[Group]) -> PendingOfGroups:
        """Of these groups, as far as it is known; the ones looked at longest ago are read anew. Only private groups
        have requests."""
        private = [group.id for group in groups if group.privacy == "PRIVATE"]
        trouble = ""
        lock = self._locks[hash(site) % len(self._locks)]
        if lock.acquire(timeout=WITHIN_S):  # somebody else may be reading the very same
            try:
                trouble = self._read(site, private)
            finally:
                lock.release()
        known = {id_: found for id_ in private if (found := self._known.get((site, id_)))}
        return PendingOfGroups(known, len(private) - len(known), trouble)

    def forget(self, site: SiteId, group: GroupId) -> None:
        """Read this one anew the next time."""
        if known := self._known.get((site, group)):
            stale = Pending(float("-inf"), known.asked, known.answers, known.trouble, known.more)
            self._known.put((site, group), stale, KEPT_S)

    def _read(self, site: SiteId, groups: Sequence[GroupId]) -> str:
        begun = self._now()
        fresh_s = FRESH_S * (1 + len(groups) / 20)
        last = {id_: found.at if (found := self._known.get((site, id_))) else float("-inf") for id_ in groups}
        stale = sorted((id_ for id_ in groups if begun - last[id_] >= fresh_s), key=lambda id_: last[id_])
        for id_ in stale[:MOST_GROUPS_AT_ONCE]:
            if self._now() - begun > WITHIN_S:
                break
            try:
                self._known.put((site, id_), self._ask(site, id_), KEPT_S)
            except RetryableError as exc:  # it will be the same for the others
                return in_words(exc)
        return ""

    def _ask(self, site: SiteId, group: GroupId) -> Pending:
        """Raises RetryableError; what Wix refuses is said of this group alone."""
        try:
            listed = list(islice(self._wix.list_join_requests(site, group), MOST_OF_A_GROUP + 1))
        except NotFoundError:
            return Pending(self._now())
        except RetryableError:
            raise
        except IntegrationError as exc:
            return Pending(self._now(), trouble=in_words(exc))
        asked = dict(listed[:MOST_OF_A_GROUP])
        more = len(listed) > MOST_OF_A_GROUP
        if not asked:
            return Pending(self._now())
        try:
            answers = self._wix.list_answers(site, group, asked)
        except RetryableError:
            raise
        except ForbiddenError:
            trouble = N_("Wix does not let this app read the answers to this group’s questions.")
            return Pending(self._now(), asked, None, trouble, more)
        except IntegrationError as exc:
            return Pending(self._now(), asked, None, in_words(exc), more)
        return Pending(self._now(), asked, answers, "", more)
