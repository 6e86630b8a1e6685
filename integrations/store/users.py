"""People who log in to the console, and their sessions.

Whoever shows an invitation or a session's cookie is its holder; both hold 256 random bits, and the tables only have
their SHA-256. Users are kept when they are disabled: their names stand in the audit log.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from core.errors import JournalUnavailableError, NotThereError, WrongStateError
from integrations.store.audit import note
from integrations.store.database import Database, Transaction
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.tables import console_sessions, sites, users
from integrations.store.tokens import ALL_SITES, Holder, Role, reach_of
from integrations.store.work import page

log = logging.getLogger(__name__)

INVITATION_LASTS = timedelta(days=7)
LASTS = {"admin": timedelta(hours=12), "user": timedelta(days=7), "wix": timedelta(hours=8)}
"""Sessions of each kind, at most. Whoever lost their rights at Wix is out when a session of "wix" ends."""
IDLE = timedelta(hours=12)
MOST_SESSIONS = 20
"""Of one person; whichever was used least lately ends for the next one."""
NOTE_USE_EVERY = timedelta(minutes=1)
_NAMES_LOCK = 0x75736572  # "user"

ADMIN = Holder("admin", "admin", Role.OWNER, EVERYTHING)
"""Whoever knows ADMIN_TOKEN, as the API has it too."""


@dataclass(frozen=True, slots=True)
class Entered:
    """Somebody who is in. `kind` is "admin", "user" or "wix"; the holder's `id` is the subject of their session, `hash`
    its key."""

    holder: Holder
    kind: str
    hash: str = field(repr=False)
    language: str = ""


class Users:
    def __init__(self, database: Database) -> None:
        self._database = database

    # People.

    def create(
        self, login: str, name: str, role: Role, *, sites: Sequence[str], groups: Sequence[str], who: str
    ) -> tuple[str, sa.Row[Any]]:
        """The invitation, which nobody can read again, and the row. Raises WrongStateError for a login or a name that
        is taken."""
        invitation = secrets.token_urlsafe(32)
        with self._database.begin() as tx:
            if tx.connection.dialect.name == "postgresql":  # SQLite has one writer anyway
                tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAMES_LOCK)))
            for column, value in ((users.c.login, login), (users.c.name, name)):
                if tx.execute(sa.select(users.c.id).where(column == value)).first():
                    raise WrongStateError(
                        f"somebody has this {column.name}, or had: the audit log needs another one"
                    )
            row = tx.execute(
                sa.insert(users)
                .values(
                    id=uuid.uuid4().hex,
                    login=login,
                    name=name,
                    **_scope(role, sites, groups),
                    language="",
                    invitation=digest(invitation),
                    invited_until=tx.now + INVITATION_LASTS,
                    created_at=tx.now,
                )
                .returning(users)
            ).one()
            note(tx, who, "user.create", f"user {row.id}", after=_told(row))
        return invitation, row

    def change(
        self,
        id: str,  # noqa: A002 (the row's own word)
        role: Role,
        *,
        sites: Sequence[str],
        groups: Sequence[str],
        who: str,
    ) -> sa.Row[Any]:
        """Their next request is judged by it. Raises NotThereError."""
        with self._database.begin() as tx:
            before = _locked(tx, id)
            row = _update(tx, users.c.id == id, **_scope(role, sites, groups)).one()
            note(tx, who, "user.change", f"user {id}", before=_told(before), after=_told(row))
        return row

    def invite(self, id: str, *, who: str) -> tuple[str, sa.Row[Any]]:  # noqa: A002
        """Their password and sessions end, and they choose a new one; somebody disabled may come in again.
        Raises NotThereError."""
        invitation = secrets.token_urlsafe(32)
        with self._database.begin() as tx:
            before = _locked(tx, id)
            row = _update(
                tx,
                users.c.id == id,
                password=None,
                disabled_at=None,
                invitation=digest(invitation),
                invited_until=tx.now + INVITATION_LASTS,
            ).one()
            ended = _end(tx, "user", id)
            note(
                tx,
                who,
                "user.reset",
                f"user {id}",
                before={"name": row.name, "disabled": before.disabled_at is not None},
                after={"sessions_ended": ended},
            )
        return invitation, row

    def disable(self, id: str, *, who: str) -> sa.Row[Any]:  # noqa: A002
        """From now on they are not in, and do not come in. Raises NotThereError, WrongStateError."""
        with self._database.begin() as tx:
            if _locked(tx, id).disabled_at is not None:
                raise WrongStateError("this user is disabled already")
            row = _update(
                tx, users.c.id == id, disabled_at=tx.now, password=None, invitation=None, invited_until=None
            ).one()
            ended = _end(tx, "user", id)
            note(
                tx,
                who,
                "user.disable",
                f"user {id}",
                before={"name": row.name, "role": row.role},
                after={"sessions_ended": ended},
            )
        return row

    def page(
        self, *, limit: int | None = 100, after: tuple[datetime, str] | None = None
    ) -> list[sa.Row[Any]]:
        """Newest first; `after` is `created_at` and `id` of the last row seen."""
        with self._database.read() as tx:
            return page(tx, users, users.c.created_at, (), limit=limit, after=after)

    def get(self, id: str) -> sa.Row[Any]:  # noqa: A002
        """Raises NotThereError."""
        with self._database.read() as tx:
            row = tx.execute(sa.select(users).where(users.c.id == id)).first()
        if row is None:
            raise NotThereError("there is no user of this id")
        return row

    def find(self, login: str) -> sa.Row[Any] | None:
        with self._database.read() as tx:
            return tx.execute(sa.select(users).where(users.c.login == login)).first()

    def are_there(self) -> bool:
        with self._database.read() as tx:
            return tx.execute(sa.select(users.c.id).limit(1)).first() is not None

    def invited(self, invitation: str) -> sa.Row[Any] | None:
        """Whom it is for, as long as it lasts."""
        with self._database.read() as tx:
            return tx.execute(sa.select(users).where(*_is_invited(tx, invitation))).first()

    def accept(self, invitation: str, password: str) -> sa.Row[Any] | None:
        """They chose this one (its hash); an invitation is good once. None: it is used up, or was meanwhile."""
        with self._database.begin() as tx:
            row = _update(
                tx, *_is_invited(tx, invitation), password=password, invitation=None, invited_until=None
            ).first()
            if row is not None:
                note(tx, f"user {row.name}", "user.password", f"user {row.id}")
            return row

    def change_password(self, id: str, before: str, password: str, *, but: str) -> bool:  # noqa: A002
        """Hashes, both. All sessions but the one of the hash `but` end. False: it was changed meanwhile."""
        with self._database.begin() as tx:
            row = _update(tx, users.c.id == id, users.c.password == before, password=password).first()
            if row is None:
                return False
            ended = _end(tx, "user", id, but=but)
            note(tx, f"user {row.name}", "user.password", f"user {id}", after={"sessions_ended": ended})
        return True

    def keep_better_hash(self, id: str, before: str, password: str) -> None:  # noqa: A002
        """Of the same password."""
        with self._database.begin() as tx:
            _update(tx, users.c.id == id, users.c.password == before, password=password)

    def speak(self, kind: str, holder: Holder, hash: str, language: str) -> None:  # noqa: A002
        """From now on, in this language; `hash` is the key of their session."""
        with self._database.begin() as tx:
            mine = console_sessions.c.hash == hash
            tx.execute(sa.update(console_sessions).where(mine).values(language=language))
            if kind == "user":
                _update(tx, users.c.id == holder.id, language=language)

    # Sessions.

    def begin_session(
        self,
        kind: str,
        subject: str,
        *,
        site: str | None = None,
        language: str = "",
        proof: str | None = None,
        instead_of: str = "",
    ) -> str | None:
        """What the new session's cookie holds; the session of the hash `instead_of` ends. `subject` is a user's id, or
        what Wix calls who looks. `proof` is the hash of the password that a user showed: None when it is not theirs any
        more. For ADMIN_TOKEN it is kept, and find_session wants to see it as well."""
        cookie = secrets.token_urlsafe(32)
        table = console_sessions
        with self._database.begin() as tx:
            who = "admin"
            if kind == "user":
                theirs = (users.c.id == subject, users.c.password == proof, users.c.disabled_at.is_(None))
                user = _update(tx, *theirs, last_seen_at=tx.now).first()
                if user is None:
                    return None
                who, language, proof = f"user {user.name}", language or user.language, None
            over = tx.execute(
                sa.select(table.c.hash)
                .where(table.c.kind == kind, table.c.subject == subject)
                .order_by(table.c.seen_at.desc(), table.c.hash)
                .offset(MOST_SESSIONS - 1)
            ).scalars()
            gone = [*over, instead_of]
            tx.execute(sa.delete(table).where(sa.or_(table.c.expires_at <= tx.now, table.c.hash.in_(gone))))
            tx.execute(
                sa.insert(table).values(
                    hash=digest(cookie),
                    kind=kind,
                    subject=subject,
                    site=site,
                    language=language,
                    proof=proof,
                    created_at=tx.now,
                    seen_at=tx.now,
                    expires_at=tx.now + LASTS[kind],
                )
            )
            if kind != "wix":  # whose page begins one at each load
                note(tx, who, "console.login", "console")
        return cookie

    def find_session(self, cookie: str, *, proof: str) -> Entered | None:
        """Who shows this cookie, as they may at this moment; `proof` is what a session of ADMIN_TOKEN was begun with.
        Asks the database each time: what ended is over at once, in every process."""
        hash_ = digest(cookie)
        table = console_sessions
        with self._database.read() as tx:
            row = tx.execute(
                sa.select(table).where(
                    table.c.hash == hash_, table.c.expires_at > tx.now, table.c.seen_at > tx.now - IDLE
                )
            ).first()
            holder = _holder(tx, row, proof) if row is not None else None
            stale = row is not None and row.seen_at <= tx.now - NOTE_USE_EVERY
        if row is None or holder is None:
            return None
        if stale:
            self._note_use(row)
        return Entered(holder, row.kind, hash_, row.language)

    def end_session(self, hash: str) -> None:  # noqa: A002
        with self._database.begin() as tx:
            tx.execute(sa.delete(console_sessions).where(console_sessions.c.hash == hash))

    def end_sessions(self, kind: str, holder: Holder) -> None:
        """All of this person."""
        with self._database.begin() as tx:
            ended = _end(tx, kind, holder.id)
            note(tx, holder.who, "console.logout", "console", after={"sessions_ended": ended})

    def _note_use(self, row: sa.Row[Any]) -> None:
        try:
            with self._database.begin() as tx:
                mine = console_sessions.c.hash == row.hash
                tx.execute(sa.update(console_sessions).where(mine).values(seen_at=tx.now))
                if row.kind == "user":
                    _update(tx, users.c.id == row.subject, last_seen_at=tx.now)
        except JournalUnavailableError:  # not worth refusing anybody
            log.warning("session.use_not_noted", extra={"kind": row.kind})


def digest(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()


def _scope(role: Role, sites: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    everywhere = role is Role.OWNER or ALL_SITES in sites
    return {
        "role": role,
        "sites": [ALL_SITES] if everywhere else sorted(set(sites)),
        "groups": sorted(set(groups)) if role is Role.GROUP_ADMIN else [],
    }


def _told(row: sa.Row[Any]) -> dict[str, Any]:
    return {"name": row.name, "role": row.role, "sites": row.sites, "groups": row.groups}


def _locked(tx: Transaction, id_: str) -> sa.Row[Any]:
    row = tx.execute(sa.select(users).where(users.c.id == id_).with_for_update()).first()
    if row is None:
        raise NotThereError("there is no user of this id")
    return row


def _update(tx: Transaction, *where: sa.ColumnElement[bool], **values: Any) -> sa.CursorResult[Any]:
    return tx.execute(sa.update(users).where(*where).values(**values).returning(users))


def _is_invited(tx: Transaction, invitation: str) -> list[sa.ColumnElement[bool]]:
    return [users.c.invitation == digest(invitation), users.c.invited_until > tx.now]


def _end(tx: Transaction, kind: str, subject: str, but: str = "") -> int:
    table = console_sessions
    where = (table.c.kind == kind, table.c.subject == subject, table.c.hash != but)
    return tx.execute(sa.delete(table).where(*where)).rowcount


def _holder(tx: Transaction, row: sa.Row[Any], proof: str) -> Holder | None:
    match row.kind:
        case "admin":
            return ADMIN if secrets.compare_digest(row.proof, proof) else None
        case "user":
            user = tx.execute(
                sa.select(users).where(users.c.id == row.subject, users.c.disabled_at.is_(None))
            ).first()
            if user is None:
                return None
            return Holder(user.id, f"user {user.name}", Role(user.role), reach_of(user), row.expires_at)
        case "wix":
            has_app = (sites.c.site == row.site, sites.c.state == "active")
            if not tx.execute(sa.select(sites.c.site).where(*has_app)).first():
                return None
            reach = Reach(frozenset({row.site}))
            return Holder(row.subject, f"wix {row.subject}", Role.MANAGER, reach, row.expires_at)
    return None
