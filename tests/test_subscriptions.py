"""What Wix says of an address, and what becomes of an opt-out made here when somebody says yes again."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from asgi import create_app
from core import events
from core.community import Group, GroupId, Member, MemberId, Membership, SiteId, Subscription
from core.consent import Suppression
from core.errors import PermanentError, RetryableError
from core.events import Event, open_delivery, read_details
from core.subscriptions import (
    AT_WIX_FOR,
    BOUNCED_AT_WIX,
    COMPLAINED_AT_WIX,
    UNSUBSCRIBED_AT_WIX,
    AddressNews,
    is_answered,
    stops_of,
)
from integrations.email.unsubscribe import AddressHashes, UnsubscribeClaim, UnsubscribeTokens
from integrations.store.database import Database
from integrations.store.suppressions import (
    FORGOTTEN,
    FULL_FOR,
    Suppressions,
    heed_address,
    suppress,
    unsubscribe,
)
from integrations.store.tables import events as events_table
from integrations.store.tables import messages, outbox, suppressions
from tests.house import ANN, RUNNERS, SECRET, SITE, Clock, House, a_house, an_event
from tests.test_web_app import SECRET as WEB_SECRET
from tests.test_web_app import running, settings_for
from tests.webhooks.wix_signing import EXAMPLES
from tests.webhooks.wix_signing import SITE as WEB_SITE
from tests.webhooks.wix_signing import delivery as signed

OFFER = """
[[automation]]
name = "yoga-offer"
on = ["member_added"]
purpose = "promotional"
email = "yoga-offer"
"""
ADDRESS = "ann@example.com"
HASHES = AddressHashes(SECRET)
CHANGED = "com.wixpress.emailsubscriptions.v1.EmailSubscriptionChanged"
CONTACTS = [f"wix.contacts.v4.contact_{what}" for what in ("created", "updated", "merged")]
TULIPS = GroupId("g-tulips")


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    """Ann has had one offer."""
    found = a_house(database, clock, OFFER)
    found.hear(an_event(clock, id="first"))
    found.work()
    assert found.mail.readers == [ADDRESS]
    found.wix.groups[TULIPS] = Group(TULIPS, "Tulips")
    found.wix.memberships[TULIPS, ANN] = Membership("joined")
    return found


def example(wire_type: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / f"{wire_type}.json").read_text())
    return found


def record_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The part of a documented payload that says what may be sent to whom."""
    if "subscription" in payload:
        found: dict[str, Any] = payload["subscription"]
        return found
    body = payload.get("createdEvent") or payload.get("updatedEvent") or payload["actionEvent"]
    entity = body.get("entity") or body.get("currentEntity") or body["body"]["targetContact"]
    return entity["primaryEmail"]  # type: ignore[no-any-return]


def tell(
    house: House,
    status: str = "NOT_SET",
    deliverability: str = "VALID",
    *,
    wire_type: str = CHANGED,
    email: object = ADDRESS,
    at: datetime | None = None,
    **more: object,
) -> Event:
    """Wix delivers that this address changed just now, or at `at`; `more` are fields of the record."""
    payload = example(wire_type)
    said = {"email": email, "subscriptionStatus": status, "deliverabilityStatus": deliverability}
    record_of(payload).update({**said, "updatedDate": (at or house.clock()).isoformat(), **more})
    if wire_type != CHANGED:
        payload |= {"id": f"e-{house.clock().timestamp()}", "eventTime": house.clock().isoformat()}
    return hear(house, payload, wire_type)


def hear(house: House, payload: dict[str, Any], wire_type: str = CHANGED) -> Event:
    data = {"eventType": wire_type, "instanceId": SITE, "data": json.dumps(payload)}
    claims = {"data": json.dumps(data), "iat": house.clock().timestamp()}
    event = open_delivery(claims, house.clock(), house.services.hashes.of)
    house.hear(event)
    return event


def standing(house: House, member: MemberId = ANN, email: str = ADDRESS) -> list[tuple[str, str, str]]:
    found = house.services.suppressions.standing(SITE, {member: house.services.hashes.of(email)})
    return [(one.scope, one.cause, one.reason) for one in found.get(member, ())]


def click(house: House, member: MemberId = ANN, group: GroupId | None = None) -> None:
    [address_hash] = HASHES.of(ADDRESS)
    house.services.suppressions.unsubscribe(SITE, member, address_hash, "one click", group=group)


