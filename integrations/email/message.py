"""One letter as the bytes that go over the wire (RFC 5322, 2046, 2047, 8058).

Written out by hand rather than through EmailMessage: it is as long, many times faster, and no folding
algorithm encodes the unsubscribe link, which must stay one plain URI for mailbox providers to find it.
"""

from __future__ import annotations

import functools
import hashlib
import html
import re
import unicodedata
from datetime import datetime, timedelta
from email.header import Header
from email.utils import format_datetime, parseaddr, quote
from urllib.parse import quote as percent_encoded

import idna

from core.consent import Purpose
from core.errors import PermanentError
from integrations.email.parts import wire_part
from integrations.email.render import Content

_LOCAL = re.compile(r"[^\s<>()\[\]\\,;:@\"\x00-\x20\x7f-\xa0]{1,64}")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
IDEMPOTENCY_HEADERS = ("Resend-Idempotency-Key", "Idempotency-Key", "X-EE-Idempotency-Key")
"""As Resend, Lettermint and EmailEngine call it."""
_FOLD = "\r\n "
_LIST_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# Plain http is for trying things out on one machine.
_UNSUBSCRIBE = re.compile(r"(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/])[!#-;=?-\[\]_a-z~%]{1,800}")


def build_message(
    content: Content,
    *,
    sender: str,
    to: str,
    message_id: str,
    date: datetime,
    purpose: Purpose,
    list_id: str = "",
    list_name: str = "",
    unsubscribe_url: str = "",
    unsubscribe_address: str = "",
    feedback_id: str = "",
    postal_address: str = "",
) -> bytes:
    """The same bytes for the same input. `sender` is `Name <address>`, `to` and `unsubscribe_address` bare ones,
    `list_id` without brackets, `date` aware.

    Raises PermanentError for an address nobody can write to, and for a promotional letter without an
    unsubscribe link and a postal address that its reader can see in both parts.
    """
    if not re.fullmatch(r"<[!-;=?-~]{1,250}>", message_id):
        raise PermanentError("the message id is not one")
    headers = [
        _date(date.replace(microsecond=0), date.utcoffset()),
        _from(sender),
        f"To: {wire_address(to)}",
        f"Subject: {_words('Subject', _plain(content.subject))}",
        f"Message-ID: {message_id}",
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: OOF, AutoReply",
    ]
    if list_id:
        headers.append(_list(list_id, list_name))
    if purpose is Purpose.PROMOTIONAL:
        _require_a_way_out(content, unsubscribe_url, postal_address)
        if feedback_id:
            headers.append(f"Feedback-ID: {feedback_id}")
    if unsubscribe_url:
        if not _UNSUBSCRIBE.fullmatch(unsubscribe_url):
            raise PermanentError("the link to unsubscribe is not one that mail programs follow")
        ways = [f"<{unsubscribe_url}>"]
        if unsubscribe_address:
            local, _, domain = wire_address(unsubscribe_address).rpartition("@")
            # What may stand in it as it is: RFC 6068, 2.
            local = percent_encoded(local, safe="!$'*+")
            ways.append(f"<mailto:{local}@{domain}?subject=unsubscribe>")
        headers.append(f"List-Unsubscribe: {(',' + _FOLD).join(ways)}")
        headers.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    # Relays that know one of these send a letter with the same key once, however often it is handed over.
    key = message_id[1:-1]
    headers += [f"{name}: {key}" for name in IDEMPOTENCY_HEADERS]
    # "=_" can appear in neither quoted-printable nor base64, so no text can end a part.
    boundary = "=_" + hashlib.sha256(message_id.encode()).hexdigest()[:24]
    headers.append("MIME-Version: 1.0")
    headers.append(f'Content-Type: multipart/alternative; boundary="{boundary}"')
    plain, rich = content.parts or (wire_part("plain", content.text), wire_part("html", content.html))
    head, line = "\r\n".join(headers).encode(), b"--" + boundary.encode()
    return b"%b\r\n\r\n%b\r\n%b\r\n%b\r\n%b\r\n%b--\r\n" % (head, line, plain, line, rich, line)


@functools.lru_cache(maxsize=64)
def feedback_id(template: str, site: str, purpose: Purpose, domain: str) -> str:
    """Four fields by which Gmail's feedback loop counts complaints; the last one, the sender, never changes."""
    fields = (template, site, str(purpose), domain)
    return ":".join(re.sub(r"[^A-Za-z0-9._-]", "-", field)[:60] for field in fields)


