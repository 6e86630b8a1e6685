"""What decisions about many letters rest on, asked once for all of them: of Wix, of suppressions, of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from core.automations import Automations
from core.community import GroupId, Member, MemberId, SiteId, Subscription
from core.consent import Policy, Purpose, Sender, Suppression
from core.gate import Facts
from core.ports import WixPort
from integrations.email.unsubscribe import AddressHashes
from integrations.store.ledger import Ledger
from integrations.store.suppressions import Suppressions


class Sources(Protocol):
    """Where it is looked up, beside Wix; tasks.services.Services is one."""

    @property
    def automations(self) -> Automations: ...
    @property
    def hashes(self) -> AddressHashes: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def suppressions(self) -> Suppressions: ...
    @property
    def sender(self) -> Sender: ...
    @property
    def now(self) -> Callable[[], datetime]: ...


@dataclass(frozen=True, slots=True)
class People:
    """Some members of one site, as they stand at `asked_at`. `hashes` are those of each one's address."""

    asked_at: datetime
    policy: Policy
    members: Mapping[MemberId, Member] = field(repr=False)
    subscriptions: Mapping[str, Subscription] = field(repr=False)
    hashes: Mapping[MemberId, tuple[str, ...]] = field(repr=False)
    suppressions: Mapping[MemberId, tuple[Suppression, ...]]
    recent: Mapping[MemberId, list[datetime]]

    def facts(
        self,
        member: MemberId,
        group: GroupId,
        purpose: Purpose,
        due_at: datetime,
        services: Sources,
        not_after_s: float | None = None,
    ) -> Facts:
        known = self.members.get(member)
        return Facts(
            purpose=purpose,
            group=group,
            member=known,
            subscription=self.subscriptions.get(known.email.lower()) if known else None,
            asked_at=self.asked_at,
            now=services.now(),
            due_at=due_at,
            sender=services.sender,
            policy=self.policy,
            not_after_s=not_after_s,
            suppressions=self.suppressions.get(member, ()),
            recent=tuple(self.recent.get(member, ())),
        )


def look_up(site: SiteId, members: Collection[MemberId], wix: WixPort, services: Sources) -> People:
    """Two calls for each hundred. Raises IntegrationError."""
    asked_at = services.now()
    known = wix.get_members(site, members)
    addresses = {member.email for member in known.values() if member.email}
    subscriptions = wix.get_subscriptions(site, addresses) if addresses else {}
    hashes = {id_: services.hashes.of(known[id_].email) if id_ in known else () for id_ in members}
    policy = services.automations.policy_of(site)
    recent: Mapping[MemberId, list[datetime]] = {}
    if policy.promotional_cap is not None:
        since = asked_at - timedelta(days=policy.promotional_cap.days)
        recent = services.ledger.promotional_since(site, hashes, since)
    return People(
        asked_at=asked_at,
        policy=policy,
        members=known,
        subscriptions=subscriptions,
        hashes=hashes,
        suppressions=services.suppressions.standing(site, hashes),
        recent=recent,
    )
