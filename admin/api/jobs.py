"""Jobs over the API: set one off, look at it, and say how it goes on."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import islice
from operator import or_
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError, create_model
from starlette.responses import Response, StreamingResponse

from admin.api.operations import Call, Operation, answer, note, of
from admin.api.problems import fields_of
from admin.api.reading import fingerprint, next_cursor, one_page, read_cursor, read_number
from admin.api.shapes import Answer, Body, Filter, Id, List, Page, Query
from admin.jobs.described import COLUMNS, describe_item, describe_job, in_brief, rows_of
from admin.office import ALL, DECIDERS, MANAGERS, Office
from admin.office.refusals import MOST_ERRORS, RefusedError, wrong_fields
from core.cells import defuse
from core.community import SiteId
from core.errors import NotThereError, PermanentError, WrongStateError
from core.jobs import FINAL, ITEM_STATES, STATES
from integrations.people_list import read_email, read_phone
from integrations.reports.render import FORMATS, render_report
from integrations.store.tokens import Role
from tasks.jobs.kinds import KINDS
from tasks.jobs.params import MOST_PEOPLE, PARAMS, CreateGroup, ListedPerson

BIG_BODY = 12 * 1024 * 1024
MOST_VALUES = 5000
"""Fields and entries of a body, without its people and what is in its context."""
PEOPLE_AT_ONCE = 100
ROLLOUTS = ("rules_rollout", "questions_rollout")

_BODIES = tuple(
    create_model(
        f"{params.__name__}Job",
        __base__=Body,
        kind=(Literal[kind], ...),  # type: ignore[arg-type] # a table's word
        site=(Id, ...),
        params=(params, ...),
    )
    for kind, params in PARAMS.items()
)
NewJob: Any = Annotated[reduce(or_, _BODIES), Field(discriminator="kind")]


class JobsQuery(Page):
    site: Filter = ""
    kind: Literal["", *PARAMS] = ""  # type: ignore[valid-type] # a table's words
    state: Literal["", *STATES] = ""  # type: ignore[valid-type]


class ItemsQuery(Page):
    state: Literal["", *ITEM_STATES] = ""  # type: ignore[valid-type]


class ReportQuery(Query):
    format: Literal[*FORMATS] = "json"  # type: ignore[valid-type]


class Confirmation(Body):
    """The token is the one of the preview that was looked at."""

    confirm_token: Id


class Counts(Answer):
    """In the end `total` is the sum of the others."""

    total: int
    done: int
    skipped: int
    failed: int
    in_doubt: int


class Job(Answer):
    id: str
    kind: str
    site: str
    state: Literal[STATES]  # type: ignore[valid-type]
    params: dict[str, Any]
    counts: Counts
    skipped_by_reason: dict[str, int]
    cost: dict[str, int] | None = Field(...)
    confirm_token: str | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    eta: AwareDatetime | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class Item(Answer):
    number: int
    state: Literal[ITEM_STATES]  # type: ignore[valid-type]
    reason: str | None = None
    group: str | None = None
    member: str | None = None
    attempts: int


def create_job(office: Office, call: Call) -> Response:
    new = call.body
    if call.holder.role is Role.GROUP_ADMIN and new.kind != "group_email":
        raise RefusedError("a group's admin may set off group_email alone", 403)
    reach = call.holder.reach
    if reach.sites is not None and new.site not in reach.sites:
        raise RefusedError("this token is not for that site", 403)
    if reach.groups is not None and new.params.group not in reach.groups:
        raise RefusedError("this token is not for that group; name one of yours by its id", 403)
    if (letter := getattr(new.params, "email", None)) is not None and letter not in office.letters:
        raise wrong_fields("the body", ("params.email", "is no folder of templates/email/"))
    if isinstance(new.params, CreateGroup) and (
        errors := list(islice(_unreadable(new.params.people), MOST_ERRORS))
    ):
        raise wrong_fields("the body", *errors)
    if (other := getattr(new.params, "rollback", None)) and not office.jobs.page(id=other, reach=reach):
        raise wrong_fields("the body", ("params.rollback", "is no job of yours"))
    # As it was given: what was left out is not there.
    return _begin(office, call, new.site, new.kind, new.params.model_dump(mode="json", exclude_unset=True))


def find_excess(body: Any) -> list[tuple[str, str]]:
    """Of a body that would be wrong in many places, the first ones. A long list of people is looked at in parts, and no
    part after the first that is wrong."""
    if sum(1 for _ in islice(_values(body), MOST_VALUES + 1)) > MOST_VALUES:
        return [("", f"holds more than {MOST_VALUES} fields and entries, without people and context")]
    params = body.get("params") if isinstance(body, dict) and body.get("kind") == "create_group" else None
    people = params.get("people") if isinstance(params, dict) else None
    if not isinstance(people, list) or len(people) > MOST_PEOPLE:  # pydantic looks at none of them
        return []
    fields = len(ListedPerson.model_fields)
    for start in range(0, len(people), PEOPLE_AT_ONCE):
        part = people[start : start + PEOPLE_AT_ONCE]
        crowded = [
            (f"params.people.{place}", f"has more fields than the {fields} of a person")
            for place, person in enumerate(part, start)
            if isinstance(person, dict) and len(person) > fields
        ]
        if crowded:
            return crowded
        if len(people) > PEOPLE_AT_ONCE:
            try:
                _PEOPLE.validate_python(part)
            except ValidationError as exc:
                return [(_further(field, start), what) for field, what in fields_of(exc)]
    return []


_PEOPLE = TypeAdapter(list[ListedPerson])


def _further(field: str, start: int) -> str:
    number, *rest = field.split(".", 1)
    return ".".join(["params.people", str(start + int(number)), *rest])


def _values(found: Any) -> Iterator[object]:
    match found:
        case dict():
            for name, value in found.items():
                yield name
                if name not in ("people", "context"):
                    yield from _values(value)
        case list():
            for value in found:
                yield value
                yield from _values(value)


def _unreadable(people: Sequence[ListedPerson]) -> Iterator[tuple[str, str]]:
    readers: dict[str, Callable[[str], str]] = {"email": read_email, "phone": read_phone}
    for place, person in enumerate(people):
        for field, read in readers.items():
            if (text := getattr(person, field)) is not None:
                try:
                    read(text)
                except ValueError as exc:
                    yield f"params.people.{place}.{field}", str(exc)


def roll_back(office: Office, call: Call) -> Response:
    row = _own_job(office, call)
    if row.kind not in ROLLOUTS:
        raise WrongStateError(f"a {row.kind} has nothing that could be put back")
    if row.state not in FINAL:
        raise WrongStateError(f"the job is {row.state}: cancel it first")
    return _begin(office, call, row.site, row.kind, {"rollback": row.id})


def _begin(office: Office, call: Call, site: str, kind: str, params: dict[str, Any]) -> Response:
    asked = fingerprint({"site": site, "kind": kind, "params": params})
    row, is_new = office.jobs.create(
        SiteId(site),
        kind,
        params,
        who=call.holder.who,
        state="previewing" if KINDS[kind].previews else "running",
        key=call.key,
        request_hash=hashlib.sha256(asked).hexdigest(),
    )
    if is_new:
        office.ring()
        note("job.created", call, job=row.id, kind=kind)
    return answer(_described(office, [row])[0], 202, Location=f"/api/v1/jobs/{row.id}")


def list_jobs(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    limit = call.query.limit
    rows = office.jobs.page(**call.query.filters(), reach=call.holder.reach, limit=limit + 1, after=after)
    found = dict(zip((row.id for row in rows), map(in_brief, _described(office, rows)), strict=True))
    return answer(one_page(rows, limit, lambda row: found[row.id], lambda row: (row.created_at, row.id)))


def show_job(office: Office, call: Call) -> Response:
    return answer(_described(office, [_own_job(office, call)])[0])


def confirm_job(office: Office, call: Call) -> Response:
    return _act(office, call, lambda id_, who: office.jobs.confirm(id_, call.body.confirm_token, who=who))


def pause_job(office: Office, call: Call) -> Response:
    return _act(office, call, lambda id_, who: office.jobs.pause(id_, who=who))


def resume_job(office: Office, call: Call) -> Response:
    return _act(office, call, lambda id_, who: office.jobs.resume(id_, who=who))


def cancel_job(office: Office, call: Call) -> Response:
    return _act(office, call, lambda id_, who: office.jobs.cancel(id_, who=who))


def retry_failed(office: Office, call: Call) -> Response:
    return _act(office, call, lambda id_, who: office.jobs.retry_failed(id_, who=who))


def list_items(office: Office, call: Call) -> Response:
    after = read_number(call.query.cursor)
    limit = call.query.limit
    job = _own_job(office, call).id
    items = office.jobs.items(job, **call.query.filters(), after=after, limit=limit + 1)
    following = next_cursor(str(items[limit - 1].number)) if len(items) > limit else None
    return answer({"items": [describe_item(item) for item in items[:limit]], "next": following})


def show_report(office: Office, call: Call) -> Response:
    row = _own_job(office, call)
    if row.kind != "groups_report":
        raise NotThereError(f"a {row.kind} has no report")
    if row.state != "done":
        raise WrongStateError(f"the job is {row.state}, not done")
    try:
        media_type, name, content = render_report(row.result, call.query.format)
    except PermanentError as exc:  # as pdf, without the extra that writes it
        raise wrong_fields("the query", ("format", str(exc))) from exc
    return Response(content, media_type=media_type, headers=_file(name))


def stream_rows(office: Office, call: Call) -> Response:
    job = _own_job(office, call).id

    def lines() -> Iterator[str]:
        yield _csv([COLUMNS])
        for rows in rows_of(job, office.ledger, office.jobs):
            yield _csv(rows)

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=_file(f"job-{job}.csv"))


def _csv(rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(
        [[defuse(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    )
    return file.getvalue()


def _file(name: str) -> dict[str, str]:
    return {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _act(office: Office, call: Call, act: Callable[[str, str], sa.Row[Any]]) -> Response:
    row = act(_own_job(office, call).id, call.holder.who)
    office.ring()
    note("job.decided", call, job=row.id, state=row.state)
    return answer(_described(office, [row])[0])


def _own_job(office: Office, call: Call) -> sa.Row[Any]:
    found = office.jobs.page(id=call.id, reach=call.holder.reach, limit=1)
    if not found:
        raise NotThereError("there is no job of this id")
    return found[0]


def _described(office: Office, rows: Sequence[sa.Row[Any]]) -> list[dict[str, Any]]:
    counts = office.jobs.counts(rows)
    with office.database.read() as tx:
        now = tx.now
    return [describe_job(row, counts[row.id], now) for row in rows]


def _action(name: str, act: Callable[[Office, Call], Response], summary: str, **more: Any) -> Operation:
    return Operation("POST", f"/v1/jobs/{{id}}/{name}", act, DECIDERS, summary, of(Job), also=(409,), **more)


JOBS: tuple[Operation, ...] = (
    Operation("GET", "/v1/jobs", list_jobs, ALL, "Jobs, newest first", of(List[Job]), query=JobsQuery),
    Operation(
        "POST",
        "/v1/jobs",
        create_job,
        DECIDERS,
        "Begin a job: it is previewed, and runs when it is confirmed; a groups_report runs at once",
        of(Job),
        status=202,
        body=of(NewJob),
        body_bytes=BIG_BODY,
        excess=find_excess,
        needs_key=True,
    ),
    Operation("GET", "/v1/jobs/{id}", show_job, ALL, "One job: state, counts, and when it will end", of(Job)),
    _action("confirm", confirm_job, "Let a job run that was previewed", body=of(Confirmation)),
    _action("pause", pause_job, "Begin nothing more of a job until it is resumed"),
    _action("resume", resume_job, "Go on with a job that was paused"),
    _action("cancel", cancel_job, "End a job: what has not begun of it is skipped"),
    _action("retry-failed", retry_failed, "Do again what failed of a job that is done"),
    Operation(
        "POST",
        "/v1/jobs/{id}/rollback",
        roll_back,
        MANAGERS,
        "Begin a job that puts back what a rollout replaced",
        of(Job),
        status=202,
        needs_key=True,
        also=(409,),
    ),
    Operation(
        "GET",
        "/v1/jobs/{id}/items",
        list_items,
        ALL,
        "People of a list, or groups of a rollout, in their order; letters are messages",
        of(List[Item]),
        query=ItemsQuery,
    ),
    Operation(
        "GET",
        "/v1/jobs/{id}/rows.csv",
        stream_rows,
        ALL,
        "Everybody a job is about, with state and reason, as CSV",
        None,
        media_types=("text/csv",),
    ),
    Operation(
        "GET",
        "/v1/jobs/{id}/report",
        show_report,
        ALL,
        "What a groups_report found, as a file",
        None,
        query=ReportQuery,
        media_types=tuple(media_type.partition(";")[0] for media_type, _ in FORMATS.values()),
        also=(409,),
    ),
)
