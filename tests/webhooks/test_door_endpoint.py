from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from asgi import _Web
from core import events
from core.errors import (
    BodyTooLargeError,
    ExpiredTokenError,
    InvalidSignatureError,
    JournalUnavailableError,
    MalformedEventError,
)
from core.events import read_details
from tests.webhooks.wix_signing import (
    EXAMPLES,
    NEXT_KEY,
    SITE,
    STRANGERS_KEY,
    WIX_KEY,
    FakeJournal,
    a_door,
    ask,
    b64,
    claims,
    deliver,
    delivery,
    pem,
    sign,
)
from webhooks.endpoint import _OUTCOMES, MAX_BODY_BYTES, PATH, BodyTooSlowError, Door, _outcome_of
from webhooks.opening import Opener
from webhooks.verify import Verifier

YOGA = "5d0c3f0a-8f0e-4e0a-9b53-1f7a3a1e2c41"
RUNNERS = "9e2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a52"
BEN = "22f7e6b3-4c8d-4e9f-8a12-b3c4d5e6f7a2"
CHLOE = "3308f7c4-5d9e-4fa0-9b23-c4d5e6f7a8b3"
DMITRI = "441908d5-6eaf-40b1-8c34-d5e6f7a8b9c4"


@dataclass(frozen=True)
class Expected:
    """What a documented payload turns into. `type` "" is Wix's own name: nobody listens to it."""

    type: str = ""
    group: str | None = None
    member: str | None = None
    role: str = ""
    reason: str = ""
    has_own_id: bool = True


LEGACY = Expected(has_own_id=False)
OUTCOMES = {
    "AppInstalled": Expected(events.APP_INSTALLED, has_own_id=False),
    "AppRemoved": Expected(events.APP_REMOVED, has_own_id=False),
    "ENVELOPE": Expected(events.MEMBER_ADDED, YOGA, BEN, "MEMBER"),
    "ENVELOPE.legacy-app-event": Expected(events.APP_INSTALLED, has_own_id=False),
    "HISTORICAL.wix.social_groups.v2.group_member_added.asJson": Expected(
        events.MEMBER_ADDED, YOGA, BEN, "MEMBER"
    ),
    "PaidPlanAutoRenewalCancelled": LEGACY,
    "PaidPlanChanged": LEGACY,
    "PaidPlanPurchased": LEGACY,
    "PlanConvertedToPaid": LEGACY,
    "PlanReactivated": LEGACY,
    "PlanTransferred": LEGACY,
    "UNVERIFIED.wix.social_groups.v2.group_member_joined": Expected(
        events.MEMBER_JOINED, YOGA, CHLOE, "MEMBER"
    ),
    "UNVERIFIED.wix.social_groups.v2.group_member_left": Expected(events.MEMBER_LEFT, YOGA, CHLOE, "MEMBER"),
    "UNVERIFIED.wix.social_groups.v2.join_group_request_cancelled": Expected(
        events.JOIN_CANCELED, RUNNERS, CHLOE
    ),
    "com.wixpress.emailsubscriptions.v1.EmailSubscriptionChanged": Expected(
        events.SUBSCRIPTION_CHANGED, has_own_id=False
    ),
    "wix.contacts.v4.contact_created": Expected(events.CONTACT_CREATED),
    "wix.contacts.v4.contact_deleted": Expected(events.CONTACT_DELETED),
    "wix.contacts.v4.contact_merged": Expected(events.CONTACT_MERGED),
    "wix.contacts.v4.contact_updated": Expected(events.CONTACT_UPDATED),
    "wix.members.v1.member_created": Expected("", None, DMITRI),
    "wix.members.v1.member_deleted": Expected(events.MEMBER_DELETED, None, DMITRI),
    "wix.members.v1.member_updated": Expected("", None, DMITRI),
    "wix.social_groups.v2.group_created": Expected(),
    "wix.social_groups.v2.group_deleted": Expected(events.GROUP_DELETED, YOGA),
    "wix.social_groups.v2.group_group_cover_changed": Expected(),
    "wix.social_groups.v2.group_group_description_changed": Expected(),
    "wix.social_groups.v2.group_member_added": Expected(events.MEMBER_ADDED, YOGA, BEN, "MEMBER"),
    "wix.social_groups.v2.group_member_removed": Expected(events.MEMBER_REMOVED, YOGA, BEN, "MEMBER"),
    "wix.social_groups.v2.group_request_approved": Expected(),
    "wix.social_groups.v2.group_request_created": Expected(),
    "wix.social_groups.v2.group_request_rejected": Expected(),
    "wix.social_groups.v2.group_role_assigned": Expected(events.ROLE_ASSIGNED, YOGA, BEN, "ADMIN"),
    "wix.social_groups.v2.group_role_unassigned": Expected("", YOGA, BEN, "ADMIN"),
    "wix.social_groups.v2.group_rules_updated": Expected(events.RULES_UPDATED, YOGA),
    "wix.social_groups.v2.group_updated": Expected(),
    "wix.social_groups.v2.join_group_request_approved": Expected(events.JOIN_APPROVED, RUNNERS, CHLOE),
    "wix.social_groups.v2.join_group_request_created": Expected(events.JOIN_REQUESTED, RUNNERS, CHLOE),
    "wix.social_groups.v2.join_group_request_rejected": Expected(
        events.JOIN_REJECTED, RUNNERS, DMITRI, reason="Please complete your profile first."
    ),
}


