"""The documents say what the code does: settings, events, commands, names and links are compared with it."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from pydantic import SecretStr

import dev
from admin.cli import app
from config.settings import Settings, load_settings
from core.events import open_delivery
from tasks.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
CODE = "\n".join(
    path.read_text(encoding="utf-8")
    for room in ("admin", "config", "core", "integrations", "tasks", "webhooks")
    for path in sorted((ROOT / room).rglob("*.py"))
) + (ROOT / "asgi.py").read_text(encoding="utf-8")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def settings_of(env_file: Path | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """All settings with the environment left out, as text."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    settings = load_settings(env_file=str(env_file) if env_file else None)
    return {
        name.upper(): value.get_secret_value()
        if isinstance(value, SecretStr)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for name, value in settings
    }


def example_lines() -> list[str]:
    return (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    return re.findall(r"^ *```[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> Iterator[str]:
    """Every line or span that has somebody type `usher …` or `python3 dev.py …`."""
    for line in [*spans(text), *(line for block in blocks(text) for line in block.splitlines())]:
        typed = re.sub(r"^\$ |\s#.*$", "", line.strip()).removeprefix("ExecStart=")
        if re.match(r"(\S*/)?usher \S|python3 dev\.py \S", typed):
            yield typed


def anchors(text: str) -> set[str]:
    """The headings of a document as code hosts link them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_example_settings_name_every_setting_once_with_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [line.partition("=") for line in example_lines() if line and not line.startswith("#")]

    assert sorted(name for name, _, _ in given) == sorted(name.upper() for name in Settings.model_fields)
    assert {name: value for name, _, value in given} == settings_of(None, monkeypatch)


def test_a_copy_of_the_example_settings_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(ROOT / ".env.example", monkeypatch) == settings_of(None, monkeypatch)


def test_every_example_setting_has_its_comment_in_the_line_above() -> None:
    lines = example_lines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith("#") and not re.fullmatch(r"# [A-Z].*\S", above)
    ]
    assert bare == []


def test_the_table_of_events_in_the_readme_is_the_routes() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)`[^|]* \| `(\w+)` \| \S",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    read = [
        open_delivery(
            {"data": json.dumps({"eventType": wire_type, "instanceId": "site", "data": "{}"})},
            datetime.now(UTC),
        ).type
        for wire_type, _ in rows
    ]

    assert sorted(name for _, name in rows) == sorted(ROUTES)
    assert read == [name for _, name in rows]


def test_every_command_in_a_document_exists(document: Path) -> None:
    for typed in commands(document.read_text(encoding="utf-8")):
        words = shlex.split(typed)
        if words[0] == "python3":
            assert re.search(rf"^  {re.escape(words[2])} ", dev.USAGE, re.MULTILINE), typed
            words = words[2:]
        if not words[0].endswith("usher"):
            continue
        command: object = typer.main.get_command(app)
        options: set[str] = set()
        for word in words[1:]:
            children = getattr(command, "commands", None)
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, typed
            elif children is not None:
                assert word in children, typed
                command = children[word]
                options = {option for parameter in children[word].params for option in parameter.opts}


def test_every_setting_a_document_names_exists() -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = {
        word
        for path in DOCUMENTS
        for text in spans(path.read_text(encoding="utf-8"))
        for word in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", text)
        if not text.startswith("SCOPE.")
    }

    assert named >= {"WIX_PUBLIC_KEY", "PUBLIC_URL"}
    assert named <= known


def test_every_link_in_a_document_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    dead = []
    for target in targets:
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        if not path.exists():
            dead.append(target)
        elif anchor:
            dead += [target] if anchor not in anchors(path.read_text(encoding="utf-8")) else []
    assert dead == []


def test_every_file_and_name_of_ours_in_a_document_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    rooms = "admin|asgi|config|core|integrations|sandbox|tasks|webhooks|templates|tests"
    for span in spans(text):
        if re.fullmatch(rf"(?:{rooms})/[\w./-]*", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(rf"(?:{rooms})(?:\.\w+)+", span) and not span.endswith(".py"):
            pkgutil.resolve_name(span)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:event|letter|webhook|outbox|reconcile|doorbell|sweep|wix|process)\.[a-z_]+",  # log lines
        r"usher_[a-z_]+",  # metrics
        r"(?:task|worker|broker)_[a-z_]+",  # Celery's settings
        r"(?:socket|interval)_\w+|max_retries|ack_emulation|health_check_interval",
    ],
)
def test_every_log_line_metric_and_option_a_document_names_is_in_the_code(pattern: str) -> None:
    named = {
        span.partition("{")[0].partition("=")[0].removesuffix("_total")
        for path in DOCUMENTS
        if path.name != "performance.md"
        for span in spans(path.read_text(encoding="utf-8"))
        if re.fullmatch(rf"(?:{pattern})(?:\{{.*\}})?", span)
    }
    # The gauges of rows are named by their table.
    written = CODE + "".join(f'"usher_{table}"' for table in ("events", "messages", "outbox"))

    assert named
    assert {name for name in named if not re.search(rf'\b{re.escape(name)}("| ?=)', written)} == set()


def test_the_changelog_begins_with_this_release() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert re.fullmatch(rf"\[(Unreleased|{re.escape(version)})\]( - \S+)?", headings[0])


def test_pictures_are_small_enough_for_a_readme() -> None:
    pictures = sorted((ROOT / "docs").glob("*.png"))

    assert pictures
    assert [picture.name for picture in pictures if picture.stat().st_size >= 150_000] == []
