import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.toml_lines import Path, find_excess, find_lines

DOCUMENT = '''\
# a comment with key = "value" and [table]
title = "a # that is no comment" # and one = that is

[policy] # comment
"quoted \\"key\\"" = 1
'literal.key' = 2
dotted.inner . 'more' = { a = 1, b.c = [1, 2] }

[[automation]]
name = """
two lines, and [brackets] = "quoted" \\""" still
"""
literal = \'\'\'
'one' [x]
y = 1\'\'\'
on = [ # comment, with ]
  "a", "b", # "c"

  'd]',
  [1, [2,
   3]],
  { x = 1, y = "}" },
]
when = 1979-05-27 07:32:00.5
number = -1.5e3
[automation.answers]
any = ["x"]

[[automation]]
answers.any = [
  "y",
]
[[automation.nested.list]]
a = """"quotes" at the ends"""""
[[automation.nested.list]]
b = \'\'
[ "odd name" . x ]
c = true'''


def test_every_place_of_a_document_has_its_line():
    lines = find_lines(DOCUMENT)
    expected: dict[Path, int] = {
        ("title",): 2,
        ("policy",): 4,
        ("policy", 'quoted "key"'): 5,
        ("policy", "literal.key"): 6,
        ("policy", "dotted"): 7,
        ("policy", "dotted", "inner"): 7,
        ("policy", "dotted", "inner", "more"): 7,
        ("policy", "dotted", "inner", "more", "b", "c", 1): 7,
        ("automation",): 9,
        ("automation", 0): 9,
        ("automation", 0, "name"): 10,
        ("automation", 0, "literal"): 13,
        ("automation", 0, "on"): 16,
        ("automation", 0, "on", 0): 17,
        ("automation", 0, "on", 1): 17,
        ("automation", 0, "on", 2): 19,
        ("automation", 0, "on", 3): 20,
        ("automation", 0, "on", 3, 1): 20,
        ("automation", 0, "on", 3, 1, 1): 21,
        ("automation", 0, "on", 4, "y"): 22,
        ("automation", 0, "when"): 24,
        ("automation", 0, "number"): 25,
        ("automation", 0, "answers"): 26,
        ("automation", 0, "answers", "any", 0): 27,
        ("automation", 1): 29,
        ("automation", 1, "answers"): 30,
        ("automation", 1, "answers", "any"): 30,
        ("automation", 1, "answers", "any", 0): 31,
        ("automation", 1, "nested", "list", 0): 33,
        ("automation", 1, "nested", "list", 0, "a"): 34,
        ("automation", 1, "nested", "list", 1, "b"): 36,
        ("odd name",): 37,
        ("odd name", "x", "c"): 38,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert set(lines) == set(places(tomllib.loads(DOCUMENT)))


def test_windows_line_ends_count_once():
    assert find_lines("a = 1\r\nb = '''\r\n\r\n'''\r\nc = 2") == {("a",): 1, ("b",): 2, ("c",): 5}


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", " \t"])
def test_an_empty_document_has_no_places(text):
    assert find_lines(text) == {}


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place of what tomllib made of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


pieces = st.sampled_from(
    ["[", "]", "[[", "]]", "{", "}", "=", " = ", ",", ".", "\n", "\n", "#", '"', "'", '"""', "'''", "\\", " ",
     "a", "b", "c", "1", "-1.5", "true", "a = 1\n", "b = [1,\n2]\n", "[a]\n", "[[a]]\n", "[a.b]\n", "[[a.b]]\n",
     "a.b = 'x'\n", "c = {a = 1, b = [2]}\n", 'd = """\n"""\n', "1979-05-27 07:32:00\n", "'k' = \"\\\"\"\n"]
)  # fmt: skip


@given(st.lists(pieces, max_size=14).map("".join) | st.text(max_size=30).map('a = """{}"""\nb = 1'.format))
@example('a = """""""" # six and two')
@example("""a = [\"\"\"b\"\"\"\", "c"]\nd = ["\'\'\'e\'\'\'\'", "f"]""")
@example("a.b.c = 1\na.b.d = 2\n[x]\n[x.y]\n[[x.z]]\n")
def test_the_places_found_are_those_that_tomllib_finds(text):
    try:
        data = tomllib.loads(text)
    except ValueError:
        return
    assert set(find_lines(text)) == set(places(data))


keys = st.text(max_size=6)
values = st.recursive(
    st.text(max_size=8) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(keys, values, st.integers(0, 2)), max_size=6, unique_by=lambda item: item[0]))
def test_keys_are_found_on_the_lines_they_were_written_on(items):
    lines, expected = [], {}
    for key, value, gap in items:
        lines += [""] * gap
        expected[(key,)] = len(lines) + 1
        lines += f"{_toml(key)} = {_toml(value)} # '[".split("\n")
    found = find_lines("\n".join(lines))
    assert {path: line for path, line in found.items() if len(path) == 1} == expected


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return (
            '"'
            + "".join(f"\\U{ord(letter):08x}" if not letter.isalnum() else letter for letter in value)
            + '"'
        )
    if isinstance(value, list):
        return "[" + ",\n".join(_toml(inner) for inner in value) + "]"
    return str(value).lower()


@pytest.mark.parametrize(
    "text",
    [
        'x = "a.b.c.d.e.f.g.h.i.j.k"',
        "[a.b.c.d.e.f.g.h.i]",
        "x = 1.5 # a.b.c.d.e.f.g.h.i.j",
        'x = ["a.b", "c......"]',
    ],
)
def test_dots_that_stand_in_words_are_none_of_a_key(text: str):
    assert find_excess(text) == ""


def test_a_key_of_many_dots_is_named_by_its_line():
    assert find_excess("x = 1\n" + "a." * 9 + "a = 1") == "line 2: a key has more than 8 dots"
