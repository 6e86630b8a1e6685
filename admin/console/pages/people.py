"""People: find somebody, see why they were written to or not, and decide about them."""

from __future__ import annotations

import functools
import json
import unicodedata
from datetime import datetime
from typing import Any
from urllib.parse import quote

from babel.dates import format_datetime
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from admin.console.page import Page, Visit, name_of
from admin.console.words import Words
from admin.office import ALL, DECIDERS, MANAGERS, READERS, people, why
from admin.office.people_file import render_export
from admin.office.refusals import RefusedError
from admin.office.words import N_
from core.automations import TRIGGERS
from core.community import GroupId, MemberId
from core.consent import why_it_stays
from core.errors import NotThereError, WrongStateError
from core.gate import Defer, Send
from integrations.store.jobs import HELD, STILL_IN
from integrations.store.people import Row
from integrations.store.tokens import Role

LATELY = 8
_LOOKED_THROUGH = 60

REASONS = {
    "asked": N_("They asked us to"),
    "not-theirs": N_("The address is somebody else's"),
    "conduct": N_("By the rules of the community"),
    "test": N_("No person, but an account for tests"),
    "other": N_("Another reason"),
}
STATUSES = {
    "SUBSCRIBED": N_("said yes to letters"),
    "UNSUBSCRIBED": N_("said no to letters"),
    "PENDING": N_("was asked to confirm, and has not answered"),
    "NOT_SET": N_("never said yes or no"),
}
DELIVERABILITIES = {
    "VALID": N_("letters arrive"),
    "NOT_SET": N_("nothing is known of how letters fare"),
    "INACTIVE": N_("letters arrive, and are not opened"),
    "BOUNCED": N_("letters came back"),
    "SPAM_COMPLAINT": N_("a letter was reported as spam"),
}
KINDS = {
    "approve": N_("let in"),
    "reject": N_("turned away"),
    "flag": N_("left to a person"),
    "unsubscribe": N_("Wix is told that they want no letters"),
    "bounced": N_("Wix is told that letters come back"),
    "complaint": N_("Wix is told of a complaint"),
}
ACTIONS = {
    "people.suppress": N_("ended letters to them"),
    "people.release": N_("lifted a stop"),
    "people.export": N_("took a copy of their data"),
    "people.erase": N_("had them forgotten"),
    "message.release": N_("sent a letter in doubt again"),
    "message.give-up": N_("gave a letter in doubt up"),
    "message.found": N_("found a letter in doubt to have arrived"),
}
_FILE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def look_for_people(visit: Visit, *, term: str = "", error: str = "", **more: Any) -> Response:
    rows = visit.office.ledger.page(site=visit.site, reach=visit.holder.reach, limit=_LOOKED_THROUGH)
    lately: dict[MemberId, Row] = {}
    for row in rows:
        lately.setdefault(MemberId(row.member), row)
    newest = list(lately.items())[:LATELY]
    return visit.page(
        "people/find.html",
        status=422 if error else 200,
        term=term,
        error=error,
        lately=newest,
        members=visit.directory.members(member for member, _ in newest),
        **more,
    )


def find(visit: Visit) -> Response:
    term = visit.form.get("term")
    try:
        found = people.find(visit.office, visit.holder, visit.site, term)
    except RefusedError as exc:
        return look_for_people(visit, term=term, error=_detail(visit, exc))
    if len(found.hits) == 1 and found.hits[0].member and not found.trouble:
        return visit.to(_path(found.hits[0].member))
    return look_for_people(visit, term=term, found=found, groups=visit.directory.groups())


def show(visit: Visit, *, status: int = 200, **more: Any) -> Response:
    person = _person(visit)
    return visit.page("people/show.html", status=status, **(_context(visit, person) | more))


def explain(visit: Visit) -> Response:
    person = _person(visit)
    about = visit.query.get("about", "")
    if not about:
        return visit.to(_path(person.id))
    found = why.explain(visit.office, visit.holder, person, about)
    told = [tell(visit.words, said) for said in found.because]
    context: dict[str, Any] = {"answer": found.answer, "told": told, "about": about}
    if visit.is_htmx:
        return visit.part("people/_why.html", **context)
    return visit.page("people/show.html", **(_context(visit, person) | context))


