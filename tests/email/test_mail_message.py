from __future__ import annotations

import quopri
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smtp_servers import mail_server

from core.consent import Purpose
from core.errors import PermanentError
from integrations.email.message import (
    IDEMPOTENCY_HEADERS,
    build_message,
    feedback_id,
    message_id_for,
    parse_sender,
    wire_address,
)
from integrations.email.parts import PartMould, quoted, wire_part
from integrations.email.render import Content, Renderer
from integrations.email.transport import SmtpMail, _body
from integrations.email.url import parse_email_url
from tests.house import cleared

LETTERS = Renderer(Path(__file__).parents[2] / "templates" / "email")
WAY_OUT: Mapping[str, str] = {
    "unsubscribe_url": "https://usher.example.com/unsubscribe/" + "tok-_.en" * 33,
    "postal_address": "12 Quay Street, Bristol's “Old” Docks & Co",
}
CONTENT = Content(
    subject="Hello",
    text="Hello {unsubscribe_url} {postal_address}\n".format(**WAY_OUT),
    html="<p>Hello {unsubscribe_url} 12 Quay Street, Bristol&#39;s “Old” Docks &amp; Co</p>".format(
        **WAY_OUT
    ),
)
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SINGLE = (
    "Date",
    "From",
    "To",
    "Subject",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    *IDEMPOTENCY_HEADERS,
)
any_text = st.text(st.characters(exclude_categories=[]), max_size=400)
header_text = st.one_of(any_text, st.text('ab=?\r\n ,;:<>@"\\üא🌞\x00\x85\u2028', max_size=200))


def build(content: Content = CONTENT, /, **changes: Any) -> bytes:
    given: dict[str, Any] = {
        "sender": "Riverside Studio <hello@example.org>",
        "to": "ana@example.com",
        "message_id": message_id_for("e1:welcome:m1", "example.org"),
        "date": NOW,
        "purpose": Purpose.ONBOARDING,
    }
    return build_message(content, **{**given, **changes})


def parse(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def head_of(raw: bytes) -> bytes:
    return raw.partition(b"\r\n\r\n")[0]


def body_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    assert not re.search(rb"(?<!\r)\n", raw)  # canonical, whatever the encoding (RFC 2045 section 6.8)
    return str(part.get_content()).replace("\r\n", "\n")


def is_well_formed(raw: bytes) -> bool:
    lines = raw.split(b"\r\n")
    return (
        raw.endswith(b"\r\n")
        and all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in lines)
        and all(re.match(rb"[\x21-\x39\x3b-\x7e]+: ?|[ \t]+\S", line) for line in head_of(raw).split(b"\r\n"))
    )


# Every shipped letter, for every purpose, as a server receives it


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("name", sorted(LETTERS.names()))
def test_a_shipped_letter_arrives_whole_with_the_headers_of_its_purpose(name: str, purpose: Purpose) -> None:
    context = {"member_name": "Zoë", "group_name": "יוגה בבוקר", "site_name": "Riverside", **WAY_OUT}
    content = LETTERS.render(name, context, purpose=purpose)
    raw = build(content, purpose=purpose, list_id="g1.s1.example.org", list_name="יוגה", **WAY_OUT)
    with mail_server() as server:
        mail = SmtpMail(parse_email_url(f"smtp://127.0.0.1:{server.port}"))
        mail.send(cleared("ana@example.com"), "bounce@example.org", raw, lambda: None)
        mail.close()
    received = server.letters[0].content
    assert received == raw
    assert is_well_formed(raw)

    message = parse(raw)
    assert all(len(message.get_all(header, [])) == 1 for header in SINGLE)
    assert message["Subject"] == content.subject
    assert message["To"] == "ana@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "OOF, AutoReply"
    assert message["List-Id"] == "יוגה <g1.s1.example.org>"
    assert message["Message-ID"].endswith("@example.org>")
    assert parsedate_to_datetime(message["Date"]) == NOW
    assert "Return-Path" not in message
    assert "Precedence" not in message

    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert body_of(message, "plain") == content.text
    assert body_of(message, "html").rstrip("\n") == content.html.rstrip("\n")
    assert f"\r\nList-Unsubscribe: <{WAY_OUT['unsubscribe_url']}>\r\n".encode() in raw
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_whoever_ignores_links_unsubscribes_by_mail() -> None:
    raw = build(unsubscribe_address="hello+u123@example.org", unsubscribe_url=WAY_OUT["unsubscribe_url"])
    assert is_well_formed(raw)
    assert str(parse(raw)["List-Unsubscribe"]) == (
        f"<{WAY_OUT['unsubscribe_url']}>, <mailto:hello+u123@example.org?subject=unsubscribe>"
    )


