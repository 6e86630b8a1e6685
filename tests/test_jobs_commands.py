"""Jobs on the command line, over real databases, with a worker in a thread beside it: what is shown, asked and done."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from admin.cli import main
from admin.jobs.described import describe_job
from admin.processes import ROOT
from core.community import (
    Answer,
    Group,
    GroupId,
    Member,
    MemberId,
    Membership,
    Question,
    Rule,
    SiteId,
    Subscription,
)
from core.errors import Blame, MailInDoubtError, MailRefusedError
from integrations.store.audit import Audit
from integrations.store.database import Database
from integrations.store.heartbeats import Heartbeats
from integrations.store.sites import note_site
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house


class WallClock(Clock):
    """Commands go by the database's own clock, so the house does too."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def job(self) -> Any:
        """What standard output holds, which has to be one JSON object and nothing else."""
        return json.loads(self.out)


Usher = Callable[..., Said]


class Terminal(io.StringIO):
    """Somebody who has typed their answers already."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return WallClock()


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    """A house that knows one site and has said lately that a worker is alive."""
    found = a_house(database, clock)
    know_site(database, SITE)
    return found


def know_site(database: Database, site: SiteId, state: str | None = "active") -> None:
    with database.begin() as tx:
        note_site(tx, site, tx.now, state)


@pytest.fixture
def worker(house: House) -> Iterator[None]:
    """Turns of a worker, in a thread, as long as the test runs."""
    stop, broken = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                Heartbeats(house.database).beat("worker:tests:1")
                house.turn()
                stop.wait(0.02)
        except Exception as exc:  # noqa: BLE001 (raised again below)
            broken.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()
    if broken:
        raise broken[0]


@pytest.fixture
def usher(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Usher:
    """Run a command with the database's URL for its only setting; `types` is what somebody at a terminal types."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    def usher(*arguments: str | Path, types: str | None = None, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "argv", ["usher", *map(str, arguments)])
        given = io.TextIOWrapper(io.BytesIO(stdin)) if types is None else Terminal(types)
        monkeypatch.setattr(sys, "stdin", given)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return usher


def let_in(house: House, *names: str, group: GroupId = RUNNERS, consent: str = "SUBSCRIBED") -> None:
    """Members of a group, with what they told Wix about letters."""
    for name in names:
        member = MemberId(f"m-{name}")
        house.wix.members[member] = Member(member, "APPROVED", f"{name}@example.com", name.capitalize())
        house.wix.memberships[group, member] = Membership("joined")
        house.wix.subscriptions[f"{name}@example.com"] = Subscription(consent, "VALID")


NO_TERMINAL = """Nothing was changed
  - standard input is no terminal, so nobody can be asked: add --yes
"""
ON_ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TO_THE_RUNNERS = ("email", "group", "Trail Runners", "welcome", "--purpose", "onboarding")


# A letter to a group.


def test_a_letter_to_a_group_is_previewed_agreed_to_and_sent(usher: Usher, house: House, worker: None):
    let_in(house, "bob", "cleo")
    let_in(house, "dan", consent="UNSUBSCRIBED")

    said = usher(*TO_THE_RUNNERS, types="y\n")

    assert said.code == 0
    preview, _, end = said.out.partition("Send 3 letters? [y/N]: ")
    assert "4 members looked at: 3 would get the letter, 1 would not." in preview
    assert ["unsubscribed", "(Wix:", "UNSUBSCRIBED)", "1"] in [line.split() for line in preview.splitlines()]
    assert "  | Subject: Welcome to Trail Runners\n" in preview
    assert "It takes 3 calls to Wix." in preview
    assert "Of 4: 3 sent, 1 skipped." in end
    assert sorted(house.mail.readers) == ["ann@example.com", "bob@example.com", "cleo@example.com"]
    [job] = house.services.jobs.page()
    assert (job.state, job.who) == ("done", "command line")
    acts = [row.action for row in Audit(house.database).page(object=f"job {job.id}")]
    assert acts == ["job.confirm", "job.create"]


