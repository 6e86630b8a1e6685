"""The figures that a report rests on: how large each group was day by day, and what became of the letters.

A row of `group_days` is the last reading of one day (UTC) of one group. Wix may go on listing a group that was deleted,
and nothing in its list says so; so a row on the day DELETED says it here, for as long as Wix lists the group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from core.community import Group, GroupId, SiteId
from core.errors import MalformedEventError
from core.events import GROUP_DELETED, Event, EventId, read_details
from core.reports import (
    FUNNEL_DAYS,
    INTEREST_DAYS,
    MOST_INTERESTS,
    MOST_LETTERS,
    SPANS,
    Day,
    Interest,
    Letters,
    Past,
    base_days,
)
from integrations.store.database import Database, Transaction
from integrations.store.tables import events, group_days, job_items, jobs, messages, suppressions

KEPT = timedelta(days=400)
DELETED = date(1970, 1, 1)
"""The day of a row that says that its group was deleted; `read_at` is when Wix last listed it."""


class GroupDays:
    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, site: SiteId, groups: Collection[Group]) -> frozenset[GroupId]:
        """Make today's rows of the site say what this list says: all its groups, each once. Returns those of them that
        were deleted, which have no row. Again is harmless; where nothing changed nothing is written.
        """
        with self._database.read() as tx:
            today = tx.now.date()
            noted = {
                row.group_id: row.members
                for row in tx.execute(
                    sa.select(group_days.c.group_id, group_days.c.members).where(*_on(site, today))
                )
            }
            known = set(tx.connection.scalars(sa.select(group_days.c.group_id).where(*_on(site, DELETED))))
            told = _told_deleted(tx, site, today) - known
        listed = {str(group.id): group.members for group in groups}
        gone = (known | told) & listed.keys()
        there = {group: members for group, members in listed.items() if group not in gone}
        changed = {
            group: members
            for group, members in there.items()
            if group not in noted or noted[group] != members
        }
        over = noted.keys() - there.keys()
        if changed or over or told & listed.keys():
            with self._database.begin() as tx:
                _write(tx, site, today, changed)
                _write(tx, site, DELETED, dict.fromkeys(gone))
                _drop(tx, site, today, over)
                if not noted:
                    _forget_old(tx, site, today)
        return frozenset(GroupId(group) for group in gone)

    def growth(self, site: SiteId) -> tuple[list[Day], dict[int, Past]]:
        """The site day by day over the longest of SPANS, and how it was at the beginning of each."""
        with self._database.read() as tx:
            today = tx.now.date()
            first = today - timedelta(days=max(SPANS))
            days = [
                Day(row.day, row.groups, row.members or 0)
                for row in tx.execute(
                    sa.select(
                        group_days.c.day,
                        sa.func.count().label("groups"),
                        sa.func.sum(group_days.c.members).label("members"),
                    )
                    .where(group_days.c.site == site, group_days.c.day >= first)
                    .group_by(group_days.c.day)
                    .order_by(group_days.c.day)
                )
            ]
            bases = base_days([reading.day for reading in days], today)
            sizes = {since: _sizes(tx, site, since) for since in set(bases.values())}
            losses = _losses(tx, site, sorted(sizes))
        return days, {span: Past(since, sizes[since], losses[since]) for span, since in bases.items()}

    def sizes(self, site: SiteId, group: GroupId, days: int) -> list[tuple[date, int]]:
        """How many members the group had, day by day over so many, as far as it was read and Wix said so."""
        with self._database.read() as tx:
            query = (
                sa.select(group_days.c.day, group_days.c.members)
                .where(
                    group_days.c.site == site,
                    group_days.c.group_id == group,
                    group_days.c.day >= tx.now.date() - timedelta(days=days),
                    group_days.c.members.is_not(None),
                )
                .order_by(group_days.c.day)
            )
            return [(row.day, row.members) for row in tx.execute(query)]

    def sizes_since(self, site: SiteId, days: int) -> tuple[date, dict[GroupId, int]] | None:
        """The first day that was read within so many days before today, and the size of each group on it."""
        with self._database.read() as tx:
            today = tx.now.date()
            within = (
                group_days.c.site == site,
                group_days.c.day >= today - timedelta(days=days),
                group_days.c.day < today,
            )
            since = tx.connection.scalar(sa.select(sa.func.min(group_days.c.day)).where(*within))
            return (since, _sizes(tx, site, since)) if since else None

    def deleted(self, site: SiteId) -> frozenset[GroupId]:
        """Groups that Wix may still list."""
        query = sa.select(group_days.c.group_id).where(*_on(site, DELETED))
        with self._database.read() as tx:
            return frozenset(GroupId(group) for group in tx.connection.scalars(query))

    def letters_to_groups(self, site: SiteId, days: int) -> dict[GroupId, int]:
        """How many letters of the last days went out to members of each group."""
        number = sa.func.count().label("number")
        # Not by the index of groups, which leads past all that ever went.
        group = sa.func.coalesce(messages.c.group_id, sa.literal_column("''")).label("group_id")
        with self._database.read() as tx:
            query = (
                sa.select(group, number)
                .where(
                    messages.c.site == site,
                    messages.c.created_at >= tx.now - timedelta(days=days),
                    messages.c.state.in_(("sent", "bounced")),
                )
                .group_by(group)
            )
            return {GroupId(row.group_id): row.number for row in tx.execute(query)}

    def letters_of_group(self, site: SiteId, group: GroupId, days: int) -> list[tuple[str, str | None, int]]:
        """State, reason and number of the group's letters of the last days, the most first; reasons only of those that
        did not go out. What nobody confirmed yet is no letter."""
        why = sa.case((messages.c.state.in_(("skipped", "failed", "in_doubt")), messages.c.reason)).label(
            "why"
        )
        number = sa.func.count().label("number")
        with self._database.read() as tx:
            query = (
                sa.select(messages.c.state, why, number)
                .where(*_letters_since(site, tx.now - timedelta(days=days)), messages.c.group_id == group)
                .group_by(messages.c.state, why.name)
                .order_by(number.desc(), messages.c.state)
            )
            return [(row.state, row.why, row.number) for row in tx.execute(query)]

    def letters(self, site: SiteId) -> tuple[list[Letters], Letters, int]:
        """What became of the letters of the last FUNNEL_DAYS: those with the most readers, the sum of all, and how
        many letters are in the sum alone. What nobody confirmed yet is no letter."""
        with self._database.read() as tx:
            since = tx.now - timedelta(days=FUNNEL_DAYS)
            rows = tx.execute(_funnel(site, since)).all()
            left = {
                (row.email_template, row.automation, row.job): row.number
                for row in tx.execute(_opt_outs(site, since))
            }
        found = [
            Letters(
                row.email_template,
                row.automation,
                row.job,
                asked=row.asked,
                eligible=row.eligible,
                sent=row.sent,
                bounced=row.bounced,
                unsubscribed=left.get((row.email_template, row.automation, row.job), 0),
                waiting=row.waiting,
                failed=row.failed,
                in_doubt=row.in_doubt,
            )
            for row in rows
        ]
        found.sort(key=lambda row: (-row.asked, row.email, row.automation or "", row.job or ""))
        sums = {
            name: sum(getattr(row, name) for row in found)
            for name in (
                "asked",
                "eligible",
                "sent",
                "bounced",
                "unsubscribed",
                "waiting",
                "failed",
                "in_doubt",
            )
        }
        total = Letters("", None, None, **sums)
        return found[:MOST_LETTERS], total, max(0, len(found) - MOST_LETTERS)

    def interests(self, site: SiteId) -> list[Interest]:
        """The words that the answers of most people met in the last INTEREST_DAYS, each person once in each group.

        Whose answers hold a word of `none` has said the contrary.
        """
        with self._database.read() as tx:
            people = _people_by_term(tx, site, tx.now - timedelta(days=INTEREST_DAYS)).subquery()
            number = sa.func.count().label("number")
            query = (
                sa.select(people.c.term, number)
                .group_by(people.c.term)
                .order_by(number.desc(), people.c.term)
                .limit(MOST_INTERESTS)
            )
            return [Interest(row.term, row.number) for row in tx.execute(query)]


def settle_listed(tx: Transaction, job: str, left_out: Mapping[int, str]) -> None:
    """The rows of a report's job once its result holds what they held; `left_out`: which are not counted, and why."""
    tx.execute(sa.update(job_items).where(job_items.c.job == job).values(data={}))
    for number, reason in left_out.items():
        row = sa.and_(job_items.c.job == job, job_items.c.number == number)
        tx.execute(sa.update(job_items).where(row).values(state="skipped", reason=reason, changed_at=tx.now))


