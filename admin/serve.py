"""The three processes of the Procfile: web, worker, beat."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from admin.processes import check_settings, end_with_parent, find_port, keep_beating, open_services
from config.logging import set_up_logging
from integrations.store.database import open_database
from tasks.services import Services

log = logging.getLogger(__name__)

CUT_SHORT_AFTER_S = 13.0
"""Longer than most turns; with LET_GO_WITHIN_S it is shorter than what the supervisor (17 s) or a platform gives."""
LET_GO_WITHIN_S = 2.0


def serve_web() -> None:
    """Serve until SIGTERM. Raises ConfigError before anything is opened."""
    import uvicorn

    from asgi import create_app

    checked = check_settings(sends=False)
    if checked.settings.port:
        find_port(checked.settings.port)
    set_up_logging("web")
    end_with_parent()
    app = create_app(checked.settings, checked.renderer, with_aside=True)
    _be_in_place()
    uvicorn.run(
        app,
        host="0.0.0.0",  # noqa: S104 (the platform's router comes from outside)
        port=checked.settings.port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="httptools",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        timeout_graceful_shutdown=10,
    )


def serve_worker(concurrency: int) -> None:
    """Work until SIGTERM: the turn at hand is finished, unless it takes too long, then the processes end."""
    from billiard import active_children, current_process
    from celery.signals import setup_logging, worker_shutting_down

    from tasks.app import add_tasks, create_app, ring
    from tasks.doorbell import Doorbell
    from tasks.watch import Board, Shift

    checked = check_settings(sends=True)
    set_up_logging("worker")
    open_database(checked.settings.database).close()
    end_with_parent()
    setup_logging.connect(lambda **_: set_up_logging("worker"), weak=False)
    celery = create_app(checked.settings.broker, publisher=False)
    publisher = create_app(checked.settings.broker, publisher=True)
    board = Board(concurrency)
    worker = os.getpid()

    def end_worker() -> None:
        if os.getppid() == worker:  # or else it is gone already
            os.kill(worker, signal.SIGTERM)

    def build() -> tuple[Callable[[], None], Callable[[], None]]:
        opened = open_services(checked, with_writer=True)
        services, heartbeats = opened.__enter__()
        doorbell = Doorbell(functools.partial(ring, publisher))
        place: int = current_process().index  # type: ignore[attr-defined] # of this child in the pool, from 0
        shift = Shift(services, doorbell, board, place, end_worker)
        stop = threading.Event()
        threading.Thread(
            target=keep_beating, args=(services, heartbeats, "worker", stop), daemon=True
        ).start()
        watch = threading.Thread(target=shift.watch_until, args=(stop,), daemon=True)
        watch.start()

        # A handler runs in the thread that is held up: it may have the database's only connection.
        signal.signal(
            signal.SIGUSR2,
            lambda *_: threading.Thread(target=_cut_short, args=(services,), daemon=True).start(),
        )

        def close() -> None:
            stop.set()
            watch.join()
            doorbell.close()
            opened.__exit__(None, None, None)

        return shift.answer, close

    def cut_short() -> None:
        children = active_children()
        for number, within_s in ((signal.SIGUSR2, LET_GO_WITHIN_S + 0.5), (signal.SIGKILL, 0.0)):
            for child in children:
                if child.is_alive() and child.pid is not None:
                    os.kill(child.pid, number)
            deadline = time.monotonic() + within_s
            while time.monotonic() < deadline and any(child.is_alive() for child in children):
                time.sleep(0.02)
        os._exit(0)

    def shut_down(**_: object) -> None:
        board.end()
        _end_soon("worker.cut_short", cut_short)

    worker_shutting_down.connect(shut_down, weak=False)
    add_tasks(celery, build)
    _be_in_place()  # before the fork: what no collection touches, parent and children share
    celery.worker_main(
        [
            "--quiet",
            "worker",
            f"--concurrency={concurrency}",
            "--loglevel=INFO",
            "--without-gossip",
            "--without-mingle",
            # Its events are read by nobody; with Redis they notice a connection that died.
            *(["--without-heartbeat"] if checked.settings.broker.startswith("amqp") else []),
        ]
    )


def serve_beat() -> None:
    """Sweep until SIGTERM; a thread of its own compares Wix's lists, so that a slow Wix does not hold that up."""
    from tasks.app import create_app, ring
    from tasks.doorbell import Doorbell
    from tasks.reconcile import reconcile_until
    from tasks.schedule import Schedule
    from tasks.sweep import Sweeper

    checked = check_settings(sends=True)
    set_up_logging("beat")
    open_database(checked.settings.database).close()
    stop = threading.Event()

    end_with_parent()
    celery = create_app(checked.settings.broker, publisher=True)
    with open_services(checked) as (services, heartbeats):

        def end(*_: object) -> None:
            _end_soon("beat.cut_short", functools.partial(_cut_short, services))
            # Not here: the thread that a handler interrupts may be about to wait, with the event's lock in its hand.
            threading.Thread(target=stop.set, daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        threading.Thread(target=keep_beating, args=(services, heartbeats, "beat", stop), daemon=True).start()
        comparing = threading.Thread(
            target=reconcile_until, args=(services, checked.settings.wix_calls_per_minute, stop), daemon=True
        )
        comparing.start()
        scheduling = threading.Thread(target=Schedule(services).look_until, args=(stop,), daemon=True)
        scheduling.start()
        doorbell = Doorbell(functools.partial(ring, celery))
        _be_in_place()
        Sweeper(services, doorbell.ring_and_hear).look_until(stop)
        doorbell.close()
        comparing.join()
        scheduling.join()


def _be_in_place() -> None:
    """What is there now stays: no collection need look at it while somebody waits."""
    gc.freeze()
    gc.enable()


def _end_soon(event: str, cut_short: Callable[[], None]) -> None:
    """Whoever waits for an answer, of a mail server or of Wix, does not hold up the end."""

    def run() -> None:
        log.warning(event)
        cut_short()

    timer = threading.Timer(CUT_SHORT_AFTER_S, run)
    timer.daemon = True
    timer.start()


def _cut_short(services: Services) -> None:
    """End this process, whatever its other threads wait for. What it holds is due again at once; the lease finds a
    letter whose final dot may be out."""
    last = threading.Thread(target=services.let_go, daemon=True)
    last.start()
    last.join(LET_GO_WITHIN_S)
    os._exit(0)
