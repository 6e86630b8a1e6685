"""`usher email`, `group`, `rules`, `questions`, `report` and `jobs`: what an admin sets off, and what is under way.

Only what each command takes stands here; the work is imported when one is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.consent import Purpose
from core.errors import ConfigError

if TYPE_CHECKING:
    from admin.jobs.followed import Manner
    from admin.recovery import Desk

_KINDS = (
    "group_email",
    "interest_email",
    "create_group",
    "rules_rollout",
    "questions_rollout",
    "groups_report",
)
_STATES = ("previewing", "previewed", "running", "paused", "cancelled", "done", "failed")
_ROW_STATES = (
    "planned",
    "sending",
    "sent",
    "deferred",
    "bounced",
    "done",
    "skipped",
    "failed",
    "in_doubt",
)
_LETTERS = Path(__file__).resolve().parents[2] / "templates" / "email"


class Privacy(StrEnum):
    PUBLIC = "PUBLIC"
    PRIVATE = "PRIVATE"
    SECRET = "SECRET"  # noqa: S105 (a group that nobody finds)


class Format(StrEnum):
    TABLE = "table"
    HTML = "html"
    CSV = "csv"
    JSON = "json"
    PDF = "pdf"


# What a shell offers after Tab. It must never fail: a shell would show the error in the middle of a line.


def _among(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _complete_letter(incomplete: str) -> list[str]:
    with contextlib.suppress(OSError):
        folders = [place.name for place in _LETTERS.iterdir() if place.is_dir()]
        return sorted(name for name in folders if name.startswith(incomplete) and name[0] not in "_.")
    return []


def _complete_job(incomplete: str) -> list[tuple[str, str]]:
    with contextlib.suppress(Exception):
        from admin.recovery import open_desk
        from integrations.store.jobs import Jobs

        with open_desk() as desk:
            rows = Jobs(desk.database).page(limit=20)
        return [(row.id, f"{row.kind}, {row.state}") for row in rows if row.id.startswith(incomplete)]
    return []


def _complete_site(incomplete: str) -> list[str]:
    with contextlib.suppress(Exception):
        from admin.recovery import open_desk
        from integrations.store.sites import Sites

        with open_desk() as desk:
            return [site for site in Sites(desk.database).active() if site.startswith(incomplete)]
    return []


Site = Annotated[
    str | None,
    typer.Option(
        help="App instance id of the site; needless when there is one.", autocompletion=_complete_site
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object at the end, as the API shows it.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return as soon as it runs.")]
Timeout = Annotated[
    str, typer.Option(metavar="TIME", help='Give up when no worker has been alive for so long: "30s", "10m".')
]
Email = Annotated[
    str,
    typer.Argument(
        metavar="EMAIL",
        help="A folder of templates/email/.",
        autocompletion=_complete_letter,
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A value the letter names; repeatable."),
]
Context = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="Values the letter names, as a JSON object.")
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to", metavar="GROUP", help='Id, name or pattern such as "Yoga*"; repeatable; all by default.'
    ),
]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="As `usher jobs list` shows it.", autocompletion=_complete_job)
]

email_app = typer.Typer(help="Write to a group, or to an interest.", no_args_is_help=True)
group_app = typer.Typer(help="Groups for lists of people.", no_args_is_help=True)
rules_app = typer.Typer(help="The rules of many groups.", no_args_is_help=True)
questions_app = typer.Typer(help="The membership questions of many groups.", no_args_is_help=True)
report_app = typer.Typer(help="How the groups fare.", no_args_is_help=True)
jobs_app = typer.Typer(help="What was set off: look at it, stop it, let it go on.", no_args_is_help=True)
for one_command in (group_app, rules_app, questions_app, report_app):
    one_command.callback()(lambda: None)  # a group of commands, also while there is one


def add_to(app: typer.Typer) -> None:
    for name, commands in (
        ("email", email_app),
        ("group", group_app),
        ("rules", rules_app),
        ("questions", questions_app),
        ("report", report_app),
        ("jobs", jobs_app),
    ):
        app.add_typer(commands, name=name)


@email_app.command("group")
def email_group(
    group: Annotated[
        str, typer.Argument(metavar="GROUP", help="Its id, or its name when no other group has it.")
    ],
    email: Email,
    purpose: Annotated[Purpose, typer.Option(help="Decides whose consent is enough.")],
    values: Set = None,
    context: Context = None,
    also_later_joiners: Annotated[
        bool, typer.Option("--also-later-joiners", help="Also to whoever joins after this.")
    ] = False,
    site: Site = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """One letter to all members of a group who may get it."""
    from admin.jobs.followed import run_job
    from admin.jobs.given import check_letter, check_params, read_context

    manner = _manner(yes, no_wait, timeout, as_json)
    given = {
        "group": group,
        "email": email,
        "purpose": str(purpose),
        "context": read_context(values or [], context) or None,
        "also_later_joiners": also_later_joiners or None,
    }
    params = check_params("group_email", given)
    check_letter(email)
    run_job("group_email", params, site=site, manner=manner)


@email_app.command("interest")
def email_interest(
    email: Email,
    any_: Annotated[
        list[str] | None,
        typer.Option("--any", metavar="WORD", help="One of these in their answers; repeatable."),
    ] = None,
    all_: Annotated[
        list[str] | None, typer.Option("--all", metavar="WORD", help="Each of these; repeatable.")
    ] = None,
    none: Annotated[
        list[str] | None, typer.Option("--none", metavar="WORD", help="None of these; it wins. Repeatable.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Only answers to questions whose text contains this.")
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            help='Id, name or pattern such as "Yoga*"; repeatable; all by default.',
        ),
    ] = None,
    values: Set = None,
    context: Context = None,
    site: Site = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """One promotional letter to everybody whose answers to the groups' questions hold these words."""
    from admin.jobs.followed import run_job
    from admin.jobs.given import check_letter, check_params, read_context

    manner = _manner(yes, no_wait, timeout, as_json)
    answers = {"any": any_, "all": all_, "none": none, "question": question}
    given = {
        "groups": groups or None,
        "answers": {name: value for name, value in answers.items() if value},
        "email": email,
        "context": read_context(values or [], context) or None,
    }
    params = check_params("interest_email", given)
    check_letter(email)
    run_job("interest_email", params, site=site, manner=manner)


