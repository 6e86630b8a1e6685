"""Write to people: to whom, which letter, how it looks, a test of it; then the job that shows who gets it."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError
from starlette.responses import Response

from admin.console.page import Page, Visit
from admin.console.pages.jobs import as_letter, key_of, language_name
from admin.office import DECIDERS, MANAGERS, jobs, write
from admin.office.refusals import RefusedError
from admin.office.words import N_
from admin.office.write import Draft, Drawn, Letter
from core.community import Group, GroupId
from core.consent import Purpose
from core.errors import NotThereError, WrongStateError
from core.letters import MAILINGS
from core.matching import problem_with_term
from tasks.jobs.params import LONGEST_CONTEXT, PARAMS

TO_GROUP, TO_INTEREST = MAILINGS
TOLD = {
    "group": N_("Choose the group."),
    "purpose": N_("Say what kind of letter it is: it decides who may get it."),
    "email": N_("Choose a letter."),
    "any": N_("Name at least one word to look for."),
    "groups": N_("Choose groups from the list."),
}
"""What is said of a field that was left out."""


@dataclass
class Filled:
    """The form as it was filled in; lists of words as they were typed."""

    kind: str = TO_GROUP
    group: str = ""
    email: str = ""
    purpose: str = ""
    later: bool = False
    any: str = ""
    all: str = ""
    none: str = ""
    question: str = ""
    groups: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    language: str = ""
    to: str = field(default="", repr=False)

    @classmethod
    def of(cls, visit: Visit) -> Filled:
        """What the chosen letter has no place for is left out."""
        form, email = visit.form, visit.form.get("email")
        words = {name: form.get(name).strip() for name in ("any", "all", "none", "question")}
        places = visit.office.renderer.values_of(email) if email in visit.office.letters else ()
        values = {name: text for name in places if (text := form.get(f"value.{name}").strip())}
        return cls(
            kind=TO_INTEREST if form.get("kind") == TO_INTEREST else TO_GROUP,
            group=form.get("group"),
            email=email,
            purpose=form.get("purpose"),
            later="later" in form,
            groups=form.getlist("groups"),
            values=values,
            language=form.get("language"),
            to=form.get("to").strip(),
            **words,
        )

    @classmethod
    def of_job(cls, row: Any) -> Filled:
        """As a job was asked for, to change something of it."""
        params = row.params
        answers = params.get("answers", {})
        return cls(
            kind=row.kind,
            group=(row.plan.get("groups") or [[params.get("group", "")]])[0][0],
            email=params["email"],
            purpose=params.get("purpose", ""),
            later=params.get("also_later_joiners", False),
            question=answers.get("question", ""),
            groups=[group for group in params.get("groups", []) if group != "*"],
            values={name: str(value) for name, value in params.get("context", {}).items()},
            **{name: ", ".join(answers.get(name, [])) for name in ("any", "all", "none")},
        )

    @property
    def means(self) -> Purpose:
        """An interest is only ever written to with an offer."""
        is_news = self.kind == TO_GROUP and self.purpose == Purpose.ONBOARDING
        return Purpose.ONBOARDING if is_news else Purpose.PROMOTIONAL

    def draft(self, visit: Visit, groups: Mapping[GroupId, Group]) -> Draft:
        chosen = groups.get(GroupId(self.group)) if self.kind == TO_GROUP else None
        words = _words(self.any) or _words(self.all)
        return Draft(
            self.email,
            self.means,
            visit.directory.site(),
            self.language,
            self.values,
            chosen.name if chosen else "",
            [word.rstrip("*") for word in words] if self.kind == TO_INTEREST else (),
        )

    def params(self) -> dict[str, Any]:
        given: dict[str, Any] = {"email": self.email}
        if self.values:
            given["context"] = dict(self.values)
        if self.kind == TO_GROUP:
            later = {"also_later_joiners": True} if self.later else {}
            return given | {"group": self.group, "purpose": self.purpose} | later
        answers: dict[str, Any] = {
            name: words for name in ("any", "all", "none") if (words := _words(getattr(self, name)))
        }
        if self.question:
            answers["question"] = self.question
        return given | {"answers": answers} | ({"groups": self.groups} if self.groups else {})


def show(visit: Visit) -> Response:
    filled = Filled(group=visit.query.get("group", ""), email=visit.query.get("letter", ""))
    if again := visit.query.get("again"):
        row = jobs.own_job(visit.office, visit.holder, again)
        if row.site == visit.site and row.kind in MAILINGS:
            filled = Filled.of_job(row)
    return _page(visit, filled)


def take(visit: Visit) -> Response:
    """`do`: "preview" begins the job, "test" sends a test; else the same page is shown with what was filled in."""
    filled = Filled.of(visit)
    match visit.form.get("do"):
        case "preview":
            return _begin(visit, filled)
        case "test":
            return _test(visit, filled)
    return _page(visit, filled)


def show_letter(visit: Visit) -> Response:
    """For a frame: a letter with samples (GET), or with what was filled in (POST)."""
    posted = visit.request.method == "POST"
    query = visit.query
    filled = Filled.of(visit) if posted else Filled(email=query.get("letter", ""))
    if not posted:
        filled.language, filled.purpose = query.get("language", ""), query.get("purpose", "")
        filled.group = query.get("group", "")
    try:
        return as_letter(write.draw(visit.office, filled.draft(visit, visit.directory.groups())).html)
    except RefusedError as exc:
        told = visit.words.gettext("This letter cannot be filled in like that:")
        return as_letter(
            Markup("<!doctype html><title>{0}</title><p>{0} {1}</p>").format(told, write.why_of(exc))
        )


def _begin(visit: Visit, filled: Filled) -> Response:
    params = filled.params()
    errors = _errors(visit, filled, params)
    if not errors:
        asked = json.dumps([visit.site, filled.kind, params], sort_keys=True)
        # Going back and changing something asks for another job, pressing twice does not.
        key = f"{key_of(visit)}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
        new = jobs.NewJob(visit.site, filled.kind, PARAMS[filled.kind].model_validate(params))
        try:
            row, _ = jobs.begin(visit.office, visit.holder, new, key)
            return visit.to(f"/jobs/{row.id}")
        except RefusedError as exc:
            if exc.status != 422:
                raise
            errors = {error["field"].removeprefix("params."): error["detail"] for error in exc.errors}
    return _page(visit, filled, errors, status=422)


def _test(visit: Visit, filled: Filled) -> Response:
    draft = filled.draft(visit, visit.directory.groups())
    _ = visit.words.gettext
    try:
        answer = write.send_test(visit.office, visit.holder, draft, filled.to)
    except NotThereError:
        missing = TOLD["email"]
        return _page(visit, filled, {"email": _(missing)}, status=422)
    except (RefusedError, WrongStateError) as exc:
        status = exc.status if isinstance(exc, RefusedError) else 409
        why = write.why_of(exc).rstrip(".")
        return _page(visit, filled, {"to": _("Not sent: %(why)s.", why=why)}, status=status)
    return _page(visit, filled, answered=answer)


def _page(
    visit: Visit,
    filled: Filled,
    errors: Mapping[str, str] = {},
    *,
    answered: str = "",
    status: int = 200,
) -> Response:
    groups = visit.directory.groups()
    site = visit.directory.site()
    letters = write.letters(visit.office, site)
    letter = next((one for one in letters if one.name == filled.email), None)
    drawn, trouble = _drawn(visit, filled, groups, letter)
    policy = visit.office.automations().policy_of(visit.site)
    query = {"letter": filled.email, "language": filled.language, "purpose": filled.means}
    return visit.page(
        "write/form.html",
        status=status,
        filled=filled,
        errors=errors,
        key=visit.form.get("key") or secrets.token_hex(16),
        groups=sorted(groups.values(), key=lambda group: group.name.casefold()),
        letters=letters,
        letter=letter,
        drawn=drawn,
        drawn_trouble=trouble,
        frame_src=visit.url("/write/letter", **query, group=filled.group if filled.kind == TO_GROUP else ""),
        may_interest=visit.holder.role in MANAGERS,
        needs_yes=not policy.onboarding_without_consent,
        answered=answered,
        language_name=language_name,
        label_of=_label_of,
    )


def _drawn(
    visit: Visit, filled: Filled, groups: Mapping[GroupId, Group], letter: Letter | None
) -> tuple[Drawn | None, str]:
    if letter is None:
        return None, ""
    try:
        return write.draw(visit.office, filled.draft(visit, groups)), ""
    except RefusedError as exc:
        return None, write.why_of(exc)


def _errors(visit: Visit, filled: Filled, params: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong, by field, in words for whoever filled it in."""
    _ = visit.words.gettext
    missing = ["email"] if filled.email not in visit.office.letters else []
    if filled.kind == TO_GROUP:
        known = visit.directory.groups()
        missing += ["group"] if not filled.group or (known and GroupId(filled.group) not in known) else []
        missing += ["purpose"] if filled.purpose not in list(Purpose) else []
    elif not (_words(filled.any) or _words(filled.all)):
        missing.append("any")
    found = {name: _(TOLD[name]) for name in missing}
    for name in ("any", "all", "none") if filled.kind == TO_INTEREST else ():
        for word in _words(getattr(filled, name)):
            if why := problem_with_term(word):
                found[name] = _("“%(word)s” %(why)s.", word=word, why=why)
    if not found:
        try:
            PARAMS[filled.kind].model_validate(params)
        except ValidationError as exc:
            for error in exc.errors(include_input=False, include_url=False):
                found.setdefault(*_in_words(visit, error["loc"], error["msg"]))
    return found


def _in_words(visit: Visit, place: tuple[int | str, ...], message: str) -> tuple[str, str]:
    _ = visit.words.gettext
    steps = [str(step) for step in place if isinstance(step, str)]
    if steps[:1] == ["context"]:
        text = _("Together these texts are too long: %(most)s characters at most.", most=LONGEST_CONTEXT)
        return "values", text
    name = steps[1] if steps[:1] == ["answers"] and len(steps) > 1 else steps[0] if steps else "email"
    if name == "question":
        return name, _("The question is too long: 300 characters at most.")
    return name, _("This cannot be used: %(why)s.", why=message.removeprefix("Value error, "))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word for part in re.split(r"[,;\n]", text) if (word := " ".join(part.split()))))


def _label_of(name: str) -> str:
    """What a value that a template names is called on the page: "discount_code" is "Discount code"."""
    return name.replace("_", " ").strip().capitalize()


PAGES: tuple[Page, ...] = (
    Page("GET", "/write", show, DECIDERS),
    Page("POST", "/write", take, DECIDERS),
    Page("GET", "/write/letter", show_letter, DECIDERS),
    Page("POST", "/write/letter", show_letter, DECIDERS),
)
