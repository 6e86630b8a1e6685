"""Letters to the members of a group, or to everybody with an interest: who may get one, then who gets it.

The preview looks at everybody once: who is in ("list"), who may be written to ("look up"), what it comes to ("sum up").
After the yes the groups are read once more ("list again"), because the audience may have shrunk; who is still there is
let go ("let go"), and the job waits for its letters ("wait"). Consent is read again for each hundred when they go
(tasks/letters.py). That makes three calls for each hundred members, before the yes and after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from typing import Any

from core.community import Group, GroupId, MemberId, Membership, Slice
from core.consent import Purpose
from core.errors import ForbiddenError, NotFoundError, PermanentError, RetryableError
from core.gate import Skip, decide
from core.jobs import WAIT, Job, least_seconds
from core.letters import MAILINGS, PlannedLetter, job_letter_key
from core.matching import AnswerRule
from core.ports import WixPort
from integrations.email.render import SAMPLES
from integrations.store.database import Transaction
from integrations.store.jobs import Step
from integrations.store.mailings import (
    PAGE,
    Held,
    Looked,
    Verdict,
    let_go_page,
    note_still_in,
    plan_audience,
    write_verdicts,
)
from tasks.facts import look_up
from tasks.jobs.engine import JobError, Kind
from tasks.jobs.groups import choose_groups, find_group
from tasks.jobs.params import Answers, GroupEmail, InterestEmail
from tasks.services import Services

HUNDRED = 100
LEFT = "left the group after the preview"
TAKEN = "this address has its letter of this job already"
POLL_S = 2.0
LONGEST_POLL_S = 60.0
SAMPLE_HTML = 60_000
"""Characters of a sample's HTML that are kept."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a list is: which group, from which row on. `total` as Wix said it last; `anchors` are the last rows seen,
    for a Wix that names no total."""

    group: int = 0
    offset: int = 0
    total: int | None = None
    anchors: tuple[str, ...] = ()
    calls: int = 0
    """Pages so far."""

    @classmethod
    def of(cls, cursor: Mapping[str, Any]) -> _Place:
        return cls(
            cursor.get("group", 0),
            cursor.get("offset", 0),
            cursor.get("total"),
            tuple(cursor.get("anchors", ())),
            cursor.get("calls", 0),
        )

    def cursor(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "offset": self.offset,
            "total": self.total,
            "anchors": list(self.anchors),
            "calls": self.calls,
        }


def next_place(place: _Place, page: Slice[tuple[MemberId, Membership]], known: int | None) -> _Place:
    """Where to read on, so that nobody is missed who was in all the time; the next group after the last page.

    Rows move up when somebody leaves in the middle of a reading: a shrunken total tells, or, without totals, the last
    rows of the page before, which then are not on this one. `known`: how many there are by another source, to believe a
    total that says that a full page was the last.
    """
    ids = [str(member) for member, _ in page.items]
    place = replace(place, calls=place.calls + 1)
    if place.total is not None and page.total is not None and page.total < place.total:
        back = place.total - page.total
        return replace(place, offset=max(0, place.offset - back), total=page.total)
    if place.anchors and not set(place.anchors) & set(ids):
        return replace(place, offset=max(0, place.offset - HUNDRED + len(place.anchors)), anchors=())
    end = place.offset + len(ids)
    if page.next_offset is None or (page.total is not None and page.total == end == known):
        return _Place(group=place.group + 1, calls=place.calls)
    if page.total is not None:
        return replace(place, offset=page.next_offset, total=page.total, anchors=())
    anchors = tuple(ids[-2:])
    return replace(place, offset=max(page.next_offset - len(anchors), place.offset + 1), anchors=anchors)


# The preview


def _begin(job: Job, wix: WixPort, services: Services) -> Step:
    params = _params(job)
    if params.email not in services.renderer.names():
        raise JobError(f'there is no letter "{params.email}" in templates/email/')
    if isinstance(params, GroupEmail):
        groups = [find_group(params.group, job.site, wix)]
    else:
        groups = choose_groups(params.groups, job.site, wix, services)
    site = _site_or_none(job, wix)
    plan = {
        "groups": [[group.id, group.name, group.members] for group in groups],
        "letter": services.renderer.fingerprint(params.email),
        "site": site,
    }
    heeds = isinstance(params, GroupEmail) and params.also_later_joiners
    return Step("list", _Place().cursor(), plan=plan, later_group=groups[0].id if heeds else None)


def _list(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of one group's members, each planned or skipped for want of an interest."""
    del services
    place = _Place.of(job.cursor)
    groups = _groups(job)
    if place.group >= len(groups):
        return Step("look up", plan={"pages": place.calls})
    group = groups[place.group]
    try:
        page = wix.group_members_page(job.site, group.id, place.offset)
    except NotFoundError as exc:
        _require_gone(job, group, wix, exc)
        return Step("list", _Place(group=place.group + 1, calls=place.calls).cursor())
    looked = _weigh(job, group, [member for member, _ in page.items], wix)
    after = next_place(place, page, group.members)
    return Step("list", after.cursor(), write=partial(_plan, job=job, looked=looked))


