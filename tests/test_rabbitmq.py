"""RabbitMQ as the broker: the same service, and the same faults. Run when TEST_AMQP_URL names one."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from kombu.exceptions import OperationalError

from admin.demo.stage import Stage, set_up
from tasks.app import ENOUGH_UNREAD, QUEUE, create_app, ring
from tasks.doorbell import Doorbell
from tests.rabbit_node import RabbitNode, a_rabbit, server_binary
from tests.test_processes import is_at_rest, join, letters_to, sign_up, the_child
from tests.test_supervisor import pid_of, until

NO_SERVER = "no RabbitMQ here: TEST_AMQP_URL is not set"
pytestmark = [pytest.mark.amqp, pytest.mark.skipif(not os.environ.get("TEST_AMQP_URL"), reason=NO_SERVER)]


@contextlib.contextmanager
def stage_on(broker_url: str) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKER_URL", broker_url)
        with set_up() as found:
            yield found


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    """A node that may be killed."""
    if server_binary() is None:
        pytest.skip("no rabbitmq-server is installed that could be killed")
    with a_rabbit() as found:
        yield found


@pytest.fixture(scope="module")
def stage(node: RabbitNode) -> Iterator[Stage]:
    with stage_on(node.url) as found:
        yield found


def somebody_joins(stage: Stage) -> str:
    address = f"{uuid.uuid4().hex}@people.example.org"
    sign_up(stage, address, "Somebody")
    join(stage, address)
    return address


def test_an_event_is_worked_off_with_rabbitmq_as_the_broker() -> None:
    """Without beat, and sooner than a worker that hears nothing would look by itself: the message woke it."""
    with stage_on(os.environ["TEST_AMQP_URL"]) as stage:
        worker = stage.folder / "worker.log"
        until(lambda: "ready." in worker.read_text(), "the worker to listen")
        beat = the_child(stage, "beat")
        stage.household.children.remove(beat)
        beat.ask_to_end()
        beat.end_by(time.monotonic() + 20)

        address = somebody_joins(stage)

        until(lambda: letters_to(stage, address), "the letter", 15)
        until(lambda: is_at_rest(stage), "everything to come to rest", 60)
        assert len(letters_to(stage, address)) == 1
        assert "Connected to amqp" in worker.read_text()
        assert "watch.helps" not in worker.read_text()


@contextlib.contextmanager
def killed(node: RabbitNode) -> Iterator[None]:
    node.signal(signal.SIGKILL)
    yield
    node.start()


@contextlib.contextmanager
def silent(node: RabbitNode) -> Iterator[None]:
    node.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.signal(signal.SIGCONT)


@contextlib.contextmanager
def out_of_memory(node: RabbitNode) -> Iterator[None]:
    """It takes connections and no messages."""
    node.control("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        node.control("set_vm_memory_high_watermark", "0.4")


@pytest.mark.parametrize("trouble", [killed, silent, out_of_memory])
def test_work_goes_on_while_rabbitmq_does_not_and_workers_find_it_again(
    node: RabbitNode, stage: Stage, trouble: Callable[[RabbitNode], AbstractContextManager[None]]
) -> None:
    worker, log = the_child(stage, "worker"), stage.folder / "worker.log"
    until(lambda: readers(node) == 1, "the worker to listen", 60)
    before, lost_before = pid_of(worker), log.read_text().count("Connection to broker lost")
    app = create_app(node.url, publisher=True)
    doorbell = Doorbell(functools.partial(ring, app))
    until(lambda: doorbell.ring_and_hear() is not None, "the broker to take a ring")
    with trouble(node):
        until(lambda: doorbell.ring_and_hear() is None, "the trouble to begin")
        for _ in range(2):
            with pytest.raises((OSError, OperationalError)):
                ring(app)  # nor does it seem to be taken by a new connection
        meanwhile = somebody_joins(stage)
        until(lambda: letters_to(stage, meanwhile), "the letter without RabbitMQ", 20)
        if trouble is not out_of_memory:
            until(lambda: log.read_text().count("Connection to broker lost") > lost_before, "the loss", 60)

    until(lambda: doorbell.ring_and_hear() is not None, "the broker to take a ring again", 60)
    doorbell.close()
    until(lambda: readers(node) == 1, "the worker to read again", 60)
    afterwards = somebody_joins(stage)
    until(lambda: letters_to(stage, afterwards), "the letter with RabbitMQ", 20)
    until(lambda: is_at_rest(stage), "everything to come to rest", 60)
    assert [len(letters_to(stage, one)) for one in (meanwhile, afterwards)] == [1, 1]
    assert pid_of(worker) == before, "nobody had to start it again"


def readers(node: RabbitNode) -> int:
    rows = node.control("--quiet", "--no-table-headers", "list_queues", "name", "consumers").split()
    return int(rows[rows.index(QUEUE) + 1]) if QUEUE in rows else 0


def test_a_queue_that_was_deleted_is_made_anew(node: RabbitNode, stage: Stage) -> None:
    until(lambda: readers(node) == 1, "the worker to listen", 60)
    node.control("delete_queue", QUEUE)
    until(lambda: readers(node) == 1, "the worker to listen again", 60)
    address = somebody_joins(stage)
    until(lambda: letters_to(stage, address), "the letter", 20)


def test_a_queue_that_nobody_reads_is_not_filled(node: RabbitNode) -> None:
    node.control("add_vhost", "quiet")
    node.control("set_permissions", "--vhost", "quiet", "guest", ".*", ".*", ".*")
    app = create_app(node.url.removesuffix("//") + "/quiet", publisher=True)

    unread = [ring(app) for _ in range(ENOUGH_UNREAD + 20)]

    assert unread == [*range(ENOUGH_UNREAD), *[ENOUGH_UNREAD] * 20]
