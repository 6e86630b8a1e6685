"""Requests to join: who waits, how persons and rules decide one request once, undoing, history, back-tests."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from admin.office import Office, requests, why
from admin.office.pending import PendingRequests
from admin.office.refusals import RefusedError
from core import events
from core.community import Answer, Group, GroupId, Member, MemberId, Membership
from core.errors import ForbiddenError, NotFoundError, NotThereError, RetryableError, WrongStateError
from core.events import Event
from core.letters import WixCall, decision_key
from core.matching import AnswerRule
from integrations.store.database import Database
from integrations.store.outbox import owe_calls
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.requests import Requests
from integrations.store.sites import note_site
from integrations.store.suppressions import forget_member
from integrations.store.tables import audit, outbox
from integrations.store.tables import events as journal
from integrations.store.tokens import Holder, Role
from tasks.events import run_events
from tasks.outbox import pay_outbox
from tests.house import RUNNERS, SITE, Clock, House, a_house, an_event

CHOIR = GroupId("choir")
BO, CY = MemberId("m-bo"), MemberId("m-cy")
RULES = """
[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["teacher"]
none = ["not a teacher"]

[[automation]]
name = "ask-a-person"
on = ["join_requested"]
decide = "flag"
[automation.answers]
any = ["press"]
"""
OF_OTHERS = """
[[automation]]
name = "of-another-site"
on = ["join_requested"]
sites = ["another-site"]
purpose = "promotional"
email = "yoga-offer"
decide = "reject"
[automation.answers]
any = ["secretword"]

[[automation]]
name = "of-the-choir"
on = ["join_requested"]
groups = ["Choir"]
enabled = false
purpose = "promotional"
email = "yoga-offer"
[automation.answers]
any = ["sing*"]
"""
ADA = Holder("u1", "user ada", Role.MANAGER, EVERYTHING)
RUNNERS_ADMIN = Holder("u2", "user rik", Role.GROUP_ADMIN, Reach(frozenset({SITE}), frozenset({RUNNERS})))


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock, RULES)
    found.wix.groups = {
        RUNNERS: Group(RUNNERS, "Trail Runners", "PRIVATE"),
        CHOIR: Group(CHOIR, "Choir", "PRIVATE"),
        GroupId("open"): Group(GroupId("open"), "Open", "PUBLIC"),
    }
    with database.begin() as tx:
        note_site(tx, SITE, tx.now, "active")
    return found


def office_of(house: House) -> Office:
    """One that remembers nothing yet."""
    return Office.of_services(house.services, house.database)


def asks(
    house: House,
    member: MemberId,
    answer: str = "",
    *,
    group: GroupId = RUNNERS,
    dated: bool = True,
    **age: float,
) -> None:
    house.wix.members[member] = Member(member, "APPROVED", f"{member}@example.com", member[2:].title())
    at = house.clock() - timedelta(**age)
    house.wix.memberships[group, member] = Membership("pending", joined_at=at if dated else None)
    if answer:
        house.wix.answers[group, member] = (Answer("Why?", answer),)


def told(clock: Clock, member: MemberId, id: str, **more: Any) -> Event:  # noqa: A002 (the event's own word)
    return an_event(clock, type=events.JOIN_REQUESTED, id=id, member=member, **more)


def pending(house: House, holder: Holder = ADA, **more: Any) -> requests.Found:
    return requests.pending(office_of(house), holder, SITE, **more)


def decide(
    house: House, *members: MemberId, kind: str = "approve", reason: str = "", holder: Holder = ADA
) -> requests.Decided:
    asked = [(RUNNERS, member) for member in members]
    return requests.decide(office_of(house), holder, SITE, asked, kind, reason)


def asked_of_wix(house: House) -> list[tuple[Any, ...]]:
    return [call for call in house.wix.asked if call[0] in ("approve_requests", "reject_requests")]


def rows(house: House) -> list[tuple[str, str, str | None, str | None]]:
    return [(row.kind, row.state, row.who, row.automation) for row in house.services.outbox.calls()]


# Who waits.


def test_whoever_waits_is_listed_newest_first_with_what_the_rules_make_of_it(house: House, clock: Clock):
    asks(house, BO, "I write for the press", hours=2)
    asks(house, CY, "A teacher of <b>yoga</b>", hours=1)
    house.hear(told(clock, BO, "e1", hours=2))
    house.work()

    found = pending(house)

    assert [one.member for one in found.items] == [CY, BO]
    assert (found.total, found.flagged, found.next) == (2, 1, None)
    cy, bo = found.items
    assert cy.row is None
    assert (cy.would.kind, cy.would.automation) == ("approve", "let-teachers-in")
    assert cy.answers is not None
    assert cy.answers[0].pieces == (("A ", ""), ("teacher", "for"), (" of <b>yoga</b>", ""))
    assert bo.row is not None
    assert (bo.row.state, bo.row.automation, bo.row.reason) == (
        "flagged", "ask-a-person", '"press" in the answer to "Why?"',
    )  # fmt: skip


def test_where_wix_does_not_date_a_request_the_event_that_told_of_it_does(house: House, clock: Clock):
    asks(house, BO, "press", dated=False)
    asks(house, CY, hours=2)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()

    found = pending(house)

    assert [(one.member, one.asked_at) for one in found.items] == [
        (BO, clock() - timedelta(hours=1)),
        (CY, clock() - timedelta(hours=2)),
    ]
    assert found.flagged == 1


def test_the_list_is_narrowed_to_a_group_to_flags_and_to_words_and_goes_on_page_by_page(
    house: House, clock: Clock
):
    asks(house, BO, "press", hours=3)
    asks(house, CY, "I sing", group=CHOIR, hours=2)
    asks(house, MemberId("m-di"), "I sing too", hours=1)
    house.hear(told(clock, BO, "e1", hours=3))
    house.work()

    def members(**narrowed: Any) -> list[str]:
        return [one.member for one in pending(house, **narrowed).items]

    assert members(group=CHOIR) == [CY]
    assert members(flagged=True) == [BO]
    assert members(match=AnswerRule(any=("sing*",), none=("too",))) == [CY]
    first = pending(house, limit=2)
    assert [one.member for one in first.items] == ["m-di", CY]
    assert members(limit=2, after=first.next) == [BO]
    with pytest.raises(NotThereError):
        pending(house, group="open")


def test_a_group_admin_sees_and_decides_requests_of_their_groups_alone(house: House):
    asks(house, BO, hours=1)
    asks(house, CY, group=CHOIR, hours=1)

    assert [one.member for one in pending(house, RUNNERS_ADMIN).items] == [BO]
    with pytest.raises(NotThereError):
        pending(house, RUNNERS_ADMIN, group=CHOIR)
    with pytest.raises(NotThereError):
        requests.decide(office_of(house), RUNNERS_ADMIN, SITE, [(CHOIR, CY)], "approve")
    stranger = replace(RUNNERS_ADMIN, reach=Reach(frozenset({"another-site"}), None))
    for ask in (
        lambda: pending(house, stranger),
        lambda: decide(house, BO, holder=stranger),
        lambda: requests.history(office_of(house), stranger, SITE),
        lambda: requests.under_way(office_of(house), stranger, SITE),
    ):
        with pytest.raises(NotThereError):
            ask()
    assert rows(house) == []


def test_what_wix_refuses_is_said_of_its_group_and_the_others_are_shown(house: House):
    asks(house, BO, "a teacher", hours=1)
    asks(house, CY, group=CHOIR, hours=1)
    house.wix.failing_groups[CHOIR] = ForbiddenError("no")

    found = pending(house)

    assert [one.member for one in found.items] == [BO]
    assert list(found.troubles) == [CHOIR]
    assert "does not allow" in found.troubles[CHOIR]


def test_answers_that_may_not_be_read_are_said_to_be_so_and_decide_nothing(house: House):
    asks(house, BO, "a teacher", hours=1)
    house.wix.fails["list_answers"] = [ForbiddenError("no")]

    [one] = (found := pending(house)).items

    assert one.answers is None
    assert one.would.kind == ""
    assert "answers" in found.troubles[RUNNERS]


def test_while_wix_is_away_what_was_known_is_shown(house: House, clock: Clock):
    asks(house, BO, hours=1)
    office = replace(office_of(house), pending=PendingRequests(house.wix, lambda: clock().timestamp()))
    assert len(requests.pending(office, ADA, SITE).items) == 1

    clock.move(minutes=2)
    house.wix.fails["list_join_requests"] = [RetryableError("away")] * 9
    found = requests.pending(office, ADA, SITE)

    assert [one.member for one in found.items] == [BO]
    assert "does not answer" in found.trouble


def test_the_lists_of_many_groups_are_read_some_at_a_time_and_remembered(house: House):
    for number in range(60):
        id_ = GroupId(f"g{number:02}")
        house.wix.groups[id_] = Group(id_, f"Group {number}", "PRIVATE")
    office = office_of(house)

    missing = [requests.pending(office, ADA, SITE).missing for _ in range(4)]

    assert missing == [62 - 24, 62 - 48, 0, 0]
    assert len([call for call in house.wix.asked if call[0] == "list_join_requests"]) == 62


def test_what_is_known_of_a_person_is_told(house: House, clock: Clock):
    asks(house, BO, "press", hours=1)
    house.hear(replace(ended(clock, events.JOIN_REJECTED, BO, "r"), occurred_at=clock() - timedelta(days=30)))
    house.work()

    [one] = pending(house).items

    assert [(type_, at) for type_, at in one.earlier] == [
        (events.JOIN_REJECTED, clock() - timedelta(days=30))
    ]


# One request is decided once.


def test_a_decision_reaches_wix_after_the_time_in_which_it_can_be_undone(house: House, clock: Clock):
    asks(house, BO, hours=1)

    [row] = decide(house, BO, kind="reject", reason="We are full.").rows
    clock.move(seconds=14)
    house.work()
    assert asked_of_wix(house) == []
    clock.move(seconds=2)
    house.work()

    assert asked_of_wix(house) == [("reject_requests", RUNNERS, (BO,), "We are full.")]
    assert rows(house) == [("reject", "done", "user ada", None)]
    with house.database.read() as tx:
        [line] = tx.execute(sa.select(audit)).all()
    assert (line.who, line.action, line.object, line.site) == (
        "user ada",
        "request.reject",
        f"request {row.id}",
        SITE,
    )
    assert "full" not in f"{line.before}{line.after}"


def test_a_rule_that_hears_of_a_request_later_does_not_decide_it_again(house: House, clock: Clock):
    asks(house, BO, "a teacher", minutes=5)
    decide(house, BO, kind="reject")

    house.hear(told(clock, BO, "late", minutes=5, seconds=-2))
    house.work()
    clock.move(seconds=20)
    house.work()

    assert asked_of_wix(house) == [("reject_requests", RUNNERS, (BO,), "")]
    assert rows(house) == [("reject", "done", "user ada", None)]


def test_of_a_request_without_a_date_that_nobody_told_of_a_late_rule_decides_nothing_either(
    house: House, clock: Clock
):
    asks(house, BO, "a teacher", dated=False)
    decide(house, BO, kind="reject")

    house.hear(told(clock, BO, "late", minutes=3))
    house.work()

    assert rows(house) == [("reject", "planned", "user ada", None)]
    assert pending(house).items == ()


def test_what_a_rule_left_to_a_person_is_taken_over_by_the_person(house: House, clock: Clock):
    asks(house, BO, "press", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    assert rows(house) == [("flag", "flagged", None, "ask-a-person")]

    decide(house, BO)
    clock.move(seconds=16)
    house.work()

    assert rows(house) == [("approve", "done", "user ada", "ask-a-person")]
    assert asked_of_wix(house) == [("approve_requests", RUNNERS, (BO,))]


def test_what_a_rule_decided_already_is_not_decided_again(house: House, clock: Clock):
    asks(house, BO, "a teacher", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    assert rows(house) == [("approve", "done", None, "let-teachers-in")]

    with pytest.raises(WrongStateError, match='was approved already, by "let-teachers-in"'):
        decide(house, BO, kind="reject")

    assert asked_of_wix(house) == [("approve_requests", RUNNERS, (BO,))]


def test_the_same_decision_twice_is_one_and_another_one_is_refused(house: House):
    asks(house, BO, hours=1)

    [first], [again] = decide(house, BO).rows, decide(house, BO).rows

    assert first.id == again.id
    with pytest.raises(WrongStateError, match="is being approved already, by user ada"):
        decide(house, BO, kind="reject")
    with pytest.raises(WrongStateError, match="by user ada"):
        decide(house, BO, holder=RUNNERS_ADMIN)
    assert len(rows(house)) == 1


def test_two_persons_at_once_decide_once(house: House):
    asks(house, BO, hours=1)
    office = office_of(house)
    requests.pending(office, ADA, SITE)  # as both have it on their screens
    start = threading.Barrier(2)
    outcomes: list[str] = []

    def go(holder: Holder, kind: str) -> None:
        start.wait()
        try:
            requests.decide(office, holder, SITE, [(RUNNERS, BO)], kind)
            outcomes.append("decided")
        except WrongStateError:
            outcomes.append("refused")

    threads = [
        threading.Thread(target=go, args=pair) for pair in ((ADA, "approve"), (RUNNERS_ADMIN, "reject"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["decided", "refused"]
    assert len(rows(house)) == 1


@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize("apart_s", [0, -2, 2], ids=["same-second", "told-earlier", "told-later"])
def test_a_person_who_decides_while_a_rule_reads_the_answers_has_decided_alone(
    house: House, clock: Clock, monkeypatch: pytest.MonkeyPatch, apart_s: int, paid: bool
):
    asks(house, BO, "a teacher", hours=1)
    house.hear(told(clock, BO, "e1", hours=1, seconds=apart_s))
    read = house.wix.list_answers

    def slowly(*asked: Any) -> Any:
        found = read(*asked)
        monkeypatch.undo()
        decide(house, BO, kind="reject")
        if paid:
            clock.move(seconds=20)
            pay_outbox(house.services)
        return found

    monkeypatch.setattr(house.wix, "list_answers", slowly)
    house.work()
    clock.move(seconds=20)
    house.work()

    assert rows(house) == [("reject", "done", "user ada", None)]
    assert asked_of_wix(house) == [("reject_requests", RUNNERS, (BO,), "")]


@pytest.mark.parametrize("apart_s", [0, -2, 2], ids=["same-second", "told-earlier", "told-later"])
def test_a_rule_that_decides_while_a_person_looks_has_decided_alone(
    house: House, clock: Clock, monkeypatch: pytest.MonkeyPatch, apart_s: int
):
    asks(house, BO, "a teacher", hours=1)
    house.hear(told(clock, BO, "e1", hours=1, seconds=apart_s))
    write = Requests.decide

    def late(*given: Any, **more: Any) -> Any:
        run_events(house.services)
        return write(*given, **more)

    monkeypatch.setattr(Requests, "decide", late)
    with pytest.raises(WrongStateError, match='is being approved already, by "let-teachers-in"'):
        decide(house, BO, kind="reject")
    house.work()

    assert rows(house) == [("approve", "done", None, "let-teachers-in")]
    assert asked_of_wix(house) == [("approve_requests", RUNNERS, (BO,))]


def test_two_persons_seconds_apart_decide_once_though_wix_gives_no_date(
    house: House, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    asks(house, BO, dated=False)
    write = Requests.decide

    def late(self: Requests, *given: Any, **more: Any) -> Any:
        if more["who"] == ADA.who:
            clock.move(seconds=1.2)
            decide(house, BO, holder=RUNNERS_ADMIN)
            clock.move(seconds=1.2)
        return write(self, *given, **more)

    monkeypatch.setattr(Requests, "decide", late)
    with pytest.raises(WrongStateError, match="is being approved already, by user rik"):
        decide(house, BO, kind="reject")

    assert rows(house) == [("approve", "planned", "user rik", None)]


def test_what_a_rule_and_a_person_write_in_the_same_moment_is_one_decision(house: House, clock: Clock):
    """Neither sees what the other has not committed yet."""
    asks(house, BO, hours=1)
    call = WixCall(
        key=decision_key(RUNNERS, BO, clock() - timedelta(hours=1, seconds=2)),
        kind="approve", group=RUNNERS, member=BO, automation="let-teachers-in",
        asked_at=clock() - timedelta(hours=1, seconds=2),
    )  # fmt: skip
    outcome: list[str] = []

    def person() -> None:
        try:
            decide(house, BO, kind="reject")
        except WrongStateError as exc:
            outcome.append(str(exc))

    thread = threading.Thread(target=person)
    with house.database.begin() as tx:
        owe_calls(tx, SITE, None, [call])
        thread.start()
        thread.join(timeout=0.5)  # it waits, or it has seen nothing of the call
        assert thread.is_alive()
    thread.join()

    assert outcome == ['The request is being approved already, by "let-teachers-in".']
    assert rows(house) == [("approve", "planned", None, "let-teachers-in")]


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("kind", ["approve", "reject"])
def test_a_new_request_after_a_decision_is_decided_by_rules_and_persons(
    house: House, clock: Clock, kind: str, dated: bool
):
    asks(house, BO, hours=1, dated=dated)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    decide(house, BO, kind=kind)
    clock.move(seconds=16)
    house.work()
    clock.move(minutes=5)

    asks(house, BO, "a teacher", minutes=1, dated=dated)
    house.hear(told(clock, BO, "e2", minutes=1))
    house.work()
    clock.move(minutes=5)
    asks(house, BO, "no", minutes=1, dated=dated)
    house.hear(told(clock, BO, "e3", minutes=1))
    house.work()
    decide(house, BO, kind="reject")

    assert [row[:2] for row in rows(house)] == [(kind, "done"), ("approve", "done"), ("reject", "planned")]


def test_many_are_decided_at_once_and_of_each_that_is_not_it_is_said_why(house: House, clock: Clock):
    asks(house, BO, "a teacher", hours=1)
    asks(house, CY, hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()

    found = decide(house, BO, CY, MemberId("m-gone"))

    assert [row.member for row in found.rows] == [CY]
    assert [(member, why) for _, member, why in found.refused] == [
        ("m-gone", "is not pending at Wix any more"),
        (BO, 'was approved already, by "let-teachers-in"'),
    ]


@pytest.mark.parametrize(
    ("kind", "reason", "field"),
    [
        ("perhaps", "", "decision"),
        ("approve", "welcome", "reason"),
        ("reject", "x" * 1001, "reason"),
        ("reject", "a\x07b", "reason"),
    ],
)
def test_a_decision_that_cannot_be_meant_is_refused_by_its_field(
    house: House, kind: str, reason: str, field: str
):
    asks(house, BO, hours=1)
    with pytest.raises(RefusedError) as refused:
        decide(house, BO, kind=kind, reason=reason)
    assert [error["field"] for error in refused.value.errors] == [field]
    with pytest.raises(RefusedError):
        requests.decide(office_of(house), ADA, SITE, [(RUNNERS, BO)] * 501, "approve")
    assert rows(house) == []


def test_somebody_who_asks_again_is_decided_anew(house: House, clock: Clock):
    asks(house, BO, hours=1)
    decide(house, BO, kind="reject")
    clock.move(seconds=16)
    house.work()
    clock.move(hours=1)
    asks(house, BO, minutes=1)

    assert [one.member for one in pending(house).items] == [BO]
    decide(house, BO)

    assert [row[:2] for row in rows(house)] == [("reject", "done"), ("approve", "planned")]


def test_without_wix_a_request_that_was_told_of_can_be_decided(house: House, clock: Clock):
    house.hear(told(clock, BO, "e1", hours=1))
    asks(house, BO, "press", hours=1)
    house.work()
    house.wix.fails["list_join_requests"] = [RetryableError("away")] * 9

    assert decide(house, BO).rows
    with pytest.raises(WrongStateError, match="nobody has told of it"):
        decide(house, CY)


def test_no_address_and_no_reason_stands_in_the_log(house: House, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    asks(house, BO, "my secret answer", hours=1)
    pending(house)
    decide(house, BO, kind="reject", reason="a private reason")

    for record in caplog.records:
        said = f"{record.getMessage()}{record.__dict__}"
        assert not any(word in said for word in ("@example.com", "secret", "private reason"))


# Undoing.


def test_a_decision_that_is_undone_leaves_wix_alone_and_can_be_taken_again(house: House, clock: Clock):
    asks(house, BO, hours=1)
    [row] = decide(house, BO, kind="reject").rows

    [undone], _ = requests.undo(office_of(house), ADA, [row.id])
    clock.move(seconds=20)
    house.work()

    assert undone.state == "undone"
    assert asked_of_wix(house) == []
    assert [one.member for one in pending(house).items] == [BO]
    decide(house, BO)
    clock.move(seconds=20)
    house.work()
    assert asked_of_wix(house) == [("approve_requests", RUNNERS, (BO,))]


def test_what_is_undone_of_a_flag_waits_for_a_person_again(house: House, clock: Clock):
    asks(house, BO, "press", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    house.work()
    [row] = decide(house, BO).rows

    requests.undo(office_of(house), ADA, [row.id])

    assert rows(house) == [("flag", "flagged", "user ada", "ask-a-person")]
    assert pending(house, flagged=True).total == 1


def test_what_a_rule_decided_can_be_stopped_while_no_worker_took_it(house: House, clock: Clock):
    asks(house, BO, "a teacher", hours=1)
    house.hear(told(clock, BO, "e1", hours=1))
    run_events(house.services)
    [one] = pending(house).items
    assert one.row is not None
    assert requests.can_be_undone(one.row)

    requests.undo(office_of(house), ADA, [one.row.id])
    house.work()

    assert asked_of_wix(house) == []
    assert rows(house) == [("flag", "flagged", "user ada", "let-teachers-in")]
    house.hear(told(clock, BO, "e1-again", hours=1))  # nor does the rule decide it once more
    house.work()
    assert rows(house) == [("flag", "flagged", "user ada", "let-teachers-in")]


def test_what_a_worker_has_in_hand_or_wix_has_is_not_undone(house: House, clock: Clock):
    asks(house, BO, hours=1)
    [row] = decide(house, BO).rows
    clock.move(seconds=16)
    [held] = house.services.outbox.claim(10)
    assert held.member == BO

    with pytest.raises(WrongStateError, match="telling Wix right now"):
        requests.undo(office_of(house), ADA, [row.id])
    house.services.outbox.end(held, "done")
    with pytest.raises(WrongStateError, match="has let them in already"):
        requests.undo(office_of(house), ADA, [row.id])

    assert rows(house) == [("approve", "done", "user ada", None)]


def test_what_a_process_let_go_in_the_middle_may_have_reached_wix_and_is_not_undone(
    house: House, clock: Clock
):
    asks(house, BO, hours=1)
    [row] = decide(house, BO).rows
    clock.move(seconds=16)
    house.services.outbox.claim(10)
    house.services.outbox.let_go()

    with pytest.raises(WrongStateError):
        requests.undo(office_of(house), ADA, [row.id])


def test_a_worker_and_an_undo_at_once_are_one_of_the_two(house: House, clock: Clock):
    for number in range(12):
        asks(house, MemberId(f"m-{number}"), hours=1)
    found = decide(house, *(MemberId(f"m-{number}") for number in range(12))).rows
    clock.move(seconds=16)
    start = threading.Barrier(2)
    office = office_of(house)

    def undo() -> None:
        start.wait()
        for row in found:
            with contextlib.suppress(WrongStateError):
                requests.undo(office, ADA, [row.id])

    thread = threading.Thread(target=undo)
    thread.start()
    start.wait()
    house.work()
    thread.join()
    house.work()

    reached = {member for call in asked_of_wix(house) for member in call[2]}
    done = {row.member for row in house.services.outbox.calls() if row.state == "done"}
    assert reached == done
    assert {state for _, state, _, _ in rows(house)} <= {"done", "undone"}


def test_only_who_may_see_a_decision_undoes_it(house: House):
    asks(house, CY, group=CHOIR, hours=1)
    [row] = requests.decide(office_of(house), ADA, SITE, [(CHOIR, CY)], "approve").rows
    for id_ in (row.id, "nothing"):
        with pytest.raises(NotThereError):
            requests.undo(office_of(house), RUNNERS_ADMIN, [id_])
    assert rows(house) == [("approve", "planned", "user ada", None)]


# What becomes of a decision.


@pytest.mark.parametrize(
    ("kind", "standing", "state", "reason"),
    [
        ("approve", "none", "void", "the request is gone"),
        ("reject", "none", "void", "the request is gone"),
        ("reject", "joined", "void", "they are in the group by now"),
        ("approve", "joined", "done", None),
    ],
)
def test_a_decision_about_a_request_that_is_gone_is_void(
    house: House, clock: Clock, kind: str, standing: str, state: str, reason: str | None
):
    asks(house, BO, hours=1)
    decide(house, BO, kind=kind)
    house.wix.memberships[RUNNERS, BO] = Membership(standing)
    clock.move(seconds=16)
    house.work()

    [row] = house.services.outbox.calls()

    assert row.state == state
    assert reason is None or reason in row.reason
    assert [shown.id for shown in requests.under_way(office_of(house), ADA, SITE)] == [row.id]


def test_what_wix_refuses_can_be_decided_again(house: House, clock: Clock):
    asks(house, BO, hours=1)
    decide(house, BO)
    house.wix.fails["approve_requests"] = [ForbiddenError("not as this app")]
    clock.move(seconds=16)
    house.work()
    del house.wix.fails["approve_requests"]

    [one] = pending(house).items
    assert one.row is not None
    assert (one.row.state, one.row.reason) == ("failed", "not as this app")
    decide(house, BO)
    clock.move(seconds=16)
    house.work()
    assert rows(house) == [("approve", "done", "user ada", None)]


def test_what_is_decided_is_under_way_until_it_was_done_for_a_while(house: House, clock: Clock):
    asks(house, BO, hours=1)
    asks(house, CY, group=CHOIR, hours=1)
    decide(house, BO)
    office = office_of(house)
    requests.decide(office, ADA, SITE, [(CHOIR, CY)], "approve")

    assert len(requests.under_way(office, ADA, SITE)) == 2
    assert [row.member for row in requests.under_way(office, RUNNERS_ADMIN, SITE)] == [BO]
    clock.move(seconds=16)
    house.work()
    assert {row.state for row in requests.under_way(office, ADA, SITE)} == {"done"}
    clock.move(minutes=3)
    assert requests.under_way(office, ADA, SITE) == []


def test_nothing_of_a_decision_is_left_of_somebody_who_is_forgotten(house: House, clock: Clock):
    asks(house, BO, hours=1)
    decide(house, BO, kind="reject", reason="personal")
    with house.database.begin() as tx:
        forget_member(tx, SITE, BO)
    clock.move(seconds=20)
    house.work()

    assert asked_of_wix(house) == []
    with house.database.read() as tx:
        assert "personal" not in str(tx.execute(sa.select(outbox)).all())
        assert tx.execute(sa.select(journal.c.payload)).all() == [("{}",)]
    assert requests.history(office_of(house), ADA, SITE) == ([], None)


# What became of earlier requests.


def ended(clock: Clock, type_: str, member: MemberId, id_: str, reason: str = "") -> Event:
    request = f'{{"siteMemberId": "{member}", "requestDetails": {{"rejectionReason": "{reason}"}}}}'
    body = f'"groupId": "{RUNNERS}", "joinGroupRequest": {request}'
    payload = f'{{"entityId": "{RUNNERS}", "actionEvent": {{"body": {{{body}}}}}}}'
    return an_event(clock, type=type_, id=id_, member=member, payload=payload)


def test_the_history_says_what_became_of_each_request_and_who_decided(house: House, clock: Clock):
    people = [MemberId(f"m-{name}") for name in ("rule", "ada", "wix", "self", "open")]
    for number, (member, answer) in enumerate(zip(people, ["a teacher", "", "press", "", ""], strict=True)):
        clock.move(minutes=1)
        asks(house, member, answer)
        house.hear(told(clock, member, f"asked-{number}"))
        house.work()
    decide(house, people[1], kind="reject", reason="Full.")
    clock.move(seconds=20)
    house.work()
    house.hear(
        ended(clock, events.JOIN_APPROVED, people[0], "a"),
        ended(clock, events.JOIN_REJECTED, people[1], "b", "Full."),
        ended(clock, events.JOIN_REJECTED, people[2], "c", "No press, please."),
        ended(clock, events.JOIN_CANCELED, people[3], "d"),
    )
    house.work()

    found, place = requests.history(office_of(house), ADA, SITE)

    assert place is None
    assert [
        (one.member, one.outcome, one.is_ours, one.told, one.row and (one.row.who or one.row.automation))
        for one in found
    ] == [
        ("m-open", "", False, "", None),
        ("m-self", "canceled", False, "", None),
        ("m-wix", "rejected", False, "No press, please.", "ask-a-person"),
        ("m-ada", "rejected", True, "Full.", "user ada"),
        ("m-rule", "approved", True, "", "let-teachers-in"),
    ]


def test_the_history_goes_on_page_by_page_and_keeps_to_the_reach(house: House, clock: Clock):
    for number in range(7):
        clock.move(minutes=1)
        house.hear(told(clock, MemberId(f"m-{number}"), f"e{number}", group=[RUNNERS, CHOIR][number % 2]))
    house.work()

    def all_pages(holder: Holder, limit: int) -> list[str]:
        seen: list[str] = []
        after: Any = None
        for _ in range(20):
            found, after = requests.history(office_of(house), holder, SITE, limit=limit, after=after)
            seen += [one.member for one in found]
            if after is None:
                return seen
        raise AssertionError("there is no end")

    assert all_pages(ADA, 3) == [f"m-{number}" for number in reversed(range(7))]
    assert all_pages(RUNNERS_ADMIN, 2) == ["m-6", "m-4", "m-2", "m-0"]


def test_a_request_that_was_found_and_told_of_later_is_one_in_the_history(house: House, clock: Clock):
    asks(house, BO, minutes=5)
    decide(house, BO)
    house.hear(told(clock, BO, "late", minutes=5))
    house.work()

    found, _ = requests.history(office_of(house), ADA, SITE)

    assert [(one.member, one.outcome) for one in found] == [(BO, "planned")]


# What a rule would have made of them.


def past(house: House, clock: Clock, answers: Sequence[tuple[str, str]]) -> None:
    for number, (name, answer) in enumerate(answers):
        clock.move(minutes=1)
        asks(house, MemberId(f"m-{name}"), answer)
        house.hear(told(clock, MemberId(f"m-{name}"), f"asked-{number}"))
        house.work()


def test_a_back_test_says_whom_an_edited_rule_would_have_decided_otherwise_and_writes_nothing(
    house: House, clock: Clock
):
    past(house, clock, [("bo", "a teacher"), ("cy", "I coach swimmers"), ("di", "press"), ("gone", "")])
    office = office_of(house)
    rules = office.automations()
    known = rules.named("let-teachers-in")
    edit = replace(requests.edit_of(known), any=("coach*",))
    before = rows(house)

    found = requests.back_test(office, ADA, SITE, requests.edited_rules(rules, edit), name=edit.name)

    assert (found.total, found.unanswered, found.unread, found.without) == (4, 1, 0, False)
    assert (found.before, found.after) == (
        {"approve": 1, "flag": 1, "": 1},
        {"approve": 1, "flag": 1, "": 1},
    )
    assert [
        (one.past.member, one.before.kind, one.after.kind, one.past.outcome) for one in found.changed
    ] == [
        ("m-cy", "", "approve", ""),
        ("m-bo", "approve", "", "approved"),
    ]
    assert rows(house) == before
    assert office.automations() == rules


def test_a_rule_as_it_is_is_compared_with_the_others_alone(house: House, clock: Clock):
    past(house, clock, [("bo", "a teacher for the press")])
    office = office_of(house)
    rules = office.automations()

    found = requests.back_test(
        office, ADA, SITE, requests.edited_rules(rules, requests.edit_of(rules.named("let-teachers-in"))),
        name="let-teachers-in",
    )  # fmt: skip

    assert found.without
    assert [(one.before.kind, one.after.kind) for one in found.changed] == [("flag", "approve")]


def test_a_new_rule_comes_after_the_others(house: House, clock: Clock):
    past(house, clock, [("bo", "a teacher"), ("cy", "I run with my dog")])
    office = office_of(house)
    rules = office.automations()
    edit = requests.RuleEdit("no-dogs", any=("dog*", "teacher"), decide="reject")

    found = requests.back_test(office, ADA, SITE, requests.edited_rules(rules, edit), name="no-dogs")

    assert [(one.past.member, one.after.kind, one.after.automation) for one in found.changed] == [
        ("m-cy", "reject", "no-dogs")
    ]


def test_groups_whose_answers_cannot_be_read_are_counted_and_said(house: House, clock: Clock):
    past(house, clock, [("bo", "a teacher")])
    house.hear(told(clock, CY, "elsewhere", group=GroupId("deleted")))
    house.work()
    house.wix.fails["list_answers"] = [ForbiddenError("no")]
    office = office_of(house)

    found = requests.back_test(office, ADA, SITE, office.automations())

    assert (found.total, found.unread, found.changed) == (2, 2, ())
    assert "does not allow" in found.trouble


def test_a_back_test_of_a_group_admin_stays_in_their_groups(house: House, clock: Clock):
    past(house, clock, [("bo", "a teacher")])
    asks(house, CY, "a teacher", group=CHOIR)
    house.hear(told(clock, CY, "elsewhere", group=CHOIR))
    house.work()
    office = office_of(house)

    found = requests.back_test(office, RUNNERS_ADMIN, SITE, office.automations(), name="let-teachers-in")

    assert (found.total, [one.past.member for one in found.changed]) == (1, [BO])


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (requests.RuleEdit("let-teachers-in", any=("!!",), decide="approve"), "any"),
        (requests.RuleEdit("let-teachers-in", any=("a*b",), decide="approve"), "any"),
        (requests.RuleEdit("let-teachers-in", decide="approve"), "answers"),
        (requests.RuleEdit("let-teachers-in", any=("x",), none=("x",), decide="approve"), "any"),
        (requests.RuleEdit("let-teachers-in", any=("x",), decide="perhaps"), "decide"),
        (requests.RuleEdit("No Name", any=("x",), decide="approve"), "name"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_by_its_field(
    house: House, edit: requests.RuleEdit, field: str
):
    with pytest.raises(RefusedError) as refused:
        requests.edited_rules(office_of(house).automations(), edit)
    assert field in [error["field"] for error in refused.value.errors]
    assert "got" not in str(refused.value.errors)


def test_a_group_that_wix_does_not_know_any_more_has_no_requests(house: House):
    house.wix.failing_groups[CHOIR] = NotFoundError("gone")
    asks(house, BO, hours=1)
    found = pending(house)
    assert [one.member for one in found.items] == [BO]
    assert found.troubles == {}


def test_rules_of_other_sites_and_groups_are_nobody_elses_to_try_or_to_ask_about(
    database: Database, clock: Clock
):
    house = a_house(database, clock, RULES + OF_OTHERS)
    house.wix.groups = {
        RUNNERS: Group(RUNNERS, "Trail Runners", "PRIVATE"), CHOIR: Group(CHOIR, "Choir", "PRIVATE"),
    }  # fmt: skip
    office = office_of(house)
    both = ["let-teachers-in", "ask-a-person"]
    singers = replace(RUNNERS_ADMIN, reach=Reach(frozenset({SITE}), frozenset({CHOIR})))

    def offered(holder: Holder) -> tuple[list[str], list[str]]:
        rules = [one.name for one in requests.rules_with_answers(office, holder, SITE)]
        asked = [one.name for one in why.choices(office, holder, SITE) if one.about.startswith("automation:")]
        return rules, asked

    assert offered(ADA) == ([*both, "of-the-choir"], ["of-the-choir"])
    assert offered(singers) == ([*both, "of-the-choir"], ["of-the-choir"])
    assert offered(RUNNERS_ADMIN) == (both, [])
