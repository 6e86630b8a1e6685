"""PUBLIC_URL as the world sees it: certificate, webhooks, and the link that every letter carries.

What is tried leaves nothing behind: a look at the page of a person who does not exist, a click on a link that is not
quite ours, and a delivery that nobody signed (one line `webhook.rejected` in the log of web).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from admin.doctor.findings import Finding, Line, Subject, failed, not_checked, ok, warning
from admin.doctor.reach import NoWayError, addresses_of, ask, open_http, private_among, require_way
from integrations.email.unsubscribe import TRIAL, UnsubscribeTokens

FORM = b"List-Unsubscribe=One-Click"
ALL_OF_IT = (
    "see that the proxy hands on /webhooks/wix and /unsubscribe/… unchanged, with their methods and bodies"
)


def check_public(subject: Subject) -> Iterator[Finding]:
    url = subject.settings.public_url
    if not url:
        yield not_checked(Line.PUBLIC, "PUBLIC_URL is not set", "set it to this service's https address")
        return
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = addresses_of(host, port)
        require_way(host, port)
    except NoWayError as exc:
        # From inside a network its own public address may not be reachable.
        fix = "look at its DNS, at the proxy and at the firewall; from outside the network it may look different"
        yield (failed if exc.is_theirs else not_checked)(Line.PUBLIC, str(exc), fix)
        return
    if private := private_among(addresses):
        yield warning(
            Line.PUBLIC,
            f"{host} is {', '.join(private)}, which the world cannot reach",
            "set PUBLIC_URL to the address by which Wix and readers reach this service",
        )
    else:
        yield ok(Line.PUBLIC, f"{host} is {', '.join(addresses)}, and takes connections")
    with contextlib.closing(open_http(subject)) as http:
        try:
            live = ask(http, "GET", f"{url}/health/live")
        except NoWayError as exc:
            yield (failed if exc.is_theirs else not_checked)(
                Line.PUBLIC_TLS,
                str(exc),
                "give the proxy a certificate for this name from an authority that everybody trusts, with its chain"
                if "certificate" in str(exc)
                else "see that something listens there that speaks HTTP",
            )
            return
        yield judge_transport(parts.scheme, live.status_code)
        trials = [_try_webhooks, _try_closed]
        if subject.settings.secret_key.get_secret_value():
            trials += [_try_page, _try_click]
        for trial in trials:
            try:
                yield trial(http, subject)
            except NoWayError as exc:
                yield not_checked(Line.PUBLIC, str(exc), "run it again")


def judge_transport(scheme: str, live_status: int) -> Finding:
    """`live_status`: what /health/live answers; closed to the world is as good as open."""
    if live_status in (502, 503, 504):
        return failed(
            Line.PUBLIC_TLS,
            f"something answers {live_status}, but it is not Usher",
            "start `usher web`, and point the proxy at its PORT",
        )
    if scheme != "https":
        return warning(
            Line.PUBLIC_TLS,
            "http only, which is for trying things out",
            "use https: Wix and mail programs insist",
        )
    return ok(Line.PUBLIC_TLS, "https, with a certificate that is trusted")


def _try_webhooks(http: httpx.Client, subject: Subject) -> Finding:
    answer = ask(
        http,
        "POST",
        f"{subject.settings.public_url}/webhooks/wix",
        content=b"usher doctor: nobody signed this",
        kind="text/plain",
    )
    return judge_webhooks(answer.status_code)


def judge_webhooks(status: int) -> Finding:
    """By the answer to a delivery without a signature."""
    line = Line.PUBLIC_WEBHOOKS
    if status == 401:
        return ok(line, "the door for webhooks answers, and refuses what nobody signed")
    if 200 <= status < 300:
        return failed(line, f"answered {status} to what nobody signed: that was not Usher", ALL_OF_IT)
    if 300 <= status < 400:
        return failed(line, f"answered {status}: Wix follows no redirect", ALL_OF_IT)
    return failed(line, f"answered {status} where Usher answers 401", ALL_OF_IT)


def _link(subject: Subject) -> str:
    """As in a letter, and it stops nothing."""
    tokens = UnsubscribeTokens(subject.settings.secret_key.get_secret_value())
    return f"{subject.settings.public_url}/unsubscribe/{tokens.issue(TRIAL)}"


def _try_page(http: httpx.Client, subject: Subject) -> Finding:
    return judge_page(ask(http, "GET", _link(subject)))


def judge_page(answer: httpx.Response) -> Finding:
    line = Line.PUBLIC_UNSUBSCRIBE
    if answer.status_code == 200 and b'<form method="post"' in answer.content:
        return ok(line, "the page behind a letter's link is there, with its button")
    if answer.status_code == 404 and b"This link does not work" in answer.content:
        return failed(
            line,
            "Usher answers there, and does not know the link",
            "give web and worker the same SECRET_KEY, and restart them; see that the proxy leaves paths as they are",
        )
    return failed(line, f"answered {answer.status_code} without Usher's page", ALL_OF_IT)


def _try_click(http: httpx.Client, subject: Subject) -> Finding:
    return judge_click(
        ask(http, "POST", _link(subject), content=FORM, kind="application/x-www-form-urlencoded"),
    )


def judge_click(answer: httpx.Response) -> Finding:
    """By the answer to the one click (RFC 8058) on the link of a trial, which stops nothing."""
    line = Line.PUBLIC_ONE_CLICK
    status = answer.status_code
    if 300 <= status < 400:
        return failed(line, f"answered {status}: mail programs follow no redirect (RFC 8058)", ALL_OF_IT)
    if "set-cookie" in answer.headers:
        return failed(
            line, "answered with a cookie, which RFC 8058 rules out", "have the proxy set none here"
        )
    if status == 200 and b"You are unsubscribed" in answer.content:
        return ok(line, "a mail program's click arrives and is answered, without redirect or cookie")
    return failed(line, f"answered {status} without Usher's page", ALL_OF_IT)


def _try_closed(http: httpx.Client, subject: Subject) -> Finding:
    answer = ask(http, "GET", f"{subject.settings.public_url}/metrics")
    if answer.status_code == 200 and b"usher_" in answer.content:
        return warning(
            Line.PUBLIC_CLOSED,
            "/metrics is open to the world",
            "let the proxy hand on /webhooks/wix and /unsubscribe/… only",
        )
    return ok(Line.PUBLIC_CLOSED, "/metrics is not open to the world")
