"""What Wix does not tell: the joins and requests in its lists that no event of the journal speaks of.

Wix publishes no webhook for somebody who joins a public group alone, and gives up on a delivery after about 47
hours. So its lists are compared with the journal, one list at a time (a Watch). What is missing becomes an event like
any other, marked as found. Nobody is found who was there before the list was first looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from core.automations import Automations, applicable
from core.community import Group, GroupId, MemberId, SiteId
from core.events import (
    JOIN_APPROVED,
    JOIN_CANCELED,
    JOIN_REJECTED,
    JOIN_REQUESTED,
    MEMBER_ADDED,
    MEMBER_JOINED,
    Details,
    Event,
    EventId,
)

GROUPS, MEMBERS, REQUESTS = "groups", "members", "requests"
"""The kinds of lists: a site's groups, a group's members, a private group's pending requests."""

GRACE = timedelta(minutes=2)
"""What is younger is left for the next look: its webhook is probably on its way."""
LOOK_BACK = timedelta(minutes=15)
"""Compared again at each look: Wix's lists may lag, its clock may differ, and paging may pass over a row."""
FORGOTTEN_AFTER = timedelta(minutes=10)
"""A request that the list does not show may have been passed over by paging, so it is not taken for gone at once."""
GONE_AFTER = timedelta(days=1)
"""A group that is not listed any more. One that comes back sooner, from a gap in Wix's answer, loses no join."""
FOUNDING = timedelta(seconds=10)
"""Who is in a new group within this is its founder, and is not greeted there."""
SHARE_OF_BUDGET = 0.2
SITE_S, QUIET_S = 60.0, 300.0
"""How often a list is looked at while something changes, and when nothing does."""

UNTOLD = timedelta(hours=48)
"""Wix gives up on a delivery before this."""

ENDS_OF_REQUEST = (JOIN_APPROVED, JOIN_REJECTED, JOIN_CANCELED)
JOIN_TYPES = (MEMBER_ADDED, MEMBER_JOINED, JOIN_APPROVED)


@dataclass(frozen=True, slots=True)
class Request:
    """A pending request that was seen in the list. It was made between `after`, when it was not there, and `seen`.

    `seen` None: nothing to find any more, because it was there at the first look, somebody told of it, or it was
    found. `missing`: since when the list does not show it.
    """

    after: datetime | None = None
    seen: datetime | None = None
    missing: datetime | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """One list of Wix's, and how far it was compared. `group` is "" for the list of groups.

    `since`: who joined later is compared; of a list of groups, when the site was connected. `looked_at`: when it
    was last read; None as long as what it shows is only taken note of. `members` and `privacy` are what the list of
    groups said last; `missing`: it does not show the group at the moment.
    """

    site: SiteId
    kind: str
    group: GroupId
    since: datetime | None = None
    pending: Mapping[MemberId, Request] = field(default_factory=dict)
    members: int | None = None
    privacy: str = ""
    looked_at: datetime | None = None
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """An event of the journal, opened."""

    event: Event
    details: Details


# A site's groups


@dataclass(frozen=True, slots=True)
class Rearranged:
    """What the list of groups changes about a site's watches. `urgent`: groups whose number of members changed."""

    new: list[Watch] = field(default_factory=list)
    changed: list[Watch] = field(default_factory=list)
    dropped: list[Watch] = field(default_factory=list)
    urgent: set[GroupId] = field(default_factory=set)


def kinds_wanted(automations: Automations, site: SiteId, group: Group) -> frozenset[str]:
    """Which lists of this group somebody cares about. Only private groups have requests."""

    def somebody_listens(*triggers: str) -> bool:
        return any(applicable(automations, trigger, site, group) for trigger in triggers)

    wanted = {MEMBERS} if somebody_listens("member_added", "join_approved") else set()
    # Who is in and was waiting before was approved: without the requests nobody could tell.
    if group.privacy == "PRIVATE" and somebody_listens("join_requested", "join_approved"):
        wanted.add(REQUESTS)
    return frozenset(wanted)


def rearrange(
    home: Watch, watches: Collection[Watch], groups: Iterable[Group], automations: Automations, now: datetime
) -> Rearranged:
    """Compare the site's groups with its watches. `home` is the watch of the list of groups itself."""
    known = {(watch.kind, watch.group): watch for watch in watches}
    result, listed = Rearranged(), set()
    for group in groups:
        listed.add(group.id)
        wanted = kinds_wanted(automations, home.site, group)
        for kind in (MEMBERS, REQUESTS):
            watch = known.get((kind, group.id))
            if watch is None and kind in wanted:
                result.new.append(_begin(kind, group, home, now))
            elif watch is not None and kind not in wanted:
                result.dropped.append(watch)
            elif watch is not None:
                members = watch.members if group.members is None else group.members
                fresh = replace(watch, members=members, privacy=group.privacy, missing=False)
                if fresh != watch:
                    result.changed.append(fresh)
                if members != watch.members:
                    result.urgent.add(group.id)
    for watch in watches:
        if watch.group not in listed:
            if not watch.missing:
                result.changed.append(replace(watch, missing=True))
            elif watch.looked_at is None or now - watch.looked_at > GONE_AFTER:
                result.dropped.append(watch)
    return result


