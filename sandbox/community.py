"""The truth behind the API: one site's people, consent and groups, and what happens when they change.

Pure and synchronous: no I/O, the clock is handed in. Changes that Wix reports leave an `Event`, collected
with `take_events`. Objects render themselves as Wix shows them; what may be seen by whom is up to the API.
"""

import json
import re
import secrets
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

GROUPS = "wix.social_groups.v2."
MAX_IDS = 100
TEXT_LIMITS = {"name": 100, "description": 20480, "teaser": 1000, "memberTitle": 1000, "slug": 100}
PRIVACY = ("PUBLIC", "PRIVATE", "SECRET")
SUBSCRIPTION_STATUSES = ("NOT_SET", "PENDING", "SUBSCRIBED", "UNSUBSCRIBED")
DELIVERABILITY_STATUSES = ("NOT_SET", "VALID", "BOUNCED", "SPAM_COMPLAINT", "INACTIVE")
SETTINGS = {
    "welcomeMemberPostEnabled": True,
    "groupDetailsChangedPostEnabled": True,
    "showMemberList": True,
    "membersCanInvite": True,
    "membersCanApprove": False,
    "allowedToInviteMembers": "ALL_MEMBERS",
    "allowedToApproveJoinRequests": "OWNER_AND_ADMINS",
    "aiSpamProtectionEnabled": True,
}


class CommunityError(Exception):
    """The change was refused, and nothing has changed."""


class UnknownError(CommunityError):
    """There is no such thing."""


class ConflictError(CommunityError):
    """The thing exists already, or is not in the state this needs."""


class PreconditionError(CommunityError):
    """Something else has to be done first."""


class InvalidError(CommunityError):
    """A value that no state of the community could accept."""

    def __init__(
        self, where: str, description: str, *, rule: str = "FORMAT", data: Json | None = None, code: str = ""
    ) -> None:
        super().__init__(f"{where} {description}")
        self.where, self.description, self.rule, self.code = where, description, rule, code
        self.data = data or {}


@dataclass(frozen=True)
class Event:
    """One event as Wix reports it: its type, the innermost data, and who caused it (None: legacy events)."""

    type: str
    data: Json = field(repr=False)
    identity: Json | None


@dataclass(repr=False)
class Contact:
    id: str
    first: str
    last: str
    emails: list[str]
    phone: str  # E.164, or empty
    language: str
    created: datetime
    updated: datetime
    revision: int = 3
    other_phones: list[str] = field(default_factory=list)

    @property
    def phones(self) -> list[str]:
        return [self.phone, *self.other_phones] if self.phone else self.other_phones


@dataclass(repr=False)
class Member:
    id: str
    contact: Contact
    email: str  # empty: nobody can log in or be written to
    nickname: str
    slug: str
    status: str  # PENDING, APPROVED, BLOCKED, OFFLINE
    privacy: str  # PUBLIC, PRIVATE
    created: datetime
    updated: datetime

    def wire(self) -> Json:
        """Everything (fieldset FULL)."""
        contact = self.contact
        return {
            "id": self.id,
            "contactId": contact.id,
            "profile": {"nickname": self.nickname, "slug": self.slug},
            "createdDate": seconds(self.created),
            "updatedDate": seconds(self.updated),
            **({"loginEmail": self.email, "loginEmailVerified": True} if self.email else {}),
            "status": self.status,
            "contact": {
                "firstName": contact.first,
                "lastName": contact.last,
                "phones": contact.phones,
                "emails": contact.emails,
                "addresses": [],
                "customFields": {},
            },
            "privacyStatus": self.privacy,
            "activityStatus": "ACTIVE",
            "lastLoginDate": seconds(self.updated),
        }


@dataclass(repr=False)
class Subscription:
    id: str
    email: str
    status: str
    deliverability: str
    created: datetime
    updated: datetime

    def wire(self) -> Json:
        return {
            "id": self.id,
            "email": self.email,
            "subscriptionStatus": self.status,
            "deliverabilityStatus": self.deliverability,
            "createdDate": milliseconds(self.created),
            "updatedDate": milliseconds(self.updated),
        }


@dataclass
class GroupMember:
    member_id: str
    role: str  # MEMBER, ADMIN
    joined: datetime

    def wire(self) -> Json:
        return {
            "memberId": self.member_id,
            "role": {"value": self.role},
            "joinedDate": seconds(self.joined),
        }


