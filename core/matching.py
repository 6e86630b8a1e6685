"""Words to look for, and the answers people gave: a match says which word was met in the answer to which question.

Text is folded into words with one space between and around them, and a term into the same form. Whole words,
phrases over punctuation and prefixes are then plain substrings, which one automaton finds in one pass however
many terms there are. Terms are words, never regular expressions.

`fold` is the form. What is searched is the same without the spaces beside characters of scripts that have none: every
character is a word there, with or without them, and a long answer is half as long.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache

from ahocorasick_rs import AhoCorasick, BytesAhoCorasick

from core.community import Answer

LONGEST_ANSWER = 300
"""Characters Wix takes as an answer (wix/groups.md, section 3)."""
_READ_AT_MOST = 5_000  # characters of whatever comes instead

_Find = Callable[[bytes, bool], list[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One term that was met. `kind` is the list it stands in: "any", "all" or "none"."""

    term: str
    question: str = field(repr=False)
    kind: str = "any"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a term stands in an answer's text: whole words, from `start` up to `end`."""

    start: int
    end: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Match:
    """`reason` is a sentence for people; it quotes terms and questions, never answers."""

    matched: bool
    reason: str
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True)
class AnswerRule:
    """What answers must hold: one of `any`, every one of `all`, nothing of `none` (which wins).

    With both, `any` and `all` must be met. All answers of one person count together, but a phrase lies
    within one. `question` leaves only answers to questions whose text contains it. Without an answer
    nothing matches, not even a rule that holds only `none`.
    """

    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    question: str = ""

    def match(self, answers: Sequence[Answer]) -> Match:
        """Look for the terms. The first call builds the automaton, so keep the rule as long as the file."""
        if not answers:
            return Match(False, "no answers given")
        if self.question:
            wanted = _fold_question(self.question).strip()
            answers = [answer for answer in answers if wanted in _fold_question(answer.question)]
            if not answers:
                return Match(False, f"no answer to a question with {_quote(self.question)}")
        met = self._met(answers)
        if not met and self.any:
            return self._nothing_of_any  # what most answers come to, made once
        hits = tuple(Hit(term, question, kind) for (kind, term), question in met.items())
        if refused := [hit for hit in hits if hit.kind == "none"]:
            return Match(False, f"{_places(refused)} (none)", hits)
        if missing := [term for term in self.all if ("all", term) not in met]:
            return Match(False, f"no answer matched {_quoted(missing)} (all)", hits)
        if self.any and all(hit.kind != "any" for hit in hits):
            return replace(self._nothing_of_any, hits=hits)
        if hits:
            return Match(True, _places(hits), hits)
        return Match(
            bool(self.none), f"no answer matched {_quoted(self.none)} (none)" if self.none else "no terms"
        )

    def places(self, answer: Answer) -> tuple[Place, ...]:
        """Where the terms stand in this answer, from its beginning. None where an answer's folding cannot be traced
        back to its characters."""
        if self.question and _fold_question(self.question).strip() not in _fold_question(answer.question):
            return ()
        folded, origins = _trace(answer.text)
        if folded != fold(answer.text):
            return ()
        automaton, terms = self._automaton
        found = set()
        for index, start, end in automaton.find_matches_as_indexes(folded, overlapping=True):
            last = folded.index(" ", end - 1)  # of a prefix, the end of its word
            hits = [Hit(term, answer.question, kind) for kind, term in terms[index]]
            found |= {Place(origins[start + 1][0], origins[last - 1][1], hit) for hit in hits}
        return tuple(
            sorted(found, key=lambda place: (place.start, place.end, place.hit.kind, place.hit.term))
        )

    def contradictions(self) -> Iterator[tuple[str, str, str]]:
        """Terms that can never count, because wherever they are met a term of `none` is met too.

        Yields the list ("any" or "all"), the term, and the term of `none`.
        """
        blockers = [(pattern, term) for term in self.none if (pattern := _pattern(term))]
        if not blockers:
            return
        automaton = AhoCorasick([pattern for pattern, _ in blockers])
        for kind, terms in (("any", self.any), ("all", self.all)):
            for term in terms:
                if found := automaton.find_matches_as_indexes(_pattern(term)):
                    yield kind, term, blockers[found[0][0]][1]

    def _met(self, answers: Sequence[Answer]) -> dict[tuple[str, str], str]:
        """(list, term) -> the question in whose answer it was met first."""
        read, find, terms = self._search
        met: dict[tuple[str, str], str] = {}
        for answer in answers:
            for index, _, _ in find(read(answer.text).encode(), True):
                for key in terms[index]:
                    met.setdefault(key, answer.question)
        return met

    @cached_property
    def _search(self) -> tuple[Callable[[str], str], _Find, list[list[tuple[str, str]]]]:
        """As an answer has to be read, the search in the bytes of that, and what its patterns stand for."""
        patterns, read = list(self._patterns), _fold_close
        if any(_UNSPACED.match(pattern[-1]) for pattern in patterns):
            # Without spaces "瑜*" would be "瑜", and no longer met before it: hits have the order of their ends.
            read = fold
        else:
            patterns = [_NEEDLESS_SPACE.sub("", pattern) for pattern in patterns]
        automaton = BytesAhoCorasick([pattern.encode() for pattern in patterns])
        return read, automaton.find_matches_as_indexes, list(self._patterns.values())

    @cached_property
    def _automaton(self) -> tuple[AhoCorasick, list[list[tuple[str, str]]]]:
        """The automaton of all patterns, and for each pattern the (list, term) pairs it stands for."""
        return AhoCorasick(list(self._patterns)), list(self._patterns.values())

    @cached_property
    def _patterns(self) -> dict[str, list[tuple[str, str]]]:
        """The (list, term) pairs that each pattern stands for."""
        by_pattern: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for kind, terms in (("any", self.any), ("all", self.all), ("none", self.none)):
            for term in terms:
                if pattern := _pattern(term):
                    by_pattern[pattern].append((kind, term))
        return by_pattern

    @cached_property
    def _nothing_of_any(self) -> Match:
        return Match(False, f"no answer matched {_quoted(self.any)}")


