"""Who comes in to the console, and what every answer tells browsers.

Sessions live in the database. A browser holds 256 random bits in a cookie that comes back to this host alone
(`__Host-`); in the dashboard's frame in one that comes back in that frame alone (Partitioned), since browsers keep no
other cookie of a page in somebody else's frame.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import quote, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin.api.entrance import Limiter
from admin.console.words import choose_language
from admin.office import Office
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.errors import JournalUnavailableError
from integrations.store.users import LASTS, Entered
from integrations.wix.instance import InstanceError, read_instance

log = logging.getLogger(__name__)

PREFIX = "/admin"
COOKIE = "usher"
FRAME_COOKIE = "__Host-usher-frame"
LONGEST_SECRET = 100
LONGEST_NEXT = 1000

HEADERS = {
    "referrer-policy": "same-origin",  # an invitation's address is told to nobody
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-src 'self'; base-uri 'none'"
)
FRAMED_BY = "frame-ancestors 'self' https://*.wix.com"
FRAMED_BY_SANDBOX = " http://localhost:* http://127.0.0.1:*"

CLOSED = (
    N_("The console is closed"),
    N_(
        "ADMIN_TOKEN is not set, so nobody may come in. Set it in the environment or in .env, and start Usher again."
    ),
)
FOREIGN = (
    N_("This form is not ours"),
    N_("It was sent from another page. Go to the console, and fill it in there."),
)
AWAY = (N_("Not now"), N_("The database does not answer now. Look again in a minute."))
NOT_LET_IN = N_("Wix’s dashboard did not let you in")
NOT_FRAMED = N_("Open this page in the dashboard of Wix, where it stands in a frame.")


@dataclass(frozen=True, slots=True)
class Keys:
    """`secret_keys`: the one that signs comes first."""

    admin_token: str = field(repr=False)
    app_secret: str = field(repr=False)
    secret_keys: tuple[str, ...] = field(repr=False)
    public_url: str
    wix_api_url: str

    def sign(self, purpose: str, text: str) -> str:
        key, message = self.secret_keys[0].encode(), f"usher.console.{purpose} {text}".encode()
        return hmac.digest(key, message, hashlib.sha256).hex()

    @property
    def proof(self) -> str:
        """Of knowing ADMIN_TOKEN: another one ends the sessions of this one."""
        return self.sign("admin", self.admin_token)


@dataclass(frozen=True, slots=True)
class Session:
    """`kind`: "admin", "user" or "wix"; `csrf` stands in every form."""

    hash: str = field(repr=False)
    kind: str
    csrf: str = field(repr=False)
    language: str = ""
    in_frame: bool = False


class Entrance:
    """Lets people in, and puts `holder` and `session` into the request's state; everybody else sees what is open.

    Also there: `secure`, whether the browser came by https, `public_url`, and the `limiter`.
    """

    def __init__(self, app: ASGIApp, keys: Keys, office: Office, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter
        self._keys = keys
        self._office = office
        # The sandbox stands for Wix, its dashboard too, on whatever port of this machine.
        host = urlsplit(keys.wix_api_url).hostname or ""
        in_sandbox = host == "localhost" or _is(host, "is_loopback")
        self._framed_by = FRAMED_BY + FRAMED_BY_SANDBOX * in_sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        secure = _is_secure(scope, self._keys.public_url)
        state = {"secure": secure, "public_url": self._keys.public_url, "limiter": self._limiter}
        scope = {**scope, "state": {**scope.get("state", {}), **state}}
        path = scope["path"].removeprefix(scope.get("root_path", ""))

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._dress(MutableHeaders(scope=message), secure=secure)
            await send(message)

        if not path.startswith("/static/"):
            found = await run_in_threadpool(self._look, scope, path)
            if isinstance(found, Response):
                await found(scope, receive, dressed)
                return
            scope = found
        await self._app(scope, receive, dressed)

    def _dress(self, headers: MutableHeaders, *, secure: bool) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers.setdefault("cache-control", "no-store")
        # A page with a policy of its own, such as a letter's, keeps it: all policies of an answer hold.
        headers.setdefault("content-security-policy", POLICY)
        headers.append("content-security-policy", self._framed_by)
        if secure:
            headers["strict-transport-security"] = "max-age=31536000"

    def _look(self, scope: Scope, path: str) -> Response | Scope:
        """The answer, or with whom the request goes on."""
        request = Request(scope)
        if not self._keys.admin_token:
            return _instead(scope, 403, CLOSED)
        if request.method not in ("GET", "HEAD") and not _is_ours(request, self._keys.public_url):
            log.warning("console.foreign_form")
            return _instead(scope, 403, FOREIGN)
        try:
            entered = self._find(request)
            if "instance" in request.query_params and request.method == "GET":
                return self._welcome_viewer(scope, request, path, entered)
        except JournalUnavailableError as exc:
            log.error("console.database_away", extra={"error": str(exc)})
            return _instead(scope, 503, AWAY)
        if entered is not None:
            csrf = self._keys.sign("csrf", entered.hash)
            session = Session(entered.hash, entered.kind, csrf, entered.language, entered.kind == "wix")
            return {**scope, "state": scope["state"] | {"holder": entered.holder, "session": session}}
        if path in ("/login", "/logout") or path.startswith("/invitation/"):
            return scope
        return _to_login(scope, request)

    def _find(self, request: Request) -> Entered | None:
        """The session of this host's own cookie, or of the frame's: each has its cookie and no other."""
        for name in (_cookie_name(request), FRAME_COOKIE):
            shown = request.cookies.get(name, "")
            if shown and len(shown) <= LONGEST_SECRET:
                entered = self._office.users.find_session(shown, proof=self._keys.proof)
                if entered is not None and (entered.kind == "wix") == (name == FRAME_COOKIE):
                    return entered
        return None

    def _welcome_viewer(
        self, scope: Scope, request: Request, path: str, entered: Entered | None
    ) -> Response | Scope:
        """Who looks at a site's dashboard, signed by Wix, is a manager of that site. The instance does not stay in the
        address."""
        try:
            given = request.query_params.getlist("instance")
            # Whoever follows a link of somebody else's would work on that one's site, and not know.
            if "sec-fetch-dest" in request.headers and not is_framed(request):
                raise InstanceError(NOT_FRAMED)
            text = given[0] if len(given) == 1 else ""
            viewer = read_instance(text, self._keys.app_secret, self._office.now())
            sites = self._office.sites
            if viewer.site not in sites.known([viewer.site]) - sites.removed([viewer.site]):
                raise InstanceError(N_("Usher is not connected to this site, or not any more."))
        except InstanceError as exc:
            log.warning("console.instance_refused", extra={"reason": str(exc)})
            return _instead(scope, 403, (NOT_LET_IN, str(exc)))
        cookie = self._office.users.begin_session(
            "wix",
            viewer.uid,
            site=viewer.site,
            language=choose_language(request.query_params.get("locale", "")),
            instead_of=entered.hash if entered is not None and entered.kind == "wix" else "",
        )
        log.info("console.entered", extra={"kind": "wix", "who": viewer.uid, "site": viewer.site})
        here = f"/s/{quote(viewer.site, safe='')}/"
        response = RedirectResponse(PREFIX + (path if path.startswith(here) else here), 303)
        set_session(response, request, cookie or "", "wix")
        return response


def check_csrf(request: Request, session: Session, given: str) -> None:
    """`given` is the form's field `csrf`; a header `X-CSRF-Token` does as well. Raises RefusedError."""
    shown = given or request.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(shown.encode(), session.csrf.encode()):
        raise RefusedError(N_("This form is not ours, or it is too old: load the page again."), 403)