def test_an_address_to_unsubscribe_by_mail_is_quoted_as_a_uri() -> None:
    odd = "o'neil+a%b?c&d#e/f=g{h}!$*@example.org"
    raw = build(unsubscribe_address=odd, unsubscribe_url=WAY_OUT["unsubscribe_url"])
    assert is_well_formed(raw)
    [mailto] = re.findall(r"<(mailto:[^>]+)>", str(parse(raw)["List-Unsubscribe"]))
    assert mailto == "mailto:o'neil+a%25b%3Fc%26d%23e%2Ff%3Dg%7Bh%7D!$*@example.org?subject=unsubscribe"
    uri = urlsplit(mailto)
    assert (unquote(uri.path), uri.query, uri.fragment) == (odd, "subject=unsubscribe", "")


def test_relays_that_know_a_key_for_once_only_are_given_one() -> None:
    message = parse(build())
    key = str(message["Message-ID"]).strip("<>")
    assert [message[name] for name in IDEMPOTENCY_HEADERS] == [key] * 3


def test_what_gmail_counts_complaints_by_has_four_fields_and_none_is_more() -> None:
    made = feedback_id("offer:new\r\nX: y", "site", Purpose.PROMOTIONAL, "example.org")
    assert made == "offer-new--X--y:site:promotional:example.org"
    assert parse(build(purpose=Purpose.PROMOTIONAL, feedback_id=made, **WAY_OUT))["Feedback-ID"] == made
    assert "Feedback-ID" not in parse(build(feedback_id=made, **WAY_OUT))


# The way out


@pytest.mark.parametrize("length", [30, 77, 300, 800])
def test_the_unsubscribe_link_stays_on_one_line_as_it_is(length: int) -> None:
    url = "https://usher.example.com/u/".ljust(length, "x")
    content = Content("s", f"{url} Quay 1", f"{url} Quay 1")
    raw = build(content, purpose=Purpose.PROMOTIONAL, unsubscribe_url=url, postal_address="Quay 1")
    assert f"\r\nList-Unsubscribe: <{url}>\r\n".encode() in raw


@pytest.mark.parametrize(
    "missing",
    [
        {"unsubscribe_url": ""},
        {"postal_address": ""},
        {"postal_address": " \n"},
        {"unsubscribe_url": "http://usher.example.com/u/1"},
        {"unsubscribe_url": "mailto:stop@example.com"},
        {"unsubscribe_url": "https://usher.example.com/u/1>, <https://evil.example"},
        {"unsubscribe_url": "https://usher.example.com/u/1\r\nBcc: x@example.com"},
        {"unsubscribe_url": "https://usher.example.com/" + "x" * 1000},
        {"unsubscribe_url": "https://usher.example.com/ü"},
    ],
)
def test_a_promotional_letter_without_a_proper_way_out_cannot_be_built(missing: dict[str, str]) -> None:
    values = {**WAY_OUT, **missing}
    text = "{unsubscribe_url} {postal_address}".format(**values)
    with pytest.raises(PermanentError):
        build(Content("s", text, text), purpose=Purpose.PROMOTIONAL, **values)


@pytest.mark.parametrize("hidden", [*WAY_OUT])
@pytest.mark.parametrize("part", ["text", "html"])
def test_a_promotional_letter_whose_template_hides_the_way_out_cannot_be_built(
    part: str, hidden: str
) -> None:
    parts = {"text": CONTENT.text, "html": CONTENT.html}
    secret = {"unsubscribe_url": WAY_OUT["unsubscribe_url"], "postal_address": "12 Quay Street"}[hidden]
    parts[part] = parts[part].replace(secret, "")
    with pytest.raises(PermanentError, match=hidden):
        build(Content("s", **parts), purpose=Purpose.PROMOTIONAL, **WAY_OUT)


def test_a_promotional_letter_that_shows_the_way_out_can_be_built() -> None:
    assert is_well_formed(build(purpose=Purpose.PROMOTIONAL, **WAY_OUT))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000"])
