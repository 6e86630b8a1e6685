import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import matching
from core.community import Answer
from core.matching import AnswerRule, Hit, Match, fold, problem_with_term


def met(term: str, text: str) -> bool:
    return AnswerRule(any=(term,)).match([Answer("", text)]).matched


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("yoga", "I love yoga!"),
        ("yoga", "YOGA"),
        ("Yoga", "ＹＯＧＡ"),  # full width
        ("yoga", "l'yoga"),
        ("yoga", "l’yoga"),
        ("yoga", "yoga_class"),
        ("yoga", "🧘yoga🧘"),
        ("yoga", "Yoga®, every day"),
        ("yoga", "yo\u00adga"),  # soft hyphen
        ("yoga", "\u202eyoga"),
        ("yoga", "hot\u200byoga"),  # a space without width is a space
        ("sun salutation", "the sun-salutation"),
        ("sun salutation", "sun  salutation"),
        ("sun salutation", "Sun\n… salutation"),
        ("sun-salutation", "sun salutation"),
        ("let's dance", "Let’s dance"),
        ("café", "CAFE"),
        ("cafe", "cafe\u0301"),
        ("Übung", "ubung"),
        ("Lodz", "Łódź"),
        ("coeur", "Cœur"),
        ("straße", "STRASSE"),
        ("strasse", "Straße"),
        ("fish", "ﬁsh"),
        ("istanbul", "İSTANBUL"),
        ("ISTANBUL", "istanbul"),
        ("yıldız", "YILDIZ"),
        ("οδος", "ΟΔΌΣ"),
        ("еще", "ЕЩЁ"),
        ("об'єднання", "обʼєднання"),
        ("שלום", "שָׁלוֹם"),
        ("מחול", "אוהבת מחול מאוד"),
        ("سلام", "سَلَام"),
        ("سلام", "ســـلام"),
        ("احمد", "أحمد"),
        ("요가", "저는 요가 좋아해요"),
        ("요가", unicodedata.normalize("NFD", "요가")),
        ("요가*", "요가를 좋아해요"),
        ("योग", "मुझे योग पसंद है"),
        ("瑜伽", "我想学瑜伽课程"),
        ("yoga", "我想学yoga课程"),
        ("yoga教室", "近くのYoga教室です"),
        ("ヨガ", "ホットﾖｶﾞが好き"),
        ("太阳 敬礼", "太阳、敬礼"),
        ("โยคะ", "ฉันชอบเล่นโยคะทุกวัน"),
        ("ໂຍຄະ", "ຂ້ອຍມັກໂຍຄະ"),
        ("យូហ្គា", "ខ្ញុំចូលចិត្តយូហ្គាណាស់"),
        ("ယောဂ", "ကျွန်တော်ယောဂကြိုက်တယ်"),
        ("pilat*", "Pilates"),
        ("pilat＊", "Pilates"),
        ("pilates*", "pilates"),
        ("sun sal*", "Sun-Salutations"),
        ("zumba 2", "Zumba-2"),
        ("c++", "I write C"),
    ],
)
def test_a_term_is_met_however_the_answer_is_spelt(term, text):
    assert met(term, text)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("yoga", "yogalates"),
        ("yoga", "hatayoga"),
        ("yoga", "yoga2"),
        ("yoga", "yog a"),
        ("yoga", ""),
        ("sun salutation", "sunsalutation"),
        ("sun salutation", "sun and salutation"),
        ("sun salutation", "salutation sun"),
        ("pilat*", "copilates"),
        ("sun* salutation", "suns salutation"),  # only the last word may be open
        ("yo.a", "yoga"),  # never a regular expression
        ("요가", "요가를"),
        ("か", "が"),  # voicing makes another letter
        ("कल", "कुल"),  # so does an Indic vowel sign
        ("瑜伽", "瑜"),
        ("*", "yoga"),
        ("", "yoga"),
        ("🧘", "🧘"),
    ],
)
def test_a_term_is_not_met_in_other_words(term, text):
    assert not met(term, text)


def test_one_of_any_is_enough_and_the_reason_names_it_and_the_question():
    rule = AnswerRule(any=("pilates", "yoga"))
    match = rule.match([Answer("Which  class\nwould you like?", "Yoga, please")])
    assert match == Match(
        True,
        '"yoga" in the answer to "Which class would you like?"',
        (Hit("yoga", "Which  class\nwould you like?", "any"),),
    )


