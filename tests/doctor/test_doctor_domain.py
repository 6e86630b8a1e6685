"""SPF, DKIM, DMARC and hosts: the judges on literals, then the whole check against a real name server."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from admin.doctor.alignment import are_aligned, organisational
from admin.doctor.domain import (
    Dmarc,
    check_dns,
    is_own_host,
    judge_alignment,
    judge_bounces,
    judge_dkim,
    judge_dmarc,
    judge_domain,
    judge_host,
    judge_spf,
    parse_spf,
)
from core.errors import RetryableError
from tests.doctor.name_server import Zone, name_server
from tests.doctor.patient import a_subject, said, verdict, verdicts

DOMAIN = "seaside.example.com"


def rsa_record(bits: int, more: str = "") -> str:
    key = generate_private_key(65537, bits).public_key()
    return f"v=DKIM1; k=rsa; {more}p={b64(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))}"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


EC_KEY = (
    generate_ec_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)

# No library makes one of 512 bits any more: this is 2^511 + 111 and exponent 65537, in the form of RFC 5280.
SHORT_KEY = b64(
    bytes.fromhex("305c300d06092a864886f70d0101010500034b003048024100")
    + (2**511 + 111).to_bytes(64, "big")
    + bytes.fromhex("0203010001")
)


@pytest.mark.parametrize(
    ("domain", "found"),
    [
        ("example.com", "example.com"),
        ("mail.news.example.com", "example.com"),
        ("a.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("shop.example.de", "example.de"),
        ("Example.COM.", "example.com"),
    ],
)
def test_the_organisational_domain_is_two_labels_or_three_below_shared_endings(
    domain: str, found: str
) -> None:
    assert organisational(domain) == found


def test_alignment_is_by_organisation_or_to_the_letter() -> None:
    assert are_aligned("bounce.example.com", "example.com")
    assert not are_aligned("bounce.example.com", "example.com", strict=True)
    assert are_aligned("Example.com", "example.com", strict=True)
    assert not are_aligned("one.co.uk", "other.co.uk")
    assert not are_aligned("", "example.com")


INCLUDES: Mapping[str, Sequence[str]] = {
    "_spf.provider.example": ["v=spf1 ip4:192.0.2.0/24 -all"],
    "nine.example": ["v=spf1 " + "a:one.example " * 9 + "-all"],
    "itself.example": ["v=spf1 include:itself.example -all"],
    "two.example": ["v=spf1 -all", "v=spf1 ~all"],
    "broken.example": ["v=spf1 ipv4:192.0.2.1 -all"],
    "other.example": ["google-site-verification=x", "V=SPF1 a -all"],
}


@pytest.mark.parametrize(
    ("records", "expected", "words"),
    [
        (["v=spf1 include:_spf.provider.example ~all"], "ok", "1 of 10"),
        (["unrelated", "v=spf1 mx a:mail.example.com ip6:2001:db8::/32 -all"], "ok", "2 of 10"),
        (["v=spf1 redirect=other.example"], "ok", "2 of 10"),
        (["v=spf1 include:%{i}._spf.example exists:%{i}.ok.example -all"], "ok", "2 of 10"),
        (["v=spf1 -all include:nowhere.example"], "ok", "0 of 10"),
        (["v=spf1 a/24 mx:example.org/24 exp=why.example.com unknown=thing -all"], "ok", "2 of 10"),
        ([], "failed", "no SPF record"),
        (["v=spf10 -all"], "failed", "no SPF record"),
        (["v=spf1 -all", "v=spf1 ~all"], "failed", "2 SPF records"),
        (["v=spf1 include:nine.example mx -all"], "failed", "11 look-ups"),
        (["v=spf1 include:nine.example -all"], "ok", "10 of 10"),
        (["v=spf1 include:itself.example -all"], "failed", "look-ups"),
        (["v=spf1 include:nowhere.example -all"], "failed", "nowhere.example has no SPF record"),
        (["v=spf1 include:two.example -all"], "failed", "two.example has 2 SPF records"),
        (["v=spf1 include:broken.example -all"], "failed", "ipv4:192.0.2.1"),
        (["v=spf1 redirect=nowhere.example"], "failed", "nowhere.example"),
        (["v=spf1 ip4:192.0.2.300 -all"], "failed", "no address"),
        (["v=spf1 ip4:2001:db8::1 -all"], "failed", "other kind"),
        (["v=spf1 include -all"], "failed", "names nothing"),
        (["v=spf1 all:example.com"], "failed", "names too much"),
        (["v=spf1 redirect="], "failed", "no domain"),
        (["v=spf1 +all"], "failed", "anybody"),
        (["v=spf1 a all"], "failed", "anybody"),
        (["v=spf1 a ?all"], "warning", "says nothing"),
        (["v=spf1 a"], "warning", "says nothing"),
        (["v=spf1 ptr -all"], "warning", "ptr"),
    ],
)
def test_spf_is_judged_as_a_receiver_would(records: Sequence[str], expected: str, words: str) -> None:
    zone = {DOMAIN: records, **INCLUDES}

    finding = judge_spf(DOMAIN, lambda name: zone.get(name, []))

    assert verdict(finding) == expected
    assert words in finding.seen


def test_an_spf_record_keeps_the_order_and_signs_of_its_terms() -> None:
    terms = parse_spf("v=spf1 ~include:a.example IP4:192.0.2.1 redirect=b.example -ALL")

    assert [(term.qualifier, term.name, term.value) for term in terms] == [
        ("~", "include", "a.example"),
        ("+", "ip4", "192.0.2.1"),
        ("", "redirect", "b.example"),
        ("-", "all", ""),
    ]


@pytest.mark.parametrize(
    ("at_domain", "at_organisation", "expected", "words"),
    [
        (["v=DMARC1; p=reject; rua=mailto:d@example.com"], [], "ok", "policy reject"),
        (
            ["v=DMARC1;p=none;adkim=s;aspf=s;rua=mailto:d@example.com;"],
            [],
            "ok",
            "SPF strict, of DKIM strict",
        ),
        (
            [],
            ["v=DMARC1; p=reject; sp=none; rua=mailto:d@example.com"],
            "ok",
            "_dmarc.example.com: policy none",
        ),
        (["v=DMARC1; p=none"], [], "warning", "reports"),
        ([], [], "failed", "no DMARC record"),
        (["v=spf1 -all"], [], "failed", "no DMARC record"),
        (["v=DMARC1; p=none", "v=DMARC1; p=reject"], [], "failed", "2 records"),
        (["v=DMARC1; rua=mailto:d@example.com"], [], "failed", "its policy"),
        (["v=DMARC1; p=nothing"], [], "failed", "its policy"),
        (["v=DMARC1; p=none; aspf=x"], [], "failed", "aspf"),
        (["v=DMARC1; p=none; reports"], [], "failed", "'reports'"),
    ],
)
def test_dmarc_is_that_of_the_domain_or_else_of_its_organisation(
    at_domain: Sequence[str], at_organisation: Sequence[str], expected: str, words: str
) -> None:
    zone = {f"_dmarc.{DOMAIN}": at_domain, "_dmarc.example.com": at_organisation}

    _, finding = judge_dmarc(DOMAIN, lambda name: zone.get(name, []))

    assert verdict(finding) == expected
    assert words in finding.seen


def test_a_strict_record_is_what_alignment_is_judged_by() -> None:
    strict, _ = judge_dmarc("example.com", lambda _: ["v=DMARC1; p=none; aspf=s"])

    assert verdict(judge_alignment("example.com", "bounce.example.com", Dmarc())) == "ok"
    assert verdict(judge_alignment("example.com", "bounce.example.com", strict)) == "warning"
    assert verdict(judge_alignment("example.com", "provider.example", Dmarc())) == "warning"


@pytest.mark.parametrize(
    ("records", "expected", "words"),
    [
        ([rsa_record(2048)], "ok", "2048 bits"),
        ([f"v=DKIM1; k=ed25519; p={b64(b'k' * 32)}"], "ok", "ed25519"),
        ([rsa_record(1024)], "warning", "1024 bits"),
        ([rsa_record(2048, "t=s:y; ")], "warning", "test"),
        ([], "failed", "does not exist"),
        ([rsa_record(2048), rsa_record(2048)], "failed", "2 records"),
        (["v=DKIM1; k=rsa; p="], "failed", "revoked"),
        ([f"v=DKIM1; p={SHORT_KEY}"], "failed", "512 bits"),
        ([rsa_record(2048)[:218]], "failed", "no RSA key"),
        ([f"v=DKIM1; p={b64(EC_KEY)}"], "failed", "says so"),
        (["v=DKIM1; p=###"], "failed", "no DKIM key"),
        (["v=DKIM2; p=AAAA"], "failed", "no DKIM key"),
        (["something else"], "failed", "no DKIM key"),
    ],
)
def test_a_dkim_key_is_there_whole_and_long_enough(records: Sequence[str], expected: str, words: str) -> None:
    finding = judge_dkim("s1", DOMAIN, records)

    assert verdict(finding) == expected
    assert words in finding.seen


@pytest.mark.parametrize(
    ("hosts", "addresses", "expected"),
    [
        (["mx.example.com"], [], "ok"),
        ([], ["192.0.2.1"], "warning"),
        ([""], [], "failed"),
        ([], [], "failed"),
    ],
)
def test_the_senders_domain_takes_mail_itself(
    hosts: Sequence[str], addresses: Sequence[str], expected: str
) -> None:
    assert verdict(judge_domain(DOMAIN, hosts, addresses)) == expected


@pytest.mark.parametrize(
    ("hosts", "has_address", "expected"),
    [
        (["mx.example.com"], True, "ok"),
        ([], True, "warning"),
        ([""], False, "failed"),
        ([], False, "failed"),
        (["mx.gone.example"], False, "failed"),
    ],
)
def test_what_comes_back_has_somewhere_to_come_to(
    hosts: Sequence[str], has_address: bool, expected: str
) -> None:
    assert verdict(judge_bounces(DOMAIN, hosts, has_address=has_address)) == expected


@pytest.mark.parametrize(
    ("addresses", "names", "expected"),
    [
        (["9.9.9.9"], {"9.9.9.9": ["mx.example.com"]}, "ok"),
        (["9.9.9.9"], {"9.9.9.9": []}, "failed"),
        ([], {}, "failed"),
        (["10.0.0.1"], {}, "not checked"),
    ],
)
def test_an_own_mail_servers_address_has_a_name_that_leads_back(
    addresses: Sequence[str], names: dict[str, list[str]], expected: str
) -> None:
    assert verdict(judge_host("mx.example.com", addresses, names)) == expected


def test_a_mail_server_is_our_own_by_organisation_or_by_being_near() -> None:
    assert is_own_host("mx.example.com", DOMAIN)
    assert is_own_host("localhost", DOMAIN)
    assert is_own_host("10.1.2.3", DOMAIN)
    assert not is_own_host("smtp.provider.example", DOMAIN)
    assert not is_own_host("9.9.9.9", DOMAIN)


HEALTHY: Zone = {
    (DOMAIN, "MX"): ["10 mx.example.com.", "5 mx1.example.com."],
    ("mx1.example.com", "A"): ["9.9.9.9"],
    (DOMAIN, "TXT"): ['"v=spf1 include:_spf.provider" ".example ~all"'],
    ("_spf.provider.example", "TXT"): ['"v=spf1 ip4:192.0.2.0/24 -all"'],
    ("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=quarantine; rua=mailto:dmarc@example.com"'],
    ("9.9.9.9.in-addr.arpa", "PTR"): ["mx1.example.com."],
}


def test_a_domain_that_is_set_up_has_nothing_to_mend(tmp_path: Path) -> None:
    whole = rsa_record(2048)
    zone = {**HEALTHY, (f"s1._domainkey.{DOMAIN}", "TXT"): [f'"{whole[:250]}" "{whole[250:]}"']}
    with name_server(zone) as resolver:
        subject = a_subject(
            tmp_path,
            email_url="smtp://user:word@mx1.example.com:587",
            subject={"dns": resolver, "selectors": ("s1",)},
        )
        findings = list(check_dns(subject))

    assert set(verdicts(findings).values()) == {"ok"}
    assert set(verdicts(findings)) == {
        "dns",
        "dns.spf",
        "dns.dmarc",
        "dns.alignment",
        "dns.dkim",
        "dns.bounces",
        "dns.host",
    }
    assert "mx1.example.com" in said(findings, "dns.bounces")
    assert "9.9.9.9 is mx1.example.com" in said(findings, "dns.host")


def test_a_domain_without_anything_is_told_each_record_it_needs(tmp_path: Path) -> None:
    with name_server({}) as resolver:
        subject = a_subject(
            tmp_path,
            email_url="smtp://user:word@mx1.example.com:587",
            subject={"dns": resolver, "selectors": ("s1",)},
        )
        found = verdicts(check_dns(subject))

    assert {line for line, said in found.items() if said == "failed"} == set(found) - {"dns.alignment"}


def test_bounces_elsewhere_are_judged_by_their_own_domain(tmp_path: Path) -> None:
    zone = {
        **HEALTHY,
        ("bounce.example.org", "TXT"): ['"v=spf1 +all"'],
        ("bounce.example.org", "MX"): ["0 ."],
    }
    with name_server(zone) as resolver:
        subject = a_subject(tmp_path, email_bounces="returns@bounce.example.org", subject={"dns": resolver})
        findings = list(check_dns(subject))

    found = verdicts(findings)
    assert (found["dns.spf"], found["dns.bounces"], found["dns.alignment"]) == ("failed", "failed", "warning")
    assert "bounce.example.org" in said(findings, "dns.spf")


def test_selectors_that_nobody_named_are_not_guessed(tmp_path: Path) -> None:
    with name_server(HEALTHY) as resolver:
        findings = list(check_dns(a_subject(tmp_path, subject={"dns": resolver})))

    assert verdicts(findings)["dns.dkim"] == "not checked"
    assert "--received" in said(findings, "dns.dkim")


def test_the_selector_of_a_received_letter_is_looked_up(tmp_path: Path) -> None:
    letter = b"DKIM-Signature: v=1; d=seaside.example.com;\r\n\ts=from-the-letter; h=From;\r\nFrom: a@b\r\n\r\nbody"
    with name_server(HEALTHY) as resolver:
        findings = list(check_dns(a_subject(tmp_path, subject={"dns": resolver, "received": letter})))

    assert "from-the-letter._domainkey.seaside.example.com does not exist" in said(findings, "dns.dkim")


def test_a_provider_sees_to_the_names_of_its_own_servers(tmp_path: Path) -> None:
    with name_server(HEALTHY) as resolver:
        subject = a_subject(
            tmp_path, email_url="smtp://u:p@smtp.provider.example:587", subject={"dns": resolver}
        )
        findings = list(check_dns(subject))

    assert verdicts(findings)["dns.host"] == "ok"
    assert "not needed" in said(findings, "dns.host")


def test_a_name_that_leads_elsewhere_is_no_name_of_an_own_mail_server(tmp_path: Path) -> None:
    zone = {**HEALTHY, ("9.9.9.9.in-addr.arpa", "PTR"): ["customer.provider.example."]}
    with name_server(zone) as resolver:
        subject = a_subject(tmp_path, email_url="smtp://u:p@mx1.example.com:587", subject={"dns": resolver})

        assert verdicts(check_dns(subject))["dns.host"] == "failed"


def test_a_name_server_that_fails_is_no_finding_about_the_domain(tmp_path: Path) -> None:
    with name_server({(DOMAIN, "SERVFAIL"): []}) as resolver:
        assert verdicts(check_dns(a_subject(tmp_path, subject={"dns": resolver}))) == {"dns": "not checked"}
        with pytest.raises(RetryableError):
            resolver.texts(DOMAIN)


def test_one_name_that_cannot_be_asked_hides_nothing_of_the_others(tmp_path: Path) -> None:
    with name_server({**HEALTHY, ("_spf.provider.example", "SERVFAIL"): []}) as resolver:
        found = verdicts(check_dns(a_subject(tmp_path, subject={"dns": resolver})))

    assert (found["dns.spf"], found["dns.dmarc"], found["dns.bounces"]) == ("not checked", "ok", "ok")


def test_without_a_sender_there_is_no_domain_to_look_up(tmp_path: Path) -> None:
    assert verdicts(check_dns(a_subject(tmp_path, email_from=""))) == {"dns": "not checked"}


def test_the_resolver_tells_nothing_published_from_nobody_answering() -> None:
    with name_server({("here.example", "A"): ["192.0.2.1"]}) as resolver:
        assert resolver.addresses("here.example") == ("192.0.2.1",)
        assert resolver.texts("here.example") == ()
        assert resolver.texts("gone.example") == ()
        assert resolver.names("not an address") == ()
        with pytest.raises(RetryableError):
            resolver.texts("x" * 64 + ".example")
