"""`usher templates`: letters looked at and tried before anybody gets one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from core.consent import Purpose
from core.errors import ConfigError

app = typer.Typer(
    help="Letters as files: check them, look at them, send one to yourself.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="A folder of templates/email/.")]
Language = Annotated[
    str, typer.Option(help='What the reader wishes for: "he", "pt-BR"; by default the letter\'s own.')
]
For = Annotated[Purpose, typer.Option(help="Decides on the footer's wording.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON array.")]


@app.command("check")
def check(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The letters' folder; templates/email/ by default.")
    ] = None,
    automations: Annotated[
        Path | None,
        typer.Option(help="An automations file: letters are checked for the purposes it uses them for only."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what would embarrass; exit code 2 when there is an error."""
    import json
    from collections import Counter
    from dataclasses import asdict

    from admin.processes import TEMPLATES, read_automations
    from integrations.email.lint import check_letters

    used = read_automations(automations, None).automations if automations else ()
    purposes = {
        name: {one.purpose for one in used if one.email == name and one.purpose}
        for name in {one.email for one in used if one.email}
    }
    found = check_letters(directory or TEMPLATES, purposes)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    else:
        for finding in found:
            print(f"{finding.severity:8} {finding}")
        count = Counter(finding.severity for finding in found)
        print(f"errors: {count['error']}, warnings: {count['warning']}")
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(2)


@app.command("list")
def list_letters(as_json: Json = False) -> None:
    """The letters, the languages they are in, and their subjects."""
    import json

    from admin.processes import TEMPLATES
    from integrations.email.render import SAMPLES, Renderer

    letters = Renderer(TEMPLATES)
    rows = []
    for name in sorted(letters.names()):
        languages = list(letters.places(name))
        content = letters.render(name, SAMPLES, purpose=Purpose.ONBOARDING, language=languages[0])
        rows.append({"name": name, "languages": languages, "subject": content.subject})
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['name']:24} {' '.join(row['languages']):20} {row['subject']}")


@app.command("preview")
def preview(
    name: Name,
    language: Language = "",
    purpose: For = Purpose.ONBOARDING,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help='Instead of the sample: member_name=Ana, "matched=yoga,pilates".',
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the HTML there, the text beside it.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show the HTML in a browser.")] = False,
) -> None:
    """Show a letter as a reader would get it: its text here, or its HTML in a file or browser."""
    import tempfile
    import webbrowser

    from admin.processes import TEMPLATES
    from integrations.email.render import SAMPLES, Renderer

    letters = Renderer(TEMPLATES)
    _require_letter(name, letters.names())
    context = {**SAMPLES, **_given(values or [])}
    content = letters.render(name, context, purpose=purpose, language=language)
    if out is None and not show:
        print(f"Subject: {content.subject}\n\n{content.text}", end="")
        return
    if out is not None and out.suffix not in (".html", ".htm"):
        raise ConfigError("Nothing to show", [f"--out: {out} does not end in .html"])
    page = out or Path(tempfile.mkdtemp(prefix="usher-")) / f"{name}.html"
    try:
        page.write_text(content.html, encoding="utf-8")
        page.with_suffix(".txt").write_text(f"Subject: {content.subject}\n\n{content.text}", encoding="utf-8")
    except OSError as exc:
        raise ConfigError("Nothing to show", [f"--out: {page} cannot be written ({exc.strerror})"]) from exc
    print(f"{page} and {page.with_suffix('.txt').name}, in {content.language}.")
    if show and not webbrowser.open(page.resolve().as_uri()):
        print("No browser could be opened.", file=sys.stderr)


@app.command("send")
def send(
    name: Name,
    to: Annotated[str, typer.Option(help="Your own address.")],
    language: Language = "",
    purpose: For = Purpose.ONBOARDING,
) -> None:
    """Send one letter, filled with samples, to yourself through EMAIL_URL. Its subject begins with [Test]."""
    from contextlib import closing

    from admin.processes import check_settings
    from admin.trial import open_trials
    from integrations.email.render import SAMPLES
    from integrations.store.database import Database
    from integrations.store.suppressions import Suppressions

    checked = check_settings(sends=True)
    _require_letter(name, checked.renderer.names())
    with closing(Database(checked.settings.database)) as database:
        database.require_current()
        send_trial = open_trials(checked.settings, checked.renderer, Suppressions(database))
        assert send_trial is not None  # noqa: S101 (settings that send were checked)
        print(send_trial(to, name, SAMPLES, language=language, purpose=purpose))


def _require_letter(name: str, names: frozenset[str]) -> None:
    if name not in names:
        raise ConfigError("Nothing to show", [f"there is no letter {name!r}, but {', '.join(sorted(names))}"])


def _given(values: list[str]) -> Mapping[str, Any]:
    """NAME=VALUE, with a list for `matched`."""
    found: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError("Nothing to show", [f"--set: {value!r} is not NAME=VALUE"])
        found[key] = [word.strip() for word in text.split(",") if word.strip()] if key == "matched" else text
    return found