def opt_out_and_tell_wix(house: House) -> None:
    """One click, and a minute later Wix has it."""
    click(house)
    house.clock.move(minutes=1)
    house.work()
    assert {row.state for row in house.services.outbox.calls()} == {"done"}
    house.wix.subscriptions[ADDRESS] = Subscription("UNSUBSCRIBED", "VALID")
    house.clock.move(minutes=1)


def say_yes_at_wix(house: House, **how: Any) -> None:
    house.wix.subscriptions[ADDRESS] = Subscription("SUBSCRIBED", "VALID")
    tell(house, "SUBSCRIBED", **how)
    house.clock.move(seconds=31)
    house.work()


def rows_of(house: House, table: sa.Table) -> list[sa.Row[Any]]:
    with house.database.read() as tx:
        return list(tx.execute(sa.select(table)))


OPTED_OUT = ("promotional", "unsubscribed", "unsubscribed here (one click)")
AT_WIX = ("promotional", "unsubscribed", UNSUBSCRIBED_AT_WIX)
DEAD = ("all", "dead", BOUNCED_AT_WIX)
SPAM = ("all", "complaint", COMPLAINED_AT_WIX)


@pytest.mark.parametrize("wire_type", [CHANGED, "wix.contacts.v4.contact_merged"])
@pytest.mark.parametrize(
    ("status", "deliverability", "expected"),
    [
        ("UNSUBSCRIBED", "VALID", [AT_WIX]),
        ("SUBSCRIBED", "BOUNCED", [DEAD]),
        ("SUBSCRIBED", "SPAM_COMPLAINT", [SPAM]),
        ("UNSUBSCRIBED", "SPAM_COMPLAINT", [SPAM, AT_WIX]),
        ("SUBSCRIBED", "VALID", []),
        ("PENDING", "INACTIVE", []),
        ("NOT_SET", "NOT_SET", []),
        ("A_NEW_ONE", "", []),
    ],
)
def test_what_wix_says_no_to_is_stopped_here_at_once_and_nothing_is_owed(
    house: House, wire_type: str, status: str, deliverability: str, expected: list[tuple[str, str, str]]
):
    asked = len(house.wix.asked)
    event = tell(house, status, deliverability, wire_type=wire_type, email=" Ann@Example.COM ")
    house.work()
    assert standing(house) == expected
    assert house.services.outbox.calls() == []
    if expected:
        assert len(house.wix.asked) == asked, "Wix need not be there"
    states = {row.id: row.state for row in rows_of(house, events_table)}
    assert states[event.id] == ("done" if expected or wire_type == CHANGED else "ignored")


def test_who_unsubscribed_at_wix_gets_no_letter_that_wix_has_not_heard_of_yet(house: House):
    tell(house, "UNSUBSCRIBED")
    house.hear(an_event(house.clock, id="second", group=TULIPS))
    house.work()
    assert house.wix.subscriptions[ADDRESS].status == "SUBSCRIBED", "its read side lags"
    assert ("yoga-offer", "skipped", UNSUBSCRIBED_AT_WIX) in house.rows()


def test_what_wix_says_passes_by_itself_because_wix_is_asked_again_and_a_complaint_does_not(house: House):
    for status, deliverability in (("UNSUBSCRIBED", "VALID"), ("SUBSCRIBED", "BOUNCED")):
        tell(house, status, deliverability)
        house.work()
    house.clock.move(seconds=AT_WIX_FOR.total_seconds() - 1)
    assert standing(house) == [DEAD, AT_WIX]
    house.clock.move(seconds=2)
    assert standing(house) == []
    tell(house, "SUBSCRIBED", "SPAM_COMPLAINT")
    house.work()
    house.clock.move(days=3650)
    assert standing(house) == [SPAM]


def test_a_yes_at_wix_after_the_opt_out_reached_it_lifts_the_opt_out(house: House):
    opt_out_and_tell_wix(house)
    say_yes_at_wix(house)
    assert standing(house) == []
    house.hear(an_event(house.clock, id="second", group=TULIPS))
    house.work()
    assert house.mail.readers == [ADDRESS, ADDRESS]


def test_wix_is_not_asked_for_a_yes_while_its_read_side_may_lag(house: House):
    opt_out_and_tell_wix(house)
    asked = len(house.wix.asked)
    house.wix.subscriptions[ADDRESS] = Subscription("SUBSCRIBED", "VALID")
    tell(house, "SUBSCRIBED")
    for _ in range(5):
        house.work()
        house.clock.move(seconds=5)
    assert len(house.wix.asked) == asked
    assert standing(house) == [OPTED_OUT]
    house.clock.move(seconds=20)
    house.work()
    assert standing(house) == []


