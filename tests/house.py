"""A house for the work to be done in: our own services over real stores, with fakes only at our own doors."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

from redis import Redis

from admin.processes import TEMPLATES
from core import events
from core.community import (
    Answer,
    Group,
    GroupId,
    Member,
    MemberId,
    Membership,
    Person,
    Question,
    Rule,
    Site,
    SiteId,
    Slice,
    Subscription,
)
from core.errors import NotFoundError
from core.events import Event, EventId
from core.gate import Clearance, Send, decide_trial
from core.jobs import Counts
from core.matching import fold
from core.pacing import Limits
from core.ports import MailPort, WixPort
from integrations.email.pacing import Pacer, Slots
from integrations.email.render import Renderer
from integrations.email.return_path import ReturnPaths
from integrations.email.unsubscribe import AddressHashes, UnsubscribeTokens
from integrations.shared import SharedRedis
from integrations.store.book import Book, File
from integrations.store.database import Database
from integrations.store.group_days import GroupDays
from integrations.store.jobs import Jobs
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.mailings import Mailings
from integrations.store.outbox import Outbox
from integrations.store.senders import Senders
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.store.watches import Watches
from tasks.events import run_events
from tasks.jobs.params import PARAMS
from tasks.letters import deliver_letters
from tasks.outbox import pay_outbox
from tasks.routes import ROUTES
from tasks.services import Services
from tasks.turn import anything_due, take_turn
from tasks.writing import Letterhead

SITE = SiteId("7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11")
RUNNERS = GroupId("9e2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a52")
ANN = MemberId("m-ann")
SECRET = "a secret of the tests"
SENDER = "usher@club.example.com"

T = TypeVar("T")


class Clock:
    """A time that moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class FakeWix(WixPort):
    """Wix as a dictionary. `fails` holds errors to raise, one for each coming call of the method it names; `loses`
    those to raise when the call has taken effect; `failing_groups` those that every call about a group raises.

    `people` are found beside the members, of whom there need be no more than their entry in `members`.
    """

    groups: dict[GroupId, Group] = field(default_factory=lambda: {RUNNERS: Group(RUNNERS, "Trail Runners")})
    members: dict[MemberId, Member] = field(
        default_factory=lambda: {ANN: Member(ANN, "APPROVED", "ann@example.com", "Ann")}
    )
    memberships: dict[tuple[GroupId, MemberId], Membership] = field(
        default_factory=lambda: {(RUNNERS, ANN): Membership("joined")}
    )
    answers: dict[tuple[GroupId, MemberId], tuple[Answer, ...]] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(
        default_factory=lambda: {"ann@example.com": Subscription("SUBSCRIBED", "VALID")}
    )
    rules: dict[GroupId, tuple[Rule, ...]] = field(default_factory=dict)
    questions: dict[GroupId, tuple[Question, ...]] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    invited: set[tuple[GroupId, MemberId]] = field(default_factory=set)
    fails: dict[str, list[Exception]] = field(default_factory=dict)
    loses: dict[str, list[Exception]] = field(default_factory=dict)
    failing_groups: dict[GroupId, Exception] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    calls: int = 0
    totals: bool = True
    """Whether a page says how many rows there are in all."""

    def _ask(self, name: str, *arguments: Any) -> None:
        self.calls += 1
        self.asked.append((name, *arguments))
        if waiting := self.fails.get(name):
            raise waiting.pop(0)
        if arguments and isinstance(arguments[0], str) and arguments[0] in self.failing_groups:
            raise self.failing_groups[GroupId(arguments[0])]

    def _answer(self, name: str) -> None:
        if waiting := self.loses.get(name):
            raise waiting.pop(0)

    def _require(self, group: GroupId) -> None:
        if group not in self.groups:
            raise NotFoundError("Wix answered 404")

    def get_site(self, site: SiteId) -> Site:
        self._ask("get_site")
        return Site(site, "Seaside Club", "https://club.example.com", "en")

    def get_group(self, site: SiteId, group: GroupId) -> Group | None:
        self._ask("get_group", group)
        known = self.groups.get(group)
        return next(self._counted([known])) if known else None

    def for_bulk(self, wait: Callable[[float], bool] | None = None) -> FakeWix:
        return replace(self, calls=0)

    def list_groups(self, site: SiteId) -> Iterator[Group]:
        """With as many members as there are, unless the group says otherwise."""
        self._ask("list_groups")
        yield from self._counted(self.groups.values())

    def _counted(self, groups: Iterable[Group]) -> Iterator[Group]:
        inside = Counter(
            where for (where, _), standing in self.memberships.items() if standing.status == "joined"
        )
        for group in list(groups):
            yield replace(group, members=inside[group.id] if group.members is None else group.members)

    def list_group_members(self, site: SiteId, group: GroupId) -> Iterator[tuple[MemberId, Membership]]:
        self._ask("list_group_members", group)
        yield from self._page_by_page("list_group_members", group, self._listed(group, "joined"))

    def list_join_requests(self, site: SiteId, group: GroupId) -> Iterator[tuple[MemberId, datetime | None]]:
        """`joined_at` of a pending membership stands for the date of the request."""
        self._ask("list_join_requests", group)
        rows = [(member, standing.joined_at) for member, standing in self._listed(group, "pending")]
        yield from self._page_by_page("list_join_requests", group, rows)

    def _listed(self, group: GroupId, status: str) -> list[tuple[MemberId, Membership]]:
        """Newest first, as far as it is known when they came."""
        rows = [
            (member, standing)
            for (where, member), standing in self.memberships.items()
            if where == group and standing.status == status
        ]
        return sorted(
            rows, key=lambda row: row[1].joined_at or datetime.min.replace(tzinfo=UTC), reverse=True
        )

    def _page_by_page(self, name: str, group: GroupId, rows: list[T]) -> Iterator[T]:
        for number, row in enumerate(rows):
            if number and number % 100 == 0:
                self._ask(name, group)
            yield row

    def get_membership(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        self._ask("get_membership", group, member)
        return self.memberships.get((group, member), Membership("none"))

    def get_joined_at(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        self._ask("get_joined_at", group, member)
        return self.memberships.get((group, member), Membership("none"))

    def list_answers(
        self, site: SiteId, group: GroupId, members: Iterable[MemberId]
    ) -> Mapping[MemberId, tuple[Answer, ...]]:
        self._ask("list_answers", group)
        return {member: self.answers[group, member] for member in members if (group, member) in self.answers}

    def get_members(self, site: SiteId, members: Iterable[MemberId]) -> Mapping[MemberId, Member]:
        asked = set(members)
        self._ask("get_members", asked)
        return {member: self.members[member] for member in asked if member in self.members}

    def get_subscriptions(self, site: SiteId, emails: Iterable[str]) -> Mapping[str, Subscription]:
        asked = {email.lower() for email in emails}
        self._ask("get_subscriptions", asked)
        return {email: self.subscriptions[email] for email in asked if email in self.subscriptions}

    def approve_requests(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None:
        self._ask("approve_requests", group, tuple(members))

    def reject_requests(self, site: SiteId, group: GroupId, members: Iterable[MemberId], reason: str) -> None:
        self._ask("reject_requests", group, tuple(members), reason)

    def set_subscription(
        self, site: SiteId, email: str, *, status: str = "", deliverability: str = ""
    ) -> None:
        self._ask("set_subscription", email, status, deliverability)

    def groups_page(self, site: SiteId, offset: int) -> Slice[Group]:
        self._ask("groups_page", offset)
        return self._slice(list(self._counted(self.groups.values())), offset)

    def group_members_page(
        self, site: SiteId, group: GroupId, offset: int
    ) -> Slice[tuple[MemberId, Membership]]:
        self._ask("group_members_page", group, offset)
        self._require(group)
        return self._slice(self._listed(group, "joined"), offset)

    def _slice(self, rows: list[T], offset: int) -> Slice[T]:
        """A full page is never the last one, as at Wix."""
        items = tuple(rows[offset : offset + 100])
        return Slice(items, offset + 100 if len(items) == 100 else None, len(rows) if self.totals else None)

    def find_people(
        self,
        site: SiteId,
        *,
        contacts: Iterable[str] = (),
        emails: Iterable[str] = (),
        phones: Iterable[str] = (),
        names: Iterable[tuple[str, str]] = (),
    ) -> tuple[Person, ...]:
        wanted = {
            *contacts,
            *(email.lower() for email in emails),
            *phones,
            *(fold(f"{first} {last}") for first, last in names),
        }
        self._ask("find_people", wanted)
        known = {person.member.id for person in self.people if person.member}
        others = [
            Person(
                member.contact,
                member,
                frozenset(filter(None, [member.email.lower()])),
                first_name=member.first_name,
                last_name=member.last_name,
            )
            for member in self.members.values()
            if member.id not in known
        ]

        def keys(person: Person) -> set[str]:
            nickname = person.member.nickname if person.member else ""
            called = {fold(f"{person.first_name} {person.last_name}"), fold(nickname)} - {fold("")}
            return {person.contact, *person.emails, *person.phones, *called} - {""}

        return tuple(person for person in [*self.people, *others] if keys(person) & wanted)

    def create_group(
        self, site: SiteId, name: str, *, privacy: str, creator: MemberId, description: str = ""
    ) -> Group:
        self._ask("create_group", name, privacy, creator, description)
        if creator not in self.members:
            raise NotFoundError("createGroup: Wix answered 404")
        group = Group(GroupId(str(uuid4())), name, privacy, owner=creator)
        self.groups[group.id] = group
        self.memberships[group.id, creator] = Membership("joined", "ADMIN")
        self._answer("create_group")
        return replace(group, members=1)

    def add_group_members(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None:
        """Nobody, when Wix does not know one of them."""
        members = tuple(members)
        self._ask("add_group_members", group, members)
        self._require(group)
        if not self.members.keys() >= set(members):
            raise NotFoundError("addGroupMembers: Wix answered 404")
        for member in members:
            if self.memberships.get((group, member), Membership("none")).status == "joined":
                continue
            if self.members[member].private:
                self.invited.add((group, member))
            else:
                self.memberships[group, member] = Membership("joined", "MEMBER")
        self._answer("add_group_members")

    def list_rules(self, site: SiteId, group: GroupId) -> tuple[Rule, ...]:
        self._ask("list_rules", group)
        self._require(group)
        return self.rules.get(group, ())

    def replace_rules(self, site: SiteId, group: GroupId, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        self._ask("replace_rules", group, rules)
        self._require(group)
        self.rules[group] = rules
        self._answer("replace_rules")

    def list_questions(self, site: SiteId, group: GroupId) -> tuple[Question, ...]:
        self._ask("list_questions", group)
        self._require(group)
        return self.questions.get(group, ())

    def replace_questions(self, site: SiteId, group: GroupId, questions: Iterable[Question]) -> None:
        questions = tuple(questions)
        self._ask("replace_questions", group, questions)
        self._require(group)
        self.questions[group] = questions
        self._answer("replace_questions")


@dataclass
class FakeMail(MailPort):
    """A mail server that takes everything, unless `fails` holds errors to raise first."""

    letters: list[tuple[str, str, bytes]] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)
    dies_after_dot: list[BaseException] = field(default_factory=list)

    def send(
        self, clearance: Clearance, envelope_from: str, message: bytes, about_to_commit: Any, *waits: Any
    ) -> str:
        if self.fails:
            raise self.fails.pop(0)
        about_to_commit()
        self.letters.append((envelope_from, clearance.to, message))
        if self.dies_after_dot:
            raise self.dies_after_dot.pop(0)
        return "250 taken"

    def close(self) -> None:
        pass

    @property
    def readers(self) -> list[str]:
        return [to for _, to, _ in self.letters]


WELCOME = """
[[automation]]
name = "welcome"
on = ["member_added", "join_approved"]
purpose = "onboarding"
email = "welcome"
"""
YOGA = """
[[automation]]
name = "yoga-offer"
on = ["join_requested"]
purpose = "promotional"
email = "yoga-offer"
[automation.answers]
any = ["yoga"]
none = ["no yoga"]
"""


@functools.cache
def _renderer() -> Renderer:
    return Renderer(TEMPLATES)


@dataclass
class House:
    """Everything a worker has, and short ways to set things off."""

    services: Services
    wix: FakeWix
    mail: FakeMail
    clock: Clock
    database: Database

    def hear(self, *heard: Event) -> list[bool]:
        return self.services.journal.insert(heard)

    def work(self) -> None:
        """One turn: events, outbox, letters."""
        run_events(self.services)
        pay_outbox(self.services)
        deliver_letters(self.services)

    def turn(self) -> None:
        """Turns of a worker, jobs and their letters too, until nothing is due any more."""
        for _ in range(1000):
            if not take_turn(self.services) and not anything_due(self.services):
                return
        raise AssertionError("there is always more to do")

    def ask_for(self, kind: str, **params: Any) -> str:
        """A job as the API makes one, previewed; its id."""
        given = PARAMS[kind].model_validate(params).model_dump(mode="json")
        row, _ = self.services.jobs.create(SITE, kind, given, who="tests")
        self.turn()
        return str(row.id)

    def job(self, id: str) -> Any:  # noqa: A002 (the row's own word)
        return self.services.jobs.get(id)

    def counts(self, id: str) -> Counts:  # noqa: A002
        return self.services.jobs.counts([self.job(id)])[id]

    def confirm(self, id: str) -> None:  # noqa: A002
        """Say yes to what was previewed, and work until nothing is due."""
        self.services.jobs.confirm(id, self.job(id).confirm_token, who="tests")
        self.turn()

    def rows(self) -> list[tuple[str, str, str | None]]:
        """Automation, state and reason of every row of the ledger."""
        return [(row.automation, row.state, row.reason) for row in self.services.ledger.letters()]


def a_house(database: Database, clock: Clock, automations: str = WELCOME, **changes: Any) -> House:
    wix, mail = FakeWix(), FakeMail()
    services = Services(
        journal=Journal(database, listened=ROUTES),
        ledger=Ledger(database, SENDER),
        bulk=Ledger(database, SENDER),
        jobs=Jobs(database, SENDER),
        mailings=Mailings(database),
        outbox=Outbox(database),
        suppressions=Suppressions(database),
        sites=Sites(database),
        watches=Watches(database),
        group_days=GroupDays(database),
        wix=wix,
        mail=mail,
        senders=Senders(database, SENDER),
        pacer=changes.pop("pacer", None) or a_pacer(database, clock, Limits()),
        slots=Slots(SENDER, None, SharedRedis(None, lambda: 0.0), clock),
        renderer=_renderer(),
        book=Book(database, File(automations, clock()), _renderer().names()),
        letterhead=Letterhead(
            f"Usher <{SENDER}>",
            "1 Beach Road",
            "https://usher.example.com",
            UnsubscribeTokens(SECRET),
            ReturnPaths(SENDER, [SECRET]),
        ),
        hashes=AddressHashes(SECRET),
        chance=lambda: 0.5,
        now=clock,
        **changes,
    )
    return House(services, wix, mail, clock, database)


def a_pacer(database: Database, clock: Clock, limits: Limits, redis: Redis | None = None) -> Pacer:
    ledger, senders = Ledger(database, SENDER), Senders(database, SENDER)
    return Pacer(
        SENDER,
        limits,
        SharedRedis(redis, lambda: 0.0),
        sent_since=lambda domain, since: ledger.sent_since(since, domain),
        first_sent_at=senders.first_sent_at,
        now=clock,
    )


def cleared(to: str) -> Clearance:
    """What the gate hands out for a letter to this address."""
    verdict = decide_trial(to, suppressed=False)
    assert isinstance(verdict, Send)
    return verdict.clearance


def an_event(
    clock: Clock,
    *,
    type: str = events.MEMBER_ADDED,  # noqa: A002 (the event's own word)
    id: str = "e1",  # noqa: A002
    group: str = RUNNERS,
    member: str = ANN,
    payload: str = "",
    erasure: bool = False,
    **age: float,
) -> Event:
    """An event of just now, or of `age` ago (hours=…, days=…)."""
    body = f'"groupId": "{group}", "groupMember": {{"memberId": "{member}"}}'
    return Event(
        id=EventId(id),
        site=SITE,
        type=type,
        occurred_at=clock() - timedelta(**age),
        payload=payload or f'{{"entityId": "{group}", "actionEvent": {{"body": {{{body}}}}}}}',
        erasure=erasure,
    )
