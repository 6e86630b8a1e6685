"""What follows from what in the community: pure, without HTTP."""

from typing import Any

import pytest

from sandbox.acts import ACTS, perform
from sandbox.community import Community, ConflictError, InvalidError, PreconditionError, UnknownError
from sandbox.loading import load_community
from sandbox.reading import InputError
from tests.sandbox.seaside import ADA, BEN, CHLOE, DMITRI, NOBODY, RUNNERS, YOGA, Clock

CLASS_QUESTION = "66d1c0b5-2a3f-4e4d-8c5b-1a2b3c4d5e01"


def reported(community: Community) -> list[str]:
    return [event.type.removeprefix("wix.social_groups.v2.") for event in community.take_events()]


def test_approving_a_request_reports_the_approval_and_the_new_member(community: Community) -> None:
    community.approve_join_requests(RUNNERS, [CHLOE])

    assert reported(community) == ["join_group_request_approved", "group_member_added"]
    assert CHLOE in community.group(RUNNERS).members


def test_the_entity_of_a_request_is_its_group_and_of_a_membership_its_member(community: Community) -> None:
    community.approve_join_requests(RUNNERS, [CHLOE])

    approved, added = community.take_events()
    assert (approved.data["entityId"], added.data["entityId"]) == (RUNNERS, CHLOE)
    assert added.data["actionEvent"]["body"]["groupMember"]["memberId"] == CHLOE


def test_an_admin_adds_public_profiles_and_only_invites_private_ones(community: Community) -> None:
    community.update_member(DMITRI, privacy="PRIVATE")
    community.take_events()

    added = community.add_group_members(RUNNERS, [BEN, DMITRI])

    assert [member.member_id for member in added] == [BEN]
    assert community.group(RUNNERS).invited == {DMITRI}
    assert reported(community) == ["group_member_added"]


def test_adding_somebody_twice_changes_nothing_and_reports_nothing(community: Community) -> None:
    before = community.group(YOGA).members[BEN].joined

    assert [m.joined for m in community.add_group_members(YOGA, [BEN])] == [before]
    assert reported(community) == []


def test_nobody_is_added_when_one_of_them_is_unknown(community: Community) -> None:
    with pytest.raises(UnknownError):
        community.add_group_members(YOGA, [DMITRI, NOBODY])

    assert DMITRI not in community.group(YOGA).members


def test_opening_a_private_group_lets_everybody_waiting_in(community: Community) -> None:
    community.update_group(RUNNERS, {"privacyStatus": "PUBLIC"})

    assert reported(community) == ["group_updated", "join_group_request_approved", "group_member_added"]


def test_hiding_a_private_group_rejects_everybody_waiting(community: Community) -> None:
    community.update_group(RUNNERS, {"privacyStatus": "SECRET"})

    assert reported(community) == ["group_updated", "join_group_request_rejected"]
    assert CHLOE not in community.group(RUNNERS).members


@pytest.mark.parametrize(("privacy", "changes"), [("PUBLIC", True), ("PRIVATE", True), ("SECRET", False)])
def test_a_new_name_is_a_new_slug_except_for_secret_groups(
    community: Community, privacy: str, changes: bool
) -> None:
    group = community.create_group({"name": "Old name", "privacyStatus": privacy}, creator_id=ADA)
    before = group.slug

    community.update_group(group.id, {"name": "New name"})

    assert (group.slug != before) is changes
    assert (group.slug == "new-name") is changes


def test_two_groups_of_one_name_have_different_slugs(community: Community) -> None:
    slugs = {community.create_group({"name": "Twins"}, creator_id=ADA).slug for _ in range(2)}

    assert len(slugs) == 2


def test_the_creator_of_a_group_is_its_owner_and_admin(community: Community) -> None:
    group = community.create_group({"name": "Kites"}, creator_id=BEN)

    assert (group.owner_id, group.members[BEN].role) == (BEN, "ADMIN")
    assert reported(community) == ["group_created"]


def test_joining_a_public_group_alone_is_not_reported(community: Community) -> None:
    community.join(YOGA, DMITRI)

    assert DMITRI in community.group(YOGA).members
    assert reported(community) == []


def test_joining_and_leaving_alone_can_be_reported_as_wix_does_inside(community: Community) -> None:
    community.self_service_events = True

    community.join(YOGA, DMITRI)
    community.leave(YOGA, DMITRI)

    events = community.take_events()
    assert [e.type[-6:] for e in events] == ["joined", "r_left"]
    assert {(e.identity or {}).get("memberId") for e in events} == {DMITRI}


def test_nobody_simply_joins_a_private_group(community: Community) -> None:
    with pytest.raises(PreconditionError):
        community.join(RUNNERS, DMITRI)


