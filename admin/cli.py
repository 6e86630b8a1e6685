"""The command line. Imports are lazy: `usher --help` must not load a web server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from admin.automations import add_to as add_versions
from admin.groups import app as groups_app
from admin.inbound import app as mail_app
from admin.jobs.commands import add_to as add_jobs
from admin.letters import app as templates_app
from admin.people import app as people_app
from admin.senders import app as senders_app
from admin.tokens import app as tokens_app
from admin.tokens import audit_app
from admin.users import app as users_app
from core.errors import AppError, ConfigError

app = typer.Typer(
    name="usher",
    help="Self-hosted worker for Wix Groups: the right letter to the right person, once, with consent.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # frames would be half of the time that help takes
)
automations_app = typer.Typer(
    help="Check and try a file; see, export and roll back what counts.", no_args_is_help=True
)
webhook_app = typer.Typer(help="Deliveries, as Wix sends them.", no_args_is_help=True)
events_app = typer.Typer(help="What Wix told of: look at it, work it off once more.", no_args_is_help=True)
messages_app = typer.Typer(help="Letters: look at them, settle those in doubt.", no_args_is_help=True)
add_versions(automations_app)
app.add_typer(automations_app, name="automations")
app.add_typer(webhook_app, name="webhook")
app.add_typer(events_app, name="events")
app.add_typer(messages_app, name="messages")
app.add_typer(templates_app, name="templates")
app.add_typer(people_app, name="people")
app.add_typer(groups_app, name="groups")
app.add_typer(mail_app, name="mail")
app.add_typer(senders_app, name="senders")
add_jobs(app)
app.add_typer(tokens_app, name="tokens")
app.add_typer(users_app, name="users")
app.add_typer(audit_app, name="audit")

Site = Annotated[str | None, typer.Option(help="App instance id of one site.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="The newest so many.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON array, as the API shows them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
OlderThan = Annotated[
    str | None, typer.Option(help='All that are in doubt for longer than this: "7d", "12h".')
]
Letters = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of letters in doubt.")]

BAD_INPUT = 2


def main() -> None:
    """Run a command; bad input is one clear message and exit code 2."""
    command = typer.main.get_command(app)
    _list_whole_sentences(command)
    try:
        command(prog_name="usher")
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        sys.exit(BAD_INPUT)
    except AppError as exc:
        print(f"usher: {exc}", file=sys.stderr)
        sys.exit(1)


def _list_whole_sentences(group: Any) -> None:
    """Of commands without a text for lists, help would show as much as fits into one line."""
    for command in getattr(group, "commands", {}).values():
        command.short_help = command.short_help or (command.help or "").partition("\n\n")[0]
        _list_whole_sentences(command)


@app.command()
def run() -> None:
    """Web, worker and beat on this machine, with an embedded Redis unless REDIS_URL names one."""
    from admin.supervisor import run_everything

    run_everything()


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End by itself; exit code 0 if the outcome is right.")
    ] = False,
) -> None:
    """Play a community's day on embedded parts and show the letters that came out."""
    from admin.demo.play import play

    sys.exit(play(once=once))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Skip what leaves the machine: Wix, PUBLIC_URL, the mail server, DNS."
        ),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help='One check or line, such as "dns" or "dns.spf"; repeatable.')
    ] = None,
    site: Site = None,
    selector: Annotated[
        list[str] | None, typer.Option(help="A DKIM selector that the mail provider signs with; repeatable.")
    ] = None,
    received: Annotated[Path | None, typer.Option(help="The source of a letter that arrived.")] = None,
) -> None:
    """What is wrong with this installation, and how to mend it. Exit code 0, 1 after a failure, 2 for settings."""
    from admin.doctor.command import doctor

    sys.exit(
        doctor(
            as_json=as_json,
            offline=offline,
            only=only or [],
            site=site,
            selectors=selector or [],
            received=received,
        )
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sandbox(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Where the stand-in for Wix answers.")] = 8090,
    smtp_port: Annotated[int, typer.Option(help="Where the mail catcher takes letters.")] = 2525,
    webhook_url: Annotated[
        str, typer.Option(help="Where webhooks go.")
    ] = "http://127.0.0.1:8000/webhooks/wix",
    env_file: Annotated[
        Path | None, typer.Option(help="Write the settings that connect Usher to it.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Keep the webhook key there, so that it outlives a restart.")
    ] = None,
) -> None:
    """A stand-in for Wix and a mail catcher, to build automations without a live site.

    Takes the other options of `python -m sandbox` too (sandbox/README.md).
    """
    import os

    from admin.processes import ROOT

    command = [sys.executable, "-m", "sandbox", "--port", str(port), "--smtp-port", str(smtp_port)]
    command += ["--webhook-url", webhook_url, *context.args]
    for name, file in (("--env-file", env_file), ("--key-file", key_file)):
        command += [name, str(file)] if file is not None else []
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT)})  # noqa: S606 (our own module)


