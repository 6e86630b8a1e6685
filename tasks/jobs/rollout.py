"""The same rules, or the same questions, in many groups: a diff for each, then one group after the other.

The preview lists the groups ("begin", "choose", "fill") and reads each once ("read"). After the yes each is read again:
what is right already stays, what somebody else changed meanwhile is left alone, the rest is marked and replaced, and
what was there before stays in the job's row. So a page that is done twice, because its worker died after the write,
finds its work done, and where nobody goes on a rollback knows which groups to look at.

A rollout that follows a group (tasks/follows.py) is nobody's to confirm: it waits for its turn ("follow"), and goes on
from its preview by itself. Those of one site run one after the other, so that none writes what another has just read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from core.community import Group, GroupId, Question, Rule
from core.errors import NotFoundError, NotThereError, PermanentError, RetryableError
from core.jobs import FINAL, Job, least_seconds
from core.letters import retry_delay_s
from core.ports import WixPort
from core.rollout import Entry, diff, same
from integrations.store.database import Transaction
from integrations.store.jobs import HELD, Item, Step, release_items, write_items
from tasks.jobs.engine import JobError, Kind
from tasks.jobs.groups import choose_groups, find_group
from tasks.jobs.params import QuestionsRollout, RulesRollout
from tasks.services import Services

FOLLOW = "follow"
"""The phase in which a rollout that follows a group has not read it yet."""
FOLLOWER = "follow "
"""What `who` of such a job begins with."""
ALREADY = "already so"
CHANGED = "changed since the preview by somebody else"
CHANGED_AFTER = "changed after that rollout by somebody else"
ASKED = "Wix was asked to write it, and nobody has seen yet what came of it"
GONE = "Wix does not know this group any more"
TRIES_TO_READ = 6
"""Of one group, before a preview goes on without it: about a minute."""
TRIES = 10
"""Of one group, once the job runs: up to a quarter of an hour."""
TURN_S = 5.0
ROWS = 300
"""Written in one transaction: on SQLite everybody else who writes waits for it."""
PAGE = 20
PAGE_S = 0.3
"""Live work waits no longer than a page; a call to Wix takes a good part of it."""


# The preview


def _begin(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of the list of groups; a rollback needs none."""
    if (other_id := _params(job).rollback) is not None:
        _check_rollback(job, other_id, services)
        return Step("fill", result={"source": {"rollback": other_id}})
    offset, before = job.cursor.get("offset", 0), job.plan.get("total")
    page = wix.groups_page(job.site, offset)
    if before is not None and page.total is not None and page.total < before:
        # What was deleted meanwhile moved the rest up, over the end of the page before.
        return Step("begin", {"offset": max(0, offset - before + page.total)}, plan={"total": page.total})
    listed = [*job.plan.get("listed", ()), *([group.id, group.name, group.members] for group in page.items)]
    return Step(
        "choose" if page.next_offset is None else "begin",
        {"offset": page.next_offset},
        plan={"listed": listed, "total": page.total},
    )


def _choose(job: Job, wix: WixPort, services: Services) -> Step:
    """Find what is to be rolled out, and which of the listed groups it goes to."""
    params = _params(job)
    listed = {row[0]: Group(GroupId(row[0]), row[1], members=row[2]) for row in job.plan["listed"]}
    groups = list(listed.values())
    source: dict[str, Any] = {}
    if isinstance(params, QuestionsRollout):
        rows = [asdict(Question(given.text, given.required)) for given in params.questions or ()]
    elif params.from_group is not None:
        group = find_group(params.from_group, job.site, wix, groups)
        rows = [asdict(rule) for rule in wix.list_rules(job.site, group.id)]
        source = {"from_group": group.id, "name": group.name}
    else:
        rows = [asdict(Rule(given.title, given.description)) for given in params.rules or ()]
    chosen = choose_groups(params.to_groups, job.site, wix, services, groups)
    targets = [[group.id, group.name] for group in chosen if group.id != source.get("from_group")]
    return Step(
        "fill",
        plan={"listed": [], "targets": targets, "after": rows},
        result={"source": {**source, _word(job): len(rows)}},
    )


def _fill(job: Job, wix: WixPort, services: Services) -> Step:
    """A row for each of the next groups."""
    del wix
    begin, rows = job.cursor.get("next", 0), job.cursor.get("rows", 0)
    if (other_id := _params(job).rollback) is not None:
        found = services.jobs.items(other_id, after=begin - 1, limit=ROWS)
        items = [
            Item(
                item.number,
                group=item.group,
                data={"name": item.data["name"], "after": item.data["before"], "wrote": item.data["after"]},
            )
            for item in found
            if _may_have_changed(item)
        ]
        end = found[-1].number + 1 if found else begin
    else:
        targets = job.plan["targets"][begin : begin + ROWS]
        items = [
            Item(number, group=GroupId(group), data={"name": name, "after": job.plan["after"]})
            for number, (group, name) in enumerate(targets, start=begin)
        ]
        end = begin + len(targets)
    if end == begin:
        if other_id is not None and not rows:
            raise JobError(f"job {other_id} changed no group")
        return Step("read", plan={"targets": []})
    return Step(
        "fill", {"next": end, "rows": rows + len(items)}, write=lambda tx: write_items(tx, job, items)
    )


