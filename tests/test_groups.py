"""Groups beside each other: what an office makes of Wix's list and of what was counted, over the API too."""

from __future__ import annotations

import json
from datetime import date, timedelta

import httpx
import pytest
from starlette.applications import Starlette

from admin.api import Limiter, admin_api
from admin.groups import print_groups
from admin.office import Office
from admin.office import groups as office_groups
from core.community import Group, GroupId, SiteId
from core.errors import ForbiddenError, NotThereError, RetryableError
from core.rollout import alike, diff
from integrations.people_list import list_again, read_people
from integrations.store.database import Database
from integrations.store.group_days import GroupDays
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.tokens import Holder, Role, Tokens
from tests.house import RUNNERS, SITE, Clock, House, a_house
from tests.test_admin_api import TOKEN, Counter, problem
from tests.test_report_job import a_letter

OWNER = Holder("t", "tests", Role.OWNER, EVERYTHING)


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    return a_house(database, clock)


def groups_of(house: House, **sizes: int | None) -> None:
    house.wix.groups = {
        GroupId(name): Group(GroupId(name), name, "PUBLIC", size) for name, size in sizes.items()
    }


def counter(house: House) -> Counter:
    office = Office.of_services(house.services, house.database)
    return Counter(Starlette(routes=[admin_api(TOKEN, office, Limiter())]))


def standings(house: House, holder: Holder = OWNER) -> dict[str, office_groups.Standing]:
    office = Office.of_services(house.services, house.database)
    return {one.group.name: one for one in office_groups.list_groups(office, holder, SITE)}


def test_of_a_group_whose_size_wix_does_not_say_no_growth_is_known(house: House, clock: Clock):
    clock.move(days=-3)
    GroupDays(house.database).note(SITE, [Group(RUNNERS, "Trail Runners", members=3)])
    clock.move(days=3)
    office = Office.of_services(house.services, house.database)
    [one] = office_groups.list_groups(office, OWNER, SITE, [Group(RUNNERS, "Trail Runners")])
    assert (one.change, one.popular) == (None, False)


