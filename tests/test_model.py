"""The store against a model of it: whatever order processes, people, faults and time come in, the promises hold.

The machine plays several processes on one database, each of which may stop anywhere: die, freeze beyond its lease,
and wake up later. Between two steps stands one whole transaction. The model knows what each row has to look like, and
apart from that what reached the mail server and what people were promised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from sys import exc_info
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core import events
from core.community import GroupId, MemberId, SiteId
from core.consent import Purpose
from core.errors import LostLeaseError, NotThereError, WithdrawnError, WrongStateError
from core.events import Event, EventId
from core.letters import Effects, PlannedLetter, StopLetters, WixCall
from integrations.store.database import Database
from integrations.store.journal import Journal
from integrations.store.ledger import MAY_STILL_COME, Ledger
from integrations.store.outbox import Outbox
from integrations.store.sites import Sites
from integrations.store.suppressions import Suppressions
from integrations.store.tables import metadata
from integrations.store.work import LEASE_S, MOST_CRASHES
from tests.house import Clock

LEASE = timedelta(seconds=LEASE_S)
SITES = (SiteId("north"), SiteId("south"))
ADDRESSES = {MemberId("ann"): "hash-1", MemberId("bob"): "hash-2", MemberId("ann-again"): "hash-1"}
PURPOSES = {"welcome": Purpose.ONBOARDING, "offer": Purpose.PROMOTIONAL}
GROUPS = {"welcome": GroupId("runners"), "offer": GroupId("yoga")}
ANN = MemberId("ann")
JOB = "job-1"
NOT_DONE = ("postpone", "bury", "give back")
WAITING = {"events": ("received",), "messages": ("planned", "deferred"), "outbox": ("planned",)}
HELD = {"events": "received", "messages": "sending", "outbox": "planned"}
SET_ASIDE = {"events": "dead", "messages": "failed", "outbox": "failed"}
ENDS = {
    "events": {"done", "ignored", "dead"},
    "messages": {"sent", "skipped", "failed", "in_doubt"},
    "outbox": {"done", "failed", "void"},
}
COLUMNS = {
    name: sa.select(
        *(
            metadata.tables[name].c[column]
            for column in (
                *("site", "id" if name == "events" else "key", "state", "next_at", "crashes", "lease"),
                *(("marked", "address_hash") if name == "messages" else ()),
            )
        )
    )
    for name in WAITING
}

Key = tuple[str, str]


class Process:
    """One worker and what it took. It keeps alive what its latest claim brought, and nothing of the claims before."""

    def __init__(self, name: str, database: Database) -> None:
        self.name = name
        self.stores: dict[str, Any] = {
            "events": Journal(database, listened={events.MEMBER_ADDED}),
            "messages": Ledger(database),
            "outbox": Outbox(database),
        }
        self.hands: list[Hold] = []
        self.turns = dict.fromkeys(self.stores, 0)

    def __repr__(self) -> str:
        return self.name


@dataclass(eq=False)
class Row:
    """What a row of the database has to look like. `hold` stands while the lease does, run out or not."""

    table: str
    site: SiteId
    key: str
    state: str
    next_at: datetime
    member: MemberId | None = None
    automation: str = ""
    crashes: int = 0
    hold: Hold | None = None
    job: str | None = None
    marked: bool = False
    address: str | None = None
    # What the world saw of a letter, whatever the row says.
    taken: int = 0
    released: int = 0
    unanswered: bool = False
    event: str = ""

    def end(self, state: str) -> None:
        self.state, self.hold, self.crashes = state, None, 0

    def as_stored(self) -> tuple[object, ...]:
        timed = self.state not in ENDS[self.table] or self.hold
        return (
            self.state,
            self.next_at if timed else None,
            self.crashes,
            self.hold is not None,
            self.marked,
            self.address,
        )


@dataclass(eq=False)
class Hold:
    """A claim in somebody's hands, which may have been lost without their knowing."""

    process: Process
    claimed: Any = field(repr=False)
    row: Row = field(repr=False)
    until: datetime
    turn: int
    marked: bool = False
    dot: str = ""  # what the mail server said to it, if it went out

    def __repr__(self) -> str:
        return f"<{self.row.site}/{self.row.key} of {self.process}>"

    @property
    def stands(self) -> bool:
        return self.row.hold is self


