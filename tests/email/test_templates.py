"""Letters in the language of their reader, what the check finds in them, and attacks on the way they are written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.consent import Purpose
from core.errors import ConfigError, PermanentError
from integrations.email.lint import LARGE_HTML, LARGEST_HTML, LONG_SUBJECT, check_letters
from integrations.email.render import FILES, MOST_TURNS, SAMPLES, Content, Renderer

DIRECTORY = Path(__file__).parents[2] / "templates" / "email"
LETTERS = Renderer(DIRECTORY)
SHIPPED = sorted(LETTERS.names())
LANGUAGES = ("en", "de", "es", "fr", "he")
WORDS = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in (DIRECTORY / "_layout" / "words").glob("*.toml")
}

START = "https://www.example.com/start"
PREVIEW = "<mj-preview>Three ways to start.</mj-preview>"
WITHOUT_MISTAKE = {
    "subject.txt": "Welcome{% if group_name %} to {{ group_name }}{% endif %}\n",
    "body.txt": "Hello{% if member_name %} {{ member_name }}{% endif %},\n\nLook around:\n"
    f"{START}\n\n-- \n"
    "{{ postal_address }}\nStop: {{ unsubscribe_url }}\n",
    "body.mjml": f"<mjml>\n<mj-head>{PREVIEW}</mj-head>\n<mj-body>\n"
    "<mj-section><mj-column>\n"
    "<mj-text>Hello{% if member_name %} {{ member_name }}{% endif %},</mj-text>\n"
    f'<mj-button href="{START}">Look around</mj-button>\n'
    '<mj-image src="https://www.example.com/a.png" alt="A mat" />\n'
    '<mj-text>{{ postal_address }} <a href="{{ unsubscribe_url }}">Stop</a></mj-text>\n'
    "</mj-column></mj-section>\n</mj-body>\n</mjml>\n",
}


class Words(HTMLParser):
    """What a page says, and the tags it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] != "style":
            self.said += data


def write(directory: Path, files: Mapping[str, str], place: str = "note") -> Path:
    for file, text in files.items():
        (directory / place / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / place / file).write_text(text, encoding="utf-8")
    return directory


def render(letters: Renderer, name: str = "note", /, **context: Any) -> Content:
    return letters.render(name, context, purpose=Purpose.ONBOARDING)


def findings(directory: Path, purposes: Mapping[str, Sequence[Purpose]] | None = None) -> list[str]:
    return [f"{found.severity} {found}" for found in check_letters(directory, purposes)]


# Languages


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_letter_is_there_in_every_shipped_language(name: str) -> None:
    assert tuple(LETTERS.places(name)) == LANGUAGES
    assert WORDS.keys() == set(LANGUAGES)


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", SHIPPED)
def test_all_of_a_letter_is_in_its_language(name: str, language: str, purpose: Purpose) -> None:
    content = LETTERS.render(name, SAMPLES, purpose=purpose, language=language)
    page = Words(content.html)
    assert content.language == dict(page.tags)["html"]["lang"] == language
    own, others = WORDS[language], [words for tag, words in WORDS.items() if tag != language]
    for part in (content.text, page.said):
        assert own["greeting"].format(name="Ana") in re.sub("[\u2068\u2069]", "", part)
        for words in ("closing", purpose):
            mine = own[words] if isinstance(own[words], str) else own[words]["unsubscribe"]
            assert mine in part
            for other in others:
                theirs = other[words] if isinstance(other[words], str) else other[words]["unsubscribe"]
                assert theirs not in part


@pytest.mark.parametrize("name", SHIPPED)
def test_no_two_languages_share_a_subject(name: str) -> None:
    subjects = {
        LETTERS.render(name, SAMPLES, purpose=Purpose.ONBOARDING, language=language).subject
        for language in LANGUAGES
    }
    assert len(subjects) == len(LANGUAGES)


