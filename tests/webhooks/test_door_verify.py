from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from core.errors import ExpiredTokenError, InvalidSignatureError, MalformedEventError, WebhookError
from core.events import MEMBER_ADDED, Event
from tests.webhooks.wix_signing import NEXT_KEY, STRANGERS_KEY, WIX_KEY, b64, claims, delivery, pem, sign
from webhooks.opening import Opener, decode
from webhooks.verify import Verifier, load_public_key

NOW = datetime.now(UTC).replace(microsecond=0)
NOW_S = int(NOW.timestamp())


def a_verifier() -> Verifier:
    return Verifier([WIX_KEY.public_key()])


def opened(token: bytes, verifier: Verifier | None = None, opener: Opener | None = None) -> Event:
    return (opener or Opener()).open((verifier or a_verifier()).verify(token), NOW)


def verdict(token: bytes, verifier: Verifier | None = None, opener: Opener | None = None) -> str:
    try:
        opened(token, verifier, opener)
    except WebhookError as exc:
        return type(exc).__name__
    return "accepted"


PEM = pem(WIX_KEY)


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        PEM.strip(),
        f"  \n{PEM}\n ",
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "\\r\\n"),
        f'"{PEM}"',
        f"'{PEM.replace(chr(10), chr(92) + 'n')}'",
        base64.b64encode(PEM.encode()).decode(),
        f' "{base64.b64encode(PEM.strip().encode()).decode()}"\n',
        base64.encodebytes(PEM.encode()).decode(),
        pem(WIX_KEY, PublicFormat.PKCS1),
        base64.b64encode(pem(WIX_KEY, PublicFormat.PKCS1).encode()).decode(),
    ],
)
def test_a_key_is_read_in_every_form_a_dashboard_or_an_environment_gives_it(text: str) -> None:
    assert load_public_key(text) == WIX_KEY.public_key()


PRIVATE_PEM = WIX_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
OLD_PRIVATE_PEM = WIX_KEY.private_bytes(
    Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
).decode()
EC_PEM = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        (' "" ', "empty"),
        ("not a key", "neither PEM"),
        ("bm90IGEga2V5", "neither PEM"),
        ("ключ", "neither PEM"),
        (PRIVATE_PEM, "private key"),
        (OLD_PRIVATE_PEM, "private key"),
        (base64.b64encode(PRIVATE_PEM.encode()).decode(), "private key"),
        (EC_PEM, "not an RSA key"),
        (pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (PEM[: len(PEM) // 2], "not a readable public key"),
        (PEM.replace("PUBLIC KEY", "CERTIFICATE"), "not a readable public key"),
        ("-----BEGIN PUBLIC KEY-----\nключ\n-----END PUBLIC KEY-----", "not a readable public key"),
    ],
)
def test_what_is_no_public_key_is_refused_by_name_and_never_repeated(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        load_public_key(text)
    assert PRIVATE_PEM.splitlines()[1] not in str(caught.value)


def test_a_delivery_that_wix_signed_becomes_an_event() -> None:
    event = opened(delivery())
    assert (event.type, event.id) == (MEMBER_ADDED, "0f000006-5a5a-4b4b-8c8c-d0d0d0d00006")


def test_both_keys_are_accepted_while_they_are_being_changed() -> None:
    both = Verifier([WIX_KEY.public_key(), NEXT_KEY.public_key()])
    tokens = [delivery(), delivery(key=NEXT_KEY), delivery(key=STRANGERS_KEY)]
    assert [verdict(token, both) for token in tokens] == ["accepted", "accepted", "InvalidSignatureError"]
    assert verdict(delivery(key=NEXT_KEY)) == "InvalidSignatureError"


def test_keys_of_different_sizes_serve_side_by_side() -> None:
    bigger = rsa.generate_private_key(65537, 3072)
    both = Verifier([WIX_KEY.public_key(), bigger.public_key()])
    assert verdict(delivery(), both) == verdict(delivery(key=bigger), both) == "accepted"


def test_without_keys_nothing_is_believed() -> None:
    assert verdict(delivery(), Verifier([])) == "InvalidSignatureError"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"exp": NOW_S - 59}, "accepted"),
        ({"exp": NOW_S - 60}, "ExpiredTokenError"),
        ({"exp": NOW_S - 61}, "ExpiredTokenError"),
        ({"exp": NOW_S - 61.5}, "ExpiredTokenError"),
        ({"exp": 0}, "ExpiredTokenError"),
        ({"exp": 10**4000}, "accepted"),
        ({"exp": str(NOW_S + 1000)}, "InvalidSignatureError"),
        ({"exp": True}, "InvalidSignatureError"),
        ({"exp": None}, "InvalidSignatureError"),
        ({"exp": [NOW_S + 1000]}, "InvalidSignatureError"),
        ({"nbf": NOW_S + 60}, "accepted"),
        ({"nbf": NOW_S + 61}, "InvalidSignatureError"),
        ({"nbf": NOW_S + 3600}, "InvalidSignatureError"),
        ({"nbf": "soon"}, "InvalidSignatureError"),
        ({"iat": NOW_S + 10**6}, "accepted"),
        ({"iat": "yesterday"}, "InvalidSignatureError"),
        ({"aud": "somebody else", "iss": 5, "sub": {}, "jti": []}, "accepted"),
    ],
)
def test_times_count_as_in_wixs_own_sdk(changed: dict[str, Any], expected: str) -> None:
    assert verdict(delivery(**changed)) == expected


