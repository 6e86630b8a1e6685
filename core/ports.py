"""Every door out of the service, as a Protocol. `integrations/` implements them, `tests/house.py` stands in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Protocol

from core.community import (
    Answer,
    Group,
    GroupId,
    Member,
    MemberId,
    Membership,
    Person,
    Question,
    Rule,
    Site,
    SiteId,
    Slice,
    Subscription,
)
from core.gate import Clearance


class WixPort(Protocol):
    """Wix, read and asked. Every method raises RetryableError, ForbiddenError or PermanentError; those that list
    ask page by page, so they raise while they are read."""

    calls: int
    """How many calls went to Wix through this view."""

    def for_bulk(self, wait: Callable[[float], bool] | None = None) -> WixPort:
        """A view for work that may wait, and that leaves room for live events.

        Where there is no room for a call, `wait` is asked to wait for so many seconds; without it, or when it
        answers False, the call raises RetryableError as any other. Before each call it is asked to wait for none, so
        that it may look at what else there is to do.
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

    def groups_page(self, site: SiteId, offset: int) -> Slice[Group]:
        """Up to a hundred groups; one call. Of a list that changes meanwhile rows may come twice, or not at all."""

    def group_members_page(
        self, site: SiteId, group: GroupId, offset: int
    ) -> Slice[tuple[MemberId, Membership]]:
        """Up to a hundred of those who are in, newest first; one call. NotFoundError for a group Wix does not know."""

    def find_people(
        self,
        site: SiteId,
        *,
        contacts: Iterable[str] = (),
        emails: Iterable[str] = (),
        phones: Iterable[str] = (),
        names: Iterable[tuple[str, str]] = (),
    ) -> tuple[Person, ...]:
        """Everybody who has one of these contact ids, addresses, phones (E.164) or names (first and last, or a nickname
        and ""), each once. Who of them is meant is for core.people to say."""

    def create_group(
        self, site: SiteId, name: str, *, privacy: str, creator: MemberId, description: str = ""
    ) -> Group:
        """Not idempotent: look first whether it is there."""

    def add_group_members(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None:
        """Up to a hundred. Who has a private profile is only invited; the list of members says who is in."""

    def list_rules(self, site: SiteId, group: GroupId) -> tuple[Rule, ...]: ...

    def replace_rules(self, site: SiteId, group: GroupId, rules: Iterable[Rule]) -> None:
        """All of them at once; again is harmless, and Wix tells of it each time (group_rules_updated)."""

    def list_questions(self, site: SiteId, group: GroupId) -> tuple[Question, ...]: ...

    def replace_questions(self, site: SiteId, group: GroupId, questions: Iterable[Question]) -> None:
        """All of them at once; they get new ids, so that earlier answers belong to no question any more."""


class MailPort(Protocol):
    """The way mail goes out. One connection is kept for each process; `close` ends it."""

    def send(
        self,
        clearance: Clearance,
        envelope_from: str,
        message: bytes,
        about_to_commit: Callable[[], None],
        when_waiting: Callable[[], None] | None = None,
    ) -> str:
        """Hand over one message to the one person who was cleared; returns the server's reply for the record.

        `about_to_commit` is called once, after the whole body and before the final dot; when it raises,
        the dot is never sent. `when_waiting` is called before that, at most once, if the server takes its time.
        Raises MailDeferredError, MailRefusedError, MailInDoubtError.
        """

    def close(self) -> None: ...