@pytest.mark.parametrize(
    ("wishes", "picked"),
    [
        ("de", "de"),
        ("DE-at", "de"),
        ("de_CH", "de"),
        ("pt-BR", "pt-br"),
        ("pt-br-x-old", "pt-br"),
        ("pt", "en"),
        ("zh-Hant-TW", "zh-hant"),
        ("iw", "he"),
        ("iw-IL", "he"),
        ("fr", "en"),
        ("", "en"),
        ('x"y', "en"),
        ("d", "en"),
        (["fr", "de"], "de"),
        (["fr-CA", "he", "de"], "he"),
        (["en-GB", "de"], "en"),
        (["fr", ""], "en"),
        ([], "en"),
    ],
)
def test_the_first_wish_that_can_be_served_is_served(
    tmp_path: Path, wishes: str | Sequence[str], picked: str
) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    for folder in ("de", "pt-BR", "zh-Hant", "he"):
        write(tmp_path, {**WITHOUT_MISTAKE, "subject.txt": folder}, f"note/{folder}")
    content = Renderer(tmp_path).render("note", {}, purpose=Purpose.ONBOARDING, language=wishes)
    assert (content.language, content.subject.lower()) == (picked, "welcome" if picked == "en" else picked)


def test_the_language_of_the_letters_own_folder_is_what_its_body_says(tmp_path: Path) -> None:
    source = "{% set language = 'he' %}\n" + WITHOUT_MISTAKE["body.mjml"]
    write(tmp_path, {**WITHOUT_MISTAKE, "body.mjml": source, "subject.txt": "{{ language }}"})
    write(tmp_path, {**WITHOUT_MISTAKE, "subject.txt": "{{ language }}"}, "note/en")
    letters = Renderer(tmp_path)
    subjects = [
        letters.render("note", {}, purpose=Purpose.ONBOARDING, language=wish).subject
        for wish in ("he", "fr", "en")
    ]
    assert subjects == ["he", "he", "en"]
    assert letters.places("note") == {"he": "note", "en": "note/en"}


@pytest.mark.parametrize("file", FILES)
def test_a_language_that_lacks_a_file_is_not_made_up_from_two(tmp_path: Path, file: str) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    write(tmp_path, {name: text for name, text in WITHOUT_MISTAKE.items() if name != file}, "note/de")
    with pytest.raises(ConfigError, match=re.escape(f"note/de/{file}: missing")):
        Renderer(tmp_path)


@pytest.mark.parametrize(
    ("folder", "mistake"),
    [
        ("german", "note/german: not a language tag"),
        ("pictures", "note/pictures: not a language tag"),
        ("de-", "note/de-: not a language tag"),
        ("en", "note/en: the letter is in 'en' already: note"),
    ],
)
def test_a_folder_that_is_no_language_of_its_own_is_named(tmp_path: Path, folder: str, mistake: str) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    write(tmp_path, WITHOUT_MISTAKE, f"note/{folder}")
    with pytest.raises(ConfigError, match=re.escape(mistake)):
        Renderer(tmp_path)


def test_folders_for_other_things_begin_with_an_underscore(tmp_path: Path) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    (tmp_path / "note" / "_drafts").mkdir()
    assert findings(tmp_path) == []


def test_a_language_without_words_for_the_layout_is_named_with_the_file_to_write(tmp_path: Path) -> None:
    write(tmp_path, {"body.txt": "{{ words.greeting }}{{ postal_address }}"}, "_layout")
    source = '{% extends "_layout/body.txt" %}'
    write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}, "note")
    write(tmp_path, {"en.toml": 'greeting = "Hello"'}, "_layout/words")
    write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}, "note/it")
    with pytest.raises(ConfigError) as failure:
        Renderer(tmp_path)
    [problem] = failure.value.problems
    assert problem.startswith("_layout/body.txt:1: ")
    assert problem.endswith("note/it is in 'it', and there is no _layout/words/it.toml")


def test_words_that_are_no_toml_or_lack_one_are_named(tmp_path: Path) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    write(
        tmp_path, {"de.toml": "a = 1\nb =", "fr.toml": "a = 1", "he.toml": "a = 1\nc.d = 2"}, "_layout/words"
    )
    broken, *lacking = findings(tmp_path)
    assert broken.startswith("error _layout/words/de.toml:2: not TOML")
    assert lacking == [
        f"error _layout/words/fr.toml: lacks {key}, which other languages have" for key in ("c", "c.d")
    ]


