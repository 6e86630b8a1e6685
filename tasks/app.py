"""The Celery application: how a doorbell travels from the web process or the sweeper to a worker.

A message only says "something is due"; the rows decide what. It may be lost, late or doubled, so publishing never
waits for the broker and nothing is retried by Celery. The reasons for each value stand in docs/operations.md.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

WORK = "usher.work"
QUEUE = "usher"
ENOUGH_UNREAD = 100
"""A queue that holds so many doorbells needs no more: they all say the same."""
TASK_TIME_LIMIT_S = 1000
"""Longer than the lease of a letter that waits for the reply to its final dot (900 s), so nothing hangs for ever;
shorter than RabbitMQ waits for an acknowledgement (1800 s)."""

_SHARED_OPTIONS: dict[str, Any] = {
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.2,
}
_REDIS_OPTIONS: dict[str, Any] = {
    **_SHARED_OPTIONS,
    "socket_keepalive": True,
    "health_check_interval": 5,
    # No note of unacknowledged messages: a doorbell may be lost, and no connection becomes a zombie over an ack.
    "ack_emulation": False,
}
_AMQP_OPTIONS: dict[str, Any] = _SHARED_OPTIONS
TRANSPORT_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("redis", "worker"): {**_REDIS_OPTIONS, "socket_timeout": 5, "socket_connect_timeout": 2},
    ("redis", "publisher"): {**_REDIS_OPTIONS, "socket_timeout": 0.3, "socket_connect_timeout": 0.2},
    ("amqp", "worker"): {**_AMQP_OPTIONS, "read_timeout": 5, "write_timeout": 5},
    # Without the broker's word a node that is silent, blocked or gone seems to take every message.
    ("amqp", "publisher"): {
        **_AMQP_OPTIONS,
        "read_timeout": 0.3,
        "write_timeout": 0.3,
        "confirm_publish": True,
    },
}
"""By the kind of broker and who speaks with it."""


def create_app(broker_url: str, *, publisher: bool) -> Celery:
    """Opens no connection."""
    kind = "amqp" if broker_url.startswith("amqp") else "redis"
    app = Celery("usher", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_default_delivery_mode="transient",
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        task_time_limit=TASK_TIME_LIMIT_S,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=5000,
        worker_enable_remote_control=kind == "redis",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_connection_timeout=0.4 if publisher else 4,
        broker_heartbeat=10,
        broker_pool_limit=1 if publisher else 10,
        broker_transport_options=TRANSPORT_OPTIONS[kind, "publisher" if publisher else "worker"],
    )
    if broker_url.startswith("amqps"):
        # None is the host of the URL. Left to itself py-amqp takes any host's certificate for it.
        app.conf.broker_use_ssl = {"server_hostname": None, "cert_reqs": ssl.CERT_REQUIRED}
    return app


def add_tasks(app: Celery, build: Callable[[], tuple[Callable[[], None], Callable[[], None]]]) -> None:
    """Register the tasks of a worker. `build` makes what answers a doorbell, and what closes it, once per process."""
    held: list[tuple[Callable[[], None], Callable[[], None]]] = []

    def begin(**_: object) -> None:
        held[:] = [build()]

    def end(**_: object) -> None:
        for _answer, close in held:
            close()

    # Clients are built after the fork: a connection must not be shared with the parent.
    worker_process_init.connect(begin, weak=False)
    worker_process_shutdown.connect(end, weak=False)

    @app.task(name=WORK, ignore_result=True)
    def work() -> None:
        answer, _close = held[0]
        answer()


def ring(app: Celery) -> int:
    """Send one doorbell, unless the queue is full of them; returns how many waited unread before.

    Raises whatever the broker's client raises; each step waits at most some tenths of a second.
    """
    connection: Any  # celery's stubs take this pool for another
    with app.pool.acquire(block=True) as connection:
        try:
            # Every time: somebody may have deleted the queue, and then the broker drops what is sent to it.
            declared = connection.default_channel.queue_declare(queue=QUEUE, durable=True, auto_delete=False)
            unread = int(declared.message_count)
            if unread < ENOUGH_UNREAD:
                app.send_task(WORK, connection=connection, declare=(), retry=False, ignore_result=True)
        except BaseException:
            connection.collect()  # what is still on the wire answers nobody
            raise
    return unread
