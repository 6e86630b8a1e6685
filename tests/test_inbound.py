"""What follows from a mail that came back: from the letter that went out, by real mails, to the rows and to Wix."""

from __future__ import annotations

import email
import json
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from admin import listener as listening
from admin.inbound import COME_AGAIN
from core import events
from core.community import Member, MemberId, Membership, Subscription
from core.errors import JournalUnavailableError
from integrations.email.inbound import MOST_BYTES
from integrations.email.replies import classify_status
from integrations.email.return_path import ReturnPaths
from integrations.store.database import Database
from integrations.store.returns import Returns
from integrations.store.senders import Senders
from integrations.store.suppressions import DEAD_FOR, FULL_FOR
from integrations.store.tables import messages, outbox, suppressions
from tasks.inbound import EFFECTS, ENOUGH_PEOPLE, Mailroom, what_bounced
from tests.house import ANN, RUNNERS, SECRET, SENDER, Clock, House, a_house, an_event

ROOT = Path(__file__).resolve().parent.parent
RETURNED = ROOT / "tests" / "email" / "returned"
PATHS = ReturnPaths(SENDER, [SECRET])


@dataclass
class Post:
    """A house whose letter to Ann went out, and the mailroom for what comes back of it."""

    house: House
    room: Mailroom
    rings: list[None]

    @property
    def letter(self) -> sa.Row[tuple[object, ...]]:
        return next(row for row in self.house.services.ledger.letters() if row.member == ANN)

    def returned(self, name: str) -> bytes:
        """A mail of the corpus, about this letter."""
        raw = (RETURNED / f"{name}.eml").read_bytes()
        for placeholder, value in {
            "@BOUNCES@": PATHS.bounces(self.letter.id),
            "@bounces@": PATHS.bounces(self.letter.id),
            "@UNSUBSCRIBE@": PATHS.unsubscribe(self.letter.id),
            "@MESSAGE_ID@": self.letter.message_id or "",
            "@FORGED@": ReturnPaths(SENDER, ["another key"]).bounces(self.letter.id),
            "@OTHER_BOUNCES@": PATHS.bounces("00" * 16),
        }.items():
            raw = raw.replace(placeholder.encode(), value.encode())
        return raw

    def neighbours(self, count: int = ENOUGH_PEOPLE - 1) -> None:
        """Others at Ann's domain, whose letters came back because of us already."""
        wix = self.house.wix
        for number in range(count):
            member, address = MemberId(f"m-{number}"), f"ben{number}@example.com"
            wix.members[member] = Member(member, "APPROVED", address, "Ben")
            wix.memberships[RUNNERS, member] = Membership("joined")
            wix.subscriptions[address] = Subscription("SUBSCRIBED", "VALID")
            self.house.hear(an_event(self.house.clock, id=f"e-{number}", member=member))
        self.house.work()
        theirs = [row.id for row in self.house.services.ledger.letters() if row.member != ANN]
        assert len(theirs) == count
        for letter in theirs:
            self.room.returns.bounced(letter, "refused because of the sender (550 5.7.1)")
            self.room.returns.bounced(letter, "again")

    def say_yes(self) -> None:
        """Wix hears of the opt-out, and later of Ann's new mind."""
        clock = self.house.clock
        self.house.work()
        clock.move(minutes=10)
        news = {
            "addressHashes": list(self.house.services.hashes.of("ann@example.com")),
            "subscriptionStatus": "SUBSCRIBED",
            "deliverabilityStatus": "VALID",
            "updatedDate": clock().isoformat(),
        }
        yes = an_event(clock, type=events.SUBSCRIPTION_CHANGED, id="yes", payload=json.dumps(news))
        self.house.hear(replace(yes, occurred_at=clock()))
        clock.move(minutes=1)
        self.house.work()

    def come_back(self, name: str, times: int = 1) -> str:
        outcomes = [self.room.take_in(self.returned(name)) for _ in range(times)]
        return outcomes[0]

    def suppressed(self) -> dict[tuple[str, str], tuple[str, timedelta | None]]:
        """(whom, scope): cause and for how long."""
        with self.house.database.read() as tx:
            rows = tx.execute(sa.select(suppressions)).all()
        return {
            (row.subject.partition(":")[0], row.scope): (
                row.cause,
                None if row.expires_at is None else row.expires_at - row.created_at,
            )
            for row in rows
        }

    def owed(self) -> list[str]:
        with self.house.database.read() as tx:
            return [row.kind for row in tx.execute(sa.select(outbox).order_by(outbox.c.kind))]

    def paused(self) -> list[str]:
        return sorted(self.room.senders.pauses())

    def told_wix(self) -> list[tuple[object, ...]]:
        self.house.work()
        return [asked[1:] for asked in self.house.wix.asked if asked[0] == "set_subscription"]


