"""The report as a job: read page by page, counted, and mailed once; and the daily sizes that growth is told from."""

from __future__ import annotations

import email
import email.policy
import threading
import uuid
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core import events
from core.community import Group, GroupId, MemberId, SiteId
from core.errors import (
    Blame,
    ForbiddenError,
    JournalUnavailableError,
    MailDeferredError,
    MailInDoubtError,
    MailRefusedError,
    RetryableError,
)
from core.reports import Interest
from integrations.store.database import Database
from integrations.store.sites import note_site
from integrations.store.suppressions import suppress, unsubscribe
from integrations.store.tables import events as events_table
from integrations.store.tables import group_days, jobs, messages
from tasks.reconcile import reconcile
from tasks.schedule import Schedule
from tests.house import RUNNERS, SITE, Clock, House, a_house, an_event

BOARD = "board@example.com"


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    return a_house(database, clock)


def ask(house: House, *to: str, **params: Any) -> str:
    """A report as the API asks for one; its id."""
    given = {"top": 10, "idle_days": 90, "mail_to": list(to), **params}
    row, _ = house.services.jobs.create(SITE, "groups_report", given, who="tests", state="running")
    return str(row.id)


def report(house: House, *to: str, **params: Any) -> Any:
    """The job of a report once nothing of it is due any more."""
    id_ = ask(house, *to, **params)
    house.turn()
    return house.job(id_)


def groups_of(house: House, **sizes: int | None) -> None:
    house.wix.groups = {
        GroupId(name): Group(GroupId(name), name.title(), "PUBLIC", size) for name, size in sizes.items()
    }


def note(house: House, **sizes: int | None) -> frozenset[GroupId]:
    """What the list of groups said today."""
    return house.services.group_days.note(
        SITE, [Group(GroupId(name), name, members=size) for name, size in sizes.items()]
    )


def sizes_noted(house: House) -> dict[tuple[date, str], int | None]:
    with house.database.read() as tx:
        return {(row.day, row.group_id): row.members for row in tx.execute(sa.select(group_days))}


def a_letter(house: House, member: str, state: str = "sent", *, age_days: float = 1, **values: Any) -> str:
    """A row of the ledger as its worker left it."""
    at = house.clock() - timedelta(days=age_days)
    id_ = uuid.uuid4().hex
    row = {
        "site": SITE,
        "group_id": RUNNERS,
        "automation": "welcome",
        "trigger": "member_added",
        "purpose": "onboarding",
        "email_template": "welcome",
        "context": {},
        "look_again": False,
        "marked": state in ("sent", "bounced"),
        "attempts": 0,
        "crashes": 0,
        "due_at": at,
        "next_at": at,
        "sent_at": at if state in ("sent", "bounced") else None,
        "bounced_at": at if state == "bounced" else None,
    }
    with house.database.begin() as tx:
        tx.execute(
            sa.insert(messages).values(
                id=id_, key=id_, member=member, state=state, created_at=at, **row | values
            )
        )
    return id_


# Counting


def test_a_report_reads_the_list_by_the_hundred_and_needs_no_yes(house: House):
    groups_of(house, **{f"g{number:03}": number for number in range(250)})
    job = report(house, top=2)
    assert (job.state, job.wix_calls) == ("done", 4)
    assert [call[0] for call in house.wix.asked] == ["groups_page"] * 3 + ["get_site"]
    assert job.cost == {"wix_calls": 4, "seconds_at_least": 0}
    assert job.result["total"] == 250
    assert [group["id"] for group in job.result["most_popular"]] == ["g249", "g248"]
    assert job.result["members"] == sum(range(250))
    counts = house.counts(job.id)
    assert (counts.total, counts.done) == (250, 250)


def test_a_site_without_groups_has_a_report(house: House):
    house.wix.groups = {}
    job = report(house)
    assert (job.state, job.result["total"], job.wix_calls) == ("done", 0, 2)


def test_each_page_is_a_step_of_its_own_and_a_cancelled_report_asks_no_more(house: House):
    groups_of(house, **{f"g{number:03}": 1 for number in range(250)})
    id_ = ask(house)
    house.services.jobs.pause(id_, who="tests")
    house.turn()
    assert house.wix.asked == []
    house.services.jobs.resume(id_, who="tests")
    house.services.jobs.cancel(id_, who="tests")
    house.turn()
    assert (house.wix.asked, house.job(id_).state, house.job(id_).result) == ([], "cancelled", None)


