"""Jobs in the console: the list, how far each is, and how it goes on."""

from __future__ import annotations

import csv
import io
import re
from html import unescape

import pytest

from admin.console.pages import jobs
from admin.jobs.described import COLUMNS
from core.community import Group, GroupId, Member, MemberId, Membership, Rule, SiteId, Subscription
from core.errors import MailDeferredError, MailRefusedError
from integrations.store.database import Database
from integrations.store.tokens import Role
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house

CHESS = GroupId("c0ffee00-1c5d-4f7a-a1c8-7d4b0e6f3a52")
LETTER = {"group": RUNNERS, "email": "welcome", "purpose": "onboarding"}
BOB = MemberId("m-bob")


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    found.wix.groups[CHESS] = Group(CHESS, "Chess")
    found.wix.members[BOB] = Member(BOB, "APPROVED", "bob@example.com", "Bob")
    found.wix.memberships[RUNNERS, BOB] = Membership("joined")
    found.wix.subscriptions["bob@example.com"] = Subscription("SUBSCRIBED", "VALID")
    return found


@pytest.fixture
def visitor(house: House) -> Visitor:
    return a_visitor(house, *jobs.PAGES)


def token(visitor: Visitor, id: str) -> dict[str, str]:  # noqa: A002 (the row's own word)
    found = re.search(r'name="token" value="(\w+)"', visitor.get(f"/jobs/{id}").text)
    return {"token": found[1] if found else ""}


def test_without_a_job_the_list_says_what_to_do(visitor: Visitor, house: House):
    page = visitor.get("/jobs")

    assert "Nothing was set off yet" in text_of(page)
    assert "/write" in page.text
    looker = a_visitor(house, *jobs.PAGES, role=Role.READER).get("/jobs")
    assert 'href="/admin/s/' + SITE + '/write"' not in looker.text


def test_jobs_are_listed_newest_first_page_by_page_and_by_kind(
    visitor: Visitor, house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "AT_ONCE", 2)
    ids = []
    for kind, params in (
        ("group_email", LETTER),
        ("interest_email", {"email": "yoga-offer", "answers": {"any": ["yoga"]}}),
        ("rules_rollout", {"rules": [{"title": "Be kind"}]}),
    ):
        ids.append(house.ask_for(kind, **params))
        house.clock.move(seconds=1)

    first = visitor.get("/jobs")
    [older] = re.findall(r'rel="next" href="([^"]*)"', first.text)
    second = visitor.get(unescape(older))

    listed = re.findall(r'class="name" href="[^"]*/jobs/(\w+)"', first.text + second.text)
    assert sorted(listed) == sorted(ids)
    assert len(set(listed)) == 3
    assert "“welcome” to Trail Runners" in text_of(visitor.get("/jobs?kind=group_email"))
    assert "yoga" not in text_of(visitor.get("/jobs?kind=group_email"))


def test_jobs_of_another_site_are_not_there(visitor: Visitor, house: House):
    row, _ = house.services.jobs.create(SiteId("another-site"), "group_email", LETTER, who="tests")

    assert row.id not in visitor.get("/jobs").text
    for path in ("", "/live", "/rows", "/rows.csv", "/letter"):
        assert visitor.get(f"/jobs/{row.id}{path}").status_code == 404
    for name in ("confirm", "cancel", "rollback"):
        assert visitor.post(f"/jobs/{row.id}/{name}", {"key": "k"}).status_code == 404
    assert house.job(row.id).state == "previewing"


def test_a_page_asks_how_far_its_job_is_until_there_is_nothing_more_to_see(visitor: Visitor, house: House):
    row, _ = house.services.jobs.create(SITE, "group_email", LETTER, who="tests")
    page = visitor.get(f"/jobs/{row.id}")
    [address] = re.findall(r'hx-get="([^"]*)"', page.text)
    assert 'hx-trigger="every 2s"' in page.text

    again = visitor.get(unescape(address))
    assert "hx-refresh" not in again.headers
    assert "<html" not in again.text
    house.turn()
    now = visitor.get(unescape(address))

    assert now.headers["hx-refresh"] == "true"
    assert "hx-get" not in visitor.get(f"/jobs/{row.id}").text


def test_a_job_is_paused_goes_on_and_ends_as_it_is_told(visitor: Visitor, house: House):
    id_ = house.ask_for("group_email", **LETTER)
    visitor.post(f"/jobs/{id_}/confirm", token(visitor, id_))
    running = visitor.get(f"/jobs/{id_}")
    assert "It is under way. running" in text_of(running)
    assert "0 of 2." in text_of(running)
    assert "The rest will be done in a moment." in text_of(running)

    said = visitor.follow(visitor.post(f"/jobs/{id_}/pause"))
    assert "Paused. What is under way is finished, and the rest waits." in text_of(said)
    house.turn()
    assert house.mail.letters == []
    visitor.post(f"/jobs/{id_}/resume")
    assert house.job(id_).state == "running"
    said = visitor.follow(visitor.post(f"/jobs/{id_}/cancel"))
    assert "nothing more is begun" in text_of(said)
    house.turn()

    assert house.mail.letters == []
    assert "the job was cancelled 2" in text_of(visitor.get(f"/jobs/{id_}"))
    late = visitor.follow(visitor.post(f"/jobs/{id_}/pause"))
    assert "Nothing was changed: the job is cancelled, not running." in text_of(late)


