import re
from dataclasses import replace
from datetime import time
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import events
from core.automations import (
    KEYS,
    TRIGGERS,
    Automation,
    Automations,
    Follow,
    ReportSchedule,
    applicable,
    parse_automations,
    parse_duration,
    plan,
    spell_duration,
    weigh,
)
from core.community import Answer, Group, GroupId, SiteId
from core.consent import Cap, Policy, Purpose, QuietHours
from core.errors import ConfigError
from core.matching import AnswerRule

SHIPPED = Path(__file__).parents[2] / "config" / "automations.toml"
TEMPLATES = {"welcome", "yoga-offer", "request-received", "request-declined"}
SITE = SiteId("site-1")
GROUP = Group(GroupId("group-1"), "Yoga in Rome")

PROMISED = """
[policy]                        # optional
onboarding_without_consent = false   # true: welcome people who never said yes or no (NOT_SET, PENDING, no record)
max_age = "3d"                  # an event older than this is recorded, not acted on

[[automation]]
name = "welcome"                # unique; part of the once-only key
on = ["member_added"]           # member_added, member_removed, join_requested, join_approved, …
purpose = "onboarding"          # or "promotional"
email = "welcome"               # a folder of templates/email/
groups = ["*"]                  # optional: group ids, or globs on the group's name
sites = ["*"]                   # optional: app instance ids
after = "0s"                    # optional: wait this long ("3d"), then look again whether it still applies
once_per = "member"             # or "join": again when somebody comes back

[[automation]]
name = "yoga-offer"
on = ["join_requested"]
purpose = "promotional"
email = "yoga-offer"
[automation.answers]            # membership answers decide
any = ["yoga", "pilates", "sun salutation"]   # words or phrases; a trailing * matches any ending
all = []
none = ["no yoga"]              # a hit here wins
question = ""                   # optional: only answers to questions whose text contains this

[[automation]]
name = "let-teachers-in"
on = ["join_requested"]
decide = "approve"              # approve, reject (with reason = "…"), or flag for a person
[automation.answers]
any = ["certified teacher"]
"""


def test_the_promised_file_is_read_into_values():
    assert parse_automations(PROMISED, templates=TEMPLATES) == Automations(
        Policy(onboarding_without_consent=False, max_age_s=3 * 86400),
        (
            Automation("welcome", frozenset({"member_added"}), Purpose.ONBOARDING, "welcome"),
            Automation(
                "yoga-offer",
                frozenset({"join_requested"}),
                Purpose.PROMOTIONAL,
                "yoga-offer",
                answers=AnswerRule(any=("yoga", "pilates", "sun salutation"), none=("no yoga",)),
            ),
            Automation(
                "let-teachers-in",
                frozenset({"join_requested"}),
                decide="approve",
                answers=AnswerRule(any=("certified teacher",)),
            ),
        ),
    )


def test_the_shipped_file_has_no_mistake():
    automations = parse_automations(SHIPPED.read_text(encoding="utf-8"), templates=TEMPLATES).automations
    assert {a.email for a in automations if a.email} == TEMPLATES
    assert [a.decide for a in automations if a.decide] == ["reject", "flag", "approve"]


def test_what_the_shipped_file_only_notes_down_is_read_too():
    noted = re.compile(r"^# (?=\[|[a-z_]+ = )", re.MULTILINE)
    text = SHIPPED.read_text(encoding="utf-8")
    found = parse_automations(noted.sub("", text), templates=TEMPLATES | {"first-week"})
    assert found.policy.promotional_cap == Cap(4, 30.0)
    assert found.policy.quiet_hours == QuietHours(time(21), time(8))
    assert [policy.time_zone for policy in found.site_policies.values()] == ["America/New_York"]
    assert [step.name for step in found.automations if step.is_step] == ["welcome.first-week"]
    assert [(report.name, report.every, report.to) for report in found.reports] == [
        ("for-the-board", "week", ("board@example.com",))
    ]
    in_use = parse_automations(text, templates=TEMPLATES)
    assert (in_use.policy, in_use.site_policies, in_use.reports) == (Policy(), {}, ())


def test_every_key_is_explained_in_the_documents_and_no_other():
    text = (SHIPPED.parents[1] / "docs" / "automations.md").read_text(encoding="utf-8")
    explained: dict[str, set[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading = re.match(r"`\[+([\w.]+)\]+`", section)
        if heading:
            explained[heading[1]] = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    wanted = {table: set(keys) for table, keys in KEYS.items() if table not in ("", "policy.site")}
    # Tables of their own have sections of their own.
    wanted["policy"].remove("site")
    wanted["automation"] -= {"answers", "then"}
    assert explained == wanted


def test_an_empty_file_does_nothing():
    assert parse_automations("# nothing yet") == Automations(Policy(), ())


def test_what_is_set_is_kept():
    automation = parse_automations(
        dedent("""\
        \ufeffpolicy = { onboarding_without_consent = true, max_age = "1w" }
        [[automation]]
        name = "a"
        on = ["join_requested", "join_requested"]
        decide = "reject"
        reason = "Sorry."
        email = "x"
        purpose = "onboarding"
        groups = ["Yoga*", "g1"]
        sites = ["s1"]
        after = "1d12h"
        once_per = "join"
        max_age = "2h"
        answers.all = ["a"]
        answers.question = "Which"
        """).replace("\n", "\r\n")
    )
    assert automation == Automations(
        Policy(onboarding_without_consent=True, max_age_s=7 * 86400),
        (
            Automation(
                "a",
                frozenset({"join_requested"}),
                Purpose.ONBOARDING,
                "x",
                "reject",
                "Sorry.",
                ("Yoga*", "g1"),
                ("s1",),
                36 * 3600,
                "join",
                AnswerRule(all=("a",), question="Which"),
                7200,
            ),
        ),
    )


POLICY = """
[policy]
onboarding_without_consent = true
max_age = "1d"
not_after = "2d"
promotional_cap = "4 per 30d"
quiet_hours = "21:00-08:30"
time_zone = "Europe/Berlin"
send = true
"""


def test_the_policy_is_read_into_values():
    assert parse_automations(POLICY).policy == Policy(
        onboarding_without_consent=True,
        max_age_s=86400,
        not_after_s=2 * 86400,
        promotional_cap=Cap(4, 30.0),
        quiet_hours=QuietHours(time(21), time(8, 30)),
        time_zone="Europe/Berlin",
        send=True,
    )
    assert parse_automations("[policy]").policy == Policy(
        onboarding_without_consent=False,
        max_age_s=3 * 86400,
        not_after_s=7 * 86400,
        promotional_cap=None,
        quiet_hours=None,
        time_zone="UTC",
        send=True,
    )


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("onboarding_without_consent = false", {"onboarding_without_consent": False}),
        ('max_age = "3h"', {"max_age_s": 3 * 3600}),
        ('not_after = "1w"', {"not_after_s": 7 * 86400}),
        ('promotional_cap = "1 per 12h"', {"promotional_cap": Cap(1, 0.5)}),
        ('promotional_cap = "none"', {"promotional_cap": None}),
        ('quiet_hours = "00:00-06:00"', {"quiet_hours": QuietHours(time(0), time(6))}),
        ('quiet_hours = "none"', {"quiet_hours": None}),
        ('time_zone = "America/New_York"', {"time_zone": "America/New_York"}),
        ("send = false", {"send": False}),
        ("", {}),
    ],
)
def test_a_site_may_have_it_otherwise_and_the_rest_is_as_for_all(line, changed):
    found = parse_automations(f'{POLICY}[policy.site."{SITE}"]\n{line}')
    assert found.policy_of(SITE) == replace(found.policy, **changed)
    assert found.policy_of(SiteId("site-2")) == found.policy
    elsewhere = parse_automations(f'[policy.site."{SITE}"]\n{line}\n{POLICY}')
    assert elsewhere == found, "the order of the tables means nothing"