def test_a_page_that_wix_refuses_for_now_is_read_again(house: House):
    groups_of(house, **{f"g{number:03}": 1 for number in range(150)})
    house.wix.fails["groups_page"] = [RetryableError("Wix is away")]
    id_ = ask(house)
    house.turn()
    assert house.job(id_).state == "running"
    house.clock.move(minutes=10)
    house.turn()
    assert (house.job(id_).state, house.job(id_).result["total"]) == ("done", 150)


def test_a_list_that_changes_while_it_is_read_loses_and_doubles_nobody(house: House):
    """Of 250 groups one of the first page is deleted after it was read: all others move up by one."""
    groups_of(house, **{f"g{number:03}": 1 for number in range(250)})
    pages = house.wix.groups_page

    def groups_page(site: SiteId, offset: int) -> Any:
        page = pages(site, offset)
        house.wix.groups.pop(GroupId("g000"), None)
        return page

    house.wix.groups_page = groups_page  # type: ignore[method-assign]
    house.services.wix.for_bulk = lambda wait=None: house.wix  # type: ignore[method-assign]
    house.hear(an_event(house.clock, type=events.GROUP_DELETED, payload='{"entityId": "g000"}'))
    job = report(house)
    assert job.result["total"] == 249
    counts = house.counts(job.id)
    assert counts.done == 249
    assert counts.skipped_by_reason["the group was deleted, though Wix still lists it"] == 1


def test_a_deleted_group_that_wix_still_lists_is_left_out(house: House):
    groups_of(house, kept=3, gone=50)
    house.hear(an_event(house.clock, type=events.GROUP_DELETED, payload='{"entityId": "gone"}'))
    job = report(house)
    assert (job.result["total"], job.result["members"]) == (1, 3)
    assert job.result["excluded"] == [{"id": "gone", "name": "Gone"}]
    assert any("Wix still lists 1 group" in line for line in job.result["notes"])
    assert (house.counts(job.id).done, house.counts(job.id).skipped) == (1, 1)


def test_the_rows_of_a_report_keep_no_names_once_it_is_counted(house: House):
    groups_of(house, secret=3)
    job = report(house)
    assert [item.data for item in house.services.jobs.items(job.id)] == [{}]


# The daily sizes


def test_todays_sizes_are_what_the_list_said_last(house: House, clock: Clock):
    today = clock().date()
    note(house, a=1, b=2)
    note(house, a=5, c=None)
    assert sizes_noted(house) == {(today, "a"): 5, (today, "c"): None}
    clock.move(days=1)
    note(house, a=6)
    assert sizes_noted(house)[today, "a"] == 5
    assert sizes_noted(house)[clock().date(), "a"] == 6


def test_where_nothing_changed_nothing_is_written(house: House, monkeypatch):
    note(house, a=1, b=None)
    monkeypatch.setattr(house.database, "begin", lambda: pytest.fail("a transaction that writes"))
    note(house, a=1, b=None)


def test_looking_at_the_list_of_groups_notes_the_sizes(house: House, clock: Clock):
    with house.database.begin() as tx:
        note_site(tx, SITE, clock(), "active")
    reconcile(house.services, 180, threading.Event())
    assert sizes_noted(house) == {(clock().date(), RUNNERS): 1}


def test_growth_is_told_from_the_sizes_of_the_days_before(house: House, clock: Clock):
    for size in (10, 12, 9, 11, 8):  # lost 3, and 3 again
        note(house, a=size, closed=4)
        clock.move(days=1)
    groups_of(house, a=9, new=2)
    job = report(house)
    week = job.result["growth"][0]
    assert (week["since"], week["members_then"], week["change"], week["left"]) == ("2026-05-03", 14, -3, 6)
    assert (week["new_groups"], week["gone_groups"]) == (1, 1)
    assert [reading["members"] for reading in job.result["days"]] == [14, 16, 13, 15, 12, 11]
    assert {group["id"]: group["change"]["7"] for group in job.result["groups"]} == {"a": -1, "new": 2}


