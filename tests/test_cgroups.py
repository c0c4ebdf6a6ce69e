"""Test how many cores a container leaves to a process. If these break, a plan starts more processes
than it may use, or only one where there are many cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from ace_tasks.cgroups import core_limit


def group(root: Path, line: str, files: dict[str, str]) -> Path:
    """Write what the kernel states of a process's groups."""
    for name, text in {"proc/self/cgroup": line, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


V2 = "0::/pod/container"
V1 = "4:memory:/pod\n3:cpu,cpuacct:/pod"
CASES: dict[str, tuple[str, dict[str, str], float]] = {
    "version 2": (V2, {"sys/fs/cgroup/pod/container/cpu.max": "150000 100000"}, 1.5),
    "none of its own": (V2, {"sys/fs/cgroup/pod/container/cpu.max": "max 100000"}, float("inf")),
    "that of a group above": (
        V2,
        {
            "sys/fs/cgroup/pod/container/cpu.max": "400000 100000",
            "sys/fs/cgroup/pod/cpu.max": "200000 100000",
        },
        2,
    ),
    "inside a container": (V2, {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
    "version 1": (
        V1,
        {
            "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "none of version 1": (
        V1,
        {
            "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000",
        },
        float("inf"),
    ),
    "something unknown": (V2, {"sys/fs/cgroup/pod/container/cpu.max": "much"}, float("inf")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_smallest_limit_counts(tmp_path: Path, case: str) -> None:
    line, files, expected = CASES[case]
    assert core_limit(group(tmp_path, line, files)) == expected


def test_a_system_without_groups_sets_no_limit(tmp_path: Path) -> None:
    assert core_limit(tmp_path) == float("inf")
