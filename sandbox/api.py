"""Wix's REST API: one table of endpoints, one way every call goes, and a function for each answer."""

import asyncio
import base64
import binascii
import json
import random
import re
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sandbox.community import (
    Community,
    CommunityError,
    ConflictError,
    Contact,
    Group,
    InvalidError,
    Json,
    Member,
    PreconditionError,
    UnknownError,
    at_most,
    one_of,
    text_within,
)
from sandbox.house import APP_SECRET, Identity, Sandbox
from sandbox.query import ENUM, GUID, ORDERED, TEXT, Fields, compile_filter, narrowed, page_of, sort_by
from sandbox.switches import Switches

MAX_ANSWER_IDS = 500
ABOUT = re.compile(rb'"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[^"@\s]+@[^"@\s]+)"')
NEVER = datetime.min.replace(tzinfo=UTC)
HANG_S = 90.0  # longer than any client should wait
RETRY_AFTER_S = 1  # of a 429 that is a failure, not the rate limit
ERROR_PAGE = "<!doctype html><html><head><title>Wix.com</title></head><body><h1>Something went wrong</h1></body></html>"
CONTENT_TYPES = ("PLAIN_TEXT", "DRAFTJS", "RICH_CONTENT")
FIELDSETS = ("PUBLIC", "EXTENDED", "FULL")
CONTACT_FIELDSETS = ("BASIC", "COMMUNICATION_DETAILS", "EXTENDED", "FULL")
OLD = "/social-groups/v2"  # every groups service under one roof, as printed in 2022
PREFIXES = {
    "oauth": ("",),
    "app": ("/apps/v1",),
    "groups": ("/social-groups-proxy/groups/v2", OLD),
    "members": ("/social-groups-proxy/members/v2", OLD),
    "memberships": ("/social-groups-proxy/members/v2", OLD),
    "join": ("/social-groups-proxy/join/v2", OLD),
    "roles": ("/social-groups-proxy/roles/v2", OLD),
    "questions": ("/social-groups-proxy/questions/v2", OLD),
    "answers": ("/social-groups-proxy/questions/v2", OLD),
    "rules": (f"{OLD}/rules",),
    "group_requests": (
        "/_api/social-groups-proxy/group-requests/v2",
        "/social-groups-proxy/group-requests/v2",
        OLD,
    ),
    "site_members": ("/members/v1",),
    "contacts_v4": ("/contacts/v4",),
    "contacts_v5": ("/contacts/v5",),
    "subscriptions": ("/email-marketing/v1/email-subscriptions",),
}


@dataclass(frozen=True)
class Call:
    """One call, as far as an answer needs it."""

    sandbox: Sandbox
    community: Community  # the present one, or for queries the one some time ago
    path: Mapping[str, str]
    query: QueryParams
    body: Json

    @property
    def switches(self) -> Switches:
        return self.sandbox.switches

    @property
    def group_id(self) -> str:
        return guid("groupId", self.path["groupId"])

    @property
    def group(self) -> Group:
        return self.community.group(self.group_id)

    def ids(self, name: str = "memberIds", maximum: int = 100) -> list[str]:
        """A required list of GUIDs from the body."""
        ids = self.body.get(name)
        if not isinstance(ids, list) or not ids:
            raise InvalidError(name, "must be a non-empty array", rule="REQUIRED")
        at_most(name, ids, maximum)
        return [guid(name, value) for value in ids]

    def object(self, name: str) -> Json:
        value = self.body.get(name, {})
        if not isinstance(value, dict):
            raise InvalidError(name, "must be an object")
        return value

    def objects(self, name: str, maximum: int) -> list[Json]:
        items = self.body.get(name)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InvalidError(name, "must be an array of objects", rule="REQUIRED")
        at_most(name, items, maximum)
        return items

    def rejections(self, key: str) -> list[tuple[str, str]]:
        rejections = []
        for item in self.objects("rejections", 100):
            text_within("rejections.reason", item.get("reason") or "", 1000)
            rejections.append((guid(f"rejections.{key}", item.get(key)), item.get("reason") or ""))
        return rejections

    def page(
        self, key: str, items: Sequence[Any], paging: Any, *, maximum: int = 100, default: int = 100
    ) -> Json:
        """One page of `items` with its metadata. Objects are only rendered when they are shown."""
        limit, offset = page_of(paging, default=default, maximum=maximum)
        shown = list(items[offset : offset + limit])
        metadata: Json = {"count": len(shown), "offset": offset}
        totals = self.switches.totals
        if totals == "always" or (totals == "documented" and key != "joinGroupRequests"):
            metadata["total"] = len(items)
        if self.switches.too_many_to_count:
            metadata["tooManyToCount"] = True
        return {key: shown, "metadata": metadata}

    def found(
        self, items: Iterable[Any], fields: Fields, default: Callable[[Any], Any]
    ) -> tuple[list[Any], Any]:
        """What the body's query selects, sorted, with the paging asked for."""
        query = self.object("query")
        ignore = self.switches.unsupported_filter == "ignore"
        wanted = compile_filter(query.get("filter") or {}, fields, ignore_unsupported=ignore)
        rows = sorted(filter(wanted, items), key=default, reverse=True)
        sorting = query.get("sort") or query.get("sorting") or []
        rows = sort_by(rows, sorting, fields, ignore_unsupported=ignore)
        return rows, query.get("paging") or {}


Answer = Callable[[Call], Json]
READ, QUERY, WRITE, OPEN = "read", "query", "write", "open"


@dataclass(frozen=True)
class Endpoint:
    name: str
    method: str
    service: str
    path: str
    answer: Answer
    kind: str


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, dict(headers or {})


class BrokenAnswerError(Exception):
    """Instead of `answer` the client gets something it cannot read, or nothing."""

    def __init__(self, kind: str, answer: Json) -> None:
        super().__init__(kind)
        self.kind, self.answer = kind, answer


