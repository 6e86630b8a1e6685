"""The mail server as a worker would meet it: real ones, with good and bad certificates, logins and manners."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult

from admin.doctor.findings import Subject
from admin.doctor.relay import check_relay, judge_offers, judge_sender, judge_tls
from integrations.email.url import EmailUrl
from tests.doctor.patient import a_subject, said, verdict, verdicts
from tests.email.smtp_servers import Conversation, MailServer, mail_server, scripted_server, self_signed

WORD = "hunter2-hunter2"


def accept(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data.password == WORD.encode(), handled=False)


def patient_of(folder: Path, port: int, *, word: str = WORD, trust: ssl.SSLContext, **more: Any) -> Subject:
    options = "?tls=require" if not word else ""
    user = f"usher:{word}@" if word else ""
    url = f"smtp://{user}127.0.0.1:{port}{options}"
    return a_subject(folder, **{"email_url": url, **more}, subject={"trust": trust})


def test_a_relay_that_would_take_letters_is_found_so_and_gets_none(tmp_path: Path) -> None:
    server_tls, trust = self_signed(tmp_path)
    with mail_server(
        tls_context=server_tls, require_starttls=True, authenticator=accept, auth_required=True
    ) as server:
        findings = list(check_relay(patient_of(tmp_path, server.port, trust=trust)))

    found = verdicts(findings)
    assert set(found) == {"relay", "relay.tls", "relay.login", "relay.sender", "relay.offers"}
    assert {**found, "relay.tls": "ok"} == dict.fromkeys(found, "ok")
    assert server.letters == []
    assert "TLSv1.3" in said(findings, "relay.tls")
    assert "any script" in said(findings, "relay.offers")


def test_a_certificate_that_soon_ends_is_told(tmp_path: Path) -> None:
    """The one of these tests lasts a day."""
    server_tls, trust = self_signed(tmp_path)
    with mail_server(tls_context=server_tls) as server:
        patient = patient_of(tmp_path, server.port, word="", trust=trust)
        soon = verdicts(check_relay(patient))
        long_ago = replace(patient, now=lambda: datetime.now(UTC) - timedelta(days=30))
        later = verdicts(check_relay(long_ago))

    assert (soon["relay.tls"], later["relay.tls"]) == ("warning", "ok")


def test_a_certificate_nobody_trusts_ends_the_talk_before_the_password(tmp_path: Path) -> None:
    server_tls, _ = self_signed(tmp_path)
    with mail_server(tls_context=server_tls, authenticator=accept) as server:
        findings = list(check_relay(patient_of(tmp_path, server.port, trust=ssl.create_default_context())))

    assert verdicts(findings) == {"relay.tls": "failed"}
    assert "certificate" in said(findings, "relay.tls")


def test_a_relay_without_starttls_is_not_spoken_to_in_clear(tmp_path: Path) -> None:
    with mail_server(authenticator=accept, auth_require_tls=False) as server:
        findings = list(check_relay(patient_of(tmp_path, server.port, trust=ssl.create_default_context())))

    assert verdicts(findings) == {"relay.tls": "failed"}


def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path) -> None:
    server_tls, trust = self_signed(tmp_path)
    with mail_server(tls_context=server_tls, authenticator=accept) as server:
        findings = list(check_relay(patient_of(tmp_path, server.port, word="wrong-word", trust=trust)))

    assert verdicts(findings) == {"relay.login": "failed"}
    assert "wrong-word" not in str(findings)


def here(folder: Path, port: int, **more: Any) -> Subject:
    """In clear on this machine."""
    return a_subject(folder, **{"email_url": f"smtp://127.0.0.1:{port}", **more})


def test_a_refused_sender_is_told_without_its_address(tmp_path: Path) -> None:
    refusal = "550 5.7.1 <hello@seaside.example.com> not owned by user"
    with mail_server(MailServer(replies={"MAIL": [refusal, refusal]})) as server:
        findings = list(check_relay(here(tmp_path, server.port)))

    assert verdicts(findings)["relay.sender"] == "failed"
    assert "550 5.7.1" in said(findings, "relay.sender")
    assert "hello@" not in str(findings)


def test_a_relay_that_insists_on_the_exact_sender_is_told_to_need_verp_off(tmp_path: Path) -> None:
    with mail_server(MailServer(replies={"MAIL": ["553 5.7.1 sender not verified"]})) as server:
        findings = list(check_relay(here(tmp_path, server.port)))
    with mail_server() as server:
        url = f"smtp://127.0.0.1:{server.port}?verp=off"
        without = verdicts(check_relay(here(tmp_path, server.port, email_url=url)))

    assert verdicts(findings)["relay.sender"] == "failed"
    assert "verp=off" in said(findings, "relay.sender")
    assert without["relay.sender"] == "ok"


def test_the_trial_sender_is_a_return_path_and_carries_no_letter(tmp_path: Path) -> None:
    heard: list[bytes] = []

    def polite(talk: Conversation) -> None:
        talk.say("220 mx.example.com")
        while line := talk.hear():
            heard.append(line.strip())
            talk.say("221 bye" if line.startswith(b"QUIT") else "250 fine")

    with scripted_server(
        lambda _: None, polite
    ) as port:  # the first connection only looks whether there is a way
        findings = list(check_relay(here(tmp_path, port, email_bounces="returns@bounce.example.org")))

    assert verdicts(findings)["relay.sender"] == "ok"
    assert [line.split()[0].upper() for line in heard] == [b"EHLO", b"MAIL", b"RSET", b"QUIT"]
    assert heard[1].startswith(b"MAIL FROM:<returns+b")


def test_a_relay_that_hangs_up_over_the_sender_could_not_be_checked(tmp_path: Path) -> None:
    def rude(talk: Conversation) -> None:
        talk.say("220 mx.example.com")
        talk.hear()
        talk.say("250 mx.example.com")
        talk.hear()

    with scripted_server(lambda _: None, rude) as port:
        assert verdicts(check_relay(here(tmp_path, port)))["relay.sender"] == "not checked"


def test_without_a_sender_that_can_be_used_none_is_offered(tmp_path: Path) -> None:
    too_long = f"{'a' * 40}@seaside.example.com"
    with mail_server() as server:
        for settings in ({"email_from": ""}, {"email_bounces": too_long}):
            assert (
                verdicts(check_relay(here(tmp_path, server.port, **settings)))["relay.sender"]
                == "not checked"
            )


def test_tls_with_a_port_that_speaks_otherwise_is_a_failure(tmp_path: Path) -> None:
    with mail_server() as server:
        patient = here(tmp_path, server.port, email_url=f"smtps://127.0.0.1:{server.port}")
        assert verdicts(check_relay(patient)) == {"relay.tls": "failed"}


def test_a_greeting_that_turns_us_away_is_a_failure(tmp_path: Path) -> None:
    with scripted_server(lambda _: None, lambda talk: talk.say("554 no service for you")) as port:
        assert verdicts(check_relay(here(tmp_path, port))) == {"relay": "failed"}


def test_a_port_where_nobody_listens_is_a_failure(tmp_path: Path) -> None:
    findings = list(check_relay(here(tmp_path, 9)))

    assert verdicts(findings) == {"relay": "failed"}
    assert "EMAIL_URL" in findings[0].fix


def test_letters_that_are_only_shown_are_pointed_out(tmp_path: Path) -> None:
    assert verdicts(check_relay(a_subject(tmp_path))) == {"relay": "warning"}


def test_a_url_that_cannot_be_read_is_for_the_settings_to_say(tmp_path: Path) -> None:
    assert verdicts(check_relay(a_subject(tmp_path, email_url="smtp://u:p@ss@:x"))) == {
        "relay": "not checked"
    }


@pytest.mark.parametrize(
    ("code", "text", "takes_exact", "expected"),
    [
        (250, "2.1.0 ok", False, "ok"),
        (451, "4.7.1 later", False, "warning"),
        (550, "5.7.1 no", False, "failed"),
        (550, "5.7.1 no", True, "failed"),
    ],
)
def test_the_reply_to_the_sender_is_judged_by_its_class(
    code: int, text: str, takes_exact: bool, expected: str
) -> None:
    finding = judge_sender(code, text, takes_exact=takes_exact)

    assert verdict(finding) == expected
    assert ("verp=off" in finding.fix) == takes_exact


@pytest.mark.parametrize(
    ("offers", "expected", "words"),
    [
        ({"size": "10485760", "smtputf8": ""}, "ok", "10240 KiB"),
        ({"size": "0"}, "ok", "any size"),
        ({}, "ok", "ASCII only"),
        ({"size": "65536"}, "warning", "64 KiB"),
    ],
)
def test_what_a_relay_offers_is_told(offers: Mapping[str, str], expected: str, words: str) -> None:
    finding = judge_offers(offers, EmailUrl("smtp"))

    assert verdict(finding) == expected
    assert words in finding.seen


def test_letters_in_clear_are_fine_on_this_machine_only() -> None:
    now = datetime.now(UTC)

    assert verdict(judge_tls(EmailUrl("smtp", host="localhost"), None, now)) == "ok"
    assert verdict(judge_tls(EmailUrl("smtp", host="mail.example.com"), None, now)) == "warning"