@dataclass
class JoinRequest:
    member_id: str
    contact_id: str
    status: str  # PENDING, APPROVED, REJECTED, CANCELED
    created: datetime
    reason: str = ""

    def wire(self) -> Json:
        details = {"rejectionReason": self.reason} if self.reason else {}
        return {
            "siteMemberId": self.member_id,
            "contactId": self.contact_id,
            "status": self.status,
            "requestDetails": details,
        }


@dataclass(frozen=True)
class Question:
    id: str
    text: str
    required: bool

    def wire(self) -> Json:
        return {"id": self.id, "required": self.required, "text": self.text}


@dataclass
class Group:
    id: str
    slug: str
    name: str
    privacy: str
    owner_id: str
    created: datetime
    updated: datetime
    last_activity: datetime | None  # None: nothing ever happened
    description: str = ""
    teaser: str = ""
    member_title: str = "Members"
    settings: Json = field(default_factory=lambda: dict(SETTINGS))
    members: dict[str, GroupMember] = field(default_factory=dict)
    invited: set[str] = field(default_factory=set)
    requests: dict[str, JoinRequest] = field(default_factory=dict)  # by member
    questions: list[Question] = field(default_factory=list)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)  # member -> question -> text
    rules: list[Json] = field(default_factory=list)

    def wire(self) -> Json:
        return {
            "id": self.id,
            "slug": self.slug,
            "privacyStatus": self.privacy,
            "name": self.name,
            "description": self.description,
            "memberTitle": self.member_title,
            "settings": dict(self.settings),
            "membersCount": len(self.members),
            "ownerId": self.owner_id,
            "createdDate": seconds(self.created),
            "updatedDate": seconds(self.updated),
            **({"lastActivityDate": seconds(self.last_activity)} if self.last_activity else {}),
            **({"teaser": self.teaser} if self.teaser else {}),
        }


@dataclass
class GroupRequest:
    group: Group  # the group there will be, under the request's own id
    status: str
    created: datetime
    reason: str = ""

    def wire(self) -> Json:
        details = {"rejectionReason": self.reason} if self.reason else {}
        group = {**self.group.wire(), "membersCount": 1}
        return {"id": self.group.id, "group": group, "status": self.status, "requestDetails": details}


@dataclass
class Site:
    name: str = "Example site"
    url: str = "https://www.example.com"
    locale: str = "en"
    app_id: str = "3f9f6a58-2d3c-4a4b-8f0e-6b1f2f7c9d20"
    instance_id: str = "7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11"
    site_id: str = "c0a5d1f4-9a7a-4c86-8d3e-5c1b2a7e6f31"
    account_id: str = "e4b2a6c8-0d1f-4e3a-9c5b-7a6d8f0e1b42"
    owner_id: str = "d9c8b7a6-5e4f-4d3c-8b2a-190f8e7d6c53"
    installed: bool = True

    def owner(self) -> Json:
        return {"identityType": "WIX_USER", "wixUserId": self.owner_id}


