"""The workshop, tried by every role: events and their replay, letters in doubt, tokens, senders, the audit log."""

from __future__ import annotations

import logging
import re
import subprocess
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from admin.console.pages.workshop import PAGES
from admin.office import Office, workshop
from core import events
from core.community import Group, GroupId, Membership
from core.errors import MailInDoubtError, WrongStateError
from core.events import EventId
from integrations.store.audit import Audit
from integrations.store.database import Database
from integrations.store.glance import Glance
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.senders import Senders
from integrations.store.tables import messages
from integrations.store.tokens import Holder, Role, Tokens
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import ANN, RUNNERS, SENDER, SITE, Clock, House, a_house, an_event

OTHERS = GroupId("0b1f0b5e-5a38-4a1c-8f0a-0a4f3f6f2f10")
ADA = Holder("u1", "user ada", Role.OWNER, EVERYTHING)


def an_office(house: House) -> Office:
    return Office.of_services(house.services, house.database)


def a_visit(house: House, role: Role = Role.OWNER, groups: frozenset[str] | None = None) -> Visitor:
    return a_visitor(house, *PAGES, role=role, reach=Reach(None, groups))


def in_doubt(house: House, *ids: str, group: GroupId = RUNNERS) -> str:
    """The mail server hung up before it said so; returns the newest letter's id."""
    for id_ in ids or ("doubt",):
        house.mail.dies_after_dot = [MailInDoubtError("closed after the final dot")]
        house.hear(an_event(house.clock, id=id_, group=group))
        house.work()
    row = house.services.ledger.page(state="in_doubt", group=group, limit=1)[0]
    return str(row.id)


def state_of(house: House, letter: str) -> str:
    return str(house.services.ledger.page(id=letter)[0].state)


def audit(house: House) -> list[tuple[str, str]]:
    return [(row.who, row.action) for row in Audit(house.database).page()]


# Who may look, and who may act.


LOOKS = {
    "/workshop": {Role.OWNER, Role.MANAGER, Role.READER},
    "/workshop/events": {Role.OWNER, Role.MANAGER, Role.READER},
    "/workshop/event?id=e1": {Role.OWNER, Role.MANAGER, Role.READER},
    "/workshop/replay?type=member_added": {Role.OWNER, Role.MANAGER},
    "/workshop/letters": set(Role),
    "/workshop/doubt": set(Role),
    "/workshop/doubts?older=1h&decision=give-up": {Role.OWNER, Role.MANAGER, Role.GROUP_ADMIN},
    "/workshop/audit": {Role.OWNER, Role.MANAGER, Role.READER},
    "/workshop/tokens": {Role.OWNER},
    "/workshop/senders": {Role.OWNER, Role.MANAGER, Role.READER},
    "/workshop/doctor": {Role.OWNER, Role.MANAGER},
}
ACTS = {
    "/workshop/event/replay": {Role.OWNER, Role.MANAGER},
    "/workshop/replay": {Role.OWNER, Role.MANAGER},
    "/workshop/doubt/none": {Role.OWNER, Role.MANAGER, Role.GROUP_ADMIN},
    "/workshop/doubts": {Role.OWNER, Role.MANAGER, Role.GROUP_ADMIN},
    "/workshop/tokens": {Role.OWNER},
    "/workshop/tokens/none/revoke": {Role.OWNER},
    "/workshop/senders/resume": {Role.OWNER},
}


@pytest.mark.parametrize("role", list(Role))
def test_each_page_opens_for_the_roles_it_is_for_and_no_other(database: Database, clock: Clock, role: Role):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    visitor = a_visit(house, role, frozenset({RUNNERS}) if role is Role.GROUP_ADMIN else None)
    opened = {path: visitor.get(path).status_code for path in LOOKS}
    assert opened == {path: 200 if role in roles else 403 for path, roles in LOOKS.items()}
    refused = {path: visitor.post(path).status_code == 403 for path in ACTS}
    assert refused == {path: role not in roles for path, roles in ACTS.items()}


@pytest.mark.parametrize("path", ["/workshop/event?id=none", "/workshop/letters?why=none", "/workshop/event"])
def test_what_is_not_there_is_said_to_be_nowhere(database: Database, clock: Clock, path: str):
    assert a_visit(a_house(database, clock)).get(path).status_code == 404


# Events.


