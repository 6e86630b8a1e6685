"""Mails that came back, in the shapes of the programs that write them (tests/email/returned).

`@BOUNCES@` and the like stand for addresses that are signed here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.email.inbound import (
    MOST_PARTS,
    READ_BYTES,
    Ignored,
    Replied,
    Returned,
    ReturnKind,
    read_mail,
)
from integrations.email.replies import Cause, Kind
from integrations.email.return_path import ReturnPaths

RETURNED = Path(__file__).parent / "returned"
CORPUS = sorted(path.stem for path in RETURNED.glob("*.eml"))

PATHS = ReturnPaths("hello@example.com", ["the key of the tests"])
LETTER = "00112233445566778899aabbccddeeff"
OTHER = "ffeeddccbbaa99887766554433221100"
MESSAGE_ID = "<0123456789abcdef0123456789abcdef@example.com>"
STRANGERS = ReturnPaths("hello@example.com", ["a key that somebody made up"])
PLACEHOLDERS = {
    b"@BOUNCES@": PATHS.bounces(LETTER),
    b"@bounces@": PATHS.bounces(LETTER).upper(),
    b"@UNSUBSCRIBE@": PATHS.unsubscribe(LETTER),
    b"@OTHER_BOUNCES@": PATHS.bounces(OTHER),
    b"@FORGED@": STRANGERS.bounces(LETTER),
    b"@MESSAGE_ID@": MESSAGE_ID,
}


def mail(name: str) -> bytes:
    raw = (RETURNED / f"{name}.eml").read_bytes()
    for placeholder, value in PLACEHOLDERS.items():
        raw = raw.replace(placeholder, value.encode())
    return raw


def read(name: str, *recipients: str) -> Returned | Replied | Ignored:
    return read_mail(mail(name), recipients, PATHS)


BOUNCES = {
    "cut-off-report": Cause.ADDRESS,
    "exchange-mailbox-full": Cause.MAILBOX,
    "exim-unroutable": Cause.OTHER,
    "exim-user-unknown": Cause.ADDRESS,
    "gmail-full": Cause.MAILBOX,
    "gmail-not-found": Cause.ADDRESS,
    "office365-not-found": Cause.ADDRESS,
    "office365-unauthenticated": Cause.SENDER,
    "opensmtpd-error": Cause.OTHER,
    "postfix-expired": Cause.MAILBOX,
    "postfix-host-not-found": Cause.SERVER,
    "postfix-passed-on": Cause.OTHER,
    "postfix-user-unknown": Cause.ADDRESS,
    "postfix-utf8": Cause.ADDRESS,
    "qmail-no-reason": Cause.OTHER,
    "qmail-user-unknown": Cause.ADDRESS,
    "sendmail-blocklisted": Cause.SENDER,
    "sendmail-user-unknown": Cause.ADDRESS,
    "ses-user-unknown": Cause.ADDRESS,
    "two-readers-both-failed": Cause.OTHER,
    "yahoo-disabled": Cause.OTHER,
    "yahoo-generic-status": Cause.ADDRESS,
}
DELAYS = ["exim-delayed", "gmail-receiving-too-quickly", "postfix-delayed"]
COMPLAINTS = ["arf-generic", "arf-microsoft", "arf-to-the-unsubscribe-address", "arf-yahoo"]
OPT_OUTS = ["arf-opt-out", "unsubscribe-by-a-postmaster", "unsubscribe-by-button", "unsubscribe-by-hand"]
ANSWERS = ["answer-of-a-person", "report-as-an-attachment"]
NOTHING = {
    "arf-auth-failure": "feedback that is no complaint",
    "arf-forged": "names no letter of ours",
    "arf-not-spam": "feedback that is no complaint",
    "broken-everything": "has nothing to do with a letter",
    "challenge": "from a mail server, but no bounce that can be read",
    "empty-report": "a report that names no recipient",
    "forged-signature": "names no letter of ours",
    "forged-to-the-wrong-kind": "names no letter of ours",
    "forged-without-token": "names no letter of ours",
    "letter-from-a-stranger": "has nothing to do with a letter",
    "list-post": "a post of a mailing list",
    "nested-too-deep": "too many parts",
    "no-headers": "has nothing to do with a letter",
    "out-of-office-exchange-english": "an automatic answer",
    "out-of-office-gmail-french": "an automatic answer",
    "out-of-office-sieve-german": "an automatic answer",
    "own-letter-comes-round": "a letter of our own",
    "postfix-success": "a report of success",
    "read-receipt": "a read receipt",
    "tokens-of-two-letters": "names several letters",
    "two-readers-one-reached": "a report of success",
    "unsubscribe-automatic": "an automatic answer",
    "unsubscribe-without-sender": "from a mail server",
    "vacation-latin1-spanish": "an automatic answer",
    "vacation-precedence-only": "bulk mail",
}


def test_every_mail_of_the_corpus_is_looked_at_below() -> None:
    named = [*BOUNCES, *DELAYS, *COMPLAINTS, *OPT_OUTS, *ANSWERS, *NOTHING, "token-of-another-letter"]

    assert sorted(named) == CORPUS


@pytest.mark.parametrize(("name", "cause"), BOUNCES.items())
def test_a_bounce_names_its_letter_and_the_cause(name: str, cause: Cause) -> None:
    found = read(name)

    assert isinstance(found, Returned)
    assert (found.kind, found.letter) == (ReturnKind.BOUNCED, LETTER)
    assert found.reply is not None
    assert found.reply.cause is cause


@pytest.mark.parametrize("name", DELAYS)
def test_a_warning_is_no_bounce(name: str) -> None:
    found = read(name)

    assert isinstance(found, Returned)
    assert (found.kind, found.letter) == (ReturnKind.DELAYED, LETTER)


@pytest.mark.parametrize("name", COMPLAINTS)
def test_a_complaint_names_the_letter_it_is_about(name: str) -> None:
    found = read(name, "abuse@example.com")

    assert isinstance(found, Returned)
    assert (found.kind, found.letter, found.reply) == (ReturnKind.COMPLAINT, LETTER, None)


@pytest.mark.parametrize("name", OPT_OUTS)
def test_a_person_is_unsubscribed_by_mail(name: str) -> None:
    found = read(name)

    assert isinstance(found, Returned)
    assert (found.kind, found.letter) == (ReturnKind.UNSUBSCRIBE, LETTER)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_names_the_letters_it_answers(name: str) -> None:
    assert read(name) == Replied((MESSAGE_ID,))


@pytest.mark.parametrize(("name", "reason"), NOTHING.items())
def test_nothing_follows_from(name: str, reason: str) -> None:
    assert read(name) == Ignored(reason)


def test_a_bounce_concerns_the_letter_it_is_signed_for_whatever_it_quotes() -> None:
    found = read("token-of-another-letter")

    assert isinstance(found, Returned)
    assert found.letter == OTHER


@pytest.mark.parametrize("name", CORPUS)
def test_the_ends_of_lines_make_no_difference(name: str) -> None:
    assert read_mail(mail(name).replace(b"\n", b"\r\n"), [], PATHS) == read(name)


@pytest.mark.parametrize("name", [*BOUNCES, *DELAYS, *COMPLAINTS])
def test_what_was_said_is_one_short_line_without_anybodys_address(name: str) -> None:
    found = read(name)

    assert isinstance(found, Returned)
    assert found.said.isprintable()
    assert len(found.said) <= 300
    assert "@" not in found.said
    assert not {"ann", "bob.gone", "用户"} & set(found.said.replace(":", " ").split())
    assert name.startswith("office365") or "example" not in found.said.replace("bl.example.org", "")


def test_what_was_said_is_the_servers_own_words() -> None:
    found = read("postfix-user-unknown")

    assert isinstance(found, Returned)
    assert found.said == (
        "550 5.1.1 <address>: Recipient address rejected: User unknown in virtual mailbox table"
    )


def test_a_status_is_kept_where_the_words_do_not_repeat_it() -> None:
    found = read("opensmtpd-error")

    assert isinstance(found, Returned)
    assert found.said == "5.0.0"


@pytest.mark.parametrize("name", ["two-readers-both-failed", "postfix-passed-on"])
def test_what_is_wrong_behind_an_address_does_not_make_it_dead(name: str) -> None:
    found = read(name)

    assert isinstance(found, Returned)
    assert found.reply is not None
    assert not found.reply.address_is_dead


def test_a_mailbox_within_the_same_house_is_the_address_itself() -> None:
    raw = mail("postfix-user-unknown").replace(
        b"Final-Recipient: rfc822; ann@example.org", b"Final-Recipient: rfc822; ann.e@imap3.example.org"
    )
    found = read_mail(raw, [], PATHS)

    assert isinstance(found, Returned)
    assert found.reply is not None
    assert found.reply.address_is_dead


def test_the_envelope_is_asked_before_the_headers() -> None:
    found = read("postfix-user-unknown", PATHS.bounces(OTHER))

    assert isinstance(found, Returned)
    assert found.letter == OTHER


@pytest.mark.parametrize("header", ["Delivered-To", "X-Original-To", "Envelope-To", "To"])
def test_without_an_envelope_the_headers_of_mailboxes_are_asked(header: str) -> None:
    raw = mail("postfix-user-unknown").replace(b"\nTo: ", f"\n{header}: ".encode(), 1)
    found = read_mail(raw, ["somebody@example.com"], PATHS)

    assert isinstance(found, Returned)
    assert found.letter == LETTER


def test_no_other_header_names_the_letter_of_a_bounce() -> None:
    raw = mail("postfix-user-unknown").replace(b"\nTo: ", b"\nCc: ", 1)

    assert read_mail(raw, [], PATHS) == Ignored("names no letter of ours")


def test_a_bounce_is_understood_without_a_return_path() -> None:
    """Web hooks and forwarders lose it."""
    raw = mail("postfix-user-unknown").replace(b"Return-Path: <>\n", b"", 1)

    assert read_mail(raw, [], PATHS) == read("postfix-user-unknown")


def test_a_report_that_a_list_put_its_footer_under_is_still_read() -> None:
    inner = mail("postfix-user-unknown")
    head, _, body = inner.partition(b"MIME-Version: 1.0\n")
    raw = (
        head
        + b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="outer"\n\n--outer\n'
        + body
        + b"\n--outer\nContent-Type: text/plain\n\nfooter\n--outer--\n"
    )

    assert read_mail(raw, [], PATHS) == read("postfix-user-unknown")


def test_two_quoted_replies_that_differ_are_not_believed() -> None:
    raw = mail("exim-user-unknown").replace(
        b"\n------ This", b"\n    550 5.7.1 blocked for spam\n\n------ This", 1
    )
    found = read_mail(raw, [], PATHS)

    assert isinstance(found, Returned)
    assert found.reply is not None
    assert (found.kind, found.reply.cause) == (ReturnKind.BOUNCED, Cause.OTHER)


def test_a_letter_that_a_bounce_repeats_is_not_taken_for_its_reason() -> None:
    raw = mail("qmail-no-reason").replace(b"Good to have you", b"550 5.1.1 user unknown. Good to have you")
    found = read_mail(raw, [], PATHS)

    assert isinstance(found, Returned)
    assert found.reply is not None
    assert found.reply.cause is Cause.OTHER


@pytest.mark.parametrize(
    "header",
    [
        "Auto-Submitted: auto-generated",
        "Auto-Submitted: AUTO-REPLIED; owner-email=ann",
        "X-Auto-Response-Suppress: All",
        "Precedence: bulk",
        "Precedence: List",
        "Precedence: junk",
        "Precedence: auto_reply",
        "List-Id: <a.example.org>",
        "X-Autoreply: yes",
        "Return-Path: <>",
    ],
)
@pytest.mark.parametrize("name", ["answer-of-a-person", "unsubscribe-by-button"])
def test_no_automatic_mail_counts_as_a_persons_word(name: str, header: str) -> None:
    assert isinstance(read_mail(f"{header}\n".encode() + mail(name), [], PATHS), Ignored)


@pytest.mark.parametrize(
    "header", ["Auto-Submitted: no", "Precedence: normal", "Return-Path: <a@example.org>"]
)
@pytest.mark.parametrize("name", ["answer-of-a-person", "unsubscribe-by-button"])
def test_what_only_looks_like_a_sign_of_a_machine_is_none(name: str, header: str) -> None:
    assert read_mail(f"{header}\n".encode() + mail(name), [], PATHS) == read(name)


def test_of_a_mail_only_the_beginning_is_read() -> None:
    assert read_mail(mail("postfix-user-unknown") + b"x" * (2 * READ_BYTES), [], PATHS) == read(
        "postfix-user-unknown"
    )
    late = mail("postfix-user-unknown").replace(
        b"Your letter could", b"x\n" * (READ_BYTES // 2) + b"Your letter could"
    )
    assert isinstance(read_mail(late, [], PATHS), Ignored)


def test_parts_beyond_a_bound_are_not_unpacked() -> None:
    def in_parts(number: int) -> bytes:
        return (
            mail("answer-of-a-person").replace(
                b"Content-Type: text/plain; charset=utf-8\n", b'Content-Type: multipart/mixed; boundary="b"\n'
            )
            + b"\n--b\nContent-Type: text/plain\n\nx" * number
        )

    assert isinstance(read_mail(in_parts(MOST_PARTS - 1), [], PATHS), Replied)
    assert read_mail(in_parts(MOST_PARTS), [], PATHS) == Ignored("too many parts")


def test_of_a_long_line_only_the_beginning_is_read() -> None:
    """The patterns for old bounces take the square of a line's length: a line without end would take hours."""
    raw = mail("qmail-no-reason")
    assert isinstance(read_mail(raw.replace(b"<ann@", b"<" + b"a" * 900 + b"@"), [], PATHS), Returned)
    assert isinstance(read_mail(raw.replace(b"<ann@", b"<" + b"a" * 1000 + b"@"), [], PATHS), Ignored)
    assert isinstance(read_mail(raw.replace(b"<ann@", b"a" * 250_000 + b"<ann@"), [], PATHS), Ignored)


