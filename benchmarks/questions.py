"""What the database is asked, by the functions that ask it: of workers, of the sweeper, of people, of the metrics.

tests/store/test_indices.py holds that every function of the stores that asks something is among them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from admin.office import Office, workshop
from admin.office.today import KINDS
from admin.recovery import Desk
from benchmarks.filling import (
    GROUPS,
    NOW,
    PAST_LETTER,
    PRESENT_LETTER,
    RUNNING_JOB,
    SITE,
    address_hash_of,
    group_of,
    id_of,
    member_of,
)
from core.community import Group, MemberId
from core.consent import ADMINS_REASONS, Cap, Purpose
from core.errors import WithdrawnError, WrongStateError
from core.events import JOIN_REQUESTED, MEMBER_ADDED, Event, EventId
from core.letters import Effects, PlannedLetter, StopLetters, WixCall, decision_key
from core.reconciliation import Rearranged
from core.subscriptions import AddressNews
from integrations.store.audit import Audit, count_alone
from integrations.store.database import Database, Transaction
from integrations.store.flows import Flows
from integrations.store.glance import Glance
from integrations.store.group_days import GroupDays, settle_listed
from integrations.store.jobs import (
    ClaimedJob,
    Item,
    Jobs,
    Step,
    forget_listed,
    plan_again,
    release_items,
    write_items,
)
from integrations.store.journal import Journal
from integrations.store.ledger import ClaimedLetter, Ledger, plan_letters
from integrations.store.lists import see_inside, see_invited, wait_to_create
from integrations.store.mailings import (
    Looked,
    Mailings,
    Verdict,
    let_go_page,
    note_still_in,
    plan_audience,
    write_verdicts,
)
from integrations.store.outbox import Outbox
from integrations.store.people import People
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.requests import Decision, Requests
from integrations.store.returns import Returns
from integrations.store.senders import Senders
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions, heed_address
from integrations.store.tally import AT_ONCE, Tally
from integrations.store.tokens import Holder, Role
from integrations.store.watches import Watches
from tasks.routes import ROUTES

OF_A_GROUP = Reach(frozenset({SITE}), frozenset({group_of(3)}))
OWNER = Holder("", "benchmark", Role.OWNER, EVERYTHING)
SENDER = "hello@seaside.example.com"
MIDNIGHT = NOW.replace(hour=0)
MIDNIGHTS = [MIDNIGHT - timedelta(days=back) for back in reversed(range(42))]
HASH = address_hash_of(5)
_numbers = itertools.count(time.time_ns() // 1_000_000)
"""Of people that nothing is known of, also by a database that another process has asked before."""


class Stores:
    """Everything that asks this database something."""

    def __init__(self, database: Database, *, tally_at_once: int = AT_ONCE) -> None:
        self.database = database
        self.journal = Journal(database, listened=ROUTES)
        self.ledger = Ledger(database, SENDER)
        self.outbox = Outbox(database)
        self.jobs = Jobs(database, SENDER)
        self.watches = Watches(database)
        self.suppressions = Suppressions(database)
        self.returns = Returns(database)
        self.senders = Senders(database, SENDER)
        self.mailings = Mailings(database)
        self.sites = Sites(database)
        self.glance = Glance(database)
        self.requests = Requests(database)
        self.people = People(database)
        self.days = GroupDays(database)
        self.audit = Audit(database)
        self.tally = Tally(database, at_once=tally_at_once)

    @property
    def flows(self) -> Flows:
        return Flows(self.database)  # which remembers what it counted

    @property
    def office(self) -> Office:
        return cast(Office, SimpleNamespace(database=self.database, journal=self.journal, ledger=self.ledger))

    @property
    def desk(self) -> Desk:
        return Desk(self.database, self.journal, self.ledger)


Ask = Callable[[Stores], object]


def _claimed(stores: Stores) -> ClaimedLetter:
    """A new one, due before all others."""
    with stores.database.begin() as tx:
        plan_letters(tx, SITE, None, [planned(next(_numbers))])
    return stores.ledger.claim(1)[0]


def _claim_letters(stores: Stores, job: str | None = None) -> None:
    stores.ledger.give_back(stores.ledger.claim(20, job=job))
    stores.ledger.hands_free()


def _claim_events(stores: Stores) -> None:
    stores.journal.give_back(stores.journal.claim(20))
    stores.journal.hands_free()


def _claim_calls(stores: Stores) -> None:
    stores.outbox.give_back(stores.outbox.claim(20))
    stores.outbox.hands_free()


def _take_up(stores: Stores) -> ClaimedJob:
    claimed = stores.jobs.claim()
    if claimed is None:
        raise RuntimeError("no job is due")
    return claimed


def _claim_job(stores: Stores) -> None:
    """And from its preview to its end, with all that a page of a mailing or of a list writes."""
    people = [member_of(next(_numbers)) for _ in range(3)]
    params = {"group": {"name": "Divers", "creatorId": people[0]}, "people": []}
    id_ = stores.jobs.create(SITE, "create_group", params, who="user ana")[0].id
    claimed = _take_up(stores)
    job, group = claimed.job, group_of(3)
    looked = [Looked(member, group, context={"group_name": "Divers"}) for member in people]

    def preview(tx: Transaction) -> None:
        plan_audience(tx, job, looked, purpose=Purpose.ONBOARDING, template="group-news")
        data: dict[str, Any] = {"row": 1, "private": None, "candidates": []}
        write_items(
            tx, job, [Item(number, group=group, member=people[number], data=data) for number in (0, 1)]
        )

    with stores.jobs.meanwhile(job) as tx:
        wait_to_create(tx, job, 0.0)
    stores.jobs.settle(claimed, Step("yes", write=preview, state="previewed"), wix_calls=1)
    held = stores.mailings.held(id_, after="", limit=10)
    stores.mailings.context_of_one(id_)
    stores.jobs.confirm(id_, stores.jobs.get(id_).confirm_token, who="user ana")
    claimed = _take_up(stores)
    with stores.jobs.meanwhile(job) as tx:
        write_verdicts(tx, [Verdict(one.id, None, "SUBSCRIBED", one.id * 2) for one in held])
        note_still_in(tx, job, group, people)
        let_go_page(tx, [one.id for one in held], "left")
        release_items(tx, id_)
        see_invited(tx, job, group, "planned")
        see_inside(tx, job, group, people[:1], "done", "is in")
    stores.jobs.next_items(id_, limit=10)
    stores.jobs.move_item(id_, 1, was="planned", state="failed")
    stores.jobs.settle(claimed, Step("wait", state="done"), wix_calls=0)
    stores.jobs.retry_failed(id_, who="user ana")
    claimed = _take_up(stores)
    with stores.jobs.meanwhile(job) as tx:
        plan_again(tx, id_, [one.id for one in held])
        settle_listed(tx, id_, {})
        forget_listed(tx, SITE, people[0], "forgotten")
    stores.jobs.settle(claimed, Step("wait"), wix_calls=0)
    stores.jobs.is_running(id_)
    stores.jobs.cancel(id_, who="user ana")
    while (left := stores.jobs.claim()) is not None:
        stores.jobs.call_off(left)
    stores.jobs.let_go()
    stores.jobs.hands_free()


def _claim_watch(stores: Stores) -> None:
    claimed = stores.watches.claim()
    if claimed is not None:
        again = Rearranged(new=[claimed.watch], changed=[claimed.watch])
        found = [_event(next(_numbers))]
        stores.watches.settle(claimed, claimed.watch, next_s=0.0, pause_s=0.0, found=found, rearranged=again)
    stores.watches.of_site(SITE)
    stores.watches.hands_free()


def _event(number: int, member: MemberId | None = None) -> Event:
    person = member or member_of(number)
    action = {"body": {"groupId": group_of(3), "groupMember": {"memberId": person}}}
    payload = json.dumps({"entityId": group_of(3), "actionEvent": action})
    return Event(EventId(member_of(number)), SITE, MEMBER_ADDED, NOW, payload)


def _accept(stores: Stores) -> None:
    stores.journal.insert([_event(next(_numbers)) for _ in range(10)])


def planned(number: int, **changes: Any) -> PlannedLetter:
    letter = PlannedLetter(
        key=f"welcome:{group_of(3)}:{member_of(number)}",
        group=group_of(3),
        member=member_of(number),
        automation="welcome",
        trigger="member_added",
        purpose=Purpose.PROMOTIONAL,
        template="welcome",
        due_at=NOW - timedelta(days=1000),
        context={"group_name": "Trail Runners"},
    )
    return replace(letter, **changes)


def _finish_event(stores: Stores) -> None:
    """One that came in, with what follows: a letter, a decision, and letters that are stopped."""
    number = next(_numbers)
    stores.journal.insert([_event(number)])
    [claimed] = stores.journal.claim(1)
    group, member = group_of(3), member_of(number)
    effects = Effects(
        letters=(planned(number),),
        calls=(
            WixCall(decision_key(group, member, NOW), "approve", group, member, asked_at=NOW),
            WixCall(f"unsubscribe:{member}", "unsubscribe", None, member),
        ),
        stop=(StopLetters("left", group=group, member=member),),
        member=member,
    )
    stores.journal.finish((claimed, effects))
    stores.journal.hands_free()


def _send_letter(stores: Stores) -> None:
    """What the gate asks of the database before is in "before a batch"."""
    letter = _claimed(stores)
    stores.ledger.mark(
        letter,
        purpose=Purpose.PROMOTIONAL,
        message_id=f"<{letter.id}@seaside.example.com>",
        address_hashes=[letter.id * 2],
        evidence="Wix at 2026-05-03T12:00:00+00:00: SUBSCRIBED, VALID",
        domain="example.com",
        cap=Cap(3, 7),
    )
    stores.ledger.sent(letter, "250 2.0.0 Ok: queued as 4F2C1B7D9E")
    stores.ledger.hands_free()


def _withdraw_letter(stores: Stores) -> None:
    letter = _claimed(stores)
    stores.suppressions.unsubscribe(letter.site, letter.member, letter.id * 2, "link", group=letter.group)
    hashes, id_ = [letter.id * 2], f"<{letter.id}@seaside.example.com>"
    with contextlib.suppress(WithdrawnError):
        stores.ledger.mark(
            letter, purpose=Purpose.ONBOARDING, message_id=id_, address_hashes=hashes, evidence="said stop"
        )
    stores.ledger.skip(letter, "said stop")
    stores.ledger.hands_free()


def _before_a_batch(stores: Stores) -> None:
    people = {member_of(number): [address_hash_of(number)] for number in range(100)}
    stores.suppressions.standing(SITE, people)
    stores.ledger.promotional_since(SITE, people, NOW - timedelta(days=7))
    stores.sites.removed([SITE])
    stores.senders.paused("example.com")


def _defer(stores: Stores) -> None:
    stores.ledger.defer(_claimed(stores), delay_s=0.0, reason="later", counts=False)
    stores.ledger.hands_free()


def _renew(stores: Stores) -> None:
    """What a process does every few seconds with what it has in hand, and once when it ends."""
    for store in (stores.ledger, stores.journal, stores.outbox):
        store.claim(5)
        store.renew()
        store.let_go()
        store.hands_free()


def _pay(stores: Stores) -> None:
    number = next(_numbers)
    stores.suppressions.unsubscribe(SITE, member_of(number), address_hash_of(number), "link")
    [call] = stores.outbox.claim(1)
    stores.outbox.postpone(call, delay_s=0.0, reason="Wix is away", counts=False)
    stores.outbox.hands_free()


def _bounce(stores: Stores) -> None:
    stores.returns.bounced(PAST_LETTER, "the address is dead", address="dead")
    stores.returns.complained(id_of(2), "spam")
    stores.returns.replied(["<nobody@example.com>", f"<{PAST_LETTER}@seaside.example.com>"])
    stores.returns.unsubscribed(PRESENT_LETTER, "mail", mail=str(next(_numbers)))
    stores.returns.came_back("mail3.example.com", "policy", timedelta(hours=1))


def _suppress(stores: Stores) -> None:
    member = member_of(next(_numbers))
    stores.people.suppress(SITE, member, "promotional", next(iter(ADMINS_REASONS)), who="user ana")
    stores.people.release(SITE, member, "promotional", "admin", who="user ana")


def _count_acts(stores: Stores) -> None:
    with stores.database.begin() as tx:
        count_alone(tx, "user ana", "people.suppress", timedelta(days=1))


def _settle_doubt(stores: Stores) -> None:
    for act in (stores.ledger.release, stores.ledger.give_up):
        for row in stores.ledger.page(site=SITE, state="in_doubt", limit=1):
            act(row.id, who="user ana")
    for row in stores.ledger.page(job=RUNNING_JOB, state="in_doubt", limit=1):
        stores.ledger.release(row.id, who="user ana")


def _forget(stores: Stores) -> None:
    """Somebody new, so that it can be asked again: nothing is theirs, and all of it has to be looked for."""
    stores.people.erase(SITE, member_of(next(_numbers)), who="benchmark")


def _heed(stores: Stores) -> None:
    with stores.database.begin() as tx:
        heed_address(tx, SITE, AddressNews((HASH,), NOW, subscribed=True, deliverable=True))


def _decide(stores: Stores) -> None:
    wanted = Decision("approve", group_of(3), member_of(next(_numbers)), NOW)
    [row], _ = stores.requests.decide(SITE, [wanted], who="user ana")
    stores.requests.undo(SITE, [row.id], reach=EVERYTHING, who="user ana")


def _replay(stores: Stores) -> None:
    with contextlib.suppress(WrongStateError):  # it is received since it was asked before
        stores.journal.replay(EventId(member_of(13)), SITE, who="benchmark")


WORKERS: Mapping[str, Ask] = {
    "accept 10 events": _accept,
    "claim 20 events, give them back": _claim_events,
    "take one event to its end": _finish_event,
    "claim 20 letters, give them back": _claim_letters,
    "the same of a job": partial(_claim_letters, job=RUNNING_JOB),
    "before a batch of 100 letters": _before_a_batch,
    "plan, claim, mark and send a letter": _send_letter,
    "plan and claim a letter that may not go": _withdraw_letter,
    "plan, claim and defer a letter": _defer,
    "claim 20 calls, give them back": _claim_calls,
    "owe a call and postpone it": _pay,
    "renew and let go": _renew,
    "a job from preview to end": _claim_job,
    "which job has letters due": lambda stores: stores.jobs.with_due_letters(0.5),
    "does a job wait for letters": lambda stores: stores.jobs.unfinished(RUNNING_JOB),
    "look again at a job": lambda stores: stores.jobs.look_again(RUNNING_JOB),
    "held letters of a job": lambda stores: stores.mailings.held(RUNNING_JOB, after="", limit=100),
    "addresses a job writes to": lambda stores: stores.mailings.taken(RUNNING_JOB, [HASH]),
    "groups a job writes to": lambda stores: stores.mailings.groups_with_held(RUNNING_JOB),
    "failed letters of a job": lambda stores: stores.jobs.failed_letters(RUNNING_JOB, after=""),
    "jobs that heed a join": lambda stores: stores.jobs.heeding(SITE, [group_of(3)]),
    "sent in the last day": lambda stores: stores.ledger.sent_since(timedelta(days=1)),
    "sent to a domain in the last day": lambda stores: stores.ledger.sent_since(
        timedelta(days=1), "mail3.example.com"
    ),
    "a bounce, an answer, an opt-out": _bounce,
    "what Wix says of an address": _heed,
}

SWEEPS: Mapping[str, Ask] = {
    "is an event due": lambda stores: stores.journal.any_due(),
    "is a letter due": lambda stores: stores.ledger.any_due(),
    "is a call due": lambda stores: stores.outbox.any_due(),
    "is a job due": lambda stores: stores.jobs.any_due(),
    "claim and settle a list of Wix's": _claim_watch,
    "what the journal holds of 100 people": lambda stores: stores.journal.heard(
        SITE,
        group_of(3),
        [member_of(number) for number in range(100)],
        [MEMBER_ADDED],
        NOW - timedelta(days=2),
    ),
    "when webhooks came": lambda stores: stores.journal.received_times(SITE, at_most=50),
    "note the size of the groups": lambda stores: stores.days.note(
        SITE, [Group(group_of(number), "A group", members=next(_numbers) % 1000) for number in range(GROUPS)]
    ),
}

PAGES: Mapping[str, Ask] = {
    "today: who came": lambda stores: stores.glance.came(SITE, EVERYTHING, KINDS, MIDNIGHT),
    "today: who came to a group": lambda stores: stores.glance.came(SITE, OF_A_GROUP, KINDS, MIDNIGHT),
    "today: letters sent": lambda stores: stores.glance.sent(SITE, EVERYTHING, MIDNIGHT),
    "today: letters that wait": lambda stores: stores.glance.waiting_letters(SITE, EVERYTHING),
    "today: letters refused": lambda stores: stores.glance.refused(SITE, EVERYTHING),
    "today: refused, of a group": lambda stores: stores.glance.refused(SITE, OF_A_GROUP),
    "today: letters in doubt": lambda stores: stores.glance.in_doubt(SITE, EVERYTHING),
    "today: events set aside": lambda stores: stores.glance.dead(SITE),
    "today: requests": lambda stores: stores.glance.requests(SITE, EVERYTHING),
    "today: calls refused": lambda stores: stores.glance.refused_calls(SITE, EVERYTHING),
    "today: due for long": lambda stores: stores.glance.due_since(SITE, EVERYTHING),
    "today: the site": lambda stores: stores.glance.site(SITE),
    "today: jobs that run": lambda stores: stores.jobs.page(site=SITE, state="running", limit=10),
    "today: jobs to confirm": lambda stores: stores.jobs.page(site=SITE, state="previewed", limit=10),
    "chart: people by day": lambda stores: stores.glance.people_by_day(SITE, KINDS, MIDNIGHTS),
    "chart: letters by day": lambda stores: stores.glance.letters_by_day(SITE, EVERYTHING, MIDNIGHTS),
    "requests: heard of 50 people": lambda stores: stores.requests.heard(
        SITE, [member_of(number) for number in range(50)]
    ),
    "requests: decisions by key": lambda stores: stores.requests.decisions(
        SITE, [decision_key(group_of(number), member_of(number), NOW) for number in range(50)]
    ),
    "requests: letters of 50 people": lambda stores: stores.requests.letters(
        SITE, [member_of(number) for number in range(50)]
    ),
    "requests: history": lambda stores: stores.requests.past(SITE, limit=50, after=(NOW, "x")),
    "requests: under way": lambda stores: stores.requests.under_way(
        SITE, EVERYTHING, since=timedelta(hours=1), limit=500
    ),
    "requests: decide and undo": _decide,
    "people: all of one": lambda stores: stores.people.records(SITE, member_of(7), [HASH]),
    "people: groups of 50": lambda stores: stores.people.groups_of(
        SITE, [member_of(number) for number in range(50)]
    ),
    "people: forget one": _forget,
    "people: suppress one and release": _suppress,
    "people: since when groups are watched": lambda stores: stores.people.watched_since(SITE, [group_of(3)]),
    "people: what waits for 50": lambda stores: stores.ledger.waiting(
        SITE, [member_of(number) for number in range(50)]
    ),
    "automations: letters that wait": lambda stores: stores.flows.waiting(SITE, ["welcome"]),
    "automations: what became of letters": lambda stores: stores.flows.counts(SITE),
    "automations: of a group": lambda stores: stores.flows.counts(SITE, OF_A_GROUP),
    "automations: has a name letters": lambda stores: stores.ledger.named_by({"nobody", "welcome"}),
    "groups: deleted ones": lambda stores: stores.days.deleted(SITE),
    "groups: size by day": lambda stores: stores.days.sizes(SITE, group_of(3), 90),
    "groups: letters of a group": lambda stores: stores.days.letters_of_group(SITE, group_of(3), 30),
    "groups: letters to groups": lambda stores: stores.days.letters_to_groups(SITE, 30),
    "groups: sizes then": lambda stores: stores.days.sizes_since(SITE, 30),
    "report: growth": lambda stores: stores.days.growth(SITE),
    "report: letters": lambda stores: stores.days.letters(SITE),
    "report: interests": lambda stores: stores.days.interests(SITE),
    "letters: first page": lambda stores: stores.ledger.page(site=SITE),
    "letters: of all sites": lambda stores: stores.ledger.page(),
    "letters: a page long ago": lambda stores: stores.ledger.page(
        site=SITE, after=(NOW - timedelta(days=300), "f")
    ),
    "letters: in doubt": lambda stores: stores.ledger.page(site=SITE, state="in_doubt"),
    "letters: of a member": lambda stores: stores.ledger.page(site=SITE, member=member_of(7)),
    "letters: of a group": lambda stores: stores.ledger.page(site=SITE, group=group_of(3)),
    "letters: of a group admin": lambda stores: stores.ledger.page(reach=OF_A_GROUP),
    "letters: of a job": lambda stores: stores.ledger.page(job=RUNNING_JOB),
    "letters: of a job, failed": lambda stores: stores.ledger.page(job=RUNNING_JOB, state="failed"),
    "letters: by id": lambda stores: stores.ledger.page(id=PAST_LETTER),
    "letters: console, by state": lambda stores: workshop.letters(stores.office, OWNER, SITE, state="failed"),
    "letters: ids of a job": lambda stores: stores.ledger.ids_of_job(RUNNING_JOB),
    "letters: of ids": lambda stores: stores.ledger.by_ids([id_of(number) for number in range(100)]),
    "events: first page": lambda stores: stores.journal.page(site=SITE),
    "events: of all sites": lambda stores: stores.journal.page(),
    "events: of a type": lambda stores: stores.journal.page(site=SITE, type=JOIN_REQUESTED),
    "events: dead": lambda stores: stores.journal.page(site=SITE, state="dead"),
    "events: by id": lambda stores: stores.journal.page(id=EventId(member_of(3))),
    "events: a story": lambda stores: workshop.story_of(stores.office, OWNER, SITE, EventId(member_of(23))),
    "jobs: first page": lambda stores: stores.jobs.page(site=SITE),
    "jobs: of a group admin": lambda stores: stores.jobs.page(reach=OF_A_GROUP),
    "jobs: counts of ten": lambda stores: stores.jobs.counts(stores.jobs.page(site=SITE, limit=10)),
    "jobs: rows": lambda stores: stores.jobs.items(id_of(0)),
    "audit: how often of late": _count_acts,
    "audit: first page": lambda stores: stores.audit.page(of_sites=True),
    "audit: of a site": lambda stores: stores.audit.page(site=SITE),
    "audit: of somebody": lambda stores: stores.audit.page(who="user ana"),
    "audit: of a thing": lambda stores: stores.audit.page(object=f"member {member_of(1)}"),
    "suppressed anywhere": lambda stores: stores.suppressions.anywhere([HASH]),
    "recovery: replay an event": _replay,
    "recovery: release a letter, give one up": _settle_doubt,
    "recovery: found among Message-IDs": lambda stores: stores.ledger.found_accepted(
        [f"<{PAST_LETTER}@seaside.example.com>"], who="benchmark"
    ),
}

METRICS: Mapping[str, Ask] = {
    "metrics: rows by state": lambda stores: stores.tally.ask(),
}

QUESTIONS: Mapping[str, Ask] = {**WORKERS, **SWEEPS, **PAGES, **METRICS}
