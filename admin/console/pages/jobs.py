"""Jobs: what was set off, how far each is, and how it goes on. One page for every kind.

What a page says of one kind is in templates/console/jobs/_<kind>.html, and what that needs beside the job in MORE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from babel import Locale, UnknownLocaleError
from babel.dates import format_timedelta
from starlette.responses import Response, StreamingResponse

from admin.api.reading import next_cursor, read_cursor, read_number
from admin.console.page import Page, Visit, name_of
from admin.console.pages.group_jobs import JOB_PARTS
from admin.jobs.described import expected_end
from admin.office import ALL, DECIDERS, MANAGERS, jobs, write
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.community import GroupId, MemberId
from core.consent import Purpose
from core.errors import NotThereError, WrongStateError
from core.jobs import FINAL, WAIT, Counts
from core.letters import MAILINGS
from integrations.store.jobs import Item

Row = sa.Row[Any]

AT_ONCE = 25
ROWS_AT_ONCE = 50
KINDS = {
    "group_email": N_("Letter to a group"),
    "interest_email": N_("Letter to an interest"),
    "create_group": N_("A group from a list"),
    "rules_rollout": N_("Rules for many groups"),
    "questions_rollout": N_("Questions for many groups"),
    "groups_report": N_("Report on the groups"),
}
DECIDED = {
    "confirm": N_("Begun. You can leave this page: the work goes on without it."),
    "pause": N_("Paused. What is under way is finished, and the rest waits."),
    "resume": N_("It goes on."),
    "cancel": N_("Cancelled. What was done stays as it is, and nothing more is begun."),
    "retry-failed": N_("What failed is tried again."),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One letter, person or group of a job. `name` is a group's, where the job knows it itself."""

    state: str
    reason: str | None
    member: str | None = None
    group: str | None = None
    name: str = ""
    number: int = 0
    at: datetime | None = None


def list_jobs(visit: Visit) -> Response:
    after = read_cursor(visit.query.get("after", ""), keys=1)
    kind = visit.query.get("kind", "")
    rows = visit.office.jobs.page(
        site=visit.site,
        kind=kind if kind in KINDS else None,
        reach=visit.holder.reach,
        limit=AT_ONCE + 1,
        after=after,
    )
    shown = rows[:AT_ONCE]
    counts = visit.office.jobs.counts(shown)
    following = ""
    if len(rows) > AT_ONCE:
        following = visit.url(
            "/jobs", kind=kind, after=next_cursor(shown[-1].created_at.isoformat(), shown[-1].id)
        )
    return visit.page(
        "jobs/list.html",
        rows=[(row, title_of(visit, row), counts[row.id]) for row in shown],
        kinds=KINDS,
        kind=kind,
        older=following,
        newest=visit.url("/jobs", kind=kind) if after else "",
    )


def show_job(visit: Visit) -> Response:
    row = _job(visit)
    more = MORE[row.kind](visit, row) if row.kind in MORE else {}
    return visit.page("jobs/show.html", **_progress(visit, row), **more)


def watch_job(visit: Visit) -> Response:
    """How far it is. Once it is in another state than the page that asks, that page is to be drawn anew."""
    row = _job(visit)
    answer = visit.part("jobs/_live.html", **_progress(visit, row))
    if row.state != visit.query.get("was", ""):
        answer.headers["HX-Refresh"] = "true"
    return answer


def _progress(visit: Visit, row: Row) -> dict[str, Any]:
    counts = visit.office.jobs.counts([row])[row.id]
    now = visit.words.now
    reasons = [(write.mark_of(text), text, number) for text, number in counts.skipped_by_reason.items()]
    soon = now + timedelta(seconds=10)
    waits = visit.office.jobs.unfinished(row.id) if row.state == "running" and row.phase == WAIT else None
    return {
        "job": row,
        "title": title_of(visit, row),
        "kinds": KINDS,
        "counts": counts,
        "to_do": counts.total - counts.skipped,
        "over": counts.done + counts.failed + counts.in_doubt,
        "reasons": reasons,
        "is_mailing": row.kind in MAILINGS,
        "moves": row.state in ("previewing", "running") or (row.state == "cancelled" and counts.waiting > 0),
        "acts": acts_on(row, counts),
        "eta": expected_end(row, counts, now),
        "soon": soon,
        "put_off": waits if waits and waits > soon else None,
        "lasts": _lasts(visit, row),
    }


def _lasts(visit: Visit, row: Row) -> str:
    seconds = (row.cost or {}).get("seconds_at_least", 0)
    return format_timedelta(timedelta(seconds=max(1, seconds)), locale=visit.words.language)


