"""Jobs over the API: set one off, look at it, and say how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import islice
from operator import or_
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError, create_model
from starlette.responses import Response, StreamingResponse

from admin.api.operations import Call, Operation, answer, of
from admin.api.problems import fields_of
from admin.api.reading import next_cursor, one_page, read_cursor, read_number
from admin.api.shapes import Answer, Body, Filter, Id, List, Page, Query
from admin.jobs.described import describe_item, in_brief
from admin.office import ALL, DECIDERS, MANAGERS, Office, groups, jobs
from core.jobs import ITEM_STATES, STATES
from integrations.reports.render import FORMATS
from tasks.jobs.params import MOST_PEOPLE, PARAMS, ListedPerson

BIG_BODY = 12 * 1024 * 1024
MOST_VALUES = 5000
"""Fields and entries of a body, without its people and what is in its context."""
PEOPLE_AT_ONCE = 100

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
    begun = jobs.begin(office, call.holder, jobs.NewJob(new.site, new.kind, new.params), call.key)
    return _begun(office, begun)


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


def roll_back(office: Office, call: Call) -> Response:
    return _begun(office, jobs.roll_back(office, call.holder, call.id, call.key))


def _begun(office: Office, begun: tuple[sa.Row[Any], bool]) -> Response:
    row, _ = begun
    return answer(jobs.described(office, [row])[0], 202, Location=f"/api/v1/jobs/{row.id}")


def list_jobs(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    limit = call.query.limit
    rows = office.jobs.page(**call.query.filters(), reach=call.holder.reach, limit=limit + 1, after=after)
    found = dict(zip((row.id for row in rows), map(in_brief, jobs.described(office, rows)), strict=True))
    return answer(one_page(rows, limit, lambda row: found[row.id], lambda row: (row.created_at, row.id)))


def show_job(office: Office, call: Call) -> Response:
    return answer(jobs.described(office, [jobs.own_job(office, call.holder, call.id)])[0])


def confirm_job(office: Office, call: Call) -> Response:
    return _decided(office, call, "confirm", call.body.confirm_token)


def pause_job(office: Office, call: Call) -> Response:
    return _decided(office, call, "pause")


def resume_job(office: Office, call: Call) -> Response:
    return _decided(office, call, "resume")


def cancel_job(office: Office, call: Call) -> Response:
    return _decided(office, call, "cancel")


def retry_failed(office: Office, call: Call) -> Response:
    return _decided(office, call, "retry-failed")


def _decided(office: Office, call: Call, name: str, token: str = "") -> Response:
    row = jobs.act(office, call.holder, call.id, name, token)
    return answer(jobs.described(office, [row])[0])


def list_items(office: Office, call: Call) -> Response:
    after = read_number(call.query.cursor)
    limit = call.query.limit
    job = jobs.own_job(office, call.holder, call.id).id
    items = office.jobs.items(job, **call.query.filters(), after=after, limit=limit + 1)
    following = next_cursor(str(items[limit - 1].number)) if len(items) > limit else None
    return answer({"items": [describe_item(item) for item in items[:limit]], "next": following})


def show_report(office: Office, call: Call) -> Response:
    media_type, name, content = groups.report_file(office, call.holder, call.id, call.query.format)
    return Response(content, media_type=media_type, headers=jobs.as_file(name))


def stream_rows(office: Office, call: Call) -> Response:
    job = jobs.own_job(office, call.holder, call.id).id
    return StreamingResponse(
        jobs.rows_as_csv(office, job),
        media_type="text/csv; charset=utf-8",
        headers=jobs.as_file(f"job-{job}.csv"),
    )


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
