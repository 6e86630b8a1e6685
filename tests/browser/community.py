"""A lively community for the browser: today is lived through real webhooks, jobs and letters; the six weeks before it,
which nobody can wait for, are written into the tables as Usher would have left them.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from admin.demo.day import CHOIR, CLASS, DAY, GARDEN, RUNNERS, SWIMMERS, YOGA
from admin.demo.play import until
from admin.demo.stage import Stage
from core import events as kinds
from integrations.store.tables import events, group_days, jobs, messages, outbox, senders, sites, watches
from sandbox.loading import DEFAULT_COMMUNITY

DAYS = 42
ASKING = 16
"""So many of the people are none of the swimmers: some of these ask to be."""
GREETING = "What would you like to do with us?"
PRIVATE = {RUNNERS: CLASS, SWIMMERS: GREETING}
FIRST = (
    "Aiko Anna Bruno Carla Daniel Dina Elena Emre Farid Freya Gabriel Hana Hugo Ines Ivan Jana Joana Kofi Leila Linnea"
    " Luca Maja Mateo Mina Nadia Noor Oleg Paulo Petra Rahel Rafael Sara Selma Tariq Teresa Tomas Uma Viktor Yara Zlata"
)
LAST = (
    "Abadi Berg Costa Duarte Engel Farkas Grant Haddad Ito Jansen Kaya Lang Moreau Nagy Osei Park Quist Rossi"
)
ANSWERS = (
    "Yoga on Saturday mornings, if there is room",
    "I would love to try Pilates before work",
    "Long runs in the hills and somebody to talk to",
    "My doctor told me to move more",
    "Intervals, and no yoga please",
    "I am a certified teacher and new in town",
    "A friend of mine is with you and will not stop talking about it",
    "Swimming in cold water, slowly",
)
REFUSED = {
    "dana.bounce@example.com": "550 5.1.1 no such user here",
    "later.gray@example.com": "451 4.7.1 greylisted, come again later",
}


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody who came into a group in the last weeks; of a private one they had asked for it before."""

    member: str
    group: str
    """Its name."""
    at: datetime
    answer: str = ""


class Weeks:
    """The people of the last six weeks, the same at each run."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.draw = random.Random(7)
        given, family = FIRST.split(), LAST.split()
        self.people: list[dict[str, str]] = []
        for number in range(120):
            first, last = given[number % len(given)], family[number * 7 % len(family)]
            name = f"{first}.{last}".lower()
            self.people.append(
                {"id": _id(name), "first": first, "last": last, "email": f"{name}@example.com"}
            )
        self.joined = list(self._joins())
        self.declined = [
            Joined(person["id"], RUNNERS, self._some_day(), "Use my promo code and advertise my shop")
            for person in self.people[-6:]
        ]

    def _joins(self) -> Iterator[Joined]:
        groups = [YOGA, YOGA, CHOIR, RUNNERS, RUNNERS, SWIMMERS, GARDEN]
        for number, person in enumerate(self.people[:-6]):
            for group in sorted({self.draw.choice(groups), self.draw.choice(groups)}):
                if group == SWIMMERS and number < ASKING:
                    continue
                yield Joined(
                    person["id"],
                    group,
                    self._some_day(),
                    self.draw.choice(ANSWERS) if group in PRIVATE else "",
                )

    def _some_day(self) -> datetime:
        """In the last weeks, later ones more often, at an hour at which people are awake."""
        ago = min(self.draw.triangular(1, DAYS, 4), DAYS - 1)
        day = (self.now - timedelta(days=ago)).date()
        return datetime.combine(day, time(self.draw.randrange(7, 22), self.draw.randrange(60)), UTC)

    def community(self) -> dict[str, Any]:
        """The sandbox's own, with these people in it, and requests that wait for somebody."""
        found: dict[str, Any] = json.loads(DEFAULT_COMMUNITY.read_text(encoding="utf-8"))
        for group in found["groups"]:
            if group["name"] in (CHOIR, GARDEN, SWIMMERS):
                group["last_activity"] = (self.now - timedelta(hours=len(group["name"]))).isoformat()
        found["members"] += self.people
        found["members"] += [
            {"first": "Dana", "last": "Bounce", "email": "dana.bounce@example.com"},
            {"first": "Gray", "last": "Later", "email": "later.gray@example.com"},
        ]
        found["subscriptions"] |= {person["email"]: "SUBSCRIBED" for person in self.people[::-1][8:]}
        found["subscriptions"] |= {person["email"]: "UNSUBSCRIBED" for person in self.people[::9]}
        found["subscriptions"] |= dict.fromkeys(REFUSED, "SUBSCRIBED")
        for one in self.joined:
            row = {"group": one.group, "member": one.member, "joined": one.at.isoformat()}
            found["memberships"].append(
                row | ({"answers": {PRIVATE[one.group]: one.answer}} if one.answer else {})
            )
        for one in self.declined:
            found["join_requests"].append(
                {
                    "group": one.group,
                    "member": one.member,
                    "status": "REJECTED",
                    "created": one.at.isoformat(),
                }
            )
        for number, person in enumerate(self.people[4:ASKING:2]):
            asked = (self.now - timedelta(hours=3 + 7 * number)).isoformat()
            answers = {GREETING: ANSWERS[number % len(ANSWERS)]}
            found["join_requests"].append(
                {"group": SWIMMERS, "member": person["id"], "created": asked, "answers": answers}
            )
        return found


