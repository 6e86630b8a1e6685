"""People over the API: find somebody, see where they stand and why, and decide whether they are written to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StringConstraints
from starlette.responses import HTMLResponse, Response

from admin.api.operations import Call, Operation, answer, of
from admin.api.shapes import Answer, Body, Id, Message, Query
from admin.office import ALL, DECIDERS, MANAGERS, Office, people, why
from admin.office.people import Hit, Person
from admin.office.people_file import render_export
from admin.office.refusals import wrong_fields
from admin.recovery import describe_message, shape
from core.community import MemberId, SiteId
from core.consent import ADMINS_REASONS, Purpose, why_it_stays
from core.gate import Defer, Send
from integrations.store.people import Row

Scope = Annotated[str, StringConstraints(pattern=r"^(promotional|all|group:[!-~]{1,200})$")]


class SiteQuery(Query):
    site: Id


class ExportQuery(SiteQuery):
    format: Literal["json", "html"] = "json"


class WhyQuery(SiteQuery):
    about: Annotated[str, StringConstraints(pattern=r"^(automation|job|letter):[!-~]{1,200}$")]


class Looked(Body):
    """`term`: a name, an address, a phone number with its country code, or the id of a member."""

    site: Id
    term: Annotated[str, StringConstraints(min_length=1, max_length=people.LONGEST_TERM)]


class Suppressed(Body):
    site: Id
    scope: Scope
    reason: Literal[*ADMINS_REASONS]  # type: ignore[valid-type] # a table's words


class Released(Body):
    """`scope` and `cause` as one of the person's `suppressions` has them."""

    site: Id
    scope: Scope
    cause: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,16}$")]


class Erased(Body):
    """`confirm` is the member's id once more."""

    site: Id
    confirm: Id


class FoundPerson(Answer):
    """Without `member` it is a contact without an account. `address` is masked."""

    member: str | None = None
    contact: str | None = None
    name: str
    address: str
    groups: list[str]


class FoundPeople(Answer):
    items: list[FoundPerson]
    more: bool
    trouble: str | None = None
    """What Wix did not tell."""


class GroupOfPerson(Answer):
    """`standing`: "joined", "pending" or "none"; absent where it is not known. `answers` likewise."""

    group: str
    standing: str | None = None
    joined_at: AwareDatetime | None = None
    answers: list[dict[str, str]] | None = None
    trouble: str | None = None


class Stop(Answer):
    """`stays`: why no admin may lift it; absent where one may."""

    scope: str
    cause: str
    reason: str
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    stays: str | None = None


class Ruling(Answer):
    """What would happen to a letter right now: "send", "wait" (`until`) or "skip"."""

    purpose: Literal[*Purpose]  # type: ignore[valid-type] # an enumeration's words
    group: str | None = None
    verdict: Literal["send", "wait", "skip"]
    reason: str | None = None
    until: AwareDatetime | None = None


class Decision(Answer):
    """What was decided about a request of theirs, or is owed to Wix."""

    kind: str
    group: str | None = None
    state: str
    automation: str | None = None
    who: str | None = None
    reason: str | None = None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None = None


class OnePerson(Answer):
    """`consent`: Wix's record now, null where Wix has none or was not reached. `rulings` are empty then."""

    site: str
    member: str
    name: str
    address: str
    status: str | None = None
    consent: dict[str, str] | None = Field(...)
    groups: list[GroupOfPerson]
    letters: list[Message]
    decisions: list[Decision]
    suppressions: list[Stop]
    rulings: list[Ruling]
    trouble: str | None = None


class Explained(Answer):
    """`because`: sentences."""

    answer: Literal["yes", "not yet", "no", "unknown"]
    because: list[str]
    letters: list[Message]


class ExportedPerson(Answer):
    """All rows that are kept of somebody, whole."""

    site: str
    member: str
    as_of: AwareDatetime
    events: list[dict[str, Any]]
    letters: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    lists: list[dict[str, Any]]
    suppressions: list[dict[str, Any]]
    requests_seen_in: list[str]
    audit: list[dict[str, Any]]


def find_people(office: Office, call: Call) -> Response:
    found = people.find(office, call.holder, SiteId(call.body.site), call.body.term)
    described: dict[str, Any] = {"items": list(map(_describe_hit, found.hits)), "more": found.more}
    return answer(described | ({"trouble": found.trouble} if found.trouble else {}))


def show_person(office: Office, call: Call) -> Response:
    return answer(describe_person(_person(office, call, call.query.site)))


def explain_letter(office: Office, call: Call) -> Response:
    found = why.explain(office, call.holder, _person(office, call, call.query.site), call.query.about)
    described = {
        "answer": found.answer,
        "because": list(map(why.in_english, found.because)),
        "letters": list(map(describe_message, found.letters)),
    }
    return answer(described)


def export_person(office: Office, call: Call) -> Response:
    found = people.export(office, call.holder, SiteId(call.query.site), MemberId(call.id))
    if call.query.format == "json":
        return answer(found)
    return HTMLResponse(render_export(found), headers=FILE)


def suppress_person(office: Office, call: Call) -> Response:
    site, member = SiteId(call.body.site), MemberId(call.id)
    people.suppress(office, call.holder, site, member, scope=call.body.scope, reason=call.body.reason)
    return answer(describe_person(_person(office, call, site)))


