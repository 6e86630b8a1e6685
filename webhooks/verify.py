"""Is this delivery from Wix? Pure: a token and the keys decide.

The whole body is one compact JWS (RS256). Nothing that the sender wrote is looked into before the signature is
known to be right, except the header's first segment.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from core.errors import InvalidSignatureError
from webhooks.opening import decode

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
    """Accepts what one of the keys signed. A second key serves while keys are being changed. As in Wix's own SDK, `kid`
    and keys named in the header mean nothing."""

    def __init__(self, keys: Sequence[RSAPublicKey]) -> None:
        self._keys = tuple((key, (key.key_size + 7) // 8) for key in keys)
        self._accepted_headers: set[bytes] = set()

    def verify(self, body: bytes) -> bytes:
        """The claims of one delivery, whose size the caller has bounded, as they were signed: for Opener.open.

        Raises InvalidSignatureError when signature or algorithm is wrong or the body is no token.
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
        self._check_signature(memoryview(token)[:payload_end], decode(token[payload_end + 1 :]))
        if is_new:  # remembered only now, so that nobody but Wix can fill the memory
            if len(self._accepted_headers) >= _REMEMBERED_HEADERS:
                self._accepted_headers.clear()
            self._accepted_headers.add(header)
        return token[header_end + 1 : payload_end]

    def _check_signature(self, signed: memoryview, signature: bytes) -> None:
        """What a key makes of the signature is the digest that was signed: only then is a long body worth hashing."""
        for key, length in self._keys:
            if len(signature) != length:
                continue
            try:
                digest = key.recover_data_from_signature(signature, _PADDING, _HASH)
            except InvalidSignature:
                continue
            if digest == hashlib.sha256(signed).digest():
                return
        raise InvalidSignatureError("no key fits the signature")


_PADDING = PKCS1v15()
_HASH = SHA256()


def _check_header(segment: bytes) -> None:
    try:
        header = json.loads(decode(segment).decode())
    except (ValueError, RecursionError) as exc:
        raise InvalidSignatureError("the header is not JSON") from exc
    if not isinstance(header, dict) or header.get("alg") != "RS256":
        raise InvalidSignatureError("the algorithm is not RS256")
    # RFC 7515, 4.1.11: an extension that one does not understand must be refused; RFC 7797: an unencoded payload.
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidSignatureError("the header asks for an extension")
