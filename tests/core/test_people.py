"""Whom a list means: decided by one thing after another, and in doubt not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.community import Member, MemberId, Person
from core.matching import fold
from core.people import Candidate, Listed, Outcome, questions, resolve


def a_person(
    who: str, *, account: bool = True, status: str = "APPROVED", private: bool | None = False, **of: object
) -> Person:
    """Their contact is c-<who>, their login address <who>@example.com."""
    names = {"first_name": str(of.get("first", "")), "last_name": str(of.get("last", ""))}
    login = f"{who}@example.com"
    member = Member(
        MemberId(f"m-{who}"),
        status,
        login,
        nickname=str(of.get("nickname", "")),
        contact=f"c-{who}",
        private=private,
        **names,
    )
    emails = frozenset({*of.get("emails", ()), *((login,) if account else ())})  # type: ignore[misc]
    phones = frozenset(of.get("phones", ()))  # type: ignore[call-overload]
    return Person(f"c-{who}", member if account else None, emails, phones, **names)


ANA = a_person("ana", first="Ana", last="Cruz", phones=["+12025550101"])
BO = a_person("bo", first="Bo", last="Meier", phones=["+12025550102"])


def outcome(row: Listed, *people: Person) -> Outcome:
    (found,) = resolve([row], people)
    return found


@pytest.mark.parametrize(
    ("row", "how"),
    [
        (Listed(1, contact="c-ana"), "by contact id"),
        (Listed(1, contact="C-ANA"), "by contact id"),
        (Listed(1, email="ana@example.com"), "by address"),
        (Listed(1, email="ANA@Example.com"), "by address"),
        (Listed(1, phone="+12025550101"), "by phone"),
        (Listed(1, name="Ana Cruz"), "by name"),
        (Listed(1, name="  ÁNA   crüz "), "by name"),
        (Listed(1, "c-ana", "ana@example.com", "+12025550101", "Ana Cruz"), "by contact id"),
        (Listed(1, "c-gone", "gone@example.com", "+12025550101", "Ana Cruz"), "by phone"),
    ],
)
def test_the_first_thing_given_that_anybody_answers_to_decides(row: Listed, how: str) -> None:
    assert outcome(row, ANA, BO) == Outcome(1, MemberId("m-ana"), how, private=False)


def test_a_nickname_is_a_name() -> None:
    assert outcome(Listed(1, name="the runner"), a_person("eve", nickname="The Runner")).member == "m-eve"


def test_a_name_is_the_same_wherever_it_is_parted() -> None:
    eve = a_person("eve", first="Eva", last="María de la Cruz")
    assert outcome(Listed(1, name="Eva Maria de la Cruz"), eve).member == "m-eve"


def test_somebodys_login_address_goes_before_anothers_further_one() -> None:
    shares = a_person("bo", emails=["ana@example.com"])
    assert outcome(Listed(1, email="ana@example.com"), shares, ANA).member == "m-ana"
    assert (
        outcome(Listed(1, email="team@example.com"), a_person("x", emails=["team@example.com"])).member
        == "m-x"
    )


def test_who_is_not_there_is_said_to_be_unknown_by_all_that_was_given() -> None:
    row = Listed(4, email="gone@example.com", name="Ana Gone")
    assert outcome(row, ANA) == Outcome(4, reason="nobody on the site has this address or this name")
    assert outcome(Listed(4, name="🎉"), a_person("eve")).reason == "nobody on the site has this name"


def test_several_who_answer_are_candidates_and_told_apart_without_their_addresses() -> None:
    found = outcome(
        Listed(1, phone="+1"), a_person("ana", phones=["+1"]), a_person("bo", phones=["+1"], account=False)
    )
    assert found.member is None
    assert found.reason == "2 people have this phone"
    assert found.candidates == (Candidate("m-ana", "c-ana", "a…@example.com"), Candidate("", "c-bo", ""))


def test_of_many_namesakes_ten_are_shown() -> None:
    crowd = [a_person(f"p{number}", first="Ana", last="Cruz") for number in range(40)]
    found = outcome(Listed(1, name="Ana Cruz"), *crowd)
    assert (found.reason, len(found.candidates)) == ("40 people have this name", 10)


def test_a_contact_of_the_same_name_makes_no_member_ambiguous() -> None:
    namesake = a_person("old", first="Ana", last="Cruz", account=False)
    assert outcome(Listed(1, name="Ana Cruz"), namesake, ANA).member == "m-ana"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            Listed(1, email="ana@example.com", phone="+12025550102"),
            "the address and the phone belong to different people",
        ),
        (
            Listed(1, contact="c-ana", email="bo@example.com"),
            "the contact id and the address belong to different people",
        ),
        (
            Listed(1, email="ana@example.com", name="Bo Meier"),
            "the address and the name belong to different people",
        ),
    ],
)
def test_two_things_that_point_at_different_people_decide_nothing(row: Listed, reason: str) -> None:
    found = outcome(row, ANA, BO)
    assert (found.member, found.reason) == (None, reason)
    assert [candidate.member for candidate in found.candidates] == ["m-ana", "m-bo"]


def test_a_phone_that_a_family_shares_does_not_speak_against_an_address() -> None:
    family = [replace(ANA, phones=frozenset({"+1"})), replace(BO, phones=frozenset({"+1"}))]
    assert outcome(Listed(1, email="ana@example.com", phone="+1"), *family).member == "m-ana"


def test_a_name_that_nobody_bears_does_not_speak_against_an_address() -> None:
    assert outcome(Listed(1, email="ana@example.com", name="Anita"), ANA, BO).member == "m-ana"


def test_a_contact_without_an_account_can_be_in_no_group() -> None:
    guest = a_person("guest", account=False, emails=["guest@example.com"])
    assert outcome(Listed(1, email="guest@example.com"), guest).reason == (
        "is a contact without an account on the site, so no group can take them"
    )


def test_a_blocked_member_is_not_chosen() -> None:
    blocked = a_person("eve", status="BLOCKED")
    assert outcome(Listed(1, contact="c-eve"), blocked) == Outcome(1, reason="is blocked on the site")


def test_the_same_person_twice_is_there_once_and_the_other_row_says_where() -> None:
    rows = [Listed(2, email="ana@example.com"), Listed(5, name="Ana Cruz"), Listed(9, contact="c-bo")]
    first, again, other = resolve(rows, [ANA, BO], taken={MemberId("m-bo"): 1})
    assert (first.member, again.reason, other.reason) == (
        "m-ana",
        "is the same person as row 2",
        "is the same person as row 1",
    )


@pytest.mark.parametrize("private", [True, False, None])
def test_an_outcome_says_whether_they_will_only_be_invited(private: bool | None) -> None:
    assert outcome(Listed(1, contact="c-eve"), a_person("eve", private=private)).private is private


def test_one_person_found_in_two_ways_is_one() -> None:
    by_phone = replace(ANA, emails=frozenset(), member=None)
    by_address = replace(ANA, phones=frozenset())
    row = Listed(1, email="ana@example.com", phone="+12025550101", name="Ana Cruz")
    assert outcome(row, by_phone, by_address, by_address).member == "m-ana"


def test_every_row_is_asked_for_by_all_that_it_gives_and_a_name_in_every_way_to_part_it() -> None:
    rows = [Listed(1, "c-1", "A@example.com", "+1", "Ana de Cruz"), Listed(2, "c-1", name="Bo")]
    asked = questions(rows)
    assert (asked.contacts, asked.emails, asked.phones) == (("c-1",), ("a@example.com",), ("+1",))
    assert asked.names == (("Ana", "de Cruz"), ("Ana de", "Cruz"), ("Ana de Cruz", ""), ("Bo", ""))


def test_only_names_that_can_change_something_are_asked_for_when_the_rest_is_known() -> None:
    rows = [
        Listed(1, email="ana@example.com", name="Ana Cruz"),  # it is hers
        Listed(2, email="bo@example.com", name="Eve"),  # is there an Eve?
        Listed(3, email="gone@example.com", name="Ida"),
        Listed(4, name="Ana Cruz"),  # she was found by chance: are there more?
        Listed(5, phone="+1", name="Zoe"),  # in doubt, whoever Zoe is
    ]
    twins = [a_person(who, phones=["+1"]) for who in ("x", "y")]
    assert questions(rows, [ANA, BO, *twins]).names == (
        ("Eve", ""),
        ("Ida", ""),
        ("Ana", "Cruz"),
        ("Ana Cruz", ""),
    )


# Whatever comes

few = st.sampled_from
emails = few(["", "a@x.de", "b@x.de", "A@X.de", "c@x.de"])
phones = few(["", "+1", "+2"])
names = few(["", "Ana", "ana b", "Ana B", "Bo", "🎉", " ", "É"])
listed = st.builds(Listed, st.integers(1, 9), few(["", "c1", "c2", "c3"]), emails, phones, names)
members = st.builds(
    Member,
    few(["m1", "m2", "m3"]).map(MemberId),
    few(["APPROVED", "BLOCKED", "OFFLINE", "UNKNOWN"]),
    emails,
    nickname=names,
    private=few([True, False, None]),
)
persons = st.builds(
    Person,
    few(["", "c1", "c2", "c3"]),
    st.none() | members,
    st.frozensets(emails),
    st.frozensets(phones),
    names,
    names,
)


crowds = st.lists(
    persons,
    unique_by=(lambda each: each.contact, lambda each: each.member.id if each.member else each.contact),
)


@given(st.lists(listed), crowds, st.dictionaries(few(["m1", "m2"]).map(MemberId), st.integers(1, 9)))
def test_each_row_gets_one_outcome_and_no_member_is_chosen_twice(
    rows: list[Listed], people: list[Person], taken: dict[MemberId, int]
) -> None:
    outcomes = resolve(rows, people, taken)
    assert [found.row for found in outcomes] == [row.row for row in rows]
    chosen = [found.member for found in outcomes if found.member]
    assert len(set(chosen)) == len(chosen)
    assert not set(chosen) & taken.keys()
    assert all(bool(found.reason) != bool(found.member) for found in outcomes)
    blocked = {person.member.id for person in people if person.member and person.member.status == "BLOCKED"}
    assert not set(chosen) & blocked
    questions(rows, people)


@given(st.lists(listed, min_size=1), st.lists(persons))  # not even consistent
def test_the_order_of_the_rows_says_who_is_the_second(rows: list[Listed], people: list[Person]) -> None:
    """Alone every row comes to the same, unless an earlier row was the same person."""
    seen: set[MemberId] = set()
    for row, found in zip(rows, resolve(rows, people), strict=True):
        alone = outcome(row, *people)
        if alone.member is not None and alone.member in seen:
            assert found.reason.startswith("is the same person as row")
        else:
            assert found == alone
        seen |= {alone.member} if alone.member else set()


@given(st.lists(listed), crowds)
def test_names_that_need_not_be_asked_for_change_nothing(rows: list[Listed], people: list[Person]) -> None:
    """Asked for all but names first, and then for those names that still matter, Wix says enough."""
    everything = questions(rows)
    found = [
        person
        for person in people
        if person.contact in everything.contacts
        or person.phones & set(everything.phones)
        or {email.lower() for email in [*person.emails, person.member.email if person.member else ""]}
        & set(everything.emails)
    ]
    asked = {fold(f"{first} {last}") for first, last in questions(rows, found).names}
    found += [person for person in people if person not in found and asked & set(_names(person))]
    assert [each.member for each in resolve(rows, found)] == [each.member for each in resolve(rows, people)]


def _names(person: Person) -> list[str]:
    nickname = person.member.nickname if person.member else ""
    return [fold(name) for name in (f"{person.first_name} {person.last_name}", nickname)]
