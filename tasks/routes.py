"""Which event sets off what. A table, not decorators: it reads as documentation, and its diff is the release note."""

from __future__ import annotations

from core import events
from tasks.follows import follow_rules
from tasks.reactions import (
    Reaction,
    apply_automations,
    connect_site,
    disconnect_site,
    greet,
    see_off,
    stop_letters_of_group,
    stop_letters_of_member,
)
from tasks.subscriptions import heed_contact, heed_subscription

ROUTES: dict[str, Reaction] = {
    events.MEMBER_ADDED: greet,
    events.MEMBER_JOINED: greet,
    events.MEMBER_REMOVED: see_off,
    events.MEMBER_LEFT: see_off,
    events.ROLE_ASSIGNED: apply_automations,
    events.JOIN_REQUESTED: apply_automations,
    events.JOIN_APPROVED: greet,
    events.JOIN_REJECTED: see_off,
    events.JOIN_CANCELED: see_off,
    events.GROUP_DELETED: stop_letters_of_group,
    events.RULES_UPDATED: follow_rules,
    events.MEMBER_DELETED: stop_letters_of_member,
    events.SUBSCRIPTION_CHANGED: heed_subscription,
    events.CONTACT_CREATED: heed_contact,
    events.CONTACT_UPDATED: heed_contact,
    events.CONTACT_MERGED: heed_contact,
    events.CONTACT_DELETED: heed_contact,
    events.APP_INSTALLED: connect_site,
    events.APP_REMOVED: disconnect_site,
}
"""Any event with `triggeredByAnonymizeRequest` forgets the person instead, whatever its type."""
