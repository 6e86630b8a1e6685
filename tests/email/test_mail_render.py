from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.consent import Purpose
from core.errors import ConfigError, PermanentError
from integrations.email.render import FILES, Content, Renderer

DIRECTORY = Path(__file__).parents[2] / "templates" / "email"
LETTERS = Renderer(DIRECTORY)
SHIPPED = sorted(LETTERS.names())
FULL: Mapping[str, Any] = {
    "member_name": "Ana",
    "group_name": "Morning Movers",
    "site_name": "Riverside Studio",
    "site_url": "https://riverside.example.com/?a=1&b=2",
    "reason": "The group is full.",
    "matched": ["yoga", "pilates"],
    "unsubscribe_url": "https://usher.example.com/unsubscribe/abc",
    "postal_address": "12 Quay Street, Bristol",
}
NASTY = "<script>alert(1)</script><img src=x onerror=1>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.links: set[str] = set()
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self.links.add(dict(attrs)["href"] or "")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] != "style":
            self.words += data


def render(name: str, context: Mapping[str, Any], purpose: Purpose = Purpose.ONBOARDING) -> Content:
    return LETTERS.render(name, context, purpose=purpose)


def a_directory(path: Path, **files: str) -> Path:
    for file, text in {
        "subject_txt": "Hello",
        "body_txt": "Hello",
        "body_mjml": "<mjml>\n<mj-body>\n<mj-section><mj-column>\n<mj-text>Hello</mj-text>\n"
        "</mj-column></mj-section>\n</mj-body>\n</mjml>",
        **files,
    }.items():
        (path / "note").mkdir(exist_ok=True)
        if text != "absent":
            (path / "note" / file.replace("_", ".")).write_text(text)
    return path


def problems_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as failure:
        Renderer(path)
    return failure.value.problems


# Every shipped letter


def test_the_promised_letters_are_there_and_the_layout_is_none() -> None:
    assert LETTERS.names() == {"welcome", "yoga-offer", "request-received", "request-declined"}


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_letter_renders_for_anybody_without_a_trace_of_what_is_missing(name: str, purpose: Purpose) -> None:
    content = render(name, {}, purpose)
    words = Page(content.html).words
    for part in (content.subject, content.text, words):
        assert part.strip()
        assert not re.search(r"None|undefined|\{\{|\{%| ,|\(\)|  [a-z]", part)
    assert "Hello," in content.text
    assert "Hello," in words


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("context", [{}, FULL], ids=["empty", "full"])
@pytest.mark.parametrize("name", SHIPPED)
def test_text_and_html_hold_the_same_links(name: str, context: Mapping[str, Any], purpose: Purpose) -> None:
    content = render(name, context, purpose)
    assert set(re.findall(r"https?://\S+", content.text)) == Page(content.html).links


@pytest.mark.parametrize("name", SHIPPED)
def test_a_promotional_letter_shows_the_way_out_and_the_postal_address_in_both_parts(name: str) -> None:
    content = render(name, FULL, Purpose.PROMOTIONAL)
    page = Page(content.html)
    assert FULL["unsubscribe_url"] in content.text
    assert FULL["unsubscribe_url"] in page.links
    assert FULL["postal_address"] in content.text
    assert FULL["postal_address"] in page.words


@pytest.mark.parametrize(
    ("purpose", "words"),
    [
        (Purpose.PROMOTIONAL, "No longer interested? Unsubscribe"),
        (Purpose.ONBOARDING, "Choose what you get, or unsubscribe"),
    ],
)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_letter_shows_the_way_out_in_words_that_fit_its_purpose(
    name: str, purpose: Purpose, words: str
) -> None:
    content = render(name, FULL, purpose)
    page = Page(content.html)
    assert content.text.endswith(f"{words}:\n{FULL['unsubscribe_url']}\n")
    assert FULL["unsubscribe_url"] in page.links
    assert f"{words}." in page.words


