"""The tenants: which sites there are, which of them removed the app, and which have to rest a little."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from core.community import SiteId
from integrations.store.database import Database, Transaction
from integrations.store.tables import sites, watches

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Sites:
    def __init__(self, database: Database) -> None:
        self._database = database

    def removed(self, asked: Collection[SiteId]) -> frozenset[SiteId]:
        """Those of the sites that removed the app."""
        with self._database.read() as tx:
            rows = tx.execute(
                sa.select(sites.c.site).where(sites.c.site.in_(asked), sites.c.state == "removed")
            )
            return frozenset(SiteId(row.site) for row in rows)

    def active(self) -> list[SiteId]:
        """Those that have the app, by id."""
        with self._database.read() as tx:
            query = sa.select(sites.c.site).where(sites.c.state == "active").order_by(sites.c.site)
            return [SiteId(row.site) for row in tx.execute(query)]

    def all(self) -> list[SiteId]:
        """Every site that was ever heard of, also after it removed the app, by id."""
        with self._database.read() as tx:
            return [SiteId(row.site) for row in tx.execute(sa.select(sites.c.site).order_by(sites.c.site))]

    def known(self, asked: Collection[SiteId]) -> frozenset[SiteId]:
        """Those of the sites that were heard of, also after they removed the app."""
        with self._database.read() as tx:
            return frozenset(
                SiteId(row.site) for row in tx.execute(sa.select(sites.c.site).where(sites.c.site.in_(asked)))
            )

    def rest(self, site: SiteId, for_s: float) -> None:
        """Nobody works on this site's rows for so long: its budget is used up, or Wix is in trouble."""
        with self._database.begin() as tx:
            until = tx.now + timedelta(seconds=for_s)
            tx.execute(
                tx.insert(sites)
                .values(site=site, state="active", changed_at=_EPOCH, rests_until=until)
                .on_conflict_do_update(index_elements=[sites.c.site], set_={"rests_until": until})
            )


def note_sites(tx: Transaction, found: Collection[SiteId]) -> None:
    """Every event makes its site known."""
    # In one order for all processes: whoever waits for another's new site does not do so in a circle.
    rows = [{"site": site, "state": "active", "changed_at": _EPOCH} for site in sorted(set(found))]
    tx.connection.execute(tx.insert(sites).on_conflict_do_nothing(), rows)


def note_site(tx: Transaction, site: SiteId, at: datetime, state: str) -> bool:
    """Only an installation or a removal changes a site's state; says whether it is the newest of them."""
    insert = tx.insert(sites).values(site=site, state=state, changed_at=at)
    changed = tx.execute(
        insert.on_conflict_do_update(
            index_elements=[sites.c.site],
            set_={"state": state, "changed_at": at},
            where=sites.c.changed_at <= at,
        ).returning(sites.c.site)
    ).first()
    if changed is not None:
        # Nobody is found who came while the app was not there: what was not looked at since begins anew.
        before = sa.or_(watches.c.looked_at.is_(None), watches.c.looked_at < at)
        tx.execute(
            sa.delete(watches).where(watches.c.site == site, sa.true() if state == "removed" else before)
        )
    return changed is not None