def test_who_says_no_has_changed_nothing_and_leaves_no_preview_behind(
    usher: Usher, house: House, worker: None
):
    said = usher(*TO_THE_RUNNERS, types="n\n")

    assert (said.code, house.mail.readers) == (1, [])
    assert said.out.endswith("Nothing was changed.\n")
    assert [job.state for job in house.services.jobs.page()] == ["cancelled"]


def test_nothing_is_begun_when_nobody_can_be_asked(usher: Usher, house: House):
    said = usher(*TO_THE_RUNNERS)

    assert (said.code, said.out, said.err) == (2, "", NO_TERMINAL)
    assert house.services.jobs.page() == []


def test_a_program_gets_one_json_object_and_people_read_beside_it(usher: Usher, house: House, worker: None):
    asked = usher(*TO_THE_RUNNERS, "--set", "group_motto=Keep going", "--json", types="y\n")
    told = usher(*TO_THE_RUNNERS, "--yes", "--json")

    for said in (asked, told):
        assert said.code == 0
        assert (said.job["kind"], said.job["site"], said.job["state"]) == ("group_email", SITE, "done")
        assert said.job["counts"] == {"total": 1, "done": 1, "skipped": 0, "failed": 0, "in_doubt": 0}
        assert "Preview of job" in said.err
    assert asked.job["params"] == {
        "group": "Trail Runners",
        "email": "welcome",
        "purpose": "onboarding",
        "context": {"group_motto": "Keep going"},
    }
    assert asked.job["id"] != told.job["id"], "asked for twice on purpose"
    assert "Send 1 letter? [y/N]" in asked.err
    assert "[y/N]" not in told.err


def test_a_no_to_a_preview_that_was_there_leaves_it_there(usher: Usher, house: House):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    said = usher("jobs", "confirm", job, types="n\n")

    assert (said.code, said.out.endswith("Nothing was changed.\n")) == (1, True)
    assert house.job(job).state == "previewed"


def test_without_waiting_a_confirmed_job_is_left_running(usher: Usher, house: House):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    said = usher("jobs", "confirm", job, "--yes", "--no-wait", "--json")

    assert (said.code, said.job["state"], house.job(job).state) == (0, "running", "running")
    assert "confirm_token" not in said.job
    again = usher("jobs", "confirm", job, "--yes")
    assert (again.code, again.err) == (1, "usher: the job is running, not previewed\n")


def test_who_joins_later_is_written_to_until_the_job_is_cancelled(usher: Usher, house: House, worker: None):
    said = usher(*TO_THE_RUNNERS, "--also-later-joiners", "--yes")

    [job] = house.services.jobs.page()
    assert "Whoever joins the group later would get it too." in said.out
    assert f"until: usher jobs cancel {job.id}\n" in said.out
    assert job.later_group == RUNNERS
    assert usher("jobs", "cancel", job.id, "--yes").code == 0
    assert house.job(job.id).later_group is None


def test_a_letter_that_failed_is_exit_code_1_and_retry_tries_only_that_one(
    usher: Usher, house: House, worker: None
):
    let_in(house, "bob", "cleo")
    house.mail.fails = [MailRefusedError("550 5.7.0 not now", blame=Blame.LETTER)]

    said = usher(*TO_THE_RUNNERS, "--yes")

    [job] = house.services.jobs.page()
    assert said.code == 1
    assert "Of 3: 2 sent, 1 failed." in said.out
    assert f"To try that again: usher jobs retry {job.id}\n" in said.out
    assert "550 5.7.0 not now" in usher("jobs", "rows", job.id, "--state", "failed").out
    before = house.mail.readers

    assert usher("jobs", "retry", job.id, types="y\n").out.splitlines()[-2:] == [
        f"Try again what failed (1)? [y/N]: {job.id}: running",
        f"To see it through: usher jobs show {job.id} --follow",
    ]
    assert usher("jobs", "show", job.id, "--follow").code == 0
    assert len(house.mail.readers) == 3
    assert set(house.mail.readers) - set(before) == {
        "ann@example.com",
        "bob@example.com",
        "cleo@example.com",
    } - set(before)


