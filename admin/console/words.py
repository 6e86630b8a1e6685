"""The console's languages, and dates and numbers as their readers write them (Babel)."""

from __future__ import annotations

import functools
import gettext
import io
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from markupsafe import Markup

CATALOGUES = Path(__file__).parent / "locale"
LANGUAGES: dict[str, str] = {"en": "English", "he": "עברית"}
"""With the names they have for themselves; the first is what the templates are written in."""


def choose_language(*wished: str) -> str:
    """The first that we have of these tags ("he-IL", "iw", …); English otherwise. An Accept-Language header is one
    wish: its tags stand in the order of its writer."""
    for wish in wished:
        for part in wish.split(","):
            tag = part.partition(";")[0].strip().lower().replace("_", "-").partition("-")[0]
            tag = {"iw": "he"}.get(tag, tag)
            if tag in LANGUAGES:
                return tag
    return next(iter(LANGUAGES))


@functools.cache
def translations(language: str) -> gettext.NullTranslations:
    file = CATALOGUES / f"{language}.po"
    if not file.is_file():
        return gettext.NullTranslations()
    with file.open("rb") as source:
        catalogue = read_po(source, locale=language, abort_invalid=True)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


@dataclass(frozen=True, slots=True)
class Words:
    """One reader's: `now` is aware, `zone` the site's."""

    language: str
    zone: ZoneInfo
    now: datetime

    @property
    def direction(self) -> str:
        """ "ltr" or "rtl"."""
        return Locale.parse(self.language).text_direction

    def gettext(self, text: str, **values: object) -> str:
        """Whole sentences, with %(name)s for what differs."""
        found = translations(self.language).gettext(text)
        return found % values if values else found

    def ngettext(self, one: str, many: str, n: int, **values: object) -> str:
        return translations(self.language).ngettext(one, many, n) % {"num": self.number(n), **values}

    def number(self, value: float) -> str:
        return format_decimal(value, locale=self.language)

    def day(self, value: date) -> str:
        if isinstance(value, datetime):
            value = value.astimezone(self.zone)
        return format_date(value, "medium", locale=self.language)

    def spell_time(self, value: datetime) -> str:
        """As today, yesterday and so on are told apart by the site's clock."""
        here, today = value.astimezone(self.zone), self.now.astimezone(self.zone).date()
        if here.date() == today:
            return format_datetime(here, "HH:mm", locale=self.language)
        pattern = "d MMM, HH:mm" if here.year == today.year else "d MMM y, HH:mm"
        return format_datetime(here, pattern, locale=self.language)

    def when(self, value: datetime | None) -> Markup:
        """A time, with all of it in its title."""
        return self._time(value, self.spell_time(value)) if value else Markup("–")

    def ago(self, value: datetime | None) -> Markup:
        """How long before now, or after it."""
        if value is None:
            return Markup("–")
        spelt = format_timedelta(value - self.now, add_direction=True, locale=self.language)
        return self._time(value, spelt)

    def _time(self, value: datetime, text: str) -> Markup:
        here = value.astimezone(self.zone)
        full = format_datetime(here, "full", locale=self.language)
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            here.isoformat(timespec="seconds"), full, text
        )
