from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from smtp_servers import Conversation, MailServer, mail_server, scripted_server, self_signed

from core.errors import MailDeferredError, MailInDoubtError, MailRefusedError
from integrations.email import transport
from integrations.email.transport import ConsoleMail, SmtpMail, mail_from_url
from integrations.email.url import parse_email_url
from tests.house import cleared

SENDER = "usher@example.org"
ANA = "ana@example.com"
LETTER = b"Subject: hello\r\n\r\nHello Ana\r\n"


@pytest.fixture(autouse=True, params=[True, False], ids=["at once", "one by one"])
def _manner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MailServer, "takes_all_at_once", request.param)


def nothing() -> None:
    pass


def smtp_to(port: int, options: str = "", **more: Any) -> SmtpMail:
    return SmtpMail(parse_email_url(f"smtp://127.0.0.1:{port}{options}"), **more)


def send(mail: SmtpMail, letter: bytes = LETTER, *, to: str = ANA) -> str:
    return mail.send(cleared(to), SENDER, letter, nothing)


# The kept connection


def test_a_letter_arrives_with_its_envelope_and_the_reply_is_returned() -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        assert send(mail) == "250 2.0.0 queued as 1"
        mail.close()
    [letter] = server.letters
    assert (letter.mail_from, letter.rcpt_tos, letter.content) == (SENDER, [ANA], LETTER)


def test_a_reply_that_is_kept_names_nobody() -> None:
    with mail_server(MailServer({"DATA": ["250 2.0.0 queued for Ana@Example.com at example.com"]})) as server:
        assert send(smtp_to(server.port)) == "250 2.0.0 queued for <address> at <domain>"


