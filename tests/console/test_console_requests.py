"""The pages about requests to join, over a real database: what they show, whom they let do what, and what they say."""

from __future__ import annotations

import re

import httpx
import pytest

from admin.console.pages import requests as pages
from admin.office import Office
from core.community import Answer, Group, GroupId, Member, MemberId, Membership
from core.errors import ForbiddenError, RetryableError
from integrations.store.database import Database
from integrations.store.reach import Reach
from integrations.store.tokens import Role
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import RUNNERS, SITE, Clock, House, a_house
from tests.test_requests import CHOIR, OF_OTHERS, RULES, asks, told

BO, CY = MemberId("m-bo"), MemberId("m-cy")
OF_RUNNERS = Reach(frozenset({SITE}), frozenset({RUNNERS}))

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock, RULES)
    found.wix.groups = {
        RUNNERS: Group(RUNNERS, "Trail Runners", "PRIVATE"),
        CHOIR: Group(CHOIR, "Choir", "PRIVATE"),
    }
    return found


def visitor(house: House, role: Role = Role.MANAGER, **more: object) -> Visitor:
    return a_visitor(house, *pages.PAGES, role=role, **more)  # type: ignore[arg-type]


def base_of(answer: httpx.Response) -> str:
    """The version of the automations that a form is of."""
    return re.findall(r'name="base" value="(\d+)"', answer.text)[0]


def place(member: MemberId, group: GroupId = RUNNERS) -> str:
    return f"{group} {member}"


def test_a_request_shows_who_where_what_they_answered_and_what_the_rules_say(house: House):
    asks(house, BO, "A <b>teacher</b> of & yoga", hours=2)

    page = visitor(house).get("/requests")

    said = text_of(page)
    assert page.status_code == 200
    assert "Bo asks to join Trail Runners 2 hours ago" in said
    assert "let-teachers-in would let them in" in said
    assert '&lt;b&gt;<mark title="a word of a rule">teacher</mark>&lt;/b&gt; of &amp; yoga' in page.text
    assert " style=" not in page.text
    assert (
        " on"
        not in re.sub(r"<[^>]*>", lambda tag: re.sub(r'"[^"]*"', "", tag[0]), page.text).split("<main")[0]
    )


def test_answers_are_never_markup(house: House):
    asks(house, BO, "<script>alert(1)</script> teacher <img src=x onerror=alert(1)>", hours=2)
    house.wix.answers[RUNNERS, BO] = (
        *house.wix.answers[RUNNERS, BO], Answer("<i>Why</i>?", "plain"),
    )  # fmt: skip

    page = visitor(house).get("/requests")

    assert "<script>alert" not in page.text
    assert "<img src=x" not in page.text
    assert "<i>Why" not in page.text


def test_who_has_nobody_waiting_is_told_what_to_do_next(house: House):
    assert "Nobody waits" in text_of(visitor(house).get("/requests"))
    assert "No rule left anybody to you" in text_of(visitor(house).get("/requests?waits=flagged"))
    assert "No request yet" in text_of(visitor(house).get("/requests/history"))
    house.wix.groups.clear()
    assert "No private group" in text_of(visitor(house).get("/requests"))


def test_a_decision_is_made_shown_with_its_way_back_and_undone(house: House, clock: Clock):
    asks(house, BO, hours=1)
    ada = visitor(house)

    page = ada.follow(
        ada.post("/requests/decide", {"request": place(BO), "decision": "reject", "reason": " Full. "})
    )
    assert "1 request will be declined in a few seconds" in text_of(page)
    assert "Bo · Trail Runners will be declined in 15 seconds They are told: “ Full. ” Undo" in text_of(page)
    assert 'hx-trigger="every 2s"' in page.text
    [id_] = re.findall(r'name="id" value="(\w+)"', page.text)

    page = ada.follow(ada.post("/requests/undo", {"id": id_}))
    assert "1 decision was undone: Wix was told nothing" in text_of(page)
    assert "asks to join" in text_of(page)
    assert "under-way" in page.text
    assert "hx-get" not in page.text


