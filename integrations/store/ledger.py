"""The ledger of letters: one row for each person and purpose, committed before SMTP is touched.

`planned → sending → sent | skipped | deferred | failed | in_doubt`. A row in `sending` whose lease ran out was left by
a worker that died: `marked` says whether the final dot was about to go out, and so whether sending again is safe.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.exc import IntegrityError

from core.community import GroupId, MemberId, SiteId
from core.consent import Cap, Purpose
from core.errors import (
    LostLeaseError,
    MailDeferredError,
    NotThereError,
    SenderPausedError,
    WithdrawnError,
    WrongStateError,
)
from core.jobs import WAIT
from core.letters import PlannedLetter, StopLetters, letter_key
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.senders import paused_reason, whole_sender_paused
from integrations.store.tables import UtcDateTime, jobs, messages, senders, suppressions
from integrations.store.work import (
    LEASE_S,
    MOST_CRASHES,
    Hand,
    any_due,
    claim,
    equals,
    give_back,
    in_hand,
    in_state,
    let_go,
    page,
    renew,
    settle,
)

_Columns = sa.ColumnCollection[str, sa.Column[Any]]

_WAITING = ("planned", "deferred")
TROUBLE = ("in_doubt", "failed", "bounced")
"""What somebody may want to look at: few of all letters."""
_STALE_AFTER = timedelta(seconds=60)
"""A letter that waited longer than this is looked at again: the person may have left meanwhile."""
_STALE_OF_A_JOB_AFTER = timedelta(hours=6)
RELEASED = "released while in doubt"
"""In place of a reply: perhaps somebody has this letter, so it is never planned anew."""
MAY_STILL_COME = timedelta(minutes=15)
"""How long after its lease a process that froze between mark and dot may wake up and send the dot after all: as
long as the mail server keeps a connection that says nothing (Postfix: 300 s)."""


@dataclass(frozen=True, slots=True)
class ClaimedLetter:
    id: str
    site: SiteId
    group: GroupId
    member: MemberId
    trigger: str
    purpose: Purpose
    template: str
    look_again: bool
    attempts: int
    due_at: datetime
    context: dict[str, Any] = field(repr=False)
    row: sa.Row[Any] = field(repr=False)


class Ledger:
    def __init__(self, database: Database, sender: str = "") -> None:
        """`sender` is the address whose pauses hold letters back (Senders)."""
        self._database = database
        self._sender = sender
        self._on_sqlite = database.engine.dialect.name == "sqlite"
        self._hand = Hand()
        self.hands_free = self._hand.free

    def claim(self, limit: int, *, job: str | None = None) -> list[ClaimedLetter]:
        """Take up to `limit` due letters, after sorting out what dead workers left in `sending`: letters of no job, so
        that none waits behind a job's, or of this one, as long as it runs."""
        lane = sa.and_(
            in_state(messages, (*_WAITING, "sending")),  # as the index has it
            messages.c.job.is_(None) if job is None else _of_running_job(job),
        )
        with self._database.begin() as tx:
            sort_out(tx, lane)
            rows = claim(
                tx,
                messages,
                _WAITING,
                lease=self._hand.take(),
                limit=limit,
                lease_s=LEASE_S,
                where=sa.and_(lane, ~whole_sender_paused(tx, self._sender)),
                state="sending",
            )
            for row in rows:
                if row.crashes >= MOST_CRASHES:
                    reason = f"its worker died {row.crashes} times over it"
                    settle(tx, messages, row, state="failed", reason=reason)
        return [
            ClaimedLetter(
                id=row.id,
                site=SiteId(row.site),
                group=GroupId(row.group_id),
                member=MemberId(row.member),
                trigger=row.trigger,
                purpose=Purpose(row.purpose),
                template=row.email_template,
                look_again=row.look_again or _is_stale(row, tx.now),
                attempts=row.attempts,
                due_at=row.due_at,
                context=row.context,
                row=row,
            )
            for row in rows
            if row.crashes < MOST_CRASHES
        ]

    def mark(
        self,
        letter: ClaimedLetter,
        *,
        purpose: Purpose,
        message_id: str,
        address_hashes: Sequence[str],
        evidence: str,
        domain: str = "",
        heeded: Collection[str] = (),
        cap: Cap | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Commit "the final dot is about to go out", unless the reader said stop in the meantime.

        `address_hashes`: the one to keep, then those under which the address was known before. From here on the lease
        is renewed until the server has answered, however long that takes. `heeded`: whose pauses keep this letter
        from going, as Senders names domains. Raises LostLeaseError when the lease ran out; WithdrawnError for a reader
        who said stop, or whose address has its letter of the same job: do not send it; MailDeferredError when another
        letter has just taken the last place under `cap`; SenderPausedError. `meanwhile` is called once, while it is
        committed, if it can be, behind what was begun before; or else before that.
        """
        subjects = all_subjects(letter.member, address_hashes)
        scopes = scopes_of(letter.group, purpose)
        values = {
            "letter": letter.id,
            "held": letter.row.lease,
            "at_site": letter.site,
            "reader": letter.member,
            "from_sender": self._sender,
            "as_purpose": str(purpose),
            "message_id": message_id,
            "address_hash": address_hashes[0],
            "domain": domain or None,
            "evidence": evidence,
            "most": cap.letters if cap else 0,
            **_numbered("subject", subjects),
            **_numbered("scope", scopes),
            **_numbered("heeded", heeded),
            **_numbered("hash", address_hashes),
        }
        shape = (len(subjects), len(scopes), len(heeded), len(address_hashes) if cap else 0)
        alone = cap is None or self._on_sqlite  # where only one writes at a time
        try:
            if alone:
                now = self._database.time_alone()
                ready = _marking(self._on_sqlite, now is None, *shape)
                if self._database.alone(*self._driven(ready, values, now, cap), meanwhile=meanwhile):
                    return
            else:
                meanwhile()
            with self._database.begin() as tx:
                if not alone:
                    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_number(address_hashes[0]))))
                ready = _marking(self._on_sqlite, False, *shape)
                found = tx.connection.exec_driver_sql(*self._driven(ready, values, tx.now, cap))
                if found.first() is None:
                    self._see_why_not(tx, letter, purpose, address_hashes, heeded, cap)
        except IntegrityError as exc:  # uq_messages_job_address
            raise WithdrawnError("this address has its letter of this job already") from exc

    def _see_why_not(
        self,
        tx: Transaction,
        letter: ClaimedLetter,
        purpose: Purpose,
        address_hashes: Sequence[str],
        heeded: Collection[str],
        cap: Cap | None,
    ) -> NoReturn:
        """Raise what keeps a letter from being marked."""
        if reason := suppression_reason(
            tx, letter.site, letter.group, letter.member, address_hashes, purpose
        ):
            raise WithdrawnError(reason)
        if reason := paused_reason(tx, self._sender, heeded):
            raise SenderPausedError(reason)
        if cap is not None:
            since = tx.now - timedelta(days=cap.days)
            had = _promotional_since(tx, letter.site, {letter.member: address_hashes}, since, but=letter.id)
            if len(had[letter.member]) >= cap.letters:
                raise MailDeferredError("another promotional letter to this person came first", counts=False)
        raise LostLeaseError("the lease of this letter ran out before its final dot")

    def _driven(
        self, ready: _Ready, values: Mapping[str, Any], now: datetime | None, cap: Cap | None = None
    ) -> tuple[str, tuple[object, ...]]:
        """A statement and its values as the driver takes them."""
        known = {**ready.fixed, **values}
        if now is not None:
            times = {"now": now, "until": now + timedelta(seconds=LEASE_S)}
            if cap is not None:
                times["since"] = now - timedelta(days=cap.days)
            dialect = self._database.engine.dialect
            known |= {name: _TIME.process_bind_param(at, dialect) for name, at in times.items()}
        return ready.text, tuple([known[name] for name in ready.names])

    def sent(self, letter: ClaimedLetter, reply: str) -> None:
        self.begin_sent(letter, reply)()

    def begin_sent(self, letter: ClaimedLetter, reply: str) -> Callable[[], None]:
        """As sent, but begun only, where there is a writer: what is returned waits until it is written."""
        now = self._database.time_alone()
        values = {
            "letter": letter.id,
            "held": letter.row.lease,
            "said": reply,
            "tries": letter.attempts + 1,
        }
        ready = _recording(self._on_sqlite, now is None)
        begun = self._database.begin_alone(*self._driven(ready, values, now))

        def wait() -> None:
            if not begun.hear() and not self._is_recorded(letter, reply):  # it may have been asked twice
                raise LostLeaseError("somebody else has this letter now")

        return wait

    def _is_recorded(self, letter: ClaimedLetter, reply: str) -> bool:
        found = sa.select(messages.c.id).where(
            messages.c.id == letter.id, messages.c.state == "sent", messages.c.reply == reply
        )
        with self._database.read() as tx:
            return tx.execute(found).first() is not None

    def skip(self, letter: ClaimedLetter, reason: str, evidence: str | None = None) -> None:
        self._end(letter, "skipped", reason, evidence=evidence)

    def fail(self, letter: ClaimedLetter, reason: str) -> None:
        """It never went out, so the mark is void: another letter of the job to this address may try."""
        self._end(letter, "failed", reason, marked=False)

    def doubt(self, letter: ClaimedLetter, reason: str) -> None:
        self._end(letter, "in_doubt", reason)

    def _end(self, letter: ClaimedLetter, state: str, reason: str, **values: Any) -> None:
        with self._database.begin() as tx:
            settle(
                tx, messages, letter.row, state=state, reason=reason, attempts=letter.attempts + 1, **values
            )

    def defer(
        self,
        letter: ClaimedLetter,
        *,
        delay_s: float,
        reason: str,
        counts: bool = True,
        evidence: str | None = None,
    ) -> None:
        with self._database.begin() as tx:
            settle(
                tx,
                messages,
                letter.row,
                state="deferred",
                marked=False,
                reason=reason,
                evidence=evidence,
                attempts=letter.attempts + int(counts),
                next_at=tx.now + timedelta(seconds=delay_s),
            )

    def give_back(self, claimed: Sequence[ClaimedLetter]) -> None:
        with self._database.begin() as tx:
            give_back(tx, messages, [item.row for item in claimed], state="planned")

    def let_go(self) -> None:
        """This process ends in the middle of its work. A letter whose final dot may be out is in doubt from now on."""
        sending = in_hand(messages, ("sending",))
        with self._database.begin() as tx:
            let_go(tx, messages, sending, ~messages.c.marked, lease=self._hand.lease, state="planned")
            # The lease stays: the answer may come in this very moment.
            tx.execute(
                sa.update(messages)
                .where(sending, messages.c.marked, messages.c.lease == (self._hand.lease or ""))
                .values(state="in_doubt", reason="the worker was ended before the mail server had answered")
            )

    def renew(self) -> None:
        """Keep what this process holds."""
        with self._database.begin() as tx:
            renew(tx, messages, ("sending",), lease=self._hand.lease, lease_s=LEASE_S)

    def promotional_since(
        self, site: SiteId, people: Mapping[MemberId, Sequence[str]], since: datetime
    ) -> Mapping[MemberId, list[datetime]]:
        """When promotional letters went to each of these people (given with the hashes of their address), or may
        have gone. Give at most some hundreds."""
        with self._database.read() as tx:
            return _promotional_since(tx, site, people, since)

    def sent_since(self, since: timedelta, domain: str | None = None) -> int:
        """How many letters the mail server took in this last stretch of time, of one recipient domain or of all."""
        with self._database.read() as tx:
            query = sa.select(sa.func.count()).where(messages.c.sent_at > tx.now - since)
            if domain is not None:
                query = query.where(messages.c.domain == domain)
            return tx.connection.scalar(query) or 0

    def waiting(
        self, site: SiteId, members: Collection[MemberId]
    ) -> dict[tuple[GroupId, MemberId], set[str]]:
        """What set off the letters that wait for these people, by group and member. Give at most some hundreds."""
        query = sa.select(messages.c.group_id, messages.c.member, messages.c.trigger).where(
            messages.c.site == site, messages.c.member.in_(members), in_state(messages, _WAITING)
        )
        found: dict[tuple[GroupId, MemberId], set[str]] = {}
        with self._database.read() as tx:
            for row in tx.execute(query):
                found.setdefault((row.group_id, row.member), set()).add(row.trigger)
        return found

    def any_due(self) -> bool:
        """Whether a letter of no job is due."""
        with self._database.read() as tx:
            held_back = whole_sender_paused(tx, self._sender)
            # What a dead worker left is sorted out whether or not anything may go.
            where = sa.and_(messages.c.job.is_(None), sa.or_(messages.c.state == "sending", ~held_back))
            return any_due(tx, messages, (*_WAITING, "sending"), where=where)

    def release(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002 (the row's own word)
        """Send a letter in doubt again, because somebody decided so; returns its row as it is now.

        It is due anew: the person and their consent are looked at again, and the mail server has its four days. One
        whose process never said how it ended waits first, as `reason` says. Raises NotThereError, WrongStateError.
        """
        with self._database.begin() as tx:
            # The job is locked before its letter, as each of its pages does.
            job = tx.connection.scalar(sa.select(messages.c.job).where(messages.c.id == id))
            state = _reopen(tx, job) if job is not None else None
            row = self._in_doubt(tx, id)
            if state in ("cancelled", "failed"):
                raise WrongStateError(f"the job of this letter is {state}")
            at = may_go_at(row, tx.now)
            waits = f"released; waits until {at:%Y-%m-%d %H:%M:%S} UTC, as its process may only be frozen"
            return self._decide(
                tx,
                row,
                who,
                "message.release",
                state="planned",
                marked=False,
                look_again=True,
                reason=waits if at > tx.now else None,
                reply=RELEASED,
                next_at=at,
                due_at=at,
            )

    def give_up(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002 (the row's own word)
        """Never send a letter in doubt, or one that was released and still waits; returns its row as it is now.

        Raises NotThereError, WrongStateError.
        """
        with self._database.begin() as tx:
            return self._decide(
                tx,
                self._in_doubt(tx, id, or_released=True),
                who,
                "message.give-up",
                state="failed",
                reason="given up: nobody knows whether the mail server has it",
            )

    def found_accepted(self, message_ids: Collection[str], *, who: str) -> int:
        """The mail server has these letters, by its own records; returns how many of them were in doubt, or had been
        released and still waited."""
        with self._database.begin() as tx:
            settled = tx.execute(
                sa.update(messages)
                .where(
                    sa.or_(messages.c.state == "in_doubt", _is_released()),
                    messages.c.message_id.in_(message_ids),
                )
                .values(
                    state="sent",
                    lease=None,
                    reason=None,
                    reply="found among what the mail server accepted",
                    sent_at=tx.now,
                )
                .returning(messages.c.id, messages.c.site)
            ).all()
            for row in settled:
                note(tx, who, "message.found", f"message {row.id}", site=row.site, after={"state": "sent"})
            return len(settled)

    def _in_doubt(self, tx: Transaction, id: str, *, or_released: bool = False) -> sa.Row[Any]:  # noqa: A002
        row = tx.execute(sa.select(messages).where(messages.c.id == id).with_for_update()).first()
        if row is None:
            raise NotThereError(f"there is no letter {id}")
        if row.state != "in_doubt" and not (or_released and was_released(row)):
            raise WrongStateError(f"the letter is {row.state}, not in doubt")
        return row

    def _decide(self, tx: Transaction, row: sa.Row[Any], who: str, action: str, **values: Any) -> sa.Row[Any]:
        # The lease stays: its holder may wake up with the mail server's answer, which says more than any decision.
        decided = sa.update(messages).where(messages.c.id == row.id).values(crashes=0, **values)
        now = tx.execute(decided.returning(messages)).one()
        note(
            tx,
            who,
            action,
            f"message {row.id}",
            site=row.site,
            before={"state": row.state},
            after={"state": now.state},
        )
        return now

    def page(
        self,
        *,
        id: str | None = None,  # noqa: A002 (the row's own word)
        site: SiteId | None = None,
        job: str | None = None,
        member: str | None = None,
        group: str | None = None,
        automation: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        reach: Reach = EVERYTHING,
        limit: int | None = 100,
        after: tuple[datetime, str] | None = None,
    ) -> list[sa.Row[Any]]:
        """Newest first, without contexts; `after` is `created_at` and `id` of the last row seen."""
        wanted = {
            "id": id,
            "site": site,
            "job": job,
            "member": member,
            "group_id": group,
            "automation": automation,
            "state": state,
            "reason": reason,
        }
        where = [*equals(messages, wanted), *reach.within(messages.c.site, messages.c.group_id)]
        if state in TROUBLE:
            where.append(in_state(messages, TROUBLE))  # as the index has it
        with self._database.read() as tx:
            return page(tx, messages, messages.c.created_at, where, limit=limit, after=after)

    def ids_of_job(self, job: str) -> list[str]:
        """Of all letters of a job, in order: from an index alone, in one statement, so none is missed that changes its
        state meanwhile."""
        query = sa.select(messages.c.id).where(messages.c.job == job)
        with self._database.read() as tx:
            return sorted(tx.execute(query).scalars())

    def by_ids(self, ids: Sequence[str]) -> list[sa.Row[Any]]:
        """These letters, up to some thousand, by their ids."""
        columns = (
            messages.c.id,
            messages.c.member,
            messages.c.group_id,
            messages.c.state,
            messages.c.reason,
            messages.c.sent_at,
        )
        with self._database.read() as tx:
            query = sa.select(*columns).where(messages.c.id.in_(ids)).order_by(messages.c.id)
            return list(tx.execute(query))

    def named_by(self, automations: Collection[str]) -> list[str]:
        """Those of these automations and steps that have letters."""
        with self._database.read() as tx:
            return [
                name
                for name in sorted(automations)
                if tx.connection.scalar(
                    sa.select(sa.literal(1)).where(messages.c.automation == name).limit(1)
                )
            ]

    def letters(self, site: SiteId | None = None) -> list[sa.Row[Any]]:
        """All rows, oldest first, optionally of one site."""
        query = sa.select(messages).order_by(messages.c.created_at, messages.c.id)
        if site is not None:
            query = query.where(messages.c.site == site)
        with self._database.read() as tx:
            return list(tx.execute(query))


# What is done for each letter is built and compiled once, and goes to the driver as it is: SQLAlchemy would take longer
# over it than the database does.

_TIME = UtcDateTime()
_MET: sa.ColumnElement[int] = sa.literal_column("1")


@dataclass(frozen=True, slots=True)
class _Ready:
    """A statement in the driver's words, the names of its values in their order, and those that are always the same."""

    text: str
    names: Sequence[str]
    fixed: Mapping[str, Any]


def _ready(statement: sa.Update, on_sqlite: bool) -> _Ready:
    dialect: sa.Dialect = (
        pysqlite.dialect(paramstyle="qmark") if on_sqlite else psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    )
    compiled = statement.compile(dialect=dialect)
    return _Ready(str(compiled), compiled.positiontup or (), compiled.params)


def _clock(asks: bool) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """Now and the end of a lease. `asks`: the server, within the statement."""
    if asks:
        now = sa.func.clock_timestamp()
        return now, now + sa.cast(timedelta(seconds=LEASE_S), sa.Interval)
    return sa.bindparam("now", type_=_TIME), sa.bindparam("until", type_=_TIME)


@functools.cache
def _marking(
    on_sqlite: bool, asks: bool, subjects: int, scopes: int, heeded: int, capped_hashes: int
) -> _Ready:
    """The mark of one letter, which meets no row when suppression_reason, paused_reason or the cap has something
    against it. `capped_hashes`: 0 for a letter without a cap."""
    now, until = _clock(asks)
    stopped = sa.exists().where(
        suppressions.c.site == sa.bindparam("at_site"),
        suppressions.c.subject.in_(_several("subject", subjects)),
        suppressions.c.scope.in_(_several("scope", scopes)),
        suppressions.c.cause != "full",
        sa.or_(suppressions.c.expires_at.is_(None), suppressions.c.expires_at > now),
    )
    where = [
        messages.c.id == sa.bindparam("letter"),
        messages.c.lease == sa.bindparam("held"),
        messages.c.state == "sending",
        messages.c.next_at > now,
        ~stopped,
    ]
    if heeded:
        paused = sa.exists().where(
            senders.c.sender == sa.bindparam("from_sender"),
            senders.c.domain.in_(_several("heeded", heeded)),
            senders.c.paused_until > now,
        )
        where.append(~paused)
    if capped_hashes:
        others = messages.alias("others")
        had = sa.select(sa.func.count()).where(
            others.c.site == sa.bindparam("at_site"),
            sa.or_(
                others.c.member == sa.bindparam("reader"),
                others.c.address_hash.in_(_several("hash", capped_hashes)),
            ),
            *_may_have_gone(others.c, sa.bindparam("since", type_=_TIME), sa.bindparam("letter")),
        )
        where.append(had.scalar_subquery() < sa.bindparam("most", type_=sa.Integer))
    values: dict[str, Any] = {
        name: sa.bindparam(name) for name in ("message_id", "address_hash", "domain", "evidence")
    }
    marking = sa.update(messages).where(*where).returning(_MET)
    return _ready(
        marking.values(marked=True, next_at=until, purpose=sa.bindparam("as_purpose"), **values), on_sqlite
    )


@functools.cache
def _recording(on_sqlite: bool, asks: bool) -> _Ready:
    """That the mail server took one letter."""
    now, _ = _clock(asks)
    recording = (
        sa.update(messages)
        .where(messages.c.id == sa.bindparam("letter"), messages.c.lease == sa.bindparam("held"))
        .values(
            state="sent",
            reason=None,
            sent_at=now,
            reply=sa.bindparam("said"),
            attempts=sa.bindparam("tries"),
            lease=None,
            crashes=0,
        )
    )
    return _ready(recording.returning(_MET), on_sqlite)


def _several(name: str, count: int) -> list[sa.BindParameter[Any]]:
    return [sa.bindparam(f"{name}{number}") for number in range(count)]


def _numbered(name: str, values: Iterable[str]) -> dict[str, str]:
    return {f"{name}{number}": value for number, value in enumerate(values)}


def sort_out(tx: Transaction, lane: sa.ColumnElement[bool]) -> None:
    """What dead workers left in `sending`: in doubt when the final dot may be out, else planned again."""
    left = sa.and_(lane, in_hand(messages, ("sending",)), messages.c.next_at <= tx.now)
    # The lease stays on the row: its holder may be alive after all and know how it ended.
    tx.execute(
        sa.update(messages)
        .where(left, messages.c.marked)
        .values(state="in_doubt", reason="the worker died between the final dot and the server's answer")
    )
    tx.execute(sa.update(messages).where(left, ~messages.c.marked).values(state="planned"))


def _of_running_job(job: str) -> sa.ColumnElement[bool]:
    runs = sa.exists().where(jobs.c.id == job, jobs.c.state == "running")
    return sa.and_(messages.c.job == job, messages.c.job.is_not(None), runs)


def _is_stale(row: sa.Row[Any], now: datetime) -> bool:
    """It waited so long that the person may have left meanwhile. A job looks at the whole group when it is confirmed,
    which serves its letters for some hours: asking for each of them would cost as many calls as there are letters."""
    if row.job is not None:
        return bool(now - row.due_at > _STALE_OF_A_JOB_AFTER)
    return bool(row.attempts > 0 or now - row.due_at > _STALE_AFTER)


def was_released(row: sa.Row[Any]) -> bool:
    """Somebody decided to send it again while it was in doubt, and it still waits."""
    return row.state in _WAITING and row.reply == RELEASED


def _reopen(tx: Transaction, job: str) -> str | None:
    """A job that was done has something to do again; returns the state it was in."""
    state: str | None = tx.connection.scalar(
        sa.select(jobs.c.state).where(jobs.c.id == job).with_for_update()
    )
    if state == "done":
        running = {"state": "running", "phase": WAIT, "cursor": {}, "next_at": tx.now, "finished_at": None}
        tx.execute(sa.update(jobs).where(jobs.c.id == job).values(updated_at=tx.now, **running))
    return state


def _is_released() -> sa.ColumnElement[bool]:
    return sa.and_(messages.c.state.in_(_WAITING), messages.c.reply == RELEASED)


def may_go_at(row: sa.Row[Any], now: datetime) -> datetime:
    """When this letter in doubt may go out again. A lease still on it is of a process that never said how it ended."""
    return now if row.lease is None else max(now, row.next_at + MAY_STILL_COME)


def suppression_reason(
    tx: Transaction,
    site: SiteId,
    group: GroupId,
    member: MemberId,
    address_hashes: Sequence[str],
    purpose: Purpose,
) -> str | None:
    return tx.connection.scalar(
        sa.select(suppressions.c.reason)
        .where(
            suppressions.c.site == site,
            suppressions.c.subject.in_(all_subjects(member, address_hashes)),
            suppressions.c.scope.in_(scopes_of(group, purpose)),
            suppressions.c.cause != "full",
            stands(tx),
        )
        .order_by(suppressions.c.scope)
        .limit(1)
    )


def scopes_of(group: GroupId, purpose: Purpose) -> list[str]:
    """Of the suppressions that end a letter of this group."""
    return ["all", f"group:{group}"] + (["promotional"] if purpose is Purpose.PROMOTIONAL else [])


def stands(tx: Transaction) -> sa.ColumnElement[bool]:
    """A suppression that has not expired."""
    return sa.or_(suppressions.c.expires_at.is_(None), suppressions.c.expires_at > tx.now)


def suppression_subjects(member: MemberId, address_hashes: Iterable[str | None]) -> list[str]:
    """Under which names a person is suppressed by what they said, or by what came back of their letters."""
    return [f"member:{member}", *(f"address:{known}" for known in address_hashes if known)]


def admins_subjects(member: MemberId, address_hashes: Iterable[str | None]) -> list[str]:
    """Under which names a person is suppressed by an admin: so the one never takes the other's place, and to lift the
    admin's frees nobody who said stop themselves."""
    return [f"admin:{subject}" for subject in suppression_subjects(member, address_hashes)]


def all_subjects(member: MemberId, address_hashes: Iterable[str | None]) -> list[str]:
    known = list(address_hashes)
    return suppression_subjects(member, known) + admins_subjects(member, known)


def _promotional_since(
    tx: Transaction,
    site: SiteId,
    people: Mapping[MemberId, Sequence[str]],
    since: datetime,
    but: str = "",
) -> dict[MemberId, list[datetime]]:
    owner = {known: member for member, hashes in people.items() for known in hashes if known}
    at = _gone_at(messages.c)
    rows = tx.execute(
        sa.select(messages.c.member, messages.c.address_hash, at.label("at")).where(
            messages.c.site == site,
            sa.or_(messages.c.member.in_(list(people)), messages.c.address_hash.in_(list(owner))),
            *_may_have_gone(messages.c, since, but),
        )
    )
    found: dict[MemberId, list[datetime]] = {member: [] for member in people}
    for row in rows:
        whose = {MemberId(row.member), owner.get(row.address_hash or "", MemberId(row.member))}
        for member in whose & found.keys():
            found[member].append(row.at)
    return found


def _gone_at(columns: _Columns) -> sa.ColumnElement[Any]:
    """Of one that is in doubt the end of its last lease, which is when it may have gone."""
    return sa.func.coalesce(columns.sent_at, columns.next_at, type_=columns.sent_at.type)


def _may_have_gone(columns: _Columns, since: Any, but: Any) -> list[sa.ColumnElement[bool]]:
    """Promotional letters that went since then, or may have, other than this one."""
    return [
        columns.purpose == str(Purpose.PROMOTIONAL),
        sa.or_(
            columns.state == "sent",
            columns.state == "in_doubt",
            sa.and_(columns.state == "sending", columns.marked),
        ),
        _gone_at(columns) > since,
        columns.id != but,
    ]


def _number(address_hash: str) -> int:
    """As PostgreSQL names a lock: a signed number of 64 bits."""
    return int.from_bytes(hashlib.sha256(address_hash.encode()).digest()[:8], "big", signed=True)


def plan_letters(tx: Transaction, site: SiteId, event: str | None, letters: Sequence[PlannedLetter]) -> None:
    """Write each letter once for its key. One that was only ever skipped may be planned anew: nobody got it."""
    plan_all_letters(tx, [(site, event, letter) for letter in letters])


def plan_all_letters(tx: Transaction, planned: Sequence[tuple[SiteId, str | None, PlannedLetter]]) -> None:
    """As plan_letters, of several events: each letter with its site and its event."""
    if not planned:
        return
    before = _planned_before(tx, planned)
    stopped: set[str] = set()
    for job in sorted({letter.job for _, _, letter in planned if letter.job}):
        heeds = tx.connection.scalar(sa.select(jobs.c.later_group).where(jobs.c.id == job).with_for_update())
        if heeds is None:  # it was cancelled since this event was looked at
            stopped.add(job)
        else:
            _reopen(tx, job)
    rows = [
        {
            "id": uuid.uuid4().hex,
            "site": site,
            "key": letter.key,
            "created_at": tx.now,
            "group_id": letter.group,
            "member": letter.member,
            "automation": letter.automation,
            "job": letter.job,
            "event": event,
            "trigger": letter.trigger,
            "purpose": str(letter.purpose),
            "email_template": letter.template,
            "context": dict(letter.context),
            "look_again": letter.look_again,
            "state": "skipped" if letter.reason else "planned",
            "reason": letter.reason,
            "next_at": letter.due_at,
            "due_at": letter.due_at,
            "attempts": 0,
            "crashes": 0,
            "marked": False,
            "lease": None,
            "address_hash": None,
            "evidence": None,
            "message_id": None,
            "reply": None,
        }
        for site, event, letter in planned
        if letter.job not in stopped
        and letter.key in before.get((site, event, letter.member, letter.automation), {letter.key})
    ]
    if not rows:
        return
    insert = tx.insert(messages)
    once = ("id", "site", "key", "created_at")
    tx.connection.execute(
        insert.on_conflict_do_update(
            index_elements=[messages.c.site, messages.c.key],
            set_={name: insert.excluded[name] for name in rows[0] if name not in once},
            where=sa.and_(messages.c.state == "skipped", sa.func.coalesce(messages.c.reply, "") != RELEASED),
        ),
        # In one order for all processes: two that plan for the same people wait for each other, but not in a circle.
        sorted(rows, key=lambda row: (row["site"], row["key"])),
    )


def _planned_before(
    tx: Transaction, planned: Sequence[tuple[SiteId, str | None, PlannedLetter]]
) -> dict[tuple[str, str | None, str, str | None], set[str]]:
    """What these events have led to before, by site, event, member and automation: the keys. A replay, or a second
    attempt, may be told another date of joining by Wix, and so arrive at another key."""
    dated = [
        (site, event, letter.member)
        for site, event, letter in planned
        if event is not None
        and letter.automation
        and letter.key != letter_key(letter.group, letter.member, letter.automation)
    ]
    found: dict[tuple[str, str | None, str, str | None], set[str]] = defaultdict(set)
    if dated:
        sites, events, members = (set(column) for column in zip(*dated, strict=True))
        rows = tx.execute(
            sa.select(
                messages.c.site, messages.c.event, messages.c.member, messages.c.automation, messages.c.key
            ).where(
                messages.c.site.in_(sites),
                messages.c.member.in_(members),
                messages.c.event.in_(events),
                messages.c.state != "skipped",
            )
        )
        for row in rows:
            found[row.site, row.event, row.member, row.automation].add(row.key)
    return found


def stop_letters(tx: Transaction, site: SiteId, stop: StopLetters) -> None:
    """Skip what has not gone out yet and lost its ground."""
    conditions = [messages.c.site == site]
    if stop.group is not None:
        conditions.append(messages.c.group_id == stop.group)
    if stop.member is not None:
        conditions.append(messages.c.member == stop.member)
    if stop.triggers is not None:
        conditions.append(messages.c.trigger.in_(stop.triggers))
    waits = messages.c.state.in_(_WAITING)
    tx.execute(
        sa.update(messages).where(*conditions, waits).values(state="skipped", reason=stop.reason, lease=None)
    )
    # What a worker has in hand it may yet give back.
    in_hand = sa.and_(messages.c.state == "sending", ~messages.c.marked)
    tx.execute(sa.update(messages).where(*conditions, in_hand).values(look_again=True))
