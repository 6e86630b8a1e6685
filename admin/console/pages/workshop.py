"""The workshop: what came in, what got stuck, who did what, and how the parts fare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from admin.api.problems import fields_of
from admin.api.reading import next_cursor, read_cursor
from admin.api.shapes import NewToken
from admin.console.page import Page, Visit
from admin.office import ALL, DECIDERS, MANAGERS, OWNERS, READERS, workshop
from admin.office.refusals import RefusedError
from admin.recovery import EVENT_STATES, MESSAGE_STATES
from core.community import LONGEST_ID, GroupId, MemberId, is_plain
from core.errors import NotThereError, WrongStateError
from core.events import EventId
from integrations.store.glance import Glance
from integrations.store.ledger import may_go_at
from integrations.store.tokens import ALL_SITES, Role

ON_A_PAGE = 30
TYPES = (
    "member_added",
    "member_joined",
    "member_removed",
    "member_left",
    "role_assigned",
    "join_requested",
    "join_approved",
    "join_rejected",
    "join_canceled",
    "group_deleted",
    "group_rules_updated",
    "member_deleted",
    "contact_created",
    "contact_updated",
    "contact_merged",
    "contact_deleted",
    "subscription_changed",
    "app_installed",
    "app_removed",
)
ACTIONS = (
    "automation.edit",
    "automation.rollback",
    "console.login",
    "console.logout",
    "event.replay",
    "job.cancel",
    "job.confirm",
    "job.create",
    "job.pause",
    "job.resume",
    "job.retry-failed",
    "message.found",
    "message.give-up",
    "message.release",
    "letter.test",
    "people.erase",
    "people.export",
    "people.release",
    "people.suppress",
    "request.approve",
    "request.reject",
    "request.undo",
    "sender.resume",
    "token.create",
    "token.revoke",
    "user.change",
    "user.create",
    "user.disable",
    "user.password",
    "user.reset",
)
AGES = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "3d": timedelta(days=3), "7d": timedelta(days=7)}
LINKED = {"job": "/jobs/{}", "member": "/people/{}", "group": "/groups/{}"}
"""Where an object of the audit log is shown, by its kind."""


def overview(visit: Visit) -> Response:
    glance = Glance(visit.office.database)
    return visit.page(
        "workshop/overview.html",
        dead=glance.dead(visit.site),
        doubt=glance.in_doubt(visit.site, visit.holder.reach),
        pauses=[row for row in workshop.pauses(visit.office) if row.paused_until is not None],
    )


# Events


def list_events(visit: Visit) -> Response:
    state, type_ = _one_of(visit, "state", EVENT_STATES), _plain(visit, "type")
    after = read_cursor(visit.query.get("after", ""), keys=2)
    rows = visit.office.journal.page(
        site=visit.site,
        type=type_ or None,
        state=state or None,
        reach=visit.holder.reach,
        limit=ON_A_PAGE + 1,
        after=after,
    )
    return visit.page(
        "workshop/events.html",
        rows=rows[:ON_A_PAGE],
        members=visit.directory.members(MemberId(row.member) for row in rows[:ON_A_PAGE] if row.member),
        state=state,
        type=type_,
        types=TYPES,
        states=EVENT_STATES,
        older=_older(visit, rows, lambda row: (row.received_at, row.site, row.id), state=state, type=type_),
        is_first=after is None,
    )


def show_event(visit: Visit) -> Response:
    id_ = _plain(visit, "id")
    story = workshop.story_of(visit.office, visit.holder, visit.site, EventId(id_))
    people = {value for name, value in story.fields if _ends_in(name, "memberId", "siteMemberId")}
    people |= {row.member for row in (*story.letters, *story.calls)} | {story.member or ""}
    return visit.page(
        "workshop/event.html",
        story=story,
        fields=[(name, value, _kind_of(name, value, story)) for name, value in story.fields],
        members=visit.directory.members(MemberId(person) for person in people if person),
        groups=visit.directory.groups(),
    )


def replay_event(visit: Visit) -> Response:
    id_ = visit.form.get("id")
    if not is_plain(id_, LONGEST_ID):
        raise NotThereError("there is no event of this id")
    workshop.replay(visit.office, visit.holder, EventId(id_), visit.site)
    said = visit.words.gettext(
        "The event is worked off once more. Who has a letter of it gets no second one."
    )
    return visit.to("/workshop/event", said=said, id=id_)


def ask_replay(visit: Visit) -> Response:
    type_ = _plain(visit, "type")
    return visit.page(
        "workshop/replay.html",
        type=type_,
        rows=workshop.dead_events(visit.office, visit.holder, visit.site, type_),
        most=workshop.MOST_AT_ONCE,
    )


def replay_all(visit: Visit) -> Response:
    type_ = visit.form.get("type")
    if not is_plain(type_, LONGEST_ID):
        raise NotThereError("there is no event of this type")
    done = workshop.replay_dead(visit.office, visit.holder, visit.site, type_)
    said = visit.words.ngettext(
        "%(num)s event is worked off once more.", "%(num)s events are worked off once more.", done
    )
    return visit.to("/workshop/events", said=said, type=type_)


def _kind_of(name: str, value: str, story: workshop.Story) -> str:
    if _ends_in(name, "memberId", "siteMemberId"):
        return "person"
    return "group" if _ends_in(name, "groupId") or value == story.group else ""


def _ends_in(name: str, *endings: str) -> bool:
    return name.rpartition(".")[2] in endings


# Letters


def list_letters(visit: Visit) -> Response:
    state, why = _one_of(visit, "state", MESSAGE_STATES), _plain(visit, "why")
    group, automation = _plain(visit, "group"), visit.query.get("automation", "")
    after = read_cursor(visit.query.get("after", ""), keys=1)
    rows, reason = workshop.letters(
        visit.office,
        visit.holder,
        visit.site,
        state=state or None,
        group=group or None,
        automation=automation or None,
        why=why,
        limit=ON_A_PAGE + 1,
        after=_place(after),
    )
    return visit.page(
        "workshop/letters.html",
        rows=rows[:ON_A_PAGE],
        members=visit.directory.members(MemberId(row.member) for row in rows[:ON_A_PAGE]),
        groups=visit.directory.groups(),
        state=state,
        group=GroupId(group),
        automation=automation,
        why=why,
        reason=reason,
        states=MESSAGE_STATES,
        older=_older(
            visit,
            rows,
            lambda row: (row.created_at, row.id),
            state=state,
            why=why,
            group=group,
            automation=automation,
        ),
        is_first=after is None,
    )


def list_doubts(visit: Visit) -> Response:
    rows = workshop.in_doubt(visit.office, visit.holder, visit.site)
    now = visit.office.now()
    return visit.page(
        "workshop/doubts.html",
        rows=[(row, may_go_at(row, now)) for row in rows[:ON_A_PAGE]],
        all=len(rows),
        now=now,
        members=visit.directory.members(MemberId(row.member) for row in rows[:ON_A_PAGE]),
        groups=visit.directory.groups(),
        ages=list(AGES),
    )


def decide_doubt(visit: Visit) -> Response:
    decision = _decision(visit.form.get("decision"))
    workshop.DECISIONS[decision](visit.office, visit.holder, visit.ids["letter"])
    return visit.to("/workshop/doubt", said=_said(visit, decision, 1))


def ask_doubts(visit: Visit) -> Response:
    """What would be decided about all that are older, before it is."""
    age, decision = visit.query.get("older", ""), _decision(visit.query.get("decision", ""))
    rows = workshop.in_doubt(visit.office, visit.holder, visit.site, older_than=_age(age))
    return visit.page(
        "workshop/decide.html", rows=rows, age=age, decision=decision, most=workshop.MOST_AT_ONCE
    )


def decide_doubts(visit: Visit) -> Response:
    decision = _decision(visit.form.get("decision"))
    done = workshop.decide_all(
        visit.office, visit.holder, visit.site, decision, _age(visit.form.get("older"))
    )
    return visit.to("/workshop/doubt", said=_said(visit, decision, done))


def _decision(given: str) -> Literal["release", "give-up"]:
    match given:
        case "release" | "give-up":
            return given
    raise RefusedError("Say whether the letter is sent again or never.", 422)


def _age(given: str) -> timedelta:
    if given not in AGES:
        raise RefusedError("Say how old the letters have to be.", 422)
    return AGES[given]


def _said(visit: Visit, decision: str, done: int) -> str:
    if decision == "release":
        return visit.words.ngettext("%(num)s letter is sent again.", "%(num)s letters are sent again.", done)
    return visit.words.ngettext("%(num)s letter is never sent.", "%(num)s letters are never sent.", done)


# The audit log


def list_audit(visit: Visit) -> Response:
    """A name to look for comes by POST: it is nothing for an address."""
    looked_for = visit.request.method == "POST"
    given = visit.form if looked_for else visit.query
    who, action = given.get("who", ""), given.get("action", "")
    after = None if looked_for else read_cursor(visit.query.get("after", ""), keys=1)
    rows = workshop.audit_lines(
        visit.office,
        visit.holder,
        who=who or None,
        action=action or None,
        object=visit.query.get("object") or None,
        limit=ON_A_PAGE * (4 if looked_for else 1) + 1,
        after=_place(after),
    )
    shown = rows[: ON_A_PAGE * (4 if looked_for else 1)]
    return visit.page(
        "workshop/audit.html",
        lines=[(row, *_object_of(visit, row.object), _changes(visit, row)) for row in shown],
        members=visit.directory.members(
            MemberId(row.object.partition(" ")[2]) for row in shown if row.object.startswith("member ")
        ),
        groups=visit.directory.groups(),
        actions=ACTIONS,
        who=who,
        action=action,
        older=""
        if looked_for
        else _older(
            visit, rows, lambda row: (row.at, row.id), action=action, object=visit.query.get("object")
        ),
        is_first=after is None,
    )


def _object_of(visit: Visit, text: str) -> tuple[str, str, str]:
    """Kind, id and address of what a line is about."""
    kind, _, id_ = text.partition(" ")
    if kind == "event":
        return kind, id_, visit.url("/workshop/event", id=id_)
    return (
        kind,
        id_,
        visit.url(LINKED[kind].format(id_)) if kind in LINKED and is_plain(id_, LONGEST_ID) else "",
    )


def _changes(visit: Visit, row: Any) -> list[tuple[str, str, str]]:
    """What each value was and is; "" for nothing."""
    before, after = row.before or {}, row.after or {}
    groups = visit.directory.groups()

    def spell(value: object) -> str:
        match value:
            case list():
                return ", ".join(map(spell, value))
            case visit.site:
                return visit.words.gettext("this site")
            case str() if GroupId(value) in groups:
                return groups[GroupId(value)].name
        return "" if value is None else str(value)

    found = [
        (name, spell(before.get(name)), spell(after.get(name))) for name in dict.fromkeys((*before, *after))
    ]
    return [(name, was, is_) for name, was, is_ in found if was or is_]


# Tokens


def list_tokens(visit: Visit) -> Response:
    return _show_tokens(visit)


def create_token(visit: Visit) -> Response:
    form, role = visit.form, visit.form.get("role")
    asked: dict[str, Any] = {"name": form.get("name").strip(), "role": role}
    if role != Role.OWNER:
        asked["sites"] = [ALL_SITES] if form.get("everywhere") else [visit.site]
    if role == Role.GROUP_ADMIN:
        asked["groups"] = form.getlist("groups")
    days = form.get("days").strip()
    if days:
        asked["expires_in_days"] = int(days) if days.isascii() and days.isdigit() else days
    try:
        new = TypeAdapter(NewToken).validate_python(asked)
    except ValidationError as exc:
        wrong = [name for name, _ in fields_of(exc, tagged=True)]
        return _show_tokens(visit, status=422, errors=_in_words(visit, wrong))
    sites, groups = new.reach
    try:
        token, row = workshop.create_token(
            visit.office,
            visit.holder,
            new.name,
            Role(new.role),
            sites=sites,
            groups=groups,
            expires_in_days=new.expires_in_days,
        )
    except WrongStateError:
        taken = visit.words.gettext("A token of this name is there, or was. The audit log needs another one.")
        return _show_tokens(visit, status=422, errors={"name": taken})
    return _show_tokens(visit, made=row, token=token)


def revoke_token(visit: Visit) -> Response:
    row = workshop.revoke_token(visit.office, visit.holder, visit.ids["token"])
    said = visit.words.gettext("Nobody comes in with the token “%(name)s” any more.", name=row.name)
    return visit.to("/workshop/tokens", said=said)


def _show_tokens(
    visit: Visit,
    *,
    status: int = 200,
    errors: Mapping[str, str] = {},
    made: Any = None,
    token: str = "",
) -> Response:
    return visit.page(
        "workshop/tokens.html",
        status=status,
        rows=visit.office.tokens.page(limit=200),
        groups=visit.directory.groups(),
        roles=list(Role),
        form=visit.form if errors else None,
        errors=errors,
        made=made,
        token=token,
        now=visit.office.now(),
    )


def _in_words(visit: Visit, wrong: Iterable[str]) -> dict[str, str]:
    _ = visit.words.gettext
    texts = {
        "name": _("A name has letters, digits, dots and dashes, 64 of them at most."),
        "role": _("Choose one of these roles."),
        "groups": _("Choose at least one group."),
        "expires_in_days": _("A whole number of days, 3650 at most."),
    }
    found = {name.partition(".")[0] for name in wrong}
    return {name: text for name, text in texts.items() if name in found} or {"name": texts["name"]}


# Senders and the doctor


def list_senders(visit: Visit) -> Response:
    return visit.page("workshop/senders.html", rows=workshop.pauses(visit.office), now=visit.office.now())


def resume_sender(visit: Visit) -> Response:
    workshop.resume(visit.office, visit.holder, visit.form.get("sender"), visit.form.get("domain"))
    return visit.to("/workshop/senders", said=visit.words.gettext("Letters go again."))


def show_doctor(visit: Visit) -> Response:
    return visit.page("workshop/doctor.html", found=None)


def run_doctor(visit: Visit) -> Response:
    found = workshop.run_doctor(visit.holder)
    by_verdict = {
        verdict: [line for line in found if line.verdict == verdict]
        for verdict in ("failed", "warning", "not checked", "ok")
    }
    return visit.page("workshop/doctor.html", found=by_verdict)


# What they share


def _older(visit: Visit, rows: Sequence[Any], place: Any, **query: object) -> str:
    """The address of what comes after a page, of which `rows` has one more."""
    if len(rows) <= ON_A_PAGE:
        return ""
    time, *keys = place(rows[ON_A_PAGE - 1])
    path = visit.request.url.path.partition(f"/s/{visit.request.path_params['site']}")[2]
    return visit.url(path, **query, after=next_cursor(time.isoformat(), *keys))


def _place(cursor: tuple[Any, ...] | None) -> workshop.Place | None:
    return None if cursor is None else (cursor[0], cursor[1])


def _one_of(visit: Visit, name: str, known: Sequence[str]) -> str:
    found = visit.query.get(name, "")
    return found if found in known else ""


def _plain(visit: Visit, name: str) -> str:
    found = visit.query.get(name, "")
    return found if is_plain(found, LONGEST_ID) else ""


PAGES: tuple[Page, ...] = (
    Page("GET", "/workshop", overview, READERS),
    Page("GET", "/workshop/events", list_events, READERS),
    Page("GET", "/workshop/event", show_event, READERS),
    Page("POST", "/workshop/event/replay", replay_event, MANAGERS),
    Page("GET", "/workshop/replay", ask_replay, MANAGERS),
    Page("POST", "/workshop/replay", replay_all, MANAGERS),
    Page("GET", "/workshop/letters", list_letters, ALL),
    Page("GET", "/workshop/doubt", list_doubts, ALL),
    Page("POST", "/workshop/doubt/{letter}", decide_doubt, DECIDERS),
    Page("GET", "/workshop/doubts", ask_doubts, DECIDERS),
    Page("POST", "/workshop/doubts", decide_doubts, DECIDERS),
    Page("GET", "/workshop/audit", list_audit, READERS),
    Page("POST", "/workshop/audit", list_audit, READERS),
    Page("GET", "/workshop/tokens", list_tokens, OWNERS),
    Page("POST", "/workshop/tokens", create_token, OWNERS),
    Page("POST", "/workshop/tokens/{token}/revoke", revoke_token, OWNERS),
    Page("GET", "/workshop/senders", list_senders, READERS),
    Page("POST", "/workshop/senders/resume", resume_sender, OWNERS),
    Page("GET", "/workshop/doctor", show_doctor, MANAGERS),
    Page("POST", "/workshop/doctor", run_doctor, MANAGERS),
)