def test_an_automation_without_an_age_of_its_own_has_its_sites():
    found = parse_automations(
        f'[policy]\nmax_age = "2d"\n[policy.site."{SITE}"]\nmax_age = "1h"\n'
        + an_automation()
        + an_automation(name='"b"', max_age='"5m"')
    )
    first, second = found.automations
    assert [found.max_age_s(first, SITE), found.max_age_s(second, SITE)] == [3600, 300]
    assert [found.max_age_s(first, SiteId("x")), found.max_age_s(second, SiteId("x"))] == [2 * 86400, 300]


A_CAP = "must be a number of letters and a length of time in quotes, such as"
HOURS = "must be two times of day in quotes, such as"
A_ZONE = "must be the name of a time zone in quotes, such as"


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("promotional_cap", "4", A_CAP),
        ("promotional_cap", '"4"', A_CAP),
        ("promotional_cap", '"4 in 30d"', A_CAP),
        ("promotional_cap", '"four per 30d"', A_CAP),
        ("promotional_cap", '"-1 per 30d"', A_CAP),
        ("promotional_cap", '"4 per 30d, 2 per 1d"', A_CAP),
        ("promotional_cap", '"None"', A_CAP),
        ("promotional_cap", '"4 per 30"', "must be a length of time in quotes, such as"),
        ("promotional_cap", '"4 per 0d"', "must be longer: letters are counted over this time"),
        ("promotional_cap", '"4 per 2y"', "must be a length of time in quotes, such as"),
        ("promotional_cap", '"4 per 366d"', "must be at most 365d"),
        ("promotional_cap", '"0 per 30d"', "must let at least 1 letter through; `send = false` switches"),
        ("quiet_hours", "21", HOURS),
        ("quiet_hours", '"21-8"', HOURS),
        ("quiet_hours", '"21:00-24:00"', HOURS),
        ("quiet_hours", '"21:60-08:00"', HOURS),
        ("quiet_hours", '"9:00-10:00"', HOURS),
        ("quiet_hours", '"21:00 to 08:00"', HOURS),
        ("quiet_hours", '"08:00-08:00"', "must end at another time than they begin"),
        ("time_zone", "1", A_ZONE),
        ("time_zone", '"Berlin"', 'did you mean "Europe/Berlin"?'),
        ("time_zone", '"new york"', 'did you mean "America/New_York"?'),
        ("time_zone", '"europe/berlin"', 'did you mean "Europe/Berlin"?'),
        ("time_zone", '"Europe/Berlim"', 'did you mean "Europe/Berlin"?'),
        ("time_zone", '"Europe"', A_ZONE),
        ("time_zone", '"+02:00"', A_ZONE),
        ("time_zone", '""', A_ZONE),
        ("time_zone", '"../../etc/passwd"', A_ZONE),
        ("not_after", '"0s"', "must be longer: no letter would ever go out"),
        ("not_after", '"soon"', "must be a length of time in quotes, such as"),
        ("send", '"no"', "must be true or false"),
        ("send", "0", "must be true or false"),
        ("quiet_hour", '"21:00-08:00"', 'is not known here; did you mean "quiet_hours"?'),
    ],
)
@pytest.mark.parametrize("table", ["policy", f"policy.site.{SITE}"])
def test_each_mistake_of_a_policy_is_named_with_line_field_and_value(table, key, value, what):
    (problem,) = problems_of(f"# a note\n[{table}]\n{key} = {value}")
    assert_names(problem, 3, f"{table}.{key}", what, value)


@pytest.mark.parametrize(
    ("text", "line", "field", "what", "got"),
    [
        ("[policy]\nsite = 3", 2, "policy.site", "must be a table for each site: write [policy.site.", "3"),
        ("[[policy.site]]", 1, "policy.site", "must be a table for each site: write [policy.site.", "[{}]"),
        ("[policy.site]\nsend = true", 2, "policy.site.send", "must be a table for each site", "true"),
        ('[policy.site."*"]', 1, "policy.site.*", "must be named by the app instance id of one site", '"*"'),
        ("[policy.site.a]\nsite = 1", 2, "policy.site.a.site", "is not known here", "1"),
        ("quiet_hours = 1", 1, "quiet_hours", "is not known here: it belongs below [policy]", "1"),
    ],
)
def test_mistakes_around_sites_are_named_too(text, line, field, what, got):
    (problem,) = problems_of(text)
    assert_names(problem, line, field, what, got)


# Reports.

A_REPORT = '[[report]]\nname = "board"\nevery = "week"\nto = ["a@b.example"]\n'


