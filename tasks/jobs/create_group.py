"""A group with the people of a list in it; what is there already is left as it is.

The preview finds out who is meant ("begin", a hundred rows at once), whether the group is there ("find"), who is in it
("look inside"), and what is left to do ("sum up"). The run looks again for the group and creates it if need be ("run"),
looks who is in it ("inside"), asks for those who are not in it ("add"), and believes only the group's list of who is in
("look", "settle"): who has a private profile was only invited.

Nobody can say whether a call without an answer took effect. That the group is about to be created, and who is about to
be invited, is therefore written down before: a group is then looked for until Wix's lists must show it, and an
invitation stays in doubt. Adding a public profile again does no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from core.community import Group, GroupId, Member, MemberId
from core.errors import ForbiddenError, IntegrationError, PermanentError, RetryableError
from core.jobs import Job, least_seconds
from core.people import Listed, Outcome, numbered, questions, resolve
from core.ports import WixPort
from integrations.people_list import read_email, read_phone
from integrations.store.database import Transaction
from integrations.store.jobs import Item, Step, write_items
from integrations.store.lists import (
    ASKED,
    INVITED,
    INVITED_BEFORE,
    UNSURE,
    fold_name,
    mark,
    rows_of,
    see_inside,
    see_invited,
    wait_to_create,
)
from integrations.store.suppressions import FORGOTTEN
from tasks.jobs.engine import JobError, Kind
from tasks.jobs.params import ListedPerson, NewGroup
from tasks.services import Services

HUNDRED = 100
ADDED = "added"
WAS_IN = "was in the group already"
NOT_LISTED = "Wix took them, and does not list them in the group"
GONE = "Wix knows this member no more"
LOOKS = 4
FIRST_LOOK_AGAIN_S = 5.0
"""Doubled for each look after that: Wix's lists show a change after some seconds (wix/limits-errors.md, 5)."""


# The preview


def _resolve(job: Job, wix: WixPort, services: Services) -> Step:
    """A hundred rows: whom they mean, or why nobody."""
    creator, people_given = _wanted(job).creatorId, job.params["people"]
    at = job.cursor.get("at", 0)
    if at == 0 and creator not in wix.get_members(job.site, [MemberId(creator)]):
        raise JobError(f"the creator {creator} is no member of the site")
    read = [_listed(row, person) for row, person in numbered(people_given)[at : at + HUNDRED]]
    rows = [row for row in read if isinstance(row, Listed)]
    first = questions(rows)
    people = wix.find_people(job.site, contacts=first.contacts, emails=first.emails, phones=first.phones)
    if names := questions(rows, people).names:
        people += wix.find_people(job.site, names=names)
    found = [each.member for each in resolve(rows, people) if each.member]
    with services.jobs.meanwhile(job) as tx:
        taken = rows_of(tx, job, found)
    unreadable = [row for row in read if isinstance(row, Outcome)]
    items = [_item(outcome) for outcome in (*unreadable, *resolve(rows, people, taken))]
    more = at + HUNDRED < len(people_given)
    return Step(
        "begin" if more else "find",
        {"at": at + HUNDRED} if more else {},
        write=lambda tx: write_items(tx, job, items),
    )


def _listed(row: int, given: Mapping[str, Any]) -> Listed | Outcome:
    if not any(given.get(name) for name in ("contactId", "email", "phone", "name")):
        return Outcome(row, reason=FORGOTTEN)
    person = ListedPerson.model_validate(given)
    try:
        return Listed(
            row,
            person.contactId or "",
            read_email(person.email) if person.email else "",
            read_phone(person.phone) if person.phone else "",
            person.name or "",
        )
    except ValueError as exc:
        return Outcome(row, reason=f"cannot be read: {exc}")


def _item(outcome: Outcome) -> Item:
    candidates = [
        {"member": each.member, "contact": each.contact, "address": each.address}
        | ({"since": each.since.date().isoformat()} if each.since else {})
        for each in outcome.candidates
    ]
    return Item(
        outcome.row,
        "planned" if outcome.member else "skipped",
        outcome.reason or None,
        member=outcome.member,
        data={
            "row": outcome.row,
            "how": outcome.how,
            "private": outcome.private,
            "candidates": candidates,
        },
    )


def _find(job: Job, wix: WixPort, services: Services) -> Step:
    del services
    group, pages = _look_for(job, wix)
    plan: dict[str, Any] = {"group_pages": pages}
    if group is None:
        return Step("sum up", plan=plan)
    return Step(
        "look inside", plan=plan | {"group": _as_plan(group, created=False), "members": group.members}
    )