def test_an_event_shows_who_it_was_about_what_wix_sent_and_what_followed(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    page = a_visit(house).get("/workshop/event?id=e1")
    said = text_of(page)
    for text in (
        "Somebody was added to a group",
        "Who Ann",
        "Group Trail Runners",
        "Letter “welcome” to Ann sent",
    ):
        assert text in said
    assert f'<a class="name" href="/admin/s/{SITE}/people/{ANN}">' in page.text
    assert "actionEvent.body.groupMember.memberId" in said


def test_hashes_of_addresses_are_shown_to_nobody(database: Database, clock: Clock):
    house = a_house(database, clock)
    kept = '{"addressHashes": ["0123456789abcdef"], "subscriptionStatus": "UNSUBSCRIBED"}'
    house.hear(an_event(clock, id="said", type=events.SUBSCRIPTION_CHANGED, payload=kept))
    page = a_visit(house).get("/workshop/event?id=said")
    assert "UNSUBSCRIBED" in page.text
    assert "0123456789abcdef" not in page.text


def test_what_wix_puts_deep_into_a_payload_is_read_no_deeper_than_people_do(database: Database, clock: Clock):
    house = a_house(database, clock)
    deep = '{"a":' * 400 + '"at the bottom"' + "}" * 400
    wide = "{" + ", ".join(f'"k{number}": "v{number}"' for number in range(1000)) + "}"
    house.hear(an_event(clock, id="deep", payload=deep), an_event(clock, id="wide", payload=wide))
    visitor = a_visit(house)
    assert "at the bottom" not in visitor.get("/workshop/event?id=deep").text
    assert visitor.get("/workshop/event?id=wide").text.count("<dt><code>") == workshop.MOST_FIELDS


def test_what_wix_sent_is_text_and_never_part_of_the_page(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock, id="odd", payload='{"<script>x": "<script>alert(1)</script>"}'))
    assert "<script>" not in a_visit(house).get("/workshop/event?id=odd").text.replace("<script src", "")


def test_an_event_is_worked_off_once_more_and_that_is_noted(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock, id="broken/with slash", payload="{}"))
    house.hear(an_event(clock, id="broken/one", payload="{}"))
    house.work()
    visitor = a_visit(house)
    page = visitor.follow(visitor.post("/workshop/event/replay", {"id": "broken/one"}))
    assert "The event is worked off once more" in text_of(page)
    assert audit(house) == [("user ada", "event.replay")]
    [row] = house.services.journal.page(id=EventId("broken/one"))
    assert row.state == "received"
    again = visitor.post("/workshop/event/replay", {"id": "broken/one"})
    assert again.status_code == 409


