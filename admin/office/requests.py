"""Requests to join: who waits and what the rules make of it, decisions of persons, what became of earlier requests, and
what an edited rule would have made of those."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
import tomlkit

from admin.office import Office, automations
from admin.office.directory import in_words
from admin.office.pending import Pending
from admin.office.refusals import wrong_fields
from core.automations import (
    LONGEST_REASON,
    Automation,
    Automations,
    Outcome,
    applicable,
    parse_automations,
    plan,
)
from core.community import Answer, Group, GroupId, MemberId, SiteId
from core.consent import Purpose
from core.edits import Add, Change, Edit
from core.errors import ConfigError, IntegrationError, NotThereError, WrongStateError
from core.events import JOIN_APPROVED, JOIN_CANCELED, JOIN_REJECTED, JOIN_REQUESTED
from core.letters import decision_key
from core.matching import AnswerRule
from core.reconciliation import ENDS_OF_REQUEST, Heard, times_of_request, when_asked
from integrations.store.reach import Reach
from integrations.store.requests import Decision, Requests
from integrations.store.tokens import Holder

log = logging.getLogger(__name__)

Row = sa.Row[Any]
Place = tuple[GroupId, MemberId]

TRIGGER = "join_requested"
MOST_AT_ONCE = 500
"""Requests that one act decides."""
MOST_LISTED = 2000
MOST_TESTED = 200
MOST_SCANNED = 2000
"""Rows of the journal that one page of the history looks through."""
MOST_GROUPS_TESTED = 40
UNDER_WAY = timedelta(hours=1)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer in pieces: each with "for" where a term of `any` or `all` stands, "against" where one of `none` does,
    "" elsewhere."""

    question: str = field(repr=False)
    pieces: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules make of one request: `kind` approve, reject, flag or "", by which rule and why, and which
    letters."""

    kind: str = ""
    automation: str = ""
    reason: str = ""
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that Wix lists as pending. `row`: the decision there is about it; `would`: what the rules as they are
    now make of it. `earlier`: how requests of theirs to this group ended before. `letters`: theirs because of this
    request, automation and state; `elsewhere`: how many they have from each other group."""

    group: GroupId
    member: MemberId
    asked_at: datetime | None
    answers: tuple[Shown, ...] | None = field(repr=False)
    """None: nobody knows."""
    row: Row | None = None
    would: Verdict = Verdict()
    earlier: tuple[tuple[str, datetime], ...] = ()
    letters: tuple[tuple[str, str], ...] = ()
    elsewhere: Mapping[GroupId, int] = field(default_factory=dict)

    @property
    def place(self) -> tuple[datetime, str, str]:
        return (self.asked_at or _NEVER, self.group, self.member)


@dataclass(frozen=True, slots=True)
class Found:
    """One page. `total`: of all pages; `flagged`: those of all groups that a rule left to a person. `troubles`: of
    the groups that could not be read, or not whole; `missing`: how many groups nobody has looked at yet."""

    items: tuple[Waiting, ...]
    total: int
    flagged: int
    next: tuple[datetime, str, str] | None
    groups: Mapping[GroupId, Group]
    troubles: Mapping[GroupId, str]
    longer: tuple[GroupId, ...]
    """Groups with more requests than are listed."""
    missing: int
    trouble: str