# What is drawn depends on what was drawn before, and on nothing the database chose: of rows due at the same time it
# hands out any, and Hypothesis has to be able to play a day again.
SITE = st.sampled_from([SITES[0], SITES[0], SITES[0], SITES[1]])
MEMBER = st.sampled_from(sorted(ADDRESSES))
DELIVERY = st.tuples(SITE, st.sampled_from(["e1", "e2", "e3", "e4", "unheard"]))
PLANNED = st.tuples(
    MEMBER,
    st.sampled_from(sorted(PURPOSES)),
    st.integers(1, 3),  # which time they joined
    st.sampled_from([0, 0, 100]),  # after how many seconds the letter is due
    st.booleans(),  # whether a rule of ours refuses it at once
)


@dataclass(frozen=True)
class Work:
    """Some time passes, one of the processes claims up to `limit` rows, and one goes on with what it holds.

    `alive`: the process that renews meanwhile.
    """

    table: str
    how: str
    process: int
    pause_s: float
    alive: int | None
    limit: int
    pick: int
    said: str = "taken"
    member: MemberId = ANN
    letters: tuple[tuple[MemberId, str, int, int, bool], ...] = ()


WORKING: dict[str, Any] = {
    "process": st.integers(0, 2),
    "pause_s": st.sampled_from([0, 0, 0, 0, 1, 30, LEASE_S, LEASE_S, LEASE_S + 1, 899, 901, 4000]),
    "alive": st.sampled_from([None, None, 0, 1, 2]),
    "limit": st.sampled_from([0, 0, 1, 2, 4]),
    "pick": st.integers(0, 3),
}
WORK_ON_LETTERS = st.builds(
    Work,
    table=st.just("messages"),
    how=st.sampled_from(
        [
            *["nothing", "mark", "dot", "answer"] * 3,
            "skip",
            "fail",
            "defer",
            "give back",
            "let go",
            "free hands",
            "die",
        ]
    ),
    said=st.sampled_from(["taken", "taken", "taken, but nobody heard", "silence", "450", "550"]),
    **WORKING,
)
WORK = st.one_of(
    WORK_ON_LETTERS,
    WORK_ON_LETTERS,
    st.builds(
        Work,
        table=st.just("events"),
        how=st.sampled_from(
            [
                "nothing",
                *["letters"] * 5,
                *["call", "stop", "forget", "forget", "remove", "ignore"],
                *NOT_DONE,
                "let go",
                "free hands",
                "die",
            ]
        ),
        member=MEMBER,
        letters=st.lists(PLANNED, min_size=1, max_size=3).map(tuple),
        **WORKING,
    ),
    st.builds(
        Work,
        table=st.just("outbox"),
        how=st.sampled_from(
            ["nothing", "done", "failed", "void", "postpone", "give back", "let go", "free hands", "die"]
        ),
        **WORKING,
    ),
)
HEARD = st.runner().flatmap(lambda machine: st.sampled_from(sorted(machine.rows["events"])))


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__()
        self.database, self.clock = database, clock
        clock.now = Clock().now
        with database.begin() as tx:
            if database.url.get_backend_name() == "sqlite":
                for table in reversed(metadata.sorted_tables):
                    tx.execute(sa.delete(table))
            else:  # and without what the last day left on the pages
                names = ", ".join(table.name for table in metadata.sorted_tables)
                tx.execute(sa.text(f"TRUNCATE {names}"))
        self.born = 0
        self.processes = [self.start() for _ in range(3)]
        self.person = self.start()
        self.journal, self.ledger = self.person.stores["events"], self.person.stores["messages"]
        self.suppressions, self.sites = Suppressions(database), Sites(database)
        self.rows: dict[str, dict[Key, Row]] = {"events": {}, "messages": {}, "outbox": {}}
        self.acknowledged: set[Key] = set()
        self.stopped: set[tuple[str, str, str]] = set()  # site, subject, scope
        self.erased: set[tuple[str, str]] = set()
        self.removed_at: dict[str, datetime] = {}
        self.rests_until: dict[str, datetime] = {}

    def start(self) -> Process:
        self.born += 1
        return Process(f"p{self.born}", self.database)

    # How a day begins: with letters, some of them under way or of a job that has one person in it twice, and events.

    @initialize(
        letters=st.lists(PLANNED, min_size=1, max_size=3),
        job=st.sampled_from([[], ["ann", "ann-again"], ["ann-again", "bob", "ann"]]),
        under_way=st.lists(st.sampled_from(["nothing", "mark", "dot"]), max_size=3),
        waiting=st.lists(DELIVERY, max_size=4),
    )
    def begin(
        self, letters: list[Any], job: list[MemberId], under_way: list[str], waiting: list[Any]
    ) -> None:
        self.accept([(SITES[0], "e1")])
        [hold] = self.take(self.processes[0], "events", 1)
        self.finish(hold, "letters", ANN, letters)
        with self.database.begin() as tx:
            tx.execute(
                sa.insert(metadata.tables["jobs"]).values(
                    id=JOB, site=SITES[0], kind="group_email", params={}, who="a test", state="running",
                    phase="wait", cursor={}, plan={}, next_at=tx.now + timedelta(days=900),
                    created_at=tx.now, updated_at=tx.now,
                )
            )  # fmt: skip
        for member in job:
            self.plan_for_a_job(SITES[0], member)
        if under_way:
            held = self.take(self.processes[1], "messages", len(under_way))
            for hold, as_far_as in zip(held, under_way, strict=False):
                self.send(hold, as_far_as, "silence")
        if waiting:
            self.accept(waiting)

    def plan_for_a_job(self, site: SiteId, member: MemberId) -> None:
        """As a job's page does it: no event set it off."""
        now, key = self.clock(), f"{JOB}:{member}"
        self.rows["messages"][site, key] = Row(
            "messages", site, key, "planned", now, member, "offer", job=JOB
        )
        values = {"group_id": GROUPS["offer"], "member": member, "job": JOB, "trigger": "job"}
        letter = {"purpose": "promotional", "email_template": "offer", "context": {}, "look_again": False}
        times = {"next_at": now, "created_at": now, "due_at": now}
        with self.database.begin() as tx:
            tx.execute(
                sa.insert(metadata.tables["messages"]).values(
                    id=f"{site}-{key}", site=site, key=key, state="planned", **values, **letter, **times
                )
            )

    # The door.

    @rule(deliveries=st.lists(DELIVERY, min_size=1, max_size=4), then=WORK)
    def hear(self, deliveries: list[tuple[SiteId, str]], then: Work) -> None:
        self.accept(deliveries)
        self.work(then)

    def accept(self, deliveries: list[tuple[SiteId, str]]) -> None:
        now, expected = self.clock(), []
        for site, id_ in deliveries:
            expected.append((site, id_) not in self.rows["events"])
            state = "ignored" if id_ == "unheard" else "received"
            self.rows["events"].setdefault((site, id_), Row("events", site, id_, state, now))
        batch = [
            Event(EventId(id_), site, "unheard" if id_ == "unheard" else events.MEMBER_ADDED, now, "{}")
            for site, id_ in deliveries
        ]
        assert self.journal.insert(batch) == expected
        self.acknowledged.update((str(site), id_) for site, id_ in deliveries)

    # Claims.

    def due(self, table: str) -> list[Row]:
        now = self.clock()
        return [
            row
            for row in self.rows[table].values()
            if row.state in WAITING[table]
            and row.next_at <= now
            and self.rests_until.get(row.site, now) <= now
        ]

    @rule(then=WORK)
    def work(self, then: Work) -> None:
        self.wait(then.pause_s, then.alive)
        process = self.processes[then.process]
        if then.limit:
            self.take(process, then.table, then.limit, JOB if then.pick % 2 else None)
        held = [hold for each in self.processes for hold in each.hands if hold.row.table == then.table]
        held.sort(key=lambda hold: hold.stands and hold.until > self.clock())  # who is too late comes first
        if held and then.how != "nothing":
            hold = held[then.pick % len(held)]
            if then.how == "die":
                self.crash(hold.process)
            elif then.how == "let go":
                self.let_go(hold.process)
            elif then.how == "free hands":
                self.free_hands(hold.process, then.table)
            elif then.table == "messages":
                self.send(hold, then.how, then.said)
            elif then.table == "outbox":
                self.pay(hold, then.how)
            elif then.how in NOT_DONE:
                self.do_not_finish(hold, then.how)
            else:
                self.finish(hold, then.how, then.member, then.letters)

    def take(self, process: Process, table: str, limit: int, job: str | None = None) -> list[Hold]:
        """`job`: of letters those of this job, else those of none."""
        now = self.clock()
        process.turns[table] += 1
        anything = job is not None or process.stores[table].any_due()
        lane = {"job": job} if table == "messages" else {}
        claimed = sorted(
            process.stores[table].claim(limit, **lane), key=lambda item: self.key_of(item, table)
        )
        if table == "messages":
            for row in self.rows[table].values():
                if row.state == "sending" and row.next_at <= now and row.job == job:
                    row.state = "in_doubt" if row.marked else "planned"
        due = [row for row in self.due(table) if not lane or row.job == job]
        stored = self.stored(table)[table] if any(row.hold for row in due) else {}
        for item in claimed:
            row = self.rows[table][self.key_of(item, table)]
            assert row.hold is None or row.hold.until <= now, "two processes hold one row"
            assert row in due, "claimed what is not due"
        assert anything or not claimed
        mine = [self.rows[table][self.key_of(item, table)] for item in claimed]
        aside = [
            row
            for row in due
            if stored and row not in mine and stored[row.site, row.key][0] == SET_ASIDE[table]
        ]
        self.check_choice(due, [*mine, *aside], limit)
        for row in aside:
            assert row.crashes + 1 >= MOST_CRASHES, "set aside too early"
            row.next_at = now + LEASE
            row.end(SET_ASIDE[table])
        for item, row in zip(claimed, mine, strict=True):
            row.crashes += row.hold is not None
            assert row.crashes < MOST_CRASHES, "a row that kills its workers is still handed out"
            hold = Hold(process, item, row, now + LEASE, process.turns[table])
            process.hands.append(hold)
            row.state, row.hold, row.next_at = HELD[table], hold, hold.until
        return process.hands[-len(claimed) :] if claimed else []

    def check_choice(self, due: Collection[Row], taken: list[Row], limit: int) -> None:
        """Longest due first, and what was left behind twice alone."""
        assert bool(taken) == bool(due), "what is due was not handed out"
        free = [row for row in due if row.hold is None or not row.crashes]
        if any(row not in free for row in taken):
            assert len(taken) == 1, "a row that was left behind twice takes others along"
            assert taken[0].next_at == min(row.next_at for row in due)
        elif taken:
            longest = min(row.next_at for row in due)
            alone = len(taken) == 1 and any(row not in free and row.next_at == longest for row in due)
            assert alone or len(taken) == min(limit, len(free))
            left = [row.next_at for row in free if row not in taken]
            assert not left or max(row.next_at for row in taken) <= min(left)

    @staticmethod
    def key_of(item: Any, table: str) -> Key:
        return str(item.site), item.event.id if table == "events" else item.row.key

    def let_go(self, process: Process) -> None:
        """The same in order. What it may be doing at this moment comes too late."""
        for store in process.stores.values():
            store.let_go()
        for hold in self.held_by(process):
            row = hold.row
            if not row.marked:
                row.state, row.hold, row.next_at = WAITING[row.table][0], None, self.clock()
            elif row.state == "sending":
                row.state = "in_doubt"

    def free_hands(self, process: Process, table: str) -> None:
        """A turn is over. What could not be written during it, with the database away, is nobody's now, though the
        process lives and renews."""
        process.stores[table].hands_free()
        process.turns[table] += 1
        self.clock.move(seconds=1)
        self.renew(process)
        process.hands = [hold for hold in process.hands if hold.row.table != table]

    @precondition(lambda machine: machine.born < 20)
    @rule(
        table=st.sampled_from(["messages", "events", "outbox"]), times=st.sampled_from([1, 4, 6]), then=WORK
    )
    def kill_whoever_takes_one(self, table: str, times: int, then: Work) -> None:
        for _ in range(times):
            self.take(self.processes[-1], table, 1)
            self.crash(self.processes[-1])
            self.clock.move(seconds=LEASE_S)
        self.work(then)

    def crash(self, process: Process) -> None:
        """Without a word; another is started in its place."""
        self.processes.remove(process)
        self.processes.append(self.start())

    def wait(self, seconds: float, alive: int | None) -> None:
        """Who is alive renews what it holds and half of the time passes; then again."""
        for _ in range(2 if seconds else 0):
            if alive is not None:
                self.renew(self.processes[alive])
            self.clock.move(seconds=seconds / 2)

    def renew(self, process: Process) -> None:
        now = self.clock()
        for store in process.stores.values():
            store.renew()
        for hold in self.held_by(process):
            if hold.until > now:
                hold.until = hold.row.next_at = max(hold.until, now + LEASE)

    def held_by(self, process: Process) -> list[Hold]:
        found = [row.hold for rows in self.rows.values() for row in rows.values() if row.hold]
        return [
            hold
            for hold in found
            if hold.process is process
            and hold.row.state == HELD[hold.row.table]
            and hold.turn == process.turns[hold.row.table]
        ]

    # What a process writes about what it holds.

    def write(self, hold: Hold, method: str, *args: Any, **options: Any) -> bool:
        """One write of a holder. False when it had lost the row: then it is told so, and nothing changes."""
        if hold in hold.process.hands:
            hold.process.hands.remove(hold)
        call = getattr(hold.process.stores[hold.row.table], method)
        arguments = [(hold.claimed, *args)] if method == "finish" else [hold.claimed, *args]
        if hold.stands:
            call(*arguments, **options)
            return True
        before = self.everything()
        with pytest.raises(LostLeaseError):
            call(*arguments, **options)
        assert self.everything() == before, "a write after the lease was lost changed something"
        return False

    def hand_back(self, hold: Hold) -> None:
        hold.process.hands.remove(hold)
        before = self.everything()
        hold.process.stores[hold.row.table].give_back([hold.claimed])
        if hold.stands:
            hold.row.state, hold.row.hold, hold.row.next_at = WAITING[hold.row.table][0], None, self.clock()
        else:
            assert self.everything() == before, "gave back what somebody else has"

    def finish(self, hold: Hold, what: str, member: MemberId, letters: Sequence[Any]) -> None:
        now, site = self.clock(), hold.row.site
        planned = [
            PlannedLetter(
                key=f"{automation}:{who}:{time}",
                group=GROUPS[automation],
                member=who,
                automation=automation,
                trigger="member_added",
                purpose=PURPOSES[automation],
                template=automation,
                due_at=now + timedelta(seconds=delay_s),
                reason="no consent" if refused and what != "letters" else None,
            )
            for who, automation, time, delay_s, refused in letters
            if what in ("letters", "stop")
        ]
        stops: dict[str, StopLetters] = {
            "stop": StopLetters("left", group=GROUPS["welcome"], member=member),
            "remove": StopLetters("the app was removed"),
        }
        effects = Effects(
            letters=tuple(planned),
            calls=(WixCall(f"decide:{member}", "approve", None, member),) if what == "call" else (),
            stop=(stops[what],) if what in stops else (),
            forget=member if what == "forget" else None,
            site_state="removed" if what == "remove" else None,
            ignored="nobody listens" if what == "ignore" else None,
        )
        if not self.write(hold, "finish", effects):
            return
        hold.row.end("ignored" if what == "ignore" else "done")
        told_at = hold.claimed.event.occurred_at
        is_news = what != "remove" or told_at >= self.removed_at.get(site, told_at)
        if what == "remove" and is_news:
            self.removed_at[site] = told_at
        for row in self.of(site, "messages"):
            mine = row.member == member
            lost_ground = {
                "stop": mine and row.automation == "welcome",
                "remove": is_news,
                "forget": mine,
            }.get(what, False)
            if lost_ground and row.state in WAITING["messages"]:
                row.state, row.hold = "skipped", None
            if what == "forget" and mine:
                row.address = None
        if what == "forget":
            self.erased.add((site, member))
            self.stopped.add((site, f"member:{member}", "all"))
            for row in self.of(site, "outbox"):
                if row.member == member and row.state == "planned":
                    row.state, row.hold = "void", None
        before: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in self.of(site, "messages"):
            if row.event == hold.row.key and row.state != "skipped":
                before[str(row.member), row.automation].add(row.key)
        for letter in planned:
            # One event is one letter of an automation, also when it is worked off again and says something else.
            if letter.key not in before.get((letter.member, letter.automation), {letter.key}):
                continue
            row = self.rows["messages"].setdefault(
                (site, letter.key), Row("messages", site, letter.key, "skipped", now)
            )
            if row.state == "skipped" and not row.released:
                row.event = hold.row.key
                forgotten = (site, letter.member) in self.erased
                row.state = "skipped" if letter.reason or forgotten else "planned"
                row.member, row.automation, row.next_at = letter.member, letter.automation, letter.due_at
                row.crashes, row.hold, row.marked, row.address = 0, None, False, None
        for call in effects.calls:
            self.rows["outbox"].setdefault(
                (site, call.key), Row("outbox", site, call.key, "planned", now, member)
            )

    def of(self, site: SiteId, table: str) -> Iterator[Row]:
        return (row for row in self.rows[table].values() if row.site == site)

    def do_not_finish(self, hold: Hold, how: str) -> None:
        if how == "give back":
            self.hand_back(hold)
        elif how == "bury":
            if self.write(hold, "bury", "again cannot help"):
                hold.row.end("dead")
        elif self.write(hold, "postpone", delay_s=30, error="Wix is away"):
            hold.row.end("received")
            hold.row.next_at = self.clock() + timedelta(seconds=30)
            self.sites.rest(hold.row.site, 60)
            self.rests_until[hold.row.site] = self.clock() + timedelta(seconds=60)

    def pay(self, hold: Hold, how: str) -> None:
        if how == "give back":
            self.hand_back(hold)
        elif how != "postpone":
            if self.write(hold, "end", how):
                hold.row.end(how)
        elif self.write(hold, "postpone", delay_s=30, reason="Wix is away"):
            hold.row.end("planned")
            hold.row.next_at = self.clock() + timedelta(seconds=30)

    def send(self, hold: Hold, as_far_as: str, said: str) -> None:
        """From wherever the holder is with its letter, and as if no time had passed since."""
        if not hold.marked:
            if as_far_as == "give back":
                self.hand_back(hold)
            if as_far_as in ("skip", "fail", "defer"):
                self.record(hold, as_far_as)
            if as_far_as in ("mark", "dot", "answer"):
                self.mark(hold)
            if as_far_as == "mark" or not hold.marked:
                return
        # Long after its lease the mail server has closed the connection: what was not sent cannot go any more.
        if not hold.dot:
            if self.clock() >= hold.until + MAY_STILL_COME:
                self.record(hold, "defer")
                return
            self.send_the_dot(hold, said)
            if as_far_as != "answer":
                return
        self.record(hold, {"taken": "sent", "450": "defer", "550": "fail"}.get(hold.dot, "doubt"))

    def record(self, hold: Hold, how: str) -> None:
        arguments = {"sent": ("250 taken",), "defer": ()}.get(how, ("a reason",))
        options = {"delay_s": 30, "reason": "450 later"} if how == "defer" else {}
        if not self.write(hold, how, *arguments, **options):
            return
        row, state = hold.row, {"skip": "skipped", "fail": "failed", "doubt": "in_doubt"}.get(how, how)
        row.end("deferred" if how == "defer" else state)
        row.unanswered = row.unanswered and how == "doubt"
        if how in ("defer", "fail"):
            row.marked = False
        if how == "defer":
            row.next_at = self.clock() + timedelta(seconds=30)

    # The mail server.

    def mark(self, hold: Hold) -> None:
        row, now = hold.row, self.clock()
        assert row.member is not None
        address, purpose = ADDRESSES[row.member], PURPOSES[row.automation]
        said_stop = self.said_stop(row)
        lost = not (hold.stands and row.state == "sending" and hold.until > now)
        has_it = row.job is not None and any(
            other.job and other.marked and other.address == address
            for other in self.of(row.site, "messages")
            if other is not row
        )
        before = self.everything() if said_stop or lost or has_it else None
        try:
            hold.process.stores["messages"].mark(
                hold.claimed,
                purpose=purpose,
                message_id=f"<{row.site}/{row.key}>",
                address_hashes=[address],
                evidence="SUBSCRIBED",
            )
        except LostLeaseError:
            assert lost, "refused a mark whose lease stands"
        except WithdrawnError:
            assert said_stop or has_it, "withdrawn without a reason"
            assert self.everything() == before
            self.record(hold, "skip")
            return
        else:
            assert not lost, "marked after the lease was lost"
            assert not said_stop, "marked for a reader who said stop"
            assert not has_it, "marked a second letter of one job for the same address"
            self.check_nobody_else_may_send(hold)
            hold.marked = row.marked = True
            hold.until = row.next_at = now + LEASE
            row.address = address
            return
        assert self.everything() == before
        hold.process.hands.remove(hold)

    def said_stop(self, row: Row) -> bool:
        scopes = ["all", *(["promotional"] if row.automation == "offer" else [])]
        subjects = [f"member:{row.member}", f"address:{ADDRESSES[row.member or ANN]}"]
        return any((row.site, subject, scope) in self.stopped for subject in subjects for scope in scopes)

    def check_nobody_else_may_send(self, hold: Hold) -> None:
        for process in self.processes:
            for other in process.hands:
                frozen = other.row is hold.row and other.marked and not other.dot
                assert not (frozen and self.clock() < other.until + MAY_STILL_COME), (
                    "marked while an earlier holder may still send its dot"
                )

    def send_the_dot(self, hold: Hold, said: str) -> None:
        row, hold.dot = hold.row, said
        row.taken += said.startswith("taken")
        # Of one that somebody has decided about, a late dot without an answer tells nobody anything.
        row.unanswered = row.unanswered or (hold.stands and row.state in ("sending", "in_doubt"))
        assert row.taken <= 1 + row.released, "the same letter went out twice"
        if row.job:
            together = [
                other
                for other in self.of(row.site, "messages")
                if other.job
                and ADDRESSES[other.member or ANN] == ADDRESSES[row.member or ANN]
                and (other.site, other.member) not in self.erased
            ]
            assert sum(other.taken for other in together) <= 1 + sum(other.released for other in together), (
                "one person got two letters of a job"
            )

    # People, and the mail server's own records.

    @precondition(lambda machine: len(machine.stopped) < 5)
    @rule(site=SITE, member=MEMBER, dead_address=st.sampled_from([False, False, True]), then=WORK)
    def say_stop(self, site: SiteId, member: MemberId, dead_address: bool, then: Work) -> None:
        if dead_address:
            self.bounce(site, member)
        else:
            self.unsubscribe(site, member)
        self.work(then)

    def bounce(self, site: SiteId, member: MemberId) -> None:
        address = ADDRESSES[member]
        self.suppressions.dead(site, member, address, "dead")
        self.stopped.add((site, f"address:{address}", "all"))
        self.owed(site, f"bounced:{member}:", member)

    def unsubscribe(self, site: SiteId, member: MemberId) -> None:
        self.suppressions.unsubscribe(site, member, ADDRESSES[member], "one-click")
        for subject in (f"member:{member}", f"address:{ADDRESSES[member]}"):
            self.stopped.add((site, subject, "promotional"))
        self.owed(site, f"unsubscribe:{member}", member)

    def owed(self, site: SiteId, key: str, member: MemberId) -> None:
        """Owed to Wix anew, unless it still is."""
        row = self.rows["outbox"].setdefault(
            (site, key), Row("outbox", site, key, "planned", self.clock(), member)
        )
        if row.state != "planned":
            row.state, row.hold, row.crashes, row.next_at = "planned", None, 0, self.clock()

    @rule(key=HEARD, name_the_site=st.booleans(), then=WORK)
    def replay(self, key: Key, name_the_site: bool, then: Work) -> None:
        row = self.rows["events"][key]
        several = sum(id_ == key[1] for _, id_ in self.rows["events"]) > 1
        site = SiteId(key[0]) if name_the_site else None
        with pytest.raises(NotThereError):
            self.journal.replay(EventId("never came"), site, who="a test")
        if row.state == "received" or (several and site is None):
            before = self.everything()
            with pytest.raises(WrongStateError):
                self.journal.replay(EventId(key[1]), site, who="a test")
            assert self.everything() == before, "refused, and done all the same"
        else:
            self.journal.replay(EventId(key[1]), site, who="a test")
            row.state, row.next_at, row.crashes = "received", self.clock(), 0
        self.work(then)

    @rule(
        pick=st.integers(0, 7),
        how=st.sampled_from(["release", "release", "release", "give up", "look it up"]),
        then=WORK,
    )
    def decide(self, pick: int, how: str, then: Work) -> None:
        letters = self.rows["messages"]
        keys = sorted(letters, key=lambda key: (letters[key].state != "in_doubt", key))
        key = keys[pick % len(keys)]
        row, id_, message_id = letters[key], self.id_of(*key), f"<{key[0]}/{key[1]}>"
        waits = row.released > 0 and row.state in WAITING["messages"]
        if row.state != "in_doubt" and not waits:
            before = self.everything()
            for decision in (self.ledger.release, self.ledger.give_up):
                with pytest.raises(WrongStateError):
                    decision(id_, who="a test")
            assert self.ledger.found_accepted([message_id], who="a test") == 0
            assert self.everything() == before, "refused, and done all the same"
        elif how == "release" and waits:
            with pytest.raises(WrongStateError):
                self.ledger.release(id_, who="a test")
        elif how == "release":
            self.release(row)
        elif how == "give up":
            self.ledger.give_up(id_, who="a test")
            row.state, row.crashes, row.unanswered = "failed", 0, False
        elif row.taken:
            assert self.ledger.found_accepted(["<of somebody else>", message_id], who="a test") == 1
            row.state, row.hold, row.unanswered = "sent", None, False
        self.work(then)

    def release(self, row: Row) -> None:
        now = self.clock()
        self.ledger.release(self.id_of(row.site, row.key), who="a test")
        row.next_at = now if row.hold is None else max(now, row.next_at + MAY_STILL_COME)
        row.state, row.crashes, row.marked, row.unanswered = "planned", 0, False, False
        row.released += 1

    def id_of(self, site: str, key: str) -> str:
        table = metadata.tables["messages"]
        with self.database.read() as tx:
            query = sa.select(table.c.id).where(table.c.site == site, table.c.key == key)
            return str(tx.connection.scalar(query))

    # What is promised.

    def everything(self) -> list[Any]:
        with self.database.read() as tx:
            return [
                sorted(map(repr, tx.execute(sa.select(metadata.tables[name]))))
                for name in (*self.rows, "suppressions")
            ]

    def stored(self, *names: str) -> dict[str, dict[Key, tuple[object, ...]]]:
        """The rows by site and key; of rows that came to their end the time says nothing any more."""
        found: dict[str, dict[Key, tuple[object, ...]]] = {}
        with self.database.read() as tx:
            for name in names:
                letters = name == "messages"
                found[name] = {
                    (site, key): (
                        state,
                        next_at if state not in ENDS[name] or lease else None,
                        crashes,
                        lease is not None,
                        *(rest if letters else (False, None)),
                    )
                    for site, key, state, next_at, crashes, lease, *rest in tx.execute(COLUMNS[name])
                }
        return found

    @invariant()
    def the_rows_keep_the_promises(self) -> None:
        stored = self.stored(*self.rows)
        assert self.acknowledged <= stored["events"].keys(), "an acknowledged event is not in the journal"
        for key, (state, *_) in stored["events"].items():
            assert state in ("received", "done", "ignored", "dead"), key
        for key, (state, _, _, _, marked, _) in stored["messages"].items():
            row = self.rows["messages"].get(key)
            assert row is not None, "a letter nobody planned"
            if state == "sent":
                assert row.taken, "sent, and no mail server has it"
            if row.taken > row.released:
                assert state not in ("planned", "deferred"), "a letter that went out waits to go out again"
                assert marked
            if row.unanswered:
                assert state in ("sending", "in_doubt"), "a dot without an answer is not in doubt"
        for name, rows in self.rows.items():
            expected = {(str(site), key): row.as_stored() for (site, key), row in rows.items()}
            assert stored[name] == expected, name

    # And when everything is left to itself, with one healthy process.

    def teardown(self) -> None:
        if exc_info()[0] is not None:
            return
        self.let_go(self.processes[1])  # the others freeze, and wake up too late
        everybody, self.processes = self.processes, [self.start()]
        self.too_late = [
            hold
            for process in everybody
            for hold in process.hands
            if hold.row.table == "messages" and not hold.marked
        ]
        for member in ADDRESSES:
            self.plan_for_a_job(SITES[1], member)
        self.run_dry()
        for row in self.rows["messages"].values():
            if row.state == "in_doubt":
                self.release(row)
        for row in self.rows["outbox"].values():
            if row.key.startswith("unsubscribe:"):
                self.unsubscribe(row.site, row.member or ANN)  # is owed anew
        self.run_dry()
        self.clock.move(days=30)
        assert not any(store.any_due() for store in self.processes[0].stores.values())

    def run_dry(self) -> None:
        [healthy] = self.processes
        for _ in range(60):
            for hold in self.take(healthy, "events", 20):
                self.finish(hold, "letters", ANN, [(member, "welcome", 9, 0, False) for member in ADDRESSES])
            for hold in self.take(healthy, "outbox", 20):
                self.pay(hold, "done")
            for job in (None, JOB):
                claimed = self.take(healthy, "messages", 20, job)
                for hold in [hold for hold in self.too_late if not hold.stands]:
                    self.too_late.remove(hold)
                    self.mark(hold)
                for hold in claimed:
                    self.mark(hold)
                    if hold.marked:
                        self.send(hold, "answer", "taken")
            self.the_rows_keep_the_promises()
            open_rows = [
                row
                for rows in self.rows.values()
                for row in rows.values()
                if row.state not in ENDS[row.table]
            ]
            if not open_rows:
                break
            self.clock.now = max(
                self.clock(),
                min(max(row.next_at, self.rests_until.get(row.site, row.next_at)) for row in open_rows),
            )
        assert not open_rows, "something never comes to its end"
        assert set(self.journal.counts()) <= ENDS["events"]
        certain = [row for row in self.rows["messages"].values() if row.state != "in_doubt"]
        assert self.ledger.found_accepted([f"<{row.site}/{row.key}>" for row in certain], who="a test") == 0


EXAMPLES = {"sqlite": 80, "postgresql": 25}


@pytest.mark.timeout(600)  # Hypothesis takes up to 300 s to find the shortest steps that fail
def test_whatever_happens_in_whatever_order_the_promises_hold(database: Database, clock: Clock) -> None:
    run_state_machine_as_test(
        lambda: StoreMachine(database, clock),
        settings=settings(
            max_examples=EXAMPLES[database.url.get_backend_name()],
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