def _begin(kind: str, group: Group, home: Watch, now: datetime) -> Watch:
    """A group that was made while the site was connected is watched from its beginning, any other from now on."""
    watch = Watch(home.site, kind, group.id, now, members=group.members, privacy=group.privacy)
    if (
        group.created_at is not None
        and home.since is not None
        and home.looked_at is not None
        and max(home.since, home.looked_at - LOOK_BACK) < group.created_at < now
    ):
        founded_at = group.created_at + FOUNDING
        return replace(watch, since=founded_at, looked_at=founded_at)
    return watch


# A group's members


def needs_more(page: Sequence[datetime | None], since: datetime) -> bool:
    """Whether the next page of a list of members has to be read after this one.

    Wix documents the newest first: then a page that reaches back to `since` is enough. A page in any other
    order says nothing about the next.
    """
    dates = [date for date in page if date is not None]
    in_order = all(earlier >= later for earlier, later in pairwise(dates)) and len(set(dates)) > 1
    return not in_order or all(date > since for date in dates)


def unknown_joins(
    joins: Mapping[MemberId, datetime], heard: Iterable[Heard], since: datetime, now: datetime
) -> dict[MemberId, datetime]:
    """Those of the joins after `since`, not counting the very latest, that no event speaks of."""
    told: dict[MemberId | None, list[Heard]] = {}
    for one in heard:
        told.setdefault(one.details.member, []).append(one)
    return {
        member: joined_at
        for member, joined_at in joins.items()
        if since < joined_at <= now - GRACE
        and not any(_speaks_of(one, joined_at) for one in told.get(member, ()))
    }


def _speaks_of(heard: Heard, joined_at: datetime) -> bool:
    """An event with the date of joining means that one; of others the time has to do."""
    if heard.details.joined_at is not None:
        return abs(heard.details.joined_at - joined_at) < timedelta(minutes=1)
    return abs(heard.event.occurred_at - joined_at) < timedelta(minutes=10)


def next_since(watch_since: datetime, now: datetime, *, paged: bool, found: Collection[datetime]) -> datetime:
    """Up to where the list has been compared. Never beyond what will be compared again.

    A list that changes while it is read page by page may pass over a row. So when more than one page was needed
    and old joins were found, the same is read once more.
    """
    watch_since = min(watch_since, now)
    since = max(watch_since, now - GRACE - LOOK_BACK)
    return watch_since if paged and any(joined_at <= since for joined_at in found) else since


# Requests to join


def see_requests(
    watch: Watch, listed: Mapping[MemberId, datetime | None], now: datetime
) -> dict[MemberId, Request]:
    """What is known of each request after a look at the whole list; the dates are Wix's, where it says them."""
    requests = {}
    for member, request in watch.pending.items():
        missing = None if member in listed else request.missing or now
        if missing is None or now - missing < FORGOTTEN_AFTER:
            requests[member] = replace(request, missing=missing)
    for member, asked_at in listed.items():
        known = requests.get(member)
        again = asked_at and watch.looked_at and asked_at > watch.looked_at
        if known is not None and known.seen is None and again:
            requests[member] = Request(asked_at, asked_at)  # declined meanwhile, and asked once more
        if known is None:
            # Who waits at the first look is known, and so is who has waited since before.
            if watch.looked_at is None or (asked_at and watch.since and asked_at <= watch.since):
                requests[member] = Request()
            else:
                requests[member] = Request(asked_at or watch.looked_at, asked_at or now)
    return requests


def unknown_requests(
    requests: Mapping[MemberId, Request], heard: Iterable[Heard], now: datetime
) -> tuple[dict[MemberId, Request], dict[MemberId, Request]]:
    """Those that no event speaks of, and all of them with the others marked as known.

    A request is given time to be told of; then it has to be in the list still.
    """
    told: dict[MemberId | None, list[datetime]] = {}
    for one in heard:
        told.setdefault(one.details.member, []).append(one.event.occurred_at)
    found, left = {}, dict(requests)
    for member, request in requests.items():
        if request.seen is None or request.after is None:
            continue
        if any(at >= request.after - GRACE for at in told.get(member, ())):
            left[member] = Request(missing=request.missing)
        elif request.missing is None and request.seen <= now - GRACE:
            found[member] = request
            left[member] = Request()
    return found, left


