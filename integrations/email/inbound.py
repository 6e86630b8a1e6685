"""A mail that came back, read: what it says, and of which letter. Pure, and never raises.

Nothing in a mail is believed but the signature in an address of ours (return_path.py): bounces are forged all day, and
a forged one must not end anybody's letters. Formats: RFC 3464 and 6533 (delivery reports), RFC 5965 (complaints), RFC
3834 (automatic answers, which are none); bounces older than these standards are left to flufl.bounce.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from email import message_from_string, policy
from email.message import Message
from email.parser import BytesParser
from enum import StrEnum
from hashlib import sha256
from typing import Any

from flufl.bounce import all_failures

from integrations.email.replies import Cause, Reply, classify, classify_status, one_line
from integrations.email.return_path import PathKind, ReturnPaths

MOST_BYTES = 1024 * 1024
"""What a door takes at once."""
READ_BYTES = 256 * 1024
"""A report says what it has to say before it repeats the letter, so more is not looked at."""
MOST_PARTS = 50
"""Each level of nesting slows the parser down for every line."""
_MOST_ADDRESSES = 50
_MOST_REFERENCES = 20
_FLUFL_BYTES = 32 * 1024
"""Its patterns take the square of a line's length."""
_LONGEST_LINE = 998
_LONGEST_PARAMETERS = 2000


class ReturnKind(StrEnum):
    BOUNCED = "bounced"
    """It will not arrive."""
    DELAYED = "delayed"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"


@dataclass(frozen=True, slots=True)
class Returned:
    """What came back of a letter of ours. `reply` is why it bounced or waits; None of a person's own words.

    `said` is one printable line of at most 300 characters without addresses. `mail` is the same for copies of one
    opt-out, and differs from that of another one.
    """

    kind: ReturnKind
    letter: str
    reply: Reply | None = None
    said: str = ""
    mail: str = ""


@dataclass(frozen=True, slots=True)
class Replied:
    """A person answered; `message_ids` are those, in angle brackets, that may be of letters of ours."""

    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing follows. `reason` is one of a fixed set of texts."""

    reason: str


class _Mail(Message):
    """Knows the international forms (RFC 6533) by the names of the plain ones, so that both are parsed alike."""

    def get_content_type(self) -> str:
        found = super().get_content_type()
        return _PLAIN_TYPES.get(found, found)

    def _get_params_preserve(self, failobj: Any, header: str) -> Any:
        # The standard library takes the square of their length, three quarters of a minute for a header of 250 KB.
        if len(str(self.get(header, ""))) > _LONGEST_PARAMETERS:
            return failobj
        return super()._get_params_preserve(failobj, header)  # type: ignore[misc] # not among the stubs


_PLAIN_TYPES = {
    "message/global-delivery-status": "message/delivery-status",
    "message/global": "message/rfc822",
    "message/global-headers": "text/rfc822-headers",
}


class _TooManyPartsError(Exception):
    pass


def read_mail(raw: bytes, recipients: Sequence[str], paths: ReturnPaths) -> Returned | Replied | Ignored:
    """`recipients` are those of the envelope, as far as they are known; where they name no letter the headers are
    asked that mailboxes and forwarders write them into."""
    try:
        mail = _parse(raw[:READ_BYTES])
        found = _read(mail, raw, recipients, paths)
        if isinstance(found, Returned) and found.kind is ReturnKind.UNSUBSCRIBE:
            which = f"{_header(mail, 'message-id')} {_header(mail, 'date')}"
            return replace(found, mail=sha256(which.encode()).hexdigest()[:32])
        return found
    except _TooManyPartsError:
        return Ignored("too many parts")
    except Exception:  # noqa: BLE001 (the standard parser fails over odd mail in ways that it does not list)
        return Ignored("not readable")


def _parse(raw: bytes) -> Message:
    parts = -1  # the parser tries the factory out once

    def count_part(policy: policy.Policy | None = None) -> Message:
        nonlocal parts
        parts += 1
        if parts > MOST_PARTS:
            raise _TooManyPartsError
        return _Mail(policy or _POLICY)

    # The modern policy parses every header it is asked for, and raises over broken ones.
    return BytesParser(count_part, policy=_POLICY).parsebytes(raw)


_POLICY = policy.compat32


def _read(
    mail: Message, raw: bytes, recipients: Sequence[str], paths: ReturnPaths
) -> Returned | Replied | Ignored:
    parts = {part.get_content_type(): part for part in reversed(list(_own_parts(mail)))}
    named = _named(mail, recipients, paths)
    if (report := parts.get("message/feedback-report")) is not None:
        return _complaint(report, parts, named, paths)
    if paths.read(_header(mail, "return-path")) is not None:
        return Ignored("a letter of our own")
    if (status := parts.get("message/delivery-status")) is not None:
        bounce = _report(status)
    elif PathKind.BOUNCES in {kind for kind, _ in named} and _is_from_a_server(mail):
        bounce = _old_bounce(raw)
    else:
        return _from_a_person(mail, named)
    if isinstance(bounce, Ignored):
        return bounce
    letter = _only_letter(found for found in named if found[0] is PathKind.BOUNCES)
    return letter if isinstance(letter, Ignored) else replace(bounce, letter=letter)


def _own_parts(mail: Message) -> Iterator[Message]:
    """The parts of this mail, without those of mails that it holds."""
    yield mail
    if mail.get_content_maintype() == "multipart" and mail.is_multipart():
        for part in mail.get_payload():
            assert isinstance(part, Message)  # noqa: S101 (the parser puts nothing else there)
            yield from _own_parts(part)


def _named(mail: Message, recipients: Sequence[str], paths: ReturnPaths) -> set[tuple[PathKind, str]]:
    """Which letters the recipient's address names: one, if everything is in order."""
    for places in (
        recipients[:_MOST_ADDRESSES],
        *(_headers(mail, name) for name in ("delivered-to", "x-original-to", "envelope-to", "to")),
    ):
        if found := {letter for place in places for letter in paths.find(place)}:
            return found
    return set()


