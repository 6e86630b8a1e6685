"""One contract for everything that stands for Wix: the dictionary of the tests, and the client before the sandbox.

The client looks people up in either of its ways; the sandbox refuses the first one where the second is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from core.community import Group, GroupId, Member, MemberId, Membership, Person, Question, Rule, SiteId
from core.errors import NotFoundError, PermanentError
from core.ports import WixPort
from integrations.wix.client import WixClient
from sandbox.app import create_app
from sandbox.house import APP_SECRET, Sandbox
from sandbox.loading import load_community
from sandbox.sender import Keys
from sandbox.switches import patched
from tests.house import FakeWix

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)
NOBODY = "00000000-0000-4000-8000-000000000000"
PEOPLE = [
    {"first": "Ada", "last": "Lindqvist", "email": "Ada@example.com", "phone": "+12025550101"},
    {"first": "Ben", "last": "Okafor", "email": "ben@example.com", "phone": "+12025550102",
     "other_emails": ["bens.work@example.com"], "other_phones": ["+12025550109"]},
    {"first": "Chloé", "last": "Martin", "email": "chloe@example.com", "privacyStatus": "PRIVATE"},
    {"first": "Ben", "last": "Okafor", "email": "other.ben@example.com", "phone": "+12025550109"},
    {"first": "Dmitri", "last": "Sokolov", "email": "dmitri@example.com", "nickname": "Sunny Ray"},
]  # fmt: skip
CONTACTS = [
    {
        "first": "Paula",
        "last": "Visitor",
        "email": "paula@example.com",
        "other_emails": ["bens.work@example.com"],
    }
]


@dataclass
class World:
    """A community of a few people with a name, and of many with none; ids by their names."""

    wix: WixPort
    site: SiteId
    groups: dict[str, GroupId]
    members: dict[str, MemberId]
    contacts: dict[str, str]


class InOneLoop(httpx.BaseTransport):
    """The sandbox for a client that knows no event loop."""

    def __init__(self, sandbox: Sandbox, portal: BlockingPortal) -> None:
        self._app = httpx.ASGITransport(create_app(sandbox))
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._app.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


def a_community(keys: Keys) -> Sandbox:
    names = ["Everybody", *(f"Group {number}" for number in range(249))]
    crowd = [{"first": "", "last": "", "email": f"p{n}@example.com"} for n in range(249)]
    data = {
        "members": [*PEOPLE, *crowd],
        "contacts": CONTACTS,
        "groups": [
            {"name": name, "privacy": "PUBLIC", "owner": "ada@example.com", "created": "2026-01-01T00:00:00Z"}
            for name in names
        ],
        "memberships": [
            {
                "group": "Everybody",
                "member": row["email"],
                "joined": (NOON + timedelta(minutes=n)).isoformat(),
            }
            for n, row in enumerate(crowd)
        ],
    }
    return Sandbox(load_community(data, now=lambda: NOON), keys=keys)


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate()


@pytest.fixture(params=["fake", "search", "queries"])
def world(request: pytest.FixtureRequest, keys: Keys) -> Iterator[World]:
    sandbox = a_community(keys)
    community = sandbox.community
    sandbox.switches = patched(sandbox.switches, {"rate_limit_per_minute": 0})
    ids = {
        "groups": {group.name: GroupId(group.id) for group in community.groups.values()},
        "members": {member.email: MemberId(member.id) for member in community.members.values()},
        "contacts": {contact.emails[0]: contact.id for contact in community.contacts.values()},
    }
    site = SiteId(community.site.instance_id)
    if request.param == "fake":
        yield World(as_a_dictionary(sandbox), site, **ids)
        return
    if request.param == "queries":
        sandbox.switches = patched(sandbox.switches, {"refuse_app_tokens": ["contacts_v5"]})
    with start_blocking_portal() as portal:
        client = WixClient(
            "http://sandbox",
            community.site.app_id,
            APP_SECRET,
            calls_per_minute=60_000,
            transport=InOneLoop(sandbox, portal),
        )
        yield World(client, site, **ids)
        portal.call(sandbox.close)


def as_a_dictionary(sandbox: Sandbox) -> FakeWix:
    community = sandbox.community
    members = {
        MemberId(found.id): Member(
            MemberId(found.id),
            found.status,
            found.email,
            found.contact.first,
            found.nickname,
            last_name=found.contact.last,
            contact=found.contact.id,
            private=found.privacy == "PRIVATE",
            since=found.created,
        )
        for found in community.members.values()
    }
    by_contact = {member.contact: member for member in members.values()}
    return FakeWix(
        groups={
            GroupId(group.id): Group(
                GroupId(group.id),
                group.name,
                group.privacy,
                created_at=group.created,
                owner=MemberId(group.owner_id),
                last_activity=group.last_activity,
            )
            for group in community.groups.values()
        },
        members=members,
        memberships={
            (GroupId(group.id), MemberId(member.member_id)): Membership("joined", member.role, member.joined)
            for group in community.groups.values()
            for member in group.members.values()
        },
        people=[
            Person(
                contact.id,
                by_contact.get(contact.id),
                frozenset(email.lower() for email in contact.emails),
                frozenset(contact.phones),
                contact.first,
                contact.last,
            )
            for contact in community.contacts.values()
        ],
    )


def test_groups_come_in_pages_of_a_hundred_each_once(world: World):
    pages, offset = [], 0
    while offset is not None:
        page = world.wix.groups_page(world.site, offset)
        pages.append(page)
        offset = page.next_offset

    assert [(len(page.items), page.total) for page in pages] == [(100, 250), (100, 250), (50, 250)]
    groups = {group.id: group for page in pages for group in page.items}
    assert set(groups) == set(world.groups.values())
    everybody = groups[world.groups["Everybody"]]
    assert (everybody.members, everybody.owner) == (250, world.members["Ada@example.com"])
    assert everybody.last_activity == everybody.created_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_members_come_in_pages_of_a_hundred_newest_first(world: World):
    group = world.groups["Everybody"]

    pages = [world.wix.group_members_page(world.site, group, offset) for offset in (0, 100, 200)]

    assert [page.next_offset for page in pages] == [100, 200, None]
    assert {page.total for page in pages} == {250}
    rows = [row for page in pages for row in page.items]
    assert rows[0] == (
        world.members["p248@example.com"],
        Membership("joined", "MEMBER", NOON + timedelta(minutes=248)),
    )
    assert rows[-1][0] == world.members["Ada@example.com"]
    assert len(dict(rows)) == 250
    with pytest.raises(NotFoundError):
        world.wix.group_members_page(world.site, GroupId(NOBODY), 0)


def test_people_are_found_by_contact_address_phone_and_name(world: World):
    def found(**keys: list[str] | list[tuple[str, str]]) -> set[str]:
        people = world.wix.find_people(world.site, **keys)  # type: ignore[arg-type]
        assert len(people) == len({person.contact for person in people}), "each once"
        return {person.member.email if person.member else f"contact {person.first_name}" for person in people}

    assert found(contacts=[world.contacts["ben@example.com"], NOBODY]) == {"ben@example.com"}
    assert found(contacts=[world.contacts["paula@example.com"]]) == {"contact Paula"}
    asked = ["Ada@example.com", "BEN@example.com", "nobody@example.com"]
    assert found(emails=asked) == {"Ada@example.com", "ben@example.com"}
    assert found(emails=["bens.work@example.com"]) == {"ben@example.com", "contact Paula"}
    assert found(phones=["+12025550101", "+12025550100"]) == {"Ada@example.com"}
    assert found(phones=["+12025550109"]) == {"ben@example.com", "other.ben@example.com"}
    assert found(names=[("ADA", "lindqvist"), ("Ada", "Okafor")]) == {"Ada@example.com"}
    assert found(names=[("Ben", "Okafor")]) == {"ben@example.com", "other.ben@example.com"}
    assert found(names=[("Sunny", "Ray")]) == found(names=[("Sunny Ray", "")]) == {"dmitri@example.com"}
    assert found() == set()


def test_a_person_says_all_that_a_choice_needs(world: World):
    emails = ["chloe@example.com", "ben@example.com"]

    by_name = {person.first_name: person for person in world.wix.find_people(world.site, emails=emails)}

    chloe, ben = by_name["Chloé"], by_name["Ben"]
    assert chloe.contact == world.contacts["chloe@example.com"]
    assert chloe.member == Member(
        world.members["chloe@example.com"],
        "APPROVED",
        "chloe@example.com",
        "Chloé",
        "Chloé Martin",
        last_name="Martin",
        contact=chloe.contact,
        private=True,
        since=datetime(2026, 2, 2, 12, tzinfo=UTC),
    )
    assert (ben.emails, ben.phones) == (
        {"ben@example.com", "bens.work@example.com"},
        {"+12025550102", "+12025550109"},
    )


def test_a_new_group_holds_its_creator_and_takes_public_profiles_in(world: World):
    wix, members = world.wix, world.members
    ada, ben, chloe = (members[name] for name in ("Ada@example.com", "ben@example.com", "chloe@example.com"))

    group = wix.create_group(
        world.site, "Course A", privacy="PRIVATE", creator=ada, description="On Mondays."
    )
    for _ in range(2):
        wix.add_group_members(world.site, group.id, [ben, chloe])

    assert (group.name, group.privacy, group.owner, group.members) == ("Course A", "PRIVATE", ada, 1)
    page = wix.group_members_page(world.site, group.id, 0)
    assert {member: standing.role for member, standing in page.items} == {ada: "ADMIN", ben: "MEMBER"}
    assert group.id in {found.id for found in wix.list_groups(world.site)}


def test_nobody_is_added_when_one_of_them_is_unknown(world: World):
    group = world.groups["Group 1"]

    with pytest.raises(NotFoundError):
        world.wix.add_group_members(world.site, group, [world.members["ben@example.com"], MemberId(NOBODY)])
    with pytest.raises(PermanentError):
        world.wix.create_group(world.site, "Course A", privacy="PUBLIC", creator=MemberId(NOBODY))

    assert len(world.wix.group_members_page(world.site, group, 0).items) == 1


def test_rules_are_replaced_all_at_once(world: World):
    group, rules = world.groups["Group 1"], (Rule("Be kind", "No attacks."), Rule("No spam"))

    assert world.wix.list_rules(world.site, group) == ()
    world.wix.replace_rules(world.site, group, rules)
    assert world.wix.list_rules(world.site, group) == rules
    world.wix.replace_rules(world.site, group, [])
    assert world.wix.list_rules(world.site, group) == ()


def test_questions_are_replaced_all_at_once(world: World):
    group, questions = world.groups["Group 1"], (Question("Which class?", True), Question("Anything else?"))

    assert world.wix.list_questions(world.site, group) == ()
    world.wix.replace_questions(world.site, group, questions)
    assert world.wix.list_questions(world.site, group) == questions
    world.wix.replace_questions(world.site, group, [])
    assert world.wix.list_questions(world.site, group) == ()


def test_a_group_that_is_gone_is_not_found(world: World):
    gone = GroupId(NOBODY)

    for ask in (
        lambda: world.wix.list_rules(world.site, gone),
        lambda: world.wix.replace_rules(world.site, gone, [Rule("Be kind")]),
        lambda: world.wix.list_questions(world.site, gone),
        lambda: world.wix.replace_questions(world.site, gone, [Question("Why?")]),
        lambda: world.wix.add_group_members(world.site, gone, [world.members["ben@example.com"]]),
    ):
        with pytest.raises(NotFoundError):
            ask()
