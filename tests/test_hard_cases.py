"""Rare orders of things, each of which once led to a second letter, a lost one, or something kept for too long."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from core import events
from core.community import Group, Membership
from core.errors import MailInDoubtError, PermanentError, RetryableError, WrongStateError
from core.reconciliation import needs_more
from integrations.store.database import Database
from integrations.store.ledger import ClaimedLetter, Ledger
from integrations.store.tables import events as events_table
from tasks.events import run_events
from tasks.letters import deliver_letters
from tests.house import ANN, RUNNERS, SITE, WELCOME, Clock, House, a_house, an_event
from tests.test_reconcile import BOB, CEM, come, connected, turn

ONCE_PER_JOIN = WELCOME + 'once_per = "join"\n'


def a_zombie_between_mark_and_dot(house: House, clock: Clock) -> tuple[Ledger, ClaimedLetter]:
    """A process that froze there; its letter is in doubt by now."""
    house.hear(an_event(clock))
    run_events(house.services)
    zombie = Ledger(house.database)
    [letter] = zombie.claim(10)
    zombie.mark(letter, purpose=letter.purpose, message_id="<x@y>", address_hashes=["h"], evidence="")
    clock.move(seconds=50)
    deliver_letters(house.services)
    assert house.rows()[0][1] == "in_doubt"
    return zombie, letter


def test_a_released_letter_whose_zombie_wakes_up_with_the_servers_yes_does_not_go_again(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    zombie, letter = a_zombie_between_mark_and_dot(house, clock)
    house.services.ledger.release(letter.id, who="a test")
    clock.move(minutes=5)

    zombie.sent(letter, "250 taken")
    clock.move(minutes=30)
    deliver_letters(house.services)

    assert (house.mail.readers, house.rows()[0][1]) == ([], "sent")


def test_a_worker_that_is_ended_while_the_server_is_silent_leaves_the_doubt_to_be_seen_at_once(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    run_events(house.services)
    [letter] = house.services.ledger.claim(10)
    house.services.ledger.mark(
        letter, purpose=letter.purpose, message_id="<x@y>", address_hashes=["h"], evidence=""
    )

    house.services.let_go()

    [(_, state, reason)] = house.rows()
    assert (state, reason) == ("in_doubt", "the worker was ended before the mail server had answered")
    house.services.ledger.sent(letter, "250 taken")
    assert house.rows()[0][1] == "sent"


def test_a_yes_that_comes_after_giving_up_counts(database: Database, clock: Clock):
    house = a_house(database, clock)
    zombie, letter = a_zombie_between_mark_and_dot(house, clock)
    house.services.ledger.give_up(letter.id, who="a test")

    zombie.sent(letter, "250 taken")

    assert house.rows()[0][1] == "sent"


@pytest.mark.parametrize("decision", ["found", "give up"])
def test_a_release_can_be_taken_back_while_the_letter_waits(database: Database, clock: Clock, decision: str):
    house = a_house(database, clock)
    _, letter = a_zombie_between_mark_and_dot(house, clock)
    house.services.ledger.release(letter.id, who="a test")

    if decision == "found":
        assert house.services.ledger.found_accepted(["<x@y>"], who="a test") == 1
    else:
        house.services.ledger.give_up(letter.id, who="a test")
    clock.move(hours=1)
    deliver_letters(house.services)

    assert house.mail.readers == []
    assert house.rows()[0][1] == {"found": "sent", "give up": "failed"}[decision]


def test_a_letter_that_was_released_once_is_not_planned_anew(database: Database, clock: Clock):
    """The server may have it after all: whoever leaves and comes back is no reason for another one."""
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.mail.dies_after_dot = [MailInDoubtError("no answer")]
    house.work()
    [row] = house.services.ledger.letters()
    house.services.ledger.release(row.id, who="a test")
    house.wix.memberships.clear()
    house.work()
    house.wix.memberships[RUNNERS, ANN] = Membership("joined")

    house.hear(an_event(clock, id="e2"))
    house.work()

    assert len(house.mail.readers) == 1


def test_a_replay_that_wix_tells_another_joining_date_writes_to_nobody_twice(
    database: Database, clock: Clock
):
    house = a_house(database, clock, ONCE_PER_JOIN)
    house.wix.memberships[RUNNERS, ANN] = Membership("joined", joined_at=clock())
    clock.move(seconds=7)
    house.hear(an_event(clock, type=events.JOIN_APPROVED))
    house.work()
    clock.move(days=1)
    house.wix.memberships[RUNNERS, ANN] = Membership("joined")  # far down in a long list: no date any more

    house.services.journal.replay(an_event(clock).id, who="a test")
    house.work()

    assert house.mail.readers == ["ann@example.com"]


@pytest.mark.parametrize("how", ["late", "replayed"])
def test_an_old_removal_of_the_app_stops_no_letter_of_the_new_installation(
    database: Database, clock: Clock, how: str
):
    house = a_house(database, clock, WELCOME + 'after = "2h"\n')
    removal = an_event(clock, type=events.APP_REMOVED, id="removed", payload="{}")
    if how == "replayed":
        house.hear(removal)
        house.work()
    clock.move(minutes=1)
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="installed", payload="{}"))
    house.work()
    house.hear(an_event(clock))
    house.work()

    if how == "late":
        house.hear(removal)
    else:
        house.services.journal.replay(removal.id, who="a test")
    house.work()
    clock.move(hours=3)
    house.work()

    assert house.mail.readers == ["ann@example.com"]


def test_one_nonsense_date_in_the_future_does_not_blind_a_group(database: Database, clock: Clock):
    house = connected(database, clock)
    house.wix.groups[RUNNERS] = Group(RUNNERS, "Trail Runners", "PUBLIC", members=5)
    turn(house, minutes=6)
    come(house, CEM, days=-365 * 70)
    turn(house, minutes=6)
    come(house, BOB)

    for _ in range(4):
        turn(house, minutes=6)

    assert "m-bob@example.com" in house.mail.readers


def test_a_page_of_people_who_joined_at_the_same_moment_says_nothing_about_the_order(clock: Clock):
    assert needs_more([clock()] * 100, clock().replace(year=2027))


def test_an_erasure_reaches_an_event_that_was_replayed_and_died(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    house.services.journal.replay(an_event(clock).id, who="a test")
    house.wix.fails["get_membership"] = [PermanentError("Wix answered 400")]
    house.work()

    house.hear(an_event(clock, id="erase", type=events.MEMBER_REMOVED, erasure=True))
    house.work()

    assert payload_of(database, "e1") == "{}"


def test_an_erasure_reaches_an_event_that_waits(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.wix.fails["get_membership"] = [RetryableError("503", retry_after_s=1)]
    run_events(house.services)
    clock.move(seconds=10)
    house.hear(an_event(clock, id="erase", type=events.MEMBER_REMOVED, erasure=True))
    for _ in range(3):
        house.work()
        clock.move(minutes=5)

    assert payload_of(database, "e1") == "{}"


def test_an_erasure_is_not_replayed(database: Database, clock: Clock):
    house = a_house(database, clock)
    erasure = an_event(clock, type=events.MEMBER_REMOVED, erasure=True)
    house.hear(erasure)
    house.work()

    with pytest.raises(WrongStateError, match="erasure"):
        house.services.journal.replay(erasure.id, who="a test")


def test_two_reads_of_wix_that_disagree_for_a_moment_are_one_welcome(database: Database, clock: Clock):
    """Of one approval Wix sends two events; of the first it did not say yet when the member joined."""
    house = a_house(database, clock, ONCE_PER_JOIN)
    joined_at = clock()
    house.wix.memberships[RUNNERS, ANN] = Membership("joined", joined_at=joined_at)
    lagging = [Membership("none")]
    real = house.wix.get_joined_at
    house.wix.get_joined_at = lambda *place: lagging.pop() if lagging else real(*place)  # type: ignore[method-assign]
    house.hear(an_event(clock, type=events.JOIN_APPROVED))
    house.work()
    clock.move(seconds=5)
    payload = {
        "entityId": RUNNERS,
        "actionEvent": {
            "body": {
                "groupId": RUNNERS,
                "groupMember": {"memberId": ANN, "joinedDate": joined_at.isoformat()},
            }
        },
    }
    house.hear(an_event(clock, id="e2", payload=json.dumps(payload)))
    for _ in range(3):
        house.work()
        clock.move(seconds=30)

    assert house.mail.readers == ["ann@example.com"]


def payload_of(database: Database, event: str) -> str | None:
    with database.read() as tx:
        return tx.connection.scalar(
            sa.select(events_table.c.payload).where(events_table.c.site == SITE, events_table.c.id == event)
        )