class Community:
    """One site. Methods are acts; those named after API methods take ids, check everything, then change."""

    def __init__(self, site: Site | None = None, *, now: Callable[[], datetime]) -> None:
        self.site = site or Site()
        self.contacts: dict[str, Contact] = {}
        self.members: dict[str, Member] = {}
        self.members_by_contact: dict[str, Member] = {}
        self.members_by_email: dict[str, Member] = {}  # in lower case
        self.subscriptions: dict[str, Subscription] = {}  # by address in lower case
        self.groups: dict[str, Group] = {}
        self.deleted_groups: dict[str, Group] = {}
        self.group_requests: dict[str, GroupRequest] = {}
        self.actor: Json = self.site.owner()  # whoever causes the coming changes
        self.self_service_events = False  # report joining, leaving and cancelling, which Wix does not publish
        self.unreported = False  # what happens now leaves no events
        self.now = now
        self._events: list[Event] = []
        self._sequence: Counter[str] = Counter()

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # People and consent

    def add_contact(
        self,
        first: str,
        last: str,
        *,
        email: str = "",
        phone: str = "",
        other_emails: Sequence[str] = (),
        other_phones: Sequence[str] = (),
        language: str = "en",
        contact_id: str = "",
        created: datetime | None = None,
    ) -> Contact:
        contact = Contact(
            id=self._new_id(contact_id, self.contacts, "contact"),
            first=first,
            last=last,
            emails=[*([email] if email else []), *other_emails],
            phone=phone,
            other_phones=list(other_phones),
            language=language,
            created=created or self.now(),
            updated=created or self.now(),
        )
        self.contacts[contact.id] = contact
        self._report("wix.contacts.v4.contact", "created", contact.id, entity=self.contact_v4(contact))
        return contact

    def add_member(
        self,
        contact: Contact,
        *,
        email: str,
        nickname: str = "",
        status: str = "APPROVED",
        privacy: str = "PUBLIC",
        member_id: str = "",
    ) -> Member:
        if email.lower() in self.members_by_email:
            raise ConflictError("a member with this loginEmail exists already")
        nickname = nickname or f"{contact.first} {contact.last}".strip()
        member = Member(
            id=self._new_id(member_id, self.members, "member"),
            contact=contact,
            email=email,
            nickname=nickname,
            slug=slug_of(nickname).replace("-", ""),
            status=status,
            privacy=privacy,
            created=contact.created,
            updated=contact.created,
        )
        self.members[member.id] = self.members_by_contact[contact.id] = member
        if email:
            self.members_by_email[email.lower()] = member
        self._report("wix.members.v1.member", "created", member.id, entity=member.wire())
        return member

    def update_member(
        self, member_id: str, *, status: str = "", privacy: str = "", nickname: str = ""
    ) -> None:
        member = self.member(member_id)
        member.status, member.privacy = status or member.status, privacy or member.privacy
        member.nickname, member.updated = nickname or member.nickname, self.now()
        self._report("wix.members.v1.member", "updated", member.id, current=member.wire())

    def delete_member(self, member_id: str, *, erase: bool = False) -> None:
        """Take a member out of the site. `erase`: on a privacy request, with the contact and the consent."""
        member = self.member(member_id)
        for group in self.groups.values():
            if member_id in group.members:
                self._remove(group, member_id, erasure=erase)
            group.requests.pop(member_id, None)
            group.answers.pop(member_id, None)
            group.invited.discard(member_id)
        del self.members[member_id], self.members_by_contact[member.contact.id]
        self.members_by_email.pop(member.email.lower(), None)
        self._report("wix.members.v1.member", "deleted", member_id, deleted={}, erasure=erase)
        if erase:
            del self.contacts[member.contact.id]
            for email in {member.email, *member.contact.emails}:
                self.subscriptions.pop(email.lower(), None)
            self._report("wix.contacts.v4.contact", "deleted", member.contact.id, deleted={}, erasure=True)

    def set_subscription(
        self, email: str, status: str = "", deliverability: str = "", *, subscription_id: str = ""
    ) -> Subscription:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
            raise InvalidError("subscription.email", "is not an email address", data={"expected": "EMAIL"})
        one_of("subscription.subscriptionStatus", status or "NOT_SET", SUBSCRIPTION_STATUSES)
        one_of("subscription.deliverabilityStatus", deliverability or "NOT_SET", DELIVERABILITY_STATUSES)
        now = self.now()
        fresh = Subscription(subscription_id or str(uuid.uuid4()), email, "NOT_SET", "NOT_SET", now, now)
        record = self.subscriptions.setdefault(email.lower(), fresh)
        record.status, record.updated = status or record.status, now
        record.deliverability = deliverability or record.deliverability
        if not self.unreported:
            self._events.append(
                Event(
                    "com.wixpress.emailsubscriptions.v1.EmailSubscriptionChanged",
                    {"subscription": record.wire()},
                    None,
                )
            )
        return record

    # Groups

    def create_group(
        self, fields: Json, *, creator_id: str = "", group_id: str = "", created: datetime | None = None
    ) -> Group:
        """A group of `fields` as on the wire; the creator becomes its owner and admin."""
        self._check_group_fields({"name": "", **fields})
        if creator_id:
            self.member(creator_id)
        now = created or self.now()
        group = Group(
            id=self._new_id(group_id, self.groups, "group"),
            slug="",
            name=fields["name"],
            privacy=fields.get("privacyStatus", "PUBLIC"),
            owner_id=creator_id or self.site.owner_id,
            created=now,
            updated=now,
            last_activity=now,
        )
        self._set_group_fields(group, fields)
        self._open_group(group)
        return group

    def update_group(self, group_id: str, fields: Json) -> Group:
        """Changes of `fields` as on the wire, with what follows from another name or privacy."""
        group = self.group(group_id)
        self._check_group_fields(fields)
        before, old_description = group.privacy, group.description
        renamed = "name" in fields and fields["name"] != group.name
        group.name = fields.get("name", group.name)
        group.privacy = fields.get("privacyStatus", group.privacy)
        if (renamed and group.privacy != "SECRET") or (group.privacy != before and group.privacy == "SECRET"):
            group.slug = ""
        self._set_group_fields(group, fields)
        group.updated = group.last_activity = self.now()
        self._report(GROUPS + "group", "updated", group.id, current=group.wire())
        if group.description != old_description:
            body = {"oldDescription": old_description, "newDescription": group.description}
            self._report(GROUPS + "group", "group_description_changed", group.id, body=body)
        pending = [request for request in group.requests.values() if request.status == "PENDING"]
        if before == "PRIVATE" and group.privacy == "PUBLIC":
            self._approve(group, pending)
        elif before == "PRIVATE" and group.privacy == "SECRET":
            self._reject(group, [(request, "") for request in pending])
        return group

    def delete_group(self, group_id: str) -> Group:
        group = self.group(group_id)
        self.deleted_groups[group_id] = self.groups.pop(group_id)
        self._report(GROUPS + "group", "deleted", group_id, deleted={})
        return group

    def set_questions(self, group_id: str, questions: Sequence[tuple[str, bool]]) -> list[Question]:
        """Replace all questions by (text, required) pairs. All get new ids; old answers keep the old ids."""
        group = self.group(group_id)
        at_most("questions", questions, 50)
        for text, _ in questions:
            text_within("questions.text", text, 300, minimum=1)
        group.questions = [Question(str(uuid.uuid4()), text, required) for text, required in questions]
        return group.questions

    def set_rules(self, group_id: str, rules: list[Json]) -> list[Json]:
        group = self.group(group_id)
        at_most("rules", rules, 100)
        group.rules = rules
        self._report(GROUPS + "group_rules", "updated", group_id, current={"rules": rules})
        return rules

    # Membership

    def add_group_members(
        self, group_id: str, member_ids: Sequence[str], *, invitations_accepted: bool = False
    ) -> list[GroupMember]:
        """An admin adds people. Private profiles are only invited and missing from the result."""
        group = self.group(group_id)
        members = self._members(member_ids)
        added = []
        for member in members:
            if member.id not in group.members:
                if member.privacy == "PRIVATE" and not invitations_accepted:
                    group.invited.add(member.id)
                    continue
                self._add(group, member.id)
            added.append(group.members[member.id])
        return added

    def remove_group_members(self, group_id: str, member_ids: Sequence[str]) -> None:
        """An admin takes people out; whoever is not in the group is passed over."""
        group = self.group(group_id)
        at_most("memberIds", member_ids, MAX_IDS)
        for member_id in dict.fromkeys(member_ids):
            if member_id in group.members:
                self._remove(group, member_id)

    def join(self, group_id: str, member_id: str) -> GroupMember:
        """Somebody joins a public group by themself: published by no event."""
        group, member = self.group(group_id), self.member(member_id)
        if group.privacy != "PUBLIC":
            raise PreconditionError(f"group {group.name!r} is {group.privacy}: one cannot simply join it")
        if member.id in group.members:
            raise ConflictError("is in the group already")
        joined = GroupMember(member.id, "MEMBER", self.now())
        group.members[member.id] = joined
        group.last_activity = joined.joined
        body = {"groupId": group.id, "groupMember": joined.wire()}
        self._report_self_service(member.id, "group_member", "joined", member.id, body)
        return joined

    def leave(self, group_id: str, member_id: str) -> None:
        """Somebody leaves by themself: published by no event."""
        group = self.group(group_id)
        if member_id not in group.members:
            raise UnknownError("is not in the group")
        left = group.members.pop(member_id)
        group.answers.pop(member_id, None)
        body = {"groupId": group.id, "groupMember": left.wire()}
        self._report_self_service(member_id, "group_member", "left", member_id, body)

    def request_join(self, group_id: str, member_id: str, answers: dict[str, str]) -> JoinRequest:
        """Somebody asks to join a private group. `answers` by question id or text."""
        group, member = self.group(group_id), self.member(member_id)
        if group.privacy != "PRIVATE":
            raise PreconditionError(f"group {group.name!r} is {group.privacy}: join requests are for PRIVATE")
        if member.id in group.members:
            raise ConflictError("is in the group already")
        if member.id in group.requests and group.requests[member.id].status == "PENDING":
            raise ConflictError("has asked already")
        given: dict[str, str] = {}
        for name, text in answers.items():
            question = next((q for q in group.questions if name in (q.id, q.text)), None)
            if question is None:
                raise InvalidError("answers", f"name no question of the group: {name!r}")
            text_within("answers", text, 300)
            given[question.id] = text
        for question in group.questions:
            if question.required and not given.get(question.id, "").strip():
                raise InvalidError(
                    "answers", f"lack the required question {question.text!r}", rule="REQUIRED"
                )
        request = JoinRequest(member.id, member.contact.id, "PENDING", self.now())
        group.requests[member.id] = request
        group.answers.pop(member.id, None)
        if given:
            group.answers[member.id] = given
        with self._acting(member.id):
            self._report(GROUPS + "join_group_request", "created", group.id, entity=request.wire())
        return request

    def cancel_request(self, group_id: str, member_id: str) -> JoinRequest:
        group = self.group(group_id)
        (request,) = self._pending(group, [member_id])
        request.status = "CANCELED"
        group.answers.pop(member_id, None)
        body = {"groupId": group.id, "joinGroupRequest": request.wire()}
        self._report_self_service(member_id, "join_group_request", "cancelled", group.id, body)
        return request

    def approve_join_requests(self, group_id: str, member_ids: Sequence[str]) -> list[JoinRequest]:
        group = self.group(group_id)
        return self._approve(group, self._pending(group, member_ids))

    def reject_join_requests(self, group_id: str, rejections: Sequence[tuple[str, str]]) -> list[JoinRequest]:
        group = self.group(group_id)
        for _, reason in rejections:
            text_within("rejections.reason", reason, 1000)
        requests = self._pending(group, [member_id for member_id, _ in rejections], name="rejections")
        reasons = dict(rejections)
        return self._reject(group, [(request, reasons[request.member_id]) for request in requests])

    def assign_role(self, group_id: str, member_ids: Sequence[str], role: str) -> None:
        group = self.group(group_id)
        for member in self._in_group(group, member_ids):
            if member.role != role:
                member.role = role
                self._report_role(group, member, role, "assigned")

    def unassign_role(self, group_id: str, member_ids: Sequence[str], role: str) -> None:
        group = self.group(group_id)
        one_of("role.value", role, ("ADMIN",))
        members = self._in_group(group, member_ids)
        if any(member.role != role for member in members):
            raise PreconditionError("a member does not have this role")
        for member in members:
            member.role = "MEMBER"
            self._report_role(group, member, role, "unassigned")

    # Requests for whole groups

    def request_group(self, member_id: str, fields: Json, *, request_id: str = "") -> GroupRequest:
        """A member who may not open groups asks for one."""
        member = self.member(member_id)
        self._check_group_fields({"name": "", **fields})
        now, privacy = self.now(), fields.get("privacyStatus", "PUBLIC")
        new_id = self._new_id(request_id, self.groups | self.group_requests, "group request")
        group = Group(new_id, "", fields["name"], privacy, member.id, now, now, now)
        self._set_group_fields(group, fields)
        request = self.group_requests[new_id] = GroupRequest(group, "PENDING", now)
        with self._acting(member.id):
            self._report(GROUPS + "group_request", "created", new_id, entity=request.wire())
        return request

    def approve_group_requests(self, request_ids: Sequence[str]) -> list[GroupRequest]:
        requests = self._pending_group_requests(request_ids, "groupRequestIds")
        for request in requests:
            request.status = "APPROVED"
            body = {"groupRequest": request.wire()}
            self._report(GROUPS + "group_request", "approved", request.group.id, body=body)
            self._open_group(request.group)
        return requests

    def reject_group_requests(self, rejections: Sequence[tuple[str, str]]) -> list[GroupRequest]:
        for _, reason in rejections:
            text_within("rejections.reason", reason, 1000)
        reasons = dict(rejections)
        requests = self._pending_group_requests(list(reasons), "rejections")
        for request in requests:
            request.status, request.reason = "REJECTED", reasons[request.group.id]
            body = {"groupRequest": request.wire()}
            self._report(GROUPS + "group_request", "rejected", request.group.id, body=body)
        return requests

    # The app

    def install_app(self) -> None:
        self.site.installed = True
        self._events.append(Event("AppInstalled", {"appId": self.site.app_id}, None))

    def remove_app(self) -> None:
        self.site.installed = False
        self._events.append(Event("AppRemoved", {"appId": self.site.app_id}, None))

    # Looking things up

    def group(self, group_id: str) -> Group:
        if group_id not in self.groups:
            raise UnknownError("Group not found")
        return self.groups[group_id]

    def member(self, member_id: str) -> Member:
        if member_id not in self.members:
            raise UnknownError("Member not found")
        return self.members[member_id]

    def subscription_of(self, email: str) -> Subscription | None:
        return self.subscriptions.get(email.lower())

    def memberships_of(self, member_id: str) -> list[tuple[str, str, str]]:
        """(group id, JOINED or PENDING, role or empty), highest group id first."""
        rows = []
        for group in self.groups.values():
            if member_id in group.members:
                rows.append((group.id, "JOINED", group.members[member_id].role))
            elif member_id in group.requests and group.requests[member_id].status == "PENDING":
                rows.append((group.id, "PENDING", ""))
        return sorted(rows, reverse=True)

    # Contacts as the two APIs show them

    def contact_v4(self, contact: Contact) -> Json:
        email = contact.emails[0] if contact.emails else ""
        record = self.subscription_of(email)
        consent = {
            "subscriptionStatus": record.status if record else "NO_SUBSCRIPTION_STATUS",
            "deliverabilityStatus": record.deliverability if record else "NOT_SET",
        }
        member = self.members_by_contact.get(contact.id)
        number = phone_parts(contact.phone)
        extended = {"members.membershipStatus": member.status} if member else {}
        if email:
            extended |= {f"emailSubscriptions.{name}": value for name, value in consent.items()}
            extended["emailSubscriptions.effectiveEmail"] = email
        not_set = {"subscriptionStatus": "NOT_SET", "deliverabilityStatus": "NOT_SET"}
        emails = [
            {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, e)), "tag": "MAIN", "email": e, "primary": e == email}
            for e in contact.emails
        ]
        phones = [
            {
                "id": str(uuid.uuid5(uuid.NAMESPACE_URL, phone)),
                "tag": "MOBILE",
                **{key: value for key, value in phone_parts(phone).items() if key != "formattedPhone"},
                "primary": phone == contact.phone,
            }
            for phone in contact.phones
        ]
        return {
            "id": contact.id,
            "revision": contact.revision,
            "source": {"sourceType": "OTHER"},
            "createdDate": milliseconds(contact.created),
            "updatedDate": milliseconds(contact.updated),
            "lastActivity": {
                "activityDate": milliseconds(contact.updated),
                "activityType": "MEMBER_LOGIN" if member else "CONTACT_CREATED",
            },
            "primaryInfo": {
                **({"email": email} if email else {}),
                **({"phone": number["phone"]} if number else {}),
            },
            **({"primaryEmail": {"email": email, **consent}} if email else {}),
            **({"primaryPhone": {**number, **not_set}} if number else {}),
            "info": {
                "name": {"first": contact.first, "last": contact.last},
                "emails": {"items": emails},
                "phones": {"items": phones},
                "locale": contact.language,
                "labelKeys": {"items": ["contacts.customers"]},
                "extendedFields": {"items": extended},
            },
        }

    def contact_v5(self, contact: Contact) -> Json:
        email = contact.emails[0] if contact.emails else ""
        record = self.subscription_of(email)
        member = self.members_by_contact.get(contact.id)
        wire: Json = {
            "id": contact.id,
            "revision": str(contact.revision + 1),
            "createdDate": seconds(contact.created),
            "updatedDate": seconds(contact.updated),
            "name": {"first": contact.first, "last": contact.last},
            "additionalEmails": contact.emails[1:],
        }
        if email:
            wire["email"] = {
                "email": email.strip().lower(),
                "subscriptionStatus": {
                    "status": record.status if record else "NOT_SET",
                    "updatedDate": seconds(record.updated if record else contact.updated),
                },
                "deliverabilityStatus": record.deliverability if record else "NOT_SET",
            }
        phones = [
            {"tag": "MOBILE", "phone": parts["formattedPhone"], "e164": parts["e164Phone"]}
            for parts in map(phone_parts, contact.phones)
        ]
        if contact.phone:
            wire["phone"] = phones.pop(0)
        wire["additionalPhones"] = phones
        if member:
            wire["memberInfo"] = {
                "memberId": member.id,
                "signupDate": seconds(member.created),
                **({"email": member.email, "emailVerified": True} if member.email else {}),
                "status": "ACTIVE" if member.status == "APPROVED" else member.status,
                "profileInfo": {"nickname": member.nickname, "privacyStatus": member.privacy},
            }
        return wire

    # Steps several acts share

    def _add(self, group: Group, member_id: str) -> None:
        group.members[member_id] = GroupMember(member_id, "MEMBER", self.now())
        group.invited.discard(member_id)
        group.last_activity = self.now()
        body = {"groupId": group.id, "groupMember": group.members[member_id].wire()}
        self._report(GROUPS + "group_member", "added", member_id, body=body)

    def _remove(self, group: Group, member_id: str, *, erasure: bool = False) -> None:
        body = {"groupId": group.id, "groupMember": group.members.pop(member_id).wire()}
        group.answers.pop(member_id, None)
        self._report(GROUPS + "group_member", "removed", member_id, body=body, erasure=erasure)

    def _approve(self, group: Group, requests: list[JoinRequest]) -> list[JoinRequest]:
        for request in requests:
            request.status = "APPROVED"
            body = {"groupId": group.id, "joinGroupRequest": request.wire()}
            self._report(GROUPS + "join_group_request", "approved", group.id, body=body)
            self._add(group, request.member_id)
        return requests

    def _reject(self, group: Group, rejections: Sequence[tuple[JoinRequest, str]]) -> list[JoinRequest]:
        for request, reason in rejections:
            request.status, request.reason = "REJECTED", reason
            group.answers.pop(request.member_id, None)
            body = {"groupId": group.id, "joinGroupRequest": request.wire()}
            self._report(GROUPS + "join_group_request", "rejected", group.id, body=body)
        return [request for request, _ in rejections]

    def _pending(
        self, group: Group, member_ids: Sequence[str], *, name: str = "memberIds"
    ) -> list[JoinRequest]:
        at_most(name, member_ids, MAX_IDS)
        if missing := [i for i in member_ids if i not in group.requests]:
            raise UnknownError(f"Join request not found: {missing[0]}")
        requests = [group.requests[member_id] for member_id in dict.fromkeys(member_ids)]
        if decided := [request for request in requests if request.status != "PENDING"]:
            raise ConflictError(f"Join request of {decided[0].member_id} is {decided[0].status}")
        return requests

    def _pending_group_requests(self, request_ids: Sequence[str], name: str) -> list[GroupRequest]:
        at_most(name, request_ids, MAX_IDS)
        if missing := [i for i in request_ids if i not in self.group_requests]:
            raise UnknownError(f"Group request not found: {missing[0]}")
        requests = [self.group_requests[request_id] for request_id in dict.fromkeys(request_ids)]
        if decided := [request for request in requests if request.status != "PENDING"]:
            raise ConflictError(f"Group request {decided[0].group.id} is {decided[0].status}")
        return requests

    def _in_group(self, group: Group, member_ids: Sequence[str]) -> list[GroupMember]:
        at_most("memberIds", member_ids, MAX_IDS)
        if missing := [i for i in member_ids if i not in group.members]:
            raise UnknownError(f"Group member not found: {missing[0]}")
        return [group.members[member_id] for member_id in dict.fromkeys(member_ids)]

    def _members(self, member_ids: Sequence[str]) -> list[Member]:
        at_most("memberIds", member_ids, MAX_IDS)
        if missing := [i for i in member_ids if i not in self.members]:
            raise UnknownError(f"Member not found: {missing[0]}")
        return [self.members[member_id] for member_id in dict.fromkeys(member_ids)]

    def _open_group(self, group: Group) -> None:
        self.groups[group.id] = group
        if group.owner_id in self.members:
            group.members[group.owner_id] = GroupMember(group.owner_id, "ADMIN", group.created)
        self._report(GROUPS + "group", "created", group.id, entity=group.wire())

    def _check_group_fields(self, fields: Json) -> None:
        for name, maximum in TEXT_LIMITS.items():
            if name in fields:
                minimum = 1 if name in {"name", "memberTitle", "slug"} else 0
                text_within(f"group.{name}", fields[name], maximum, minimum=minimum)
        if "privacyStatus" in fields:
            one_of("group.privacyStatus", fields["privacyStatus"], PRIVACY)
        if not isinstance(fields.get("settings", {}), dict):
            raise InvalidError("group.settings", "must be an object")

    def _set_group_fields(self, group: Group, fields: Json) -> None:
        group.description = fields.get("description", group.description)
        group.teaser = fields.get("teaser", group.teaser)
        group.member_title = fields.get("memberTitle", group.member_title)
        group.settings |= fields.get("settings", {})
        taken = {other.slug for other in self.groups.values() if other is not group}
        group.slug = fields.get("slug", group.slug)
        while not group.slug or group.slug in taken:
            stem = "" if group.privacy == "SECRET" else slug_of(group.name)
            extra = "" if stem and stem not in taken else secrets.token_urlsafe(6)[:6]
            group.slug = "-".join(part for part in (stem, extra) if part)

    def _report_role(self, group: Group, member: GroupMember, role: str, slug: str) -> None:
        body: Json = {"groupId": group.id, "groupMember": member.wire(), "role": {"value": role}}
        if user := self.actor.get("wixUserId"):
            body[f"{slug}ById"] = user
        self._report(GROUPS + "group_role", slug, member.member_id, body=body)

    def _report_self_service(self, member_id: str, what: str, slug: str, entity_id: str, body: Json) -> None:
        if self.self_service_events:
            with self._acting(member_id):
                self._report(GROUPS + what, slug, entity_id, body=body)

    def _acting(self, member_id: str) -> "_Acting":
        return _Acting(self, {"identityType": "MEMBER", "memberId": member_id})

    def _report(
        self,
        fqdn: str,
        slug: str,
        entity_id: str,
        *,
        entity: Json | None = None,
        current: Json | None = None,
        body: Json | None = None,
        deleted: Json | None = None,
        erasure: bool = False,
    ) -> None:
        if self.unreported:
            return
        if entity is not None:
            content: Json = {"createdEvent": {"entity": entity}}
        elif current is not None:
            content = {"updatedEvent": {"currentEntity": current}}
        else:
            content = {"actionEvent": {"body": body}} if body is not None else {"deletedEvent": deleted}
        self._sequence[entity_id] += 1
        data = {
            "id": str(uuid.uuid4()),
            "entityFqdn": fqdn,
            "slug": slug,
            "entityId": entity_id,
            **json.loads(json.dumps(content)),  # the state of this moment: later changes must not show
            "eventTime": self.now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "triggeredByAnonymizeRequest": erasure,
            "entityEventSequence": str(self._sequence[entity_id]),
        }
        self._events.append(Event(f"{fqdn}_{slug}", data, self.actor))

    def _new_id(self, wanted: str, taken: Container[str], what: str) -> str:
        if wanted and wanted in taken:
            raise ConflictError(f"{what} {wanted} exists already")
        return wanted or str(uuid.uuid4())