def test_an_answer_to_a_replaced_question_has_a_reason_without_it():
    assert AnswerRule(any=("yoga",)).match([Answer("", "yoga")]).reason == '"yoga" in an answer'


def test_when_nothing_of_any_is_met_the_reason_lists_the_terms():
    match = AnswerRule(any=("yoga", "pilates")).match([Answer("Q", "golf")])
    assert match == Match(False, 'no answer matched "yoga", "pilates"')


def test_none_wins_over_any():
    rule = AnswerRule(any=("yoga",), none=("no yoga",))
    match = rule.match([Answer("Q", "yoga"), Answer("What not?", "No yoga, thanks")])
    assert (match.matched, match.reason) == (False, '"no yoga" in the answer to "What not?" (none)')


def test_all_needs_every_term_and_counts_all_answers_together():
    rule = AnswerRule(all=("yoga", "rome"))
    assert rule.match([Answer("What?", "yoga"), Answer("Where?", "Rome")]).matched
    alone = rule.match([Answer("What?", "yoga")])
    assert (alone.matched, alone.reason) == (False, 'no answer matched "rome" (all)')


def test_any_and_all_together_must_both_be_met():
    rule = AnswerRule(any=("yoga", "pilates"), all=("rome",))
    assert rule.match([Answer("", "pilates in Rome")]).matched
    assert rule.match([Answer("", "Rome")]).reason == 'no answer matched "yoga", "pilates"'
    assert rule.match([Answer("", "yoga")]).reason == 'no answer matched "rome" (all)'


def test_a_phrase_does_not_span_two_answers():
    assert (
        not AnswerRule(any=("sun salutation",)).match([Answer("", "sun"), Answer("", "salutation")]).matched
    )


def test_a_rule_with_only_none_matches_other_answers_but_not_silence():
    rule = AnswerRule(none=("spam",))
    assert rule.match([Answer("", "yoga")]) == Match(True, 'no answer matched "spam" (none)')
    assert rule.match([]) == Match(False, "no answers given")


def test_a_rule_without_terms_matches_nobody():
    assert not AnswerRule().match([Answer("", "yoga")]).matched


def test_only_answers_to_the_chosen_question_count():
    rule = AnswerRule(any=("yoga",), question="CLASS")
    assert rule.match([Answer("Which classes?", "yoga")]).matched
    other = rule.match([Answer("Which sport?", "yoga")])
    assert other == Match(False, 'no answer to a question with "CLASS"')


def test_overlapping_terms_are_all_reported():
    rule = AnswerRule(any=("hot yoga", "yoga class", "yoga", "yog*", "YOGA"))
    assert {hit.term for hit in rule.match([Answer("", "hot yoga class")]).hits} == set(rule.any)


def test_neighbouring_words_are_both_met():
    assert AnswerRule(all=("hot", "yoga")).match([Answer("", "hot yoga")]).matched


def test_a_reason_stays_short_and_on_one_line():
    rule = AnswerRule(any=tuple(f"term{i} \n\0 {'x' * 200}" for i in range(50)))
    reason = rule.match([Answer("", "golf")]).reason
    assert reason.isprintable()
    assert reason.endswith(" and 40 more")
    assert len(reason) < 1000


def test_a_reason_never_quotes_an_answer():
    match = AnswerRule(any=("yoga",)).match([Answer("Q", "yoga, call me on 555")])
    assert "555" not in repr(match)


def test_a_very_long_answer_is_read_from_its_beginning():
    assert met("yoga", "yoga " + "x" * 100_000)
    assert not met("yoga", "x " * 100_000 + "yoga")


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        ("yoga", None),
        ("sun sal*", None),
        ("瑜伽*", None),
        (" yoga ", None),
        ("", "holds no word"),
        ("*", "holds no word"),
        ("🧘 !", "holds no word"),
        ("yo*ga", "only at the very end"),
        ("yoga**", "only at the very end"),
        ("*yoga", "only at the very end"),
        ("yoga *", "directly after a word"),
        ("yoga-*", "directly after a word"),
        ("y" * 301, "longer than any answer"),
    ],
)
def test_terms_that_cannot_be_looked_for_are_explained(term, problem):
    found = problem_with_term(term)
    assert found is None if problem is None else problem in (found or "")


