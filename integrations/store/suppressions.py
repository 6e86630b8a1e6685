"""Who must not be written to, known here without asking anybody: by member id, and by the keyed hash of an address.

Scope `promotional` ends promotional letters of one site, `group:<id>` those of one group, `all` every letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.consent import Suppression
from core.letters import StopLetters, WixCall
from integrations.store.database import Database, Transaction
from integrations.store.ledger import stands, stop_letters, suppression_subjects
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

    def dead(self, site: SiteId, member: MemberId, address_hash: str, reason: str) -> None:
        """A mail server refused the address for good: no letter of any kind, and Wix is owed the news."""
        with self._database.begin() as tx:
            bury_address(tx, site, member, address_hash, reason)

    def standing(
        self, site: SiteId, people: Mapping[MemberId, Sequence[str]]
    ) -> dict[MemberId, tuple[Suppression, ...]]:
        """For people given with the hashes of their address: what stands against each. Who is free is absent. Give at
        most some hundreds."""
        owners: dict[str, list[MemberId]] = {}
        for member, hashes in people.items():
            for subject in suppression_subjects(member, hashes):
                owners.setdefault(subject, []).append(member)
        found: dict[MemberId, tuple[Suppression, ...]] = {}
        with self._database.read() as tx:
            rows = tx.execute(
                sa.select(suppressions)
                .where(
                    suppressions.c.site == site,
                    suppressions.c.subject.in_(list(owners)),
                    stands(tx),
                )
                .order_by(suppressions.c.scope, suppressions.c.created_at, suppressions.c.subject)
            )
            for row in rows:
                said = Suppression(row.scope, row.cause, row.reason, row.expires_at)
                for member in owners[row.subject]:
                    if said not in found.get(member, ()):
                        found[member] = (*found.get(member, ()), said)
        return found


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
        call = WixCall(key=f"unsubscribe:{member}", kind="unsubscribe", group=None, member=member)
        owe_calls(tx, site, None, [call], again=True)


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
        key=f"bounced:{member}:{address_hash}", kind="bounced", group=None, member=member, text=address_hash
    )
    owe_calls(tx, site, None, [call], again=True)


def forget_member(tx: Transaction, site: SiteId, member: MemberId) -> None:
    """Erase what is kept of a person: only their id and the fact that they are never to be written to stay."""
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
    suppress(tx, site, f"member:{member}", "all", cause="forgotten", reason=FORGOTTEN)


def blank_if_forgotten(tx: Transaction, site: SiteId, event: str, member: MemberId) -> None:
    """An event that waited while its person was forgotten keeps nothing of them either."""
    forgotten = sa.exists().where(
        suppressions.c.site == site,
        suppressions.c.subject == f"member:{member}",
        suppressions.c.scope == "all",
        suppressions.c.cause == "forgotten",
    )
    tx.execute(
        sa.update(events).where(events.c.site == site, events.c.id == event, forgotten).values(payload="{}")
    )


def suppress(
    tx: Transaction,
    site: SiteId,
    subject: str,
    scope: str,
    *,
    cause: str,
    reason: str,
    letter: str | None = None,
    expires_at: datetime | None = None,
) -> None:
    """Once for subject and scope; of two reasons the one that holds longer stays."""
    insert = tx.insert(suppressions).values(
        site=site,
        subject=subject,
        scope=scope,
        cause=cause,
        reason=reason,
        letter=letter,
        created_at=tx.now,
        expires_at=expires_at,
    )
    new = insert.excluded
    tx.execute(
        insert.on_conflict_do_update(
            index_elements=[suppressions.c.site, suppressions.c.subject, suppressions.c.scope],
            set_={name: new[name] for name in ("cause", "reason", "letter", "created_at", "expires_at")},
            where=sa.and_(
                suppressions.c.expires_at.is_not(None),
                sa.or_(new.expires_at.is_(None), new.expires_at > suppressions.c.expires_at),
            ),
        )
    )
