"""The way out: the page behind the link in a letter, and the one click that mail programs make (RFC 8058).

Looking changes nothing, because scanners and previews look. Posting is enough: no cookie, no login, no redirect.
Pages are constant, so nothing that a link holds can come back in one.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from core.errors import JournalUnavailableError
from integrations.email.unsubscribe import InvalidTokenError, UnsubscribeClaim

log = logging.getLogger(__name__)


def unsubscribe_routes(
    read_token: Callable[[str], UnsubscribeClaim], unsubscribe: Callable[[UnsubscribeClaim], None]
) -> list[Route]:
    """`read_token` raises InvalidTokenError. `unsubscribe` may block, has committed when it returns, is
    harmless when done again, and raises JournalUnavailableError."""

    async def ask(request: Request) -> Response:
        try:
            read_token(request.path_params["token"])
        except InvalidTokenError:
            return _page(_UNKNOWN, 404)
        return _page(_ASK)

    async def stop(request: Request) -> Response:
        """Unsubscribe before answering. The token says it all: whatever the body holds is left unread."""
        try:
            claim = read_token(request.path_params["token"])
        except InvalidTokenError:
            log.warning("unsubscribe.rejected")
            return _page(_UNKNOWN, 404)
        about = {"site": claim.site, "member": claim.member}
        try:
            await run_in_threadpool(unsubscribe, claim)
        except JournalUnavailableError as exc:
            # No traceback: a driver's error repeats the row.
            reason = type(exc.__cause__ or exc).__name__
            log.error("unsubscribe.not_committed", extra={**about, "reason": reason})
            return _page(_TRY_AGAIN, 503)
        log.info("unsubscribe.done", extra=about)
        return _page(_DONE)

    return [
        Route("/unsubscribe/{token}", ask, methods=["GET"]),
        Route("/unsubscribe/{token}", stop, methods=["POST"]),
    ]


def _page(html: str, status_code: int = 200) -> Response:
    return HTMLResponse(html, status_code=status_code, headers=_HEADERS)


_STYLE = """
:root { color-scheme: light dark; --paper: #f6f3ee; --card: #fff; --ink: #2b2622; --soft: #6b625a;
  --line: #e7e0d6; --accent: #b4482e; --on-accent: #fff }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1917; --card: #262320; --ink: #f1ece5; --soft: #b3a99e; --line: #3a3530;
    --accent: #f0957b; --on-accent: #2a120b }
}
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; min-height: 100svh; display: grid; place-items: center; padding: 1.25rem;
  background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif }
main { width: 100%; max-width: 27rem; padding: 2.5rem 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 1.25rem; text-align: center; box-shadow: 0 1rem 3rem -1.5rem rgb(0 0 0 / .25) }
svg { width: 3.5rem; height: 3.5rem; color: var(--accent) }
h1 { margin: .75rem 0 .5rem; font-size: 1.5rem; line-height: 1.25; text-wrap: balance }
p { margin: .5rem 0; text-wrap: pretty }
small { display: block; margin-top: 1.5rem; color: var(--soft); font-size: .9375rem }
button { width: 100%; margin-top: 1.5rem; padding: .875rem 1.25rem; border: 0; border-radius: .75rem;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; cursor: pointer }
button:hover { filter: brightness(1.08) }
button:focus-visible { outline: 3px solid var(--ink); outline-offset: 3px }
"""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}

_ENVELOPE = '<rect x="6" y="12" width="36" height="25" rx="4"/><path d="m7 15 17 13 17-13"/>'
_TICK = '<circle cx="24" cy="24" r="18"/><path d="m16 24.5 5.5 5.5 11-12"/>'
_WARNING = '<circle cx="24" cy="24" r="18"/><path d="M24 14v13m0 6v.5"/>'


def _html(title: str, text: str, *, icon: str, button: str = "", note: str = "") -> str:
    form = f'<form method="post"><button>{button}</button></form>' if button else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex, nofollow">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"
 stroke-linejoin="round" aria-hidden="true">{icon}</svg>
<h1>{title}</h1>
<p>{text}</p>
{form}
<small>{note}</small>
</main>
</body>
</html>
"""


_ASK = _html(
    "Stop these letters?",
    "One click, and we no longer write to you on behalf of this community. No sign-in, no questions.",
    icon=_ENVELOPE,
    button="Unsubscribe",
    note="Rather stay? Just close this page. Nothing has changed so far.",
)
_DONE = _html(
    "You are unsubscribed",
    "We will not write to you on behalf of this community any more.",
    icon=_TICK,
    note="A letter that is already on its way may still arrive. You remain a member of your groups, and you "
    "can close this page now.",
)
_UNKNOWN = _html(
    "This link does not work",
    "It may have been cut off on its way to you. Please open the unsubscribe link in the letter once more, "
    "or copy the whole of it.",
    icon=_WARNING,
    note="Nothing has changed.",
)
_TRY_AGAIN = _html(
    "That did not work just now",
    "You are not unsubscribed yet: our records are out of reach for a moment. We are sorry. Please try again "
    "in a minute.",
    icon=_WARNING,
    button="Try again",
    note="The link in your letter keeps working as well.",
)
