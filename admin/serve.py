"""The three processes of the Procfile: web, worker, beat."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable

from admin.processes import check_settings, keep_beating, open_services
from config.logging import set_up_logging
from integrations.store.database import open_database
from tasks.services import Services


def serve_web() -> None:
    """Serve until SIGTERM. Raises ConfigError before anything is opened."""
    import uvicorn

    from asgi import create_app

    checked = check_settings(sends=False)
    set_up_logging("web")
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
    """Work until SIGTERM: the turn at hand is finished, then the processes end."""
    from celery.signals import setup_logging

    from tasks.app import add_tasks, create_app

    checked = check_settings(sends=True)
    open_database(checked.settings.database).close()
    set_up_logging("worker")
    setup_logging.connect(lambda **_: set_up_logging("worker"), weak=False)
    celery = create_app(checked.settings.broker, publisher=False)

    def build() -> tuple[Services, Callable[[], None]]:
        opened = open_services(checked)
        services, heartbeats = opened.__enter__()
        stop = threading.Event()
        threading.Thread(target=keep_beating, args=(heartbeats, "worker", stop), daemon=True).start()

        def close() -> None:
            stop.set()
            opened.__exit__(None, None, None)

        return services, close

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
    from tasks.sweep import sweep_until

    checked = check_settings(sends=True)
    open_database(checked.settings.database).close()
    set_up_logging("beat")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    celery = create_app(checked.settings.broker, publisher=True)
    with open_services(checked) as (services, heartbeats):
        threading.Thread(target=keep_beating, args=(heartbeats, "beat", stop), daemon=True).start()
        sweep_until(stop, services, functools.partial(ring, celery))
