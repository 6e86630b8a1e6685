"""Real SMTP servers on ephemeral ports: aiosmtpd for manners, a scripted socket for bad ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar

from aiosmtpd.smtp import SMTP, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class MailServer:
    """Answers as told, once for each entry and well afterwards; keeps what it accepted."""

    replies: dict[str, list[str]] = field(default_factory=dict)
    letters: list[Envelope] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    port: int = 0
    heard: bytearray = field(default_factory=bytearray, repr=False)
    """Every octet that clients said, TLS taken off."""
    takes_all_at_once: ClassVar[bool] = True
    """PIPELINING (RFC 2920)."""

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], *(["250-PIPELINING"] if self.takes_all_at_once else []), responses[-1]]

    def _next(self, command: str) -> str | None:
        waiting = self.replies.get(command, [])
        return waiting.pop(0) if waiting else None

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self._next("MAIL"):
            return reply
        envelope.mail_from, envelope.mail_options = address, options
        return "250 2.1.0 fine"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self._next("RCPT"):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if reply := self._next("DATA"):
            return reply
        self.letters.append(envelope)
        return f"250 2.0.0 queued as {len(self.letters)}"


class _CountingSMTP(SMTP):
    def connection_made(self, transport: Any) -> None:
        if not isinstance(self.event_handler, MailServer):
            raise TypeError
        if self.transport is None:  # not the second time, after STARTTLS
            self.event_handler.connections += 1
            self.event_handler.open_connections += 1
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.event_handler.heard += data
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.open_connections -= 1
        super().connection_lost(error)


@contextmanager
def mail_server(server: MailServer | None = None, **options: Any) -> Iterator[MailServer]:
    server = server or MailServer()
    implicit_tls = options.pop("implicit_tls", None)
    options.setdefault("enable_SMTPUTF8", True)
    loop = asyncio.new_event_loop()

    async def listen() -> asyncio.Server:
        return await loop.create_server(
            lambda: _CountingSMTP(server, hostname="mx.example.com", loop=loop, **options),
            "127.0.0.1",
            0,
            ssl=implicit_tls,
        )

    listener = loop.run_until_complete(listen())
    server.port = listener.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:

        async def end() -> None:
            listener.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@dataclass
class Conversation:
    """One connection to a server that misbehaves by hand."""

    sock: socket.socket

    def __post_init__(self) -> None:
        self._lines = self.sock.makefile("rb")

    def say(self, line: str) -> None:
        self.sock.sendall(line.encode() + b"\r\n")

    def hear(self) -> bytes:
        return self._lines.readline()

    def open_at_once(self, *answers: str) -> None:
        """Greeting to DATA, all of which is heard before any of it is answered."""
        self.say("220 mx.example.com")
        self.hear()
        self.say("250-mx.example.com")
        self.say("250 PIPELINING")
        assert [self.hear()[:4] for _ in range(3)] == [b"MAIL", b"RCPT", b"DATA"]
        for answer in answers:
            self.say(answer)

    def open(self) -> None:
        """Greeting to DATA, politely."""
        self.say("220 mx.example.com")
        for answer in ("250 mx.example.com", "250 ok", "250 ok", "354 go on"):
            self.hear()
            self.say(answer)

    def hear_letter(self) -> list[bytes]:
        """Up to and without the final dot, or up to the end of the connection."""
        return list(iter(self.hear_line_of_letter, b""))

    def hear_line_of_letter(self) -> bytes:
        line = self.hear()
        return b"" if line == b".\r\n" else line

    def close(self) -> None:
        self._lines.close()
        self.sock.close()


@contextmanager
def scripted_server(*scripts: Callable[[Conversation], None]) -> Iterator[int]:
    """Each script gets the next connection. Failures inside a script fail the test."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for script in scripts:
                sock, _ = listener.accept()
                sock.settimeout(20)
                conversation = Conversation(sock)
                try:
                    script(conversation)
                finally:
                    conversation.close()
        except Exception as exc:  # noqa: BLE001 - shown to the test below
            failures.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(20)
        listener.close()
        assert not thread.is_alive()
        assert failures == []


def self_signed(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's TLS for 127.0.0.1, and a client's that trusts exactly this certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    file = directory / "server.pem"
    file.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())
