"""Wix's REST API as data: requests to send, and answers read into the values of core.community.

Pure: nothing here sends, waits or knows the time. Names of either generation are read (wix/groups.md, 4);
absent and null are the same; enum values that nobody knows yet are kept; rows without a usable id are dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeGuard, TypeVar
from urllib.parse import quote

from core.community import (
    LONGEST_ID,
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
    Subscription,
    is_plain,
)
from core.errors import ForbiddenError, NotFoundError, PermanentError, RetryableError
from core.events import parse_time
from core.matching import fold

K = TypeVar("K")
V = TypeVar("V")

PAGE = 100  # the largest page of every list here (wix/limits-errors.md, 2)
BATCH = 100  # ids or addresses in one call
CONTACTS_PAGE = 1000  # of Contacts v4
NAMES = 50  # pairs in one call: it answers every first name with every last name, not the pairs alone
LONGEST_REASON = 1000  # characters of a rejection's reason
LONGEST_RETRY_AFTER_S = 15 * 60.0
TOKEN_LIFETIME_S = 4 * 3600.0

PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "groups": "/social-groups-proxy/groups/v2",
        "group_members": "/social-groups-proxy/members/v2",
        "join_requests": "/social-groups-proxy/join/v2",
        "questions": "/social-groups-proxy/questions/v2",
        "rules": "/social-groups/v2/rules",
        "members": "/members/v1",
        "contacts": "/contacts/v4",
        "contacts_search": "/contacts/v5",
        "subscriptions": "/email-marketing/v1/email-subscriptions",
        "app": "/apps/v1",
        "oauth": "/oauth2",
    }
)
"""Where each service lives below the base address, as Wix's SDK has it; older pages name other places."""

OFTEN_REFUSED = frozenset(
    {
        "listMemberships",
        "listAnswers",
        "listMembershipQuestions",
        "createOrReplaceAllMembershipQuestions",
        "listRules",
        "createOrReplaceAllRules",
        "searchContactsV5",
    }
)
"""Calls that Wix documents for members or its users, or that are young; whether an app token may make them is not
known."""


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
    asked: int = PAGE

    def is_last(self, offset: int) -> bool:
        """Short, and Wix does not say that there is more. `total` is never a reason to stop: it may be missing."""
        return self.rows < self.asked and self.total <= offset + self.rows

    def next_offset(self, offset: int) -> int | None:
        return None if not self.rows or self.is_last(offset) else offset + self.rows


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


def create_group(name: str, privacy: str, creator: MemberId, description: str) -> Call:
    group = {"name": name, "privacyStatus": privacy, **({"description": description} if description else {})}
    body = {"group": group, "creatorId": creator, "contentType": "PLAIN_TEXT"}
    return Call("createGroup", "groups", "POST", "/groups", body=body)


def list_group_members(group: GroupId, offset: int) -> Call:
    path = f"/groups/{_segment(group)}/members"
    return Call("listGroupMembers", "group_members", "GET", path, _page_params(offset))


def add_group_members(group: GroupId, members: list[MemberId]) -> Call:
    path = f"/groups/{_segment(group)}/members"
    return Call("addGroupMembers", "group_members", "POST", path, body={"memberIds": members})


def list_rules(group: GroupId) -> Call:
    return Call("listRules", "rules", "GET", f"/{_segment(group)}")


def replace_rules(group: GroupId, rules: Iterable[Rule]) -> Call:
    body = {"rules": [{"title": rule.title, "description": rule.description} for rule in rules]}
    return Call("createOrReplaceAllRules", "rules", "PUT", f"/{_segment(group)}", body=body)


def list_questions(group: GroupId) -> Call:
    path = f"/membership-questions/{_segment(group)}"
    return Call("listMembershipQuestions", "questions", "GET", path)


def replace_questions(group: GroupId, questions: Iterable[Question]) -> Call:
    path = f"/membership-questions/{_segment(group)}"
    body = {"questions": [{"required": asked.required, "text": asked.text} for asked in questions]}
    return Call("createOrReplaceAllMembershipQuestions", "questions", "PUT", path, body=body)


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
    return query_members_by({"id": {"$in": members}}, offset)


def query_members_by(condition: Mapping[str, object], offset: int) -> Call:
    query = {"filter": condition, "paging": _paging(offset)}
    # Beside the query, not in it; without it the addresses are left out (wix/members-contacts.md, 1).
    body = {"query": query, "fieldsets": ["FULL"]}
    return Call("queryMembers", "members", "POST", "/members/query", body=body)


