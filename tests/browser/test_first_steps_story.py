"""Getting in: with ADMIN_TOKEN, by an invitation, with a password, from Wix's dashboard; and what each may see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, StorageState, expect
from starlette.routing import compile_path

from admin.console.app import PAGES
from admin.console.page import Page as ConsolePage
from admin.demo.day import RUNNERS, SWIMMERS, YOGA
from tests.browser.conftest import Open
from tests.browser.window import KINDS, PASSWORD, Window

NEWCOMER = "mara@seaside.example.com"


def rooms_of(window: Window) -> list[str]:
    return window.inside.get_by_role("navigation", name="Rooms").get_by_role("link").all_inner_texts()


@pytest.fixture(scope="module")
def invitation() -> list[str]:
    """The link, from the test that makes it for the one that follows it."""
    return []


def test_the_token_lets_the_owner_in_and_a_wrong_one_does_not(open_window: Open):
    with open_window() as window:
        window.expected |= {401}
        page = window.page
        page.goto(window.url("/admin/"))
        window.axe()
        window.look("login")
        page.get_by_text("Log in with ADMIN_TOKEN").click()
        page.get_by_label("ADMIN_TOKEN").fill("not the token")
        page.get_by_role("button", name="Log in with the token").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("ADMIN_TOKEN").fill(window.stage.admin_token)
        page.get_by_role("button", name="Log in with the token").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Today")
        assert rooms_of(window) == [
            "Today", "Requests", "Automations", "Write", "People", "Groups", "Workshop",
        ]  # fmt: skip


def test_an_owner_invites_somebody_to_look_after_one_group(console: Window, invitation: list[str]):
    page = console.page
    console.go("/users")
    page.get_by_role("link", name="Invite somebody").click()
    page.get_by_label("Their address").fill(NEWCOMER)
    page.get_by_label("Short name").fill("mara")
    page.get_by_label("Group admin").check()
    page.get_by_label(SWIMMERS).check()
    page.get_by_role("button", name="Make the invitation").click()
    console.axe()
    console.look("invitation")
    invitation.append(page.get_by_label("Their link").input_value())
    assert invitation[0].startswith(f"{console.base}/admin/invitation/")


def test_they_choose_a_password_in_their_own_browser_and_see_their_group_alone(
    open_window: Open, invitation: list[str]
):
    with open_window("phone") as window:
        window.expected |= {404, 403, 422}
        page = window.page
        page.goto(invitation[0])
        window.check()
        window.look("choose-password")
        _choose(page, "short", "short")
        expect(page.locator(".error").first).to_be_visible()
        window.axe()
        _choose(page, PASSWORD, PASSWORD)
        expect(page.get_by_role("heading", level=1)).to_contain_text("Today")
        assert rooms_of(window) == ["Today", "Requests", "Write", "People", "Groups"]
        window.go("/groups")
        expect(page.locator("main")).to_contain_text(SWIMMERS)
        for other in (YOGA, RUNNERS):
            expect(page.locator("main")).not_to_contain_text(other)
        theirs = {group["name"]: group["id"] for group in window.stage.state()["groups"]}
        for path, status in ((f"/groups/{theirs[YOGA]}", 404), ("/workshop", 403), ("/users", 403)):
            answer = window.go(path)
            assert answer is not None
            assert answer.status == status, path
        # The invitation was good once.
        answer = page.goto(invitation[0])
        assert answer is not None
        assert answer.status == 404


def test_they_come_back_with_their_password_and_log_out_again(open_window: Open):
    with open_window() as window:
        window.expected |= {401}
        page = window.page
        page.goto(window.url("/requests"))
        page.get_by_label("Your address").fill(NEWCOMER)
        page.get_by_label("Password").fill("not what they chose")
        page.get_by_role("button", name="Log in", exact=True).click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in", exact=True).click()
        expect(page).to_have_url(window.url("/requests"))  # where they had wanted to go
        window.go("/account")
        page.get_by_role("button", name="Log out", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        window.go("/requests")
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_an_owner_shows_them_out_and_their_next_click_leads_to_the_login(
    open_window: Open, owner: StorageState
):
    with open_window() as theirs, open_window("desktop", owner) as window:
        page = theirs.page
        page.goto(theirs.url("/"))
        page.get_by_label("Your address").fill(NEWCOMER)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Today")
        window.go("/users")
        window.page.get_by_role("link", name=NEWCOMER).click()
        window.page.get_by_role("button", name="Let them in no more").click()
        expect(window.page.locator("main")).to_contain_text("disabled")
        theirs.expected |= {401}  # what the page asks for by itself meanwhile
        theirs.go("/groups")
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


@pytest.mark.parametrize(
    ("role", "groups"),
    [("reader", []), ("group_admin", [RUNNERS]), ("manager", [])],
    ids=str,
)
def test_nobody_is_shown_a_way_that_their_role_does_not_go(
    role: str, groups: list[str], open_window: Open, log_in_as: Callable[..., StorageState]
):
    """Every link and every form on the pages of the rooms is one that the table of pages opens for them."""
    with open_window("desktop", log_in_as(role, *groups)) as window:
        base = f"/admin/s/{window.stage.site}"
        window.go("/")
        rooms = window.page.locator(".rooms a").evaluate_all("(links) => links.map((link) => link.pathname)")
        for room in rooms:
            window.go(room)
            ways = window.page.evaluate(
                """() => [
                  ...[...document.querySelectorAll("main a[href]")].map((way) => ["GET", way.pathname]),
                  ...[...document.forms].map((way) => [way.method.toUpperCase(), new URL(way.action).pathname]),
                ]"""
            )
            closed = {
                f"{method} {page.path}"
                for method, path in ways
                if path.startswith(base)
                for page in _pages(method, path.removeprefix(base) or "/")[:1]
                if role not in page.roles
            }
            assert not closed, room


def _pages(method: str, path: str) -> list[ConsolePage]:
    """Those of the table that fit, in its order, as the router has it."""
    return [page for page in PAGES if page.method == method and compile_path(page.path)[0].match(path)]


def test_who_looks_at_the_site_in_wixs_dashboard_is_in(frame: Window):
    """The dashboard stands on another site than Usher, so the browser keeps the frame's cookie apart."""
    page = frame.page
    expect(frame.inside.get_by_role("heading", level=1)).to_contain_text("Today")
    assert "instance" not in frame.inside.url
    frame.inside.get_by_role("link", name="Groups", exact=True).click()
    expect(frame.inside.get_by_role("heading", level=1)).to_contain_text("Groups")
    frame.look("dashboard", whole=False)
    [cookie] = [one for one in page.context.cookies() if one["name"] == "__Host-usher-frame"]
    assert cookie["secure"]
    assert cookie["httpOnly"]
    assert cookie["partitionKey"] == "http://localhost"


def test_their_language_is_chosen_once(open_window: Open, log_in_as: Callable[..., StorageState]):
    with open_window("desktop", log_in_as("manager")) as window:
        window.go("/account")
        window.page.get_by_label("Language of these pages").select_option("he")
        window.page.get_by_role("button", name="Use it").click()
        window.go("/")
        expect(window.page.locator("html")).to_have_attribute("dir", "rtl")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "frame"])
def test_the_login_is_fit_to_be_looked_at(kind: str, open_window: Open):
    with open_window(kind) as window:
        window.page.goto(window.url("/admin/"))
        window.check()
        window.look("login")


def _choose(page: Page, password: str, again: str) -> None:
    page.get_by_label("New password").fill(password)
    page.get_by_label("The same once more").fill(again)
    page.get_by_role("button", name="Choose it and come in").click()
