"""Which processes are alive, as far as the database knows."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from integrations.store.database import Database
from integrations.store.tables import heartbeats


class Heartbeats:
    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, name: str) -> None:
        """Say that the process of this name is alive now; who has been silent for a day is forgotten."""
        with self._database.begin() as tx:
            tx.execute(sa.delete(heartbeats).where(heartbeats.c.seen_at < tx.now - timedelta(days=1)))
            tx.execute(
                tx.insert(heartbeats)
                .values(name=name, seen_at=tx.now)
                .on_conflict_do_update(index_elements=[heartbeats.c.name], set_={"seen_at": tx.now})
            )

    def heard_within(self, prefix: str, seconds: float) -> bool:
        """Whether any process whose name begins so was alive lately."""
        with self._database.read() as tx:
            since = tx.now - timedelta(seconds=seconds)
            found = sa.select(heartbeats.c.name).where(
                heartbeats.c.name.startswith(prefix, autoescape=True), heartbeats.c.seen_at >= since
            )
            return tx.execute(found.limit(1)).first() is not None
