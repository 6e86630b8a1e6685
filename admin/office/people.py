"""People: find somebody, see what is known of them and where they stand, and decide whether they are written to.

Usher keeps ids only, so names and addresses are Wix's, asked for each time; addresses are shown masked.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from admin.office import Office
from admin.office.directory import in_words
from admin.office.refusals import RefusedError, wrong_fields
from admin.office.words import N_
from core.automations import Automations
from core.community import (
    LONGEST_ID,
    Answer,
    GroupId,
    Member,
    MemberId,
    Membership,
    SiteId,
    Subscription,
    is_plain,
)
from core.consent import ADMINS_REASONS, Policy, Purpose, Sender
from core.errors import IntegrationError, NotThereError, PermanentError
from core.gate import Verdict, decide
from core.people import Listed, mask_address, numbered, questions
from integrations.email.unsubscribe import AddressHashes
from integrations.people_list import read_email, read_phone
from integrations.store.ledger import Ledger
from integrations.store.people import People, Records, Row
from integrations.store.suppressions import Suppressions
from integrations.store.tokens import Holder
from tasks.facts import look_up

log = logging.getLogger(__name__)

MOST_HITS = 25
LONGEST_TERM = 320
MOST_GROUPS_ASKED = 6
"""Wix is asked about these while somebody waits, one or two calls each."""
MOST_STRANGERS_ASKED = 5
"""Of the people found whom no row knows, so many are looked for in the groups of whoever asks."""
ANY_GROUP = GroupId("")
_ONLY_PHONE = re.compile(r"[\d\s()+./-]{6,}")


@dataclass(frozen=True, slots=True)
class Hit:
    """Somebody who may be meant. `member` None: a contact without an account, whom no letter of Usher's can reach.
    `groups`: those that rows here know of, within reach."""

    member: MemberId | None
    contact: str = ""
    name: str = field(default="", repr=False)
    nickname: str = field(default="", repr=False)
    address: str = field(default="", repr=False)
    """Masked."""
    since: datetime | None = None
    """How long Wix has known them."""
    groups: tuple[GroupId, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """`trouble`: what Wix did not tell, as a sentence."""

    hits: tuple[Hit, ...]
    more: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A group as it is to one person. `standing` None: that is not known. `trouble`: why something is not."""

    group: GroupId
    standing: Membership | None = None
    answers: tuple[Answer, ...] | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the gate would say right now of a letter of this purpose; of `group`, or of any."""

    purpose: Purpose
    verdict: Verdict
    group: GroupId | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Everything about one member of one site that whoever asks may see.

    `member` None: Wix does not know them, or was not reached, which `trouble` says. `rulings` are empty then.
    """

    site: SiteId
    id: MemberId
    records: Records
    policy: Policy
    member: Member | None = field(default=None, repr=False)
    subscription: Subscription | None = None
    places: tuple[Place, ...] = ()
    rulings: tuple[Ruling, ...] = ()
    site_removed: bool = False
    trouble: str = ""

    @property
    def address(self) -> str:
        """Masked."""
        return mask_address(self.member.email) if self.member else ""


def find(office: Office, holder: Holder, site: SiteId, term: str) -> Found:
    """Who has this name, address, phone number or id. Raises RefusedError naming the field `term`.

    By an id also while Wix is away, as far as anything is known of them here.
    """
    _require_site(holder, site)
    row, ids = _read_term(term)
    hits: dict[str, Hit] = {}
    trouble = ""
    people = People(office.database)
    for member in ids:
        if member in people.groups_of(site, [member]):
            hits[member] = Hit(member)
    try:
        for hit in _ask_wix(office, site, row, ids):
            hits[hit.member or f"contact {hit.contact}"] = hit
    except IntegrationError as exc:
        trouble = in_words(exc)
    known = people.groups_of(site, [hit.member for hit in hits.values() if hit.member])
    found = [
        replace(hit, groups=tuple(sorted(known.get(hit.member, ())))) if hit.member else hit
        for hit in hits.values()
    ]
    if holder.reach.groups is not None:
        found = _within(office, site, found, frozenset(map(GroupId, holder.reach.groups)))
    found.sort(key=lambda hit: (hit.member is None, hit.name.casefold(), hit.member or hit.contact))
    return Found(tuple(found[:MOST_HITS]), len(found) > MOST_HITS, trouble)