def _on(site: SiteId, day: date) -> tuple[sa.ColumnElement[bool], ...]:
    return group_days.c.site == site, group_days.c.day == day


def _told_deleted(tx: Transaction, site: SiteId, today: date) -> set[str]:
    """Of which groups Wix told that they were deleted, since the day before the last reading."""
    newest = tx.connection.scalar(sa.select(sa.func.max(group_days.c.day)).where(group_days.c.site == site))
    since = [] if newest is None or newest == DELETED else [_midnight(min(newest, today) - timedelta(days=1))]
    told = sa.select(events).where(
        events.c.site == site,
        events.c.type == GROUP_DELETED,
        *(events.c.received_at >= at for at in since),
    )
    found = set()
    for row in tx.execute(told):
        with contextlib.suppress(MalformedEventError):
            event = Event(EventId(row.id), site, row.type, row.occurred_at, row.payload)
            if group := read_details(event).group:
                found.add(str(group))
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _write(tx: Transaction, site: SiteId, day: date, sizes: Mapping[str, int | None]) -> None:
    if not sizes:
        return
    insert = tx.insert(group_days)
    tx.connection.execute(
        insert.on_conflict_do_update(
            index_elements=[group_days.c.site, group_days.c.day, group_days.c.group_id],
            set_={name: insert.excluded[name] for name in ("members", "read_at")},
        ),
        [
            {"site": site, "day": day, "group_id": group, "members": members, "read_at": tx.now}
            for group, members in sorted(sizes.items())  # in one order, so that no two wait for each other
        ],
    )