def suppress(visit: Visit) -> Response:
    member, scope, reason = _member(visit), visit.form.get("scope"), visit.form.get("reason")
    try:
        people.suppress(visit.office, visit.holder, visit.site, member, scope=scope, reason=reason)
    except RefusedError as exc:
        if exc.status != 422:
            raise
        errors = {
            "scope": visit.words.gettext("Choose which letters."),
            "reason": visit.words.gettext("Choose a reason."),
        }
        wrong = {error["field"]: errors[error["field"]] for error in exc.errors}
        return show(visit, status=422, typed={"scope": scope, "reason": reason}, wrong=wrong)
    except WrongStateError:
        said = visit.words.gettext("An admin has ended these letters already.")
        return visit.to(_path(member), said=said, mood="plain")
    return visit.to(_path(member), said=visit.words.gettext("These letters have ended."))


def release(visit: Visit) -> Response:
    member = _member(visit)
    try:
        people.release(
            visit.office,
            visit.holder,
            visit.site,
            member,
            scope=visit.form.get("scope"),
            cause=visit.form.get("cause"),
        )
    except NotThereError:
        said = visit.words.gettext("Nothing of this kind stands against letters to them any more.")
        return visit.to(_path(member), said=said, mood="plain")
    return visit.to(_path(member), said=visit.words.gettext("Lifted. What else stands is shown below."))


def export(visit: Visit) -> Response:
    found = people.export(visit.office, visit.holder, visit.site, _member(visit))
    if visit.form.get("format") == "html":
        headers = _FILE | {
            "Content-Disposition": 'attachment; filename="person.html"',
            "Content-Security-Policy": "sandbox",
        }
        return HTMLResponse(render_export(found), headers=headers)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    headers = _FILE | {"Content-Disposition": 'attachment; filename="person.json"'}
    return Response(text.encode(), media_type="application/json", headers=headers)


def ask_to_erase(visit: Visit, *, typed: str = "", error: str = "") -> Response:
    person = _person(visit)
    return visit.page(
        "people/erase.html",
        status=422 if error else 200,
        person=person,
        name=name_of(person.member),
        expected=name_of(person.member) or person.id,
        typed=typed,
        error=error,
    )


def erase(visit: Visit) -> Response:
    person = _person(visit)
    typed = visit.form.get("typed")
    if _plain(typed) not in {_plain(name_of(person.member)) or person.id, _plain(person.id)}:
        error = visit.words.gettext("That is not what stands above. Nothing was erased.")
        return ask_to_erase(visit, typed=typed, error=error)
    people.erase(visit.office, visit.holder, visit.site, person.id)
    said = visit.words.gettext("They are forgotten, and nobody writes to them again.")
    return visit.to(_path(person.id), said=said)


def tell(words: Words, said: why.Said) -> Markup:
    """One sentence in the reader's language."""

    def spell(value: object) -> object:
        match value:
            case datetime():
                return moment(words, value)
            case why.Word():
                return words.gettext(why.WORDS[value])
            case why.Reason():
                return Markup('<bdi lang="en">{}</bdi>').format(str(value))
        return Markup("<bdi>{}</bdi>").format(value)

    text = Markup(escape(words.gettext(said.text)))  # noqa: S704 (escaped)
    return text % {name: spell(value) for name, value in said.values.items()}


def moment(words: Words, at: datetime) -> Markup:
    """With its day, also when that is today: it stands in a sentence."""
    here = at.astimezone(words.zone)
    spelt = format_datetime(here, "d MMM y, HH:mm", locale=words.language)
    return Markup('<time datetime="{}">{}</time>').format(here.isoformat(timespec="seconds"), spelt)