def _plan(tx: Transaction, job: Job, looked: Sequence[Looked], *, only_new: bool = False) -> None:
    params = _params(job)
    plan_audience(tx, job, looked, purpose=_purpose(params), template=params.email, only_new=only_new)


def _require_gone(job: Job, group: Group, wix: WixPort, exc: NotFoundError) -> None:
    """One 404 is not believed of a group that Wix knows: nobody is passed over for it."""
    if wix.get_group(job.site, group.id) is not None:
        raise RetryableError(f"{exc}; and Wix knows the group") from exc


def _weigh(job: Job, group: Group, members: Sequence[MemberId], wix: WixPort) -> list[Looked]:
    params = _params(job)
    context = {"group_name": group.name}
    if isinstance(params, GroupEmail):
        return [Looked(member, group.id, context=context) for member in members]
    rule = _rule(params.answers.model_dump_json())
    try:
        answers = wix.list_answers(job.site, group.id, members) if members else {}
    except ForbiddenError as exc:
        reason = f"the answers could not be read: {exc}"
        return [Looked(member, group.id, reason) for member in members]
    looked = []
    for member in members:
        match = rule.match(answers.get(member, ()))
        matched = [hit.term for hit in match.hits if hit.kind != "none"]
        if match.matched:
            looked.append(Looked(member, group.id, context={**context, "matched": matched}))
        else:
            looked.append(Looked(member, group.id, match.reason))
    return looked


def _look_up(job: Job, wix: WixPort, services: Services) -> Step:
    """Ask the gate about the next hundred, as it will be asked again when their letters go."""
    held = services.mailings.held(job.id, after=job.cursor.get("after", ""), limit=HUNDRED)
    if not held:
        return Step("sum up")
    verdicts = _verdicts(job, held, wix, services)
    return Step("look up", {"after": held[-1].id}, write=lambda tx: write_verdicts(tx, verdicts))


def _verdicts(job: Job, held: Sequence[Held], wix: WixPort, services: Services) -> list[Verdict]:
    purpose = _purpose(_params(job))
    people = look_up(job.site, [letter.member for letter in held], wix, services)
    taken = services.mailings.taken(job.id, {hash_ for hashes in people.hashes.values() for hash_ in hashes})
    verdicts = []
    for letter in held:
        hashes = people.hashes[letter.member]
        said = decide(people.facts(letter.member, letter.group, purpose, services.now(), services))
        reason = said.reason if isinstance(said, Skip) else None
        if reason is None and taken.setdefault(hashes[0], letter.id) != letter.id:
            reason = TAKEN
        address_hash = hashes[0] if reason is None else None
        verdicts.append(Verdict(letter.id, reason, said.evidence, address_hash))
    return verdicts


def _sum_up(job: Job, wix: WixPort, services: Services) -> Step:
    del wix
    waiting = services.mailings.groups_with_held(job.id)
    letters = sum(waiting.values())
    sizes = {group.id: group.members for group in _groups(job)}
    pages = sum(
        max(1, math.ceil((sizes.get(group) or number) / HUNDRED)) for group, number in waiting.items()
    )
    calls = pages + 2 * math.ceil(letters / HUNDRED)
    cost = {
        "wix_calls": calls,
        "seconds_at_least": least_seconds(calls, letters, services.calls_per_minute, services.limits),
    }
    result = {"letters": letters, "samples": _samples(job, services)}
    return Step("list again", _Place().cursor(), state="previewed", cost=cost, result=result)


def _samples(job: Job, services: Services) -> list[dict[str, str]]:
    """The letter as one of its readers will get it, in the site's language, under an invented name; none when nobody
    gets it."""
    params = _params(job)
    site = job.plan.get("site") or {}
    of_somebody = services.mailings.context_of_one(job.id)
    if of_somebody is None:
        return []
    context = {
        **params.context,
        **of_somebody,
        "member_name": SAMPLES["member_name"],
        "site_name": site.get("name", ""),
        "site_url": site.get("url", ""),
        "unsubscribe_url": SAMPLES["unsubscribe_url"],
        "postal_address": services.letterhead.postal_address,
    }
    content = services.renderer.render(
        params.email,
        context,
        purpose=_purpose(params),
        language=[site["language"]] if site.get("language") else [],
    )
    return [
        {
            "language": content.language,
            "subject": content.subject,
            "text": content.text,
            "html": content.html[:SAMPLE_HTML],
        }
    ]


