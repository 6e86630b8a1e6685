from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.email.message import wire_address
from integrations.email.return_path import LONGEST_LOCAL, PathKind, ReturnPaths

LETTER = "00112233445566778899aabbccddeeff"
PATHS = ReturnPaths("hello@example.com", ["the key of today"])


@given(st.uuids(), st.sampled_from(["bounces", "unsubscribe"]))
def test_an_address_says_which_letter_it_was_made_for(letter: uuid.UUID, kind: str) -> None:
    address = getattr(PATHS, kind)(letter.hex)

    assert PATHS.read(address) == (PathKind(kind[0]), letter.hex)


def test_an_address_is_the_base_with_kind_and_token_behind_a_plus() -> None:
    local, _, domain = PATHS.bounces(LETTER).partition("@")

    assert domain == "example.com"
    assert local.startswith("hello+b")
    assert len(local) == len("hello+b") + 39
    assert local == local.lower()
    assert wire_address(PATHS.bounces(LETTER)) == PATHS.bounces(LETTER)


@pytest.mark.parametrize("spell", [str.upper, str.title, str.swapcase, "<{}>".format, " {} ".format])
def test_servers_that_change_the_case_are_understood(spell: object) -> None:
    assert callable(spell)

    assert PATHS.read(spell(PATHS.bounces(LETTER))) == (PathKind.BOUNCES, LETTER)


def test_no_character_of_a_token_can_be_changed() -> None:
    address = PATHS.bounces(LETTER)
    start, end = len("hello+b"), address.index("@")
    believed = [
        changed
        for place in range(start, end)
        for other in "abcdefghijklmnopqrstuvwxyz234567"
        if other != address[place]
        and PATHS.read(changed := address[:place] + other + address[place + 1 :]) is not None
    ]

    assert believed == []


def test_the_kind_is_signed_too() -> None:
    assert PATHS.read(PATHS.bounces(LETTER).replace("+b", "+u")) is None
    assert PATHS.read(PATHS.unsubscribe(LETTER).replace("+u", "+b")) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda address: address[:-1],
        lambda address: address.replace("@", "a@"),
        lambda address: address.replace("@", "=@"),
        lambda address: address.partition("@")[0],
        lambda address: address.partition("@")[0][:-1] + "@example.com",
        lambda address: address.replace("example.com", "example.org"),
        lambda address: address.replace("example.com", "example.com.example.org"),
        lambda address: address.replace("example.com", "mail.example.com"),
        lambda address: address.replace("hello", "othello"),
        lambda address: address.replace("+", "-"),
        lambda address: address.replace("+b", "+x"),
        lambda address: f"prvs=0123456789={address}",
        lambda address: f"{address}, {address}",
        lambda address: address.replace("@", "\n@"),
        lambda address: "hello@example.com",
        lambda address: "",
        lambda address: "hello+b" + "ſ" * 39 + "@example.com",
        lambda address: "@" * 10_000,
    ],
)
def test_what_was_not_made_here_says_nothing(change: object) -> None:
    assert callable(change)

    assert PATHS.read(change(PATHS.bounces(LETTER))) is None


def test_another_key_makes_other_addresses() -> None:
    others = ReturnPaths("hello@example.com", ["the key of somebody else"])

    assert PATHS.read(others.bounces(LETTER)) is None


def test_a_key_of_yesterday_is_believed_and_signs_no_more() -> None:
    yesterday = ReturnPaths("hello@example.com", ["the key of yesterday"])
    rotated = ReturnPaths("hello@example.com", ["the key of today", "the key of yesterday"])

    assert rotated.read(yesterday.bounces(LETTER)) == (PathKind.BOUNCES, LETTER)
    assert rotated.bounces(LETTER) == PATHS.bounces(LETTER)
    assert yesterday.read(rotated.bounces(LETTER)) is None


def test_addresses_are_found_wherever_they_stand_in_a_header() -> None:
    address = PATHS.unsubscribe(LETTER)
    other = PATHS.bounces("ff" * 16)
    header = f'"Ann" <ann@example.org>, <mailto:{address}?subject=stop>, {other.upper()}.'

    assert PATHS.find(header) == {(PathKind.UNSUBSCRIBE, LETTER), (PathKind.BOUNCES, "ff" * 16)}
    assert PATHS.find(f"x{address} {address}.example.org {address}s") == set()


def test_the_sender_is_where_answers_come_back_to_unless_said_otherwise() -> None:
    derived = ReturnPaths.from_sender("Seaside Club <hello@example.com>", ["the key of today"])

    assert derived.address == "hello@example.com"
    assert derived.bounces(LETTER) == PATHS.bounces(LETTER)


def test_a_domain_beyond_ascii_goes_over_the_wire_in_ascii() -> None:
    paths = ReturnPaths("hello@bücher.example", ["k"])

    assert paths.bounces(LETTER).endswith("@xn--bcher-kva.example")
    assert paths.read(paths.bounces(LETTER)) == (PathKind.BOUNCES, LETTER)


def test_the_longest_local_part_makes_addresses_of_64_characters() -> None:
    paths = ReturnPaths("a" * LONGEST_LOCAL + "@example.com", ["k"])

    assert len(paths.bounces(LETTER).partition("@")[0]) == 64


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("a" * (LONGEST_LOCAL + 1) + "@example.com", "has 24 characters before the @; there is room for 23"),
        ("hällo@example.com", "must be ASCII before the @"),
        ("hello", "is not an address"),
        ("hello @example.com", "is not an address"),
        ("hello@" + ".".join(["a" * 60] * 4), "too long a domain"),
    ],
)
def test_an_address_that_cannot_carry_tokens_is_refused_with_the_reason(address: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ReturnPaths(address, ["k"])


@pytest.mark.parametrize("letter", ["", "00", "zz" * 16, LETTER.upper(), LETTER + "00", f" {LETTER}"])
def test_only_letters_have_addresses(letter: str) -> None:
    with pytest.raises(ValueError, match="not the id of a letter"):
        PATHS.bounces(letter)


def test_no_key_shows() -> None:
    assert "the key" not in repr(PATHS) + repr(vars(PATHS))
