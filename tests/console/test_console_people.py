"""People in the console: who is found by whom, what one person's page tells, and what may be decided about them."""

from __future__ import annotations

import json
import logging
import re
from datetime import timedelta

import pytest

from admin.console.pages import people as pages
from core import events as kinds
from core.community import Answer, Group, GroupId, Member, MemberId, Membership, Subscription
from core.consent import ADMINS_REASONS
from core.errors import RetryableError
from integrations.store.database import Database
from integrations.store.people import People
from integrations.store.reach import Reach
from integrations.store.suppressions import suppress
from integrations.store.tokens import Role
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import ANN, RUNNERS, SITE, WELCOME, YOGA, Clock, House, a_house, an_event

BOB = MemberId("m-bob")
TRADERS = GroupId("g-traders")
MINE = Reach(frozenset({SITE}), frozenset({RUNNERS}))


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    """Ann joined the runners and was welcomed; Bob trades."""
    found = a_house(database, clock, WELCOME + YOGA)
    found.wix.groups[TRADERS] = Group(TRADERS, "Traders")
    found.wix.members[ANN] = Member(ANN, "APPROVED", "ann@example.com", "Ann", last_name="Lee")
    found.wix.members[BOB] = Member(BOB, "APPROVED", "bob@example.com", "Bob", last_name="Stone")
    found.wix.memberships[TRADERS, BOB] = Membership("joined")
    found.wix.memberships[RUNNERS, ANN] = Membership("joined", joined_at=clock() - timedelta(hours=1))
    found.wix.answers[RUNNERS, ANN] = (Answer("Why?", "Long runs & <b>yoga</b>"),)
    found.hear(an_event(clock))
    found.work()
    return found


def visitor(house: House, role: Role = Role.MANAGER, reach: Reach = Reach()) -> Visitor:  # noqa: B008 (a value)
    return a_visitor(house, *pages.PAGES, role=role, reach=reach)


def stops(house: House, member: MemberId = ANN) -> set[tuple[str, str]]:
    hashes = house.services.hashes.of(house.wix.members[member].email)
    records = People(house.database).records(SITE, member, hashes)
    return {(row.scope, row.cause) for row in records.suppressions}


# Finding


def test_one_person_who_is_found_is_shown_at_once(house: House):
    somebody = visitor(house)

    answer = somebody.post("/people", {"term": "Ann Lee"})

    assert answer.status_code == 303
    assert answer.headers["location"].endswith(f"/people/{ANN}")
    assert "<h1><bdi>Ann Lee</bdi></h1>" in somebody.follow(answer).text


def test_several_are_listed_with_what_tells_them_apart(house: House):
    twin = MemberId("m-twin")
    house.wix.members[twin] = Member(twin, "APPROVED", "other@example.org", "Ann", last_name="Lee")

    page = visitor(house).post("/people", {"term": "Ann Lee"})

    assert page.status_code == 200
    seen = text_of(page)
    assert "2 people are found" in seen
    assert "a…@example.com" in seen
    assert "o…@example.org" in seen
    assert "Trail Runners" in seen
    assert "ann@example.com" not in page.text


def test_what_was_typed_is_shown_again_with_what_is_wrong(house: House):
    page = visitor(house).post("/people", {"term": "030 <1234567>@"})

    assert page.status_code == 422
    assert 'aria-invalid="true"' in page.text
    assert 'value="030 &lt;1234567&gt;@"' in page.text


def test_nobody_found_says_what_to_try(house: House):
    assert "try the address instead" in text_of(visitor(house).post("/people", {"term": "Nobody Here"}))


def test_words_that_name_people_stand_in_no_log(house: House, caplog: pytest.LogCaptureFixture):
    somebody = visitor(house)
    with caplog.at_level(logging.DEBUG):
        somebody.follow(somebody.post("/people", {"term": "ann@example.com"}))
    told = caplog.text + str([record.__dict__ for record in caplog.records if record.name != "httpx"])
    assert "ann@example.com" not in told
    assert "Ann Lee" not in told


def test_people_lately_written_to_are_one_link_away(house: House, database: Database, clock: Clock):
    assert f'/people/{ANN}"><bdi>Ann Lee</bdi>' in visitor(house).get("/people").text
    for_others = visitor(house, Role.GROUP_ADMIN, Reach(frozenset({SITE}), frozenset({TRADERS}))).get(
        "/people"
    )
    assert "Ann Lee" not in for_others.text
    assert "Nobody was written to yet" in for_others.text


def test_a_group_admin_finds_and_sees_people_of_their_groups_alone(house: House):
    captain = visitor(house, Role.GROUP_ADMIN, MINE)

    assert captain.post("/people", {"term": "ann@example.com"}).status_code == 303
    assert "Nobody is found" in text_of(captain.post("/people", {"term": "bob@example.com"}))
    assert captain.get(f"/people/{BOB}").status_code == 404
    assert captain.get(f"/people/{BOB}/why?about=automation:welcome").status_code == 404
    assert (
        captain.post(f"/people/{BOB}/suppress", {"scope": f"group:{RUNNERS}", "reason": "asked"}).status_code
        == 404
    )