@pytest.mark.parametrize("name", SHIPPED)
def test_a_letter_without_a_way_out_does_not_speak_of_one(name: str) -> None:
    content = render(name, {**FULL, "unsubscribe_url": ""}, Purpose.ONBOARDING)
    assert "nsubscribe" not in content.text + content.html


@pytest.mark.parametrize("name", SHIPPED)
def test_a_letter_loads_nothing_from_anywhere(name: str) -> None:
    html = render(name, FULL, Purpose.PROMOTIONAL).html
    assert not re.search(r"@import|url\(|\bsrc=|<link|<img|<script|<iframe", html)
    assert len(html.encode()) < 100_000


@pytest.mark.parametrize("name", SHIPPED)
def test_a_letter_is_ready_for_dark_and_narrow_clients(name: str) -> None:
    html = render(name, FULL).html
    page = Page(html)
    metas = {attrs.get("name"): attrs.get("content") for tag, attrs in page.tags if tag == "meta"}
    assert metas["color-scheme"] == metas["supported-color-schemes"] == "light dark"
    assert "width=device-width" in str(metas["viewport"])
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media only screen and (max-width: 479px)" in html
    classes = {name for _, attrs in page.tags for name in (attrs.get("class") or "").split()}
    assert {"page", "card", "site", "heading", "words", "button", "footer"} <= classes


@pytest.mark.parametrize("name", SHIPPED)
def test_a_letter_says_what_it_is_before_it_is_opened(name: str) -> None:
    html = render(name, FULL).html
    assert re.search(r'<div style="display:none[^"]*">[^<]{20,}</div>', html)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("words", "ground"),
    [
        ("#2f2a25", "#ffffff"),
        ("#2f2a25", "#faf6ef"),
        ("#1d1915", "#ffffff"),
        ("#ffffff", "#1c6b58"),
        ("#1c6b58", "#f3efe8"),
        ("#665f55", "#f3efe8"),
        ("#e6e0d6", "#24221f"),
        ("#e6e0d6", "#302c27"),
        ("#f6f1e9", "#24221f"),
        ("#0e231c", "#7fd0b6"),
        ("#7fd0b6", "#171614"),
        ("#aea698", "#171614"),
    ],
)
def test_words_stand_out_from_their_ground_in_light_and_dark(words: str, ground: str) -> None:
    """WCAG 2 AA: 4.5 to 1."""
    layout = (DIRECTORY / "_layout" / "body.mjml").read_text()
    assert words in layout
    assert ground in layout
    dark, light = sorted((_luminance(words), _luminance(ground)))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


# What people write


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("purpose", Purpose)
def test_what_people_write_is_text_and_nothing_else(name: str, purpose: Purpose) -> None:
    people = dict.fromkeys(("member_name", "group_name", "site_name", "reason", "postal_address"), NASTY)
    content = render(name, {**FULL, **people, "matched": [NASTY, NASTY]}, purpose)
    plain = render(name, FULL, purpose)
    assert [tag for tag, _ in Page(content.html).tags] == [tag for tag, _ in Page(plain.html).tags]
    assert "49" not in Page(content.html).words
    assert "&lt;" not in content.text + content.subject


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_no_name_breaks_a_letter(name: str) -> None:
    context = {**FULL, "member_name": name, "group_name": name, "reason": name, "matched": [name]}
    for letter in SHIPPED:
        content = render(letter, context, Purpose.PROMOTIONAL)
        for part in (content.subject, content.text, content.html):
            part.encode()
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", part)
        assert "\n" not in content.subject
        assert 0 < len(content.subject) <= 200
        assert [tag for tag, _ in Page(content.html).tags].count("a") <= 3


def test_a_long_name_is_shortened() -> None:
    content = render("welcome", {"member_name": "Ana " * 1000, "group_name": "x" * 1000})
    assert len(content.subject) < 120
    assert "…" in content.text


