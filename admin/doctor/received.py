"""A letter as it arrived: what the receiving server found of SPF, DKIM and DMARC, and what became of our headers.

Only its headers are read, and nothing of them is shown but domains and verdicts.
"""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parseaddr

from admin.doctor.alignment import are_aligned, organisational
from admin.doctor.findings import Finding, Line, Subject, failed, not_checked, ok, warning

MUST_BE_SIGNED = ("from", "subject", "list-unsubscribe", "list-unsubscribe-post")
ONCE = ("Date", "From", "Message-ID", "Subject", "To", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id")
HAVE_THE_RELAY_SIGN = (
    "have the mail provider sign for the domain of EMAIL_FROM (DKIM, usually two CNAME records)"
)


def check_received(subject: Subject) -> Iterator[Finding]:
    if subject.received is None:
        yield not_checked(
            Line.RECEIVED,
            "no received letter was given",
            "send a letter to a mailbox of yours, save its source to a file, and run it with --received FILE",
        )
        return
    letter = read_headers(subject.received)
    domain = parseaddr(_text(letter, "From"))[1].rpartition("@")[2].lower()
    if not domain:
        yield failed(
            Line.RECEIVED,
            "the file has no From: it is no letter",
            "save the source of the letter, headers first",
        )
        return
    if subject.from_domain and organisational(domain) != organisational(subject.from_domain):
        yield warning(
            Line.RECEIVED,
            f"the letter is from {domain}, not from {subject.from_domain}",
            "give a letter that this Usher sent",
        )
    else:
        yield ok(Line.RECEIVED, f"a letter from {domain}")
    results = results_of(letter)
    if not results:
        yield not_checked(
            Line.RECEIVED_DMARC,
            "the letter has no Authentication-Results: its server checks nothing, or this is not the received copy",
            "send one to a mailbox at a large provider, and save its source there",
        )
    else:
        yield from judge_results(domain, results, lambda one: are_aligned(one, domain))
    yield judge_signed([s for s in _signatures(letter) if are_aligned(s.get("d", ""), domain)])
    yield judge_headers(letter)
    yield judge_one_click(letter, subject.settings.public_url)
    yield judge_hops([_unfolded(value) for value in letter.get_all("Received", [])])


def read_headers(raw: bytes) -> Message:
    head = re.split(rb"\r?\n\r?\n", raw.lstrip(b"\r\n"), maxsplit=1)[0]
    if head.startswith(b"From "):  # a mailbox file's line
        head = head.partition(b"\n")[2]
    return email.message_from_bytes(head + b"\r\n\r\n", policy=email.policy.compat32)


def signatures_of(raw: bytes) -> list[dict[str, str]]:
    """The tags of each DKIM-Signature."""
    return _signatures(read_headers(raw))


def _signatures(letter: Message) -> list[dict[str, str]]:
    found = []
    for value in letter.get_all("DKIM-Signature", []):
        pairs = (part.partition("=") for part in str(value).split(";"))
        found.append({name.strip(): "".join(text.split()) for name, _, text in pairs if name.strip()})
    return found


def _text(letter: Message, name: str) -> str:
    return _unfolded(letter.get(name, ""))


def _unfolded(value: object) -> str:
    return " ".join(str(value).split())


# Authentication-Results


@dataclass(frozen=True, slots=True)
class Result:
    """One method's result with its properties, such as `header.d` (RFC 8601 section 2.2)."""

    method: str
    result: str
    properties: dict[str, str] = field(default_factory=dict)


def results_of(letter: Message) -> list[Result]:
    """What the last server said, whose headers stand on top: those further down may be anybody's."""
    found: list[Result] = []
    believed = ""
    for value in letter.get_all("Authentication-Results", []):
        server, results = parse_results(_unfolded(value))
        believed = believed or server
        if server == believed:
            found += results
    return found


def parse_results(text: str) -> tuple[str, list[Result]]:
    """The server's name and what it says, of one header; what cannot be read is left out."""
    while (shorter := re.sub(r"\([^()]*\)", " ", text)) != text:
        text = shorter
    parts = text.split(";")
    server = parts[0].split()[0].lower() if parts[0].split() else ""
    found = []
    for part in parts[1:]:
        if match := re.match(r"\s*([A-Za-z0-9-]+)(?:\s*/\s*\d+)?\s*=\s*([A-Za-z]+)", part):
            properties = {
                name.lower(): (quoted or plain)
                for name, quoted, plain in re.findall(
                    r'([A-Za-z]+\.[A-Za-z0-9-]+)\s*=\s*(?:"([^"]*)"|(\S+))', part[match.end() :]
                )
            }
            found.append(Result(match[1].lower(), match[2].lower(), properties))
    return server, found


def judge_results(
    domain: str, results: Sequence[Result], is_aligned: Callable[[str], bool]
) -> Iterator[Finding]:
    """`domain` of the letter's From."""
    spf = [result for result in results if result.method == "spf"]
    dkim = [result for result in results if result.method == "dkim"]
    dmarc = [result for result in results if result.method == "dmarc"]
    sender = next((_domain_of(one.properties.get("smtp.mailfrom", "")) for one in spf), "")
    spf_passes = any(one.result == "pass" for one in spf)
    good_keys = [
        _domain_of(one.properties.get("header.d") or one.properties.get("header.i", ""))
        for one in dkim
        if one.result == "pass"
    ]
    spf_aligned = spf_passes and bool(sender) and is_aligned(sender)
    dkim_aligned = any(is_aligned(key) for key in good_keys if key)
    told = spf[0].result if spf else "not told"
    if not spf_passes:
        yield failed(
            Line.RECEIVED_SPF,
            f"SPF: {told}, for {sender or 'the envelope sender'}",
            "add the mail server's include or addresses to the SPF record of the envelope's domain",
        )
    elif spf_aligned:
        yield ok(Line.RECEIVED_SPF, f"SPF passes for {sender}, which goes with {domain}")
    elif dkim_aligned:
        yield ok(
            Line.RECEIVED_SPF,
            f"SPF passes for {sender or 'another domain'}, which does not go with {domain}; DKIM does",
        )
    else:
        yield warning(
            Line.RECEIVED_SPF,
            f"SPF passes for {sender or 'another domain'}, which does not go with {domain}",
            "set up a return path of your own domain at the mail provider, or DKIM for it",
        )
    if dkim_aligned:
        yield ok(Line.RECEIVED_DKIM, f"DKIM passes with a key of {domain}'s organisation")
    elif good_keys:
        yield failed(
            Line.RECEIVED_DKIM,
            f"DKIM passes for {', '.join(filter(None, good_keys)) or 'another domain'}, not for {domain}",
            HAVE_THE_RELAY_SIGN,
        )
    else:
        yield failed(
            Line.RECEIVED_DKIM, f"DKIM: {dkim[0].result if dkim else 'no signature'}", HAVE_THE_RELAY_SIGN
        )
    if any(one.result == "pass" for one in dmarc):
        yield ok(Line.RECEIVED_DMARC, "DMARC passes")
    elif not dmarc and (spf_aligned or dkim_aligned):
        yield ok(Line.RECEIVED_DMARC, "not told, but SPF or DKIM passes and is aligned")
    else:
        yield failed(
            Line.RECEIVED_DMARC,
            f"DMARC: {dmarc[0].result if dmarc else 'not told, and neither SPF nor DKIM passes aligned'}",
            "have DKIM or SPF pass with the domain of EMAIL_FROM (the lines above), and publish DMARC (dns.dmarc)",
        )


def _domain_of(text: str) -> str:
    return text.rpartition("@")[2].strip("<>").lower()


# What became of our headers


def judge_signed(signatures: Sequence[dict[str, str]]) -> Finding:
    """By the signatures of the From's own domain: RFC 8058 section 4 has both headers inside h=."""
    line = Line.RECEIVED_SIGNED
    if not signatures:
        return failed(line, "no DKIM signature of the From's own domain", HAVE_THE_RELAY_SIGN)
    missing: list[str] = []
    for signature in signatures:
        signed = signature.get("h", "").lower().split(":")
        missing = [name for name in MUST_BE_SIGNED if name not in signed]
        if not missing and "l" in signature:
            return warning(
                line,
                "the signature covers only the beginning of the body (l=)",
                "have the relay sign without l=",
            )
        if not missing:
            return ok(line, f"the signature of {signature.get('d', '?')} covers {', '.join(MUST_BE_SIGNED)}")
    return failed(
        line,
        f"the signature does not cover {', '.join(missing)}: no button to unsubscribe is shown",
        "have the mail provider sign these headers; one that cannot does not suit promotional letters",
    )


def judge_headers(letter: Message) -> Finding:
    counts = {name: len(letter.get_all(name, [])) for name in ONCE}
    wrong = [f"{name} {count} times" for name, count in counts.items() if count > 1]
    wrong += [f"no {name}" for name in ("Date", "From", "Message-ID") if not counts[name]]
    if wrong:
        return failed(
            Line.RECEIVED_HEADERS,
            ", ".join(wrong),
            "have the relay leave headers as they are: each of these may stand there once",
        )
    return ok(Line.RECEIVED_HEADERS, "one Date, one From, one Message-ID")


def judge_one_click(letter: Message, public_url: str) -> Finding:
    line = Line.RECEIVED_ONE_CLICK
    links = re.findall(r"<(https?://[^>]+)>", _text(letter, "List-Unsubscribe").replace(" ", ""))
    if not links:
        return failed(
            line,
            "List-Unsubscribe has no link",
            "have the relay leave the header as it is (and give a letter that this Usher sent)",
        )
    if "".join(_text(letter, "List-Unsubscribe-Post").split()) != "List-Unsubscribe=One-Click":
        return failed(
            line,
            "List-Unsubscribe-Post does not say List-Unsubscribe=One-Click",
            "have the relay leave the header as it is",
        )
    if public_url and not any(link.startswith(f"{public_url}/unsubscribe/") for link in links):
        return warning(
            line,
            "the link to unsubscribe does not lead to PUBLIC_URL",
            "turn off the relay's own unsubscribing and link tracking; else opt-outs do not reach Usher",
        )
    return ok(line, "one click leads to this service")


def judge_hops(received: Sequence[str]) -> Finding:
    """By the Received headers (RFC 5321 section 4.4, RFC 3848): each hop over SMTP between machines with TLS."""
    line = Line.RECEIVED_TLS
    hops = [_hop(text) for text in received]
    over_smtp = [(by, secured) for by, secured in hops if by]
    if not over_smtp:
        return not_checked(line, "no Received header tells of a way over SMTP")
    open_hops = [by for by, secured in over_smtp if not secured]
    if len(open_hops) == len(over_smtp):
        return failed(
            line,
            f"no hop tells of TLS; the last was to {open_hops[0]}",
            "have the mail provider use TLS towards other servers; see relay.tls for the first hop",
        )
    if open_hops:
        return warning(
            line,
            f"no TLS towards {', '.join(open_hops)}",
            "inside one provider that may be so; towards another one have TLS turned on",
        )
    return ok(line, f"TLS on every one of {len(over_smtp)} hops over SMTP")


def _hop(received: str) -> tuple[str, bool]:
    """Who took it, "" when not over SMTP from another machine, and whether with TLS."""
    by = re.search(r"\bby ([A-Za-z0-9._:\[\]-]+)", received)
    protocol = next((word for word in re.findall(r"\bwith (\w+)", received) if "SMTP" in word.upper()), "")
    sender = received.partition(" by ")[0]
    if by is None or not protocol or not sender.startswith("from "):
        return "", False
    if re.search(r"^from localhost\b|\[(IPv6:)?(127\.|::1\])", sender):
        return "", False
    secured = bool(re.search(r"SMTPSA?$", protocol.upper())) or bool(
        re.search(r"\bTLSv?1|\bversion=TLS", received)
    )
    return by[1], secured
