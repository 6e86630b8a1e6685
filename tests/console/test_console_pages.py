"""What every page of the console has from its frame: who may see it, forms, errors in words, notes, static files."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from starlette.responses import Response

from admin.console import page as page_module
from admin.console.page import Page, Visit, static
from admin.console.words import Words, choose_language
from admin.office import MANAGERS
from admin.office.directory import FAILED_S, FRESH_S, Names
from admin.office.refusals import wrong_fields
from core.errors import (
    ForbiddenError,
    JournalUnavailableError,
    NotThereError,
    RetryableError,
    WrongStateError,
)
from integrations.store.database import Database
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.tokens import Role
from tests.console.visiting import a_visitor, text_of
from tests.house import ANN, RUNNERS, SITE, Clock, a_house

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Nothing here asks the database anything of its own."""


def hello(visit: Visit) -> Response:
    return visit.page(
        "trouble.html", status=200, heading="Hello", sentence=visit.query.get("say", "<b>hi</b>"), errors=[]
    )


def act(visit: Visit) -> Response:
    if visit.form.get("wrong"):
        raise {
            "field": wrong_fields("the form", ("name", "is too long")),
            "gone": NotThereError("There is no such letter."),
            "late": WrongStateError("It is sent already."),
            "wix": RetryableError("HTTP 503 from wix.example"),
            "forbidden": ForbiddenError("HTTP 403"),
            "database": JournalUnavailableError("locked"),
        }[visit.form.get("wrong")]
    return visit.to("/hello", said=f"Saved {visit.form.get('name')} & more.", mood="good")


def failing(*_: object) -> None:
    raise RetryableError("HTTP 503")


HELLO = Page("GET", "/hello", hello)
ACT = Page("POST", "/act", act)
SECRET = Page("GET", "/secret", hello, roles=MANAGERS)


@on_sqlite
def test_a_page_escapes_what_it_shows(database: Database, clock: Clock):
    answer = a_visitor(a_house(database, clock), HELLO).get("/hello")
    assert answer.status_code == 200
    assert "&lt;b&gt;hi" in answer.text
    assert "<b>hi" not in answer.text


@on_sqlite
def test_no_page_holds_script_or_style_of_its_own(database: Database, clock: Clock):
    text = a_visitor(a_house(database, clock), HELLO).get("/hello").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\bsrc=)", text)


@on_sqlite
def test_a_form_without_its_token_changes_nothing(database: Database, clock: Clock):
    visitor = a_visitor(a_house(database, clock), HELLO, ACT)
    for token in ("", "another's", "what a form show"):
        answer = visitor.ask("POST", "/act", data={"csrf": token, "name": "x"})
        assert answer.status_code == 403, token
    assert visitor.post("/act", {"name": "x"}).status_code == 303


@on_sqlite
def test_what_was_said_is_on_the_next_page_once(database: Database, clock: Clock):
    visitor = a_visitor(a_house(database, clock), HELLO, ACT)
    shown = visitor.follow(visitor.post("/act", {"name": "Ana"}))
    assert "Saved Ana & more." in text_of(shown)
    assert "Saved" not in text_of(visitor.get("/hello"))


@on_sqlite
def test_what_was_said_cannot_be_made_up(database: Database, clock: Clock):
    visitor = a_visitor(a_house(database, clock), HELLO)
    visitor.cookies.set("usher-said", "WyJnb29kIiwieW91IHdvbiJd.forged.forged")
    assert "won" not in visitor.get("/hello").text


@on_sqlite
@pytest.mark.parametrize(
    ("wrong", "status", "says"),
    [
        ("field", 422, "name: is too long"),
        ("gone", 404, "There is no such letter."),
        ("late", 409, "It is sent already."),
        ("wix", 503, "Wix does not answer now"),
        ("forbidden", 502, "Wix does not allow this app to read that"),
        ("database", 503, "The database does not answer now"),
    ],
)
def test_what_goes_wrong_is_said_in_words(
    database: Database, clock: Clock, wrong: str, status: int, says: str
):
    visitor = a_visitor(a_house(database, clock), ACT)
    answer = visitor.post("/act", {"wrong": wrong})
    assert answer.status_code == status
    assert says in text_of(answer)
    assert "HTTP" not in text_of(answer)
    part = visitor.post("/act", {"wrong": wrong}, headers={"HX-Request": "true"})
    assert (part.status_code, "<html" in part.text) == (status, False)
    assert says in text_of(part)


@on_sqlite
def test_a_role_that_may_not_is_told_so(database: Database, clock: Clock):
    house = a_house(database, clock)
    assert a_visitor(house, SECRET, role=Role.MANAGER).get("/secret").status_code == 200
    answer = a_visitor(house, SECRET, role=Role.READER).get("/secret")
    assert answer.status_code == 403
    assert "Your role does not open this page." in text_of(answer)


@on_sqlite
@pytest.mark.parametrize("site", ["another-site", "nobody's", "%20", "a" * 300])
def test_a_site_out_of_reach_or_unknown_is_not_there(database: Database, clock: Clock, site: str):
    house = a_house(database, clock)
    visitor = a_visitor(house, HELLO, reach=Reach(frozenset({"some-other"})))
    assert visitor.get("/hello").status_code == 404
    assert a_visitor(house, HELLO).get(f"/admin/s/{site}/hello").status_code == 404


