from __future__ import annotations

import pytest

from integrations.email.replies import Cause, Kind, classify, classify_status


@pytest.mark.parametrize(
    ("code", "text", "kind", "cause"),
    [
        (250, "2.0.0 Ok: queued as 4T1", Kind.DONE, Cause.OTHER),
        (250, "ok", Kind.DONE, Cause.OTHER),
        (252, "2.1.5 will try", Kind.DONE, Cause.OTHER),
        (421, "4.3.2 closing", Kind.DEFERRED, Cause.SERVER),
        (421, "4.7.0 too many messages", Kind.DEFERRED, Cause.THROTTLE),
        (450, "4.2.0 greylisted", Kind.DEFERRED, Cause.OTHER),
        (450, "mailbox busy", Kind.DEFERRED, Cause.OTHER),
        (451, "4.3.0 local error", Kind.DEFERRED, Cause.SERVER),
        (452, "4.2.2 over quota", Kind.DEFERRED, Cause.MAILBOX),
        (454, "4.7.0 Throttling failure: maximum sending rate exceeded", Kind.DEFERRED, Cause.THROTTLE),
        (550, "5.1.1 user unknown", Kind.REFUSED, Cause.ADDRESS),
        (550, "5.1.10 null mx", Kind.REFUSED, Cause.ADDRESS),
        (550, "5.2.1 mailbox disabled", Kind.REFUSED, Cause.ADDRESS),
        (552, "5.2.2 mailbox full", Kind.DEFERRED, Cause.MAILBOX),
        (552, "5.2.3 too large", Kind.REFUSED, Cause.MAILBOX),
        (552, "5.3.4 too large for the system", Kind.REFUSED, Cause.SERVER),
        (553, "5.1.8 sender's domain not found", Kind.REFUSED, Cause.SENDER),
        (550, "5.4.1 no route", Kind.REFUSED, Cause.SERVER),
        (550, "5.7.1 rejected by policy", Kind.REFUSED, Cause.SENDER),
        (550, "5.7.515 access denied, sending domain does not pass", Kind.REFUSED, Cause.SENDER),
        (554, "transaction failed", Kind.REFUSED, Cause.OTHER),
        (554, "5.7.1 user unknown", Kind.REFUSED, Cause.SENDER),  # the code wins over the words
        (550, "5.6.0 no such user", Kind.REFUSED, Cause.OTHER),
        (550, "No such user here", Kind.REFUSED, Cause.ADDRESS),
        (550, "Recipient unknown", Kind.REFUSED, Cause.ADDRESS),
        (554, "no such user", Kind.REFUSED, Cause.OTHER),  # 554 is said for everything
        (550, "mailbox unavailable", Kind.REFUSED, Cause.OTHER),
        (550, "4.2.1 come back", Kind.DEFERRED, Cause.ADDRESS),
        (450, "5.1.1 not sure yet", Kind.DEFERRED, Cause.ADDRESS),
        (550, "see below\n5.1.1 unknown", Kind.REFUSED, Cause.ADDRESS),
        (550, "client 5.1.1.9 is listed", Kind.REFUSED, Cause.OTHER),  # an IP address is no code
        (-1, "", Kind.DEFERRED, Cause.OTHER),
        (354, "go on", Kind.DEFERRED, Cause.OTHER),
    ],
)
def test_a_reply_means_what_its_codes_say(code: int, text: str, kind: Kind, cause: Cause) -> None:
    reply = classify(code, text)
    assert (reply.kind, reply.cause) == (kind, cause)


@pytest.mark.parametrize(
    "enhanced",
    [
        "5.2.2",
        "5.3.0",
        "5.3.4",
        "5.4.4",
        "5.5.0",
        "5.6.1",
        "5.7.0",
        "5.7.515",
        "5.1.4",
        "5.1.5",
        "5.1.7",
        "5.1.8",
        "5.1.9",
    ],
)
def test_no_reason_that_lies_with_us_or_a_server_makes_an_address_dead(enhanced: str) -> None:
    assert not classify(550, f"{enhanced} user unknown").address_is_dead


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"])
def test_a_reason_that_lies_with_the_address_makes_it_dead(enhanced: str) -> None:
    reply = classify(550, f"{enhanced} refused")
    assert reply.address_is_dead
    assert reply.enhanced == enhanced


