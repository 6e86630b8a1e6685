"""A database with a long past, made of a few statements: what years leave behind, and the little that is under way.

The past ends PRESENT_DAYS ago. Everything after it, and whatever waits, is the same however long the past is: what
costs more with a longer past reads rows that it does not need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from core.community import GroupId, MemberId, SiteId
from integrations.store.database import Database
from integrations.store.jobs import NEVER
from integrations.store.tables import metadata

SITE = SiteId("7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11")
"""Nine rows of ten are its; the others are of nine small sites."""
NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)
"""What the clock of a filled database has to say."""
PRESENT_DAYS = 100
PAST_DAYS = 730
GROUPS = 50
PRESENT = 2000
"""Letters of the last PRESENT_DAYS, with those that wait."""
_PIECE = 500_000
_FIRST_OF_PRESENT = 1_000_000_000
_RUNNING = 2_000_000_000
_DAY_S = 24 * 3600
_TURNED = 2654435761
"""Neighbours become strangers: ids are scattered over an index as random ones are."""


def member_of(number: int) -> MemberId:
    return MemberId(f"{_scattered(number):08x}-6c0f-4a4f-9b7e-{number:012x}")


def group_of(number: int) -> GroupId:
    return GroupId(f"{number % GROUPS:08x}-1c5d-4f7a-a1c8-7d4b0e6f3a52")


def id_of(number: int) -> str:
    return f"{_scattered(number):08x}{_scattered(number + 7):08x}{number:016x}"


def address_hash_of(member: int) -> str:
    return f"{_scattered(member):08x}{member:056x}"


def _scattered(number: int) -> int:
    return number * _TURNED % 2**32


RUNNING_JOB = id_of(_RUNNING)
PAST_LETTER = id_of(1)
PRESENT_LETTER = id_of(_FIRST_OF_PRESENT + 1)


@dataclass(frozen=True)
class _Words:
    """How a dialect says it."""

    sqlite: bool

    @property
    def percent(self) -> str:
        return "%" if self.sqlite else "%%"

    def hex(self, number: str, width: int) -> str:
        if self.sqlite:
            return f"printf('%0{width}x', {number})"
        return f"lpad(to_hex(({number})::bigint), {width}, '0')"

    @property
    def never(self) -> str:
        return f"'{NEVER:%Y-%m-%d %H:%M:%S.%f}'" if self.sqlite else f"timestamptz '{NEVER.isoformat()}'"

    def ago(self, seconds: str) -> str:
        at = f"({NOW.timestamp():.0f} - ({seconds}))"
        if self.sqlite:
            return f"(strftime('%Y-%m-%d %H:%M:%f', {at}, 'unixepoch') || '000')"
        return f"to_timestamp({at})"

    def numbers(self, first: int, count: int) -> str:
        if self.sqlite:
            counted = f"SELECT {first} AS n UNION ALL SELECT n + 1 FROM c WHERE n + 1 < {first + count}"
            return f"(WITH RECURSIVE c(n) AS ({counted}) SELECT n FROM c)"
        return f"generate_series({first}::bigint, {first + count - 1}::bigint) AS c(n)"

    def scattered(self, number: str) -> str:
        return f"(({number}) * {_TURNED} % 4294967296)"

    def member(self, number: str) -> str:
        return f"{self.hex(self.scattered(number), 8)} || '-6c0f-4a4f-9b7e-' || {self.hex(number, 12)}"

    def group(self, number: str) -> str:
        return f"{self.hex(f'({number}) % {GROUPS}', 8)} || '-1c5d-4f7a-a1c8-7d4b0e6f3a52'"

    def id(self, number: str) -> str:
        halves = f"{self.hex(self.scattered(number), 8)} || {self.hex(self.scattered(f'{number} + 7'), 8)}"
        return f"{halves} || {self.hex(number, 16)}"

    def address_hash(self, member: str) -> str:
        return f"{self.hex(self.scattered(member), 8)} || {self.hex(member, 56)}"

    def site(self, number: str) -> str:
        other = f"'0000000' || (({number}) / 10 % 9) || '-6c0f-4a4f-9b7e-2f0c5d9e8a11'"
        return f"CASE WHEN ({number}) % 10 < 9 THEN '{SITE}' ELSE {other} END"


def fill(database: Database, past: int, beside: int = 1) -> None:
    """So many letters of the past with what belongs to them, `beside` times as much as is usual, and the present. The
    tables have to be empty."""
    words = _Words(database.url.get_backend_name() == "sqlite")
    with _loading(database, words) as connection:
        for table, columns, count, first in _parts(words, past, beside):
            # In pieces, so that no transaction is larger than some hundred megabytes.
            for start in range(first, first + count, _PIECE):
                numbers = words.numbers(start, min(_PIECE, first + count - start))
                names, values = ", ".join(columns), ", ".join(columns.values())
                connection.exec_driver_sql(
                    f"INSERT INTO {table} ({names}) SELECT {values} FROM {numbers}".replace(
                        "%", words.percent
                    )
                )


@contextlib.contextmanager
def _loading(database: Database, words: _Words) -> Iterator[sa.Connection]:
    """A connection that is not held up by durability or by indices; they are made at the end, and counted."""
    engine = sa.create_engine(database.url, isolation_level="AUTOCOMMIT")
    large = [index for name in ("messages", "events") for index in metadata.tables[name].indexes]
    try:
        with engine.connect() as connection:
            settings = (
                ("PRAGMA synchronous=OFF", "PRAGMA cache_size=-1500000", "PRAGMA temp_store=MEMORY")
                if words.sqlite
                else ("SET synchronous_commit = off", "SET maintenance_work_mem = '1GB'")
            )
            for setting in settings:
                connection.exec_driver_sql(setting)
            figures = (
                connection.exec_driver_sql("SELECT tbl, idx, stat FROM sqlite_stat1").all()
                if words.sqlite
                else []
            )
            for index in large:
                index.drop(connection)
            yield connection
            for index in large:
                index.create(connection)
            if words.sqlite:  # dropping an index drops its figures
                connection.exec_driver_sql("DELETE FROM sqlite_stat1")
                for row in figures:
                    connection.exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", tuple(row))
            else:
                connection.exec_driver_sql("VACUUM ANALYZE")
    finally:
        engine.dispose()
    database.close()  # whoever had opened it knows neither the indices nor the figures


def _parts(words: _Words, past: int, beside: int) -> list[tuple[str, dict[str, str], int, int]]:
    """Table, columns with their values, how many rows, and the number of the first."""
    members = max(100, past // 20)
    present = _FIRST_OF_PRESENT
    span_s = (PAST_DAYS - PRESENT_DAYS) * _DAY_S

    def aged(count: int, first: int = 0) -> str:
        """Seconds since a row of the past; of one of the present with its `first`."""
        if first:
            return f"({PRESENT_DAYS * _DAY_S} * ({count} - (n - {first})) / {count})"
        return f"({PRESENT_DAYS * _DAY_S} + {span_s} * ({count} - n) / {count})"

    def parts(
        table: str, columns: Mapping[str, str], more: Mapping[str, str], count: int, now: int
    ) -> list[tuple[str, dict[str, str], int, int]]:
        found = []
        for number, first, changed in ((count, 0, {}), (now, present, more)):
            age = aged(number, first)
            values = {name: value.replace("AGE", age) for name, value in {**columns, **changed}.items()}
            if number:
                found.append((table, values, number, first))
        return found

    return [
        *parts("messages", _messages(words, members), _letters_of_now(words), past, PRESENT),
        *parts("events", _events(words, members), _events_of_now(words), beside * past // 5, 1000),
        *parts("outbox", _outbox(words, members), _calls_of_now(words), beside * past // 20, 200),
        *parts("suppressions", _suppressions(words), {}, beside * members // 50, 50),
        *parts("audit", _audit(words), {}, beside * past // 200, 100),
        *parts("jobs", _jobs(words), {}, beside * past // min(members, 2500) + 1, 10),
        ("jobs", _jobs(words) | _running_job(words), 1, _RUNNING),
        *parts("job_items", _job_items(words, members), {}, beside * past // 50, 100),
        ("group_days", _group_days(words), 400 * GROUPS, 0),
        ("sites", _sites(words), 10, 0),
        ("watches", _watches(words), 2 * GROUPS, 0),
    ]


_NOTHING_YET = {"attempts": "0", "crashes": "0", "lease": "NULL"}


def _messages(words: _Words, members: int) -> dict[str, str]:
    member, job = f"(n % {members})", f"(n / {min(members, 2500)})"  # nobody twice in a job
    of_job = "(n % 5 < 2)"
    went = "(n % 20 < 17)"
    automation = "CASE n % 3 WHEN 0 THEN 'welcome' WHEN 1 THEN 'yoga-offer' ELSE 'after-a-week' END"
    key = f"{automation} || ':' || {words.group('n / 7')} || ':' || {words.member(member)} || ':' || n"
    return {
        **_NOTHING_YET,
        "id": words.id("n"),
        "site": words.site("n"),
        "key": f"CASE WHEN {of_job} THEN 'job:' || {words.id(job)} || ':' || {words.member(member)} ELSE {key} END",
        "group_id": words.group("n / 7"),
        "member": words.member(member),
        "automation": f"CASE WHEN NOT {of_job} THEN {automation} END",
        "job": f"CASE WHEN {of_job} THEN {words.id(job)} END",
        "event": f"CASE WHEN NOT {of_job} THEN {words.member('n / 5')} END",
        "trigger": f"CASE WHEN {of_job} THEN 'group_email' ELSE 'member_added' END",
        "purpose": "CASE WHEN n % 3 = 1 THEN 'promotional' ELSE 'onboarding' END",
        "email_template": f"CASE WHEN {of_job} THEN 'group-news' ELSE {automation} END",
        "context": """'{"group_name": "Trail Runners", "reason": "", "matched": ["yoga"], "member_name": "Ana"}'""",
        "look_again": "n % 3 = 2",
        "state": "CASE WHEN n % 20 < 16 THEN 'sent' WHEN n % 20 = 16 THEN 'bounced'"
        " WHEN n % 20 = 19 THEN 'failed' ELSE 'skipped' END",
        "attempts": "1",
        "next_at": words.ago("AGE - 45"),
        "marked": went,
        "reason": "CASE WHEN n % 20 >= 16 THEN 'not subscribed to promotional letters at Wix' END",
        "reply": f"CASE WHEN {went} THEN '250 2.0.0 Ok: queued as 4F2C1B7D9E' END",
        "evidence": "'Wix at 2026-05-03T12:00:00+00:00: SUBSCRIBED, VALID; promotional letters in 7 days: 0 of 1'",
        "address_hash": f"CASE WHEN {went} THEN {words.address_hash(member)} END",
        "domain": f"CASE WHEN {went} THEN 'mail' || (n % 30) || '.example.com' END",
        "message_id": f"CASE WHEN {went} THEN '<' || {words.id('n')} || '@seaside.example.com>' END",
        "created_at": words.ago("AGE"),
        "due_at": words.ago("AGE"),
        "sent_at": f"CASE WHEN {went} THEN {words.ago('AGE - 2')} END",
        "bounced_at": f"CASE WHEN n % 20 = 16 THEN {words.ago('AGE - 60')} END",
    }


def _letters_of_now(words: _Words) -> dict[str, str]:
    """Four of five are over, some of these in doubt; of the others half are due. Each fifth is the running job's."""
    mine = f"(n - {_FIRST_OF_PRESENT})"
    waits, of_job = "(n / 5 % 5 = 4)", "(n % 5 = 0)"
    went = f"(NOT {waits} AND n % 20 < 17)"
    past = _messages(words, 100)
    state = (
        "WHEN n % 20 = 15 OR n % 20 = 17 THEN 'in_doubt' WHEN n % 20 < 15 THEN 'sent'"
        " WHEN n % 20 = 16 THEN 'bounced'"
    )
    return {
        "member": past["member"],
        "key": f"'now:' || {words.member('n')}",
        "automation": f"CASE WHEN NOT {of_job} THEN 'welcome' END",
        "job": f"CASE WHEN {of_job} THEN {words.id(str(_RUNNING))} END",
        "event": f"CASE WHEN NOT {of_job} THEN {words.member(mine)} END",
        "trigger": f"CASE WHEN {of_job} THEN 'group_email' ELSE 'member_added' END",
        "state": f"CASE WHEN {waits} AND n % 4 = 1 THEN 'deferred' WHEN {waits} THEN 'planned' {state}"
        " WHEN n % 20 = 18 THEN 'failed' ELSE 'skipped' END",
        "next_at": f"CASE WHEN {waits} AND n % 4 < 2 THEN {words.ago(f'-{3 * _DAY_S} - {mine}')}"
        f" ELSE {words.ago('AGE - 45')} END",
        "attempts": f"CASE WHEN {waits} THEN 0 ELSE 1 END",
        **{
            name: f"CASE WHEN {went} THEN {value} END"
            for name, value in past.items()
            if name in ("domain", "message_id", "reply", "sent_at")
        },
        "address_hash": f"CASE WHEN {went} THEN {words.address_hash('n')} END",
        "marked": went,
    }