@pytest.mark.parametrize(
    ("language", "matched", "said"),
    [
        ("en", ["yoga"], "yoga"),
        ("en", ["yoga", "pilates"], "yoga and pilates"),
        ("de", ["yoga", "pilates", "tai chi"], "yoga, pilates und tai chi"),
        ("es", ["yoga", "pilates"], "yoga y pilates"),
        ("fr", ["yoga", "pilates"], "yoga et pilates"),
        ("he", ["יוגה", "פילאטיס"], "יוגה ופילאטיס"),
        ("he", ["יוגה", "pilates"], "יוגה ו-pilates"),
        ("he", ["יוגה", "", "3 שיעורים"], "יוגה ו-3 שיעורים"),
    ],
)
def test_what_was_matched_is_joined_in_the_letters_language(
    language: str, matched: list[str], said: str
) -> None:
    content = LETTERS.render(
        "yoga-offer", {"matched": matched}, purpose=Purpose.PROMOTIONAL, language=language
    )
    assert f" {said}" in re.sub("[\u2068\u2069]", "", content.text)
    assert f" {said}" in Words(content.html).said


# Right to left


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_hebrew_letter_is_laid_out_from_the_right(name: str, purpose: Purpose) -> None:
    content = LETTERS.render(name, SAMPLES, purpose=purpose, language="he-IL")
    tags = Words(content.html).tags
    assert dict(tags)["html"]["dir"] == "rtl"
    # Gmail throws <html> away and keeps what is inside the body.
    assert ("div", "rtl") in [(tag, attrs.get("dir")) for tag, attrs in tags]
    assert "direction:ltr" not in content.html
    assert 'align="left"' not in content.html
    assert "border-left" not in content.html


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", SHIPPED)
def test_what_people_write_is_set_apart_from_the_words_around_it(name: str, language: str) -> None:
    """A name that ends in a mark or in the other direction would else turn its neighbours about."""
    people = ("member_name", "group_name", "site_name", "reason", "postal_address")
    context = {**SAMPLES, **{key: f"{key}*" for key in people}, "matched": ["a*", "b*"]}
    content = LETTERS.render(name, context, purpose=Purpose.PROMOTIONAL, language=language)
    body = content.html[content.html.index('role="article"') :]
    assert body.count("*</bdi>") > 3
    assert re.findall(r"(?<!<bdi>)\b(?:member_name|group_name|site_name|reason|postal_address)\*", body) == []
    marked = re.findall("\u2068[^\u2068\u2069]+[*]\u2069", content.text)
    assert len(marked) == (content.text.count("*") if language == "he" else 0)


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_no_name_leaves_a_mark_of_direction_open(name: str) -> None:
    context = {**SAMPLES, "member_name": name, "group_name": name, "reason": name, "matched": [name]}
    for letter in SHIPPED:
        content = LETTERS.render(letter, context, purpose=Purpose.PROMOTIONAL, language="he")
        left = re.sub("\u2068[^\u2066-\u2069\u202a-\u202e]+\u2069", "", content.text)
        assert not re.search("[\u2066-\u2069\u202a-\u202e]", left + content.subject + content.html)


@pytest.mark.parametrize("name", SHIPPED)
def test_links_stand_on_a_line_of_their_own_in_the_text(name: str) -> None:
    """In a line of Hebrew a link's last slash would jump to its front."""
    for language in LANGUAGES:
        text = LETTERS.render(name, SAMPLES, purpose=Purpose.PROMOTIONAL, language=language).text
        assert [line for line in text.splitlines() if "//" in line and not line.startswith("https://")] == []


# The check