@group_app.command("create")
def create_group(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the group is to be called.")],
    creator: Annotated[str, typer.Option(metavar="MEMBER", help="Id of the member who is to own it.")],
    people: Annotated[
        str,
        typer.Option(
            metavar="FILE", help='CSV, JSON or lines: id, email, phone, name; "-" is standard input.'
        ),
    ],
    privacy: Annotated[
        Privacy, typer.Option(case_sensitive=False, help="Who sees it and gets in.")
    ] = Privacy.PRIVATE,
    region: Annotated[str, typer.Option(metavar="DE", help="Country of phone numbers that name none.")] = "",
    to_fix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write there whom nobody could be found for: the rows, with the reason."
        ),
    ] = None,
    site: Site = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """A group with these people in it. Run again, it changes only what is missing."""
    import sys

    from admin.jobs.followed import run_job
    from admin.jobs.given import NO_JOB, check_params, read_list, require_readable, write_file

    if no_wait and to_fix:
        raise ConfigError(NO_JOB, ["--to-fix: is written at the end, so it does not go with --no-wait"])
    manner = _manner(yes, no_wait, timeout, as_json)
    listed = read_list(people, region)
    for note in listed.notes:
        print(note, file=sys.stderr)
    if listed.unreadable and to_fix is not None:
        write_file("--to-fix", to_fix, listed.to_fix([]))
    require_readable(listed)
    group = {"name": name, "privacyStatus": str(privacy), "creatorId": creator}
    params = check_params("create_group", {"group": group, "people": listed.params()})

    def write_to_fix(_desk: Desk, row: Any) -> None:
        troubles = (row.result or {}).get("to_fix", [])
        if to_fix is not None and troubles:
            write_file("--to-fix", to_fix, listed.to_fix(troubles))
            print(f"{len(troubles)} to fix: {to_fix}", file=sys.stderr)

    run_job("create_group", params, site=site, manner=manner, ended=write_to_fix)


@rules_app.command("rollout")
def rollout_rules(
    from_group: Annotated[
        str | None, typer.Option("--from", metavar="GROUP", help="The group whose rules they are to have.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or JSON or TOML: a list of title and description.")
    ] = None,
    to: To = None,
    site: Site = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """The same rules in many groups; what they had can be put back with `usher jobs rollback`."""
    from admin.jobs.followed import run_job
    from admin.jobs.given import check_params, read_entries

    manner = _manner(yes, no_wait, timeout, as_json)
    given = {
        "from_group": from_group,
        "rules": None if rules is None else read_entries("--rules", rules),
        "to_groups": to or None,
    }
    params = check_params("rules_rollout", given, whole="--from, --rules")
    run_job("rules_rollout", params, site=site, manner=manner)


@questions_app.command("rollout")
def rollout_questions(
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help="JSON or TOML: a list of text and required; empty for none.")
    ],
    to: To = None,
    site: Site = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """The same membership questions in many groups."""
    from admin.jobs.followed import run_job
    from admin.jobs.given import check_params, read_entries

    manner = _manner(yes, no_wait, timeout, as_json)
    given = {"questions": read_entries("--questions", questions), "to_groups": to or None}
    params = check_params("questions_rollout", given, whole="--questions")
    run_job("questions_rollout", params, site=site, manner=manner)


