"""One page of the console: who asks for it, what they may, and how it is drawn.

A page is a line of a table, `Page`, as an operation of the API is; its act gets a Visit and may block.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

import jinja2
from itsdangerous import BadData, URLSafeTimedSerializer
from jinja2.ext import i18n
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from admin.console.entrance import Session, check_csrf, set_cookie
from admin.console.words import LANGUAGES, Words, choose_language, translations
from admin.office import ALL, DECIDERS, MANAGERS, OWNERS, READERS, Office
from admin.office.directory import Directory, Names, in_words
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.community import Group, Member, SiteId, is_plain
from core.errors import (
    AppError,
    IntegrationError,
    JournalUnavailableError,
    NotFoundError,
    NotThereError,
    RetryableError,
    WrongStateError,
)
from integrations.store.jobs import KeyReusedError
from integrations.store.tokens import Holder, Role

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "templates" / "console"
STATIC = Path(__file__).parent / "static"
PREFIX = "/admin"
SMALL_FORM = 256 * 1024
MOST_FIELDS = 5000
FORM_WITHIN_S = 30.0
SAID = "usher-said"
SAID_S = 60


@dataclass(frozen=True, slots=True)
class Page:
    """`path` is below /admin/s/{site}; `act` may block. Of a POST the form was read, and its CSRF token is right."""

    method: str
    path: str
    act: Callable[[Visit], Response]
    roles: frozenset[Role] = ALL
    form_bytes: int = SMALL_FORM


class Form:
    """What was filled in. Fields that were not sent are "". Files are read whole; their names are not to be trusted."""

    def __init__(
        self, fields: Iterable[tuple[str, str]] = (), files: Mapping[str, tuple[str, bytes]] = {}
    ) -> None:
        self._fields = list(fields)
        self._files = files

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self._fields if key == name), default)

    def getlist(self, name: str) -> list[str]:
        return [value for key, value in self._fields if key == name]

    def file(self, name: str) -> tuple[str, bytes] | None:
        """Its name and content."""
        return self._files.get(name)

    def items(self) -> list[tuple[str, str]]:
        return list(self._fields)

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self._fields)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What draws pages: one for a process."""

    office: Office
    names: Names
    said: URLSafeTimedSerializer
    room: str = ""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is in, about one site."""

    request: Request
    office: Office
    holder: Holder
    session: Session
    site: SiteId
    words: Words
    directory: Directory
    drawing: Drawing = field(repr=False)
    path: str = ""
    """Of the Page, as it stands in its table."""
    form: Form = field(default_factory=Form, repr=False)

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    @property
    def ids(self) -> Mapping[str, str]:
        return self.request.path_params

    @property
    def is_htmx(self) -> bool:
        return self.request.headers.get("hx-request") == "true"

    def may(self, *roles: str) -> bool:
        return self.holder.role in roles

    def url(self, path: str = "/", **query: object) -> str:
        """The address of a page of this site; what is None or "" is left out of the query."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        base = f"{PREFIX}/s/{quote(self.site, safe='')}{path}"
        return f"{base}?{urlencode(given, doseq=True)}" if given else base

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """A whole page; what was said by the act before it is shown once."""
        said = _read_said(self)
        response = HTMLResponse(
            _draw(self.words.language, template, self._context() | {"said": said} | context), status
        )
        if said is not None:
            set_cookie(response, self.request, SAID, "", in_frame=self.session.in_frame, max_age=0)
        return response

    def part(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """A piece of a page, for htmx."""
        return HTMLResponse(_draw(self.words.language, template, self._context() | context), status)

    def to(self, path: str, *, said: str = "", mood: str = "good", **query: object) -> Response:
        """See the other page, which shows what was said. `mood`: "good", "bad" or "plain"."""
        response = RedirectResponse(self.url(path, **query), 303)
        if said:
            value = self.drawing.said.dumps([mood, said[:1000]])
            assert isinstance(value, str)  # noqa: S101 (URL-safe, so it is text)
            set_cookie(response, self.request, SAID, value, in_frame=self.session.in_frame, max_age=SAID_S)
        return response

    def _context(self) -> dict[str, Any]:
        words = self.words
        return {
            "visit": self,
            "me": self.holder,
            "site": self.site,
            "site_name": self.directory.site().name,
            "room": "/" + self.path.strip("/").partition("/")[0],
            "url": self.url,
            "may": self.may,
            "csrf": self.session.csrf,
            "when": words.when,
            "ago": words.ago,
            "day": words.day,
            "number": words.number,
            "words": words,
            "language": words.language,
            "name_of": name_of,
            "in_frame": self.session.in_frame,
        }


def name_of(found: Member | Group | None) -> str:
    """What people call somebody or something; "" when that is not known."""
    match found:
        case Group():
            return found.name
        case Member():
            return f"{found.first_name} {found.last_name}".strip() or found.nickname
    return ""


def routes_of(pages: Iterable[Page], drawing: Drawing) -> list[Route]:
    by_path: dict[str, dict[str, Page]] = {}
    for page in pages:
        by_path.setdefault(page.path, {})[page.method] = page
    big = asyncio.Semaphore()
    return [
        Route(
            f"/s/{{site}}{path}",
            _endpoint(by_method, drawing, big),
            methods=list(by_method),
            max_body_size=max(page.form_bytes for page in by_method.values()),
        )
        for path, by_method in by_path.items()
    ]


def _endpoint(
    by_method: Mapping[str, Page], drawing: Drawing, big: asyncio.Semaphore
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        page = by_method["GET" if request.method == "HEAD" else request.method]

        async def answer() -> Response:
            try:
                form = await read_form(request, page.form_bytes) if page.method == "POST" else Form()
            except AppError as exc:
                return await run_in_threadpool(_trouble, request, exc)
            return await run_in_threadpool(_act, request, drawing, page, form)

        if page.form_bytes <= SMALL_FORM:
            return await answer()
        async with big:  # it costs some times its size of memory, in the process that also answers Wix
            return await answer()

    return endpoint


async def read_form(request: Request, most_bytes: int) -> Form:
    """Raises RefusedError."""
    try:
        async with asyncio.timeout(FORM_WITHIN_S):
            found: FormData = await request.form(
                max_files=3, max_fields=MOST_FIELDS, max_part_size=most_bytes
            )
            fields: list[tuple[str, str]] = []
            files: dict[str, tuple[str, bytes]] = {}
            for name, value in found.multi_items():
                if isinstance(value, UploadFile):
                    files[name] = (value.filename or "", await value.read())
                else:
                    fields.append((name, value.replace("\r\n", "\n")))
            await found.close()
    except TimeoutError as exc:
        raise RefusedError(f"the form did not come within {FORM_WITHIN_S:.0f} s", 408) from exc
    except ClientDisconnect as exc:
        raise RefusedError("the form did not come") from exc  # nobody is there to read it
    except HTTPException as exc:
        detail = f"the form may have at most {most_bytes} bytes" if exc.status_code == 413 else exc.detail
        raise RefusedError(detail, exc.status_code) from exc
    if any("\x00" in name + value for name, value in fields):
        raise RefusedError("the form holds the character U+0000, which no database keeps", 422)
    return Form(fields, files)


def _act(request: Request, drawing: Drawing, page: Page, form: Form) -> Response:
    try:
        visit = _visit(request, drawing, page, form)
    except AppError as exc:
        return _trouble(request, exc)
    try:
        if page.method == "POST":
            check_csrf(request, visit.session, form.get("csrf"))
        if visit.holder.role not in page.roles:
            raise RefusedError(N_("Your role does not open this page."), 403)
        return page.act(visit)
    except AppError as exc:
        return _show_error(visit, exc)
    except Exception as exc:  # noqa: BLE001 (whatever it is, the answer is a page of ours, dressed as all are)
        # Where it was, and not its words: what somebody typed may stand in them.
        trace = "".join(traceback.format_tb(exc.__traceback__))
        log.error("console.defect", extra={"page": page.path, "error": type(exc).__name__, "trace": trace})
        return _show(visit, 500, DEFECT, [])


def _visit(request: Request, drawing: Drawing, page: Page, form: Form) -> Visit:
    holder: Holder = request.state.holder
    session: Session = request.state.session
    if any("\x00" in text for text in (*request.path_params.values(), *request.query_params.values())):
        raise NotThereError(N_("This address leads nowhere."))  # PostgreSQL keeps no U+0000
    site = SiteId(request.path_params["site"])
    reach = holder.reach
    if not is_plain(site, 200) or (reach.sites is not None and site not in reach.sites):
        raise NotThereError(N_("There is no such site, or it is not yours to see."))
    if site not in drawing.office.sites.known([site]):
        raise NotThereError(N_("This site is not connected: Usher has not heard from it yet."))
    return Visit(
        request,
        drawing.office,
        holder,
        session,
        site,
        words_for(request, drawing.office, session.language, site),
        drawing.names.of(site, reach),
        drawing,
        page.path,
        form,
    )


def words_for(request: Request, office: Office, language: str, site: SiteId | None = None) -> Words:
    """In the site's time zone; without a site, and while its automations cannot be read, in the policy's."""
    automations = office.automations()
    policy = automations.policy_of(site) if site else automations.policy
    chosen = choose_language(language, request.headers.get("accept-language", ""))
    return Words(chosen, ZoneInfo(policy.time_zone), office.now())


_TITLES = {
    400: N_("That cannot be read"),
    403: N_("This is not for you to do"),
    404: N_("Nothing is here"),
    408: N_("It took too long"),
    409: N_("Not any more"),
    413: N_("That is too much"),
    422: N_("Something is not right yet"),
    429: N_("Too often"),
    500: N_("Something went wrong"),
    502: N_("Wix refused"),
    503: N_("Not now"),
}


DEFECT = N_(
    "Usher failed over this; its log says how. Look whether anything was changed before you try again."
)


def status_of(exc: AppError) -> int:
    match exc:
        case RefusedError():
            return exc.status
        case NotThereError() | NotFoundError():
            return 404
        case WrongStateError() | KeyReusedError():
            return 409
        case JournalUnavailableError() | RetryableError():
            return 503
        case IntegrationError():
            return 502
    raise exc


def sentence_of(exc: AppError) -> str:
    match exc:
        case JournalUnavailableError():
            return N_(
                "The database does not answer now. Nothing was changed, or nobody knows; look again in a minute."
            )
        case NotFoundError():
            return N_("Wix does not know this any more.")
        case IntegrationError():
            return in_words(exc)
    return str(exc)


def _show_error(visit: Visit, exc: AppError) -> Response:
    status = status_of(exc)
    if status >= 500:
        log.warning("console.trouble", extra={"status": status, "error": type(exc).__name__})
    return _show(visit, status, sentence_of(exc), exc.errors if isinstance(exc, RefusedError) else [])


def _show(visit: Visit, status: int, sentence: str, errors: Sequence[Mapping[str, str]]) -> Response:
    context = {
        "heading": visit.words.gettext(_TITLES.get(status, _TITLES[500])),
        "sentence": visit.words.gettext(sentence),
        "errors": errors,
    }
    if visit.is_htmx:
        return visit.part("trouble_part.html", status=status, **context)
    return visit.page("trouble.html", status=status, **context)


def _trouble(request: Request, exc: AppError) -> Response:
    """Without a Visit: the site is not theirs, or the database does not answer."""
    status = status_of(exc)
    language = choose_language(request.state.session.language, request.headers.get("accept-language", ""))
    text = translations(language).gettext
    return bare(
        request,
        "trouble_bare.html",
        status=status,
        language=language,
        heading=text(_TITLES.get(status, _TITLES[500])),
        sentence=text(sentence_of(exc)),
    )


def bare(
    request: Request, template: str, status: int = 200, *, language: str = "", **context: Any
) -> Response:
    """A page without a Visit: before somebody is in, or when they are nowhere."""
    chosen = choose_language(language, request.headers.get("accept-language", ""))
    return HTMLResponse(_draw(chosen, template, {"request": request, "language": chosen, **context}), status)


def _read_said(visit: Visit) -> tuple[str, str] | None:
    found = visit.request.cookies.get(SAID)
    if not found:
        return None
    try:
        mood, said = visit.drawing.said.loads(found, max_age=SAID_S)
    except (BadData, ValueError, TypeError):
        return None
    return (mood, said) if mood in ("good", "bad", "plain") and isinstance(said, str) else None


@functools.cache
def _files() -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(STATIC.iterdir()) if file.suffix in _MEDIA_TYPES}


_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@functools.cache
def static(name: str) -> str:
    """The address of a static file, which changes with what is in it."""
    tag = hashlib.sha256(_files()[name]).hexdigest()[:12]
    return f"{PREFIX}/static/{tag}/{name}"


def serve_static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _files() or request.url.path != static(name):
        return Response(status_code=404)
    return Response(
        _files()[name],
        media_type=_MEDIA_TYPES[Path(name).suffix],
        headers={"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"},
    )


@functools.cache
def _environment(language: str) -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[i18n],
    )
    catalogue = translations(language)
    found.install_gettext_callables(catalogue.gettext, catalogue.ngettext, newstyle=True)  # type: ignore[attr-defined] # the extension's
    roles = {"ALL": ALL, "DECIDERS": DECIDERS, "MANAGERS": MANAGERS, "OWNERS": OWNERS, "READERS": READERS}
    found.globals |= {"static": static, "languages": LANGUAGES, "direction_of": _direction_of, **roles}
    return found


def _direction_of(language: str) -> str:
    return "rtl" if language == "he" else "ltr"


def _draw(language: str, template: str, context: Mapping[str, Any]) -> str:
    return _environment(language).get_template(template).render(context)
