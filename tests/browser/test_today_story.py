"""Today: somebody comes in the morning, sees how things are, and goes where they are wanted."""

from __future__ import annotations

import pytest
from playwright.sync_api import StorageState, expect

from admin.demo.day import RUNNERS
from tests.browser.conftest import Open
from tests.browser.window import Window


def test_today_says_what_is_wrong_and_leads_to_where_it_is_mended(console: Window):
    console.go("/")
    page = console.page
    expect(page.get_by_role("heading", level=1)).to_contain_text("Today")
    health = page.get_by_role("region", name="Is anything wrong?")
    expect(health).to_contain_text("could not be worked off")
    console.look("today")
    console.check()
    health.get_by_role("link", name="Go there").filter(has_text="worked off").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Events")
    expect(page.get_by_label("State")).to_have_value("dead")


def test_today_is_live_and_what_was_opened_stays_open(console: Window):
    console.go("/")
    page = console.page
    page.get_by_text("The same as numbers").click()
    with page.expect_response("**/now") as asked:
        pass
    assert asked.value.status == 200
    expect(page.get_by_role("table", name="Day by day, today first")).to_be_visible()
    expect(page.locator("#now > section").first).to_be_visible()


def test_a_reason_leads_to_the_letters_that_have_it(console: Window):
    console.go("/")
    page = console.page
    link = page.get_by_role("region", name="Not sent, and why").get_by_role("link").first
    reason = link.inner_text()
    link.click()
    expect(page.get_by_text("Letters with this reason:")).to_contain_text(reason)
    assert page.locator("table tbody tr").count()


def test_a_group_s_admin_is_shown_their_group_alone(open_window: Open, log_in_as):  # type: ignore[no-untyped-def]
    cookies: StorageState = log_in_as("group_admin", RUNNERS)
    with open_window("desktop", cookies) as window:
        window.go("/")
        expect(window.page.get_by_role("heading", level=1)).to_contain_text("Today")
        expect(window.page.get_by_text("could not be worked off")).to_have_count(0)
        expect(window.page.locator("svg.chart")).to_have_count(1)
        window.check()


@pytest.mark.parametrize("kind", ["dark", "phone", "hebrew", "plain"])
def test_today_is_the_same_however_it_is_looked_at(open_window: Open, owner: StorageState, kind: str):
    with open_window(kind, owner) as window:
        window.go("/")
        expect(window.page.locator("#now")).to_be_visible()
        window.look("today")
        window.check()


def test_today_stands_in_wix_s_dashboard(frame: Window):
    expect(frame.inside.get_by_role("heading", level=1)).to_contain_text("Today")
    frame.look("today")
    frame.check()


def test_today_is_walked_by_keyboard(console: Window):
    console.go("/")
    assert len(console.walk()) > 10
