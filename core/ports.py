"""Every door out of the service, as a Protocol. `integrations/` implements them, `tests/house.py` stands in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Protocol

from core.community import Answer, Group, GroupId, Member, MemberId, Membership, Site, SiteId, Subscription
from core.gate import Clearance


class WixPort(Protocol):
    """Wix, read and asked. Every method raises RetryableError, ForbiddenError or PermanentError; those that list
    ask page by page, so they raise while they are read."""

    calls: int
    """How many calls went to Wix through this view."""

    def for_bulk(self, wait: Callable[[float], bool] | None = None) -> WixPort:
        """A view for work that may wait, and that leaves room for live events.

        Where there is no room for a call, `wait` is asked to wait for so many seconds; without it, or when it
        answers False, the call raises RetryableError as any other.
        """

    def get_site(self, site: SiteId) -> Site: ...

    def get_group(self, site: SiteId, group: GroupId) -> Group | None:
        """None when Wix does not know the group (any more, or yet)."""

    def list_groups(self, site: SiteId) -> Iterator[Group]:
        """All groups of the site, each once. One call for each hundred."""

    def list_group_members(self, site: SiteId, group: GroupId) -> Iterator[tuple[MemberId, Membership]]:
        """Everybody who is in, each once, as a rule newest first. One call for each hundred."""

    def list_join_requests(self, site: SiteId, group: GroupId) -> Iterator[tuple[MemberId, datetime | None]]:
        """Everybody whose request is pending, each once, and since when, if Wix says so. One call for each hundred."""

    def get_membership(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        """Where the member stands now; status "none" also when Wix knows neither of the two."""

    def get_joined_at(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        """As get_membership, but from the group's own list, which says when the member joined.

        Status "unknown" when the list is too long to be read to its end.
        """

    def list_answers(
        self, site: SiteId, group: GroupId, members: Iterable[MemberId]
    ) -> Mapping[MemberId, tuple[Answer, ...]]:
        """Who answered nothing is absent."""

    def get_members(self, site: SiteId, members: Iterable[MemberId]) -> Mapping[MemberId, Member]:
        """With address and status; whom Wix does not know is absent. One call for each hundred."""

    def get_subscriptions(self, site: SiteId, emails: Iterable[str]) -> Mapping[str, Subscription]:
        """By lower-cased address; an address without a record is absent. One call for each hundred."""

    def approve_requests(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None: ...

    def reject_requests(
        self, site: SiteId, group: GroupId, members: Iterable[MemberId], reason: str
    ) -> None: ...

    def set_subscription(
        self, site: SiteId, email: str, *, status: str = "", deliverability: str = ""
    ) -> None:
        """Tell Wix what a reader or a mail server told us, in the words of Subscription; again is harmless."""


class MailPort(Protocol):
    """The way mail goes out. One connection is kept for each process; `close` ends it."""

    def send(
        self,
        clearance: Clearance,
        envelope_from: str,
        message: bytes,
        about_to_commit: Callable[[], None],
    ) -> str:
        """Hand over one message to the one person who was cleared; returns the server's reply for the record.

        `about_to_commit` is called once, after the whole body and before the final dot; when it raises,
        the dot is never sent. Raises MailDeferredError, MailRefusedError, MailInDoubtError.
        """

    def close(self) -> None: ...
