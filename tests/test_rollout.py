"""Rules and questions for many groups: previewed, written, listed where they failed, retried, rolled back, followed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa

from core import events
from core.automations import parse_automations
from core.community import Group, GroupId, Question, Rule, SiteId
from core.errors import ForbiddenError, PermanentError, RetryableError
from core.events import EventId
from core.jobs import Job
from integrations.store.database import Database, Transaction
from integrations.store.jobs import Item, write_items
from integrations.store.tables import jobs
from tasks.jobs.rollout import (
    ALREADY,
    ASKED,
    CHANGED,
    CHANGED_AFTER,
    GONE,
    ROWS,
    TRIES,
    TRIES_TO_READ,
)
from tests.house import RUNNERS, SITE, Clock, FakeWix, House, a_house, an_event

SOURCE = GroupId("00000000-0000-4000-8000-000000000001")
KIND = Rule("Be kind", "No personal attacks.")
SPAM = Rule("No spam")
NEW = (KIND, SPAM)
OLD = (Rule("Old ways"),)
WHY = Question("Why?", required=True)
SAME = "has these rules already"
QUESTIONS_GO = (
    "1 of these groups ask questions now: all of them are replaced, and what people answered so far belongs to no "
    "question any more"
)


class KilledError(BaseException):
    """The worker is gone in this moment."""


@dataclass
class StubbornWix(FakeWix):
    """`refuses`: groups whose rules it does not let anybody write. `dice`: every tenth call fails for now. `once`: an
    error for just this call, the first time. `tell` hears of every group whose rules were written, as Wix would
    tell."""

    refuses: set[GroupId] = field(default_factory=set)
    dice: random.Random | None = None
    once: dict[tuple[Any, ...], Exception] = field(default_factory=dict)
    tell: Callable[[GroupId], None] = lambda _: None

    def _ask(self, name: str, *arguments: Any) -> None:
        super()._ask(name, *arguments)
        if error := self.once.pop((name, *arguments), None):
            raise error
        if self.dice is not None and self.dice.random() < 0.1:
            raise RetryableError(f"{name}: Wix answered 503")

    def replace_rules(self, site: SiteId, group: GroupId, rules: Iterable[Rule]) -> None:
        if group in self.refuses:
            raise PermanentError("createOrReplaceAllRules: Wix answered 400")
        super().replace_rules(site, group, rules)
        self.tell(group)


def a_club(
    database: Database, clock: Clock, groups: int = 3, rules: tuple[Rule, ...] = OLD, follow: str = ""
) -> House:
    """A house of rules, and so many other groups that have others."""
    house = a_house(database, clock)
    wix = StubbornWix(groups={SOURCE: Group(SOURCE, "House Rules")})
    for number in range(groups):
        group = group_id(number)
        wix.groups[group] = Group(group, f"Group {number}")
        wix.rules[group] = rules
    wix.rules[SOURCE] = NEW
    house.wix = wix
    house.services = replace(house.services, wix=wix, held=parse_automations(follow))
    return house


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    return a_club(database, clock)


def group_id(number: int) -> GroupId:
    return GroupId(f"10000000-0000-4000-8000-{number:012}")


def roll_out(house: House, **params: object) -> str:
    return house.ask_for("rules_rollout", **({"from_group": "House Rules"} | params))


def see_through(house: House) -> None:
    """Let time pass until no job is at work any more."""
    for _ in range(1000):
        house.turn()
        at_work = {"previewing", "running"}
        if not at_work & {row.state for row in house.services.jobs.page(limit=None)}:
            return
        house.clock.move(seconds=20)
    raise AssertionError("there is always more to do")


def items(house: House, job: str) -> dict[GroupId, Item]:
    return {item.group: item for item in house.services.jobs.items(job, limit=None) if item.group}


def states(house: House, job: str) -> Counter[tuple[str, str | None]]:
    return Counter((item.state, item.reason) for item in items(house, job).values())


def written(house: House) -> list[GroupId]:
    return [call[1] for call in house.wix.asked if call[0] in ("replace_rules", "replace_questions")]


# The preview


def test_the_preview_says_for_each_group_what_would_change_and_writes_nothing(house: House):
    house.wix.rules[group_id(1)] = NEW
    house.wix.rules[group_id(2)] = (SPAM, KIND, Rule("No dogs"))
    job = roll_out(house)

    assert house.job(job).state == "previewed"
    assert house.job(job).result == {
        "source": {"from_group": SOURCE, "name": "House Rules", "rules": 2},
        "groups": 3,
        "equal": 1,
        "to_change": 2,
    }
    assert house.job(job).cost["wix_calls"] == 4
    found = items(house, job)
    assert SOURCE not in found
    assert [(item.state, item.reason, item.data.get("diff")) for item in found.values()] == [
        ("planned", None, "adds 2, removes 1"),
        ("skipped", SAME, None),
        ("planned", None, "removes 1, moves 1"),
    ]
    assert found[group_id(0)].data["before"] == [{"title": "Old ways", "description": ""}]
    assert found[group_id(0)].data["name"] == "Group 0"
    assert written(house) == []


def test_rules_may_be_given_and_groups_chosen_by_name(house: House):
    job = house.ask_for("rules_rollout", rules=[{"title": "Smile"}], to_groups=["group 2", group_id(0)])
    house.confirm(job)

    assert written(house) == [group_id(0), group_id(2)]
    assert house.wix.rules[group_id(2)] == (Rule("Smile"),)
    assert house.wix.rules[group_id(1)] == OLD


def test_removing_all_rules_is_possible_and_said_loudly(house: House):
    house.wix.rules[group_id(0)] = ()
    job = house.ask_for("rules_rollout", rules=[])

    assert house.job(job).result["warnings"] == ["3 of these groups will have NO rules at all"]
    assert items(house, job)[group_id(1)].data["diff"] == "REMOVES ALL: 1 now, none after"
    house.confirm(job)
    assert [house.wix.rules[group] for group in (SOURCE, group_id(1))] == [(), ()]


def test_spaces_and_line_ends_that_wix_changed_are_no_difference(house: House):
    house.wix.rules[SOURCE] = (Rule("Be kind", "One.\nTwo."),)
    house.wix.rules[group_id(0)] = (Rule("Be kind ", "One.\r\nTwo.\n"),)

    assert items(house, roll_out(house))[group_id(0)].reason == SAME


def test_a_group_that_wix_told_was_deleted_is_left_out_though_it_is_still_listed(house: House):
    house.hear(an_event(house.clock, type=events.GROUP_DELETED, group=group_id(1)))
    house.turn()

    assert items(house, roll_out(house)).keys() == {group_id(0), group_id(2)}


def test_a_source_that_may_not_be_read_fails_the_job_with_the_reason(house: House):
    house.wix.failing_groups[SOURCE] = ForbiddenError("listRules: Wix answered 403")
    job = roll_out(house)

    assert (house.job(job).state, house.job(job).error) == ("failed", "listRules: Wix answered 403")
    house.wix.failing_groups.clear()
    assert house.job(roll_out(house, from_group="nobody")).error == 'no group has the id or the name "nobody"'
    assert house.job(roll_out(house, to_groups=["yog*"])).error == 'no group has the id or a name like "yog*"'


def test_a_group_that_cannot_be_read_for_now_holds_the_preview_up_for_a_minute_at_most(house: House):
    house.wix.failing_groups[group_id(0)] = RetryableError("listRules: Wix answered 500")
    began = house.clock()
    job = roll_out(house)
    see_through(house)

    assert (house.clock() - began).total_seconds() <= 120
    assert states(house, job) == {("failed", "listRules: Wix answered 500"): 1, ("planned", None): 2}
    assert items(house, job)[group_id(0)].attempts == TRIES_TO_READ
    assert house.job(job).result["to_change"] == 2


def test_waiting_for_room_in_the_budget_uses_no_attempts_up(house: House):
    busy = [RetryableError("no call is left", retry_after_s=20, counts=False) for _ in range(30)]
    house.wix.fails["list_questions"] = busy
    job = house.ask_for("questions_rollout", questions=[{"text": "Why?"}])
    see_through(house)

    assert busy == []
    assert {item.attempts for item in items(house, job).values()} == {0}
    assert states(house, job) == {("planned", None): 4}


def test_the_tries_of_a_preview_do_not_count_in_the_run(house: House):
    house.wix.fails["list_questions"] = [RetryableError("Wix answered 500")] * (TRIES_TO_READ - 1)
    job = house.ask_for("questions_rollout", questions=[{"text": "Why?"}], to_groups=["Group 0"])
    see_through(house)

    assert items(house, job)[group_id(0)].attempts == 0
    assert states(house, job) == {("planned", None): 1}


# The run


def test_after_the_yes_each_group_is_read_again_and_written(house: House):
    job = roll_out(house)
    asked = len(house.wix.asked)
    house.confirm(job)

    assert house.job(job).state == "done"
    assert states(house, job) == {("done", None): 3}
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {NEW}
    assert Counter(call[0] for call in house.wix.asked[asked:]) == {"list_rules": 3, "replace_rules": 3}
    assert house.job(job).cost["wix_calls"] == 6


def test_what_somebody_else_changed_after_the_preview_is_left_alone(house: House):
    job = roll_out(house)
    house.wix.rules[group_id(0)] = (Rule("Ours now"),)
    house.wix.rules[group_id(1)] = NEW
    house.confirm(job)

    assert states(house, job) == {("skipped", CHANGED): 1, ("done", ALREADY): 1, ("done", None): 1}
    assert house.wix.rules[group_id(0)] == (Rule("Ours now"),)
    assert written(house) == [group_id(2)]


def test_what_was_previewed_is_written_though_the_source_changed_since(house: House):
    job = roll_out(house)
    house.wix.rules[SOURCE] = (Rule("Other"),)
    house.confirm(job)

    assert house.wix.rules[group_id(0)] == NEW


def test_a_group_deleted_after_the_preview_is_skipped(house: House):
    job = roll_out(house)
    del house.wix.groups[group_id(1)]
    house.confirm(job)

    assert states(house, job) == {("skipped", GONE): 1, ("done", None): 2}


def test_a_worker_that_dies_between_write_and_record_has_written_once(house: House):
    job = roll_out(house)
    house.wix.loses["replace_rules"] = [KilledError()]
    with pytest.raises(KilledError):
        house.confirm(job)
    assert states(house, job) == {("in_doubt", ASKED): 1, ("planned", None): 2}
    assert house.wix.rules[group_id(0)] == NEW
    see_through(house)

    assert sorted(written(house)) == [group_id(0), group_id(1), group_id(2)]
    assert states(house, job) == {("done", ALREADY): 1, ("done", None): 2}
    back = house.ask_for("rules_rollout", rollback=job)
    house.confirm(back)
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {OLD}


def test_an_answer_that_was_lost_after_the_write_is_no_second_write(house: House):
    job = roll_out(house)
    house.wix.loses["replace_rules"] = [RetryableError("no answer from Wix (ReadTimeout)")]
    house.confirm(job)
    see_through(house)

    assert Counter(written(house)) == dict.fromkeys(map(group_id, range(3)), 1)


def test_a_group_that_is_put_off_does_not_hold_the_others_up(house: House):
    job = roll_out(house)
    house.wix.fails["replace_rules"] = [RetryableError("Wix answered 500", retry_after_s=120)]
    house.confirm(job)
    house.clock.move(seconds=60)
    house.turn()
    assert states(house, job)["done", None] == 2
    assert house.job(job).state == "running"
    see_through(house)
    assert states(house, job) == {("done", None): 3}


def test_what_a_page_had_done_when_the_budget_ended_is_not_done_again(house: House):
    job = roll_out(house)
    house.wix.asked.clear()
    refusals = iter([RetryableError("no call is left", retry_after_s=20, counts=False)] * 2)
    assert isinstance(house.wix, StubbornWix)
    house.wix.tell = lambda _: house.wix.fails.update(list_rules=list(refusals))
    house.confirm(job)

    assert states(house, job) == {("done", None): 1, ("planned", None): 2}
    see_through(house)
    assert states(house, job) == {("done", None): 3}
    assert Counter(call[0] for call in house.wix.asked) == {"list_rules": 5, "replace_rules": 3}


def test_a_cancelled_rollout_leaves_the_rest_alone_and_can_be_rolled_back(house: House):
    job = roll_out(house)
    house.wix.failing_groups[group_id(1)] = RetryableError("Wix answered 500")
    house.confirm(job)
    assert house.job(job).state == "running"
    too_soon = house.job(house.ask_for("rules_rollout", rollback=job))
    assert too_soon.error == f"job {job} is running, and not over yet: only what is over is rolled back"
    hasty, _ = house.services.jobs.create(SITE, "rules_rollout", {"rollback": job}, who="tests")
    house.clock.move(seconds=1)  # the cancelled job is called off after the hasty one has begun
    house.services.jobs.cancel(job, who="tests")
    house.turn()
    too_soon = house.job(hasty.id)
    assert too_soon.error == f"job {job} is cancelled, and not over yet: only what is over is rolled back"
    assert states(house, job) == {("done", None): 2, ("skipped", "the job was cancelled"): 1}

    house.wix.failing_groups.clear()
    house.confirm(house.ask_for("rules_rollout", rollback=job))
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {OLD}


def killed_at(last: GroupId) -> Callable[[GroupId], None]:
    def tell(group: GroupId) -> None:
        if group == last:
            raise KilledError

    return tell


def test_groups_that_a_dead_worker_wrote_are_in_doubt_after_a_cancel_and_can_be_rolled_back(house: House):
    job = roll_out(house)
    assert isinstance(house.wix, StubbornWix)
    house.wix.tell = killed_at(group_id(1))
    with pytest.raises(KilledError):
        house.confirm(job)
    house.services.jobs.cancel(job, who="tests")
    see_through(house)
    house.clock.move(minutes=10)
    house.turn()
    assert states(house, job) == {("in_doubt", ASKED): 2, ("skipped", "the job was cancelled"): 1}

    house.wix.tell = lambda _: None
    back = house.ask_for("rules_rollout", rollback=job)
    house.confirm(back)
    assert states(house, back) == {("done", None): 2}
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {OLD}


@pytest.mark.parametrize("reached", [True, False])
def test_a_write_whose_answer_was_lost_before_a_cancel_is_in_doubt_and_can_be_rolled_back(
    house: House, reached: bool
):
    job = roll_out(house)
    lost = RetryableError("no answer from Wix (ReadTimeout)", retry_after_s=120)
    (house.wix.loses if reached else house.wix.fails)["replace_rules"] = [lost]
    house.confirm(job)
    house.services.jobs.cancel(job, who="tests")
    house.clock.move(seconds=20)
    house.turn()
    assert states(house, job) == {("in_doubt", str(lost)): 1, ("done", None): 2}
    assert house.wix.rules[group_id(0)] == (NEW if reached else OLD)

    back = house.ask_for("rules_rollout", rollback=job)
    house.confirm(back)
    assert states(house, back)["skipped", SAME] == (0 if reached else 1)
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {OLD}


def test_a_write_in_doubt_that_somebody_else_followed_is_left_alone(house: House):
    job = roll_out(house)
    house.wix.loses["replace_rules"] = [RetryableError("no answer from Wix (ReadTimeout)", retry_after_s=60)]
    house.confirm(job)
    house.wix.rules[group_id(0)] = (Rule("Ours now"),)
    see_through(house)

    assert states(house, job) == {("skipped", CHANGED): 1, ("done", None): 2}
    assert house.wix.rules[group_id(0)] == (Rule("Ours now"),)


def test_a_group_written_and_given_up_before_anybody_saw_it_is_rolled_back_too(house: House):
    job = roll_out(house, to_groups=["Group 0"])
    house.wix.loses["replace_rules"] = [RetryableError("no answer from Wix (ReadTimeout)")]
    house.confirm(job)
    house.wix.failing_groups[group_id(0)] = RetryableError("listRules: Wix answered 500")
    see_through(house)
    assert states(house, job) == {("failed", "listRules: Wix answered 500"): 1}

    house.wix.failing_groups.clear()
    house.confirm(house.ask_for("rules_rollout", rollback=job))
    assert house.wix.rules[group_id(0)] == OLD


# Many groups


def test_many_groups_are_listed_and_written_down_page_by_page_and_so_is_their_rollback(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    house = a_club(database, clock, groups=650, rules=NEW)
    for number in (0, 400, 649):
        house.wix.rules[group_id(number)] = OLD
    written_at_once: list[int] = []

    def counted(tx: Transaction, job: Job, items: list[Item], **more: Any) -> None:
        written_at_once.append(len(items))
        write_items(tx, job, items, **more)

    monkeypatch.setattr("tasks.jobs.rollout.write_items", counted)
    assert isinstance(house.wix, StubbornWix)
    house.wix.once["groups_page", 200] = RetryableError("no call is left", retry_after_s=20, counts=False)
    job = roll_out(house)
    see_through(house)
    offsets = [call[1] for call in house.wix.asked if call[0] == "groups_page"]
    assert offsets == [0, 100, 200, 200, 300, 400, 500, 600]
    assert ("list_groups",) not in house.wix.asked
    assert [count for count in written_at_once if count > 1] == [ROWS, ROWS, 50]
    assert house.services.jobs.get(job).plan["targets"] == []
    house.confirm(job)
    see_through(house)
    assert states(house, job) == {("skipped", SAME): 647, ("done", None): 3}

    back = house.ask_for("rules_rollout", rollback=job)
    see_through(house)
    house.confirm(back)
    assert {house.wix.rules[group_id(number)] for number in (0, 400, 649)} == {OLD}
    assert len(items(house, back)) == 3


def test_a_group_deleted_while_the_list_is_read_hides_no_other(database: Database, clock: Clock):
    house = a_club(database, clock, groups=150)
    house.wix.totals = True
    assert isinstance(house.wix, StubbornWix)
    house.wix.once["groups_page", 100] = RetryableError("no call is left", retry_after_s=5, counts=False)
    job = roll_out(house)
    del house.wix.groups[group_id(7)]
    see_through(house)

    assert items(house, job).keys() >= {group_id(number) for number in range(150)} - {group_id(7)}


# Many groups, of which some fail


def test_of_300_groups_those_that_fail_are_listed_retried_alone_and_all_is_rolled_back(
    database: Database, clock: Clock
):
    house = a_club(database, clock, groups=300)
    wix = house.wix
    assert isinstance(wix, StubbornWix)
    unreadable = {group_id(number) for number in range(0, 300, 20)}
    unwritable = {group_id(number) for number in range(10, 300, 20)}
    for group in unreadable:
        wix.failing_groups[group] = ForbiddenError("listRules: Wix answered 403")
    wix.refuses |= unwritable
    wix.dice = random.Random(7)

    job = roll_out(house)
    see_through(house)
    assert house.job(job).state == "previewed"
    assert house.counts(job).failed == 15
    assert house.job(job).result["to_change"] == 285
    house.confirm(job)
    see_through(house)
    assert house.job(job).state == "done"
    assert states(house, job).keys() <= {
        ("done", None),
        ("failed", "listRules: Wix answered 403"),
        ("failed", "createOrReplaceAllRules: Wix answered 400"),
    }
    counts = house.counts(job)
    assert (counts.total, counts.done, counts.failed) == (300, 270, 30)
    failed = {item.group for item in house.services.jobs.items(job, state="failed", limit=None)}
    assert failed == unreadable | unwritable

    wix.failing_groups.clear()
    wix.refuses.clear()
    wix.asked.clear()
    house.services.jobs.retry_failed(job, who="tests")
    see_through(house)
    assert states(house, job) == {("done", None): 300}
    assert set(written(house)) == failed
    assert {call[1] for call in wix.asked} == failed
    assert {item.data["diff"] for item in items(house, job).values()} == {"adds 2, removes 1"}
    assert {wix.rules[group_id(number)] for number in range(300)} == {NEW}

    back = house.ask_for("rules_rollout", rollback=job)
    see_through(house)
    house.confirm(back)
    see_through(house)
    assert states(house, back) == {("done", None): 300}
    assert {wix.rules[group_id(number)] for number in range(300)} == {OLD}
    assert wix.rules[SOURCE] == NEW


def test_a_group_that_always_fails_for_now_is_given_up_in_the_end(house: House):
    job = roll_out(house)
    house.wix.failing_groups[group_id(1)] = RetryableError("listRules: Wix answered 500")
    house.confirm(job)
    see_through(house)

    assert house.job(job).state == "done"
    assert states(house, job) == {("done", None): 2, ("failed", "listRules: Wix answered 500"): 1}
    assert items(house, job)[group_id(1)].attempts == TRIES


# Rolling back


def test_a_rollback_restores_what_each_group_had_and_can_be_rolled_back_itself(house: House):
    house.wix.rules[group_id(1)] = ()
    house.wix.rules[group_id(2)] = NEW
    job = roll_out(house)
    house.confirm(job)
    back = house.ask_for("rules_rollout", rollback=job)
    assert house.job(back).result == {
        "source": {"rollback": job},
        "groups": 2,
        "equal": 0,
        "to_change": 2,
        "warnings": ["1 of these groups will have NO rules at all"],
    }
    house.confirm(back)
    assert [house.wix.rules[group_id(number)] for number in range(3)] == [OLD, (), NEW]

    again = house.ask_for("rules_rollout", rollback=back)
    house.confirm(again)
    assert [house.wix.rules[group_id(number)] for number in range(3)] == [NEW, NEW, NEW]


def test_a_rollback_leaves_alone_what_was_changed_since(house: House):
    job = roll_out(house)
    house.confirm(job)
    house.wix.rules[group_id(0)] = (Rule("Ours now"),)
    house.wix.rules[group_id(1)] = OLD
    back = house.ask_for("rules_rollout", rollback=job)

    assert states(house, back) == {("skipped", CHANGED_AFTER): 1, ("skipped", SAME): 1, ("planned", None): 1}
    house.wix.rules[group_id(2)] = (Rule("Ours too"),)
    house.confirm(back)
    assert states(house, back)["skipped", CHANGED] == 1
    assert [house.wix.rules[group_id(number)] for number in (0, 2)] == [
        (Rule("Ours now"),),
        (Rule("Ours too"),),
    ]


def test_only_a_rollout_of_the_same_kind_and_site_that_is_over_is_rolled_back(house: House):
    questions = house.ask_for("questions_rollout", questions=[{"text": "Why?"}])
    house.confirm(questions)
    previewed = roll_out(house)
    nothing = roll_out(house, to_groups=["House Rules"])
    house.confirm(nothing)
    with house.database.begin() as tx:
        tx.execute(sa.insert(jobs).from_select(jobs.c.keys(), elsewhere(nothing)))

    def error(of: str) -> str:
        return str(house.job(house.ask_for("rules_rollout", rollback=of)).error)

    assert error("nonesuch") == "there is no job nonesuch"
    assert (
        error(questions) == f"job {questions} is a questions_rollout, which a rules_rollout cannot roll back"
    )
    assert error(previewed) == (
        f"job {previewed} is previewed, and not over yet: only what is over is rolled back"
    )
    assert error(nothing) == f"job {nothing} changed no group"
    assert error("elsewhere") == "job elsewhere is of another site"


def elsewhere(job: str) -> sa.Select[Any]:
    """A copy of this job's row on another site."""
    other: dict[str, sa.ColumnElement[Any]] = {"id": sa.literal("elsewhere"), "site": sa.literal("site-2")}
    return sa.select(*(other.get(column.name, column) for column in jobs.c)).where(jobs.c.id == job)


