"""What is open to everybody: the login, invitations, the way out, and what is said to those who do not come in."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from admin.api.entrance import Limiter, client_address
from admin.console.entrance import (
    LONGEST_SECRET,
    PREFIX,
    Keys,
    Session,
    check_csrf,
    forget_session,
    is_framed,
    safe_next,
    set_session,
)
from admin.console.page import Form, read_form, sentence_of, status_of
from admin.office import Office, users
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.errors import AppError

log = logging.getLogger(__name__)

FORM_BYTES = 16 * 1024


class Render(Protocol):
    """Draws a page without a Visit."""

    def __call__(
        self, request: Request, template: str, status: int = 200, *, language: str = "", **context: object
    ) -> Response: ...


def entrance_routes(keys: Keys, office: Office, limiter: Limiter, render: Render) -> list[Route]:
    desk = _Desk(keys, office, limiter, render)
    both = ["GET", "POST"]
    return [
        Route("/login", desk.endpoint(desk.login), methods=both, max_body_size=FORM_BYTES),
        Route("/logout", desk.endpoint(desk.logout), methods=["POST"], max_body_size=FORM_BYTES),
        Route("/invitation/{invitation}", desk.endpoint(desk.accept), methods=both, max_body_size=FORM_BYTES),
        Route("/refused", desk.endpoint(desk.refuse), methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class _Desk:
    keys: Keys
    office: Office
    limiter: Limiter
    render: Render

    def endpoint(self, act: Callable[[Request, Form], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def run(request: Request) -> Response:
            try:
                form = await read_form(request, FORM_BYTES) if request.method == "POST" else Form()
                return await run_in_threadpool(act, request, form)
            except AppError as exc:
                return await run_in_threadpool(self._tell, request, exc)

        return run

    def login(self, request: Request, form: Form) -> Response:
        if request.method != "POST":
            next_ = safe_next(request.query_params.get("next", ""))
            if _session(request) is not None:
                return RedirectResponse(next_, 303)
            return self._show_login(request, next_)
        next_, address = safe_next(form.get("next")), client_address(request)
        try:
            if "token" in form:
                users.show_admin_token(self.limiter, address, self.keys.admin_token, form.get("token"))
                return self._let_in(request, "admin", "admin", self.keys.proof, next_)
            row = users.log_in(self.office, self.limiter, address, form.get("login"), form.get("password"))
            return self._let_in(request, "user", row.id, row.password, next_)
        except RefusedError as exc:
            return self._show_login(request, next_, exc, form)

    def logout(self, request: Request, form: Form) -> Response:
        session = _session(request)
        response = RedirectResponse(f"{PREFIX}/login", 303)
        if session is not None:
            check_csrf(request, session, form.get("csrf"))
            self.office.users.end_session(session.hash)
            forget_session(response, request, session)
        return response

    def accept(self, request: Request, form: Form) -> Response:
        shown = request.path_params["invitation"]
        row = self.office.users.invited(shown) if len(shown) <= LONGEST_SECRET else None
        if row is None:
            return self.render(
                request,
                "account/refused.html",
                404,
                heading=N_("This invitation is over"),
                sentence=users.OVER,
            )
        if request.method != "POST":
            return self._show_invitation(request, row)
        try:
            row = users.accept(self.office, shown, form.get("password"), form.get("again"))
        except RefusedError as exc:
            if not exc.errors:
                raise
            return self._show_invitation(request, row, exc)
        return self._let_in(request, "user", row.id, row.password, f"{PREFIX}/")

    def refuse(self, request: Request, _form: Form) -> Response:
        """What the entrance has to say instead of the page that was asked for."""
        status, heading, sentence = getattr(request.state, "refusal", (404, "Nothing is here", ""))
        page = self.render(request, "account/refused.html", status, heading=heading, sentence=sentence)
        if status == 503:
            page.headers["Retry-After"] = "5"
        return page

    def _let_in(self, request: Request, kind: str, subject: str, proof: str, next_: str) -> Response:
        """A new session, whatever cookie was shown; the one that this browser had is over."""
        session = _session(request)
        cookie = self.office.users.begin_session(
            kind, subject, proof=proof, instead_of=session.hash if session is not None else ""
        )
        if cookie is None:
            raise RefusedError(users.WRONG, 401)
        log.info("console.entered", extra={"kind": kind, "who": subject})
        response = RedirectResponse(next_, 303)
        set_session(response, request, cookie, kind)
        return response

    def _show_login(
        self, request: Request, next_: str, wrong: RefusedError | None = None, form: Form | None = None
    ) -> Response:
        is_over = getattr(request.state, "is_over", False)
        status = wrong.status if wrong is not None else 401 if is_over else 200
        headers = (wrong.headers or {}) if wrong is not None else {}
        page = self.render(
            request,
            "account/login.html",
            status,
            next=next_,
            login=form.get("login") if form is not None else "",
            by_token_before=form is not None and "token" in form,
            wrong=str(wrong or ""),
            wait_s=headers.get("Retry-After", ""),
            in_frame=is_framed(request),
            by_token=not self.office.users.are_there(),
            is_over=is_over,
        )
        page.headers.update(headers)
        return page

    def _show_invitation(
        self, request: Request, row: sa.Row[tuple[object, ...]], exc: RefusedError | None = None
    ) -> Response:
        return self.render(
            request,
            "account/invitation.html",
            exc.status if exc is not None else 200,
            login=row.login,
            errors={error["field"]: error["detail"] for error in exc.errors} if exc is not None else {},
            shortest=users.SHORTEST_PASSWORD,
        )

    def _tell(self, request: Request, exc: AppError) -> Response:
        page = self.render(
            request,
            "account/refused.html",
            status_of(exc),
            heading=N_("That did not work"),
            sentence=sentence_of(exc),
        )
        page.headers.update((exc.headers or {}) if isinstance(exc, RefusedError) else {})
        return page


def _session(request: Request) -> Session | None:
    found: Session | None = getattr(request.state, "session", None)
    return found
