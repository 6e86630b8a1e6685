"""How a letter reads: a folder `templates/email/<name>/` and a context become subject, text and HTML.

A letter is three Jinja templates: `subject.txt`, `body.txt`, and `body.mjml`, which then goes through MJML.
Folders that start with `_` are not letters but what letters share (`{% extends "_layout/body.mjml" %}`).

Every template may use these without a default, the worker hands them in as far as it knows them:

- `member_name`, `group_name`, `site_name`: "" when unknown. People write them: they arrive here as one line,
  bounded, without control characters, and a member's name that looks like a link is dropped;
- `site_url`, `unsubscribe_url`: "" unless http(s); the second is only there in promotional letters;
- `reason`: why a request was declined, "" when nobody said;
- `matched`: the words of an automation that met the answers, maybe none; `{{ matched|in_words }}` joins them;
- `postal_address`: "" when not set;
- `purpose`: "onboarding" or "promotional"; `language`: a BCP 47 tag. A letter written in one language says so
  with `{% set language = "he" %}` in its body.mjml, which also turns it right to left.

Whatever else an admin hands in is there by its own name and needs `|default(…)` in the template.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import mjml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.consent import Purpose
from core.errors import ConfigError, PermanentError

FILES = ("subject.txt", "body.txt", "body.mjml")
SUBJECT_CHARACTERS = 200  # far above what any client shows, far below what a header may hold

_BOUNDS = {"member_name": 60, "group_name": 100, "site_name": 100, "reason": 500, "postal_address": 500}
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {**dict.fromkeys(_BOUNDS, ""), "site_url": "", "unsubscribe_url": "", "matched": ()}
)
# Reaches the other side of every `{% if … %}` when the letters are tried out.
_EVERYTHING: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(_BOUNDS, "Ana"),
        **dict.fromkeys(("site_url", "unsubscribe_url"), "https://example.com/"),
        "matched": ("one", "two", "three"),
    }
)
_RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "iw", "ur", "yi"})
_LIKE_A_LINK = re.compile(r"//|@|www\.|\w\.\w{2,}", re.IGNORECASE)
_LINK = re.compile(r"https?://[^\s<>\"'`\\^{|}]+")
_UNWANTED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True)
class Content:
    """One letter as its reader will see it."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)


class Renderer:
    """All letters of one directory, compiled once. Raises ConfigError naming every mistake, file and line."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(directory),
            undefined=jinja2.StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".mjml"),
            auto_reload=False,
            cache_size=-1,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"direction": direction_of, "in_words": _in_words}
        self._letters: dict[str, tuple[jinja2.Template, ...]] = {}
        problems: list[str] = []
        folders = sorted(directory.iterdir()) if directory.is_dir() else []
        for folder in folders:
            if folder.is_dir() and not folder.name.startswith(("_", ".")):
                problems += self._load(folder.name)
        if not self._letters and not problems:
            problems.append(f"{directory}: no letters here (a letter is a folder with {', '.join(FILES)})")
        if problems:
            raise ConfigError("The letters cannot be used:", problems)

    def names(self) -> frozenset[str]:
        return frozenset(self._letters)

    def render(
        self, name: str, context: Mapping[str, Any], *, purpose: Purpose, language: str = "en"
    ) -> Content:
        """Raises PermanentError, naming template and line but nothing of the context."""
        if name not in self._letters:
            raise PermanentError(f"there is no letter {name!r}")
        values = _prepare(context, purpose, language)
        subject, text, source = (self._fill(template, values) for template in self._letters[name])
        subject = _one_line(subject, SUBJECT_CHARACTERS)
        if not subject:
            raise PermanentError(f"{name}/subject.txt: the subject is empty")
        try:
            html = _to_html(source)
        except ValueError as exc:
            # `exc` only says what MJML expected; the source around it may be somebody's name.
            raise PermanentError(f"{name}/body.mjml: not MJML once filled in ({exc})") from None
        return Content(subject=subject, text=_tidy(text), html=html)

    def _fill(self, template: jinja2.Template, values: Mapping[str, Any]) -> str:
        try:
            return template.render(values)
        except Exception as exc:  # noqa: BLE001 - templates are programs of their own, and may fail in any way
            where = self._where(exc, template)
            # Other messages may quote values of the context.
            plain = re.fullmatch(r"'\w+' is undefined", str(exc))
            raise PermanentError(f"{where}: {plain[0] if plain else type(exc).__name__}") from None

    def _load(self, name: str) -> list[str]:
        problems: list[str] = []
        templates: list[jinja2.Template] = []
        for file in FILES:
            try:
                templates.append(self._environment.get_template(f"{name}/{file}"))
            except jinja2.TemplateNotFound:
                problems.append(f"{name}/{file}: missing")
            except jinja2.TemplateSyntaxError as exc:
                problems.append(f"{exc.name}:{exc.lineno}: {exc.message}")
            except UnicodeDecodeError:
                problems.append(f"{name}/{file}:1: not UTF-8")
        for template in templates:
            problems += self._try(name, template, {}, Purpose.ONBOARDING) or self._try(
                name, template, _EVERYTHING, Purpose.PROMOTIONAL
            )
        if not problems:
            self._letters[name] = tuple(templates)
        return problems

    def _try(
        self, name: str, template: jinja2.Template, context: Mapping[str, Any], purpose: Purpose
    ) -> list[str]:
        try:
            filled = template.render(_prepare(context, purpose, "en"))
        except jinja2.TemplateSyntaxError as exc:  # of what the letter extends or includes
            return [f"{exc.name}:{exc.lineno}: {exc.message}"]
        except jinja2.TemplateNotFound as exc:
            return [f"{self._where(exc, template)}: there is no template {exc.name!r}"]
        except jinja2.UndefinedError as exc:
            return [f"{self._where(exc, template)}: {exc}; a value of your own needs a default"]
        except Exception as exc:  # noqa: BLE001 - as in _fill
            return [f"{self._where(exc, template)}: {type(exc).__name__}: {exc}"]
        if template.name == f"{name}/subject.txt":
            return [] if filled.strip() else [f"{template.name}:1: the subject is empty"]
        if template.name != f"{name}/body.mjml":
            return []
        source = (self._directory / name / "body.mjml").read_text(encoding="utf-8")
        try:
            html = _to_html(filled)
        except ValueError as exc:
            line, what = _unbalanced_tag(source) or (1, f"not MJML: {exc}")
            return [f"{template.name}:{line}: {what}"]
        return [
            f"{template.name}:{_line_of(tag, source)}: <{tag}> is not an MJML tag"
            for tag in sorted(set(re.findall(r"<(mj-[\w-]+)", html)))
        ]

    def _where(self, exc: BaseException, template: jinja2.Template) -> str:
        """The innermost template line of a traceback: Jinja puts the template's own lines there."""
        for frame in reversed(traceback.extract_tb(exc.__traceback__)):
            file = Path(frame.filename)
            if file.is_relative_to(self._directory):
                return f"{file.relative_to(self._directory).as_posix()}:{frame.lineno}"
        return f"{template.name}:1"


