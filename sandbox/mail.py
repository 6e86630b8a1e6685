"""The mail catcher: an SMTP server that keeps what it is given and delivers nothing."""

import asyncio
import email
import email.policy
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from functools import cached_property
from html.parser import HTMLParser
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from sandbox.community import Json

KEPT_LETTERS = 20_000
REPLY = re.compile(r"[45]\d\d [\x20-\x7e]+")


@dataclass(frozen=True)
class Letter:
    number: int
    received_at: datetime
    mail_from: str = field(repr=False)
    rcpt_to: tuple[str, ...] = field(repr=False)
    raw: bytes = field(repr=False)

    @cached_property
    def message(self) -> Message:
        return email.message_from_bytes(self.raw)

    @cached_property
    def all_headers(self) -> list[tuple[str, str]]:
        return [(name, _header_text(name, value)) for name, value in self.message.raw_items()]

    @cached_property
    def headers(self) -> dict[str, str]:
        """The first header of each name."""
        return dict(reversed(self.all_headers))

    def header(self, name: str) -> str:
        return next((text for given, text in self.all_headers if given.lower() == name), "")

    @property
    def subject(self) -> str:
        return self.header("subject")

    @cached_property
    def text(self) -> str:
        return self._part("plain")

    @cached_property
    def html(self) -> str:
        return self._part("html")

    @cached_property
    def links(self) -> list[tuple[str, str]]:
        """(text, web address) of the links of the HTML part."""
        parser = _Links()
        parser.feed(self.html)
        return [(text or href, href) for href, text in parser.found]

    def wire(self) -> Json:
        return {
            "n": self.number,
            "received_at": self.received_at.isoformat(),
            "envelope": {"from": self.mail_from, "to": list(self.rcpt_to)},
            "subject": self.subject,
            "message_id": self.header("message-id"),
            "headers": self.headers,
            "text": self.text,
        }

    def _part(self, kind: str) -> str:
        """A part as text, whatever its sender called it."""
        for part in self.message.walk():
            if part.get_content_type() == f"text/{kind}" and part.get_content_disposition() != "attachment":
                content = part.get_payload(decode=True)
                charset = part.get_content_charset("utf-8")
                try:
                    return content.decode(charset, "replace") if isinstance(content, bytes) else ""
                except LookupError:
                    return content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
        return ""


class MailCatcher:
    def __init__(self) -> None:
        self.letters: dict[int, Letter] = {}
        self.refusals: dict[str, str] = {}  # address in lower case, or "*" -> reply
        self._count = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Accept mail; the port (a free one for 0). `OSError` when it is taken."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(self, hostname="sandbox", ident="Sandbox mail catcher", enable_SMTPUTF8=True),
            host,
            port,
        )
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        if self._server:
            self._server.close()

    def keep(self, mail_from: str, rcpt_to: list[str], raw: bytes) -> Letter:
        self._count += 1
        letter = Letter(self._count, datetime.now(UTC), mail_from, tuple(rcpt_to), raw)
        self.letters[letter.number] = letter
        if len(self.letters) > KEPT_LETTERS:
            del self.letters[next(iter(self.letters))]
        return letter

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[Any]
    ) -> str:
        if refusal := self.refusals.get(address.lower()) or self.refusals.get("*"):
            return refusal
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        letter = self.keep(envelope.mail_from or "", list(envelope.rcpt_tos), raw)
        return f"250 2.0.0 kept as letter {letter.number}"


def _header_text(name: str, value: str) -> str:
    try:
        text = str(email.policy.default.header_fetch_parse(name, value))
    except Exception:  # noqa: BLE001 - the standard library stumbles over broken headers in many ways
        text = value
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") or ""
        if tag == "a" and href.startswith(("http://", "https://")):
            self._open = href
            self.found.append((href, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            href, text = self.found[-1]
            self.found[-1] = (href, f"{text} {data.strip()}".strip())
