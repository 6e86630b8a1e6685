"""Wix as the doctor asks it, with the sandbox in Wix's place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from admin.demo.stage import run_sandbox
from admin.doctor.findings import Finding, Subject
from admin.doctor.wix import MEMBERS, MOST_SITES, Caller, check_site, check_wix, judge_refusal
from admin.processes import ROOT
from core.community import GroupId, SiteId
from core.errors import ForbiddenError, PermanentError
from integrations.store.database import Database
from integrations.store.tables import sites
from integrations.wix import protocol
from integrations.wix.protocol import Call, UnauthorizedError
from tests.doctor.patient import a_subject, said, verdict, verdicts
from tests.wix.wix_stand_in import INSTANCE, WixStandIn, example_error

URL = "https://www.wixapis.com"


@dataclass
class Wix:
    url: str
    settings: dict[str, str]
    site: SiteId

    def ask(self, method: str, path: str, body: Any) -> Any:
        answer = httpx.request(method, self.url + path, json=body, trust_env=False)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wix]:
    with run_sandbox(tmp_path_factory.mktemp("sandbox"), retry_scale=0.001) as (url, settings):
        state = httpx.get(f"{url}/sandbox/state", trust_env=False).json()
        yield Wix(url, settings, SiteId(state["site"]["instance_id"]))


@pytest.fixture
def wix(sandbox: Wix) -> Iterator[Wix]:
    yield sandbox
    sandbox.ask("PATCH", "/sandbox/switches", {"refuse_app_tokens": [], "outage": False})


@pytest.fixture
def patient(wix: Wix, tmp_path: Path) -> Subject:
    """No Redis, and no second identity."""
    return patient_of(wix, tmp_path, wix_api_key="", wix_site_id="")


def patient_of(wix: Wix, folder: Path, **more: Any) -> Subject:
    theirs = {
        name.lower(): value
        for name, value in wix.settings.items()
        if name.startswith("WIX_") and name != "WIX_PUBLIC_KEY"
    }
    settings = {
        **theirs,
        "redis_url": f"unix://{folder}/nobody.sock",
        "wix_calls_per_minute": 100_000,
        **more,
    }
    return a_subject(folder, subject={"site": wix.site}, **settings)


def call(findings: list[Finding], name: str) -> Finding:
    [found] = [one for one in findings if one.line == "wix.calls" and f"{name}" in one.seen]
    return found


def test_a_site_with_all_permissions_has_nothing_to_mend(patient: Subject) -> None:
    findings = list(check_wix(patient))

    assert verdicts(findings) == {"wix": "ok", "wix.clock": "ok", "wix.token": "ok", "wix.calls": "ok"}
    for name in (
        "getAppInstance",
        "listGroups",
        "getGroup",
        "listGroupMembers",
        "listMemberships",
        "queryJoinGroupRequests",
        "listAnswers",
        "queryMembers",
        "queryEmailSubscriptions",
    ):
        assert call(findings, name).verdict == "ok"


def test_calls_wait_for_room_in_the_budget(wix: Wix, tmp_path: Path) -> None:
    """Without Redis a process takes a quarter of it: two calls a second here, and eight at once."""
    findings = list(check_wix(patient_of(wix, tmp_path, wix_calls_per_minute=480)))

    assert verdicts(findings)["wix.calls"] == "ok"


def test_looking_changes_nothing_at_wix(wix: Wix, patient: Subject) -> None:
    before = wix.ask("GET", "/sandbox/state", None)
    wix.ask("DELETE", "/sandbox/calls", None)

    list(check_wix(patient))

    calls = wix.ask("GET", "/sandbox/calls", None)
    assert calls["calls"]
    assert {key: before[key] for key in ("groups", "members", "subscriptions")} == {
        key: wix.ask("GET", "/sandbox/state", None)[key] for key in ("groups", "members", "subscriptions")
    }


def test_a_refused_call_names_itself_and_the_permission(wix: Wix, patient: Subject) -> None:
    wix.ask("PATCH", "/sandbox/switches", {"refuse_app_tokens": ["answers", "memberships"]})

    findings = list(check_wix(patient))

    answers, memberships = call(findings, "listAnswers"), call(findings, "listMemberships")
    assert (answers.verdict, memberships.verdict) == ("failed", "ok")
    assert "403" in answers.seen
    assert "SCOPE.DC-MANAGE.SOCIAL-GROUPS" in answers.fix
    assert "WIX_API_KEY" in answers.fix
    assert "own lists" in memberships.seen


def test_refused_answers_only_matter_to_automations_that_ask_for_them(wix: Wix, patient: Subject) -> None:
    wix.ask("PATCH", "/sandbox/switches", {"refuse_app_tokens": ["answers"]})

    findings = list(check_wix(dataclasses.replace(patient, checked=None)))

    assert call(findings, "listAnswers").verdict == "warning"


def test_the_second_identity_makes_up_for_a_refusal_and_both_are_told(wix: Wix, tmp_path: Path) -> None:
    wix.ask("PATCH", "/sandbox/switches", {"refuse_app_tokens": ["answers"]})

    findings = list(check_wix(patient_of(wix, tmp_path)))

    answers = call(findings, "listAnswers")
    assert answers.verdict == "ok"
    assert "403 to the app" in answers.seen
    assert "WIX_API_KEY" in answers.seen


def test_a_second_identity_of_another_site_is_told_as_such(wix: Wix, tmp_path: Path) -> None:
    wix.ask("PATCH", "/sandbox/switches", {"refuse_app_tokens": ["answers"]})

    findings = list(check_wix(patient_of(wix, tmp_path, wix_site_id="another-site")))

    assert "another site" in call(findings, "listAnswers").seen


def test_a_wrong_app_secret_gets_no_token(wix: Wix, tmp_path: Path) -> None:
    findings = list(check_wix(patient_of(wix, tmp_path, wix_app_secret="hunter2-hunter2")))

    assert verdicts(findings) == {"wix": "ok", "wix.clock": "ok", "wix.token": "failed"}
    assert "WIX_APP_SECRET" in said(findings, "wix.token")
    assert "hunter2" not in str(findings)


def test_without_an_app_secret_nobody_is_asked_for_a_token(wix: Wix, tmp_path: Path) -> None:
    found = verdicts(check_wix(patient_of(wix, tmp_path, wix_app_secret="")))

    assert found["wix.token"] == "not checked"


def test_a_community_without_groups_leaves_some_calls_untried(wix: Wix, patient: Subject) -> None:
    community = json.loads((ROOT / "sandbox" / "community.json").read_text(encoding="utf-8"))
    wix.ask("PUT", "/sandbox/community", {"site": community["site"]})
    try:
        findings = list(check_wix(patient))
    finally:
        wix.ask("PUT", "/sandbox/community", community)

    assert verdicts(findings)["wix.calls"] == "not checked"
    assert "no group was seen" in said(findings, "wix.calls")
    assert call(findings, "queryMembers").verdict == "ok"


@pytest.mark.parametrize(
    ("asked", "error", "expected", "words"),
    [
        (protocol.query_members([], 0), ForbiddenError("403"), "failed", "READ-MEMBERS"),
        (protocol.query_members([], 0), UnauthorizedError("401"), "failed", "READ-MEMBERS"),
        (protocol.query_members([], 0), PermanentError("400"), "failed", "otherwise"),
        (protocol.list_answers(GroupId("g"), [], 0), ForbiddenError("403"), "failed", "WIX_API_KEY"),
    ],
)
def test_a_refusal_leads_to_its_permission(
    asked: Call, error: PermanentError, expected: str, words: str
) -> None:
    finding = judge_refusal(SiteId("s"), asked, MEMBERS, error, needs_answers=True)

    assert verdict(finding) == expected
    assert words in finding.fix


def test_an_app_that_may_not_ask_who_it_serves_is_told_its_permission() -> None:
    stand_in = WixStandIn().on("/groups$", httpx.Response(429)).on("/query$", httpx.Response(404))
    stand_in.on(INSTANCE, example_error("application_error.403"))
    with contextlib.closing(Caller(URL, "app", "secret", transport=httpx.MockTransport(stand_in))) as caller:
        findings = list(check_site(caller, SiteId("s"), needs_answers=False))

    refused = call(findings, "getAppInstance")
    assert (verdicts(findings)["wix.token"], refused.verdict) == ("ok", "failed")
    assert "SCOPE.DC.MANAGE-YOUR-APP" in refused.fix
    assert {finding.verdict for finding in findings[2:]} == {"not checked"}


def test_broken_answers_of_wix_are_no_finding_about_the_app(wix: Wix, patient: Subject) -> None:
    wix.ask(
        "PATCH",
        "/sandbox/switches",
        {"failure_rate": 1.0, "failure_statuses": [], "broken_answers": ["wrong_shape"]},
    )
    try:
        found = verdicts(check_wix(patient))
    finally:
        wix.ask(
            "PATCH",
            "/sandbox/switches",
            {"failure_rate": 0.0, "broken_answers": [], "failure_statuses": [503]},
        )

    assert "failed" not in found.values()


def test_an_outage_at_wix_is_no_finding_about_the_app(wix: Wix, patient: Subject) -> None:
    wix.ask("PATCH", "/sandbox/switches", {"outage": True})

    assert set(verdicts(check_wix(patient)).values()) <= {"ok", "not checked"}


def test_without_a_network_nothing_at_wix_could_be_checked(tmp_path: Path) -> None:
    patient = a_subject(tmp_path, subject={"site": SiteId("a-site")}, redis_url=f"unix://{tmp_path}/nobody")

    assert verdicts(check_wix(patient)) == {
        "wix": "ok",
        "wix.clock": "not checked",
        "wix.token": "not checked",
    }


def test_a_clock_that_differs_from_wixs_is_seen(patient: Subject) -> None:
    early = dataclasses.replace(patient, now=lambda: datetime.now(UTC) + timedelta(hours=1))

    findings = list(check_wix(early))

    assert verdicts(findings)["wix.clock"] == "warning"
    assert "behind" in said(findings, "wix.clock")


def test_only_sites_that_have_the_app_are_looked_at_the_newest_first(wix: Wix, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'usher.db'}")
    database.migrate()
    patient = dataclasses.replace(patient_of(wix, tmp_path), site=None)
    nobody = list(check_wix(patient))
    now = datetime.now(UTC)
    with database.begin() as tx:
        rows = [{"site": wix.site, "state": "active", "changed_at": now}]
        rows += [
            {"site": f"old-{number}", "state": "active", "changed_at": now - timedelta(days=1)}
            for number in range(MOST_SITES)
        ]
        rows += [{"site": "gone", "state": "removed", "changed_at": now + timedelta(days=1)}]
        tx.connection.execute(sa.insert(sites), rows)
    database.close()

    findings = list(check_wix(patient))

    assert verdicts(nobody)["wix"] == "not checked"
    assert "no site has installed the app yet" in said(nobody, "wix")
    assert f"{MOST_SITES + 1} sites; those looked at: {MOST_SITES}" in said(findings, "wix")
    tokens = [finding.verdict for finding in findings if finding.line == "wix.token"]
    assert tokens == ["ok"] + ["failed"] * (MOST_SITES - 1)
    assert "gone" not in str(findings)
