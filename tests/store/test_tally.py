"""The metrics' counts: right for every state, and bounded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from core.events import MEMBER_JOINED
from integrations.store.database import Database
from integrations.store.journal import insert_found
from integrations.store.tables import messages, outbox
from integrations.store.tally import Tally
from tests.house import RUNNERS, SITE, Clock, an_event


def letters(database: Database, clock: Clock, *states: str, job: str | None = None) -> None:
    with database.begin() as tx:
        for state in states:
            clock.move(seconds=1)
            number = tx.connection.scalar(sa.select(sa.func.count()).select_from(messages)) or 0
            tx.execute(
                sa.insert(messages).values(
                    id=f"{number:032}", site=SITE, key=str(number), group_id=RUNNERS, member="m", job=job,
                    trigger="member_added", purpose="onboarding", email_template="welcome", context={},
                    look_again=False, state=state, next_at=clock.now, created_at=clock.now, due_at=clock.now,
                )
            )  # fmt: skip


def test_a_table_that_is_not_large_is_counted_whole_each_time(database: Database, clock: Clock) -> None:
    tally = Tally(database)
    assert tally.ask() == {"events": {}, "messages": {}, "outbox": {}}
    letters(database, clock, "sent", "sent", "planned", "skipped", "in_doubt")
    letters(database, clock, "planned", "sent", job="j")
    assert tally.ask()["messages"] == {"sent": 3, "planned": 2, "skipped": 1, "in_doubt": 1}


def test_of_a_large_table_a_piece_is_counted_at_each_ask(database: Database, clock: Clock) -> None:
    letters(database, clock, *["sent", "skipped"] * 5)
    tally = Tally(database, at_once=4)
    assert tally.ask()["messages"] == {}
    assert tally.ask()["messages"] == {}
    assert tally.ask()["messages"] == {"sent": 5, "skipped": 5}


def test_what_waits_is_counted_at_each_ask_however_large_the_table_is(
    database: Database, clock: Clock
) -> None:
    letters(database, clock, *["sent"] * 9, "in_doubt", "planned")
    tally = Tally(database, at_once=4)
    assert tally.ask()["messages"] == {"in_doubt": 1, "planned": 1}
    for _ in range(2):
        tally.ask()
    letters(database, clock, "planned")
    assert tally.ask()["messages"] == {"sent": 9, "in_doubt": 1, "planned": 2}
    with database.begin() as tx:
        tx.execute(sa.update(messages).where(messages.c.state == "planned").values(state="sent"))
    assert tally.ask()["messages"] == {"sent": 9, "in_doubt": 1}


def test_more_that_waits_than_can_be_counted_each_time_is_told_as_of_the_last_whole_count(
    database: Database, clock: Clock
) -> None:
    letters(database, clock, *["planned"] * 9, job="j")
    tally = Tally(database, at_once=4)
    assert [tally.ask()["messages"] for _ in range(3)][-1] == {"planned": 9}


def test_events_that_were_found_in_wixs_lists_are_told_once_all_were_counted(
    database: Database, clock: Clock
) -> None:
    tally = Tally(database, at_once=2)
    assert tally.found is None
    heard = [an_event(clock, type=MEMBER_JOINED, id=f"e{number}") for number in range(3)]
    with database.begin() as tx:
        insert_found(tx, [replace(event, found=True) for event in heard])
    assert [(tally.ask(), tally.found)[1] for _ in range(2)] == [None, 3]


def test_rows_of_one_moment_are_counted_once(database: Database, clock: Clock) -> None:
    with database.begin() as tx:
        tx.connection.execute(
            sa.insert(outbox),
            [
                {
                    "id": f"{number:032}", "site": SITE, "key": str(number), "kind": "approve", "group_id": RUNNERS,
                    "member": "m", "text": "", "state": "done", "next_at": clock.now - timedelta(days=1),
                    "created_at": clock.now,
                }
                for number in range(10)
            ],
        )  # fmt: skip
    letters(database, clock, *["sent"] * 3)
    with database.begin() as tx:
        tx.execute(sa.update(messages).values(created_at=clock.now))
    tally = Tally(database, at_once=2)
    found = [tally.ask() for _ in range(6)][-1]
    assert (found["outbox"], found["messages"]) == ({"done": 10}, {"sent": 3})
