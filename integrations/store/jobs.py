"""What admins set off: one row for each job, claimed page by page, and the rows of what it does.

A page of work is written in the transaction that moves the job's cursor, so whoever dies in the middle has done nothing
that counts. Pause and cancel are states that every page and every claim of a letter reads. A job's letters are rows of
the ledger; people of a list and groups of a rollout are rows of `job_items`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.errors import AppError, LostLeaseError, NotThereError, WrongStateError
from core.jobs import CALL_OFF, CANCELLED, FINAL, RETRY, TIDY, WAIT, Counts, Job
from core.people import numbered
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.ledger import RELEASED, sort_out
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.senders import whole_sender_paused
from integrations.store.tables import job_items, jobs, messages
from integrations.store.work import (
    LEASE_S,
    MOST_CRASHES,
    Hand,
    any_due,
    claim,
    equals,
    in_state,
    let_go,
    page,
    renew,
    site_rests,
)

_WAITING = ("previewing", "previewed", "running", "cancelled", "failed", "done")
"""States in which there may be something to do; an ended job has nothing left when its time is NEVER."""
UNCONFIRMED_FOR = timedelta(days=7)
"""A preview is cancelled by itself then: who is in it is not who would be looked at anew."""
TIDY_AFTER = timedelta(days=30)
"""What a list of people says of them is kept for so long after its job has ended."""
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
HELD = datetime(9999, 12, 31, tzinfo=UTC)
"""When a letter is due whose job nobody has confirmed yet."""
STILL_IN = datetime(9999, 12, 30, tzinfo=UTC)
"""The same, for one whose reader was seen in the group again after the job was confirmed."""
_IN_HAND = ("planned", "deferred", "sending")
_OPEN = ("planned", "in_doubt")
_PAGE = 500


class KeyReusedError(AppError):
    """The same idempotency key came with another request."""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    job: Job
    attempts: int
    crashes: int
    row: sa.Row[Any] = field(repr=False)

    @property
    def site(self) -> SiteId:
        return self.job.site


@dataclass(frozen=True, slots=True)
class Item:
    """One row of `job_items`; `data` is the kind's own."""

    number: int
    state: str = "planned"
    reason: str | None = None
    group: GroupId | None = None
    member: MemberId | None = None
    attempts: int = 0
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """What one page came to, and where it leads: written in one transaction.

    `write` writes the page's rows. `state`: the job is "previewed", "done" or "failed" with this page. `plan` and
    `result` are merged into what is there, name by name. `after_s`: when to go on.
    """

    phase: str
    cursor: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[Transaction], None] | None = None
    state: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cost: Mapping[str, int] | None = None
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    error: str | None = None
    later_group: GroupId | None = None
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DueJob:
    """A running job whose letters are due. `context` is what its admin gave for all of them."""

    id: str
    site: SiteId
    context: Mapping[str, Any] = field(repr=False)


