"""Wix's REST API as data: requests to send, and answers read into the values of core.community.

Pure: nothing here sends, waits or knows the time. Names of either generation are read (wix/groups.md, 4);
absent and null are the same; enum values that nobody knows yet are kept; rows without a usable id are dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Generic, TypeGuard, TypeVar
from urllib.parse import quote

from core.community import (
    LONGEST_ID,
    Answer,
    Group,
    GroupId,
    Member,
    MemberId,
    Membership,
    Site,
    SiteId,
    Subscription,
    is_plain,
)
from core.errors import ForbiddenError, NotFoundError, PermanentError, RetryableError
from core.events import parse_time

K = TypeVar("K")
V = TypeVar("V")

PAGE = 100  # the largest page of every list here (wix/limits-errors.md, 2)
BATCH = 100  # ids or addresses in one call
LONGEST_REASON = 1000  # characters of a rejection's reason
LONGEST_RETRY_AFTER_S = 15 * 60.0
TOKEN_LIFETIME_S = 4 * 3600.0

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "groups": "/social-groups-proxy/groups/v2",
        "group_members": "/social-groups-proxy/members/v2",
        "join_requests": "/social-groups-proxy/join/v2",
        "questions": "/social-groups-proxy/questions/v2",
        "members": "/members/v1",
        "subscriptions": "/email-marketing/v1/email-subscriptions",
        "app": "/apps/v1",
        "oauth": "/oauth2",
    }
)
"""Where each service lives below the base address, as Wix's SDK has it; older pages name other places."""

OFTEN_REFUSED = frozenset({"listMemberships", "listAnswers"})
"""Calls that Wix documents for members or its users; whether an app token may make them is not known."""


class UnauthorizedError(PermanentError):
    """401: the token is not accepted (any more). Answered once with a new token."""


class ConflictError(PermanentError):
    """409 or 428: the present state does not allow it. Read it again, then decide."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request without base address, prefix and identity. `name` is the one that Wix's SDK uses."""

    name: str
    service: str
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[K, V]):
    """One page of a list: what could be read, by key; `rows` counts what could not be read as well."""

    items: tuple[tuple[K, V], ...] = field(repr=False)
    rows: int
    total: int

    def is_last(self, offset: int) -> bool:
        """Short, and Wix does not say that there is more. `total` is never a reason to stop: it may be missing."""
        return self.rows < PAGE and self.total <= offset + self.rows


def batches(values: Iterable[V], size: int = BATCH) -> Iterator[list[V]]:
    """All different values in their order, so many at a time."""
    unique = list(dict.fromkeys(values))
    for start in range(0, len(unique), size):
        yield unique[start : start + size]


# Requests


def create_token(app_id: str, app_secret: str, site: SiteId) -> Call:
    body = {
        "grant_type": "client_credentials",
        "client_id": app_id,
        "client_secret": app_secret,
        "instance_id": site,
    }
    return Call("createAccessToken", "oauth", "POST", "/token", body=body)


def get_app_instance() -> Call:
    return Call("getAppInstance", "app", "GET", "/instance")


def get_group(group: GroupId) -> Call:
    params = {"contentType": "PLAIN_TEXT"}
    return Call("getGroup", "groups", "GET", f"/groups/{_segment(group)}", params)


def list_groups(offset: int) -> Call:
    return Call(
        "listGroups", "groups", "GET", "/groups", {**_page_params(offset), "contentType": "PLAIN_TEXT"}
    )


def list_group_members(group: GroupId, offset: int) -> Call:
    path = f"/groups/{_segment(group)}/members"
    return Call("listGroupMembers", "group_members", "GET", path, _page_params(offset))


def list_memberships(member: MemberId, offset: int) -> Call:
    path = f"/members/{_segment(member)}/memberships"
    return Call("listMemberships", "group_members", "GET", path, _page_params(offset))


def query_join_requests(group: GroupId, status: str, offset: int) -> Call:
    path = f"/groups/{_segment(group)}/join-requests/query"
    query = {"filter": {"status": {"$eq": status}}, "paging": _paging(offset)}
    return Call("queryJoinGroupRequests", "join_requests", "POST", path, body={"query": query})


def approve_requests(group: GroupId, members: list[MemberId]) -> Call:
    path = f"/groups/{_segment(group)}/join-requests/approve"
    return Call("approveJoinGroupRequests", "join_requests", "POST", path, body={"memberIds": members})