def test_a_letter_in_doubt_is_exit_code_1_for_somebody_has_to_decide(
    usher: Usher, house: House, worker: None
):
    house.mail.dies_after_dot = [MailInDoubtError("closed after the final dot")]

    said = usher(*TO_THE_RUNNERS, "--yes")

    assert (said.code, "Of 1: 0 sent, 1 in doubt." in said.out) == (1, True)
    assert "--state in_doubt\n" in said.out


def test_a_job_that_cannot_be_done_says_why_and_is_exit_code_1(usher: Usher, house: House, worker: None):
    said = usher("email", "group", "Nobody", "welcome", "--purpose", "onboarding", "--yes", "--json")

    assert (said.code, said.job["state"]) == (1, "failed")
    assert said.job["error"] == 'no group has the id or the name "Nobody"'
    assert said.job["error"] in said.err


# Who waits.


def test_without_a_worker_it_says_so_and_gives_up_while_the_job_is_kept(usher: Usher, house: House):
    said = usher(*TO_THE_RUNNERS, "--yes", "--timeout", "0s", "--json")

    [job] = house.services.jobs.page()
    assert (said.code, said.job["id"], said.job["state"]) == (1, job.id, "previewing")
    assert "No worker is alive: start one with `usher run` or `usher worker`." in said.err
    assert said.err.endswith(f"the job waits for one: usher jobs show {job.id}\n")


