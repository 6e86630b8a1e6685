"""Who comes in to the console: sessions, their cookies, and what a form has to show. (Being written.)"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from admin.office.refusals import RefusedError


@dataclass(frozen=True, slots=True)
class Session:
    """`kind`: "admin", "user" or "wix"; `csrf` stands in every form."""

    hash: str
    kind: str
    csrf: str
    language: str = ""
    in_frame: bool = False


def check_csrf(request: Request, session: Session, given: str) -> None:
    """Raises RefusedError."""
    shown = given or request.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(shown.encode(), session.csrf.encode()):
        raise RefusedError("This form is not ours, or it is too old: load the page again.", 403)


def set_cookie(
    response: Response, request: Request, name: str, value: str, *, in_frame: bool, max_age: int
) -> None:
    """Of a page in Wix's dashboard it is Partitioned, so that it comes back there and nowhere else."""
    secure = in_frame or request.url.scheme == "https"
    kind = "SameSite=None; Secure; Partitioned" if in_frame else "SameSite=Lax" + "; Secure" * secure
    response.headers.append("set-cookie", f"{name}={value}; Path=/admin; Max-Age={max_age}; HttpOnly; {kind}")
