"""Who must not be written to, known here without asking anybody: by member id, and by the keyed hash of an address.

Scope `promotional` ends promotional letters of one site, `all` every letter.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from core.community import MemberId, SiteId
from core.letters import StopLetters, WixCall
from integrations.store.database import Database, Transaction
from integrations.store.ledger import stop_letters, suppression_subjects
from integrations.store.outbox import owe_calls
from integrations.store.tables import events, messages, outbox, suppressions

FORGOTTEN = "the person asked to be forgotten"


class Suppressions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def unsubscribe(self, site: SiteId, member: MemberId, address_hash: str, source: str) -> None:
        """End promotional letters at once, and owe Wix the news. Again is harmless. Raises JournalUnavailableError."""
        reason = f"unsubscribed here ({source})"
        with self._database.begin() as tx:
            for subject in suppression_subjects(member, address_hash):
                _suppress(tx, site, subject, "promotional", reason)
            call = WixCall(key=f"unsubscribe:{member}", kind="unsubscribe", group=None, member=member)
            owe_calls(tx, site, None, [call], again=True)

    def suppress_address(self, site: SiteId, address_hash: str, reason: str) -> None:
        """No letter of any kind to this address: it is dead."""
        with self._database.begin() as tx:
            _suppress(tx, site, f"address:{address_hash}", "all", reason)

    def reasons(
        self, site: SiteId, people: Collection[tuple[MemberId, str]]
    ) -> dict[MemberId, dict[str, str]]:
        """For (member, address hash) pairs: the reasons by scope. Who is free is absent. Give at most some hundreds."""
        owner = {
            subject: member for member, address in people for subject in suppression_subjects(member, address)
        }
        with self._database.read() as tx:
            rows = tx.execute(
                sa.select(suppressions).where(
                    suppressions.c.site == site, suppressions.c.subject.in_(list(owner))
                )
            )
            found: dict[MemberId, dict[str, str]] = {}
            for row in rows:
                found.setdefault(owner[row.subject], {})[row.scope] = row.reason
            return found


def forget_member(tx: Transaction, site: SiteId, member: MemberId) -> None:
    """Erase what is kept of a person: only their id and the fact that they are never to be written to stay."""
    stop_letters(tx, site, StopLetters(reason=FORGOTTEN, member=member))
    mine = sa.and_(messages.c.site == site, messages.c.member == member)
    tx.execute(sa.update(messages).where(mine).values(context={}, address_hash=None, evidence=None))
    theirs = sa.and_(outbox.c.site == site, outbox.c.member == member)
    tx.execute(sa.update(outbox).where(theirs).values(text=""))
    tx.execute(
        sa.update(outbox)
        .where(theirs, outbox.c.state.in_(("planned", "flagged")))
        .values(state="void", reason=FORGOTTEN, finished_at=tx.now, lease=None)
    )
    tx.execute(sa.update(events).where(events.c.site == site, events.c.member == member).values(payload="{}"))
    _suppress(tx, site, f"member:{member}", "all", FORGOTTEN)


def blank_if_forgotten(tx: Transaction, site: SiteId, event: str, member: MemberId) -> None:
    """An event that waited while its person was forgotten keeps nothing of them either."""
    forgotten = sa.exists().where(
        suppressions.c.site == site,
        suppressions.c.subject == f"member:{member}",
        suppressions.c.scope == "all",
    )
    tx.execute(
        sa.update(events).where(events.c.site == site, events.c.id == event, forgotten).values(payload="{}")
    )


def _suppress(tx: Transaction, site: SiteId, subject: str, scope: str, reason: str) -> None:
    tx.execute(
        tx.insert(suppressions)
        .values(site=site, subject=subject, scope=scope, reason=reason, created_at=tx.now)
        .on_conflict_do_nothing()
    )
