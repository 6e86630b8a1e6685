"""A browser window with somebody in it, and what must hold of every page that is shown there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Frame,
    Page,
    Request,
    Response,
    StorageState,
    expect,
    sync_playwright,
)

from admin.demo.stage import Stage

CHROMIUM = shutil.which("chromium")
WITHIN_MS = 15_000
PASSWORD = "seven small boats at low tide"
KINDS: dict[str, dict[str, Any]] = {
    "desktop": {},
    "dark": {"color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
    "hebrew": {"locale": "he-IL"},
    "frame": {},
    "plain": {"java_script_enabled": False},
}
"""How a page may be looked at: `frame` is Wix's dashboard, `plain` a browser without script."""
expect.set_options(timeout=WITHIN_MS)
GRAVE = ("serious", "critical")
MOST_STOPS = 250
_FOCUS = """() => {
  const at = document.activeElement;
  if (!at || at === document.body || at === document.documentElement) return null;
  const drawn = [at, at.closest("label"), at.nextElementSibling].filter(Boolean).some((one) => {
    const style = getComputedStyle(one);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
  });
  const box = at.getBoundingClientRect();
  const name = (at.getAttribute("aria-label") || at.textContent || at.name || "").trim().slice(0, 40);
  at.dataset.walked = String(Number(at.dataset.walked || 0) + 1);
  // The focus is within, and drawn there.
  if (at.tagName === "IFRAME") return { name: "iframe", drawn: true, shown: true, again: false };
  return {
    name: `${at.tagName.toLowerCase()} “${name}”`,
    drawn, again: at.dataset.walked !== "1",
    shown: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
  };
}"""
_WIDER = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide + 1) return [];
  return [...document.querySelectorAll("body, body *")]
    .filter((one) => {
      const box = one.getBoundingClientRect();
      return Math.max(box.right, box.left + one.scrollWidth) > wide + 1 || box.left < -1;
    })
    .slice(-3)
    .map((one) => one.outerHTML.slice(0, 120));
}"""


@dataclass
class Window:
    """`page` is the tab, `inside` what shows the console: the tab itself, or the frame in Wix's dashboard.

    `complaints` collects what a browser's console would say, answers from 400 on that are not in `expected`, and
    requests to anybody else; the fixtures look at it when a test is over.
    """

    page: Page
    stage: Stage
    kind: str
    inside: Page | Frame
    expected: set[int] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return str(self.stage.usher.base_url).rstrip("/")

    def url(self, path: str = "/") -> str:
        """Of a page of the site: "/requests". What begins with "/admin" is taken as it is."""
        if path.startswith("/admin"):
            return f"{self.base}{path}"
        return f"{self.base}/admin/s/{self.stage.site}{path}"

    def go(self, path: str = "/") -> Response | None:
        return self.inside.goto(self.url(path))

    def listen(self, context: BrowserContext, *, allowed: tuple[str, ...]) -> None:
        def complain(text: str) -> None:
            self.complaints.append(text)

        def heard(message: ConsoleMessage) -> None:
            about_status = "the server responded with a status of" in message.text
            if message.type in ("error", "warning") and not about_status:
                complain(f"console: {message.text} ({message.location.get('url', '')})")

        def asked(request: Request) -> None:
            if not request.url.startswith((*allowed, "data:", "about:", "blob:")):
                complain(f"asked somebody else: {request.url}")

        def answered(response: Response) -> None:
            if response.status >= 400 and response.status not in self.expected:
                complain(f"{response.status} of {response.request.method} {response.url}")

        def failed(request: Request) -> None:
            # What a page no longer waits for when it is left, and a download, which is no page.
            if request.failure != "net::ERR_ABORTED":
                complain(f"failed: {request.url} {request.failure}")

        context.on("console", heard)
        context.on("weberror", lambda error: complain(f"script: {error.error}"))
        context.on("request", asked)
        context.on("response", answered)
        context.on("requestfailed", failed)

    def look(self, name: str, *, whole: bool = True) -> None:
        """Take a picture into the folder that USHER_PICTURES names, if it does."""
        if folder := os.environ.get("USHER_PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder, f"{name}-{self.kind}.png"), full_page=whole)

    def check(self) -> None:
        """What holds of every page: nothing serious for axe, nothing to complain of, and no scrolling sideways."""
        self.axe()
        self.fits()
        self.no_complaints()

    def axe(self) -> None:
        if self.kind == "plain":
            return
        found = Axe().run(self.inside, options={"resultTypes": ["violations"], "iframes": False}).response
        grave = [
            f"{rule['id']} ({rule['impact']}): {node['target']} {node['html'][:160]}\n    {node['failureSummary']}"
            for rule in found["violations"]
            if rule["impact"] in GRAVE
            for node in rule["nodes"][:3]
        ]
        assert not grave, f"{self.inside.url}\n" + "\n".join(grave)

    def fits(self) -> None:
        if self.kind != "plain":
            assert not (wider := self.inside.evaluate(_WIDER)), f"{self.inside.url} scrolls sideways: {wider}"

    def no_complaints(self) -> None:
        assert not self.complaints, f"{self.inside.url}\n" + "\n".join(self.complaints)

    def walk(self) -> list[str]:
        """Tab through the page from its top to its end; the focus is seen at each stop. Answers what was stopped at."""
        self.inside.evaluate("() => { document.activeElement?.blur(); scrollTo(0, 0); }")
        stops = list(self._stops())
        unseen = [stop["name"] for stop in stops if not (stop["drawn"] and stop["shown"])]
        assert not unseen, f"{self.inside.url}: the focus is not to be seen on {unseen}"
        return [str(stop["name"]) for stop in stops]

    def _stops(self) -> Iterator[dict[str, Any]]:
        for _ in range(MOST_STOPS):
            self.page.keyboard.press("Tab")
            stop = self.inside.evaluate(_FOCUS)
            if stop is None or stop["again"]:
                return
            yield stop
        raise AssertionError(f"{self.inside.url}: Tab does not come to an end")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium refuses to shut root, whom CI often is, into a sandbox.
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


def log_in(stage: Stage, browser: Browser) -> StorageState:
    """The cookies of whoever shows ADMIN_TOKEN."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{stage.usher.base_url}/admin/")
    if page.locator("summary").count():  # once somebody has a password, the token is the second way in
        page.click("summary")
    page.fill("input[name=token]", stage.admin_token)
    page.press("input[name=token]", "Enter")
    page.wait_for_url("**/admin/s/**")
    state = context.storage_state()
    context.close()
    return state


