"""The run of jobs: its judges find each way in which one can have gone wrong. The run itself takes minutes, and is
`python3 dev.py chaos --jobs`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from chaos.jobs import (
    CIRCLES,
    LISTED,
    MB,
    RULES,
    SORTS,
    Evidence,
    Person,
    Row,
    Spent,
    Verdict,
    community,
    grown,
    judge,
    judge_list,
    judge_preview,
    judge_report,
    judge_rules,
    listed,
    lives,
    of_job,
    people,
    preview_floor,
    refused,
    run_floor,
)
from chaos.smtp import UNANSWERED, Accepted
from sandbox.loading import load_community

EVERYBODY = people(200, Random(1))
REASONS = {
    "twin": "this address has its letter of this job already",
    "unsubscribed": "unsubscribed (Wix: UNSUBSCRIBED)",
    "notset": "never subscribed (Wix: NOT_SET); promotional letters need SUBSCRIBED",
    "pending": "asked to confirm and has not answered (Wix: PENDING)",
    "norecord": "never subscribed (Wix has no record of the address)",
    "unknown": "consent unclear (Wix: UNKNOWN, or a status new to Usher)",
    "newstatus": "consent unclear (Wix: UNKNOWN, or a status new to Usher)",
    "bounced": "letters to this address bounced (Wix: BOUNCED)",
    "complained": "the reader reported a letter as spam (Wix: SPAM_COMPLAINT)",
    "newdelivery": "deliverability unclear (Wix sent a value that Usher does not know)",
    "blocked": "the member is blocked on the site",
    "nowhere": "the member has no address",
    "oneclick": "unsubscribed: one click",
    "unsubscribes": "unsubscribed (Wix: UNSUBSCRIBED)",
    "leaves": "left the group after the preview",
}


def one_of(sort: str) -> Person:
    return next(person for person in EVERYBODY if person.sort == sort)


def a_row(person: Person, *, preview: bool = False) -> dict[str, Any]:
    skipped = bool(SORTS[person.sort].reason) and not (preview and SORTS[person.sort].changes)
    if person.sort == "twin":
        skipped = person.email.isupper()
    sent = "planned" if preview else "sent"
    return {
        "member": person.id,
        "state": "skipped" if skipped else sent,
        "reason": REASONS[person.sort] if skipped else None,
        "message_id": None if skipped else f"<{person.id}>",
    }


INSIDE = [person for person in EVERYBODY if SORTS[person.sort].inside]
ROWS = {person.id: a_row(person) for person in INSIDE}
PREVIEW = {person.id: a_row(person, preview=True) for person in INSIDE}
COPIES = {
    person.id: Accepted(f"<{person.id}>", person.email, 1.0, True, 1000)
    for person in INSIDE
    if ROWS[person.id]["state"] == "sent"
}
TAKEN, NO, JOINS, LEAVES = (one_of(sort) for sort in ("subscribed", "unsubscribed", "joins", "leaves"))
CAME = {"id-of-live-1": "live-1@example.net"}


def said(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    states = Counter(row["state"] for row in rows)
    return {
        "counts": {
            "total": len(rows),
            "done": states["sent"],
            "skipped": states["skipped"],
            "failed": states["failed"],
            "in_doubt": states["in_doubt"],
        },
        "skipped_by_reason": Counter(row["reason"] for row in rows if row["state"] == "skipped"),
        "result": {"letters": states["planned"]},
        "cost": {"wix_calls": run_floor(len(rows), states["planned"])},
    }


FINE = Evidence(list(ROWS.values()), said(list(ROWS.values())), list(COPIES.values()), {})


def verdict_on(**changes: Any) -> Verdict:
    return judge(replace(FINE, **changes), EVERYBODY)


def with_row(person: Person, **changes: Any) -> dict[str, Any]:
    rows = [*(ROWS | {person.id: a_row(person) | changes}).values()]
    return {"rows": rows, "said": said(rows)}


def with_copies(*more: Accepted, but: Sequence[Person] = ()) -> dict[str, Any]:
    gone = {person.id for person in but}
    return {"accepted": [*(copy for id_, copy in COPIES.items() if id_ not in gone), *more]}


def a_copy(person: Person) -> Accepted:
    return Accepted("<x>", person.email, 1.0, True, 1000)


def with_counts(**changes: int) -> dict[str, Any]:
    return {"said": FINE.said | {"counts": FINE.said["counts"] | changes}}


def test_a_mailing_in_which_each_has_what_they_must_is_fine():
    verdict = verdict_on()

    assert verdict.problems == []
    assert verdict.tallies["norecord"].states == {"skipped": verdict.tallies["norecord"].people}
    assert sum(tally.people for tally in verdict.tallies.values()) == len(EVERYBODY)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (with_copies(COPIES[TAKEN.id]), f"{TAKEN.email}: the mail server has the letter 2 times"),
        (with_copies(but=[TAKEN]), f"{TAKEN.email}: is sent, and the mail server has the letter 0 times"),
        (with_copies(a_copy(NO)), f"{NO.email}: is skipped, and the mail server has the letter"),
        (with_row(NO, state="sent", reason=None), f"{NO.email}: is sent .*, not skipped"),
        (with_row(NO, state="in_doubt"), f"{NO.email}: is in_doubt .*, not skipped"),
        (with_row(NO, reason="it rained"), rf"{NO.email}: is skipped \(it rained\)"),
        (with_row(NO, reason=None), "1 are skipped without a reason"),
        (with_row(one_of("oneclick"), reason=REASONS["unsubscribed"]), "oneclick-.* is skipped"),
        (with_row(TAKEN, state="skipped", reason="x"), rf"{TAKEN.email}: is skipped \(x\)"),
        (with_row(TAKEN, state="failed", reason="x"), rf"{TAKEN.email}: is failed \(x\), not sent"),
        (with_row(TAKEN, state="planned"), f"{TAKEN.email}: is planned"),
        (with_row(TAKEN, state="in_doubt"), "1 in doubt without a reason, 0 processes were killed"),
        (with_row(LEAVES, state="sent", reason=None), f"{LEAVES.email}: is sent"),
        (with_copies(a_copy(JOINS)), f"{JOINS.email}: joined after the preview"),
        ({"rows": [*FINE.rows, a_row(JOINS)]}, f"{JOINS.email}: joined after the preview"),
        ({"rows": [*FINE.rows, ROWS[TAKEN.id]]}, f"{TAKEN.email}: 2 rows in the ledger"),
        ({"rows": [row for row in FINE.rows if row["member"] != TAKEN.id]}, "0 rows in the ledger"),
        ({"rows": [*FINE.rows, ROWS[TAKEN.id] | {"member": "m-x"}]}, "a row of nobody's: m-x"),
        (with_copies(Accepted("<x>", "x@example.org", 1.0, True, 1)), "a letter to x@example.org, whom"),
        (with_counts(total=7), "the total does not add up"),
        (with_counts(done=7), r"the API counts 7 done, and \d+ rows are"),
        (with_counts(in_doubt=1), "the total does not add up"),
        (
            {"said": FINE.said | {"skipped_by_reason": {"it rained": 1}}},
            "the API's reasons are not those of the rows",
        ),
        (
            {"maybe": CAME, "rows": [*FINE.rows, ROWS[TAKEN.id] | {"member": "id-of-live-1"}]},
            "came meanwhile",
        ),
    ],
)
def test_whatever_went_wrong_with_letters_is_found(changes: dict[str, Any], complaint: str):
    assert any(re.search(complaint, problem) for problem in verdict_on(**changes).problems)


@pytest.mark.parametrize("state", ["sent", "skipped"])
def test_of_two_with_one_address_exactly_one_has_the_letter(state: str):
    first = one_of("twin")
    both = [person for person in INSIDE if person.email.casefold() == first.email.casefold()]
    reason = REASONS["twin"] if state == "skipped" else None
    rows = [*(ROWS | {one.id: a_row(one) | {"state": state, "reason": reason} for one in both}).values()]

    assert any("two members, and their letters" in found for found in verdict_on(rows=rows).problems)


def test_a_letter_cut_off_may_be_in_doubt_and_is_listed_but_a_second_copy_is_still_twice():
    cut = with_row(TAKEN, state="in_doubt")
    known = {"undecidable": {f"<{TAKEN.id}>": {UNANSWERED}}}

    fine = verdict_on(**cut, **known)
    assert fine.problems == []
    assert fine.in_doubt == [f"{TAKEN.email}: 1 at the mail server (unanswered)"]
    assert verdict_on(**cut, killed=1).problems == []
    assert verdict_on(**cut, **known, **with_copies(COPIES[TAKEN.id])).problems


def test_who_came_while_the_preview_looked_may_have_a_letter_or_none():
    row = ROWS[TAKEN.id] | {"member": "id-of-live-1"}
    rows = [*FINE.rows, row]
    copies = [*FINE.accepted, Accepted("<x>", "live-1@example.net", 1.0, True, 1)]

    assert verdict_on(maybe=CAME).problems == []
    assert verdict_on(maybe=CAME, rows=rows, said=said(rows), accepted=copies).problems == []


def preview_with(person: Person | None = None, **changes: Any) -> list[str]:
    rows = [
        *(PREVIEW | ({person.id: PREVIEW.get(person.id, a_row(person)) | changes} if person else {})).values()
    ]
    return judge_preview(rows, said(rows), EVERYBODY, ())


def test_the_preview_is_held_against_who_may_be_written_to():
    assert preview_with() == []
    assert preview_with(NO, state="planned", reason=None)
    assert preview_with(NO, reason="it rained")
    assert preview_with(TAKEN, state="skipped", reason="it rained")
    assert preview_with(LEAVES, state="skipped", reason="left")
    assert preview_with(JOINS)
    assert preview_with(one_of("twin"), state="skipped") or preview_with(one_of("twin"), state="planned")
    rows = list(PREVIEW.values())
    assert judge_preview(rows[1:], said(rows[1:]), EVERYBODY, ())
    assert judge_preview(rows, said(rows) | {"cost": {"wix_calls": 1}}, EVERYBODY, ())
    assert judge_preview(rows, said(rows) | {"result": {"letters": 1}}, EVERYBODY, ())
    stranger = [*rows, rows[0] | {"member": "m-x"}]
    assert judge_preview(stranger, said(stranger), EVERYBODY, ())
    assert judge_preview(stranger, said(stranger), EVERYBODY, ["m-x"]) == []


def a_call(endpoint: str, path: str = "/x", about: str = "", status: int = 200) -> dict[str, Any]:
    return {"endpoint": endpoint, "path": path, "about": about, "status": status, "at": "12:00"}


def test_a_job_is_charged_with_its_calls_and_nobody_elses():
    mine = [
        a_call("listGroupMembers", "/groups/g1/members"),
        a_call("queryMembers", about="m-1"),
        a_call("queryEmailSubscriptions", about="a@example.org"),
    ]
    others = [
        a_call("listGroups"),
        a_call("listGroupMembers", "/groups/g2/members"),
        a_call("queryMembers", about="m-live"),
        a_call("listMemberships", "/members/m-live/memberships"),
        a_call("queryEmailSubscriptions", about="Live@example.net"),
    ]
    strangers = frozenset({"g2", "m-live", "live@example.net"})

    assert of_job([*others, *mine], strangers) == mine


def test_a_429_and_a_call_too_many_are_found():
    assert refused([a_call("queryMembers"), a_call("getGroup", status=429)]) == [
        "429 from Wix: getGroup at 12:00"
    ]
    assert preview_floor(2501) == 78
    assert run_floor(2501, 101) == 30
    assert Spent("a job", 105, 100, 0, 0, 1.0).problem() is None
    assert Spent("a job", 106, 100, 0, 0, 1.0).problem()
    assert Spent("a job", 106, 100, 1, 0, 1.0).problem() is None
    assert Spent("a job", 400, 100, 1, 1, 1.0).problem()


def test_memory_that_grows_after_the_first_tenth_is_found_and_a_start_is_not():
    def life(*sizes: int) -> list[str]:
        return grown(lives([(float(at), 7, size * MB) for at, size in enumerate(sizes)], 0.0, 1000.0))

    assert life(*[50] * 3, *[100] * 97) == []
    assert life(*[100] * 50, *[126] * 50) == ["process 7 grew from 100 to 126 MB in 99 s"]
    assert life(*[100] * 10, *[300] * 10) == []  # too short to tell


CIRCLE = {"Circle 001": RULES}


def test_rules_that_are_not_what_they_should_be_are_found():
    assert judge_rules({"Circle 001": list(RULES), "Handbook": []}, CIRCLE, "after") == []
    for lie in ({}, {"Circle 001": []}, {"Circle 001": RULES[::-1]}):
        assert judge_rules(lie, CIRCLE, "after") == [
            "after: the rules of Circle 001 are not what they should be"
        ]


LIST = [
    Row({"email": "a@example.com"}, "m-a", "in"),
    Row({"email": "b@example.com"}, "m-b", "invited"),
    Row({"email": "c@example.com"}, "", "^nobody"),
]
ITEMS = [{"number": 1, "state": "done"}, {"number": 2, "state": "skipped"}, {"number": 3, "state": "skipped"}]
GIVEN_BACK = {
    "result": {
        "added": 1,
        "to_fix": [{"row": 2, "reason": "invited"}, {"row": 3, "reason": "nobody has it"}],
    },
    "counts": {"total": 3, "done": 1, "skipped": 2, "failed": 0, "in_doubt": 0},
}


def wrong_list(**changes: Any) -> list[str]:
    owner = next(person.id for person in EVERYBODY if person.email.startswith("owner"))
    given: dict[str, Any] = {
        "items": ITEMS,
        "said": GIVEN_BACK,
        "inside": frozenset({"m-a", owner}),
        "invited": frozenset({"m-b"}),
    }
    return judge_list(LIST, **(given | changes))


def test_a_list_is_held_against_whom_it_means():
    assert wrong_list() == []
    in_doubt = [ITEMS[0], ITEMS[1] | {"state": "in_doubt"}, ITEMS[2]]
    assert wrong_list(items=in_doubt, invited=frozenset()) == []
    for lie in (
        {"inside": frozenset({"m-a"})},
        {"inside": frozenset()},
        {"invited": frozenset()},
        {"invited": frozenset({"m-b", "m-c"})},
        {"items": ITEMS[1:]},
        {"items": [ITEMS[0] | {"state": "in_doubt"}, *ITEMS[1:]]},
        {"said": GIVEN_BACK | {"result": {"added": 1, "to_fix": []}}},
        {"said": GIVEN_BACK | {"counts": GIVEN_BACK["counts"] | {"done": 2}}},
        {"again": True},
    ):
        assert wrong_list(**lie)


NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def a_group(name: str, members: int, idle_days: int | None) -> dict[str, Any]:
    active = {} if idle_days is None else {"lastActivityDate": (NOW - timedelta(days=idle_days)).isoformat()}
    return {"id": f"g-{name}", "name": name, "members": [{}] * members, **active}


GROUPS = [a_group("b", 3, 1), a_group("a", 3, 100), a_group("c", 1, None), a_group("d", 2, 200)]
STATE = {"groups": GROUPS}


def told(group: dict[str, Any]) -> dict[str, Any]:
    return {"id": group["id"], "name": group["name"], "last_activity": group.get("lastActivityDate")}


REPORT = {
    "total": 4,
    "as_of": NOW.isoformat(),
    "most_popular": [{"id": f"g-{name}", "name": name, "members": 3} for name in "ab"],
    "idle": [told(GROUPS[2]), told(GROUPS[3]), told(GROUPS[1])],
}


def test_a_report_is_held_against_what_there_is():
    def wrong(**changes: Any) -> list[str]:
        return judge_report(REPORT | changes, STATE, 2, 90)

    assert wrong() == []
    assert wrong(total=5)
    assert wrong(most_popular=REPORT["most_popular"][::-1])
    assert wrong(idle=REPORT["idle"][1:])
    assert wrong(idle=[told(group) for group in GROUPS])
    assert wrong(idle=REPORT["idle"][::-1])
    assert wrong(idle=[told(GROUPS[2]), told(GROUPS[1]), told(GROUPS[3])])


def test_the_community_has_everybody_once_and_the_sandbox_takes_it():
    rows, more = listed(Random(1))
    found = load_community(community(EVERYBODY, [], more), now=lambda: NOW)
    group = next(group for group in found.groups.values() if group.name == "Everybody")

    assert len(EVERYBODY) == len({person.id for person in EVERYBODY})
    assert {person.sort for person in EVERYBODY} == SORTS.keys()
    assert group.members.keys() == {person.id for person in INSIDE}
    assert len(INSIDE) == 200
    assert EVERYBODY == people(200, Random(1)) != people(200, Random(2))
    circles = [group for group in found.groups.values() if group.name.startswith("Circle")]
    assert len(circles) == CIRCLES
    assert any(group.last_activity is None for group in circles)
    assert len(rows) == LISTED
    assert {row.member for row in rows if row.member} <= found.members.keys()
    statuses = {found.subscriptions[one_of(sort).email].status for sort in ("unknown", "newstatus")}
    assert statuses == {"UNKNOWN", "SOMETHING_NEW"}
