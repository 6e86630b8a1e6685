"""What is on this machine or belongs to the operator: settings, the database and what lies in it, Redis, the broker."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from kombu.exceptions import OperationalError as BrokerError
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from admin.doctor.findings import Finding, Line, Subject, failed, not_checked, ok, warning
from config.settings import Settings
from core.automations import Automations
from core.consent import Purpose
from core.errors import ConfigError, JournalUnavailableError
from integrations.email.url import parse_email_url
from integrations.shared import open_redis
from integrations.store.database import Database, Transaction
from integrations.store.heartbeats import Heartbeats
from integrations.store.tables import events, heartbeats, messages, outbox, senders, watches
from integrations.store.work import is_due
from tasks.app import QUEUE
from tasks.app import create_app as create_celery_app

SILENT_AFTER_S = 30.0
OVERDUE_AFTER_S = 60.0
CLOCK_APART_S = 5.0
LITTLE_SPACE_BYTES = 512 * 1024 * 1024

# Settings


def check_settings(subject: Subject) -> Iterator[Finding]:
    for problem in subject.problems:
        yield failed(
            Line.SETTINGS, problem, "correct it in the environment or in .env (.env.example explains each)"
        )
    if subject.checked is None:
        return
    found, letters = subject.automations(), subject.checked.renderer.names()
    yield ok(
        Line.SETTINGS,
        f"no mistake in the settings, {len(found.automations)} automations and {len(letters)} letters",
    )
    yield judge_letters(found, subject.settings)


def judge_letters(automations: Automations, settings: Settings) -> Finding:
    line = Line.SETTINGS_LETTERS
    at_work = [one for one in automations.automations if one.enabled]
    if not any(automation.email for automation in at_work):
        return warning(line, "no automation sends a letter", "add one to AUTOMATIONS_FILE, or switch one on")
    promotional = [one.name for one in at_work if one.purpose is Purpose.PROMOTIONAL]
    if promotional and not settings.email_postal_address:
        return warning(
            line,
            f"promotional letters are skipped without a postal address: {', '.join(promotional)}",
            "set EMAIL_POSTAL_ADDRESS",
        )
    return ok(line, "every automation has what its letters need")


# The database


def check_database(subject: Subject) -> Iterator[Finding]:
    database = Database(subject.settings.database, timeout_s=3.0)
    with contextlib.closing(database):
        kind = "SQLite" if database.url.get_backend_name() == "sqlite" else "PostgreSQL"
        try:
            database.require_reachable()
            database.require_current()
        except (ConfigError, JournalUnavailableError) as exc:
            seen = "; ".join(exc.problems) if isinstance(exc, ConfigError) else str(exc)
            yield failed(
                Line.DATABASE,
                f"{kind}: {seen}",
                "run `usher migrate`" if "migrate" in seen else "start the database, or correct DATABASE_URL",
            )
            return
        yield ok(Line.DATABASE, f"{kind} answers; its tables are those of this release")
        yield _try_to_write(database)
        with database.read() as tx:
            there, here = tx.now, subject.now()
            if kind == "SQLite":
                yield judge_sqlite(
                    *(str(_ask(tx, f"PRAGMA {name}")) for name in ("journal_mode", "synchronous"))
                )
            else:
                yield judge_postgres(_settings_of(tx), _standbys(tx))
        yield judge_clock(Line.DATABASE_CLOCK, "the database's clock", there, here)
        if kind == "SQLite":
            yield _judge_disk(Path(database.url.database or "").resolve())


def _try_to_write(database: Database) -> Finding:
    class TakeBack(Exception):  # noqa: N818 (not an error: ends the trial)
        pass

    try:
        with database.begin() as tx:
            tx.execute(tx.insert(heartbeats).values(name="doctor", seen_at=tx.now).on_conflict_do_nothing())
            raise TakeBack
    except TakeBack:
        return ok(Line.DATABASE_WRITABLE, "takes a row (taken back again)")
    except JournalUnavailableError as exc:
        seen = str(exc)
    except sa.exc.SQLAlchemyError as exc:
        seen = str(getattr(exc, "orig", None) or type(exc).__name__).strip().partition("\n")[0]
    return failed(
        Line.DATABASE_WRITABLE,
        seen,
        "give Usher's user the right to write, end what holds the lock, or make room on the disk",
    )


def judge_sqlite(journal_mode: str, synchronous: str) -> Finding:
    """As PRAGMA journal_mode and PRAGMA synchronous answer on a connection of ours."""
    seen = f"journal_mode {journal_mode}, synchronous {synchronous}"
    if journal_mode.lower() == "wal" and synchronous in ("2", "3"):
        return ok(Line.DATABASE_DURABLE, f"what is acknowledged is on disk ({seen})")
    return failed(
        Line.DATABASE_DURABLE,
        f"not journal_mode wal and synchronous 2: {seen}",
        "keep the file on a local disk, or use PostgreSQL (DATABASE_URL)",
    )


def judge_postgres(settings: Mapping[str, str], standbys: int) -> Finding:
    """`settings` by name, of a session of ours; `standbys` counts those connected."""
    line = Line.DATABASE_DURABLE
    off = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings.get(name) == "off"
    ]
    if off:
        return failed(
            line,
            f"a crash loses acknowledged deliveries: {', '.join(off)} off",
            f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf",
        )
    if settings.get("transaction_read_only") == "on":
        return failed(line, "this is a standby: it takes no writes", "point DATABASE_URL at the primary")
    if standbys and not settings.get("synchronous_standby_names"):
        return warning(
            line,
            f"{standbys} standbys are asynchronous: promoting one may forget which letters went out",
            "set synchronous_standby_names",
        )
    return ok(line, "fsync, full_page_writes and synchronous_commit are on")


def _settings_of(tx: Transaction) -> dict[str, str]:
    names = (
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "synchronous_standby_names",
        "transaction_read_only",
    )
    return {name: str(_ask(tx, f"SHOW {name}")) for name in names}


def _standbys(tx: Transaction) -> int:
    found = _ask(tx, "SELECT count(*) FROM pg_stat_replication WHERE state IS NULL OR state = 'streaming'")
    return int(str(found))


def _ask(tx: Transaction, statement: str) -> object:
    return tx.connection.exec_driver_sql(statement).scalar()


def judge_clock(line: Line, whose: str, there: datetime, here: datetime) -> Finding:
    apart_s = (there - here).total_seconds()
    if abs(apart_s) <= CLOCK_APART_S:
        return ok(line, f"{whose} and this machine's agree to {CLOCK_APART_S:.0f} s")
    ahead = "ahead of" if apart_s > 0 else "behind"
    return warning(
        line,
        f"{whose} is {abs(apart_s):.0f} s {ahead} this machine's",
        "synchronise this machine's clock, and that of the database's machine (NTP)",
    )


_FAR = frozenset(
    {"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "virtiofs"}
)
_FLEETING = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})


def judge_place(filesystem: str, free_bytes: int) -> Finding:
    """`filesystem` as /proc/self/mountinfo names it; "" when nobody knows."""
    line = Line.DATABASE_DISK
    if filesystem in _FAR or filesystem.startswith("fuse."):
        return failed(
            line,
            f"the SQLite file lies on {filesystem}, where its locks do not hold",
            "put DATA_DIR on a local disk, or use PostgreSQL (DATABASE_URL)",
        )
    if free_bytes < LITTLE_SPACE_BYTES:
        return warning(line, f"only {free_bytes >> 20} MiB are free", "make room on the disk of DATA_DIR")
    if filesystem in _FLEETING:
        return warning(
            line,
            f"the SQLite file lies on {filesystem}: it is gone with this container or at the next start",
            "put DATA_DIR on a volume that stays",
        )
    if not filesystem:
        return not_checked(line, "this system does not say what kind of disk the SQLite file is on")
    return ok(line, f"on {filesystem}, {free_bytes >> 30} GiB free")


def filesystem_of(path: Path, mounts: str) -> str:
    """The type of file system that holds an absolute path, by the text of /proc/self/mountinfo (proc(5))."""
    best, found = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        place = Path(fields[4].encode().decode("unicode_escape"))
        if path.is_relative_to(place) and len(place.parts) >= best:
            best, found = len(place.parts), after.split()[0]
    return found


def _judge_disk(file: Path) -> Finding:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        mounts = ""
    return judge_place(filesystem_of(file, mounts), shutil.disk_usage(file.parent).free)


# Redis


def check_redis(subject: Subject) -> Iterator[Finding]:
    is_embedded = not subject.settings.redis_url.get_secret_value()
    with contextlib.closing(open_redis(subject.settings.redis)) as redis:
        try:
            redis.ping()
        except (AuthenticationError, NoPermissionError) as exc:
            yield failed(
                Line.REDIS, f"refuses us ({type(exc).__name__})", "correct user and password in REDIS_URL"
            )
            return
        except RedisError as exc:
            if is_embedded:
                yield warning(
                    Line.REDIS,
                    "the embedded server does not run; it lives with `usher run`",
                    "start `usher run`; where web, worker and beat are started one by one, set REDIS_URL",
                )
            else:
                yield failed(
                    Line.REDIS, f"does not answer ({type(exc).__name__})", "start it, or correct REDIS_URL"
                )
            return
        yield ok(Line.REDIS, f"the {'embedded server' if is_embedded else 'server'} answers")
        yield from judge_redis(_told_by(redis))


def _told_by(redis: Redis) -> dict[str, str]:
    """INFO and CONFIG GET together, under INFO's names: hosted servers refuse the one or the other."""
    told: dict[str, str] = {}
    for section in ("persistence", "memory"):
        with contextlib.suppress(ResponseError):
            told |= {name: str(value) for name, value in redis.info(section).items()}
    for name, known_as in (("appendonly", "aof_enabled"), ("maxmemory-policy", "maxmemory_policy")):
        if known_as not in told:
            with contextlib.suppress(ResponseError):
                value = str(redis.config_get(name).get(name, ""))
                told |= {known_as: {"yes": "1", "no": "0"}.get(value, value)} if value else {}
    return told