def reject_requests(group: GroupId, reason: str, members: list[MemberId]) -> Call:
    path = f"/groups/{_segment(group)}/join-requests/reject"
    detail = {"reason": reason[:LONGEST_REASON]} if reason else {}
    body = {"rejections": [{"memberId": member, **detail} for member in members]}
    return Call("rejectJoinGroupRequests", "join_requests", "POST", path, body=body)


def list_answers(group: GroupId, members: list[MemberId], offset: int) -> Call:
    """`members` must not be empty: Wix takes that for everybody."""
    path = f"/membership-questions/{_segment(group)}/answers"
    return Call(
        "listAnswers", "questions", "POST", path, body={"memberIds": members, "paging": _paging(offset)}
    )


def query_members(members: list[MemberId], offset: int) -> Call:
    query = {"filter": {"id": {"$in": members}}, "paging": _paging(offset)}
    # Beside the query, not in it; without it the addresses are left out (wix/members-contacts.md, 1).
    body = {"query": query, "fieldsets": ["FULL"]}
    return Call("queryMembers", "members", "POST", "/members/query", body=body)


def query_subscriptions(emails: list[str], offset: int) -> Call:
    body = {"filter": {"email": {"$in": emails}}, "paging": _paging(offset)}
    return Call("queryEmailSubscriptions", "subscriptions", "POST", "/query", body=body)


def set_subscription(email: str, status: str, deliverability: str) -> Call:
    said = {"subscriptionStatus": status, "deliverabilityStatus": deliverability}
    body = {"subscription": {"email": email, **{field: value for field, value in said.items() if value}}}
    return Call("upsertEmailSubscription", "subscriptions", "POST", "", body=body)


def spellings(emails: Iterable[str]) -> Iterator[str]:
    """Each address in lower case, and as it came when that differs: how Wix compares them is not known."""
    for email in emails:
        yield email.lower()
        yield email


# Answers


def decode(status: int, headers: Mapping[str, str], body: bytes, call: str = "a call") -> dict[str, Any]:
    """Turn one response into its JSON object, or into the error it stands for.

    `headers` is indifferent to case, or has lower-case names. Raises UnauthorizedError (401), ForbiddenError
    (403), NotFoundError (404), ConflictError (409, 428), PermanentError (other 4xx, 501) and RetryableError:
    408, 429, 5xx, and whatever cannot have come from Wix itself (HTML or half an object on 200, a redirect).
    The texts name Wix's code, the fields and rules it complains of and its request id, never its own words:
    these repeat what was sent, addresses included.
    """
    request_id = headers.get("x-wix-request-id", "")
    request_id = request_id if _REQUEST_ID.fullmatch(request_id) else ""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if status == 200:
        if isinstance(parsed, dict):
            return parsed
        raise RetryableError(
            _text_of(f"{call}: Wix answered 200 without a JSON object", [], request_id), request_id=request_id
        )
    code, complaints = _read_error(parsed)
    text = _text_of(f"{call}: Wix answered {status}", [code, *complaints], request_id)
    if status in (408, 429) or status < 400 or (status >= 500 and status != 501):
        raise RetryableError(text, retry_after_s=_retry_after_s(headers), request_id=request_id, code=code)
    raise _REFUSALS.get(status, PermanentError)(text, request_id=request_id, code=code)


def read_token(body: Mapping[str, Any]) -> tuple[str, float]:
    """The access token and its lifetime in seconds."""
    token = body.get("access_token")
    if not is_plain(token, 16_384):
        raise RetryableError("createAccessToken: Wix answered without a token")
    lifetime_s = body.get("expires_in")
    if (
        not isinstance(lifetime_s, int | float)
        or isinstance(lifetime_s, bool)
        or not 0 < lifetime_s <= TOKEN_LIFETIME_S
    ):
        lifetime_s = TOKEN_LIFETIME_S
    return token, float(lifetime_s)


def read_site(body: Mapping[str, Any], site: SiteId) -> tuple[Site, str]:
    """The site, and its id among Wix's sites (not the app instance's), "" when Wix does not say."""
    if not isinstance(body.get("site"), dict) and not isinstance(body.get("instance"), dict):
        raise _wrong_shape("getAppInstance")
    found = _object(body.get("site"))
    locale = _text(found.get("locale")).replace("_", "-").lower()
    url = _text(found.get("url"))
    return (
        Site(
            id=site,
            name=_text(found.get("siteDisplayName")),
            url=url if url.startswith(("https://", "http://")) else "",
            language=locale if _LANGUAGE.fullmatch(locale) else "",
        ),
        _text(found.get("siteId")),
    )