def test_when_wix_has_it_the_page_says_why_it_cannot_be_undone(house: House, clock: Clock):
    asks(house, BO, hours=1)
    ada = visitor(house)
    page = ada.follow(ada.post("/requests/decide", {"request": place(BO), "decision": "approve"}))
    [id_] = re.findall(r'name="id" value="(\w+)"', page.text)
    clock.move(seconds=16)
    house.work()

    part = ada.get("/requests/under-way", headers={"HX-Request": "true"})
    assert "is in the group now. To take that back, remove them from the group in Wix." in text_of(part)
    assert "<html" not in part.text
    assert "hx-get" not in part.text
    page = ada.follow(ada.post("/requests/undo", {"id": id_}))
    assert "This cannot be undone any more: Wix has let them in already." in text_of(page)


def test_many_are_decided_at_once_and_undone_at_once(house: House):
    for name in ("a", "b", "c"):
        asks(house, MemberId(f"m-{name}"), hours=1)
    ada = visitor(house)

    page = ada.follow(
        ada.post(
            "/requests/decide",
            {"request": [place(MemberId("m-a")), place(MemberId("m-b")), "nonsense"], "decision": "approve"},
        )
    )
    assert "2 requests will be approved" in text_of(page)
    assert "1 request waits." in text_of(page)
    undo_all = re.search(r"<form[^>]*>(?:(?!</form>).)*Undo all 2", page.text, re.DOTALL)
    assert undo_all
    page = ada.follow(ada.post("/requests/undo", {"id": re.findall(r'name="id" value="(\w+)"', undo_all[0])}))
    assert "2 decisions were undone" in text_of(page)
    assert "3 requests wait." in text_of(page)


def test_choosing_nobody_decides_nothing(house: House):
    ada = visitor(house)
    page = ada.follow(ada.post("/requests/decide", {"decision": "approve"}))
    assert "Nobody was chosen: nothing was decided." in text_of(page)


def test_those_whose_answers_hold_some_words_are_found_and_chosen(house: House):
    asks(house, BO, "I sing tenor", hours=1)
    asks(house, CY, "I sing badly", hours=2)

    page = visitor(house).post("/requests/match", {"words": "sing*\n", "without": "badly"})

    assert "1 request matches, and is chosen below." in text_of(page)
    assert re.findall(r'name="request" value="([^"]+)"[^>]* checked', page.text) == [place(BO)]
    assert "m-cy" not in page.text
    wrong = visitor(house).post("/requests/match", {"words": "!!"})
    assert wrong.status_code == 422
    assert "holds no word" in text_of(wrong)
    assert "!!" in wrong.text
    assert visitor(house).post("/requests/match", {}).status_code == 422
    nobody = visitor(house).post("/requests/match", {"words": "bass"})
    assert "No answer holds these words" in text_of(nobody)


def test_a_reader_looks_and_decides_nothing(house: House):
    asks(house, BO, hours=1)
    reader = visitor(house, Role.READER)

    page = reader.get("/requests")

    assert "asks to join" in text_of(page)
    assert "Approve" not in text_of(page)
    assert reader.post("/requests/decide", {"request": place(BO), "decision": "approve"}).status_code == 403
    assert reader.post("/requests/undo", {"id": "x"}).status_code == 403
    assert reader.post("/requests/back-test/save", {"base": "0"}).status_code == 403
    assert house.services.outbox.calls() == []


def test_a_group_admin_sees_nothing_of_other_groups_on_any_page(house: House, clock: Clock):
    asks(house, BO, hours=1)
    asks(house, CY, "a teacher", group=CHOIR, hours=1)
    house.hear(told(clock, CY, "e", group=CHOIR, hours=1), told(clock, BO, "f", hours=1))
    house.work()
    ada = visitor(house)
    ada.post("/requests/decide", {"request": place(CY, CHOIR), "decision": "approve"})
    rik = visitor(house, Role.GROUP_ADMIN, reach=OF_RUNNERS, who="user rik")

    for path in ("/requests", "/requests/under-way", "/requests/history", "/requests/back-test"):
        page = rik.get(path)
        assert page.status_code == 200, path
        assert "Choir" not in page.text, path
        assert CY not in page.text, path
    assert rik.get(f"/requests?group={CHOIR}").status_code == 404
    assert (
        rik.post("/requests/decide", {"request": place(CY, CHOIR), "decision": "reject"}).status_code == 404
    )
    tried = rik.post(
        "/requests/back-test", {"rule": "let-teachers-in", "any": "teacher", "decide": "approve"}
    )
    assert CY not in tried.text