def test_every_documented_payload_has_an_expected_outcome() -> None:
    assert sorted(OUTCOMES) == sorted(path.name.removesuffix(".json") for path in EXAMPLES.iterdir())


def as_delivered(name: str) -> tuple[bytes, str]:
    """The example as a signed body, and Wix's name of its type."""
    example = json.loads((EXAMPLES / f"{name}.json").read_text())
    if name == "ENVELOPE":
        outer = example["jwtPayload"]
        fresh = {**outer, "exp": int(time.time()) + 300}
        return sign(json.dumps(fresh).encode(), example["jwtHeader"]), MEMBER_ADDED_TYPE
    if name == "ENVELOPE.legacy-app-event":
        outer = example["jwtPayload.data parsed once"]
        return sign(json.dumps({"data": json.dumps(outer)}).encode()), outer["eventType"]
    wire_type = name.removeprefix("HISTORICAL.").removeprefix("UNVERIFIED.").removesuffix(".asJson")
    return delivery(example, wire_type), wire_type


MEMBER_ADDED_TYPE = "wix.social_groups.v2.group_member_added"


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_documented_payload_arrives_with_who_and_where(name: str) -> None:
    expected, journal = OUTCOMES[name], FakeJournal()
    body, wire_type = as_delivered(name)

    assert deliver(a_door(journal), body).status_code == 200

    (event,) = journal.accepted
    details = read_details(event)
    assert (event.type, event.site) == (expected.type or wire_type, SITE)
    assert (details.group, details.member) == (expected.group, expected.member)
    assert (details.role, details.reason) == (expected.role, expected.reason)
    if expected.has_own_id:
        kept = event.type not in events.ABOUT_ADDRESSES
        inner = json.loads(event.payload if kept else (EXAMPLES / f"{name}.json").read_text())
        assert event.id == inner["id"]
        assert event.occurred_at.isoformat() == inner["eventTime"].replace("Z", "+00:00")
    else:
        assert event.id.startswith("sha256-")
    assert not event.erasure


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if outcome.has_own_id])
def test_a_privacy_request_is_seen_on_every_type(name: str) -> None:
    if name == "ENVELOPE":
        name = MEMBER_ADDED_TYPE
    example = json.loads((EXAMPLES / f"{name}.json").read_text())
    journal = FakeJournal()
    deliver(a_door(journal), delivery({**example, "triggeredByAnonymizeRequest": True}, name))
    assert journal.accepted[0].erasure


def test_a_repeated_delivery_is_answered_like_the_first() -> None:
    journal, body = FakeJournal(), delivery()
    app = a_door(journal)
    answers = [deliver(app, body) for _ in range(3)]
    assert [(a.status_code, a.content) for a in answers] == [(200, b"")] * 3
    assert len({event.id for event in journal.accepted}) == 1


