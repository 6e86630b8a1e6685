"""The console's translations hold every text of the pages, and put what they are given where it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

from admin.console.words import CATALOGUES, LANGUAGES
from admin.processes import ROOT

KEYWORDS = {"_": None, "gettext": None, "N_": None, "ngettext": (1, 2)}


@pytest.fixture(scope="module")
def wanted() -> Catalog:
    with (CATALOGUES / "babel.cfg").open() as file:
        methods, options = parse_mapping_cfg(file)
    found = Catalog()
    for _file, _line, message, _comments, _context in extract_from_dir(
        ROOT, methods, options, keywords=KEYWORDS, directory_filter=lambda path: "/." not in path
    ):
        found.add(message)
    return found


def translated(language: str) -> Iterator[tuple[Message, str, str]]:
    """Each message with a text and what became of it."""
    with (CATALOGUES / f"{language}.po").open("rb") as file:
        for message in read_po(file, locale=language):
            if message.id:
                originals = message.id if isinstance(message.id, (tuple, list)) else (message.id,)
                for text in (
                    message.string if isinstance(message.string, (tuple, list)) else (message.string,)
                ):
                    yield message, originals[-1], text


@pytest.mark.parametrize("language", [tag for tag in LANGUAGES if tag != "en"])
def test_every_text_is_translated_and_none_is_left_over(wanted: Catalog, language: str):
    with (CATALOGUES / f"{language}.po").open("rb") as file:
        there = {message.id for message in read_po(file, locale=language) if message.id and message.string}
    asked = {message.id for message in wanted if message.id}
    assert asked - there == set()
    assert there - asked == set()


@pytest.mark.parametrize("language", [tag for tag in LANGUAGES if tag != "en"])
def test_a_translation_takes_what_its_original_takes(language: str):
    for message, original, text in translated(language):
        assert text, message.id
        names = set(re.findall(r"%\((\w+)\)s", original))
        assert set(re.findall(r"%\((\w+)\)s", text)) <= names | {"num"}, message.id
        assert names - {"num"} <= set(re.findall(r"%\((\w+)\)s", text)), message.id
        assert "%" not in re.sub(r"%\(\w+\)s|%%", "", text) or "%" in re.sub(r"%\(\w+\)s", "", original), text