@pytest.mark.parametrize("answers", [{}, {"Anything we should know?": "no"}, {CLASS_QUESTION: "  "}])
def test_a_request_without_a_required_answer_is_refused(
    community: Community, answers: dict[str, str]
) -> None:
    with pytest.raises(InvalidError, match="Which class"):
        community.request_join(RUNNERS, DMITRI, answers)

    assert reported(community) == []


def test_answers_are_kept_under_the_question_whether_named_by_text_or_id(community: Community) -> None:
    text = "Which class are you most interested in?"

    community.request_join(RUNNERS, DMITRI, {text: "yoga"})

    assert community.group(RUNNERS).answers[DMITRI] == {CLASS_QUESTION: "yoga"}


def test_one_cannot_ask_twice_nor_be_decided_on_twice(community: Community) -> None:
    with pytest.raises(ConflictError):
        community.request_join(RUNNERS, CHLOE, {CLASS_QUESTION: "yoga"})
    community.reject_join_requests(RUNNERS, [(CHLOE, "full")])
    with pytest.raises(ConflictError):
        community.approve_join_requests(RUNNERS, [CHLOE])

    assert community.group(RUNNERS).requests[CHLOE].reason == "full"
    assert CHLOE not in community.group(RUNNERS).answers


def test_who_was_rejected_may_ask_again(community: Community) -> None:
    community.request_join(RUNNERS, DMITRI, {CLASS_QUESTION: "yoga"})

    assert community.group(RUNNERS).requests[DMITRI].status == "PENDING"


def test_replaced_questions_have_new_ids_and_old_answers_keep_theirs(community: Community) -> None:
    community.set_questions(RUNNERS, [("Which class are you most interested in?", True)])

    assert community.group(RUNNERS).questions[0].id != CLASS_QUESTION
    assert CLASS_QUESTION in community.group(RUNNERS).answers[CHLOE]


def test_erasing_takes_a_person_out_of_everything_and_says_why(community: Community) -> None:
    contact = community.member(BEN).contact.id
    groups = {group.id for group in community.groups.values() if BEN in group.members}

    community.delete_member(BEN, erase=True)

    events = community.take_events()
    assert all(event.data["triggeredByAnonymizeRequest"] for event in events)
    removed = {
        e.data["actionEvent"]["body"]["groupId"] for e in events if e.type.endswith("group_member_removed")
    }
    assert removed == groups
    assert [e.type for e in events[-2:]] == [
        "wix.members.v1.member_deleted",
        "wix.contacts.v4.contact_deleted",
    ]
    assert BEN not in community.members
    assert contact not in community.contacts
    assert community.subscription_of("ben@example.com") is None


def test_a_deleted_member_stays_a_contact_and_no_privacy_request_is_claimed(community: Community) -> None:
    contact = community.member(BEN).contact.id

    community.delete_member(BEN)

    assert contact in community.contacts
    assert not any(event.data["triggeredByAnonymizeRequest"] for event in community.take_events())


def test_events_of_one_entity_are_numbered_upwards(community: Community) -> None:
    for name in ("First", "Second"):
        community.update_group(YOGA, {"name": name})

    first, second = (event.data["entityEventSequence"] for event in community.take_events())
    assert int(second) == int(first) + 1


def test_an_event_shows_the_moment_it_happened_not_a_later_one(community: Community) -> None:
    community.update_group(YOGA, {"settings": {"showMemberList": False}})
    community.update_group(YOGA, {"settings": {"showMemberList": True}})

    first, _ = community.take_events()
    assert first.data["updatedEvent"]["currentEntity"]["settings"]["showMemberList"] is False


def test_a_role_is_only_taken_from_who_has_it(community: Community) -> None:
    with pytest.raises(PreconditionError):
        community.unassign_role(YOGA, [BEN], "ADMIN")
    community.assign_role(YOGA, [BEN], "ADMIN")
    community.unassign_role(YOGA, [BEN], "ADMIN")

    assert reported(community) == ["group_role_assigned", "group_role_unassigned"]


def test_consent_is_one_record_however_the_address_is_written(community: Community) -> None:
    community.set_subscription("BEN@Example.com", "UNSUBSCRIBED")

    record = community.subscription_of("ben@example.com")
    assert (record and record.status) == "UNSUBSCRIBED"
    (event,) = community.take_events()
    assert (event.identity, set(event.data)) == (None, {"subscription"})


def test_an_approved_group_request_becomes_a_group_with_its_id(community: Community) -> None:
    (request,) = community.approve_group_requests(["a7e1f2d3-4c5b-4a69-9788-6f5e4d3c2b74"])

    group = community.group(request.group.id)
    assert (group.name, group.members[CHLOE].role) == ("Book Club", "ADMIN")
    assert reported(community) == ["group_request_approved", "group_created"]


