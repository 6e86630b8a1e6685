"""How letters go: in the mail server's pace, and not at all while it refuses us; nobody is suppressed for our fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from core.community import Member, MemberId, Membership, Subscription
from core.errors import (
    Blame,
    ForbiddenError,
    MailDeferredError,
    MailInDoubtError,
    MailRefusedError,
    PermanentError,
)
from core.gate import Clearance
from core.letters import StopLetters
from core.pacing import TRIP_AFTER, Limits
from integrations.store.database import Database
from integrations.store.ledger import stop_letters
from integrations.store.senders import Senders
from integrations.store.tables import suppressions
from tasks.events import run_events
from tasks.letters import deliver_letters
from tasks.turn import anything_due
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house, a_pacer, an_event

YES = Subscription("SUBSCRIBED", "VALID")


def a_crowd(house: House, clock: Clock, *addresses: str, since: int = 0) -> list[str]:
    """Everybody just joined; returns the addresses."""
    for number, address in enumerate(addresses, since):
        member = MemberId(f"m-{number}")
        house.wix.members[member] = Member(member, "APPROVED", address, "Ann")
        house.wix.memberships[RUNNERS, member] = Membership("joined")
        house.wix.subscriptions[address] = YES
        house.hear(an_event(clock, id=f"e-{number}", member=member))
    return list(addresses)


def states(house: House) -> list[str]:
    return sorted(row[1] for row in house.rows())


def before_the_first_mark(monkeypatch: pytest.MonkeyPatch, house: House, act: Callable[[], object]) -> None:
    acts, mark = [act], house.services.ledger.mark

    def act_and_mark(*letter: Any, **named: Any) -> None:
        if acts:
            acts.pop()()
        mark(*letter, **named)

    monkeypatch.setattr(house.services.ledger, "mark", act_and_mark)


def no_connection() -> MailDeferredError:
    return MailDeferredError("no connection to the mail server", blame=Blame.SENDER)


def test_a_run_of_failed_connections_pauses_the_sender_and_the_others_do_not_even_try(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER + 3)))
    house.mail.fails = [no_connection() for _ in crowd]

    house.work()

    assert len(house.mail.fails) == 3, "five tried"
    assert states(house) == ["deferred"] * TRIP_AFTER + ["planned"] * 3
    pause = house.services.senders.pauses()[""]
    assert pause.reason == "no connection to the mail server"
    assert not anything_due(house.services), "nobody is woken for what may not go"


def test_when_the_pause_is_over_one_letter_tries_and_the_rest_follows(database: Database, clock: Clock):
    house = a_house(database, clock)
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER)))
    house.mail.fails = [no_connection() for _ in crowd]
    house.work()
    clock.move(hours=1)

    house.work()

    assert sorted(house.mail.readers) == crowd
    assert house.services.senders.pauses() == {}


def test_a_try_that_fails_makes_the_pause_longer(database: Database, clock: Clock):
    house = a_house(database, clock)
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER)))
    house.mail.fails = [no_connection() for _ in crowd]
    house.work()
    first = house.services.senders.pauses()[""].until - clock()
    clock.move(hours=1)
    house.mail.fails = [no_connection()] * 5

    house.work()

    assert len(house.mail.fails) == 4, "one tried"
    assert house.services.senders.pauses()[""].until - clock() > first


@pytest.mark.parametrize(
    "reply",
    [
        MailRefusedError("550 5.1.1", address_is_dead=True, blame=Blame.LETTER),
        MailDeferredError("451 4.7.1 greylisted", blame=Blame.LETTER),
    ],
)
def test_a_try_that_is_about_its_reader_alone_holds_up_nobody(
    database: Database, clock: Clock, reply: MailRefusedError | MailDeferredError
):
    house = a_house(database, clock)
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER)))
    house.mail.fails = [no_connection() for _ in crowd]
    house.work()
    clock.move(hours=1)
    house.mail.fails = [reply]

    house.work()

    assert len(house.mail.readers) == TRIP_AFTER - 1
    assert house.services.senders.pauses() == {}


def test_a_no_to_our_sender_holds_all_letters_back_and_fails_none(database: Database, clock: Clock):
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com", "b@example.com")
    house.mail.fails = [MailRefusedError("the mail server answered 550 to MAIL", blame=Blame.SENDER)]

    house.work()

    assert (states(house), house.mail.readers) == (["deferred", "planned"], [])
    clock.move(hours=5)
    house.work()
    assert sorted(house.mail.readers) == ["a@example.com", "b@example.com"]


def test_a_no_for_our_reputation_pauses_the_domain_and_suppresses_nobody(database: Database, clock: Clock):
    house = a_house(database, clock)
    a_crowd(house, clock, "a@outlook.com", "b@outlook.com")
    house.mail.fails = [MailRefusedError("550 5.7.515 Access denied", blame=Blame.DOMAIN)]
    house.work()
    assert (states(house), house.mail.readers) == (["deferred", "failed"], [])

    a_crowd(house, clock, "c@gmail.com", since=2)
    house.work()

    assert house.mail.readers == ["c@gmail.com"]
    assert house.services.senders.pauses()["outlook.com"].reason == "550 5.7.515 Access denied"
    [waiting] = [row for row in house.rows() if row[1] == "deferred"]
    assert waiting[2] == "letters to this domain are paused: 550 5.7.515 Access denied"
    with database.read() as tx:
        assert tx.execute(sa.select(suppressions)).all() == []
    clock.move(hours=5)
    house.work()
    assert len(house.mail.readers) == 2, "the other one at that domain, too"


def test_silence_after_the_dot_again_and_again_stops_before_all_letters_are_in_doubt(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER + 2)))
    house.mail.fails = [MailInDoubtError("no answer after the final dot") for _ in crowd]

    house.work()

    assert states(house) == ["in_doubt"] * TRIP_AFTER + ["planned"] * 2


@pytest.mark.parametrize(
    "refusal",
    [
        MailRefusedError("550 5.1.1 no such user", address_is_dead=True),
        MailDeferredError("452 4.2.2 mailbox full"),
        MailDeferredError("451 4.7.1 greylisted"),
    ],
)
def test_what_is_one_readers_own_never_pauses_anybody(
    database: Database, clock: Clock, refusal: MailRefusedError | MailDeferredError
):
    house = a_house(database, clock)
    a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER + 2)))
    house.mail.fails = [refusal] * (TRIP_AFTER + 1)

    house.work()

    assert house.services.senders.pauses() == {}
    assert len(house.mail.readers) == 1


def test_letters_above_the_days_limit_wait_and_go_the_next_day(database: Database, clock: Clock):
    house = a_house(database, clock, pacer=a_pacer(database, clock, Limits(per_day=4)))
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(6)))
    house.work()
    soon = len(house.mail.readers)
    assert 0 < soon <= 4

    for _ in range(60):
        clock.move(hours=1)
        house.work()

    assert sorted(house.mail.readers) == crowd


def test_a_letter_for_a_busy_domain_waits_and_others_go(database: Database, clock: Clock):
    house = a_house(database, clock, pacer=a_pacer(database, clock, Limits(domain_per_day=1)))
    a_crowd(house, clock, "a@gmail.com", "b@gmail.com", "c@outlook.com")

    house.work()

    assert sorted(reader.partition("@")[2] for reader in house.mail.readers) == ["gmail.com", "outlook.com"]
    [waiting] = [row for row in house.rows() if row[1] != "sent"]
    assert waiting[1:] == ("deferred", "the pace of EMAIL_URL")


def test_one_domain_that_has_enough_of_us_holds_up_no_other(database: Database, clock: Clock):
    house = a_house(database, clock)
    a_crowd(house, clock, *(f"r{number}@gmail.com" for number in range(20)))
    real_send = house.mail.send

    def send(
        clearance: Clearance, sender: str, message: bytes, about_to_commit: Callable[[], None], *waits: Any
    ) -> str:
        if clearance.to.endswith("@gmail.com"):
            raise MailDeferredError("451 4.7.28 rate limit", blame=Blame.DOMAIN)
        return real_send(clearance, sender, message, about_to_commit, *waits)

    house.mail.send = send  # type: ignore[method-assign]
    house.work()
    others = a_crowd(house, clock, *(f"o{number}@example.com" for number in range(3)), since=20)
    for _ in range(6):
        house.work()
        clock.move(seconds=5)

    assert sorted(house.mail.readers) == others
    assert sorted(house.services.senders.pauses()) == ["gmail.com"]


def test_a_mail_server_that_speaks_of_one_domain_is_there_for_the_others(database: Database, clock: Clock):
    house = a_house(database, clock)
    a_crowd(house, clock, *(f"r{number}@example.com" for number in range(TRIP_AFTER)))
    house.mail.fails = [no_connection() for _ in range(TRIP_AFTER)]
    house.work()
    clock.move(hours=1)
    house.mail.fails = [MailDeferredError("451 4.7.28 rate limit", blame=Blame.DOMAIN)]

    house.work()

    assert len(house.mail.readers) == TRIP_AFTER - 1


def test_after_a_long_wait_of_ours_the_first_greylisting_is_not_the_end(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.services.senders.pause("", "wrong password", for_s=4.1 * 86400)
    house.hear(an_event(clock))
    house.work()
    clock.move(days=4.2)
    house.mail.fails = [MailDeferredError("450 greylisted")]

    house.work()
    assert states(house) == ["deferred"]
    clock.move(hours=1)
    house.work()

    assert states(house) == ["sent"]


def test_what_wix_refuses_of_one_person_does_not_fail_the_others(database: Database, clock: Clock):
    house = a_house(database, clock)
    crowd = a_crowd(house, clock, *(f"r{number}@example.com" for number in range(5)))
    refused = PermanentError("Wix said 400: invalid filter value")
    house.wix.fails["get_subscriptions"] = [refused, refused]

    house.work()

    assert states(house) == ["failed"] + ["sent"] * 4
    assert set(house.mail.readers) < set(crowd)


def test_a_permission_that_is_missing_for_a_while_loses_no_letter(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.wix.fails["get_subscriptions"] = [ForbiddenError("403")] * 3
    for _ in range(3):
        house.work()
        clock.move(minutes=16)
    assert states(house) == ["deferred"]

    house.work()

    assert states(house) == ["sent"]


TWO_OFFERS = """
[policy]
promotional_cap = "1 per 6d"
not_after = "20d"
[[automation]]
name = "one"
on = ["member_added"]
purpose = "promotional"
email = "yoga-offer"
[[automation]]
name = "two"
on = ["member_added"]
purpose = "promotional"
email = "yoga-offer"
"""


def test_the_cap_counts_what_a_letter_went_out_as(database: Database, clock: Clock):
    """The file called both onboarding when they were planned."""
    house = a_house(database, clock, TWO_OFFERS.replace('"promotional"', '"onboarding"'))
    house.hear(an_event(clock))
    run_events(house.services)
    stricter = a_house(database, clock, TWO_OFFERS)
    for _ in range(3):
        stricter.work()
        clock.move(seconds=30)

    assert len(stricter.mail.letters) == 1


def test_the_cap_counts_a_letter_in_doubt_however_long_ago_it_was_due(database: Database, clock: Clock):
    house = a_house(database, clock, TWO_OFFERS)
    house.services.senders.pause("", "wrong password", for_s=7 * 86400)
    house.hear(an_event(clock))
    house.work()
    clock.move(days=7, minutes=1)
    house.mail.dies_after_dot = [MailInDoubtError("no answer after the final dot")]
    for _ in range(3):
        house.work()
        clock.move(seconds=30)

    assert len(house.mail.letters) == 1
    assert states(house) == ["deferred", "in_doubt"]


def test_who_leaves_while_a_worker_has_their_letter_in_hand_is_looked_at_again(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    run_events(house.services)
    claimed = house.services.ledger.claim(10)
    house.wix.memberships[RUNNERS, ANN] = Membership("none")
    with database.begin() as tx:
        stop_letters(tx, SITE, StopLetters("left", group=RUNNERS, member=ANN))
    house.services.ledger.give_back(claimed)

    house.work()

    assert (states(house), house.mail.readers) == (["skipped"], [])


def test_a_letter_goes_to_the_database_twice_however_many_there_are(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """For the mark, and for what the mail server said; all else is asked once for the batch."""

    house = a_house(database, clock)
    seen: list[str] = []

    def counted(way: Callable[..., Any]) -> Callable[..., Any]:
        def go(*said: Any) -> Any:
            seen.append(f"{way.__name__} {said[:1]}")
            return way(*said)

        return go

    def statements_for(letters: int) -> int:
        before = len(house.mail.readers)
        crowd = (f"{letters}-{number}@example.com" for number in range(letters))
        a_crowd(house, clock, *crowd, since=100 * letters)
        run_events(house.services)
        seen.clear()
        assert not deliver_letters(house.services)
        assert len(house.mail.readers) - before == letters
        return len(seen)

    monkeypatch.setattr(database, "begin", counted(database.begin))
    monkeypatch.setattr(database, "read", counted(database.read))
    monkeypatch.setattr(database, "_alone", counted(database._alone))
    statements_for(1)  # the sender's first letter is noted
    few, more, many = (statements_for(number) for number in (10, 20, 40))
    assert (more - few, many - more) == (20, 40), seen


def test_a_pause_that_comes_after_the_look_at_the_batch_is_heeded_at_the_last_moment(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com", "b@example.com", "c@example.org")
    other = Senders(database, house.services.letterhead.address)
    domain = house.services.hashes.domain_of("a@example.com")
    before_the_first_mark(monkeypatch, house, lambda: other.pause(domain, "554 go away", 600))

    house.work()

    assert house.mail.readers == ["c@example.org"]
    assert states(house) == ["deferred", "deferred", "sent"]
    clock.move(hours=1)
    house.work()
    assert sorted(house.mail.readers) == ["a@example.com", "b@example.com", "c@example.org"]


def test_nobody_goes_through_a_pause_of_the_whole_sender_that_came_in_the_middle_of_a_batch(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    house = a_house(database, clock)
    a_crowd(house, clock, "a@example.com", "b@example.com", "c@example.org")
    other = Senders(database, house.services.letterhead.address)
    before_the_first_mark(monkeypatch, house, lambda: other.pause("", "550 5.7.1 you are blocked", 600))

    house.work()

    assert house.mail.readers == []
    assert states(house) == ["deferred", "planned", "planned"]
    clock.move(hours=1)
    house.work()
    assert len(house.mail.readers) == 3
