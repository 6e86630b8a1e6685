"""A house for the work to be done in: our own services over real stores, with fakes only at our own doors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from redis import Redis

from admin.processes import TEMPLATES
from core import events
from core.automations import parse_automations
from core.community import Answer, Group, GroupId, Member, MemberId, Membership, Site, SiteId, Subscription
from core.events import Event, EventId
from core.gate import Clearance, Send, decide_trial
from core.pacing import Limits
from core.ports import MailPort, WixPort
from integrations.email.pacing import Pacer, Slots
from integrations.email.render import Renderer
from integrations.email.return_path import ReturnPaths
from integrations.email.unsubscribe import AddressHashes, UnsubscribeTokens
from integrations.shared import SharedRedis
from integrations.store.database import Database
from integrations.store.journal import Journal
from integrations.store.ledger import Ledger
from integrations.store.outbox import Outbox
from integrations.store.senders import Senders
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.store.watches import Watches
from tasks.events import run_events
from tasks.letters import deliver_letters
from tasks.outbox import pay_outbox
from tasks.routes import ROUTES
from tasks.services import Services
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
    """Wix as a dictionary. `fails` holds errors to raise, one for each coming call of the method it names."""

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
    fails: dict[str, list[Exception]] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    calls: int = 0

    def _ask(self, name: str, *arguments: Any) -> None:
        self.calls += 1
        self.asked.append((name, *arguments))
        if waiting := self.fails.get(name):
            raise waiting.pop(0)

    def get_site(self, site: SiteId) -> Site:
        self._ask("get_site")
        return Site(site, "Seaside Club", "https://club.example.com", "en")

    def get_group(self, site: SiteId, group: GroupId) -> Group | None:
        self._ask("get_group", group)
        return self.groups.get(group)

    def for_bulk(self, wait: Callable[[float], bool] | None = None) -> FakeWix:
        return replace(self, calls=0)

    def list_groups(self, site: SiteId) -> Iterator[Group]:
        """With as many members as there are, unless the group says otherwise."""
        self._ask("list_groups")
        for group in list(self.groups.values()):
            inside = sum(
                standing.status == "joined"
                for (where, _), standing in self.memberships.items()
                if where == group.id
            )
            yield replace(group, members=inside if group.members is None else group.members)

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


@dataclass
class FakeMail(MailPort):
    """A mail server that takes everything, unless `fails` holds errors to raise first."""

    letters: list[tuple[str, str, bytes]] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)
    dies_after_dot: list[BaseException] = field(default_factory=list)

    def send(self, clearance: Clearance, envelope_from: str, message: bytes, about_to_commit: Any) -> str:
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

    def rows(self) -> list[tuple[str, str, str | None]]:
        """Automation, state and reason of every row of the ledger."""
        return [(row.automation, row.state, row.reason) for row in self.services.ledger.letters()]


def a_house(database: Database, clock: Clock, automations: str = WELCOME, **changes: Any) -> House:
    wix, mail = FakeWix(), FakeMail()
    services = Services(
        journal=Journal(database, listened=ROUTES),
        ledger=Ledger(database, SENDER),
        outbox=Outbox(database),
        suppressions=Suppressions(database),
        sites=Sites(database),
        watches=Watches(database),
        wix=wix,
        mail=mail,
        senders=Senders(database, SENDER),
        pacer=changes.pop("pacer", None) or a_pacer(database, clock, Limits()),
        slots=Slots(SENDER, None, SharedRedis(None, lambda: 0.0), clock),
        renderer=_renderer(),
        automations=parse_automations(automations, templates=_renderer().names()),
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
