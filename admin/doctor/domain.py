"""What the sender's domain says in DNS about its mail: SPF, DKIM, DMARC, and where answers come back to."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from admin.doctor.alignment import are_aligned, organisational
from admin.doctor.findings import Finding, Line, Subject, failed, not_checked, ok, warning
from admin.doctor.reach import private_among
from admin.doctor.received import signatures_of
from core.errors import RetryableError
from integrations.dns import Resolver
from integrations.email.url import parse_email_url

Texts = Callable[[str], Sequence[str]]
"""The TXT records of a name. Raises RetryableError."""

MOST_LOOKUPS = 10  # RFC 7208 section 4.6.4; more are an error to everybody who asks
AGAIN = "run it again when the machine's name servers answer"


def check_dns(subject: Subject) -> Iterator[Finding]:
    domain, bounces, resolver = subject.from_domain, subject.bounce_domain, subject.dns
    if not domain:
        yield not_checked(Line.DNS, "EMAIL_FROM is not set")
        return
    try:
        yield judge_domain(domain, resolver.mail_hosts(domain), resolver.addresses(domain))
    except RetryableError as exc:
        yield not_checked(Line.DNS, str(exc), AGAIN)
        return  # nobody answers: the rest would wait for nothing
    steps: tuple[tuple[Line, Callable[[], Iterable[Finding]]], ...] = (
        (Line.DNS_SPF, lambda: [judge_spf(bounces, resolver.texts)]),
        (Line.DNS_DMARC, lambda: _check_dmarc(domain, bounces, resolver)),
        (Line.DNS_DKIM, lambda: _check_dkim(subject)),
        (Line.DNS_BOUNCES, lambda: [_check_bounces(bounces, resolver)]),
        (Line.DNS_HOST, lambda: [_check_host(subject)]),
    )
    for line, step in steps:
        try:
            yield from step()
        except RetryableError as exc:
            yield not_checked(line, str(exc), AGAIN)


def judge_domain(domain: str, mail_hosts: Sequence[str], addresses: Sequence[str]) -> Finding:
    seen = f"{domain}; its organisational domain is taken to be {organisational(domain)}"
    if mail_hosts and any(mail_hosts):
        return ok(Line.DNS, seen)
    if mail_hosts:
        return failed(
            Line.DNS,
            f"{domain} says that it takes no mail (null MX), so many servers refuse mail from it",
            "give the domain of EMAIL_FROM an MX record, or write from another one",
        )
    if addresses:
        return warning(
            Line.DNS,
            f"{seen}; it has no MX record, only an address",
            "give it an MX record: people answer letters",
        )
    return failed(
        Line.DNS,
        f"{domain} has neither MX nor address: mail from it is refused",
        "correct EMAIL_FROM, or give its domain an MX record",
    )


# SPF


def judge_spf(domain: str, texts: Texts) -> Finding:
    """Of the envelope sender's domain (RFC 7208), its includes followed as a receiver would."""
    line = Line.DNS_SPF
    records = _spf_records(texts(domain))
    if not records:
        return failed(
            line,
            f"{domain} has no SPF record",
            f'publish one TXT record at {domain}: "v=spf1 include:<what your mail provider names> ~all"',
        )
    if len(records) > 1:
        return failed(
            line,
            f"{domain} has {len(records)} SPF records, which counts as an error",
            "merge them into one TXT record",
        )
    try:
        terms = parse_spf(records[0])
        lookups = _count_lookups(terms, texts)
    except ValueError as exc:
        return failed(line, f"{domain}: {exc}", "correct the SPF record")
    if lookups > MOST_LOOKUPS:
        return failed(
            line,
            f"{domain}: SPF needs {lookups} look-ups, and more than {MOST_LOOKUPS} are an error",
            "take out includes that nobody sends through",
        )
    seen = f"{domain}: one record, {lookups} of {MOST_LOOKUPS} look-ups"
    ends = next((term for term in terms if term.name == "all"), None)
    if ends is None and not any(term.name == "redirect" for term in terms):
        return warning(line, f"{seen}; it says nothing of other servers", "end it with ~all or -all")
    if ends is not None and ends.qualifier == "+":
        return failed(line, f"{domain}: +all lets anybody write in its name", "end it with ~all or -all")
    if ends is not None and ends.qualifier == "?":
        return warning(line, f"{seen}; ?all says nothing of other servers", "end it with ~all or -all")
    if any(term.name == "ptr" for term in terms):
        return warning(line, f"{seen}; ptr is slow, and many ignore it", "name addresses instead of ptr")
    return ok(line, f"{seen} (whether the mail server is in it, a received copy shows)")


