from __future__ import annotations

import pytest

from integrations.email.replies import Cause, Kind, classify


@pytest.mark.parametrize(
    ("code", "text", "kind", "cause"),
    [
        (250, "2.0.0 Ok: queued as 4T1", Kind.DONE, Cause.OTHER),
        (250, "ok", Kind.DONE, Cause.OTHER),
        (252, "2.1.5 will try", Kind.DONE, Cause.OTHER),
        (421, "4.3.2 closing", Kind.DEFERRED, Cause.SERVER),
        (421, "4.7.0 too many messages", Kind.DEFERRED, Cause.SENDER),
        (450, "4.2.0 greylisted", Kind.DEFERRED, Cause.MAILBOX),
        (450, "mailbox busy", Kind.DEFERRED, Cause.OTHER),
        (451, "4.3.0 local error", Kind.DEFERRED, Cause.SERVER),
        (452, "4.2.2 over quota", Kind.DEFERRED, Cause.MAILBOX),
        (454, "4.7.0 Throttling failure: maximum sending rate exceeded", Kind.DEFERRED, Cause.SENDER),
        (550, "5.1.1 user unknown", Kind.REFUSED, Cause.ADDRESS),
        (550, "5.1.10 null mx", Kind.REFUSED, Cause.ADDRESS),
        (550, "5.2.1 mailbox disabled", Kind.REFUSED, Cause.ADDRESS),
        (552, "5.2.2 mailbox full", Kind.DEFERRED, Cause.MAILBOX),
        (552, "5.2.3 too large", Kind.REFUSED, Cause.MAILBOX),
        (552, "5.3.4 too large for the system", Kind.REFUSED, Cause.SERVER),
        (553, "5.1.8 sender's domain not found", Kind.REFUSED, Cause.SENDER),
        (550, "5.4.1 no route", Kind.REFUSED, Cause.SERVER),
        (550, "5.7.1 rejected by policy", Kind.REFUSED, Cause.SENDER),
        (550, "5.7.515 access denied, sending domain does not pass", Kind.REFUSED, Cause.SENDER),
        (554, "transaction failed", Kind.REFUSED, Cause.OTHER),
        (554, "5.7.1 user unknown", Kind.REFUSED, Cause.SENDER),  # the code wins over the words
        (550, "5.6.0 no such user", Kind.REFUSED, Cause.OTHER),
        (550, "No such user here", Kind.REFUSED, Cause.ADDRESS),
        (550, "Recipient unknown", Kind.REFUSED, Cause.ADDRESS),
        (554, "no such user", Kind.REFUSED, Cause.OTHER),  # 554 is said for everything
        (550, "mailbox unavailable", Kind.REFUSED, Cause.OTHER),
        (550, "4.2.1 come back", Kind.DEFERRED, Cause.ADDRESS),
        (450, "5.1.1 not sure yet", Kind.DEFERRED, Cause.ADDRESS),
        (550, "see below\n5.1.1 unknown", Kind.REFUSED, Cause.ADDRESS),
        (550, "client 5.1.1.9 is listed", Kind.REFUSED, Cause.OTHER),  # an IP address is no code
        (-1, "", Kind.DEFERRED, Cause.OTHER),
        (354, "go on", Kind.DEFERRED, Cause.OTHER),
    ],
)
def test_a_reply_means_what_its_codes_say(code: int, text: str, kind: Kind, cause: Cause) -> None:
    reply = classify(code, text)
    assert (reply.kind, reply.cause) == (kind, cause)


@pytest.mark.parametrize(
    "enhanced", ["5.2.2", "5.3.0", "5.3.4", "5.4.4", "5.5.0", "5.6.1", "5.7.0", "5.7.515", "5.1.7"]
)
def test_no_reason_that_lies_with_us_or_a_server_makes_an_address_dead(enhanced: str) -> None:
    assert not classify(550, f"{enhanced} user unknown").address_is_dead


@pytest.mark.parametrize("enhanced", ["5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"])
def test_a_reason_that_lies_with_the_address_makes_it_dead(enhanced: str) -> None:
    reply = classify(550, f"{enhanced} refused")
    assert reply.address_is_dead
    assert reply.enhanced == enhanced


@pytest.mark.parametrize("text", ["4.1.1 unknown for now", "unknown user"])
def test_what_may_pass_makes_no_address_dead(text: str) -> None:
    assert not classify(450, text).address_is_dead
