"""Groups: how they fare, one of them, their report, a group from a list of people, and the same rules for many."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from admin.console.page import Page, Visit
from admin.console.pages.automations import tongue_of
from admin.office import ALL, MANAGERS, READERS, groups, people
from admin.office.directory import in_words
from admin.office.jobs import NewJob, as_file, begin, own_job
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.automations import LONGEST_GROUP_NAME
from core.community import Group, GroupId, MemberId, Question, Rule, is_plain
from core.errors import NotThereError
from core.reports import FUNNEL_DAYS, INTEREST_DAYS
from core.sentences import describe, describe_report
from integrations.people_list import MOST_BYTES, PeopleList, read_people
from tasks.jobs.params import PARAMS

AT_ONCE = 100
LIST_BYTES = MOST_BYTES + 256 * 1024
ROLLOUT_BYTES = 2 * 1024 * 1024
MOST_PROBLEMS = 50
MORE_ENTRIES = 3
MOST_ENTRIES = {"rules": 100, "questions": 50}
"""Of one group; Wix takes no more (wix/groups.md, section 3)."""
LONGEST = {"title": 1000, "description": 10_000, "text": 300}
PRIVACIES = ("PRIVATE", "PUBLIC", "SECRET")


def show_groups(visit: Visit) -> Response:
    """Searched by name, the form is posted: nobody reads it in an address."""
    order = visit.form.get("order") or visit.query.get("order", "")
    if order not in groups.ORDERS:
        order = "name"
    name = visit.form.get("name").strip()[:LONGEST_GROUP_NAME]
    known = visit.directory.groups()
    found = groups.list_groups(visit.office, visit.holder, visit.site, known.values(), order=order, name=name)
    first = visit.query.get("first", "")
    start = int(first) if first.isascii() and first.isdecimal() and len(first) < 7 else 0
    shown = found[start : start + AT_ONCE]
    context: dict[str, Any] = {
        "standings": shown,
        "number_found": len(found),
        "known": len(known),
        "order": order,
        "name": name,
        "next_url": visit.url("/groups", order=order, first=start + AT_ONCE)
        if not name and len(found) > start + AT_ONCE
        else "",
        "first_url": visit.url("/groups", order=order) if start else "",
        "growth_days": groups.GROWTH_DAYS,
        "letter_days": groups.LETTER_DAYS,
        "idle_days": groups.IDLE_DAYS,
    }
    if visit.is_htmx:
        return visit.part("groups/_table.html", **context)
    return visit.page("groups/list.html", **context)


def show_group(visit: Visit) -> Response:
    group = _group(visit)
    figures = groups.figures_of(visit.office, visit.site, group)
    inside = groups.look_inside(visit.office, visit.site, group)
    return visit.page(
        "groups/group.html",
        group=group,
        figures=figures,
        line=draw_line(figures.sizes),
        inside=inside,
        troubles={name: in_words(exc) for name, exc in inside.troubles.items()},
        owner=visit.directory.members([group.owner]).get(group.owner) if group.owner else None,
        listening=[
            (
                one,
                describe(
                    one,
                    tongue_of(visit.words),
                    {id_: known.name for id_, known in visit.directory.groups().items()},
                ),
            )
            for one in groups.listening(visit.office, visit.site, group)
        ],
        most_pending=groups.MOST_PENDING,
        chart_days=groups.CHART_DAYS,
        letter_days=groups.LETTER_DAYS,
        idle_days=groups.IDLE_DAYS,
    )


def _group(visit: Visit) -> Group:
    """As it was known a moment ago; one that is not known is asked for, for it may be new."""
    id_ = visit.ids["group"]
    if not is_plain(id_, 200):
        raise NotThereError(N_("There is no such group, or it is not yours to see."))
    if (known := visit.directory.group(GroupId(id_))) is not None:
        return known
    return groups.own_group(visit.office, visit.holder, visit.site, id_)


# The report


def show_report(visit: Visit) -> Response:
    reports = groups.reports_of(visit.office, visit.holder, visit.site)
    wanted = visit.query.get("job", "")
    row = next((row for row in reports.done if not wanted or row.id == wanted), None)
    if row is None and wanted:
        row = own_job(visit.office, visit.holder, wanted)
        if row.kind != "groups_report" or row.site != visit.site or row.state != "done":
            raise NotThereError(N_("There is no such report."))
    result = row.result if row is not None else None
    context: dict[str, Any] = {
        "reports": reports,
        "row": row,
        "result": result,
        "schedules": [describe_report(schedule, tongue_of(visit.words)) for schedule in reports.schedules],
        "zone": visit.words.zone.key,
        "key": secrets.token_hex(16),
        "formats": ("html", *(["pdf"] if find_spec("typst") else []), "csv"),
        "funnel_days": FUNNEL_DAYS,
        "interest_days": INTEREST_DAYS,
        "date_of": date.fromisoformat,
    }
    if result is not None:
        days = [(date.fromisoformat(one["day"]), one["members"]) for one in result["days"]]
        context["line"] = draw_line(days)
    if visit.is_htmx:
        return visit.part("groups/_report.html", **context)
    return visit.page("groups/report.html", **context)


def make_report(visit: Visit) -> Response:
    _begin(visit, "groups_report", {})
    return visit.to("/groups/report")


def download_report(visit: Visit) -> Response:
    media_type, name, content = groups.report_file(
        visit.office,
        visit.holder,
        visit.query.get("job", ""),
        visit.query.get("format", "html"),
        visit.directory.site().name,
    )
    return Response(content, media_type=media_type, headers=as_file(name))


# A group from a list


@dataclass(frozen=True, slots=True)
class NewGroupForm:
    """What was filled in so far, with what is wrong about it by field."""

    who: str = ""
    owner: str = ""
    name: str = ""
    privacy: str = "PRIVATE"
    region: str = ""
    text: str = field(default="", repr=False)
    errors: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[Mapping[str, object]] = ()
    more_problems: int = 0
    to_fix: str = field(default="", repr=False)
    """The rows that cannot be read, as a data URL: the file is kept nowhere."""


def ask_for_group(visit: Visit) -> Response:
    return _show_new(visit, NewGroupForm())


def find_owner(visit: Visit) -> Response:
    given = NewGroupForm(who=visit.form.get("who"))
    try:
        found = people.find(visit.office, visit.holder, visit.site, given.who)
    except RefusedError as exc:
        said = visit.words.gettext(exc.first)
        return _show_new(visit, replace(given, errors={"who": said}), 422)
    return _show_new(visit, given, found=found)


def open_group(visit: Visit) -> Response:
    """Begin the job: it finds out who is meant, and waits for a yes."""
    _, form = visit.words.gettext, visit.form
    given = NewGroupForm(
        who=form.get("who").strip()[:320],
        owner=form.get("owner"),
        name=form.get("name").strip(),
        privacy=form.get("privacy"),
        region=form.get("region").strip().upper(),
        text=form.get("people"),
    )
    errors: dict[str, str] = {}
    if not is_plain(given.owner, 200):
        errors["who"] = _("Choose who is to own the group.")
    if not given.name or len(given.name) > LONGEST_GROUP_NAME:
        errors["name"] = _("Give a name of up to %(most)s characters.", most=LONGEST_GROUP_NAME)
    if given.privacy not in PRIVACIES:
        errors["privacy"] = _("Choose one of these.")
    listed = _read_list(visit, given)
    if not given.text.strip() and not form.file("file"):
        errors["people"] = _("Choose a file, or paste the list here: nobody is on it yet.")
    elif listed.unreadable:
        errors["people"] = _(
            "Some of the list cannot be read. Mend it and give it again; nothing was done yet."
        )
    if errors:
        found = None
        if not given.owner and given.who:
            found = people.find(visit.office, visit.holder, visit.site, given.who)
        return _show_new(visit, _with_problems(given, listed, errors), 422, found)
    group = {"name": given.name, "privacyStatus": given.privacy, "creatorId": given.owner}
    row = _begin(visit, "create_group", {"group": group, "people": listed.params()})
    said = visit.words.ngettext(
        "%(num)s row was read. Now Usher asks Wix whom it means.",
        "%(num)s rows were read. Now Usher asks Wix whom they mean.",
        len(listed.rows),
    )
    return visit.to(f"/jobs/{row.id}", said=" ".join([said, *listed.notes]))


def download_to_fix(visit: Visit) -> Response:
    content = groups.list_to_fix(visit.office, visit.holder, visit.ids["job"])
    return Response(content, media_type="text/csv; charset=utf-8", headers=as_file("to-fix.csv"))


def _read_list(visit: Visit, given: NewGroupForm) -> PeopleList:
    _, content = visit.form.file("file") or ("", b"")
    if content:
        return read_people(content, name="The file", region=given.region)
    return read_people(given.text.encode(), name="The list", region=given.region)


def _with_problems(given: NewGroupForm, listed: PeopleList, errors: Mapping[str, str]) -> NewGroupForm:
    if "people" not in errors or not listed.unreadable:
        return replace(given, errors=errors)
    problems = [
        {"row": bad.row, "field": bad.field, "problem": bad.problem}
        for bad in listed.unreadable[:MOST_PROBLEMS]
    ]
    to_fix = base64.b64encode(listed.to_fix([])).decode()
    return replace(
        given,
        errors=errors,
        problems=problems,
        more_problems=len(listed.unreadable) - len(problems),
        to_fix=f"data:text/csv;base64,{to_fix}" if to_fix else "",
    )


def _show_new(
    visit: Visit, form: NewGroupForm, status: int = 200, found: people.Found | None = None
) -> Response:
    owner = visit.directory.members([MemberId(form.owner)]) if is_plain(form.owner, 200) else {}
    hits = [hit for hit in found.hits if hit.member] if found else []
    return visit.page(
        "groups/new.html",
        status=status,
        form=form,
        owner=owner.get(MemberId(form.owner)),
        key=visit.form.get("key") or secrets.token_hex(16),
        most_mb=MOST_BYTES // 1024**2,
        longest_name=LONGEST_GROUP_NAME,
        hits=hits,
        searched=found is not None,
        trouble=found.trouble if found else "",
    )


# Rollouts


def ask_for_rollout(visit: Visit) -> Response:
    """First from where to copy, if from anywhere; then what to copy, and to which groups."""
    kind = visit.query.get("kind", "")
    if kind not in MOST_ENTRIES:
        return visit.page("groups/rollout_start.html", groups=_by_name(visit))
    source = visit.query.get("from", "")
    entries: Sequence[Rule | Question] = ()
    if source:
        entries = groups.entries_of(visit.office, visit.holder, visit.site, kind, source)
    rows = [_as_fields(entry) for entry in entries]
    blank = MORE_ENTRIES if not rows else 0
    return _show_rollout(visit, kind, source, rows, blank=blank, to="all")


def begin_rollout(visit: Visit) -> Response:
    """Begin the job: it reads every group, shows what would change, and waits for a yes."""
    _, form = visit.words.gettext, visit.form
    kind = form.get("kind")
    if kind not in MOST_ENTRIES:
        return visit.to("/groups/rollout")
    rows = [
        row
        for row in _entry_rows(visit, kind)
        if any(row[name].strip() for name in row if name != "required")
    ]
    chosen = list(dict.fromkeys(form.getlist("group")))
    to, source = form.get("to"), form.get("from")
    if form.get("do") == "more":
        return _show_rollout(visit, kind, source, rows, blank=MORE_ENTRIES, to=to, chosen=chosen)
    errors = {
        f"{name}-{place}": _("At most %(most)s characters, and not nothing.", most=LONGEST[name])
        for place, row in enumerate(rows)
        for name in row
        if name != "required"
        and (len(row[name]) > LONGEST[name] or (name != "description" and not row[name].strip()))
    }
    if not rows and not form.get("none"):
        errors["entries"] = _("Write at least one, or say that there are to be none.")
    if len(rows) > MOST_ENTRIES[kind]:
        errors["entries"] = _("Wix takes at most %(most)s of them.", most=MOST_ENTRIES[kind])
    if to != "all" and not 0 < len(chosen) <= 1000:
        errors["to"] = _("Choose the groups, at most a thousand by name, or all of them.")
    if errors:
        return _show_rollout(
            visit,
            kind,
            source,
            rows,
            blank=0 if rows else MORE_ENTRIES,
            to=to,
            chosen=chosen,
            errors=errors,
            status=422,
        )
    entries = [row | {"required": bool(row["required"])} if kind == "questions" else row for row in rows]
    to_groups = ["*"] if to == "all" else chosen
    job = _begin(visit, f"{kind}_rollout", {kind: entries, "to_groups": to_groups})
    return visit.to(
        f"/jobs/{job.id}",
        said=_("Usher reads every group now, and shows what would change. Nothing is changed yet."),
    )


def _entry_rows(visit: Visit, kind: str) -> list[dict[str, str]]:
    names = ("title", "description") if kind == "rules" else ("text", "required")
    return [
        {name: visit.form.get(f"{name}-{place}") for name in names}
        for place in range(MOST_ENTRIES[kind] + MORE_ENTRIES)
        if f"{names[0]}-{place}" in visit.form
    ]


def _as_fields(entry: Rule | Question) -> dict[str, str]:
    if isinstance(entry, Rule):
        return {"title": entry.title, "description": entry.description}
    return {"text": entry.text, "required": "1" if entry.required else ""}


def _show_rollout(
    visit: Visit,
    kind: str,
    source: str,
    rows: Sequence[Mapping[str, str]],
    *,
    blank: int,
    to: str,
    chosen: Sequence[str] = (),
    errors: Mapping[str, str] = {},
    status: int = 200,
) -> Response:
    empty = {"title": "", "description": ""} if kind == "rules" else {"text": "", "required": ""}
    blank = max(0, min(blank, MOST_ENTRIES[kind] - len(rows)))
    return visit.page(
        "groups/rollout.html",
        status=status,
        kind=kind,
        source=source,
        source_group=visit.directory.group(GroupId(source)) if source else None,
        rows=[*rows, *[empty] * blank],
        to=to,
        chosen=set(chosen),
        errors=errors,
        groups=_by_name(visit),
        key=visit.form.get("key") or secrets.token_hex(16),
        cleared=bool(visit.form.get("none")),
        most=MOST_ENTRIES[kind],
        longest=LONGEST,
    )


def _by_name(visit: Visit) -> list[Group]:
    return sorted(visit.directory.groups().values(), key=lambda group: (group.name.casefold(), group.id))


def _begin(visit: Visit, kind: str, params: Mapping[str, Any]) -> Any:
    """The same form sent twice is one job; with anything else in it, it is another."""
    model: BaseModel = PARAMS[kind].model_validate(params)
    content = json.dumps([visit.site, kind, params], sort_keys=True).encode()
    key = hashlib.sha256(visit.form.get("key").encode() + b"\0" + content).hexdigest()
    row, _ = begin(visit.office, visit.holder, NewJob(visit.site, kind, model), key)
    return row


# A line, as SVG without styles


@dataclass(frozen=True, slots=True)
class Line:
    """In a box of WIDTH by HEIGHT; `marks` are the values at the side with their heights, `days` the first and last.
    `table` has these and each day on which the number changed."""

    points: str
    marks: Sequence[tuple[int, float]]
    days: tuple[date, date]
    first: int
    last: int
    table: Sequence[tuple[date, int]]


WIDTH, HEIGHT, SIDE, FOOT, TOP = 400, 160, 40, 24, 10


def draw_line(sizes: Sequence[tuple[date, int]]) -> Line | None:
    """None when there are not two days to draw a line between. The axis need not begin at nothing."""
    if len(sizes) < 2:
        return None
    values = [members for _, members in sizes]
    low, high = min(values), max(values)
    if low == high:
        low, high = max(0, low - 1), high + 1
    first, last = sizes[0][0], sizes[-1][0]
    whole = max(1, (last - first).days)

    def height(value: float) -> float:
        return round(HEIGHT - FOOT - (value - low) / (high - low) * (HEIGHT - FOOT - TOP), 1)

    points = " ".join(
        f"{round(SIDE + (day - first).days / whole * (WIDTH - SIDE - 8), 1)},{height(members)}"
        for day, members in sizes
    )
    marks = [(value, height(value)) for value in dict.fromkeys((low, (low + high) // 2, high))]
    table = [
        (day, members)
        for place, (day, members) in enumerate(sizes)
        if place in (0, len(sizes) - 1) or members != values[place - 1]
    ]
    return Line(points, marks, (first, last), values[0], values[-1], table)


PAGES: tuple[Page, ...] = (
    Page("GET", "/groups", show_groups, ALL),
    Page("POST", "/groups", show_groups, ALL),
    Page("GET", "/groups/report", show_report, READERS),
    Page("POST", "/groups/report", make_report, MANAGERS),
    Page("GET", "/groups/report/file", download_report, READERS),
    Page("GET", "/groups/new", ask_for_group, MANAGERS),
    Page("POST", "/groups/new", open_group, MANAGERS, form_bytes=LIST_BYTES),
    Page("POST", "/groups/owner", find_owner, MANAGERS),
    Page("GET", "/groups/rollout", ask_for_rollout, MANAGERS),
    Page("POST", "/groups/rollout", begin_rollout, MANAGERS, form_bytes=ROLLOUT_BYTES),
    Page("GET", "/groups/lists/{job}/to-fix.csv", download_to_fix, MANAGERS),
    Page("GET", "/groups/{group}", show_group, ALL),
)
