"""People who log in to the console, over the API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StringConstraints, TypeAdapter
from starlette.responses import Response

from admin.api.operations import Call, Operation, answer, of
from admin.api.reading import one_page, read_cursor
from admin.api.shapes import Answer, Body, GroupIds, List, Name, Page, Sites
from admin.office import OWNERS, Office, users
from admin.office.users import Rights
from integrations.store.tokens import ALL_SITES, Role

Login = Annotated[str, StringConstraints(pattern=r"^[!-?A-~]{1,64}@[!-?A-~]{1,250}$")]


class OwnersRights(Body):
    role: Literal["owner"]

    @property
    def rights(self) -> Rights:
        return Rights(Role.OWNER, [ALL_SITES])


class SitesRights(Body):
    """`sites`: app instance ids, or "*" for all."""

    role: Literal["manager", "reader"]
    sites: Sites

    @property
    def rights(self) -> Rights:
        return Rights(Role(self.role), self.sites)


class GroupAdminsRights(Body):
    """`groups` are ids: names change."""

    role: Literal["group_admin"]
    sites: Sites
    groups: GroupIds

    @property
    def rights(self) -> Rights:
        return Rights(Role.GROUP_ADMIN, self.sites, self.groups)


class _New(Body):
    """`login` is an address; `name` stands in the audit log, so no two users ever have the same."""

    login: Login
    name: Name


class NewOwner(_New, OwnersRights):
    pass


class NewSitesUser(_New, SitesRights):
    pass


class NewGroupAdmin(_New, GroupAdminsRights):
    pass


NewUser: Any = Annotated[NewOwner | NewSitesUser | NewGroupAdmin, Field(discriminator="role")]
NewRights: Any = Annotated[OwnersRights | SitesRights | GroupAdminsRights, Field(discriminator="role")]
NEW_USER: TypeAdapter[Any] = of(NewUser)
NEW_RIGHTS: TypeAdapter[Any] = of(NewRights)


class User(Answer):
    id: str
    login: str
    name: str
    role: Role
    sites: list[str]
    groups: list[str]
    state: Literal["active", "invited", "disabled"]
    created_at: AwareDatetime
    invited_until: AwareDatetime | None = None
    disabled_at: AwareDatetime | None = None
    last_seen_at: AwareDatetime | None = None


class InvitedUser(User):
    """`invitation` is the address, on this server, at which they choose a password: nobody can read it again."""

    invitation: str


def list_users(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    rows = office.users.page(limit=call.query.limit + 1, after=after)
    found = one_page(rows, call.query.limit, users.describe_user, lambda row: (row.created_at, row.id))
    return answer(found)


def invite_user(office: Office, call: Call) -> Response:
    new = call.body
    return _invited(*users.invite(office, call.holder, new.login, new.name, new.rights), status=201)


def change_user(office: Office, call: Call) -> Response:
    return answer(users.describe_user(users.change(office, call.holder, call.id, call.body.rights)))


def reset_user(office: Office, call: Call) -> Response:
    return _invited(*users.reset(office, call.holder, call.id))


def disable_user(office: Office, call: Call) -> Response:
    return answer(users.describe_user(users.disable(office, call.holder, call.id)))


def _invited(invitation: str, row: users.Row, status: int = 200) -> Response:
    return answer(users.describe_user(row) | {"invitation": users.invitation_path(invitation)}, status)


USERS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/users",
        list_users,
        OWNERS,
        "Who logs in to the console, newest first",
        of(List[User]),
        query=Page,
    ),
    Operation(
        "POST",
        "/v1/users",
        invite_user,
        OWNERS,
        "Invite somebody to the console; the invitation is shown this once",
        of(InvitedUser),
        status=201,
        body=NEW_USER,
        also=(409,),
    ),
    Operation(
        "PUT",
        "/v1/users/{id}/rights",
        change_user,
        OWNERS,
        "Say what a user may, from their next request on",
        of(User),
        body=NEW_RIGHTS,
        also=(409,),
    ),
    Operation(
        "POST",
        "/v1/users/{id}/reset",
        reset_user,
        OWNERS,
        "End a user's password and sessions, and invite them anew",
        of(InvitedUser),
    ),
    Operation(
        "POST",
        "/v1/users/{id}/disable",
        disable_user,
        OWNERS,
        "Let a user in no more, from this moment on",
        of(User),
        also=(409,),
    ),
)