def query_contacts(condition: Mapping[str, object], offset: int) -> Call:
    paging = {"limit": CONTACTS_PAGE, "offset": offset}
    query = {"filter": condition, "fieldsets": ["COMMUNICATION_DETAILS"], "paging": paging}
    return Call("queryContacts", "contacts", "POST", "/contacts/query", body={"query": query})


def search_contacts(condition: Mapping[str, object], cursor: str) -> Call:
    """`cursor` is "" for the first page; a later one stands for the search it came from."""
    search = {"filter": condition} if not cursor else {}
    paging = {"limit": PAGE, **({"cursor": cursor} if cursor else {})}
    body = {"search": {**search, "cursorPaging": paging}}
    return Call("searchContactsV5", "contacts_search", "POST", "/contacts/search", body=body)


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


# Finding people (wix/members-contacts.md, 5)


@dataclass(frozen=True, slots=True)
class Look:
    """One way to ask for people: where, by which key of theirs, in which field of Wix's.

    `fields` are the first and the last name, or one. `one_each`: Wix has one row for each value at most.
    """

    where: Literal["search", "contacts", "members"]
    by: Literal["contacts", "emails", "phones", "names"]
    fields: tuple[str, ...]
    operator: str = "$in"
    one_each: bool = False

    def conditions(self, wanted: Wanted) -> Iterator[dict[str, dict[str, list[str]]]]:
        """The filter of each call that it takes to ask for all that is wanted by this key."""
        spelled = [spelling for spellings in wanted[self.by].values() for spelling in spellings]
        if len(self.fields) > 1:
            rows, size = [spelling for spelling in spelled if all(spelling)], NAMES
        else:
            rows, size = [(" ".join(filter(None, spelling)),) for spelling in spelled], BATCH
        for batch in batches(rows, size):
            columns = (list(dict.fromkeys(column)) for column in zip(*batch, strict=True))
            yield {name: {self.operator: column} for name, column in zip(self.fields, columns, strict=True)}


Wanted = dict[str, dict[str, list[tuple[str, ...]]]]
"""By the name of a key: each one that is looked for, in the form that all its spellings share, with these."""

BY_SEARCH: tuple[tuple[Look, ...], ...] = (
    (Look("search", "contacts", ("id",)),),
    (Look("search", "emails", ("memberInfo.email",)),),
    (
        Look("search", "emails", ("email.email",)),
        Look("search", "emails", ("additionalEmails.email",), "$hasSome"),
    ),
    (
        Look("search", "phones", ("phone.e164",)),
        Look("search", "phones", ("additionalPhones.e164",), "$hasSome"),
    ),
    (Look("search", "phones", ("phone.phone",)),),
    (
        Look("search", "names", ("name.first", "name.last")),
        Look("search", "names", ("memberInfo.profileInfo.nickname",)),
    ),
)
"""Contacts v5, which names the member at once. Each stage asks for what the stages before it left unanswered."""

BY_QUERIES: tuple[tuple[Look, ...], ...] = (
    (Look("members", "contacts", ("contactId",), one_each=True),),
    (Look("contacts", "contacts", ("id",)),),
    (Look("members", "emails", ("loginEmail",), one_each=True),),
    (Look("contacts", "emails", ("info.emails.email",)),),
    (Look("contacts", "phones", ("info.phones.e164Phone",)),),
    (Look("contacts", "phones", ("info.phones.phone",)), Look("contacts", "phones", ("primaryInfo.phone",))),
    (
        Look("members", "names", ("contact.firstName", "contact.lastName")),
        Look("members", "names", ("profile.nickname",)),
    ),
)
"""The older way: members and contacts (v4) apart, so that contacts found have their members asked for at the end."""


def people_wanted(
    contacts: Iterable[str],
    emails: Iterable[str],
    phones: Iterable[str],
    names: Iterable[tuple[str, str]],
) -> Wanted:
    """Contact ids that cannot be Wix's are left out: one of them would have the whole call refused."""
    wanted: Wanted = {
        "contacts": {id_.lower(): [(id_.lower(),)] for id_ in contacts if _GUID.fullmatch(id_)},
        "emails": {},
        "phones": {phone: [(phone,)] for phone in phones if phone},
        "names": {},
    }
    for email in spellings(email.strip() for email in emails):
        if email:
            wanted["emails"].setdefault(email.lower(), []).append((email,))
    for name in names:
        for first, last in (name, (_capitalised(name[0]), _capitalised(name[1]))):
            if key := fold(f"{first} {last}").strip():
                wanted["names"].setdefault(key, []).append((first, last))
    return wanted


