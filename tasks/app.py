"""The Celery application: how a doorbell travels from the web process or the sweeper to a worker.

A message only says "something is due"; the rows decide what. It may be lost, late or doubled, so publishing never
waits for the broker and nothing is retried by Celery. The reasons for each value stand in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

from tasks.services import Services
from tasks.turn import take_turn

WORK = "usher.work"
QUEUE = "usher"
DOORBELL_EXPIRES_S = 60
TASK_TIME_LIMIT_S = 1000
"""Longer than the lease of a letter that waits for the reply to its final dot (900 s), so nothing hangs for ever."""

_SHARED_OPTIONS: dict[str, Any] = {
    "socket_keepalive": True,
    "health_check_interval": 5,
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.2,
    # No note of unacknowledged messages: a doorbell may be lost, and no connection becomes a zombie over an ack.
    "ack_emulation": False,
}
CONSUMER_OPTIONS = {**_SHARED_OPTIONS, "socket_timeout": 5, "socket_connect_timeout": 2}
PUBLISHER_OPTIONS = {**_SHARED_OPTIONS, "socket_timeout": 0.3, "socket_connect_timeout": 0.2}


def create_app(broker_url: str, *, publisher: bool) -> Celery:
    """Opens no connection. Redis options are for Redis; AMQP has its own acknowledgements and heartbeats."""
    app = Celery("usher", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        task_time_limit=TASK_TIME_LIMIT_S,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=5000,
        worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_connection_timeout=0.4 if publisher else 4,
        broker_pool_limit=1 if publisher else 10,
    )
    if not broker_url.startswith("amqp"):
        app.conf.broker_transport_options = PUBLISHER_OPTIONS if publisher else CONSUMER_OPTIONS
    return app


def add_tasks(app: Celery, build: Callable[[], tuple[Services, Callable[[], None]]]) -> None:
    """Register the tasks of a worker. `build` makes the services, and what closes them, once per process."""
    held: list[tuple[Services, Callable[[], None]]] = []

    def begin(**_: object) -> None:
        held[:] = [build()]

    def end(**_: object) -> None:
        for _services, close in held:
            close()

    # Clients are built after the fork: a connection must not be shared with the parent.
    worker_process_init.connect(begin, weak=False)
    worker_process_shutdown.connect(end, weak=False)

    @app.task(name=WORK, ignore_result=True)
    def work() -> None:
        if take_turn(held[0][0]):
            ring(app)


def ring(app: Celery) -> None:
    """Send one doorbell. Raises whatever the broker's client raises; never waits longer than about half a second."""
    app.send_task(WORK, retry=False, expires=DOORBELL_EXPIRES_S, ignore_result=True)