def application_error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> ApiError:
    error = {"code": code, "description": message, "data": {}}
    return ApiError(status, {"message": message, "details": {"applicationError": error}}, headers)


NOTHING_SAID: Json = {"message": "", "details": {}}


def system_error(status: int) -> ApiError:
    return ApiError(status, NOTHING_SAID)


REFUSALS = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    428: "FAILED_PRECONDITION",
}


def group_error(switches: Switches, status: int) -> ApiError:
    """What calls about one of the `failing_groups` are answered."""
    if status == 429:
        return rate_limit_error(switches, RETRY_AFTER_S)
    if status >= 500:
        return system_error(status)
    return application_error(status, REFUSALS.get(status, "INVALID_ARGUMENT"), "Not for this group")


def rate_limit_error(switches: Switches, wait_s: float) -> ApiError:
    headers = {"retry-after": str(ceil(wait_s))} if switches.retry_after else {}
    return application_error(429, "RESOURCE_EXHAUSTED", "Rate limit exceeded", headers)


def failure_error(switches: Switches, failure: int | str, answer: Json) -> Exception:
    if isinstance(failure, str):
        return BrokenAnswerError(failure, answer)
    return rate_limit_error(switches, RETRY_AFTER_S) if failure == 429 else system_error(failure)


def validation_error(exc: InvalidError) -> ApiError:
    violation = {
        "field": exc.where,
        "description": exc.description,
        "violatedRule": exc.rule,
        **({"data": exc.data} if exc.data else {}),
    }
    message = f'INVALID_ARGUMENT: "{exc.where}" {exc.description}'
    return ApiError(
        400, {"message": message, "details": {"validationError": {"fieldViolations": [violation]}}}
    )


def guid(name: str, value: Any) -> str:
    if not isinstance(value, str) or not GUID.fullmatch(value):
        raise InvalidError(name, "is not a valid GUID", data={"expected": "GUID"})
    return value.lower()


# Tokens and the app. Their errors follow OAuth.


def create_access_token(call: Call) -> Json:
    check_client(call, "client_credentials")
    if call.body.get("instance_id") != call.community.site.instance_id or not call.community.site.installed:
        raise oauth_error(400, "invalid_grant", "No such app instance")
    token = call.sandbox.new_token()
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": int(call.switches.token_lifetime_s),
    }


def refresh_access_token(call: Call) -> Json:
    grant = check_client(call, "authorization_code", "refresh_token")
    refresh_token = call.body.get("refresh_token")
    if grant == "authorization_code" and call.body.get("code"):
        refresh_token = f"OAUTH2.{secrets.token_urlsafe(24)}"
        call.sandbox.refresh_tokens.add(refresh_token)
    if refresh_token not in call.sandbox.refresh_tokens or not call.community.site.installed:
        raise oauth_error(400, "invalid_grant", "Unknown refresh token")
    return {"refresh_token": refresh_token, "access_token": call.sandbox.new_token(300)}


def token_info(call: Call) -> Json:
    site = call.community.site
    token = call.sandbox.active_token(str(call.body.get("token", "")))
    if token is None:
        return {"active": False}
    return {
        "active": True,
        "subjectType": "APP",
        "subjectId": site.app_id,
        "exp": int(token.expires_at),
        "iat": int(token.issued_at),
        "clientId": site.app_id,
        "siteId": site.site_id,
        "instanceId": site.instance_id,
    }


def get_app_instance(call: Call) -> Json:
    site = call.community.site
    return {
        "instance": {
            "instanceId": site.instance_id,
            "appName": "Sandbox app",
            "appVersion": "1.0.0",
            "isFree": False,
            "billing": {
                "packageName": "pro-plan",
                "billingCycle": "MONTHLY",
                "timeStamp": "2026-05-01T07:44:53.659Z",
                "autoRenewing": True,
                "source": "",
            },
            "permissions": ["WIX_DEVELOPERS.MANAGE_APP_INSTANCE"],
            "availablePlans": [],
            "copiedFromTemplate": False,
            "freeTrialAvailable": False,
        },
        "site": {
            "siteDisplayName": site.name,
            "locale": site.locale,
            "paymentCurrency": "USD",
            "multilingual": {"isMultiLingual": False, "supportedLanguages": []},
            "url": site.url,
            "installedWixApps": ["groups", "members-area"],
            "ownerInfo": {"email": "owner@example.com", "emailStatus": "VERIFIED_OPT_IN"},
            "siteId": site.site_id,
        },
    }


def check_client(call: Call, *grants: str) -> str:
    body = call.body
    grant = body.get("grant_type")
    if grant not in grants:
        raise oauth_error(400, "unsupported_grant_type", f"grant_type must be {' or '.join(grants)}")
    if body.get("client_id") != call.community.site.app_id or body.get("client_secret") != APP_SECRET:
        raise oauth_error(401, "invalid_client", "Client authentication failed")
    return str(grant)


def oauth_error(status: int, error: str, description: str) -> ApiError:
    return ApiError(status, {"error": error, "error_description": description})


# Groups

GROUP_FIELDS = Fields(
    filters={"title": (lambda g: g.name, ORDERED | {"$contains"})},
    sorts={
        "title": lambda g: g.name,
        "createdDate": lambda g: g.created,
        "membersCount": lambda g: len(g.members),
        "recentActivityDate": lambda g: g.last_activity or NEVER,
    },
)


def create_group(call: Call) -> Json:
    creator = call.body.get("creatorId")
    fields = group_fields(call)
    if creator:
        guid("creatorId", creator)
    return {"group": group_wire(call, call.community.create_group(fields, creator_id=creator or ""))}


