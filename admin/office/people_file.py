"""What is kept of one person as a page to read: one file, which fetches nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "templates" / "console" / "people"


def render_export(found: Mapping[str, Any]) -> str:
    """`found` as admin.office.people.describe_records has it."""
    return _environment().get_template("export.html").render(found)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
