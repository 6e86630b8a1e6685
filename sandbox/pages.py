"""Pages for people: what is going on in the community, and the letters. No script, nothing from elsewhere."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandbox.house import Sandbox
from sandbox.mail import Letter

Page = Callable[[Request], Awaitable[Response]]
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; base-uri 'none'"
)
LETTER_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
SHOWN_MEMBERS, SHOWN_DELIVERIES, SHOWN_LETTERS = 200, 15, 200

HERE = Path(__file__).with_name("templates")
ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TONES = {"delivered": "good", "given_up": "bad", "queued": "wait", "held": "wait"}
CONSENT_TONES = {
    "SUBSCRIBED": "good",
    "UNSUBSCRIBED": "bad",
    "PENDING": "wait",
    "BOUNCED": "bad",
    "SPAM_COMPLAINT": "bad",
    "INACTIVE": "wait",
}


def page_routes(sandbox: Sandbox) -> list[Route]:
    def render(template: str, **values: object) -> Response:
        html = ENVIRONMENT.get_template(f"{template}.html").render(
            {"refresh": 0, "letters_count": len(sandbox.mail.letters), **values}
        )
        return HTMLResponse(html, headers={"content-security-policy": PAGE_POLICY})

    def letter_of(request: Request) -> Letter:
        letter = sandbox.mail.letters.get(request.path_params["number"])
        if letter is None:
            raise HTTPException(404, "No such letter")
        return letter

    async def overview(_request: Request) -> Response:
        community = sandbox.community
        groups = [
            (group, sum(request.status == "PENDING" for request in group.requests.values()))
            for group in community.groups.values()
        ]
        return render(
            "overview",
            title=community.site.name,
            site=community.site,
            groups=groups,
            members=_member_rows(sandbox),
            member_count=len(community.members),
            deliveries=list(sandbox.sender.deliveries)[: -SHOWN_DELIVERIES - 1 : -1],
            delivery_count=len(sandbox.sender.deliveries),
            call_count=sum(sandbox.call_counts.values()),
            letters=list(sandbox.mail.letters.values())[: -SHOWN_DELIVERIES - 1 : -1],
            webhook_url=sandbox.sender.url,
            smtp_url=sandbox.smtp_url,
            outage=sandbox.switches.outage,
            tones=TONES,
            examples=_examples(sandbox),
        )

    async def no_icon(_request: Request) -> Response:
        return Response(status_code=204)

    async def letters(_request: Request) -> Response:
        newest = list(sandbox.mail.letters.values())[: -SHOWN_LETTERS - 1 : -1]
        return render("letters", title="Letters", refresh=3, letters=newest, smtp_url=sandbox.smtp_url)

    async def letter(request: Request) -> Response:
        one = letter_of(request)
        kinds = [kind for kind in ("html", "text") if getattr(one, kind)] + ["source"]
        asked = request.query_params.get("as", "")
        shown = asked if asked in kinds else kinds[0]
        content = _source(one) if shown == "source" else one.text
        title = one.subject or "Letter"
        return render("letter", title=title, letter=one, kinds=kinds, shown=shown, content=content)

    async def part(request: Request) -> Response:
        one = letter_of(request)
        match request.path_params["kind"]:
            case "html":
                return HTMLResponse(one.html, headers={"content-security-policy": LETTER_POLICY})
            case "text":
                return PlainTextResponse(one.text, headers={"content-security-policy": LETTER_POLICY})
            case "source":
                return PlainTextResponse(_source(one), headers={"content-security-policy": LETTER_POLICY})
        raise HTTPException(404, "A letter has html, text and source")

    async def unsubscribe(request: Request) -> Response:
        """Wix's page behind an unsubscribe link: looking changes nothing, the button does."""
        email = sandbox.unsubscribe_tokens.get(request.query_params.get("unsubscribeToken", ""))
        if email is None:
            raise HTTPException(404, "This link is not valid")
        done = request.method == "POST"
        if done:
            with sandbox.change():
                sandbox.community.set_subscription(email, "UNSUBSCRIBED")
        title = "Unsubscribed" if done else "Unsubscribe"
        return render("unsubscribe", title=title, done=done, email=email, site=sandbox.community.site)

    return [
        Route("/", overview, methods=["GET"]),
        Route("/favicon.ico", no_icon, methods=["GET"]),
        Route("/mail/", letters, methods=["GET"]),
        Route("/mail", letters, methods=["GET"]),
        Route("/mail/{number:int}", letter, methods=["GET"]),
        Route("/mail/{number:int}/{kind}", part, methods=["GET"]),
        Route("/my-account/contacts/unsubscribe", unsubscribe, methods=["GET", "POST"]),
    ]


def _member_rows(sandbox: Sandbox) -> list[dict[str, object]]:
    community = sandbox.community
    groups_of: dict[str, list[str]] = {}
    for group in community.groups.values():
        for member_id in group.members:
            groups_of.setdefault(member_id, []).append(group.name)
    rows: list[dict[str, object]] = []
    for member in list(community.members.values())[:SHOWN_MEMBERS]:
        record = community.subscription_of(member.email)
        states = [record.status, record.deliverability] if record else []
        words = [state for state in states if state not in {"NOT_SET", "VALID"}]
        never = [] if not member.email else ["never asked" if record is None else "not set"]
        rows.append(
            {
                "nickname": member.nickname,
                "email": member.email,
                "status": member.status,
                "privacy": member.privacy,
                "groups": groups_of.get(member.id, []),
                "consent": [
                    (word.lower().replace("_", " "), CONSENT_TONES.get(word, "soft"))
                    for word in words or never
                ],
            }
        )
    return rows


def _examples(sandbox: Sandbox) -> list[tuple[str, str]]:
    """A curl line for each of the usual acts, with people and groups that are there."""
    community = sandbox.community
    outsider = {
        group.id: next((m for m in community.members.values() if m.email and m.id not in group.members), None)
        for group in community.groups.values()
    }

    def first(privacy: str) -> tuple[str, str] | None:
        for group in community.groups.values():
            member = outsider[group.id]
            if group.privacy == privacy and member:
                return group.name, member.email
        return None

    acts: list[dict[str, object]] = []
    if found := first("PUBLIC"):
        acts += [
            {"act": act, "group": found[0], "member": found[1]} for act in ("add_member", "remove_member")
        ]
        acts.append({"act": "self_join", "group": found[0], "member": found[1]})
    if found := first("PRIVATE"):
        group = next(g for g in community.groups.values() if g.name == found[0])
        answers = {question.text: "I would love to" for question in group.questions}
        acts.append({"act": "request_join", "group": found[0], "member": found[1], "answers": answers})
        acts += [{"act": act, "group": found[0], "member": found[1]} for act in ("approve", "reject")]
        acts[-1]["reason"] = "The group is full."
        acts.append({"act": "assign_role", "group": found[0], "member": found[1]})
        acts.append({"act": "set_subscription", "email": found[1], "status": "UNSUBSCRIBED"})
        acts.append({"act": "erase_member", "member": found[1]})
    acts.append({"act": "remove_app"})
    curl = f"curl -s {sandbox.url}/sandbox/acts -d "
    return [
        (str(act["act"]), curl + "'" + json.dumps(act, ensure_ascii=False).replace("'", "'\\''") + "'")
        for act in acts
    ]


def _source(letter: Letter) -> str:
    return letter.raw.decode("utf-8", "replace")