def test_who_left_before_a_span_began_is_not_counted_in_it(house: House, clock: Clock):
    note(house, a=100)
    clock.move(days=10)
    for size in (50, 49):
        note(house, a=size)
        clock.move(days=6)
    groups_of(house, a=49)
    spans = {growth["days"]: growth for growth in report(house).result["growth"]}
    assert (spans[7]["since"], spans[7]["left"], spans[7]["change"]) == ("2026-05-19", 0, 0)
    assert (spans[30]["since"], spans[30]["left"], spans[30]["change"]) == ("2026-05-03", 51, -51)


def test_a_deleted_group_stays_left_out_when_the_journal_has_forgotten_it(house: House, clock: Clock):
    house.hear(an_event(clock, type=events.GROUP_DELETED, payload='{"entityId": "gone"}'))
    assert note(house, kept=1, gone=2) == {"gone"}
    with house.database.begin() as tx:
        tx.execute(sa.delete(events_table))
    for _ in range(30):
        clock.move(days=29)
        assert note(house, kept=1, gone=2) == {"gone"}
    assert not [day for day, group in sizes_noted(house) if group == "gone" and day.year > 1970]


def test_a_deletion_that_comes_after_todays_reading_takes_its_row_away(house: House, clock: Clock):
    note(house, kept=1, gone=2)
    house.hear(an_event(clock, type=events.GROUP_DELETED, payload='{"entityId": "gone"}'))
    groups_of(house, kept=1, gone=2)
    job = report(house)
    assert [(reading["groups"], reading["members"]) for reading in job.result["days"]] == [(1, 1)]


def test_sizes_and_deletions_are_kept_for_four_hundred_days(house: House, clock: Clock):
    house.hear(an_event(clock, type=events.GROUP_DELETED, payload='{"entityId": "gone"}'))
    first = clock().date()
    note(house, a=1, gone=1)
    clock.move(days=400)
    note(house, a=2)
    assert {day for day, _ in sizes_noted(house)} == {date(1970, 1, 1), first, clock().date()}
    clock.move(days=1)
    note(house, a=3)
    assert {day for day, _ in sizes_noted(house)} == {clock().date() - timedelta(days=1), clock().date()}


def test_another_sites_sizes_are_its_own(house: House, clock: Clock):
    house.services.group_days.note(SiteId("other"), [Group(GroupId("a"), "a", members=99)])
    clock.move(days=1)
    groups_of(house, a=1)
    result = report(house).result
    assert (result["growth"][0]["since"], [reading["members"] for reading in result["days"]]) == (None, [1])


# Letters and interests


def test_the_funnel_counts_the_letters_of_the_last_thirty_days_by_letter(house: House):
    for number, state in enumerate(("sent", "sent", "bounced", "skipped", "planned", "failed", "in_doubt")):
        a_letter(house, f"m{number}", state, reason="why" if state == "skipped" else None)
    a_letter(house, "old", age_days=31)
    a_letter(house, "other", email_template="yoga-offer", automation="yoga-offer")
    a_letter(house, "elsewhere", site="other", context={"matched": ["yoga"]})
    assert house.services.group_days.interests(SITE) == []
    (welcome, yoga), total, left_out = house.services.group_days.letters(SITE)
    assert (welcome.email, welcome.automation, welcome.job) == ("welcome", "welcome", None)
    assert (welcome.asked, welcome.eligible, welcome.sent, welcome.bounced) == (7, 6, 3, 1)
    assert (welcome.waiting, welcome.failed, welcome.in_doubt) == (1, 1, 1)
    assert (yoga.email, yoga.asked) == ("yoga-offer", 1)
    assert (total.asked, total.sent, left_out) == (8, 4, 0)


def test_letters_of_a_job_that_nobody_confirmed_are_none(house: House, clock: Clock):
    row, _ = house.services.jobs.create(SITE, "group_email", {}, who="tests", state="paused")
    a_letter(house, "m1", "planned", automation=None, job=row.id)
    assert house.services.group_days.letters(SITE)[1].asked == 0
    with house.database.begin() as tx:
        tx.execute(sa.update(jobs).values(confirmed_at=clock()))
    (letters,), total, _ = house.services.group_days.letters(SITE)
    assert (letters.job, letters.asked, total.asked) == (row.id, 1, 1)


