"""What the page of a job shows beside the job, where it is about groups: people to fix, and what a rollout changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from admin.console.page import Visit
from admin.office import groups
from admin.office.jobs import ROLLOUTS
from core.community import MemberId
from core.jobs import FINAL

MOST_ROWS, MOST_CHANGES = 100, 50


def describe_new_group(visit: Visit, row: Any) -> dict[str, Any]:
    trouble = (row.result or {}).get("to_fix", [])
    shown = trouble[:MOST_ROWS]
    people = {MemberId(each["member"]) for one in shown for each in one["candidates"] if each["member"]}
    return {
        "to_fix": shown,
        "more_to_fix": len(trouble) - len(shown),
        "candidates": visit.directory.members(people),
        "date_of": date.fromisoformat,
    }


def describe_rollout(visit: Visit, row: Any) -> dict[str, Any]:
    changes = groups.rollout_changes(visit.office, row)
    return {
        "changes": changes[:MOST_CHANGES],
        "more_changes": len(changes) - MOST_CHANGES,
        "finished": row.state in FINAL,
    }


JOB_PARTS: Mapping[str, Callable[[Visit, Any], dict[str, Any]]] = {
    "create_group": describe_new_group,
    **dict.fromkeys(ROLLOUTS, describe_rollout),
}
"""What jobs/_<kind>.html needs beside the job itself."""
