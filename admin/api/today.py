"""Today over the API: the same figures and findings as the console's first page."""

from __future__ import annotations

from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime
from starlette.responses import Response

from admin.api.operations import Call, Operation, answer, of
from admin.api.shapes import Answer, Filter, Query
from admin.console.words import Words
from admin.office import ALL, Office
from admin.office.refusals import wrong_fields
from admin.office.today import KINDS, days, look
from core.community import SiteId
from core.errors import NotThereError
from core.health import examine
from integrations.store.tokens import Holder


class TodayQuery(Query):
    site: Filter = ""
    """Empty: the only one there is."""


class Pair(Answer):
    """Since midnight of the site's clock, and in the last 24 hours."""

    today: int
    day: int


class Came(Answer):
    joined: Pair
    asked: Pair
    left: Pair


class Refusal(Answer):
    state: Literal["skipped", "failed"]
    reason: str
    letters: int


class Waits(Answer):
    """For a person. `requests` are join requests, `flagged` those of them that a rule left to a person."""

    requests: int
    flagged: int
    in_doubt: int
    dead_events: int
    previewed_jobs: int


class HealthFinding(Answer):
    name: str
    severity: Literal["bad", "warning"]
    says: str
    do: str
    since: AwareDatetime | None = None


class Day(Answer):
    """`joined` and `asked` are not there for a group's admin."""

    day: str
    joined: int | None = None
    asked: int | None = None
    sent: int


class TodayAnswer(Answer):
    site: str
    at: AwareDatetime
    midnight: AwareDatetime
    came: Came
    sent: Pair
    waiting: int
    deferred: int
    refused: list[Refusal]
    refused_letters: int
    waits: Waits
    running_jobs: int
    told_at: AwareDatetime | None = None
    compared_at: AwareDatetime | None = None
    findings: list[HealthFinding]
    days: list[Day]


def show_today(office: Office, call: Call) -> Response:
    site = _site(office, call.holder, call.query.site)
    today, weeks = look(office, call.holder, site), days(office, call.holder, site)
    words = Words("en", ZoneInfo(office.automations().policy_of(site).time_zone), today.at)
    found: dict[str, Any] = {
        "site": site,
        "at": _spelt(today.at),
        "midnight": _spelt(today.midnight),
        "came": {kind: _pair(today.came[kind]) for kind in KINDS},
        "sent": _pair(today.sent),
        "waiting": today.waiting,
        "deferred": today.put_off,
        "refused": [
            {"state": one.state, "reason": one.reason, "letters": one.number} for one in today.refused
        ],
        "refused_letters": today.refused_letters,
        "waits": {
            "requests": today.requests,
            "flagged": today.flagged,
            "in_doubt": today.doubts,
            "dead_events": today.dead,
            "previewed_jobs": len(today.to_confirm),
        },
        "running_jobs": len(today.under_way),
        "told_at": _spelt(today.told_at),
        "compared_at": _spelt(today.compared_at),
        "findings": [
            _without_none(
                name=one.name, severity=one.severity, says=one.says, do=one.do, since=_spelt(one.since)
            )
            for one in examine(today.facts, words)
        ],
        "days": [
            _without_none(
                day=day.isoformat(),
                joined=weeks.joined[place] if weeks.joined else None,
                asked=weeks.asked[place] if weeks.asked else None,
                sent=weeks.sent[place],
            )
            for place, day in enumerate(weeks.days)
        ],
    }
    return answer(_without_none(**found))


def _site(office: Office, holder: Holder, asked: str) -> SiteId:
    if asked:
        if not office.sites.known([SiteId(asked)]):
            raise NotThereError("there is no such site")
        return SiteId(asked)
    mine = [
        site for site in office.sites.active() if holder.reach.sites is None or site in holder.reach.sites
    ]
    if len(mine) != 1:
        raise wrong_fields("the query", ("site", "has to name a site: there is not just one"))
    return mine[0]


def _pair(pair: Any) -> dict[str, int]:
    return {"today": pair.today, "day": pair.day}


def _spelt(at: Any) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


def _without_none(**found: Any) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


TODAY: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/today",
        show_today,
        ALL,
        "What came in, went out, was refused and waits, whether anything is wrong, and the last weeks by day",
        of(TodayAnswer),
        query=TodayQuery,
        also=(404,),
    ),
)
