"""The people of a list on their way into a group: rows of `job_items` of the kind `create_group`.

planned: Wix has not been asked yet. in_doubt: it has, and nobody has seen yet what came of it. `data`: `row` of the
list, `how` they were found, `private`, `candidates` of a row in doubt.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import sqlalchemy as sa

from core.community import GroupId, MemberId
from core.jobs import Job
from integrations.store.database import Transaction
from integrations.store.jobs import NEVER, Item, read_items
from integrations.store.tables import job_items, jobs

INVITED = "only invited: their profile is private, so they have to accept first"
INVITED_BEFORE = "was invited by an earlier job and has not accepted yet"
ASKED = "Wix took them, and does not list them in the group yet"
UNSURE = "Wix did not answer whether they were invited"
ON_THE_WAY = ("planned", "in_doubt")


def rows_of(tx: Transaction, job: Job, members: Collection[MemberId]) -> dict[MemberId, int]:
    """Which of these members rows of the job stand for already, and which row of the list that is."""
    items = read_items(tx, job.id, members=members, limit=None)
    return {item.member: item.data["row"] for item in items if item.member is not None}


def see_inside(
    tx: Transaction, job: Job, group: GroupId, members: Collection[MemberId], state: str, reason: str
) -> None:
    """These are in the group: so their rows get this state, unless there is nothing to be done for them any more."""
    items = read_items(tx, job.id, members=members, limit=None)
    mark(tx, job, [item for item in items if item.state in ON_THE_WAY], state, reason, group)


def see_invited(tx: Transaction, job: Job, group: GroupId, state: str) -> None:
    """Whom an earlier job invited, or may have invited, get this state and the reason: nobody is invited twice, and who
    has a public profile now is let in at once."""
    earlier = job_items.alias("earlier")
    invited = sa.exists().where(
        earlier.c.site == job_items.c.site,
        earlier.c.member == job_items.c.member,
        earlier.c.group_id == group,
        earlier.c.job != job.id,
        sa.or_(
            sa.and_(earlier.c.state == "skipped", earlier.c.reason.in_((INVITED, INVITED_BEFORE))),
            sa.and_(earlier.c.state == "in_doubt", earlier.c.reason.in_((ASKED, UNSURE))),
        ),
    )
    query = sa.select(job_items.c.number).where(
        job_items.c.job == job.id, job_items.c.state == "planned", invited
    )
    numbers = set(tx.execute(query).scalars())
    items = read_items(tx, job.id, state="planned", limit=None) if numbers else []
    again = [item for item in items if item.number in numbers and item.data["private"] is not False]
    mark(tx, job, again, state, INVITED_BEFORE, group)


def mark(
    tx: Transaction, job: Job, items: Iterable[Item], state: str, reason: str | None, group: GroupId
) -> None:
    """Whoever was forgotten since the rows were read stays as they are."""
    numbers = [item.number for item in items]
    these = (job_items.c.job == job.id, job_items.c.number.in_(numbers), job_items.c.state.in_(ON_THE_WAY))
    values = {"state": state, "reason": reason, "group_id": group, "next_at": None, "changed_at": tx.now}
    tx.execute(sa.update(job_items).where(*these).values(values))


def wait_to_create(tx: Transaction, job: Job, settle_s: float) -> float:
    """0: this job may create its group now, and that it tried stands in its plan. Else so many seconds to wait first.

    A group that this job, or another one for the same group, tried to create a moment ago may be there, though Wix's
    lists do not show it yet.
    """
    since = tx.now - timedelta(seconds=settle_s)
    lately = (
        jobs.c.site == job.site,
        jobs.c.kind == job.kind,
        jobs.c.updated_at > since - timedelta(hours=1),
        jobs.c.next_at < NEVER,  # an index: what is not over for long
    )
    # All of them in one order, so that of two jobs at the same moment one waits and sees the other's mark.
    rows = tx.execute(sa.select(jobs).where(*lately).order_by(jobs.c.id).with_for_update()).all()
    tried = [
        datetime.fromisoformat(row.plan["tried_at"])
        for row in rows
        if "tried_at" in row.plan and _same_group(row.params["group"], job.params["group"])
    ]
    if tried and max(tried) > since:
        return (max(tried) - since).total_seconds()
    mine = sa.select(jobs.c.plan).where(jobs.c.id == job.id)
    plan = {**tx.execute(mine).scalar_one(), "tried_at": tx.now.isoformat()}
    tx.execute(sa.update(jobs).where(jobs.c.id == job.id).values(plan=plan, updated_at=tx.now))
    return 0.0


def _same_group(one: dict[str, str], other: dict[str, str]) -> bool:
    return fold_name(one["name"]) == fold_name(other["name"]) and one["creatorId"] == other["creatorId"]


def fold_name(name: str) -> str:
    """The form in which names of groups are compared."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
