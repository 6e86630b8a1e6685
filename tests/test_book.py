"""The automations' versions: what counts in which process, who may write the next one, and what stops nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from core.automations import Automations
from core.community import SiteId
from core.errors import ConfigError, JournalUnavailableError, NotThereError, WrongStateError
from integrations.store.audit import Audit
from integrations.store.book import Book, File
from integrations.store.database import Database
from integrations.store.flows import REMEMBERED_S, Flows
from integrations.store.reach import Reach
from integrations.store.sites import note_site
from integrations.store.tables import automation_versions
from tasks.schedule import Schedule
from tests.house import ANN, RUNNERS, SITE, WELCOME, Clock, a_house, an_event

LETTERS = frozenset({"welcome", "yoga-offer"})
OFF = WELCOME.replace('name = "welcome"', 'name = "welcome"\nenabled = false')
LATER = WELCOME + 'after = "2d"\n'


class Watch:
    """Seconds, as somebody moves them."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def watch() -> Watch:
    return Watch()


def a_book(
    database: Database, text: str, at: datetime | None, watch: Watch | None = None, *, locked: bool = False
) -> Book:
    return Book(database, File(text, at, locked=locked), LETTERS, watch or Watch())


def versions(database: Database) -> list[tuple[int, str, str]]:
    with database.read() as tx:
        rows = tx.execute(sa.select(automation_versions).order_by(automation_versions.c.number))
        return [(row.number, row.source, row.text) for row in rows]


def test_the_file_of_the_first_start_is_the_first_version(database: Database, clock: Clock):
    for _ in range(3):
        book = a_book(database, WELCOME, clock())
        assert [one.name for one in book.current().automations] == ["welcome"]
        clock.move(minutes=1)
    assert versions(database) == [(1, "file", WELCOME)]
    assert (book.number(), book.trouble()) == (1, "")