def test_terms_that_none_always_beats_are_found():
    rule = AnswerRule(
        any=("Yoga", "hot yoga", "yogis", "pilat*"), all=("pilates class",), none=("yoga", "pilates*", "yog")
    )
    assert list(rule.contradictions()) == [
        ("any", "Yoga", "yoga"),
        ("any", "hot yoga", "yoga"),
        ("all", "pilates class", "pilates*"),
    ]


anything = st.text(st.characters(exclude_categories=()), max_size=60)  # half characters (Cs) too


@given(anything)
def test_folded_text_is_words_with_single_spaces_and_stays_so(text):
    folded = fold(text)
    assert folded.startswith(" ")
    assert folded.endswith(" ")
    assert "  " not in folded
    assert fold(unicodedata.normalize("NFD", text)) == folded


@given(
    st.lists(anything, max_size=4), st.lists(anything, max_size=4), anything, st.lists(anything, max_size=3)
)
def test_no_text_makes_matching_fail(any_, none, question, answers):
    rule = AnswerRule(tuple(any_), tuple(none), tuple(any_), question)
    match = rule.match([Answer(text, text) for text in answers])
    assert match.reason
    list(rule.contradictions())


@given(st.text(max_size=30), st.text(max_size=30), anything)
def test_a_term_is_met_between_spaces_wherever_it_can_be_looked_for(before, after, term):
    if problem_with_term(term) is None and "*" not in unicodedata.normalize("NFKC", term):
        assert met(term, f"{before} {term} {after}")
        assert met(term.casefold(), f"{before} {term} {after}")
        assert met(term, f"{before}, {term.upper()}! {after}") or fold(term) != fold(term.upper())


def places(rule, text, question="Why?"):
    return [(text[place.start : place.end], place.hit.kind) for place in rule.places(Answer(question, text))]


def test_a_place_is_where_a_term_stands_in_the_text_as_it_was_written():
    rule = AnswerRule(
        any=("yoga", "sun salutation", "pilat*", "瑜伽", "cafe"), none=("no yoga",), question="why"
    )
    assert places(rule, "I love Yoga!") == [("Yoga", "any")]
    assert places(rule, "Sun — SALUTATION & Pilates") == [("Sun — SALUTATION", "any"), ("Pilates", "any")]
    assert places(rule, "no yoga") == [("no yoga", "none"), ("yoga", "any")]
    assert places(rule, "我喜欢瑜伽") == [("瑜伽", "any")]
    assert places(rule, "un cafe\u0301 ﬁne") == [("cafe\u0301", "any")]
    assert places(rule, "ＹＯＧＡ") == [("ＹＯＧＡ", "any")]
    assert places(rule, "yogalates") == []
    assert places(rule, "yoga", question="When?") == []
    assert places(rule, "") == []


@given(anything, st.lists(anything, min_size=1, max_size=4))
def test_what_stands_at_a_place_is_met_by_itself(text, terms):
    rule = AnswerRule(any=tuple(terms))
    found = rule.places(Answer("", text))
    for place in found:
        assert 0 <= place.start < place.end <= len(text)
        assert AnswerRule(any=(place.hit.term,)).match([Answer("", text[place.start : place.end])]).matched
    if found:
        assert rule.match([Answer("", text)]).matched


def fold_slowly(text: str) -> str:
    """What `fold` means: each character of NFKC text for itself, and single spaces."""
    folded = "".join(matching._fold_character(ord(letter)) for letter in unicodedata.normalize("NFKC", text))
    return f" {' '.join(word for word in folded.split(' ') if word)} ".replace("  ", " ")


def find_slowly(rule: AnswerRule, answers: list[Answer]) -> list[Hit]:
    """What the automaton has to find: terms as substrings, in the order of their ends, the longest first."""
    met = {}
    for answer in answers:
        text = fold_slowly(answer.text)
        found = [
            (end, -len(pattern), kind, term)
            for kind in ("any", "all", "none")
            for term in getattr(rule, kind)
            if (pattern := matching._pattern(term))
            for end in range(len(pattern), len(text) + 1)
            if text.endswith(pattern, 0, end)
        ]
        for _, _, kind, term in sorted(found, key=lambda hit: hit[:2]):
            met.setdefault((kind, term), Hit(term, answer.question, kind))
    return list(met.values())


