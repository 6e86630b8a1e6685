from __future__ import annotations

import base64
import hashlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette

from core.community import MemberId, SiteId
from core.errors import JournalUnavailableError
from integrations.email.unsubscribe import UnsubscribeClaim, UnsubscribeTokens
from tests.webhooks.wix_signing import ask
from webhooks.unsubscribe import unsubscribe_routes

SCANNERS = ["Mozilla/5.0", "Googlebot/2.1", "SafeLinks", "Barracuda Sentinel", "python-requests/2", ""]
ANN = UnsubscribeClaim(SiteId("site-1"), MemberId("member-1"), "a-hash")
TOKENS = UnsubscribeTokens("a secret key of the tests")
TOKEN = TOKENS.issue(ANN)
LINK = f"/unsubscribe/{TOKEN}"


@dataclass
class House:
    """Remembers who left; `refuse` stands for a database that is away."""

    left: list[UnsubscribeClaim] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    refuse: Exception | None = None

    def unsubscribe(self, claim: UnsubscribeClaim) -> None:
        if self.refuse:
            raise self.refuse
        self.threads.add(threading.get_ident())
        self.left.append(claim)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=unsubscribe_routes(TOKENS.read, self.unsubscribe))


def test_looking_at_the_link_changes_nothing() -> None:
    house = House()
    for number in range(100):
        agent = SCANNERS[number % len(SCANNERS)]
        answer = ask(house.app, "HEAD" if number % 3 else "GET", LINK, headers={"User-Agent": agent})
        assert answer.status_code == 200
    assert house.left == []


@pytest.mark.parametrize(
    "request_body",
    [
        {"content": b""},
        {"data": {"List-Unsubscribe": "One-Click"}},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
        {"content": b"\xff\x00{", "headers": {"Content-Type": "application/json"}},
        {"content": b"x" * 8192, "headers": {"Content-Type": "multipart/form-data"}},
    ],
    ids=["empty", "urlencoded", "multipart", "nonsense", "broken multipart"],
)
def test_one_post_unsubscribes_whatever_its_body(request_body: dict[str, object]) -> None:
    house = House()
    answer = ask(house.app, "POST", LINK, **request_body)
    assert (answer.status_code, house.left) == (200, [ANN])
    assert "You are unsubscribed" in answer.text
    assert "set-cookie" not in answer.headers
    assert "location" not in answer.headers


def test_clicking_twice_is_fine() -> None:
    house = House()
    assert [ask(house.app, "POST", LINK).status_code for _ in range(2)] == [200, 200]


def test_the_database_is_not_waited_for_on_the_event_loop() -> None:
    house = House()
    ask(house.app, "POST", LINK)
    assert threading.get_ident() not in house.threads


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "token",
    [
        *(TOKEN[:place] + chr(ord(TOKEN[place]) ^ 1) + TOKEN[place + 1 :] for place in (0, 9, -40, -2)),
        TOKEN[:-1],
        TOKEN + "A",
        TOKEN + "%0A",
        UnsubscribeTokens("another key").issue(ANN),
        "x",
        "%00",
        "%ff",
        "<script>",
        "é",
        "a" * 5000,
    ],
)
def test_a_wrong_token_changes_nothing_and_is_not_repeated(method: str, token: str) -> None:
    house = House()
    answer = ask(house.app, method, f"/unsubscribe/{token}")
    assert (answer.status_code, house.left) == (404, [])
    assert answer.text == ask(house.app, method, "/unsubscribe/another").text


def test_when_the_database_is_away_the_page_says_so_and_offers_another_try() -> None:
    house = House(refuse=JournalUnavailableError("locked"))
    answer = ask(house.app, "POST", LINK)
    assert answer.status_code == 503
    assert "not unsubscribed yet" in answer.text
    assert '<form method="post">' in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_not_answered(method: str) -> None:
    house = House()
    assert (ask(house.app, method, LINK).status_code, house.left) == (405, [])


PAGES: dict[str, Callable[[House], tuple[str, str]]] = {
    "question": lambda house: ("GET", LINK),
    "done": lambda house: ("POST", LINK),
    "unknown": lambda house: ("GET", "/unsubscribe/x"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_private_and_complete_in_itself(page: str) -> None:
    house = House()
    answer = ask(house.app, *PAGES[page](house))
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "noindex" in answer.headers["x-robots-tag"]
    assert re.findall(r"""(?:https?:)?//\w|src=|href=|@import|url\(|<script""", answer.text) == []
    assert "prefers-color-scheme: dark" in answer.text
    assert "width=device-width" in answer.text


def test_the_style_is_the_one_that_the_policy_allows() -> None:
    answer = ask(House().app, "GET", LINK)
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "style=" not in answer.text


def test_the_log_names_ids_and_neither_token_nor_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="webhooks.unsubscribe")
    house = House()
    ask(house.app, "POST", LINK)
    ask(house.app, "POST", "/unsubscribe/forged")
    house.refuse = JournalUnavailableError("a-hash")
    ask(house.app, "POST", LINK)
    ours = [record for record in caplog.records if record.name == "webhooks.unsubscribe"]
    assert [record.getMessage() for record in ours] == [
        "unsubscribe.done",
        "unsubscribe.rejected",
        "unsubscribe.not_committed",
    ]
    everything = " ".join(str(vars(record)) for record in ours)
    assert "member-1" in everything
    assert not any(word in everything for word in (TOKEN, "forged", "a-hash"))