_TYPES = (
    "CASE n % 10 WHEN 4 THEN 'join_requested' WHEN 5 THEN 'join_requested' WHEN 6 THEN 'join_approved'"
    " WHEN 7 THEN 'member_removed' WHEN 8 THEN 'com.example.comment_created' WHEN 9 THEN 'subscription_changed'"
    " ELSE 'member_added' END"
)


def _events(words: _Words, members: int) -> dict[str, str]:
    person = f"(n % {members})"
    payload = f"""'{{"entityId": "' || {words.group("n / 7")} || '", "actionEvent": {{"body": {{"groupId": "' ||
        {words.group("n / 7")} || '", "groupMember": {{"memberId": "' || {words.member(person)} || '",
        "role": {{"value": "MEMBER"}}, "joinedAt": "2026-05-03T12:00:00Z"}}, "initiator": "ADMIN",
        "revision": "7"}}}}, "slug": "member_added", "eventTime": "2026-05-03T12:00:00.000Z"}}'"""
    return {
        **_NOTHING_YET,
        "site": words.site("n"),
        "id": words.member("n"),
        "type": _TYPES,
        "occurred_at": words.ago("AGE + 1"),
        "received_at": words.ago("AGE"),
        "payload": f"CASE WHEN n % 10 < 8 THEN {payload} ELSE '{{}}' END",
        "erasure": "1 = 0",
        "found": "n % 100 = 7",
        "member": f"CASE WHEN n % 10 < 8 THEN {words.member(person)} END",
        "state": "CASE WHEN n % 10 = 8 THEN 'ignored' WHEN n % 10000 = 3 THEN 'dead' ELSE 'done' END",
        "next_at": words.ago("AGE - 45"),
        "finished_at": words.ago("AGE - 1"),
    }


