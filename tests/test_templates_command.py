"""`usher templates`: what it shows, finds, writes and sends."""

from __future__ import annotations

import email
import email.policy
import json
import os
import sys
import webbrowser
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import pytest

from admin.cli import main
from admin.processes import TEMPLATES
from config.settings import Settings
from core.community import MemberId, SiteId
from integrations.email.unsubscribe import hash_address
from integrations.store.database import Database
from integrations.store.suppressions import Suppressions
from tests.email.smtp_servers import MailServer, mail_server
from tests.test_bad_input import GOOD


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Usher = Callable[..., Said]


@pytest.fixture
def usher(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Usher:
    """Run `usher templates …` in an empty folder, without a setting."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def usher(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["usher", "templates", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return usher


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A shipped letter, to be spoiled."""
    for folder in ("_layout", "welcome"):
        copytree(TEMPLATES / folder, tmp_path / "mine" / folder)
    return tmp_path / "mine"


def spoil(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def the_letter(server: MailServer) -> email.message.EmailMessage:
    [envelope] = server.letters
    assert isinstance(envelope.content, bytes)
    return email.message_from_bytes(envelope.content, policy=email.policy.default)  # type: ignore[arg-type]


def test_the_shipped_letters_pass_the_check(usher: Usher) -> None:
    assert usher("check") == Said(0, "errors: 0, warnings: 0\n", "")


def test_a_mistake_is_shown_with_file_and_line_and_ends_with_2(usher: Usher, mine: Path) -> None:
    spoil(mine / "welcome" / "de" / "body.txt", "Zur Gruppe:", "Zur Gruppe {{ group_name }}, hier:")
    spoil(mine / "welcome" / "subject.txt", "Welcome", "Re: Welcome")

    said = usher("check", mine)

    assert (said.code, said.err) == (2, "")
    assert said.out.splitlines() == [
        "error    welcome/de/body.txt:12: reads 'Zur Gruppe , hier:' when group_name is empty",
        "warning  welcome/subject.txt: the subject pretends to be an answer or forwarded",
        "errors: 1, warnings: 1",
    ]


def test_a_warning_alone_ends_well(usher: Usher, mine: Path) -> None:
    spoil(mine / "welcome" / "subject.txt", "Welcome", "Re: Welcome")
    assert usher("check", mine).code == 0


def test_findings_are_there_for_programs(usher: Usher, mine: Path) -> None:
    (mine / "welcome" / "he" / "body.txt").unlink()

    said = usher("check", mine, "--json")

    assert said.code == 2
    assert json.loads(said.out) == [
        {"severity": "error", "file": "welcome/he/body.txt", "line": None, "message": "missing"}
    ]


def test_a_letter_is_checked_for_the_purposes_of_the_automations_file(usher: Usher, mine: Path) -> None:
    for language in (".", "de", "es", "fr", "he"):
        for file in ("body.txt", "body.mjml"):
            with (mine / "welcome" / language / file).open("a") as body:
                body.write("{% block stop %}{% endblock %}")
    told = mine / "automations.toml"
    told.write_text(
        '[[automation]]\nname = "a"\non = ["member_added"]\npurpose = "onboarding"\nemail = "welcome"'
    )

    for_any, for_that = usher("check", mine), usher("check", mine, "--automations", told)

    assert (for_any.code, for_that.code) == (2, 0)
    assert "error    welcome/de/body.txt: no link to {{ unsubscribe_url }} (promotional)" in for_any.out
    assert "warning  welcome/de/body.txt: no link to {{ unsubscribe_url }} (onboarding)" in for_that.out


def test_a_folder_that_is_not_there_is_an_error(usher: Usher) -> None:
    said = usher("check", "nowhere")
    assert (said.code, "nowhere: no letters here" in said.out) == (2, True)


def test_letters_are_listed_with_their_languages(usher: Usher) -> None:
    rows = json.loads(usher("list", "--json").out)
    assert [row["name"] for row in rows] == ["request-declined", "request-received", "welcome", "yoga-offer"]
    assert {tuple(row["languages"]) for row in rows} == {("en", "de", "es", "fr", "he")}

    assert [line.split()[:6] for line in usher("list").out.splitlines()] == [
        [row["name"], "en", "de", "es", "fr", "he"] for row in rows
    ]


def test_a_preview_shows_the_text_filled_with_samples_and_what_is_set(usher: Usher) -> None:
    said = usher(
        "preview", "yoga-offer", "--set", "member_name=Łukasz", "--set", "matched=yoga, sun salutation"
    )

    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Subject: Łukasz, come and try a class with us\n\nHello Łukasz,\n")
    assert "to join Morning Movers, you mentioned yoga and sun salutation." in said.out
    assert "Choose what you get, or unsubscribe" in said.out
    assert "No longer interested?" in usher("preview", "yoga-offer", "--purpose", "promotional").out
    assert "Hello,\n" in usher("preview", "yoga-offer", "--set", "member_name=").out


def test_a_preview_speaks_the_language_it_is_asked_for(usher: Usher) -> None:
    assert usher("preview", "welcome", "--language", "de-AT").out.startswith("Subject: Willkommen bei ")
    assert usher("preview", "welcome", "--language", "xx").out.startswith("Subject: Welcome to ")


def test_a_preview_is_written_as_html_with_its_text_beside_it(usher: Usher, tmp_path: Path) -> None:
    said = usher("preview", "welcome", "--language", "he", "--out", "page.html")

    assert said == Said(0, "page.html and page.txt, in he.\n", "")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "charset=UTF-8" in page
    assert (tmp_path / "page.txt").read_text(encoding="utf-8") == usher(
        "preview", "welcome", "--language", "he"
    ).out


def test_a_preview_opens_in_a_browser(usher: Usher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)) or len(opened) < 3)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    assert usher("preview", "welcome", "--open", "--out", "page.html").err == ""
    assert usher("preview", "welcome", "--open").err == ""
    assert "No browser" in usher("preview", "welcome", "--open").err
    assert opened[0] == (tmp_path / "page.html").as_uri()
    assert opened[1].endswith("/welcome.html")


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (["nothing"], "there is no letter 'nothing', but request-declined, request-received"),
        (["welcome", "--set", "member_name"], "--set: 'member_name' is not NAME=VALUE"),
        (["welcome", "--set", "a b=c"], "--set: 'a b=c' is not NAME=VALUE"),
        (["welcome", "--out", "page.txt"], "--out: page.txt does not end in .html"),
        (["welcome", "--out", "no/where/page.html"], "--out: no/where/page.html cannot be written"),
    ],
)
def test_what_cannot_be_shown_is_named(usher: Usher, arguments: list[str], mistake: str) -> None:
    said = usher("preview", *arguments)
    assert (said.code, said.out) == (2, "")
    assert mistake in said.err