def test_while_a_server_takes_its_time_others_are_waited_for_once() -> None:
    times: list[int] = []
    waited = threading.Event()

    def wait() -> None:
        times.append(1)
        waited.set()

    def grows_slow(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 first")
        for answer in ("250 ok", "250 ok", "354 go on"):
            talk.hear()
            assert waited.wait(10)
            talk.say(answer)
        talk.hear_letter()
        talk.say("250 second")

    with scripted_server(grows_slow) as port:
        mail = smtp_to(port)
        send(mail)
        assert mail.send(cleared(ANA), SENDER, LETTER, nothing, wait) == "250 second"
    assert times == [1]


def test_before_a_connection_is_made_others_are_waited_for() -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        connections: list[int] = []
        mail.send(cleared(ANA), SENDER, LETTER, nothing, lambda: connections.append(server.connections))
        mail.close()
    assert connections == [0]


def test_many_letters_share_one_connection() -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        for _ in range(5):
            send(mail)
        mail.close()
    assert (server.connections, len(server.letters)) == (1, 5)


def test_nothing_connects_before_the_first_letter() -> None:
    with mail_server() as server:
        smtp_to(server.port).close()
    assert server.connections == 0


def test_a_connection_that_was_idle_for_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        send(mail)
        monkeypatch.setattr(transport, "IDLE_S", -1.0)
        send(mail)
        mail.close()
    assert server.connections == 2


def test_a_kept_connection_that_died_is_replaced_once_without_anybody_noticing() -> None:
    def says_goodbye(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 ok")
        talk.hear()
        talk.say("421 4.4.2 idle for too long")

    def works(talk: Conversation) -> None:
        talk.open()
        assert talk.hear_letter() == [LETTER[:16], b"\r\n", b"Hello Ana\r\n"]
        talk.say("250 second")

    with scripted_server(says_goodbye, works) as port:
        mail = smtp_to(port)
        send(mail)
        assert send(mail) == "250 second"


def test_words_that_nobody_asked_for_are_not_the_answer_to_the_next_letter() -> None:
    def says_too_much(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 ok\r\n250 and for the next one too")
        with contextlib.suppress(ConnectionResetError):  # it goes without having heard all
            assert talk.hear() == b""

    def works(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 second")

    with scripted_server(says_too_much, works) as port:
        mail = smtp_to(port)
        send(mail)
        assert send(mail) == "250 second"


def test_a_fresh_connection_that_dies_at_mail_defers_the_letter() -> None:
    def hangs_up(talk: Conversation) -> None:
        talk.say("220 hello")
        talk.hear()
        talk.say("250 hello")
        talk.hear()

    with scripted_server(hangs_up) as port, pytest.raises(MailDeferredError):
        send(smtp_to(port))


def test_a_forked_child_opens_its_own_connection_and_leaves_the_parents_alone() -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        send(mail)
        child = multiprocessing.get_context("fork").Process(target=send, args=(mail,))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        send(mail)
        mail.close()
    assert (server.connections, len(server.letters)) == (2, 3)


def test_threads_take_turns_on_the_one_connection() -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        threads = [threading.Thread(target=send, args=(mail,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        mail.close()
    assert (server.connections, len(server.letters)) == (1, 8)


# What goes over the wire


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        (b"a\r\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n"),
        (b".\r\n", b".\r\n"),
        (b"..a\r\n", b"..a\r\n"),
        (b"a\n.\nMAIL FROM:<evil@example.com>\n", b"a\r\n.\r\nMAIL FROM:<evil@example.com>\r\n"),
        (b"a\r.\rb", b"a\r\n.\r\nb\r\n"),
        (b"no end of line", b"no end of line\r\n"),
    ],
)
def test_no_line_of_a_letter_can_end_it(sent: bytes, arrived: bytes) -> None:
    with mail_server() as server:
        mail = smtp_to(server.port)
        send(mail, sent)
        mail.close()
    assert [letter.content for letter in server.letters] == [arrived]


@pytest.mark.parametrize(
    "to", ["ana@example.com>\r\nRCPT TO:<x@example.com", "ana", "a b@example.com", "@", ""]
)
def test_what_is_no_address_is_refused_before_anything_is_said(to: str) -> None:
    with mail_server() as server, pytest.raises(MailRefusedError) as failure:
        send(smtp_to(server.port), to=to)
    assert server.connections == 0
    assert "RCPT" not in str(failure.value)


def test_an_international_domain_goes_out_in_a_labels() -> None:
    with mail_server(enable_SMTPUTF8=False) as server:
        mail = smtp_to(server.port)
        send(mail, to="ana@例え.jp")
        mail.close()
    assert server.letters[0].rcpt_tos == ["ana@xn--r8jz45g.jp"]


def test_an_international_mailbox_needs_a_server_that_takes_it() -> None:
    with mail_server(enable_SMTPUTF8=True) as server:
        mail = smtp_to(server.port)
        send(mail, to="用户@例え.jp")
        send(mail)
        mail.close()
    assert [letter.rcpt_tos for letter in server.letters] == [["用户@xn--r8jz45g.jp"], [ANA]]
    assert [letter.smtp_utf8 for letter in server.letters] == [True, False]


def test_without_such_a_server_the_refusal_is_final_explained_and_no_fault_of_the_address() -> None:
    with mail_server(enable_SMTPUTF8=False) as server:
        mail = smtp_to(server.port)
        with pytest.raises(MailRefusedError, match="SMTPUTF8") as failure:
            send(mail, to="用户@例え.jp")
        assert not failure.value.address_is_dead
        assert "用户" not in str(failure.value)
        send(mail)
        mail.close()
    assert len(server.letters) == 1


# MAIL, RCPT and DATA at once (RFC 2920)


def test_where_the_server_takes_it_all_is_said_before_any_answer() -> None:
    def listens(talk: Conversation) -> None:
        talk.open_at_once("250 ok", "250 ok", "354 go on")
        assert talk.hear_letter() == [LETTER[:16], b"\r\n", b"Hello Ana\r\n"]
        talk.say("250 taken")

    with scripted_server(listens) as port:
        assert send(smtp_to(port)) == "250 taken"


def test_a_server_that_waits_for_a_letter_for_nobody_gets_none() -> None:
    """It refused the reader and takes DATA all the same: a final dot could be an empty letter."""
    heard: list[list[bytes]] = []

    def is_confused(talk: Conversation) -> None:
        talk.open_at_once("250 ok", "550 5.1.1 unknown", "354 go on")
        heard.append(talk.hear_letter())

    def works(talk: Conversation) -> None:
        talk.open_at_once("250 ok", "250 ok", "354 go on")
        talk.hear_letter()
        talk.say("250 second")

    with scripted_server(is_confused, works) as port:
        mail = smtp_to(port)
        with pytest.raises(MailRefusedError, match="RCPT") as failure:
            send(mail)
        assert failure.value.address_is_dead
        assert send(mail) == "250 second"
    assert heard == [[]]


@pytest.mark.parametrize(
    "answers",
    [
        ("550 5.7.1 not from you", "503 no sender", "503 no reader"),
        ("250 ok", "550 5.1.1 unknown", "554 no valid recipients"),
        ("250 ok", "250 ok", "554 5.3.0 no"),
    ],
)
def test_after_a_refusal_every_answer_is_heard_and_the_connection_serves_on(answers: tuple[str, ...]) -> None:
    def refuses_once(talk: Conversation) -> None:
        talk.open_at_once(*answers)
        assert talk.hear() == b"RSET\r\n"
        talk.say("250 flushed")
        assert [talk.hear()[:4] for _ in range(3)] == [b"MAIL", b"RCPT", b"DATA"]
        for answer in ("250 ok", "250 ok", "354 go on"):
            talk.say(answer)
        talk.hear_letter()
        talk.say("250 the second letter")

    refused = next(answer for answer in answers if answer.startswith("55"))
    with scripted_server(refuses_once) as port:
        mail = smtp_to(port)
        with pytest.raises(MailRefusedError, match=refused[:3]):
            send(mail)
        assert send(mail) == "250 the second letter"


@pytest.mark.parametrize("said", [("421 4.3.2 closing",), ("250 ok", "421 4.3.2 closing"), ("250 ok",), ()])
def test_a_server_that_leaves_in_the_middle_defers_the_letter(said: tuple[str, ...]) -> None:
    marks: list[str] = []
    with (
        scripted_server(lambda talk: talk.open_at_once(*said)) as port,
        pytest.raises(MailDeferredError),
    ):
        smtp_to(port).send(cleared(ANA), SENDER, LETTER, lambda: marks.append("marked"))
    assert marks == []


# Refusals and deferrals


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    "reply", ["450 4.2.0 later", "451 4.3.0 try again", "452 4.2.2 full", "454 4.7.0 slow"]
)
def test_a_4yz_defers_the_letter_and_the_connection_serves_on(command: str, reply: str) -> None:
    with mail_server(MailServer({command: [reply]})) as server:
        mail = smtp_to(server.port)
        with pytest.raises(MailDeferredError, match=reply[:3]):
            send(mail)
        send(mail)
        mail.close()
    assert (len(server.letters), server.connections) == (1, 1)


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("reply", ["550 5.7.1 not from you", "554 5.3.4 too big", "550 no"])
def test_a_5yz_refuses_the_letter_but_not_the_address(command: str, reply: str) -> None:
    with mail_server(MailServer({command: [reply]})) as server:
        mail = smtp_to(server.port)
        with pytest.raises(MailRefusedError, match=reply[:3]) as failure:
            send(mail)
        assert not failure.value.address_is_dead
        send(mail)
        mail.close()
    assert (len(server.letters), server.connections) == (1, 1)


@pytest.mark.parametrize(("command", "dead"), [("MAIL", False), ("RCPT", True), ("DATA", True)])
def test_only_an_unknown_recipient_makes_an_address_dead(command: str, dead: bool) -> None:
    with (
        mail_server(MailServer({command: ["550 5.1.1 unknown"]})) as server,
        pytest.raises(MailRefusedError) as failure,
    ):
        send(smtp_to(server.port))
    assert failure.value.address_is_dead is dead
    assert failure.value.code == "5.1.1"


@pytest.mark.parametrize(
    "reply",
    [
        "550 5.1.1 <Ana@EXAMPLE.com>: no such user ana@example.com here",
        "550 5.1.1 Ana: no such user here",
        "550 5.1.1 no such user, or no such domain as Example.com",
        "550 5.1.1 no such user, says connect to mx1.example.com",
    ],
)
def test_errors_repeat_what_the_server_said_but_no_address(reply: str) -> None:
    with mail_server(MailServer({"RCPT": [reply]})) as server, pytest.raises(MailRefusedError) as failure:
        send(smtp_to(server.port))
    assert "ana" not in str(failure.value).lower()
    assert "example.com" not in str(failure.value).lower()
    assert "no such user" in str(failure.value)


def test_a_refusal_stays_one_when_the_server_hangs_up_right_after_it() -> None:
    def refuses(talk: Conversation) -> None:
        talk.say("220 hello")
        for answer in ("250 hello", "250 ok", "550 5.1.1 unknown"):
            talk.hear()
            talk.say(answer)

    with scripted_server(refuses) as port, pytest.raises(MailRefusedError) as failure:
        send(smtp_to(port))
    assert failure.value.address_is_dead


@pytest.mark.parametrize("greeting", ["421 too busy", "554 go away", "nonsense"])
def test_an_unfriendly_greeting_defers(greeting: str) -> None:
    with scripted_server(lambda talk: talk.say(greeting)) as port, pytest.raises(MailDeferredError):
        send(smtp_to(port))


def test_a_server_that_is_not_there_defers() -> None:
    with mail_server() as server:
        pass
    with pytest.raises(MailDeferredError):
        send(smtp_to(server.port))


# Around the final dot


def test_the_mark_is_set_after_the_whole_body_and_before_the_dot() -> None:
    body_is_there = threading.Event()
    mark_is_set = threading.Event()
    order: list[str] = []

    def watches(talk: Conversation) -> None:
        talk.open()
        while talk.hear() != b"Hello Ana\r\n":
            pass
        order.append("body")
        body_is_there.set()
        assert mark_is_set.wait(20)
        assert talk.hear() == b".\r\n"
        order.append("dot")
        talk.say("250 ok")

    def mark() -> None:
        assert body_is_there.wait(20)
        order.append("mark")
        mark_is_set.set()

    with scripted_server(watches) as port:
        smtp_to(port).send(cleared(ANA), SENDER, LETTER, mark)
    assert order == ["body", "mark", "dot"]


@pytest.mark.parametrize("error", [OSError("database away"), ValueError("lease lost"), KeyboardInterrupt()])
def test_when_the_mark_is_refused_the_dot_never_goes_out_and_the_refusal_is_passed_on(
    error: BaseException,
) -> None:
    heard: list[bytes] = []

    def listens(talk: Conversation) -> None:
        talk.open()
        heard.extend(iter(talk.hear, b""))

    def refuse() -> None:
        raise error

    with scripted_server(listens) as port, pytest.raises(type(error)) as failure:
        smtp_to(port).send(cleared(ANA), SENDER, LETTER, refuse)
    assert failure.value is error
    assert b"".join(heard) == LETTER


def test_after_a_refused_mark_the_next_letter_gets_a_clean_connection() -> None:
    def refuse() -> None:
        raise MailDeferredError("lease lost")

    with mail_server() as server:
        mail = smtp_to(server.port)
        with pytest.raises(MailDeferredError):
            mail.send(cleared(ANA), SENDER, b"the first\r\n", refuse)
        send(mail)
        mail.close()
    assert [letter.content for letter in server.letters] == [LETTER]
    assert server.connections == 2


def test_a_connection_that_breaks_during_the_body_defers_before_any_mark() -> None:
    marked: list[bool] = []

    def hangs_up(talk: Conversation) -> None:
        talk.open()
        talk.hear()

    with scripted_server(hangs_up) as port, pytest.raises(MailDeferredError):
        smtp_to(port).send(
            cleared(ANA), SENDER, b"x" * 70 + b"\r\n" + b"y" * 50_000_000, lambda: marked.append(True)
        )
    assert marked == []


@pytest.mark.parametrize(
    ("early", "error"), [("552 5.3.4 too big", MailRefusedError), ("421 shutting down", MailDeferredError)]
)
def test_what_the_server_says_during_the_body_counts_before_the_mark(
    early: str, error: type[Exception]
) -> None:
    marked: list[bool] = []

    def interrupts(talk: Conversation) -> None:
        talk.open()
        talk.hear()
        talk.say(early)
        talk.hear_letter()

    letter = (
        b"x" * 998 + b"\r\n"
    ) * 20_000  # more than fits between the two, so the end is sent after `early`
    with scripted_server(interrupts) as port, pytest.raises(error):
        smtp_to(port).send(cleared(ANA), SENDER, letter, lambda: marked.append(True))
    assert marked == []


@pytest.mark.parametrize("more", ["451 4.3.0 later", "421 4.3.2 shutting down", "250 ok"])
def test_more_than_was_asked_in_one_piece_with_the_answer_to_data_keeps_the_letter_back(more: str) -> None:
    marked: list[bool] = []

    def answers_twice(talk: Conversation) -> None:
        talk.say("220 mx.example.com")
        for answer in ("250 mx.example.com", "250 ok", "250 ok", f"354 go on\r\n{more}"):
            talk.hear()
            talk.say(answer)
        talk.hear_letter()

    with scripted_server(answers_twice) as port, pytest.raises(MailDeferredError):
        smtp_to(port).send(cleared(ANA), SENDER, LETTER, lambda: marked.append(True))
    assert marked == []


def test_a_server_that_leaves_while_the_mark_is_committed_has_no_letter_in_doubt() -> None:
    committing, gone = threading.Event(), threading.Event()

    def leaves(talk: Conversation) -> None:
        talk.open()
        talk.hear()
        committing.wait(10)
        talk.sock.shutdown(socket.SHUT_RDWR)
        gone.set()

    def commit() -> None:
        committing.set()
        gone.wait(10)

    with scripted_server(leaves) as port, pytest.raises(MailDeferredError, match="before the final dot"):
        smtp_to(port).send(cleared(ANA), SENDER, LETTER, commit)


@pytest.mark.parametrize("ending", ["closed", "421 4.3.2 shutting down", "silent", "nonsense", "354 what"])
def test_without_a_verdict_after_the_dot_the_letter_is_in_doubt(ending: str) -> None:
    gave_up = threading.Event()

    def leaves_open(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        if ending == "silent":
            assert gave_up.wait(20)
        elif ending != "closed":
            talk.say(ending)

    with scripted_server(leaves_open) as port:
        url = parse_email_url(f"smtp://127.0.0.1:{port}")
        with pytest.raises(MailInDoubtError):
            send(SmtpMail(replace(url, reply_timeout_s=0.2 if ending == "silent" else 20)))
        gave_up.set()


def test_a_server_that_took_the_letter_and_died_leaves_it_in_doubt_not_sent_again() -> None:
    taken: list[list[bytes]] = []

    def takes_and_dies(talk: Conversation) -> None:
        talk.open()
        taken.append(talk.hear_letter())

    with scripted_server(takes_and_dies) as port, pytest.raises(MailInDoubtError):
        send(smtp_to(port))
    assert len(taken) == 1


def test_a_time_limit_in_the_middle_of_a_letter_leaves_nothing_of_it_to_the_next() -> None:
    class TimeLimitError(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise TimeLimitError

    def is_too_slow(talk: Conversation) -> None:
        talk.open()
        talk.hear()
        os.kill(os.getpid(), signal.SIGUSR1)
        while talk.hear():
            pass

    def works(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 second")

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with scripted_server(is_too_slow, works) as port:
            mail = smtp_to(port)
            with pytest.raises(TimeLimitError):
                send(mail)
            assert send(mail) == "250 second"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_only_the_verdict_is_waited_for_that_long() -> None:
    def falls_asleep(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 first")
        while talk.hear():
            pass

    def works(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        talk.say("250 second")

    with scripted_server(falls_asleep, works) as port:
        url = parse_email_url(f"smtp://127.0.0.1:{port}")
        mail = SmtpMail(replace(url, timeout_s=2, reply_timeout_s=60))
        assert send(mail) == "250 first"
        assert send(mail) == "250 second"


# TLS and login


def test_starttls_with_a_certificate_nobody_vouches_for_fails_closed(tmp_path: Path) -> None:
    server_tls, _ = self_signed(tmp_path)
    with (
        mail_server(tls_context=server_tls) as server,
        pytest.raises(MailDeferredError, match="certificate") as failure,
    ):
        send(smtp_to(server.port, "?tls=require"))
    assert failure.value.code == "tls"
    assert server.letters == []


def test_starttls_with_a_trusted_certificate_works(tmp_path: Path) -> None:
    server_tls, client_tls = self_signed(tmp_path)
    with mail_server(tls_context=server_tls, require_starttls=True) as server:
        mail = smtp_to(server.port, "?tls=require", tls_context=client_tls)
        send(mail)
        send(mail)
        mail.close()
    assert len(server.letters) == 2


def test_a_server_without_starttls_gets_neither_password_nor_letter() -> None:
    with mail_server() as server:
        mail = SmtpMail(parse_email_url(f"smtp://usher:secret@127.0.0.1:{server.port}"))
        with pytest.raises(MailDeferredError, match="STARTTLS"):
            send(mail)
    assert (server.letters, server.logins) == ([], [])


def test_smtps_checks_the_certificate_too(tmp_path: Path) -> None:
    server_tls, client_tls = self_signed(tmp_path)
    with mail_server(implicit_tls=server_tls) as server:
        url = parse_email_url(f"smtps://127.0.0.1:{server.port}")
        with pytest.raises(MailDeferredError, match="certificate"):
            send(SmtpMail(url))
        mail = SmtpMail(url, tls_context=client_tls)
        send(mail)
        mail.close()
    assert len(server.letters) == 1


@pytest.mark.parametrize("right", [True, False])
def test_a_wrong_password_defers_and_a_right_one_works(tmp_path: Path, right: bool) -> None:
    from aiosmtpd.smtp import AuthResult

    def check(smtp: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        server.logins.append((login.login, login.password))
        return AuthResult(success=right, handled=right)

    server_tls, client_tls = self_signed(tmp_path)
    with mail_server(tls_context=server_tls, authenticator=check, auth_required=True) as server:
        mail = SmtpMail(
            parse_email_url(f"smtp://usher:pa%2Fss@127.0.0.1:{server.port}"), tls_context=client_tls
        )
        if right:
            send(mail)
            mail.close()
        else:
            with pytest.raises(MailDeferredError, match="login") as failure:
                send(mail)
            assert "pa/ss" not in str(failure.value)
    assert server.logins[0] == (b"usher", b"pa/ss")
    assert len(server.letters) == int(right)


def test_the_console_shows_subject_and_text_of_a_letter() -> None:
    stream, marked = io.StringIO(), []
    letter = b"Subject: hello\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello Ana\r\n"
    ConsoleMail(stream).send(cleared(ANA), SENDER, letter, lambda: marked.append(True))
    assert "Subject: hello" in stream.getvalue()
    assert "Hello Ana" in stream.getvalue()
    assert marked == [True]
    assert isinstance(mail_from_url("console:"), ConsoleMail)