def test_processes_that_start_at_once_write_one_version(database: Database, clock: Clock):
    books = [a_book(database, WELCOME, clock()) for _ in range(8)]
    threads = [threading.Thread(target=book.current) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions(database) == [(1, "file", WELCOME)]


def test_what_is_saved_counts_here_at_once_and_elsewhere_when_they_look_again(
    database: Database, clock: Clock, watch: Watch
):
    here, there = (a_book(database, WELCOME, clock(), watch) for _ in range(2))
    assert here.current().automations[0].enabled
    assert there.current().automations[0].enabled
    row = here.add(OFF, base=1, who="user ada", note="a rest")
    assert (row.number, row.source, row.who, row.note) == (2, "edit", "user ada", "a rest")
    assert not here.current().automations[0].enabled
    assert there.current().automations[0].enabled
    watch.s += 1.1
    assert not there.current().automations[0].enabled
    [line] = Audit(database).page()
    assert (line.who, line.action, line.before, line.after) == (
        "user ada",
        "automation.edit",
        {"version": 1},
        {"version": 2, "source": "edit"},
    )


def test_a_version_is_read_once_and_looked_up_once_a_second(database: Database, clock: Clock, watch: Watch):
    book = a_book(database, WELCOME, clock(), watch)
    first = book.current()
    asked: list[str] = []
    sa.event.listen(database._reading, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert all(book.current() is first for _ in range(50))
    assert asked == []
    watch.s += 1.1
    assert all(book.current() is first for _ in range(50))
    assert sum("automation_versions" in statement for statement in asked) == 1


def test_an_edit_outlives_a_restart_and_a_new_file_takes_its_place(database: Database, clock: Clock):
    a_book(database, WELCOME, clock()).current()
    a_book(database, WELCOME, clock()).add(OFF, base=1, who="user ada")
    clock.move(minutes=1)
    assert a_book(database, WELCOME, clock()).current().automations[0].enabled is False
    clock.move(minutes=1)
    deployed = a_book(database, LATER, clock())
    assert deployed.current().automations[0].after_s == 2 * 86400
    assert [source for _, source, _ in versions(database)] == ["file", "edit", "file"]


def test_a_process_of_an_earlier_deployment_does_not_bring_its_file_back(database: Database, clock: Clock):
    """A child of a worker's pool starts days after its parent has read the file, and web was deployed meanwhile."""
    read_at = clock()
    a_book(database, WELCOME, read_at).current()
    clock.move(days=1)
    a_book(database, LATER, clock()).current()
    clock.move(days=1)
    assert a_book(database, WELCOME, read_at).current().automations[0].after_s == 2 * 86400
    assert len(versions(database)) == 2
    reverted = a_book(database, WELCOME, clock())
    assert reverted.current().automations[0].after_s == 0
    assert len(versions(database)) == 3


def test_a_machine_with_an_older_file_does_not_undo_what_was_edited(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    def start(text: str) -> Book:
        clock.move(minutes=1)
        book = a_book(database, text, clock())
        book.current()
        return book

    start(WELCOME)
    start(LATER).add(OFF, base=2, who="user ada")
    caplog.clear()
    assert not start(WELCOME).current().automations[0].enabled
    assert not start(LATER).current().automations[0].enabled
    assert [number for number, *_ in versions(database)] == [1, 2, 3]
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.message == "automations.file_not_taken_in"
    told = (warning.version, warning.edited, warning.newest)  # type: ignore[attr-defined]
    assert told == (1, 3, 3)


def test_a_file_of_before_comes_back_unless_it_was_edited_since(database: Database, clock: Clock):
    third = f"# third\n{WELCOME}"
    for text in (WELCOME, None, LATER, third, LATER, WELCOME):  # None: an edit
        clock.move(minutes=1)
        if text is None:
            a_book(database, WELCOME, clock()).add(OFF, base=1, who="user ada")
        a_book(database, text or WELCOME, clock()).current()
    assert [text for _, _, text in versions(database)] == [WELCOME, OFF, LATER, third, LATER]


def test_a_new_file_that_takes_the_place_of_an_edit_is_logged(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
):
    a_book(database, WELCOME, clock()).current()
    a_book(database, WELCOME, clock()).add(OFF, base=1, who="user ada")
    clock.move(minutes=1)
    a_book(database, OFF, clock()).current()  # exported, and deployed
    assert "automations.file_replaces_edit" not in caplog.text
    a_book(database, OFF, clock()).add(WELCOME, base=3, who="user ada")
    clock.move(minutes=1)
    a_book(database, LATER, clock()).current()
    assert "automations.file_replaces_edit" in caplog.text
    assert [source for _, source, _ in versions(database)] == ["file", "edit", "file", "edit", "file"]


def test_a_command_takes_no_file_in(database: Database, clock: Clock):
    looker = a_book(database, LATER, None)
    assert looker.current().automations[0].after_s == 2 * 86400
    assert (looker.number(), versions(database)) == (0, [])
    with pytest.raises(NotThereError, match="when it starts"):
        looker.newest()
    a_book(database, WELCOME, clock()).current()
    assert a_book(database, LATER, None).current().automations[0].after_s == 0


def test_of_two_who_save_upon_one_version_the_second_is_told(database: Database, clock: Clock):
    one, other = (a_book(database, WELCOME, clock()) for _ in range(2))
    one.current()
    one.add(OFF, base=1, who="a")
    with pytest.raises(WrongStateError, match="newest version of the automations is 2, not 1"):
        other.add(LATER, base=1, who="b")
    assert one.add(OFF, base=1, who="a").number == 2  # pressed twice
    assert [text for _, _, text in versions(database)] == [WELCOME, OFF]


def test_many_who_save_at_once_are_saved_once(database: Database, clock: Clock):
    book = a_book(database, WELCOME, clock())
    book.current()
    saved: list[int] = []

    def save(number: int) -> None:
        try:
            saved.append(book.add(f"{WELCOME}# {number}\n", base=1, who="somebody").number)
        except WrongStateError:
            saved.append(0)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(saved) == [0, 0, 0, 0, 0, 2]


def test_a_text_with_mistakes_is_never_a_version(database: Database, clock: Clock):
    book = a_book(database, WELCOME, clock())
    book.current()
    with pytest.raises(ConfigError, match="there is no such letter"):
        book.add(WELCOME.replace('email = "welcome"', 'email = "spring"'), base=1, who="a")
    assert len(versions(database)) == 1


def test_locked_the_file_alone_counts_and_stays_in_effect_when_it_is_unlocked(
    database: Database, clock: Clock
):
    a_book(database, WELCOME, clock()).current()
    a_book(database, WELCOME, clock()).add(OFF, base=1, who="user ada")
    clock.move(minutes=1)
    locked = a_book(database, WELCOME, clock(), locked=True)
    assert locked.current().automations[0].enabled
    assert locked.number() == 3
    with pytest.raises(WrongStateError, match="AUTOMATIONS_LOCKED"):
        locked.add(OFF, base=3, who="user ada")
    clock.move(minutes=1)
    assert a_book(database, WELCOME, clock()).current().automations[0].enabled
    assert [source for _, source, _ in versions(database)] == ["file", "edit", "file"]


def test_while_the_database_is_away_what_it_said_last_goes_on(
    database: Database, clock: Clock, watch: Watch, monkeypatch: pytest.MonkeyPatch
):
    book = a_book(database, WELCOME, clock(), watch)
    book.current()
    book.add(OFF, base=1, who="user ada")
    assert not book.current().automations[0].enabled

    def away() -> Iterator[None]:
        raise JournalUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(database, "read", away)
        patch.setattr(database, "begin", away)
        watch.s += 5
        assert not book.current().automations[0].enabled
        fresh = a_book(database, LATER, clock(), watch)
        assert fresh.current().automations[0].after_s == 2 * 86400  # its file, until somebody can say more
    watch.s += 5
    clock.move(minutes=1)
    assert not book.current().automations[0].enabled
    assert fresh.current().automations[0].after_s == 2 * 86400
    assert [source for _, source, _ in versions(database)] == ["file", "edit", "file"]


def test_the_first_answer_after_the_database_is_back_is_the_right_one(
    database: Database, clock: Clock, watch: Watch, monkeypatch: pytest.MonkeyPatch
):
    a_book(database, WELCOME, clock()).current()
    a_book(database, WELCOME, clock()).add(OFF, base=1, who="user ada")

    def away() -> Iterator[None]:
        raise JournalUnavailableError("away")

    for read_at in (clock(), None):
        book = a_book(database, WELCOME, read_at, watch)
        with monkeypatch.context() as patch:
            patch.setattr(database, "read", away)
            assert book.current().automations[0].enabled
        assert not book.current().automations[0].enabled


def test_a_version_that_cannot_be_used_any_more_stops_nothing_and_is_named(
    database: Database, clock: Clock, watch: Watch
):
    newer = Book(database, File(WELCOME, clock()), LETTERS | {"spring"}, watch)
    newer.current()
    newer.add(OFF, base=1, who="user ada")
    newer.add(WELCOME.replace('email = "welcome"', 'email = "spring"'), base=2, who="user ada")
    book = a_book(database, WELCOME, clock(), watch)
    assert not book.current().automations[0].enabled
    assert book.number() == 2
    assert book.trouble().startswith("version 3 cannot be used: automations:")
    assert "there is no such letter" in book.trouble()
    book.add(WELCOME, base=3, who="user ada")
    assert (book.number(), book.trouble()) == (4, "")


OFFER = """
[[automation]]
name = "offer"
on = ["join_requested"]
email = "yoga-offer"
purpose = "promotional"

[[automation.then]]
name = "later"
email = "welcome"
after = "7d"
"""
GONE = """
[[automation]]
name = "spring"
on = ["join_requested"]
email = "spring"
purpose = "promotional"
"""
REST = """
[[report]]
name = "weekly"
every = "week"
to = ["board@example.com"]

[[follow]]
rules_of = "Trail Runners"
"""
BEFORE = f'[policy.site.another]\ntime_zone = "Europe/Rome"\n{WELCOME}{OFFER}{REST}'


def what_goes_on(database: Database, clock: Clock, before: str, after: str) -> Automations:
    """In a process that lacks the letter "spring", which `after` names."""
    a_book(database, before, clock()).current()
    with database.begin() as tx:
        saved = {"number": 2, "text": after, "hash": "x", "source": "edit", "who": "user ada", "note": ""}
        tx.execute(sa.insert(automation_versions).values(**saved, created_at=tx.now))
    book = a_book(database, before, clock())
    assert book.number() == 1
    assert "cannot be used" in book.trouble()
    return book.current()


def are_on(automations: Automations) -> set[str]:
    return {
        one.name
        for one in (*automations.automations, *automations.reports, *automations.follows)
        if one.enabled
    }


@pytest.mark.parametrize(
    ("change", "off"),
    [
        (("", ""), set()),
        (('"offer"', '"offer"\nenabled = false'), {"offer", "offer.later"}),
        ((OFFER, ""), {"offer", "offer.later"}),
        (('name = "later"', 'name = "much-later"'), {"offer.later"}),
        (('"weekly"', '"weekly"\nenabled = false'), {"weekly"}),
        (('rules_of = "Trail', 'enabled = false\nrules_of = "Trail'), {"Trail Runners"}),
    ],
)
def test_what_the_newest_version_switches_off_is_off_where_it_cannot_be_used(
    database: Database, clock: Clock, change: tuple[str, str], off: set[str]
):
    goes_on = what_goes_on(database, clock, BEFORE, BEFORE.replace(*change, 1) + GONE)
    assert are_on(goes_on) == {"welcome", "offer", "offer.later", "weekly", "Trail Runners"} - off
    assert goes_on.policy.send
    assert len(goes_on.automations) == 3


@pytest.mark.parametrize(
    ("policy", "sends"),
    [
        ("[policy]\nsend = false\n", {"another": False, "third": False, "fourth": False}),
        ("[policy.site.third]\nsend = false\n", {"another": True, "third": False, "fourth": True}),
        (
            "[policy]\nsend = false\n[policy.site.third]\nsend = true\n",
            {"another": False, "third": True, "fourth": False},
        ),
    ],
)
def test_letters_that_the_newest_version_stops_do_not_go_where_it_cannot_be_used(
    database: Database, clock: Clock, policy: str, sends: dict[str, bool]
):
    goes_on = what_goes_on(database, clock, BEFORE, policy + BEFORE + GONE)
    assert {site: goes_on.policy_of(SiteId(site)).send for site in sends} == sends
    assert goes_on.policy_of(SiteId("another")).time_zone == "Europe/Rome"


def test_nobody_is_let_in_because_the_rule_before_is_not_known(database: Database, clock: Clock):
    deny = '[[automation]]\nname = "deny"\non = ["join_requested"]\ndecide = "reject"\nanswers = {any = ["spam"]}\n'
    admit = '[[automation]]\nname = "admit"\non = ["join_requested"]\ndecide = "approve"\n'
    renamed = deny.replace('"deny"', '"turn-down"\nemail = "spring"\npurpose = "promotional"')
    goes_on = what_goes_on(database, clock, deny + admit, renamed + admit)
    assert are_on(goes_on) == set()


def test_decisions_go_on_where_the_newest_version_has_the_same_rules_first(database: Database, clock: Clock):
    flag = '[[automation]]\nname = "look"\non = ["join_requested"]\ndecide = "flag"\n'
    admit = '[[automation]]\nname = "admit"\non = ["join_requested"]\ndecide = "approve"\n'
    off = flag.replace('"look"', '"look"\nenabled = false')
    assert are_on(what_goes_on(database, clock, flag + admit, off + admit + GONE)) == {"admit"}


def test_a_version_that_cannot_be_read_at_all_switches_nothing_off(database: Database, clock: Clock):
    book = a_book(database, WELCOME, clock())
    book.current()
    with database.begin() as tx:
        garbled = {"number": 2, "text": "[[automation", "hash": "x", "source": "edit", "who": "somebody"}
        tx.execute(sa.insert(automation_versions).values(**garbled, note="", created_at=tx.now))
    fresh = a_book(database, WELCOME, clock())
    assert are_on(fresh.current()) == {"welcome"}
    assert fresh.trouble().startswith("version 2 cannot be used")


@pytest.mark.parametrize(
    "text",
    [
        "automation = 3\npolicy = []\nreport = [1]",
        '[[automation]]\nname = ["welcome"]\ndecide = 1\nthen = {}',
        '[policy]\nsite = "x"\n[[automation]]\nname = "welcome"\nenabled = "yes"',
    ],
)
def test_what_stands_in_the_newest_version_in_another_way_is_off(database: Database, clock: Clock, text: str):
    assert are_on(what_goes_on(database, clock, BEFORE, text)) == set()


# At work.


def test_an_automation_that_is_switched_off_listens_to_nothing(database: Database, clock: Clock):
    house = a_house(database, clock, OFF)
    house.hear(an_event(clock))
    house.work()
    assert house.rows() == []
    [event] = house.services.journal.page()
    assert event.error == "no automation listens to member_added"


def test_what_waits_of_it_does_not_go_and_a_replay_plans_it_anew(database: Database, clock: Clock):
    house = a_house(database, clock, LATER)
    house.hear(an_event(clock))
    house.work()
    assert house.rows() == [("welcome", "planned", None)]
    switched_off = LATER.replace('name = "welcome"', 'name = "welcome"\nenabled = false')
    house.services.book.add(switched_off, base=1, who="a test")
    clock.move(days=2, seconds=1)
    house.work()
    assert house.rows() == [("welcome", "skipped", '"welcome" is switched off')]
    house.services.book.add(LATER, base=2, who="a test")
    [event] = house.services.journal.page()
    house.services.journal.replay(event.id, SITE, who="a test")
    house.work()
    assert [(name, state) for name, state, _ in house.rows()] == [("welcome", "sent")]
    assert house.mail.readers == ["ann@example.com"]


def test_a_report_that_is_switched_off_is_not_made(database: Database, clock: Clock):
    report = '[[report]]\nname = "r"\nevery = "day"\nto = ["a@example.com"]\n'
    house = a_house(database, clock, report + "enabled = false\n")
    with database.begin() as tx:
        note_site(tx, SITE, tx.now, "active")
    clock.move(days=1)
    assert Schedule(house.services).look() == 0
    house.services.book.add(report, base=1, who="a test")
    assert Schedule(house.services).look() == 1


def test_one_piece_of_work_goes_by_one_version(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME)
    at_work = house.services.for_one_piece()
    house.services.book.add(OFF, base=1, who="a test")
    assert at_work.automations.automations[0].enabled
    assert at_work.for_one_piece() is at_work
    assert not house.services.automations.automations[0].enabled


def test_an_event_is_seen_through_with_what_counted_when_it_was_begun(database: Database, clock: Clock):
    """A step keeps its distance to the first letter, which is late because the event is: by both as they were."""
    flow = WELCOME + '[[automation.then]]\nname = "later"\nemail = "yoga-offer"\nafter = "7d"\n'
    house = a_house(database, clock, flow)
    asked = house.wix.get_membership

    def edit_meanwhile(*given: object) -> object:
        if house.services.book.newest().number == 1:
            house.services.book.add("", base=1, who="a test")
        return asked(*given)  # type: ignore[arg-type]

    house.wix.get_membership = edit_meanwhile  # type: ignore[method-assign, assignment]
    house.hear(an_event(clock, days=1))
    house.work()
    later = next(row for row in house.services.ledger.letters() if row.automation == "welcome.later")
    assert later.due_at == clock() + timedelta(days=7)
    assert house.services.automations.automations == ()


# What became of the letters.


def test_letters_are_counted_for_each_step_and_state(database: Database, clock: Clock):
    flow = WELCOME + '[[automation.then]]\nname = "later"\nemail = "yoga-offer"\nafter = "7d"\n'
    house = a_house(database, clock, flow)
    house.hear(an_event(clock))
    house.work()
    flows = Flows(database)
    assert flows.counts(SITE) == {"welcome": {"sent": 1}, "welcome.later": {"waiting": 1}}
    [row] = flows.waiting(SITE, ["welcome", "welcome.later"])
    assert (row.member, row.group_id, row.automation) == (ANN, RUNNERS, "welcome.later")
    assert flows.waiting(SITE, ["welcome"], after=None) == []
    assert flows.waiting(SITE, ["welcome.later"], after=(row.next_at, row.id)) == []
    clock.move(days=31)
    assert Flows(database).counts(SITE) == {"welcome.later": {"waiting": 1}}


def test_letters_are_not_counted_again_for_each_look(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME)
    flows = Flows(database, lambda: clock().timestamp())
    others = Reach(frozenset({SITE}), frozenset({"another-group"}))
    assert flows.counts(SITE) == flows.counts(SITE, others) == {}
    house.hear(an_event(clock))
    house.work()
    assert flows.counts(SITE) == {}
    clock.move(seconds=REMEMBERED_S)
    assert (flows.counts(SITE), flows.counts(SITE, others)) == ({"welcome": {"sent": 1}}, {})


def test_only_letters_within_reach_are_counted_and_named(database: Database, clock: Clock):
    house = a_house(database, clock, LATER)
    house.hear(an_event(clock))
    house.work()
    mine = Reach(frozenset({SITE}), frozenset({"another-group"}))
    assert Flows(database).counts(SITE, mine) == {}
    assert Flows(database).waiting(SITE, ["welcome"], reach=mine) == []