@pytest.fixture
def post(database: Database, clock: Clock) -> Post:
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    assert [row.state for row in house.services.ledger.letters()] == ["sent"]
    rings: list[None] = []
    room = Mailroom(PATHS, Returns(database), Senders(database, SENDER), lambda: rings.append(None))
    return Post(house, room, rings)


def test_a_letter_goes_out_with_the_address_that_its_bounce_comes_back_to(post: Post) -> None:
    assert [sender for sender, _, _ in post.house.mail.letters] == [PATHS.bounces(post.letter.id)]


def test_a_dead_address_is_suppressed_for_half_a_year_and_wix_is_told(post: Post) -> None:
    assert post.come_back("postfix-user-unknown") == "bounced: the address is dead"

    assert (post.letter.state, post.letter.bounced_at) == ("bounced", post.house.clock())
    assert post.letter.reason == (
        "the address is dead (550 5.1.1 <address>: Recipient address rejected: User unknown in virtual mailbox table)"
    )
    assert post.suppressed() == {("address", "all"): ("dead", DEAD_FOR)}
    assert post.rings == [None]
    assert post.told_wix() == [("ann@example.com", "", "BOUNCED")]
    assert post.paused() == []


def test_a_full_mailbox_rests_for_three_days_and_wix_hears_nothing(post: Post) -> None:
    assert post.come_back("exchange-mailbox-full") == "bounced: the mailbox is full"

    assert post.letter.state == "bounced"
    assert post.suppressed() == {("address", "all"): ("full", FULL_FOR)}
    assert (post.told_wix(), post.paused()) == ([], [])


@pytest.mark.parametrize("name", ["office365-unauthenticated", "sendmail-blocklisted"])
def test_what_lies_with_us_pauses_the_sender_and_suppresses_nobody(post: Post, name: str) -> None:
    post.neighbours()
    assert post.come_back(name) == "bounced: refused because of the sender"

    assert post.letter.state == "bounced"
    assert post.paused() == [post.letter.domain]
    assert (post.suppressed(), post.told_wix()) == ({}, [])


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("postfix-host-not-found", "bounced: the mail server had a problem"),
        ("qmail-no-reason", "bounced: it bounced"),
        ("postfix-passed-on", "bounced: it bounced"),
    ],
)
def test_what_says_nothing_of_reader_or_sender_is_only_noted(post: Post, name: str, outcome: str) -> None:
    assert post.come_back(name) == outcome

    assert post.letter.state == "bounced"
    assert (post.suppressed(), post.told_wix(), post.paused()) == ({}, [], [])


@pytest.mark.parametrize("name", ["arf-yahoo", "arf-microsoft", "arf-generic"])
def test_a_complaint_ends_all_letters_for_good_and_wix_is_told(post: Post, name: str) -> None:
    assert post.come_back(name) == "complaint"

    assert (post.letter.state, post.letter.complained_at) == ("sent", post.house.clock())
    assert post.suppressed() == {
        ("address", "all"): ("complaint", None),
        ("member", "all"): ("complaint", None),
    }
    assert post.told_wix() == [("ann@example.com", "UNSUBSCRIBED", "SPAM_COMPLAINT")]


@pytest.mark.parametrize("name", ["unsubscribe-by-hand", "unsubscribe-by-button", "arf-opt-out"])
def test_an_opt_out_by_mail_is_as_good_as_a_click(post: Post, name: str) -> None:
    assert post.come_back(name) == "unsubscribe"

    assert post.letter.state == "sent"
    assert post.suppressed() == {
        ("address", "promotional"): ("unsubscribed", None),
        ("member", "promotional"): ("unsubscribed", None),
    }
    assert post.told_wix() == [("ann@example.com", "UNSUBSCRIBED", "")]
    with post.house.database.read() as tx:
        found = tx.execute(sa.select(suppressions.c.reason, suppressions.c.letter).distinct()).all()
    assert [tuple(row) for row in found] == [("unsubscribed here (mail)", post.letter.id)]


