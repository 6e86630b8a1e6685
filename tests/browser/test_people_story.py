"""People: find somebody, see why they got a letter or not, end their letters, take their data, forget them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, StorageState, expect

from admin.demo.day import RUNNERS
from admin.demo.stage import Stage
from tests.browser.conftest import Open
from tests.browser.window import Window, log_in_as


def find(window: Window, term: str) -> None:
    window.go("/people")
    window.inside.get_by_label("Name, address, phone number or member id").fill(term)
    window.inside.get_by_role("button", name="Find").click()


def test_somebody_is_found_and_the_question_why_is_answered(console: Window):
    page = console.page
    console.go("/people")
    console.look("people")
    console.check()
    console.walk()
    find(console, "Hana Park")
    expect(page.get_by_role("heading", level=1)).to_have_text("Hana Park")
    assert "Hana" not in page.url
    console.look("person")
    console.check()
    console.walk()
    page.get_by_label("Which one").select_option("automation:welcome")
    page.get_by_role("button", name="Tell me").click()
    expect(page.locator("#answer .note")).to_be_visible()
    console.look("person-why")
    console.check()


def test_nobody_and_nonsense_are_answered_kindly(console: Window):
    find(console, "Nobody Whatsoever")
    expect(console.page.get_by_role("heading", name="Nobody is found")).to_be_visible()
    console.check()
    console.expected.add(422)
    find(console, "030 123456")
    expect(console.page.get_by_text("Without a country code")).to_be_visible()
    console.look("people-wrong")
    console.check()


def test_letters_are_ended_and_that_is_lifted(console: Window):
    page = console.page
    find(console, "Ivan Kaya")
    page.get_by_label("Which letters").select_option("all")
    page.get_by_role("button", name="End these letters").click()
    expect(page.get_by_text("These letters have ended.")).to_be_visible()
    expect(page.get_by_text("would not go")).to_have_count(2)
    console.look("person-ended")
    console.check()
    page.get_by_role("button", name="Lift this").click()
    expect(page.get_by_text("Lifted.")).to_be_visible()
    expect(page.get_by_role("button", name="Lift this")).to_have_count(0)


def test_somebody_takes_their_data_along_and_is_forgotten(console: Window):
    page = console.page
    find(console, "Zlata Nagy")
    for name, ending in (("Download to read", ".html"), ("Download as JSON", ".json")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename.endswith(ending)
    page.get_by_role("link", name="Forget them").click()
    console.look("person-erase")
    console.check()
    page.get_by_label("Type Zlata Nagy to go on").fill("zlata nagy")
    page.get_by_role("button", name="Forget them for good").click()
    expect(page.get_by_text("They are forgotten")).to_be_visible()
    expect(page.get_by_role("heading", name="End letters to them")).to_have_count(0)
    console.check()


@pytest.mark.parametrize("kind", ["phone", "dark", "hebrew"])
def test_a_person_is_good_to_look_at(open_window: Open, owner: StorageState, kind: str):
    with open_window(kind, owner) as window:
        window.go("/people")
        window.look("people")
        window.check()
        window.inside.locator("#lately ~ ul a").first.click()
        window.inside.locator("#why").wait_for()
        window.look("person")
        window.check()


def test_without_script_the_answer_is_a_page(plain: Window):
    find(plain, "Hana Park")
    plain.page.get_by_label("Which one").select_option("automation:welcome")
    plain.page.get_by_role("button", name="Tell me").click()
    expect(plain.page.locator("#answer .note")).to_be_visible()


def test_a_group_s_admin_finds_their_own_people_alone(stage: Stage, open_window: Open, browser: Browser):
    cookies = log_in_as(stage, browser, "group_admin", RUNNERS)
    [group] = [group for group in stage.state()["groups"] if group["name"] == RUNNERS]
    seen = {
        row.get("siteMemberId", row.get("memberId")) for row in [*group["members"], *group["join_requests"]]
    }
    stranger = next(member for member in stage.state()["members"] if member["id"] not in seen)
    with open_window("desktop", cookies) as window:
        find(window, stranger["loginEmail"])
        expect(window.page.get_by_role("heading", name="Nobody is found")).to_be_visible()
        window.check()
