"""Letters over days: caps, nights, steps that look again, and people who leave meanwhile. On both databases."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admin.cli import main
from core import events
from core.community import Answer, Group, GroupId, Membership, SiteId, Subscription
from core.errors import ForbiddenError, MailDeferredError, RetryableError
from core.events import Event
from integrations.store.database import Database
from integrations.store.suppressions import suppress
from integrations.store.tables import events as events_table
from integrations.store.tables import messages
from tasks.events import run_events
from tasks.letters import deliver_letters
from tests.house import ANN, RUNNERS, SITE, WELCOME, YOGA, Clock, House, a_house, an_event

TRADERS = GroupId("g-traders")
FLOW = (
    WELCOME
    + """
[[automation.then]]
name = "first-week"
email = "welcome"
after = "3d"
[[automation.then]]
name = "offer"
email = "yoga-offer"
purpose = "promotional"
after = "10d"
"""
)
TWO_OFFERS = """
[[automation]]
name = "shoes"
on = ["member_added"]
purpose = "promotional"
email = "yoga-offer"
[[automation]]
name = "races"
on = ["member_added"]
purpose = "promotional"
email = "yoga-offer"
"""
GONE = "not a member of the group any more"


@pytest.fixture
def flow(database: Database, clock: Clock) -> House:
    """Ann has her welcome; two steps are to come."""
    house = a_house(database, clock, FLOW)
    house.hear(an_event(clock))
    house.work()
    assert rows(house) == [("welcome", "sent", None), *steps("planned", "planned")]
    return house


def steps(*states: str, reason: str | None = None) -> list[tuple[str, str, str | None]]:
    names = ("welcome.first-week", "welcome.offer")
    return [(name, state, reason) for name, state in zip(names, states, strict=True)]


def rows(house: House) -> list[tuple[str, str, str | None]]:
    return sorted(house.rows(), key=lambda row: row[0])


def states(house: House) -> dict[str, str]:
    return {row.automation: row.state for row in house.services.ledger.letters()}


def asked_for(house: House, *names: str) -> list[str]:
    return [call[0] for call in house.wix.asked if call[0] in names]


def event_state(database: Database, event: str) -> tuple[str, str | None]:
    with database.read() as tx:
        row = tx.execute(sa.select(events_table).where(events_table.c.id == event)).one()
    return row.state, row.error


def answered(house: House, automation: str) -> None:
    """As the inbound door notes it."""
    with house.database.begin() as tx:
        found = sa.update(messages).where(messages.c.automation == automation)
        assert tx.execute(found.values(replied_at=tx.now)).rowcount == 1


def leaving(clock: Clock, type: str = events.MEMBER_LEFT, **about: Any) -> Event:  # noqa: A002 (as of an event)
    return an_event(clock, type=type, id=f"bye-{clock().timestamp()}", **about)


# A flow over days.


def test_the_letters_of_a_flow_go_out_one_by_one_over_the_days(flow: House, clock: Clock):
    joined_at = clock()
    gone_out = {}
    for _ in range(12 * 24):
        clock.move(hours=1)
        before = len(flow.mail.letters)
        flow.work()
        if len(flow.mail.letters) > before:
            gone_out[(clock() - joined_at).total_seconds() / 86400] = len(flow.mail.letters) - before
    assert gone_out == {3: 1, 10: 1}
    assert rows(flow) == [("welcome", "sent", None), *steps("sent", "sent")]


def test_the_keys_of_steps_are_their_own_and_an_event_told_twice_is_one_flow(flow: House, clock: Clock):
    flow.hear(an_event(clock, id="again"), an_event(clock, id="approved", type=events.JOIN_APPROVED))
    flow.work()
    assert sorted(row.key for row in flow.services.ledger.letters()) == [
        f"{name}:{RUNNERS}:{ANN}" for name in ("welcome.first-week", "welcome.offer", "welcome")
    ]


def test_a_flow_that_begins_late_keeps_its_distances(database: Database, clock: Clock):
    """After an outage of two days nobody gets the welcome and the letter of the second day in one minute."""
    house = a_house(database, clock, FLOW.replace('"3d"', '"1d"'))
    house.hear(an_event(clock, days=2))
    house.work()
    due = {row.automation: row.due_at - clock() for row in house.services.ledger.letters()}
    assert due == {
        "welcome": timedelta(0),
        "welcome.first-week": timedelta(days=1),
        "welcome.offer": timedelta(days=10),
    }
    on_time = a_house(database, clock, FLOW.replace('name = "welcome"', 'name = "hello"\nafter = "2d"'))
    on_time.hear(an_event(clock, id="e2", days=1))
    run_events(on_time.services)
    heard = {row.automation: row.due_at - clock() for row in on_time.services.ledger.letters()}
    assert (heard["hello"], heard["hello.first-week"]) == (timedelta(days=1), timedelta(days=2))


def test_a_step_does_not_overtake_the_letter_before_it(database: Database, clock: Clock):
    house = a_house(database, clock, FLOW.replace('"3d"', '"1h"'))
    house.mail.fails = [MailDeferredError("450 later", retry_after_s=7200)]
    house.hear(an_event(clock))
    house.work()
    clock.move(hours=1, minutes=1)
    house.work()
    assert rows(house)[:2] == [
        ("welcome", "deferred", "450 later"),
        ("welcome.first-week", "deferred", "an earlier letter of this flow has yet to go"),
    ]
    clock.move(hours=2)
    house.work()
    clock.move(minutes=15)
    house.work()
    assert [row[1] for row in rows(house)] == ["sent", "sent", "planned"]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"memberships": {}}, GONE),
        ({"memberships": {(RUNNERS, ANN): Membership("pending")}}, GONE),
        ({"members": {}}, "no such member at Wix any more"),
        ({"groups": {}}, "Wix does not know the group any more"),
        ({"groups": {RUNNERS: Group(RUNNERS, "Trail Walkers")}}, '"welcome.first-week" is not for this group any more'),
        ({"subscriptions": {"ann@example.com": Subscription("UNSUBSCRIBED")}}, "unsubscribed (Wix: UNSUBSCRIBED)"),
        (
            {"subscriptions": {"ann@example.com": Subscription("SUBSCRIBED", "SPAM_COMPLAINT")}},
            "the reader reported a letter as spam (Wix: SPAM_COMPLAINT)",
        ),
    ],
)  # fmt: skip
def test_a_step_looks_again_before_it_goes(
    database: Database, clock: Clock, what: dict[str, Any], reason: str
):
    house = a_house(
        database, clock, FLOW.replace('on = ["member', 'groups = ["*runners*"]\non = ["member', 1)
    )
    house.hear(an_event(clock))
    house.work()
    for name, changed in what.items():
        setattr(house.wix, name, changed)
    clock.move(days=3)
    house.work()
    assert rows(house) == [
        ("welcome", "sent", None),
        ("welcome.first-week", "skipped", reason),
        ("welcome.offer", "planned", None),
    ]


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (WELCOME, '"welcome.first-week" is no longer among the automations'),
        (FLOW.replace("first-week", "second-week"), '"welcome.first-week" is no longer among the automations'),
        (
            FLOW.replace('["member_added", "join_approved"]', '["role_assigned"]'),
            '"welcome.first-week" sends no letter upon member_added any more',
        ),
        (
            FLOW.replace("[[automation]]", '[[automation]]\nsites = ["another"]'),
            '"welcome.first-week" is not for this group any more',
        ),
        (
            FLOW.replace("[[automation]]", '[[automation]]\ngroups = ["Trail"]'),
            '"welcome.first-week" is not for this group any more',
        ),
        ("[policy]\nsend = false\n" + FLOW, "letters of this site are switched off; `send` would allow it"),
    ],
)  # fmt: skip
def test_a_step_goes_by_the_file_as_it_is_when_it_goes(flow: House, clock: Clock, now: str, reason: str):
    changed = a_house(flow.database, clock, now)
    clock.move(days=3)
    changed.work()
    assert rows(changed)[1] == ("welcome.first-week", "skipped", reason)
    assert changed.mail.letters == []


def test_consent_withdrawn_between_two_steps_ends_the_promotional_one_alone(flow: House, clock: Clock):
    clock.move(days=3)
    flow.work()
    flow.services.suppressions.unsubscribe(SITE, ANN, "some hash", "one click")
    clock.move(days=7)
    flow.work()
    assert rows(flow)[1:] == [
        ("welcome.first-week", "sent", None),
        ("welcome.offer", "skipped", "unsubscribed here (one click)"),
    ]


def test_wix_is_asked_for_answers_only_where_answers_decide(flow: House, clock: Clock):
    flow.wix.asked.clear()
    clock.move(days=3)
    flow.work()
    assert states(flow)["welcome.first-week"] == "sent"
    assert asked_for(flow, "get_membership", "get_group", "list_answers") == ["get_membership", "get_group"]


def test_a_member_whose_trouble_is_wixs_waits_with_the_step(flow: House, clock: Clock):
    flow.wix.fails["get_membership"] = [RetryableError("503 from Wix")]
    clock.move(days=3)
    flow.work()
    assert rows(flow)[1] == ("welcome.first-week", "deferred", "503 from Wix")
    clock.move(minutes=5)
    flow.work()
    assert rows(flow)[1] == ("welcome.first-week", "sent", None)


# Answers.

BY_ANSWER = YOGA.replace('email = "yoga-offer"', 'email = "yoga-offer"\nafter = "1d"')
THE_WORD = (Answer("Which class?", "Yoga, please"),)


def a_request(clock: Clock, **about: Any) -> Event:
    return an_event(clock, type=events.JOIN_REQUESTED, **about)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({(RUNNERS, ANN): (Answer("Which class?", "Football"),)}, 'no answer matched "yoga"'),
        (
            {(RUNNERS, ANN): (Answer("Which class?", "No yoga after all"),)},
            '"no yoga" in the answer to "Which class?" (none)',
        ),
        ({}, "no answers given"),
    ],
)
def test_answers_that_changed_meanwhile_count_as_they_are_now(
    database: Database, clock: Clock, answers: dict[Any, Any], reason: str
):
    house = a_house(database, clock, BY_ANSWER)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): THE_WORD}
    house.hear(a_request(clock))
    house.work()
    assert rows(house) == [("yoga-offer", "planned", None)]
    house.wix.answers = answers
    clock.move(days=1)
    house.work()
    assert rows(house) == [("yoga-offer", "skipped", f"the answers are others by now: {reason}")]


def test_answers_that_may_not_be_read_any_more_send_nothing(database: Database, clock: Clock):
    house = a_house(database, clock, BY_ANSWER)
    house.wix.answers = {(RUNNERS, ANN): THE_WORD}
    house.hear(a_request(clock))
    house.work()
    house.wix.fails["list_answers"] = [ForbiddenError("List Answers: 403")]
    clock.move(days=1)
    house.work()
    assert rows(house) == [("yoga-offer", "skipped", "the answers could not be read: List Answers: 403")]


def test_people_whose_answers_do_not_match_get_no_step_either(database: Database, clock: Clock):
    later = '[[automation.then]]\nname = "later"\nemail = "welcome"\nafter = "1d"\n'
    house = a_house(database, clock, YOGA + later)
    house.wix.answers = {(RUNNERS, ANN): (Answer("Which class?", "Football"),)}
    house.hear(a_request(clock))
    house.work()
    assert rows(house) == [
        (name, "skipped", 'no answer matched "yoga"') for name in ("yoga-offer", "yoga-offer.later")
    ]


def test_steps_of_the_rule_that_declines_are_its_own_and_those_of_others_are_not(
    database: Database, clock: Clock
):
    later = '[[automation.then]]\nname = "later"\nemail = "welcome"\nafter = "1d"\n'
    declining = YOGA.replace("promotional", "onboarding").replace(
        "[automation.a", 'decide = "reject"\n[automation.a'
    )
    house = a_house(
        database, clock, declining + later + WELCOME.replace("member_added", "join_requested") + later
    )
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): THE_WORD}
    house.hear(a_request(clock))
    run_events(house.services)
    declined = '"yoga-offer" declines the request'
    assert rows(house) == [
        ("welcome", "skipped", declined),
        ("welcome.later", "skipped", declined),
        ("yoga-offer", "planned", None),
        ("yoga-offer.later", "planned", None),
    ]


# Replies.


def test_who_answered_gets_no_further_step(flow: House, clock: Clock):
    answered(flow, "welcome")
    for days in (3, 7):
        clock.move(days=days)
        flow.work()
    assert rows(flow)[1:] == steps(
        "skipped", "skipped", reason="they answered an earlier letter of this flow"
    )


def test_an_answer_to_a_step_counts_for_those_after_it(flow: House, clock: Clock):
    clock.move(days=3)
    flow.work()
    answered(flow, "welcome.first-week")
    clock.move(days=7)
    flow.work()
    assert [state for _, state, _ in rows(flow)] == ["sent", "sent", "skipped"]


def test_a_step_may_go_on_after_an_answer(database: Database, clock: Clock):
    house = a_house(database, clock, FLOW.replace('after = "3d"', 'after = "3d"\nunless_replied = false'))
    house.hear(an_event(clock))
    house.work()
    answered(house, "welcome")
    for days in (3, 7):
        clock.move(days=days)
        house.work()
    assert [state for _, state, _ in rows(house)] == ["sent", "sent", "skipped"]


def test_an_answer_of_another_group_or_another_joining_stops_nothing(database: Database, clock: Clock):
    house = a_house(
        database, clock, FLOW.replace('email = "welcome"', 'email = "welcome"\nonce_per = "join"', 1)
    )
    house.wix.groups[TRADERS] = Group(TRADERS, "Traders")
    house.wix.memberships = {
        (RUNNERS, ANN): Membership("joined", joined_at=clock() - timedelta(hours=1)),
        (TRADERS, ANN): Membership("joined", joined_at=clock()),
    }
    house.hear(an_event(clock), an_event(clock, id="e2", group=TRADERS))
    house.work()
    with house.database.begin() as tx:
        first = sa.update(messages).where(messages.c.automation == "welcome", messages.c.group_id == RUNNERS)
        tx.execute(first.values(replied_at=tx.now))
    house.wix.memberships[RUNNERS, ANN] = Membership("joined", joined_at=clock() + timedelta(hours=1))
    clock.move(hours=1)
    house.hear(an_event(clock, id="e3"))
    house.work()
    clock.move(days=3, minutes=1)
    house.work()
    found = house.services.ledger.letters()
    week = {row.key.split(":", 1)[1]: row.state for row in found if row.automation == "welcome.first-week"}
    assert sorted(week.values()) == ["sent", "sent", "skipped"]
    [skipped] = [key for key, state in week.items() if state == "skipped"]
    assert skipped.endswith("2026-05-03T11:00:00+00:00"), "the joining whose letter was answered"


# Leaving.


@pytest.mark.parametrize("kind", [events.MEMBER_LEFT, events.MEMBER_REMOVED])
def test_who_leaves_has_nothing_waiting_any_more(database: Database, flow: House, clock: Clock, kind: str):
    clock.move(hours=1)
    flow.wix.memberships.clear()
    flow.hear(bye := leaving(clock, kind))
    flow.work()
    assert event_state(database, bye.id) == ("done", None)
    assert rows(flow) == [("welcome", "sent", None), *steps("skipped", "skipped", reason=GONE)]
    clock.move(days=30)
    flow.work()
    assert len(flow.mail.letters) == 1


FAREWELL = """
[[automation]]
name = "farewell"
on = ["member_removed"]
purpose = "onboarding"
email = "request-received"
[[automation.then]]
name = "come-back"
email = "welcome"
after = "30d"
"""


def test_the_farewell_that_the_same_event_plans_goes_out_and_so_do_its_steps(
    database: Database, clock: Clock
):
    house = a_house(database, clock, FLOW + FAREWELL)
    house.hear(an_event(clock))
    house.work()
    house.wix.memberships.clear()
    clock.move(hours=1)
    # Wix may tell of one leaving in both words.
    house.hear(leaving(clock))
    house.work()
    clock.move(hours=1)
    house.hear(leaving(clock, events.MEMBER_REMOVED))
    house.work()
    assert states(house) == {
        "welcome": "sent",
        "welcome.first-week": "skipped",
        "welcome.offer": "skipped",
        "farewell": "sent",
        "farewell.come-back": "planned",
    }
    clock.move(days=31)
    house.work()
    assert states(house)["farewell.come-back"] == "sent"


def test_a_farewell_waits_until_wix_shows_that_they_left(database: Database, clock: Clock):
    house = a_house(database, clock, FAREWELL)
    house.hear(leaving(clock))
    house.work()
    assert rows(house) == []
    house.wix.memberships.clear()
    clock.move(seconds=5)
    house.work()
    assert states(house)["farewell"] == "sent"


def test_only_the_group_that_somebody_leaves_is_stopped_and_nobody_else(flow: House, clock: Clock):
    bob = "m-bob"
    flow.wix.groups[TRADERS] = Group(TRADERS, "Traders")
    flow.wix.members[bob] = replace(flow.wix.members[ANN], id=bob, email="bob@example.com")
    flow.wix.subscriptions["bob@example.com"] = Subscription("SUBSCRIBED", "VALID")
    flow.wix.memberships |= {(TRADERS, ANN): Membership("joined"), (RUNNERS, bob): Membership("joined")}
    flow.hear(an_event(clock, id="e2", group=TRADERS), an_event(clock, id="e3", member=bob))
    flow.work()
    del flow.wix.memberships[RUNNERS, ANN]
    flow.hear(leaving(clock))
    flow.work()
    found = flow.services.ledger.letters()
    assert {(row.group_id, row.member): row.state for row in found if row.automation == "welcome.offer"} == {
        (RUNNERS, ANN): "skipped",
        (TRADERS, ANN): "planned",
        (RUNNERS, bob): "planned",
    }


def test_a_leaving_that_was_overtaken_by_a_coming_back_stops_nothing(
    database: Database, flow: House, clock: Clock
):
    clock.move(hours=1)
    bye = leaving(clock)
    clock.move(minutes=1)
    flow.hear(bye)
    flow.work()
    assert rows(flow)[1:] == steps("planned", "planned")
    assert event_state(database, bye.id) == ("ignored", "no automation listens to member_removed")


def test_a_leaving_that_wix_does_not_show_yet_is_looked_at_again(
    database: Database, flow: House, clock: Clock
):
    flow.hear(bye := leaving(clock))
    flow.work()
    assert event_state(database, bye.id) == ("received", "Wix does not show it yet (joined)")
    flow.wix.memberships.clear()
    clock.move(seconds=5)
    flow.work()
    assert rows(flow)[1:] == steps("skipped", "skipped", reason=GONE)


def test_an_old_leaving_stops_what_waits_all_the_same(flow: House, clock: Clock):
    flow.wix.memberships.clear()
    clock.move(hours=1)
    flow.hear(an_event(clock, type=events.MEMBER_LEFT, id="old", days=9))
    run_events(flow.services)
    assert [state for _, state, _ in rows(flow)] == ["sent", "skipped", "skipped"]


def test_wix_is_not_asked_about_somebody_for_whom_nothing_waits(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.memberships.clear()
    house.hear(bye := leaving(clock), an_event(clock, type=events.JOIN_CANCELED, id="e2"))
    house.work()
    assert house.wix.asked == []
    assert event_state(database, bye.id) == ("ignored", "no automation listens to member_removed")
    assert event_state(database, "e2") == ("ignored", "nothing waits for them")


def test_one_question_to_wix_is_enough_for_stop_and_farewell(database: Database, clock: Clock):
    house = a_house(database, clock, FLOW + FAREWELL)
    house.hear(an_event(clock))
    house.work()
    house.wix.memberships.clear()
    house.wix.asked.clear()
    house.hear(leaving(clock))
    run_events(house.services)
    assert asked_for(house, "get_membership") == ["get_membership"]


def test_who_comes_back_gets_the_steps_they_have_not_had(flow: House, clock: Clock):
    clock.move(days=3)
    flow.work()
    inside = dict(flow.wix.memberships)
    flow.wix.memberships.clear()
    flow.hear(leaving(clock))
    flow.work()
    flow.wix.memberships.update(inside)
    clock.move(days=60)
    flow.hear(an_event(clock, id="back"))
    flow.work()
    clock.move(days=10)
    flow.work()
    assert rows(flow) == [("welcome", "sent", None), *steps("sent", "sent")]
    assert len(flow.mail.letters) == 3


REQUESTED = """
[[automation]]
name = "still-looking"
on = ["join_requested"]
purpose = "onboarding"
email = "request-received"
after = "2d"
"""


@pytest.mark.parametrize("kind", [events.JOIN_REJECTED, events.JOIN_CANCELED])
def test_a_request_that_is_over_stops_its_own_letters_and_no_others(
    database: Database, clock: Clock, kind: str
):
    house = a_house(database, clock, FLOW + REQUESTED)
    house.hear(an_event(clock))
    house.wix.memberships = {(RUNNERS, ANN): Membership("joined")}
    house.work()
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.hear(a_request(clock, id="r1"))
    house.work()
    assert states(house)["still-looking"] == "planned"
    house.wix.memberships.clear()
    clock.move(hours=1)
    house.hear(leaving(clock, kind))
    house.work()
    assert rows(house) == [
        ("still-looking", "skipped", "the request is no longer pending"),
        ("welcome", "sent", None),
        *steps("planned", "planned"),
    ]


def test_a_request_made_anew_keeps_its_letters(database: Database, clock: Clock):
    house = a_house(database, clock, REQUESTED)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.hear(a_request(clock))
    house.work()
    clock.move(hours=1)
    house.hear(an_event(clock, type=events.JOIN_CANCELED, id="e2", minutes=5))
    house.work()
    assert rows(house) == [("still-looking", "planned", None)]


def test_who_left_and_asks_to_be_let_in_again_keeps_the_letters_of_the_request(
    database: Database, clock: Clock
):
    house = a_house(database, clock, FLOW + REQUESTED)
    house.hear(an_event(clock))
    house.work()
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.hear(a_request(clock, id="r1"))
    house.work()
    house.hear(leaving(clock))
    house.work()
    assert states(house) == {
        "welcome": "sent",
        "welcome.first-week": "skipped",
        "welcome.offer": "skipped",
        "still-looking": "planned",
    }


# The cap.


def offer_events(clock: Clock, *ids: str) -> list[Event]:
    return [an_event(clock, id=id_) for id_ in ids]


def test_the_cap_counts_over_automations_and_what_does_not_fit_waits_for_room(
    database: Database, clock: Clock
):
    capped = '[policy]\npromotional_cap = "1 per 5d"\n'
    house = a_house(database, clock, capped + TWO_OFFERS)
    house.hear(an_event(clock))
    house.work()
    house.work()
    assert sorted(states(house).values()) == ["deferred", "sent"]
    clock.move(days=4, hours=23)
    house.work()
    assert len(house.mail.letters) == 1
    [waits] = [row for row in house.services.ledger.letters() if row.state == "deferred"]
    assert waits.reason in (
        "has had 1 promotional letters in 5 days",
        "another promotional letter to this person came first",
    )
    clock.move(hours=2)
    house.work()
    assert sorted(states(house).values()) == ["sent", "sent"]


def test_of_two_workers_with_one_offer_each_for_the_same_person_one_sends(database: Database, clock: Clock):
    """Both have decided to send; the last word is at the mark, under one lock."""
    capped = '[policy]\npromotional_cap = "1 per 5d"\n' + TWO_OFFERS
    house, other = a_house(database, clock, capped), a_house(database, clock, capped)
    house.hear(an_event(clock))
    run_events(house.services)
    real_claim = house.services.ledger.claim
    house.services.ledger.claim = lambda limit: real_claim(min(limit, 1))  # type: ignore[method-assign]
    real_send = house.mail.send

    def meanwhile(
        clearance: Any, sender: str, message: bytes, about_to_commit: Callable[[], None], *waits: Any
    ) -> str:
        deliver_letters(other.services)
        return real_send(clearance, sender, message, about_to_commit, *waits)

    house.mail.send = meanwhile  # type: ignore[method-assign]
    deliver_letters(house.services)

    assert (len(house.mail.letters), len(other.mail.letters)) == (0, 1)
    assert sorted(states(house).values()) == ["deferred", "sent"]
    [waits] = [row for row in house.services.ledger.letters() if row.state == "deferred"]
    assert waits.reason == "another promotional letter to this person came first"


def test_what_finds_no_room_before_it_is_stale_is_skipped_at_once(database: Database, clock: Clock):
    house = a_house(database, clock, '[policy]\npromotional_cap = "1 per 30d"\n' + TWO_OFFERS)
    house.hear(an_event(clock))
    house.work()
    clock.move(minutes=5)
    house.work()
    [skipped] = [row for row in house.services.ledger.letters() if row.state == "skipped"]
    assert re.fullmatch(
        r"has had 1 promotional letters in 30 days, and then it is too late: it was due on 2026-05-03 12:00 UTC; "
        r"a longer `not_after` would allow it",
        skipped.reason,
    )


def test_the_cap_leaves_onboarding_letters_alone_and_counts_over_groups(database: Database, clock: Clock):
    house = a_house(database, clock, '[policy]\npromotional_cap = "1 per 5d"\n' + TWO_OFFERS + WELCOME)
    house.wix.groups[TRADERS] = Group(TRADERS, "Traders")
    house.wix.memberships[TRADERS, ANN] = Membership("joined")
    house.hear(an_event(clock), an_event(clock, id="e2", group=TRADERS))
    house.work()
    sent = [row.automation for row in house.services.ledger.letters() if row.state == "sent"]
    assert sorted(sent)[-2:] == ["welcome", "welcome"]
    assert len(sent) == 3


# Quiet hours, and letters that are too late.


def test_an_offer_of_the_night_goes_out_in_the_morning_and_a_welcome_at_once(
    database: Database, clock: Clock
):
    night = '[policy]\nquiet_hours = "21:00-08:00"\ntime_zone = "Europe/Berlin"\n'
    house = a_house(database, clock, night + TWO_OFFERS + WELCOME)
    clock.now = datetime(2026, 5, 3, 20, 30, tzinfo=UTC)  # 22:30 in Berlin
    house.hear(an_event(clock))
    house.work()
    reason = "quiet hours (21:00 to 08:00, Europe/Berlin)"
    assert rows(house) == [
        ("races", "deferred", reason),
        ("shoes", "deferred", reason),
        ("welcome", "sent", None),
    ]
    clock.now = datetime(2026, 5, 4, 5, 59, tzinfo=UTC)
    house.work()
    assert len(house.mail.letters) == 1
    clock.now = datetime(2026, 5, 4, 6, 0, tzinfo=UTC)
    house.work()
    assert set(states(house).values()) == {"sent"}


def test_each_site_has_its_own_night_and_its_own_switch(database: Database, clock: Clock):
    policy = f"""