def test_a_letter_without_mistake_has_no_finding(tmp_path: Path) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    write(tmp_path, WITHOUT_MISTAKE, "note/de")
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "finding"),
    [
        # an empty name
        (
            "body.txt",
            "Hello{% if member_name %} {{ member_name }}{% endif %},",
            "Hello {{ member_name }},",
            "error note/body.txt:1: reads 'Hello ,' when member_name is empty",
        ),
        (
            "body.mjml",
            "Hello{% if member_name %} {{ member_name }}{% endif %},",
            "Hello {{ member_name }},",
            "error note/body.mjml:5: reads 'Hello ,' when member_name is empty",
        ),
        (
            "subject.txt",
            "{% if group_name %} to {{ group_name }}{% endif %}",
            " to {{ group_name }}",
            "error note/subject.txt:1: reads 'Welcome to ' when group_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "Welcome to {{ group_name }}.",
            "error note/body.txt:3: reads 'Welcome to .' when group_name is empty",
        ),
        (
            "body.mjml",
            "Look around<",
            "See {{ group_name }} now! At {{ site_name }}!<",
            "error note/body.mjml:6: reads 'See Morning Movers now! At !' when site_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "In {{ group_name }} you are welcome",
            "error note/body.txt:3: reads 'In  you are welcome' when group_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "{{ member_name }}, look around",
            "error note/body.txt:3: reads ', look around' when member_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "The group ({{ group_name }}) is yours",
            "error note/body.txt:3: reads 'The group () is yours' when group_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "{% if group_name %}{{ group_name }} at {{ site_name }}, hello{% endif %}.",
            "error note/body.txt:3: reads 'Morning Movers at , hello.' when site_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "See {{ group_name }}, now\nSee {{ site_name }}, now",
            "error note/body.txt:4: reads 'See , now' when site_name is empty",
        ),
        (
            "body.txt",
            "Look around:",
            "{% if group_name and not site_url %}{{ site_name }}, look{% endif %}.",
            "error note/body.txt:3: reads ', look.' when only group_name is known",
        ),
        # what is not there
        (
            "body.txt",
            "Look around:",
            "{{ nobody }}",
            "error note/body.txt:3: 'nobody' is undefined; a value of your own needs a default",
        ),
        (
            "body.txt",
            "Look around:",
            "{% if reason and not member_name %}{{ nobody }}{% endif %}",
            "error note/body.txt:3: 'nobody' is undefined when member_name is empty",
        ),
        ("body.txt", "Look around:", "{% if %}", "error note/body.txt:3: Expected an expression, got"),
        (
            "body.txt",
            "Look around:",
            "{ { member_name }}",
            "error note/body.txt:3: Jinja that was never filled in",
        ),
        ("body.mjml", "</mj-text>\n<mj-button", "\n<mj-button", "error note/body.mjml:"),
        (
            "subject.txt",
            WITHOUT_MISTAKE["subject.txt"],
            "{{ group_name or site_name }}",
            "error note/subject.txt:1: the subject is empty",
        ),
        (
            "subject.txt",
            WITHOUT_MISTAKE["subject.txt"],
            "{% if member_name or not reason %}Hi{% endif %}",
            "error note/subject.txt: the subject is empty when member_name is empty",
        ),
        (
            "body.txt",
            WITHOUT_MISTAKE["body.txt"],
            "{# later #}",
            "error note/body.txt: the text part is empty",
        ),
        # the way out
        (
            "body.txt",
            "{{ unsubscribe_url }}",
            "",
            "error note/body.txt: no link to {{ unsubscribe_url }} (promotional)",
        ),
        (
            "body.mjml",
            ' <a href="{{ unsubscribe_url }}">Stop</a>',
            " {{ unsubscribe_url }}",
            "error note/body.mjml: no link to {{ unsubscribe_url }} (promotional)",
        ),
        (
            "body.txt",
            "Stop: {{ unsubscribe_url }}",
            '{{ "Stop: " ~ unsubscribe_url if purpose == "promotional" }}',
            "warning note/body.txt: no link to {{ unsubscribe_url }} (onboarding)",
        ),
        (
            "body.txt",
            "{{ postal_address }}",
            "",
            "error note/body.txt: no {{ postal_address }} (promotional)",
        ),
        (
            "body.mjml",
            "{{ postal_address }} ",
            "",
            "error note/body.mjml: no {{ postal_address }} (promotional)",
        ),
        # links
        (
            "body.mjml",
            START,
            "{{ site_url }}",
            "error note/body.mjml:6: a link that leads nowhere: '' when site_url is empty",
        ),
        (
            "body.txt",
            START,
            "Nothing here",
            "error note/body.txt: lacks a link that the HTML has: https://www.example.com/start",
        ),
        (
            "body.txt",
            "Look around:",
            "Look: https://www.example.com/more.",
            "error note/body.mjml: lacks a link that the text has: https://www.example.com/more",
        ),
        # what mail programs do not like
        ("body.mjml", "Look around<", 80_000 * "a" + "<", "warning note/body.mjml: the HTML is 8"),
        ("body.mjml", "Look around<", 100_000 * "a" + "<", "error note/body.mjml: the HTML is 10"),
        (
            "body.mjml",
            "Hello{%",
            f"<script src='{START}'></script>{{%",
            "error note/body.mjml:5: <script> has",
        ),
        ("body.mjml", "Hello{%", f"<form action='{START}'></form>{{%", "error note/body.mjml:5: <form> has"),
        (
            "body.mjml",
            "Hello{%",
            f"<iframe src='{START}'></iframe>{{%",
            "error note/body.mjml:5: <iframe> has",
        ),
        ("body.mjml", ' alt="A mat"', "", "error note/body.mjml:7: an image without alt"),
        ("body.mjml", "Hello{%", f"<img src='{START}'>{{%", "error note/body.mjml:5: an image without alt"),
        ("body.mjml", PREVIEW, "", "warning note/body.mjml: no preview text"),
        ("body.mjml", "Three ways to start.", "{{ '' }}", "warning note/body.mjml: no preview text"),
        # subjects
        ("subject.txt", "Welcome", "W" + 80 * "e", "warning note/subject.txt: the subject has 99 characters"),
        ("subject.txt", "Welcome", "WELCOME", None),
        (
            "subject.txt",
            WITHOUT_MISTAKE["subject.txt"],
            "WELCOME {{ group_name or 'HERE' }}",
            "warning note/subject.txt: the subject is all in capitals",
        ),
        ("subject.txt", "Welcome", "Re: Welcome", "warning note/subject.txt: the subject pretends"),
        ("subject.txt", "Welcome", "FWD: Welcome", "warning note/subject.txt: the subject pretends"),
    ],
)
def test_the_check_finds(tmp_path: Path, file: str, old: str, new: str, finding: str | None) -> None:
    assert old in WITHOUT_MISTAKE[file]
    write(tmp_path, {**WITHOUT_MISTAKE, file: WITHOUT_MISTAKE[file].replace(old, new, 1)})
    found = findings(tmp_path)
    assert any(one.startswith(finding) for one in found) if finding else not found, found