def test_all_dead_events_of_a_kind_are_worked_off_once_more_and_no_others(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(*(an_event(clock, id=f"e{number}", payload="{}") for number in range(3)))
    house.hear(
        an_event(clock, id="other", type=events.MEMBER_JOINED, payload="{}"), an_event(clock, id="well")
    )
    house.work()
    visitor = a_visit(house)
    listed = visitor.get("/workshop/events?state=dead&type=member_added")
    assert "/workshop/replay?type=member_added" in listed.text
    assert "Work off 3 events" in text_of(visitor.get("/workshop/replay?type=member_added"))
    page = visitor.follow(visitor.post("/workshop/replay", {"type": "member_added"}))
    assert "3 events are worked off once more." in text_of(page)
    states = {row.id: row.state for row in house.services.journal.page()}
    assert states == {"e0": "received", "e1": "received", "e2": "received", "other": "dead", "well": "done"}


def test_events_come_in_pages_without_one_missing_or_twice(database: Database, clock: Clock):
    house = a_house(database, clock)
    for number in range(120):
        house.hear(an_event(clock, id=f"e{number}"))
        clock.move(seconds=1 if number % 2 else 0)
    visitor, seen = a_visit(house), []
    path = "/workshop/events?state=received"
    while path:
        page = visitor.get(path)
        seen += re.findall(r"/workshop/event\?id=(e\d+)", page.text)
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        path = following[1].replace("&amp;", "&") if following else ""
    assert len(seen) == len(set(seen)) == 120
    assert visitor.get("/workshop/events?after=forged").status_code == 422


# Letters.


def test_letters_not_sent_for_one_reason_are_listed_by_it(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    house.wix.subscriptions.clear()
    house.wix.groups[OTHERS] = Group(OTHERS, "Others")
    house.wix.memberships[OTHERS, ANN] = Membership("joined")
    house.hear(an_event(clock, id="e2", group=OTHERS))
    house.work()

    [[refusal], _] = Glance(database).refused(SITE, EVERYTHING)
    visitor = a_visit(house)
    page = visitor.get(f"/workshop/letters?state=skipped&why={refusal.key}")
    assert refusal.reason in text_of(page)
    assert page.text.count("<tr>") == 2  # with the head
    assert visitor.get("/workshop/letters").text.count("<tr>") == 3


def test_a_group_s_admin_sees_and_settles_the_letters_of_their_groups_alone(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.groups[OTHERS] = Group(OTHERS, "Others")
    house.wix.memberships[OTHERS, ANN] = Membership("joined")
    theirs, foreign = in_doubt(house, "a"), in_doubt(house, "b", group=OTHERS)
    visitor = a_visit(house, Role.GROUP_ADMIN, frozenset({RUNNERS}))

    for path in ("/workshop/letters", "/workshop/doubt"):
        page = visitor.get(path).text
        assert (str(RUNNERS) in page, str(OTHERS) in page) == (True, False)
    assert visitor.post(f"/workshop/doubt/{foreign}", {"decision": "release"}).status_code == 404
    assert visitor.post("/workshop/doubts", {"decision": "give-up", "older": "1h"}).status_code == 303
    clock.move(hours=2)
    visitor.post("/workshop/doubts", {"decision": "give-up", "older": "1h"})

    assert (state_of(house, theirs), state_of(house, foreign)) == ("failed", "in_doubt")


def test_a_letter_in_doubt_shows_what_is_known_and_what_each_decision_means(database: Database, clock: Clock):
    house = a_house(database, clock)
    letter = in_doubt(house)
    page = text_of(a_visit(house).get("/workshop/doubt"))
    for text in (
        "“welcome” to Ann",
        "Message-ID",
        "they get it twice",
        "they never get it",
        "SUBSCRIBED, VALID",
    ):
        assert text in page
    reader = a_visit(house, Role.READER).get("/workshop/doubt")
    assert f"/workshop/doubt/{letter}" not in reader.text


@pytest.mark.parametrize(("decision", "state"), [("release", "planned"), ("give-up", "failed")])
def test_a_letter_in_doubt_is_decided_once(database: Database, clock: Clock, decision: str, state: str):
    house = a_house(database, clock)
    letter = in_doubt(house)
    visitor = a_visit(house)
    visitor.follow(visitor.post(f"/workshop/doubt/{letter}", {"decision": decision}))
    assert state_of(house, letter) == state
    assert audit(house) == [("user ada", f"message.{decision}")]
    assert visitor.post(f"/workshop/doubt/{letter}", {"decision": decision}).status_code == 409


def test_many_letters_are_decided_at_once_after_a_look_and_only_those_old_enough(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.wix.groups[OTHERS] = Group(OTHERS, "Others")
    house.wix.memberships[OTHERS, ANN] = Membership("joined")
    old = in_doubt(house, "old")
    clock.move(days=2)
    young = in_doubt(house, "young", group=OTHERS)
    visitor = a_visit(house)
    assert "Never send 1 letter" in text_of(visitor.get("/workshop/doubts?older=1d&decision=give-up"))
    page = visitor.follow(visitor.post("/workshop/doubts", {"older": "1d", "decision": "give-up"}))
    assert "1 letter is never sent." in text_of(page)
    assert (state_of(house, old), state_of(house, young)) == ("failed", "in_doubt")
    for wrong in ({"older": "1d"}, {"decision": "release"}, {"older": "x", "decision": "release"}):
        assert visitor.post("/workshop/doubts", wrong).status_code == 422


# The audit log.


def test_the_audit_log_says_in_words_who_did_what_and_links_to_it(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    visitor = a_visit(house)
    visitor.post("/workshop/event/replay", {"id": "e1"})
    visitor.post("/workshop/tokens", {"name": "ci", "role": "reader"})
    page = visitor.get("/workshop/audit")
    said = text_of(page)
    assert "user ada had an event worked off once more" in said
    assert "state done → became received" in said
    assert "/workshop/event?id=e1" in page.text
    assert "made a token" in said
    assert page.text.count("<tr>") == 3  # with the head
    assert a_visit(house, Role.MANAGER).get("/workshop/audit").text.count("<tr>") == 2


def test_a_name_to_look_for_in_the_audit_log_is_in_no_address(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), an_event(clock, id="e2"))
    house.work()
    visitor = a_visit(house)
    visitor.post("/workshop/event/replay", {"id": "e1"})
    house.services.journal.replay(EventId("e2"), SITE, who="user ben")
    page = visitor.post("/workshop/audit", {"who": "user ben"})
    assert page.text.count("<tr>") == 2
    assert "user ada had" not in text_of(page)
    assert "who=" not in page.text


# Tokens.


def test_a_token_is_shown_once_and_lets_in_whom_it_says(database: Database, clock: Clock, caplog: Any):
    house = a_house(database, clock)
    visitor = a_visit(house)
    with caplog.at_level(logging.DEBUG):
        answer = visitor.post(
            "/workshop/tokens", {"name": "runners", "role": "group_admin", "groups": [RUNNERS], "days": "30"}
        )
    [token] = re.findall(r"usher_[\w-]+", answer.text)
    holder = Tokens(database).find(token)
    assert holder is not None
    assert (holder.role, holder.reach) == (Role.GROUP_ADMIN, Reach(frozenset({SITE}), frozenset({RUNNERS})))
    assert token not in visitor.get("/workshop/tokens").text
    assert token not in caplog.text


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"name": "with space", "role": "reader"}, "A name has letters"),
        ({"name": "ci", "role": "emperor"}, "Choose one of these roles"),
        ({"name": "ci", "role": "group_admin"}, "Choose at least one group"),
        ({"name": "ci", "role": "reader", "days": "soon"}, "A whole number of days"),
        ({"name": "ci", "role": "reader", "days": "0"}, "A whole number of days"),
        ({"name": "taken", "role": "reader"}, "A token of this name is there"),
    ],
)
def test_a_token_that_cannot_be_is_said_beside_its_field_and_what_was_typed_stays(
    database: Database, clock: Clock, form: dict[str, str], says: str
):
    house = a_house(database, clock)
    visitor = a_visit(house)
    visitor.post("/workshop/tokens", {"name": "taken", "role": "reader"})
    answer = visitor.post("/workshop/tokens", form)
    assert answer.status_code == 422
    assert says in text_of(answer)
    assert f'value="{form["name"]}"' in answer.text
    assert len(Tokens(database).page()) == 1