def _only_letter(named: Iterator[tuple[PathKind, str]] | set[tuple[PathKind, str]]) -> str | Ignored:
    letters = {letter for _, letter in named}
    if len(letters) == 1:
        return letters.pop()
    return Ignored("names several letters" if letters else "names no letter of ours")


# Complaints


_COMPLAINTS = frozenset({"abuse", "fraud", "virus", "other"})  # RFC 5965, 7.3
_OPT_OUTS = frozenset({"opt-out", "opt-out-list"})


def _complaint(
    report: Message, parts: dict[str, Message], named: set[tuple[PathKind, str]], paths: ReturnPaths
) -> Returned | Ignored:
    """Complaints come to an address for all of them, so the letter is named by what the report repeats of it."""
    fields = next(_blocks(report), Message())
    kind = _header(fields, "feedback-type").strip().lower()
    if kind not in _COMPLAINTS | _OPT_OUTS:
        return Ignored("feedback that is no complaint")
    found = set(named)
    for place in (fields, _returned_letter(parts)):
        found |= {letter for _, value in place.raw_items() for letter in paths.find(_text(value))}
    letter = _only_letter(found)
    if isinstance(letter, Ignored):
        return letter
    said = one_line(f"{kind}, reported by {_header(fields, 'user-agent') or 'a mail provider'}")
    return Returned(
        ReturnKind.COMPLAINT if kind in _COMPLAINTS else ReturnKind.UNSUBSCRIBE, letter, None, said
    )


def _returned_letter(parts: dict[str, Message]) -> Message:
    if (whole := parts.get("message/rfc822")) is not None:
        return next(_blocks(whole), Message())
    if (headers := parts.get("text/rfc822-headers")) is not None:
        data = headers.get_payload(decode=True)
        return _parse(data) if isinstance(data, bytes) else Message()
    return Message()


# Bounces