def read_group(body: Mapping[str, Any], group: GroupId) -> Group:
    found = _object(body.get("group"))
    if not found:
        raise _wrong_shape("getGroup")
    return _group(group, found)


def read_groups(body: Mapping[str, Any]) -> Page[GroupId, Group]:
    def read(row: dict[str, Any]) -> tuple[GroupId, Group] | None:
        found = row.get("id")
        return (GroupId(found), _group(GroupId(found), row)) if _is_id(found) else None

    return _page(body, ("groups",), read)


def read_memberships(body: Mapping[str, Any]) -> Page[GroupId, Membership]:
    def read(row: dict[str, Any]) -> tuple[GroupId, Membership] | None:
        group = row.get("groupId")
        status = {"JOINED": "joined", "PENDING": "pending"}.get(_text(row.get("status")), "none")
        return (GroupId(group), Membership(status, _role(row))) if _is_id(group) else None

    return _page(body, ("memberships",), read)


def read_group_members(body: Mapping[str, Any]) -> Page[MemberId, Membership]:
    def read(row: dict[str, Any]) -> tuple[MemberId, Membership] | None:
        member = _member_id(row)
        membership = Membership("joined", _role(row), parse_time(row.get("joinedDate")))
        return (member, membership) if member else None

    return _page(body, ("members",), read)


def read_join_requests(body: Mapping[str, Any]) -> Page[MemberId, tuple[str, datetime | None]]:
    """Who asked, with the status of the request and its date, "" and None when Wix does not say."""

    def read(row: dict[str, Any]) -> tuple[MemberId, tuple[str, datetime | None]] | None:
        member = _member_id(row)
        status = _text(row.get("status"))
        said = {"CANCELLED": "CANCELED"}.get(status, status), parse_time(row.get("createdDate"))
        return (member, said) if member else None

    return _page(body, ("joinGroupRequests",), read)


def read_answers(body: Mapping[str, Any]) -> Page[MemberId, tuple[Answer, ...]]:
    questions = _object(body.get("questions"))

    def question(answer: dict[str, Any]) -> str:
        found = answer.get("id")
        return _text(_object(questions.get(found)).get("text")) if isinstance(found, str) else ""

    def read(row: dict[str, Any]) -> tuple[MemberId, tuple[Answer, ...]] | None:
        member = _member_id(row)
        answers = tuple(
            Answer(question(answer), _text(answer.get("text"))) for answer in _objects(row.get("answers"))
        )
        return (member, answers) if member else None

    return _page(body, ("memberAnswers",), read)


def read_members(body: Mapping[str, Any]) -> Page[MemberId, Member]:
    """The address is the login's, else the first of the contact's. Wix has no language of a member."""

    def read(row: dict[str, Any]) -> tuple[MemberId, Member] | None:
        contact = _object(row.get("contact"))
        others = contact.get("emails")
        emails = [row.get("loginEmail"), *(others if isinstance(others, list) else ())]
        found = row.get("id")
        if not _is_id(found):
            return None
        return MemberId(found), Member(
            id=MemberId(found),
            status=_text(row.get("status")) or "UNKNOWN",
            email=next((email for value in emails if (email := _text(value).strip())), ""),
            first_name=_text(contact.get("firstName")),
            nickname=_text(_object(row.get("profile")).get("nickname")),
        )

    return _page(body, ("members",), read)


def read_subscriptions(body: Mapping[str, Any]) -> Page[str, Subscription]:
    """By the address as Wix spells it."""

    def read(row: dict[str, Any]) -> tuple[str, Subscription] | None:
        email = _text(row.get("email")).strip()
        found = Subscription(
            status=_text(row.get("subscriptionStatus")) or "NOT_SET",
            deliverability=_text(row.get("deliverabilityStatus")) or "NOT_SET",
        )
        return (email, found) if email else None

    return _page(body, ("subscriptions", "email_subscriptions", "emailSubscriptions"), read)


def require_taken(body: Mapping[str, Any], name: str) -> None:
    """The answer to a call that changes something: the thing under its name, or nothing at all (which is
    UNVERIFIED, and harmless). Raises RetryableError for another object: nobody knows whose answer that is."""
    if body and not isinstance(body.get(name), list | dict):
        raise _wrong_shape(name)