def problem_with_term(term: str) -> str | None:
    """Why this cannot be looked for; None when it can. AnswerRule itself lets such a term match nothing."""
    plain = unicodedata.normalize("NFKC", term).strip()
    if len(term) > LONGEST_ANSWER:
        return f"is longer than any answer ({LONGEST_ANSWER} characters)"
    if not _pattern(term):
        return "holds no word: letters or digits are looked for, and symbols only separate them"
    if "*" in plain[:-1]:
        return "a `*` may stand only at the very end"
    if plain.endswith("*") and unicodedata.category(plain[-2])[0] not in "LMN":
        return "a `*` must stand directly after a word"
    return None


def fold(text: str) -> str:
    """The words of a text, one space between and around them, in the one form all spellings share.

    NFKC, case and accents folded; punctuation, symbols and emoji separate words. In scripts without
    spaces every character is a word, so that a term matches anywhere.
    """
    folded = _fold_close(text)
    if not folded.isascii() and _UNSPACED.search(folded):
        return _single_spaces(_UNSPACED.sub(r" \g<0> ", folded))
    return folded


def _fold_close(text: str) -> str:
    """`fold` without _NEEDLESS_SPACE, and without the way round: most of what a match takes is this."""
    text = text[:_READ_AT_MOST]
    if text.isascii():
        return _single_spaces(text.translate(_ascii()))
    if _HAN_AND_KANA.fullmatch(text):
        return _separate(text).replace(" ", "") or " "
    if not _BEYOND_PLAIN.search(text):
        text = _separate(text)
        text = text.replace("\u0e33", "\u0e4d\u0e32")  # the one of them that NFKC takes apart
        if not _PLAIN_LETTER.search(text):
            return unicodedata.normalize("NFKC", text).replace(" ", "") or " "
        text = unicodedata.normalize("NFKC", text.lower())
        unspaced = bool(_UNSPACED.search(text))
    else:
        if not unicodedata.is_normalized("NFKC", text):
            for separator in _WIDE_SEPARATORS:  # or NFKC takes the whole text apart for one of them
                text = text.replace(separator, " ")
            text = unicodedata.normalize("NFKC", text)
        page = _page
        folded = page.fold(text)
        text = _learn(text) if folded is None else folded
        unspaced = (folded is None or page.unspaced) and bool(_UNSPACED.search(text))
    if not unspaced:
        return _single_spaces(text)
    # The spaces around the words of other scripts stay.
    text = "\n".join(_SPACED_WORD.split(text)).replace(" ", "")
    return text.replace("\n\n", "\n").replace("\n", " ")


