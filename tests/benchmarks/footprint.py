"""Memory of a process and all below it, sampled while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import NamedTuple, Self

import psutil


class Memory(NamedTuple):
    """Bytes of one process."""

    pss: int  # a page that several share counts in equal parts, so that a sum counts it once
    own: int  # what it alone has written: unlike the PSS, the same whoever comes and goes beside it


def memory(pid: int) -> Memory:
    """Nothing once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory(0, 0)
    parts = (line.split() for line in lines)
    sizes = {name: 1024 * int(kilobytes) for name, kilobytes, _ in parts}
    return Memory(sizes["Pss:"], sizes["Private_Dirty:"])


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
        self.samples: list[tuple[float, dict[int, Memory]]] = []  # time → pid → memory
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
            self.samples.append((time.time(), {each.pid: memory(each.pid) for each in processes}))
            self._ended.wait(self._every_s)
