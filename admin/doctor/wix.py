"""Wix: whether the app gets a token for each site, and which calls it may make. Calls that change something are not
tried: approving, declining and opting out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, cast

import sqlalchemy as sa

from admin.doctor.findings import Finding, Line, Subject, failed, not_checked, ok, warning
from admin.doctor.installation import judge_clock
from admin.doctor.reach import NoWayError, ask, open_http
from core.community import GroupId, MemberId, SiteId
from core.errors import ForbiddenError, NotFoundError, PermanentError, RetryableError
from integrations.shared import open_redis
from integrations.store.tables import sites
from integrations.wix import protocol
from integrations.wix.client import WixClient
from integrations.wix.protocol import Call, UnauthorizedError

MOST_SITES = 5
LONGEST_WAIT_S = 5.0
NOBODY = "00000000-0000-0000-0000-000000000000"

GROUPS = "Manage Social Groups (SCOPE.DC-MANAGE.SOCIAL-GROUPS)"
MEMBERS = "Read Members (SCOPE.DC-MEMBERS.READ-MEMBERS)"
SUBSCRIPTIONS = "Manage Email Subscriptions (SCOPE.DC-MANAGE.EMAIL-SUBSCRIPTIONS)"
APP = "Manage Your App (SCOPE.DC.MANAGE-YOUR-APP)"


@dataclass(frozen=True)
class Known:
    """What earlier calls said of the site: there may be no group, or nobody in it."""

    group: GroupId | None = None
    member: MemberId | None = None


@dataclass(frozen=True)
class Trial:
    """One call that Usher makes, and the permission it needs. `call` answers None where the site has nothing to ask
    about. `learn` reads the answer for the calls after it."""

    permission: str
    call: Callable[[Known], Call | None]
    learn: Callable[[Known, Mapping[str, Any]], Known] = lambda known, _: known


def _first_group(_: Known, answer: Mapping[str, Any]) -> Known:
    items = protocol.read_groups(answer).items
    # One with members, as most calls are about them.
    best = max(items, key=lambda item: item[1].members or 0, default=None)
    return Known(group=best[0] if best else None)


def _first_member(known: Known, answer: Mapping[str, Any]) -> Known:
    items = protocol.read_group_members(answer).items
    return Known(known.group, items[0][0] if items else None)


def _of_group(call: Callable[[GroupId], Call]) -> Callable[[Known], Call | None]:
    return lambda known: call(known.group) if known.group else None


def _answers(known: Known) -> Call | None:
    return protocol.list_answers(known.group, [known.member], 0) if known.group and known.member else None


TRIALS = (
    Trial(GROUPS, lambda _: protocol.list_groups(0), _first_group),
    Trial(GROUPS, _of_group(protocol.get_group)),
    Trial(GROUPS, _of_group(lambda group: protocol.list_group_members(group, 0)), _first_member),
    Trial(GROUPS, lambda known: protocol.list_memberships(known.member, 0) if known.member else None),
    Trial(GROUPS, _of_group(lambda group: protocol.query_join_requests(group, "PENDING", 0))),
    Trial(GROUPS, _answers),
    Trial(MEMBERS, lambda known: protocol.query_members([known.member or MemberId(NOBODY)], 0)),
    # The address is nobody's (RFC 2606): what is asked for is whether one may ask.
    Trial(SUBSCRIPTIONS, lambda _: protocol.query_subscriptions(["nobody@example.com"], 0)),
)


class Caller(WixClient):
    """The client of the workers, call by call, so that each refusal has a name."""

    def as_app(self, site: SiteId, call: Call) -> dict[str, Any]:
        return self._ask_as_app(site, call)

    def as_anybody(self, site: SiteId, call: Call) -> dict[str, Any]:
        """As the app, then as the second identity."""
        return self._ask(site, call)


def check_wix(subject: Subject) -> Iterator[Finding]:
    yield check_clock(subject)
    chosen, known = ([subject.site], 1) if subject.site else _known_sites(subject)
    if not chosen:
        yield not_checked(
            Line.WIX,
            "no site has installed the app yet",
            "install the app on a site, with the webhooks subscribed, or name its app instance with --site",
        )
        return
    yield ok(
        Line.WIX,
        f"{known} sites; those looked at: {len(chosen)}"
        + (", the newest (name another with --site)" if known > len(chosen) else ""),
    )
    if not (subject.settings.wix_app_id and subject.settings.wix_app_secret.get_secret_value()):
        yield not_checked(Line.WIX_TOKEN, "WIX_APP_ID or WIX_APP_SECRET is not set")
        return
    needs_answers = subject.checked is not None and any(
        automation.answers for automation in subject.automations().automations
    )
    with contextlib.closing(open_redis(subject.settings.redis)) as redis:
        opened = Caller(
            subject.settings.wix_api_url,
            subject.settings.wix_app_id,
            subject.settings.wix_app_secret.get_secret_value(),
            redis=redis,
            calls_per_minute=subject.settings.wix_calls_per_minute,
            api_key=subject.settings.wix_api_key.get_secret_value(),
            api_key_site_id=subject.settings.wix_site_id,
        )
        caller = cast(Caller, opened.for_bulk(_wait))
        with contextlib.closing(caller):
            for site in chosen:
                yield from check_site(caller, site, needs_answers=needs_answers)


def _wait(seconds: float) -> bool:
    """For room in the site's budget, which the doctor leaves to live events."""
    if seconds > LONGEST_WAIT_S:
        return False
    time.sleep(seconds)
    return True


