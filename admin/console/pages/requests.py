"""Requests to join: who waits, decisions with a way back, what became of earlier ones, and a back-test of a rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.responses import Response

from admin.api.reading import next_cursor, read_cursor
from admin.console.page import Page, Visit
from admin.office import DECIDERS, MANAGERS, automations, requests
from admin.office.refusals import RefusedError
from core.automations import Automation
from core.community import Group, GroupId, MemberId, is_plain
from core.errors import NotThereError, WrongStateError
from core.matching import AnswerRule, problem_with_term

AT_ONCE = 25
MATCHED_AT_ONCE = 100
PAST_AT_ONCE = 50
LONGEST_ID = 200


def list_requests(visit: Visit) -> Response:
    return _show(visit, flagged=visit.query.get("waits", "") == "flagged")


def match_requests(visit: Visit) -> Response:
    """Those whose answers hold some words, all checked; the words are posted, so that they stand in no address."""
    words, without = visit.form.get("words"), visit.form.get("without")
    rule = AnswerRule(any=_lines(words), none=_lines(without))
    errors = {
        name: problem
        for name, terms in (("words", rule.any), ("without", rule.none))
        if (problem := next((found for term in terms if (found := problem_with_term(term))), None))
    }
    if not rule.any and not rule.none:
        errors["words"] = visit.words.gettext("Write at least one word.")
    if errors:
        return _show(visit, status=422, errors=errors, words=words, without=without)
    return _show(visit, match=rule, words=words, without=without)


def _show(
    visit: Visit,
    *,
    flagged: bool = False,
    match: AnswerRule | None = None,
    status: int = 200,
    errors: dict[str, str] | None = None,
    **typed: str,
) -> Response:
    group = visit.form.get("group") or visit.query.get("group", "")
    found = requests.pending(
        visit.office,
        visit.holder,
        visit.site,
        group=group if is_plain(group, LONGEST_ID) else "",
        flagged=flagged,
        match=match,
        limit=AT_ONCE if match is None else MATCHED_AT_ONCE,
        after=read_cursor(visit.query.get("after", ""), keys=2),
    )
    if found.trouble and not visit.directory.trouble:
        visit.directory.trouble = found.trouble
    return visit.page(
        "requests/list.html",
        status=status,
        found=found,
        group=group,
        choices=_choices(visit, found.groups.values()),
        flagged=flagged,
        match=match,
        typed=typed,
        errors=errors or {},
        members=visit.directory.members({one.member for one in found.items}),
        all_groups=visit.directory.groups(),
        next_url=_older(visit, "/requests", found.next, group=group, waits="flagged" if flagged else ""),
        first_url=visit.url("/requests", group=group) if visit.query.get("after") else "",
        can_be_undone=requests.can_be_undone,
        **_under_way(visit),
    )


def _choices(visit: Visit, groups: Iterable[Group]) -> list[tuple[str, str]]:
    by_name = sorted(groups, key=lambda one: one.name.casefold())
    return [
        ("", visit.words.gettext("All private groups")),
        *((one.id, one.name or one.id) for one in by_name),
    ]


def _older(visit: Visit, path: str, place: tuple[Any, ...] | None, **query: str) -> str:
    if place is None:
        return ""
    at, *ids = place
    return visit.url(path, after=next_cursor(at.isoformat(), *ids), **query)


def _under_way(visit: Visit) -> dict[str, Any]:
    rows = requests.under_way(visit.office, visit.holder, visit.site)
    return {
        "under_way": rows[:MATCHED_AT_ONCE],
        "more_under_way": max(0, len(rows) - MATCHED_AT_ONCE),
        "undoable": [row.id for row in rows if requests.can_be_undone(row)],
        "still_under_way": any(row.state == "planned" for row in rows),
        "deciding": visit.directory.members({MemberId(row.member) for row in rows[:MATCHED_AT_ONCE]}),
    }


def show_under_way(visit: Visit) -> Response:
    return visit.part(
        "requests/_under_way.html",
        all_groups=visit.directory.groups(),
        can_be_undone=requests.can_be_undone,
        **_under_way(visit),
    )


def decide_requests(visit: Visit) -> Response:
    _ = visit.words.gettext
    asked = [place for value in visit.form.getlist("request") if (place := _place(value))]
    decision, reason = visit.form.get("decision"), visit.form.get("reason").strip()
    back = {"group": visit.form.get("back_group"), "waits": visit.form.get("back_waits")}
    if not asked:
        return visit.to("/requests", said=_("Nobody was chosen: nothing was decided."), mood="bad", **back)
    try:
        found = requests.decide(visit.office, visit.holder, visit.site, asked, decision, reason)
    except WrongStateError as exc:
        return visit.to("/requests", said=_(str(exc)), mood="bad", **back)
    count = len(found.rows)
    said = (
        visit.words.ngettext(
            "%(num)s request will be approved in a few seconds. Until then you can undo it.",
            "%(num)s requests will be approved in a few seconds. Until then you can undo it.",
            count,
        )
        if decision == "approve"
        else visit.words.ngettext(
            "%(num)s request will be declined in a few seconds. Until then you can undo it.",
            "%(num)s requests will be declined in a few seconds. Until then you can undo it.",
            count,
        )
    )
    if found.refused:
        said += " " + visit.words.ngettext(
            "%(num)s could not be decided: the request %(why)s.",
            "%(num)s could not be decided; of the first, the request %(why)s.",
            len(found.refused),
            why=_(found.refused[0][2]),
        )
    return visit.to("/requests", said=said, mood="plain" if found.refused else "good", **back)


def undo_decisions(visit: Visit) -> Response:
    _ = visit.words.gettext
    ids = [id_ for id_ in visit.form.getlist("id") if is_plain(id_, LONGEST_ID)]
    back = {"group": visit.form.get("back_group"), "waits": visit.form.get("back_waits")}
    try:
        rows, refused = requests.undo(visit.office, visit.holder, ids, visit.site)
    except WrongStateError as exc:
        return visit.to("/requests", said=_(str(exc)), mood="bad", **back)
    said = visit.words.ngettext(
        "%(num)s decision was undone: Wix was told nothing, and the request waits again.",
        "%(num)s decisions were undone: Wix was told nothing, and the requests wait again.",
        len(rows),
    )
    if refused:
        said += " " + visit.words.ngettext(
            "%(num)s could not be undone any more: %(why)s.",
            "%(num)s could not be undone any more; of the first, %(why)s.",
            len(refused),
            why=_(refused[0]),
        )
    return visit.to("/requests", said=said, mood="plain" if refused else "good", **back)


def show_history(visit: Visit) -> Response:
    found, place = requests.history(
        visit.office,
        visit.holder,
        visit.site,
        limit=PAST_AT_ONCE,
        after=read_cursor(visit.query.get("after", ""), keys=1),
    )
    return visit.page(
        "requests/history.html",
        found=found,
        members=visit.directory.members({one.member for one in found}),
        all_groups=visit.directory.groups(),
        next_url=_older(visit, "/requests/history", place),
        first_url=visit.url("/requests/history") if visit.query.get("after") else "",
    )


def choose_rule(visit: Visit) -> Response:
    name = visit.query.get("rule", "")
    known = next((one for one in _rules(visit) if one.name == name), None)
    if name and known is None:
        raise NotThereError(visit.words.gettext("There is no such rule, or it is not yours to see."))
    return _show_rule(visit, requests.edit_of(known), known, base=_newest(visit))


def try_rule(visit: Visit) -> Response:
    edit, known = _edit(visit)
    group = visit.form.get("group")
    try:
        tested = requests.edited_rules(visit.office.automations(), edit)
    except RefusedError as exc:
        return _show_rule(visit, edit, known, status=422, errors=_by_field(exc), group=group)
    found = requests.back_test(
        visit.office,
        visit.holder,
        visit.site,
        tested,
        name=edit.name,
        group=group if is_plain(group, LONGEST_ID) else "",
    )
    return _show_rule(visit, edit, known, found=found, group=group)


def _rules(visit: Visit) -> list[Automation]:
    return requests.rules_with_answers(visit.office, visit.holder, visit.site)


def save_rule(visit: Visit) -> Response:
    edit, known = _edit(visit)
    base = _base(visit)
    if base is None:
        raise RefusedError("The form does not say which version of the automations it is of.", 422)
    try:
        requests.save_rule(visit.office, visit.holder, edit, base)
    except RefusedError as exc:
        if exc.status != 422:
            raise
        return _show_rule(visit, edit, known, status=422, errors=_by_field(exc))
    said = visit.words.gettext("The rule counts from now on, for requests that come in.")
    return visit.to(f"/automations/named/{edit.name}", said=said)


def _edit(visit: Visit) -> tuple[requests.RuleEdit, Automation | None]:
    """The rule as the form has it, and as it is."""
    known = next((one for one in _rules(visit) if one.name == visit.form.get("rule")), None)
    edit = requests.RuleEdit(
        known.name if known else visit.form.get("name").strip(),
        _lines(visit.form.get("any")),
        _lines(visit.form.get("all")),
        _lines(visit.form.get("none")),
        visit.form.get("question").strip(),
        visit.form.get("decide"),
    )
    return edit, known


def _by_field(exc: RefusedError) -> dict[str, str]:
    return {error["field"].rpartition(".")[2]: error["detail"] for error in reversed(exc.errors)}


def _show_rule(
    visit: Visit, edit: requests.RuleEdit, known: Automation | None, *, status: int = 200, **context: Any
) -> Response:
    """`base`: the version that what the form shows was taken from; without it the form still has it."""
    found = context.get("found")
    groups = visit.directory.groups()
    return visit.page(
        "requests/back_test.html",
        status=status,
        **{"errors": {}, "group": "", "found": None, "base": _base(visit), **context},
        edit=edit,
        known=known,
        rules=_rules(visit),
        members=visit.directory.members({one.past.member for one in found.changed} if found else ()),
        all_groups=groups,
        choices=_choices(visit, (one for one in groups.values() if one.privacy == "PRIVATE")),
        most=requests.MOST_TESTED,
    )


def _base(visit: Visit) -> int | None:
    """As it stands in the form since it was opened."""
    base = visit.form.get("base")
    return int(base) if base.isascii() and base.isdecimal() and len(base) <= 9 else None


def _newest(visit: Visit) -> int | None:
    """The version that a rule may be saved upon; None for who may save none."""
    if visit.holder.role not in MANAGERS:
        return None
    now = automations.standing(visit.office, visit.holder)
    return now.newest if now.editable else None


def _place(value: str) -> tuple[GroupId, MemberId] | None:
    """Ids hold no spaces."""
    group, _, member = value.partition(" ")
    if is_plain(group, LONGEST_ID) and is_plain(member, LONGEST_ID):
        return GroupId(group), MemberId(member)
    return None


def _lines(text: str) -> tuple[str, ...]:
    """One term a line; more than a thousand are nobody's."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())[:1000]


PAGES: tuple[Page, ...] = (
    Page("GET", "/requests", list_requests),
    Page("POST", "/requests/match", match_requests),
    Page("GET", "/requests/under-way", show_under_way),
    Page("POST", "/requests/decide", decide_requests, DECIDERS),
    Page("POST", "/requests/undo", undo_decisions, DECIDERS),
    Page("GET", "/requests/history", show_history),
    Page("GET", "/requests/back-test", choose_rule),
    Page("POST", "/requests/back-test", try_rule),
    Page("POST", "/requests/back-test/save", save_rule, MANAGERS),
)