def _check_rollback(job: Job, other_id: str, services: Services) -> None:
    """Raises JobError unless what that job found in the groups that it changed can be put back."""
    try:
        other = services.jobs.get(other_id)
    except NotThereError as exc:
        raise JobError(str(exc)) from exc
    if other.site != job.site:
        raise JobError(f"job {other_id} is of another site")
    if other.kind != job.kind:
        raise JobError(f"job {other_id} is a {other.kind}, which a {job.kind} cannot roll back")
    in_hand = other.lease is not None or services.jobs.items(other_id, state="planned", limit=1)
    if other.state not in FINAL or in_hand:
        raise JobError(f"job {other_id} is {other.state}, and not over yet: only what is over is rolled back")


def _may_have_changed(item: Item) -> bool:
    """Whether Wix was asked to write this group, or nobody can tell."""
    return item.state == "done" or "asked" in item.data


def _read(job: Job, wix: WixPort, services: Services) -> Step:
    """Look at the next groups; when all were looked at, sum up."""
    work = partial(_look, job, wix)
    return _next_groups(job, wix, work, TRIES_TO_READ, services) or _sum_up(job, services)


def _look(job: Job, wix: WixPort, item: Item) -> Item:
    """What there is in this group, and what would become of it."""
    found = _present(job, item, wix)
    after = _entries(job, item.data["after"])
    if same(found, after):
        return replace(item, state="skipped", reason=f"has these {_word(job)} already")
    if "wrote" in item.data and not same(found, _entries(job, item.data["wrote"])):
        return replace(item, state="skipped", reason=CHANGED_AFTER)
    data = {"name": item.data["name"], "before": [asdict(entry) for entry in found]}
    said = {"after": item.data["after"], "diff": str(diff(found, after))}
    return replace(item, attempts=0, reason=None, data=data | said)


def _sum_up(job: Job, services: Services) -> Step:
    counts = services.jobs.counts([services.jobs.get(job.id)])[job.id]
    calls = 2 * counts.waiting
    result: dict[str, Any] = {
        "groups": counts.total,
        "equal": counts.skipped_by_reason.get(f"has these {_word(job)} already", 0),
        "to_change": counts.waiting,
    }
    warnings = []
    if cleared := job.cursor.get("cleared"):
        warnings.append(f"{cleared} of these groups will have NO {_word(job)} at all")
    if asked := job.cursor.get("asked"):
        warnings.append(
            f"{asked} of these groups ask questions now: all of them are replaced, and what people answered so far "
            "belongs to no question any more"
        )
    if warnings:
        result["warnings"] = warnings
    return Step(
        "release",
        state="previewed" if job.state == "previewing" else None,
        cost={
            "wix_calls": calls,
            "seconds_at_least": least_seconds(calls, 0, services.calls_per_minute, services.limits),
        },
        result=result,
    )


# The run


def _release(job: Job, wix: WixPort, services: Services) -> Step:
    """What was held for the yes is due."""
    del wix, services
    return Step("run", write=lambda tx: release_items(tx, job.id))


def _run(job: Job, wix: WixPort, services: Services) -> Step:
    """Write the next groups; done when none waits."""

    work = partial(_decide, job, wix)
    return _next_groups(job, wix, work, TRIES, services) or Step("run", state="done")


def _decide(job: Job, wix: WixPort, item: Item) -> Item:
    """What is to become of this group now: "in_doubt" when Wix is to be asked to write it."""
    if "before" not in item.data:
        # What no preview could read, and somebody told to try again: what it has is on record before it is replaced.
        return _look(job, wix, item)
    found = _present(job, item, wix)
    after = _entries(job, item.data["after"])
    if same(found, after):
        return replace(item, state="done", reason=ALREADY)
    if not same(found, _entries(job, item.data["before"])):
        return replace(item, state="skipped", reason=CHANGED)
    return replace(item, state="in_doubt", reason=ASKED, data={**item.data, "asked": True})


# Both


