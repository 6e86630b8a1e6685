"""The page that stands for Wix's dashboard, with the app's own one in a frame."""

import base64
import hashlib
import hmac
import html
import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from sandbox.house import APP_SECRET, Sandbox

pytestmark = pytest.mark.anyio


async def frame_of(browser: httpx.AsyncClient) -> str:
    answer = await browser.get("/dashboard")
    assert answer.status_code == 200
    found = re.search(r'<iframe src="([^"]+)"', answer.text)
    return html.unescape(found[1]) if found else ""


async def test_the_frame_shows_the_app_with_an_instance_that_is_signed_anew(
    browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    sandbox.sender.register("http://127.0.0.1:9/webhooks/wix")
    first, second = await frame_of(browser), await frame_of(browser)

    assert first != second
    assert first.startswith("http://127.0.0.1:9/admin/?instance=")
    query = parse_qs(urlsplit(first).query)
    assert {"instance", "locale", "viewMode", "containerProtocol", "siteUrl", "cacheKiller"} == query.keys()
    signature, _, data = query["instance"][0].partition(".")
    right = hmac.digest(APP_SECRET.encode(), data.encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "=") == right
    found = json.loads(base64.urlsafe_b64decode(data + "=="))
    assert found["instanceId"] == sandbox.community.site.instance_id
    assert (found["uid"], found["permissions"]) == (sandbox.community.site.owner_id, "OWNER")
    assert datetime.now(UTC) - datetime.fromisoformat(found["signDate"]) < timedelta(minutes=1)


async def test_the_dashboard_frames_the_app_and_nothing_else(
    browser: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    answer = await browser.get("/dashboard")
    assert "<iframe" not in answer.text
    assert answer.headers["content-security-policy"].endswith("frame-src 'none'")

    sandbox.sender.register("http://127.0.0.1:9/webhooks/wix")
    answer = await browser.get("/dashboard")
    assert answer.headers["content-security-policy"].endswith("frame-src http://127.0.0.1:9")
    assert answer.headers["cache-control"] == "no-store"


async def test_a_browser_takes_the_dashboard_for_another_site_than_an_app_on_this_machine(
    sandbox: Sandbox,
) -> None:
    sandbox.url = "http://127.0.0.1:8090"
    assert sandbox.settings()["DASHBOARD_URL"] == "http://localhost:8090/dashboard"