def test_a_token_without_any_time_is_accepted() -> None:
    assert verdict(sign(json.dumps({"data": claims()["data"]}).encode())) == "accepted"


def test_the_forgiveness_for_clocks_can_be_set() -> None:
    late = delivery(exp=NOW_S - 500)
    assert verdict(late, opener=Opener(leeway_s=3600)) == "accepted"
    assert verdict(late) == "ExpiredTokenError"


def test_a_forged_token_is_not_called_expired() -> None:
    """Refusals for `exp` alone are counted apart, so only a right signature may lead there."""
    assert verdict(delivery(key=STRANGERS_KEY, exp=0)) == "InvalidSignatureError"


def test_a_header_is_remembered_only_after_a_right_signature() -> None:
    verifier = a_verifier()
    good, forged = delivery(), delivery(header={"alg": "RS256", "kid": "x"}, key=STRANGERS_KEY)
    verdict(forged, verifier)
    assert verifier._accepted_headers == set()
    verdict(good, verifier)
    assert verifier._accepted_headers == {good.split(b".")[0]}


def test_a_remembered_header_does_not_vouch_for_the_signature() -> None:
    verifier = a_verifier()
    assert verdict(delivery(), verifier) == "accepted"
    assert verdict(delivery(key=STRANGERS_KEY), verifier) == "InvalidSignatureError"


def test_the_memory_of_headers_stays_small() -> None:
    verifier = a_verifier()
    for number in range(40):
        assert verdict(delivery(header={"alg": "RS256", "kid": str(number)}), verifier) == "accepted"
    assert len(verifier._accepted_headers) <= 16


# The same tokens through PyJWT: both accept or both refuse, apart from the differences named here.

PYJWT_OPTIONS = {f"verify_{claim}": False for claim in ("aud", "iss", "iat", "sub", "jti")}


def pyjwt_accepts(token: bytes) -> bool:
    try:
        jwt.decode(token, WIX_KEY.public_key(), algorithms=["RS256"], leeway=60, options=PYJWT_OPTIONS)  # type: ignore[arg-type]
    except jwt.PyJWTError:
        return False
    return True


def we_accept(token: bytes) -> bool:
    return verdict(token) == "accepted"


def padded(token: bytes) -> bytes:
    """With the payload's padding, signed like that."""
    payload = json.dumps(claims(), indent=1).encode()
    while len(payload) % 3 == 0:
        payload += b" "
    return sign(base64.urlsafe_b64encode(payload), is_encoded=True)