def direction_of(language: str) -> str:
    return "rtl" if language.partition("-")[0].lower() in _RIGHT_TO_LEFT else "ltr"


def _prepare(context: Mapping[str, Any], purpose: Purpose, language: str) -> dict[str, Any]:
    given = {key: _clean(value) for key, value in context.items() if value is not None}
    values = {**_DEFAULTS, **given, "purpose": str(purpose)}
    values["language"] = language if _LANGUAGE.fullmatch(language) else "en"
    for key, bound in _BOUNDS.items():
        values[key] = _one_line(str(values[key]), bound)
    if _LIKE_A_LINK.search(values["member_name"]):
        # Whoever signs up with a stranger's address could otherwise have us send their link there.
        values["member_name"] = ""
    for key in ("site_url", "unsubscribe_url"):
        values[key] = values[key] if _LINK.fullmatch(str(values[key])) else ""
    if purpose is not Purpose.PROMOTIONAL:
        values["unsubscribe_url"] = ""
    values["matched"] = [_one_line(str(word), 60) for word in list(values["matched"])[:20]]
    return values


def _clean(value: Any) -> Any:
    """Text, however deep, without what no letter should carry: control characters, lone surrogates,
    noncharacters, and the marks that turn the direction of everything after them."""
    if isinstance(value, str):
        return _UNWANTED.sub("", value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_clean(inner) for inner in value]
    return value


def _one_line(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"


def _in_words(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _tidy(text: str) -> str:
    """At most one empty line in a row, however the blocks of a template fell."""
    return re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n"


def _to_html(source: str) -> str:
    """Raises ValueError. Without `fonts`, a letter that names none would fetch one from a stranger's server."""
    return mjml.mjml2html(source, fonts={})


_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr", "area", "base", "col", "source"})
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


class _Tags(HTMLParser):
    """Finds the first tag that does not fit: MJML itself says that, but not where."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, int]] = []
        self.mistake: tuple[int, str] | None = None

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in _VOID:
            self.open.append((tag, self.getpos()[0]))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1][0] == tag:
            self.open.pop()
        elif self.mistake is None:
            expected = f"; <{self.open[-1][0]}> of line {self.open[-1][1]} is open" if self.open else ""
            self.mistake = (self.getpos()[0], f"</{tag}> closes nothing{expected}")


def _unbalanced_tag(source: str) -> tuple[int, str] | None:
    tags = _Tags()
    # Jinja's own parts are blanked out, line by line, so that the lines stay the author's.
    tags.feed(_JINJA.sub(lambda part: "\n" * part[0].count("\n"), source))
    tags.close()
    if tags.mistake is None and tags.open:
        tag, line = tags.open[-1]
        return line, f"<{tag}> is never closed"
    return tags.mistake


def _line_of(tag: str, source: str) -> int:
    return source[: max(source.find(f"<{tag}"), 0)].count("\n") + 1