def test_a_type_nobody_knows_is_taken_all_the_same() -> None:
    journal = FakeJournal()
    assert deliver(a_door(journal), delivery({"id": "e1"}, "wix.new.v9.thing")).status_code == 200
    assert journal.accepted[0].type == "wix.new.v9.thing"


def test_the_second_key_opens_the_door_too() -> None:
    assert deliver(a_door(FakeJournal()), delivery(key=NEXT_KEY)).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "application/x-www-form-urlencoded", "", "nonsense;;="]
)
def test_the_content_type_does_not_matter(content_type: str) -> None:
    answer = deliver(a_door(FakeJournal()), delivery(), **{"Content-Type": content_type})
    assert answer.status_code == 200


def test_space_around_the_token_does_not_matter() -> None:
    assert deliver(a_door(FakeJournal()), b" \r\n" + delivery() + b"\n").status_code == 200


def test_a_large_delivery_that_is_just_allowed_is_taken() -> None:
    body = delivery({"id": "big", "padding": "x" * 550_000})
    journal = FakeJournal()
    answer = deliver(a_door(journal), body + b" " * (MAX_BODY_BYTES - len(body)))
    assert (answer.status_code, [event.id for event in journal.accepted]) == (200, ["big"])


def test_a_database_that_does_not_commit_makes_wix_come_again() -> None:
    app = a_door(FakeJournal(JournalUnavailableError("disk full")))
    answer = deliver(app, delivery())
    assert (answer.status_code, answer.content) == (503, b"")


# The hostile corpus: what somebody who is not Wix, or a broken Wix, might send.

PUBLIC_PEM = pem(WIX_KEY).encode()
GOOD = delivery()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(b".")
EC_KEY = generate_private_key(SECP256R1())


def with_hmac(secret: bytes, header: dict[str, str]) -> bytes:
    signed = b64(json.dumps(header).encode()) + b"." + PAYLOAD
    return signed + b"." + b64(hmac.new(secret, signed, hashlib.sha256).digest())


def with_header(header: dict[str, object]) -> bytes:
    """Only the header exchanged; payload and signature stay Wix's."""
    return b64(json.dumps(header).encode()) + b"." + PAYLOAD + b"." + SIGNATURE


def with_own_key(**header: object) -> bytes:
    return delivery(key=STRANGERS_KEY, header={"alg": "RS256", **header})


def by_pyjwt(algorithm: str, key: object) -> bytes:
    return jwt.encode(claims(), key, algorithm).encode()  # type: ignore[arg-type]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


STRANGERS_JWK = jwt.algorithms.RSAAlgorithm.to_jwk(STRANGERS_KEY.public_key(), as_dict=True)
DATA = json.dumps(claims()["data"])


def signed_text(payload: str) -> bytes:
    return sign(payload.encode())


def inner(text: str) -> bytes:
    """Rightly signed, with this text as the innermost layer."""
    return delivery(text)