@pytest.mark.parametrize(
    ("link", "finding"),
    [
        ("", "error note/body.mjml:6: a link that leads nowhere: ''"),
        ("/start", "error note/body.mjml:6: a link that leads nowhere from a letter (relative): '/start'"),
        ("www.example.com", "error note/body.mjml:6: a link that leads nowhere from a letter (relative)"),
        ("{site_url}", "error note/body.mjml:6: a link that leads nowhere from a letter (relative)"),
        ("https://www.example.com/a b", "error note/body.mjml:6: a link with a space in it"),
        ("http://localhost:8000/", "error note/body.mjml:6: a link to the reader's own machine"),
        ("https://127.0.0.1/", "error note/body.mjml:6: a link to the reader's own machine"),
        ("https://intranet/", "error note/body.mjml:6: a link to no place on the internet"),
        ("https://", "error note/body.mjml:6: a link to no place on the internet"),
        ("https://[::1", "error note/body.mjml:6: not a link"),
        ("javascript:alert(1)", "error note/body.mjml:6: neither a web page nor an address"),
        ("ftp://www.example.com/", "error note/body.mjml:6: neither a web page nor an address"),
        ("mailto:", "error note/body.mjml:6: no address to write to"),
        ("mailto:ana", "error note/body.mjml:6: no address to write to"),
        ("http://www.example.com/start", "warning note/body.mjml:6: a link without encryption (http)"),
        ("mailto:ana@example.com?subject=yes", None),
        ("HTTPS://www.example.com/start?a=1&amp;b=2#c", None),
    ],
)
def test_a_broken_link_is_found(tmp_path: Path, link: str, finding: str | None) -> None:
    plain = link.replace("&amp;", "&")
    html = WITHOUT_MISTAKE["body.mjml"].replace(START, link)
    text = WITHOUT_MISTAKE["body.txt"].replace(START, plain)
    found = findings(write(tmp_path, {**WITHOUT_MISTAKE, "body.mjml": html, "body.txt": text}))
    assert any(one.startswith(finding) for one in found) if finding else not found, found


@pytest.mark.parametrize(
    "text",
    [
        "Dear   member of a table, {{ group_name or 'here' }} it is",
        "A smile :) for {{ group_name or 'you' }}",
        "We use .NET always, {{ member_name or 'you' }} too",
        "1 . 2",
        "More is at https://www.example.com/start.",
        "mailto and https are words, {{ member_name or 'dear' }}",
    ],
)
def test_the_check_leaves_what_was_meant_alone(tmp_path: Path, text: str) -> None:
    source = WITHOUT_MISTAKE["body.txt"].replace("Look around:", text)
    assert findings(write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source})) == []


def test_french_keeps_its_space_before_the_high_marks(tmp_path: Path) -> None:
    source = WITHOUT_MISTAKE["body.txt"].replace("Look around:", "Bienvenue {{ member_name or 'ici' }} !")
    write(tmp_path, WITHOUT_MISTAKE)
    write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}, "note/fr")
    write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}, "note/de")
    found = findings(tmp_path)
    assert len(found) == 1
    assert found[0].startswith("error note/de/body.txt:3: reads 'Bienvenue ici !'")


