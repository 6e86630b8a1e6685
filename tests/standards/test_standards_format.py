"""The format of letters as they were received: lines 8, 10 to 12 and 14 to 17 of docs/standards.md."""

from __future__ import annotations

import base64
import quopri
import re
import shutil
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from admin.processes import return_paths
from core.consent import Purpose
from integrations.email.render import Renderer
from integrations.email.return_path import PathKind
from integrations.store.database import Database
from tests.email.smtp_servers import MailServer, mail_server
from tests.house import Clock
from tests.standards.conftest import Post
from tests.standards.letterbox import (
    FROM,
    ONE_OF_EACH,
    POSTAL_ADDRESS,
    Office,
    Scene,
    every_letter,
    objections,
)
from tests.standards.scenes import ADDRESSES, TEXTS
from tests.test_web_app import settings_for

ONCE = {
    *("date", "from", "to", "subject", "message-id", "mime-version", "content-type"),
    *("auto-submitted", "x-auto-response-suppress"),
    *("list-id", "list-unsubscribe", "list-unsubscribe-post"),
    *("resend-idempotency-key", "idempotency-key", "x-ee-idempotency-key"),
}
ALSO_PROMOTIONAL = {"feedback-id"}
CONTROLS = [*map(chr, range(32)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u2028", "\u2029"]


def decoded(field: str) -> str:
    """Encoded words as RFC 2047 has them, each on its own: one must not end in the middle of a character."""

    def one(match: re.Match[str]) -> str:
        charset, encoding, text = match.groups()
        in_words = quopri.decodestring(text.replace("_", " "))
        return (base64.b64decode(text) if encoding in "bB" else in_words).decode(charset)

    joined = re.sub(r"(\?=)\s+(?==\?)", r"\1", field)
    return re.sub(r"=\?([^?\s]+)\?([bqBQ])\?([^?\s]*)\?=", one, joined)


def test_every_letter_to_everybody_went_out(post: Post):
    rows = post.office.rows()
    pairs = {(row.email_template, row.purpose) for row in rows}

    assert {row.state for row in rows} == {"sent"}
    assert pairs == {
        (name, str(purpose)) for name in post.office.services.renderer.names() for purpose in Purpose
    }
    assert len(post.letters) == len(rows) == len(pairs) * len(post.office.scenes)


def test_a_strict_reader_has_nothing_against_any_letter(post: Post):
    """Line 11: CRLF alone ends lines, none is longer than 998 octets, and what is declared is what is there."""
    assert {str(letter): said for letter in post.letters if (said := objections(letter))} == {}


def test_the_server_took_what_was_sent_dots_and_all(post: Post):
    """Line 11."""
    assert [envelope.content for envelope in post.office.server.letters] == [
        letter.octets for letter in post.letters
    ]


def test_every_header_is_there_once_and_none_that_is_not_ours_to_set(post: Post):
    """Lines 11, 12, 14 and 17: no Bcc, no Return-Path, no Precedence, and nothing that somebody's name made up."""
    wanted = {Purpose.ONBOARDING: sorted(ONCE), Purpose.PROMOTIONAL: sorted(ONCE | ALSO_PROMOTIONAL)}
    names = {str(letter): sorted(name for name, _ in letter.head) for letter in post.letters}

    assert names == {str(letter): wanted[letter.purpose] for letter in post.letters}


def test_date_sender_and_reader_are_one_each_and_true(post: Post):
    """Line 11."""
    for letter in post.letters:
        assert parsedate_to_datetime(letter.header("Date")) == post.office.clock.now
        [sender] = letter.message["From"].addresses
        assert (sender.display_name, sender.addr_spec) == ("Usher", FROM)
        assert letter.header("To") == letter.envelope_to
        assert letter.header("MIME-Version") == "1.0"


def test_what_people_write_shows_in_the_subject_and_in_no_other_header(post: Post):
    """Line 12."""
    shown = {
        name
        for letter in post.letters
        for name, whole in letter.head
        if b"injected" in whole.lower() or b"mail from" in whole.lower()
    }
    assert shown == {"subject"}


def test_no_control_character_reaches_a_header(records: Database, server: MailServer, clock: Clock):
    """Line 12."""
    office = Office(records, server, clock, automations=ONE_OF_EACH)
    names = [f"Ann{control}X-Injected: yes" for control in CONTROLS]
    office.play(
        *(Scene(f"{ord(name[3]):x}", first_name=name, group_name=name, site_name=name) for name in names)
    )

    letters = office.letters()
    assert len(letters) == 2 * len(CONTROLS)
    for letter in letters:
        assert objections(letter) == []
        assert {name for name, _ in letter.head} <= ONCE | ALSO_PROMOTIONAL
        subject = decoded(letter.header("Subject"))
        assert subject.isprintable(), str(letter)
        assert "X-Injected: yes" in subject, "it stays the words that it is"


def test_what_is_written_by_a_machine_says_so_and_asks_for_no_answer(post: Post):
    """Lines 8 and 14."""
    assert {letter.header("Auto-Submitted") for letter in post.letters} == {"auto-generated"}
    assert {letter.header("X-Auto-Response-Suppress") for letter in post.letters} == {"OOF, AutoReply"}
    assert not any(letter.has("Precedence") for letter in post.letters)


def test_message_ids_are_unique_and_in_our_domain(post: Post):
    """Line 10."""
    ids = [letter.header("Message-ID") for letter in post.letters]

    assert len(set(ids)) == len(ids)
    assert [id for id in ids if not re.fullmatch(r"<[0-9a-f]{32}@club\.example\.com>", id)] == []  # noqa: A001


def test_a_letter_that_is_tried_again_carries_the_same_id(
    records: Database, server: MailServer, clock: Clock
):
    """Line 10: byte for byte, and so do the headers by which relays know a letter again."""
    office = Office(records, server, clock, automations=ONE_OF_EACH)
    server.replies["DATA"] = ["451 4.3.0 not now", "451 4.3.0 not now"]
    office.play(Scene("twice"))
    assert {state for state, _ in office.states().values()} == {"deferred"}

    clock.move(hours=5)
    office.work()

    assert {state for state, _ in office.states().values()} == {"sent"}
    tried: dict[str, list[dict[str, bytes]]] = {}
    for letter in office.letters():
        tried.setdefault(letter.row.id, []).append(dict(letter.head))
    assert len(tried) == 2
    for first, second in tried.values():
        assert {name for name in first if first[name] != second[name]} == {"date"}


def test_the_id_comes_from_the_ledgers_key_and_from_nothing_else(
    empty_sqlite: Path, tmp_path: Path, server: MailServer
):
    """Line 10: a ledger that was lost and written anew has the same ids."""
    ids: list[dict[str, tuple[str, str]]] = []
    for name in ("first.db", "second.db"):
        shutil.copy(empty_sqlite, tmp_path / name)
        clock = Clock()
        clock.move(days=len(ids))
        database = Database(f"sqlite:///{tmp_path / name}", clock=clock)
        office = Office(database, server, clock, automations=ONE_OF_EACH)
        office.play(Scene("again"))
        ids.append({row.key: (row.id, row.message_id) for row in office.rows()})
        office.services.mail.close()
        database.close()

    first, second = ids
    assert first.keys() == second.keys()
    for key in first:
        assert first[key][0] != second[key][0]
        assert first[key][1] == second[key][1]


def test_text_comes_first_and_both_parts_hold_the_same_links(post: Post):
    """Line 15."""
    for letter in post.letters:
        assert letter.message.get_content_type() == "multipart/alternative"
        parts = list(letter.message.iter_parts())
        assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
        assert letter.message.preamble in (None, "")
        assert letter.message.epilogue in (None, "")
        links = {link for link, _ in letter.html.links}
        assert letter.one_click in links
        assert links == set(re.findall(r"https?://\S+", letter.text)), str(letter)


def test_a_letter_of_ones_own_arrives_whole_whatever_its_lines(
    records: Database, server: MailServer, clock: Clock, tmp_path: Path
):
    """Lines 11 and 15: lines of 5,000 octets, lonely dots, blanks at the end, words that look encoded."""
    lines = [
        ".",
        "..",
        ".hidden",
        "From here",
        "x" * 5000,
        "é" * 2000,
        "例" * 998,
        "a blank ",
        "\tx\t",
        "=2E",
    ]
    text = "\n".join(lines)
    folder = tmp_path / "letters" / "own"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("例" * 190, encoding="utf-8")
    (folder / "body.txt").write_text(
        f"Hello,\n{text}\n{{{{ postal_address }}}}\n{{{{ unsubscribe_url }}}}\n", encoding="utf-8"
    )
    (folder / "body.mjml").write_text(
        f"<mjml><mj-body><mj-section><mj-column><mj-text><pre>{text}</pre></mj-text>"
        '<mj-text>{{ postal_address }} <a href="{{ unsubscribe_url }}">Stop</a></mj-text>'
        "</mj-column></mj-section></mj-body></mjml>",
        encoding="utf-8",
    )
    office = Office(
        records,
        server,
        clock,
        automations=every_letter(["own"], Purpose.PROMOTIONAL),
        renderer=Renderer(tmp_path / "letters"),
    )

    office.play(Scene("whole"))

    [letter] = office.letters()
    assert objections(letter) == []
    assert decoded(letter.header("Subject")) == "例" * 190
    assert letter.text.splitlines() == ["Hello,", *lines, POSTAL_ADDRESS, letter.one_click]
    assert [line for line in lines if line.strip() not in letter.html.words] == []
    assert server.letters[0].content == letter.octets


def test_what_is_not_ascii_in_a_subject_comes_out_as_it_was(post: Post):
    """Line 16."""
    subjects = {
        letter.scene.name: letter.header("Subject")
        for letter in post.letters
        if letter.row.email_template == "welcome"
    }

    assert all(subject.isascii() for subject in subjects.values())
    for name in ("emoji", "Japanese", "an encoded word", "the beginning of an encoded word"):
        assert "=?utf-8?" in subjects[name]
        assert " ".join(TEXTS[name].split())[:99] in decoded(subjects[name]), name
    assert subjects["in en"] == "Welcome to Trail Runners", "plain words stay plain"


@pytest.mark.parametrize(
    ("sender", "name", "address"),
    [
        (f"Usher <{FROM}>", "Usher", FROM),
        (FROM, "", FROM),
        (f"Café „Größe“ 例え 👋 <{FROM}>", "Café „Größe“ 例え 👋", FROM),
        (f'"Club, the \\"Seaside\\" (all of it)" <{FROM}>', 'Club, the "Seaside" (all of it)', FROM),
        (f"{'Größe ' * 30}<{FROM}>", ("Größe " * 30).strip(), FROM),
        ("Bücher <hallo@bücher.example>", "Bücher", "hallo@xn--bcher-kva.example"),
    ],
)
def test_a_senders_name_arrives_readable_and_its_domain_in_a_labels(
    records: Database, server: MailServer, clock: Clock, sender: str, name: str, address: str
):
    """Lines 11 and 16."""
    office = Office(records, server, clock, automations=ONE_OF_EACH, sender=sender)
    office.play(Scene("anybody"))

    letters = office.letters()
    assert len(letters) == 2
    for letter in letters:
        assert objections(letter) == []
        assert letter.header("From").isascii()
        said = re.fullmatch(r'(?:"(.*)" |(.*) )?<(.*)>', decoded(letter.header("From")))
        assert said is not None
        assert re.sub(r"\\(.)", r"\1", said[1] or said[2] or "") == name
        assert said[3] == address
        assert letter.header("Message-ID").endswith(f"@{address.partition('@')[2]}>")


def test_international_addresses_go_out_in_a_labels_and_with_smtputf8_only_where_they_must(post: Post):
    """Line 16."""
    to = {letter.scene.name: letter.envelope_to for letter in post.letters}
    beyond_ascii = {"an international address", "an international mailbox"}

    assert to["an international domain"] == "ann@xn--r8jz45g.jp"
    assert to["an international address"] == "用户@xn--r8jz45g.jp"
    assert to["an international mailbox"] == "jörg@example.com"
    assert {letter.scene.name for letter in post.letters if b" SMTPUTF8" in letter.mail} == beyond_ascii
    assert {name for name, address in to.items() if not address.isascii()} == beyond_ascii


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_server_without_smtputf8_refuses_for_good_and_the_reason_says_why(
    records: Database, clock: Clock, name: str
):
    """Line 16: nobody is suppressed for what the relay cannot do."""
    local = ADDRESSES[name].partition("@")[0]
    with mail_server(enable_SMTPUTF8=False) as server:
        office = Office(records, server, clock, automations=ONE_OF_EACH)
        office.play(Scene(name, email=ADDRESSES[name]))
        clock.move(days=1)
        office.work()
        office.services.mail.close()

    if local.isascii():
        assert set(office.states().values()) == {("sent", None)}
        assert [objections(letter) for letter in office.letters()] == [[], []]
        return
    [(state, reason)] = set(office.states().values())
    assert (state, server.letters, office.suppressed()) == ("failed", [], {})
    assert "SMTPUTF8" in str(reason)
    assert local not in str(reason)


def test_a_letter_leaves_from_an_address_of_its_own_and_to_one_reader(post: Post):
    """Line 17."""
    for letter in post.letters:
        assert post.office.paths.read(letter.envelope_from) == (PathKind.BOUNCES, letter.row.id)
        assert len(letter.rcpt) == 1
        assert len(letter.envelope_from.partition("@")[0]) <= 64


@pytest.mark.parametrize("verp", ["on", "off"])
def test_where_the_relay_insists_letters_leave_from_the_senders_own_address(
    records: Database, server: MailServer, clock: Clock, files: Path, verp: str
):
    """Line 17."""
    url = f"smtp://127.0.0.1:{server.port}?verp={verp}"
    paths = return_paths(settings_for(f"sqlite:///{files}", files.parent, email_url=url, email_from=FROM))
    office = Office(records, server, clock, automations=ONE_OF_EACH, url=url, verp=paths is not None)
    office.play(Scene("anybody"))

    letters = office.letters()
    assert [letter.envelope_from == FROM for letter in letters] == [verp == "off"] * 2
    assert ["mailto:" in letter.header("List-Unsubscribe") for letter in letters] == [verp == "on"] * 2
