"""Answers that no client can read, and connections that end without one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.house import API_KEY, Sandbox
from sandbox.switches import patched
from tests.sandbox.seaside import ADA, GROUPS_URL, NOBODY, YOGA

KINDS = ["html", "truncated", "wrong_shape", "hang", "reset"]
KITES = {"group": {"name": "Kites"}, "creatorId": ADA}


def break_answers(sandbox: Sandbox, kind: str, **more: Any) -> None:
    changes = {"failure_rate": 1.0, "failure_statuses": [], "broken_answers": [kind], **more}
    sandbox.switches = patched(sandbox.switches, changes)


@pytest.mark.anyio
async def test_html_comes_with_200_and_with_wixs_request_id(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    break_answers(sandbox, "html")
    answer = await wix.get(GROUPS_URL)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!doctype html>")
    assert "x-wix-request-id" in answer.headers


@pytest.mark.anyio
async def test_truncated_is_the_first_half_of_the_true_answer(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    whole = json.dumps((await wix.get(f"{GROUPS_URL}/{YOGA}")).json())
    break_answers(sandbox, "truncated")
    answer = await wix.get(f"{GROUPS_URL}/{YOGA}")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.text == whole[: len(whole) // 2]
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        answer.json()


@pytest.mark.anyio
async def test_wrong_shapes_are_json_that_nothing_can_be_read_from(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    break_answers(sandbox, "wrong_shape")
    shapes = {(await wix.get(f"{GROUPS_URL}?limit=1")).text[:12] for _ in range(60)}

    assert shapes == {'[{"groups":[', '{"items":"x"', '{"groups":"x'}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["html", "truncated", "wrong_shape"])
async def test_tokens_are_broken_too(
    browser: httpx.AsyncClient, sandbox: Sandbox, token_body: dict[str, str], kind: str
) -> None:
    break_answers(sandbox, kind)
    answer = await browser.post("/oauth2/token", json=token_body)

    assert answer.status_code == 200
    try:
        said = answer.json()
    except ValueError:
        said = None
    assert not (isinstance(said, dict) and isinstance(said.get("access_token"), str))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["html", "truncated", "wrong_shape"])
@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_change_happens_behind_a_broken_answer_only_by_switch(
    wix: httpx.AsyncClient, sandbox: Sandbox, kind: str, after_effect: bool
) -> None:
    break_answers(sandbox, kind, failures_after_effect=after_effect)
    assert (await wix.post(GROUPS_URL, json=KITES)).status_code == 200

    assert len(sandbox.community.groups) == 8 + after_effect
    assert sandbox.calls[-1]["broken"] == kind


@pytest.mark.anyio
async def test_what_is_refused_anyway_is_refused(wix: httpx.AsyncClient, sandbox: Sandbox) -> None:
    break_answers(sandbox, "truncated")
    answer = await wix.get(f"{GROUPS_URL}/{NOBODY}")

    assert (answer.status_code, sandbox.calls[-1]["broken"]) == (404, "")


@pytest.mark.anyio
async def test_statuses_and_broken_answers_share_the_failures(
    wix: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    break_answers(sandbox, "html", failure_rate=0.5, failure_statuses=[502])
    for _ in range(150):
        await wix.get(f"{GROUPS_URL}/{YOGA}")
    calls = [(call["status"], call["broken"]) for call in list(sandbox.calls)[1:]]

    counts = {outcome: calls.count(outcome) for outcome in [(200, ""), (502, ""), (200, "html")]}
    assert sum(counts.values()) == 150
    assert min(counts.values()) > 10, counts


@pytest.mark.anyio
@pytest.mark.parametrize("retry_after", [False, True])
async def test_a_429_among_the_failures_names_a_time_or_does_not(
    wix: httpx.AsyncClient, sandbox: Sandbox, retry_after: bool
) -> None:
    changes = {"failure_rate": 1.0, "failure_statuses": [429], "retry_after": retry_after}
    sandbox.switches = patched(sandbox.switches, changes)
    answer = await wix.get(GROUPS_URL)

    code = answer.json()["details"]["applicationError"]["code"]
    assert (answer.status_code, code) == (429, "RESOURCE_EXHAUSTED")
    assert answer.headers.get("retry-after") == ("1" if retry_after else None)


# Through the program itself: what happens to a connection needs one.


@pytest.fixture(scope="module")
def program() -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "sandbox", "--port", "0", "--smtp-port", "0", "--rate-limit", "0"]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parent.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.terminate()
    _, logs = process.communicate(timeout=20)
    assert "ERROR" not in logs


@pytest.fixture
def client(program: dict[str, str]) -> Iterator[httpx.Client]:
    identity = {"authorization": API_KEY, "wix-site-id": program["WIX_SITE_ID"]}
    with httpx.Client(base_url=program["url"], headers=identity, trust_env=False, timeout=10) as client:
        yield client


def switch(client: httpx.Client, **changes: Any) -> None:
    client.patch("/sandbox/switches", json=changes).raise_for_status()


def groups(client: httpx.Client) -> int:
    return len(client.get("/sandbox/state").json()["groups"])


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_reset_ends_the_connection_before_or_in_the_middle_of_the_answer(
    client: httpx.Client, after_effect: bool
) -> None:
    before, began, ended = groups(client), set(), set()
    switch(
        client,
        failure_rate=1,
        failure_statuses=[],
        broken_answers=["reset"],
        failures_after_effect=after_effect,
    )
    for _ in range(20):
        answered = False
        try:
            with client.stream("POST", GROUPS_URL, json=KITES) as answer:
                answered = True
                answer.read()
        except httpx.TransportError as exc:
            ended.add(type(exc))
        began.add(answered)
    switch(client, failure_rate=0, failures_after_effect=False)

    assert began == {False, True}
    assert ended <= {httpx.ReadError, httpx.RemoteProtocolError}
    assert groups(client) == before + 20 * after_effect
    newest = client.get("/sandbox/calls").json()["calls"][-1]
    assert (newest["status"], newest["broken"]) == (0, "reset")


def test_a_hanging_call_says_nothing_and_does_not_hold_up_the_others(client: httpx.Client) -> None:
    switch(client, failure_rate=1, failure_statuses=[], broken_answers=["hang"])
    with pytest.raises(httpx.ReadTimeout):
        client.get(GROUPS_URL, timeout=0.3)
    switch(client, failure_rate=0)

    assert client.get(GROUPS_URL).status_code == 200