[policy]
quiet_hours = "21:00-08:00"
time_zone = "Europe/Berlin"
[policy.site."{SITE}"]
time_zone = "America/New_York"
[policy.site."mute"]
send = false
"""
    house = a_house(database, clock, policy + TWO_OFFERS)
    clock.now = datetime(2026, 5, 3, 20, 30, tzinfo=UTC)  # 22:30 in Berlin, 16:30 in New York
    for site in ("berlin", "mute", SITE):
        house.hear(replace(an_event(clock, id=f"e-{site}"), site=SiteId(site)))
    house.work()
    found = {row.site: (row.state, row.reason) for row in house.services.ledger.letters()}
    assert found == {
        SITE: ("sent", None),
        "berlin": ("deferred", "quiet hours (21:00 to 08:00, Europe/Berlin)"),
        "mute": ("skipped", "letters of this site are switched off; `send` would allow it"),
    }


@pytest.mark.parametrize(("hours", "state"), [(11, "sent"), (13, "skipped")])
def test_a_letter_that_could_not_go_for_too_long_is_stale(
    database: Database, clock: Clock, hours: int, state: str
):
    house = a_house(database, clock, WELCOME + 'not_after = "12h"\n')
    house.mail.fails = [MailDeferredError("450 later", retry_after_s=60)]
    house.hear(an_event(clock))
    house.work()
    clock.move(hours=hours)
    house.work()
    [(_, now, reason)] = rows(house)
    assert now == state
    if state == "skipped":
        assert reason == "too late: it was due on 2026-05-03 12:00 UTC; a longer `not_after` would allow it"


# What people see.


@pytest.fixture
def usher(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Run a command in this process; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    def usher(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["usher", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    return usher


def test_a_persons_flows_are_shown_step_by_step(flow: House, clock: Clock, usher: Callable[..., str]):
    clock.move(days=3)
    flow.work()
    answered(flow, "welcome.first-week")
    asked = len(flow.wix.asked)
    with flow.database.begin() as tx:
        known = tx.connection.scalar(sa.select(sa.func.max(messages.c.address_hash)))
        suppress(
            tx, SITE, f"address:{known}", "all", cause="full", reason="the mailbox is full",
            expires_at=datetime(2199, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        suppress(
            tx, SITE, f"member:{ANN}", "promotional", cause="unsubscribed", reason="unsubscribed here (link)"
        )

    lines = [" ".join(line.split()) for line in usher("people", "show", ANN).splitlines() if line.strip(" ─")]

    assert lines == [
        f"Member {ANN} of site {SITE}",
        "Group Flow Step Email State When",
        f"{RUNNERS} welcome welcome sent sent 2026-05-03 12:00:00 UTC",
        f"{RUNNERS} welcome first-week welcome sent sent 2026-05-06 12:00:00 UTC, answered 2026-05-06 12:00:00 UTC",
        f"{RUNNERS} welcome offer yoga-offer planned due 2026-05-13 12:00:00 UTC",
        "Not to get Cause Reason Until",
        "any letter full the mailbox is full 2199-01-01 00:00:00 UTC",
        "promotional letters unsubscribed unsubscribed here (link) for good",
    ]
    assert len(flow.wix.asked) == asked, "Wix is not asked"


def test_a_persons_flows_are_json_for_programs(flow: House, clock: Clock, usher: Callable[..., str]):
    flow.wix.groups[TRADERS] = Group(TRADERS, "Traders")
    flow.wix.memberships[TRADERS, ANN] = Membership("joined")
    clock.move(hours=1)
    flow.hear(an_event(clock, id="e2", group=TRADERS))
    flow.work()
    flow.wix.memberships.clear()
    flow.hear(leaving(clock, group=TRADERS))
    flow.work()

    [person] = json.loads(usher("people", "show", ANN, "--json"))

    assert (person["site"], person["member"], person["suppressions"]) == (SITE, ANN, [])
    assert [(found["group"], found["flow"]) for found in person["flows"]] == [
        (RUNNERS, "welcome"),
        (TRADERS, "welcome"),
    ]
    assert [
        [
            (letter["automation"], letter["state"], letter.get("reason"), letter["due_at"])
            for letter in found["letters"]
        ]
        for found in person["flows"]
    ] == [
        [
            ("welcome", "sent", None, "2026-05-03T12:00:00.000000Z"),
            ("welcome.first-week", "planned", None, "2026-05-06T12:00:00.000000Z"),
            ("welcome.offer", "planned", None, "2026-05-13T12:00:00.000000Z"),
        ],
        [
            ("welcome", "sent", None, "2026-05-03T13:00:00.000000Z"),
            ("welcome.first-week", "skipped", GONE, "2026-05-06T13:00:00.000000Z"),
            ("welcome.offer", "skipped", GONE, "2026-05-13T13:00:00.000000Z"),
        ],
    ]


def test_a_person_is_shown_for_each_site_that_knows_them(
    flow: House, clock: Clock, usher: Callable[..., str]
):
    with flow.database.begin() as tx:
        suppress(
            tx, SiteId("elsewhere"), f"member:{ANN}", "all", cause="forgotten", reason="asked to be forgotten"
        )

    assert [person["site"] for person in json.loads(usher("people", "show", ANN, "--json"))] == [
        SITE,
        "elsewhere",
    ]
    assert [
        person["site"] for person in json.loads(usher("people", "show", ANN, "--site", SITE, "--json"))
    ] == [SITE]
    assert "Nothing stands against letters to them here." in usher("people", "show", ANN, "--site", SITE)
    assert "asked to be forgotten" in usher("people", "show", ANN, "--site", "elsewhere")
    assert json.loads(usher("people", "show", "nobody", "--json")) == []
    assert usher("people", "show", "nobody") == "Nothing is known of them.\n"


def test_trying_the_file_shows_the_steps(usher: Callable[..., str], tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text(FLOW.replace('"10d"', '"36h"').replace('"3d"', '"1h"\nunless_replied = false'))

    assert usher("automations", "try", file, "--on", "member_added").splitlines() == [
        "YES  welcome: applies to everybody",
        (
            "     → letter welcome (onboarding); after 1h: welcome.first-week, letter welcome (onboarding); "
            "after 1d12h: welcome.offer, letter yoga-offer (promotional, unless they replied)"
        ),
    ]
    assert usher("automations", "check", file).splitlines() == [
        "welcome: on join_approved, member_added",
        "welcome.first-week: on join_approved, member_added, after 1h",
        "welcome.offer: on join_approved, member_added, after 1d12h",
        "1 automations, no mistakes.",
    ]