def get_group(call: Call) -> Json:
    group_id = call.group_id
    if call.switches.deleted_groups_stay and group_id in call.community.deleted_groups:
        return {"group": group_wire(call, call.community.deleted_groups[group_id])}
    return {"group": group_wire(call, call.group)}


def get_group_by_slug(call: Call) -> Json:
    for group in call.community.groups.values():
        if group.slug == call.path["slug"]:
            return {"group": group_wire(call, group)}
    raise UnknownError("Group not found")


def list_groups(call: Call) -> Json:
    groups = sorted(visible_groups(call), key=lambda g: g.created, reverse=True)
    return group_page(call, groups, call.query)


def query_groups(call: Call) -> Json:
    return group_page(call, *call.found(visible_groups(call), GROUP_FIELDS, lambda g: g.created))


def update_group(call: Call) -> Json:
    return {"group": group_wire(call, call.community.update_group(call.group_id, group_fields(call)))}


def delete_group(call: Call) -> Json:
    return {"group": group_wire(call, call.community.delete_group(call.group_id))}


def visible_groups(call: Call) -> list[Group]:
    deleted = call.community.deleted_groups.values() if call.switches.deleted_groups_stay else ()
    return [*call.community.groups.values(), *deleted]


def group_page(call: Call, groups: list[Group], paging: Any) -> Json:
    page = call.page("groups", groups, paging)
    return {**page, "groups": [group_wire(call, group) for group in page["groups"]]}


def group_fields(call: Call) -> Json:
    """The writable members of `group`; the description as plain text, whatever it came as."""
    if not (group := call.object("group")):
        raise InvalidError("group", "is required", rule="REQUIRED")
    known = {"name", "privacyStatus", "description", "teaser", "memberTitle", "slug", "settings"}
    fields = {name: value for name, value in group.items() if name in known and value is not None}
    description = fields.get("description")
    if isinstance(description, str) and content_type(call) != "PLAIN_TEXT":
        fields["description"] = plain_text(description)
    return fields


def group_wire(call: Call, group: Group) -> Json:
    wire = group.wire()
    text = wire["description"]
    match content_type(call):
        case "DRAFTJS":
            wire["description"] = json.dumps(
                {"blocks": [{"key": "a1b2c", "text": text, "type": "unstyled", "depth": 0}], "entityMap": {}}
            )
        case "RICH_CONTENT":
            nodes = [{"type": "TEXT", "textData": {"text": text, "decorations": []}}]
            wire["description"] = json.dumps({"nodes": [{"type": "PARAGRAPH", "nodes": nodes}]})
    return wire


def content_type(call: Call) -> str:
    wanted = call.query.get("contentType") or call.body.get("contentType") or "DRAFTJS"
    one_of("contentType", wanted, CONTENT_TYPES)
    return str(wanted)


def plain_text(description: str) -> str:
    """The text of a DraftJS or rich content document; other text is taken as it is."""
    try:
        document = json.loads(description)
    except ValueError:
        return description
    texts: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("text"), str):
                texts.append(node["text"])
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(document)
    return "\n".join(texts) if isinstance(document, dict) else description


# Group members and memberships

ROLE = (lambda m: m.role, ENUM)
GROUP_MEMBER_FIELDS = Fields(
    filters={"role": ROLE},
    sorts={
        "joinedDate": lambda m: m.joined,
        "joinedOn": lambda m: m.joined,
        "role": lambda m: m.role,
    },
)
MEMBERSHIP_FIELDS = Fields(
    filters={
        "status": (lambda row: row[1], frozenset({"$eq", "$ne"})),
        "role": (lambda row: row[2] or None, frozenset({"$eq", "$ne"})),
    }
)


def add_group_members(call: Call) -> Json:
    return {"members": wires(call.community.add_group_members(call.group_id, call.ids()))}


def remove_group_members(call: Call) -> Json:
    """Ids in the query, or as in 2022 in the body."""
    if not (ids := [guid("memberIds", value) for value in call.query.getlist("memberIds")]):
        ids = call.ids()
    call.community.remove_group_members(call.group_id, ids)
    return {}


def list_group_members(call: Call) -> Json:
    members = sorted(call.group.members.values(), key=lambda m: m.joined, reverse=True)
    return wire_page(call.page("members", members, call.query), "members")


def query_group_members(call: Call) -> Json:
    rows, paging = call.found(call.group.members.values(), GROUP_MEMBER_FIELDS, lambda m: m.joined)
    return wire_page(call.page("members", rows, paging), "members")


def list_memberships(call: Call) -> Json:
    rows = call.community.memberships_of(guid("memberId", call.path["memberId"]))
    return membership_page(call, rows, call.query)


def query_memberships(call: Call) -> Json:
    rows = call.community.memberships_of(guid("memberId", call.path["memberId"]))
    return membership_page(call, *call.found(rows, MEMBERSHIP_FIELDS, lambda row: row[0]))


def membership_page(call: Call, rows: Sequence[tuple[str, str, str]], paging: Any) -> Json:
    page = call.page("memberships", rows, paging)
    page["memberships"] = [
        {"groupId": group_id, "status": status, **({"role": {"value": role}} if role else {})}
        for group_id, status, role in page["memberships"]
    ]
    return page


def assign_role(call: Call) -> Json:
    role = wanted_role(call)
    call.community.assign_role(call.group_id, call.ids(), role)
    return {"groupId": call.group_id, "memberIds": call.ids(), "role": {"value": role}}


def unassign_role(call: Call) -> Json:
    role = wanted_role(call)
    call.community.unassign_role(call.group_id, call.ids(), role)
    return {"groupId": call.group_id, "memberIds": call.ids(), "role": {"value": role}}


def wanted_role(call: Call) -> str:
    role = call.object("role").get("value")
    one_of("role.value", role, ("MEMBER", "ADMIN"))
    return str(role)


# Join requests, and requests for whole groups

