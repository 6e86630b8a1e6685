"""Pay what we owe Wix: approve, reject, unsubscribe. Each may be asked twice; Wix ends in the same state."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from core.errors import AppError, IntegrationError, LostLeaseError, PermanentError, RetryableError
from core.letters import retry_delay_s
from integrations.store.outbox import OwedCall
from tasks.claims import let_rest, work_off
from tasks.services import Services

log = logging.getLogger(__name__)

LONGEST_DELAY_S = 60.0
"""An opt-out reaches Wix within two minutes after Wix comes back."""
REFUSED_DELAY_S = 900.0
"""What Wix refuses is for a person to mend, which takes a while."""


_NEWS: dict[str, dict[str, str]] = {
    "unsubscribe": {"status": "UNSUBSCRIBED"},
    "bounced": {"deliverability": "BOUNCED"},
    "complaint": {"status": "UNSUBSCRIBED", "deliverability": "SPAM_COMPLAINT"},
}
"""What a reader or a mail server told us, as Wix is told it."""


def pay_outbox(services: Services, *, batch: int = 20, for_s: float = 5.0) -> bool:
    """Make due calls for about `for_s`; True when more are left."""
    return work_off(services.outbox, lambda _: nullcontext(lambda call: _pay(call, services)), batch, for_s)


def _pay(call: OwedCall, services: Services) -> bool:
    """Make one call: done, void, later or failed. False: its site has to rest."""
    fields: dict[str, object] = {
        "site": call.site,
        "kind": call.kind,
        "group": call.group,
        "member": call.member,
    }
    try:
        try:
            note = _ask_wix(call, services)
            services.outbox.end(call, "void" if note else "done", note)
            log.info("outbox.void" if note else "outbox.done", extra=fields | {"reason": note})
        except RetryableError as exc:
            delay_s = retry_delay_s(
                call.attempts,
                services.chance(),
                base_s=1.0,
                longest_s=LONGEST_DELAY_S,
                asked_s=exc.retry_after_s,
            )
            _later(call, exc, delay_s, fields, services)
            let_rest(call.site, exc, services)
            return False
        except IntegrationError as exc:
            if call.kind in _NEWS:
                # Somebody said stop: that is owed until Wix takes it, whatever Wix thinks of us today.
                _later(call, exc, REFUSED_DELAY_S, fields, services)
            else:
                services.outbox.end(call, "failed", str(exc))
                log.error("outbox.failed", extra=fields | {"error": str(exc)})
        except AppError:
            raise
        except Exception as exc:
            log.exception("outbox.defect", extra=fields)
            services.outbox.postpone(call, delay_s=REFUSED_DELAY_S, reason=type(exc).__name__)
    except LostLeaseError:
        log.warning("outbox.lease_lost", extra=fields)
    return True


def _later(
    call: OwedCall, exc: IntegrationError, delay_s: float, fields: dict[str, object], services: Services
) -> None:
    counts = exc.counts if isinstance(exc, RetryableError) else True
    services.outbox.postpone(call, delay_s=delay_s, reason=str(exc), counts=counts)
    log.warning("outbox.postponed", extra=fields | {"error": str(exc), "delay_s": round(delay_s, 1)})


def _ask_wix(call: OwedCall, services: Services) -> str | None:
    """Make the call; a text says why it had become pointless."""
    if call.site in services.sites.removed([call.site]):
        return "the app was removed from this site"
    if call.who is not None and (gone := _gone(call, services)):
        return gone
    if call.kind == "approve":
        services.wix.approve_requests(call.site, call.group, [call.member])
    elif call.kind == "reject":
        services.wix.reject_requests(call.site, call.group, [call.member], call.text)
    elif call.kind in _NEWS:
        member = services.wix.get_members(call.site, [call.member]).get(call.member)
        if member is None or not member.email:
            return "the member is gone from Wix, or has no address"
        if call.text and call.text not in services.hashes.of(member.email):
            return "the member has another address by now"
        services.wix.set_subscription(call.site, member.email, **_NEWS[call.kind])
    else:
        return f"unknown kind {call.kind}"
    return None


def _gone(call: OwedCall, services: Services) -> str | None:
    """Why what a person decided some time ago has nothing to decide any more; None when the request is pending, when
    they are in as was decided, or when Wix does not let us look."""
    try:
        standing = services.wix.get_membership(call.site, call.group, call.member)
    except PermanentError:
        return None
    if standing.status == "joined" and call.kind == "reject":
        return "they are in the group by now"
    # After a first try, a request that is gone may be our own doing.
    if standing.status == "none" and not call.attempts:
        return "the request is gone: they withdrew it, or somebody else decided it at Wix"
    return None
