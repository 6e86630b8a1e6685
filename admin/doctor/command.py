"""The checks in one table, run side by side, each with its time; and how the outcome is shown."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from admin.doctor.domain import check_dns
from admin.doctor.findings import Finding, Line, Subject, Verdict, not_checked
from admin.doctor.installation import (
    check_broker,
    check_database,
    check_processes,
    check_redis,
    check_settings,
    check_volume,
    check_work,
)
from admin.doctor.public import check_public
from admin.doctor.received import check_received
from admin.doctor.relay import check_relay
from admin.doctor.wix import check_wix
from admin.processes import check_settings as check_all_settings
from config.settings import load_settings
from core.community import LONGEST_ID, SiteId, is_plain
from core.errors import ConfigError, JournalUnavailableError
from integrations.dns import Resolver

MOST_RECEIVED_BYTES = 20 * 1024 * 1024


@dataclass(frozen=True)
class Check:
    """`run` gives its findings as it comes to them; what it has found when its time is up is kept."""

    run: Callable[[Subject], Iterable[Finding]]
    leaves_machine: bool = False
    limit_s: float = 10.0


CHECKS: Mapping[str, Check] = {
    "settings": Check(check_settings),
    "database": Check(check_database),
    "redis": Check(check_redis),
    "broker": Check(check_broker),
    "processes": Check(check_processes),
    "work": Check(check_work),
    "volume": Check(check_volume),
    "wix": Check(check_wix, leaves_machine=True, limit_s=25),
    "public": Check(check_public, leaves_machine=True, limit_s=25),
    "relay": Check(check_relay, leaves_machine=True, limit_s=25),
    "dns": Check(check_dns, leaves_machine=True, limit_s=25),
    "received": Check(check_received),
}


def doctor(
    *,
    as_json: bool,
    offline: bool,
    only: Sequence[str],
    site: str | None,
    selectors: Sequence[str],
    received: Path | None,
) -> int:
    """Look, print, and give the exit code: 0, 1 when something failed, 2 when it is the settings.

    Raises ConfigError for options that make no sense.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # what the parts log is in the findings
    names = _chosen(only)
    subject = _read_subject(site, selectors, received)
    findings = [
        finding
        for finding in examine(subject, names, offline=offline)
        if not only or finding.line in only or finding.line.check in only
    ]
    if as_json:
        print(json.dumps([_shape(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    return exit_code(findings)


def exit_code(findings: Iterable[Finding]) -> int:
    broken = {finding.line.check for finding in findings if finding.verdict is Verdict.FAILED}
    return 2 if "settings" in broken else int(bool(broken))


def examine(
    subject: Subject,
    names: Iterable[str] = tuple(CHECKS),
    *,
    offline: bool = False,
    checks: Mapping[str, Check] = CHECKS,
) -> list[Finding]:
    """Every check side by side, in the table's order. Ends after the longest limit, whatever hangs; never raises."""
    runs = [_Run(name, checks[name], subject, skip=offline and checks[name].leaves_machine) for name in names]
    return [finding for run in runs for finding in run.outcome()]


class _Run:
    """One check in a thread of its own: a daemon, so that one that hangs does not hold up the end."""

    def __init__(self, name: str, check: Check, subject: Subject, *, skip: bool) -> None:
        self._line = Line(name)
        self._check = check
        self._found: list[Finding] = []
        self._thread = threading.Thread(
            target=self._work, args=(subject,), name=f"doctor-{name}", daemon=True
        )
        self._ends_at = time.monotonic() + check.limit_s
        if skip:
            self._found = [not_checked(self._line, "skipped: --offline")]
        else:
            self._thread.start()

    def outcome(self) -> list[Finding]:
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._ends_at - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            found.append(not_checked(self._line, f"not finished within {self._check.limit_s:g} s"))
        return found

    def _work(self, subject: Subject) -> None:
        try:
            for finding in self._check.run(subject):
                self._found.append(finding)
        except ConfigError as exc:
            self._found.append(not_checked(self._line, "; ".join(exc.problems) or exc.message))
        except JournalUnavailableError:
            self._found.append(not_checked(self._line, "the database does not answer in time (see database)"))
        except Exception as exc:  # noqa: BLE001 - whatever breaks a check must not break the others; its text may hold a URL
            self._found.append(not_checked(self._line, f"the check itself failed ({type(exc).__name__})"))


def _chosen(only: Sequence[str]) -> list[str]:
    lines = {line.value for line in Line}
    if wrong := [name for name in only if name not in lines]:
        raise ConfigError(
            "Nothing to look at",
            [f"--only: {name!r} is none of {', '.join(CHECKS)}, or a line of one" for name in wrong],
        )
    wanted = {Line(name).check for name in only}
    return [name for name in CHECKS if not wanted or name in wanted]


def _read_subject(site: str | None, selectors: Sequence[str], received: Path | None) -> Subject:
    wrong = [
        f"{option}: {value!r} is not printable ASCII without spaces"
        for option, values in (("--site", [site] if site else []), ("--selector", selectors))
        for value in values
        if not is_plain(value, LONGEST_ID)
    ]
    raw = None
    if received is not None:
        try:
            with received.open("rb") as file:
                raw = file.read(MOST_RECEIVED_BYTES)
        except OSError as exc:
            wrong.append(f"--received: {received} cannot be read ({exc.strerror})")
    if wrong:
        raise ConfigError("Nothing to look at", wrong)
    problems: tuple[str, ...] = ()
    checked = None
    try:
        checked = check_all_settings(sends=True)
        settings = checked.settings
    except ConfigError as exc:
        problems = tuple(exc.problems) or (exc.message,)
        try:
            settings = load_settings(lenient=True)
        except ConfigError:  # the file itself cannot be read
            settings = load_settings(env_file=None, lenient=True)
    return Subject(
        settings=settings,
        checked=checked,
        problems=problems,
        dns=Resolver(),
        now=lambda: datetime.now(UTC),
        site=SiteId(site) if site else None,
        selectors=tuple(selectors),
        received=raw,
    )


def _shape(finding: Finding) -> dict[str, str]:
    shape = {"name": finding.line.value, "verdict": finding.verdict.value, "seen": finding.seen}
    return shape | ({"fix": finding.fix} if finding.fix else {})


_COLOURS = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "bold red",
    Verdict.NOT_CHECKED: "dim",
}


def _show(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        table.add_row(Text(finding.verdict, colour), finding.line.value, Text(finding.seen))
        if finding.fix:
            table.add_row("", "", Text(f"→ {finding.fix}", "bold"))
    console = (
        Console() if sys.stdout.isatty() else Console(width=10_000)
    )  # elsewhere a line may be as long as it is
    with console.capture() as shown:
        console.print(table)
    print(*(line.rstrip() for line in shown.get().splitlines()), sep="\n")
    counts = [
        f"{number} {verdict}"
        for verdict in Verdict
        if (number := sum(finding.verdict is verdict for finding in findings))
    ]
    print(f"\n{', '.join(counts)}.")
