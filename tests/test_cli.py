"""The command line as somebody at a terminal meets it: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from admin.cli import main
from admin.processes import ROOT
from admin.samples import SAMPLES, find, names
from integrations.store.book import Book, File
from integrations.store.database import Database
from tests.webhooks.wix_signing import WIX_KEY, pem

MEMBER_ADDED = "wix.social_groups.v2.group_member_added"
OFFERS = """
[[automation]]
name = "yoga-offer"
on = ["join_requested"]
purpose = "promotional"
email = "yoga-offer"
groups = ["Sunrise*"]
[automation.answers]
any = ["yoga"]
none = ["no yoga"]
question = "class"

[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["certified teacher"]

[[automation]]
name = "welcome"
on = ["member_added"]
purpose = "onboarding"
email = "welcome"
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Usher = Callable[..., Said]


@pytest.fixture
def usher(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Usher:
    """Run a command in an empty folder, as the launcher does."""
    monkeypatch.chdir(tmp_path)

    def usher(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["usher", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return usher


@pytest.fixture
def offers(tmp_path: Path) -> Path:
    path = tmp_path / "offers.toml"
    path.write_text(OFFERS)
    return path


def test_the_shipped_automations_are_without_mistakes_from_any_folder(usher: Usher) -> None:
    said = usher("automations", "check")

    assert (said.code, said.err) == (0, "")
    assert "welcome: on join_approved, member_added" in said.out.splitlines()
    assert said.out.splitlines()[-1] == "7 automations, no mistakes."


def test_each_mistake_is_shown_with_line_field_and_value(usher: Usher, offers: Path) -> None:
    offers.write_text(OFFERS.replace('"welcome"\n', '"welcom"\n').replace('"approve"', '"maybe"'))

    said = usher("automations", "check", offers)

    assert (said.code, said.out) == (2, "")
    headline, *mistakes = said.err.splitlines()
    assert headline == f"{offers} has 2 mistakes"
    assert [mistake.partition(": ")[0] for mistake in mistakes] == [f"  - {offers}:16", f"  - {offers}:24"]
    assert ["decide" in mistakes[0], "maybe" in mistakes[0]] == [True, True]
    assert ["email" in mistakes[1], "welcom" in mistakes[1]] == [True, True]


@pytest.mark.parametrize("subcommand", ["check", "try"])
def test_a_file_that_is_not_there_is_named(usher: Usher, subcommand: str) -> None:
    said = usher("automations", subcommand, "/nowhere/mine.toml")

    assert (said.code, said.out) == (2, "")
    assert "/nowhere/mine.toml cannot be read (No such file or directory)" in said.err


def test_an_answer_shows_what_it_would_set_off_and_why(usher: Usher, offers: Path) -> None:
    said = usher("automations", "try", offers, "--group", "Sunrise Club", "--answer", "Which class? => Yoga!")

    yes, effect, no = said.out.splitlines()
    assert said.code == 0
    assert yes.startswith("YES  yoga-offer: ")
    assert "yoga" in yes.partition(": ")[2]
    assert effect.strip() == "→ letter yoga-offer (promotional)"
    assert no == 'no   let-teachers-in: no answer matched "certified teacher"'


@pytest.mark.parametrize(
    ("answers", "applies"),
    [
        (["Which class? => yoga"], True),
        (["Which class? => no yoga please"], False),
        (["Which class? => pilates"], False),
        (["How old are you? => yoga"], False),
        (["How old are you? => 40", "What class? => yoga"], True),
        ([], False),
    ],
)
def test_the_question_and_every_answer_count(
    usher: Usher, offers: Path, answers: list[str], applies: bool
) -> None:
    given = [word for answer in answers for word in ("--answer", answer)]

    said = usher("automations", "try", offers, "--group", "Sunrise Club", *given)

    assert ("YES  yoga-offer" in said.out, "no   yoga-offer" in said.out) == (applies, not applies)


def test_a_decision_is_shown_as_one(usher: Usher, offers: Path) -> None:
    said = usher("automations", "try", offers, "--answer", "I am a certified teacher")

    assert "YES  let-teachers-in" in said.out
    assert said.out.splitlines()[-1].strip() == "→ approve"
    assert "yoga-offer" not in said.out, "it is for other groups"


def test_another_trigger_sets_off_other_automations(usher: Usher, offers: Path) -> None:
    joined = usher("automations", "try", offers, "--on", "member_added")
    removed = usher("automations", "try", offers, "--on", "member_removed")

    assert joined.out.splitlines()[0] == "YES  welcome: applies to everybody"
    assert (removed.code, removed.out) == (0, "No automation listens to member_removed in this group.\n")


def test_an_unknown_trigger_is_refused_and_the_known_ones_are_named(usher: Usher, offers: Path) -> None:
    said = usher("automations", "try", offers, "--on", "member_aded")

    assert (said.code, said.out) == (2, "")
    for word in ("member_aded", "member_added", "join_requested", "role_assigned"):
        assert word in said.err


@dataclass
class Receiver:
    """A door that takes whatever is posted, and answers with `status`."""

    url: str = ""
    status: int = 200
    posts: list[tuple[str, bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posts.append((self.headers["Content-Type"], body))
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's word)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/webhooks/wix"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(WIX_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def opened(body: bytes, public_key: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The three layers of a delivery, its signature found good by another implementation than ours."""
    claims: dict[str, Any] = jwt.decode(body.decode(), public_key, algorithms=["RS256"])
    middle: dict[str, Any] = json.loads(claims["data"])
    inner: dict[str, Any] = json.loads(middle["data"])
    return claims, middle, inner


def sample(event_type: str = MEMBER_ADDED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{event_type}.json").read_text())
    return found


def test_a_sample_is_signed_and_posted_as_if_it_had_just_happened(
    usher: Usher, receiver: Receiver, key: Path
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)

    said = usher("webhook", "send", "group_member_added", "--key", key, "--to", receiver.url)

    assert said == Said(0, "200\n", "")
    [(content_type, body)] = receiver.posts
    claims, middle, inner = opened(body, pem(WIX_KEY))
    assert content_type == "text/plain"
    assert claims["iat"] >= int(before.timestamp())
    assert claims["exp"] > claims["iat"]
    assert middle["eventType"] == MEMBER_ADDED
    assert middle["instanceId"] == "7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11"
    assert inner["id"] != sample()["id"]
    assert before < datetime.fromisoformat(inner["eventTime"]) < datetime.now(UTC)
    unchanged = sample() | {"id": inner["id"], "eventTime": inner["eventTime"]}
    assert inner == unchanged


def test_two_sends_are_two_events_and_copies_are_one(usher: Usher, receiver: Receiver, key: Path) -> None:
    send = ("webhook", "send", MEMBER_ADDED, "--key", key, "--to", receiver.url)

    assert usher(*send, "--copies", "3") == Said(0, "200\n200\n200\n", "")
    assert usher(*send, "--site", "another-site").code == 0

    bodies = [body for _, body in receiver.posts]
    assert len(bodies) == 4
    assert len(set(bodies[:3])) == 1
    _, first, one = opened(bodies[0], pem(WIX_KEY))
    _, last, other = opened(bodies[3], pem(WIX_KEY))
    assert one["id"] != other["id"]
    assert (first["instanceId"] != "another-site", last["instanceId"]) == (True, "another-site")


def test_as_it_is_keeps_the_id_and_the_time(usher: Usher, receiver: Receiver, key: Path) -> None:
    usher("webhook", "send", "group_member_added", "--as-it-is", "--key", key, "--to", receiver.url)

    [(_, body)] = receiver.posts
    assert opened(body, pem(WIX_KEY))[2] == sample()


def test_a_sample_without_an_id_is_sent_without_one(usher: Usher, receiver: Receiver, key: Path) -> None:
    usher("webhook", "send", "AppInstalled", "--key", key, "--to", receiver.url)

    [(_, body)] = receiver.posts
    _, middle, inner = opened(body, pem(WIX_KEY))
    assert (middle["eventType"], inner) == ("AppInstalled", sample("AppInstalled"))


def test_every_sample_is_found_by_its_name_and_sent_under_the_type_wix_uses() -> None:
    types = {name: find(name)[0] for name in names()}

    assert types[MEMBER_ADDED] == MEMBER_ADDED
    assert (
        types["UNVERIFIED.wix.social_groups.v2.group_member_joined"]
        == "wix.social_groups.v2.group_member_joined"
    )
    assert types[f"HISTORICAL.{MEMBER_ADDED}.asJson"] == MEMBER_ADDED
    assert not {event_type.partition(".")[0] for event_type in types.values()} & {
        "UNVERIFIED",
        "HISTORICAL",
        "ENVELOPE",
    }


def test_a_refusal_is_shown_and_is_a_failure(usher: Usher, receiver: Receiver, key: Path) -> None:
    receiver.status = 401

    said = usher("webhook", "send", "group_member_added", "--key", key, "--to", receiver.url)

    assert said == Said(1, "401\n", "")


def test_an_unknown_sample_is_refused_and_the_samples_are_listed(usher: Usher) -> None:
    said = usher("webhook", "send", "group_member_aded")

    headline, *listed = said.err.splitlines()
    assert (said.code, said.out) == (2, "")
    assert headline == "'group_member_aded' is no sample event; there are:"
    assert [line.removeprefix("  - ") for line in listed] == names()


def test_a_word_that_fits_several_samples_lists_those(usher: Usher) -> None:
    said = usher("webhook", "send", "created")

    headline, *listed = said.err.splitlines()
    assert said.code == 2
    assert headline == "'created' fits several samples; there are:"
    assert listed
    assert all(line.endswith("created") for line in listed)


@pytest.mark.parametrize("kind", ["missing", "garbage", "public", "elliptic"])
def test_a_key_that_cannot_sign_is_refused_before_anything_is_posted(
    usher: Usher, receiver: Receiver, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "wrong.pem"
    elliptic = generate_ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    contents = {"garbage": b"hunter2", "public": pem(WIX_KEY).encode(), "elliptic": elliptic}
    if kind in contents:
        path.write_bytes(contents[kind])

    said = usher("webhook", "send", "group_member_added", "--key", path, "--to", receiver.url)

    assert (said.code, said.out, receiver.posts) == (2, "", [])
    assert said.err == f"Cannot sign\n  - --key: {path}: not a readable RSA private key (PEM)\n"


@pytest.mark.parametrize("to", ["http://127.0.0.1:1/webhooks/wix", "127.0.0.1", "http://h:port"])
def test_nobody_at_the_door_is_one_line(usher: Usher, key: Path, to: str) -> None:
    said = usher("webhook", "send", "group_member_added", "--key", key, "--to", to)

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"usher: nobody answers at {to} (")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "http://h:port"])
def test_no_sandbox_is_one_line_that_says_how_to_get_one(usher: Usher, url: str) -> None:
    said = usher("webhook", "send", "group_member_added", "--sandbox", url)

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"usher: no sandbox answers at {url} (")
    assert said.err.endswith("start `usher sandbox`\n")


def test_the_sandbox_signs_and_delivers_a_sample(usher: Usher, receiver: Receiver, tmp_path: Path) -> None:
    """Started by our own command, from a folder that is not the checkout, as its installed launcher is."""
    launcher = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from admin.cli import main; main()"
    command = [sys.executable, "-c", launcher, "sandbox", "--port", "0", "--smtp-port", "0"]
    with subprocess.Popen(
        [*command, "--webhook-url", receiver.url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline() or "{}")

            fresh = usher("webhook", "send", "group_member_added", "--sandbox", ready["url"], "--copies", "2")
            again = usher("webhook", "send", MEMBER_ADDED, "--sandbox", ready["url"], "--as-it-is")
        finally:
            process.terminate()

    assert (fresh, again) == (Said(0, "200\n200\n", ""), Said(0, "200\n", ""))
    inner = [opened(body, ready["WIX_PUBLIC_KEY"])[2] for _, body in receiver.posts]
    assert inner[0]["id"] == inner[1]["id"] != sample()["id"]
    assert inner[2] == sample()


def test_a_wrong_option_is_bad_input(usher: Usher) -> None:
    assert usher("worker", "--concurrency", "0").code == 2
    assert usher("no-such-command").code == 2


def test_help_names_the_commands_without_loading_a_server() -> None:
    code = (
        "import sys, contextlib, admin.cli\n"
        "sys.argv = ['usher', '--help']\n"
        "with contextlib.suppress(SystemExit): admin.cli.main()\n"
        "print(*({'uvicorn', 'celery', 'sqlalchemy', 'jinja2', 'httpx', 'rich'} & set(sys.modules)))\n"
    )
    narrow = os.environ | {"COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=narrow
    )

    *shown, loaded = done.stdout.splitlines()
    assert loaded == ""
    commands = ("run", "demo", "sandbox", "migrate", "web", "worker", "beat")
    for command in (*commands, "automations", "webhook", "events", "messages"):
        assert any(command in line for line in shown), command
    whole = (
        "doctor What is wrong with this installation, and how to mend it. Exit code 0, 1 after a failure, 2"
    )
    assert whole in " ".join(" ".join(shown).split())


# What counts, by the database.


@pytest.fixture
def started(usher: Usher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Book]:
    """An Usher that was started once with the offers, and edited since."""
    file = tmp_path / "automations.toml"
    file.write_text(OFFERS)
    for name, value in {
        "DATA_DIR": tmp_path,
        "AUTOMATIONS_FILE": file,
        "WIX_APP_ID": "a",
        "WIX_APP_SECRET": "b",
        "SECRET_KEY": "0123456789abcdef",
    }.items():
        monkeypatch.setenv(name, str(value))
    assert usher("migrate").code == 0
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}")
    book = Book(database, File(OFFERS, datetime.now(UTC)), {"yoga-offer", "welcome"})
    book.add(f"{OFFERS}# since\n", base=book.newest().number, who="user ada", note="a word")
    yield book
    database.close()


def test_what_counts_is_shown_and_a_changed_file_waits_for_the_next_start(
    usher: Usher, started: Book, tmp_path: Path
) -> None:
    (tmp_path / "automations.toml").write_text("")
    said = usher("automations", "show")
    assert said.code == 0
    assert (
        'let-teachers-in: When somebody asks to join any group and mentions "certified teacher"' in said.out
    )
    assert said.out.endswith("Version 2.\n")
    assert usher("automations", "show", "1").out.endswith("Version 1.\n")
    assert started.newest().number == 2


def test_the_history_says_who_changed_what_counts(usher: Usher, started: Book) -> None:
    said = usher("automations", "history")
    assert [line.split()[0] for line in said.out.splitlines()] == ["*", "1"]
    assert said.out.splitlines()[0].endswith("edit      user ada  a word")
    assert [row["number"] for row in json.loads(usher("automations", "history", "--json").out)] == [2, 1]


def test_what_is_exported_is_the_very_text(usher: Usher, started: Book, tmp_path: Path) -> None:
    assert usher("automations", "export").out == f"{OFFERS}# since\n"
    assert usher("automations", "export", "1", "--out", tmp_path / "kept.toml").code == 0
    assert (tmp_path / "kept.toml").read_text() == OFFERS
    assert usher("automations", "export", "9").err == "usher: there is no version 9 of the automations\n"
    nowhere = usher("automations", "export", "--out", tmp_path / "no" / "x.toml")
    assert (nowhere.code, "cannot be written" in nowhere.err) == (2, True)


def test_going_back_shows_what_changes_and_wants_a_yes(usher: Usher, started: Book) -> None:
    asked = usher("automations", "rollback", "1")
    assert (asked.code, "-# since" in asked.out, "add --yes" in asked.err) == (2, True, True)
    assert started.newest().number == 2
    done = usher("automations", "rollback", "1", "--yes")
    assert done.out.endswith("Version 3 counts from now on, with the text of version 1.\n")
    assert (started.newest().text, started.newest().who) == (OFFERS, "command line")
    assert "says what the newest one, 3, says" in usher("automations", "rollback", "1", "--yes").out
