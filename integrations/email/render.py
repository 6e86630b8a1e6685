"""How a letter reads: a folder `templates/email/<name>/` and a context become subject, text and HTML.

A letter is three Jinja templates: `subject.txt`, `body.txt`, and `body.mjml`, which then goes through MJML. They are
in the language that body.mjml names with `{% set language = "he" %}`, in English if it names none. A folder below,
named by a BCP 47 tag (`<name>/de/`), holds the same three files in that language; no letter mixes the two.
Folders that start with `_` are not letters but what letters share (`{% extends "_layout/body.mjml" %}`); the layout's
own words are in `_layout/words/<tag>.toml`.

Every template may use these without a default, the worker hands them in as far as it knows them:

- `member_name`, `group_name`, `site_name`: "" when unknown. People write them: they arrive here as one line,
  bounded, without control characters, and a member's name that looks like a link is dropped;
- `site_url`, `unsubscribe_url`: "" unless http(s);
- `reason`: why a request was declined, "" when nobody said;
- `matched`: the words of an automation that met the answers, maybe none; `{{ matched|in_words }}` joins them;
- `postal_address`: "" when not set;
- `purpose`: "onboarding" or "promotional"; `language`: the tag of the language the letter is in; `words`: the
  layout's words in it, empty when there is no file of them.

`{{ group_name|bdi }}` keeps a name together, whatever the direction of the words around it.

Whatever else an admin hands in is there by its own name and needs `|default(…)` in the template.
"""

from __future__ import annotations

import hashlib
import marshal
import re
import time
import tomllib
import traceback
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import mjml
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from core.consent import Purpose
from core.errors import ConfigError, PermanentError
from integrations.cache import ExpiringCache
from integrations.email.moulds import LONGEST_LINK, PERSONAL, Mould, make_mould, shows_plainly

FILES = ("subject.txt", "body.txt", "body.mjml")
ENGLISH = "en"
SUBJECT_CHARACTERS = 200  # far above what any client shows, far below what a header may hold
LONGEST_PART = 1_000_000
"""Characters; a letter of a tenth of that is cut short by mailbox providers."""
MOST_TURNS = 10_000
"""How often all loops of one part together may go round."""
MOST_MOULDS = 64
MOULD_KEPT_S = 3600.0
_SEEN, _UNFIT = "seen once", "unfit"

SAMPLES: Mapping[str, Any] = MappingProxyType(
    {
        "member_name": "Ana",
        "group_name": "Morning Movers",
        "site_name": "Riverside Studio",
        "reason": "The group is full.",
        "postal_address": "1 Example Road, Exampletown",
        "site_url": "https://www.example.com/",
        "unsubscribe_url": "https://usher.example.com/unsubscribe/sample",
        "matched": ("yoga", "pilates", "tai chi"),
    }
)
"""What templates may use without a default, all of it there, as in the letter of somebody well known."""

LONGEST_NAME = 60
_BOUNDS = {"group_name": 100, "site_name": 100, "reason": 500, "postal_address": 500}
_DEFAULTS: Mapping[str, Any] = MappingProxyType({**dict.fromkeys(SAMPLES, ""), "matched": ()})
_RIGHT_TO_LEFT = frozenset({"ar", "dv", "fa", "he", "ps", "ur", "yi"})
_FORMER_TAGS = {"iw": "he", "in": "id", "ji": "yi"}  # as old Java still writes them
_LIKE_A_LINK = re.compile(r"//|@|www\.|\w\.\w{2,}", re.IGNORECASE)
_LINK = re.compile(r"https?://[^\s<>\"'`\\^{|}]+")
_UNWANTED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)
_LANGUAGE = re.compile(
    r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*(-[a-wyz0-9](-[a-z0-9]{2,8})+)*"
)
"""A lower-case language tag without private use (RFC 5646, section 2.1)."""


@dataclass(frozen=True, slots=True)
class Content:
    """One letter as its reader will see it."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    language: str = ENGLISH
    """The BCP 47 tag, in lower case, of the language it is in."""
    parts: tuple[bytes, bytes] | None = field(default=None, repr=False, compare=False)
    """Text and HTML as they go over the wire, where that is known already (parts.py)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a letter. `severity`: "error" or "warning"; `file` is relative to the letters' folder."""

    severity: str
    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Filled:
    """The three files of a letter filled in, before anything is tidied or made HTML."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    mjml: str = field(repr=False)
    language: str
    place: str
    """Its folder."""


@dataclass(frozen=True, slots=True)
class _Letter:
    language: str
    """Of the letter's own folder."""
    variants: Mapping[str, tuple[jinja2.Template, ...]]