# The run


def _list_again(job: Job, wix: WixPort, services: Services) -> Step:
    """One page of one group's members: whoever is on it is still there."""
    place = _Place.of(job.cursor)
    begins = place == _Place() and not job.cursor.get("again")
    if begins and services.renderer.fingerprint(_params(job).email) != job.plan["letter"]:
        raise JobError("the letter was changed after the preview: preview it again")
    if place.group >= len(_groups(job)):
        return Step("let go")
    group = _groups(job)[place.group]
    on = _Place(group=place.group + 1, calls=place.calls)
    if place.offset == 0 and not services.mailings.groups_with_held(job.id).get(group.id):
        return Step("list again", on.cursor())  # nobody of it gets a letter
    try:
        page = wix.group_members_page(job.site, group.id, place.offset)
    except NotFoundError as exc:
        _require_gone(job, group, wix, exc)
        return Step("list again", on.cursor())
    seen = [member for member, _ in page.items]
    after = next_place(place, page, group.members)

    def write(tx: Transaction) -> None:
        if _later_group(job) is not None:  # who joined since the preview as well
            joined = [Looked(member, group.id, context={"group_name": group.name}) for member in seen]
            _plan(tx, job, joined, only_new=True)
        note_still_in(tx, job, group.id, seen)

    return Step("list again", after.cursor(), write=write)


def _let_go(job: Job, wix: WixPort, services: Services) -> Step:
    del wix
    held = services.mailings.held(job.id, after=job.cursor.get("after", ""), limit=PAGE)
    if not held:
        return Step(WAIT)
    ids = [letter.id for letter in held]
    return Step("let go", {"after": ids[-1]}, write=lambda tx: let_go_page(tx, ids, LEFT))


def _wait(job: Job, wix: WixPort, services: Services) -> Step:
    """Done when every letter is in a final state."""
    del wix
    due_at = services.jobs.unfinished(job.id)
    if due_at is None:
        return Step(WAIT, state="done")
    away_s = (due_at - services.now()).total_seconds()
    return Step(WAIT, after_s=min(LONGEST_POLL_S, max(POLL_S, away_s)))


def later_joiners(
    heeding: Iterable[Job], group: Group, member: MemberId, now: datetime
) -> tuple[PlannedLetter, ...]:
    """Letters of confirmed jobs that also write to whoever joins their group later."""
    return tuple(
        PlannedLetter(
            key=job_letter_key(job.id, member),
            group=group.id,
            member=member,
            automation=None,
            trigger=job.kind,
            purpose=_purpose(_params(job)),
            template=_params(job).email,
            due_at=now,
            context={"group_name": group.name},
            job=job.id,
        )
        for job in heeding
    )


def _later_group(job: Job) -> GroupId | None:
    params = _params(job)
    if isinstance(params, GroupEmail) and params.also_later_joiners:
        return _groups(job)[0].id
    return None


def _groups(job: Job) -> list[Group]:
    return [Group(GroupId(id_), name, members=members) for id_, name, members in job.plan["groups"]]


def _params(job: Job) -> GroupEmail | InterestEmail:
    kind = GroupEmail if job.kind == "group_email" else InterestEmail
    return kind.model_validate(job.params)


def _purpose(params: GroupEmail | InterestEmail) -> Purpose:
    return Purpose(params.purpose) if isinstance(params, GroupEmail) else Purpose.PROMOTIONAL


@cache
def _rule(answers: str) -> AnswerRule:
    """The same rule for the same words: its automaton is built once."""
    return Answers.model_validate_json(answers).rule()


def _site_or_none(job: Job, wix: WixPort) -> dict[str, str]:
    try:
        site = wix.get_site(job.site)
    except PermanentError:
        return {}
    return {"name": site.name, "url": site.url, "language": site.language}


_PHASES = {
    "begin": _begin,
    "list": _list,
    "look up": _look_up,
    "sum up": _sum_up,
    "list again": _list_again,
    "let go": _let_go,
    WAIT: _wait,
}
GROUP_EMAIL = Kind(_PHASES, again="list again")
INTEREST_EMAIL = Kind(_PHASES, again="list again")
assert set(MAILINGS) == {"group_email", "interest_email"}  # noqa: S101 (the names are the API's)