@pytest.mark.parametrize("name", ["Content-Type: multipart/mixed", "Content-Type: multipart/report"])
def test_a_header_of_parameters_without_end_is_not_taken_apart(name: str) -> None:
    """The standard parser takes the square of its length: the time limit of a test is what fails here."""
    raw = f'{name}; a="'.encode() + b";" * 250_000 + b"\n\nhello\n"
    assert read_mail(raw, [PATHS.bounces(LETTER)], PATHS) == Ignored("not readable")


def test_copies_of_an_opt_out_are_told_from_another_one() -> None:
    first, copy, other = (
        read_mail(f"Message-ID: <{number}@example.org>\n\n".encode(), [PATHS.unsubscribe(LETTER)], PATHS)
        for number in (1, 1, 2)
    )

    assert isinstance(first, Returned)
    assert first == copy != other


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 1000,
        b"\n" * 1000,
        b":\n:\n",
        b"Content-Type: multipart/report; boundary=\n\n--\n----\n",
        b"Content-Type: message/delivery-status\n\n\n\n\n",
        b"Content-Type: message/rfc822\n\n" * 40,
        b"To: " + b"(" * 100_000,
        b"To: " + b'"' * 100_000 + b"@" * 100_000,
        b"Content-Type: text/plain; a*" + b"9" * 10_000 + b"*=b\n\n",
        b"References: " + b"<" * 100_000,
    ],
)
def test_garbage_is_ignored(raw: bytes) -> None:
    assert isinstance(read_mail(raw, [], PATHS), Ignored)
    assert isinstance(read_mail(raw, ["@" * 10_000, PATHS.bounces(LETTER)], PATHS), Ignored)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(CORPUS),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.binary(max_size=8)), max_size=4),
)
def test_damaged_mails_never_say_more_than_whole_ones(
    name: str, cuts: list[tuple[float, float, bytes]]
) -> None:
    """They are ignored, or name a letter that an address in them is signed for."""
    raw = mail(name)
    for at, length, instead in cuts:
        start = int(at * len(raw))
        raw = raw[:start] + instead + raw[start + int(length * len(raw)) :]
    found = read_mail(raw, [], PATHS)

    assert isinstance(found, Returned | Replied | Ignored)
    if isinstance(found, Returned):
        assert found.letter in {letter for _, letter in PATHS.find(raw.decode("latin-1"))}
        assert found.said.isprintable()


def test_a_full_mailbox_that_was_tried_for_days_is_deferred_not_dead() -> None:
    found = read("postfix-expired")

    assert isinstance(found, Returned)
    assert found.reply is not None
    assert found.reply.mailbox_is_full
    assert found.reply.kind is Kind.DEFERRED


@pytest.mark.parametrize(
    ("header", "instead"),
    [
        (b"From: MAILER-DAEMON@qmail.example.org\n", b""),
        (b"From: MAILER-DAEMON@qmail.example.org\n", b"From: \n"),
        (
            b"From: MAILER-DAEMON@qmail.example.org\n",
            "From: Zustellfehler für Sie <a@example.org>\n".encode(),
        ),
        (b"Subject: failure notice\n", "Subject: Unzustellbar: grüße\n".encode("latin-1")),
    ],
)
def test_an_old_bounce_with_odd_headers_is_still_read(header: bytes, instead: bytes) -> None:
    raw = mail("qmail-user-unknown")
    assert header in raw

    assert read_mail(raw.replace(header, instead), [], PATHS) == read("qmail-user-unknown")