def look(office: Office, holder: Holder, site: SiteId, member: MemberId) -> Person:
    """Raises NotThereError for somebody whom nobody knows, or who is out of reach; IntegrationError when only Wix could
    say."""
    _require_site(holder, site)
    automations, wix = office.automations(), office.wix
    policy = automations.policy_of(site)
    trouble = ""
    try:
        known = look_up(site, [member], wix, _sources(office, automations))
    except IntegrationError as exc:
        failure, known = exc, None
        trouble = in_words(exc)
    records = People(office.database).records(site, member, known.hashes[member] if known else ())
    somebody = known.members.get(member) if known else None
    if not records and somebody is None:
        if known is None:
            raise failure
        raise NotThereError("there is nobody of this id")
    groups = records.groups
    if holder.reach.groups is not None:
        mine = sorted(map(GroupId, holder.reach.groups))
        groups = [group for group in groups if group in holder.reach.groups]
        if not groups:
            groups = [group for group in mine if _is_in(office, site, group, member)]
        if not groups:
            raise NotThereError("there is nobody of this id")
        records = _only_of(records, frozenset(mine))
    removed = site in office.sites.removed([site])
    rulings: list[Ruling] = []
    if known is not None:
        apart = [
            row.scope.removeprefix("group:") for row in records.suppressions if row.scope.startswith("group:")
        ]
        for purpose in Purpose:
            for group in dict.fromkeys([ANY_GROUP, *map(GroupId, apart)]):
                facts = known.facts(member, group, purpose, known.asked_at, _sources(office, automations))
                rulings.append(Ruling(purpose, decide(replace(facts, site_removed=removed)), group or None))
    return Person(
        site,
        member,
        records,
        policy,
        member=somebody,
        subscription=known.subscriptions.get(somebody.email.lower()) if known and somebody else None,
        places=tuple(_places(office, site, member, groups, asks=somebody is not None)),
        rulings=tuple(rulings),
        site_removed=removed,
        trouble=trouble,
    )


def records_of(office: Office, holder: Holder, site: SiteId, member: MemberId) -> Records:
    """What is kept of them and may be seen by whoever asks; Wix is asked only whether a stranger is in their groups.
    Raises NotThereError."""
    _require_site(holder, site)
    records = People(office.database).records(site, member)
    if holder.reach.groups is None:
        return records
    mine = frozenset(map(GroupId, holder.reach.groups))
    if not mine.intersection(records.groups) and not any(
        _is_in(office, site, group, member) for group in sorted(mine)[:MOST_GROUPS_ASKED]
    ):
        raise NotThereError("there is nobody of this id")
    return _only_of(records, mine)


def suppress(
    office: Office, holder: Holder, site: SiteId, member: MemberId, *, scope: str, reason: str
) -> None:
    """End letters to somebody: `scope` "promotional", "all" or "group:<id>", `reason` one of ADMINS_REASONS.

    Wix is told nothing: it is the word of an admin, not of the person. Raises RefusedError, NotThereError,
    WrongStateError.
    """
    check_suppression(scope, reason)
    _require_scope(holder, scope)
    records = records_of(office, holder, site, member)
    hashes = _hashes(office, site, member)
    if not records and not hashes:
        raise NotThereError("there is nobody of this id")
    People(office.database).suppress(site, member, scope, reason, address_hashes=hashes, who=holder.who)
    log.info("people.suppressed", extra={"who": holder.who, "site": site, "member": member})


def check_suppression(scope: str, reason: str) -> None:
    """Raises RefusedError naming `scope` or `reason`."""
    wrong = []
    group = scope.removeprefix("group:")
    if scope not in ("promotional", "all") and (group == scope or not is_plain(group, LONGEST_ID)):
        wrong.append(("scope", 'is none of "promotional", "all" and "group:<id of a group>"'))
    if reason not in ADMINS_REASONS:
        wrong.append(("reason", f"is none of {', '.join(ADMINS_REASONS)}"))
    if wrong:
        raise wrong_fields("the request", *wrong)


