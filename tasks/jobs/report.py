"""A report on a site's groups: read the list page by page, count it, and, when somebody is to have it by mail, send it.

A row of the job for each group that Wix listed, and one for each address. A copy's row is in doubt from just before its
final dot until the mail server has answered, so whoever dies in between leaves it so, and it is never sent again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from core.community import Group, GroupId
from core.errors import (
    Blame,
    IntegrationError,
    MailDeferredError,
    MailInDoubtError,
    MailRefusedError,
    PermanentError,
    WithdrawnError,
)
from core.events import parse_time
from core.gate import Send, Skip, decide_trial
from core.jobs import Job, least_seconds
from core.letters import retry_delay_s
from core.ports import WixPort
from core.reports import Facts, make_report
from integrations.email.message import wire_address
from integrations.store.database import Transaction
from integrations.store.group_days import settle_listed
from integrations.store.jobs import Item, Step, write_items
from tasks.jobs.engine import Kind
from tasks.jobs.params import GroupsReport
from tasks.services import Services

log = logging.getLogger(__name__)

NAME_CALLS = 1
"""For how the site calls itself, beside those for its groups."""
ENOUGH_TRIES = 12
"""Of one copy: about a day, by the waits between them."""
LONGEST_WAIT_S = 4 * 3600.0
LOOK_AGAIN_S = 60.0
"""A job whose copies all wait is looked at so often, for somebody may resume the sender."""


def _read(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of the list of groups."""
    offset, number = job.cursor.get("offset", 0), job.cursor.get("number", 0)
    page = wix.groups_page(job.site, offset)
    before = job.plan.get("total")
    if before is not None and page.total is not None and page.total < before:
        # What was deleted meanwhile moved the rest up, over the end of the page before.
        again = {"offset": max(0, offset - (before - page.total)), "number": number}
        return Step("begin", again, plan={"total": page.total})
    items = [
        Item(number + place, "done", group=group.id, data=_as_data(group))
        for place, group in enumerate(page.items)
    ]
    plan: dict[str, Any] = {"total": page.total}
    cost = None
    if not job.plan:
        plan["read_from"] = services.now().isoformat()
        cost = _cost(math.ceil((page.total or 0) / 100) + NAME_CALLS, services)
    return Step(
        "count" if page.next_offset is None else "begin",
        {"offset": page.next_offset, "number": number + len(items)},
        write=lambda tx: write_items(tx, job, items),
        plan=plan,
        cost=cost,
    )


def _count(job: Job, wix: WixPort, services: Services) -> Step:
    params = GroupsReport.model_validate(job.params)
    read = services.jobs.items(job.id, limit=None)
    groups: dict[GroupId, Group] = {}
    left_out: dict[int, str] = {}
    numbers: dict[GroupId, int] = {}
    for item in read:
        group = _from_data(item)
        if group.id in groups:
            left_out[item.number] = "the list of groups named it twice"
        else:
            groups[group.id], numbers[group.id] = group, item.number
    deleted = services.group_days.note(job.site, groups.values())
    left_out |= {numbers[group]: "the group was deleted, though Wix still lists it" for group in deleted}
    days, past = services.group_days.growth(job.site)
    letters, all_letters, letters_left_out = services.group_days.letters(job.site)
    now = services.now()
    report = make_report(
        Facts(
            site=job.site,
            site_name=_site_name(job, wix),
            groups=list(groups.values()),
            read_from=datetime.fromisoformat(job.plan["read_from"]),
            read_until=now,
            wix_calls=job.wix_calls,
            wix_total=job.plan["total"],
            deleted=deleted,
            days=days,
            past=past,
            letters=letters,
            all_letters=all_letters,
            letters_left_out=letters_left_out,
            interests=services.group_days.interests(job.site),
        ),
        top=params.top,
        idle_days=params.idle_days,
    )
    copies = [Item(len(read) + place, data={"to": place}) for place in range(len(params.mail_to))]

    def write(tx: Transaction) -> None:
        settle_listed(tx, job.id, left_out)
        write_items(tx, job, copies)

    return Step(
        "mail", write=write, result=report.as_json(), cost=_cost(job.wix_calls + NAME_CALLS, services)
    )


def _cost(calls: int, services: Services) -> dict[str, int]:
    calls = max(1, calls)
    seconds = least_seconds(calls, 0, services.calls_per_minute, services.limits)
    return {"wix_calls": calls, "seconds_at_least": seconds}


def _mail(job: Job, wix: WixPort, services: Services) -> Step:
    """One copy, to the address whose turn it is."""
    del wix
    waiting = services.jobs.items(job.id, state="planned", limit=None)
    if not waiting:
        return Step("mail", state="done")
    now = services.now()
    copy = min(waiting, key=_due_at)
    if (wait := _due_at(copy) - now) > timedelta(0):
        return Step("mail", after_s=min(LOOK_AGAIN_S, wait.total_seconds()))
    if not services.slots.hold():
        services.mail.close()
        return Step("mail", after_s=1.0)
    to = job.params["mail_to"][copy.data["to"]]
    try:
        return _send(job, copy, to, services)
    finally:
        services.senders.pass_on()