def _drop(tx: Transaction, site: SiteId, day: date, groups: Collection[str]) -> None:
    """A group that was listed earlier this day, and is not now."""
    for group in sorted(groups):
        tx.execute(sa.delete(group_days).where(*_on(site, day), group_days.c.group_id == group))


def _forget_old(tx: Transaction, site: SiteId, today: date) -> None:
    """Once a day, so it is about one day's rows."""
    oldest = today - KEPT
    tx.execute(
        sa.delete(group_days).where(
            group_days.c.site == site,
            group_days.c.day < oldest,
            sa.or_(group_days.c.day != DELETED, group_days.c.read_at < _midnight(oldest)),
        )
    )


def _sizes(tx: Transaction, site: SiteId, day: date) -> dict[GroupId, int]:
    query = sa.select(group_days.c.group_id, group_days.c.members)
    known = group_days.c.members.is_not(None)
    return {GroupId(row.group_id): row.members for row in tx.execute(query.where(*_on(site, day), known))}


def _losses(tx: Transaction, site: SiteId, bases: Sequence[date]) -> dict[date, dict[GroupId, int]]:
    """How many members each group lost since each of these days, from one reading to the next."""
    if not bases:
        return {}
    before = sa.func.lag(group_days.c.members).over(
        partition_by=group_days.c.group_id, order_by=group_days.c.day
    )
    steps = (
        sa.select(group_days.c.group_id, group_days.c.day, group_days.c.members, before.label("before"))
        .where(group_days.c.site == site, group_days.c.day >= bases[0], group_days.c.members.is_not(None))
        .subquery()
    )
    lost = [
        sa.func.sum(sa.case((steps.c.day > base, steps.c.before - steps.c.members), else_=0)).label(
            f"lost{place}"
        )
        for place, base in enumerate(bases)
    ]
    fell = steps.c.before > steps.c.members
    rows = tx.execute(sa.select(steps.c.group_id, *lost).where(fell).group_by(steps.c.group_id)).all()
    return {
        base: {GroupId(row.group_id): number for row in rows if (number := getattr(row, f"lost{place}"))}
        for place, base in enumerate(bases)
    }