def test_a_report_is_read_with_what_it_leaves_out():
    (report,) = parse_automations(A_REPORT).reports
    assert report == ReportSchedule("board", "week", ("a@b.example",))
    assert (report.weekday, report.at, report.top, report.idle_days) == (0, time(8), 10, 90)
    assert "a@b.example" not in repr(report)


def test_all_that_a_report_says_is_kept():
    text = A_REPORT + 'on = "friday"\nat = "17:05"\nsites = ["a*"]\ntop = 3\nidle_days = 30\n'
    (report,) = parse_automations(text).reports
    assert (report.weekday, report.at, report.top, report.idle_days) == (4, time(17, 5), 3, 30)
    assert (report.is_for(SiteId("Abc")), report.is_for(SiteId("bc"))) == (True, False)


def test_the_same_address_twice_is_one():
    text = A_REPORT.replace('["a@b.example"]', '["a@b.example", "c@b.example", "a@b.example"]')
    assert parse_automations(text).reports[0].to == ("a@b.example", "c@b.example")


@pytest.mark.parametrize(
    ("text", "line", "field", "what", "got"),
    [
        (A_REPORT.replace("week", "year"), 3, "report.every", "must be day, week or month", '"year"'),
        (A_REPORT + 'on = "mon"', 5, "report.on", 'did you mean "monday"?', '"mon"'),
        (
            A_REPORT.replace("week", "day") + 'on = "monday"',
            5,
            "report.on",
            "has no effect without",
            '"monday"',
        ),
        (A_REPORT + "on = 1", 5, "report.on", "must be a text", "1"),
        (A_REPORT + 'at = "8:00"', 5, "report.at", "must be a time of day in quotes", '"8:00"'),
        (A_REPORT + "at = 08:00:00", 5, "report.at", "must be a time of day in quotes", '"08:00:00"'),
        (A_REPORT + "top = 0", 5, "report.top", "must be from 1 to 100", "0"),
        (A_REPORT + "top = 101", 5, "report.top", "must be from 1 to 100", "101"),
        (A_REPORT + "top = true", 5, "report.top", "must be a whole number", "true"),
        (A_REPORT + "idle_days = 1.5", 5, "report.idle_days", "must be a whole number", "1.5"),
        (A_REPORT + "idle_days = 3651", 5, "report.idle_days", "must be from 1 to 3650", "3651"),
        (A_REPORT + "sites = []", 5, "report.sites", "is empty, so that this never applies", "[]"),
        (A_REPORT.replace('"a@b.example"', ""), 4, "report.to", "is missing: it lists the addresses", "[]"),
        (A_REPORT.replace("a@b.example", "board"), 4, "report.to", "must be one address", '"board"'),
        (
            A_REPORT.replace("a@b.example", "A <a@b.example>"),
            4,
            "report.to",
            "must be one",
            '"A <a@b.example>"',
        ),
        (A_REPORT.replace('"a@b.example"', "1"), 4, "report.to", "must be a text in", "1"),
        (A_REPORT + "tops = 3", 5, "report.tops", 'did you mean "top"?', "3"),
        ("report = 1", 1, "report", "write [[report]], with double brackets", "1"),
        ("[report]", 1, "report", "write [[report]], with double brackets", "{}"),
    ],
)
def test_each_mistake_of_a_report_is_named_with_line_field_and_value(text, line, field, what, got):
    assert_names(problems_of(text)[0], line, field, what, got)


def test_what_a_report_needs_is_missed_by_name():
    problems = problems_of("[[report]]\ntop = 1")
    assert [problem.split(": ")[1] for problem in problems] == ["report.name", "report.every", "report.to"]


def test_no_two_reports_have_the_same_name_and_no_more_than_twenty_readers():
    (problem,) = problems_of(A_REPORT + A_REPORT)
    assert_names(problem, 6, "report.name", "must be unique, and is taken on line 2", '"board"')
    many = ", ".join(f'"{number}@b.example"' for number in range(21))
    (problem,) = problems_of(A_REPORT.replace('"a@b.example"', many))
    assert "report.to: must be at most 20 addresses" in problem


# Groups that are followed.

A_FOLLOW = '[[follow]]\nrules_of = "House Rules"\n'


def test_a_follow_is_read_with_what_it_leaves_out():
    (follow,) = parse_automations(A_FOLLOW).follows
    assert follow == Follow("House Rules", ("*",), ("*",), "House Rules")
    assert follow.is_for(SITE)


def test_all_that_a_follow_says_is_kept():
    text = A_FOLLOW + 'to_groups = ["Yoga*", "g1"]\nsites = ["site-*"]\nname = "house"\n'
    (follow,) = parse_automations(text).follows
    assert follow == Follow("House Rules", ("Yoga*", "g1"), ("site-*",), "house")
    assert (follow.is_for(SiteId("site-2")), follow.is_for(SiteId("other"))) == (True, False)


@pytest.mark.parametrize(
    ("rules_of", "names"),
    [
        ("house  rules", True),
        ("HOUSE RULES", True),
        ("9e2b7c64", True),
        ("House", False),
        ("9E2B7C64", False),
        ("Hous? Rules", False),
    ],
)
def test_one_group_is_followed_by_its_name_or_its_id(rules_of, names):
    assert Follow(rules_of).names(Group(GroupId("9e2b7c64"), "House Rules")) is names