UNSIGNED = {
    "an empty body": b"",
    "only space": b" \r\n\t ",
    "one byte of NUL": b"\0",
    "JSON instead of a token": json.dumps(claims()).encode(),
    "a form": b"token=" + GOOD,
    "a bearer prefix": b"Bearer " + GOOD,
    "quotes around the token": b'"' + GOOD + b'"',
    "two tokens, one per line": GOOD + b"\n" + GOOD,
    "two tokens, joined by a dot": GOOD + b"." + GOOD,
    "the JSON serialisation of a token": json.dumps(
        {"protected": HEAD.decode(), "payload": PAYLOAD.decode(), "signature": SIGNATURE.decode()}
    ).encode(),
    "five parts like an encrypted token": b".".join([HEAD, b"", PAYLOAD, SIGNATURE, SIGNATURE]),
    "two parts": HEAD + b"." + PAYLOAD,
    "an empty signature": HEAD + b"." + PAYLOAD + b".",
    "an empty header": b"." + PAYLOAD + b"." + SIGNATURE,
    "an empty payload": HEAD + b".." + SIGNATURE,
    "only dots": b"..",
    "alg none without signature": b64(b'{"alg":"none"}') + b"." + PAYLOAD + b".",
    **{
        f"alg {alg!r} over Wix's own signature": with_header({"alg": alg})
        for alg in ("none", "None", "NONE", "nOnE", "", "rs256", "RS256 ", " RS256", "RS512", "HS256", "RSA")
    },
    "no alg": with_header({"typ": "JWT"}),
    "alg null": with_header({"alg": None}),
    "alg a list": with_header({"alg": ["RS256"]}),
    "a header that is a list": b64(b'["RS256"]') + b"." + PAYLOAD + b"." + SIGNATURE,
    "a header that is no JSON": b64(b"RS256") + b"." + PAYLOAD + b"." + SIGNATURE,
    "a header that is not UTF-8": b64(b"\xff\xfe") + b"." + PAYLOAD + b"." + SIGNATURE,
    "a header nested deeply": b64(nested(3000).encode()) + b"." + PAYLOAD + b"." + SIGNATURE,
    "a header with an endless number": b64(b'{"alg":' + b"1" * 5000 + b"}")
    + b"."
    + PAYLOAD
    + b"."
    + SIGNATURE,
    "HS256 with the public key as its secret": with_hmac(PUBLIC_PEM, {"alg": "HS256"}),
    "HS256 with the key's bare text": with_hmac(PUBLIC_PEM.strip(), {"alg": "HS256", "typ": "JWT"}),
    "HS256 that calls itself RS256": with_hmac(PUBLIC_PEM, {"alg": "RS256"}),
    "RS384 by the right key": by_pyjwt("RS384", WIX_KEY),
    "RS512 by the right key": by_pyjwt("RS512", WIX_KEY),
    "PS256 by the right key": by_pyjwt("PS256", WIX_KEY),
    "ES256": by_pyjwt("ES256", EC_KEY),
    "somebody else's key": delivery(key=STRANGERS_KEY),
    "a key brought along as jwk": with_own_key(jwk=STRANGERS_JWK),
    "a key brought along as jku": with_own_key(jku="https://evil.example/keys"),
    "a key brought along as x5u": with_own_key(x5u="https://evil.example/cert"),
    "a key named by path": with_own_key(kid="../../dev/null"),
    "an unknown critical extension": delivery(header={"alg": "RS256", "crit": ["exp"], "exp": 1}),
    "an empty list of extensions": delivery(header={"alg": "RS256", "crit": []}),
    "an unencoded payload": delivery(header={"alg": "RS256", "b64": False, "crit": ["b64"]}),
    "one byte less": GOOD[:-1],
    "half of it": GOOD[: len(GOOD) // 2],
    "a payload of somebody else's": HEAD
    + b"."
    + b64(json.dumps(claims({"id": "x"})).encode())
    + b"."
    + SIGNATURE,
    "a letter of the payload changed": HEAD + b"." + PAYLOAD[:99] + b"!" + PAYLOAD[100:] + b"." + SIGNATURE,
    "another header with the same meaning": with_header({"kid": "example-key-id", "alg": "RS256"}),
    "a signature of zeros": HEAD + b"." + PAYLOAD + b"." + b64(bytes(256)),
    "a signature of ones": HEAD + b"." + PAYLOAD + b"." + b64(b"\xff" * 256),
    "a signature too long": HEAD + b"." + PAYLOAD + b"." + b64(bytes(257)),
    "a signature with padding": GOOD + b"==",
    "a signature in plain base64": HEAD + b"." + PAYLOAD + b"." + b"+/" * 171,
    "a space in the middle": HEAD + b". " + PAYLOAD + b"." + SIGNATURE,
    "not ASCII": "ключ.ключ.ключ".encode(),
    "full-width dots": "．".join(part.decode() for part in (HEAD, PAYLOAD, SIGNATURE)).encode(),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "compressed": gzip.compress(GOOD),
    "1 MiB of dots": b"." * MAX_BODY_BYTES,
    "1 MiB of spaces": b" " * MAX_BODY_BYTES,
    "1 MiB of header": b"A" * (MAX_BODY_BYTES - 2) + b"..",
    "1 MiB of payload": HEAD
    + b"."
    + b"A" * (MAX_BODY_BYTES - len(HEAD) - len(SIGNATURE) - 2)
    + b"."
    + SIGNATURE,
    "1 MiB of signature": HEAD + b".." + b"A" * (MAX_BODY_BYTES - len(HEAD) - 2),
    "a signed payload that is not base64url": sign(b"!!!", is_encoded=True),
    "a signed payload with foreign letters": sign("ключ".encode(), is_encoded=True),
    "expired an hour ago": delivery(exp=int(time.time()) - 3600),
    "expired since ever": delivery(exp=-1),
    "an expiry in quotes": delivery(exp=str(int(time.time()) + 3600)),
    "an expiry of true": delivery(exp=True),
    "an expiry of null": delivery(exp=None),
    "an expiry beyond all numbers": signed_text(f'{{"data": {DATA}, "exp": 1e400}}'),
    "an expiry before all numbers": signed_text(f'{{"data": {DATA}, "exp": -1e400}}'),
    "valid tomorrow": delivery(nbf=int(time.time()) + 86_400),
}
MALFORMED = {
    "an expiry of NaN": signed_text(f'{{"data": {DATA}, "exp": NaN}}'),
    "claims with an infinity": signed_text(f'{{"data": {DATA}, "x": -Infinity}}'),
    "no claims": sign(b""),
    "claims that are no JSON": sign(b"{"),
    "claims that are a list": sign(b"[]"),
    "claims that are a text": sign(b'"data"'),
    "claims that are null": sign(b"null"),
    "claims that are not UTF-8": sign(b'{"data": "\xff"}'),
    "claims with half a character": sign('{"data": "\ud800"}'.encode(errors="surrogatepass")),
    "claims nested deeply": signed_text(nested(100_000)),
    "claims nested deeply in a name": signed_text(f'{{"data": {DATA}, "x": {nested(100_000)}}}'),
    "claims with an endless number": signed_text(f'{{"data": {DATA}, "x": {"9" * 5000}}}'),
    "claims with a NUL": sign(b'{"data": "\0"}'),
    "claims followed by more": signed_text(f'{{"data": {DATA}}} {{}}'),
    "no data": sign(b"{}"),
    "data null": delivery(data=None),
    "data a number": delivery(data=1),
    "data an object": delivery(data={"eventType": "AppRemoved", "instanceId": SITE, "data": "{}"}),
    "data an empty text": delivery(data=""),
    "data no JSON": delivery(data="{'eventType': 1}"),
    "data a list": delivery(data="[]"),
    "data twice, the last one wrong": signed_text(f'{{"data": {DATA}, "data": 5}}'),
    "data nested deeply": delivery(data=nested(100_000)),
    "data with NaN": delivery(data=json.loads(DATA)[:-1] + ', "x": NaN}'),
    "no type": delivery(data=json.dumps({"instanceId": SITE, "data": "{}"})),
    "a type that is an object": delivery(
        data=json.dumps({"eventType": {}, "instanceId": SITE, "data": "{}"})
    ),
    "a type of a thousand letters": delivery({}, "t" * 1000),
    "a type with a line break": delivery({}, "AppRemoved\nfake log line"),
    "no site": delivery(data=json.dumps({"eventType": "AppRemoved", "data": "{}"})),
    "a site that is a number": delivery(
        data=json.dumps({"eventType": "AppRemoved", "instanceId": 7, "data": "{}"})
    ),
    "an empty site": delivery(data=json.dumps({"eventType": "AppRemoved", "instanceId": "", "data": "{}"})),
    "a site with a NUL": delivery(data=json.dumps({"eventType": "x", "instanceId": "a\0b", "data": "{}"})),
    "a site that is half a character": delivery(
        data=json.dumps({"eventType": "x", "instanceId": "\ud800", "data": "{}"})
    ),
    "no event": delivery(data=json.dumps({"eventType": "AppRemoved", "instanceId": SITE})),
    "an event of null": delivery(data=json.dumps({"eventType": "x", "instanceId": SITE, "data": None})),
    "an event that is a list": delivery(data=json.dumps({"eventType": "x", "instanceId": SITE, "data": [1]})),
    "an event that is no JSON": inner("groupId=1"),
    "an event that is a JSON list": inner("[]"),
    "an event with half a character": inner('{"id": "\ud800"}'),
    "an event with a NUL": inner('{"id": "\0"}'),
    "an event with NaN": inner('{"id": "x", "n": NaN}'),
    "an event nested deeply": inner('{"id": ' + nested(100_000) + "}"),
    "an event with an endless number": inner('{"id": ' + "9" * 5000 + "}"),
}
HOSTILE = {name: (401, body) for name, body in UNSIGNED.items()} | {
    name: (400, body) for name, body in MALFORMED.items()
}
assert len(HOSTILE) == len(UNSIGNED) + len(MALFORMED)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_delivery_is_refused_without_an_effect(name: str) -> None:
    status, body = HOSTILE[name]
    journal = FakeJournal()
    answer = deliver(a_door(journal), body)
    assert (answer.status_code, answer.content, journal.accepted) == (status, b"", [])


def test_the_hostile_corpus_fails_for_its_hostility_and_not_for_its_making() -> None:
    assert deliver(a_door(FakeJournal()), GOOD).status_code == 200
    assert deliver(a_door(FakeJournal()), b".".join([HEAD, PAYLOAD, SIGNATURE])).status_code == 200
    assert deliver(a_door(FakeJournal()), signed_text(f'{{"data": {DATA}}}')).status_code == 200
    assert deliver(a_door(FakeJournal()), inner('{"id": "x", "n": 1}')).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        signed_text(f'{{"data": 5, "data": {DATA}}}'),
        delivery(iat=10**300),
        delivery(iat=-(10**11)),
        delivery(aud=json.loads(nested(50)), iss={"x": "\ud800"}),
        delivery(header={"alg": "RS256", "jwk": STRANGERS_JWK, "jku": "https://evil.example/keys"}),
    ],
)
def test_what_is_strange_around_a_signed_event_does_not_matter(body: bytes) -> None:
    journal = FakeJournal()
    assert deliver(a_door(journal), body).status_code == 200
    assert read_details(journal.accepted[0]).member == BEN


