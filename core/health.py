"""Is anything wrong, in words that say what to do. Pure: facts in, findings out.

The sentences are for people who do not read logs; `Speech` says them in their language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from core.pacing import Pause

SILENT_AFTER = timedelta(seconds=60)
"""A worker says that it lives every few seconds; one that is restarted is back by then."""
LATE_AFTER = timedelta(minutes=2)
"""What is due for longer waits for more than its turn."""
STUCK_AFTER = timedelta(minutes=15)
DOUBT_AFTER = timedelta(hours=1)


class Speech(Protocol):
    """How one reader is spoken to. `values` fill %(name)s; a number of things is %(num)s."""

    def gettext(self, text: str, **values: object) -> str: ...

    def ngettext(self, one: str, many: str, n: int, **values: object) -> str: ...

    def spell_time(self, value: datetime) -> str: ...


class Severity(StrEnum):
    BAD = "bad"
    """Something does not work, and somebody has to do something."""
    WARNING = "warning"
    """It mends itself, or it can wait; worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is constant for programs and for links; `since` is when it began, as far as that is known."""

    name: str
    severity: Severity
    says: str
    do: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one site and of the processes that serve it, at `now`.

    `told_at`: when Wix last told of something. `is_quiet`: events used to come and do not. `due_since` has for
    "events", "letters" and "calls" since when the oldest is due that nobody took up. `pauses`: whom nobody writes to,
    "" is everybody. `unread_lists`: lists that Wix refuses; `failing_calls`: decisions and opt-outs that it does not
    take. `lacks_address`: there are offers to send, and no postal address for their footer. `tables` and `automations`:
    what is wrong with them, "" when nothing is.
    """

    now: datetime
    told_at: datetime | None = None
    is_quiet: bool = False
    is_removed: bool = False
    worker_at: datetime | None = None
    beat_at: datetime | None = None
    due_since: Mapping[str, datetime] = field(default_factory=dict)
    pauses: tuple[Pause, ...] = ()
    rests_until: datetime | None = None
    unread_lists: int = 0
    failing_calls: int = 0
    dead_events: int = 0
    dead_since: datetime | None = None
    doubts: int = 0
    doubt_since: datetime | None = None
    lacks_address: bool = False
    tables: str = ""
    automations: str = ""


def examine(facts: Facts, speech: Speech) -> tuple[Finding, ...]:
    """What is wrong, the worst first; nothing when all is well."""
    found = [finding for rule in RULES for finding in rule(facts, speech)]
    return tuple(sorted(found, key=lambda finding: finding.severity is not Severity.BAD))


