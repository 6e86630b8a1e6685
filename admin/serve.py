"""The three processes of the Procfile: web, worker, beat."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from admin.processes import check_settings, end_with_parent, find_port, keep_beating, open_services
from config.logging import set_up_logging
from integrations.email.transport import parse_email_url
from integrations.store.database import open_database
from tasks.services import Services

log = logging.getLogger(__name__)

CUT_SHORT_AFTER_S = 15.0
"""Longer than any turn that is not held up, shorter than the 20 s a platform gives."""


def serve_web() -> None:
    """Serve until SIGTERM. Raises ConfigError before anything is opened."""
    import uvicorn

    from asgi import create_app

    checked = check_settings(sends=False)
    if checked.settings.port:
        find_port(checked.settings.port)
    set_up_logging("web")
    end_with_parent()
    uvicorn.run(
        create_app(checked.settings),
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
    from billiard import active_children
    from celery.signals import setup_logging, worker_shutting_down

    from tasks.app import add_tasks, create_app

    checked = check_settings(sends=True)
    set_up_logging("worker")
    if parse_email_url(checked.settings.email_url.get_secret_value()).per_second is not None:
        log.warning("email.not_paced", extra={"setting": "EMAIL_URL", "option": "per_second"})
    open_database(checked.settings.database).close()
    end_with_parent()
    setup_logging.connect(lambda **_: set_up_logging("worker"), weak=False)
    celery = create_app(checked.settings.broker, publisher=False)

    def build() -> tuple[Services, Callable[[], None]]:
        opened = open_services(checked)
        services, heartbeats = opened.__enter__()
        stop = threading.Event()
        threading.Thread(
            target=keep_beating, args=(services, heartbeats, "worker", stop), daemon=True
        ).start()

        def close() -> None:
            stop.set()
            opened.__exit__(None, None, None)

        return services, close

    def kill_pool() -> None:
        for child in active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)

    worker_shutting_down.connect(lambda **_: _end_soon("worker.cut_short", kill_pool), weak=False)
    add_tasks(celery, build)
    celery.worker_main(
        [
            "--quiet",
            "worker",
            f"--concurrency={concurrency}",
            "--loglevel=INFO",
            "--without-gossip",
            "--without-mingle",
        ]
    )


def serve_beat() -> None:
    """Sweep until SIGTERM."""
    from tasks.app import create_app, ring
    from tasks.sweep import Sweeper

    checked = check_settings(sends=True)
    set_up_logging("beat")
    open_database(checked.settings.database).close()
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        _end_soon("beat.cut_short")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    end_with_parent()
    celery = create_app(checked.settings.broker, publisher=True)
    with open_services(checked) as (services, heartbeats):
        threading.Thread(target=keep_beating, args=(services, heartbeats, "beat", stop), daemon=True).start()
        Sweeper(services, functools.partial(ring, celery)).look_until(stop)


def _end_soon(event: str, kill_pool: Callable[[], None] = lambda: None) -> None:
    """Whoever waits for a mail server that says nothing does not hold up the end: the lease finds its letter."""

    def cut_short() -> None:
        log.warning(event)
        kill_pool()
        os._exit(0)

    timer = threading.Timer(CUT_SHORT_AFTER_S, cut_short)
    timer.daemon = True
    timer.start()