STATUS_FIELDS = Fields(
    filters={"status": (lambda request: request.status, ENUM)},
    sorts={"createdDate": lambda request: request.created},
)
JOIN_REQUEST_FIELDS = Fields(filters=STATUS_FIELDS.filters)


def list_join_requests(call: Call) -> Json:
    rows = sorted(call.group.requests.values(), key=lambda r: r.created, reverse=True)
    return wire_page(call.page("joinGroupRequests", rows, call.query), "joinGroupRequests")


def query_join_requests(call: Call) -> Json:
    rows, paging = call.found(call.group.requests.values(), JOIN_REQUEST_FIELDS, lambda r: r.created)
    return wire_page(call.page("joinGroupRequests", rows, paging), "joinGroupRequests")


def approve_join_requests(call: Call) -> Json:
    return {"joinGroupRequests": wires(call.community.approve_join_requests(call.group_id, call.ids()))}


def reject_join_requests(call: Call) -> Json:
    rejected = call.community.reject_join_requests(call.group_id, call.rejections("memberId"))
    return {"joinGroupRequests": wires(rejected)}


def list_group_requests(call: Call) -> Json:
    rows = sorted(call.community.group_requests.values(), key=lambda r: r.created, reverse=True)
    return wire_page(call.page("groupRequests", rows, call.query), "groupRequests")


def query_group_requests(call: Call) -> Json:
    rows, paging = call.found(call.community.group_requests.values(), STATUS_FIELDS, lambda r: r.created)
    return wire_page(call.page("groupRequests", rows, paging), "groupRequests")


def approve_group_requests(call: Call) -> Json:
    return decided(call, wires(call.community.approve_group_requests(call.ids("groupRequestIds"))))


def reject_group_requests(call: Call) -> Json:
    return decided(call, wires(call.community.reject_group_requests(call.rejections("groupRequestId"))))


def decided(call: Call, requests: list[Json]) -> Json:
    one = call.switches.group_request_shape == "object" and len(requests) == 1
    return {"groupRequest": requests[0] if one else requests}


# Questions, answers, rules


def list_questions(call: Call) -> Json:
    return {"questions": wires(call.group.questions)}


def replace_questions(call: Call) -> Json:
    questions: list[tuple[Any, bool]] = []
    for item in call.objects("questions", 50):
        if not isinstance(item.get("required", False), bool):
            raise InvalidError("questions.required", "must be true or false")
        questions.append((item.get("text"), item.get("required", False)))
    for text, _ in questions:
        text_within("questions.text", text, 300, minimum=1)
    return {"questions": wires(call.community.set_questions(call.group_id, questions))}


def list_answers(call: Call) -> Json:
    """Of everybody, or of these members; with those present questions that the shown members answered."""
    group, ids = call.group, call.body.get("memberIds")
    wanted = call.ids(maximum=MAX_ANSWER_IDS) if ids else list(group.answers)
    rows = [(member_id, group.answers[member_id]) for member_id in wanted if member_id in group.answers]
    page = call.page("memberAnswers", rows, call.body.get("paging") or {})
    answered = {question_id for _, answers in page["memberAnswers"] for question_id in answers}
    return {
        "memberAnswers": [
            {"memberId": member_id, "answers": [{"id": i, "text": text} for i, text in answers.items()]}
            for member_id, answers in page["memberAnswers"]
        ],
        "questions": {q.id: q.wire() for q in group.questions if q.id in answered},
        "metadata": page["metadata"],
    }


def list_rules(call: Call) -> Json:
    return {"rules": call.group.rules}


def replace_rules(call: Call) -> Json:
    rules = []
    for item in call.objects("rules", 100):
        rule = {name: item.get(name, "") for name in ("title", "description")}
        for name, text in rule.items():
            text_within(f"rules.{name}", text, 10_000)
        rules.append(rule)
    return {"groupId": call.group_id, "rules": call.community.set_rules(call.group_id, rules)}


# Site members

MEMBER_FIELDS = Fields(
    filters={
        "id": (lambda m: m.id, ORDERED),
        "loginEmail": (lambda m: m.email or None, ORDERED),
        "contactId": (lambda m: m.contact.id, ORDERED),
        "contact.firstName": (lambda m: m.contact.first, ORDERED),
        "contact.lastName": (lambda m: m.contact.last, ORDERED),
        "profile.nickname": (lambda m: m.nickname, ORDERED),
        "profile.slug": (lambda m: m.slug, ORDERED),
        "privacyStatus": (lambda m: m.privacy, ENUM),
        "status": (lambda m: m.status, ENUM),
        "createdDate": (lambda m: m.created, ORDERED),
    },
    sorts={
        "profile.nickname": lambda m: m.nickname,
        "contact.firstName": lambda m: m.contact.first,
        "contact.lastName": lambda m: m.contact.last,
        "createdDate": lambda m: m.created,
        "updatedDate": lambda m: m.updated,
        "lastLoginDate": lambda m: m.updated,
    },
)


def query_members(call: Call) -> Json:
    community, condition = call.community, call.object("query").get("filter")
    candidates: Iterable[Member] = community.members.values()
    if isinstance(condition, dict) and "id" in condition:
        candidates = narrowed(community.members, condition["id"])
    elif isinstance(condition, dict) and "contactId" in condition:
        candidates = narrowed(community.members_by_contact, condition["contactId"])
    rows, paging = call.found(candidates, MEMBER_FIELDS, lambda _: 0)
    return member_page(call, rows, paging, fieldset(call.body.get("fieldsets")))


def list_members(call: Call) -> Json:
    paging = {name: call.query.get(f"paging.{name}") for name in ("limit", "offset")}
    rows = list(call.community.members.values())
    if name := call.query.get("sorting.fieldName"):
        sorting = [{"fieldName": name, "order": call.query.get("sorting.order", "ASC")}]
        ignore = call.switches.unsupported_filter == "ignore"
        rows = sort_by(rows, sorting, MEMBER_FIELDS, ignore_unsupported=ignore)
    return member_page(call, rows, paging, fieldset(call.query.getlist("fieldsets")))


