"""The logs of services and child processes that tests start, kept in `out/tests/` for a person.

They are written in pytest's own temporary folders, and copied when a test fails and when a worker
ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

KEPT = Path(__file__).resolve().parents[2] / "out" / "tests"
_LINES = 25


def place(worker: str) -> Path:
    return KEPT / worker


def forget() -> None:
    """Remove what an earlier run left."""
    shutil.rmtree(KEPT, ignore_errors=True)


def _logs(folder: Path) -> list[Path]:
    """Return the logs that people read; a database calls files such as `000012.log` its own."""
    return sorted(each for each in folder.rglob("*.log") if not each.stem.isdigit())


def keep(folder: Path, worker: str) -> None:
    """Copy every log below `folder` to the worker's place."""
    for log in _logs(folder):
        copy = place(worker) / log.relative_to(folder)
        with contextlib.suppress(FileNotFoundError):  # services come and go
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, copy)


def tails(folder: Path, worker: str, since: float) -> Iterator[tuple[str, str]]:
    """Yield a title and the last lines of each log written to since then (seconds of the clock)."""
    for log in _logs(folder):
        if log.stat().st_mtime >= since:
            lines = log.read_text(errors="replace").splitlines()[-_LINES:]
            kept = os.path.relpath(place(worker) / log.relative_to(folder), KEPT.parent.parent)
            yield f"end of {kept}", "\n".join(lines)
