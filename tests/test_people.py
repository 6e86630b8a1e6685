"""What an admin can find out about a person, and do for them: over real databases, with Wix there and away."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from admin.office import Office, people, why
from admin.office.people import Person
from admin.office.people_file import render_export
from admin.office.refusals import RefusedError
from core import events as kinds
from core.community import (
    Answer,
    Group,
    GroupId,
    Member,
    MemberId,
    Membership,
    Subscription,
)
from core.community import (
    Person as Contact,
)
from core.consent import ADMINS_REASONS, Purpose
from core.errors import ForbiddenError, MailRefusedError, NotThereError, RetryableError, WrongStateError
from core.gate import Defer, Send, Skip
from core.people import mask_address
from integrations.store.audit import Audit
from integrations.store.database import Database
from integrations.store.people import People
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.suppressions import suppress
from integrations.store.tables import metadata, suppressions
from integrations.store.tokens import Holder, Role
from tests.house import ANN, RUNNERS, SITE, WELCOME, YOGA, Clock, House, a_house, an_event

BOB = MemberId("m-bob")
TRADERS = GroupId("g-traders")
OWNER = Holder("u1", "user ada", Role.OWNER, EVERYTHING)
CAPTAIN = Holder("u2", "user cap", Role.GROUP_ADMIN, Reach(frozenset({SITE}), frozenset({RUNNERS})))
TRADER = Holder("u3", "user tra", Role.GROUP_ADMIN, Reach(frozenset({SITE}), frozenset({TRADERS})))
AWAY = RetryableError("Wix is away")


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    """Ann runs, and Bob trades."""
    found = a_house(database, clock, WELCOME + YOGA)
    found.wix.groups[TRADERS] = Group(TRADERS, "Traders")
    found.wix.members[BOB] = Member(BOB, "APPROVED", "bob@example.com", "Bob", last_name="Stone")
    found.wix.memberships[TRADERS, BOB] = Membership("joined")
    found.wix.memberships[RUNNERS, ANN] = Membership("joined", joined_at=clock() - timedelta(hours=1))
    return found


@pytest.fixture
def office(house: House) -> Office:
    return Office.of_services(house.services, house.database)


def wix_away(house: House) -> None:
    for name in ("get_members", "get_membership", "find_people", "list_answers", "get_subscriptions"):
        house.wix.fails[name] = [AWAY] * 20


def look(office: Office, member: MemberId = ANN, holder: Holder = OWNER) -> Person:
    return people.look(office, holder, SITE, member)


def ask(office: Office, about: str, member: MemberId = ANN, holder: Holder = OWNER) -> tuple[str, str]:
    found = why.explain(office, holder, look(office, member, holder), about)
    return found.answer, " ".join(map(why.in_english, found.because))


def audit(house: House) -> list[tuple[str, str, str]]:
    """In no order: some lines are of one moment."""
    rows = Audit(house.database).page()
    return sorted((row.who, row.action, row.object) for row in rows if "people" in row.action)


def stops(house: House) -> set[tuple[str, str, str]]:
    with house.database.read() as tx:
        rows = tx.execute(sa.select(suppressions)).all()
    return {(row.subject.partition(":")[0], row.scope, row.cause) for row in rows}


# Finding


@pytest.mark.parametrize(
    "term", ["Bob Stone", "  bob   STONE ", "bob@example.com", "Bob@Example.com", "m-bob"]
)
def test_somebody_is_found_by_name_address_or_id(office: Office, house: House, term: str):
    found = people.find(office, OWNER, SITE, term)

    assert [(hit.member, hit.name, hit.address) for hit in found.hits] == [
        (BOB, "Bob Stone", "b…@example.com")
    ]
    assert (found.trouble, found.more) == ("", False)


def test_somebody_is_found_by_phone(office: Office, house: House):
    house.wix.people = [Contact("c9", house.wix.members[BOB], phones=frozenset({"+4930901820"}))]

    assert [hit.member for hit in people.find(office, OWNER, SITE, "+49 30 901820").hits] == [BOB]
    with pytest.raises(RefusedError) as refused:
        people.find(office, OWNER, SITE, "030 901820")
    assert "country code" in refused.value.errors[0]["detail"]


def test_namesakes_are_told_apart_and_contacts_without_an_account_are_named(office: Office, house: House):
    house.wix.members[MemberId("m-2")] = Member(
        MemberId("m-2"), "APPROVED", "s@example.org", "Bob", last_name="Stone"
    )
    house.wix.people = [
        Contact("c9", None, frozenset({"x@example.net"}), first_name="Bob", last_name="Stone")
    ]

    found = people.find(office, OWNER, SITE, "Bob Stone")

    assert [(hit.member, hit.address) for hit in found.hits] == [
        ("m-2", "s…@example.org"),
        (BOB, "b…@example.com"),
        (None, "x…@example.net"),
    ]


def test_somebody_known_here_is_found_by_id_while_wix_is_away(office: Office, house: House):
    house.hear(an_event(house.clock))
    house.work()
    wix_away(house)

    found = people.find(office, OWNER, SITE, ANN)

    assert [(hit.member, hit.groups) for hit in found.hits] == [(ANN, (RUNNERS,))]
    assert found.trouble
    assert people.find(office, OWNER, SITE, "m-nobody").hits == ()


@pytest.mark.parametrize("term", ["", "   ", "x" * 321, "not an @ address"])
def test_what_nobody_can_be_called_is_refused(office: Office, house: House, term: str):
    with pytest.raises(RefusedError) as refused:
        people.find(office, OWNER, SITE, term)
    assert [error["field"] for error in refused.value.errors] == ["term"]
    assert not [asked for asked in house.wix.asked if asked[0] == "find_people"]


def test_a_group_admin_finds_people_of_their_groups_alone(office: Office, house: House):
    assert [hit.member for hit in people.find(office, CAPTAIN, SITE, "ann@example.com").hits] == [ANN]
    assert people.find(office, CAPTAIN, SITE, "Bob Stone").hits == ()
    assert people.find(office, CAPTAIN, SITE, BOB).hits == ()
    assert [hit.member for hit in people.find(office, TRADER, SITE, "Bob Stone").hits] == [BOB]


def test_a_group_admin_finds_who_was_once_in_their_group(office: Office, house: House):
    house.hear(an_event(house.clock))
    house.work()
    house.wix.memberships.clear()

    assert [hit.member for hit in people.find(office, CAPTAIN, SITE, "ann@example.com").hits] == [ANN]
    assert people.find(office, TRADER, SITE, "ann@example.com").hits == ()


def test_nobody_is_looked_for_on_a_site_out_of_reach(office: Office, house: House):
    stranger = Holder("u4", "user far", Role.MANAGER, Reach(frozenset({"another-site"})))
    for act in (
        lambda: people.find(office, stranger, SITE, "Bob Stone"),
        lambda: people.look(office, stranger, SITE, ANN),
        lambda: people.suppress(office, stranger, SITE, ANN, scope="all", reason="asked"),
        lambda: people.release(office, stranger, SITE, ANN, scope="all", cause="admin"),
        lambda: people.export(office, stranger, SITE, ANN),
        lambda: people.erase(office, stranger, SITE, ANN),
    ):
        with pytest.raises(NotThereError):
            act()
    assert (house.wix.asked, audit(house)) == ([], [])


# One person


def test_a_person_shows_groups_answers_letters_and_what_the_gate_says(office: Office, house: House):
    house.wix.answers[RUNNERS, ANN] = (Answer("Why?", "for yoga"),)
    house.hear(an_event(house.clock))
    house.work()

    person = look(office)

    [place] = person.places
    assert place.standing is not None
    assert (place.group, place.standing.status, place.answers) == (
        RUNNERS,
        "joined",
        (Answer("Why?", "for yoga"),),
    )
    assert [(row.automation, row.state) for row in person.records.letters] == [("welcome", "sent")]
    assert person.subscription == Subscription("SUBSCRIBED", "VALID")
    assert {ruling.purpose: type(ruling.verdict) for ruling in person.rulings} == {
        Purpose.ONBOARDING: Send,
        Purpose.PROMOTIONAL: Send,
    }


def test_the_verdicts_are_the_gates_own(office: Office, house: House, clock: Clock):
    house.wix.subscriptions["ann@example.com"] = Subscription("NOT_SET", "VALID")
    assert [ruling.verdict.reason for ruling in look(office).rulings if isinstance(ruling.verdict, Skip)] == [
        "never subscribed (Wix: NOT_SET); `onboarding_without_consent` would allow it",
        "never subscribed (Wix: NOT_SET); promotional letters need SUBSCRIBED",
    ]
    house.wix.subscriptions["ann@example.com"] = Subscription("SUBSCRIBED", "VALID")
    with house.database.begin() as tx:
        known = house.services.hashes.of("ann@example.com")[0]
        ends = clock() + timedelta(days=2)
        suppress(tx, SITE, f"address:{known}", "all", cause="full", reason="mailbox full", expires_at=ends)
        suppress(tx, SITE, f"member:{ANN}", f"group:{RUNNERS}", cause="unsubscribed", reason="not this group")

    rulings = {(ruling.purpose, ruling.group): ruling.verdict for ruling in look(office).rulings}

    assert isinstance(rulings[Purpose.PROMOTIONAL, None], Defer)
    held = rulings[Purpose.PROMOTIONAL, RUNNERS]
    assert isinstance(held, Skip)
    assert held.reason == "not this group"


def test_a_person_is_shown_while_wix_is_away_and_that_is_said(office: Office, house: House):
    house.hear(an_event(house.clock))
    house.work()
    wix_away(house)

    person = look(office)

    assert (person.member, person.rulings, bool(person.trouble)) == (None, (), True)
    assert [(place.group, place.standing) for place in person.places] == [(RUNNERS, None)]
    with pytest.raises(RetryableError):
        look(office, MemberId("m-nobody"))


def test_answers_that_wix_does_not_show_are_said_to_be_unknown(office: Office, house: House):
    house.wix.fails["list_answers"] = [ForbiddenError("403")] * 3
    house.hear(an_event(house.clock))
    house.work()

    [place] = look(office).places

    assert (place.answers, bool(place.trouble)) == (None, True)


def test_nobody_is_nobody(office: Office):
    with pytest.raises(NotThereError):
        look(office, MemberId("m-nobody"))


def test_wix_is_asked_about_few_groups(office: Office, house: House):
    for number in range(20):
        group = GroupId(f"g{number}")
        house.wix.groups[group] = Group(group, f"Group {number}")
        house.wix.memberships[group, ANN] = Membership("joined")
        house.hear(an_event(house.clock, id=f"e{number}", group=group))
    house.turn()
    house.wix.asked.clear()

    person = look(office)

    assert len(person.places) == 20
    assert (
        len([asked for asked in house.wix.asked if asked[0] == "get_membership"]) == people.MOST_GROUPS_ASKED
    )


def test_a_group_admin_sees_of_a_person_what_is_about_their_groups(
    office: Office, house: House, clock: Clock
):
    house.wix.memberships[TRADERS, ANN] = Membership("joined")
    house.hear(an_event(clock), an_event(clock, id="e2", group=TRADERS))
    house.work()
    with house.database.begin() as tx:
        suppress(tx, SITE, f"member:{ANN}", f"group:{TRADERS}", cause="unsubscribed", reason="no trade")
        suppress(tx, SITE, f"member:{ANN}", "promotional", cause="unsubscribed", reason="no offers")

    person = look(office, ANN, CAPTAIN)

    assert {row.group_id for row in person.records.letters} == {RUNNERS}
    assert {told.group for told in person.records.told} == {RUNNERS}
    assert [place.group for place in person.places] == [RUNNERS]
    assert [row.scope for row in person.records.suppressions] == ["promotional"]
    assert {ruling.group for ruling in person.rulings} == {None}
    with pytest.raises(NotThereError):
        look(office, BOB, CAPTAIN)


# Did they get it, and why not?


def test_a_letter_that_went_is_a_yes(office: Office, house: House):
    house.hear(an_event(house.clock))
    house.work()

    answer, said = ask(office, "automation:welcome")

    assert (answer, said) == ("yes", "Trail Runners: the mail server took it on 2026-05-03 12:00 UTC.")
    assert ask(office, "letter:welcome")[0] == "yes"


def test_a_letter_that_was_skipped_says_why(office: Office, house: House):
    house.wix.subscriptions["ann@example.com"] = Subscription("UNSUBSCRIBED")
    house.hear(an_event(house.clock))
    house.work()

    assert ask(office, "automation:welcome") == (
        "no",
        "Trail Runners: it was not sent: unsubscribed (Wix: UNSUBSCRIBED).",
    )


def test_without_an_event_nothing_could_set_the_letter_off(office: Office, house: House):
    house.hear(an_event(house.clock))
    house.work()

    answer, said = ask(office, "automation:yoga-offer")

    assert answer == "no"
    assert "somebody who asked to join, and of nothing like that Usher has heard" in said
    assert "They joined Trail Runners on" in said


def test_who_was_in_a_group_before_usher_looked_at_it_is_not_written_to(
    office: Office, house: House, clock: Clock
):
    house.hear(an_event(clock, type=kinds.JOIN_REQUESTED))
    house.work()
    with house.database.begin() as tx:
        tx.execute(
            sa.insert(metadata.tables["watches"]).values(
                site=SITE, kind="members", group_id=RUNNERS, state="watched", attempts=0, crashes=0,
                next_at=clock(), since=clock(), pending={}, privacy="",
            )
        )  # fmt: skip

    answer, said = ask(office, "automation:welcome")

    assert answer == "no"
    assert "before Usher began to look at it on 2026-05-03 12:00 UTC; whoever was there before is not" in said


@pytest.mark.parametrize(
    ("age_days", "answer", "reason"),
    [
        (5.0, "no", "nothing followed: 5.0 days old; `max_age` would allow it"),
        (0.0, "yes", "the mail server took it"),
    ],
)
def test_an_event_that_was_too_old_says_so(
    office: Office, house: House, clock: Clock, age_days: float, answer: str, reason: str
):
    house.hear(an_event(clock, days=age_days))
    house.work()

    found, said = ask(office, "automation:welcome")

    assert found == answer
    assert reason in said


def test_an_event_that_waits_or_died_says_so(office: Office, house: House, clock: Clock):
    house.wix.fails["get_group"] = [AWAY]
    house.hear(an_event(clock))
    with house.database.begin() as tx:
        table = metadata.tables["events"]
        tx.execute(sa.update(table).values(member=ANN))
    assert ask(office, "automation:welcome")[0] == "not yet"
    with house.database.begin() as tx:
        tx.execute(sa.update(table).values(state="dead", error="Wix refused it"))

    assert ask(office, "automation:welcome")[1] == (
        "2026-05-03 12:00 UTC, they joined (Trail Runners): working that off failed: Wix refused it."
    )


def test_an_automation_that_came_later_is_said_to_be_one(office: Office, house: House, clock: Clock):
    """The event was worked off under another file; what it would do now is told by the answers there are."""
    from dataclasses import replace

    from core.automations import parse_automations

    house.wix.memberships[RUNNERS, ANN] = Membership("pending")
    house.wix.answers[RUNNERS, ANN] = (Answer("Why?", "I love chess"),)
    before = replace(house.services, book=_Fixed(parse_automations("")))
    house.hear(an_event(clock, type=kinds.JOIN_REQUESTED))
    from tasks.events import run_events

    run_events(before)
    with house.database.begin() as tx:
        tx.execute(sa.update(metadata.tables["events"]).values(member=ANN, state="done", error=None))

    answer, said = ask(office, "automation:yoga-offer")

    assert answer == "unknown"
    assert "the automation did not listen there" in said
    assert "By the answers they have there now it would not apply" in said


def test_an_automation_that_is_not_for_the_group_is_named(database: Database, clock: Clock):
    house = a_house(
        database, clock, YOGA.replace('email = "yoga-offer"', 'email = "yoga-offer"\ngroups = ["Chess"]')
    )
    house.hear(an_event(clock, type=kinds.JOIN_REQUESTED))
    house.work()
    with database.begin() as tx:
        tx.execute(sa.update(metadata.tables["events"]).values(state="done", error=None))
    office = Office.of_services(house.services, database)

    assert ask(office, "automation:yoga-offer") == (
        "no",
        "2026-05-03 12:00 UTC, they asked to join (Trail Runners): the automation is not for this group.",
    )


def test_a_job_that_did_not_find_them_says_where_it_looked(office: Office, house: House, clock: Clock):
    job = house.ask_for("group_email", group=TRADERS, email="welcome", purpose="onboarding")
    house.confirm(job)

    answer, said = ask(office, f"job:{job}")

    assert (answer, said) == (
        "no",
        "When the job looked at who is in Traders on 2026-05-03 12:00 UTC, they were not there.",
    )
    house.hear(an_event(clock))
    house.work()
    assert ask(office, "letter:welcome")[0] == "yes"


def test_a_job_that_nobody_confirmed_is_a_not_yet(office: Office, house: House):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    assert ask(office, f"job:{job}") == (
        "not yet",
        "Trail Runners: it waits until somebody confirms the job.",
    )
    house.confirm(job)
    assert ask(office, f"job:{job}")[0] == "yes"


def test_a_list_of_people_tells_what_became_of_them(office: Office, house: House):
    job = house.ask_for(
        "create_group",
        group={"name": "Monday", "privacyStatus": "PRIVATE", "creatorId": BOB},
        people=[{"email": "ann@example.com"}],
    )
    house.confirm(job)

    assert ask(office, f"job:{job}")[0] == "yes"


def test_what_was_never_planned_by_anything_is_said_so(office: Office, house: House):
    house.hear(an_event(house.clock))
    house.work()

    assert ask(office, "automation:long-gone")[0] == "unknown"
    assert ask(office, "letter:nobody-uses-it") == (
        "no",
        "No automation and no job of this site uses this letter.",
    )
    for about in ("", "automation:", "moon:x"):
        with pytest.raises(RefusedError):
            ask(office, about)
    with pytest.raises(NotThereError):
        ask(office, "job:not-there")


def test_a_job_out_of_reach_is_not_explained(office: Office, house: House):
    job = house.ask_for("group_email", group=TRADERS, email="welcome", purpose="onboarding")

    with pytest.raises(NotThereError):
        ask(office, f"job:{job}", ANN, CAPTAIN)


def test_of_somebody_forgotten_nothing_can_be_told(office: Office, house: House):
    house.hear(an_event(house.clock))
    people.erase(office, OWNER, SITE, ANN)

    answer, said = ask(office, "automation:welcome")

    assert answer == "unknown"
    assert "asked to be forgotten" in said


# Ending letters, and lifting that


def test_what_an_admin_ends_the_gate_keeps(office: Office, house: House):
    people.suppress(office, OWNER, SITE, ANN, scope="all", reason="asked")
    house.hear(an_event(house.clock))
    house.work()

    assert house.mail.readers == []
    assert house.rows() == [
        ("welcome", "skipped", f"an admin ended these letters: {ADMINS_REASONS['asked']}")
    ]
    assert audit(house) == [("user ada", "people.suppress", f"member {ANN}")]
    assert not [asked for asked in house.wix.asked if asked[0] == "set_subscription"]
    with pytest.raises(WrongStateError):
        people.suppress(office, OWNER, SITE, ANN, scope="all", reason="asked")


def test_it_holds_for_another_account_with_the_same_address(office: Office, house: House):
    people.suppress(office, OWNER, SITE, ANN, scope="all", reason="asked")
    twin = MemberId("m-twin")
    house.wix.members[twin] = Member(twin, "APPROVED", "Ann@example.com", "Ann")
    house.wix.memberships[RUNNERS, twin] = Membership("joined")
    house.hear(an_event(house.clock, member=twin))
    house.work()

    assert [state for _, state, _ in house.rows()] == ["skipped"]


def test_what_an_admin_lifts_goes_again(office: Office, house: House):
    people.suppress(office, OWNER, SITE, ANN, scope="all", reason="asked")
    people.release(office, OWNER, SITE, ANN, scope="all", cause="admin")
    house.hear(an_event(house.clock))
    house.work()

    assert house.mail.readers == ["ann@example.com"]
    assert stops(house) == set()
    assert [action for _, action, _ in audit(house)] == ["people.release", "people.suppress"]
    with pytest.raises(NotThereError):
        people.release(office, OWNER, SITE, ANN, scope="all", cause="admin")


@pytest.mark.parametrize("scope", ["promotional", f"group:{RUNNERS}"])
@pytest.mark.parametrize("first", ["admin", "person"])
def test_to_lift_the_admins_stop_frees_nobody_who_said_stop_themselves(
    office: Office, house: House, scope: str, first: str
):
    """The two would be one row, were they known by the same name: whoever came second would have been lost."""

    def say_stop() -> None:
        group = RUNNERS if scope.startswith("group:") else None
        known = house.services.hashes.of("ann@example.com")[0]
        house.services.suppressions.unsubscribe(SITE, ANN, known, "one click", group=group)

    if first == "person":
        say_stop()
    people.suppress(office, OWNER, SITE, ANN, scope=scope, reason="conduct")
    if first == "admin":
        say_stop()
    people.release(office, OWNER, SITE, ANN, scope=scope, cause="admin")

    assert {cause for _, _, cause in stops(house)} == {"unsubscribed"}
    with pytest.raises(WrongStateError, match="only they can take that back"):
        people.release(office, OWNER, SITE, ANN, scope=scope, cause="unsubscribed")
    assert {cause for _, _, cause in stops(house)} == {"unsubscribed"}


@pytest.mark.parametrize("cause", ["unsubscribed", "complaint", "forgotten", "something-new"])
def test_no_admin_lifts_what_is_the_persons_own(office: Office, house: House, cause: str):
    with house.database.begin() as tx:
        suppress(tx, SITE, f"member:{ANN}", "all", cause=cause, reason="a reason")

    with pytest.raises(WrongStateError):
        people.release(office, OWNER, SITE, ANN, scope="all", cause=cause)
    assert stops(house) == {("member", "all", cause)}
    assert audit(house) == []


def test_a_dead_address_may_be_tried_again(office: Office, house: House):
    house.mail.fails = [MailRefusedError("550 5.1.1 no such user", address_is_dead=True)]
    house.hear(an_event(house.clock))
    house.work()
    assert ("address", "all", "dead") in stops(house)

    people.release(office, OWNER, SITE, ANN, scope="all", cause="dead")

    assert stops(house) == set()


def test_a_yes_at_wix_lifts_no_admins_stop(office: Office, house: House, clock: Clock):
    people.suppress(office, OWNER, SITE, ANN, scope="promotional", reason="asked")
    known = house.services.hashes.of("ann@example.com")
    payload = json.dumps(
        {
            "addressHashes": list(known),
            "subscriptionStatus": "SUBSCRIBED",
            "deliverabilityStatus": "VALID",
            "updatedDate": clock().isoformat(),
        }
    )
    house.hear(an_event(clock, type=kinds.SUBSCRIPTION_CHANGED, payload=payload))
    clock.move(minutes=5)
    house.work()

    assert {cause for _, _, cause in stops(house)} == {"admin"}


@pytest.mark.parametrize(
    ("scope", "reason"), [("some", "asked"), ("group:", "asked"), ("all", "a mood"), ("", "")]
)
def test_what_nobody_can_mean_is_refused(office: Office, house: House, scope: str, reason: str):
    with pytest.raises(RefusedError) as refused:
        people.suppress(office, OWNER, SITE, ANN, scope=scope, reason=reason)
    assert refused.value.status == 422
    assert stops(house) == set()


def test_a_group_admin_decides_about_letters_of_their_groups_alone(office: Office, house: House):
    for scope in ("all", "promotional", f"group:{TRADERS}"):
        with pytest.raises(RefusedError) as refused:
            people.suppress(office, CAPTAIN, SITE, ANN, scope=scope, reason="conduct")
        assert refused.value.status == 403
        with pytest.raises(RefusedError):
            people.release(office, CAPTAIN, SITE, ANN, scope=scope, cause="admin")
    with pytest.raises(NotThereError):
        people.suppress(office, CAPTAIN, SITE, BOB, scope=f"group:{RUNNERS}", reason="conduct")

    people.suppress(office, CAPTAIN, SITE, ANN, scope=f"group:{RUNNERS}", reason="conduct")
    assert {scope for _, scope, _ in stops(house)} == {f"group:{RUNNERS}"}
    people.release(office, CAPTAIN, SITE, ANN, scope=f"group:{RUNNERS}", cause="admin")
    assert stops(house) == set()


def test_nobody_can_be_kept_from_letters_who_is_nobody(office: Office, house: House):
    with pytest.raises(NotThereError):
        people.suppress(office, OWNER, SITE, MemberId("m-nobody"), scope="all", reason="asked")
    assert stops(house) == set()


# Export and erase


def test_the_export_holds_every_row_and_nothing_of_others(office: Office, house: House, clock: Clock):
    house.wix.memberships[RUNNERS, BOB] = Membership("joined")
    house.hear(an_event(clock), an_event(clock, id="e2", member=BOB))
    house.work()
    job = house.ask_for(
        "create_group",
        group={"name": "Monday", "privacyStatus": "PRIVATE", "creatorId": BOB},
        people=[{"email": "ann@example.com", "row": 2}, {"email": "bob@example.com", "row": 3}],
    )
    people.suppress(office, OWNER, SITE, ANN, scope="promotional", reason="asked")

    found = people.export(office, OWNER, SITE, ANN)

    json.dumps(found)
    assert [event["id"] for event in found["events"]] == ["e1"]
    assert found["events"][0]["payload"]["entityId"] == RUNNERS
    assert [letter["automation"] for letter in found["letters"]] == ["welcome"]
    assert found["letters"][0]["evidence"].startswith("Wix at")
    assert [(row["job"], row["data"]["list"]["email"]) for row in found["lists"]] == [
        (job, "ann@example.com")
    ]
    assert {row["scope"] for row in found["suppressions"]} == {"promotional"}
    assert [line["action"] for line in found["audit"]] == ["people.suppress"]
    assert BOB not in json.dumps(found | {"audit": []})
    assert "bob@example.com" not in json.dumps(found)
    assert "lease" not in json.dumps(found)
    assert ("user ada", "people.export", f"member {ANN}") in audit(house)
    page = render_export(found)
    assert "yes" not in page[:15]
    assert f"Member {ANN} of site {SITE}" in page
    with pytest.raises(NotThereError):
        people.export(office, OWNER, SITE, MemberId("m-nobody"))


def test_what_stands_in_an_export_is_text_and_no_markup(office: Office, house: House):
    with house.database.begin() as tx:
        suppress(tx, SITE, f"member:{ANN}", "all", cause="admin", reason="<script>alert(1)</script>")

    page = render_export(people.export(office, OWNER, SITE, ANN))

    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def everything(database: Database) -> str:
    """Every cell of every table but the audit log and the automations."""
    with database.read() as tx:
        return "\n".join(
            str(tuple(row)) for table in metadata.sorted_tables if table.name not in ("audit", "automation_versions")
            for row in tx.execute(sa.select(table))
        )  # fmt: skip


def test_who_is_forgotten_leaves_an_id_and_a_keyed_hash(office: Office, house: House, clock: Clock):
    house.wix.answers[RUNNERS, ANN] = (Answer("Why?", "for yoga"),)
    house.hear(an_event(clock), an_event(clock, id="e2", type=kinds.JOIN_REQUESTED))
    house.work()
    people.suppress(office, OWNER, SITE, ANN, scope="promotional", reason="asked")
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    people.erase(office, OWNER, SITE, ANN)

    known = house.services.hashes.of("ann@example.com")[0]
    left = everything(house.database)
    assert "yoga" not in left.replace("yoga-offer", "")
    assert "ann@example.com" not in left
    assert ("address", "all", "forgotten") in stops(house)
    assert known in left
    assert ("user ada", "people.erase", f"member {ANN}") in audit(house)
    house.confirm(job)
    assert house.job(job).state == "done"
    house.hear(an_event(clock, id="e3"))
    house.work()
    assert house.mail.readers == ["ann@example.com"] * 2, "only what went before"
    people.erase(office, OWNER, SITE, ANN)
    assert look(office).records.is_forgotten


def test_a_job_that_runs_goes_on_for_the_others(office: Office, house: House):
    house.wix.memberships[RUNNERS, BOB] = Membership("joined")
    house.wix.subscriptions["bob@example.com"] = Subscription("SUBSCRIBED", "VALID")
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    people.erase(office, OWNER, SITE, ANN)
    house.confirm(job)

    assert house.mail.readers == ["bob@example.com"]
    counts = house.counts(job)
    assert (house.job(job).state, counts.total, counts.done, counts.skipped) == ("done", 2, 1, 1)


def test_somebody_who_never_got_a_letter_is_forgotten_by_their_address_at_wix(office: Office, house: House):
    people.erase(office, OWNER, SITE, BOB)

    assert stops(house) == {("member", "all", "forgotten"), ("address", "all", "forgotten")}
    with pytest.raises(NotThereError):
        people.erase(office, OWNER, SITE, MemberId("m-nobody"))


def test_the_mask_of_an_address_keeps_its_domain():
    assert [mask_address(one) for one in ("Ann@Example.com", "", "x", "@example.com")] == [
        "a…@example.com",
        "",
        "",
        "…@example.com",
    ]


class _Fixed:
    """A book that never changes."""

    def __init__(self, automations: object) -> None:
        self.automations = automations

    def current(self) -> object:
        return self.automations


def test_the_rows_of_one_site_are_no_other_ones(house: House):
    from core.community import SiteId

    house.hear(an_event(house.clock))
    house.work()

    assert not People(house.database).records(SiteId("elsewhere"), ANN)
    assert People(house.database).groups_of(SiteId("elsewhere"), [ANN]) == {}
