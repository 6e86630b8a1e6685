"""What went wrong and who did what: events, letters in doubt, tokens, senders, the audit log, the doctor."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from admin.office import Office
from admin.processes import ROOT
from core.community import GroupId, MemberId, SiteId
from core.errors import MalformedEventError, NotThereError, WrongStateError
from core.events import ABOUT_ADDRESSES, Event, EventId, parse_object, read_details
from integrations.store.glance import Glance
from integrations.store.senders import Senders
from integrations.store.tables import events, messages, outbox, senders
from integrations.store.tokens import Holder, Role
from integrations.store.work import equals, page

log = logging.getLogger(__name__)

Row = sa.Row[Any]
Place = tuple[datetime, str]
"""`created_at` and id of the last row seen."""

MOST_AT_ONCE = 500
"""Rows that one act decides about; whoever has more acts once more."""
LETTERS_WITHIN = timedelta(days=60)
MOST_FIELDS = 200
DEEPEST = 20
DOCTOR_S = 60.0


# Events


@dataclass(frozen=True, slots=True)
class Story:
    """One event, what Wix sent of it, and what followed. `fields`: names and values in their order, names of inner
    values with a dot between; `group` and `member` are whom it was about, as far as it says."""

    row: Row
    fields: Sequence[tuple[str, str]] = field(repr=False)
    group: GroupId | None
    member: MemberId | None
    letters: Sequence[Row]
    calls: Sequence[Row]


def replay(office: Office, holder: Holder, id: EventId, site: SiteId | None = None) -> Row:  # noqa: A002 (the row's own word)
    """Have an event worked off once more. Raises NotThereError; WrongStateError also for an id of several sites."""
    found = office.journal.page(id=id, site=site, reach=holder.reach, limit=2)
    if not found:
        raise NotThereError("there is no event of this id")
    if len(found) > 1:
        raise WrongStateError("several sites have an event of this id: name the site")
    row = office.journal.replay(id, SiteId(found[0].site), who=holder.who)
    office.ring()
    _log("event.replayed", holder, event_id=row.id, site=row.site)
    return row


def dead_events(office: Office, holder: Holder, site: SiteId, type: str) -> list[Row]:  # noqa: A002
    """Up to MOST_AT_ONCE of this type."""
    return office.journal.page(site=site, type=type, state="dead", reach=holder.reach, limit=MOST_AT_ONCE)


def replay_dead(office: Office, holder: Holder, site: SiteId, type: str) -> int:  # noqa: A002
    """Have the dead events of a type worked off once more, up to MOST_AT_ONCE; how many those were."""
    return _each(dead_events(office, holder, site, type), lambda row: replay(office, holder, row.id, site))


def story_of(office: Office, holder: Holder, site: SiteId, id: EventId) -> Story:  # noqa: A002
    """Raises NotThereError."""
    if not office.journal.page(id=id, site=site, reach=holder.reach, limit=1):
        raise NotThereError("there is no event of this id")
    with office.database.read() as tx:
        row = tx.execute(sa.select(events).where(events.c.site == site, events.c.id == id)).one()
        # What follows is written when the event is done; outcomes of the same person's other events are left out.
        soon = (row.finished_at or tx.now) + timedelta(seconds=1)
        whose = messages.c.member == row.member if row.member else sa.false()
        letters = tx.execute(
            _shown(messages).where(messages.c.site == site, whose, messages.c.event == id).limit(MOST_FIELDS)
        ).all()
        calls = tx.execute(
            sa.select(outbox)
            .where(
                outbox.c.site == site,
                outbox.c.created_at >= row.received_at,
                outbox.c.created_at <= soon,
                outbox.c.event == id,
            )
            .limit(MOST_FIELDS)
        ).all()
    fields, group, member = _read(row)
    return Story(row, fields, group, member or row.member, letters, calls)


def _read(row: Row) -> tuple[list[tuple[str, str]], GroupId | None, MemberId | None]:
    event = Event(EventId(row.id), SiteId(row.site), row.type, row.occurred_at, row.payload)
    try:
        details, payload = read_details(event), parse_object(row.payload, "payload")
    except MalformedEventError:
        return [], None, None
    if row.type in ABOUT_ADDRESSES:  # hashes of addresses tell nobody anything
        payload.pop("addressHashes", None)
    found: list[tuple[str, str]] = []
    _flatten("", payload, found)
    return found, details.group, details.member


def _flatten(name: str, value: object, found: list[tuple[str, str]]) -> None:
    if len(found) >= MOST_FIELDS or name.count(".") > DEEPEST:
        return
    if isinstance(value, str) and value[:1] == "{":  # Wix puts JSON into texts
        with contextlib.suppress(MalformedEventError):
            value = parse_object(value, name)
    match value:
        case dict():
            for key, inner in value.items():
                _flatten(f"{name}.{key}" if name else str(key), inner, found)
        case list():
            for place, inner in enumerate(value, 1):
                _flatten(f"{name}.{place}", inner, found)
        case None | "":
            pass
        case bool():
            found.append((name, "yes" if value else "no"))
        case _:
            found.append((name, str(value)))


# Letters


def letters(
    office: Office,
    holder: Holder,
    site: SiteId,
    *,
    state: str | None = None,
    group: str | None = None,
    automation: str | None = None,
    why: str = "",
    limit: int = 50,
    after: Place | None = None,
) -> tuple[list[Row], str]:
    """Letters of the last weeks, the newest first, and the reason that `why` stands for (a key of Glance.refused).

    Raises NotThereError for a `why` of nobody's letter.
    """
    reason = ""
    if why:
        refused, _ = Glance(office.database).refused(site, holder.reach)
        known = next((one for one in refused if one.key == why), None)
        if known is None:
            raise NotThereError("No letter of the last days has this reason any more.")
        state, reason = known.state, known.reason
    wanted = {
        "site": site,
        "state": state,
        "group_id": group,
        "automation": automation,
        "reason": reason or None,
    }
    with office.database.read() as tx:
        where = [
            *equals(messages, wanted),
            messages.c.created_at >= tx.now - LETTERS_WITHIN,
            *holder.reach.within(messages.c.site, messages.c.group_id),
        ]
        return page(tx, messages, messages.c.created_at, where, limit=limit, after=after), reason


def own_letter(office: Office, holder: Holder, id: str) -> Row:  # noqa: A002
    """Raises NotThereError, also for what is out of the holder's reach."""
    found = office.ledger.page(id=id, reach=holder.reach, limit=1)
    if not found:
        raise NotThereError("there is no letter of this id")
    return found[0]