def pending(
    office: Office,
    holder: Holder,
    site: SiteId,
    *,
    group: str = "",
    flagged: bool = False,
    match: AnswerRule | None = None,
    limit: int = 50,
    after: tuple[datetime, str, str] | None = None,
) -> Found:
    """Who waits now, newest first: of one `group`, those a rule left to a person (`flagged`), those whose answers
    `match`.

    Decisions that are on their way are not in it (`under_way`). Raises NotThereError.
    """
    directory = office.names.of(_own_site(holder, site), holder.reach)
    groups = {id_: one for id_, one in directory.groups().items() if one.privacy == "PRIVATE"}
    wanted = {id_: one for id_, one in groups.items() if group in ("", id_)}
    if group and not wanted and not directory.trouble:
        raise NotThereError("There is no such private group, or it is not yours to see.")
    read = office.pending.of(site, list(wanted.values()))
    asked = [
        Waiting(GroupId(id_), member, at, None)
        for id_, found in read.by_group.items()
        for member, at in found.asked.items()
    ]
    asked = sorted(asked, key=lambda one: one.place, reverse=True)[:MOST_LISTED]
    heard = Requests(office.database).heard(site, {one.member for one in asked})
    asked = sorted((_dated(one, heard) for one in asked), key=lambda one: one.place, reverse=True)
    known = _decisions(office, site, asked, heard)
    open_ = [
        replace(one, row=known.get((one.group, one.member)))
        for one in asked
        if not _is_settled(known.get((one.group, one.member)))
    ]
    count_flagged = sum(1 for one in open_ if one.row is not None and one.row.state == "flagged")
    if flagged:
        open_ = [one for one in open_ if one.row is not None and one.row.state == "flagged"]
    if match is not None:
        open_ = [
            one for one in open_ if match.match(_answers(read.by_group[one.group], one.member) or ()).matched
        ]
    rest = [one for one in open_ if after is None or one.place < after]
    page = rest[:limit]
    return Found(
        items=tuple(_told(office, site, page, groups, read.by_group, heard)),
        total=len(open_),
        flagged=count_flagged,
        next=page[-1].place if len(rest) > limit else None,
        groups=groups,
        troubles={id_: found.trouble for id_, found in read.by_group.items() if found.trouble},
        longer=tuple(id_ for id_, found in read.by_group.items() if found.more),
        missing=read.missing,
        trouble=read.trouble or directory.trouble,
    )


def _dated(one: Waiting, heard: Mapping[Place, list[Heard]]) -> Waiting:
    """Since when, by the journal, where Wix does not say."""
    if one.asked_at is not None:
        return one
    times = times_of_request(None, heard.get((one.group, one.member), ()))
    return replace(one, asked_at=min(times, default=None))


def _decisions(
    office: Office, site: SiteId, asked: Iterable[Waiting], heard: Mapping[Place, list[Heard]]
) -> Mapping[Place, Row]:
    keys = {
        (one.group, one.member): [
            decision_key(one.group, one.member, at)
            for at in times_of_request(one.asked_at, heard.get((one.group, one.member), ()))
        ]
        for one in asked
    }
    rows = Requests(office.database).decisions(site, [key for some in keys.values() for key in some])
    return {
        place: next(rows[key] for key in some if key in rows)
        for place, some in keys.items()
        if any(key in rows for key in some)
    }


def _is_settled(row: Row | None) -> bool:
    """Done, though a list of some seconds ago still shows it, or on its way because a person said so."""
    return row is not None and (row.state == "done" or (row.state == "planned" and row.who is not None))


def _answers(found: Pending, member: MemberId) -> tuple[Answer, ...] | None:
    return None if found.answers is None else found.answers.get(member, ())


def _told(
    office: Office,
    site: SiteId,
    page: Sequence[Waiting],
    groups: Mapping[GroupId, Group],
    lists: Mapping[GroupId, Pending],
    heard: Mapping[Place, list[Heard]],
) -> Iterable[Waiting]:
    """With all that a person wants to know before they decide."""
    rules = office.automations()
    letters: dict[MemberId, list[Row]] = defaultdict(list)
    for row in Requests(office.database).letters(site, {one.member for one in page}) if page else ():
        letters[MemberId(row.member)].append(row)
    for one in page:
        given = _answers(lists[one.group], one.member)
        listening = applicable(rules, TRIGGER, site, groups[one.group])
        theirs = letters[one.member]
        since = (one.asked_at or _NEVER) - timedelta(minutes=2)
        yield replace(
            one,
            answers=None if given is None else tuple(_shown(answer, listening) for answer in given),
            would=verdict(plan(rules, TRIGGER, site, groups[one.group], given)),
            earlier=tuple(
                (known.event.type, known.event.occurred_at)
                for known in heard.get((one.group, one.member), ())
                if known.event.type in ENDS_OF_REQUEST and known.event.occurred_at < since
            )
            if one.asked_at
            else (),
            letters=tuple(
                (row.automation, row.state)
                for row in theirs
                if row.group_id == one.group and row.trigger == TRIGGER and row.automation
            ),
            elsewhere=Counter(
                GroupId(row.group_id) for row in theirs if row.group_id != one.group and row.state == "sent"
            ),
        )


def _shown(answer: Answer, listening: Iterable[Automation]) -> Shown:
    """`listening`: the automations whose terms are to be seen in it."""
    marks = [""] * len(answer.text)
    for automation in listening:
        for place in automation.answers.places(answer) if automation.answers else ():
            sign = "against" if place.hit.kind == "none" else "for"
            for at in range(place.start, place.end):
                marks[at] = "against" if "against" in (marks[at], sign) else sign
    return Shown(answer.question, pieces(answer.text, marks))


