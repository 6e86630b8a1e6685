"""Tokens of the admin API. Whoever shows one is its holder; the table only has its SHA-256.

A token holds 256 random bits, so its hash needs neither salt nor stretching, and how long it takes to miss one in an
index tells nothing. Rows are kept when a token is revoked: its name stands in the audit log and in jobs.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from core.errors import JournalUnavailableError, NotThereError, WrongStateError
from integrations.store.audit import note
from integrations.store.database import Database
from integrations.store.reach import Reach
from integrations.store.tables import api_tokens
from integrations.store.work import page

log = logging.getLogger(__name__)

PREFIX = "usher_"
ALL_SITES = "*"
NOTE_USE_EVERY = timedelta(minutes=1)
_NAMES_LOCK = 0x746F6B656E  # "token"


class Role(StrEnum):
    OWNER = "owner"
    MANAGER = "manager"
    GROUP_ADMIN = "group_admin"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who may come in. `id` is the token's, `who` stands in the audit log."""

    id: str
    who: str
    role: Role
    reach: Reach
    expires_at: datetime | None = None


class Tokens:
    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        role: Role,
        *,
        sites: Sequence[str],
        groups: Sequence[str] = (),
        lasts: timedelta | None = None,
        who: str,
    ) -> tuple[str, sa.Row[Any]]:
        """The token, which nobody can read again, and its row. Raises WrongStateError for a name that is taken."""
        token = PREFIX + secrets.token_urlsafe(32)
        with self._database.begin() as tx:
            if tx.connection.dialect.name == "postgresql":  # SQLite has one writer anyway
                tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAMES_LOCK)))
            if tx.execute(sa.select(api_tokens.c.id).where(api_tokens.c.name == name)).first():
                raise WrongStateError(
                    "a token of this name is there, or was: the audit log needs another one"
                )
            row = tx.execute(
                sa.insert(api_tokens)
                .values(
                    id=uuid.uuid4().hex,
                    name=name,
                    hash=_digest(token),
                    role=role,
                    sites=[ALL_SITES] if ALL_SITES in sites else sorted(set(sites)),
                    groups=sorted(set(groups)),
                    created_at=tx.now,
                    expires_at=tx.now + lasts if lasts else None,
                )
                .returning(api_tokens)
            ).one()
            after = {
                "name": name,
                "role": role,
                "sites": row.sites,
                "groups": row.groups,
                "expires_at": row.expires_at and row.expires_at.isoformat(),
            }
            note(tx, who, "token.create", f"token {row.id}", after=after)
        return token, row

    def revoke(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002 (the row's own word)
        """From now on nobody comes in with it. Raises NotThereError, WrongStateError."""
        with self._database.begin() as tx:
            where = api_tokens.c.id == id
            row = tx.execute(sa.select(api_tokens).where(where).with_for_update()).first()
            if row is None:
                raise NotThereError("there is no token of this id")
            if row.revoked_at is not None:
                raise WrongStateError("the token is revoked already")
            note(tx, who, "token.revoke", f"token {id}", before={"name": row.name, "role": row.role})
            return tx.execute(
                sa.update(api_tokens).where(where).values(revoked_at=tx.now).returning(api_tokens)
            ).one()

    def page(
        self, *, limit: int | None = 100, after: tuple[datetime, str] | None = None
    ) -> list[sa.Row[Any]]:
        """Newest first; `after` is `created_at` and `id` of the last row seen."""
        with self._database.read() as tx:
            return page(tx, api_tokens, api_tokens.c.created_at, (), limit=limit, after=after)

    def find(self, shown: str) -> Holder | None:
        """Who shows this, unless it is unknown, revoked or expired. Asks the database each time, so revoking one
        works at once."""
        with self._database.read() as tx:
            row = tx.execute(
                sa.select(api_tokens).where(
                    api_tokens.c.hash == _digest(shown),
                    api_tokens.c.revoked_at.is_(None),
                    sa.or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > tx.now),
                )
            ).first()
            stale = row is not None and (
                row.last_used_at is None or row.last_used_at <= tx.now - NOTE_USE_EVERY
            )
        if row is None:
            return None
        if stale:
            self._note_use(row.id)
        return Holder(
            row.id,
            f"token {row.name}",
            Role(row.role),
            reach_of(row),
            row.expires_at,
        )

    def _note_use(self, id: str) -> None:  # noqa: A002 (the row's own word)
        try:
            with self._database.begin() as tx:
                tx.execute(sa.update(api_tokens).where(api_tokens.c.id == id).values(last_used_at=tx.now))
        except JournalUnavailableError:  # not worth refusing anybody
            log.warning("token.use_not_noted", extra={"token_id": id})


def reach_of(row: sa.Row[Any]) -> Reach:
    """Of a token or a user, by `role`, `sites` and `groups`."""
    return Reach(
        None if ALL_SITES in row.sites else frozenset(row.sites),
        frozenset(row.groups) if row.role == Role.GROUP_ADMIN else None,
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