@pytest.mark.parametrize("text", ["4.1.1 unknown for now", "unknown user"])
def test_what_may_pass_makes_no_address_dead(text: str) -> None:
    assert not classify(450, text).address_is_dead


ADDRESS, MAILBOX, SENDER, THROTTLE, SERVER, OTHER = (
    Cause.ADDRESS,
    Cause.MAILBOX,
    Cause.SENDER,
    Cause.THROTTLE,
    Cause.SERVER,
    Cause.OTHER,
)


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        # too much at once
        (
            "421 4.7.0 [TSS04] Messages from 192.0.2.10 temporarily deferred due to unexpected volume",
            THROTTLE,
        ),
        ("421 4.7.28 an unusual rate of unsolicited mail originating from your IP address", THROTTLE),
        ("421-4.7.0 Try again later, closing connection.", THROTTLE),
        ("421 RP-001 The mail server IP has exceeded the rate limit allowed", THROTTLE),
        ("450 4.2.1 The user you are trying to contact is receiving mail too quickly", THROTTLE),
        ("450 4.2.1 The user is receiving mail at a rate that prevents additional messages", THROTTLE),
        ("550 5.2.1 The user is receiving mail at a rate that prevents additional messages", THROTTLE),
        ("450 4.7.1 Error: too much mail from 192.0.2.10", THROTTLE),
        ("451 4.7.650 The mail server has been temporarily rate limited due to IP reputation", THROTTLE),
        ("452 4.5.3 Too many recipients", THROTTLE),
        ("452 4.5.3 Your message is for more readers than we take at once", THROTTLE),
        ("452 too many messages in this connection, too many connections", THROTTLE),
        ("454 Throttling failure: Daily message quota exceeded.", THROTTLE),
        ("550 5.4.5 Daily user sending limit exceeded", THROTTLE),
        # greylisting says nothing of anybody
        ("450 4.7.1 <ann@example.org>: Recipient address rejected: Greylisted for 5 minutes", OTHER),
        ("451 4.7.1 Greylisting in action, please come back later", OTHER),
        ("451 4.7.1 graylisted, try again", OTHER),
        # full
        ("452 4.2.2 The email account that you tried to reach is over quota", MAILBOX),
        ("552 5.2.2 Mailbox size limit exceeded", MAILBOX),
        ("552 Requested mail action aborted: exceeded storage allocation", MAILBOX),
        ("552 mailbox full", MAILBOX),
        ("550 Mailbox is over quota", MAILBOX),
        ("550 user ann: quota exceeded", MAILBOX),
        ("550 Das Postfach des Benutzers ist voll", MAILBOX),
        ("552 La boite du destinataire est pleine", MAILBOX),
        ("452 El buzon del usuario esta lleno", MAILBOX),
        # nobody of this name
        ("550-5.1.1 The email account that you tried to reach does not exist.", ADDRESS),
        ("550 #5.1.0 Address rejected ann@example.org", ADDRESS),
        ("550 sorry, no mailbox here by that name (#5.1.1 - chkuser)", ADDRESS),
        ("511 sorry, no mailbox here by that name (#5.1.1 - chkuser)", ADDRESS),
        ("550 5.0.0 <ann@example.org>... User unknown", ADDRESS),
        ("550 <ann@example.org>: Recipient address rejected: User unknown in local recipient table", ADDRESS),
        ("550 Mailbox ann@example.org does not exist", ADDRESS),
        ("550 Unknown local user", ADDRESS),
        ("550 Invalid recipient <ann@example.org>", ADDRESS),
        ("550 Unrouteable address", ADDRESS),
        ("551 User not local; recipient unknown", ADDRESS),
        ("553 sorry, this recipient is not a valid mailbox", ADDRESS),
        ("550 Empfaenger unbekannt", ADDRESS),
        ("550 Empfänger ann existiert nicht", ADDRESS),
        ("550 Adresse inconnue: utilisateur inconnu", ADDRESS),
        ("550 Le destinataire ann@example.org n'existe pas", ADDRESS),
        ("550 El usuario no existe", ADDRESS),
        ("550 Usuario desconocido", ADDRESS),
        ("550 Utente sconosciuto", ADDRESS),
        ("550 La casella ann@example.org inesistente", ADDRESS),
        ("550 Usuário não existe", ADDRESS),
        ("550 Gebruiker onbekend", ADDRESS),
        ("550 Użytkownik nie istnieje", ADDRESS),
        ("550 нет такого пользователя", ADDRESS),
        ("550 用户不存在", ADDRESS),
        ("550 5.1.1 <spam@example.org>: User unknown", ADDRESS),  # a name is no reason
        ("550 5.1.1 mail from <us@example.com> to <ann@example.org>: user unknown", ADDRESS),
        ("550 5.1.1 Sorry, sender: this user is unknown", ADDRESS),
        ("550 5.1.2 Domain example.org not found", ADDRESS),
        ("550 <ann@example.org>...User unknown", ADDRESS),
        ("550 5.2.1 The email account that you tried to reach is disabled", ADDRESS),
        # us
        ("550 5.7.1 Message rejected as spam", SENDER),
        ("550 5.7.1 No such user!", SENDER),
        ("550 5.7.26 This mail is unauthenticated", SENDER),
        ("550 5.7.28 An unusual rate of unsolicited mail, too many messages", SENDER),
        ("550 5.7.515 Access denied, sending domain does not pass", SENDER),
        ("550 5.1.7 sender's address is malformed", SENDER),
        ("553 5.1.8 Domain of sender address does not exist", SENDER),
        ("550 Sender address rejected: Domain not found", SENDER),
        ("554 Service unavailable; Client host [192.0.2.10] blocked using bl.example.org", SENDER),
        ("550 192.0.2.10 is listed at zen.spamhaus.org", SENDER),
        ("550 This message fails DMARC", SENDER),
        ("450 4.7.25 Client host rejected: cannot find your hostname", SENDER),
        ("550 5.1.0 <hello@club.example.com> sender rejected : AUP#Out-1310", SENDER),
        ("550 5.1.0 AUP#Out-1310", SENDER),
        ("554 5.1.0 blocked by spamhaus", SENDER),
        ("550 5.1.1 sender unknown", SENDER),
        ("550 5.1.1 Unknown sender", SENDER),
        ("550 5.2.1 Message rejected due to content", SENDER),
        ("550 Sender address does not exist", SENDER),
        ("553 sender address invalid", SENDER),
        ("550 Return path address not found", SENDER),
        ("550 MAIL FROM: address unknown", SENDER),
        ("550 MAIL FROM:<us@example.com> rejected", SENDER),
        ("550 MAIL FROM us@example.com rejected: unknown user", SENDER),
        ("550 Verification failed for <us@example.com>\nNo such user here\nSender verify failed", SENDER),
        ("550 sender verify fail: unrouteable address", SENDER),
        ("554 5.1.1 From domain does not exist", SENDER),
        # the relay about our account
        (
            "554 Message rejected: Email address is not verified. The following identities failed the check",
            SENDER,
        ),
        ("554 Sending suspended for this account", SENDER),
        ("554 Sending has been paused", SENDER),
        ("550 Your account is suspended", SENDER),
        ("550 your account has been disabled", SENDER),
        ("554 You are not authorised to send as this domain", SENDER),
        ("554 Relay access denied", SENDER),
        ("550 Relaying denied", SENDER),
        ("550 quota: your plan has reached its limit", SENDER),
        ("554 Monthly sending quota exceeded", THROTTLE),
        # neither
        ("550 5.1.2 Host unknown (Name server: example.org: host not found)", SERVER),
        ("550 5.1.2 temporary trouble", SERVER),
        ("550 5.1.9 relayed to a system that does not comply", OTHER),
        ("550 5.1.0 something of an address", OTHER),
        ("450 4.4.1 connection timed out", SERVER),
        ("452 4.3.1 Insufficient system storage", SERVER),
        ("550 5.4.1 Recipient address rejected: Access denied", SERVER),
        ("552 5.3.4 Message size exceeds fixed limit", SERVER),
        ("554 5.6.1 Body type not supported", OTHER),
        ("550 Requested action not taken: mailbox unavailable", OTHER),
        ("550 Administrative prohibition", OTHER),
        ("553 Requested action not taken: mailbox name not allowed", OTHER),
        ("554 delivery error: This user doesn't have an account here", OTHER),
    ],
)
def test_a_reply_lays_the_reason_where_it_lies(reply: str, cause: Cause) -> None:
    assert classify(int(reply[:3]), reply[4:]).cause is cause