class Jobs:
    def __init__(self, database: Database, sender: str = "") -> None:
        """`sender` is the address whose pauses hold letters back (Senders)."""
        self._database = database
        self._sender = sender
        self._hand = Hand()
        self.hands_free = self._hand.free

    # What people do

    def create(
        self,
        site: SiteId,
        kind: str,
        params: Mapping[str, Any],
        *,
        who: str,
        state: str = "previewing",
        phase: str = "begin",
        key: str | None = None,
        request_hash: str = "",
    ) -> tuple[sa.Row[Any], bool]:
        """The job, and whether it is new: the same `key` of the same `who` is the same job.

        Raises KeyReusedError when the key stands for another request.
        """
        id_ = uuid.uuid4().hex
        with self._database.begin() as tx:
            new = tx.execute(
                tx.insert(jobs)
                .values(
                    id=id_,
                    site=site,
                    kind=kind,
                    params=dict(params),
                    who=who,
                    idempotency_key=key,
                    request_hash=request_hash,
                    state=state,
                    phase=phase,
                    cursor={},
                    plan={},
                    attempts=0,
                    crashes=0,
                    wix_calls=0,
                    next_at=tx.now,
                    created_at=tx.now,
                    updated_at=tx.now,
                )
                .on_conflict_do_nothing(index_elements=[jobs.c.who, jobs.c.idempotency_key])
                .returning(jobs.c.id)
            ).first()
            if new is not None:
                note(tx, who, "job.create", f"job {id_}", site=site, after={"kind": kind})
                return self._get(tx, id_), True
            row = tx.execute(sa.select(jobs).where(jobs.c.who == who, jobs.c.idempotency_key == key)).one()
            if row.request_hash != request_hash:
                raise KeyReusedError("this Idempotency-Key stands for another request")
            return row, False

    def confirm(self, id: str, token: str, *, who: str) -> sa.Row[Any]:  # noqa: A002 (the row's own word)
        """Let a previewed job run. Raises NotThereError, WrongStateError (also for a token of another preview)."""
        with self._database.begin() as tx:
            row = self._lock(tx, id)
            if row.state != "previewed":
                raise WrongStateError(f"the job is {row.state}, not previewed")
            if not secrets.compare_digest(token.encode(), (row.confirm_token or "").encode()):
                raise WrongStateError("this confirm_token is not the one of this preview")
            return self._act(
                tx, row, who, "confirm", state="running", next_at=tx.now, confirmed_at=tx.now, attempts=0
            )

    def pause(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002
        """No page is begun and no letter is claimed until it is resumed; what is in hand is finished."""
        with self._database.begin() as tx:
            row = self._lock(tx, id)
            if row.state != "running":
                raise WrongStateError(f"the job is {row.state}, not running")
            return self._act(tx, row, who, "pause", state="paused")

    def resume(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002
        with self._database.begin() as tx:
            row = self._lock(tx, id)
            if row.state != "paused":
                raise WrongStateError(f"the job is {row.state}, not paused")
            return self._act(tx, row, who, "resume", state="running", **self._go_on(tx, row))

    def cancel(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002
        """What has not begun is skipped, with the reason; a job that is done stops to heed who joins later."""
        with self._database.begin() as tx:
            row = self._lock(tx, id)
            if row.state == "done" and row.later_group is not None:
                return self._act(tx, row, who, "cancel", later_group=None)
            if row.state in FINAL:
                raise WrongStateError(f"the job is {row.state} already")
            return self._act(
                tx,
                row,
                who,
                "cancel",
                state="cancelled",
                phase=CALL_OFF,
                cursor={"reason": CANCELLED},
                later_group=None,
                finished_at=tx.now,
                **self._go_on(tx, row),
            )

    def retry_failed(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002
        """Do again what failed of a job that is done, and nothing else."""
        with self._database.begin() as tx:
            row = self._lock(tx, id)
            if row.state != "done":
                raise WrongStateError(f"the job is {row.state}, not done")
            letters = sa.exists().where(messages.c.job == row.id, _failed_for_sure())
            items = sa.exists().where(job_items.c.job == row.id, job_items.c.state == "failed")
            if not tx.connection.scalar(sa.select(sa.or_(letters, items))):
                raise WrongStateError("nothing of this job failed that may be tried again")
            return self._act(
                tx, row, who, "retry-failed", state="running", phase=RETRY, cursor={}, next_at=tx.now,
                finished_at=None, attempts=0,
            )  # fmt: skip

    # What people see

    def get(self, id: str) -> sa.Row[Any]:  # noqa: A002 (the row's own word)
        """Raises NotThereError."""
        with self._database.read() as tx:
            return self._get(tx, id)

    def page(
        self,
        *,
        id: str | None = None,  # noqa: A002 (the row's own word)
        site: str | None = None,
        kind: str | None = None,
        state: str | None = None,
        reach: Reach = EVERYTHING,
        limit: int | None = 100,
        after: tuple[datetime, str] | None = None,
    ) -> list[sa.Row[Any]]:
        """Newest first. Whose reach ends at groups sees the letters to these. `after`: `created_at` and `id` of the
        last row seen."""
        where = equals(jobs, {"id": id, "site": site, "kind": kind, "state": state})
        # The group that was found by what was asked for; what was asked for, while nobody looked yet.
        group = sa.func.coalesce(jobs.c.plan["groups", 0, 0].as_string(), jobs.c.params["group"].as_string())
        where += reach.within(jobs.c.site, sa.case((jobs.c.kind == "group_email", group)))
        with self._database.read() as tx:
            return page(tx, jobs, jobs.c.created_at, where, limit=limit, after=after)

    def counts(self, rows: Sequence[sa.Row[Any]]) -> dict[str, Counts]:
        """By the id of each of these jobs, counted from their rows."""
        with self._database.read() as tx:
            return self._counts(tx, rows)

    def items(
        self,
        id: str,  # noqa: A002 (the row's own word)
        *,
        state: str | None = None,
        after: int = -1,
        limit: int | None = 100,
    ) -> list[Item]:
        """Rows of a job in their order, after the one of this number."""
        with self._database.read() as tx:
            return read_items(tx, id, state=state, after=after, limit=limit)

    # What workers do

    def next_items(self, id: str, *, limit: int) -> tuple[list[Item], datetime | None]:  # noqa: A002
        """Rows of a job that are planned or in doubt and due, in their order; without any, when the next will be, or
        None when none waits for a time."""
        with self._database.read() as tx:
            if due := read_items(tx, id, state=_OPEN, due=True, limit=limit):
                return due, None
            waits = (job_items.c.job == id, job_items.c.state.in_(_OPEN), job_items.c.next_at < HELD)
            return [], tx.connection.scalar(sa.select(sa.func.min(job_items.c.next_at)).where(*waits))

    def move_item(
        self,
        id: str,  # noqa: A002 (the row's own word)
        number: int,
        *,
        was: str,
        state: str,
        reason: str | None = None,
    ) -> bool:
        """Put one row of a job from one state into another at once, whoever has its page in hand; False when it is in a
        third one."""
        with self._database.begin() as tx:
            moved = tx.execute(
                sa.update(job_items)
                .where(job_items.c.job == id, job_items.c.number == number, job_items.c.state == was)
                .values(state=state, reason=reason, changed_at=tx.now)
            )
            return moved.rowcount == 1

    def claim(self) -> ClaimedJob | None:
        """The job whose next page has been due for longest."""
        with self._database.begin() as tx:
            found = claim(tx, jobs, _WAITING, lease=self._hand.take(), limit=1, lease_s=LEASE_S)
            if not found:
                return None
            row = found[0]
            job = Job(
                id=row.id,
                site=SiteId(row.site),
                kind=row.kind,
                params=row.params,
                who=row.who,
                state=row.state,
                phase=row.phase,
                cursor=row.cursor,
                plan=row.plan,
                wix_calls=row.wix_calls,
            )
            return ClaimedJob(job, row.attempts, row.crashes, row)

    @contextlib.contextmanager
    def meanwhile(self, job: Job) -> Iterator[Transaction]:
        """A transaction in the middle of a page in hand: for a mark that must stand before what cannot be asked twice.
        Raises LostLeaseError."""
        with self._database.begin() as tx:
            mine = (jobs.c.id == job.id, jobs.c.lease == self._hand.lease, jobs.c.lease.is_not(None))
            if tx.execute(sa.select(jobs.c.id).where(*mine)).first() is None:
                raise LostLeaseError("somebody else has this job now")
            yield tx

    def settle(self, claimed: ClaimedJob, step: Step, *, wix_calls: int) -> None:
        """Write a page and where it leads. Raises LostLeaseError, then nothing is written.

        Of a job that was cancelled meanwhile the page is written, and its place is not: what it left is called off. One
        that was paused keeps that state, and the page that would have ended it is done once more.
        """
        with self._database.begin() as tx:
            row = self._mine(tx, claimed)
            if step.write is not None:
                step.write(tx)
            values: dict[str, Any] = {"wix_calls": row.wix_calls + wix_calls, "error": None}
            if row.state in (claimed.job.state, "paused"):
                values |= {
                    "plan": {**row.plan, **step.plan},
                    "next_at": tx.now + timedelta(seconds=step.after_s),
                }
                if step.cost is not None:
                    values["cost"] = dict(step.cost)
                if step.later_group is not None:
                    values["later_group"] = step.later_group
                if step.result is not None:
                    values["result"] = {**(row.result or {}), **step.result}
                if step.state is None or row.state == claimed.job.state:
                    values |= {"phase": step.phase, "cursor": dict(step.cursor)}
            if step.state is not None and row.state == claimed.job.state:
                values |= _ended(tx, step)
            self._give_back(tx, claimed, attempts=0, **values)

    def postpone(
        self, claimed: ClaimedJob, *, delay_s: float, error: str | None, counts: bool, wix_calls: int
    ) -> None:
        """The page is tried again later; nothing of it was written."""
        with self._database.begin() as tx:
            row = self._mine(tx, claimed)
            values: dict[str, Any] = {"next_at": tx.now}
            if row.state in (claimed.job.state, "paused"):
                values = {"next_at": tx.now + timedelta(seconds=delay_s), "error": error}
                values |= {"attempts": claimed.attempts + int(counts)}
            self._give_back(tx, claimed, wix_calls=row.wix_calls + wix_calls, **values)

    def fail(self, claimed: ClaimedJob, error: str, *, wix_calls: int = 0) -> None:
        """The job cannot go on; what has not begun of it gets this reason."""
        with self._database.begin() as tx:
            row = self._mine(tx, claimed)
            values: dict[str, Any] = {"wix_calls": row.wix_calls + wix_calls, "next_at": tx.now}
            if row.state in (claimed.job.state, "paused"):
                values |= {
                    "state": "failed",
                    "error": error,
                    "finished_at": tx.now,
                    "later_group": None,
                    "phase": CALL_OFF,
                    "cursor": {"reason": f"the job failed: {error}"},
                }
            self._give_back(tx, claimed, **values)

    def call_off(self, claimed: ClaimedJob) -> None:
        """One page of what an ended job had not begun; what is in somebody's hand is waited for."""
        reason = claimed.job.cursor.get("reason", CANCELLED)
        with self._database.begin() as tx:
            self._mine(tx, claimed)
            sort_out(tx, sa.and_(messages.c.job == claimed.job.id, messages.c.job.is_not(None)))
            chosen = (
                sa.select(messages.c.id)
                .where(messages.c.job == claimed.job.id, messages.c.state.in_(("planned", "deferred")))
                .limit(_PAGE)
            )
            letters = tx.execute(
                sa.update(messages)
                .where(messages.c.id.in_(chosen))
                .values(state="skipped", reason=reason, lease=None)
            )
            rows = tx.execute(
                sa.update(job_items)
                .where(job_items.c.job == claimed.job.id, job_items.c.state == "planned")
                .values(state="skipped", reason=reason, changed_at=tx.now)
            )
            if letters.rowcount or rows.rowcount:
                self._give_back(tx, claimed, next_at=tx.now)
            elif self._unfinished(tx, claimed.job.id):
                self._give_back(tx, claimed, next_at=tx.now + timedelta(seconds=2))
            else:
                self._give_back(tx, claimed, phase=TIDY, next_at=tx.now + TIDY_AFTER)

    def expire(self, claimed: ClaimedJob) -> None:
        """Nobody said yes to a preview."""
        reason = f"nobody confirmed the job within {UNCONFIRMED_FOR.days} days"
        with self._database.begin() as tx:
            row = self._mine(tx, claimed)
            values: dict[str, Any] = {}
            if row.state == "previewed":
                values = {"state": "cancelled", "phase": CALL_OFF, "cursor": {"reason": reason}}
                values |= {"error": reason, "finished_at": tx.now, "next_at": tx.now, "later_group": None}
            self._give_back(tx, claimed, **values)

    def tidy(self, claimed: ClaimedJob) -> None:
        """Of a list of people, whose job ended long ago, only ids and what came of each row are kept."""
        job = claimed.job.id
        with self._database.begin() as tx:
            row = self._mine(tx, claimed)
            values: dict[str, Any] = {}
            if row.phase == TIDY and row.state in FINAL:  # else somebody has it done again in this moment
                values["next_at"] = NEVER
                if "people" in row.params:
                    for item in read_items(tx, job, limit=None):
                        if item.data.get("candidates"):
                            _put_data(tx, job, item.number, {**item.data, "candidates": []})
                    values["params"] = {**row.params, "people": []}
                    values["result"] = {**(row.result or {}), "to_fix": []}
            self._give_back(tx, claimed, **values)

    def let_go(self) -> None:
        """This process ends in the middle of its work."""
        with self._database.begin() as tx:
            let_go(tx, jobs, lease=self._hand.lease)

    def renew(self) -> None:
        """Keep what this process holds."""
        with self._database.begin() as tx:
            renew(tx, jobs, (*_WAITING, "paused"), lease=self._hand.lease, lease_s=LEASE_S)

    def any_due(self) -> bool:
        """Whether a page, or a letter of a running job, is due."""
        with self._database.read() as tx:
            return any_due(tx, jobs, _WAITING) or bool(self._with_due_letters(tx, limit=1))

    def with_due_letters(self, chance: float) -> DueJob | None:
        """Any one of the running jobs that have letters due; `chance`, in [0, 1), says which, so that each gets on."""
        with self._database.read() as tx:
            found = self._with_due_letters(tx, limit=1000)
            if not found:
                return None
            row = found[int(chance * len(found))]
            return DueJob(row.id, SiteId(row.site), row.params.get("context") or {})

    def is_running(self, id: str) -> bool:  # noqa: A002 (the row's own word)
        with self._database.read() as tx:
            return tx.connection.scalar(sa.select(jobs.c.state).where(jobs.c.id == id)) == "running"

    def unfinished(self, id: str) -> datetime | None:  # noqa: A002
        """When the next letter of this job is due that is in no final state; None when there is none."""
        with self._database.read() as tx:
            return self._unfinished(tx, id)

    def look_again(self, id: str) -> None:  # noqa: A002 (the row's own word)
        """A job that waits for its letters, of which none is left, is due at once."""
        with self._database.begin() as tx:
            left = sa.exists().where(
                messages.c.job == id, in_state(messages, _IN_HAND), messages.c.job.is_not(None)
            )
            waits = (jobs.c.state == "running", jobs.c.phase == WAIT, jobs.c.lease.is_(None))
            tx.execute(sa.update(jobs).where(jobs.c.id == id, *waits, ~left).values(next_at=tx.now))

    def failed_letters(self, id: str, *, after: str) -> list[str]:  # noqa: A002
        """One page of ids, in their order, behind `after`."""
        failed = (messages.c.job == id, _failed_for_sure(), messages.c.id > after)
        query = sa.select(messages.c.id).where(*failed).order_by(messages.c.id).limit(_PAGE)
        with self._database.read() as tx:
            return list(tx.execute(query).scalars())

    def heeding(self, site: SiteId, groups: Collection[GroupId]) -> dict[GroupId, list[Job]]:
        """Confirmed jobs that also write to whoever joins one of these groups later. A group without one is absent."""
        confirmed = jobs.c.confirmed_at.is_not(None)
        query = sa.select(jobs).where(jobs.c.site == site, jobs.c.later_group.in_(groups), confirmed)
        found: dict[GroupId, list[Job]] = {}
        with self._database.read() as tx:
            for row in tx.execute(query):
                job = Job(
                    row.id, SiteId(row.site), row.kind, row.params, row.who, row.state, row.phase, {}, row.plan
                )  # fmt: skip
                found.setdefault(GroupId(row.later_group), []).append(job)
        return found

    def _with_due_letters(self, tx: Transaction, limit: int) -> Sequence[sa.Row[Any]]:
        due = (
            sa.exists()
            .where(
                messages.c.job == jobs.c.id,
                in_state(messages, _IN_HAND),
                messages.c.job.is_not(None),
                messages.c.next_at <= tx.now,
                # What a dead worker left is sorted out whether or not anything may go.
                sa.or_(messages.c.state == "sending", ~whole_sender_paused(tx, self._sender)),
            )
            .correlate(jobs)
        )
        running = in_state(jobs, ("running",))
        query = sa.select(jobs).where(running, ~site_rests(tx, jobs), due).limit(limit)
        return tx.execute(query).all()

    def _unfinished(self, tx: Transaction, id: str) -> datetime | None:  # noqa: A002
        waits = (messages.c.job == id, in_state(messages, _IN_HAND), messages.c.job.is_not(None))
        found: datetime | None = tx.connection.scalar(
            sa.select(messages.c.next_at).where(*waits).order_by(messages.c.next_at).limit(1)
        )
        return found

    def _get(self, tx: Transaction, id: str) -> sa.Row[Any]:  # noqa: A002
        row = tx.execute(sa.select(jobs).where(jobs.c.id == id)).first()
        if row is None:
            raise NotThereError(f"there is no job {id}")
        return row

    def _lock(self, tx: Transaction, id: str) -> sa.Row[Any]:  # noqa: A002
        row = tx.execute(sa.select(jobs).where(jobs.c.id == id).with_for_update()).first()
        if row is None:
            raise NotThereError(f"there is no job {id}")
        return row

    def _mine(self, tx: Transaction, claimed: ClaimedJob) -> sa.Row[Any]:
        mine = sa.select(jobs).where(jobs.c.id == claimed.job.id, jobs.c.lease == claimed.row.lease)
        row = tx.execute(mine.with_for_update()).first()
        if row is None:
            raise LostLeaseError("somebody else has this job now")
        return row

    def _give_back(self, tx: Transaction, claimed: ClaimedJob, **values: Any) -> None:
        tx.execute(
            sa.update(jobs)
            .where(jobs.c.id == claimed.job.id)
            .values(**{"lease": None, "crashes": 0, "updated_at": tx.now} | values)
        )

    def _go_on(self, tx: Transaction, row: sa.Row[Any]) -> dict[str, Any]:
        """Due at once, unless somebody has a page of it in hand: they finish it first."""
        return {} if row.lease is not None and row.next_at > tx.now else {"next_at": tx.now}

    def _act(self, tx: Transaction, row: sa.Row[Any], who: str, verb: str, **values: Any) -> sa.Row[Any]:
        acted = sa.update(jobs).where(jobs.c.id == row.id).values(updated_at=tx.now, **values)
        now = tx.execute(acted.returning(jobs)).one()
        states = {"before": {"state": row.state}, "after": {"state": now.state}}
        note(tx, who, f"job.{verb}", f"job {row.id}", site=row.site, **states)
        return now

    def _counts(self, tx: Transaction, rows: Sequence[sa.Row[Any]]) -> dict[str, Counts]:
        ids = [row.id for row in rows]
        numbers: dict[str, dict[str, int]] = {id_: {} for id_ in ids}
        reasons: dict[str, dict[str, int]] = {id_: {} for id_ in ids}
        for table in (messages, job_items):
            number = sa.func.count().label("number")
            # Spelt out, or PostgreSQL takes the two places of the expression for two different ones.
            skipped = table.c.state == sa.literal_column("'skipped'")
            why = sa.case((skipped, table.c.reason)).label("why")
            query = sa.select(table.c.job, table.c.state, why, number).where(table.c.job.in_(ids))
            for found in tx.execute(query.group_by(table.c.job, table.c.state, why)):
                by_state = numbers[found.job]
                by_state[found.state] = by_state.get(found.state, 0) + found.number
                if found.why:
                    reasons[found.job][found.why] = reasons[found.job].get(found.why, 0) + found.number
        return {
            id_: Counts(
                total=sum(by_state.values()),
                done=sum(by_state.get(state, 0) for state in ("done", "sent", "bounced")),
                skipped=by_state.get("skipped", 0),
                failed=by_state.get("failed", 0),
                in_doubt=by_state.get("in_doubt", 0),
                skipped_by_reason=dict(sorted(reasons[id_].items(), key=lambda found: (-found[1], found[0]))),
            )
            for id_, by_state in numbers.items()
        }


def _ended(tx: Transaction, step: Step) -> dict[str, Any]:
    """What a step writes that ends a preview or a job."""
    if step.state == "previewed":
        token = secrets.token_hex(16)
        return {"state": "previewed", "confirm_token": token, "next_at": tx.now + UNCONFIRMED_FOR}
    return {
        "state": step.state,
        "error": step.error,
        "finished_at": tx.now,
        "phase": TIDY,
        "next_at": tx.now + TIDY_AFTER,
    }


def read_items(
    tx: Transaction,
    job: str,
    *,
    state: str | Collection[str] | None = None,
    due: bool = False,
    members: Collection[MemberId] | None = None,
    after: int = -1,
    limit: int | None = 100,
) -> list[Item]:
    """In their order; `due` leaves out those that wait for another try, `members` all that are about nobody of them."""
    where = [job_items.c.job == job, job_items.c.number > after]
    if members is not None:
        where.append(job_items.c.member.in_(members))
    if state is not None:
        where.append(job_items.c.state.in_([state] if isinstance(state, str) else state))
    if due:
        where.append(sa.or_(job_items.c.next_at.is_(None), job_items.c.next_at <= tx.now))
    query = sa.select(job_items).where(*where).order_by(job_items.c.number).limit(limit)
    return [
        Item(
            row.number,
            row.state,
            row.reason,
            GroupId(row.group_id) if row.group_id else None,
            MemberId(row.member) if row.member else None,
            row.attempts,
            row.data,
        )
        for row in tx.execute(query)
    ]


def forget_listed(tx: Transaction, site: SiteId, member: MemberId, reason: str) -> None:
    """Erase what lists of people said of somebody, beside their id; what was to be done for them is skipped with this
    reason."""
    named = sa.cast(job_items.c.data, sa.Text).contains(json.dumps(member), autoescape=True)
    # Of a tidied job no row names anybody but whom it is about.
    untidied = sa.select(jobs.c.id).where(jobs.c.site == site, jobs.c.next_at < NEVER)
    found = {
        *tx.execute(
            sa.select(job_items.c.job).where(job_items.c.site == site, job_items.c.member == member)
        ).scalars(),
        *tx.execute(sa.select(job_items.c.job).where(job_items.c.job.in_(untidied), named)).scalars(),
    }
    about = sa.or_(job_items.c.member == member, named)
    for job in sorted(found):
        row = tx.execute(sa.select(jobs).where(jobs.c.id == job).with_for_update()).one()
        items = tx.execute(sa.select(job_items).where(job_items.c.job == job, about)).all()
        theirs = {item.number for item in items if item.member == member}
        for item in items:
            if item.number in theirs:
                kept = {"row": item.number, "private": None, "how": "", "candidates": []}
                _put_data(tx, job, item.number, kept)
            elif "candidates" in item.data:
                _put_data(tx, job, item.number, _without(item.data, member))
        undone = (job_items.c.job == job, job_items.c.member == member)
        tx.execute(
            sa.update(job_items)
            .where(*undone, job_items.c.state.in_(("planned", "in_doubt", "failed")))
            .values(state="skipped", reason=reason, next_at=None, changed_at=tx.now)
        )
        values: dict[str, Any] = {}
        if people := row.params.get("people"):
            # The line stays, or rows that are known by their places would be known by their lines from now on.
            people = [
                {"row": listed.get("row")} if number in theirs else listed
                for number, listed in numbered(people)
            ]
            values["params"] = {**row.params, "people": people}
        if to_fix := (row.result or {}).get("to_fix"):
            values["result"] = {**row.result, "to_fix": [_without(entry, member) for entry in to_fix]}
        if values:
            tx.execute(sa.update(jobs).where(jobs.c.id == job).values(**values))


def _without(entry: Mapping[str, Any], member: MemberId) -> dict[str, Any]:
    return {**entry, "candidates": [each for each in entry["candidates"] if each["member"] != member]}


def _put_data(tx: Transaction, job: str, number: int, data: Mapping[str, Any]) -> None:
    this = (job_items.c.job == job, job_items.c.number == number)
    tx.execute(sa.update(job_items).where(*this).values(data=dict(data)))


def write_items(tx: Transaction, job: Job, items: Iterable[Item], *, next_at: datetime | None = None) -> None:
    """Insert these rows of a job, or write them anew where they are there."""
    for item in items:
        values = {
            "site": job.site,
            "group_id": item.group,
            "member": item.member,
            "state": item.state,
            "reason": item.reason,
            "attempts": item.attempts,
            "next_at": next_at if item.state in _OPEN else None,
            "data": dict(item.data),
            "changed_at": tx.now,
        }
        tx.execute(
            tx.insert(job_items)
            .values(job=job.id, number=item.number, **values)
            .on_conflict_do_update(index_elements=[job_items.c.job, job_items.c.number], set_=values)
        )


def release_items(tx: Transaction, job: str) -> None:
    """Rows that were held until the yes are due."""
    tx.execute(
        sa.update(job_items)
        .where(job_items.c.job == job, job_items.c.state == "planned")
        .values(next_at=None)
    )


def _failed_for_sure() -> sa.ColumnElement[bool]:
    """Nobody has this letter: one that was in doubt and given up may have arrived."""
    doubted = sa.or_(messages.c.marked, sa.func.coalesce(messages.c.reply, "") == RELEASED)
    return sa.and_(messages.c.state == "failed", ~doubted)


def plan_again(tx: Transaction, job: str, letters: Collection[str]) -> None:
    """Make what failed of this job planned anew: these letters, held until their readers were looked for in the group
    again, and all its other rows."""
    tx.execute(
        sa.update(messages)
        .where(messages.c.id.in_(letters), _failed_for_sure())
        .values(state="planned", reason=None, attempts=0, crashes=0, next_at=HELD, due_at=tx.now)
    )
    tx.execute(
        sa.update(job_items)
        .where(job_items.c.job == job, job_items.c.state == "failed")
        .values(state="planned", reason=None, attempts=0, next_at=None, changed_at=tx.now)
    )


def crashed_too_often(claimed: ClaimedJob) -> bool:
    return claimed.crashes >= MOST_CRASHES