# One person


def test_the_page_tells_groups_answers_letters_and_their_story(house: House):
    page = visitor(house).get(f"/people/{ANN}")

    seen = text_of(page)
    assert "Planned by welcome , because on 3 May 2026, 12:00 they joined." in seen
    assert "Long runs & <b>yoga</b>" in seen
    assert "<b>yoga" not in page.text
    assert "said yes to letters; letters arrive" in seen
    assert seen.count("would go now") == 2
    assert "a…@example.com" in seen
    assert "ann@example.com" not in page.text


def test_a_refusal_is_told_with_its_reason_and_where_it_comes_from(house: House):
    house.wix.subscriptions["ann@example.com"] = Subscription("UNSUBSCRIBED", "VALID")
    house.hear(an_event(house.clock, id="e2", type=kinds.JOIN_REQUESTED))
    house.work()

    seen = text_of(visitor(house).get(f"/people/{ANN}"))

    assert seen.count("would not go unsubscribed (Wix: UNSUBSCRIBED)") == 2
    assert "said no to letters" in seen
    assert "Planned by yoga-offer , because on 3 May 2026, 12:00 they asked to join. Not sent: unsub" in seen


def test_a_page_is_there_while_wix_is_away_and_says_so(house: House):
    for name in ("get_members", "get_membership", "list_groups", "list_answers", "get_site"):
        house.wix.fails[name] = [RetryableError("Wix is away")] * 9

    seen = text_of(visitor(house).get(f"/people/{ANN}"))

    assert "Wix does not answer now" in seen
    assert "whether they are in is not known" in seen
    assert "which is not known now" in seen
    assert "Planned by welcome" in seen


@pytest.mark.parametrize("script", [True, False])
def test_did_they_get_it_is_answered_with_and_without_script(house: House, script: bool):
    headers = {"hx-request": "true"} if script else {}
    page = visitor(house).get(f"/people/{ANN}/why?about=automation:welcome", headers=headers)

    assert page.status_code == 200
    assert "Yes. Trail Runners : the mail server took it on 3 May 2026, 12:00 ." in text_of(page)
    assert ("<h1>" in page.text) is not script


def test_what_was_never_set_off_is_explained(house: House):
    seen = text_of(visitor(house).get(f"/people/{ANN}/why?about=automation:yoga-offer"))

    assert "No. It writes to somebody who asked to join, and of nothing like that Usher has heard." in seen
    assert visitor(house).get(f"/people/{ANN}/why?about=moon").status_code == 422
    assert visitor(house).get(f"/people/{ANN}/why").status_code == 303


# Deciding


def test_letters_are_ended_and_that_is_lifted_from_the_page(house: House):
    somebody = visitor(house)

    done = somebody.post(f"/people/{ANN}/suppress", {"scope": "promotional", "reason": "asked"})
    page = somebody.follow(done)

    assert "These letters have ended." in text_of(page)
    assert f"an admin ended these letters: {ADMINS_REASONS['asked']}" in text_of(page)
    assert stops(house) == {("promotional", "admin")}
    again = somebody.post(f"/people/{ANN}/suppress", {"scope": "promotional", "reason": "asked"})
    assert "An admin has ended these letters already." in text_of(somebody.follow(again))

    hidden = dict(re.findall(r'type="hidden" name="(scope|cause)" value="([^"]+)"', page.text))
    page = somebody.follow(somebody.post(f"/people/{ANN}/release", hidden))
    assert "Lifted." in text_of(page)
    assert stops(house) == set()


def test_every_reason_of_the_core_has_words_here():
    assert set(pages.REASONS) == set(ADMINS_REASONS)


@pytest.mark.parametrize(("scope", "reason"), [("", "asked"), ("all", ""), ("group:", "x")])
def test_a_form_that_is_wrong_comes_back_with_the_mistake_beside_its_field(
    house: House, scope: str, reason: str
):
    page = visitor(house).post(f"/people/{ANN}/suppress", {"scope": scope, "reason": reason})

    assert page.status_code == 422
    assert 'aria-invalid="true"' in page.text
    assert stops(house) == set()


def test_what_the_person_said_has_no_button_and_cannot_be_lifted(house: House):
    known = house.services.hashes.of("ann@example.com")[0]
    house.services.suppressions.unsubscribe(SITE, ANN, known, "one click")
    somebody = visitor(house)

    page = somebody.get(f"/people/{ANN}")

    assert "only they can take that back" in text_of(page)
    assert "Lift this" not in page.text
    answer = somebody.post(f"/people/{ANN}/release", {"scope": "promotional", "cause": "unsubscribed"})
    assert answer.status_code == 409
    assert "only they can take that back" in text_of(answer)
    assert stops(house) == {("promotional", "unsubscribed")}


