"""Groups over the API: how each fares beside the others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints
from starlette.responses import Response

from admin.api.operations import Call, Operation, answer, of
from admin.api.reading import next_cursor, read_number
from admin.api.shapes import Answer, List, Page
from admin.office import ALL, Office, groups
from admin.office.groups import GROWTH_DAYS, LETTER_DAYS, ORDERS, Standing
from core.community import LONGEST_ID, SiteId


class GroupsQuery(Page):
    site: Annotated[str, StringConstraints(pattern=rf"^[!-~]{{1,{LONGEST_ID}}}$")]
    order: Literal[*ORDERS] = "name"  # type: ignore[valid-type] # a table's words


class Group(Answer):
    """`change` is that of its members within 30 days; `letters` went out to them within 30 days. `popular` is left out
    for whoever does not see all groups."""

    id: str
    name: str
    privacy: str
    members: int | None = None
    change: int | None = None
    letters: Annotated[int, Field(ge=0)]
    idle: bool
    popular: bool | None = None
    created_at: AwareDatetime | None = None
    last_activity: AwareDatetime | None = None


def list_groups(office: Office, call: Call) -> Response:
    query = call.query
    after = read_number(query.cursor)
    found = groups.list_groups(office, call.holder, SiteId(query.site), order=query.order)
    page = found[after + 1 : after + 1 + query.limit]
    last = after + len(page)
    sees_all = call.holder.reach.groups is None
    return answer(
        {
            "items": [describe_standing(one, sees_all=sees_all) for one in page],
            "next": next_cursor(str(last)) if last + 1 < len(found) else None,
        }
    )


def describe_standing(one: Standing, *, sees_all: bool = True) -> dict[str, object]:
    """As Group; a field of which nothing is known is left out."""
    group = one.group
    found = {
        "id": group.id,
        "name": group.name,
        "privacy": group.privacy,
        "members": group.members,
        "change": one.change,
        "letters": one.letters,
        "idle": one.idle,
        "popular": one.popular if sees_all else None,
        "created_at": group.created_at and group.created_at.isoformat(),
        "last_activity": group.last_activity and group.last_activity.isoformat(),
    }
    return {name: value for name, value in found.items() if value is not None}


GROUPS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/groups",
        list_groups,
        ALL,
        f"Groups of a site as Wix has them now, with growth and letters of {GROWTH_DAYS} and {LETTER_DAYS} days",
        of(List[Group]),
        query=GroupsQuery,
        also=(404, 502),
    ),
)
