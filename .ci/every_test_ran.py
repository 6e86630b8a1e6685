"""`python .ci/every_test_ran.py JUNIT_XML…`: does every test function in tests/ stand in one of the reports as run?

Exit code 1 names those that do not: never collected, or skipped in every variant. Without TEST_AMQP_URL tests marked
`amqp` may be skipped, they need a server that is not everywhere; they too must have been collected. Standard library
only.
"""

from __future__ import annotations

import ast
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def functions(root: Path) -> Iterator[tuple[str, bool]]:
    """Each test function as pytest's report calls it ("tests.core.test_a.TestB.test_c"), and if it may be skipped."""
    for path in sorted((root / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_bytes(), str(path))
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        yield from _functions(module.body, name, may_skip=_is_amqp_module(module))


def _functions(body: list[ast.stmt], name: str, *, may_skip: bool) -> Iterator[tuple[str, bool]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield f"{name}.{node.name}", may_skip or _is_amqp(node.decorator_list)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            inside = may_skip or _is_amqp(node.decorator_list)
            yield from _functions(node.body, f"{name}.{node.name}", may_skip=inside)


def _is_amqp(marks: list[ast.expr]) -> bool:
    return any(ast.unparse(mark).partition("(")[0] == "pytest.mark.amqp" for mark in marks)


def _is_amqp_module(module: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
        and _is_amqp(node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value])
        for node in module.body
    )


def report(junit_xml: Path, ran: dict[str, bool]) -> None:
    """Note in `ran` each reported test function, its variants taken together, and whether any of them ran."""
    for case in ET.parse(junit_xml).iter("testcase"):
        name = f"{case.get('classname')}.{str(case.get('name')).partition('[')[0]}"
        ran[name] = ran.get(name, False) or case.find("skipped") is None


def main(arguments: list[str], root: Path = ROOT) -> int:
    if not arguments:
        print("usage: every_test_ran.py JUNIT_XML…", file=sys.stderr)
        return 2
    ran: dict[str, bool] = {}
    for path in arguments:
        try:
            report(Path(path), ran)
        except (OSError, ET.ParseError) as exc:
            print(f"{path}: no report to read: {exc}", file=sys.stderr)
            return 1
    has_amqp = bool(os.environ.get("TEST_AMQP_URL"))
    found = [(name, may_skip and not has_amqp) for name, may_skip in functions(root)]
    missing = [(name, "was never run") for name, _ in found if name not in ran]
    missing += [(name, "was skipped") for name, may_skip in found if not ran.get(name, True) and not may_skip]
    for name, what in missing:
        print(f"{name} {what}")
    without = sum(1 for name, may_skip in found if may_skip and not ran.get(name, True))
    print(
        f"{len(found)} test functions, {len(missing)} of them did not run"
        + (f"; {without} more need an AMQP server" if without else "")
    )
    return 1 if missing or not found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