def _next_groups(
    job: Job, wix: WixPort, work: Callable[[Item], Item], tries: int, services: Services
) -> Step | None:
    """Do this with the groups that are due, for PAGE_S; None when none waits.

    Raises RetryableError when not a single call could be made.
    """
    items, due_at = services.jobs.next_items(job.id, limit=PAGE)
    if not items:
        if due_at is None:
            return None
        return Step(job.phase, job.cursor, after_s=(due_at - services.now()).total_seconds())
    cursor = dict(job.cursor)
    done: list[tuple[Item, datetime | None]] = []
    ends_at = time.monotonic() + PAGE_S
    while items and (not done or time.monotonic() < ends_at):
        try:
            item, next_at = _see_through(job, wix, items.pop(0), work, tries, services)
        except RetryableError:
            if not done:
                raise
            break
        if job.phase == "read" and item.state == "planned" and next_at is None:
            next_at = HELD
            _count(job, item, cursor)
        done.append((item, next_at))

    def write(tx: Transaction) -> None:
        for item, next_at in done:
            write_items(tx, job, [item], next_at=next_at)

    return Step(job.phase, cursor, write=write)


def _see_through(
    job: Job, wix: WixPort, item: Item, work: Callable[[Item], Item], tries: int, services: Services
) -> tuple[Item, datetime | None]:
    """One group, and when to try again; what is wrong with it alone does not stop the others.

    Raises RetryableError when no call could be made.
    """
    try:
        item = work(item)
        if item.state == "in_doubt":
            with services.jobs.meanwhile(job) as tx:
                write_items(tx, job, [item])
            _replace(job, item, _entries(job, item.data["after"]), wix)
            item = replace(item, state="done", reason=None)
        return item, None
    except NotFoundError:
        return replace(item, state="skipped", reason=GONE), None
    except PermanentError as exc:
        return replace(item, state="failed", reason=str(exc)), None
    except RetryableError as exc:
        if not exc.counts:
            raise
        item = replace(item, attempts=item.attempts + 1, reason=str(exc))
        if item.attempts >= tries:
            return replace(item, state="failed"), None
        delay_s = retry_delay_s(
            item.attempts, services.chance(), base_s=1.0, longest_s=300.0, asked_s=exc.retry_after_s
        )
        return item, services.now() + timedelta(seconds=delay_s)


def _count(job: Job, item: Item, cursor: dict[str, int]) -> None:
    """What the preview warns of, so far."""
    cursor["cleared"] = cursor.get("cleared", 0) + (not item.data["after"])
    asked = job.kind == "questions_rollout" and bool(item.data["before"])
    cursor["asked"] = cursor.get("asked", 0) + asked


def _present(job: Job, item: Item, wix: WixPort) -> Sequence[Entry]:
    group = _group(item)
    if job.kind == "rules_rollout":
        return wix.list_rules(job.site, group)
    return wix.list_questions(job.site, group)


def _replace(job: Job, item: Item, entries: Sequence[Entry], wix: WixPort) -> None:
    if job.kind == "rules_rollout":
        wix.replace_rules(job.site, _group(item), [entry for entry in entries if isinstance(entry, Rule)])
    else:
        questions = [entry for entry in entries if isinstance(entry, Question)]
        wix.replace_questions(job.site, _group(item), questions)


def _group(item: Item) -> GroupId:
    return item.group or GroupId("")


def _entries(job: Job, rows: Sequence[Mapping[str, Any]]) -> Sequence[Entry]:
    kind = Rule if job.kind == "rules_rollout" else Question
    return [kind(**row) for row in rows]


def _word(job: Job) -> str:
    return "rules" if job.kind == "rules_rollout" else "questions"


def _params(job: Job) -> RulesRollout | QuestionsRollout:
    kind = RulesRollout if job.kind == "rules_rollout" else QuestionsRollout
    return kind.model_validate(job.params)


# Following


def _wait_for_turn(job: Job, wix: WixPort, services: Services) -> Step:
    """Let quick edits, and Wix's lag, settle; then let the rollouts end that were there before."""
    if not job.cursor:
        return Step(FOLLOW, {"settled": True}, after_s=services.settle_s)
    mine = services.jobs.get(job.id)
    running = services.jobs.page(site=job.site, kind=job.kind, state="running", limit=None)
    if any(
        (other.created_at, other.id) < (mine.created_at, mine.id)
        for other in running
        if other.who.startswith(FOLLOWER)
    ):
        return Step(FOLLOW, job.cursor, after_s=TURN_S)
    return _begin(job, wix, services)


_PHASES = {
    "begin": _begin,
    "choose": _choose,
    "fill": _fill,
    "read": _read,
    "release": _release,
    "run": _run,
}
RULES_ROLLOUT = Kind(_PHASES | {FOLLOW: _wait_for_turn}, again="run")
QUESTIONS_ROLLOUT = Kind(_PHASES, again="run")