def keep_wix_away(house: House) -> None:
    house.wix.fails["set_subscription"] = [RetryableError("away")] * 50
    click(house)
    house.work()


def opt_out_again(house: House) -> None:
    opt_out_and_tell_wix(house)
    keep_wix_away(house)


def opt_out_of_who_is_gone(house: House) -> None:
    """Wix never had it."""
    gone = house.wix.members.pop(ANN)
    click(house)
    house.work()
    house.wix.members[ANN] = gone


def opt_out_where_another_id_waits(house: House) -> None:
    """Somebody else who had this address once, and whose opt-out Wix does not have."""
    twin = MemberId("m-twin")
    house.wix.members[twin] = Member(twin, "APPROVED", ADDRESS, "Ann")
    house.wix.memberships[RUNNERS, twin] = Membership("joined")
    house.hear(an_event(house.clock, id="twin", member=twin))
    house.work()
    opt_out_and_tell_wix(house)
    house.wix.fails["set_subscription"] = [RetryableError("away")] * 50
    click(house, twin)
    house.wix.members[twin] = replace(house.wix.members[twin], email="twin@example.org")
    house.work()


def change_address(house: House) -> None:
    opt_out_and_tell_wix(house)
    house.wix.members[ANN] = replace(house.wix.members[ANN], email="ann@example.org")
    house.wix.subscriptions["ann@example.org"] = Subscription("SUBSCRIBED", "VALID")


def delete_member(house: House) -> None:
    opt_out_and_tell_wix(house)
    del house.wix.members[ANN]


def say(**how: Any) -> Callable[[House], None]:
    return lambda house: say_yes_at_wix(house, **how)


def say_at(status: str, deliverability: str) -> Callable[[House], None]:
    """Wix tells of a yes, and says something else when asked."""

    def tell_and_differ(house: House) -> None:
        tell(house, "SUBSCRIBED")
        house.wix.subscriptions[ADDRESS] = Subscription(status, deliverability)
        house.clock.move(seconds=31)
        house.work()

    return tell_and_differ


def say_before(house: House) -> None:
    say_yes_at_wix(house, at=house.clock() - timedelta(minutes=2))


def say_from_the_future(house: House) -> None:
    """A clock that is wrong, of a yes that was delivered before the opt-out."""
    house.wix.fails["set_subscription"] = []
    house.wix.subscriptions[ADDRESS] = Subscription("SUBSCRIBED", "VALID")
    payload = example(CHANGED)
    payload["subscription"] |= {"email": ADDRESS, "subscriptionStatus": "SUBSCRIBED"}
    payload["subscription"]["updatedDate"] = "2199-01-01T00:00:00Z"
    data = json.dumps({"eventType": CHANGED, "instanceId": SITE, "data": json.dumps(payload)})
    iat = (house.clock() - timedelta(minutes=2)).timestamp()
    house.hear(open_delivery({"data": data, "iat": iat}, house.clock(), house.services.hashes.of))
    house.work()


def say_after_removing_the_app(house: House) -> None:
    house.hear(an_event(house.clock, id="gone", type=events.APP_REMOVED, payload="{}"))
    house.work()
    say_yes_at_wix(house)


