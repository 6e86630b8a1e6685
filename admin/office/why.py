"""Did Ana get the May offer, and why not? One person, one letter, and sentences that answer, also where no row does.

What rows and Wix do not tell any more is said to be so; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from admin.office import Office
from admin.office.people import Person
from admin.office.refusals import wrong_fields
from admin.office.requests import rules_within
from admin.office.words import N_
from core.automations import TRIGGERS, WITH_ANSWERS, Automation, Automations, applicable, weigh
from core.community import Group, GroupId, SiteId
from core.errors import NotThereError
from core.letters import MAILINGS
from integrations.store.jobs import HELD, STILL_IN
from integrations.store.people import People, Row, Told
from integrations.store.tokens import Holder

MOST_EVENTS = 5
MOST_CHOICES = 50
YES, NOT_YET, NO, UNKNOWN = "yes", "not yet", "no", "unknown"


class Reason(str):
    """Words of the database: English in every language."""

    __slots__ = ()


class Word(str):
    """One of WORDS, to be translated where it stands in a sentence."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence with %(name)s for its values: names, aware times, Reasons and Words."""

    text: str
    values: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Why:
    """`answer`: YES, NOT_YET, NO, or UNKNOWN where nobody can tell. `letters` are the rows there are, oldest first."""

    answer: str
    because: tuple[Said, ...]
    letters: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that may have written to somebody. `about`: "automation:<name>", "job:<id>" or "letter:<template>".
    `name` of a job is its letter or its kind, `at` when it was made."""

    about: str
    name: str
    at: datetime | None = None
    group: str = ""


WORDS: Mapping[str, str] = {
    "member_added": N_("joined"),
    "member_removed": N_("left"),
    "join_requested": N_("asked to join"),
    "join_approved": N_("were let in"),
    "join_rejected": N_("were turned away"),
    "role_assigned": N_("got another role"),
}
"""What a person did, by the trigger that stands for it."""


def choices(office: Office, holder: Holder, site: SiteId) -> list[Choice]:
    """What there is to ask about on this site: automations that write, the newest jobs, and templates."""
    automations = [
        Choice(f"automation:{one.name}", one.name) for one in rules_within(office, holder, site) if one.email
    ]
    rows = office.jobs.page(site=site, reach=holder.reach, limit=MOST_CHOICES)
    jobs = [
        Choice(f"job:{row.id}", row.params.get("email", row.kind), row.created_at, _job_groups(row))
        for row in rows
        if row.kind in MAILINGS
    ]
    return [*automations, *jobs, *(Choice(f"letter:{name}", name) for name in sorted(office.letters))]


def explain(office: Office, holder: Holder, person: Person, about: str) -> Why:
    """`about` as of a Choice. Raises RefusedError for one that cannot be meant, NotThereError for a job
    out of reach."""
    kind, _, name = about.partition(":")
    asked = _Asked(office, holder, person)
    if kind == "automation" and name:
        rows = [row for row in person.records.letters if row.automation == name]
        return asked.told(rows) or asked.no_letter_of(name)
    if kind == "job" and name:
        found = office.jobs.page(id=name, site=person.site, reach=holder.reach, limit=1)
        if not found:
            raise NotThereError("there is no job of this id")
        rows = [row for row in person.records.letters if row.job == name]
        return asked.told(rows) or asked.no_letter_of_job(found[0])
    if kind == "letter" and name:
        rows = [row for row in person.records.letters if row.email_template == name]
        return asked.told(rows) or _all(asked.no_letter_from(name))
    raise wrong_fields("the request", ("about", 'is none of "automation:…", "job:…" and "letter:…"'))


def in_english(said: Said) -> str:
    """For programs and the command line."""

    def spell(value: object) -> object:
        match value:
            case datetime():
                return f"{value:%Y-%m-%d %H:%M} UTC"
            case Word():
                return WORDS[value]
        return value

    return said.text % {name: spell(value) for name, value in said.values.items()}


def _all(found: Iterator[Why]) -> Why:
    """One answer of several: the most hopeful."""
    answers = list(found)
    if not answers:
        return Why(NO, (Said(N_("No automation and no job of this site uses this letter.")),))
    best = next(known for known in (YES, NOT_YET, UNKNOWN, NO) if any(one.answer == known for one in answers))
    because = dict.fromkeys(
        (said.text, tuple(said.values.items())) for one in answers for said in one.because
    )
    return Why(best, tuple(Said(text, dict(values)) for text, values in because))


class _Asked:
    """About one person."""

    def __init__(self, office: Office, holder: Holder, person: Person) -> None:
        self._office = office
        self._holder = holder
        self._person = person
        self._directory = office.names.of(person.site, holder.reach)
        self._automations = replace(
            office.automations(), automations=tuple(rules_within(office, holder, person.site))
        )

    # What rows tell.

    def told(self, rows: list[Row]) -> Why | None:
        if not rows:
            return None
        told = [self._tell(row) for row in rows]
        best = next(known for known in (YES, NOT_YET, UNKNOWN, NO) if known in {answer for answer, _ in told})
        return Why(best, tuple(said for _, said in told), tuple(rows))

    def _tell(self, row: Row) -> tuple[str, Said]:
        values = {
            "group": self._name(row.group_id),
            "reason": Reason(row.reason or ""),
            "at": row.sent_at or row.next_at,
            "back": row.bounced_at,
        }
        match row.state:
            case "sent" if row.complained_at:
                return YES, Said(
                    N_("%(group)s: it went out on %(at)s, and they reported it as spam."), values
                )
            case "sent" if row.replied_at:
                return YES, Said(N_("%(group)s: it went out on %(at)s, and they answered it."), values)
            case "sent":
                return YES, Said(N_("%(group)s: the mail server took it on %(at)s."), values)
            case "bounced":
                return NO, Said(
                    N_("%(group)s: it went out on %(at)s and came back on %(back)s: %(reason)s."), values
                )
            case "planned" if row.job and row.next_at in (HELD, STILL_IN):
                return NOT_YET, Said(N_("%(group)s: it waits until somebody confirms the job."), values)
            case "planned" if not row.reason:
                return NOT_YET, Said(N_("%(group)s: it is planned for %(at)s."), values)
            case "planned" | "deferred":
                return NOT_YET, Said(N_("%(group)s: it was put off until %(at)s: %(reason)s."), values)
            case "sending":
                return NOT_YET, Said(N_("%(group)s: it is on its way in this moment."), values)
            case "in_doubt":
                return UNKNOWN, Said(
                    N_("%(group)s: nobody knows whether the mail server has it: %(reason)s."), values
                )
            case "failed":
                return NO, Said(N_("%(group)s: it failed: %(reason)s."), values)
        return NO, Said(N_("%(group)s: it was not sent: %(reason)s."), values)

    # Where no row does.

    def no_letter_of(self, name: str) -> Why:
        person = self._person
        if why := self._forgotten():
            return why
        automation = self._automations.named(name)
        if automation is None:
            said = N_(
                "There is no automation %(name)s now. What it did left letters, and there is none to them."
            )
            return Why(UNKNOWN, (Said(said, {"name": name}),))
        said_so = [self._removed()] if person.site_removed else []
        heard = [told for told in person.records.told if TRIGGERS.get(told.row.type) in automation.on]
        if not heard:
            return Why(NO, (*said_so, *self._nothing_heard(automation)))
        weighed = [self._weigh(told, automation) for told in heard[-MOST_EVENTS:]]
        best = next(known for known in (NOT_YET, UNKNOWN, NO) if known in {answer for answer, _ in weighed})
        return Why(best, (*said_so, *(said for _, because in weighed for said in because)))

    def _nothing_heard(self, automation: Automation) -> Iterator[Said]:
        """It waits for something that did not happen to them, as far as Usher heard."""
        for trigger in sorted(automation.on):
            yield Said(
                N_("It writes to somebody who %(did)s, and of nothing like that Usher has heard."),
                {"did": Word(trigger)},
            )
        joined = [
            place for place in self._person.places if place.standing and place.standing.status == "joined"
        ]
        since = People(self._office.database).watched_since(
            self._person.site, [place.group for place in joined]
        )
        for place in joined:
            assert place.standing is not None  # noqa: S101 (chosen so)
            values = {"group": self._name(place.group), "at": place.standing.joined_at}
            began = since.get(place.group)
            if place.standing.joined_at is None:
                yield Said(N_("They are in %(group)s; since when, Wix does not say."), values)
            elif began and place.standing.joined_at < began:
                yield Said(
                    N_(
                        "They joined %(group)s on %(at)s, before Usher began to look at it on %(began)s; whoever was "
                        "there before is not written to."
                    ),
                    values | {"began": began},
                )
            else:
                yield Said(N_("They joined %(group)s on %(at)s."), values)
        if not joined and self._person.trouble == "":
            yield Said(N_("Of the groups that Usher knows them from, they are in none now."))

    def _weigh(self, told: Told, automation: Automation) -> tuple[str, list[Said]]:
        """What became of one event that the automation listens to, and that led to no row."""
        row, trigger = told.row, TRIGGERS[told.row.type]
        values: dict[str, object] = {
            "did": Word(trigger),
            "group": self._name(told.group or ""),
            "at": row.occurred_at,
            "reason": Reason(row.error or ""),
        }
        match row.state:
            case "received":
                said = N_("%(at)s, they %(did)s (%(group)s): that is still to be worked off.")
                return NOT_YET, [Said(said, values)]
            case "dead":
                said = N_("%(at)s, they %(did)s (%(group)s): working that off failed: %(reason)s.")
                return NO, [Said(said, values)]
            case "ignored":
                said = N_("%(at)s, they %(did)s (%(group)s): nothing followed: %(reason)s.")
                return NO, [Said(said, values)]
        group = self._directory.group(told.group) if told.group else None
        if group is not None and not self._is_for(automation, trigger, group):
            return NO, [
                Said(N_("%(at)s, they %(did)s (%(group)s): the automation is not for this group."), values)
            ]
        said = N_(
            "%(at)s, they %(did)s (%(group)s): when that was worked off, the automation did not listen there. It was "
            "added or changed later, or the group had another name."
        )
        return UNKNOWN, [Said(said, values), *self._by_answers(automation, trigger, told)]

    def _by_answers(self, automation: Automation, trigger: str, told: Told) -> Iterator[Said]:
        if automation.answers is None or trigger not in WITH_ANSWERS:
            return
        place = next((place for place in self._person.places if place.group == told.group), None)
        if place is None or place.answers is None:
            yield Said(N_("Whether their answers fit is not known: they cannot be read any more."))
            return
        [outcome] = weigh([replace(automation, flow=None)], place.answers)
        said = (
            N_("By the answers they have there now it would apply: %(reason)s.")
            if outcome.applies
            else N_("By the answers they have there now it would not apply: %(reason)s.")
        )
        yield Said(said, {"reason": Reason(outcome.reason)})

    def no_letter_of_job(self, job: Row) -> Why:
        person = self._person
        if why := self._forgotten():
            return why
        values: dict[str, object] = {
            "at": job.created_at,
            "groups": _job_groups(job),
            "reason": Reason(job.error or ""),
        }
        listed = [row for row in person.records.items if row.job == job.id]
        if listed:
            said = [
                Said(
                    N_("They are on the list of this job: %(state)s. %(reason)s"),
                    {"state": Reason(row.state), "reason": Reason(row.reason or "")},
                )
                for row in listed
            ]
            return Why(YES if any(row.state == "done" for row in listed) else NO, tuple(said))
        if job.kind not in MAILINGS:
            return Why(NO, (Said(N_("They are not on the list of this job.")),))
        if job.state == "previewing":
            return Why(NOT_YET, (Said(N_("The job still counts who is to get its letter.")),))
        if "groups" not in job.plan or (job.state == "failed" and "pages" not in job.plan):
            return Why(
                UNKNOWN,
                (Said(N_("The job ended before it had looked at everybody: %(reason)s."), values),),
            )
        said = [
            Said(N_("When the job looked at who is in %(groups)s on %(at)s, they were not there."), values)
        ]
        looked_at = {id_ for id_, *_ in job.plan["groups"]}
        for place in person.places:
            joined_at = place.standing.joined_at if place.standing else None
            if place.group in looked_at and joined_at is not None and joined_at > job.created_at:
                later = {"group": self._name(place.group), "at": joined_at}
                said.append(Said(N_("They joined %(group)s after that, on %(at)s."), later))
        return Why(NO, tuple(said))

    def no_letter_from(self, template: str) -> Iterator[Why]:
        for automation in self._automations.automations:
            if automation.email == template:
                yield self.no_letter_of(automation.name)
        jobs = self._office.jobs.page(site=self._person.site, reach=self._holder.reach, limit=MOST_CHOICES)
        for job in jobs:
            if job.kind in MAILINGS and job.params.get("email") == template:
                yield self.no_letter_of_job(job)

    def _forgotten(self) -> Why | None:
        stands = [row for row in self._person.records.suppressions if row.cause == "forgotten"]
        if not stands:
            return None
        said = N_(
            "They asked to be forgotten on %(at)s. What was known of them before is erased, so this cannot be told "
            "any more; since then nobody writes to them."
        )
        return Why(UNKNOWN, (Said(said, {"at": stands[0].created_at}),))

    def _removed(self) -> Said:
        return Said(N_("The app was removed from this site, so nobody is written to."))

    def _is_for(self, automation: Automation, trigger: str, group: Group) -> bool:
        alone = Automations(automations=(replace(automation, flow=None),))
        return bool(applicable(alone, trigger, self._person.site, group))

    def _name(self, id_: str) -> str:
        """The id where Wix does not know the group any more, or does not answer."""
        known = self._directory.group(GroupId(id_))
        return known.name if known else id_ or "?"


def _job_groups(job: Any) -> str:
    """Names of the groups that a job is about, as far as its preview has got."""
    found = [str(name) for _, name, *_ in job.plan.get("groups", ())]
    more = f" + {len(found) - 5}" if len(found) > 5 else ""
    return ", ".join(found[:5]) + more