def acts_on(row: Row, counts: Counts) -> list[str]:
    """What may be done about a job as it stands, as far as that can be seen from here."""
    found = {
        "previewing": ["cancel"],
        "previewed": ["confirm", "cancel"],
        "running": ["pause", "cancel"],
        "paused": ["resume", "cancel"],
    }.get(row.state, [])
    if row.state == "done" and counts.failed:
        found = ["retry-failed"]
    if row.state == "done" and row.later_group is not None:
        found = [*found, "cancel"]
    if row.state in FINAL and row.kind in jobs.ROLLOUTS and counts.done:
        found = [*found, "rollback"]
    return found


def decide(name: str) -> Callable[[Visit], Response]:
    def act(visit: Visit) -> Response:
        row = _job(visit)
        try:
            jobs.act(visit.office, visit.holder, row.id, name, visit.form.get("token"))
        except WrongStateError as exc:  # somebody was faster, or the job itself
            said = visit.words.gettext("Nothing was changed: %(why)s.", why=exc)
            return visit.to(f"/jobs/{row.id}", said=said, mood="bad")
        return visit.to(f"/jobs/{row.id}", said=visit.words.gettext(DECIDED[name]))

    return act


def roll_back(visit: Visit) -> Response:
    row, _ = jobs.roll_back(visit.office, visit.holder, _job(visit).id, key_of(visit))
    return visit.to(f"/jobs/{row.id}")


def key_of(visit: Visit) -> str:
    """What a form was made with, so that sent twice it is one job. Raises RefusedError."""
    return jobs.read_key(visit.form.get("key"))


def show_rows(visit: Visit) -> Response:
    """Everybody a job is about, or those in one state or with one reason."""
    row = _job(visit)
    state, mark = visit.query.get("state", ""), visit.query.get("why", "")
    place = visit.query.get("after", "")
    if row.kind in MAILINGS:
        after = read_cursor(place, keys=1)
        reason, found = write.readers(
            visit.office,
            visit.holder,
            row.id,
            state=state,
            mark=mark,
            limit=ROWS_AT_ONCE + 1,
            after=after,
        )
        shown = found[:ROWS_AT_ONCE]
        last = ""
        if len(found) > ROWS_AT_ONCE:
            last = next_cursor(shown[-1].created_at.isoformat(), shown[-1].id)
        lines = [
            Line(letter.state, letter.reason, letter.member, letter.group_id, at=letter.sent_at)
            for letter in shown
        ]
    else:
        reason, items = _items(visit, row, state, mark, after=read_number(place))
        last = next_cursor(str(items[ROWS_AT_ONCE - 1].number)) if len(items) > ROWS_AT_ONCE else ""
        is_list = row.kind == "create_group"  # all of them are about its one group
        lines = [
            Line(
                item.state,
                item.reason,
                item.member,
                None if is_list else item.group,
                name="" if is_list else item.data.get("name", ""),
                number=item.number,
            )
            for item in items[:ROWS_AT_ONCE]
        ]
    address = f"/jobs/{row.id}/rows"
    return visit.page(
        "jobs/rows.html",
        job=row,
        title=title_of(visit, row),
        lines=lines,
        reason=reason,
        state=state,
        is_mailing=row.kind in MAILINGS,
        people=visit.directory.members(MemberId(line.member) for line in lines if line.member),
        groups=visit.directory.groups() if any(line.group for line in lines) else {},
        older=visit.url(address, state=state, why=mark, after=last) if last else "",
        first=visit.url(address, state=state, why=mark) if place else "",
    )


def _items(visit: Visit, row: Row, state: str, mark: str, *, after: int) -> tuple[str, list[Item]]:
    """The reason and up to one more than ROWS_AT_ONCE of the rows behind this number."""
    if not mark:
        return "", visit.office.jobs.items(row.id, state=state or None, after=after, limit=ROWS_AT_ONCE + 1)
    reasons = visit.office.jobs.counts([row])[row.id].skipped_by_reason
    reason = next((text for text in reasons if write.mark_of(text) == mark), None)
    if reason is None:
        raise NotThereError(N_("Nobody was left out for this reason."))
    found = visit.office.jobs.items(row.id, state="skipped", after=after, limit=None)
    return reason, [item for item in found if item.reason == reason][: ROWS_AT_ONCE + 1]


def download_rows(visit: Visit) -> Response:
    job = _job(visit).id
    return StreamingResponse(
        jobs.rows_as_csv(visit.office, job),
        media_type="text/csv; charset=utf-8",
        headers=jobs.as_file(f"job-{job}.csv"),
    )


