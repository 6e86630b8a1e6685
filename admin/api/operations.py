"""What an operation of the API is, and those about events, letters, tokens and the audit log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import JSONResponse, Response

from admin.api import shapes
from admin.api.reading import one_page, read_cursor
from admin.office import ALL, DECIDERS, MANAGERS, OWNERS, READERS, Office, workshop
from admin.recovery import describe_event, describe_message
from admin.tokens import describe_line, describe_token
from core.events import EventId
from integrations.store.tokens import ALL_SITES, Holder, Role

log = logging.getLogger(__name__)

SMALL_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and found to be meant; `key` is its Idempotency-Key."""

    holder: Holder
    id: str
    query: Any
    body: Any = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """`act` may block. `answers` is None for what is no JSON; `also` are the statuses of this operation alone.

    `excess` finds in a large body what would be more mistakes than pydantic should be made to find.
    """

    method: str
    path: str
    act: Callable[[Office, Call], Response]
    roles: frozenset[Role]
    summary: str
    answers: TypeAdapter[Any] | None
    status: int = 200
    query: type[shapes.Query] = shapes.Query
    body: TypeAdapter[Any] | None = None
    body_bytes: int = SMALL_BODY
    excess: Callable[[Any], Sequence[tuple[str, str]]] | None = None
    needs_key: bool = False
    also: tuple[int, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)


def answer(found: Any, status: int = 200, **headers: str) -> Response:
    return JSONResponse(found, status_code=status, headers={"Cache-Control": "no-store", **headers})


def note(event: str, call: Call, **ids: str | None) -> None:
    log.info(event, extra={"who": call.holder.who, **ids})


# Who asks.


def say_who(_office: Office, call: Call) -> Response:
    holder = call.holder
    found: dict[str, Any] = {"who": holder.who, "role": holder.role}
    found["sites"] = [ALL_SITES] if holder.reach.sites is None else sorted(holder.reach.sites)
    if holder.reach.groups is not None:
        found["groups"] = sorted(holder.reach.groups)
    if holder.expires_at is not None:
        found["expires_at"] = f"{holder.expires_at:%Y-%m-%dT%H:%M:%S.%fZ}"
    return answer(found)


# Events.


def list_events(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=2)
    limit = call.query.limit
    rows = office.journal.page(**call.query.filters(), reach=call.holder.reach, limit=limit + 1, after=after)
    return answer(one_page(rows, limit, describe_event, lambda row: (row.received_at, row.site, row.id)))


def replay_event(office: Office, call: Call) -> Response:
    site = call.query.filters().get("site")
    return answer(describe_event(workshop.replay(office, call.holder, EventId(call.id), site)))


# Letters.


def list_messages(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    limit = call.query.limit
    rows = office.ledger.page(**call.query.filters(), reach=call.holder.reach, limit=limit + 1, after=after)
    return answer(one_page(rows, limit, describe_message, lambda row: (row.created_at, row.id)))


def release_message(office: Office, call: Call) -> Response:
    return answer(describe_message(workshop.release(office, call.holder, call.id)))


def give_message_up(office: Office, call: Call) -> Response:
    return answer(describe_message(workshop.give_up(office, call.holder, call.id)))


# Tokens and the audit log.


def list_tokens(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    rows = office.tokens.page(limit=call.query.limit + 1, after=after)
    return answer(one_page(rows, call.query.limit, describe_token, lambda row: (row.created_at, row.id)))


def create_token(office: Office, call: Call) -> Response:
    new = call.body
    sites, groups = new.reach
    token, row = workshop.create_token(
        office,
        call.holder,
        new.name,
        Role(new.role),
        sites=sites,
        groups=groups,
        expires_in_days=new.expires_in_days,
    )
    return answer(describe_token(row) | {"token": token}, 201)


def revoke_token(office: Office, call: Call) -> Response:
    return answer(describe_token(workshop.revoke_token(office, call.holder, call.id)))


def list_audit(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    limit = call.query.limit
    rows = workshop.audit_lines(office, call.holder, **call.query.filters(), limit=limit + 1, after=after)
    return answer(one_page(rows, limit, describe_line, lambda row: (row.at, row.id)))


def of(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


BASICS: tuple[Operation, ...] = (
    Operation("GET", "/v1/whoami", say_who, ALL, "Whose token this is, and what it may", of(shapes.Whoami)),
    Operation(
        "GET",
        "/v1/events",
        list_events,
        READERS,
        "What Wix told of, newest first",
        of(shapes.List[shapes.Event]),
        query=shapes.EventsQuery,
    ),
    Operation(
        "POST",
        # An event's id may hold a slash, which arrives like any other one.
        "/v1/events/{id:path}/replay",
        replay_event,
        MANAGERS,
        "Work an event off once more; who has a letter of it gets no second one",
        of(shapes.Event),
        query=shapes.ReplayQuery,
        also=(409,),
    ),
    Operation(
        "GET",
        "/v1/messages",
        list_messages,
        ALL,
        "Letters and refusals, newest first: who was written to, who was not, and why",
        of(shapes.List[shapes.Message]),
        query=shapes.MessagesQuery,
    ),
    Operation(
        "POST",
        "/v1/messages/{id}/release",
        release_message,
        DECIDERS,
        "Send a letter in doubt again",
        of(shapes.Message),
        also=(409,),
    ),
    Operation(
        "POST",
        "/v1/messages/{id}/give-up",
        give_message_up,
        DECIDERS,
        "Never send a letter in doubt",
        of(shapes.Message),
        also=(409,),
    ),
    Operation(
        "GET",
        "/v1/tokens",
        list_tokens,
        OWNERS,
        "All tokens there are or were, newest first",
        of(shapes.List[shapes.Token]),
        query=shapes.Page,
    ),
    Operation(
        "POST",
        "/v1/tokens",
        create_token,
        OWNERS,
        "Make a token; it is shown this once",
        of(shapes.ShownToken),
        status=201,
        body=of(shapes.NewToken),
        also=(409,),
    ),
    Operation(
        "DELETE",
        "/v1/tokens/{id}",
        revoke_token,
        OWNERS,
        "Let nobody in with a token any more",
        of(shapes.Token),
        also=(409,),
    ),
    Operation(
        "GET",
        "/v1/audit",
        list_audit,
        READERS,
        "Who did what, newest first, and how things were before and after",
        of(shapes.List[shapes.AuditLine]),
        query=shapes.AuditQuery,
    ),
)