def test_an_answer_is_noted(post: Post) -> None:
    assert post.come_back("answer-of-a-person") == "answered"

    assert (post.letter.state, post.letter.replied_at) == ("sent", post.house.clock())
    assert (post.suppressed(), post.told_wix()) == ({}, [])


@pytest.mark.parametrize("name", ["postfix-delayed", "exim-delayed"])
def test_a_delay_changes_nothing(post: Post, name: str) -> None:
    before = post.letter

    assert post.come_back(name) == "delayed"
    assert post.letter == before
    assert (post.suppressed(), post.owed(), post.paused(), post.rings) == ({}, [], [], [])


QUIET = sorted(
    path.stem
    for path in RETURNED.glob("*.eml")
    if re.match(
        r"forged|out-of-office|vacation|list|own|arf-(forged|not|auth)|unsubscribe-(auto|without)|token",
        path.stem,
    )
)


@pytest.mark.parametrize("name", QUIET)
def test_forged_and_automatic_mails_change_nothing(post: Post, name: str) -> None:
    before = post.letter
    post.come_back(name)

    assert post.letter == before
    assert (post.suppressed(), post.owed(), post.paused(), post.rings) == ({}, [], [], [])


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("postfix-user-unknown", "bounced: the address is dead"),
        ("exchange-mailbox-full", "bounced: the mailbox is full"),
        ("office365-unauthenticated", "bounced: refused because of the sender"),
        ("arf-yahoo", "complaint"),
        ("answer-of-a-person", "answered"),
    ],
)
def test_forty_six_copies_have_one_effect(post: Post, name: str, outcome: str) -> None:
    assert post.come_back(name) == outcome
    once = (post.letter, post.suppressed(), post.owed(), post.room.senders.pauses())
    post.house.clock.move(hours=1)

    assert {post.room.take_in(post.returned(name)) for _ in range(45)} == {
        "known already, or about no letter that is known"
    }
    assert (post.letter, post.suppressed(), post.owed(), post.room.senders.pauses()) == once


def test_a_few_readers_cannot_hold_up_the_letters_of_a_whole_domain(post: Post) -> None:
    post.neighbours(ENOUGH_PEOPLE - 2)
    post.come_back("office365-unauthenticated", times=3)

    assert post.letter.state == "bounced"
    assert post.paused() == []


def test_a_late_copy_does_not_pause_a_sender_that_writes_again(post: Post) -> None:
    post.neighbours()
    post.come_back("office365-unauthenticated")
    assert post.room.senders.resume(post.paused()[0])
    post.come_back("office365-unauthenticated")

    assert post.paused() == []


def test_copies_of_an_opt_out_are_one_opt_out(post: Post) -> None:
    post.come_back("unsubscribe-by-button", times=46)

    assert post.owed() == ["unsubscribe"]
    assert len(post.suppressed()) == 2


def test_a_late_copy_of_an_opt_out_does_not_undo_what_the_reader_said_since(post: Post) -> None:
    post.come_back("unsubscribe-by-button")
    post.say_yes()
    assert post.suppressed() == {}

    assert post.come_back("unsubscribe-by-button") == "known already, or about no letter that is known"
    assert post.suppressed() == {}
    assert post.told_wix() == [("ann@example.com", "UNSUBSCRIBED", "")]


def test_another_opt_out_from_the_same_letter_counts(post: Post) -> None:
    post.come_back("unsubscribe-by-button")
    post.say_yes()

    assert post.come_back("unsubscribe-by-hand") == "unsubscribe"
    assert len(post.suppressed()) == 2


def test_a_bounce_after_a_complaint_still_counts_and_takes_nothing_back(post: Post) -> None:
    post.come_back("arf-yahoo")
    post.come_back("postfix-user-unknown")

    assert post.letter.state == "bounced"
    assert post.suppressed()["address", "all"] == ("complaint", None)


