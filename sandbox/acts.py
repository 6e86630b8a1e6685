"""What people do on the site: the acts of `POST /sandbox/acts`, as one table."""

from collections.abc import Callable

from sandbox.community import DELIVERABILITY_STATUSES, PRIVACY, SUBSCRIPTION_STATUSES, Community, Json
from sandbox.loading import MEMBER_STATUSES, find_group, find_member
from sandbox.reading import InputError, Reader, answers_of

Act = Callable[[Community, Reader], Json]


def add_member(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.add_group_members(group, [member], invitations_accepted=True)
    return {"group": group, "member": member}


def self_join(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.join(group, member)
    return {"group": group, "member": member}


def leave(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.leave(group, member)
    return {"group": group, "member": member}


def remove_member(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    if member not in community.group(group).members:
        raise InputError("remove_member: member is not in the group")
    community.remove_group_members(group, [member])
    return {"group": group, "member": member}


def request_join(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.request_join(group, member, answers_of(args))
    return {"group": group, "member": member}


def approve(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.approve_join_requests(group, [member])
    return {"group": group, "member": member}


def reject(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.reject_join_requests(group, [(member, args.text("reason", ""))])
    return {"group": group, "member": member}


def cancel_request(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.cancel_request(group, member)
    return {"group": group, "member": member}


def assign_role(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.assign_role(group, [member], args.choice("role", ("ADMIN", "MEMBER"), "ADMIN"))
    return {"group": group, "member": member}


def unassign_role(community: Community, args: Reader) -> Json:
    group, member = _group(community, args), _member(community, args)
    community.unassign_role(group, [member], "ADMIN")
    return {"group": group, "member": member}


def sign_up(community: Community, args: Reader) -> Json:
    email, nickname = args.text("email"), args.text("nickname", "")
    privacy = args.choice("privacyStatus", ("PUBLIC", "PRIVATE"), "PRIVATE")
    if email.lower() in community.members_by_email:
        raise InputError("sign_up: a member with this email exists already")
    contact = community.add_contact(
        args.text("first"),
        args.text("last", ""),
        email=email,
        phone=args.text("phone", ""),
        language=args.text("language", "en"),
    )
    member = community.add_member(contact, email=email, nickname=nickname, privacy=privacy)
    return {"member": member.id, "contact": contact.id}


def update_member(community: Community, args: Reader) -> Json:
    member = _member(community, args)
    community.update_member(
        member,
        status=args.choice("status", MEMBER_STATUSES, ""),
        privacy=args.choice("privacyStatus", ("PUBLIC", "PRIVATE"), ""),
        nickname=args.text("nickname", ""),
    )
    return {"member": member}


def delete_member(community: Community, args: Reader) -> Json:
    member = _member(community, args)
    community.delete_member(member)
    return {"member": member}


def erase_member(community: Community, args: Reader) -> Json:
    member = _member(community, args)
    contact = community.member(member).contact.id
    community.delete_member(member, erase=True)
    return {"member": member, "contact": contact}


def set_subscription(community: Community, args: Reader) -> Json:
    email = args.text("email", "")
    if not email:
        email = community.member(_member(community, args)).email
    status = args.choice("status", SUBSCRIPTION_STATUSES, "")
    record = community.set_subscription(
        email, status, args.choice("deliverability", DELIVERABILITY_STATUSES, "")
    )
    return {"subscription": record.id, "email": record.email}


def create_group(community: Community, args: Reader) -> Json:
    fields = {
        "name": args.text("name"),
        "privacyStatus": args.choice("privacy", PRIVACY, "PUBLIC"),
        "description": args.text("description", ""),
    }
    return {"group": community.create_group(fields, creator_id=_member(community, args)).id}


def rename_group(community: Community, args: Reader) -> Json:
    group = _group(community, args)
    return {"group": group, "slug": community.update_group(group, {"name": args.text("name")}).slug}


def set_privacy(community: Community, args: Reader) -> Json:
    group = _group(community, args)
    community.update_group(group, {"privacyStatus": args.choice("privacy", PRIVACY)})
    return {"group": group}


def set_questions(community: Community, args: Reader) -> Json:
    group = _group(community, args)
    questions = []
    for row in args.rows("questions"):
        questions.append((row.text("text"), row.flag("required")))
        row.end()
    return {"group": group, "questions": [q.id for q in community.set_questions(group, questions)]}


def set_rules(community: Community, args: Reader) -> Json:
    group = _group(community, args)
    rules = []
    for row in args.rows("rules"):
        rules.append({"title": row.text("title"), "description": row.text("description", "")})
        row.end()
    community.set_rules(group, rules)
    return {"group": group}


def delete_group(community: Community, args: Reader) -> Json:
    return {"group": community.delete_group(_group(community, args)).id}


def request_group(community: Community, args: Reader) -> Json:
    fields = {"name": args.text("name"), "privacyStatus": args.choice("privacy", PRIVACY, "PUBLIC")}
    return {"group_request": community.request_group(_member(community, args), fields).group.id}


def install_app(community: Community, _args: Reader) -> Json:
    community.install_app()
    return {"instance": community.site.instance_id}


def remove_app(community: Community, _args: Reader) -> Json:
    community.remove_app()
    return {"instance": community.site.instance_id}


def _group(community: Community, args: Reader) -> str:
    return find_group(community, args.text("group"), args.where).id


def _member(community: Community, args: Reader) -> str:
    return find_member(community, args.text("member"), args.where).id


# Each act with the arguments it knows.
ACTS: dict[str, tuple[Act, tuple[str, ...]]] = {
    "sign_up": (sign_up, ("first", "last", "email", "phone", "nickname", "language", "privacyStatus")),
    "add_member": (add_member, ("group", "member")),
    "self_join": (self_join, ("group", "member")),
    "request_join": (request_join, ("group", "member", "answers")),
    "approve": (approve, ("group", "member")),
    "reject": (reject, ("group", "member", "reason")),
    "cancel_request": (cancel_request, ("group", "member")),
    "remove_member": (remove_member, ("group", "member")),
    "leave": (leave, ("group", "member")),
    "assign_role": (assign_role, ("group", "member", "role")),
    "unassign_role": (unassign_role, ("group", "member")),
    "update_member": (update_member, ("member", "status", "privacyStatus", "nickname")),
    "set_subscription": (set_subscription, ("email", "member", "status", "deliverability")),
    "delete_member": (delete_member, ("member",)),
    "erase_member": (erase_member, ("member",)),
    "create_group": (create_group, ("member", "name", "privacy", "description")),
    "rename_group": (rename_group, ("group", "name")),
    "set_privacy": (set_privacy, ("group", "privacy")),
    "set_questions": (set_questions, ("group", "questions")),
    "set_rules": (set_rules, ("group", "rules")),
    "delete_group": (delete_group, ("group",)),
    "request_group": (request_group, ("member", "name", "privacy")),
    "install_app": (install_app, ()),
    "remove_app": (remove_app, ()),
}


def perform(community: Community, name: str, arguments: Json) -> Json:
    """Do one act and return the ids of what it touched. `InputError` or `CommunityError`: nothing changed."""
    if name not in ACTS:
        raise InputError(f"act: unknown {name!r}; there are {', '.join(ACTS)}")
    act, known = ACTS[name]
    if unknown := sorted(set(arguments) - set(known)):
        raise InputError(f"{name}: unknown {', '.join(unknown)}; it takes {', '.join(known) or 'nothing'}")
    return act(community, Reader(arguments, name))
