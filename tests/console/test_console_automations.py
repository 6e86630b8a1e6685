"""The automations in the console: as sentences, who is on which step, and editing them version by version."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import httpx
import pytest

from admin.api.automations import describe_version
from admin.console.pages import automations as pages
from core.automations import Automation, Automations, applicable, parse_automations
from core.community import Group, GroupId, Member, MemberId, Membership, SiteId
from integrations.store.audit import Audit
from integrations.store.book import Book, File
from integrations.store.database import Database
from integrations.store.reach import Reach
from integrations.store.tables import audit, automation_versions
from integrations.store.tokens import Role
from tests.console.visiting import Visitor, a_visitor, connect, text_of
from tests.house import ANN, RUNNERS, SITE, Clock, House, a_house, an_event

FLOW = """# Ours.
[policy]
onboarding_without_consent = true

# Who is new is welcomed.
[[automation]]
name = "welcome"
on = ["member_added"]
purpose = "onboarding"
email = "welcome"   # the short one
[[automation.then]]
name = "first-week"
email = "yoga-offer"
after = "7d"

# Who likes yoga.
[[automation]]
name = "yoga"
on = ["join_requested"]
purpose = "promotional"
email = "yoga-offer"
groups = ["Trail*"]
[automation.answers]
any = ["yoga", "pilat*"]
none = ["no yoga"]

