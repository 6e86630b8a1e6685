"""How a letter goes: by the URL of the setting EMAIL_URL. SMTP is spoken here step by step, because the ledger
has to know the moment before the final dot; what a reply means is in replies.py.

The rule behind the errors: nothing of a letter counts as sent before its final dot went out, so everything that
breaks until then is deferred. After the dot only a reply settles it; without one, the letter is in doubt.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import os
import re
import select
import smtplib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from core.errors import (
    Blame,
    ConfigError,
    MailDeferredError,
    MailInDoubtError,
    MailRefusedError,
    PermanentError,
)
from core.gate import Clearance
from core.ports import MailPort
from integrations.email.message import wire_address
from integrations.email.replies import Cause, Kind, Reply, classify, one_line
from integrations.email.url import EmailUrl, parse_email_url

CONNECT_TIMEOUT_S = 10.0
IDLE_S = 20.0  # submission servers hang up on an idle client after 30 s (the strict ones) to 5 minutes


def mail_from_url(url: str) -> MailPort:
    """Raises ConfigError. Connects to nothing yet."""
    try:
        parsed = parse_email_url(url)
    except ValueError as exc:
        raise ConfigError("Letters cannot be sent:", [f"EMAIL_URL {exc}"]) from None
    return TRANSPORTS[parsed.scheme](parsed)


class SmtpMail:
    """One kept SMTP connection for this process. Threads take turns; a forked child opens its own."""

    def __init__(self, url: EmailUrl, *, tls_context: ssl.SSLContext | None = None) -> None:
        self._url = url
        self._tls = tls_context
        self._smtp: smtplib.SMTP | None = None
        self._forget()

    def send(
        self,
        clearance: Clearance,
        envelope_from: str,
        message: bytes,
        about_to_commit: Callable[[], None],
    ) -> str:
        """As MailPort says."""
        envelope_from = _wire(envelope_from, "the sender") if envelope_from else ""
        to = _wire(clearance.to, "the recipient")
        body = _body(message)
        if self._pid != os.getpid():
            self._forget()
        if not self._turn.acquire(timeout=self._url.reply_timeout_s):
            raise MailDeferredError("the connection to the mail server is busy", counts=False)
        try:
            return self._send(envelope_from, to, body, about_to_commit)
        except (MailDeferredError, MailRefusedError):
            raise  # the connection is where it was before, or closed
        except BaseException:
            self._drop()  # a time limit in the middle of a body must not leave its rest to the next letter
            raise
        finally:
            self._used_at = time.monotonic()
            self._turn.release()

    def close(self) -> None:
        if self._pid != os.getpid():
            self._forget()
        with self._turn:
            if self._smtp is not None:
                with contextlib.suppress(*_BROKEN):  # gone already is what was asked for
                    self._smtp.docmd("QUIT")
            self._drop()

    def _send(self, envelope_from: str, to: str, body: bytes, about_to_commit: Callable[[], None]) -> str:
        smtp, sock = self._open_transaction(envelope_from, to, len(body))
        self._expect(smtp, f"RCPT TO:<{to}>", wanted=2, behind=1, reader=to)
        self._expect(smtp, "DATA", wanted=3, reader=to)
        try:
            smtp.send(body)
            early = _said_early(smtp, sock)
            sock.settimeout(self._url.reply_timeout_s)
        except _BROKEN as exc:
            self._drop()
            raise _hung_up(exc) from None
        if early is not None:
            self._drop()
            raise _refusal("DATA", *early, reader=to)
        try:
            about_to_commit()
        except BaseException:
            self._drop()  # without the dot: the server throws the letter away
            raise
        try:
            # A server that left while the mark was committed has no letter: looked at as late as can be.
            early = _said_early(smtp, sock)
            if early is None:
                smtp.send(b".\r\n")
        except _BROKEN as exc:
            # Three bytes leave this process whole or not at all, so this is still before the dot.
            self._drop()
            raise _hung_up(exc) from None
        if early is not None:
            self._drop()
            raise _refusal("DATA", *early, reader=to)
        code, text = self._await_verdict(smtp)
        sock.settimeout(self._url.timeout_s)
        if code // 100 != 2:
            raise _refusal("the letter", code, text, reader=to)
        return one_line(f"{code} {text}", to)

    def _await_verdict(self, smtp: smtplib.SMTP) -> tuple[int, str]:
        try:
            code, raw = smtp.getreply()
        except _BROKEN as exc:
            raise MailInDoubtError(f"no answer after the final dot ({type(exc).__name__})") from None
        if code == 421 or code // 100 not in (2, 4, 5):
            raise MailInDoubtError(f"the mail server said {code} after the final dot", code=str(code))
        return code, raw.decode("utf-8", "replace")

    def _open_transaction(self, envelope_from: str, to: str, size: int) -> tuple[smtplib.SMTP, socket.socket]:
        """A connection that has accepted MAIL. A kept one may have died in its sleep: then a fresh one, once."""
        if time.monotonic() - self._used_at > IDLE_S:
            self._drop()
        if self._smtp is not None:
            try:
                return self._begin(self._smtp, envelope_from, to, size)
            except MailDeferredError:
                if self._smtp is not None:  # it lives, and says "not now"
                    raise
        self._smtp = self._connect()
        return self._begin(self._smtp, envelope_from, to, size)

    def _begin(
        self, smtp: smtplib.SMTP, envelope_from: str, to: str, size: int
    ) -> tuple[smtplib.SMTP, socket.socket]:
        options = f" SIZE={size}" if smtp.has_extn("size") else ""
        smtp.command_encoding = "ascii"
        if not (to.isascii() and envelope_from.isascii()):
            if not smtp.has_extn("smtputf8"):
                raise MailRefusedError(
                    "the address is not written in ASCII, and the mail server takes no such addresses"
                    " (it does not offer SMTPUTF8)",
                    code="smtputf8",
                )
            options += " SMTPUTF8 BODY=8BITMIME"
            smtp.command_encoding = "utf-8"
        mail = f"MAIL FROM:<{envelope_from}>{options}"
        if _at_once(smtp):
            self._say(smtp, mail, f"RCPT TO:<{to}>", "DATA")
        self._expect(smtp, mail, wanted=2, behind=2)
        if smtp.sock is None:
            raise MailDeferredError("the mail server hung up")
        return smtp, smtp.sock

    def _connect(self) -> smtplib.SMTP:
        """Nothing here is about the letter, so whatever goes wrong defers it: a wrong password must not use
        letters up. Certificates are checked, and without the TLS we want nothing is said."""
        url = self._url
        wants_tls = url.scheme == "smtps" or url.starttls
        # Reading the system's certificates takes some 30 ms.
        context = self._tls or (ssl.create_default_context() if wants_tls else None)
        name = socket.gethostname()  # smtplib's own choice may ask a silent DNS server
        hello = name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]"
        smtp: smtplib.SMTP | None = None
        try:
            if url.scheme == "smtps":
                smtp = smtplib.SMTP_SSL(url.host, url.port, hello, timeout=CONNECT_TIMEOUT_S, context=context)
            else:
                smtp = smtplib.SMTP(url.host, url.port, hello, timeout=CONNECT_TIMEOUT_S)
            if url.starttls:
                smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
            if url.user:
                smtp.login(url.user, url.password)
            if smtp.sock is not None:
                smtp.sock.settimeout(url.timeout_s)
                # Body and final dot are two small writes: Nagle's algorithm would hold the second back for 40 ms.
                smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as exc:
            if smtp is not None:
                smtp.close()
            if not isinstance(exc, _BROKEN):
                raise
            raise _no_connection(exc) from None
        return smtp

    def _say(self, smtp: smtplib.SMTP, *commands: str) -> None:
        try:
            smtp.send("".join(f"{command}\r\n" for command in commands))
        except _BROKEN as exc:
            self._drop()
            raise _hung_up(exc) from None

    def _expect(
        self, smtp: smtplib.SMTP, command: str, *, wanted: int, behind: int = 0, reader: str = ""
    ) -> None:
        """Say it, unless all was said at once, and hear the answer. `behind`: how many more answers come then, all of
        which are heard before anything else is said (RFC 2920, 3.1)."""
        if not _at_once(smtp):
            self._say(smtp, command)
            behind = 0
        try:
            code, raw = smtp.getreply()
        except _BROKEN as exc:
            self._drop()
            raise _hung_up(exc) from None
        if code // 100 == wanted:
            return
        try:
            if (
                code == 421
                or code // 100 not in (4, 5)
                # Whoever goes on to take DATA waits for a letter that is for nobody: it gets none.
                or not all(smtp.getreply()[0] // 100 in (4, 5) for _ in range(behind))
                or smtp.docmd("RSET")[0] // 100 != 2
            ):
                self._drop()
        except _BROKEN:
            self._drop()
        raise _refusal(command[:4], code, raw.decode("utf-8", "replace"), reader=reader)

    def _drop(self) -> None:
        if self._smtp is not None:
            self._smtp.close()
        self._smtp = None

    def _forget(self) -> None:
        """Start without a connection; a parent's stays the parent's (closing our copy says nothing to the server)."""
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._smtp = None
        self._used_at = 0.0


class ConsoleMail:
    """Shows letters instead of sending them, for development. `stream` None is standard output."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def send(
        self,
        clearance: Clearance,
        envelope_from: str,  # noqa: ARG002
        message: bytes,
        about_to_commit: Callable[[], None],
    ) -> str:
        """As MailPort says."""
        letter = email.message_from_bytes(message, policy=email.policy.default)
        text = letter.get_body(("plain",))
        about_to_commit()
        (self._stream or sys.stdout).write(
            f"--- letter to {clearance.to}\nSubject: {letter['Subject']}\n\n{text.get_content() if text else ''}\n"
        )
        return "250 shown on the console"

    def close(self) -> None:
        pass


