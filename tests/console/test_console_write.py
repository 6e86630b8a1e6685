"""Writing to people in the console: the form, the look of the letter, the test, and the job it becomes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from pathlib import Path
from shutil import copytree
from threading import Barrier
from typing import Any

import httpx
import pytest

from admin.console.pages import jobs, write
from admin.office import Office
from admin.office.refusals import RefusedError
from admin.office.write import Draft, send_test
from admin.processes import TEMPLATES
from admin.trial import Trials
from core.community import Answer, Group, GroupId, Member, MemberId, Membership, Site, Subscription
from core.consent import Purpose
from core.errors import MailRefusedError
from integrations.email.render import Renderer
from integrations.email.transport import TRANSPORTS
from integrations.email.url import parse_email_url
from integrations.store.database import Database
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.tokens import Holder, Role
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house

CHESS = GroupId("c0ffee00-1c5d-4f7a-a1c8-7d4b0e6f3a52")
BOB, CLEO, DAN = MemberId("m-bob"), MemberId("m-cleo"), MemberId("m-dan")
NEWS = {"kind": "group_email", "group": RUNNERS, "purpose": "onboarding", "email": "welcome"}
YOGA = {"kind": "interest_email", "any": "yoga, tai chi", "email": "yoga-offer"}


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    """Ann and Bob said yes, Cleo said no, Dan has no address; Bob mentions yoga."""
    found = a_house(database, clock)
    wix = found.wix
    wix.groups[CHESS] = Group(CHESS, "Chess & Tea")
    for member, name in ((BOB, "Bob"), (CLEO, "Cleo"), (DAN, "Dan")):
        address = f"{name.lower()}@example.com" if member != DAN else ""
        wix.members[member] = Member(member, "APPROVED", address, name)
        wix.memberships[RUNNERS, member] = Membership("joined")
    wix.subscriptions["bob@example.com"] = Subscription("SUBSCRIBED", "VALID")
    wix.subscriptions["cleo@example.com"] = Subscription("UNSUBSCRIBED", "VALID")
    wix.answers[RUNNERS, BOB] = (Answer("What do you like?", "Yoga in the morning"),)
    return found


@pytest.fixture
def visitor(house: House) -> Visitor:
    return a_visitor(house, *write.PAGES, *jobs.PAGES)


def form_of(answer: httpx.Response) -> dict[str, str]:
    """The hidden fields."""
    return {
        name: unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', answer.text)
    }


def preview(visitor: Visitor, filled: dict[str, Any], **more: Any) -> httpx.Response:
    """From the form to the page of the job, which is not looked at yet."""
    shown = form_of(visitor.get("/write"))
    return visitor.post("/write", {**shown, **filled, **more, "do": "preview"})


def test_the_form_shows_groups_letters_and_what_each_kind_of_letter_asks_for(visitor: Visitor):
    shown = text_of(visitor.get("/write"))

    assert "Chess & Tea · 0 members" in shown
    assert "Trail Runners · 4 members" in shown
    assert "Welcome to Seaside Club" in shown
    assert "whoever never answered gets none" in shown
    assert "Goes only to people who said yes" in shown


def test_a_letter_is_shown_as_an_inbox_and_as_plain_text_show_it(visitor: Visitor):
    page = visitor.post("/write", {**NEWS, "do": "look"})

    assert page.status_code == 200
    shown = text_of(page)
    assert "Welcome to Trail Runners You are in. Three easy ways to start." in shown
    assert "The letter has these places" not in shown
    assert "You get this letter because you became a member of Trail Runners at Seaside Club." in shown
    assert re.search(r'<iframe class="letter" name="letter" sandbox[^>]*src="[^"]*/write/letter', page.text)


def test_a_letter_in_its_frame_may_do_nothing(visitor: Visitor):
    for answer in (
        visitor.get("/write/letter", params={"letter": "welcome", "language": "he"}),
        visitor.post("/write/letter", {**NEWS, "language": "he"}),
    ):
        assert answer.status_code == 200
        assert 'lang="he"' in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert policy.endswith("; sandbox")
        assert "script" not in policy
    assert visitor.get("/write/letter", params={"letter": "../welcome"}).status_code == 404


def test_a_preview_says_who_would_get_the_letter_who_would_not_and_why(visitor: Visitor, house: House):
    answer = preview(visitor, NEWS)
    assert "looks at everybody" in text_of(visitor.follow(answer))
    house.turn()

    page = visitor.get(answer.headers["location"])

    shown = text_of(page)
    assert "Send to 2 people" in shown
    assert "2 would get it 2 would get none" in shown
    assert "the member has no address 1" in shown
    assert "unsubscribed (Wix: UNSUBSCRIBED) 1" in shown
    assert house.mail.letters == []


def test_the_people_behind_each_reason_are_shown_by_name(visitor: Visitor, house: House):
    answer = preview(visitor, NEWS)
    house.turn()
    job = visitor.get(answer.headers["location"]).text
    marks = re.findall(r'/rows\?why=(\w+)"', job)

    found = {text_of(visitor.get(f"{answer.headers['location']}/rows?why={mark}")) for mark in marks}

    assert len(found) == 2
    [unsubscribed] = [shown for shown in found if "UNSUBSCRIBED" in shown]
    assert "Cleo" in unsubscribed
    assert "Dan" not in unsubscribed
    assert "Bob" not in unsubscribed
    assert visitor.get(f"{answer.headers['location']}/rows?why=000000000000").status_code == 404
    everybody = text_of(visitor.get(f"{answer.headers['location']}/rows"))
    assert all(name in everybody for name in ("Bob", "Cleo", "Dan"))


def test_many_people_are_shown_page_by_page(visitor: Visitor, house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "ROWS_AT_ONCE", 3)
    answer = preview(visitor, NEWS)
    house.turn()

    first = visitor.get(f"{answer.headers['location']}/rows")
    [older] = re.findall(r'rel="next" href="([^"]*)"', first.text)
    second = visitor.get(unescape(older))

    names = re.compile("Bob|Cleo|Dan|m-ann")
    seen = names.findall(text_of(first)) + names.findall(text_of(second))
    assert len(re.findall('class="name" href="[^"]*/people/', first.text)) == 3
    assert len(re.findall('class="name" href="[^"]*/people/', second.text)) == 1
    assert len(set(seen)) == len(seen)
    assert 'rel="next"' not in second.text


def test_nobody_is_written_to_before_the_yes_and_those_of_the_preview_after_it(
    visitor: Visitor, house: House
):
    answer = preview(visitor, NEWS)
    house.turn()
    assert house.mail.letters == []
    page = visitor.get(answer.headers["location"])
    [token] = re.findall(r'name="token" value="(\w+)"', page.text)

    said = visitor.post(f"{answer.headers['location']}/confirm", {"token": token})
    shown = text_of(visitor.follow(said))
    house.turn()

    assert "You can leave this page" in shown
    assert sorted(house.mail.readers) == ["ann@example.com", "bob@example.com"]
    assert "It is done." in text_of(visitor.get(answer.headers["location"]))


def test_a_yes_to_another_preview_changes_nothing_and_says_so(visitor: Visitor, house: House):
    answer = preview(visitor, NEWS)
    house.turn()

    said = visitor.post(f"{answer.headers['location']}/confirm", {"token": "another"})

    assert "Nothing was changed" in text_of(visitor.follow(said))
    house.turn()
    assert house.mail.letters == []


def test_pressing_twice_makes_one_job_and_changing_something_another(visitor: Visitor, house: House):
    shown = form_of(visitor.get("/write"))
    first, again = (visitor.post("/write", {**shown, **NEWS, "do": "preview"}) for _ in range(2))
    other = visitor.post("/write", {**shown, **NEWS, "purpose": "promotional", "do": "preview"})
    fresh = preview(visitor, NEWS)

    assert first.headers["location"] == again.headers["location"]
    places = {answer.headers["location"] for answer in (first, other, fresh)}
    assert len(places) == 3
    assert len(house.services.jobs.page()) == 3


def test_a_form_that_lost_its_key_makes_no_job(visitor: Visitor, house: House):
    assert visitor.post("/write", {**NEWS, "do": "preview"}).status_code == 422
    assert visitor.post("/write", {**NEWS, "do": "preview", "key": "a b"}).status_code == 422
    assert house.services.jobs.page() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group": ""}, "Choose the group."),
        ({"group": "another"}, "Choose the group."),
        ({"purpose": ""}, "Say what kind of letter it is"),
        ({"purpose": "anything"}, "Say what kind of letter it is"),
        ({"email": ""}, "Choose a letter."),
        ({"email": "../welcome"}, "Choose a letter."),
        ({**YOGA, "any": ""}, "Name at least one word to look for."),
        ({**YOGA, "any": "yoga, !!"}, "“!!” holds no word"),
        ({**YOGA, "none": "a*b"}, "“a*b” a `*` may stand only at the very end"),
        ({**YOGA, "any": "x" * 301}, "is longer than any answer"),
        ({**YOGA, "question": "x" * 301}, "The question is too long"),
    ],
)
def test_what_is_not_right_is_said_beside_its_field_and_what_was_typed_stays(
    visitor: Visitor, house: House, changes: dict[str, str], told: str
):
    page = preview(visitor, {**NEWS, "none": "long runs", **changes})

    assert page.status_code == 422
    assert told in text_of(page)
    assert f'value="{changes.get("none", "long runs")}"' in page.text
    assert house.services.jobs.page() == []


def test_an_interest_is_looked_for_in_the_answers_and_written_to_with_an_offer(
    visitor: Visitor, house: House
):
    answer = preview(visitor, YOGA)
    house.turn()

    page = visitor.get(answer.headers["location"])

    assert "“yoga-offer” to people who mention yoga, tai chi" in text_of(page)
    assert "Send to 1 person" in text_of(page)
    [row] = house.services.jobs.page()
    assert row.params == {"email": "yoga-offer", "answers": {"any": ["yoga", "tai chi"]}}


def test_going_back_from_a_preview_finds_the_form_as_it_was(visitor: Visitor, house: House):
    answer = preview(visitor, YOGA, question="like", groups=[RUNNERS])
    house.turn()
    [change] = re.findall(r'href="([^"]*/write\?again=\w+)"', visitor.get(answer.headers["location"]).text)

    page = visitor.get(unescape(change))

    assert 'value="yoga, tai chi"' in page.text
    assert 'value="like"' in page.text
    assert re.search(rf'value="{RUNNERS}" checked', page.text)
    assert re.search(r'value="yoga-offer" checked', page.text)


@pytest.fixture
def offering(house: House, tmp_path: Path) -> Visitor:
    """With a letter that has places of its own."""
    letters = copytree(TEMPLATES, tmp_path / "letters")
    offer = letters / "offer"
    offer.mkdir()
    (offer / "subject.txt").write_text("{{ discount_code|default('A code') }} for you")
    (offer / "body.txt").write_text(
        "{% extends '_layout/body.txt' %}{% block content %}Until {{ until|default('May') }}{% endblock %}"
    )
    (offer / "body.mjml").write_text(
        "{% extends '_layout/body.mjml' %}{% block preview %}Only for {{ member_name }} &amp; you{% endblock %}"
        "{% block content %}<mj-text>Until {{ until|default('May') }}, {{ group_name }}</mj-text>{% endblock %}"
    )
    office = replace(Office.of_services(house.services, house.database), renderer=Renderer(letters))
    return a_visitor(house, *write.PAGES, *jobs.PAGES, office=office)


OFFER = {
    **NEWS,
    "email": "offer",
    "value.discount_code": "MAY25",
    "value.until": "<June>",
    "value.other": "x",
}


def test_a_letter_is_filled_with_the_words_for_its_own_places(offering: Visitor, house: House):
    page = offering.post("/write", {**OFFER, "do": "look"})

    shown = text_of(page)
    assert "The letter has these places for words of yours." in shown
    assert "Discount code" in shown
    assert 'name="value.until" type="text" value="&lt;June&gt;"' in page.text
    assert "MAY25 for you Only for Ana & you" in shown
    assert "Until &lt;June&gt;, Trail Runners" in offering.post("/write/letter", OFFER).text
    assert "Until May" in offering.get("/write/letter", params={"letter": "offer"}).text
    assert preview(offering, OFFER).status_code == 303
    [row] = house.services.jobs.page()
    assert row.params["context"] == {"discount_code": "MAY25", "until": "<June>"}


def test_words_that_are_too_long_for_a_letter_are_refused(offering: Visitor, house: House):
    page = preview(offering, OFFER, **{"value.until": "x" * 30_000})

    assert page.status_code == 422
    assert "Together these texts are too long: 20000 characters at most." in text_of(page)
    assert house.services.jobs.page() == []


def test_a_groups_admin_writes_to_their_own_groups_alone(house: House):
    mine = Reach(frozenset({SITE}), frozenset({RUNNERS}))
    visitor = a_visitor(house, *write.PAGES, *jobs.PAGES, role=Role.GROUP_ADMIN, reach=mine)

    page = visitor.get("/write")
    assert "Trail Runners" in text_of(page)
    assert "Chess" not in text_of(page)
    assert "interest_email" not in page.text
    assert preview(visitor, NEWS).status_code == 303
    assert preview(visitor, NEWS, group=CHESS).status_code == 422
    assert preview(visitor, YOGA).status_code == 403
    house.wix.fails["list_groups"] = [MailRefusedError("none is known")] * 9
    blind = a_visitor(house, *write.PAGES, role=Role.GROUP_ADMIN, reach=mine)
    assert preview(blind, NEWS, group=CHESS).status_code == 403
    assert len(house.services.jobs.page()) == 1


def test_a_reader_does_not_write_and_looks_on(house: House, visitor: Visitor):
    answer = preview(visitor, NEWS)
    house.turn()
    reader = a_visitor(house, *write.PAGES, *jobs.PAGES, role=Role.READER)

    assert reader.get("/write").status_code == 403
    assert reader.post("/write", {**NEWS, "do": "test", "to": "me@example.com"}).status_code == 403
    page = reader.get(answer.headers["location"])
    assert page.status_code == 200
    assert "<button" not in page.text
    for name in ("confirm", "pause", "resume", "cancel", "retry-failed", "rollback"):
        assert reader.post(f"{answer.headers['location']}/{name}").status_code == 403


def test_a_job_of_another_group_or_site_is_not_there(house: House, visitor: Visitor):
    answer = preview(visitor, NEWS)
    house.turn()
    other = Reach(frozenset({SITE}), frozenset({CHESS}))
    stranger = a_visitor(house, *write.PAGES, *jobs.PAGES, role=Role.GROUP_ADMIN, reach=other)
    place = answer.headers["location"]

    for path in ("", "/live", "/rows", "/rows.csv", "/letter"):
        assert stranger.get(place + path).status_code == 404, path
    for name in ("confirm", "pause", "cancel"):
        assert stranger.post(f"{place}/{name}").status_code == 404
    assert "Trail Runners" not in text_of(stranger.get("/jobs"))
    assert "yoga" not in stranger.get(f"/write?again={place.rpartition('/')[2]}").text


def test_without_wix_the_form_says_so_and_is_still_there(house: House):
    house.wix.fails["list_groups"] = [MailRefusedError("no")] * 9
    visitor = a_visitor(house, *write.PAGES)

    page = visitor.get("/write")

    assert page.status_code == 200
    assert "Wix refused what we asked." in text_of(page)


# A test to oneself


@pytest.fixture
def tried(house: House, monkeypatch: pytest.MonkeyPatch) -> Visitor:
    """With a mail server that keeps what it gets in house.mail."""
    monkeypatch.setitem(TRANSPORTS, "smtp", lambda _: house.mail)
    services = house.services
    trial = Trials(
        services.letterhead,
        services.renderer,
        parse_email_url("smtp://127.0.0.1:1"),
        lambda address: services.suppressions.anywhere(services.hashes.of(address)),
    )
    office = replace(Office.of_services(services, house.database), trial=trial)
    return a_visitor(house, *write.PAGES, *jobs.PAGES, office=office)


def test_a_test_goes_to_the_address_that_was_typed_and_is_marked_as_one(tried: Visitor, house: House):
    page = tried.post("/write", {**NEWS, "language": "he", "do": "test", "to": "ada@example.com"})

    assert page.status_code == 200
    assert "The mail server answered: 250 taken" in text_of(page)
    [(_, to, message)] = house.mail.letters
    assert to == "ada@example.com"
    assert b"\r\nSubject: [Test] " in message
    assert b"Content-Language: he" in message or b'lang=3D"he"' in message or b'lang="he"' in message
    assert house.services.ledger.letters() == []


def test_a_test_is_in_the_audit_log_and_its_address_is_nowhere(
    tried: Visitor, house: House, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    tried.post("/write", {**NEWS, "do": "test", "to": "ada@example.com"})

    lines = Office.of_services(house.services, house.database).audit.page(action="letter.test")
    assert [(line.who, line.object, line.after) for line in lines] == [
        ("user ada", "letter welcome", {"purpose": "onboarding"})
    ]
    everything = [str(vars(record)) for record in caplog.records if not record.name.startswith("httpx")]
    assert "letter.tested" in str(everything)
    assert "ada@" not in str(everything) + str(lines)


@pytest.mark.parametrize(
    "to", ["", "nobody", "a@b@c..d", "x\r\nBcc: y@example.com", "ä" * 200 + "@example.com"]
)
def test_a_test_to_no_address_is_refused_beside_the_field(tried: Visitor, house: House, to: str):
    page = tried.post("/write", {**NEWS, "do": "test", "to": to})

    assert page.status_code == 422
    assert "Not sent: the address is not one that mail can be sent to" in text_of(page)
    assert house.mail.letters == []


def test_a_suppressed_address_gets_no_test(tried: Visitor, house: House):
    services = house.services
    services.suppressions.dead(SITE, ANN, services.hashes.of("ada@example.com")[0], "dead (550)")

    page = tried.post("/write", {**NEWS, "do": "test", "to": "Ada@example.com"})

    assert page.status_code == 422
    assert "Not sent: this address is suppressed" in text_of(page)
    assert house.mail.letters == []


def test_after_ten_tests_within_an_hour_somebody_has_to_wait(tried: Visitor, house: House):
    answers = [
        tried.post("/write", {**NEWS, "do": "test", "to": "ada@example.com"}).status_code for _ in range(11)
    ]

    assert answers == [200] * 10 + [429]
    assert len(house.mail.letters) == 10


def test_of_many_tests_at_once_no_more_than_ten_are_sent(database: Database, clock: Clock):
    sent: list[str] = []

    def trial(to: str, _letter: str, _context: Any, **_how: Any) -> str:
        sent.append(to)
        return "250 taken"

    office = replace(Office.of_services(a_house(database, clock).services, database), trial=trial)
    ada = Holder("ada", "user ada", Role.MANAGER, EVERYTHING)
    draft = Draft("welcome", Purpose.ONBOARDING, Site(SITE))
    together = Barrier(25)

    def test(number: int) -> int:
        together.wait(20)
        try:
            send_test(office, ada, draft, f"n{number}@example.com")
        except RefusedError as exc:
            return exc.status
        return 200

    with ThreadPoolExecutor(25) as threads:
        answers = sorted(threads.map(test, range(25)))

    assert answers == [200] * 10 + [429] * 15
    assert (len(sent), len(office.audit.page(action="letter.test"))) == (10, 10)


def test_what_the_mail_server_says_against_a_test_is_shown(tried: Visitor, house: House):
    house.mail.fails = [MailRefusedError("550 5.7.1 not from you")]

    page = tried.post("/write", {**NEWS, "do": "test", "to": "ada@example.com"})

    assert page.status_code == 502
    assert "Not sent: the letter was not sent: 550 5.7.1 not from you" in text_of(page)


def test_where_nothing_can_be_sent_a_test_says_why(visitor: Visitor):
    page = visitor.post("/write", {**NEWS, "do": "test", "to": "ada@example.com"})

    assert page.status_code == 409
    assert "EMAIL_FROM, EMAIL_URL or PUBLIC_URL is not set" in text_of(page)
