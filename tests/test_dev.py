"""`python3 dev.py` from wherever somebody happens to stand."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_it_installs_from_another_folder(tmp_path: Path) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    tools = checkout / ".venv" / "bin"
    for folder in (tools, elsewhere):
        folder.mkdir(parents=True)
    for name in ("dev.py", "uv.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    (tools / "python").symlink_to(sys.executable)
    uv = (
        tools / "uv"
    )  # in place of the one that would load everything; looks where it was told to, and nowhere else
    uv.write_text(
        '#!/bin/sh\nwhile [ "$1" != --project ]; do shift || exit 2; done\ntest -f "$2/pyproject.toml"\n'
    )
    uv.chmod(0o755)
    done = subprocess.run([sys.executable, checkout / "dev.py", "install"], cwd=elsewhere, check=False)
    assert done.returncode == 0
    assert (tools / "usher").exists()