def test_a_revoked_token_lets_nobody_in(database: Database, clock: Clock):
    house = a_house(database, clock)
    token, row = Tokens(database).create("ci", Role.READER, sites=["*"], who="a test")
    visitor = a_visit(house)
    page = visitor.follow(visitor.post(f"/workshop/tokens/{row.id}/revoke"))
    assert "Nobody comes in with the token “ci” any more." in text_of(page)
    assert Tokens(database).find(token) is None
    assert visitor.post(f"/workshop/tokens/{row.id}/revoke").status_code == 409


# Senders.


def test_a_pause_is_shown_with_its_reason_and_ended_by_an_owner(database: Database, clock: Clock):
    house = a_house(database, clock)
    pause = Senders(database, SENDER)
    pause.pause("", "550 5.7.1 not you", 3600)
    pause.pause("mail.example", "421 later", 3600)
    assert "Go on at once" not in a_visit(house, Role.MANAGER).get("/workshop/senders").text
    visitor = a_visit(house)
    said = text_of(visitor.get("/workshop/senders"))
    assert "550 5.7.1 not you" in said
    assert "mail.example paused until" in said
    visitor.follow(visitor.post("/workshop/senders/resume", {"sender": SENDER, "domain": ""}))
    assert Senders(database, SENDER).pauses().keys() == {"mail.example"}
    assert audit(house) == [("user ada", "sender.resume")]
    assert visitor.post("/workshop/senders/resume", {"sender": SENDER, "domain": ""}).status_code == 409


# The doctor.


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_doctor_says_what_to_mend(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    """A real one, of an installation without any settings: so nothing leaves this machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("WIX_APP_ID", "SECRET_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    visitor = a_visit(a_house(database, clock))
    page = visitor.post("/workshop/doctor")
    said = text_of(page)
    assert page.status_code == 200
    assert "have to be mended" in said
    assert "WIX_APP_ID" in said


def test_one_doctor_is_at_work_at_a_time_and_none_for_ever(monkeypatch: pytest.MonkeyPatch):
    def hang(*_: Any, **options: Any) -> None:
        with pytest.raises(WrongStateError, match="at work already"):
            workshop.run_doctor(ADA)
        raise subprocess.TimeoutExpired("usher", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    for _ in range(2):
        with pytest.raises(WrongStateError, match="within a minute"):
            workshop.run_doctor(ADA)


def test_letters_older_than_the_list_goes_back_are_not_in_it(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    clock.move(days=61)
    assert workshop.letters(an_office(house), ADA, SITE) == ([], "")
    with database.read() as tx:
        assert tx.connection.scalar(sa.select(sa.func.count()).select_from(messages)) == 1
    assert timedelta(days=61) > workshop.LETTERS_WITHIN