def set_cookie(
    response: Response,
    request: Request,
    name: str,
    value: str,
    *,
    in_frame: bool,
    max_age: int,
    path: str = PREFIX,
) -> None:
    """Written by hand: the standard library knows no Partitioned before Python 3.14."""
    if in_frame:
        kind = "; Secure; SameSite=None; Partitioned"
    else:
        kind = "; Secure; SameSite=Lax" if request.state.secure else "; SameSite=Lax"
    response.headers.append("set-cookie", f"{name}={value}; Path={path}; Max-Age={max_age}; HttpOnly{kind}")


def set_session(response: Response, request: Request, cookie: str, kind: str) -> None:
    name = FRAME_COOKIE if kind == "wix" else _cookie_name(request)
    lasts_s = int(LASTS[kind].total_seconds())
    set_cookie(response, request, name, cookie, in_frame=kind == "wix", max_age=lasts_s, path="/")


def forget_session(response: Response, request: Request, session: Session) -> None:
    """The cookie; the session itself is ended elsewhere."""
    name = FRAME_COOKIE if session.in_frame else _cookie_name(request)
    set_cookie(response, request, name, "", in_frame=session.in_frame, max_age=0, path="/")


def is_framed(request: Request) -> bool:
    """Whether the browser says that it shows this in a frame."""
    return request.headers.get("sec-fetch-dest") in ("iframe", "frame")