def release_person(office: Office, call: Call) -> Response:
    site, member = SiteId(call.body.site), MemberId(call.id)
    people.release(office, call.holder, site, member, scope=call.body.scope, cause=call.body.cause)
    return answer(describe_person(_person(office, call, site)))


def erase_person(office: Office, call: Call) -> Response:
    if call.body.confirm != call.id:
        raise wrong_fields("the body", ("confirm", "is not the id of this member"))
    people.erase(office, call.holder, SiteId(call.body.site), MemberId(call.id))
    return answer(describe_person(_person(office, call, call.body.site)))


FILE = {
    "Cache-Control": "no-store",
    "Content-Disposition": 'attachment; filename="person.html"',
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
}


def describe_person(person: Person) -> dict[str, Any]:
    """As OnePerson."""
    member = person.member
    name = f"{member.first_name} {member.last_name}".strip() or member.nickname if member else ""
    said = person.subscription
    found: dict[str, Any] = {
        "site": person.site,
        "member": person.id,
        "name": name,
        "address": person.address,
        "status": member.status if member else None,
        "groups": [_describe_place(place) for place in person.places],
        "letters": [describe_message(row) for row in person.records.letters],
        "decisions": [_describe_call(row) for row in person.records.calls],
        "suppressions": describe_stops(person.records.suppressions),
        "rulings": [_describe_ruling(ruling) for ruling in person.rulings],
        "trouble": person.trouble or None,
    }
    consent = {"status": said.status, "deliverability": said.deliverability} if said else None
    return {name: value for name, value in found.items() if value is not None} | {"consent": consent}


def describe_stops(rows: Any) -> list[dict[str, Any]]:
    """Each once, though it stands under several names of the person."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        stop = shape(row, ("scope", "cause", "reason", "created_at"), ("expires_at",))
        stays = why_it_stays(row.cause)
        found.setdefault((row.scope, row.cause, row.reason), stop | ({"stays": stays} if stays else {}))
    return list(found.values())


def _person(office: Office, call: Call, site: str) -> Person:
    return people.look(office, call.holder, SiteId(site), MemberId(call.id))


def _describe_hit(hit: Hit) -> dict[str, Any]:
    ids = {"member": hit.member, "contact": hit.contact}
    return {name: value for name, value in ids.items() if value} | {
        "name": hit.name or hit.nickname,
        "address": hit.address,
        "groups": list(hit.groups),
    }


def _describe_place(place: people.Place) -> dict[str, Any]:
    found: dict[str, Any] = {"group": place.group, "trouble": place.trouble or None}
    if place.standing is not None:
        found["standing"] = place.standing.status
        at = place.standing.joined_at
        found["joined_at"] = f"{at:%Y-%m-%dT%H:%M:%S.%fZ}" if at else None
    if place.answers is not None:
        found["answers"] = [{"question": one.question, "text": one.text} for one in place.answers]
    return {name: value for name, value in found.items() if value is not None}


def _describe_call(row: Row) -> dict[str, Any]:
    optional = ("automation", "who", "reason", "finished_at")
    found = shape(row, ("kind", "state", "created_at"), optional)
    return found | ({"group": row.group_id} if row.group_id else {})


def _describe_ruling(ruling: people.Ruling) -> dict[str, Any]:
    found: dict[str, Any] = {"purpose": str(ruling.purpose)}
    if ruling.group:
        found["group"] = ruling.group
    match ruling.verdict:
        case Send():
            return found | {"verdict": "send"}
        case Defer(until, reason, _):
            at = f"{until:%Y-%m-%dT%H:%M:%S.%fZ}"
            return found | {"verdict": "wait", "reason": reason, "until": at}
    return found | {"verdict": "skip", "reason": ruling.verdict.reason}


PEOPLE: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/people/find",
        find_people,
        ALL,
        "Who has this name, address, phone number or id",
        of(FoundPeople),
        body=of(Looked),
    ),
    Operation(
        "GET",
        "/v1/people/{id}",
        show_person,
        ALL,
        "One person: groups, answers, letters with state and reason, consent, what stands against letters",
        of(OnePerson),
        query=SiteQuery,
        also=(502,),
    ),
    Operation(
        "GET",
        "/v1/people/{id}/why",
        explain_letter,
        ALL,
        "Did they get this letter, and why not?",
        of(Explained),
        query=WhyQuery,
        also=(502,),
    ),
    Operation(
        "GET",
        "/v1/people/{id}/export",
        export_person,
        MANAGERS,
        "Everything that is kept of one person; the audit log notes it",
        of(ExportedPerson),
        query=ExportQuery,
        media_types=("application/json", "text/html"),
    ),
    Operation(
        "POST",
        "/v1/people/{id}/suppress",
        suppress_person,
        DECIDERS,
        "End letters to somebody; a group's admin those of their groups",
        of(OnePerson),
        body=of(Suppressed),
        also=(409, 502),
    ),
    Operation(
        "POST",
        "/v1/people/{id}/release",
        release_person,
        DECIDERS,
        "Lift what an admin, or a mailbox, had ended; never what the person said themselves",
        of(OnePerson),
        body=of(Released),
        also=(409, 502),
    ),
    Operation(
        "POST",
        "/v1/people/{id}/erase",
        erase_person,
        MANAGERS,
        "Forget somebody for good, as a privacy request does",
        of(OnePerson),
        body=of(Erased),
        also=(502,),
    ),
)
