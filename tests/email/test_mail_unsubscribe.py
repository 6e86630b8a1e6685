from __future__ import annotations

import hashlib
import random
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer

from core.community import LONGEST_ID, GroupId, MemberId, SiteId
from integrations.email.unsubscribe import (
    PREFIX,
    InvalidTokenError,
    UnsubscribeClaim,
    UnsubscribeTokens,
    hash_address,
)

KEY = "k" * 40
GROUP = GroupId("group-1")
CLAIM = UnsubscribeClaim(SiteId("site-1"), MemberId("member-1"), hash_address(KEY, "ana@example.com"), GROUP)
IDS = st.text(max_size=40)
WIX_IDS = st.uuids().map(str)


@given(
    st.builds(UnsubscribeClaim, IDS, IDS, st.text(max_size=32), st.none() | st.text(min_size=1, max_size=40))
)
def test_a_token_says_what_was_put_in_and_fits_into_a_url(claim: UnsubscribeClaim) -> None:
    token = UnsubscribeTokens(KEY).issue(claim)
    assert set(token) <= set(string.ascii_letters + string.digits + "-_.")
    assert UnsubscribeTokens(KEY).read(token) == claim


@given(st.builds(UnsubscribeClaim, *[WIX_IDS | st.text(max_size=500)] * 3, st.none() | WIX_IDS))
def test_a_token_is_letter_for_letter_what_the_serializer_makes_of_it(claim: UnsubscribeClaim) -> None:
    serializer = URLSafeSerializer(
        ["former" * 8, KEY],
        salt="usher.unsubscribe",
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )
    said = [claim.site, claim.member, claim.address_hash]
    with_group = PREFIX + serializer.dumps([*said, claim.group] if claim.group else said)
    without = PREFIX + serializer.dumps(said)
    assert UnsubscribeTokens(KEY, ["former" * 8]).issue(claim) in (
        [with_group] if len(with_group) <= 640 else [without]
    )


def test_every_changed_missing_or_added_character_makes_a_token_invalid() -> None:
    tokens = UnsubscribeTokens(KEY)
    token = tokens.issue(CLAIM)
    for at in range(len(token)):
        others = [other for other in "Aa0-_.B" if other != token[at]]
        for damaged in (
            token[:at],
            token[:at] + token[at + 1 :],
            *(token[:at] + o + token[at + 1 :] for o in others),
        ):
            with pytest.raises(InvalidTokenError):
                tokens.read(damaged)
    for longer in (token + "A", token + "=", " " + token, token + "\n"):
        with pytest.raises(InvalidTokenError):
            tokens.read(longer)


def test_no_other_spelling_of_the_last_character_is_taken() -> None:
    """Base64 of 32 bytes leaves two spare bits in its last character: four spellings, one of them ours."""
    tokens = UnsubscribeTokens(KEY)
    token = tokens.issue(CLAIM)
    taken = []
    for last in string.ascii_letters + string.digits + "-_":
        try:
            tokens.read(token[:-1] + last)
        except InvalidTokenError:
            continue
        taken.append(last)
    assert taken == [token[-1]]


@given(st.text(max_size=300))
def test_garbage_is_invalid_and_nothing_else(garbage: str) -> None:
    with pytest.raises(InvalidTokenError):
        UnsubscribeTokens(KEY).read(garbage)


def test_an_overlong_token_is_refused_even_if_it_is_ours() -> None:
    tokens = UnsubscribeTokens(KEY)
    incompressible = "".join(hash_address(KEY, str(number)) for number in range(40))
    with pytest.raises(InvalidTokenError):
        tokens.read(tokens.issue(UnsubscribeClaim(SiteId(incompressible), MemberId("member-1"), "h")))


def test_a_token_of_another_key_or_another_use_of_the_key_is_refused() -> None:
    from itsdangerous import URLSafeSerializer

    other_use = str(URLSafeSerializer(KEY, salt="session").dumps(["a", "b", "c"]))
    for token in (UnsubscribeTokens("another key").issue(CLAIM), other_use):
        with pytest.raises(InvalidTokenError):
            UnsubscribeTokens(KEY).read(token)