DOUBTS: dict[str, tuple[Callable[[House], None], Callable[[House], None]]] = {
    "Wix was not told yet": (keep_wix_away, say()),
    "Wix was told, and is owed it again": (opt_out_again, say()),
    "Wix never took it": (opt_out_of_who_is_gone, say()),
    "another of the same address waits": (opt_out_where_another_id_waits, say()),
    "the yes is older": (opt_out_and_tell_wix, say_before),
    "the yes has no date": (opt_out_and_tell_wix, say(updatedDate=None)),
    "the yes has a date of the future": (opt_out_and_tell_wix, say_from_the_future),
    "asked, Wix says no": (opt_out_and_tell_wix, say_at("UNSUBSCRIBED", "VALID")),
    "asked, Wix says not yet": (opt_out_and_tell_wix, say_at("PENDING", "VALID")),
    "asked, Wix says bounced": (opt_out_and_tell_wix, say_at("SUBSCRIBED", "BOUNCED")),
    "the yes bounces": (opt_out_and_tell_wix, say(deliverability="BOUNCED")),
    "a contact says so": (opt_out_and_tell_wix, say(wire_type="wix.contacts.v4.contact_updated")),
    "it is another's yes": (opt_out_and_tell_wix, say(email="anna@example.com")),
    "the site removed the app": (opt_out_and_tell_wix, say_after_removing_the_app),
    "the address is another's now": (change_address, say()),
    "the member is gone": (delete_member, say()),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_every_doubt_keeps_the_opt_out(house: House, doubt: str):
    opt_out, say_yes = DOUBTS[doubt]
    opt_out(house)
    say_yes(house)
    kept = {row.subject for row in rows_of(house, suppressions) if row.reason == OPTED_OUT[2]}
    assert kept >= {f"member:{ANN}", f"address:{HASHES.of(ADDRESS)[0]}"}


def test_a_member_with_another_address_stays_opted_out_when_the_old_ones_new_owner_says_yes(house: House):
    twin = MemberId("m-twin")
    house.wix.members[twin] = Member(twin, "APPROVED", ADDRESS, "Ann")
    house.wix.memberships[RUNNERS, twin] = Membership("joined")
    house.hear(an_event(house.clock, id="twin", member=twin))
    house.work()
    click(house, twin)
    change_address(house)
    say_yes_at_wix(house)
    assert standing(house, twin) == []
    assert standing(house, ANN, "ann@example.org") == [OPTED_OUT]


@pytest.mark.parametrize("cause", ["complaint", "forgotten", "group", "dead"])
def test_a_yes_at_wix_lifts_no_other_suppression(house: House, cause: str):
    opt_out_and_tell_wix(house)
    [address_hash] = HASHES.of(ADDRESS)
    if cause == "complaint":
        tell(house, "SUBSCRIBED", "SPAM_COMPLAINT")
    elif cause == "forgotten":
        house.hear(an_event(house.clock, id="x", type=events.MEMBER_DELETED, erasure=True))
    elif cause == "group":
        click(house, group=RUNNERS)
    else:
        house.services.suppressions.dead(SITE, ANN, address_hash, "the address is dead (550)")
    house.work()
    before = [said for said in standing(house) if said != OPTED_OUT]
    assert len(before) == 1
    house.clock.move(minutes=1)
    say_yes_at_wix(house)
    assert [said for said in standing(house) if said != OPTED_OUT] == before


def test_a_bounce_that_only_wix_told_of_falls_when_it_says_valid_later(house: House):
    early = house.clock()
    house.clock.move(hours=1)
    tell(house, "SUBSCRIBED", "BOUNCED")
    house.clock.move(hours=1)
    house.work()
    tell(house, "NOT_SET", "VALID", at=early)
    house.work()
    assert standing(house) == [DEAD]
    tell(house, "NOT_SET", "VALID")
    house.work()
    assert standing(house) == []


def test_of_two_changes_that_wait_together_the_later_one_counts(house: House):
    """Usher was away for a while."""
    first, second = house.clock(), house.clock() + timedelta(hours=1)
    house.clock.move(hours=5)
    tell(house, "UNSUBSCRIBED", at=first)
    house.work()
    tell(house, "SUBSCRIBED", at=second)
    house.clock.move(seconds=31)
    house.work()
    assert standing(house) == []


def test_a_yes_between_two_noes_that_came_in_disorder_lifts_nothing(house: House):
    first = house.clock()
    house.clock.move(hours=1)
    for status, minutes in (("UNSUBSCRIBED", 20), ("UNSUBSCRIBED", 0), ("SUBSCRIBED", 10)):
        tell(house, status, at=first + timedelta(minutes=minutes))
        house.clock.move(seconds=31)
        house.work()
    assert standing(house) == [AT_WIX]
    tell(house, "SUBSCRIBED", at=first + timedelta(minutes=30))
    house.clock.move(seconds=31)
    house.work()
    assert standing(house) == []


def full(house: House, address_hash: str = HASHES.of(ADDRESS)[0]) -> None:
    with house.database.begin() as tx:
        suppress(
            tx,
            SITE,
            f"address:{address_hash}",
            "all",
            cause="full",
            reason="mailbox full",
            expires_at=tx.now + FULL_FOR,
        )


FULL = ("all", "full", "mailbox full")


@pytest.mark.parametrize("first", ["full", "dead"])
def test_a_full_mailbox_hides_no_dead_address_though_it_lasts_longer(house: House, first: str):
    assert FULL_FOR > AT_WIX_FOR
    if first == "full":
        full(house)
    tell(house, "SUBSCRIBED", "BOUNCED")
    house.work()
    if first == "dead":
        full(house)
    assert standing(house) == [DEAD]
    house.hear(an_event(house.clock, id="second", group=TULIPS))
    house.work()
    assert ("yoga-offer", "skipped", BOUNCED_AT_WIX) in house.rows()


def test_a_full_mailbox_is_noted_where_another_cause_has_passed(house: House):
    tell(house, "SUBSCRIBED", "BOUNCED")
    house.work()
    house.clock.move(seconds=AT_WIX_FOR.total_seconds() + 1)
    full(house)
    assert standing(house) == [FULL]
    house.clock.move(days=1)
    full(house)
    house.clock.move(days=2, hours=1)
    assert standing(house) == [FULL], "the later one counts"


@pytest.mark.parametrize("full_is", ["new", "old"])
def test_a_full_mailbox_hides_no_dead_address_under_another_key(house: House, full_is: str):
    new, old = hashes = AddressHashes("new", ["old"]).of(ADDRESS)
    dead = AddressNews(
        (old if full_is == "new" else new,), house.clock(), stops_of(Subscription("SUBSCRIBED", "BOUNCED"))
    )
    with house.database.begin() as tx:
        heed_address(tx, SITE, dead)
    full(house, new if full_is == "new" else old)
    for _ in range(2):
        house.services.suppressions.standing(SITE, {ANN: hashes})
    found = house.services.suppressions.standing(SITE, {ANN: (new,)})
    assert [said.cause for said in found[ANN]] == ["dead"]


def test_the_echo_of_our_own_news_changes_nothing_and_owes_nothing(house: House):
    opt_out_and_tell_wix(house)
    house.services.suppressions.dead(SITE, ANN, HASHES.of(ADDRESS)[0], "the address is dead (550)")
    house.work()
    told = [call for call in house.wix.asked if call[0] == "set_subscription"]
    before = rows_of(house, suppressions), rows_of(house, outbox)
    for deliverability in ("VALID", "BOUNCED"):
        for _ in range(3):
            tell(house, "UNSUBSCRIBED", deliverability)
            tell(house, "UNSUBSCRIBED", deliverability, wire_type="wix.contacts.v4.contact_updated")
            house.clock.move(minutes=1)
            house.work()
    assert (rows_of(house, suppressions), rows_of(house, outbox)) == before
    assert [call for call in house.wix.asked if call[0] == "set_subscription"] == told


def test_the_echo_of_a_bounce_is_no_yes_to_an_opt_out_that_waits(house: House):
    """Wix, told of the bounce alone, still says SUBSCRIBED."""
    house.services.suppressions.dead(SITE, ANN, HASHES.of(ADDRESS)[0], "the address is dead (550)")
    house.work()
    keep_wix_away(house)
    say_yes_at_wix(house)
    assert OPTED_OUT in standing(house)


def test_a_site_hears_nothing_of_what_was_said_to_another(house: House):
    other = SiteId("another-site")
    [address_hash] = HASHES.of(ADDRESS)
    house.services.suppressions.unsubscribe(other, ANN, address_hash, "one click")
    tell(house, "UNSUBSCRIBED")
    house.work()
    assert house.services.suppressions.standing(other, {ANN: [address_hash]}) == {
        ANN: (Suppression(*OPTED_OUT),)
    }


def wait_until_somebody_waits(database: Database) -> None:
    ends_at = time.monotonic() + 20
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while time.monotonic() < ends_at:
        with database.engine.connect() as connection:
            if connection.scalar(sa.text(query)):
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("first", ["opt-out", "yes"])
def test_an_opt_out_made_while_an_older_one_is_lifted_stands(house: House, first: str, database_url: str):
    """SQLite has one writer at a time anyway."""
    opt_out_and_tell_wix(house)
    news = AddressNews(HASHES.of(ADDRESS), house.clock(), subscribed=True, members=frozenset({ANN}))
    here, there = Database(database_url, clock=house.clock), Database(database_url, clock=house.clock)

    def say_yes(database: Database) -> None:
        with database.begin() as tx:
            heed_address(tx, SITE, news)

    def say_no(database: Database) -> None:
        with database.begin() as tx:
            unsubscribe(tx, SITE, ANN, HASHES.of(ADDRESS)[0], "one click")

    one, other = (say_no, say_yes) if first == "opt-out" else (say_yes, say_no)
    second = threading.Thread(target=other, args=(there,))
    with here.begin() as tx:
        if one is say_no:
            unsubscribe(tx, SITE, ANN, HASHES.of(ADDRESS)[0], "one click")
        else:
            heed_address(tx, SITE, news)
        second.start()
        wait_until_somebody_waits(house.database)
    second.join(20)
    here.close()
    there.close()
    assert standing(house) == [OPTED_OUT]
    assert [row.state for row in house.services.outbox.calls()] == ["planned"]


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"subscription": None},
        {"subscription": "x"},
        {"subscription": []},
        {"subscription": {}},
        {"subscription": {"email": 5, "subscriptionStatus": "UNSUBSCRIBED"}},
        {"subscription": {"email": "", "subscriptionStatus": "UNSUBSCRIBED"}},
        {"subscription": {"email": "nobody", "subscriptionStatus": "UNSUBSCRIBED"}},
        {"subscription": {"email": "a@" + "b" * 320, "subscriptionStatus": "UNSUBSCRIBED"}},
        {"subscription": {"email": ADDRESS}},
        {"subscription": {"email": ADDRESS, "subscriptionStatus": {"a": 1}, "updatedDate": "soon"}},
        {"subscription": {"email": ADDRESS, "subscriptionStatus": "ann@example.com " * 9}},
    ],
)
def test_a_change_that_says_nothing_changes_nothing(house: House, payload: dict[str, Any]):
    event = hear(house, payload)
    house.work()
    assert standing(house) == []
    assert {row.id: row.state for row in rows_of(house, events_table)}[event.id] == "ignored"