@pytest.mark.parametrize(
    ("sizes", "popular"),
    [
        ({"a": 3}, {"a"}),
        ({"a": 3, "b": 2}, {"a"}),
        ({"a": 3, "b": 3, "c": 1}, {"a", "b"}),
        ({f"g{n:02}": n for n in range(1, 21)}, {"g19", "g20"}),
        ({f"g{n:02}": n for n in range(1, 22)}, {"g19", "g20", "g21"}),
        ({"a": 0, "b": 0}, set()),
        ({**{f"g{n}": 0 for n in range(40)}, "b": 2}, {"b"}),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_largest_tenth_is_popular(house: House, sizes: dict[str, int | None], popular: set[str]):
    groups_of(house, **sizes)
    assert {name for name, one in standings(house).items() if one.popular} == popular
    mine = Holder("t", "tests", Role.GROUP_ADMIN, Reach(groups=frozenset(sizes)))
    assert not any(one.popular for one in standings(house, mine).values())


def test_growth_is_counted_from_the_first_day_within_thirty(house: House, clock: Clock):
    days = GroupDays(house.database)
    for ago, sizes in (
        (40, {"a": 1, "b": 1}),
        (29, {"a": 10}),
        (3, {"a": 50, "b": 9}),
        (0, {"a": 12, "b": 9}),
    ):
        clock.move(days=-ago)
        days.note(SITE, [Group(GroupId(name), name, members=size) for name, size in sizes.items()])
        clock.move(days=ago)
    groups_of(house, a=13, b=9)
    assert {name: one.change for name, one in standings(house).items()} == {"a": 3, "b": 9}
    assert days.sizes(SITE, GroupId("a"), 90) == [
        (date(2026, 3, 24), 1), (date(2026, 4, 4), 10), (date(2026, 4, 30), 50), (date(2026, 5, 3), 12),
    ]  # fmt: skip
    assert days.sizes(SITE, GroupId("a"), 30)[0] == (date(2026, 4, 4), 10)
    assert days.sizes_since(SITE, 2) is None
    assert days.sizes_since(SiteId("another"), 90) is None


def test_letters_are_those_that_went_out_within_thirty_days(house: House):
    for number, (state, age) in enumerate(
        (("sent", 1), ("bounced", 29), ("skipped", 1), ("planned", 1), ("sent", 31))
    ):
        a_letter(house, f"m{number}", state, age_days=age)
    house.wix.groups[GroupId("other")] = Group(GroupId("other"), "Other")
    assert {name: one.letters for name, one in standings(house).items()} == {"Trail Runners": 2, "Other": 0}


def test_letters_of_a_job_that_nobody_confirmed_are_none(house: House):
    a_letter(house, "m1", "skipped", reason="unsubscribed")
    house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    office = Office.of_services(house.services, house.database)
    figures = office_groups.figures_of(office, SITE, house.wix.groups[RUNNERS])
    assert (figures.letters, figures.refusals) == ({"skipped": 1}, [("skipped", "unsubscribed", 1)])
    assert figures.sizes == [], "Wix does not say how many there are"


def test_the_same_group_of_another_site_is_not_counted(house: House):
    a_letter(house, "m1", site="another-site")
    GroupDays(house.database).note(SiteId("another-site"), [Group(RUNNERS, "Trail Runners", members=3)])
    assert standings(house)["Trail Runners"].letters == 0
    assert GroupDays(house.database).sizes(SITE, RUNNERS, 90) == []


# Over the API


def test_the_api_lists_groups_in_pages(house: House):
    groups_of(house, **{f"g{number}": number for number in range(5)})
    api = counter(house)
    first = api.get("/api/v1/groups", site=SITE, order="members", limit="2").json()
    assert [item["id"] for item in first["items"]] == ["g4", "g3"]
    assert first["items"][0] == {
        "id": "g4", "name": "g4", "privacy": "PUBLIC", "members": 4, "letters": 0, "idle": True, "popular": True,
    }  # fmt: skip
    second = api.get("/api/v1/groups", site=SITE, order="members", limit="2", cursor=first["next"]).json()
    last = api.get("/api/v1/groups", site=SITE, order="members", limit="2", cursor=second["next"]).json()
    assert ([item["id"] for item in last["items"]], last["next"]) == (["g0"], None)


def test_the_api_keeps_to_the_reach_of_a_token(house: House):
    house.wix.groups[GroupId("other")] = Group(GroupId("other"), "Other")
    tokens = Tokens(house.database)
    mine, _ = tokens.create("mine", Role.GROUP_ADMIN, sites=[SITE], groups=[RUNNERS], who="a test")
    elsewhere, _ = tokens.create("elsewhere", Role.MANAGER, sites=["another-site"], who="a test")
    api = counter(house)

    def ask(token: str, **query: str) -> httpx.Response:
        return api.ask("GET", "/api/v1/groups", params=query, headers={"Authorization": f"Bearer {token}"})

    [only] = ask(mine, site=SITE).json()["items"]
    assert (only["id"], "popular" in only) == (RUNNERS, False)
    problem(ask(elsewhere, site=SITE), 404)
    problem(ask(TOKEN), 422)
    problem(ask(TOKEN, site=SITE, order="luck"), 422)


@pytest.mark.parametrize(("error", "status"), [(RetryableError("503"), 503), (ForbiddenError("403"), 502)])
def test_the_api_says_when_wix_does_not_answer(house: House, error: Exception, status: int):
    house.wix.fails["list_groups"] = [error]
    problem(counter(house).get("/api/v1/groups", site=SITE), status)


# On the command line


def test_the_command_line_lists_groups_as_a_table_and_as_the_api_does(
    house: House, capsys: pytest.CaptureFixture[str]
):
    house.wix.groups = {
        RUNNERS: Group(RUNNERS, "Trail Runners", "PUBLIC", 12, last_activity=house.clock()),
        GroupId("old"): Group(GroupId("old"), "Old Boats", "SECRET", 3),
    }
    office = Office.of_services(house.services, house.database)
    print_groups(office, SITE, "members", as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0][:3] == ["Group", "Id", "Privacy"]
    assert lines[2:] == [
        ["Trail", "Runners", RUNNERS, "PUBLIC", "12", "2026-05-03", "0", "popular"],
        ["Old", "Boats", "old", "SECRET", "3", "0", "idle"],
    ]
    print_groups(office, SITE, "name", as_json=True)
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == ["old", RUNNERS]


# Lists and rollouts


def test_a_list_can_be_given_again_without_its_file(house: House):
    people = [{"name": "Ida Lund", "row": 4}, {"email": "no@example.com", "phone": "+12025550101", "row": 7}]
    candidates = [{"member": "m-1", "contact": "c-1", "address": "i…@example.com", "since": "2024-05-03"}]
    file = list_again(people).to_fix([
        {"row": 4, "reason": "2 people have this name", "candidates": candidates},
        {"row": 7, "reason": "nobody", "candidates": []},
    ])  # fmt: skip
    assert "c-1 (member m-1, i…@example.com, since 2024-05-03)" in file.decode("utf-8-sig")
    again = read_people(file, name="the file")
    assert [(row.name, row.email, row.phone) for row in again.rows] == [
        ("Ida Lund", "", ""),
        ("", "no@example.com", "+12025550101"),
    ]
    assert not again.unreadable


def test_a_list_that_no_job_has_looked_through_has_nothing_to_fix_yet(house: House):
    office = Office.of_services(house.services, house.database)
    group = {"name": "Club", "creatorId": "m-ann"}
    params = {"group": group, "people": [{"name": "Ida"}]}
    row, _ = house.services.jobs.create(SITE, "create_group", params, who="tests")
    with pytest.raises(Exception, match="has not looked for everybody yet"):
        office_groups.list_to_fix(office, OWNER, row.id)
    with pytest.raises(NotThereError):
        office_groups.list_to_fix(office, OWNER, "0" * 32)


def test_equal_changes_are_told_once():
    from core.community import Rule

    one, other = diff([], [Rule("Be kind")]), diff([Rule("Be late")], [Rule("Be kind")])
    assert alike([("a", one), ("b", other), ("c", one)]) == [(one, ["a", "c"]), (other, ["b"])]


def test_only_days_before_today_stand_before_what_wix_says_now(house: House, clock: Clock):
    days = GroupDays(house.database)
    for ago, size in ((2, 5), (0, 6)):
        clock.move(days=-ago)
        days.note(SITE, [Group(RUNNERS, "Trail Runners", members=size)])
        clock.move(days=ago)
    office = Office.of_services(house.services, house.database)
    figures = office_groups.figures_of(office, SITE, Group(RUNNERS, "Trail Runners", members=7))
    today = clock().date()
    assert figures.sizes == [(today - timedelta(days=2), 5), (today, 7)]
