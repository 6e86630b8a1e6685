"""What would embarrass whoever sends a letter, found before it goes out: `usher templates check`.

Reads the files and tries every letter in every language, for every purpose, with everything known about its reader,
with each single thing unknown, with only that known, and with nothing. Fetches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.consent import Purpose
from core.errors import PermanentError
from integrations.email.render import FILES, SAMPLES, Content, Filled, Finding, Renderer

LARGEST_HTML = 100_000
"""Bytes. Gmail shows the first 102 kB of a letter and hides the rest, the way out included, behind a link."""
LARGE_HTML = 80_000
LONG_SUBJECT = 78

_ALWAYS_THERE = {
    Purpose.ONBOARDING: ("unsubscribe_url",),
    Purpose.PROMOTIONAL: ("unsubscribe_url", "postal_address"),
}
_UNWELCOME = frozenset({"script", "form", "iframe", "object", "embed", "applet"})
_BLOCKS = frozenset(
    {"p", "div", "td", "tr", "table", "br", "li", "ul", "ol", *(f"h{n}" for n in range(1, 7))}
)
_LINKS = re.compile(r"\b(?:[a-z][a-z0-9+.-]*://|mailto:)[^\s<>\"]*", re.IGNORECASE)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_LEFT_OVER = re.compile(r"\{\{|\}\}|\{%|%\}|\{ \{|\{#")
_SHARED = re.compile(r"\{%-?\s*(?:extends|include|import|from)\s+[\"']([^\"']+)[\"']")

# What a missing value leaves behind. French keeps a space before the high marks.
_AWKWARD = re.compile(
    r" [,.)](?=\s|$)|^\s*[,;:!?.](?=\s|$)|[,;:] ?[,;:.!?](?=\s|$)"
    r"|\(\s*\)|\[\s*\]|«\s*»|„\s*“|“\s*”|\"\"|(?<=\S) $"
)
_AWKWARD_UNLESS_FRENCH = re.compile(r" [;:!?](?=\s|$)")
_DOUBLED = re.compile(r"(?<!\S)\S+ {2,}(?=\S)")


def check_letters(
    directory: Path, purposes: Mapping[str, Collection[Purpose]] | None = None
) -> list[Finding]:
    """Every mistake in the letters of a directory, errors first. `purposes`: what letters are used for, by name; one
    that is not named there may be used for anything."""
    findings: list[Finding] = []
    letters = Renderer(directory, findings)
    findings += _check_words(letters)
    for name in sorted(letters.names()):
        for purpose in sorted((purposes or {}).get(name) or Purpose):
            findings += _check_letter(directory, letters, name, purpose)
        findings += _check_sources(directory, letters, name)
    first = {(found.file, found.line, found.message): found for found in reversed(findings)}
    return sorted(
        first.values(), key=lambda found: (found.severity, found.file, found.line or 0, found.message)
    )


@dataclass
class _Page(HTMLParser):
    """The parts of a page that a reader can stumble over."""

    html: str
    links: list[str] = field(default_factory=list)
    unwelcome: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    preview: str | None = None
    _unread: str = ""
    """The tag whose text nobody reads."""
    _in_preview: bool = False
    _line: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        self._break()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and "href" in given:
            self.links.append(given["href"] or "")
        if tag in _UNWELCOME:
            self.unwelcome.add(tag)
        if tag in ("style", "title", "script"):
            self._unread = tag
        if tag in _BLOCKS:
            self._break()
        if tag == "div" and self.preview is None:
            self._in_preview = "display:none" in (given.get("style") or "").replace(" ", "")
            self.preview = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unread:
            self._unread = ""
        if tag in _BLOCKS:
            self._in_preview = False
            self._break()

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self._line += data
        if self._in_preview:
            self.preview = (self.preview or "") + data

    def _break(self) -> None:
        # A line's own end is the author's layout, a blank at it is what a missing word leaves.
        line = re.sub(r"\s*\n\s*", "\n", self._line).strip("\n").replace("\n", " ").lstrip(" ")
        if line.strip():
            self.lines.append(re.sub(r"[ \t]{2,}", " ", line))
        self._line = ""


@dataclass(frozen=True)
class _Trial:
    """A letter as somebody would get it. `known` says what was known, for the finding."""

    known: str
    culprit: str
    """The value that is missing, or "" for several."""
    filled: Filled
    content: Content
    page: _Page

    def lines(self) -> Iterator[tuple[str, str]]:
        """Of each part, by its file: one line of it."""
        yield "subject.txt", self.filled.subject.strip("\n")
        for line in self.filled.text.splitlines():
            if line != "-- ":  # signatures begin so (RFC 3676, section 4.3)
                yield "body.txt", line
        for line in self.page.lines:
            yield "body.mjml", line


def _check_letter(directory: Path, letters: Renderer, name: str, purpose: Purpose) -> Iterator[Finding]:
    links: dict[str, set[str]] = {}
    for language, place in letters.places(name).items():
        trials: list[_Trial] = []
        tried: set[Filled] = set()
        for known, culprit, context in _contexts(purpose):
            try:
                filled = letters.fill(name, context, purpose=purpose, language=language)
                if filled in tried:
                    continue
                tried.add(filled)
                content = letters.render(name, context, purpose=purpose, language=language)
            except PermanentError as exc:
                yield _from_error(place, f"{exc}", known)
                continue
            trials.append(_Trial(known, culprit, filled, content, _Page(content.html)))
        if not trials or trials[0].known:
            continue  # not even with everything known: the error says it
        links[place] = set(trials[0].page.links)
        where = _Where(directory, place)
        yield from _check_whole(where, trials[0], purpose)
        largest = max(len(trial.content.html.encode()) for trial in trials)
        if largest >= LARGE_HTML:
            severity = "error" if largest > LARGEST_HTML else "warning"
            what = f"the HTML is {largest // 1000} kB; Gmail cuts letters off at 102 kB"
            yield Finding(severity, f"{place}/body.mjml", None, what)
        seen: set[tuple[str, str, str]] = set()
        for trial in trials:
            for found in _check_trial(where, trial, trials[0]):
                kind = (found.file.rpartition("/")[2], found.message.partition(" when ")[0])
                # The same words may be left by several values; other mistakes are told once.
                culprit = trial.culprit if kind[1].startswith("reads ") else ""
                if (*kind, culprit) not in seen:
                    seen |= {(*kind, culprit), (*kind, "")}
                    yield found
    everywhere = set[str]().union(*links.values())
    for place, own in links.items():
        for link in sorted(everywhere - own):
            what = f"lacks a link that the letter has in another language: {link}"
            yield Finding("warning", f"{place}/body.mjml", None, what)


def _contexts(purpose: Purpose) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is known, in words and as a context; everything first."""
    everything = dict(SAMPLES)
    always = {key: everything.pop(key) for key in _ALWAYS_THERE[purpose]}
    yield "", "", {**always, **everything}
    for key, value in everything.items():
        yield f"when {key} is empty", key, {**always, **everything, key: type(value)()}
    yield "when nothing is known", "", always
    for key, value in everything.items():
        yield f"when only {key} is known", "", {**always, key: value}


