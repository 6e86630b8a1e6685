"""What needs no other process to be measured: matching answers, and how long a start takes."""

from __future__ import annotations

import contextlib
import glob
import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from admin.processes import ROOT
from benchmarks.table import Bar, Row, report
from benchmarks.tools import (
    Size,
    alternate,
    free_port,
    install,
    outer_environment,
    public_pem,
    running,
    wait_for,
    workshop,
)
from benchmarks.tools import answers as is_up
from core.community import Answer
from core.matching import AnswerRule

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_MIXED = "abcdefghijklmnéüößабвгдежзиклмнопрстуאבגדהוזחט"
_HAN = [chr(code) for code in range(0x4E00, 0x5200)]


def measure_matching(size: Size) -> list[Row]:
    """Each text is another one, or a memory of the last ones would be measured."""
    chance = random.Random(7)
    count = size.of(20_000, 200)
    measures: dict[str, Callable[[], float]] = {}
    scripts = {"ASCII": _LATIN, "half not ASCII": _MIXED, "Han": _HAN}
    for script, letters in scripts.items():
        terms = [_word(chance, letters, 3 if script == "Han" else 8) for _ in range(1000)]
        texts = [_text(chance, letters, spaced=script != "Han") for _ in range(count)]
        rule = AnswerRule(any=tuple(terms))
        rule.match([Answer("", "")])  # builds the automaton
        folded = [term.casefold() for term in terms]
        measures[f"any(term in text), {script}"] = partial(_scan, folded, texts[: max(20, count // 100)])
        measures[script] = partial(_match, rule, texts)
    values = alternate(3 * size.repeats, measures)  # of a tenth of a second each: a moment's noise is several
    return report(
        "matching: answers of 200 characters/s, 1,000 terms",
        values,
        [Bar(script, least=120_000, beside=f"any(term in text), {script}") for script in scripts],
        reference="any(term in text), ASCII",
        unit="/s",
    )


def _word(chance: random.Random, letters: Sequence[str], length: int) -> str:
    return "".join(chance.choices(letters, k=length))


def _text(chance: random.Random, letters: Sequence[str], *, spaced: bool) -> str:
    words = [_word(chance, letters, chance.randint(2, 10)) for _ in range(60)]
    return (" " if spaced else "，").join(words)[:200]


def _match(rule: AnswerRule, texts: list[str]) -> float:
    answers = [[Answer("What do you like?", text)] for text in texts]
    started_s = time.perf_counter()
    for answer in answers:
        rule.match(answer)
    return len(texts) / (time.perf_counter() - started_s)


def _scan(terms: list[str], texts: list[str]) -> float:
    started_s = time.perf_counter()
    for text in texts:
        lowered = text.casefold()
        any(term in lowered for term in terms)
    return len(texts) / (time.perf_counter() - started_s)


def measure_start(size: Size) -> list[Row]:
    with workshop() as folder, install(folder / "home") as home:
        key = folder / "key.pem"
        key.write_text(public_pem())
        values = alternate(
            size.repeats,
            {
                "python -c pass": partial(_run_ms, "-c", "pass"),
                "usher --help": partial(_run_ms, "-m", "admin", "--help"),
                "bare app answers": lambda: _up_ms(
                    folder, "benchmarks.apps", str(port := free_port()), "bare", str(key), port=port
                ),
                "web answers": lambda: _up_ms(folder, "admin", "web", port=home.port, env=home.env),
            },
        )
    over = [
        whole - bare for whole, bare in zip(values["usher --help"], values["python -c pass"], strict=True)
    ]
    values["usher --help over bare Python"] = over
    return report(
        "start: ms",
        values,
        [
            Bar("usher --help over bare Python", most=300, beside="python -c pass"),
            Bar("web answers", most=2000, beside="bare app answers"),
        ],
        unit="ms",
    )


def _run_ms(*arguments: str) -> float:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=60)
    return (time.perf_counter() - started_s) * 1000


def _up_ms(folder: Path, *arguments: str, port: int, env: dict[str, str] | None = None) -> float:
    started_s = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(arguments, folder / "start.log", env))
        wait_for(lambda: is_up(port), " ".join(arguments))
        return (time.perf_counter() - started_s) * 1000


def measure_demo(size: Size) -> list[Row]:
    with workshop() as folder:
        _first_letter_s(folder / "warm-up")  # installs, if nothing was played here before
        days = (folder / str(number) for number in itertools.count())
        values = alternate(size.repeats, {"first letter": lambda: _first_letter_s(next(days))})
    return report(
        "demo: s from `dev.py demo --once` to its first letter",
        values,
        [Bar("first letter", most=10)],
        unit="s",
    )


def _first_letter_s(folder: Path) -> float:
    """Until the demo's mail server has taken a letter, by the log of its worker. The day is not played to its end."""
    folder.mkdir()
    log = folder / "demo.log"
    env = {**outer_environment(), "TMPDIR": str(folder)}
    started_s = time.perf_counter()
    with log.open("wb") as output:
        playing = subprocess.Popen(
            [sys.executable, str(ROOT / "dev.py"), "demo", "--once"],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        logs = f"{folder}/usher-demo-*/worker.log"
        wait_for(lambda: playing.poll() is not None or _tells_of_a_letter(logs), "the first letter", 180)
        if playing.poll() is not None:
            raise RuntimeError(f"the demo ended: {log.read_text()[-2000:]}")
        return time.perf_counter() - started_s
    finally:
        playing.send_signal(signal.SIGINT)
        try:
            playing.wait(timeout=30)
        except subprocess.TimeoutExpired:
            playing.kill()
            playing.wait(timeout=5)


def _tells_of_a_letter(logs: str) -> bool:
    return any(b"letter.sent" in Path(found).read_bytes() for found in glob.glob(logs))