# Questions


def test_questions_are_rolled_out_and_the_preview_says_what_becomes_of_answers(house: House):
    house.wix.questions[group_id(0)] = (Question("Whence?"),)
    house.wix.questions[group_id(1)] = (WHY,)
    job = house.ask_for("questions_rollout", questions=[{"text": "Why?", "required": True}])

    assert house.job(job).result == {
        "source": {"questions": 1},
        "groups": 4,
        "equal": 1,
        "to_change": 3,
        "warnings": [QUESTIONS_GO],
    }
    house.confirm(job)
    assert set(house.wix.questions.values()) == {(WHY,)}
    assert group_id(1) not in written(house)

    back = house.ask_for("questions_rollout", rollback=job)
    house.confirm(back)
    assert house.wix.questions[group_id(0)] == (Question("Whence?"),)
    assert house.wix.questions[group_id(2)] == ()


# Following

FOLLOWING = """
[[follow]]
rules_of = "house rules"
"""


def edit(house: House, group: GroupId, *rules: Rule, event: str = "e1") -> None:
    """An admin edits the rules of a group, and Wix tells."""
    house.wix.rules[group] = rules
    tell_of(house, group, event)


def tell_of(house: House, group: GroupId, event: str) -> None:
    payload = (
        f'{{"entityId": "{group}", "updatedEvent": {{"currentEntity": {{"rules": [{{"title": "Late"}}]}}}}}}'
    )
    house.hear(an_event(house.clock, type=events.RULES_UPDATED, id=event, payload=payload))


