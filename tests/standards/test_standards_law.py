"""What the law asks: lines 34 and 36 to 41 of docs/standards.md, on letters as they were received."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from asgi import create_app
from core import events
from core.automations import parse_automations
from core.community import Answer, Subscription
from core.consent import Purpose
from core.errors import ConfigError
from integrations.store.database import Database
from integrations.store.returns import Returns
from integrations.store.tables import metadata
from tasks.events import run_events
from tasks.inbound import Mailroom
from tests.email.smtp_servers import MailServer
from tests.house import SITE, Clock
from tests.standards.conftest import Post
from tests.standards.letterbox import ONE_OF_EACH, STANDING, Office, Scene, payload
from tests.test_web_app import running, settings_for
from tests.webhooks.wix_signing import STRANGERS_KEY, delivery

STATUSES = ["SUBSCRIBED", "UNSUBSCRIBED", "PENDING", "NOT_SET", "UNKNOWN", "A_NEW_ONE", ""]
DELIVERABILITIES = ["VALID", "NOT_SET", "INACTIVE", "BOUNCED", "SPAM_COMPLAINT", "A_NEW_ONE"]


@pytest.fixture
def office(records: Database, server: MailServer, clock: Clock) -> Iterator[Office]:
    found = Office(records, server, clock, automations=ONE_OF_EACH)
    yield found
    found.services.mail.close()


def test_every_letter_says_what_consent_it_went_out_with(post: Post):
    """Line 34: who, when, by whose word, which letter; without a name or an address."""
    for letter in post.letters:
        row = letter.row
        assert row.evidence == "Wix at 2026-05-03T12:00:00+00:00: SUBSCRIBED, VALID"
        assert (row.member, row.sent_at) == (letter.scene.member, post.office.clock.now)
        assert row.email_template
        assert row.purpose


def test_offers_reach_those_alone_who_subscribed(office: Office):
    """Lines 38 and 39: PENDING, silence, and whatever Wix may invent are no yes."""
    scenes = [
        Scene(f"{status or 'nothing'} {delivers}", subscription=Subscription(status, delivers))
        for status, delivers in product(STATUSES, DELIVERABILITIES)
    ]
    office.play(*scenes, Scene("no record", subscription=None))

    reached = {
        purpose: {letter.scene.name for letter in office.letters() if letter.purpose is purpose}
        for purpose in Purpose
    }
    subscribed = {f"SUBSCRIBED {delivers}" for delivers in ("VALID", "NOT_SET", "INACTIVE")}
    assert reached == {Purpose.PROMOTIONAL: subscribed, Purpose.ONBOARDING: subscribed}
    assert all(row.reason for row in office.rows() if row.state == "skipped")


def test_where_the_site_allows_it_a_welcome_goes_to_who_never_said_anything_and_an_offer_does_not(
    records: Database, server: MailServer, clock: Clock
):
    """Lines 38, 39 and 41."""
    office = Office(
        records,
        server,
        clock,
        automations="[policy]\nonboarding_without_consent = true\n" + ONE_OF_EACH,
    )
    office.play(
        Scene("no record", subscription=None),
        *(Scene(status, subscription=Subscription(status, "VALID")) for status in STATUSES if status),
    )

    reached = sorted((letter.purpose, letter.scene.name) for letter in office.letters())
    assert reached == [
        ("onboarding", "NOT_SET"),
        ("onboarding", "PENDING"),
        ("onboarding", "SUBSCRIBED"),
        ("onboarding", "no record"),
        ("promotional", "SUBSCRIBED"),
    ]


def test_without_a_postal_address_no_offer_goes_out(records: Database, server: MailServer, clock: Clock):
    """Line 40."""
    office = Office(records, server, clock, automations=ONE_OF_EACH, postal_address="")
    office.play(Scene("ann"))

    assert [letter.purpose for letter in office.letters()] == [Purpose.ONBOARDING]
    [refused] = [row for row in office.rows() if row.state == "skipped"]
    assert "EMAIL_POSTAL_ADDRESS" in refused.reason


def test_an_offer_shows_the_postal_address_in_both_parts(post: Post):
    """Line 40."""
    for letter in post.letters:
        for words in (letter.text, letter.html.words):
            assert "1 Beach Road, Exampletown" in " ".join(words.split()), str(letter)


def test_no_subject_pretends_to_be_an_answer(post: Post):
    """Line 40: nor is one shouted, as far as it is ours to write."""
    for letter in post.letters:
        if letter.scene.name.startswith("in "):
            subject = str(letter.message["Subject"])
            assert not re.match(r"\s*\w{1,3}\s*:", subject)
            assert subject != subject.upper() or letter.scene.language == "he"


@pytest.mark.parametrize("purpose", ["", 'purpose = ""', 'purpose = "service"'])
def test_an_automation_that_does_not_say_what_its_letter_is_for_is_refused(purpose: str):
    """Line 41."""
    text = f'[[automation]]\nname = "a"\non = ["member_added"]\nemail = "welcome"\n{purpose}\n'

    with pytest.raises(ConfigError, match="purpose"):
        parse_automations(text)


@pytest.mark.parametrize(("planned", "now"), [("onboarding", "promotional"), ("promotional", "onboarding")])
def test_of_two_purposes_the_stricter_counts(
    records: Database, server: MailServer, clock: Clock, planned: str, now: str
):
    """Line 41: what was planned as one and is the other by now needs the consent of an offer."""
    before = (
        '[policy]\nonboarding_without_consent = true\n[[automation]]\nname = "a"\non = ["member_added"]\n'
    )
    text = before + 'email = "welcome"\npurpose = "{}"\n'
    office = Office(records, server, clock, automations=text.format(planned))
    office.hear(Scene("silent", subscription=None))
    if planned == "promotional":  # a yes that is taken back before the letter goes
        office.wix.subscriptions["silent@example.com"] = Subscription("SUBSCRIBED", "VALID")
    run_events(office.services)
    office.wix.subscriptions.clear()
    later = Office(records, server, clock, automations=text.format(now))
    later.wix.know(Scene("silent", subscription=None))

    later.work()

    [row] = later.rows()
    assert (row.state, server.letters) == ("skipped", [])
    assert "promotional letters need SUBSCRIBED" in row.reason


WIRE = {
    events.MEMBER_ADDED: "wix.social_groups.v2.group_member_added",
    events.JOIN_REQUESTED: "wix.social_groups.v2.join_group_request_created",
    events.JOIN_REJECTED: "wix.social_groups.v2.join_group_request_rejected",
}
WHO = Scene(
    "somebody",
    site_id=SITE,
    email="zebulonia.quagmire@people.example.org",
    first_name="Zebulonia",
    reason="Zebulonia sang too loudly",
)
PRIVATE = ("zebulonia.quagmire", "people.example", "Zebulonia", "xylophone", "+12025550102")


def rows(records: Database) -> str:
    with records.read() as tx:
        return "\n".join(
            str(tuple(row)) for table in metadata.sorted_tables for row in tx.execute(sa.select(table))
        )


def octets(file: Path) -> bytes:
    """Of the database, with its log and the pages that no row is in any more."""
    return b"".join(path.read_bytes() for path in sorted(file.parent.glob(f"{file.name}*")))


def deliver(file: Path, *heard: tuple[str, dict[str, Any]], **more: Any) -> list[int]:
    """Signed, to the web process."""

    async def go() -> list[int]:
        async with running(create_app(settings_for(f"sqlite:///{file}", file.parent))) as client:
            return [
                (await client.post("/webhooks/wix", content=delivery(inner, kind, **more))).status_code
                for kind, inner in heard
            ]

    return asyncio.run(go())


def test_nothing_of_a_forgotten_person_is_left_in_any_store_or_log(
    records: Database,
    server: MailServer,
    clock: Clock,
    files: Path,
    caplog: pytest.LogCaptureFixture,
):
    """Lines 36 and 37: before they ask to be forgotten there are ids, keyed hashes, and what they were told when they
    were turned away; no octet of the file is of their address or name. Afterwards ids and keyed hashes are left."""
    caplog.set_level(logging.INFO)
    clock.now = datetime.now(UTC)
    office = Office(records, server, clock)
    office.scenes[WHO.member] = WHO
    office.wix.know(WHO)
    for key in list(office.wix.answers):
        office.wix.answers[key] = (Answer("What do you play?", "the xylophone, and yoga"),)
    server.replies = {
        "RCPT": [f"450 4.2.0 <{WHO.address}> is busy", f"550 5.1.8 <{WHO.address}>: not from you"]
    }
    contact = {
        "id": "c-1",
        "primaryInfo": {"email": WHO.address, "phone": "+12025550102"},
        "primaryEmail": {"email": WHO.address, "subscriptionStatus": "SUBSCRIBED"},
        "info": {"name": {"first": "Zebulonia"}, "emails": {"items": [{"email": WHO.address}]}},
    }
    at = {"eventTime": clock.now.isoformat()}
    updated = {"id": "e-c", "entityId": "c-1", "updatedEvent": {"currentEntity": contact}, **at}
    subscribed = {"subscription": {"email": WHO.address, "subscriptionStatus": "SUBSCRIBED"}}
    heard = [
        ("wix.contacts.v4.contact_updated", updated),
        ("com.wixpress.emailsubscriptions.v1.EmailSubscriptionChanged", subscribed),
        *((WIRE[kind], {"id": f"e-{kind}", **json.loads(payload(WHO, kind)), **at}) for kind in STANDING),
    ]
    assert deliver(files, *heard) == [200] * len(heard)
    assert deliver(files, *heard, key=STRANGERS_KEY) == [401] * len(heard)
    for _ in range(3):
        clock.move(hours=5)
        office.work()
    assert {row.state for row in office.rows()} >= {"sent", "failed"}
    [letter, *_] = office.letters()
    returned = (Path(__file__).parents[1] / "email" / "returned" / "postfix-user-unknown.eml").read_bytes()
    room = Mailroom(office.paths, Returns(records), office.services.senders)
    room.take_in(
        re.sub(rb"@BOUNCES@|@bounces@", letter.envelope_from.encode(), returned).replace(
            b"ann@example.org", WHO.address.encode()
        )
    )

    def said() -> str:
        """By Usher; the mail server of this test names everybody."""
        ours = ("admin", "config", "core", "integrations", "tasks", "webhooks")
        return "\n".join(str(record.__dict__) for record in caplog.records if record.name.startswith(ours))

    for word in PRIVATE:
        assert word.encode().lower() not in octets(files).replace(WHO.reason.encode(), b"").lower(), word
        assert word.lower() not in said().lower(), word

    erasure = {
        "id": "e-x",
        "entityId": WHO.member,
        "deletedEvent": {},
        "triggeredByAnonymizeRequest": True,
        **at,
    }
    assert deliver(files, ("wix.members.v1.member_deleted", erasure)) == [200]
    letters = len(server.letters)
    clock.move(hours=5)
    office.work()
    assert deliver(files, *((kind, {**inner, "id": f"{inner.get('id')}-again"}) for kind, inner in heard))
    clock.move(hours=5)
    office.work()

    assert len(server.letters) == letters
    assert office.suppressed()["all"] >= {"forgotten"}
    for word in (*PRIVATE, "sang too loudly"):
        assert word.lower() not in rows(records).lower(), word
        assert word.lower() not in said().lower(), word