def get_member(call: Call) -> Json:
    member = call.community.member(guid("id", call.path["id"]))
    return {"member": member_wire(member, fieldset(call.query.getlist("fieldsets")))}


def member_page(call: Call, rows: Sequence[Member], paging: Any, wanted: str) -> Json:
    page = call.page("members", rows, paging)
    return {**page, "members": [member_wire(member, wanted) for member in page["members"]]}


def member_wire(member: Member, wanted: str) -> Json:
    wire = member.wire()
    if wanted == "FULL":
        return wire
    public = ("id", "contactId", "profile", "createdDate", "updatedDate")
    extended = ("loginEmail", "loginEmailVerified", "status", "privacyStatus", "activityStatus")
    if wanted == "EXTENDED":
        return {name: wire[name] for name in (*public, *extended) if name in wire}
    hidden = dict.fromkeys(("status", "privacyStatus", "activityStatus"), "UNKNOWN")
    return {**{name: wire[name] for name in public}, **hidden}


def fieldset(asked: Any) -> str:
    """The richest fieldset asked for; PUBLIC, without addresses, when none is."""
    names = [asked] if isinstance(asked, str) else asked or []
    for name in names:
        one_of("fieldsets", name, FIELDSETS)
    return max(names, key=FIELDSETS.index, default="PUBLIC")


# Contacts


def primary(contact: Contact) -> str | None:
    return contact.emails[0] if contact.emails else None


def contact_fields(community: Community) -> tuple[Fields, Fields]:
    """What v4 and v5 can filter by. Consent and membership live beside the contact."""

    def consent(name: str) -> Callable[[Any], Any]:
        return lambda c: getattr(community.subscription_of(primary(c) or ""), name, None)

    def member(name: str) -> Callable[[Any], Any]:
        return lambda c: getattr(community.members_by_contact.get(c.id), name, None) or None

    def lower(contact: Contact) -> Any:
        return (primary(contact) or "").lower() or None

    e164 = (lambda c: c.phone or None, TEXT)
    plain = (lambda c: tuple(phone.removeprefix("+1") for phone in c.phones), TEXT)
    emails = (lambda c: tuple(c.emails), TEXT)
    v4: dict[str, Any] = {
        "id": (lambda c: c.id, ORDERED),
        "createdDate": (lambda c: c.created, ORDERED),
        "updatedDate": (lambda c: c.updated, ORDERED),
        "primaryInfo.email": (primary, TEXT),
        "primaryEmail.email": (primary, TEXT),
        "primaryInfo.phone": (lambda c: c.phone.removeprefix("+1") or None, TEXT),
        "primaryPhone.e164Phone": e164,
        "info.phones.e164Phone": (lambda c: tuple(c.phones), TEXT),
        "info.phones.phone": plain,
        "info.emails.email": emails,
        "info.name.first": (lambda c: c.first, TEXT),
        "info.name.last": (lambda c: c.last, TEXT),
        "info.locale": (lambda c: c.language, TEXT),
        "primaryEmail.subscriptionStatus": (consent("status"), ENUM),
        "primaryEmail.deliverabilityStatus": (consent("deliverability"), ENUM),
        "info.extendedFields.emailSubscriptions.subscriptionStatus": (consent("status"), ENUM),
        "info.extendedFields.emailSubscriptions.deliverabilityStatus": (consent("deliverability"), ENUM),
        "info.extendedFields.members.membershipStatus": (member("status"), ENUM),
    }
    words = TEXT | {"$nin"}
    several = frozenset({"$hasSome", "$hasAll", "$exists", "$startsWith"})
    v5: dict[str, Any] = {
        "id": (lambda c: c.id, frozenset({"$eq", "$in", "$ne", "$nin"})),
        "email.email": (lower, words),
        "name.first": (lambda c: c.first, words),
        "name.last": (lambda c: c.last, words),
        "phone.phone": (lambda c: c.phone or None, words),
        "phone.e164": (lambda c: c.phone or None, words),
        "memberInfo.email": (member("email"), words),
        "memberInfo.memberId": (member("id"), words - {"$startsWith"}),
        "memberInfo.profileInfo.nickname": (member("nickname"), words),
        "additionalEmails.email": (lambda c: tuple(c.emails[1:]), several),
        "additionalPhones.phone": (lambda c: tuple(c.other_phones), several),
        "additionalPhones.e164": (lambda c: tuple(c.other_phones), several),
    }
    sorts: dict[str, Callable[[Any], Any]] = {
        "createdDate": lambda c: c.created,
        "updatedDate": lambda c: c.updated,
        "info.name.first": lambda c: c.first,
        "info.name.last": lambda c: c.last,
        "name.first": lambda c: c.first,
        "name.last": lambda c: c.last,
    }
    return Fields(v4, sorts), Fields(v5, sorts)


def query_contacts(call: Call) -> Json:
    query = call.object("query")
    if len(query.get("sort") or []) > 1:
        raise InvalidError("query.sort", "takes one field", code="UNSUPPORTED_SORT_FIELD")
    fields, _ = contact_fields(call.community)
    rows, paging = call.found(call.community.contacts.values(), fields, lambda c: c.created)
    page = call.page("contacts", rows, paging, maximum=1000, default=50)
    names = query.get("fieldsets") or ["FULL"]
    for name in names:
        one_of("query.fieldsets", name, CONTACT_FIELDSETS)
    contacts = [contact_v4_part(call.community.contact_v4(contact), names) for contact in page["contacts"]]
    return {"contacts": contacts, "pagingMetadata": page["metadata"]}