def test_a_bounce_settles_a_letter_in_doubt(post: Post) -> None:
    """The server took it, or it could not have come back."""
    with post.house.database.begin() as tx:
        tx.execute(sa.update(messages).values(state="in_doubt", sent_at=None))
    post.come_back("postfix-host-not-found")

    assert post.letter.state == "bounced"


def test_a_bounce_of_a_letter_that_was_given_up_still_tells_of_its_address(post: Post) -> None:
    with post.house.database.begin() as tx:
        tx.execute(sa.update(messages).values(state="in_doubt", sent_at=None))
    given_up = post.house.services.ledger.give_up(post.letter.id, who="a test")

    assert post.come_back("postfix-user-unknown", times=2) == "bounced: the address is dead"
    assert (post.letter.state, post.letter.reason) == ("failed", given_up.reason)
    assert post.suppressed() == {("address", "all"): ("dead", DEAD_FOR)}
    assert len(post.rings) == 1


@pytest.mark.parametrize("state", ["planned", "skipped", "failed", "deferred"])
def test_a_letter_that_never_went_out_cannot_bounce(post: Post, state: str) -> None:
    with post.house.database.begin() as tx:
        tx.execute(sa.update(messages).values(state=state))

    assert post.come_back("postfix-user-unknown") == "known already, or about no letter that is known"
    assert post.letter.state == state
    assert post.suppressed() == {}


def test_a_letter_that_is_not_there_any_more_is_no_failure(post: Post) -> None:
    raw = post.returned("postfix-user-unknown")
    with post.house.database.begin() as tx:
        tx.execute(sa.delete(messages))

    assert post.room.take_in(raw) == "known already, or about no letter that is known"


def test_a_bounce_that_is_back_before_its_letter_was_recorded_counts_as_sent(post: Post) -> None:
    with post.house.database.begin() as tx:
        tx.execute(sa.update(messages).values(state="sending", marked=True, sent_at=None))

    post.come_back("postfix-user-unknown")

    assert (post.letter.state, post.letter.sent_at) == ("bounced", post.house.clock())


def test_a_bounce_of_somebody_forgotten_pauses_nobody(post: Post) -> None:
    """The domain is gone with the person, and a pause of no domain would be one of all."""
    with post.house.database.begin() as tx:
        tx.execute(sa.update(messages).values(address_hash=None, domain=None))
    post.come_back("office365-unauthenticated")

    assert post.letter.state == "bounced"
    assert post.paused() == []


def test_no_address_comes_into_the_log(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        for name in (
            "postfix-user-unknown",
            "arf-yahoo",
            "unsubscribe-by-hand",
            "answer-of-a-person",
            "postfix-delayed",
        ):
            post.come_back(name)

    mine = [record for record in caplog.records if record.name == "tasks.inbound"]
    assert [record.message for record in mine] == [
        "mail.returned",
        "mail.returned",
        "mail.returned",
        "mail.answered",
        "mail.delayed",
    ]
    assert "@" not in str([vars(record) for record in mine])


@pytest.mark.parametrize(
    ("status", "what"),
    [
        ("5.1.1", "the address is dead"),
        ("5.1.10", "the address is dead"),
        ("5.2.1", "the address is dead"),
        ("5.2.2", "the mailbox is full"),
        ("4.2.2", "the mailbox is full"),
        ("5.7.1", "refused because of the sender"),
        ("5.7.515", "refused because of the sender"),
        ("5.1.7", "refused because of the sender"),
        ("5.1.8", "refused because of the sender"),
        ("4.5.3", "refused because of too many letters"),
        ("5.3.0", "the mail server had a problem"),
        ("5.3.4", "the mail server had a problem"),
        ("4.4.7", "the mail server had a problem"),
        ("5.4.4", "the mail server had a problem"),
        ("4.1.1", "it bounced"),
        ("5.2.0", "it bounced"),
        ("5.2.3", "it bounced"),
        ("5.6.0", "it bounced"),
        ("5.0.0", "it bounced"),
        ("", "it bounced"),
    ],
)
def test_the_class_of_a_bounce_is_that_of_its_status(status: str, what: str) -> None:
    assert what_bounced(classify_status(status)) == what
    assert what in EFFECTS


def test_a_bounce_without_any_reply_is_a_bounce() -> None:
    assert what_bounced(None) == "it bounced"


# The document


def test_the_table_of_the_document_is_what_happens() -> None:
    text = (ROOT / "docs" / "bounces.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z][^|]*?) \|[^|]*\| ([^|]*?) \|[^|]*\|$", text, re.MULTILINE))

    assert {name for name in rows if name in EFFECTS} == set(EFFECTS)
    for name, effect in EFFECTS.items():
        assert (f"{DEAD_FOR.days} days" in rows[name]) == (effect.address == "dead"), name
        assert (f"{FULL_FOR.days} days" in rows[name]) == (effect.address == "full"), name
        assert ("paused" in rows[name]) == effect.pauses, name


