"""Charts as SVG that stands in a page of HTML, or in a PDF: no script, nothing fetched, the same for the same figures.

In HTML the colours are custom properties of the page, so that a chart turns dark with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from xml.etree import ElementTree as ET

import pygal
from pygal.style import Style

from integrations.reports.words import clean

_SVG = "{http://www.w3.org/2000/svg}"
_LONGEST_LABEL = 24


@dataclass(frozen=True, slots=True)
class Colours:
    ink: str
    faint: str
    bar: str
    font: str


IN_HTML = Colours("var(--ink)", "var(--line)", "var(--accent)", "inherit")
ON_PAPER = Colours("#2f2a25", "#d8d2c8", "#1c6b58", "Libertinus Serif, Noto Sans, sans-serif")


def bars(name: str, title: str, rows: Sequence[tuple[str, int]], colours: Colours) -> str:
    """Lying bars, the first on top; `name` is unique on its page."""
    chart = pygal.HorizontalBar(
        **_look(colours, height=32 * len(rows) + 16),
        print_values=True,
        print_values_position="top",
        show_x_guides=False,
        show_x_labels=False,
        range=(0, max(1, *(value for _, value in rows)) * 1.2),
        margin_right=12,
        rounded_bars=3,
    )
    chart.x_labels = [_short(label) for label, _ in reversed(rows)]
    chart.add("", [value for _, value in reversed(rows)])
    told = "; ".join(f"{clean(label)}: {value}" for label, value in rows)
    return _drawn(chart, name, title, told)


def line(name: str, title: str, points: Sequence[tuple[date, int]], colours: Colours) -> str:
    """Day by day, straight over days that are missing. The axis need not begin at nothing; it says where it does."""
    chart = pygal.DateLine(
        **_look(colours, height=200),
        show_dots=len(points) < 15,
        dots_size=3,
        max_scale=5,
        x_value_formatter=lambda day: f"{day:%d} {day:%b}",
        value_formatter=lambda value: f"{value:g}",
        x_labels=[points[0][0], points[len(points) // 2][0], points[-1][0]],
        fill=False,
        margin_right=30,
    )
    if len({value for _, value in points}) == 1:
        chart.range = (max(0, points[0][1] - 1), points[0][1] + 1)
    chart.add("", points)
    (first, then), (last, now) = points[0], points[-1]
    return _drawn(chart, name, title, f"{first.isoformat()}: {then}; {last.isoformat()}: {now}")


def _look(colours: Colours, height: int) -> dict[str, Any]:
    return {
        "js": [],
        "show_legend": False,
        "width": 420,
        "height": height,
        "margin": 6,
        "spacing": 6,
        "style": Style(
            background="transparent",
            plot_background="transparent",
            foreground=colours.ink,
            foreground_strong=colours.ink,
            foreground_subtle=colours.faint,
            guide_stroke_color=colours.faint,
            major_guide_stroke_color=colours.faint,
            guide_stroke_dasharray="0",
            major_guide_stroke_dasharray="0",
            colors=(colours.bar,),
            value_colors=(colours.ink,),
            font_family=colours.font,
            label_font_size=13,
            major_label_font_size=13,
            value_font_size=13,
            opacity="1",
            stroke_opacity="1",
            stroke_width="2.5",
            transition="0s",
        ),
    }


def _drawn(chart: Any, name: str, title: str, told: str) -> str:
    chart.uuid = name  # which pygal draws at random
    # As pygal writes it, but without its scripts, comments, hover texts and the notes to its own script.
    root = ET.fromstring(chart.render(disable_xml_declaration=True))  # noqa: S314 (written a line above)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}script", f"{_SVG}title", f"{_SVG}desc") or _is_for_hovering(child):
                parent.remove(child)
    for value in root.iterfind(f".//{_SVG}text[@class='value']"):  # beside the end of its bar, not across it
        value.set("text-anchor", "start")
        value.set("dx", "6")
    heading, description = ET.Element(f"{_SVG}title"), ET.Element(f"{_SVG}desc")
    heading.text, description.text = title, told
    heading.set("id", f"{name}-title")
    description.set("id", f"{name}-desc")
    root[:0] = [heading, description]
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    ET.register_namespace("", _SVG[1:-1])
    return ET.tostring(root, encoding="unicode")


def _is_for_hovering(node: ET.Element) -> bool:
    return "tooltip-overlay" in node.get("class", "")


def _short(label: str) -> str:
    text = clean(label)
    # Not in the middle of an emoji of several characters.
    if len(text) <= _LONGEST_LABEL:
        return text
    return re.sub(r"[\u200d\ufe0f\U0001f3fb-\U0001f3ff]+$", "", text[: _LONGEST_LABEL - 1]).rstrip() + "…"
