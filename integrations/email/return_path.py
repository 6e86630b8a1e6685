"""Addresses that say which letter something came back of: `local+<kind><token>@domain` (VERP). Pure.

The token is the letter's id and a keyed signature, so nobody without the key can make bounces up; the kind is signed
too. Servers on the way change the case of addresses, so the token has none: 24 bytes as base32 in 39 characters.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from enum import StrEnum

from core.errors import PermanentError
from integrations.email.message import parse_sender, wire_address

_ID_BYTES = 16
_MAC_BYTES = 8
_TOKEN_CHARACTERS = 39
LONGEST_LOCAL = 64 - len("+b") - _TOKEN_CHARACTERS
"""What is left of a local part (RFC 5321, 4.5.3.1.1)."""
_LONGEST_ADDRESS = 254


class PathKind(StrEnum):
    BOUNCES = "b"
    UNSUBSCRIBE = "u"


class ReturnPaths:
    """`address` is the bare one that all answers reach, whatever stands behind a `+`.

    Of `keys` the first signs and all are believed. Raises ValueError, in words for whoever set the address, when no
    return paths can be made of it.
    """

    def __init__(self, address: str, keys: Sequence[str]) -> None:
        try:
            local, _, domain = wire_address(address).rpartition("@")
        except PermanentError:
            raise ValueError("is not an address that answers can come back to") from None
        if not local.isascii():
            raise ValueError("must be ASCII before the @, or few servers could answer it")
        if len(local) > LONGEST_LOCAL:
            raise ValueError(
                f"has {len(local)} characters before the @; there is room for {LONGEST_LOCAL}, because every letter"
                " gets an address of its own, with 41 more behind them"
            )
        if len(local) + len("+b") + _TOKEN_CHARACTERS + len("@") + len(domain) > _LONGEST_ADDRESS:
            raise ValueError("has too long a domain for addresses of single letters")
        self.address = f"{local}@{domain}"
        self._local, self._domain = local, domain
        self._keys = [hmac.digest(key.encode(), b"usher.return-path", "sha256") for key in keys]
        kinds = "".join(PathKind)
        token = rf"([{kinds}][a-z2-7]{{{_TOKEN_CHARACTERS}}})"
        self._ours = re.compile(
            rf"(?<![a-z0-9.+]){re.escape(local)}\+{token}@{re.escape(domain)}(?![a-z0-9-]|\.[a-z0-9])",
            re.IGNORECASE | re.ASCII,
        )

    @classmethod
    def from_sender(cls, sender: str, keys: Sequence[str]) -> ReturnPaths:
        """Beside the sender's own address: `Name <hello@example.com>` gets `hello+…@example.com`."""
        try:
            _, address = parse_sender(sender)
        except PermanentError:
            raise ValueError("is not an address that answers can come back to") from None
        return cls(address, keys)

    def bounces(self, letter_id: str) -> str:
        """The envelope sender of this letter. An id is 32 hexadecimal characters; ValueError for another."""
        return self._address(PathKind.BOUNCES, letter_id)

    def unsubscribe(self, letter_id: str) -> str:
        """Whoever writes to it wants no more of these letters."""
        return self._address(PathKind.UNSUBSCRIBE, letter_id)

    def read(self, address: str) -> tuple[PathKind, str] | None:
        """Kind and letter of an address that was made here; None for any other."""
        match = self._ours.fullmatch(address.strip().removeprefix("<").removesuffix(">"))
        return self._open(match[1].lower()) if match else None

    def find(self, text: str) -> set[tuple[PathKind, str]]:
        """All that addresses made here say, wherever they stand in a header."""
        opened = (self._open(match[1].lower()) for match in self._ours.finditer(text))
        return {found for found in opened if found is not None}

    def _address(self, kind: PathKind, letter_id: str) -> str:
        if not re.fullmatch(rf"[0-9a-f]{{{2 * _ID_BYTES}}}", letter_id):
            raise ValueError("not the id of a letter")
        raw = bytes.fromhex(letter_id)
        token = _token(raw + _mac(self._keys[0], kind, raw))
        return f"{self._local}+{kind}{token}@{self._domain}"

    def _open(self, found: str) -> tuple[PathKind, str] | None:
        kind, token = PathKind(found[0]), found[1:]
        raw = base64.b32decode(token.upper() + "=")
        if _token(raw) != token:  # base32 leaves spare bits in the last character; only one spelling is ours
            return None
        letter, mac = raw[:_ID_BYTES], raw[_ID_BYTES:]
        believed = [hmac.compare_digest(mac, _mac(key, kind, letter)) for key in self._keys]
        return (kind, letter.hex()) if any(believed) else None


def _token(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def _mac(key: bytes, kind: PathKind, letter: bytes) -> bytes:
    # hmac.digest would hand the interpreter to another thread and wait to have it back, for a microsecond's work.
    return hmac.new(key, kind.encode() + letter, "sha256").digest()[:_MAC_BYTES]
