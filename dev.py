"""`python3 dev.py TASK`: make .venv hold exactly what uv.lock says, then run the task (stdlib only)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
UV_VERSION = "0.13.9"

USAGE = """usage: python3 dev.py TASK [arguments]

  install   make .venv from uv.lock; leaves .venv/bin/usher (install pdf: with reports as PDF, 84 MB more)
  demo      a community's day on embedded parts, shown letter by letter (--once: end by itself)
  run       web, worker and beat for real use, settings from .env
  test      the whole test suite (arguments go to pytest)
  browser   the console's stories in Chromium, which has to be installed (arguments go to pytest)
  lint      format, lint, types, import contracts
  check     lint, then test
  chaos     hurt everything at once; nothing may be lost or go out twice (--soak MINUTES, --letters, --jobs, --seed N)
  bench     the measurements of benchmarks/, and a table of what holds (names run some; --list, --quick)
  usher …   any usher command
"""
LINT = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("lint-imports",),
)


def install(*, development: bool, extras: tuple[str, ...] = ()) -> None:
    """Bring .venv to the state of uv.lock; costs nothing when it already is."""
    kind = "-".join(("dev" if development else "run", *extras))
    stamp = VENV / f".installed-{kind}"
    wanted = hashlib.sha256((ROOT / "uv.lock").read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and PYTHON.exists():
        return
    if not PYTHON.exists():
        print("Installing into .venv (once, about a minute) …", file=sys.stderr)
        if subprocess.run(
            [sys.executable, "-m", "venv", str(VENV)], check=False, capture_output=True
        ).returncode:
            # Debian without python3-venv has no ensurepip; the system's pip can still fill the environment.
            run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    if not (BIN / "uv").exists():
        pip = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
        if (VENV / "pyvenv.cfg").exists() and not subprocess.run(
            [str(PYTHON), "-m", "pip", "--version"], check=False, capture_output=True
        ).returncode:
            pip = [str(PYTHON), "-m", "pip"]
        run([*pip, "install", "--quiet", "--disable-pip-version-check", f"uv=={UV_VERSION}"])
    # Compiled now, in seconds on all cores, or the first start would do it while somebody waits.
    groups = ["--all-groups", "--all-extras"] if development else ["--no-dev", "--compile-bytecode"]
    groups += [f"--extra={extra}" for extra in extras]
    env = {**os.environ, "VIRTUAL_ENV": str(VENV), "UV_PROJECT_ENVIRONMENT": str(VENV)}
    # --inexact, or uv would remove itself from the environment it lives in.
    sync = [str(BIN / "uv"), "sync", "--project", str(ROOT), "--frozen", "--inexact", "--quiet"]
    run([*sync, "--python", str(PYTHON), *groups], env)
    launcher = BIN / "usher"
    launcher.write_text(
        f"#!{PYTHON}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom admin.cli import main\nmain()\n"
    )
    launcher.chmod(0o755)
    stamp.write_text(wanted)


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run to the end or leave with its exit code."""
    code = subprocess.run(command, env=env, check=False).returncode
    if code:
        sys.exit(code)


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is what an older Python gets to see)
        sys.exit(f"Usher needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    task, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    known = ("install", "demo", "run", "test", "browser", "lint", "check", "chaos", "bench", "usher")
    if task not in known:
        print(USAGE, file=sys.stderr)
        sys.exit(0 if task in ("-h", "--help", "help") else 2)
    if task == "install" and (unknown := set(rest) - {"pdf"}):
        sys.exit(f"install knows no {', '.join(sorted(unknown))}; there is only pdf")
    development = task in ("test", "browser", "lint", "check", "chaos", "bench")
    install(development=development, extras=tuple(rest) if task == "install" else ())
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    if task in ("lint", "check"):
        os.chdir(ROOT)
        for command in LINT:
            run([str(BIN / command[0]), *command[1:]], env)
    # Many tests wait for leases and restarts, so a small machine runs more of them than it has cores.
    pytest, cores = [str(PYTHON), "-m", "pytest"], os.cpu_count() or 1
    suite = [*pytest, "-n", str(max(4, cores)), "--dist=loadgroup", *rest]
    # The stories of a module share a stage and are told in their order.
    stories = [
        *pytest,
        "-n",
        str(max(2, cores)),
        "--dist=loadscope",
        "--no-loadscope-reorder",
        "-p",
        "no:randomly",
    ]
    stories += ["tests/browser", *rest]
    commands = {
        "test": suite,
        "check": suite,
        "browser": stories,
        "chaos": [str(PYTHON), "-m", "chaos", *rest],
        "bench": [str(PYTHON), "-m", "benchmarks", *rest],
        "demo": [str(BIN / "usher"), "demo", *rest],
        "run": [str(BIN / "usher"), "run", *rest],
        "usher": [str(BIN / "usher"), *rest],
    }
    if task in commands:
        if task in ("test", "browser", "check", "chaos", "bench"):
            os.chdir(ROOT)
        os.execve(commands[task][0], commands[task], env)


if __name__ == "__main__":
    main(sys.argv[1:])