def test_the_same_words_at_another_time_are_another_event(house: House):
    """A record without a date reads the same at every change of mind."""
    payload = {"subscription": {"email": ADDRESS, "subscriptionStatus": "UNSUBSCRIBED"}}
    first, again = hear(house, payload), hear(house, payload)
    house.clock.move(days=1)
    later = hear(house, payload)
    assert first.id == again.id != later.id


def test_nobody_can_tell_an_address_from_an_event_by_guessing(house: House):
    """An id made without the key would be the same for everybody who hashes the same words."""
    data = json.dumps({"eventType": CHANGED, "instanceId": SITE, "data": json.dumps(example(CHANGED))})
    one, other, none = (
        open_delivery({"data": data}, house.clock(), hashes)
        for hashes in (AddressHashes("a").of, AddressHashes("b").of, lambda _: ())
    )
    assert len({one.id, other.id, none.id}) == 3


@pytest.mark.parametrize("wire_type", [CHANGED, *CONTACTS, "wix.contacts.v4.contact_deleted"])
@pytest.mark.parametrize("erasure", [False, True])
def test_names_and_addresses_never_reach_the_disk_and_their_hashes_do_not_stay(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, wire_type: str, erasure: bool
):
    caplog.set_level(logging.DEBUG)
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}")
    database.migrate()
    payload = example(wire_type) | ({"triggeredByAnonymizeRequest": True} if erasure else {})

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))

    async def deliver() -> None:
        settings = settings_for(f"sqlite:///{tmp_path / 'usher.db'}", tmp_path)
        async with running(create_app(settings)) as client:
            answer = await client.post("/webhooks/wix", content=signed(payload, wire_type))
            assert answer.status_code == 200

    asyncio.run(deliver())
    secrets = [b"ben@example", b"Okafor", b"5550102", b"555-0102"]
    with database.read() as tx:
        [row] = tx.execute(sa.select(events_table))
    assert row.state == "received"
    known = AddressHashes(WEB_SECRET).of("ben@example.com")[0]
    assert (known in row.payload) == (wire_type != "wix.contacts.v4.contact_deleted")
    assert [word for word in secrets if word in on_disk()] == []

    house = a_house(database, clock)
    house.clock.now = datetime.now(tz=clock.now.tzinfo) + timedelta(minutes=1)
    house.work()
    with database.read() as tx:
        [row] = tx.execute(sa.select(events_table))
    assert (row.state in ("done", "ignored"), row.payload) == (True, "{}")
    assert [word for word in secrets if word in on_disk()] == []
    assert "ben@" not in caplog.text
    database.close()