def contact_v4_part(wire: Json, fieldsets: list[str]) -> Json:
    if set(fieldsets) & {"EXTENDED", "FULL"}:
        return wire
    info = {name: wire["info"][name] for name in ("name", "emails", "phones")}
    if fieldsets == ["BASIC"]:
        info = {"name": info["name"]}
    return {**{name: wire[name] for name in ("id", "revision", "primaryInfo")}, "info": info}


def get_contact(call: Call) -> Json:
    contact_id = guid("id", call.path["id"])
    if contact_id not in call.community.contacts:
        raise application_error(404, "CONTACT_NOT_FOUND", "Contact not found")
    return {
        "contact": call.community.contact_v4(call.community.contacts[contact_id]),
        "responseType": "REGULAR",
    }


def search_contacts_v5(call: Call) -> Json:
    """Cursor paging: a cursor carries the search, so later pages send nothing else."""
    search, offset = call.object("search"), 0
    paging = search.get("cursorPaging") or {}
    limit, _ = page_of({"limit": paging.get("limit")}, default=50, maximum=100)
    if cursor := paging.get("cursor"):
        try:
            search, offset = json.loads(base64.urlsafe_b64decode(cursor))
        except (binascii.Error, ValueError, TypeError) as exc:
            raise InvalidError("search.cursorPaging.cursor", "is not a cursor") from exc
    _, fields = contact_fields(call.community)
    ignore = call.switches.unsupported_filter == "ignore"
    wanted = compile_filter(search.get("filter") or {}, fields, ignore_unsupported=ignore)
    rows = sorted(filter(wanted, call.community.contacts.values()), key=lambda c: c.created, reverse=True)
    rows = [c for c in rows if speaks_of(call.community, c, search.get("search") or {})]
    rows = sort_by(rows, search.get("sort") or [], fields, ignore_unsupported=ignore)
    shown = rows[offset : offset + limit]
    cursors = {}
    plain = {name: value for name, value in search.items() if name != "cursorPaging"}
    if offset + limit < len(rows):
        cursors["next"] = base64.urlsafe_b64encode(json.dumps([plain, offset + limit]).encode()).decode()
    if offset:
        before = [plain, max(0, offset - limit)]
        cursors["prev"] = base64.urlsafe_b64encode(json.dumps(before).encode()).decode()
    return {
        "contacts": [call.community.contact_v5(contact) for contact in shown],
        "pagingMetadata": {
            "count": len(shown),
            "cursors": cursors,
            "hasNext": "next" in cursors,
            **({"total": len(rows)} if not offset else {}),
        },
    }


def speaks_of(community: Community, contact: Contact, free_text: Json) -> bool:
    """Whether the words of a free-text search (`expression`, `mode` OR or AND) occur in the contact."""
    expression = free_text.get("expression") or ""
    text_within("search.search.expression", expression, 100)
    member = community.members_by_contact.get(contact.id)
    nickname = member.nickname if member else ""
    about = " ".join((contact.first, contact.last, *contact.emails, contact.phone, nickname)).casefold()
    hits = [word in about for word in expression.casefold().split()]
    return all(hits) if free_text.get("mode") == "AND" or not hits else any(hits)


# Email subscriptions

SUBSCRIPTION_FIELDS = Fields(filters={"email": (lambda s: s.email.lower(), frozenset({"$in"}))})


def query_subscriptions(call: Call) -> Json:
    """No `query` wrapper; `email` with `$in` is all it can do. Addresses without a record are left out."""
    condition = call.body.get("filter")
    if not isinstance(condition, dict) or not condition:
        raise InvalidError("filter", "is required", rule="REQUIRED")
    emails = condition.get("email")
    if isinstance(emails, dict) and isinstance(emails.get("$in"), list):
        at_most("filter.email.$in", emails["$in"], 100)
        lowered = [e.lower() if isinstance(e, str) else e for e in emails["$in"]]
        condition = {**condition, "email": {**emails, "$in": lowered}}
    ignore = call.switches.unsupported_filter == "ignore"
    wanted = compile_filter(condition, SUBSCRIPTION_FIELDS, ignore_unsupported=ignore)
    candidates = narrowed(call.community.subscriptions, condition.get("email"), lower=True)
    page = call.page("subscriptions", list(filter(wanted, candidates)), call.body.get("paging") or {})
    return {call.switches.subscriptions_key: wires(page["subscriptions"]), "metadata": page["metadata"]}


def get_subscription(call: Call) -> Json:
    wanted = guid("id", call.path["id"])
    for record in call.community.subscriptions.values():
        if record.id == wanted:
            return {"emailSubscription": record.wire()}
    raise UnknownError("Email subscription not found")


def upsert_subscription(call: Call) -> Json:
    return {"subscription": upsert_one(call.community, call.object("subscription"))}


def bulk_upsert_subscriptions(call: Call) -> Json:
    results: list[Json] = []
    for index, item in enumerate(call.objects("subscriptions", 100)):
        try:
            results.append({"originalIndex": index, "emailSubscription": upsert_one(call.community, item)})
        except InvalidError as exc:
            error = {"errorCode": "INVALID_ARGUMENT", "message": str(exc)}
            results.append({"originalIndex": index, "error": error})
    failures = sum("error" in result for result in results)
    return {
        "results": results,
        "metadata": {"totalSuccess": len(results) - failures, "totalFailure": failures},
    }


def upsert_one(community: Community, item: Json) -> Json:
    text_within("subscription.email", item.get("email"), 320, minimum=1)
    status, deliverability = item.get("subscriptionStatus") or "", item.get("deliverabilityStatus") or ""
    return community.set_subscription(item["email"], status, deliverability).wire()


