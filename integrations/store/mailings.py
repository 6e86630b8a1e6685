"""The letters of one job before they are let go: who was looked at, who may get one, who is still there.

They wait with a time that never comes (HELD) until their job is confirmed and its readers were seen in the group once
more (STILL_IN); from then on they are letters like any other, in a lane of their own.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId
from core.consent import Purpose
from core.jobs import Job
from core.letters import job_letter_key
from integrations.store.database import Database, Transaction
from integrations.store.jobs import HELD, STILL_IN
from integrations.store.tables import messages
from integrations.store.work import in_state

PAGE = 500


@dataclass(frozen=True, slots=True)
class Looked:
    """One member a job looked at; with a `reason` they get no letter."""

    member: MemberId
    group: GroupId
    reason: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Held:
    id: str
    member: MemberId
    group: GroupId


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said of a held letter: with a `reason` it is skipped."""

    id: str
    reason: str | None
    evidence: str
    address_hash: str | None = None


class Mailings:
    """What the phases of a mailing read; they write with the functions below."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def held(self, job: str, *, after: str, limit: int) -> list[Held]:
        """Letters that wait for their job, in the order of their ids, behind `after`."""
        query = (
            sa.select(messages.c.id, messages.c.member, messages.c.group_id)
            .where(
                messages.c.job == job,
                messages.c.job.is_not(None),
                in_state(messages, ["planned"]),
                messages.c.id > after,
                messages.c.next_at >= STILL_IN,
            )
            .order_by(messages.c.id)
            .limit(limit)
        )
        with self._database.read() as tx:
            return [Held(row.id, MemberId(row.member), GroupId(row.group_id)) for row in tx.execute(query)]

    def context_of_one(self, job: str) -> Mapping[str, Any] | None:
        """What one of the held letters of this job is filled with; None when there is none."""
        held = (messages.c.job == job, messages.c.job.is_not(None), in_state(messages, ["planned"]))
        with self._database.read() as tx:
            row = tx.execute(
                sa.select(messages.c.context).where(*held).order_by(messages.c.id).limit(1)
            ).first()
            return None if row is None else row.context

    def taken(self, job: str, address_hashes: Collection[str]) -> dict[str, str]:
        """Of these addresses those that a letter of this job goes to already, with its id."""
        query = sa.select(messages.c.address_hash, messages.c.id).where(
            messages.c.job == job,
            messages.c.job.is_not(None),
            in_state(messages, ["planned", "deferred", "sending", "sent", "in_doubt", "bounced"]),
            messages.c.address_hash.in_(list(address_hashes)),
        )
        with self._database.read() as tx:
            return {row.address_hash: row.id for row in tx.execute(query)}

    def groups_with_held(self, job: str) -> dict[GroupId, int]:
        """How many letters wait in each group."""
        number = sa.func.count().label("number")
        query = sa.select(messages.c.group_id, number).where(
            messages.c.job == job, messages.c.job.is_not(None), in_state(messages, ["planned"])
        )
        with self._database.read() as tx:
            return {
                GroupId(row.group_id): row.number
                for row in tx.execute(query.group_by(messages.c.group_id).order_by(messages.c.group_id))
            }


def plan_audience(
    tx: Transaction,
    job: Job,
    looked: Sequence[Looked],
    *,
    purpose: Purpose,
    template: str,
    only_new: bool = False,
) -> None:
    """One row for each member, however often they are looked at: who matched in one group is not taken out again by
    another in which they did not. `only_new`: who has a row keeps it as it is."""
    if not looked:
        return
    rows = [
        {
            "id": uuid.uuid4().hex,
            "site": job.site,
            "key": job_letter_key(job.id, found.member),
            "group_id": found.group,
            "member": found.member,
            "job": job.id,
            "trigger": job.kind,
            "purpose": str(purpose),
            "email_template": template,
            "context": dict(found.context),
            "look_again": False,
            "state": "skipped" if found.reason else "planned",
            "reason": found.reason,
            "attempts": 0,
            "crashes": 0,
            "marked": False,
            "next_at": HELD,
            "due_at": tx.now,
            "created_at": tx.now,
        }
        for found in looked
    ]
    insert = tx.insert(messages).values(rows)
    better = {name: insert.excluded[name] for name in ("group_id", "context", "state", "reason", "next_at")}
    if only_new:
        tx.execute(insert.on_conflict_do_nothing(index_elements=[messages.c.site, messages.c.key]))
        return
    tx.execute(
        insert.on_conflict_do_update(
            index_elements=[messages.c.site, messages.c.key],
            set_=better,
            where=sa.and_(messages.c.state == "skipped", insert.excluded.state == "planned"),
        )
    )


def write_verdicts(tx: Transaction, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        values: dict[str, Any] = {"evidence": verdict.evidence, "address_hash": verdict.address_hash}
        if verdict.reason is not None:
            values |= {"state": "skipped", "reason": verdict.reason}
        held = (messages.c.id == verdict.id, messages.c.state == "planned")
        tx.execute(sa.update(messages).where(*held).values(**values))


def note_still_in(tx: Transaction, job: Job, group: GroupId, members: Collection[MemberId]) -> None:
    keys = [job_letter_key(job.id, member) for member in members]
    tx.execute(
        sa.update(messages)
        .where(
            messages.c.site == job.site,
            messages.c.key.in_(keys),
            messages.c.group_id == group,
            messages.c.state == "planned",
            messages.c.next_at == HELD,
        )
        .values(next_at=STILL_IN)
    )


def let_go_page(tx: Transaction, letters: Sequence[str], gone: str) -> None:
    """Those of these held letters whose readers are still there are due now; the others are skipped: `gone`."""
    mine = sa.and_(messages.c.id.in_(letters), messages.c.state == "planned")
    tx.execute(
        sa.update(messages).where(mine, messages.c.next_at == STILL_IN).values(next_at=tx.now, due_at=tx.now)
    )
    tx.execute(
        sa.update(messages).where(mine, messages.c.next_at == HELD).values(state="skipped", reason=gone)
    )
