from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.community import Member, MemberId, Subscription
from core.consent import Policy, Purpose, Sender, reason_to_skip

ANN = Member(MemberId("m1"), status="APPROVED", email="ann@example.com")
ANYBODY = Policy(onboarding_without_consent=True)
NOBODY_UNASKED = Policy()
LAWFUL = Sender(has_postal_address=True)
PROMOTIONAL, ONBOARDING = Purpose.PROMOTIONAL, Purpose.ONBOARDING
STATUSES = ["UNKNOWN", "NOT_SET", "PENDING", "SUBSCRIBED", "UNSUBSCRIBED", "A_NEW_ONE", ""]
DELIVERABILITIES = ["NOT_SET", "VALID", "INACTIVE", "BOUNCED", "SPAM_COMPLAINT", "A_NEW_ONE", ""]


def reason(
    purpose: Purpose,
    status: str | None = "SUBSCRIBED",
    deliverability: str = "VALID",
    *,
    member: Member | None = ANN,
    suppressed: str | None = None,
    policy: Policy = NOBODY_UNASKED,
    sender: Sender = LAWFUL,
) -> str | None:
    record = None if status is None else Subscription(status, deliverability)
    return reason_to_skip(purpose, member, record, suppressed=suppressed, policy=policy, sender=sender)


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("policy", [ANYBODY, NOBODY_UNASKED])
@pytest.mark.parametrize("deliverability", DELIVERABILITIES)
@pytest.mark.parametrize("status", [*STATUSES, None])
def test_only_what_the_table_allows_is_sent(
    status: str | None, deliverability: str, policy: Policy, purpose: Purpose
) -> None:
    never_said = status in ("NOT_SET", "PENDING", None)
    is_open = status == "SUBSCRIBED" or (purpose is ONBOARDING and policy is ANYBODY and never_said)
    reachable = status is None or deliverability in ("NOT_SET", "VALID", "INACTIVE")
    sends = reason(purpose, status, deliverability, policy=policy) is None
    assert sends == (is_open and reachable)


@given(
    status=st.text(max_size=20),
    deliverability=st.sampled_from(["VALID", "BOUNCED"]),
    purpose=st.sampled_from(Purpose),
)
def test_a_status_that_wix_invents_later_opens_no_gate(
    status: str, deliverability: str, purpose: Purpose
) -> None:
    if status not in STATUSES:
        assert reason(purpose, status, deliverability, policy=ANYBODY)


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda purpose: reason(purpose, member=None), "no such member"),
        (lambda purpose: reason(purpose, member=Member(MemberId("m"), "BLOCKED", "a@b.example")), "blocked"),
        (lambda purpose: reason(purpose, member=Member(MemberId("m"), "APPROVED")), "no address"),
        (lambda purpose: reason(purpose, suppressed="left by one click"), "left by one click"),
        (lambda purpose: reason(purpose, "SUBSCRIBED", "BOUNCED"), "bounced"),
        (lambda purpose: reason(purpose, "SUBSCRIBED", "SPAM_COMPLAINT"), "spam"),
        (lambda purpose: reason(purpose, "UNSUBSCRIBED"), "unsubscribed"),
    ],
)
def test_who_must_not_be_written_to_gets_neither_kind(
    ask: Callable[[Purpose], str | None], words: str, purpose: Purpose
) -> None:
    assert words in (ask(purpose) or "")


@pytest.mark.parametrize("status", ["NOT_SET", "PENDING", None])
def test_a_refusal_that_a_setting_could_change_names_the_setting(status: str | None) -> None:
    assert "`onboarding_without_consent` would allow it" in (reason(ONBOARDING, status) or "")
    assert "onboarding_without_consent" not in (reason(PROMOTIONAL, status) or "")


@pytest.mark.parametrize("status", ["UNKNOWN", "A_NEW_ONE"])
def test_a_refusal_that_no_setting_can_change_names_none(status: str) -> None:
    for policy in (ANYBODY, NOBODY_UNASKED):
        refusal = reason(ONBOARDING, status, policy=policy)
        assert refusal
        assert "onboarding_without_consent" not in refusal


def test_promotional_letters_need_a_postal_address_and_others_do_not() -> None:
    unlawful = Sender(has_postal_address=False)
    assert "`EMAIL_POSTAL_ADDRESS` would allow it" in (reason(PROMOTIONAL, sender=unlawful) or "")
    assert reason(ONBOARDING, sender=unlawful) is None


def test_a_reason_never_holds_the_address() -> None:
    for status in (*STATUSES, None):
        for deliverability in DELIVERABILITIES:
            for purpose in Purpose:
                assert ANN.email not in (reason(purpose, status, deliverability) or "")