@pytest.mark.parametrize(
    ("text", "line", "field", "what", "got"),
    [
        ("[[follow]]", 1, "follow.rules_of", "is missing: it is the id or the name", "nothing"),
        (A_FOLLOW.replace("House Rules", " "), 2, "follow.rules_of", "names no group", '" "'),
        (A_FOLLOW.replace("House", "*"), 2, "follow.rules_of", "must be one group, not a", '"* Rules"'),
        (A_FOLLOW.replace('"House Rules"', '["a"]'), 2, "follow.rules_of", "must be a text in", '["a"]'),
        (A_FOLLOW.replace("House", "H" * 200), 2, "follow.rules_of", "must be at most 100", '"HHH'),
        (A_FOLLOW + "to_groups = []", 3, "follow.to_groups", "is empty, so that this never", "[]"),
        (A_FOLLOW + 'to_groups = ["a", " "]', 3, "follow.to_groups", "fits nothing", '" "'),
        (A_FOLLOW + f'to_groups = ["{"x" * 101}"]', 3, "follow.to_groups", "must be at most 100", '"xxx'),
        (A_FOLLOW + f"to_groups = {['g'] * 1001}", 3, "follow.to_groups", "must be at most 1000", '["g'),
        (A_FOLLOW + 'sites = "a"', 3, "follow.sites", "must be a list of texts", '"a"'),
        (A_FOLLOW + 'name = "House"', 3, "follow.name", 'because keys are made of it; "house"', '"House"'),
        (A_FOLLOW + 'to_group = ["a"]', 3, "follow.to_group", 'did you mean "to_groups"?', '["a"]'),
        (A_FOLLOW + A_FOLLOW, 3, "follow.name", "must be unique, and is taken on line 1", '"House'),
        (A_FOLLOW + 'name = "a"\n' + A_FOLLOW + 'name = "a"', 6, "follow.name", "taken on line 3", '"a"'),
        ("follow = 1", 1, "follow", "write [[follow]], with double brackets", "1"),
        ("[follow]", 1, "follow", "write [[follow]], with double brackets", "{}"),
    ],
)
def test_each_mistake_of_a_follow_is_named_with_line_field_and_value(text, line, field, what, got):
    (problem,) = problems_of(text)
    assert problem.startswith(f"f.toml:{line}: {field}: ")
    assert what in problem
    assert f"(got {got}" in problem


def test_two_follows_of_one_group_go_by_names_of_their_own():
    text = A_FOLLOW + 'name = "a"\nto_groups = ["x"]\n' + A_FOLLOW + 'to_groups = ["y"]'
    assert [follow.name for follow in parse_automations(text).follows] == ["a", "House Rules"]


# Steps.

FLOW = """
[[automation]]
name = "welcome"
on = ["member_added", "join_approved"]
purpose = "onboarding"
email = "welcome"
groups = ["Yoga*"]
sites = ["site-*"]
after = "1h"
once_per = "join"
max_age = "1d"
not_after = "12h"
[[automation.then]]
name = "first-week"
email = "request-received"
after = "7d"
[[automation.then]]
name = "offer"
email = "yoga-offer"
after = "2w"
purpose = "promotional"
unless_replied = false
not_after = "1d"
[automation.answers]
any = ["yoga"]
"""


def test_steps_are_letters_of_the_same_that_go_later():
    first, week, offer = parse_automations(FLOW, templates=TEMPLATES).automations
    assert first == Automation(
        "welcome",
        frozenset({"member_added", "join_approved"}),
        Purpose.ONBOARDING,
        "welcome",
        groups=("Yoga*",),
        sites=("site-*",),
        after_s=3600,
        once_per="join",
        answers=AnswerRule(any=("yoga",)),
        max_age_s=86400,
        not_after_s=12 * 3600,
        flow="welcome",
    )
    assert week == replace(
        first, name="welcome.first-week", email="request-received", after_s=7 * 86400, unless_replied=True
    )
    assert offer == replace(
        first,
        name="welcome.offer",
        email="yoga-offer",
        after_s=14 * 86400,
        purpose=Purpose.PROMOTIONAL,
        not_after_s=86400,
    )
    assert [one.is_step for one in (first, week, offer)] == [False, True, True]


def test_an_automation_without_steps_is_a_flow_of_one_letter():
    (alone,) = parse_automations(an_automation()).automations
    assert alone.flow is None
    found = parse_automations(FLOW + an_automation())
    *flow, last = found.automations
    assert [found.flow_of(one) for one in flow] == [tuple(flow)] * 3
    assert found.flow_of(last) == (last,)


def test_steps_of_an_automation_that_decides_decide_nothing():
    step = "[[automation.then]]\nname = 'later'\nemail = 'welcome'\nafter = '1d'"
    first, later = parse_automations(
        an_automation(decide='"reject"', reason='"Full."') + step, templates=TEMPLATES
    ).automations
    assert (first.decide, first.reason) == ("reject", "Full.")
    assert (later.decide, later.reason) == (None, "")


GOOD_STEP = {"name": '"later"', "email": '"welcome"', "after": '"3d"'}


def a_step(**changes: str | None) -> str:
    """One step, each key on a line of its own; below `an_automation()`, it begins on line 6."""
    values = {**GOOD_STEP, **changes}
    return "\n".join(
        ["[[automation.then]]", *(f"{key} = {value}" for key, value in values.items() if value), ""]
    )


@pytest.mark.parametrize(
    ("changes", "line", "key", "what", "got"),
    [
        ({"name": None}, 6, "name", "is missing", "nothing"),
        ({"name": '"First week"'}, 7, "name", '"first-week" would do', '"First week"'),
        ({"name": '"a.b"'}, 7, "name", "must be 1 to 64 of a-z, 0-9, - and _, the", '"a.b"'),
        ({"name": "3"}, 7, "name", 'must be a text in "quotes"', "3"),
        ({"email": None}, 6, "email", "is missing: a step is a letter", "nothing"),
        ({"email": '"welcom"'}, 8, "email", 'did you mean "welcome"?', '"welcom"'),
        ({"after": None}, 6, "after", "is missing: it says how long after the event this letter", "nothing"),
        ({"after": '"0s"'}, 9, "after", "must be more than the 0s of the letter before it", '"0s"'),
        ({"after": '"3 days"'}, 9, "after", "must be a length of time in quotes, such as", '"3 days"'),
        ({"after": "3"}, 9, "after", "must be a length of time in quotes, such as", "3"),
        ({"purpose": '"advert"'}, 10, "purpose", "must be onboarding or promotional", '"advert"'),
        ({"unless_replied": '"yes"'}, 10, "unless_replied", "must be true or false", '"yes"'),
        ({"not_after": '"0d"'}, 10, "not_after", "must be longer: no letter would ever go out", '"0d"'),
        ({"unless_reply": "true"}, 10, "unless_reply", 'did you mean "unless_replied"?', "true"),
        (
            {"once_per": '"join"'},
            10,
            "once_per",
            "is not known here: its [[automation]] says it for all steps; move it up, above [[automation.then]]",
            '"join"',
        ),
        ({"any": '["x"]'}, 10, "any", "is not known here: it belongs below [automation.answers]", '["x"]'),
    ],
)
def test_each_mistake_of_a_step_is_named_with_line_field_and_value(changes, line, key, what, got):
    text = an_automation() + a_step(**changes) + a_step(name='"last"', after='"4d"')
    (problem,) = problems_of(text, templates=TEMPLATES)
    assert_names(problem, line, f"automation.then.{key}", what, got)


