"""Memory of a process and all below it, sampled while it runs.

PSS: a page that several processes share counts in equal parts, so that the sum counts it once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Self

import psutil


def pss_bytes(pid: int) -> int:
    """0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Footprint:
    """Samples a family until the block ends."""

    def __init__(self, pid: int, every_s: float = 1.0):
        self._pid = pid
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples: list[tuple[float, dict[int, int]]] = []  # time → pid → bytes
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def end_all(self, patience_s: float = 10) -> None:
        """Wait for whoever is left of the family, such as Ray's own processes; then kill them."""
        _, alive = psutil.wait_procs(self._seen, timeout=patience_s)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _sample(self) -> None:
        while not self._ended.is_set():
            processes = family(self._pid)
            self._seen.update(processes)
            self.samples.append(
                (time.time(), {each.pid: pss_bytes(each.pid) for each in processes})
            )
            self._ended.wait(self._every_s)