def test_a_mistake_in_the_layout_is_found_once_and_where_it_is(tmp_path: Path) -> None:
    source = WITHOUT_MISTAKE["body.txt"].replace("Look around", "{{ site_name }}, look around")
    write(tmp_path, {"body.txt": source}, "_layout")
    for name in ("one", "two"):
        write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": '{% extends "_layout/body.txt" %}'}, name)
    assert findings(tmp_path) == ["error _layout/body.txt:3: reads ', look around:' when site_name is empty"]


def test_a_letter_is_checked_for_the_purposes_it_is_used_for(tmp_path: Path) -> None:
    lacking = {
        **WITHOUT_MISTAKE,
        "body.txt": WITHOUT_MISTAKE["body.txt"].replace("{{ postal_address }}", ""),
    }
    write(tmp_path, lacking)
    assert findings(tmp_path, {"note": [Purpose.ONBOARDING]}) == []
    for purposes in ({"note": [Purpose.PROMOTIONAL]}, {"other": [Purpose.ONBOARDING]}, {}, None):
        assert findings(tmp_path, purposes) == ["error note/body.txt: no {{ postal_address }} (promotional)"]


def test_a_link_that_one_language_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path, WITHOUT_MISTAKE)
    changed = {file: text.replace("/start", "/anfang") for file, text in WITHOUT_MISTAKE.items()}
    write(tmp_path, changed, "note/de")
    assert findings(tmp_path) == [
        "warning note/body.mjml: lacks a link that the letter has in another language: https://www.example.com/anfang",
        "warning note/de/body.mjml: lacks a link that the letter has in another language: https://www.example.com/start",
    ]


def test_one_broken_letter_hides_nothing_of_the_others(tmp_path: Path) -> None:
    write(tmp_path, {**WITHOUT_MISTAKE, "subject.txt": "{{ nobody }}"}, "first")
    write(tmp_path, {**WITHOUT_MISTAKE, "subject.txt": "RE: hello"}, "second")
    assert [found.partition(": ")[0] for found in findings(tmp_path)] == [
        "error first/subject.txt:1",
        "warning second/subject.txt",
    ]


def test_a_directory_without_letters_is_an_error(tmp_path: Path) -> None:
    assert "no letters here" in findings(tmp_path / "nowhere")[0]


# Attacks


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ ''|attr('__class__') }}",
        "{{ ['x']|map(attribute='__class__')|join }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ lipsum.__globals__.os.popen('id') }}",
        "{{ matched.append('x') }}",
        "{{ words.update(a=1) }}",
        "{{ words.clear() }}",
        "{{ '{0.__class__}'.format(purpose) }}",
        "{{ '{x.__class__}'.format_map({'x': purpose}) }}",
        "{{ ('{0.__class__}'|safe).format(purpose) }}",
        "{% include '../../../../etc/passwd' %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('id') }}",
        "{% include 'note/body.txt' %}",
        "{% macro round() %}{{ round() }}{% endmacro %}{{ round() }}",
    ],
)
def test_a_template_reaches_nothing_but_what_it_was_given(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError) as failure:
        Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}))
    assert failure.value.problems[0].startswith("note/body.txt:1: ")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(100001) %}{% endfor %}",
        "{% for a in range(90000) %}{% endfor %}",
        "{% for a in 'abc' %}{% for b in range(5000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{% for a in range(9000) %}{% endfor %}{% endmacro %}{{ m() }}{{ m() }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 'x' * 2000000 }}",
        "{{ [1] * 2000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'x'|center(2000000) }}",
    ],
)
def test_a_template_that_would_never_end_is_stopped(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match=r"note/body\.txt:1: (SecurityError|OverflowError)"):
        Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}))


def test_loops_of_an_ordinary_letter_are_counted_anew_for_each(tmp_path: Path) -> None:
    source = "{% for a in range(6000) %}{{ loop.index if loop.last }}{% else %}none{% endfor %} {{ 3 * 7 }}"
    letters = Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}))
    assert [render(letters).text for _ in range(3)] == 3 * ["6000 21\n"]