@pytest.mark.parametrize(
    "body",
    [
        inner('{"id": {"not": "an id"}, "eventTime": "never", "entityId": 5}'),
        inner('{"id": "x", "id": "y", "actionEvent": {"bodyAsJson": "' + "[" * 5000 + '"}}'),
        inner('{"id": "x", "eventTime": "0001-01-01T00:00:00+14:00"}'),
        inner('{"id": "x", "actionEvent": {"body": {"role": {"value": {"a": 1}}, "groupId": "a b"}}}'),
        delivery({"data": 1}, "AppRemoved", identity={"x": "\ud800"}),
    ],
)
def test_a_signed_event_that_names_nobody_is_kept(body: bytes) -> None:
    journal = FakeJournal()
    assert deliver(a_door(journal), body).status_code == 200
    details = read_details(journal.accepted[0])
    assert (details.group, details.member, details.role) == (None, None, "")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_only_post_is_answered(method: str) -> None:
    journal = FakeJournal()
    answer = ask(a_door(journal), method, "/webhooks/wix", content=GOOD)
    assert (answer.status_code, journal.accepted) == (405, [])


def test_a_compressed_body_is_not_unpacked() -> None:
    answer = deliver(a_door(FakeJournal()), gzip.compress(GOOD), **{"Content-Encoding": "gzip"})
    assert answer.status_code == 401