[[automation]]
name = "teachers"
on = ["join_requested"]
decide = "approve"
[automation.answers]
any = ["certified teacher"]
"""
OTHER = SiteId("another-site")


@pytest.fixture
def house(database: Database, clock: Clock) -> House:
    found = a_house(database, clock, FLOW)
    found.hear(an_event(clock))
    found.work()
    return found


def visitor(house: House, role: Role = Role.MANAGER, reach: Reach = Reach()) -> Visitor:  # noqa: B008 (a value)
    return a_visitor(house, *pages.PAGES, role=role, reach=reach)


def newest(house: House) -> str:
    return str(house.services.book.newest().text)


def base(answer: httpx.Response) -> str:
    found = re.search(r'name="base" value="(\d+)"', answer.text)
    assert found, text_of(answer)
    return found[1]


# Looking.


def test_every_automation_is_a_sentence_with_its_state_and_what_became_of_its_letters(house: House):
    shown = text_of(visitor(house).get("/automations"))
    assert "When somebody becomes a member of any group, write them welcome ." in shown
    assert "After 7 days, offer" not in shown
    assert "After 7 days, write them yoga-offer , unless they have replied." in shown
    assert (
        "When somebody asks to join Trail* and mentions yoga or pilat* , but not no yoga , offer them"
        in shown
    )
    assert "1 waits · 1 sent" in shown
    assert "Decides; writes no letter" in shown


def test_who_waits_for_a_step_is_named_with_the_time(house: House):
    house.wix.members[ANN] = Member(ANN, first_name="Ann", last_name="Abel", email="ann@example.com")
    answer = visitor(house).get("/automations/named/welcome")
    assert answer.status_code == 200, text_of(answer)
    shown = text_of(answer)
    assert "Ann Abel" in shown
    assert "first-week" in shown
    flow = visitor(house).get("/automations/named/welcome/flow", headers={"hx-request": "true"})
    assert "Ann Abel" in text_of(flow)
    assert "<html" not in flow.text


def test_a_long_list_of_who_waits_goes_on_where_it_ended(house: House):
    for number in range(60):
        house.hear(an_event(house.clock, id=f"more{number}", member=f"m{number}"))
        house.wix.memberships[RUNNERS, MemberId(f"m{number}")] = Membership("joined")
        house.wix.members[MemberId(f"m{number}")] = Member(
            MemberId(f"m{number}"), first_name=f"Number {number}", email=f"m{number}@example.com"
        )
    house.turn()
    first = visitor(house).get("/automations/named/welcome")
    following = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert following, text_of(first)
    second = visitor(house).get(following[1].replace("&amp;", "&"))
    seen = [set(re.findall(r"Number \d+", text_of(page))) for page in (first, second)]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) >= 58


@pytest.mark.parametrize("path", ["", "/named/welcome", "/history", "/history/1", "/text", "/export"])
def test_a_reader_looks_and_is_shown_nothing_to_press(house: House, path: str):
    answer = visitor(house, Role.READER).get(f"/automations{path}")
    assert answer.status_code == 200, text_of(answer)
    forms = re.findall(r'<form[^>]*action="([^"]+)"', answer.text)
    assert [form for form in forms if not form.endswith(("/try#trial", "/history/1"))] == []


CHANGES = [
    ("/automations/switch", {"kind": "automation", "name": "welcome", "on": ""}),
    ("/automations/new", {"name": "new", "on": "member_added", "email": "welcome", "purpose": "onboarding"}),
    ("/automations/named/welcome/edit", {"after": "1d"}),
    ("/automations/named/welcome/move", {"by": "1"}),
    ("/automations/named/welcome/remove", {}),
    ("/automations/policy", {"send": ""}),
    ("/automations/text", {"text": "[policy]\nsend = false\n"}),
    ("/automations/history/1/back", {}),
]


@pytest.mark.parametrize(("path", "form"), CHANGES)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_only_who_manages_every_site_changes_anything(house: House, path: str, form: dict[str, str]):
    with house.database.begin() as tx:
        connect(tx, OTHER)
    of_this_site = Reach(frozenset({SITE}))
    before = newest(house)
    for role, reach in (
        (Role.READER, Reach()),
        (Role.GROUP_ADMIN, Reach(frozenset({SITE}), frozenset({RUNNERS}))),
        (Role.MANAGER, of_this_site),
    ):
        answer = visitor(house, role, reach).post(path, {"base": "1", **form})
        assert answer.status_code == 403, (role, text_of(answer))
    assert newest(house) == before
    seen = text_of(visitor(house, Role.MANAGER, of_this_site).get("/automations"))
    assert "only who manages all of them changes them" in seen


def test_a_group_s_admin_does_not_see_the_automations(house: House):
    reach = Reach(frozenset({SITE}), frozenset({RUNNERS}))
    assert visitor(house, Role.GROUP_ADMIN, reach).get("/automations").status_code == 403


def test_the_manager_of_the_only_site_manages_every_site(house: House):
    answer = visitor(house, Role.MANAGER, Reach(frozenset({SITE}))).post(*CHANGES[0], headers={})
    assert answer.status_code == 422  # it does not say which version
    answer = visitor(house, Role.MANAGER, Reach(frozenset({SITE}))).post(
        CHANGES[0][0], {"base": "1", **CHANGES[0][1]}
    )
    assert answer.status_code == 303


# Small changes.


def test_a_switch_turns_one_automation_off_and_on_again_and_leaves_the_rest_as_it_was(house: House):
    somebody = visitor(house)
    told = somebody.follow(
        somebody.post("/automations/switch", {"kind": "automation", "name": "welcome", "on": "", "base": "1"})
    )
    assert "Switched off" in text_of(told)
    head = '[[automation]]\n{}name = "welcome"'
    assert newest(house) == FLOW.replace(head.format(""), head.format("enabled = false\n"))
    assert not house.services.book.current().automations[0].enabled
    somebody.follow(
        somebody.post(
            "/automations/switch", {"kind": "automation", "name": "welcome", "on": "1", "base": "2"}
        )
    )
    assert house.services.book.current().automations[0].enabled
    assert parse_automations(newest(house)) == parse_automations(FLOW)


def test_moving_keeps_comments_with_what_they_speak_of(house: House):
    somebody = visitor(house)
    somebody.follow(somebody.post("/automations/named/yoga/move", {"by": "-1", "base": "1"}))
    text = newest(house)
    assert text.index('# Who likes yoga.\n[[automation]]\nname = "yoga"') < text.index("# Who is new")
    assert [one.name for one in parse_automations(text).automations][:2] == ["yoga", "welcome"]


def test_removing_takes_its_comment_along_and_the_history_has_it(house: House):
    somebody = visitor(house)
    somebody.follow(somebody.post("/automations/named/yoga/remove", {"base": "1"}))
    assert "likes yoga" not in newest(house)
    history = text_of(somebody.get("/automations/history/2"))
    assert "taken away: # Who likes yoga." in history


# Forms.


def shown_form(somebody: Visitor, path: str) -> dict[str, object]:
    """What a browser would send back unchanged."""
    answer = somebody.get(path)
    assert answer.status_code == 200, text_of(answer)
    form = answer.text[answer.text.index("<form") :]
    found: dict[str, object] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form):
        found[name] = unescape(value)
    for name, value in re.findall(r'<input id="f-[^"]+" name="([^"]+)" type="\w+" value="([^"]*)"', form):
        found[name] = unescape(value)
    for name, value in re.findall(
        r'<textarea id="f-[^"]+" name="([^"]+)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL
    ):
        found[name] = unescape(value)
    for name, options in re.findall(
        r'<select id="f-[^"]+" name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL
    ):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found[name] = chosen[1] if chosen else ""
    for name, value in re.findall(r'type="checkbox" name="([^"]+)" value="([^"]*)" checked', form):
        found.setdefault(name, [])
        found[name] = [*found[name], value]  # type: ignore[misc] # a list
    return found


@pytest.mark.parametrize("name", ["welcome", "yoga", "teachers"])
def test_a_form_that_is_sent_back_unchanged_changes_nothing(house: House, name: str):
    somebody = visitor(house)
    path = f"/automations/named/{name}/edit"
    answer = somebody.post(path, shown_form(somebody, path))
    assert "Nothing was changed." in text_of(somebody.follow(answer))
    assert newest(house) == FLOW


def test_each_field_of_the_form_arrives_in_the_text_and_nothing_else_is_touched(house: House):
    somebody = visitor(house)
    path = "/automations/named/yoga/edit"
    form = shown_form(somebody, path) | {
        "on": ["join_requested", "join_approved"],
        "groups": "Trail*\nYoga in Rome",
        "any": "yoga\nswim",
        "none": "",
        "after": "2d",
        "once_per": "join",
        "note": "for the summer",
    }
    somebody.follow(somebody.post(path, form))
    yoga = next(one for one in house.services.book.current().automations if one.name == "yoga")
    assert (yoga.on, yoga.groups, yoga.after_s, yoga.once_per) == (
        {"join_requested", "join_approved"},
        ("Trail*", "Yoga in Rome"),
        172800,
        "join",
    )
    assert yoga.answers is not None
    assert (yoga.answers.any, yoga.answers.none) == (("yoga", "swim"), ())
    before, after = FLOW.split("# Who likes yoga."), newest(house).split("# Who likes yoga.")
    assert before[0] == after[0]
    assert (
        before[1].split('[[automation]]\nname = "teachers"')[1]
        == after[1].split('[[automation]]\nname = "teachers"')[1]
    )
    assert "for the summer" in text_of(somebody.get("/automations/history"))


def test_steps_are_added_changed_and_taken_away_in_the_form(house: House):
    somebody = visitor(house)
    path = "/automations/named/welcome/edit"
    form = shown_form(somebody, path)
    form |= {
        "step-1-name": "later",
        "step-1-email": "welcome",
        "step-1-after": "9d",
        "step-1-unless_replied": "",
        "step-0-after": "8d",
    }
    somebody.follow(somebody.post(path, form))
    flow = house.services.book.current().automations[:3]
    assert [(one.name, one.after_s / 86400, one.unless_replied) for one in flow[1:]] == [
        ("welcome.first-week", 8, True),
        ("welcome.later", 9, False),
    ]
    form = shown_form(somebody, path) | {"step-0-name": "", "step-0-email": ""}
    somebody.follow(somebody.post(path, form))
    assert [one.name for one in house.services.book.current().automations[:2]] == ["welcome", "welcome.later"]


def test_what_is_wrong_stands_beside_its_field_and_what_was_typed_stays(house: House):
    somebody = visitor(house)
    path = "/automations/named/yoga/edit"
    form = shown_form(somebody, path) | {"after": "three days", "any": "yoga\n*", "note": "a note"}
    answer = somebody.post(path, form)
    assert answer.status_code == 422
    after = re.search(r'id="e-after"><bdi>([^<]+)', answer.text)
    assert after
    assert after[1].startswith("must be a length of time, such as")
    assert 'id="e-any"' in answer.text
    assert "three days" in answer.text
    assert 'value="a note"' in answer.text
    assert newest(house) == FLOW


def test_a_new_automation_stands_after_the_others(house: House):
    somebody = visitor(house)
    form = {
        "base": "1",
        "name": "goodbye",
        "on": "member_removed",
        "email": "request-declined",
        "purpose": "onboarding",
        "groups": "*",
        "after": "0s",
        "once_per": "member",
    }
    somebody.follow(somebody.post("/automations/new", form))
    assert newest(house) == FLOW + (
        '\n[[automation]]\nname = "goodbye"\non = ["member_removed"]\nemail = "request-declined"\n'
        'purpose = "onboarding"\n'
    )
    again = somebody.post("/automations/new", {**form, "base": "2"})
    assert again.status_code == 422
    assert "must be unique" in text_of(again)


def test_two_who_change_at_once_lose_nothing(house: House):
    one, other = visitor(house), visitor(house)
    path = "/automations/named/yoga/edit"
    forms = [shown_form(somebody, path) for somebody in (one, other)]
    one.follow(one.post(path, forms[0] | {"after": "1d"}))
    late = other.post(path, forms[1] | {"groups": "Chess*"})
    assert late.status_code == 409
    assert "Somebody else changed the automations meanwhile" in text_of(late)
    assert "Chess*" in late.text
    assert base(late) == "1"
    assert 'added: after = "1d"' in text_of(late)
    assert "Chess" not in newest(house)
    late = other.post("/automations/text", {"base": "1", "text": "[policy]\n# mine\n"})
    assert (late.status_code, "# mine" in late.text) == (409, True)
    late = other.post("/automations/named/yoga/move", {"by": "1", "base": "1"})
    assert late.status_code == 409
    assert 'after = "1d"' in newest(house)


def pressed_again(somebody: Visitor, path: str, form: dict[str, object]) -> httpx.Response:
    """A form that came back because others saved meanwhile, sent once more as its page has it."""
    late = somebody.post(path, form)
    assert late.status_code == 409, text_of(late)
    hidden = dict(re.findall(r'<input type="hidden" name="(base|seen)" value="(\d+)"', late.text))
    return somebody.follow(somebody.post(path, form | hidden))


def test_a_stop_that_somebody_else_pressed_survives_a_policy_form_that_was_open(house: House):
    ada, bob = visitor(house), visitor(house)
    form = shown_form(bob, "/automations/policy")
    ada.follow(ada.post("/automations/policy", shown_form(ada, "/automations/policy") | {"send": ""}))
    pressed_again(bob, "/automations/policy", form | {"max_age": "2d"})
    policy = house.services.book.current().policy
    assert (policy.send, policy.max_age_s) == (False, 2 * 86400)


def test_what_somebody_else_changed_survives_a_form_that_was_open(house: House):
    ada, bob = visitor(house), visitor(house)
    path = "/automations/named/yoga/edit"
    form = shown_form(bob, path)
    ada.follow(ada.post(path, shown_form(ada, path) | {"groups": "Chess*", "none": "no yoga\nnever"}))
    pressed_again(bob, path, form | {"after": "1d", "any": "yoga\nswim"})
    yoga = house.services.book.current().named("yoga")
    assert yoga is not None
    assert yoga.answers is not None
    assert (yoga.groups, yoga.after_s) == (("Chess*",), 86400)
    assert (yoga.answers.any, yoga.answers.none) == (("yoga", "swim"), ("no yoga", "never"))


def test_steps_that_somebody_else_changed_survive_a_form_that_was_open(house: House):
    ada, bob = visitor(house), visitor(house)
    path = "/automations/named/welcome/edit"
    form = shown_form(bob, path)
    added = {"step-1-name": "later", "step-1-email": "welcome", "step-1-after": "9d"}
    ada.follow(ada.post(path, shown_form(ada, path) | {"step-0-after": "8d"} | added))
    pressed_again(bob, path, form | {"step-0-unless_replied": ""})
    flow = house.services.book.current().automations[:3]
    assert [(one.name, one.after_s / 86400, one.unless_replied) for one in flow[1:]] == [
        ("welcome.first-week", 8, False),
        ("welcome.later", 9, True),
    ]


def test_a_form_that_came_back_is_refused_again_when_yet_another_saved(house: House):
    ada, bob = visitor(house), visitor(house)
    form = shown_form(bob, "/automations/policy") | {"max_age": "2d"}
    switch = {"kind": "automation", "name": "yoga", "on": ""}
    ada.follow(ada.post("/automations/switch", {"base": "1", **switch}))
    assert bob.post("/automations/policy", form).status_code == 409
    ada.follow(ada.post("/automations/switch", {"base": "2", **switch, "on": "1"}))
    assert bob.post("/automations/policy", form | {"seen": "2"}).status_code == 409
    bob.follow(bob.post("/automations/policy", form | {"seen": "3"}))


RENAMED = FLOW.replace('name = "welcome"', 'name = "hello"')


def test_a_name_that_has_letters_goes_only_when_somebody_says_so(house: House):
    somebody = visitor(house)
    refused = somebody.post("/automations/text", {"base": "1", "text": RENAMED})
    assert refused.status_code == 409
    assert "These names have letters, and would be gone: welcome , welcome.first-week" in text_of(refused)
    assert 'name="names_go"' in refused.text
    assert newest(house) == FLOW
    said = {"base": "1", "text": RENAMED, "names_go": "1"}
    somebody.follow(somebody.post("/automations/text", said))
    assert newest(house) == RENAMED
    back = somebody.post("/automations/history/1/back", {"base": "2"})
    assert back.status_code == 303  # nothing was written under the new name


def test_going_back_asks_about_names_that_have_letters_too(house: House):
    somebody = visitor(house)
    somebody.follow(somebody.post("/automations/text", {"base": "1", "text": RENAMED, "names_go": "1"}))
    house.clock.move(seconds=5)
    house.hear(an_event(house.clock, id="again", member="m2"))
    house.wix.memberships[RUNNERS, MemberId("m2")] = Membership("joined")
    house.work()
    refused = somebody.post("/automations/history/1/back", {"base": "2"})
    assert (refused.status_code, 'name="names_go"' in refused.text) == (409, True)
    somebody.follow(somebody.post("/automations/history/1/back", {"base": "2", "names_go": "1"}))


def test_a_step_of_another_name_is_asked_about_in_the_form(house: House):
    somebody = visitor(house)
    path = "/automations/named/welcome/edit"
    form = shown_form(somebody, path) | {"step-0-name": "second-week"}
    refused = somebody.post(path, form)
    assert refused.status_code == 409
    assert "would be gone: welcome.first-week" in text_of(refused)
    assert "second-week" in refused.text
    somebody.follow(somebody.post(path, form | {"names_go": "1"}))
    assert "second-week" in newest(house)


def test_a_name_without_letters_changes_freely(house: House):
    somebody = visitor(house)
    text = FLOW.replace('name = "teachers"', 'name = "trainers"')
    somebody.follow(somebody.post("/automations/text", {"base": "1", "text": text}))


def test_a_page_number_before_all_time_begins_at_the_start(house: House):
    for after in ("0001-01-01T00:00:00+14:00 x", "9999-12-31T23:59:59-14:00 x", "x", "2026-01-01"):
        answer = visitor(house).ask("GET", "/automations/named/welcome", params={"after": after})
        assert answer.status_code == 200, after


def test_the_list_asks_each_automation_about_its_own_site_and_groups_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    for number in range(30):
        house.wix.groups[GroupId(f"g{number}")] = Group(GroupId(f"g{number}"), f"Group {number}")
    one = '\n[[automation]]\nname = "a{0}"\non = ["join_requested"]\ndecide = "flag"\nsites = ["{1}"]\n'
    text = FLOW + "".join(one.format(number, OTHER) for number in range(20))
    somebody = visitor(house)
    somebody.follow(somebody.post("/automations/text", {"base": "1", "text": text}))
    asked: list[int] = []

    def count(automations: Automations, *of: Any) -> list[Automation]:
        asked.append(len(automations.automations))
        return applicable(automations, *of)

    monkeypatch.setattr(pages, "applicable", count)
    shown = text_of(somebody.get("/automations"))
    assert shown.count("It fits none of this site's groups") == 20
    assert asked == [1] * 23


def test_the_policy_is_changed_key_by_key(house: House):
    somebody = visitor(house)
    form = shown_form(somebody, "/automations/policy") | {
        "time_zone": "Europe/Rome",
        "quiet_hours": "21:00-08:00",
    }
    somebody.follow(somebody.post("/automations/policy", form))
    policy = house.services.book.current().policy
    assert (policy.time_zone, policy.send, policy.onboarding_without_consent) == ("Europe/Rome", True, True)
    assert "# Ours." in newest(house)
    wrong = somebody.post("/automations/policy", form | {"base": "2", "time_zone": "Rome"})
    assert wrong.status_code == 422
    assert "Europe/Rome" in re.findall(r'id="e-time_zone"><bdi>([^<]+)', wrong.text)[0]


def test_the_whole_text_is_checked_line_by_line_before_it_is_saved(house: House):
    somebody = visitor(house)
    wrong = somebody.post("/automations/text", {"base": "1", "text": FLOW + '[[automation]]\nname = "x y"\n'})
    assert wrong.status_code == 422
    assert "automation.name : line" in text_of(wrong)
    assert newest(house) == FLOW
    somebody.follow(
        somebody.post("/automations/text", {"base": "1", "text": FLOW + "\n# more", "note": "a word"})
    )
    assert newest(house) == FLOW + "\n# more\n"


# History.


def test_the_history_says_who_changed_what_and_an_earlier_version_counts_again(house: House):
    somebody = visitor(house)
    somebody.follow(
        somebody.post("/automations/switch", {"kind": "automation", "name": "yoga", "on": "", "base": "1"})
    )
    history = text_of(somebody.get("/automations/history"))
    assert "user ada" in history
    assert "the file of this installation" in history
    changed = text_of(somebody.get("/automations/history/2"))
    assert "added: enabled = false" in changed
    compared = text_of(somebody.get("/automations/history/1?beside=2"))
    assert "added: enabled = false" in compared
    somebody.follow(somebody.post("/automations/history/1/back", {"base": "2"}))
    assert newest(house) == FLOW
    assert "back to version 1" in text_of(somebody.get("/automations/history"))
    lines = [(row.who, row.before, row.after) for row in Audit(house.database).page(action="automation.edit")]
    assert sorted(lines, key=lambda line: line[2]["version"]) == [
        ("user ada", {"version": 1}, {"version": 2, "source": "edit"}),
        ("user ada", {"version": 2}, {"version": 3, "source": "rollback"}),
    ]


def test_what_is_downloaded_is_the_very_text(house: House):
    answer = visitor(house).get("/automations/export")
    assert answer.text == FLOW
    assert answer.headers["content-disposition"] == 'attachment; filename="automations.toml"'
    assert answer.headers["content-type"].startswith("application/toml")


def test_what_is_not_there_is_said_to_be_so(house: House):
    somebody = visitor(house)
    for path in (
        "named/gone",
        "named/gone/flow",
        "named/welcome.first-week",
        "history/77",
        "history/x",
        "letter/no",
    ):
        assert somebody.get(f"/automations/{path}").status_code == 404, path
    for path, form in (("named/gone/edit", {}), ("named/gone/remove", {}), ("history/9/back", {})):
        assert somebody.post(f"/automations/{path}", {"base": "1", **form}).status_code == 404, path


# Trying, and the letter.


def test_an_answer_is_tried_and_the_words_that_met_it_are_marked(house: House):
    house.wix.groups[RUNNERS] = Group(RUNNERS, "Trail Runners")
    somebody = visitor(house)
    form = {"answer": "I do Pilates & <b>yoga</b>", "group": str(RUNNERS)}
    answer = somebody.post("/automations/named/yoga/try", form)
    assert "Yes, it applies." in text_of(answer)
    assert "<mark>Pilates</mark> &amp; &lt;b&gt;<mark>yoga</mark>&lt;/b&gt;" in answer.text
    answer = somebody.post("/automations/named/yoga/try", form | {"answer": "no yoga for me"})
    assert "No, it does not apply." in text_of(answer)
    assert '<mark class="against">no yoga</mark>' in answer.text
    answer = somebody.post("/automations/named/teachers/try", form | {"answer": "certified teacher"})
    assert "Yes, it applies." in text_of(answer)


def test_what_was_tried_is_kept_nowhere(house: House, caplog: pytest.LogCaptureFixture):
    visitor(house).post("/automations/named/yoga/try", {"answer": "Xanthippe likes yoga"})
    with house.database.read() as tx:
        rows = [*tx.execute(audit.select()), *tx.execute(automation_versions.select())]
    assert "Xanthippe" not in repr(rows) + caplog.text


def test_the_letter_stands_in_a_frame_that_may_do_nothing(house: House):
    somebody = visitor(house)
    page = somebody.get("/automations/named/welcome?step=welcome.first-week")
    frame = re.search(r'<iframe class="letter"[^>]*sandbox[^>]*src="([^"]+)"', page.text)
    assert frame, text_of(page)
    letter = somebody.get(frame[1].replace("&amp;", "&"))
    assert "sandbox" in letter.headers["content-security-policy"]
    assert "default-src 'none'" in letter.headers["content-security-policy"]
    assert "<script" not in letter.text


# Locked, and in trouble.


def test_locked_automations_are_shown_and_not_changed_and_the_page_says_why(house: House, clock: Clock):
    file = File(FLOW, clock(), locked=True)
    book = Book(house.database, file, house.services.renderer.names())
    house.services = replace(house.services, book=book)
    somebody = visitor(house, Role.OWNER)
    shown = somebody.get("/automations")
    assert "Editing is locked here" in text_of(shown)
    assert "/automations/switch" not in shown.text
    for path, form in CHANGES:
        answer = somebody.post(path, {"base": "1", **form})
        assert answer.status_code in (403, 409), (path, text_of(answer))
        assert "Editing is locked here" in text_of(answer)
    assert newest(house) == FLOW


def test_a_version_that_cannot_be_used_is_said_and_can_be_mended(house: House, clock: Clock):
    with_more = Book(house.database, File(FLOW, clock()), {*house.services.renderer.names(), "spring"})
    row = with_more.add(FLOW.replace('"yoga-offer"', '"spring"'), base=1, who="user ada")
    house.services = replace(
        house.services, book=Book(house.database, File(FLOW, clock()), house.services.renderer.names())
    )
    somebody = visitor(house)
    shown = text_of(somebody.get("/automations"))
    assert "version 2 cannot be used" in shown
    assert "write them yoga-offer" in shown
    assert '"spring"' in somebody.get("/automations/text").text.replace("&#34;", '"')
    somebody.follow(somebody.post("/automations/history/1/back", {"base": str(row.number)}))
    assert "cannot be used" not in text_of(somebody.get("/automations"))
    assert describe_version(row)["number"] == 2


@pytest.mark.parametrize("language", ["en", "he"])
def test_every_page_is_drawn_in_every_language(house: House, language: str):
    somebody = a_visitor(house, *pages.PAGES, role=Role.OWNER, language=language)
    for path in (
        "",
        "/new",
        "/policy",
        "/text",
        "/history",
        "/history/1",
        "/named/welcome",
        "/named/yoga",
        "/named/teachers",
        "/named/yoga/edit",
    ):
        answer = somebody.get(f"/automations{path}")
        assert answer.status_code == 200, (path, text_of(answer))
        assert "style=" not in answer.text
        assert not re.search(r"<[^>]* on\w+=", answer.text)


def test_an_empty_file_says_what_to_do_next(database: Database, clock: Clock):
    answer = visitor(a_house(database, clock, "")).get("/automations")
    assert "Make the first one" in text_of(answer)
