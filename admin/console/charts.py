"""Charts as SVG that stands in a page: classes of console.css and attributes alone, so that the page's policy lets it
stand, and it turns dark with the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 34, 6, 10, 24
CLASSES = ("one", "two", "three")


@dataclass(frozen=True, slots=True)
class Series:
    """One value for each place on the axis."""

    label: str
    values: Sequence[int]


def columns(
    title: str,
    places: Sequence[str],
    series: Sequence[Series],
    number: Callable[[float], str],
    colours: Sequence[str] = CLASSES,
) -> Markup:
    """Standing columns, side by side for each place; `title` says to a screen reader what the picture shows, whose
    numbers stand in a table beside it. `places` are spelt below the first, the middle and the last."""
    top = _nice(max((value for one in series for value in one.values), default=0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    step = wide / max(1, len(places))
    bar = step * 0.8 / max(1, len(series))
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, title
        )
    ]
    for share in (0.0, 0.5, 1.0):
        if share == 0.5 and top % 2:
            continue
        y = _place(TOP + high * (1 - share))
        parts.append(
            Markup('<line class="grid-line" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                LEFT, y, WIDTH - RIGHT, y
            )
        )
        parts.append(
            Markup('<text x="{}" y="{}" dy="4" text-anchor="end">{}</text>').format(
                LEFT - 5, y, number(top * share)
            )
        )
    for index, place in enumerate(places):
        told = ", ".join(f"{one.label}: {number(one.values[index])}" for one in series)
        parts.append(Markup("<g><title>{}: {}</title>").format(place, told))
        # Something to point at, where there is no column.
        parts.append(
            Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="none" pointer-events="all"/>').format(
                _place(LEFT + index * step), TOP, _place(step), high
            )
        )
        for turn, (one, colour) in enumerate(zip(series, colours, strict=False)):
            if value := one.values[index]:
                tall = max(1.5, high * value / top)
                parts.append(
                    Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="1"/>').format(
                        colour,
                        _place(LEFT + index * step + step * 0.1 + turn * bar),
                        _place(TOP + high - tall),
                        _place(bar),
                        _place(tall),
                    )
                )
        parts.append(Markup("</g>"))
    last = len(places) - 1
    for index, anchor in {0: "start", last // 2: "middle", last: "end"}.items() if places else ():
        x = {"start": LEFT, "middle": LEFT + (index + 0.5) * step, "end": WIDTH - RIGHT}[anchor]
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                _place(x), HEIGHT - 7, anchor, places[index]
            )
        )
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _nice(highest: int) -> int:
    """The end of an axis that holds this value: 1, 2, 4, 5, 6, 8 or 10 times a power of ten."""
    if highest <= 1:
        return max(2, highest)
    power = 10 ** int(math.log10(highest))
    return next(int(step * power) for step in (1, 2, 4, 5, 6, 8, 10) if step * power >= highest)


def _place(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