def _processes(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    for name, at, says in (
        ("worker", facts.worker_at, _("No worker is running: nothing is answered and no letter goes out.")),
        (
            "beat",
            facts.beat_at,
            _(
                "The clock of Usher (“beat”) is not running: letters that waited for their time may stay behind."
            ),
        ),
    ):
        if at is None or facts.now - at > SILENT_AFTER:
            do = _(
                "Ask whoever runs the server to start it: “usher run” starts everything. Nothing is lost meanwhile."
            )
            yield Finding(name, Severity.BAD, says, do, at)


def _tables(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.tables:
        yield Finding(
            "tables",
            Severity.BAD,
            _("The database belongs to another release of Usher than this page."),
            _("Ask whoever runs the server to run “usher migrate”, and to restart every process."),
        )


def _automations(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.automations:
        yield Finding(
            "automations",
            Severity.BAD,
            _("The newest automations cannot be read, so the ones before them go on working."),
            _(
                "Look at the history of the automations: correct the newest version, or go back to an older one."
            ),
        )


def _site(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.is_removed:
        yield Finding(
            "removed",
            Severity.BAD,
            _("The app was removed from this site: Wix tells nothing any more, and nobody is written to."),
            _(
                "Install the app on the site again if that was not meant. Who was written to is not forgotten."
            ),
        )
    elif facts.is_quiet:
        yield Finding(
            "quiet",
            Severity.BAD,
            _("Wix used to tell of what happens in the groups, and has not for an unusually long time."),
            _(
                "See in the app's dashboard at Wix whether its webhooks still lead to this server. Until then "
                "people who join are found by comparing lists, which takes longer."
            ),
            facts.told_at,
        )


def _ageing(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.worker_at is None or facts.now - facts.worker_at > SILENT_AFTER:
        return  # which says it all
    if facts.rests_until is not None and facts.rests_until > facts.now:
        return
    everybody_paused = any(pause.domain == "" and pause.until > facts.now for pause in facts.pauses)
    for name, says in (
        ("events", _("What happened in the groups waits longer than it should before it is worked off.")),
        ("letters", _("Letters that are due have not gone out yet.")),
        ("calls", _("Decisions and unsubscriptions have not reached Wix yet.")),
    ):
        since = facts.due_since.get(name)
        if since is None or facts.now - since <= LATE_AFTER or (name == "letters" and everybody_paused):
            continue
        severity = Severity.BAD if facts.now - since > STUCK_AFTER else Severity.WARNING
        do = _(
            "After a busy hour this passes by itself. If it goes on growing, run the doctor in the workshop, or ask "
            "for another worker."
        )
        yield Finding(f"late.{name}", severity, says, do, since)


def _senders(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    for pause in sorted(facts.pauses, key=lambda pause: pause.domain):
        until = speech.spell_time(pause.until)
        if pause.domain:
            yield Finding(
                "paused.domain",
                Severity.WARNING,
                _(
                    "Nobody at %(domain)s is written to until %(until)s, because their mail server said no.",
                    domain=pause.domain,
                    until=until,
                ),
                _("Usher tries again by itself. The reason stands in the workshop, under senders."),
            )
        else:
            yield Finding(
                "paused",
                Severity.BAD,
                _("No letters go out until %(until)s, because our mail server said no.", until=until),
                _(
                    "The reason stands in the workshop, under senders: have it mended, then go on there at once. "
                    "Usher also tries again by itself."
                ),
            )


def _wix(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.rests_until is not None and facts.rests_until > facts.now:
        until = speech.spell_time(facts.rests_until)
        yield Finding(
            "resting",
            Severity.WARNING,
            _("Wix asked us to wait, or has trouble: work of this site rests until %(until)s.", until=until),
            _("Nothing has to be done; it goes on by itself."),
        )
    if facts.unread_lists:
        yield Finding(
            "unread",
            Severity.WARNING,
            speech.ngettext(
                "Wix does not let Usher read %(num)s list of members or requests.",
                "Wix does not let Usher read %(num)s lists of members or requests.",
                facts.unread_lists,
            ),
            _(
                "Whoever joins there alone may not be noticed. See which permissions the app has at Wix, and whether a "
                "second key (WIX_API_KEY) is set."
            ),
        )
    if facts.failing_calls:
        yield Finding(
            "refused",
            Severity.BAD,
            speech.ngettext(
                "Wix did not take %(num)s decision or unsubscription.",
                "Wix did not take %(num)s decisions or unsubscriptions.",
                facts.failing_calls,
            ),
            _(
                "Unsubscriptions are tried again until Wix takes them, and nobody who unsubscribed is written to "
                "meanwhile. Decide failed requests anew under Requests, or in Wix itself."
            ),
        )


def _left_over(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.dead_events:
        yield Finding(
            "dead",
            Severity.BAD,
            speech.ngettext(
                "%(num)s event could not be worked off and was set aside.",
                "%(num)s events could not be worked off and were set aside.",
                facts.dead_events,
            ),
            _(
                "Each says why in the workshop. When the cause is mended, have them worked off once more there."
            ),
            facts.dead_since,
        )
    if facts.doubts and facts.doubt_since is not None and facts.now - facts.doubt_since > DOUBT_AFTER:
        yield Finding(
            "doubt",
            Severity.WARNING,
            speech.ngettext(
                "Of %(num)s letter nobody knows whether it arrived.",
                "Of %(num)s letters nobody knows whether they arrived.",
                facts.doubts,
            ),
            _(
                "Decide in the workshop whether they are sent again or never: Usher does not risk a second copy."
            ),
            facts.doubt_since,
        )


def _footer(facts: Facts, speech: Speech) -> Iterator[Finding]:
    _ = speech.gettext
    if facts.lacks_address:
        yield Finding(
            "no_address",
            Severity.BAD,
            _("Offers cannot be sent: no postal address is set for their footer."),
            _("The law asks for one. Whoever runs the server sets it as EMAIL_POSTAL_ADDRESS."),
        )


RULES: tuple[Callable[[Facts, Speech], Iterator[Finding]], ...] = (
    _tables,
    _processes,
    _site,
    _automations,
    _senders,
    _ageing,
    _wix,
    _left_over,
    _footer,
)
"""In the order in which a person would look: what is at the bottom comes first."""
