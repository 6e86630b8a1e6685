"""The witness: a mail server that counts what it took, and misbehaves when told.

Nothing here knows Usher. What the server took as its own counts, whether or not the client was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

Mode = Literal["up", "refuse", "silent"]

ON_CONNECT = "421_on_connect"
GREYLIST = "450_greylist_at_rcpt"
DROP = "drop_in_body"
CLOSED_TAKEN, CLOSED_LOST = "close_after_dot_taken", "close_after_dot_lost"
SILENT_TAKEN, SILENT_LOST = "silent_after_dot_taken", "silent_after_dot_lost"
SLOW = "slow"
REPLIES = {
    ON_CONNECT: "421 4.3.2 not now",
    "451_at_mail": "451 4.3.2 try again later",
    GREYLIST: "450 4.2.0 greylisted, come back",
    "452_at_rcpt": "452 4.7.0 too much mail at once",
    "454_at_data": "454 4.7.0 throttling failure",
    "4yz_at_dot": "451 4.3.0 could not be stored",
    "5yz_at_dot": "554 5.6.0 this letter cannot be taken",
    "421_after_dot": "421 4.3.2 going down",
}
UNDECIDABLE = frozenset({CLOSED_TAKEN, CLOSED_LOST, SILENT_TAKEN, SILENT_LOST, "421_after_dot"})
"""After these no client can know whether the letter was taken."""
UNANSWERED = "unanswered"
FAULTS = frozenset({*REPLIES, *UNDECIDABLE, DROP, SLOW})

MAX_LETTER_BYTES = 10 * 1024 * 1024
MAX_LINE_BYTES = 4096
SLOW_S = (0.1, 0.4)  # how late each reply of a slow transaction is
LEAVING_S = 1.0  # how long a server going down waits for the head of a body it has asked for
_ANSWER_S = 10.0  # for the server's own thread

_NOT_TAKEN = frozenset({"4yz_at_dot", "5yz_at_dot", "421_after_dot", CLOSED_LOST, SILENT_LOST})
_PATH = re.compile(r"(?:FROM|TO): ?<([^<>]*)>(?: (.*))?", re.IGNORECASE)
_HEAD = re.compile(rb"\r\nmessage-id:[ \t]*(?:\r\n[ \t]+)?([^\r\n]*)", re.IGNORECASE)
Script = Callable[[str, Sequence[float]], tuple[str, str] | None]
"""What a letter to an address meets: asked at RCPT with the address and the times (time.time()) at which letters to it
were tried, this one last. Answers the command that is refused, "RCPT", "DATA" or "." (the final dot), and the reply;
or DROP and ""; or None: the letter is taken. A reply of 421 ends the connection."""

_HELLO = f"250-witness\r\n250-SIZE {MAX_LETTER_BYTES}\r\n250-8BITMIME\r\n250 SMTPUTF8"


@dataclass(frozen=True, slots=True)
class Accepted:
    """One letter to one recipient, taken. `at` is time.time(), `told` whether 250 was sent, `size` in bytes.
    `sender` is that of the envelope, `head` the letter's headers."""

    message_id: str
    to: str
    at: float
    told: bool
    size: int
    sender: str = ""
    head: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A transaction that came as far as naming its recipient. `refused`: the script's reply; "" when it had none."""

    to: str
    at: float
    refused: str