def talkative(house: House) -> None:
    """Wix tells of every write, ours too."""
    wix = house.wix
    assert isinstance(wix, StubbornWix)
    numbers = iter(range(1000))
    wix.tell = lambda group: tell_of(house, group, f"own-{next(numbers)}")


def rollouts(house: House) -> list[Any]:
    """Oldest first."""
    return house.services.jobs.page(kind="rules_rollout", limit=None)[::-1]


def test_the_rules_of_a_followed_group_go_to_the_others_without_a_question(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    talkative(house)
    edit(house, SOURCE, SPAM)
    see_through(house)

    assert {house.wix.rules[group_id(number)] for number in range(3)} == {(SPAM,)}
    (job,) = rollouts(house)
    assert (job.state, job.who) == ("done", "follow house rules")
    assert states(house, job.id) == {("done", None): 3}
    assert {row.state for row in house.services.journal.page(type=events.RULES_UPDATED)} == {
        "done",
        "ignored",
    }


def test_a_replayed_event_makes_no_second_rollout(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    edit(house, SOURCE, SPAM)
    see_through(house)
    house.services.journal.replay(EventId("e1"), who="tests")
    see_through(house)

    assert len(rollouts(house)) == 1


def test_an_event_whose_worker_died_after_the_job_was_made_makes_no_second_one(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    house = a_club(database, clock, follow=FOLLOWING)
    edit(house, SOURCE, SPAM)
    with monkeypatch.context() as patch:
        patch.setattr(house.services.journal, "finish", lambda *_: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            house.turn()
    clock.move(minutes=5)
    see_through(house)

    assert len(rollouts(house)) == 1


def test_ten_quick_edits_make_one_rollout_of_the_newest_rules(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    for number in range(10):
        edit(house, SOURCE, Rule(f"Draft {number}"), event=f"e{number}")
        house.turn()
        clock.move(seconds=2)
    see_through(house)

    assert len(rollouts(house)) == 1
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {(Rule("Draft 9"),)}
    assert len(written(house)) == 3


def test_an_edit_during_a_rollout_waits_for_it_and_wins(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    edit(house, SOURCE, Rule("First"))
    house.turn()
    clock.move(seconds=31)
    house.wix.fails["replace_rules"] = [RetryableError("Wix answered 500", retry_after_s=100)]
    house.turn()
    edit(house, SOURCE, Rule("Second"), event="e2")
    house.turn()
    clock.move(seconds=40)
    edit(house, SOURCE, Rule("Third"), event="e3")
    house.turn()
    assert [row.state for row in rollouts(house)] == ["running", "running"]
    assert Rule("Second") not in {rule for rules in house.wix.rules.values() for rule in rules}
    see_through(house)

    assert [row.state for row in rollouts(house)] == ["done", "done"]
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {(Rule("Third"),)}


def test_a_paused_rollout_does_not_hold_the_next_one_up(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    edit(house, SOURCE, Rule("First"))
    house.turn()
    clock.move(seconds=31)
    house.wix.fails["list_rules"] = [RetryableError("no call is left", retry_after_s=60, counts=False)]
    house.turn()
    (paused,) = rollouts(house)
    house.services.jobs.pause(paused.id, who="tests")
    edit(house, SOURCE, Rule("Second"), event="e2")
    see_through(house)
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {(Rule("Second"),)}

    house.services.jobs.resume(paused.id, who="tests")
    see_through(house)
    assert {house.wix.rules[group_id(number)] for number in range(3)} == {(Rule("Second"),)}


EACH_OTHER = """
[[follow]]
name = "there"
rules_of = "House Rules"
to_groups = ["Group 0"]
[[follow]]
name = "back"
rules_of = "Group 0"
to_groups = ["House Rules"]
"""


def test_two_groups_that_follow_each_other_end_after_one_round(database: Database, clock: Clock):
    house = a_club(database, clock, follow=EACH_OTHER)
    talkative(house)
    edit(house, SOURCE, SPAM)
    see_through(house)

    assert written(house) == [group_id(0)]
    assert [row.who for row in rollouts(house)] == ["follow there", "follow back"]
    assert states(house, rollouts(house)[1].id) == {("skipped", SAME): 1}


def test_two_groups_that_follow_each_other_and_are_edited_at_once_agree(database: Database, clock: Clock):
    house = a_club(database, clock, follow=EACH_OTHER)
    talkative(house)
    edit(house, SOURCE, SPAM, event="e1")
    edit(house, group_id(0), KIND, event="e2")
    see_through(house)

    assert house.wix.rules[SOURCE] == house.wix.rules[group_id(0)]
    assert len(written(house)) == 1


def test_rules_of_other_groups_sites_and_patterns_set_nothing_off(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING + 'sites = ["site-2"]')
    edit(house, SOURCE, SPAM)
    house.turn()
    house.services = replace(house.services, held=parse_automations(FOLLOWING))
    edit(house, group_id(1), SPAM, event="e2")
    edit(house, RUNNERS, event="e3")
    see_through(house)

    assert rollouts(house) == []
    assert {row.id: row.error for row in house.services.journal.page()} == {
        "e1": "no [[follow]] is for this site",
        "e2": "no [[follow]] names this group",
        "e3": "Wix does not know the group",
    }


def test_an_event_of_long_ago_still_sets_off_a_rollout_of_the_present_rules(database: Database, clock: Clock):
    house = a_club(database, clock, follow=f'[[follow]]\nrules_of = "{SOURCE}"')
    house.hear(an_event(clock, type=events.RULES_UPDATED, payload=f'{{"entityId": "{SOURCE}"}}', days=30))
    see_through(house)

    assert {house.wix.rules[group_id(number)] for number in range(3)} == {NEW}


def test_a_name_that_two_groups_have_is_not_followed_and_the_job_says_so(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    house.wix.groups[group_id(1)] = Group(group_id(1), "House Rules")
    edit(house, SOURCE, SPAM)
    see_through(house)

    (job,) = rollouts(house)
    assert job.state == "failed"
    assert job.error.startswith('2 groups have the name "house rules": give the id')
    assert written(house) == []


def test_a_site_that_removed_the_app_follows_nothing(database: Database, clock: Clock):
    house = a_club(database, clock, follow=FOLLOWING)
    house.hear(an_event(clock, type=events.APP_REMOVED, id="e0"))
    house.turn()
    edit(house, SOURCE, SPAM)
    see_through(house)

    assert (rollouts(house), written(house)) == ([], [])
    assert SITE in house.services.sites.removed([SITE])
