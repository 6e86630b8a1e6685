"""The control API under /sandbox/ and /mail.json: what a test or a demo sets off, and what it can look up."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.acts import perform
from sandbox.community import Community, CommunityError, Json
from sandbox.house import Sandbox
from sandbox.loading import load_community
from sandbox.mail import REPLY
from sandbox.reading import InputError, Reader
from sandbox.sender import VARIANTS, envelope
from sandbox.switches import SwitchError, patched

MAX_COPIES = 1000
MAX_DELAY_S = 7 * 86400.0

Handler = Callable[[Sandbox, Request, Any], Any]


def put_community(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    sandbox.replace_community(load_community(body, now=lambda: datetime.now(UTC)))
    community = sandbox.community
    return {
        "groups": {group.name: group.id for group in community.groups.values()},
        "members": {member.nickname: member.id for member in community.members.values()},
    }


def post_act(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    """Ids of what the act touched, and of the events and deliveries it led to."""
    reader = Reader(body, "body")
    name, options = reader.text("act"), webhook_options(Reader(reader.mapping("webhook"), "webhook"))
    arguments = {key: value for key, value in body.items() if key not in {"act", "webhook"}}
    if name == "expire_tokens":
        expired = len(sandbox.tokens)
        sandbox.tokens.clear()
        return {"expired": expired}
    with sandbox.change(**options) as changed:
        made = perform(sandbox.community, name, arguments)
    events = [{"id": event.data.get("id", ""), "eventType": event.type} for event in changed.events]
    return {**made, "events": events, "deliveries": [delivery.number for delivery in changed.deliveries]}


def webhook_options(reader: Reader) -> Json:
    options: Json = {
        "copies": reader.count("copies", 1, MAX_COPIES) if reader.has("copies") else None,
        "delay_s": reader.number("delay_s", 0.0, MAX_DELAY_S),
        "hold": reader.flag("hold"),
        "silent": reader.flag("silent"),
    }
    reader.end()
    return options


def post_webhook(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    """Any event, given by hand, signed as Wix does or as an attacker would."""
    reader, site = Reader(body, "body"), sandbox.community.site
    event_type = reader.text("eventType")
    data = reader.value("data", (dict, list, str), "an object, or text to be sent as it is")
    instance_id = reader.text("instanceId", site.instance_id)
    variant = reader.choice("variant", VARIANTS, "")
    copies = reader.count("copies", 1, MAX_COPIES)
    delay_s, hold = reader.number("delay_s", 0.0, MAX_DELAY_S), reader.flag("hold")
    reader.end()
    domain_event = isinstance(data, dict) and "entityFqdn" in data
    text = envelope(event_type, data, instance_id, site.owner() if domain_event else None, site)
    event_id = str(data.get("id", "")) if isinstance(data, dict) else ""
    sent = sandbox.sender.send(
        sandbox.sender.sign(text, variant),
        event_type,
        event_id,
        copies=copies,
        delay_s=delay_s,
        hold=hold,
        variant=variant,
    )
    return {"event_id": event_id, "deliveries": [delivery.number for delivery in sent]}


def put_webhook_url(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    reader = Reader(body, "body")
    sandbox.sender.register(checked_url(reader.text("url")))
    reader.end()
    return {"url": sandbox.sender.url}


def checked_url(url: str) -> str:
    """A web address, or empty for none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if url and not good:
        raise InputError(f"url: {url!r} is not an http or https address")
    return url


def get_deliveries(sandbox: Sandbox, request: Request, _body: Any) -> Json:
    """Counts by state, and the deliveries in the order they were made. Filters: `event_id`, `state`."""
    rows = list(sandbox.sender.deliveries)
    states = ("held", "queued", "delivered", "given_up")
    counts = {state: sum(delivery.state == state for delivery in rows) for state in states}
    for name, field in (("event_id", "event_id"), ("state", "state")):
        if wanted := request.query_params.get(name):
            rows = [delivery for delivery in rows if getattr(delivery, field) == wanted]
    return {"counts": counts, "deliveries": [delivery.wire() for delivery in rows]}


