"""Whether a letter that waited still has its ground, by Wix, the automations file and the ledger as they are now."""

from __future__ import annotations

from core.automations import Automation, Automations, applicable
from core.errors import ForbiddenError, MailDeferredError
from core.letters import lost_ground
from core.ports import WixPort
from integrations.store.ledger import ClaimedLetter
from tasks.services import Services

_IN_ORDER_S = 600.0
"""How often a step asks whether the letter before it is out of the way."""


def ground(
    letter: ClaimedLetter, automation: Automation | None, wix: WixPort, services: Services
) -> str | None:
    """Why this letter has no ground any more, for people to read; None when it has. `automation` is the one it is of
    as the file says it now, None for a letter of a job.

    Raises IntegrationError; MailDeferredError while an earlier letter of its flow has yet to go.
    """
    if automation is not None and automation.is_step and (reason := _earlier(letter, automation, services)):
        return reason
    standing = wix.get_membership(letter.site, letter.group, letter.member)
    if gone := lost_ground(letter.trigger, standing):
        return gone
    if automation is None:
        return None
    if automation.email is None or letter.trigger not in automation.on:
        return f'"{automation.name}" sends no letter upon {letter.trigger} any more'
    group = wix.get_group(letter.site, letter.group)
    if group is None:
        return "Wix does not know the group any more"
    if not applicable(Automations(automations=(automation,)), letter.trigger, letter.site, group):
        return f'"{automation.name}" is not for this group any more'
    if automation.answers is None:
        return None
    try:
        found = wix.list_answers(letter.site, letter.group, [letter.member])
    except ForbiddenError as exc:
        return f"the answers could not be read: {exc}"
    match = automation.answers.match(found.get(letter.member, ()))
    return None if match.matched else f"the answers are others by now: {match.reason}"


def _earlier(letter: ClaimedLetter, step: Automation, services: Services) -> str | None:
    # A key is the automation's name and once for what: the same for all letters of one person's flow.
    once = letter.row.key.removeprefix(letter.row.automation)
    letters = services.automations.flow_of(step)
    keys = {other.name + once for other in letters[: letters.index(step)]}
    rows = services.ledger.page(site=letter.site, member=letter.member, group=letter.group, limit=None)
    earlier = [row for row in rows if row.key in keys]
    if step.unless_replied and any(row.replied_at for row in earlier):
        return "they answered an earlier letter of this flow"
    if any(row.state in ("planned", "deferred", "sending") for row in earlier):
        raise MailDeferredError(
            "an earlier letter of this flow has yet to go", counts=False, retry_after_s=_IN_ORDER_S
        )
    return None
