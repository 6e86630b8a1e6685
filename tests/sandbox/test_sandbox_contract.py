"""Every example of Wix's endpoints, replayed: same status, same members, same types."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from sandbox.api import ENDPOINTS
from sandbox.house import Sandbox
from tests.sandbox.seaside import DMITRI, RUNNERS

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent / "wix_examples"
NOT_SERVED = {"notify", "publishCampaign", "reuseCampaign"}  # no story touches them
NAMES = sorted({path.stem for path in (EXAMPLES / "endpoints").glob("*.json")} - NOT_SERVED)


def differences(expected: Any, actual: Any, where: str = "$") -> list[str]:
    """Members that are missing and types that differ, one row of a list standing for all."""
    if type(expected) is not type(actual):
        return [f"{where}: {type(actual).__name__}, not {type(expected).__name__}"]
    if isinstance(expected, list):
        if expected and not actual:
            return [f"{where}: empty"]
        rows = [differences(expected[0], row, f"{where}[]") for row in actual]
        return min(rows, key=len) if expected else []
    if not isinstance(expected, dict):
        return []
    if where.endswith(".questions"):
        one, other = (next(iter(by_id.values())) for by_id in (expected, actual))
        return differences(one, other, f"{where}.*")
    found = [f"{where}.{name}: missing" for name in expected if name not in actual]
    for name in expected.keys() & actual.keys():
        found += differences(expected[name], actual[name], f"{where}.{name}")
    return found


def test_every_example_has_an_endpoint_of_its_name() -> None:
    assert {endpoint.name for endpoint in ENDPOINTS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
async def test_the_answer_has_the_shape_of_the_example(
    wix: httpx.AsyncClient,
    browser: httpx.AsyncClient,
    sandbox: Sandbox,
    token_body: dict[str, str],
    name: str,
) -> None:
    if name == "rejectJoinGroupRequests":  # the example rejects somebody who is asking again
        answers = {"Which class are you most interested in?": "yoga"}
        sandbox.community.request_join(RUNNERS, DMITRI, answers)
    if name == "unassignRole":
        sandbox.community.assign_role(
            "5d0c3f0a-8f0e-4e0a-9b53-1f7a3a1e2c41", ["22f7e6b3-4c8d-4e9f-8a12-b3c4d5e6f7a2"], "ADMIN"
        )
    sandbox.refresh_tokens.add("refresh-token")
    secrets = {
        "<ACCESS_TOKEN>": wix.headers["authorization"],
        "<APP_SECRET>": token_body["client_secret"],
        "<REFRESH_TOKEN>": "refresh-token",
    }
    text = (EXAMPLES / "endpoints" / f"{name}.json").read_text(encoding="utf-8")
    for placeholder, secret in secrets.items():
        text = text.replace(placeholder, secret)
    example = json.loads(text)
    request, expected = example["request"], example["response"]

    answer = await browser.request(
        request["method"],
        urlsplit(request["url"]).path,
        params=request.get("query"),
        json=request.get("body"),
        headers={k: v for k, v in request["headers"].items() if k == "Authorization"},
    )

    assert answer.status_code == expected["status"], answer.text
    assert set(answer.headers) >= {name.lower() for name in expected["headers"]}
    assert differences(expected["body"], answer.json()) == []
    recorded = sandbox.calls[-1]["endpoint"]
    assert recorded == name


@pytest.mark.parametrize(
    ("name", "method", "path", "body"),
    [
        ("application_error.404", "GET", "/social-groups/v2/groups/00000000-0000-4000-8000-000000000000", None),
        ("validation_error.400", "POST", f"/social-groups/v2/groups/{RUNNERS}/members", {"memberIds": [DMITRI] * 101}),
        ("contacts_illegal_limit.400", "POST", "/contacts/v4/contacts/query", {"query": {"paging": {"limit": 1001}}}),
    ],
)  # fmt: skip
async def test_errors_have_the_shape_of_the_examples(
    wix: httpx.AsyncClient, name: str, method: str, path: str, body: Any
) -> None:
    example = json.loads((EXAMPLES / "errors" / f"{name}.json").read_text(encoding="utf-8"))

    answer = await wix.request(method, path, json=body)

    assert answer.status_code == example["status"]
    assert differences(example["body"], answer.json()) == []
    details = answer.json()["details"]
    if "applicationError" in details:
        expected_code = example["body"]["details"]["applicationError"]["code"]
        assert details["applicationError"]["code"] == expected_code
