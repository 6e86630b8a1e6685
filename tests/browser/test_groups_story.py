"""Groups: see how they fare, make the report, open one from a list, give many of them the same rules."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from playwright.sync_api import StorageState, expect

from admin.demo.day import CHOIR, GARDEN, RUNNERS, YOGA
from tests.browser.conftest import Open
from tests.browser.window import Window


def test_the_groups_are_searched_and_one_is_looked_at(console: Window):
    page = console.page
    console.go("/groups")
    table = page.get_by_role("table")
    expect(table.get_by_role("link", name=RUNNERS)).to_be_visible()
    console.look("groups")
    console.check()
    page.get_by_role("searchbox", name="Name").press_sequentially(YOGA[:4])
    expect(table.get_by_role("row")).to_have_count(2)
    page.get_by_role("searchbox", name="Name").fill("")
    page.get_by_label("First come").select_option("members")
    expect(table.get_by_role("row").nth(2)).to_be_visible()
    console.walk()
    table.get_by_role("link", name=RUNNERS).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(RUNNERS)
    expect(page.get_by_role("img", name="Members")).to_be_visible()
    page.get_by_text("The numbers as a table").click()
    console.look("group")
    console.check()


def test_a_report_is_made_and_appears_by_itself(console: Window):
    page = console.page
    console.go("/groups/report")
    page.get_by_role("button", name="Make a new one").click()
    expect(page.get_by_role("heading", name="Most members")).to_be_visible()
    expect(page.get_by_text("A report is being made")).to_have_count(0)
    console.look("report")
    console.check()
    for name, ending in (("As a page", ".html"), ("As a table (CSV)", ".csv")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert download.value.suggested_filename.endswith(ending)


def test_a_group_is_opened_from_a_file_and_what_was_wrong_is_fixed(console: Window, tmp_path: Path):
    page = console.page
    console.go("/groups")
    page.get_by_role("link", name="Open a group from a list").click()
    page.get_by_label("Name, nickname or address of a member").fill("aiko.abadi@example.com")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("radio", name="Aiko Abadi")).to_be_checked()
    page.get_by_label("What it is called").fill("Book Club")
    people = tmp_path / "people.csv"
    people.write_text("Name,Email\nAnna Haddad,\n,no address\n", encoding="utf-8")
    page.get_by_label("A file: CSV").set_input_files(people)
    console.expected.add(422)
    page.get_by_role("button", name="Look who is meant").click()
    expect(page.get_by_text("An email address must have an @-sign.")).to_be_visible()
    expect(page.get_by_label("What it is called")).to_have_value("Book Club")
    console.look("list-unreadable")
    console.check()

    people.write_text("Name,Email\n,aiko.abadi@example.com\n,nobody@example.com\n", encoding="utf-8")
    page.get_by_label("A file: CSV").set_input_files(people)
    page.get_by_role("button", name="Look who is meant").click()
    expect(page.get_by_role("heading", name="Rows to fix")).to_be_visible()
    expect(page.get_by_text("is not there yet: it will be made")).to_be_visible()
    console.look("list-preview")
    console.check()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the file to fix").click()
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["email"], row["reason"]) == ("nobody@example.com", "nobody on the site has this address")
    page.get_by_role("button", name="Do it").click()
    expect(page.get_by_role("link", name="Book Club")).to_be_visible()
    expect(page.get_by_text("was made.")).to_be_visible()


def test_rules_are_copied_to_a_group_and_put_back(console: Window):
    page = console.page
    console.go("/groups/rollout")
    console.check()
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Title").first.fill("Leave no trace")
    page.get_by_label("What it says").first.fill("Take home what you brought.")
    page.get_by_role("button", name="More room").click()
    expect(page.get_by_label("Title").first).to_have_value("Leave no trace")
    page.get_by_role("radio", name="Those that I choose").check()
    page.get_by_text("Choose groups", exact=True).click()
    for name in (CHOIR, GARDEN):
        page.get_by_role("checkbox", name=name).check()
    console.look("rollout")
    console.check()
    page.get_by_role("button", name="See what would change").click()
    expect(page.get_by_role("heading", name="What would change")).to_be_visible()
    expect(page.get_by_text("added:").first).to_be_visible()
    console.look("rollout-preview")
    console.check()
    page.get_by_role("button", name="Do it").click()
    expect(page.get_by_role("heading", name="What was changed")).to_be_visible()
    page.get_by_role("button", name="Put everything back").click()
    expect(page.get_by_text("It puts back what this rollout replaced.")).to_be_visible()


def test_a_group_s_admin_sees_their_group_and_nothing_for_many(open_window: Open, log_in_as):  # type: ignore[no-untyped-def]
    cookies: StorageState = log_in_as("group_admin", RUNNERS)
    with open_window("desktop", cookies) as window:
        window.go("/groups")
        expect(window.page.get_by_role("table").get_by_role("row")).to_have_count(2)
        expect(window.page.get_by_role("link", name="Report")).to_have_count(0)
        window.page.get_by_role("table").get_by_role("link", name=RUNNERS).click()
        expect(window.page.get_by_role("heading", level=1)).to_contain_text(RUNNERS)
        window.check()
        window.expected.add(403)
        window.go("/groups/rollout")
        expect(window.page.get_by_text("Your role does not open this page.")).to_be_visible()


@pytest.mark.parametrize("kind", ["dark", "phone", "hebrew", "plain", "frame"])
def test_groups_are_the_same_however_they_are_looked_at(open_window: Open, owner: StorageState, kind: str):
    with open_window(kind, None if kind == "frame" else owner) as window:
        for path, name in (("/groups", "groups"), ("/groups/report", "report"), ("/groups/new", "new-group")):
            window.go(path)
            expect(window.inside.locator("h1")).to_be_visible()
            window.look(name)
            window.check()
        window.go("/groups")
        window.inside.get_by_role("link", name=RUNNERS).click()
        expect(window.inside.locator("h1")).to_contain_text(RUNNERS)
        window.look("group")
        window.check()
