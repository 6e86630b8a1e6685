"""Today, as those see it who may see all of a site, one group, or only look."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette

from admin.api import Limiter, admin_api
from admin.console.charts import Series, columns
from admin.console.pages.today import PAGES
from admin.office import Office
from admin.office.today import CHART_DAYS, days, look
from core import events
from core.community import Group, GroupId, Membership, SiteId
from core.consent import Sender
from core.errors import MailInDoubtError, NotThereError
from core.reconciliation import REQUESTS
from integrations.store.book import Book, File
from integrations.store.database import Database
from integrations.store.heartbeats import Heartbeats
from integrations.store.reach import EVERYTHING, Reach
from integrations.store.senders import Senders
from integrations.store.tables import automation_versions, outbox, watches
from integrations.store.tokens import Holder, Role, Tokens
from tests.console.visiting import a_visitor, text_of
from tests.house import ANN, RUNNERS, SENDER, SITE, WELCOME, YOGA, Clock, House, a_house, an_event
from tests.test_admin_api import Counter

OWNER = Holder("t", "admin", Role.OWNER, EVERYTHING)
OTHERS = GroupId("0b1f0b5e-5a38-4a1c-8f0a-0a4f3f6f2f10")


def a_holder(role: Role = Role.OWNER, *, groups: frozenset[str] | None = None) -> Holder:
    return Holder("t", "token t", role, Reach(None, groups))


def an_office(house: House) -> Office:
    return Office.of_services(house.services, house.database)


def alive(house: House) -> None:
    for name in ("worker:1", "beat:1"):
        Heartbeats(house.database).beat(name)


def test_what_came_in_is_counted_as_people_since_midnight_and_in_24_hours(database: Database, clock: Clock):
    house = a_house(database, clock)
    clock.now = clock.now.replace(hour=20)
    house.hear(an_event(clock, id="yesterday", type=events.JOIN_REQUESTED))
    clock.move(hours=6)
    house.hear(
        an_event(clock, id="approved", type=events.JOIN_APPROVED),
        an_event(clock, id="added"),
        an_event(clock, id="left", type=events.MEMBER_LEFT, member="m-bob"),
    )
    house.work()

    found = look(an_office(house), OWNER, SITE)

    counted = {kind: (pair.today, pair.day) for kind, pair in found.came.items()}
    assert counted == {"joined": (1, 1), "asked": (0, 1), "left": (1, 1)}
    assert found.sent.today == 1


def test_the_day_begins_at_midnight_of_the_site_s_clock(database: Database, clock: Clock):
    house = a_house(database, clock, '[policy]\ntime_zone = "Pacific/Auckland"\n' + WELCOME)
    assert look(an_office(house), OWNER, SITE).midnight.isoformat() == "2026-05-03T12:00:00+00:00"
    clock.move(seconds=-1)
    assert look(an_office(house), OWNER, SITE).midnight.isoformat() == "2026-05-02T12:00:00+00:00"


def test_why_letters_were_not_sent_is_counted_and_leads_to_them(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.subscriptions.clear()
    house.hear(an_event(clock))
    house.work()

    [refusal] = look(an_office(house), OWNER, SITE).refused

    assert (refusal.state, refusal.number) == ("skipped", 1)
    page = a_visitor(house, *PAGES).get("/")
    assert "never subscribed" in text_of(page)
    assert f"state=skipped&amp;why={refusal.key}" in page.text


def test_a_group_s_admin_sees_the_figures_of_their_groups_alone(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.wix.groups[OTHERS] = Group(OTHERS, "Others")
    house.wix.memberships[OTHERS, ANN] = Membership("joined")
    house.hear(an_event(clock, id="ours", member="m-bob"), an_event(clock, id="theirs", group=OTHERS))
    house.hear(an_event(clock, id="broken", payload="{}"))
    house.work()
    office = an_office(house)

    theirs = look(office, a_holder(Role.GROUP_ADMIN, groups=frozenset({OTHERS})), SITE)
    nobody_s = look(office, a_holder(Role.GROUP_ADMIN, groups=frozenset({"none"})), SITE)

    everybody_s = look(office, OWNER, SITE)
    assert (theirs.came["joined"].today, theirs.sent.today) == (1, 1)
    assert (nobody_s.came["joined"].today, nobody_s.sent.today) == (0, 0)
    assert (everybody_s.came["joined"].today, everybody_s.dead) == (3, 1)
    assert theirs.dead == theirs.facts.dead_events == 0


def test_a_site_out_of_reach_is_not_there(database: Database, clock: Clock):
    office = an_office(a_house(database, clock))
    elsewhere = Holder("t", "token t", Role.MANAGER, Reach(frozenset({"another"})))
    for ask in (look, days):
        with pytest.raises(NotThereError):
            ask(office, elsewhere, SITE)


def test_all_is_well_is_said_with_when_wix_was_last_heard(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    clock.move(hours=3)
    alive(house)
    page = text_of(a_visitor(house, *PAGES).get("/"))
    assert "All is well. Wix last told of something 3 hours ago" in page


def test_what_is_wrong_is_said_in_words(database: Database, clock: Clock):
    house = a_house(database, clock, WELCOME + YOGA)
    house.mail.dies_after_dot = [MailInDoubtError("closed after the final dot")]
    house.hear(an_event(clock), an_event(clock, id="broken", payload="{}"))
    house.work()
    Senders(database, SENDER).pause("", "550 5.7.1 no", 4 * 3600)
    clock.move(hours=2)
    office = replace(an_office(house), sender=Sender(has_postal_address=False))

    page = text_of(a_visitor(house, *PAGES, office=office).get("/"))

    for sentence in (
        "No worker is running",
        "No letters go out until",
        "1 event could not be worked off",
        "Of 1 letter nobody knows",
        "Offers cannot be sent",
    ):
        assert sentence in page
    assert "All is well" not in page


def test_automations_that_cannot_be_read_and_tables_of_another_release_are_said(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    book = Book(database, File(WELCOME, clock()), None, now=itertools.count(step=60).__next__)
    office = replace(an_office(house), book=book)
    assert book.trouble() == ""
    alive(house)
    house.hear(an_event(clock))
    with database.begin() as tx:
        unusable = {"number": 99, "text": "[[automation", "hash": "x", "source": "edit", "who": "user ada"}
        tx.execute(sa.insert(automation_versions).values(**unusable, note="", created_at=tx.now))
    assert "The newest automations cannot be read" in text_of(
        a_visitor(house, *PAGES, office=office).get("/")
    )
    with database.begin() as tx:
        release = tx.connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    try:
        found = look(office, OWNER, SITE).facts
    finally:
        with database.begin() as tx:
            tx.execute(
                sa.text("UPDATE alembic_version SET version_num = :as_it_was").bindparams(as_it_was=release)
            )
    assert "usher migrate" in found.tables


def test_requests_that_wait_are_those_the_lists_show_and_those_a_rule_left_since(
    database: Database, clock: Clock
):
    flag = '[[automation]]\nname = "look"\non = ["join_requested"]\ndecide = "flag"\n'
    house = a_house(database, clock, flag)
    house.wix.memberships[RUNNERS, ANN] = Membership("pending")
    house.hear(an_event(clock, type=events.JOIN_REQUESTED))
    house.work()
    found = look(an_office(house), OWNER, SITE)
    assert (found.requests, found.flagged) == (1, 1)
    assert "1 request to join" in text_of(a_visitor(house, *PAGES).get("/"))


def test_requests_that_are_gone_from_the_list_or_were_decided_since_the_last_look_wait_no_more(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    gone = clock().isoformat()
    pending = {ANN: [None, None, None], "m-gone": [None, None, gone], "m-let-in": [None, None, None]}
    pending |= {"m-asks-again": [None, None, None], "m-undone": [None, None, None]}
    with database.begin() as tx:
        tx.execute(
            sa.insert(watches).values(
                site=SITE, kind=REQUESTS, group_id=RUNNERS, state="watched", attempts=0, crashes=0,
                next_at=clock(), pending=pending, privacy="PRIVATE", looked_at=clock(),
            )
        )  # fmt: skip
        for member, state, minutes in (
            ("m-let-in", "planned", 1), ("m-asks-again", "done", -60), ("m-undone", "undone", 1),
        ):  # fmt: skip
            row = {"kind": "approve", "group_id": RUNNERS, "text": "", "attempts": 0, "crashes": 0}
            at = clock() + timedelta(minutes=minutes)
            tx.execute(
                sa.insert(outbox).values(
                    id=member,
                    site=SITE,
                    key=member,
                    member=member,
                    state=state,
                    next_at=at,
                    created_at=at,
                    **row,
                )
            )
    found = look(an_office(house), OWNER, SITE)
    assert (found.requests, found.flagged) == (3, 0), "Ann, who asks again, and whose approval was undone"


def test_a_job_that_was_previewed_waits_for_its_yes_and_one_that_runs_shows_how_far_it_is(
    database: Database, clock: Clock
):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    job = house.ask_for("group_email", group=RUNNERS, email="welcome", purpose="onboarding")
    visitor = a_visitor(house, *PAGES)
    assert "Letter “welcome” to Trail Runners waits for your yes for 1 person" in text_of(visitor.get("/"))
    house.services.jobs.confirm(job, house.job(job).confirm_token, who="tests")
    assert re.search("Under way Letter “welcome” to Trail Runners running", text_of(visitor.get("/now")))


def test_a_site_where_nothing_happened_says_what_to_do_next(database: Database, clock: Clock):
    visitor = a_visitor(a_house(database, clock), *PAGES)
    page = text_of(visitor.get("/"))
    assert "Nothing has happened here yet" in page
    assert "See the automations" in page


@pytest.mark.parametrize("role", list(Role))
def test_every_role_sees_today_and_its_fragment(database: Database, clock: Clock, role: Role):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    reach = Reach(None, frozenset({RUNNERS})) if role is Role.GROUP_ADMIN else EVERYTHING
    visitor = a_visitor(house, *PAGES, role=role, reach=reach)
    for path in ("/", "/now"):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert ("/workshop/events" in answer.text) == (role is not Role.GROUP_ADMIN)
    assert "<html" not in visitor.get("/now").text


def test_the_last_weeks_are_counted_by_the_site_s_days(database: Database, clock: Clock):
    house = a_house(database, clock, '[policy]\ntime_zone = "America/New_York"\n' + WELCOME)
    clock.now = clock.now.replace(hour=3)  # 23:00 of the day before
    house.hear(an_event(clock, id="a"), an_event(clock, id="again"))
    house.work()
    clock.move(hours=2)
    house.hear(an_event(clock, id="b", type=events.JOIN_REQUESTED, member="m-bob"))

    found = days(an_office(house), OWNER, SITE)

    assert len(found.days) == CHART_DAYS
    assert str(found.days[-1]) == "2026-05-03"
    assert (found.joined or ())[-2:] == (1, 0)
    assert (found.asked or ())[-2:] == (0, 1)
    assert found.sent[-2:] == (1, 0)
    page = a_visitor(house, *PAGES).get("/")
    assert "The last six weeks" in page.text
    assert page.text.count('<svg class="chart"') == 2


def test_what_is_older_than_the_chart_is_in_no_day_of_it(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    clock.move(days=CHART_DAYS)
    found = days(an_office(house), OWNER, SITE)
    assert sum((*(found.joined or ()), *found.sent)) == 0


def test_a_chart_holds_no_style_of_its_own_and_tells_each_place():
    drawn = columns(
        "People <b>", ["1 May", "2 May"], [Series("joined", [3, 0]), Series("asked", [0, 7])], str
    )
    assert "style" not in drawn
    assert "People &lt;b&gt;" in drawn
    assert "<title>2 May: joined: 0, asked: 7</title>" in drawn
    assert drawn.count('class="one"') == drawn.count('class="two"') == 1


# The same over the API.


def ask_api(house: House, query: str = "", role: Role = Role.OWNER, **reach: Any) -> httpx.Response:
    """`reach`: sites and groups of the token."""
    given = {"sites": ["*"], "groups": [], **reach}
    token, _ = Tokens(house.database).create(f"token-{uuid4().hex}", role, **given, who="a test")
    api = admin_api("the admin's token", an_office(house), Limiter())
    counter = Counter(Starlette(routes=[api]))
    return counter.ask("GET", f"/api/v1/today{query}", headers={"Authorization": f"Bearer {token}"})


def test_the_api_tells_the_same_as_the_page(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock), an_event(clock, id="broken", payload="{}"))
    house.work()
    alive(house)
    found = ask_api(house).json()
    assert found["site"] == SITE
    assert found["came"]["joined"] == {"today": 2, "day": 2}
    assert found["sent"] == {"today": 1, "day": 1}
    assert found["waits"]["dead_events"] == 1
    [finding] = found["findings"]
    assert (finding["name"], finding["severity"]) == ("dead", "bad")
    assert found["days"][-1] == {"day": "2026-05-03", "joined": 2, "asked": 0, "sent": 1}


def test_the_api_gives_a_group_s_admin_the_figures_of_their_groups(database: Database, clock: Clock):
    house = a_house(database, clock)
    house.hear(an_event(clock))
    house.work()
    theirs = ask_api(house, role=Role.GROUP_ADMIN, groups=[RUNNERS]).json()
    foreign = ask_api(house, role=Role.GROUP_ADMIN, groups=[OTHERS]).json()
    assert (theirs["sent"]["today"], foreign["sent"]["today"]) == (1, 0)
    assert theirs["days"][-1] == {"day": "2026-05-03", "sent": 1}


def test_the_api_wants_a_site_named_unless_there_is_just_one(database: Database, clock: Clock):
    house = a_house(database, clock)
    assert ask_api(house).status_code == 422
    assert ask_api(house, f"?site={SITE}").status_code == 404
    house.hear(an_event(clock), replace(an_event(clock), site=SiteId("another")))
    house.work()
    assert ask_api(house).status_code == 422
    assert ask_api(house, "?site=another").json()["site"] == "another"
    assert ask_api(house, role=Role.MANAGER, sites=["another"]).json()["site"] == "another"
    assert ask_api(house, f"?site={SITE}", role=Role.MANAGER, sites=["another"]).status_code == 404
