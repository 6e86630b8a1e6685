"""Reactions to what Wix says of an address: who unsubscribed there, bounced, complained, or said yes again.

Addresses do not come this far, only their hashes. A stop takes effect without asking; a yes is asked for once more.
"""

from __future__ import annotations

from core.community import MemberId
from core.events import Details, Event
from core.letters import Effects
from core.subscriptions import AddressNews, says_yes, stops_of
from tasks.batch import Batch
from tasks.reactions import NotYetError
from tasks.services import Services


def heed_subscription(event: Event, details: Details, batch: Batch) -> Effects:
    """Stop at once what Wix says no to. A yes after an opt-out made here lifts it, if all of this holds:

    - Wix dates the yes, and had been told of the opt-out before: its call in the outbox is done, and ended earlier.
      The same for everybody who said stop here and was written to at this address;
    - asked again, and not in the first moments, in which its read side may lag, Wix says that the address is the
      member's, is SUBSCRIBED, and is neither BOUNCED nor a SPAM_COMPLAINT.

    Then the opt-out from promotional letters ends, of the address and of those members. Whatever is in doubt keeps it.
    Never lifted are complaints, erasures, the opt-out from one group, which Wix does not know of, and a dead address
    that a mail server told of here: it expires. What only Wix had said (core.subscriptions) falls with any later
    statement to the contrary.

    Wix reports our own changes too. Their echo is no yes, stops nothing that was not stopped, owes Wix nothing.
    Raises NotYetError while Wix may still lag.
    """
    said = details.subscription
    if said is None or not details.address_hashes:
        return Effects(ignored="the event names no address")
    if batch.is_removed(event.site):
        return Effects(ignored="the app was removed from this site")
    at = min(details.changed_at or event.occurred_at, event.occurred_at)
    if stops := stops_of(said):
        return Effects(address=AddressNews(details.address_hashes, at, stops))
    if details.changed_at is None:
        return Effects(ignored="a change without a date lifts nothing")
    members = _who_says_yes_now(event, details, batch.services) if says_yes(said) else frozenset()
    return Effects(
        address=AddressNews(
            details.address_hashes,
            at,
            subscribed=says_yes(said),
            members=members,
            deliverable=said.deliverability == "VALID",
        )
    )


def heed_contact(event: Event, details: Details, batch: Batch) -> Effects:
    """Stop what a contact's record says no to. It mirrors the subscription and has no date of its own, so it lifts
    nothing."""
    if details.subscription is None or not details.address_hashes:
        return Effects(ignored="the event names no address")
    stops = stops_of(details.subscription)
    if not stops:
        return Effects(ignored="nothing that stops letters")
    if batch.is_removed(event.site):
        return Effects(ignored="the app was removed from this site")
    return Effects(address=AddressNews(details.address_hashes, event.occurred_at, stops))


def forget_address(event: Event, details: Details, batch: Batch) -> Effects:
    """A privacy request that names an address: forget whoever was written to there, and write there no more."""
    del batch
    return Effects(address=AddressNews(details.address_hashes, event.occurred_at, forget=True))


def _who_says_yes_now(event: Event, details: Details, services: Services) -> frozenset[MemberId]:
    asked = services.suppressions.opted_out(event.site, details.address_hashes)
    if not asked:
        return frozenset()
    age_s = (services.now() - event.occurred_at).total_seconds()
    if age_s < services.settle_s:
        raise NotYetError("Wix may still show what was before", age_s)
    known = set(details.address_hashes)
    addresses = {
        member.id: member.email
        for member in services.wix.get_members(event.site, asked).values()
        if known.intersection(services.hashes.of(member.email))
    }
    if not addresses:
        return frozenset()
    now = services.wix.get_subscriptions(event.site, set(addresses.values()))
    return frozenset(member for member, email in addresses.items() if says_yes(now.get(email.lower())))