INJECTIONS = (
    "{{ 7*7 }}{% for a in b %}",
    "{{ ''.__class__ }}",
    "{# x",
    "{name}",
    "</mj-text><mj-raw><script>alert(1)</script></mj-raw>",
    "<mj-include path='/etc/passwd' />",
    "<!-- --><img src=x onerror=alert(1)>",
    "--></style><script>",
    "]]><b>",
    "&lt;b&gt; &#60;",
    "\"' onclick='x' \"",
    "a\r\nBcc: eve\r\n\r\n<b>",
    "a\u2028b\x85c\x0bd\x1c",
    "\u202etxet\u2066",
    "<bdi></bdi></bdi>",
)


@pytest.mark.parametrize("language", ["en", "he"])
@pytest.mark.parametrize("injection", INJECTIONS)
def test_what_people_write_stays_what_they_wrote(injection: str, language: str) -> None:
    people = dict.fromkeys(("member_name", "group_name", "site_name", "reason", "postal_address"), injection)
    for name in SHIPPED:
        plain, hostile = (
            LETTERS.render(name, {**SAMPLES, **values}, purpose=Purpose.PROMOTIONAL, language=language)
            for values in (
                {**dict.fromkeys(people, "Ana"), "matched": ["yoga"]},
                {**people, "matched": [injection]},
            )
        )
        assert Words(hostile.html).tags == Words(plain.html).tags
        assert hostile.subject.splitlines() == [hostile.subject]
        assert len(hostile.text.splitlines()) == len(plain.text.splitlines())
        kept = re.sub(r"[\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", "", injection)
        assert " ".join(kept.split()) in Words(hostile.html).said


def test_values_of_ones_own_are_cleaned_and_escaped_however_deep(tmp_path: Path) -> None:
    source = WITHOUT_MISTAKE["body.mjml"].replace(
        "Hello{%", "{% for row in rows|default([]) %}{{ row.cells[0].text }}{% endfor %}Hello{%"
    )
    letters = Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "body.mjml": source}))
    rows = [{"cells": ({"text": "<b>\u202e{{ 7*7 }}</mj-text>\x00"},)}]
    html = render(letters, rows=rows).html
    assert "&lt;b&gt;{{ 7*7 }}&lt;/mj-text&gt;Hello," in html


def test_a_context_cannot_stand_in_for_what_the_renderer_sets(tmp_path: Path) -> None:
    source = "{{ purpose }} {{ language }} {{ words }} {{ range(2)|list }}"
    letters = Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "subject.txt": source}))
    content = render(
        letters, purpose="promotional", language='"><b>', words={"and": "<b>"}, unsubscribe_url="javascript:x"
    )
    assert content.subject == "onboarding en {} [0, 1]"
    assert "javascript" not in content.text + content.html


def test_a_filter_of_direction_escapes_what_it_sets_apart(tmp_path: Path) -> None:
    source = WITHOUT_MISTAKE["body.mjml"].replace("Hello{%", "{{ offer|default('')|bdi }}Hello{%")
    letters = Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "body.mjml": source}))
    assert "<bdi>&lt;b&gt;</bdi>Hello" in render(letters, offer="<b>").html


def test_a_letter_that_loops_over_too_much_fails_for_good(tmp_path: Path) -> None:
    source = "{% for row in rows|default([]) %}{% for cell in rows %}{% endfor %}{% endfor %}fine"
    letters = Renderer(write(tmp_path, {**WITHOUT_MISTAKE, "body.txt": source}))
    assert render(letters, rows=list(range(90))).text == "fine\n"
    with pytest.raises(PermanentError, match=r"note/body\.txt:1: SecurityError"):
        render(letters, rows=list(range(110)))


# The document


def test_the_document_names_every_variable_and_no_other() -> None:
    text = (DIRECTORY.parents[1] / "docs" / "templates.md").read_text(encoding="utf-8")
    table = text.partition("## What a letter can say")[2].partition("\n\n")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(SAMPLES) | {"purpose", "language", "words"}


def test_the_document_names_every_shipped_language_and_bound() -> None:
    text = (DIRECTORY.parents[1] / "docs" / "templates.md").read_text(encoding="utf-8")
    [shipped] = re.findall(r"^Shipped are .*$", text, re.MULTILINE)
    assert ("en", *re.findall(r"\(`(\w+)`\)", shipped)) == LANGUAGES
    for bound in (
        f"{MOST_TURNS} turns",
        f"{LARGEST_HTML // 1000} kB:",
        f"{LARGE_HTML // 1000} kB on",
        f"above {LONG_SUBJECT} ",
    ):
        assert bound in text
