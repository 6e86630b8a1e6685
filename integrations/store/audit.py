"""Who did what, and how things were before and after: one line for each act of a person or a schedule.

A line is written in the transaction of the act itself, so there is none without the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from integrations.store.database import Database, Transaction
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.tables import audit
from integrations.store.work import equals, page

_COUNT_LOCK = 0x61756469  # "audi"; two keys, the second being who is counted


class Audit:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        *,
        site: str | None = None,
        who: str | None = None,
        action: str | None = None,
        object: str | None = None,  # noqa: A002 (the row's own word)
        reach: Reach = EVERYTHING,
        of_sites: bool = False,
        limit: int | None = 100,
        after: tuple[datetime, str] | None = None,
    ) -> list[sa.Row[Any]]:
        """Newest first; `of_sites` leaves out what is about no site, such as tokens. `after`: `at` and `id` of the last
        row seen."""
        where = equals(audit, {"site": site, "who": who, "action": action, "object": object})
        where += reach.within(audit.c.site)
        if of_sites:
            where.append(audit.c.site.is_not(None))
        with self._database.read() as tx:
            return page(tx, audit, audit.c.at, where, limit=limit, after=after)


def count_alone(tx: Transaction, who: str, action: str, within: timedelta) -> int:
    """How often somebody did this lately. Until the transaction ends, nobody else counts what they do."""
    if tx.connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_COUNT_LOCK, sa.func.hashtext(who))))
    lately = (audit.c.at > tx.now - within, audit.c.who == who, audit.c.action == action)
    return tx.connection.scalar(sa.select(sa.func.count()).where(*lately)) or 0


def note(
    tx: Transaction,
    who: str,
    action: str,
    object: str,  # noqa: A002 (the row's own word)
    *,
    site: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """`action` is a verb with its thing ("job.confirm"), `object` the thing's kind and id ("job 3f…"). Neither holds
    personal data, nor do `before` and `after`: ids, states and counts."""
    tx.execute(
        sa.insert(audit).values(
            id=uuid.uuid4().hex,
            at=tx.now,
            who=who,
            action=action,
            object=object,
            site=site,
            before=dict(before) if before is not None else None,
            after=dict(after) if after is not None else None,
        )
    )