def message_id_for(key: str, domain: str) -> str:
    """The same on every attempt of one letter; `key` is the ledger's."""
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{_ascii_domain(domain)}>"


# What many letters have in common is made once for all of them.


@functools.lru_cache(maxsize=8)
def _date(second: datetime, _offset: timedelta | None) -> str:
    """One moment is the same in every zone, and written as in one of them."""
    return f"Date: {format_datetime(second)}"


@functools.lru_cache(maxsize=64)
def _list(list_id: str, name: str) -> str:
    if not _LIST_ID.fullmatch(list_id) or len(list_id) > 255:
        raise PermanentError("the list id is not a row of words and dots")
    return f"List-Id: {_display('List-Id', name)}<{list_id}>"


@functools.lru_cache(maxsize=8)
def _from(sender: str) -> str:
    name, address = parse_sender(sender)
    return f"From: {_display('From', name)}<{address}>"


@functools.lru_cache(maxsize=8)
def parse_sender(sender: str) -> tuple[str, str]:
    """`Name <address>` or a bare address, as name and address ready for the wire. Raises PermanentError."""
    name, address = parseaddr(sender)
    address = wire_address(address)
    if not address.isascii():
        raise PermanentError(
            "the sender's address must be ASCII before the @, or few servers could answer it"
        )
    return _plain(name), address


@functools.lru_cache(maxsize=64)
def wire_address(address: str) -> str:
    """The address with its domain in A-labels (RFC 5891); a local part that is not ASCII stays (RFC 6531).

    Raises PermanentError, without naming the address, for what no server could take.
    """
    local, _, domain = address.rpartition("@")
    if not _LOCAL.fullmatch(local) or local.startswith(".") or local.endswith(".") or ".." in local:
        raise PermanentError("the address is not one that mail can be sent to (part before the @)")
    try:
        local.encode()
    except UnicodeEncodeError:
        raise PermanentError("the address is not one that mail can be sent to (part before the @)") from None
    return f"{unicodedata.normalize('NFC', local)}@{_ascii_domain(domain)}"


@functools.lru_cache(maxsize=1024)
def _ascii_domain(domain: str) -> str:
    try:
        ascii_domain = domain.lower() if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        ascii_domain = ""
    if not _DOMAIN.fullmatch(ascii_domain):
        raise PermanentError("the address is not one that mail can be sent to (domain)")
    return ascii_domain


def _require_a_way_out(content: Content, unsubscribe_url: str, postal_address: str) -> None:
    if not _UNSUBSCRIBE.fullmatch(unsubscribe_url):
        raise PermanentError("a promotional letter needs an https link to unsubscribe")
    address = " ".join(postal_address.split())
    if not address:
        raise PermanentError("a promotional letter needs a postal address")
    for part, text in (("body.txt", content.text), ("body.mjml", content.html)):
        # As it stands there, nothing in it could be meant otherwise: the usual case, and quickly found.
        if unsubscribe_url in text and address in text and "&" not in unsubscribe_url + address:
            continue
        words = " ".join((html.unescape(text) if part == "body.mjml" else text).split())
        if unsubscribe_url not in words:
            raise PermanentError(f"{part} of a promotional letter does not show {{{{ unsubscribe_url }}}}")
        if address not in words:
            raise PermanentError(f"{part} of a promotional letter does not show {{{{ postal_address }}}}")


def _plain(text: str) -> str:
    """One line without control characters: what can be a header cannot start another."""
    kept = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
    return " ".join(kept.encode("utf-8", "ignore").decode().split())[:250]


def _words(header: str, text: str) -> str:
    if text.isascii() and "=?" not in text:
        if len(header) + len(": ") + len(text) <= 78:
            return text
        return Header(text, "us-ascii", header_name=header, maxlinelen=78).encode(linesep="\r\n")
    return Header(text, "utf-8", header_name=header, maxlinelen=75).encode(linesep="\r\n")


def _display(header: str, name: str) -> str:
    name = _plain(name)
    if not name:
        return ""
    if name.isascii() and "=?" not in name:
        return f'"{quote(name)}" '
    return _words(header, name) + _FOLD  # a line with encoded words has 76 characters at most (RFC 2047, 2)
