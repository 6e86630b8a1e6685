"""Webhooks as they arrive at a real receiver: layers, signatures, retries, duplicates."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from sandbox.community import Community, Event
from sandbox.house import Sandbox
from sandbox.sender import RETRY_DELAYS_S, VARIANTS, envelope, in_older_words
from sandbox.switches import Switches, patched
from tests.sandbox.seaside import BEN, CHLOE, DMITRI, RUNNERS, YOGA

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent.parent / "sandbox" / "samples"
ADD_DMITRI = {"act": "add_member", "group": YOGA, "member": DMITRI}

Handler = Callable[[bytes, bytes], Awaitable[int]]  # head and body of one request -> status


class Receiver:
    """A small web server that notes what it is sent and answers what the test says."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []  # for the first requests; then 200
        self.silent = 0  # so many requests get no answer
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                length = next(
                    int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")
                )
                self.bodies.append(await reader.readexactly(length))
                self.heads.append(head)
                if self.silent:
                    self.silent -= 1
                    await reader.read()
                    break
                status = self.statuses.pop(0) if self.statuses else 200
                writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def a_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/webhooks/wix"
    try:
        yield receiver
    finally:
        server.close()


@pytest.fixture
async def receiver(sandbox: Sandbox) -> AsyncIterator[Receiver]:
    async with a_receiver() as receiver:
        sandbox.sender.register(receiver.url)
        sandbox.switches = patched(sandbox.switches, {"retry_scale": 0.0})
        yield receiver


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(sandbox: Sandbox) -> None:
    await until(lambda: {d.state for d in sandbox.sender.deliveries} <= {"delivered", "given_up"})


def opened(body: bytes, sandbox: Sandbox) -> Any:
    """The middle layer, after the signature has been checked."""
    claims = jwt.decode(body, sandbox.sender.keys.public_pem, algorithms=["RS256"])
    return json.loads(claims["data"])


