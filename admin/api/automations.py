"""The automations over the API: what they do, their versions, and editing them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints
from starlette.responses import Response

from admin.api.operations import Call, Operation, answer, note, of
from admin.api.reading import next_cursor, read_number
from admin.api.shapes import Answer, Body, Filter, List, Page, Query, read_whole
from admin.office import MANAGERS, READERS, Office
from admin.office import automations as room
from core.automations import Automations
from core.community import SiteId
from core.edits import Add, Change, ChangePolicy, Edit, Move, Remove
from core.errors import NotThereError
from core.sentences import PLAIN, describe
from integrations.store.book import LONGEST_NOTE

MOST_BYTES = 1024 * 1024

Kind = Literal["automation", "report", "follow"]
Number = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(read_whole)]
Note = Annotated[str, StringConstraints(max_length=LONGEST_NOTE)]


class AutomationsQuery(Query):
    site: Filter = ""


class NewText(Body):
    """`base`: the newest version that its writer saw. `names_go`: names that have letters may be gone while others
    come, although letters can go once more under another name."""

    base: Number
    text: str
    note: Note = ""
    names_go: bool = False


class OneEdit(Body):
    """`fields`: keys with their values as in the file; null takes one away. `by`: -1 is one place up. "policy" is about
    that table, or about the one of `site`."""

    do: Literal["change", "add", "remove", "move", "policy"]
    kind: Kind = "automation"
    name: str = ""
    fields: dict[str, Any] = Field(default_factory=dict)
    by: Annotated[int, Field(ge=-1000, le=1000), BeforeValidator(read_whole)] = 0
    site: Filter = ""

    @property
    def meant(self) -> Edit:
        match self.do:
            case "change":
                return Change(self.name, self.fields, self.kind)
            case "add":
                return Add(self.fields, self.kind)
            case "remove":
                return Remove(self.name, self.kind)
            case "move":
                return Move(self.name, self.by, self.kind)
        return ChangePolicy(self.fields, self.site)


class NewEdits(Body):
    base: Number
    edits: Annotated[list[OneEdit], Field(min_length=1, max_length=100)]
    note: Note = ""
    names_go: bool = False


class RollBack(Body):
    base: Number
    names_go: bool = False


class Step(Answer):
    name: str
    sentence: str
    email: str
    counts: dict[str, int] | None = None


class Automation(Answer):
    """`counts`, when a site is named: how many letters wait, and what became of those of 30 days, by state."""

    name: str
    sentence: str
    enabled: bool
    on: list[str]
    decide: str | None = None
    email: str | None = None
    purpose: str | None = None
    steps: list[Step]
    counts: dict[str, int] | None = None


class Standing(Answer):
    """`version` counts; an edit is made upon `newest`, which is another one only when `trouble` says why."""

    version: int
    newest: int
    locked: bool
    trouble: str | None = None
    items: list[Automation]


class Version(Answer):
    """`text`: of one version that was asked for."""

    number: int
    source: Literal["file", "edit", "rollback"]
    who: str
    note: str
    created_at: AwareDatetime
    hash: str
    text: str | None = None


def list_automations(office: Office, call: Call) -> Response:
    standing = room.standing(office, call.holder)
    site = SiteId(call.query.site)
    counts = room.counts(office, call.holder, site) if site else None
    found = {
        "version": standing.number,
        "newest": standing.newest,
        "locked": standing.locked,
        "items": _described(standing.automations, counts),
    }
    return answer(found | ({"trouble": standing.trouble} if standing.trouble else {}))


def _described(automations: Automations, counts: Any) -> list[dict[str, Any]]:
    def counted(name: str) -> dict[str, Any]:
        return {} if counts is None else {"counts": dict(counts.get(name, {}))}

    found = []
    for one in automations.automations:
        if one.is_step:
            continue
        given = {"decide": one.decide, "email": one.email, "purpose": one.purpose and str(one.purpose)}
        steps = [
            {"name": step.name, "sentence": describe(step, PLAIN), "email": step.email} | counted(step.name)
            for step in automations.flow_of(one)[1:]
        ]
        found.append(
            {
                "name": one.name,
                "sentence": describe(one, PLAIN),
                "enabled": one.enabled,
                "on": sorted(one.on),
                "steps": steps,
                **{name: value for name, value in given.items() if value},
                **counted(one.name),
            }
        )
    return found


def save_automations(office: Office, call: Call) -> Response:
    return _save(office, call, call.body.text)


def edit_automations(office: Office, call: Call) -> Response:
    edits = [edit.meant for edit in call.body.edits]
    text, _ = room.edited(office, call.holder, call.body.base, edits)
    return _save(office, call, text)


def _save(office: Office, call: Call, text: str) -> Response:
    body = call.body
    return _saved(call, room.save(office, call.holder, text, body.base, body.note, names_go=body.names_go))


def roll_back_automations(office: Office, call: Call) -> Response:
    body = call.body
    row = room.roll_back(office, call.holder, _number(call.id), body.base, names_go=body.names_go)
    return _saved(call, row)


def _saved(call: Call, row: Any) -> Response:
    note("automations.saved", call, version=str(row.number))
    return answer(describe_version(row))


def list_automation_versions(office: Office, call: Call) -> Response:
    before = read_number(call.query.cursor)
    limit = call.query.limit
    rows = room.history(office, call.holder, limit=limit + 1, before=None if before < 0 else before)
    following = next_cursor(str(rows[limit - 1].number)) if len(rows) > limit else None
    return answer({"items": [describe_version(row) for row in rows[:limit]], "next": following})


def show_automation_version(office: Office, call: Call) -> Response:
    row = room.text_of(office, call.holder, _number(call.id))
    return answer(describe_version(row) | {"text": row.text})


def export_automations(office: Office, call: Call) -> Response:
    return toml(room.text_of(office, call.holder).text)


def toml(text: str) -> Response:
    """A file to keep."""
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": 'attachment; filename="automations.toml"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(text, media_type="application/toml", headers=headers)


def describe_version(row: Any) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in ("number", "source", "who", "note", "hash")}
    return found | {"created_at": row.created_at.isoformat()}


def _number(id_: str) -> int:
    if not (id_.isascii() and id_.isdecimal() and len(id_) < 10):
        raise NotThereError("there is no such version of the automations")
    return int(id_)


AUTOMATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/automations",
        list_automations,
        READERS,
        "The automations in their order, each as a sentence; of a site, with what became of their letters",
        of(Standing),
        query=AutomationsQuery,
    ),
    Operation(
        "POST",
        "/v1/automations",
        save_automations,
        MANAGERS,
        "Have this text count from now on",
        of(Version),
        body=of(NewText),
        body_bytes=MOST_BYTES,
        also=(409,),
    ),
    Operation(
        "POST",
        "/v1/automations/edit",
        edit_automations,
        MANAGERS,
        "Change some tables and leave the rest of the text, its comments and its order, as they are",
        of(Version),
        body=of(NewEdits),
        body_bytes=MOST_BYTES,
        also=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/automations/export",
        export_automations,
        READERS,
        "The newest text, as a file",
        None,
        media_types=("application/toml",),
    ),
    Operation(
        "GET",
        "/v1/automations/versions",
        list_automation_versions,
        READERS,
        "Who changed the automations when, newest first",
        of(List[Version]),
        query=Page,
    ),
    Operation(
        "GET",
        "/v1/automations/versions/{id}",
        show_automation_version,
        READERS,
        "One version, with its text",
        of(Version),
    ),
    Operation(
        "POST",
        "/v1/automations/versions/{id}/roll-back",
        roll_back_automations,
        MANAGERS,
        "Have the text of an earlier version count again",
        of(Version),
        body=of(RollBack),
        also=(409,),
    ),
)
