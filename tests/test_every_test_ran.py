"""The guard of CI: a test that was not run is named, whatever the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = Path(__file__).parent.parent / ".ci" / "every_test_ran.py"

TESTS = """
import pytest

def test_plain(): ...
async def test_later(): ...
@pytest.mark.parametrize("n", [1, 2])
def test_in_variants(n): ...
class TestTogether:
    def test_inside(self): ...
    def helper(self): ...
@pytest.mark.amqp
def test_on_rabbit(): ...
def a_test_helper(): ...
"""
REPORT = """<testsuites><testsuite>
<testcase classname="tests.core.test_a" name="test_plain"/>
<testcase classname="tests.core.test_a" name="test_later"><failure/></testcase>
<testcase classname="tests.core.test_a" name="test_in_variants[1]"><skipped/></testcase>
<testcase classname="tests.core.test_a" name="test_in_variants[2]"/>
<testcase classname="tests.core.test_a.TestTogether" name="test_inside"/>
<testcase classname="tests.core.test_a" name="test_on_rabbit"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of its own, with the guard in it."""
    for folder in (".ci", "tests/core"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".ci" / GUARD.name).write_bytes(GUARD.read_bytes())
    (tmp_path / "tests" / "core" / "test_a.py").write_text(TESTS)
    (tmp_path / "tests" / "house.py").write_text("def test_is_no_test_here(): ...")
    return tmp_path


def guard(
    checkout: Path, report: str = REPORT, amqp_url: str = "", reports: tuple[str, ...] = ("junit.xml",)
) -> tuple[int, list[str]]:
    (checkout / "junit.xml").write_text(report)
    done = subprocess.run(
        [sys.executable, "-I", checkout / ".ci" / GUARD.name, *reports],
        cwd=checkout,
        env={**os.environ, "TEST_AMQP_URL": amqp_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_a_run_of_everything_passes_and_says_what_needs_a_server(checkout: Path) -> None:
    assert guard(checkout) == (
        0,
        ["5 test functions, 0 of them did not run; 1 more need an AMQP server"],
    )


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ('<testcase classname="tests.core.test_a" name="test_plain"/>', "test_plain"),
        ('<testcase classname="tests.core.test_a" name="test_later"><failure/></testcase>', "test_later"),
        (
            '<testcase classname="tests.core.test_a.TestTogether" name="test_inside"/>',
            "TestTogether.test_inside",
        ),
        (
            '<testcase classname="tests.core.test_a" name="test_on_rabbit"><skipped/></testcase>',
            "test_on_rabbit",
        ),
    ],
)
def test_a_test_that_is_not_in_the_report_is_named(checkout: Path, line: str, missing: str) -> None:
    code, said = guard(checkout, REPORT.replace(line, ""))

    assert (code, said[0]) == (1, f"tests.core.test_a.{missing} was never run")
    assert said[1].startswith("5 test functions, 1 of them did not run")


def test_a_test_skipped_in_every_variant_is_named(checkout: Path) -> None:
    code, said = guard(checkout, REPORT.replace('[2]"/>', '[2]"><skipped/></testcase>'))

    assert (code, said[0]) == (1, "tests.core.test_a.test_in_variants was skipped")


def test_what_one_run_left_out_may_stand_in_the_report_of_another(checkout: Path) -> None:
    line = '<testcase classname="tests.core.test_a" name="test_plain"/>'
    (checkout / "junit-browser.xml").write_text(f"<testsuites><testsuite>{line}</testsuite></testsuites>")

    assert guard(checkout, REPORT.replace(line, ""))[0] == 1
    assert guard(checkout, REPORT.replace(line, ""), reports=("junit.xml", "junit-browser.xml"))[0] == 0


def test_with_a_server_there_is_no_excuse(checkout: Path) -> None:
    code, said = guard(checkout, amqp_url="amqp://127.0.0.1")

    assert (code, said[0]) == (1, "tests.core.test_a.test_on_rabbit was skipped")


@pytest.mark.parametrize("mark", ["pytest.mark.amqp", "[pytest.mark.amqp, pytest.mark.slow]"])
def test_a_whole_module_may_need_a_server(checkout: Path, mark: str) -> None:
    (checkout / "tests" / "test_b.py").write_text(f"pytestmark = {mark}\ndef test_far(): ...\n")
    far = '<testcase classname="tests.test_b" name="test_far"><skipped/></testcase></testsuite>'

    assert guard(checkout, REPORT.replace("</testsuite>", far))[0] == 0


def test_a_mark_of_another_name_excuses_nothing(checkout: Path) -> None:
    path = checkout / "tests" / "core" / "test_a.py"
    path.write_text(TESTS.replace("mark.amqp", "mark.amqp_like"))

    code, said = guard(checkout)

    assert (code, said[0]) == (1, "tests.core.test_a.test_on_rabbit was skipped")


@pytest.mark.parametrize("report", ["", "not xml"])
def test_a_run_without_a_readable_report_fails(checkout: Path, report: str) -> None:
    code, said = guard(checkout, report)

    assert code == 1
    assert said[0].startswith("junit.xml: no report to read")


def test_no_tests_at_all_is_a_failure(checkout: Path) -> None:
    (checkout / "tests" / "core" / "test_a.py").unlink()

    assert guard(checkout)[0] == 1


def test_pytest_writes_the_report_that_the_guard_reads(checkout: Path) -> None:
    (checkout / "tests" / "core" / "test_a.py").write_text(TESTS.replace("async def", "def"))
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--junit-xml=junit.xml", "tests"],
        cwd=checkout,
        capture_output=True,
        check=True,
    )

    assert guard(checkout, (checkout / "junit.xml").read_text()) == (
        0,
        ["5 test functions, 0 of them did not run"],
    )
