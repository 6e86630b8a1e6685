"""The sweep over Wix's lists, from the list to the letter, on both databases; and once against the sandbox."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from asgi import create_app
from core import events
from core.community import Group, GroupId, Member, MemberId, Membership, SiteId, Subscription
from core.errors import ForbiddenError, JournalUnavailableError, NotFoundError, RetryableError
from core.events import Event
from integrations.store.database import Database
from integrations.store.tables import events as events_table
from integrations.store.tables import sites as sites_table
from integrations.store.tables import watches as watches_table
from integrations.wix.client import WixClient
from tasks.reconcile import _patience, reconcile, reconcile_until
from tests.house import ANN, RUNNERS, SITE, WELCOME, YOGA, Clock, House, a_house, an_event
from tests.test_web_app import running, settings_for

BOB, CEM = MemberId("m-bob"), MemberId("m-cem")
UNLIMITED = 1e9
FLAG = """
[[automation]]
name = "ask-somebody"
on = ["join_requested"]
decide = "flag"
[[automation]]
name = "request-received"
on = ["join_requested"]
purpose = "onboarding"
email = "request-received"
once_per = "join"
"""
ROOT = Path(__file__).parent.parent


def sweep(house: House, calls_per_minute: float = UNLIMITED) -> None:
    reconcile(house.services, calls_per_minute, threading.Event())


def turn(house: House, **by: float) -> None:
    """Some time passes, then the sweep looks and the worker works."""
    house.clock.move(**by)
    sweep(house)
    house.work()


def connected(database: Database, clock: Clock, automations: str = WELCOME, privacy: str = "PUBLIC") -> House:
    """A site that installed the app, with Ann in its group since long ago."""
    house = a_house(database, clock, automations)
    house.wix.groups[RUNNERS] = Group(RUNNERS, "Trail Runners", privacy)
    house.wix.memberships = {}
    come(house, ANN, days=30)
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="installed", payload="{}"))
    house.work()
    sweep(house)
    return house


def come(
    house: House, member: MemberId, group: GroupId = RUNNERS, status: str = "joined", **ago: float
) -> None:
    """Somebody joins (or asks to), and nobody tells of it."""
    email = f"{member}@example.com"
    house.wix.members.setdefault(member, Member(member, "APPROVED", email, member))
    house.wix.subscriptions.setdefault(email, Subscription("SUBSCRIBED", "VALID"))
    joined_at = house.clock() - timedelta(**ago) if status == "joined" else None
    house.wix.memberships[group, member] = Membership(status, joined_at=joined_at)


def added(house: House, member: MemberId, id: str = "late", **event: Any) -> Event:  # noqa: A002
    """The webhook of a join, as Wix would send it."""
    joined_at = house.wix.memberships[RUNNERS, member].joined_at or house.clock()
    body = {"groupId": RUNNERS, "groupMember": {"memberId": member, "joinedDate": joined_at.isoformat()}}
    payload = json.dumps({"actionEvent": {"body": body}})
    return replace(an_event(house.clock, id=id, payload=payload, **event), occurred_at=joined_at)


def asked(house: House, member: MemberId, id: str = "late", **ago: float) -> Event:  # noqa: A002
    """The webhook of a request."""
    payload = json.dumps({"entityId": RUNNERS, "createdEvent": {"entity": {"siteMemberId": member}}})
    return an_event(house.clock, type=events.JOIN_REQUESTED, id=id, payload=payload, **ago)


def found(database: Database) -> list[tuple[str, str | None]]:
    """Type and state of all events that the sweep found."""
    query = sa.select(events_table).where(events_table.c.found).order_by(events_table.c.occurred_at)
    with database.read() as tx:
        return [(row.type, row.state) for row in tx.execute(query)]


def watches(database: Database, **where: str) -> list[sa.Row[Any]]:
    query = (
        sa.select(watches_table).filter_by(**where).order_by(watches_table.c.kind, watches_table.c.group_id)
    )
    with database.read() as tx:
        return list(tx.execute(query))


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message == name]


def test_somebody_who_joins_alone_is_greeted_once_and_nobody_who_was_there_before(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    clock.move(minutes=1)
    come(house, BOB)
    turn(house, minutes=3)
    assert house.mail.readers == ["m-bob@example.com"]
    for _ in range(5):
        turn(house, minutes=6)
    assert house.mail.readers == ["m-bob@example.com"]
    assert found(database) == [("member_joined", "done")]


def test_a_join_just_now_is_left_to_its_webhook_and_looked_for_when_that_had_its_time(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    clock.move(minutes=1)
    come(house, BOB)
    come(house, CEM)
    turn(house, seconds=5)
    assert found(database) == []
    house.hear(added(house, BOB))
    turn(house, seconds=30)
    assert house.mail.readers == ["m-bob@example.com"]
    turn(house, seconds=90)
    assert house.mail.readers == ["m-bob@example.com", "m-cem@example.com"]
    assert found(database) == [("member_joined", "done")]


@pytest.mark.parametrize("once_per", ["member", "join"])
@pytest.mark.parametrize("order", ["webhooks first", "sweep first", "webhooks not worked off yet"])
def test_approved_added_and_found_are_one_welcome(
    database: Database, clock: Clock, once_per: str, order: str
):
    house = connected(database, clock, WELCOME + f'once_per = "{once_per}"\n')
    clock.move(minutes=1)
    come(house, BOB)
    told = [
        added(house, BOB),
        replace(an_event(clock, member=BOB, id="a", type=events.JOIN_APPROVED), occurred_at=clock()),
    ]
    clock.move(minutes=3)
    if order == "webhooks first":
        house.hear(*told)
        house.work()
    elif order == "webhooks not worked off yet":
        house.hear(*told)
    sweep(house)
    assert len(found(database)) == (1 if order == "sweep first" else 0)
    house.work()
    house.hear(*told)
    house.work()
    assert house.mail.readers == ["m-bob@example.com"]


def test_whoever_leaves_and_comes_back_alone_is_greeted_as_once_per_says(database: Database, clock: Clock):
    house = connected(database, clock, WELCOME + 'once_per = "join"\n')
    clock.move(minutes=1)
    come(house, BOB)
    house.hear(added(house, BOB))
    turn(house, minutes=3)
    come(house, BOB)
    turn(house, minutes=5)
    assert house.mail.readers == ["m-bob@example.com"] * 2


def test_after_days_without_looking_everybody_who_came_meanwhile_is_found_once(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    clock.move(days=2)
    for number in range(250):
        come(house, MemberId(f"m-{number}"), hours=40, minutes=-number)
    sweep(house)
    assert len(found(database)) == 250
    [row] = watches(database, kind="members")
    assert row.since < clock() - timedelta(days=1), "a page may have passed over somebody"
    come(house, MemberId("m-passed-over"), hours=39, seconds=-7)
    for _ in range(2):
        clock.move(minutes=2)
        sweep(house)
        assert len(found(database)) == 251
    [row] = watches(database, kind="members")
    assert clock() - row.since == timedelta(minutes=17)
    calls = house.wix.asked.count(("list_group_members", RUNNERS))
    clock.move(minutes=6)
    sweep(house)
    assert house.wix.asked.count(("list_group_members", RUNNERS)) == calls + 1


def test_a_list_in_another_order_is_read_to_its_end_and_undated_people_are_counted(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    house = connected(database, clock)
    clock.move(hours=1)
    for number in range(150):
        come(house, MemberId(f"m-{number}"), days=number + 1)
    house.wix.memberships[RUNNERS, CEM] = Membership("joined")
    come(house, BOB, minutes=10)
    ordered = house.wix._listed
    monkeypatch.setattr(
        type(house.wix), "_listed", lambda _self, group, status: list(reversed(ordered(group, status)))
    )
    with caplog.at_level(logging.INFO):
        turn(house)
    assert house.mail.readers == ["m-bob@example.com"]
    [line] = [line for line in lines(caplog, "reconcile.looked") if line.list == "members"]  # type: ignore[attr-defined]
    assert (line.members, line.undated, line.calls) == (153, 1, 2)  # type: ignore[attr-defined]


def test_a_group_where_a_number_changed_is_looked_at_at_once_and_others_now_and_then(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    choir = GroupId("choir")
    house.wix.groups[choir] = Group(choir, "Harbour Choir", "PUBLIC")
    turn(house, minutes=1)
    house.wix.asked.clear()
    come(house, BOB, choir, minutes=3)
    turn(house, minutes=1)
    assert [call for call in house.wix.asked if call[0].startswith("list")] == [
        ("list_groups",),
        ("list_group_members", choir),
    ]
    house.wix.groups[RUNNERS] = replace(house.wix.groups[RUNNERS], members=2)
    come(house, CEM, minutes=3)
    turn(house, minutes=5)
    assert ("list_group_members", RUNNERS) in house.wix.asked


def test_a_group_is_watched_from_its_beginning_when_it_is_new_and_else_from_now_on(
    database: Database, clock: Clock
):
    house = connected(
        database, clock, WELCOME.replace('email = "welcome"', 'email = "welcome"\ngroups = ["Yoga*"]')
    )
    assert watches(database, kind="members") == []
    house.wix.groups[RUNNERS] = Group(
        RUNNERS, "Yoga on the run", "PUBLIC", created_at=clock() - timedelta(days=9)
    )
    clock.move(minutes=3)
    fresh = GroupId("fresh")
    house.wix.groups[fresh] = Group(fresh, "Yoga at dawn", "PUBLIC", created_at=clock())
    come(house, CEM, fresh)
    come(house, BOB, fresh, minutes=-1)
    come(house, BOB)
    turn(house, minutes=4)
    assert house.mail.readers == ["m-bob@example.com"], "in the new group, and its founder is not greeted"
    house.wix.groups[RUNNERS] = Group(RUNNERS, "Hills", "PUBLIC")
    turn(house, minutes=6)
    assert [row.group_id for row in watches(database, kind="members")] == ["fresh"]


def test_a_group_that_wix_does_not_list_for_a_while_loses_no_join(database: Database, clock: Clock):
    house = connected(database, clock)
    hidden = house.wix.groups.pop(RUNNERS)
    come(house, BOB, minutes=-30)
    for _ in range(12):
        turn(house, minutes=6)
    assert [row.state for row in watches(database, kind="members")] == ["missing"]
    house.wix.groups[RUNNERS] = hidden
    turn(house, minutes=6)
    turn(house, minutes=6)
    assert house.mail.readers == ["m-bob@example.com"]
    del house.wix.groups[RUNNERS]
    turn(house, minutes=6)
    turn(house, hours=25)
    assert watches(database, kind="members") == []


def test_a_group_that_wix_knows_no_members_of_is_asked_about_again_when_it_is_listed(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    house.wix.fails["list_group_members"] = [NotFoundError("404")]
    turn(house, minutes=6)
    assert [row.state for row in watches(database, kind="members")] == ["missing"]
    turn(house, minutes=16)
    assert house.mail.readers == ["m-bob@example.com"]


# Requests


def test_a_request_that_nobody_told_of_is_found_at_the_second_look(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = connected(database, clock, FLAG, "PRIVATE")
    come(house, BOB, status="pending")
    house.wix.memberships[RUNNERS, CEM] = Membership("pending")
    turn(house, minutes=6)
    assert found(database) == []
    del house.wix.memberships[RUNNERS, CEM]  # let in or declined in time
    turn(house, minutes=2)
    assert found(database) == [("join_requested", "done")]
    assert [row.state for row in house.services.outbox.calls()] == ["flagged"]
    assert house.mail.readers == ["m-bob@example.com"]
    [line] = lines(caplog, "webhook.missed")
    assert (line.levelno, line.found) == (logging.ERROR, 1)  # type: ignore[attr-defined]
    assert "m-bob" not in str(vars(line))
    for _ in range(5):
        turn(house, minutes=6)
    assert len(found(database)) == 1


@pytest.mark.parametrize("order", ["sweep first", "webhook first"])
def test_a_request_that_is_found_and_told_of_is_decided_once(database: Database, clock: Clock, order: str):
    house = connected(database, clock, FLAG, "PRIVATE")
    clock.move(minutes=4)
    come(house, BOB, status="pending")
    webhook = asked(house, BOB)
    clock.move(minutes=2)
    sweep(house)
    if order == "webhook first":
        clock.move(minutes=1)
        house.hear(webhook)
        house.work()
    turn(house, minutes=3)
    house.hear(webhook)
    house.work()
    assert [row.state for row in house.services.outbox.calls()] == ["flagged"]
    assert house.mail.readers == ["m-bob@example.com"], "also of a letter that goes once for each time"
    assert len(found(database)) == (1 if order == "sweep first" else 0)


def test_whoever_asks_again_later_is_found_again(database: Database, clock: Clock):
    house = connected(database, clock, FLAG, "PRIVATE")
    for _ in range(2):
        come(house, BOB, status="pending")
        turn(house, minutes=6)
        turn(house, minutes=3)
        del house.wix.memberships[RUNNERS, BOB]
        turn(house, minutes=6)
        turn(house, minutes=11)
    assert found(database) == [("join_requested", "done")] * 2
    assert len(house.services.outbox.calls()) == 2


def test_whoever_waited_before_the_site_was_connected_is_not_found(database: Database, clock: Clock):
    house = a_house(database, clock, FLAG)
    house.wix.groups[RUNNERS] = Group(RUNNERS, "Trail Runners", "PRIVATE")
    waiting = [MemberId(f"m-{number}") for number in range(150)]
    for member in waiting[:149]:
        come(house, member, status="pending")
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="installed", payload="{}"))
    house.work()
    sweep(house)
    come(house, waiting[149], status="pending")  # passed over, on the way from one page to the next
    for _ in range(4):
        turn(house, minutes=6)
    assert found(database) == []
    come(house, BOB, status="pending")
    turn(house, minutes=6)
    turn(house, minutes=3)
    assert found(database) == [("join_requested", "done")]


def test_somebody_who_waited_and_is_in_was_approved_though_nobody_told_of_it(
    database: Database, clock: Clock
):
    approved = WELCOME.replace('["member_added", "join_approved"]', '["join_approved"]')
    house = connected(database, clock, approved, "PRIVATE")
    come(house, BOB, status="pending")
    turn(house, minutes=6)
    come(house, BOB)
    come(house, CEM)
    turn(house, minutes=6)
    assert house.mail.readers == ["m-bob@example.com"], "Cem was brought in by an admin"
    assert sorted(kind for kind, _ in found(database)) == [
        "join_approved",
        "member_joined",
        "member_joined",
    ]


# Too old, forgotten, blocked


@pytest.mark.parametrize("source", ["found", "told"])
def test_a_join_older_than_one_automation_allows_is_recorded_with_its_reason(
    database: Database, clock: Clock, source: str
):
    patient = WELCOME.replace('"welcome"\non', '"patient"\non')
    house = connected(database, clock, WELCOME + 'max_age = "2h"\n' + patient)
    clock.move(hours=3)
    come(house, BOB, hours=2, minutes=30)
    if source == "told":
        house.hear(added(house, BOB))
    turn(house)
    assert sorted(house.rows(), key=str) == [
        ("patient", "sent", None),
        ("welcome", "skipped", "2.5 hours old; `max_age` would allow it"),
    ]
    assert len(found(database)) == (source == "found")


def test_a_join_older_than_every_automation_allows_is_recorded_as_ignored(database: Database, clock: Clock):
    house = connected(database, clock, WELCOME + 'max_age = "2h"\n')
    clock.move(hours=3)
    come(house, BOB, hours=2, minutes=30)
    turn(house)
    assert house.mail.readers == []
    assert found(database) == [("member_joined", "ignored")]


def test_a_rule_for_fresh_requests_does_not_decide_an_old_one_nor_does_one_below_it(
    database: Database, clock: Clock
):
    rules = FLAG.replace('decide = "flag"', 'decide = "flag"\nmax_age = "1h"') + (
        '[[automation]]\nname = "let-in"\non = ["join_requested"]\ndecide = "approve"\n'
    )
    house = a_house(database, clock, rules)
    house.wix.memberships = {(RUNNERS, ANN): Membership("pending")}
    house.hear(asked(house, ANN, hours=2))
    house.work()
    assert house.services.outbox.calls() == []
    house.hear(asked(house, ANN, id="fresh"))
    house.work()
    assert [row.automation for row in house.services.outbox.calls()] == ["ask-somebody"]


def test_the_policys_max_age_goes_for_automations_without_their_own(database: Database, clock: Clock):
    patient = WELCOME.replace('"welcome"\non', '"patient"\non') + 'max_age = "1w"\n'
    house = a_house(database, clock, WELCOME + patient)
    house.hear(an_event(clock, days=4), an_event(clock, id="e2", days=8))
    house.work()
    assert sorted(house.rows(), key=str) == [
        ("patient", "sent", None),
        ("welcome", "skipped", "4.0 days old; `max_age` would allow it"),
    ]


def test_who_was_forgotten_or_is_blocked_is_not_greeted_either(database: Database, clock: Clock):
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    come(house, CEM, minutes=-1)
    house.wix.members[CEM] = replace(house.wix.members[CEM], status="BLOCKED")
    house.hear(an_event(clock, type=events.MEMBER_DELETED, id="x", member=BOB, erasure=True))
    house.work()
    turn(house, minutes=6)
    assert house.mail.readers == []
    assert sorted(str(reason) for _, _, reason in house.rows()) == [
        "the member is blocked on the site",
        "the person asked to be forgotten",
    ]


# Alarms


def test_a_join_of_a_private_group_that_only_the_sweep_found_is_an_alarm_and_of_a_public_one_is_none(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = connected(database, clock, privacy="PUBLIC")
    come(house, BOB, minutes=-1)
    turn(house, minutes=6)
    assert lines(caplog, "webhook.missed") == []
    house.wix.groups[RUNNERS] = Group(RUNNERS, "Trail Runners", "SECRET")
    turn(house, minutes=6)
    come(house, CEM, minutes=-1)
    turn(house, minutes=6)
    [line] = lines(caplog, "webhook.missed")
    assert (line.levelno, line.found, line.group) == (logging.ERROR, 1, RUNNERS)  # type: ignore[attr-defined]


def test_a_site_whose_webhooks_stay_away_is_an_alarm_once_an_hour_until_they_come_again(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = connected(database, clock)
    for number in range(12):
        house.hear(an_event(clock, id=f"e{number}"))
        clock.move(hours=2)
    turn(house, hours=20)
    come(house, BOB, minutes=3)
    turn(house, minutes=6)
    assert found(database) == [("member_joined", "done")]
    assert lines(caplog, "webhook.quiet") == []
    turn(house, hours=4)
    turn(house, minutes=6)
    assert [line.levelno for line in lines(caplog, "webhook.quiet")] == [logging.ERROR], (
        "what is found is no webhook"
    )
    turn(house, minutes=55)
    assert len(lines(caplog, "webhook.quiet")) == 2
    assert [row.quiet_at for row in watches(database, kind="groups")] == [clock()]
    house.hear(an_event(clock, id="again"))
    turn(house, minutes=6)
    assert [row.quiet_at for row in watches(database, kind="groups")] == [None]
    assert len(lines(caplog, "webhook.quiet")) == 2


# Wix in trouble, several loops, several sites


def test_what_wix_refuses_is_said_once_and_the_other_lists_are_looked_at(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = connected(database, clock, WELCOME + FLAG, "PRIVATE")
    house.wix.fails["list_join_requests"] = [
        ForbiddenError(f"403; request id {number}") for number in range(3)
    ]
    come(house, BOB, minutes=-1)
    for _ in range(3):
        turn(house, minutes=16)
    assert house.mail.readers == ["m-bob@example.com"]
    [line] = lines(caplog, "reconcile.refused")
    assert (line.list, line.error) == ("requests", "403; request id 0")  # type: ignore[attr-defined]
    assert [row.error for row in watches(database, kind="requests")] == ["refused: 403; request id 2"]
    come(house, CEM, status="pending")
    turn(house, minutes=16)
    turn(house, minutes=6)
    assert watches(database, kind="requests")[0].error is None
    assert ("join_requested", "done") not in found(database), "nobody knows who waited before"


def test_a_list_that_fails_is_looked_at_later_while_live_work_and_other_sites_go_on(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    other = SiteId("other")
    house.hear(replace(an_event(clock, type=events.APP_INSTALLED, id="i", payload="{}"), site=other))
    house.work()
    house.wix.fails["list_groups"] = [RetryableError("503"), RetryableError("429", retry_after_s=100.0)]
    clock.move(minutes=6)
    sweep(house)
    with database.read() as tx:
        assert tx.execute(sa.select(sites_table.c.rests_until)).scalars().all() == [None, None]
    later = {row.site: row.next_at - clock() for row in watches(database, kind="groups") if row.error}
    assert sorted(later) == sorted([SITE, other])
    assert max(later.values()) >= timedelta(seconds=100), "Wix said when"
    come(house, BOB)
    turn(house, minutes=3)
    assert house.mail.readers == ["m-bob@example.com"]
    assert [row.attempts for row in watches(database, kind="groups")] == [0, 0]


def test_waiting_for_room_uses_no_attempts_up_and_a_site_that_rests_is_not_asked(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    house.wix.fails["list_groups"] = [RetryableError("no room", counts=False, retry_after_s=2.0)]
    clock.move(minutes=6)
    sweep(house)
    [row] = watches(database, kind="groups")
    assert (row.attempts, row.error) == (0, "no room")
    house.services.sites.rest(SITE, 60)
    house.wix.asked.clear()
    clock.move(seconds=50)
    sweep(house)
    assert house.wix.asked == []


def test_a_defect_at_one_list_does_not_end_the_sweep(database: Database, clock: Clock):
    house = connected(database, clock)
    house.wix.fails["list_group_members"] = [ZeroDivisionError()]
    come(house, BOB, minutes=-1)
    turn(house, minutes=6)
    assert [row.error for row in watches(database, kind="members")] == ["ZeroDivisionError"]
    turn(house, minutes=16)
    assert house.mail.readers == ["m-bob@example.com"]


def test_a_look_whose_process_died_is_taken_up_and_one_that_kills_is_left_for_an_hour(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    clock.move(minutes=6)
    house.wix.fails["list_group_members"] = [KeyboardInterrupt()] * 5  # type: ignore[list-item]
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            sweep(house)
        clock.move(minutes=1)
    turn(house)
    assert len(lines(caplog, "reconcile.crashed")) == 1
    assert house.mail.readers == []
    turn(house, minutes=61)
    assert house.mail.readers == ["m-bob@example.com"]


def test_two_loops_look_at_each_list_once(database: Database, clock: Clock):
    house, other = connected(database, clock), a_house(database, clock)
    clock.move(minutes=6)
    held = house.services.watches.claim()
    assert held is not None
    sweep(other)
    assert len(other.wix.asked) == 1, "there are two lists"


def test_what_is_found_twice_is_one_event(database: Database, clock: Clock):
    """Two loops may compare at the same time, one of them for another that was taken for dead."""
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    clock.move(minutes=6)
    house.services.journal.heard = lambda *_: []  # type: ignore[method-assign]
    sweep(house)
    clock.move(minutes=6)
    sweep(house)
    assert found(database) == [("member_joined", "received")]


def test_a_process_that_lives_keeps_the_list_it_reads(database: Database, clock: Clock):
    house = connected(database, clock)
    clock.move(minutes=6)
    assert house.services.watches.claim() is not None
    other = a_house(database, clock)
    for _ in range(6):
        clock.move(seconds=20)
        house.services.renew_leases()
        sweep(other)
    assert ("list_groups",) not in other.wix.asked


def test_the_looks_at_a_site_stay_within_their_share_of_its_budget(database: Database, clock: Clock):
    house = connected(database, clock)
    clock.move(minutes=6)
    house.wix.asked.clear()
    for second in range(180):
        for number in range(150):  # somebody joins or leaves everywhere, all the time
            group = GroupId(f"g{number}")
            house.wix.groups[group] = Group(group, f"Group {number}", "PUBLIC", second)
        sweep(house, calls_per_minute=180)
        clock.move(seconds=1)
    assert 3 * 36 - 25 < len(house.wix.asked) <= 3 * 36 + 2


def test_loops_beside_each_other_share_what_a_site_may_cost(database: Database, clock: Clock):
    house, other = connected(database, clock), a_house(database, clock)
    clock.move(minutes=6)
    held = [(loop.services.watches, loop.services.watches.claim()) for loop in (house, other)]
    for watched, claim in held:
        assert claim is not None
        watched.settle(claim, claim.watch, next_s=1, pause_s=60)
    clock.move(seconds=119)
    assert house.services.watches.claim() is None
    clock.move(seconds=1)
    assert house.services.watches.claim() is not None


def test_a_site_that_had_its_share_does_not_stand_before_another(database: Database, clock: Clock):
    house = a_house(database, clock)
    for site in ("busy", "fresh"):
        house.hear(replace(an_event(clock, type=events.APP_INSTALLED, payload="{}"), site=SiteId(site)))
        house.work()
        sweep(house, calls_per_minute=1)
        clock.move(seconds=1)
    assert [call[0] for call in house.wix.asked] == ["list_groups", "list_groups"]


def test_a_list_that_is_being_read_is_not_given_to_anybody_else(database: Database, clock: Clock):
    house, other = connected(database, clock), a_house(database, clock)
    clock.move(minutes=6)
    held = [house.services.watches.claim() for _ in range(2)]
    [groups] = [claim for claim in held if claim is not None and claim.watch.kind == "groups"]
    house.services.watches.settle(groups, groups.watch, next_s=0, pause_s=0)
    other.wix.groups = {RUNNERS: Group(RUNNERS, "Trail Runners", "PUBLIC", 99)}
    sweep(other)
    assert [call[0] for call in other.wix.asked] == ["list_groups"]


# Sites that come and go


def test_a_site_that_removed_the_app_is_not_looked_at_and_begins_anew_when_it_comes_back(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    house.hear(an_event(clock, type=events.APP_REMOVED, id="removed", payload="{}"))
    house.work()
    house.wix.asked.clear()
    come(house, BOB, minutes=-1)
    turn(house, minutes=6)
    assert house.wix.asked == []
    assert watches(database) == []
    clock.move(minutes=6)
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="back", payload="{}"))
    house.work()
    sweep(house)
    clock.move(minutes=1)
    come(house, CEM)
    turn(house, minutes=6)
    turn(house, minutes=6)
    assert house.mail.readers == ["m-cem@example.com"]


def test_an_installation_after_a_removal_that_nobody_told_of_begins_anew_too(
    database: Database, clock: Clock
):
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    clock.move(hours=5)
    house.hear(an_event(clock, type=events.APP_INSTALLED, id="back", payload="{}"))
    house.work()
    turn(house, minutes=1)
    turn(house, minutes=6)
    assert house.mail.readers == []


def test_a_late_word_of_the_installation_interrupts_nothing(database: Database, clock: Clock):
    house = a_house(database, clock)
    come(house, ANN)
    house.hear(an_event(clock, id="e1"))
    house.work()
    sweep(house)
    come(house, BOB, minutes=-5)
    clock.move(hours=2)
    installed = an_event(clock, type=events.APP_INSTALLED, id="late", payload="{}", hours=3)
    house.hear(installed)
    house.work()
    turn(house)
    assert house.mail.readers == ["ann@example.com", "m-bob@example.com"]


def test_a_site_that_removes_the_app_during_a_look_is_left_alone(database: Database, clock: Clock):
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    clock.move(minutes=6)
    real = house.services.journal.heard

    def heard(*arguments: Any) -> Any:
        house.hear(an_event(clock, type=events.APP_REMOVED, id="removed", payload="{}"))
        house.work()
        return real(*arguments)

    house.services.journal.heard = heard  # type: ignore[method-assign]
    sweep(house)
    assert found(database) == []
    assert watches(database) == []


# The loop, and what it tells


def test_the_loop_waits_for_a_database_that_is_away_and_ends_when_told(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    house = connected(database, clock)
    stop, real = threading.Event(), house.services.watches.claim
    answers: list[Exception] = [JournalUnavailableError("away"), ZeroDivisionError()]

    def claim() -> Any:
        if answers:
            raise answers.pop(0)
        stop.set()
        return real()

    stop.wait = lambda _seconds: False  # type: ignore[assignment, method-assign]
    house.services.watches.claim = claim  # type: ignore[method-assign]
    reconcile_until(house.services, 180, stop)
    assert len(lines(caplog, "reconcile.database_away")) == len(lines(caplog, "reconcile.failed")) == 1


def test_the_metrics_count_what_was_found_the_sites_that_are_quiet_and_who_is_paused(
    database: Database, database_url: str, clock: Clock, tmp_path: Path
):
    house = connected(database, clock)
    come(house, BOB, minutes=-1)
    turn(house, minutes=6)
    with database.begin() as tx:
        tx.execute(sa.update(watches_table).where(watches_table.c.kind == "groups").values(quiet_at=clock()))
    house.services.senders.pause("gmail.com", "550 5.7.1")

    async def look() -> str:
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            return (await client.get("/metrics")).text

    text = asyncio.run(look())
    assert "usher_events_found 1.0" in text
    assert "usher_quiet_sites 1.0" in text
    assert "usher_paused_senders 1.0" in text


# Against the sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The stand-in for Wix as a process of its own; its settings."""
    command = [sys.executable, "-m", "sandbox", "--port", "0", "--smtp-port", "0", "--rate-limit", "0"]
    with (tmp_path / "sandbox.log").open("wb") as log_file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log_file)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.stdout.close()


