"""Whose rows somebody may see and touch. A row's site and group never change, so looking first is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Reach:
    """None is no limit. With `groups`, what belongs to no group is out of reach."""

    sites: frozenset[str] | None = None
    groups: frozenset[str] | None = None

    def within(
        self, site: sa.ColumnElement[Any], *group: sa.ColumnElement[Any]
    ) -> list[sa.ColumnElement[bool]]:
        """Conditions for rows with their site here and their group there; any one of several `group` is enough."""
        conditions: list[sa.ColumnElement[bool]] = []
        if self.sites is not None:
            conditions.append(site.in_(sorted(self.sites)))
        if self.groups is not None:
            conditions.append(sa.or_(sa.false(), *(column.in_(sorted(self.groups)) for column in group)))
        return conditions


EVERYTHING = Reach()