@app.command()
def migrate() -> None:
    """Bring the database's tables to this release (the Procfile's `release`)."""
    from admin.processes import check_to_migrate, make_data_dir
    from integrations.store.database import Database

    settings = check_to_migrate()
    database = Database(settings.database)
    if database.url.get_backend_name() == "sqlite":
        make_data_dir(settings)
    print(f"The database is at revision {database.migrate()}.")
    database.close()


@app.command()
def web() -> None:
    """The web process: webhooks, unsubscribe pages, health."""
    _start_in_one_go()
    from admin.serve import serve_web

    serve_web()


@app.command()
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="Processes that work at the same time.")] = 2,
) -> None:
    """A worker: works off events, decisions and letters."""
    _start_in_one_go()
    from admin.serve import serve_worker

    serve_worker(concurrency)


@app.command()
def beat() -> None:
    """The sweeper: wakes workers for what is due, and does the work itself while the broker is away."""
    _start_in_one_go()
    from admin.serve import serve_beat

    serve_beat()


@automations_app.command("check")
def check_automations(
    file: Annotated[Path, typer.Argument(help="The automations file.")] = Path("config/automations.toml"),
) -> None:
    """Report every mistake with line, field and value; exit code 2 when there is any."""
    from admin.processes import TEMPLATES, read_automations
    from core.automations import spell_duration
    from integrations.email.render import Renderer

    found = read_automations(file, Renderer(TEMPLATES).names())
    for automation in found.automations:
        after = f", after {spell_duration(automation.after_s)}" if automation.is_step else ""
        print(f"{automation.name}: on {', '.join(sorted(automation.on))}{after}")
    count = sum(not automation.is_step for automation in found.automations)
    for follow in found.follows:
        print(f"{follow.name}: follows the rules of {follow.rules_of}")
    for report in found.reports:
        print(f"{report.name}: a report every {report.every}")
    print(f"{count} automations, no mistakes.")


@automations_app.command("try")
def try_automations(
    file: Annotated[Path, typer.Argument(help="The automations file.")] = Path("config/automations.toml"),
    answer: Annotated[
        list[str] | None, typer.Option(help='An answer; "Question? => answer" to say to which question.')
    ] = None,
    on: Annotated[str, typer.Option(help="What happened.")] = "join_requested",
    group: Annotated[str, typer.Option(help="The group's name or id.")] = "Any group",
    site: Annotated[str, typer.Option(help="The app instance id.")] = "any-site",
) -> None:
    """Which automations an answer would set off, and why."""
    from admin.processes import TEMPLATES, read_automations
    from core.automations import TRIGGERS, plan, spell_duration
    from core.community import Answer, Group, GroupId, SiteId
    from integrations.email.render import Renderer

    if on not in TRIGGERS.values():
        raise ConfigError(
            "Nothing to try", [f"--on: {on!r} is not one of {', '.join(sorted(set(TRIGGERS.values())))}"]
        )
    found = read_automations(file, Renderer(TEMPLATES).names())
    answers = [
        Answer(question.strip() if arrow else "", text.strip() if arrow else question)
        for question, arrow, text in (given.partition("=>") for given in answer or [])
    ]
    outcomes = plan(found, on, SiteId(site), Group(GroupId(group), group), answers)
    if not outcomes:
        print(f"No automation listens to {on} in this group.")
    for outcome in outcomes:
        automation = outcome.automation
        if automation.is_step:
            continue
        does = [f"letter {automation.email} ({automation.purpose})"] if automation.email else []
        does += [automation.decide] if automation.decide else []
        does = [", ".join(does)] + [
            f"after {spell_duration(step.after_s)}: {step.name}, letter {step.email} ({step.purpose}"
            + (", unless they replied)" if step.unless_replied else ")")
            for step in found.flow_of(automation)[1:]
        ]
        print(f"{'YES' if outcome.applies else 'no ':3}  {automation.name}: {outcome.reason}")
        if outcome.applies:
            print(f"     → {'; '.join(does)}")


