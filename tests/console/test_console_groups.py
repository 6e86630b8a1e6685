"""Groups in the console: what each role sees of them, the report, a group from a list, rules for many groups."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from admin.console.pages import groups as pages
from admin.console.pages import jobs as jobs_pages
from core.community import Group, GroupId, Member, MemberId, Membership, Question, Rule
from core.errors import ForbiddenError, RetryableError
from core.events import GROUP_DELETED
from integrations.store.database import Database
from integrations.store.reach import Reach
from integrations.store.tokens import Role
from tests.console.visiting import Visitor, a_visitor, text_of
from tests.house import ANN, RUNNERS, SITE, WELCOME, Clock, House, a_house, an_event
from tests.test_report_job import a_letter

YOGA, CHESS, OLD = GroupId("g-yoga"), GroupId("g-chess"), GroupId("g-old")
MINE = Reach(frozenset({SITE}), frozenset({RUNNERS}))


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    """Four groups: Runners with Ann, Yoga that grows, Chess that waits for one more, and one that nobody stirs in."""
    found = a_house(database, clock, WELCOME)
    now = clock()
    found.wix.groups = {
        RUNNERS: Group(RUNNERS, "Trail Runners", "PUBLIC", 12, now - timedelta(days=300), ANN, now),
        YOGA: Group(YOGA, "Sunrise Yoga", "PRIVATE", 40, last_activity=now - timedelta(days=2)),
        CHESS: Group(CHESS, "Chess & Tea", "SECRET", 5, last_activity=now - timedelta(days=20)),
        OLD: Group(OLD, "Old Boats", "PUBLIC", 3),
    }
    return found


def visitor(house: House, role: Role = Role.MANAGER, reach: Reach = Reach()) -> Visitor:  # noqa: B008 (a value)
    return a_visitor(house, *pages.PAGES, *jobs_pages.PAGES, role=role, reach=reach)


def names(answer: httpx.Response) -> list[str]:
    """Of the groups, in their order."""
    assert answer.status_code == 200, text_of(answer)
    found = re.findall(r'class="name" href="[^"]*/groups/[^"]*"><bdi>([^<]+)</bdi>', answer.text)
    return [unescape(name) for name in found]


def read_yesterday(house: House, days: int = 10, **sizes: int) -> None:
    """What the list of groups said some days ago."""
    house.clock.move(days=-days)
    house.services.group_days.note(
        SITE, [Group(GroupId(f"g-{name}"), name, members=size) for name, size in sizes.items()]
    )
    house.clock.move(days=days)


# All groups


def test_the_groups_stand_in_the_order_that_was_asked_for(house: House):
    read_yesterday(house, yoga=30, chess=8, old=3)
    for number in range(3):
        a_letter(house, f"m{number}", group_id=CHESS)
    somebody = visitor(house)
    assert names(somebody.get("/groups")) == ["Chess & Tea", "Old Boats", "Sunrise Yoga", "Trail Runners"]
    orders = {
        "members": ["Sunrise Yoga", "Trail Runners", "Chess & Tea", "Old Boats"],
        "activity": ["Trail Runners", "Sunrise Yoga", "Chess & Tea", "Old Boats"],
        "growth": ["Trail Runners", "Sunrise Yoga", "Old Boats", "Chess & Tea"],
        "letters": ["Chess & Tea", "Old Boats", "Sunrise Yoga", "Trail Runners"],
        "no such order": ["Chess & Tea", "Old Boats", "Sunrise Yoga", "Trail Runners"],
    }
    for order, expected in orders.items():
        assert names(somebody.get("/groups", params={"order": order})) == expected, order


def test_growth_idleness_and_popularity_are_said_in_words(house: House):
    read_yesterday(house, yoga=30, chess=8, old=3)
    rows = dict(
        re.findall(r"<bdi>([^<]+)</bdi></a>(.*?)</tr>", visitor(house).get("/groups").text, re.DOTALL)
    )
    told = {unescape(name): " ".join(re.sub("<[^>]+>", " ", row).split()) for name, row in rows.items()}
    assert told["Sunrise Yoga"].startswith("popular private 40 +10")
    assert told["Chess & Tea"].startswith("secret 5 −3")
    assert told["Old Boats"].startswith("idle public 3 0 never")
    assert "idle" not in told["Trail Runners"]


def test_a_search_is_posted_and_finds_a_part_of_a_name(house: House):
    somebody = visitor(house)
    assert names(somebody.post("/groups", {"name": "  SUNRISE ", "order": "members"})) == ["Sunrise Yoga"]
    nobody = somebody.post("/groups", {"name": "sailing"})
    assert "No group is called so" in text_of(nobody)
    part = somebody.post("/groups", {"name": "yoga"}, headers={"HX-Request": "true"})
    assert (names(part), "<html" in part.text) == (["Sunrise Yoga"], False)


def test_a_long_list_comes_in_pages(house: House):
    house.wix.groups = {GroupId(f"g{n:03}"): Group(GroupId(f"g{n:03}"), f"Group {n:03}") for n in range(150)}
    somebody = visitor(house)
    first = somebody.get("/groups")
    assert (len(names(first)), names(first)[-1]) == (100, "Group 099")
    following = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert following is not None
    assert names(somebody.get(unescape(following[1]))) == [f"Group {n:03}" for n in range(100, 150)]
    for wrong in ("-1", "x", "²", "9" * 40):
        assert len(names(somebody.get("/groups", params={"first": wrong}))) == 100, wrong


def test_a_deleted_group_that_wix_still_lists_is_not_shown(house: House):
    gone = an_event(house.clock, type=GROUP_DELETED, group=OLD, payload=f'{{"entityId": "{OLD}"}}')
    house.hear(gone)
    house.services.group_days.note(SITE, list(house.wix.list_groups(SITE)))
    assert "Old Boats" not in names(visitor(house).get("/groups"))


def test_without_groups_the_page_says_what_to_do(house: House):
    house.wix.groups = {}
    assert "Open a group from a list" in text_of(visitor(house).get("/groups"))
    reader = text_of(visitor(house, Role.READER).get("/groups"))
    assert "No group to see" in reader
    assert "Open a group" not in reader


def test_with_wix_away_the_page_says_so(house: House):
    house.wix.fails["list_groups"] = [RetryableError("503")] * 3
    said = text_of(visitor(house).get("/groups"))
    assert "The groups cannot be shown now" in said
    assert "Wix does not answer now" in said


# Who sees what


def test_a_group_admin_sees_their_groups_and_nothing_for_many(house: House):
    admin = visitor(house, Role.GROUP_ADMIN, MINE)
    answer = admin.get("/groups")
    assert names(answer) == ["Trail Runners"]
    assert "popular" not in re.sub(r"<caption>.*?</caption>", "", answer.text)
    assert not re.search(r"/groups/(report|rollout|new)", answer.text)
    assert admin.get(f"/groups/{RUNNERS}").status_code == 200
    for id_ in (YOGA, "no-such-group", "%20"):
        assert admin.get(f"/groups/{id_}").status_code == 404, id_
    for page in pages.PAGES:
        path = page.path.replace("{job}", "0" * 32)
        if path.startswith(
            ("/groups/report", "/groups/new", "/groups/owner", "/groups/rollout", "/groups/lists")
        ):
            answer = admin.get(path) if page.method == "GET" else admin.post(path)
            assert answer.status_code == 403, (page.method, path)


def test_a_reader_looks_and_sets_nothing_off(house: House):
    reader = visitor(house, Role.READER)
    assert reader.get("/groups").status_code == reader.get("/groups/report").status_code == 200
    for path in ("/groups/report", "/groups/new", "/groups/owner", "/groups/rollout"):
        assert reader.post(path).status_code == 403, path
    assert not house.services.jobs.page()


def test_a_site_out_of_reach_has_no_groups(house: House):
    other = visitor(house, Role.MANAGER, Reach(frozenset({"another-site"})))
    assert other.get("/groups").status_code == other.get(f"/groups/{RUNNERS}").status_code == 404


# One group


def test_a_group_is_shown_as_it_stands(house: House):
    read_yesterday(house, yoga=30)
    house.wix.groups[YOGA] = Group(YOGA, "Sunrise Yoga", "PRIVATE", 40, house.clock(), ANN, house.clock())
    house.wix.rules[YOGA] = (Rule("Be kind", "Always."),)
    house.wix.questions[YOGA] = (Question("Why <yoga>?", required=True),)
    for member in ("m-bo", "m-cy"):
        house.wix.memberships[YOGA, MemberId(member)] = Membership("pending")
    a_letter(house, "m1", group_id=YOGA)
    a_letter(house, "m2", "skipped", group_id=YOGA, reason="unsubscribed")
    a_letter(house, "m3", "skipped", group_id=YOGA, reason="unsubscribed")
    a_letter(house, "m4", group_id=YOGA, age_days=40)
    a_letter(house, "m5", "planned", group_id=YOGA, reason='"yoga" in the answer')

    answer = visitor(house).get(f"/groups/{YOGA}")
    said = text_of(answer)
    assert answer.status_code == 200
    assert re.search(r"40 members 1 letters in 30 days 2 ask to join", said)
    assert "owned by Ann" in said
    assert "unsubscribed 2" in said
    assert '"yoga" in the answer' not in said
    assert "Be kind Always." in said
    assert "Why <yoga>? has to be answered" in said
    assert f"/requests?group={YOGA}" in answer.text
    assert "welcome" in said
    assert '<polyline class="line one"' in answer.text
    assert "Apr 23, 2026 30" in said, "the numbers of the line, as a table"


def test_a_group_counted_for_the_first_time_has_no_line_yet(house: House):
    answer = visitor(house).get(f"/groups/{OLD}")
    assert "polyline" not in answer.text
    assert "From the second day on a line stands here" in text_of(answer)
    assert "idle" in text_of(answer)


def test_what_wix_refuses_is_said_in_its_place_and_the_rest_is_shown(house: House):
    house.wix.fails |= {"list_rules": [ForbiddenError("403")], "list_questions": [ForbiddenError("403")]}
    said = text_of(visitor(house).get(f"/groups/{YOGA}"))
    assert said.count("Wix does not allow this app to read that") == 2
    assert "0 ask to join" in said


def test_with_wix_away_its_lists_are_asked_for_once(house: House):
    somebody = visitor(house)
    somebody.get("/groups")
    house.wix.asked.clear()
    house.wix.fails["list_rules"] = [RetryableError("503")]
    answer = somebody.get(f"/groups/{YOGA}")
    assert answer.status_code == 200
    assert [call[0] for call in house.wix.asked] == ["list_rules"]


def test_a_group_opened_a_moment_ago_is_found(house: House):
    somebody = visitor(house)
    somebody.get("/groups")
    house.wix.groups[GroupId("g-new")] = Group(GroupId("g-new"), "Brand New")
    assert "Brand New" in text_of(somebody.get("/groups/g-new"))


# The report


def test_a_report_is_made_shown_and_downloaded(house: House):
    read_yesterday(house, yoga=30, chess=8, old=3)
    a_letter(house, "m1", group_id=YOGA)
    somebody = visitor(house)
    assert "No report yet" in text_of(somebody.get("/groups/report"))
    key = hidden(somebody.get("/groups/report"), "key")
    for _ in range(2):
        assert somebody.post("/groups/report", {"key": key}).status_code == 303
    [job] = house.services.jobs.page()
    under_way = somebody.get("/groups/report")
    assert "A report is being made" in text_of(under_way)
    assert 'hx-trigger="every 2s"' in under_way.text
    house.turn()

    shown = somebody.get("/groups/report")
    said = text_of(shown)
    assert "every 2s" not in shown.text
    assert "4 groups 60 memberships 1 idle for 90 days 1 letters in 30 days" in said
    assert "Sunrise Yoga 40" in said
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\bsrc=)", shown.text)
    part = somebody.get("/groups/report", headers={"HX-Request": "true"})
    assert part.text.lstrip().startswith('<div id="report">')
    html = somebody.get("/groups/report/file", params={"job": job.id, "format": "html"})
    assert (html.status_code, html.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "attachment" in html.headers["content-disposition"]
    assert "<bdi>Seaside Club</bdi>" in html.text, "the site's name, not its id"
    table = somebody.get("/groups/report/file", params={"job": job.id, "format": "csv"})
    assert len(list(csv.DictReader(io.StringIO(table.content.decode("utf-8-sig"))))) == 4
    assert somebody.get("/groups/report/file", params={"job": job.id, "format": "docx"}).status_code == 422
    assert somebody.get("/groups/report/file", params={"job": "0" * 32}).status_code == 404


def test_an_earlier_report_can_be_looked_at(house: House):
    somebody = visitor(house)
    for size in (3, 4):
        house.wix.groups[OLD] = Group(OLD, "Old Boats", members=size)
        somebody.post("/groups/report", {"key": str(size)})
        house.turn()
        house.clock.move(hours=1)
    newest, oldest = house.services.jobs.page()
    assert "60 memberships" not in text_of(somebody.get("/groups/report"))
    assert "60 memberships" in text_of(somebody.get("/groups/report", params={"job": oldest.id}))
    assert text_of(somebody.get("/groups/report", params={"job": newest.id})) == text_of(
        somebody.get("/groups/report")
    )
    other = house.ask_for("rules_rollout", rules=[{"title": "x"}])
    for wrong in (other, "0" * 32):
        assert somebody.get("/groups/report", params={"job": wrong}).status_code == 404


SCHEDULED = """
[policy]
time_zone = "Europe/Berlin"
[[report]]
name = "weekly"
every = "week"
on = "friday"
at = "07:30"
to = ["ana@example.com", "bo@example.com"]
[[report]]
name = "elsewhere"
every = "day"
to = ["ana@example.com"]
sites = ["another"]
"""


def test_the_schedule_stands_in_words_and_without_addresses(database: Database, clock: Clock):
    said = text_of(visitor(a_house(database, clock, SCHEDULED)).get("/groups/report"))
    assert "Every Friday at 07:30 , send a report on the groups to 2 addresses." in said
    assert "Times are those of Europe/Berlin." in said
    assert "Every day" not in said
    assert "@" not in said


# A group from a list


def people_of(house: House) -> None:
    """Ann, Bo with a private profile, and two who are called Ida Lund."""
    house.wix.members[ANN] = replace(house.wix.members[ANN], private=False)
    for id_, first, last, private, years in (
        ("m-bo", "Bo", "Berg", True, 1), ("m-ida-1", "Ida", "Lund", False, 2), ("m-ida-2", "Ida", "Lund", False, 3),
    ):  # fmt: skip
        house.wix.members[MemberId(id_)] = Member(
            MemberId(id_), "APPROVED", f"{id_}@example.com", first, last_name=last, contact=f"c-{id_}",
            private=private, since=house.clock() - timedelta(days=365 * years),
        )  # fmt: skip


def hidden(answer: httpx.Response, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', answer.text)
    assert found is not None, text_of(answer)
    return unescape(found[1])


def test_a_group_is_opened_from_a_file_and_what_is_wrong_comes_back_as_one(house: House):
    people_of(house)
    somebody = visitor(house)
    asked = somebody.get("/groups/new")
    assert 'enctype="multipart/form-data"' not in asked.text, "first the owner"
    found = somebody.post("/groups/owner", {"who": "Ida Lund"})
    said = text_of(found)
    assert "id …-ida-1" in said
    assert "id …-ida-2" in said
    assert "at Wix since May 3, 2024" in said
    assert "at Wix since May 4, 2023" in said
    key = hidden(found, "key")
    form = {
        "key": key,
        "owner": "m-ida-1",
        "name": "Book Club",
        "privacy": "PRIVATE",
        "people": "",
        "region": "",
    }
    file = b"Name,Email\nBo Berg,\nIda Lund,\n,nobody@example.com\nAnn,ann@example.com\n"
    jobs = set()
    for _ in range(2):
        began = somebody.post("/groups/new", form, files={"file": ("people.csv", file, "text/csv")})
        assert began.status_code == 303, text_of(began)
        jobs.add(began.headers["location"].rpartition("/")[2])
    [job] = jobs
    house.turn()

    page = somebody.get(f"/jobs/{job}")
    said = text_of(page)
    assert "“Book Club” is not there yet: it will be made." in said
    assert "1 to be added 0 in it already 1 only invited: their profile is private 2 to fix" in said
    assert "Ida Lund m…@example.com · since May 3, 2024 · …-ida-1" in said
    assert "Ida Lund m…@example.com · since May 4, 2023 · …-ida-2" in said
    assert f"/groups/lists/{job}/to-fix.csv" in page.text
    assert "to-fix.csv" not in visitor(house, Role.READER).get(f"/jobs/{job}").text
    fixed = somebody.get(f"/groups/lists/{job}/to-fix.csv")
    rows = list(csv.DictReader(io.StringIO(fixed.content.decode("utf-8-sig"))))
    assert [(row["name"], row["reason"]) for row in rows] == [
        ("Ida Lund", "2 people have this name"),
        ("", "nobody on the site has this address"),
    ]
    assert "since 2024-05-03" in rows[0]["candidates"]
    assert "since 2023-05-04" in rows[0]["candidates"]
    house.confirm(job)
    [group] = [group for group in house.wix.groups.values() if group.name == "Book Club"]
    assert house.wix.memberships[group.id, ANN].status == "joined"
    assert (group.id, MemberId("m-bo")) in house.wix.invited

    lines = list(csv.reader(io.StringIO(fixed.content.decode("utf-8-sig"))))
    lines[1][0] = "c-m-ida-2"
    text = io.StringIO()
    csv.writer(text).writerows(lines[:2])
    again = somebody.post("/groups/new", form | {"people": text.getvalue()})
    second = again.headers["location"].rpartition("/")[2]
    assert second != job
    house.turn()
    house.confirm(second)
    assert house.wix.memberships[group.id, MemberId("m-ida-2")].status == "joined"


def test_rows_that_cannot_be_read_are_named_and_handed_back(house: House):
    people_of(house)
    people = "Email\nno address\nann@example.com\n"
    form = {"key": "k", "owner": "m-bo", "name": "", "privacy": "OPEN", "people": people}
    answer = visitor(house).post("/groups/new", form)
    said = text_of(answer)
    assert answer.status_code == 422
    assert "Give a name of up to 100 characters." in said
    assert "Choose one of these." in said
    assert "Row 2: Email: An email address must have an @-sign." in said
    data = re.search(r'href="data:text/csv;base64,([^"]+)"', answer.text)
    assert data is not None
    assert b"no address" in base64.b64decode(unescape(data[1]))
    assert "ann@example.com" in answer.text, "what was pasted is still there"
    assert not house.services.jobs.page()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"people": ""}, "nobody is on it yet"),
        ({"owner": ""}, "Choose who is to own the group."),
        ({"name": "x" * 101}, "up to 100 characters"),
        ({"people": "+49", "region": "XX"}, "cannot be read with this region"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_list_form_filled_in_wrongly_is_shown_again(house: House, given: dict[str, str], says: str):
    form = {
        "key": "k",
        "owner": ANN,
        "name": "Club",
        "privacy": "PRIVATE",
        "people": "Ann",
        "region": "",
    } | given
    answer = visitor(house).post("/groups/new", form)
    assert answer.status_code == 422
    assert says in text_of(answer)
    assert not house.services.jobs.page()


def test_nobody_of_a_name_and_a_term_that_is_none_are_said(house: House):
    somebody = visitor(house)
    answer = somebody.post("/groups/owner", {"who": "No Body"})
    assert (answer.status_code, "Nobody on the site has this name" in text_of(answer)) == (200, True)
    assert 'enctype="multipart/form-data"' not in answer.text
    for who in (" ", "@", "x" * 400):
        answer = somebody.post("/groups/owner", {"who": who})
        assert (answer.status_code, 'class="error" id="e-who"' in answer.text) == (422, True), who
    house.wix.fails["find_people"] = [RetryableError("503")]
    assert "Wix does not answer now" in text_of(somebody.post("/groups/owner", {"who": "Ann"}))


def test_without_an_owner_chosen_the_form_comes_back_with_all_that_was_typed(house: House):
    people_of(house)
    form = {
        "key": "k",
        "who": "Ida Lund",
        "name": "Book Club",
        "privacy": "SECRET",
        "people": "Ann",
        "region": "",
    }
    answer = visitor(house).post("/groups/new", form)
    assert answer.status_code == 422
    assert "Choose who is to own the group." in text_of(answer)
    assert answer.text.count('type="radio" name="owner"') == 2
    assert 'value="Book Club"' in answer.text
    assert '<option value="SECRET" selected>' in answer.text


def test_the_list_to_fix_is_of_a_list_alone(house: House):
    somebody = visitor(house)
    report = house.ask_for("groups_report")
    for id_ in (report, "0" * 32):
        assert somebody.get(f"/groups/lists/{id_}/to-fix.csv").status_code == 404
    assert visitor(house, Role.READER).get(f"/groups/lists/{report}/to-fix.csv").status_code == 403


# The same for many groups


def test_rules_are_copied_changed_and_rolled_out(house: House):
    house.wix.rules = {YOGA: (Rule("Be kind", "Always."),), OLD: (Rule("Be on time"),)}
    somebody = visitor(house)
    start = somebody.get("/groups/rollout")
    assert "Sunrise Yoga" in start.text
    form = somebody.get("/groups/rollout", params={"kind": "rules", "from": YOGA})
    assert 'value="Be kind"' in form.text
    given = {
        "key": hidden(form, "key"), "kind": "rules", "from": YOGA, "to": "chosen", "group": [OLD, CHESS],
        "title-0": "Be kind", "description-0": "Always, and to all.", "title-1": " ", "description-1": "",
    }  # fmt: skip
    jobs = {somebody.post("/groups/rollout", given).headers["location"].rpartition("/")[2] for _ in range(2)}
    [job] = jobs
    house.turn()
    assert house.job(job).params == {
        "rules": [{"title": "Be kind", "description": "Always, and to all."}],
        "to_groups": [OLD, CHESS],
    }
    said = text_of(somebody.get(f"/jobs/{job}"))
    assert "What would change" in said
    assert "Old Boats added: Be kind: Always, and to all. removed: Be on time" in said
    assert "Chess & Tea added: Be kind: Always, and to all." in said
    house.confirm(job)
    assert "What was changed" in text_of(somebody.get(f"/jobs/{job}"))
    assert house.wix.rules[OLD] == house.wix.rules[CHESS] == (Rule("Be kind", "Always, and to all."),)
    assert house.wix.rules[YOGA] == (Rule("Be kind", "Always."),)


def test_groups_in_which_the_same_would_change_stand_together(house: House):
    house.wix.rules = {OLD: (Rule("Be on time"),)}
    somebody = visitor(house)
    job = somebody.post("/groups/rollout", {"kind": "rules", "to": "all", "title-0": "Be <kind>"})
    said = text_of(somebody.get(f"/jobs/{job.headers['location'].rpartition('/')[2]}"))
    assert "What would change" not in said
    house.turn()
    page = somebody.follow(job)
    said = text_of(page)
    assert "Trail Runners , Sunrise Yoga , Chess & Tea added: Be <kind>" in said
    assert said.count("added:") == 2
    assert "<ins><strong>added:</strong>" in page.text


def test_the_newest_rollout_can_be_put_back_and_says_so(house: House):
    house.wix.rules = {OLD: (Rule("Be on time"),)}
    somebody = visitor(house)
    given = {"kind": "rules", "to": "chosen", "group": OLD, "none": "1"}
    job = somebody.post("/groups/rollout", given).headers["location"].rpartition("/")[2]
    house.turn()
    assert "Everything that these groups have is taken away." in text_of(somebody.get(f"/jobs/{job}"))
    house.confirm(job)
    assert house.wix.rules[OLD] == ()
    back = somebody.post(f"/jobs/{job}/rollback", {"key": "back"})
    house.turn()
    assert "It puts back what this rollout replaced." in text_of(somebody.follow(back))
    house.confirm(back.headers["location"].rpartition("/")[2])
    assert house.wix.rules[OLD] == (Rule("Be on time"),)


def test_questions_are_rolled_out_to_all_and_may_be_taken_away(house: House):
    house.wix.questions = {YOGA: (Question("Why?", required=True),)}
    somebody = visitor(house)
    form = somebody.get("/groups/rollout", params={"kind": "questions", "from": YOGA})
    assert re.search(r'name="required-0" value="1" checked', form.text)
    given = {
        "key": "k",
        "kind": "questions",
        "to": "all",
        "text-0": "Why?",
        "required-0": "1",
        "text-1": "Where?",
    }
    job = somebody.post("/groups/rollout", given).headers["location"].rpartition("/")[2]
    house.turn()
    house.confirm(job)
    assert house.wix.questions[OLD] == (Question("Why?", required=True), Question("Where?"))
    nothing = {"key": "k", "kind": "questions", "to": "all", "text-0": ""}
    assert "say that there are to be none" in text_of(somebody.post("/groups/rollout", nothing))
    job = somebody.post("/groups/rollout", nothing | {"none": "1"}).headers["location"].rpartition("/")[2]
    house.turn()
    assert house.job(job).params["questions"] == []


def test_a_rollout_form_asks_for_more_room_and_keeps_what_was_typed(house: House):
    given = {"key": "k", "kind": "rules", "to": "chosen", "group": [OLD], "title-0": "One <b>", "do": "more"}
    answer = visitor(house).post("/groups/rollout", given)
    assert answer.status_code == 200
    assert 'value="One &lt;b&gt;"' in answer.text
    assert answer.text.count('name="title-') == 4
    assert re.search(rf'value="{OLD}" checked', answer.text)
    assert not house.services.jobs.page()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"title-0": "", "description-0": "text"}, "At most 1000 characters, and not nothing."),
        ({"title-0": "x" * 1001}, "At most 1000 characters"),
        ({"to": "chosen"}, "Choose the groups"),
        ({"title-0": "", "description-0": ""}, "Write at least one"),
        ({f"title-{n}": "x" for n in range(101)}, "Wix takes at most 100"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_rollout_form_filled_in_wrongly_is_shown_again(house: House, given: dict[str, Any], says: str):
    form = {"key": "k", "kind": "rules", "to": "all", "title-0": "Be kind", "description-0": ""} | given
    answer = visitor(house).post("/groups/rollout", form)
    assert answer.status_code == 422
    assert says in text_of(answer)
    assert not house.services.jobs.page()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_wix_refusing_the_rules_to_copy_is_a_page_that_says_so(house: House):
    house.wix.fails["list_rules"] = [ForbiddenError("403")]
    answer = visitor(house).get("/groups/rollout", params={"kind": "rules", "from": YOGA})
    assert answer.status_code == 502
    assert "Wix does not allow this app" in text_of(answer)
    gone = visitor(house).get("/groups/rollout", params={"kind": "rules", "from": "no-such-group"})
    assert gone.status_code == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_a_group_is_called_never_becomes_part_of_the_page(house: House):
    evil = '"><img src=x onerror=alert(1)>'
    house.wix.groups = {GroupId("g/1?#"): Group(GroupId("g/1?#"), evil, "PRIVATE", 3, owner=ANN)}
    house.wix.rules[GroupId("g/1?#")] = (Rule(evil, evil),)
    somebody = visitor(house)
    for path in ("/groups", "/groups/new", "/groups/rollout", "/groups/rollout?kind=rules"):
        assert "<img src=x" not in somebody.get(path).text, path
    assert (
        quote("g/1?#", safe="") in somebody.get("/groups").text or "g/1%3F%23" in somebody.get("/groups").text
    )
    somebody.post("/groups/report", {"key": "1"})
    house.turn()
    assert "<img src=x" not in somebody.get("/groups/report").text