@pytest.mark.parametrize(
    ("first", "later", "line", "text"),
    [
        ("0s", ["3d", "3d"], 13, "must be more than the 3d of the letter before it: every step counts"),
        ("0s", ["1d12h", "1d"], 13, "must be more than the 1d12h of the letter before it: every step"),
        ("3d", ["2d", "4d"], 10, "must be more than the 3d of the letter before it: every step counts"),
        ("0s", ["3d", "2d", "3d"], 13, "must be more than the 3d of the letter before it: every step"),
    ],
)
def test_steps_come_in_their_order(first, later, line, text):
    steps = (a_step(name=f'"s{number}"', after=f'"{after}"') for number, after in enumerate(later))
    automation = an_automation(after=f'"{first}"')
    (problem,) = problems_of(automation + "".join(steps), templates=TEMPLATES)
    assert_names(
        problem, line + (first == "0s"), "automation.then.after", text, problem.rpartition("got ")[2][:-1]
    )


def test_steps_of_a_flow_have_names_of_their_own():
    text = an_automation() + a_step() + a_step(after='"4d"')
    assert problems_of(text, templates=TEMPLATES) == [
        'f.toml:11: automation.then.name: must be unique, and is taken on line 7 (got "later")'
    ]
    two = an_automation() + a_step() + an_automation(name='"b"') + a_step()
    assert [one.name for one in parse_automations(two).automations] == ["a", "a.later", "b", "b.later"]


@pytest.mark.parametrize(
    ("changes", "line", "field", "what", "got"),
    [
        ({"then": "3"}, 6, "automation.then", "must be a list of tables: write [[automation.then]]", "3"),
        ({"then": "[3]"}, 6, "automation.then", "must be a list of tables: write [[automation.then]]", "3"),
        (
            {"unless_replied": "true"},
            6,
            "automation.unless_replied",
            "belongs below an [[automation.then",
            "true",
        ),
        ({"not_after": '"0s"'}, 6, "automation.not_after", "must be longer: no letter would ever go", '"0s"'),
        (
            {"not_after": '"1d"', "email": None, "purpose": None, "decide": '"flag"'},
            4,
            "automation.not_after",
            "has no effect without `email`: it says how late a letter may go",
            '"1d"',
        ),
        (
            {"then": "[]", "email": None, "purpose": None, "decide": '"flag"'},
            4,
            "automation.then",
            "has no effect without `email`: a letter follows upon a letter",
            "[]",
        ),
    ],
)
def test_mistakes_around_steps_are_named_too(changes, line, field, what, got):
    (problem,) = problems_of(an_automation(**changes))
    assert_names(problem, line, field, what, got)


