"""A report as a letter: its tables in text and HTML, and the file with the charts attached."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from core.consent import Purpose
from integrations.email.message import build_message, message_id_for, parse_sender
from integrations.email.render import Content
from integrations.reports.render import mail_parts, render_report


def build_report_letter(
    result: Mapping[str, Any], *, sender: str, to: str, key: str, date: datetime
) -> bytes:
    """The same Message-ID for the same `key`. Raises PermanentError for an address nobody can write to."""
    subject, text, html = mail_parts(result)
    message_id = message_id_for(key, parse_sender(sender)[1].rpartition("@")[2])
    letter = build_message(
        Content(subject=subject, text=text, html=html),
        sender=sender,
        to=to,
        message_id=message_id,
        date=date,
        purpose=Purpose.ONBOARDING,
    )
    _, name, page = render_report(result, "html")
    return _attach(
        letter, page, name, "=_" + hashlib.sha256(f"{message_id} and file".encode()).hexdigest()[:24]
    )


def _attach(letter: bytes, page: bytes, name: str, boundary: str) -> bytes:
    """The letter's own parts become the first of two (RFC 2046, 5.1.3)."""
    mark = b"\r\nContent-Type: multipart/alternative;"
    head, _, parts = letter.partition(mark)
    file = base64.encodebytes(page).replace(b"\n", b"\r\n")
    return b"".join(
        (
            head,
            f'\r\nContent-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n--{boundary}'.encode(),
            mark,
            parts,
            f"--{boundary}\r\nContent-Type: text/html; charset=utf-8\r\n".encode(),
            f'Content-Disposition: attachment; filename="{name}"\r\n'.encode(),
            b"Content-Transfer-Encoding: base64\r\n\r\n",
            file,
            f"--{boundary}--\r\n".encode(),
        )
    )