def test_who_said_stop_counts_for_the_letter_that_was_answered_or_else_for_the_last_one(
    house: House, clock: Clock
):
    answered = a_letter(house, "m1", email_template="first", age_days=5)
    a_letter(house, "m1", email_template="second", age_days=2)
    a_letter(house, "m2", email_template="first", age_days=5)
    a_letter(house, "m2", email_template="second", age_days=2)
    a_letter(house, "m3", email_template="first", age_days=5, group_id="g2")
    a_letter(house, "m3", email_template="second", age_days=2)
    with house.database.begin() as tx:
        unsubscribe(tx, SITE, MemberId("m1"), "h1", "mail", letter=answered)
        unsubscribe(tx, SITE, MemberId("m2"), "h2", "one-click")
        unsubscribe(tx, SITE, MemberId("m3"), "h3", "page", group=GroupId("g2"))
        unsubscribe(tx, SITE, MemberId("never written to"), "h4", "page")
        suppress(tx, SITE, "member:m2", "all", cause="forgotten", reason="forgotten")
    found, total, _ = house.services.group_days.letters(SITE)
    assert {line.email: line.unsubscribed for line in found} == {"first": 2, "second": 1}
    assert total.unsubscribed == 3
    clock.move(days=31)
    assert house.services.group_days.letters(SITE)[1].unsubscribed == 0


def test_interests_count_each_person_once_in_each_group(house: House):
    a_letter(house, "m1", context={"matched": ["yoga", "pilates"]})
    a_letter(house, "m1", context={"matched": ["yoga"]}, automation="yoga-offer")
    a_letter(house, "m1", context={"matched": ["yoga"]}, group_id="other")
    a_letter(house, "m2", "skipped", context={"matched": ["yoga"]}, reason="not subscribed")
    a_letter(
        house, "m3", "skipped", context={"matched": ["yoga", "no yoga"]}, reason='"no yoga" in "Why?" (none)'
    )
    a_letter(house, "m4", context={"matched": "yoga"})
    a_letter(house, "m5", context={"matched": None})
    a_letter(house, "m6", context={})
    a_letter(house, "m8", context={"matched": ["yoga"]}, trigger="group_email")
    a_letter(house, "m7", context={"matched": ["שלום"]}, age_days=91)
    assert house.services.group_days.interests(SITE) == [Interest("yoga", 3), Interest("pilates", 1)]


# By mail


def test_a_report_goes_to_each_address_once_with_its_page_as_a_file(house: House):
    groups_of(house, runners=7)
    job = report(house, BOARD, "chair@example.com")
    assert job.state == "done"
    assert sorted(house.mail.readers) == [BOARD, "chair@example.com"]
    message = email.message_from_bytes(house.mail.letters[0][2], policy=email.policy.default)
    assert message["Subject"] == "Groups of Seaside Club: 3 May 2026"
    assert [part.get_filename() for part in message.iter_attachments()] == ["groups-2026-05-03.html"]
    assert [item.state for item in house.services.jobs.items(job.id)] == ["done", "done", "done"]
    house.clock.move(days=1)
    house.turn()
    assert len(house.mail.letters) == 2


def test_a_suppressed_address_gets_nothing_and_the_reason_is_there(house: House):
    with house.database.begin() as tx:
        subject = f"address:{house.services.hashes.of(BOARD)[0]}"
        suppress(tx, SiteId("other"), subject, "all", cause="dead", reason="dead")
    job = report(house, BOARD)
    assert house.mail.letters == []
    assert house.counts(job.id).skipped_by_reason == {"this address is suppressed": 1}


def test_an_address_that_is_suppressed_just_before_the_dot_gets_nothing(house: House):
    send = house.mail.send

    def slow(clearance: Any, sender: str, message: bytes, about_to_commit: Any, *waits: Any) -> str:
        with house.database.begin() as tx:
            subject = f"address:{house.services.hashes.of(BOARD)[0]}"
            suppress(tx, SITE, subject, "all", cause="dead", reason="dead")
        return send(clearance, sender, message, about_to_commit, *waits)

    house.mail.send = slow  # type: ignore[method-assign]
    job = report(house, BOARD)
    assert (house.mail.letters, house.counts(job.id).skipped) == ([], 1)


def test_a_site_whose_letters_are_switched_off_mails_no_report(database: Database, clock: Clock):
    house = a_house(database, clock, "[policy]\nsend = false\n")
    job = report(house, BOARD)
    assert (house.mail.letters, job.state, job.result["total"]) == ([], "done", 1)
    assert house.counts(job.id).skipped == 1


