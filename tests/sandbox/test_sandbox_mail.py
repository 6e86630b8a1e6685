"""The mail catcher by SMTP, and the pages that show what it caught."""

import asyncio
import smtplib
from email.message import EmailMessage
from typing import Any

import httpx
import pytest

from sandbox.house import Sandbox

pytestmark = pytest.mark.anyio

SCRIPT = "<script>document.title = 'taken over'</script>"


def a_letter(*, to: str = "ada@example.com", subject: str = "Welcome") -> EmailMessage:
    letter = EmailMessage()
    letter["From"] = "Seaside <hello@example.com>"
    letter["To"] = to
    letter["Subject"] = subject
    letter["Message-ID"] = "<one@example.com>"
    letter["List-Unsubscribe"] = "<https://usher.example.com/u/1>"
    letter.set_content("Hello Ada, welcome aboard")
    link = '<a href="https://usher.example.com/u/1">Unsubscribe</a> <a href="javascript:alert(1)">no</a>'
    letter.add_alternative(f"<p>Hello</p>{SCRIPT}{link}", subtype="html")
    return letter


async def send(sandbox: Sandbox, letter: EmailMessage, **options: Any) -> dict[str, Any]:
    """By real SMTP. What was refused, by recipient."""
    port = await sandbox.mail.listen("127.0.0.1", 0)

    def deliver() -> dict[str, Any]:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.ehlo()
            assert client.has_extn("smtputf8")
            assert client.has_extn("8bitmime")
            return client.send_message(letter, **options)

    return await asyncio.to_thread(deliver)


async def test_a_letter_is_kept_with_its_envelope(sandbox: Sandbox, browser: httpx.AsyncClient) -> None:
    await send(
        sandbox, a_letter(), from_addr="bounce@example.com", to_addrs=["ada@example.com", "ben@example.com"]
    )

    (letter,) = (await browser.get("/mail.json")).json()
    assert letter["envelope"] == {"from": "bounce@example.com", "to": ["ada@example.com", "ben@example.com"]}
    assert (letter["subject"], letter["message_id"]) == ("Welcome", "<one@example.com>")
    assert letter["headers"]["List-Unsubscribe"] == "<https://usher.example.com/u/1>"
    assert letter["text"].strip() == "Hello Ada, welcome aboard"


async def test_letters_can_be_asked_for_by_recipient_and_from_a_number_on(
    sandbox: Sandbox, browser: httpx.AsyncClient
) -> None:
    for to in ("ada@example.com", "ben@example.com", "ada@example.com"):
        sandbox.mail.keep("", [to], a_letter(to=to).as_bytes())

    async def numbers(query: str) -> list[int]:
        return [letter["n"] for letter in (await browser.get(f"/mail.json?{query}")).json()]

    assert (await numbers("to=ADA@example.com"), await numbers("after=1"), await numbers("")) == (
        [1, 3],
        [2, 3],
        [1, 2, 3],
    )
    assert (await browser.delete("/mail.json")).json() == {"deleted": 3}
    assert await numbers("") == []


async def test_addresses_in_any_script_are_accepted(sandbox: Sandbox) -> None:
    await send(sandbox, a_letter(to="почта@пример.example"))

    assert [letter.rcpt_to for letter in sandbox.mail.letters.values()] == [("почта@пример.example",)]


async def test_a_refused_address_gets_the_reply_that_was_set(
    sandbox: Sandbox, browser: httpx.AsyncClient
) -> None:
    reply = "550 5.1.1 no such user"
    await browser.patch("/sandbox/mail", json={"refuse": {"Ada@example.com": reply}})

    refused = await send(sandbox, a_letter(), to_addrs=["ada@example.com", "ben@example.com"])

    assert refused == {"ada@example.com": (550, b"5.1.1 no such user")}
    assert sandbox.mail.letters[1].rcpt_to == ("ben@example.com",)


async def test_everybody_can_be_refused_and_accepted_again(
    sandbox: Sandbox, browser: httpx.AsyncClient
) -> None:
    await browser.patch("/sandbox/mail", json={"refuse": {"*": "451 4.7.1 later"}})
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await send(sandbox, a_letter())
    await browser.patch("/sandbox/mail", json={"refuse": {"*": None}})

    assert await send(sandbox, a_letter()) == {}


@pytest.mark.parametrize("reply", ["250 fine", "no", "550 two\r\nlines", 550])
async def test_a_refusal_has_to_be_one(sandbox: Sandbox, browser: httpx.AsyncClient, reply: Any) -> None:
    answer = await browser.patch("/sandbox/mail", json={"refuse": {"*": reply}})

    assert (answer.status_code, sandbox.mail.refusals) == (400, {})


async def test_the_html_of_a_letter_is_shown_as_it_is_and_can_do_nothing(
    sandbox: Sandbox, browser: httpx.AsyncClient
) -> None:
    sandbox.mail.keep("", ["ada@example.com"], a_letter().as_bytes())

    page, part = await browser.get("/mail/1"), await browser.get("/mail/1/html")

    assert '<iframe sandbox src="/mail/1/html"' in page.text
    assert SCRIPT in part.text
    policy = part.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none';")
    assert "script" not in policy
    assert SCRIPT not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_only_web_links_of_a_letter_can_be_followed(
    sandbox: Sandbox, browser: httpx.AsyncClient
) -> None:
    sandbox.mail.keep("", ["ada@example.com"], a_letter().as_bytes())

    assert sandbox.mail.letters[1].links == [("Unsubscribe", "https://usher.example.com/u/1")]
    assert "javascript:" not in (await browser.get("/mail/1")).text


async def test_text_and_source_of_a_letter_can_be_read(sandbox: Sandbox, browser: httpx.AsyncClient) -> None:
    raw = a_letter().as_bytes()
    sandbox.mail.keep("", ["ada@example.com"], raw)

    assert (await browser.get("/mail/1/text")).text.strip() == "Hello Ada, welcome aboard"
    assert (await browser.get("/mail/1/source")).text == raw.decode()
    assert "List-Unsubscribe:" in (await browser.get("/mail/1?as=source")).text
    assert (await browser.get("/mail/1/pdf")).status_code == 404
    assert (await browser.get("/mail/2")).status_code == 404


async def test_the_list_of_letters_is_newest_first_and_escapes_what_it_shows(
    sandbox: Sandbox, browser: httpx.AsyncClient
) -> None:
    for subject in ("First", f"Second {SCRIPT}"):
        sandbox.mail.keep("", ["<ada>@example.com"], a_letter(subject=subject).as_bytes())

    page = (await browser.get("/mail/")).text
    assert page.index("Second") < page.index("First")
    assert SCRIPT not in page
    assert "<ada>" not in page
    assert 'http-equiv="refresh"' in page


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no headers at all",
        b"Subject: =?nonsense?q?x?=\r\nContent-Type: text/plain; charset=nonsense\r\n\r\n\xff\xfe",
        b"Content-Type: multipart/mixed\r\n\r\nno boundary",
        b"Date: not a date\r\nMessage-ID: <<>\r\nTo: @@\r\n\r\n",
    ],
)
async def test_a_broken_letter_is_shown_too(sandbox: Sandbox, browser: httpx.AsyncClient, raw: bytes) -> None:
    sandbox.mail.keep("", ["ada@example.com"], raw)

    for path in ("/mail/", "/mail/1", "/mail/1/source", "/mail/1/html", "/mail.json", "/"):
        assert (await browser.get(path)).status_code == 200