def problems_of(text: str, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_automations(text, file="f.toml", **options)
    return list(caught.value.problems)


GOOD = {"name": '"a"', "on": '["join_requested"]', "purpose": '"onboarding"', "email": '"welcome"'}


def an_automation(**changes: str | None) -> str:
    """One automation, each key on a line of its own from line 2: name, on, purpose, email, then the changes."""
    values = {**GOOD, **changes}
    return "\n".join(["[[automation]]", *(f"{key} = {value}" for key, value in values.items() if value), ""])


def assert_names(problem: str, line: int, field: str, what: str, got: str) -> None:
    assert problem.startswith(f"f.toml:{line}: {field}: ")
    assert what in problem
    assert problem.endswith(f" (got {got})")


@pytest.mark.parametrize(
    ("changes", "line", "field", "what", "got"),
    [
        ({"name": None}, 1, "automation.name", "is missing", "nothing"),
        ({"name": '""'}, 2, "automation.name", "must be 1 to 64 of a-z, 0-9, - and _, the", '""'),
        ({"name": '"Café Día!"'}, 2, "automation.name", '"cafe-dia" would do', '"Café Día!"'),
        ({"name": '"a:b"'}, 2, "automation.name", '"a-b" would do', '"a:b"'),
        ({"name": "7"}, 2, "automation.name", 'must be a text in "quotes"', "7"),
        ({"on": None}, 1, "automation.on", "is missing: it lists member_added,", "nothing"),
        ({"on": "[]"}, 3, "automation.on", "is empty, so that this never applies: it", "[]"),
        (
            {"on": '"member_added"'},
            3,
            "automation.on",
            "must be a list of texts in [brackets]",
            '"member_added"',
        ),
        (
            {"on": '[\n"member_added",\n"Member_Remove"]'},
            5,
            "automation.on",
            'did you mean "member_removed"?',
            '"Member_Remove"',
        ),
        (
            {"on": '["member_added",\n1979-05-27]'},
            4,
            "automation.on",
            'must be a text in "quotes"',
            '"1979-05-27"',
        ),
        ({"purpose": None}, 1, "automation.purpose", "is missing: with `email` it must be", "nothing"),
        ({"purpose": '"promotion"'}, 4, "automation.purpose", 'did you mean "promotional"?', '"promotion"'),
        ({"email": None}, 1, "automation", "does nothing: `email` and `decide` are both", "nothing"),
        (
            {"email": '"../etc"'},
            5,
            "automation.email",
            "must be the name of a folder in templates/email/",
            '"../etc"',
        ),
        ({"decide": '"aprove"'}, 6, "automation.decide", 'did you mean "approve"?', '"aprove"'),
        ({"decide": "true"}, 6, "automation.decide", 'must be a text in "quotes"', "true"),
        (
            {"decide": '"flag"', "on": '["join_requested",\n"join_approved"]'},
            4,
            "automation.on",
            "leaves nothing to decide: `decide` goes with",
            '"join_approved"',
        ),
        ({"reason": '"no"'}, 6, "automation.reason", 'has no effect without decide = "reject"', '"no"'),
        (
            {"decide": '"flag"', "reason": '"no"'},
            7,
            "automation.reason",
            'has no effect without decide = "reject"',
            '"no"',
        ),
        (
            {
                "decide": '"reject"',
                "reason": f'"{"n" * 1001}"',
            },
            7,
            "automation.reason",
            "must be at most 1000 characters, and has 1001",
            f'"{"n" * 78}…',
        ),
        (
            {"decide": '"reject"', "reason": '"a\\u0000b"'},
            7,
            "automation.reason",
            "must not hold control characters",
            '"a\\u0000b"',
        ),
        ({"groups": "[]"}, 6, "automation.groups", "is empty, so that this never applies: leave", "[]"),
        ({"sites": "[]"}, 6, "automation.sites", "is empty, so that this never applies: leave", "[]"),
        ({"groups": '["a",\n" "]'}, 7, "automation.groups", "fits nothing", '" "'),
        ({"after": "3"}, 6, "automation.after", "must be a length of time in quotes, such as", "3"),
        ({"after": "true"}, 6, "automation.after", "must be a length of time in quotes, such as", "true"),
        (
            {"after": '"3 days"'},
            6,
            "automation.after",
            "must be a length of time in quotes, such as",
            '"3 days"',
        ),
        ({"after": '"-3d"'}, 6, "automation.after", "cannot be negative", '"-3d"'),
        ({"after": '"366d"'}, 6, "automation.after", "must be at most 365d", '"366d"'),
        (
            {"after": '"1h"', "email": None, "purpose": None, "decide": '"flag"'},
            4,
            "automation.after",
            "has no effect without `email`: only letters",
            '"1h"',
        ),
        (
            {"once_per": '"Join"'},
            6,
            "automation.once_per",
            'must be member or join; did you mean "join"?',
            '"Join"',
        ),
        ({"emial": '"x"'}, 6, "automation.emial", 'is not known here; did you mean "email"?', '"x"'),
        ({'"od\\nd\\u2028"': "0xff"}, 6, "automation.od d ", "is not known here", "255"),
        ({"any": '["x"]'}, 6, "automation.any", "is not known here: it belongs below", '["x"]'),
        (
            {"onboarding_without_consent": "true"},
            6,
            "automation.onboarding_without_consent",
            "is not known here: it belongs below [policy]",
            "true",
        ),
        ({"max_age": "3"}, 6, "automation.max_age", "must be a length of time in quotes, such as", "3"),
        ({"max_age": '"0s"'}, 6, "automation.max_age", "must be longer: no event would ever be", '"0s"'),
        (
            {"answers": '["x"]'},
            6,
            "automation.answers",
            "must be a table: write [automation.answers]",
            '["x"]',
        ),
        (
            {"answers": "{}"},
            6,
            "automation.answers",
            "can never match: `any`, `all` and `none` are",
            "nothing",
        ),
        (
            {"answers": "{ any = [], all = [], none = [] }"},
            6,
            "automation.answers",
            "can never match: `any`, `all` and `none` are",
            "nothing",
        ),
        (
            {"answers.any": '"yoga"'},
            6,
            "automation.answers.any",
            "must be a list of texts in [brackets]",
            '"yoga"',
        ),
        (
            {"answers.any": '["a",\n"*"]'},
            7,
            "automation.answers.any",
            "holds no word: letters or digits are looked",
            '"*"',
        ),
        (
            {"answers.all": '["a",\n"y*a"]'},
            7,
            "automation.answers.all",
            "a `*` may stand only at the very end",
            '"y*a"',
        ),
        (
            {"answers.none": '["a",\n""]'},
            7,
            "automation.answers.none",
            "holds no word: letters or digits are looked",
            '""',
        ),
        (
            {"answers.any": '["a",\n"Yóga"]', "answers.none": '["yoga"]'},
            7,
            "automation.answers.any",
            'can never match: where it is met, "yoga" of',
            '"Yóga"',
        ),
        (
            {"answers.any": '["a"]', "answers.question": '"?"'},
            7,
            "automation.answers.question",
            "must hold words of the question's text",
            '"?"',
        ),
        (
            {"answers.any": '["a"]', "answers.once_per": '"join"'},
            7,
            "automation.answers.once_per",
            "is not known here: move it up, above",
            '"join"',
        ),
        (
            {"on": '["join_approved",\n"member_removed"]', "answers.any": '["a"]'},
            4,
            "automation.on",
            "comes without answers: `answers` goes with",
            '"member_removed"',
        ),
    ],
)
def test_each_mistake_is_named_with_line_field_and_value(changes, line, field, what, got):
    (problem,) = problems_of(an_automation(**changes))
    assert_names(problem, line, field, what, got)


@pytest.mark.parametrize(
    ("text", "line", "field", "what", "got"),
    [
        ("\n[[policy]]\n", 2, "policy", "must be one table: write [policy], with", "[{}]"),
        ("[policy]\nmax_age = 3", 2, "policy.max_age", "must be a length of time in quotes, such as", "3"),
        (
            "policy.max_age = '0s'",
            1,
            "policy.max_age",
            "must be longer: no event would ever be acted on",
            '"0s"',
        ),
        (
            "[policy]\n\nonboarding_without_consent = 1",
            3,
            "policy.onboarding_without_consent",
            "must be true or false",
            "1",
        ),
        ("\n\n[automation]\nname = 'a'", 3, "automation", "must be a list of tables: write", '{"name": "a"}'),
        ("automation = [\n1]", 2, "automation", "must be a list of tables: write", "1"),
        ("[[automations]]", 1, "automations", 'is not known here; did you mean "automation"?', "[{}]"),
        ("[answers]", 1, "answers", "is not known here: it belongs below an", "{}"),
        ("\nx = 1.5", 2, "x", "is not known here", "1.5"),
        (
            "x = 0x" + "f" * 5000,
            1,
            "x",
            "is not known here",
            "a number of thousands of digits",
        ),
        ("x = '\ud800'", 1, "TOML", "holds half a character", "nothing"),
    ],
)
def test_mistakes_around_automations_are_named_too(text, line, field, what, got):
    (problem,) = problems_of(text)
    assert_names(problem, line, field, what, got)


@pytest.mark.parametrize(
    ("text", "line", "got"),
    [
        ("a = 1\non = member_added\n", 2, "on = member_added"),
        ("a = 1\nb = [1,\n2\n\n", 3, "2"),
        ("a = 1\na = 2", 2, "a = 2"),
        ("[a]\n\n[a] # again\nb = 1", 3, "[a] # again"),
        ("a = 1\r\nb = x\r\nc = 1", 2, "b = x"),
        ("a = 2020-13-01", 1, "a = 2020-13-01"),
    ],
)
def test_what_is_no_toml_is_named_with_its_line(text, line, got):
    (problem,) = problems_of(text)
    assert problem.startswith(f"f.toml:{line}: TOML: ")
    assert problem.endswith(f'(got "{got}")')


def test_an_unknown_letter_is_named_with_the_nearest_one():
    (problem,) = problems_of(an_automation(email='"welcom"'), templates=TEMPLATES)
    assert_names(problem, 5, "automation.email", 'did you mean "welcome"?', '"welcom"')


def test_a_second_automation_of_the_same_name_is_told_where_the_first_is():
    problem = 'automation.name: must be unique, and is taken on line 2 (got "a")'
    assert problems_of(an_automation() + an_automation()) == [f"f.toml:7: {problem}"]
    on_one_line = "{ name = 'a', on = ['join_requested'], decide = 'flag' }"
    problem = problem.replace("line 2", "line 1")
    assert problems_of(f"automation = [{on_one_line}, {on_one_line}]") == [f"f.toml:1: {problem}"]


def test_all_mistakes_are_named_at_once_in_the_order_of_the_lines():
    text = an_automation(on='["x", 1]', groups="[]", **{"answers.any": '[1, "*"]'}) + "[policy]\nage = 1\n"
    found = [problem.split(": ")[0:2] for problem in problems_of(text + an_automation(name="1"))]
    assert found == [
        ["f.toml:3", "automation.on"],
        ["f.toml:3", "automation.on"],
        ["f.toml:6", "automation.groups"],
        ["f.toml:7", "automation.answers.any"],
        ["f.toml:7", "automation.answers.any"],
        ["f.toml:9", "policy.age"],
        ["f.toml:11", "automation.name"],
    ]


def test_the_message_counts_the_mistakes():
    with pytest.raises(ConfigError, match=r"^f.toml has 1 mistake\n  - f.toml:1: x: "):
        parse_automations("x = 1", file="f.toml")
    with pytest.raises(ConfigError, match=r"^automations.toml has 2 mistakes\n"):
        parse_automations("x = 1\ny = 2")


def test_values_nested_without_end_are_a_mistake_and_no_crash():
    assert len(problems_of("x = " + "[" * 100_000 + "]" * 100_000)) == 1


def test_numbers_without_end_are_a_mistake_and_no_crash():
    assert len(problems_of("x = " + "9" * 5000)) == 1


def test_decide_may_reject_without_a_reason_and_send_a_letter_too():
    assert parse_automations(an_automation(decide='"reject"')).automations[0].reason == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90m", 5400), ("2h", 7200), ("3d", 259_200), ("1w", 604_800), ("1d12h", 129_600),
     ("1w2d3h4m5s", 788_645), ("365d", 31_536_000), ("007s", 7)],
)  # fmt: skip
def test_lengths_of_time_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "3",
        "d",
        "3D",
        "1.5h",
        "1h1d",
        "1d1d",
        "3d ",
        "3 d",
        "1e3s",
        "+3d",
        "-1s",
        "٣d",
        "366d",
        "9" * 5000 + "s",
        "52w2d",
        "3d\n",
        "3days",
    ],
)
def test_other_texts_are_no_lengths_of_time(text):
    with pytest.raises(ValueError, match=r"must be|negative"):
        parse_duration(text)


