"""People who log in to the console: invite them, say what they may, let them in and out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import logging
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from limits import RateLimitItemPerMinute

from admin.office import Office
from admin.office.refusals import RefusedError, wrong_fields
from admin.office.words import N_
from core.errors import NotThereError, WrongStateError
from integrations.store.tokens import Holder, Role

if TYPE_CHECKING:
    from admin.api.entrance import Limiter  # which is built upon this room

log = logging.getLogger(__name__)

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 200
AT_ONCE = 2
"""Passwords that a process looks at: each costs 64 MiB and four threads."""
MOST_WAITING = 8
"""Or else those who wait would hold all threads of the process that also answers Wix."""
TURN_WAITS_S = 5.0
FAILURES_OF_LOGIN = RateLimitItemPerMinute(10, 5)
"""Wrong passwords of one login from anywhere, in five minutes."""

WRONG = N_("This login and password do not belong together.")
"""Also said of a login that is not there, or disabled, or has no password yet."""
OVER = N_("This invitation is used up or too old. Ask whoever sent it for a new one.")

Row = sa.Row[Any]


@dataclass(frozen=True, slots=True)
class Rights:
    """`sites`: ids, or "*" for all; `groups`: ids, of a group's admin."""

    role: Role
    sites: Sequence[str]
    groups: Sequence[str] = ()


def invite(office: Office, holder: Holder, login: str, name: str, rights: Rights) -> tuple[str, Row]:
    """The invitation, which nobody can read again, and the new user. Raises WrongStateError for a login or name that is
    taken."""
    invitation, row = office.users.create(
        login.lower(), name, rights.role, sites=rights.sites, groups=rights.groups, who=holder.who
    )
    log.info("user.created", extra={"who": holder.who, "user": row.id})
    return invitation, row


def change(office: Office, holder: Holder, id: str, rights: Rights) -> Row:  # noqa: A002 (the row's own word)
    """Raises NotThereError, WrongStateError."""
    _not_oneself(holder, id)
    row = office.users.change(id, rights.role, sites=rights.sites, groups=rights.groups, who=holder.who)
    log.info("user.changed", extra={"who": holder.who, "user": id})
    return row


def reset(office: Office, holder: Holder, id: str) -> tuple[str, Row]:  # noqa: A002
    """A new invitation: password and sessions end, and somebody disabled may come in again. Raises NotThereError."""
    invitation, row = office.users.invite(id, who=holder.who)
    log.info("user.reset", extra={"who": holder.who, "user": id})
    return invitation, row


def disable(office: Office, holder: Holder, id: str) -> Row:  # noqa: A002
    """Raises NotThereError, WrongStateError."""
    _not_oneself(holder, id)
    row = office.users.disable(id, who=holder.who)
    log.info("user.disabled", extra={"who": holder.who, "user": id})
    return row


def state_of(row: Row) -> str:
    """ "active", "disabled", or "invited" as long as they chose no password."""
    if row.disabled_at is not None:
        return "disabled"
    return "active" if row.password is not None else "invited"


def describe_user(row: Row) -> dict[str, Any]:
    """`{"id", "login", "name", "role", "sites", "groups", "state", "created_at", "invited_until"?, "disabled_at"?,
    "last_seen_at"?}`"""
    from admin.recovery import shape

    always = ("id", "login", "name", "role", "sites", "groups", "created_at")
    return shape(row, always, ("invited_until", "disabled_at", "last_seen_at")) | {"state": state_of(row)}


def invitation_path(invitation: str) -> str:
    return f"/admin/invitation/{invitation}"


def log_in(office: Office, limiter: Limiter, address: str, login: str, password: str) -> Row:
    """Who has this login and password. Raises RefusedError: 401, 429 or 503.

    A login that is not there costs the same time as a wrong password, and both count.
    """
    login = login.strip().lower()
    key = f"login {hashlib.sha256(login.encode()).hexdigest()[:32]}"
    _still_heard(limiter, address, key)
    with _turn():
        _still_heard(limiter, address, key)  # others may have spent it meanwhile
        row = office.users.find(login)
        if _fits(row.password if row is not None else None, password) and row is not None:
            return _with_better_hash(office, row, password)
        limiter.take(limiter.failures, address)
        limiter.take(FAILURES_OF_LOGIN, key)
    log.warning("console.refused", extra={"user": row.id if row is not None else None})
    raise RefusedError(WRONG, 401)


def show_admin_token(limiter: Limiter, address: str, right: str, shown: str) -> None:
    """Raises RefusedError unless it is this one."""
    _still_heard(limiter, address)
    if not hmac.compare_digest(
        hashlib.sha256(shown.strip().encode()).digest(), hashlib.sha256(right.encode()).digest()
    ):
        limiter.take(limiter.failures, address)
        log.warning("console.refused", extra={"user": "admin"})
        raise RefusedError(N_("This is not the ADMIN_TOKEN of this server."), 401)


