"""Write to people: which letters there are, how one reads, a test of it to oneself, and whom a job writes to."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import sqlalchemy as sa

from admin.office import Office
from admin.office.jobs import own_job
from admin.office.refusals import RefusedError, wrong_fields
from core.community import Site, SiteId
from core.consent import Purpose
from core.errors import (
    AppError,
    IntegrationError,
    NotThereError,
    PermanentError,
    WithdrawnError,
    WrongStateError,
)
from integrations.email.message import wire_address
from integrations.email.render import SAMPLES
from integrations.store.audit import count_alone, note
from integrations.store.tokens import Holder

log = logging.getLogger(__name__)

NOWHERE = Site(SiteId(""))
TESTS_AN_HOUR = 10
TESTED = "letter.test"
"""In the audit log: a test, whatever came of it."""

POSTAL = "(your postal address)"
"""Stands for EMAIL_POSTAL_ADDRESS, which only the mail server's side of Usher knows."""

_PREHEADER = re.compile(r'<body[^>]*>\s*<div style="display:none;[^"]*">(.*?)</div>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Letter:
    """One of templates/email/. `subject` is that of a letter to somebody unknown; `values` are the names of its own
    places."""

    name: str
    languages: tuple[str, ...]
    subject: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A letter as somebody invented would get it. `preheader` is what an inbox shows after the subject."""

    language: str
    subject: str = field(repr=False)
    preheader: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be written, before it is a job. `values` are the admin's own; `group` and `matched` as they will be
    known of the readers."""

    letter: str
    purpose: Purpose
    site: Site
    language: str = ""
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    group: str = ""
    matched: Sequence[str] = ()

    def context(self) -> dict[str, Any]:
        known = {
            "group_name": self.group or SAMPLES["group_name"],
            "matched": list(self.matched),
            "site_name": self.site.name,
            "site_url": self.site.url,
        }
        return {**SAMPLES, **self.values, **known}

    @property
    def wishes(self) -> str:
        return self.language or self.site.language


def own_site(office: Office, holder: Holder, site: str) -> Site:
    """With its name, as far as Wix says it. Raises NotThereError, also for what is out of the holder's reach."""
    id_, sites = SiteId(site), holder.reach.sites
    if (sites is not None and site not in sites) or not office.sites.known([id_]):
        raise NotThereError("there is no such site")
    return office.names.of(id_, holder.reach).site()


def letters(office: Office, site: Site = NOWHERE) -> list[Letter]:
    """By name; subjects in the site's language, as far as a letter is there in it."""
    known = {"site_name": site.name}
    found = []
    for name in sorted(office.letters):
        filled = office.renderer.fill(name, known, purpose=Purpose.ONBOARDING, language=site.language)
        languages = tuple(office.renderer.places(name))
        subject = " ".join(filled.subject.split())
        found.append(Letter(name, languages, subject, office.renderer.values_of(name)))
    return found


def draw(office: Office, draft: Draft) -> Drawn:
    """Raises NotThereError for a letter that is not there, RefusedError (field "values") for one that cannot be filled
    like that."""
    _require_letter(office, draft.letter)
    context = draft.context() | {"postal_address": POSTAL if office.sender.has_postal_address else ""}
    try:
        content = office.renderer.render(draft.letter, context, purpose=draft.purpose, language=draft.wishes)
    except PermanentError as exc:
        raise wrong_fields("the body", ("values", str(exc))) from exc
    hidden = _PREHEADER.search(content.html)
    preheader = unescape(re.sub(r"<[^>]+>", "", hidden[1])).strip() if hidden else ""
    return Drawn(content.language, content.subject, preheader, content.text, content.html)


def send_test(office: Office, holder: Holder, draft: Draft, to: str) -> str:
    """Send it to this address, marked as a test; what the mail server answered.

    Raises RefusedError (422 with the field "to", 429 after TESTS_AN_HOUR, 502 when the mail server did not take it),
    NotThereError and WrongStateError. The address is kept nowhere.
    """
    _require_letter(office, draft.letter)
    if office.trial is None:
        raise WrongStateError("nothing can be sent from here: EMAIL_FROM, EMAIL_URL or PUBLIC_URL is not set")
    try:
        wire_address(to)
    except IntegrationError as exc:
        raise wrong_fields("the body", ("to", str(exc))) from None
    with office.database.begin() as tx:  # also what then fails is a test that counts
        if count_alone(tx, holder.who, TESTED, timedelta(hours=1)) >= TESTS_AN_HOUR:
            detail = f"{TESTS_AN_HOUR} tests were sent within the last hour; wait a little"
            raise RefusedError(detail, 429, headers={"Retry-After": "600"})
        tried = {"purpose": str(draft.purpose)}
        note(tx, holder.who, TESTED, f"letter {draft.letter}", site=draft.site.id, after=tried)
    try:
        answer = office.trial(to, draft.letter, draft.context(), language=draft.wishes, purpose=draft.purpose)
    except WithdrawnError as exc:
        raise wrong_fields("the body", ("to", str(exc))) from exc
    except IntegrationError as exc:
        raise RefusedError(f"the letter was not sent: {exc}", 502) from exc
    log.info("letter.tested", extra={"who": holder.who, "letter": draft.letter})
    return answer


def why_of(exc: AppError) -> str:
    """What is wrong with the one field that was, or all in all."""
    named = exc.errors if isinstance(exc, RefusedError) else []
    return next((error["detail"] for error in named), str(exc))


def mark_of(reason: str) -> str:
    """Stands for a reason in an address: the reason itself may be long, and quote what somebody asked for."""
    return hashlib.sha256(reason.encode()).hexdigest()[:12]


def readers(
    office: Office,
    holder: Holder,
    job: str,
    *,
    state: str = "",
    mark: str = "",
    limit: int = 50,
    after: tuple[datetime, str] | None = None,
) -> tuple[str, list[sa.Row[Any]]]:
    """The reason that `mark` stands for, "" without one, and the letters of a job in this state or for this reason, in
    the order of Ledger.page. Raises NotThereError."""
    row = own_job(office, holder, job)
    reason = ""
    if mark:
        reasons = office.jobs.counts([row])[row.id].skipped_by_reason
        reason = next((text for text in reasons if mark_of(text) == mark), "")
        if not reason:
            raise NotThereError("nobody was left out for this reason")
        state = "skipped"
    found = office.ledger.page(
        job=row.id,
        state=state or None,
        reason=reason or None,
        reach=holder.reach,
        limit=limit,
        after=after,
    )
    return reason, found


def _require_letter(office: Office, name: str) -> None:
    if name not in office.letters:
        raise NotThereError("there is no letter of this name")
