"""Wix over HTTP: one kept connection pool, one answer for each question, no waiting and no second tries.

The queue above retries (RetryableError). The two repetitions here are no retries: a call refused with 401 goes
out once with a new token, and one that the app may not make goes out once as the second identity.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
from redis import Redis

from core.community import (
    Answer,
    Group,
    GroupId,
    Member,
    MemberId,
    Membership,
    Person,
    Question,
    Rule,
    Site,
    SiteId,
    Slice,
    Subscription,
)
from core.errors import ForbiddenError, NotFoundError, PermanentError, RetryableError
from core.ports import WixPort
from integrations.cache import ExpiringCache
from integrations.shared import SharedRedis
from integrations.wix import protocol
from integrations.wix.auth import Tokens
from integrations.wix.budget import Budget
from integrations.wix.protocol import Call, ConflictError, Look, Page, UnauthorizedError, Wanted

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

MAX_BODY_BYTES = 8 * 1024 * 1024
READ_S = 15.0
CALL_S = 30.0  # for a whole answer, however slowly it drips in; the timeouts below are for each read
GROUP_S = 60.0
NO_TOKEN_S = 60.0
UNACCEPTED_S = 5.0
NEWEST_LOOKED_AT = (
    1000  # members or requests of a group, where Wix does not say of one member where they stand
)
SITE_S = 600.0
REFUSED_S = 300.0  # so long a refused call goes to the second identity at once


class WixClient(WixPort):
    """All of Wix that the service uses; safe to share between threads, built once per process after the fork.

    `redis` None: budget and tokens are this process's own. `api_key` is the second identity, which belongs to
    the one site `api_key_site_id` (a Wix site id, not an app instance): it speaks for no other.
    """

    def __init__(
        self,
        api_url: str,
        app_id: str,
        app_secret: str,
        *,
        redis: Redis | None = None,
        calls_per_minute: int = 180,
        api_key: str = "",
        api_key_site_id: str = "",
        prefixes: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        now: Callable[[], float] = time.monotonic,
        call_s: float = CALL_S,
    ) -> None:
        """`prefixes` replaces single entries of protocol.PREFIXES. `now` counts seconds from anywhere. A call takes at
        most `call_s`."""
        self._call_s = call_s
        self._http = _open_http(transport, min(READ_S, call_s))
        self._headers = list(self._http.headers.items())
        self._api_url = api_url.rstrip("/")
        self._app_id = app_id
        self._app_secret = app_secret
        self._api_key = api_key
        self._api_key_site_id = api_key_site_id
        self._prefixes = {**protocol.PREFIXES, **(prefixes or {})}
        self._now = now
        shared = SharedRedis(redis, now)
        self._budget = Budget(calls_per_minute, shared, now)
        self._tokens = Tokens(app_id, app_secret, self._fetch_token, shared, now)
        self._groups: ExpiringCache[tuple[SiteId, GroupId], Group] = ExpiringCache(now)
        self._sites: ExpiringCache[SiteId, tuple[Site, str]] = ExpiringCache(now)
        self._refused: ExpiringCache[tuple[SiteId, str], bool] = ExpiringCache(now)
        self._bulk = False
        self._wait: Callable[[float], bool] | None = None
        self.calls = 0

    def for_bulk(self, wait: Callable[[float], bool] | None = None) -> WixClient:
        view = copy.copy(self)
        view._bulk = True
        view._wait = wait
        view.calls = 0
        return view

    def close(self) -> None:
        self._http.close()

    def get_site(self, site: SiteId) -> Site:
        return self._get_site(site)[0]

    def get_group(self, site: SiteId, group: GroupId) -> Group | None:
        """At most a minute old."""
        found = self._groups.get((site, group))
        if found is None:
            try:
                found = protocol.read_group(self._ask(site, protocol.get_group(group)), group)
            except NotFoundError:
                return None
            self._groups.put((site, group), found, GROUP_S)
        return found

    def list_groups(self, site: SiteId) -> Iterator[Group]:
        return (group for _, group in self._walk(site, protocol.list_groups, protocol.read_groups))

    def get_membership(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        memberships = self._walk(site, partial(protocol.list_memberships, member), protocol.read_memberships)
        try:
            found = next((found for id_, found in memberships if id_ == group), None)
        except (ForbiddenError, UnauthorizedError, NotFoundError) as exc:
            found = self.get_joined_at(site, group, member)
            if found.status == "unknown":
                raise ForbiddenError(
                    f"{exc}; and the member is not among the newest {NEWEST_LOOKED_AT} of the group's own lists"
                ) from exc
            return found
        # Whether an app is shown the memberships of others is not certain (wix/groups.md, section 7): before
        # somebody is taken for gone, the newest page of the group's own lists is asked.
        if found is None:
            found = self._look_up(site, group, member, newest=protocol.BATCH)
        return Membership("none") if found.status == "unknown" else found

    def get_joined_at(self, site: SiteId, group: GroupId, member: MemberId) -> Membership:
        return self._look_up(site, group, member, newest=NEWEST_LOOKED_AT)

    def _look_up(self, site: SiteId, group: GroupId, member: MemberId, *, newest: int) -> Membership:
        """Where the member stands by the group's own lists, which are newest first.

        Status "unknown" when the lists are longer than what is looked at.
        """
        try:
            seen = 0
            for id_, membership in islice(self.list_group_members(site, group), newest):
                seen += 1
                if id_ == member:
                    return membership
            if any(id_ == member for id_, _ in islice(self.list_join_requests(site, group), newest)):
                return Membership("pending")
        except NotFoundError:
            return Membership("none")
        return Membership("unknown" if seen == newest else "none")

    def list_group_members(self, site: SiteId, group: GroupId) -> Iterator[tuple[MemberId, Membership]]:
        return self._walk(site, partial(protocol.list_group_members, group), protocol.read_group_members)

    def list_join_requests(self, site: SiteId, group: GroupId) -> Iterator[tuple[MemberId, datetime | None]]:
        requests = self._walk(
            site,
            partial(protocol.query_join_requests, group, "PENDING"),
            protocol.read_join_requests,
        )
        return (
            (member, created_at) for member, (status, created_at) in requests if status in ("PENDING", "")
        )

    def list_answers(
        self, site: SiteId, group: GroupId, members: Iterable[MemberId]
    ) -> Mapping[MemberId, tuple[Answer, ...]]:
        answers: dict[MemberId, tuple[Answer, ...]] = {}
        for batch in protocol.batches(members):
            answers.update(
                self._walk(
                    site,
                    partial(protocol.list_answers, group, batch),
                    protocol.read_answers,
                    expected=len(batch),
                )
            )
        return answers

    def get_members(self, site: SiteId, members: Iterable[MemberId]) -> Mapping[MemberId, Member]:
        found: dict[MemberId, Member] = {}
        for batch in protocol.batches(members):
            found.update(
                self._walk(
                    site,
                    partial(protocol.query_members, batch),
                    protocol.read_members,
                    expected=len(batch),
                )
            )
        return found

    def get_subscriptions(self, site: SiteId, emails: Iterable[str]) -> Mapping[str, Subscription]:
        """Where Wix has several records of one address, the strictest of them."""
        found: dict[str, Subscription] = {}
        for batch in protocol.batches(protocol.spellings(emails)):
            for email, subscription in self._walk(
                site,
                partial(protocol.query_subscriptions, batch),
                protocol.read_subscriptions,
                expected=len(batch),
            ):
                known = found.get(email.lower(), subscription)
                found[email.lower()] = protocol.stricter(known, subscription)
        return found

    def approve_requests(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None:
        """Let them in; whoever is in already stays in."""
        self._decide(
            site,
            group,
            members,
            partial(protocol.approve_requests, group),
            lambda status: status == "joined",
        )

    def reject_requests(self, site: SiteId, group: GroupId, members: Iterable[MemberId], reason: str) -> None:
        """Decline; nothing happens to whoever asks no longer. Of `reason` Wix takes 1000 characters."""
        self._decide(
            site,
            group,
            members,
            partial(protocol.reject_requests, group, reason),
            lambda status: status != "pending",
        )

    def set_subscription(
        self, site: SiteId, email: str, *, status: str = "", deliverability: str = ""
    ) -> None:
        call = protocol.set_subscription(email, status, deliverability)
        protocol.require_taken(self._ask(site, call), "subscription")

    def groups_page(self, site: SiteId, offset: int) -> Slice[Group]:
        page = protocol.read_groups(self._ask(site, protocol.list_groups(offset)))
        return Slice(tuple(dict(page.items).values()), page.next_offset(offset), page.total or None)

    def group_members_page(
        self, site: SiteId, group: GroupId, offset: int
    ) -> Slice[tuple[MemberId, Membership]]:
        page = protocol.read_group_members(self._ask(site, protocol.list_group_members(group, offset)))
        return Slice(tuple(dict(page.items).items()), page.next_offset(offset), page.total or None)

    def find_people(
        self,
        site: SiteId,
        *,
        contacts: Iterable[str] = (),
        emails: Iterable[str] = (),
        phones: Iterable[str] = (),
        names: Iterable[tuple[str, str]] = (),
    ) -> tuple[Person, ...]:
        """By Contacts v5; where Wix does not let us, by members and Contacts v4 for some minutes."""
        wanted = protocol.people_wanted(contacts, emails, phones, names)
        found: dict[str, Person] = {}
        if not self._refused.get((site, "find_people")):
            try:
                self._find(site, protocol.BY_SEARCH, wanted, found)
                return tuple(found.values())
            except PermanentError as exc:
                log.info("wix.search_refused", extra={"site": site, "error": str(exc)})
                self._refused.put((site, "find_people"), True, REFUSED_S)
        self._find(site, protocol.BY_QUERIES, wanted, found)
        for batch in protocol.batches(person.contact for person in found.values() if person.member is None):
            call_at = partial(protocol.query_members_by, {"contactId": {"$in": batch}})
            for contact, person in self._walk(
                site, call_at, protocol.read_people_of_members, expected=len(batch)
            ):
                found[contact] = protocol.merged(found[contact], person) if contact in found else person
        return tuple(found.values())

    def _find(
        self, site: SiteId, stages: Iterable[tuple[Look, ...]], wanted: Wanted, found: dict[str, Person]
    ) -> None:
        """Put into `found`, by contact, everybody who answers something wanted; what is answered leaves `wanted`."""
        for stage in stages:
            answered: set[str] = set()
            asked = wanted[stage[0].by]
            for look in stage:
                for condition in look.conditions(wanted):
                    for contact, person in self._look(site, look, condition):
                        if answers := protocol.keys_of(person, look.by) & asked.keys():
                            answered |= answers
                            found[contact] = protocol.merged(found.get(contact, person), person)
            for key in answered:
                del asked[key]

    def _look(
        self, site: SiteId, look: Look, condition: Mapping[str, Mapping[str, list[str]]]
    ) -> Iterator[tuple[str, Person]]:
        if look.where == "members":
            query = partial(protocol.query_members_by, condition)
            most = len(condition[look.fields[0]][look.operator]) if look.one_each else None
            return self._walk(site, query, protocol.read_people_of_members, expected=most)
        if look.where == "contacts":
            query = partial(protocol.query_contacts, condition)
            return self._walk(site, query, protocol.read_people_of_contacts)
        return self._search(site, condition)

    def _search(self, site: SiteId, condition: Mapping[str, object]) -> Iterator[tuple[str, Person]]:
        """As _walk, along the cursors that Wix hands out."""
        seen: set[str] = set()
        cursor = ""
        while True:
            page, cursor = protocol.read_people_of_search(
                self._ask(site, protocol.search_contacts(condition, cursor))
            )
            new = {key: value for key, value in page.items if key not in seen}
            yield from new.items()
            seen |= new.keys()
            if not new or not cursor:
                return

    def create_group(
        self, site: SiteId, name: str, *, privacy: str, creator: MemberId, description: str = ""
    ) -> Group:
        call = protocol.create_group(name, privacy, creator, description)
        return protocol.read_new_group(self._ask(site, call))

    def add_group_members(self, site: SiteId, group: GroupId, members: Iterable[MemberId]) -> None:
        for batch in protocol.batches(members):
            try:
                protocol.require_taken(self._ask(site, protocol.add_group_members(group, batch)), "members")
            except ConflictError:
                # Perhaps somebody is in already: what Wix says then is not documented.
                inside = {member for member, _ in self.list_group_members(site, group)}
                if not inside & set(batch):
                    raise
                self.add_group_members(site, group, [member for member in batch if member not in inside])

    def list_rules(self, site: SiteId, group: GroupId) -> tuple[Rule, ...]:
        return protocol.read_rules(self._ask(site, protocol.list_rules(group)))

    def replace_rules(self, site: SiteId, group: GroupId, rules: Iterable[Rule]) -> None:
        protocol.require_taken(self._ask(site, protocol.replace_rules(group, rules)), "rules")

    def list_questions(self, site: SiteId, group: GroupId) -> tuple[Question, ...]:
        return protocol.read_questions(self._ask(site, protocol.list_questions(group)))

    def replace_questions(self, site: SiteId, group: GroupId, questions: Iterable[Question]) -> None:
        protocol.require_taken(self._ask(site, protocol.replace_questions(group, questions)), "questions")

    def _decide(
        self,
        site: SiteId,
        group: GroupId,
        members: Iterable[MemberId],
        call_for: Callable[[list[MemberId]], Call],
        is_settled: Callable[[str], bool],
    ) -> None:
        for batch in protocol.batches(members):
            try:
                protocol.require_taken(self._ask(site, call_for(batch)), "joinGroupRequests")
            except (NotFoundError, ConflictError) as exc:
                # Perhaps a second try after an answer that got lost, or one of them changed their mind.
                for member in batch:
                    status = self.get_membership(site, group, member).status
                    if is_settled(status):
                        continue
                    if len(batch) > 1:
                        self._decide(site, group, [member], call_for, is_settled)
                    elif status == "pending":
                        raise RetryableError(
                            f"{exc}; Wix still lists the request", request_id=exc.request_id, code=exc.code
                        ) from exc
                    else:
                        raise

    def _walk(
        self,
        site: SiteId,
        call_at: Callable[[int], Call],
        read: Callable[[Mapping[str, Any]], Page[K, V]],
        expected: int | None = None,
    ) -> Iterator[tuple[K, V]]:
        """All items of a list, each key once, until a short page.

        `expected` rows are all there can be. A page without anything new ends the list too: a list that
        changes meanwhile repeats some rows, but never a whole page.
        """
        seen: set[K] = set()
        offset = 0
        while True:
            page = read(self._ask(site, call_at(offset)))
            new = {key: value for key, value in page.items if key not in seen}
            yield from new.items()
            seen |= new.keys()
            if not new or page.is_last(offset):
                return
            offset += page.rows
            if expected is not None and offset >= expected:
                return

    def _get_site(self, site: SiteId) -> tuple[Site, str]:
        found = self._sites.get(site)
        if found is None:
            # As the app alone: the answer says whose site this is, so nobody else may be asked.
            found = protocol.read_site(self._ask_as_app(site, protocol.get_app_instance()), site)
            self._sites.put(site, found, SITE_S)
        return found

    def _ask(self, site: SiteId, call: Call) -> dict[str, Any]:
        """As the app; and what Wix refuses to the app, as the second identity when it may speak for this site."""
        if not self._refused.get((site, call.name)):
            try:
                return self._ask_as_app(site, call)
            except (ForbiddenError, UnauthorizedError) as exc:
                if isinstance(exc, UnauthorizedError) and call.name not in protocol.OFTEN_REFUSED:
                    raise
                if obstacle := self._obstacle_for_key(site):
                    raise ForbiddenError(
                        f"{exc}; {obstacle}",
                        request_id=exc.request_id,
                        code=exc.code,
                    ) from exc
                log.info("wix.second_identity", extra={"site": site, "call": call.name})
                self._refused.put((site, call.name), True, REFUSED_S)
        try:
            return self._send(
                site, call, {"authorization": self._api_key, "wix-site-id": self._api_key_site_id}
            )
        except (ForbiddenError, UnauthorizedError) as exc:
            raise ForbiddenError(
                f"{exc}, to the app and to WIX_API_KEY",
                request_id=exc.request_id,
                code=exc.code,
            ) from exc

    def _obstacle_for_key(self, site: SiteId) -> str:
        """Why the second identity must not be used for this site; "" when it may.

        The key reads and changes the site `wix-site-id`, whatever the app instance at hand. With several
        sites it would answer about the wrong community, so Wix itself has to say that they are the same.
        """
        if not self._api_key or not self._api_key_site_id:
            return "WIX_API_KEY and WIX_SITE_ID would allow it"
        try:
            wix_site_id = self._get_site(site)[1]
        except PermanentError:
            wix_site_id = ""
        if not wix_site_id:
            return "WIX_API_KEY is not used, because Wix does not say whether WIX_SITE_ID is this site"
        if wix_site_id.lower() != self._api_key_site_id.lower():
            return "WIX_API_KEY is not used, because WIX_SITE_ID is another site"
        return ""

    def _ask_as_app(self, site: SiteId, call: Call) -> dict[str, Any]:
        token = self._tokens.current(site)
        try:
            return self._send(site, call, {"authorization": token})
        except UnauthorizedError:
            token = self._tokens.renewed(site, refused=token)
        try:
            return self._send(site, call, {"authorization": token})
        except UnauthorizedError as exc:
            if call.name in protocol.OFTEN_REFUSED and self._is_accepted(site, token):
                raise
            # Two tokens in a row say nothing about the call: nothing is given up over it.
            raise RetryableError(
                f"{exc}: Wix does not accept the tokens that it gives",
                retry_after_s=UNACCEPTED_S,
                counts=False,
                request_id=exc.request_id,
                code=exc.code,
            ) from exc

    def _is_accepted(self, site: SiteId, token: str) -> bool:
        """Whether a token is good for a call that every app may make."""
        try:
            self._send(site, protocol.get_app_instance(), {"authorization": token})
        except UnauthorizedError:
            return False
        except PermanentError:
            pass  # who we are is known, then
        return True

    def _fetch_token(self, site: SiteId) -> tuple[str, float]:
        try:
            return protocol.read_token(
                self._send(site, protocol.create_token(self._app_id, self._app_secret, site), {})
            )
        except PermanentError as exc:
            # For a person to mend, and nothing is lost meanwhile: what waits goes on when the secret is right.
            log.error("wix.no_token", extra={"site": site, "error": str(exc)})
            raise RetryableError(
                f"{exc}: Wix gives the app no token for this site; are WIX_APP_ID and WIX_APP_SECRET right, "
                "and is the app installed there?",
                retry_after_s=NO_TOKEN_S,
                counts=False,
                request_id=exc.request_id,
                code=exc.code,
            ) from exc

    def _send(self, site: SiteId, call: Call, identity: Mapping[str, str]) -> dict[str, Any]:
        """One call within the budget."""
        self._take(site)
        self.calls += 1
        status, headers, body = self._exchange(call, identity)
        try:
            return protocol.decode(status, headers, body, call.name)
        except RetryableError as exc:
            if status == httpx.codes.TOO_MANY_REQUESTS or exc.retry_after_s is not None:
                exc.retry_after_s = self._budget.pause(site, exc.retry_after_s)
            raise

    def _take(self, site: SiteId) -> None:
        if self._wait is not None and not self._wait(0.0):
            raise RetryableError("work that may wait was asked to stop", retry_after_s=0.0, counts=False)
        while True:
            try:
                self._budget.take(site, bulk=self._bulk)
                return
            except RetryableError as exc:
                if self._wait is None or not self._wait(exc.retry_after_s or 0.0):
                    raise

    def _exchange(self, call: Call, identity: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        give_up_at = self._now() + self._call_s
        url = self._api_url + self._prefixes[call.service] + call.path
        headers = [*self._headers, *identity.items()]
        content = None
        if call.body is not None:
            headers.append(("content-type", "application/json"))
            content = json.dumps(call.body).encode()
        # Not the client's own way to make a request: it merges anew for each what is always the same.
        request = httpx.Request(
            call.method,
            f"{url}?{urlencode(call.params)}" if call.params else url,
            headers=headers,
            content=content,
        )
        body = bytearray()
        try:
            with closing(self._http.send(request, stream=True)) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise RetryableError(
                            f"{call.name}: Wix's answer is larger than {MAX_BODY_BYTES} bytes"
                        )
                    if self._now() > give_up_at:
                        raise RetryableError(
                            f"{call.name}: Wix's answer took longer than {self._call_s:.0f} s"
                        )
        except httpx.RequestError as exc:
            raise RetryableError(f"{call.name}: no answer from Wix ({type(exc).__name__})") from exc
        return response.status_code, response.headers, bytes(body)


def _open_http(transport: httpx.BaseTransport | None, read_s: float) -> httpx.Client:
    return httpx.Client(
        timeout=httpx.Timeout(read_s, connect=min(5.0, read_s)),
        follow_redirects=False,
        # Sites share the connections; what Wix sets for one must not be sent for another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        # A stand-in for Wix on this machine is never behind the proxy that the environment may name.
        mounts={f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")},
        headers={"accept": "application/json", "user-agent": "usher"},
        transport=transport,
    )