@webhook_app.command("send")
def send_webhook(
    event: Annotated[str, typer.Argument(help='An event type, or the end of one: "group_member_added".')],
    sandbox_url: Annotated[
        str, typer.Option("--sandbox", help="The sandbox that signs and delivers it.")
    ] = "http://127.0.0.1:8090",
    key: Annotated[
        Path | None, typer.Option(help="Sign here instead, with this private key (PEM), and post to --to.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="Where to post what was signed here.")
    ] = "http://127.0.0.1:8000/webhooks/wix",
    site: Annotated[
        str, typer.Option(help="App instance id of what is signed here.")
    ] = "7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11",
    as_it_is: Annotated[bool, typer.Option("--as-it-is", help="Keep the sample's own id and time.")] = False,
    copies: Annotated[int, typer.Option(min=1, max=1000, help="Deliver it this often.")] = 1,
) -> None:
    """Sign and post a sample event; prints what was answered. Exit code 0 when every answer is 200."""
    from admin.samples import send_signed, send_through_sandbox

    if key is not None:
        answers = send_signed(event, to, key, site, as_it_is=as_it_is, copies=copies)
    else:
        answers = send_through_sandbox(event, sandbox_url, as_it_is=as_it_is, copies=copies)
    for answer in answers:
        print(answer)
    sys.exit(0 if all(answer == "200" for answer in answers) else 1)


@events_app.command("list")
def list_events(
    site: Site = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help='As stored, for example "member_added".')
    ] = None,
    state: Annotated[str | None, typer.Option(help="received, done, ignored or dead.")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Events, newest first."""
    from admin.recovery import list_events

    list_events({"site": site, "type": event_type, "state": state}, limit=limit, as_json=as_json)


@events_app.command("replay")
def replay_events(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of events.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that were set aside.")] = False,
    event_type: Annotated[str | None, typer.Option("--type", help="With --dead: of this type only.")] = None,
    site: Site = None,
    yes: Yes = False,
) -> None:
    """Work events off once more, dead ones above all. Who has a letter of theirs gets no second one."""
    from admin.recovery import replay_events

    replay_events(ids or [], dead=dead, filters={"site": site, "type": event_type}, yes=yes)


@messages_app.command("list")
def list_messages(
    site: Site = None,
    job: Annotated[str | None, typer.Option(help="Id of a job.")] = None,
    member: Annotated[str | None, typer.Option(help="Id of a member.")] = None,
    group: Annotated[str | None, typer.Option(help="Id of a group.")] = None,
    automation: Annotated[str | None, typer.Option(help="Name of an automation.")] = None,
    state: Annotated[
        str | None,
        typer.Option(help="planned, sending, sent, deferred, skipped, failed, in_doubt or bounced."),
    ] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Letters and refusals, newest first: who was written to, who was not, and why."""
    from admin.recovery import list_messages

    filters = {"site": site, "job": job, "member": member, "group": group, "automation": automation}
    list_messages(filters | {"state": state}, limit=limit, as_json=as_json)


@messages_app.command("release")
def release_messages(ids: Letters = None, older_than: OlderThan = None, yes: Yes = False) -> None:
    """Send letters in doubt again: the mail server does not have them, or twice is better than never."""
    from admin.recovery import release_letters

    release_letters(ids or [], _seconds(older_than), yes=yes)


@messages_app.command("give-up")
def give_up_messages(ids: Letters = None, older_than: OlderThan = None, yes: Yes = False) -> None:
    """Never send letters in doubt: they end as failed."""
    from admin.recovery import give_letters_up

    give_letters_up(ids or [], _seconds(older_than), yes=yes)


@messages_app.command("found")
def settle_found(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help='Message-IDs, one a line; "-" is standard input.')
    ],
    yes: Yes = False,
) -> None:
    """Note letters in doubt as sent, whose Message-IDs the mail server's own records show as accepted."""
    from admin.recovery import settle_found

    settle_found(file, yes=yes)


def _start_in_one_go() -> None:
    """Until admin.serve has everything in place: what a start makes stays, and to go through it for garbage again and
    again is a sixth of it."""
    import gc

    gc.disable()


def _seconds(older_than: str | None) -> float | None:
    from core.automations import parse_duration

    try:
        return None if older_than is None else parse_duration(older_than)
    except ValueError as exc:
        raise ConfigError("Nothing to decide", [f"--older-than: {older_than!r}: {exc}"]) from exc
