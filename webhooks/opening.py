"""What a delivery says that is known to be from Wix. Pure: its claims and the time decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from core.errors import ExpiredTokenError, InvalidSignatureError, MalformedEventError
from core.events import Event, open_delivery, parse_object


class Opener:
    """`hash_address` is for core.events.open_delivery.

    `leeway_s` forgives clocks that disagree. As in Wix's own SDK, `exp` and `nbf` count when they are there,
    `iat` may lie in the future, and `aud` and `iss` mean nothing.
    """

    def __init__(
        self, hash_address: Callable[[str], Sequence[str]] = lambda _: (), *, leeway_s: float = 60
    ) -> None:
        self._hash_address = hash_address
        self._leeway_s = leeway_s

    def open(self, claims: bytes, now: datetime) -> Event:
        """Read the middle segment of a token whose signature was checked.

        Raises InvalidSignatureError when it is no base64url or its times are none, ExpiredTokenError when it is only
        too old, MalformedEventError when it is no delivery.
        """
        try:
            said = parse_object(decode(claims).decode(), "the claims")
        except UnicodeDecodeError as exc:
            raise MalformedEventError("the claims are not UTF-8") from exc
        self._check_time(said, now.timestamp())
        return open_delivery(said, now, self._hash_address)

    def _check_time(self, claims: Mapping[str, Any], now_s: float) -> None:
        for name, value in claims.items():
            if name in _TIMES and not _is_time(value):
                raise InvalidSignatureError(f"{name} is not a time")
        if claims.get("nbf", now_s) > now_s + self._leeway_s:
            raise InvalidSignatureError("not valid yet")
        if claims.get("exp", math.inf) <= now_s - self._leeway_s:
            raise ExpiredTokenError("expired")


_TIMES = frozenset({"exp", "nbf", "iat"})

# What plain base64 has in these places, and what would mean something in a JSON text, is as foreign as any "!".
_FROM_URL = bytes.maketrans(b'-_+/="\\', b"+/!!!!!")
_ENDS = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}  # by what remains of a division by four
_PADDING_OF = {0: b'"', 2: b'=="', 3: b'="'}
_BASE64 = msgspec.json.Decoder(bytes)  # as strict as binascii, in half the time


def decode(segment: bytes) -> bytes:
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