TRANSPORTS: dict[str, Callable[[EmailUrl], MailPort]] = {
    "smtp": SmtpMail,
    "smtps": SmtpMail,
    "console": lambda _: ConsoleMail(),
}

_BROKEN = (OSError, smtplib.SMTPException)


def _wire(address: str, whose: str) -> str:
    try:
        return wire_address(address)
    except PermanentError as exc:
        raise MailRefusedError(f"{whose}: {exc}", code="address") from None


def _body(message: bytes) -> bytes:
    """As it goes after DATA, without the final dot (RFC 5321, 4.5.2)."""
    if not message.count(b"\r") == message.count(b"\r\n") == message.count(b"\n"):
        # A bare CR or LF means different things to different servers; none leaves here.
        message = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    dot = b"." if message.startswith(b".") else b""
    end = b"" if message.endswith(b"\r\n") else b"\r\n"
    return dot + message.replace(b"\r\n.", b"\r\n..") + end


def _at_once(smtp: smtplib.SMTP) -> bool:
    """Whether the server takes MAIL, RCPT and DATA in one go, which saves two ways there and back (RFC 2920)."""
    return smtp.has_extn("pipelining")


def _said_early(smtp: smtplib.SMTP, sock: socket.socket) -> tuple[int, str] | None:
    """What the server said before it was its turn, without waiting. A server that goes away during the body is
    noticed here, while the letter can still be deferred; one that said more than it was asked is not believed."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    # What TLS has read already no poll sees.
    has_spoken = bool(poll.poll(0)) or (isinstance(sock, ssl.SSLSocket) and sock.pending() > 0)
    before = sock.gettimeout()
    sock.settimeout(0)
    try:
        # What came in one piece with the last reply lies in smtplib's own buffer.
        said = sock.recv(1024) if has_spoken else smtp.file.peek(1) if smtp.file else b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    finally:
        sock.settimeout(before)
    if not said and not has_spoken:
        return None
    reply = re.match(rb"([45]\d\d)[ -]([^\r\n]*)", said)
    if reply is None:
        raise ConnectionResetError
    return int(reply[1]), reply[2].decode("utf-8", "replace")


def _refusal(command: str, code: int, text: str, *, reader: str) -> MailDeferredError | MailRefusedError:
    """Replies quote addresses, or their halves; errors are logged, so they do not."""
    reply = classify(code, text)
    message = f"the mail server answered {code} to {command}: {one_line(text, reader)}"
    why = reply.enhanced or str(code)
    blame = _blame(command, code, reply)
    if reply.kind is not Kind.REFUSED:
        return MailDeferredError(message, code=why, blame=blame)
    # What is said to MAIL is about us.
    dead = reply.address_is_dead and command != "MAIL"
    return MailRefusedError(message, address_is_dead=dead, code=why, blame=blame)


def _blame(command: str, code: int, reply: Reply) -> Blame:
    if code == 421:
        return Blame.SENDER
    if command == "MAIL":
        # Its size and its need of SMTPUTF8 are the letter's own.
        ours = code != 552 and not reply.enhanced.startswith(("5.6.", "5.3.4"))
        return Blame.SENDER if ours else Blame.LETTER
    if reply.cause in (Cause.SENDER, Cause.THROTTLE):
        return Blame.DOMAIN
    if reply.cause is Cause.SERVER and reply.kind is Kind.DEFERRED:
        return Blame.DOMAIN
    return Blame.LETTER


def _hung_up(exc: Exception) -> MailDeferredError:
    return MailDeferredError(
        f"the connection broke before the final dot ({type(exc).__name__})",
        code="connection",
        blame=Blame.SENDER,
    )


def _no_connection(exc: Exception) -> MailDeferredError:
    text, code = _why_no_connection(exc)
    return MailDeferredError(text, code=code, blame=Blame.SENDER)


def _why_no_connection(exc: Exception) -> tuple[str, str]:
    match exc:
        case smtplib.SMTPAuthenticationError():
            return f"the login of EMAIL_URL was refused ({exc.smtp_code})", "login"
        case smtplib.SMTPResponseException():
            return f"the mail server greeted with {exc.smtp_code}", str(exc.smtp_code)
        case ssl.SSLCertVerificationError():
            return f"the mail server's certificate cannot be trusted: {exc.verify_message}", "tls"
        case ssl.SSLError():
            return f"no TLS with the mail server ({type(exc).__name__})", "tls"
        case smtplib.SMTPNotSupportedError():
            return f"the mail server lacks what EMAIL_URL asks for: {exc}", "tls"
        case _:
            return f"no connection to the mail server ({type(exc).__name__})", "connection"
