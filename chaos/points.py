"""Named points at which a process dies, or freezes, exactly once for each token laid out for it.

`python -m chaos.points web` is `python -m admin web` with these points in it: the product has no hooks of its own.
A token is a file in the folder that CHAOS_POINTS names; whoever removes it first is the one that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER, BROKEN = "CHAOS_POINTS", "CHAOS_BROKEN"
FROZEN = "frozen-"


@dataclass(frozen=True, slots=True)
class Point:
    """`where` is module:Class.method. It strikes before the call, or after one that returned something."""

    name: str
    where: str
    before: bool = False
    later_s: float = 0.0


POINTS = (
    Point("web: before the commit", "integrations.store.inbox:Inbox._next_batch"),
    Point("web: after the commit", "integrations.store.inbox:Inbox._ring_for", before=True),
    Point("web: after the answer", "webhooks.endpoint:Door.__call__", later_s=0.02),
    Point("event: after the claim", "integrations.store.journal:Journal.claim"),
    Point("event: Wix asked, nothing written", "integrations.store.journal:Journal.finish", before=True),
    Point("event: after it is finished", "integrations.store.journal:Journal.finish"),
    Point("decision: after the claim", "integrations.store.outbox:Outbox.claim"),
    Point("decision: Wix did it, nothing written", "integrations.store.outbox:Outbox.end", before=True),
    Point("letter: after the claim", "integrations.store.ledger:Ledger.claim"),
    Point("letter: after its body", "integrations.store.ledger:Ledger.mark", before=True),
    Point("letter: after the mark", "integrations.store.ledger:Ledger.mark"),
    Point("letter: after the dot", "integrations.email.transport:SmtpMail._await_verdict", before=True),
    Point("letter: after the reply", "integrations.store.ledger:Ledger.begin_sent", before=True),
    Point("letter: after it is settled", "tasks.letters:_record"),
    Point("sweeper: before it rings", "tasks.sweep:Sweeper.look", before=True),
)
UNDECIDABLE = (
    "letter: after the mark",
    "letter: after the dot",
    "letter: after the reply",
    "letter: after it is settled",
)
"""Who dies here leaves a letter in doubt, or may: what was said of one is heard while the next one is being marked.
Who dies anywhere else must not."""
FREEZING = ("event: after the claim", "letter: after its body", "letter: after the dot")
"""Where it is worth to freeze for longer than a lease: a zombie wakes up while others have its row."""


def lay(folder: Path, point: str, *, freeze: bool = False) -> Path:
    """Lay out one token; the file is gone when somebody was struck."""
    file = folder / f"{_slug(point)}.{'freeze' if freeze else 'kill'}.{uuid.uuid4().hex}"
    file.touch()
    return file


def wake(folder: Path, after_s: float) -> int:
    """Let everybody go on who has been frozen for so long; how many still are."""
    for note in folder.glob(f"{FROZEN}*"):
        if time.time() - note.stat().st_mtime >= after_s:
            note.unlink()
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(note.name.removeprefix(FROZEN)), signal.SIGCONT)
    return sum(1 for _ in folder.glob(f"{FROZEN}*"))


def _slug(point: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in point)


def _strike(point: Point, folder: Path) -> None:
    """Die or freeze, if a token lies there for it."""
    for found in folder.glob(f"{_slug(point.name)}.*"):
        try:
            found.unlink()
        except FileNotFoundError:
            continue  # another process was faster
        freeze = ".freeze." in found.name
        number = signal.SIGSTOP if freeze else signal.SIGKILL
        if freeze:
            (folder / f"{FROZEN}{os.getpid()}").touch()
        if point.later_s:
            threading.Timer(point.later_s, os.kill, (os.getpid(), number)).start()
        else:
            os.kill(os.getpid(), number)
        return


def _install(point: Point, folder: Path) -> None:
    owner, name = _find(point.where)
    real = getattr(owner, name)

    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        if point.before:
            _strike(point, folder)
        returned = real(*arguments, **named)
        if not point.before and returned != []:  # an empty claim holds nothing
            _strike(point, folder)
        return returned

    @functools.wraps(real)
    async def call_later(*arguments: Any, **named: Any) -> Any:
        returned = await real(*arguments, **named)
        _strike(point, folder)
        return returned

    setattr(owner, name, call_later if inspect.iscoroutinefunction(real) else call)


def _find(where: str) -> tuple[Any, str]:
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _doubt_is_retried() -> None:
    """A letter whose worker died after the mark is sent again."""
    from integrations.store.ledger import Ledger
    from integrations.store.tables import messages

    real = Ledger.mark

    def mark(self: Ledger, letter: Any, **named: Any) -> None:
        real(self, letter, **named)
        with self._database.begin() as tx:
            tx.execute(messages.update().where(messages.c.id == letter.id).values(marked=False))

    Ledger.mark = mark  # type: ignore[method-assign]


def _no_fence() -> None:
    """A zombie that lost its lease sends the dot all the same."""
    from core.errors import LostLeaseError
    from integrations.store.ledger import Ledger

    real = Ledger.mark

    def mark(self: Ledger, letter: Any, **named: Any) -> None:
        with contextlib.suppress(LostLeaseError):
            real(self, letter, **named)

    Ledger.mark = mark  # type: ignore[method-assign]


def _early_answer() -> None:
    """200 is answered before the commit, which follows a moment later."""
    from integrations.store.inbox import Inbox

    real = Inbox.accept

    async def commit(inbox: Inbox, claims: bytes, came_at: float) -> None:
        await asyncio.sleep(0.05)
        with contextlib.suppress(Exception):
            await real(inbox, claims, came_at)

    async def accept(self: Inbox, claims: bytes, came_at: float) -> Sequence[str]:
        held.add(asyncio.get_running_loop().create_task(commit(self, claims, came_at)))
        return "new", "unknown", "unknown", "unknown"

    held: set[asyncio.Task[None]] = set()
    Inbox.accept = accept  # type: ignore[method-assign]


def _no_sweeper() -> None:
    """Nobody looks for what is due but unclaimed: neither the sweeper nor the workers themselves."""
    from tasks.sweep import Sweeper
    from tasks.watch import Shift

    def look(self: Sweeper, ending: Callable[[], bool] = lambda: False) -> str:
        del self, ending
        return "nothing due"

    def watch_until(self: Shift, stop: threading.Event, every_s: float = 5.0) -> None:
        del self, every_s
        stop.wait()

    Sweeper.look = look  # type: ignore[method-assign]
    Shift.watch_until = watch_until  # type: ignore[method-assign]


BROKEN_WAYS: dict[str, Callable[[], None]] = {
    "doubt-is-retried": _doubt_is_retried,
    "no-fence": _no_fence,
    "200-before-the-commit": _early_answer,
    "no-sweeper": _no_sweeper,
}


def main() -> None:
    """Install the points, break what CHAOS_BROKEN names, and be the process that the arguments name."""
    if way := os.environ.get(BROKEN):
        BROKEN_WAYS[way]()
    folder = Path(os.environ[FOLDER])
    for point in POINTS:
        _install(point, folder)
    from admin.cli import main as serve

    serve()


if __name__ == "__main__":
    main()
