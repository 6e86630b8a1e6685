"""What comes back of a letter after the mail server took it: bounces, complaints, opt-outs, answers.

Each is written in one transaction, and again is harmless: what was known already changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from core.letters import WixCall
from integrations.store.database import Database, Transaction
from integrations.store.ledger import suppression_subjects, was_released
from integrations.store.outbox import owe_calls
from integrations.store.suppressions import FULL_FOR, bury_address, opt_out_key, suppress, unsubscribe
from integrations.store.tables import messages, outbox


@dataclass(frozen=True, slots=True)
class Known:
    """The letter that something came back of. `domain` is of the reader's address, "" when it was forgotten."""

    site: SiteId
    group: GroupId
    member: MemberId
    domain: str
    news: bool
    """False: this was known before."""


class Returns:
    def __init__(self, database: Database) -> None:
        self._database = database

    def bounced(self, letter: str, reason: str, *, address: str = "") -> Known | None:
        """The letter did not arrive after all. `address`: "dead", "full", or "" when it says nothing of the address.
        None for a letter that is not known."""
        with self._database.begin() as tx:
            row = _row(tx, letter)
            if row is None:
                return None
            # A bounce shows that the server took it, whatever the worker got to hear.
            news = row.bounced_at is None and (
                row.state in ("sent", "in_doubt")
                or (row.state == "sending" and row.marked)
                or was_released(row)
                or _was_given_up(row)
            )
            if news:
                # It may be back before the worker has written that it went.
                went = row.sent_at or tx.now
                values: dict[str, Any] = {"bounced_at": tx.now, "sent_at": went}
                if not _was_given_up(row):  # what somebody decided stays
                    values |= {"state": "bounced", "reason": reason, "lease": None}
                tx.execute(sa.update(messages).where(messages.c.id == letter).values(**values))
            if news and row.address_hash and address == "dead":
                bury_address(tx, row.site, row.member, row.address_hash, reason, letter=letter)
            elif news and row.address_hash and address == "full":
                suppress(
                    tx,
                    row.site,
                    f"address:{row.address_hash}",
                    "all",
                    cause="full",
                    reason=reason,
                    letter=letter,
                    expires_at=tx.now + FULL_FOR,
                )
            return _known(row, news=news)

    def came_back(self, domain: str, reason: str, within: timedelta) -> int:
        """How many people's letters to this domain came back lately for a reason that begins so."""
        with self._database.read() as tx:
            query = sa.select(sa.func.count(sa.distinct(messages.c.member))).where(
                messages.c.sent_at > tx.now - timedelta(days=7),  # an index; bounces come sooner
                messages.c.domain == domain,
                messages.c.bounced_at > tx.now - within,
                messages.c.reason.startswith(reason, autoescape=True),
            )
            return tx.connection.scalar(query) or 0

    def complained(self, letter: str, reason: str) -> Known | None:
        """The reader called it spam: nobody writes to them again, and Wix is owed the news."""
        with self._database.begin() as tx:
            row = _row(tx, letter)
            if row is None:
                return None
            news = row.complained_at is None
            if news:
                tx.execute(sa.update(messages).where(messages.c.id == letter).values(complained_at=tx.now))
                for subject in suppression_subjects(row.member, [row.address_hash]):
                    suppress(tx, row.site, subject, "all", cause="complaint", reason=reason, letter=letter)
                call = WixCall(
                    key=f"complaint:{row.member}",
                    kind="complaint",
                    group=None,
                    member=row.member,
                    text=row.address_hash or "",
                )
                owe_calls(tx, row.site, None, [call], again=True)
            return _known(row, news=news)

    def unsubscribed(self, letter: str, source: str, *, mail: str = "") -> Known | None:
        """The reader of this letter wants no more promotional ones.

        `mail` tells one opt-out from another: a copy that comes late does not undo what the reader said since.
        """
        opt_out = f"{letter}:{mail}"
        with self._database.begin() as tx:
            row = _row(tx, letter)
            if row is None:
                return None
            call = sa.and_(outbox.c.site == row.site, outbox.c.key == opt_out_key(row.member))
            news = tx.connection.scalar(sa.select(outbox.c.event).where(call)) != opt_out
            if news:
                unsubscribe(tx, row.site, row.member, row.address_hash or "", source, letter=letter)
                tx.execute(sa.update(outbox).where(call).values(event=opt_out))
            return _known(row, news=news)

    def replied(self, message_ids: Collection[str]) -> int:
        """Somebody answered these letters; returns how many of them are ours and had no answer yet."""
        with self._database.begin() as tx:
            found = tx.execute(
                sa.update(messages)
                .where(messages.c.message_id.in_(message_ids), messages.c.replied_at.is_(None))
                .values(replied_at=tx.now)
            )
            return found.rowcount


def _row(tx: Transaction, letter: str) -> sa.Row[Any] | None:
    return tx.execute(sa.select(messages).where(messages.c.id == letter).with_for_update()).first()


def _was_given_up(row: sa.Row[Any]) -> bool:
    """Nobody knew whether the mail server had it, and somebody decided never to send it again."""
    return row.state == "failed" and row.message_id is not None and (row.reason or "").startswith("given up:")


def _known(row: sa.Row[Any], *, news: bool) -> Known:
    return Known(SiteId(row.site), GroupId(row.group_id), MemberId(row.member), row.domain or "", news)
