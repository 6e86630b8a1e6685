"""The text and the HTML of a letter as they go over the wire (RFC 2045).

Quoted-printable may end a line softly wherever it likes. Here it does so where a cell or a link begins, whatever stands
before: MJML writes most of a letter in one line, and so what letters have in common is encoded once for all of them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

_PIECE = re.compile(r"<?[^\n<]*(?:<(?!td|a )[^\n<]*)*\n?")
_SOFT_END = b"=\n"


def wire_part(subtype: str, text: str) -> bytes:
    plain = re.sub(r"\r\n?", "\n", text) if "\r" in text else text
    data, encoded = plain.encode("utf-8", "ignore"), quoted(plain)
    if _is_longer(len(encoded), _octets(data)):
        return _framed(subtype, "base64", _lines(base64.encodebytes(data.replace(b"\n", b"\r\n"))))
    return _framed(subtype, "quoted-printable", _lines(encoded))


def quoted(text: str, *, goes_on: bool = False) -> bytes:
    """Quoted-printable, of text whose lines end in LF. `goes_on`: something follows, on a line of its own."""
    pieces = _pieces(text)
    followed = len(pieces) if goes_on else len(pieces) - 1
    return b"".join([_quoted(piece, at < followed) for at, piece in enumerate(pieces)])


def _pieces(text: str) -> list[str]:
    return [piece for piece in _PIECE.findall(text) if piece]


def _quoted(piece: str, is_followed: bool) -> bytes:
    if not is_followed or piece.endswith("\n"):
        return binascii.b2a_qp(piece.encode("utf-8", "ignore"), istext=True)
    # A last line may have all 76 characters; with one more behind it there is room for the soft end.
    encoded = binascii.b2a_qp(f"{piece}x".encode("utf-8", "ignore"), istext=True)[:-1]
    return encoded if encoded.endswith(_SOFT_END) else encoded + _SOFT_END


def _octets(data: bytes) -> int:
    return len(data) + data.count(b"\n")


def _is_longer(quoted: int, octets: int) -> bool:
    """Whether base64, with an end of line after 57 octets, would be shorter."""
    return 4 * -(-octets // 3) + -(-octets // 57) < quoted


def _lines(encoded: bytes) -> bytes:
    return encoded.replace(b"\n", b"\r\n")


def _framed(subtype: str, encoding: str, encoded: bytes) -> bytes:
    head = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return b"%b%b\r\n" % (head.encode(), encoded.rstrip(b"\r\n"))


@dataclass(frozen=True, slots=True)
class _Run:
    """Text that is the same for all, as it is encoded; or a piece with marks, split at them."""

    text: str = field(repr=False)
    goes_on: bool
    encoded: bytes = field(repr=False)
    length: int
    """Of what is encoded, with LF."""
    octets: int
    split: Sequence[str] = field(default=(), repr=False)


class PartMould:
    """A part in which only marks are filled in, with what has no end of line itself."""

    def __init__(self, subtype: str, text: str, marks: tuple[str, ...]) -> None:
        self._subtype = subtype
        self._runs: list[_Run] = []
        split = re.compile(f"({'|'.join(marks)})").split
        runs: list[str] = []
        for marked, pieces in groupby(_pieces(text), lambda piece: any(mark in piece for mark in marks)):
            found = list(pieces)
            runs += found if marked else ["".join(found)]
        for number, run in enumerate(runs, 1):
            goes_on = number < len(runs)
            encoded, parts = quoted(run, goes_on=goes_on), split(run)
            octets = _octets(run.encode("utf-8", "ignore"))
            self._runs.append(
                _Run(run, goes_on, _lines(encoded), len(encoded), octets, parts if len(parts) > 1 else ())
            )

    def fill(self, values: Mapping[str, str]) -> tuple[str, bytes]:
        """With values by their marks: the text, and what `wire_part` makes of it."""
        texts, lines, length, octets = [], [], 0, 0
        for run in self._runs:
            if not run.split:
                texts.append(run.text)
                lines.append(run.encoded)
                length += run.length
                octets += run.octets
            else:
                text = "".join([values.get(piece, piece) for piece in run.split])
                encoded = quoted(text, goes_on=run.goes_on)
                texts.append(text)
                lines.append(_lines(encoded))
                length += len(encoded)
                octets += _octets(text.encode("utf-8", "ignore"))
        whole = "".join(texts)
        if _is_longer(length, octets):
            return whole, wire_part(self._subtype, whole)
        return whole, _framed(self._subtype, "quoted-printable", b"".join(lines))
