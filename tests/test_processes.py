"""Sandbox, web, worker, beat and Redis as real processes: letters come out, whatever is killed, and logs stay quiet."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admin.demo.stage import Stage, set_up
from admin.processes import ROOT
from admin.supervisor import Child
from config.settings import Settings, socket_path
from core.community import SiteId
from integrations.shared import open_redis
from integrations.store.jobs import Jobs
from integrations.store.tables import events, messages, outbox, watches
from tasks.jobs.params import GroupEmail
from tests.email.smtp_servers import Conversation, scripted_server
from tests.test_supervisor import is_gone, pid_of, until
from tests.webhooks.wix_signing import WIX_KEY, pem

GROUP = "Trail Runners"
OPEN = {events: ("received",), messages: ("planned", "deferred", "sending"), outbox: ("planned",)}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with set_up() as found:
        yield found


@pytest.fixture
def people(stage: Stage) -> list[str]:
    """Addresses of thirty people who may be written to, each of them new to this test."""
    addresses = [f"{uuid.uuid4().hex}@people.example.org" for _ in range(30)]
    for number, address in enumerate(addresses):
        sign_up(stage, address, f"Someone{number}")
    return addresses


def sign_up(stage: Stage, address: str, first: str, last: str = "") -> str:
    member: str = stage.act({"act": "sign_up", "email": address, "first": first, "last": last})["member"]
    wish = {"email": address, "status": "SUBSCRIBED", "deliverability": "VALID"}
    stage.act({"act": "set_subscription", **wish})
    return member


def join(stage: Stage, address: str, **webhook: Any) -> None:
    stage.act({"act": "add_member", "group": GROUP, "member": address, "webhook": webhook})


def letters_to(stage: Stage, address: str) -> list[dict[str, Any]]:
    return [letter for letter in stage.mail() if letter["envelope"]["to"] == [address]]


def is_at_rest(stage: Stage) -> bool:
    """Wix has nothing more to say, and every row is in a final state."""
    if stage.deliveries()["counts"]["queued"]:
        return False
    with stage.database.begin() as tx:
        return not any(
            tx.connection.scalar(sa.select(sa.literal(1)).where(table.c.state.in_(states)).limit(1))
            for table, states in OPEN.items()
        )


def claimed(stage: Stage) -> dict[str, int]:
    """How many unfinished rows of each table somebody holds; a letter in doubt keeps its holder's name."""
    with stage.database.begin() as tx:
        counts = {
            table.name: tx.connection.scalar(
                sa.select(sa.func.count())
                .select_from(table)
                .where(table.c.lease.is_not(None), table.c.state.in_(states))
            )
            for table, states in OPEN.items()
        }
    return {name: count for name, count in counts.items() if count}


def all_is_well(stage: Stage) -> bool:
    return set(stage.usher.get("/health/ready").json()["checks"].values()) == {"ok"}


def the_child(stage: Stage, name: str) -> Child:
    return next(child for child in stage.household.children if child.name == name)


