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
from integrations.email.conversation import Conversation
from integrations.email.message import wire_address
from integrations.email.replies import Cause, Kind, Reply, classify, one_line
from integrations.email.url import EmailUrl, parse_email_url

CONNECT_TIMEOUT_S = 10.0
QUICK_S = 0.002
"""A server that answers within this is not waited for in any other way."""
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
        self._talk: Conversation | None = None
        self._when_waiting: Callable[[], None] | None = None
        self._forget()

    def send(
        self,
        clearance: Clearance,
        envelope_from: str,
        message: bytes,
        about_to_commit: Callable[[], None],
        when_waiting: Callable[[], None] | None = None,
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
            self._when_waiting = when_waiting
            return self._send(envelope_from, to, body, about_to_commit)
        except (MailDeferredError, MailRefusedError):
            raise  # the connection is where it was before, or closed
        except BaseException:
            self._drop()  # a time limit in the middle of a body must not leave its rest to the next letter
            raise
        finally:
            self._used_at = time.monotonic()
            self._when_waiting = None
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
        talk = self._open_transaction(envelope_from, to, len(body))
        self._expect(talk, f"RCPT TO:<{to}>", wanted=2, behind=1, reader=to)
        self._expect(talk, "DATA", wanted=3, reader=to)
        try:
            talk.say(body)
            early = talk.said_early()
        except OSError as exc:
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
            early = talk.said_early()
            if early is None:
                talk.say(b".\r\n")
        except OSError as exc:
            # Three bytes leave this process whole or not at all, so this is still before the dot.
            self._drop()
            raise _hung_up(exc) from None
        if early is not None:
            self._drop()
            raise _refusal("DATA", *early, reader=to)
        code, text = self._await_verdict(talk)
        if code // 100 != 2:
            raise _refusal("the letter", code, text, reader=to)
        return one_line(f"{code} {text}", to)

    def _await_verdict(self, talk: Conversation) -> tuple[int, str]:
        try:
            code, text = talk.hear(self._url.reply_timeout_s)
        except OSError as exc:
            raise MailInDoubtError(f"no answer after the final dot ({type(exc).__name__})") from None
        if code == 421 or code // 100 not in (2, 4, 5):
            raise MailInDoubtError(f"the mail server said {code} after the final dot", code=str(code))
        return code, text

    def _open_transaction(self, envelope_from: str, to: str, size: int) -> Conversation:
        """A connection that has accepted MAIL. A kept one may have died in its sleep: then a fresh one, once."""
        if time.monotonic() - self._used_at > IDLE_S or self._was_spoken_to():
            self._drop()
        if self._talk is not None:
            try:
                return self._begin(self._talk, envelope_from, to, size)
            except MailDeferredError:
                if self._talk is not None:  # it lives, and says "not now"
                    raise
        self._wait_for_others()
        self._smtp = self._connect()
        try:
            self._talk = Conversation(self._smtp, self._url.timeout_s)
        except OSError as exc:
            self._drop()
            raise _no_connection(exc) from None
        return self._begin(self._talk, envelope_from, to, size)

    def _was_spoken_to(self) -> bool:
        """Words that nobody asked for, which would be taken for the next answer."""
        try:
            return self._talk is not None and self._talk.said_early() is not None
        except OSError:
            return True

    def _begin(self, talk: Conversation, envelope_from: str, to: str, size: int) -> Conversation:
        options = f" SIZE={size}" if talk.takes_size else ""
        if not (to.isascii() and envelope_from.isascii()):
            if not talk.takes_utf8:
                raise MailRefusedError(
                    "the address is not written in ASCII, and the mail server takes no such addresses"
                    " (it does not offer SMTPUTF8)",
                    code="smtputf8",
                )
            options += " SMTPUTF8 BODY=8BITMIME"
        mail = f"MAIL FROM:<{envelope_from}>{options}"
        if talk.at_once:
            self._say(talk, f"{mail}\r\nRCPT TO:<{to}>\r\nDATA\r\n")
        self._expect(talk, mail, wanted=2, behind=2)
        return talk

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
        except BaseException as exc:
            if smtp is not None:
                smtp.close()
            if not isinstance(exc, _BROKEN):
                raise
            raise _no_connection(exc) from None
        return smtp

    def _say(self, talk: Conversation, words: str) -> None:
        try:
            talk.say(words.encode())
        except OSError as exc:
            self._drop()
            raise _hung_up(exc) from None

    def _expect(
        self, talk: Conversation, command: str, *, wanted: int, behind: int = 0, reader: str = ""
    ) -> None:
        """Say it, unless all was said at once, and hear the answer. `behind`: how many more answers come then, all of
        which are heard before anything else is said (RFC 2920, 3.1)."""
        if not talk.at_once:
            self._say(talk, f"{command}\r\n")
            behind = 0
        if self._when_waiting is not None and talk.is_silent_for(QUICK_S):
            self._wait_for_others()
        try:
            code, text = talk.hear()
        except OSError as exc:
            self._drop()
            raise _hung_up(exc) from None
        if code // 100 == wanted:
            return
        try:
            if (
                code == 421
                or code // 100 not in (4, 5)
                # Whoever goes on to take DATA waits for a letter that is for nobody: it gets none.
                or not all(talk.hear()[0] // 100 in (4, 5) for _ in range(behind))
                or not self._begins_anew(talk)
            ):
                self._drop()
        except OSError:
            self._drop()
        raise _refusal(command[:4], code, text, reader=reader)

    def _wait_for_others(self) -> None:
        when_waiting, self._when_waiting = self._when_waiting, None
        if when_waiting is not None:
            when_waiting()

    def _begins_anew(self, talk: Conversation) -> bool:
        talk.say(b"RSET\r\n")
        return talk.hear()[0] // 100 == 2

    def _drop(self) -> None:
        if self._smtp is not None:
            self._smtp.close()
        self._smtp = self._talk = None

    def _forget(self) -> None:
        """Start without a connection; a parent's stays the parent's (closing our copy says nothing to the server)."""
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._smtp = self._talk = None
        self._when_waiting = None
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
        when_waiting: Callable[[], None] | None = None,  # noqa: ARG002
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