def test_on_one_machine_the_way_out_may_be_plain_http(host: str) -> None:
    url = f"http://{host}/u/1"
    content = Content("s", f"{url} Quay 1", f"{url} Quay 1")
    assert build(content, purpose=Purpose.PROMOTIONAL, unsubscribe_url=url, postal_address="Quay 1")


# Nothing can be smuggled in


@given(subject=header_text, name=header_text, list_name=header_text)
def test_no_name_or_subject_can_add_a_header_or_break_a_line(subject: str, name: str, list_name: str) -> None:
    plain_name = re.sub(r'[<>"\\,;:@()\[\]]', " ", name)  # other characters make it another sender, or none
    raw = build(
        Content(subject, "text", "html"),
        sender=f"{plain_name} <hello@example.org>",
        list_id="a.b",
        list_name=list_name,
    )
    assert is_well_formed(raw)
    message = parse(raw)
    assert sorted(message.keys()) == sorted([*SINGLE, "List-Id"])
    assert message["From"].addresses[0].addr_spec == "hello@example.org"
    assert len(message["From"].addresses) == 1
    assert message["To"] == "ana@example.com"
    assert message["List-Id"].endswith("<a.b>")


@given(any_text)
def test_a_subject_arrives_as_it_was_but_for_control_characters(subject: str) -> None:
    message = parse(build(Content(subject, "t", "h")))
    kept = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", subject).encode("utf-8", "ignore").decode()
    assert str(message["Subject"]) == " ".join(kept.split())[:250]


@pytest.mark.parametrize(
    "name",
    [
        "Ana",
        "Studio, Riverside",
        'The "Best"',
        "a\\b",
        "יוגה, בבוקר",
        "=?utf-8?q?x?=",
        "x" * 250,
        "a@b.c",
    ],
)
def test_a_senders_name_arrives_as_it_is(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    message = parse(build(sender=f'"{quoted}" <hello@example.org>'))
    [address] = message["From"].addresses
    assert (address.display_name, address.addr_spec) == (name, "hello@example.org")


def test_a_long_foreign_senders_name_is_cut_into_words_that_join_again() -> None:
    raw = build(sender=f'"{"Ü" * 100}" <hello@example.org>')
    [folded] = re.findall(rb"\r\nFrom: (.*?)\r\n(?! )", raw, re.DOTALL)
    assert all(len(word) <= 75 for word in folded.split())
    assert (
        str(make_header(decode_header(folded.decode()))).replace(" <", "<")
        == "Ü" * 100 + "<hello@example.org>"
    )


@given(any_text, any_text)
def test_bodies_arrive_as_they_are_and_no_line_is_too_long(text: str, html: str) -> None:
    raw = build(Content("s", text, html))
    assert is_well_formed(raw)
    assert raw.isascii()
    message = parse(raw)
    for part, sent in (("plain", text), ("html", html)):
        wanted = re.sub(r"\r\n?", "\n", sent).encode("utf-8", "ignore").decode().rstrip("\n")
        assert body_of(message, part).rstrip("\n") == wanted


def test_a_body_cannot_end_its_part() -> None:
    boundary = parse(build()).get_boundary()
    text = f"before\n--{boundary}--\n\n.\nFrom me\nafter"
    message = parse(build(Content("s", text, text)))
    assert body_of(message, "plain").rstrip("\n") == text
    assert len(list(message.iter_parts())) == 2


@given(header_text)
def test_only_addresses_can_be_written_to(address: str) -> None:
    try:
        raw = build(to=address)
    except PermanentError:
        return
    assert parse(raw).keys() == parse(build()).keys()
    assert not re.search(r"[\s<>]", wire_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ana",
        "@example.com",
        "ana@",
        "ana@@example.com",
        "a na@example.com",
        "ana@exam ple.com",
        "ana@example.com\r\nBcc: x@example.com",
        "ana@example.com, x@example.com",
        "<ana@example.com>",
        ".ana@example.com",
        "a..b@example.com",
        "ana@-example.com",
        "ana@example..com",
        "ana@" + "x" * 64 + ".com",
        "ana@" + "x.ab." * 60 + "com",
        "x" * 65 + "@example.com",
        "ana@xn--\u2028.com",
        "an\ud800a@example.com",
        "ana@\ud800.com",
    ],
)
def test_what_no_server_could_take_is_refused_for_good_without_naming_it(address: str) -> None:
    with pytest.raises(PermanentError) as refusal:
        build(to=address)
    assert "ana" not in str(refusal.value)


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        ("Ana.B+tag@Example.COM", "Ana.B+tag@example.com"),
        ("ana@例え.jp", "ana@xn--r8jz45g.jp"),
        ("ana@bücher.example", "ana@xn--bcher-kva.example"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
        ("o'neill_{x}@sub.example.co.uk", "o'neill_{x}@sub.example.co.uk"),
    ],
)
def test_an_address_goes_out_with_its_domain_in_a_labels(address: str, wire: str) -> None:
    assert wire_address(address) == wire
    assert f"\r\nTo: {wire}\r\n".encode() in build(to=address)