def has_processes(group: int) -> bool:
    """Each child leads a process group of its own; a worker's pool is in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_beat_reads_wixs_lists_as_soon_as_it_hears_of_a_site(stage: Stage, people: list[str]) -> None:
    join(stage, people[0])
    community = {group["id"]: group["privacyStatus"] for group in stage.state()["groups"]}

    def lists_read() -> set[tuple[str, str]]:
        with stage.database.read() as tx:
            rows = tx.execute(sa.select(watches).where(watches.c.looked_at.is_not(None)))
            return {(row.kind, row.group_id) for row in rows}

    expected = {("groups", "")} | {("members", group) for group in community}
    expected |= {("requests", group) for group, privacy in community.items() if privacy == "PRIVATE"}
    until(lambda: lists_read() == expected, "all lists to be read", 60)


def test_an_added_member_gets_one_letter_however_often_wix_tells_of_it(
    stage: Stage, people: list[str]
) -> None:
    join(stage, people[0], copies=5)

    until(lambda: letters_to(stage, people[0]), "the letter", 60)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    [letter] = letters_to(stage, people[0])
    assert GROUP in letter["subject"]


def test_work_goes_on_after_the_worker_was_killed(stage: Stage, people: list[str]) -> None:
    worker = the_child(stage, "worker")
    killed = pid_of(worker)

    os.kill(killed, signal.SIGKILL)
    for address in people[:3]:
        join(stage, address)

    until(lambda: all(letters_to(stage, address) for address in people[:3]), "the letters", 60)
    until(lambda: pid_of(worker) != killed, "a new worker")
    until(lambda: not has_processes(killed), "the pool of the killed one to end")
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    assert [len(letters_to(stage, address)) for address in people[:3]] == [1, 1, 1]


def test_work_goes_on_while_redis_is_away_and_after_it_came_back(stage: Stage, people: list[str]) -> None:
    with open_redis(f"unix://{socket_path(stage.folder / 'data')}") as asking:
        killed = int(asking.info()["process_id"])
    os.kill(killed, signal.SIGKILL)
    until(lambda: is_gone(killed), "Redis to be gone")

    try:
        join(stage, people[0])
        until(lambda: letters_to(stage, people[0]), "a letter without Redis", 60)
    finally:
        stage.redis.look_after()
    join(stage, people[1])
    until(lambda: letters_to(stage, people[1]), "a letter with Redis", 60)
    until(lambda: all_is_well(stage), "everything to be well again", 60)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)

    assert [len(letters_to(stage, address)) for address in people[:2]] == [1, 1]


def test_sigterm_in_the_middle_of_work_ends_everybody_and_leaves_nothing_claimed(
    stage: Stage, people: list[str]
) -> None:
    children = list(stage.household.children)
    groups = [pid_of(child) for child in children]
    stage.switch(latency_s=0.8)
    try:
        for address in people:
            join(stage, address)
        # What is refused meanwhile Wix brings again after six seconds, and then after a minute.
        until(lambda: not stage.deliveries()["counts"]["queued"], "Wix to have told of everybody")
        until(lambda: claimed(stage), "work to have begun")
        stage.household.children.clear()  # nobody starts them again meanwhile
        for child in children:
            child.ask_to_end()
        until(lambda: all(child.exit_code() is not None for child in children), "all of them to end", 20)

        assert claimed(stage) == {}
        until(lambda: not any(has_processes(group) for group in groups), "their own children to end", 5)
        written_to = Counter(letter["envelope"]["to"][0] for letter in stage.mail())
        assert not all(written_to[address] for address in people), "they were asked in the middle of it"
    finally:
        stage.switch(latency_s=0.0)
        for child in children:
            child.start()
        stage.household.children.extend(children)

    until(lambda: all(letters_to(stage, address) for address in people), "the rest of the letters", 60)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    assert [len(letters_to(stage, address)) for address in people] == [1] * len(people)


def test_a_worker_that_waits_for_wix_ends_in_time_and_leaves_nothing_claimed(
    stage: Stage, people: list[str]
) -> None:
    children = [the_child(stage, name) for name in ("worker", "beat")]
    groups = [pid_of(child) for child in children]
    stage.switch(latency_s=10.0)
    try:
        for address in people[:3]:
            join(stage, address)
        until(lambda: claimed(stage), "work to have begun")
        for child in children:
            stage.household.children.remove(child)
            child.ask_to_end()
        until(lambda: all(child.exit_code() is not None for child in children), "both to end", 20)

        assert claimed(stage) == {}
        until(lambda: not any(has_processes(group) for group in groups), "the pool to end", 5)
    finally:
        stage.switch(latency_s=0.0)
        for child in children:
            child.start()
        stage.household.children.extend(children)

    until(lambda: all(letters_to(stage, address) for address in people[:3]), "the letters", 60)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    assert [len(letters_to(stage, address)) for address in people[:3]] == [1, 1, 1]


def test_a_worker_ends_in_time_though_the_mail_server_says_nothing(stage: Stage, people: list[str]) -> None:
    """It took the letter and never answers the final dot; the lease finds the letter, and nobody sends it again."""
    usual = the_child(stage, "worker")
    heard, go_home = threading.Event(), threading.Event()

    def say_nothing_after_the_dot(talk: Conversation) -> None:
        talk.open()
        talk.hear_letter()
        heard.set()
        go_home.wait(60)

    stage.household.children.remove(usual)  # nobody starts it again meanwhile
    usual.ask_to_end()
    usual.end_by(time.monotonic() + 20)
    log = stage.folder / "patient.log"
    try:
        with scripted_server(say_nothing_after_the_dot) as port:
            env = {**usual.env, "EMAIL_URL": f"smtp://127.0.0.1:{port}"}
            patient = Child("worker", usual.arguments, env, log_to=log, cwd=stage.folder)
            patient.start()
            try:
                join(stage, people[0])
                assert heard.wait(60), "the letter was not handed over"
                patient.ask_to_end()
                assert patient.process is not None
                assert patient.process.wait(timeout=20) == 0
                until(lambda: not has_processes(pid_of(patient)), "its pool to end")
            finally:
                go_home.set()
                patient.end_by(time.monotonic())
        assert "worker.cut_short" in log.read_text()
    finally:
        usual.start()
        stage.household.children.append(usual)
    with stage.database.begin() as tx:
        held = messages.c.state == "sending"
        tx.execute(sa.update(messages).where(held).values(next_at=tx.now))  # the lease runs out

    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    with stage.database.begin() as tx:
        doubted = tx.execute(sa.select(messages.c.id).where(messages.c.state == "in_doubt")).all()
    assert len(doubted) == 1
    assert letters_to(stage, people[0]) == []


def test_a_worker_in_the_middle_of_a_mailing_ends_soon_and_leaves_no_letter_in_doubt(
    stage: Stage, people: list[str]
) -> None:
    """A mailing has a worker for minutes; it is not cut short at the end, but stops between two letters."""
    for address in people:
        join(stage, address)
    until(lambda: all(letters_to(stage, address) for address in people), "their welcomes", 60)
    jobs = Jobs(stage.database)
    with stage.database.read() as tx:
        doubted = sa.select(sa.func.count()).where(messages.c.state == "in_doubt")
        before = tx.connection.scalar(doubted)
    site = SiteId(stage.state()["site"]["instance_id"])
    params = {"group": GROUP, "email": "yoga-offer", "purpose": "promotional"}
    job, _ = jobs.create(site, "group_email", GroupEmail(**params).model_dump(), who="a test")
    until(lambda: jobs.get(job.id).state == "previewed", "the preview", 60)

    usual = the_child(stage, "worker")
    stage.household.children.remove(usual)  # nobody starts it again meanwhile
    usual.ask_to_end()
    usual.end_by(time.monotonic() + 20)
    log = stage.folder / "slow.log"
    slow = Child(
        "worker",
        usual.arguments,
        {**usual.env, "EMAIL_URL": f"{usual.env['EMAIL_URL']}?per_second=2"},
        log_to=log,
        cwd=stage.folder,
    )
    try:
        slow.start()
        jobs.confirm(job.id, jobs.get(job.id).confirm_token, who="a test")
        until(lambda: jobs.counts([job])[job.id].done >= 2, "the first letters", 60)
        slow.ask_to_end()
        assert slow.process is not None
        assert slow.process.wait(timeout=20) == 0
        until(lambda: not has_processes(pid_of(slow)), "its pool to end", 5)
        assert "worker.cut_short" not in log.read_text()
        assert claimed(stage) == {}
        assert jobs.counts([job])[job.id].waiting > 0, "it was asked in the middle of it"
    finally:
        slow.end_by(time.monotonic())
        usual.start()
        stage.household.children.append(usual)

    until(lambda: jobs.get(job.id).state == "done", "the rest of the letters", 60)
    with stage.database.read() as tx:
        assert tx.connection.scalar(doubted) == before
    assert [len(letters_to(stage, address)) for address in people] == [2] * len(people)


def test_logs_hold_no_address_no_name_no_answer_and_no_secret(stage: Stage) -> None:
    """Also where things go wrong: a mail server that repeats the address, Wix away, and a forged delivery."""
    address, refused = "zebulonia.quagmire@people.example.org", "nepomucena.quagmire@people.example.org"
    member = sign_up(stage, address, "Zebulonia", "Quagmire")
    sign_up(stage, refused, "Nepomucena", "Quagmire")
    stage.sandbox.patch("/sandbox/mail", json={"refuse": {refused: f"550 5.1.1 <{refused}> unknown"}})
    stage.act(
        {
            "act": "request_join",
            "group": GROUP,
            "member": address,
            "answers": {"Which class are you most interested in?": "yoga and xylophones"},
        }
    )
    until(lambda: letters_to(stage, address), "the answer to the request", 60)
    stage.switch(outage=True)
    join(stage, address)
    join(stage, refused)
    until(lambda: "event.postponed" in logs(stage), "Wix to be missed", 60)
    stage.switch(outage=False)
    forged = {"entityFqdn": "wix.social_groups.v2.group_member", "slug": "added", "entityId": member}
    stage.send_webhook(
        {
            "eventType": "wix.social_groups.v2.group_member_added",
            "data": forged | {"actionEvent": {"body": {"email": address}}},
            "variant": "wrong_key",
        }
    )
    until(lambda: "webhook.rejected" in logs(stage), "the forgery to be refused")
    until(lambda: "letter.refused" in logs(stage), "the letter to be refused", 60)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    [token] = {
        re.search(r"/unsubscribe/([^>]+)>", str(letter["headers"][name]))[1]  # type: ignore[index]
        for letter in letters_to(stage, address)
        for name in letter["headers"]
        if name.lower() == "list-unsubscribe"
    }
    stage.usher.get(f"/unsubscribe/{token}")
    stage.usher.post(f"/unsubscribe/{token}", content="List-Unsubscribe=One-Click")
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)

    said = logs(stage).lower()
    env = stage.household.children[0].env
    private = ("zebulonia", "nepomucena", "quagmire", "people.example.org", "xylophone")
    secret = (env["WIX_APP_SECRET"], env["SECRET_KEY"], env["WIX_API_KEY"], "bearer", "eyj", token)
    for word in (*private, *secret, "begin public key"):
        assert word.lower() not in said, [line for line in said.splitlines() if word.lower() in line][:3]
    assert member in said, "ids are there, to find out what happened"


def logs(stage: Stage) -> str:
    """Everything our own processes wrote, the embedded Redis too."""
    paths = [stage.folder / f"{name}.log" for name in ("web", "worker", "beat")]
    return "\n".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in [*paths, socket_path(stage.folder / "data").parent / "valkey.log"]
    )


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {name: command for name, _, command in (line.partition(": ") for line in lines)}


def test_the_procfile_runs_what_was_on_stage(stage: Stage) -> None:
    commands = {
        child.name: f"exec python -m {' '.join(child.arguments)}" for child in stage.household.children
    }

    assert procfile() == {"release": "exec python -m admin migrate", **commands}


def test_release_and_web_of_the_procfile_run_under_a_plain_shell(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    env = plain | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "WIX_APP_ID": "app-1",
        "WIX_APP_SECRET": "an app secret",
        "WIX_PUBLIC_KEY": pem(WIX_KEY),
        "SECRET_KEY": "a secret of the tests",
        "DATA_DIR": str(tmp_path / "data"),
        "PORT": "0",
    }
    release = subprocess.run(
        ["sh", "-c", procfile()["release"]], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert (release.returncode, release.stderr) == (0, "")
    assert release.stdout.startswith("The database is at revision ")

    log = tmp_path / "web.log"
    with log.open("wb") as output:
        web = subprocess.Popen(
            ["sh", "-c", procfile()["web"]],
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "Uvicorn running on" in log.read_text() or web.poll() is not None, "web to listen")
        assert web.poll() is None, log.read_text()
    finally:
        web.terminate()  # the shell alone is what a platform knows
        web.wait(timeout=20)
        with contextlib.suppress(AssertionError):
            until(lambda: not has_processes(web.pid), "web to end", 20)
        left = has_processes(web.pid)
        if left:
            os.killpg(web.pid, signal.SIGKILL)
    assert not left, "the shell ended without the process it ran"
    assert "Finished server process" in log.read_text()