@pytest.mark.parametrize(
    ("status", "text", "kind", "cause"),
    [
        ("5.1.1", "smtp; 550 5.1.1 <ann@example.org>: user unknown", Kind.REFUSED, ADDRESS),
        ("5.1.1", "", Kind.REFUSED, ADDRESS),
        ("5.1.1 (bad destination mailbox address)", "", Kind.REFUSED, ADDRESS),
        (" 5.2.2 ", "smtp; 554 5.2.2 mailbox full", Kind.DEFERRED, MAILBOX),
        ("4.2.2", "smtp; 452 4.2.2 over quota", Kind.DEFERRED, MAILBOX),
        ("5.2.1", "smtp; 550 5.2.1 receiving mail at a rate that prevents it", Kind.REFUSED, THROTTLE),
        ("5.7.1", "smtp; 550 5.1.1 user unknown", Kind.REFUSED, SENDER),  # the status wins
        ("5.1.1", "smtp; 550 5.7.1 blocked", Kind.REFUSED, ADDRESS),
        ("5.1.1", "smtp; 450 4.1.1 unknown for now", Kind.REFUSED, ADDRESS),
        ("5.7.515", "smtp; 550 5.7.515 access denied", Kind.REFUSED, SENDER),
        ("5.1.8", "", Kind.REFUSED, SENDER),
        ("4.4.7", "smtp; 421 4.4.7 expired", Kind.DEFERRED, SERVER),
        ("4.7.0", "smtp; 421 4.7.0 try again later", Kind.DEFERRED, THROTTLE),
        ("4.7.1", "smtp; 450 4.7.1 greylisted", Kind.DEFERRED, OTHER),
        ("2.1.5", "smtp; 250 ok", Kind.DONE, OTHER),
        # a status that says nothing leaves it to the words
        ("5.0.0", "smtp; 550 5.1.1 user unknown", Kind.REFUSED, ADDRESS),
        ("5.0.0", "smtp;550-no such user here", Kind.REFUSED, ADDRESS),
        ("5.0.0", "host mx.example.org said: 552 mailbox full", Kind.DEFERRED, MAILBOX),
        ("5.0.0", "x-unix; user unknown", Kind.REFUSED, ADDRESS),
        ("5.0.0", "gave up after 432 minutes", Kind.REFUSED, OTHER),
        ("5.0.0", "", Kind.REFUSED, OTHER),
        ("4.0.0", "", Kind.DEFERRED, OTHER),
        ("", "smtp; 550 5.1.1 user unknown", Kind.REFUSED, ADDRESS),
        ("five", "", Kind.REFUSED, OTHER),
        ("5.1.1000000", "", Kind.REFUSED, OTHER),
    ],
)
def test_a_report_means_what_its_status_says_and_else_its_words(
    status: str, text: str, kind: Kind, cause: Cause
) -> None:
    reply = classify_status(status, text)

    assert (reply.kind, reply.cause) == (kind, cause)


@pytest.mark.parametrize("status", ["5.2.2", "4.2.2"])
def test_a_full_mailbox_is_full_and_its_address_lives(status: str) -> None:
    reply = classify_status(status)

    assert reply.mailbox_is_full
    assert not reply.address_is_dead


@pytest.mark.parametrize("status", ["5.2.0", "5.2.3", "5.2.4", "5.1.1", "5.2.1"])
def test_other_troubles_of_a_mailbox_are_not_a_full_one(status: str) -> None:
    assert not classify_status(status).mailbox_is_full


def test_words_of_a_full_mailbox_count_as_its_code() -> None:
    assert classify(552, "mailbox full").mailbox_is_full
    assert classify(550, "5.0.0 mailbox full").mailbox_is_full


def test_a_reply_without_end_is_read_at_once() -> None:
    assert classify(550, "user " * 200_000).cause is OTHER
    assert classify_status("5.0.0", "a" * 1_000_000).cause is OTHER
