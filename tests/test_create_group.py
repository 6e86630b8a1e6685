"""A group for a list of people: who is meant, who gets in, who is only invited, and nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import sqlalchemy as sa
from anyio.from_thread import start_blocking_portal

from core.community import Group, GroupId, Member, MemberId, Membership, Person, SiteId, Slice
from core.errors import NotFoundError, PermanentError, RetryableError, WrongStateError
from integrations.people_list import read_people
from integrations.store.database import Database
from integrations.store.lists import INVITED, INVITED_BEFORE
from integrations.store.suppressions import FORGOTTEN, forget_member
from integrations.store.tables import jobs
from integrations.wix.client import WixClient
from sandbox.house import APP_SECRET, Sandbox
from sandbox.loading import load_community
from sandbox.sender import Keys
from sandbox.switches import patched
from tasks.jobs.create_group import ADDED, ASKED, CREATE_GROUP, GONE, NOT_LISTED, UNSURE, WAS_IN
from tests.house import SITE, Clock, FakeWix, House, a_house
from tests.test_people_list import a_long_list
from tests.wix.test_wix_contract import InOneLoop

OWNER = MemberId("m-owner")
NEW = {"name": "Yoga in May", "privacyStatus": "PRIVATE", "creatorId": OWNER}


class KilledError(BaseException):
    """The process is gone."""


@dataclass
class LaggingWix(FakeWix):
    """Its lists do not show yet what `hidden` holds: ids of groups, and of members in any group."""

    hidden: set[str] = field(default_factory=set)
    breaks: dict[MemberId, BaseException] = field(default_factory=dict)
    """Raised once, when a call that adds this member has taken effect."""
    vanishes: bool = False
    """Groups are not there any more as soon as somebody is added."""

    def list_groups(self, site: SiteId) -> Any:
        return (group for group in super().list_groups(site) if group.id not in self.hidden)

    def group_members_page(
        self, site: SiteId, group: GroupId, offset: int
    ) -> Slice[tuple[MemberId, Membership]]:
        page = super().group_members_page(site, group, offset)
        return replace(page, items=tuple(row for row in page.items if row[0] not in self.hidden))

    def create_group(self, *args: Any, **kwargs: Any) -> Group:
        before = set(self.groups)
        try:
            return super().create_group(*args, **kwargs)
        finally:
            if "new groups" in self.hidden:
                self.hidden |= set(self.groups) - before

    def add_group_members(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None:
        members = tuple(members)
        super().add_group_members(site, group, members)
        if self.vanishes:
            self.groups.clear()
        for member in members:
            if member in self.breaks:
                raise self.breaks.pop(member)


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock)
    wix = LaggingWix()
    wix.members.clear()
    wix.memberships.clear()
    found = House(dataclasses.replace(found.services, wix=wix), wix, found.mail, clock, database)
    settle_in(found, OWNER)
    return found


def settle_in(house: House, id: str, **of: Any) -> MemberId:  # noqa: A002
    """A member of the site; their contact is c-<id>, their address <id>@example.com."""
    known = {"status": "APPROVED", "private": False, "contact": f"c-{id}", "email": f"{id}@example.com"} | of
    house.wix.members[MemberId(id)] = Member(MemberId(id), **known)
    return MemberId(id)


def members(house: House, count: int, **of: Any) -> list[dict[str, str]]:
    return [{"email": f"{settle_in(house, f'm-{number:04}', **of)}@example.com"} for number in range(count)]


def previewed(house: House, people: list[dict[str, Any]], **group: str) -> str:
    return house.ask_for("create_group", group=NEW | group, people=people)


def done(house: House, people: list[dict[str, Any]], **group: str) -> Any:
    """The result of a job that was confirmed, with its postponed looks."""
    job = previewed(house, people, **group)
    house.confirm(job)
    return finished(house, job)


def finished(house: House, job: str) -> Any:
    for _ in range(12):
        if house.job(job).state != "running":
            break
        house.clock.move(seconds=50)
        house.turn()
    assert house.job(job).state == "done", house.job(job).error
    counts = house.counts(job)
    assert counts.total == counts.done + counts.skipped + counts.failed + counts.in_doubt
    return house.job(job).result


def called(house: House, *names: str) -> list[Any]:
    return [call[1:] for call in house.wix.asked if call[0] in names]


def rows(house: House, job: str) -> dict[int, tuple[str, str | None]]:
    return {item.number: (item.state, item.reason) for item in house.services.jobs.items(job, limit=None)}


def inside(house: House, group: str) -> set[str]:
    return {
        member
        for (where, member), how in house.wix.memberships.items()
        if (where, how.status) == (group, "joined")
    }


WRITES = ("create_group", "add_group_members")


def test_before_the_yes_nothing_is_done_and_it_is_said_what_would_be(house: House):
    settle_in(house, "ana")
    settle_in(house, "bo", private=True)
    job = previewed(
        house, [{"email": "ana@example.com"}, {"contactId": "c-bo"}, {"email": "gone@example.com"}]
    )

    assert house.job(job).state == "previewed"
    assert called(house, *WRITES) == []
    assert house.job(job).result == {
        "group": {"id": None, "name": "Yoga in May", "created": True},
        "added": 1,
        "already": 0,
        "invited": 1,
        "to_fix": [{"row": 3, "reason": "nobody on the site has this address", "candidates": []}],
    }
    counts = house.counts(job)
    assert (counts.total, counts.skipped, counts.waiting) == (3, 1, 2)


def test_a_list_becomes_a_group_with_its_people_and_a_list_to_fix(house: House):
    settle_in(house, "ana", first_name="Ana", last_name="Cruz")
    settle_in(house, "bo", private=True)
    settle_in(house, "eve", status="BLOCKED")
    for twin in ("ida-1", "ida-2"):
        settle_in(house, twin, nickname="Ida")
    house.wix.people.append(Person("c-guest", None, frozenset({"guest@example.com"})))
    people = [
        {"name": "ana CRUZ"},
        {"contactId": "c-bo"},
        {"email": "eve@example.com"},
        {"name": "Ida"},
        {"email": "guest@example.com"},
        {"contactId": "c-ana"},
        {"phone": "+12025550101"},
        {"phone": "0170"},
    ]
    result = done(house, people)

    group = result["group"]
    assert group["created"] is True
    assert inside(house, group["id"]) == {OWNER, "ana"}
    assert house.wix.groups[GroupId(group["id"])] == Group(
        GroupId(group["id"]), "Yoga in May", "PRIVATE", owner=OWNER
    )
    assert (result["added"], result["already"], result["invited"]) == (1, 0, 1)
    assert [(bad["row"], bad["reason"]) for bad in result["to_fix"]] == [
        (2, INVITED),
        (3, "is blocked on the site"),
        (4, "2 people have this name"),
        (5, "is a contact without an account on the site, so no group can take them"),
        (6, "is the same person as row 1"),
        (7, "nobody on the site has this phone"),
        (
            8,
            "cannot be read: Without a country code: write it with + in front, or say which region is meant.",
        ),
    ]
    assert result["to_fix"][2]["candidates"] == [
        {"member": "ida-1", "contact": "c-ida-1", "address": "i…@example.com"},
        {"member": "ida-2", "contact": "c-ida-2", "address": "i…@example.com"},
    ]


def test_a_second_run_changes_nothing_and_only_reads(house: House):
    people = members(house, 3)
    settle_in(house, "bo", private=True)
    people.append({"email": "bo@example.com"})
    first = done(house, people)
    before = len(called(house, *WRITES))
    again = done(house, people, name=" yoga  in MAY ")

    assert len(called(house, *WRITES)) == before
    assert again["group"] == first["group"] | {"created": False}
    assert (again["added"], again["already"], again["invited"]) == (0, 3, 0)
    assert [(bad["row"], bad["reason"]) for bad in again["to_fix"]] == [(4, INVITED_BEFORE)]
    third = previewed(house, people)
    assert house.job(third).result == again


def test_who_was_invited_and_has_a_public_profile_now_is_added(house: House):
    settle_in(house, "bo", private=True)
    done(house, [{"email": "bo@example.com"}])
    settle_in(house, "bo", private=False)
    result = done(house, [{"email": "bo@example.com"}])
    assert (result["added"], result["to_fix"]) == (1, [])


def test_an_invitation_to_one_group_is_none_to_another(house: House):
    settle_in(house, "bo", private=True)
    done(house, [{"email": "bo@example.com"}])
    house.wix.groups[GroupId("g-june")] = Group(GroupId("g-june"), "Yoga in June", owner=OWNER)
    other = done(house, [{"email": "bo@example.com"}], name="Yoga in June")
    assert other["group"]["id"] == "g-june"
    assert (other["invited"], [bad["reason"] for bad in other["to_fix"]]) == (1, [INVITED])


def test_a_name_is_asked_for_only_when_the_rest_of_its_row_decides_nothing(house: House):
    for who in ("ana", "bo"):
        settle_in(house, who, first_name=who, last_name="Cruz")
    people = [{"email": "ana@example.com", "name": "Ana Cruz"}, {"contactId": "c-bo", "name": "bo cruz"}]
    previewed(house, people)
    assert called(house, "find_people") == [({"ana@example.com", "c-bo"},)]
    previewed(house, [*people, {"name": "Ana Cruz"}])
    assert len(called(house, "find_people")) == 3


def test_who_accepted_the_invitation_was_in_already(house: House):
    settle_in(house, "bo", private=True)
    group = done(house, [{"email": "bo@example.com"}])["group"]["id"]
    house.wix.memberships[GroupId(group), MemberId("bo")] = Membership("joined")
    assert done(house, [{"email": "bo@example.com"}])["already"] == 1


def test_only_a_group_of_the_same_name_and_creator_is_the_same_group(house: House):
    settle_in(house, "other")
    house.wix.groups[GroupId("g-other")] = Group(GroupId("g-other"), "Yoga in May", owner=MemberId("other"))
    house.wix.groups[GroupId("g-old")] = Group(GroupId("g-old"), "Yoga in May", owner=None)
    result = done(house, members(house, 1))
    assert result["group"]["created"] is True
    assert result["group"]["id"] not in ("g-other", "g-old")


def test_into_an_existing_group_only_those_are_brought_who_are_not_in_it(house: House):
    people = members(house, 3)
    group = GroupId("g-1")
    house.wix.groups[group] = Group(group, "yoga in may", owner=OWNER)
    house.wix.memberships[group, MemberId("m-0001")] = Membership("joined")
    job = previewed(house, people)
    forecast = house.job(job).result
    house.confirm(job)
    result = finished(house, job)

    assert called(house, *WRITES) == [(group, (MemberId("m-0000"), MemberId("m-0002")))]
    assert forecast == result
    assert (result["group"]["created"], result["added"], result["already"]) == (False, 2, 1)
    assert rows(house, job) == {1: ("done", ADDED), 2: ("done", WAS_IN), 3: ("done", ADDED)}


def test_who_left_between_the_preview_and_the_yes_is_brought_back(house: House):
    people = members(house, 1)
    group = GroupId("g-1")
    house.wix.groups[group] = Group(group, "Yoga in May", owner=OWNER)
    house.wix.memberships[group, MemberId("m-0000")] = Membership("joined")
    job = previewed(house, people)
    assert house.job(job).result["already"] == 1
    house.wix.memberships.clear()
    house.confirm(job)
    assert finished(house, job)["added"] == 1


def test_the_creator_may_stand_in_the_list(house: House):
    result = done(house, [{"contactId": f"c-{OWNER}"}, *members(house, 1)])
    assert (result["added"], result["to_fix"]) == (2, [])
    assert called(house, "add_group_members")[0][1] == (MemberId("m-0000"),)


def test_three_hundred_people_cost_no_more_calls_than_the_preview_said(house: House):
    people = members(house, 300)
    job = previewed(house, people)
    preview = len(house.wix.asked)
    house.confirm(job)
    finished(house, job)
    run = house.wix.asked[preview:]

    assert house.job(job).cost["wix_calls"] == len([call for call in run if call[0] != "get_site"]) == 9
    assert [len(call[1]) for call in called(house, "add_group_members")] == [100, 100, 100]
    assert len(called(house, "find_people")) == 3  # a name is not asked for when there is none


def test_the_same_person_is_noticed_hundreds_of_rows_later(house: House):
    people = members(house, 230)
    job = previewed(house, [*people, people[5], people[229]])
    assert [(bad["row"], bad["reason"]) for bad in house.job(job).result["to_fix"]] == [
        (231, "is the same person as row 6"),
        (232, "is the same person as row 230"),
    ]


def test_rows_are_named_by_the_lines_that_they_came_from(house: House):
    settle_in(house, "ana")
    found = read_people(b"email\n\nana@example.com\n\ngone@example.com\nana@example.com\n", name="list.csv")
    job = previewed(house, found.params())
    assert [(bad["row"], bad["reason"]) for bad in house.job(job).result["to_fix"]] == [
        (5, "nobody on the site has this address"),
        (6, "is the same person as row 3"),
    ]
    fixed = read_people(found.to_fix(house.job(job).result["to_fix"]), name="to-fix.csv")
    assert [row.email for row in fixed.rows] == ["gone@example.com", "ana@example.com"]


def test_five_hundred_lines_of_every_kind_of_trouble_come_to_an_end_and_add_up(house: House):
    text, _ = a_long_list()
    for number in range(1, 501, 2):
        settle_in(house, f"p{number}", first_name="Pia", last_name=f"Number{number}", private=number % 7 == 0)
    found = read_people(text.encode(), name="list.csv")
    job = previewed(house, found.params())
    house.confirm(job)
    result = finished(house, job)

    counts = house.counts(job)
    assert counts.total == len(found.rows)
    assert (counts.done, counts.failed, counts.in_doubt) == (result["added"], 0, 0)
    assert counts.skipped == len(result["to_fix"])
    assert result["invited"] == len([bad for bad in result["to_fix"] if bad["reason"] == INVITED]) > 0
    assert len(inside(house, result["group"]["id"])) == result["added"] + 1
    again = done(house, found.params())
    assert (again["added"], again["already"]) == (0, result["added"])


# What may break


def test_a_creator_who_is_no_member_is_refused_in_the_preview(house: House):
    job = previewed(house, members(house, 1), creatorId="m-nobody")
    assert (house.job(job).state, house.job(job).error) == (
        "failed",
        "the creator m-nobody is no member of the site",
    )


@pytest.mark.parametrize("lags", [False, True])
@pytest.mark.parametrize("trouble", [KilledError(), RetryableError("no answer"), RuntimeError("a defect")])
def test_a_group_whose_creation_was_not_heard_of_is_not_created_again(
    house: House, trouble: BaseException, lags: bool
):
    """The group is there, and whoever created it did not live to tell, or Wix did not; for a while no list shows it."""
    people = members(house, 2)
    job = previewed(house, people)
    house.wix.hidden = {"new groups"} if lags else set()
    house.wix.loses["create_group"] = [trouble]  # type: ignore[list-item]
    with contextlib.suppress(KilledError):
        house.confirm(job)
    for _ in range(4):  # in the first 20 s, and by somebody who need not wait for the lease
        with house.database.begin() as tx:
            tx.execute(sa.update(jobs).values(lease=None, next_at=tx.now))
        house.clock.move(seconds=5)
        house.turn()
    house.wix.hidden = set()
    result = finished(house, job)

    assert len(called(house, "create_group")) == 1
    assert len(house.wix.groups) == 2  # with the one that every house has
    assert (result["group"]["created"], result["added"]) == (True, 2)


def test_a_group_that_was_not_created_is_created_at_the_second_try(house: House):
    job = previewed(house, members(house, 2))
    house.wix.fails["create_group"] = [RetryableError("Wix answered 503")]
    house.confirm(job)
    assert finished(house, job)["added"] == 2
    assert len(called(house, "create_group")) == 2


def test_two_jobs_for_the_same_group_at_the_same_time_create_one(house: House):
    people = members(house, 2)
    house.wix.hidden = {"new groups"}
    both = [previewed(house, people), previewed(house, people)]
    for job in both:
        house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    house.turn()
    house.wix.hidden = set()
    results = [finished(house, job) for job in both]

    assert len(called(house, "create_group")) == 1
    assert len({result["group"]["id"] for result in results}) == 1
    assert sorted((result["group"]["created"], result["added"], result["already"]) for result in results) == [
        (False, 0, 2),
        (True, 2, 0),
    ]


def test_what_wix_will_not_create_ends_the_job_with_its_reason(house: House):
    job = previewed(house, members(house, 2))
    house.wix.fails["create_group"] = [PermanentError("createGroup: Wix answered 400")]
    house.confirm(job)
    assert (house.job(job).state, house.job(job).error) == ("failed", "createGroup: Wix answered 400")
    assert {state for state, _ in rows(house, job).values()} == {"skipped"}


def test_whoever_dies_while_people_are_added_leaves_them_to_be_added(house: House):
    job = previewed(house, members(house, 150))
    house.wix.loses["add_group_members"] = [KilledError()]  # type: ignore[list-item]
    with pytest.raises(KilledError):
        house.confirm(job)
    assert finished(house, job)["added"] == 150


@pytest.mark.parametrize("trouble", [KilledError(), RetryableError("no answer")])
def test_an_invitation_of_which_nobody_heard_stays_in_doubt_and_is_not_sent_again(
    house: House, trouble: BaseException
):
    settle_in(house, "bo", private=True)
    job = previewed(house, [{"email": "bo@example.com"}, *members(house, 1)])
    house.wix.breaks[MemberId("bo")] = trouble
    with contextlib.suppress(KilledError):
        house.confirm(job)
    result = finished(house, job)

    assert [asked for _, asked in called(house, "add_group_members")].count(("bo",)) == 1
    assert rows(house, job) == {1: ("in_doubt", UNSURE), 2: ("done", ADDED)}
    assert result["to_fix"] == [{"row": 1, "reason": UNSURE, "candidates": []}]

    again = previewed(house, [{"email": "bo@example.com"}])
    house.confirm(again)
    finished(house, again)
    assert [asked for _, asked in called(house, "add_group_members")].count(("bo",)) == 1


@pytest.mark.parametrize(
    "trouble", [RetryableError("later", retry_after_s=3.0), RetryableError("no room", counts=False)]
)
def test_an_invitation_that_wix_put_off_is_sent_later(house: House, trouble: RetryableError):
    settle_in(house, "bo", private=True)
    job = previewed(house, [{"email": "bo@example.com"}])
    house.wix.fails["add_group_members"] = [trouble]
    house.confirm(job)
    finished(house, job)
    assert rows(house, job) == {1: ("skipped", INVITED)}
    assert len(house.wix.invited) == 1


def test_whom_wix_refuses_is_found_and_holds_nobody_else_up(house: House):
    people = members(house, 120)
    settle_in(house, "bo", private=True)
    job = previewed(house, [*people, {"email": "bo@example.com"}])
    for culprit in ("m-0017", "m-0099", "bo"):
        del house.wix.members[MemberId(culprit)]
    house.confirm(job)
    result = finished(house, job)

    refused = [(bad["row"], bad["reason"]) for bad in result["to_fix"]]
    assert refused == [(row, "addGroupMembers: Wix answered 404") for row in (18, 100, 121)]
    counts = house.counts(job)
    assert (counts.done, counts.failed) == (118, 3)
    assert len(called(house, "add_group_members")) < 60

    settle_in(house, "m-0017")
    house.services.jobs.retry_failed(job, who="tests")
    house.turn()
    assert finished(house, job)["added"] == 119
    assert [bad["row"] for bad in house.job(job).result["to_fix"]] == [100, 121]
    assert len(called(house, "create_group")) == 1


def test_a_group_that_vanishes_meanwhile_ends_the_job_and_blames_nobody(house: House):
    job = previewed(house, members(house, 4))
    house.wix.breaks[MemberId("m-0000")] = NotFoundError("addGroupMembers: Wix answered 404")
    house.wix.vanishes = True
    house.confirm(job)
    assert (house.job(job).state, house.job(job).error) == ("failed", "the group is not there any more")
    assert house.counts(job).failed == 0


def test_a_group_that_was_there_in_the_preview_is_not_created_anew_behind_its_back(house: House):
    people = members(house, 2)
    group = GroupId("g-1")
    house.wix.groups[group] = Group(group, "Yoga in May", owner=OWNER)
    job = previewed(house, people)
    del house.wix.groups[group]
    house.confirm(job)
    assert house.job(job).error == "the group is not there any more: begin anew"
    assert called(house, *WRITES) == []


def test_a_list_of_members_that_lags_is_looked_at_again(house: House):
    job = previewed(house, members(house, 2))
    house.wix.hidden = {"m-0000"}
    house.confirm(job)
    assert rows(house, job) == {1: ("in_doubt", ASKED), 2: ("done", ADDED)}
    house.wix.hidden = set()
    assert finished(house, job)["added"] == 2
    assert len(called(house, "add_group_members")) == 1


def test_whom_wix_took_and_never_lists_is_said_to_be_what_they_are(house: House):
    """One turned private since the preview, one was deleted, of one Wix does not say, and one just is not there."""
    for number, private in ((1, False), (2, False), (3, None), (4, False)):
        settle_in(house, f"p{number}", private=private)
    job = previewed(house, [{"email": f"p{number}@example.com"} for number in range(1, 5)])
    assert house.job(job).result["invited"] == 1
    house.wix.hidden = {"p1", "p2", "p3", "p4"}
    house.confirm(job)
    settle_in(house, "p1", private=True)
    del house.wix.members[MemberId("p2")]
    finished(house, job)
    assert rows(house, job) == {
        1: ("skipped", INVITED),
        2: ("failed", GONE),
        3: ("skipped", INVITED),
        4: ("failed", NOT_LISTED),
    }


def test_a_job_that_is_cancelled_in_the_middle_leaves_the_rest_alone(house: House):
    job = previewed(house, members(house, 250))
    house.wix.loses["add_group_members"] = [KilledError()]  # type: ignore[list-item]
    with pytest.raises(KilledError):
        house.confirm(job)
    house.services.jobs.cancel(job, who="tests")
    house.clock.move(seconds=50)
    house.turn()
    assert {reason for _, reason in rows(house, job).values()} == {"the job was cancelled"}
    assert len(called(house, "add_group_members")) == 1


def test_whom_a_cancelled_job_had_asked_for_is_not_invited_by_the_next_one(house: House):
    people = members(house, 1)
    settle_in(house, "bo", private=True)
    people.append({"email": "bo@example.com"})
    job = previewed(house, people)
    house.wix.hidden = {"m-0000"}  # so that the job waits before it says what came of everybody
    house.confirm(job)
    house.services.jobs.cancel(job, who="tests")
    house.wix.hidden = set()
    house.turn()
    assert rows(house, job)[2] == ("in_doubt", ASKED)

    again = done(house, people)
    assert (again["already"], again["invited"]) == (1, 0)
    assert [(bad["row"], bad["reason"]) for bad in again["to_fix"]] == [(2, INVITED_BEFORE)]
    assert [asked for _, asked in called(house, "add_group_members")].count(("bo",)) == 1


def test_a_job_that_fails_after_it_made_its_group_says_which(house: House):
    job = previewed(house, members(house, 1))
    house.wix.breaks[MemberId("m-0000")] = NotFoundError("addGroupMembers: Wix answered 404")
    house.wix.vanishes = True
    house.confirm(job)
    assert house.job(job).state == "failed"
    made = called(house, "add_group_members")[0][0]
    assert house.job(job).result["group"] == {"id": made, "name": "Yoga in May", "created": True}


def test_a_name_is_the_same_however_its_accents_are_written(house: House):
    first = done(house, members(house, 1), name=unicodedata.normalize("NFD", "Café"))
    again = done(house, members(house, 1), name=unicodedata.normalize("NFC", "Café"))
    assert again["group"]["id"] == first["group"]["id"]
    assert len(called(house, "create_group")) == 1


# Who asks to be forgotten, and what is kept how long

NOTHING = {"private": None, "how": "", "candidates": []}


def forget(house: House, member: str) -> None:
    with house.database.begin() as tx:
        forget_member(tx, SITE, MemberId(member))


def test_who_is_forgotten_before_the_yes_is_not_added_and_holds_nobody_up(house: House):
    job = previewed(house, members(house, 3))
    forget(house, "m-0001")
    assert house.job(job).params["people"][1] == {"row": None}
    house.confirm(job)
    assert finished(house, job)["added"] == 2
    assert called(house, "add_group_members")[0][1] == (MemberId("m-0000"), MemberId("m-0002"))
    assert rows(house, job)[2] == ("skipped", FORGOTTEN)
    assert house.services.jobs.items(job)[1].data == {"row": 2, **NOTHING}


def test_who_is_forgotten_in_the_middle_of_a_preview_holds_nobody_up(house: House):
    given = {"group": NEW, "people": members(house, 150)}
    row, _ = house.services.jobs.create(SITE, "create_group", given, who="tests")
    claimed = house.services.jobs.claim()
    assert claimed is not None
    step = CREATE_GROUP.phases["begin"](claimed.job, house.wix, house.services)
    house.services.jobs.settle(claimed, step, wix_calls=0)
    forget(house, "m-0020")
    house.turn()
    assert house.job(row.id).state == "previewed"
    assert house.job(row.id).result["added"] == 149


def test_an_emptied_row_of_a_list_is_told_as_forgotten(house: House):
    given = {"group": NEW, "people": [{"row": 5}, {"email": "gone@example.com", "row": 7}]}
    row, _ = house.services.jobs.create(SITE, "create_group", given, who="tests")
    house.turn()
    assert house.job(row.id).state == "previewed"
    assert rows(house, row.id)[5] == ("skipped", FORGOTTEN)


def test_who_is_forgotten_while_they_are_in_doubt_is_left_alone(house: House):
    job = previewed(house, members(house, 2))
    house.wix.hidden = {"m-0000"}
    house.confirm(job)
    forget(house, "m-0000")
    house.wix.hidden = set()
    result = finished(house, job)
    assert rows(house, job) == {1: ("skipped", FORGOTTEN), 2: ("done", ADDED)}
    assert (result["added"], [bad["reason"] for bad in result["to_fix"]]) == (1, [FORGOTTEN])


def test_who_is_forgotten_while_wix_is_asked_for_them_stays_forgotten(house: House):
    job = previewed(house, members(house, 2))
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    claimed = house.services.jobs.claim()
    while claimed is not None and claimed.job.phase != "add":
        step = CREATE_GROUP.phases[claimed.job.phase](claimed.job, house.wix, house.services)
        house.services.jobs.settle(claimed, step, wix_calls=0)
        claimed = house.services.jobs.claim()
    assert claimed is not None
    step = CREATE_GROUP.phases["add"](claimed.job, house.wix, house.services)
    forget(house, "m-0000")
    house.services.jobs.settle(claimed, step, wix_calls=0)
    assert rows(house, job) == {1: ("skipped", FORGOTTEN), 2: ("in_doubt", ASKED)}


def test_who_is_forgotten_after_wix_refused_them_is_not_tried_again(house: House):
    job = previewed(house, members(house, 2))
    member = house.wix.members.pop(MemberId("m-0000"))
    house.confirm(job)
    assert house.counts(job).failed == 1
    house.wix.members[member.id] = member
    forget(house, member.id)
    with pytest.raises(WrongStateError, match="nothing of this job failed"):
        house.services.jobs.retry_failed(job, who="tests")


@pytest.mark.parametrize("lines", [[1, 1, 2], [3, 2, 1], [None, 1, 2], [None, None, None]])
def test_of_a_list_just_the_entry_of_the_forgotten_goes(house: House, lines: list[int | None]):
    people = [{**person, "row": line} for person, line in zip(members(house, 3), lines, strict=True)]
    job = previewed(house, people)
    for forgotten in (1, 2):
        forget(house, f"m-{forgotten:04}")
        kept = [person.get("email") for person in house.job(job).params["people"]]
        assert kept == [None if 1 <= place <= forgotten else people[place]["email"] for place in range(3)]


def test_a_namesake_who_is_forgotten_is_no_candidate_any_more(house: House):
    for twin in ("ida-1", "ida-2"):
        settle_in(house, twin, nickname="Ida")
    settle_in(house, "ida-10", nickname="Ida")
    job = previewed(house, [{"name": "Ida"}, *members(house, 1)])
    forget(house, "ida-1")

    (entry,) = house.job(job).result["to_fix"]
    (item, _) = house.services.jobs.items(job)
    for candidates in (entry["candidates"], item.data["candidates"]):
        assert [each["member"] for each in candidates] == ["ida-2", "ida-10"]
    assert house.job(job).params["people"][0]["name"] == "Ida"


def test_an_old_job_keeps_no_personal_data_and_what_failed_can_still_be_done(house: House):
    for twin in ("ida-1", "ida-2"):
        settle_in(house, twin, nickname="Ida")
    job = previewed(house, [*members(house, 2), {"name": "Ida"}])
    member = house.wix.members.pop(MemberId("m-0000"))
    house.confirm(job)
    finished(house, job)
    house.clock.move(days=31)
    house.turn()
    assert (house.job(job).params["people"], house.job(job).result["to_fix"]) == ([], [])
    kept = [item.data for item in house.services.jobs.items(job)]
    assert kept[0] == {"row": 1, "how": "by address", "private": False, "candidates": []}
    assert kept[2] == {"row": 3, **NOTHING}

    house.wix.members[member.id] = member
    house.services.jobs.retry_failed(job, who="tests")
    house.turn()
    assert finished(house, job)["added"] == 2


def test_what_is_retried_in_the_moment_in_which_it_is_tidied_goes_on(house: House):
    job = previewed(house, members(house, 2))
    member = house.wix.members.pop(MemberId("m-0000"))
    house.confirm(job)
    finished(house, job)
    house.wix.members[member.id] = member
    house.clock.move(days=31)
    claimed = house.services.jobs.claim()
    assert claimed is not None
    house.services.jobs.retry_failed(job, who="tests")
    house.services.jobs.tidy(claimed)
    house.turn()
    assert finished(house, job)["added"] == 2
    assert len(house.job(job).params["people"]) == 2


def test_no_name_address_or_number_stands_in_the_rows_of_a_job(house: House):
    settle_in(house, "ana", first_name="Ana", last_name="Cruz", email="secret@example.com")
    settle_in(house, "ida", first_name="Ana", last_name="Cruz", email="hidden@example.com")
    job = previewed(house, [{"name": "Ana Cruz"}, {"email": "secret@example.com"}])
    stored = repr([(item, item.data) for item in house.services.jobs.items(job)])
    for secret in ("secret@", "hidden@", "Cruz"):
        assert secret not in stored


@pytest.mark.parametrize("refused", [[], ["contacts_v5"]])
def test_before_the_sandbox_it_is_the_same(database: Database, clock: Clock, refused: list[str]):
    """The client that asks Wix, in both of its ways to find people; a second run only reads there too."""
    community = load_community(
        {
            "members": [
                {"first": "Ada", "last": "Lindqvist", "email": "ada@example.com", "phone": "+12025550101"},
                {
                    "first": "Ben",
                    "last": "Okafor",
                    "email": "ben@example.com",
                    "other_emails": ["bw@example.com"],
                },
                {
                    "first": "Chloé",
                    "last": "Martin",
                    "email": "chloe@example.com",
                    "privacyStatus": "PRIVATE",
                },
                {"first": "Dmitri", "last": "Sokolov", "email": "dmitri@example.com"},
                {"first": "Eve", "last": "Adams", "email": "eve@example.com"},
                {"first": "Eve", "last": "Adams", "email": "eve2@example.com"},
            ],
            "contacts": [{"first": "Paula", "last": "Visitor", "email": "paula@example.com"}],
        },
        now=clock,
    )
    sandbox = Sandbox(community, keys=Keys.generate())
    sandbox.switches = patched(sandbox.switches, {"rate_limit_per_minute": 0, "refuse_app_tokens": refused})
    ids = {member.email: member.id for member in community.members.values()}
    text = (
        "Contact ID;E-Mail;Phone;Name\n"
        f"{community.members[ids['dmitri@example.com']].contact.id};;;\n"
        ";BW@example.com;;\n;;+1 202 555 0101;\n;;;CHLOÉ martin\n;;;Eve Adams\n"
        ";paula@example.com;;\n;;;Nobody\n;ben@example.com;;\n"
    )
    with start_blocking_portal() as portal:
        client = WixClient(
            "http://sandbox",
            community.site.app_id,
            APP_SECRET,
            calls_per_minute=60_000,
            transport=InOneLoop(sandbox, portal),
        )
        made = a_house(database, clock)
        house = dataclasses.replace(made, services=dataclasses.replace(made.services, wix=client))
        params = {
            "group": NEW | {"creatorId": ids["ada@example.com"]},
            "people": read_people(text.encode(), name="list.csv").params(),
        }
        found = []
        for _ in range(2):
            row, _ = house.services.jobs.create(
                SiteId(community.site.instance_id), "create_group", params, who="t"
            )
            house.turn()
            house.confirm(row.id)
            found.append(finished(house, row.id))
        portal.call(sandbox.close)
    first, second = found

    (group,) = community.groups.values()
    assert set(group.members) == {ids[f"{name}@example.com"] for name in ("ada", "ben", "dmitri")}
    assert group.invited == {ids["chloe@example.com"]}
    assert (first["added"], first["already"], first["invited"]) == (3, 0, 1)
    assert [(bad["row"], bad["reason"]) for bad in first["to_fix"]] == [
        (5, INVITED),
        (6, "2 people have this name"),
        (7, "is a contact without an account on the site, so no group can take them"),
        (8, "nobody on the site has this name"),
        (9, "is the same person as row 3"),
    ]
    assert (second["added"], second["already"], second["invited"]) == (0, 3, 0)
    assert second["group"] == {"id": group.id, "name": "Yoga in May", "created": False}