def test_a_token_of_a_previous_key_is_still_believed_and_new_ones_use_the_new_key() -> None:
    old = UnsubscribeTokens("the old key").issue(CLAIM)
    rotated = UnsubscribeTokens(KEY, ["the old key"])
    assert rotated.read(old) == CLAIM
    assert UnsubscribeTokens(KEY).read(rotated.issue(CLAIM)) == CLAIM


def test_once_the_previous_key_is_dropped_its_tokens_are_refused() -> None:
    old = UnsubscribeTokens("the old key").issue(CLAIM)
    with pytest.raises(InvalidTokenError):
        UnsubscribeTokens(KEY).read(old)


def test_a_link_that_was_made_before_links_named_a_group_still_works() -> None:
    """Made by an earlier Usher with this key: its letters lie in mailboxes, for years."""
    token = (
        "u.eJyLVirOLEnVNVTSUcpNzU1KLQIzDQyNjE1MzcwtLBOTklNS09D5SrEAuasPig"
        ".rYGeFIOocn0QkEejdTTHQ7pms-JsCgbk1FWsb9uIenY"
    )
    claim = UnsubscribeClaim(SiteId("site-1"), MemberId("member-1"), "0123456789abcdef" * 2)
    assert UnsubscribeTokens(KEY).read(token) == claim


def test_a_token_fits_into_the_line_of_a_header_whatever_the_ids() -> None:
    """RFC 5322, 2.1.1: 998 octets. With ids of a length that Wix does not use, the group is left out."""
    tokens = UnsubscribeTokens(KEY)

    def an_id(name: str, characters: int) -> str:
        return "".join(random.Random(name).choices(string.ascii_letters + string.digits, k=characters))

    for length, fits in ((36, True), (60, True), (LONGEST_ID, False)):
        site, member, group = (an_id(name, length) for name in ("site", "member", "group"))
        claim = UnsubscribeClaim(SiteId(site), MemberId(member), "a" * 32, GroupId(group))
        token = tokens.issue(claim)
        assert len(f"List-Unsubscribe: <https://{'a' * 250}/unsubscribe/{token}>,") <= 998
        assert tokens.read(token) == (claim if fits else replace(claim, group=None))


@pytest.mark.parametrize(
    "payload", [[], ["a"], ["a", "b"], ["a", "b", "c", "d", "e"], {"a": 1}, 7, None, "four!"]
)
def test_a_rightly_signed_payload_of_another_shape_is_invalid(payload: object) -> None:
    tokens = UnsubscribeTokens(KEY)
    token = PREFIX + str(tokens._serializer.dumps(payload))
    with pytest.raises(InvalidTokenError):
        tokens.read(token)


@pytest.mark.parametrize(
    "spelling", [" Ana@Example.com ", "ANA@EXAMPLE.COM", "ana@example.com\n", "ana@ＥＸＡＭＰＬＥ.com"]
)
def test_one_address_has_one_hash_however_it_is_spelled(spelling: str) -> None:
    assert hash_address(KEY, spelling) == hash_address(KEY, "ana@example.com")


def test_an_international_domain_and_its_a_label_have_one_hash() -> None:
    assert hash_address(KEY, "ana@例え.jp") == hash_address(KEY, "ana@xn--r8jz45g.jp")


def test_the_hash_depends_on_key_and_address_and_is_32_hex_characters() -> None:
    one = hash_address(KEY, "ana@example.com")
    assert len({one, hash_address("other", "ana@example.com"), hash_address(KEY, "ana@example.org")}) == 3
    assert len(one) == 32
    assert set(one) <= set(string.hexdigits.lower())


@given(st.text(st.characters(exclude_categories=[]), max_size=80))
def test_every_text_has_a_hash(text: str) -> None:
    assert hash_address(KEY, text) == hash_address(KEY, text)


def test_no_part_of_an_unsubscribe_path_begins_with_a_dot() -> None:
    """Many proxies refuse "/.", to hide files such as .git; a long claim is packed, and a packed token begins so."""
    claim = UnsubscribeClaim(SiteId("s" * 100), MemberId("m" * 100), "a" * 32)
    token = UnsubscribeTokens("a secret").issue(claim)
    assert not token.startswith(".")
    assert UnsubscribeTokens("a secret").read(token) == claim