def in_doubt(
    office: Office, holder: Holder, site: SiteId, *, older_than: timedelta = timedelta(0)
) -> list[Row]:
    """Letters of which nobody knows whether they arrived, up to MOST_AT_ONCE; those in doubt for at least so long."""
    rows = office.ledger.page(site=site, state="in_doubt", reach=holder.reach, limit=MOST_AT_ONCE)
    # It is in doubt since its lease ended; whose worker said so is at once, with its lease still standing.
    since = office.now() - older_than
    return [row for row in rows if row.next_at <= since] if older_than else rows


def release(office: Office, holder: Holder, id: str) -> Row:  # noqa: A002
    """Send a letter in doubt again. Raises NotThereError, WrongStateError."""
    row = office.ledger.release(own_letter(office, holder, id).id, who=holder.who)
    office.ring()
    _log("letter.released", holder, letter_id=row.id, site=row.site)
    return row


def give_up(office: Office, holder: Holder, id: str) -> Row:  # noqa: A002
    """Never send a letter in doubt. Raises NotThereError, WrongStateError."""
    row = office.ledger.give_up(own_letter(office, holder, id).id, who=holder.who)
    _log("letter.given_up", holder, letter_id=row.id, site=row.site)
    return row


DECISIONS: Mapping[str, Callable[[Office, Holder, str], Row]] = {"release": release, "give-up": give_up}