def test_at_the_sandbox_silent_joins_are_greeted_once_and_nobody_else(
    database: Database, clock: Clock, sandbox: dict[str, str]
):
    ready = sandbox
    clock.now = datetime.now(UTC) - timedelta(seconds=2)  # the sandbox writes whole seconds
    house = a_house(database, clock, "[policy]\nonboarding_without_consent = true\n" + WELCOME + YOGA)
    wix = WixClient(
        ready["url"], ready["WIX_APP_ID"], ready["WIX_APP_SECRET"], calls_per_minute=60_000, now=lambda: 0.0
    )
    house = replace(house, services=replace(house.services, wix=wix))
    with httpx.Client(base_url=ready["url"], trust_env=False) as people:

        def act(name: str, **arguments: Any) -> dict[str, Any]:
            answer = people.post("/sandbox/acts", json={"act": name, **arguments})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        site = people.get("/sandbox/state").json()["site"]["instance_id"]
        house.hear(replace(an_event(clock, type=events.APP_INSTALLED, payload="{}"), site=SiteId(site)))
        house.work()
        sweep(house)
        act("self_join", group="Harbour Choir", member="greta.ml@example.org")
        act("add_member", group="Community Garden", member="dmitri@example.com", webhook={"silent": True})
        answers = {"Which class are you most interested in?": "Yoga"}
        act(
            "request_join",
            group="Trail Runners",
            member="amara.nwosu@example.org",
            answers=answers,
            webhook={"silent": True},
        )
        clock.now = datetime.now(UTC)
        turn(house, minutes=6)
        for _ in range(4):
            turn(house, minutes=3)
    wix.close()
    assert sorted(house.mail.readers) == ["amara.nwosu@example.org", "greta.ml@example.org"]
    skipped = [(name, reason) for name, state, reason in house.rows() if state == "skipped"]
    assert skipped == [("welcome", "unsubscribed (Wix: UNSUBSCRIBED)")], "Dmitri said no"


def test_a_call_for_which_there_is_room_costs_a_look_neither_time_nor_patience():
    stop = threading.Event()
    wait = _patience(stop)
    assert all(wait(0.0) for _ in range(100_000))  # 5,000 s, if each were to cost a twentieth of one
    assert wait(0.001)
    stop.set()
    assert not wait(0.0)
