"""Groups: how they fare, what one is like, their report, and what is set off for many of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from admin.jobs.described import changes_of
from admin.office import Office
from admin.office.jobs import own_job
from admin.office.refusals import wrong_fields
from admin.office.words import N_
from core.automations import Automation, ReportSchedule, applicable
from core.community import Group, GroupId, Question, Rule, SiteId
from core.errors import (
    IntegrationError,
    NotThereError,
    PermanentError,
    RetryableError,
    WrongStateError,
)
from core.reports import is_idle
from core.rollout import Diff
from integrations.people_list import list_again
from integrations.reports.render import render_report
from integrations.store.group_days import GroupDays
from integrations.store.reach import Reach
from integrations.store.tokens import Holder
from tasks.jobs.params import GroupsReport

GROWTH_DAYS = LETTER_DAYS = 30
IDLE_DAYS: int = GroupsReport.model_fields["idle_days"].default
CHART_DAYS = 90
POPULAR_SHARE = 0.1
"""Of all groups: the largest tenth are called popular, at least one."""
MOST_PENDING = 100
"""Requests that are counted; one call."""
TRIGGER_WORDS = (
    "join_requested",
    "member_added",
    "join_approved",
    "join_rejected",
    "member_removed",
    "role_assigned",
)
"""What may happen in a group, in the order in which people meet it."""

Row = sa.Row[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing:
    """One group beside the others. `change`: of its members since the first reading within GROWTH_DAYS, None where
    there is none; `letters`: that went out to its members within LETTER_DAYS."""

    group: Group
    change: int | None
    letters: int
    idle: bool
    popular: bool


ORDERS: Mapping[str, Callable[[Standing], tuple[Any, ...]]] = {
    "name": lambda _: (),
    "members": lambda one: (-(one.group.members or 0),),
    "activity": lambda one: (-_stamp(one.group.last_activity),),
    "growth": lambda one: (one.change is None, -(one.change or 0)),
    "letters": lambda one: (-one.letters,),
}
"""The most first; ties, and "name", from A to Z."""


def list_groups(
    office: Office,
    holder: Holder,
    site: SiteId,
    groups: Iterable[Group] | None = None,
    *,
    order: str = "name",
    name: str = "",
) -> list[Standing]:
    """The groups within reach whose names hold `name`. `groups`: all of these, where somebody has read them; else Wix
    is asked. Whether one is popular is only said to who sees them all."""
    _require_site(holder.reach, site)
    found = list(office.wix.list_groups(site) if groups is None else groups)
    days = GroupDays(office.database)
    deleted = days.deleted(site)
    found = [group for group in found if group.id not in deleted and _within(holder.reach, group.id)]
    popular = set() if holder.reach.groups is not None else _popular(found)
    since = days.sizes_since(site, GROWTH_DAYS)
    letters = days.letters_to_groups(site, LETTER_DAYS)
    now = office.now()
    wanted = _plain(name)
    standings = [
        Standing(
            group,
            None if since is None or group.members is None else group.members - since[1].get(group.id, 0),
            letters.get(group.id, 0),
            is_idle(group, now, IDLE_DAYS),
            group.id in popular,
        )
        for group in found
        if wanted in _plain(group.name)
    ]
    return sorted(standings, key=lambda one: (*ORDERS[order](one), _plain(one.group.name), one.group.id))


def own_group(office: Office, holder: Holder, site: SiteId, id: str) -> Group:  # noqa: A002 (the row's own word)
    """As Wix has it now. Raises NotThereError, also for what is out of the holder's reach, and what Wix raises."""
    _require_site(holder.reach, site)
    group = office.wix.get_group(site, GroupId(id)) if _within(holder.reach, id) else None
    if group is None:
        raise NotThereError(N_("There is no such group, or it is not yours to see."))
    return group


@dataclass(frozen=True, slots=True)
class Figures:
    """`sizes`: members day by day over CHART_DAYS. `letters` by state, and `refusals` by reason, of LETTER_DAYS."""

    sizes: Sequence[tuple[date, int]]
    letters: Mapping[str, int]
    refusals: Sequence[tuple[str, str, int]]
    """State, reason and how many, the most first."""
    idle: bool


def figures_of(office: Office, site: SiteId, group: Group) -> Figures:
    """What Usher knows of one group. Its size of today is the last one, as Wix says it now."""
    days = GroupDays(office.database)
    now = office.now()
    sizes = [(day, members) for day, members in days.sizes(site, group.id, CHART_DAYS) if day < now.date()]
    if group.members is not None:
        sizes.append((now.date(), group.members))
    letters: dict[str, int] = {}
    refusals = []
    for state, reason, number in days.letters_of_group(site, group.id, LETTER_DAYS):
        letters[state] = letters.get(state, 0) + number
        if reason:
            refusals.append((state, reason, number))
    return Figures(sizes, letters, refusals, is_idle(group, now, IDLE_DAYS))