ERASED = {
    "the address letters go to": lambda contact: contact["primaryEmail"].update(email=ADDRESS),
    "the main address alone": lambda contact: (
        contact.pop("primaryEmail"),
        contact["primaryInfo"].update(email="ANN@example.com"),
    ),
    "one of several": lambda contact: contact["info"]["emails"]["items"].append({"email": ADDRESS}),
}


@pytest.mark.parametrize("named", ERASED)
def test_a_contact_that_asks_to_be_forgotten_is_forgotten_by_address(house: House, named: str):
    payload = copy.deepcopy(example("wix.contacts.v4.contact_updated"))
    ERASED[named](payload["updatedEvent"]["currentEntity"])  # type: ignore[no-untyped-call]
    event = hear(house, payload | {"triggeredByAnonymizeRequest": True}, "wix.contacts.v4.contact_updated")
    house.work()
    assert event.erasure
    [letter] = rows_of(house, messages)
    assert (letter.address_hash, letter.evidence, letter.context) == (None, None, {})
    assert [said[1] for said in standing(house)] == ["forgotten"]
    house.hear(an_event(house.clock, id="second", group=TULIPS))
    house.work()
    assert house.mail.readers == [ADDRESS]


@pytest.mark.parametrize("former", [False, True])
def test_who_was_never_written_to_is_forgotten_by_address_too(database: Database, clock: Clock, former: bool):
    """Their first letter waits, and Wix still has them as a member."""
    house = a_house(database, clock, OFFER.replace("email =", 'after = "1d"\nemail ='))
    house.hear(an_event(clock))
    house.work()
    payload = example("wix.contacts.v4.contact_created") | {"triggeredByAnonymizeRequest": True}
    record_of(payload)["email"] = ADDRESS
    hear(house, payload, "wix.contacts.v4.contact_created")
    house.work()
    if former:
        house.services = replace(house.services, hashes=AddressHashes("new", [SECRET]))
    clock.move(days=1, minutes=1)
    house.work()
    assert house.mail.readers == []
    assert house.rows() == [("yoga-offer", "skipped", FORGOTTEN)]
    say_yes_at_wix(house)
    assert [said[1] for said in standing(house)] == ["forgotten"]


