"""The limits that control groups put on this process, such as those of a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def limit_files(
    controller: str, name_v2: str, name_v1: str, root: Path = Path("/")
) -> Iterator[Path]:
    """Yield the files of a limit, of this process's group and of all above it, as far as they exist.

    Their names are those of version 2 and of version 1's `controller`. In a container the path
    that the kernel states may not exist, but its root does.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no cgroups on this system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root / "sys/fs/cgroup", name_v2
        elif controller in controllers.split(","):
            top, name = root / "sys/fs/cgroup" / controller, name_v1
        else:
            continue
        here = top / path.lstrip("/")
        for folder in (here, *here.parents):
            if (folder / name).is_file():
                yield folder / name
            if folder == top:
                break


def core_limit(root: Path = Path("/")) -> float:
    """Return how many cores control groups leave to this process. Infinity: they set no limit."""
    limits = [float("inf")]
    for file in limit_files("cpu", "cpu.max", "cpu.cfs_quota_us", root):
        try:
            quota, *period = file.read_text().split()
            if not period:  # version 1 has it in a file beside it
                period = [file.with_name("cpu.cfs_period_us").read_text()]
            if quota != "max" and int(quota) > 0:
                limits.append(int(quota) / int(period[0]))
        except (OSError, ValueError):
            continue
    return min(limits)
