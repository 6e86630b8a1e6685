"""Texts that are written here and translated where they are shown."""

from __future__ import annotations


def N_(text: str) -> str:  # noqa: N802 (gettext's own name for it)
    """Marks a text for the translators (gettext's no-op)."""
    return text
