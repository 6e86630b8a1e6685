"""What is done to Usher, one fault after another. Each begins, lasts a little while people go on, and ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from redis.exceptions import RedisError

from chaos.stage import PostgresStore, SqliteStore, Stage, _children_of

Do = Callable[[Stage, Random], None]

HARD, SOFT = signal.SIGKILL, signal.SIGTERM


def _nothing(_stage: Stage, _random: Random) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Fault:
    """`lasts_s` seconds lie between `begin` and `end`. `times`: how often it is done within them."""

    name: str
    begin: Do
    end: Do = _nothing
    lasts_s: float = 1.5
    times: int = 1
    only: type[SqliteStore] | type[PostgresStore] | None = None
    needs_disk: bool = False


def _signal(*names: str, number: signal.Signals = HARD, pool: bool = False, parent: bool = True) -> Do:
    def begin(stage: Stage, _random: Random) -> None:
        for name in names:
            stage.signal(name, number, pool=pool, parent=parent)

    return begin


def _kill_one_child(stage: Stage, random: Random) -> None:
    pid = stage.one_child("worker", random.randrange(8))
    if pid is not None:
        stage.note_kill("worker")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, HARD)


def _kill_asides(stage: Stage, random: Random) -> None:
    """What writes for a worker's processes, and not these."""
    child = stage.one_child("worker", random.randrange(8))
    for pid in _children_of(child) if child is not None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, HARD)


def _kill_everything(stage: Stage, _random: Random) -> None:
    stage.valkey.signal(HARD)
    for name in ("web", "worker", "beat"):
        stage.signal(name, HARD, pool=True)


def _start_valkey(stage: Stage, _random: Random) -> None:
    stage.valkey.start()


def _stop_valkey(stage: Stage, _random: Random) -> None:
    stage.valkey.signal(HARD)


def _redis(*command: str) -> Do:
    def begin(stage: Stage, _random: Random) -> None:
        with contextlib.suppress(RedisError), contextlib.closing(stage.valkey.client()) as redis:
            redis.execute_command(*command)  # type: ignore[no-untyped-call]

    return begin


def _cut_connections(stage: Stage, _random: Random) -> None:
    with contextlib.suppress(RedisError), contextlib.closing(stage.valkey.client()) as redis:
        for kind in ("normal", "pubsub"):
            redis.client_kill_filter(_type=kind, skipme=True)


def _switch(**switches: object) -> Do:
    return lambda stage, _random: stage.switch(**switches)


_CALM = {
    "outage": False,
    "failure_rate": 0.0,
    "failure_statuses": [500, 503, 504],
    "broken_answers": [],
    "failures_after_effect": False,
    "latency_s": 0,
    "retry_after": True,
    "consistency_delay_s": 0,
    "webhook_jitter_s": 0.5,
}


def _wix(name: str, **switches: object) -> Fault:
    return Fault(f"Wix: {name}", _switch(**switches), _switch(**_CALM))


def _mail(name: str, **shares: float) -> Fault:
    return Fault(
        f"mail: {name}",
        lambda stage, _random: stage.mail.set_faults(**shares),
        lambda stage, _random: stage.mail.set_faults(),
    )


def _mail_mode(mode: str, lasts_s: float) -> Fault:
    def begin(stage: Stage, _random: Random) -> None:
        stage.mail.mode = mode  # type: ignore[assignment]

    def end(stage: Stage, _random: Random) -> None:
        stage.mail.mode = "up"

    words = {"refuse": "refuses connections", "silent": "takes connections and says nothing"}
    return Fault(f"mail: {words[mode]}", begin, end, lasts_s)


def _lock(stage: Stage, _random: Random) -> None:
    stage.store.lock()


def _unlock(stage: Stage, _random: Random) -> None:
    stage.store.unlock()


def _crash_postgres(stage: Stage, _random: Random) -> None:
    if isinstance(stage.store, PostgresStore):
        stage.store.crash()


def _stop_postgres(stage: Stage, _random: Random) -> None:
    if isinstance(stage.store, PostgresStore):
        stage.store.stop()


def _cut_database(stage: Stage, _random: Random) -> None:
    stage.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )


def _start_database(stage: Stage, _random: Random) -> None:
    stage.store.start()


def _free_disk(stage: Stage, random: Random) -> None:
    stage.disk.free()
    _start_database(stage, random)  # a PostgreSQL that cannot write its log gives up


def _send_poison(stage: Stage, _random: Random) -> None:
    for body in ({}, {"groupId": "nobody-knows-it"}):
        stage.poison({"entityId": "x", "actionEvent": {"body": body}})


