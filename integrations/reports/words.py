"""Texts of strangers, fit for any form of a report: names of groups are whatever somebody typed."""

from __future__ import annotations

import re

# What no XML may hold, and marks that turn the direction of everything after them; what joins emoji and letters stays.
_UNWANTED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)


def clean(text: str) -> str:
    """One line of it. A name of nothing but spaces is told as such."""
    return " ".join(_UNWANTED.sub(" ", text).split()) or "(no name)"