def judge_redis(told: Mapping[str, str]) -> list[Finding]:
    """`told` has the fields of INFO that the server gives away."""
    unknown = "the server tells it to nobody: look into the provider's documentation"
    found = []
    kept = told.get("aof_enabled")
    if kept is None:
        found.append(not_checked(Line.REDIS_KEPT, unknown))
    elif kept != "1":
        found.append(
            failed(
                Line.REDIS_KEPT,
                "appendonly is off: a restart forgets wake-ups, budgets and paces",
                "set `appendonly yes` (CONFIG SET, and in its configuration file)",
            )
        )
    elif told.get("aof_last_write_status", "ok") != "ok":
        found.append(
            failed(
                Line.REDIS_KEPT,
                "appendonly is on, but its last write failed",
                "look at the disk of the Redis server: it is full, or may not be written to",
            )
        )
    else:
        found.append(ok(Line.REDIS_KEPT, "appendonly is on"))
    policy = told.get("maxmemory_policy")
    if policy is None:
        found.append(not_checked(Line.REDIS_EVICTION, unknown))
    elif policy != "noeviction":
        found.append(
            failed(
                Line.REDIS_EVICTION,
                f"maxmemory-policy is {policy}: when it is full, wake-ups vanish without a word",
                "set `maxmemory-policy noeviction`",
            )
        )
    else:
        found.append(ok(Line.REDIS_EVICTION, "maxmemory-policy is noeviction"))
    used, most = (_whole(told.get(name)) for name in ("used_memory", "maxmemory"))
    if most and used is not None:
        share = used / most
        text = f"{share:.0%} of maxmemory is in use"
        found.append(
            ok(Line.REDIS_MEMORY, text)
            if share < 0.9
            else warning(Line.REDIS_MEMORY, text, "raise maxmemory, or see what else uses this Redis")
        )
    return found


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


