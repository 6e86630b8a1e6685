"""What Usher knows of a community: groups, members, answers, subscriptions. Plain values, no behaviour of Wix."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, NewType, TypeGuard, TypeVar

SiteId = NewType("SiteId", str)
"""The tenant: Wix's app instance id, one for each site that installed the app."""
GroupId = NewType("GroupId", str)
MemberId = NewType("MemberId", str)


T = TypeVar("T")

LONGEST_ID = 200


def is_plain(value: object, longest: int) -> TypeGuard[str]:
    """Fit to be an id: printable ASCII without spaces, so it can stand in keys, logs and every database."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= longest
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


@dataclass(frozen=True, slots=True)
class Site:
    """How a site calls itself. `language` is a lower-case BCP 47 tag, "" when unknown."""

    id: SiteId
    name: str = ""
    url: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    id: GroupId
    name: str
    privacy: str = "UNKNOWN"
    """PUBLIC, PRIVATE, SECRET or UNKNOWN."""
    members: int | None = None
    """How many, when Wix says so."""
    created_at: datetime | None = None
    owner: MemberId | None = None
    last_activity: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One of a group's rules, in its place."""

    title: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One of the questions that a private group asks whoever wants to join, in its place."""

    text: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """Where one member stands with one group. `status`: "joined", "pending", "none", or "unknown" to a list."""

    status: str
    role: str = ""
    joined_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One site member. `status` as Wix says it: APPROVED, BLOCKED, OFFLINE, PENDING, UNKNOWN."""

    id: MemberId
    status: str = "UNKNOWN"
    email: str = field(default="", repr=False)
    first_name: str = field(default="", repr=False)
    nickname: str = field(default="", repr=False)
    language: str = ""
    last_name: str = field(default="", repr=False)
    contact: str = ""
    """The id of their contact; not always the member's own."""
    private: bool | None = None
    """Whoever adds a member with a private profile to a group only invites them; None when Wix does not say."""
    since: datetime | None = None
    """How long Wix has known them."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whom a list of people may mean. `member` None: a contact without an account, whom no group can take.

    `emails` are in lower case, `phones` in E.164 as far as Wix has them so.
    """

    contact: str
    member: Member | None = field(repr=False)
    emails: frozenset[str] = field(default=frozenset(), repr=False)
    phones: frozenset[str] = field(default=frozenset(), repr=False)
    first_name: str = field(default="", repr=False)
    last_name: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a membership question; `question` is its text, "" when the question was replaced since."""

    question: str = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Wix's record of what an address agreed to. Future values are kept as they came: no gate opens for them."""

    status: str = "NOT_SET"
    """UNKNOWN, NOT_SET, PENDING, SUBSCRIBED, UNSUBSCRIBED."""
    deliverability: str = "NOT_SET"
    """NOT_SET, VALID, BOUNCED, SPAM_COMPLAINT, INACTIVE."""


@dataclass(frozen=True, slots=True)
class Slice(Generic[T]):
    """One page of a list that is read over many transactions. `next_offset` None: this was the last one. `total` as Wix
    says it; None when it does not."""

    items: tuple[T, ...]
    next_offset: int | None
    total: int | None = None