# The pipe


def pipe(
    database: Database, raw: bytes, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database.url.render_as_string(hide_password=False),
        "SECRET_KEY": SECRET,
        "EMAIL_FROM": f"Usher <{SENDER}>",
        **settings,
    }
    command = "from admin.inbound import app; app()"
    arguments = (sys.executable, "-c", command, "take", *arguments)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, env=environment, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(raw)  # to the end, as a mail server does: it may not find the pipe closed
        process.stdin.close()
        said, problems = process.stdout.read(), process.stderr.read()
        return subprocess.CompletedProcess(arguments, process.wait(60), said, problems)


def test_a_mail_server_pipes_a_bounce_in(post: Post) -> None:
    done = pipe(post.house.database, post.returned("postfix-user-unknown"))

    assert (done.returncode, done.stdout, done.stderr) == (0, b"bounced: the address is dead\n", b"")
    assert post.letter.state == "bounced"
    assert len(post.suppressed()) == 1


@pytest.fixture
def empty_database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/usher.db")
    database.migrate()
    yield database
    database.close()


UNKNOWN = b"known already, or about no letter that is known\n"


def test_the_pipe_is_told_the_recipient(empty_database: Database) -> None:
    raw = b"From: ann@example.org\n\nstop\n"
    done = pipe(empty_database, raw, "--recipient", PATHS.unsubscribe("ab" * 16))

    assert (done.returncode, done.stdout) == (0, UNKNOWN)


def test_the_pipe_takes_whatever_comes_to_its_end(empty_database: Database) -> None:
    opt_out = f"To: {PATHS.unsubscribe('ab' * 16)}\n\n".encode()

    assert pipe(empty_database, opt_out + b"x" * 3 * MOST_BYTES).stdout == UNKNOWN
    assert pipe(empty_database, b"").stdout == b"ignored: has nothing to do with a letter\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DATABASE_URL": "sqlite:////nowhere/at/all/usher.db"}, ""),
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/nobody"}, ""),
        ({"SECRET_KEY": "", "EMAIL_FROM": "", "PORT": "many"}, "SECRET_KEY: is required"),
        ({"EMAIL_FROM": "Usher <a-name-that-is-much-too-long@example.com>"}, "no addresses for answers"),
    ],
)
def test_what_cannot_be_taken_now_stays_with_the_mail_server(
    empty_database: Database, settings: dict[str, str], said: str
) -> None:
    """Any other code than 75 would have it thrown away."""
    opt_out = f"To: {PATHS.unsubscribe('ab' * 16)}\n\n".encode()
    done = pipe(empty_database, opt_out, **settings)

    assert (done.returncode, done.stdout) == (COME_AGAIN, b"")
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


# The listener


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@contextmanager
def a_listener(database: Database) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = find_port()
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database.url.render_as_string(hide_password=False),
        "SECRET_KEY": SECRET,
        "EMAIL_FROM": f"Usher <{SENDER}>",
    }
    command = "from admin.inbound import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "listen", "--port", str(port)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        assert b"mail.listening" in process.stdout.readline()
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_a_bounce_comes_by_smtp_to_a_process_of_its_own(post: Post) -> None:
    raw = post.returned("postfix-user-unknown").replace(b"Return-Path: <>\n", b"", 1)
    raw = raw.replace(b"\n", b"\r\n")
    with (
        a_listener(post.house.database) as (port, process),
        smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp,
    ):
        refused = smtp.sendmail("<>", [PATHS.bounces(post.letter.id).upper()], raw)
        assert refused == {}
        assert post.letter.state == "bounced"  # committed before the 250
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[0].decode()
        assert process.returncode == 0

    assert '"mail.returned"' in said
    assert "@" not in said