def at_a_terminal(
    tmp_path: Path, database_url: str, *arguments: str, answers: dict[bytes, Callable[[int, int], None]]
) -> tuple[int, str]:
    """Exit code and everything shown; each answer is given once, when its question stands there: it gets the
    terminal and the process's id."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "admin", *arguments],
        cwd=tmp_path,
        env=environment | {"COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        out = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody is on its other side any more
            while read := os.read(ours, 4096):
                out += read
                for question in [question for question in answers if question in out]:
                    answers.pop(question)(ours, process.pid)
        os.close(ours)
    return process.returncode, out.decode().replace("\r\n", "\n")


def test_somebody_at_a_terminal_sees_a_bar(house: House, worker: None, database_url: str, tmp_path: Path):
    let_in(house, "bob", "cleo")

    def say_yes(terminal: int, _pid: int) -> None:
        os.write(terminal, b"y\n")

    code, out = at_a_terminal(tmp_path, database_url, *TO_THE_RUNNERS, answers={b"[y/N]": say_yes})

    assert code == 0
    assert ["previewed" in out, "3/3" in out, "━━━" in out] == [True, True, True]
    assert "is made; usher jobs show" not in out, "that line is for logs"
    assert "Of 3: 3 sent." in out


@pytest.mark.parametrize(
    ("previewed", "told"), [(False, "The job goes on. "), (True, "Nothing happens until")]
)
def test_who_goes_away_with_ctrl_c_is_told_how_to_come_back(
    house: House, database_url: str, tmp_path: Path, previewed: bool, told: str
):
    Heartbeats(house.database).beat("worker:tests:1")
    arguments = list(TO_THE_RUNNERS)
    if previewed:
        job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
        arguments = ["jobs", "confirm", job]

    def interrupt(terminal: int, pid: int) -> None:
        os.kill(pid, signal.SIGINT)
        # A signal in the moment before the read begins is noted, and waits for the read to end.
        os.write(terminal, b"\n")

    shown = b"[y/N]" if previewed else b"previewing"
    code, out = at_a_terminal(tmp_path, database_url, *arguments, answers={shown: interrupt})

    [job] = [row.id for row in house.services.jobs.page()]
    assert code == 130
    assert told in out
    assert f"usher jobs {'confirm' if previewed else 'show'} {job}" in out
    assert house.job(job).state == ("previewed" if previewed else "previewing")


# Which site.


def test_the_only_site_need_not_be_named_and_of_several_each_is_shown(
    usher: Usher, house: House, database: Database, worker: None
):
    know_site(database, SiteId("gone"), "removed")
    assert usher(*TO_THE_RUNNERS, "--yes").code == 0
    know_site(database, SiteId("another"))

    said = usher(*TO_THE_RUNNERS, "--yes")

    assert (said.code, len(house.services.jobs.page())) == (2, 1)
    assert said.err == f"No job was made\n  - --site: there are 2 sites, so name one: {SITE}, another\n"
    assert usher(*TO_THE_RUNNERS, "--yes", "--site", SITE).code == 0


def test_a_database_that_knows_no_site_asks_for_one(usher: Usher, database: Database):
    said = usher("report", "groups")

    assert (said.code, "--site: no site is known yet" in said.err) == (2, True)


# Bad input.


@ON_ONE_DATABASE
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*TO_THE_RUNNERS[:3], "welcom", *TO_THE_RUNNERS[4:]], "EMAIL: there is no letter 'welcom', but "),
        (["email", "group", " ", *TO_THE_RUNNERS[3:]], "GROUP: String should match pattern"),
        ([*TO_THE_RUNNERS, "--set", "motto"], "--set: each has to be NAME=VALUE"),
        ([*TO_THE_RUNNERS, "--context", "nowhere.json"], "--context: nowhere.json cannot be read (No such"),
        ([*TO_THE_RUNNERS, "--context", "list.json"], "--context: list.json holds no JSON object"),
        ([*TO_THE_RUNNERS, "--context", "nan.json"], "--context: nan.json is not JSON"),
        (
            [*TO_THE_RUNNERS, "--context", "huge.json"],
            "--set, --context: holds a number that is too large, or is none",
        ),
        ([*TO_THE_RUNNERS, "--context", "nul.json"], "what was given holds the character U+0000"),
        ([*TO_THE_RUNNERS, "--timeout", "soon"], "--timeout: 'soon': must be a length of time"),
        ([*TO_THE_RUNNERS, "--site", "a b"], "--site: is not printable ASCII without spaces"),
        (["email", "interest", "yoga-offer"], "--any, --all, --none: names no word to look for"),
        (["email", "interest", "yoga-offer", "--any", "*"], "--any, --all, --none: any: "),
        (["email", "interest", "yoga-offer", "--any", "yoga", "--any", " "], "--any: entry 2: String should"),
        (["rules", "rollout"], "--from, --rules: give from_group, rules or rollback: one of them"),
        (
            ["rules", "rollout", "--rules", "list.json"],
            "--rules: entry 1: Input should be a valid dictionary",
        ),
        (["rules", "rollout", "--rules", "rules.toml"], "--rules: entry 1, title: Field required"),
        (["rules", "rollout", "--rules", "broken.toml"], "--rules: broken.toml is not TOML: "),
        (["questions", "rollout", "--questions", "object.json"], "--questions: object.json holds no list"),
        (["report", "groups", "--top", "0"], "--top: Input should be greater than or equal to 1"),
        (["report", "groups", "--out", "report.txt"], "--out: give --format too, or end it in .html, .csv"),
        (
            ["report", "groups", "--format", "html", "--json"],
            "--json: prints the job, so the report needs --out",
        ),
        (["report", "groups", "--format", "csv", "--no-wait"], "--no-wait: the report is not there yet"),
        (["jobs", "list", "--state", "gone"], "--state: 'gone' is not one of previewing, previewed, "),
        (["jobs", "list", "--kind", "letters"], "--kind: 'letters' is not one of group_email, "),
        (["jobs", "rows", "x", "--state", "gone"], "--state: 'gone' is not one of planned, "),
    ],
)
def test_bad_input_is_named_and_exit_code_2(
    usher: Usher, house: House, tmp_path: Path, arguments: list[str], named: str
):
    for name, text in {
        "list.json": "[1]",
        "nan.json": '{"a": NaN}',
        "huge.json": '{"a": [1e999]}',
        "nul.json": '{"a": "\\u0000"}',
        "object.json": '{"a": [], "b": []}',
        "rules.toml": '[[rules]]\ndescription = "No title"',
        "broken.toml": "[[",
    }.items():
        (tmp_path / name).write_text(text)

    said = usher(*arguments, *(["--yes"] if arguments[0] in ("email", "rules", "questions") else []))

    assert (said.code, said.out) == (2, "")
    assert named in said.err
    assert house.services.jobs.page() == []


@pytest.mark.parametrize(
    "verb", ["show", "rows", "confirm", "pause", "resume", "cancel", "retry", "rollback"]
)
@pytest.mark.parametrize("id_", ["0" * 32, "é\udcff"])
def test_a_job_that_is_not_there_is_said_to_be_none(usher: Usher, house: House, verb: str, id_: str):
    yes = [] if verb in ("show", "rows") else ["--yes"]

    said = usher("jobs", verb, id_, *yes)

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("usher: there is no job ")


# A letter to an interest.


def test_a_letter_goes_to_those_whose_answers_hold_the_words(usher: Usher, house: House, worker: None):
    let_in(house, "bob", "cleo", "dan")
    for name, said in {"bob": "I love yoga", "cleo": "no yoga please", "dan": "running"}.items():
        house.wix.answers[RUNNERS, MemberId(f"m-{name}")] = (Answer("Which sports?", said),)

    words = ["--any", "yoga", "--any", "pilates", "--none", "no yoga", "--question", "sports"]
    said = usher("email", "interest", "yoga-offer", *words, "--group", "Trail*", "--yes", "--json")

    assert (said.code, house.mail.readers) == (0, ["bob@example.com"])
    assert said.job["params"] == {
        "groups": ["Trail*"],
        "email": "yoga-offer",
        "answers": {"any": ["yoga", "pilates"], "none": ["no yoga"], "question": "sports"},
    }
    assert (said.job["counts"]["total"], said.job["counts"]["skipped"]) == (4, 3)


# A group for a list.


COURSE = """name;e-mail;note
Bob;bob@example.com;came twice
;nobody@example.com;=1+1
Cleo;cleo@example.com;
"""
CREATE = ("group", "create", "Monday course", "--creator", ANN, "--yes")


def test_a_list_becomes_a_group_and_a_file_to_fix(usher: Usher, house: House, worker: None, tmp_path: Path):
    let_in(house, "bob", "cleo")
    (tmp_path / "course.csv").write_text(COURSE)

    said = usher(*CREATE, "--people", "course.csv", "--to-fix", "fix.csv", "--privacy", "secret")

    assert said.code == 0
    assert 'The group "Monday course" would be made.' in said.out
    [group] = [group for group in house.wix.groups.values() if group.name == "Monday course"]
    assert (group.privacy, group.owner) == ("SECRET", ANN)
    inside = {member for where, member in house.wix.memberships if where == group.id}
    assert inside == {ANN, "m-bob", "m-cleo"}
    [row] = list(csv.DictReader(io.StringIO((tmp_path / "fix.csv").read_text("utf-8-sig")), delimiter=";"))
    assert (row["e-mail"], row["reason"]) == ("nobody@example.com", "nobody on the site has this address")
    assert row["note"] == "'=1+1", "a spreadsheet shows it as it was, and calculates nothing"
    assert "nobody@example.com" not in said.out

    unasked = [word for word in CREATE if word != "--yes"]
    again = usher(*unasked, "--people", "fix.csv", "--to-fix", "fix.csv", "--json", types="")

    assert (again.code, again.job["result"]["group"]["id"]) == (0, group.id)
    assert len(house.wix.groups) == 2


def test_who_wants_to_mend_the_list_first_says_no_and_has_the_file_to_fix(
    usher: Usher, house: House, worker: None, tmp_path: Path
):
    (tmp_path / "course.csv").write_text(COURSE)
    unasked = [word for word in CREATE if word != "--yes"]

    said = usher(*unasked, "--people", "course.csv", "--to-fix", "fix.csv", types="n\n")

    assert (said.code, len(house.wix.groups)) == (1, 1)
    assert "nobody@example.com" in (tmp_path / "fix.csv").read_text("utf-8-sig")


def test_a_list_may_come_through_a_pipe(usher: Usher, house: House, worker: None):
    let_in(house, "bob")

    said = usher(*CREATE, "--people", "-", "--json", stdin=b"bob@example.com\n")

    assert (said.code, said.job["counts"]["done"]) == (0, 1)
    assert "-" not in said.job["params"]["people"]


def test_rows_that_cannot_be_read_are_named_and_no_job_is_made(usher: Usher, house: House, tmp_path: Path):
    (tmp_path / "course.csv").write_text(
        "name,e-mail\nBob,bob@example\nAnn,ann@example.com\nEve,eve@@example.com\n"
    )

    said = usher(*CREATE, "--people", "course.csv", "--to-fix", "fix.csv")

    assert (said.code, said.out, house.services.jobs.page()) == (2, "", [])
    headline, *rows = said.err.splitlines()
    assert headline == "No job was made"
    assert [row.partition(": ")[0] for row in rows] == ["  - row 2, e-mail", "  - row 4, e-mail"]
    assert "example.com" not in said.err
    fixes = list(csv.reader(io.StringIO((tmp_path / "fix.csv").read_text("utf-8-sig"))))
    assert [row[0] for row in fixes] == ["name", "Bob", "Eve"]


# Rules and questions.


SWIMMERS, READERS = (
    GroupId("9e2b7c64-1c5d-4f7a-a1c8-000000000001"),
    GroupId("9e2b7c64-1c5d-4f7a-a1c8-000000000002"),
)
KIND = Rule("Be kind", "To everybody")
QUIET = Rule("Be quiet")


@pytest.fixture
def three_groups(house: House) -> House:
    for id_, name in ((SWIMMERS, "Swimmers"), (READERS, "Readers")):
        house.wix.groups[id_] = Group(id_, name)
    house.wix.rules = {RUNNERS: (KIND,), SWIMMERS: (QUIET,), READERS: (KIND,)}
    return house


def test_rules_of_one_group_are_shown_as_a_change_rolled_out_and_put_back(
    usher: Usher, three_groups: House, worker: None
):
    said = usher("rules", "rollout", "--from", "Trail Runners", "--to", "*", types="y\n")

    assert said.code == 0
    preview = said.out.partition("Change 1 group? [y/N]")[0].splitlines()
    assert "1 group would change, 1 would be left as they are." in preview
    at = preview.index("  Swimmers:")
    assert preview[at + 1 : at + 3] == ["    + Be kind: To everybody", "    - Be quiet"]
    assert three_groups.wix.rules[SWIMMERS] == (KIND,)
    [job] = three_groups.services.jobs.page()
    assert f"To put back what the groups had: usher jobs rollback {job.id}\n" in said.out

    assert usher("jobs", "rollback", job.id, "--yes").code == 0
    assert three_groups.wix.rules == {RUNNERS: (KIND,), SWIMMERS: (QUIET,), READERS: (KIND,)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rules.toml", '[[rule]]\ntitle = "Be kind"\ndescription = "To everybody"\n'),
        ("rules.json", '[{"title": "Be kind", "description": "To everybody"}]'),
        ("named.json", '{"rules": [{"title": "Be kind", "description": "To everybody"}]}'),
    ],
)
def test_rules_come_from_a_file_as_well(
    usher: Usher, three_groups: House, worker: None, tmp_path: Path, name: str, text: str
):
    (tmp_path / name).write_text(text)

    assert usher("rules", "rollout", "--rules", name, "--to", "Swim*", "--to", "Readers", "--yes").code == 0

    assert three_groups.wix.rules[SWIMMERS] == (KIND,)


def test_when_all_is_as_it_should_be_nobody_is_asked(usher: Usher, three_groups: House, worker: None):
    said = usher("rules", "rollout", "--from", RUNNERS, "--to", "Readers", types="")

    assert (said.code, "[y/N]" in said.out) == (0, False)
    assert "replace_rules" not in [call[0] for call in three_groups.wix.asked]


def test_questions_are_rolled_out_with_a_word_of_warning(
    usher: Usher, three_groups: House, worker: None, tmp_path: Path
):
    three_groups.wix.questions = {SWIMMERS: (Question("How fast?", False),)}
    (tmp_path / "none.json").write_text("[]")

    said = usher("questions", "rollout", "--questions", "none.json", "--to", "Swimmers", "--yes")

    assert (said.code, three_groups.wix.questions[SWIMMERS]) == (0, ())
    assert "    - How fast? (optional)\n" in said.out
    assert "Attention: 1 of these groups will have NO questions at all" in said.out


def test_only_a_rollout_can_be_put_back(usher: Usher, house: House):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    said = usher("jobs", "rollback", job, "--yes")

    assert (said.code, "ID: this job is a group_email, not one of rules_rollout" in said.err) == (2, True)


# The report.


def test_the_report_is_a_table_without_a_question(usher: Usher, three_groups: House, worker: None):
    said = usher("report", "groups", "--top", "1", "--idle-days", "30")

    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert ["Trail", "Runners", "1", RUNNERS] in lines
    assert ["Swimmers", "never", SWIMMERS] in lines
    assert ["Swimmers", "0", SWIMMERS] not in lines


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["--out", "report.html"], b"<!doctype html>"),
        (["--out", "report.csv"], b"\xef\xbb\xbfas_of,site,id,name"),
        (["--out", "report.json", "--json"], b'{\n  "total": 3'),
        (["--out", "report.txt", "--format", "table"], b"3 groups, 1 memberships"),
    ],
)
def test_the_report_is_written_as_its_file_is_named(
    usher: Usher, three_groups: House, worker: None, tmp_path: Path, arguments: list[str], begins: bytes
):
    said = usher("report", "groups", *arguments)

    written = (tmp_path / arguments[1]).read_bytes()
    assert (said.code, written.lower().startswith(begins)) == (0, True), written[:60]
    assert f"The report is in {arguments[1]}." in said.err
    if "--json" in arguments:
        assert said.job["result"]["total"] == 3
    else:
        assert said.out.endswith("is done\nOf 3: 3 listed.\n"), "the report itself stands in the file"


def test_a_report_on_standard_output_stands_there_alone(usher: Usher, three_groups: House, worker: None):
    said = usher("report", "groups", "--format", "json")

    assert (said.code, said.job["total"]) == (0, 3)
    assert "is done" in said.err


# What is there.


def test_jobs_are_listed_newest_first_and_narrowed_down(usher: Usher, house: House):
    assert usher("jobs", "list").out == "None.\n"
    first = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    second = house.ask_for("groups_report")

    assert [job["id"] for job in usher("jobs", "list", "--json").job] == [second, first]
    assert [job["id"] for job in usher("jobs", "list", "--kind", "group_email", "--json").job] == [first]
    assert [job["id"] for job in usher("jobs", "list", "--state", "previewed", "--json").job] == [first]
    assert usher("jobs", "list", "--site", "another", "--json").job == []
    said = usher("jobs", "list", "--limit", "1")
    assert [second in said.out, first in said.out] == [True, False]
    assert "There are more: this is --limit 1." in said.out


def test_a_job_is_shown_as_the_api_shows_it(usher: Usher, house: House):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    row = house.job(job)

    said = usher("jobs", "show", job, "--json")

    assert said.job == describe_job(row, house.counts(job), row.created_at)
    assert said.job["confirm_token"] == row.confirm_token
    told = usher("jobs", "show", job)
    assert "1 member looked at: 1 would get the letter" in told.out
    assert f"\nTo let it run: usher jobs confirm {job}\nBegun by tests " in told.out


def test_everybody_looked_at_is_listed_with_the_reason(usher: Usher, house: House, tmp_path: Path):
    let_in(house, "bob", consent="UNSUBSCRIBED")
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    house.confirm(job)

    rows = usher("jobs", "rows", job, "--json").job

    assert {(row["member"], row["group"], row["state"], row.get("reason")) for row in rows} == {
        (ANN, RUNNERS, "sent", None),
        ("m-bob", RUNNERS, "skipped", "unsubscribed (Wix: UNSUBSCRIBED)"),
    }
    [skipped] = usher("jobs", "rows", job, "--state", "skipped", "--json").job
    assert skipped["member"] == "m-bob"
    assert "There are more: this is --limit 1." in usher("jobs", "rows", job, "--limit", "1").out
    assert usher("jobs", "rows", job, "--csv", "rows.csv").out == "2 rows are in rows.csv.\n"
    written = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text("utf-8-sig"))))
    assert sorted(row["member"] for row in written) == [ANN, "m-bob"]
    shown = list(csv.DictReader(io.StringIO(usher("jobs", "rows", job, "--csv", "-").out)))
    assert shown == written


def test_a_cell_that_a_spreadsheet_would_calculate_is_marked_as_text(
    usher: Usher, house: House, tmp_path: Path
):
    formula = MemberId("=HYPERLINK(1)")
    house.wix.members[formula] = replace(house.wix.members[ANN], id=formula, email="f@example.com")
    house.wix.memberships[RUNNERS, formula] = Membership("joined")
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    usher("jobs", "rows", job, "--csv", "rows.csv")

    written = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text("utf-8-sig"))))
    assert "'=HYPERLINK(1)" in [row["member"] for row in written]


# Acts.


def test_a_job_is_paused_resumed_and_cancelled(usher: Usher, house: House):
    let_in(house, "bob")
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")

    assert usher("jobs", "pause", job, types="y\n").out.endswith(f"{job}: paused\n")
    house.turn()
    assert house.mail.readers == []
    assert "To go on: usher jobs resume" in usher("jobs", "show", job).out
    assert usher("jobs", "resume", job, "--yes", "--json").job["state"] == "running"
    said = usher("jobs", "cancel", job, types="y\n")
    assert "Cancel it for good? What it did stays, and the rest (2) is skipped. [y/N]" in said.out
    house.turn()
    assert (house.mail.readers, house.job(job).state) == ([], "cancelled")
    assert house.counts(job).skipped_by_reason == {"the job was cancelled": 2}


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "retry"])
def test_an_act_needs_a_yes_and_a_no_changes_nothing(usher: Usher, house: House, verb: str):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    before = house.job(job)

    nobody, no = usher("jobs", verb, job), usher("jobs", verb, job, types="n\n")

    assert (nobody.code, nobody.err) == (2, NO_TERMINAL)
    assert (no.code, no.out.endswith("Nothing was changed.\n")) == (1, True)
    assert house.job(job) == before


@pytest.mark.parametrize("verb", ["resume", "retry", "pause"])
def test_an_act_that_does_not_go_with_the_state_is_refused(usher: Usher, house: House, verb: str):
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")

    said = usher("jobs", verb, job, "--yes")

    assert (said.code, said.err.startswith("usher: the job is previewed, not ")) == (1, True)


# The shell.


@pytest.fixture
def offered(usher: Usher, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """What bash offers at the end of a line."""

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("_USHER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        said = usher()
        assert said.err == ""
        return said.out.split()

    return offered


def test_a_shell_completes_kinds_states_letters_jobs_and_sites(
    house: House, offered: Callable[[str], list[str]]
):
    job = house.ask_for("groups_report")

    assert offered("usher jobs list --kind rules") == ["rules_rollout"]
    assert offered("usher jobs list --state pre") == ["previewing", "previewed"]
    assert offered("usher email group Runners yoga") == ["yoga-offer"]
    assert offered("usher jobs pause ") == [job]
    assert offered("usher report groups --site ") == [SITE]


def test_a_shell_is_offered_nothing_rather_than_an_error(
    offered: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/usher.db")

    assert offered("usher jobs pause ") == []
    assert offered("usher report groups --site ") == []


def test_a_shell_learns_to_complete(tmp_path: Path):
    """As somebody does it who types `usher --install-completion`."""
    launcher = tmp_path / "usher"
    launcher.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom admin.cli import main\nmain()\n"
    )
    launcher.chmod(0o755)
    home = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["bash", "-c", "usher --install-completion && . ~/.bash_completions/usher.sh && complete -p usher"],
        cwd=tmp_path,
        env=home,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, b"-F _usher_completion usher" in said.stdout) == (0, True), said


def test_help_loads_no_database_no_web_server_and_no_models(tmp_path: Path):
    code = (
        "import sys; sys.argv = ['usher', '--help']\n"
        "from admin.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([n for n in sys.modules if n.partition('.')[0] in"
        " ('sqlalchemy', 'celery', 'starlette', 'pydantic', 'jinja2', 'httpx', 'tasks', 'integrations')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.decode().splitlines()[-1] == "[]"