def test_one_byte_more_than_a_mebibyte_is_too_large() -> None:
    journal = FakeJournal()
    body = GOOD + b" " * (MAX_BODY_BYTES + 1 - len(GOOD))
    answer = deliver(a_door(journal), body)
    assert (answer.status_code, answer.content, journal.accepted) == (413, b"", [])


ANSWERED = {
    "a delivery": ("POST", "/webhooks/wix", GOOD),
    "with a query": ("POST", "/webhooks/wix?a=/b", GOOD),
    "forged": ("POST", "/webhooks/wix", GOOD[:-4]),
    "malformed": ("POST", "/webhooks/wix", sign(b"{}")),
    "too large": ("POST", "/webhooks/wix", b" " * (MAX_BODY_BYTES + 1)),
    "another method": ("PUT", "/webhooks/wix", GOOD),
    "no method of HTTP": ("BREW", "/webhooks/wix", GOOD),
    "a look": ("HEAD", "/webhooks/wix", b""),
    "with a slash": ("POST", "/webhooks/wix/", GOOD),
    "with a slash before": ("POST", "//webhooks/wix", GOOD),
    "escaped": ("POST", "/webhooks/%77ix", GOOD),
    "in capitals": ("POST", "/Webhooks/Wix", GOOD),
    "somewhere else": ("POST", "/", GOOD),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_past_the_router_a_delivery_gets_the_answer_it_gets_through_it(name: str) -> None:
    method, path, body = ANSWERED[name]
    answers = []
    for way in (a_door, a_web):
        journal = FakeJournal()
        answer = ask(way(journal), method, path, content=body)
        answers.append((answer.status_code, answer.content, answer.headers.raw, len(journal.accepted)))
    assert answers[0] == answers[1]


def a_web(journal: FakeJournal) -> Starlette:
    door = Door(Verifier([WIX_KEY.public_key()]), Opener(), journal, CollectorRegistry())
    return _Web(door, routes=[Route(PATH, door, methods=["POST"])])


@pytest.mark.parametrize("way", [a_door, a_web])
def test_a_defect_of_ours_is_answered_and_shown(
    way: Callable[[FakeJournal], Starlette], caplog: pytest.LogCaptureFixture
) -> None:
    with served(way(FakeJournal(ZeroDivisionError("a defect")))) as address:
        assert talk(address, head(f"Content-Length: {len(GOOD)}"), GOOD) == 500
    [shown] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert shown.exc_info is not None
    assert shown.exc_info[0] is ZeroDivisionError


def test_every_refusal_has_the_status_of_its_error() -> None:
    refusals = (
        BodyTooLargeError,
        BodyTooSlowError,
        ExpiredTokenError,
        InvalidSignatureError,
        MalformedEventError,
    )
    assert [_OUTCOMES[_outcome_of(error())]["status"] for error in refusals] == [
        error.status_code for error in refusals
    ]


def test_each_accepted_delivery_of_one_commit_has_its_own_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = a_door(FakeJournal())

    async def together() -> None:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://usher.example"
        ) as client:
            await asyncio.gather(
                *(client.post("/webhooks/wix", content=delivery({"id": f"e-{n}"})) for n in range(20))
            )

    asyncio.run(together())
    told = [
        fields
        for record in caplog.records
        if record.getMessage() == "webhook.accepted"
        for fields in vars(record).get("each", [vars(record)])
    ]
    assert sorted(record["event_id"] for record in told) == sorted(f"e-{n}" for n in range(20))
    assert {record["outcome"] for record in told} == {"new"}