def generate_unsubscribe_link(call: Call) -> Json:
    """Leads to this sandbox's own page, where a button has to be pressed."""
    email = call.body.get("emailAddress")
    if not isinstance(email, str) or "@" not in email:
        raise InvalidError("emailAddress", "is not an email address", data={"expected": "EMAIL"})
    token = secrets.token_urlsafe(24)
    call.sandbox.unsubscribe_tokens[token] = email
    site_id = call.community.site.site_id
    path = "/my-account/contacts/unsubscribe"
    return {"link": f"{call.sandbox.url}{path}?metaSiteId={site_id}&unsubscribeToken={token}"}


def wires(items: Iterable[Any]) -> list[Json]:
    return [item.wire() for item in items]


def wire_page(page: Json, key: str) -> Json:
    return {**page, key: wires(page[key])}


def no_such_endpoint(_call: Call) -> Json:
    raise application_error(404, "NOT_FOUND", "No such endpoint")


ENDPOINTS = (
    Endpoint("createAccessToken", "POST", "oauth", "/oauth2/token", create_access_token, OPEN),
    Endpoint("tokenInfo", "POST", "oauth", "/oauth2/token-info", token_info, OPEN),
    Endpoint("refreshAccessToken", "POST", "oauth", "/oauth/access", refresh_access_token, OPEN),
    Endpoint("getAppInstance", "GET", "app", "/instance", get_app_instance, READ),
    Endpoint("createGroup", "POST", "groups", "/groups", create_group, WRITE),
    Endpoint("listGroups", "GET", "groups", "/groups", list_groups, READ),
    Endpoint("queryGroups", "POST", "groups", "/groups/query", query_groups, QUERY),
    Endpoint("getGroupBySlug", "GET", "groups", "/groups/slugs/{slug}", get_group_by_slug, READ),
    Endpoint("getGroup", "GET", "groups", "/groups/{groupId}", get_group, READ),
    Endpoint("updateGroup", "PATCH", "groups", "/groups/{groupId}", update_group, WRITE),
    Endpoint("deleteGroup", "DELETE", "groups", "/groups/{groupId}", delete_group, WRITE),
    Endpoint("addGroupMembers", "POST", "members", "/groups/{groupId}/members", add_group_members, WRITE),
    Endpoint(
        "removeGroupMembers", "DELETE", "members", "/groups/{groupId}/members", remove_group_members, WRITE
    ),
    Endpoint("listGroupMembers", "GET", "members", "/groups/{groupId}/members", list_group_members, READ),
    Endpoint(
        "queryGroupMembers", "POST", "members", "/groups/{groupId}/members/query", query_group_members, QUERY
    ),
    Endpoint(
        "listMemberships", "GET", "memberships", "/members/{memberId}/memberships", list_memberships, READ
    ),
    Endpoint(
        "queryMemberships",
        "POST",
        "memberships",
        "/members/{memberId}/memberships/query",
        query_memberships,
        QUERY,
    ),
    Endpoint(
        "listJoinGroupRequests", "GET", "join", "/groups/{groupId}/join-requests", list_join_requests, READ
    ),
    Endpoint(
        "queryJoinGroupRequests",
        "POST",
        "join",
        "/groups/{groupId}/join-requests/query",
        query_join_requests,
        QUERY,
    ),
    Endpoint(
        "approveJoinGroupRequests",
        "POST",
        "join",
        "/groups/{groupId}/join-requests/approve",
        approve_join_requests,
        WRITE,
    ),
    Endpoint(
        "rejectJoinGroupRequests",
        "POST",
        "join",
        "/groups/{groupId}/join-requests/reject",
        reject_join_requests,
        WRITE,
    ),
    Endpoint("assignRole", "POST", "roles", "/groups/{groupId}/roles/assign", assign_role, WRITE),
    Endpoint("unassignRole", "POST", "roles", "/groups/{groupId}/roles/unassign", unassign_role, WRITE),
    Endpoint("listGroupRequests", "GET", "group_requests", "/group-requests", list_group_requests, READ),
    Endpoint(
        "queryGroupRequests", "POST", "group_requests", "/group-requests/query", query_group_requests, QUERY
    ),
    Endpoint(
        "approveGroupRequests",
        "POST",
        "group_requests",
        "/group-requests/approve",
        approve_group_requests,
        WRITE,
    ),
    Endpoint(
        "rejectGroupRequests",
        "POST",
        "group_requests",
        "/group-requests/reject",
        reject_group_requests,
        WRITE,
    ),
    Endpoint(
        "listMembershipQuestions", "GET", "questions", "/membership-questions/{groupId}", list_questions, READ
    ),
    Endpoint(
        "createOrReplaceAllMembershipQuestions",
        "PUT",
        "questions",
        "/membership-questions/{groupId}",
        replace_questions,
        WRITE,
    ),
    Endpoint("listAnswers", "POST", "answers", "/membership-questions/{groupId}/answers", list_answers, READ),
    Endpoint("listRules", "GET", "rules", "/{groupId}", list_rules, READ),
    Endpoint("createOrReplaceAllRules", "PUT", "rules", "/{groupId}", replace_rules, WRITE),
    Endpoint("queryMembers", "POST", "site_members", "/members/query", query_members, QUERY),
    Endpoint("listMembers", "GET", "site_members", "/members", list_members, READ),
    Endpoint("getMember", "GET", "site_members", "/members/{id}", get_member, READ),
    Endpoint("queryContacts", "POST", "contacts_v4", "/contacts/query", query_contacts, QUERY),
    Endpoint("getContact", "GET", "contacts_v4", "/contacts/{id}", get_contact, READ),
    Endpoint("searchContactsV5", "POST", "contacts_v5", "/contacts/search", search_contacts_v5, QUERY),
    Endpoint("queryEmailSubscriptions", "POST", "subscriptions", "/query", query_subscriptions, QUERY),
    Endpoint(
        "bulkUpsertEmailSubscription", "POST", "subscriptions", "/bulk", bulk_upsert_subscriptions, WRITE
    ),
    Endpoint(
        "generateUnsubscribeLink",
        "POST",
        "subscriptions",
        "/unsubscribe-link",
        generate_unsubscribe_link,
        READ,
    ),
    Endpoint("getEmailSubscription", "GET", "subscriptions", "/{id}", get_subscription, READ),
    Endpoint("upsertEmailSubscription", "POST", "subscriptions", "", upsert_subscription, WRITE),
)
UNKNOWN = Endpoint("unknown", "", "", "", no_such_endpoint, READ)