@on_sqlite
def test_a_form_that_is_too_large_or_holds_a_nul_is_refused(database: Database, clock: Clock):
    visitor = a_visitor(a_house(database, clock), ACT)
    assert visitor.post("/act", {"name": "x" * 300_000}).status_code == 413
    answer = visitor.post("/act", {"name": "a\x00b"})
    assert (answer.status_code, "U+0000" in answer.text) == (422, True)
    assert visitor.post("/act", {f"f{n}": "x" for n in range(6000)}).status_code == 400


@on_sqlite
def test_a_file_arrives_whole(database: Database, clock: Clock):
    def keep(visit: Visit) -> Response:
        found = visit.form.file("list")
        assert found is not None
        return visit.to("/hello", said=f"{found[0]} {len(found[1])}")

    visitor = a_visitor(a_house(database, clock), HELLO, Page("POST", "/keep", keep))
    answer = visitor.post("/keep", files={"list": ("people.csv", b"\xff\x00" * 1000, "text/csv")})
    assert "people.csv 2000" in text_of(visitor.follow(answer))


def test_static_files_have_their_content_in_their_address():
    assert re.fullmatch(r"/admin/static/[0-9a-f]{12}/console\.css", static("console.css"))
    with pytest.raises(KeyError):
        static("../page.py")


@on_sqlite
def test_names_are_remembered_and_wix_being_away_is_said(database: Database, clock: Clock):
    house = a_house(database, clock)
    seen: list[tuple[str, str]] = []

    def look(visit: Visit) -> Response:
        group, member = visit.directory.group(RUNNERS), visit.directory.members([ANN]).get(ANN)
        seen.append((page_module.name_of(group), page_module.name_of(member)))
        return hello(visit)

    visitor = a_visitor(house, Page("GET", "/look", look))
    visitor.get("/look")
    calls = house.wix.calls
    visitor.get("/look")
    assert house.wix.calls == calls, "what was just read is not read again"
    assert seen[0] == seen[1]
    assert all(seen[0])


@on_sqlite
def test_whom_wix_does_not_know_any_more_is_forgotten_here_and_while_wix_is_away_names_stay(
    database: Database, clock: Clock
):
    house, seconds = a_house(database, clock), [0.0]
    names = Names(house.wix, now=lambda: seconds[0])

    def look() -> tuple[str, str]:
        directory = names.of(SITE, EVERYTHING)
        return page_module.name_of(directory.members([ANN]).get(ANN)), directory.trouble

    known, trouble = look()
    assert known
    assert not trouble
    seconds[0] += FRESH_S
    house.wix.get_members = failing  # type: ignore[method-assign]
    assert look()[0] == known
    assert "Wix does not answer now" in look()[1]
    seconds[0] += FAILED_S
    house.wix.get_members = lambda site, members: {}  # type: ignore[method-assign]
    assert look() == ("", "")
    house.wix.get_members = failing  # type: ignore[method-assign]
    assert look()[0] == "", "forgotten, and not only left out once"


@on_sqlite
def test_after_wix_failed_pages_ask_it_nothing_for_some_seconds(database: Database, clock: Clock):
    house, seconds, asked = a_house(database, clock), [0.0], []
    names = Names(house.wix, now=lambda: seconds[0])

    def hang(*_: object) -> None:
        asked.append(_)
        raise RetryableError("no answer from Wix")

    house.wix.list_groups = house.wix.get_site = house.wix.get_members = hang  # type: ignore[assignment, method-assign]
    for _ in range(10):
        directory = names.of(SITE, EVERYTHING)
        assert directory.site().name == ""
        assert directory.groups() == {}
        assert directory.members([ANN]) == {}
        assert "Wix does not answer now" in directory.trouble
    assert len(asked) == 1
    seconds[0] += FAILED_S
    names.of(SITE, EVERYTHING).groups()
    assert len(asked) == 2


def test_a_nul_in_an_address_leads_nowhere(database: Database, clock: Clock):
    person = Page("GET", "/people/{member}", hello)
    visitor = a_visitor(a_house(database, clock), HELLO, person)
    assert visitor.get("/hello?say=a%00b").status_code == 404
    assert visitor.get("/people/%00").status_code == 404


@on_sqlite
def test_a_group_admins_directory_holds_their_groups_only(database: Database, clock: Clock):
    seen: list[set[str]] = []

    def look(visit: Visit) -> Response:
        seen.append(set(visit.directory.groups()))
        return hello(visit)

    a_visitor(
        a_house(database, clock),
        Page("GET", "/look", look),
        role=Role.GROUP_ADMIN,
        reach=Reach(frozenset({SITE}), frozenset({RUNNERS})),
    ).get("/look")
    assert seen == [{RUNNERS}]


def test_the_first_language_we_have_of_those_wished_is_chosen():
    assert choose_language("", "fr-CH, he;q=0.9, en;q=0.8") == "he"
    assert choose_language("iw") == "he"
    assert choose_language("", "fr") == "en"
    assert choose_language() == "en"


def test_times_are_those_of_the_sites_zone():
    now = datetime(2026, 5, 3, 22, 30, tzinfo=UTC)
    words = Words("en", ZoneInfo("Asia/Jerusalem"), now)
    assert words.spell_time(now - timedelta(minutes=20)) == "01:10"
    assert "3 May" in words.spell_time(now - timedelta(hours=5))
    assert words.direction == "ltr"
    assert Words("he", ZoneInfo("UTC"), now).direction == "rtl"
