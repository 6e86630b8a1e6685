"""The workshop: what got stuck is looked at, decided, and worked off once more."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import StorageState, expect

from tests.browser.conftest import Open
from tests.browser.window import Window

PAGES = {
    "overview": "/workshop",
    "events": "/workshop/events",
    "letters": "/workshop/letters",
    "doubt": "/workshop/doubt",
    "senders": "/workshop/senders",
    "audit": "/workshop/audit",
    "tokens": "/workshop/tokens",
    "doctor": "/workshop/doctor",
}


@pytest.mark.parametrize("kind", ["desktop", "dark", "phone", "hebrew", "plain"])
def test_every_page_of_the_workshop_is_fit_to_be_looked_at(open_window: Open, owner: StorageState, kind: str):
    with open_window(kind, owner) as window:
        for name, path in PAGES.items():
            window.go(path)
            expect(window.page.get_by_role("heading", level=1)).to_be_visible()
            window.look(f"workshop-{name}")
            window.check()


def test_an_event_that_was_set_aside_says_why_and_is_worked_off_once_more(console: Window):
    page = console.page
    console.go("/workshop/events?state=dead")
    page.locator("table tbody tr a").first.click()
    expect(page.get_by_text("It was set aside.")).to_be_visible()
    console.look("workshop-event")
    console.check()
    page.get_by_role("button", name="Work it off once more").click()
    expect(page.get_by_text("The event is worked off once more.")).to_be_visible()


def test_a_letter_in_doubt_is_decided_with_its_consequence_in_sight(console: Window):
    page = console.page
    console.go("/workshop/doubt")
    letters = page.locator(".quiet-list > li")
    before = letters.count()
    first = letters.first
    first.locator("summary", has_text="Never send it").click()
    expect(first.get_by_text("they never get it")).to_be_visible()
    console.look("workshop-doubt-open")
    first.get_by_role("button", name="Never send it").click()
    expect(page.get_by_text("1 letter is never sent.")).to_be_visible()
    assert letters.count() == before - 1
    console.go("/workshop/audit")
    expect(page.locator("table tbody tr").first).to_contain_text("decided that a letter is never sent")


def test_a_token_is_shown_once_and_revoked(console: Window):
    page = console.page
    console.go("/workshop/tokens")
    page.get_by_label("Name").fill("nightly-report")
    page.get_by_role("button", name="Make the token").click()
    expect(page.locator("code.token")).to_have_text(re.compile("^usher_"))
    console.look("workshop-token-made")
    console.check()
    console.go("/workshop/tokens")
    expect(page.locator("code.token")).to_have_count(0)
    row = page.locator("tr", has_text="nightly-report")
    row.locator("summary").click()
    row.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_text("Nobody comes in with the token “nightly-report” any more.")).to_be_visible()


def test_the_doctor_looks_and_says_what_to_mend(console: Window):
    page = console.page
    page.set_default_timeout(60_000)
    console.go("/workshop/doctor")
    page.get_by_role("button", name="Look now").click()
    expect(page.get_by_text("In order (")).to_be_visible(timeout=60_000)
    console.look("workshop-doctor-found")
    console.check()