def check_clock(subject: Subject) -> Finding:
    """By the Date that comes with any answer."""
    try:
        with contextlib.closing(open_http(subject)) as http:
            answer = ask(http, "HEAD", subject.settings.wix_api_url)
        there = parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
    except (NoWayError, KeyError, ValueError) as exc:
        return not_checked(Line.WIX_CLOCK, f"Wix did not say what time it is ({exc})", "run it again later")
    return judge_clock(Line.WIX_CLOCK, "Wix's clock", there, subject.now())


def _known_sites(subject: Subject) -> tuple[list[SiteId], int]:
    with subject.database() as database, database.read() as tx:
        active = sites.c.state == "active"
        rows = tx.execute(
            sa.select(sites.c.site).where(active).order_by(sites.c.changed_at.desc()).limit(MOST_SITES)
        )
        found = [SiteId(row.site) for row in rows]
        return found, tx.connection.scalar(sa.select(sa.func.count()).select_from(sites).where(active)) or 0


def check_site(caller: Caller, site: SiteId, *, needs_answers: bool) -> Iterator[Finding]:
    """`needs_answers`: an automation cannot do without them."""
    call = protocol.get_app_instance()
    try:
        caller.as_app(site, call)
    except RetryableError as exc:
        yield judge_no_token(site, exc)
        return
    except PermanentError as exc:
        yield ok(Line.WIX_TOKEN, f"site {site}: Wix gives the app a token")
        yield judge_refusal(site, call, APP, exc)
    else:
        yield ok(Line.WIX_TOKEN, f"site {site}: Wix gives the app a token")
        yield ok(Line.WIX_CALLS, f"site {site}: {call.name} answers")
    known = Known()
    for trial in TRIALS:
        if (asked := trial.call(known)) is None:
            continue
        finding, answer = _try(caller, site, asked, trial.permission, needs_answers=needs_answers)
        try:
            known = trial.learn(known, answer) if answer is not None else known
        except RetryableError as exc:  # of another shape than a list
            finding = _no_answer(site, exc)
        yield finding
    if known.member is None:
        yield not_checked(
            Line.WIX_CALLS,
            f"site {site}: some calls are about a member of a group, and no group was seen with one",
            "look again when there is one",
        )


def _try(
    caller: Caller, site: SiteId, call: Call, permission: str, *, needs_answers: bool
) -> tuple[Finding, Mapping[str, Any] | None]:
    try:
        answer = caller.as_app(site, call)
        return ok(Line.WIX_CALLS, f"site {site}: {call.name} answers"), answer
    except (ForbiddenError, UnauthorizedError) as refusal:
        try:
            answer = caller.as_anybody(site, call)
        except RetryableError as exc:
            return _no_answer(site, exc), None
        except PermanentError as exc:
            return judge_refusal(site, call, permission, exc, needs_answers=needs_answers), None
        said = "401" if isinstance(refusal, UnauthorizedError) else "403"
        seen = f"site {site}: {call.name} answers {said} to the app, and answers WIX_API_KEY"
        return ok(Line.WIX_CALLS, seen), answer
    except NotFoundError as exc:
        return not_checked(Line.WIX_CALLS, f"site {site}: {exc}"), None
    except PermanentError as exc:
        return judge_refusal(site, call, permission, exc, needs_answers=needs_answers), None
    except RetryableError as exc:
        return _no_answer(site, exc), None


def judge_no_token(site: SiteId, error: RetryableError) -> Finding:
    if isinstance(error.__cause__, PermanentError):  # Wix said no, rather than nothing
        return failed(
            Line.WIX_TOKEN,
            f"site {site}: {error}",
            "compare WIX_APP_ID and WIX_APP_SECRET with the app dashboard, and see that the app is installed there",
        )
    return not_checked(Line.WIX_TOKEN, f"site {site}: {error}", "run it again when Wix can be reached")


def judge_refusal(
    site: SiteId, call: Call, permission: str, error: PermanentError, *, needs_answers: bool = False
) -> Finding:
    seen = f"site {site}: {error}"
    if not isinstance(error, ForbiddenError | UnauthorizedError):
        return failed(
            Line.WIX_CALLS, seen, "Wix understands the call otherwise than Usher: report it with this line"
        )
    if call.name == "listMemberships":
        return ok(Line.WIX_CALLS, f"{seen}; Usher reads the group's own lists instead")
    fix = f"give the app the permission {permission} on its Permissions page, and have the site's owner grant it"
    if call.name != "listAnswers":
        return failed(Line.WIX_CALLS, seen, fix)
    fix += "; if Wix still says no, set WIX_API_KEY and WIX_SITE_ID"
    if needs_answers:
        return failed(Line.WIX_CALLS, seen, fix)
    return warning(Line.WIX_CALLS, f"{seen}; no automation asks for answers", fix)


def _no_answer(site: SiteId, error: RetryableError) -> Finding:
    return not_checked(Line.WIX_CALLS, f"site {site}: {error}", "run it again later")
