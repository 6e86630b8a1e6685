"""Requests, read: query, body, cursor and key. What cannot be meant raises RefusedError or a WebhookError."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from admin.api.problems import fields_of
from admin.api.shapes import Query
from admin.office.refusals import RefusedError, wrong_fields
from core.community import LONGEST_ID, is_plain
from core.errors import BodyTooLargeError, NotThereError, WebhookError
from webhooks.endpoint import read_body

BODY_WITHIN_S = 30.0

Q = TypeVar("Q", bound=Query)


def read_query(request: Request, model: type[Q]) -> Q:
    """Raises RefusedError naming each wrong field of the query."""
    given: dict[str, str] = {}
    errors = []
    for name, value in request.query_params.multi_items():
        if name in given:
            errors.append((name, "is there twice"))
        given.setdefault(name, value)
    try:
        found = model.model_validate(given)
    except ValidationError as exc:
        errors += fields_of(exc)
    if errors:
        raise wrong_fields("the query", *errors)
    return found


async def read_json(request: Request, at_most_bytes: int) -> bytes:
    """The body, which says that it is JSON. Raises RefusedError."""
    kinds = request.headers.getlist("content-type")
    kind = Message()
    kind["content-type"] = kinds[0] if len(kinds) == 1 else ""
    charset = kind.get_content_charset("utf-8")
    if kind.get_content_type() != "application/json" or charset != "utf-8":
        raise RefusedError("the body has to be application/json in UTF-8", 415)
    try:
        return await read_body(request, at_most_bytes, BODY_WITHIN_S)
    except BodyTooLargeError as exc:
        raise RefusedError(f"the body may have at most {at_most_bytes} bytes here", 413) from exc
    except WebhookError as exc:
        raise RefusedError(f"the body did not come within {BODY_WITHIN_S:.0f} s", exc.status_code) from exc
    except ClientDisconnect as exc:
        raise RefusedError("the body did not come") from exc  # nobody is there to read it


def parse_json(
    raw: bytes, model: TypeAdapter[Any], excess: Callable[[Any], Sequence[tuple[str, str]]] | None = None
) -> Any:
    """Raises RefusedError: 400 for what is no JSON, 422 naming each wrong field. `excess` looks before `model`, which
    makes some kilobyte of each mistake and lets no other thread work meanwhile."""
    try:
        plain = from_json(raw, allow_inf_nan=False)
    except ValueError as exc:
        raise RefusedError("the body is no JSON") from exc
    if b"\\u0000" in raw and _holds_nul(plain):
        raise wrong_fields("the body", ("", "holds the character U+0000, which no database keeps"))
    if excess is not None and (errors := excess(plain)):
        raise wrong_fields("the body", *errors)
    del plain
    try:
        return model.validate_json(raw)
    except ValidationError as exc:
        kind: Any = model.core_schema
        tagged = kind.get("schema", kind)["type"] == "tagged-union"  # pydantic puts definitions around it
        raise wrong_fields("the body", *fields_of(exc, tagged=tagged)) from exc


def _holds_nul(found: Any) -> bool:
    match found:
        case str():
            return "\x00" in found
        case list():
            return any(map(_holds_nul, found))
        case dict():
            return any(_holds_nul(name) or _holds_nul(value) for name, value in found.items())
    return False


def read_key(request: Request) -> str:
    """The Idempotency-Key. Raises RefusedError."""
    given = request.headers.getlist("idempotency-key")
    if len(given) != 1 or not is_plain(given[0], LONGEST_ID):
        detail = f"has to be there once: printable ASCII without spaces, at most {LONGEST_ID} characters"
        raise wrong_fields("the head of the request", ("Idempotency-Key", detail))
    return given[0]


def read_id(request: Request) -> str:
    """Raises NotThereError for what no row can have."""
    found: str = request.path_params.get("id", "")
    if not is_plain(found, LONGEST_ID):
        raise NotThereError("there is nothing of this id")
    return found


def read_cursor(cursor: str, keys: int) -> tuple[Any, ...] | None:
    """Time and keys of the last row seen. It only says where to go on; who may see what is asked anew."""
    if not cursor:
        return None
    try:
        time, *found = _open_cursor(cursor)
        at = datetime.fromisoformat(time).astimezone(UTC)
        if len(found) != keys or not all(is_plain(key, LONGEST_ID) for key in found):
            raise ValueError
    except (ValueError, OverflowError) as exc:
        raise _FORGED from exc
    return (at, *found)


def read_number(cursor: str) -> int:
    """The number of the last row seen; -1 before the first."""
    if not cursor:
        return -1
    try:
        [found] = _open_cursor(cursor)
        if not re.fullmatch("[0-9]{1,9}", found):
            raise ValueError
        return int(found)
    except ValueError as exc:
        raise _FORGED from exc


def next_cursor(*place: str) -> str:
    """Ids hold no spaces."""
    return base64.urlsafe_b64encode(" ".join(place).encode()).decode().rstrip("=")


def _open_cursor(cursor: str) -> list[str]:
    padded = cursor + "=" * (-len(cursor) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").split(" ")


_FORGED = wrong_fields("the query", ("cursor", "must be a `next` of this list"))


def one_page(
    rows: Sequence[sa.Row[Any]],
    limit: int,
    describe: Callable[[sa.Row[Any]], Mapping[str, Any]],
    place: Callable[[sa.Row[Any]], tuple[Any, ...]],
) -> dict[str, Any]:
    """`rows` are up to one more than `limit`: then there is a next page."""
    following = None
    if len(rows) > limit:
        time, *keys = place(rows[limit - 1])
        following = next_cursor(time.isoformat(), *keys)
    return {"items": [describe(row) for row in rows[:limit]], "next": following}
