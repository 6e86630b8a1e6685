"""Events that are worked off together: what reactions go by, asked once for all of them when the first one needs it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from core.community import Answer, GroupId, MemberId, SiteId
from core.consent import Suppression
from core.errors import MalformedEventError, PermanentError
from core.events import Details, Event, EventId, read_details
from core.jobs import Job
from core.reconciliation import Heard, when_asked
from tasks.services import Services

FRESH_S = 0.5
"""So old may be what an event goes by that was read for one before it."""


class Batch:
    """All of it is as it was at some moment after the batch began: whoever writes for one of the events what another
    would read begins a new one."""

    def __init__(
        self, events: Sequence[Event], services: Services, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.services = services.for_one_piece()
        self._events = events
        self._now = now
        self._fresh_until = now() + FRESH_S
        self.quiet: set[tuple[SiteId, GroupId, MemberId]] = set()
        """For whom nothing was found to wait: that ends the matter, so it has to be so still when it is written."""
        self._standing: dict[SiteId, dict[MemberId, tuple[Suppression, ...]]] = {}
        self._waiting: dict[SiteId, dict[tuple[GroupId, MemberId], set[str]]] = {}
        self._heeding: dict[SiteId, dict[GroupId, list[Job]]] = {}
        self._found: dict[tuple[SiteId, str], list[Heard]] = {}
        self._answers: dict[tuple[SiteId, GroupId, str], dict[MemberId, tuple[Answer, ...]]] = {}

    @property
    def is_fresh(self) -> bool:
        return self._now() < self._fresh_until

    def details(self, event: Event) -> Details:
        """Raises MalformedEventError."""
        return self._details.get((event.site, event.id)) or read_details(event)

    def is_removed(self, site: SiteId) -> bool:
        """Whether the site removed the app."""
        return site in self._removed

    def standing(self, site: SiteId, member: MemberId) -> tuple[Suppression, ...]:
        """What stands against the member, by their id."""
        if site not in self._standing:
            people = dict.fromkeys(self._members(site), ())
            self._standing[site] = self.services.suppressions.standing(site, people)
        return self._standing[site].get(member, ())

    def waiting(self, site: SiteId, group: GroupId, member: MemberId) -> set[str]:
        """What set off the letters of this group that wait for the member."""
        if site not in self._waiting:
            self._waiting[site] = self.services.ledger.waiting(site, self._members(site))
        found = self._waiting[site].get((group, member), set())
        if not found:
            self.quiet.add((site, group, member))
        return found

    def heeding(self, site: SiteId, group: GroupId) -> list[Job]:
        """Jobs that also write to whoever joins the group later."""
        if site not in self._heeding:
            groups = {details.group for where, _, details in self._opened if where == site and details.group}
            self._heeding[site] = self.services.jobs.heeding(site, groups)
        return self._heeding[site].get(group, [])

    def when_asked(self, event: Event, group: GroupId, member: MemberId) -> datetime:
        """When the request was made that this event tells of."""
        if event.found:
            return event.occurred_at
        key = (event.site, event.type)
        if key not in self._found:
            same = [one for one in self._events if (one.site, one.type) == key]
            since = min(one.occurred_at for one in same) - timedelta(hours=1)
            members = self._members(event.site, event.type)
            self._found[key] = self.services.journal.found(event.site, members, [event.type], since)
        return when_asked(
            event,
            [one for one in self._found[key] if (one.details.group, one.details.member) == (group, member)],
        )

    def answers(self, event: Event, group: GroupId, member: MemberId) -> tuple[Answer, ...]:
        """What the member answered to the group's questions. One call for everybody of whom the same is told."""
        key = (event.site, group, event.type)
        if key not in self._answers:
            self._answers[key] = {}
            members = self._members(event.site, event.type, group)
            if len(members) > 1:
                with contextlib.suppress(PermanentError):  # it may be about one of the others
                    found = self.services.wix.list_answers(event.site, group, members)
                    self._answers[key] = {each: found.get(each, ()) for each in members}
        known = self._answers[key]
        if member in known:
            return known[member]
        return self.services.wix.list_answers(event.site, group, [member]).get(member, ())

    @functools.cached_property
    def _details(self) -> dict[tuple[SiteId, EventId], Details]:
        found = {}
        for event in self._events:
            with contextlib.suppress(MalformedEventError):
                found[event.site, event.id] = read_details(event)
        return found

    @functools.cached_property
    def _removed(self) -> Collection[SiteId]:
        return self.services.sites.removed({event.site for event in self._events})

    @functools.cached_property
    def _opened(self) -> list[tuple[SiteId, str, Details]]:
        return [
            (event.site, event.type, self._details[event.site, event.id])
            for event in self._events
            if (event.site, event.id) in self._details and not event.erasure
        ]

    def _members(self, site: SiteId, type: str = "", group: GroupId | None = None) -> list[MemberId]:  # noqa: A002
        """Whom the events of this site are about, of this type and this group if named."""
        return list(
            dict.fromkeys(
                details.member
                for where, what, details in self._opened
                if details.member is not None
                and where == site
                and type in ("", what)
                and group in (None, details.group)
            )
        )