def _separate(text: str) -> str:
    for separator in _PLAIN_SEPARATORS:
        text = text.replace(separator, " ")
    return text


def _single_spaces(text: str) -> str:
    text = f" {text} "
    while "  " in text:
        text = text.replace("  ", " ")
    return text


def _trace(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text folded letter by letter, each with its marks, and for each character of that where it comes from. It is
    what fold makes of the whole, unless Unicode composes several letters into one."""
    folded, origins = " ", [(0, 0)]
    start = 0
    text = text[:_READ_AT_MOST]
    for end in range(1, len(text) + 1):
        if end < len(text) and unicodedata.category(text[end])[0] == "M":
            continue
        for letter in unicodedata.normalize("NFKC", text[start:end]).translate(_RARER):
            if letter != " " or folded[-1] != " ":
                folded += letter
                origins.append((start, end))
        start = end
    if folded[-1] != " ":
        folded += " "
        origins.append((start, start))
    return folded, origins


_fold_question = lru_cache(maxsize=1024)(fold)  # a group asks everybody the same few questions


def _pattern(term: str) -> str:
    """A term as it is found in folded text: " sun salutation ", or " pilat" for "pilat*"; "" without a word."""
    words = unicodedata.normalize("NFKC", term).strip()
    folded = fold(words.removesuffix("*"))
    if folded == " ":
        return ""
    return folded.rstrip() if words.endswith("*") else folded


_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3040-\u30ff\u31f0-\u31ff"  # Han marks and numerals, Kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Han, old Kana
)
_UNSPACED = re.compile(f"[{_NO_SPACES}]")
_SPACED_WORD = re.compile(f"([^{_NO_SPACES} ]+)")
_NEEDLESS_SPACE = re.compile(f"(?<![^{_NO_SPACES}]) (?![^{_NO_SPACES}])")

_PLAIN_SEPARATORS = "、。，！？：；（）…\u3000,.!?\n"
_OF_HAN_AND_KANA = (
    "\u3041-\u3096\u30a1-\u30fa\u30fc-\u30fe\u3400-\u4dbf\u4e00-\u9fef"  # none composes with another
)
_HAN_AND_KANA = re.compile(f"[{_OF_HAN_AND_KANA} {_PLAIN_SEPARATORS}]*")
_BEYOND_PLAIN = re.compile(  # what is left folds to itself, but for capitals: Thai, Kana, Han, Hangul, ASCII
    f"[^\u0e01-\u0e3a\u0e40-\u0e4e{_OF_HAN_AND_KANA}\uac00-\ud7a3a-zA-Z0-9 {_PLAIN_SEPARATORS}]"
)
_PLAIN_LETTER = re.compile("[a-zA-Z0-9\uac00-\ud7a3]")
_WIDE_SEPARATORS = "，！？：；（）…\u3000\u00a0\u202f"
"""What NFKC makes of them separates as well, and nothing composes with them to anything but a separator."""


@cache
def _ascii() -> list[str]:
    return [_fold_character(code) for code in range(128)]


class _Rarer(dict[int, str]):
    def __missing__(self, code: int) -> str:
        folded = _fold_character(code)
        if len(self) < 10_000:
            self[code] = folded
        return folded


_RARER = _Rarer()

_NO_DECOMPOSITION = {
    "ı": "i", "ł": "l", "ø": "o", "đ": "d", "ħ": "h", "æ": "ae", "œ": "oe",  # letters with a stroke, ligatures
    "ـ": "",  # tatweel only stretches an Arabic word
    "ʼ": " ", "ʻ": " ",  # apostrophes that Unicode counts as letters: as all other apostrophes
    "\u200b": " ",  # zero width space: invisible, but it ends a word
}  # fmt: skip


def _fold_character(code: int) -> str:
    """What one character of NFKC text becomes: its plain letters, " " for what separates, "" for marks."""
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
    folded = ""
    for letter in letters:
        category = unicodedata.category(letter)
        if letter in _NO_DECOMPOSITION:
            folded += _NO_DECOMPOSITION[letter]
        elif category in ("Cf", "Me") or letter in _VARIATION_SELECTORS or _is_accent(letter):
            continue
        elif category[0] in "LMN":
            folded += letter
        else:
            folded += " "
    folded = unicodedata.normalize("NFC", folded)
    return f" {folded} " if _UNSPACED.match(folded) else folded


_VARIATION_SELECTORS = frozenset(map(chr, (0x34F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


def _is_accent(letter: str) -> bool:
    """A mark that readers do without. The vowel signs of Indic scripts, Thai and Kana's voicing are none.

    By canonical combining class (Unicode, UAX 44 table 15): overlays, Hebrew and Arabic points, and
    everything attached, above or below; 0 and 7 to 9 and the fixed classes above 36 make other letters.
    """
    place = unicodedata.combining(letter)
    return place == 1 or 10 <= place <= 36 or place >= 200


_ALPHABETS_END = "\u2070"
_ROOM = 255  # a byte tells one more, and charmap_build wants that to be NUL
_NO_LETTER = "\ufffe"


def _is_for_a_page(letter: str) -> bool:
    """Alphabets and what stands between words; not the thousands of letters of Han and Hangul, nor what a page cannot
    hold."""
    return "\0" < letter < _ALPHABETS_END or (letter < _NO_LETTER and not _RARER[ord(letter)].strip(" "))


class _Page:
    """A code page of our own: letters met lately, one byte each. So Python's own codecs go from letters to letters,
    and ten times as fast as str.translate."""

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self._codes = codecs.charmap_build("\0" + letters.ljust(_ROOM, _NO_LETTER))
        folded = [_RARER[ord(letter)].strip(" ") or _RARER[ord(letter)] for letter in letters]
        pairs = list(zip(letters, folded, strict=True))
        self._folded = "".join((" ", *(to if len(to) == 1 else letter for letter, to in pairs))).ljust(
            _ROOM + 1
        )
        self._longer = [(letter, to) for letter, to in pairs if len(to) != 1]
        self.unspaced = bool(_UNSPACED.search(self._folded))

    def fold(self, text: str) -> str | None:
        """NFKC text letter by letter; None when it has letters that are not on the page."""
        try:
            codes, _ = codecs.charmap_encode(text, _BY_HAND, self._codes)
        except UnicodeEncodeError:
            return None
        text, _ = codecs.charmap_decode(codes, "strict", self._folded)
        for letter, folded in self._longer:
            text = text.replace(letter, folded)
        return text


def _fold_by_hand(error: UnicodeError) -> tuple[str, int]:
    """Emoji, symbols: what is on no page, and becomes something that is on every one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    if any(map(_is_for_a_page, unknown)):
        raise error
    return unknown.translate(_RARER), error.end


_BY_HAND = "usher.fold_by_hand"
codecs.register_error(_BY_HAND, _fold_by_hand)
_page = _Page(" ")


def _learn(text: str) -> str:
    """Fold NFKC text the long way; from now on the letters of its alphabets are known. A full page is begun anew."""
    global _page  # noqa: PLW0603 (one for all rules: it is about what people write)
    met = {letter for letter in text if _is_for_a_page(letter)}
    known = set(_page.letters)
    if not met <= known:
        both = met | known
        _page = _Page("".join(sorted(both if len(both) <= _ROOM else met | {" "})[:_ROOM]))
    return text.translate(_RARER)


def _places(hits: Sequence[Hit]) -> str:
    """'"yoga" in the answer to "Which class?", "pilates" in an answer', three at most."""
    places = [
        f"{_quote(hit.term)} in "
        + (f"the answer to {_quote(hit.question)}" if hit.question.strip() else "an answer")
        for hit in hits[:3]
    ]
    return ", ".join(places) + _and_more(len(hits) - 3)


def _quoted(texts: Sequence[str]) -> str:
    """'"yoga", "pilates" and 3 more': ten at most, each at most 80 characters, on one line."""
    return ", ".join(_quote(text) for text in texts[:10]) + _and_more(len(texts) - 10)


@lru_cache(maxsize=1024)
def _quote(text: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return f'"{line}"' if len(line) <= 80 else f'"{line[:79]}…"'


def _and_more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
