"""A report as HTML, CSV, JSON, PDF and mail: complete, self-contained, and no place for what strangers typed."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from core.community import Group, GroupId, SiteId
from core.errors import PermanentError
from core.reports import Day, Facts, Interest, Letters, Past, make_report
from integrations.reports.mail import build_report_letter
from integrations.reports.render import FORMATS, mail_parts, render_report

NOW = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)
HOSTILE = (
    "<script>alert('x')</script>",
    '=HYPERLINK("http://evil.example")',
    "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1+1", "|calc",
    "קבוצת ריצה", "الطبخ معًا", "\u202egnp.exe", "👩‍👩‍👧 Family", "x" * 100, "a\x00b\x0b\ufffe", "\ud800 half",
    '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", "#evil[x] $1$ \\", "]]>", "&amp;", "", "&lt;b&gt;",
)  # fmt: skip


def a_result(*names: str, members: int | None = 5) -> dict:
    groups = [
        Group(GroupId(f"g{number:02}"), name, "SECRET", members, NOW, None, None if number % 2 else NOW)
        for number, name in enumerate(names)
    ]
    days = [Day((NOW - timedelta(days=ago)).date(), 1, 100 - ago) for ago in range(40, -1, -1)]
    total = Letters("", None, None, 30, 20, 18, 1, 2, 1, 1, 0)
    facts = Facts(
        site=SiteId("site-1"),
        site_name="Sea <b>&amp; Side</b>",
        groups=groups,
        read_from=NOW,
        read_until=NOW,
        wix_calls=1,
        wix_total=len(groups) + 1,
        days=days,
        past={7: Past(days[-8].day, {group.id: 7 for group in groups[:1]}, {})},
        letters=[
            Letters("<i>welcome</i>", "welcome", None, 20, 15, 15, 0, 1),
            Letters("x", None, "f" * 32, 10, 5, 3, 1, 1),
        ],
        all_letters=total,
        interests=[Interest("<b>yoga</b>", 4)],
    )
    return make_report(facts).as_json()


def render(result: dict, format: str) -> str:  # noqa: A002
    return render_report(result, format)[2].decode("utf-8-sig")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_every_format_has_its_type_and_a_name_with_the_day():
    for format, (media_type, _) in FORMATS.items():  # noqa: A001
        found_type, name, content = render_report(a_result("Runners"), format)
        assert (found_type, name) == (media_type, f"groups-2026-05-03.{format}")
        assert content
    with pytest.raises(PermanentError, match="html, csv, json, pdf"):
        render_report(a_result(), "xls")


def test_the_page_holds_no_script_and_fetches_nothing():
    text = render(a_result(*HOSTILE), "html")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "form", "b", "i"})
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert not [attrs for _, attrs in page.tags if {"href", "src", "xlink:href", "srcset"} & attrs.keys()]
    styles = "".join(re.findall(r"<style.*?</style>", text, re.DOTALL)) + str(
        [a.get("style") for _, a in page.tags]
    )
    assert "url(" not in styles
    assert "@import" not in styles
    assert "default-src 'none'" in text


def test_the_page_tells_every_name_as_it_was_typed():
    page = Page(render(a_result(*HOSTILE), "html"))
    for name in ("<script>alert('x')</script>", '=HYPERLINK("http://evil.example")', "👩‍👩‍👧 Family", "x" * 100,
                 "{{ 7*7 }}", "&amp;", "&lt;b&gt;", "קבוצת ריצה", "Sea <b>&amp; Side</b>", "<b>yoga</b>"):  # fmt: skip
        assert name in page.text, name
    assert "\u202e" not in page.text
    assert "(no name)" in page.text


@pytest.mark.parametrize("name", HOSTILE)
def test_every_name_can_be_drawn_and_leaves_no_control_character(name):
    result = a_result(name, name)
    result["interests"][0]["term"] = name
    result["source"]["site_name"] = name
    for text in (render(result, "html"), *mail_parts(result), render(result, "csv")):
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\ufffe]", text)


def test_every_table_has_a_caption_and_every_chart_a_title_and_a_description():
    text = render(a_result("Runners", "Yoga"), "html")
    tags = [tag for tag, _ in Page(text).tags]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") > 4
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 4
    for chart in charts:
        for part in re.search(r'aria-labelledby="([^"]+)"', chart)[1].split():
            assert f'id="{part}"' in chart
        assert 'role="img"' in chart
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert '<html lang="en">' in text


def test_the_same_result_is_the_same_page():
    assert render(a_result("Runners"), "html") == render(a_result("Runners"), "html")


def test_the_page_says_where_its_numbers_come_from_and_when():
    page = Page(render(a_result("Runners"), "html"))
    assert "As of 3 May 2026, 12:00 UTC" in page.text
    assert "1 group listed, 2 by Wix's own count" in page.text
    assert "Of 20 eligible: 18 sent, 1 waiting, 1 failed, 0 in doubt" in page.text


def test_a_report_of_nothing_can_be_shown_in_every_form():
    empty = make_report(Facts(SiteId("s"), (), NOW, NOW)).as_json()
    for format in FORMATS:  # noqa: A001
        assert render_report(empty, format)[2]
    assert "There is no group to tell of." in render(empty, "html")
    assert mail_parts(empty)[1]


def test_sizes_that_nobody_knows_and_a_flat_line_can_be_drawn():
    result = a_result("Runners", "Yoga", members=None)
    result["days"] = [{"day": f"2026-05-0{day}", "groups": 1, "members": 3} for day in (1, 2, 3)]
    page = Page(render(result, "html"))
    assert "There is no group to tell of." in page.text
    assert render_report(result, "pdf")[2]


def test_a_spreadsheet_takes_no_name_for_a_formula():
    content = render_report(a_result(*HOSTILE), "csv")[2]
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    names = {row["id"]: row["name"] for row in rows}
    assert len(rows) == len(HOSTILE)
    assert not [name for name in names.values() if re.match(r"\s*[=+\-@＝|]", name)]
    assert names["g01"] == '\'=HYPERLINK("http://evil.example")'
    assert names["g02"] == "'+1"
    assert names["g14"] == "x" * 100
    # Numbers stay numbers, also below nothing.
    first = next(row for row in rows if row["id"] == "g00")
    assert (first["members"], first["change_7_days"], first["change_30_days"]) == ("5", "-2", "")
    assert {row["as_of"] for row in rows} == {"2026-05-03T12:00:00+00:00"}
    assert list(rows[0]) == [
        "as_of", "site", "id", "name", "privacy", "members", "created_at", "last_activity", "idle",
        "change_7_days", "change_30_days", "change_90_days",
    ]  # fmt: skip


def test_the_json_is_the_result():
    result = a_result(*HOSTILE)
    assert json.loads(render_report(result, "json")[2]) == result


def test_the_pdf_says_what_strangers_typed_and_does_nothing_of_it():
    result = a_result(*HOSTILE)
    content = render_report(result, "pdf")[2]
    assert content.startswith(b"%PDF-")
    assert b"/JavaScript" not in content
    assert b"/URI" not in content


def test_without_the_extra_a_pdf_is_refused_with_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(PermanentError, match="extra `pdf`"):
        render_report(a_result("Runners"), "pdf")


def a_letter(result: dict, key: str = "k") -> email.message.EmailMessage:
    written = build_report_letter(
        result, sender="Usher <usher@club.example.com>", to="board@example.com", key=key, date=NOW
    )
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", written)
    assert max(map(len, written.split(b"\r\n"))) < 998
    return email.message_from_bytes(written, policy=email.policy.default)


def test_the_letter_holds_text_and_html_and_the_page_as_a_file():
    result = a_result(*HOSTILE)
    letter = a_letter(result)
    assert letter["Subject"] == "Groups of Sea <b>&amp; Side</b>: 3 May 2026"
    assert letter["To"] == "board@example.com"
    assert letter.get_content_type() == "multipart/mixed"
    parts, file = letter.iter_parts()
    assert [part.get_content_type() for part in parts.iter_parts()] == ["text/plain", "text/html"]
    assert file.get_filename() == "groups-2026-05-03.html"
    assert file.get_content_disposition() == "attachment"
    assert file.get_payload(decode=True) == render_report(result, "html")[2]
    assert not letter.defects
    assert "8 groups" not in parts.get_body(("plain",)).get_content()
    assert f"{len(HOSTILE)} groups" in parts.get_body(("plain",)).get_content()


def test_the_letter_is_the_same_one_for_the_same_key():
    assert a_letter(a_result())["Message-ID"] == a_letter(a_result())["Message-ID"]
    assert a_letter(a_result())["Message-ID"] != a_letter(a_result(), key="other")["Message-ID"]


def test_the_html_of_the_letter_escapes_names_and_shows_no_chart():
    _, text, page = mail_parts(a_result(*HOSTILE))
    tags = {tag for tag, _ in Page(page).tags}
    assert tags.isdisjoint({"script", "img", "svg", "link", "b", "i"})
    assert '"><img src=x onerror=alert(1)>' in text
    assert "\n\n\n" not in text
