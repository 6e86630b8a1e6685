"""Where `usher report groups` leaves its report, and in which form."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from admin.jobs.given import write_file
from admin.recovery import Columns, Desk, one_line, show_table
from core.errors import ConfigError

if TYPE_CHECKING:
    import sqlalchemy as sa

_FORMATS = ("html", "csv", "json", "pdf")
_TABLE = "table"
_MOST_IDLE = 20


@dataclass(frozen=True)
class Delivery:
    """`out` None: standard output. A table on standard output is what the job's own end shows."""

    format: str
    out: Path | None

    @classmethod
    def of(cls, format: str | None, out: Path | None, *, as_json: bool, waits: bool) -> Delivery:  # noqa: A002
        """Raises ConfigError for what does not go together."""
        suffix = out.suffix.lower().removeprefix(".") if out else _TABLE
        found = cls(format or suffix, out)
        problems = []
        if found.format not in (*_FORMATS, _TABLE):
            problems.append(f"--out: give --format too, or end it in .{', .'.join(_FORMATS)}")
        if not waits and (format or out):
            problems.append("--no-wait: the report is not there yet; without --format and --out only")
        if out is not None and not out.resolve().parent.is_dir():
            problems.append(f"--out: there is no folder {out.parent}")
        if as_json and found.fills_standard_output:
            problems.append("--json: prints the job, so the report needs --out")
        if found.format == "pdf" and out is None and sys.stdout.isatty():
            problems.append("--format: pdf is nothing for a terminal: give --out")
        if found.format == "pdf" and find_spec("typst") is None:
            problems.append("--format: pdf needs the extra `pdf` of Usher, which is not installed here")
        if problems:
            raise ConfigError("No report was made", problems)
        return found

    @property
    def goes_elsewhere(self) -> bool:
        return self.out is not None or self.format != _TABLE

    @property
    def fills_standard_output(self) -> bool:
        return self.out is None and self.format != _TABLE

    def deliver(self, _desk: Desk, row: sa.Row[Any]) -> None:
        if row.state != "done" or not self.goes_elsewhere:
            return
        content = self._content(row.result)
        if self.out is not None:
            write_file("--out", self.out, content)
            print(f"The report is in {self.out}.", file=sys.stderr)
        else:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()

    def _content(self, result: Mapping[str, Any]) -> bytes:
        if self.format == _TABLE:
            text = io.StringIO()
            show_report(result, text)
            return text.getvalue().encode("utf-8", "replace")
        from integrations.reports.render import render_report

        _, _, content = render_report(result, self.format)
        return content


def show_report(result: Mapping[str, Any], out: TextIO) -> None:
    day = str(result["as_of"])[:16].replace("T", " ")
    print(f"{result['total']} groups, {result['members']} memberships, {day} UTC", file=out)
    popular: Columns = {
        "Largest": lambda group: group["name"],
        "Members": lambda group: group["members"],
        "Id": lambda group: group["id"],
    }
    idle: Columns = {
        f"Idle for {result['idle_days']} days": lambda group: group["name"],
        "Last activity": lambda group: (group["last_activity"] or "never")[:10],
        "Id": lambda group: group["id"],
    }
    show_table(result["most_popular"], popular, most=len(result["most_popular"]), out=out)
    show_table(result["idle"], idle, most=_MOST_IDLE, out=out)
    if not result["idle"]:
        print(f"No group was idle for {result['idle_days']} days.", file=out)
    for note in result["notes"]:
        print(one_line(note), file=out)
