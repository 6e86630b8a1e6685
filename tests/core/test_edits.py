"""Edits of the automations' text: what was asked for happens, and nothing else, to the letter."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.processes import ROOT
from core.automations import parse_automations
from core.edits import Add, Change, ChangePolicy, Edit, Move, Remove, apply_edits
from core.errors import NotThereError, WrongStateError

SHIPPED = (ROOT / "config" / "automations.toml").read_text(encoding="utf-8")
NAMES = [one.name for one in parse_automations(SHIPPED).automations]


def edited(text: str, *edits: Edit) -> str:
    return apply_edits(text, edits)


def order(text: str) -> list[str]:
    return [one.name for one in parse_automations(text).automations]


def test_a_value_changes_on_its_line_and_keeps_the_comment_there():
    text = 'x = 1  # top\n[[automation]]\nname = "a"\nafter = "1d"   # soon\n'
    assert edited(text, Change("a", {"after": "2d"})) == text.replace('"1d"', '"2d"')


def test_a_new_key_stands_above_the_tables_below_it():
    text = edited(SHIPPED, Change("yoga-offer", {"enabled": False}))
    table = next(one for one in tomllib.loads(text)["automation"] if one["name"] == "yoga-offer")
    assert table["enabled"] is False
    assert table["answers"]["any"][0] == "yoga"


def test_a_switch_stands_at_the_head_of_its_table_and_goes_without_a_trace():
    off = edited(SHIPPED, Change("welcome", {"enabled": False}))
    assert '[[automation]]\nenabled = false\nname = "welcome"  ' in off
    assert edited(off, Change("welcome", {"enabled": None})) == SHIPPED


def test_words_that_are_added_and_taken_away_leave_the_comments_of_the_list():
    text = '[[automation]]\nname = "a"\n[automation.answers]\nany = [  # of ours\n    "one", "two",\n    "three",\n]\n'
    changed = edited(text, Change("a", {"answers": {"any": ["one", "three", "four"]}}))
    assert "# of ours" in changed
    assert tomllib.loads(changed)["automation"][0]["answers"]["any"] == ["one", "three", "four"]


def test_lists_in_another_order_are_written_in_that_order():
    text = '[[automation]]\nname = "a"\ngroups = ["x", "y", "x"]\n'
    changed = edited(text, Change("a", {"groups": ["y", "x"]}))
    assert tomllib.loads(changed)["automation"][0]["groups"] == ["y", "x"]


def test_steps_keep_their_comments_when_another_comes_or_goes():
    text = (
        '[[automation]]\nname = "a"\n[[automation.then]]\nname = "one"  # first\nafter = "1d"\n'
        '[[automation.then]]\nname = "two"  # second\nafter = "2d"\n'
    )
    only = edited(text, Change("a", {"then": [{"name": "two", "after": "2d"}]}))
    assert "# second" in only
    assert "# first" not in only
    more = edited(
        only, Change("a", {"then": [{"name": "new", "after": "1d"}, {"name": "two", "after": "3d"}]})
    )
    assert [step["name"] for step in tomllib.loads(more)["automation"][0]["then"]] == ["new", "two"]
    assert "# second" in more


def test_what_stands_free_between_tables_stays_where_it_is_when_they_move():
    text = edited(SHIPPED, Move("keep-advertisers-out", 1))
    banner = text.index("# ── Decisions")
    assert (
        banner
        < text.index('name = "ask-a-person"')
        < text.index('# "reject" declines')
        < text.index("# ── Reports")
    )


@pytest.mark.parametrize(
    "free",
    [
        '[[automation]]\nname = "a"\n[policy]\nsend = true\n[automation.answers]\nany = ["x"]\n',
        'automation = [{name = "a"}]\n',
        'policy.send = true\n[[automation]]\nname = "a"\n',
    ],
)
def test_what_is_arranged_too_oddly_is_left_alone_and_said_to_be(free: str):
    edit = ChangePolicy({"send": False}) if free.startswith("policy") else Change("a", {"enabled": False})
    with pytest.raises(WrongStateError, match="whole text"):
        edited(free, edit)


def test_a_name_that_is_not_there_is_said_to_be_so():
    for edit in (Change("b", {}), Remove("b"), Move("b", 1), Remove("welcome", "report")):
        with pytest.raises(NotThereError):
            edited(SHIPPED, edit)


def test_a_table_in_the_words_of_a_text_is_no_table():
    text = '[[automation]]\nname = "a"\nreason = """\n[[automation]]\nname = "b"\n"""\n# end\n'
    with pytest.raises(NotThereError):
        edited(text, Remove("b"))
    assert edited(text, Move("a", 1)) == text


def test_reports_and_followed_groups_are_switched_like_automations():
    text = '[[report]]\nname = "r"\nevery = "day"\n\n[[follow]]\nrules_of = "Trail Runners"\n'
    text = edited(
        text, Change("r", {"enabled": False}, "report"), Change("Trail Runners", {"enabled": False}, "follow")
    )
    found = tomllib.loads(text)
    assert (found["report"][0]["enabled"], found["follow"][0]["enabled"]) == (False, False)


def test_the_policy_of_one_site_is_a_table_of_its_own():
    text = edited(
        SHIPPED, ChangePolicy({"time_zone": "Europe/Rome"}, "site-1"), ChangePolicy({"send": False})
    )
    found = tomllib.loads(text)["policy"]
    assert (found["site"], found["send"]) == ({"site-1": {"time_zone": "Europe/Rome"}}, False)
    again = edited(text, ChangePolicy({"time_zone": "Asia/Tokyo"}, "site-1"))
    assert tomllib.loads(again)["policy"]["site"] == {"site-1": {"time_zone": "Asia/Tokyo"}}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[policy]\nsend = true"])
def test_the_first_of_its_kind_finds_its_place(text: str):
    added = edited(
        text, Add({"name": "a", "on": ["member_added"], "email": "welcome", "purpose": "onboarding"})
    )
    assert added.startswith(text)
    assert order(added) == ["a"]
    policed = edited(text, ChangePolicy({"time_zone": "Europe/Rome"}))
    assert tomllib.loads(policed)["policy"]["time_zone"] == "Europe/Rome"
    assert "# nothing yet" in policed or "#" not in text


def test_a_value_that_toml_has_no_words_for_is_an_error_of_its_own():
    with pytest.raises(ValueError, match="convert"):
        edited(SHIPPED, Change("welcome", {"on": [None]}))


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "reason": st.none() | WORDS | st.just('one\ntwo\n"""three\\'),
        "groups": st.none() | st.lists(WORDS, max_size=4),
        "enabled": st.none() | st.booleans(),
        "after": st.none() | st.sampled_from(["1d", "2h"]),
        "answers": st.none()
        | st.fixed_dictionaries({}, optional={"any": st.lists(WORDS, max_size=3), "question": WORDS}),
        "then": st.none()
        | st.lists(
            st.fixed_dictionaries({"name": st.sampled_from("abc"), "email": WORDS}),
            max_size=3,
            unique_by=lambda step: step["name"],
        ),
    },
)
EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(Change, st.sampled_from(NAMES), FIELDS),
    st.builds(Move, st.sampled_from(NAMES), st.integers(-8, 8)),
)


