"""Writing to people, from the form to the letterbox: at a desk, on a phone, in the dark, in a frame, without script."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from admin.demo.day import CHOIR, RUNNERS
from tests.browser.window import Window

TO = "mara@seaside.example.com"
SLOWLY_MS = 40_000
"""For what workers do meanwhile."""


def choose_group(page: Page, name: str) -> None:
    group = page.get_by_label("Group", exact=True)
    option = group.locator("option").filter(has_text=name)
    group.select_option(value=option.get_attribute("value"))


def choose_news(page: Page, group: str) -> None:
    choose_group(page, group)
    page.get_by_label("News of the group").check()
    page.locator("input[name=email][value=welcome]").check()


def see_who_gets_it(page: Page) -> None:
    page.get_by_role("button", name="See who gets it").click()
    page.wait_for_url("**/jobs/*")


def test_a_letter_is_looked_at_tried_previewed_and_sent(console: Window):
    page, stage = console.page, console.stage
    console.go("/write")
    console.check()
    choose_news(page, CHOIR)
    inbox = page.locator(".inbox")
    expect(inbox).to_contain_text(f"Welcome to {CHOIR}")
    letter = page.frame_locator("iframe[name=letter]")
    expect(letter.get_by_role("heading", level=1)).to_contain_text(f"Welcome to {CHOIR}")
    page.get_by_label("In which language").select_option("he")
    expect(inbox).to_contain_text("ברוכים הבאים")
    expect(letter.locator("html")).to_have_attribute("dir", "rtl")
    page.get_by_label("On a phone").check()
    console.look("write")
    page.get_by_label("In which language").select_option("en")
    expect(inbox).to_contain_text("Welcome")
    page.get_by_role("button", name="Show it with what I wrote").click()
    expect(letter.locator("html")).to_have_attribute("dir", "ltr")
    console.check()

    page.get_by_label("Send a test to").fill(TO)
    page.get_by_role("button", name="Send the test").click()
    expect(page.get_by_text("The mail server answered:")).to_be_visible()
    [trial] = [mail for mail in stage.mail() if TO in str(mail)]
    assert "[Test]" in str(trial)

    see_who_gets_it(page)
    send = page.get_by_role("button", name=re.compile("^Send to [0-9]+ p"))
    expect(send).to_be_visible(timeout=SLOWLY_MS)
    console.check()
    console.walk()
    console.look("write-preview")
    page.get_by_role("link", name=re.compile("of them, by name")).first.click()
    expect(page.get_by_text("Left out:")).to_be_visible()
    expect(page.get_by_role("table")).to_be_visible()
    console.check()
    page.go_back()
    number = int(re.findall("[0-9]+", send.inner_text())[0])
    before = len(stage.mail())
    send.click()
    expect(page.get_by_text("You can leave this page")).to_be_visible()
    expect(page.get_by_role("heading", name="It is done.")).to_be_visible(timeout=SLOWLY_MS)
    expect(page.get_by_text(f"{number} of {number}.")).to_be_visible()
    assert len(stage.mail()) == before + number
    console.check()
    console.look("write-done")


def test_an_interest_is_written_to_from_a_phone(phone: Window):
    page = phone.page
    phone.expected |= {422}
    phone.go("/write")
    page.get_by_label("Everybody with an interest").check()
    expect(page.get_by_label("Group", exact=True)).to_be_hidden()
    see = page.get_by_role("button", name="See who gets it")
    see.click()
    expect(page.get_by_text("Name at least one word to look for.")).to_be_visible()
    phone.check()
    page.get_by_label("Their answers mention one of these").fill("yoga, pilates")
    page.locator("input[name=email][value=yoga-offer]").check()
    expect(page.locator(".inbox")).to_be_visible()
    phone.check()
    phone.look("write")
    see_who_gets_it(page)
    expect(page.get_by_text("This is what would happen.")).to_be_visible(timeout=SLOWLY_MS)
    expect(page.get_by_role("heading", level=1)).to_contain_text("people who mention yoga, pilates")
    phone.check()
    phone.look("write-preview")
    page.get_by_role("link", name="Everybody, by name").click()
    phone.check()
    page.go_back()
    page.get_by_role("link", name="Change something").click()
    expect(page.get_by_label("Their answers mention one of these")).to_have_value("yoga, pilates")


def test_it_is_written_in_the_dark_and_thrown_away(dark: Window):
    page = dark.page
    dark.go("/write")
    choose_news(page, RUNNERS)
    expect(page.locator(".inbox")).to_be_visible()
    dark.check()
    dark.look("write")
    see_who_gets_it(page)
    expect(page.get_by_text("This is what would happen.")).to_be_visible(timeout=SLOWLY_MS)
    dark.check()
    page.get_by_role("button", name="Throw away").click()
    expect(page.get_by_role("heading", name="It was cancelled.")).to_be_visible()
    dark.look("write-cancelled")


def test_it_is_written_in_a_frame_of_wix(frame: Window):
    inside = frame.inside
    frame.go("/write")
    inside.locator("input[name=email][value=welcome]").check()
    expect(inside.locator(".inbox")).to_be_visible()
    letter = inside.frame_locator("iframe[name=letter]")
    expect(letter.get_by_role("heading", level=1)).to_contain_text("Welcome")
    frame.check()
    frame.look("write")


def test_it_is_written_from_right_to_left(hebrew: Window):
    hebrew.go("/write?letter=welcome")
    expect(hebrew.page.locator(".inbox")).to_be_visible()
    hebrew.check()
    hebrew.look("write")


def test_it_is_written_without_script(plain: Window):
    page = plain.page
    plain.go("/write")
    choose_news(page, RUNNERS)
    page.get_by_role("button", name="Show the letter").click()
    expect(page.locator(".inbox")).to_contain_text(f"Welcome to {RUNNERS}")
    page.get_by_label("In which language").select_option("de")
    page.get_by_role("button", name="Show it with what I wrote").click()
    letter = page.frame_locator("iframe[name=letter]")
    expect(letter.get_by_role("heading", level=1)).to_contain_text("Willkommen")
    see_who_gets_it(page)
    for _ in range(200):
        if page.get_by_text("This is what would happen.").is_visible():
            break
        page.get_by_role("link", name="Look again").click()
    expect(page.get_by_role("button", name=re.compile("^Send to"))).to_be_visible()
