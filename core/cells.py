"""Cells of a table that a spreadsheet will open: none may be a formula (OWASP on CSV injection)."""

from __future__ import annotations

FORMULA = tuple("=+-@|%＝＋－＠")
"""What a formula begins with, in one spreadsheet or another; spaces before it are overlooked."""


def defuse(text: str) -> str:
    """A text that would be taken for a formula, marked as a text."""
    return f"'{text}" if text[:1] in ("\t", "\r") or text.lstrip().startswith(FORMULA) else text