def _check_whole(where: _Where, trial: _Trial, purpose: Purpose) -> Iterator[Finding]:
    """What is asked of a letter of which everything is known."""
    subject, text, page = trial.content.subject, trial.content.text, trial.page
    if len(subject) > LONG_SUBJECT:
        what = f"the subject has {len(subject)} characters; clients show {LONG_SUBJECT} at best"
        yield where.warning("subject.txt", what)
    written = re.sub("|".join(map(re.escape, _texts(SAMPLES.values()))), "", subject)
    if sum(char.isalpha() for char in written) > 3 and written.isupper():
        yield where.warning("subject.txt", "the subject is all in capitals, as spam likes to be")
    if re.match(r"\s*(re|fwd?|aw|wg|tr|rv)\s*:", subject, re.IGNORECASE):
        yield where.warning("subject.txt", "the subject pretends to be an answer or forwarded")
    if not any(char.isalnum() for char in text):
        yield where.error("body.txt", "the text part is empty")
    if not page.preview or not page.preview.strip():
        yield where.warning(
            "body.mjml", "no preview text (<mj-preview>): clients show the first words instead"
        )
    must = "error" if purpose is Purpose.PROMOTIONAL else "warning"
    for file, words, linked in (
        ("body.txt", text, SAMPLES["unsubscribe_url"] in text),
        ("body.mjml", " ".join(page.lines), SAMPLES["unsubscribe_url"] in page.links),
    ):
        if not linked:
            yield Finding(
                must, f"{where.place}/{file}", None, f"no link to {{{{ unsubscribe_url }}}} ({purpose})"
            )
        if purpose is Purpose.PROMOTIONAL and SAMPLES["postal_address"] not in words:
            yield where.error(file, f"no {{{{ postal_address }}}} ({purpose})")
    for tag in sorted(page.unwelcome):
        yield where.error(
            "body.mjml", f"<{tag}> has no place in a letter: mail programs drop or block it", f"<{tag}"
        )


def _check_trial(where: _Where, trial: _Trial, whole: _Trial) -> Iterator[Finding]:
    intended = set(whole.lines())
    wide = {gap for file, line in intended if file != "body.mjml" for gap in _DOUBLED.findall(line)}
    french = trial.content.language.partition("-")[0] == "fr"
    known = f" {trial.known}" if trial.known else ""
    for file, line in trial.lines():
        if _LEFT_OVER.search(line):
            yield where.error(
                file, f"Jinja that was never filled in: {_short(line)}", _LEFT_OVER.findall(line)[0]
            )
        if not trial.known or (file, line) in intended:
            continue
        if (
            _AWKWARD.search(line)
            or (file != "body.mjml" and not wide.issuperset(_DOUBLED.findall(line)))
            or (not french and _AWKWARD_UNLESS_FRENCH.search(line))
        ):
            yield where.error(file, f"reads {_short(line)!r}{known}", trial.culprit or "{", like=line)
    text_links = set(_LINKS.findall(trial.content.text))
    html_links = set(trial.page.links)
    # A full stop after a link belongs to the sentence, unless the other part has it as well.
    text_links = {link if link in html_links else link.rstrip(".,;:!?)'”’»") for link in text_links}
    for file, links in (("body.txt", text_links), ("body.mjml", html_links)):
        for link in sorted(links):
            if broken := _what_is_wrong_with(link):
                severity, what = broken
                yield Finding(severity, *where.find(file, link or "href"), f"{what}: {link!r}{known}")
    for link in sorted(text_links - html_links):
        yield where.error("body.mjml", f"lacks a link that the text has: {link}{known}")
    for link in sorted(html_links - text_links - {""}):
        yield where.error("body.txt", f"lacks a link that the HTML has: {link}{known}")


