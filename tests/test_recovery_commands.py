"""`usher events` and `usher messages`, over real databases: what they show, ask, change and refuse."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from admin.cli import main
from admin.processes import ROOT
from core.community import MemberId, Membership, SiteId
from core.errors import MailInDoubtError
from integrations.store.database import Database
from tests.house import ANN, RUNNERS, SENDER, SITE, Clock, House, a_house, an_event
from tests.test_admin_api import a_counter, a_letter_in_doubt, a_letter_of_a_dead_worker, message_ids

OTHER_SITE = SiteId("another-site")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Usher = Callable[..., Said]


@pytest.fixture
def clock() -> Clock:
    """Commands go by the database's own clock, so this one starts near it."""
    found = Clock()
    found.now = datetime.now(UTC) - timedelta(hours=1)
    return found


@pytest.fixture
def usher(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Usher:
    """Run a command with the database's URL for its only setting, and no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    def usher(*arguments: str | Path, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "argv", ["usher", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return usher


@pytest.fixture
def house(database: Database, clock: Clock) -> Iterator[House]:
    return a_house(database, clock)


NO_TERMINAL = """Nothing was changed
  - standard input is no terminal, so nobody can be asked: add --yes
"""


def letters_in_doubt(house: House, count: int) -> list[str]:
    """So many letters that a mail server neither took nor refused; their ids."""
    people = [MemberId(f"m{number}") for number in range(count)]
    for person in people:
        house.wix.members[person] = replace(house.wix.members[ANN], id=person, email=f"{person}@example.com")
        house.wix.memberships[RUNNERS, person] = Membership("joined")
        house.wix.subscriptions[f"{person}@example.com"] = house.wix.subscriptions["ann@example.com"]
    house.mail.dies_after_dot = [MailInDoubtError("closed after the final dot")] * count
    house.hear(*(an_event(house.clock, id=f"e-{person}", member=person) for person in people))
    house.work()
    found = house.services.ledger.letters()
    assert [row.state for row in found] == ["in_doubt"] * count
    return [str(row.id) for row in found]


def states(house: House) -> dict[str, str]:
    return {row.id: row.state for row in house.services.ledger.letters()}


# Looking.


def test_json_is_what_the_api_shows(usher: Usher, house: House):
    house.hear(an_event(house.clock), an_event(house.clock, id="broken", payload="{}"))
    house.work()
    counter = a_counter(house.database)

    for what in ("events", "messages"):
        said = usher(what, "list", "--json")
        assert (said.code, said.err) == (0, "")
        assert json.loads(said.out) == counter.get(f"/api/v1/{what}").json()["items"]
    assert [
        event["id"] for event in json.loads(usher("events", "list", "--state", "dead", "--json").out)
    ] == ["broken"]
    assert json.loads(usher("messages", "list", "--member", "m-bob", "--json").out) == []


def test_people_get_a_table_whose_ids_can_be_copied(usher: Usher, house: House):
    long_id = "an-id-of-two-hundred-characters-" + "x" * 168
    house.hear(an_event(house.clock, id=long_id, payload="{}"))
    house.work()

    said = usher("events", "list")

    headings, _, row = (line for line in said.out.splitlines() if line.strip())
    assert headings.split() == ["Event", "Site", "Type", "State", "Received", "Attempts", "Error"]
    assert row.split()[:4] == [long_id, SITE, "member_added", "dead"]
    assert row.rstrip().endswith("the event names no group")


def test_a_letter_in_doubt_is_shown_with_what_the_mail_servers_log_knows_it_by(usher: Usher, house: House):
    letter = a_letter_in_doubt(house)
    [message_id] = message_ids(house)

    said = usher("messages", "list", "--state", "in_doubt")

    assert letter in said.out
    assert message_id.decode() in said.out
    assert "closed after the final dot" in said.out
    assert "Job" not in said.out, "empty columns are left out"


def test_a_list_says_when_there_is_more_and_when_there_is_nothing(usher: Usher, house: House):
    assert usher("events", "list").out == "None.\n"
    house.hear(*(an_event(house.clock, id=f"e{number}") for number in range(3)))

    assert "There are more: this is --limit 2." in usher("events", "list", "--limit", "2").out
    assert "more" not in usher("events", "list", "--limit", "3").out
    assert len(json.loads(usher("events", "list", "--limit", "2", "--json").out)) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["events", "list", "--state", "sent"],
            "--state: 'sent' is not one of received, done, ignored, dead",
        ),
        (["messages", "list", "--state", "dead"], "--state: 'dead' is not one of planned, "),
        (["events", "list", "--site", "é\udcff"], "--site: "),
        (["events", "replay"], "name events by id"),
        (["events", "replay", "e1", "--dead"], "name events by id"),
        (["events", "replay", "e1", "--type", "member_added"], "name events by id"),
        (["messages", "release"], "name letters by id"),
        (["messages", "give-up", "x", "--older-than", "7d"], "name letters by id"),
        (["messages", "give-up", "--older-than", "7"], "--older-than: '7': must be a length of time"),
        (["messages", "release", "--older-than", "-1d"], "--older-than: '-1d': cannot be negative"),
        (["messages", "found", "/nowhere/ids"], "/nowhere/ids cannot be read (No such file or directory)"),
    ],
)
def test_bad_input_is_named_and_ends_with_2(usher: Usher, arguments: list[str], named: str):
    said = usher(*arguments, *(["--yes"] if arguments[1] != "list" else []))

    assert (said.code, said.out) == (2, "")
    assert named in said.err
    assert "Traceback" not in said.err


# Replaying.


def test_dead_events_are_replayed_by_type_once_their_cause_is_mended(usher: Usher, house: House):
    house.hear(
        an_event(house.clock, id="a", payload="{}"),
        an_event(house.clock, id="b", payload="{}", type="join_approved"),
        an_event(house.clock, id="c", type="unheard_of"),
    )
    house.work()
    house.clock.now = datetime.now(UTC) + timedelta(minutes=1)

    said = usher("events", "replay", "--dead", "--type", "member_added", "--yes")

    assert (said.code, said.err, said.out.splitlines()[-1]) == (0, "", "a: received")
    assert house.services.journal.counts() == {"received": 1, "dead": 1, "ignored": 1}
    assert usher("events", "replay", "--dead", "--site", "third", "--yes") == Said(0, "Nothing to do.\n", "")
    usher("events", "replay", "--dead", "--yes")
    assert house.services.journal.counts() == {"received": 2, "ignored": 1}
    house.work()
    assert house.services.journal.counts() == {"dead": 2, "ignored": 1}


def test_a_done_event_that_is_replayed_writes_to_nobody_twice(usher: Usher, house: House):
    house.hear(an_event(house.clock))
    house.work()
    house.clock.now = datetime.now(UTC) + timedelta(minutes=1)

    assert usher("events", "replay", "e1", "--yes").code == 0
    assert house.services.journal.counts() == {"received": 1}
    house.work()

    assert house.services.journal.counts() == {"done": 1}
    assert house.mail.readers == ["ann@example.com"]


def test_what_can_be_replayed_is_and_the_rest_is_named(usher: Usher, house: House):
    house.hear(
        *(an_event(house.clock, id=id_, type="unheard_of") for id_ in ("here", "twin")),
        replace(an_event(house.clock, id="twin", type="unheard_of"), site=OTHER_SITE),
        an_event(house.clock, id="waits"),
    )

    said = usher("events", "replay", "here", "waits", "gone", "twin", "é", "here", "--yes")

    assert said.code == 1
    assert said.out.splitlines()[-1] == "here: received"
    assert said.err.splitlines() == [
        "usher: waits: is received, so it is worked off anyway",
        "usher: gone: there is nothing of this id",
        "usher: twin: 2 sites have one of this id: name the site with --site",
        "usher: é: there is nothing of this id",
    ]
    assert usher("events", "replay", "twin", "--site", OTHER_SITE, "--yes").code == 0
    assert house.services.journal.counts() == {"received": 3, "ignored": 1}


# Letters in doubt.


def test_a_released_letter_goes_out_again_under_the_same_message_id(usher: Usher, house: House):
    letter = a_letter_in_doubt(house)

    said = usher("messages", "release", letter, "--yes")
    house.clock.now = datetime.now(UTC) + timedelta(minutes=1)
    house.work()

    assert (said.code, said.out.splitlines()[-1]) == (0, f"{letter}: planned")
    assert "at once" in said.out
    first, second = message_ids(house)
    assert first == second
    assert states(house) == {letter: "sent"}


def test_the_wait_for_a_process_that_may_be_frozen_is_shown_before_and_after(usher: Usher, house: House):
    house.clock.now = datetime.now(UTC) - timedelta(minutes=2)
    letter = a_letter_of_a_dead_worker(house)
    [row] = house.services.ledger.letters()
    until = f"{row.next_at + timedelta(minutes=15):%Y-%m-%d %H:%M:%S} UTC"

    before = usher("messages", "release", letter)
    after = usher("messages", "release", letter, "--yes")
    listed = usher("messages", "list")

    assert before.code == 2
    assert f"from {until} on: its process may only be frozen" in before.out
    assert f"{letter}: planned (released; waits until {until}, as its process" in after.out
    assert until in listed.out
    house.clock.now = row.next_at + timedelta(minutes=14)
    house.work()
    assert len(house.mail.letters) == 1


@pytest.mark.parametrize(("action", "state"), [("release", "planned"), ("give-up", "failed")])
def test_a_policy_decides_about_what_is_in_doubt_for_longer(
    usher: Usher, house: House, action: str, state: str
):
    now = house.clock.now
    house.clock.now = now - timedelta(days=8)
    old = a_letter_in_doubt(house)
    house.clock.now = now - timedelta(days=6)
    house.mail.dies_after_dot = [KeyboardInterrupt()]
    house.wix.memberships[RUNNERS, MemberId("m-bob")] = Membership("joined")
    house.wix.members[MemberId("m-bob")] = replace(house.wix.members[ANN], id="m-bob")
    house.hear(an_event(house.clock, id="e2", member="m-bob"))
    with pytest.raises(KeyboardInterrupt):
        house.work()
    house.clock.now = now
    house.work()
    [young] = set(states(house)) - {old}
    assert set(states(house).values()) == {"in_doubt"}

    said = usher("messages", action, "--older-than", "7d", "--yes")

    assert (said.code, said.err) == (0, "")
    assert states(house) == {old: state, young: "in_doubt"}
    assert usher("messages", action, "--older-than", "7d", "--yes").out == "Nothing to do.\n"
    assert usher("messages", action, "--older-than", "5d", "--yes").code == 0
    assert states(house)[young] == state


def test_a_letter_given_up_ends_as_failed_with_a_reason(usher: Usher, house: House):
    letter = a_letter_in_doubt(house)

    said = usher("messages", "give-up", letter, "gone", "--yes")
    again = usher("messages", "give-up", letter, "--yes")

    assert said.code == 1
    assert said.out.splitlines()[-1].startswith(f"{letter}: failed (given up: ")
    assert said.err == "usher: gone: there is nothing of this id\n"
    assert again == Said(1, "", f"usher: {letter}: is failed, not in doubt\n")
    assert [reason for _, _, reason in house.rows()] == [
        "given up: nobody knows whether the mail server has it"
    ]


def test_what_the_mail_server_accepted_becomes_sent_and_nothing_else_does(usher: Usher, house: House):
    letters = letters_in_doubt(house, 3)
    house.clock.move(seconds=1)
    house.wix.memberships[RUNNERS, ANN] = Membership("joined")
    house.hear(an_event(house.clock))
    house.work()
    rows = {row.id: row for row in house.services.ledger.letters()}
    [sent] = set(rows) - set(letters)
    known = {row.id: row.message_id for row in rows.values()}
    usher("messages", "give-up", letters[2], "--yes")
    file = Path("accepted.txt")
    lines = [known[letters[0]], known[letters[2]].strip("<>"), known[sent], "<stranger@example.com>", "  "]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())

    said = usher("messages", "found", file, "--yes")

    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-2:] == [
        "4 Message-IDs read; 1 letter is in doubt among them.",
        "1 noted as sent.",
    ]
    assert states(house) == {letters[0]: "sent", letters[1]: "in_doubt", letters[2]: "failed", sent: "sent"}
    found = {row.id: row for row in house.services.ledger.letters()}
    assert found[letters[0]].reply == "found among what the mail server accepted"
    assert found[sent].reply == "250 taken"
    house.clock.now = datetime.now(UTC) + timedelta(days=1)
    house.work()
    assert len(house.mail.letters) == 4


def test_what_was_decided_meanwhile_is_not_found_any_more(house: House):
    letter = a_letter_in_doubt(house)
    [message_id] = message_ids(house)
    house.services.ledger.give_up(letter, who="a test")

    assert house.services.ledger.found_accepted([message_id.decode()], who="a test") == 0
    assert states(house) == {letter: "failed"}


def test_found_reads_standard_input_and_is_thorough_with_many(usher: Usher, house: House):
    a_letter_in_doubt(house)
    [message_id] = message_ids(house)
    strangers = b"".join(b"<%d@example.com>\n" % number for number in range(40_000))

    unconfirmed = usher("messages", "found", "-", stdin=strangers + message_id)
    nothing = usher("messages", "found", "-", "--yes", stdin=strangers)
    said = usher("messages", "found", "-", "--yes", stdin=strangers + message_id)

    assert (unconfirmed.code, unconfirmed.err) == (2, NO_TERMINAL)
    assert nothing.out.splitlines()[-1] == "0 noted as sent."
    assert said.out.splitlines()[-2:] == [
        "40001 Message-IDs read; 1 letter is in doubt among them.",
        "1 noted as sent.",
    ]


def test_a_line_that_is_no_message_id_stops_everything_and_is_named(usher: Usher, house: House):
    letter = a_letter_in_doubt(house)
    [message_id] = message_ids(house)
    text = (
        message_id
        + b"\n\nMay  3 12:00:01 mail postfix/cleanup: message-id="
        + message_id
        + b"\n<a b>\n\xff\n"
    )

    said = usher("messages", "found", "-", "--yes", stdin=text)

    assert (said.code, said.out, states(house)) == (2, "", {letter: "in_doubt"})
    assert [line.partition(": ")[0] for line in said.err.splitlines()] == [
        "Nothing was changed",
        "  - -:3",
    ]


# Asking, and who cannot be asked.


@pytest.mark.parametrize(
    "command",
    [
        ["events", "replay", "e1"],
        ["events", "replay", "--dead"],
        ["messages", "release", "LETTER"],
        ["messages", "give-up", "LETTER"],
        ["messages", "give-up", "--older-than", "0s"],
        ["messages", "found", "-"],
    ],
    ids=" ".join,
)
def test_without_a_terminal_and_without_yes_nothing_changes_and_2_says_so(
    usher: Usher, house: House, command: list[str]
):
    letter = a_letter_in_doubt(house)
    house.hear(an_event(house.clock, id="broken", payload="{}"))
    house.work()
    before = house.services.ledger.letters(), house.services.journal.counts()

    said = usher(*(argument.replace("LETTER", letter) for argument in command), stdin=message_ids(house)[0])

    assert (said.code, said.err) == (2, NO_TERMINAL)
    assert SITE in said.out, "it is shown what would have been done"
    assert (house.services.ledger.letters(), house.services.journal.counts()) == before


@pytest.mark.parametrize(("answer", "code", "state"), [(b"y\n", 0, "planned"), (b"\n", 1, "in_doubt")])
def test_on_a_terminal_it_asks_and_no_is_the_default(
    house: House, database_url: str, tmp_path: Path, answer: bytes, code: int, state: str
):
    letter = a_letter_in_doubt(house)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-m", "admin", "messages", "release", letter],
        cwd=tmp_path,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        os.write(ours, answer)
        out = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody is on its other side any more
            while read := os.read(ours, 4096):
                out += read
        os.close(ours)

    lines = out.decode().splitlines()
    assert (process.returncode, states(house)) == (code, {letter: state})
    assert any("Send again what is listed above?" in line for line in lines)
    assert ["Letter", letter] in [line.split() for line in lines], "too wide for a table, so field by field"
    assert any(line.endswith("Nothing was changed.") for line in lines) == bool(code)


def test_who_decides_while_somebody_else_does_is_told(
    usher: Usher, house: House, monkeypatch: pytest.MonkeyPatch
):
    letters = letters_in_doubt(house, 2)
    real_release = type(house.services.ledger).release

    def release_a_moment_later(ledger: object, id: str, who: str) -> object:  # noqa: A002 (the row's own word)
        if id == letters[0]:
            house.services.ledger.give_up(id, who="a test")
        return real_release(ledger, id, who=who)  # type: ignore[arg-type]

    monkeypatch.setattr(type(house.services.ledger), "release", release_a_moment_later)
    said = usher("messages", "release", *letters, "--yes")

    assert said.code == 1
    assert said.err == f"usher: {letters[0]}: the letter is failed, not in doubt\n"
    assert said.out.splitlines()[-1] == f"{letters[1]}: planned"


# What it needs.


def test_only_the_database_is_needed(database_url: str, tmp_path: Path):
    """No settings of Wix, no broker, no mail server, no secret."""
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "admin", "events", "list", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert list(tmp_path.glob("data*")) == []


def test_bytes_that_are_no_text_are_no_id(database_url: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "admin", "events", "replay", b"\xff", "--yes"],
        cwd=tmp_path,
        env={**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.endswith(b": there is nothing of this id\n")


def test_tables_of_another_release_are_one_clear_message(usher: Usher, database: Database):
    head = database.migrate()
    with database.begin() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    try:
        said = usher("events", "list")
    finally:
        with database.begin() as tx:
            tx.execute(sa.text("UPDATE alembic_version SET version_num = :head").bindparams(head=head))
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[1:] == [
        f"  - DATABASE_URL: the database is at revision 0001, not {head}; run `usher migrate`"
    ]


def test_no_database_at_all_and_one_that_is_away_are_clear_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    codes, errors = [], []
    for url in ("", "postgresql+psycopg://nobody:hunter2@127.0.0.1:1/usher"):
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setattr(sys, "argv", ["usher", "messages", "list"])
        with pytest.raises(SystemExit) as ended:
            main()
        codes.append(ended.value.code)
        errors.append(capsys.readouterr().err)
    assert codes == [2, 1]
    assert "the database has no tables of Usher yet; run `usher migrate`" in errors[0]
    assert errors[1].startswith("usher: ")
    assert len(errors[1].splitlines()) == 1
    assert "hunter2" not in errors[1]
    assert not (tmp_path / "data").exists()


# A sender that is paused.


def test_a_pause_is_shown_with_its_reason_and_ended_by_hand(
    usher: Usher, house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMAIL_FROM", f"Usher <{SENDER}>")
    house.services.senders.pause("outlook.com", "550 5.7.515 access denied")

    shown, asked = usher("senders", "list"), usher("senders", "resume", "outlook.com")
    done = usher("senders", "resume", "outlook.com", "--yes")

    assert "outlook.com" in shown.out
    assert "550 5.7.515" in shown.out
    assert asked.code == 2
    assert (done.code, done.out) == (0, "Letters go again.\n")
    assert house.services.senders.pauses() == {}
    assert usher("senders", "resume", "--yes").out == "Nothing was paused.\n"


def test_without_a_sender_there_are_no_pauses_to_show(
    usher: Usher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMAIL_FROM", raising=False)
    said = usher("senders", "list")
    assert (said.code, said.out) == (2, "")
    assert "EMAIL_FROM: is required" in said.err
