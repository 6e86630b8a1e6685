"""The door: how many deliveries it takes, how soon it answers, and what a stranger's megabyte costs."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from benchmarks.load import Sent, send, write_bodies
from benchmarks.table import Bar, Row, report
from benchmarks.tools import (
    GROUP,
    SITE,
    Installation,
    Size,
    alternate,
    cpu_s,
    helper,
    install,
    percentile,
    postgres,
    public_pem,
    signing_key,
    wait_for,
    workshop,
)
from config.settings import socket_path
from integrations.shared import open_redis

TOKEN_BYTES = 3000
_HEAD = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"benchmark","typ":"JWT"}').rstrip(b"=")


def a_delivery(event_id: str, member: str, *, pad: int = 0) -> bytes:
    """The claims of one "somebody joined", before signing. `pad` characters stand for whatever else Wix says."""
    now_s = int(time.time())
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
    person = {"memberId": member, "role": {"value": "MEMBER"}, "joinedDate": at}
    event = {
        "id": event_id,
        "entityFqdn": "wix.social_groups.v2.group_member",
        "slug": "added",
        "entityId": GROUP,
        "eventTime": at,
        "triggeredByAnonymizeRequest": False,
        "actionEvent": {"body": {"groupId": GROUP, "groupMember": person, "note": "x" * pad}},
    }
    outer = {
        "eventType": "wix.social_groups.v2.group_member_added",
        "instanceId": SITE,
        "data": json.dumps(event),
        "identity": json.dumps({"identityType": "WIX_USER", "wixUserId": SITE}),
    }
    return json.dumps({"data": json.dumps(outer), "iat": now_s, "exp": now_s + 300_000}).encode()


def sign(claims: bytes, pem: bytes) -> bytes:
    key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    signed = _HEAD + b"." + base64.urlsafe_b64encode(claims).rstrip(b"=")
    signature = key.sign(signed, PKCS1v15(), SHA256())  # type: ignore[call-arg, union-attr, arg-type] # RSA
    return signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def private_pem() -> bytes:
    return signing_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def sign_deliveries(count: int) -> list[bytes]:
    """Tokens of 3,000 bytes, each of another event and member."""
    pad = (TOKEN_BYTES - len(sign(a_delivery("event-0000000", "member-0000000"), private_pem()))) * 3 // 4
    claims = [a_delivery(f"event-{n:07}", f"member-{n:07}", pad=pad) for n in range(count)]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(partial(sign, pem=private_pem()), claims, chunksize=200))


@contextlib.contextmanager
def _references(folder: Path, *names: str) -> Iterator[dict[str, Callable[..., Sent]]]:
    bodies, key = folder / "bodies", folder / "key.pem"
    key.write_text(public_pem())
    with contextlib.ExitStack() as stack:
        found: dict[str, Callable[..., Sent]] = {}
        for name in names:
            if name != "naive":
                app = stack.enter_context(helper("apps", folder / f"{name}.log", name, key))
                found[name] = partial(send, app.port, bodies)
                continue
            home = stack.enter_context(install(folder / "naive"))
            redis = socket_path(home.folder)
            app = stack.enter_context(helper("apps", folder / "naive.log", name, key, redis))
            found[name] = partial(_send_naively, home, app.port, bodies)
        yield found


def _send_naively(home: Installation, port: int, bodies: Path, count: int, **how: float) -> Sent:
    with open_redis(f"unix://{socket_path(home.folder)}") as redis:
        redis.flushall()
    return send(port, bodies, count, **how)  # type: ignore[arg-type]


def _send_to(home: Installation, bodies: Path, count: int, **how: float) -> Sent:
    """Everything acknowledged has to be a row afterwards, and a line of the log; the table is emptied before."""
    home.clear("events")
    log = home.folder / "web.log"
    told_before = log.stat().st_size
    sent = send(home.port, bodies, count, **how)  # type: ignore[arg-type]
    if (rows := home.ask("SELECT count(*) FROM events WHERE state = 'received'")) < sent.accepted:
        raise RuntimeError(f"{sent.accepted} deliveries were acknowledged, {rows} are in the journal")
    wait_for(lambda: _accepted(log, told_before) >= sent.accepted, "a log line of each delivery", 5)
    return sent


def _accepted(log: Path, since: int) -> int:
    with log.open("rb") as file:
        file.seek(since)
        return file.read().count(b"webhook.accepted")


def measure_door(size: Size) -> list[Row]:
    most = size.of(24_000, 100)
    with workshop() as folder, contextlib.ExitStack() as stack:
        bodies = folder / "bodies"
        write_bodies(bodies, sign_deliveries(most))
        references = stack.enter_context(_references(folder, "bare", "verify", "naive"))
        [url] = stack.enter_context(postgres(folder / "pg", "door"))
        lite = stack.enter_context(install(folder / "lite"))
        post = stack.enter_context(install(folder / "post", url))
        for home in (lite, post):
            stack.enter_context(home.web())
        sends: dict[str, Callable[..., Sent]] = {
            "bare 200 (the sender's ceiling)": references["bare"],
            "verify-only": references["verify"],
            "SQLite": partial(_send_to, lite, bodies),
            "PostgreSQL": partial(_send_to, post, bodies),
            "naive": references["naive"],
        }
        measures: dict[str, Callable[[], float]] = {}
        for name, run in sends.items():
            warm = run(most // 10).per_second
            measures[name] = partial(_per_second, run, size.for_seconds(warm, most))
        values = alternate(size.repeats, measures)
    return report(
        f"door: deliveries/s, one process, 32 connections, {TOKEN_BYTES:,}-byte tokens",
        values,
        [
            Bar("SQLite", least=0.75, against="verify-only"),
            Bar("PostgreSQL", least=0.75, against="verify-only"),
            Bar("SQLite", least=7, against="naive"),
            Bar("PostgreSQL", least=7, against="naive"),
        ],
        reference="verify-only",
        unit="/s",
    )


def _per_second(run: Callable[..., Sent], count: int) -> float:
    return run(count).per_second


def measure_latency(size: Size) -> list[Row]:
    """At 500/s for comparison with the naive version, which cannot take more; the bars are those at 2,000/s."""
    seconds = size.of(20, 1) / 10
    rows: list[Row] = []
    with workshop() as folder, contextlib.ExitStack() as stack:
        bodies = folder / "bodies"
        write_bodies(bodies, sign_deliveries(int(2000 * seconds)))
        references = stack.enter_context(_references(folder, "bare", "naive"))
        urls = stack.enter_context(postgres(folder / "pg", "well", "away", "silent"))
        silent = stack.enter_context(
            socket.create_server(("127.0.0.1", 0))
        )  # takes connections, says nothing
        brokers = {
            "": {},
            ", broker away": {"REDIS_URL": f"unix://{folder}/nobody.sock"},
            ", broker silent": {"REDIS_URL": f"redis://127.0.0.1:{silent.getsockname()[1]}"},
        }
        sends: dict[str, Callable[..., Sent]] = {"bare 200": references["bare"]}
        for (broker, settings), url in zip(brokers.items(), urls, strict=True):
            for name, database_url in (("SQLite", ""), ("PostgreSQL", url)):
                home = stack.enter_context(install(folder / f"home{len(sends)}", database_url, **settings))
                stack.enter_context(home.web())
                sends[name + broker] = partial(_send_to, home, bodies)
        for send_some in sends.values():
            send_some(20)  # once to warm up
        slow = {name: sends[name] for name in ("bare 200", "SQLite", "PostgreSQL")}
        for rate, runs in ((500, {**slow, "naive": references["naive"]}), (2000, sends)):
            delays = {
                name: _Delays(partial(run, int(rate * seconds), connections=128, rate=rate))
                for name, run in runs.items()
            }
            values = alternate(size.repeats, {f"p50 {name}": found.p50 for name, found in delays.items()})
            values |= {f"p99 {name}": found.p99s for name, found in delays.items()}
            values |= {
                f"503s %, {name}": found.refused for name, found in delays.items() if any(found.refused)
            }
            rows += report(
                f"latency: ms from due to answered, offered {rate:,}/s for {seconds:g} s",
                values,
                [Bar(f"p99 {name}", most=30, beside="p99 bare 200") for name in sends if name != "bare 200"]
                if rate == 2000
                else [],
                unit="ms",
            )
    return rows


class _Delays:
    """One run gives both percentiles, and how many of 100 were told to come again."""

    def __init__(self, run: Callable[[], Sent]) -> None:
        self._run = run
        self.p99s: list[float] = []
        self.refused: list[float] = []

    def p50(self) -> float:
        sent = self._run()
        delays = sent.delays_ms
        self.refused.append(100 * (1 - sent.accepted / len(delays)))
        self.p99s.append(percentile(delays, 0.99))
        return percentile(delays, 0.5)


def measure_refusal(size: Size) -> list[Row]:
    """Linux only: the processor time of another process is read from /proc."""
    count = size.of(40, 2)
    forms = _unsigned(1024 * 1024)
    with workshop() as folder, contextlib.ExitStack() as stack:
        key = folder / "key.pem"
        key.write_text(public_pem())
        home = stack.enter_context(install(folder / "lite"))
        web = stack.enter_context(home.web())
        apps = {
            "bare": _app(stack, folder, "bare", key),
            "naive": _app(stack, folder, "naive", key),
            "door": (web, home.port),
        }
        measures = {
            f"{name}, {form}": partial(
                _cpu_ms,
                *where,
                body,
                max(1, count // 10) if name == "naive" else count,
                {200} if name == "bare" else {400, 401},
            )
            for name, where in apps.items()
            for form, body in forms.items()
        }
        for warm_up in measures.values():
            warm_up()
        values = alternate(size.repeats, measures)
    return report(
        "refusal: ms of CPU for an unsigned body of 1 MiB (bare: only reads it)",
        values,
        [Bar(f"door, {form}", most=3, beside=f"bare, {form}") for form in forms],
        unit="ms",
    )


def _unsigned(length: int) -> dict[str, bytes]:
    """What strangers may send, each so many bytes: refused at a glance, or only after all of it was hashed."""
    signature = base64.urlsafe_b64encode(b"\x5a" * 256).rstrip(b"=")
    payload = b"A" * (length - len(_HEAD) - len(signature) - 2)
    claims = json.dumps({"alg": "RS256", "x": "A" * (length * 3 // 4 - 400)}).encode()
    long_header = base64.urlsafe_b64encode(claims).rstrip(b"=")
    filler = b"A" * (length - len(long_header) - len(signature) - 2)
    return {
        "no dots": b"A" * length,
        "dots alone": b"." * length,
        "false signature": b".".join((_HEAD, payload, signature)),
        "garbage for a header": b".".join((b"-" * len(_HEAD), payload, signature)),
        "all of it header": b".".join((long_header, filler, signature)),
    }


def _app(stack: contextlib.ExitStack, folder: Path, name: str, key: Path) -> tuple[int, int]:
    found = stack.enter_context(helper("apps", folder / f"{name}.log", name, key, folder / "nobody.sock"))
    return found.pid, found.port


def _cpu_ms(pid: int, port: int, body: bytes, count: int, wanted: set[int]) -> float:
    before_s = cpu_s(pid)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(count):
        connection.request("POST", "/webhooks/wix", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in wanted:
            raise RuntimeError(f"answered {answer.status}")
    connection.close()
    return (cpu_s(pid) - before_s) * 1000 / count
