"""Play the day, wait until everything has come to rest, and hold what happened against what had to."""

from __future__ import annotations

import html
import logging
import os
import shutil
import signal
import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from admin.demo.day import DAY, FORGERIES, Expected, Scene
from admin.demo.stage import DemoError, Stage, set_up
from integrations.store.tables import events, messages, outbox

REST_WITHIN_S = 120.0
LETTERS = Path("demo-letters")


MARKS = {
    "sent": "[green]sent[/green]",
    "approve": "[green]approved[/green]",
    "reject": "[green]declined[/green]",
    "flag": "[yellow]for a person[/yellow]",
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Letters of the day</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}
td{padding:.3rem 1rem .3rem 0;border-top:1px solid #8884}</style>
<h1>Letters of the day</h1><table>"""


@dataclass(frozen=True, slots=True)
class Row:
    """A letter of the ledger or a decision of the outbox, in words."""

    who: str
    group: str
    automation: str
    state: str
    reason: str
    kind: str = ""
    """Of a decision: approve, reject or flag."""


def play(*, once: bool) -> int:
    """Play the day; returns the exit code. Without `once` it serves the letters until Ctrl-C."""
    console = Console(highlight=False)
    logging.getLogger("admin.supervisor").setLevel(logging.ERROR)  # what is killed here is killed on purpose
    if not console.is_terminal:
        console.width = 140
    try:
        with set_up() as stage:
            started = time.monotonic()
            _play_scenes(stage, console)
            rows = _rows(stage)
            problems = _problems(stage, rows)
            _show(console, rows, stage, time.monotonic() - started)
            for problem in problems:
                console.print(f"[red]✗[/red] {escape(problem)}")
            if problems:
                raise DemoError("The day went otherwise than it had to")
            console.print("[green]✓[/green] Every row is as it had to be.")
            if once:
                _save_letters(stage)
                console.print(f"The letters: {LETTERS.resolve()}/  (open index.html)")
            else:
                console.print(
                    f"The letters: {stage.sandbox.base_url}/mail/   the sandbox: {stage.sandbox.base_url}"
                )
                _open_console(stage, console)
                console.print("Ctrl-C ends.")
                _wait_for_end()
            return 0
    except DemoError as exc:
        console.print(f"[red]{escape(str(exc))}[/red]")
        return 1
    except KeyboardInterrupt:
        return 130


def _play_scenes(stage: Stage, console: Console) -> None:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} scenes"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("The day at Seaside Community", total=len(DAY) + 1)
        for scene in DAY:
            progress.console.print(f"[bold]{scene.time}[/bold]  {escape(scene.text)}")
            STAGINGS[scene.staging](stage, scene)
            progress.advance(bar)
        progress.console.print(
            "[bold]19:00[/bold]  Everybody goes home; what is still under way comes to rest"
        )
        until(lambda: at_rest(stage), "everything to come to rest", REST_WITHIN_S)
        progress.advance(bar)


def _perform(stage: Stage, scene: Scene) -> None:
    for act in scene.acts:
        stage.act(act)


def _perform_when_settled(stage: Stage, scene: Scene) -> None:
    """An admin looks at requests some time after they were made."""
    until(lambda: at_rest(stage, leaving_alone="07:30"), "the offers to go out", 60.0)
    _perform(stage, scene)


def _wix_away(stage: Stage, scene: Scene) -> None:
    stage.switch(outage=True)
    _perform(stage, scene)
    until(lambda: _any_event(stage, "503"), "Usher to meet the outage", 30.0)
    stage.switch(outage=False)


def _broker_away(stage: Stage, scene: Scene) -> None:
    stage.redis.stop()
    try:
        _perform(stage, scene)
        [expected] = scene.expected
        until(lambda: _has(stage, expected), "the letter to go out without a broker", 60.0)
    finally:
        stage.redis.start()


def _web_killed(stage: Stage, scene: Scene) -> None:
    stage.kill_web()
    _perform(stage, scene)
    [expected] = scene.expected
    until(lambda: _has(stage, expected), "Wix to come again", 90.0)


def _forgeries(stage: Stage, scene: Scene) -> None:
    del scene
    member = next(m for m in stage.state()["members"] if m.get("loginEmail") == "elif.demir@example.org")
    group = next(g for g in stage.state()["groups"] if g["name"] == "Harbour Choir")
    for number, variant in enumerate(FORGERIES):
        body = {
            "groupId": group["id"],
            "groupMember": {"memberId": member["id"], "role": {"value": "MEMBER"}},
        }
        event = {
            "id": f"forged-{number}",
            "entityFqdn": "wix.social_groups.v2.group_member",
            "slug": "added",
            "entityId": member["id"],
            "actionEvent": {"body": body},
            "eventTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        stage.send_webhook(
            {"eventType": "wix.social_groups.v2.group_member_added", "data": event, "variant": variant}
        )
    until(lambda: len(_refused(stage)) >= len(FORGERIES), "all forgeries to be answered", 20.0)


def _one_click(stage: Stage, scene: Scene) -> None:
    until(lambda: _offer_link(stage) != "", "Amara's offer to arrive", 60.0)
    answer = stage.usher.post(_offer_link(stage), content="List-Unsubscribe=One-Click")
    if answer.status_code != 200:
        raise DemoError(f"unsubscribing answered {answer.status_code}")
    until(lambda: _amara_at_wix(stage) == ["UNSUBSCRIBED"], "Wix to be told that Amara unsubscribed", 20.0)
    _perform(stage, scene)


STAGINGS: dict[str, Callable[[Stage, Scene], None]] = {
    "": _perform,
    "after the offers": _perform_when_settled,
    "wix is away": _wix_away,
    "the broker is away": _broker_away,
    "the web process is killed": _web_killed,
    "forgeries": _forgeries,
    "one click": _one_click,
}


def _offer_link(stage: Stage) -> str:
    for letter in stage.mail():
        headers = {name.lower(): value for name, value in letter["headers"].items()}
        if letter["envelope"]["to"] == ["amara.nwosu@example.org"] and "feedback-id" in headers:
            # The link for mail programs, before the address for those that follow none (RFC 2369).
            return str(headers["list-unsubscribe"]).partition("<")[2].partition(">")[0]
    return ""


def _amara_at_wix(stage: Stage) -> list[str]:
    records = stage.state()["subscriptions"]
    return [row["subscriptionStatus"] for row in records if row["email"] == "amara.nwosu@example.org"]


def _refused(stage: Stage) -> list[dict[str, Any]]:
    forged = [delivery for delivery in stage.deliveries()["deliveries"] if delivery["variant"]]
    return [
        delivery for delivery in forged if delivery["attempts"] and delivery["attempts"][-1]["status"] == 401
    ]


def _any_event(stage: Stage, error: str) -> bool:
    with stage.database.begin() as tx:
        rows = tx.execute(sa.select(events.c.error).where(events.c.state == "received"))
        return any(error in (row.error or "") for row in rows)


def _has(stage: Stage, expected: Expected) -> bool:
    return any(_fits(row, expected) for row in _rows(stage))


def at_rest(stage: Stage, leaving_alone: str = "") -> bool:
    """Nothing is queued at Wix, and every row of ours is in a final state; one early event may be left alone."""
    counts = stage.deliveries()["counts"]
    with stage.database.begin() as tx:
        open_events = tx.connection.scalar(
            sa.select(sa.func.count()).select_from(events).where(events.c.state == "received")
        )
        open_letters = tx.connection.scalar(
            sa.select(sa.func.count())
            .select_from(messages)
            .where(messages.c.state.in_(("planned", "deferred", "sending")))
        )
        open_calls = tx.connection.scalar(
            sa.select(sa.func.count()).select_from(outbox).where(outbox.c.state == "planned")
        )
    allowed = 1 if leaving_alone else 0
    return not counts["queued"] and (open_events or 0) <= allowed and not open_letters and not open_calls


def _rows(stage: Stage) -> list[Row]:
    state = stage.state()
    people = {
        member["id"]: member.get("loginEmail") or member["profile"]["nickname"] for member in state["members"]
    }
    groups = {group["id"]: group["name"] for group in state["groups"]}
    with stage.database.begin() as tx:
        letters = tx.execute(sa.select(messages).order_by(messages.c.created_at)).all()
        calls = tx.execute(sa.select(outbox).order_by(outbox.c.created_at)).all()
    return [
        Row(
            who=people.get(row.member, "lan.nguyen@example.org (forgotten)"),
            group=groups.get(row.group_id, row.group_id),
            automation=row.automation or getattr(row, "kind", ""),
            state=row.state,
            reason=row.reason or "",
            kind=getattr(row, "kind", ""),
        )
        for row in (*letters, *calls)
    ]


def _fits(row: Row, expected: Expected) -> bool:
    return (
        row.who.startswith(expected.who)
        and row.group == expected.group
        and row.automation == expected.automation
        and row.state == expected.state
        and row.reason.startswith(expected.reason)
    )


def _problems(stage: Stage, rows: list[Row]) -> list[str]:
    """Where ledger, mail catcher and Wix differ from what had to happen, or from each other."""
    expected = [row for scene in DAY for row in scene.expected]
    problems = [
        f"missing: {want.automation} to {want.who} in {want.group}: {want.state} {want.reason}"
        for want in expected
        if not any(_fits(row, want) for row in rows)
    ]
    problems += [
        f"unexpected: {row.automation} to {row.who} in {row.group}: {row.state} {row.reason}"
        for row in rows
        if not any(_fits(row, want) for want in expected) and row.automation != "unsubscribe"
    ]
    letters = stage.mail()
    sent = Counter(row.who for row in rows if row.state == "sent")
    arrived = Counter(letter["envelope"]["to"][0] for letter in letters)
    if sent != arrived:
        problems.append(
            f"the ledger says {sum(sent.values())} letters, the mail server took {sum(arrived.values())}"
        )
    ids = [letter["message_id"] for letter in letters]
    if len(set(ids)) != len(ids):
        problems.append("two letters carry the same Message-ID")
    given_up = [d for d in stage.deliveries()["deliveries"] if d["state"] == "given_up" and not d["variant"]]
    problems += [f"Wix gave up on {delivery['event_id']}" for delivery in given_up]
    return problems


def _show(console: Console, rows: list[Row], stage: Stage, seconds: float) -> None:
    console.print("\n[bold]What happened at Wix, who was written to, and who was not and why[/bold]")
    for scene in DAY:
        console.print(f"\n[bold]{scene.time}[/bold]  {escape(scene.text)}")
        table = Table.grid(padding=(0, 2))
        for width in (5, 12, 20, 20, 27):
            table.add_column(width=width, overflow="fold", no_wrap=False)
        table.add_column(overflow="fold")
        for row in sorted(rows, key=lambda row: row.who):
            if any(_fits(row, want) for want in scene.expected):
                state = MARKS.get(row.kind or row.state, "[red]not sent[/red]")
                why = "" if row.state == "sent" else escape(row.reason)
                table.add_row("", state, row.automation, escape(row.group), escape(row.who), why)
        if scene.staging == "forgeries":
            refused = f"{len(_refused(stage))} of {len(FORGERIES)}"
            table.add_row("", "[green]refused[/green]", refused, "", "", "401 for each, nobody written to")
        console.print(table)
    console.print()
    states = Counter(row.state for row in rows)
    deliveries = stage.deliveries()["deliveries"]
    console.print(
        f"{len(deliveries)} deliveries from Wix, {states['sent']} letters sent, {states['skipped']} refused with a"
        f" reason, {states['done']} decisions and opt-outs at Wix, {states['flagged']} left to a person;"
        f" played in {seconds:.0f} s."
    )


def _save_letters(stage: Stage) -> None:
    shutil.rmtree(LETTERS, ignore_errors=True)
    LETTERS.mkdir()
    lines = [PAGE]
    for letter in stage.mail():
        to = letter["envelope"]["to"][0]
        name = f"{letter['n']:02}-{to.replace('@', '_at_')}"
        for kind, ending in (("html", "html"), ("source", "eml")):
            body = stage.sandbox.get(f"/mail/{letter['n']}/{kind}").content
            (LETTERS / f"{name}.{ending}").write_bytes(body)
        subject = html.escape(str(letter["subject"]))
        lines.append(
            f"<tr><td><a href='{name}.html'>{subject}</a><td>{to}<td><a href='{name}.eml'>source</a>"
        )
    (LETTERS / "index.html").write_text("\n".join(lines), encoding="utf-8")


def until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"Waited {within_s:.0f} s for {what}, in vain")
        time.sleep(0.1)


def _open_console(stage: Stage, console: Console) -> None:
    address = f"{stage.usher.base_url}/admin/"
    console.print(f"[bold]The console:[/bold] {address}   log in with this token: {stage.admin_token}")
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def _wait_for_end() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(1)