def stricter(one: Subscription, other: Subscription) -> Subscription:
    """What holds when Wix has two records of one address: whatever speaks against writing."""
    return Subscription(
        status=max(one.status, other.status, key=lambda said: (said == "UNSUBSCRIBED", said != "SUBSCRIBED")),
        deliverability=max(
            one.deliverability,
            other.deliverability,
            key=lambda known: known in ("BOUNCED", "SPAM_COMPLAINT"),
        ),
    )


_REFUSALS: Mapping[int, type[PermanentError]] = MappingProxyType(
    {401: UnauthorizedError, 403: ForbiddenError, 404: NotFoundError, 409: ConflictError, 428: ConflictError}
)

# Shapes that names have and personal data has not: no @, no spaces, no leading digit (as in a phone number).
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]$-]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_LANGUAGE = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8})*")


def _segment(thing: str) -> str:
    """An id as one segment of a path. Ids come from webhooks: none may lead elsewhere."""
    if not thing.strip("."):
        raise NotFoundError("Wix cannot know an id that is empty or nothing but dots")
    return quote(thing, safe="", errors="replace")


def _paging(offset: int) -> dict[str, int]:
    return {"limit": PAGE, "offset": offset}


def _page_params(offset: int) -> dict[str, str]:
    return {"limit": str(PAGE), "offset": str(offset)}


def _page(
    body: Mapping[str, Any],
    names: tuple[str, ...],
    read: Callable[[dict[str, Any]], tuple[K, V] | None],
) -> Page[K, V]:
    """A list under any of its names. One object in its place counts as a list of one; its absence as an empty
    list only beside the metadata that Wix sends with every list: else it is some other object."""
    found = next((body[name] for name in names if body.get(name) is not None), None)
    if found is None and isinstance(body.get("metadata"), dict):
        found = []
    if not isinstance(found, list | dict):
        raise _wrong_shape(names[0])
    rows = [found] if isinstance(found, dict) else found
    total = _object(body.get("metadata")).get("total")
    items = tuple(item for row in rows if isinstance(row, dict) and (item := read(row)) is not None)
    if rows and not items:
        raise _wrong_shape(names[0])  # not an empty list: that would mean "nobody"
    return Page(
        items=items,
        rows=len(rows),
        total=total if isinstance(total, int) else 0,
    )


def _wrong_shape(name: str) -> RetryableError:
    return RetryableError(f"{name}: Wix answered with another object than the one asked for")


def _read_error(parsed: object) -> tuple[str, list[str]]:
    """Wix's application code (or OAuth's), and each violated field with its rule."""
    outer = _object(parsed)
    details = _object(outer.get("details"))
    code = _object(details.get("applicationError")).get("code") or outer.get("error")
    complaints = []
    for violation in _objects(_object(details.get("validationError")).get("fieldViolations"))[:5]:
        rule = violation.get("ruleName") or violation.get("violatedRule")
        complaints.append(" ".join(filter(None, (_name(violation.get("field")), _name(rule)))))
    return _name(code), complaints


def _text_of(what: str, details: list[str], request_id: str) -> str:
    known = [*details, f"request id {request_id}" if request_id else ""]
    told = "; ".join(part for part in known if part)
    return f"{what} ({told})" if told else what


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, or a date counted from the answer's own `Date`, so that our clock does not matter."""
    said = headers.get("retry-after", "").strip()
    try:
        if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,9})?", said):
            wait_s = float(said)
        else:
            until, since = (parsedate_to_datetime(text) for text in (said, headers.get("date", "")))
            wait_s = (until - since).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(wait_s, LONGEST_RETRY_AFTER_S) if wait_s > 0 else None


def _group(group: GroupId, row: dict[str, Any]) -> Group:
    members = row.get("membersCount")
    return Group(
        id=group,
        name=_text(row.get("name")) or _text(row.get("title")),
        privacy=_text(row.get("privacyStatus")) or _text(row.get("privacyLevel")) or "UNKNOWN",
        members=members if type(members) is int and 0 <= members < 2**31 else None,
        created_at=parse_time(row.get("createdDate")),
    )


def _member_id(row: dict[str, Any]) -> MemberId | None:
    return next((MemberId(row[name]) for name in ("memberId", "siteMemberId") if _is_id(row.get(name))), None)


def _role(row: dict[str, Any]) -> str:
    return _text(_object(row.get("role")).get("value"))


def _objects(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """A text that every database and encoding takes: without NUL and lone surrogates."""
    return value.encode(errors="replace").decode().replace("\0", "") if isinstance(value, str) else ""


def _name(value: object) -> str:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""


def _is_id(value: object) -> TypeGuard[str]:
    return is_plain(value, LONGEST_ID)
