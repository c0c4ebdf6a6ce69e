"""How much memory there is and how full it is: the node's, or the container's if that is tighter."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOOK_EVERY_S = 0.5
_M_MMAP_THRESHOLD = -3  # of malloc.h
_UNLIMITED_BYTES = 2**60  # cgroup v1 says a number near 2^63


@dataclass(frozen=True)
class Memory:
    """At one moment."""

    process_bytes: int  # resident
    used_share: float  # of the node or of the tightest cgroup above the process, 0-1


@dataclass(frozen=True)
class _Cgroup:
    """One that has a limit. What the kernel can drop at once, cached files, is not used."""

    folder: Path
    limit_bytes: int
    usage: str
    inactive: str

    def used_share(self) -> float:
        inactive_bytes = 0
        for line in (self.folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == self.inactive:
                inactive_bytes = int(value)
        usage_bytes = int((self.folder / self.usage).read_text())
        return max(usage_bytes - inactive_bytes, 0) / self.limit_bytes


class Gauge:
    """Reads the memory of the process it lives in. Thread-safe."""

    def __init__(self, root: Path = Path("/")):
        self._cgroups = tuple(_cgroups_of_this_process(root))
        self._process = psutil.Process()
        self._read_at = 0.0
        self._last: Memory | None = None

    def read(self) -> Memory:
        """At most half a second old."""
        now = time.monotonic()
        last = self._last
        if last is None or now - self._read_at > _LOOK_EVERY_S:
            node = psutil.virtual_memory()
            shares = [1 - node.available / node.total]
            with contextlib.suppress(OSError):  # moved to another cgroup
                shares += [each.used_share() for each in self._cgroups]
            last = Memory(self._process.memory_info().rss, max(shares))
            self._last, self._read_at = last, now
        return last


def limit_bytes(root: Path = Path("/")) -> int:
    """The memory that this process may use at most: its node's, or its container's limit."""
    limits = [each.limit_bytes for each in _cgroups_of_this_process(root)]
    return int(min([psutil.virtual_memory().total, *limits]))


def return_large_blocks() -> None:
    """Have memory that is freed go back to the system, as far as blocks of a megabyte are meant.

    glibc learns to keep larger and larger blocks, for each thread: after pictures of 45 megapixels
    sixteen threads kept 1.3 GB that nobody used.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def _cgroups_of_this_process(root: Path) -> Iterator[_Cgroup]:
    """Version 2, or the memory controller of version 1; in a container the path that the kernel
    tells may not be there, but its root is.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no such thing on this system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root / "sys/fs/cgroup"
            limit, usage, inactive = "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            inactive = "total_inactive_file"
        else:
            continue
        here = top / path.lstrip("/")
        for folder in (here, *here.parents):
            limit_bytes = _limit_bytes(folder / limit)
            if limit_bytes is not None:
                yield _Cgroup(folder, limit_bytes, usage, inactive)
            if folder == top:
                break


def _limit_bytes(file: Path) -> int | None:
    try:
        value = file.read_text().strip()
    except OSError:
        return None
    return int(value) if value != "max" and int(value) < _UNLIMITED_BYTES else None