def test_forgetting_an_address_reaches_nobody_else(house: House):
    with house.database.begin() as tx:
        [row] = rows_of(house, messages)
        columns = {**row._mapping, "id": "other", "site": "another-site", "member": "m-bob"}
        tx.execute(sa.insert(messages).values(columns))
    payload = example("wix.contacts.v4.contact_created")
    record_of(payload)["email"] = "bob@example.com"
    hear(house, payload | {"triggeredByAnonymizeRequest": True}, "wix.contacts.v4.contact_created")
    house.work()
    assert standing(house) == []
    record_of(payload)["email"] = ADDRESS
    hear(
        house, payload | {"triggeredByAnonymizeRequest": True, "id": "e9"}, "wix.contacts.v4.contact_created"
    )
    house.work()
    assert standing(house, MemberId("m-bob"), "bob@example.org") == []
    assert {row.site: row.address_hash is None for row in rows_of(house, messages)} == {
        SITE: True,
        "another-site": False,
    }


def test_an_erasure_without_an_address_is_noted_as_one_that_names_nobody(house: House):
    payload = example("wix.contacts.v4.contact_deleted") | {"triggeredByAnonymizeRequest": True}
    event = hear(house, payload, "wix.contacts.v4.contact_deleted")
    house.work()
    found = {row.id: (row.state, row.error) for row in rows_of(house, events_table)}
    assert found[event.id] == ("ignored", "an erasure that names no member")


def test_wix_refusing_to_say_who_has_the_address_keeps_the_opt_out(house: House):
    opt_out_and_tell_wix(house)
    house.wix.fails["get_members"] = [PermanentError("403")]
    say_yes_at_wix(house)
    assert standing(house) == [OPTED_OUT]


def test_leaving_one_group_owes_wix_nothing_and_leaves_the_others(house: House, clock: Clock):
    click(house, group=RUNNERS)
    house.hear(an_event(clock, id="second", group=TULIPS), an_event(clock, id="third", type="x"))
    house.wix.memberships[RUNNERS, ANN] = Membership("joined", joined_at=clock())
    house.work()
    assert house.mail.readers == [ADDRESS, ADDRESS]
    assert house.services.outbox.calls() == []
    assert [said[0] for said in standing(house)] == [f"group:{RUNNERS}"]


def test_the_choice_on_the_page_is_effective_before_the_answer_though_wix_is_away(
    database_url: str, tmp_path: Path
):
    """Nobody answers for Wix here."""
    member, address_hash = MemberId("m-ann"), "hash-of-ann"
    claim = UnsubscribeClaim(SiteId(WEB_SITE), member, address_hash, RUNNERS)
    token = UnsubscribeTokens(WEB_SECRET).issue(claim)

    async def choose() -> None:
        database = Database(database_url)
        async with running(create_app(settings_for(database_url, tmp_path))) as client:
            assert (await client.get(f"/unsubscribe/{token}")).status_code == 200
            for data, expected in (
                ({"scope": "group"}, [f"group:{RUNNERS}"]),
                ({"scope": "all"}, [f"group:{RUNNERS}", "promotional"]),
            ):
                answer = await client.post(f"/unsubscribe/{token}", data=data)
                assert answer.status_code == 200
                found = Suppressions(database).standing(claim.site, {member: [address_hash]})
                assert [one.scope for one in found[member]] == expected
                with database.read() as tx:
                    owed = [(row.kind, row.state) for row in tx.execute(sa.select(outbox))]
                assert owed == [("unsubscribe", "planned")] * (len(expected) - 1)
        database.close()

    asyncio.run(choose())