class MailServer:
    """On 127.0.0.1, in a thread of its own, for as long as the context lasts. Thread-safe; what its properties
    give are copies.

    `mode` "refuse" closes port and connections, "silent" freezes: connections come about and stay, and what was
    sent meanwhile is read when the mode is "up" again. Each transaction (MAIL to verdict) meets at most one
    fault; 421_on_connect is drawn for each connection. While `refuse_mail` is not empty every MAIL is answered
    with it.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        silence_s: float = 5.0,
        max_connections: int = 200,
        script: Script = lambda _to, _tries: None,
    ) -> None:
        """`silence_s`: how long the faults of silence last before the server closes. `script` is called on the
        server's own thread."""
        self.port = 0
        self.silence_s = silence_s
        self.refuse_mail = ""
        self._script = script
        self._random = random.Random(seed)
        self._max_connections = max_connections
        self._mode: Mode = "up"
        self._lock = threading.Lock()
        self._faults: dict[str, float] = {}
        self._accepted: list[Accepted] = []
        self._attempts: list[Attempt] = []
        self._tries: dict[str, list[float]] = {}
        self._mails_refused = 0
        self._most_connections = 0
        self._injected: Counter[str] = Counter()
        self._undecidable: dict[str, set[str]] = {}
        self._greylisted: set[tuple[str, str]] = set()
        self._sessions: set[_Session] = set()
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> MailServer:
        # Bound and never listening: keeps the port ours while the server refuses.
        self._port_holder = _bound_socket(0)
        self.port = self._port_holder.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="witness", daemon=True)
        self._thread.start()
        self._run(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_S)
        self._loop.close()
        self._port_holder.close()

    @property
    def accepted(self) -> list[Accepted]:
        with self._lock:
            return list(self._accepted)

    @property
    def attempts(self) -> list[Attempt]:
        with self._lock:
            return list(self._attempts)

    @property
    def mails_refused(self) -> int:
        """How often `refuse_mail` was said."""
        return self._mails_refused

    @property
    def most_connections(self) -> int:
        """How many were there at a time, of those that had said EHLO."""
        return self._most_connections

    @property
    def injected(self) -> Counter[str]:
        """How often each fault came about."""
        with self._lock:
            return Counter(self._injected)

    @property
    def undecidable(self) -> dict[str, set[str]]:
        """By Message-ID, why a client may be unable to know: a fault of `UNDECIDABLE`; "drop_in_body", since its
        final dot may have been under way before it noticed; or "unanswered", when the server froze or went down
        between the start of the body and its verdict, or the client left before hearing it."""
        with self._lock:
            return {message_id: set(why) for message_id, why in self._undecidable.items()}

    @property
    def faults(self) -> dict[str, float]:
        return dict(self._faults)

    def set_faults(self, **shares: float) -> None:
        """The share of transactions, 0 to 1, that meet each fault; what is not named is off. ValueError for an
        unknown name, or shares that make more than 1 together (`421_on_connect` stands alone)."""
        if unknown := sorted(set(shares) - FAULTS):
            raise ValueError(f"unknown faults: {', '.join(unknown)}; there are {', '.join(sorted(FAULTS))}")
        of_transactions = sum(share for name, share in shares.items() if name != ON_CONNECT)
        if any(not 0 <= share <= 1 for share in shares.values()) or of_transactions > 1 + 1e-9:
            raise ValueError("shares of faults: each from 0 to 1, and together at most 1")
        self._faults = dict(shares)

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        """In force when this returns."""
        if mode not in ("up", "refuse", "silent"):
            raise ValueError(f"mode: expected up, refuse or silent, not {mode!r}")
        self._run(self._switch, mode)

    # On the server's thread

    def _run(self, step: Callable[..., Any], *arguments: object) -> None:
        async def run() -> None:
            result = step(*arguments)
            if result is not None:
                await result

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_ANSWER_S)

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(
            lambda: _Session(self), sock=_bound_socket(self.port), backlog=self._max_connections
        )

    async def _switch(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "refuse":
            self._close_listener()
        elif self._listener is None:
            await self._listen()
        for session in tuple(self._sessions):
            {"up": session.thaw, "silent": session.freeze, "refuse": session.leave}[mode]()

    async def _end(self) -> None:
        self._close_listener()
        for session in tuple(self._sessions):
            session.transport.abort()
        while self._sessions:
            await asyncio.sleep(0)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _is_full(self) -> bool:
        return len(self._sessions) > self._max_connections

    def _draw_for_connection(self) -> bool:
        return self._random.random() < self._faults.get(ON_CONNECT, 0.0)

    def _draw_for_transaction(self) -> str:
        chance = self._random.random()
        for name, share in self._faults.items():
            if name != ON_CONNECT and (chance := chance - share) < 0:
                return name
        return ""

    def _inject(self, fault: str) -> None:
        with self._lock:
            self._injected[fault] += 1

    def _doubt(self, message_id: str, why: str) -> None:
        with self._lock:
            self._undecidable.setdefault(message_id, set()).add(why)

    def _count_connections(self) -> None:
        there = sum(session._greeted for session in self._sessions)
        self._most_connections = max(self._most_connections, there)

    def _look_up(self, to: str) -> tuple[str, str]:
        """What the script has for this attempt; ("", "") for nothing."""
        now = time.time()
        tries = self._tries.setdefault(to, [])
        tries.append(now)
        command, reply = self._script(to, tries) or ("", "")
        with self._lock:
            self._attempts.append(Attempt(to, now, command if command == DROP else reply))
        return command, reply

    def _take(
        self, message_id: str, recipients: list[str], size: int, sender: str, head: bytes
    ) -> Callable[[], None]:
        """The letter is ours; to be called when the client is told so."""
        now = time.time()
        with self._lock:
            first = len(self._accepted)
            self._accepted += [Accepted(message_id, to, now, False, size, sender, head) for to in recipients]
            taken = range(first, len(self._accepted))

        def tell() -> None:
            with self._lock:
                for index in taken:
                    self._accepted[index] = replace(self._accepted[index], told=True)

        return tell


class _Session(asyncio.Protocol):
    """One connection. Input waits in the buffer while a reply is late or the server frozen."""

    transport: asyncio.Transport

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._busy = False
        self._held: tuple[str, Callable[[], None] | None, bool] | None = None
        self._frozen = False
        self._stale = False  # what is read next was sent while the server was frozen
        self._leaving = False
        self._greeted = False
        self._forget()

    def _forget(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._fault = ""
        self._scripted = ("", "")
        self._in_body = False
        self._searched = 0
        self._too_big = False
        self._awaits_verdict = ""  # the Message-ID

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self._server
        server._sessions.add(self)
        if server.mode == "refuse":
            self.transport.abort()
            return
        if server.mode == "silent":
            self.freeze()
        if server._is_full():
            self._say("421 4.7.0 too many connections", close=True)
        elif server._draw_for_connection():
            server._inject(ON_CONNECT)
            self._say(REPLIES[ON_CONNECT], close=True)
        else:
            self._say("220 witness")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's shape
        self._server._sessions.discard(self)
        if self._awaits_verdict:
            self._server._doubt(self._awaits_verdict, UNANSWERED)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def freeze(self) -> None:
        if not self._frozen:
            self._frozen = True
            self.transport.pause_reading()

    def thaw(self) -> None:
        if not self._frozen:
            return
        self._frozen, self._stale = False, True
        if self._held is not None:
            held, self._held = self._held, None
            self._speak(*held)
        if not self.transport.is_closing():
            self.transport.resume_reading()
        self._serve()

    def leave(self) -> None:
        """Hang up. In a body only when it is known which letter that leaves in doubt."""
        if not self._in_body:
            self.transport.close()
            return
        self._leaving = True
        self._server._loop.call_later(LEAVING_S, self.transport.abort)
        self.thaw()
        self._serve()

    # What is said

    def _say(self, reply: str, then: Callable[[], None] | None = None, *, close: bool = False) -> None:
        """`then` is called when it is really said, which may be later or never."""
        if self._fault == SLOW:
            self._busy = True
            delay_s = self._server._random.uniform(*SLOW_S)
            self._server._loop.call_later(delay_s, self._say_late, reply, then, close)
        else:
            self._speak(reply, then, close)

    def _say_late(self, *what: Any) -> None:
        self._speak(*what)
        self._serve()

    def _speak(self, reply: str, then: Callable[[], None] | None, close: bool) -> None:
        if self.transport.is_closing():
            return
        self._busy = False
        if self._frozen:
            self._held = (reply, then, close)
            if self._awaits_verdict:
                self._server._doubt(self._awaits_verdict, UNANSWERED)
            return
        if then is not None:
            then()
        self.transport.write(reply.encode() + b"\r\n")
        self._stale = False
        if close:
            self.transport.close()

    def _refuse(self, fault: str, *, close: bool = False) -> None:
        self._server._inject(fault)
        self._say(REPLIES[fault], close=close)

    def _refuse_with(self, reply: str) -> None:
        self._say(reply, close=reply.startswith("421"))

    # What is heard

    def _serve(self) -> None:
        while not (self._busy or self._frozen or self.transport.is_closing()):
            if self._in_body:
                if not self._hear_body():
                    return
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0 and len(self._buffer) <= MAX_LINE_BYTES:
                return
            line = bytes(self._buffer[: max(end, 0)])
            del self._buffer[: end + 2]
            if end < 0:
                self._say("500 5.5.2 line too long", close=True)
            else:
                self._obey(line.decode("utf-8", "replace"))

    def _obey(self, line: str) -> None:
        verb, _, arguments = line.partition(" ")
        match verb.upper():
            case "EHLO" | "HELO":
                self._forget()
                self._greeted = True
                self._server._count_connections()
                self._say(_HELLO if verb.upper() == "EHLO" else "250 witness")
            case "MAIL":
                self._mail(_PATH.fullmatch(arguments))
            case "RCPT":
                self._rcpt(_PATH.fullmatch(arguments))
            case "DATA":
                self._data()
            case "RSET":
                self._forget()
                self._say("250 2.0.0 forgotten")
            case "NOOP":
                self._say("250 2.0.0 here")
            case "QUIT":
                self._say("221 2.0.0 bye", close=True)
            case _:
                self._say("500 5.5.2 unknown command")

    def _mail(self, path: re.Match[str] | None) -> None:
        if not self._greeted or self._sender is not None:
            self._say("503 5.5.1 not now")
            return
        if path is None:
            self._say("501 5.5.4 MAIL FROM:<address>")
            return
        options = dict(option.partition("=")[::2] for option in (path[2] or "").upper().split())
        self._accepts_utf8 = "SMTPUTF8" in options
        size = options.get("SIZE", "0")
        if not size.isdecimal() or int(size) > MAX_LETTER_BYTES:
            self._say("552 5.3.4 too big")
            return
        if not (path[1].isascii() or self._accepts_utf8):
            self._say("553 5.6.7 address needs SMTPUTF8")
            return
        if reply := self._server.refuse_mail:
            self._server._mails_refused += 1
            self._refuse_with(reply)
            return
        self._fault = self._server._draw_for_transaction()
        if self._fault == "451_at_mail":
            self._refuse(self._fault)
            return
        if self._fault == SLOW:
            self._server._inject(SLOW)
        self._sender = path[1]
        self._say("250 2.1.0 fine")

    def _rcpt(self, path: re.Match[str] | None) -> None:
        if self._sender is None:
            self._say("503 5.5.1 MAIL first")
        elif path is None or not path[1]:
            self._say("501 5.5.4 RCPT TO:<address>")
        elif not (path[1].isascii() or self._accepts_utf8):
            self._say("553 5.6.7 address needs SMTPUTF8")
        elif self._fault == "452_at_rcpt":
            self._refuse(self._fault)
        elif self._fault == GREYLIST and (self._sender, path[1]) not in self._server._greylisted:
            # Every client here has the same address, the third part of the triple.
            self._server._greylisted.add((self._sender, path[1]))
            self._refuse(GREYLIST)
        else:
            self._scripted = self._server._look_up(path[1])
            if self._scripted[0] == "RCPT":
                self._refuse_with(self._scripted[1])
                return
            if self._scripted[0] == DROP:
                self._fault = DROP
            self._recipients.append(path[1])
            self._say("250 2.1.5 fine")

    def _data(self) -> None:
        if not self._recipients:
            self._say("503 5.5.1 RCPT first")
        elif self._fault == "454_at_data":
            self._refuse(self._fault)
            self._forget()
        elif self._scripted[0] == "DATA":
            self._refuse_with(self._scripted[1])
            self._forget()
        else:
            self._in_body = True
            # Lets the final dot of an empty letter, and the first header, look like all others.
            self._buffer[:0] = b"\r\n"
            self._say("354 go on")

    def _hear_body(self) -> bool:
        """False while the final dot is not there."""
        if (self._leaving or self._fault == DROP) and (known := _message_id(self._buffer)) is not None:
            self._break_off(known)
            return False
        end = self._buffer.find(b"\r\n.\r\n", self._searched)
        if end < 0:
            if len(self._buffer) > MAX_LETTER_BYTES + 2:
                self._too_big = True
                del self._buffer[:-4]
            self._searched = max(0, len(self._buffer) - 4)
            return False
        letter = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 5]
        self._in_body = False
        self._verdict(letter)
        return True

    def _break_off(self, message_id: str) -> None:
        self._server._doubt(message_id, UNANSWERED if self._leaving else DROP)
        if not self._leaving:
            self._server._inject(DROP)
            if self._server._random.random() < 0.5:
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        self.transport.abort()

    def _verdict(self, stuffed: bytes) -> None:
        """`stuffed` is the letter as it came, behind a line end."""
        server, fault, recipients = self._server, self._fault, self._recipients
        message_id = _message_id(stuffed) or ""
        if self._too_big:
            self._forget()
            self._say("552 5.3.4 too big")
            return
        if self._scripted[0] == ".":
            reply = self._scripted[1]
            self._forget()
            self._refuse_with(reply)
            return
        if self._stale:
            server._doubt(message_id, UNANSWERED)
        tell: Callable[[], None] | None = None
        if fault not in _NOT_TAKEN:
            size = len(stuffed.replace(b"\r\n.", b"\r\n")) - 2
            head = stuffed[2:].partition(b"\r\n\r\n")[0]
            tell = server._take(message_id, recipients, size, self._sender or "", head)
        if fault in UNDECIDABLE:
            server._doubt(message_id, fault)
        if fault in (CLOSED_TAKEN, CLOSED_LOST):
            server._inject(fault)
            self.transport.close()
        elif fault in (SILENT_TAKEN, SILENT_LOST):
            server._inject(fault)
            self._busy = True
            server._loop.call_later(server.silence_s, self.transport.close)
        elif fault in _NOT_TAKEN:
            self._forget()
            self._refuse(fault, close=fault == "421_after_dot")
        else:
            self._awaits_verdict = message_id

            def said() -> None:
                self._forget()
                if tell is not None:
                    tell()

            self._say("250 2.0.0 taken", said)


def _message_id(letter: bytes | bytearray) -> str | None:
    """None while the head is not there to its end and has not named it; "" for a letter without one."""
    end = letter.find(b"\r\n\r\n")
    found = _HEAD.search(letter, 0, end + 2 if end >= 0 else len(letter))
    if found is not None and found.end() < len(letter):
        return found[1].decode("utf-8", "replace").strip()
    return "" if end >= 0 else None


def _bound_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        undo.pop_all()
    return sock
