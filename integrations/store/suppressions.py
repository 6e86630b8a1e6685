"""Who must not be written to, known here without asking anybody: by member id, and by the keyed hash of an address.

Scope `promotional` ends promotional letters of one site, `group:<id>` those of one group, `all` every letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from core.community import GroupId, MemberId, SiteId
from core.consent import Suppression
from core.events import EventId
from core.letters import StopLetters, WixCall
from core.subscriptions import BOUNCED_AT_WIX, UNSUBSCRIBED_AT_WIX, AddressNews, is_answered
from integrations.store.database import Database, Transaction
from integrations.store.jobs import forget_listed
from integrations.store.ledger import all_subjects, stands, stop_letters, suppression_subjects
from integrations.store.outbox import owe_calls
from integrations.store.tables import events, messages, outbox, suppressions

FORGOTTEN = "the person asked to be forgotten"
DEAD_FOR = timedelta(days=180)
"""An address that no mail server knows may be given to somebody again."""
FULL_FOR = timedelta(days=3)


class Suppressions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def unsubscribe(
        self,
        site: SiteId,
        member: MemberId,
        address_hash: str,
        source: str,
        *,
        group: GroupId | None = None,
    ) -> None:
        """End promotional letters at once and owe Wix the news; with a `group` end that group's letters, which is
        nothing to Wix. Again is harmless. Raises JournalUnavailableError."""
        with self._database.begin() as tx:
            unsubscribe(tx, site, member, address_hash, source, group=group)

    def dead(
        self, site: SiteId, member: MemberId, address_hash: str, reason: str, *, letter: str | None = None
    ) -> None:
        """A mail server refused the address for good: no letter of any kind, and Wix is owed the news."""
        with self._database.begin() as tx:
            bury_address(tx, site, member, address_hash, reason, letter=letter)

    def standing(
        self, site: SiteId, people: Mapping[MemberId, Sequence[str]]
    ) -> dict[MemberId, tuple[Suppression, ...]]:
        """For people given with the hashes of their address: what stands against each. Who is free is absent. Give at
        most some hundreds.

        What stands under a former hash is written under the present one as well, so that SECRET_KEY_PREVIOUS can go
        some day without setting free whom a letter was considered for since the change of keys.
        """
        owners: dict[str, list[MemberId]] = {}
        newest: dict[str, str] = {}
        for member, hashes in people.items():
            for subject in all_subjects(member, hashes):
                owners.setdefault(subject, []).append(member)
            newest |= {
                f"{whose}address:{former}": f"{whose}address:{hashes[0]}"
                for former in hashes[1:]
                for whose in ("", "admin:")
            }
        found: dict[MemberId, tuple[Suppression, ...]] = {}
        with self._database.read() as tx:
            rows = list(
                tx.execute(
                    sa.select(suppressions)
                    .where(
                        suppressions.c.site == site,
                        _one_of(tx, suppressions.c.subject, list(owners)),
                        stands(tx),
                    )
                    .order_by(suppressions.c.scope, suppressions.c.created_at, suppressions.c.subject)
                )
            )
        for row in rows:
            said = Suppression(row.scope, row.cause, row.reason, row.expires_at)
            for member in owners[row.subject]:
                if said not in found.get(member, ()):
                    found[member] = (*found.get(member, ()), said)
        known = {(row.subject, row.scope): row for row in rows}
        former = [
            row
            for row in rows
            if row.subject in newest and _outlives(row, known.get((newest[row.subject], row.scope)))
        ]
        if former:
            with self._database.begin() as tx:
                for row in former:
                    _copy(tx, row, newest[row.subject])
        return found

    def anywhere(self, address_hashes: Sequence[str]) -> bool:
        """Whether every letter to this address has ended, on whatever site. Raises JournalUnavailableError."""
        with self._database.read() as tx:
            found = tx.execute(
                sa.select(suppressions.c.site)
                .where(
                    suppressions.c.subject.in_(
                        [f"{whose}address:{known}" for known in address_hashes for whose in ("", "admin:")]
                    ),
                    suppressions.c.scope == "all",
                    stands(tx),
                )
                .limit(1)
            )
            return found.first() is not None

    def opted_out(self, site: SiteId, address_hashes: Sequence[str]) -> list[MemberId]:
        """Who said stop here to all promotional letters, and was written to at this address."""
        with self._database.read() as tx:
            return _opted_out(tx, site, address_hashes)


def _one_of(tx: Transaction, column: sa.Column[str], values: list[str]) -> sa.ColumnElement[bool]:
    """Many hundreds as one value where the database has arrays: as a list each is named, bound and sent by itself."""
    if tx.connection.dialect.name != "postgresql":
        return column.in_(values)
    return column == sa.func.any(sa.literal(values, postgresql.ARRAY(column.type)))


def unsubscribe(
    tx: Transaction,
    site: SiteId,
    member: MemberId,
    address_hash: str,
    source: str,
    *,
    group: GroupId | None = None,
    letter: str | None = None,
) -> None:
    scope = "promotional" if group is None else f"group:{group}"
    reason = (
        f"unsubscribed here ({source})" if group is None else f"wants no letters of this group ({source})"
    )
    for subject in suppression_subjects(member, [address_hash]):
        suppress(tx, site, subject, scope, cause="unsubscribed", reason=reason, letter=letter)
    if group is None:
        call = WixCall(key=opt_out_key(member), kind="unsubscribe", group=None, member=member)
        owe_calls(tx, site, None, [call], again=True)


def opt_out_key(member: MemberId) -> str:
    return f"unsubscribe:{member}"


def bury_address(
    tx: Transaction,
    site: SiteId,
    member: MemberId,
    address_hash: str,
    reason: str,
    *,
    letter: str | None = None,
) -> None:
    suppress(
        tx,
        site,
        f"address:{address_hash}",
        "all",
        cause="dead",
        reason=reason,
        letter=letter,
        expires_at=tx.now + DEAD_FOR,
    )
    # The hash says which address it was: theirs may be another by the time Wix is told.
    call = WixCall(
        key=f"bounced:{member}:{letter or ''}", kind="bounced", group=None, member=member, text=address_hash
    )
    owe_calls(tx, site, None, [call], again=True)


def heed_address(tx: Transaction, site: SiteId, news: AddressNews) -> None:
    """Write what Wix said of an address; when it may lift what: tasks.subscriptions.heed_subscription."""
    for stop in news.stops:
        suppress(
            tx,
            site,
            f"address:{news.address_hashes[0]}",
            stop.scope,
            cause=stop.cause,
            reason=stop.reason,
            at=news.at,
            expires_at=tx.now + stop.lasts if stop.lasts else None,
        )
    if news.subscribed:
        _lift_opt_outs(tx, site, news)
    for lifted, reason in ((news.subscribed, UNSUBSCRIBED_AT_WIX), (news.deliverable, BOUNCED_AT_WIX)):
        if lifted:
            tx.execute(
                sa.delete(suppressions).where(
                    suppressions.c.site == site,
                    suppressions.c.subject.in_([f"address:{known}" for known in news.address_hashes]),
                    suppressions.c.reason == reason,
                    suppressions.c.created_at < news.at,
                )
            )
    if news.forget:
        # Who was never written to is known by no other name, and a letter to them may be planned.
        for known in news.address_hashes:
            suppress(tx, site, f"address:{known}", "all", cause="forgotten", reason=FORGOTTEN)
        for member in _written_to(tx, site, news.address_hashes):
            forget_member(tx, site, member)


def _lift_opt_outs(tx: Transaction, site: SiteId, news: AddressNews) -> None:
    subjects = [f"address:{known}" for known in news.address_hashes]
    subjects += [f"member:{member}" for member in news.members]
    mine = sa.and_(
        suppressions.c.site == site,
        suppressions.c.subject.in_(subjects),
        suppressions.c.scope == "promotional",
        suppressions.c.cause == "unsubscribed",
        suppressions.c.expires_at.is_(None),
    )
    # Locked in the order in which an opt-out writes, before its call is looked at: one made in this moment either waits
    # and is written anew, or is waited for and seen.
    tx.execute(
        sa.select(suppressions.c.subject)
        .where(mine)
        .order_by(suppressions.c.subject.desc())
        .with_for_update()
    ).all()
    keys = [opt_out_key(member) for member in _opted_out(tx, site, news.address_hashes)]
    calls = tx.execute(
        sa.select(outbox.c.state, outbox.c.finished_at).where(outbox.c.site == site, outbox.c.key.in_(keys))
    ).all()
    if (
        news.members
        and len(calls) == len(keys)
        and is_answered([(row.state, row.finished_at) for row in calls], news.at)
    ):
        tx.execute(sa.delete(suppressions).where(mine))


def _written_to(tx: Transaction, site: SiteId, address_hashes: Collection[str]) -> list[MemberId]:
    rows = tx.execute(
        sa.select(messages.c.member)
        .where(messages.c.site == site, messages.c.address_hash.in_(address_hashes))
        .distinct()
    )
    return sorted(MemberId(row.member) for row in rows)


def _opted_out(tx: Transaction, site: SiteId, address_hashes: Collection[str]) -> list[MemberId]:
    members = _written_to(tx, site, address_hashes)
    said = tx.execute(
        sa.select(suppressions.c.subject).where(
            suppressions.c.site == site,
            suppressions.c.subject.in_([f"member:{member}" for member in members]),
            suppressions.c.scope == "promotional",
            suppressions.c.cause == "unsubscribed",
        )
    )
    subjects = {row.subject for row in said}
    return [member for member in members if f"member:{member}" in subjects]


def forget_member(tx: Transaction, site: SiteId, member: MemberId) -> None:
    """Erase what is kept of a person: only their id and the fact that they are never to be written to stay."""
    _keep_apart(tx, [site], forgetting=True)
    stop_letters(tx, site, StopLetters(reason=FORGOTTEN, member=member))
    mine = sa.and_(messages.c.site == site, messages.c.member == member)
    tx.execute(
        sa.update(messages).where(mine).values(context={}, address_hash=None, domain=None, evidence=None)
    )
    theirs = sa.and_(outbox.c.site == site, outbox.c.member == member)
    tx.execute(sa.update(outbox).where(theirs).values(text=""))
    tx.execute(
        sa.update(outbox)
        .where(theirs, outbox.c.state.in_(("planned", "flagged")))
        .values(state="void", reason=FORGOTTEN, finished_at=tx.now, lease=None)
    )
    tx.execute(sa.update(events).where(events.c.site == site, events.c.member == member).values(payload="{}"))
    forget_listed(tx, site, member, FORGOTTEN)
    suppress(tx, site, f"member:{member}", "all", cause="forgotten", reason=FORGOTTEN)


def _keep_apart(tx: Transaction, where: Collection[SiteId], *, forgetting: bool) -> None:
    """Until this transaction ends nobody is forgotten at these sites while others write about people there."""
    if tx.connection.dialect.name != "postgresql":
        return  # one transaction writes at a time
    lock = sa.func.pg_advisory_xact_lock if forgetting else sa.func.pg_advisory_xact_lock_shared
    for site in sorted(where):
        digest = hashlib.sha256(f"forget\0{site}".encode()).digest()
        tx.execute(sa.select(lock(int.from_bytes(digest[:8], "big", signed=True))))


def forgotten_of(
    tx: Transaction, people: Collection[tuple[SiteId, MemberId]]
) -> set[tuple[SiteId, MemberId]]:
    """Those of these people who were forgotten. Nobody else is, until this transaction ends."""
    if not people:
        return set()
    _keep_apart(tx, {site for site, _ in people}, forgetting=False)
    rows = tx.execute(
        sa.select(suppressions.c.site, suppressions.c.subject).where(
            suppressions.c.site.in_({site for site, _ in people}),
            suppressions.c.subject.in_({f"member:{member}" for _, member in people}),
            suppressions.c.scope == "all",
            suppressions.c.cause == "forgotten",
        )
    )
    found = {(row.site, row.subject) for row in rows}
    return {(site, member) for site, member in people if (site, f"member:{member}") in found}


def blank(tx: Transaction, about: Iterable[tuple[SiteId, EventId]]) -> None:
    """These events keep nothing of whom they are about."""
    for site, event in about:
        tx.execute(sa.update(events).where(events.c.site == site, events.c.id == event).values(payload="{}"))


def suppress(
    tx: Transaction,
    site: SiteId,
    subject: str,
    scope: str,
    *,
    cause: str,
    reason: str,
    letter: str | None = None,
    at: datetime | None = None,
    expires_at: datetime | None = None,
) -> None:
    """Once for subject and scope; of two reasons the one that holds longer stays, dated as the later of both. "full",
    which only defers, gives way to any other cause and takes no other's place. `at`: when it was said, None: now."""
    insert = tx.insert(suppressions).values(
        site=site,
        subject=subject,
        scope=scope,
        cause=cause,
        reason=reason,
        letter=letter,
        created_at=at or tx.now,
        expires_at=expires_at,
    )
    old, new = suppressions.c, insert.excluded
    lasts = sa.or_(new.expires_at.is_(None), new.expires_at >= old.expires_at)
    wins = (
        sa.and_(lasts, sa.or_(old.cause == "full", ~stands(tx)))
        if cause == "full"
        else sa.or_(lasts, old.cause == "full")
    )
    later = sa.case((new.created_at > old.created_at, new.created_at), else_=old.created_at)
    tx.execute(
        insert.on_conflict_do_update(
            index_elements=[suppressions.c.site, suppressions.c.subject, suppressions.c.scope],
            set_={name: new[name] for name in ("cause", "reason", "letter", "expires_at")}
            | {"created_at": later},
            where=sa.and_(old.expires_at.is_not(None), wins),
        )
    )


def _outlives(row: sa.Row[Any], other: sa.Row[Any] | None) -> bool:
    if other is None:
        return True
    if other.expires_at is None:
        return False
    if (row.cause == "full") != (other.cause == "full"):
        return bool(other.cause == "full")
    return row.expires_at is None or bool(row.expires_at > other.expires_at)


def _copy(tx: Transaction, row: sa.Row[Any], subject: str) -> None:
    suppress(
        tx,
        row.site,
        subject,
        row.scope,
        cause=row.cause,
        reason=row.reason,
        letter=row.letter,
        at=row.created_at,
        expires_at=row.expires_at,
    )