def accept(office: Office, invitation: str, password: str, again: str) -> Row:
    """They choose their password. Raises NotThereError for an invitation that is over, RefusedError for a password that
    will not do."""
    row = office.users.invited(invitation)
    if row is None:
        raise NotThereError(OVER)
    row = office.users.accept(invitation, _hash_of(_chosen(row, password, again)))
    if row is None:
        raise NotThereError(OVER)
    log.info("user.password_chosen", extra={"user": row.id})
    return row


def change_password(
    office: Office, limiter: Limiter, holder: Holder, session: str, *, now: str, password: str, again: str
) -> None:
    """All sessions but that of this hash end. Raises RefusedError, WrongStateError."""
    row = office.users.get(holder.id)
    key = f"login {hashlib.sha256(row.login.encode()).hexdigest()[:32]}"
    _still_heard(limiter, "", key)
    with _turn():
        fits = _fits(row.password, now)
    if not fits:
        limiter.take(FAILURES_OF_LOGIN, key)
        raise wrong_fields("the form", ("now", "This is not your password."))
    chosen = _chosen(row, password, again)
    if not office.users.change_password(row.id, row.password, _hash_of(chosen), but=session):
        raise WrongStateError(N_("Your password was changed elsewhere meanwhile."))
    log.info("user.password_changed", extra={"user": row.id})


def _not_oneself(holder: Holder, id_: str) -> None:
    if holder.id == id_:
        raise WrongStateError(N_("Another owner has to do this for you, or whoever has ADMIN_TOKEN."))


def _still_heard(limiter: Limiter, address: str, key: str = "") -> None:
    wait_s = limiter.spent(limiter.failures, address) if address else 0
    if key:
        wait_s = max(wait_s, limiter.spent(FAILURES_OF_LOGIN, key))
    if wait_s:
        raise RefusedError(
            f"Too many wrong attempts. Try again in {wait_s} seconds.",
            429,
            headers={"Retry-After": str(wait_s)},
        )


def _chosen(row: Row, password: str, again: str) -> str:
    text = _same_spelling(password)
    folded = text.casefold()
    if len(text) < SHORTEST_PASSWORD:
        raise wrong_fields("the form", ("password", f"Take at least {SHORTEST_PASSWORD} characters."))
    if len(text) > LONGEST_PASSWORD:
        raise wrong_fields("the form", ("password", f"Take at most {LONGEST_PASSWORD} characters."))
    if folded in {row.login.casefold(), row.name.casefold(), row.login.partition("@")[0].casefold()}:
        raise wrong_fields("the form", ("password", "Take something else than your login or name."))
    if text != _same_spelling(again):
        raise wrong_fields("the form", ("again", "This is not the same as above."))
    return text


def _same_spelling(password: str) -> str:
    """Keyboards differ in how they write the same letters (RFC 8265, section 4.2)."""
    return unicodedata.normalize("NFC", password)


_hasher = PasswordHasher()
_turns = threading.BoundedSemaphore(AT_ONCE)
_places = threading.BoundedSemaphore(AT_ONCE + MOST_WAITING)


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    busy = RefusedError(
        f"Too many people log in right now. Try again in {TURN_WAITS_S:.0f} seconds.",
        503,
        headers={"Retry-After": f"{TURN_WAITS_S:.0f}"},
    )
    if not _places.acquire(blocking=False):
        raise busy
    try:
        if not _turns.acquire(timeout=TURN_WAITS_S):
            raise busy
        try:
            yield
        finally:
            _turns.release()
    finally:
        _places.release()


def _hash_of(chosen: str) -> str:
    with _turn():
        return _hasher.hash(chosen)


@functools.cache
def _nobody() -> str:
    """The hash of a password that nobody has."""
    return _hasher.hash(hashlib.sha256(b"nobody").hexdigest())


def _fits(hashed: str | None, password: str) -> bool:
    """Takes as long for nobody's password as for somebody's."""
    nobody = _nobody()
    with contextlib.suppress(VerificationError, InvalidHashError):
        _hasher.verify(hashed or nobody, _same_spelling(password[: 4 * LONGEST_PASSWORD]))
        return hashed is not None
    return False


def _with_better_hash(office: Office, row: Row, password: str) -> Row:
    if not _hasher.check_needs_rehash(row.password):
        return row
    office.users.keep_better_hash(row.id, row.password, _hasher.hash(_same_spelling(password)))
    return office.users.get(row.id)
