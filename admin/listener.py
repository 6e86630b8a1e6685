"""An SMTP listener for mails that come back. It is told where they go before it takes them, and passes nothing on."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from core.errors import ConfigError, JournalUnavailableError
from integrations.email.inbound import MOST_BYTES
from tasks.inbound import Mailroom

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 20
MOST_OF_ONE_PEER = MOST_CONNECTIONS // 2
"""Nobody holds the door shut alone."""
MOST_BYTES_AT_ONCE = 8 * MOST_BYTES
"""Whoever sends more between two mails is cut off: aiosmtpd keeps a line without end in memory."""
MOST_RECIPIENTS = 10
MOST_COMMANDS = 100
"""Of each kind, in one connection."""
IDLE_S = 120.0
LIFE_S = 600.0
"""Of a connection, however busy."""
FRUITLESS_S = 180.0
"""Of one that brought no mail yet."""
LET_FINISH_S = 10.0


class Listener:
    """What aiosmtpd asks; it finds the hooks by their names."""

    def __init__(self, mailroom: Mailroom) -> None:
        self._mailroom = mailroom
        self._threads = ThreadPoolExecutor(4, "mail")
        self.peers: Counter[str] = Counter()
        self.at_work = 0
        address = mailroom.paths.address
        domain = self.hostname = address.rpartition("@")[2]
        # Complaints come to such an address, and a postmaster has to be there (RFC 5321, 4.5.1).
        self._others = {address.lower(), f"abuse@{domain}", f"postmaster@{domain}", "postmaster"}

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[Any]
    ) -> str:
        if self._mailroom.paths.read(address) is None and address.lower() not in self._others:
            return "550 5.1.1 no such address here"
        if len(envelope.rcpt_tos) >= MOST_RECIPIENTS:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """250 only after the commit."""
        assert isinstance(server, _Conversation)  # noqa: S101 (made below)
        assert isinstance(envelope.content, bytes)  # noqa: S101 (decode_data is off)
        server.received = 0
        sender = re.sub(r"[\r\n<>]", "", envelope.mail_from or "")
        raw = f"Return-Path: <{sender}>\r\n".encode("utf-8", "surrogateescape") + envelope.content
        loop = asyncio.get_running_loop()
        self.at_work += 1
        try:
            await loop.run_in_executor(self._threads, self._mailroom.take_in, raw, list(envelope.rcpt_tos))
        except JournalUnavailableError as exc:
            log.error("mail.not_committed", extra={"reason": type(exc.__cause__ or exc).__name__})
            return "451 4.3.0 not now, please send it again"
        finally:
            self.at_work -= 1
        server.fruitful = True
        return "250 2.0.0 taken"

    async def handle_exception(self, error: Exception) -> str:
        """What went wrong here is no reason for the other side to throw the mail away."""
        log.error("mail.defect", extra={"error": type(error).__name__})
        return "451 4.3.0 not now, please send it again"

    @property
    def connections(self) -> int:
        return self.peers.total()

    def close(self) -> None:
        self._threads.shutdown()


class _Conversation(SMTP):
    """One connection, within bounds."""

    received = 0
    fruitful = False
    _is_in = False

    def connection_made(self, transport: Any) -> None:
        listener = self.event_handler
        self._peer = str((transport.get_extra_info("peername") or [""])[0])
        if listener.connections >= MOST_CONNECTIONS or listener.peers[self._peer] >= MOST_OF_ONE_PEER:
            log.warning("mail.refused", extra={"reason": "too many connections"})
            transport.write(b"421 4.7.0 too many connections, come again\r\n")
            transport.close()
            return
        self._is_in = True
        listener.peers[self._peer] += 1
        super().connection_made(transport)
        self._ends = [
            self.loop.call_later(FRUITLESS_S, lambda: None if self.fruitful else self._end()),
            self.loop.call_later(LIFE_S, self._end),
        ]

    def _end(self) -> None:
        log.warning("mail.refused", extra={"reason": "here for too long"})
        if isinstance(self.transport, asyncio.Transport):
            self.transport.write(b"421 4.4.2 here for too long, come again\r\n")
            self.transport.abort()  # whoever does not read is not waited for

    def data_received(self, data: bytes) -> None:
        if not self._is_in:
            return
        self.received += len(data)
        if self.received > MOST_BYTES_AT_ONCE and isinstance(self.transport, asyncio.Transport):
            log.warning("mail.refused", extra={"reason": "too much at once"})
            self.transport.abort()
            return
        super().data_received(data)

    def eof_received(self) -> bool | None:
        return bool(super().eof_received()) if self._is_in else None

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_in:
            for end in self._ends:
                end.cancel()
            peers = self.event_handler.peers
            peers[self._peer] -= 1
            if not peers[self._peer]:
                del peers[self._peer]
            super().connection_lost(error)


async def open_listener(listener: Listener, host: str, port: int) -> asyncio.Server:
    """Raises OSError when the port is taken."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: _Conversation(
            listener,
            hostname=listener.hostname,
            ident="Usher",
            data_size_limit=MOST_BYTES,
            enable_SMTPUTF8=True,
            timeout=IDLE_S,
            command_call_limit=MOST_COMMANDS,
            loop=loop,
        ),
        host,
        port,
    )


def serve(mailroom: Mailroom, host: str, port: int) -> None:
    """Until SIGTERM or Ctrl-C; what is at work then is finished. Raises ConfigError when nobody can listen there."""
    asyncio.run(_serve(Listener(mailroom), host, port))


async def _serve(listener: Listener, host: str, port: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        server = await open_listener(listener, host, port)
    except OSError as exc:
        raise ConfigError("Nothing to listen on", [f"--host, --port: {host}:{port}: {exc.strerror}"]) from exc
    log.info("mail.listening", extra={"port": server.sockets[0].getsockname()[1]})
    await ended.wait()
    server.close()
    deadline = asyncio.get_running_loop().time() + LET_FINISH_S
    while listener.at_work and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    listener.close()