async def test_a_webhook_is_one_signed_token_of_three_layers(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    answer = (await browser.post("/sandbox/acts", json=ADD_DMITRI)).json()
    await settled(sandbox)

    (body,) = receiver.bodies
    claims = jwt.decode(body, sandbox.sender.keys.public_pem, algorithms=["RS256"])
    middle = json.loads(claims["data"])
    inner = json.loads(middle["data"])
    example = json.loads((EXAMPLES / "ENVELOPE.json").read_text(encoding="utf-8"))
    assert b"content-type: text/plain" in receiver.heads[0].lower()
    assert jwt.get_unverified_header(body).keys() == example["jwtHeader"].keys()
    assert claims.keys() == example["jwtPayload"].keys()
    assert claims["exp"] - claims["iat"] == 300_000
    assert middle.keys() == example["jwtPayload.data parsed once"].keys()
    assert middle["instanceId"] == sandbox.community.site.instance_id
    assert json.loads(middle["identity"])["identityType"] == "WIX_USER"
    assert isinstance(middle["accountInfo"], dict)
    assert inner["id"] == answer["events"][0]["id"]
    assert inner["actionEvent"]["body"]["groupMember"]["memberId"] == DMITRI


async def test_events_of_the_app_have_neither_identity_nor_account(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    await browser.post("/sandbox/acts", json={"act": "remove_app"})
    await settled(sandbox)

    middle = opened(receiver.bodies[0], sandbox)
    assert (middle["eventType"], set(middle)) == ("AppRemoved", {"eventType", "instanceId", "data"})


async def test_only_a_200_ends_the_attempts(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    receiver.statuses = [500, 202, 404, 302, 204]
    await browser.post("/sandbox/acts", json=ADD_DMITRI)
    await settled(sandbox)

    (delivery,) = sandbox.sender.deliveries
    assert [attempt.status for attempt in delivery.attempts] == [500, 202, 404, 302, 204, 200]
    assert (delivery.state, len(set(receiver.bodies))) == ("delivered", 1)


async def test_after_twelve_retries_wix_gives_up(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    receiver.statuses = [503] * 20
    await browser.post("/sandbox/acts", json=ADD_DMITRI)
    await settled(sandbox)

    (delivery,) = sandbox.sender.deliveries
    assert (len(delivery.attempts), delivery.state) == (13, "given_up")
    assert sum(RETRY_DELAYS_S) == 47 * 3600 + 11 * 60


async def test_no_answer_in_time_is_a_failure(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    receiver.silent = 2
    sandbox.switches = patched(sandbox.switches, {"webhook_timeout_s": 0.3})
    await browser.post("/sandbox/acts", json=ADD_DMITRI)
    await settled(sandbox)

    (delivery,) = sandbox.sender.deliveries
    assert [(a.status, a.error) for a in delivery.attempts[:2]] == [(None, "timeout")] * 2
    assert delivery.state == "delivered"
    assert Switches().webhook_timeout_s == 1.25


async def test_a_receiver_that_is_away_is_tried_again(browser: httpx.AsyncClient, sandbox: Sandbox) -> None:
    async with a_receiver() as gone:
        url = gone.url
    sandbox.switches = patched(sandbox.switches, {"retry_scale": 0.0})
    sandbox.sender.register(url)
    await browser.post("/sandbox/acts", json=ADD_DMITRI)
    await settled(sandbox)

    (delivery,) = sandbox.sender.deliveries
    assert {attempt.status for attempt in delivery.attempts} == {None}
    assert delivery.state == "given_up"


async def test_duplicates_are_the_same_bytes(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    answer = await browser.post("/sandbox/acts", json={**ADD_DMITRI, "webhook": {"copies": 50}})
    await settled(sandbox)

    assert len(answer.json()["deliveries"]) == len(receiver.bodies) == 50
    assert len(set(receiver.bodies)) == 1


async def test_a_silent_act_changes_the_site_and_sends_nothing(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    answer = await browser.post("/sandbox/acts", json={**ADD_DMITRI, "webhook": {"silent": True}})

    assert (answer.json()["events"], list(sandbox.sender.deliveries)) == ([], [])
    assert DMITRI in sandbox.community.group(YOGA).members


async def test_a_held_delivery_is_overtaken_and_goes_when_released(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    held = await browser.post("/sandbox/acts", json={**ADD_DMITRI, "webhook": {"hold": True}})
    await browser.post("/sandbox/acts", json={"act": "remove_member", "group": YOGA, "member": DMITRI})
    await until(lambda: receiver.bodies)
    counts = (await browser.get("/sandbox/deliveries")).json()["counts"]
    released = await browser.post(
        "/sandbox/deliveries/release", json={"deliveries": held.json()["deliveries"]}
    )
    await settled(sandbox)

    assert (counts["held"], released.json()) == (1, {"released": 1})
    slugs = [json.loads(opened(body, sandbox)["data"])["slug"] for body in receiver.bodies]
    assert slugs == ["removed", "added"]


async def test_deliveries_wait_until_there_is_somewhere_to_go(
    browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    await browser.post("/sandbox/acts", json=ADD_DMITRI)
    await browser.post("/sandbox/acts", json={"act": "approve", "group": RUNNERS, "member": CHLOE})
    waiting = (await browser.get("/sandbox/deliveries")).json()["counts"]
    async with a_receiver() as receiver:
        await browser.put("/sandbox/webhook-url", json={"url": receiver.url})
        await settled(sandbox)

        assert (waiting["queued"], len(receiver.bodies)) == (3, 3)


async def test_the_api_reports_as_the_app_what_the_app_did(
    wix: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver
) -> None:
    url = f"/social-groups-proxy/join/v2/groups/{RUNNERS}/join-requests/approve"
    await wix.post(url, json={"memberIds": [CHLOE]})
    await settled(sandbox)

    layers = [opened(body, sandbox) for body in receiver.bodies]
    assert {layer["eventType"].rsplit(".")[-1] for layer in layers} == {
        "join_group_request_approved",
        "group_member_added",
    }
    assert {json.loads(layer["identity"])["identityType"] for layer in layers} == {"APP"}


@pytest.mark.parametrize(
    ("variant", "error"),
    [
        ("expired", jwt.ExpiredSignatureError),
        ("tampered_payload", jwt.InvalidSignatureError),
        ("tampered_signature", jwt.InvalidSignatureError),
        ("alg_none", jwt.InvalidAlgorithmError),
        ("hs256", jwt.InvalidAlgorithmError),
        ("wrong_key", jwt.InvalidSignatureError),
        ("not_a_jwt", jwt.DecodeError),
        ("future_nbf", jwt.ImmatureSignatureError),
    ],
)
async def test_an_attack_is_what_it_claims_to_be(sandbox: Sandbox, variant: str, error: Any) -> None:
    with pytest.raises(error):
        jwt.decode(sandbox.sender.sign("{}", variant), sandbox.sender.keys.public_pem, algorithms=["RS256"])


@pytest.mark.parametrize(
    "variant", ["no_exp", "future_iat", "other_audience", "trailing_newline", "data_object"]
)
async def test_what_is_only_odd_carries_a_good_signature(sandbox: Sandbox, variant: str) -> None:
    body, key = sandbox.sender.sign("{}", variant).strip(), sandbox.sender.keys.public_pem

    claims = jwt.decode(body, key, algorithms=["RS256"], options={"verify_aud": False, "verify_iat": False})
    assert ("exp" in claims) is (variant != "no_exp")
    assert claims["data"] == ({} if variant == "data_object" else "{}")


async def test_an_oversized_delivery_is_larger_than_a_mebibyte(sandbox: Sandbox) -> None:
    assert len(sandbox.sender.sign("{}", "oversized")) > 1024 * 1024


async def test_attackers_try_once(browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver) -> None:
    receiver.statuses = [401] * len(VARIANTS)
    for variant in ("expired", "wrong_key", "not_a_jwt"):
        body = {"eventType": "AppInstalled", "data": {}, "variant": variant}
        await browser.post("/sandbox/webhooks", json=body)
    await settled(sandbox)

    assert [len(d.attempts) for d in sandbox.sender.deliveries] == [1, 1, 1]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*.json")), ids=lambda path: path.stem)
async def test_any_example_can_be_sent_as_it_is(
    browser: httpx.AsyncClient, sandbox: Sandbox, receiver: Receiver, path: Path
) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    body = {"eventType": path.stem, "data": data, "instanceId": "elsewhere"}
    await browser.post("/sandbox/webhooks", json=body)
    await settled(sandbox)

    middle = opened(receiver.bodies[0], sandbox)
    assert (json.loads(middle["data"]), middle["eventType"]) == (data, path.stem)
    assert middle["instanceId"] == "elsewhere"


async def test_older_spellings_are_those_of_the_historical_example(sandbox: Sandbox) -> None:
    name = "wix.social_groups.v2.group_member_added"
    today = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    historical = json.loads((EXAMPLES / f"HISTORICAL.{name}.asJson.json").read_text(encoding="utf-8"))
    switches = patched(Switches(), {"member_id_key": "siteMemberId", "event_bodies": "json"})

    older = in_older_words(today, switches)

    assert json.loads(older["actionEvent"]["bodyAsJson"]) == json.loads(
        historical["actionEvent"]["bodyAsJson"]
    )
    assert in_older_words(today, Switches()) == today


def events_by_type(community: Community) -> dict[str, Event]:
    """One event of each kind that the community can report."""
    community.self_service_events = True
    community.set_questions(RUNNERS, [])
    community.request_join(RUNNERS, DMITRI, {})
    community.cancel_request(RUNNERS, DMITRI)
    community.request_join(RUNNERS, DMITRI, {})
    community.reject_join_requests(RUNNERS, [(DMITRI, "full")])
    community.approve_join_requests(RUNNERS, [CHLOE])
    community.remove_group_members(RUNNERS, [CHLOE])
    community.join(YOGA, DMITRI)
    community.leave(YOGA, DMITRI)
    community.assign_role(YOGA, [BEN], "ADMIN")
    community.unassign_role(YOGA, [BEN], "ADMIN")
    community.set_rules(YOGA, [{"title": "Be kind", "description": ""}])
    community.update_group(YOGA, {"description": "New"})
    book_club = "a7e1f2d3-4c5b-4a69-9788-6f5e4d3c2b74"
    community.approve_group_requests([book_club])
    again = community.request_group(CHLOE, {"name": "Another"}).group.id
    community.reject_group_requests([(again, "A similar group exists.")])
    community.delete_group(book_club)
    contact = community.add_contact("Eve", "New", email="eve@example.com", phone="+12025550177")
    member = community.add_member(contact, email="eve@example.com")
    community.update_member(member.id, nickname="Eve")
    community.set_subscription("eve@example.com", "SUBSCRIBED")
    community.delete_member(member.id, erase=True)
    community.install_app()
    community.remove_app()
    return {event.type: event for event in community.take_events()}


def keys_of(data: Any) -> Any:
    return {key: keys_of(value) for key, value in data.items()} if isinstance(data, dict) else None


def test_reported_events_have_the_members_of_the_examples(community: Community) -> None:
    events = events_by_type(community)
    compared = set()
    for path in EXAMPLES.glob("*.json"):
        event = events.get(path.stem.removeprefix("UNVERIFIED."))
        if event is None:
            continue
        expected = keys_of(json.loads(path.read_text(encoding="utf-8")))
        expected.pop("originInstanceId", None)  # only of duplicated sites
        missing = missing_keys(expected, keys_of(event.data))
        if path.stem.endswith("contact_created"):  # before the contact became a member
            missing = [line for line in missing if not line.endswith("items.members.membershipStatus")]
        assert missing == [], path.stem
        compared.add(event.type)

    assert compared == set(events)


def missing_keys(expected: Any, actual: Any, where: str = "$") -> list[str]:
    if expected is None or actual is None:
        return []
    found = [f"{where}.{key}" for key in expected if key not in actual]
    for key in expected.keys() & actual.keys():
        found += missing_keys(expected[key], actual[key], f"{where}.{key}")
    return found


def test_text_given_as_data_is_sent_as_it_is(community: Community) -> None:
    middle = json.loads(envelope("AppInstalled", "{not json", "i", None, community.site))

    assert middle["data"] == "{not json"
