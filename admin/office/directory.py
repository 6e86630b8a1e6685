"""Names for ids: groups and members as Wix has them, remembered for a while, so that a page costs few calls.

When Wix is away or asks to wait, what was known before is shown, and `trouble` says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from admin.office.words import N_
from core.community import Group, GroupId, Member, MemberId, Site, SiteId
from core.errors import ForbiddenError, IntegrationError, RetryableError
from core.ports import WixPort
from integrations.cache import ExpiringCache
from integrations.store.reach import Reach

FRESH_S = 60.0
FAILED_S = 20.0
"""So long nobody asks for names again after Wix failed: pages that wait in vain would fill the process."""
TURN_WAITS_S = 3.0
KEPT_S = 6 * 3600.0
MOST_MEMBERS = 20_000


@dataclass(frozen=True, slots=True)
class _Known:
    at: float
    groups: Mapping[GroupId, Group]

    def is_fresh(self, now: float) -> bool:
        """A long list costs many calls, and is asked for less often."""
        return now - self.at < FRESH_S * (1 + len(self.groups) / 1000)


class Names:
    """One for a process. `now` counts seconds from anywhere."""

    def __init__(self, wix: WixPort, now: Callable[[], float] = time.monotonic) -> None:
        self.wix = wix
        self.now = now
        self.groups: ExpiringCache[SiteId, _Known] = ExpiringCache(now, 500)
        self.members: ExpiringCache[tuple[SiteId, MemberId], tuple[float, Member]] = ExpiringCache(
            now, MOST_MEMBERS
        )
        self.sites: ExpiringCache[SiteId, Site] = ExpiringCache(now, 10_000)
        self.failed: ExpiringCache[SiteId, str] = ExpiringCache(now, 10_000)
        self.locks = [threading.Lock() for _ in range(16)]

    def of(self, site: SiteId, reach: Reach) -> Directory:
        return Directory(self, site, reach)

    def forget(self, site: SiteId) -> None:
        """Its groups were changed from here."""
        self.groups.put(site, _Known(float("-inf"), {}), 0.0)

    def forget_member(self, site: SiteId, member: MemberId) -> None:
        self.members.put((site, member), (float("-inf"), Member(member)), 0.0)


class Directory:
    """Of one site, within somebody's reach, for one request. `trouble` is a sentence once Wix could not be asked."""

    def __init__(self, names: Names, site: SiteId, reach: Reach) -> None:
        self._names = names
        self._site = site
        self._reach = reach
        self.trouble = ""

    def groups(self) -> Mapping[GroupId, Group]:
        found = self._all_groups()
        if self._reach.groups is None:
            return found
        return {id_: group for id_, group in found.items() if id_ in self._reach.groups}

    def group(self, id_: GroupId) -> Group | None:
        return self.groups().get(id_)

    def members(self, ids: Iterable[MemberId]) -> Mapping[MemberId, Member]:
        """Whom Wix does not know, and who is not known while it is away, is absent."""
        names, now = self._names, self._names.now()
        wanted = dict.fromkeys(ids)
        known = {id_: entry for id_ in wanted if (entry := names.members.get((self._site, id_)))}
        missing = [id_ for id_ in wanted if id_ not in known or now - known[id_][0] >= FRESH_S]
        found = {id_: member for id_, (_, member) in known.items()}
        if missing and not self._rests():
            try:
                answered = names.wix.get_members(self._site, missing)
            except IntegrationError as exc:
                self._note(exc)
            else:
                for id_ in missing:
                    if id_ in answered:
                        found[id_] = answered[id_]
                        names.members.put((self._site, id_), (now, answered[id_]), KEPT_S)
                    elif id_ in found:  # gone from Wix, so from here
                        names.forget_member(self._site, id_)
                        del found[id_]
        return found

    def site(self) -> Site:
        """With its name, if it is known; remembered, as `site_names` finds it."""
        if found := self._names.sites.get(self._site):
            return found
        if self._rests():
            return Site(self._site)
        try:
            found = self._names.wix.get_site(self._site)
        except IntegrationError as exc:
            self._note(exc)
            return Site(self._site)
        self._names.sites.put(self._site, found, KEPT_S)
        return found

    def _note(self, exc: IntegrationError) -> None:
        self.trouble = in_words(exc)
        if isinstance(exc, RetryableError):
            self._names.failed.put(self._site, self.trouble, FAILED_S)

    def _rests(self) -> bool:
        """Whether Wix failed a moment ago."""
        failed = self._names.failed.get(self._site)
        self.trouble = failed or self.trouble
        return failed is not None

    def _all_groups(self) -> Mapping[GroupId, Group]:
        names, site = self._names, self._site
        known = names.groups.get(site)
        if known and known.is_fresh(names.now()):
            return known.groups
        if self._rests():
            return known.groups if known else {}
        lock = names.locks[hash(site) % len(names.locks)]
        if not lock.acquire(timeout=TURN_WAITS_S if known is None else 0.0):
            self.trouble = in_words(RetryableError("another page asks already"))
            return known.groups if known else {}
        try:
            again = names.groups.get(site)
            if again and again.is_fresh(names.now()):
                return again.groups
            if self._rests():  # whoever had the lock before us asked in vain
                return known.groups if known else {}
            groups = {group.id: group for group in names.wix.list_groups(site)}
        except IntegrationError as exc:
            self._note(exc)
            return known.groups if known else {}
        finally:
            lock.release()
        names.groups.put(site, _Known(names.now(), groups), KEPT_S)
        return groups


def in_words(exc: IntegrationError) -> str:
    """What a page says of it."""
    match exc:
        case ForbiddenError():
            return N_("Wix does not allow this app to read that. What is shown may be incomplete.")
        case RetryableError():
            return N_("Wix does not answer now, or asks us to wait. What is shown may be some minutes old.")
    return N_("Wix refused what we asked. What is shown may be incomplete.")
