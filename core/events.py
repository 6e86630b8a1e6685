"""A delivery from Wix, opened layer by layer into an Event; tolerant of the old and the new names.

A verified token's claims hold `data`, a JSON text A with `eventType`, `instanceId` and `data`; that again is a
JSON text B, the event itself. `identity` inside A is not needed and not kept. Wix's words end in this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NewType, NoReturn

import msgspec

from core.community import LONGEST_ID, GroupId, MemberId, SiteId, Subscription, is_plain
from core.errors import MalformedEventError

EventId = NewType("EventId", str)

MEMBER_ADDED = "member_added"
MEMBER_JOINED = "member_joined"
MEMBER_REMOVED = "member_removed"
MEMBER_LEFT = "member_left"
ROLE_ASSIGNED = "role_assigned"
JOIN_REQUESTED = "join_requested"
JOIN_APPROVED = "join_approved"
JOIN_REJECTED = "join_rejected"
JOIN_CANCELED = "join_canceled"
GROUP_DELETED = "group_deleted"
RULES_UPDATED = "group_rules_updated"
MEMBER_DELETED = "member_deleted"
CONTACT_CREATED = "contact_created"
CONTACT_UPDATED = "contact_updated"
CONTACT_MERGED = "contact_merged"
CONTACT_DELETED = "contact_deleted"
SUBSCRIPTION_CHANGED = "subscription_changed"
APP_INSTALLED = "app_installed"
APP_REMOVED = "app_removed"

_TYPES = {
    "wix.social_groups.v2.group_member_added": MEMBER_ADDED,
    "wix.social_groups.v2.group_member_joined": MEMBER_JOINED,
    "wix.social_groups.v2.group_member_removed": MEMBER_REMOVED,
    "wix.social_groups.v2.group_member_left": MEMBER_LEFT,
    "wix.social_groups.v2.group_role_assigned": ROLE_ASSIGNED,
    "wix.social_groups.v2.join_group_request_created": JOIN_REQUESTED,
    "wix.social_groups.v2.join_group_request_approved": JOIN_APPROVED,
    "wix.social_groups.v2.join_group_request_rejected": JOIN_REJECTED,
    "wix.social_groups.v2.join_group_request_cancelled": JOIN_CANCELED,
    "wix.social_groups.v2.join_group_request_canceled": JOIN_CANCELED,
    "wix.social_groups.v2.group_deleted": GROUP_DELETED,
    "wix.social_groups.v2.group_rules_updated": RULES_UPDATED,
    "wix.members.v1.member_deleted": MEMBER_DELETED,
    "wix.contacts.v4.contact_created": CONTACT_CREATED,
    "wix.contacts.v4.contact_updated": CONTACT_UPDATED,
    "wix.contacts.v4.contact_merged": CONTACT_MERGED,
    "wix.contacts.v4.contact_deleted": CONTACT_DELETED,
    "com.wixpress.emailsubscriptions.v1.EmailSubscriptionChanged": SUBSCRIPTION_CHANGED,
    "AppInstalled": APP_INSTALLED,
    "AppRemoved": APP_REMOVED,
}

ABOUT_ADDRESSES = frozenset(
    {CONTACT_CREATED, CONTACT_UPDATED, CONTACT_MERGED, CONTACT_DELETED, SUBSCRIPTION_CHANGED}
)
"""Types that name a person by address. It becomes keyed hashes before the event leaves this module, and even these are
not kept once the event is done."""

_LONGEST_TYPE = 200
_LONGEST_ADDRESS = 320
_MOST_ADDRESSES = 20


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at Wix, as far as the journal needs to know it.

    `type` is one of the names above, or Wix's own string for a type nobody here listens to. `id` is Wix's
    event id, or for legacy events without one a hash of site, type and data. `payload` is the JSON text B, or what
    is kept of it.
    `erasure`: a privacy request set this off; the person is to be forgotten.
    """

    id: EventId
    site: SiteId
    type: str
    occurred_at: datetime
    payload: str = field(repr=False)
    erasure: bool = False
    found: bool = False
    """Nobody told of it: it was found in Wix's lists (core.reconciliation)."""


@dataclass(frozen=True, slots=True)
class Details:
    """Who and where, read from an event's payload; None where this type of event does not say."""

    group: GroupId | None = None
    member: MemberId | None = None
    joined_at: datetime | None = None
    role: str = ""
    reason: str = field(default="", repr=False)
    """Why a request was declined, as the person was told."""
    asked_after: datetime | None = None
    """Of a request that was found: it was made after this, and before the event's own time."""
    address_hashes: tuple[str, ...] = ()
    """Of the address that `subscription` is about; of an erasure those of all addresses that were named."""
    subscription: Subscription | None = None
    """What Wix says of that address. "" for what it did not say."""
    changed_at: datetime | None = None
    """When Wix changed that, by its own clock; None for a contact, whose time is that of any change."""