def counted(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "usher_webhook_deliveries_total" and sample.value
    }


def test_every_outcome_is_counted_under_its_name() -> None:
    registry, journal = CollectorRegistry(), FakeJournal()
    app = a_door(journal, registry)
    for body in (GOOD, GOOD, b"", delivery(exp=1), sign(b"{}"), b"." * (MAX_BODY_BYTES + 1)):
        deliver(app, body)
    journal.error = JournalUnavailableError("locked")
    deliver(app, GOOD)
    expected = {"new", "duplicate", "bad_signature", "expired", "malformed", "too_large", "unavailable"}
    assert counted(registry) == dict.fromkeys(expected, 1.0)
    assert registry.get_sample_value("usher_webhook_delivery_seconds_count") == 7


def test_the_log_says_what_happened_and_never_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "ben@example.com"
    token = delivery({"id": "e-1", "secret": secret})
    broken = FakeJournal(JournalUnavailableError(secret))
    for body, journal in (
        (token, FakeJournal()),
        (token[:-5], FakeJournal()),
        (inner(secret), FakeJournal()),
        (token, broken),
    ):
        deliver(a_door(journal), body)
    ours = [record for record in caplog.records if record.name == "webhooks.endpoint"]
    assert [(record.getMessage(), vars(record).get("event_id")) for record in ours] == [
        ("webhook.accepted", "e-1"),
        ("webhook.rejected", None),
        ("webhook.rejected", None),
        ("webhook.not_committed", "e-1"),
    ]
    everything = " ".join(str(vars(record)) for record in ours)
    assert secret not in everything
    assert not any(part.decode() in everything for part in token.split(b"."))
    assert all(record.exc_info is None for record in ours)


