"""Cells of a table that a spreadsheet will open: none may be a formula (OWASP on CSV injection)."""

from __future__ import annotations

import unicodedata

FORMULA = tuple("=+-@|%＝＋－＠")
"""What a formula begins with, in one spreadsheet or another; spaces and what nobody sees before it are overlooked."""


def defuse(text: str) -> str:
    """A text that would be taken for a formula, marked as a text."""
    seen = next((sign for sign in text if not (sign.isspace() or _is_invisible(sign))), "")
    return f"'{text}" if text[:1] in ("\t", "\r") or seen in FORMULA else text


def _is_invisible(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cf", "Cc")
