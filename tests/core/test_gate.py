"""The gate as a table: for each fact the whole decision, in literals."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from core.community import GroupId, Member, MemberId, Subscription
from core.consent import Cap, Policy, Purpose, QuietHours, Sender, Suppression
from core.gate import (
    FRESH,
    Clearance,
    Defer,
    Facts,
    Send,
    Skip,
    Verdict,
    decide,
    decide_trial,
    objection,
    quiet_until,
)

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)
ANN = Member(MemberId("m1"), "APPROVED", "ann@example.com", "Ann")
ONBOARDING, PROMOTIONAL = Purpose.ONBOARDING, Purpose.PROMOTIONAL
ALLOWING = Policy(onboarding_without_consent=True)
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
NIGHT = QuietHours(time(21), time(8))


def facts(purpose: Purpose = PROMOTIONAL, **changes: object) -> Facts:
    """All is well: subscribed, deliverable, asked just now, due just now."""
    good = Facts(
        purpose=purpose,
        group=GroupId("g1"),
        member=ANN,
        subscription=Subscription("SUBSCRIBED", "VALID"),
        asked_at=NOW,
        now=NOW,
        due_at=NOW,
        sender=Sender(has_postal_address=True),
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def said(verdict: Verdict) -> tuple[str, ...]:
    """The decision without its evidence."""
    match verdict:
        case Send(clearance):
            return ("send", clearance.to)
        case Defer(until, reason):
            return ("defer", f"{until:%Y-%m-%d %H:%M}", reason)
        case Skip(reason):
            return ("skip", reason)


def outcome(purpose: Purpose = PROMOTIONAL, **changes: object) -> tuple[str, ...]:
    return said(decide(facts(purpose, **changes)))


SENDS = ("send", "ann@example.com")
BOUNCED = "letters to this address bounced (Wix: BOUNCED)"
SPAM = "the reader reported a letter as spam (Wix: SPAM_COMPLAINT)"
OUT = "unsubscribed (Wix: UNSUBSCRIBED)"
UNCLEAR = "consent unclear (Wix: UNKNOWN, or a status new to Usher)"
NEVER = "never subscribed (Wix: NOT_SET)"
PENDING = "asked to confirm and has not answered (Wix: PENDING)"
NO_RECORD = "never subscribed (Wix has no record of the address)"
NEEDS_YES = "; promotional letters need SUBSCRIBED"
COULD = "; `onboarding_without_consent` would allow it"

WHATEVER_IS_ALLOWED = [
    # Wix says                            promotional            onboarding      … and allowed without consent
    (("SUBSCRIBED", "VALID"), None, None, None),
    (("SUBSCRIBED", "NOT_SET"), None, None, None),
    (("SUBSCRIBED", "INACTIVE"), None, None, None),
    (("SUBSCRIBED", "BOUNCED"), BOUNCED, BOUNCED, BOUNCED),
    (("SUBSCRIBED", "SPAM_COMPLAINT"), SPAM, SPAM, SPAM),
    (("UNSUBSCRIBED", "VALID"), OUT, OUT, OUT),
    (("UNSUBSCRIBED", "NOT_SET"), OUT, OUT, OUT),
    (("UNSUBSCRIBED", "BOUNCED"), BOUNCED, BOUNCED, BOUNCED),
    (("NOT_SET", "VALID"), NEVER + NEEDS_YES, NEVER + COULD, None),
    (("NOT_SET", "NOT_SET"), NEVER + NEEDS_YES, NEVER + COULD, None),
    (("NOT_SET", "BOUNCED"), BOUNCED, BOUNCED, BOUNCED),
    (("NOT_SET", "SPAM_COMPLAINT"), SPAM, SPAM, SPAM),
    (("PENDING", "VALID"), PENDING + NEEDS_YES, PENDING + COULD, None),
    (("PENDING", "INACTIVE"), PENDING + NEEDS_YES, PENDING + COULD, None),
    (None, NO_RECORD + NEEDS_YES, NO_RECORD + COULD, None),
    (("UNKNOWN", "VALID"), UNCLEAR + NEEDS_YES, UNCLEAR, UNCLEAR),
    (("A_NEW_ONE", "VALID"), UNCLEAR + NEEDS_YES, UNCLEAR, UNCLEAR),
    (("", "VALID"), UNCLEAR + NEEDS_YES, UNCLEAR, UNCLEAR),
    *(
        (
            ("SUBSCRIBED", new),
            *["deliverability unclear (Wix sent a value that Usher does not know)"] * 3,
        )
        for new in ("A_NEW_ONE", "UNKNOWN", "")
    ),
]


@pytest.mark.parametrize(("record", "promotional", "onboarding", "allowed"), WHATEVER_IS_ALLOWED)
def test_what_wix_says_of_an_address_decides_by_the_purpose(
    record: tuple[str, str] | None, promotional: str | None, onboarding: str | None, allowed: str | None
) -> None:
    subscription = Subscription(*record) if record else None
    for purpose, policy, reason in (
        (PROMOTIONAL, Policy(), promotional),
        (PROMOTIONAL, ALLOWING, promotional),
        (ONBOARDING, Policy(), onboarding),
        (ONBOARDING, ALLOWING, allowed),
    ):
        expected = SENDS if reason is None else ("skip", reason)
        assert outcome(purpose, subscription=subscription, policy=policy) == expected


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (None, "no such member at Wix any more"),
        (replace(ANN, status="BLOCKED"), "the member is blocked on the site"),
        (replace(ANN, email=""), "the member has no address"),
    ],
)
def test_there_has_to_be_somebody_to_write_to(purpose: Purpose, member: Member | None, reason: str) -> None:
    assert outcome(purpose, member=member) == ("skip", reason)


UNTIL = NOW + timedelta(days=3)


@pytest.mark.parametrize(
    ("suppression", "promotional", "onboarding"),
    [
        (Suppression("all", "forgotten", "asked to be forgotten"), "skip", "skip"),
        (Suppression("all", "dead", "the address is dead", NOW + timedelta(days=180)), "skip", "skip"),
        (Suppression("all", "complaint", "reported as spam"), "skip", "skip"),
        (Suppression("all", "unsubscribed", "wants nothing"), "skip", "skip"),
        (Suppression("group:g1", "unsubscribed", "not of this group"), "skip", "skip"),
        (Suppression("group:g2", "unsubscribed", "not of that group"), "send", "send"),
        (Suppression("promotional", "unsubscribed", "no advertising"), "skip", "send"),
        (Suppression("promotional", "complaint", "reported an offer"), "skip", "send"),
        (Suppression("all", "full", "the mailbox is full", UNTIL), "defer", "defer"),
    ],
)
def test_a_suppression_counts_by_its_scope_and_a_full_mailbox_only_for_a_while(
    suppression: Suppression, promotional: str, onboarding: str
) -> None:
    told = {
        "send": SENDS,
        "skip": ("skip", suppression.reason),
        "defer": ("defer", "2026-05-06 12:00", suppression.reason),
    }
    assert outcome(PROMOTIONAL, suppressions=(suppression,)) == told[promotional]
    assert outcome(ONBOARDING, suppressions=(suppression,)) == told[onboarding]


def test_a_full_mailbox_is_tried_again_from_the_moment_its_time_is_over() -> None:
    full = Suppression("all", "full", "the mailbox is full", NOW)
    assert outcome(suppressions=(full,)) == SENDS
    assert outcome(suppressions=(replace(full, expires_at=NOW + timedelta(seconds=1)),))[0] == "defer"


def test_what_is_for_good_wins_over_what_only_waits() -> None:
    full = Suppression("all", "full", "the mailbox is full", UNTIL)
    out = Suppression("promotional", "unsubscribed", "no advertising")
    assert outcome(suppressions=(full, out)) == ("skip", "no advertising")
    assert outcome(suppressions=(full,), ground="not a member any more") == ("skip", "not a member any more")


# The cap.

FOUR_IN_30_DAYS = Policy(promotional_cap=Cap(4, 30.0), not_after_s=365 * 86400)


def days_ago(*days: float) -> tuple[datetime, ...]:
    return tuple(NOW - timedelta(days=count) for count in days)


@pytest.mark.parametrize(
    ("recent", "expected"),
    [
        ((), SENDS),
        (days_ago(1, 2, 3), SENDS),
        (days_ago(1, 2, 3, 20), ("defer", "2026-05-13 12:00", "has had 4 promotional letters in 30 days")),
        (days_ago(20, 3, 1, 2), ("defer", "2026-05-13 12:00", "has had 4 promotional letters in 30 days")),
        # With more than there may be, so many have to fall out that there is room for one.
        (days_ago(1, 2, 3, 4, 29), ("defer", "2026-05-29 12:00", "has had 4 promotional letters in 30 days")),
        (days_ago(1, 2, 3, 31), SENDS),
        (days_ago(1, 2, 3, 30), SENDS),
    ],
)
def test_there_is_room_again_when_the_oldest_that_counts_is_older_than_the_period(
    recent: tuple[datetime, ...], expected: tuple[str, ...]
) -> None:
    assert outcome(policy=FOUR_IN_30_DAYS, recent=recent) == expected
    assert outcome(ONBOARDING, policy=FOUR_IN_30_DAYS, recent=recent) == SENDS


def test_room_comes_to_the_second() -> None:
    oldest = NOW - timedelta(days=30)
    recent = (oldest, *days_ago(1, 2, 3))
    second = timedelta(seconds=1)
    before = facts(policy=FOUR_IN_30_DAYS, recent=recent, now=NOW - second, asked_at=NOW - second)
    verdict = decide(before)
    assert isinstance(verdict, Defer)
    assert verdict.until == NOW
    assert isinstance(decide(replace(before, now=NOW)), Send)


def test_without_a_cap_nobody_counts() -> None:
    assert outcome(recent=days_ago(*[0.1] * 50)) == SENDS


# Quiet hours.


def in_zone(zone: str, at: str) -> datetime:
    return datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def at(zone: str, now: str, quiet: QuietHours = NIGHT, purpose: Purpose = PROMOTIONAL) -> tuple[str, ...]:
    moment = in_zone(zone, now)
    policy = Policy(quiet_hours=quiet, time_zone=zone)
    return outcome(purpose, policy=policy, now=moment, asked_at=moment, due_at=moment)


@pytest.mark.parametrize(
    ("zone", "now", "until"),
    [
        (BERLIN, "2026-05-03 20:59:59", None),
        (BERLIN, "2026-05-03 21:00", "2026-05-04 06:00"),  # UTC: two hours before Berlin's summer
        (BERLIN, "2026-05-03 23:59:59", "2026-05-04 06:00"),
        (BERLIN, "2026-05-04 00:00", "2026-05-04 06:00"),
        (BERLIN, "2026-05-04 07:59:59", "2026-05-04 06:00"),
        (BERLIN, "2026-05-04 08:00", None),
        (BERLIN, "2026-05-04 12:00", None),
        (NEW_YORK, "2026-05-03 20:59:59", None),
        (NEW_YORK, "2026-05-03 21:00", "2026-05-04 12:00"),
        (NEW_YORK, "2026-05-04 07:59:59", "2026-05-04 12:00"),
        (NEW_YORK, "2026-05-04 08:00", None),
        (BERLIN, "2026-12-31 22:00", "2027-01-01 07:00"),
        # The nights in which the clocks change: in Berlin on 29 March and 25 October, in New York on 8 March and
        # 1 November. They begin and end by the clock on the wall.
        (BERLIN, "2026-03-28 21:00", "2026-03-29 06:00"),
        (BERLIN, "2026-03-29 01:59:59", "2026-03-29 06:00"),
        (BERLIN, "2026-03-29 03:00", "2026-03-29 06:00"),
        (BERLIN, "2026-10-24 21:00", "2026-10-25 07:00"),
        (BERLIN, "2026-10-25 02:30", "2026-10-25 07:00"),
        (NEW_YORK, "2026-03-07 22:00", "2026-03-08 12:00"),
        (NEW_YORK, "2026-03-08 03:00", "2026-03-08 12:00"),
        (NEW_YORK, "2026-10-31 23:00", "2026-11-01 13:00"),
        (NEW_YORK, "2026-11-01 01:30", "2026-11-01 13:00"),
    ],
)
def test_offers_wait_out_the_night_by_the_sites_own_clock(zone: str, now: str, until: str | None) -> None:
    reason = f"quiet hours (21:00 to 08:00, {zone})"
    assert at(zone, now) == (SENDS if until is None else ("defer", until, reason))
    assert at(zone, now, purpose=ONBOARDING) == SENDS


@pytest.mark.parametrize(
    ("now", "until"),
    [("11:59:59", None), ("12:00", "2026-05-03 12:30"), ("14:29:59", "2026-05-03 12:30"), ("14:30", None)],
)
def test_quiet_hours_may_be_within_a_day(now: str, until: str | None) -> None:
    siesta = QuietHours(time(12), time(14, 30))
    assert at(BERLIN, f"2026-05-03 {now}", siesta)[1:2] == (until or SENDS[1],)


@pytest.mark.parametrize(
    ("zone", "day"),
    [(BERLIN, "2026-03-29"), (BERLIN, "2026-10-25"), (NEW_YORK, "2026-03-08"), (NEW_YORK, "2026-11-01")],
)
@pytest.mark.parametrize(
    "quiet",
    [
        QuietHours(time(22), time(2, 30)),
        QuietHours(time(22), time(1, 30)),
        QuietHours(time(1, 30), time(2, 45)),
        QuietHours(time(0), time(3)),
        NIGHT,
    ],
)
def test_whenever_clocks_change_quiet_hours_end_later_than_now_and_in_no_other_ones(
    zone: str, day: str, quiet: QuietHours
) -> None:
    """An end that never is (the clock jumps over it), or is twice, must not leave a letter going round and round."""
    start = in_zone(zone, f"{day} 00:00") - timedelta(hours=4)
    found = 0
    for minute in range(0, 32 * 60, 5):
        moment = start + timedelta(minutes=minute)
        until = quiet_until(quiet, zone, moment)
        if until is not None:
            found += 1
            assert moment < until <= moment + timedelta(hours=25)
            assert quiet_until(quiet, zone, until) is None
    assert found


# Not after.

LONGER = "; a longer `not_after` would allow it"
NIGHT_IN_UTC = "quiet hours (21:00 to 08:00, UTC)"


@pytest.mark.parametrize("purpose", Purpose)
def test_a_letter_that_is_later_than_not_after_never_goes(purpose: Purpose) -> None:
    week = timedelta(days=7)
    assert outcome(purpose, due_at=NOW - week) == SENDS
    assert outcome(purpose, due_at=NOW - week - timedelta(seconds=1)) == (
        "skip",
        f"too late: it was due on 2026-04-26 11:59 UTC{LONGER}",
    )


def test_a_letters_own_not_after_stands_above_the_policys() -> None:
    due_at = NOW - timedelta(hours=13)
    assert outcome(due_at=due_at, not_after_s=12 * 3600.0)[0] == "skip"
    assert outcome(due_at=due_at, not_after_s=14 * 3600.0, policy=Policy(not_after_s=3600)) == SENDS
    assert outcome(due_at=due_at, policy=Policy(not_after_s=3600))[0] == "skip"


def test_what_would_wait_until_it_is_too_late_is_skipped_at_once() -> None:
    policy = Policy(quiet_hours=NIGHT, time_zone="UTC")
    night = NOW.replace(hour=23)
    late = night.replace(day=4, hour=8)
    waiting = facts(policy=policy, now=night, asked_at=night, due_at=night)
    assert said(decide(replace(waiting, not_after_s=9 * 3600.0))) == (
        "defer",
        "2026-05-04 08:00",
        NIGHT_IN_UTC,
    )
    assert said(decide(replace(waiting, not_after_s=9 * 3600.0 - 1))) == (
        "skip",
        f"{NIGHT_IN_UTC}, and then it is too late: it was due on 2026-05-03 23:00 UTC{LONGER}",
    )
    assert said(decide(replace(waiting, not_after_s=9 * 3600.0, now=late, asked_at=late))) == SENDS


def test_of_several_waits_the_longest_counts_and_none_ends_at_night() -> None:
    policy = Policy(quiet_hours=NIGHT, time_zone="UTC", promotional_cap=Cap(1, 1.0))
    # The cap has room again at 23:00, which is night.
    assert outcome(policy=policy, recent=(NOW - timedelta(hours=13),)) == (
        "defer",
        "2026-05-04 08:00",
        NIGHT_IN_UTC,
    )
    # At 18:00 it is not.
    assert outcome(policy=policy, recent=(NOW - timedelta(hours=18),)) == (
        "defer",
        "2026-05-03 18:00",
        "has had 1 promotional letters in 1 days",
    )


# Fresh facts, switches, law.


@pytest.mark.parametrize("purpose", Purpose)
def test_what_wix_said_more_than_five_minutes_ago_sends_nothing(purpose: Purpose) -> None:
    assert timedelta(minutes=5) == FRESH
    assert outcome(purpose, asked_at=NOW - FRESH) == SENDS
    assert outcome(purpose, asked_at=NOW - FRESH - timedelta(microseconds=1)) == (
        "defer",
        "2026-05-03 12:00",
        "what Wix said of it is too old by now",
    )


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site_removed": True}, "the app was removed from this site"),
        ({"policy": Policy(send=False)}, "letters of this site are switched off; `send` would allow it"),
        ({"ground": "not a member of the group any more"}, "not a member of the group any more"),
    ],
)
def test_switches_stop_every_letter(purpose: Purpose, changes: dict[str, object], reason: str) -> None:
    assert outcome(purpose, **changes) == ("skip", reason)


def test_offers_need_a_postal_address() -> None:
    reason = "no postal address in the footer; `EMAIL_POSTAL_ADDRESS` would allow it"
    assert outcome(PROMOTIONAL, sender=Sender(has_postal_address=False)) == ("skip", reason)
    assert outcome(ONBOARDING, sender=Sender(has_postal_address=False)) == SENDS


def test_a_trial_goes_to_anybody_who_is_not_suppressed() -> None:
    assert said(decide_trial("me@example.com", suppressed=False)) == ("send", "me@example.com")
    assert said(decide_trial("me@example.com", suppressed=True)) == ("skip", "this address is suppressed")


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("late", [0.0, 4.9, 5.1, 60.0, 24 * 60.0 * 8])
def test_at_the_last_moment_the_gate_says_what_it_would_say_then(purpose: Purpose, late: float) -> None:
    asked, now = facts(purpose), NOW + timedelta(minutes=late)
    match decide(replace(asked, now=now)):
        case Send():
            assert objection(asked, now) is None
        case Defer(reason=reason) | Skip(reason=reason):
            assert objection(asked, now) == reason


# Evidence.


def test_the_evidence_says_what_was_known_when() -> None:
    verdict = decide(facts(policy=FOUR_IN_30_DAYS, recent=days_ago(1, 2)))
    assert verdict.evidence == (
        "Wix at 2026-05-03T12:00:00+00:00: SUBSCRIBED, VALID; promotional letters in 30 days: 2 of 4"
    )
    out = Suppression("promotional", "unsubscribed", "unsubscribed here (one click)")
    refused = decide(facts(subscription=None, suppressions=(out,)))
    assert refused.evidence == (
        "Wix at 2026-05-03T12:00:00+00:00: no record; suppressed (promotional): unsubscribed here (one click)"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"subscription": None},
        {"subscription": Subscription("UNSUBSCRIBED", "BOUNCED")},
        {"suppressions": (Suppression("all", "full", "the mailbox is full", UNTIL),)},
        {"asked_at": NOW - timedelta(hours=1)},
        {"due_at": NOW - timedelta(days=90)},
    ],
)
def test_neither_name_nor_address_is_in_evidence_reasons_or_logs(changes: dict[str, object]) -> None:
    verdict = decide(facts(**changes))
    for text in (verdict.evidence, repr(verdict), str(verdict), getattr(verdict, "reason", "")):
        assert "ann" not in text.lower()


# There is no other way.


@pytest.mark.parametrize("seal", [(), (None,), (object(),), ("seal",)])
def test_nobody_else_clears_a_letter(seal: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match=r"only core\.gate clears a letter"):
        Clearance("ann@example.com", *seal)


def test_a_clearance_is_not_turned_into_one_for_somebody_else() -> None:
    cleared = decide(facts())
    assert isinstance(cleared, Send)
    with pytest.raises((TypeError, ValueError)):
        replace(cleared.clearance, to="eve@example.com")
    with pytest.raises(AttributeError):
        cleared.clearance.to = "eve@example.com"  # type: ignore[misc]


PRODUCT = ("admin", "config", "core", "integrations", "tasks", "webhooks")


def product_trees() -> Iterator[tuple[str, ast.Module]]:
    for path in [
        ROOT / "asgi.py",
        *(path for room in PRODUCT for path in sorted((ROOT / room).rglob("*.py"))),
    ]:
        name = path.relative_to(ROOT).as_posix()
        yield name, ast.parse(path.read_text(encoding="utf-8"), name)


def names_in(tree: ast.AST) -> set[str]:
    """Every word that could reach the seal: names, attributes, what is imported, and texts for getattr."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
                found.add(word)
            case ast.Constant(value=str(word)):
                found.add(word)
    return found