def _what_is_wrong_with(link: str) -> tuple[str, str] | None:
    """Severity and mistake."""
    if not link.strip():
        return "error", "a link that leads nowhere"
    if re.search(r"\s", link.strip()) or link != link.strip():
        return "error", "a link with a space in it"
    try:
        parts = urlsplit(link)
        host = parts.hostname or ""
    except ValueError:
        return "error", "not a link"
    match parts.scheme.lower():
        case "mailto":
            return (
                None if re.fullmatch(r"[^@\s]+@[^@\s]+", parts.path) else ("error", "no address to write to")
            )
        case "http" | "https" if host == "localhost" or host.startswith(("127.", "0.0.0.0", "::1")):  # noqa: S104
            return "error", "a link to the reader's own machine"
        case "http" | "https" if "." not in host and ":" not in host:
            return "error", "a link to no place on the internet"
        case "https":
            return None
        case "http":
            return "warning", "a link without encryption (http)"
        case "":
            return "error", "a link that leads nowhere from a letter (relative)"
        case _:
            return "error", "neither a web page nor an address (http, https, mailto)"


@dataclass(frozen=True)
class _Where:
    """Finds the line that a finding is about: in the letter's own file or in what that extends."""

    directory: Path
    place: str

    def error(self, file: str, message: str, needle: str = "", like: str = "") -> Finding:
        return Finding("error", *self.find(file, needle, like), message)

    def warning(self, file: str, message: str) -> Finding:
        return Finding("warning", f"{self.place}/{file}", None, message)

    def find(self, file: str, needle: str, like: str = "") -> tuple[str, int | None]:
        """Where the needle stands; if in several lines, in the one most like what came of it."""
        held = [
            (name, number, _JINJA.sub("", line)[:200])
            for name in (_with_shared(self.directory, f"{self.place}/{file}") if needle else ())
            for number, line in enumerate(_read(self.directory, name).splitlines(), 1)
            if needle in line
        ]
        if not held:
            return f"{self.place}/{file}", None
        name, number, _ = max(held, key=lambda at: SequenceMatcher(None, at[2], like[:200]).ratio())
        return name, number


def _check_sources(directory: Path, letters: Renderer, name: str) -> Iterator[Finding]:
    """What can be told from the files alone, with its line."""
    for place in letters.places(name).values():
        for file in _with_shared(directory, f"{place}/{FILES[2]}"):
            source = _read(directory, file)
            plain = _JINJA.sub(lambda part: "x" + "\n" * part[0].count("\n"), source)
            for image in re.finditer(r"<(?:mj-image|img)\b[^>]*>", plain, re.IGNORECASE):
                if not re.search(r"\balt\s*=", image[0], re.IGNORECASE):
                    line = plain.count("\n", 0, image.start()) + 1
                    yield Finding("error", file, line, 'an image without alt (alt="" for mere decoration)')


def _check_words(letters: Renderer) -> Iterator[Finding]:
    keys = {tag: set(_keys(found)) for tag, found in letters.words.items()}
    everything = set[str]().union(*keys.values())
    for tag, own in sorted(keys.items()):
        for key in sorted(everything - own):
            yield Finding(
                "error", f"_layout/words/{tag}.toml", None, f"lacks {key}, which other languages have"
            )


def _keys(words: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in words.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _with_shared(directory: Path, file: str) -> list[str]:
    """A file and all that it extends, includes or imports, however deep."""
    files = [file]
    for found in files:  # grows meanwhile
        files += [shared for shared in _SHARED.findall(_read(directory, found)) if shared not in files]
    return files


def _read(directory: Path, file: str) -> str:
    path = directory / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _from_error(place: str, said: str, known: str) -> Finding:
    at = re.match(r"(.+?\.(?:txt|mjml))(?::(\d+))?: (.*)", said, re.DOTALL)
    file, line, what = (at[1], int(at[2]) if at[2] else None, at[3]) if at else (place, None, said)
    return Finding("error", file, line, f"{what} {known}".strip())


def _texts(values: Iterable[Any]) -> list[str]:
    return [text for value in values for text in ([value] if isinstance(value, str) else value)]


def _short(line: str) -> str:
    line = line.strip("\t")
    return line if len(line) <= 60 else f"{line[:28]} … {line[-28:]}"