def test_an_address_that_is_none_fails_alone(house: House):
    job = report(house, "nobody at all", BOARD)
    assert house.mail.readers == [BOARD]
    assert (house.counts(job.id).failed, job.state) == (1, "done")


def test_a_worker_that_dies_after_the_dot_leaves_the_copy_in_doubt_and_it_is_never_sent_again(
    house: House, clock: Clock
):
    class Killed(BaseException):
        pass

    id_ = ask(house, BOARD)
    house.mail.dies_after_dot = [Killed()]
    with pytest.raises(Killed):
        house.turn()
    for _ in range(10):
        clock.move(minutes=30)
        house.turn()
    assert len(house.mail.letters) == 1
    assert (house.job(id_).state, house.counts(id_).in_doubt) == ("done", 1)


def test_an_answer_that_never_comes_is_a_doubt(house: House):
    house.mail.dies_after_dot = [MailInDoubtError("no answer after the final dot")]
    job = report(house, BOARD)
    (copy,) = [item for item in house.services.jobs.items(job.id) if item.state == "in_doubt"]
    assert copy.reason == "no answer after the final dot"
    assert len(house.mail.letters) == 1


def test_two_workers_with_the_same_copy_in_hand_send_it_once(house: House):
    """The second comes between the first one's body and its mark, as after a lease that ran out."""
    id_ = ask(house, BOARD)
    mail = house.mail
    send = mail.send

    def slow(clearance: Any, sender: str, message: bytes, about_to_commit: Any, *waits: Any) -> str:
        mail.send = send  # type: ignore[method-assign]
        (copy,) = house.services.jobs.items(id_, state="planned")
        assert house.services.jobs.move_item(id_, copy.number, was="planned", state="in_doubt")
        mail.letters.append(("the other worker", BOARD, message))
        return send(clearance, sender, message, about_to_commit, *waits)

    mail.send = slow  # type: ignore[method-assign]
    house.turn()
    assert [sender for sender, _, _ in mail.letters] == ["the other worker"]
    assert house.job(id_).state == "done"


def test_a_copy_that_the_mail_server_puts_off_is_sent_later_and_holds_up_no_other(house: House, clock: Clock):
    house.mail.fails = [MailDeferredError("450 greylisted")]
    id_ = ask(house, BOARD, "chair@example.com")
    house.turn()
    assert (house.mail.readers, house.job(id_).state) == (["chair@example.com"], "running")
    clock.move(hours=1)
    house.turn()
    assert (house.mail.readers, house.job(id_).state) == (["chair@example.com", BOARD], "done")


def test_a_copy_that_is_put_off_or_refused_after_its_dot_is_not_in_doubt(house: House, clock: Clock):
    house.mail.dies_after_dot = [MailDeferredError("451 later"), MailRefusedError("554 never")]
    id_ = ask(house, BOARD)
    house.turn()
    assert [item.state for item in house.services.jobs.items(id_)] == ["done", "planned"]
    clock.move(hours=1)
    house.turn()
    assert [(item.state, item.reason) for item in house.services.jobs.items(id_)][1:] == [
        ("failed", "554 never")
    ]


def test_a_copy_that_is_put_off_again_and_again_fails_in_the_end(house: House, clock: Clock):
    house.mail.fails = [MailDeferredError("450 greylisted") for _ in range(100)]
    id_ = ask(house, BOARD)
    for _ in range(40):
        house.turn()
        clock.move(hours=5)
    assert len(house.mail.fails) == 88
    assert (house.job(id_).state, house.counts(id_).failed) == ("done", 1)


def test_a_refused_copy_can_be_sent_again_by_hand(house: House):
    house.mail.fails = [MailRefusedError("550 no such user")]
    job = report(house, BOARD)
    assert (house.counts(job.id).failed, house.mail.letters) == (1, [])
    house.services.jobs.retry_failed(job.id, who="tests")
    house.turn()
    assert (house.mail.readers, house.job(job.id).state, house.counts(job.id).failed) == ([BOARD], "done", 0)