def test_the_seal_is_named_in_the_gate_alone() -> None:
    assert [name for name, tree in product_trees() if "_SEAL" in names_in(tree)] == ["core/gate.py"]


def test_nobody_but_the_gate_makes_a_clearance() -> None:
    makers = {
        name
        for name, tree in product_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        if getattr(node.func, "id", getattr(node.func, "attr", "")) == "Clearance"
    }
    assert makers == {"core/gate.py"}


def test_whoever_sends_a_letter_asked_the_gate() -> None:
    """Each call of `send` on a mail port hands over a verdict's clearance, in a module that asks decide or
    decide_trial; with a mail server speaks the transport alone, which was handed one; the client of Wix sends
    requests, and a process aside frames."""
    senders: dict[str, set[str]] = {}
    for name, tree in product_trees():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "send"
            ):
                senders.setdefault(name, set()).add(ast.unparse(node.func.value))
                if name not in ("integrations/wix/client.py", "integrations/aside.py"):
                    assert ast.unparse(node.args[0]).endswith(".clearance"), name
                    assert names_in(tree) & {"decide", "decide_trial"}, name
    assert senders == {
        "admin/trial.py": {"mail"},
        "integrations/aside.py": {"sock"},
        "integrations/wix/client.py": {"self._http"},
        "tasks/jobs/report.py": {"services.mail"},
        "tasks/letters.py": {"services.mail"},
    }
    talkers = [name for name, tree in product_trees() if "Conversation" in names_in(tree)]
    assert talkers == ["integrations/email/transport.py"]


def test_nobody_but_the_transport_names_a_recipient_to_a_mail_server() -> None:
    way = re.compile(r"RCPT\b|(rcpt|sendmail|send_message)$")
    assert [name for name, tree in product_trees() if any(map(way.match, names_in(tree)))] == [
        "integrations/email/transport.py"
    ]
