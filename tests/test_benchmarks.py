"""The measurements still run. What they measure is not asserted: a machine's mood is no defect."""

from __future__ import annotations

import subprocess
import sys

from admin.processes import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_list_names_every_measurement():
    done = run("--list")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["door", "latency", "refusal", "worker", "letters", "join", "matching", "start"]


def test_an_unknown_name_is_refused_and_the_known_ones_are_told():
    done = run("speed")
    assert done.returncode == 2
    assert "no measurement is called speed" in done.stderr
    assert "refusal" in done.stderr


def test_a_measurement_runs_in_a_tiny_size_and_shows_figure_reference_and_bar():
    done = run("start", "matching", "--quick")
    assert done.returncode == 0, done.stderr
    for line in ("web answers", "python -c pass", "matching, Han", "any(term in text), ASCII"):
        assert line in done.stdout
    assert "bar: matching, ASCII: at least 120000" in done.stdout