def show_letter(visit: Visit) -> Response:
    """The letter of a mailing by itself, for a frame."""
    row = _job(visit)
    if row.kind not in MAILINGS:
        raise NotThereError(N_("This job writes no letters."))
    return as_letter(write.draw(visit.office, draft_of(visit, row, visit.query.get("language", ""))).html)


def as_letter(html: str) -> Response:
    """Somebody's HTML, which may do nothing and ask for nothing but pictures."""
    return Response(
        html,
        media_type="text/html; charset=utf-8",
        headers={
            "Cache-Control": "no-store",
            # Who may frame it is the entrance's to say: the page around it may stand in Wix's dashboard.
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; sandbox"
            ),
            "X-Content-Type-Options": "nosniff",
        },
    )


def draft_of(visit: Visit, row: Row, language: str = "") -> write.Draft:
    """What a mailing writes, as far as it is the same for all."""
    params, answers = row.params, row.params.get("answers", {})
    return write.Draft(
        params["email"],
        Purpose(params.get("purpose", Purpose.PROMOTIONAL)),
        visit.directory.site(),
        language,
        params.get("context", {}),
        _group_name(visit, row) if row.kind == "group_email" else "",
        [word.rstrip("*") for word in (answers.get("any") or answers.get("all") or [])],
    )


def _mailing(visit: Visit, row: Row) -> dict[str, Any]:
    draft = draft_of(visit, row, visit.query.get("language", ""))
    drawn, trouble = None, ""
    try:
        drawn = write.draw(visit.office, draft)
    except (RefusedError, NotThereError) as exc:  # it was changed since, or is gone
        trouble = write.why_of(exc)
    languages = visit.office.renderer.places(row.params["email"]) if drawn else ()
    return {
        "drawn": drawn,
        "drawn_trouble": trouble,
        "letter_languages": list(languages),
        "language_name": language_name,
        "frame_src": visit.url(f"/jobs/{row.id}/letter", language=draft.language),
    }


def language_name(tag: str) -> str:
    """As its speakers call it."""
    try:
        return Locale.parse(tag, sep="-").get_display_name() or tag
    except (UnknownLocaleError, ValueError):
        return tag


MORE: Mapping[str, Callable[[Visit, Row], Mapping[str, Any]]] = {
    "group_email": _mailing,
    "interest_email": _mailing,
    **JOB_PARTS,
}
"""What the page of one kind needs, by kind."""


def title_of(visit: Visit, row: Row) -> str:
    """A job in words."""
    _, params = visit.words.gettext, row.params
    match row.kind:
        case "group_email":
            group = _group_name(visit, row) or params["group"]
            return _("“%(letter)s” to %(group)s", letter=params["email"], group=group)
        case "interest_email":
            answers = params["answers"]
            words = ", ".join(answers.get("any") or answers.get("all") or [])
            return _("“%(letter)s” to people who mention %(words)s", letter=params["email"], words=words)
        case "create_group":
            return _("Open the group “%(group)s”", group=params["group"]["name"])
        case "rules_rollout" if params.get("rollback"):
            return _("Put back the rules as they were")
        case "questions_rollout" if params.get("rollback"):
            return _("Put back the questions as they were")
    return _(KINDS[row.kind])


def _group_name(visit: Visit, row: Row) -> str:
    """Of a letter to a group: as its preview found it; until then as Wix has it, "" when it was given by its name."""
    if groups := row.plan.get("groups"):
        return str(groups[0][1])
    return name_of(visit.directory.group(GroupId(row.params["group"])))


def _job(visit: Visit) -> Row:
    """Raises NotThereError, also for one of another site."""
    row = jobs.own_job(visit.office, visit.holder, visit.ids["job"])
    if row.site != visit.site:
        raise NotThereError(N_("There is no such job, or it is not yours to see."))
    return row


PAGES: tuple[Page, ...] = (
    Page("GET", "/jobs", list_jobs, ALL),
    Page("GET", "/jobs/{job}", show_job, ALL),
    Page("GET", "/jobs/{job}/live", watch_job, ALL),
    Page("GET", "/jobs/{job}/rows", show_rows, ALL),
    Page("GET", "/jobs/{job}/rows.csv", download_rows, ALL),
    Page("GET", "/jobs/{job}/letter", show_letter, ALL),
    *(Page("POST", f"/jobs/{{job}}/{name}", decide(name), DECIDERS) for name in jobs.ACTS),
    Page("POST", "/jobs/{job}/rollback", roll_back, MANAGERS),
)
