"""Bad input: each command says all that is wrong in one message, ends with 2, and leaves nothing half started."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from admin.processes import ROOT, TEMPLATES, check_settings
from config.settings import Settings, socket_path
from core.errors import ConfigError
from tests.webhooks.wix_signing import WIX_KEY, pem

GOOD = {
    "WIX_APP_ID": "app-1",
    "WIX_APP_SECRET": "hunter2-the-app-secret",
    "WIX_PUBLIC_KEY": pem(WIX_KEY),
    "WIX_API_URL": "http://127.0.0.1:1",
    "SECRET_KEY": "hunter2-the-signing-key",
    "EMAIL_FROM": "Usher <usher@club.example.com>",
    "PUBLIC_URL": "https://usher.example.com",
    "PORT": "0",
}
MISTAKEN = """
[[automation]]
name = "welcome"
on = ["member_aded"]
purpose = "onboarding"
email = "welcom"
colour = "red"
"""
UNUSABLE_DATABASES = {
    "nonsense": "not a URL such as",
    "mysql://usher:hunter2@db.example.com/usher": "mysql: is not supported",
    "postgresql://usher:hunter2@db.example.com:port/usher": "not a URL such as",
    "postgresql://usher:hunter2@db.example.com": "names no database",
    "postgresql://usher:hunter1@hunter2@db.example.com/usher": "write an @ in user or password as %40",
    "postgresql://usher:hunter2@db.example.com:99999999/usher": "has a port that is no number",
    "sqlite://": "SQLite needs a file",
    "sqlite:///:memory:": "SQLite needs a file",
    "sqlite:////nowhere/at/all/usher.db": "the folder /nowhere/at/all does not exist",
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        return [line.removeprefix("  - ") for line in self.err.splitlines() if line.startswith("  - ")]


def outside() -> dict[str, str]:
    """The environment without any setting of Usher."""
    return {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}


def refuse(folder: Path, command: str, settings: Mapping[str, str]) -> Ended:
    """Run a command that has to refuse to start, and hold it to what every refusal promises."""
    before = sorted(folder.rglob("*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "admin", *command.split()],
        cwd=folder,
        env={**outside(), **settings, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Children write where their parent does: the end of both streams is the end of them all.
        out, err = process.communicate(timeout=30)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert "hunter2" not in err
    assert sorted(folder.rglob("*")) == before
    return Ended(process.returncode, out, err)


def test_web_names_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    ended = refuse(
        tmp_path,
        "web",
        {
            "WIX_APP_SECRET": "hunter2-the-app-secret",
            "WIX_PUBLIC_KEY": "no key at all, hunter2",
            "WIX_PUBLIC_KEY_NEXT": "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----",
            "WIX_API_KEY": "hunter2-alone",
            "SECRET_KEY": "hunter2",
            "EMAIL_URL": "smtp://usher:hunter2@mail.example.com:port",
            "DATABASE_URL": "mysql://usher:hunter2@db.example.com/usher",
            "REDIS_URL": "http://:hunter2@127.0.0.1",
            "AUTOMATIONS_FILE": "nowhere.toml",
            "PORT": "http",
        },
    )

    assert ended.err.splitlines()[0] == "Not fit to start"
    assert len(ended.err.splitlines()) == 1 + len(ended.problems)
    assert sorted(problem.partition(":")[0] for problem in ended.problems) == [
        "AUTOMATIONS_FILE",
        "DATABASE_URL",
        "EMAIL_URL",
        "PORT",
        "REDIS_URL",
        "SECRET_KEY",
        "WIX_API_KEY, WIX_SITE_ID",
        "WIX_APP_ID",
        "WIX_PUBLIC_KEY",
        "WIX_PUBLIC_KEY_NEXT",
    ]


def test_a_worker_without_settings_says_which_ones_it_needs(tmp_path: Path) -> None:
    ended = refuse(tmp_path, "worker", {})

    assert ended.problems == [
        f"{name}: is required"
        for name in (
            "WIX_APP_ID",
            "WIX_APP_SECRET",
            "WIX_PUBLIC_KEY",
            "SECRET_KEY",
            "EMAIL_FROM",
            "PUBLIC_URL",
        )
    ]


def test_beat_names_every_mistake_of_the_automations_by_line(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MISTAKEN)

    ended = refuse(tmp_path, "beat", GOOD | {"AUTOMATIONS_FILE": "mine.toml", "DATA_DIR": "deep/down"})

    lines = [problem.split(": ")[0] for problem in ended.problems]
    assert lines == ["mine.toml:4", "mine.toml:6", "mine.toml:7"]
    assert ["member_aded" in ended.err, "welcom" in ended.err, "colour" in ended.err] == [True] * 3


def test_run_names_a_file_that_is_not_text_beside_a_wrong_key(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"# r\xe9union\n")

    ended = refuse(tmp_path, "run", GOOD | {"AUTOMATIONS_FILE": "mine.toml", "WIX_PUBLIC_KEY": "hunter2"})

    assert [problem.split(": ")[0] for problem in ended.problems] == ["WIX_PUBLIC_KEY", "mine.toml:1"]


def test_run_ends_before_any_process_when_the_database_is_none(tmp_path: Path) -> None:
    (tmp_path / "usher.db").write_text("This was never a database, but it is long enough to look like one.")

    ended = refuse(tmp_path, "run", GOOD | {"DATABASE_URL": "sqlite:///usher.db", "DATA_DIR": "."})

    assert ended.problems == ["DATABASE_URL: file is not a database"]
    assert not socket_path(tmp_path).exists()


def test_a_worker_ends_when_the_database_is_none(tmp_path: Path) -> None:
    (tmp_path / "usher.db").write_text("This was never a database, but it is long enough to look like one.")

    ended = refuse(tmp_path, "worker", GOOD | {"DATABASE_URL": "sqlite:///usher.db", "DATA_DIR": "."})

    assert ended.problems == ["DATABASE_URL: file is not a database"]


def test_web_before_the_release_says_what_to_run_and_makes_no_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    ended = refuse(tmp_path, "web", GOOD)

    assert ended.problems == [
        "DATABASE_URL: the database has no tables of Usher yet; run `usher migrate`",
    ]


def test_migrate_says_that_the_database_cannot_be_reached(tmp_path: Path) -> None:
    ended = refuse(tmp_path, "migrate", {"DATABASE_URL": "postgresql://usher:hunter2@127.0.0.1:1/usher"})

    [problem] = ended.problems
    assert problem.startswith("DATABASE_URL: ")
    assert "refused" in problem


def test_migrate_names_all_that_is_wrong(tmp_path: Path) -> None:
    ended = refuse(
        tmp_path, "migrate", {"DATABASE_URL": "mysql://u:hunter2@h/x", "WIX_CALLS_PER_MINUTE": "many"}
    )

    assert [problem.partition(":")[0] for problem in ended.problems] == [
        "WIX_CALLS_PER_MINUTE",
        "DATABASE_URL",
    ]


def test_the_check_of_a_file_names_every_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MISTAKEN)

    ended = refuse(tmp_path, "automations check mine.toml", {})

    assert ended.err.splitlines()[0] == "mine.toml has 3 mistakes"
    assert len(ended.problems) == 3


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with good settings around it, for the checks that need no process of their own."""
    for name in set(os.environ) - set(outside()):
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of_the_check(templates: Path = TEMPLATES) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_settings(sends=True, templates=templates)
    assert not Path("data").exists()
    return list(caught.value.problems)