def release_deliveries(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    reader = Reader(body, "body")
    numbers = reader.value("deliveries", list, "a list of numbers", None)
    reader.end()
    return {"released": sandbox.sender.release(None if numbers is None else set(numbers))}


def get_calls(sandbox: Sandbox, request: Request, _body: Any) -> Json:
    after = _number_after(request)
    calls = [call for call in sandbox.calls if call["n"] > after]
    return {"counts": dict(sandbox.call_counts), "calls": calls}


def delete_calls(sandbox: Sandbox, _request: Request, _body: Any) -> Json:
    sandbox.calls.clear()
    sandbox.call_counts.clear()
    return {}


def get_state(sandbox: Sandbox, _request: Request, _body: Any) -> Json:
    return state_of(sandbox.community)


def state_of(community: Community) -> Json:
    """The whole truth, private things included."""
    return {
        "site": asdict(community.site),
        "members": [member.wire() for member in community.members.values()],
        "contacts": [community.contact_v4(contact) for contact in community.contacts.values()],
        "subscriptions": [record.wire() for record in community.subscriptions.values()],
        "groups": [
            {
                **group.wire(),
                "members": [member.wire() for member in group.members.values()],
                "invited": sorted(group.invited),
                "join_requests": [request.wire() for request in group.requests.values()],
                "questions": [question.wire() for question in group.questions],
                "answers": group.answers,
                "rules": group.rules,
            }
            for group in community.groups.values()
        ],
        "deleted_groups": sorted(community.deleted_groups),
        "group_requests": [request.wire() for request in community.group_requests.values()],
    }


def get_settings(sandbox: Sandbox, _request: Request, _body: Any) -> Json:
    return dict(sandbox.settings())


def get_switches(sandbox: Sandbox, _request: Request, _body: Any) -> Json:
    return asdict(sandbox.switches)


def patch_switches(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    if not isinstance(body, dict):
        raise InputError("body: expected an object")
    sandbox.switches = patched(sandbox.switches, body)
    return asdict(sandbox.switches)


def patch_mail(sandbox: Sandbox, _request: Request, body: Any) -> Json:
    """Refusals by address, or `*`: an SMTP reply for RCPT; null takes one back."""
    reader = Reader(body, "body")
    refuse = reader.mapping("refuse")
    reader.end()
    for address, reply in refuse.items():
        if reply is not None and not (isinstance(reply, str) and REPLY.fullmatch(reply)):
            raise InputError(
                f"refuse: {address!r} needs an SMTP reply like '550 5.1.1 no such user', or null"
            )
    for address, reply in refuse.items():
        sandbox.mail.refusals.pop(address.lower(), None)
        if reply is not None:
            sandbox.mail.refusals[address.lower()] = reply
    return {"refuse": sandbox.mail.refusals}


def get_mail(sandbox: Sandbox, request: Request, _body: Any) -> Any:
    """Letters in the order they came, after number `after`, to the address `to`."""
    after = _number_after(request)
    to = request.query_params.get("to", "").lower()
    return [
        letter.wire()
        for letter in sandbox.mail.letters.values()
        if letter.number > after and (not to or to in map(str.lower, letter.rcpt_to))
    ]


def _number_after(request: Request) -> int:
    after = request.query_params.get("after", "0")
    if not after.isdigit():
        raise InputError("after: expected a number")
    return int(after)


def delete_mail(sandbox: Sandbox, _request: Request, _body: Any) -> Json:
    deleted = len(sandbox.mail.letters)
    sandbox.mail.letters.clear()
    return {"deleted": deleted}


CONTROL: tuple[tuple[str, str, Handler], ...] = (
    ("PUT", "/sandbox/community", put_community),
    ("POST", "/sandbox/acts", post_act),
    ("POST", "/sandbox/webhooks", post_webhook),
    ("PUT", "/sandbox/webhook-url", put_webhook_url),
    ("GET", "/sandbox/deliveries", get_deliveries),
    ("POST", "/sandbox/deliveries/release", release_deliveries),
    ("GET", "/sandbox/calls", get_calls),
    ("DELETE", "/sandbox/calls", delete_calls),
    ("GET", "/sandbox/state", get_state),
    ("GET", "/sandbox/settings", get_settings),
    ("GET", "/sandbox/switches", get_switches),
    ("PATCH", "/sandbox/switches", patch_switches),
    ("PATCH", "/sandbox/mail", patch_mail),
    ("GET", "/mail.json", get_mail),
    ("DELETE", "/mail.json", delete_mail),
)


def control_routes(sandbox: Sandbox) -> list[Route]:
    routes = [Route(path, _asgi(sandbox, handler), methods=[method]) for method, path, handler in CONTROL]
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [*routes, Route("/sandbox/{path:path}", _unknown, methods=every)]


def _asgi(sandbox: Sandbox, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        raw = await request.body()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError as exc:
            return JSONResponse({"error": f"body: not JSON: {exc}"}, 400)
        try:
            return JSONResponse(handler(sandbox, request, body))
        except (InputError, SwitchError, CommunityError) as exc:
            return JSONResponse({"error": str(exc)}, 400)

    return answer


async def _unknown(request: Request) -> Response:
    known = ", ".join(f"{method} {path}" for method, path, _ in CONTROL)
    return JSONResponse({"error": f"no {request.method} {request.url.path}; there are {known}"}, 404)
