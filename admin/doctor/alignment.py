"""Which domains belong together, as DMARC sees it.

The organisational domain is found by a simple rule and not by the public suffix list: two labels, three below endings
such as co.uk. Findings show it, so that somebody sees when it is wrong.
"""

from __future__ import annotations

_SHARED_ENDINGS = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gouv", "gov", "id", "mil", "ne", "net", "nom", "or", "org"}
)


def organisational(domain: str) -> str:
    labels = domain.lower().rstrip(".").split(".")
    short = len(labels[-1]) == 2 and len(labels) > 2 and labels[-2] in _SHARED_ENDINGS
    return ".".join(labels[-3 if short else -2 :])


def are_aligned(one: str, other: str, *, strict: bool = False) -> bool:
    """RFC 7489 section 3.1."""
    if strict:
        return one.lower() == other.lower()
    return bool(one) and organisational(one) == organisational(other)
