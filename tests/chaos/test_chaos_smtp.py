"""The witness: what it takes it counts once, and each fault looks to a client as it does in the world."""

from __future__ import annotations

import smtplib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chaos.smtp import FAULTS, SLOW_S, UNDECIDABLE, MailServer
from core.errors import IntegrationError, MailDeferredError, MailInDoubtError, MailRefusedError
from integrations.email.transport import SmtpMail
from integrations.email.url import parse_email_url
from tests.house import cleared

SENDER, ANA, BO = "usher@example.org", "ana@example.com", "bo@example.com"


def letter(number: int = 1, body: str = "Hello\r\n") -> bytes:
    return f"Subject: hello\r\nMessage-ID: <{number}@example.org>\r\n\r\n{body}".encode()


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer(silence_s=0.2) as server:
        yield server


@pytest.fixture
def mail(server: MailServer) -> Iterator[SmtpMail]:
    mail = SmtpMail(parse_email_url(f"smtp://127.0.0.1:{server.port}?timeout_s=5&reply_timeout_s=5"))
    yield mail
    server.mode = "up"
    mail.close()


def send(mail: SmtpMail, number: int = 1, *, to: str = ANA, commit: Callable[[], None] = lambda: None) -> str:
    return mail.send(cleared(to), SENDER, letter(number), commit)


def outcome(mail: SmtpMail, number: int = 1) -> type[IntegrationError] | None:
    try:
        send(mail, number)
    except IntegrationError as exc:
        return type(exc)
    return None


def counted(server: MailServer) -> list[tuple[str, str, bool]]:
    return [(taken.message_id, taken.to, taken.told) for taken in server.accepted]


def wait_until(holds: Callable[[], Any]) -> None:
    give_up_at = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_a_letter_is_counted_with_its_id_recipient_size_and_time(server: MailServer, mail: SmtpMail) -> None:
    before = time.time()
    assert send(mail) == "250 2.0.0 taken"

    [taken] = server.accepted
    assert (taken.message_id, taken.to, taken.told) == ("<1@example.org>", ANA, True)
    assert taken.size == len(letter())
    assert before <= taken.at <= time.time()
    assert (server.injected, server.undecidable) == ({}, {})