@dataclass(frozen=True, slots=True)
class SpfTerm:
    """A mechanism with its qualifier, or a modifier (qualifier "")."""

    name: str
    value: str
    qualifier: str = ""


def parse_spf(record: str) -> list[SpfTerm]:
    """The terms of a record after its version. Raises ValueError naming what nobody can read."""
    terms = []
    for word in record.split()[1:]:
        if modifier := re.fullmatch(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)", word):
            name, value = modifier[1].lower(), modifier[2]
            if name in ("redirect", "exp") and not value:
                raise ValueError(f"{name}= names no domain")
            terms.append(SpfTerm(name, value))
            continue
        mechanism = re.fullmatch(
            r"([+~?-]?)(all|include|a|mx|ptr|ip4|ip6|exists)(?::([^/\s][^\s]*))?(/\S+)?", word, re.IGNORECASE
        )
        if mechanism is None:
            raise ValueError(f"SPF has no {word[:60]!r}")
        sign, name, value, _mask = mechanism.groups()
        name, value = name.lower(), value or ""
        if (name in ("include", "exists", "ip4", "ip6")) != bool(value) and name not in ("a", "mx", "ptr"):
            raise ValueError(f"{word[:60]!r} names {'too much' if value else 'nothing'}")
        if name in ("ip4", "ip6"):
            _require_network(name, word.partition(":")[2])
        terms.append(SpfTerm(name, value, sign or "+"))
    return terms


def _require_network(name: str, text: str) -> None:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{name}:{text[:60]} is no address") from None
    if network.version != int(name[-1]):
        raise ValueError(f"{name}:{text[:60]} is an address of the other kind")


def _spf_records(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if re.match(r"v=spf1( |$)", text, re.IGNORECASE)]


def _count_lookups(terms: Sequence[SpfTerm], texts: Texts, so_far: int = 0) -> int:
    """Raises ValueError for an included record that is none, RetryableError when DNS does not say."""
    has_all = any(term.name == "all" for term in terms)
    for term in terms:
        if term.name == "all":
            break  # whatever follows is ignored (section 5.1)
        if term.name not in _ASKING or (term.name == "redirect" and has_all):
            continue
        so_far += 1
        # Enough is enough: a record may include itself. Macros are filled in by the receiver only.
        if so_far > MOST_LOOKUPS or term.name not in ("include", "redirect") or "%" in term.value:
            continue
        records = _spf_records(texts(term.value))
        if len(records) != 1:
            what = "no SPF record" if not records else f"{len(records)} SPF records"
            raise ValueError(f"{term.name} {term.value} has {what}")
        so_far = _count_lookups(parse_spf(records[0]), texts, so_far)
    return so_far


_ASKING = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})


# DMARC


@dataclass(frozen=True, slots=True)
class Dmarc:
    """A record as far as it matters here; the default is what holds without one."""

    policy: str = ""
    is_strict_spf: bool = False
    is_strict_dkim: bool = False


