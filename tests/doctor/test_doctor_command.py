"""The command: its table, its exit codes, what it prints, and that nothing can break or hold it up."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from admin.doctor.command import CHECKS, Check, doctor, examine, exit_code
from admin.doctor.findings import Finding, Line, Subject, Verdict, failed, ok, warning
from admin.processes import ROOT
from config.settings import Settings
from core.errors import ConfigError
from integrations.dns import Resolver
from integrations.store.database import Database
from tests.doctor.name_server import name_server
from tests.doctor.patient import SECRET, a_subject, verdicts
from tests.webhooks.wix_signing import WIX_KEY, pem

DOCUMENT = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
SECRETS = {
    "WIX_APP_SECRET": "secret-of-the-app-1",
    "WIX_API_KEY": "secret-key-of-the-owner-2",
    "SECRET_KEY": "secret-to-sign-with-3",
    "SECRET_KEY_PREVIOUS": "secret-that-signed-4",
    "ADMIN_TOKEN": "secret-of-the-admin-5",
}
PASSWORD = "secret-of-a-url-6"


@pytest.fixture(scope="module")
def no_dns() -> Iterator[Resolver]:
    with name_server({("", "SERVFAIL"): []}) as resolver:
        yield resolver


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_dns: Resolver) -> Path:
    """Every setting is there, and nothing behind them answers."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("admin.doctor.command.Resolver", lambda: no_dns)
    for name, value in {
        **SECRETS,
        "WIX_APP_ID": "app",
        "WIX_SITE_ID": "site",
        "WIX_PUBLIC_KEY": pem(WIX_KEY),
        "WIX_API_URL": "http://127.0.0.1:9",
        "DATABASE_URL": f"postgresql+psycopg://usher:{PASSWORD}@127.0.0.1:9/usher",
        "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:9/0",
        "BROKER_URL": f"amqp://usher:{PASSWORD}@127.0.0.1:9//",
        "EMAIL_URL": f"smtp://usher:{PASSWORD}@127.0.0.1:9",
        "EMAIL_FROM": "Seaside <hello@seaside.example.com>",
        "PUBLIC_URL": "http://127.0.0.1:9",
        "AUTOMATIONS_FILE": str(ROOT / "config" / "automations.toml"),
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def run(
    *,
    as_json: bool = False,
    offline: bool = False,
    only: Iterable[str] = (),
    site: str | None = None,
    received: Path | None = None,
) -> int:
    return doctor(
        as_json=as_json, offline=offline, only=list(only), site=site, selectors=[], received=received
    )


def test_everything_broken_is_a_table_of_fixes_without_a_secret(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run()

    said = capsys.readouterr()
    table = said.out + said.err
    assert code == 1
    for name in CHECKS:
        assert re.search(rf"^(ok|warning|failed|not checked) +{name}\b", said.out, re.MULTILINE)
    assert [word for word in (*SECRETS.values(), PASSWORD, "hello@") if word in table] == []


def test_programs_get_one_array_with_the_same_findings(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(as_json=True, only=["redis", "settings"])

    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert {one["name"]: one["verdict"] for one in found} == {
        "settings": "ok",
        "settings.letters": "warning",
        "redis": "failed",
    }
    assert all(set(one) == {"name", "verdict", "seen", "fix"} for one in found if one["verdict"] != "ok")


def test_offline_asks_nothing_that_leaves_the_machine(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(as_json=True, offline=True)

    found = json.loads(capsys.readouterr().out)
    skipped = {one["name"] for one in found if "--offline" in one["seen"]}
    assert skipped == {"wix", "public", "relay", "dns"}
    assert {one["verdict"] for one in found if one["name"] in skipped} == {"not checked"}


def test_one_line_can_be_asked_for_alone(installation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(as_json=True, only=["settings.letters"])

    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["settings.letters"]


def test_a_healthy_installation_ends_with_0(
    installation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{installation / 'usher.db'}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("BROKER_URL", "")
    database = Database(url)
    database.migrate()
    database.close()

    code = run(only=["settings", "database", "broker", "work", "volume", "dns", "received"])

    assert code == 0
    assert " ok" in capsys.readouterr().out.splitlines()[-1]


def test_mistakes_in_the_settings_end_with_2_and_the_rest_is_looked_at_all_the_same(
    installation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "a lot")
    monkeypatch.setenv("WIX_PUBLIC_KEY", "no key")

    code = run(as_json=True, offline=True)

    found = json.loads(capsys.readouterr().out)
    wrong = [one["seen"] for one in found if one["name"] == "settings"]
    assert code == 2
    assert [seen.partition(":")[0] for seen in wrong] == ["PORT", "WIX_PUBLIC_KEY"]
    assert {one["name"] for one in found} >= {"database", "redis", "relay"}


def test_a_settings_file_nobody_can_read_is_a_finding_too(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (installation / ".env").write_bytes(b"\xff\xfe\x00bad")

    assert run(as_json=True, only=["settings"]) == 2
    assert ".env" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["nonsense"]}, "--only"),
        ({"site": "two words"}, "--site"),
        ({"received": Path("nowhere.eml")}, "--received"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, object], words: str, installation: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        run(**options)  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_a_received_letter_is_read_from_its_file(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = installation / "letter.eml"
    file.write_bytes(b"From: hello@seaside.example.com\r\nDate: today\r\nMessage-ID: <1@x>\r\n\r\nbody")

    run(as_json=True, only=["received.headers"], received=file)

    [found] = json.loads(capsys.readouterr().out)
    assert (found["name"], found["verdict"]) == ("received.headers", "ok")


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok(Line.REDIS, "x"), warning(Line.REDIS, "x", "y")], 0),
        ([Finding(Line.DNS, Verdict.NOT_CHECKED, "x")], 0),
        ([failed(Line.REDIS, "x", "y")], 1),
        ([failed(Line.REDIS, "x", "y"), failed(Line.SETTINGS, "x", "y")], 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst(findings: list[Finding], code: int) -> None:
    assert exit_code(findings) == code


def test_a_check_that_hangs_keeps_what_it_found_and_holds_nobody_up(tmp_path: Path) -> None:
    release = threading.Event()

    def hang(_: Subject) -> Iterator[Finding]:
        yield ok(Line.REDIS, "so far, so good")
        release.wait(60)

    before = time.monotonic()
    findings = examine(
        a_subject(tmp_path),
        ["redis", "broker"],
        checks={"redis": Check(hang, limit_s=0.2), "broker": Check(lambda _: [ok(Line.BROKER, "fine")])},
    )
    release.set()

    assert time.monotonic() - before < 30
    assert [(one.line, one.verdict) for one in findings] == [
        ("redis", "ok"),
        ("redis", "not checked"),
        ("broker", "ok"),
    ]


def test_a_check_that_breaks_is_a_line_without_its_words(tmp_path: Path) -> None:
    def explode(_: Subject) -> Iterator[Finding]:
        yield ok(Line.REDIS, "so far, so good")
        raise RuntimeError(f"redis://:{PASSWORD}@host")

    findings = examine(a_subject(tmp_path), ["redis"], checks={"redis": Check(explode)})

    assert verdicts(findings) == {"redis": "not checked"}
    assert "RuntimeError" in findings[-1].seen
    assert PASSWORD not in str(findings)


def test_all_checks_together_end_in_time() -> None:
    assert max(check.limit_s for check in CHECKS.values()) < 30


def test_what_a_stranger_says_is_shown_without_addresses_passwords_and_control_characters() -> None:
    seen = "550 <ann@example.com> at smtp://user:p@ss@host\x1b[31m\nred"

    assert ok(Line.RELAY, seen).seen == "550 <<address>> at smtp://***@host [31m red"


def test_the_subject_shows_no_secret(tmp_path: Path) -> None:
    assert SECRET not in repr(a_subject(tmp_path))


def test_every_line_belongs_to_a_check_of_the_table() -> None:
    assert {line.check for line in Line} == set(CHECKS)
    assert {line.value for line in Line} >= set(CHECKS)


def test_the_document_has_every_line_once_with_meaning_and_fix() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| \S.* \| \S.* \|$", DOCUMENT, re.MULTILINE)

    assert rows == [line.value for line in Line]


def test_the_document_names_the_checks_that_leave_the_machine() -> None:
    sentence = next(line for line in DOCUMENT.splitlines() if line.startswith("With `--offline`"))

    assert set(re.findall(r"`([a-z]+)`", sentence)) == {
        name for name, check in CHECKS.items() if check.leaves_machine
    }