def _events_of_now(words: _Words) -> dict[str, str]:
    waits = f"(n - {_FIRST_OF_PRESENT} >= 900)"
    past = _events(words, 100)
    return {
        "state": f"CASE WHEN {waits} THEN 'received' WHEN n % 100 = 3 THEN 'dead' ELSE 'done' END",
        "member": f"CASE WHEN NOT {waits} THEN {past['member']} END",
        "finished_at": f"CASE WHEN NOT {waits} THEN {past['finished_at']} END",
        "next_at": words.ago("AGE"),
    }


def _outbox(words: _Words, members: int) -> dict[str, str]:
    member = words.member(f"(n % {members})")
    kind = "CASE n % 4 WHEN 0 THEN 'approve' WHEN 1 THEN 'reject' WHEN 2 THEN 'flag' ELSE 'unsubscribe' END"
    return {
        **_NOTHING_YET,
        "id": words.id("n"),
        "site": words.site("n"),
        "key": f"CASE WHEN n % 4 = 3 THEN 'unsubscribe:' || {member} || ':' || n"
        f" ELSE 'decide:' || {words.group('n')} || ':' || {member} || ':' || (2000 + n) END",
        "kind": kind,
        "group_id": words.group("n"),
        "member": member,
        "automation": "'keep-advertisers-out'",
        "event": words.member("n"),
        "text": "''",
        "state": "CASE WHEN n % 4 = 2 AND n % 40 < 4 THEN 'flagged' WHEN n % 1000 = 5 THEN 'failed' ELSE 'done' END",
        "next_at": words.ago("AGE - 45"),
        "who": "CASE WHEN n % 3 = 0 THEN 'user ana' END",
        "created_at": words.ago("AGE"),
        "finished_at": words.ago("AGE - 20"),
    }


