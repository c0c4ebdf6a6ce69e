"""The memory that a process may use: its node's, or its container's if that is less."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import psutil

from ace_tasks.cgroups import limit_files

_M_MMAP_THRESHOLD = -3  # from malloc.h
_UNLIMITED_BYTES = 2**60  # without a limit cgroup v1 gives a number near 2^63


def limit_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may use: its node's, or its container's limit."""
    files = limit_files("memory", "memory.max", "memory.limit_in_bytes", root)
    limits = [limit for limit in map(_limit_bytes, files) if limit is not None]
    return int(min([psutil.virtual_memory().total, *limits]))


def return_large_blocks() -> None:
    """Make freed blocks of a megabyte or more go back to the system.

    glibc learns to keep larger and larger blocks, for each thread: after pictures of 45 megapixels
    sixteen threads kept 1.3 GB that nobody used.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def _limit_bytes(file: Path) -> int | None:
    try:
        value = file.read_text().strip()
    except OSError:
        return None
    return int(value) if value != "max" and int(value) < _UNLIMITED_BYTES else None