GOOD = json.dumps(claims()).encode()
DIFFERENCES = {
    "space around the token is forgiven": (b" " + sign(GOOD) + b"\r\n", True, False),
    "a kid may be anything": (sign(GOOD, {"alg": "RS256", "kid": 5}), True, False),
    "padding is refused": (padded(GOOD), False, True),
    "every extension is refused": (
        sign(GOOD, {"alg": "RS256", "crit": ["b64"], "b64": True}),
        False,
        True,
    ),
    "b64 must be true": (sign(GOOD, {"alg": "RS256", "b64": "false"}), False, True),
    "a number in quotes is no time": (delivery(exp="99999999999"), False, True),
    "true is no time": (delivery(nbf=True), False, True),
    "iat must be a time": (delivery(iat="yesterday"), False, True),
    "a part of a second counts": (delivery(nbf=NOW_S + 60.999), False, True),
    "claims are UTF-8": (sign(GOOD.decode().encode("utf-16")), False, True),
    "claims have no byte order mark": (sign(b"\xef\xbb\xbf" + GOOD), False, True),
    "NaN is not JSON": (sign(GOOD[:-1] + b', "x": NaN}'), False, True),
    "headers are bounded": (sign(GOOD, {"alg": "RS256", "x5c": ["A" * 8192]}), False, True),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_only_differences_from_pyjwt_are_wanted(name: str) -> None:
    token, ours, theirs = DIFFERENCES[name]
    assert (we_accept(token), pyjwt_accepts(token)) == (ours, theirs)


VALID = sign(GOOD)
BYTES_OF_INTEREST = st.one_of(st.sampled_from(list(b"AQgw._-+/=\n{}\x00\xff")), st.integers(0, 255))


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from(["replace", "insert", "delete", "cut", "swap"]),
            st.one_of(
                st.integers(0, len(VALID) - 1),
                st.sampled_from([0, VALID.index(b"."), VALID.rindex(b"."), len(VALID) - 1]),
            ),
            BYTES_OF_INTEREST,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_token_changed_on_its_way_is_accepted_by_both_or_by_neither(
    edits: list[tuple[str, int, int]],
) -> None:
    token = bytearray(VALID)
    for how, place, byte in edits:
        match how:
            case "replace":
                token[place : place + 1] = bytes([byte])
            case "insert":
                token[place:place] = bytes([byte])
            case "delete":
                del token[place : place + 1]
            case "cut":
                del token[place:]
            case "swap":
                token[:] = token[place:] + token[:place]
    changed = bytes(token).strip()
    assume(b"=" not in changed)
    assert we_accept(changed) == pyjwt_accepts(changed)
    assert we_accept(changed) == (changed == VALID)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ALGORITHMS = st.sampled_from(
    ["RS256", "RS256", "RS256", "rs256", "RS256 ", "none", "None", "", "HS256", "PS256", "RS512"]
)


@settings(max_examples=200, deadline=None)
@given(
    header=st.fixed_dictionaries(
        {},
        optional={
            "alg": ALGORITHMS | ANY_JSON,
            "kid": st.text(),
            "typ": ANY_JSON,
            "b64": st.booleans(),
            "crit": st.lists(st.sampled_from(["exp", "x", ""])) | ANY_JSON,
            "jwk": ANY_JSON,
            "jku": ANY_JSON,
            "x5c": ANY_JSON,
            "zip": ANY_JSON,
            "cty": ANY_JSON,
        },
    )
)
@example(header={"alg": "RS256", "b64": True})
@example(header={"alg": "RS256", "b64": False})
@example(header={"alg": "RS256", "crit": []})
@example(header={"alg": ["RS256"]})
def test_a_signed_header_is_accepted_by_both_or_by_neither(header: dict[str, object]) -> None:
    token = sign(GOOD, header)
    assert we_accept(token) == pyjwt_accepts(token)


# Far from the limits, because PyJWT reads the clock itself; the limits are tested above.
MOMENTS = st.sampled_from([-(10**9), -7200, 7200, 10**9]).map(lambda d: NOW_S + d)
TIMES = MOMENTS | st.none() | st.sampled_from(["soon", "", [], {}, [1], 10**400, -(10**400), 0, -1])


@settings(max_examples=200, deadline=None)
@given(
    changed=st.fixed_dictionaries(
        {},
        optional={
            "exp": TIMES,
            "nbf": TIMES,
            "iat": MOMENTS,
            "aud": ANY_JSON,
            "iss": ANY_JSON,
            "x": ANY_JSON,
        },
    )
)
def test_signed_claims_are_accepted_by_both_or_by_neither(changed: dict[str, Any]) -> None:
    token = delivery(**changed)
    assert we_accept(token) == pyjwt_accepts(token)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_signed_ends_in_one_of_our_errors(payload: bytes) -> None:
    with pytest.raises((MalformedEventError, InvalidSignatureError)):
        opened(sign(payload))


@settings(max_examples=200, deadline=None)
@given(
    data=ANY_JSON
    | st.builds(
        lambda kind, site, inner: json.dumps({"eventType": kind, "instanceId": site, "data": inner}),
        st.sampled_from(["AppRemoved", "x"]) | ANY_JSON,
        st.just("site") | ANY_JSON,
        ANY_JSON
        | st.dictionaries(
            st.sampled_from(["id", "eventTime", "triggeredByAnonymizeRequest", "entityId", "actionEvent"]),
            ANY_JSON,
        ).map(json.dumps),
    ),
    issued=ANY_JSON,
)
def test_whatever_lies_inside_is_an_event_or_one_of_our_errors(data: object, issued: object) -> None:
    token = sign(json.dumps({"data": data, "iat": issued}).encode())
    try:
        event = opened(token)
    except (MalformedEventError, InvalidSignatureError):
        return
    assert event.payload.encode()
    assert event.id.isascii()
    assert event.occurred_at.tzinfo is UTC


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200) | st.lists(st.binary(max_size=20).map(b64), max_size=5).map(b".".join))
def test_unsigned_bytes_are_never_believed_and_never_a_crash(body: bytes) -> None:
    with pytest.raises(InvalidSignatureError):
        opened(body)


