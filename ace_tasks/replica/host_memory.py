"""The memory that a process may use: its node's, or its container's if that is less."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import psutil

_M_MMAP_THRESHOLD = -3  # from malloc.h
_UNLIMITED_BYTES = 2**60  # without a limit cgroup v1 gives a number near 2^63


def limit_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may use: its node's, or its container's limit."""
    return int(min([psutil.virtual_memory().total, *_cgroup_limits(root)]))


def return_large_blocks() -> None:
    """Make freed blocks of a megabyte or more go back to the system.

    glibc learns to keep larger and larger blocks, for each thread: after pictures of 45 megapixels
    sixteen threads kept 1.3 GB that nobody used.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of cgroup version 2, or of version 1's memory controller.

    In a container the path that the kernel states may not exist, but its root does.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no cgroups on this system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        here = top / path.lstrip("/")
        for folder in (here, *here.parents):
            limit_bytes = _limit_bytes(folder / name)
            if limit_bytes is not None:
                yield limit_bytes
            if folder == top:
                break


def _limit_bytes(file: Path) -> int | None:
    try:
        value = file.read_text().strip()
    except OSError:
        return None
    return int(value) if value != "max" and int(value) < _UNLIMITED_BYTES else None