def furnish(stage: Stage) -> None:
    """A day so far, with everything in it that a console can show; takes some seconds."""
    weeks = Weeks(datetime.now(UTC))
    answer = stage.sandbox.put("/sandbox/community", json=weeks.community())
    assert answer.status_code == 200, answer.text
    groups = {group["name"]: group["id"] for group in stage.state()["groups"]}
    stage.sandbox.patch("/sandbox/mail", json={"refuse": REFUSED})
    for scene in DAY:
        if scene.time in ("08:00", "08:40", "09:15", "09:45", "10:00"):
            for act in scene.acts:
                stage.act(act)
    for address in REFUSED:
        stage.act({"act": "add_member", "group": YOGA, "member": address})
    for person, reason in (
        (weeks.people[1], "I am a reporter and would like to listen"),
        (weeks.people[3], "Advertising?"),
    ):
        answers = {GREETING: reason}
        stage.act({"act": "request_join", "group": SWIMMERS, "member": person["id"], "answers": answers})
    until(partial(_nothing_waits, stage), "the morning's letters to go", 60.0)
    _look_back(stage, weeks, groups)
    _invite(stage, groups)
    _give_jobs(stage, weeks, groups)


def _nothing_waits(stage: Stage) -> bool:
    with stage.database.begin() as tx:
        waiting = tx.connection.scalar(
            sa.select(sa.func.count())
            .select_from(messages)
            .where(messages.c.state.in_(("planned", "sending")))
        )
        deferred = tx.connection.scalar(
            sa.select(sa.func.count()).select_from(messages).where(messages.c.state == "deferred")
        )
        decided = tx.connection.scalar(
            sa.select(sa.func.count()).select_from(outbox).where(outbox.c.state == "planned")
        )
        received = tx.connection.scalar(
            sa.select(sa.func.count()).select_from(events).where(events.c.state == "received")
        )
    return (
        not stage.deliveries()["counts"]["queued"] and not (waiting or decided or received) and bool(deferred)
    )


# By the API


def _give_jobs(stage: Stage, weeks: Weeks, groups: Mapping[str, str]) -> None:
    """One of each kind: done, running, paused, waiting for a yes."""
    give = partial(_give, stage)
    rules = {"rules": [{"title": "Be kind", "description": "No personal attacks."},
                       {"title": "Leave no trace", "description": "Take your rubbish home."}]}  # fmt: skip
    people = [
        {"name": "Ben Okafor"},
        {"name": "Siobhan Nobody"},
        {"email": "yael.cohen@example.com"},
        {"email": weeks.people[3]["email"]},
    ]
    opened = {
        "name": "Winter Course",
        "privacyStatus": "PRIVATE",
        "creatorId": _member(stage, "ada@example.com"),
    }
    welcome = {"email": "welcome", "purpose": "onboarding"}
    done = give("group_email", {"group": groups[CHOIR], "email": "yoga-offer", "purpose": "promotional"})
    _confirm(stage, done, "done")
    _mailed_before(stage, done)
    running = give("group_email", {"group": groups[YOGA], **welcome})  # Gray's letter keeps it under way
    _confirm(stage, running, "running")
    asks = give("group_email", {"group": groups[RUNNERS], "email": "yoga-offer", "purpose": "promotional"})
    waiting = [
        asks,
        give("rules_rollout", {**rules, "to_groups": ["*"]}),
        give("create_group", {"group": opened, "people": people}),
    ]
    report = give("groups_report", {"top": 5, "idle_days": 90})
    for job in waiting:
        until(partial(_is_in, stage, job, "previewed"), "a preview", 30.0)
    until(partial(_is_in, stage, report, "done"), "the report", 30.0)


