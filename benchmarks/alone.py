"""What needs no other process to be measured: matching answers, and how long a start takes."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from admin.processes import ROOT
from benchmarks.tools import (
    Bar,
    Size,
    alternate,
    free_port,
    install,
    public_pem,
    report,
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


def measure_matching(size: Size) -> None:
    chance = random.Random(7)
    repeats_of_all = size.of(40, 1)
    measures: dict[str, Callable[[], float]] = {}
    for script, letters in (("ASCII", _LATIN), ("half not ASCII", _MIXED), ("Han", _HAN)):
        terms = [_word(chance, letters, 3 if script == "Han" else 8) for _ in range(1000)]
        texts = [_text(chance, letters, spaced=script != "Han") for _ in range(500)]
        rule = AnswerRule(any=tuple(terms))
        rule.match([Answer("", "")])  # builds the automaton
        folded = [term.casefold() for term in terms]
        measures[f"any(term in text), {script}"] = partial(
            _scan, folded, texts[: max(20, repeats_of_all * 5)]
        )
        measures[f"matching, {script}"] = partial(_match, rule, texts, repeats_of_all)
    values = alternate(size.repeats, measures)
    scripts = ("ASCII", "half not ASCII", "Han")
    bars = [Bar(f"matching, {script}", least=120_000) for script in scripts]
    report(
        "matching: answers of 200 characters/s, 1,000 terms",
        values,
        bars,
        reference="any(term in text), ASCII",
    )


def _word(chance: random.Random, letters: Sequence[str], length: int) -> str:
    return "".join(chance.choices(letters, k=length))


def _text(chance: random.Random, letters: Sequence[str], *, spaced: bool) -> str:
    words = [_word(chance, letters, chance.randint(2, 10)) for _ in range(60)]
    return (" " if spaced else "，").join(words)[:200]


def _match(rule: AnswerRule, texts: list[str], times: int) -> float:
    answers = [[Answer("What do you like?", text)] for text in texts]
    started_s = time.perf_counter()
    for _ in range(times):
        for answer in answers:
            rule.match(answer)
    return times * len(texts) / (time.perf_counter() - started_s)


def _scan(terms: list[str], texts: list[str]) -> float:
    started_s = time.perf_counter()
    for text in texts:
        lowered = text.casefold()
        any(term in lowered for term in terms)
    return len(texts) / (time.perf_counter() - started_s)


def measure_start(size: Size) -> None:
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
    report(
        "start: ms",
        values,
        [Bar("usher --help over bare Python", most=300), Bar("web answers", most=2000)],
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
