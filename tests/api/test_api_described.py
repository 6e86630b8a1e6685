"""The API against its own description: schemathesis draws requests, right and wrong ones, and judges the answers."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from admin.api import OPERATIONS, Limiter, admin_api
from admin.api.description import describe_api
from integrations.store.database import Database
from integrations.store.jobs import Jobs
from integrations.store.requests import Decision, Requests
from integrations.store.tokens import Role, Tokens
from integrations.store.users import Users
from tests.house import ANN, RUNNERS, SITE, Clock, a_house, an_event
from tests.test_admin_api import TOKEN, an_office


class Stage:
    """The app that is played on: built for the first test of a process that needs it."""

    def __init__(self) -> None:
        self.app: Starlette | None = None
        self.token = ""
        self.ids: dict[str, str] = {}
        """Of one thing that is there, by its list."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


STAGE = Stage()


@pytest.fixture(autouse=True, scope="module")
def _stage(tmp_path_factory: pytest.TempPathFactory, empty_sqlite: Path) -> Iterator[None]:
    file = tmp_path_factory.mktemp("described") / "usher.db"
    shutil.copy(empty_sqlite, file)
    clock = Clock()
    database = Database(f"sqlite:///{file}", clock=clock)
    house = a_house(database, clock)
    house.hear(*(an_event(clock, id=f"e{number}") for number in range(3)))
    house.work()
    STAGE.token, _ = Tokens(database).create("played", Role.OWNER, sites=["*"], who="a test")
    _, token = Tokens(database).create("to-be-revoked", Role.READER, sites=["*"], who="a test")
    job, _ = Jobs(database).create(SITE, "groups_report", {}, who="a test", state="running")
    [letter, *_] = house.services.ledger.letters()
    STAGE.ids = {"events": "e1", "messages": letter.id, "tokens": token.id, "jobs": job.id, "people": ANN}
    [decision], _ = Requests(database).decide(SITE, [Decision("approve", RUNNERS, ANN, None)], who="a test")
    STAGE.ids["requests"] = decision.id
    STAGE.ids["letters"] = "welcome"
    new = {"role": Role.READER, "sites": [SITE], "groups": [], "who": "a test"}
    STAGE.ids["users"] = Users(database).create("anna@example.com", "anna", **new)[1].id
    STAGE.ids["automations"] = "1"
    STAGE.app = Starlette(
        routes=[admin_api(TOKEN, an_office(database), Limiter(requests=10**6, failures=10**6))]
    )
    yield
    database.close()


schema = schemathesis.openapi.from_dict(
    describe_api(OPERATIONS),
    config=SchemathesisConfig.from_dict(
        {
            "generation": {"allow-x00": False},  # no database keeps it, and 422 says so
            "operations": [
                {  # Words to look for, lists of people and names of letters mean more than a schema can tell.
                    "include-name": "POST /v1/jobs",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [202, 422]}},
                },
                {
                    "include-name": "POST /v1/automations",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 409, 422]}},
                },
                {
                    "include-name": "POST /v1/automations/edit",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 404, 409, 422]}},
                },
                {
                    "include-name": "POST /v1/automations/versions/{id}/roll-back",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 409]}},
                },
                {
                    "include-name": "POST /v1/requests/decide",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 404, 409, 422]}},
                },
                {
                    "include-name": "POST /v1/requests/back-test",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 404, 422]}},
                },
                {
                    "include-name": "POST /v1/letters/{id}/preview",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 404]}},
                },
                {
                    "include-name": "POST /v1/letters/{id}/test",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 404, 409, 422]}},
                },
                {
                    "include-name": "POST /v1/people/find",
                    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 422]}},
                },
            ],
        }
    ),
)
schema.app = STAGE
fresh = itertools.count()


@schema.parametrize()
@settings(max_examples=10, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_is_described(case: Any) -> None:
    if case.meta.generation.mode.is_positive:
        play_fair(case)
    case.call_and_validate(headers={"Authorization": f"Bearer {STAGE.token}"})


def play_fair(case: Any) -> None:
    """What a right request needs beside its form: a cursor of this list, and a key that no other request had."""
    if case.query and case.query.get("cursor"):
        case.query["cursor"] = ""
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"key-{next(fresh)}"
    if case.path_parameters:
        case.path_parameters["id"] = STAGE.ids[case.path.split("/")[2]]
    if isinstance(case.body, dict) and "confirm" in case.body:  # the id once more, so that nobody errs
        case.body["confirm"] = case.path_parameters["id"]
