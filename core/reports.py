"""The report on a site's groups: facts in, one value out, which every form of the report is drawn from. Pure.

Counted is what Wix's list held when it was read; what the report cannot know it says in words (`notes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from core.automations import ReportSchedule
from core.community import Group, GroupId, SiteId

SPANS = (7, 30, 90)
"""Days over which growth is told."""
FUNNEL_DAYS = 30
INTEREST_DAYS = 90
MOST_LETTERS, MOST_INTERESTS = 100, 20
"""How many lines of these are told; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Day:
    """The last reading of one day (UTC): how many groups, and all their members together."""

    day: date
    groups: int
    members: int


@dataclass(frozen=True, slots=True)
class Past:
    """How it was on the day `since`: the size of each group, and how many members it has lost since, which is what each
    day's reading is smaller than the one before."""

    since: date
    sizes: Mapping[GroupId, int]
    losses: Mapping[GroupId, int]


@dataclass(frozen=True, slots=True)
class Letters:
    """What came of one letter: how many people it was planned for, and how far it got.

    `asked` are all of them, `eligible` who was not skipped; `sent` = a mail server took it, bounced ones included.
    """

    email: str
    automation: str | None
    job: str | None
    asked: int
    eligible: int
    sent: int
    bounced: int
    unsubscribed: int
    waiting: int = 0
    failed: int = 0
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class Interest:
    term: str
    people: int
    """Each counted once in each group."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a report rests on. `groups`: as Wix listed them, each once; `deleted`: of which Wix told that they are
    gone, whether it lists them or not; `wix_total`: how many Wix says there are, None when it does not.
    `letters` and `interests` are the most of them, `all_letters` the sum of all.
    """

    site: SiteId
    groups: Sequence[Group]
    read_from: datetime
    read_until: datetime
    site_name: str = ""
    wix_calls: int = 0
    wix_total: int | None = None
    deleted: Collection[GroupId] = frozenset()
    days: Sequence[Day] = ()
    past: Mapping[int, Past] = field(default_factory=dict)
    """By SPANS, as far as there are readings."""
    letters: Sequence[Letters] = ()
    all_letters: Letters | None = None
    letters_left_out: int = 0
    interests: Sequence[Interest] = ()


@dataclass(frozen=True, slots=True)
class Popular:
    id: GroupId
    name: str
    members: int


@dataclass(frozen=True, slots=True)
class Idle:
    id: GroupId
    name: str
    last_activity: datetime | None


@dataclass(frozen=True, slots=True)
class Named:
    id: GroupId
    name: str


@dataclass(frozen=True, slots=True)
class Line:
    """One group with all that is told of it. `change`: by SPANS, None where nothing is known."""

    id: GroupId
    name: str
    privacy: str
    members: int | None
    created_at: datetime | None
    last_activity: datetime | None
    idle: bool
    change: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Growth:
    """From `since`, the first reading within the last `days`, until now. None where there is none to compare with.

    `left` counts what one day's reading is smaller than the one before: who left and who came on one day cancel out,
    so it is the least that left.
    """

    days: int
    since: date | None = None
    members_then: int | None = None
    change: int | None = None
    left: int | None = None
    new_groups: int | None = None
    gone_groups: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    site: SiteId
    site_name: str
    read_from: datetime
    read_until: datetime
    wix_calls: int
    listed: int
    wix_total: int | None


@dataclass(frozen=True, slots=True)
class Report:
    total: int
    as_of: datetime
    top: int
    idle_days: int
    members: int
    """Memberships: whoever is in two groups counts twice."""
    privacy: Mapping[str, int]
    most_popular: tuple[Popular, ...]
    more_tied: int
    """So many groups not told have as many members as the last one told."""
    idle: tuple[Idle, ...]
    never_active: tuple[Named, ...]
    excluded: tuple[Named, ...]
    """Deleted, and listed by Wix all the same."""
    growth: tuple[Growth, ...]
    days: tuple[Day, ...]
    missing_days: tuple[date, ...]
    funnel_days: int
    funnel: tuple[Letters, ...]
    funnel_total: Letters
    interest_days: int
    interests: tuple[Interest, ...]
    groups: tuple[Line, ...]
    source: Source
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As `result` of a job: times and dates in ISO 8601."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def make_report(facts: Facts, *, top: int = 10, idle_days: int = 90) -> Report:
    """The numbers of one reading. Ties stand by name, then id; never-active groups are idle, before all others."""
    groups = [group for group in facts.groups if group.id not in facts.deleted]
    excluded = [group for group in facts.groups if group.id in facts.deleted]
    as_of = facts.read_until
    known = {group.id: group.members for group in groups if group.members is not None}
    ranked = sorted(
        (Popular(group.id, group.name, group.members) for group in groups if group.members is not None),
        key=lambda group: (-group.members, group.name, group.id),
    )
    tied = sum(group.members == ranked[top - 1].members for group in ranked[top:]) if len(ranked) > top else 0
    idle = sorted((group for group in groups if is_idle(group, as_of, idle_days)), key=_longest_idle)
    idle_ids = {group.id for group in idle}
    never = [group for group in idle if group.last_activity is None]
    unsized = len(groups) - len(known)
    growth = tuple(_growth(span, facts.past.get(span), groups, known) for span in SPANS)
    missing = _missing(facts.days)
    return Report(
        total=len(groups),
        as_of=as_of,
        top=top,
        idle_days=idle_days,
        members=sum(known.values()),
        privacy=dict(sorted(Counter(group.privacy for group in groups).items())),
        most_popular=tuple(ranked[:top]),
        more_tied=tied,
        idle=tuple(Idle(group.id, group.name, group.last_activity) for group in idle),
        never_active=tuple(Named(group.id, group.name) for group in never),
        excluded=tuple(
            Named(group.id, group.name)
            for group in sorted(excluded, key=lambda group: (group.name, group.id))
        ),
        growth=growth,
        days=tuple(facts.days),
        missing_days=missing,
        funnel_days=FUNNEL_DAYS,
        funnel=tuple(facts.letters),
        funnel_total=facts.all_letters or Letters("", None, None, 0, 0, 0, 0, 0),
        interest_days=INTEREST_DAYS,
        interests=tuple(facts.interests),
        groups=tuple(
            Line(
                group.id,
                group.name,
                group.privacy,
                group.members,
                group.created_at,
                group.last_activity,
                group.id in idle_ids,
                {str(span): _change(group, facts.past.get(span)) for span in SPANS},
            )
            for group in sorted(groups, key=lambda group: (-(group.members or 0), group.name, group.id))
        ),
        source=Source(
            facts.site,
            facts.site_name,
            facts.read_from,
            facts.read_until,
            facts.wix_calls,
            len(facts.groups),
            facts.wix_total,
        ),
        notes=tuple(_notes(facts, len(groups), excluded, unsized, growth, missing)),
    )