def decide_all(
    office: Office,
    holder: Holder,
    site: SiteId,
    decision: Literal["release", "give-up"],
    older_than: timedelta,
) -> int:
    """Decide the same about letters that have been in doubt for so long, up to MOST_AT_ONCE; how many those were."""
    act = DECISIONS[decision]
    return _each(
        in_doubt(office, holder, site, older_than=older_than), lambda row: act(office, holder, row.id)
    )


def _each(rows: Sequence[Row], act: Callable[[Row], Row]) -> int:
    done = 0
    for row in rows:
        try:
            act(row)
        except (NotThereError, WrongStateError):  # somebody else was faster
            continue
        done += 1
    return done


def _shown(table: sa.Table) -> sa.Select[Any]:
    return sa.select(*(column for column in table.columns if column.name not in ("payload", "context")))


# Tokens and the audit log


def create_token(
    office: Office,
    holder: Holder,
    name: str,
    role: Role,
    *,
    sites: Sequence[str],
    groups: Sequence[str],
    expires_in_days: int | None,
) -> tuple[str, Row]:
    """The token, which nobody can read again, and its row. Raises WrongStateError for a name that is taken."""
    token, row = office.tokens.create(
        name,
        role,
        sites=sites,
        groups=groups,
        lasts=timedelta(days=expires_in_days) if expires_in_days else None,
        who=holder.who,
    )
    _log("token.created", holder, token_id=row.id)
    return token, row


def revoke_token(office: Office, holder: Holder, id: str) -> Row:  # noqa: A002
    """Raises NotThereError, WrongStateError."""
    row = office.tokens.revoke(id, who=holder.who)
    _log("token.revoked", holder, token_id=row.id)
    return row


def audit_lines(
    office: Office, holder: Holder, *, limit: int, after: Place | None = None, **wanted: str | None
) -> list[Row]:
    """`wanted`: site, who, action, object. Lines about no site, such as those of tokens, are for owners."""
    return office.audit.page(
        **wanted,
        reach=holder.reach,
        of_sites=holder.role is not Role.OWNER,
        limit=limit,
        after=after,
    )


# Senders


def pauses(office: Office) -> list[Row]:
    """How each of our senders fares: its row for all readers first, then by their domain."""
    with office.database.read() as tx:
        query = sa.select(senders).order_by(senders.c.sender, senders.c.domain).limit(MOST_AT_ONCE)
        return list(tx.execute(query))


def resume(office: Office, holder: Holder, sender: str, domain: str) -> None:
    """Write to this domain ("": to everybody) again at once. Raises WrongStateError when nothing was paused."""
    if not Senders(office.database, sender).resume(domain, who=holder.who):
        raise WrongStateError("Nothing was paused any more.")
    office.ring()
    _log("sender.resumed", holder, domain=domain)


# The doctor


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of `usher doctor`; `verdict` is "ok", "warning", "failed" or "not checked"."""

    name: str
    verdict: str
    seen: str
    fix: str


_ONE_DOCTOR = threading.Lock()


def run_doctor(holder: Holder, arguments: Sequence[str] = ()) -> list[Seen]:
    """What `usher doctor` says of this installation, which takes up to half a minute and reaches out to Wix, the mail
    server and DNS. In a process of its own, so that it takes no time of the one that answers Wix; one at a time.

    Raises WrongStateError.
    """
    if not _ONE_DOCTOR.acquire(blocking=False):
        raise WrongStateError("The doctor is at work already: look again in half a minute.")
    try:
        _log("doctor.begun", holder)
        done = subprocess.run(  # noqa: S603 (our own module, no shell)
            [sys.executable, "-m", "admin", "doctor", "--json", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DOCTOR_S,
            check=False,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired as exc:
        raise WrongStateError("The doctor did not come to an end within a minute.") from exc
    except (OSError, ValueError) as exc:
        log.exception("doctor.failed")
        raise WrongStateError("The doctor could not be started; the log says why.") from exc
    finally:
        _ONE_DOCTOR.release()
    return [Seen(line["name"], line["verdict"], line["seen"], line.get("fix", "")) for line in found]


def _log(event: str, holder: Holder, **ids: str | None) -> None:
    log.info(event, extra={"who": holder.who, **ids})