def _send(job: Job, copy: Item, to: str, services: Services) -> Step:
    fields = {"job": job.id, "site": job.site, "copy": copy.number}
    try:
        address = wire_address(to)
    except PermanentError as exc:
        return _end(job, copy, "failed", str(exc), fields)
    if not services.automations.policy_of(job.site).send:
        return _end(
            job, copy, "skipped", "letters of this site are switched off; `send` would allow it", fields
        )
    verdict = _decide(address, services)
    if isinstance(verdict, Skip):
        return _end(job, copy, "skipped", verdict.reason, fields)
    domain = services.hashes.domain_of(address)
    pause = services.senders.paused(domain)
    if pause is not None:
        wait_s = (pause.until - services.now()).total_seconds()
        return _put_off(job, copy, f"letters are paused: {pause.reason}", wait_s, services, counts=False)
    if (wait_s := services.pacer.take(domain)) > 0:
        return _put_off(job, copy, "the pace of EMAIL_URL", wait_s, services, counts=False)
    head = services.letterhead
    key = f"{job.site}/report/{job.id}/{copy.number}"
    result = services.jobs.get(job.id).result
    from integrations.reports.mail import build_report_letter  # noqa: PLC0415 (draws: a tenth of a worker's start)

    letter = build_report_letter(result, sender=head.email_from, to=address, key=key, date=services.now())

    def about_to_commit() -> None:
        still = _decide(address, services)
        if isinstance(still, Skip):
            raise WithdrawnError(still.reason)
        doubt = "the worker died between the final dot and the mail server's answer"
        if not services.jobs.move_item(job.id, copy.number, was="planned", state="in_doubt", reason=doubt):
            raise WithdrawnError("somebody else has this copy in hand, or the job was cancelled")

    try:
        services.mail.send(verdict.clearance, head.address, letter, about_to_commit)
    except WithdrawnError:
        return Step("mail")  # looked at anew
    except MailInDoubtError as exc:
        services.jobs.move_item(job.id, copy.number, was="in_doubt", state="in_doubt", reason=str(exc))
        services.senders.failed("", str(exc))
        log.error("report.in_doubt", extra=fields | {"error": str(exc)})
        return Step("mail")
    except (MailDeferredError, MailRefusedError) as exc:
        _blame(exc, domain, services)
        # After the dot as well it is out of doubt: the server said itself that it has no letter.
        if isinstance(exc, MailDeferredError) or exc.blame is Blame.SENDER:
            delay_s = retry_delay_s(copy.attempts, services.chance(), base_s=30.0, longest_s=LONGEST_WAIT_S)
            return _put_off(job, copy, str(exc), delay_s, services, counts=getattr(exc, "counts", True))
        return _end(job, copy, "failed", str(exc), fields)
    services.jobs.move_item(job.id, copy.number, was="in_doubt", state="done")
    services.senders.worked(domain)
    log.info("report.sent", extra=fields)
    return Step("mail")


def _decide(address: str, services: Services) -> Send | Skip:
    return decide_trial(address, suppressed=services.suppressions.anywhere(services.hashes.of(address)))


def _blame(exc: MailDeferredError | MailRefusedError, domain: str, services: Services) -> None:
    """As for every other letter: a sender or a domain that is refused rests."""
    said = str(exc)
    refused = isinstance(exc, MailRefusedError)
    if exc.blame is Blame.SENDER:
        services.senders.pause("", said) if refused else services.senders.failed("", said)
    if exc.blame is Blame.DOMAIN:
        services.senders.pause(domain, said) if refused else services.senders.failed(domain, said)
        services.senders.worked("")


def _put_off(job: Job, copy: Item, reason: str, wait_s: float, services: Services, *, counts: bool) -> Step:
    attempts = copy.attempts + int(counts)
    if attempts >= ENOUGH_TRIES:
        return _end(job, copy, "failed", reason, {"job": job.id, "site": job.site, "copy": copy.number})
    at = services.now() + timedelta(seconds=max(1.0, wait_s))
    log.info("report.waits", extra={"job": job.id, "site": job.site, "copy": copy.number, "reason": reason})
    data = {**copy.data, "at": at.isoformat()}
    later = Item(copy.number, reason=reason, attempts=attempts, data=data)
    return Step("mail", write=lambda tx: write_items(tx, job, [later]))


def _end(job: Job, copy: Item, state: str, reason: str, fields: Mapping[str, object]) -> Step:
    log.warning("report.not_sent", extra=dict(fields) | {"reason": reason})
    ended = Item(copy.number, state, reason, attempts=copy.attempts, data=copy.data)
    return Step("mail", write=lambda tx: write_items(tx, job, [ended]))


def _due_at(copy: Item) -> datetime:
    return datetime.fromisoformat(copy.data.get("at", "1970-01-01T00:00:00+00:00"))


def _site_name(job: Job, wix: WixPort) -> str:
    """Decoration: without it the report goes by the site's id."""
    try:
        return wix.get_site(job.site).name
    except IntegrationError as exc:
        log.warning("site.nameless", extra={"site": job.site, "error": str(exc)})
        return ""


def _as_data(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "privacy": group.privacy,
        "members": group.members,
        "created_at": group.created_at.isoformat() if group.created_at else None,
        "last_activity": group.last_activity.isoformat() if group.last_activity else None,
    }


def _from_data(item: Item) -> Group:
    data = item.data
    return Group(
        item.group or GroupId(""),
        data["name"],
        data["privacy"],
        data["members"],
        parse_time(data["created_at"]),
        last_activity=parse_time(data["last_activity"]),
    )


GROUPS_REPORT = Kind({"begin": _read, "count": _count, "mail": _mail}, again="mail", previews=False)
