"""Takes the pictures of docs/templates.md and docs/console.md, to look at after every change of what they show.

    .venv/bin/python docs/pictures/take.py [LETTER …]
    .venv/bin/python docs/pictures/take.py console

For each letter, all of them by default, two PNGs appear beside this file, one in light and one in dark: as a phone
(390 px) and a desktop (800 px) show it, in English above and in Hebrew below. The console's are of the community that
its tests live in. Needs Chromium.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from admin.demo.stage import set_up  # noqa: E402
from core.consent import Purpose  # noqa: E402
from integrations.email.render import SAMPLES, Renderer  # noqa: E402
from tests.browser import window  # noqa: E402
from tests.browser.community import furnish  # noqa: E402

LANGUAGES = ("en", "he")
WIDTHS = (390, 800)
HEIGHT = 940
GAP = 24
PREFERS = {"dark": 0, "light": 1}  # as Blink counts


CONSOLE = (
    ("today", "desktop", "/", ""),
    ("today", "dark", "/", ""),
    ("today", "phone", "/", ""),
    ("today", "hebrew", "/", ""),
    ("today", "frame", "/", ""),
    ("requests", "desktop", "/requests", ""),
    ("requests", "phone", "/requests", ""),
    ("automations", "desktop", "/automations", ""),
    ("automation", "desktop", "/automations", "main a[href$=yoga-offer]"),
    ("write", "phone", "/write", ""),
    ("job", "desktop", "/jobs", "main a:has-text('Trail Runners')"),
    ("person", "desktop", "/requests?waits=flagged", "main a[href*='/people/']"),
    ("groups", "desktop", "/groups", ""),
    ("report", "dark", "/groups/report", ""),
    ("doubt", "desktop", "/workshop/doubt", ""),
)
"""Name, kind of window, page, and the link on it to follow."""


def main(names: list[str]) -> None:
    if names == ["console"]:
        take_console()
        return
    letters = Renderer(HERE.parents[1] / "templates" / "email")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or sorted(letters.names()):
            purpose = Purpose.PROMOTIONAL if name == "yoga-offer" else Purpose.ONBOARDING
            pages = [letters.render(name, SAMPLES, purpose=purpose, language=tag).html for tag in LANGUAGES]
            sheet = Path(folder, "sheet.html")
            sheet.write_text(sheet_of(pages), encoding="utf-8")
            for scheme, number in PREFERS.items():
                take(sheet, HERE / f"{name}-{scheme}.png", number, Path(folder, "profile"))


def take_console() -> None:
    os.environ["USHER_PICTURES"] = str(HERE)
    with set_up() as stage, window.chromium() as browser:
        furnish(stage)
        owner = window.log_in(stage, browser)
        for name, kind, path, link in CONSOLE:
            with window.open_window(stage, browser, kind, owner if kind != "frame" else None) as opened:
                opened.go(path)
                if link:
                    opened.inside.locator(link).first.click()
                    opened.page.wait_for_load_state("networkidle")
                opened.look(f"console-{name}", whole=False)


def sheet_of(pages: list[str]) -> str:
    frames = (
        f'<iframe width="{width}" height="{HEIGHT}" srcdoc="{html.escape(page)}"></iframe>'
        for page in pages
        for width in WIDTHS
    )
    columns = " ".join(f"{width}px" for width in WIDTHS)
    return (
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>'
        f"body {{ margin: {GAP}px; display: grid; gap: {GAP}px; grid-template-columns: {columns}; }}"
        f"html {{ background: #808080; }} iframe {{ border: 0; }}</style>{''.join(frames)}"
    )


def take(sheet: Path, picture: Path, prefers: int, profile: Path) -> None:
    width = sum(WIDTHS) + (len(WIDTHS) + 1) * GAP
    height = len(LANGUAGES) * (HEIGHT + GAP) + GAP
    subprocess.run(  # noqa: S603 (our own arguments)
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            f"--user-data-dir={profile}",
            f"--blink-settings=preferredColorScheme={prefers}",
            "--force-device-scale-factor=0.8",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            sheet.as_uri(),
        ],
        check=True,
        timeout=60,
        stderr=subprocess.DEVNULL,
    )
    print(picture)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