def test_what_wix_refuses_is_said_and_the_rest_is_shown(house: House):
    asks(house, BO, hours=1)
    house.wix.failing_groups[CHOIR] = ForbiddenError("no")
    house.wix.fails["list_answers"] = [ForbiddenError("no")]

    said = text_of(visitor(house).get("/requests"))

    assert "Choir : Wix does not allow this app to read that." in said
    assert "The answers cannot be read now." in said
    assert "Bo asks to join Trail Runners" in said


def test_while_wix_is_away_the_page_says_so(house: House):
    asks(house, BO, hours=1)
    house.wix.fails = {
        name: [RetryableError("away")] * 20 for name in ("list_groups", "get_site", "get_members")
    }

    page = visitor(house).get("/requests")

    assert page.status_code == 200
    assert "Requests cannot be shown now" in text_of(page)
    assert "Wix does not answer now" in text_of(page)


def test_somebody_blocked_or_known_is_said_to_be_so(house: House):
    asks(house, BO, "press", hours=1)
    house.wix.members[BO] = Member(BO, "BLOCKED", "bo@example.com", "Bo")

    assert "blocked on this site" in text_of(visitor(house).get("/requests"))


def test_the_history_names_who_decided_and_why(house: House, clock: Clock):
    asks(house, BO, "press", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    ada = visitor(house)
    ada.post("/requests/decide", {"request": place(BO), "decision": "reject", "reason": "No press."})
    clock.move(seconds=16)
    house.work()

    said = text_of(ada.get("/requests/history"))

    assert "Bo Trail Runners 11:00 declined" in said
    assert 'ada The rule ask-a-person had said: "press" in the answer to "Why?"' in said
    assert "They were told: “ No press. ”" in said


def test_a_decision_without_effect_says_so(house: House, clock: Clock):
    asks(house, BO, hours=1)
    ada = visitor(house)
    ada.post("/requests/decide", {"request": place(BO), "decision": "approve"})
    house.wix.memberships[RUNNERS, BO] = Membership("none")
    clock.move(seconds=16)
    house.work()

    assert "Nothing was done: the request is gone: they withdrew it" in text_of(ada.get("/requests"))


def test_pages_of_many_requests_lead_on(house: House):
    for number in range(30):
        asks(house, MemberId(f"m-{number:02}"), minutes=number)
    ada = visitor(house)

    first = ada.get("/requests")
    [older] = re.findall(r'rel="next" href="([^"]+)"', first.text)
    second = ada.get(older.replace("&amp;", "&"))

    assert len(re.findall("<article", first.text)) == 25
    assert len(re.findall("<article", second.text)) == 5
    assert "Back to the newest" in text_of(second)


def test_a_rule_is_tried_on_past_requests_and_saved(house: House, clock: Clock):
    asks(house, BO, "I coach swimmers", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    office = Office.of_services(house.services, house.database)
    ada = a_visitor(house, *pages.PAGES, office=office)
    opened = ada.get("/requests/back-test?rule=let-teachers-in")
    assert "teacher" in opened.text

    words = {"any": "teacher\ncoach*", "none": "not a teacher", "decide": "approve"}
    page = ada.post("/requests/back-test", {"rule": "let-teachers-in", "base": base_of(opened), **words})

    said = text_of(page)
    assert "1 requests looked at 1 of them would be different" in said
    assert "Bo Trail Runners let-teachers-in would let them in" in said
    assert "no rule would decide" in said
    hidden = dict(
        re.findall(
            r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text.split("back-test/save")[1]
        )
    )
    saved = ada.post("/requests/back-test/save", hidden)
    assert saved.status_code == 303, text_of(saved)
    assert saved.headers["location"].endswith("/automations/named/let-teachers-in")
    clock.move(seconds=5)
    rule = office.automations().named("let-teachers-in")
    assert rule is not None
    assert rule.answers is not None
    assert rule.answers.any == ("teacher", "coach*")
    again = ada.post("/requests/back-test/save", hidden)
    assert again.status_code == 409
    assert "Nothing was saved" in text_of(again)


def test_a_new_rule_is_tried_and_saved(house: House, clock: Clock):
    asks(house, BO, "I sell things", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    office = Office.of_services(house.services, house.database)
    ada = a_visitor(house, *pages.PAGES, office=office)
    rule = {"rule": "", "name": "no-sellers", "any": "sell*", "decide": "flag"}

    tried = ada.post("/requests/back-test", {**rule, "base": base_of(ada.get("/requests/back-test"))})
    saved = ada.post("/requests/back-test/save", {**rule, "base": base_of(tried)})

    assert "no-sellers would leave them to a person" in text_of(tried)
    assert saved.status_code == 303, text_of(saved)
    assert (
        office.book.newest().text.startswith(RULES.strip("\n")[:20])
        or RULES.strip() in office.book.newest().text
    )
    assert "no-sellers" in office.book.newest().text


def test_a_form_that_was_opened_before_a_colleague_saved_is_not_saved(house: House):
    office = Office.of_services(house.services, house.database)
    ada = a_visitor(house, *pages.PAGES, office=office)
    opened = ada.get("/requests/back-test?rule=let-teachers-in")
    theirs = RULES.replace('["not a teacher"]', '["driving teacher"]')
    office.book.add(theirs, base=int(base_of(opened)), who="user bea")

    rule = {"rule": "let-teachers-in", "any": "teacher", "none": "not a teacher", "decide": "approve"}
    wrong = ada.post("/requests/back-test", {**rule, "any": "a*b", "base": base_of(opened)})
    tried = ada.post("/requests/back-test", {**rule, "base": base_of(wrong)})
    saved = ada.post("/requests/back-test/save", {**rule, "base": base_of(tried)})

    assert base_of(opened) == base_of(tried)
    assert saved.status_code == 409
    assert "Nothing was saved" in text_of(saved)
    assert office.book.newest().text == theirs


def test_a_rule_of_another_site_is_no_rule_here(database: Database, clock: Clock):
    house = a_house(database, clock, RULES + OF_OTHERS)
    rik = visitor(house, Role.GROUP_ADMIN, reach=OF_RUNNERS)

    assert rik.get("/requests/back-test?rule=of-another-site").status_code == 404
    assert "of-another-site" not in rik.get("/requests/back-test").text
    tried = rik.post("/requests/back-test", {"rule": "of-another-site", "any": "x", "decide": "flag"})
    assert "secretword" not in tried.text


def test_a_wrong_word_is_named_beside_its_field_and_what_was_typed_stays(house: House):
    page = visitor(house).post(
        "/requests/back-test",
        {"rule": "let-teachers-in", "any": "a*b", "decide": "approve", "group": RUNNERS},
    )
    assert page.status_code == 422
    assert "a `*` may stand only at the very end" in text_of(page)
    assert "a*b" in page.text
    assert visitor(house).post("/requests/back-test/save", {"base": "x"}).status_code == 422


def test_a_reader_of_another_site_finds_nothing(house: House):
    stranger = visitor(house, Role.READER, reach=Reach(frozenset({"another-site"})))
    for path in ("/requests", "/requests/history", "/requests/under-way", "/requests/back-test"):
        assert stranger.get(path).status_code == 404


def test_the_pages_are_there_in_hebrew(house: House):
    asks(house, BO, "teacher", hours=1)
    page = a_visitor(house, *pages.PAGES, language="he").get("/requests")
    assert page.status_code == 200
    assert 'dir="rtl"' in page.text


def test_a_request_that_wix_does_not_date_is_shown_without_a_date(house: House):
    asks(house, BO, dated=False)
    said = text_of(visitor(house).get("/requests"))
    assert "Bo asks to join Trail Runners" in said