_ACTIONS = {"failed": "failed", "error": "failed", "delayed": "delayed"}  # "error" is OpenSMTPD's
_ACTIONS |= dict.fromkeys(("delivered", "relayed", "expanded"), "delivered")
_CLASSES = {"5": "failed", "4": "delayed", "2": "delivered"}


@dataclass(frozen=True, slots=True)
class _Fate:
    """Of one recipient."""

    action: str
    reply: Reply
    said: str


def _report(status: Message) -> Returned | Ignored:
    """A letter has one reader. Several recipients are what their address stood for, and of several fates the one counts
    that does the address the least harm."""
    fates = [fate for fate in map(_fate, _blocks(status)) if fate is not None]
    actions = {fate.action for fate in fates}
    if not fates:
        return Ignored("a report that names no recipient")
    if "delivered" in actions:
        return Ignored("a report of success")
    kind = ReturnKind.DELAYED if "delayed" in actions else ReturnKind.BOUNCED
    fates = [fate for fate in fates if fate.action == "delayed"] or fates
    fate = min(fates, key=lambda fate: 2 * fate.reply.address_is_dead + fate.reply.mailbox_is_full)
    return Returned(kind, "", fate.reply, fate.said)


def _fate(block: Message) -> _Fate | None:
    status = _header(block, "status")
    action = re.match(r"\s*([a-z]*)", _header(block, "action").lower())
    fate = _ACTIONS.get(action[1] if action else "") or _CLASSES.get(status.strip()[:1], "")
    final, original = (_recipient(block, f"{which}-recipient") for which in ("final", "original"))
    if not fate or not (final or original):
        return None
    why = _header(block, "diagnostic-code")
    reply = classify_status(status, why)
    if original and final and not _same_house(original, final):
        # It was passed on. What is wrong elsewhere says nothing of the address we wrote to.
        reply = replace(reply, cause=Cause.OTHER)
    why = re.sub(r"^\s*[\w-]{1,20}\s*;", "", why)  # the kind of diagnosis: smtp, X-Postfix, …
    said = why if status.strip() in why else f"{status} {why}"
    return _Fate(fate, reply, one_line(said, final, original))


def _recipient(block: Message, name: str) -> str:
    """Without its type and brackets, in lower case: `rfc822; <Ann@Example.com>`."""
    value = _header(block, name)[:_LONGEST_LINE]
    return value.partition(";")[2].strip().strip("<>").lower() or value.strip().strip("<>").lower()


def _same_house(one: str, other: str) -> bool:
    here, there = (f".{address.rpartition('@')[2]}" for address in (one, other))
    return here.endswith(there) or there.endswith(here)


_DAEMONS = re.compile(r"\bmailer-daemon\b", re.IGNORECASE)
_SERVERS = re.compile(r"\b(mailer-daemon|postmaster)\b", re.IGNORECASE)


def _is_from_a_server(mail: Message) -> bool:
    """By its name, or by a null return path; vacation programs have that too, but say what they are."""
    return _SERVERS.search(_header(mail, "from")) is not None or (
        _has_null_path(mail) and not _answers_by_itself(mail)
    )


def _old_bounce(raw: bytes) -> Returned | Ignored:
    """A bounce in a server's own words: who knows its format says whether it is final; the reply it quotes says why."""
    beginning = b"\n".join(line[:_LONGEST_LINE] for line in raw[:_FLUFL_BYTES].splitlines())
    # As text, because of bytes beyond ASCII the standard library makes headers that flufl.bounce fails over; and so it
    # does over a mail from nobody.
    text = message_from_string(beginning.decode("utf-8", "replace"), _Mail)
    if not text.get("from", "").strip():
        del text["from"]
        text["From"] = "mailer-daemon"
    temporary, permanent = all_failures(text)
    if not temporary and not permanent:
        return Ignored("from a mail server, but no bounce that can be read")
    said, reply = _quoted_reply(_parse(beginning))
    people = [address.decode("ascii", "replace") for address in temporary | permanent]
    kind = ReturnKind.BOUNCED if permanent else ReturnKind.DELAYED
    return Returned(kind, "", reply, one_line(said, *people))