def _invite(stage: Stage, groups: Mapping[str, str]) -> None:
    site = {"sites": [stage.site]}
    for name, rights in (
        ("ada", {"role": "owner"}),
        ("lucia", {"role": "manager", **site}),
        ("siobhan", {"role": "group_admin", **site, "groups": [groups[SWIMMERS]]}),
    ):
        new = {"login": f"{name}@seaside.example.com", "name": name, **rights}
        _post(stage, "/api/v1/users", new, 201)


def _bearer(stage: Stage) -> dict[str, str]:
    return {"Authorization": f"Bearer {stage.admin_token}"}


def _post(stage: Stage, path: str, body: Mapping[str, Any], status: int) -> dict[str, Any]:
    """503 means that nothing was changed, as on a machine that is busy with other tests: it is asked again."""
    headers = {**_bearer(stage), "Idempotency-Key": uuid.uuid4().hex}
    while (answer := stage.usher.post(path, json=body, headers=headers)).status_code == 503:
        until(lambda: stage.usher.get("/health/ready").status_code == 200, "the database", 30.0)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _give(stage: Stage, kind: str, params: Mapping[str, Any]) -> str:
    return str(_post(stage, "/api/v1/jobs", {"kind": kind, "site": stage.site, "params": params}, 202)["id"])


def _job(stage: Stage, job: str) -> dict[str, Any]:
    answer = stage.usher.get(f"/api/v1/jobs/{job}", headers=_bearer(stage))
    found: dict[str, Any] = answer.json()
    return found


def _is_in(stage: Stage, job: str, state: str) -> bool:
    found = _job(stage, job)["state"]
    assert found != "failed" or state == "failed", _job(stage, job)
    return bool(found == state)


def _confirm(stage: Stage, job: str, ends: str) -> None:
    until(partial(_is_in, stage, job, "previewed"), "a preview", 30.0)
    shown = {"confirm_token": _job(stage, job)["confirm_token"]}
    _post(stage, f"/api/v1/jobs/{job}/confirm", shown, 200)
    until(partial(_is_in, stage, job, ends), "the job to go on", 30.0)


def _member(stage: Stage, address: str) -> str:
    return str(
        next(member["id"] for member in stage.state()["members"] if member.get("loginEmail") == address)
    )


# The weeks before


