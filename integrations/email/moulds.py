"""Letters that differ in nothing but their reader: what they share is rendered once, and only the reader's name and
their link to unsubscribe are filled in for each.

A mould is for one letter, language, purpose and one set of all other values. It is only made where a template shows
what is personal as it is, and asks nothing of it but whether it is there (`shows_plainly`); and it only counts when
it gives, for several readers that are hard to get right, the very bytes of the slow way.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence

from jinja2 import nodes
from markupsafe import escape

from integrations.email.parts import PartMould, wire_part

PERSONAL = ("member_name", "unsubscribe_url")
LONGEST_SOURCE = 200_000
"""Characters of MJML; a letter of that length is rare, and is rendered each time."""
LONGEST_LINK = 1000
_TRIALS = (
    ("Ana", "https://usher.example.com/unsubscribe/uWyJ-_.x"),
    ('O\'Neil & <b>"Zoë"</b> -- ]]> {{x}}', "http://127.0.0.1:8000/u?a=b&c=%20~&lt;#x"),
    ("אבי 😀 نورا", "https://usher.example.com/unsubscribe/" + "d" * 400),
    ("Wolfeschlegelsteinhausenbergerdorff =2E. xxxxxxxxxxxxxxxxxxx", "https://x.yz/"),
)
"""Readers whose letters are hard to get right."""


class Mould:
    """Subject, text and HTML in pieces: what is the same for all, and in between the marks of what is not."""

    def __init__(self, subject: str, text: str, html: str, marks: tuple[str, ...]) -> None:
        self._subject = re.compile(f"({'|'.join(marks)})").split(subject)
        self._text = PartMould("plain", text, marks)
        self._html = PartMould("html", html, marks)
        self._marks = marks

    def fill(self, *personal: str) -> tuple[str, str, str, tuple[bytes, bytes]]:
        """For the reader of whom this is so, in the order of PERSONAL: subject, text and HTML, and both parts."""
        plain = dict(zip(self._marks, personal, strict=True))
        text, text_part = self._text.fill(plain)
        html, html_part = self._html.fill({mark: str(escape(value)) for mark, value in plain.items()})
        subject = "".join([plain.get(piece, piece) for piece in self._subject])
        return subject, text, html, (text_part, html_part)


def make_mould(
    personal: Sequence[str],
    fill: Callable[[Mapping[str, str]], tuple[str, str, str]],
    finish: Callable[[str, str], tuple[str, str]],
) -> Mould | None:
    """None when a mould would not do. `personal` is what is so of one reader; `fill` gives subject, text and MJML for
    such values by name, `finish` the text tidied and the HTML."""
    name, link = marks = (f"x{secrets.token_hex(16)}x", f"https://x{secrets.token_hex(16)}x.invalid/")
    is_there = [bool(value) for value in personal]

    def of(values: Sequence[str]) -> tuple[str, str, str]:
        known = [value if there else "" for value, there in zip(values, is_there, strict=True)]
        return fill(dict(zip(PERSONAL, known, strict=True)))

    subject, text, source = of(marks)
    if len(source) > LONGEST_SOURCE or not _in_the_open(source, name, link):
        return None
    mould = Mould(subject, *finish(text, source), marks)
    for reader in (personal, *_TRIALS):
        subject, text, source = of(reader)
        text, html = finish(text, source)
        if mould.fill(*reader) != (subject, text, html, (wire_part("plain", text), wire_part("html", html))):
            return None
    return mould


def shows_plainly(tree: nodes.Template) -> bool:
    """Whether this template only shows what is personal, as it is, and asks nothing of it but whether it is there."""
    if any(True for _ in tree.find_all(_CARRIERS)):
        return False
    fine: set[int] = set()
    for output in tree.find_all(nodes.Output):
        for node in output.nodes:
            _shown(node, fine)
    for question in tree.find_all(nodes.If):
        _asked(question.test, fine)
    if any(used.name == "random" for used in tree.find_all(nodes.Filter)):
        return False
    return all(id(name) in fine for name in tree.find_all(nodes.Name) if name.name in _WATCHED)


_CARRIERS = (
    nodes.Macro,
    nodes.CallBlock,
    nodes.FilterBlock,
    nodes.AssignBlock,
    nodes.Import,
    nodes.FromImport,
    nodes.ScopedEvalContextModifier,
)
"""What takes text that was filled in already and does something else with it."""
_WATCHED = (*PERSONAL, "self", "super", "caller", "lipsum")


def _shown(node: nodes.Node, fine: set[int]) -> None:
    """Note the names that an expression in the open shows as they are."""
    match node:
        case nodes.Name() if node.name in PERSONAL:
            fine.add(id(node))
        case nodes.Filter(name="bdi" | "default" | "d") if node.node is not None:
            _shown(node.node, fine)
        case nodes.Filter(name="replace") if len(node.args) == 2:
            _shown(node.args[1], fine)
        case nodes.CondExpr():
            _asked(node.test, fine)
            _shown(node.expr1, fine)
            if node.expr2 is not None:
                _shown(node.expr2, fine)
        case nodes.Or() | nodes.And():
            _shown(node.left, fine)
            _shown(node.right, fine)
        case nodes.Concat():
            for inner in node.nodes:
                _shown(inner, fine)
        case nodes.Call(node=nodes.Name(name="super"), args=[], kwargs=[]):
            fine.add(id(node.node))


def _asked(node: nodes.Node, fine: set[int]) -> None:
    match node:
        case nodes.Name() if node.name in PERSONAL:
            fine.add(id(node))
        case nodes.Not():
            _asked(node.node, fine)
        case nodes.Or() | nodes.And():
            _asked(node.left, fine)
            _asked(node.right, fine)


def _in_the_open(source: str, name: str, link: str) -> bool:
    """Whether names stand in the text alone, and links there or in an `href`: what MJML makes of any other attribute,
    or of a style sheet, depends on what it says."""
    if any(
        name in style or link in style for style in re.findall(r"<mj-style.*?</mj-style>", source, re.DOTALL)
    ):
        return False
    for found in re.finditer(f"{name}|{link}", source):
        before = source[: found.start()]
        tag = before[before.rfind("<") :] if before.rfind("<") > before.rfind(">") else ""
        if tag and (found[0] == name or not re.search(r'\shref="$', tag)):
            return False
    return True