def a_database(folder: Path) -> Database:
    """The one that the settings' defaults lead to."""
    (folder / "data").mkdir()
    database = Database(f"sqlite:///{folder / 'data' / 'usher.db'}")
    database.migrate()
    return database


def test_a_letter_to_oneself_arrives_marked_as_a_test(
    usher: Usher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with mail_server() as server:
        for name, value in GOOD.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EMAIL_URL", f"smtp://127.0.0.1:{server.port}")
        monkeypatch.setenv("EMAIL_POSTAL_ADDRESS", "12 Quay Street, Bristol")
        a_database(tmp_path).close()
        said = usher(
            "send", "yoga-offer", "--to", "me@example.com", "--language", "he", "--purpose", "promotional"
        )

        assert (said.code, said.err) == (0, "")
        assert said.out.startswith("250 ")
        letter = the_letter(server)
        assert server.letters[0].rcpt_tos == ["me@example.com"]
        assert letter["Subject"] == "[Test] שיעור ניסיון אצלנו מחכה לך, Ana"
        text = letter.get_body(("plain",))
        assert text is not None
        assert "12 Quay Street, Bristol" in text.get_content()
        assert "https://usher.example.com/unsubscribe/" in text.get_content()
        assert letter["List-Unsubscribe"].startswith("<https://usher.example.com/unsubscribe/")


@pytest.mark.parametrize("key", ["SECRET_KEY", "SECRET_KEY_PREVIOUS"])
def test_a_suppressed_address_gets_not_even_a_test_letter(
    usher: Usher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    with mail_server() as server, closing(a_database(tmp_path)) as database:
        for name, value in GOOD.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SECRET_KEY_PREVIOUS", "the key of last year")
        monkeypatch.setenv("EMAIL_URL", f"smtp://127.0.0.1:{server.port}")
        suppressions = Suppressions(database)
        site, member = SiteId("some-site"), MemberId("somebody")
        for email, add in (
            ("me@example.com", lambda one: suppressions.dead(site, member, one, "dead (550)")),
            ("you@example.com", lambda one: suppressions.unsubscribe(site, member, one, "one click")),
        ):
            add(hash_address(os.environ[key], email))

        said = usher("send", "welcome", "--to", "Me@Example.com")
        assert (said.code, said.out, said.err) == (1, "", "usher: this address is suppressed\n")
        assert server.letters == []

        assert usher("send", "welcome", "--to", "you@example.com").code == 0
        assert server.letters[0].rcpt_tos == ["you@example.com"], "promotional letters alone ended"


@pytest.mark.parametrize(
    ("url", "code", "complaint"),
    [
        ("", 2, "has no tables of Usher yet; run `usher migrate`"),
        ("postgresql://usher@127.0.0.1:1/usher", 1, "Connection refused"),
    ],
)
def test_no_test_letter_goes_out_when_the_database_cannot_say_who_is_suppressed(
    usher: Usher, monkeypatch: pytest.MonkeyPatch, url: str, code: int, complaint: str
) -> None:
    with mail_server() as server:
        for name, value in GOOD.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EMAIL_URL", f"smtp://127.0.0.1:{server.port}")
        monkeypatch.setenv("DATABASE_URL", url)
        said = usher("send", "welcome", "--to", "me@example.com")

        assert (said.code, said.out) == (code, "")
        assert complaint in said.err
        assert server.letters == []


def test_a_test_letter_needs_settings_and_an_address(
    usher: Usher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_database(tmp_path).close()
    said = usher("send", "welcome", "--to", "me@example.com")
    assert (said.code, "EMAIL_FROM: is required" in said.err) == (2, True)

    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert usher("send", "nothing", "--to", "me@example.com").code == 2
    said = usher("send", "welcome", "--to", "nobody")
    assert (said.code, said.out) == (1, "")
    assert "the address is not one that mail can be sent to" in said.err
    said = usher("send", "yoga-offer", "--to", "me@example.com", "--purpose", "promotional")
    assert (said.code, "needs a postal address" in said.err) == (1, True)