# The broker


def check_broker(subject: Subject) -> Iterator[Finding]:
    if not subject.settings.broker_url.get_secret_value():
        yield ok(Line.BROKER, "is Redis")
        return
    celery = create_celery_app(subject.settings.broker, publisher=True)
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=3)
            yield ok(Line.BROKER, "answers")
            channel: Any = connection.default_channel  # celery's stubs know less of it
            try:
                # As every wake-up does: makes the queue when it is missing, and is refused when it is another.
                declared = channel.queue_declare(queue=QUEUE, durable=True, auto_delete=False)
            except Exception as exc:  # noqa: BLE001 - each transport has its own errors
                yield failed(
                    Line.BROKER_QUEUE,
                    f"the queue {QUEUE} cannot be declared durable ({type(exc).__name__})",
                    f"delete the queue {QUEUE}, which Usher makes again, or give its user the rights to it",
                )
            else:
                unread = int(declared.message_count)
                yield ok(Line.BROKER_QUEUE, f"the queue {QUEUE} is durable; {unread} wake-ups wait in it")
    except (BrokerError, OSError) as exc:
        yield failed(
            Line.BROKER, f"does not answer ({type(exc).__name__})", "start it, or correct BROKER_URL"
        )


# What goes on


def check_processes(subject: Subject) -> Iterator[Finding]:
    with subject.database() as database:
        heard = Heartbeats(database)
        silent = [name for name in ("worker", "beat") if not heard.heard_within(f"{name}:", SILENT_AFTER_S)]
    if silent:
        yield failed(
            Line.PROCESSES,
            f"not heard of for {SILENT_AFTER_S:.0f} s: {', '.join(silent)}",
            "start `usher run`, or "
            + " and ".join(f"`usher {name}`" for name in silent)
            + "; their logs say why they ended",
        )
    else:
        yield ok(Line.PROCESSES, f"worker and beat were heard of within {SILENT_AFTER_S:.0f} s")


