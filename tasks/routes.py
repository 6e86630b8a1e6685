"""Which event sets off what. A table, not decorators: it reads as documentation, and its diff is the release note."""

from __future__ import annotations

from core import events
from tasks.reactions import (
    Reaction,
    apply_automations,
    connect_site,
    disconnect_site,
    stop_letters_of_group,
    stop_letters_of_member,
)

ROUTES: dict[str, Reaction] = {
    events.MEMBER_ADDED: apply_automations,
    events.MEMBER_JOINED: apply_automations,
    events.MEMBER_REMOVED: apply_automations,
    events.MEMBER_LEFT: apply_automations,
    events.ROLE_ASSIGNED: apply_automations,
    events.JOIN_REQUESTED: apply_automations,
    events.JOIN_APPROVED: apply_automations,
    events.JOIN_REJECTED: apply_automations,
    events.GROUP_DELETED: stop_letters_of_group,
    events.MEMBER_DELETED: stop_letters_of_member,
    events.APP_INSTALLED: connect_site,
    events.APP_REMOVED: disconnect_site,
}
"""Any event with `triggeredByAnonymizeRequest` forgets the person instead, whatever its type."""