def _context(visit: Visit, person: people.Person) -> dict[str, Any]:
    records = person.records
    events = {told.row.id: told.row for told in records.told}
    choices = why.choices(visit.office, visit.holder, visit.site)
    return {
        "person": person,
        "name": name_of(person.member),
        "moment": functools.partial(moment, visit.words),
        "groups": visit.directory.groups(),
        "letters": [_letter(row, events, records.jobs) for row in reversed(records.letters)],
        "calls": list(reversed(records.calls)),
        "told": [],
        "answer": "",
        "about": "",
        "happened": [told for told in reversed(records.told) if told.row.type in TRIGGERS],
        "stops": _stops(visit, person),
        "rulings": [
            {
                "purpose": ruling.purpose,
                "group": ruling.group,
                "verdict": {Send: "send", Defer: "wait"}.get(type(ruling.verdict), "skip"),
                "reason": getattr(ruling.verdict, "reason", ""),
                "until": getattr(ruling.verdict, "until", None),
            }
            for ruling in person.rulings
        ],
        "choices": [(choice.about, _name_choice(visit.words, choice)) for choice in choices],
        "scopes": _scopes(visit, person),
        "reasons": [(code, visit.words.gettext(text)) for code, text in REASONS.items()],
        "statuses": STATUSES,
        "deliverabilities": DELIVERABILITIES,
        "kinds": KINDS,
        "actions": ACTIONS,
        "did": why.WORDS,
        "triggers": TRIGGERS,
        "typed": {},
        "wrong": {},
        "DECIDERS": DECIDERS,
        "MANAGERS": MANAGERS,
        "READERS": READERS,
    }


def _letter(row: Row, events: dict[str, Row], jobs: Any) -> dict[str, Any]:
    """With what set it off."""
    waits = row.state in ("planned", "deferred") and row.next_at not in (HELD, STILL_IN)
    return {
        "row": row,
        "event": events.get(row.event) if row.event else None,
        "job": jobs.get(row.job) if row.job else None,
        "due": row.next_at if waits else None,
        "unconfirmed": row.state == "planned" and row.next_at in (HELD, STILL_IN),
    }


def _stops(visit: Visit, person: people.Person) -> list[dict[str, Any]]:
    """Each once, though it stands under several names of the person."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in person.records.suppressions:
        mine = visit.holder.reach.groups is None or row.scope.startswith("group:")
        stays = why_it_stays(row.cause)
        found.setdefault(
            (row.scope, row.cause, row.reason),
            {
                "row": row,
                "group": GroupId(row.scope.removeprefix("group:"))
                if row.scope.startswith("group:")
                else None,
                "stays": stays,
                "may_lift": stays is None and mine and visit.holder.role in DECIDERS,
            },
        )
    return list(found.values())


def _scopes(visit: Visit, person: people.Person) -> list[tuple[str, str]]:
    words, groups = visit.words, visit.directory.groups()
    found = [
        ("promotional", words.gettext("Promotional letters of all groups")),
        ("all", words.gettext("Every letter")),
    ]
    if visit.holder.role is Role.GROUP_ADMIN:
        found = []
    for place in person.places:
        group = groups.get(place.group)
        name = group.name if group else place.group
        found.append((f"group:{place.group}", words.gettext("Letters of %(group)s", group=name)))
    return found


def _name_choice(words: Words, choice: why.Choice) -> str:
    kind = choice.about.partition(":")[0]
    if kind == "automation":
        return words.gettext("Automation: %(name)s", name=choice.name)
    if kind == "letter":
        return words.gettext("Any letter made of the template %(name)s", name=choice.name)
    assert choice.at is not None  # noqa: S101 (a job has a date)
    day = words.day(choice.at)
    if choice.group:
        return words.gettext(
            "Job of %(day)s: %(name)s to %(group)s", day=day, name=choice.name, group=choice.group
        )
    return words.gettext("Job of %(day)s: %(name)s", day=day, name=choice.name)


def _person(visit: Visit) -> people.Person:
    return people.look(visit.office, visit.holder, visit.site, _member(visit))


def _member(visit: Visit) -> MemberId:
    return MemberId(visit.ids["member"])


def _path(member: str) -> str:
    return f"/people/{quote(member, safe='')}"


def _detail(visit: Visit, exc: RefusedError) -> str:
    return visit.words.gettext(exc.first)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


PAGES: tuple[Page, ...] = (
    Page("GET", "/people", look_for_people, ALL),
    Page("POST", "/people", find, ALL),
    Page("GET", "/people/{member}", show, ALL),
    Page("GET", "/people/{member}/why", explain, ALL),
    Page("POST", "/people/{member}/suppress", suppress, DECIDERS),
    Page("POST", "/people/{member}/release", release, DECIDERS),
    Page("POST", "/people/{member}/export", export, MANAGERS),
    Page("GET", "/people/{member}/erase", ask_to_erase, MANAGERS),
    Page("POST", "/people/{member}/erase", erase, MANAGERS),
)
