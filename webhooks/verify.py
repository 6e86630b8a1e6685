"""Is this delivery from Wix? Pure: a token, the keys and the time decide.

The whole body is one compact JWS (RS256). Nothing that the sender wrote is looked into before the signature is
known to be right, except the header's first segment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from core.errors import ExpiredTokenError, InvalidSignatureError, MalformedEventError
from core.events import Event, open_delivery, parse_object

_SMALLEST_KEY_BITS = 2048  # RFC 7518, 3.3
_LONGEST_SEGMENT_BYTES = 8192  # of header and signature; room for a chain of certificates, which is ignored
_REMEMBERED_HEADERS = 16


def load_public_key(text: str) -> RSAPublicKey:
    """Read the key as the dashboard or an environment variable holds it.

    Accepts PEM, PEM whose line ends are written as `\\n`, and base64 of the PEM; quotes and space around it
    do not matter. Raises ValueError, which says what is wrong and never repeats the text.
    """
    pem = _as_pem(text)
    if "PRIVATE KEY-----" in pem:
        raise ValueError("this is a private key; paste the public key of the app (BEGIN PUBLIC KEY)")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("not a readable public key in PEM form (BEGIN PUBLIC KEY)") from exc
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA key; Wix signs with RS256")
    if key.key_size < _SMALLEST_KEY_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits; {_SMALLEST_KEY_BITS} are the least")
    return key


def _as_pem(text: str) -> str:
    text = text.strip().strip("\"'").replace("\\r", "").replace("\\n", "\n").strip()
    if not text:
        raise ValueError("the public key is empty")
    if "-----BEGIN" in text:
        return text
    try:
        pem = base64.b64decode("".join(text.split()), validate=True).decode("ascii")
    except ValueError:
        pem = ""
    if "-----BEGIN" not in pem:
        raise ValueError("neither PEM (-----BEGIN PUBLIC KEY-----) nor base64 of it")
    return pem


class Verifier:
    """Accepts what one of the keys signed. A second key serves while keys are being changed. `hash_address` is for
    core.events.open_delivery.

    `leeway_s` forgives clocks that disagree. As in Wix's own SDK, `exp` and `nbf` count when they are there,
    `iat` may lie in the future, and `aud`, `iss`, `kid` and keys named in the header mean nothing.
    """

    def __init__(
        self,
        keys: Sequence[RSAPublicKey],
        *,
        hash_address: Callable[[str], Sequence[str]] = lambda _: (),
        leeway_s: float = 60,
    ) -> None:
        self._keys = tuple((key, (key.key_size + 7) // 8) for key in keys)
        self._hash_address = hash_address
        self._leeway_s = leeway_s
        self._accepted_headers: set[bytes] = set()

    def verify(self, body: bytes, now: datetime) -> Event:
        """Open one delivery, whose size the caller has bounded.

        Raises InvalidSignatureError when signature, algorithm or time is wrong or the body is no token,
        ExpiredTokenError when it is only too old, MalformedEventError when it is signed but no delivery.
        """
        token = body.strip()
        header_end, payload_end = token.find(b"."), token.rfind(b".")
        if header_end == payload_end or token.find(b".", header_end + 1) != payload_end:
            raise InvalidSignatureError("not a compact token of three parts")
        if max(header_end, len(token) - payload_end - 1) > _LONGEST_SEGMENT_BYTES:
            raise InvalidSignatureError("header or signature is too long")
        header = token[:header_end]
        is_new = header not in self._accepted_headers
        if is_new:
            _check_header(header)
        self._check_signature(memoryview(token)[:payload_end], _decode(token[payload_end + 1 :]))
        if is_new:  # remembered only now, so that nobody but Wix can fill the memory
            if len(self._accepted_headers) >= _REMEMBERED_HEADERS:
                self._accepted_headers.clear()
            self._accepted_headers.add(header)
        try:
            claims = parse_object(_decode(token[header_end + 1 : payload_end]).decode(), "the claims")
        except UnicodeDecodeError as exc:
            raise MalformedEventError("the claims are not UTF-8") from exc
        self._check_time(claims, now.timestamp())
        return open_delivery(claims, now, self._hash_address)

    def _check_signature(self, signed: memoryview, signature: bytes) -> None:
        """What a key makes of the signature is the digest that was signed: only then is a long body worth hashing."""
        for key, length in self._keys:
            if len(signature) != length:
                continue
            try:
                digest = key.recover_data_from_signature(signature, _PADDING, _HASH)
            except InvalidSignature:
                continue
            if digest == _hash(signed):
                return
        raise InvalidSignatureError("no key fits the signature")

    def _check_time(self, claims: Mapping[str, Any], now_s: float) -> None:
        for name in ("exp", "nbf", "iat"):
            if name in claims and not _is_time(claims[name]):
                raise InvalidSignatureError(f"{name} is not a time")
        if claims.get("nbf", now_s) > now_s + self._leeway_s:
            raise InvalidSignatureError("not valid yet")
        if claims.get("exp", math.inf) <= now_s - self._leeway_s:
            raise ExpiredTokenError("expired")


def _hash(text: memoryview) -> bytes:
    """For pieces of 2 KiB and more hashlib gives Python's lock away. The thread that commits would be woken up for
    each of them, and find the lock taken again."""
    hashed = hashlib.sha256(text[:_PIECE])
    for start in range(_PIECE, len(text), _PIECE):
        hashed.update(text[start : start + _PIECE])
    return hashed.digest()


_PIECE = 2047
_PADDING = PKCS1v15()
_HASH = SHA256()


def _check_header(segment: bytes) -> None:
    try:
        header = json.loads(_decode(segment).decode())
    except (ValueError, RecursionError) as exc:
        raise InvalidSignatureError("the header is not JSON") from exc
    if not isinstance(header, dict) or header.get("alg") != "RS256":
        raise InvalidSignatureError("the algorithm is not RS256")
    # RFC 7515, 4.1.11: an extension that one does not understand must be refused; RFC 7797: an unencoded payload.
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidSignatureError("the header asks for an extension")


# What plain base64 has in these places, and what would mean something in a JSON text, is as foreign as any "!".
_FROM_URL = bytes.maketrans(b'-_+/="\\', b"+/!!!!!")
_ENDS = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}  # by what remains of a division by four
_PADDING_OF = {0: b'"', 2: b'=="', 3: b'="'}
_BASE64 = msgspec.json.Decoder(bytes)  # as strict as binascii, in half the time


def _decode(segment: bytes) -> bytes:
    """Decode base64url as RFC 7515 has it: no padding, no foreign characters, no loose bits at the end."""
    left = len(segment) % 4
    if left == 1 or (left and segment[-1] not in _ENDS[left]):
        raise InvalidSignatureError("not canonical base64url")
    try:
        return _BASE64.decode(b'"' + segment.translate(_FROM_URL) + _PADDING_OF[left])
    except ValueError as exc:
        raise InvalidSignatureError("not base64url") from exc


def _is_time(value: object) -> bool:
    """Anything but a finite number is refused, as the SDK does."""
    return type(value) is int or (type(value) is float and math.isfinite(value))