def _calls_of_now(words: _Words) -> dict[str, str]:
    waits = f"(n - {_FIRST_OF_PRESENT} >= 150)"
    return {
        "state": f"CASE WHEN {waits} THEN 'planned' WHEN n % 4 = 2 THEN 'flagged' ELSE 'done' END",
        "finished_at": f"CASE WHEN NOT {waits} THEN {words.ago('AGE - 20')} END",
        "next_at": words.ago("AGE"),
    }


def _suppressions(words: _Words) -> dict[str, str]:
    return {
        "site": words.site("n"),
        "subject": f"CASE WHEN n % 2 = 0 THEN 'member:' || {words.member('n / 2 + 5000000')}"
        f" ELSE 'address:' || {words.address_hash('n / 2 + 5000000')} END",
        "scope": "CASE WHEN n % 10 < 8 THEN 'promotional' ELSE 'all' END",
        "cause": "CASE WHEN n % 10 < 8 THEN 'unsubscribed' ELSE 'dead' END",
        "reason": "'unsubscribed here (link)'",
        "created_at": words.ago("AGE"),
    }


def _audit(words: _Words) -> dict[str, str]:
    return {
        "id": words.id("n"),
        "at": words.ago("AGE"),
        "who": "CASE WHEN n % 1000 = 1 THEN 'user ben' ELSE 'user ana' END",
        "action": "CASE WHEN n % 2 = 0 THEN 'request.approve' ELSE 'people.suppress' END",
        "site": words.site("n"),
        "object": f"CASE WHEN n % 2 = 0 THEN 'request ' || {words.id('n')} ELSE 'member ' || {words.member('n')} END",
        "after": """'{"state": "planned"}'""",
    }