def keys_of(person: Person, by: str) -> frozenset[str]:
    """What of Wanted this person answers."""
    match by:
        case "contacts":
            return frozenset({person.contact.lower()})
        case "emails":
            return person.emails
        case "phones":
            return person.phones
    nickname = person.member.nickname if person.member else ""
    return frozenset(fold(name).strip() for name in (f"{person.first_name} {person.last_name}", nickname))


def merged(one: Person, other: Person) -> Person:
    """What two answers say of one person."""
    return replace(
        one,
        contact=one.contact or other.contact,
        member=one.member or other.member,
        emails=one.emails | other.emails,
        phones=one.phones | other.phones,
        first_name=one.first_name or other.first_name,
        last_name=one.last_name or other.last_name,
    )


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


def read_new_group(body: Mapping[str, Any]) -> Group:
    found = _object(body.get("group"))
    new = found.get("id")
    if not _is_id(new):
        raise _wrong_shape("createGroup")
    return _group(GroupId(new), found)


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


def read_rules(body: Mapping[str, Any]) -> tuple[Rule, ...]:
    rows = _rows(body, "rules", "title", "description")
    return tuple(Rule(_text(row.get("title")), _text(row.get("description"))) for row in rows)


def read_questions(body: Mapping[str, Any]) -> tuple[Question, ...]:
    rows = _rows(body, "questions", "text")
    return tuple(Question(_text(row.get("text")), row.get("required") is True) for row in rows)


def read_members(body: Mapping[str, Any]) -> Page[MemberId, Member]:
    """The address is the login's, else the first of the contact's. Wix has no language of a member."""

    def read(row: dict[str, Any]) -> tuple[MemberId, Member] | None:
        member = _member(row)
        return (member.id, member) if member else None

    return _page(body, ("members",), read)


def read_people_of_members(body: Mapping[str, Any]) -> Page[str, Person]:
    """People by contact, as Query Members has them."""

    def read(row: dict[str, Any]) -> tuple[str, Person] | None:
        if (member := _member(row)) is None:
            return None
        contact = _object(row.get("contact"))
        return member.contact or member.id, Person(
            contact=member.contact,
            member=member,
            emails=_emails(row.get("loginEmail"), *_list(contact.get("emails"))),
            phones=_phones(*_list(contact.get("phones"))),
            first_name=member.first_name,
            last_name=member.last_name,
        )

    return _page(body, ("members",), read)


def read_people_of_contacts(body: Mapping[str, Any]) -> Page[str, Person]:
    """People by contact, as Contacts v4 has them: it does not know their members."""

    def read(row: dict[str, Any]) -> tuple[str, Person] | None:
        contact, info, main = row.get("id"), _object(row.get("info")), _object(row.get("primaryInfo"))
        name = _object(info.get("name"))
        if not _is_id(contact):
            return None
        emails = _objects(_object(info.get("emails")).get("items"))
        phones = _objects(_object(info.get("phones")).get("items"))
        return contact, Person(
            contact=contact,
            member=None,
            emails=_emails(main.get("email"), *(email.get("email") for email in emails)),
            phones=_phones(
                main.get("phone"), *(phone.get(key) for phone in phones for key in ("e164Phone", "phone"))
            ),
            first_name=_text(name.get("first")).strip(),
            last_name=_text(name.get("last")).strip(),
        )

    return replace(_page(body, ("contacts",), read), asked=CONTACTS_PAGE)