@pytest.mark.parametrize(
    "name", ["Win at http://evil.example", "www.evil.example", "evil.example", "//evil", "a@b.example"]
)
def test_a_member_whose_name_is_a_link_is_greeted_without_it(name: str) -> None:
    content = render("welcome", {"member_name": name})
    assert "Hello," in content.text
    assert "evil" not in content.text + content.html


@pytest.mark.parametrize(
    "name", ["Ana", "J. R. Smith", "O'Neill-Müller", "דנה", "Фёдор", "王小明", "Mary Jane 🌞"]
)
def test_an_ordinary_name_is_used_as_it_is(name: str) -> None:
    content = render("welcome", {"member_name": name})
    assert f"Hello {name}," in content.text
    assert f"Hello {name}," in Page(content.html).words


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "https://a b", 'https://a"onclick="x', None]
)
def test_only_web_addresses_become_links(url: str | None) -> None:
    content = render("welcome", {"site_url": url})
    assert Page(content.html).links == set()


def test_the_reason_is_given_when_there_is_one() -> None:
    with_reason = render("request-declined", {"reason": "The group is full."})
    assert "The group is full." in with_reason.text
    assert "The group is full." in with_reason.html
    assert "reason" not in render("request-declined", {}).text


# Languages


@pytest.mark.parametrize(
    ("language", "direction"), [("he", "rtl"), ("ar-EG", "rtl"), ("fa", "rtl"), ("ur", "rtl"), ("de", "ltr")]
)
def test_a_letter_of_ones_own_reads_in_the_direction_of_its_language(
    tmp_path: Path, language: str, direction: str
) -> None:
    layout = tmp_path / "_layout"
    (layout / "words").mkdir(parents=True)
    (layout / "body.mjml").write_text((DIRECTORY / "_layout" / "body.mjml").read_text())
    words = (DIRECTORY / "_layout" / "words" / "en.toml").read_text()
    (layout / "words" / f"{language.partition('-')[0]}.toml").write_text(words)
    source = f'{{% extends "_layout/body.mjml" %}}{{% set language = "{language}" %}}'
    letters = Renderer(a_directory(tmp_path, body_mjml=source))
    html = letters.render("note", {}, purpose=Purpose.ONBOARDING, language="en").html
    root = dict(Page(html).tags)["html"]
    assert (str(root["lang"]).lower(), root["dir"]) == (language.lower(), direction)
    other = {"rtl": "ltr", "ltr": "rtl"}[direction]
    assert f"direction:{other}" not in html


# Templates of one's own


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    a_directory(tmp_path, **{file.replace(".", "_"): "absent"})
    assert problems_of(tmp_path) == (f"note/{file}: missing",)


@pytest.mark.parametrize(
    ("source", "where", "what"),
    [
        ("<mjml>\n<mj-body>\n{% if x %}", "note/body.mjml:3", "end of template"),
        ("<mjml>\n<mj-body>\n{{ nobody }}\n</mj-body></mjml>", "note/body.mjml:3", "'nobody' is undefined"),
        (
            "<mjml>\n<mj-body>\n<mj-section>\n</mj-body>\n</mjml>",
            "note/body.mjml:4",
            "</mj-body> closes nothing",
        ),
        ("<mjml>\n{% set a = 1 %}\n<mj-body>", "note/body.mjml:3", "never closed"),
        ("<mjml>\n<mj-body>\n<mj-buton>x</mj-buton></mj-body></mjml>", "note/body.mjml:3", "not an MJML tag"),
        ("hello", "note/body.mjml:1", "not MJML"),
        ("\n{% extends 'nothing' %}", "note/body.mjml:2", "no template 'nothing'"),
        ("\n{% if unsubscribe_url %}\n{{ nobody }}{% endif %}", "note/body.txt:3", "'nobody' is undefined"),
        ("\n\n{{ 1 / 0 }}", "note/body.mjml:3", "ZeroDivisionError"),
        ("\n{{ ''.__class__.__mro__ }}", "note/body.mjml:2", "unsafe"),
    ],
)
def test_a_mistake_in_a_template_is_named_with_file_and_line(
    tmp_path: Path, source: str, where: str, what: str
) -> None:
    file = where.partition("/")[2].partition(":")[0].replace(".", "_")
    [problem] = problems_of(a_directory(tmp_path, **{file: source}))
    assert problem.startswith(where + ":")
    assert what in problem