@given(st.integers(0, 365 * 86400))
def test_a_length_of_time_is_spelled_as_it_is_read(seconds):
    assert parse_duration(spell_duration(seconds)) == seconds


def test_every_event_with_a_trigger_is_known_to_the_file():
    assert TRIGGERS[events.MEMBER_JOINED] == TRIGGERS[events.MEMBER_ADDED] == "member_added"
    assert TRIGGERS[events.MEMBER_LEFT] == TRIGGERS[events.MEMBER_REMOVED] == "member_removed"
    on = "[" + ", ".join(f'"{trigger}"' for trigger in TRIGGERS.values()) + "]"
    assert parse_automations(an_automation(on=on)).automations[0].on == set(TRIGGERS.values())


def listening(name: str = "a", **changes) -> Automation:
    return Automation(name, frozenset({"join_requested"}), **changes)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", True),
        ("yoga*", True),
        ("YOGA IN ROME", True),
        ("yoga  in rome", True),
        ("Ｙｏｇａ*", True),
        ("yoga in [pr]ome", True),
        ("group-1", True),
        ("yoga", False),
        ("group-*", False),
        ("Pilates*", False),
        ("", False),
    ],
)
def test_groups_fit_by_glob_on_the_name_or_by_id(pattern, fits):
    automations = Automations(automations=(listening(groups=("nothing", pattern)),))
    assert bool(applicable(automations, "join_requested", SITE, GROUP)) is fits


@pytest.mark.parametrize("name", ["Yoga [Rome]", "**Stars**", "What?", "a[", "[z-a]"])
def test_a_name_with_signs_of_globs_fits_itself(name):
    automations = Automations(automations=(listening(groups=(name,)),))
    assert applicable(automations, "join_requested", SITE, Group(GroupId("g"), name.upper()))
    assert not applicable(automations, "join_requested", SITE, Group(GroupId("g"), "Yoga"))


def test_sites_fit_by_id_or_glob():
    def found(*sites: str) -> bool:
        return bool(
            applicable(Automations(automations=(listening(sites=sites),)), "join_requested", SITE, GROUP)
        )

    assert found("other", "site-1")
    assert found("SITE-*")
    assert not found("site-2")


def test_the_order_of_the_file_is_kept_and_other_triggers_are_left_out():
    other = Automation("x", frozenset({"member_added"}))
    automations = Automations(automations=(listening("b"), other, listening("a")))
    assert [a.name for a in applicable(automations, "join_requested", SITE, GROUP)] == ["b", "a"]
    assert applicable(automations, "nonsense", SITE, GROUP) == []