def read_people_of_search(body: Mapping[str, Any]) -> tuple[Page[str, Person], str]:
    """People by contact, as Contacts v5 has them, and the cursor of the next page, "" after the last one."""

    def read(row: dict[str, Any]) -> tuple[str, Person] | None:
        contact, name, info = row.get("id"), _object(row.get("name")), _object(row.get("memberInfo"))
        profile, main = _object(info.get("profileInfo")), _object(row.get("email"))
        if not _is_id(contact):
            return None
        phones = [row.get("phone"), *_list(row.get("additionalPhones"))]
        login = _text(info.get("email")).strip()
        person = Person(
            contact=contact,
            member=None,
            emails=_emails(login, main.get("email"), *_list(row.get("additionalEmails"))),
            phones=_phones(*(_object(phone).get(key) for phone in phones for key in ("e164", "phone"))),
            first_name=_text(name.get("first")).strip(),
            last_name=_text(name.get("last")).strip(),
        )
        member, status = info.get("memberId"), _text(info.get("status"))
        if not _is_id(member):
            return contact, person
        return contact, replace(
            person,
            member=Member(
                id=MemberId(member),
                status={"ACTIVE": "APPROVED"}.get(status, status) or "UNKNOWN",
                email=login or _text(main.get("email")).strip(),
                first_name=person.first_name,
                nickname=_text(profile.get("nickname")),
                last_name=person.last_name,
                contact=contact,
                private=_PRIVATE.get(_text(profile.get("privacyStatus"))),
                since=parse_time(row.get("createdDate")),
            ),
        )

    paging = _object(body.get("pagingMetadata"))
    cursor = _text(_object(paging.get("cursors")).get("next"))
    return _page(body, ("contacts",), read), cursor if paging.get("hasNext") is not False else ""


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
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_PRIVATE = MappingProxyType({"PRIVATE": True, "PUBLIC": False})


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
    metadata = body.get("metadata") or body.get("pagingMetadata")
    if found is None and (isinstance(metadata, dict) or isinstance(body.get("metadata"), dict)):
        found = []
    if not isinstance(found, list | dict):
        raise _wrong_shape(names[0])
    rows = [found] if isinstance(found, dict) else found
    total = _object(metadata).get("total")
    items = tuple(item for row in rows if isinstance(row, dict) and (item := read(row)) is not None)
    if rows and not items:
        raise _wrong_shape(names[0])  # not an empty list: that would mean "nobody"
    return Page(
        items=items,
        rows=len(rows),
        total=total if isinstance(total, int) else 0,
    )


def _rows(body: Mapping[str, Any], name: str, *members: str) -> list[dict[str, Any]]:
    """A list without pages, each row of which has one of these members. Nothing at all stands for an empty one."""
    found = body.get(name) if body.keys() - {name} else body.get(name) or []
    if not isinstance(found, list):
        raise _wrong_shape(name)
    if not all(isinstance(row, dict) and any(isinstance(row.get(m), str) for m in members) for row in found):
        raise _wrong_shape(name)  # a list that is copied elsewhere must not lose a row on the way
    return found


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
    owner = row.get("ownerId") or _object(row.get("createdBy")).get("id")
    return Group(
        id=group,
        name=_text(row.get("name")) or _text(row.get("title")),
        privacy=_text(row.get("privacyStatus")) or _text(row.get("privacyLevel")) or "UNKNOWN",
        members=members if type(members) is int and 0 <= members < 2**31 else None,
        created_at=parse_time(row.get("createdDate")),
        owner=MemberId(owner) if _is_id(owner) else None,
        last_activity=parse_time(row.get("lastActivityDate") or row.get("recentActivityDate")),
    )


def _member(row: dict[str, Any]) -> Member | None:
    contact, found = _object(row.get("contact")), row.get("id")
    emails = [row.get("loginEmail"), *_list(contact.get("emails"))]
    contact_id = row.get("contactId")
    if not _is_id(found):
        return None
    return Member(
        id=MemberId(found),
        status=_text(row.get("status")) or "UNKNOWN",
        email=next((email for value in emails if (email := _text(value).strip())), ""),
        first_name=_text(contact.get("firstName")),
        nickname=_text(_object(row.get("profile")).get("nickname")),
        last_name=_text(contact.get("lastName")),
        contact=contact_id if _is_id(contact_id) else "",
        private=_PRIVATE.get(_text(row.get("privacyStatus"))),
        since=parse_time(row.get("createdDate")),
    )


def _emails(*values: object) -> frozenset[str]:
    return frozenset(email for value in values if (email := _text(value).strip().lower()))


def _phones(*values: object) -> frozenset[str]:
    """Those that are whole numbers with their country, however they are spaced."""
    plain = (re.sub(r"[\s().-]", "", _text(value)) for value in values)
    return frozenset(phone for phone in plain if _E164.fullmatch(phone))


def _capitalised(name: str) -> str:
    """Names typed all small or all large, as people write them: how Wix compares names is not known."""
    return name.title() if name.islower() or name.isupper() else name


def _member_id(row: dict[str, Any]) -> MemberId | None:
    return next((MemberId(row[name]) for name in ("memberId", "siteMemberId") if _is_id(row.get(name))), None)


def _role(row: dict[str, Any]) -> str:
    return _text(_object(row.get("role")).get("value"))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


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
