"""A received letter: what its server found, and what became of the headers on the way."""

from __future__ import annotations

import email
from collections.abc import Sequence
from pathlib import Path

import pytest

from admin.doctor.findings import Finding
from admin.doctor.received import (
    check_received,
    judge_hops,
    parse_results,
    read_headers,
    results_of,
    signatures_of,
)
from tests.doctor.patient import a_subject, said, verdict, verdicts

GOOD = """Return-Path: <hello+bxyz@seaside.example.com>
Received: by 2002:a05:6a10:1234 with SMTP id x1; Sun, 22 Nov 2026 03:00:02 +0000
Authentication-Results: mx.provider.example;
       dkim=pass (2048-bit key; "quoted; text") header.i=@seaside.example.com header.s=s1 header.b=AbC;
       spf=pass (provider.example: domain of hello+bxyz@seaside.example.com designates 192.0.2.7 as permitted
 sender) smtp.mailfrom="hello+bxyz@seaside.example.com";
       dmarc=pass (p=REJECT sp=REJECT dis=NONE) header.from=seaside.example.com
Received: from out.relay.example (out.relay.example. [192.0.2.7])
        by mx.provider.example with ESMTPS id y2
        for <reader@provider.example>
        (version=TLS1_3 cipher=TLS_AES_128_GCM_SHA256 bits=128/128); Sun, 22 Nov 2026 03:00:01 +0000
Received: from usher.example.com (usher.example.com [198.51.100.1])
        by out.relay.example (Postfix) with ESMTPSA id z3; Sun, 22 Nov 2026 03:00:00 +0000
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=seaside.example.com; s=s1;
 h=Date:From:To:Subject:Message-ID:List-Unsubscribe:
 List-Unsubscribe-Post:MIME-Version; bh=abc=; b=def=
DKIM-Signature: v=1; a=rsa-sha256; d=relay.example; s=r1; h=From; bh=abc=; b=def=
Date: Sun, 22 Nov 2026 03:00:00 +0000
From: "Seaside" <hello@seaside.example.com>
To: reader@provider.example
Subject: Welcome
Message-ID: <abc@seaside.example.com>
List-Id: <g.seaside.example.com>
List-Unsubscribe: <https://usher.example.com/unsubscribe/
 utoken>, <mailto:hello+u@seaside.example.com>
List-Unsubscribe-Post: List-Unsubscribe=One-Click

The body. From: somebody@else.example
"""


def look(text: str, folder: Path) -> list[Finding]:
    raw = text.replace("\n", "\r\n").encode()
    return list(check_received(a_subject(folder, subject={"received": raw})))


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_letter_that_arrived_as_it_should_has_nothing_to_mend(tmp_path: Path) -> None:
    findings = look(GOOD, tmp_path)

    assert set(verdicts(findings).values()) == {"ok"}
    assert set(verdicts(findings)) == {
        "received",
        "received.spf",
        "received.dkim",
        "received.dmarc",
        "received.signed",
        "received.headers",
        "received.one_click",
        "received.tls",
    }
    assert "reader@" not in str(findings)
    assert "2 hops" in said(findings, "received.tls")


@pytest.mark.parametrize(
    ("old", "new", "line", "expected", "words"),
    [
        ("spf=pass", "spf=softfail", "received.spf", "failed", "softfail"),
        ("dkim=pass", "dkim=fail", "received.dkim", "failed", "fail"),
        ("header.i=@seaside", "header.i=@relay", "received.dkim", "ok", ""),
        (
            "header.i=@seaside.example.com",
            "header.d=relay.example",
            "received.dkim",
            "failed",
            "relay.example",
        ),
        ("dmarc=pass", "dmarc=fail", "received.dmarc", "failed", "fail"),
        ("dmarc=pass", "arc=pass", "received.dmarc", "ok", "not told"),
        ("List-Unsubscribe-Post:MIME", "MIME", "received.signed", "failed", "list-unsubscribe-post"),
        (
            "d=seaside.example.com; s=s1",
            "d=elsewhere.example; s=s1",
            "received.signed",
            "failed",
            "own domain",
        ),
        ("c=relaxed/relaxed", "l=100", "received.signed", "warning", "l="),
        (
            "Subject: Welcome",
            "Subject: Welcome\nFrom: x@y.example",
            "received.headers",
            "failed",
            "From 2 times",
        ),
        ("Date: Sun", "X-Date: Sun", "received.headers", "failed", "no Date"),
        ("Message-ID: <", "X-Id: <", "received.headers", "failed", "no Message-ID"),
        ("List-Unsubscribe: <", "X-Gone: <", "received.one_click", "failed", "no link"),
        ("=One-Click", "=Two-Clicks", "received.one_click", "failed", "One-Click"),
        (
            "https://usher.example.com/",
            "https://track.relay.example/",
            "received.one_click",
            "warning",
            "PUBLIC_URL",
        ),
        ("with ESMTPSA id z3", "with ESMTPA id z3", "received.tls", "warning", "out.relay.example"),
        (
            '"Seaside" <hello@seaside.example.com>',
            "x@elsewhere.test",
            "received",
            "warning",
            "elsewhere.test",
        ),
    ],
)
def test_whatever_went_wrong_on_the_way_has_its_line(
    old: str, new: str, line: str, expected: str, words: str, tmp_path: Path
) -> None:
    findings = look(changed(old, new), tmp_path)

    assert verdicts(findings)[line] == expected
    assert words in said(findings, line)