def test_what_failed_is_tried_again(visitor: Visitor, house: House):
    house.mail.fails = [MailRefusedError("550 no")]
    id_ = house.ask_for("group_email", **LETTER)
    house.confirm(id_)
    page = visitor.get(f"/jobs/{id_}")
    assert "1 sent 0 not sent 1 failed" in text_of(page)
    assert "550 no" in text_of(visitor.get(f"/jobs/{id_}/rows?state=failed"))

    visitor.post(f"/jobs/{id_}/retry-failed")
    house.turn()

    assert len(house.mail.letters) == 2
    assert "2 of 2." in text_of(visitor.get(f"/jobs/{id_}"))


def test_whoever_joins_later_is_written_to_until_that_is_ended(visitor: Visitor, house: House):
    id_ = house.ask_for("group_email", **LETTER, also_later_joiners=True)
    house.confirm(id_)
    page = visitor.get(f"/jobs/{id_}")
    assert "Whoever joins the group from now on gets this letter too" in text_of(page)
    assert "Write to nobody more" in text_of(page)

    visitor.post(f"/jobs/{id_}/cancel")

    assert "Write to nobody more" not in text_of(visitor.get(f"/jobs/{id_}"))
    assert house.job(id_).later_group is None


def test_a_preview_in_which_nobody_gets_a_letter_cannot_be_sent(visitor: Visitor, house: House):
    id_ = house.ask_for("group_email", group=CHESS, email="welcome", purpose="onboarding")

    page = visitor.get(f"/jobs/{id_}")

    assert "Nobody would get this letter." in text_of(page)
    assert "/confirm" not in page.text


def test_a_job_that_failed_says_why(visitor: Visitor, house: House):
    id_ = house.ask_for("group_email", group="No such group", email="welcome", purpose="onboarding")

    shown = text_of(visitor.get(f"/jobs/{id_}"))

    assert "It could not be finished. failed" in shown
    assert "No such group" in shown


def test_a_letter_that_was_changed_or_removed_since_does_not_break_its_page(visitor: Visitor, house: House):
    row, _ = house.services.jobs.create(SITE, "group_email", {**LETTER, "email": "gone"}, who="tests")

    page = visitor.get(f"/jobs/{row.id}")

    assert page.status_code == 200
    assert "This letter cannot be shown any more:" in text_of(page)
    assert visitor.get(f"/jobs/{row.id}/letter").status_code == 404


def test_the_rows_of_a_job_are_downloaded_as_the_api_gives_them(visitor: Visitor, house: House):
    id_ = house.ask_for("group_email", **LETTER)

    answer = visitor.get(f"/jobs/{id_}/rows.csv")

    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == list(COLUMNS)
    assert {row[1] for row in rows[1:]} == {ANN, BOB}
    assert answer.headers["content-disposition"] == f'attachment; filename="job-{id_}.csv"'


def test_groups_of_a_rollout_are_listed_by_name_and_put_back(visitor: Visitor, house: House):
    house.wix.rules[CHESS] = (Rule("Be kind"),)
    id_ = house.ask_for("rules_rollout", rules=[{"title": "Be kind"}])
    page = visitor.get(f"/jobs/{id_}")
    [mark] = re.findall(r"rows\?why=(\w+)", page.text)
    left_out = text_of(visitor.get(f"/jobs/{id_}/rows?why={mark}"))
    assert "Chess" in left_out
    assert "Trail Runners" not in left_out
    house.confirm(id_)
    assert "Put everything back" in text_of(visitor.get(f"/jobs/{id_}"))

    first, again = (visitor.post(f"/jobs/{id_}/rollback", {"key": f"rollback-{id_}"}) for _ in range(2))

    assert first.headers["location"] == again.headers["location"]
    assert "Put back the rules as they were" in text_of(visitor.follow(first))


def test_a_groups_admin_has_no_rollback(house: House):
    id_ = house.ask_for("rules_rollout", rules=[{"title": "Be kind"}])
    admin = a_visitor(house, *jobs.PAGES, role=Role.GROUP_ADMIN)

    assert admin.post(f"/jobs/{id_}/rollback", {"key": "k"}).status_code == 403


def test_a_forged_place_in_a_list_is_refused(visitor: Visitor, house: House):
    id_ = house.ask_for("group_email", **LETTER)

    assert visitor.get("/jobs?after=x").status_code == 422
    assert visitor.get(f"/jobs/{id_}/rows?after=x").status_code == 422


def test_letters_that_a_mail_server_put_off_are_said_to_wait(visitor: Visitor, house: House):
    house.mail.fails = [MailDeferredError("451 come again later", retry_after_s=1800)]
    id_ = house.ask_for("group_email", **LETTER)
    house.confirm(id_)

    shown = text_of(visitor.get(f"/jobs/{id_}"))

    assert "1 of 2. Mail servers asked to come again later with the rest: the next try is in" in shown
    assert "deferred" in {row.state for row in house.services.ledger.letters()}
