"""A report as a file: one function, and one format for each need. What is drawn is the `result` of its job alone.

html: one page for people, with charts; csv: all groups, for a spreadsheet; json: the result itself, for programs;
pdf: to print and pass on, with the extra `pdf`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from core.cells import defuse
from core.errors import PermanentError
from core.reports import SPANS
from integrations.reports.charts import IN_HTML, ON_PAPER, Colours, bars, line
from integrations.reports.words import clean

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "templates" / "report"
FUNNEL = ("asked", "eligible", "sent", "bounced", "unsubscribed")
_PRIVACY = {"PUBLIC": "public", "PRIVATE": "private", "SECRET": "secret", "UNKNOWN": "of unknown kind"}
_MOST_BARS = 20


def render_report(result: Mapping[str, Any], format: str, *, site_name: str = "") -> tuple[str, str, bytes]:  # noqa: A002
    """Media type, file name and content. `format` is one of FORMATS; `site_name` stands in for one that was not read.

    Raises PermanentError for another format, and for pdf where the extra is not installed.
    """
    if format not in FORMATS:
        raise PermanentError(f"there is no report as {format!r}: it is {', '.join(FORMATS)}")
    media_type, write = FORMATS[format]
    return media_type, f"groups-{result['as_of'][:10]}.{format}", write(result, site_name)


def _as_html(result: Mapping[str, Any], site_name: str) -> bytes:
    return _page("report.html", result, site_name, _charts(result, IN_HTML)).encode()


def mail_parts(result: Mapping[str, Any]) -> tuple[str, str, str]:
    """Subject, text and HTML of the letter that brings a report: its tables, without the charts, which mail programs
    do not show."""
    subject = f"Groups of {_site(result, '')}: {_day(result['as_of'])}"
    text = _page("mail.txt", result, "", {})
    return subject, re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n", _page("mail.html", result, "", {})


def _as_csv(result: Mapping[str, Any], _: str) -> bytes:
    """One row for each group. The mark at the beginning has spreadsheets read it as UTF-8."""
    file = io.StringIO()
    writer = csv.writer(file)
    columns = ("id", "name", "privacy", "members", "created_at", "last_activity", "idle")
    writer.writerow(("as_of", "site", *columns, *(f"change_{span}_days" for span in SPANS)))
    for group in result["groups"]:
        changes = (group["change"][str(span)] for span in SPANS)
        cells = (result["as_of"], result["source"]["site"], *(group[column] for column in columns), *changes)
        writer.writerow([_cell(value) for value in cells])
    return b"\xef\xbb\xbf" + file.getvalue().encode("utf-8", "ignore")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return value
    return defuse(clean(value))


def _as_json(result: Mapping[str, Any], _: str) -> bytes:
    # Half a character, as a hostile name may hold, stays escaped.
    return (json.dumps(result, indent=2) + "\n").encode()


def _as_pdf(result: Mapping[str, Any], site_name: str) -> bytes:
    try:
        import typst  # noqa: PLC0415 (84 MB that not everybody installs)
    except ImportError as exc:
        raise PermanentError(
            "a report as pdf needs the extra `pdf` of Usher, which is not installed here"
        ) from exc
    data = {"words": _words(result, site_name), "charts": _charts(result, ON_PAPER)}
    try:
        found: bytes = typst.compile(
            str(TEMPLATES / "report.typ"),
            root=str(TEMPLATES),
            format="pdf",
            sys_inputs={"data": json.dumps(data)},
        )
    except RuntimeError as exc:  # typst's own error is one
        raise PermanentError(f"the report could not be set as pdf: {str(exc)[:200]}") from exc
    return found


FORMATS: Mapping[str, tuple[str, Callable[[Mapping[str, Any], str], bytes]]] = {
    "html": ("text/html; charset=utf-8", _as_html),
    "csv": ("text/csv; charset=utf-8", _as_csv),
    "json": ("application/json", _as_json),
    "pdf": ("application/pdf", _as_pdf),
}


def _charts(result: Mapping[str, Any], colours: Colours) -> dict[str, str]:
    """ "" where there is nothing to draw."""
    charts = dict.fromkeys(("popular", "growth", "funnel", "interests"), "")
    if popular := result["most_popular"][:_MOST_BARS]:
        rows = [(group["name"], group["members"]) for group in popular]
        charts["popular"] = bars("popular-chart", "The groups with the most members", rows, colours)
    if len(result["days"]) > 1:
        points = [(date.fromisoformat(reading["day"]), reading["members"]) for reading in result["days"]]
        charts["growth"] = line("growth-chart", "Members of all groups together, by day", points, colours)
    if result["funnel"]:
        rows = [(key.capitalize(), result["funnel_total"][key]) for key in FUNNEL]
        charts["funnel"] = bars("funnel-chart", "How far the letters came", rows, colours)
    if interests := result["interests"][:_MOST_BARS]:
        rows = [(found["term"], found["people"]) for found in interests]
        charts["interests"] = bars("interests-chart", "What answers speak of", rows, colours)
    return charts


def _page(template: str, result: Mapping[str, Any], site_name: str, charts: Mapping[str, str]) -> str:
    known = [growth for growth in result["growth"] if growth["since"] is not None]
    return (
        _templates()
        .get_template(template)
        .render(
            result=result,
            site=_site(result, site_name),
            charts=charts,
            month=next(growth for growth in result["growth"] if growth["days"] == 30),
            known_growth=known,
            funnel_keys=FUNNEL,
            privacy=_PRIVACY,
            origin=_origin(result),
        )
    )


def _words(result: Mapping[str, Any], site_name: str) -> dict[str, Any]:
    """What the PDF says, ready to be set: typst knows neither our dates nor our numbers."""
    known = [growth for growth in result["growth"] if growth["since"] is not None]
    total = result["funnel_total"]
    return {
        "site": _site(result, site_name),
        "as_of": _moment(result["as_of"]),
        "origin": _origin(result),
        "idle_days": _count(result["idle_days"], "day"),
        "tiles": [
            [_number(result["total"]), "group" if result["total"] == 1 else "groups"],
            [_number(result["members"]), "memberships"],
            [_number(len(result["idle"])), f"idle for {_count(result['idle_days'], 'day')}"],
            [_number(total["sent"]), f"letters in {result['funnel_days']} days"],
        ],
        "notes": result["notes"],
        "popular": [[clean(group["name"]), _number(group["members"])] for group in result["most_popular"]],
        "tied": f"{_count(result['more_tied'], 'more group')} with as many members as the last one."
        if result["more_tied"]
        else "",
        "growth": [
            [
                f"{growth['days']} days",
                _day(growth["since"]),
                _number(growth["members_then"]),
                _change(growth["change"]),
                _number(growth["left"]),
                f"+{growth['new_groups']}, −{growth['gone_groups']}",
            ]
            for growth in known
        ],
        "idle": [
            [clean(group["name"]), _day(group["last_activity"]) if group["last_activity"] else "never"]
            for group in result["idle"]
        ],
        "letters": [
            [clean(found["email"]), found["automation"] or f"job {found['job'][:8]}"]
            + [_number(found[key]) for key in FUNNEL]
            for found in result["funnel"]
        ]
        + ([["All letters", "", *(_number(total[key]) for key in FUNNEL)]] if result["funnel"] else []),
        "letters_of": f"{_count(result['funnel_days'], 'day')}",
        "interests": [[clean(found["term"]), _number(found["people"])] for found in result["interests"]],
        "groups": [
            [
                clean(group["name"]),
                _PRIVACY.get(group["privacy"], group["privacy"]),
                _number(group["members"]),
                _change(group["change"]["30"]),
                _day(group["last_activity"]) if group["last_activity"] else "never",
            ]
            for group in result["groups"]
        ],
    }


def _site(result: Mapping[str, Any], site_name: str) -> str:
    name = site_name or result["source"]["site_name"]
    return clean(name) if name.strip() else f"site {result['source']['site']}"


def _origin(result: Mapping[str, Any]) -> str:
    source = result["source"]
    listed = f"{_count(source['listed'], 'group')} listed"
    said = "" if source["wix_total"] is None else f", {source['wix_total']} by Wix's own count"
    return (
        f"Source: Wix's list of groups of site {source['site']}, read from {_moment(source['read_from'])} to "
        f"{_moment(source['read_until'])} ({listed}{said}); growth from the daily counts, "
        "letters and interests from the ledger of Usher. All times are UTC."
    )


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "clean": clean,
        "day": _day,
        "moment": _moment,
        "number": _number,
        "count": _count,
        "change": _change,
        "days_before": _days_before,
    }
    return found


def _day(text: str) -> str:
    found = datetime.fromisoformat(text)
    return f"{found.day} {found:%b %Y}"


def _moment(text: str) -> str:
    return f"{_day(text)}, {datetime.fromisoformat(text):%H:%M} UTC"


def _days_before(text: str, as_of: str) -> str:
    return _number((datetime.fromisoformat(as_of) - datetime.fromisoformat(text)).days)


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _count(value: int, thing: str) -> str:
    return f"{value:,} {thing}" if value == 1 else f"{value:,} {thing}s"


def _change(value: int | None) -> str:
    return "–" if value is None else f"{value:+,}".replace("-", "−") if value else "0"