def _mailed_before(stage: Stage, job: str) -> None:
    """The same letter to the same group a week ago, and two, and so on."""
    with stage.database.begin() as tx:
        mailing = dict(tx.execute(sa.select(jobs).where(jobs.c.id == job)).one()._mapping)
        letters = [dict(row._mapping) for row in tx.execute(sa.select(messages).where(messages.c.job == job))]
        for weeks in range(1, DAYS // 7):
            id_ = uuid.uuid4().hex
            earlier = timedelta(days=7 * weeks - weeks % 3, hours=weeks)
            tx.execute(
                sa.insert(jobs).values(_shifted(mailing, earlier) | {"id": id_, "idempotency_key": id_})
            )
            rows = [
                _shifted(letter, earlier)
                | {"id": uuid.uuid4().hex, "job": id_, "key": letter["key"].replace(job, id_)}
                for letter in letters[weeks * 3 :]
            ]
            tx.connection.execute(sa.insert(messages), rows)


def _shifted(row: dict[str, Any], by: timedelta) -> dict[str, Any]:
    return {name: value - by if isinstance(value, datetime) else value for name, value in row.items()}


def _look_back(stage: Stage, weeks: Weeks, groups: Mapping[str, str]) -> None:
    past = _Past(stage.site, groups, weeks)
    with stage.database.begin() as tx:
        tx.connection.execute(sa.insert(events), past.events)
        tx.connection.execute(sa.insert(messages), past.letters)
        tx.connection.execute(sa.insert(outbox), past.decisions)
        first = weeks.now - timedelta(days=DAYS + 14)
        tx.execute(sa.update(sites).values(changed_at=first))
        tx.execute(sa.update(watches).where(watches.c.since.is_not(None)).values(since=first))
        tx.execute(
            sa.insert(senders).values(
                sender="hello@seaside.example.com", domain="slow-mail.example", failures=6, pauses=2,
                paused_until=weeks.now + timedelta(hours=2), reason="421 4.7.0 too many connections",
                changed_at=weeks.now - timedelta(minutes=20),
            )
        )  # fmt: skip
        sizes = {group["id"]: group["membersCount"] for group in stage.state()["groups"]}
        tx.connection.execute(sa.insert(group_days), list(_days(stage.site, groups, weeks, sizes)))


def _days(
    site: str, groups: Mapping[str, str], weeks: Weeks, sizes: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """How large each group was on each of the last 60 days, from who joined when, and who left again."""
    today = weeks.now.date()
    for name, group in groups.items():
        joined = sorted(one.at.date() for one in weeks.joined if one.group == name)
        for ago in range(1, 61):
            day = today - timedelta(days=ago)
            later = sum(1 for at in joined if at > day)
            members = max(1, sizes[group] - later + (ago // 9 if name in (CHOIR, "Repair Café") else 0))
            yield {"site": site, "day": day, "group_id": group, "members": members, "read_at": _at(day, 23)}


def _at(day: date, hour: int) -> datetime:
    return datetime.combine(day, time(hour), UTC)


class _Past:
    """Rows of what is over."""

    def __init__(self, site: str, groups: Mapping[str, str], weeks: Weeks) -> None:
        self.site = site
        self.draw = weeks.draw
        self.events: list[dict[str, Any]] = []
        self.letters: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        for one in weeks.joined:
            group, at = groups[one.group], one.at
            if one.answer:
                asked = self._asked(group, one, at - timedelta(hours=5))
                self._decided(group, one, asked, at, "approve", "certified teacher" in one.answer)
                self._heard(kinds.JOIN_APPROVED, _request("approved", group, one.member), at, one.member)
            added = self._heard(kinds.MEMBER_ADDED, _addition(group, one.member, at), at, one.member)
            self._wrote("welcome", "member_added", one.group, group, one.member, added, at)
        for one in weeks.declined:
            group = groups[one.group]
            asked = self._asked(group, one, one.at - timedelta(hours=1))
            self._decided(group, one, asked, one.at, "reject", True)
            told = self._heard(
                kinds.JOIN_REJECTED, _request("rejected", group, one.member), one.at, one.member
            )
            self._wrote("request-declined", "join_rejected", one.group, group, one.member, told, one.at)
        self._trouble(groups, weeks)

    def _asked(self, group: str, one: Joined, at: datetime) -> str:
        asked = self._heard(kinds.JOIN_REQUESTED, _request("created", group, one.member), at, one.member)
        self._wrote("request-received", "join_requested", one.group, group, one.member, asked, at)
        self._wrote(
            "yoga-offer", "join_requested", one.group, group, one.member, asked, at, answer=one.answer
        )
        return asked

    def _heard(self, kind: str, payload: dict[str, Any], at: datetime, member: str, **more: Any) -> str:
        event = str(uuid.UUID(int=self.draw.getrandbits(128)))
        payload = {"id": event, **payload, "eventTime": at.isoformat(), "triggeredByAnonymizeRequest": False}
        self.events.append(
            {
                "site": self.site, "id": event, "type": kind, "occurred_at": at, "received_at": at,
                "payload": json.dumps(payload), "erasure": False, "found": False, "member": member, "state": "done",
                "attempts": 0, "crashes": 0, "next_at": at, "lease": None, "error": None, "finished_at": at,
            }
            | more
        )  # fmt: skip
        return event

    def _wrote(
        self, name: str, trigger: str, called: str, group: str, member: str, event: str | None, at: datetime, *,
        answer: str = "", **more: Any,
    ) -> None:  # fmt: skip
        """A letter of an automation: most went, some for the usual reasons did not."""
        state, reason, reply = "sent", None, "250 2.0.0 accepted"
        chance = self.draw.random()
        if name == "yoga-offer" and not ("yoga" in answer.lower() or "pilates" in answer.lower()):
            state, reason, reply = "skipped", "no answer matched", None
        elif name == "yoga-offer" and "no yoga" in answer.lower():
            state, reason, reply = "skipped", f'"no yoga" in the answer to "{CLASS}"', None
        elif chance < 0.12:
            state, reason, reply = "skipped", "unsubscribed (Wix: UNSUBSCRIBED)", None
        elif chance < 0.16:
            state, reason, reply = "skipped", "never subscribed (Wix: NOT_SET)", None
        elif chance < 0.18:
            state, reason, reply = "bounced", "5.1.1: the mailbox does not exist", "550 5.1.1 no such user"
        sent = at + timedelta(seconds=4) if state in ("sent", "bounced") else None
        self.letters.append(
            {
                "id": f"{self.draw.getrandbits(128):032x}", "site": self.site,
                "key": f"{name}:{group}:{member}:{at.isoformat()}",
                "group_id": group, "member": member, "automation": name, "job": None, "event": event,
                "trigger": trigger,
                "purpose": "promotional" if name == "yoga-offer" else "onboarding", "email_template": name,
                "context": {"group_name": called, "reason": "", "matched": []}, "look_again": False, "state": state,
                "attempts": 1, "crashes": 0, "next_at": at, "lease": None, "marked": sent is not None, "reason": reason,
                "reply": reply, "evidence": f"Wix at {at.isoformat()}: SUBSCRIBED, VALID", "address_hash": None,
                "domain": None, "message_id": None, "created_at": at, "due_at": at, "sent_at": sent,
                "bounced_at": at + timedelta(minutes=3) if state == "bounced" else None,
            }
            | more
        )  # fmt: skip

    def _decided(self, group: str, one: Joined, asked: str, at: datetime, kind: str, by_rule: bool) -> None:
        rule = "let-teachers-in" if kind == "approve" else "keep-advertisers-out"
        met = "certified teacher" if kind == "approve" else "promo code*"
        why = "Please do not advertise here." if kind == "reject" else ""
        self.decisions.append(
            {
                "id": f"{self.draw.getrandbits(128):032x}", "site": self.site, "group_id": group, "member": one.member,
                "key": f"decide:{group}:{one.member}:{at.replace(microsecond=0).isoformat()}", "kind": kind,
                "automation": rule if by_rule else None, "event": asked, "text": why, "state": "done", "attempts": 0,
                "crashes": 0, "next_at": at, "lease": None, "error": None, "who": None if by_rule else "user lucia",
                "reason": f'"{met}" in the answer to "{PRIVATE[one.group]}"' if by_rule else None,
                "created_at": at, "finished_at": at,
            }
        )  # fmt: skip

    def _trouble(self, groups: Mapping[str, str], weeks: Weeks) -> None:
        """What somebody has to look at: events that died, letters in doubt, one that failed."""
        for number, group in enumerate((YOGA, CHOIR)):
            at, member = weeks.now - timedelta(hours=4 + number), weeks.people[number]["id"]
            self._heard(
                kinds.MEMBER_ADDED, _addition(groups[group], member, at), at, member, state="dead", attempts=20,
                finished_at=None, error="Wix answered 500 to GET /social-groups/v2/groups",
            )  # fmt: skip
        doubt = "the worker died between the final dot and the server's answer"
        for number, (state, reason) in enumerate(
            (("in_doubt", doubt), ("in_doubt", doubt), ("failed", "554 5.6.0 the message was refused"))
        ):
            at, member = weeks.now - timedelta(hours=2, minutes=20 * number), weeks.people[20 + number]["id"]
            self._wrote(
                "welcome", "member_added", YOGA, groups[YOGA], member, None, at, state=state, reason=reason,
                marked=True, reply=None, sent_at=None,
            )  # fmt: skip


def _addition(group: str, member: str, at: datetime) -> dict[str, Any]:
    person = {"memberId": member, "role": {"value": "MEMBER"}, "joinedDate": at.isoformat()}
    return {
        "entityFqdn": "wix.social_groups.v2.group_member",
        "slug": "added",
        "entityId": member,
        "actionEvent": {"body": {"groupId": group, "groupMember": person}},
    }


def _request(slug: str, group: str, member: str) -> dict[str, Any]:
    status = {"created": "PENDING", "approved": "APPROVED", "rejected": "REJECTED"}[slug]
    request = {"siteMemberId": member, "status": status, "requestDetails": {}}
    told: dict[str, Any] = {"actionEvent": {"body": {"groupId": group, "joinGroupRequest": request}}}
    if slug == "created":
        told = {"createdEvent": {"entity": request}}
    return {"entityFqdn": "wix.social_groups.v2.join_group_request", "slug": slug, "entityId": group, **told}


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"browser:{name}"))