def test_spf_of_another_domain_is_enough_only_with_dkim_of_ours(tmp_path: Path) -> None:
    theirs = changed('smtp.mailfrom="hello+bxyz@seaside.example.com"', "smtp.mailfrom=bounces.relay.test")
    without = theirs.replace("dkim=pass", "dkim=none").replace("dmarc=pass", "x=pass")

    assert verdicts(look(theirs, tmp_path))["received.spf"] == "ok"
    found = verdicts(look(without, tmp_path))
    assert (found["received.spf"], found["received.dkim"], found["received.dmarc"]) == (
        "warning",
        "failed",
        "failed",
    )


def test_a_letter_without_a_signature_is_told(tmp_path: Path) -> None:
    found = verdicts(look(GOOD.replace("DKIM-Signature", "X-Signature"), tmp_path))

    assert found["received.signed"] == "failed"


def test_a_letter_nobody_looked_at_could_not_be_checked(tmp_path: Path) -> None:
    findings = look(GOOD.replace("Authentication-Results", "X-Results"), tmp_path)

    assert verdicts(findings)["received.dmarc"] == "not checked"


def test_a_file_that_is_no_letter_is_told(tmp_path: Path) -> None:
    for text in ("", "no letter at all\n\nFrom: a@b.example\n", "\x00\x01"):
        assert verdicts(look(text, tmp_path)) == {"received": "failed"}


def test_without_a_letter_it_says_how_to_give_one(tmp_path: Path) -> None:
    findings = list(check_received(a_subject(tmp_path)))

    assert verdicts(findings) == {"received": "not checked"}
    assert "--received FILE" in findings[0].fix


def test_a_mailbox_files_first_line_and_bare_line_ends_are_read_over() -> None:
    letter = read_headers(b"From hello@x Sun Nov 22\n" + GOOD.encode())

    assert letter["Subject"] == "Welcome"
    assert letter.get_payload() == ""


def test_signatures_are_read_with_their_folding() -> None:
    own, relays = signatures_of(GOOD.encode())

    assert (own["d"], own["s"], relays["d"]) == ("seaside.example.com", "s1", "relay.example")
    assert own["h"].endswith("List-Unsubscribe:List-Unsubscribe-Post:MIME-Version")


def test_results_are_those_of_the_last_server_alone() -> None:
    """Anybody may have written the ones below."""
    letter = email.message_from_string(
        "Authentication-Results: mx.mine.example; spf=fail\n"
        "Authentication-Results: mx.mine.example; dkim=none\n"
        "Authentication-Results: mx.forged.example; dmarc=pass\n\n"
    )

    assert [(one.method, one.result) for one in results_of(letter)] == [("spf", "fail"), ("dkim", "none")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mx; none", []),
        ("", []),
        ("mx 1; spf=pass smtp.mailfrom=a.example", [("spf", "pass", {"smtp.mailfrom": "a.example"})]),
        ("mx; dkim/1=Pass header.d = A.example", [("dkim", "pass", {"header.d": "A.example"})]),
        ("mx; spf=pass (a (nested; b) c); =; dmarc", [("spf", "pass", {})]),
        ('mx; spf=pass smtp.mailfrom="a b@x"', [("spf", "pass", {"smtp.mailfrom": "a b@x"})]),
        ("mx; spf=pass (never closed; dkim=pass", [("spf", "pass", {}), ("dkim", "pass", {})]),
    ],
)
def test_results_are_read_however_they_are_written(text: str, expected: Sequence[object]) -> None:
    _, results = parse_results(text)

    assert [(one.method, one.result, one.properties) for one in results] == expected


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (["from a.example by b.example with ESMTPS id 1"], "ok"),
        (["from a.example by b.example with UTF8SMTPSA id 1"], "ok"),
        (["from a.example by b.example (using TLSv1.3 with cipher X) with ESMTP id 1"], "ok"),
        (["from a.example by b.example with ESMTP id 1"], "failed"),
        (["from localhost (localhost [127.0.0.1]) by b.example with ESMTP id 1"], "not checked"),
        (["by b.example with LMTP id 1", "from a.example by b.example with HTTP"], "not checked"),
        ([], "not checked"),
    ],
)
def test_hops_between_machines_are_with_tls(received: Sequence[str], expected: str) -> None:
    assert verdict(judge_hops(received)) == expected
