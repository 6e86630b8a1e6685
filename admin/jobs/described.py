"""How a job is shown to a person, by the API and the command line alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from admin.recovery import shape
from core.community import Question, Rule
from core.jobs import Counts
from core.rollout import Diff, Entry, alike, diff
from integrations.store.jobs import Item, Jobs
from integrations.store.ledger import Ledger

ROWS_AT_ONCE = 1000


def describe_job(row: sa.Row[Any], counts: Counts, now: datetime | None = None) -> dict[str, Any]:
    """`{"id", "kind", "site", "state", "params", "counts", "skipped_by_reason", "cost", "confirm_token"?, "result"?,
    "error"?, "eta"?, "created_at", "updated_at"}`; the token while it is of use, `eta` with `now` while it runs."""
    optional = ("result", "error") + (("confirm_token",) if row.state == "previewed" else ())
    found = shape(row, ("id", "kind", "site", "state", "params", "created_at", "updated_at"), optional)
    found["counts"] = {
        "total": counts.total,
        "done": counts.done,
        "skipped": counts.skipped,
        "failed": counts.failed,
        "in_doubt": counts.in_doubt,
    }
    found["skipped_by_reason"] = dict(counts.skipped_by_reason)
    found["cost"] = row.cost
    if now is not None and (ends_at := expected_end(row, counts, now)) is not None:
        found["eta"] = f"{ends_at:%Y-%m-%dT%H:%M:%S.%fZ}"
    return found


def in_brief(described: dict[str, Any]) -> dict[str, Any]:
    """A job as one of many: without its list of people, and without its result."""
    params = {name: value for name, value in described["params"].items() if name != "people"}
    return {name: value for name, value in described.items() if name != "result"} | {"params": params}


def expected_end(row: sa.Row[Any], counts: Counts, now: datetime) -> datetime | None:
    """When a job that runs will be over at the pace it had so far, and not before what its preview found it takes."""
    if row.state != "running" or row.confirmed_at is None:
        return None
    least_s = (row.cost or {}).get("seconds_at_least", 0)
    ends_at: datetime = max(now, row.confirmed_at + timedelta(seconds=least_s))
    finished = counts.done + counts.failed + counts.in_doubt
    if finished and counts.waiting:
        ends_at = max(ends_at, now + (now - row.confirmed_at) * (counts.waiting / finished))
    return ends_at


def describe_item(item: Item) -> dict[str, Any]:
    """`{"number", "state", "reason"?, "group"?, "member"?, "attempts"}`, and of a rollout's groups `"name"`, `"diff"`
    in words, what was there `"before"` and what is to be there `"after"`. What was said of people stays inside."""
    found = {"number": item.number, "state": item.state, "attempts": item.attempts}
    optional = {"reason": item.reason, "group": item.group, "member": item.member}
    optional |= {
        name: item.data.get(name) for name in ("name", "diff", "before", "after") if "name" in item.data
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def changes_of(row: sa.Row[Any], items: Sequence[Item]) -> list[tuple[Diff, list[str]]]:
    """What a rollout would change, or has changed, with the names of the groups in which it is the same."""
    kind = Rule if row.kind == "rules_rollout" else Question

    def read(item: Item, name: str) -> list[Entry]:
        return [kind(**entry) for entry in item.data[name]]

    return alike(
        (item.data["name"], diff(read(item, "before"), read(item, "after")))
        for item in items
        if "before" in item.data
    )


COLUMNS = ("row", "member", "group", "state", "reason", "sent_at", "group_name")


def rows_of(job: str, ledger: Ledger, jobs: Jobs) -> Iterator[Sequence[Sequence[object]]]:
    """Everybody a job is about, COLUMNS, some hundreds at once: its letters, then its rows, those of a rollout with the
    names of its groups. Each letter that there was at the beginning is there once, as it was when it was read."""
    letters = ledger.ids_of_job(job)
    for place in range(0, len(letters), ROWS_AT_ONCE):
        yield [
            (
                "",
                row.member,
                row.group_id,
                row.state,
                row.reason,
                row.sent_at and row.sent_at.isoformat(),
                None,
            )
            for row in ledger.by_ids(letters[place : place + ROWS_AT_ONCE])
        ]
    number = -1
    while items := jobs.items(job, after=number, limit=ROWS_AT_ONCE):
        number = items[-1].number
        yield [
            (item.number, item.member, item.group, item.state, item.reason, None, item.data.get("name"))
            for item in items
        ]
