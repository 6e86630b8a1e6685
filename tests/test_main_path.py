"""From an event in the journal to a letter in the ledger, on both databases; Wix and the mail server are ours."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from core import events
from core.community import Answer, Group, GroupId, Member, Membership, SiteId, Subscription
from core.errors import (
    ForbiddenError,
    JournalUnavailableError,
    LostLeaseError,
    MailDeferredError,
    MailInDoubtError,
    MailRefusedError,
    PermanentError,
    RetryableError,
)
from core.gate import Clearance
from integrations.store.database import Database
from integrations.store.ledger import ClaimedLetter
from integrations.store.tables import events as events_table
from integrations.store.tables import messages, suppressions
from tasks.events import run_event, run_events
from tasks.letters import deliver_letters
from tests.house import ANN, RUNNERS, SITE, WELCOME, YOGA, Clock, a_house, an_event


def event_states(database: Database) -> list[tuple[str, str | None]]:
    with database.begin() as tx:
        return [(row.state, row.error) for row in tx.execute(sa.select(events_table))]


def request_of(clock: Clock):
    return an_event(
        clock,
        type=events.JOIN_REQUESTED,
        id="r1",
        payload=json.dumps({"entityId": RUNNERS, "createdEvent": {"entity": {"siteMemberId": ANN}}}),
    )


def test_a_new_member_is_greeted_by_name(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    [(sender, to, message)] = house.mail.letters
    assert sender.startswith("usher+b")
    assert (sender.partition("@")[2], to) == ("club.example.com", "ann@example.com")
    assert b"Ann" in message
    assert b"Trail Runners" in message
    assert house.rows() == [("welcome", "sent", None)]
    assert event_states(database) == [("done", None)]


def test_the_same_delivery_fifty_times_is_one_event_and_one_letter(database: Database, clock: Clock):
    house = a_house(database, clock)
    assert house.hear(*[an_event(clock)] * 25) == [True] + [False] * 24
    assert house.hear(*[an_event(clock)] * 25) == [False] * 25
    house.work()
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_approved_and_added_are_one_welcome(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), an_event(clock, type=events.JOIN_APPROVED, id="e2"))
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_removed_before_the_welcome_was_planned_means_no_welcome(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.memberships.clear()
    house.hear(an_event(clock))
    house.work()
    assert event_states(database)[0][0] == "received", "Wix may lag: look again in some seconds"
    clock.move(seconds=40)
    house.work()
    assert house.mail.readers == []
    assert house.rows() == [("welcome", "skipped", "not a member of the group any more")]


def test_a_member_whom_wix_shows_only_seconds_later_is_greeted(database: Database, clock: Clock):
    house = a_house(database, clock)
    joined = dict(house.wix.memberships)
    house.wix.memberships.clear()
    house.hear(an_event(clock))
    house.work()
    house.wix.memberships.update(joined)
    clock.move(seconds=5)
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_an_event_older_than_max_age_is_recorded_and_not_acted_on(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock, days=4))
    house.work()
    assert event_states(database) == [("ignored", "4.0 days old; `max_age` would allow it")]
    assert house.wix.asked == []


def test_a_type_nobody_listens_to_is_kept_without_its_payload(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(
        an_event(clock, type="wix.contacts.v4.contact_updated", payload='{"email": "ann@example.com"}')
    )
    with database.begin() as tx:
        [row] = tx.execute(sa.select(events_table))
    assert (row.state, row.payload) == ("ignored", "{}")


def test_an_event_that_names_nobody_is_set_aside_with_its_reason(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock, payload="{}"))
    house.work()
    assert event_states(database) == [("dead", "the event names no group")]


@pytest.mark.parametrize(
    ("subscription", "reason"),
    [
        (Subscription("UNSUBSCRIBED"), "unsubscribed (Wix: UNSUBSCRIBED)"),
        (Subscription("PENDING"), "asked to confirm and has not answered (Wix: PENDING)"),
        (Subscription("NOT_SET"), "never subscribed (Wix: NOT_SET)"),
        (None, "never subscribed (Wix has no record of the address)"),
        (Subscription("SUBSCRIBED", "BOUNCED"), "letters to this address bounced (Wix: BOUNCED)"),
        (Subscription("SUBSCRIBED", "SPAM_COMPLAINT"), "the reader reported a letter as spam"),
    ],
)
def test_an_offer_is_refused_without_consent_and_the_refusal_says_why(
    database: Database, clock: Clock, subscription: Subscription | None, reason: str
):
    house = a_house(database, clock, YOGA)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): (Answer("Which class?", "Yoga, please"),)}
    house.wix.subscriptions = {"ann@example.com": subscription} if subscription else {}
    house.hear(request_of(clock))
    house.work()
    [(_, state, said)] = house.rows()
    assert state == "skipped"
    assert said is not None
    assert said.startswith(reason)
    assert house.mail.letters == []


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        ("Yoga, please", "sent", None),
        ("Football", "skipped", 'no answer matched "yoga"'),
        (
            "No yoga for me, not even yoga nidra",
            "skipped",
            '"no yoga" in the answer to "Which class?" (none)',
        ),
    ],
)
def test_answers_decide_about_the_offer(
    database: Database, clock: Clock, answer: str, state: str, reason: str | None
):
    house = a_house(database, clock, YOGA)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): (Answer("Which class?", answer),)}
    house.hear(request_of(clock))
    house.work()
    assert house.rows() == [("yoga-offer", state, reason)]


def test_a_refusal_that_a_setting_could_change_names_the_setting(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.subscriptions = {}
    house.hear(an_event(clock))
    house.work()
    [(_, _, reason)] = house.rows()
    assert reason is not None
    assert reason.endswith("`onboarding_without_consent` would allow it")
    allowed = a_house(database, clock, "[policy]\nonboarding_without_consent = true\n" + WELCOME)
    allowed.wix.subscriptions = {}
    allowed.hear(an_event(clock, id="e2"))
    allowed.work()
    assert allowed.mail.readers == ["ann@example.com"], "somebody only ever skipped may be written to later"


def test_answers_that_may_not_be_read_send_nothing_and_say_what_would_allow_it(
    database: Database, clock: Clock
):
    house = a_house(database, clock, YOGA)
    house.wix.fails["list_answers"] = [ForbiddenError("List Answers: 403; WIX_API_KEY would allow it")]
    house.hear(request_of(clock))
    house.work()
    [(_, state, reason)] = house.rows()
    assert state == "skipped"
    assert reason == "the answers could not be read: List Answers: 403; WIX_API_KEY would allow it"


DECIDE = """
[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["certified teacher"]
[[automation]]
name = "no-adverts"
on = ["join_requested"]
decide = "reject"
reason = "No advertising, please."
[automation.answers]
any = ["discount"]
[[automation]]
name = "ask-somebody"
on = ["join_requested"]
decide = "flag"
[automation.answers]
any = ["press"]
"""


@pytest.mark.parametrize(
    ("answer", "asked", "state"),
    [
        ("I am a certified teacher", ("approve_requests", RUNNERS, (ANN,)), "done"),
        ("A discount!", ("reject_requests", RUNNERS, (ANN,), "No advertising, please."), "done"),
        ("I am from the press", None, "flagged"),
        ("certified teacher, discount", ("approve_requests", RUNNERS, (ANN,)), "done"),
    ],
)
def test_rules_decide_about_a_request_once(
    database: Database, clock: Clock, answer: str, asked: tuple[object, ...] | None, state: str
):
    house = a_house(database, clock, DECIDE)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): (Answer("Who are you?", answer),)}
    house.hear(request_of(clock))
    house.work()
    house.work()
    decisions = [call for call in house.wix.asked if call[0] in ("approve_requests", "reject_requests")]
    assert decisions == ([asked] if asked else [])
    assert [row.state for row in house.services.outbox.calls()] == [state]


def test_a_request_that_was_decided_by_somebody_else_is_left_alone(database: Database, clock: Clock):
    house = a_house(database, clock, DECIDE)
    house.wix.answers = {(RUNNERS, ANN): (Answer("Who are you?", "certified teacher"),)}
    house.hear(request_of(clock))
    house.work()
    assert house.services.outbox.calls() == []


def test_a_decision_waits_for_wix_to_come_back(database: Database, clock: Clock):
    house = a_house(database, clock, DECIDE)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): (Answer("Who are you?", "certified teacher"),)}
    house.wix.fails["approve_requests"] = [RetryableError("503"), RetryableError("503")]
    house.hear(request_of(clock))
    for _ in range(4):
        house.work()
        clock.move(seconds=61)
    assert [row.state for row in house.services.outbox.calls()] == ["done"]


def test_wix_being_away_postpones_the_event_and_the_letter_comes_later(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [RetryableError("503 from Wix", request_id="abc")]
    house.wix.fails["get_members"] = [RetryableError("503 from Wix")]
    house.hear(an_event(clock))
    house.work()
    assert event_states(database) == [("received", "503 from Wix")]
    clock.move(minutes=1)
    house.work()
    assert house.rows() == [("welcome", "deferred", "503 from Wix")]
    clock.move(minutes=1)
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_waiting_for_the_budget_uses_no_attempts_up(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [RetryableError("no room", counts=False, retry_after_s=1.0)] * 40
    house.hear(an_event(clock))
    for _ in range(41):
        house.work()
        clock.move(seconds=2)
    assert house.mail.readers == ["ann@example.com"]


def test_a_site_whose_wix_fails_rests_and_other_sites_go_on(database: Database, clock: Clock):
    """One row finds out; the others of that site wait behind it and use no attempts up."""
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [RetryableError("503")]
    theirs = replace(an_event(clock, id="theirs"), site=SiteId("another-site"))
    house.hear(*(an_event(clock, id=f"e{number}") for number in range(5)))
    house.work()
    clock.move(seconds=1)
    house.hear(theirs)
    house.work()
    with database.begin() as tx:
        found = {row.id: (row.state, row.attempts) for row in tx.execute(sa.select(events_table))}
    assert found.pop("theirs") == ("done", 0)
    assert sorted(found.values()) == [("received", 0)] * 4 + [("received", 1)]
    clock.move(minutes=1)
    house.work()
    assert {state for state, _ in event_states(database)} == {"done"}


def test_an_outage_of_a_day_costs_no_event(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [RetryableError("503")] * 60
    house.hear(an_event(clock))
    for _ in range(61):
        house.work()
        clock.move(minutes=31)
    assert house.mail.readers == ["ann@example.com"]


def test_an_outage_longer_than_max_age_ends_in_a_reason(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [RetryableError("503")]
    house.hear(an_event(clock))
    house.work()
    clock.move(days=3, minutes=1)
    house.work()
    assert event_states(database) == [("ignored", "3.0 days old; `max_age` would allow it")]


def test_a_defect_that_stays_is_set_aside_in_the_end(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [ZeroDivisionError()] * 25
    house.hear(an_event(clock))
    for _ in range(25):
        house.work()
        clock.move(minutes=31)
    assert event_states(database) == [("dead", "failed 25 times: ZeroDivisionError")]


def test_a_defect_of_ours_does_not_hold_up_the_others(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [ZeroDivisionError()]
    house.hear(an_event(clock))
    house.hear(an_event(clock, id="e2"))
    house.work()
    assert sorted(event_states(database)) == [("done", None), ("received", "ZeroDivisionError")]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MailDeferredError("450 busy"), "deferred"),
        (MailRefusedError("550 5.7.1 policy"), "failed"),
        (MailInDoubtError("silence after the dot"), "in_doubt"),
    ],
)
def test_what_the_mail_server_said_decides_about_the_row(
    database: Database, clock: Clock, error: Exception, state: str
):
    house = a_house(database, clock)
    house.mail.fails = [error]
    house.hear(an_event(clock))
    house.work()
    assert [row[1] for row in house.rows()] == [state]
    clock.move(hours=5)
    house.work()
    assert house.mail.readers == (["ann@example.com"] if state == "deferred" else [])


def test_a_dead_address_is_never_tried_again(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.mail.fails = [MailRefusedError("550 5.1.1 no such user", address_is_dead=True)]
    house.hear(an_event(clock))
    house.work()
    clock.move(seconds=1)
    house.wix.groups |= {GroupId("g2"): Group(GroupId("g2"), "Yoga")}
    house.wix.memberships |= {("g2", ANN): Membership("joined")}
    house.hear(an_event(clock, id="e2", group="g2"))
    house.work()
    assert [state for _, state, _ in house.rows()] == ["failed", "skipped"]
    assert house.mail.readers == []


def test_a_worker_that_dies_between_dot_and_answer_leaves_a_letter_in_doubt(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.mail.dies_after_dot = [KeyboardInterrupt()]
    house.hear(an_event(clock))
    with pytest.raises(KeyboardInterrupt):
        house.work()
    clock.move(hours=1)
    house.work()
    assert [state for _, state, _ in house.rows()] == ["in_doubt"]
    assert house.mail.readers == ["ann@example.com"]


def test_a_worker_that_dies_before_the_dot_leaves_a_letter_that_is_sent_again(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.mail.fails = [KeyboardInterrupt()]  # type: ignore[list-item]
    house.hear(an_event(clock))
    with pytest.raises(KeyboardInterrupt):
        house.work()
    clock.move(hours=1)
    house.work()
    assert house.mail.readers == ["ann@example.com"]
    assert [state for _, state, _ in house.rows()] == ["sent"]


def test_a_row_that_keeps_killing_its_worker_is_set_aside(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_group"] = [KeyboardInterrupt()] * 9  # type: ignore[list-item]
    house.hear(an_event(clock))
    for _ in range(6):
        try:
            house.work()
        except KeyboardInterrupt:
            clock.move(minutes=10)
    assert event_states(database)[0][0] == "dead"
    assert len(house.wix.fails["get_group"]) == 4


def test_a_worker_that_lost_its_lease_writes_nothing_more(database: Database, clock: Clock):
    house = a_house(database, clock)
    other = a_house(database, clock)
    house.hear(an_event(clock))
    [slow] = house.services.journal.claim(10)
    clock.move(minutes=10)
    [fast] = other.services.journal.claim(10)
    with pytest.raises(LostLeaseError):
        house.services.journal.bury(slow, "too late")
    house.services.journal.give_back([slow])
    other.services.journal.bury(fast, "in time")
    assert event_states(database) == [("dead", "in time")]


def test_the_final_dot_is_held_back_when_the_lease_ran_out(database: Database, clock: Clock):
    house = a_house(database, clock)
    real_send = house.mail.send
    refused: list[LostLeaseError] = []

    def slow_at_first(clearance: Clearance, sender: str, message: bytes, about_to_commit, *waits: Any):
        if not refused:
            clock.move(minutes=2)
        try:
            return real_send(clearance, sender, message, about_to_commit, *waits)
        except LostLeaseError as exc:
            refused.append(exc)
            raise

    house.mail.send = slow_at_first  # type: ignore[method-assign]
    house.hear(an_event(clock))
    house.work()
    assert len(refused) == 1
    assert house.mail.readers == ["ann@example.com"]


def test_blocked_members_and_members_without_an_address_are_not_written_to(database: Database, clock: Clock):
    house = a_house(database, clock)
    bob = "m-bob"
    house.wix.members = {ANN: Member(ANN, "BLOCKED", "ann@example.com"), bob: Member(bob, "OFFLINE", "")}
    house.wix.memberships |= {(RUNNERS, bob): Membership("joined")}
    house.hear(an_event(clock), an_event(clock, id="e2", member=bob))
    house.work()
    assert sorted(str(reason) for _, _, reason in house.rows()) == [
        "the member has no address",
        "the member is blocked on the site",
    ]


def test_an_erased_person_is_forgotten_and_never_greeted_whatever_the_order(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "1d"'))
    house.hear(an_event(clock))
    house.work()
    house.hear(
        an_event(clock, type=events.MEMBER_DELETED, id="e2", payload=f'{{"entityId": "{ANN}"}}', erasure=True)
    )
    house.work()
    house.hear(an_event(clock, id="e3", type=events.JOIN_APPROVED))
    clock.move(days=2)
    house.work()
    house.work()
    assert house.mail.readers == []
    assert house.rows() == [("welcome", "skipped", "the person asked to be forgotten")]
    with database.begin() as tx:
        assert tx.execute(sa.select(messages.c.address_hash)).scalar() is None
        assert tx.execute(sa.select(suppressions.c.scope)).scalars().all() == ["all"]


def test_whoever_leaves_gets_no_follow_up(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "2d"'))
    house.hear(an_event(clock))
    house.work()
    assert house.rows() == [("welcome", "planned", None)]
    house.wix.memberships.clear()
    clock.move(days=2, minutes=1)
    house.work()
    assert house.rows() == [("welcome", "skipped", "not a member of the group any more")]


def test_a_follow_up_goes_out_when_its_time_has_come_and_not_before(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "2d"'))
    house.hear(an_event(clock))
    clock.move(days=1, hours=23)
    house.work()
    assert house.mail.readers == []
    clock.move(hours=2)
    house.work()
    assert house.mail.readers == ["ann@example.com"]


@pytest.mark.parametrize(("once_per", "letters"), [("member", 1), ("join", 2)])
def test_whoever_comes_back_is_greeted_as_once_per_says(
    database: Database, clock: Clock, once_per: str, letters: int
):
    house = a_house(database, clock, WELCOME + f'once_per = "{once_per}"\n')
    for number in range(2):
        joined = clock()
        house.wix.memberships = {(RUNNERS, ANN): Membership("joined", joined_at=joined)}
        added = an_event(
            clock,
            id=f"added-{number}",
            payload=json.dumps(
                {
                    "actionEvent": {
                        "body": {
                            "groupId": RUNNERS,
                            "groupMember": {"memberId": ANN, "joinedDate": joined.isoformat()},
                        }
                    }
                }
            ),
        )
        house.hear(added, an_event(clock, id=f"approved-{number}", type=events.JOIN_APPROVED))
        house.work()
        clock.move(days=3)
    assert len(house.mail.letters) == letters


def test_a_site_that_removed_the_app_is_left_alone_until_it_installs_it_again(
    database: Database, clock: Clock
):
    house = a_house(database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "1h"'))
    house.hear(an_event(clock))
    house.work()
    house.hear(an_event(clock, type=events.APP_REMOVED, id="e2", payload="{}"))
    house.work()
    house.hear(an_event(clock, id="e3", member="m-bob"))
    clock.move(hours=2)
    house.work()
    assert house.rows() == [("welcome", "skipped", "the app was removed from this site")]
    assert house.mail.readers == []
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="e4", payload="{}"))
    house.work()
    house.hear(an_event(clock, id="e5"))
    house.work()
    clock.move(hours=2)
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_one_click_ends_offers_at_once_and_wix_is_told_when_it_is_back(database: Database, clock: Clock):
    house = a_house(database, clock, YOGA)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): (Answer("Which class?", "yoga"),)}
    house.hear(request_of(clock))
    house.work()
    [(_, _, message)] = house.mail.letters
    url = message.partition(b"List-Unsubscribe: <")[2].partition(b">")[0].decode()
    claim = house.services.letterhead.tokens.read(url.rpartition("/")[2])
    assert (claim.site, claim.member) == (SITE, ANN)
    house.wix.fails["set_subscription"] = [RetryableError("Wix is away")]
    house.services.suppressions.unsubscribe(claim.site, claim.member, claim.address_hash, "one click")
    house.services.suppressions.unsubscribe(claim.site, claim.member, claim.address_hash, "one click")
    clock.move(seconds=1)
    house.wix.groups |= {GroupId("g2"): Group(GroupId("g2"), "Yoga")}
    house.wix.memberships |= {("g2", ANN): Membership("pending")}
    house.wix.answers |= {("g2", ANN): (Answer("Which class?", "yoga"),)}
    second = an_event(
        clock,
        id="r2",
        type=events.JOIN_REQUESTED,
        payload=json.dumps({"entityId": "g2", "createdEvent": {"entity": {"siteMemberId": ANN}}}),
    )
    house.hear(second)
    house.work()
    clock.move(minutes=1)
    house.work()
    assert house.rows()[1][1:] == ("skipped", "unsubscribed here (one click)")
    assert [call for call in house.wix.asked if call[0] == "set_subscription"] == [
        ("set_subscription", "ann@example.com", "UNSUBSCRIBED", "")
    ] * 2
    assert [row.state for row in house.services.outbox.calls()] == ["done"]


def test_a_site_without_the_permission_to_read_its_name_still_writes(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_site"] = [PermanentError("403")]
    house.hear(an_event(clock))
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_nothing_personal_is_kept_in_the_database(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    with database.begin() as tx:
        everything = " ".join(
            str(tuple(row))
            for table in (events_table, messages, suppressions)
            for row in tx.execute(sa.select(table))
        )
    assert "sent" in everything
    assert "example.com" not in everything.replace("club.example.com", "")
    assert "Ann" not in everything


# What a hostile reviewer found, each told as what must be so.


def test_a_killer_row_takes_nobody_along_the_next_time(database: Database, clock: Clock):
    """A batch once shared its fate: one row that kills its worker made ten healthy ones dead with it."""
    house = a_house(database, clock)
    house.hear(*(an_event(clock, id=f"e{number}", member=f"m{number}") for number in range(11)))
    killed = 0
    for _ in range(40):
        claimed = house.services.journal.claim(20)
        if any(event.event.id == "e3" for event in claimed):
            killed += 1  # and nothing is given back
        else:
            for event in claimed:
                run_event(event, house.services)
        clock.move(minutes=2)
    with database.begin() as tx:
        states = {row.id: row.state for row in tx.execute(sa.select(events_table))}
    assert states.pop("e3") == "dead"
    assert killed == 5
    assert set(states.values()) <= {"done", "ignored"}


def test_a_letter_that_raises_does_not_hold_up_other_letters(database: Database, clock: Clock):
    house = a_house(database, clock)
    bob = "m-bob"
    house.wix.members[bob] = Member(bob, "APPROVED", "bob@example.com", "Bob")
    house.wix.memberships[RUNNERS, bob] = Membership("joined")
    house.wix.subscriptions["bob@example.com"] = Subscription("SUBSCRIBED")
    house.mail.fails = [ZeroDivisionError()]
    house.hear(an_event(clock), an_event(clock, id="e2", member=bob))
    house.work()
    assert len(house.mail.letters) == 1
    assert sorted(state for _, state, _ in house.rows()) == ["deferred", "sent"]
    clock.move(hours=1)
    house.work()
    assert sorted(house.mail.readers) == ["ann@example.com", "bob@example.com"]


@pytest.mark.parametrize("change", ["unsubscribe", "erase"])
def test_whoever_says_stop_while_the_letter_is_on_its_way_does_not_get_it(
    database: Database, clock: Clock, change: str
):
    house = a_house(database, clock, YOGA)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.wix.answers = {(RUNNERS, ANN): (Answer("Which class?", "yoga"),)}
    real_send = house.mail.send

    def send_slowly(sender: str, to: str, message: bytes, about_to_commit, *waits: Any):
        if change == "unsubscribe":
            house.services.suppressions.unsubscribe(SITE, ANN, "", "one click")
        else:
            house.hear(an_event(clock, type=events.MEMBER_DELETED, id="e9", erasure=True))
            run_events(house.services)
        return real_send(sender, to, message, about_to_commit, *waits)

    house.mail.send = send_slowly  # type: ignore[method-assign]
    house.hear(request_of(clock))
    house.work()
    assert house.mail.letters == []
    [(_, state, reason)] = house.rows()
    assert state == "skipped"
    assert reason in ("unsubscribed here (one click)", "the person asked to be forgotten")
    with database.begin() as tx:
        assert tx.execute(sa.select(messages.c.address_hash, messages.c.evidence)).one() == (None, None)


def test_a_letter_that_waited_is_looked_at_again_before_it_goes(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_members"] = [RetryableError("no room", counts=False, retry_after_s=1.0)]
    house.hear(an_event(clock))
    house.work()
    house.wix.memberships.clear()
    clock.move(days=2)
    house.work()
    assert house.rows() == [("welcome", "skipped", "not a member of the group any more")]


def test_a_letter_of_an_automation_that_was_taken_out_of_the_file_does_not_go(
    database: Database, clock: Clock
):
    later = WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "1d"')
    house = a_house(database, clock, later)
    house.hear(an_event(clock))
    house.work()
    edited = a_house(database, clock, YOGA)
    clock.move(days=2)
    edited.work()
    assert edited.rows() == [("welcome", "skipped", '"welcome" is no longer among the automations')]


def test_a_letter_whose_automation_became_promotional_needs_consent_for_that(
    database: Database, clock: Clock
):
    later = WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "1d"')
    allowed = "[policy]\nonboarding_without_consent = true\n"
    house = a_house(database, clock, allowed + later)
    house.wix.subscriptions = {}
    house.hear(an_event(clock))
    house.work()
    edited = a_house(database, clock, allowed + later.replace("onboarding", "promotional"))
    edited.wix.subscriptions = {}
    clock.move(days=2)
    edited.work()
    [(_, state, reason)] = edited.rows()
    assert state == "skipped"
    assert "promotional letters need SUBSCRIBED" in str(reason)


def test_one_join_is_one_letter_also_when_the_event_does_not_say_when(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME + 'once_per = "join"\n')
    house.wix.memberships = {(RUNNERS, ANN): Membership("joined", joined_at=clock())}
    house.hear(an_event(clock, seconds=7), an_event(clock, id="e2", type=events.JOIN_APPROVED))
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_a_follow_up_has_its_four_days_from_the_day_it_is_due(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\nafter = "5d"'))
    house.hear(an_event(clock))
    house.work()
    clock.move(days=5, minutes=1)
    house.mail.fails = [MailDeferredError("450 later")]
    house.work()
    assert [state for _, state, _ in house.rows()] == ["deferred"]
    clock.move(hours=5)
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_a_mail_server_that_never_takes_a_letter_is_given_up_after_four_days(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.mail.fails = [MailDeferredError("450 later")] * 100
    house.hear(an_event(clock))
    for _ in range(40):
        house.work()
        clock.move(hours=4)
    assert house.rows() == [("welcome", "failed", "450 later")]


def test_waiting_for_wix_never_fails_a_letter(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.fails["get_members"] = [RetryableError("no room", counts=False, retry_after_s=60.0)] * 3
    house.hear(an_event(clock))
    for _ in range(4):
        house.work()
        clock.move(days=2)
    assert house.mail.readers == ["ann@example.com"], "six days, and a mail server has four"


def test_a_letter_the_server_took_is_recorded_when_the_database_comes_back(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.letters.time.sleep", lambda _seconds: None)
    house = a_house(database, clock)
    away = [JournalUnavailableError("away")] * 3
    real_sent = house.services.ledger.sent

    def sent(letter: ClaimedLetter, reply: str) -> None:
        if away:
            raise away.pop()
        real_sent(letter, reply)

    house.services.ledger.sent = sent  # type: ignore[method-assign]
    house.hear(an_event(clock))
    house.work()
    assert house.rows() == [("welcome", "sent", None)]


def test_an_opt_out_is_owed_to_wix_whatever_wix_says(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.services.suppressions.unsubscribe(SITE, ANN, "hash", "one click")
    house.wix.fails["set_subscription"] = [ForbiddenError("403")] * 3
    for _ in range(4):
        house.work()
        clock.move(minutes=20)
    assert [row.state for row in house.services.outbox.calls()] == ["done"]


def test_orderly_delays_are_no_crashes(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.mail.fails = [MailDeferredError("450 later")] * 8
    house.hear(an_event(clock))
    for _ in range(9):
        house.work()
        clock.move(hours=5)
    assert house.mail.readers == ["ann@example.com"]


def test_a_process_that_lives_keeps_what_it_holds(database: Database, clock: Clock):
    house = a_house(database, clock)
    other = a_house(database, clock)
    house.hear(an_event(clock))
    [held] = house.services.journal.claim(10)
    for _ in range(10):
        clock.move(seconds=20)
        house.services.renew_leases()
        assert other.services.journal.claim(10) == []
    clock.move(seconds=50)
    assert [event.event.id for event in other.services.journal.claim(10)] == [held.event.id]


@pytest.mark.parametrize("step", ["finish", "claim"])
def test_a_row_whose_transaction_nobody_confirmed_is_not_held_for_ever_by_a_process_that_lives(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str
):
    """A database that restarts leaves the client without an answer: whether a claim was committed, nobody here knows.
    The process went on renewing what it did not know that it had."""
    house = a_house(database, clock)
    house.hear(an_event(clock))
    real = getattr(house.services.journal, step)

    def unconfirmed(*arguments: Any) -> None:
        if step == "claim":
            real(*arguments)
        raise JournalUnavailableError("the connection broke")

    with monkeypatch.context() as patched:
        patched.setattr(house.services.journal, step, unconfirmed)
        with pytest.raises(JournalUnavailableError):
            run_events(house.services)
    for _ in range(12):
        clock.move(seconds=5)
        house.services.renew_leases()

    house.work()

    assert house.mail.readers == ["ann@example.com"]


@pytest.mark.parametrize("step", ["mark", "claim"])
def test_a_letter_whose_transaction_nobody_confirmed_goes_out_all_the_same(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str
):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    run_events(house.services)
    real = getattr(house.services.ledger, step)

    def unconfirmed(*arguments: Any, **named: Any) -> None:
        if step == "claim":
            real(*arguments, **named)
        raise JournalUnavailableError("the connection broke")

    with monkeypatch.context() as patched:
        patched.setattr(house.services.ledger, step, unconfirmed)
        with pytest.raises(JournalUnavailableError):
            deliver_letters(house.services)
    for _ in range(12):
        clock.move(seconds=5)
        house.services.renew_leases()

    house.work()

    assert house.mail.readers == ["ann@example.com"]


def test_work_of_a_killed_worker_goes_on_within_a_minute(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    house.hear(an_event(clock, id="e2", member="m-bob"))
    dead = a_house(database, clock)
    dead.services.journal.claim(10)
    clock.move(seconds=50)
    house.work()
    assert {state for state, _ in event_states(database)} == {"done"}


def test_a_forgotten_persons_old_events_keep_nothing_of_them(database: Database, clock: Clock):
    house = a_house(database, clock)
    declined = {
        "actionEvent": {
            "body": {
                "groupId": RUNNERS,
                "joinGroupRequest": {
                    "siteMemberId": ANN,
                    "requestDetails": {"rejectionReason": "You know why, Ann."},
                },
            }
        }
    }
    house.hear(an_event(clock, type=events.JOIN_REJECTED, payload=json.dumps(declined)))
    house.work()
    house.hear(an_event(clock, type=events.MEMBER_DELETED, id="e2", erasure=True))
    house.work()
    with database.begin() as tx:
        payloads = " ".join(tx.execute(sa.select(events_table.c.payload)).scalars())
    assert "You know why" not in payloads


def test_crashes_are_counted_in_a_row_and_not_over_a_letters_life(database: Database, clock: Clock):
    """Deploys and outages over days once added up to "its worker died five times"."""
    house = a_house(database, clock)
    house.hear(an_event(clock))
    run_events(house.services)
    for _ in range(4):
        for _ in range(2):
            a_house(database, clock).services.ledger.claim(10)  # by a worker that dies over it
            clock.move(minutes=1)
        house.mail.fails = [MailDeferredError("450 later")]
        house.work()
        clock.move(hours=5)
    house.work()
    assert house.mail.readers == ["ann@example.com"]


def test_an_old_removal_that_arrives_late_does_not_undo_a_new_installation(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="e1", payload="{}"))
    house.work()
    house.hear(an_event(clock, type=events.APP_REMOVED, id="e2", payload="{}", hours=1))
    house.work()
    house.hear(an_event(clock, id="e3"))
    house.work()
    assert house.mail.readers == ["ann@example.com"]
