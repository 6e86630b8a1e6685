"""Wix, answering at once, as a process of its own: `python -m benchmarks.wix PORT`.

Everybody it is asked about exists, is in the group (or asks to be let in, when the id starts with "asks"), subscribed,
and has an address. A group `people-<first>-<number>` has the members `member-<first>` and so many after it. It keeps no
state but the number of calls (`GET /calls`), so that the client is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, cast
from urllib.parse import parse_qs

import httptools
import uvloop

from benchmarks.tools import GROUP, SITE

_PEOPLE = re.compile(r"people-(\d+)-(\d+)")
_QUESTIONS = {
    "q1": {"id": "q1", "text": "What do you like to do?"},
    "q2": {"id": "q2", "text": "Anything else?"},
}
_ANSWERS = [
    {"id": "q1", "text": "Trail running, cooking and long walks by the sea"},
    {"id": "q2", "text": "I travel in June"},
]


def answer(path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
    if path.endswith("/oauth2/token"):
        return {"access_token": "a-token", "expires_in": 14400}
    if path.endswith("/apps/v1/instance"):
        site = {"siteDisplayName": "Seaside Community", "url": "https://seaside.example.com", "locale": "en"}
        return {"instance": {"instanceId": SITE}, "site": site}
    if found := re.search(r"/members/v2/members/([^/]+)/memberships", path):
        status = "PENDING" if found[1].startswith("asks") else "JOINED"
        return _list("memberships", [{"groupId": GROUP, "status": status, "role": {"value": "MEMBER"}}])
    if path.endswith("/answers"):
        rows = [{"memberId": member, "answers": _ANSWERS} for member in body["memberIds"]]
        return {**_list("memberAnswers", rows), "questions": _QUESTIONS}
    if path.endswith("/members/v1/members/query"):
        return _list("members", [_member(member) for member in body["query"]["filter"]["id"]["$in"]])
    if path.endswith("/email-subscriptions/query"):
        said = {"subscriptionStatus": "SUBSCRIBED", "deliverabilityStatus": "VALID"}
        return _list("subscriptions", [{"email": email, **said} for email in body["filter"]["email"]["$in"]])
    if found := _PEOPLE.search(path):
        first, number = int(found[1]), int(found[2])
        if not path.endswith("/members"):
            group = {"id": found[0], "name": "Trail Runners", "membersCount": number}
            return {"group": {**group, "privacyStatus": "PRIVATE"}}
        offset, limit = (int(query[name][0]) for name in ("offset", "limit"))
        page = range(first + offset, first + min(offset + limit, number))
        joined = {"role": {"value": "MEMBER"}, "joinedDate": "2026-01-01T00:00:00Z"}
        rows = [{"memberId": f"member-{of_all}", **joined} for of_all in page]
        return {"members": rows, "metadata": {"count": len(rows), "offset": offset, "total": number}}
    if "/groups/v2/groups/" in path:
        return {"group": {"id": GROUP, "name": "Trail Runners", "privacyStatus": "PRIVATE"}}
    raise ValueError(f"nobody asks for {path}")


def _list(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: rows, "metadata": {"count": len(rows), "offset": 0, "total": len(rows)}}


def _member(member: str) -> dict[str, Any]:
    return {
        "id": member,
        "loginEmail": f"{member}@example.com",
        "status": "APPROVED",
        "contact": {"firstName": "Ana", "lastName": "Lindqvist", "emails": [f"{member}@example.com"]},
        "profile": {"nickname": "Ana Lindqvist", "slug": member},
        "privacyStatus": "PUBLIC",
    }


class _Server(asyncio.Protocol):
    calls = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode().partition("?")
        if path == "/calls":
            said: dict[str, Any] = {"calls": _Server.calls}
        else:
            _Server.calls += 1
            said = answer(path, parse_qs(query), json.loads(self._body) if self._body else None)
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._url, self._body = b"", b""


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