@pytest.mark.parametrize(
    "sender", ["", "Riverside Studio", "Riverside <>", "Riverside <hello@>", "用户@例え.jp"]
)
def test_a_sender_without_an_address_is_refused(sender: str) -> None:
    with pytest.raises(PermanentError):
        build(sender=sender)


def test_a_sender_is_read_into_name_and_address() -> None:
    assert parse_sender("Riverside Studio <hello@bücher.example>") == (
        "Riverside Studio",
        "hello@xn--bcher-kva.example",
    )
    assert parse_sender("hello@example.org") == ("", "hello@example.org")


@pytest.mark.parametrize("list_id", ["a b", "a>", "ü.example", "a..b", "a\r\nb", ".", "x" * 300])
def test_an_odd_list_id_is_refused(list_id: str) -> None:
    with pytest.raises(PermanentError):
        build(list_id=list_id)


@pytest.mark.parametrize(
    "message_id", ["", "x", "<\ud800@x>", "<a>\r\nBcc: x@example.com", "<a b@c>", "<" + "x" * 990 + ">"]
)
def test_an_odd_message_id_is_refused(message_id: str) -> None:
    with pytest.raises(PermanentError):
        build(message_id=message_id)


# Sameness


def test_the_same_letter_has_the_same_bytes_on_every_attempt() -> None:
    assert build() == build()


@given(st.text(), st.text())
def test_a_message_id_is_one_for_each_key(one: str, other: str) -> None:
    first, second = (message_id_for(key, "example.org") for key in (one, other))
    assert (first == second) is (one == other)
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.org>", first)


def test_a_message_id_hides_the_key() -> None:
    assert "member-1" not in message_id_for("welcome:member-1", "example.org")


@given(st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a"]), max_size=12).map(b"".join))
def test_every_line_ends_in_crlf_and_every_leading_dot_is_doubled(letter: bytes) -> None:
    body = _body(letter)
    assert body.endswith(b"\r\n")
    lines = body.split(b"\r\n")[:-1]
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    said = re.split(rb"\r\n|\r|\n", letter)
    assert lines == [
        b"." + line if line.startswith(b".") else line
        for line in (said if said[-1] or len(said) == 1 else said[:-1])
    ]


@pytest.mark.parametrize("length", range(70, 80))
def test_a_line_that_is_full_has_room_for_its_soft_end(length: int) -> None:
    text = f"{'x' * length}<td>y"
    for encoded in (quoted(text), quoted(text, goes_on=True)):
        assert max(map(len, encoded.split(b"\n"))) <= 76
        assert quopri.decodestring(encoded).decode() == text


@given(st.text(st.sampled_from("a=. \t\né\x0b\x0c\x1c\u2028<td>")) | st.text(), st.integers(0, 3))
def test_what_is_quoted_reads_as_it_was_and_has_lines_that_all_servers_take(text: str, long: int) -> None:
    whole = (text + "<td x" * 150 * long + text).replace("\r", "")
    encoded = quoted(whole)
    assert quopri.decodestring(encoded) == whole.encode("utf-8", "ignore")
    assert all(len(line) <= 76 and not line.endswith((b" ", b"\t")) for line in encoded.split(b"\n"))


@given(st.text(st.sampled_from("a=. \n<td>é"), max_size=40), st.text(st.sampled_from("<atd >."), max_size=9))
def test_a_part_from_a_mould_has_the_bytes_of_one_that_was_made_whole(around: str, name: str) -> None:
    made = f"{around}MARK{around}{'<td>' * 40}{around}MARK"
    mould = PartMould("html", made, ("MARK",))
    for filled in (f"x{name}", f"{name}x"):
        whole = made.replace("MARK", filled)
        assert mould.fill({"MARK": filled}) == (whole, wire_part("html", whole))