FAULTS = (
    Fault("nothing", _nothing),
    Fault("worker: parent killed", _signal("worker")),
    Fault("worker: one child killed", _kill_one_child, times=3),
    Fault("worker: all of it killed", _signal("worker", pool=True)),
    Fault("worker: the process aside killed", _kill_asides, times=4, only=SqliteStore),
    Fault("worker: SIGTERM under load", _signal("worker", number=SOFT)),
    Fault("web: killed", _signal("web"), times=2),
    Fault("web: the process aside killed", _signal("web", pool=True, parent=False), times=4),
    Fault("web: SIGTERM under load", _signal("web", number=SOFT)),
    Fault("beat: killed", _signal("beat"), times=2),
    Fault(
        "a second worker and a second beat",
        lambda stage, _random: stage.start_twins(),
        lambda stage, _random: stage.end_twins(),
        5.0,
    ),
    Fault("everything killed at once", _kill_everything, _start_valkey),
    Fault(
        "worker frozen, then killed",
        _signal("worker", number=signal.SIGSTOP, pool=True),
        _signal("worker", pool=True),
    ),
    Fault("Redis: killed", _stop_valkey, _start_valkey),
    Fault("Redis: away for longer", _stop_valkey, _start_valkey, 8.0),
    Fault("Redis: emptied", _redis("FLUSHALL"), times=3),
    Fault(
        "Redis: full",
        _redis("CONFIG", "SET", "maxmemory", "1"),
        _redis("CONFIG", "SET", "maxmemory", "0"),
        3.0,
    ),
    Fault(
        "Redis: silent but connected",
        lambda stage, _random: stage.valkey.signal(signal.SIGSTOP),
        lambda stage, _random: stage.valkey.signal(signal.SIGCONT),
        7.0,
    ),
    Fault("Redis: connections cut", _cut_connections, times=4),
    Fault("database: locked", _lock, _unlock, 5.0),
    Fault("database: crashed and restarted", _crash_postgres, _start_database, 0.5, only=PostgresStore),
    Fault("database: refuses connections", _stop_postgres, _start_database, 3.0, only=PostgresStore),
    Fault("database: connections cut", _cut_database, times=4, only=PostgresStore),
    Fault("database: disk full", lambda stage, _random: stage.disk.fill(), _free_disk, 3.0, needs_disk=True),
    _wix("away (503)", outage=True),
    _wix("half of the calls 500, 503, 504", failure_rate=0.5),
    _wix("did it, the answer is lost", failure_rate=0.3, failures_after_effect=True),
    _wix("HTML instead of JSON", failure_rate=0.3, failure_statuses=[], broken_answers=["html"]),
    _wix("JSON cut off", failure_rate=0.3, failure_statuses=[], broken_answers=["truncated"]),
    _wix("JSON of another shape", failure_rate=0.2, failure_statuses=[], broken_answers=["wrong_shape"]),
    _wix("connections reset", failure_rate=0.3, failure_statuses=[], broken_answers=["reset"]),
    _wix("no answer", failure_rate=0.05, failure_statuses=[], broken_answers=["hang"]),
    _wix("slow", latency_s=1.5),
    _wix("queries lag behind", consistency_delay_s=4),
    Fault("Wix: tokens expire", lambda stage, _random: stage.expire_tokens(), times=4),
    _wix("429 with Retry-After", failure_rate=0.5, failure_statuses=[429]),
    _wix("429 without Retry-After", failure_rate=0.5, failure_statuses=[429], retry_after=False),
    _mail_mode("refuse", 3.0),
    _mail_mode("silent", 6.0),
    _mail("421 on connecting", **{"421_on_connect": 0.7}),
    _mail("451 to MAIL", **{"451_at_mail": 0.5}),
    _mail("greylisting", **{"450_greylist_at_rcpt": 1.0}),
    _mail("throttling (452, 454)", **{"452_at_rcpt": 0.3, "454_at_data": 0.3}),
    _mail("4yz after the dot", **{"4yz_at_dot": 0.5}),
    _mail("5yz after the dot", **{"5yz_at_dot": 0.2}),
    _mail("drops in the body", drop_in_body=0.5),
    _mail("takes it and hangs up", close_after_dot_taken=0.3),
    _mail("loses it and hangs up", close_after_dot_lost=0.3),
    _mail("takes it and says nothing", silent_after_dot_taken=0.2),
    _mail("loses it and says nothing", silent_after_dot_lost=0.2),
    _mail("421 after the dot", **{"421_after_dot": 0.3}),
    _mail("slow", slow=1.0),
    Fault("deliveries overtake each other", _switch(webhook_jitter_s=4), _switch(webhook_jitter_s=0.5)),
    Fault("poison payloads", _send_poison),
)