def _jobs(words: _Words) -> dict[str, str]:
    return {
        **_NOTHING_YET,
        "id": words.id("n"),
        "site": f"'{SITE}'",
        "kind": "'group_email'",
        "params": f"""'{{"group": "{group_of(0)}", "context": {{"subject": "News of the week"}}}}'""",
        "who": "'user ana'",
        "state": "'done'",
        "next_at": words.never,
        "phase": "'tidy'",
        "cursor": "'{}'",
        "plan": "'{}'",
        "wix_calls": "20",
        "created_at": words.ago("AGE"),
        "updated_at": words.ago("AGE"),
        "confirmed_at": words.ago("AGE"),
        "finished_at": words.ago("AGE - 600"),
    }


def _running_job(words: _Words) -> dict[str, str]:
    now = {name: words.ago("600") for name in ("created_at", "updated_at", "confirmed_at")}
    return now | {
        "state": "'running'",
        "phase": "'wait'",
        "finished_at": "NULL",
        "next_at": words.ago("-3600"),
    }


def _job_items(words: _Words, members: int) -> dict[str, str]:
    return {
        "job": words.id("n / 100"),
        "number": "n % 100",
        "site": f"'{SITE}'",
        "group_id": words.group("n"),
        "member": words.member(f"n % {members}"),
        "state": "CASE WHEN n % 10 = 0 THEN 'skipped' ELSE 'done' END",
        "attempts": "1",
        "data": """'{"row": 1, "how": "email", "private": false, "candidates": []}'""",
        "changed_at": words.ago("AGE"),
    }


def _group_days(words: _Words) -> dict[str, str]:
    day = words.ago(f"(n / {GROUPS}) * {_DAY_S}")
    return {
        "site": f"'{SITE}'",
        "day": f"date({day})",
        "group_id": words.group("n"),
        "members": f"100 + (400 - n / {GROUPS})",
        "read_at": day,
    }


def _sites(words: _Words) -> dict[str, str]:
    small = "'0000000' || (n - 1) || '-6c0f-4a4f-9b7e-2f0c5d9e8a11'"
    return {
        "site": f"CASE WHEN n = 0 THEN '{SITE}' ELSE {small} END",
        "state": "'active'",
        "changed_at": words.ago("0"),
    }


def _watches(words: _Words) -> dict[str, str]:
    return {
        **_NOTHING_YET,
        "site": f"'{SITE}'",
        "kind": "CASE WHEN n % 2 = 0 THEN 'members' ELSE 'requests' END",
        "group_id": words.group("n / 2"),
        "state": "'watched'",
        "next_at": words.ago("-60 * n"),
        "since": words.ago("600"),
        "pending": "'{}'",
        "privacy": "'PRIVATE'",
        "looked_at": words.ago("600"),
    }