def test_a_group_admin_ends_letters_of_their_groups_alone(house: House):
    captain = visitor(house, Role.GROUP_ADMIN, MINE)
    page = captain.get(f"/people/{ANN}").text

    assert 'value="promotional"' not in page
    assert f'value="group:{RUNNERS}"' in page
    assert "Their data" not in page
    assert captain.post(f"/people/{ANN}/suppress", {"scope": "all", "reason": "asked"}).status_code == 403
    assert (
        captain.post(f"/people/{ANN}/suppress", {"scope": f"group:{RUNNERS}", "reason": "asked"}).status_code
        == 303
    )
    assert stops(house) == {(f"group:{RUNNERS}", "admin")}
    with house.database.begin() as tx:
        suppress(tx, SITE, f"member:{ANN}", "all", cause="dead", reason="the address is dead")
    assert captain.get(f"/people/{ANN}").text.count("Lift this") == 1
    assert captain.post(f"/people/{ANN}/release", {"scope": "all", "cause": "dead"}).status_code == 403


@pytest.mark.parametrize(
    ("role", "reach", "let_in"),
    [
        (Role.OWNER, Reach(), {"suppress", "release", "export", "erase"}),
        (Role.MANAGER, Reach(), {"suppress", "release", "export", "erase"}),
        (Role.GROUP_ADMIN, MINE, {"suppress", "release"}),
        (Role.READER, Reach(), set()),
    ],
)
def test_who_may_do_what(house: House, role: Role, reach: Reach, let_in: set[str]):
    somebody = visitor(house, role, reach)
    about = {"scope": f"group:{RUNNERS}", "reason": "asked", "cause": "admin", "typed": "not them"}

    answers = {
        what: somebody.post(f"/people/{ANN}/{what}", about)
        for what in ("suppress", "release", "export", "erase")
    }

    assert {what for what, answer in answers.items() if answer.status_code != 403} == let_in
    page = somebody.get(f"/people/{ANN}").text
    assert ("End letters to them" in page) is ("suppress" in let_in)
    assert ("Download as JSON" in page) is ("export" in let_in)


def test_nothing_is_done_without_the_token_of_the_form(house: House):
    somebody = visitor(house)
    for what in ("suppress", "release", "export", "erase"):
        answer = somebody.post(
            f"/people/{ANN}/{what}", {"csrf": "x", "scope": "all", "reason": "asked", "typed": ANN}
        )
        assert answer.status_code == 403
    assert stops(house) == set()


def test_their_data_is_a_file_to_read_or_for_programs(house: House):
    somebody = visitor(house)

    told = somebody.post(f"/people/{ANN}/export", {"format": "json"})
    page = somebody.post(f"/people/{ANN}/export", {"format": "html"})

    assert told.headers["content-disposition"] == 'attachment; filename="person.json"'
    assert [letter["automation"] for letter in json.loads(told.content)["letters"]] == ["welcome"]
    assert page.headers["content-disposition"] == 'attachment; filename="person.html"'
    assert "What Usher keeps of one member" in page.text
    assert "took a copy of their data" in text_of(somebody.get(f"/people/{ANN}"))


@pytest.mark.parametrize("typed", ["", "Ann", "bob stone", "yes"])
def test_nobody_is_forgotten_by_a_slip(house: House, typed: str):
    page = visitor(house).post(f"/people/{ANN}/erase", {"typed": typed})

    assert page.status_code == 422
    assert "Nothing was erased." in text_of(page)
    assert stops(house) == set()


@pytest.mark.parametrize("typed", ["Ann Lee", " ann  lee ", ANN])
def test_somebody_is_forgotten_when_their_name_is_typed(house: House, typed: str):
    somebody = visitor(house)
    asked = somebody.get(f"/people/{ANN}/erase")
    assert "Type Ann Lee to go on" in text_of(asked)
    assert "keyed hash" in text_of(asked)

    page = somebody.follow(somebody.post(f"/people/{ANN}/erase", {"typed": typed}))

    assert "They are forgotten" in text_of(page)
    assert "They asked to be forgotten." in text_of(page)
    assert "End letters to them" not in page.text
    assert ("all", "forgotten") in stops(house)


def test_a_nameless_member_is_forgotten_by_their_id(house: House):
    house.wix.members[ANN] = Member(ANN, "APPROVED", "ann@example.com")
    somebody = visitor(house)

    assert somebody.post(f"/people/{ANN}/erase", {"typed": ""}).status_code == 422
    assert somebody.post(f"/people/{ANN}/erase", {"typed": ANN}).status_code == 303
