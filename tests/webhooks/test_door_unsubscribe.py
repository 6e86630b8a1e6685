from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette

from core.community import GroupId, MemberId, SiteId
from core.errors import JournalUnavailableError
from integrations.email.unsubscribe import UnsubscribeClaim, UnsubscribeTokens
from tests.webhooks.wix_signing import ask, ask_while_pages_hold_every_thread
from webhooks.unsubscribe import unsubscribe_routes
from webhooks.unsubscribe_pages import PAGES, preferred_language

SCANNERS = ["Mozilla/5.0", "Googlebot/2.1", "SafeLinks", "Barracuda Sentinel", "python-requests/2", ""]
RUNNERS = GroupId("group-1")
ANN = UnsubscribeClaim(SiteId("site-1"), MemberId("member-1"), "a-hash", RUNNERS)
FORMER = UnsubscribeClaim(SiteId("site-1"), MemberId("member-1"), "a-hash")
TOKENS = UnsubscribeTokens("a secret key of the tests")
TOKEN = TOKENS.issue(ANN)
LINK = f"/unsubscribe/{TOKEN}"
FORMER_LINK = f"/unsubscribe/{TOKENS.issue(FORMER)}"


@dataclass
class House:
    """Remembers who left what, None being everything; `refuse` stands for a database that is away."""

    left: list[tuple[UnsubscribeClaim, GroupId | None]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    refuse: Exception | None = None

    def unsubscribe(self, claim: UnsubscribeClaim, group: GroupId | None) -> None:
        if self.refuse:
            raise self.refuse
        self.threads.add(threading.get_ident())
        self.left.append((claim, group))

    @property
    def app(self) -> Starlette:
        return Starlette(routes=unsubscribe_routes(TOKENS.read, self.unsubscribe))


def test_looking_at_the_link_changes_nothing() -> None:
    house = House()
    looks: list[dict[str, str]] = [
        {},
        {"Sec-Purpose": "prefetch"},
        {"Purpose": "prefetch"},
        {"X-Moz": "prefetch"},
    ]
    for number in range(100):
        headers = {"User-Agent": SCANNERS[number % len(SCANNERS)], **looks[number % len(looks)]}
        for method, path in (("GET", LINK), ("HEAD", LINK), ("GET", f"{LINK}?scope=all"), ("OPTIONS", LINK)):
            answer = ask(house.app, method, path, headers=headers)
            assert answer.status_code == (405 if method == "OPTIONS" else 200)
            assert "set-cookie" not in answer.headers
    assert house.left == []


@pytest.mark.parametrize(
    "request_body",
    [
        {"content": b""},
        {"data": {"List-Unsubscribe": "One-Click"}},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
        {"content": b"\xff\x00{", "headers": {"Content-Type": "application/json"}},
        {"content": b"x" * 8192, "headers": {"Content-Type": "multipart/form-data"}},
        {"files": {"scope": (None, "group")}},
        {"data": {"scope": "all"}},
        {"data": {"scope": ["group", "all"]}},
        {"data": {"scope": "group", "padding": "x" * 4096}},
        {"content": b"scope=group", "headers": {"Content-Type": "text/plain"}},
        {
            "content": b"%ff%00=%&;scope=\xff",
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
    ],
    ids=lambda body: str(body)[:60],
)
def test_one_post_unsubscribes_whatever_its_body(request_body: dict[str, object]) -> None:
    house = House()
    answer = ask(house.app, "POST", LINK, **request_body)
    assert (answer.status_code, house.left) == (200, [(ANN, None)])
    assert "You are unsubscribed" in answer.text
    assert "set-cookie" not in answer.headers
    assert "location" not in answer.headers


@pytest.mark.parametrize("content_type", ["", "; charset=UTF-8"])
def test_the_choice_of_the_page_stops_the_group_alone_and_still_offers_the_rest(content_type: str) -> None:
    house = House()
    answer = ask(
        house.app,
        "POST",
        LINK,
        content=b"scope=group",
        headers={"Content-Type": "application/x-www-form-urlencoded" + content_type},
    )
    assert (answer.status_code, house.left) == (200, [(ANN, RUNNERS)])
    assert "You get no more letters of this group" in answer.text
    assert scopes_offered(answer.text) == ["all"]


def test_a_link_that_names_no_group_stops_everything_whatever_is_asked() -> None:
    house = House()
    answer = ask(house.app, "POST", FORMER_LINK, data={"scope": "group"})
    assert (answer.status_code, house.left) == (200, [(FORMER, None)])


def test_a_body_that_never_ends_is_not_waited_for() -> None:
    house = House()
    app = Starlette(routes=unsubscribe_routes(TOKENS.read, house.unsubscribe, body_timeout_s=0.05))

    async def slowly() -> AsyncIterator[bytes]:
        yield b"scope="
        await asyncio.sleep(30)
        yield b"group"

    answer = ask(
        app,
        "POST",
        LINK,
        content=slowly(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (answer.status_code, house.left) == (200, [(ANN, None)])


def test_who_hangs_up_in_the_middle_of_the_form_is_unsubscribed() -> None:
    house = House()
    scope = {
        "type": "http",
        "method": "POST",
        "path": LINK,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
    }
    messages = iter(
        [{"type": "http.request", "body": b"scope=gr", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, object]:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: object) -> None:
        pass

    asyncio.run(house.app(scope, receive, send))  # type: ignore[arg-type]
    assert house.left == [(ANN, None)]


def scopes_offered(page: str) -> list[str]:
    """What the buttons of the one form of a page send."""
    assert page.count("<form") == page.count('<form method="post">') == (1 if "<button" in page else 0)
    return re.findall(r'<button name="scope" value="(\w+)">[^<]+</button>', page)


def test_the_page_offers_the_group_or_everything_and_without_a_group_everything() -> None:
    assert scopes_offered(ask(House().app, "GET", LINK).text) == ["group", "all"]
    assert scopes_offered(ask(House().app, "GET", FORMER_LINK).text) == ["all"]


@pytest.mark.parametrize("scope", ["group", "all"])
def test_every_button_does_what_it_says(scope: str) -> None:
    house = House()
    assert f'value="{scope}"' in ask(house.app, "GET", LINK).text
    ask(house.app, "POST", LINK, data={"scope": scope})
    assert house.left == [(ANN, RUNNERS if scope == "group" else None)]


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
    assert scopes_offered(answer.text) == ["all"]
    again = ask(house.app, "POST", LINK, data={"scope": "group"})
    assert (again.status_code, scopes_offered(again.text)) == (503, ["group"])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_not_answered(method: str) -> None:
    house = House()
    assert (ask(house.app, method, LINK).status_code, house.left) == (405, [])


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT", "de"),
        ("DE-at;q=0.5", "de"),
        ("pt-BR, pt;q=0.9, es;q=0.4, en;q=0.3", "es"),
        ("en;q=0.1, fr;q=0.8, de; q=0.5", "fr"),
        ("he,en", "he"),
        ("iw", "he"),
        ("de;q=0, en", "en"),
        ("de;q=0", "en"),
        ("*", "en"),
        ("ja, *;q=0.1", "en"),
        ("de;q=7, es;q=x, fr;level=1", "en"),
        ("es, de", "es"),
        ("\xff;;q,=,", "en"),
        ("ja," * 5000 + "de", "en"),
    ],
)
def test_a_page_speaks_the_language_that_is_liked_best(accepted: str, language: str) -> None:
    assert preferred_language(accepted) == language
    answer = ask(House().app, "GET", LINK, headers=[("Accept-Language", accepted.encode("latin-1"))])
    assert f'<html lang="{language}" dir="{"rtl" if language == "he" else "ltr"}">' in answer.text
    assert answer.headers["vary"] == "Accept-Language"


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "he"])
def test_every_language_says_everything_in_its_own_words(language: str) -> None:
    names = {name for _, name in PAGES}
    assert {name for spoken, name in PAGES if spoken == language} == names
    for name in names:
        page = PAGES[language, name]
        assert "{" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
        if language != "en":
            shown, english = (set(re.findall(r">([^<>]{4,})<", p)) for p in (page, PAGES["en", name]))
            assert {text for text in shown & english if text.strip() and "--paper" not in text} == set()


LOOKS: dict[str, tuple[str, str]] = {
    "question": ("GET", LINK),
    "done": ("POST", LINK),
    "unknown": ("GET", "/unsubscribe/x"),
}


@pytest.mark.parametrize("page", LOOKS)
def test_a_page_is_private_and_complete_in_itself(page: str) -> None:
    answer = ask(House().app, *LOOKS[page])
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "noindex" in answer.headers["x-robots-tag"]
    assert re.findall(r"""(?:https?:)?//\w|src=|href=|@import|url\(|<script""", answer.text) == []
    assert "prefers-color-scheme: dark" in answer.text
    assert "width=device-width" in answer.text


def test_one_click_waits_for_no_page() -> None:
    house = House()
    assert ask_while_pages_hold_every_thread(house.app, "POST", LINK).status_code == 200
    assert house.left == [(ANN, None)]


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
    ask(house.app, "POST", LINK, data={"scope": "group"})
    ask(house.app, "POST", "/unsubscribe/forged")
    house.refuse = JournalUnavailableError("a-hash")
    ask(house.app, "POST", LINK)
    ours = [record for record in caplog.records if record.name == "webhooks.unsubscribe"]
    assert [record.getMessage() for record in ours] == [
        "unsubscribe.done",
        "unsubscribe.done",
        "unsubscribe.rejected",
        "unsubscribe.not_committed",
    ]
    everything = " ".join(str(vars(record)) for record in ours)
    assert "member-1" in everything
    assert [vars(record)["group"] for record in ours[:2]] == [None, RUNNERS]
    assert not any(word in everything for word in (TOKEN, "forged", "a-hash"))