def is_idle(group: Group, now: datetime, idle_days: int) -> bool:
    """Whether nothing happened in it for longer than this, or never anything."""
    return group.last_activity is None or group.last_activity < now - timedelta(days=idle_days)


def base_days(days: Collection[date], today: date) -> dict[int, date]:
    """With which day's reading to compare over each of SPANS: the first within it. Without an earlier one, none."""
    found = {}
    for span in SPANS:
        within = [day for day in days if today - timedelta(days=span) <= day < today]
        if within:
            found[span] = min(within)
    return found


def due_on(schedule: ReportSchedule, time_zone: str, now: datetime) -> date | None:
    """The day of the report whose hour has come last, by the clock of this time zone; None when its day is over, which
    is at the same hour of the next.

    A month's report comes on its first day. The same day again is the same report.
    """
    zone = ZoneInfo(time_zone)
    today = now.astimezone(zone).date()
    for day in (today, today - timedelta(days=1)):
        if datetime.combine(day, schedule.at, zone) <= now:  # of an hour that clocks pass over: an hour later
            return day if _is_its_day(schedule, day) else None
    return None


def _is_its_day(schedule: ReportSchedule, day: date) -> bool:
    if schedule.every == "week":
        return day.weekday() == schedule.weekday
    return schedule.every == "day" or day.day == 1


def _longest_idle(group: Group) -> tuple[datetime, str, str]:
    return group.last_activity or datetime.min.replace(tzinfo=UTC), group.name, group.id


def _growth(span: int, past: Past | None, groups: Sequence[Group], known: Mapping[GroupId, int]) -> Growth:
    if past is None:
        return Growth(span)
    ids = {group.id for group in groups}
    # Of a group whose size Wix does not say now, nothing can be compared.
    sizes = {group: size for group, size in past.sizes.items() if group in known or group not in ids}
    then = sum(sizes.values())
    return Growth(
        span,
        past.since,
        then,
        sum(known.values()) - then,
        sum(past.losses.values()),
        len(ids - past.sizes.keys()),
        len(past.sizes.keys() - ids),
    )


def _change(group: Group, past: Past | None) -> int | None:
    """A group that was not there then began with nobody."""
    return None if past is None or group.members is None else group.members - past.sizes.get(group.id, 0)


def _missing(days: Sequence[Day]) -> tuple[date, ...]:
    there = {reading.day for reading in days}
    if not there:
        return ()
    first, last = min(there), max(there)
    between = (first + timedelta(days=number) for number in range((last - first).days))
    return tuple(day for day in between if day not in there)


def _notes(
    facts: Facts,
    counted: int,
    excluded: Sequence[Group],
    unsized: int,
    growth: Sequence[Growth],
    missing: Sequence[date],
) -> list[str]:
    notes = []
    listed = len(facts.groups)
    if facts.wix_total is not None and facts.wix_total != listed:
        notes.append(
            f"Wix says that there are {_of(facts.wix_total, 'group')}, and its list held {listed}: "
            "the list may have changed while it was read."
        )
    if excluded:
        are = "is" if len(excluded) == 1 else "are"
        notes.append(
            f"Wix still lists {_of(len(excluded), 'group')} that {are} deleted: of {listed} listed, "
            f"{counted} {'is' if counted == 1 else 'are'} counted."
        )
    if unsized:
        notes.append(
            f"Of {_of(unsized, 'group')} Wix does not say how many members there are: they count as groups, "
            "and stand in no sum or ranking of members."
        )
    known = [line for line in growth if line.since is not None]
    if not known:
        notes.append(
            "Nothing can be said of growth yet: this is the first day on which the groups were counted."
        )
    today = facts.read_until.astimezone(UTC).date()
    late = [line for line in known if line.since != today - timedelta(days=line.days)]
    if late:
        spans = _in_words([str(line.days) for line in late])
        notes.append(
            f"For {spans} days ago there is no count: the first one after that is taken, as its date says."
        )
    if missing:
        told = _in_words([day.isoformat() for day in missing[:5]] + _more(len(missing) - 5))
        notes.append(
            f"No count was taken on {told}. Who left and came back over such a gap does not show in who left."
        )
    if facts.letters_left_out:
        notes.append(
            f"{_of(facts.letters_left_out, 'more letter')} with fewer readers are only in the sum of all letters."
        )
    return notes


def _of(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _more(number: int) -> list[str]:
    return [f"{_of(number, 'more day')}"] if number > 0 else []


def _in_words(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
