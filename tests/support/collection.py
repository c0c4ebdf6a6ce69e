"""Check that collecting the tests gives the same ids wherever and whenever it is done.

    python -m tests.support.collection

Collects twice, at the same time but for a second: here, and in a copy of the project in another
folder, with another hash seed, locale and time zone. Workers of pytest-xdist refuse to start where
theirs differ.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("ace_tasks", "docs", "flows", "infra", "tests")


def start(folder: Path, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ids(collecting: subprocess.Popen[str]) -> list[str]:
    """Return the ids in their order. Raises SystemExit with pytest's output where it failed."""
    output = collecting.communicate()[0]
    if collecting.returncode:
        raise SystemExit(output)
    return [line for line in output.splitlines() if "::" in line]


def copy_project(folder: Path) -> None:
    for part in _PARTS:
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, folder / part)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "another folder"
        other.mkdir()
        copy_project(other)
        first = start(ROOT, PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC")
        time.sleep(1)
        second = start(other, PYTHONHASHSEED="2", LC_ALL="C.UTF-8", TZ="Asia/Tokyo")
        here, there = ids(first), ids(second)
    if here != there:
        differ = [pair for pair in zip(here, there, strict=False) if pair[0] != pair[1]]
        raise SystemExit(f"{len(here)} and {len(there)} ids; the first that differ: {differ[:3]}")
    print(f"{len(here)} test ids, the same twice")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
