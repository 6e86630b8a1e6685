"""Events worked off together: they end as they would one by one, for fewer questions to the database and to Wix."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core import events
from core.community import Answer, Group, GroupId, Member, MemberId, Membership
from core.errors import JournalUnavailableError, PermanentError, RetryableError
from core.events import Event
from integrations.store.database import Database
from integrations.store.tables import events as events_table
from integrations.store.tables import metadata
from tasks.claims import MOST_AT_ONCE
from tasks.events import SETTLE_WITHIN_S, run_events
from tests.house import ANN, RUNNERS, WELCOME, YOGA, Clock, FakeWix, House, a_house, an_event

BOB, CAT = MemberId("m-bob"), MemberId("m-cat")
YOGIS = GroupId("5f1de0c2-6b7a-4f0e-9a53-0c9a4b8f7d21")
TEACHERS = """
[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["certified teacher"]
"""
AGAIN = """
[[automation]]
name = "welcome-back"
on = ["member_added"]
purpose = "onboarding"
email = "welcome"
once_per = "join"
after = "1h"
"""
ALL_RULES = WELCOME + YOGA + TEACHERS + AGAIN


@dataclass
class WatchedWix(FakeWix):
    """`when_asked`: what happens in the moment Wix is asked about somebody's membership."""

    when_asked: dict[MemberId, Callable[[], None]] = field(default_factory=dict)

    def get_membership(self, site: Any, group: GroupId, member: MemberId) -> Membership:
        self.when_asked.pop(member, lambda: None)()
        return super().get_membership(site, group, member)


def a_watched_house(database: Database, clock: Clock, automations: str = WELCOME) -> tuple[House, WatchedWix]:
    house = a_house(database, clock, automations)
    wix = WatchedWix()
    house.services = replace(house.services, wix=wix)
    house.wix = wix
    return house, wix


def people(wix: FakeWix, count: int, status: str = "joined", first: int = 0) -> list[MemberId]:
    members = [MemberId(f"m{number}") for number in range(first, first + count)]
    for member in members:
        wix.members[member] = Member(member, "APPROVED", f"{member}@example.com", "Ann")
        wix.memberships[RUNNERS, member] = Membership(status)
        wix.answers[RUNNERS, member] = (Answer("Who are you?", "A certified teacher of yoga"),)
    return members


def states(database: Database) -> dict[str, str]:
    with database.begin() as tx:
        return {row.id: row.state for row in tx.execute(sa.select(events_table))}


def at_once(house: House, *, now: Callable[[], float] = lambda: 0.0) -> None:
    run_events(house.services, batch=100, now=now)


@contextlib.contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """Every statement that goes to the database; one with many sets of parameters is one."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engines = {database.engine, database._reading}
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", note)


def mixed(house: House, count: int) -> list[Event]:
    """So many who joined and got a role, who ask to be let in, and who left before anything was planned."""
    joined = people(house.wix, count)
    asking = people(house.wix, count, "pending", first=1000)
    gone = people(house.wix, count, "none", first=2000)
    return [
        *(an_event(house.clock, id=f"joined-{member}", member=member) for member in joined),
        *(
            an_event(house.clock, id=f"asks-{member}", member=member, type=events.JOIN_REQUESTED)
            for member in asking
        ),
        *(
            an_event(house.clock, id=f"left-{member}", member=member, type=events.MEMBER_LEFT)
            for member in gone
        ),
        *(
            an_event(house.clock, id=f"role-{member}", member=member, type=events.ROLE_ASSIGNED)
            for member in joined
        ),
    ]


def test_a_batch_of_twenty_asks_the_database_what_a_batch_of_one_asks(database: Database, clock: Clock):
    asked = []
    for count in (1, 20):
        house = a_house(database, clock, WELCOME + YOGA + TEACHERS)
        with database.begin() as tx:
            for table in reversed(metadata.sorted_tables):
                tx.execute(sa.delete(table))
        house.hear(*mixed(house, count))
        with counted(database) as statements:
            at_once(house)
        assert set(states(database).values()) == {"done", "ignored"}
        assert len(house.rows()) == 2 * count
        assert len(house.services.outbox.calls()) == count
        asked.append(len(statements))
    assert asked[0] == asked[1]


def test_rows_of_a_site_that_rests_are_given_back_together(database: Database, clock: Clock):
    asked = []
    for count in (2, 20):
        house = a_house(database, clock)
        house.wix.fails["get_group"] = [RetryableError("503")]
        with database.begin() as tx:
            for table in reversed(metadata.sorted_tables):
                tx.execute(sa.delete(table))
        house.hear(*(an_event(clock, id=f"e{number}", member=f"m{number}") for number in range(count)))
        with counted(database) as statements:
            at_once(house)
        assert set(states(database).values()) == {"received"}
        asked.append(len(statements))
    assert asked[0] == asked[1]


def test_wix_is_asked_once_for_the_answers_of_everybody_who_asks_to_be_let_in(
    database: Database, clock: Clock
):
    house = a_house(database, clock, YOGA)
    members = people(house.wix, 20, "pending")
    house.hear(
        *(an_event(clock, id=f"e{member}", member=member, type=events.JOIN_REQUESTED) for member in members)
    )
    at_once(house)
    assert [call[0] for call in house.wix.asked].count("list_answers") == 1
    assert [
        (row.member, row.state) for row in sorted(house.services.ledger.letters(), key=lambda row: row.member)
    ] == [(member, "planned") for member in sorted(members)]


def test_answers_that_wix_refuses_for_all_are_asked_for_one_by_one(database: Database, clock: Clock):
    """The refusal may be about one of them: it must not make the others' events dead."""
    house = a_house(database, clock, YOGA)
    members = people(house.wix, 3, "pending")
    house.wix.fails["list_answers"] = [PermanentError("400: an id that Wix does not know")] * 2
    house.hear(*(an_event(clock, id=member, member=member, type=events.JOIN_REQUESTED) for member in members))
    at_once(house)
    assert states(database) == {"m0": "dead", "m1": "done", "m2": "done"}
    assert [state for _, state, _ in house.rows()] == ["planned", "planned"]


def test_an_event_that_somebody_else_has_by_now_leaves_the_others_settled(database: Database, clock: Clock):
    house, wix = a_watched_house(database, clock)
    members = people(wix, 5)

    def lose() -> None:
        with database.begin() as tx:
            tx.execute(sa.update(events_table).where(events_table.c.id == "m2").values(lease="another's"))

    wix.when_asked[MemberId("m3")] = lose
    house.hear(*(an_event(clock, id=member, member=member) for member in members))
    at_once(house)
    assert states(database) == {"m0": "done", "m1": "done", "m2": "received", "m3": "done", "m4": "done"}
    assert sorted(row.member for row in house.services.ledger.letters()) == ["m0", "m1", "m3", "m4"]


def test_an_event_whose_outcome_cannot_be_written_takes_no_other_along(database: Database, clock: Clock):
    house = a_house(database, clock)
    members = people(house.wix, 5)
    finish = house.services.journal.finish

    def in_one_transaction(*outcomes: Any) -> None:
        if any(claimed.event.id == "m2" for claimed, _ in outcomes):
            raise ZeroDivisionError  # as a row that the database refuses: nothing of the transaction stays
        finish(*outcomes)

    house.services.journal.finish = in_one_transaction  # type: ignore[method-assign]
    house.hear(*(an_event(clock, id=member, member=member) for member in members))
    at_once(house)
    assert states(database) == {"m0": "done", "m1": "done", "m2": "received", "m3": "done", "m4": "done"}
    with database.begin() as tx:
        [row] = tx.execute(sa.select(events_table).where(events_table.c.id == "m2"))
    assert (row.error, row.attempts, row.lease) == ("ZeroDivisionError", 1, None)


def test_a_database_that_goes_away_leaves_the_batch_to_be_worked_off_again(database: Database, clock: Clock):
    house = a_house(database, clock)
    members = people(house.wix, 3)
    finish = house.services.journal.finish

    def away(*_: Any) -> None:
        raise JournalUnavailableError("away")

    house.services.journal.finish = away  # type: ignore[method-assign]
    house.hear(*(an_event(clock, id=member, member=member) for member in members))
    with pytest.raises(JournalUnavailableError):
        at_once(house)
    house.services.journal.finish = finish  # type: ignore[method-assign]
    clock.move(minutes=1)
    house.work()
    assert set(states(database).values()) == {"done"}
    assert len(house.rows()) == 3


def test_outcomes_do_not_wait_longer_than_they_may(database: Database, clock: Clock):
    """As slow as Wix may be: whoever was seen to is written down before the next one is begun."""
    house, wix = a_watched_house(database, clock)
    time = itertools.count(step=SETTLE_WITHIN_S)
    seen: list[dict[str, str]] = []
    wix.when_asked[MemberId("m1")] = lambda: seen.append(states(database))
    house.hear(*(an_event(clock, id=member, member=member) for member in people(wix, 2)))
    at_once(house, now=lambda: next(time))
    assert seen == [{"m0": "done", "m1": "received"}]


def test_a_row_that_was_in_hand_when_a_process_died_is_not_begun_before_the_others_are_written(
    database: Database, clock: Clock
):
    house, wix = a_watched_house(database, clock)
    people(wix, 3)
    house.hear(an_event(clock, id="m1", member="m1"))
    house.services.journal.claim(1)  # and the process dies
    clock.move(minutes=2)
    house.hear(an_event(clock, id="m0", member="m0", minutes=5))
    seen: list[dict[str, str]] = []
    wix.when_asked[MemberId("m1")] = lambda: seen.append(states(database))
    at_once(house)
    assert seen == [{"m0": "done", "m1": "received"}]


def test_quick_rows_are_claimed_in_larger_batches_and_never_in_boundless_ones(
    database: Database, clock: Clock
):
    house = a_house(database, clock, "")  # nobody listens: nothing is quicker
    claim, sizes = house.services.journal.claim, []

    def watched(limit: int) -> Any:
        sizes.append(limit)
        return claim(limit)

    house.services.journal.claim = watched  # type: ignore[method-assign]
    house.hear(*(an_event(clock, id=f"e{number}", member=f"m{number}") for number in range(300)))
    run_events(house.services, for_s=60)
    assert sizes[0] == 20
    assert max(sizes) <= MOST_AT_ONCE
    assert set(states(database).values()) == {"ignored"}


# Whatever comes after whatever else, of the same people and of others.


TOLD = st.tuples(
    st.sampled_from(
        [
            *[events.MEMBER_ADDED, events.JOIN_REQUESTED, events.MEMBER_LEFT] * 3,
            events.MEMBER_REMOVED,
            events.JOIN_APPROVED,
            events.JOIN_REJECTED,
            events.JOIN_CANCELED,
            events.ROLE_ASSIGNED,
            events.MEMBER_DELETED,
            events.GROUP_DELETED,
            events.SUBSCRIPTION_CHANGED,
            events.CONTACT_UPDATED,
            events.APP_REMOVED,
            events.APP_INSTALLED,
            "erasure",
            "erasure of an address",
            "garbage",
        ]
    ),
    st.sampled_from([ANN, BOB, CAT]),
    st.sampled_from([RUNNERS, RUNNERS, YOGIS]),
)


def told(house: House, number: int, type_: str, member: MemberId, group: GroupId) -> Event:
    clock, id_ = house.clock, f"e{number:02}"
    age = {"seconds": 600 - number}
    if type_ == "garbage":
        return an_event(clock, id=id_, payload="{}", **age)
    if type_ in (events.SUBSCRIPTION_CHANGED, events.CONTACT_UPDATED, "erasure of an address"):
        [known] = house.services.hashes.of(house.wix.members[member].email)
        said = "UNSUBSCRIBED" if group == RUNNERS else "NOT_SET"
        payload = f'{{"addressHashes": ["{known}"], "subscriptionStatus": "{said}"}}'
        erasure = type_ == "erasure of an address"
        type_ = events.CONTACT_UPDATED if erasure else type_
        return an_event(clock, type=type_, id=id_, payload=payload, erasure=erasure, **age)
    if type_ == "erasure":
        return an_event(clock, id=id_, member=member, group=group, erasure=True, **age)
    return an_event(clock, type=type_, id=id_, member=member, group=group, **age)


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    chance = {"id", "lease"}
    left_out = {
        "events": {"lease"},
        "messages": chance,
        "outbox": chance,
        "heartbeats": set(),
        "audit": chance,
    }
    with database.begin() as tx:
        return {
            table.name: sorted(
                (
                    tuple(
                        str(value)
                        for name, value in row._mapping.items()
                        if name not in left_out.get(table.name, ())
                    )
                    for row in tx.execute(sa.select(table))
                ),
            )
            for table in metadata.sorted_tables
        }


@dataclass
class ChangingWix(FakeWix):
    """Of each member another standing whenever it is asked for: they come and go."""

    standing: dict[MemberId, Iterator[str]] = field(default_factory=dict)

    def get_membership(self, site: Any, group: GroupId, member: MemberId) -> Membership:
        self._ask("get_membership", group, member)
        return Membership(next(self.standing[member]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(
    told_of=[
        (events.MEMBER_LEFT, BOB, RUNNERS),
        (events.MEMBER_ADDED, ANN, RUNNERS),
        (events.MEMBER_LEFT, ANN, RUNNERS),
    ],
    standing=["joined", "none"],
)
@given(
    told_of=st.lists(TOLD, min_size=2, max_size=10),
    standing=st.lists(st.sampled_from(["joined", "pending", "none"]), min_size=1, max_size=4),
)
def test_a_batch_ends_as_its_events_would_one_by_one(
    database: Database, told_of: list[tuple[str, MemberId, GroupId]], standing: list[str]
):
    ends = []
    for size in (1, 100):
        database._clock = clock = Clock()
        house = a_house(database, clock, ALL_RULES)
        wix = ChangingWix(standing={member: itertools.cycle(standing) for member in (ANN, BOB, CAT)})
        house.services, house.wix = replace(house.services, wix=wix), wix
        with database.begin() as tx:
            for table in reversed(metadata.sorted_tables):
                tx.execute(sa.delete(table))
        wix.groups[YOGIS] = Group(YOGIS, "Yogis")
        for member in (BOB, CAT):
            wix.members[member] = Member(member, "APPROVED", f"{member}@example.com", "Ann")
        for group, member in itertools.product(wix.groups, wix.members):
            wix.answers[group, member] = (Answer("Who?", "A certified teacher of yoga"),)
        for number, one in enumerate(told_of):
            house.services.journal.insert([told(house, number, *one)])
            clock.move(seconds=0.001)
        run_events(house.services, batch=size, for_s=600, now=lambda: 0.0)
        ends.append(everything(database))
    for name in ends[0]:
        assert ends[0][name] == ends[1][name], name