class _Environment(ImmutableSandboxedEnvironment):
    """Bounds what a slip in a template could cost: without it one `range` too many holds a worker for hours."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.plain: dict[str | None, tuple[str | None, ...] | None] = {}
        """By template: None unless it shows plainly what is personal (moulds.py); else the templates it rests on."""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"{operator} is for numbers of a letter's size")
        return super().call_binop(context, operator, left, right)

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        rests_on = tuple(meta.find_referenced_templates(source))
        self.plain[name] = rests_on if shows_plainly(source) else None
        for loop in source.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        source.set_environment(self)
        return super()._generate(source, name, filename, defer_init)


_turns_left: ContextVar[Iterator[int]] = ContextVar("turns_left")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    turns = _turns_left.get(iter(range(MOST_TURNS)))
    for item in items:
        if next(turns, None) is None:
            raise SecurityError(f"loops go round more than {MOST_TURNS} times")
        yield item


class Renderer:
    """All letters of one directory, compiled once. Raises ConfigError naming every mistake, file and line.

    With a list for `findings` the mistakes go there instead, and letters that have one are left out.
    """

    def __init__(self, directory: Path, findings: list[Finding] | None = None) -> None:
        self._directory = directory
        self._environment = _Environment(
            loader=jinja2.FileSystemLoader(directory),
            undefined=jinja2.StrictUndefined,
            autoescape=lambda name: name is not None and name.endswith(".mjml"),
            auto_reload=False,
            cache_size=-1,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "bdi": _bdi,
            "counted": _counted,
            "direction": direction_of,
            "in_words": _in_words,
        }
        self._letters: dict[str, _Letter] = {}
        self._moulds: ExpiringCache[tuple[Any, ...], Mould | str] = ExpiringCache(time.monotonic, MOST_MOULDS)
        self._values: dict[str, tuple[str, ...]] = {}
        self.words: dict[str, Mapping[str, Any]] = {}
        """What the layout says itself, by language."""
        mistakes = self._read_words()
        folders = sorted(directory.iterdir()) if directory.is_dir() else []
        for folder in folders:
            if folder.is_dir() and not folder.name.startswith(("_", ".")):
                mistakes += self._load(folder)
        if not self._letters and not mistakes:
            what = f"no letters here (a letter is a folder with {', '.join(FILES)})"
            mistakes.append(Finding("error", str(directory), None, what))
        layout = [folder for folder in folders if folder.is_dir() and folder.name.startswith("_")]
        self._fingerprints = {name: _digest([*layout, directory / name]) for name in self._letters}
        if findings is not None:
            findings += mistakes
        elif mistakes:
            raise ConfigError("The letters cannot be used:", [str(mistake) for mistake in mistakes])

    def names(self) -> frozenset[str]:
        return frozenset(self._letters)

    def fingerprint(self, name: str) -> str:
        """Another one when anything was changed in the letter or in the layout all letters share."""
        return self._fingerprints[name]

    def places(self, name: str) -> dict[str, str]:
        """The languages a letter is there in, and their folders: its own first, the others by name."""
        letter = self._letters[name]
        tags = (letter.language, *sorted(letter.variants.keys() - {letter.language}))
        return {tag: _folder_of(letter.variants[tag]) for tag in tags}

    def values_of(self, name: str) -> tuple[str, ...]:
        """Names of what a letter can be filled with beside what the worker knows, from all its languages, sorted."""
        if name not in self._values:
            known = {*SAMPLES, "purpose", "language", "words", *self._environment.globals}
            waiting = [
                f"{template.name}" for files in self._letters[name].variants.values() for template in files
            ]
            seen: set[str] = set()
            found: set[str] = set()
            while waiting:
                file = waiting.pop()
                if file not in seen:
                    seen.add(file)
                    parsed = self._environment.parse((self._directory / file).read_text(encoding="utf-8"))
                    found |= meta.find_undeclared_variables(parsed)
                    waiting += filter(None, meta.find_referenced_templates(parsed))
            self._values[name] = tuple(sorted(found - known))
        return self._values[name]

    def render(
        self,
        name: str,
        context: Mapping[str, Any],
        *,
        purpose: Purpose,
        language: str | Sequence[str] = ENGLISH,
    ) -> Content:
        """`language`: what the reader wishes for, the dearest first; a language that a letter is not there in leads
        to the wider one (pt-br, pt), then to the next wish, at last to that of the letter's own folder.

        Raises PermanentError, naming template and line but nothing of the context.
        """
        picked, templates = self._pick(name, language)
        mould = self._mould(templates, context, purpose, picked)
        if mould is not None:
            subject, text, html, parts = mould.fill(*_personal(context))
        else:
            subject, source, mjml = self._fill_all(templates, self._prepare(context, purpose, picked))
            text, html, parts = _tidy(source), _html_of(templates, mjml), None
        subject = _one_line(subject, SUBJECT_CHARACTERS)
        if not subject:
            raise PermanentError(f"{_folder_of(templates)}/subject.txt: the subject is empty")
        return Content(subject, text, html, picked, parts)

    def fill(
        self, name: str, context: Mapping[str, Any], *, purpose: Purpose, language: str | Sequence[str]
    ) -> Filled:
        """As render, but only what Jinja does."""
        picked, templates = self._pick(name, language)
        filled = self._fill_all(templates, self._prepare(context, purpose, picked))
        return Filled(*filled, picked, _folder_of(templates))

    def _pick(self, name: str, language: str | Sequence[str]) -> tuple[str, tuple[jinja2.Template, ...]]:
        letter = self._letters.get(name)
        if letter is None:
            raise PermanentError(f"there is no letter {name!r}")
        wishes = (language,) if isinstance(language, str) else language
        picked = next(filter(None, (_fitting(wish, letter.variants) for wish in wishes)), letter.language)
        return picked, letter.variants[picked]

    def _mould(
        self,
        templates: tuple[jinja2.Template, ...],
        context: Mapping[str, Any],
        purpose: Purpose,
        language: str,
    ) -> Mould | None:
        """From the second letter on in which all is the same but its reader. None: the slow way."""
        name, link = _personal(context)
        if not link.isascii() or len(link) > LONGEST_LINK:
            return None
        shared = {key: value for key, value in context.items() if key not in PERSONAL}
        try:
            digest = hashlib.sha256(marshal.dumps(shared, 0)).digest()
        except ValueError:  # no plain value, and who knows what it says the next time
            return None
        key = (_folder_of(templates), purpose, digest, bool(name), bool(link))
        known = self._moulds.get(key)
        if known is None:
            self._moulds.put(key, _SEEN, MOULD_KEPT_S)
        if known == _SEEN:
            known = self._make_mould(templates, self._prepare(context, purpose, language)) or _UNFIT
            self._moulds.put(key, known, MOULD_KEPT_S)
        return known if isinstance(known, Mould) else None

    def _make_mould(self, templates: tuple[jinja2.Template, ...], values: Mapping[str, Any]) -> Mould | None:
        if not all(self._is_plain(template.name) for template in templates):
            return None
        try:
            return make_mould(
                [values[key] for key in PERSONAL],
                lambda personal: self._fill_all(templates, {**values, **personal}),
                lambda text, source: (_tidy(text), _html_of(templates, source)),
            )
        except PermanentError:
            return None

    def _is_plain(self, name: str | None) -> bool:
        rests_on = self._environment.plain.get(name)
        return rests_on is not None and all(map(self._is_plain, rests_on))

    def _fill_all(
        self, templates: tuple[jinja2.Template, ...], values: Mapping[str, Any]
    ) -> tuple[str, str, str]:
        subject, text, source = (self._fill(template, values) for template in templates)
        return subject, text, source

    def _prepare(self, context: Mapping[str, Any], purpose: Purpose, language: str) -> dict[str, Any]:
        words = self.words.get(_fitting(language, self.words) or "", {})
        return _prepare(context, purpose) | {"language": language, "words": words}

    def _fill(self, template: jinja2.Template, values: Mapping[str, Any]) -> str:
        try:
            return _render(template, values)
        except Exception as exc:  # noqa: BLE001 - templates are programs of their own, and may fail in any way
            where = self._where(exc, template)
            # Other messages may quote values of the context.
            plain = re.fullmatch(r"'\w+' is undefined", str(exc))
            raise PermanentError(f"{where}: {plain[0] if plain else type(exc).__name__}") from None

    def _read_words(self) -> list[Finding]:
        mistakes = []
        for path in sorted((self._directory / "_layout" / "words").glob("*.toml")):
            file = path.relative_to(self._directory).as_posix()
            try:
                text = path.read_text(encoding="utf-8")
                self.words[_canonical(path.stem)] = tomllib.loads(text)
            except UnicodeDecodeError:
                mistakes.append(Finding("error", file, 1, "not UTF-8"))
            except tomllib.TOMLDecodeError as exc:
                at = re.search(r"at line (\d+)", str(exc))
                line = int(at[1]) if at else text.count("\n") + 1
                mistakes.append(Finding("error", file, line, f"not TOML: {exc}"))
        return mistakes

    def _load(self, folder: Path) -> list[Finding]:
        """One letter in all its languages; kept when none has a mistake."""
        language, mistakes = self._language_of(folder.name)
        places = {language: folder.name}
        for inner in sorted(folder.iterdir()):
            if not inner.is_dir() or inner.name.startswith(("_", ".")):
                continue
            place, tag = f"{folder.name}/{inner.name}", _canonical(inner.name)
            if not _LANGUAGE.fullmatch(tag):
                what = 'not a language tag, such as "de" or "pt-BR" (other folders begin with _)'
                mistakes.append(Finding("error", place, None, what))
            elif tag in places:
                what = f"the letter is in {tag!r} already: {places[tag]}"
                mistakes.append(Finding("error", place, None, what))
            else:
                places[tag] = place
        variants = {tag: self._load_variant(place, tag, mistakes) for tag, place in places.items()}
        if not mistakes:
            self._letters[folder.name] = _Letter(language, variants)
        return mistakes

    def _load_variant(
        self, place: str, language: str, mistakes: list[Finding]
    ) -> tuple[jinja2.Template, ...]:
        templates: list[jinja2.Template] = []
        for file in FILES:
            try:
                templates.append(self._environment.get_template(f"{place}/{file}"))
            except jinja2.TemplateNotFound:
                mistakes.append(Finding("error", f"{place}/{file}", None, "missing"))
            except jinja2.TemplateSyntaxError as exc:
                mistakes.append(_finding(f"{exc.name}:{exc.lineno}", exc.message))
            except UnicodeDecodeError:
                mistakes.append(Finding("error", f"{place}/{file}", 1, "not UTF-8"))
        for template in templates:
            mistakes += self._try(place, template, language, {}, Purpose.ONBOARDING) or self._try(
                place, template, language, SAMPLES, Purpose.PROMOTIONAL
            )
        return tuple(templates)

    def _language_of(self, place: str) -> tuple[str, list[Finding]]:
        """What `{% set language = "…" %}` in body.mjml says."""
        path = self._directory / place / "body.mjml"
        try:
            source = self._environment.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, jinja2.TemplateSyntaxError):
            return ENGLISH, []  # named when the file is loaded
        for node in source.find_all(nodes.Assign):
            if isinstance(node.target, nodes.Name) and node.target.name == "language":
                said = node.node.value if isinstance(node.node, nodes.Const) else None
                tag = _canonical(said) if isinstance(said, str) else ""
                if _LANGUAGE.fullmatch(tag):
                    return tag, []
                what = 'language must be a plain tag, such as "de" or "pt-BR"'
                return ENGLISH, [Finding("error", f"{place}/body.mjml", node.lineno, what)]
        return ENGLISH, []

    def _try(
        self,
        place: str,
        template: jinja2.Template,
        language: str,
        context: Mapping[str, Any],
        purpose: Purpose,
    ) -> list[Finding]:
        values = self._prepare(context, purpose, language)
        try:
            filled = _render(template, values)
        except jinja2.TemplateSyntaxError as exc:  # of what the letter extends or includes
            return [_finding(f"{exc.name}:{exc.lineno}", exc.message)]
        except jinja2.TemplateNotFound as exc:
            return [_finding(self._where(exc, template), f"there is no template {exc.name!r}")]
        except jinja2.UndefinedError as exc:
            what = f"{exc}; a value of your own needs a default"
            if not values["words"] and "'dict object' has no attribute" in str(exc):
                what = f"{exc}; {place} is in {language!r}, and there is no _layout/words/{language}.toml"
            return [_finding(self._where(exc, template), what)]
        except Exception as exc:  # noqa: BLE001 - as in _fill
            return [_finding(self._where(exc, template), f"{type(exc).__name__}: {exc}")]
        name = f"{template.name}"
        if name == f"{place}/subject.txt":
            return [] if filled.strip() else [Finding("error", name, 1, "the subject is empty")]
        if name != f"{place}/body.mjml":
            return []
        source = (self._directory / place / "body.mjml").read_text(encoding="utf-8")
        try:
            html = _to_html(filled)
        except ValueError as exc:
            line, what = _unbalanced_tag(source) or (1, f"not MJML: {exc}")
            return [Finding("error", name, line, what)]
        return [
            Finding("error", name, _line_of(tag, source), f"<{tag}> is not an MJML tag")
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


def _canonical(tag: str) -> str:
    first, dash, rest = tag.lower().replace("_", "-").partition("-")
    return _FORMER_TAGS.get(first, first) + dash + rest


def _fitting(wish: str, tags: Iterable[str]) -> str | None:
    """The tag to serve a wish with: its own, or a wider one (lookup, RFC 4647, section 3.4)."""
    subtags = _canonical(wish).split("-")
    while subtags:
        if "-".join(subtags) in tags:
            return "-".join(subtags)
        subtags.pop()
    return None


def _render(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    token = _turns_left.set(iter(range(MOST_TURNS)))
    try:
        filled = template.render(values)
    finally:
        _turns_left.reset(token)
    if len(filled) > LONGEST_PART:
        raise SecurityError(f"longer than {LONGEST_PART} characters")
    return filled


def _digest(folders: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _folder_of(variant: tuple[jinja2.Template, ...]) -> str:
    return str(variant[0].name).rpartition("/")[0]


def _finding(where: str, message: str | None) -> Finding:
    file, _, line = where.rpartition(":")
    return Finding("error", file, int(line), message or "")


def _prepare(context: Mapping[str, Any], purpose: Purpose) -> dict[str, Any]:
    given = {key: _clean(value) for key, value in context.items() if value is not None}
    values = {**_DEFAULTS, **given, "purpose": str(purpose)}
    for key, bound in _BOUNDS.items():
        values[key] = _one_line(str(values[key]), bound)
    values["site_url"] = _link(values["site_url"])
    values["matched"] = [_one_line(str(word), 60) for word in list(values["matched"])[:20]]
    return values | dict(zip(PERSONAL, _personal(context), strict=True))


def _personal(context: Mapping[str, Any]) -> tuple[str, str]:
    """What is shown of PERSONAL."""
    name, link = (_clean(context.get(key) or "") for key in PERSONAL)
    name = _one_line(str(name), LONGEST_NAME)
    if _LIKE_A_LINK.search(name):
        # Whoever signs up with a stranger's address could otherwise have us send their link there.
        name = ""
    return name, _link(link)


def _link(value: object) -> str:
    text = str(value)
    return text if _LINK.fullmatch(text) else ""


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


@jinja2.pass_context
def _bdi(context: Context, text: str) -> str:
    """Somebody's words set apart, so that neither they nor what stands around them turns the other about."""
    if not text:
        return ""
    if context.eval_ctx.autoescape:
        return Markup("<bdi>{}</bdi>").format(text)
    # A left-to-right letter goes without: some clients show the marks as boxes.
    return f"\u2068{text}\u2069" if direction_of(str(context.get("language", ""))) == "rtl" else text


@jinja2.pass_context
def _in_words(context: Context, words: Sequence[str]) -> str:
    """ "one, two and three", in the letter's language."""
    words = [str(word) for word in words if str(word)]
    if not words:
        return ""
    joint = str(context.get("words", {}).get("and", " and "))
    if joint[-1:].isalpha() and unicodedata.bidirectional(joint[-1]) != unicodedata.bidirectional(
        words[-1][0]
    ):
        joint += "-"  # the Hebrew "and" is one with its word, unless that is in another script
    *first, last = (_bdi(context, word) for word in words)
    glue = Markup if context.eval_ctx.autoescape else str
    return glue(joint).join(filter(None, (glue(", ").join(first), last)))


def _tidy(text: str) -> str:
    """At most one empty line in a row, however the blocks of a template fell."""
    return re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n"


def _html_of(templates: tuple[jinja2.Template, ...], source: str) -> str:
    try:
        return _to_html(source)
    except ValueError as exc:
        # `exc` only says what MJML expected; the source around it may be somebody's name.
        raise PermanentError(f"{_folder_of(templates)}/body.mjml: not MJML once filled in ({exc})") from None


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
