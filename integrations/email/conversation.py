"""A connection to a mail server from its EHLO on: lines said and replies heard (RFC 5321, 4.2 and 2920).

smtplib opens it, with TLS and login, and says goodbye. In between it takes ten times as long over a reply as this does,
and cannot look whether something was said before it was asked for.
"""

from __future__ import annotations

import contextlib
import re
import select
import smtplib
import socket
import ssl
import time

from integrations import soon

_LONGEST_REPLY = 64 * 1024
_AT_ONCE = 8192
_EARLY = re.compile(rb"([45]\d\d)[ -]([^\r\n]*)")


class Conversation:
    """Every method raises OSError when the connection is broken or nothing was said in time."""

    def __init__(self, smtp: smtplib.SMTP, timeout_s: float) -> None:
        """`timeout_s` is for each answer."""
        if smtp.sock is None or smtp.file is None:
            raise ConnectionResetError
        self._sock: socket.socket = smtp.sock
        self._timeout_s = timeout_s
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        # Body and final dot are two small writes: Nagle's algorithm would hold the second back for 40 ms.
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.settimeout(0)
        self._heard = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            # What came in one piece with the last reply lies in smtplib's own buffer.
            self._heard = smtp.file.peek(1)
        self._sock.settimeout(timeout_s)
        self.at_once = smtp.has_extn("pipelining")
        """Whether the server takes several commands in one go, which saves ways there and back."""
        self.takes_size = smtp.has_extn("size")
        self.takes_utf8 = smtp.has_extn("smtputf8")

    def say(self, words: bytes) -> None:
        self._sock.sendall(words)

    def hear(self, timeout_s: float | None = None) -> tuple[int, str]:
        """Code and text of the next reply; code -1 for what is none."""
        if timeout_s is not None:
            self._sock.settimeout(timeout_s)
        self._ends_at = time.monotonic() + (timeout_s or self._timeout_s)
        self._pieces = 0
        code, lines, left = 0, list[bytes](), _LONGEST_REPLY
        more = True
        while more:
            line = self._line(left)
            left -= len(line)
            code = int(line[:3]) if line[:3].isdigit() else -1
            more = code >= 0 and line[3:4] == b"-"
            lines.append(line[4:].strip())
        if timeout_s is not None or self._pieces > 1:
            self._sock.settimeout(self._timeout_s)
        return code, b"\n".join(lines).decode("utf-8", "replace")

    def _line(self, longest: int) -> bytes:
        while (end := self._heard.find(b"\n")) < 0 and len(self._heard) < longest:
            self._pieces += 1
            if self._pieces > 1:  # who says a word now and then is not waited for longer
                self._sock.settimeout(max(0.001, self._ends_at - time.monotonic()))
            self._heard += self._more()
        if not 0 <= end < longest:
            raise ConnectionAbortedError
        line, self._heard = self._heard[: end + 1], self._heard[end + 1 :]
        return line

    def _more(self) -> bytes:
        soon.look(self._poll)
        more = self._sock.recv(_AT_ONCE)
        if not more:
            raise ConnectionResetError
        return more

    def is_silent_for(self, s: float) -> bool:
        """Whether nothing has come after so long; what TLS has read already may count as nothing."""
        return not self._heard and not soon.wait(self._poll, s)

    def said_early(self) -> tuple[int, str] | None:
        """What the server said before it was its turn, without waiting. A server that goes away during the body is
        noticed here, while the letter can still be deferred; one that said more than it was asked is not believed."""
        if not self._heard:
            # What TLS has read already no poll sees.
            if not self._poll.poll(0) and not (
                isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
            ):
                return None
            self._sock.settimeout(0)
            try:
                self._heard = self._more()
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            finally:
                self._sock.settimeout(self._timeout_s)
        reply = _EARLY.match(self._heard)
        if reply is None:
            raise ConnectionResetError
        return int(reply[1]), reply[2].decode("utf-8", "replace")
