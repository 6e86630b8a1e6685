"""The way out, taken from letters as they were received: lines 1 to 7, 13, 21, 35 and 40 of docs/standards.md."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from asgi import create_app
from core.consent import Purpose
from integrations.email.return_path import PathKind
from integrations.store.database import Database
from integrations.store.returns import Returns
from tasks.events import run_events
from tasks.inbound import Mailroom
from tests.email.smtp_servers import MailServer
from tests.house import Clock
from tests.standards.conftest import Post
from tests.standards.letterbox import KEY, ONE_OF_EACH, PUBLIC_URL, Letter, Office, Scene
from tests.test_web_app import SECRET, running, settings_for

T = TypeVar("T")

MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n',
    "multipart/form-data; boundary=x",
)
URLENCODED = (b"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded")

SCANNERS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
    "Mozilla/5.0 (compatible; GoogleImageProxy)",
    "Barracuda Sentinel (EE)",
    "Mimecast-URL-Protect/1.0",
    "Mozilla/5.0 (compatible; Proofpoint URL Defense)",
    "facebookexternalhit/1.1",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "python-requests/2.31",
    "curl/8.5.0",
    "",
]


@pytest.fixture
def sent(records: Database, server: MailServer, clock: Clock) -> Iterator[Office]:
    """A welcome and an offer were received by one reader."""
    office = Office(records, server, clock, automations=ONE_OF_EACH)
    office.play(Scene("ann"))
    yield office
    office.services.mail.close()


@pytest.fixture
def visit(files: Path) -> Callable[[Callable[[httpx.AsyncClient], Awaitable[T]]], T]:
    """Run something against the web process, on the same database."""
    assert KEY == SECRET

    def run(go: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
        async def whole() -> T:
            async with running(create_app(settings_for(f"sqlite:///{files}", files.parent))) as client:
                client.headers.clear()
                return await go(client)

        return asyncio.run(whole())

    return run


def of(office: Office, purpose: Purpose) -> Letter:
    [letter] = [letter for letter in office.letters() if letter.purpose is purpose]
    return letter


def path_of(letter: Letter) -> str:
    return letter.one_click.removeprefix(PUBLIC_URL)


def test_one_https_link_and_one_click_as_rfc_8058_asks(post: Post):
    """Line 1: on every letter, so on promotional ones too. Nothing in the link shows who it is about."""
    links = []
    for letter in post.letters:
        assert [way.partition(":")[0] for way in letter.ways_out] == ["https", "mailto"]
        assert letter.header("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"
        assert re.fullmatch(rf"{re.escape(PUBLIC_URL)}/unsubscribe/u[A-Za-z0-9_.-]+", letter.one_click)
        assert letter.scene.address not in letter.header("List-Unsubscribe")
        links.append(letter.one_click)
    assert len(set(links)) == len({(letter.scene.member, letter.row.group_id) for letter in post.letters})


def test_the_link_stands_on_one_line_of_its_header(post: Post):
    """Line 1: mailbox providers look for it there, and not all of them unfold."""
    for letter in post.letters:
        whole = dict(letter.head)["list-unsubscribe"]
        assert f"<{letter.one_click}>".encode() in whole.split(b"\r\n")[0]


def test_no_character_of_the_link_can_be_changed(sent: Office, visit):
    """Line 1."""
    path = path_of(of(sent, Purpose.PROMOTIONAL))
    start = len("/unsubscribe/")

    async def forge(client: httpx.AsyncClient) -> set[int]:
        answers = set()
        for at in range(start, len(path)):
            forged = path[:at] + chr(ord(path[at]) ^ 1) + path[at + 1 :]
            url = httpx.URL("http://usher.example").copy_with(raw_path=forged.encode())
            answers.add((await client.post(url, content=URLENCODED[0])).status_code)
        return answers

    assert visit(forge) == {404}
    assert sent.suppressed() == {}


@pytest.mark.parametrize(
    ("body", "kind"), [URLENCODED, MULTIPART, (b"", "")], ids=["urlencoded", "multipart", "bare"]
)
def test_one_click_without_cookies_login_or_redirect_ends_offers(sent: Office, visit, body: bytes, kind: str):
    """Lines 2 and 35: as easy as it can be; and the next offer is not sent."""
    path = path_of(of(sent, Purpose.PROMOTIONAL))

    answer = visit(
        lambda client: client.post(path, content=body, headers={"Content-Type": kind} if kind else {})
    )

    assert answer.status_code == 200
    assert {"location", "set-cookie", "www-authenticate", "refresh"}.isdisjoint(answer.headers)
    assert sent.suppressed() == {"promotional": {"unsubscribed"}}
    before = len(sent.letters())
    sent.play(Scene("ann", group="another"))
    assert {letter.purpose for letter in sent.letters()[before:]} == {Purpose.ONBOARDING}
    [refused] = [row for row in sent.rows() if row.state == "skipped"]
    assert refused.reason == "unsubscribed here (one click)"


def test_one_click_in_a_welcome_does_the_same(sent: Office, visit):
    """Line 2."""
    answer = visit(lambda client: client.post(path_of(of(sent, Purpose.ONBOARDING)), content=URLENCODED[0]))

    assert (answer.status_code, sent.suppressed()) == (200, {"promotional": {"unsubscribed"}})


def test_a_hundred_looks_change_nothing(sent: Office, visit):
    """Line 3."""
    path = path_of(of(sent, Purpose.PROMOTIONAL))

    async def look(client: httpx.AsyncClient) -> list[tuple[str, int]]:
        return [
            (method, (await client.request(method, path, headers={"User-Agent": agent})).status_code)
            for _ in range(5)
            for agent in SCANNERS
            for method in ("GET", "HEAD")
        ]

    assert set(visit(look)) == {("GET", 200), ("HEAD", 200)}
    assert sent.suppressed() == {}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_no_other_method_does_anything(sent: Office, visit, method: str):
    """Line 3."""
    answer = visit(lambda client: client.request(method, path_of(of(sent, Purpose.PROMOTIONAL))))

    assert (answer.status_code, sent.suppressed()) == (405, {})


def test_a_mail_to_the_address_in_the_header_ends_offers(sent: Office):
    """Line 5: the way for programs that know no links (RFC 2369, 3.2)."""
    letter = of(sent, Purpose.PROMOTIONAL)
    to = letter.mail_to_unsubscribe
    assert sent.paths.read(to) == (PathKind.UNSUBSCRIBE, letter.row.id)
    mailroom = Mailroom(sent.paths, Returns(sent.house.database), sent.services.senders)
    mail = f"From: {letter.scene.address}\r\nTo: {to}\r\nSubject: unsubscribe\r\n\r\n".encode()

    mailroom.take_in(mail.replace(to.encode(), to.replace("+u", "+ua").encode()))
    assert sent.suppressed() == {}, "a made-up address says nothing"
    mailroom.take_in(mail)

    assert sent.suppressed() == {"promotional": {"unsubscribed"}}


def test_every_letter_has_an_address_of_its_own_to_unsubscribe(post: Post):
    """Line 5."""
    for letter in post.letters:
        assert post.office.paths.read(letter.mail_to_unsubscribe) == (PathKind.UNSUBSCRIBE, letter.row.id)


def test_the_way_out_can_be_seen_in_both_parts(post: Post):
    """Line 6: a line of its own in the text, words on a link in the HTML."""
    for letter in post.letters:
        assert letter.one_click in letter.text.splitlines(), str(letter)
        assert [said.strip() for link, said in letter.html.links if link == letter.one_click] != [], str(
            letter
        )
        assert all(said.strip() for link, said in letter.html.links if link == letter.one_click)


def test_a_list_is_one_group_and_stays_the_same(post: Post):
    """Line 7: whatever the letter, its purpose and language."""
    lists: dict[str, set[str]] = {}
    for letter in post.letters:
        found = letter.header("List-Id")
        assert re.fullmatch(r"<[A-Za-z0-9-]{1,63}\.club\.example\.com>", found)
        lists.setdefault(letter.row.group_id, set()).add(found)

    assert {len(found) for found in lists.values()} == {1}
    assert len({found for [found] in lists.values()}) == len(lists)


def test_the_feedback_id_says_campaign_site_purpose_and_sender(post: Post):
    """Line 13: four fields of letters that Gmail's feedback loop counts by; the last is always the same."""
    for letter in post.letters:
        if letter.purpose is not Purpose.PROMOTIONAL:
            continue
        found = letter.header("Feedback-ID")
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,60}(:[A-Za-z0-9._-]{1,60}){3}", found)
        campaign, site, purpose, sender = found.split(":")
        assert campaign == letter.row.email_template
        assert letter.scene.site.startswith(site)
        assert (purpose, sender) == ("promotional", "club.example.com")


def test_whoever_opts_out_after_a_letter_was_planned_does_not_get_it(
    records: Database, server: MailServer, clock: Clock, visit
):
    """Line 21: in the same request, not within 48 hours."""
    office = Office(records, server, clock, automations=ONE_OF_EACH)
    office.play(Scene("ann"))
    path = path_of(of(office, Purpose.PROMOTIONAL))
    before = len(office.letters())
    office.hear(Scene("ann", group="another"))
    run_events(office.services)
    assert sorted(row.state for row in office.rows()) == ["planned", "planned", "sent", "sent"]

    visit(lambda client: client.post(path, content=URLENCODED[0]))
    office.work()

    assert [letter.purpose for letter in office.letters()[before:]] == [Purpose.ONBOARDING]


def test_a_link_of_years_ago_still_works(sent: Office, visit, monkeypatch: pytest.MonkeyPatch):
    """Line 40: 60 days are asked for; no time is in it, so none can run out."""
    path = path_of(of(sent, Purpose.PROMOTIONAL))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11 * 365 * 86400)

    answer = visit(lambda client: client.post(path, content=URLENCODED[0]))

    assert (answer.status_code, sent.suppressed()) == (200, {"promotional": {"unsubscribed"}})
