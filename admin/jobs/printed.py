"""Jobs as people read them: lists, previews before the yes, and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from admin.jobs.described import changes_of, expected_end
from admin.jobs.report import show_report
from admin.recovery import Columns, Desk, one_line, show_table, spell_time
from core.jobs import FINAL, Counts
from core.letters import MAILINGS
from integrations.store.jobs import Jobs

if TYPE_CHECKING:
    import sqlalchemy as sa

    Row = sa.Row[Any]

ROLLOUTS = ("rules_rollout", "questions_rollout")
_MOST_LINES = 12
"""Of a sample letter, or of what changes in a group."""
_MOST_CHANGES, _MOST_NAMES = 10, 5
_LONGEST_LINE = 200


def print_jobs(
    rows: Sequence[Row], counts: Mapping[str, Counts], *, most: int, out: TextIO | None = None
) -> None:
    def of(row: Row) -> str:
        found = counts[row.id]
        return f"{found.total - found.waiting} of {found.total}" if found.total else ""

    columns: Columns = {
        "Job": lambda row: row.id,
        "Kind": lambda row: row.kind,
        "Site": lambda row: row.site,
        "State": lambda row: row.state,
        "Over": of,
        "Failed": lambda row: counts[row.id].failed or None,
        "In doubt": lambda row: counts[row.id].in_doubt or None,
        "By": lambda row: row.who,
        "Created": lambda row: spell_time(row.created_at),
        "Error": lambda row: row.error,
    }
    show_table(rows, columns, most=most, out=out)


def show_job_page(desk: Desk, row: Row, counts: Counts, out: TextIO) -> None:
    """A job at any time."""
    if row.state == "previewed":
        show_preview(desk, row, counts, out)
        print(f"To let it run: usher jobs confirm {row.id}", file=out)
    else:
        show_end(row, counts, out)
    ended = f", ended {spell_time(row.finished_at)}" if row.finished_at else ""
    if (ends_at := expected_end(row, counts, desk.now())) is not None:
        ended = f", expected to end {spell_time(ends_at)}"
    print(f"Begun by {row.who} {spell_time(row.created_at)}{ended}", file=out)


def show_preview(desk: Desk, row: Row, counts: Counts, out: TextIO) -> None:
    """What it would do, to whom and to whom not, and what that costs."""
    print(f"\nPreview of job {row.id}, {row.kind} on site {row.site}\n", file=out)
    _PREVIEWS[row.kind](desk, row, counts, out)
    if row.cost:
        seconds = row.cost["seconds_at_least"]
        least = f", and {spell_seconds(seconds)} at least" if seconds else ""
        print(f"It takes {_of(row.cost['wix_calls'], 'call')} to Wix{least}.", file=out)


def ask_for(row: Row, counts: Counts) -> str:
    """The question after its preview."""
    if row.kind in MAILINGS:
        return f"Send {_of(counts.waiting, 'letter')}?"
    if row.kind == "create_group":
        made = "Make the group and put" if row.result["group"]["created"] else "Put"
        return f"{made} {_of(_coming(row), 'person', 'people')} into it?"
    return f"Change {_of(counts.waiting, 'group')}?"


def changes_nothing(row: Row, counts: Counts) -> bool:
    """Whether there is nothing to ask."""
    if row.kind == "create_group":
        return not row.result["group"]["created"] and not _coming(row)
    return not counts.waiting and not row.later_group


def show_end(row: Row, counts: Counts, out: TextIO, *, brief: bool = False) -> None:
    """What it came to so far, and what can be done about the rest; `brief`: without what it brought."""
    why = f": {one_line(row.error)}" if row.error else ""
    print(f"\nJob {row.id}, {row.kind} on site {row.site}, is {row.state}{why}", file=out)
    if counts.total:
        shown = [
            (counts.done, _DONE.get(row.kind, "done")),
            (counts.skipped, "skipped"),
            (counts.failed, "failed"),
            (counts.in_doubt, "in doubt"),
            (counts.waiting, "to come"),
        ]
        numbers = ", ".join(f"{number} {name}" for number, name in shown if number or name == shown[0][1])
        print(f"Of {counts.total}: {numbers}.", file=out)
    if row.state == "done" and row.kind in _RESULTS:
        if not brief:
            _RESULTS[row.kind](row, out)
    else:
        _show_reasons(counts, out)
    for told, command in _what_next(row, counts):
        print(f"{told}: usher jobs {command}", file=out)
    if row.state in FINAL and counts.waiting:
        print("What a worker has in its hand is finished first.", file=out)


def _what_next(row: Row, counts: Counts) -> Iterator[tuple[str, str]]:
    if counts.failed:
        yield "What failed, and why", f"rows {row.id} --state failed"
        if row.state == "done":
            yield "To try that again", f"retry {row.id}"
    if counts.in_doubt:
        yield "What is in doubt", f"rows {row.id} --state in_doubt"
    if row.state == "paused":
        yield "To go on", f"resume {row.id}"
    if row.state == "done" and row.later_group:
        yield "Whoever joins later gets the letter too, until", f"cancel {row.id}"
    if row.state in FINAL and row.kind in ROLLOUTS and counts.done:
        yield "To put back what the groups had", f"rollback {row.id}"


def _show_reasons(counts: Counts, out: TextIO) -> None:
    columns: Columns = {"Skipped because": lambda found: found[0], "How many": lambda found: found[1]}
    show_table(list(counts.skipped_by_reason.items()), columns, out=out)


# One kind each.


def _preview_letters(_desk: Desk, row: Row, counts: Counts, out: TextIO) -> None:
    looked = _of(counts.total, "member")
    print(f"{looked} looked at: {counts.waiting} would get the letter, {counts.skipped} would not.", file=out)
    if row.later_group:
        print("Whoever joins the group later would get it too.", file=out)
    _show_reasons(counts, out)
    for sample in row.result["samples"][:1]:
        lines = sample["text"].strip().splitlines()
        letter = [f"Subject: {sample['subject']}", "", *lines[:_MOST_LINES]]
        for line in letter:
            print(f"  | {one_line(line)}".rstrip(), file=out)
        if len(lines) > _MOST_LINES:
            print(f"  … and {_of(len(lines) - _MOST_LINES, 'more line')}.", file=out)
        print(file=out)


def _preview_group(_desk: Desk, row: Row, _counts: Counts, out: TextIO) -> None:
    group = row.result["group"]
    name = one_line(group["name"])
    if group["created"]:
        print(f'The group "{name}" would be made.', file=out)
    else:
        print(f'The group "{name}" is there already ({group["id"]}).', file=out)
    _group_numbers(row, out, "To be added")


def _end_group(row: Row, out: TextIO) -> None:
    group = row.result["group"]
    made = "was made" if group["created"] else "was there already"
    print(f'The group "{one_line(group["name"])}" ({group["id"]}) {made}.', file=out)
    _group_numbers(row, out, "Added")


def _group_numbers(row: Row, out: TextIO, added: str) -> None:
    result = row.result
    print(
        f"{added}: {result['added']}; in it already: {result['already']};"
        f" only invited, for their profile is private: {result['invited']};"
        f" to fix: {len(result['to_fix'])}.",
        file=out,
    )
    columns: Columns = {
        "Row": lambda trouble: trouble["row"],
        "To fix": lambda trouble: trouble["reason"],
        "Candidates": lambda trouble: "; ".join(
            " ".join(filter(None, (each["contact"] or each["member"], each["address"], each.get("since"))))
            for each in trouble["candidates"]
        ),
    }
    show_table(result["to_fix"], columns, out=out)


def _coming(row: Row) -> int:
    return int(row.result["added"] + row.result["invited"])


def _preview_rollout(desk: Desk, row: Row, counts: Counts, out: TextIO) -> None:
    """Groups in which the same would change stand together."""
    groups = changes_of(row, Jobs(desk.database).items(row.id, state="planned", limit=None))
    equal = f", {counts.skipped} would be left as they are" if counts.skipped else ""
    failed = f", {counts.failed} could not be read" if counts.failed else ""
    print(f"{_of(counts.waiting, 'group')} would change{equal}{failed}.", file=out)
    _show_reasons(counts, out)
    for found, names in groups[:_MOST_CHANGES]:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        print(f"  {', '.join(map(one_line, names[:_MOST_NAMES]))}{more}:", file=out)
        for line in found.lines[:_MOST_LINES]:
            print(f"    {one_line(line)[:_LONGEST_LINE]}", file=out)
        if len(found.lines) > _MOST_LINES:
            print(f"    … and {_of(len(found.lines) - _MOST_LINES, 'more change')}.", file=out)
    if len(groups) > _MOST_CHANGES:
        print(f"  … and {_of(len(groups) - _MOST_CHANGES, 'other set')} of changes.", file=out)
    for warning in row.result.get("warnings", []):
        print(f"Attention: {one_line(warning)}.", file=out)


def _report(row: Row, out: TextIO) -> None:
    show_report(row.result, out)


_PREVIEWS: Mapping[str, Callable[[Desk, Row, Counts, TextIO], None]] = {
    "group_email": _preview_letters,
    "interest_email": _preview_letters,
    "create_group": _preview_group,
    "rules_rollout": _preview_rollout,
    "questions_rollout": _preview_rollout,
}
_RESULTS: Mapping[str, Callable[[Row, TextIO], None]] = {"create_group": _end_group, "groups_report": _report}
_DONE = {
    "group_email": "sent",
    "interest_email": "sent",
    "create_group": "in the group",
    "rules_rollout": "as they are to be",
    "questions_rollout": "as they are to be",
    "groups_report": "listed",
}


def spell_seconds(seconds: int) -> str:
    """ "2 h 5 min": two units at most."""
    parts: list[str] = []
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, seconds = divmod(seconds, unit)
        if number or (name == "s" and not parts):
            parts.append(f"{number} {name}")
    return " ".join(parts[:2])


def _of(number: int, thing: str, things: str = "") -> str:
    return f"{number} {thing if number == 1 else things or thing + 's'}"
