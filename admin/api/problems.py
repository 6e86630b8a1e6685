"""Everything of the API that is not an answer: problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from admin.office.refusals import RefusedError
from core.errors import (
    IntegrationError,
    JournalUnavailableError,
    NotThereError,
    RetryableError,
    WrongStateError,
)
from integrations.store.jobs import KeyReusedError

log = logging.getLogger(__name__)


def fields_of(exc: ValidationError, *, tagged: bool = False) -> list[tuple[str, str]]:
    """Where each mistake is, and what it is, without the values, which may be personal. `tagged`: of a union, whose
    members pydantic names first."""
    found = []
    for error in exc.errors(include_input=False, include_url=False):
        place, what = [str(step) for step in error["loc"]], error["msg"]
        match error["type"]:
            case "union_tag_invalid":
                place, what = (
                    [error["ctx"]["discriminator"].strip("'")],
                    f"is none of {error['ctx']['expected_tags']}",
                )
            case "union_tag_not_found":
                place, what = [error["ctx"]["discriminator"].strip("'")], "is missing"
            case _ if tagged:
                place = place[1:]
        found.append((".".join(place)[:200], what))
    return found


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: object) -> Response:
    """A problem document; `more` are its extension members."""
    title = HTTPStatus(status).phrase
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more},
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/problem+json",
    )


def problem_of_http(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 (Starlette calls it for nothing else)
    details = {404: "there is nothing at this address", 405: "this address does not know this method"}
    return problem(exc.status_code, details.get(exc.status_code, exc.detail), dict(exc.headers or {}))


def problem_of(_request: Request, exc: Exception) -> Response:
    match exc:
        case NotThereError():
            return problem(404, str(exc))
        case WrongStateError():
            return problem(409, str(exc))
        case KeyReusedError():
            return problem(422, str(exc), errors=[{"field": "Idempotency-Key", "detail": str(exc)}])
        case RefusedError():
            return problem(
                exc.status, str(exc), exc.headers, **({"errors": exc.errors} if exc.errors else {})
            )
        case JournalUnavailableError():
            log.error("api.database_away", extra={"error": str(exc)})
            return problem(503, "the database does not answer now; nothing was changed, or nobody knows")
        case RetryableError():
            return problem(503, "Wix does not answer now, or asks to wait")
        case IntegrationError():
            return problem(502, f"Wix refused what was asked of it: {exc}")
    raise exc


def problem_of_defect(_request: Request, _exc: Exception) -> Response:
    return problem(500, "Usher failed over this; its log says how")
