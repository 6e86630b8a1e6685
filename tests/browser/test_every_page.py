"""Every page of the console that links lead to, as everybody may look at it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from playwright.sync_api import StorageState
from starlette.routing import compile_path

from admin.console.app import PAGES
from admin.demo.stage import Stage
from tests.browser.conftest import Open
from tests.browser.window import KINDS, Window

TWICE = 2
"""So many addresses of one kind are looked at: a person with much behind them is another page than one with nothing."""
OFTEN = {"/jobs/{job}": 8}
"""Each kind of job has its own page, and another one while it runs."""
WITHOUT_A_LINK = {
    "/automations/named/{name}/try": "a form on the automation's page; by itself it leads back there",
    "/requests/under-way": "asked for while a decision can be undone",
    "/workshop/doubts": "a form below the letters in doubt",
    "/workshop/replay": "a link in the list of dead events of one type, which a form leads to",
}
"""Pages that no link leads to, and what does: the stories go there."""


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = ("hx-get", {"a": "href", "iframe": "src"}.get(tag))
        self.found += [value for name, value in attrs if name in wanted and value]


class Map:
    """Where links lead: addresses by the page's path in its table."""

    def __init__(self, stage: Stage, cookies: StorageState) -> None:
        self.base = f"/admin/s/{stage.site}"
        self.routes = [
            (page.path, compile_path(f"{self.base}{page.path}")[0]) for page in PAGES if page.method == "GET"
        ]
        self.pages: dict[str, list[str]] = defaultdict(list)
        self.others: dict[str, list[str]] = defaultdict(list)
        """Downloads, and what is shown within a page."""
        self.broken: list[str] = []
        self.seen: dict[str, list[str]] = defaultdict(list)
        jar = {cookie["name"]: cookie["value"] for cookie in cookies["cookies"]}
        # The web process hangs up after a mistake of its own.
        one_each = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=stage.usher.base_url, cookies=jar, timeout=30, limits=one_each) as client:
            waiting = [(f"{self.base}/", "")]
            while waiting:
                address, by = waiting.pop(0)
                where = self.place(address)
                if where is None:
                    if address.startswith(f"{self.base}/"):
                        self.broken.append(f"{address}, to which {by} links, is no page")
                    continue
                if address in self.seen[where] or self._enough(where, address):
                    continue
                self.seen[where].append(address)
                answer = client.get(address)
                if answer.has_redirect_location and self.place(answer.headers["location"]):
                    self.others[where].append(address)  # a piece of a page, asked for by itself
                    continue
                if answer.status_code != 200:
                    self.broken.append(f"{answer.status_code} of {address}, to which {by} links")
                    continue
                is_page = answer.headers["content-type"].startswith("text/html") and (
                    "attachment" not in answer.headers.get("content-disposition", "")
                )
                whole = is_page and 'id="main"' in answer.text
                (self.pages if whole else self.others)[where].append(address)
                if whole:
                    links = _Links()
                    links.feed(answer.text)
                    waiting += [(urljoin(address, link).partition("#")[0], address) for link in links.found]

    def place(self, address: str) -> str | None:
        """Which page of the table this is: the first that fits, as the router has it."""
        path = urlsplit(address).path
        return next((name for name, pattern in self.routes if pattern.match(path)), None)

    def addresses(self, *, whole: bool) -> Iterator[tuple[str, str]]:
        """Of each page in the table all that were found, or the first."""
        for where, found in self.pages.items():
            for address in found if whole else found[: OFTEN.get(where, 1)]:
                yield where, address

    def _enough(self, where: str, address: str) -> bool:
        asked = set(parse_qs(urlsplit(address).query))
        alike = [known for known in self.seen[where] if set(parse_qs(urlsplit(known).query)) == asked]
        return len(alike) >= OFTEN.get(where, TWICE)


@pytest.fixture(scope="module")
def map_(stage: Stage, owner: StorageState) -> Map:
    return Map(stage, owner)


def test_links_lead_to_every_page_and_none_leads_astray(map_: Map):
    reached = {where for where in (*map_.pages, *map_.others) if map_.pages[where] or map_.others[where]}
    missing = {page.path for page in PAGES if page.method == "GET"} - reached - WITHOUT_A_LINK.keys()
    assert not map_.broken
    assert not missing, f"no link leads to {sorted(missing)}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_every_page_is_fit_to_be_looked_at(kind: str, map_: Map, open_window: Open, owner: StorageState):
    """Shown whole, nothing serious for axe, nothing to complain of, no scrolling sideways."""
    troubles: list[str] = []
    with open_window(kind, None if kind == "frame" else owner) as window:
        for where, address in map_.addresses(whole=kind == "phone"):
            try:
                _look(window, where, address)
            except AssertionError as exc:
                troubles.append(str(exc))
            troubles += window.complaints
            window.complaints.clear()
    assert not troubles, "\n\n".join(troubles)


@pytest.mark.timeout(300)
def test_every_page_is_walked_by_keyboard_and_the_focus_is_seen(
    map_: Map, open_window: Open, owner: StorageState
):
    troubles: list[str] = []
    with open_window("desktop", owner) as window:
        for _, address in map_.addresses(whole=False):
            window.go(address)
            try:
                assert window.walk()[0].startswith("a “Skip"), address
            except AssertionError as exc:
                troubles.append(str(exc))
    assert not troubles, "\n\n".join(troubles)


def _look(window: Window, where: str, address: str) -> None:
    answer = window.go(address)
    assert answer is not None
    if answer.status == 403 and window.kind == "frame":
        window.complaints.clear()  # an owner's page, and who comes from Wix's dashboard is a manager
        return
    assert answer.status == 200, f"{answer.status} of {address}"
    assert window.inside.locator("h1").count() == 1, f"{address} has not one h1"
    assert window.inside.locator("main").inner_text().strip(), address
    if window.kind == "hebrew":
        assert window.inside.locator("html").get_attribute("dir") == "rtl"
    window.look(f"page-{re.sub(r'[^a-z0-9]+', '-', where).strip('-') or 'today'}")
    window.axe()
    window.fits()
