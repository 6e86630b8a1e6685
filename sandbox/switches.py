"""How this stand-in behaves where Wix is undocumented, misbehaves or changed over the years."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.reading import GUID

CHOICES: dict[str, frozenset[Any]] = {
    "refuse_app_tokens": frozenset(
        {"questions", "answers", "rules", "group_requests", "memberships", "contacts_v5"}
    ),
    "member_id_key": frozenset({"memberId", "siteMemberId"}),
    "event_bodies": frozenset({"object", "json"}),
    "subscriptions_key": frozenset({"subscriptions", "email_subscriptions"}),
    "group_request_shape": frozenset({"array", "object"}),
    "unsupported_filter": frozenset({"reject", "ignore"}),
    "totals": frozenset({"documented", "always", "never"}),
    "failure_statuses": frozenset(range(400, 600)),
    "broken_answers": frozenset({"html", "truncated", "wrong_shape", "hang", "reset"}),
}


class SwitchError(ValueError):
    """A switch that does not exist, or a value it cannot take."""


@dataclass(frozen=True)
class Switches:
    # What the API answers.
    refuse_app_tokens: tuple[str, ...] = ()  # services that answer 403 to app tokens
    subscriptions_key: str = "subscriptions"
    group_request_shape: str = "array"  # of approve and reject group requests
    unsupported_filter: str = "reject"  # also sort fields
    totals: str = "documented"  # everywhere but in lists of join requests
    too_many_to_count: bool = False
    deleted_groups_stay: bool = False  # get, list and query still return deleted groups
    token_lifetime_s: float = 14400.0
    # How it answers.
    rate_limit_per_minute: int = 200  # of each identity; 0: no limit
    retry_after: bool = True  # the header on a 429
    failure_rate: float = 0.0  # share of calls that fail, 0 to 1; how: drawn from the two below
    failure_statuses: tuple[int, ...] = (500, 503, 504)
    broken_answers: tuple[str, ...] = ()  # answers that no client can read, or none at all
    failing_groups: Mapping[str, int] = field(default_factory=dict)  # by id: the status of calls about it
    failures_after_effect: bool = False  # the call takes effect, only its answer is lost
    latency_s: float = 0.0
    consistency_delay_s: float = 0.0  # how far query and search lag behind
    outage: bool = False  # every call answers 503
    # What is reported by webhook, and how.
    self_service_events: bool = False  # the unpublished member_joined, member_left, request_cancelled
    member_id_key: str = "memberId"
    event_bodies: str = "object"  # or "json": entityAsJson, currentEntityAsJson, bodyAsJson
    webhook_copies: int = 1  # deliveries of each event
    webhook_jitter_s: float = 0.0  # each delivery waits up to this long: they overtake each other
    webhook_timeout_s: float = 1.25
    retry_scale: float = 1.0  # times Wix's retry schedule


def patched(switches: Switches, changes: dict[str, Any]) -> Switches:
    """The switches after `changes`; `SwitchError` names every unknown name or else the first bad value."""
    names = {field.name for field in dataclasses.fields(Switches)}
    if unknown := sorted(set(changes) - names):
        raise SwitchError(f"unknown switch: {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    return dataclasses.replace(switches, **{name: _read(name, value) for name, value in changes.items()})


def _read(name: str, value: Any) -> Any:
    if name == "failing_groups":
        return _statuses_by_group(value)
    default = getattr(Switches, name)
    match default:
        case bool():
            if isinstance(value, bool):
                return value
            raise SwitchError(f"{name}: expected true or false")
        case int() | float():
            upper = 1 if name == "failure_rate" else 1e9
            kinds = int if isinstance(default, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= upper:
                kind = "whole number" if kinds is int else "number"
                raise SwitchError(f"{name}: expected a {kind} from 0 to {upper:g}")
            return type(default)(value)
        case str():
            if isinstance(value, str) and value in CHOICES[name]:
                return value
            raise SwitchError(f"{name}: expected one of {', '.join(sorted(CHOICES[name]))}")
    if isinstance(value, list) and all(isinstance(v, str | int) and v in CHOICES[name] for v in value):
        return tuple(value)
    known = "statuses from 400 to 599" if name == "failure_statuses" else ", ".join(sorted(CHOICES[name]))
    raise SwitchError(f"{name}: expected a list of {known}")


def _statuses_by_group(value: Any) -> dict[str, int]:
    statuses = CHOICES["failure_statuses"]
    if isinstance(value, dict) and all(
        GUID.fullmatch(id_) and type(status) is int and status in statuses for id_, status in value.items()
    ):
        return {id_.lower(): status for id_, status in value.items()}
    raise SwitchError("failing_groups: expected an object of group ids, each with a status from 400 to 599")