def log_in_as(stage: Stage, browser: Browser, role: str, *groups: str) -> StorageState:
    """The cookies of somebody new, who was invited and chose a password; `groups` by name, of a group_admin."""
    name = f"{role.replace('_', '-')}-{secrets.token_hex(3)}"
    new: dict[str, Any] = {"login": f"{name}@example.com", "name": name, "role": role}
    if role != "owner":
        new["sites"] = [stage.site]
    if groups:
        new["groups"] = [group["id"] for group in stage.state()["groups"] if group["name"] in groups]
    bearer = {"Authorization": f"Bearer {stage.admin_token}"}
    answer = stage.usher.post("/api/v1/users", json=new, headers=bearer)
    assert answer.status_code == 201, answer.text
    context = browser.new_context()
    page = context.new_page()
    page.goto(urljoin(f"{stage.usher.base_url}/", answer.json()["invitation"]))
    page.fill("input[name=password]", PASSWORD)
    page.fill("input[name=again]", PASSWORD)
    page.press("input[name=again]", "Enter")
    page.wait_for_url("**/admin/s/**")
    state = context.storage_state()
    context.close()
    return state


@contextlib.contextmanager
def open_window(
    stage: Stage, browser: Browser, kind: str = "desktop", cookies: StorageState | None = None
) -> Iterator[Window]:
    """Without cookies nobody is in. At its end nothing may have been complained of."""
    context = browser.new_context(
        storage_state=cookies,
        reduced_motion="reduce",
        **{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | KINDS[kind],
    )
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    window = Window(page, stage, kind, page)
    allowed = [_origin(str(stage.usher.base_url))]
    dashboard = ""
    if kind == "frame":
        dashboard = str(stage.sandbox.get("/sandbox/settings").json()["DASHBOARD_URL"])
        allowed.append(_origin(dashboard))
    window.listen(context, allowed=tuple(allowed))
    if dashboard:
        page.goto(dashboard)
        frame = page.frame(url="**/admin/s/**")
        assert frame is not None, [one.url for one in page.frames]
        window.inside = frame
    yield window
    context.close()
    window.no_complaints()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
