"""Your own account, and the people who log in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from starlette.responses import RedirectResponse, Response

from admin.api.problems import fields_of
from admin.api.reading import next_cursor, read_cursor
from admin.api.users import NEW_RIGHTS, NEW_USER
from admin.console.entrance import PREFIX, forget_session
from admin.console.page import Page, Visit
from admin.console.words import LANGUAGES
from admin.office import OWNERS, users
from admin.office.refusals import RefusedError
from core.errors import WrongStateError
from integrations.store.tokens import ALL_SITES, Role

ROWS = 100
MOST_SITES = 200
"""That can be chosen from in the form; for more there are the API and `usher users`."""
MOST_NAMED_SITES = 20
"""For more of them nobody asks Wix for their names."""


def show_account(visit: Visit) -> Response:
    return _account(visit)


def _account(visit: Visit, exc: RefusedError | None = None) -> Response:
    kind = visit.session.kind
    errors = {error["field"]: error["detail"] for error in exc.errors} if exc is not None else {}
    page = visit.page(
        "account/account.html",
        status=exc.status if exc is not None else 200,
        kind=kind,
        user=visit.office.users.get(visit.holder.id) if kind == "user" else None,
        roles=_roles(visit),
        errors=errors,
        trouble="" if exc is None or errors else str(exc),
        shortest=users.SHORTEST_PASSWORD,
    )
    if exc is not None:
        page.headers.update(exc.headers or {})
    return page


def change_language(visit: Visit) -> Response:
    language = visit.form.get("language")
    if language in LANGUAGES:
        visit.office.users.speak(visit.session.kind, visit.holder, visit.session.hash, language)
    return visit.to("/account")


def change_password(visit: Visit) -> Response:
    if visit.session.kind != "user":
        raise RefusedError("Only people with a login of their own have a password.", 403)
    form = visit.form
    try:
        users.change_password(
            visit.office,
            visit.request.state.limiter,
            visit.holder,
            visit.session.hash,
            now=form.get("now"),
            password=form.get("password"),
            again=form.get("again"),
        )
    except RefusedError as exc:
        return _account(visit, exc)
    return visit.to(
        "/account",
        said=visit.words.gettext("Your password is changed. Everywhere else you are logged out."),
    )


def leave(visit: Visit) -> Response:
    visit.office.users.end_sessions(visit.session.kind, visit.holder)
    response = RedirectResponse(f"{PREFIX}/login", 303)
    forget_session(response, visit.request, visit.session)
    return response


def list_users(visit: Visit) -> Response:
    after = read_cursor(visit.query.get("after", ""), keys=1)
    rows = visit.office.users.page(limit=ROWS + 1, after=after)
    shown = rows[:ROWS]
    last = shown[-1] if len(rows) > ROWS else None
    cursor = next_cursor(last.created_at.isoformat(), last.id) if last is not None else ""
    return visit.page(
        "account/users.html",
        rows=shown,
        next_url=visit.url("/users", after=cursor) if cursor else "",
        roles=_roles(visit),
        site_names=dict(_sites(visit)),
        state_of=users.state_of,
    )


def show_new(visit: Visit) -> Response:
    filled = {"login": "", "name": "", "role": "", "sites": [visit.site], "groups": []}
    return visit.page("account/new.html", trouble="", **_form(visit, filled))


def invite(visit: Visit) -> Response:
    filled = _filled(visit) | {
        "login": visit.form.get("login").strip(),
        "name": visit.form.get("name").strip(),
    }
    new, errors = _read(NEW_USER, filled)
    trouble = ""
    if new is not None:
        try:
            found = users.invite(visit.office, visit.holder, new.login, new.name, new.rights)
            return _show_invitation(visit, *found)
        except WrongStateError:
            trouble = visit.words.gettext(
                "Somebody has this address or this short name, or had it once. Take another one."
            )
    status = 409 if trouble else 422
    return visit.page("account/new.html", status=status, trouble=trouble, **_form(visit, filled, errors))


def show_user(visit: Visit) -> Response:
    row = visit.office.users.get(visit.ids["user"])
    filled = {"role": row.role, "sites": row.sites, "groups": row.groups}
    return _user(visit, row, filled)


def change(visit: Visit) -> Response:
    row = visit.office.users.get(visit.ids["user"])
    filled = _filled(visit)
    # What cannot be seen from this site stays as it is.
    shown = {id_ for id_, _ in _groups(visit)}
    filled["groups"] += [id_ for id_ in row.groups if id_ not in shown]
    offered = {id_ for id_, _ in _sites(visit)} | {ALL_SITES}
    filled["sites"] += [id_ for id_ in row.sites if id_ not in offered]
    new, errors = _read(NEW_RIGHTS, filled)
    if new is None:
        return _user(visit, row, filled, errors, status=422)
    users.change(visit.office, visit.holder, row.id, new.rights)
    return visit.to(f"/users/{row.id}", said=visit.words.gettext("Saved. It holds from their next click on."))


def reset(visit: Visit) -> Response:
    return _show_invitation(visit, *users.reset(visit.office, visit.holder, visit.ids["user"]))


def disable(visit: Visit) -> Response:
    row = users.disable(visit.office, visit.holder, visit.ids["user"])
    said = visit.words.gettext("They are logged out, and cannot come in any more.")
    return visit.to(f"/users/{row.id}", said=said)


def _show_invitation(visit: Visit, invitation: str, row: sa.Row[Any]) -> Response:
    # Shown on the answer itself: an address or a cookie would keep it.
    link = visit.request.state.public_url + users.invitation_path(invitation)
    return visit.page("account/invited.html", row=row, link=link)


def _user(
    visit: Visit, row: sa.Row[Any], filled: dict[str, Any], errors: Collection[str] = (), *, status: int = 200
) -> Response:
    return visit.page(
        "account/user.html",
        status=status,
        row=row,
        is_me=row.id == visit.holder.id,
        state_of=users.state_of,
        trouble="",
        **_form(visit, filled, errors),
    )


def _filled(visit: Visit) -> dict[str, Any]:
    form = visit.form
    return {"role": form.get("role"), "sites": form.getlist("sites"), "groups": form.getlist("groups")}


def _read(model: TypeAdapter[Any], filled: dict[str, Any]) -> tuple[Any, set[str]]:
    """What was filled in, or the names of the fields that are wrong. What a role has no use for is left aside."""
    unused = {"owner": {"sites", "groups"}, "group_admin": set()}.get(filled["role"], {"groups"})
    try:
        return model.validate_python({k: v for k, v in filled.items() if k not in unused}), set()
    except ValidationError as exc:
        return None, {field.partition(".")[0] for field, _ in fields_of(exc, tagged=True)}


def _form(visit: Visit, filled: dict[str, Any], errors: Collection[str] = ()) -> dict[str, Any]:
    _ = visit.words.gettext
    roles = _roles(visit)
    hints = {
        Role.OWNER: _("Everything, people who log in and API tokens too."),
        Role.MANAGER: _("Everything on their sites but people who log in and API tokens."),
        Role.GROUP_ADMIN: _("The requests, people and letters of some groups."),
        Role.READER: _("Look at what a manager sees, and change nothing."),
    }
    return {
        "filled": filled,
        "errors": errors,
        "role_choices": [(str(role), roles[role], hints[role]) for role in Role],
        "site_choices": _sites(visit),
        "group_choices": _groups(visit),
    }


def _roles(visit: Visit) -> dict[str, str]:
    _ = visit.words.gettext
    return {
        Role.OWNER: _("Owner"),
        Role.MANAGER: _("Manager"),
        Role.GROUP_ADMIN: _("Group admin"),
        Role.READER: _("Reader"),
    }


def _sites(visit: Visit) -> list[tuple[str, str]]:
    """Ids and names; of a site that nobody looked at yet the name is not known."""
    office, reach = visit.office, visit.holder.reach
    found = office.sites.active()[:MOST_SITES]
    if len(found) > MOST_NAMED_SITES:
        return [(site, "") for site in found]
    return [(site, office.names.of(site, reach).site().name) for site in found]


def _groups(visit: Visit) -> list[tuple[str, str]]:
    found = [(str(group.id), group.name) for group in visit.directory.groups().values()]
    return sorted(found, key=lambda pair: (pair[1].casefold(), pair[0]))


PAGES: tuple[Page, ...] = (
    Page("GET", "/account", show_account),
    Page("POST", "/account/language", change_language),
    Page("POST", "/account/password", change_password),
    Page("POST", "/account/leave", leave),
    Page("GET", "/users", list_users, OWNERS),
    Page("POST", "/users", invite, OWNERS),
    Page("GET", "/users/new", show_new, OWNERS),
    Page("GET", "/users/{user}", show_user, OWNERS),
    Page("POST", "/users/{user}", change, OWNERS),
    Page("POST", "/users/{user}/reset", reset, OWNERS),
    Page("POST", "/users/{user}/disable", disable, OWNERS),
)