def check_work(subject: Subject) -> Iterator[Finding]:
    waiting: tuple[tuple[sa.Table, Sequence[str]], ...] = (
        (events, ("received",)),
        (messages, ("planned", "deferred")),
        (outbox, ("planned",)),
    )
    with subject.database() as database, database.read() as tx:
        late, week = tx.now - timedelta(seconds=OVERDUE_AFTER_S), tx.now - timedelta(days=7)
        overdue = {
            table.name: _count(tx, table, is_due(tx, table, states), table.c.next_at < late)
            for table, states in waiting
        }
        dead = {
            "events": _count(tx, events, events.c.state == "dead", events.c.finished_at >= week),
            "decisions and opt-outs": _count(
                tx, outbox, outbox.c.state == "failed", outbox.c.finished_at >= week
            ),
        }
        doubt = _count(tx, messages, messages.c.state == "in_doubt")
        paused = tx.execute(sa.select(senders).where(senders.c.paused_until > tx.now)).all()
        quiet = _count(tx, watches, watches.c.quiet_at.is_not(None))
    yield from judge_work(overdue, dead, doubt, [(row.domain, row.reason or "") for row in paused], quiet)
    with subject.database() as database:
        if book := subject.book(database):
            yield judge_automations(book.number(), book.trouble(), locked=book.locked)


def judge_automations(number: int, trouble: str, *, locked: bool) -> Finding:
    """`number`: of the version that counts; `trouble`: why it is not the newest one."""
    line = Line.WORK_AUTOMATIONS
    if trouble:
        fix = "mend it in the console, or `usher automations rollback`; meanwhile an earlier version goes on"
        return failed(line, trouble, fix)
    if locked:
        return ok(line, "the file of each process alone counts (AUTOMATIONS_LOCKED)")
    return ok(
        line, f"version {number} counts" if number else "the file counts; no version is written down yet"
    )


def judge_work(
    overdue: Mapping[str, int],
    dead: Mapping[str, int],
    doubt: int,
    paused: Sequence[tuple[str, str]],
    quiet_sites: int,
) -> Iterable[Finding]:
    """Rows by table that are due for a minute, and set aside for good; letters in doubt; readers' domains, "" for
    all of them, that are not written to, and why."""
    if quiet_sites:
        yield warning(
            Line.WORK,
            f"the webhooks of {quiet_sites} sites used to come and do not",
            "look at the app's webhooks at Wix and at the lines of public",
        )
    else:
        yield ok(Line.WORK, "no site has gone quiet")
    for line, counts, what, fix in (
        (
            Line.WORK_OVERDUE,
            overdue,
            "due for a minute and not taken up",
            "see the lines of processes and redis",
        ),
        (
            Line.WORK_DEAD,
            dead,
            "set aside for good within 7 days",
            "`usher events list --state dead` says why; mend that, then `usher events replay --dead`",
        ),
    ):
        some = [f"{count} {name}" for name, count in counts.items() if count]
        yield warning(line, f"{what}: {', '.join(some)}", fix) if some else ok(line, f"nothing is {what}")
    if doubt:
        yield warning(
            Line.WORK_DOUBT,
            f"{doubt} letters are in doubt",
            "compare with the mail server's records: `usher messages found`, then release or give up the rest",
        )
    else:
        yield ok(Line.WORK_DOUBT, "no letter is in doubt")
    for domain, reason in paused:
        yield warning(
            Line.WORK_PAUSED,
            f"no letters go to {domain or 'anybody'} for now: {reason or 'paused'}",
            "the reason is about the sender: see the lines of relay and dns; sending goes on by itself",
        )
    if not paused:
        yield ok(Line.WORK_PAUSED, "sending is not paused")


