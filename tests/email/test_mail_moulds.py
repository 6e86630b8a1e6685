"""Letters from a mould are the letters of the slow way, to the byte; and what a mould could get wrong gets none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.header import Header
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mail_render import DIRECTORY, FULL, LETTERS, SHIPPED, a_directory

from core.consent import Purpose
from integrations.email import render
from integrations.email.message import _plain, _words, build_message
from integrations.email.render import Content, Renderer

LINK = "https://usher.example.com/unsubscribe/u"
NAMES = ("Bob", "Ana", "O'Neil & <b>", "אבי", "y" * 60, "=", "")
PAGE = """<mjml><mj-head>{head}</mj-head>
<mj-body><mj-section><mj-column><mj-text{attribute}>{text} {{{{ unsubscribe_url }}}}</mj-text></mj-column></mj-section>
</mj-body></mjml>"""


@contextmanager
def mjml_counted() -> Iterator[list[str]]:
    seen: list[str] = []
    real = render._to_html

    def to_html(source: str) -> str:
        seen.append(source)
        return real(source)

    with mock.patch.object(render, "_to_html", to_html):
        yield seen


def fast(letters: Renderer, name: str, context: dict[str, Any], purpose: Purpose, language: str) -> Content:
    """With a mould, if there can be one: it is made for the second letter that differs in its reader alone."""
    for number in range(2):
        other = {"member_name": f"Zo{number}" if context["member_name"] else ""}
        letters.render(name, {**context, **other}, purpose=purpose, language=language)
    return letters.render(name, context, purpose=purpose, language=language)


def slow(letters: Renderer, name: str, context: dict[str, Any], purpose: Purpose, language: str) -> Content:
    with mock.patch.object(Renderer, "_mould", return_value=None):
        return letters.render(name, context, purpose=purpose, language=language)


def as_bytes(content: Content, link: str) -> bytes:
    return build_message(
        content,
        sender="Us <us@example.com>",
        to="ana@example.com",
        message_id="<1@example.com>",
        date=datetime(2026, 11, 22, tzinfo=UTC),
        purpose=Purpose.ONBOARDING,
        unsubscribe_url=link,
    )


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize(
    ("name", "language"), [(name, language) for name in SHIPPED for language in LETTERS.places(name)]
)
def test_every_shipped_letter_is_cast_in_a_mould(name: str, language: str, purpose: Purpose) -> None:
    letters = Renderer(DIRECTORY)
    for number in range(2):
        letters.render(name, {**FULL, "member_name": f"m{number}"}, purpose=purpose, language=language)
    with mjml_counted() as seen:
        cast = letters.render(name, {**FULL, "member_name": "Cleo"}, purpose=purpose, language=language)
    assert seen == []
    assert cast == slow(letters, name, {**FULL, "member_name": "Cleo"}, purpose, language)


@settings(max_examples=300)
@given(
    letter=st.sampled_from([(name, language) for name in SHIPPED for language in LETTERS.places(name)]),
    name=st.text(max_size=80),
    link=st.one_of(
        st.just(""),
        st.text("abcXYZ019-_.~%?&=;#/", max_size=60).map(lambda path: f"{LINK}{path}"),
        st.text(max_size=20).map(lambda path: f"{LINK}{path}"),
    ),
    purpose=st.sampled_from(Purpose),
)
def test_a_letter_from_a_mould_is_the_letter_of_the_slow_way(
    letter: tuple[str, str], name: str, link: str, purpose: Purpose
) -> None:
    context = {**FULL, "member_name": name, "unsubscribe_url": link}
    cast = fast(LETTERS, letter[0], context, purpose, letter[1])
    made = slow(LETTERS, letter[0], context, purpose, letter[1])
    assert cast == made
    assert as_bytes(cast, LINK) == as_bytes(made, LINK)


@pytest.mark.parametrize(
    "text",
    [
        "{{ member_name|upper }}",
        "{{ member_name|length }}",
        "{{ member_name|truncate(5, true, '') }}",
        "{{ member_name[:1] }}",
        "{{ 'Sir Bob' if member_name == 'Bob' else 'you' }}",
        "{% if member_name == 'Bob' %}Sir {% endif %}{{ member_name }}",
        "{% if 'o' in member_name %}o{% endif %}",
        "{% set name = member_name %}{% if name == 'Bob' %}Sir{% endif %}",
        "{% set name %}{{ member_name }}{% endset %}{% if name == 'Bob' %}Sir{% endif %}",
        "{% macro call(name) %}{% if name == 'Bob' %}Sir{% endif %}{% endmacro %}{{ call(member_name) }}",
        "{% filter upper %}{{ member_name }}{% endfilter %}",
        "{% block b %}{{ member_name }}{% endblock %}{% if self.b() == 'Bob' %}Sir{% endif %}",
        "{% with name = member_name %}{{ name|reverse }}{% endwith %}",
        "{% autoescape false %}{{ member_name|replace('<', '') }}{% endautoescape %}",
        "{% for letter in member_name %}{{ letter }}-{% endfor %}",
        "{{ ['Bob', 'Eve']|random }}",
        "{{ {'Bob': 'Sir'}.get(member_name, '') }}",
        "{{ unsubscribe_url|urlencode }}",
        '<a title="{{ member_name }}">x</a>',
    ],
)
def test_a_template_that_does_more_than_show_a_name_takes_the_slow_way(tmp_path: Path, text: str) -> None:
    letters = Renderer(
        a_directory(tmp_path, body_mjml=PAGE.format(head="", attribute="", text=text)),
    )
    [name] = letters.names()
    for _ in range(3):
        letters.render(name, {"member_name": "Ana"}, purpose=Purpose.ONBOARDING)
    with mjml_counted() as seen:
        letters.render(name, {"member_name": "Bob"}, purpose=Purpose.ONBOARDING)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("head", "attribute"),
    [
        (
            "<mj-attributes><mj-class name='Bob' color='red' /></mj-attributes>",
            ' mj-class="{{ member_name }}"',
        ),
        ("<mj-style>.a { color: {{ member_name }} }</mj-style>", ""),
        ("", ' css-class="{{ member_name }}"'),
        ("", ' font-size="{{ member_name }}"'),
    ],
)
def test_a_name_that_mjml_itself_may_read_takes_the_slow_way(
    tmp_path: Path, head: str, attribute: str
) -> None:
    letters = Renderer(
        a_directory(tmp_path, body_mjml=PAGE.format(head=head, attribute=attribute, text="Hi"))
    )
    [name] = letters.names()
    for member in NAMES:
        context = {"member_name": member, "unsubscribe_url": LINK}
        assert fast(letters, name, context, Purpose.ONBOARDING, "en") == slow(
            letters, name, context, Purpose.ONBOARDING, "en"
        )


@pytest.mark.parametrize(
    "text",
    [
        "{{ member_name }}",
        "Hi {{ member_name|bdi }}, {{ 'dear ' ~ member_name }}",
        "{% if member_name %}Hi {{ member_name }}{% else %}Hi{% endif %}",
        "{{ member_name or 'you' }}{{ member_name|default('you', true) }}",
        "{{ 'Hi {name}'|replace('{name}', member_name|bdi) if not member_name else 'Hi' }}",
        "{{ member_name|e }}",
    ],
)
def test_whatever_a_template_says_its_letters_are_those_of_the_slow_way(tmp_path: Path, text: str) -> None:
    letters = Renderer(
        a_directory(
            tmp_path,
            body_mjml=PAGE.format(head="", attribute="", text=text),
            body_txt=f"{text}\n\n\n\n{text}",
            subject_txt=f"Hello {text}",
        )
    )
    [name] = letters.names()
    for member in NAMES:
        context = {"member_name": member, "unsubscribe_url": LINK}
        assert fast(letters, name, context, Purpose.ONBOARDING, "en") == slow(
            letters, name, context, Purpose.ONBOARDING, "en"
        )


def test_letters_that_differ_in_more_than_their_reader_each_say_their_own() -> None:
    letters = Renderer(DIRECTORY)
    for group in ("Runners", "Rowers"):
        for member in ("Ann", "Ben", "Cleo"):
            content = letters.render(
                "welcome", {**FULL, "group_name": group, "member_name": member}, purpose=Purpose.ONBOARDING
            )
            assert group in content.text
            assert member in content.text


def test_a_value_that_is_no_plain_one_is_asked_anew_for_each_letter(tmp_path: Path) -> None:
    letters = Renderer(a_directory(tmp_path, body_txt="{{ turn|default('') }}"))
    [name] = letters.names()

    class Turn:
        number = 0

        def __str__(self) -> str:
            self.number += 1
            return f"turn {self.number}"

    turn = Turn()
    said = [letters.render(name, {"turn": turn}, purpose=Purpose.ONBOARDING).text for _ in range(4)]
    assert said == [f"turn {number}\n" for number in range(1, 5)]


def test_however_many_kinds_of_letters_a_bounded_number_of_moulds_is_kept() -> None:
    letters = Renderer(DIRECTORY)
    for number in range(render.MOST_MOULDS + 10):
        for member in ("Ann", "Ben"):
            letters.render(
                "welcome", {"group_name": f"g{number}", "member_name": member}, purpose=Purpose.ONBOARDING
            )
    assert len(letters._moulds._entries) == render.MOST_MOULDS


@given(st.text("abc ,;=?.<>\"'()_&:/@\\0", max_size=100), st.sampled_from(("Subject", "From", "List-Id")))
def test_a_short_header_is_written_as_the_library_would(text: str, header: str) -> None:
    line = _plain(text)
    if "=?" not in line:
        folded = Header(line, "us-ascii", header_name=header, maxlinelen=78).encode(linesep="\r\n")
        assert _words(header, line) == folded
