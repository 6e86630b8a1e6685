"""Requests to join over the API: who waits, decisions and their undoing, what became of earlier ones, and a
back-test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, Field, StringConstraints
from starlette.responses import Response

from admin.api.operations import Call, Operation, answer, of
from admin.api.reading import next_cursor, read_cursor
from admin.api.shapes import Answer, Body, Filter, Id, List, Page
from admin.office import ALL, DECIDERS, Office
from admin.office import requests as room
from core.automations import LONGEST_REASON
from core.community import LONGEST_ID, GroupId, MemberId, SiteId
from core.errors import NotThereError, RetryableError
from core.matching import LONGEST_ANSWER

STATES = ("planned", "done", "failed", "void", "flagged", "undone")
OUTCOMES = ("", "approved", "rejected", "canceled", "planned", "done", "flagged", "failed", "void", "undone")
MOST_DECIDED = 200
"""In one request."""
MOST_TERMS = 200

SiteOf = Annotated[str, StringConstraints(pattern=rf"^[!-~]{{1,{LONGEST_ID}}}$")]
Kind = Literal["approve", "reject", "flag"]


class RequestsQuery(Page):
    """`waits`: "flagged" leaves those that a rule left to a person."""

    site: SiteOf
    group: Filter = ""
    waits: Literal["", "flagged"] = ""


class HistoryQuery(Page):
    site: SiteOf


class Asked(Body):
    group: Id
    member: Id


class NewDecision(Body):
    """`reason` is told to whoever is rejected."""

    site: Id
    decision: Literal["approve", "reject"]
    reason: Annotated[
        str, StringConstraints(max_length=LONGEST_REASON, pattern=r"^[^\x00-\x09\x0B-\x1F]*$")
    ] = ""
    requests: Annotated[list[Asked], Field(min_length=1, max_length=MOST_DECIDED)]


Terms = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ANSWER)]],
    Field(max_length=MOST_TERMS),
]


class RuleAnswers(Body):
    any: Terms = Field(default_factory=list)
    all: Terms = Field(default_factory=list)
    none: Terms = Field(default_factory=list)
    question: Annotated[str, StringConstraints(max_length=LONGEST_ANSWER)] = ""


class NewBackTest(Body):
    """`automation`: the name of one that is there, or "" for a new rule. What is left out of it stays as it is."""

    site: Id
    automation: Annotated[str, StringConstraints(max_length=LONGEST_ID)] = ""
    answers: RuleAnswers | None = None
    decide: Literal["approve", "reject", "flag", ""] | None = None
    group: Filter = ""


class Verdict(Answer):
    """`decision` "": none. `letters` are names of automations."""

    decision: Literal["approve", "reject", "flag", ""]
    automation: str | None = None
    reason: str | None = None
    letters: list[str]


class Decision(Answer):
    """`undo_until` is there as long as it can be undone; `who` when a person decided, `automation` when a rule did or
    had left it to a person."""

    id: str
    site: str
    group: str
    member: str
    decision: Kind
    state: Literal[STATES]  # type: ignore[valid-type] # a table's words
    who: str | None = None
    automation: str | None = None
    reason: str | None = None
    told: str | None = None
    error: str | None = None
    decided_at: AwareDatetime
    undo_until: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None


class GivenAnswer(Answer):
    """`marks`: from where to where of the text a term stands, and whether it speaks "for" or "against"."""

    question: str
    text: str
    marks: list[tuple[int, int, Literal["for", "against"]]]


class Request(Answer):
    """`answers` is left out when nobody knows them."""

    group: str
    member: str
    asked_at: AwareDatetime | None = None
    answers: list[GivenAnswer] | None = None
    decision: Decision | None = None
    would: Verdict


class PastRequest(Answer):
    """`outcome` "": nothing is known of it. `ours`: the decision brought it about; else it came from Wix."""

    group: str
    member: str
    asked_at: AwareDatetime
    outcome: Literal[OUTCOMES]  # type: ignore[valid-type]
    ours: bool
    ended_at: AwareDatetime | None = None
    told: str | None = None
    decision: Decision | None = None


class Refused(Answer):
    group: str
    member: str
    detail: str


class Decided(Answer):
    """Of some requests that were to be decided; what could not be is in `refused`."""

    decided: list[Decision]
    refused: list[Refused]


class Changed(Answer):
    group: str
    member: str
    asked_at: AwareDatetime
    outcome: Literal[OUTCOMES]  # type: ignore[valid-type]
    before: Verdict
    after: Verdict


class BackTest(Answer):
    """`before` and `after` count decisions by kind, "none" for none. `without`: the rule is as it was, and was
    compared with the others alone."""

    total: int
    unanswered: int
    unread: int
    trouble: str | None = None
    without: bool
    before: dict[str, int]
    after: dict[str, int]
    changed: list[Changed]


def list_requests(office: Office, call: Call) -> Response:
    query = call.query
    after = read_cursor(query.cursor, keys=2)
    found = room.pending(
        office,
        call.holder,
        SiteId(query.site),
        group=query.group,
        flagged=query.waits == "flagged",
        limit=query.limit,
        after=after,
    )
    if found.trouble:  # better no list than one that looks whole
        raise RetryableError(found.trouble)
    following = None
    if found.next is not None:
        at, group, member = found.next
        following = next_cursor(at.isoformat(), group, member)
    return answer({"items": [_describe(one) for one in found.items], "next": following})


def decide_requests(office: Office, call: Call) -> Response:
    new = call.body
    asked = [(GroupId(one.group), MemberId(one.member)) for one in new.requests]
    found = room.decide(office, call.holder, SiteId(new.site), asked, new.decision, new.reason)
    return answer(
        {
            "decided": [describe_decision(row) for row in found.rows],
            "refused": [
                {"group": group, "member": member, "detail": f"the request {why}"}
                for group, member, why in found.refused
            ],
        }
    )


def undo_decision(office: Office, call: Call) -> Response:
    [row], _ = room.undo(office, call.holder, [call.id])
    return answer(describe_decision(row))


def list_past_requests(office: Office, call: Call) -> Response:
    after = read_cursor(call.query.cursor, keys=1)
    found, place = room.history(
        office,
        call.holder,
        SiteId(call.query.site),
        limit=call.query.limit,
        after=after,
    )
    return answer(
        {
            "items": [_describe_past(one) for one in found],
            "next": next_cursor(place[0].isoformat(), place[1]) if place else None,
        }
    )


def back_test_rule(office: Office, call: Call) -> Response:
    new = call.body
    rules, site = office.automations(), SiteId(new.site)
    mine = room.rules_within(office, call.holder, site)
    known = next((one for one in mine if one.name == new.automation), None)
    if new.automation and known is None:
        raise NotThereError("there is no automation of this name")
    edit = room.edit_of(known)
    if new.answers is not None:
        edit = replace(
            edit,
            any=tuple(new.answers.any),
            all=tuple(new.answers.all),
            none=tuple(new.answers.none),
            question=new.answers.question,
        )
    if new.decide is not None:
        edit = replace(edit, decide=new.decide)
    tested = room.edited_rules(rules, edit)
    found = room.back_test(office, call.holder, site, tested, name=edit.name, group=new.group)
    return answer(
        _without_none(
            {
                "total": found.total,
                "unanswered": found.unanswered,
                "unread": found.unread,
                "trouble": found.trouble or None,
                "without": found.without,
                "before": {kind or "none": count for kind, count in found.before.items()},
                "after": {kind or "none": count for kind, count in found.after.items()},
                "changed": [
                    {
                        "group": one.past.group,
                        "member": one.past.member,
                        "asked_at": _time(one.past.asked_at),
                        "outcome": one.past.outcome,
                        "before": _describe_verdict(one.before),
                        "after": _describe_verdict(one.after),
                    }
                    for one in found.changed
                ],
            }
        )
    )


def _describe(one: room.Waiting) -> dict[str, Any]:
    return _without_none(
        {
            "group": one.group,
            "member": one.member,
            "asked_at": _time(one.asked_at),
            "answers": None if one.answers is None else [_describe_answer(given) for given in one.answers],
            "decision": None if one.row is None else describe_decision(one.row),
            "would": _describe_verdict(one.would),
        }
    )


def _describe_answer(given: room.Shown) -> dict[str, Any]:
    marks, at = [], 0
    for text, mark in given.pieces:
        if mark:
            marks.append([at, at + len(text), mark])
        at += len(text)
    text = "".join(text for text, _ in given.pieces)
    return {"question": given.question, "text": text, "marks": marks}


def _describe_past(one: room.Past) -> dict[str, Any]:
    return _without_none(
        {
            "group": one.group,
            "member": one.member,
            "asked_at": _time(one.asked_at),
            "outcome": one.outcome,
            "ours": one.is_ours,
            "ended_at": _time(one.ended_at),
            "told": one.told or None,
            "decision": None if one.row is None else describe_decision(one.row),
        }
    )


def _describe_verdict(found: room.Verdict) -> dict[str, Any]:
    return _without_none(
        {
            "decision": found.kind,
            "automation": found.automation or None,
            "reason": found.reason or None,
            "letters": list(found.letters),
        }
    )


def describe_decision(row: sa.Row[Any]) -> dict[str, Any]:
    """As Decision."""
    return _without_none(
        {
            "id": row.id,
            "site": row.site,
            "group": row.group_id,
            "member": row.member,
            "decision": row.kind,
            "state": row.state,
            "who": row.who,
            "automation": row.automation,
            "reason": row.reason,
            "told": row.text or None,
            "error": row.error,
            "decided_at": _time(row.created_at),
            "undo_until": _time(row.next_at) if room.can_be_undone(row) else None,
            "finished_at": _time(row.finished_at),
        }
    )


def _time(at: Any) -> str | None:
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}" if at else None


def _without_none(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


REQUESTS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/requests",
        list_requests,
        ALL,
        "Who asks to join a private group and waits now, newest first, and what the rules make of it",
        of(List[Request]),
        query=RequestsQuery,
        also=(404,),
    ),
    Operation(
        "POST",
        "/v1/requests/decide",
        decide_requests,
        DECIDERS,
        "Approve or reject requests; Wix is told some seconds later, and until then it can be undone",
        of(Decided),
        body=of(NewDecision),
        also=(404, 409),
    ),
    Operation(
        "POST",
        "/v1/requests/{id}/undo",
        undo_decision,
        DECIDERS,
        "Take a decision back that Wix has not been told of; the id is the decision's",
        of(Decision),
        also=(409,),
    ),
    Operation(
        "GET",
        "/v1/requests/history",
        list_past_requests,
        ALL,
        "Requests that were heard of, newest first: who decided what, when and why",
        of(List[PastRequest]),
        query=HistoryQuery,
        also=(404,),
    ),
    Operation(
        "POST",
        "/v1/requests/back-test",
        back_test_rule,
        ALL,
        f"What a rule, edited or new, would have made of the last {room.MOST_TESTED} requests; nothing is changed",
        of(BackTest),
        body=of(NewBackTest),
        also=(404,),
    ),
)