def _count(tx: Transaction, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
    return tx.connection.scalar(sa.select(sa.func.count()).select_from(table).where(*conditions)) or 0


GMAIL = ("gmail.com", "googlemail.com")
BULK_A_DAY = 5000  # to Gmail; who reaches it once is a bulk sender for ever (Google's sender guidelines, FAQ)
COMPLAINTS_BAD, COMPLAINTS_HIGH = 0.003, 0.001  # Gmail's and Yahoo's rules for bulk senders
MANY_FOR_A_BEGINNER = 500  # a day: our own floor
ENOUGH_LETTERS = 100  # below it one complaint alone would be a percent


def check_volume(subject: Subject) -> Iterator[Finding]:
    with subject.database() as database, database.read() as tx:
        day, month = tx.now - timedelta(days=1), tx.now - timedelta(days=30)
        today = _count(tx, messages, messages.c.sent_at >= day)
        gmail = _count(tx, messages, messages.c.sent_at >= day, messages.c.domain.in_(GMAIL))
        sent = _count(tx, messages, messages.c.sent_at >= month)
        complaints = _count(tx, messages, messages.c.sent_at >= month, messages.c.complained_at.is_not(None))
        first = tx.connection.scalar(sa.select(sa.func.min(messages.c.sent_at)))
        is_new = first is None or first >= month
    with contextlib.suppress(ValueError):  # which is for settings to say
        limits = parse_email_url(subject.settings.email_url.get_secret_value()).limits
        yield judge_pace(today, is_new=is_new, warms_up=limits.warm_up is not None)
    yield judge_gmail(gmail)
    yield judge_complaints(sent, complaints)


def judge_pace(in_a_day: int, *, is_new: bool, warms_up: bool) -> Finding:
    """`is_new`: the first letter ever went out less than 30 days ago."""
    seen = f"{in_a_day} letters in 24 hours"
    if is_new and not warms_up and in_a_day >= MANY_FOR_A_BEGINNER:
        return warning(
            Line.VOLUME,
            f"{seen}, from a sender less than 30 days old",
            "set warm_up in EMAIL_URL: mailbox providers distrust a new sender that writes a lot at once",
        )
    return ok(Line.VOLUME, seen)


def judge_gmail(in_a_day: int) -> Finding:
    seen = f"{in_a_day} letters to Gmail in 24 hours"
    if in_a_day < BULK_A_DAY * 0.8:
        return ok(Line.VOLUME_GMAIL, seen)
    return warning(
        Line.VOLUME_GMAIL,
        f"{seen}: from {BULK_A_DAY} on, all mail of the domain counted together, Gmail takes it for a bulk sender,"
        " for good",
        "have SPF, DKIM and DMARC right (the lines of dns), keep complaints rare, or spread letters over days",
    )


def judge_complaints(sent: int, complaints: int) -> Finding:
    line = Line.VOLUME_COMPLAINTS
    seen = f"{complaints} complaints about {sent} letters of 30 days"
    if sent < ENOUGH_LETTERS:
        return not_checked(line, f"{seen}: a rate says something from {ENOUGH_LETTERS} letters on")
    rate = complaints / sent
    seen = f"{seen} ({rate:.2%})"
    fix = (
        "write less, to people who expect it: look at what was sent before the complaints, and at its consent"
    )
    if rate >= COMPLAINTS_BAD:
        return failed(line, f"{seen}: mailbox providers refuse a sender from 0.3 % on", fix)
    if rate >= COMPLAINTS_HIGH:
        return warning(line, f"{seen}: it is to stay below 0.1 %", fix)
    return ok(line, seen)