# Through a real server, because framing is its business and the bounds are ours.


@contextmanager
def served(app: Starlette) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(timeout=10)
    assert not thread.is_alive()


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


def talk(address: tuple[str, int], *pieces: bytes) -> int:
    """Send these bytes as they are and return the status of the first answer."""
    with socket.create_connection(address, timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
        status_line = connection.makefile("rb").readline()
    return int(status_line.split()[1])


def head(*fields: str) -> bytes:
    return "\r\n".join(["POST /webhooks/wix HTTP/1.1", "Host: usher.example", *fields, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


CHUNKED = head("Transfer-Encoding: chunked")


def test_a_body_in_chunks_is_put_together() -> None:
    journal = FakeJournal()
    with served(a_door(journal)) as address:
        pieces = [chunk(GOOD[start : start + 100]) for start in range(0, len(GOOD), 100)]
        assert talk(address, CHUNKED, *pieces, chunk(b"")) == 200
    assert len(journal.accepted) == 1


def test_a_large_body_is_refused_before_its_end() -> None:
    journal = FakeJournal()
    with served(a_door(journal)) as address:
        declared = head(f"Content-Length: {MAX_BODY_BYTES + 1}")
        assert talk(address, declared) == 413  # not a byte of it was sent
        assert talk(address, CHUNKED, *[chunk(b"A" * 65_536)] * 17) == 413  # and here no last chunk
        assert talk(address, head("Content-Length: 2000000", "Expect: 100-continue")) == 413
    assert journal.accepted == []


def test_a_large_body_sent_to_its_end_gets_its_answer_and_the_connection_lives_on() -> None:
    body = b"A" * (2 * MAX_BODY_BYTES)
    with (
        served(a_door(FakeJournal())) as address,
        socket.create_connection(address, timeout=10) as connection,
    ):
        lines = connection.makefile("rb")
        connection.sendall(head(f"Content-Length: {len(body)}") + body)
        assert lines.readline().split()[1] == b"413"
        while lines.readline().strip():
            pass
        connection.sendall(head(f"Content-Length: {len(GOOD)}") + GOOD)
        assert lines.readline().split()[1] == b"200"


def test_a_content_length_that_lies_gains_nothing() -> None:
    journal = FakeJournal()
    with served(a_door(journal)) as address:
        for length in (len(GOOD) - 9, 0, -1, "nine", "9" * 5000):
            # What is left over is no request, which the server may notice before the door does.
            assert talk(address, head(f"Content-Length: {length}"), GOOD) in (400, 401, 413)
        assert talk(address, head(), GOOD) in (400, 401)
    assert journal.accepted == []


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    registry, journal = CollectorRegistry(), FakeJournal()
    with served(a_door(journal, registry, body_timeout_s=0.1)) as address:
        assert talk(address, head(f"Content-Length: {len(GOOD)}"), GOOD[:-1]) == 408
        assert talk(address, CHUNKED, chunk(GOOD)) == 408
    assert (journal.accepted, counted(registry)) == ([], {"too_slow": 2.0})


def test_a_client_that_goes_away_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry, journal = CollectorRegistry(), FakeJournal()
    with served(a_door(journal, registry)) as address:
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(head(f"Content-Length: {len(GOOD)}") + GOOD[:100])
        until(lambda: counted(registry) == {"disconnected": 1.0})
    assert journal.accepted == []
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == []
