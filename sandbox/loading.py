"""A community from JSON (the shape is in README.md)."""

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sandbox.community import (
    DELIVERABILITY_STATUSES,
    PRIVACY,
    SUBSCRIPTION_STATUSES,
    Community,
    CommunityError,
    Contact,
    Group,
    GroupMember,
    JoinRequest,
    Member,
    Question,
    Site,
)
from sandbox.reading import InputError, Reader, answers_of

DEFAULT_COMMUNITY = Path(__file__).with_name("community.json")
MEMBER_STATUSES = ("PENDING", "APPROVED", "BLOCKED", "OFFLINE")
UNHEARD_OF = "SOMETHING_NEW"
"""Stands for whatever Wix may come to say of a subscription."""
NEVER = "never"
REQUEST_STATUSES = ("PENDING", "APPROVED", "REJECTED", "CANCELED")


def read_community(path: Path, *, now: Callable[[], datetime]) -> Community:
    """`InputError` for a file that is not a community, `OSError` for one that cannot be read."""
    try:
        return load_community(json.loads(path.read_text(encoding="utf-8")), now=now)
    except ValueError as exc:
        raise InputError(f"{path}: {exc}") from exc


def load_community(data: Any, *, now: Callable[[], datetime]) -> Community:
    """Loading is not happening: it leaves no events. Without an id, the same name gets the same id again."""
    reader = Reader(data, "community")
    community = Community(_read_site(Reader(reader.mapping("site"), "site")), now=now)
    community.unreported = True
    past = now() - timedelta(days=90)
    try:
        for row in reader.rows("members"):
            _load_member(community, row, past)
        for row in reader.rows("contacts"):
            _load_contact(community, row, past, row.text("email", ""), row.guid("id"), "contact")
            row.end()
        for row in reader.rows("groups"):
            _load_group(community, row, past)
        for email, value in reader.mapping("subscriptions").items():
            _load_subscription(community, email, value)
        named: dict[str, Group] = {}
        for index, row in enumerate(reader.rows("memberships")):
            _load_membership(community, row, past + timedelta(minutes=index), named)
        for group in community.groups.values():  # in the order of joining, which lists then need not make
            group.members = dict(sorted(group.members.items(), key=lambda item: item[1].joined))
        for row in reader.rows("join_requests"):
            _load_join_request(community, row)
        for row in reader.rows("group_requests"):
            fields = {"name": row.text("name"), "privacyStatus": row.choice("privacy", PRIVACY, "PUBLIC")}
            member = find_member(community, row.text("member"), row.where)
            community.request_group(member.id, fields, request_id=row.guid("id"))
            row.end()
    except CommunityError as exc:
        raise InputError(f"community: {exc}") from exc
    reader.end()
    community.unreported = False
    return community


def find_group(community: Community, ref: str, where: str) -> Group:
    """A group by id, or by a name that only one group has."""
    if ref in community.groups:
        return community.groups[ref]
    named = [group for group in community.groups.values() if group.name == ref]
    if len(named) != 1:
        raise InputError(f"{where}: {'no group' if not named else 'more than one group'} {ref!r}")
    return named[0]


def find_member(community: Community, ref: str, where: str) -> Member:
    """A member by id, address, or a nickname that only one member has."""
    if ref in community.members:
        return community.members[ref]
    if ref.lower() in community.members_by_email:
        return community.members_by_email[ref.lower()]
    named = [member for member in community.members.values() if member.nickname == ref]
    if len(named) != 1:
        raise InputError(f"{where}: {'no member' if not named else 'more than one member'} {ref!r}")
    return named[0]


def _read_site(reader: Reader) -> Site:
    plain = Site()
    site = Site(
        name=reader.text("name", plain.name),
        url=reader.text("url", plain.url),
        locale=reader.text("language", plain.locale),
        app_id=reader.guid("app_id") or plain.app_id,
        instance_id=reader.guid("instance_id") or plain.instance_id,
        site_id=reader.guid("site_id") or plain.site_id,
    )
    reader.end()
    return site


def _load_contact(
    community: Community, row: Reader, past: datetime, email: str, contact_id: str, what: str
) -> Contact:
    first, last = row.text("first", ""), row.text("last", "")
    same = f"{email}/{first}/{last}/{row.text('phone', '')}"
    return community.add_contact(
        first,
        last,
        email=email,
        phone=row.text("phone", ""),
        other_emails=row.texts("other_emails"),
        other_phones=row.texts("other_phones"),
        language=row.text("language", "en"),
        contact_id=contact_id or _same_id(f"contact of a {what}", same),
        created=row.moment("created", past),
    )


def _load_member(community: Community, row: Reader, past: datetime) -> None:
    email = row.text("email")
    contact = _load_contact(community, row, past, email, row.guid("contact_id"), "member")
    community.add_member(
        contact,
        email=email,
        nickname=row.text("nickname", ""),
        status=row.choice("status", MEMBER_STATUSES, "APPROVED"),
        privacy=row.choice("privacyStatus", ("PUBLIC", "PRIVATE"), "PUBLIC"),
        member_id=row.guid("id") or _same_id("member", f"{email}/{contact.first}/{contact.last}"),
    )
    row.end()


def _load_group(community: Community, row: Reader, past: datetime) -> None:
    name = row.text("name")
    fields = {
        "name": name,
        "privacyStatus": row.choice("privacy", PRIVACY),
        "description": row.text("description", ""),
        **({"slug": slug} if (slug := row.text("slug", "")) else {}),
    }
    owner = row.text("owner", "")
    group = community.create_group(
        fields,
        creator_id=find_member(community, owner, row.where).id if owner else "",
        group_id=row.guid("id") or _same_id("group", name),
        created=row.moment("created", past),
    )
    active = row.text("last_activity", "") != NEVER and row.moment("last_activity", group.created)
    group.last_activity = active or None
    for question in row.rows("questions"):
        text, required = question.text("text"), question.flag("required")
        question_id = question.guid("id") or _same_id("question", f"{group.id}/{text}")
        group.questions.append(Question(question_id, text, required))
        question.end()
    for rule in row.rows("rules"):
        group.rules.append({"title": rule.text("title"), "description": rule.text("description", "")})
        rule.end()
    row.end()


def _load_subscription(community: Community, email: str, value: Any) -> None:
    where = f"community.subscriptions.{email}"
    reader = Reader({"status": value} if isinstance(value, str) else value, where)
    strange = ("UNKNOWN", UNHEARD_OF)
    record = community.set_subscription(
        email, subscription_id=reader.guid("id") or _same_id("subscription", email.lower())
    )
    record.status = reader.choice("status", (*SUBSCRIPTION_STATUSES, *strange), "NOT_SET")
    record.deliverability = reader.choice("deliverability", (*DELIVERABILITY_STATUSES, *strange), "NOT_SET")
    reader.end()


def _load_membership(community: Community, row: Reader, joined: datetime, named: dict[str, Group]) -> None:
    """One membership, or several with `members`. `named` remembers groups that were looked up already."""
    ref = row.text("group")
    group = named.get(ref) or named.setdefault(ref, find_group(community, ref, row.where))
    refs = row.texts("members") or [row.text("member")]
    joined, role = row.moment("joined", joined), row.choice("role", ("MEMBER", "ADMIN"), "MEMBER")
    answers = _answers_by_id(group, row)
    for ref in refs:
        member = find_member(community, ref, row.where)
        group.members[member.id] = GroupMember(member.id, role, joined)
        if answers:
            group.answers[member.id] = answers
    row.end()


def _load_join_request(community: Community, row: Reader) -> None:
    group = find_group(community, row.text("group"), row.where)
    member = find_member(community, row.text("member"), row.where)
    status = row.choice("status", REQUEST_STATUSES, "PENDING")
    created = row.moment("created", community.now())
    group.requests[member.id] = JoinRequest(
        member.id, member.contact.id, status, created, row.text("reason", "")
    )
    if answers := _answers_by_id(group, row):
        group.answers[member.id] = answers
    row.end()


def _answers_by_id(group: Group, row: Reader) -> dict[str, str]:
    ids = {key: question.id for question in group.questions for key in (question.id, question.text)}
    answers = answers_of(row)
    if unknown := [name for name in answers if name not in ids]:
        raise InputError(f"{row.where}: answers name no question of {group.name!r}: {unknown[0]!r}")
    return {ids[name]: text for name, text in answers.items()}


def _same_id(kind: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"wix-sandbox:{kind}:{name}"))