YOGA = AnswerRule(any=("yoga",))
GOLF = AnswerRule(any=("golf",))
SAYS_YOGA = (Answer("What?", "yoga"),)


def told(*automations: Automation, answers=SAYS_YOGA) -> list[tuple[bool, str]]:
    outcomes = plan(Automations(automations=automations), "join_requested", SITE, GROUP, answers)
    assert [outcome.automation for outcome in outcomes] == list(automations)
    return [(outcome.applies, outcome.reason) for outcome in outcomes]


def test_the_plan_tells_of_every_listening_automation_why_or_why_not():
    assert told(listening("a"), listening("b", answers=YOGA), listening("c", answers=GOLF)) == [
        (True, "applies to everybody"),
        (True, '"yoga" in the answer to "What?"'),
        (False, 'no answer matched "golf"'),
    ]


def test_the_plan_keeps_the_match():
    (outcome,) = weigh([listening(answers=YOGA)], SAYS_YOGA)
    assert outcome.match is not None
    assert [hit.term for hit in outcome.match.hits] == ["yoga"]


def test_the_first_decision_whose_answers_match_stands():
    assert told(
        listening("golfers", decide="reject", answers=GOLF),
        listening("yogis", decide="flag", answers=YOGA),
        listening("rest", decide="approve", email="welcome", purpose=Purpose.ONBOARDING),
        listening("letter", email="welcome", purpose=Purpose.ONBOARDING),
    ) == [
        (False, 'no answer matched "golf"'),
        (True, '"yoga" in the answer to "What?"'),
        (False, '"yogis" decides: it stands before this one'),
        (True, "applies to everybody"),
    ]


def test_a_step_applies_when_its_automation_does():
    def flow(name: str, **changes) -> tuple[Automation, Automation]:
        first = listening(name, flow=name, **changes)
        return first, replace(first, name=f"{name}.later", decide=None)

    assert told(
        *flow("yogis", answers=YOGA), *flow("golfers", answers=GOLF), *flow("all", decide="flag"),
        *flow("none", decide="approve"),
    ) == [
        (True, '"yoga" in the answer to "What?"'),
        (True, '"yoga" in the answer to "What?"'),
        (False, 'no answer matched "golf"'),
        (False, 'no answer matched "golf"'),
        (True, "applies to everybody"),
        (True, "applies to everybody"),
        (False, '"all" decides: it stands before this one'),
        (False, '"all" decides: it stands before this one'),
    ]  # fmt: skip


def test_answers_that_could_not_be_read_leave_later_decisions_to_a_person():
    rest = listening("rest", decide="approve")
    assert told(
        listening("letter", answers=YOGA),
        listening("golfers", decide="reject", answers=GOLF),
        rest,
        answers=None,
    ) == [
        (False, "the answers could not be read"),
        (False, "the answers could not be read"),
        (False, 'undecided: "golfers" stands before this one, and the answers could not be read'),
    ]
    assert told(rest, answers=None) == [(True, "applies to everybody")]


def test_without_answers_a_rule_on_answers_does_not_apply():
    assert told(listening(answers=YOGA), answers=()) == [(False, "no answers given")]


lines = st.sampled_from(
    [
        *PROMISED.splitlines(),
        "[[automation]]",
        "[automation.answers]",
        "[[automation.then]]",
        "then = [1, {}]",
        "[policy.site.x]",
        "site = {x = 1}",
        "promotional_cap = '1 per x'",
        "quiet_hours = []",
        "time_zone = 'x'",
        "not_after = '1d'",
        "on = []",
        "name = 1",
        "answers = 1",
        "after = 'x'",
        "[[automation.answers]]",
        "[[policy]]",
        "automation = [1, {}]",
        "any = ['*', 'yoga', 1, '']",
        "none = ['y*', 'yoga']",
        "groups = [[]]",
        "purpose = []",
        "decide = {}",
        "reason = 1",
        "policy = 1",
        "[automation]",
        "max_age = ''",
        "[[report]]",
        "every = 'week'",
        "at = '25:00'",
        "to = ['a@b.example', 1]",
        "top = true",
        "report = 1",
        "{",
        '"""',
    ]
)


@given(st.text(max_size=80) | st.lists(lines | st.text(max_size=20), max_size=20).map("\n".join))
def test_any_text_is_read_or_refused_with_lines(text):
    count = text.count("\n") + 1
    problems: tuple[str, ...] = ()
    try:
        parse_automations(text, file="f")
    except ConfigError as error:
        problems = error.problems or ("a mistake without a line",)
    for problem in problems:
        file, line, what = problem.split(":", 2)
        assert file == "f"
        assert 1 <= int(line) <= count
        assert what.endswith(")")
        assert what.isprintable()
        assert len(what) < 500


def test_what_is_switched_off_listens_to_nothing_and_its_steps_neither():
    text = dedent("""\
        [[automation]]
        name = "a"
        enabled = false
        on = ["member_added"]
        purpose = "onboarding"
        email = "welcome"
        [[automation.then]]
        name = "later"
        email = "welcome"
        after = "1d"
        """)
    automations = parse_automations(text)
    assert [one.enabled for one in automations.automations] == [False, False]
    assert applicable(automations, "member_added", SITE, GROUP) == []
    on = parse_automations(text.replace("enabled = false\n", ""))
    assert len(applicable(on, "member_added", SITE, GROUP)) == 2


def test_switched_off_reports_and_follows_are_for_no_site():
    text = (
        '[[report]]\nname = "r"\nevery = "day"\nto = ["a@example.com"]\nenabled = {0}\n'
        '[[follow]]\nrules_of = "A"\nenabled = {0}\n'
    )
    for said, wanted in (("true", True), ("false", False)):
        found = parse_automations(text.format(said))
        assert [found.reports[0].is_for(SITE), found.follows[0].is_for(SITE)] == [wanted, wanted]


def test_enabled_is_true_or_false_and_nothing_else():
    with pytest.raises(ConfigError, match=r"automation\.enabled: must be true or false"):
        parse_automations('[[automation]]\nname = "a"\nenabled = "no"\n')
