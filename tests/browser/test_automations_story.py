"""Automations: read one as a sentence, try it, switch it off, change it with a mistake first, and go back."""

from __future__ import annotations

import pytest
from playwright.sync_api import StorageState, expect

from tests.browser.conftest import Open
from tests.browser.window import Window

ONE = "/automations/named/yoga-offer"


def test_an_automation_is_read_tried_and_changed(console: Window):
    page = console.page
    console.go("/automations")
    expect(page.get_by_text("When somebody asks to join any group and mentions")).to_have_count(4)
    console.look("automations")
    console.check()
    page.get_by_role("link", name="yoga-offer", exact=True).click()
    expect(page.get_by_role("heading", name="Who is on which step")).to_be_visible()
    page.get_by_label("What somebody answers").fill("I love Yoga, and a little Pilates")
    page.get_by_role("button", name="See what comes of it").click()
    expect(page.locator("mark")).to_have_text(["Yoga", "Pilates"])
    expect(page.get_by_text("Yes, it applies.")).to_be_visible()
    expect(page.frame_locator("iframe.letter").locator("h1, h2, p").first).to_be_visible()
    console.look("automation")
    console.check()
    page.get_by_role("link", name="Change", exact=True).click()
    console.expected.add(422)
    page.get_by_label("How long after it happened").fill("soon")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("must be a length of time")).to_be_visible()
    console.look("automation-form")
    console.check()
    page.get_by_label("How long after it happened").fill("3d")
    page.get_by_label("What you changed, and why").fill("Not on the first day")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved. It counts from now on.")).to_be_visible()
    expect(page.get_by_text("after 3 days").first).to_be_visible()


def test_one_is_switched_off_and_the_history_brings_it_back(console: Window):
    page = console.page
    console.go("/automations")
    page.get_by_role("button", name="Switch off “welcome”").click()
    expect(page.get_by_text("Switched off.")).to_be_visible()
    expect(page.get_by_role("button", name="Switch on “welcome”")).to_be_visible()
    page.get_by_role("link", name="History").click()
    console.check()
    page.get_by_role("link", name="What changed").first.click()
    expect(page.locator("ins")).to_contain_text("enabled = false")
    console.look("automations-diff")
    console.check()
    console.go("/automations/history")
    page.get_by_role("link", name="What changed").nth(1).click()
    page.get_by_text("Go back to this version").click()
    page.get_by_role("button", name="Yes, let it count again").click()
    expect(page.get_by_text("counts again")).to_be_visible()
    console.look("automations-history")
    console.go("/automations")
    expect(page.get_by_role("button", name="Switch off “welcome”")).to_be_visible()


def test_the_whole_text_names_its_mistakes_and_is_downloaded(console: Window):
    page = console.page
    console.go("/automations/text")
    text = page.get_by_label("The whole text (TOML)")
    before = text.input_value()
    console.expected.add(422)
    text.fill(before + '\n[[automation]]\nname = "half"\n')
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Nothing was saved: the text has mistakes.")).to_be_visible()
    console.look("automations-text")
    console.check()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_text(encoding="utf-8") == before


@pytest.mark.parametrize("kind", ["dark", "phone", "hebrew", "plain"])
def test_the_pages_hold_in_every_light(open_window: Open, owner: StorageState, kind: str):
    with open_window(kind, owner) as window:
        for name, path in (
            ("automations", "/automations"),
            ("automation", ONE),
            ("automation-form", f"{ONE}/edit"),
            ("automations-policy", "/automations/policy"),
            ("automations-history", "/automations/history"),
        ):
            window.go(path)
            window.look(name)
            window.check()