@given(st.lists(EDITS, max_size=5))
def test_whatever_is_edited_happens_and_everything_else_is_as_it_was(edits: list[Edit]):
    """Against the plain values: a list of tables with keys set and places changed."""
    tables: list[dict[str, Any]] = tomllib.loads(SHIPPED)["automation"]
    for edit in edits:
        at = next(place for place, table in enumerate(tables) if table["name"] == edit.name)  # type: ignore[union-attr]
        if isinstance(edit, Move):
            tables.insert(min(max(at + edit.by, 0), len(tables) - 1), tables.pop(at))
        elif isinstance(edit, Change):
            for key, value in edit.fields.items():
                tables[at].pop(key, None)
                if (value is not None and value != []) or value == []:
                    tables[at][key] = value

    text = edited(SHIPPED, *edits)

    found = tomllib.loads(text)
    for table in (*found["automation"], *tables):
        if table.get("then") == []:
            del table["then"]
    assert found["automation"] == tables
    assert found["policy"] == tomllib.loads(SHIPPED)["policy"]
    free = [line for line in SHIPPED.split("\n") if line.startswith("# ──")]
    assert [line for line in text.split("\n") if line.startswith("# ──")] == free


@given(st.sampled_from(NAMES), st.integers(-8, 8))
def test_what_moves_away_and_back_leaves_the_text_as_it_was(name: str, by: int):
    at = NAMES.index(name)
    to = min(max(at + by, 0), len(NAMES) - 1)
    assert edited(SHIPPED, Move(name, by), Move(name, at - to)) == SHIPPED


@pytest.mark.parametrize("name", NAMES)
def test_removing_one_leaves_every_line_of_the_others(name: str):
    text = edited(SHIPPED, Remove(name))
    assert order(text) == [other for other in NAMES if other != name]
    lines = text.split("\n")
    assert all(line in SHIPPED.split("\n") for line in lines)
    assert "\n\n\n\n" not in text


@given(st.lists(EDITS, max_size=5))
def test_a_list_of_edits_comes_to_the_same_as_one_after_the_other(edits: list[Edit]):
    alone = SHIPPED
    try:
        for edit in edits:
            alone = edited(alone, edit)
    except (NotThereError, WrongStateError) as exc:
        with pytest.raises(type(exc)):
            edited(SHIPPED, *edits)
    else:
        assert edited(SHIPPED, *edits) == alone


def test_what_was_just_added_is_found_by_the_next_edit():
    policy = [ChangePolicy({"send": send}, site) for send in (True, False) for site in ("one", "", "two")]
    for text in ("", SHIPPED):
        added = edited(text, Add({"name": "n"}), Change("n", {"name": "m"}), Remove("m"), *policy)
        read = tomllib.loads(added)
        assert "m" not in {one["name"] for one in read.get("automation", ())}
        assert [read["policy"]["send"]] + [
            read["policy"]["site"][site]["send"] for site in ("one", "two")
        ] == [False] * 3


def test_many_edits_read_each_table_once(monkeypatch: pytest.MonkeyPatch):
    text = "".join(f'[[automation]]\nname = "a{number}"\n\n' for number in range(40))
    read: list[str] = []

    class Reader:
        TOMLDecodeError = tomllib.TOMLDecodeError

        @staticmethod
        def loads(text: str) -> dict[str, Any]:
            read.append(text)
            return tomllib.loads(text)

    monkeypatch.setattr("core.edits.tomllib", Reader)
    edited(text, *(Move(f"a{number}", 1) for number in range(40)))
    assert len(read) == 41


def test_a_list_that_is_very_long_is_written_anew():
    words = [f"word{number}" for number in range(2000)]
    text = edited('[[automation]]\nname = "a"\n', Change("a", {"groups": words}))
    assert (
        tomllib.loads(edited(text, Change("a", {"groups": words[1:]})))["automation"][0]["groups"]
        == words[1:]
    )