_QUOTED = re.compile(
    r"(?:^|: )[ \t]*([45]\d\d)[ -]([^\n]*)|^[^\n]*\(#[45]\.\d{1,3}\.\d{1,3}\b[^\n]*", re.MULTILINE
)


def _quoted_reply(mail: Message) -> tuple[str, Reply]:
    """The reply that stands in the text above the returned letter; of several that differ none is believed."""
    unknown = classify_status("5.0.0")
    text = next((part for part in _own_parts(mail) if part.get_content_maintype() == "text"), None)
    data = text.get_payload(decode=True) if text is not None else None
    if not isinstance(data, bytes):
        return "", unknown
    above = re.split(r"^-{2,}", data.decode("utf-8", "replace"), maxsplit=1, flags=re.MULTILINE)[0]
    quoted = {
        match[0].lstrip(": "): classify(int(match[1] or 550), match[2] or match[0])
        for match in _QUOTED.finditer(above)
    }
    causes = {reply.cause for reply in quoted.values()}
    if len(causes) != 1:
        return " ".join(quoted), unknown
    return next(iter(quoted.items()))


# People, and programs that answer for them


def _from_a_person(mail: Message, named: set[tuple[PathKind, str]]) -> Returned | Replied | Ignored:
    if (reason := _not_a_person(mail)) is not None:
        return Ignored(reason)
    if {kind for kind, _ in named} == {PathKind.UNSUBSCRIBE}:
        letter = _only_letter(named)
        return (
            letter
            if isinstance(letter, Ignored)
            else Returned(ReturnKind.UNSUBSCRIBE, letter, None, "by mail")
        )
    references = f"{_header(mail, 'in-reply-to')} {_header(mail, 'references')}"
    # Ours are made by integrations.email.message.message_id_for.
    answered = dict.fromkeys(re.findall(r"<[0-9a-f]{32}@[^<>@\s]{1,253}>", references))
    if not answered:
        return Ignored("has nothing to do with a letter")
    return Replied(tuple(answered)[:_MOST_REFERENCES])


def _not_a_person(mail: Message) -> str | None:
    if _answers_by_itself(mail):
        return "an automatic answer"
    if any(_headers(mail, name) for name in ("list-id", "list-post", "list-unsubscribe", "mailing-list")):
        return "a post of a mailing list"
    if re.match(r"\s*(bulk|list|junk)\b", _header(mail, "precedence"), re.IGNORECASE):
        return "bulk mail"
    if "message/disposition-notification" in {part.get_content_type() for part in _own_parts(mail)}:
        return "a read receipt"
    if _has_null_path(mail) or _DAEMONS.search(_header(mail, "from")):
        return "from a mail server"
    return None


def _answers_by_itself(mail: Message) -> bool:
    automatic = _header(mail, "auto-submitted").partition(";")[0].strip().lower()
    return (
        automatic not in ("", "no")
        or re.match(r"\s*auto", _header(mail, "precedence"), re.IGNORECASE) is not None
        or any(_headers(mail, name) for name in _ANSWERING_PROGRAMS)
    )


_ANSWERING_PROGRAMS = (
    "x-auto-response-suppress",
    "x-autoreply",
    "x-autorespond",
    "x-autoresponder",
    "x-mail-autoreply",
    "x-vacation",
)


def _has_null_path(mail: Message) -> bool:
    paths = _headers(mail, "return-path")
    return bool(paths) and paths[0].strip() in ("<>", "")


# Reading


def _headers(mail: Message, name: str) -> list[str]:
    return [_text(value) for known, value in mail.raw_items() if known.lower() == name]


def _text(value: str) -> str:
    """The parser keeps bytes beyond ASCII as surrogates."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _header(mail: Message, name: str) -> str:
    return next(iter(_headers(mail, name)), "")


def _blocks(part: Message) -> Iterator[Message]:
    """The groups of fields of a report, or the one mail that a part holds."""
    payload = part.get_payload()
    for block in payload if isinstance(payload, list) else []:
        assert isinstance(block, Message)  # noqa: S101 (the parser puts nothing else there)
        yield block
