"""One letter to a group, or to an interest: who is looked at, who gets it, what it costs, what may break."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import timedelta

import pytest

from core import events
from core.automations import parse_automations
from core.community import Answer, Group, GroupId, Member, MemberId, Membership, Subscription
from core.errors import (
    ForbiddenError,
    MailRefusedError,
    NotFoundError,
    RetryableError,
    WrongStateError,
)
from core.jobs import Counts
from integrations.store.database import Database
from integrations.store.jobs import HELD, KeyReusedError
from tasks.batch import Batch
from tasks.claims import Break
from tasks.events import react
from tasks.jobs.engine import run_jobs
from tasks.jobs.kinds import KINDS
from tasks.letters import deliver_for_jobs
from tasks.turn import _Watch
from tests.house import RUNNERS, SITE, Clock, House, _renderer, a_house, an_event

YOGIS = GroupId("1f2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a99")
NOW_OR_NEVER = Break(lambda: None, lambda: False)


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    found.wix.members.clear()
    found.wix.memberships.clear()
    found.wix.subscriptions.clear()
    return found


def join(house: House, number: int, group: GroupId = RUNNERS, said: str | None = "SUBSCRIBED") -> MemberId:
    """Somebody is in a group; `said` None: Wix has no record of their address."""
    member = MemberId(f"m-{number:05}")
    email = f"reader{number}@example.com"
    house.wix.members[member] = Member(member, "APPROVED", email, f"Reader {number}")
    joined_at = house.clock() - timedelta(days=1, seconds=number)
    house.wix.memberships[group, member] = Membership("joined", joined_at=joined_at)
    if said is not None:
        house.wix.subscriptions[email] = Subscription(said, "VALID")
    return member


def write_to_runners(house: House, **params: object) -> str:
    return house.ask_for(
        "group_email", **{"group": RUNNERS, "email": "welcome", "purpose": "promotional"} | params
    )


def reasons(house: House, job: str) -> Counter[str]:
    rows = house.services.ledger.page(job=job, limit=None)
    return Counter(row.reason or row.state for row in rows)


def test_nobody_is_written_to_before_the_yes_and_everybody_looked_at_is_listed(house: House):
    for number in range(3):
        join(house, number)
    join(house, 3, said="UNSUBSCRIBED")
    join(house, 4, said=None)
    job = write_to_runners(house)

    assert house.job(job).state == "previewed"
    assert house.mail.letters == []
    assert house.counts(job) == Counts(
        total=5,
        skipped=2,
        skipped_by_reason={
            "never subscribed (Wix has no record of the address); promotional letters need SUBSCRIBED": 1,
            "unsubscribed (Wix: UNSUBSCRIBED)": 1,
        },
    )
    assert house.job(job).result["letters"] == 3
    assert house.job(job).cost["wix_calls"] == 3


def test_after_the_yes_each_who_may_gets_it_once_and_the_numbers_add_up(house: House):
    for number in range(250):
        join(house, number, said="SUBSCRIBED" if number % 5 else "UNSUBSCRIBED")
    job = write_to_runners(house)
    house.confirm(job)

    counts = house.counts(job)
    assert house.job(job).state == "done"
    assert (counts.total, counts.done, counts.skipped, counts.waiting) == (250, 200, 50, 0)
    assert sorted(house.mail.readers) == sorted(f"reader{n}@example.com" for n in range(250) if n % 5)


def test_a_job_costs_three_calls_for_each_hundred_before_the_yes_and_after_it(house: House):
    for number in range(300):
        join(house, number)
    before = house.wix.asked.copy()
    job = write_to_runners(house)
    preview = house.wix.asked[len(before) :]
    house.confirm(job)
    run = house.wix.asked[len(before) + len(preview) :]

    counted = Counter(call[0] for call in preview)
    assert counted == {
        "get_group": 1, "get_site": 1, "group_members_page": 3, "get_members": 3, "get_subscriptions": 3,
    }  # fmt: skip
    assert Counter(call[0] for call in run) - Counter(get_site=20) == {
        "group_members_page": 3, "get_members": 3, "get_subscriptions": 3,
    }  # fmt: skip
    assert house.job(job).cost["wix_calls"] == 9


def test_who_says_stop_between_preview_and_letter_gets_none(house: House):
    stays, stops = join(house, 1), join(house, 2)
    job = write_to_runners(house)
    house.wix.subscriptions["reader2@example.com"] = Subscription("UNSUBSCRIBED", "VALID")
    house.confirm(job)

    assert house.mail.readers == ["reader1@example.com"]
    assert {row.member: row.state for row in house.services.ledger.page(job=job)} == {
        stays: "sent",
        stops: "skipped",
    }


def test_who_left_after_the_preview_gets_none_though_nobody_told(house: House):
    join(house, 1)
    gone = join(house, 2)
    job = write_to_runners(house)
    del house.wix.memberships[RUNNERS, gone]
    house.confirm(job)

    assert house.mail.readers == ["reader1@example.com"]
    assert reasons(house, job)["left the group after the preview"] == 1


def test_who_leaves_and_is_told_of_by_wix_is_taken_out_of_what_waits(house: House):
    gone = join(house, 1)
    job = write_to_runners(house)
    del house.wix.memberships[RUNNERS, gone]
    house.clock.move(minutes=2)
    house.hear(an_event(house.clock, type=events.MEMBER_REMOVED, member=gone))
    house.turn()
    assert reasons(house, job) == {"not a member of the group any more": 1}


def test_who_joins_after_the_preview_gets_no_letter_of_the_job(house: House):
    join(house, 1)
    job = write_to_runners(house)
    join(house, 2)
    house.confirm(job)
    assert house.mail.readers == ["reader1@example.com"]


def test_whoever_joins_later_gets_the_letter_too_when_the_job_says_so(house: House):
    silent = parse_automations("", templates=["welcome"])  # or the newcomer would be welcomed as well
    house.services = dataclasses.replace(house.services, held=silent)
    join(house, 1)
    job = write_to_runners(house, also_later_joiners=True)
    join(house, 2)  # between preview and yes
    house.confirm(job)
    assert sorted(house.mail.readers) == ["reader1@example.com", "reader2@example.com"]
    assert house.job(job).state == "done"

    third = join(house, 3)
    house.hear(an_event(house.clock, member=third), an_event(house.clock, member=third, id="e2"))
    house.turn()
    house.clock.move(seconds=90)
    house.turn()
    assert house.mail.readers.count("reader3@example.com") == 1
    assert house.job(job).state == "done"

    house.services.jobs.cancel(job, who="tests")
    fourth = join(house, 4)
    house.hear(an_event(house.clock, member=fourth, id="e4"))
    house.turn()
    assert "reader4@example.com" not in house.mail.readers


def test_two_members_with_one_address_get_one_letter(house: House):
    join(house, 1)
    twin = join(house, 2)
    house.wix.members[twin] = dataclasses.replace(house.wix.members[twin], email="Reader1@Example.com")
    job = write_to_runners(house)
    assert reasons(house, job) == {"planned": 1, "this address has its letter of this job already": 1}
    house.confirm(job)
    assert len(house.mail.letters) == 1


def test_a_row_of_the_list_that_moves_up_when_somebody_leaves_is_not_missed(house: House):
    members = [join(house, number) for number in range(300)]
    asks = house.wix.group_members_page

    def leave_in_the_middle(site, group, offset):
        page = asks(site, group, offset)
        house.wix.memberships.pop((RUNNERS, members[10]), None)  # newest first: on the first page
        return page

    house.wix.group_members_page = leave_in_the_middle
    house.wix.for_bulk = lambda wait=None: house.wix  # the view would be another object
    job = write_to_runners(house)
    looked_at = {row.member for row in house.services.ledger.page(job=job, limit=None)}
    assert looked_at >= set(members) - {members[10]}


@pytest.mark.parametrize("leaver", [10, 150])
def test_without_totals_a_row_that_moves_up_is_not_missed_either(house: House, leaver: int):
    members = [join(house, number) for number in range(300)]
    asks = house.wix.group_members_page
    house.wix.totals = False

    def leave_in_the_middle(site, group, offset):
        page = asks(site, group, offset)
        for number in (leaver, 91, 92):
            house.wix.memberships.pop((RUNNERS, members[number]), None)
        return page

    house.wix.group_members_page = leave_in_the_middle
    house.wix.for_bulk = lambda wait=None: house.wix
    job = write_to_runners(house)
    looked_at = {row.member for row in house.services.ledger.page(job=job, limit=None)}
    assert looked_at >= set(members) - {members[leaver], members[91], members[92]}


def test_an_interest_is_matched_in_the_chosen_groups_and_one_letter_goes_for_several(house: House):
    house.wix.groups[YOGIS] = Group(YOGIS, "Yoga at dawn")
    keen, runs, both, silent = (join(house, number) for number in range(4))
    house.wix.memberships[YOGIS, both] = Membership("joined")
    house.wix.memberships[YOGIS, keen] = Membership("joined")
    house.wix.answers[RUNNERS, keen] = (Answer("Why?", "I love yoga"),)
    house.wix.answers[RUNNERS, runs] = (Answer("Why?", "running, no yoga"),)
    house.wix.answers[RUNNERS, both] = (Answer("Why?", "running"),)
    house.wix.answers[YOGIS, both] = (Answer("Why?", "Yoga!"),)
    job = house.ask_for(
        "interest_email", groups=["*"], answers={"any": ["yoga"], "none": ["no yoga"]}, email="yoga-offer"
    )
    rows = {row.member: (row.state, row.group_id) for row in house.services.ledger.page(job=job)}
    assert rows[keen] == ("planned", RUNNERS)
    assert rows[both] == ("planned", YOGIS)
    assert rows[runs][0] == rows[silent][0] == "skipped"
    house.confirm(job)
    assert sorted(house.mail.readers) == ["reader0@example.com", "reader2@example.com"]
    assert house.counts(job).total == 4


def test_a_paused_job_sends_nothing_and_goes_on_where_it_was(house: House):
    for number in range(30):
        join(house, number)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    house.services.jobs.pause(job, who="tests")
    house.turn()
    assert house.mail.letters == []
    house.services.jobs.resume(job, who="tests")
    house.turn()
    assert len(house.mail.letters) == 30
    assert house.job(job).state == "done"


def test_a_cancelled_job_says_of_each_row_why(house: House):
    for number in range(30):
        join(house, number)
    join(house, 30, said="UNSUBSCRIBED")
    job = write_to_runners(house)
    house.services.jobs.cancel(job, who="tests")
    house.turn()
    assert house.mail.letters == []
    assert reasons(house, job) == {"the job was cancelled": 30, "unsubscribed (Wix: UNSUBSCRIBED)": 1}


def test_what_a_dead_worker_left_of_a_cancelled_job_comes_to_its_end(house: House):
    for number in range(3):
        join(house, number)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    run_jobs(KINDS, house.services, NOW_OR_NEVER)
    cut_off, *_ = house.services.bulk.claim(100, job=job)  # by somebody who dies
    house.services.ledger.mark(
        cut_off,
        purpose=cut_off.purpose,
        message_id="<cut off>",
        address_hashes=["h"],
        domain="d",
        evidence="",
        cap=None,
    )
    house.services.jobs.cancel(job, who="tests")
    house.clock.move(minutes=2)
    house.turn()

    counts = house.counts(job)
    assert (counts.total, counts.skipped, counts.in_doubt, counts.waiting) == (3, 2, 1, 0)
    assert house.mail.letters == []


def test_a_yes_to_another_preview_or_a_second_yes_changes_nothing(house: House):
    join(house, 1)
    job = write_to_runners(house)
    with pytest.raises(WrongStateError, match="confirm_token"):
        house.services.jobs.confirm(job, "another", who="tests")
    house.confirm(job)
    with pytest.raises(WrongStateError, match="done"):
        house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    house.turn()
    assert len(house.mail.letters) == 1


def test_a_letter_that_was_changed_after_the_preview_is_not_sent(house: House):
    join(house, 1)
    job = write_to_runners(house)
    house.services.renderer._fingerprints = {"welcome": "another"}
    try:
        house.confirm(job)
    finally:
        del house.services.renderer._fingerprints
        _renderer.cache_clear()
    assert (house.job(job).state, house.job(job).error) == (
        "failed",
        "the letter was changed after the preview: preview it again",
    )
    assert house.mail.letters == []
    assert house.counts(job).waiting == 0


def test_a_group_that_is_not_there_or_has_a_common_name_is_told(house: House):
    job = write_to_runners(house, group="Nobody's group")
    assert (house.job(job).state, house.job(job).error) == (
        "failed",
        'no group has the id or the name "Nobody\'s group"',
    )
    house.wix.groups[YOGIS] = Group(YOGIS, "trail runners")
    job = write_to_runners(house, group="Trail Runners")
    assert "2 groups have the name" in house.job(job).error


def test_live_letters_go_before_those_of_a_job(house: House):
    for number in range(150):
        join(house, number)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    newcomer = join(house, 900)
    heard = []
    send = house.mail.send

    def hear_of_a_join_meanwhile(clearance, envelope, message, about_to_commit, *waits):
        if len(house.mail.letters) == 40 and not heard:
            heard.extend(house.hear(an_event(house.clock, member=newcomer)))
        return send(clearance, envelope, message, about_to_commit, *waits)

    house.mail.send = hear_of_a_join_meanwhile
    run_jobs(KINDS, house.services, NOW_OR_NEVER)
    watch = _Watch(house.services)
    deliver_for_jobs(
        house.services, Break(lambda: setattr(watch, "_looked_at", 0.0) or watch.serve(), lambda: False)
    )
    place = house.mail.readers.index("reader900@example.com")
    assert 40 <= place <= 45
    assert len(house.mail.letters) == 151


def test_a_page_that_was_not_written_is_done_again_and_nobody_is_planned_twice(house: House):
    for number in range(150):
        join(house, number)
    house.wix.fails["get_members"] = [RetryableError("no answer", retry_after_s=1.0)]
    job = write_to_runners(house)
    assert house.job(job).state == "previewing"
    assert house.job(job).error == "no answer"
    house.clock.move(seconds=5)
    house.turn()
    assert house.job(job).state == "previewed"
    assert house.counts(job).total == 150


def test_a_worker_that_dies_over_a_page_leaves_it_to_the_next(house: House):
    for number in range(150):
        join(house, number)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    assert house.services.jobs.claim() is not None  # and is killed
    house.turn()
    assert house.mail.letters == []
    house.clock.move(seconds=46)
    house.turn()
    assert len(house.mail.letters) == 150
    assert house.job(job).state == "done"


def test_what_failed_is_tried_again_alone(house: House):
    for number in range(10):
        join(house, number)
    job = write_to_runners(house)
    house.mail.fails = [MailRefusedError("554 no"), MailRefusedError("554 no")]
    house.confirm(job)
    assert (house.counts(job).done, house.counts(job).failed) == (8, 2)
    house.services.jobs.retry_failed(job, who="tests")
    house.turn()
    assert (house.counts(job).done, house.counts(job).failed) == (10, 0)
    assert len(set(house.mail.readers)) == len(house.mail.readers) == 10
    with pytest.raises(WrongStateError, match="nothing of this job failed"):
        house.services.jobs.retry_failed(job, who="tests")


def test_one_key_is_one_job_and_another_request_under_it_is_refused(house: House):
    jobs = house.services.jobs
    first, new = jobs.create(SITE, "groups_report", {}, who="a", key="k", request_hash="x")
    again, twice = jobs.create(SITE, "groups_report", {}, who="a", key="k", request_hash="x")
    assert (first.id, new, twice) == (again.id, True, False)
    with pytest.raises(KeyReusedError):
        jobs.create(SITE, "groups_report", {"top": 1}, who="a", key="k", request_hash="y")
    other, new = jobs.create(SITE, "groups_report", {}, who="b", key="k", request_hash="x")
    assert new
    assert other.id != first.id


def test_a_held_letter_is_never_due(house: House):
    join(house, 1)
    job = write_to_runners(house)
    [row] = house.services.ledger.page(job=job)
    assert row.next_at == HELD
    house.clock.move(days=3650)
    house.turn()
    assert house.mail.letters == []


def test_a_letter_in_doubt_that_is_released_opens_its_job_again(house: House):
    join(house, 1)
    job = write_to_runners(house)
    house.mail.dies_after_dot = [SystemExit()]
    with pytest.raises(SystemExit):
        house.confirm(job)
    house.clock.move(seconds=50)
    house.turn()
    assert house.counts(job).in_doubt == 1
    assert house.job(job).state == "done"
    [row] = house.services.ledger.page(job=job)
    house.services.ledger.release(row.id, who="tests")
    house.clock.move(minutes=20)
    house.turn()
    assert house.counts(job).done == 1
    assert house.job(job).state == "done"


def test_the_sample_is_a_letter_that_somebody_will_get(house: House):
    house.wix.groups[YOGIS] = Group(YOGIS, "Yoga at dawn")
    join(house, 1)
    keen = join(house, 2, YOGIS)
    house.wix.answers[YOGIS, keen] = (Answer("Why?", "pilates, mostly"),)
    job = house.ask_for("interest_email", answers={"any": ["yoga", "pilates"]}, email="yoga-offer")
    [sample] = house.job(job).result["samples"]
    assert "Yoga at dawn" in sample["text"]
    assert "pilates" in sample["text"]
    assert "yoga and pilates" not in sample["text"]


def test_there_is_no_sample_of_a_letter_that_nobody_gets(house: House):
    join(house, 1, said="UNSUBSCRIBED")
    assert house.job(write_to_runners(house)).result == {"letters": 0, "samples": []}


def test_a_letter_that_was_given_up_in_doubt_is_never_tried_again(house: House):
    join(house, 1)
    join(house, 2)
    job = write_to_runners(house)
    house.mail.dies_after_dot = [SystemExit()]
    with pytest.raises(SystemExit):
        house.confirm(job)
    house.clock.move(seconds=50)
    house.mail.fails = [MailRefusedError("554 no")]
    house.turn()
    [doubtful] = house.services.ledger.page(job=job, state="in_doubt")
    house.services.ledger.give_up(doubtful.id, who="tests")
    assert house.counts(job).failed == 2

    house.services.jobs.retry_failed(job, who="tests")
    house.turn()
    assert sorted(house.mail.readers) == ["reader1@example.com", "reader2@example.com"]
    with pytest.raises(WrongStateError, match="nothing of this job failed"):
        house.services.jobs.retry_failed(job, who="tests")


def test_who_left_before_the_retry_gets_nothing(house: House):
    gone = join(house, 1)
    job = write_to_runners(house)
    house.mail.fails = [MailRefusedError("554 no")]
    house.confirm(job)
    del house.wix.memberships[RUNNERS, gone]
    house.services.jobs.retry_failed(job, who="tests")
    house.turn()
    assert house.mail.letters == []
    assert reasons(house, job) == {"left the group after the preview": 1}


def test_a_mailing_may_take_longer_than_a_letter_is_worth_sending(house: House):
    join(house, 1)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    run_jobs(KINDS, house.services, NOW_OR_NEVER)
    house.services.jobs.pause(job, who="tests")
    house.clock.move(days=9)
    house.services.jobs.resume(job, who="tests")
    house.turn()
    assert house.mail.readers == ["reader1@example.com"]


def test_one_404_for_a_group_that_wix_knows_passes_nobody_over(house: House):
    for number in range(150):
        join(house, number)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    house.wix.fails["group_members_page"] = [NotFoundError("404")]
    house.turn()
    assert house.job(job).state == "running"
    house.clock.move(minutes=1)
    house.turn()
    assert house.counts(job).done == 150


def test_who_was_refused_in_the_preview_stays_refused_though_the_job_heeds_later_joiners(house: House):
    join(house, 1, said="UNSUBSCRIBED")
    join(house, 2)
    job = write_to_runners(house, also_later_joiners=True)
    house.wix.subscriptions["reader1@example.com"] = Subscription("SUBSCRIBED", "VALID")
    house.confirm(job)
    assert house.mail.readers == ["reader2@example.com"]


def test_a_newcomer_whose_event_was_in_hand_when_the_job_was_cancelled_gets_nothing(house: House):
    silent = parse_automations("", templates=["welcome"])
    house.services = dataclasses.replace(house.services, held=silent)
    join(house, 1)
    job = write_to_runners(house, also_later_joiners=True)
    house.confirm(job)
    newcomer = join(house, 2)
    house.hear(an_event(house.clock, member=newcomer))
    [claimed] = house.services.journal.claim(1)
    effects = react(claimed, Batch([claimed.event], house.services))
    assert len(effects.letters) == 1
    house.services.jobs.cancel(job, who="tests")
    house.services.journal.finish((claimed, effects))
    house.turn()
    assert house.mail.readers == ["reader1@example.com"]
    assert house.job(job).state == "done"


def test_letters_of_a_job_that_look_again_ask_as_bulk_and_let_the_site_work(house: House):
    for number in range(5):
        join(house, number)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    run_jobs(KINDS, house.services, NOW_OR_NEVER)
    house.clock.move(hours=7)
    bulk = house.wix.for_bulk()
    house.wix.for_bulk = lambda wait=None: bulk
    bulk.fails = {"get_membership": [RetryableError("no room", retry_after_s=20.0, counts=False)]}
    house.wix.asked.clear()
    bulk.asked = []
    deliver_for_jobs(house.services, NOW_OR_NEVER)
    assert "get_membership" not in [call[0] for call in house.wix.asked]
    assert {row.state for row in house.services.ledger.page(job=job)} == {"planned"}
    newcomer = join(house, 900)
    house.hear(an_event(house.clock, member=newcomer))
    house.work()
    assert "reader900@example.com" in house.mail.readers


def test_a_missing_permission_postpones_what_was_confirmed_and_is_told(house: House):
    join(house, 1)
    job = write_to_runners(house)
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    house.wix.fails["group_members_page"] = [ForbiddenError("403: not allowed")]
    house.turn()
    assert (house.job(job).state, house.job(job).error) == ("running", "403: not allowed")
    house.clock.move(minutes=20)
    house.turn()
    assert house.mail.readers == ["reader1@example.com"]
