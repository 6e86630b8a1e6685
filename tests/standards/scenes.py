"""The readers of the conformance suite: plain ones in every language, and those on whom letters break."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from integrations.email.render import Renderer
from tests.standards.letterbox import Scene

TEXTS = {
    "ends of lines": "Ann\r\nX-Injected: yes\r\n\r\nMore of it",
    "a CR": "Ann\rX-Injected: yes",
    "an LF": "Ann\nX-Injected: yes",
    "a folded line": "Ann\r\n X-Injected: yes",
    "other ends of lines": "Ann\x0bX-Injected: yes\x0c\x1c\x1d\x1e\x85\u2028X-Injected: yes\u2029",
    "an escaped end of a line": "Ann%0d%0aX-Injected: yes",
    "the end of a letter": "Ann\r\n.\r\nMAIL FROM:<eve>\r\n",
    "control characters": "".join(map(chr, range(32))) + "Ann\x7f\x80\x9f",
    "quotes": "Ann \"the \\ Quick\" <ann>, (Bob); 'Cem':",
    "an encoded word": "=?utf-8?q?Ann=0D=0AX-Injected:_yes?=",
    "the beginning of an encoded word": "=?utf-8?",
    "a boundary": "--=_0123456789abcdef01234567--",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 8,
    "right to left": "\u202eאנה\u2066 \u0634\u0631\u0642",
    "Japanese": "例えば" * 30,
    "combining marks": "A" + "\u0301\u0302\u0323" * 80,
    "half a character": "Ann\ud83d",
    "markup": "</title><script>alert(1)</script><mj-text>&amp;{{ 7 * 7 }}{% raw %}",
    "10,000 characters": "x" * 10_000,
    "10,000 characters in words": "Ann and Bob " * 833,
    "blanks": " \t\u00a0\u3000 ",
}
"""What people write in every field there is."""

ADDRESSES = {
    "an international domain": "ann@例え.jp",
    "an international address": "用户@例え.jp",
    "an international mailbox": "jörg@example.com",
    "the longest mailbox": "l" * 64 + "@example.com",
    "the longest domain": f"ann@{'.'.join(['d' * 61] * 4)}.example"[:254],
    "an odd mailbox": "o'brien+list/{x}=1!#$%&*^_`|~?-@example.com",
    "capitals": "Ann.Lee@EXAMPLE.com",
}

GROUPS = {
    "a long group": "g" * 200,
    "an odd group": "a.b:c/d?e=f&g;h\"i'j\\k<l>(m)@n,o",
    "a group of dots": "..",
    "a group of Wix": "9e2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a52",
}


def everybody(renderer: Renderer) -> Iterator[Scene]:
    languages = {tag for name in renderer.names() for tag in renderer.places(name)}
    for language in sorted(languages):
        yield Scene(f"in {language}", language=language)
    yield Scene("in no language of ours", language="tlh", first_name="")
    for name, text in TEXTS.items():
        yield Scene(name, first_name=text, group_name=text, site_name=text, reason=text)
    for name, address in ADDRESSES.items():
        yield Scene(name, email=address)
    for name, group in GROUPS.items():
        yield Scene(name, group=group)
    noise = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(4))
    yield Scene("the longest ids", ids=noise, group=noise)
