"""How a sender fares: failures in a row, pauses, and who may try again. One row for all readers, one for each domain
that made trouble.

A run of failures pauses the sender, or one domain. When the pause is over one worker gets through and tries, while
it is still on for the others: success lifts it, failure makes it longer. Only who tried may do either. What comes in
late from before the pause says nothing new.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.pacing import FIRST_REST, TRIP_AFTER, Pause, pause_length
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.tables import senders

log = logging.getLogger(__name__)

PROBE = timedelta(minutes=1)
"""Who tries and is never heard of again holds up the next one for so long."""
CALM_S = 1.0
"""How long one look at the domains of a batch serves. A mark looks once more (`heeded`)."""


class Senders:
    """The rows of one sender, an address of ours. Domains are lower case, "" is all of them. Build it after the fork.

    What was read of a domain is kept until it is read again, so that success costs nothing where all is well.
    """

    def __init__(self, database: Database, sender: str) -> None:
        self._database = database
        self._sender = sender
        self._troubled: set[str] = set()
        self._trials: dict[str, int] = {}
        """Domain: the number of pauses at the time when this process got through to try."""
        self._first_sent_at: datetime | None = None
        self._calm: frozenset[str] = frozenset()
        """Domains without a pause, until `_calm_until` by the monotonic clock."""
        self._calm_until = 0.0

    def look(self, domains: Collection[str]) -> None:
        """One question for all of a batch: `paused` asks nothing for a moment where all is well."""
        with self._database.read() as tx:
            rows = self._read(tx, domains)
        asked = {"", *domains}
        self._calm = frozenset(asked - {row.domain for row in rows if row.paused_until is not None})
        self._calm_until = time.monotonic() + CALM_S

    def look_anew(self) -> None:
        """What `look` saw is no longer so."""
        self._calm_until = 0.0

    def heeded(self, domain: str) -> list[str]:
        """Whose pauses keep a letter to this domain from going at its last moment: not those that it is to try."""
        return [name for name in ("", domain) if name not in self._trials]

    def paused(self, domain: str = "") -> Pause | None:
        """The pause that keeps letters to this domain from going, the whole sender's first; None: write.

        Asked before each letter. When a pause is over None is also the leave to try, given to one, so whoever gets
        it should send: the others see the pause go on for a minute. Whoever asks has done with the letter before, so
        a leave of theirs that came to nothing is gone.
        """
        self._trials.clear()
        if {"", domain} <= self._calm and time.monotonic() < self._calm_until:
            return None
        with self._database.read() as tx:
            rows = self._read(tx, [domain])
            over = [row for row in rows if row.paused_until is not None]
            if not over:
                return None
            if pause := _running(over, tx.now):
                return pause
        with self._database.begin() as tx:
            rows = [row for row in self._read(tx, [domain], lock=True) if row.paused_until is not None]
            if pause := _running(rows, tx.now):
                return pause
            for row in rows:
                self._update(tx, row.domain, paused_until=tx.now + PROBE)
        for row in rows:
            self._trials[row.domain] = row.pauses
            log.info("sender.tried", extra={"domain": row.domain, "reason": row.reason})
        return None

    def pauses(self) -> dict[str, Pause]:
        """All pauses by domain, "" for the whole sender's. One whose `until` is past is over as soon as somebody
        tried: `paused` says to whom."""
        with self._database.read() as tx:
            rows = tx.execute(self._mine(senders.c.paused_until.is_not(None)))
            return {row.domain: _pause_of(row) for row in rows}

    def failed(self, domain: str, reason: str) -> Pause | None:
        """One more failure in a row of this domain, or of the whole sender for "": something that is not about one
        person's address. Returns the pause it led to, if it did."""
        with self._database.begin() as tx:
            row = self._count_failure(tx, domain)
            self._troubled.add(domain)
            if row.paused_until is None and row.failures < TRIP_AFTER:
                return None
            pause = self._pause(tx, row, reason, pause_length(row.pauses))
        return _logged(pause, row)

    def pause(self, domain: str, reason: str, for_s: float | None = None) -> Pause:
        """Pause at once, for so long, or as long as is next; a pause that runs already is not made shorter."""
        with self._database.begin() as tx:
            row = self._count_failure(tx, domain)
            self._troubled.add(domain)
            length = pause_length(row.pauses, FIRST_REST) if for_s is None else timedelta(seconds=for_s)
            pause = self._pause(tx, row, reason, length, at_least=for_s is not None)
        if pause is None:
            return _pause_of(row)
        return _logged(pause, row) or pause

    def worked(self, domain: str) -> None:
        """A letter to this domain was taken: the runs of failures end, and so does the pause of who tried.

        Notes the sender's first letter. Writes nothing when there is nothing to note.
        """
        troubled = sorted({"", domain} & self._troubled)
        if not troubled and self._first_sent_at is not None:
            return
        resumed = []
        with self._database.begin() as tx:
            first = self._first_sent_at or self._note_first_letter(tx)
            for name in troubled:
                trial = self._trials.get(name)
                mine = sa.and_(senders.c.paused_until.is_not(None), senders.c.pauses == trial)
                free = senders.c.paused_until.is_(None)
                if (
                    self._forget(tx, name, free if trial is None else sa.or_(free, mine))
                    and trial is not None
                ):
                    resumed.append(name)
        self._first_sent_at = first
        for name in troubled:
            self._troubled.discard(name)
            self._trials.pop(name, None)
        for name in resumed:
            log.info("sender.resumed", extra={"domain": name, "reason": "a letter was taken"})

    def pass_on(self) -> None:
        """Whoever got through to try has learned nothing of the sender or the domain, from a letter that did not go or
        a reply that was about its reader alone: the next one may try at once. Not needed after `worked`, `failed` or
        `pause`; costs nothing unless this process got through."""
        if not self._trials:
            return
        trials, self._trials = self._trials, {}
        with self._database.begin() as tx:
            for domain, pauses in trials.items():
                tx.execute(
                    sa.update(senders)
                    .where(
                        senders.c.sender == self._sender,
                        senders.c.domain == domain,
                        senders.c.paused_until > tx.now,
                        senders.c.pauses == pauses,
                    )
                    .values(paused_until=tx.now)
                )

    def resume(self, domain: str = "", *, who: str = "") -> bool:
        """By hand: no pause and no failures. False when there was neither. `who` gets a line in the audit log."""
        with self._database.begin() as tx:
            found = self._forget(
                tx, domain, sa.or_(senders.c.paused_until.is_not(None), senders.c.failures > 0)
            )
            if found and who:
                note(tx, who, "sender.resume", f"readers at {domain or '*'}")
        if found:
            log.info("sender.resumed", extra={"domain": domain, "reason": "by hand"})
        return found

    def first_sent_at(self) -> datetime | None:
        """When the first letter of this sender went out; None before it."""
        if self._first_sent_at is None:
            with self._database.read() as tx:
                self._read(tx, [])
        return self._first_sent_at

    def all(self) -> list[sa.Row[Any]]:
        """The rows of this sender, to be shown: the one for all readers, then by domain."""
        with self._database.read() as tx:
            return list(tx.execute(self._mine().order_by(senders.c.domain)))

    def _read(self, tx: Transaction, domains: Iterable[str], *, lock: bool = False) -> list[sa.Row[Any]]:
        """The rows that matter for letters to these domains, the whole sender's first."""
        asked = {"", *domains}
        query = self._mine(senders.c.domain.in_(asked)).order_by(senders.c.domain)
        rows = list(tx.execute(query.with_for_update() if lock else query))
        troubled = {row.domain for row in rows if row.failures or row.pauses or row.paused_until is not None}
        self._troubled = (self._troubled - asked) | troubled
        for row in rows:
            if row.domain == "" and row.first_sent_at is not None:
                self._first_sent_at = row.first_sent_at
        return rows

    def _mine(self, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        return sa.select(senders).where(senders.c.sender == self._sender, *where)

    def _count_failure(self, tx: Transaction, domain: str) -> sa.Row[Any]:
        self.look_anew()
        new = {"sender": self._sender, "domain": domain, "failures": 1, "pauses": 0, "changed_at": tx.now}
        return tx.execute(
            tx.insert(senders)
            .values(new)
            .on_conflict_do_update(
                index_elements=[senders.c.sender, senders.c.domain],
                set_={"failures": senders.c.failures + 1, "changed_at": tx.now},
            )
            .returning(senders)
        ).one()

    def _pause(
        self, tx: Transaction, row: sa.Row[Any], reason: str, length: timedelta, *, at_least: bool = False
    ) -> Pause | None:
        """None when a pause is on already: whoever fails meanwhile met the same wall, except for the one who tried.
        `at_least`: unless this one is longer."""
        tried = self._trials.pop(row.domain, None)
        until = tx.now + length
        if (
            row.paused_until is not None
            and tried != row.pauses
            and (not at_least or until <= row.paused_until)
        ):
            return None
        self._update(tx, row.domain, pauses=row.pauses + 1, paused_until=until, reason=reason)
        return Pause(row.domain, until, reason)

    def _update(self, tx: Transaction, domain: str, **values: Any) -> None:
        tx.execute(
            sa.update(senders)
            .where(senders.c.sender == self._sender, senders.c.domain == domain)
            .values(changed_at=tx.now, **values)
        )

    def _forget(self, tx: Transaction, domain: str, where: sa.ColumnElement[bool]) -> bool:
        """All is well: a domain needs no row for that."""
        here = sa.and_(senders.c.sender == self._sender, senders.c.domain == domain, where)
        if domain:
            return tx.execute(sa.delete(senders).where(here)).rowcount == 1
        fresh = {"failures": 0, "pauses": 0, "paused_until": None, "reason": None, "changed_at": tx.now}
        return tx.execute(sa.update(senders).where(here).values(fresh)).rowcount == 1

    def _note_first_letter(self, tx: Transaction) -> datetime:
        now = sa.literal(tx.now, senders.c.first_sent_at.type)
        new = {"sender": self._sender, "domain": "", "failures": 0, "pauses": 0, "changed_at": tx.now}
        first: datetime = tx.execute(
            tx.insert(senders)
            .values(new | {"first_sent_at": now})
            .on_conflict_do_update(
                index_elements=[senders.c.sender, senders.c.domain],
                set_={"first_sent_at": sa.func.coalesce(senders.c.first_sent_at, now)},
            )
            .returning(senders.c.first_sent_at)
        ).scalar_one()
        return first


def whole_sender_paused(tx: Transaction, sender: str) -> sa.ColumnElement[bool]:
    """True while nobody is written to. For claims: no letter is due meanwhile. It ends with the pause, so that
    somebody comes and tries."""
    return sa.exists().where(
        senders.c.sender == sender, senders.c.domain == "", senders.c.paused_until > tx.now
    )


def paused_reason(tx: Transaction, sender: str, domains: Collection[str]) -> str | None:
    """Why nobody writes to these domains now, if so."""
    query = sa.select(senders.c.reason).where(
        senders.c.sender == sender, senders.c.domain.in_(domains), senders.c.paused_until > tx.now
    )
    row = tx.execute(query.order_by(senders.c.domain).limit(1)).first() if domains else None
    return None if row is None else row.reason or "paused"


def _running(rows: list[sa.Row[Any]], now: datetime) -> Pause | None:
    return next((_pause_of(row) for row in rows if row.paused_until > now), None)


def _pause_of(row: sa.Row[Any]) -> Pause:
    return Pause(row.domain, row.paused_until, row.reason or "")


def _logged(pause: Pause | None, row: sa.Row[Any]) -> Pause | None:
    if pause is not None:
        log.warning(
            "sender.paused",
            extra={
                "domain": pause.domain,
                "reason": pause.reason,
                "until": pause.until.isoformat(timespec="seconds"),
                "pauses": row.pauses + 1,
            },
        )
    return pause