def when_asked(event: Event, heard: Iterable[Heard]) -> datetime:
    """One time for one request, though a webhook came late and the request had been found meanwhile."""
    if not event.found:
        for one in heard:
            after, seen = one.details.asked_after, one.event.occurred_at
            if not one.event.found or after is None:
                continue
            if after - GRACE <= event.occurred_at <= seen + timedelta(minutes=1):
                return seen
    return event.occurred_at


def times_of_request(asked_at: datetime | None, heard: Iterable[Heard]) -> tuple[datetime, ...]:
    """The times that may stand for a request that is pending now, the likeliest first; none when no event speaks of it.

    `asked_at`: when it was made, if Wix says so. `heard`: what the journal holds of this person and group.
    """
    heard = list(heard)
    since = asked_at - GRACE if asked_at else _ended_at(heard)
    told = [
        one
        for one in heard
        if one.event.type == JOIN_REQUESTED and (since is None or one.event.occurred_at >= since)
    ]
    if not told:
        return ()
    stands = when_asked(max(told, key=lambda one: one.event.occurred_at).event, told)
    same = [one.event.occurred_at for one in told if when_asked(one.event, told) == stands]
    return tuple(dict.fromkeys((stands, *same)))


def noticed_request(
    site: SiteId,
    group: GroupId,
    member: MemberId,
    asked_at: datetime | None,
    heard: Iterable[Heard],
    now: datetime,
) -> Event:
    """For a request that a person decides before anybody told of it: a webhook that comes late is then known to be
    about the same one (when_asked)."""
    after = asked_at or max(filter(None, (now - UNTOLD, _ended_at(heard))))
    return found_request(Watch(site, REQUESTS, group), member, Request(after, asked_at or now))


def _ended_at(heard: Iterable[Heard]) -> datetime | None:
    return max((one.event.occurred_at for one in heard if one.event.type in ENDS_OF_REQUEST), default=None)


# What is found


def found_join(watch: Watch, member: MemberId, joined_at: datetime, event_type: str) -> Event:
    """`event_type`: MEMBER_JOINED or JOIN_APPROVED. The id is the same however often it is found."""
    person = {"memberId": member, "joinedDate": joined_at.isoformat()}
    body = {"groupId": watch.group, "groupMember": person}
    return _found(watch, member, joined_at, event_type, {"actionEvent": {"body": body}})


def found_request(watch: Watch, member: MemberId, request: Request) -> Event:
    """Of a request with both of its times. The event's is the one at which it was seen, or made, if Wix says so."""
    if request.after is None or request.seen is None:
        raise ValueError("nothing is to be found about this request")
    payload = {
        "createdEvent": {"entity": {"siteMemberId": member}},
        "askedAfter": request.after.isoformat(),
    }
    return _found(watch, member, request.seen, JOIN_REQUESTED, payload)


def _found(
    watch: Watch, member: MemberId, at: datetime, event_type: str, payload: Mapping[str, object]
) -> Event:
    # Wix writes the same moment with and without fractions of a second.
    parts = (event_type, watch.group, member, at.replace(microsecond=0).isoformat())
    return Event(
        id=EventId("found-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()),
        site=watch.site,
        type=event_type,
        occurred_at=at,
        payload=json.dumps({"entityId": watch.group, **payload}),
        found=True,
    )


# How often, and what is worth an alarm


def pause_s(calls: int, calls_per_minute: float) -> float:
    """How long a site's lists are left alone after so many calls, to stay within their share of its budget."""
    return calls * 60 / (calls_per_minute * SHARE_OF_BUDGET)


def interval_s(watch: Watch, *, before: datetime | None, now: datetime, watches: int, pause: float) -> float:
    """Until the next look when nothing happened. `before` was the last one, `watches` is how many lists of groups
    the site has, `pause` what a look costs: half of the share is kept for looks with a reason, which come at once.
    """
    if watch.kind == GROUPS:
        waited_s = (now - before).total_seconds() if before else 0.0
        return max(SITE_S, min(QUIET_S, 2 * waited_s), 2 * pause)
    # Where the list of groups does not say how many are in, nothing else tells that somebody came.
    often = SITE_S if watch.kind == MEMBERS and watch.members is None else QUIET_S
    return max(often, 2 * watches * pause)


def is_quiet(received: Sequence[datetime], now: datetime) -> bool:
    """Whether webhooks used to come and now do not. `received`: when some came, newest first, at least an hour apart.

    Ten such hours are a habit. Silence is longer than a day, and than five times the longest there was.
    """
    if len(received) < 10:
        return False
    longest = max(later - earlier for later, earlier in pairwise(received))
    return now - received[0] > max(timedelta(hours=24), 5 * longest)
