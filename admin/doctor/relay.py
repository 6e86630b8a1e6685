"""The mail server that takes our letters: spoken to as a worker would, up to the sender's name and no further."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from admin.doctor.findings import Finding, Line, Subject, failed, not_checked, ok, warning
from admin.doctor.reach import NoWayError, require_way
from core.errors import MailDeferredError, PermanentError
from integrations.email.message import parse_sender
from integrations.email.replies import Kind, classify
from integrations.email.return_path import ReturnPaths
from integrations.email.transport import SmtpMail
from integrations.email.url import EmailUrl, parse_email_url

REPLY_S = 6.0
SOON = timedelta(days=14)
ENOUGH_BYTES = 1024 * 1024  # many times a letter


class Caller(SmtpMail):
    """The connection of the workers, with the same TLS and login."""

    def connect(self) -> smtplib.SMTP:
        """Raises MailDeferredError."""
        self._smtp = self._connect()
        if self._smtp.sock is not None:
            self._smtp.sock.settimeout(REPLY_S)
        return self._smtp


def check_relay(subject: Subject) -> Iterator[Finding]:
    try:
        url = parse_email_url(subject.settings.email_url.get_secret_value())
    except ValueError:
        yield not_checked(Line.RELAY, "EMAIL_URL cannot be read (see settings)")
        return
    if url.scheme == "console":
        yield warning(
            Line.RELAY,
            "EMAIL_URL is console: letters are only shown, nobody gets one",
            "set EMAIL_URL to smtp://user:password at your mail server",
        )
        return
    where = f"{url.host}:{url.port}"
    try:
        require_way(url.host, url.port)
    except NoWayError as exc:
        fix = "correct host and port of EMAIL_URL; many hosting providers close ports 25 and 465, and leave 587 open"
        yield (failed if exc.is_theirs else not_checked)(Line.RELAY, str(exc), fix)
        return
    caller = Caller(url, tls_context=subject.trust)
    with contextlib.closing(caller):
        try:
            smtp = caller.connect()
        except MailDeferredError as exc:
            yield judge_refusal(where, exc)
            return
        yield ok(Line.RELAY, f"{where} answers")
        yield judge_tls(url, smtp.sock, subject.now())
        if url.user:
            yield ok(Line.RELAY_LOGIN, "the login is accepted")
        else:
            yield ok(Line.RELAY_LOGIN, "none: EMAIL_URL has no user")
        yield _try_sender(smtp, subject, url)
        yield judge_offers(smtp.esmtp_features, url)


def judge_refusal(where: str, error: MailDeferredError) -> Finding:
    """By the error that a letter would be deferred with."""
    seen = f"{where}: {error}"
    match error.code:
        case "tls":
            return failed(
                Line.RELAY_TLS,
                seen,
                "no letter goes without TLS that can be trusted: name the host in EMAIL_URL as its certificate does,"
                " use the port for it (587 with smtp, 465 with smtps), or have the certificate renewed",
            )
        case "login":
            return failed(
                Line.RELAY_LOGIN, seen, "correct user and password in EMAIL_URL (special characters as %XX)"
            )
        case _:
            return failed(
                Line.RELAY, seen, "see that the port fits the scheme: smtp for 587 and 25, smtps for 465"
            )


def judge_tls(url: EmailUrl, sock: object, now: datetime) -> Finding:
    line = Line.RELAY_TLS
    if not isinstance(sock, ssl.SSLSocket):
        if url.host.lower() in ("localhost", "127.0.0.1", "::1"):
            return ok(line, "none, on this machine")
        return warning(line, "letters travel in clear (tls=off)", "remove tls=off from EMAIL_URL")
    certificate = sock.getpeercert() or {}
    ends = certificate.get("notAfter")
    seen = f"{sock.version()}, with a certificate that is trusted"
    if isinstance(ends, str):
        until = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), now.tzinfo)
        if until - now < SOON:
            return warning(
                line, f"{seen}, until {until:%Y-%m-%d}", "have the mail server's certificate renewed"
            )
    return ok(line, seen)


def _try_sender(smtp: smtplib.SMTP, subject: Subject, url: EmailUrl) -> Finding:
    """MAIL and RSET with the return path of a letter that does not exist: nothing is sent."""
    line = Line.RELAY_SENDER
    settings = subject.settings
    if not settings.email_from:
        return not_checked(line, "EMAIL_FROM is not set")
    try:
        exact = parse_sender(settings.email_from)[1]
        paths = ReturnPaths.from_sender(settings.email_bounces or settings.email_from, settings.secret_keys)
    except (PermanentError, ValueError):
        return not_checked(line, "EMAIL_FROM or EMAIL_BOUNCES cannot be used (see settings)")
    try:
        if not url.verp:
            return judge_sender(*_offer(smtp, exact))
        code, text = _offer(smtp, paths.bounces("0" * 32))
        takes_exact = code // 100 == 5 and _offer(smtp, exact)[0] // 100 == 2
    except (OSError, smtplib.SMTPException) as exc:
        return not_checked(line, f"the mail server hung up ({type(exc).__name__})", "run it again")
    return judge_sender(code, text, takes_exact=takes_exact)


def _offer(smtp: smtplib.SMTP, sender: str) -> tuple[int, str]:
    code, raw = smtp.docmd("MAIL", f"FROM:<{sender}>")
    smtp.docmd("RSET")
    return code, raw.decode("utf-8", "replace")


def judge_sender(code: int, text: str, *, takes_exact: bool = False) -> Finding:
    """By the reply to MAIL with our envelope sender; `takes_exact`: it takes EMAIL_FROM as it stands."""
    seen = f"the mail server answers {code} {text} to our sender"
    match classify(code, text).kind:
        case Kind.DONE:
            return ok(Line.RELAY_SENDER, "our sender is accepted")
        case Kind.DEFERRED:
            return warning(Line.RELAY_SENDER, seen, "run it again later; letters wait meanwhile")
        case _ if takes_exact:
            return failed(
                Line.RELAY_SENDER,
                f"{seen}, but takes EMAIL_FROM itself",
                "have it take any address of the domain, or add verp=off to EMAIL_URL",
            )
        case _:
            return failed(
                Line.RELAY_SENDER,
                seen,
                "have the provider verify the address or domain of EMAIL_FROM (and of EMAIL_BOUNCES)",
            )


def judge_offers(offers: Mapping[str, str], url: EmailUrl) -> Finding:
    """`offers`: the extensions by lower-case name, with their parameters (RFC 5321 section 4.1.1.1)."""
    size = offers.get("size", "").strip()
    most = int(size) if size.isdecimal() else 0  # 0: no fixed limit (RFC 1870)
    seen = [
        f"letters of up to {most >> 10} KiB" if most else "letters of any size",
        "addresses in any script"
        if "smtputf8" in offers
        else "addresses in ASCII only: people with others are skipped",
        f"connections that Usher opens to it: {url.connections or 'one for each process'}",
    ]
    if most and most < ENOUGH_BYTES:
        return warning(Line.RELAY_OFFERS, "; ".join(seen), "have the mail server take letters of 1 MiB")
    return ok(Line.RELAY_OFFERS, "; ".join(seen))