class _Acting:
    """For a moment, somebody else causes what happens."""

    def __init__(self, community: Community, identity: Json) -> None:
        self.community, self.identity = community, identity

    def __enter__(self) -> None:
        self.community.actor, self.identity = self.identity, self.community.actor

    def __exit__(self, *_: object) -> None:
        self.community.actor, self.identity = self.identity, self.community.actor


def at_most(name: str, items: Sequence[Any], maximum: int) -> None:
    if len(items) > maximum:
        raise InvalidError(
            name,
            f"has size {len(items)}, expected {maximum} or less",
            rule="MAX_SIZE",
            data={"threshold": maximum},
        )


def text_within(name: str, text: Any, maximum: int, *, minimum: int = 0) -> None:
    if not isinstance(text, str):
        raise InvalidError(name, "must be a string")
    if len(text) > maximum:
        raise InvalidError(
            name, f"has length {len(text)}, at most {maximum}", rule="MAX", data={"threshold": maximum}
        )
    if len(text) < minimum:
        raise InvalidError(name, "must not be empty", rule="MIN", data={"threshold": minimum})


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidError(name, f"must be one of {', '.join(choices)}", data={"expected": list(choices)})


def slug_of(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:90]


def phone_parts(e164: str) -> dict[str, str]:
    """The spellings of one number; only North American ones are taken apart."""
    if not e164:
        return {}
    if re.fullmatch(r"\+1\d{10}", e164):
        area, exchange, line = e164[2:5], e164[5:8], e164[8:]
        shown = f"+1 {area}-{exchange}-{line}"
        return {"countryCode": "US", "phone": e164[2:], "e164Phone": e164, "formattedPhone": shown}
    return {"phone": e164, "e164Phone": e164, "formattedPhone": e164}


def seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
