"""Where in a TOML document a key stands. The standard library's reader gives values without positions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

LONGEST_TEXT = 128 * 1024
"""Characters of a text that is edited. Readers of TOML take quadratic time for some."""
MOST_DOTS = 8
"""In one key."""

Path = tuple[str | int, ...]
"""Keys and list positions from the top: ("automation", 0, "answers", "any", 2)."""

_PART = re.compile(
    r"""[ \t]+ | \#[^\n]*
    | (?P<part> \n
    | \"{3} (?:\\.|[^\\])*? \"{3,5} | '{3} .*? '{3,5}
    | " (?:\\.|[^"\\\n])* " | ' [^'\n]* '
    | [\[\]{}=,.]
    | [^\s\#\[\]{}=,."']+ )""",
    re.VERBOSE | re.DOTALL,
)

_DOTTED = re.compile(
    r"""(?:^|[{,])[ \t]*(?:\[{1,2}[ \t]*)?
    (?:(?:[A-Za-z0-9_-]+ | "(?:\\.|[^"\\\n])*" | '[^'\n]*')[ \t]*\.[ \t]*){"""
    f"{MOST_DOTS + 1}}}",
    re.VERBOSE | re.MULTILINE,
)


def find_excess(text: str) -> str:
    """Why a text that anybody may have sent is not to be given to a reader of TOML; "" when it may."""
    if len(text) > LONGEST_TEXT:
        return f"is longer than {LONGEST_TEXT // 1024} KB"
    if found := _DOTTED.search(text):
        line = text.count("\n", 0, found.end()) + 1
        return f"line {line}: a key has more than {MOST_DOTS} dots"
    return ""


def find_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and list element of a document that tomllib accepts.

    Raises RecursionError for values nested very deeply.
    """
    return _Document(text).lines


def find_headers(text: str) -> list[tuple[Path, int]]:
    """Every `[table]` and `[[table]]` of such a document in order, with its line (from 1)."""
    return _Document(text).headers


class _Document:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self.headers: list[tuple[Path, int]] = []
        self._tables: dict[Path, int] = {}  # [[arrays of tables]] -> how many so far
        self._parts = _parts(text.replace("\r\n", "\n"))
        self._part, self._line = next(self._parts)
        table: Path = ()
        while self._part:
            if self._part == "[":
                table = self._header()
            elif self._part != "\n":
                self._key_and_value(table)
            self._take()

    def _take(self) -> str:
        """Step to the next part and return the one left behind; "" is the end."""
        taken = self._part
        self._part, self._line = next(self._parts, ("", 0))
        return taken

    def _header(self) -> Path:
        line = self._line
        self._take()
        if is_array := self._part == "[":
            self._take()
        path: Path = ()
        keys = self._keys()
        for position, key in enumerate(keys, start=1):
            path += (key,)
            if is_array and position == len(keys):
                self._tables[path] = self._tables.get(path, 0) + 1
            self.lines.setdefault(path, line)
            if path in self._tables:
                path += (self._tables[path] - 1,)
                self.lines.setdefault(path, line)
        self.headers.append((path, line))
        self._skip_to("\n")
        return path

    def _key_and_value(self, path: Path) -> None:
        line = self._line
        for key in self._keys():
            path += (key,)
            self.lines.setdefault(path, line)
        self._take()  # =
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while self._part not in ("=", "]"):
            if (part := self._take()) != ".":
                keys.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
        return keys

    def _value(self, path: Path) -> None:
        closing = {"[": "]", "{": "}"}.get(self._part)
        if closing is None:
            self._skip_to("\n", ",", "]", "}")
            return
        is_list, count = self._take() == "[", 0
        while self._part != closing:
            if self._part in ("\n", ","):
                self._take()
            elif is_list:
                self.lines[*path, count] = self._line
                self._value((*path, count))
                count += 1
            else:
                self._key_and_value(path)
        self._take()

    def _skip_to(self, *ends: str) -> None:
        while self._part and self._part not in ends:
            self._take()


def _parts(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _PART.finditer(text):
        if part := match["part"]:
            yield part, line
            line += part.count("\n")
    yield "", line
