"""docs/standards.md is held to the tests: every line once, with tests that exist and run, or with a reason."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@dataclass(frozen=True)
class Line:
    """One row of the page. `words` is what stands in its last column beside tests."""

    number: int
    asks: str
    tests: tuple[tuple[str, str], ...]
    words: str


def lines_of(page: str) -> list[Line]:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    return [
        Line(
            int(number),
            asks,
            tuple(NAMED.findall(shown)),
            NAMED.sub("", shown).replace("<br>", " ").strip(),
        )
        for number, asks, shown in rows
    ]


LINES = lines_of((ROOT / "docs" / "standards.md").read_text(encoding="utf-8"))


@cache
def runnable(file: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The tests at the top of a file, without any that may be skipped or is meant to fail."""
    path = ROOT / file
    if not path.exists():
        return {}
    module = ast.parse(path.read_text(encoding="utf-8"))
    marks = [
        ast.unparse(node)
        for node in module.body
        if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)
    ]
    return {
        node.name: node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not may_not_run(*marks, *map(ast.unparse, node.decorator_list), ast.unparse(node))
    }


def may_not_run(*code: str) -> bool:
    return any(re.search(r"pytest\.(mark\.(skip|xfail|amqp)|skip\(|xfail\()", text) for text in code)


def test_every_line_of_the_standards_is_there_once() -> None:
    assert [line.number for line in LINES] == list(range(1, 57))


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line.number))
def test_a_line_has_tests_that_exist_and_run_or_a_reason(line: Line) -> None:
    assert [f"{file}::{name}" for file, name in line.tests if name not in runnable(file)] == []
    assert len(set(line.tests)) == len(line.tests)
    assert "`tests/" not in line.words, "a test is named as `tests/…/test_file.py::test_name`"
    if line.words.startswith("Not done: ") or not line.tests:
        reason = line.words.removeprefix("Not done: ")
        assert len(reason.split()) >= 6


def test_the_suite_and_the_page_say_the_same_of_each_line() -> None:
    """A test of tests/standards/ begins its docstring with the lines that it shows."""
    said: set[tuple[int, str, str]] = set()
    for path in sorted((ROOT / "tests" / "standards").glob("test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        for name, test in runnable(file).items():
            if begins := re.match(r"Lines? ((?:\d+|, | and )+)", ast.get_docstring(test) or ""):
                said |= {(int(number), file, name) for number in re.findall(r"\d+", begins[1])}
    listed = {
        (line.number, file, name) for line in LINES for file, name in line.tests if "/standards/" in file
    }

    assert said
    assert listed == said


@pytest.mark.parametrize(
    "code",
    [
        "@pytest.mark.skip\ndef test_a(): ...",
        "@pytest.mark.skipif(True, reason='x')\ndef test_a(): ...",
        "@pytest.mark.xfail\ndef test_a(): ...",
        "@pytest.mark.amqp\ndef test_a(): ...",
        "def test_a():\n    pytest.skip('not here')",
    ],
)
def test_a_test_that_may_not_run_shows_nothing(code: str) -> None:
    [function] = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)

    assert may_not_run(*map(ast.unparse, function.decorator_list), ast.unparse(function))