# A signature is opened and its digest compared; the library's own `verify` has to say the same of whatever it holds.

DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
SIGNED = VALID.rpartition(b".")[0]
DIGEST = hashlib.sha256(SIGNED).digest()


def signature_of(block: bytes) -> bytes:
    """What opens to this block, right or wrong."""
    secret = WIX_KEY.private_numbers()
    number = pow(int.from_bytes(block), secret.d, secret.public_numbers.n)
    return number.to_bytes(256)


def block_of(
    info: bytes, *, kind: bytes = b"\x00\x01", filling: bytes = b"\xff", after: bytes = b""
) -> bytes:
    return kind + filling * (256 - len(kind) - 1 - len(info) - len(after)) + b"\x00" + info + after


BLOCKS = {
    "right": block_of(DIGEST_INFO + DIGEST),
    "of another text": block_of(DIGEST_INFO + hashlib.sha256(b"x").digest()),
    "a digest cut short": block_of(DIGEST_INFO + DIGEST[:-1]),
    "a digest and more": block_of(DIGEST_INFO + DIGEST + b"\x00"),
    "rubbish behind it": block_of(DIGEST_INFO + DIGEST, after=b"\x00" * 100),
    "little filling, rubbish behind it": b"\x00\x01"
    + b"\xff" * 8
    + b"\x00"
    + DIGEST_INFO
    + DIGEST
    + b"\x01" * 194,
    "filled for encryption": block_of(DIGEST_INFO + DIGEST, kind=b"\x00\x02", filling=b"\x7f"),
    "filled with zeros": block_of(DIGEST_INFO + DIGEST, filling=b"\x00"),
    "filled wrongly": block_of(DIGEST_INFO + DIGEST, filling=b"\xfe"),
    "no name of the hash": block_of(DIGEST),
    "the hash without its NULL": block_of(
        bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + DIGEST
    ),
    "SHA-1's name": block_of(bytes.fromhex("3021300906052b0e03021a05000414") + DIGEST[:20]),
    "SHA-512's name": block_of(bytes.fromhex("3051300d060960864801650304020305000440") + DIGEST * 2),
    "a length in two bytes": block_of(bytes.fromhex("308131300d060960864801650304020105000420") + DIGEST),
    "all zeros": bytes(256),
    "one": bytes(255) + b"\x01",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_only_the_one_right_block_signs(name: str) -> None:
    token = SIGNED + b"." + b64(signature_of(BLOCKS[name]))
    try:
        WIX_KEY.public_key().verify(signature_of(BLOCKS[name]), SIGNED, PKCS1v15(), SHA256())
        theirs = True
    except InvalidSignature:
        theirs = False
    assert we_accept(token) == pyjwt_accepts(token) == theirs == (name == "right")


@settings(max_examples=300)
@given(place=st.integers(0, 255), byte=st.integers(0, 255))
def test_a_block_with_one_wrong_byte_does_not_sign(place: int, byte: int) -> None:
    block = bytearray(BLOCKS["right"])
    assume(place > 0 and block[place] != byte)
    block[place] = byte
    token = SIGNED + b"." + b64(signature_of(bytes(block)))
    assert not we_accept(token)
    assert not pyjwt_accepts(token)


def test_a_made_up_signature_does_not_have_the_body_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's megabyte costs one look at the signature."""
    hashed: list[int] = []
    real = hashlib.sha256
    monkeypatch.setattr("webhooks.verify.hashlib.sha256", lambda data: hashed.append(len(data)) or real(data))
    head = VALID.partition(b".")[0]
    assert verdict(head + b"." + b"A" * 1_000_000 + b"." + b64(b"\x7f" * 256)) == "InvalidSignatureError"
    assert hashed == []
    assert verdict(VALID) == "accepted"
    assert hashed == [len(SIGNED)]


def as_the_standard_library_decodes(segment: bytes) -> bytes | None:
    try:
        decoded = base64.urlsafe_b64decode(segment + b"==")
    except ValueError:
        return None
    return decoded if b64(decoded) == segment else None


def as_wedecode(segment: bytes) -> bytes | None:
    try:
        return decode(segment)
    except InvalidSignatureError:
        return None


@settings(max_examples=1000)
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from(b'ABQZagwxz0489-_+/=\\"un \n'), max_size=12).map(bytes)
    | st.builds(
        lambda data, place, byte: b64(data)[:place] + bytes([byte]) + b64(data)[place + 1 :],
        st.binary(max_size=30),
        st.integers(0, 40),
        st.integers(0, 255),
    )
)
def test_a_segment_has_one_spelling_and_no_other_is_read(segment: bytes) -> None:
    assert as_wedecode(segment) == as_the_standard_library_decodes(segment)


