"""What somebody gives a job on the command line, read and checked: files, options, the site. Nothing is begun here."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.community import LONGEST_ID, SiteId, is_plain
from core.errors import ConfigError, NotThereError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from integrations.people_list import PeopleList
    from integrations.store.database import Database
    from integrations.store.jobs import Jobs

NO_JOB = "No job was made"
_MOST_PROBLEMS = 50
_OPTIONS = {
    "group.name": "NAME",
    "group.creatorId": "--creator",
    "group.privacyStatus": "--privacy",
    "group": "GROUP",
    "email": "EMAIL",
    "purpose": "--purpose",
    "context": "--set, --context",
    "groups": "--group",
    "answers.any": "--any",
    "answers.all": "--all",
    "answers.none": "--none",
    "answers.question": "--question",
    "answers": "--any, --all, --none",
    "people": "--people",
    "from_group": "--from",
    "rules": "--rules",
    "questions": "--questions",
    "to_groups": "--to",
    "rollback": "ID",
    "top": "--top",
    "idle_days": "--idle-days",
}
"""Where each field of the params comes from."""


def check_params(kind: str, params: Mapping[str, Any], *, whole: str = "") -> dict[str, Any]:
    """The params without what was not given, fit for a job of this kind. Raises ConfigError naming each wrong option,
    never what it held; `whole` names those that only together are wrong."""
    from pydantic import ValidationError

    from tasks.jobs.params import PARAMS

    found = {name: value for name, value in params.items() if value is not None}
    try:
        PARAMS[kind].model_validate(found)
        # Text that no database keeps: half a surrogate pair (an argument that is not in UTF-8), or NUL.
        if b"\\u0000" in json.dumps(found, ensure_ascii=False).encode():
            raise ConfigError(NO_JOB, ["what was given holds the character U+0000"])
    except ValidationError as exc:
        mistakes = exc.errors(include_input=False, include_context=False, include_url=False)
        problems = [
            f"{_option(error['loc'], whole)}: {error['msg'].removeprefix('Value error, ')}"
            for error in mistakes[:_MOST_PROBLEMS]
        ]
        raise ConfigError(NO_JOB, problems) from exc
    except UnicodeEncodeError as exc:
        raise ConfigError(NO_JOB, ["what was given is not UTF-8 text"]) from exc
    return found


def _option(place: Sequence[int | str], whole: str) -> str:
    """ "--rules: entry 3, title" for `rules.2.title`."""
    for length in range(len(place), 0, -1):
        if option := _OPTIONS.get(".".join(map(str, place[:length]))):
            rest = [f"entry {part + 1}" if isinstance(part, int) else part for part in place[length:]]
            return f"{option}: {', '.join(rest)}" if rest else option
    return whole or ".".join(map(str, place))


def check_letter(name: str) -> None:
    """Raises ConfigError when there is no such letter here."""
    from admin.processes import TEMPLATES
    from integrations.email.render import Renderer

    names = Renderer(TEMPLATES).names()
    if name not in names:
        raise ConfigError(NO_JOB, [f"EMAIL: there is no letter {name!r}, but {', '.join(sorted(names))}"])


def choose_site(database: Database, named: str | None) -> SiteId:
    """The site that is named, or the only one that there is. Raises ConfigError."""
    from integrations.store.sites import Sites

    if named is not None:
        if not is_plain(named, LONGEST_ID):
            raise ConfigError(NO_JOB, ["--site: is not printable ASCII without spaces"])
        return SiteId(named)  # also one that has sent nothing yet
    active = Sites(database).active()
    if len(active) == 1:
        return active[0]
    if not active:
        raise ConfigError(NO_JOB, ["--site: no site is known yet, so name the app instance id of one"])
    shown = ", ".join(active[:20]) + (f" and {len(active) - 20} more" if len(active) > 20 else "")
    raise ConfigError(NO_JOB, [f"--site: there are {len(active)} sites, so name one: {shown}"])


def find_job(jobs: Jobs, id: str) -> sa.Row[Any]:  # noqa: A002 (the row's own word)
    """Raises NotThereError."""
    if not is_plain(id, LONGEST_ID):
        raise NotThereError("there is no job of this id")
    return jobs.get(id)


def read_context(values: Sequence[str], file: Path | None) -> dict[str, Any]:
    """The object in the file, with each NAME=VALUE in it. Raises ConfigError."""
    context: Any = {} if file is None else _read_json("--context", file)
    if not isinstance(context, dict):
        raise ConfigError(NO_JOB, [f"--context: {file} holds no JSON object"])
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(NO_JOB, ["--set: each has to be NAME=VALUE, the name without spaces"])
        context[name] = text
    return context


def read_entries(option: str, file: Path) -> list[Any]:
    """A list in JSON or TOML, which has a name in TOML and may have one in JSON. Raises ConfigError."""
    found = _read_toml(option, file) if file.suffix.lower() == ".toml" else _read_json(option, file)
    if isinstance(found, dict) and len(found) == 1:
        [found] = found.values()
    if not isinstance(found, list):
        raise ConfigError(NO_JOB, [f"{option}: {file} holds no list"])
    return found


def _read_toml(option: str, file: Path) -> Any:
    try:
        return tomllib.loads(_read(option, str(file)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(NO_JOB, [f"{option}: {file} is not TOML: {exc}"]) from exc


def _read_json(option: str, file: Path) -> Any:
    try:
        return json.loads(_read(option, str(file)), parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        where = f" (line {exc.lineno}: {exc.msg})" if isinstance(exc, json.JSONDecodeError) else ""
        raise ConfigError(NO_JOB, [f"{option}: {file} is not JSON{where}"]) from exc


def _refuse(number: str) -> None:
    raise ValueError(f"{number} is not JSON")


def read_list(file: str, region: str) -> PeopleList:
    """A list of people; "-" is standard input. Rows that cannot be read are in it too."""
    from integrations.people_list import read_people

    return read_people(_read("--people", file), name="standard input" if file == "-" else file, region=region)


def require_readable(people: PeopleList) -> None:
    """Raises ConfigError that names each row which cannot be read, and never what it holds."""
    problems = [
        ", ".join([f"row {bad.row}", *([bad.field] if bad.field else [])]) + f": {bad.problem}"
        if bad.row
        else bad.problem
        for bad in people.unreadable
    ]
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = [f"and {len(problems) - _MOST_PROBLEMS} more"]
    if problems:
        raise ConfigError(NO_JOB, problems)


def _read(option: str, file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise ConfigError(NO_JOB, [f"{option}: {file} cannot be read ({exc.strerror})"]) from exc


def write_file(option: str, file: Path, content: bytes) -> None:
    """Raises ConfigError."""
    try:
        file.write_bytes(content)
    except OSError as exc:
        raise ConfigError("Not written", [f"{option}: {file} cannot be written ({exc.strerror})"]) from exc