def test_a_mistake_in_the_layout_is_named_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "_layout").mkdir()
    (tmp_path / "_layout" / "body.txt").write_text("\n{% block %}")
    [problem] = problems_of(a_directory(tmp_path, body_txt='{% extends "_layout/body.txt" %}'))
    assert problem.startswith("_layout/body.txt:2:")


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    a_directory(tmp_path, subject_txt="  \n", body_txt="{{ a }}", body_mjml="{{ b }}")
    assert [problem.split(":")[0] for problem in problems_of(tmp_path)] == [
        "note/subject.txt",
        "note/body.txt",
        "note/body.mjml",
    ]


def test_a_file_that_is_not_utf_8_and_a_directory_without_letters_are_named(tmp_path: Path) -> None:
    assert "no letters here" in problems_of(tmp_path / "nowhere")[0]
    a_directory(tmp_path)
    (tmp_path / "note" / "body.txt").write_bytes(b"\xff")
    assert problems_of(tmp_path) == ("note/body.txt:1: not UTF-8",)


def test_a_value_of_ones_own_is_there_and_escaped_in_html_only(tmp_path: Path) -> None:
    letters = Renderer(
        a_directory(
            tmp_path,
            body_txt="{{ offer|default('') }}",
            body_mjml="<mjml><mj-body><mj-section><mj-column><mj-text>{{ offer|default('') }}</mj-text>"
            "</mj-column></mj-section></mj-body></mjml>",
        )
    )
    content = letters.render("note", {"offer": "<2 & more>"}, purpose=Purpose.ONBOARDING)
    assert content.text == "<2 & more>\n"
    assert "&lt;2 &amp; more&gt;" in content.html


def test_a_letter_that_fails_while_it_is_written_names_the_line_and_nobody(tmp_path: Path) -> None:
    source = "fine\n{% if offer is defined %}\n{{ offer[member_name] }}{% endif %}"
    letters = Renderer(a_directory(tmp_path, body_txt=source))
    with pytest.raises(PermanentError) as failure:
        letters.render("note", {"offer": {}, "member_name": "Ana"}, purpose=Purpose.ONBOARDING)
    assert "note/body.txt:3" in str(failure.value)
    assert "Ana" not in str(failure.value)


def test_a_letter_that_is_no_mjml_once_filled_in_fails_for_good_without_quoting_it(tmp_path: Path) -> None:
    source = (
        "<mjml><mj-body><mj-section><mj-column><mj-text>{{ offer|default('')|safe }}</mj-text>"
        "</mj-column></mj-section></mj-body></mjml>"
    )
    letters = Renderer(a_directory(tmp_path, body_mjml=source))
    with pytest.raises(PermanentError, match=r"note/body\.mjml") as failure:
        letters.render("note", {"offer": "<Ana"}, purpose=Purpose.ONBOARDING)
    assert "Ana" not in str(failure.value)


def test_an_unknown_letter_fails_for_good() -> None:
    with pytest.raises(PermanentError, match="no letter 'nothing'"):
        render("nothing", {})


def test_a_template_can_change_nothing_and_reach_nothing(tmp_path: Path) -> None:
    for source in (
        "{{ matched.append(1) }}",
        "{{ ().__class__.__bases__ }}",
        "{{ cycler.__init__.__globals__ }}",
    ):
        assert "body.txt:1" in problems_of(a_directory(tmp_path, body_txt=source))[0]