def judge_dmarc(domain: str, texts: Texts) -> tuple[Dmarc, Finding]:
    """Of the From address's domain, or else of its organisational domain (RFC 7489 section 6.6.3)."""
    line = Line.DNS_DMARC
    place, found = domain, _dmarc_records(texts(f"_dmarc.{domain}"))
    if not found and organisational(domain) != domain:
        place = organisational(domain)
        found = _dmarc_records(texts(f"_dmarc.{place}"))
    advice = f'publish one TXT record at _dmarc.{place}: "v=DMARC1; p=none; rua=mailto:<where reports go>"'
    if not found:
        return Dmarc(), failed(line, f"{domain} has no DMARC record", advice)
    if len(found) > 1:
        return Dmarc(), failed(
            line, f"_dmarc.{place} has {len(found)} records, so none counts", "delete all but one"
        )
    try:
        tags = _tags(found[0])
    except ValueError as exc:
        return Dmarc(), failed(line, f"_dmarc.{place}: {exc}", advice)
    policy = tags.get("p", "").lower()
    if place != domain and "sp" in tags:
        policy = tags["sp"].lower()
    for name, known in (("adkim", ("r", "s")), ("aspf", ("r", "s"))):
        if tags.get(name, "r").lower() not in known:
            return Dmarc(), failed(line, f"_dmarc.{place}: {name} is neither r nor s", advice)
    if policy not in ("none", "quarantine", "reject"):
        return Dmarc(), failed(
            line, f"_dmarc.{place}: its policy is none of none, quarantine and reject", advice
        )
    dmarc = Dmarc(policy, tags.get("aspf", "r").lower() == "s", tags.get("adkim", "r").lower() == "s")
    seen = (
        f"at _dmarc.{place}: policy {policy}, alignment of SPF {_mode(dmarc.is_strict_spf)},"
        f" of DKIM {_mode(dmarc.is_strict_dkim)}"
    )
    if not re.match(r"mailto:", tags.get("rua", ""), re.IGNORECASE):
        return dmarc, warning(
            line,
            f"{seen}; nobody gets reports",
            "add rua=mailto:<address>: reports show who sends in your name",
        )
    return dmarc, ok(line, f"{seen}, reports are asked for")


def _check_dmarc(domain: str, bounces: str, resolver: Resolver) -> Iterator[Finding]:
    dmarc, finding = judge_dmarc(domain, resolver.texts)
    yield finding
    yield judge_alignment(domain, bounces, dmarc)


def _mode(is_strict: bool) -> str:
    return "strict" if is_strict else "relaxed"


def _dmarc_records(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if re.match(r"v\s*=\s*DMARC1\s*(;|$)", text)]


def _tags(record: str) -> dict[str, str]:
    """`a=b; c=d` as DMARC and DKIM have it. Raises ValueError."""
    tags: dict[str, str] = {}
    for part in record.split(";"):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        if not equals or not name.strip():
            raise ValueError(f"{part.strip()[:60]!r} is no tag=value")
        tags.setdefault(name.strip(), value.strip())
    return tags


def judge_alignment(from_domain: str, bounce_domain: str, dmarc: Dmarc) -> Finding:
    line = Line.DNS_ALIGNMENT
    if are_aligned(from_domain, bounce_domain, strict=dmarc.is_strict_spf):
        return ok(
            line,
            f"the envelope's domain {bounce_domain} goes with {from_domain}, as long as the relay leaves it as it is",
        )
    return warning(
        line,
        f"the envelope's domain {bounce_domain} does not go with {from_domain}: SPF cannot align, only DKIM can",
        f"set EMAIL_BOUNCES to an address at {from_domain}, or make sure that the relay signs with d={from_domain}",
    )


# DKIM


def _check_dkim(subject: Subject) -> Iterator[Finding]:
    wanted = [(selector, subject.from_domain) for selector in subject.selectors]
    wanted += [
        (signature["s"], signature["d"])
        for signature in signatures_of(subject.received or b"")
        if signature.get("s") and signature.get("d")
    ]
    if not wanted:
        yield not_checked(
            Line.DNS_DKIM,
            "nobody can tell from outside under which selector a relay signs",
            "run it with --selector, or with --received and the source of a letter that arrived",
        )
    for selector, domain in dict.fromkeys(wanted):
        yield judge_dkim(selector, domain, subject.dns.texts(f"{selector}._domainkey.{domain}"))


