"""Chromium before a real Usher: web, worker, beat, Valkey and the sandbox, lively, one of them for each module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest
from playwright.sync_api import Browser, StorageState
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from admin.demo.stage import Stage, set_up
from tests.browser import window
from tests.browser.community import furnish
from tests.browser.window import Window

Open = Callable[..., AbstractContextManager[Window]]


def pytest_sessionstart() -> None:
    if window.CHROMIUM is None:
        pytest.exit("There is no chromium on the path; on Debian: apt-get install chromium", returncode=2)


class Stories(LoadScopeScheduling):
    """A module's stories are told on one stage, by one process; the walks over all pages each on one of their own."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return nodeid if module.endswith("test_every_page.py") else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Stories:
    return Stories(config, log)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with window.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Of this module alone, so that no story finds what another one left."""
    with set_up() as found:
        furnish(found)
        yield found


@pytest.fixture(scope="module")
def owner(stage: Stage, browser: Browser) -> StorageState:
    """The cookies of whoever holds ADMIN_TOKEN."""
    return window.log_in(stage, browser)


@pytest.fixture
def log_in_as(stage: Stage, browser: Browser) -> Callable[..., StorageState]:
    """`log_in_as("group_admin", "Trail Runners")`: the cookies of somebody of this role, for open_window."""
    return partial(window.log_in_as, stage, browser)


@pytest.fixture
def open_window(stage: Stage, browser: Browser) -> Open:
    """`with open_window(kind, cookies) as window:`, see window.open_window."""
    return partial(window.open_window, stage, browser)


@pytest.fixture
def console(open_window: Open, owner: StorageState) -> Iterator[Window]:
    """The owner at a desk."""
    with open_window("desktop", owner) as window:
        yield window


@pytest.fixture
def dark(open_window: Open, owner: StorageState) -> Iterator[Window]:
    with open_window("dark", owner) as window:
        yield window


@pytest.fixture
def phone(open_window: Open, owner: StorageState) -> Iterator[Window]:
    with open_window("phone", owner) as window:
        yield window


@pytest.fixture
def hebrew(open_window: Open, owner: StorageState) -> Iterator[Window]:
    with open_window("hebrew", owner) as window:
        yield window


@pytest.fixture
def plain(open_window: Open, owner: StorageState) -> Iterator[Window]:
    """Without script."""
    with open_window("plain", owner) as window:
        yield window


@pytest.fixture
def frame(open_window: Open) -> Iterator[Window]:
    """A manager in Wix's dashboard."""
    with open_window("frame") as window:
        yield window
