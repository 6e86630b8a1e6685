"""What became of the automations' letters: counts for each step, and who waits for one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import SiteId
from integrations.cache import ExpiringCache
from integrations.store.database import Database
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.tables import messages
from integrations.store.work import in_state

COUNTED_OVER = timedelta(days=30)
REMEMBERED_S = 45.0
"""Counting reads every letter of COUNTED_OVER, and open pages ask again and again."""

Counts = Mapping[str, Mapping[str, int]]
_WAITING = ("planned", "deferred", "sending")
_SITE: sa.ColumnElement[str] = messages.c.site.concat("")
"""A site's name that no index knows: few letters wait, and a site's index leads past all that ever went."""
_AUTOMATION: sa.ColumnElement[str] = sa.func.coalesce(
    messages.c.automation, sa.literal_column("''", sa.String)
).label("automation")
"""The same of its name; of a letter of none it is empty."""


class Flows:
    """`now` counts seconds from anywhere."""

    def __init__(self, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._counted: ExpiringCache[tuple[SiteId, Reach], Counts] = ExpiringCache(now, 1000)

    def counts(self, site: SiteId, reach: Reach = EVERYTHING) -> Counts:
        """Name of an automation or step -> state -> how many letters: those that wait, as "waiting" however old they
        are, and what became of those planned within COUNTED_OVER. Remembered for REMEMBERED_S."""
        known = self._counted.get((site, reach))
        if known is None:
            known = self._count(site, reach)
            self._counted.put((site, reach), known, REMEMBERED_S)
        return known

    def _count(self, site: SiteId, reach: Reach) -> Counts:
        of_site = reach.within(_SITE, messages.c.group_id)
        found: dict[str, dict[str, int]] = defaultdict(dict)
        with self._database.read() as tx:
            waiting = _grouped(sa.literal("waiting"), *of_site, *_waits(site))
            ended = _grouped(
                messages.c.state,
                *of_site,
                messages.c.site == site,
                messages.c.created_at >= tx.now - COUNTED_OVER,
                messages.c.state.not_in(_WAITING),
            )
            for row in tx.execute(sa.union_all(waiting, ended)):
                found[row.automation][row.state] = row.number
        return dict(found)

    def waiting(
        self,
        site: SiteId,
        names: Sequence[str],
        *,
        reach: Reach = EVERYTHING,
        limit: int = 100,
        after: tuple[datetime, str] | None = None,
    ) -> list[sa.Row[Any]]:
        """Letters of these automations or steps that wait, the next one first. `after`: `next_at` and `id` of the last
        row seen."""
        columns = ("id", "automation", "group_id", "member", "state", "reason", "next_at", "created_at")
        where = [
            messages.c.automation.in_(names),
            *reach.within(_SITE, messages.c.group_id),
            *_waits(site),
        ]
        if after is not None:
            seen = sa.literal(after[0], messages.c.next_at.type), sa.literal(after[1])
            where.append(sa.tuple_(messages.c.next_at, messages.c.id) > sa.tuple_(*seen))
        query = (
            sa.select(*(messages.c[name] for name in columns))
            .where(*where)
            .order_by(messages.c.next_at, messages.c.id)
            .limit(limit)
        )
        with self._database.read() as tx:
            return list(tx.execute(query))


def _waits(site: SiteId) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        in_state(messages, _WAITING),
        messages.c.job.is_(None),
        _SITE.in_([site]),
    )  # as ix_messages_due has it


def _grouped(state: sa.ColumnElement[str], *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    columns: tuple[sa.ColumnElement[Any], ...] = (
        _AUTOMATION,
        state.label("state"),
        sa.func.count().label("number"),
    )
    grouped = sa.select(*columns).where(_AUTOMATION != "", *where)
    return grouped.group_by(_AUTOMATION, *([state] if state is messages.c.state else []))