@dataclass(frozen=True, slots=True)
class Inside:
    """What the group's own lists at Wix say now; None where they could not be read, for which `troubles` has the
    error, by the name of the field."""

    rules: tuple[Rule, ...] | None
    questions: tuple[Question, ...] | None
    pending: int | None
    """How many requests wait; MOST_PENDING stands for all that are more. Only private groups have any."""
    troubles: Mapping[str, IntegrationError]


def look_inside(office: Office, site: SiteId, group: Group) -> Inside:
    """Three calls to Wix at most. After one that failed for now the others are not tried."""
    troubles: dict[str, IntegrationError] = {}

    def read(name: str, ask: Callable[[], T]) -> T | None:
        earlier = next((exc for exc in troubles.values() if isinstance(exc, RetryableError)), None)
        try:
            if earlier is not None:
                raise earlier
            return ask()
        except IntegrationError as exc:
            troubles[name] = exc
            return None

    def count_pending() -> int:
        if group.privacy != "PRIVATE":
            return 0
        return sum(1 for _ in islice(office.wix.list_join_requests(site, group.id), MOST_PENDING))

    return Inside(
        rules=read("rules", lambda: office.wix.list_rules(site, group.id)),
        questions=read("questions", lambda: office.wix.list_questions(site, group.id)),
        pending=read("pending", count_pending),
        troubles=troubles,
    )


def listening(office: Office, site: SiteId, group: Group) -> list[Automation]:
    """Which automations something in this group may set off, each once, in their order; their steps are not told."""
    automations = office.automations()
    found = {
        automation.name: automation
        for trigger in TRIGGER_WORDS
        for automation in applicable(automations, trigger, site, group)
        if not automation.is_step
    }
    return [automation for automation in automations.automations if automation.name in found]


# The report


@dataclass(frozen=True, slots=True)
class Reports:
    """Newest first: those that are done, and the one that is being made, if there is one."""

    done: Sequence[Row]
    under_way: Row | None
    schedules: Sequence[ReportSchedule]


def reports_of(office: Office, holder: Holder, site: SiteId, *, most: int = 12) -> Reports:
    _require_site(holder.reach, site)
    rows = office.jobs.page(site=site, kind="groups_report", reach=holder.reach, limit=most)
    return Reports(
        [row for row in rows if row.state == "done"],
        next((row for row in rows if row.state in ("running", "paused")), None),
        [schedule for schedule in office.automations().reports if schedule.is_for(site)],
    )


def report_file(
    office: Office,
    holder: Holder,
    id: str,  # noqa: A002
    format: str,  # noqa: A002 (the report's own word)
    site_name: str = "",
) -> tuple[str, str, bytes]:
    """Media type, name and content. Raises NotThereError, WrongStateError, RefusedError."""
    row = own_job(office, holder, id)
    if row.kind != "groups_report":
        raise NotThereError(f"a {row.kind} has no report")
    if row.state != "done":
        raise WrongStateError(f"the job is {row.state}, not done")
    try:
        return render_report(row.result, format, site_name=site_name)
    except PermanentError as exc:  # as pdf, without the extra that writes it
        raise wrong_fields("the query", ("format", str(exc))) from exc


# A group from a list


def list_to_fix(office: Office, holder: Holder, id: str) -> bytes:  # noqa: A002
    """Of a job that opens a group: the rows of its list that nobody could be found for, each with the reason, as a CSV
    that can be mended and read again. Raises NotThereError, and WrongStateError while nobody knows."""
    row = own_job(office, holder, id)
    if row.kind != "create_group":
        raise NotThereError(f"a {row.kind} has no list of people")
    if row.result is None:
        raise WrongStateError(f"the job is {row.state}, and has not looked for everybody yet")
    return list_again(row.params.get("people", [])).to_fix(row.result["to_fix"])


# Rollouts


def rollout_changes(office: Office, row: Row) -> list[tuple[Diff, list[str]]]:
    """What a rollout changes or has changed, with the names of the groups where that is the same."""
    items = office.jobs.items(row.id, limit=None)
    return changes_of(row, [item for item in items if item.state in ("planned", "done", "in_doubt")])


def entries_of(
    office: Office, holder: Holder, site: SiteId, kind: str, group_id: str
) -> list[Rule] | list[Question]:
    """The rules or questions of a group as they stand, to be copied from. `kind` is "rules" or "questions"."""
    group = own_group(office, holder, site, group_id)
    if kind == "rules":
        return list(office.wix.list_rules(site, group.id))
    return list(office.wix.list_questions(site, group.id))


def _require_site(reach: Reach, site: SiteId) -> None:
    if reach.sites is not None and site not in reach.sites:
        raise NotThereError(N_("There is no such site, or it is not yours to see."))


def _within(reach: Reach, group: str) -> bool:
    return reach.groups is None or group in reach.groups


def _popular(groups: Sequence[Group]) -> set[GroupId]:
    sizes = sorted((group.members for group in groups if group.members), reverse=True)
    if not sizes:
        return set()
    least = sizes[math.ceil(len(groups) * POPULAR_SHARE) - 1 :][:1] or sizes[-1:]
    return {group.id for group in groups if (group.members or 0) >= least[0]}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _stamp(at: datetime | None) -> float:
    return (at or datetime.min.replace(tzinfo=UTC)).timestamp()