@contextmanager
def listening_to(room: Mailroom) -> Iterator[tuple[int, listening.Listener]]:
    """The listener in this process, so that it can be asked what it holds."""
    import asyncio
    import threading

    loop = asyncio.new_event_loop()
    listener = listening.Listener(room)
    server = loop.run_until_complete(listening.open_listener(listener, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield server.sockets[0].getsockname()[1], listener
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
        listener.close()


@dataclass
class Taker:
    """Stands for a mailroom; `fails` holds errors to raise first."""

    paths: ReturnPaths
    fails: list[Exception]
    taken: list[tuple[bytes, list[str]]]

    def take_in(self, raw: bytes, recipients: list[str]) -> str:
        if self.fails:
            raise self.fails.pop(0)
        self.taken.append((raw, recipients))
        return "taken"


@pytest.fixture
def taker() -> Taker:
    return Taker(PATHS, [], [])


@pytest.fixture
def smtp(taker: Taker) -> Iterator[smtplib.SMTP]:
    with listening_to(taker) as (port, _), smtplib.SMTP("127.0.0.1", port, timeout=20) as connection:  # type: ignore[arg-type]
        connection.ehlo("mx.example.org")
        yield connection


OURS = PATHS.bounces("ab" * 16)


@pytest.mark.parametrize("sender", ["", "ann@example.org"])
def test_the_listener_notes_who_sent_a_mail(smtp: smtplib.SMTP, taker: Taker, sender: str) -> None:
    assert smtp.sendmail(f"<{sender}>", [OURS], b"Subject: hello\r\n\r\n..\r\n") == {}

    assert taker.taken == [(f"Return-Path: <{sender}>\r\nSubject: hello\r\n\r\n..\r\n".encode(), [OURS])]


@pytest.mark.parametrize(
    "recipient",
    [
        OURS,
        OURS.upper(),
        PATHS.unsubscribe("cd" * 16),
        SENDER,
        f"abuse@{SENDER.partition('@')[2]}",
        f"Postmaster@{SENDER.partition('@')[2]}",
        "postmaster",
    ],
)
def test_the_listener_takes_mail_for_its_own_addresses(smtp: smtplib.SMTP, recipient: str) -> None:
    smtp.mail("<>")

    assert smtp.rcpt(recipient)[0] == 250


@pytest.mark.parametrize(
    "recipient",
    [
        "ann@example.org",
        "postmaster@example.org",
        OURS.replace("@", "x@"),
        OURS.replace("+b", "+u"),
        ReturnPaths(SENDER, ["another key"]).bounces("ab" * 16),
        OURS.partition("@")[0] + "@example.org",
        f"ann%example.org@{SENDER.partition('@')[2]}",
        f"@{SENDER.partition('@')[2]}:ann@example.org",
        "",
    ],
)
def test_the_listener_passes_nothing_on(smtp: smtplib.SMTP, recipient: str) -> None:
    smtp.mail("<>")

    assert smtp.rcpt(recipient)[0] // 100 == 5


@pytest.mark.parametrize("failure", [JournalUnavailableError("away"), ValueError("a defect")])
def test_what_cannot_be_committed_is_asked_for_again(
    smtp: smtplib.SMTP, taker: Taker, failure: Exception
) -> None:
    taker.fails.append(failure)
    with pytest.raises(smtplib.SMTPDataError) as refused:
        smtp.sendmail("<>", [OURS], b"Subject: hello\r\n\r\n")

    assert refused.value.smtp_code == 451
    assert b"away" not in refused.value.smtp_error
    assert b"defect" not in refused.value.smtp_error
    assert smtp.sendmail("<>", [OURS], b"Subject: hello\r\n\r\n") == {}
    assert len(taker.taken) == 1


def test_a_mail_over_a_mebibyte_is_refused_for_good(smtp: smtplib.SMTP, taker: Taker) -> None:
    raw = b"Subject: hello\r\n\r\n" + (b"x" * 98 + b"\r\n") * (MOST_BYTES // 100 + 1)
    with pytest.raises(smtplib.SMTPSenderRefused) as announced:
        smtp.sendmail("<>", [OURS], raw)
    assert announced.value.smtp_code == 552

    smtp.rset()
    smtp.mail("<>")
    smtp.rcpt(OURS)
    assert smtp.data(raw)[0] == 552
    assert taker.taken == []
    assert smtp.sendmail("<>", [OURS], raw[: MOST_BYTES // 2]) == {}


def test_a_line_without_end_is_cut_off() -> None:
    taker = Taker(PATHS, [], [])
    with listening_to(taker) as (port, _):  # type: ignore[arg-type]
        smtp = smtplib.SMTP("127.0.0.1", port, timeout=20)
        smtp.ehlo("mx.example.org")
        smtp.mail("<>")
        smtp.rcpt(OURS)
        smtp.docmd("DATA")
        assert smtp.sock is not None
        with pytest.raises(ConnectionError):
            smtp.sock.sendall(b"x" * 4 * listening.MOST_BYTES_AT_ONCE)
        smtp.close()
        assert taker.taken == []


def test_many_recipients_come_in_several_turns(smtp: smtplib.SMTP) -> None:
    smtp.mail("<>")
    codes = [smtp.rcpt(OURS)[0] for _ in range(listening.MOST_RECIPIENTS + 1)]

    assert codes == [250] * listening.MOST_RECIPIENTS + [452]


def test_one_connection_too_many_is_told_to_come_again(taker: Taker) -> None:
    with listening_to(taker) as (port, listener):  # type: ignore[arg-type]
        held = [
            smtplib.SMTP("127.0.0.1", port, timeout=20, source_address=(f"127.0.0.{2 + number % 4}", 0))
            for number in range(listening.MOST_CONNECTIONS)
        ]
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert refused.value.smtp_code == 421
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 20
        while listener.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert listener.connections == 0
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
            assert smtp.noop()[0] == 250


def test_no_peer_holds_the_door_shut_alone(taker: Taker) -> None:
    with listening_to(taker) as (port, _):  # type: ignore[arg-type]
        held = [smtplib.SMTP("127.0.0.1", port, timeout=20) for _ in range(listening.MOST_OF_ONE_PEER)]
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert refused.value.smtp_code == 421
        with smtplib.SMTP("127.0.0.1", port, timeout=20, source_address=("127.0.0.2", 0)) as smtp:
            assert smtp.noop()[0] == 250
        for connection in held:
            connection.close()


@pytest.mark.parametrize("bound", ["FRUITLESS_S", "LIFE_S"])
def test_no_connection_lasts_for_ever_however_busy(
    taker: Taker, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(listening, bound, 0.3)
    monkeypatch.setattr(listening, "MOST_COMMANDS", 1000)
    with listening_to(taker) as (port, listener):  # type: ignore[arg-type]
        busy = smtplib.SMTP("127.0.0.1", port, timeout=20)
        said = [busy.noop()[0]]
        while said[-1] == 250 and len(said) < 500:
            time.sleep(0.02)
            said.append(busy.noop()[0])
        assert said[-1] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            busy.getreply()
        assert listener.connections == 0


def test_who_brought_a_mail_may_stay_longer(taker: Taker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "FRUITLESS_S", 2.0)
    with listening_to(taker) as (port, _):  # type: ignore[arg-type]
        useful = smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert useful.sendmail("<>", [OURS], b"Subject: hello\r\n\r\n") == {}
        idle = smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert idle.getreply()[0] == 421
        assert useful.noop()[0] == 250
        useful.close()


def test_a_port_that_is_taken_is_named(post: Post) -> None:
    from core.errors import ConfigError

    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            listening.serve(post.room, "127.0.0.1", port)


def test_the_unsubscribe_address_in_a_letter_is_where_an_opt_out_goes(post: Post) -> None:
    """From the header of the letter that went out to the end of letters."""
    letter = email.message_from_bytes(post.house.mail.letters[0][2])
    match = re.search(r"<mailto:([^>?]+)", str(letter["List-Unsubscribe"]))
    assert match is not None
    answer = f"From: ann@example.com\r\nTo: {match[1]}\r\nSubject: unsubscribe\r\n\r\n".encode()

    assert post.room.take_in(answer) == "unsubscribe"
