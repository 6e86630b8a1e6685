"""Letters over the API: which there are, how one reads, and a test of it. Whom one goes to is a job's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.responses import Response

from admin.api.operations import Call, Operation, answer, of
from admin.api.shapes import Answer, Body, Id, List
from admin.office import ALL, DECIDERS, Office, write
from core.community import Site
from core.consent import Purpose

Values = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=100)], Annotated[str, StringConstraints(max_length=2000)]
    ],
    Field(max_length=50),
]


class Letter(Answer):
    """`subject` as of a letter to somebody unknown; `values` are the names of its own places."""

    name: str
    languages: list[str]
    subject: str
    values: list[str]


class Draft(Body):
    """`group` is a name as it shall stand in the letter; `language` that of a reader, the site's when left out."""

    site: Id
    purpose: Annotated[Purpose, Field(strict=False)]
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{0,35}$")] = ""
    values: Values = {}  # noqa: RUF012 (pydantic copies it)
    group: Annotated[str, StringConstraints(max_length=100)] = ""

    def of(self, letter: str, site: Site) -> write.Draft:
        return write.Draft(letter, self.purpose, site, self.language, self.values, self.group)


class Trial(Draft):
    to: Annotated[str, StringConstraints(max_length=320)]


class Drawn(Answer):
    """`preheader` is what an inbox shows after the subject."""

    language: str
    subject: str
    preheader: str
    text: str
    html: str


class Tested(Answer):
    """What the mail server said."""

    answer: str


def list_letters(office: Office, _call: Call) -> Response:
    found = [
        {
            "name": one.name,
            "languages": list(one.languages),
            "subject": one.subject,
            "values": list(one.values),
        }
        for one in write.letters(office)
    ]
    return answer({"items": found, "next": None})


def preview_letter(office: Office, call: Call) -> Response:
    drawn = write.draw(office, _draft(office, call))
    found: dict[str, Any] = {
        "language": drawn.language,
        "subject": drawn.subject,
        "preheader": drawn.preheader,
        "text": drawn.text,
        "html": drawn.html,
    }
    return answer(found)


def try_letter(office: Office, call: Call) -> Response:
    return answer({"answer": write.send_test(office, call.holder, _draft(office, call), call.body.to)})


def _draft(office: Office, call: Call) -> write.Draft:
    draft: write.Draft = call.body.of(call.id, write.own_site(office, call.holder, call.body.site))
    return draft


LETTERS: tuple[Operation, ...] = (
    Operation("GET", "/v1/letters", list_letters, ALL, "Letters that can be sent, by name", of(List[Letter])),
    Operation(
        "POST",
        "/v1/letters/{id}/preview",
        preview_letter,
        DECIDERS,
        "How a letter reads; the id is its name",
        of(Drawn),
        body=of(Draft),
    ),
    Operation(
        "POST",
        "/v1/letters/{id}/test",
        try_letter,
        DECIDERS,
        "Send a letter to one address, marked as a test",
        of(Tested),
        body=of(Trial),
        also=(409,),
    ),
)