def pieces(text: str, marks: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """A text cut where the mark of its characters changes."""
    cuts = [0, *(at for at in range(1, len(text)) if marks[at] != marks[at - 1]), len(text)]
    return tuple((text[start:end], marks[start]) for start, end in pairwise(cuts) if start < end)


def verdict(outcomes: Sequence[Outcome]) -> Verdict:
    """As tasks.reactions acts on them."""
    decided = next((one for one in outcomes if one.applies and one.automation.decide), None)
    letters = [one.automation for one in outcomes if one.applies and one.automation.email]
    if decided is None:
        return Verdict(letters=tuple(one.name for one in letters))
    rule = decided.automation
    if rule.decide == "reject":
        letters = [one for one in letters if rule.name in (one.name, one.flow)]
    return Verdict(rule.decide or "", rule.name, decided.reason, tuple(one.name for one in letters))


# Decisions.


@dataclass(frozen=True, slots=True)
class Decided:
    """`refused`: whose request could not be decided, and why."""

    rows: tuple[Row, ...]
    refused: tuple[tuple[GroupId, MemberId, str], ...]


def decide(
    office: Office,
    holder: Holder,
    site: SiteId,
    asked: Sequence[Place],
    decision: str,
    reason: str = "",
) -> Decided:
    """Approve or reject these requests; Wix is told some seconds later, and until then it can be undone.

    `reason` is told to whoever is rejected. Raises RefusedError, NotThereError for a group out of reach;
    WrongStateError when there was nothing left to decide at all.
    """
    _own_site(holder, site)
    _check_decision(asked, decision, reason)
    if holder.reach.groups is not None and not {group for group, _ in asked} <= holder.reach.groups:
        raise NotThereError("There is no such request, or it is not yours to see.")
    known = office.names.of(site, holder.reach).groups()
    named = dict.fromkeys(group for group, _ in asked)
    lists = office.pending.of(site, [known[group] for group in named if group in known]).by_group
    store = Requests(office.database)
    heard = store.heard(site, {member for _, member in asked})
    waiting = []
    refused: list[tuple[GroupId, MemberId, str]] = []
    for group, member in dict.fromkeys(asked):
        if why := _not_pending(lists.get(group), member, heard.get((group, member), ())):
            refused.append((group, member, why))
        else:
            waiting.append(
                Waiting(group, member, lists[group].asked.get(member) if group in lists else None, None)
            )
    wanted = [Decision(decision, one.group, one.member, one.asked_at, reason) for one in waiting]
    taken, late = store.decide(site, wanted, who=holder.who)
    refused += [(one.group, one.member, why) for one, why in late]
    if not taken:
        raise WrongStateError(f"The request {refused[0][2]}.")
    log.info(
        "requests.decided", extra={"who": holder.who, "site": site, "kind": decision, "count": len(taken)}
    )
    return Decided(tuple(taken), tuple(refused))


def _check_decision(asked: Sequence[Place], decision: str, reason: str) -> None:
    errors = []
    if decision not in ("approve", "reject"):
        errors.append(("decision", "must be approve or reject"))
    if not 0 < len(asked) <= MOST_AT_ONCE:
        errors.append(("requests", f"must be 1 to {MOST_AT_ONCE} of the requests"))
    if reason and decision == "approve":
        errors.append(("reason", "is told to people who are declined, and to nobody else"))
    if len(reason) > LONGEST_REASON:
        errors.append(("reason", f"must be at most {LONGEST_REASON} characters, and has {len(reason)}"))
    if any(letter < " " and letter != "\n" for letter in reason):
        errors.append(("reason", "must not hold control characters"))
    if errors:
        raise wrong_fields("the decision", *errors)


def _not_pending(listed: Pending | None, member: MemberId, heard: Iterable[Heard]) -> str:
    if listed is None or (listed.trouble and not listed.asked):
        told = times_of_request(None, heard)
        return "" if told else "cannot be found: Wix does not list it for us now, and nobody has told of it"
    gone = member not in listed.asked and not listed.more
    return "is not pending at Wix any more" if gone else ""


def undo(
    office: Office, holder: Holder, ids: Sequence[str], site: SiteId | None = None
) -> tuple[list[Row], list[str]]:
    """Take decisions back; beside the rows, why others could not be. Raises NotThereError when none of them is there,
    WrongStateError when none could be taken back."""
    rows, refused = Requests(office.database).undo(
        site, ids[:MOST_AT_ONCE], reach=holder.reach, who=holder.who
    )
    if not rows and not refused:
        raise NotThereError("There is no such decision, or it is not yours to see.")
    if not rows:
        raise WrongStateError(f"This cannot be undone any more: {refused[0][1]}.")
    log.info("requests.undone", extra={"who": holder.who, "count": len(rows)})
    return rows, [why for _, why in refused]


def under_way(office: Office, holder: Holder, site: SiteId, limit: int = MOST_AT_ONCE) -> list[Row]:
    """What persons decided in the last hour and is not done, or only just."""
    site = _own_site(holder, site)
    return Requests(office.database).under_way(site, holder.reach, since=UNDER_WAY, limit=limit)


def can_be_undone(row: Row) -> bool:
    return row.state == "planned" and row.lease is None and not row.attempts


# What became of earlier requests.


@dataclass(frozen=True, slots=True)
class Past:
    """A request that was heard of. `end`: how it ended as Wix told it (an event's type), when, and what they were
    told."""

    group: GroupId
    member: MemberId
    asked_at: datetime
    row: Row | None = None
    end: tuple[str, datetime, str] | None = field(default=None, repr=False)

    @property
    def outcome(self) -> str:
        """approved, rejected, canceled; planned, flagged, failed, void or undone as the decision is; "" when nothing is
        known."""
        if self.end is not None:
            return _ENDED[self.end[0]]
        if self.row is None:
            return ""
        return _DONE.get(self.row.kind, "") if self.row.state == "done" else str(self.row.state)

    @property
    def is_ours(self) -> bool:
        """Whether the decision in `row` brought this outcome about."""
        return self.row is not None and (
            self.end is None or (self.row.state == "done" and _DONE.get(self.row.kind) == self.outcome)
        )

    @property
    def ended_at(self) -> datetime | None:
        if self.end is not None:
            return self.end[1]
        return self.row.finished_at if self.row is not None else None

    @property
    def told(self) -> str:
        """What a rejected person was told."""
        if self.end is not None:
            return self.end[2]
        return self.row.text if self.row is not None and self.row.kind == "reject" else ""


_ENDED = {JOIN_APPROVED: "approved", JOIN_REJECTED: "rejected", JOIN_CANCELED: "canceled"}
_DONE = {"approve": "approved", "reject": "rejected"}


def history(
    office: Office,
    holder: Holder,
    site: SiteId,
    *,
    limit: int = 50,
    after: tuple[datetime, str] | None = None,
) -> tuple[list[Past], tuple[datetime, str] | None]:
    """Requests that were heard of, newest first, and the place where the next page begins."""
    _own_site(holder, site)
    store = Requests(office.database)
    found: list[Past] = []
    scanned = 0
    while scanned < MOST_SCANNED:
        rows = store.past(site, limit=limit, after=after)
        told = _once(store, site, holder.reach, [(one, place) for one, place in rows if one is not None])
        for past, place in told:
            if len(found) == limit:
                return found, after
            found.append(past)
            after = place
        if len(rows) < limit:
            return found, None
        after = rows[-1][1]
        scanned += len(rows)
        if len(found) == limit:
            break
    return found, after


def _once(
    store: Requests,
    site: SiteId,
    reach: Reach,
    rows: Sequence[tuple[Heard, tuple[datetime, str]]],
) -> list[tuple[Past, tuple[datetime, str]]]:
    """Each request once, though a webhook told of it and it was found as well, with what became of it."""
    mine = [(one, place) for one, place in rows if reach.groups is None or one.details.group in reach.groups]
    heard = store.heard(site, {one.details.member for one, _ in mine if one.details.member})
    found: list[tuple[Past, tuple[datetime, str]]] = []
    for one, place in mine:
        assert one.details.group is not None  # noqa: S101 (Requests opens no others)
        assert one.details.member is not None  # noqa: S101
        theirs = heard.get((one.details.group, one.details.member), [])
        asked = [known for known in theirs if known.event.type == JOIN_REQUESTED]
        at = one.event.occurred_at
        stands = when_asked(one.event, asked)
        found_too = (known.event for known in asked if known.event.found)
        if not one.event.found and any(known.occurred_at == stands for known in found_too):
            continue  # that one stands for both
        later = [
            known.event.occurred_at for known in asked if known.event.occurred_at > at + timedelta(minutes=2)
        ]
        ends = [
            known
            for known in theirs
            if known.event.type in ENDS_OF_REQUEST
            and known.event.occurred_at >= at
            and (not later or known.event.occurred_at < min(later))
        ]
        end = min(ends, key=lambda known: known.event.occurred_at, default=None)
        told = (end.event.type, end.event.occurred_at, end.details.reason) if end else None
        found.append((Past(one.details.group, one.details.member, at, None, told), place))
    rows_by_key = store.decisions(
        site, [decision_key(past.group, past.member, past.asked_at) for past, _ in found]
    )
    return [
        (replace(past, row=rows_by_key.get(decision_key(past.group, past.member, past.asked_at))), place)
        for past, place in found
    ]


# What a rule would have made of them.


@dataclass(frozen=True, slots=True)
class Changed:
    past: Past
    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class BackTest:
    """`total` past requests were looked at; of `unanswered` Wix has no answers any more, and those of `unread` could
    not be read (`trouble` says why). `before` and `after` count decisions, "" for none."""

    total: int
    unanswered: int
    unread: int
    trouble: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    letters_before: Mapping[str, int]
    letters_after: Mapping[str, int]
    changed: tuple[Changed, ...]
    without: bool = False
    """The rule is as it was, so it was compared with the rules without it."""


def back_test(
    office: Office, holder: Holder, site: SiteId, rules: Automations, *, name: str = "", group: str = ""
) -> BackTest:
    """What these rules make of the last past requests, by the answers that Wix still has, and where that differs from
    what the rules as they are make of them. Nothing is written.

    `name`: of the rule that is tried; when it is as it was, it is compared with the others alone.
    """
    present = office.automations()
    without = rules == present
    if without:
        others = tuple(one for one in present.automations if name not in (one.name, one.flow))
        present = replace(present, automations=others)
    past = _last(office, holder, site, group)
    groups = office.names.of(site, holder.reach).groups()
    answers, trouble = _answers_of(office, site, past, groups)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    changed, unanswered, unread = [], 0, 0
    for one in past:
        given = answers.get(one.group)
        if given is None:
            unread += 1
        elif one.member not in given:
            unanswered += 1
        else:
            before, after = (
                verdict(plan(some, TRIGGER, site, groups[one.group], given[one.member]))
                for some in (present, rules)
            )
            for side, found in (("before", before), ("after", after)):
                counts[side][found.kind] += 1
                counts[f"letters {side}"].update(found.letters)
            if (before.kind, before.letters) != (after.kind, after.letters):
                changed.append(Changed(one, before, after))
    return BackTest(
        total=len(past),
        unanswered=unanswered,
        unread=unread,
        trouble=trouble,
        before=counts["before"],
        after=counts["after"],
        letters_before=counts["letters before"],
        letters_after=counts["letters after"],
        changed=tuple(changed),
        without=without,
    )


def _last(office: Office, holder: Holder, site: SiteId, group: str) -> list[Past]:
    found: list[Past] = []
    after: tuple[datetime, str] | None = None
    for _ in range(MOST_SCANNED // MOST_TESTED):
        some, after = history(office, holder, site, limit=MOST_TESTED, after=after)
        found += [one for one in some if group in ("", one.group)]
        if after is None:
            break
    return found[:MOST_TESTED]


def _answers_of(
    office: Office, site: SiteId, past: Iterable[Past], groups: Mapping[GroupId, Group]
) -> tuple[Mapping[GroupId, Mapping[MemberId, tuple[Answer, ...]]], str]:
    asked: dict[GroupId, set[MemberId]] = defaultdict(set)
    for one in past:
        asked[one.group].add(one.member)
    largest = sorted(asked, key=lambda id_: len(asked[id_]), reverse=True)[:MOST_GROUPS_TESTED]
    found, trouble = {}, ""
    for id_ in largest:
        if id_ not in groups:
            continue
        try:
            found[id_] = office.wix.list_answers(site, id_, asked[id_])
        except IntegrationError as exc:
            trouble = in_words(exc)
    return found, trouble


@dataclass(frozen=True, slots=True)
class RuleEdit:
    """A rule as somebody would like to try it. `decide` is approve, reject, flag, or "" for a letter alone."""

    name: str
    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    question: str = ""
    decide: str = ""


NEW_RULE = "new-rule"


def edit_of(known: Automation | None) -> RuleEdit:
    """A rule as it is; None for a new one."""
    if known is None:
        return RuleEdit(NEW_RULE, decide="approve")
    terms = known.answers or AnswerRule()
    return RuleEdit(known.name, terms.any, terms.all, terms.none, terms.question, known.decide or "")


def rules_within(office: Office, holder: Holder, site: SiteId) -> list[Automation]:
    """The automations that are for this site, on or off; for a holder with groups those that are for one of them."""
    ids = holder.reach.groups
    if ids is None:
        groups = {Group(GroupId(""), "")}
    else:
        known = office.names.of(site, holder.reach).groups()
        groups = {known.get(GroupId(id_)) or Group(GroupId(id_), "") for id_ in ids}

    def is_for(one: Automation) -> bool:
        asked = replace(one, enabled=True, groups=one.groups if ids is not None else ("*",))
        alone, on = Automations(automations=(asked,)), next(iter(one.on))
        return any(applicable(alone, on, site, group) for group in groups)

    return [one for one in office.automations().automations if is_for(one)]


def rules_with_answers(office: Office, holder: Holder, site: SiteId) -> list[Automation]:
    """Those of them that a back-test can be made of."""
    return [
        one
        for one in rules_within(office, holder, site)
        if TRIGGER in one.on and one.answers is not None and not one.is_step
    ]


def edited_rules(rules: Automations, edit: RuleEdit) -> Automations:
    """The rules with this one changed; one of an unknown name comes at the end. Raises RefusedError naming each wrong
    field."""
    known = next((one for one in rules.automations if one.name == edit.name and not one.is_step), None)
    read = _read_edit(edit, known)
    if known is None:
        return replace(rules, automations=(*rules.automations, read))
    changed = replace(known, answers=read.answers, decide=read.decide)
    if (changed.answers, changed.decide) == (known.answers, known.decide):
        return rules
    return replace(
        rules,
        automations=tuple(
            changed
            if one is known
            else replace(one, answers=changed.answers)
            if one.flow == known.name
            else one
            for one in rules.automations
        ),
    )


def save_rule(office: Office, holder: Holder, edit: RuleEdit, base: int) -> Row:
    """Have the rule count as it was tried; the version of the automations. `base`: the version it was tried upon.

    Raises RefusedError, NotThereError, and WrongStateError when somebody else saved meanwhile.
    """
    answers = {
        "any": list(edit.any),
        "all": list(edit.all),
        "none": list(edit.none),
        "question": edit.question,
    }
    fields: dict[str, Any] = {"answers": {name: value for name, value in answers.items() if value}}
    if edit.decide:
        fields["decide"] = edit.decide
    known = office.automations().named(edit.name)
    if known is None:
        change: Edit = Add({"name": edit.name, "on": [TRIGGER], **fields})
    else:
        # Without a rejection there is nobody to tell a reason.
        gone = {"decide": None} if not edit.decide else {}
        change = Change(edit.name, fields | gone | ({} if edit.decide == "reject" else {"reason": None}))
    text, _ = automations.edited(office, holder, base, [change])
    return automations.save(office, holder, text, base)


def _read_edit(edit: RuleEdit, known: Automation | None) -> Automation:
    """By the reader of the automations file, so that the same mistakes are named as when it is saved."""
    table: dict[str, Any] = {"name": edit.name, "on": [TRIGGER]}
    if edit.decide:
        table["decide"] = edit.decide
    if known is not None and known.email is not None:
        table |= {"email": known.email, "purpose": str(known.purpose or Purpose.PROMOTIONAL)}
    answers: dict[str, Any] = {
        name: list(terms)
        for name, terms in (("any", edit.any), ("all", edit.all), ("none", edit.none))
        if terms
    }
    if edit.question:
        answers["question"] = edit.question
    table["answers"] = answers
    try:
        [read, *_] = parse_automations(tomlkit.dumps({"automation": [table]}), file="rule").automations
    except ConfigError as exc:
        raise wrong_fields("the rule", *(_place_of(problem) for problem in exc.problems)) from exc
    return read


def _place_of(problem: str) -> tuple[str, str]:
    """Field and mistake of `rule:3: automation.answers.any: is wrong (got …)`, without what was given."""
    found = re.fullmatch(r"rule:\d+: ([\w.]+): (.*?)(?: \(got .*\))?", problem, re.DOTALL)
    return (found[1].rpartition(".")[2], found[2]) if found else ("", problem)


def _own_site(holder: Holder, site: SiteId) -> SiteId:
    if holder.reach.sites is not None and site not in holder.reach.sites:
        raise NotThereError("There is no such site, or it is not yours to see.")
    return site