def judge_dkim(selector: str, domain: str, texts: Sequence[str]) -> Finding:
    """By the TXT records at `<selector>._domainkey.<domain>` (RFC 6376 section 3.6.1, RFC 8301, RFC 8463)."""
    line, place = Line.DNS_DKIM, f"{selector}._domainkey.{domain}"
    publish = f"publish at {place} what the mail provider says, in one piece"
    if not texts:
        return failed(line, f"{place} does not exist", publish)
    if len(texts) > 1:
        return failed(line, f"{place} has {len(texts)} records", "delete all but one")
    try:
        tags = _tags(texts[0])
        key = base64.b64decode("".join(tags.get("p", "").split()), validate=True)
    except (ValueError, binascii.Error):
        return failed(line, f"{place} is no DKIM key", publish)
    if tags.get("v", "DKIM1") != "DKIM1" or "p" not in tags:
        return failed(line, f"{place} is no DKIM key", publish)
    if not key:
        return failed(
            line, f"{place} is revoked (empty p=)", "have the relay sign with a selector that is in use"
        )
    kind = tags.get("k", "rsa").lower()
    seen = f"{place}: {kind}"
    if kind == "rsa":
        try:
            found = load_der_public_key(key)
        except (ValueError, UnsupportedAlgorithm):
            return failed(line, f"{place} is no RSA key; it may have been cut off", publish)
        if not isinstance(found, RSAPublicKey):
            return failed(line, f"{place} is no RSA key, but says so", publish)
        bits = found.key_size
        seen = f"{seen}, {bits} bits"
        if bits < 1024:
            return failed(
                line, f"{seen}: nobody accepts less than 1024", "have the relay use a key of 2048 bits"
            )
        if bits < 2048:
            return warning(line, seen, "have the relay use a key of 2048 bits")
    if "y" in tags.get("t", "").lower().split(":"):
        return warning(
            line, f"{seen}; marked as a test, so receivers may ignore it", f"take t=y out of {place}"
        )
    return ok(line, seen)


# Hosts


def _check_bounces(domain: str, resolver: Resolver) -> Finding:
    hosts = resolver.mail_hosts(domain)
    reached = [host for host in hosts if host] or ([] if hosts else [domain])
    return judge_bounces(domain, hosts, has_address=any(resolver.addresses(host) for host in reached))


def judge_bounces(domain: str, hosts: Sequence[str], *, has_address: bool) -> Finding:
    """`hosts` of the MX records; `has_address` of one of them, or without MX of the domain itself."""
    line = Line.DNS_BOUNCES
    fix = f"give {domain} an MX record to where EMAIL_BOUNCES is read, or set EMAIL_BOUNCES to a domain that has one"
    if hosts and not any(hosts):
        return failed(line, f"{domain} takes no mail (null MX): nobody hears of letters that come back", fix)
    if not hosts and not has_address:
        return failed(line, f"{domain} has no MX record: nobody hears of letters that come back", fix)
    if not has_address:
        return failed(line, f"the mail hosts of {domain} have no address", fix)
    if not hosts:
        return warning(line, f"{domain} has an address, but no MX record", fix)
    return ok(line, f"mail to {domain} goes to {hosts[0]}")


def _check_host(subject: Subject) -> Finding:
    line = Line.DNS_HOST
    try:
        url = parse_email_url(subject.settings.email_url.get_secret_value())
    except ValueError:
        return not_checked(line, "EMAIL_URL cannot be read (see settings)")
    if not url.host:
        return not_checked(line, "EMAIL_URL names no mail server")
    if not is_own_host(url.host, subject.from_domain):
        return ok(line, f"not needed: {url.host} is a provider's, who sees to it")
    return judge_host(url.host, *_names_of(url.host, subject.dns))


def is_own_host(host: str, from_domain: str) -> bool:
    """Whether the mail server is the operator's own: of the same organisation, or on this machine or network."""
    if host.lower() == "localhost":
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        return organisational(host) == organisational(from_domain)


def _names_of(host: str, resolver: Resolver) -> tuple[list[str], dict[str, list[str]]]:
    """The host's addresses, and those of their names that lead back to them."""
    try:
        addresses = [str(ip_address(host))]
    except ValueError:
        addresses = list(resolver.addresses(host))
    return addresses, {
        address: [name for name in resolver.names(address) if address in resolver.addresses(name)]
        for address in addresses
        if address not in private_among([address])
    }


def judge_host(host: str, addresses: Sequence[str], names: dict[str, list[str]]) -> Finding:
    """`names`: for each public address those of its names (PTR) that have this address."""
    line = Line.DNS_HOST
    if not addresses and host != "localhost":
        return failed(line, f"{host} has no address", "correct the host of EMAIL_URL, or its A record")
    if not names:
        return not_checked(
            line,
            f"{host} is on this machine or network: under which address it sends cannot be seen from here",
            "see that the public address it sends from has a name (PTR) that leads back to it",
        )
    nameless = [address for address, found in names.items() if not found]
    if nameless:
        return failed(
            line,
            f"{', '.join(nameless)} has no name that leads back to it",
            "set the PTR record at whoever owns the address, to a name with this address",
        )
    return ok(line, "; ".join(f"{address} is {found[0]}, and back" for address, found in names.items()))