def test_a_sender_that_rests_sends_no_report_either(house: House, clock: Clock):
    house.services.senders.pause("", "550 5.7.1 blocked", 600)
    id_ = ask(house, BOARD)
    house.turn()
    assert (house.mail.letters, house.job(id_).state) == ([], "running")
    clock.move(seconds=700)
    house.turn()
    assert house.mail.readers == [BOARD]


def test_a_refusal_of_the_sender_pauses_it(house: House):
    house.mail.fails = [MailRefusedError("550 5.7.1 blocked", blame=Blame.SENDER)]
    id_ = ask(house, BOARD)
    house.turn()
    assert house.services.senders.paused() is not None
    assert house.job(id_).state == "running"


def test_a_report_that_is_cancelled_before_its_mail_sends_none(house: House, clock: Clock):
    house.mail.fails = [MailDeferredError("450 later")]
    id_ = ask(house, BOARD)
    house.turn()
    house.services.jobs.cancel(id_, who="tests")
    clock.move(hours=1)
    house.turn()
    assert (house.mail.letters, house.counts(id_).skipped) == ([], 1)


def test_a_report_is_headed_by_the_name_of_the_site(house: House):
    assert report(house).result["source"]["site_name"] == "Seaside Club"


def test_without_permission_to_read_the_site_the_report_goes_by_its_id(house: House):
    house.wix.fails["get_site"] = [ForbiddenError("403")]
    report(house, BOARD)
    message = email.message_from_bytes(house.mail.letters[0][2], policy=email.policy.default)
    assert message["Subject"].startswith(f"Groups of site {SITE}")


# On a schedule

WEEKLY = f"""
[policy]
time_zone = "Europe/Berlin"
[[report]]
name = "board"
every = "week"
on = "monday"
to = ["{BOARD}"]
top = 3
"""


def connected(database: Database, clock: Clock, *sites: str) -> House:
    house = a_house(database, clock, WEEKLY)
    with database.begin() as tx:
        for site in sites or (SITE,):
            note_site(tx, SiteId(site), clock(), "active")
        note_site(tx, SiteId("left"), clock(), "removed")
    return house


def test_a_scheduled_report_is_made_once_for_each_site_and_week(database: Database, clock: Clock):
    """The clock begins on Sunday, 3 May 2026, at noon."""
    house = connected(database, clock, SITE, "other")
    schedules = [Schedule(house.services), Schedule(house.services)]
    assert [schedule.look() for schedule in schedules] == [0, 0]
    clock.move(hours=18)  # six in London, eight in Berlin
    assert [schedule.look() for schedule in schedules] == [2, 0]
    assert [schedule.look() for schedule in (*schedules, Schedule(house.services))] == [0, 0, 0]
    made = house.services.jobs.page()
    assert {(row.site, row.who, row.kind, row.state) for row in made} == {
        (SITE, "schedule board", "groups_report", "running"),
        ("other", "schedule board", "groups_report", "running"),
    }
    assert made[0].params == {"top": 3, "idle_days": 90, "mail_to": [BOARD]}
    house.turn()
    assert house.mail.readers == [BOARD, BOARD]
    clock.move(days=7)
    assert schedules[0].look() == 2


def test_a_report_for_some_sites_is_made_for_these(database: Database, clock: Clock):
    house = connected(database, clock, SITE, "other")
    (only,) = (replace(found, sites=("OTH*",)) for found in house.services.automations.reports)
    services = replace(house.services, held=replace(house.services.automations, reports=(only,)))
    clock.move(days=1)
    assert Schedule(services).look() == 1
    assert [row.site for row in house.services.jobs.page()] == ["other"]


def test_a_schedule_that_slept_past_its_day_does_not_make_up_for_it(database: Database, clock: Clock):
    house = connected(database, clock)
    clock.move(days=3)
    assert Schedule(house.services).look() == 0


def test_the_loop_waits_for_a_database_that_is_away(database: Database, clock: Clock, monkeypatch):
    house = connected(database, clock)
    clock.move(days=1)
    stop = threading.Event()
    schedule = Schedule(house.services)
    monkeypatch.setattr("tasks.schedule.EVERY_S", 0.01)
    looked = []

    def look() -> int:
        looked.append(1)
        if len(looked) == 3:
            stop.set()
        raise JournalUnavailableError("away")

    monkeypatch.setattr(schedule, "look", look)
    schedule.look_until(stop)
    assert len(looked) == 3