ALPHABETS = (
    "abcxyzABCXYZ0129 ",
    " \t\n.,!?-'\"’“”…—_()=<>\u3000、。，！？：；（）・「」\u00a0\u202f\u2028",
    "éüößÉÜÖœŒæÆłŁøđıİIiſẞ",
    "йёіїґЙЁЫы",
    "σςάέΣΆϑᾳ",
    "אבג\u05b0\u05bc\ufb2a",
    "اأإآـ\u064e\u0651\ufefb",
    "कखग्ाि\u093c\u0958\u095c",
    "กฉันโยคะำ\u0e48\u0e38\u0e3a\u0e4f",
    "ລາວ\u0eb3\u0ec8យូហ្គា\u17d4ယောဂ\u1025\u102e\u104a",
    "我想学瑜伽々〇㈱",
    "ヨガかがパぱヷヿㇷ゚\u3099\u309aーﾖｶﾞ",
    "가나다각\u1100\u1161\u11a8",
    "ｙｏＹ２ﬁﬃ①½²℃Ω",
    "🧘🏃🏽‍♂️🎉€™★♀️",
    "\u0301\u0308\u0323\u0338\u0307\u0345\u200b\u200d\u00ad\u202e\u034f\ufe0f\u20dd",
    "\ud800\x00\ufffe\uffff\ue000𝓎𐐀𐐨𠀀𛀁𑂚𑂺",
)
in_some_scripts = st.lists(st.sampled_from(ALPHABETS), min_size=1, max_size=4).map("".join)
written = in_some_scripts.flatmap(lambda letters: st.text(st.sampled_from(letters), max_size=40))


@given(st.one_of(written, written.map(lambda text: unicodedata.normalize("NFD", text)), anything))
def test_a_text_is_folded_as_its_characters_are_one_by_one(text):
    assert fold(text) == fold_slowly(text)


def test_every_character_folds_the_same_alone_and_among_the_letters_of_any_script():
    neighbours = ("{}", "a{}b", "é{}ж", "我{}我", "ก{}า", "가{}b")
    every = [chr(code) for start in (0, 0x1F300, 0x20000, 0xE0000) for code in range(start, start + 0x3400)]
    every += [chr(code) for code in range(0xA000, 0xAC10)] + [chr(code) for code in range(0xD790, 0x10000)]
    for letters in (every[place : place + 40] for place in range(0, len(every), 40)):
        for around in neighbours:
            text = "\n".join(around.format(letter) for letter in letters)
            assert fold(text) == fold_slowly(text)


@st.composite
def rules_and_answers(draw):
    letters = draw(st.one_of(in_some_scripts, st.sampled_from(("ab 我学", "ab é我가", "yoガガ "))))
    term = st.text(st.sampled_from(letters + " "), min_size=1, max_size=4)
    terms = st.lists(st.one_of(term, term.map(lambda word: f"{word}*")), max_size=6).map(tuple)
    texts = draw(st.lists(st.text(st.sampled_from(letters + " "), max_size=30), min_size=1, max_size=3))
    rule = AnswerRule(any=draw(terms), all=draw(terms), none=draw(terms))
    return rule, [Answer(f"Question {number}", text) for number, text in enumerate(texts)]


@given(rules_and_answers())
def test_the_automaton_finds_what_a_search_for_each_term_finds_and_in_the_same_order(drawn):
    rule, answers = drawn
    assert list(rule.match(answers).hits) == find_slowly(rule, answers)


def test_what_is_remembered_of_letters_stays_small_whatever_strangers_write():
    for start in range(0x20, 0x2070, 100):
        fold("".join(map(chr, range(start, start + 100))))
    for code in range(0x2070, 0x30000, 7):
        fold(f"é{chr(code)}")
    assert len(matching._page.letters) <= 255
    assert len(matching._RARER) <= 10_000
    assert fold("Crème brûlée, ЁЖИК") == " creme brulee ежик "