def open_delivery(
    claims: Mapping[str, Any],
    received_at: datetime,
    hash_address: Callable[[str], Sequence[str]] = lambda _: (),
) -> Event:
    """Read the claims of a verified token.

    `hash_address` gives the hashes that stand for an address from here on; without it addresses are dropped.
    Raises MalformedEventError when a layer is missing, is no JSON, or is of the wrong kind. The time is
    the event's own, else the token's `iat`, else `received_at`.
    """
    outer = parse_object(claims.get("data"), "data")
    wire_type = _text(outer.get("eventType"), "eventType", _LONGEST_TYPE)
    site = SiteId(_text(outer.get("instanceId"), "instanceId", LONGEST_ID))
    payload = outer.get("data")
    if isinstance(payload, dict):  # instead of a text: not seen, harmless to read
        try:
            payload = json.dumps(payload)
        except RecursionError as exc:
            raise MalformedEventError("data.data is nested too deeply") from exc
    if not isinstance(payload, str):
        raise MalformedEventError("data.data is not a text")
    head = _head_of(payload)
    try:
        payload.encode()
    except UnicodeEncodeError as exc:
        raise MalformedEventError("data.data is no Unicode text") from exc
    event_type = _TYPES.get(wire_type, wire_type)
    event_id = head.id
    erasure = head.triggered_by_anonymize_request is True
    kept = payload
    if event_type in ABOUT_ADDRESSES:
        # A hash without a key, such as an id made of the whole payload, would give an address away to who guesses it.
        inner = parse_object(payload, "data.data")
        kept = payload = _without_addresses(event_type, inner, erasure, hash_address)
    elif erasure:
        kept = _ids_only(parse_object(payload, "data.data"))
    if event_type in (APP_INSTALLED, APP_REMOVED, SUBSCRIPTION_CHANGED):
        # Removing the app twice reads the same both times, and changing one's mind may; only the token's own time
        # tells them apart.
        issued_at = _epoch_time(claims.get("iat"))
        event_id = _hash_id(site, wire_type, payload, issued_at.isoformat() if issued_at else "")
    elif not is_plain(event_id, LONGEST_ID):
        event_id = _hash_id(site, wire_type, payload)
    return Event(
        id=EventId(event_id),
        site=site,
        type=event_type,
        # A clock that is ahead of ours must not plan letters into the future.
        occurred_at=min(
            parse_time(head.event_time) or _epoch_time(claims.get("iat")) or received_at, received_at
        ).astimezone(UTC),
        payload=kept,
        erasure=erasure,
    )


def read_details(event: Event) -> Details:
    """Read who and where from a payload of either naming generation.

    Raises MalformedEventError when the payload is no JSON object. A missing name is None, not an error:
    what a reaction needs, it asks for.
    """
    inner = parse_object(event.payload, "payload")
    if event.type in ABOUT_ADDRESSES:
        return _details_of_address(inner)
    entity_id = inner.get("entityId")
    body = _body(inner)
    person = _object(body.get("groupMember")) or _object(body.get("joinGroupRequest")) or body
    member = person.get("memberId") or person.get("siteMemberId")
    group = body.get("groupId")
    if event.type in (
        JOIN_REQUESTED,
        JOIN_APPROVED,
        JOIN_REJECTED,
        JOIN_CANCELED,
        GROUP_DELETED,
        RULES_UPDATED,
    ):
        # The entity of a new request, and of rules, holds no group: entityId is the group's (wix/webhooks.md, 3).
        group = group or entity_id
    if event.type == MEMBER_DELETED or event.type.startswith("wix.members.v1.member_"):
        member = member or entity_id
    role = (_object(body.get("role")) or _object(person.get("role"))).get("value")
    reason = _object(person.get("requestDetails")).get("rejectionReason")
    return Details(
        group=GroupId(group) if is_plain(group, LONGEST_ID) else None,
        member=MemberId(member) if is_plain(member, LONGEST_ID) else None,
        joined_at=parse_time(person.get("joinedDate")),
        role=role if is_plain(role, LONGEST_ID) else "",
        reason=_storable(reason) if isinstance(reason, str) else "",
        asked_after=parse_time(inner.get("askedAfter")) if event.found else None,
    )