def release(
    office: Office, holder: Holder, site: SiteId, member: MemberId, *, scope: str, cause: str
) -> None:
    """Lift what stands against letters to somebody, if an admin may. Raises RefusedError, NotThereError, and
    WrongStateError with the reason for what nobody but the person may take back."""
    _require_scope(holder, scope)
    records_of(office, holder, site, member)
    hashes = _hashes(office, site, member)
    People(office.database).release(site, member, scope, cause, address_hashes=hashes, who=holder.who)
    log.info("people.released", extra={"who": holder.who, "site": site, "member": member})


def export(office: Office, holder: Holder, site: SiteId, member: MemberId) -> dict[str, Any]:
    """Everything that is kept of somebody, as describe_records. Raises NotThereError."""
    _require_site(holder, site)
    hashes = _hashes(office, site, member)
    found = People(office.database).export(site, member, hashes, who=holder.who)
    log.info("people.exported", extra={"who": holder.who, "site": site, "member": member})
    return describe_records(site, member, found, office.now())


def erase(office: Office, holder: Holder, site: SiteId, member: MemberId) -> None:
    """Forget somebody as a privacy request at Wix would. Raises NotThereError for whom nobody knows."""
    _require_site(holder, site)
    hashes = _hashes(office, site, member)
    people = People(office.database)
    if not hashes and not people.records(site, member):
        raise NotThereError("there is nobody of this id")
    people.erase(site, member, hashes, who=holder.who)
    office.names.forget_member(site, member)
    log.info("people.erased", extra={"who": holder.who, "site": site, "member": member})


def describe_records(site: SiteId, member: MemberId, records: Records, now: datetime) -> dict[str, Any]:
    """As JSON has it: `{"site", "member", "as_of", "events", "letters", "decisions", "lists", "suppressions",
    "audit"}`, every row whole but for what only tells workers who holds it."""
    return {
        "site": site,
        "member": member,
        "as_of": _spell(now),
        "events": [_plain(told.row) | {"payload": _json_of(told.row.payload)} for told in records.told],
        "letters": [_plain(row) for row in records.letters],
        "decisions": [_plain(row) for row in records.calls],
        "lists": [_plain(row) | {"data": _listed(row, records)} for row in records.items],
        "suppressions": [_plain(row) for row in records.suppressions],
        "requests_seen_in": sorted(records.asked),
        "audit": [_plain(row) for row in records.audit],
    }


_WORKERS = frozenset({"lease", "crashes", "marked", "look_again", "erasure", "found"})


def _plain(row: Row) -> dict[str, Any]:
    return {
        name: _spell(value) if isinstance(value, datetime) else value
        for name, value in row._mapping.items()
        if value is not None and name not in _WORKERS
    }