def test_the_built_in_community_knows_every_state_of_consent(community: Community) -> None:
    records = community.subscriptions.values()
    members = community.members.values()

    assert {r.status for r in records} == {"NOT_SET", "PENDING", "SUBSCRIBED", "UNSUBSCRIBED"}
    assert {"BOUNCED", "SPAM_COMPLAINT", "INACTIVE", "VALID"} <= {r.deliverability for r in records}
    assert any(m.email and community.subscription_of(m.email) is None for m in members)
    assert {"", "BLOCKED", "PRIVATE"} <= {m.email for m in members} | {m.status for m in members} | {
        m.privacy for m in members
    }
    assert len(members) >= 60


def test_addresses_of_the_built_in_community_cannot_belong_to_anybody(community: Community) -> None:
    addresses = [email for contact in community.contacts.values() for email in contact.emails]

    assert {address.split("@")[1] for address in addresses} <= {"example.com", "example.org", "example.net"}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "community: expected an object"),
        ({"grups": []}, "unknown grups"),
        ({"members": [{"email": "a@example.com", "frist": "A"}]}, r"members\[0\]: unknown frist"),
        ({"members": [{"first": "A"}]}, r"members\[0\]: email is missing"),
        ({"members": [{"email": "", "id": "7"}]}, "id must be a GUID"),
        ({"members": [{"email": "a@example.com"}, {"email": "A@example.com"}]}, "exists already"),
        ({"groups": [{"name": "G", "privacy": "OPEN"}]}, "privacy must be one of PUBLIC, PRIVATE, SECRET"),
        ({"groups": [{"name": "x" * 101, "privacy": "PUBLIC"}]}, "group.name has length 101"),
        ({"subscriptions": {"nobody": "SUBSCRIBED"}}, "is not an email address"),
        ({"subscriptions": {"a@example.com": "YES"}}, "status must be one of"),
        ({"memberships": [{"group": "G", "member": "A"}]}, r"memberships\[0\]: no group 'G'"),
    ],
)
def test_a_bad_community_is_refused_with_the_place_of_the_mistake(
    clock: Clock, data: Any, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        load_community(data, now=clock.moment)


def test_a_community_may_hold_what_wix_has_not_thought_of_yet_and_groups_that_were_never_used(
    clock: Clock,
) -> None:
    data = {
        "groups": [{"name": "G", "privacy": "PUBLIC", "last_activity": "never"}],
        "subscriptions": {"a@example.com": {"status": "UNKNOWN", "deliverability": "SOMETHING_NEW"}},
    }
    community = load_community(data, now=clock.moment)

    [said] = community.subscriptions.values()
    assert (said.status, said.deliverability) == ("UNKNOWN", "SOMETHING_NEW")
    [group] = community.groups.values()
    assert "lastActivityDate" not in group.wire()


def test_people_and_groups_without_ids_get_the_same_ones_again(clock: Clock) -> None:
    data = {"groups": [{"name": "G", "privacy": "PUBLIC"}], "members": [{"email": "a@example.com"}]}
    first, second = (load_community(data, now=clock.moment) for _ in range(2))

    assert (list(first.groups), list(first.members)) == (list(second.groups), list(second.members))


@pytest.mark.parametrize("name", ACTS)
def test_every_act_refuses_an_argument_it_does_not_know(community: Community, name: str) -> None:
    with pytest.raises(InputError, match="unknown colour"):
        perform(community, name, {"colour": "red"})

    assert community.take_events() == []


def test_a_loaded_community_is_silent_and_then_reports_again(clock: Clock) -> None:
    people = {
        "members": [{"first": "Ada", "email": "ada@example.com", "other_emails": ["ada@work.example.com"]}]
    }
    groups = {"groups": [{"name": "Kites", "privacy": "PUBLIC", "owner": "ada@example.com"}]}
    consent = {"subscriptions": {"ada@example.com": "SUBSCRIBED"}}

    community = load_community(people | groups | consent, now=clock.moment)

    assert community.take_events() == []
    (contact,) = community.contacts.values()
    assert contact.emails == ["ada@example.com", "ada@work.example.com"]
    community.set_subscription("ada@example.com", "UNSUBSCRIBED")
    (group,) = community.groups
    community.set_rules(group, [])
    assert len(community.take_events()) == 2


def test_members_are_listed_by_when_they_joined_however_the_file_has_them(clock: Clock) -> None:
    emails = ["a@example.com", "b@example.com", "c@example.com"]
    joined = ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-01T00:00:00Z"]

    community = load_community(
        {
            "members": [{"email": email} for email in emails],
            "groups": [{"name": "Kites", "privacy": "PUBLIC"}],
            "memberships": [
                {"group": "Kites", "member": email, "joined": when}
                for email, when in zip(emails, joined, strict=True)
            ],
        },
        now=clock.moment,
    )

    (group,) = community.groups.values()
    addresses = [community.member(member_id).email for member_id in group.members]
    assert addresses == ["c@example.com", "a@example.com", "b@example.com"]