def test_what_stands_under_a_former_key_is_kept_under_the_present_one(house: House):
    former, both, present = (
        AddressHashes("old"),
        AddressHashes("new", ["old"]),
        AddressHashes("new"),
    )
    bob, others = MemberId("m-bob"), MemberId("m-others")
    store = house.services.suppressions
    store.unsubscribe(SITE, MemberId("m-gone"), former.of("bob@example.com")[0], "one click")
    store.dead(SITE, bob, former.of("bob@example.com")[0], "the address is dead (550)")
    store.unsubscribe(SITE, others, former.of("others@example.com")[0], "one click")
    house.clock.move(days=10)
    before = store.standing(SITE, {bob: both.of("bob@example.com")})
    assert [said.scope for said in before[bob]] == ["all", "promotional"]
    assert store.standing(SITE, {bob: present.of("bob@example.com")}) == before
    copied = {
        (row.scope, row.created_at, row.expires_at)
        for row in rows_of(house, suppressions)
        if row.subject.removeprefix("address:") in both.of("bob@example.com")
    }
    assert len(copied) == 2, "as old as it was, and no longer than it was"

    # Nobody looked while both keys were there: what stands under the member stays, under the address it is lost.
    assert [
        said.scope for said in store.standing(SITE, {others: present.of("others@example.com")})[others]
    ] == ["promotional"]
    assert store.standing(SITE, {bob: present.of("others@example.com")}) == {}


def test_copying_to_the_present_key_is_done_once(house: House):
    both = AddressHashes("new", ["old"])
    house.services.suppressions.dead(SITE, ANN, AddressHashes("old").of(ADDRESS)[0], "the address is dead")
    writes: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("INSERT"):
            writes.append(statement)

    sa.event.listen(house.database.engine, "before_cursor_execute", note)
    for _ in range(3):
        house.services.suppressions.standing(SITE, {ANN: both.of(ADDRESS)})
    sa.event.remove(house.database.engine, "before_cursor_execute", note)
    assert len(writes) == 1


def test_what_holds_for_good_under_a_former_key_is_not_hidden_by_what_passes(house: House):
    [new, old] = AddressHashes("new", ["old"]).of(ADDRESS)
    house.services.suppressions.dead(SITE, ANN, new, "the address is dead (550)")
    with house.database.begin() as tx:
        complaint = AddressNews((old,), tx.now, stops_of(Subscription("SUBSCRIBED", "SPAM_COMPLAINT")))
        heed_address(tx, SITE, complaint)
    house.services.suppressions.standing(SITE, {ANN: (new, old)})
    found = house.services.suppressions.standing(SITE, {ANN: (new,)})
    assert [(said.cause, said.expires_at) for said in found[ANN]] == [("complaint", None)]


def test_a_yes_found_under_a_former_key_lifts_what_stands_under_both(house: House, clock: Clock):
    opt_out_and_tell_wix(house)
    house.services = replace(house.services, hashes=AddressHashes("new", [SECRET]))
    assert standing(house) == [OPTED_OUT]
    say_yes_at_wix(house)
    assert standing(house) == []
    assert rows_of(house, suppressions) == []


AT = datetime.fromisoformat("2026-05-03T12:00:00+00:00")
BEFORE, AFTER = AT - timedelta(seconds=1), AT + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("calls", "answered"),
    [
        ([], False),
        ([("done", BEFORE)], True),
        ([("done", AT)], False),
        ([("done", AFTER)], False),
        ([("done", None)], False),
        ([("planned", BEFORE)], False),
        ([("void", BEFORE)], False),
        ([("failed", BEFORE)], False),
        ([("done", BEFORE), ("done", BEFORE)], True),
        ([("done", BEFORE), ("planned", None)], False),
    ],
)
def test_a_yes_answers_what_wix_had_before(calls: list[tuple[str, datetime | None]], answered: bool):
    assert is_answered(calls, AT) is answered


def test_a_delivery_without_hashes_drops_the_address():
    data = json.dumps({"eventType": CHANGED, "instanceId": SITE, "data": json.dumps(example(CHANGED))})
    event = open_delivery({"data": data}, AT)
    assert "ben" not in event.payload
    assert read_details(event).address_hashes == ()
