"""Whom the doctor looks at in these tests, and how its findings are read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from admin.doctor.findings import Finding, Subject, Verdict
from admin.processes import ROOT, TEMPLATES, Checked, read_automations, read_file
from config.settings import load_settings
from integrations.dns import Resolver
from integrations.email.render import Renderer
from tests.webhooks.wix_signing import WIX_KEY, pem

SECRET = "a secret of at least sixteen characters"
NOBODY_ANSWERS = Resolver(["127.0.0.1"], 9)


def a_subject(folder: Path, *, subject: dict[str, Any] | None = None, **settings: Any) -> Subject:
    """An installation without a mistake in its settings; nothing of it runs unless a test started it."""
    found = load_settings(
        env_file=None,
        **{
            "wix_app_id": "app",
            "wix_app_secret": "the secret of the app",
            "wix_public_key": pem(WIX_KEY),
            "wix_api_url": "http://127.0.0.1:9",
            "secret_key": SECRET,
            "data_dir": str(folder),
            "email_from": "Seaside <hello@seaside.example.com>",
            "email_postal_address": "1 Harbour Road",
            "public_url": "https://usher.example.com",
            "automations_file": str(ROOT / "config" / "automations.toml"),
            **settings,
        },
    )
    renderer = Renderer(TEMPLATES)
    given: dict[str, Any] = {
        "settings": found,
        "checked": Checked(
            found,
            read_automations(found.automations_file, renderer.names()),
            renderer,
            read_file(found),
        ),
        "problems": (),
        "dns": NOBODY_ANSWERS,
        "now": lambda: datetime.now(UTC),
        **(subject or {}),
    }
    return Subject(**given)


def verdicts(findings: Iterable[Finding]) -> dict[str, str]:
    """By line, the worst where there are several. Whatever is wrong has to say what to do about it."""
    worst = [Verdict.OK, Verdict.NOT_CHECKED, Verdict.WARNING, Verdict.FAILED]
    found: dict[str, Verdict] = {}
    for finding in findings:
        assert finding.seen
        assert finding.fix or finding.verdict in (Verdict.OK, Verdict.NOT_CHECKED)
        before = found.get(finding.line.value, Verdict.OK)
        found[finding.line.value] = max(before, finding.verdict, key=worst.index)
    return {line: verdict.value for line, verdict in found.items()}


def verdict(finding: Finding) -> str:
    [(_, only)] = verdicts([finding]).items()
    return only


def said(findings: Iterable[Finding], line: str) -> str:
    return " | ".join(f"{one.seen} → {one.fix}" for one in findings if one.line == line)