def test_smtplib_gets_along_with_it_on_one_connection(server: MailServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as smtp:
        smtp.ehlo()
        assert set(smtp.esmtp_features) == {"size", "8bitmime", "smtputf8"}
        for number in range(5):
            smtp.sendmail(SENDER, [ANA, BO], letter(number))
        assert (smtp.noop()[0], smtp.rset()[0], smtp.helo()[0]) == (250, 250, 250)
    assert counted(server) == [(f"<{n}@example.org>", to, True) for n in range(5) for to in (ANA, BO)]


@pytest.mark.parametrize(
    "body", ["", ".\r\n", "..\r\n.\r\n.two\r\n", "a\r\n\r\n.b\r\n", "lone \r. and \n.\n dots\r\n"]
)
def test_dots_are_unstuffed(server: MailServer, body: str) -> None:
    """Sent by hand, with lone CR and LF as they are: only CRLF dot CRLF ends a letter."""
    whole = letter(body=body)
    stuffed = whole.replace(b"\r\n.", b"\r\n..")
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as smtp:
        smtp.ehlo()
        for number in range(2):
            assert [smtp.mail(SENDER)[0], smtp.rcpt(ANA)[0], smtp.docmd("DATA")[0]] == [250, 250, 354], number
            smtp.send(stuffed + b".\r\n")
            assert smtp.getreply()[0] == 250
    assert [taken.size for taken in server.accepted] == [len(whole)] * 2


def test_a_letter_of_no_bytes_ends_with_its_first_line(server: MailServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        smtp.rcpt(ANA)
        smtp.docmd("DATA")
        assert smtp.docmd(".")[0] == 250
    assert [(taken.message_id, taken.size) for taken in server.accepted] == [("", 0)]


@pytest.mark.parametrize("ends_at", [1, 20, -3, -1])
def test_a_letter_in_two_pieces_is_one_letter(server: MailServer, ends_at: int) -> None:
    whole = letter() + b".\r\n"
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as smtp:
        smtp.ehlo()
        smtp.mail(SENDER)
        smtp.rcpt(ANA)
        smtp.docmd("DATA")
        smtp.send(whole[:ends_at])
        with pytest.raises(TimeoutError):
            _hear(smtp, 0.05)
        smtp.send(whole[ends_at:])
        assert _hear(smtp, 5).startswith(b"250")
    assert counted(server) == [("<1@example.org>", ANA, True)]


def _hear(smtp: smtplib.SMTP, timeout_s: float) -> bytes:
    assert smtp.sock is not None
    smtp.sock.settimeout(timeout_s)
    return smtp.sock.recv(1024)


def test_commands_out_of_order_are_refused(server: MailServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as smtp:
        replies = [
            smtp.docmd(line)[0] for line in (f"MAIL FROM:<{SENDER}>", "EHLO me", "DATA", f"RCPT TO:<{ANA}>")
        ]
        smtp.command_encoding = "utf-8"
        replies += [smtp.docmd(line)[0] for line in ("MAIL FROM:me", "MAIL FROM:<ü@example.com>")]
    assert replies == [503, 250, 503, 503, 501, 553]
    assert server.accepted == []


def test_what_is_too_big_is_not_taken(server: MailServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as smtp:
        smtp.ehlo()
        assert smtp.mail(SENDER, ["SIZE=99999999"])[0] == 552
        smtp.mail(SENDER)
        smtp.rcpt(ANA)
        assert smtp.data(b"x" * 70 + b"\r\n" * 6_000_000)[0] == 552
        smtp.sendmail(SENDER, [ANA], letter())
    assert counted(server) == [("<1@example.org>", ANA, True)]


def test_an_address_that_is_not_ascii_needs_and_gets_smtputf8(server: MailServer, mail: SmtpMail) -> None:
    send(mail, to="änne@example.com")
    assert [taken.to for taken in server.accepted] == ["änne@example.com"]


REFUSED: list[tuple[str, type[IntegrationError], str]] = [
    ("421_on_connect", MailDeferredError, "421"),
    ("451_at_mail", MailDeferredError, "4.3.2"),
    ("450_greylist_at_rcpt", MailDeferredError, "4.2.0"),
    ("452_at_rcpt", MailDeferredError, "4.7.0"),
    ("454_at_data", MailDeferredError, "4.7.0"),
    ("4yz_at_dot", MailDeferredError, "4.3.0"),
    ("5yz_at_dot", MailRefusedError, "5.6.0"),
    ("421_after_dot", MailInDoubtError, "421"),
    ("close_after_dot_lost", MailInDoubtError, ""),
    ("silent_after_dot_lost", MailInDoubtError, ""),
]


@pytest.mark.parametrize(("fault", "kind", "code"), REFUSED)
def test_a_refusal_is_seen_counted_and_takes_nothing(
    server: MailServer, mail: SmtpMail, fault: str, kind: type[IntegrationError], code: str
) -> None:
    server.set_faults(**{fault: 1.0})
    with pytest.raises(kind) as caught:
        send(mail)

    assert (type(caught.value), caught.value.code) == (kind, code)
    assert getattr(caught.value, "address_is_dead", False) is False
    assert (server.accepted, server.injected) == ([], {fault: 1})
    assert server.undecidable == ({"<1@example.org>": {fault}} if fault in UNDECIDABLE else {})

    server.set_faults()
    assert outcome(mail, 2) is None
    assert counted(server) == [("<2@example.org>", ANA, True)]


@pytest.mark.parametrize("fault", ["close_after_dot_taken", "silent_after_dot_taken"])
def test_a_letter_can_be_taken_without_a_word(server: MailServer, mail: SmtpMail, fault: str) -> None:
    server.set_faults(**{fault: 1.0})
    assert outcome(mail) is MailInDoubtError

    assert counted(server) == [("<1@example.org>", ANA, False)]
    assert (server.injected, server.undecidable) == ({fault: 1}, {"<1@example.org>": {fault}})


def test_a_greylisted_pair_is_let_in_when_it_comes_back(server: MailServer, mail: SmtpMail) -> None:
    server.set_faults(**{"450_greylist_at_rcpt": 1.0})
    assert [outcome(mail, number) for number in (1, 2, 3)] == [MailDeferredError, None, None]

    assert len(server.accepted) == 2
    assert server.injected == {"450_greylist_at_rcpt": 1}


def test_a_drop_in_the_body_is_sometimes_a_reset_and_takes_nothing(server: MailServer) -> None:
    seen: set[str] = set()
    server.set_faults(drop_in_body=1.0)
    for number in range(20):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            lines = sock.makefile("rb")
            lines.readline()
            for said in (
                b"HELO me\r\n",
                b"MAIL FROM:<a@example.org>\r\n",
                b"RCPT TO:<b@example.com>\r\n",
                b"DATA\r\n",
            ):
                sock.sendall(said)
                lines.readline()
            sock.sendall(letter(number))
            try:
                seen.add(repr(lines.readline()))
            except ConnectionResetError:
                seen.add("reset")
            lines.close()
    assert seen == {"b''", "reset"}
    assert (server.accepted, server.injected) == ([], {"drop_in_body": 20})
    assert server.undecidable == {f"<{number}@example.org>": {"drop_in_body"} for number in range(20)}


def test_ushers_own_letter_that_is_dropped_is_never_taken_for_sent(
    server: MailServer, mail: SmtpMail
) -> None:
    server.set_faults(drop_in_body=1.0)

    def dropped() -> None:
        wait_until(lambda: server.injected["drop_in_body"])

    with pytest.raises((MailDeferredError, MailInDoubtError)):
        send(mail, commit=dropped)
    assert server.accepted == []


def test_a_slow_server_answers_every_command_late_and_well(server: MailServer, mail: SmtpMail) -> None:
    server.set_faults(slow=1.0)
    started = time.monotonic()
    assert outcome(mail) is None

    assert time.monotonic() - started >= 4 * SLOW_S[0]  # MAIL, RCPT, DATA, dot: what the fault promises
    assert counted(server) == [("<1@example.org>", ANA, True)]
    assert (server.injected, server.undecidable) == ({"slow": 1}, {})


def test_who_leaves_before_a_late_verdict_was_not_told(server: MailServer) -> None:
    server.set_faults(slow=1.0)
    smtp = smtplib.SMTP("127.0.0.1", server.port, timeout=5)
    smtp.ehlo()
    smtp.mail(SENDER)
    smtp.rcpt(ANA)
    smtp.docmd("DATA")
    smtp.send(letter() + b".\r\n")
    smtp.close()

    wait_until(lambda: server.undecidable)
    assert counted(server) == [("<1@example.org>", ANA, False)]
    assert server.undecidable == {"<1@example.org>": {"unanswered"}}


def test_a_refusing_server_hangs_up_takes_no_connection_and_comes_back_at_once(
    server: MailServer, mail: SmtpMail
) -> None:
    send(mail, 1)
    for number in (2, 3):
        server.mode = "refuse"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        assert outcome(mail, number) is MailDeferredError
        server.mode = "up"
        assert outcome(mail, number) is None

    assert [taken.message_id for taken in server.accepted] == [
        f"<{number}@example.org>" for number in (1, 2, 3)
    ]
    assert server.undecidable == {}


def test_a_server_that_goes_down_in_a_body_knows_whose_it_was(server: MailServer, mail: SmtpMail) -> None:
    def goes_down() -> None:
        server.mode = "refuse"
        wait_until(lambda: server.undecidable)

    with pytest.raises((MailDeferredError, MailInDoubtError)):
        send(mail, commit=goes_down)
    assert server.accepted == []
    assert server.undecidable == {"<1@example.org>": {"unanswered"}}


def test_a_silent_server_lets_in_and_says_nothing_until_it_is_back(server: MailServer) -> None:
    server.mode = "silent"
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as sock:
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(5)
        server.mode = "up"
        assert sock.recv(1024) == b"220 witness\r\n"


def test_a_kept_connection_falls_silent_too_and_goes_on_afterwards(
    server: MailServer, mail: SmtpMail
) -> None:
    send(mail, 1)
    server.mode = "silent"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, mail, 2)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        server.mode = "up"
        assert waiting.result(5) == "250 2.0.0 taken"
    assert [taken.message_id for taken in server.accepted] == ["<1@example.org>", "<2@example.org>"]


def test_a_dot_that_met_silence_is_read_later_though_nobody_waits(server: MailServer) -> None:
    """Like a frozen process: what lay in its socket is taken when it wakes up."""
    mail = SmtpMail(parse_email_url(f"smtp://127.0.0.1:{server.port}?reply_timeout_s=1"))

    def falls_silent() -> None:
        server.mode = "silent"

    with pytest.raises(MailInDoubtError):
        send(mail, commit=falls_silent)
    assert server.accepted == []
    server.mode = "up"
    wait_until(lambda: server.accepted)
    assert server.undecidable == {"<1@example.org>": {"unanswered"}}


def test_a_late_verdict_that_falls_into_silence_waits_for_its_end(server: MailServer, mail: SmtpMail) -> None:
    server.set_faults(slow=1.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, mail)
        wait_until(lambda: server.accepted)
        server.mode = "silent"
        with pytest.raises(TimeoutError):
            waiting.result(2 * SLOW_S[1])
        assert counted(server) == [("<1@example.org>", ANA, False)]
        server.mode = "up"
        assert waiting.result(5) == "250 2.0.0 taken"
    assert counted(server) == [("<1@example.org>", ANA, True)]
    assert server.undecidable == {"<1@example.org>": {"unanswered"}}


def test_shares_are_kept_and_the_same_seed_meets_the_same_faults() -> None:
    shares = {"451_at_mail": 0.2, "4yz_at_dot": 0.3, "close_after_dot_taken": 0.1}

    def kinds() -> list[type[IntegrationError] | None]:
        with MailServer(seed=7) as server:
            server.set_faults(**shares)
            mail = SmtpMail(parse_email_url(f"smtp://127.0.0.1:{server.port}"))
            found = [outcome(mail, number) for number in range(300)]
            mail.close()
            assert sum(server.injected.values()) == 300 - found.count(None)
            assert len(server.accepted) == found.count(None) + server.injected["close_after_dot_taken"]
            for name, share in shares.items():
                assert abs(server.injected[name] - 300 * share) < 30, name
            return found

    assert kinds() == kinds()


@pytest.mark.parametrize(
    ("shares", "complaint"),
    [
        ({"452_at_mail": 0.1}, "unknown faults: 452_at_mail"),
        ({"slow": 1.5}, "from 0 to 1"),
        ({"slow": -0.1}, "from 0 to 1"),
        ({"slow": 0.6, "drop_in_body": 0.6}, "together at most 1"),
    ],
)
def test_shares_that_cannot_be_are_refused_and_the_old_ones_stay(
    server: MailServer, shares: dict[str, float], complaint: str
) -> None:
    server.set_faults(**{"slow": 1.0, "421_on_connect": 1.0})
    with pytest.raises(ValueError, match=complaint):
        server.set_faults(**shares)
    assert server.faults == {"slow": 1.0, "421_on_connect": 1.0}


def test_there_are_no_more_connections_than_allowed() -> None:
    with MailServer(max_connections=2) as server:
        kept = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(3)]
        assert [sock.recv(1024)[:3] for sock in kept] == [b"220", b"220", b"421"]
        for sock in kept:
            sock.close()
        wait_until(lambda: not server._sessions)
        with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as smtp:
            assert smtp.noop()[0] == 250


def test_many_connections_at_once_are_counted_to_the_letter(server: MailServer) -> None:
    server.set_faults(**dict.fromkeys(("4yz_at_dot", "close_after_dot_taken", "close_after_dot_lost"), 0.1))
    told = [0] * 6

    def deliver(lane: int) -> None:
        mail = SmtpMail(parse_email_url(f"smtp://127.0.0.1:{server.port}"))
        for number in range(100):
            told[lane] += outcome(mail, lane * 100 + number) is None
        mail.close()

    lanes = [threading.Thread(target=deliver, args=(lane,)) for lane in range(6)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(60)
    taken = server.accepted
    assert len({letter.message_id for letter in taken}) == len(taken)
    assert sum(letter.told for letter in taken) == sum(told)
    assert len(taken) - sum(told) == server.injected["close_after_dot_taken"]
    assert (
        len(server.undecidable)
        == server.injected["close_after_dot_taken"] + server.injected["close_after_dot_lost"]
    )


def test_the_end_of_the_server_ends_its_connections_and_thread() -> None:
    with MailServer() as server:
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        assert sock.recv(1024) == b"220 witness\r\n"
        server.mode = "silent"
    assert sock.recv(1024) == b""
    sock.close()
    assert not server._thread.is_alive()


def test_every_fault_is_tried_here() -> None:
    tried = {fault for fault, _, _ in REFUSED} | UNDECIDABLE | {"drop_in_body", "slow"}
    assert tried == FAULTS