def safe_next(wanted: str) -> str:
    """A place in the console to go to after the login; its beginning for anything else. Browsers take `\\` for `/`."""
    inside = re.fullmatch(r"/admin/[!-~]*", wanted) and len(wanted) <= LONGEST_NEXT
    if not inside or "\\" in wanted or "//" in wanted or "/../" in wanted:
        return f"{PREFIX}/"
    return wanted


def _cookie_name(request: Request) -> str:
    """Only this host can set a cookie of the first name, and only over https (RFC 6265bis, section 4.1.3.2)."""
    return f"__Host-{COOKIE}" if request.state.secure else COOKIE


def _instead(scope: Scope, status: int, words: tuple[str, str]) -> Scope:
    """The request goes to a page that says why it goes no further."""
    return _elsewhere(scope, "/refused", refusal=(status, *words))


def _to_login(scope: Scope, request: Request) -> Response | Scope:
    if request.headers.get("hx-request") == "true":  # the page around the piece is what to come back to
        here = urlsplit(request.headers.get("hx-current-url", ""))
        next_ = safe_next(here.path + (f"?{here.query}" if here.query else ""))
        return Response(status_code=401, headers={"HX-Redirect": _login_url(next_)})
    if request.method not in ("GET", "HEAD"):
        return _elsewhere(scope, "/login", is_over=True)
    path = scope["path"]
    query = request.url.query
    return RedirectResponse(_login_url(safe_next(f"{path}?{query}" if query else path)), 303)


def _login_url(next_: str) -> str:
    return f"{PREFIX}/login" + (f"?{urlencode({'next': next_})}" if next_ != f"{PREFIX}/" else "")


def _elsewhere(scope: Scope, path: str, **state: object) -> Scope:
    whole = scope.get("root_path", "") + path
    return {
        **scope,
        "method": "GET",
        "path": whole,
        "raw_path": whole.encode(),
        "query_string": b"",
        "state": scope["state"] | state,
    }


def _is_ours(request: Request, public_url: str) -> bool:
    """Whether a page of this console sent it. Browsers say so themselves, old ones by the page's origin."""
    if said := request.headers.get("sec-fetch-site"):
        return said == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:  # no browser
        return True
    hosts = {request.headers.get("host", ""), urlsplit(public_url).netloc} - {""}
    return urlsplit(origin).netloc in hosts


def _is_secure(scope: Scope, public_url: str) -> bool:
    """Whether the browser came by https. A peer without a public address is a proxy, and says what it was asked by."""
    if public_url.startswith("https:") or scope["scheme"] == "https":
        return True
    peer = scope.get("client")
    forwarded = Request(scope).headers.getlist("x-forwarded-proto")
    said = ",".join(forwarded).rpartition(",")[2].strip().lower()
    return said == "https" and (peer is None or not _is(peer[0], "is_global"))


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ip_address(host), what))
    except ValueError:
        return False