# What Wix's own SDK answers (shared/wix/webhooks.md, section 2), and where we differ on purpose.

NOT_A_TEXT = json.dumps({**claims(), "data": json.loads(claims()["data"])}).encode()
HS256_SIGNED = b64(b'{"alg": "HS256"}') + b"." + b64(GOOD)
OF_THE_SDK = {
    "valid": (VALID, True, True),
    "no exp and no iat": (sign(json.dumps({"data": claims()["data"]}).encode()), True, True),
    "exp long ago": (delivery(exp=NOW_S - 3600), False, False),
    "iat in the future": (delivery(iat=NOW_S + 10**6), True, True),
    "nbf in the future": (delivery(nbf=NOW_S + 3600), False, False),
    "any aud and iss": (delivery(aud="x", iss="y"), True, True),
    "alg none": (sign(GOOD, {"alg": "none"}), False, False),
    "HS256 with the public key's text": (
        HS256_SIGNED + b"." + b64(hmac.digest(PEM.encode(), HS256_SIGNED, "sha256")),
        False,
        False,
    ),
    "another RSA algorithm named": (sign(GOOD, {"alg": "RS512"}), False, False),
    "tampered": (VALID[:-8] + b"AAAAAAAA", False, False),
    "not a JWT": (b"hello", False, False),
    "a newline behind it": (VALID + b"\n", True, True),
    "data is an object": (sign(NOT_A_TEXT), False, False),
    "data is missing": (sign(b'{"iat": 1}'), False, False),
    "exp is now: we forgive a minute": (delivery(exp=NOW_S), False, True),
    "exp a moment ago: we forgive a minute": (delivery(exp=NOW_S - 59), False, True),
    "nbf in a moment: we forgive a minute": (delivery(nbf=NOW_S + 59), False, True),
    "a type nobody listens to: kept as ignored": (delivery({"id": "x"}, "wix.unheard.of"), False, True),
}


@pytest.mark.parametrize("name", OF_THE_SDK)
def test_wixs_sdk_answers_the_same_but_for_differences_named(name: str) -> None:
    token, theirs, ours = OF_THE_SDK[name]
    assert we_accept(token) is ours
    assert theirs is ours or ":" in name


def test_an_expired_token_is_a_kind_of_wrong_signature() -> None:
    assert issubclass(ExpiredTokenError, InvalidSignatureError)
    assert ExpiredTokenError.status_code == 401