def _letters_since(site: SiteId, since: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    confirmed = sa.exists().where(jobs.c.id == messages.c.job, jobs.c.confirmed_at.is_not(None))
    return (
        messages.c.site == site,
        messages.c.created_at >= since,
        sa.or_(messages.c.job.is_(None), confirmed),
    )


_LETTER = (messages.c.email_template, messages.c.automation, messages.c.job)


def _funnel(site: SiteId, since: datetime) -> sa.Select[Any]:
    def number(condition: sa.ColumnElement[bool], name: str) -> sa.Label[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0)).label(name)

    state = messages.c.state
    return (
        sa.select(
            *_LETTER,
            sa.func.count().label("asked"),
            number(state != "skipped", "eligible"),
            number(state.in_(("sent", "bounced")), "sent"),
            number(messages.c.bounced_at.is_not(None), "bounced"),
            number(state.in_(("planned", "deferred", "sending")), "waiting"),
            number(state == "failed", "failed"),
            number(state == "in_doubt", "in_doubt"),
        )
        .where(*_letters_since(site, since))
        .group_by(*_LETTER)
    )


def _opt_outs(site: SiteId, since: datetime) -> sa.Select[Any]:
    """Who said stop here, by letter: the one that was answered; else the last one that had gone to them before."""
    said = suppressions
    last = messages.alias("last")
    newest = (
        sa.select(last.c.id)
        .where(
            last.c.site == said.c.site,
            last.c.member == sa.func.substr(said.c.subject, len("member:") + 1),
            last.c.sent_at <= said.c.created_at,
            sa.or_(said.c.scope == "promotional", said.c.scope == sa.literal("group:") + last.c.group_id),
        )
        .order_by(last.c.sent_at.desc())
        .limit(1)
        .correlate(said)
        .scalar_subquery()
    )
    return (
        sa.select(*_LETTER, sa.func.count(sa.distinct(messages.c.id)).label("number"))
        .select_from(said)
        .join(messages, messages.c.id == sa.func.coalesce(said.c.letter, newest))
        .where(
            said.c.site == site,
            said.c.subject.startswith("member:", autoescape=True),
            said.c.cause == "unsubscribed",
            said.c.created_at >= since,
            *_letters_since(site, since),
        )
        .group_by(*_LETTER)
    )


def _people_by_term(tx: Transaction, site: SiteId, since: datetime) -> sa.Select[Any]:
    """Term, group and member, each combination once."""
    context = messages.c.context
    if tx.connection.dialect.name == "sqlite":
        each = sa.func.json_each(context, "$.matched").table_valued("value")
        term, is_list = each.c.value, sa.func.json_type(context, "$.matched") == "array"
    else:
        matched = context["matched"]
        is_list = sa.func.json_typeof(matched) == "array"
        # The guard stands in the call: a WHERE may be looked at after it.
        each = sa.func.json_array_elements_text(sa.case((is_list, matched))).table_valued("value")
        term = each.c.value
    meant = sa.or_(messages.c.reason.is_(None), ~messages.c.reason.endswith("(none)", autoescape=True))
    return (
        sa.select(term.label("term"), messages.c.group_id, messages.c.member)
        .select_from(messages.join(each, sa.true()))
        # Letters to a whole group come by the hundred thousand, and ask no answers.
        .where(*_letters_since(site, since), messages.c.trigger != "group_email", is_list, meant)
        .distinct()
    )