def test_good_settings_pass_and_looking_at_them_makes_nothing(here: Path) -> None:
    checked = check_settings(sends=True)

    assert checked.automations.automations
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("url", "complaint"), UNUSABLE_DATABASES.items())
def test_an_unusable_database_url_is_one_clear_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, url: str, complaint: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    [problem] = problems_of_the_check()

    assert problem.startswith("DATABASE_URL: ")
    assert complaint in problem
    assert "hunter2" not in problem


def test_a_database_in_the_data_folder_may_be_named_before_the_folder_is_there(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///data/other.db")

    assert check_settings(sends=True).settings.database == "sqlite:///data/other.db"


def test_a_data_folder_that_cannot_be_made_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "taken").write_text("a file")
    monkeypatch.setenv("DATA_DIR", "taken/below")

    assert any(
        problem.startswith("DATA_DIR: taken/below cannot be made") for problem in problems_of_the_check()
    )


def test_a_data_folder_that_cannot_be_written_to_is_named_as_such(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets nobody write there, not even root."""
    monkeypatch.setenv("DATA_DIR", "/proc/usher")

    [problem] = problems_of_the_check()

    assert problem.startswith("DATA_DIR: /proc/usher cannot be ")


def test_who_keeps_no_files_needs_no_data_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/proc/usher")
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example.com/usher")
    monkeypatch.setenv("REDIS_URL", "redis://redis.example.com")

    assert check_settings(sends=True).settings.redis == "redis://redis.example.com"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUBLIC_URL", "http://127.0.0.2"),
        ("PUBLIC_URL", "https://usher.example.com/a b"),
        ("PUBLIC_URL", "https://usher.example.com/ä"),
        ("PUBLIC_URL", "https://usher.example.com/{}"),
        ("EMAIL_FROM", "a@-x.de"),
        ("EMAIL_FROM", "a@x_.de"),
        ("EMAIL_FROM", "a@[1.2.3.4]"),
        ("EMAIL_FROM", f"a@{'x' * 64}.de"),
        ("EMAIL_POSTAL_ADDRESS", "1 Beach Road " * 40),
        ("EMAIL_POSTAL_ADDRESS", "1 Beach\x07 Road"),
        ("EMAIL_POSTAL_ADDRESS", "1 Beach\u202e Road"),
    ],
)
def test_a_value_that_no_letter_can_carry_is_named_before_the_first_letter(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    [problem] = problems_of_the_check()

    # Python 3.13 reads addresses more strictly, so that some of these are refused by their form already.
    assert problem.startswith(
        (f"{name}: no letter can carry it as it stands (", f"{name}: is not of the form")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUBLIC_URL", "HTTPS://Usher.Example.com/a/"),
        ("PUBLIC_URL", "https://bücher.example"),
        ("PUBLIC_URL", "http://LOCALHOST:1"),
        ("EMAIL_FROM", "hello@example.com"),
        ("EMAIL_FROM", '"Müller, Ana" <ana@bücher.example>'),
        ("EMAIL_POSTAL_ADDRESS", "Müller & Söhne <Ltd>,\n1 Beach Road"),
    ],
)
def test_a_value_that_letters_can_carry_passes(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    assert check_settings(sends=True).automations


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("command", ["run", "web"])
def test_a_port_that_somebody_has_is_named_and_nothing_is_begun(
    tmp_path: Path, taken_port: int, command: str
) -> None:
    ended = refuse(tmp_path, command, GOOD | {"PORT": str(taken_port)})

    assert ended.problems == [f"PORT: {taken_port} is in use"]


def test_a_second_run_on_a_data_folder_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    with (tmp_path / "usher.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        ended = refuse(tmp_path, "run", GOOD | {"DATA_DIR": str(tmp_path)})

    assert ended.problems == [f"DATA_DIR: another `usher run` works in {tmp_path}"]


@pytest.mark.parametrize("command", ["web", "worker", "beat"])
def test_before_the_release_no_process_makes_as_much_as_a_folder(tmp_path: Path, command: str) -> None:
    ended = refuse(tmp_path, command, GOOD)

    assert ended.problems == ["DATABASE_URL: the database has no tables of Usher yet; run `usher migrate`"]


def test_web_ends_when_the_database_is_none(tmp_path: Path) -> None:
    (tmp_path / "usher.db").write_text("This was never a database, but it is long enough to look like one.")

    ended = refuse(tmp_path, "web", GOOD | {"DATA_DIR": "."})

    assert ended.problems == ["DATABASE_URL: file is not a database"]


def test_what_was_in_the_data_folder_outlives_a_refusal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine").mkdir()
    monkeypatch.setenv("DATA_DIR", "mine/a/b")
    monkeypatch.setenv("EMAIL_URL", "pigeon:")

    assert [problem.partition(":")[0] for problem in problems_of_the_check()] == ["EMAIL_URL"]
    assert list(here.rglob("*")) == [here / "mine"]


def test_each_wrong_template_is_named_by_file_and_line(here: Path) -> None:
    templates = here / "letters"
    shutil.copytree(TEMPLATES, templates)
    (templates / "welcome" / "body.txt").write_text("Hello\n{{ member_name\n")
    (templates / "yoga-offer" / "subject.txt").write_text("{{ no_such_word }}\n")
    (templates / "request-received" / "body.mjml").unlink()

    problems = problems_of_the_check(templates)

    for name in ("welcome/body.txt:2", "yoga-offer/subject.txt:1", "request-received/body.mjml"):
        assert any(name in problem for problem in problems), name


def test_a_missing_automations_file_is_named_by_its_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMATIONS_FILE", str(here / "gone.toml"))

    assert problems_of_the_check() == [
        f"AUTOMATIONS_FILE: {here / 'gone.toml'} cannot be read (No such file or directory)"
    ]


def test_settings_in_a_file_that_is_not_text_are_named_with_the_rest(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".env").write_bytes(b"EMAIL_FROM=caf\xe9@example.com\n")
    monkeypatch.setenv("EMAIL_URL", "pigeon:")

    named = [problem.partition(":")[0] for problem in problems_of_the_check()]

    assert named == [".env", "EMAIL_URL"]


def test_a_database_of_another_release_is_not_worked_on(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'usher.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('from-the-future')")
    engine.dispose()

    ended = refuse(tmp_path, "beat", GOOD | {"DATA_DIR": "."})

    [problem] = ended.problems
    assert "is at revision from-the-future" in problem
    assert problem.endswith("run `usher migrate`")