@report_app.command("groups")
def report_groups(
    top: Annotated[int | None, typer.Option(metavar="N", help="So many of the largest groups; 10.")] = None,
    idle_days: Annotated[
        int | None, typer.Option(metavar="N", help="Idle is what nothing happened in for so long; 90.")
    ] = None,
    format: Annotated[  # noqa: A002 (the option's own word)
        Format | None, typer.Option(help="As --out ends, else a table.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there.")] = None,
    site: Site = None,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """How many groups there are, the largest, those idle for longest, growth, and what came of letters."""
    from admin.jobs.followed import run_job
    from admin.jobs.given import check_params
    from admin.jobs.report import Delivery

    params = check_params("groups_report", {"top": top, "idle_days": idle_days})
    delivery = Delivery.of(format and str(format), out, as_json=as_json, waits=not no_wait)
    manner = _manner(
        True, no_wait, timeout, as_json, aside=delivery.fills_standard_output, brief=delivery.goes_elsewhere
    )
    run_job("groups_report", params, site=site, manner=manner, ended=delivery.deliver)


@jobs_app.command("list")
def list_jobs(
    site: Site = None,
    kind: Annotated[
        str | None, typer.Option(help=f"{', '.join(_KINDS)}.", autocompletion=_among(_KINDS))
    ] = None,
    state: Annotated[
        str | None, typer.Option(help=f"{', '.join(_STATES)}.", autocompletion=_among(_STATES))
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The newest so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, as the API shows them.")] = False,
) -> None:
    """Jobs, newest first."""
    from admin.jobs.acts import list_jobs

    _require_known(kind=(kind, _KINDS), state=(state, _STATES))
    list_jobs(site=site, kind=kind, state=state, limit=limit, as_json=as_json)


@jobs_app.command("show")
def show_job(
    id: JobId,  # noqa: A002 (the row's own word)
    follow: Annotated[bool, typer.Option("--follow", help="Stay until it is over, or wants a yes.")] = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """One job: its preview, how far it is, what it came to."""
    from admin.jobs.acts import show_job
    from admin.jobs.followed import follow_job

    if follow:
        follow_job(id, _manner(True, False, timeout, as_json))
    show_job(id, as_json=as_json)


@jobs_app.command("rows")
def show_rows(
    id: JobId,  # noqa: A002
    state: Annotated[
        str | None, typer.Option(help=f"{', '.join(_ROW_STATES)}.", autocompletion=_among(_ROW_STATES))
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many, of a table or of JSON.")] = 100,
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help='All of them, for a spreadsheet; "-" is standard output.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Everybody a job looked at, each with what became of them and why."""
    from admin.jobs.acts import show_rows

    _require_known(state=(state, _ROW_STATES))
    show_rows(id, state=state, limit=limit, csv_file=csv, as_json=as_json)


@jobs_app.command("confirm")
def confirm_job(
    id: JobId,  # noqa: A002
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """Let a job run whose preview is there."""
    from admin.jobs.followed import confirm_job

    confirm_job(id, _manner(yes, no_wait, timeout, as_json))


@jobs_app.command("pause")
def pause_job(id: JobId, yes: Yes = False, as_json: Json = False) -> None:  # noqa: A002
    """Begin nothing more of a job until it is resumed; what is under way is finished."""
    from admin.jobs.acts import act_on

    act_on(id, "pause", yes=yes, as_json=as_json)


@jobs_app.command("resume")
def resume_job(id: JobId, yes: Yes = False, as_json: Json = False) -> None:  # noqa: A002
    """Let a paused job go on where it was."""
    from admin.jobs.acts import act_on

    act_on(id, "resume", yes=yes, as_json=as_json)


@jobs_app.command("cancel")
def cancel_job(id: JobId, yes: Yes = False, as_json: Json = False) -> None:  # noqa: A002
    """End a job for good: what it has not begun is skipped, what it did stays."""
    from admin.jobs.acts import act_on

    act_on(id, "cancel", yes=yes, as_json=as_json)


@jobs_app.command("retry")
def retry_job(id: JobId, yes: Yes = False, as_json: Json = False) -> None:  # noqa: A002
    """Do again what failed of a job that is done, and nothing else."""
    from admin.jobs.acts import act_on

    act_on(id, "retry", yes=yes, as_json=as_json)


@jobs_app.command("rollback")
def rollback_job(
    id: JobId,  # noqa: A002
    yes: Yes = False,
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    as_json: Json = False,
) -> None:
    """Put back the rules or questions that a rollout replaced, by a job of its own."""
    from admin.jobs.acts import find_rollout
    from admin.jobs.followed import run_job
    from admin.jobs.given import check_params

    manner = _manner(yes, no_wait, timeout, as_json)
    kind, site = find_rollout(id)
    run_job(kind, check_params(kind, {"rollback": id}), site=site, manner=manner)


def _manner(
    yes: bool, no_wait: bool, timeout: str, as_json: bool, *, aside: bool = False, brief: bool = False
) -> Manner:
    from admin.jobs.followed import Manner
    from core.automations import parse_duration

    try:
        timeout_s = parse_duration(timeout)
    except ValueError as exc:
        raise ConfigError("Nothing was done", [f"--timeout: {timeout!r}: {exc}"]) from exc
    return Manner(
        yes=yes,
        wait=not no_wait,
        as_json=as_json,
        aside=aside or as_json,
        brief=brief,
        timeout_s=timeout_s,
    )


def _require_known(**given: tuple[str | None, tuple[str, ...]]) -> None:
    wrong = [
        f"--{name}: {value!r} is not one of {', '.join(words)}"
        for name, (value, words) in given.items()
        if value is not None and value not in words
    ]
    if wrong:
        raise ConfigError("Nothing to list", wrong)