def _spell(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


def _json_of(payload: str) -> Any:
    return json.loads(payload)


def _listed(row: Row, records: Records) -> dict[str, Any]:
    """What a list says of this person, as long as it is kept, and how they were found by it."""
    job = records.jobs.get(row.job)
    listed = dict(numbered(job.params.get("people") or ())) if job else {}
    return {"list": dict(listed.get(row.number, {})), **row.data}


@dataclass(frozen=True, slots=True)
class _Sources:
    automations: Automations
    hashes: AddressHashes
    ledger: Ledger
    suppressions: Suppressions
    sender: Sender
    now: Callable[[], datetime]


def _sources(office: Office, automations: Automations) -> _Sources:
    return _Sources(automations, office.hashes, office.ledger, office.suppressions, office.sender, office.now)


def _require_site(holder: Holder, site: SiteId) -> None:
    if holder.reach.sites is not None and site not in holder.reach.sites:
        raise NotThereError("there is no such site")


def _require_scope(holder: Holder, scope: str) -> None:
    mine = holder.reach.groups
    if mine is not None and scope not in {f"group:{group}" for group in mine}:
        raise RefusedError("a group's admin decides about the letters of their own groups alone", 403)


def _read_term(term: str) -> tuple[Listed, list[MemberId]]:
    """What to ask Wix for, and the member ids it may be."""
    term = " ".join(term.split())
    if not term or len(term) > LONGEST_TERM:
        detail = N_("Write a name, an address, a phone number or the id of a member.")
        raise wrong_fields("the request", ("term", detail))
    ids = [MemberId(term)] if is_plain(term, LONGEST_ID) and re.search(r"[\d-]", term) else []
    try:
        if "@" in term:
            return Listed(1, email=read_email(term)), []
        if _ONLY_PHONE.fullmatch(term):
            return Listed(1, phone=read_phone(term)), ids
    except ValueError as exc:
        raise wrong_fields("the request", ("term", str(exc))) from exc
    return Listed(1, contact=ids[0] if ids else "", name=term), ids


def _ask_wix(office: Office, site: SiteId, row: Listed, ids: Sequence[MemberId]) -> list[Hit]:
    hits = []
    if ids:
        try:
            hits += [_hit(member) for member in office.wix.get_members(site, ids).values()]
        except PermanentError:
            log.info("people.no_such_id", extra={"site": site})  # a word that Wix takes for no id
        if hits:
            return hits
    asked = questions([row])
    people = office.wix.find_people(
        site, contacts=asked.contacts, emails=asked.emails, phones=asked.phones, names=asked.names
    )
    for person in people:
        if person.member is not None:
            hit = _hit(person.member)
            name = hit.name or f"{person.first_name} {person.last_name}".strip()
            hits.append(replace(hit, name=name, address=hit.address or _first_address(person.emails)))
        else:
            name = f"{person.first_name} {person.last_name}".strip()
            hits.append(Hit(None, person.contact, name, address=_first_address(person.emails)))
    return hits


def _hit(member: Member) -> Hit:
    return Hit(
        member.id,
        member.contact,
        f"{member.first_name} {member.last_name}".strip(),
        member.nickname,
        mask_address(member.email),
        member.since,
    )


def _first_address(emails: Iterable[str]) -> str:
    return mask_address(min(emails, default=""))


def _within(office: Office, site: SiteId, hits: Iterable[Hit], mine: frozenset[GroupId]) -> list[Hit]:
    found, strangers = [], 0
    for hit in hits:
        groups = tuple(group for group in hit.groups if group in mine)
        if hit.member is not None and not groups and strangers < MOST_STRANGERS_ASKED:
            strangers += 1
            asked = sorted(mine)[:MOST_GROUPS_ASKED]
            groups = tuple(group for group in asked if _is_in(office, site, group, hit.member))
        if groups:
            found.append(replace(hit, groups=groups))
    return found


def _is_in(office: Office, site: SiteId, group: GroupId, member: MemberId) -> bool:
    """Or asks to be. Whom Wix does not say it of is not."""
    try:
        return office.wix.get_membership(site, group, member).status in ("joined", "pending")
    except IntegrationError:
        return False


def _places(
    office: Office, site: SiteId, member: MemberId, groups: Sequence[GroupId], *, asks: bool
) -> Iterable[Place]:
    for number, group in enumerate(groups):
        if not asks or number >= MOST_GROUPS_ASKED:
            yield Place(group)
            continue
        try:
            standing = office.wix.get_membership(site, group, member)
        except IntegrationError as exc:
            yield Place(group, trouble=in_words(exc))
            continue
        answers, trouble = None, ""
        if standing.status in ("joined", "pending"):
            try:
                answers = office.wix.list_answers(site, group, [member]).get(member, ())
            except IntegrationError as exc:
                trouble = in_words(exc)
        yield Place(group, standing, answers, trouble)


def _only_of(records: Records, groups: frozenset[GroupId]) -> Records:
    """What is about these groups; of suppressions also those that are about all letters."""
    letters = tuple(row for row in records.letters if row.group_id in groups)
    items = tuple(row for row in records.items if row.group_id in groups)
    jobs = {row.job for row in (*letters, *items)}
    return replace(
        records,
        told=tuple(told for told in records.told if told.group in groups),
        letters=letters,
        calls=tuple(row for row in records.calls if row.group_id in groups),
        items=items,
        suppressions=tuple(
            row
            for row in records.suppressions
            if not row.scope.startswith("group:") or row.scope.removeprefix("group:") in groups
        ),
        audit=(),
        jobs={id_: row for id_, row in records.jobs.items() if id_ in jobs},
        asked=records.asked & groups,
    )


def _hashes(office: Office, site: SiteId, member: MemberId) -> tuple[str, ...]:
    """Of their address, as far as Wix says it now."""
    try:
        known = office.wix.get_members(site, [member]).get(member)
    except IntegrationError as exc:
        log.info("people.address_not_asked", extra={"site": site, "member": member, "error": str(exc)})
        return ()
    return office.hashes.of(known.email) if known else ()