# The way every call goes


def api_routes(sandbox: Sandbox) -> list[Route]:
    """All endpoints under all their prefixes, and at last everything else."""
    routes = [
        Route(prefix + endpoint.path, _asgi(sandbox, endpoint), methods=[endpoint.method])
        for endpoint in ENDPOINTS
        for prefix in PREFIXES[endpoint.service]
    ]
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [*routes, Route("/{path:path}", _asgi(sandbox, UNKNOWN), methods=every)]


def _asgi(sandbox: Sandbox, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer_call(request: Request) -> Response:
        headers = {"x-wix-request-id": f"{int(sandbox.now_s())}.{secrets.randbelow(10**19):019d}"}
        identity = sandbox.identify(
            request.headers.get("authorization", ""), request.headers.get("wix-site-id", "")
        )
        status, broken = 200, ""
        try:
            response: Response = JSONResponse(await _answer(sandbox, endpoint, request, identity))
        except ApiError as exc:
            status = exc.status
            response = JSONResponse(exc.body, status, exc.headers)
        except BrokenAnswerError as exc:
            broken = exc.kind
            status = 0 if broken in ("hang", "reset") else 200
            response = _broken(broken, exc.answer)
        response.headers.update(headers)
        about = ABOUT.search(await request.body())
        sandbox.record_call(
            endpoint.name,
            request.method,
            request.url.path,
            status,
            identity.kind if identity else "",
            broken,
            about[1].decode() if about else "",
        )
        return response

    return answer_call


def _broken(kind: str, answer: Json) -> Response:
    whole = json.dumps(answer)
    match kind:
        case "html":
            return HTMLResponse(ERROR_PAGE)
        case "truncated":
            return Response(whole[: len(whole) // 2], media_type="application/json")
        case "wrong_shape":
            other_types = {name: 0 if isinstance(value, str) else "x" for name, value in answer.items()}
            return JSONResponse(random.choice(([answer], {"items": "x"}, other_types)))
        case "hang":
            return _HungUp(whole, said=False, after_s=HANG_S)
        case _:
            return _HungUp(whole, said=random.random() < 0.5, after_s=0)


class _HungUp(Response):
    """The connection is reset after `after_s`; when `said`, in the middle of the answer."""

    def __init__(self, whole: str, *, said: bool, after_s: float) -> None:
        super().__init__(whole, media_type="application/json")
        self._said, self._after_s = said, after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._said:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            half = bytes(self.body[: len(self.body) // 2])
            await send({"type": "http.response.body", "body": half, "more_body": True})
        try:
            async with asyncio.timeout(self._after_s):
                await _gone(receive)
                return  # the client gave up
        except TimeoutError:
            pass
        if (connection := scope.get("connection")) is None:
            raise ConnectionResetError
        linger = struct.pack("ii", 1, 0)  # RST, not FIN
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.abort()
        await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(sandbox: Sandbox, endpoint: Endpoint, request: Request, identity: Identity | None) -> Json:
    switches, service = sandbox.switches, endpoint.service
    if switches.latency_s:
        await asyncio.sleep(switches.latency_s)
    if switches.outage:
        raise system_error(503)
    if endpoint.kind != OPEN:
        if identity is None:
            raise application_error(401, "UNAUTHENTICATED", "Missing or expired token")
        if wait_s := sandbox.over_rate_limit(identity):
            raise rate_limit_error(switches, wait_s)
        refused = service in switches.refuse_app_tokens if identity.kind == "APP" else service == "app"
        if refused:
            raise application_error(403, "PERMISSION_DENIED", "Missing permission")
    if status := switches.failing_groups.get(request.path_params.get("groupId", "").lower()):
        raise group_error(switches, status)
    failure = sandbox.unlucky()
    # What has no effect is answered first, so that there is something to break.
    early = isinstance(failure, int) or endpoint.kind == WRITE
    if failure and early and not switches.failures_after_effect:
        raise failure_error(switches, failure, NOTHING_SAID)
    community = sandbox.lagging() if endpoint.kind == QUERY else sandbox.community
    call = Call(sandbox, community, request.path_params, request.query_params, await _body(request))
    if endpoint.kind == WRITE:
        with sandbox.change(identity.actor if identity else None):
            answer = _checked(endpoint, call)
    else:
        answer = _checked(endpoint, call)
    if failure:
        raise failure_error(switches, failure, answer)
    return answer


async def _body(request: Request) -> Json:
    raw = await request.body()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as exc:
        raise validation_error(InvalidError("body", "is not JSON")) from exc
    if not isinstance(body, dict):
        raise validation_error(InvalidError("body", "is not an object"))
    return body


def _checked(endpoint: Endpoint, call: Call) -> Json:
    try:
        return endpoint.answer(call)
    except InvalidError as exc:
        if endpoint.service == "contacts_v4" and exc.code:
            raise application_error(400, exc.code, str(exc)) from exc
        raise validation_error(exc) from exc
    except UnknownError as exc:
        raise application_error(404, "NOT_FOUND", str(exc)) from exc
    except ConflictError as exc:
        raise application_error(409, "ALREADY_EXISTS", str(exc)) from exc
    except PreconditionError as exc:
        raise application_error(428, "FAILED_PRECONDITION", str(exc)) from exc
    except CommunityError as exc:
        raise application_error(400, "INVALID_ARGUMENT", str(exc)) from exc