def parse_time(value: object) -> datetime | None:
    """An ISO 8601 time as Wix writes it (with or without fraction, `Z` or offset), in UTC; None when it is none.

    Years that no event can be of are none either: others' "never" is often the year 1.
    """
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        parsed = datetime.fromisoformat(value)
        return _plausible(parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _plausible(time: datetime) -> datetime | None:
    return time if 2000 <= time.year < 2200 else None


def _ids_only(inner: Mapping[str, Any]) -> str:
    """What is left of a payload that tells to forget somebody: whom, and where."""
    body = _body(inner)
    person = _object(body.get("groupMember")) or _object(body.get("joinGroupRequest")) or body
    ids = {"groupId": body.get("groupId"), **{key: person.get(key) for key in ("memberId", "siteMemberId")}}
    kept = {key: value for key, value in ids.items() if is_plain(value, LONGEST_ID)}
    entity_id = inner.get("entityId")
    return json.dumps(
        {
            **({"entityId": entity_id} if is_plain(entity_id, LONGEST_ID) else {}),
            "actionEvent": {"body": kept},
        }
    )


def _without_addresses(
    event_type: str, inner: Mapping[str, Any], erasure: bool, hash_address: Callable[[str], Sequence[str]]
) -> str:
    """What is kept of an event that names somebody by address: its hashes, and what was said of it."""
    contact = _body(inner)
    if event_type == SUBSCRIPTION_CHANGED:
        said = _object(inner.get("subscription"))
    else:
        contact = _object(contact.get("targetContact")) or contact
        said = _object(contact.get("primaryEmail"))
    addresses = [said.get("email"), *(_all_addresses(contact) if erasure else ())]
    hashes = [
        known
        for address in dict.fromkeys(filter(_is_address, addresses[:_MOST_ADDRESSES]))
        for known in hash_address(address)
    ]
    kept = {
        "addressHashes": hashes,
        "subscriptionStatus": said.get("subscriptionStatus"),
        "deliverabilityStatus": said.get("deliverabilityStatus"),
        "updatedDate": said.get("updatedDate"),
    }
    return json.dumps(
        {key: value for key, value in kept.items() if key == "addressHashes" or is_plain(value, 64)}
    )


def _details_of_address(kept: Mapping[str, Any]) -> Details:
    """Reads what _without_addresses wrote."""
    hashes = kept.get("addressHashes")
    return Details(
        address_hashes=tuple(hashes) if isinstance(hashes, list) else (),
        subscription=Subscription(
            str(kept.get("subscriptionStatus", "")), str(kept.get("deliverabilityStatus", ""))
        ),
        changed_at=parse_time(kept.get("updatedDate")),
    )


def _all_addresses(contact: Mapping[str, Any]) -> Iterator[object]:
    yield _object(contact.get("primaryInfo")).get("email")
    items = _object(_object(contact.get("info")).get("emails")).get("items")
    for item in items if isinstance(items, list) else ():
        yield _object(item).get("email")


def _is_address(value: object) -> bool:
    return isinstance(value, str) and "@" in value and len(value) <= _LONGEST_ADDRESS


def _body(inner: Mapping[str, Any]) -> dict[str, Any]:
    """The container of any of the four kinds, new name or `…AsJson`, an object or once more a JSON text."""
    for container, key in (
        ("actionEvent", "body"),
        ("createdEvent", "entity"),
        ("updatedEvent", "currentEntity"),
        ("deletedEvent", "deletedEntity"),
    ):
        holder = _object(inner.get(container))
        for name in (key, f"{key}AsJson"):
            if found := _object(holder.get(name)):
                return found
    return {}


def _object(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def parse_object(value: object, name: str) -> dict[str, Any]:
    """Read a JSON text that has to be an object; `name` is what the error calls it. Raises MalformedEventError."""
    if not isinstance(value, str):
        raise MalformedEventError(f"{name} is not a text")
    try:
        parsed = _QUICK_JSON.decode(value)
    except (ValueError, RecursionError):
        # Stricter than Python's, which is four times slower and has the last word: half a character, 1e400.
        try:
            parsed = _STRICT_JSON.decode(value)
        except (ValueError, RecursionError) as exc:  # ValueError: also a number of more than 4300 digits
            raise MalformedEventError(f"{name} is not JSON") from exc
    if not isinstance(parsed, dict):
        raise MalformedEventError(f"{name} is not a JSON object")
    return parsed


class _Head(msgspec.Struct, rename="camel"):
    """What the door looks at. The rest of the object is checked, but not made."""

    id: Any = None
    event_time: Any = None
    triggered_by_anonymize_request: Any = None


def _head_of(payload: str) -> _Head:
    if len(payload) <= _TOO_SHORT_TO_HARM:
        with contextlib.suppress(ValueError, RecursionError):  # or is it only half a character?
            return _QUICK_HEAD.decode(payload)
    inner = parse_object(payload, "data.data")
    return _Head(*map(inner.get, _Head.__struct_encode_fields__))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_TOO_SHORT_TO_HARM = 4000  # characters; a number that is not made may have more digits than Python would read
_QUICK_HEAD = msgspec.json.Decoder(_Head)
_QUICK_JSON = msgspec.json.Decoder()
_STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant)  # by default Python lets NaN and Infinity in


def _hash_id(*parts: str) -> str:
    return "sha256-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _storable(text: str) -> str:
    """Without what JSON can say but UTF-8 or a database cannot: lone surrogates, NUL."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _text(value: object, name: str, longest: int) -> str:
    if not is_plain(value, longest):
        raise MalformedEventError(f"{name} is missing or not a plain text of at most {longest} characters")
    return value


def _epoch_time(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return _plausible(datetime.fromtimestamp(value, UTC))
    except (ValueError, OverflowError, OSError):
        return None