def _look_for(job: Job, wix: WixPort) -> tuple[Group | None, int]:
    """The group of this name and creator, the oldest if there are more; and how many pages the list of groups has."""
    wanted = _wanted(job)
    groups = list(wix.list_groups(job.site))
    same = [
        group
        for group in groups
        if fold_name(group.name) == fold_name(wanted.name) and group.owner == wanted.creatorId
    ]
    oldest = min(same, key=lambda group: (group.created_at is None, group.created_at, group.id), default=None)
    return oldest, len(groups) // HUNDRED + 1


def _look_inside(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of who is in the group already: for the forecast, because things may change until the yes."""
    del services
    return _read_members(job, wix, "planned", WAS_IN, then="sum up")


def _read_members(job: Job, wix: WixPort, state: str, reason: str, *, then: str) -> Step:
    group = _group_id(job)
    page = wix.group_members_page(job.site, group, job.cursor.get("offset", 0))
    inside = [member for member, _ in page.items]
    last = page.next_offset is None

    def write(tx: Transaction) -> None:
        see_inside(tx, job, group, inside, state, reason)
        if last and then != "settle":
            see_invited(tx, job, group, "planned" if then == "sum up" else "skipped")

    place = {**job.cursor, "offset": page.next_offset or 0}
    return Step(then if last else job.phase, place, write=write)


def _sum_up(job: Job, wix: WixPort, services: Services) -> Step:
    del wix
    items = services.jobs.items(job.id, limit=None)
    coming = [item for item in items if item.state == "planned" and not item.reason]
    hundreds = [coming[at : at + HUNDRED] for at in range(0, len(coming), HUNDRED)]
    adding = sum(len({item.data["private"] is False for item in hundred}) for hundred in hundreds)
    inside = job.plan.get("members") or 0
    looking = 1 + inside // HUNDRED + 1 if "group" in job.plan else job.plan["group_pages"] + 1
    calls = looking + adding
    if coming:
        calls += (inside + len(coming)) // HUNDRED + 1
    return Step(
        "run",
        state="previewed",
        cost={
            "wix_calls": calls,
            "seconds_at_least": least_seconds(calls, 0, services.calls_per_minute, services.limits),
        },
        result=_result(job, items),
    )


# The run


def _run(job: Job, wix: WixPort, services: Services) -> Step:
    """Look for the group, and create it when it is not there."""
    wanted = _wanted(job)
    if "group" in job.plan:
        if wix.get_group(job.site, _group_id(job)) is None:
            raise JobError("the group is not there any more: begin anew")
        return Step("inside")
    group, _ = _look_for(job, wix)
    if group is not None:  # created after the preview, and by this job if it has tried
        found = {"group": _as_plan(group, created="tried_at" in job.plan)}
        return Step("inside", plan=found, result=found)
    with services.jobs.meanwhile(job) as tx:
        wait_s = wait_to_create(tx, job, services.settle_s)
    if wait_s:
        reason = "waits until Wix's lists would show a group created a moment ago"
        raise RetryableError(reason, retry_after_s=wait_s, counts=False)
    creator = MemberId(wanted.creatorId)
    made = wix.create_group(job.site, wanted.name.strip(), privacy=wanted.privacyStatus, creator=creator)
    found = {"group": _as_plan(made, created=True)}
    return Step(
        "add",
        plan=found,
        result=found,
        write=lambda tx: see_inside(tx, job, made.id, [creator], "done", ADDED),
    )


def _inside(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of who is in the group before anybody is added; of a new one that is its owner."""
    del services
    return _read_members(job, wix, "done", ADDED if job.plan["group"]["created"] else WAS_IN, then="add")


def _add(job: Job, wix: WixPort, services: Services) -> Step:
    """Ask for the next hundred; for half as many where Wix refuses, until whom it does not take is alone."""
    group = _group_id(job)
    after, size = job.cursor.get("after", -1), job.cursor.get("size", HUNDRED)
    items = services.jobs.items(job.id, state="planned", after=after, limit=size)
    if not items:
        asked = services.jobs.items(job.id, state="in_doubt", limit=1)
        return Step("look" if asked else "settle", {"left": LOOKS})
    shy = [item for item in items if item.data["private"] is not False]
    open_ = [item for item in items if item not in shy]
    try:
        if open_:
            wix.add_group_members(job.site, group, _members(open_))
        if shy:
            _invite(job, group, shy, wix, services)
    except ForbiddenError:
        raise
    except PermanentError as exc:
        if len(items) > 1:
            return Step("add", {"after": after, "size": len(items) // 2})
        if wix.get_group(job.site, group) is None:
            raise JobError("the group is not there any more") from exc
        state, reason = "failed", str(exc)
    else:
        state, reason = "in_doubt", ASKED
    return Step(
        "add",
        {"after": items[-1].number, "size": min(HUNDRED, 2 * size)},
        write=lambda tx: mark(tx, job, items, state, reason, group),
    )


def _invite(job: Job, group: GroupId, shy: Sequence[Item], wix: WixPort, services: Services) -> None:
    """Whoever dies before Wix has answered leaves them in doubt, and they are not asked again."""
    with services.jobs.meanwhile(job) as tx:
        mark(tx, job, shy, "in_doubt", UNSURE, group)
    try:
        wix.add_group_members(job.site, group, _members(shy))
    except IntegrationError as exc:
        if not isinstance(exc, RetryableError) or not exc.counts or exc.retry_after_s is not None:
            with services.jobs.meanwhile(job) as tx:  # it was not done
                mark(tx, job, shy, "planned", None, group)
        raise


def _look(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of who is in the group now."""
    del services
    return _read_members(job, wix, "done", ADDED, then="settle")


def _settle(job: Job, wix: WixPort, services: Services) -> Step:
    """Look again for those who should be in by now, then say what came of everybody else."""
    left = job.cursor.get("left", 0)
    asked = [
        item for item in services.jobs.items(job.id, state="in_doubt", limit=None) if item.reason == ASKED
    ]
    if left and any(item.data["private"] is not True for item in asked):
        return Step("look", {"left": left - 1}, after_s=FIRST_LOOK_AGAIN_S * 2 ** (LOOKS - left))
    if not asked:
        result = _result(job, services.jobs.items(job.id, limit=None))
        return Step("settle", state="done", result=result)
    hundred, group = asked[:HUNDRED], _group_id(job)
    unclear = _members([item for item in hundred if item.data["private"] is not True])
    known = wix.get_members(job.site, unclear) if unclear else {}

    def write(tx: Transaction) -> None:
        for item in hundred:
            state, reason = _verdict(item, known)
            mark(tx, job, [item], state, reason, group)

    return Step("settle", write=write)


def _verdict(item: Item, known: Mapping[MemberId, Member]) -> tuple[str, str]:
    """Of somebody whom Wix took and does not list."""
    if item.data["private"] is True:
        return "skipped", INVITED
    member = known.get(item.member) if item.member else None
    if member is None:
        return "failed", GONE
    return ("failed", NOT_LISTED) if member.private is False else ("skipped", INVITED)


def _result(job: Job, items: Sequence[Item]) -> dict[str, Any]:
    """What came of it; before the yes, what will."""
    group = job.plan.get("group") or {"id": None, "name": _wanted(job).name.strip(), "created": True}
    coming = [item for item in items if item.state == "planned" and not item.reason]
    to_fix = [
        {"row": item.data["row"], "reason": item.reason, "candidates": item.data["candidates"]}
        for item in items
        if item.state in ("skipped", "failed", "in_doubt") or item.reason == INVITED_BEFORE
    ]
    public = sum(item.data["private"] is False for item in coming)
    reasons = Counter(item.reason for item in items)
    return {
        "group": group,
        "added": public + reasons[ADDED],
        "already": reasons[WAS_IN],
        "invited": len(coming) - public + reasons[INVITED],
        "to_fix": to_fix,
    }


def _as_plan(group: Group, *, created: bool) -> dict[str, Any]:
    return {"id": group.id, "name": group.name, "created": created}


def _group_id(job: Job) -> GroupId:
    return GroupId(job.plan["group"]["id"])


def _members(items: Sequence[Item]) -> list[MemberId]:
    return [item.member for item in items if item.member is not None]


def _wanted(job: Job) -> NewGroup:
    return NewGroup.model_validate(job.params["group"])


CREATE_GROUP = Kind(
    {
        "begin": _resolve,
        "find": _find,
        "look inside": _look_inside,
        "sum up": _sum_up,
        "run": _run,
        "inside": _inside,
        "add": _add,
        "look": _look,
        "settle": _settle,
    },
    again="run",
)
