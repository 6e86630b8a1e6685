"""Requests to join: look at who waits, let somebody in and take it back, decline many, try a rule on the past."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import StorageState, expect

from admin.demo.day import RUNNERS, SWIMMERS
from tests.browser.conftest import Open
from tests.browser.window import Window

LONGEST_WAIT_MS = 45_000
"""Fifteen seconds in which it can be undone, and a worker that hears of it."""


def test_somebody_is_let_in_taken_back_and_let_in_after_all(console: Window):
    page = console.page
    console.go("/requests")
    cards = page.get_by_role("article")
    expect(cards.first).to_be_visible()
    console.look("requests")
    console.check()
    console.walk()
    name = cards.first.get_by_role("heading").get_by_role("link").first.inner_text()
    cards.first.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status").first).to_contain_text("Until then you can undo it")
    under_way = page.get_by_role("region", name="Decided just now")
    expect(under_way).to_contain_text("will be let in in")
    console.look("requests-undo")
    console.check()
    under_way.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("status").first).to_contain_text("1 decision was undone")
    page.get_by_role("article").filter(has_text=name).get_by_role("button", name="Approve").click()
    expect(under_way).to_contain_text("is in the group now", timeout=LONGEST_WAIT_MS)
    expect(under_way.get_by_role("button", name="Undo")).to_have_count(0)
    console.look("requests-done")
    console.check()


def test_many_are_found_by_their_words_declined_with_a_reason_and_taken_back(console: Window):
    page = console.page
    console.go("/requests")
    page.get_by_text("Find by what they answered").click()
    page.get_by_label("Answers hold one of these").fill("yoga\npilates\nintervals")
    page.get_by_role("button", name="Find").click()
    chosen = page.get_by_role("article").get_by_role("checkbox")
    expect(chosen.first).to_be_checked()
    count = chosen.count()
    console.look("requests-found")
    console.check()
    page.get_by_text("Decline the chosen…").click()
    page.get_by_label("What they are told").first.fill("We are full until June.")
    page.get_by_role("button", name="Decline the chosen").click()
    under_way = page.get_by_role("region", name="Decided just now")
    expect(under_way.get_by_role("button", name="Undo", exact=True)).to_have_count(count)
    (
        under_way.get_by_role("button", name="Undo all") if count > 1 else under_way.get_by_role("button")
    ).click()
    expect(page.get_by_role("status").first).to_contain_text("undone")
    console.no_complaints()


def test_all_of_a_page_are_chosen_at_once(console: Window):
    console.go("/requests")
    page = console.page
    page.get_by_label("Choose all on this page").check()
    boxes = page.get_by_role("article").get_by_role("checkbox")
    for number in range(boxes.count()):
        expect(boxes.nth(number)).to_be_checked()


def test_what_a_rule_left_to_a_person_is_narrowed_down(console: Window):
    page = console.page
    console.go("/requests")
    page.get_by_label("Who", exact=True).select_option("flagged")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("article").first).to_contain_text("left this to a person")
    console.look("requests-flagged")
    console.check()


def test_the_history_says_what_became_of_requests(console: Window):
    page = console.page
    console.go("/requests/history")
    expect(page.get_by_role("table")).to_contain_text("let-teachers-in")
    console.look("requests-history")
    console.check()


def test_a_rule_is_tried_on_the_past_before_it_is_saved(console: Window):
    page = console.page
    console.go("/requests/back-test")
    page.get_by_label("Rule", exact=True).select_option("let-teachers-in")
    page.get_by_role("button", name="Take its words").click()
    page.get_by_label("Answers hold one of these").fill("certified teacher\nfriend*")
    page.get_by_role("button", name="Try it").click()
    expect(page.get_by_role("heading", name="What it would have done")).to_be_visible()
    expect(page.get_by_role("table")).to_contain_text("would let them in")
    console.look("requests-back-test")
    console.check()
    page.get_by_role("button", name="Save the rule like this").click()
    expect(page.get_by_role("status").first).to_contain_text("The rule counts from now on")
    console.no_complaints()


@pytest.mark.parametrize("kind", ["dark", "phone", "hebrew"])
def test_the_pages_hold_in_every_light_and_size(kind: str, open_window: Open, owner: StorageState):
    with open_window(kind, owner) as window:
        for path in ("/requests", "/requests/history", "/requests/back-test"):
            window.go(path)
            window.look(path.strip("/").replace("/", "-"))
            window.check()


def test_a_group_admin_sees_requests_of_their_groups_alone(
    open_window: Open, log_in_as: Callable[..., StorageState]
):
    with open_window("desktop", log_in_as("group_admin", SWIMMERS)) as window:
        window.go("/requests")
        expect(window.page.get_by_role("article").first).to_contain_text(SWIMMERS)
        expect(window.page.get_by_text(RUNNERS)).to_have_count(0)
        window.check()


def test_without_script_somebody_is_declined_with_a_reason_and_taken_back(plain: Window):
    page = plain.page
    plain.go("/requests")
    card = page.get_by_role("article").last
    card.locator("summary").click()
    card.get_by_label("What they are told").fill("Another time.")
    card.get_by_role("button", name="Decline", exact=True).click()
    expect(page.get_by_role("region", name="Decided just now")).to_contain_text("Another time.")
    page.get_by_role("button", name="Undo", exact=True).last.click()
    expect(page.get_by_role("status").first).to_contain_text("undone")
