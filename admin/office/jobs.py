"""Jobs of every kind: begin one, find it, say how it goes on, and hand out its rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from admin.jobs.described import COLUMNS, describe_job, rows_of
from admin.office import Office
from admin.office.refusals import MOST_ERRORS, RefusedError, wrong_fields
from core.cells import defuse
from core.community import LONGEST_ID, SiteId, is_plain
from core.errors import NotThereError, WrongStateError
from core.jobs import FINAL
from integrations.people_list import read_email, read_phone
from integrations.store.jobs import Jobs
from integrations.store.tokens import Holder, Role
from tasks.jobs.kinds import KINDS
from tasks.jobs.params import CreateGroup, ListedPerson

log = logging.getLogger(__name__)

ROLLOUTS = ("rules_rollout", "questions_rollout")

Row = sa.Row[Any]


@dataclass(frozen=True, slots=True)
class NewJob:
    """`params` are one of tasks.jobs.params.PARAMS, validated; what was left out of them is left out of the job."""

    site: str
    kind: str
    params: BaseModel = field(repr=False)


def begin(office: Office, holder: Holder, new: NewJob, key: str) -> tuple[Row, bool]:
    """The job, and whether it is new: the same key of the same holder is the same job.

    Raises RefusedError, with fields named "params.…" where one is wrong, and KeyReusedError.
    """
    params: Any = new.params
    if holder.role is Role.GROUP_ADMIN and new.kind != "group_email":
        raise RefusedError("a group's admin may set off group_email alone", 403)
    reach = holder.reach
    if reach.sites is not None and new.site not in reach.sites:
        raise RefusedError("this token is not for that site", 403)
    if reach.groups is not None and params.group not in reach.groups:
        raise RefusedError("this token is not for that group; name one of yours by its id", 403)
    if (letter := getattr(params, "email", None)) is not None and letter not in office.letters:
        raise wrong_fields("the body", ("params.email", "is no folder of templates/email/"))
    if isinstance(params, CreateGroup) and (errors := list(islice(_unreadable(params.people), MOST_ERRORS))):
        raise wrong_fields("the body", *errors)
    if (other := getattr(params, "rollback", None)) and not office.jobs.page(id=other, reach=reach):
        raise wrong_fields("the body", ("params.rollback", "is no job of yours"))
    # As it was given: what was left out is not there.
    given = params.model_dump(mode="json", exclude_unset=True)
    return _create(office, holder, new.site, new.kind, given, key)


def roll_back(office: Office, holder: Holder, id: str, key: str) -> tuple[Row, bool]:  # noqa: A002 (the row's own word)
    """Begin the job that puts back what this rollout replaced. Raises as `begin`, NotThereError and WrongStateError."""
    row = own_job(office, holder, id)
    if row.kind not in ROLLOUTS:
        raise WrongStateError(f"a {row.kind} has nothing that could be put back")
    if row.state not in FINAL:
        raise WrongStateError(f"the job is {row.state}: cancel it first")
    return _create(office, holder, row.site, row.kind, {"rollback": row.id}, key)


def read_key(given: str) -> str:
    """The idempotency key of a form. Raises RefusedError."""
    if not is_plain(given, LONGEST_ID // 2):
        raise RefusedError("the form has lost what it was made with: load the page again", 422)
    return given


def own_job(office: Office, holder: Holder, id: str) -> Row:  # noqa: A002
    """Raises NotThereError, also for what is out of the holder's reach."""
    found = office.jobs.page(id=id, reach=holder.reach, limit=1)
    if not found:
        raise NotThereError("there is no job of this id")
    return found[0]


def act(office: Office, holder: Holder, id: str, name: str, token: str = "") -> Row:  # noqa: A002
    """`name` is one of ACTS; `token` is the confirm_token of the preview that was looked at. Raises NotThereError and
    WrongStateError."""
    row = ACTS[name](office.jobs, own_job(office, holder, id).id, holder.who, token)
    office.ring()
    log.info("job.decided", extra={"who": holder.who, "job": row.id, "state": row.state})
    return row


ACTS: Mapping[str, Callable[[Jobs, str, str, str], Row]] = {
    "confirm": lambda jobs, id_, who, token: jobs.confirm(id_, token, who=who),
    "pause": lambda jobs, id_, who, _: jobs.pause(id_, who=who),
    "resume": lambda jobs, id_, who, _: jobs.resume(id_, who=who),
    "cancel": lambda jobs, id_, who, _: jobs.cancel(id_, who=who),
    "retry-failed": lambda jobs, id_, who, _: jobs.retry_failed(id_, who=who),
}


def described(office: Office, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """As the API shows jobs (admin.jobs.described.describe_job), in the order of these rows."""
    counts = office.jobs.counts(rows)
    now = office.now()
    return [describe_job(row, counts[row.id], now) for row in rows]


def rows_as_csv(office: Office, job: str) -> Iterator[str]:
    """Everybody a job is about, COLUMNS first, some hundreds of lines at once."""
    yield _csv([COLUMNS])
    for rows in rows_of(job, office.ledger, office.jobs):
        yield _csv(rows)


def as_file(name: str) -> dict[str, str]:
    """Headers of an answer that is to be kept and never shown."""
    return {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _create(
    office: Office, holder: Holder, site: str, kind: str, params: dict[str, Any], key: str
) -> tuple[Row, bool]:
    asked = {"site": site, "kind": kind, "params": params}
    row, is_new = office.jobs.create(
        SiteId(site),
        kind,
        params,
        who=holder.who,
        state="previewing" if KINDS[kind].previews else "running",
        key=key,
        request_hash=hashlib.sha256(_fingerprint(asked)).hexdigest(),
    )
    if is_new:
        office.ring()
        log.info("job.created", extra={"who": holder.who, "job": row.id, "kind": kind})
    return row, is_new


def _fingerprint(found: Any) -> bytes:
    """The same for the same JSON, however it is laid out."""
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode()


def _unreadable(people: Sequence[ListedPerson]) -> Iterator[tuple[str, str]]:
    readers: dict[str, Callable[[str], str]] = {"email": read_email, "phone": read_phone}
    for place, person in enumerate(people):
        for name, read in readers.items():
            if (text := getattr(person, name)) is not None:
                try:
                    read(text)
                except ValueError as exc:
                    yield f"params.people.{place}.{name}", str(exc)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(
        [[defuse(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    )
    return file.getvalue()
