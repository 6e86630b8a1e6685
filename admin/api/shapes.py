"""What the API takes and gives, as pydantic models: queries, bodies and answers. The OpenAPI document is made of them.

Answers are written as they are (admin/recovery.py, admin/jobs/described.py); the tests hold them to these models.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from admin.recovery import EVENT_STATES, MESSAGE_STATES
from core.community import LONGEST_ID
from integrations.store.tokens import ALL_SITES, Role

T = TypeVar("T")

DEFAULT_LIMIT = 100
HIGHEST_LIMIT = 1000

Id = Annotated[str, StringConstraints(pattern=rf"^[!-~]{{1,{LONGEST_ID}}}$")]


# Queries. An empty field is one that was not given.


def _digits(value: object) -> object:
    """Python reads more as a number than digits."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value


Filter = Annotated[str, StringConstraints(pattern=rf"^[!-~]{{0,{LONGEST_ID}}}$")]
Words = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,250}$")]
Cursor = Annotated[str, StringConstraints(max_length=1000), Field(json_schema_extra={"format": "cursor"})]
Limit = Annotated[
    int,
    BeforeValidator(_digits),
    Field(strict=True, ge=1, le=HIGHEST_LIMIT),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": HIGHEST_LIMIT, "default": DEFAULT_LIMIT}),
]


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def filters(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.model_dump(exclude={"limit", "cursor"}).items() if value != ""
        }


class Page(Query):
    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor = ""


class EventsQuery(Page):
    site: Filter = ""
    type: Filter = ""
    state: Literal["", *EVENT_STATES] = ""  # type: ignore[valid-type] # a table's words


class ReplayQuery(Query):
    site: Filter = ""


class MessagesQuery(Page):
    site: Filter = ""
    job: Filter = ""
    member: Filter = ""
    group: Filter = ""
    automation: Filter = ""
    state: Literal["", *MESSAGE_STATES] = ""  # type: ignore[valid-type]


class AuditQuery(Page):
    site: Filter = ""
    who: Words = ""
    action: Filter = ""
    object: Words = ""


# Bodies.


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def read_whole(value: object) -> object:
    """1.0 is a whole number in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _NewToken(Body):
    name: Name
    """Stands in the audit log, so no two tokens ever have the same."""
    expires_in_days: Annotated[int, Field(ge=1, le=3650), BeforeValidator(read_whole)] | None = None
    """None: it lasts until it is revoked."""


Sites = Annotated[list[Id], Field(min_length=1, max_length=1000)]
GroupIds = Annotated[list[Id], Field(min_length=1, max_length=1000)]


class OwnersToken(_NewToken):
    role: Literal["owner"]

    @property
    def reach(self) -> tuple[list[str], list[str]]:
        return [ALL_SITES], []


class SitesToken(_NewToken):
    """`sites`: app instance ids, or "*" for all."""

    role: Literal["manager", "reader"]
    sites: Sites

    @property
    def reach(self) -> tuple[list[str], list[str]]:
        return self.sites, []


class GroupAdminsToken(_NewToken):
    """`groups` are ids: names change."""

    role: Literal["group_admin"]
    sites: Sites
    groups: GroupIds

    @property
    def reach(self) -> tuple[list[str], list[str]]:
        return self.sites, self.groups


NewToken = Annotated[OwnersToken | SitesToken | GroupAdminsToken, Field(discriminator="role")]


# Answers.


def _absent_rather_than_null(schema: dict[str, Any], model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        if not field.is_required() and field.default is None:
            shown = schema["properties"][name]
            del shown["default"]
            [only] = [kind for kind in shown.pop("anyOf") if kind != {"type": "null"}]
            shown.update(only)


class Answer(BaseModel):
    """A field that may be None is left out then."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_absent_rather_than_null)


class List(BaseModel, Generic[T]):
    """`next` is the `cursor` of what follows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[T]
    next: str | None


class Problem(Answer):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[WrongField] | None = None


class WrongField(Answer):
    field: str
    detail: str


class Event(Answer):
    id: str
    site: str
    type: str
    state: Literal[EVENT_STATES]  # type: ignore[valid-type]
    received_at: AwareDatetime
    attempts: int
    error: str | None = None


class Message(Answer):
    """One letter, or why it is none."""

    id: str
    site: str
    member: str
    group: str
    purpose: str
    automation: str | None = None
    job: str | None = None
    email_template: str
    state: Literal[MESSAGE_STATES]  # type: ignore[valid-type]
    reason: str | None = None
    attempts: int
    created_at: AwareDatetime
    sent_at: AwareDatetime | None = None


class Whoami(Answer):
    who: str
    role: Role
    sites: list[str]
    groups: list[str] | None = None
    expires_at: AwareDatetime | None = None


class Token(Answer):
    id: str
    name: str
    role: Role
    sites: list[str]
    groups: list[str]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    last_used_at: datetime | None = None


class ShownToken(Token):
    """`token` is what its holder shows: nobody can read it again."""

    token: str


class AuditLine(Answer):
    """`before` and `after`: ids, states and counts."""

    id: str
    at: AwareDatetime
    who: str
    action: str
    object: str
    site: str | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
