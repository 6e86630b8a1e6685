"""Today: how things are, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from admin.console.charts import Series, columns
from admin.console.page import Page, Visit
from admin.office import ALL, MANAGERS, OWNERS, READERS
from admin.office.today import Days, Today, days, look
from core.errors import JournalUnavailableError
from core.health import Finding, examine
from integrations.store.glance import MOST_COUNTED
from integrations.store.tokens import Role

LINKS: Mapping[str, tuple[str, Mapping[str, str], frozenset[Role]]] = {
    "worker": ("/workshop/doctor", {}, MANAGERS),
    "beat": ("/workshop/doctor", {}, MANAGERS),
    "tables": ("/workshop/doctor", {}, MANAGERS),
    "quiet": ("/workshop/doctor", {}, MANAGERS),
    "unread": ("/workshop/doctor", {}, MANAGERS),
    "automations": ("/automations", {}, READERS),
    "paused": ("/workshop/senders", {}, READERS),
    "paused.domain": ("/workshop/senders", {}, READERS),
    "late.events": ("/workshop/events", {"state": "received"}, READERS),
    "late.letters": ("/workshop/letters", {"state": "planned"}, ALL),
    "late.calls": ("/requests", {}, ALL),
    "refused": ("/requests", {}, ALL),
    "dead": ("/workshop/events", {"state": "dead"}, READERS),
    "doubt": ("/workshop/doubt", {}, ALL),
    "no_address": ("/workshop/doctor", {}, OWNERS),
}
"""Where somebody goes from a finding, by its name; page, query, and who may go there."""


def show(visit: Visit) -> Response:
    return visit.page("today/today.html", **_now(visit), **_chart(visit))


def refresh(visit: Visit) -> Response:
    return visit.part("today/_now.html", **_now(visit))


def _now(visit: Visit) -> dict[str, Any]:
    today = look(visit.office, visit.holder, visit.site)
    findings = examine(today.facts, visit.words)
    return {
        "today": today,
        "findings": [(finding, _link(visit, finding)) for finding in findings],
        "groups": visit.directory.groups() if today.to_confirm or today.under_way else {},
        "much": MOST_COUNTED,
        "is_new": _is_new(today),
    }


def _link(visit: Visit, finding: Finding) -> str:
    path, query, roles = LINKS.get(finding.name, ("", {}, frozenset()))
    return visit.url(path, **query) if visit.holder.role in roles else ""


def _is_new(today: Today) -> bool:
    """Nothing has happened here yet."""
    return today.told_at is None and not any(pair.day for pair in (*today.came.values(), today.sent))


def _chart(visit: Visit) -> dict[str, Any]:
    """Pictures of the last weeks, and their numbers; none when the database cannot count so much now."""
    try:
        found = days(visit.office, visit.holder, visit.site)
    except JournalUnavailableError:
        return {"chart": None, "charts": []}
    _, words = visit.words.gettext, visit.words
    named = [words.day(day) for day in found.days]
    people = [
        Series(label, values)
        for label, values in ((_("joined"), found.joined), (_("asked to join"), found.asked))
        if values is not None
    ]
    letters = [Series(_("letters sent"), found.sent)]
    charts = [
        (title, colours, series, columns(title, named, series, words.number, colours))
        for title, colours, series in (
            (_("People, day by day"), ("one", "two"), people),
            (_("Letters, day by day"), ("three",), letters),
        )
        if series
    ]
    return {"chart": _table(found), "charts": charts if any(map(any, _columns(found))) else []}


def _columns(found: Days) -> list[tuple[int, ...]]:
    return [values for values in (found.joined, found.asked, found.sent) if values is not None]


def _table(found: Days) -> list[tuple[Any, ...]]:
    """A row for each day, the newest first."""
    return list(reversed(list(zip(found.days, *_columns(found), strict=True))))


PAGES: tuple[Page, ...] = (
    Page("GET", "/", show),
    Page("GET", "/now", refresh),
)
